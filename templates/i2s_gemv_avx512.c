// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX-512 VNNI.
//
// Layout as in i2s_gemv_portable.c. A 32-byte block is broadcast to both halves of a zmm and masked so that each
// half keeps another field, unshifted: 64 consecutive weights in their natural order.
//
//   half       low 256 bits     high 256 bits    factor on the code   weights
//   & upper    field at bit 6   field at bit 4   64 | 16               0 ..  63
//   & lower    field at bit 2   field at bit 0    4 |  1              64 .. 127
//
// vpdpbusd adds code * factor * x over 4 bytes into i32; the factor, the same for all sums of a lane, is shifted
// out once a row, exactly. Overflow: 4 * 192 * 128 a block and lane; the renderer bounds cols.
{% include "prelude.h" %}
{% include "avx512.h" %}
{% include "i2s_rows.h" %}
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks) {
    const __m512i upper = halves((int)0xc0c0c0c0, 0x30303030), lower = halves(0x0c0c0c0c, 0x03030303);
    const __m512i upper_shift = halves(6, 4), lower_shift = halves(2, 0);
    // Two blocks in turn: a chain of accumulations is half as long as the row.
    __m512i upper_0 = _mm512_setzero_si512(), lower_0 = upper_0, upper_1 = upper_0, lower_1 = upper_0;
    size_t b = 0;
    for (; b + 2 <= blocks; b += 2, x += 256) {
        if (ahead)
            __builtin_prefetch(ahead + 32 * b);
        const __m512i v0 = block(w + 32 * b), v1 = block(w + 32 * b + 32);
        DPBUSD(upper_0, _mm512_and_si512(v0, upper), _mm512_loadu_si512(x));
        DPBUSD(lower_0, _mm512_and_si512(v0, lower), _mm512_loadu_si512(x + 64));
        DPBUSD(upper_1, _mm512_and_si512(v1, upper), _mm512_loadu_si512(x + 128));
        DPBUSD(lower_1, _mm512_and_si512(v1, lower), _mm512_loadu_si512(x + 192));
    }
    if (b < blocks) {
        if (ahead)
            __builtin_prefetch(ahead + 32 * b);
        const __m512i v0 = block(w + 32 * b);
        DPBUSD(upper_0, _mm512_and_si512(v0, upper), _mm512_loadu_si512(x));
        DPBUSD(lower_0, _mm512_and_si512(v0, lower), _mm512_loadu_si512(x + 64));
    }
    const __m512i scaled_upper = _mm512_add_epi32(upper_0, upper_1), scaled_lower = _mm512_add_epi32(lower_0, lower_1);
    return _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_srav_epi32(scaled_upper, upper_shift), _mm512_srav_epi32(scaled_lower, lower_shift)));
}
