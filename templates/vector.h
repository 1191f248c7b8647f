// Sixteen f32 lanes, whatever the registers' width. The order of every addition in the float kernels is written in terms
// of these lanes, so it is the same on every ISA; nothing here may fuse or re-associate.
{%- set regs = 16 / lanes %}
#include <string.h>
{%- if isa == "baseline" %}
#include <emmintrin.h>
{%- elif lanes == 4 %}
#include <arm_neon.h>
{%- else %}
#include <immintrin.h>
{%- endif %}

typedef float vf __attribute__((vector_size({{ 4 * lanes }})));
typedef int32_t vi __attribute__((vector_size({{ 4 * lanes }})));
// In memory, where floats lie at any multiple of 4. A memcpy of a whole v16 would do, but gcc 12 sends it through the stack.
typedef float vf_memory __attribute__((vector_size({{ 4 * lanes }}), aligned(4), may_alias));

// Lane i is lane i % {{ lanes }} of register i / {{ lanes }}.
typedef struct {
    vf {% for i in range(end=regs) %}r{{ i }}{% if not loop.last %}, {% endif %}{% endfor %};
} v16;

static inline v16 v16_set1(float s) {
    const vf v = {{ "{" }}{% for i in range(end=lanes) %}s{% if not loop.last %}, {% endif %}{% endfor %}{{ "}" }};
    return (v16){{ "{" }}{% for i in range(end=regs) %}v{% if not loop.last %}, {% endif %}{% endfor %}{{ "}" }};
}

static inline v16 v16_load(const float *p) {
    v16 v;
{%- for i in range(end=regs) %}
    v.r{{ i }} = *(const vf_memory *)(p + {{ i * lanes }});
{%- endfor %}
    return v;
}

static inline void v16_store(float *p, v16 v) {
{%- for i in range(end=regs) %}
    *(vf_memory *)(p + {{ i * lanes }}) = v.r{{ i }};
{%- endfor %}
}
{% for op in [["add", "+"], ["sub", "-"], ["mul", "*"]] %}
static inline v16 v16_{{ op[0] }}(v16 a, v16 b) {
{%- for i in range(end=regs) %}
    a.r{{ i }} = a.r{{ i }} {{ op[1] }} b.r{{ i }};
{%- endfor %}
    return a;
}
{% endfor %}
// a + b * c for products that f32 holds exactly, as of f16 by f16: fused or rounded first, the sum has the same bits.
static inline v16 v16_add_exact(v16 a, v16 b, v16 c) {
{%- for i in range(end=regs) %}
{%- if lanes == 16 %}
    a.r{{ i }} = (vf)_mm512_fmadd_ps((__m512)b.r{{ i }}, (__m512)c.r{{ i }}, (__m512)a.r{{ i }});
{%- elif lanes == 8 %}
    // By name: with -mfma the compiler could fuse others.
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(a.r{{ i }}) : "x"(b.r{{ i }}), "x"(c.r{{ i }}));
{%- elif lanes == 4 and isa != "baseline" %}
    a.r{{ i }} = (vf)vfmaq_f32((float32x4_t)a.r{{ i }}, (float32x4_t)b.r{{ i }}, (float32x4_t)c.r{{ i }});
{%- else %}
    a.r{{ i }} = a.r{{ i }} + b.r{{ i }} * c.r{{ i }};
{%- endif %}
{%- endfor %}
    return a;
}

// The greater of each pair; b where either is NaN.
static inline v16 v16_max(v16 a, v16 b) {
{%- for i in range(end=regs) %}
    const vi m{{ i }} = a.r{{ i }} > b.r{{ i }};
    a.r{{ i }} = (vf)(((vi)a.r{{ i }} & m{{ i }}) | ((vi)b.r{{ i }} & ~m{{ i }}));
{%- endfor %}
    return a;
}

// The greatest lane; where one is NaN, any.
static inline float v16_fold_max(v16 a) {
{%- if isa != "baseline" and lanes == 4 %}
    const float32x4_t h = vmaxq_f32(vmaxq_f32((float32x4_t)a.r0, (float32x4_t)a.r1), vmaxq_f32((float32x4_t)a.r2, (float32x4_t)a.r3));
    return vmaxvq_f32(h);
{%- else %}
{%- if lanes == 16 %}
    const __m256 s = _mm256_max_ps(_mm512_castps512_ps256((__m512)a.r0),
                                   _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)a.r0), 1)));
{%- elif lanes == 8 %}
    const __m256 s = _mm256_max_ps((__m256)a.r0, (__m256)a.r1);
{%- endif %}
{%- if lanes == 4 %}
    __m128 h = _mm_max_ps(_mm_max_ps((__m128)a.r0, (__m128)a.r1), _mm_max_ps((__m128)a.r2, (__m128)a.r3));
{%- else %}
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
{%- endif %}
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
{%- endif %}
}

