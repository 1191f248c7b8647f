// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX2.
//
// Layout as in i2s_gemv_portable.c: the four fields of a 32-byte block are four runs of 32 consecutive weights, so
// activations are read in their natural order.
//
//   bytes of a block   [ w0 | w32 | w64 | w96 ] x 32      >> 6, 4, 2, 0 and & 3 -> 32 codes (u8)
//   vpmaddubsw         16 lanes of code * x + code * x    i16
//   vpmaddwd with 1    8 lanes                            i32, every 10 blocks
//
// Overflow: |code * x| <= 3 * 128, two products and four fields a block: 10 blocks stay in i16.
// Rendered from templates/i2s_gemv_avx2.c for avx2: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__avx2(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);
void sterna_i2s_gated__avx2(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

#include <immintrin.h>

// Sum of eight i32 lanes.
static inline int32_t fold(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

// Both kernels over I2_S and one vector, from `row`: the sum over c of code(c) * x[c] of one row. Unless `ahead` is NULL, it asks for the lines from
// there on as it reads those from `w` on. Prefetches beyond a matrix are harmless: they never fault.
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks);

// One row after the other: a thread reads its share of W as one linear stream, prefetched 2048 bytes ahead. Two rows
// at once would share the loads of x, but are two streams, and half as fast from memory (measured with AVX-512).
void sterna_i2s_gemv__avx2(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                           int32_t *restrict y) {
    for (size_t r = 0; r < rows; r++, w += cols / 4)
        y[r] = row(w, w + 2048, x, cols / 128) - x_sum;
}

// y[r] = 0 where gate[r] <= 0, and as above elsewhere: rows under a closed gate are not read.
//
// Memory is read by leaps, which the hardware does not foresee: each row asks for the one AHEAD of it in the list. The first ones of a list are
// waited for. Measured with AVX2 on Zen 3, rows of 640 bytes, 70 % closed, as parts of the time that the re-packed matrix takes: 0.73 with 2 ahead
// and 0.88 with 1; 3 to 6 as 2.
void sterna_i2s_gated__avx2(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows,
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
    const __m256i three = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (size_t b = 0; b < blocks;) {
        const size_t end = blocks - b < 10 ? blocks : b + 10;
        __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();
        for (; b < end; b++, x += 128) {
            if (ahead)
                __builtin_prefetch(ahead + 32 * b);
            const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * b));
            const __m256i c0 = _mm256_and_si256(_mm256_srli_epi16(v, 6), three);
            const __m256i p0 = _mm256_maddubs_epi16(c0, _mm256_loadu_si256((const __m256i *)(x + 0)));
            const __m256i c1 = _mm256_and_si256(_mm256_srli_epi16(v, 4), three);
            const __m256i p1 = _mm256_maddubs_epi16(c1, _mm256_loadu_si256((const __m256i *)(x + 32)));
            const __m256i c2 = _mm256_and_si256(_mm256_srli_epi16(v, 2), three);
            const __m256i p2 = _mm256_maddubs_epi16(c2, _mm256_loadu_si256((const __m256i *)(x + 64)));
            const __m256i c3 = _mm256_and_si256(v, three);
            const __m256i p3 = _mm256_maddubs_epi16(c3, _mm256_loadu_si256((const __m256i *)(x + 96)));
            even = _mm256_add_epi16(even, _mm256_add_epi16(p0, p2));
            odd = _mm256_add_epi16(odd, _mm256_add_epi16(p1, p3));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, one));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(odd, one));
    }
    return fold(sum);
}
