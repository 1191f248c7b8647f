// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX2.
//
// Layout as in i2s_gemv_portable.c: the four fields of a 32-byte block are four runs of 32 consecutive weights, so
// activations are read in their natural order.
//
//   bytes of a block   [ w0 | w32 | w64 | w96 ] x 32      >> 6, 4, 2, 0 and & 3 -> 32 codes (u8)
//   vpmaddubsw         16 lanes of code * x + code * x    i16
//   vpmaddwd with 1    8 lanes                            i32, every {{ widen_blocks }} blocks
//
// Overflow: |code * x| <= 3 * 128, two products and four fields a block: {{ widen_blocks }} blocks stay in i16.
{% include "prelude.h" %}
{% include "avx2.h" %}
{% include "i2s_rows.h" %}
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks) {
    const __m256i three = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (size_t b = 0; b < blocks;) {
        const size_t end = blocks - b < {{ widen_blocks }} ? blocks : b + {{ widen_blocks }};
        __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
        for (; b < end; b++, x += 128) {
            if (ahead)
                __builtin_prefetch(ahead + 32 * b);
            const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * b));
{%- for field in range(end=4) %}
            const __m256i c{{ field }} = _mm256_and_si256({% if field < 3 %}_mm256_srli_epi16(v, {{ 6 - 2 * field }}){% else %}v{% endif %}, three);
            const __m256i p{{ field }} = _mm256_maddubs_epi16(c{{ field }}, _mm256_loadu_si256((const __m256i *)(x + {{ 32 * field }})));
{%- endfor %}
            even = _mm256_add_epi16(even, _mm256_add_epi16(p0, p2));
            odd = _mm256_add_epi16(odd, _mm256_add_epi16(p1, p3));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, one));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(odd, one));
    }
    return fold(sum);
}
