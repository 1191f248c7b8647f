// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AArch64 with SMMLA.
//
// Layout as in i2s_gemv_portable.c. smmla multiplies two rows by two tokens over 8 columns into four i32 lanes, so operands are pairs:
// 8 bytes of one row beside 8 of the next, unpacked field by field, and 8 activations of two tokens.
//
//   lanes of a sum   r t | r t+1 | r+1 t | r+1 t+1
//
// The tile is 8 rows x 8 tokens. A single row, and the last of an odd number of tokens, is paired with itself.
// Overflow: a lane takes 128 products of at most 3 * 128 a block; the renderer bounds cols.
// Rendered from templates/i2s_gemm_i8mm.c for i8mm: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemm__i8mm(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);

#include <arm_neon.h>

static inline uint8x16_t codes(const uint8_t *a, const uint8_t *b) {
    return vcombine_u8(vld1_u8(a), vld1_u8(b));
}

static inline int8x16_t activations(const int8_t *a, const int8_t *b) {
    return vcombine_s8(vld1_s8(a), vld1_s8(b));
}

static void tile_8x1(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 0 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 0 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 0 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 0 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
}

static void tile_8x2(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
}

static void tile_8x3(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_2_2 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_4_2 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    int32x4_t sum_6_2 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 2 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 2 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 2 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 2 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[2 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 2) - x_sums[2];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[2 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 0) - x_sums[2];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[2 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 2) - x_sums[2];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[2 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 0) - x_sums[2];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[2 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 2) - x_sums[2];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[2 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 0) - x_sums[2];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
    y[2 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 2) - x_sums[2];
}

static void tile_8x4(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_2_2 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_4_2 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    int32x4_t sum_6_2 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[2 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 2) - x_sums[2];
    y[3 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 3) - x_sums[3];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[2 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 0) - x_sums[2];
    y[3 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 1) - x_sums[3];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[2 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 2) - x_sums[2];
    y[3 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 3) - x_sums[3];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[2 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 0) - x_sums[2];
    y[3 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 1) - x_sums[3];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[2 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 2) - x_sums[2];
    y[3 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 3) - x_sums[3];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[2 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 0) - x_sums[2];
    y[3 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 1) - x_sums[3];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
    y[2 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 2) - x_sums[2];
    y[3 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 3) - x_sums[3];
}

static void tile_8x5(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_2_2 = vdupq_n_s32(0);
    int32x4_t sum_2_4 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_4_2 = vdupq_n_s32(0);
    int32x4_t sum_4_4 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    int32x4_t sum_6_2 = vdupq_n_s32(0);
    int32x4_t sum_6_4 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 4 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 4 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 4 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 4 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[2 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 2) - x_sums[2];
    y[3 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 3) - x_sums[3];
    y[4 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 2) - x_sums[4];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[2 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 0) - x_sums[2];
    y[3 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 1) - x_sums[3];
    y[4 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 0) - x_sums[4];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[2 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 2) - x_sums[2];
    y[3 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 3) - x_sums[3];
    y[4 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 2) - x_sums[4];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[2 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 0) - x_sums[2];
    y[3 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 1) - x_sums[3];
    y[4 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 0) - x_sums[4];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[2 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 2) - x_sums[2];
    y[3 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 3) - x_sums[3];
    y[4 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 2) - x_sums[4];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[2 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 0) - x_sums[2];
    y[3 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 1) - x_sums[3];
    y[4 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 0) - x_sums[4];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
    y[2 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 2) - x_sums[2];
    y[3 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 3) - x_sums[3];
    y[4 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 2) - x_sums[4];
}

