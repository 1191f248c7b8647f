// y[r] = sum over i < n of code(r, columns[i]) * x[i] - x_sum, from `tile`, which adds the products of some columns to the tile_sums of a
// tile, and `finish`, which makes results of those.
//
// The columns that follow are fetched whole, not a line here and there: memory is read by leaps, and what it reaches is less than half
// of what one stream does.

static inline void fetch(const uint8_t *column, size_t tiles) {
    for (size_t b = 0; b < tiles; b++)
        __builtin_prefetch(column + 64 * b, 0, 2);
}

// At most TILES tiles.
static void part(const uint8_t *w, size_t stride, const int32_t *columns, const int8_t *x, size_t n, int32_t x_sum, size_t tiles,
                 int32_t *y) {
    _Alignas(64) tile_sums sums[TILES];
    __builtin_memset(sums, 0, tiles * sizeof *sums);
    // As many bytes ahead, however many tiles a column has here.
    const size_t ahead = GROUP * TILES / tiles;
    for (size_t i = 0; i < ahead && i < n; i++)
        fetch(w + (size_t)columns[i] * stride, tiles);
    for (size_t g = 0; g < n; g += GROUP) {
        const size_t m = n - g < GROUP ? n - g : GROUP;
        for (size_t b = 0; b < tiles; b++) {
            for (size_t i = g + ahead + GROUP * b / tiles; i < g + ahead + GROUP * (b + 1) / tiles && i < n; i++)
                fetch(w + (size_t)columns[i] * stride, tiles);
            tile(w + 64 * b, stride, columns + g, x + g, m, sums[b]);
        }
    }
    for (size_t b = 0; b < tiles; b++)
        finish(sums[b], x_sum, y + {{ column_rows }} * b);
}

void sterna_packed_columns__{{ isa }}(const uint8_t *restrict w, size_t stride, const int32_t *restrict columns, const int8_t *restrict x,
                                      size_t n, int32_t x_sum, size_t tiles, int32_t *restrict y) {
    while (tiles) {
        const size_t t = tiles < TILES ? tiles : TILES;
        part(w, stride, columns, x, n, x_sum, t, y);
        w += 64 * t;
        y += {{ column_rows }} * t;
        tiles -= t;
    }
}
