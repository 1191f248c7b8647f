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
// Rendered from templates/i2s_gemv_avx512.c for avx512vnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__avx512vnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);
void sterna_i2s_gated__avx512vnni(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

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

// Both kernels over I2_S and one vector, from `row`: the sum over c of code(c) * x[c] of one row. Unless `ahead` is NULL, it asks for the lines from
// there on as it reads those from `w` on. Prefetches beyond a matrix are harmless: they never fault.
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks);

// One row after the other: a thread reads its share of W as one linear stream, prefetched 256 bytes ahead. Two rows
// at once would share the loads of x, but are two streams, and half as fast from memory (measured with AVX-512).
void sterna_i2s_gemv__avx512vnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                           int32_t *restrict y) {
    for (size_t r = 0; r < rows; r++, w += cols / 4)
        y[r] = row(w, w + 256, x, cols / 128) - x_sum;
}

// y[r] = 0 where gate[r] <= 0, and as above elsewhere: rows under a closed gate are not read.
//
// Memory is read by leaps, which the hardware does not foresee: each row asks for the one AHEAD of it in the list. The first ones of a list are
// waited for. Measured with AVX2 on Zen 3, rows of 640 bytes, 70 % closed, as parts of the time that the re-packed matrix takes: 0.73 with 2 ahead
// and 0.88 with 1; 3 to 6 as 2.
void sterna_i2s_gated__avx512vnni(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows,
                            size_t cols, int32_t *restrict y) {
    enum { CHUNK = 2048, AHEAD = 2 };
    int32_t open[CHUNK + AHEAD];
    for (size_t first = 0; first < rows; first += CHUNK, w += CHUNK * (cols / 4)) {
        const size_t m = rows - first < CHUNK ? rows - first : CHUNK;
        size_t n = 0;
        for (size_t r = 0; r < m; r++) {
            y[first + r] = 0;
            open[n] = (int32_t)r;
            // What is not a number is open: it stays one.
            n += !(gate[first + r] <= 0);
        }
        // Behind the last row that one again: it costs no memory.
        for (size_t i = 0; i < AHEAD; i++)
            open[n + i] = n ? open[n - 1] : 0;
        for (size_t i = 0; i < n; i++)
            y[first + open[i]] = row(w + open[i] * (cols / 4), w + open[i + AHEAD] * (cols / 4), x, cols / 128) - x_sum;
    }
}

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