static void tile_8x6(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_2_2 = vdupq_n_s32(0);
    int32x4_t sum_2_4 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_4_2 = vdupq_n_s32(0);
    int32x4_t sum_4_4 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    int32x4_t sum_6_2 = vdupq_n_s32(0);
    int32x4_t sum_6_4 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 5 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 5 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 5 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 5 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[5 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 1) - x_sums[5];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[2 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 2) - x_sums[2];
    y[3 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 3) - x_sums[3];
    y[4 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 2) - x_sums[4];
    y[5 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 3) - x_sums[5];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[2 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 0) - x_sums[2];
    y[3 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 1) - x_sums[3];
    y[4 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 0) - x_sums[4];
    y[5 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 1) - x_sums[5];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[2 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 2) - x_sums[2];
    y[3 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 3) - x_sums[3];
    y[4 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 2) - x_sums[4];
    y[5 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 3) - x_sums[5];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[2 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 0) - x_sums[2];
    y[3 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 1) - x_sums[3];
    y[4 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 0) - x_sums[4];
    y[5 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 1) - x_sums[5];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[2 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 2) - x_sums[2];
    y[3 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 3) - x_sums[3];
    y[4 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 2) - x_sums[4];
    y[5 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 3) - x_sums[5];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[2 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 0) - x_sums[2];
    y[3 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 1) - x_sums[3];
    y[4 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 0) - x_sums[4];
    y[5 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 1) - x_sums[5];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
    y[2 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 2) - x_sums[2];
    y[3 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 3) - x_sums[3];
    y[4 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 2) - x_sums[4];
    y[5 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 3) - x_sums[5];
}

static void tile_8x7(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    int32x4_t sum_0_6 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_2_2 = vdupq_n_s32(0);
    int32x4_t sum_2_4 = vdupq_n_s32(0);
    int32x4_t sum_2_6 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_4_2 = vdupq_n_s32(0);
    int32x4_t sum_4_4 = vdupq_n_s32(0);
    int32x4_t sum_4_6 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    int32x4_t sum_6_2 = vdupq_n_s32(0);
    int32x4_t sum_6_4 = vdupq_n_s32(0);
    int32x4_t sum_6_6 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 5 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 0, x + 6 * cols + 0);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 5 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 32, x + 6 * cols + 32);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 5 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 64, x + 6 * cols + 64);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 5 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 96, x + 6 * cols + 96);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[5 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 1) - x_sums[5];
    y[6 * y_stride + 0] = vgetq_lane_s32(sum_0_6, 0) - x_sums[6];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[2 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 2) - x_sums[2];
    y[3 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 3) - x_sums[3];
    y[4 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 2) - x_sums[4];
    y[5 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 3) - x_sums[5];
    y[6 * y_stride + 1] = vgetq_lane_s32(sum_0_6, 2) - x_sums[6];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[2 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 0) - x_sums[2];
    y[3 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 1) - x_sums[3];
    y[4 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 0) - x_sums[4];
    y[5 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 1) - x_sums[5];
    y[6 * y_stride + 2] = vgetq_lane_s32(sum_2_6, 0) - x_sums[6];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[2 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 2) - x_sums[2];
    y[3 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 3) - x_sums[3];
    y[4 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 2) - x_sums[4];
    y[5 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 3) - x_sums[5];
    y[6 * y_stride + 3] = vgetq_lane_s32(sum_2_6, 2) - x_sums[6];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[2 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 0) - x_sums[2];
    y[3 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 1) - x_sums[3];
    y[4 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 0) - x_sums[4];
    y[5 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 1) - x_sums[5];
    y[6 * y_stride + 4] = vgetq_lane_s32(sum_4_6, 0) - x_sums[6];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[2 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 2) - x_sums[2];
    y[3 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 3) - x_sums[3];
    y[4 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 2) - x_sums[4];
    y[5 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 3) - x_sums[5];
    y[6 * y_stride + 5] = vgetq_lane_s32(sum_4_6, 2) - x_sums[6];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[2 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 0) - x_sums[2];
    y[3 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 1) - x_sums[3];
    y[4 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 0) - x_sums[4];
    y[5 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 1) - x_sums[5];
    y[6 * y_stride + 6] = vgetq_lane_s32(sum_6_6, 0) - x_sums[6];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
    y[2 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 2) - x_sums[2];
    y[3 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 3) - x_sums[3];
    y[4 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 2) - x_sums[4];
    y[5 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 3) - x_sums[5];
    y[6 * y_stride + 7] = vgetq_lane_s32(sum_6_6, 2) - x_sums[6];
}

