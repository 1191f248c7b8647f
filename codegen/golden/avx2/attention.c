// One block of attention for the query heads that share one KV head, for `rows` tokens at successive positions:
//   scores: s[t] = q . k[t];   values: p[t] = f16(e^(scale * s[t] - max)), sum = sum of p[t], out = sum of p[t] * v[t].
// The first row sees the first `len` positions of the block, each later one a position more. The caller merges blocks.
//
// q holds (group, dim) every q_stride; scores (rows, group, block), out (rows, group, dim), max and sum (rows, group). q and p
// hold f16 values, as k and v do, so every product is exact in f32 and may be fused with its addition. Both products are
// C = A @ B with B in panels of 16 columns, so that the block is one linear stream of memory:
//
//   k: panels over positions   [t / 16][i][t % 16]
//   v: panels over the width   [i / 16][t][i % 16], the last one cut to a multiple of 16
//
// Order: an element of a product is one f32 sum, first to last; the sum of p has 16 lanes by position. A tile is up to
// 4 heads x 16 columns of accumulators.
// Rendered from templates/attention.c for avx2: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_attention_scores_f16__avx2(const float *restrict q, size_t q_stride, const uint16_t *restrict k, size_t rows, size_t group, size_t dim, size_t len, size_t block, float *restrict scores);
void sterna_attention_values_f16__avx2(float *restrict scores, const uint16_t *restrict v, size_t rows, size_t group, size_t dim, size_t len, size_t block, float scale, float *restrict max, float *restrict sum, float *restrict out);

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
    a.r0 = a.r0 + b.r0 * c.r0;
    a.r1 = a.r1 + b.r1 * c.r1;
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


