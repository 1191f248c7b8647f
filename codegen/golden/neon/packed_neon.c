// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: re-packed weights times one vector or many, AArch64.
//
// Layout (runtime/model/packed.rs): a tile of 8 rows is a sequence of chunks of 32 bytes, two q registers; row i of the tile owns the bytes
// 4 i .. 4 i + 4 of each. A block of 128 weights is 8 chunks, j = 0, 4 .. 28:
//
//   lane      row 0     row 1     row 2     row 3   | row 4     row 5     row 6     row 7
//   byte i    0 1 2 3   0 1 2 3   0 1 2 3   0 1 2 3 | 0 1 2 3   0 1 2 3   0 1 2 3   0 1 2 3
//
//   byte = c0 << 6 | c1 << 4 | c2 << 2 | c3, codes of the weights 128 b + j + i + {0, 32, 64, 96} of its row: the bytes of I2_S, turned
//
// So field k of a chunk meets the same four activations, 32 k + j .. 32 k + j + 4, in every row, a row's sum stays in its lanes, and a thread's
// share of W is one linear stream. Codes are at most 2, since re-packing refuses 3, and so are i8 as well. 8 rows and not 16: the registers
// then hold the sums of twice as many tokens, which share the work of unpacking. No speed was measured.
//
// smlal and smlal2 add one product to each of eight 16-bit lanes, four of a row; activations are four bytes in every lane of 32 bits.
// Overflow: a 16-bit lane takes 32 products of at most 2 * 128 a block, and is widened every 3 blocks, into y itself. One token has
// two sums, or a chain of additions would be what takes the time: their lanes take half of the products each.
//
// Registers, 6 tokens: 24 sums, 2 bytes, 2 codes, activations, the mask
// Rendered from templates/packed_neon.c for neon: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_packed_gemv__neon(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);
void sterna_packed_gemm__neon(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);

#include <arm_neon.h>

typedef int32_t __attribute__((may_alias, aligned(1))) word; // four activations

static inline int8x16_t broadcast(const int8_t *x) {
    return vreinterpretq_s8_s32(vdupq_n_s32(*(const word *)x));
}

// Each of four rows has four lanes of a, then b.
static inline int32x4_t row_sums(int16x8_t a, int16x8_t b) {
    return vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b));
}

// Additions in place, where they stand: written with intrinsics, gcc copies sums, and clang unpacks much of a block before it
// adds. So registers hold what the text says.
#define ADD_LOW(acc, codes, x) __asm__ volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(acc) : "w"(codes), "w"(x))
#define ADD_HIGH(acc, codes, x) __asm__ volatile("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(acc) : "w"(codes), "w"(x))

// Field k of the bytes v, shifted down.
#define FIELD0(v) vreinterpretq_s8_u8(vshrq_n_u8(v, 6))
#define FIELD1(v) vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), three))
#define FIELD2(v) vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 2), three))
#define FIELD3(v) vreinterpretq_s8_u8(vandq_u8(v, three))

