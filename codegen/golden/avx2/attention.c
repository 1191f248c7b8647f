// One block of attention for the query heads that share one KV head, for `rows` tokens at successive positions:
//   scores: s[t] = q . k[t];   values: p[t] = e^(scale * s[t] - max), sum = sum of p[t], out = sum of p[t] * v[t].
// The first row sees the first `len` positions of the block, each later one a position more. The caller merges blocks.
//
// q holds (group, dim) every q_stride; scores (rows, group, block), out (rows, group, dim), max and sum (rows, group).
// Both products are C = A @ B with B in panels of 16 columns, so that the block is one linear stream of memory:
//
//   k: panels over positions   [t / 16][i][t % 16]
//   v: panels over the width   [i / 16][t][i % 16], the last one cut to a multiple of 16
//
// f16: q and p hold f16 values, as k and v do, so every product is exact in f32 and may be fused with its addition. Order: an
// element of a product is one f32 sum, first to last.
//
// q8_0: k and v are int8 codes with a scale a position; q is int16 with a scale a head, and the weights p[t] * v_scale[t] become
// int16 with a scale a block. The products are exact in i32, in any order: 516 * 32767 * 127 fits, and the caller has queries of
// fewer bits where dim is more. Two rows of B lie together, a pair for a pair of A: [i / 2][t % 16][i % 2] in the keys,
// [t / 2][i % 16][t % 2] in the values.
//
// A row of B, or a pair, is half a line for 16 columns: every line of it is asked for 4096 bytes ahead.
//
// The sum of p has 16 lanes by position. A tile is up to 4 heads x 16 columns of accumulators.
// Rendered from templates/attention.c for avx2: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_attention_scores_f16__avx2(const float *restrict q, size_t q_stride, const uint16_t *restrict k, size_t rows, size_t group, size_t dim, size_t len, size_t block, float *restrict scores);
void sterna_attention_values_f16__avx2(float *restrict scores, const uint16_t *restrict v, size_t rows, size_t group, size_t dim, size_t len, size_t block, float scale, float *restrict max, float *restrict sum, float *restrict out);
void sterna_attention_scores_q8_0__avx2(const int16_t *restrict q, size_t q_stride, const float *restrict q_scales, const int8_t *restrict k, const float *restrict k_scales, size_t rows, size_t group, size_t dim, size_t len, size_t block, float *restrict scores);
void sterna_attention_values_q8_0__avx2(float *restrict scores, const int8_t *restrict v, const float *restrict v_scales, size_t rows, size_t group, size_t dim, size_t len, size_t block, float scale, float *restrict max, float *restrict sum, float *restrict out);

// Sixteen f32 lanes, whatever the registers' width. The order of every addition in the float kernels is written in terms
// of these lanes, so it is the same on every ISA; nothing here may fuse or re-associate.
#include <string.h>
#include <immintrin.h>

typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
// In memory, where floats lie at any multiple of 4. A memcpy of a whole v16 would do, but gcc 12 sends it through the stack.
typedef float vf_memory __attribute__((vector_size(32), aligned(4), may_alias));

// Lane i is lane i % 8 of register i / 8.
typedef struct {
    vf r0, r1;
} v16;

static inline v16 v16_set1(float s) {
    const vf v = {s, s, s, s, s, s, s, s};
    return (v16){v, v};
}

static inline v16 v16_load(const float *p) {
    v16 v;
    v.r0 = *(const vf_memory *)(p + 0);
    v.r1 = *(const vf_memory *)(p + 8);
    return v;
}

static inline void v16_store(float *p, v16 v) {
    *(vf_memory *)(p + 0) = v.r0;
    *(vf_memory *)(p + 8) = v.r1;
}

static inline v16 v16_add(v16 a, v16 b) {
    a.r0 = a.r0 + b.r0;
    a.r1 = a.r1 + b.r1;
    return a;
}

static inline v16 v16_sub(v16 a, v16 b) {
    a.r0 = a.r0 - b.r0;
    a.r1 = a.r1 - b.r1;
    return a;
}

