// y[t * y_stride + r] = sum over c of w(r, c) * x(t, c): the coarse output head, int8 x int16, exactly.
//
// W (rows, cols) row-major, cols % 64 == 0; x (tokens, cols).
// Overflow: the caller sees to sum over c of |x(t, c)| < 2^24, so that no sum of products with int8, of any of the columns in any order,
// leaves i32. Nothing is widened on the way, and every ISA may add as it likes.
//
// One token: row after row, one linear stream, prefetched {{ packed_prefetch_bytes }} bytes ahead.
// Several: tiles of 4 rows, so that a row is widened once for all tokens of the tile, and the tokens, which do not fit in L1d together, are
// read once for four rows. The next four rows are prefetched meanwhile, a little in every step, and to L2, where they push no token out:
// measured on Zen 4 with 8 tokens, 12 GB/s against 8 with a prefetch to L1d, and against 7 with one in the first tile only.
{% include "prelude.h" %}
{%- if lanes == 16 %}
{%- set row_bits = 256 %}
{%- set row_lanes = 16 %}
{%- set tile_bits = 512 %}
{%- set tile_lanes = 32 %}
{%- set most = 4 %}
#include <immintrin.h>
{%- elif lanes == 8 %}
{%- set row_bits = 256 %}
{%- set row_lanes = 16 %}
{%- set tile_bits = 256 %}
{%- set tile_lanes = 16 %}
{%- set most = 2 %}
#include <immintrin.h>
{%- elif isa == "baseline" %}
{%- set row_bits = 128 %}
{%- set row_lanes = 8 %}
{%- set tile_bits = 128 %}
{%- set tile_lanes = 8 %}
{%- set most = 2 %}
#include <emmintrin.h>
{%- else %}
{%- set row_bits = 128 %}
{%- set row_lanes = 8 %}
{%- set tile_bits = 128 %}
{%- set tile_lanes = 8 %}
{%- set most = 4 %}
#include <arm_neon.h>
{%- endif %}
{%- set aarch64 = isa == "neon" or isa == "dotprod" or isa == "i8mm" %}
{%- set in_place = isa == "avxvnni" or isa == "avx512vnni" or isa == "avx512vbmi" %}

// Per register width: `load` of int16, `widen` as many int8 to int16, `mac`: acc + products, added up to int32 lanes, `sum` of the lanes.
{%- if aarch64 %}
typedef int16x8_t words_128;
typedef int32x4_t sums_128;
#define ZERO_128 vdupq_n_s32(0)

static inline words_128 load_128(const int16_t *p) {
    return vld1q_s16(p);
}

static inline words_128 widen_128(const int8_t *p) {
    return vmovl_s8(vld1_s8(p));
}

static inline sums_128 mac_128(sums_128 acc, words_128 w, words_128 x) {
    return vmlal_high_s16(vmlal_s16(acc, vget_low_s16(w), vget_low_s16(x)), w, x);
}

static inline sums_128 add_128(sums_128 a, sums_128 b) {
    return vaddq_s32(a, b);
}

static inline int32_t sum_128(sums_128 v) {
    return vaddvq_s32(v);
}
{%- else %}
{%- if row_bits == 128 %}
typedef __m128i words_128, sums_128;
#define ZERO_128 _mm_setzero_si128()

static inline words_128 load_128(const int16_t *p) {
    return _mm_loadu_si128((const __m128i *)p);
}

static inline words_128 widen_128(const int8_t *p) {
    const __m128i v = _mm_loadl_epi64((const __m128i *)p);
    return _mm_srai_epi16(_mm_unpacklo_epi8(v, v), 8);
}

static inline sums_128 mac_128(sums_128 acc, words_128 w, words_128 x) {
    return _mm_add_epi32(acc, _mm_madd_epi16(w, x));
}

static inline sums_128 add_128(sums_128 a, sums_128 b) {
    return _mm_add_epi32(a, b);
}
{%- endif %}

static inline int32_t sum_128(__m128i v) {
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}
{%- if row_bits == 256 %}

typedef __m256i words_256, sums_256;
#define ZERO_256 _mm256_setzero_si256()

static inline words_256 load_256(const int16_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline words_256 widen_256(const int8_t *p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p));
}

static inline sums_256 mac_256(sums_256 acc, words_256 w, words_256 x) {
{%- if isa == "avxvnni" %}
    return _mm256_dpwssd_avx_epi32(acc, w, x);
{%- elif in_place %}
    return _mm256_dpwssd_epi32(acc, w, x);
{%- else %}
    return _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
{%- endif %}
}

static inline sums_256 add_256(sums_256 a, sums_256 b) {
    return _mm256_add_epi32(a, b);
}

