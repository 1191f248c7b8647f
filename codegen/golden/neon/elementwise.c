// The kernels that pass once over a row. Written as plain loops whose order does not matter (elementwise, or integer
// reductions) or is spelt out (the 16 lanes of the RMSNorm), so that the compiler may vectorise them for neon and
// still give the reference's bits. Compiled with -ffp-contract=off.
// Rendered from templates/elementwise.c for neon: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_quantize__neon(const float *restrict x, size_t n, int8_t *restrict q, float *restrict scale, int32_t *restrict sum);
void sterna_rescale__neon(const int32_t *restrict acc, size_t n, float s, float scale, float *restrict y);
void sterna_rescale_add__neon(const int32_t *restrict acc, size_t n, float s, float scale, float *restrict y);
void sterna_rmsnorm__neon(const float *restrict x, const float *restrict weight, float eps, size_t n, float *restrict y);
void sterna_rope__neon(float *restrict x, const float *restrict cosine, const float *restrict sine, size_t heads, size_t half);
void sterna_relu2_mul__neon(const float *restrict gate, const float *restrict up, size_t n, float *restrict y);
void sterna_to_f16__neon(const float *restrict x, size_t n, uint16_t *restrict y);

// Sixteen f32 lanes, whatever the registers' width. The order of every addition in the float kernels is written in terms
// of these lanes, so it is the same on every ISA; nothing here may fuse or re-associate.
#include <string.h>
#include <arm_neon.h>

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
// In memory, where floats lie at any multiple of 4. A memcpy of a whole v16 would do, but gcc 12 sends it through the stack.
typedef float vf_memory __attribute__((vector_size(16), aligned(4), may_alias));

// Lane i is lane i % 4 of register i / 4.
typedef struct {
    vf r0, r1, r2, r3;
} v16;

static inline v16 v16_set1(float s) {
    const vf v = {s, s, s, s};
    return (v16){v, v, v, v};
}

static inline v16 v16_load(const float *p) {
    v16 v;
    v.r0 = *(const vf_memory *)(p + 0);
    v.r1 = *(const vf_memory *)(p + 4);
    v.r2 = *(const vf_memory *)(p + 8);
    v.r3 = *(const vf_memory *)(p + 12);
    return v;
}

static inline void v16_store(float *p, v16 v) {
    *(vf_memory *)(p + 0) = v.r0;
    *(vf_memory *)(p + 4) = v.r1;
    *(vf_memory *)(p + 8) = v.r2;
    *(vf_memory *)(p + 12) = v.r3;
}

static inline v16 v16_add(v16 a, v16 b) {
    a.r0 = a.r0 + b.r0;
    a.r1 = a.r1 + b.r1;
    a.r2 = a.r2 + b.r2;
    a.r3 = a.r3 + b.r3;
    return a;
}

static inline v16 v16_sub(v16 a, v16 b) {
    a.r0 = a.r0 - b.r0;
    a.r1 = a.r1 - b.r1;
    a.r2 = a.r2 - b.r2;
    a.r3 = a.r3 - b.r3;
    return a;
}

static inline v16 v16_mul(v16 a, v16 b) {
    a.r0 = a.r0 * b.r0;
    a.r1 = a.r1 * b.r1;
    a.r2 = a.r2 * b.r2;
    a.r3 = a.r3 * b.r3;
    return a;
}

// a + b * c for products that f32 holds exactly, as of f16 by f16: fused or rounded first, the sum has the same bits.
static inline v16 v16_add_exact(v16 a, v16 b, v16 c) {
    a.r0 = (vf)vfmaq_f32((float32x4_t)a.r0, (float32x4_t)b.r0, (float32x4_t)c.r0);
    a.r1 = (vf)vfmaq_f32((float32x4_t)a.r1, (float32x4_t)b.r1, (float32x4_t)c.r1);
    a.r2 = (vf)vfmaq_f32((float32x4_t)a.r2, (float32x4_t)b.r2, (float32x4_t)c.r2);
    a.r3 = (vf)vfmaq_f32((float32x4_t)a.r3, (float32x4_t)b.r3, (float32x4_t)c.r3);
    return a;
}