static inline v16 v16_mul(v16 a, v16 b) {
    a.r0 = a.r0 * b.r0;
    a.r1 = a.r1 * b.r1;
    return a;
}

// a + b * c for products that f32 holds exactly, as of f16 by f16: fused or rounded first, the sum has the same bits.
static inline v16 v16_add_exact(v16 a, v16 b, v16 c) {
    // By name: with -mfma the compiler could fuse others.
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(a.r0) : "x"(b.r0), "x"(c.r0));
    // By name: with -mfma the compiler could fuse others.
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(a.r1) : "x"(b.r1), "x"(c.r1));
    return a;
}

// The greater of each pair; b where either is NaN.
static inline v16 v16_max(v16 a, v16 b) {
    const vi m0 = a.r0 > b.r0;
    a.r0 = (vf)(((vi)a.r0 & m0) | ((vi)b.r0 & ~m0));
    const vi m1 = a.r1 > b.r1;
    a.r1 = (vf)(((vi)a.r1 & m1) | ((vi)b.r1 & ~m1));
    return a;
}

// The greatest lane; where one is NaN, any.
static inline float v16_fold_max(v16 a) {
    const __m256 s = _mm256_max_ps((__m256)a.r0, (__m256)a.r1);
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

// Folds in halves: lane i += lane i + 8, then + 4, + 2, + 1.
static inline float v16_fold(v16 a) {
    const __m256 s = (__m256)(a.r0 + a.r1);
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

static inline v16 v16_load_f16(const uint16_t *p) {
    return (v16){(vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)v.r0, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph((__m256)v.r1, _MM_FROUND_TO_NEAREST_INT));
}

// Rounded to f16 and back.
static inline v16 v16_round_f16(v16 v) {
    v.r0 = (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v.r0, _MM_FROUND_TO_NEAREST_INT));
    v.r1 = (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v.r1, _MM_FROUND_TO_NEAREST_INT));
    return v;
}

// e^x for x <= 0, NaN for NaN; the constants and the order are those of the reference.
static inline v16 v16_exp(v16 x) {
    {
        const vf t = x.r0 * 1.44269504f + 12582912.0f, n = t - 12582912.0f;
        const vf r = x.r0 - n * 0.693359375f - n * -2.12194440e-4f;
        vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        const vf y = p * (r * r) + r + 1.0f;
        const vi zero = x.r0 < -87.0f;
        x.r0 = (vf)(((vi)y + ((vi)t << 23)) & ~zero);
    }
    {
        const vf t = x.r1 * 1.44269504f + 12582912.0f, n = t - 12582912.0f;
        const vf r = x.r1 - n * 0.693359375f - n * -2.12194440e-4f;
        vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        const vf y = p * (r * r) + r + 1.0f;
        const vi zero = x.r1 < -87.0f;
        x.r1 = (vf)(((vi)y + ((vi)t << 23)) & ~zero);
    }
    return x;
}

// Two vectors of lanes 0..15 and 16..31: the accumulator of a dot product.
typedef struct {
    v16 lo, hi;
} v32;

static inline v32 v32_zero(void) {
    return (v32){v16_set1(0), v16_set1(0)};
}

// The sum of 32 lanes, after the products of the last n % 32 elements joined theirs.
static inline float v32_finish(v32 acc, const float *a, const float *b, size_t tail) {
    if (tail) {
        float lane[32];
        v16_store(lane, acc.lo);
        v16_store(lane + 16, acc.hi);
        for (size_t i = 0; i < tail; i++) {
            lane[i] += a[i] * b[i];
        }
        acc = (v32){v16_load(lane), v16_load(lane + 16)};
    }
    return v16_fold(v16_add(acc.lo, acc.hi));
}


typedef float f16_a;
typedef uint16_t f16_b;
typedef v16 f16_sums, f16_rows;
#define f16_ROWS 1

static inline f16_sums f16_zero(void) {
    return v16_set1(0);
}

