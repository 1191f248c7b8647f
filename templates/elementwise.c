// The kernels that pass once over a row. Written as plain loops whose order does not matter (elementwise, or integer
// reductions) or is spelt out (the 16 lanes of the RMSNorm), so that the compiler may vectorise them for {{ isa }} and
// still give the reference's bits. Compiled with -ffp-contract=off.
{% include "prelude.h" %}
{% include "vector.h" %}

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
void sterna_quantize__{{ isa }}(const float *restrict x, size_t n, int8_t *restrict q, float *restrict scale,
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
void sterna_rescale__{{ isa }}(const int32_t *restrict acc, size_t n, float s, float scale, float *restrict y) {
    for (size_t i = 0; i < n; i++) {
        y[i] = (float)acc[i] / s * scale;
    }
}

// y += acc / s * scale: the residual stream.
void sterna_rescale_add__{{ isa }}(const int32_t *restrict acc, size_t n, float s, float scale, float *restrict y) {
    for (size_t i = 0; i < n; i++) {
        y[i] += (float)acc[i] / s * scale;
    }
}

// y = x / sqrt(mean(x^2) + eps) * weight; the squares are summed in f64, in 16 lanes, folded in halves.
void sterna_rmsnorm__{{ isa }}(const float *restrict x, const float *restrict weight, float eps, size_t n,
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

void sterna_rope__{{ isa }}(float *restrict x, const float *restrict cosine, const float *restrict sine, size_t heads,
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
void sterna_relu2_mul__{{ isa }}(const float *restrict gate, const float *restrict up, size_t n, float *restrict y) {
    for (size_t i = 0; i < n; i++) {
        const float r = gate[i] > 0.0f ? gate[i] : 0.0f;
        y[i] = r * r * up[i];
    }
}

// y = f16(x), half to even.
void sterna_to_f16__{{ isa }}(const float *restrict x, size_t n, uint16_t *restrict y) {
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
