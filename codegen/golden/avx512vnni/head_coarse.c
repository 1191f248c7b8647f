// The coded output head, exactly: sums over c of code(r, c) * x(t, c), codes of 6 bits (head_coarse) and of 2 bits (head_fine).
//
// W (rows, cols) by rows, cols % 256 == 0; x (tokens, cols) of int16. A row is blocks of 256 codes, which are 8 fields of 32 words of 16 bits:
// code 32 k + i of a block is field k of word i. With three words a, b, d of 6 bits a field, 32 words apart,
//     fields 0, 1, 2 = a, b, d & 63    3, 4, 5 = a, b, d >> 10    6 = a >> 6 & 15 | b >> 2 & 48    7 = d >> 6 & 15 | b >> 4 & 48
// and with one word of 2 bits a field, field k = a >> 2 k & 3.
// Overflow: the caller sees to sum over c of |x(t, c)| < 2^24, so that no sum of products with 6 bits, of any of the columns in any order,
// leaves i32. Nothing is widened on the way, and every ISA may add as it likes.
//
// One token: row after row, one linear stream, prefetched 2048 bytes ahead.
// Several: tiles of few rows and up to 4 tokens, whose activations stay in L1d while all rows of a call (`ROWS` of
// runtime/kernels/head.rs) pass, which stay in L2.
// The rows of the next call are prefetched meanwhile, some of each in every step of every tile, and to L2, where they push no token out:
// measured on Zen 4 with 8 tokens and codes of 8 bits, 12 GB/s against 8 with a prefetch to L1d, and against 7 with one in the first tile only.
// Rendered from templates/head_coarse.c for avx512vnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_head_coarse__avx512vnni(const uint16_t *restrict w, const int16_t *restrict x, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);
void sterna_head_fine__avx512vnni(const uint16_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y);

#include <immintrin.h>

// Per register width: `load` of words, `all` the same, `both` and `either` of their bits, `shr`: shifted right by n, `mac`: acc + products,
// added up to int32 lanes, `add` and `sum` of the lanes.
typedef __m256i words_256, sums_256;
#define ZERO_256 _mm256_setzero_si256()
#define load_256(p) _mm256_loadu_si256((const words_256 *)(p))
#define all_256 _mm256_set1_epi16
#define both_256 _mm256_and_si256
#define either_256 _mm256_or_si256
#define shr_256 _mm256_srli_epi16
#define add_256 _mm256_add_epi32
#define mac_256 _mm256_dpwssd_epi32
typedef __m512i words_512, sums_512;
#define ZERO_512 _mm512_setzero_si512()
#define load_512(p) _mm512_loadu_si512((const words_512 *)(p))
#define all_512 _mm512_set1_epi16
#define both_512 _mm512_and_si512
#define either_512 _mm512_or_si512
#define shr_512 _mm512_srli_epi16
#define add_512 _mm512_add_epi32
#define mac_512 _mm512_dpwssd_epi32

