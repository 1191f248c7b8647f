{% if packing_rows != 8 or packing_weights != 4 %}{{ throw(message="a chunk is two q registers, four codes a byte") }}{% endif -%}
// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: re-packed weights times one vector or many, AArch64
{%- if isa == "dotprod" %} with SDOT{% elif isa == "i8mm" %} with SDOT and SMMLA{% endif %}.
//
// Layout (runtime/model/packed.rs): a tile of 8 rows is a sequence of chunks of 32 bytes, two q registers; row i of the tile owns the bytes
// 4 i .. 4 i + 4 of each. A block of 128 weights is 8 chunks, j = 0, 4 .. 28:
//
//   lane      row 0     row 1     row 2     row 3   | row 4     row 5     row 6     row 7
//   byte i    0 1 2 3   0 1 2 3   0 1 2 3   0 1 2 3 | 0 1 2 3   0 1 2 3   0 1 2 3   0 1 2 3
//
//   byte = c0 << 6 | c1 << 4 | c2 << 2 | c3, codes of the weights 128 b + j + i + {0, 32, 64, 96} of its row: the bytes of I2_S, turned
//
// So field k of a chunk meets the same four activations, 32 k + j .. 32 k + j + 4, in every row, a row's sum stays in its lanes, and a thread's
// share of W is one linear stream. Codes are at most 2, since re-packing refuses 3, and so are i8 as well. 8 rows and not 16: the registers
// then hold the sums of twice as many tokens, which share the work of unpacking. No speed was measured.
//
{%- if isa == "neon" %}
// smlal and smlal2 add one product to each of eight 16-bit lanes, four of a row; activations are four bytes in every lane of 32 bits.
// Overflow: a 16-bit lane takes 32 products of at most 2 * 128 a block, and is widened every {{ packed_widen_blocks }} blocks, into y itself. One token has
// two sums, or a chain of additions would be what takes the time: their lanes take half of the products each.
//
// Registers, {{ packed_tokens }} tokens: {{ 4 * packed_tokens }} sums, 2 bytes, 2 codes, activations, the mask
{%- else %}
// sdot adds four products of a row to its 32-bit lane. It takes the four activations by lane: a q register holds those of a field for
// four chunks.
// One or two tokens: field 0 is shifted down (as i8 its 2 would be -128) and the others are used where they stand, one instruction each; the
// sums of fields, scaled by 1, 16, 4 and 1, are apart until the end of a row. Overflow: of field 1, at most 4 * 2 * 16 * 128 in 16
// weights, bounded by the renderer.
//
// Registers, 2 tokens: 16 sums, 8 activations, 3 masks, 1 byte, 4 codes
//
{%- if isa == "dotprod" %}
// More tokens: fields are shifted down once for all of them, one field of four chunks after the other, so that a token's activations take
// one register; up to four tokens have two sums each, or a chain of additions would be what takes the time.
//
// Registers, {{ packed_tokens }} tokens: {{ 2 * packed_tokens }} sums, {{ packed_tokens }} activations, the mask; the rest for bytes and codes
{%- else %}
// More tokens: smmla multiplies two rows by two tokens over 8 columns into four lanes. Two neighbouring chunks hold 8 columns in a row, so that
// interleaving their 32-bit lanes gives its operand; of tokens it is 8 bytes of each of two. The last of an odd number is paired with
// itself.
//
//   chunks j, j + 4     r0 r1 r2 r3, r0' r1' r2' r3'   ->   zip1: r0 r0' r1 r1'   zip2: r2 r2' r3 r3'
//   lanes of a sum      r t | r t+1 | r+1 t | r+1 t+1
//
// Registers, {{ packed_tokens }} tokens: {{ 4 * ((packed_tokens + 1) // 2) }} sums, 4 bytes, 4 codes, activations, the mask
{%- endif %}
{%- endif %}
{% include "prelude.h" %}
#include <arm_neon.h>
{%- if isa == "neon" %}

typedef int32_t __attribute__((may_alias, aligned(1))) word; // four activations

static inline int8x16_t broadcast(const int8_t *x) {
    return vreinterpretq_s8_s32(vdupq_n_s32(*(const word *)x));
}

// Each of four rows has four lanes of a, then b.
static inline int32x4_t row_sums(int16x8_t a, int16x8_t b) {
    return vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b));
}
{%- elif isa == "i8mm" %}

