// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX-512 without VNNI.
//
// Layout as in i2s_gemv_portable.c. A 32-byte block is broadcast to both halves of a zmm and shifted, so that each half
// keeps another field: 64 consecutive weights in their natural order, 0 .. 63 in `upper`, 64 .. 127 in `lower`.
//
//   vpmaddubsw         32 lanes of code * x + code * x    i16
//   vpmaddwd with 1    16 lanes                           i32, every {{ widen_blocks }} blocks
//
// Overflow: |code * x| <= 3 * 128, two products a register and lane: {{ widen_blocks }} blocks stay in i16.
{% include "prelude.h" %}
{% include "avx512.h" %}
{% include "i2s_rows.h" %}
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks) {
    const __m512i three = _mm512_set1_epi8(3), one = _mm512_set1_epi16(1);
    const __m512i upper_shift = halves(6, 4), lower_shift = halves(2, 0);
    __m512i sum = _mm512_setzero_si512();
    for (size_t b = 0; b < blocks;) {
        const size_t end = blocks - b < {{ widen_blocks }} ? blocks : b + {{ widen_blocks }};
        __m512i acc0 = _mm512_setzero_si512(), acc1 = acc0;
        for (; b < end; b++, x += 128) {
            if (ahead)
                __builtin_prefetch(ahead + 32 * b);
            const __m512i v = block(w + 32 * b);
            const __m512i upper = _mm512_and_si512(_mm512_srlv_epi32(v, upper_shift), three);
            const __m512i lower = _mm512_and_si512(_mm512_srlv_epi32(v, lower_shift), three);
            acc0 = _mm512_add_epi16(acc0, _mm512_maddubs_epi16(upper, _mm512_loadu_si512(x)));
            acc1 = _mm512_add_epi16(acc1, _mm512_maddubs_epi16(lower, _mm512_loadu_si512(x + 64)));
        }
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(acc0, one));
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(acc1, one));
    }
    return _mm512_reduce_add_epi32(sum);
}