// 1 token.
static void tile_1(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        vst1q_s32(y + 0 * y_stride, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 0 * y_stride + 4, vdupq_n_s32(-x_sums[0]));
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 3 ? blocks : b + 3;
            int16x8_t a0_0 = vdupq_n_s16(0), a0_1 = a0_0, a0_2 = a0_0, a0_3 = a0_0;
            int16x8_t b0_0 = a0_0, b0_1 = a0_0, b0_2 = a0_0, b0_3 = a0_0;
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    __builtin_prefetch(w + 2048);
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 0), v1 = vld1q_u8(w + 16);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 0);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 32);
                            ADD_LOW(b0_0, c0, x0);
                            ADD_HIGH(b0_1, c0, x0);
                            ADD_LOW(b0_2, c1, x0);
                            ADD_HIGH(b0_3, c1, x0);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 64);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 96);
                            ADD_LOW(b0_0, c0, x0);
                            ADD_HIGH(b0_1, c0, x0);
                            ADD_LOW(b0_2, c1, x0);
                            ADD_HIGH(b0_3, c1, x0);
                        }
                    }
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 32), v1 = vld1q_u8(w + 48);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 4);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 36);
                            ADD_LOW(b0_0, c0, x0);
                            ADD_HIGH(b0_1, c0, x0);
                            ADD_LOW(b0_2, c1, x0);
                            ADD_HIGH(b0_3, c1, x0);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 68);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 100);
                            ADD_LOW(b0_0, c0, x0);
                            ADD_HIGH(b0_1, c0, x0);
                            ADD_LOW(b0_2, c1, x0);
                            ADD_HIGH(b0_3, c1, x0);
                        }
                    }
                    p0 += 8;
                }
                p0 += 96;
            }
            a0_0 = vaddq_s16(a0_0, b0_0);
            a0_1 = vaddq_s16(a0_1, b0_1);
            a0_2 = vaddq_s16(a0_2, b0_2);
            a0_3 = vaddq_s16(a0_3, b0_3);
            int32_t *y0 = y + 0 * y_stride;
            vst1q_s32(y0, vaddq_s32(vld1q_s32(y0), row_sums(a0_0, a0_1)));
            vst1q_s32(y0 + 4, vaddq_s32(vld1q_s32(y0 + 4), row_sums(a0_2, a0_3)));
        }
    }
}

// 2 tokens.
static void tile_2(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        const int8_t *p1 = x + 1 * cols;
        vst1q_s32(y + 0 * y_stride, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 0 * y_stride + 4, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 1 * y_stride, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 1 * y_stride + 4, vdupq_n_s32(-x_sums[1]));
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 3 ? blocks : b + 3;
            int16x8_t a0_0 = vdupq_n_s16(0), a0_1 = a0_0, a0_2 = a0_0, a0_3 = a0_0;
            int16x8_t a1_0 = vdupq_n_s16(0), a1_1 = a1_0, a1_2 = a1_0, a1_3 = a1_0;
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    __builtin_prefetch(w + 2048);
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 0), v1 = vld1q_u8(w + 16);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 0);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 0);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 32);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 32);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 64);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 64);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 96);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 96);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                    }
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 32), v1 = vld1q_u8(w + 48);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 4);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 4);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 36);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 36);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 68);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 68);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 100);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 100);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                        }
                    }
                    p0 += 8;
                    p1 += 8;
                }
                p0 += 96;
                p1 += 96;
            }
            int32_t *y0 = y + 0 * y_stride;
            vst1q_s32(y0, vaddq_s32(vld1q_s32(y0), row_sums(a0_0, a0_1)));
            vst1q_s32(y0 + 4, vaddq_s32(vld1q_s32(y0 + 4), row_sums(a0_2, a0_3)));
            int32_t *y1 = y + 1 * y_stride;
            vst1q_s32(y1, vaddq_s32(vld1q_s32(y1), row_sums(a1_0, a1_1)));
            vst1q_s32(y1 + 4, vaddq_s32(vld1q_s32(y1 + 4), row_sums(a1_2, a1_3)));
        }
    }
}

// 3 tokens.
static void tile_3(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        const int8_t *p1 = x + 1 * cols;
        const int8_t *p2 = x + 2 * cols;
        vst1q_s32(y + 0 * y_stride, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 0 * y_stride + 4, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 1 * y_stride, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 1 * y_stride + 4, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 2 * y_stride, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 2 * y_stride + 4, vdupq_n_s32(-x_sums[2]));
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 3 ? blocks : b + 3;
            int16x8_t a0_0 = vdupq_n_s16(0), a0_1 = a0_0, a0_2 = a0_0, a0_3 = a0_0;
            int16x8_t a1_0 = vdupq_n_s16(0), a1_1 = a1_0, a1_2 = a1_0, a1_3 = a1_0;
            int16x8_t a2_0 = vdupq_n_s16(0), a2_1 = a2_0, a2_2 = a2_0, a2_3 = a2_0;
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    __builtin_prefetch(w + 2048);
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 0), v1 = vld1q_u8(w + 16);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 0);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 0);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 0);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 32);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 32);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 32);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 64);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 64);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 64);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 96);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 96);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 96);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                    }
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 32), v1 = vld1q_u8(w + 48);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 4);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 4);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 4);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 36);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 36);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 36);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 68);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 68);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 68);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 100);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 100);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 100);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                        }
                    }
                    p0 += 8;
                    p1 += 8;
                    p2 += 8;
                }
                p0 += 96;
                p1 += 96;
                p2 += 96;
            }
            int32_t *y0 = y + 0 * y_stride;
            vst1q_s32(y0, vaddq_s32(vld1q_s32(y0), row_sums(a0_0, a0_1)));
            vst1q_s32(y0 + 4, vaddq_s32(vld1q_s32(y0 + 4), row_sums(a0_2, a0_3)));
            int32_t *y1 = y + 1 * y_stride;
            vst1q_s32(y1, vaddq_s32(vld1q_s32(y1), row_sums(a1_0, a1_1)));
            vst1q_s32(y1 + 4, vaddq_s32(vld1q_s32(y1 + 4), row_sums(a1_2, a1_3)));
            int32_t *y2 = y + 2 * y_stride;
            vst1q_s32(y2, vaddq_s32(vld1q_s32(y2), row_sums(a2_0, a2_1)));
            vst1q_s32(y2 + 4, vaddq_s32(vld1q_s32(y2 + 4), row_sums(a2_2, a2_3)));
        }
    }
}