static inline int32_t sum_128(__m128i v) {
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

static inline int32_t sum_256(sums_256 v) {
    return sum_128(_mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

static inline int32_t sum_512(sums_512 v) {
    return sum_256(_mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
}

// Field `k` of the words of 6 bits a field, see above.
static inline __attribute__((always_inline)) words_256 field_256(int k, words_256 a, words_256 b, words_256 d) {
    const words_256 w = k % 3 == 0 ? a : k % 3 == 1 ? b : d;
    if (k < 6) {
        return k < 3 ? both_256(w, all_256(63)) : shr_256(w, 10);
    }
    const words_256 low = shr_256(k == 6 ? a : d, 6), high = k == 6 ? shr_256(b, 2) : shr_256(b, 4);
    return either_256(both_256(low, all_256(15)), both_256(high, all_256(48)));
}

// Field `k` of the words of 6 bits a field, see above.
static inline __attribute__((always_inline)) words_512 field_512(int k, words_512 a, words_512 b, words_512 d) {
    const words_512 w = k % 3 == 0 ? a : k % 3 == 1 ? b : d;
    if (k < 6) {
        return k < 3 ? both_512(w, all_512(63)) : shr_512(w, 10);
    }
    const words_512 low = shr_512(k == 6 ? a : d, 6), high = k == 6 ? shr_512(b, 2) : shr_512(b, 4);
    return either_512(both_512(low, all_512(15)), both_512(high, all_512(48)));
}

// One row, codes of 6 bits, one token. In registers of 256 bits: with codes of 8 bits as fast from memory as
// reading alone on Zen 4, where 512 bits took a third longer.
static int32_t row(const uint16_t *restrict w, const int16_t *restrict x, size_t cols) {
    sums_256 s0 = ZERO_256, s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < cols; c += 256, w += 96, x += 256) {
        for (size_t line = 0; line < 192; line += 64) {
            __builtin_prefetch((const char *)w + line + 2048);
        }
        {
            const words_256 a = load_256(w + 0), b = load_256(w + 32), d = load_256(w + 64);
            s0 = mac_256(s0, field_256(0, a, b, d), load_256(x + 0));
            s1 = mac_256(s1, field_256(1, a, b, d), load_256(x + 32));
            s2 = mac_256(s2, field_256(2, a, b, d), load_256(x + 64));
            s3 = mac_256(s3, field_256(3, a, b, d), load_256(x + 96));
            s0 = mac_256(s0, field_256(4, a, b, d), load_256(x + 128));
            s1 = mac_256(s1, field_256(5, a, b, d), load_256(x + 160));
            s2 = mac_256(s2, field_256(6, a, b, d), load_256(x + 192));
            s3 = mac_256(s3, field_256(7, a, b, d), load_256(x + 224));
        }
        {
            const words_256 a = load_256(w + 16), b = load_256(w + 48), d = load_256(w + 80);
            s0 = mac_256(s0, field_256(0, a, b, d), load_256(x + 16));
            s1 = mac_256(s1, field_256(1, a, b, d), load_256(x + 48));
            s2 = mac_256(s2, field_256(2, a, b, d), load_256(x + 80));
            s3 = mac_256(s3, field_256(3, a, b, d), load_256(x + 112));
            s0 = mac_256(s0, field_256(4, a, b, d), load_256(x + 144));
            s1 = mac_256(s1, field_256(5, a, b, d), load_256(x + 176));
            s2 = mac_256(s2, field_256(6, a, b, d), load_256(x + 208));
            s3 = mac_256(s3, field_256(7, a, b, d), load_256(x + 240));
        }
    }
    return sum_256(add_256(add_256(s0, s1), add_256(s2, s3)));
}

// acc = mac(acc, w, x), in place where gcc copies among the many accumulators of a tile.
#define MAC(acc, w, x) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))

// 4 rows, `row_words` words each, x 1 tokens. `ahead` bytes from `next` on are prefetched.
static void tile_1(const uint16_t *restrict w, size_t row_words, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const char *next, size_t ahead) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    const size_t step = ahead * 256 / cols;
    for (size_t c = 0; c < cols; c += 256, w += 96, next += step) {
        // Many lines at once, and unrolled: half as many twice as often, or a loop, take a fifth longer on Zen 3.
#pragma GCC unroll 12
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(0, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(0, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(0, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(0, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 0);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(1, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(1, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(1, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(1, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 32);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(2, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(2, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(2, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(2, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 64);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(3, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(3, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(3, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(3, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 96);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(4, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(4, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(4, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(4, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 128);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(5, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(5, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(5, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(5, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 160);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(6, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(6, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(6, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(6, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 192);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(7, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(7, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(7, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(7, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 224);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
        }
    }
    y[0 * y_stride + 0] = sum_512(s00);
    y[0 * y_stride + 1] = sum_512(s10);
    y[0 * y_stride + 2] = sum_512(s20);
    y[0 * y_stride + 3] = sum_512(s30);
}

// 4 rows, `row_words` words each, x 2 tokens. `ahead` bytes from `next` on are prefetched.
static void tile_2(const uint16_t *restrict w, size_t row_words, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const char *next, size_t ahead) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    sums_512 s01 = ZERO_512, s11 = ZERO_512, s21 = ZERO_512, s31 = ZERO_512;
    const size_t step = ahead * 256 / cols;
    for (size_t c = 0; c < cols; c += 256, w += 96, next += step) {
        // Many lines at once, and unrolled: half as many twice as often, or a loop, take a fifth longer on Zen 3.
#pragma GCC unroll 12
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(0, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(0, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(0, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(0, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 0);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 0);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(1, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(1, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(1, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(1, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 32);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 32);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(2, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(2, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(2, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(2, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 64);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 64);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(3, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(3, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(3, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(3, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 96);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 96);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(4, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(4, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(4, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(4, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 128);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 128);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(5, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(5, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(5, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(5, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 160);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 160);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(6, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(6, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(6, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(6, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 192);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 192);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(7, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(7, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(7, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(7, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 224);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 224);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
        }
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

// 4 rows, `row_words` words each, x 3 tokens. `ahead` bytes from `next` on are prefetched.
static void tile_3(const uint16_t *restrict w, size_t row_words, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const char *next, size_t ahead) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    sums_512 s01 = ZERO_512, s11 = ZERO_512, s21 = ZERO_512, s31 = ZERO_512;
    sums_512 s02 = ZERO_512, s12 = ZERO_512, s22 = ZERO_512, s32 = ZERO_512;
    const size_t step = ahead * 256 / cols;
    for (size_t c = 0; c < cols; c += 256, w += 96, next += step) {
        // Many lines at once, and unrolled: half as many twice as often, or a loop, take a fifth longer on Zen 3.
#pragma GCC unroll 12
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(0, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(0, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(0, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(0, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 0);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 0);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 0);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(1, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(1, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(1, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(1, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 32);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 32);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 32);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(2, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(2, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(2, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(2, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 64);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 64);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 64);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(3, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(3, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(3, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(3, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 96);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 96);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 96);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(4, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(4, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(4, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(4, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 128);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 128);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 128);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(5, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(5, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(5, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(5, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 160);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 160);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 160);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(6, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(6, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(6, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(6, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 192);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 192);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 192);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(7, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(7, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(7, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(7, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 224);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 224);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 224);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
        }
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

// 4 rows, `row_words` words each, x 4 tokens. `ahead` bytes from `next` on are prefetched.
static void tile_4(const uint16_t *restrict w, size_t row_words, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const char *next, size_t ahead) {
    sums_512 s00 = ZERO_512, s10 = ZERO_512, s20 = ZERO_512, s30 = ZERO_512;
    sums_512 s01 = ZERO_512, s11 = ZERO_512, s21 = ZERO_512, s31 = ZERO_512;
    sums_512 s02 = ZERO_512, s12 = ZERO_512, s22 = ZERO_512, s32 = ZERO_512;
    sums_512 s03 = ZERO_512, s13 = ZERO_512, s23 = ZERO_512, s33 = ZERO_512;
    const size_t step = ahead * 256 / cols;
    for (size_t c = 0; c < cols; c += 256, w += 96, next += step) {
        // Many lines at once, and unrolled: half as many twice as often, or a loop, take a fifth longer on Zen 3.
#pragma GCC unroll 12
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(0, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(0, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(0, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(0, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 0);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 0);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 0);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 0);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(1, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(1, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(1, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(1, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 32);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 32);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 32);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 32);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(2, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(2, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(2, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(2, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 64);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 64);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 64);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 64);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(3, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(3, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(3, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(3, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 96);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 96);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 96);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 96);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(4, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(4, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(4, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(4, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 128);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 128);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 128);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 128);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(5, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(5, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(5, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(5, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 160);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 160);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 160);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 160);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(6, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(6, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(6, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(6, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 192);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 192);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 192);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 192);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
            const uint16_t *p0 = w + 0 * row_words + 0;
            const words_512 w0 = field_512(7, load_512(p0), load_512(p0 + 32), load_512(p0 + 64));
            const uint16_t *p1 = w + 1 * row_words + 0;
            const words_512 w1 = field_512(7, load_512(p1), load_512(p1 + 32), load_512(p1 + 64));
            const uint16_t *p2 = w + 2 * row_words + 0;
            const words_512 w2 = field_512(7, load_512(p2), load_512(p2 + 32), load_512(p2 + 64));
            const uint16_t *p3 = w + 3 * row_words + 0;
            const words_512 w3 = field_512(7, load_512(p3), load_512(p3 + 32), load_512(p3 + 64));
            const words_512 x0 = load_512(x + 0 * cols + c + 224);
            MAC(s00, w0, x0);
            MAC(s10, w1, x0);
            MAC(s20, w2, x0);
            MAC(s30, w3, x0);
            const words_512 x1 = load_512(x + 1 * cols + c + 224);
            MAC(s01, w0, x1);
            MAC(s11, w1, x1);
            MAC(s21, w2, x1);
            MAC(s31, w3, x1);
            const words_512 x2 = load_512(x + 2 * cols + c + 224);
            MAC(s02, w0, x2);
            MAC(s12, w1, x2);
            MAC(s22, w2, x2);
            MAC(s32, w3, x2);
            const words_512 x3 = load_512(x + 3 * cols + c + 224);
            MAC(s03, w0, x3);
            MAC(s13, w1, x3);
            MAC(s23, w2, x3);
            MAC(s33, w3, x3);
        }
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

void sterna_head_coarse__avx512vnni(const uint16_t *restrict w, const int16_t *restrict x, size_t rows, size_t cols,
                               size_t tokens, int32_t *restrict y, size_t y_stride) {
    const size_t row_words = cols / 256 * 96;
    const size_t tiled = tokens > 1 ? rows / 4 * 4 : 0;
    // What the first tile prefetches: the next call's rows, of which each group of tokens has a share.
    const char *next = (const char *)(w + rows * row_words);
    for (size_t t = 0, n; tiled > 0 && t < tokens; t += n) {
        n = tokens - t < 4 ? tokens - t : 4;
        const size_t from = 4 * 2 * row_words * t / tokens, ahead = 4 * 2 * row_words * (t + n) / tokens - from;
        for (size_t r = 0; r < tiled; r += 4) {
            const uint16_t *tile = w + r * row_words;
            const char *there = next + 2 * r * row_words + from;
            switch (n) {
            case 1:
                tile_1(tile, row_words, x + t * cols, cols, y + t * y_stride + r, y_stride, there, ahead);
                break;
            case 2:
                tile_2(tile, row_words, x + t * cols, cols, y + t * y_stride + r, y_stride, there, ahead);
                break;
            case 3:
                tile_3(tile, row_words, x + t * cols, cols, y + t * y_stride + r, y_stride, there, ahead);
                break;
            case 4:
                tile_4(tile, row_words, x + t * cols, cols, y + t * y_stride + r, y_stride, there, ahead);
                break;
            }
        }
    }
    for (size_t r = tiled; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = row(w + r * row_words, x + t * cols, cols);
        }
    }
}

// One row, codes of 2 bits, one token.
void sterna_head_fine__avx512vnni(const uint16_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y) {
    sums_256 s0 = ZERO_256, s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < cols; c += 256, w += 32, x += 256) {
        {
            const words_256 a = load_256(w + 0);
            s0 = mac_256(s0, both_256(a, all_256(3)), load_256(x + 0));
            s1 = mac_256(s1, both_256(shr_256(a, 2), all_256(3)), load_256(x + 32));
            s2 = mac_256(s2, both_256(shr_256(a, 4), all_256(3)), load_256(x + 64));
            s3 = mac_256(s3, both_256(shr_256(a, 6), all_256(3)), load_256(x + 96));
            s0 = mac_256(s0, both_256(shr_256(a, 8), all_256(3)), load_256(x + 128));
            s1 = mac_256(s1, both_256(shr_256(a, 10), all_256(3)), load_256(x + 160));
            s2 = mac_256(s2, both_256(shr_256(a, 12), all_256(3)), load_256(x + 192));
            s3 = mac_256(s3, both_256(shr_256(a, 14), all_256(3)), load_256(x + 224));
        }
        {
            const words_256 a = load_256(w + 16);
            s0 = mac_256(s0, both_256(a, all_256(3)), load_256(x + 16));
            s1 = mac_256(s1, both_256(shr_256(a, 2), all_256(3)), load_256(x + 48));
            s2 = mac_256(s2, both_256(shr_256(a, 4), all_256(3)), load_256(x + 80));
            s3 = mac_256(s3, both_256(shr_256(a, 6), all_256(3)), load_256(x + 112));
            s0 = mac_256(s0, both_256(shr_256(a, 8), all_256(3)), load_256(x + 144));
            s1 = mac_256(s1, both_256(shr_256(a, 10), all_256(3)), load_256(x + 176));
            s2 = mac_256(s2, both_256(shr_256(a, 12), all_256(3)), load_256(x + 208));
            s3 = mac_256(s3, both_256(shr_256(a, 14), all_256(3)), load_256(x + 240));
        }
    }
    *y = sum_256(add_256(add_256(s0, s1), add_256(s2, s3)));
}
