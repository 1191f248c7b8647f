// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: re-packed weights times one vector or many, AArch64 with SDOT and SMMLA.
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
// sdot adds four products of a row to its 32-bit lane. It takes the four activations by lane: a q register holds those of a field for
// four chunks.
// One or two tokens: field 0 is shifted down (as i8 its 2 would be -128) and the others are used where they stand, one instruction each; the
// sums of fields, scaled by 1, 16, 4 and 1, are apart until the end of a row. Overflow: of field 1, at most 4 * 2 * 16 * 128 in 16
// weights, bounded by the renderer.
//
// Registers, 2 tokens: 16 sums, 8 activations, 3 masks, 1 byte, 4 codes
//
// More tokens: smmla multiplies two rows by two tokens over 8 columns into four lanes. Two neighbouring chunks hold 8 columns in a row, so that
// interleaving their 32-bit lanes gives its operand; of tokens it is 8 bytes of each of two. The last of an odd number is paired with
// itself.
//
//   chunks j, j + 4     r0 r1 r2 r3, r0' r1' r2' r3'   ->   zip1: r0 r0' r1 r1'   zip2: r2 r2' r3 r3'
//   lanes of a sum      r t | r t+1 | r+1 t | r+1 t+1
//
// Registers, 8 tokens: 16 sums, 4 bytes, 4 codes, activations, the mask
// Rendered from templates/packed_neon.c for i8mm: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_packed_gemv__i8mm(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);
void sterna_packed_gemm__i8mm(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);

#include <arm_neon.h>

static inline uint32x4_t load(const uint8_t *w) {
    return vreinterpretq_u32_u8(vld1q_u8(w));
}

static inline int8x16_t pair(const int8_t *a, const int8_t *b) {
    return vcombine_s8(vld1_s8(a), vld1_s8(b));
}

// Additions in place, where they stand: written with intrinsics, gcc copies sums, and clang unpacks much of a block before it
// adds. So registers hold what the text says.
#define DOT(acc, codes, x, lane) __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(acc) : "w"(codes), "w"(x))
#define MULTIPLY(acc, codes, x) __asm__ volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(codes), "w"(x))

// Field k of the bytes v, shifted down.
#define FIELD0(v) vreinterpretq_s8_u8(vshrq_n_u8(v, 6))
#define FIELD1(v) vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), three))
#define FIELD2(v) vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 2), three))
#define FIELD3(v) vreinterpretq_s8_u8(vandq_u8(v, three))

// 1 token.
static void tile_1(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const uint8x16_t field1 = vdupq_n_u8(0x30), field2 = vdupq_n_u8(0x0c);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        int32x4_t f0_0_0 = vdupq_n_s32(0), f1_0_0 = vdupq_n_s32(0), f2_0_0 = vdupq_n_s32(0), f3_0_0 = vdupq_n_s32(0);
        int32x4_t f0_0_1 = vdupq_n_s32(0), f1_0_1 = vdupq_n_s32(0), f2_0_1 = vdupq_n_s32(0), f3_0_1 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int half = 0; half < 2; half++, w += 128) {
                const int8x16_t x0_0 = vld1q_s8(p0 + 0);
                const int8x16_t x1_0 = vld1q_s8(p0 + 32);
                const int8x16_t x2_0 = vld1q_s8(p0 + 64);
                const int8x16_t x3_0 = vld1q_s8(p0 + 96);
                {
                    __builtin_prefetch(w + 2048);
                    const uint8x16_t v0 = vld1q_u8(w + 0);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 0);
                    DOT(f1_0_0, c1_0, x1_0, 0);
                    DOT(f2_0_0, c2_0, x2_0, 0);
                    DOT(f3_0_0, c3_0, x3_0, 0);
                    const uint8x16_t v1 = vld1q_u8(w + 16);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 0);
                    DOT(f1_0_1, c1_1, x1_0, 0);
                    DOT(f2_0_1, c2_1, x2_0, 0);
                    DOT(f3_0_1, c3_1, x3_0, 0);
                }
                {
                    const uint8x16_t v0 = vld1q_u8(w + 32);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 1);
                    DOT(f1_0_0, c1_0, x1_0, 1);
                    DOT(f2_0_0, c2_0, x2_0, 1);
                    DOT(f3_0_0, c3_0, x3_0, 1);
                    const uint8x16_t v1 = vld1q_u8(w + 48);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 1);
                    DOT(f1_0_1, c1_1, x1_0, 1);
                    DOT(f2_0_1, c2_1, x2_0, 1);
                    DOT(f3_0_1, c3_1, x3_0, 1);
                }
                {
                    __builtin_prefetch(w + 2112);
                    const uint8x16_t v0 = vld1q_u8(w + 64);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 2);
                    DOT(f1_0_0, c1_0, x1_0, 2);
                    DOT(f2_0_0, c2_0, x2_0, 2);
                    DOT(f3_0_0, c3_0, x3_0, 2);
                    const uint8x16_t v1 = vld1q_u8(w + 80);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 2);
                    DOT(f1_0_1, c1_1, x1_0, 2);
                    DOT(f2_0_1, c2_1, x2_0, 2);
                    DOT(f3_0_1, c3_1, x3_0, 2);
                }
                {
                    const uint8x16_t v0 = vld1q_u8(w + 96);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 3);
                    DOT(f1_0_0, c1_0, x1_0, 3);
                    DOT(f2_0_0, c2_0, x2_0, 3);
                    DOT(f3_0_0, c3_0, x3_0, 3);
                    const uint8x16_t v1 = vld1q_u8(w + 112);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 3);
                    DOT(f1_0_1, c1_1, x1_0, 3);
                    DOT(f2_0_1, c2_1, x2_0, 3);
                    DOT(f3_0_1, c3_1, x3_0, 3);
                }
                p0 += 16;
            }
            p0 += 96;
        }
        f0_0_0 = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_0_0, f3_0_0), f1_0_0, 4), f2_0_0, 2);
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(f0_0_0, vdupq_n_s32(x_sums[0])));
        f0_0_1 = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_0_1, f3_0_1), f1_0_1, 4), f2_0_1, 2);
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(f0_0_1, vdupq_n_s32(x_sums[0])));
    }
}