// c (heads, columns) = a (heads, n) @ b (n, columns) for 1 x 16.
static void tile_1x16(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t b_stride, size_t n,
                     float *restrict c, size_t c_stride) {
    v16 c0_0 = v16_set1(0);
    for (size_t i = 0; i < n; i++, a++, b += b_stride) {
        const v16 b0 = v16_load_f16(b + 0);
        const v16 a0 = v16_set1(a[0 * a_stride]);
        c0_0 = v16_add_exact(c0_0, a0, b0);
    }
    v16_store(c + 0 * c_stride + 0, c0_0);
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 2 x 16.
static void tile_2x16(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t b_stride, size_t n,
                     float *restrict c, size_t c_stride) {
    v16 c0_0 = v16_set1(0), c1_0 = v16_set1(0);
    for (size_t i = 0; i < n; i++, a++, b += b_stride) {
        const v16 b0 = v16_load_f16(b + 0);
        const v16 a0 = v16_set1(a[0 * a_stride]);
        c0_0 = v16_add_exact(c0_0, a0, b0);
        const v16 a1 = v16_set1(a[1 * a_stride]);
        c1_0 = v16_add_exact(c1_0, a1, b0);
    }
    v16_store(c + 0 * c_stride + 0, c0_0);
    v16_store(c + 1 * c_stride + 0, c1_0);
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 3 x 16.
static void tile_3x16(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t b_stride, size_t n,
                     float *restrict c, size_t c_stride) {
    v16 c0_0 = v16_set1(0), c1_0 = v16_set1(0), c2_0 = v16_set1(0);
    for (size_t i = 0; i < n; i++, a++, b += b_stride) {
        const v16 b0 = v16_load_f16(b + 0);
        const v16 a0 = v16_set1(a[0 * a_stride]);
        c0_0 = v16_add_exact(c0_0, a0, b0);
        const v16 a1 = v16_set1(a[1 * a_stride]);
        c1_0 = v16_add_exact(c1_0, a1, b0);
        const v16 a2 = v16_set1(a[2 * a_stride]);
        c2_0 = v16_add_exact(c2_0, a2, b0);
    }
    v16_store(c + 0 * c_stride + 0, c0_0);
    v16_store(c + 1 * c_stride + 0, c1_0);
    v16_store(c + 2 * c_stride + 0, c2_0);
}

// c (heads, columns) = a (heads, n) @ b (n, columns) for 4 x 16.
static void tile_4x16(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t b_stride, size_t n,
                     float *restrict c, size_t c_stride) {
    v16 c0_0 = v16_set1(0), c1_0 = v16_set1(0), c2_0 = v16_set1(0), c3_0 = v16_set1(0);
    for (size_t i = 0; i < n; i++, a++, b += b_stride) {
        const v16 b0 = v16_load_f16(b + 0);
        const v16 a0 = v16_set1(a[0 * a_stride]);
        c0_0 = v16_add_exact(c0_0, a0, b0);
        const v16 a1 = v16_set1(a[1 * a_stride]);
        c1_0 = v16_add_exact(c1_0, a1, b0);
        const v16 a2 = v16_set1(a[2 * a_stride]);
        c2_0 = v16_add_exact(c2_0, a2, b0);
        const v16 a3 = v16_set1(a[3 * a_stride]);
        c3_0 = v16_add_exact(c3_0, a3, b0);
    }
    v16_store(c + 0 * c_stride + 0, c0_0);
    v16_store(c + 1 * c_stride + 0, c1_0);
    v16_store(c + 2 * c_stride + 0, c2_0);
    v16_store(c + 3 * c_stride + 0, c3_0);
}

// The first `columns` of a panel that is `width` wide, for 1 heads.
static void panel_1(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        tile_1x16(a, a_stride, b + j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[1 * 16];
        tile_1x16(a, a_stride, b + j, width, n, rest, 16);
        for (size_t h = 0; h < 1; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 2 heads.
static void panel_2(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        tile_2x16(a, a_stride, b + j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[2 * 16];
        tile_2x16(a, a_stride, b + j, width, n, rest, 16);
        for (size_t h = 0; h < 2; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 3 heads.
static void panel_3(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        tile_3x16(a, a_stride, b + j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[3 * 16];
        tile_3x16(a, a_stride, b + j, width, n, rest, 16);
        for (size_t h = 0; h < 3; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

// The first `columns` of a panel that is `width` wide, for 4 heads.
static void panel_4(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        tile_4x16(a, a_stride, b + j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[4 * 16];
        tile_4x16(a, a_stride, b + j, width, n, rest, 16);
        for (size_t h = 0; h < 4; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}

static void panel(const float *restrict a, size_t a_stride, size_t heads, const uint16_t *restrict b, size_t width, size_t n,
                  float *restrict c, size_t c_stride, size_t columns) {
    for (; heads >= 4; heads -= 4, a += 4 * a_stride, c += 4 * c_stride) {
        panel_4(a, a_stride, b, width, n, c, c_stride, columns);
    }
    switch (heads) {
    case 1:
        panel_1(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    case 2:
        panel_2(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    case 3:
        panel_3(a, a_stride, b, width, n, c, c_stride, columns);
        break;
    }
}

static inline size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

// A row's scores (block) become p; those of positions that it does not see, as far as they are read, become 0.
static void softmax(float *restrict s, size_t seen, float scale, float *restrict max, float *restrict sum) {
    for (size_t t = seen; t % 16 != 0; t++) {
        s[t] = -__builtin_inff();
    }
    v16 top = v16_set1(-__builtin_inff());
    for (size_t t = 0; t < seen; t += 16) {
        const v16 x = v16_mul(v16_load(s + t), v16_set1(scale));
        v16_store(s + t, x);
        top = v16_max(x, top);
    }
    *max = v16_fold_max(top);
    v16 total = v16_set1(0);
    for (size_t t = 0; t < seen; t += 16) {
        const v16 p = v16_round_f16(v16_exp(v16_sub(v16_load(s + t), v16_set1(*max))));
        v16_store(s + t, p);
        total = v16_add(total, p);
    }
    *sum = v16_fold(total);
}

void sterna_attention_scores_f16__avx2(const float *restrict q, size_t q_stride, const uint16_t *restrict k, size_t rows,
                                size_t group, size_t dim, size_t len, size_t block, float *restrict scores) {
    const size_t most = least(len + rows - 1, block);
    for (size_t first = 0; first < most; first += 16) {
        for (size_t r = 0; r < rows; r++) {
            const size_t seen = least(len + r, block);
            if (seen > first) {
                // More than half a panel is faster as a whole; what is too much is not read.
                const size_t columns = seen - first > 8 ? 16 : seen - first;
                panel(q + r * q_stride, dim, group, k + first * dim, 16, dim,
                      scores + r * group * block + first, block, columns);
            }
        }
    }
}

void sterna_attention_values_f16__avx2(float *restrict scores, const uint16_t *restrict v, size_t rows, size_t group,
                                size_t dim, size_t len, size_t block, float scale, float *restrict max,
                                float *restrict sum, float *restrict out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = r * group; h < (r + 1) * group; h++) {
            softmax(scores + h * block, least(len + r, block), scale, max + h, sum + h);
        }
    }
    for (size_t first = 0; first < dim; first += 16) {
        const size_t columns = least(dim - first, 16);
        for (size_t r = 0; r < rows; r++) {
            panel(scores + r * group * block, block, group, v + first * block, (columns + 15) / 16 * 16,
                  least(len + r, block), out + r * group * dim + first, dim, columns);
        }
    }
}
