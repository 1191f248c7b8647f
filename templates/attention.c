// One block of attention for the query heads that share one KV head, for `rows` tokens at successive positions:
//   scores: s[t] = q . k[t];   values: p[t] = e^(scale * s[t] - max), sum = sum of p[t], out = sum of p[t] * v[t].
// The first row sees the first `len` positions of the block, each later one a position more. The caller merges blocks.
//
// q holds (group, dim) every q_stride; scores (rows, group, block), out (rows, group, dim), max and sum (rows, group).
// Both products are C = A @ B with B in panels of {{ kv_panel }} columns, so that the block is one linear stream of memory:
//
//   k: panels over positions   [t / {{ kv_panel }}][i][t % {{ kv_panel }}]
//   v: panels over the width   [i / {{ kv_panel }}][t][i % {{ kv_panel }}], the last one cut to a multiple of 16
//
// f16: q and p hold f16 values, as k and v do, so every product is exact in f32 and may be fused with its addition. Order: an
// element of a product is one f32 sum, first to last.
//
// q8_0: k and v are int8 codes with a scale a position; q is int16 with a scale a head, and the weights p[t] * v_scale[t] become
// int16 with a scale a block. The products are exact in i32, in any order: 516 * 32767 * 127 fits, and the caller has queries of
// fewer bits where dim is more. Two rows of B lie together, a pair for a pair of A: [i / 2][t % {{ kv_panel }}][i % 2] in the keys,
// [t / 2][i % {{ kv_panel }}][t % 2] in the values.
//
// A row of B, or a pair, is half a line for 16 columns: every line of it is asked for {{ kv_prefetch_bytes }} bytes ahead.
//
// The sum of p has 16 lanes by position. A tile is up to {{ heads_tile }} heads x {{ kv_panel }} columns of accumulators.
{% include "prelude.h" %}
{% include "vector.h" %}
{% set panel_vectors = kv_panel // 16 %}
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
{% set regs = 16 / lanes -%}
typedef struct {
    vi {% for i in range(end=regs) %}r{{ i }}{% if not loop.last %}, {% endif %}{% endfor %};
} q8_0_sums;
#define q8_0_ROWS 2

static inline q8_0_sums q8_0_zero(void) {
    return (q8_0_sums){{ "{" }}{% for i in range(end=regs) %}{0}{% if not loop.last %}, {% endif %}{% endfor %}{{ "}" }};
}
{% if lanes == 4 and isa != "baseline" %}
// Two rows of 16 columns, widened.
typedef struct {
    int16x8_t even0, odd0, even1, odd1;
} q8_0_rows;

static inline q8_0_rows q8_0_load(const q8_0_b *b) {
    const int8x8x2_t x = vld2_s8(b), y = vld2_s8(b + 16);
    return (q8_0_rows){vmovl_s8(x.val[0]), vmovl_s8(x.val[1]), vmovl_s8(y.val[0]), vmovl_s8(y.val[1])};
}

static inline int16x4_t q8_0_broadcast(const q8_0_a *a) {
    int32_t pair;
    memcpy(&pair, a, 4);
    return vreinterpret_s16_s32(vdup_n_s32(pair));
}

static inline q8_0_sums q8_0_add(q8_0_sums c, int16x4_t a, q8_0_rows b) {
{%- for half in [0, 1] %}
    c.r{{ 2 * half }} = (vi)vmlal_lane_s16((int32x4_t)c.r{{ 2 * half }}, vget_low_s16(b.even{{ half }}), a, 0);
    c.r{{ 2 * half }} = (vi)vmlal_lane_s16((int32x4_t)c.r{{ 2 * half }}, vget_low_s16(b.odd{{ half }}), a, 1);
    c.r{{ 2 * half + 1 }} = (vi)vmlal_high_lane_s16((int32x4_t)c.r{{ 2 * half + 1 }}, b.even{{ half }}, a, 0);
    c.r{{ 2 * half + 1 }} = (vi)vmlal_high_lane_s16((int32x4_t)c.r{{ 2 * half + 1 }}, b.odd{{ half }}, a, 1);
{%- endfor %}
    return c;
}
{% else %}
// Two rows of 16 columns, widened to a pair of int16 a column.
typedef q8_0_sums q8_0_rows;

static inline q8_0_rows q8_0_load(const q8_0_b *b) {
    q8_0_rows v;
{%- for i in range(end=regs) %}
{%- if lanes == 16 %}
    v.r{{ i }} = (vi)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)b));
{%- elif lanes == 8 %}
    v.r{{ i }} = (vi)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(b + {{ 16 * i }})));
{%- else %}
    const __m128i b{{ i }} = _mm_loadl_epi64((const __m128i *)(b + {{ 8 * i }}));
    v.r{{ i }} = (vi)_mm_srai_epi16(_mm_unpacklo_epi8(b{{ i }}, b{{ i }}), 8);
{%- endif %}
{%- endfor %}
    return v;
}

