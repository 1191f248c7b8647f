// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AVX2.
//
// Many rows and tokens: token_lut.h. Otherwise tiles; layout, instructions and overflow as in i2s_gemv_avx2.c. A tile is
// {{ mr }} rows x {{ nr }} tokens: a field of a block is unpacked once for {{ nr }} tokens, and 32 activations are loaded once for {{ mr }} rows.
// Sums are i16, and widened into i32 sums every {{ widen_blocks }} blocks.
{% include "prelude.h" %}
{% include "avx2.h" %}

// acc += x in 16 lanes of i16, in place and in this order: gcc 12 adds the products of several fields to one another first, and
// keeps them on the stack meanwhile.
#define ADD16(acc, x) __asm__("vpaddw %1, %0, %0" : "+x"(acc) : "x"(x))
{% for rows in [mr, 1] | unique %}{% for tokens in range(start=1, end=nr + 1) %}
static void tile_{{ rows }}x{{ tokens }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const __m256i three = _mm256_set1_epi8(3), one = _mm256_set1_epi16(1);
    const size_t blocks = cols / 128;
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    __m256i sum_{{ r }}_{{ t }} = _mm256_setzero_si256();
{%- endfor %}{% endfor %}
    for (size_t b = 0; b < blocks;) {
        const size_t end = blocks - b < {{ widen_blocks }} ? blocks : b + {{ widen_blocks }};
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
        __m256i acc_{{ r }}_{{ t }} = _mm256_setzero_si256();
{%- endfor %}{% endfor %}
        for (; b < end; b++) {
            const uint8_t *wb = w + b * 32;
            const int8_t *xb = x + b * 128;
{%- for field in range(end=4) %}
            {
{%- for r in range(end=rows) %}
                const __m256i v{{ r }} = _mm256_loadu_si256((const __m256i *)(wb + {{ r }} * (cols / 4)));
                const __m256i c{{ r }} = _mm256_and_si256({% if field < 3 %}_mm256_srli_epi16(v{{ r }}, {{ 6 - 2 * field }}){% else %}v{{ r }}{% endif %}, three);
{%- endfor %}
{%- for t in range(end=tokens) %}
                const __m256i x{{ t }} = _mm256_loadu_si256((const __m256i *)(xb + {{ t }} * cols + {{ 32 * field }}));
{%- for r in range(end=rows) %}
                ADD16(acc_{{ r }}_{{ t }}, _mm256_maddubs_epi16(c{{ r }}, x{{ t }}));
{%- endfor %}
{%- endfor %}
            }
{%- endfor %}
        }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
        sum_{{ r }}_{{ t }} = _mm256_add_epi32(sum_{{ r }}_{{ t }}, _mm256_madd_epi16(acc_{{ r }}_{{ t }}, one));
{%- endfor %}{% endfor %}
    }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    y[{{ t }} * y_stride + {{ r }}] = fold(sum_{{ r }}_{{ t }}) - x_sums[{{ t }}];
{%- endfor %}{% endfor %}
}
{% endfor %}{% endfor %}
{% include "i2s_gemm_tiles.h" %}
{% set packed = false %}
{%- include "token_lut.h" %}

void sterna_i2s_gemm__{{ isa }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                           size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    by_tables(tiles, w, x, x_sums, rows, cols, tokens, y, y_stride);
}
