// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX-VNNI.
//
// Layout as in i2s_gemv_portable.c; the four fields of a 32-byte block are four runs of 32 consecutive weights. They
// are masked, not shifted: every field has a sum of its own, larger by its factor, which is shifted out once a row, exactly.
//
//   field              0 (bit 6)   1 (bit 4)   2 (bit 2)   3 (bit 0)
//   factor on the code    64          16           4           1
//
// vpdpbusd adds code * factor * x over 4 bytes into i32. Overflow: 4 * 192 * 128 a block and lane; the renderer bounds cols.
// Rendered from templates/i2s_gemv_avxvnni.c for avxvnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__avxvnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);
void sterna_i2s_gated__avxvnni(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

#include <immintrin.h>

// Sum of eight i32 lanes.
static inline int32_t fold(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

// acc += the sums of four products of codes (u8) and activations (i8), in every i32 lane; in place, as in avx512.h.
// Compiled with -mavx512vnni -mavx512vl in place of -mavxvnni, the same text is the same instruction in its other
// encoding: that is how kernels over this header are checked by hand where there is AVX-512 and no AVX-VNNI.
#ifdef __AVXVNNI__
#define DPBUSD(acc, codes, x) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(x))
#else
#define DPBUSD(acc, codes, x) __asm__("vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(x))
#endif

// Both kernels over I2_S and one vector, from `row`: the sum over c of code(c) * x[c] of one row. Unless `ahead` is NULL, it asks for the lines from
// there on as it reads those from `w` on. Prefetches beyond a matrix are harmless: they never fault.
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks);

// One row after the other: a thread reads its share of W as one linear stream, prefetched 2048 bytes ahead. Two rows
// at once would share the loads of x, but are two streams, and half as fast from memory (measured with AVX-512).
void sterna_i2s_gemv__avxvnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                           int32_t *restrict y) {
    for (size_t r = 0; r < rows; r++, w += cols / 4)
        y[r] = row(w, w + 2048, x, cols / 128) - x_sum;
}

// y[r] = 0 where gate[r] <= 0, and as above elsewhere: rows under a closed gate are not read.
//
// Memory is read by leaps, which the hardware does not foresee: each row asks for the one AHEAD of it in the list. The first ones of a list are
// waited for. Measured with AVX2 on Zen 3, rows of 640 bytes, 70 % closed, as parts of the time that the re-packed matrix takes: 0.73 with 2 ahead
// and 0.88 with 1; 3 to 6 as 2.
void sterna_i2s_gated__avxvnni(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows,
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
    const __m256i mask0 = _mm256_set1_epi8((char)0xc0);
    const __m256i mask1 = _mm256_set1_epi8(0x30);
    const __m256i mask2 = _mm256_set1_epi8(0x0c);
    const __m256i mask3 = _mm256_set1_epi8(0x03);
    // Two blocks in turn: a chain of accumulations is half as long as the row.
    __m256i a0 = _mm256_setzero_si256(), b0 = a0, a1 = _mm256_setzero_si256(), b1 = a1, a2 = _mm256_setzero_si256(), b2 = a2, a3 = _mm256_setzero_si256(), b3 = a3;
    size_t b = 0;
    for (; b + 2 <= blocks; b += 2, x += 256) {
        if (ahead)
            __builtin_prefetch(ahead + 32 * b);
        const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * b)), u = _mm256_loadu_si256((const __m256i *)(w + 32 * b + 32));
        DPBUSD(a0, _mm256_and_si256(v, mask0), _mm256_loadu_si256((const __m256i *)(x + 0)));
        DPBUSD(b0, _mm256_and_si256(u, mask0), _mm256_loadu_si256((const __m256i *)(x + 128)));
        DPBUSD(a1, _mm256_and_si256(v, mask1), _mm256_loadu_si256((const __m256i *)(x + 32)));
        DPBUSD(b1, _mm256_and_si256(u, mask1), _mm256_loadu_si256((const __m256i *)(x + 160)));
        DPBUSD(a2, _mm256_and_si256(v, mask2), _mm256_loadu_si256((const __m256i *)(x + 64)));
        DPBUSD(b2, _mm256_and_si256(u, mask2), _mm256_loadu_si256((const __m256i *)(x + 192)));
        DPBUSD(a3, _mm256_and_si256(v, mask3), _mm256_loadu_si256((const __m256i *)(x + 96)));
        DPBUSD(b3, _mm256_and_si256(u, mask3), _mm256_loadu_si256((const __m256i *)(x + 224)));
    }
    if (b < blocks) {
        if (ahead)
            __builtin_prefetch(ahead + 32 * b);
        const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * b));
        DPBUSD(a0, _mm256_and_si256(v, mask0), _mm256_loadu_si256((const __m256i *)(x + 0)));
        DPBUSD(a1, _mm256_and_si256(v, mask1), _mm256_loadu_si256((const __m256i *)(x + 32)));
        DPBUSD(a2, _mm256_and_si256(v, mask2), _mm256_loadu_si256((const __m256i *)(x + 64)));
        DPBUSD(a3, _mm256_and_si256(v, mask3), _mm256_loadu_si256((const __m256i *)(x + 96)));
    }
    const __m256i s0 = _mm256_srai_epi32(_mm256_add_epi32(a0, b0), 6);
    const __m256i s1 = _mm256_srai_epi32(_mm256_add_epi32(a1, b1), 4);
    const __m256i s2 = _mm256_srai_epi32(_mm256_add_epi32(a2, b2), 2);
    const __m256i s3 = _mm256_add_epi32(a3, b3);
    return fold(_mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3)));
}
