// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, AArch64 with SMMLA.
//
// Layout as in i2s_gemv_portable.c. smmla multiplies two rows by two tokens over 8 columns into four i32 lanes, so operands are pairs:
// 8 bytes of one row beside 8 of the next, unpacked field by field, and 8 activations of two tokens.
//
//   lanes of a sum   r t | r t+1 | r+1 t | r+1 t+1
//
// The tile is {{ mr }} rows x {{ nr }} tokens. A single row, and the last of an odd number of tokens, is paired with itself.
// Overflow: a lane takes 128 products of at most 3 * 128 a block; the renderer bounds cols.
{% include "prelude.h" %}
#include <arm_neon.h>

static inline uint8x16_t codes(const uint8_t *a, const uint8_t *b) {
    return vcombine_u8(vld1_u8(a), vld1_u8(b));
}

static inline int8x16_t activations(const int8_t *a, const int8_t *b) {
    return vcombine_s8(vld1_s8(a), vld1_s8(b));
}
{% for rows in [mr, 1] | unique %}{% for tokens in range(start=1, end=nr + 1) %}
static void tile_{{ rows }}x{{ tokens }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                     size_t cols, int32_t *restrict y, size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
{%- for r in range(start=0, end=rows, step_by=2) %}{% for t in range(start=0, end=tokens, step_by=2) %}
    int32x4_t sum_{{ r }}_{{ t }} = vdupq_n_s32(0);
{%- endfor %}{% endfor %}
    for (size_t b = 0; b < cols / 128; b++, x += 96) {
        for (int quarter = 0; quarter < 4; quarter++, w += 8, x += 8) {
{%- for r in range(start=0, end=rows, step_by=2) %}
            const uint8x16_t v{{ r }} = codes(w + {{ r }} * (cols / 4), w + {% if r + 1 < rows %}{{ r + 1 }}{% else %}{{ r }}{% endif %} * (cols / 4));
{%- endfor %}
{%- for field in range(end=4) %}
            {
                __asm__ volatile("" ::: "memory"); // keeps gcc from loading the next field's activations early: registers are full
{%- for r in range(start=0, end=rows, step_by=2) %}
                const int8x16_t c{{ r }} = vreinterpretq_s8_u8(vandq_u8({% if field < 3 %}vshrq_n_u8(v{{ r }}, {{ 6 - 2 * field }}){% else %}v{{ r }}{% endif %}, three));
{%- endfor %}
{%- for t in range(start=0, end=tokens, step_by=2) %}
                const int8x16_t x{{ t }} = activations(x + {{ t }} * cols + {{ 32 * field }}, x + {% if t + 1 < tokens %}{{ t + 1 }}{% else %}{{ t }}{% endif %} * cols + {{ 32 * field }});
{%- for r in range(start=0, end=rows, step_by=2) %}
                sum_{{ r }}_{{ t }} = vmmlaq_s32(sum_{{ r }}_{{ t }}, c{{ r }}, x{{ t }});
{%- endfor %}
{%- endfor %}
            }
{%- endfor %}
        }
    }
{%- for r in range(end=rows) %}{% for t in range(end=tokens) %}
    y[{{ t }} * y_stride + {{ r }}] = vgetq_lane_s32(sum_{{ r - r % 2 }}_{{ t - t % 2 }}, {{ r % 2 * 2 + t % 2 }}) - x_sums[{{ t }}];
{%- endfor %}{% endfor %}
}
{% endfor %}{% endfor %}
{% include "i2s_gemm_tiles.h" %}
