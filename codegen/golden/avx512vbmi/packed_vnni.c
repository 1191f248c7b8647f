// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: re-packed weights times one vector or many, x86-64 with VNNI.
//
// Layout (runtime/model/packed.rs): a tile of 16 rows is a sequence of chunks of 64 bytes, one register each; row i
// of the tile owns the four bytes of lane i. So sums of a row stay in its lane, nothing is added across lanes, the
// activations are broadcast, and a thread's share of W is one linear stream.
//
//   byte = c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4, codes of the weights 20 k + j + {0, 4, 8, 12, 16} of its row, j its place in the lane
//   c4: subtracting 81 wraps to a larger number unless there is an 81 in the byte, so two unsigned minima leave byte mod 81;
//       byte - byte mod 81 = 81 c4. No comparison into mask registers, which costs more.
//   c0 .. c3: byte mod 81 looks up the four codes as 2-bit fields.
//
// One token: a field is used where it stands, scaled; the factor is the same for all sums of an accumulator and goes once a
// row. Overflow: at most 4 * 162 * 128 in 20 weights, bounded by the renderer. Several tokens: fields are
// shifted down once for all of them, and each token has an accumulator, few tokens two. Each has a pointer too: of one pointer and
// strides gcc makes more addresses than there are registers.
// Rendered from templates/packed_vnni.c for avx512vbmi: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_packed_gemv__avx512vbmi(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);
void sterna_packed_gemm__avx512vbmi(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);

// Registers of 64 bytes by one set of names, for what packed_*.c do with them on x86-64.
#include <immintrin.h>

typedef int32_t __attribute__((may_alias, aligned(1))) word; // four activations
typedef __m512i vec;
#define SET8 _mm512_set1_epi8
#define SET16 _mm512_set1_epi16
#define SET32 _mm512_set1_epi32
#define ZERO _mm512_setzero_si512
#define LOAD(p) _mm512_loadu_si512((const vec *)(p))
#define STORE(p, v) _mm512_storeu_si512((vec *)(p), v)
#define AND _mm512_and_si512
#define SHR16 _mm512_srli_epi16
#define SAR32 _mm512_srai_epi32
#define ADD32 _mm512_add_epi32
#define SUB32 _mm512_sub_epi32
#define MADD16 _mm512_madd_epi16
#define MADDUBS _mm512_maddubs_epi16

// acc += four products a lane. The instruction updates its accumulator in place; written with the intrinsic, gcc copies it.
#define DOT(acc, codes, p) __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*(const word *)(p)))

// byte mod 81 -> four codes.
static const uint8_t FIELDS[128] __attribute__((aligned(64))) = {0, 1, 2, 4, 5, 6, 8, 9, 10, 16, 17, 18, 20, 21, 22, 24, 25, 26, 32, 33, 34, 36, 37, 38, 40, 41, 42, 64, 65, 66, 68, 69, 70, 72, 73, 74, 80, 81, 82, 84, 85, 86, 88, 89, 90, 96, 97, 98, 100, 101, 102, 104, 105, 106, 128, 129, 130, 132, 133, 134, 136, 137, 138, 144, 145, 146, 148, 149, 150, 152, 153, 154, 160, 161, 162, 164, 165, 166, 168, 169, 170, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, };

// v mod 81 of every byte up to 242.
static inline __m512i mod81(__m512i v) {
    const __m512i c81 = SET8(81);
    v = _mm512_min_epu8(v, _mm512_sub_epi8(v, c81));
    return _mm512_min_epu8(v, _mm512_sub_epi8(v, c81));
}

// 1 token.
static void tile_1(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 1] = {0};
    for (size_t t = 0; t < 1; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        vec f0 = ZERO(), f1 = f0, f2 = f0, f3 = f0, f4 = f0;
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                DOT(f0, AND(f, SET8(0x03)), p0);
                DOT(f1, AND(f, SET8(0x0c)), p0 + 4);
                DOT(f2, AND(f, SET8(0x30)), p0 + 8);
                DOT(f3, AND(f, SET8((char)0xc0)), p0 + 12);
                DOT(f4, h, p0 + 16);
                w += 64;
                p0 += 20;
            }
        }
        vec a0 = ADD32(ADD32(SAR32(f3, 6), SAR32(f2, 4)), ADD32(SAR32(f1, 2), f0));
        // An exact multiple of 81: times its inverse modulo 2^32.
        a0 = ADD32(a0, _mm512_mullo_epi32(f4, SET32(0x781948b1)));
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
    }
}