static inline vi q8_0_broadcast(const q8_0_a *a) {
    int32_t pair;
    memcpy(&pair, a, 4);
    return (vi){{ "{" }}{% for i in range(end=lanes) %}pair{% if not loop.last %}, {% endif %}{% endfor %}{{ "}" }};
}

static inline q8_0_sums q8_0_add(q8_0_sums c, vi a, q8_0_rows b) {
{%- for i in range(end=regs) %}
{%- if isa == "avx512vnni" or isa == "avx512vbmi" %}
    c.r{{ i }} = (vi)_mm512_dpwssd_epi32((__m512i)c.r{{ i }}, (__m512i)a, (__m512i)b.r{{ i }});
{%- elif lanes == 16 %}
    c.r{{ i }} = c.r{{ i }} + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b.r{{ i }});
{%- elif lanes == 8 %}
    c.r{{ i }} = c.r{{ i }} + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b.r{{ i }});
{%- else %}
    c.r{{ i }} = c.r{{ i }} + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b.r{{ i }});
{%- endif %}
{%- endfor %}
    return c;
}
{% endif %}
static inline v16 q8_0_finish(q8_0_sums c) {
    return (v16){{ "{" }}{% for i in range(end=regs) %}__builtin_convertvector(c.r{{ i }}, vf){% if not loop.last %}, {% endif %}{% endfor %}{{ "}" }};
}
{% for kind in ["f16", "q8_0"] %}
{%- for heads in range(start=1, end=heads_tile + 1) %}{% for vectors in [1, panel_vectors] %}{% if loop.first or vectors > 1 %}
// c (heads, columns) = a (heads, n) @ b (n, columns) for {{ heads }} x {{ 16 * vectors }}.
static void {{ kind }}_tile_{{ heads }}x{{ 16 * vectors }}(const {{ kind }}_a *restrict a, size_t a_stride, const {{ kind }}_b *restrict b,
                     size_t b_stride, size_t n, float *restrict c, size_t c_stride) {
    {{ kind }}_sums {% for h in range(end=heads) %}{% for j in range(end=vectors) %}c{{ h }}_{{ j }} = {{ kind }}_zero(){% if not loop.last %}, {% endif %}{% endfor %}{% if not loop.last %}, {% endif %}{% endfor %};
    for (size_t i = 0; i < n; i += {{ kind }}_ROWS, a += {{ kind }}_ROWS, b += {{ kind }}_ROWS * b_stride) {
{%- if kv_prefetch_bytes %}
{%- for line in range(end=(vectors + 1) // 2) %}
        __builtin_prefetch((const char *)b + {{ kv_prefetch_bytes + 64 * line }});
{%- endfor %}
{%- endif %}
{%- for j in range(end=vectors) %}
        const {{ kind }}_rows b{{ j }} = {{ kind }}_load(b + {{ kind }}_ROWS * {{ 16 * j }});
{%- endfor %}
{%- for h in range(end=heads) %}
        const __typeof__({{ kind }}_broadcast(a)) a{{ h }} = {{ kind }}_broadcast(a + {{ h }} * a_stride);
{%- for j in range(end=vectors) %}
        c{{ h }}_{{ j }} = {{ kind }}_add(c{{ h }}_{{ j }}, a{{ h }}, b{{ j }});
{%- endfor %}
{%- endfor %}
    }
{%- for h in range(end=heads) %}{% for j in range(end=vectors) %}
    v16_store(c + {{ h }} * c_stride + {{ 16 * j }}, {{ kind }}_finish(c{{ h }}_{{ j }}));
{%- endfor %}{% endfor %}
}
{% endif %}{% endfor %}{% endfor %}
{%- for heads in range(start=1, end=heads_tile + 1) %}
// The first `columns` of a panel that is `width` wide, for {{ heads }} heads.
static void {{ kind }}_panel_{{ heads }}(const {{ kind }}_a *restrict a, size_t a_stride, const {{ kind }}_b *restrict b, size_t width, size_t n,
                    float *restrict c, size_t c_stride, size_t columns) {
{%- if panel_vectors > 1 %}
    if (columns == {{ kv_panel }}) {
        {{ kind }}_tile_{{ heads }}x{{ kv_panel }}(a, a_stride, b, width, n, c, c_stride);
        return;
    }
{%- endif %}
    size_t j = 0;
    for (; j + 16 <= columns; j += 16) {
        {{ kind }}_tile_{{ heads }}x16(a, a_stride, b + {{ kind }}_ROWS * j, width, n, c + j, c_stride);
    }
    if (j < columns) {
        float rest[{{ heads }} * 16];
        {{ kind }}_tile_{{ heads }}x16(a, a_stride, b + {{ kind }}_ROWS * j, width, n, rest, 16);
        for (size_t h = 0; h < {{ heads }}; h++) {
            memcpy(c + h * c_stride + j, rest + h * 16, (columns - j) * 4);
        }
    }
}
{% endfor %}
static void {{ kind }}_panel(const {{ kind }}_a *restrict a, size_t a_stride, size_t heads, const {{ kind }}_b *restrict b, size_t width, size_t n,
                  float *restrict c, size_t c_stride, size_t columns) {
    for (; heads >= {{ heads_tile }}; heads -= {{ heads_tile }}, a += {{ heads_tile }} * a_stride, c += {{ heads_tile }} * c_stride) {
        {{ kind }}_panel_{{ heads_tile }}(a, a_stride, b, width, n, c, c_stride, columns);
    }
    switch (heads) {
{%- for heads in range(start=1, end=heads_tile) %}
    case {{ heads }}:
        {{ kind }}_panel_{{ heads }}(a, a_stride, b, width, n, c, c_stride, columns);
        break;
{%- endfor %}
    }
}
{% endfor %}
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

{%- for kind in ["f16", "q8_0"] %}
void sterna_attention_scores_{{ kind }}__{{ isa }}(const {{ kind }}_a *restrict q, size_t q_stride,
{%- if kind == "q8_0" %} const float *restrict q_scales,{% endif %} const {{ kind }}_b *restrict k,
{%- if kind == "q8_0" %} const float *restrict k_scales,{% endif %}
                                size_t rows, size_t group, size_t dim, size_t len, size_t block, float *restrict scores) {
    const size_t most = least(len + rows - 1, block);
    for (size_t first = 0; first < most; first += {{ kv_panel }}) {
        for (size_t r = 0; r < rows; r++) {
            const size_t seen = least(len + r, block);
            if (seen > first) {
                // More than half a panel is faster as a whole; what is too much is not read.
                const size_t columns = seen - first > {{ kv_panel // 2 }} ? {{ kv_panel }} : seen - first;
                {{ kind }}_panel(q + r * q_stride, dim, group, k + first * dim, {{ kv_panel }}, dim,
                      scores + r * group * block + first, block, columns);
            }
        }
    }
{%- if kind == "q8_0" %}
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = 0; h < group; h++) {
            float *restrict s = scores + (r * group + h) * block;
            const v16 scale = v16_set1(q_scales[r * (q_stride / dim) + h]);
            for (size_t t = 0; t < least(len + r, block); t += 16) {
                v16_store(s + t, v16_mul(v16_mul(v16_load(s + t), scale), v16_load(k_scales + t)));
            }
        }
    }
{%- endif %}
}

void sterna_attention_values_{{ kind }}__{{ isa }}(float *restrict scores, const {{ kind }}_b *restrict v,
{%- if kind == "q8_0" %} const float *restrict v_scales,{% endif %} size_t rows, size_t group,
                                size_t dim, size_t len, size_t block, float scale, float *restrict max,
                                float *restrict sum, float *restrict out) {
    for (size_t r = 0; r < rows; r++) {
        for (size_t h = r * group; h < (r + 1) * group; h++) {
            const size_t seen = least(len + r, block);
{%- if kind == "q8_0" %}
            q8_0_softmax(scores + h * block, seen, block, scale, v_scales, max + h, sum + h);
{%- else %}
            f16_softmax(scores + h * block, seen, scale, max + h, sum + h);
{%- endif %}
        }
    }
    for (size_t first = 0; first < dim; first += {{ kv_panel }}) {
        const size_t columns = least(dim - first, {{ kv_panel }});
        for (size_t r = 0; r < rows; r++) {
            const {{ kind }}_a *restrict p = (const {{ kind }}_a *)(scores + r * group * block);
            {{ kind }}_panel(p, block * sizeof(float) / sizeof(*p), group, v + first * block, (columns + 15) / 16 * 16,
                  least(len + r, block), out + r * group * dim + first, dim, columns);
        }
    }
{%- if kind == "q8_0" %}
    for (size_t h = 0; h < rows * group; h++) {
        const float unit = scores[(h + 1) * block - 1];
        for (size_t i = 0; i < dim; i++) {
            out[h * dim + i] *= unit;
        }
    }
{%- endif %}
}
{%- endfor %}
