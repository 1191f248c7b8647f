// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AVX-VNNI.
//
// Layout as in i2s_gemv_avxvnni.c, but fields are shifted down to plain codes, since one accumulator then serves all
// four. The tile is {{ mr }} rows x {{ nr }} tokens: {{ mr * nr }} ymm of i32 sums; a field is unpacked once for {{ nr }} tokens.
// Overflow: 4 * 4 * 3 * 128 a block and lane; the renderer bounds cols (by the wider sums of the GEMV).
{% include "prelude.h" %}
{% include "avx2.h" %}
{% include "avxvnni.h" %}
{% for rows in [mr, 1] | unique %}{% for tokens in range(start=1, end=nr + 1) %}
static void tile_{{ rows }}x{{ tokens }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const __m256i three = _mm256_set1_epi8(3);
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    __m256i sum_{{ r }}_{{ t }} = _mm256_setzero_si256();
{%- endfor %}{% endfor %}
    for (size_t b = 0; b < cols / 128; b++, w += 32, x += 128) {
{%- for field in range(end=4) %}
        {
            __asm__ volatile("" ::: "memory"); // load the block again rather than keep it: registers are full
{%- for r in range(end=rows) %}
            const __m256i v{{ r }} = _mm256_loadu_si256((const __m256i *)(w + {{ r }} * (cols / 4)));
            const __m256i c{{ r }} = _mm256_and_si256({% if field < 3 %}_mm256_srli_epi16(v{{ r }}, {{ 6 - 2 * field }}){% else %}v{{ r }}{% endif %}, three);
{%- endfor %}
{%- for t in range(end=tokens) %}
            const __m256i x{{ t }} = _mm256_loadu_si256((const __m256i *)(x + {{ t }} * cols + {{ 32 * field }}));
{%- for r in range(end=rows) %}
            DPBUSD(sum_{{ r }}_{{ t }}, c{{ r }}, x{{ t }});
{%- endfor %}
{%- endfor %}
        }
{%- endfor %}
    }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    y[{{ t }} * y_stride + {{ r }}] = fold(sum_{{ r }}_{{ t }}) - x_sums[{{ t }}];
{%- endfor %}{% endfor %}
}
{% endfor %}{% endfor %}
{% include "i2s_gemm_tiles.h" %}