static inline f16_rows f16_load(const f16_b *b) {
    return v16_load_f16(b);
}

static inline v16 f16_broadcast(const f16_a *a) {
    return v16_set1(*a);
}

static inline f16_sums f16_add(f16_sums c, v16 a, f16_rows b) {
    return v16_add_exact(c, a, b);
}

static inline v16 f16_finish(f16_sums c) {
    return c;
}

typedef int16_t q8_0_a;
typedef int8_t q8_0_b;
typedef struct {
    vi r0, r1;
} q8_0_sums;
#define q8_0_ROWS 2

static inline q8_0_sums q8_0_zero(void) {
    return (q8_0_sums){{0}, {0}};
}

// Two rows of 16 columns, widened to a pair of int16 a column.
typedef q8_0_sums q8_0_rows;

static inline q8_0_rows q8_0_load(const q8_0_b *b) {
    q8_0_rows v;
    v.r0 = (vi)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(b + 0)));
    v.r1 = (vi)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(b + 16)));
    return v;
}

static inline vi q8_0_broadcast(const q8_0_a *a) {
    int32_t pair;
    memcpy(&pair, a, 4);
    return (vi){pair, pair, pair, pair, pair, pair, pair, pair};
}

static inline q8_0_sums q8_0_add(q8_0_sums c, vi a, q8_0_rows b) {
    c.r0 = c.r0 + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b.r0);
    c.r1 = c.r1 + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b.r1);
    return c;
}

