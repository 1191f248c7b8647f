// y[t * y_stride + r] = w[r] . x[t]: the output head, over rows as they are stored.
//
// A dot product has 32 lanes: element i joins lane i % 32, the product rounded before it is added. Dequantisation:
// F16 widened; Q8_0 d * q; Q6_K (d * sub-scale) * code, in f32, as the reference. Rows are read once, first to last.
// F32 and F16 take any cols, Q8_0 whole blocks of 32, Q6_K of 256.
{% include "prelude.h" %}
{% include "vector.h" %}

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
        {% if prefetch_bytes %}__builtin_prefetch(w + 2 * i + {{ prefetch_bytes }});{% endif %}
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
{% for kind in [["f32", "cols * 4"], ["f16", "cols * 2"], ["q8_0", "cols / 32 * 34"], ["q6_k", "cols / 256 * 210"]] %}
void sterna_head_{{ kind[0] }}__{{ isa }}(const uint8_t *restrict w, const float *restrict x, size_t rows, size_t cols,
                               size_t tokens, float *restrict y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = dot_{{ kind[0] }}(w + r * ({{ kind[1] }}), x + t * cols, cols);
        }
    }
}
{% endfor %}
