// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AArch64{% if isa != "neon" %} with SDOT{% endif %}.
//
// Layout as in i2s_gemv_portable.c: each half of a 32-byte block holds, field by field, runs of 16 consecutive
// weights, so activations are read in their natural order. Codes are at most 3, so they are i8 as well.
{%- if isa != "neon" %}
// Overflow: sdot adds 4 products of at most 3 * 128 to an i32 lane, 8 times a block; the renderer bounds cols.
{%- else %}
// Overflow: a 16-bit lane takes 16 products of at most 3 * 128 a block and is widened every {{ widen_blocks }} blocks.
{%- endif %}
{% include "prelude.h" %}
#include <arm_neon.h>

void sterna_i2s_gemv__{{ isa }}(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                              size_t cols, int32_t *restrict y) {
    const uint8x16_t three = vdupq_n_u8(3);
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r++) {
        const int8_t *xb = x;
{%- if isa != "neon" %}
        int32x4_t sum0 = vdupq_n_s32(0), sum1 = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks; b++, w += 32, xb += 128) {
            {% if prefetch_bytes %}__builtin_prefetch(w + {{ prefetch_bytes }});{% endif %}
{%- for half in range(end=2) %}
            const uint8x16_t v{{ half }} = vld1q_u8(w + {{ 16 * half }});
{%- for field in range(end=4) %}
            const int8x16_t c{{ half }}{{ field }} = vreinterpretq_s8_u8(vandq_u8({% if field < 3 %}vshrq_n_u8(v{{ half }}, {{ 6 - 2 * field }}){% else %}v{{ half }}{% endif %}, three));
            sum{{ half }} = vdotq_s32(sum{{ half }}, c{{ half }}{{ field }}, vld1q_s8(xb + {{ 32 * field + 16 * half }}));
{%- endfor %}
{%- endfor %}
        }
        y[r] = vaddvq_s32(vaddq_s32(sum0, sum1)) - x_sum;
{%- else %}
        int32x4_t sum = vdupq_n_s32(0);
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < {{ widen_blocks }} ? blocks : b + {{ widen_blocks }};
            int16x8_t acc = vdupq_n_s16(0);
            for (; b < end; b++, w += 32, xb += 128) {
                {% if prefetch_bytes %}__builtin_prefetch(w + {{ prefetch_bytes }});{% endif %}
{%- for half in range(end=2) %}
                const uint8x16_t v{{ half }} = vld1q_u8(w + {{ 16 * half }});
{%- for field in range(end=4) %}
                const int8x16_t c{{ half }}{{ field }} = vreinterpretq_s8_u8(vandq_u8({% if field < 3 %}vshrq_n_u8(v{{ half }}, {{ 6 - 2 * field }}){% else %}v{{ half }}{% endif %}, three));
                const int8x16_t x{{ half }}{{ field }} = vld1q_s8(xb + {{ 32 * field + 16 * half }});
                acc = vmlal_s8(acc, vget_low_s8(c{{ half }}{{ field }}), vget_low_s8(x{{ half }}{{ field }}));
                acc = vmlal_high_s8(acc, c{{ half }}{{ field }}, x{{ half }}{{ field }});
{%- endfor %}
{%- endfor %}
            }
            sum = vpadalq_s16(sum, acc);
        }
        y[r] = vaddvq_s32(sum) - x_sum;
{%- endif %}
    }
}