// 4 tokens.
static void tile_4(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        const int8_t *p1 = x + 1 * cols;
        const int8_t *p2 = x + 2 * cols;
        const int8_t *p3 = x + 3 * cols;
        vst1q_s32(y + 0 * y_stride, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 0 * y_stride + 4, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 1 * y_stride, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 1 * y_stride + 4, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 2 * y_stride, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 2 * y_stride + 4, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 3 * y_stride, vdupq_n_s32(-x_sums[3]));
        vst1q_s32(y + 3 * y_stride + 4, vdupq_n_s32(-x_sums[3]));
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 3 ? blocks : b + 3;
            int16x8_t a0_0 = vdupq_n_s16(0), a0_1 = a0_0, a0_2 = a0_0, a0_3 = a0_0;
            int16x8_t a1_0 = vdupq_n_s16(0), a1_1 = a1_0, a1_2 = a1_0, a1_3 = a1_0;
            int16x8_t a2_0 = vdupq_n_s16(0), a2_1 = a2_0, a2_2 = a2_0, a2_3 = a2_0;
            int16x8_t a3_0 = vdupq_n_s16(0), a3_1 = a3_0, a3_2 = a3_0, a3_3 = a3_0;
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    __builtin_prefetch(w + 2048);
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 0), v1 = vld1q_u8(w + 16);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 0);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 0);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 0);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 0);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 32);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 32);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 32);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 32);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 64);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 64);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 64);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 64);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 96);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 96);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 96);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 96);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                    }
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 32), v1 = vld1q_u8(w + 48);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 4);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 4);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 4);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 4);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 36);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 36);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 36);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 36);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 68);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 68);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 68);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 68);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 100);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 100);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 100);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 100);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                        }
                    }
                    p0 += 8;
                    p1 += 8;
                    p2 += 8;
                    p3 += 8;
                }
                p0 += 96;
                p1 += 96;
                p2 += 96;
                p3 += 96;
            }
            int32_t *y0 = y + 0 * y_stride;
            vst1q_s32(y0, vaddq_s32(vld1q_s32(y0), row_sums(a0_0, a0_1)));
            vst1q_s32(y0 + 4, vaddq_s32(vld1q_s32(y0 + 4), row_sums(a0_2, a0_3)));
            int32_t *y1 = y + 1 * y_stride;
            vst1q_s32(y1, vaddq_s32(vld1q_s32(y1), row_sums(a1_0, a1_1)));
            vst1q_s32(y1 + 4, vaddq_s32(vld1q_s32(y1 + 4), row_sums(a1_2, a1_3)));
            int32_t *y2 = y + 2 * y_stride;
            vst1q_s32(y2, vaddq_s32(vld1q_s32(y2), row_sums(a2_0, a2_1)));
            vst1q_s32(y2 + 4, vaddq_s32(vld1q_s32(y2 + 4), row_sums(a2_2, a2_3)));
            int32_t *y3 = y + 3 * y_stride;
            vst1q_s32(y3, vaddq_s32(vld1q_s32(y3), row_sums(a3_0, a3_1)));
            vst1q_s32(y3 + 4, vaddq_s32(vld1q_s32(y3 + 4), row_sums(a3_2, a3_3)));
        }
    }
}