static inline int32_t sum_256(sums_256 v) {
    return sum_128(_mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
{%- endif %}
{%- if tile_bits == 512 %}

typedef __m512i words_512, sums_512;
#define ZERO_512 _mm512_setzero_si512()

static inline words_512 load_512(const int16_t *p) {
    return _mm512_loadu_si512(p);
}

static inline words_512 widen_512(const int8_t *p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
}
{%- if not in_place %}

static inline sums_512 mac_512(sums_512 acc, words_512 w, words_512 x) {
    return _mm512_add_epi32(acc, _mm512_madd_epi16(w, x));
}
{%- endif %}

static inline int32_t sum_512(sums_512 v) {
    return sum_256(_mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
}
{%- endif %}
{%- endif %}

// In registers of {{ row_bits }} bits{% if tile_bits == 512 %}: as fast from memory as reading alone on Zen 4, where 512 bits take a third longer{% endif %}.
static int32_t row(const int8_t *restrict w, const int16_t *restrict x, size_t cols) {
    sums_{{ row_bits }} s0 = ZERO_{{ row_bits }}, s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < cols; c += 64, w += 64, x += 64) {
        {% if packed_prefetch_bytes %}__builtin_prefetch(w + {{ packed_prefetch_bytes }});{% endif %}
{%- for i in range(end=64, step_by=row_lanes) %}
{%- set s = loop.index0 % 4 %}
        s{{ s }} = mac_{{ row_bits }}(s{{ s }}, widen_{{ row_bits }}(w + {{ i }}), load_{{ row_bits }}(x + {{ i }}));
{%- endfor %}
    }
    return sum_{{ row_bits }}(add_{{ row_bits }}(add_{{ row_bits }}(s0, s1), add_{{ row_bits }}(s2, s3)));
}

// acc = mac(acc, w, x){% if in_place %}, in place: among the many accumulators of a tile, gcc copies with the intrinsic{% endif %}.
{%- if isa == "avxvnni" %}
#define MAC(acc, w, x) __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x))
{%- elif in_place %}
#define MAC(acc, w, x) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))
{%- else %}
#define MAC(acc, w, x) acc = mac_{{ tile_bits }}(acc, w, x)
{%- endif %}
{%- for tokens in range(start=1, end=most + 1) %}

// 4 rows x {{ tokens }} tokens. The lines from `next` on are prefetched, {{ tokens }} / `all` of 4 rows of them.
static void tile_{{ tokens }}(const int8_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const int8_t *next, size_t all) {
{%- for t in range(end=tokens) %}
    sums_{{ tile_bits }} {% for r in range(end=4) %}s{{ r }}{{ t }} = ZERO_{{ tile_bits }}{% if not loop.last %}, {% endif %}{% endfor %};
{%- endfor %}
    const size_t step = 4 * {{ tokens }} * {{ tile_lanes }} / all;
    for (size_t c = 0; c < cols; c += {{ tile_lanes }}, next += step) {
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
{%- for r in range(end=4) %}
        const words_{{ tile_bits }} w{{ r }} = widen_{{ tile_bits }}(w + {{ r }} * cols + c);
{%- endfor %}
{%- for t in range(end=tokens) %}
        const words_{{ tile_bits }} x{{ t }} = load_{{ tile_bits }}(x + {{ t }} * cols + c);
{%- for r in range(end=4) %}
        MAC(s{{ r }}{{ t }}, w{{ r }}, x{{ t }});
{%- endfor %}
{%- endfor %}
    }
{%- for t in range(end=tokens) %}
{%- for r in range(end=4) %}
    y[{{ t }} * y_stride + {{ r }}] = sum_{{ tile_bits }}(s{{ r }}{{ t }});
{%- endfor %}
{%- endfor %}
}
{%- endfor %}

void sterna_head_coarse__{{ isa }}(const int8_t *restrict w, const int16_t *restrict x, size_t rows, size_t cols,
                               size_t tokens, int32_t *restrict y, size_t y_stride) {
    size_t r = 0;
    if (tokens > 1) {
        for (; r + 4 <= rows; r += 4, w += 4 * cols) {
            const int8_t *next = w + 4 * cols;
            size_t t = 0;
            for (; t + {{ most }} <= tokens; t += {{ most }}) {
                tile_{{ most }}(w, x + t * cols, cols, y + t * y_stride + r, y_stride, next + 4 * cols * t / tokens, tokens);
            }
            switch (tokens - t) {
{%- for rest in range(start=1, end=most) %}
            case {{ rest }}:
                tile_{{ rest }}(w, x + t * cols, cols, y + t * y_stride + r, y_stride, next + 4 * cols * t / tokens, tokens);
                break;
{%- endfor %}
            }
        }
    }
    for (; r < rows; r++, w += cols) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = row(w, x + t * cols, cols);
        }
    }
}
