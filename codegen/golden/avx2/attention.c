// out[h] = softmax(scale * q[h] . K^T) V for the query heads that share one KV head, over len cached positions.
//
// q, out (heads, dim) f32; K, V (len, dim) f16; scores (len): scratch. As bitnet.cpp without flash attention: q and the
// probabilities are rounded to f16, sums are f32. Order: a dot product has 32 lanes; the sum of exponentials is f64 in
// 16 lanes by position; each output element adds positions first to last.
// Rendered from templates/attention.c for avx2: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_attention__avx2(const float *restrict q, const uint16_t *restrict k, const uint16_t *restrict v, size_t heads, size_t len, size_t dim, float scale, float *restrict scores, float *restrict out);

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

// The greater of each pair; b where either is NaN.
static inline v16 v16_max(v16 a, v16 b) {
    const vi m0 = a.r0 > b.r0;
    a.r0 = (vf)(((vi)a.r0 & m0) | ((vi)b.r0 & ~m0));
    const vi m1 = a.r1 > b.r1;
    a.r1 = (vf)(((vi)a.r1 & m1) | ((vi)b.r1 & ~m1));
    return a;
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
    uint16_t h[16];
    v16_store_f16(h, v);
    return v16_load_f16(h);
}

// e^x for x <= 0; the constants and the order are those of the reference.
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
        const vi keep = x.r0 >= -87.0f;
        x.r0 = (vf)(((vi)y + ((vi)t << 23)) & keep);
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
        const vi keep = x.r1 >= -87.0f;
        x.r1 = (vf)(((vi)y + ((vi)t << 23)) & keep);
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


static float dot_f16(const uint16_t *restrict k, const float *restrict q, size_t dim) {
    v32 acc = v32_zero();
    size_t i = 0;
    for (; i + 32 <= dim; i += 32) {
        acc.lo = v16_add(acc.lo, v16_mul(v16_load_f16(k + i), v16_load(q + i)));
        acc.hi = v16_add(acc.hi, v16_mul(v16_load_f16(k + i + 16), v16_load(q + i + 16)));
    }
    float rest[32] = {0};
    if (i < dim) {
        uint16_t h[32] = {0};
        memcpy(h, k + i, (dim - i) * 2);
        v16_store(rest, v16_load_f16(h));
        v16_store(rest + 16, v16_load_f16(h + 16));
    }
    return v32_finish(acc, rest, q + i, dim - i);
}

// Rounds n values to f16, in place.
static void round_f16(float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(x + i, v16_round_f16(v16_load(x + i)));
    }
    if (i < n) {
        float rest[16] = {0};
        memcpy(rest, x + i, (n - i) * 4);
        v16_store(rest, v16_round_f16(v16_load(rest)));
        memcpy(x + i, rest, (n - i) * 4);
    }
}

// scores -> f16(exp(score - max) / sum).
static void softmax_f16(float *scores, size_t len) {
    v16 top = v16_set1(-__builtin_inff());
    size_t t = 0;
    for (; t + 16 <= len; t += 16) {
        top = v16_max(top, v16_load(scores + t));
    }
    float rest[16], lane[16];
    v16_store(lane, top);
    float max = lane[0];
    for (int i = 1; i < 16; i++) {
        max = lane[i] > max ? lane[i] : max;
    }
    for (; t < len; t++) {
        max = scores[t] > max ? scores[t] : max;
    }
    double sum[16] = {0};
    for (t = 0; t < len; t += 16) {
        const size_t n = len - t < 16 ? len - t : 16;
        memcpy(rest, scores + t, n * 4);
        memset(rest + n, 0, (16 - n) * 4);
        v16_store(rest, v16_exp(v16_sub(v16_load(rest), v16_set1(max))));
        memcpy(scores + t, rest, n * 4);
        for (size_t i = 0; i < n; i++) {
            sum[i] += (double)rest[i];
        }
    }
    for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) {
            sum[i] += sum[i + width];
        }
    }
    const float inverse = (float)(1.0 / sum[0]);
    for (t = 0; t < len; t++) {
        scores[t] *= inverse;
    }
    round_f16(scores, len);
}

void sterna_attention__avx2(const float *restrict q, const uint16_t *restrict k, const uint16_t *restrict v,
                                size_t heads, size_t len, size_t dim, float scale, float *restrict scores,
                                float *restrict out) {
    for (size_t h = 0; h < heads; h++) {
        float *o = out + h * dim;
        memcpy(o, q + h * dim, dim * 4); // `out` holds the rounded query until its scores are known
        round_f16(o, dim);
        for (size_t t = 0; t < len; t++) {
            scores[t] = dot_f16(k + t * dim, o, dim) * scale;
        }
        softmax_f16(scores, len);
        size_t i = 0;
        for (; i + 64 <= dim; i += 64) {
            v16 a = v16_set1(0), b = a, c = a, d = a;
            for (size_t t = 0; t < len; t++) {
                const uint16_t *row = v + t * dim + i;
                const v16 p = v16_set1(scores[t]);
                a = v16_add(a, v16_mul(p, v16_load_f16(row)));
                b = v16_add(b, v16_mul(p, v16_load_f16(row + 16)));
                c = v16_add(c, v16_mul(p, v16_load_f16(row + 32)));
                d = v16_add(d, v16_mul(p, v16_load_f16(row + 48)));
            }
            v16_store(o + i, a);
            v16_store(o + i + 16, b);
            v16_store(o + i + 32, c);
            v16_store(o + i + 48, d);
        }
        for (; i < dim; i += 16) {
            const size_t n = dim - i < 16 ? dim - i : 16;
            uint16_t row[16] = {0};
            float sums[16];
            v16 a = v16_set1(0);
            for (size_t t = 0; t < len; t++) {
                memcpy(row, v + t * dim + i, n * 2);
                a = v16_add(a, v16_mul(v16_set1(scores[t]), v16_load_f16(row)));
            }
            v16_store(sums, a);
            memcpy(o + i, sums, n * 4);
        }
    }
}