// 5 tokens.
static void tile_5(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        const int8_t *p1 = x + 1 * cols;
        const int8_t *p2 = x + 2 * cols;
        const int8_t *p3 = x + 3 * cols;
        const int8_t *p4 = x + 4 * cols;
        vst1q_s32(y + 0 * y_stride, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 0 * y_stride + 4, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 1 * y_stride, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 1 * y_stride + 4, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 2 * y_stride, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 2 * y_stride + 4, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 3 * y_stride, vdupq_n_s32(-x_sums[3]));
        vst1q_s32(y + 3 * y_stride + 4, vdupq_n_s32(-x_sums[3]));
        vst1q_s32(y + 4 * y_stride, vdupq_n_s32(-x_sums[4]));
        vst1q_s32(y + 4 * y_stride + 4, vdupq_n_s32(-x_sums[4]));
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 3 ? blocks : b + 3;
            int16x8_t a0_0 = vdupq_n_s16(0), a0_1 = a0_0, a0_2 = a0_0, a0_3 = a0_0;
            int16x8_t a1_0 = vdupq_n_s16(0), a1_1 = a1_0, a1_2 = a1_0, a1_3 = a1_0;
            int16x8_t a2_0 = vdupq_n_s16(0), a2_1 = a2_0, a2_2 = a2_0, a2_3 = a2_0;
            int16x8_t a3_0 = vdupq_n_s16(0), a3_1 = a3_0, a3_2 = a3_0, a3_3 = a3_0;
            int16x8_t a4_0 = vdupq_n_s16(0), a4_1 = a4_0, a4_2 = a4_0, a4_3 = a4_0;
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    __builtin_prefetch(w + 2048);
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 0), v1 = vld1q_u8(w + 16);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 0);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 0);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 0);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 0);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 0);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 32);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 32);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 32);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 32);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 32);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 64);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 64);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 64);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 64);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 64);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 96);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 96);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 96);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 96);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 96);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                    }
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 32), v1 = vld1q_u8(w + 48);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 4);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 4);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 4);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 4);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 4);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 36);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 36);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 36);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 36);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 36);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 68);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 68);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 68);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 68);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 68);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 100);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 100);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 100);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 100);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 100);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                        }
                    }
                    p0 += 8;
                    p1 += 8;
                    p2 += 8;
                    p3 += 8;
                    p4 += 8;
                }
                p0 += 96;
                p1 += 96;
                p2 += 96;
                p3 += 96;
                p4 += 96;
            }
            int32_t *y0 = y + 0 * y_stride;
            vst1q_s32(y0, vaddq_s32(vld1q_s32(y0), row_sums(a0_0, a0_1)));
            vst1q_s32(y0 + 4, vaddq_s32(vld1q_s32(y0 + 4), row_sums(a0_2, a0_3)));
            int32_t *y1 = y + 1 * y_stride;
            vst1q_s32(y1, vaddq_s32(vld1q_s32(y1), row_sums(a1_0, a1_1)));
            vst1q_s32(y1 + 4, vaddq_s32(vld1q_s32(y1 + 4), row_sums(a1_2, a1_3)));
            int32_t *y2 = y + 2 * y_stride;
            vst1q_s32(y2, vaddq_s32(vld1q_s32(y2), row_sums(a2_0, a2_1)));
            vst1q_s32(y2 + 4, vaddq_s32(vld1q_s32(y2 + 4), row_sums(a2_2, a2_3)));
            int32_t *y3 = y + 3 * y_stride;
            vst1q_s32(y3, vaddq_s32(vld1q_s32(y3), row_sums(a3_0, a3_1)));
            vst1q_s32(y3 + 4, vaddq_s32(vld1q_s32(y3 + 4), row_sums(a3_2, a3_3)));
            int32_t *y4 = y + 4 * y_stride;
            vst1q_s32(y4, vaddq_s32(vld1q_s32(y4), row_sums(a4_0, a4_1)));
            vst1q_s32(y4 + 4, vaddq_s32(vld1q_s32(y4 + 4), row_sums(a4_2, a4_3)));
        }
    }
}

