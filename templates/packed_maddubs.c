// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: re-packed weights times one vector or many, x86-64 without VNNI.
//
// Layout (runtime/model/packed.rs): a tile of {{ packing_rows }} rows is a sequence of chunks of {{ packing_rows * 4 }} bytes; row i of the tile owns the four
// bytes of 32-bit lane i. So sums of a row stay in its lane, nothing is added across lanes, the activations are broadcast, and a
// thread's share of W is one linear stream.
//
//   byte = c0 << 6 | c1 << 4 | c2 << 2 | c3, codes of the weights 128 b + 4 j + i + {0, 32, 64, 96} of its row: the bytes of I2_S, turned
//
// A chunk is {{ packing_rows * 4 // vector_bytes }} register{{ (packing_rows * 4 // vector_bytes) | pluralize }} of {{ vector_bytes }} bytes. vpmaddubsw adds two products in 16 bits: 2 * 128 * 2 at most, four fields and eight chunks make 16384 before
// they are widened. For few tokens, where taking bytes apart is half of the work, every other field is used four times too large,
// with sums of its own: two fields and eight chunks are -32768 to 32512, which 16 bits just hold.
{% include "prelude.h" %}
{% include "packed_x86.h" %}
// acc += two products a lane, in place: gcc would add products to one another first, and keep them on the stack.
#define DOT(acc, codes, x) __asm__("vpaddw %1, %0, %0" : "+{% if vector_bytes == 64 %}v{% else %}x{% endif %}"(acc) : "{% if vector_bytes == 64 %}v{% else %}x{% endif %}"(MADDUBS(codes, x)))
{% set regs = packing_rows * 4 // vector_bytes %}
{%- for n in range(start=1, end=packed_tokens + 1) %}
{%- set twin = n * regs <= 4 %}
{%- set ahead = packed_prefetch_bytes %}
// {{ n }} token{{ n | pluralize }}: a and s of fields as they are, b and q of those four times too large.
static void tile_{{ n }}(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
    const vec low = SET8(3){% if twin %}, high = SET8(0x0c){% endif %};
    for (size_t r = 0; r < rows; r += {{ packing_rows }}) {
{%- for t in range(end=n) %}
        const int8_t *p{{ t }} = x + {{ t }} * cols;
        vec {% for i in range(end=regs) %}a{{ t }}_{{ i }} = ZERO(){% if twin %}, b{{ t }}_{{ i }} = ZERO(){% endif %}{% if not loop.last %}, {% endif %}{% endfor %};
{%- endfor %}
        for (size_t b = 0; b < cols / 128; b++) {
{%- for t in range(end=n) %}
            vec {% for i in range(end=regs) %}s{{ t }}_{{ i }} = ZERO(){% if twin %}, q{{ t }}_{{ i }} = ZERO(){% endif %}{% if not loop.last %}, {% endif %}{% endfor %};
{%- endfor %}
#pragma GCC unroll {% if n > 4 %}1{% else %}8{% endif %}
            for (size_t j = 0; j < 32; j += 4, w += {{ packing_rows * 4 }}) {
                {% if ahead %}__builtin_prefetch(w + {{ ahead }});{% endif %}
{%- for i in range(end=regs) %}
                {% if not twin %}const {% endif %}vec v{{ i }} = LOAD(w + {{ i * vector_bytes }});
{%- endfor %}
{%- for k in [2, 3, 0, 1] %}
{%- if twin and k == 0 %}
{%- for i in range(end=regs) %}
                v{{ i }} = SHR16(v{{ i }}, 4);
{%- endfor %}
{%- endif %}
{%- for i in range(end=regs) %}
{%- if twin %}
                const vec c{{ k }}_{{ i }} = AND(v{{ i }}, {% if k % 2 == 1 %}low{% else %}high{% endif %});
{%- else %}
                const vec c{{ k }}_{{ i }} = AND({% if k == 3 %}v{{ i }}{% else %}SHR16(v{{ i }}, {{ 6 - 2 * k }}){% endif %}, low);
{%- endif %}
{%- endfor %}
{%- for t in range(end=n) %}
                const vec x{{ k }}_{{ t }} = SET32(*(const word *)(p{{ t }} + j + {{ 32 * k }}));
{%- for i in range(end=regs) %}
                DOT({% if twin and k % 2 == 0 %}q{% else %}s{% endif %}{{ t }}_{{ i }}, c{{ k }}_{{ i }}, x{{ k }}_{{ t }});
{%- endfor %}
{%- endfor %}
{%- endfor %}
            }
{%- for t in range(end=n) %}
{%- for i in range(end=regs) %}
            a{{ t }}_{{ i }} = ADD32(a{{ t }}_{{ i }}, MADD16(s{{ t }}_{{ i }}, SET16(1)));
{%- if twin %}
            b{{ t }}_{{ i }} = ADD32(b{{ t }}_{{ i }}, MADD16(q{{ t }}_{{ i }}, SET16(1)));
{%- endif %}
{%- endfor %}
            p{{ t }} += 128;
{%- endfor %}
        }
{%- for t in range(end=n) %}{% for i in range(end=regs) %}
        STORE(y + r + {{ vector_bytes // 4 * i }} + {{ t }} * y_stride, SUB32({% if twin %}ADD32(a{{ t }}_{{ i }}, SAR32(b{{ t }}_{{ i }}, 2)){% else %}a{{ t }}_{{ i }}{% endif %}, SET32(x_sums[{{ t }}])));
{%- endfor %}{% endfor %}
    }
}
{% endfor %}
{% include "packed_tiles.h" %}
{% set packed = true %}
{%- include "token_lut.h" %}

void sterna_packed_gemm__{{ isa }}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                                    size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    by_tables(by_tiles, w, x, x_sums, rows, cols, tokens, y, y_stride);
}
