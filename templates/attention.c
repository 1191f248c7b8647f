// One block of attention for the query heads that share one KV head, for `rows` tokens at successive positions:
//   scores: s[t] = q . k[t];   values: p[t] = f16(e^(scale * s[t] - max)), sum = sum of p[t], out = sum of p[t] * v[t].
// The first row sees the first `len` positions of the block, each later one a position more. The caller merges blocks.
//
// q holds (group, dim) every q_stride; scores (rows, group, block), out (rows, group, dim), max and sum (rows, group). q and p
// hold f16 values, as k and v do, so every product is exact in f32 and may be fused with its addition. Both products are
// C = A @ B with B in panels of {{ kv_panel }} columns, so that the block is one linear stream of memory:
//
//   k: panels over positions   [t / {{ kv_panel }}][i][t % {{ kv_panel }}]
//   v: panels over the width   [i / {{ kv_panel }}][t][i % {{ kv_panel }}], the last one cut to a multiple of 16
//
// Order: an element of a product is one f32 sum, first to last; the sum of p has 16 lanes by position. A tile is up to
// {{ heads_tile }} heads x {{ kv_panel }} columns of accumulators.
{% include "prelude.h" %}
{% include "vector.h" %}
{% set panel_vectors = kv_panel // 16 %}
{%- for heads in range(start=1, end=heads_tile + 1) %}{% for vectors in [1, panel_vectors] %}{% if loop.first or vectors > 1 %}
// c (heads, columns) = a (heads, n) @ b (n, columns) for {{ heads }} x {{ 16 * vectors }}.
static void tile_{{ heads }}x{{ 16 * vectors }}(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t b_stride, size_t n,
                     float *restrict c, size_t c_stride) {
    v16 {% for h in range(end=heads) %}{% for j in range(end=vectors) %}c{{ h }}_{{ j }} = v16_set1(0){% if not loop.last %}, {% endif %}{% endfor %}{% if not loop.last %}, {% endif %}{% endfor %};
    for (size_t i = 0; i < n; i++, a++, b += b_stride) {
{%- for j in range(end=vectors) %}
        const v16 b{{ j }} = v16_load_f16(b + {{ 16 * j }});
{%- endfor %}
{%- for h in range(end=heads) %}
        const v16 a{{ h }} = v16_set1(a[{{ h }} * a_stride]);
{%- for j in range(end=vectors) %}
        c{{ h }}_{{ j }} = v16_add_exact(c{{ h }}_{{ j }}, a{{ h }}, b{{ j }});
{%- endfor %}
{%- endfor %}
    }
{%- for h in range(end=heads) %}{% for j in range(end=vectors) %}
    v16_store(c + {{ h }} * c_stride + {{ 16 * j }}, c{{ h }}_{{ j }});
{%- endfor %}{% endfor %}
}
{% endif %}{% endfor %}{% endfor %}
{%- for heads in range(start=1, end=heads_tile + 1) %}
// The first `columns` of a panel that is `width` wide, for {{ heads }} heads.
static void panel_{{ heads }}(const float *restrict a, size_t a_stride, const uint16_t *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
{%- if panel_vectors > 1 %}
    if (columns == {{ kv_panel }}) {
        tile_{{ heads }}x{{ kv_panel }}(a, a_stride, b, width, n, c, c_stride);
        return;
    }
{%- endif %}
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        tile_{{ heads }}x16(a, a_stride, b + j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[{{ heads }} * 16];
        tile_{{ heads }}x16(a, a_stride, b + j, width, n, rest, 16);
        for (size_t h = 0; h < {{ heads }}; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}
{% endfor %}
static void panel(const float *restrict a, size_t a_stride, size_t heads, const uint16_t *restrict b, size_t width, size_t n,
                  float *restrict c, size_t c_stride, size_t columns) {
    for (; heads >= {{ heads_tile }}; heads -= {{ heads_tile }}, a += {{ heads_tile }} * a_stride, c += {{ heads_tile }} * c_stride) {
        panel_{{ heads_tile }}(a, a_stride, b, width, n, c, c_stride, columns);
    }
    switch (heads) {
{%- for heads in range(start=1, end=heads_tile) %}
    case {{ heads }}:
        panel_{{ heads }}(a, a_stride, b, width, n, c, c_stride, columns);
        break;
{%- endfor %}
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

void sterna_attention_scores_f16__{{ isa }}(const float *restrict q, size_t q_stride, const uint16_t *restrict k, size_t rows,
                                size_t group, size_t dim, size_t len, size_t block, float *restrict scores) {
    const size_t most = least(len + rows - 1, block);
    for (size_t first = 0; first < most; first += {{ kv_panel }}) {
        for (size_t r = 0; r < rows; r++) {
            const size_t seen = least(len + r, block);
            if (seen > first) {
                // More than half a panel is faster as a whole; what is too much is not read.
                const size_t columns = seen - first > {{ kv_panel // 2 }} ? {{ kv_panel }} : seen - first;
                panel(q + r * q_stride, dim, group, k + first * dim, {{ kv_panel }}, dim,
                      scores + r * group * block + first, block, columns);
            }
        }
    }
}

void sterna_attention_values_f16__{{ isa }}(float *restrict scores, const uint16_t *restrict v, size_t rows, size_t group,
                                size_t dim, size_t len, size_t block, float scale, float *restrict max,
                                float *restrict sum, float *restrict out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = r * group; h < (r + 1) * group; h++) {
            softmax(scores + h * block, least(len + r, block), scale, max + h, sum + h);
        }
    }
    for (size_t first = 0; first < dim; first += {{ kv_panel }}) {
        const size_t columns = least(dim - first, {{ kv_panel }});
        for (size_t r = 0; r < rows; r++) {
            panel(scores + r * group * block, block, group, v + first * block, (columns + 15) / 16 * 16,
                  least(len + r, block), out + r * group * dim + first, dim, columns);
        }
    }
}