static void tile_8x8(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    int32x4_t sum_0_6 = vdupq_n_s32(0);
    int32x4_t sum_2_0 = vdupq_n_s32(0);
    int32x4_t sum_2_2 = vdupq_n_s32(0);
    int32x4_t sum_2_4 = vdupq_n_s32(0);
    int32x4_t sum_2_6 = vdupq_n_s32(0);
    int32x4_t sum_4_0 = vdupq_n_s32(0);
    int32x4_t sum_4_2 = vdupq_n_s32(0);
    int32x4_t sum_4_4 = vdupq_n_s32(0);
    int32x4_t sum_4_6 = vdupq_n_s32(0);
    int32x4_t sum_6_0 = vdupq_n_s32(0);
    int32x4_t sum_6_2 = vdupq_n_s32(0);
    int32x4_t sum_6_4 = vdupq_n_s32(0);
    int32x4_t sum_6_6 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 1 * (cols / 4));
            const uint8x16_t v2 = codes(w + 2 * (cols / 4), w + 3 * (cols / 4));
            const uint8x16_t v4 = codes(w + 4 * (cols / 4), w + 5 * (cols / 4));
            const uint8x16_t v6 = codes(w + 6 * (cols / 4), w + 7 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 6), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 6), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 5 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 0, x + 7 * cols + 0);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 4), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 4), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 5 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 32, x + 7 * cols + 32);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v2, 2), three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v4, 2), three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v6, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 5 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 64, x + 7 * cols + 64);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t c2 = vreinterpretq_s8_u8(vandq_u8(v2, three));
                const int8x16_t c4 = vreinterpretq_s8_u8(vandq_u8(v4, three));
                const int8x16_t c6 = vreinterpretq_s8_u8(vandq_u8(v6, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                sum_2_0 = vmmlaq_s32(sum_2_0, c2, x0);
                sum_4_0 = vmmlaq_s32(sum_4_0, c4, x0);
                sum_6_0 = vmmlaq_s32(sum_6_0, c6, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                sum_2_2 = vmmlaq_s32(sum_2_2, c2, x2);
                sum_4_2 = vmmlaq_s32(sum_4_2, c4, x2);
                sum_6_2 = vmmlaq_s32(sum_6_2, c6, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 5 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                sum_2_4 = vmmlaq_s32(sum_2_4, c2, x4);
                sum_4_4 = vmmlaq_s32(sum_4_4, c4, x4);
                sum_6_4 = vmmlaq_s32(sum_6_4, c6, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 96, x + 7 * cols + 96);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
                sum_2_6 = vmmlaq_s32(sum_2_6, c2, x6);
                sum_4_6 = vmmlaq_s32(sum_4_6, c4, x6);
                sum_6_6 = vmmlaq_s32(sum_6_6, c6, x6);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[5 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 1) - x_sums[5];
    y[6 * y_stride + 0] = vgetq_lane_s32(sum_0_6, 0) - x_sums[6];
    y[7 * y_stride + 0] = vgetq_lane_s32(sum_0_6, 1) - x_sums[7];
    y[0 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 2) - x_sums[0];
    y[1 * y_stride + 1] = vgetq_lane_s32(sum_0_0, 3) - x_sums[1];
    y[2 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 2) - x_sums[2];
    y[3 * y_stride + 1] = vgetq_lane_s32(sum_0_2, 3) - x_sums[3];
    y[4 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 2) - x_sums[4];
    y[5 * y_stride + 1] = vgetq_lane_s32(sum_0_4, 3) - x_sums[5];
    y[6 * y_stride + 1] = vgetq_lane_s32(sum_0_6, 2) - x_sums[6];
    y[7 * y_stride + 1] = vgetq_lane_s32(sum_0_6, 3) - x_sums[7];
    y[0 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 0) - x_sums[0];
    y[1 * y_stride + 2] = vgetq_lane_s32(sum_2_0, 1) - x_sums[1];
    y[2 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 0) - x_sums[2];
    y[3 * y_stride + 2] = vgetq_lane_s32(sum_2_2, 1) - x_sums[3];
    y[4 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 0) - x_sums[4];
    y[5 * y_stride + 2] = vgetq_lane_s32(sum_2_4, 1) - x_sums[5];
    y[6 * y_stride + 2] = vgetq_lane_s32(sum_2_6, 0) - x_sums[6];
    y[7 * y_stride + 2] = vgetq_lane_s32(sum_2_6, 1) - x_sums[7];
    y[0 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 2) - x_sums[0];
    y[1 * y_stride + 3] = vgetq_lane_s32(sum_2_0, 3) - x_sums[1];
    y[2 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 2) - x_sums[2];
    y[3 * y_stride + 3] = vgetq_lane_s32(sum_2_2, 3) - x_sums[3];
    y[4 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 2) - x_sums[4];
    y[5 * y_stride + 3] = vgetq_lane_s32(sum_2_4, 3) - x_sums[5];
    y[6 * y_stride + 3] = vgetq_lane_s32(sum_2_6, 2) - x_sums[6];
    y[7 * y_stride + 3] = vgetq_lane_s32(sum_2_6, 3) - x_sums[7];
    y[0 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 0) - x_sums[0];
    y[1 * y_stride + 4] = vgetq_lane_s32(sum_4_0, 1) - x_sums[1];
    y[2 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 0) - x_sums[2];
    y[3 * y_stride + 4] = vgetq_lane_s32(sum_4_2, 1) - x_sums[3];
    y[4 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 0) - x_sums[4];
    y[5 * y_stride + 4] = vgetq_lane_s32(sum_4_4, 1) - x_sums[5];
    y[6 * y_stride + 4] = vgetq_lane_s32(sum_4_6, 0) - x_sums[6];
    y[7 * y_stride + 4] = vgetq_lane_s32(sum_4_6, 1) - x_sums[7];
    y[0 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 2) - x_sums[0];
    y[1 * y_stride + 5] = vgetq_lane_s32(sum_4_0, 3) - x_sums[1];
    y[2 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 2) - x_sums[2];
    y[3 * y_stride + 5] = vgetq_lane_s32(sum_4_2, 3) - x_sums[3];
    y[4 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 2) - x_sums[4];
    y[5 * y_stride + 5] = vgetq_lane_s32(sum_4_4, 3) - x_sums[5];
    y[6 * y_stride + 5] = vgetq_lane_s32(sum_4_6, 2) - x_sums[6];
    y[7 * y_stride + 5] = vgetq_lane_s32(sum_4_6, 3) - x_sums[7];
    y[0 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 0) - x_sums[0];
    y[1 * y_stride + 6] = vgetq_lane_s32(sum_6_0, 1) - x_sums[1];
    y[2 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 0) - x_sums[2];
    y[3 * y_stride + 6] = vgetq_lane_s32(sum_6_2, 1) - x_sums[3];
    y[4 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 0) - x_sums[4];
    y[5 * y_stride + 6] = vgetq_lane_s32(sum_6_4, 1) - x_sums[5];
    y[6 * y_stride + 6] = vgetq_lane_s32(sum_6_6, 0) - x_sums[6];
    y[7 * y_stride + 6] = vgetq_lane_s32(sum_6_6, 1) - x_sums[7];
    y[0 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 2) - x_sums[0];
    y[1 * y_stride + 7] = vgetq_lane_s32(sum_6_0, 3) - x_sums[1];
    y[2 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 2) - x_sums[2];
    y[3 * y_stride + 7] = vgetq_lane_s32(sum_6_2, 3) - x_sums[3];
    y[4 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 2) - x_sums[4];
    y[5 * y_stride + 7] = vgetq_lane_s32(sum_6_4, 3) - x_sums[5];
    y[6 * y_stride + 7] = vgetq_lane_s32(sum_6_6, 2) - x_sums[6];
    y[7 * y_stride + 7] = vgetq_lane_s32(sum_6_6, 3) - x_sums[7];
}

static void tile_1x1(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 0 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 0 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 0 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 0 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
}

static void tile_1x2(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
}

static void tile_1x3(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 2 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 2 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 2 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 2 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
}

static void tile_1x4(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
}

static void tile_1x5(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 4 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 4 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 4 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 4 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
}

static void tile_1x6(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 5 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 5 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 5 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 5 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[5 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 1) - x_sums[5];
}

static void tile_1x7(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    int32x4_t sum_0_6 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 5 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 0, x + 6 * cols + 0);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 5 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 32, x + 6 * cols + 32);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 5 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 64, x + 6 * cols + 64);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 5 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 96, x + 6 * cols + 96);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[5 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 1) - x_sums[5];
    y[6 * y_stride + 0] = vgetq_lane_s32(sum_0_6, 0) - x_sums[6];
}

