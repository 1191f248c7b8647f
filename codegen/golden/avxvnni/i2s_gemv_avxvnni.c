// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX-VNNI.
//
// Layout as in i2s_gemv_portable.c; the four fields of a 32-byte block are four runs of 32 consecutive weights. They
// are masked, not shifted: every field has a sum of its own, larger by its factor, which is shifted out once a row, exactly.
//
//   field              0 (bit 6)   1 (bit 4)   2 (bit 2)   3 (bit 0)
//   factor on the code    64          16           4           1
//
// vpdpbusd adds code * factor * x over 4 bytes into i32. Overflow: 4 * 192 * 128 a block and lane; the renderer bounds cols.
// One row after the other, as one linear stream, prefetched 2048 bytes ahead.
// Rendered from templates/i2s_gemv_avxvnni.c for avxvnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__avxvnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

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


void sterna_i2s_gemv__avxvnni(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                              size_t cols, int32_t *restrict y) {
    const __m256i mask0 = _mm256_set1_epi8((char)0xc0);
    const __m256i mask1 = _mm256_set1_epi8(0x30);
    const __m256i mask2 = _mm256_set1_epi8(0x0c);
    const __m256i mask3 = _mm256_set1_epi8(0x03);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r++) {
        // Two blocks in turn: a chain of accumulations is half as long as the row.
        __m256i a0 = _mm256_setzero_si256(), b0 = a0, a1 = _mm256_setzero_si256(), b1 = a1, a2 = _mm256_setzero_si256(), b2 = a2, a3 = _mm256_setzero_si256(), b3 = a3;
        const int8_t *xb = x;
        size_t b = 0;
        for (; b + 2 <= blocks; b += 2, w += 64, xb += 256) {
            __builtin_prefetch(w + 2048);
            const __m256i v = _mm256_loadu_si256((const __m256i *)w), u = _mm256_loadu_si256((const __m256i *)(w + 32));
            DPBUSD(a0, _mm256_and_si256(v, mask0), _mm256_loadu_si256((const __m256i *)(xb + 0)));
            DPBUSD(b0, _mm256_and_si256(u, mask0), _mm256_loadu_si256((const __m256i *)(xb + 128)));
            DPBUSD(a1, _mm256_and_si256(v, mask1), _mm256_loadu_si256((const __m256i *)(xb + 32)));
            DPBUSD(b1, _mm256_and_si256(u, mask1), _mm256_loadu_si256((const __m256i *)(xb + 160)));
            DPBUSD(a2, _mm256_and_si256(v, mask2), _mm256_loadu_si256((const __m256i *)(xb + 64)));
            DPBUSD(b2, _mm256_and_si256(u, mask2), _mm256_loadu_si256((const __m256i *)(xb + 192)));
            DPBUSD(a3, _mm256_and_si256(v, mask3), _mm256_loadu_si256((const __m256i *)(xb + 96)));
            DPBUSD(b3, _mm256_and_si256(u, mask3), _mm256_loadu_si256((const __m256i *)(xb + 224)));
        }
        if (b < blocks) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)w);
            DPBUSD(a0, _mm256_and_si256(v, mask0), _mm256_loadu_si256((const __m256i *)(xb + 0)));
            DPBUSD(a1, _mm256_and_si256(v, mask1), _mm256_loadu_si256((const __m256i *)(xb + 32)));
            DPBUSD(a2, _mm256_and_si256(v, mask2), _mm256_loadu_si256((const __m256i *)(xb + 64)));
            DPBUSD(a3, _mm256_and_si256(v, mask3), _mm256_loadu_si256((const __m256i *)(xb + 96)));
            w += 32;
        }
        const __m256i s0 = _mm256_srai_epi32(_mm256_add_epi32(a0, b0), 6);
        const __m256i s1 = _mm256_srai_epi32(_mm256_add_epi32(a1, b1), 4);
        const __m256i s2 = _mm256_srai_epi32(_mm256_add_epi32(a2, b2), 2);
        const __m256i s3 = _mm256_add_epi32(a3, b3);
        y[r] = fold(_mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3))) - x_sum;
    }
}
