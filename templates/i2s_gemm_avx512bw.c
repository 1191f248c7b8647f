// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AVX-512 without VNNI.
//
// Many rows and tokens: token_lut.h. Otherwise tiles; layout, instructions and overflow as in i2s_gemv_avx512bw.c. A tile is
// {{ mr }} rows x {{ nr }} tokens. Sums are i16, and widened into i32 sums every {{ widen_blocks }} blocks.
{% include "prelude.h" %}
{% include "avx512.h" %}

// acc += x in 32 lanes of i16, in place and in this order, as in i2s_gemm_avx2.c.
#define ADD16(acc, x) __asm__("vpaddw %1, %0, %0" : "+v"(acc) : "v"(x))
{% for rows in [mr, 1] | unique %}{% for tokens in range(start=1, end=nr + 1) %}
static void tile_{{ rows }}x{{ tokens }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const __m512i three = _mm512_set1_epi8(3), one = _mm512_set1_epi16(1);
    const __m512i upper_shift = halves(6, 4), lower_shift = halves(2, 0);
    const size_t blocks = cols / 128;
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    __m512i sum_{{ r }}_{{ t }} = _mm512_setzero_si512();
{%- endfor %}{% endfor %}
    for (size_t b = 0; b < blocks;) {
        const size_t end = blocks - b < {{ widen_blocks }} ? blocks : b + {{ widen_blocks }};
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
        __m512i acc_{{ r }}_{{ t }} = _mm512_setzero_si512();
{%- endfor %}{% endfor %}
        for (; b < end; b++) {
            const uint8_t *wb = w + b * 32;
            const int8_t *xb = x + b * 128;
{%- for half in ["upper", "lower"] %}
            {
{%- for r in range(end=rows) %}
                const __m512i c{{ r }} = _mm512_and_si512(_mm512_srlv_epi32(block(wb + {{ r }} * (cols / 4)), {{ half }}_shift), three);
{%- endfor %}
{%- for t in range(end=tokens) %}
                const __m512i x{{ t }} = _mm512_loadu_si512(xb + {{ t }} * cols{% if half == "lower" %} + 64{% endif %});
{%- for r in range(end=rows) %}
                ADD16(acc_{{ r }}_{{ t }}, _mm512_maddubs_epi16(c{{ r }}, x{{ t }}));
{%- endfor %}
{%- endfor %}
            }
{%- endfor %}
        }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
        sum_{{ r }}_{{ t }} = _mm512_add_epi32(sum_{{ r }}_{{ t }}, _mm512_madd_epi16(acc_{{ r }}_{{ t }}, one));
{%- endfor %}{% endfor %}
    }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    y[{{ t }} * y_stride + {{ r }}] = _mm512_reduce_add_epi32(sum_{{ r }}_{{ t }}) - x_sums[{{ t }}];
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
