// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: re-packed weights times one vector or many, x86-64 with VNNI.
//
// Layout (runtime/model/packed.rs): a tile of {{ packing_rows }} rows is a sequence of chunks of {{ packing_rows * 4 }} bytes, one register each; row i
// of the tile owns the four bytes of lane i. So sums of a row stay in its lane, nothing is added across lanes, the
// activations are broadcast, and a thread's share of W is one linear stream.
//
{%- if packing_weights == 5 %}
//   byte = c0 + 3 c1 + 9 c2 + 27 c3 + 81 c4, codes of the weights 20 k + j + {0, 4, 8, 12, 16} of its row, j its place in the lane
//   c4: subtracting 81 wraps to a larger number unless there is an 81 in the byte, so two unsigned minima leave byte mod 81;
//       byte - byte mod 81 = 81 c4. No comparison into mask registers, which costs more.
//   c0 .. c3: byte mod 81 looks up the four codes as 2-bit fields.
{%- else %}
//   byte = c0 << 6 | c1 << 4 | c2 << 2 | c3, codes of the weights 128 b + 4 j + i + {0, 32, 64, 96} of its row: the bytes of I2_S, turned
{%- endif %}
//
// One token: a field is used where it stands, scaled; the factor is the same for all sums of an accumulator and goes once a
// row. Overflow: at most {% if packing_weights == 5 %}4 * 162 * 128 in 20 weights{% else %}8 * 4 * 128 * 128 in 128 weights{% endif %}, bounded by the renderer. Several tokens: fields are
// shifted down once for all of them, and each token has an accumulator, few tokens two. Each has a pointer too: of one pointer and
// strides gcc makes more addresses than there are registers.
{% include "prelude.h" %}
{% include "packed_x86.h" %}
// acc += four products a lane. The instruction updates its accumulator in place; written with the intrinsic, gcc copies it.
{%- if vector_bytes == 64 %}
#define DOT(acc, codes, p) __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(codes), "m"(*(const word *)(p)))
{%- else %}
#define DOT(acc, codes, p) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"(SET32(*(const word *)(p))))
{%- endif %}
{%- if packing_weights == 5 %}

// byte mod 81 -> four codes.
static const uint8_t FIELDS[128] __attribute__((aligned(64))) = {
{%- for f in packing_fields %}{{ f }}, {% endfor -%}
};