static void tile_1x8(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    int32x4_t sum_0_0 = vdupq_n_s32(0);
    int32x4_t sum_0_2 = vdupq_n_s32(0);
    int32x4_t sum_0_4 = vdupq_n_s32(0);
    int32x4_t sum_0_6 = vdupq_n_s32(0);
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
            const uint8x16_t v0 = codes(w + 0 * (cols / 4), w + 0 * (cols / 4));
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x0 = activations(x + 0 * cols + 0, x + 1 * cols + 0);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 0, x + 3 * cols + 0);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 0, x + 5 * cols + 0);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 0, x + 7 * cols + 0);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x0 = activations(x + 0 * cols + 32, x + 1 * cols + 32);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 32, x + 3 * cols + 32);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 32, x + 5 * cols + 32);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 32, x + 7 * cols + 32);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x0 = activations(x + 0 * cols + 64, x + 1 * cols + 64);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 64, x + 3 * cols + 64);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 64, x + 5 * cols + 64);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 64, x + 7 * cols + 64);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
                const int8x16_t c0 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x0 = activations(x + 0 * cols + 96, x + 1 * cols + 96);
                sum_0_0 = vmmlaq_s32(sum_0_0, c0, x0);
                const int8x16_t x2 = activations(x + 2 * cols + 96, x + 3 * cols + 96);
                sum_0_2 = vmmlaq_s32(sum_0_2, c0, x2);
                const int8x16_t x4 = activations(x + 4 * cols + 96, x + 5 * cols + 96);
                sum_0_4 = vmmlaq_s32(sum_0_4, c0, x4);
                const int8x16_t x6 = activations(x + 6 * cols + 96, x + 7 * cols + 96);
                sum_0_6 = vmmlaq_s32(sum_0_6, c0, x6);
            }
        }
    }
    y[0 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 0) - x_sums[0];
    y[1 * y_stride + 0] = vgetq_lane_s32(sum_0_0, 1) - x_sums[1];
    y[2 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 0) - x_sums[2];
    y[3 * y_stride + 0] = vgetq_lane_s32(sum_0_2, 1) - x_sums[3];
    y[4 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 0) - x_sums[4];
    y[5 * y_stride + 0] = vgetq_lane_s32(sum_0_4, 1) - x_sums[5];
    y[6 * y_stride + 0] = vgetq_lane_s32(sum_0_6, 0) - x_sums[6];
    y[7 * y_stride + 0] = vgetq_lane_s32(sum_0_6, 1) - x_sums[7];
}