// The greater of each pair; b where either is NaN.
static inline v16 v16_max(v16 a, v16 b) {
    const vi m0 = a.r0 > b.r0;
    a.r0 = (vf)(((vi)a.r0 & m0) | ((vi)b.r0 & ~m0));
    const vi m1 = a.r1 > b.r1;
    a.r1 = (vf)(((vi)a.r1 & m1) | ((vi)b.r1 & ~m1));
    const vi m2 = a.r2 > b.r2;
    a.r2 = (vf)(((vi)a.r2 & m2) | ((vi)b.r2 & ~m2));
    const vi m3 = a.r3 > b.r3;
    a.r3 = (vf)(((vi)a.r3 & m3) | ((vi)b.r3 & ~m3));
    return a;
}

// The greatest lane; where one is NaN, any.
static inline float v16_fold_max(v16 a) {
    const float32x4_t h = vmaxq_f32(vmaxq_f32((float32x4_t)a.r0, (float32x4_t)a.r1), vmaxq_f32((float32x4_t)a.r2, (float32x4_t)a.r3));
    return vmaxvq_f32(h);
}

// Folds in halves: lane i += lane i + 8, then + 4, + 2, + 1.
static inline float v16_fold(v16 a) {
    const vf h = (a.r0 + a.r2) + (a.r1 + a.r3);
    return (h[0] + h[2]) + (h[1] + h[3]);
}

static inline v16 v16_load_f16(const uint16_t *p) {
    v16 v;
    v.r0 = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 0)));
    v.r1 = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4)));
    v.r2 = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 8)));
    v.r3 = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 12)));
    return v;
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
    vst1_u16(p + 0, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v.r0)));
    vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v.r1)));
    vst1_u16(p + 8, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v.r2)));
    vst1_u16(p + 12, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v.r3)));
}

// Rounded to f16 and back.
static inline v16 v16_round_f16(v16 v) {
    v.r0 = (vf)vcvt_f32_f16(vcvt_f16_f32((float32x4_t)v.r0));
    v.r1 = (vf)vcvt_f32_f16(vcvt_f16_f32((float32x4_t)v.r1));
    v.r2 = (vf)vcvt_f32_f16(vcvt_f16_f32((float32x4_t)v.r2));
    v.r3 = (vf)vcvt_f32_f16(vcvt_f16_f32((float32x4_t)v.r3));
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
    {
        const vf t = x.r2 * 1.44269504f + 12582912.0f, n = t - 12582912.0f;
        const vf r = x.r2 - n * 0.693359375f - n * -2.12194440e-4f;
        vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        const vf y = p * (r * r) + r + 1.0f;
        const vi zero = x.r2 < -87.0f;
        x.r2 = (vf)(((vi)y + ((vi)t << 23)) & ~zero);
    }
    {
        const vf t = x.r3 * 1.44269504f + 12582912.0f, n = t - 12582912.0f;
        const vf r = x.r3 - n * 0.693359375f - n * -2.12194440e-4f;
        vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        const vf y = p * (r * r) + r + 1.0f;
        const vi zero = x.r3 < -87.0f;
        x.r3 = (vf)(((vi)y + ((vi)t << 23)) & ~zero);
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


static inline uint32_t bits(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}

// s = 127 / max(1e-5, max|x|); q = round-half-even(x * s); sum = sum of q. s is NaN, and q is 0, when some x is not
// finite: whatever is computed from it is then NaN, which the engine refuses.
//
// |x| compares as integers, which also finds infinities and NaN. Adding 1.5 * 2^23 rounds to an integer, half to even,
// in the low bits; |x * s| cannot round beyond 127.
void sterna_quantize__neon(const float *restrict x, size_t n, int8_t *restrict q, float *restrict scale,
                               int32_t *restrict sum) {
    int32_t top = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t magnitude = (int32_t)(bits(x[i]) & 0x7fffffff);
        top = magnitude > top ? magnitude : top;
    }
    *sum = 0;
    if (top >= 0x7f800000) {
        *scale = __builtin_nanf("");
        memset(q, 0, n);
        return;
    }
    float max;
    memcpy(&max, &top, 4);
    const float s = (float)(127.0 / ((double)max > 1e-5 ? (double)max : 1e-5));
    *scale = s;
    int32_t total = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t v = (int32_t)(bits(x[i] * s + 12582912.0f) - 0x4b400000);
        q[i] = (int8_t)v;
        total += v;
    }
    *sum = total;
}

