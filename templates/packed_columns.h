// y[r] = sum over i < n of code(r, columns[i]) * x[i] - x_sum, from `tile`, which adds the products of some columns to the tile_sums of a
// tile, and `finish`, which makes results of those. What comes before this has `tile_sums`, and in TILES and GROUP the tiles whose sums are
// kept together, and the columns that each of them works off at a time.

// A walk through the lines of the columns to come, each of them whole: memory is read by leaps as it is.
struct ahead {
    const uint8_t *line, *end;
    const int32_t *column, *last;
    const uint8_t *w;
    size_t stride, bytes;
};

static inline void begin_column(struct ahead *a) {
    a->line = a->w + (size_t)*a->column * a->stride;
    a->end = a->line + a->bytes;
}

// Asks for the next line. A tile does so once for each column that it works off, so that the walk keeps its distance: Zen 3 drops what is asked
// for faster than memory gives it. Measured there, 2560 rows, 70 and 80 % zeros: 145 and 100 us, and with as many lines between two
// tiles instead of within them 330 and 213; 24 columns ahead instead of 64, 199 and 141.
static inline void fetch_line(struct ahead *a) {
    __builtin_prefetch(a->line);
    a->line += 64;
    if (a->line == a->end) {
        // Behind the last column that one again: it costs no memory.
        a->column += a->column < a->last;
        begin_column(a);
    }
}

// sums += one tile of columns[0 .. n], n <= GROUP.
static void tile(const uint8_t *w, size_t stride, const int32_t *columns, const int8_t *x, size_t n, tile_sums sums, struct ahead *ahead);

// The sums of a tile less x_sum, in the order of its rows.
static void finish(const tile_sums sums, int32_t x_sum, int32_t *y);

// At most TILES tiles.
static void part(const uint8_t *w, size_t stride, const int32_t *columns, const int8_t *x, size_t n, int32_t x_sum, size_t tiles,
                 int32_t *y) {
    _Alignas(64) tile_sums sums[TILES];
    __builtin_memset(sums, 0, tiles * sizeof *sums);
    if (n > 0) {
        // As many bytes ahead, however many tiles a column has here.
        const size_t distance = GROUP * TILES / tiles;
        const int32_t *last = columns + n - 1, *first = distance < n ? columns + distance : last;
        struct ahead ahead = {.column = first, .last = last, .w = w, .stride = stride, .bytes = 64 * tiles};
        begin_column(&ahead);
        for (size_t g = 0; g < n; g += GROUP) {
            const size_t m = n - g < GROUP ? n - g : GROUP;
            for (size_t b = 0; b < tiles; b++)
                tile(w + 64 * b, stride, columns + g, x + g, m, sums[b], &ahead);
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
