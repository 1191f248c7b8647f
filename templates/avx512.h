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
