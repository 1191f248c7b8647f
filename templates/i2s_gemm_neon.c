// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AArch64{% if isa != "neon" %} with SDOT{% endif %}.
//
// Layout and overflow as in i2s_gemv_neon.c. The tile is {{ mr }} rows x {{ nr }} tokens.
{% include "prelude.h" %}
#include <arm_neon.h>
{% for rows in [mr, 1] | unique %}{% for tokens in range(start=1, end=nr + 1) %}
static void tile_{{ rows }}x{{ tokens }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    int32x4_t sum_{{ r }}_{{ t }} = vdupq_n_s32(0);
{%- endfor %}{% endfor %}
{%- if isa != "neon" %}
    for (size_t b = 0; b < blocks; b++) {
{%- else %}
    for (size_t b = 0; b < blocks;) {
        const size_t end = blocks - b < {{ widen_blocks }} ? blocks : b + {{ widen_blocks }};
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
        int16x8_t acc_{{ r }}_{{ t }} = vdupq_n_s16(0);
{%- endfor %}{% endfor %}
        for (; b < end; b++) {
{%- endif %}
{%- for half in range(end=2) %}
{%- for r in range(end=rows) %}
        const uint8x16_t v{{ half }}{{ r }} = vld1q_u8(w + {{ r }} * (cols / 4) + b * 32 + {{ 16 * half }});
{%- endfor %}
{%- for field in range(end=4) %}
        {
{%- if isa != "neon" %}
            __asm__ volatile("" ::: "memory"); // keeps gcc from loading activations early: registers are full
{%- endif %}
{%- for r in range(end=rows) %}
            const int8x16_t c{{ r }} = vreinterpretq_s8_u8(vandq_u8({% if field < 3 %}vshrq_n_u8(v{{ half }}{{ r }}, {{ 6 - 2 * field }}){% else %}v{{ half }}{{ r }}{% endif %}, three));
{%- endfor %}
{%- for t in range(end=tokens) %}
            const int8x16_t x{{ t }} = vld1q_s8(x + {{ t }} * cols + b * 128 + {{ 32 * field + 16 * half }});
{%- for r in range(end=rows) %}
{%- if isa != "neon" %}
            sum_{{ r }}_{{ t }} = vdotq_s32(sum_{{ r }}_{{ t }}, c{{ r }}, x{{ t }});
{%- else %}
            acc_{{ r }}_{{ t }} = vmlal_s8(acc_{{ r }}_{{ t }}, vget_low_s8(c{{ r }}), vget_low_s8(x{{ t }}));
            acc_{{ r }}_{{ t }} = vmlal_high_s8(acc_{{ r }}_{{ t }}, c{{ r }}, x{{ t }});
{%- endif %}
{%- endfor %}
{%- endfor %}
        }
{%- endfor %}{% endfor %}
{%- if isa == "neon" %}
        }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
        sum_{{ r }}_{{ t }} = vpadalq_s16(sum_{{ r }}_{{ t }}, acc_{{ r }}_{{ t }});
{%- endfor %}{% endfor %}
{%- endif %}
    }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    y[{{ t }} * y_stride + {{ r }}] = vaddvq_s32(sum_{{ r }}_{{ t }}) - x_sums[{{ t }}];
{%- endfor %}{% endfor %}
}
{% endfor %}{% endfor %}
{% include "i2s_gemm_tiles.h" %}
