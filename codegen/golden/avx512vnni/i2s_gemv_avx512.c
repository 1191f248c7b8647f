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
// linear stream, prefetched 8192 bytes ahead.
// Rendered from templates/i2s_gemv_avx512.c for avx512vnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__avx512vnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

#include <immintrin.h>

static inline void rows_2(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t cols,
                          int32_t *restrict y) {
    const __m512i upper = _mm512_inserti64x4(_mm512_set1_epi8(0x30), _mm256_set1_epi8((char)0xc0), 0);
    const __m512i lower = _mm512_inserti64x4(_mm512_set1_epi8(0x03), _mm256_set1_epi8(0x0c), 0);
    const __m512i upper_shift = _mm512_inserti64x4(_mm512_set1_epi32(4), _mm256_set1_epi32(6), 0);
    const __m512i lower_shift = _mm512_inserti64x4(_mm512_set1_epi32(0), _mm256_set1_epi32(2), 0);
    __m512i upper_0 = _mm512_setzero_si512(), lower_0 = _mm512_setzero_si512();
    __m512i upper_1 = _mm512_setzero_si512(), lower_1 = _mm512_setzero_si512();
    for (size_t b = 0; b < cols / 128; b++, w += 32, x += 128) {
        const __m512i x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
        __builtin_prefetch(w + 0 * (cols / 4) + 8192);
        const __m512i v0 = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(w + 0 * (cols / 4))));
        upper_0 = _mm512_dpbusd_epi32(upper_0, _mm512_and_si512(v0, upper), x0);
        lower_0 = _mm512_dpbusd_epi32(lower_0, _mm512_and_si512(v0, lower), x1);
        __builtin_prefetch(w + 1 * (cols / 4) + 8192);
        const __m512i v1 = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(w + 1 * (cols / 4))));
        upper_1 = _mm512_dpbusd_epi32(upper_1, _mm512_and_si512(v1, upper), x0);
        lower_1 = _mm512_dpbusd_epi32(lower_1, _mm512_and_si512(v1, lower), x1);
    }
    y[0] = _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_srav_epi32(upper_0, upper_shift),
                                                   _mm512_srav_epi32(lower_0, lower_shift))) - x_sum;
    y[1] = _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_srav_epi32(upper_1, upper_shift),
                                                   _mm512_srav_epi32(lower_1, lower_shift))) - x_sum;
}

static inline void rows_1(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t cols,
                          int32_t *restrict y) {
    const __m512i upper = _mm512_inserti64x4(_mm512_set1_epi8(0x30), _mm256_set1_epi8((char)0xc0), 0);
    const __m512i lower = _mm512_inserti64x4(_mm512_set1_epi8(0x03), _mm256_set1_epi8(0x0c), 0);
    const __m512i upper_shift = _mm512_inserti64x4(_mm512_set1_epi32(4), _mm256_set1_epi32(6), 0);
    const __m512i lower_shift = _mm512_inserti64x4(_mm512_set1_epi32(0), _mm256_set1_epi32(2), 0);
    __m512i upper_0 = _mm512_setzero_si512(), lower_0 = _mm512_setzero_si512();
    for (size_t b = 0; b < cols / 128; b++, w += 32, x += 128) {
        const __m512i x0 = _mm512_loadu_si512(x), x1 = _mm512_loadu_si512(x + 64);
        __builtin_prefetch(w + 0 * (cols / 4) + 8192);
        const __m512i v0 = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(w + 0 * (cols / 4))));
        upper_0 = _mm512_dpbusd_epi32(upper_0, _mm512_and_si512(v0, upper), x0);
        lower_0 = _mm512_dpbusd_epi32(lower_0, _mm512_and_si512(v0, lower), x1);
    }
    y[0] = _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_srav_epi32(upper_0, upper_shift),
                                                   _mm512_srav_epi32(lower_0, lower_shift))) - x_sum;
}

void sterna_i2s_gemv__avx512vnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                                 size_t cols, int32_t *restrict y) {
    size_t r = 0;
    for (; r + 2 <= rows; r += 2) {
        rows_2(w + r * (cols / 4), x, x_sum, cols, y + r);
    }
    if (r < rows) {
        rows_1(w + r * (cols / 4), x, x_sum, cols, y + r);
    }
}
