// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AArch64 with SDOT.
//
// Layout as in i2s_gemv_portable.c: each half of a 32-byte block holds, field by field, runs of 16 consecutive
// weights, so activations are read in their natural order. Codes are at most 3, so they are i8 as well.
// Overflow: sdot adds 4 products of at most 3 * 128 to an i32 lane, 8 times a block; the renderer bounds cols.
// Rendered from templates/i2s_gemv_neon.c for dotprod: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__dotprod(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);

#include <arm_neon.h>

void sterna_i2s_gemv__dotprod(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                              size_t cols, int32_t *restrict y) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r++) {
        const int8_t *xb = x;
        int32x4_t sum0 = vdupq_n_s32(0), sum1 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++, w += 32, xb += 128) {
            __builtin_prefetch(w + 256);
            const uint8x16_t v0 = vld1q_u8(w + 0);
            const int8x16_t c00 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 6), three));
            sum0 = vdotq_s32(sum0, c00, vld1q_s8(xb + 0));
            const int8x16_t c01 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 4), three));
            sum0 = vdotq_s32(sum0, c01, vld1q_s8(xb + 32));
            const int8x16_t c02 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v0, 2), three));
            sum0 = vdotq_s32(sum0, c02, vld1q_s8(xb + 64));
            const int8x16_t c03 = vreinterpretq_s8_u8(vandq_u8(v0, three));
            sum0 = vdotq_s32(sum0, c03, vld1q_s8(xb + 96));
            const uint8x16_t v1 = vld1q_u8(w + 16);
            const int8x16_t c10 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v1, 6), three));
            sum1 = vdotq_s32(sum1, c10, vld1q_s8(xb + 16));
            const int8x16_t c11 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v1, 4), three));
            sum1 = vdotq_s32(sum1, c11, vld1q_s8(xb + 48));
            const int8x16_t c12 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v1, 2), three));
            sum1 = vdotq_s32(sum1, c12, vld1q_s8(xb + 80));
            const int8x16_t c13 = vreinterpretq_s8_u8(vandq_u8(v1, three));
            sum1 = vdotq_s32(sum1, c13, vld1q_s8(xb + 112));
        }
        y[r] = vaddvq_s32(vaddq_s32(sum0, sum1)) - x_sum;
    }
}
