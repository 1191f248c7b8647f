// y[r] = sum over i < n of code(r, columns[i]) * x[i] - x_sum: a matrix by columns times the part of a vector that is not zero.
//
// Layout (runtime/model/packed.rs): a column is a run of tiles of {{ column_rows }} rows, 64 bytes each; {{ column_rows }} = 5 digits x 64.
//   byte p of a tile = c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4, codes of the rows 64 d + 16 (p / 4 % 4) + 4 (p / 16) + p % 4, d = 0 .. 4
//
// Four columns at a time: interleaving their bytes gives registers whose lanes hold four weights of one row, which
// is what vpdpbusd multiplies with four activations. The order of rows in a tile undoes what interleaving does to them. Digits are
// taken apart as in packed_vnni.c, after interleaving.
//
// Overflow: a lane gets at most 162 * 128 a column, bounded by the renderer. n is a multiple of 4, the caller fills up with zeros.
{% include "prelude.h" %}
#include <immintrin.h>

typedef int32_t __attribute__((may_alias, aligned(1))) word; // four activations

// acc += four products a lane, in place; written with the intrinsic, gcc copies the accumulator.
#define DOT(acc, codes, x) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(x))

// byte mod 81 -> four codes.
static const uint8_t FIELDS[128] __attribute__((aligned(64))) = {
{%- for f in packing_fields %}{{ f }}, {% endfor -%}
};

enum { TILES = {{ column_tiles }}, GROUP = 32 };

typedef __m512i tile_sums[20];

{% include "packed_columns.h" %}

static inline __m512i mod81(__m512i v) {
    const __m512i c81 = _mm512_set1_epi8(81);
    v = _mm512_min_epu8(v, _mm512_sub_epi8(v, c81));
    return _mm512_min_epu8(v, _mm512_sub_epi8(v, c81));
}

static void tile(const uint8_t *w, size_t stride, const int32_t *columns, const int8_t *x, size_t n, tile_sums sums, struct ahead *ahead) {
    struct ahead walk = *ahead;
    const __m512i t0 = _mm512_load_si512(FIELDS), t1 = _mm512_load_si512(FIELDS + 64);
    __m512i {% for i in range(end=20) %}a{{ i }} = sums[{{ i }}]{% if not loop.last %}, {% endif %}{% endfor %};
    for (size_t i = 0; i < n; i += 4) {
{%- for _ in range(end=4) %}
        fetch_line(&walk);
{%- endfor %}
        const __m512i q = _mm512_set1_epi32(*(const word *)(x + i));
        const __m512i c0 = _mm512_loadu_si512(w + (size_t)columns[i] * stride);
        const __m512i c1 = _mm512_loadu_si512(w + (size_t)columns[i + 1] * stride);
        const __m512i c2 = _mm512_loadu_si512(w + (size_t)columns[i + 2] * stride);
        const __m512i c3 = _mm512_loadu_si512(w + (size_t)columns[i + 3] * stride);
        const __m512i low01 = _mm512_unpacklo_epi8(c0, c1), high01 = _mm512_unpackhi_epi8(c0, c1);
        const __m512i low23 = _mm512_unpacklo_epi8(c2, c3), high23 = _mm512_unpackhi_epi8(c2, c3);
        __m512i v, m, f;
{%- for j in range(end=4) %}
        v = _mm512_unpack{% if j % 2 == 0 %}lo{% else %}hi{% endif %}_epi16({% if j < 2 %}low01, low23{% else %}high01, high23{% endif %});
        m = mod81(v);
        f = _mm512_permutex2var_epi8(t0, m, t1);
        DOT(a{{ 5 * j }}, _mm512_and_si512(f, _mm512_set1_epi8(0x03)), q);
        DOT(a{{ 5 * j + 1 }}, _mm512_and_si512(f, _mm512_set1_epi8(0x0c)), q);
        DOT(a{{ 5 * j + 2 }}, _mm512_and_si512(f, _mm512_set1_epi8(0x30)), q);
        DOT(a{{ 5 * j + 3 }}, _mm512_and_si512(f, _mm512_set1_epi8((char)0xc0)), q);
        DOT(a{{ 5 * j + 4 }}, _mm512_sub_epi8(v, m), q);
{%- endfor %}
    }
    *ahead = walk;
{%- for i in range(end=20) %}
    sums[{{ i }}] = a{{ i }};
{%- endfor %}
}

static void finish(const tile_sums sums, int32_t x_sum, int32_t *y) {
    const __m512i minus = _mm512_set1_epi32(x_sum);
    for (size_t j = 0; j < 4; j++) {
        const __m512i *s = sums + 5 * j;
        _mm512_storeu_si512(y + 16 * j, _mm512_sub_epi32(s[0], minus));
        _mm512_storeu_si512(y + 16 * j + 64, _mm512_sub_epi32(_mm512_srai_epi32(s[1], 2), minus));
        _mm512_storeu_si512(y + 16 * j + 128, _mm512_sub_epi32(_mm512_srai_epi32(s[2], 4), minus));
        _mm512_storeu_si512(y + 16 * j + 192, _mm512_sub_epi32(_mm512_srai_epi32(s[3], 6), minus));
        // An exact multiple of 81: times its inverse modulo 2^32.
        const __m512i top = _mm512_mullo_epi32(s[4], _mm512_set1_epi32(0x781948b1));
        _mm512_storeu_si512(y + 16 * j + 256, _mm512_sub_epi32(top, minus));
    }
}
