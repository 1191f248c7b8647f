// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AArch64.
//
// Layout as in i2s_gemv_portable.c: each half of a 32-byte block holds, field by field, runs of 16 consecutive
// weights, so activations are read in their natural order. Codes are at most 3, so they are i8 as well.
// Overflow: a 16-bit lane takes 16 products of at most 3 * 128 a block and is widened every 5 blocks.
// Rendered from templates/i2s_gemv_neon.c for neon: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__neon(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

#include <arm_neon.h>

void sterna_i2s_gemv__neon(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                              size_t cols, int32_t *restrict y) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r++) {
        const int8_t *xb = x;
        int32x4_t sum = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 5 ? blocks : b + 5;
            int16x8_t acc = vdupq_n_s16(0);
            for (; b < end; b++, w += 32, xb += 128) {
                __builtin_prefetch(w + 256);
                const uint8x16_t v0 = vld1q_u8(w + 0);
                const int8x16_t c00 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
                const int8x16_t x00 = vld1q_s8(xb + 0);
                acc = vmlal_s8(acc, vget_low_s8(c00), vget_low_s8(x00));
                acc = vmlal_high_s8(acc, c00, x00);
                const int8x16_t c01 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
                const int8x16_t x01 = vld1q_s8(xb + 32);
                acc = vmlal_s8(acc, vget_low_s8(c01), vget_low_s8(x01));
                acc = vmlal_high_s8(acc, c01, x01);
                const int8x16_t c02 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
                const int8x16_t x02 = vld1q_s8(xb + 64);
                acc = vmlal_s8(acc, vget_low_s8(c02), vget_low_s8(x02));
                acc = vmlal_high_s8(acc, c02, x02);
                const int8x16_t c03 = vreinterpretq_s8_u8(vandq_u8(v0, three));
                const int8x16_t x03 = vld1q_s8(xb + 96);
                acc = vmlal_s8(acc, vget_low_s8(c03), vget_low_s8(x03));
                acc = vmlal_high_s8(acc, c03, x03);
                const uint8x16_t v1 = vld1q_u8(w + 16);
                const int8x16_t c10 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v1, 6), three));
                const int8x16_t x10 = vld1q_s8(xb + 16);
                acc = vmlal_s8(acc, vget_low_s8(c10), vget_low_s8(x10));
                acc = vmlal_high_s8(acc, c10, x10);
                const int8x16_t c11 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v1, 4), three));
                const int8x16_t x11 = vld1q_s8(xb + 48);
                acc = vmlal_s8(acc, vget_low_s8(c11), vget_low_s8(x11));
                acc = vmlal_high_s8(acc, c11, x11);
                const int8x16_t c12 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v1, 2), three));
                const int8x16_t x12 = vld1q_s8(xb + 80);
                acc = vmlal_s8(acc, vget_low_s8(c12), vget_low_s8(x12));
                acc = vmlal_high_s8(acc, c12, x12);
                const int8x16_t c13 = vreinterpretq_s8_u8(vandq_u8(v1, three));
                const int8x16_t x13 = vld1q_s8(xb + 112);
                acc = vmlal_s8(acc, vget_low_s8(c13), vget_low_s8(x13));
                acc = vmlal_high_s8(acc, c13, x13);
            }
            sum = vpadalq_s16(sum, acc);
        }
        y[r] = vaddvq_s32(sum) - x_sum;
    }
}
