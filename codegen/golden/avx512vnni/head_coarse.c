// y[t * y_stride + r] = sum over c of w(r, c) * x(t, c): the coarse output head, int8 x int16, exactly.
//
// W (rows, cols) row-major, cols % 64 == 0; x (tokens, cols).
// Overflow: the caller sees to sum over c of |x(t, c)| < 2^24, so that no sum of products with int8, of any of the columns in any order,
// leaves i32. Nothing is widened on the way, and every ISA may add as it likes.
//
// One token: row after row, one linear stream, prefetched 2048 bytes ahead.
// Several: tiles of 4 rows, so that a row is widened once for all tokens of the tile, and the tokens, which do not fit in L1d together, are
// read once for four rows. The next four rows are prefetched meanwhile, a little in every step, and to L2, where they push no token out:
// measured on Zen 4 with 8 tokens, 12 GB/s against 8 with a prefetch to L1d, and against 7 with one in the first tile only.
// Rendered from templates/head_coarse.c for avx512vnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_head_coarse__avx512vnni(const int8_t *restrict w, const int16_t *restrict x, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);

#include <immintrin.h>

// Per register width: `load` of int16, `widen` as many int8 to int16, `mac`: acc + products, added up to int32 lanes, `sum` of the lanes.

static inline int32_t sum_128(__m128i v) {
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

typedef __m256i words_256, sums_256;
#define ZERO_256 _mm256_setzero_si256()

static inline words_256 load_256(const int16_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline words_256 widen_256(const int8_t *p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}

static inline sums_256 mac_256(sums_256 acc, words_256 w, words_256 x) {
    return _mm256_dpwssd_epi32(acc, w, x);
}

static inline sums_256 add_256(sums_256 a, sums_256 b) {
    return _mm256_add_epi32(a, b);
}

static inline int32_t sum_256(sums_256 v) {
    return sum_128(_mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

typedef __m512i words_512, sums_512;
#define ZERO_512 _mm512_setzero_si512()

static inline words_512 load_512(const int16_t *p) {
    return _mm512_loadu_si512(p);
}

static inline words_512 widen_512(const int8_t *p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

static inline int32_t sum_512(sums_512 v) {
    return sum_256(_mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
}

// In registers of 256 bits: as fast from memory as reading alone on Zen 4, where 512 bits take a third longer.
static int32_t row(const int8_t *restrict w, const int16_t *restrict x, size_t cols) {
    sums_256 s0 = ZERO_256, s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < cols; c += 64, w += 64, x += 64) {
        __builtin_prefetch(w + 2048);
        s0 = mac_256(s0, widen_256(w + 0), load_256(x + 0));
        s1 = mac_256(s1, widen_256(w + 16), load_256(x + 16));
        s2 = mac_256(s2, widen_256(w + 32), load_256(x + 32));
        s3 = mac_256(s3, widen_256(w + 48), load_256(x + 48));
    }
    return sum_256(add_256(add_256(s0, s1), add_256(s2, s3)));
}

// acc = mac(acc, w, x), in place: among the many accumulators of a tile, gcc copies with the intrinsic.
#define MAC(acc, w, x) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))

// 4 rows x 1 tokens. The lines from `next` on are prefetched, 1 / `all` of 4 rows of them.
static void tile_1(const int8_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const int8_t *next, size_t all) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    const size_t step = 4 * 1 * 32 / all;
    for (size_t c = 0; c < cols; c += 32, next += step) {
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        const words_512 w0 = widen_512(w + 0 * cols + c);
        const words_512 w1 = widen_512(w + 1 * cols + c);
        const words_512 w2 = widen_512(w + 2 * cols + c);
        const words_512 w3 = widen_512(w + 3 * cols + c);
        const words_512 x0 = load_512(x + 0 * cols + c);
        MAC(s00, w0, x0);
        MAC(s10, w1, x0);
        MAC(s20, w2, x0);
        MAC(s30, w3, x0);
    }
    y[0 * y_stride + 0] = sum_512(s00);
    y[0 * y_stride + 1] = sum_512(s10);
    y[0 * y_stride + 2] = sum_512(s20);
    y[0 * y_stride + 3] = sum_512(s30);
}

// 4 rows x 2 tokens. The lines from `next` on are prefetched, 2 / `all` of 4 rows of them.
static void tile_2(const int8_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const int8_t *next, size_t all) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    sums_512 s01 = ZERO_512, s11 = ZERO_512, s21 = ZERO_512, s31 = ZERO_512;
    const size_t step = 4 * 2 * 32 / all;
    for (size_t c = 0; c < cols; c += 32, next += step) {
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        const words_512 w0 = widen_512(w + 0 * cols + c);
        const words_512 w1 = widen_512(w + 1 * cols + c);
        const words_512 w2 = widen_512(w + 2 * cols + c);
        const words_512 w3 = widen_512(w + 3 * cols + c);
        const words_512 x0 = load_512(x + 0 * cols + c);
        MAC(s00, w0, x0);
        MAC(s10, w1, x0);
        MAC(s20, w2, x0);
        MAC(s30, w3, x0);
        const words_512 x1 = load_512(x + 1 * cols + c);
        MAC(s01, w0, x1);
        MAC(s11, w1, x1);
        MAC(s21, w2, x1);
        MAC(s31, w3, x1);
    }
    y[0 * y_stride + 0] = sum_512(s00);
    y[0 * y_stride + 1] = sum_512(s10);
    y[0 * y_stride + 2] = sum_512(s20);
    y[0 * y_stride + 3] = sum_512(s30);
    y[1 * y_stride + 0] = sum_512(s01);
    y[1 * y_stride + 1] = sum_512(s11);
    y[1 * y_stride + 2] = sum_512(s21);
    y[1 * y_stride + 3] = sum_512(s31);
}

// 4 rows x 3 tokens. The lines from `next` on are prefetched, 3 / `all` of 4 rows of them.
static void tile_3(const int8_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const int8_t *next, size_t all) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    sums_512 s01 = ZERO_512, s11 = ZERO_512, s21 = ZERO_512, s31 = ZERO_512;
    sums_512 s02 = ZERO_512, s12 = ZERO_512, s22 = ZERO_512, s32 = ZERO_512;
    const size_t step = 4 * 3 * 32 / all;
    for (size_t c = 0; c < cols; c += 32, next += step) {
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        const words_512 w0 = widen_512(w + 0 * cols + c);
        const words_512 w1 = widen_512(w + 1 * cols + c);
        const words_512 w2 = widen_512(w + 2 * cols + c);
        const words_512 w3 = widen_512(w + 3 * cols + c);
        const words_512 x0 = load_512(x + 0 * cols + c);
        MAC(s00, w0, x0);
        MAC(s10, w1, x0);
        MAC(s20, w2, x0);
        MAC(s30, w3, x0);
        const words_512 x1 = load_512(x + 1 * cols + c);
        MAC(s01, w0, x1);
        MAC(s11, w1, x1);
        MAC(s21, w2, x1);
        MAC(s31, w3, x1);
        const words_512 x2 = load_512(x + 2 * cols + c);
        MAC(s02, w0, x2);
        MAC(s12, w1, x2);
        MAC(s22, w2, x2);
        MAC(s32, w3, x2);
    }
    y[0 * y_stride + 0] = sum_512(s00);
    y[0 * y_stride + 1] = sum_512(s10);
    y[0 * y_stride + 2] = sum_512(s20);
    y[0 * y_stride + 3] = sum_512(s30);
    y[1 * y_stride + 0] = sum_512(s01);
    y[1 * y_stride + 1] = sum_512(s11);
    y[1 * y_stride + 2] = sum_512(s21);
    y[1 * y_stride + 3] = sum_512(s31);
    y[2 * y_stride + 0] = sum_512(s02);
    y[2 * y_stride + 1] = sum_512(s12);
    y[2 * y_stride + 2] = sum_512(s22);
    y[2 * y_stride + 3] = sum_512(s32);
}

// 4 rows x 4 tokens. The lines from `next` on are prefetched, 4 / `all` of 4 rows of them.
static void tile_4(const int8_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const int8_t *next, size_t all) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    sums_512 s01 = ZERO_512, s11 = ZERO_512, s21 = ZERO_512, s31 = ZERO_512;
    sums_512 s02 = ZERO_512, s12 = ZERO_512, s22 = ZERO_512, s32 = ZERO_512;
    sums_512 s03 = ZERO_512, s13 = ZERO_512, s23 = ZERO_512, s33 = ZERO_512;
    const size_t step = 4 * 4 * 32 / all;
    for (size_t c = 0; c < cols; c += 32, next += step) {
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        const words_512 w0 = widen_512(w + 0 * cols + c);
        const words_512 w1 = widen_512(w + 1 * cols + c);
        const words_512 w2 = widen_512(w + 2 * cols + c);
        const words_512 w3 = widen_512(w + 3 * cols + c);
        const words_512 x0 = load_512(x + 0 * cols + c);
        MAC(s00, w0, x0);
        MAC(s10, w1, x0);
        MAC(s20, w2, x0);
        MAC(s30, w3, x0);
        const words_512 x1 = load_512(x + 1 * cols + c);
        MAC(s01, w0, x1);
        MAC(s11, w1, x1);
        MAC(s21, w2, x1);
        MAC(s31, w3, x1);
        const words_512 x2 = load_512(x + 2 * cols + c);
        MAC(s02, w0, x2);
        MAC(s12, w1, x2);
        MAC(s22, w2, x2);
        MAC(s32, w3, x2);
        const words_512 x3 = load_512(x + 3 * cols + c);
        MAC(s03, w0, x3);
        MAC(s13, w1, x3);
        MAC(s23, w2, x3);
        MAC(s33, w3, x3);
    }
    y[0 * y_stride + 0] = sum_512(s00);
    y[0 * y_stride + 1] = sum_512(s10);
    y[0 * y_stride + 2] = sum_512(s20);
    y[0 * y_stride + 3] = sum_512(s30);
    y[1 * y_stride + 0] = sum_512(s01);
    y[1 * y_stride + 1] = sum_512(s11);
    y[1 * y_stride + 2] = sum_512(s21);
    y[1 * y_stride + 3] = sum_512(s31);
    y[2 * y_stride + 0] = sum_512(s02);
    y[2 * y_stride + 1] = sum_512(s12);
    y[2 * y_stride + 2] = sum_512(s22);
    y[2 * y_stride + 3] = sum_512(s32);
    y[3 * y_stride + 0] = sum_512(s03);
    y[3 * y_stride + 1] = sum_512(s13);
    y[3 * y_stride + 2] = sum_512(s23);
    y[3 * y_stride + 3] = sum_512(s33);
}

void sterna_head_coarse__avx512vnni(const int8_t *restrict w, const int16_t *restrict x, size_t rows, size_t cols,
                               size_t tokens, int32_t *restrict y, size_t y_stride) {
    size_t r = 0;
    if (tokens > 1) {
        for (; r + 4 <= rows; r += 4, w += 4 * cols) {
            const int8_t *next = w + 4 * cols;
            size_t t = 0;
            for (; t + 4 <= tokens; t += 4) {
                tile_4(w, x + t * cols, cols, y + t * y_stride + r, y_stride, next + 4 * cols * t / tokens, tokens);
            }
            switch (tokens - t) {
            case 1:
                tile_1(w, x + t * cols, cols, y + t * y_stride + r, y_stride, next + 4 * cols * t / tokens, tokens);
                break;
            case 2:
                tile_2(w, x + t * cols, cols, y + t * y_stride + r, y_stride, next + 4 * cols * t / tokens, tokens);
                break;
            case 3:
                tile_3(w, x + t * cols, cols, y + t * y_stride + r, y_stride, next + 4 * cols * t / tokens, tokens);
                break;
            }
        }
    }
    for (; r < rows; r++, w += cols) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = row(w, x + t * cols, cols);
        }
    }
}
