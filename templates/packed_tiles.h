// The kernels over re-packed weights, from tile_1 to tile_{{ packed_tokens }}, of so many tokens each.
void sterna_packed_gemv__{{ isa }}(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                              int32_t *restrict y) {
    tile_1(w, x, &x_sum, rows, cols, y, rows);
}

{% if tables is defined %}static void by_tiles{% else %}void sterna_packed_gemm__{{ isa }}{% endif %}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                              size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    static void (*const tiles[])(const uint8_t *, const int8_t *, const int32_t *, size_t, size_t, int32_t *, size_t) = {
        {% for n in range(start=1, end=packed_tokens + 1) %}tile_{{ n }}{% if not loop.last %}, {% endif %}{% endfor %}};
    while (tokens) {
        // Parts of nearly the same size: {{ packed_tokens + 1 }} tokens are not {{ packed_tokens }} and 1{% if isa == "i8mm" %}. Only the last may be odd{% endif %}.
        const size_t parts = (tokens + {{ packed_tokens - 1 }}) / {{ packed_tokens }};
        {% if isa != "i8mm" %}const {% endif %}size_t n = (tokens + parts - 1) / parts;
{%- if isa == "i8mm" %}
        n += n % 2 && n < tokens && n < {{ packed_tokens }};
{%- endif %}
        tiles[n - 1](w, x, x_sums, rows, cols, y, y_stride);
        x += n * cols;
        x_sums += n;
        y += n * y_stride;
        tokens -= n;
    }
}
