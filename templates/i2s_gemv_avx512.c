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
// Two rows share the loads of the activations; they are neighbours in the file, so the thread still reads one
// linear stream, prefetched {{ prefetch_bytes }} bytes ahead.
{% include "prelude.h" %}
#include <immintrin.h>
{% for rows in [2, 1] %}
static inline void rows_{{ rows }}(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t cols,
                          int32_t *restrict y) {
    const __m512i upper = _mm512_inserti64x4(_mm512_set1_epi8(0x30), _mm256_set1_epi8((char)0xc0), 0);
    const __m512i lower = _mm512_inserti64x4(_mm512_set1_epi8(0x03), _mm256_set1_epi8(0x0c), 0);
    const __m512i upper_shift = _mm512_inserti64x4(_mm512_set1_epi32(4), _mm256_set1_epi32(6), 0);
    const __m512i lower_shift = _mm512_inserti64x4(_mm512_set1_epi32(0), _mm256_set1_epi32(2), 0);
{%- for r in range(end=rows) %}
    __m512i upper_{{ r }} = _mm512_setzero_si512(), lower_{{ r }} = _mm512_setzero_si512();
{%- endfor %}
    for (size_t b = 0; b < cols / 128; b++, w += 32, x += 128) {
        const __m512i x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
{%- for r in range(end=rows) %}
        __builtin_prefetch(w + {{ r }} * (cols / 4) + {{ prefetch_bytes }});
        const __m512i v{{ r }} = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(w + {{ r }} * (cols / 4))));
        upper_{{ r }} = _mm512_dpbusd_epi32(upper_{{ r }}, _mm512_and_si512(v{{ r }}, upper), x0);
        lower_{{ r }} = _mm512_dpbusd_epi32(lower_{{ r }}, _mm512_and_si512(v{{ r }}, lower), x1);
{%- endfor %}
    }
{%- for r in range(end=rows) %}
    y[{{ r }}] = _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_srav_epi32(upper_{{ r }}, upper_shift),
                                                   _mm512_srav_epi32(lower_{{ r }}, lower_shift))) - x_sum;
{%- endfor %}
}
{% endfor %}
void sterna_i2s_gemv__{{ isa }}(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                                 size_t cols, int32_t *restrict y) {
    size_t r = 0;
    for (; r + 2 <= rows; r += 2) {
        rows_2(w + r * (cols / 4), x, x_sum, cols, y + r);
    }
    if (r < rows) {
        rows_1(w + r * (cols / 4), x, x_sum, cols, y + r);
    }
}