// 2 tokens.
static void tile_2(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 2] = {0};
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), b0 = ZERO(), a1 = ZERO(), b1 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(b0, c1, p0 + 4);
                DOT(b1, c1, p1 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(b0, c3, p0 + 12);
                DOT(b1, c3, p1 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
            }
        }
        a0 = ADD32(a0, b0);
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        a1 = ADD32(a1, b1);
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
    }
}

// 3 tokens.
static void tile_3(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 3] = {0};
    for (size_t t = 0; t < 3; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), b0 = ZERO(), a1 = ZERO(), b1 = ZERO(), a2 = ZERO(), b2 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(b0, c1, p0 + 4);
                DOT(b1, c1, p1 + 4);
                DOT(b2, c1, p2 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(b0, c3, p0 + 12);
                DOT(b1, c3, p1 + 12);
                DOT(b2, c3, p2 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
            }
        }
        a0 = ADD32(a0, b0);
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        a1 = ADD32(a1, b1);
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        a2 = ADD32(a2, b2);
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
    }
}

// 4 tokens.
static void tile_4(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 4] = {0};
    for (size_t t = 0; t < 4; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), b0 = ZERO(), a1 = ZERO(), b1 = ZERO(), a2 = ZERO(), b2 = ZERO(), a3 = ZERO(), b3 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(b0, c1, p0 + 4);
                DOT(b1, c1, p1 + 4);
                DOT(b2, c1, p2 + 4);
                DOT(b3, c1, p3 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(b0, c3, p0 + 12);
                DOT(b1, c3, p1 + 12);
                DOT(b2, c3, p2 + 12);
                DOT(b3, c3, p3 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
            }
        }
        a0 = ADD32(a0, b0);
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        a1 = ADD32(a1, b1);
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        a2 = ADD32(a2, b2);
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        a3 = ADD32(a3, b3);
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
    }
}

// 5 tokens.
static void tile_5(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 5] = {0};
    for (size_t t = 0; t < 5; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
    }
}

// 6 tokens.
static void tile_6(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 6] = {0};
    for (size_t t = 0; t < 6; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
    }
}