// 6 tokens.
static void tile_6(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        const int8_t *p1 = x + 1 * cols;
        const int8_t *p2 = x + 2 * cols;
        const int8_t *p3 = x + 3 * cols;
        const int8_t *p4 = x + 4 * cols;
        const int8_t *p5 = x + 5 * cols;
        vst1q_s32(y + 0 * y_stride, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 0 * y_stride + 4, vdupq_n_s32(-x_sums[0]));
        vst1q_s32(y + 1 * y_stride, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 1 * y_stride + 4, vdupq_n_s32(-x_sums[1]));
        vst1q_s32(y + 2 * y_stride, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 2 * y_stride + 4, vdupq_n_s32(-x_sums[2]));
        vst1q_s32(y + 3 * y_stride, vdupq_n_s32(-x_sums[3]));
        vst1q_s32(y + 3 * y_stride + 4, vdupq_n_s32(-x_sums[3]));
        vst1q_s32(y + 4 * y_stride, vdupq_n_s32(-x_sums[4]));
        vst1q_s32(y + 4 * y_stride + 4, vdupq_n_s32(-x_sums[4]));
        vst1q_s32(y + 5 * y_stride, vdupq_n_s32(-x_sums[5]));
        vst1q_s32(y + 5 * y_stride + 4, vdupq_n_s32(-x_sums[5]));
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < 3 ? blocks : b + 3;
            int16x8_t a0_0 = vdupq_n_s16(0), a0_1 = a0_0, a0_2 = a0_0, a0_3 = a0_0;
            int16x8_t a1_0 = vdupq_n_s16(0), a1_1 = a1_0, a1_2 = a1_0, a1_3 = a1_0;
            int16x8_t a2_0 = vdupq_n_s16(0), a2_1 = a2_0, a2_2 = a2_0, a2_3 = a2_0;
            int16x8_t a3_0 = vdupq_n_s16(0), a3_1 = a3_0, a3_2 = a3_0, a3_3 = a3_0;
            int16x8_t a4_0 = vdupq_n_s16(0), a4_1 = a4_0, a4_2 = a4_0, a4_3 = a4_0;
            int16x8_t a5_0 = vdupq_n_s16(0), a5_1 = a5_0, a5_2 = a5_0, a5_3 = a5_0;
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    __builtin_prefetch(w + 2048);
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 0), v1 = vld1q_u8(w + 16);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 0);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 0);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 0);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 0);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 0);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 0);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 32);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 32);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 32);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 32);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 32);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 32);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 64);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 64);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 64);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 64);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 64);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 64);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 96);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 96);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 96);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 96);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 96);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 96);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                    }
                    {
                        const uint8x16_t v0 = vld1q_u8(w + 32), v1 = vld1q_u8(w + 48);
                        {
                            const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1);
                            const int8x16_t x0 = broadcast(p0 + 4);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 4);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 4);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 4);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 4);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 4);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                        {
                            const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1);
                            const int8x16_t x0 = broadcast(p0 + 36);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 36);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 36);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 36);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 36);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 36);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                        {
                            const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1);
                            const int8x16_t x0 = broadcast(p0 + 68);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 68);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 68);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 68);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 68);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 68);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                        {
                            const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1);
                            const int8x16_t x0 = broadcast(p0 + 100);
                            ADD_LOW(a0_0, c0, x0);
                            ADD_HIGH(a0_1, c0, x0);
                            ADD_LOW(a0_2, c1, x0);
                            ADD_HIGH(a0_3, c1, x0);
                            const int8x16_t x1 = broadcast(p1 + 100);
                            ADD_LOW(a1_0, c0, x1);
                            ADD_HIGH(a1_1, c0, x1);
                            ADD_LOW(a1_2, c1, x1);
                            ADD_HIGH(a1_3, c1, x1);
                            const int8x16_t x2 = broadcast(p2 + 100);
                            ADD_LOW(a2_0, c0, x2);
                            ADD_HIGH(a2_1, c0, x2);
                            ADD_LOW(a2_2, c1, x2);
                            ADD_HIGH(a2_3, c1, x2);
                            const int8x16_t x3 = broadcast(p3 + 100);
                            ADD_LOW(a3_0, c0, x3);
                            ADD_HIGH(a3_1, c0, x3);
                            ADD_LOW(a3_2, c1, x3);
                            ADD_HIGH(a3_3, c1, x3);
                            const int8x16_t x4 = broadcast(p4 + 100);
                            ADD_LOW(a4_0, c0, x4);
                            ADD_HIGH(a4_1, c0, x4);
                            ADD_LOW(a4_2, c1, x4);
                            ADD_HIGH(a4_3, c1, x4);
                            const int8x16_t x5 = broadcast(p5 + 100);
                            ADD_LOW(a5_0, c0, x5);
                            ADD_HIGH(a5_1, c0, x5);
                            ADD_LOW(a5_2, c1, x5);
                            ADD_HIGH(a5_3, c1, x5);
                        }
                    }
                    p0 += 8;
                    p1 += 8;
                    p2 += 8;
                    p3 += 8;
                    p4 += 8;
                    p5 += 8;
                }
                p0 += 96;
                p1 += 96;
                p2 += 96;
                p3 += 96;
                p4 += 96;
                p5 += 96;
            }
            int32_t *y0 = y + 0 * y_stride;
            vst1q_s32(y0, vaddq_s32(vld1q_s32(y0), row_sums(a0_0, a0_1)));
            vst1q_s32(y0 + 4, vaddq_s32(vld1q_s32(y0 + 4), row_sums(a0_2, a0_3)));
            int32_t *y1 = y + 1 * y_stride;
            vst1q_s32(y1, vaddq_s32(vld1q_s32(y1), row_sums(a1_0, a1_1)));
            vst1q_s32(y1 + 4, vaddq_s32(vld1q_s32(y1 + 4), row_sums(a1_2, a1_3)));
            int32_t *y2 = y + 2 * y_stride;
            vst1q_s32(y2, vaddq_s32(vld1q_s32(y2), row_sums(a2_0, a2_1)));
            vst1q_s32(y2 + 4, vaddq_s32(vld1q_s32(y2 + 4), row_sums(a2_2, a2_3)));
            int32_t *y3 = y + 3 * y_stride;
            vst1q_s32(y3, vaddq_s32(vld1q_s32(y3), row_sums(a3_0, a3_1)));
            vst1q_s32(y3 + 4, vaddq_s32(vld1q_s32(y3 + 4), row_sums(a3_2, a3_3)));
            int32_t *y4 = y + 4 * y_stride;
            vst1q_s32(y4, vaddq_s32(vld1q_s32(y4), row_sums(a4_0, a4_1)));
            vst1q_s32(y4 + 4, vaddq_s32(vld1q_s32(y4 + 4), row_sums(a4_2, a4_3)));
            int32_t *y5 = y + 5 * y_stride;
            vst1q_s32(y5, vaddq_s32(vld1q_s32(y5), row_sums(a5_0, a5_1)));
            vst1q_s32(y5 + 4, vaddq_s32(vld1q_s32(y5 + 4), row_sums(a5_2, a5_3)));
        }
    }
}

void sterna_packed_gemv__neon(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                              size_t cols, int32_t *restrict y) {
    tile_1(w, x, &x_sum, rows, cols, y, rows);
}

void sterna_packed_gemm__neon(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                              size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    static void (*const tiles[])(const uint8_t *, const int8_t *, const int32_t *, size_t, size_t, int32_t *, size_t) = {
        tile_1, tile_2, tile_3, tile_4, tile_5, tile_6};
    while (tokens) {
        // Parts of nearly the same size: 7 tokens are not 6 and 1.
        const size_t parts = (tokens + 5) / 6;
        const size_t n = (tokens + parts - 1) / parts;
        tiles[n - 1](w, x, x_sums, rows, cols, y, y_stride);
        x += n * cols;
        x_sums += n;
        y += n * y_stride;
        tokens -= n;
    }
}
