{#- Of one token, rows two at a time: 20.4 and 33.3 GB/s with 1 and 2 threads on Zen 3, where reading alone reached 21.5 and 33.4, and row after
    row 16.4 and 28.9; without a prefetch only 7. With SSE2 two are slower than one, 9.9 against 12.3. Not measured elsewhere. -#}
{%- set one_by_tiles = lanes == 8 and packed_prefetch_bytes > 0 -%}
// The coded output head, exactly: sums over c of code(r, c) * x(t, c), codes of 6 bits (head_coarse) and of 2 bits (head_fine).
//
// W (rows, cols) by rows, cols % 256 == 0; x (tokens, cols) of int16. A row is blocks of 256 codes, which are 8 fields of 32 words of 16 bits:
// code 32 k + i of a block is field k of word i. With three words a, b, d of 6 bits a field, 32 words apart,
//     fields 0, 1, 2 = a, b, d & 63    3, 4, 5 = a, b, d >> 10    6 = a >> 6 & 15 | b >> 2 & 48    7 = d >> 6 & 15 | b >> 4 & 48
// and with one word of 2 bits a field, field k = a >> 2 k & 3.
// Overflow: the caller sees to sum over c of |x(t, c)| < 2^24, so that no sum of products with 6 bits, of any of the columns in any order,
// leaves i32. Nothing is widened on the way, and every ISA may add as it likes.
//
// One token: {% if one_by_tiles %}tiles of two rows, whose prefetches are one linear stream{% else %}row after row, one linear stream, prefetched{% endif %} {{ packed_prefetch_bytes }} bytes ahead.
// Several: tiles of few rows and up to 4 tokens, whose activations stay in L1d while all rows of a call (`ROWS` of
// runtime/kernels/head.rs) pass, which stay in L2.
// The rows of the next call are prefetched meanwhile, some of each in every step of every tile, and to L2, where they push no token out:
// measured on Zen 4 with 8 tokens and codes of 8 bits, 12 GB/s against 8 with a prefetch to L1d, and against 7 with one in the first tile only.
{% include "prelude.h" %}
{%- if lanes == 16 %}
{%- set row_bits = 256 %}
{%- set row_lanes = 16 %}
{%- set tile_bits = 512 %}
{%- set tile_lanes = 32 %}
{%- set tile_rows = 4 %}
#include <immintrin.h>
{%- elif lanes == 8 %}
{%- set row_bits = 256 %}
{%- set row_lanes = 16 %}
{%- set tile_bits = 256 %}
{%- set tile_lanes = 16 %}
{%- set tile_rows = 2 %}
#include <immintrin.h>
{%- elif isa == "baseline" %}
{%- set row_bits = 128 %}
{%- set row_lanes = 8 %}
{%- set tile_bits = 128 %}
{%- set tile_lanes = 8 %}
{%- set tile_rows = 2 %}
#include <emmintrin.h>
{%- else %}
{%- set row_bits = 128 %}
{%- set row_lanes = 8 %}
{%- set tile_bits = 128 %}
{%- set tile_lanes = 8 %}
{%- set tile_rows = 4 %}
#include <arm_neon.h>
{%- endif %}
{%- set most = 4 %}
{%- set widths = [row_bits, tile_bits] | unique %}
{%- set aarch64 = isa == "neon" or isa == "dotprod" or isa == "i8mm" %}
{%- set in_place = isa == "avxvnni" or isa == "avx512vnni" or isa == "avx512vbmi" %}

// Per register width: `load` of words, `all` the same, `both` and `either` of their bits, `shr`: shifted right by n, `mac`: acc + products,
// added up to int32 lanes, `add` and `sum` of the lanes.
{%- if aarch64 %}
typedef int16x8_t words_128;
typedef int32x4_t sums_128;
#define ZERO_128 vdupq_n_s32(0)
#define load_128(p) vld1q_s16((const int16_t *)(p))
#define all_128 vdupq_n_s16
#define both_128 vandq_s16
#define either_128 vorrq_s16
#define shr_128(v, n) vreinterpretq_s16_u16(vshrq_n_u16(vreinterpretq_u16_s16(v), n))
#define mac_128(acc, w, x) vmlal_high_s16(vmlal_s16(acc, vget_low_s16(w), vget_low_s16(x)), w, x)
#define add_128 vaddq_s32
#define sum_128 vaddvq_s32
{%- else %}
{%- for bits in widths %}
{%- if bits == 128 %}{% set mm = "_mm" %}{% else %}{% set mm = "_mm" ~ bits %}{% endif %}
typedef __m{{ bits }}i words_{{ bits }}, sums_{{ bits }};
#define ZERO_{{ bits }} {{ mm }}_setzero_si{{ bits }}()
#define load_{{ bits }}(p) {{ mm }}_loadu_si{{ bits }}((const words_{{ bits }} *)(p))
#define all_{{ bits }} {{ mm }}_set1_epi16
#define both_{{ bits }} {{ mm }}_and_si{{ bits }}
#define either_{{ bits }} {{ mm }}_or_si{{ bits }}
#define shr_{{ bits }} {{ mm }}_srli_epi16
#define add_{{ bits }} {{ mm }}_add_epi32
{%- if isa == "avxvnni" %}
#define mac_{{ bits }} {{ mm }}_dpwssd_avx_epi32
{%- elif in_place %}
#define mac_{{ bits }} {{ mm }}_dpwssd_epi32
{%- else %}
#define mac_{{ bits }}(acc, w, x) add_{{ bits }}(acc, {{ mm }}_madd_epi16(w, x))
{%- endif %}
{%- endfor %}

static inline int32_t sum_128(__m128i v) {
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}
{%- if row_bits == 256 %}

static inline int32_t sum_256(sums_256 v) {
    return sum_128(_mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
{%- endif %}
{%- if tile_bits == 512 %}

static inline int32_t sum_512(sums_512 v) {
    return sum_256(_mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
}
{%- endif %}
{%- endif %}
{%- for bits in widths %}

// Field `k` of the words of 6 bits a field, see above.
static inline __attribute__((always_inline)) words_{{ bits }} field_{{ bits }}(int k, words_{{ bits }} a, words_{{ bits }} b, words_{{ bits }} d) {
    const words_{{ bits }} w = k % 3 == 0 ? a : k % 3 == 1 ? b : d;
    if (k < 6) {
        return k < 3 ? both_{{ bits }}(w, all_{{ bits }}(63)) : shr_{{ bits }}(w, 10);
    }
    const words_{{ bits }} low = shr_{{ bits }}(k == 6 ? a : d, 6), high = k == 6 ? shr_{{ bits }}(b, 2) : shr_{{ bits }}(b, 4);
    return either_{{ bits }}(both_{{ bits }}(low, all_{{ bits }}(15)), both_{{ bits }}(high, all_{{ bits }}(48)));
}
{%- endfor %}

// One row, codes of 6 bits, one token. In registers of {{ row_bits }} bits{% if tile_bits == 512 %}: with codes of 8 bits as fast from memory as
// reading alone on Zen 4, where 512 bits took a third longer{% endif %}.
static int32_t row(const uint16_t *restrict w, const int16_t *restrict x, size_t cols) {
    sums_{{ row_bits }} s0 = ZERO_{{ row_bits }}, s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < cols; c += 256, w += 96, x += 256) {
{%- if packed_prefetch_bytes %}
        for (size_t line = 0; line < 192; line += 64) {
            __builtin_prefetch((const char *)w + line + {{ packed_prefetch_bytes }});
        }
{%- endif %}
{%- for i in range(end=32, step_by=row_lanes) %}
        {
            const words_{{ row_bits }} a = load_{{ row_bits }}(w + {{ i }}), b = load_{{ row_bits }}(w + {{ 32 + i }}), d = load_{{ row_bits }}(w + {{ 64 + i }});
{%- for k in range(end=8) %}
            s{{ k % 4 }} = mac_{{ row_bits }}(s{{ k % 4 }}, field_{{ row_bits }}({{ k }}, a, b, d), load_{{ row_bits }}(x + {{ 32 * k + i }}));
{%- endfor %}
        }
{%- endfor %}
    }
    return sum_{{ row_bits }}(add_{{ row_bits }}(add_{{ row_bits }}(s0, s1), add_{{ row_bits }}(s2, s3)));
}

// acc = mac(acc, w, x), in place where gcc copies among the many accumulators of a tile.
{%- if isa == "avxvnni" %}
#define MAC(acc, w, x) __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x))
{%- elif in_place %}
#define MAC(acc, w, x) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(x))
{%- elif lanes >= 8 %}
{%- if lanes == 16 %}{% set kind = "v" %}{% else %}{% set kind = "x" %}{% endif %}
#define MAC(acc, w, x) __asm__("vpaddd %1, %0, %0" : "+{{ kind }}"(acc) : "{{ kind }}"(_mm{{ tile_bits }}_madd_epi16(w, x)))
{%- else %}
#define MAC(acc, w, x) acc = mac_{{ tile_bits }}(acc, w, x)
{%- endif %}
{%- for tokens in range(start=1, end=most + 1) %}

// {{ tile_rows }} rows, `row_words` words each, x {{ tokens }} tokens. `ahead` bytes from `next` on are prefetched.
static void tile_{{ tokens }}(const uint16_t *restrict w, size_t row_words, const int16_t *restrict x, size_t cols, int32_t *restrict y, size_t y_stride,
                   const char *next, size_t ahead) {
{%- for t in range(end=tokens) %}
    sums_{{ tile_bits }} {% for r in range(end=tile_rows) %}s{{ r }}{{ t }} = ZERO_{{ tile_bits }}{% if not loop.last %}, {% endif %}{% endfor %};
{%- endfor %}
    const size_t step = ahead * 256 / cols;
    for (size_t c = 0; c < cols; c += 256, w += 96, next += step) {
        // Many lines at once, and unrolled: half as many twice as often, or a loop, take a fifth longer on Zen 3.
#pragma GCC unroll 12
        for (size_t line = 0; line < step; line += 64) {
            __builtin_prefetch(next + line, 0, 2);
        }
{%- for i in range(end=32, step_by=tile_lanes) %}
{%- for k in range(end=8) %}
        {
            // Opaque, since the words of all rows are too many to be kept from one field to the next.
            __asm__("" : "+r"(w));
{%- for r in range(end=tile_rows) %}
            const uint16_t *p{{ r }} = w + {{ r }} * row_words + {{ i }};
            const words_{{ tile_bits }} w{{ r }} = field_{{ tile_bits }}({{ k }}, load_{{ tile_bits }}(p{{ r }}), load_{{ tile_bits }}(p{{ r }} + 32), load_{{ tile_bits }}(p{{ r }} + 64));
{%- endfor %}
{%- for t in range(end=tokens) %}
            const words_{{ tile_bits }} x{{ t }} = load_{{ tile_bits }}(x + {{ t }} * cols + c + {{ 32 * k + i }});
{%- for r in range(end=tile_rows) %}
            MAC(s{{ r }}{{ t }}, w{{ r }}, x{{ t }});
{%- endfor %}
{%- endfor %}
        }
{%- endfor %}
{%- endfor %}
    }
{%- for t in range(end=tokens) %}
{%- for r in range(end=tile_rows) %}
    y[{{ t }} * y_stride + {{ r }}] = sum_{{ tile_bits }}(s{{ r }}{{ t }});
{%- endfor %}
{%- endfor %}
}
{%- endfor %}

void sterna_head_coarse__{{ isa }}(const uint16_t *restrict w, const int16_t *restrict x, size_t rows, size_t cols,
                               size_t tokens, int32_t *restrict y, size_t y_stride) {
    const size_t row_words = cols / 256 * 96;
{%- if one_by_tiles %}
    const size_t tiled = rows / {{ tile_rows }} * {{ tile_rows }};
    // What the first tile prefetches: with one token what comes after it, with several the next call's rows, of which each group of them has a share.
    const char *next = tokens > 1 ? (const char *)(w + rows * row_words) : (const char *)(w + {{ tile_rows - 1 }} * row_words) + {{ packed_prefetch_bytes }};
{%- else %}
    const size_t tiled = tokens > 1 ? rows / {{ tile_rows }} * {{ tile_rows }} : 0;
    // What the first tile prefetches: the next call's rows, of which each group of tokens has a share.
    const char *next = (const char *)(w + rows * row_words);
{%- endif %}
    for (size_t t = 0, n; tiled > 0 && t < tokens; t += n) {
        n = tokens - t < {{ most }} ? tokens - t : {{ most }};
        const size_t from = {{ tile_rows }} * 2 * row_words * t / tokens, ahead = {{ tile_rows }} * 2 * row_words * (t + n) / tokens - from;
        for (size_t r = 0; r < tiled; r += {{ tile_rows }}) {
            const uint16_t *tile = w + r * row_words;
            const char *there = next + 2 * r * row_words + from;
            switch (n) {
{%- for some in range(start=1, end=most + 1) %}
            case {{ some }}:
                tile_{{ some }}(tile, row_words, x + t * cols, cols, y + t * y_stride + r, y_stride, there, ahead);
                break;
{%- endfor %}
            }
        }
    }
    for (size_t r = tiled; r < rows; r++) {
        for (size_t t = 0; t < tokens; t++) {
            y[t * y_stride + r] = row(w + r * row_words, x + t * cols, cols);
        }
    }
}

// One row, codes of 2 bits, one token.
void sterna_head_fine__{{ isa }}(const uint16_t *restrict w, const int16_t *restrict x, size_t cols, int32_t *restrict y) {
    sums_{{ row_bits }} s0 = ZERO_{{ row_bits }}, s1 = s0, s2 = s0, s3 = s0;
    for (size_t c = 0; c < cols; c += 256, w += 32, x += 256) {
{%- for i in range(end=32, step_by=row_lanes) %}
        {
            const words_{{ row_bits }} a = load_{{ row_bits }}(w + {{ i }});
            s0 = mac_{{ row_bits }}(s0, both_{{ row_bits }}(a, all_{{ row_bits }}(3)), load_{{ row_bits }}(x + {{ i }}));
{%- for k in range(start=1, end=8) %}
            s{{ k % 4 }} = mac_{{ row_bits }}(s{{ k % 4 }}, both_{{ row_bits }}(shr_{{ row_bits }}(a, {{ 2 * k }}), all_{{ row_bits }}(3)), load_{{ row_bits }}(x + {{ 32 * k + i }}));
{%- endfor %}
        }
{%- endfor %}
    }
    *y = sum_{{ row_bits }}(add_{{ row_bits }}(add_{{ row_bits }}(s0, s1), add_{{ row_bits }}(s2, s3)));
}
