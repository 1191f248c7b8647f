// y[t * y_stride + r] = w[r] . x[t]: the output head, over rows as they are stored.
//
// A dot product has 32 lanes: element i joins lane i % 32, the product rounded before it is added. Dequantisation:
// F16 widened; Q8_0 d * q; Q6_K (d * sub-scale) * code, in f32, as the reference. Rows are read once, first to last.
// F32 and F16 take any cols, Q8_0 whole blocks of 32, Q6_K of 256.
// Rendered from templates/head.c for avx512vnni: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_head_f32__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols, size_t tokens, float *restrict y, size_t y_stride);
void sterna_head_f16__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols, size_t tokens, float *restrict y, size_t y_stride);
void sterna_head_q8_0__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols, size_t tokens, float *restrict y, size_t y_stride);
void sterna_head_q6_k__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols, size_t tokens, float *restrict y, size_t y_stride);

// Sixteen f32 lanes, whatever the registers' width. The order of every addition in the float kernels is written in terms
// of these lanes, so it is the same on every ISA; nothing here may fuse or re-associate.
#include <string.h>
#include <immintrin.h>

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
// In memory, where floats lie at any multiple of 4. A memcpy of a whole v16 would do, but gcc 12 sends it through the stack.
typedef float vf_memory __attribute__((vector_size(64), aligned(4), may_alias));

// Lane i is lane i % 16 of register i / 16.
typedef struct {
    vf r0;
} v16;

static inline v16 v16_set1(float s) {
    const vf v = {s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s};
    return (v16){v};
}

static inline v16 v16_load(const float *p) {
    v16 v;
    v.r0 = *(const vf_memory *)(p + 0);
    return v;
}

static inline void v16_store(float *p, v16 v) {
    *(vf_memory *)(p + 0) = v.r0;
}

static inline v16 v16_add(v16 a, v16 b) {
    a.r0 = a.r0 + b.r0;
    return a;
}

static inline v16 v16_sub(v16 a, v16 b) {
    a.r0 = a.r0 - b.r0;
    return a;
}

static inline v16 v16_mul(v16 a, v16 b) {
    a.r0 = a.r0 * b.r0;
    return a;
}

// a + b * c for products that f32 holds exactly, as of f16 by f16: fused or rounded first, the sum has the same bits.
static inline v16 v16_add_exact(v16 a, v16 b, v16 c) {
    a.r0 = (vf)_mm512_fmadd_ps((__m512)b.r0, (__m512)c.r0, (__m512)a.r0);
    return a;
}

// The greater of each pair; b where either is NaN.
static inline v16 v16_max(v16 a, v16 b) {
    const vi m0 = a.r0 > b.r0;
    a.r0 = (vf)(((vi)a.r0 & m0) | ((vi)b.r0 & ~m0));
    return a;
}

// The greatest lane; where one is NaN, any.
static inline float v16_fold_max(v16 a) {
    const __m256 s = _mm256_max_ps(_mm512_castps512_ps256((__m512)a.r0),
                                   _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)a.r0), 1)));
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}

// Folds in halves: lane i += lane i + 8, then + 4, + 2, + 1.
static inline float v16_fold(v16 a) {
    const __m256 s = _mm256_add_ps(_mm512_castps512_ps256((__m512)a.r0),
                                   _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)a.r0), 1)));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

static inline v16 v16_load_f16(const uint16_t *p) {
    return (v16){(vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))};
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v.r0, _MM_FROUND_TO_NEAREST_INT));
}

// Rounded to f16 and back.
static inline v16 v16_round_f16(v16 v) {
    v.r0 = (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v.r0, _MM_FROUND_TO_NEAREST_INT));
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


static inline float f16(const uint8_t *p) {
    uint16_t h[16] = {0};
    float f[16];
    memcpy(h, p, 2);
    v16_store(f, v16_load_f16(h));
    return f[0];
}

// The products of 32 elements, whose widened values are in `row`, join their lanes.
static inline v32 v32_join(v32 acc, v16 lo, v16 hi, const float *x) {
    acc.lo = v16_add(acc.lo, v16_mul(lo, v16_load(x)));
    acc.hi = v16_add(acc.hi, v16_mul(hi, v16_load(x + 16)));
    return acc;
}

static float dot_f32(const uint8_t *restrict w, const float *restrict x, size_t n) {
    v32 acc = v32_zero();
    float row[32];
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        memcpy(row, w + i * 4, 128);
        acc = v32_join(acc, v16_load(row), v16_load(row + 16), x + i);
    }
    memcpy(row, w + i * 4, (n - i) * 4);
    return v32_finish(acc, row, x + i, n - i);
}

static float dot_f16(const uint8_t *restrict w, const float *restrict x, size_t n) {
    const uint16_t *row = (const uint16_t *)w;
    v32 acc = v32_zero();
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __builtin_prefetch(w + 2 * i + 256);
        acc = v32_join(acc, v16_load_f16(row + i), v16_load_f16(row + i + 16), x + i);
    }
    float rest[32];
    if (i < n) {
        uint16_t h[32] = {0};
        memcpy(h, row + i, (n - i) * 2);
        v16_store(rest, v16_load_f16(h));
        v16_store(rest + 16, v16_load_f16(h + 16));
    }
    return v32_finish(acc, rest, x + i, n - i);
}

static float dot_q8_0(const uint8_t *restrict w, const float *restrict x, size_t n) {
    v32 acc = v32_zero();
    for (size_t i = 0; i < n; i += 32, w += 34) {
        const float d = f16(w);
        const int8_t *q = (const int8_t *)(w + 2);
        float row[32];
        for (int j = 0; j < 32; j++) {
            row[j] = d * (float)q[j];
        }
        acc = v32_join(acc, v16_load(row), v16_load(row + 16), x + i);
    }
    return v32_finish(acc, x, x, 0);
}

static float dot_q6_k(const uint8_t *restrict w, const float *restrict x, size_t n) {
    v32 acc = v32_zero();
    for (size_t i = 0; i < n; i += 256, w += 210) {
        const int8_t *sub = (const int8_t *)(w + 192);
        const float d = f16(w + 208);
        for (int part = 0; part < 8; part++) { // 32 elements: half part / 4, quarter part % 4
            const uint8_t *low = w + part / 4 * 64 + part % 2 * 32, *high = w + 128 + part / 4 * 32;
            const int low_shift = part % 4 / 2 * 4, high_shift = part % 4 * 2;
            float row[32];
            for (int j = 0; j < 32; j++) {
                const int code = (low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4;
                row[j] = d * (float)sub[part * 2 + j / 16] * (float)(code - 32);
            }
            acc = v32_join(acc, v16_load(row), v16_load(row + 16), x + i + part * 32);
        }
    }
    return v32_finish(acc, x, x, 0);
}

void sterna_head_f32__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols,
                               size_t tokens, float *restrict y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = dot_f32(w + r * (cols * 4), x + t * cols, cols);
        }
    }
}

void sterna_head_f16__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols,
                               size_t tokens, float *restrict y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = dot_f16(w + r * (cols * 2), x + t * cols, cols);
        }
    }
}

void sterna_head_q8_0__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols,
                               size_t tokens, float *restrict y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = dot_q8_0(w + r * (cols / 32 * 34), x + t * cols, cols);
        }
    }
}

void sterna_head_q6_k__avx512vnni(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols,
                               size_t tokens, float *restrict y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = dot_q6_k(w + r * (cols / 256 * 210), x + t * cols, cols);
        }
    }
}