// 2 tokens.
static void tile_2(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const uint8x16_t field1 = vdupq_n_u8(0x30), field2 = vdupq_n_u8(0x0c);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
        const int8_t *p0 = x + 0 * cols;
        const int8_t *p1 = x + 1 * cols;
        int32x4_t f0_0_0 = vdupq_n_s32(0), f1_0_0 = vdupq_n_s32(0), f2_0_0 = vdupq_n_s32(0), f3_0_0 = vdupq_n_s32(0);
        int32x4_t f0_0_1 = vdupq_n_s32(0), f1_0_1 = vdupq_n_s32(0), f2_0_1 = vdupq_n_s32(0), f3_0_1 = vdupq_n_s32(0);
        int32x4_t f0_1_0 = vdupq_n_s32(0), f1_1_0 = vdupq_n_s32(0), f2_1_0 = vdupq_n_s32(0), f3_1_0 = vdupq_n_s32(0);
        int32x4_t f0_1_1 = vdupq_n_s32(0), f1_1_1 = vdupq_n_s32(0), f2_1_1 = vdupq_n_s32(0), f3_1_1 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int half = 0; half < 2; half++, w += 128) {
                const int8x16_t x0_0 = vld1q_s8(p0 + 0);
                const int8x16_t x1_0 = vld1q_s8(p0 + 32);
                const int8x16_t x2_0 = vld1q_s8(p0 + 64);
                const int8x16_t x3_0 = vld1q_s8(p0 + 96);
                const int8x16_t x0_1 = vld1q_s8(p1 + 0);
                const int8x16_t x1_1 = vld1q_s8(p1 + 32);
                const int8x16_t x2_1 = vld1q_s8(p1 + 64);
                const int8x16_t x3_1 = vld1q_s8(p1 + 96);
                {
                    __builtin_prefetch(w + 2048);
                    const uint8x16_t v0 = vld1q_u8(w + 0);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 0);
                    DOT(f1_0_0, c1_0, x1_0, 0);
                    DOT(f2_0_0, c2_0, x2_0, 0);
                    DOT(f3_0_0, c3_0, x3_0, 0);
                    DOT(f0_1_0, c0_0, x0_1, 0);
                    DOT(f1_1_0, c1_0, x1_1, 0);
                    DOT(f2_1_0, c2_0, x2_1, 0);
                    DOT(f3_1_0, c3_0, x3_1, 0);
                    const uint8x16_t v1 = vld1q_u8(w + 16);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 0);
                    DOT(f1_0_1, c1_1, x1_0, 0);
                    DOT(f2_0_1, c2_1, x2_0, 0);
                    DOT(f3_0_1, c3_1, x3_0, 0);
                    DOT(f0_1_1, c0_1, x0_1, 0);
                    DOT(f1_1_1, c1_1, x1_1, 0);
                    DOT(f2_1_1, c2_1, x2_1, 0);
                    DOT(f3_1_1, c3_1, x3_1, 0);
                }
                {
                    const uint8x16_t v0 = vld1q_u8(w + 32);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 1);
                    DOT(f1_0_0, c1_0, x1_0, 1);
                    DOT(f2_0_0, c2_0, x2_0, 1);
                    DOT(f3_0_0, c3_0, x3_0, 1);
                    DOT(f0_1_0, c0_0, x0_1, 1);
                    DOT(f1_1_0, c1_0, x1_1, 1);
                    DOT(f2_1_0, c2_0, x2_1, 1);
                    DOT(f3_1_0, c3_0, x3_1, 1);
                    const uint8x16_t v1 = vld1q_u8(w + 48);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 1);
                    DOT(f1_0_1, c1_1, x1_0, 1);
                    DOT(f2_0_1, c2_1, x2_0, 1);
                    DOT(f3_0_1, c3_1, x3_0, 1);
                    DOT(f0_1_1, c0_1, x0_1, 1);
                    DOT(f1_1_1, c1_1, x1_1, 1);
                    DOT(f2_1_1, c2_1, x2_1, 1);
                    DOT(f3_1_1, c3_1, x3_1, 1);
                }
                {
                    __builtin_prefetch(w + 2112);
                    const uint8x16_t v0 = vld1q_u8(w + 64);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 2);
                    DOT(f1_0_0, c1_0, x1_0, 2);
                    DOT(f2_0_0, c2_0, x2_0, 2);
                    DOT(f3_0_0, c3_0, x3_0, 2);
                    DOT(f0_1_0, c0_0, x0_1, 2);
                    DOT(f1_1_0, c1_0, x1_1, 2);
                    DOT(f2_1_0, c2_0, x2_1, 2);
                    DOT(f3_1_0, c3_0, x3_1, 2);
                    const uint8x16_t v1 = vld1q_u8(w + 80);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 2);
                    DOT(f1_0_1, c1_1, x1_0, 2);
                    DOT(f2_0_1, c2_1, x2_0, 2);
                    DOT(f3_0_1, c3_1, x3_0, 2);
                    DOT(f0_1_1, c0_1, x0_1, 2);
                    DOT(f1_1_1, c1_1, x1_1, 2);
                    DOT(f2_1_1, c2_1, x2_1, 2);
                    DOT(f3_1_1, c3_1, x3_1, 2);
                }
                {
                    const uint8x16_t v0 = vld1q_u8(w + 96);
                    const int8x16_t c0_0 = FIELD0(v0), c1_0 = vreinterpretq_s8_u8(vandq_u8(v0, field1));
                    const int8x16_t c2_0 = vreinterpretq_s8_u8(vandq_u8(v0, field2)), c3_0 = FIELD3(v0);
                    DOT(f0_0_0, c0_0, x0_0, 3);
                    DOT(f1_0_0, c1_0, x1_0, 3);
                    DOT(f2_0_0, c2_0, x2_0, 3);
                    DOT(f3_0_0, c3_0, x3_0, 3);
                    DOT(f0_1_0, c0_0, x0_1, 3);
                    DOT(f1_1_0, c1_0, x1_1, 3);
                    DOT(f2_1_0, c2_0, x2_1, 3);
                    DOT(f3_1_0, c3_0, x3_1, 3);
                    const uint8x16_t v1 = vld1q_u8(w + 112);
                    const int8x16_t c0_1 = FIELD0(v1), c1_1 = vreinterpretq_s8_u8(vandq_u8(v1, field1));
                    const int8x16_t c2_1 = vreinterpretq_s8_u8(vandq_u8(v1, field2)), c3_1 = FIELD3(v1);
                    DOT(f0_0_1, c0_1, x0_0, 3);
                    DOT(f1_0_1, c1_1, x1_0, 3);
                    DOT(f2_0_1, c2_1, x2_0, 3);
                    DOT(f3_0_1, c3_1, x3_0, 3);
                    DOT(f0_1_1, c0_1, x0_1, 3);
                    DOT(f1_1_1, c1_1, x1_1, 3);
                    DOT(f2_1_1, c2_1, x2_1, 3);
                    DOT(f3_1_1, c3_1, x3_1, 3);
                }
                p0 += 16;
                p1 += 16;
            }
            p0 += 96;
            p1 += 96;
        }
        f0_0_0 = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_0_0, f3_0_0), f1_0_0, 4), f2_0_0, 2);
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(f0_0_0, vdupq_n_s32(x_sums[0])));
        f0_0_1 = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_0_1, f3_0_1), f1_0_1, 4), f2_0_1, 2);
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(f0_0_1, vdupq_n_s32(x_sums[0])));
        f0_1_0 = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_1_0, f3_1_0), f1_1_0, 4), f2_1_0, 2);
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(f0_1_0, vdupq_n_s32(x_sums[1])));
        f0_1_1 = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_1_1, f3_1_1), f1_1_1, 4), f2_1_1, 2);
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(f0_1_1, vdupq_n_s32(x_sums[1])));
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
        int32x4_t a0_0 = vdupq_n_s32(0), a0_1 = vdupq_n_s32(0), a0_2 = vdupq_n_s32(0), a0_3 = vdupq_n_s32(0);
        int32x4_t a2_0 = vdupq_n_s32(0), a2_1 = vdupq_n_s32(0), a2_2 = vdupq_n_s32(0), a2_3 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                __builtin_prefetch(w + 2048);
                const uint32x4_t even0 = load(w + 0), odd0 = load(w + 32);
                const uint8x16_t v0 = vreinterpretq_u8_u32(vzip1q_u32(even0, odd0));
                const uint8x16_t v1 = vreinterpretq_u8_u32(vzip2q_u32(even0, odd0));
                const uint32x4_t even1 = load(w + 16), odd1 = load(w + 48);
                const uint8x16_t v2 = vreinterpretq_u8_u32(vzip1q_u32(even1, odd1));
                const uint8x16_t v3 = vreinterpretq_u8_u32(vzip2q_u32(even1, odd1));
                {
                    const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1), c2 = FIELD0(v2), c3 = FIELD0(v3);
                    const int8x16_t x0 = pair(p0 + 0, p1 + 0);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 0, p2 + 0);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                {
                    const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1), c2 = FIELD1(v2), c3 = FIELD1(v3);
                    const int8x16_t x0 = pair(p0 + 32, p1 + 32);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 32, p2 + 32);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                {
                    const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1), c2 = FIELD2(v2), c3 = FIELD2(v3);
                    const int8x16_t x0 = pair(p0 + 64, p1 + 64);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 64, p2 + 64);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                {
                    const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1), c2 = FIELD3(v2), c3 = FIELD3(v3);
                    const int8x16_t x0 = pair(p0 + 96, p1 + 96);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 96, p2 + 96);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                p0 += 8;
                p1 += 8;
                p2 += 8;
            }
            p0 += 96;
            p1 += 96;
            p2 += 96;
        }
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(vuzp1q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(vuzp1q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(vuzp2q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(vuzp2q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 2 * y_stride + 0, vsubq_s32(vuzp1q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 2 * y_stride + 4, vsubq_s32(vuzp1q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[2])));
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
        int32x4_t a0_0 = vdupq_n_s32(0), a0_1 = vdupq_n_s32(0), a0_2 = vdupq_n_s32(0), a0_3 = vdupq_n_s32(0);
        int32x4_t a2_0 = vdupq_n_s32(0), a2_1 = vdupq_n_s32(0), a2_2 = vdupq_n_s32(0), a2_3 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                __builtin_prefetch(w + 2048);
                const uint32x4_t even0 = load(w + 0), odd0 = load(w + 32);
                const uint8x16_t v0 = vreinterpretq_u8_u32(vzip1q_u32(even0, odd0));
                const uint8x16_t v1 = vreinterpretq_u8_u32(vzip2q_u32(even0, odd0));
                const uint32x4_t even1 = load(w + 16), odd1 = load(w + 48);
                const uint8x16_t v2 = vreinterpretq_u8_u32(vzip1q_u32(even1, odd1));
                const uint8x16_t v3 = vreinterpretq_u8_u32(vzip2q_u32(even1, odd1));
                {
                    const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1), c2 = FIELD0(v2), c3 = FIELD0(v3);
                    const int8x16_t x0 = pair(p0 + 0, p1 + 0);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 0, p3 + 0);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                {
                    const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1), c2 = FIELD1(v2), c3 = FIELD1(v3);
                    const int8x16_t x0 = pair(p0 + 32, p1 + 32);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 32, p3 + 32);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                {
                    const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1), c2 = FIELD2(v2), c3 = FIELD2(v3);
                    const int8x16_t x0 = pair(p0 + 64, p1 + 64);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 64, p3 + 64);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                }
                {
                    const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1), c2 = FIELD3(v2), c3 = FIELD3(v3);
                    const int8x16_t x0 = pair(p0 + 96, p1 + 96);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 96, p3 + 96);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
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
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(vuzp1q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(vuzp1q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(vuzp2q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(vuzp2q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 2 * y_stride + 0, vsubq_s32(vuzp1q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 2 * y_stride + 4, vsubq_s32(vuzp1q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 3 * y_stride + 0, vsubq_s32(vuzp2q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 3 * y_stride + 4, vsubq_s32(vuzp2q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[3])));
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
        int32x4_t a0_0 = vdupq_n_s32(0), a0_1 = vdupq_n_s32(0), a0_2 = vdupq_n_s32(0), a0_3 = vdupq_n_s32(0);
        int32x4_t a2_0 = vdupq_n_s32(0), a2_1 = vdupq_n_s32(0), a2_2 = vdupq_n_s32(0), a2_3 = vdupq_n_s32(0);
        int32x4_t a4_0 = vdupq_n_s32(0), a4_1 = vdupq_n_s32(0), a4_2 = vdupq_n_s32(0), a4_3 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                __builtin_prefetch(w + 2048);
                const uint32x4_t even0 = load(w + 0), odd0 = load(w + 32);
                const uint8x16_t v0 = vreinterpretq_u8_u32(vzip1q_u32(even0, odd0));
                const uint8x16_t v1 = vreinterpretq_u8_u32(vzip2q_u32(even0, odd0));
                const uint32x4_t even1 = load(w + 16), odd1 = load(w + 48);
                const uint8x16_t v2 = vreinterpretq_u8_u32(vzip1q_u32(even1, odd1));
                const uint8x16_t v3 = vreinterpretq_u8_u32(vzip2q_u32(even1, odd1));
                {
                    const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1), c2 = FIELD0(v2), c3 = FIELD0(v3);
                    const int8x16_t x0 = pair(p0 + 0, p1 + 0);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 0, p3 + 0);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 0, p4 + 0);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                }
                {
                    const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1), c2 = FIELD1(v2), c3 = FIELD1(v3);
                    const int8x16_t x0 = pair(p0 + 32, p1 + 32);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 32, p3 + 32);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 32, p4 + 32);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                }
                {
                    const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1), c2 = FIELD2(v2), c3 = FIELD2(v3);
                    const int8x16_t x0 = pair(p0 + 64, p1 + 64);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 64, p3 + 64);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 64, p4 + 64);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                }
                {
                    const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1), c2 = FIELD3(v2), c3 = FIELD3(v3);
                    const int8x16_t x0 = pair(p0 + 96, p1 + 96);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 96, p3 + 96);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 96, p4 + 96);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
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
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(vuzp1q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(vuzp1q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(vuzp2q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(vuzp2q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 2 * y_stride + 0, vsubq_s32(vuzp1q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 2 * y_stride + 4, vsubq_s32(vuzp1q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 3 * y_stride + 0, vsubq_s32(vuzp2q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 3 * y_stride + 4, vsubq_s32(vuzp2q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 4 * y_stride + 0, vsubq_s32(vuzp1q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 4 * y_stride + 4, vsubq_s32(vuzp1q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[4])));
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
        int32x4_t a0_0 = vdupq_n_s32(0), a0_1 = vdupq_n_s32(0), a0_2 = vdupq_n_s32(0), a0_3 = vdupq_n_s32(0);
        int32x4_t a2_0 = vdupq_n_s32(0), a2_1 = vdupq_n_s32(0), a2_2 = vdupq_n_s32(0), a2_3 = vdupq_n_s32(0);
        int32x4_t a4_0 = vdupq_n_s32(0), a4_1 = vdupq_n_s32(0), a4_2 = vdupq_n_s32(0), a4_3 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                __builtin_prefetch(w + 2048);
                const uint32x4_t even0 = load(w + 0), odd0 = load(w + 32);
                const uint8x16_t v0 = vreinterpretq_u8_u32(vzip1q_u32(even0, odd0));
                const uint8x16_t v1 = vreinterpretq_u8_u32(vzip2q_u32(even0, odd0));
                const uint32x4_t even1 = load(w + 16), odd1 = load(w + 48);
                const uint8x16_t v2 = vreinterpretq_u8_u32(vzip1q_u32(even1, odd1));
                const uint8x16_t v3 = vreinterpretq_u8_u32(vzip2q_u32(even1, odd1));
                {
                    const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1), c2 = FIELD0(v2), c3 = FIELD0(v3);
                    const int8x16_t x0 = pair(p0 + 0, p1 + 0);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 0, p3 + 0);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 0, p5 + 0);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                }
                {
                    const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1), c2 = FIELD1(v2), c3 = FIELD1(v3);
                    const int8x16_t x0 = pair(p0 + 32, p1 + 32);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 32, p3 + 32);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 32, p5 + 32);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                }
                {
                    const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1), c2 = FIELD2(v2), c3 = FIELD2(v3);
                    const int8x16_t x0 = pair(p0 + 64, p1 + 64);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 64, p3 + 64);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 64, p5 + 64);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                }
                {
                    const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1), c2 = FIELD3(v2), c3 = FIELD3(v3);
                    const int8x16_t x0 = pair(p0 + 96, p1 + 96);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 96, p3 + 96);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 96, p5 + 96);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
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
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(vuzp1q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(vuzp1q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(vuzp2q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(vuzp2q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 2 * y_stride + 0, vsubq_s32(vuzp1q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 2 * y_stride + 4, vsubq_s32(vuzp1q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 3 * y_stride + 0, vsubq_s32(vuzp2q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 3 * y_stride + 4, vsubq_s32(vuzp2q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 4 * y_stride + 0, vsubq_s32(vuzp1q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 4 * y_stride + 4, vsubq_s32(vuzp1q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 5 * y_stride + 0, vsubq_s32(vuzp2q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[5])));
        vst1q_s32(y + 5 * y_stride + 4, vsubq_s32(vuzp2q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[5])));
    }
}

// 7 tokens.
static void tile_7(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
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
        const int8_t *p6 = x + 6 * cols;
        int32x4_t a0_0 = vdupq_n_s32(0), a0_1 = vdupq_n_s32(0), a0_2 = vdupq_n_s32(0), a0_3 = vdupq_n_s32(0);
        int32x4_t a2_0 = vdupq_n_s32(0), a2_1 = vdupq_n_s32(0), a2_2 = vdupq_n_s32(0), a2_3 = vdupq_n_s32(0);
        int32x4_t a4_0 = vdupq_n_s32(0), a4_1 = vdupq_n_s32(0), a4_2 = vdupq_n_s32(0), a4_3 = vdupq_n_s32(0);
        int32x4_t a6_0 = vdupq_n_s32(0), a6_1 = vdupq_n_s32(0), a6_2 = vdupq_n_s32(0), a6_3 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                __builtin_prefetch(w + 2048);
                const uint32x4_t even0 = load(w + 0), odd0 = load(w + 32);
                const uint8x16_t v0 = vreinterpretq_u8_u32(vzip1q_u32(even0, odd0));
                const uint8x16_t v1 = vreinterpretq_u8_u32(vzip2q_u32(even0, odd0));
                const uint32x4_t even1 = load(w + 16), odd1 = load(w + 48);
                const uint8x16_t v2 = vreinterpretq_u8_u32(vzip1q_u32(even1, odd1));
                const uint8x16_t v3 = vreinterpretq_u8_u32(vzip2q_u32(even1, odd1));
                {
                    const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1), c2 = FIELD0(v2), c3 = FIELD0(v3);
                    const int8x16_t x0 = pair(p0 + 0, p1 + 0);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 0, p3 + 0);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 0, p5 + 0);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 0, p6 + 0);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                {
                    const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1), c2 = FIELD1(v2), c3 = FIELD1(v3);
                    const int8x16_t x0 = pair(p0 + 32, p1 + 32);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 32, p3 + 32);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 32, p5 + 32);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 32, p6 + 32);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                {
                    const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1), c2 = FIELD2(v2), c3 = FIELD2(v3);
                    const int8x16_t x0 = pair(p0 + 64, p1 + 64);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 64, p3 + 64);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 64, p5 + 64);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 64, p6 + 64);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                {
                    const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1), c2 = FIELD3(v2), c3 = FIELD3(v3);
                    const int8x16_t x0 = pair(p0 + 96, p1 + 96);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 96, p3 + 96);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 96, p5 + 96);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 96, p6 + 96);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                p0 += 8;
                p1 += 8;
                p2 += 8;
                p3 += 8;
                p4 += 8;
                p5 += 8;
                p6 += 8;
            }
            p0 += 96;
            p1 += 96;
            p2 += 96;
            p3 += 96;
            p4 += 96;
            p5 += 96;
            p6 += 96;
        }
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(vuzp1q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(vuzp1q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(vuzp2q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(vuzp2q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 2 * y_stride + 0, vsubq_s32(vuzp1q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 2 * y_stride + 4, vsubq_s32(vuzp1q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 3 * y_stride + 0, vsubq_s32(vuzp2q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 3 * y_stride + 4, vsubq_s32(vuzp2q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 4 * y_stride + 0, vsubq_s32(vuzp1q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 4 * y_stride + 4, vsubq_s32(vuzp1q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 5 * y_stride + 0, vsubq_s32(vuzp2q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[5])));
        vst1q_s32(y + 5 * y_stride + 4, vsubq_s32(vuzp2q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[5])));
        vst1q_s32(y + 6 * y_stride + 0, vsubq_s32(vuzp1q_s32(a6_0, a6_1), vdupq_n_s32(x_sums[6])));
        vst1q_s32(y + 6 * y_stride + 4, vsubq_s32(vuzp1q_s32(a6_2, a6_3), vdupq_n_s32(x_sums[6])));
    }
}

// 8 tokens.
static void tile_8(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
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
        const int8_t *p6 = x + 6 * cols;
        const int8_t *p7 = x + 7 * cols;
        int32x4_t a0_0 = vdupq_n_s32(0), a0_1 = vdupq_n_s32(0), a0_2 = vdupq_n_s32(0), a0_3 = vdupq_n_s32(0);
        int32x4_t a2_0 = vdupq_n_s32(0), a2_1 = vdupq_n_s32(0), a2_2 = vdupq_n_s32(0), a2_3 = vdupq_n_s32(0);
        int32x4_t a4_0 = vdupq_n_s32(0), a4_1 = vdupq_n_s32(0), a4_2 = vdupq_n_s32(0), a4_3 = vdupq_n_s32(0);
        int32x4_t a6_0 = vdupq_n_s32(0), a6_1 = vdupq_n_s32(0), a6_2 = vdupq_n_s32(0), a6_3 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                __builtin_prefetch(w + 2048);
                const uint32x4_t even0 = load(w + 0), odd0 = load(w + 32);
                const uint8x16_t v0 = vreinterpretq_u8_u32(vzip1q_u32(even0, odd0));
                const uint8x16_t v1 = vreinterpretq_u8_u32(vzip2q_u32(even0, odd0));
                const uint32x4_t even1 = load(w + 16), odd1 = load(w + 48);
                const uint8x16_t v2 = vreinterpretq_u8_u32(vzip1q_u32(even1, odd1));
                const uint8x16_t v3 = vreinterpretq_u8_u32(vzip2q_u32(even1, odd1));
                {
                    const int8x16_t c0 = FIELD0(v0), c1 = FIELD0(v1), c2 = FIELD0(v2), c3 = FIELD0(v3);
                    const int8x16_t x0 = pair(p0 + 0, p1 + 0);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 0, p3 + 0);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 0, p5 + 0);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 0, p7 + 0);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                {
                    const int8x16_t c0 = FIELD1(v0), c1 = FIELD1(v1), c2 = FIELD1(v2), c3 = FIELD1(v3);
                    const int8x16_t x0 = pair(p0 + 32, p1 + 32);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 32, p3 + 32);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 32, p5 + 32);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 32, p7 + 32);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                {
                    const int8x16_t c0 = FIELD2(v0), c1 = FIELD2(v1), c2 = FIELD2(v2), c3 = FIELD2(v3);
                    const int8x16_t x0 = pair(p0 + 64, p1 + 64);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 64, p3 + 64);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 64, p5 + 64);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 64, p7 + 64);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                {
                    const int8x16_t c0 = FIELD3(v0), c1 = FIELD3(v1), c2 = FIELD3(v2), c3 = FIELD3(v3);
                    const int8x16_t x0 = pair(p0 + 96, p1 + 96);
                    MULTIPLY(a0_0, c0, x0);
                    MULTIPLY(a0_1, c1, x0);
                    MULTIPLY(a0_2, c2, x0);
                    MULTIPLY(a0_3, c3, x0);
                    const int8x16_t x2 = pair(p2 + 96, p3 + 96);
                    MULTIPLY(a2_0, c0, x2);
                    MULTIPLY(a2_1, c1, x2);
                    MULTIPLY(a2_2, c2, x2);
                    MULTIPLY(a2_3, c3, x2);
                    const int8x16_t x4 = pair(p4 + 96, p5 + 96);
                    MULTIPLY(a4_0, c0, x4);
                    MULTIPLY(a4_1, c1, x4);
                    MULTIPLY(a4_2, c2, x4);
                    MULTIPLY(a4_3, c3, x4);
                    const int8x16_t x6 = pair(p6 + 96, p7 + 96);
                    MULTIPLY(a6_0, c0, x6);
                    MULTIPLY(a6_1, c1, x6);
                    MULTIPLY(a6_2, c2, x6);
                    MULTIPLY(a6_3, c3, x6);
                }
                p0 += 8;
                p1 += 8;
                p2 += 8;
                p3 += 8;
                p4 += 8;
                p5 += 8;
                p6 += 8;
                p7 += 8;
            }
            p0 += 96;
            p1 += 96;
            p2 += 96;
            p3 += 96;
            p4 += 96;
            p5 += 96;
            p6 += 96;
            p7 += 96;
        }
        vst1q_s32(y + 0 * y_stride + 0, vsubq_s32(vuzp1q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 0 * y_stride + 4, vsubq_s32(vuzp1q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[0])));
        vst1q_s32(y + 1 * y_stride + 0, vsubq_s32(vuzp2q_s32(a0_0, a0_1), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 1 * y_stride + 4, vsubq_s32(vuzp2q_s32(a0_2, a0_3), vdupq_n_s32(x_sums[1])));
        vst1q_s32(y + 2 * y_stride + 0, vsubq_s32(vuzp1q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 2 * y_stride + 4, vsubq_s32(vuzp1q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[2])));
        vst1q_s32(y + 3 * y_stride + 0, vsubq_s32(vuzp2q_s32(a2_0, a2_1), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 3 * y_stride + 4, vsubq_s32(vuzp2q_s32(a2_2, a2_3), vdupq_n_s32(x_sums[3])));
        vst1q_s32(y + 4 * y_stride + 0, vsubq_s32(vuzp1q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 4 * y_stride + 4, vsubq_s32(vuzp1q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[4])));
        vst1q_s32(y + 5 * y_stride + 0, vsubq_s32(vuzp2q_s32(a4_0, a4_1), vdupq_n_s32(x_sums[5])));
        vst1q_s32(y + 5 * y_stride + 4, vsubq_s32(vuzp2q_s32(a4_2, a4_3), vdupq_n_s32(x_sums[5])));
        vst1q_s32(y + 6 * y_stride + 0, vsubq_s32(vuzp1q_s32(a6_0, a6_1), vdupq_n_s32(x_sums[6])));
        vst1q_s32(y + 6 * y_stride + 4, vsubq_s32(vuzp1q_s32(a6_2, a6_3), vdupq_n_s32(x_sums[6])));
        vst1q_s32(y + 7 * y_stride + 0, vsubq_s32(vuzp2q_s32(a6_0, a6_1), vdupq_n_s32(x_sums[7])));
        vst1q_s32(y + 7 * y_stride + 4, vsubq_s32(vuzp2q_s32(a6_2, a6_3), vdupq_n_s32(x_sums[7])));
    }
}

// The kernels over re-packed weights, from tile_1 to tile_8, of so many tokens each.
void sterna_packed_gemv__i8mm(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                              int32_t *restrict y) {
    tile_1(w, x, &x_sum, rows, cols, y, rows);
}

void sterna_packed_gemm__i8mm(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                              size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    static void (*const tiles[])(const uint8_t *, const int8_t *, const int32_t *, size_t, size_t, int32_t *, size_t) = {
        tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8};
    while (tokens) {
        // Parts of nearly the same size: 9 tokens are not 8 and 1. Only the last may be odd.
        const size_t parts = (tokens + 7) / 8;
        size_t n = (tokens + parts - 1) / parts;
        n += n % 2 && n < tokens && n < 8;
        tiles[n - 1](w, x, x_sums, rows, cols, y, y_stride);
        x += n * cols;
        x_sums += n;
        y += n * y_stride;
        tokens -= n;
    }
}