static inline uint32x4_t load(const uint8_t *w) {
    return vreinterpretq_u32_u8(vld1q_u8(w));
}

static inline int8x16_t pair(const int8_t *a, const int8_t *b) {
    return vcombine_s8(vld1_s8(a), vld1_s8(b));
}
{%- endif %}

// Additions in place, where they stand: written with intrinsics, gcc copies sums, and clang unpacks much of a block before it
// adds. So registers hold what the text says.
{%- if isa == "neon" %}
#define ADD_LOW(acc, codes, x) __asm__ volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(acc) : "w"(codes), "w"(x))
#define ADD_HIGH(acc, codes, x) __asm__ volatile("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(acc) : "w"(codes), "w"(x))
{%- else %}
#define DOT(acc, codes, x, lane) __asm__ volatile("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(acc) : "w"(codes), "w"(x))
{%- if isa == "i8mm" %}
#define MULTIPLY(acc, codes, x) __asm__ volatile("smmla %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(codes), "w"(x))
{%- else %}

// Bytes are loaded anew for the next field: nothing is to keep them in registers.
#define RELOAD __asm__ volatile("" ::: "memory")
{%- endif %}
{%- endif %}

// Field k of the bytes v, shifted down.
#define FIELD0(v) vreinterpretq_s8_u8(vshrq_n_u8(v, 6))
#define FIELD1(v) vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 4), three))
#define FIELD2(v) vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(v, 2), three))
#define FIELD3(v) vreinterpretq_s8_u8(vandq_u8(v, three))
{% for n in range(start=1, end=packed_tokens + 1) %}
{%- set ahead = packed_prefetch_bytes %}
{%- set apart = isa != "neon" and n <= 2 %}
{%- set pairs = isa == "i8mm" and n > 2 %}
{%- set twin = isa == "neon" and n == 1 or isa == "dotprod" and n <= 4 %}
// {{ n }} token{{ n | pluralize }}.
static void tile_{{ n }}(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const uint8x16_t three = vdupq_n_u8(3);
{%- if apart %}
    const uint8x16_t field1 = vdupq_n_u8(0x30), field2 = vdupq_n_u8(0x0c);
{%- endif %}
    const size_t blocks = cols / 128;
    for (size_t r = 0; r < rows; r += 8, y += 8) {
{%- for t in range(end=n) %}
        const int8_t *p{{ t }} = x + {{ t }} * cols;
{%- endfor %}
{%- if isa == "neon" %}
{%- for t in range(end=n) %}
        vst1q_s32(y + {{ t }} * y_stride, vdupq_n_s32(-x_sums[{{ t }}]));
        vst1q_s32(y + {{ t }} * y_stride + 4, vdupq_n_s32(-x_sums[{{ t }}]));
{%- endfor %}
        for (size_t b = 0; b < blocks;) {
            const size_t end = blocks - b < {{ packed_widen_blocks }} ? blocks : b + {{ packed_widen_blocks }};
{%- for t in range(end=n) %}
            int16x8_t a{{ t }}_0 = vdupq_n_s16(0), a{{ t }}_1 = a{{ t }}_0, a{{ t }}_2 = a{{ t }}_0, a{{ t }}_3 = a{{ t }}_0;
{%- if twin %}
            int16x8_t b{{ t }}_0 = a{{ t }}_0, b{{ t }}_1 = a{{ t }}_0, b{{ t }}_2 = a{{ t }}_0, b{{ t }}_3 = a{{ t }}_0;
{%- endif %}
{%- endfor %}
            for (; b < end; b++) {
                for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                    {% if ahead %}__builtin_prefetch(w + {{ ahead }});{% endif %}
{%- for c in range(end=2) %}
                    {
                        const uint8x16_t v0 = vld1q_u8(w + {{ 32 * c }}), v1 = vld1q_u8(w + {{ 32 * c + 16 }});
{%- for k in range(end=4) %}
                        {
                            const int8x16_t c0 = FIELD{{ k }}(v0), c1 = FIELD{{ k }}(v1);
{%- for t in range(end=n) %}
{%- set a = "a" %}
{%- if twin and k % 2 == 1 %}{% set a = "b" %}{% endif %}
                            const int8x16_t x{{ t }} = broadcast(p{{ t }} + {{ 32 * k + 4 * c }});
                            ADD_LOW({{ a }}{{ t }}_0, c0, x{{ t }});
                            ADD_HIGH({{ a }}{{ t }}_1, c0, x{{ t }});
                            ADD_LOW({{ a }}{{ t }}_2, c1, x{{ t }});
                            ADD_HIGH({{ a }}{{ t }}_3, c1, x{{ t }});
{%- endfor %}
                        }
{%- endfor %}
                    }
{%- endfor %}
{%- for t in range(end=n) %}
                    p{{ t }} += 8;
{%- endfor %}
                }
{%- for t in range(end=n) %}
                p{{ t }} += 96;
{%- endfor %}
            }
{%- for t in range(end=n) %}
{%- if twin %}
{%- for i in range(end=4) %}
            a{{ t }}_{{ i }} = vaddq_s16(a{{ t }}_{{ i }}, b{{ t }}_{{ i }});
{%- endfor %}
{%- endif %}
            int32_t *y{{ t }} = y + {{ t }} * y_stride;
            vst1q_s32(y{{ t }}, vaddq_s32(vld1q_s32(y{{ t }}), row_sums(a{{ t }}_0, a{{ t }}_1)));
            vst1q_s32(y{{ t }} + 4, vaddq_s32(vld1q_s32(y{{ t }} + 4), row_sums(a{{ t }}_2, a{{ t }}_3)));
{%- endfor %}
        }
{%- elif apart %}
{%- for t in range(end=n) %}{% for q in range(end=2) %}
        int32x4_t {% for k in range(end=4) %}f{{ k }}_{{ t }}_{{ q }} = vdupq_n_s32(0){% if not loop.last %}, {% endif %}{% endfor %};
{%- endfor %}{% endfor %}
        for (size_t b = 0; b < blocks; b++) {
            for (int half = 0; half < 2; half++, w += 128) {
{%- for t in range(end=n) %}{% for k in range(end=4) %}
                const int8x16_t x{{ k }}_{{ t }} = vld1q_s8(p{{ t }} + {{ 32 * k }});
{%- endfor %}{% endfor %}
{%- for c in range(end=4) %}
                {
{%- if ahead and c % 2 == 0 %}
                    __builtin_prefetch(w + {{ ahead + 32 * c }});
{%- endif %}
{%- for q in range(end=2) %}
                    const uint8x16_t v{{ q }} = vld1q_u8(w + {{ 32 * c + 16 * q }});
                    const int8x16_t c0_{{ q }} = FIELD0(v{{ q }}), c1_{{ q }} = vreinterpretq_s8_u8(vandq_u8(v{{ q }}, field1));
                    const int8x16_t c2_{{ q }} = vreinterpretq_s8_u8(vandq_u8(v{{ q }}, field2)), c3_{{ q }} = FIELD3(v{{ q }});
{%- for t in range(end=n) %}{% for k in range(end=4) %}
                    DOT(f{{ k }}_{{ t }}_{{ q }}, c{{ k }}_{{ q }}, x{{ k }}_{{ t }}, {{ c }});
{%- endfor %}{% endfor %}
{%- endfor %}
                }
{%- endfor %}
{%- for t in range(end=n) %}
                p{{ t }} += 16;
{%- endfor %}
            }
{%- for t in range(end=n) %}
            p{{ t }} += 96;
{%- endfor %}
        }
{%- for t in range(end=n) %}{% for q in range(end=2) %}
        f0_{{ t }}_{{ q }} = vsraq_n_s32(vsraq_n_s32(vaddq_s32(f0_{{ t }}_{{ q }}, f3_{{ t }}_{{ q }}), f1_{{ t }}_{{ q }}, 4), f2_{{ t }}_{{ q }}, 2);
        vst1q_s32(y + {{ t }} * y_stride + {{ 4 * q }}, vsubq_s32(f0_{{ t }}_{{ q }}, vdupq_n_s32(x_sums[{{ t }}])));
{%- endfor %}{% endfor %}
{%- elif pairs %}
{%- for t in range(end=n, step_by=2) %}
        int32x4_t {% for i in range(end=4) %}a{{ t }}_{{ i }} = vdupq_n_s32(0){% if not loop.last %}, {% endif %}{% endfor %};
{%- endfor %}
        for (size_t b = 0; b < blocks; b++) {
            for (int quarter = 0; quarter < 4; quarter++, w += 64) {
                {% if ahead %}__builtin_prefetch(w + {{ ahead }});{% endif %}
{%- for q in range(end=2) %}
                const uint32x4_t even{{ q }} = load(w + {{ 16 * q }}), odd{{ q }} = load(w + {{ 32 + 16 * q }});
                const uint8x16_t v{{ 2 * q }} = vreinterpretq_u8_u32(vzip1q_u32(even{{ q }}, odd{{ q }}));
                const uint8x16_t v{{ 2 * q + 1 }} = vreinterpretq_u8_u32(vzip2q_u32(even{{ q }}, odd{{ q }}));
{%- endfor %}
{%- for k in range(end=4) %}
                {
                    const int8x16_t {% for i in range(end=4) %}c{{ i }} = FIELD{{ k }}(v{{ i }}){% if not loop.last %}, {% endif %}{% endfor %};
{%- for t in range(end=n, step_by=2) %}
                    const int8x16_t x{{ t }} = pair(p{{ t }} + {{ 32 * k }}, p{% if t + 1 < n %}{{ t + 1 }}{% else %}{{ t }}{% endif %} + {{ 32 * k }});
{%- for i in range(end=4) %}
                    MULTIPLY(a{{ t }}_{{ i }}, c{{ i }}, x{{ t }});
{%- endfor %}
{%- endfor %}
                }
{%- endfor %}
{%- for t in range(end=n) %}
                p{{ t }} += 8;
{%- endfor %}
            }
{%- for t in range(end=n) %}
            p{{ t }} += 96;
{%- endfor %}
        }
{%- for t in range(end=n) %}{% for q in range(end=2) %}
        vst1q_s32(y + {{ t }} * y_stride + {{ 4 * q }}, vsubq_s32(vuzp{{ t % 2 + 1 }}q_s32(a{{ t - t % 2 }}_{{ 2 * q }}, a{{ t - t % 2 }}_{{ 2 * q + 1 }}), vdupq_n_s32(x_sums[{{ t }}])));
{%- endfor %}{% endfor %}
{%- else %}
{%- for t in range(end=n) %}
        int32x4_t a{{ t }}_0 = vdupq_n_s32(0), a{{ t }}_1 = a{{ t }}_0{% if twin %}, b{{ t }}_0 = a{{ t }}_0, b{{ t }}_1 = a{{ t }}_0{% endif %};
{%- endfor %}
        for (size_t b = 0; b < blocks; b++) {
            for (int half = 0; half < 2; half++, w += 128) {
{%- if ahead %}
                __builtin_prefetch(w + {{ ahead }});
                __builtin_prefetch(w + {{ ahead + 64 }});
{%- endif %}
{%- for k in range(end=4) %}
                {
                    RELOAD;
{%- for t in range(end=n) %}
                    const int8x16_t x{{ t }} = vld1q_s8(p{{ t }} + {{ 32 * k }});
{%- endfor %}
{%- for c in range(end=4) %}
                    const int8x16_t c{{ c }}_0 = FIELD{{ k }}(vld1q_u8(w + {{ 32 * c }})), c{{ c }}_1 = FIELD{{ k }}(vld1q_u8(w + {{ 32 * c + 16 }}));
{%- set a = "a" %}
{%- if twin and c % 2 == 1 %}{% set a = "b" %}{% endif %}
{%- for t in range(end=n) %}
                    DOT({{ a }}{{ t }}_0, c{{ c }}_0, x{{ t }}, {{ c }});
                    DOT({{ a }}{{ t }}_1, c{{ c }}_1, x{{ t }}, {{ c }});
{%- endfor %}
{%- endfor %}
                }
{%- endfor %}
{%- for t in range(end=n) %}
                p{{ t }} += 16;
{%- endfor %}
            }
{%- for t in range(end=n) %}
            p{{ t }} += 96;
{%- endfor %}
        }
{%- for t in range(end=n) %}{% for q in range(end=2) %}
{%- if twin %}
        a{{ t }}_{{ q }} = vaddq_s32(a{{ t }}_{{ q }}, b{{ t }}_{{ q }});
{%- endif %}
        vst1q_s32(y + {{ t }} * y_stride + {{ 4 * q }}, vsubq_s32(a{{ t }}_{{ q }}, vdupq_n_s32(x_sums[{{ t }}])));
{%- endfor %}{% endfor %}
{%- endif %}
    }
}
{% endfor %}
{% include "packed_tiles.h" %}
