// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX-512 without VNNI.
//
// Layout as in i2s_gemv_portable.c. A 32-byte block is broadcast to both halves of a zmm and shifted, so that each half
// keeps another field: 64 consecutive weights in their natural order, 0 .. 63 in `upper`, 64 .. 127 in `lower`.
//
//   vpmaddubsw         32 lanes of code * x + code * x    i16
//   vpmaddwd with 1    16 lanes                           i32, every 21 blocks
//
// Overflow: |code * x| <= 3 * 128, two products a register and lane: 21 blocks stay in i16.
// One row after the other, as one linear stream, prefetched 256 bytes ahead.
// Rendered from templates/i2s_gemv_avx512bw.c for avx512: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__avx512(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

#include <immintrin.h>

// acc += the sums of four products of codes (u8) and activations (i8), in every i32 lane. The instruction updates its
// accumulator in place; written with the intrinsic, gcc copies every accumulator of a loop to another register, or to
// the stack when there are many (gcc 12: twice the instructions in the GEMV, 24 spills a step in the GEMM).
#define DPBUSD(acc, codes, x) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(x))

// Shifts and masks that spread a 32-byte block of weights, broadcast to both halves, over two registers.
static inline __m512i halves(int low, int high) {
    return _mm512_inserti64x4(_mm512_set1_epi32(high), _mm256_set1_epi32(low), 0);
}

static inline __m512i block(const uint8_t *w) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)w));
}


void sterna_i2s_gemv__avx512(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                             size_t cols, int32_t *restrict y) {
    const __m512i three = _mm512_set1_epi8(3), one = _mm512_set1_epi16(1);
    const __m512i upper_shift = halves(6, 4), lower_shift = halves(2, 0);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r++) {
        const int8_t *xb = x;
        __m512i sum = _mm512_setzero_si512();
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 21 ? blocks : b + 21;
            __m512i acc0 = _mm512_setzero_si512(), acc1 = acc0;
            for (; b < end; b++, w += 32, xb += 128) {
                __builtin_prefetch(w + 256);
                const __m512i v = block(w);
                const __m512i upper = _mm512_and_si512(_mm512_srlv_epi32(v, upper_shift), three);
                const __m512i lower = _mm512_and_si512(_mm512_srlv_epi32(v, lower_shift), three);
                acc0 = _mm512_add_epi16(acc0, _mm512_maddubs_epi16(upper, _mm512_loadu_si512(xb)));
                acc1 = _mm512_add_epi16(acc1, _mm512_maddubs_epi16(lower, _mm512_loadu_si512(xb + 64)));
            }
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(acc0, one));
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(acc1, one));
        }
        y[r] = _mm512_reduce_add_epi32(sum) - x_sum;
    }
}
