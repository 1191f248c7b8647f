// Ceilings for a benchmark to compare with, which no forward pass calls: how fast a thread reads memory that it does
// next to nothing with, and how fast the level's dot product runs on registers alone.
{%- if isa is starting_with(pat="avx512") %}{% set bytes = 64 %}{% set reg = "v" %}
{%- elif isa is starting_with(pat="avx") %}{% set bytes = 32 %}{% set reg = "x" %}
{%- elif isa == "baseline" %}{% set bytes = 16 %}{% set reg = "x" %}
{%- else %}{% set bytes = 16 %}{% set reg = "w" %}{% endif %}
{%- if isa in ["avx2", "avx512", "neon"] %}{% set bits = 16 %}{% else %}{% set bits = 32 %}{% endif %}
{% include "prelude.h" %}
#include <string.h>

typedef uint32_t words __attribute__((vector_size({{ bytes }})));
typedef uint32_t words_memory __attribute__((vector_size({{ bytes }}), aligned(1), may_alias));

// y[0] = the sum of the 32-bit words of w, modulo 2^32; n bytes, whole lines of 64. One stream, prefetched `ahead` bytes ahead, if any. Many lines
// at a time: on Zen 3, two of them without a prefetch read 3 to 10 % slower, and up to 20 % where the loop lies badly. Best from a page on.
void sterna_probe_read__{{ isa }}(const uint8_t *restrict w, size_t n, size_t ahead, int32_t *restrict y) {
{%- for i in range(end=4) %}
    words sum_{{ i }} = {0};
{%- endfor %}
    size_t i = 0;
    for (; i + 1024 <= n; i += 1024) {
        if (ahead) {
{%- for line in range(end=16) %}
            __builtin_prefetch(w + i + ahead + {{ 64 * line }});
{%- endfor %}
        }
{%- for k in range(end=1024 / bytes) %}
        sum_{{ k % 4 }} += *(const words_memory *)(w + i + {{ k * bytes }});
{%- endfor %}
    }
    for (; i < n; i += {{ bytes }}) {
        sum_0 += *(const words_memory *)(w + i);
    }
    uint32_t lanes[sizeof(words) / sizeof(uint32_t)], total = 0;
{%- for i in range(end=4) %}
    memcpy(lanes, &sum_{{ i }}, sizeof lanes);
    for (size_t l = 0; l < sizeof lanes / sizeof *lanes; l++) {
        total += lanes[l];
    }
{%- endfor %}
    memcpy(y, &total, sizeof total);
}

// acc += the products of int8 ones, in {{ bits }}-bit lanes: one step of what the integer kernels of this level accumulate with.
// Volatile: the same product every time must not become one product.
{%- if isa == "baseline" %}
#define STEP(acc) { words t = ones; __asm__ volatile("pmaddwd %2, %1\n\tpaddd %1, %0" : "+x"(acc), "+x"(t) : "x"(ones)); }
{%- elif isa in ["avx2", "avx512"] %}
#define STEP(acc) { words t; __asm__ volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0" : "+{{ reg }}"(acc), "=&{{ reg }}"(t) : "{{ reg }}"(ones)); }
{%- elif isa == "avxvnni" %}
#define STEP(acc) __asm__ volatile("%{vex%} vpdpbusd %1, %1, %0" : "+x"(acc) : "x"(ones));
{%- elif isa is starting_with(pat="avx512") %}
#define STEP(acc) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(acc) : "v"(ones));
{%- elif isa == "neon" %}
#define STEP(acc) __asm__ volatile("smlal %0.8h, %1.8b, %1.8b\n\tsmlal2 %0.8h, %1.16b, %1.16b" : "+w"(acc) : "w"(ones));
{%- elif isa == "dotprod" %}
#define STEP(acc) __asm__ volatile("sdot %0.4s, %1.16b, %1.16b" : "+w"(acc) : "w"(ones));
{%- elif isa == "i8mm" %}
#define STEP(acc) __asm__ volatile("smmla %0.4s, %1.16b, %1.16b" : "+w"(acc) : "w"(ones));
{%- endif %}

// y[0] = the number of multiply-adds that `rounds` rounds of 12 steps make, counted by making them: all factors are one.
// Overflow: a lane gains at most 8 a step; 16-bit lanes gain 2 and are emptied every 8192 rounds. The caller keeps y below 2^31.
void sterna_probe_dot__{{ isa }}(size_t rounds, int32_t *restrict y) {
    const words ones = (words){0} + {% if isa == "baseline" %}0x00010001u{% else %}0x01010101u{% endif %};
    uint32_t total = 0;
    while (rounds > 0) {
        const size_t part = rounds < 8192 ? rounds : 8192;
        rounds -= part;
{%- for i in range(end=12) %}
        words acc_{{ i }} = {0};
{%- endfor %}
        for (size_t i = 0; i < part; i++) {
{%- for i in range(end=12) %}
            STEP(acc_{{ i }})
{%- endfor %}
        }
        uint{{ bits }}_t lanes[sizeof(words) / sizeof(uint{{ bits }}_t)];
{%- for i in range(end=12) %}
        memcpy(lanes, &acc_{{ i }}, sizeof lanes);
        for (size_t l = 0; l < sizeof lanes / sizeof *lanes; l++) {
            total += lanes[l];
        }
{%- endfor %}
    }
    memcpy(y, &total, sizeof total);
}
