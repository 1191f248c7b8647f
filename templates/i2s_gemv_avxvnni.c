// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, AVX-VNNI.
//
// Layout as in i2s_gemv_portable.c; the four fields of a 32-byte block are four runs of 32 consecutive weights. They
// are masked, not shifted: every field has a sum of its own, larger by its factor, which is shifted out once a row, exactly.
//
//   field              0 (bit 6)   1 (bit 4)   2 (bit 2)   3 (bit 0)
//   factor on the code    64          16           4           1
//
// vpdpbusd adds code * factor * x over 4 bytes into i32. Overflow: 4 * 192 * 128 a block and lane; the renderer bounds cols.
{% include "prelude.h" %}
{% include "avx2.h" %}
{% include "avxvnni.h" %}
{% include "i2s_rows.h" %}
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks) {
{%- for field in range(end=4) %}
    const __m256i mask{{ field }} = _mm256_set1_epi8({% if field == 0 %}(char)0xc0{% elif field == 1 %}0x30{% elif field == 2 %}0x0c{% else %}0x03{% endif %});
{%- endfor %}
    // Two blocks in turn: a chain of accumulations is half as long as the row.
    __m256i {% for field in range(end=4) %}a{{ field }} = _mm256_setzero_si256(), b{{ field }} = a{{ field }}{% if not loop.last %}, {% endif %}{% endfor %};
    size_t b = 0;
    for (; b + 2 <= blocks; b += 2, x += 256) {
        if (ahead)
            __builtin_prefetch(ahead + 32 * b);
        const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * b)), u = _mm256_loadu_si256((const __m256i *)(w + 32 * b + 32));
{%- for field in range(end=4) %}
        DPBUSD(a{{ field }}, _mm256_and_si256(v, mask{{ field }}), _mm256_loadu_si256((const __m256i *)(x + {{ 32 * field }})));
        DPBUSD(b{{ field }}, _mm256_and_si256(u, mask{{ field }}), _mm256_loadu_si256((const __m256i *)(x + {{ 128 + 32 * field }})));
{%- endfor %}
    }
    if (b < blocks) {
        if (ahead)
            __builtin_prefetch(ahead + 32 * b);
        const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 32 * b));
{%- for field in range(end=4) %}
        DPBUSD(a{{ field }}, _mm256_and_si256(v, mask{{ field }}), _mm256_loadu_si256((const __m256i *)(x + {{ 32 * field }})));
{%- endfor %}
    }
{%- for field in range(end=4) %}
    const __m256i s{{ field }} = {% if field < 3 %}_mm256_srai_epi32(_mm256_add_epi32(a{{ field }}, b{{ field }}), {{ 6 - 2 * field }}){% else %}_mm256_add_epi32(a{{ field }}, b{{ field }}){% endif %};
{%- endfor %}
    return fold(_mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3)));
}
