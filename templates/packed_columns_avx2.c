// y[r] = sum over i < n of code(r, columns[i]) * x[i] - x_sum: a matrix by columns times the part of a vector that is not zero.
//
// Layout (runtime/model/packed.rs): a column is a run of tiles of {{ column_rows }} rows, 64 bytes each; {{ column_rows }} = 4 fields x 64.
//   byte p of a tile = c0 | c1 << 2 | c2 << 4 | c3 << 6, codes of the rows 64 d + p, d = 0 .. 3
//
// Two columns at a time: interleaving their bytes gives registers whose 16-bit lanes hold two weights of one row, which is what
// vpmaddubsw multiplies with two activations. A half of a tile has eight accumulators; masks, codes, products and activations take
// the other registers.
//
// Overflow: a 16-bit lane gets at most 2 * 128 a column, and is widened after 64 of them; bounded by the renderer for 32 bits.
// n is a multiple of 4, the caller fills up with zeros.
{% include "prelude.h" %}
#include <assert.h>
#include <immintrin.h>

typedef int16_t __attribute__((may_alias, aligned(1))) word; // two activations

// acc += two products a lane, in place and in this order: gcc would add products to one another first, and keep them on the stack.
#define DOT(acc, codes, x) __asm__("vpaddw %1, %0, %0" : "+x"(acc) : "x"(_mm256_maddubs_epi16(codes, x)))

enum { TILES = {{ column_tiles }}, GROUP = 64 };
static_assert(GROUP * 2 * 128 <= INT16_MAX && GROUP % 4 == 0, "16-bit lanes");

typedef int32_t tile_sums[{{ column_rows }}];

{% include "packed_columns.h" %}

// sums (rows 64 d + i of half a tile) += columns[0 .. n].
static void half(const uint8_t *w, size_t stride, const int32_t *columns, const int8_t *x, size_t n, int32_t *sums,
                 struct ahead *ahead) {
    struct ahead walk = *ahead;
    const __m256i three = _mm256_set1_epi8(3);
    __m256i {% for i in range(end=8) %}a{{ i }} = _mm256_setzero_si256(){% if not loop.last %}, {% endif %}{% endfor %};
    for (size_t i = 0; i < n; i += 2) {
        fetch_line(&walk);
        const __m256i q = _mm256_set1_epi16(*(const word *)(x + i));
        const __m256i c0 = _mm256_loadu_si256((const __m256i *)(w + (size_t)columns[i] * stride));
        const __m256i c1 = _mm256_loadu_si256((const __m256i *)(w + (size_t)columns[i + 1] * stride));
{%- for part in ["lo", "hi"] %}
{%- set first = loop.index0 * 4 %}
        const __m256i {{ part }} = _mm256_unpack{{ part }}_epi8(c0, c1);
        DOT(a{{ first }}, _mm256_and_si256({{ part }}, three), q);
        DOT(a{{ first + 1 }}, _mm256_and_si256(_mm256_srli_epi16({{ part }}, 2), three), q);
        DOT(a{{ first + 2 }}, _mm256_and_si256(_mm256_srli_epi16({{ part }}, 4), three), q);
        DOT(a{{ first + 3 }}, _mm256_and_si256(_mm256_srli_epi16({{ part }}, 6), three), q);
{%- endfor %}
    }
    *ahead = walk;
    // Lanes of `lo` are the bytes 0 .. 8 and 16 .. 24, of `hi` 8 .. 16 and 24 .. 32.
{%- for part in range(end=2) %}{% for d in range(end=4) %}{% for top in range(end=2) %}
    {
        __m256i *s = (__m256i *)(sums + {{ 64 * d + 16 * top + 8 * part }});
        const __m128i v = {% if top == 0 %}_mm256_castsi256_si128(a{{ 4 * part + d }}){% else %}_mm256_extracti128_si256(a{{ 4 * part + d }}, 1){% endif %};
        *s = _mm256_add_epi32(*s, _mm256_cvtepi16_epi32(v));
    }
{%- endfor %}{% endfor %}{% endfor %}
}

static void tile(const uint8_t *w, size_t stride, const int32_t *columns, const int8_t *x, size_t n, tile_sums sums, struct ahead *ahead) {
    half(w, stride, columns, x, n, sums, ahead);
    half(w + 32, stride, columns, x, n, sums + 32, ahead);
}

static void finish(const tile_sums sums, int32_t x_sum, int32_t *y) {
    for (size_t i = 0; i < {{ column_rows }}; i++)
        y[i] = sums[i] - x_sum;
}
