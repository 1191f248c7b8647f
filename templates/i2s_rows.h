// Both kernels over I2_S and one vector, from `row`: the sum over c of code(c) * x[c] of one row. Unless `ahead` is NULL, it asks for the lines from
// there on as it reads those from `w` on. Prefetches beyond a matrix are harmless: they never fault.
static inline int32_t row(const uint8_t *w, const uint8_t *ahead, const int8_t *x, size_t blocks);

// One row after the other: a thread reads its share of W as one linear stream, prefetched {{ prefetch_bytes }} bytes ahead. Two rows
// at once would share the loads of x, but are two streams, and half as fast from memory (measured with AVX-512).
void sterna_i2s_gemv__{{ isa }}(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols,
                           int32_t *restrict y) {
    for (size_t r = 0; r < rows; r++, w += cols / 4)
        y[r] = row(w, {% if prefetch_bytes %}w + {{ prefetch_bytes }}{% else %}NULL{% endif %}, x, cols / 128) - x_sum;
}

// y[r] = 0 where gate[r] <= 0, and as above elsewhere: rows under a closed gate are not read.
//
// Memory is read by leaps, which the hardware does not foresee: each row asks for the one AHEAD of it in the list. The first ones of a list are
// waited for. Measured with AVX2 on Zen 3, rows of 640 bytes, 70 % closed, as parts of the time that the re-packed matrix takes: 0.73 with 2 ahead
// and 0.88 with 1; 3 to 6 as 2.
void sterna_i2s_gated__{{ isa }}(const uint8_t *restrict w, const float *restrict gate, const int8_t *restrict x, int32_t x_sum, size_t rows,
                            size_t cols, int32_t *restrict y) {
    enum { CHUNK = 2048, AHEAD = 2 };
    int32_t open[CHUNK + AHEAD];
    for (size_t first = 0; first < rows; first += CHUNK, w += CHUNK * (cols / 4)) {
        const size_t m = rows - first < CHUNK ? rows - first : CHUNK;
        size_t n = 0;
        for (size_t r = 0; r < m; r++) {
            y[first + r] = 0;
            open[n] = (int32_t)r;
            // What is not a number is open: it stays one.
            n += !(gate[first + r] <= 0);
        }
        // Behind the last row that one again: it costs no memory.
        for (size_t i = 0; i < AHEAD; i++)
            open[n + i] = n ? open[n - 1] : 0;
        for (size_t i = 0; i < n; i++)
            y[first + open[i]] = row(w + open[i] * (cols / 4), w + open[i + AHEAD] * (cols / 4), x, cols / 128) - x_sum;
    }
}