// Walks the tiles of a GEMM: token tiles outside, so that a tile's activations stay in L1d while the block of
// weights streams from L2; single rows and smaller token tiles at the edges.
typedef void tile_fn(const uint8_t *restrict, const int8_t *restrict, const int32_t *restrict, size_t,
                     int32_t *restrict, size_t);

void sterna_i2s_gemm__i8mm(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                               size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    static tile_fn *const whole[] = { tile_8x1, tile_8x2, tile_8x3, tile_8x4, tile_8x5, tile_8x6, tile_8x7, tile_8x8, };
    static tile_fn *const single[] = { tile_1x1, tile_1x2, tile_1x3, tile_1x4, tile_1x5, tile_1x6, tile_1x7, tile_1x8, };
    for (size_t t = 0; t < tokens; t += 8) {
        const size_t n = tokens - t < 8 ? tokens - t : 8;
        size_t r = 0;
        for (; r + 8 <= rows; r += 8) {
            whole[n - 1](w + r * (cols / 4), x + t * cols, x_sums + t, cols, y + t * y_stride + r, y_stride);
        }
        for (; r < rows; r++) {
            single[n - 1](w + r * (cols / 4), x + t * cols, x_sums + t, cols, y + t * y_stride + r, y_stride);
        }
    }
}