// Folds in halves: lane i += lane i + 8, then + 4, + 2, + 1.
static inline float v16_fold(v16 a) {
{%- if lanes == 4 %}
    const vf h = (a.r0 + a.r2) + (a.r1 + a.r3);
    return (h[0] + h[2]) + (h[1] + h[3]);
{%- else %}
{%- if lanes == 8 %}
    const __m256 s = (__m256)(a.r0 + a.r1);
{%- else %}
    const __m256 s = _mm256_add_ps(_mm512_castps512_ps256((__m512)a.r0),
                                   _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)a.r0), 1)));
{%- endif %}
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
{%- endif %}
}
{% if isa == "baseline" %}
// f16 to f32 by moving the fields into place: exponents are re-biased by a multiplication with 2^112, which also
// normalises subnormals, exactly; infinities and NaN get their exponent back.
static inline vf vf_load_f16(const uint16_t *p) {
    const __m128i h = _mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
    const vi bits = (vi)h, magnitude = bits & 0x7fff;
    const vf scaled = (vf)(magnitude << 13) * 0x1p112f;
    const vi special = magnitude >= 0x7c00;
    return (vf)((vi)scaled | (special & 0x7f800000) | (bits & 0x8000) << 16);
}

// f32 to f16, half to even. Normal results: add the rounding bias and move the fields. Subnormal ones: let an
// addition of 0.5 align and round the significand. Beyond the range: infinity; NaN stays NaN.
static inline vi vf_to_f16(vf v) {
    const vi bits = (vi)v, a = bits & 0x7fffffff;
    const vi normal = (a + (int32_t)0xc8000fffu + (a >> 13 & 1)) >> 13;
    const vi subnormal = (vi)((vf)a + 0.5f) - 0x3f000000;
    const vi is_subnormal = a < 0x38800000, is_large = a >= 0x47800000, is_nan = a > 0x7f800000;
    vi r = (subnormal & is_subnormal) | (normal & ~is_subnormal);
    r = ((0x7c00 | (is_nan & 0x200)) & is_large) | (r & ~is_large);
    return r | (bits >> 16 & 0x8000);
}

static inline v16 v16_load_f16(const uint16_t *p) {
    return (v16){vf_load_f16(p), vf_load_f16(p + 4), vf_load_f16(p + 8), vf_load_f16(p + 12)};
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
    const vi h0 = vf_to_f16(v.r0), h1 = vf_to_f16(v.r1), h2 = vf_to_f16(v.r2), h3 = vf_to_f16(v.r3);
    for (int i = 0; i < 4; i++) {
        p[i] = (uint16_t)h0[i];
        p[4 + i] = (uint16_t)h1[i];
        p[8 + i] = (uint16_t)h2[i];
        p[12 + i] = (uint16_t)h3[i];
    }
}
{% elif lanes == 4 %}
static inline v16 v16_load_f16(const uint16_t *p) {
    v16 v;
{%- for i in range(end=4) %}
    v.r{{ i }} = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + {{ 4 * i }})));
{%- endfor %}
    return v;
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
{%- for i in range(end=4) %}
    vst1_u16(p + {{ 4 * i }}, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v.r{{ i }})));
{%- endfor %}
}
{% elif lanes == 8 %}
static inline v16 v16_load_f16(const uint16_t *p) {
    return (v16){(vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                 (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)v.r0, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph((__m256)v.r1, _MM_FROUND_TO_NEAREST_INT));
}
{% else %}
static inline v16 v16_load_f16(const uint16_t *p) {
    return (v16){(vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p))};
}

static inline void v16_store_f16(uint16_t *p, v16 v) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v.r0, _MM_FROUND_TO_NEAREST_INT));
}
{% endif %}
// Rounded to f16 and back.
static inline v16 v16_round_f16(v16 v) {
{%- if isa == "baseline" %}
    uint16_t h[16];
    v16_store_f16(h, v);
    return v16_load_f16(h);
{%- else %}
{%- for i in range(end=regs) %}
{%- if lanes == 16 %}
    v.r{{ i }} = (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v.r{{ i }}, _MM_FROUND_TO_NEAREST_INT));
{%- elif lanes == 8 %}
    v.r{{ i }} = (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v.r{{ i }}, _MM_FROUND_TO_NEAREST_INT));
{%- else %}
    v.r{{ i }} = (vf)vcvt_f32_f16(vcvt_f16_f32((float32x4_t)v.r{{ i }}));
{%- endif %}
{%- endfor %}
    return v;
{%- endif %}
}

// e^x for x <= 0, NaN for NaN; the constants and the order are those of the reference.
static inline v16 v16_exp(v16 x) {
{%- for i in range(end=regs) %}
    {
        const vf t = x.r{{ i }} * 1.44269504f + 12582912.0f, n = t - 12582912.0f;
        const vf r = x.r{{ i }} - n * 0.693359375f - n * -2.12194440e-4f;
        vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        const vf y = p * (r * r) + r + 1.0f;
        const vi zero = x.r{{ i }} < -87.0f;
        x.r{{ i }} = (vf)(((vi)y + ((vi)t << 23)) & ~zero);
    }
{%- endfor %}
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