// v mod 81 of every byte up to 242.
static inline __m512i mod81(__m512i v) {
    const __m512i c81 = SET8(81);
    v = _mm512_min_epu8(v, _mm512_sub_epi8(v, c81));
    return _mm512_min_epu8(v, _mm512_sub_epi8(v, c81));
}
{%- endif %}
{% for n in range(start=1, end=packed_tokens + 1) %}
{%- set twin = n <= 4 %}
{%- set ahead = packed_prefetch_bytes %}
// {{ n }} token{{ n | pluralize }}.
static void tile_{{ n }}(const uint8_t *w, const int8_t *x, const int32_t *x_sums, size_t rows, size_t cols, int32_t *y,
                   size_t y_stride) {
{%- if packing_weights == 5 %}
    const __m512i t0 = LOAD(FIELDS), t1 = LOAD(FIELDS + 64);
    // The last cols % 20 activations of every token, then zeros: whatever code meets them adds nothing.
    const size_t chunks = cols / 20, rest = cols % 20;
    int8_t tail[20 * {{ n }}] = {0};
    for (size_t t = 0; t < {{ n }}; t++)
        for (size_t i = 0; i < rest; i++)
            tail[20 * t + i] = x[t * cols + 20 * chunks + i];
{%- else %}
    const vec low = SET8(3);
{%- endif %}
    for (size_t r = 0; r < rows; r += {{ packing_rows }}) {
{%- if packing_weights == 4 %}
{%- for t in range(end=n) %}
        const int8_t *p{{ t }} = x + {{ t }} * cols;
{%- endfor %}
{%- endif %}
{%- if n == 1 %}
        vec f0 = ZERO(), f1 = f0, f2 = f0, f3 = f0{% if packing_weights == 5 %}, f4 = f0{% endif %};
{%- else %}
        // Of few tokens each has two accumulators, or a chain of additions would be what takes the time.
        vec {% for t in range(end=n) %}a{{ t }} = ZERO(){% if twin %}, b{{ t }} = ZERO(){% endif %}{% if not loop.last %}, {% endif %}{% endfor %};
{%- endif %}
{%- if packing_weights == 5 %}
        for (int last = 0; last < 2; last++) {
{%- for t in range(end=n) %}
            const int8_t *p{{ t }} = last ? tail + {{ 20 * t }} : x + {{ t }} * cols;
{%- endfor %}
            for (size_t k = last ? rest == 0 : 0; k < (last ? 1 : chunks); k++) {
                {% if ahead %}__builtin_prefetch(w + {{ ahead }});{% endif %}
                const __m512i v = LOAD(w), byte = mod81(v), f = _mm512_permutex2var_epi8(t0, byte, t1);
                const __m512i h = _mm512_sub_epi8(v, byte);
{%- if n == 1 %}
                DOT(f0, AND(f, SET8(0x03)), p0);
                DOT(f1, AND(f, SET8(0x0c)), p0 + 4);
                DOT(f2, AND(f, SET8(0x30)), p0 + 8);
                DOT(f3, AND(f, SET8((char)0xc0)), p0 + 12);
                DOT(f4, h, p0 + 16);
{%- else %}
{%- for k in range(end=5) %}
                const __m512i c{{ k }} = AND({% if k == 0 %}f{% elif k == 4 %}SHR16(h, 6){% else %}SHR16(f, {{ 2 * k }}){% endif %}, SET8(3));
{%- for t in range(end=n) %}
                DOT({% if twin and k % 2 == 1 %}b{% else %}a{% endif %}{{ t }}, c{{ k }}, p{{ t }} + {{ 4 * k }});
{%- endfor %}
{%- endfor %}
{%- endif %}
                w += 64;
{%- for t in range(end=n) %}
                p{{ t }} += 20;
{%- endfor %}
            }
        }
{%- else %}
        for (size_t b = 0; b < cols / 128; b++) {
#pragma GCC unroll {% if n > 4 %}1{% else %}8{% endif %}
            for (size_t j = 0; j < 32; j += 4, w += {{ vector_bytes }}) {
                const vec v = LOAD(w);
                {% if ahead %}__builtin_prefetch(w + {{ ahead }});{% endif %}
{%- if n == 1 %}
                DOT(f3, AND(v, SET8((char)0xc0)), p0 + j);
                DOT(f2, AND(v, SET8(0x30)), p0 + j + 32);
                DOT(f1, AND(v, SET8(0x0c)), p0 + j + 64);
                DOT(f0, AND(v, low), p0 + j + 96);
{%- else %}
{%- for k in range(end=4) %}
                const vec c{{ k }} = AND({% if k == 3 %}v{% else %}SHR16(v, {{ 6 - 2 * k }}){% endif %}, low);
{%- for t in range(end=n) %}
                DOT({% if twin and k % 2 == 1 %}b{% else %}a{% endif %}{{ t }}, c{{ k }}, p{{ t }} + j + {{ 32 * k }});
{%- endfor %}
{%- endfor %}
{%- endif %}
            }
{%- for t in range(end=n) %}
            p{{ t }} += 128;
{%- endfor %}
        }
{%- endif %}
{%- if n == 1 %}
        vec a0 = ADD32(ADD32(SAR32(f3, 6), SAR32(f2, 4)), ADD32(SAR32(f1, 2), f0));
{%- if packing_weights == 5 %}
        // An exact multiple of 81: times its inverse modulo 2^32.
        a0 = ADD32(a0, _mm512_mullo_epi32(f4, SET32(0x781948b1)));
{%- endif %}
{%- endif %}
{%- for t in range(end=n) %}
{%- if twin and n > 1 %}
        a{{ t }} = ADD32(a{{ t }}, b{{ t }});
{%- endif %}
        STORE(y + r + {{ t }} * y_stride, SUB32(a{{ t }}, SET32(x_sums[{{ t }}])));
{%- endfor %}
    }
}
{% endfor %}
{% include "packed_tiles.h" %}
