// out[h] = softmax(scale * q[h] . K^T) V for the query heads that share one KV head, over len cached positions.
//
// q, out (heads, dim) f32; K, V (len, dim) f16; scores (len): scratch. As bitnet.cpp without flash attention: q and the
// probabilities are rounded to f16, sums are f32. Order: a dot product has 32 lanes; the sum of exponentials is f64 in
// 16 lanes by position; each output element adds positions first to last.
{% include "prelude.h" %}
{% include "vector.h" %}

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

void sterna_attention__{{ isa }}(const float *restrict q, const uint16_t *restrict k, const uint16_t *restrict v,
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