// 7 tokens.
static void tile_7(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 7] = {0};
    for (size_t t = 0; t < 7; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO(), a6 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            const int8_t *p6 = last ? tail + 120 : x + 6 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                DOT(a6, c0, p6 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                DOT(a6, c1, p6 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                DOT(a6, c2, p6 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                DOT(a6, c3, p6 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                DOT(a6, c4, p6 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
                p6 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
        STORE(y + r + 6 * y_stride, SUB32(a6, SET32(x_sums[6])));
    }
}

// 8 tokens.
static void tile_8(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 8] = {0};
    for (size_t t = 0; t < 8; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO(), a6 = ZERO(), a7 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            const int8_t *p6 = last ? tail + 120 : x + 6 * cols;
            const int8_t *p7 = last ? tail + 140 : x + 7 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                DOT(a6, c0, p6 + 0);
                DOT(a7, c0, p7 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                DOT(a6, c1, p6 + 4);
                DOT(a7, c1, p7 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                DOT(a6, c2, p6 + 8);
                DOT(a7, c2, p7 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                DOT(a6, c3, p6 + 12);
                DOT(a7, c3, p7 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                DOT(a6, c4, p6 + 16);
                DOT(a7, c4, p7 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
                p6 += 20;
                p7 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
        STORE(y + r + 6 * y_stride, SUB32(a6, SET32(x_sums[6])));
        STORE(y + r + 7 * y_stride, SUB32(a7, SET32(x_sums[7])));
    }
}

// 9 tokens.
static void tile_9(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 9] = {0};
    for (size_t t = 0; t < 9; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO(), a6 = ZERO(), a7 = ZERO(), a8 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            const int8_t *p6 = last ? tail + 120 : x + 6 * cols;
            const int8_t *p7 = last ? tail + 140 : x + 7 * cols;
            const int8_t *p8 = last ? tail + 160 : x + 8 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                DOT(a6, c0, p6 + 0);
                DOT(a7, c0, p7 + 0);
                DOT(a8, c0, p8 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                DOT(a6, c1, p6 + 4);
                DOT(a7, c1, p7 + 4);
                DOT(a8, c1, p8 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                DOT(a6, c2, p6 + 8);
                DOT(a7, c2, p7 + 8);
                DOT(a8, c2, p8 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                DOT(a6, c3, p6 + 12);
                DOT(a7, c3, p7 + 12);
                DOT(a8, c3, p8 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                DOT(a6, c4, p6 + 16);
                DOT(a7, c4, p7 + 16);
                DOT(a8, c4, p8 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
                p6 += 20;
                p7 += 20;
                p8 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
        STORE(y + r + 6 * y_stride, SUB32(a6, SET32(x_sums[6])));
        STORE(y + r + 7 * y_stride, SUB32(a7, SET32(x_sums[7])));
        STORE(y + r + 8 * y_stride, SUB32(a8, SET32(x_sums[8])));
    }
}

// 10 tokens.
static void tile_10(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 10] = {0};
    for (size_t t = 0; t < 10; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO(), a6 = ZERO(), a7 = ZERO(), a8 = ZERO(), a9 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            const int8_t *p6 = last ? tail + 120 : x + 6 * cols;
            const int8_t *p7 = last ? tail + 140 : x + 7 * cols;
            const int8_t *p8 = last ? tail + 160 : x + 8 * cols;
            const int8_t *p9 = last ? tail + 180 : x + 9 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                DOT(a6, c0, p6 + 0);
                DOT(a7, c0, p7 + 0);
                DOT(a8, c0, p8 + 0);
                DOT(a9, c0, p9 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                DOT(a6, c1, p6 + 4);
                DOT(a7, c1, p7 + 4);
                DOT(a8, c1, p8 + 4);
                DOT(a9, c1, p9 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                DOT(a6, c2, p6 + 8);
                DOT(a7, c2, p7 + 8);
                DOT(a8, c2, p8 + 8);
                DOT(a9, c2, p9 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                DOT(a6, c3, p6 + 12);
                DOT(a7, c3, p7 + 12);
                DOT(a8, c3, p8 + 12);
                DOT(a9, c3, p9 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                DOT(a6, c4, p6 + 16);
                DOT(a7, c4, p7 + 16);
                DOT(a8, c4, p8 + 16);
                DOT(a9, c4, p9 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
                p6 += 20;
                p7 += 20;
                p8 += 20;
                p9 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
        STORE(y + r + 6 * y_stride, SUB32(a6, SET32(x_sums[6])));
        STORE(y + r + 7 * y_stride, SUB32(a7, SET32(x_sums[7])));
        STORE(y + r + 8 * y_stride, SUB32(a8, SET32(x_sums[8])));
        STORE(y + r + 9 * y_stride, SUB32(a9, SET32(x_sums[9])));
    }
}

// 11 tokens.
static void tile_11(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 11] = {0};
    for (size_t t = 0; t < 11; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO(), a6 = ZERO(), a7 = ZERO(), a8 = ZERO(), a9 = ZERO(), a10 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            const int8_t *p6 = last ? tail + 120 : x + 6 * cols;
            const int8_t *p7 = last ? tail + 140 : x + 7 * cols;
            const int8_t *p8 = last ? tail + 160 : x + 8 * cols;
            const int8_t *p9 = last ? tail + 180 : x + 9 * cols;
            const int8_t *p10 = last ? tail + 200 : x + 10 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                DOT(a6, c0, p6 + 0);
                DOT(a7, c0, p7 + 0);
                DOT(a8, c0, p8 + 0);
                DOT(a9, c0, p9 + 0);
                DOT(a10, c0, p10 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                DOT(a6, c1, p6 + 4);
                DOT(a7, c1, p7 + 4);
                DOT(a8, c1, p8 + 4);
                DOT(a9, c1, p9 + 4);
                DOT(a10, c1, p10 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                DOT(a6, c2, p6 + 8);
                DOT(a7, c2, p7 + 8);
                DOT(a8, c2, p8 + 8);
                DOT(a9, c2, p9 + 8);
                DOT(a10, c2, p10 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                DOT(a6, c3, p6 + 12);
                DOT(a7, c3, p7 + 12);
                DOT(a8, c3, p8 + 12);
                DOT(a9, c3, p9 + 12);
                DOT(a10, c3, p10 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                DOT(a6, c4, p6 + 16);
                DOT(a7, c4, p7 + 16);
                DOT(a8, c4, p8 + 16);
                DOT(a9, c4, p9 + 16);
                DOT(a10, c4, p10 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
                p6 += 20;
                p7 += 20;
                p8 += 20;
                p9 += 20;
                p10 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
        STORE(y + r + 6 * y_stride, SUB32(a6, SET32(x_sums[6])));
        STORE(y + r + 7 * y_stride, SUB32(a7, SET32(x_sums[7])));
        STORE(y + r + 8 * y_stride, SUB32(a8, SET32(x_sums[8])));
        STORE(y + r + 9 * y_stride, SUB32(a9, SET32(x_sums[9])));
        STORE(y + r + 10 * y_stride, SUB32(a10, SET32(x_sums[10])));
    }
}

// 12 tokens.
static void tile_12(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * 12] = {0};
    for (size_t t = 0; t < 12; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
    for (size_t r = 0; r < rows; r += 16) {
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec a0 = ZERO(), a1 = ZERO(), a2 = ZERO(), a3 = ZERO(), a4 = ZERO(), a5 = ZERO(), a6 = ZERO(), a7 = ZERO(), a8 = ZERO(), a9 = ZERO(), a10 = ZERO(), a11 = ZERO();
        for (int last = 0; last < 2; last++) {
            const int8_t *p0 = last ? tail + 0 : x + 0 * cols;
            const int8_t *p1 = last ? tail + 20 : x + 1 * cols;
            const int8_t *p2 = last ? tail + 40 : x + 2 * cols;
            const int8_t *p3 = last ? tail + 60 : x + 3 * cols;
            const int8_t *p4 = last ? tail + 80 : x + 4 * cols;
            const int8_t *p5 = last ? tail + 100 : x + 5 * cols;
            const int8_t *p6 = last ? tail + 120 : x + 6 * cols;
            const int8_t *p7 = last ? tail + 140 : x + 7 * cols;
            const int8_t *p8 = last ? tail + 160 : x + 8 * cols;
            const int8_t *p9 = last ? tail + 180 : x + 9 * cols;
            const int8_t *p10 = last ? tail + 200 : x + 10 * cols;
            const int8_t *p11 = last ? tail + 220 : x + 11 * cols;
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                __builtin_prefetch(w + 2048);
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
                const __m512i c0 = AND(f, SET8(3));
                DOT(a0, c0, p0 + 0);
                DOT(a1, c0, p1 + 0);
                DOT(a2, c0, p2 + 0);
                DOT(a3, c0, p3 + 0);
                DOT(a4, c0, p4 + 0);
                DOT(a5, c0, p5 + 0);
                DOT(a6, c0, p6 + 0);
                DOT(a7, c0, p7 + 0);
                DOT(a8, c0, p8 + 0);
                DOT(a9, c0, p9 + 0);
                DOT(a10, c0, p10 + 0);
                DOT(a11, c0, p11 + 0);
                const __m512i c1 = AND(SHR16(f, 2), SET8(3));
                DOT(a0, c1, p0 + 4);
                DOT(a1, c1, p1 + 4);
                DOT(a2, c1, p2 + 4);
                DOT(a3, c1, p3 + 4);
                DOT(a4, c1, p4 + 4);
                DOT(a5, c1, p5 + 4);
                DOT(a6, c1, p6 + 4);
                DOT(a7, c1, p7 + 4);
                DOT(a8, c1, p8 + 4);
                DOT(a9, c1, p9 + 4);
                DOT(a10, c1, p10 + 4);
                DOT(a11, c1, p11 + 4);
                const __m512i c2 = AND(SHR16(f, 4), SET8(3));
                DOT(a0, c2, p0 + 8);
                DOT(a1, c2, p1 + 8);
                DOT(a2, c2, p2 + 8);
                DOT(a3, c2, p3 + 8);
                DOT(a4, c2, p4 + 8);
                DOT(a5, c2, p5 + 8);
                DOT(a6, c2, p6 + 8);
                DOT(a7, c2, p7 + 8);
                DOT(a8, c2, p8 + 8);
                DOT(a9, c2, p9 + 8);
                DOT(a10, c2, p10 + 8);
                DOT(a11, c2, p11 + 8);
                const __m512i c3 = AND(SHR16(f, 6), SET8(3));
                DOT(a0, c3, p0 + 12);
                DOT(a1, c3, p1 + 12);
                DOT(a2, c3, p2 + 12);
                DOT(a3, c3, p3 + 12);
                DOT(a4, c3, p4 + 12);
                DOT(a5, c3, p5 + 12);
                DOT(a6, c3, p6 + 12);
                DOT(a7, c3, p7 + 12);
                DOT(a8, c3, p8 + 12);
                DOT(a9, c3, p9 + 12);
                DOT(a10, c3, p10 + 12);
                DOT(a11, c3, p11 + 12);
                const __m512i c4 = AND(SHR16(h, 6), SET8(3));
                DOT(a0, c4, p0 + 16);
                DOT(a1, c4, p1 + 16);
                DOT(a2, c4, p2 + 16);
                DOT(a3, c4, p3 + 16);
                DOT(a4, c4, p4 + 16);
                DOT(a5, c4, p5 + 16);
                DOT(a6, c4, p6 + 16);
                DOT(a7, c4, p7 + 16);
                DOT(a8, c4, p8 + 16);
                DOT(a9, c4, p9 + 16);
                DOT(a10, c4, p10 + 16);
                DOT(a11, c4, p11 + 16);
                w += 64;
                p0 += 20;
                p1 += 20;
                p2 += 20;
                p3 += 20;
                p4 += 20;
                p5 += 20;
                p6 += 20;
                p7 += 20;
                p8 += 20;
                p9 += 20;
                p10 += 20;
                p11 += 20;
            }
        }
        STORE(y + r + 0 * y_stride, SUB32(a0, SET32(x_sums[0])));
        STORE(y + r + 1 * y_stride, SUB32(a1, SET32(x_sums[1])));
        STORE(y + r + 2 * y_stride, SUB32(a2, SET32(x_sums[2])));
        STORE(y + r + 3 * y_stride, SUB32(a3, SET32(x_sums[3])));
        STORE(y + r + 4 * y_stride, SUB32(a4, SET32(x_sums[4])));
        STORE(y + r + 5 * y_stride, SUB32(a5, SET32(x_sums[5])));
        STORE(y + r + 6 * y_stride, SUB32(a6, SET32(x_sums[6])));
        STORE(y + r + 7 * y_stride, SUB32(a7, SET32(x_sums[7])));
        STORE(y + r + 8 * y_stride, SUB32(a8, SET32(x_sums[8])));
        STORE(y + r + 9 * y_stride, SUB32(a9, SET32(x_sums[9])));
        STORE(y + r + 10 * y_stride, SUB32(a10, SET32(x_sums[10])));
        STORE(y + r + 11 * y_stride, SUB32(a11, SET32(x_sums[11])));
    }
}

// The kernels over re-packed weights, from tile_1 to tile_12, of so many tokens each.
void sterna_packed_gemv__avx512vbmi(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                              int32_t *restrict y) {
    tile_1(w, x, &x_sum, rows, cols, y, rows);
}

void sterna_packed_gemm__avx512vbmi(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                              size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    static void (*const tiles[])(const uint8_t *, const int8_t *, const int32_t *, size_t, size_t, int32_t *, size_t) = {
        tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};
    while (tokens) {
        // Parts of nearly the same size: 13 tokens are not 12 and 1.
        const size_t parts = (tokens + 11) / 12;
        const size_t n = (tokens + parts - 1) / parts;
        tiles[n - 1](w, x, x_sums, rows, cols, y, y_stride);
        x += n * cols;
        x_sums += n;
        y += n * y_stride;
        tokens -= n;
    }
}