static inline v16 q8_0_finish(q8_0_sums c) {
    return (v16){__builtin_convertvector(c.r0, vf), __builtin_convertvector(c.r1, vf)};
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 1 x 16.
static void f16_tile_1x16(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    f16_sums c0_0 = f16_zero();
    for (size_t i = 0; i < n; i += f16_ROWS, a += f16_ROWS, b += f16_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const f16_rows b0 = f16_load(b + f16_ROWS * 0);
        const __typeof__(f16_broadcast(a)) a0 = f16_broadcast(a + 0 * a_stride);
        c0_0 = f16_add(c0_0, a0, b0);
    }
    v16_store(c + 0 * c_stride + 0, f16_finish(c0_0));
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 2 x 16.
static void f16_tile_2x16(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    f16_sums c0_0 = f16_zero(), c1_0 = f16_zero();
    for (size_t i = 0; i < n; i += f16_ROWS, a += f16_ROWS, b += f16_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const f16_rows b0 = f16_load(b + f16_ROWS * 0);
        const __typeof__(f16_broadcast(a)) a0 = f16_broadcast(a + 0 * a_stride);
        c0_0 = f16_add(c0_0, a0, b0);
        const __typeof__(f16_broadcast(a)) a1 = f16_broadcast(a + 1 * a_stride);
        c1_0 = f16_add(c1_0, a1, b0);
    }
    v16_store(c + 0 * c_stride + 0, f16_finish(c0_0));
    v16_store(c + 1 * c_stride + 0, f16_finish(c1_0));
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 3 x 16.
static void f16_tile_3x16(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    f16_sums c0_0 = f16_zero(), c1_0 = f16_zero(), c2_0 = f16_zero();
    for (size_t i = 0; i < n; i += f16_ROWS, a += f16_ROWS, b += f16_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const f16_rows b0 = f16_load(b + f16_ROWS * 0);
        const __typeof__(f16_broadcast(a)) a0 = f16_broadcast(a + 0 * a_stride);
        c0_0 = f16_add(c0_0, a0, b0);
        const __typeof__(f16_broadcast(a)) a1 = f16_broadcast(a + 1 * a_stride);
        c1_0 = f16_add(c1_0, a1, b0);
        const __typeof__(f16_broadcast(a)) a2 = f16_broadcast(a + 2 * a_stride);
        c2_0 = f16_add(c2_0, a2, b0);
    }
    v16_store(c + 0 * c_stride + 0, f16_finish(c0_0));
    v16_store(c + 1 * c_stride + 0, f16_finish(c1_0));
    v16_store(c + 2 * c_stride + 0, f16_finish(c2_0));
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 4 x 16.
static void f16_tile_4x16(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    f16_sums c0_0 = f16_zero(), c1_0 = f16_zero(), c2_0 = f16_zero(), c3_0 = f16_zero();
    for (size_t i = 0; i < n; i += f16_ROWS, a += f16_ROWS, b += f16_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const f16_rows b0 = f16_load(b + f16_ROWS * 0);
        const __typeof__(f16_broadcast(a)) a0 = f16_broadcast(a + 0 * a_stride);
        c0_0 = f16_add(c0_0, a0, b0);
        const __typeof__(f16_broadcast(a)) a1 = f16_broadcast(a + 1 * a_stride);
        c1_0 = f16_add(c1_0, a1, b0);
        const __typeof__(f16_broadcast(a)) a2 = f16_broadcast(a + 2 * a_stride);
        c2_0 = f16_add(c2_0, a2, b0);
        const __typeof__(f16_broadcast(a)) a3 = f16_broadcast(a + 3 * a_stride);
        c3_0 = f16_add(c3_0, a3, b0);
    }
    v16_store(c + 0 * c_stride + 0, f16_finish(c0_0));
    v16_store(c + 1 * c_stride + 0, f16_finish(c1_0));
    v16_store(c + 2 * c_stride + 0, f16_finish(c2_0));
    v16_store(c + 3 * c_stride + 0, f16_finish(c3_0));
}

// The first `columns` of a panel that is `width` wide, for 1 heads.
static void f16_panel_1(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        f16_tile_1x16(a, a_stride, b + f16_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[1 * 16];
        f16_tile_1x16(a, a_stride, b + f16_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 1; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 2 heads.
static void f16_panel_2(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        f16_tile_2x16(a, a_stride, b + f16_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[2 * 16];
        f16_tile_2x16(a, a_stride, b + f16_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 2; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 3 heads.
static void f16_panel_3(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        f16_tile_3x16(a, a_stride, b + f16_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[3 * 16];
        f16_tile_3x16(a, a_stride, b + f16_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 3; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 4 heads.
static void f16_panel_4(const f16_a *restrict a, size_t a_stride, const f16_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        f16_tile_4x16(a, a_stride, b + f16_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[4 * 16];
        f16_tile_4x16(a, a_stride, b + f16_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 4; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

static void f16_panel(const f16_a *restrict a, size_t a_stride, size_t heads, const f16_b *restrict b, size_t width, size_t n,
                  float *restrict c, size_t c_stride, size_t columns) {
    for (; heads >= 4; heads -= 4, a += 4 * a_stride, c += 4 * c_stride) {
        f16_panel_4(a, a_stride, b, width, n, c, c_stride, columns);
    }
    switch (heads) {
    case 1:
        f16_panel_1(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    case 2:
        f16_panel_2(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    case 3:
        f16_panel_3(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    }
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 1 x 16.
static void q8_0_tile_1x16(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    q8_0_sums c0_0 = q8_0_zero();
    for (size_t i = 0; i < n; i += q8_0_ROWS, a += q8_0_ROWS, b += q8_0_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const q8_0_rows b0 = q8_0_load(b + q8_0_ROWS * 0);
        const __typeof__(q8_0_broadcast(a)) a0 = q8_0_broadcast(a + 0 * a_stride);
        c0_0 = q8_0_add(c0_0, a0, b0);
    }
    v16_store(c + 0 * c_stride + 0, q8_0_finish(c0_0));
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 2 x 16.
static void q8_0_tile_2x16(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    q8_0_sums c0_0 = q8_0_zero(), c1_0 = q8_0_zero();
    for (size_t i = 0; i < n; i += q8_0_ROWS, a += q8_0_ROWS, b += q8_0_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const q8_0_rows b0 = q8_0_load(b + q8_0_ROWS * 0);
        const __typeof__(q8_0_broadcast(a)) a0 = q8_0_broadcast(a + 0 * a_stride);
        c0_0 = q8_0_add(c0_0, a0, b0);
        const __typeof__(q8_0_broadcast(a)) a1 = q8_0_broadcast(a + 1 * a_stride);
        c1_0 = q8_0_add(c1_0, a1, b0);
    }
    v16_store(c + 0 * c_stride + 0, q8_0_finish(c0_0));
    v16_store(c + 1 * c_stride + 0, q8_0_finish(c1_0));
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 3 x 16.
static void q8_0_tile_3x16(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    q8_0_sums c0_0 = q8_0_zero(), c1_0 = q8_0_zero(), c2_0 = q8_0_zero();
    for (size_t i = 0; i < n; i += q8_0_ROWS, a += q8_0_ROWS, b += q8_0_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const q8_0_rows b0 = q8_0_load(b + q8_0_ROWS * 0);
        const __typeof__(q8_0_broadcast(a)) a0 = q8_0_broadcast(a + 0 * a_stride);
        c0_0 = q8_0_add(c0_0, a0, b0);
        const __typeof__(q8_0_broadcast(a)) a1 = q8_0_broadcast(a + 1 * a_stride);
        c1_0 = q8_0_add(c1_0, a1, b0);
        const __typeof__(q8_0_broadcast(a)) a2 = q8_0_broadcast(a + 2 * a_stride);
        c2_0 = q8_0_add(c2_0, a2, b0);
    }
    v16_store(c + 0 * c_stride + 0, q8_0_finish(c0_0));
    v16_store(c + 1 * c_stride + 0, q8_0_finish(c1_0));
    v16_store(c + 2 * c_stride + 0, q8_0_finish(c2_0));
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 4 x 16.
static void q8_0_tile_4x16(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    q8_0_sums c0_0 = q8_0_zero(), c1_0 = q8_0_zero(), c2_0 = q8_0_zero(), c3_0 = q8_0_zero();
    for (size_t i = 0; i < n; i += q8_0_ROWS, a += q8_0_ROWS, b += q8_0_ROWS * b_stride) {
        __builtin_prefetch((const char *)b + 4096);
        const q8_0_rows b0 = q8_0_load(b + q8_0_ROWS * 0);
        const __typeof__(q8_0_broadcast(a)) a0 = q8_0_broadcast(a + 0 * a_stride);
        c0_0 = q8_0_add(c0_0, a0, b0);
        const __typeof__(q8_0_broadcast(a)) a1 = q8_0_broadcast(a + 1 * a_stride);
        c1_0 = q8_0_add(c1_0, a1, b0);
        const __typeof__(q8_0_broadcast(a)) a2 = q8_0_broadcast(a + 2 * a_stride);
        c2_0 = q8_0_add(c2_0, a2, b0);
        const __typeof__(q8_0_broadcast(a)) a3 = q8_0_broadcast(a + 3 * a_stride);
        c3_0 = q8_0_add(c3_0, a3, b0);
    }
    v16_store(c + 0 * c_stride + 0, q8_0_finish(c0_0));
    v16_store(c + 1 * c_stride + 0, q8_0_finish(c1_0));
    v16_store(c + 2 * c_stride + 0, q8_0_finish(c2_0));
    v16_store(c + 3 * c_stride + 0, q8_0_finish(c3_0));
}

// The first `columns` of a panel that is `width` wide, for 1 heads.
static void q8_0_panel_1(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        q8_0_tile_1x16(a, a_stride, b + q8_0_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[1 * 16];
        q8_0_tile_1x16(a, a_stride, b + q8_0_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 1; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 2 heads.
static void q8_0_panel_2(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        q8_0_tile_2x16(a, a_stride, b + q8_0_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[2 * 16];
        q8_0_tile_2x16(a, a_stride, b + q8_0_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 2; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 3 heads.
static void q8_0_panel_3(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        q8_0_tile_3x16(a, a_stride, b + q8_0_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[3 * 16];
        q8_0_tile_3x16(a, a_stride, b + q8_0_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 3; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 4 heads.
static void q8_0_panel_4(const q8_0_a *restrict a, size_t a_stride, const q8_0_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        q8_0_tile_4x16(a, a_stride, b + q8_0_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[4 * 16];
        q8_0_tile_4x16(a, a_stride, b + q8_0_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < 4; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

static void q8_0_panel(const q8_0_a *restrict a, size_t a_stride, size_t heads, const q8_0_b *restrict b, size_t width, size_t n,
                  float *restrict c, size_t c_stride, size_t columns) {
    for (; heads >= 4; heads -= 4, a += 4 * a_stride, c += 4 * c_stride) {
        q8_0_panel_4(a, a_stride, b, width, n, c, c_stride, columns);
    }
    switch (heads) {
    case 1:
        q8_0_panel_1(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    case 2:
        q8_0_panel_2(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    case 3:
        q8_0_panel_3(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    }
}

static inline size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

// A row's scores (block), scaled; those of positions that it does not see, as far as they are read, become -infinity. The maximum.
static float scaled(float *restrict s, size_t seen, float scale) {
    for (size_t t = seen; t % 16 != 0; t++) {
        s[t] = -__builtin_inff();
    }
    v16 top = v16_set1(-__builtin_inff());
    for (size_t t = 0; t < seen; t += 16) {
        const v16 x = v16_mul(v16_load(s + t), v16_set1(scale));
        v16_store(s + t, x);
        top = v16_max(x, top);
    }
    return v16_fold_max(top);
}

// A row's scores (block) become p, 0 where it does not see.
static void f16_softmax(float *restrict s, size_t seen, float scale, float *restrict max, float *restrict sum) {
    *max = scaled(s, seen, scale);
    v16 total = v16_set1(0);
    for (size_t t = 0; t < seen; t += 16) {
        const v16 p = v16_round_f16(v16_exp(v16_sub(v16_load(s + t), v16_set1(*max))));
        v16_store(s + t, p);
        total = v16_add(total, p);
    }
    *sum = v16_fold(total);
}

// A row's scores (block) become the weights of the codes: w = p * v_scale, rounded to multiples of unit = max(w) / 32767. They
// are int16 in the first half of the row, 0 where it does not see; the last element becomes the unit.
static void q8_0_softmax(float *restrict s, size_t seen, size_t block, float scale, const float *restrict v_scales,
                         float *restrict max, float *restrict sum) {
    *max = scaled(s, seen, scale);
    // What lies behind the last position is nobody's.
    float rest[16] = {0};
    memcpy(rest, v_scales + seen / 16 * 16, seen % 16 * 4);
    v16 total = v16_set1(0), top = v16_set1(1e-30f);
    for (size_t t = 0; t < seen; t += 16) {
        const v16 p = v16_exp(v16_sub(v16_load(s + t), v16_set1(*max)));
        const v16 d = v16_load(t + 16 <= seen ? v_scales + t : rest);
        const v16 w = v16_mul(p, d);
        v16_store(s + t, w);
        top = v16_max(w, top);
        // A scale that is NaN has to reach the result, and integers cannot carry it.
        total = v16_add(total, v16_add(p, v16_mul(d, v16_set1(0))));
    }
    *sum = v16_fold(total);
    const float most = v16_fold_max(top);
    const v16 inverse = v16_set1(32767.0f / most);
    int16_t codes[16];
    for (size_t t = 0; t < seen; t += 16) {
        // Rounds to an integer in the low bits, half to even.
        const v16 w = v16_add(v16_mul(v16_load(s + t), inverse), v16_set1(12582912.0f));
        int32_t bits[16];
        memcpy(bits, &w, 64);
        for (int i = 0; i < 16; i++) {
            codes[i] = (int16_t)(bits[i] - 0x4b400000);
        }
        memcpy((char *)s + 2 * t, codes, 32);
    }
    s[block - 1] = most / 32767.0f;
}
void sterna_attention_scores_f16__avx2(const f16_a *restrict q, size_t q_stride, const f16_b *restrict k,
                                size_t rows, size_t group, size_t dim, size_t len, size_t block, float *restrict scores) {
    const size_t most = least(len + rows - 1, block);
    for (size_t first = 0; first < most; first += 16) {
        for (size_t r = 0; r < rows; r++) {
            const size_t seen = least(len + r, block);
            if (seen > first) {
                // More than half a panel is faster as a whole; what is too much is not read.
                const size_t columns = seen - first > 8 ? 16 : seen - first;
                f16_panel(q + r * q_stride, dim, group, k + first * dim, 16, dim,
                      scores + r * group * block + first, block, columns);
            }
        }
    }
}

void sterna_attention_values_f16__avx2(float *restrict scores, const f16_b *restrict v, size_t rows, size_t group,
                                size_t dim, size_t len, size_t block, float scale, float *restrict max,
                                float *restrict sum, float *restrict out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = r * group; h < (r + 1) * group; h++) {
            const size_t seen = least(len + r, block);
            f16_softmax(scores + h * block, seen, scale, max + h, sum + h);
        }
    }
    for (size_t first = 0; first < dim; first += 16) {
        const size_t columns = least(dim - first, 16);
        for (size_t r = 0; r < rows; r++) {
            const f16_a *restrict p = (const f16_a *)(scores + r * group * block);
            f16_panel(p, block * sizeof(float) / sizeof(*p), group, v + first * block, (columns + 15) / 16 * 16,
                  least(len + r, block), out + r * group * dim + first, dim, columns);
        }
    }
}
void sterna_attention_scores_q8_0__avx2(const q8_0_a *restrict q, size_t q_stride, const float *restrict q_scales, const q8_0_b *restrict k, const float *restrict k_scales,
                                size_t rows, size_t group, size_t dim, size_t len, size_t block, float *restrict scores) {
    const size_t most = least(len + rows - 1, block);
    for (size_t first = 0; first < most; first += 16) {
        for (size_t r = 0; r < rows; r++) {
            const size_t seen = least(len + r, block);
            if (seen > first) {
                // More than half a panel is faster as a whole; what is too much is not read.
                const size_t columns = seen - first > 8 ? 16 : seen - first;
                q8_0_panel(q + r * q_stride, dim, group, k + first * dim, 16, dim,
                      scores + r * group * block + first, block, columns);
            }
        }
    }
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = 0; h < group; h++) {
            float *restrict s = scores + (r * group + h) * block;
            const v16 scale = v16_set1(q_scales[r * (q_stride / dim) + h]);
            for (size_t t = 0; t < least(len + r, block); t += 16) {
                v16_store(s + t, v16_mul(v16_mul(v16_load(s + t), scale), v16_load(k_scales + t)));
            }
        }
    }
}

void sterna_attention_values_q8_0__avx2(float *restrict scores, const q8_0_b *restrict v, const float *restrict v_scales, size_t rows, size_t group,
                                size_t dim, size_t len, size_t block, float scale, float *restrict max,
                                float *restrict sum, float *restrict out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = r * group; h < (r + 1) * group; h++) {
            const size_t seen = least(len + r, block);
            q8_0_softmax(scores + h * block, seen, block, scale, v_scales, max + h, sum + h);
        }
    }
    for (size_t first = 0; first < dim; first += 16) {
        const size_t columns = least(dim - first, 16);
        for (size_t r = 0; r < rows; r++) {
            const q8_0_a *restrict p = (const q8_0_a *)(scores + r * group * block);
            q8_0_panel(p, block * sizeof(float) / sizeof(*p), group, v + first * block, (columns + 15) / 16 * 16,
                  least(len + r, block), out + r * group * dim + first, dim, columns);
        }
    }
    for (size_t h = 0; h < rows * group; h++) {
        const float unit = scores[(h + 1) * block - 1];
        for (size_t i = 0; i < dim; i++) {
            out[h * dim + i] *= unit;
        }
    }
}
