// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AVX-512 VNNI.
//
// Layout as in i2s_gemv_portable.c; a block is spread over two zmm as in i2s_gemv_avx512.c, but shifted down to plain
// codes, since one accumulator then serves both. The tile is {{ mr }} rows x {{ nr }} tokens: {{ mr * nr }} zmm of i32 sums.
// Overflow: 8 * 3 * 128 a block and lane; the renderer bounds cols (by the wider sums of the GEMV).
{% include "prelude.h" %}
{% include "avx512.h" %}
{% for rows in [mr, 1] | unique %}{% for tokens in range(start=1, end=nr + 1) %}
static void tile_{{ rows }}x{{ tokens }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const __m512i three = _mm512_set1_epi8(3);
    const __m512i upper_shift = halves(6, 4), lower_shift = halves(2, 0);
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    __m512i sum_{{ r }}_{{ t }} = _mm512_setzero_si512();
{%- endfor %}{% endfor %}
    for (size_t b = 0; b < cols / 128; b++, w += 32, x += 128) {
{%- for half in ["upper", "lower"] %}
        {
            __asm__ volatile("" ::: "memory"); // load the block again rather than keep it: registers are full
{%- for r in range(end=rows) %}
            const __m512i c{{ r }} = _mm512_and_si512(_mm512_srlv_epi32(block(w + {{ r }} * (cols / 4)), {{ half }}_shift), three);
{%- endfor %}
{%- for t in range(end=tokens) %}
            const __m512i x{{ t }} = _mm512_loadu_si512(x + {{ t }} * cols{% if half == "lower" %} + 64{% endif %});
{%- for r in range(end=rows) %}
            DPBUSD(sum_{{ r }}_{{ t }}, c{{ r }}, x{{ t }});
{%- endfor %}
{%- endfor %}
        }
{%- endfor %}
    }
{%- for t in range(end=tokens) %}
{%- if rows == 4 %}
    {   // Four rows of one token: transpose-add down to one xmm of four sums.
        const __m512i p01 = _mm512_add_epi32(_mm512_unpacklo_epi32(sum_0_{{ t }}, sum_1_{{ t }}), _mm512_unpackhi_epi32(sum_0_{{ t }}, sum_1_{{ t }}));
        const __m512i p23 = _mm512_add_epi32(_mm512_unpacklo_epi32(sum_2_{{ t }}, sum_3_{{ t }}), _mm512_unpackhi_epi32(sum_2_{{ t }}, sum_3_{{ t }}));
        const __m512i p = _mm512_add_epi32(_mm512_unpacklo_epi64(p01, p23), _mm512_unpackhi_epi64(p01, p23));
        const __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(p), _mm512_extracti64x4_epi64(p, 1));
        const __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
        _mm_storeu_si128((__m128i *)(y + {{ t }} * y_stride), _mm_sub_epi32(s, _mm_set1_epi32(x_sums[{{ t }}])));
    }
{%- else %}
{%- for r in range(end=rows) %}
    y[{{ t }} * y_stride + {{ r }}] = _mm512_reduce_add_epi32(sum_{{ r }}_{{ t }}) - x_sums[{{ t }}];
{%- endfor %}
{%- endif %}
{%- endfor %}
}
{% endfor %}{% endfor %}
{% include "i2s_gemm_tiles.h" %}