// y = acc / s * scale, in that order.
void sterna_rescale__neon(const int32_t *restrict acc, size_t n, float s, float scale, float *restrict y) {
    for (size_t i = 0; i < n; i++) {
        y[i] = (float)acc[i] / s * scale;
    }
}

// y += acc / s * scale: the residual stream.
void sterna_rescale_add__neon(const int32_t *restrict acc, size_t n, float s, float scale, float *restrict y) {
    for (size_t i = 0; i < n; i++) {
        y[i] += (float)acc[i] / s * scale;
    }
}

// y = x / sqrt(mean(x^2) + eps) * weight; the squares are summed in f64, in 16 lanes, folded in halves.
void sterna_rmsnorm__neon(const float *restrict x, const float *restrict weight, float eps, size_t n,
                              float *restrict y) {
    double lane[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int l = 0; l < 16; l++) {
            lane[l] += (double)x[i + l] * (double)x[i + l];
        }
    }
    for (int l = 0; i + l < n; l++) {
        lane[l] += (double)x[i + l] * (double)x[i + l];
    }
    for (int width = 8; width > 0; width /= 2) {
        for (int l = 0; l < width; l++) {
            lane[l] += lane[l + width];
        }
    }
    const float mean = (float)(lane[0] / (double)n);
    const float scale = 1.0f / __builtin_sqrtf(mean + eps);
    for (i = 0; i < n; i++) {
        y[i] = x[i] * scale * weight[i];
    }
}

// NeoX RoPE in place, rounded to f16: pairs (i, i + half) of every head. x (heads, 2 * half); cosine, sine (half).
static inline void rotate(float *restrict a, float *restrict b, const float *restrict cosine, const float *restrict sine) {
    const v16 u = v16_load(a), v = v16_load(b), c = v16_load(cosine), s = v16_load(sine);
    v16_store(a, v16_round_f16(v16_sub(v16_mul(u, c), v16_mul(v, s))));
    v16_store(b, v16_round_f16(v16_add(v16_mul(u, s), v16_mul(v, c))));
}

void sterna_rope__neon(float *restrict x, const float *restrict cosine, const float *restrict sine, size_t heads,
                           size_t half) {
    for (size_t h = 0; h < heads; h++) {
        float *restrict a = x + h * 2 * half, *restrict b = a + half;
        size_t i = 0;
        for (; i + 16 <= half; i += 16) {
            rotate(a + i, b + i, cosine + i, sine + i);
        }
        if (i < half) {
            const size_t bytes = (half - i) * 4;
            float u[16] = {0}, v[16] = {0}, c[16] = {0}, s[16] = {0};
            memcpy(u, a + i, bytes);
            memcpy(v, b + i, bytes);
            memcpy(c, cosine + i, bytes);
            memcpy(s, sine + i, bytes);
            rotate(u, v, c, s);
            memcpy(a + i, u, bytes);
            memcpy(b + i, v, bytes);
        }
    }
}

// y = relu(gate)^2 * up.
void sterna_relu2_mul__neon(const float *restrict gate, const float *restrict up, size_t n, float *restrict y) {
    for (size_t i = 0; i < n; i++) {
        const float r = gate[i] > 0.0f ? gate[i] : 0.0f;
        y[i] = r * r * up[i];
    }
}

// y = f16(x), half to even.
void sterna_to_f16__neon(const float *restrict x, size_t n, uint16_t *restrict y) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store_f16(y + i, v16_load(x + i));
    }
    if (i < n) {
        float rest[16] = {0};
        uint16_t h[16];
        memcpy(rest, x + i, (n - i) * 4);
        v16_store_f16(h, v16_load(rest));
        memcpy(y + i, h, (n - i) * 2);
    }
}
