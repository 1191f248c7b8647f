// Walks the tiles of a GEMM: token tiles outside, so that a tile's activations stay in L1d while the block of
// weights streams from L2; single rows and smaller token tiles at the edges.
typedef void tile_fn(const uint8_t *restrict, const int8_t *restrict, const int32_t *restrict, size_t,
                     int32_t *restrict, size_t);

{% if tables is defined %}static void tiles{% else %}void sterna_i2s_gemm__{{ isa }}{% endif %}(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                               size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    static tile_fn *const whole[] = { {%- for t in range(start=1, end=nr + 1) %} tile_{{ mr }}x{{ t }}, {%- endfor %} };
    static tile_fn *const single[] = { {%- for t in range(start=1, end=nr + 1) %} tile_1x{{ t }}, {%- endfor %} };
    for (size_t t = 0; t < tokens; t += {{ nr }}) {
        const size_t n = tokens - t < {{ nr }} ? tokens - t : {{ nr }};
        size_t r = 0;
        for (; r + {{ mr }} <= rows; r += {{ mr }}) {
            whole[n - 1](w + r * (cols / 4), x + t * cols, x_sums + t, cols, y + t * y_stride + r, y_stride);
        }
        for (; r < rows; r++) {
            single[n - 1](w + r * (cols / 4), x + t * cols, x_sums + t, cols, y + t * y_stride + r, y_stride);
        }
    }
}
