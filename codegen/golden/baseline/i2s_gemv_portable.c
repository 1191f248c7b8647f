// y[r] = sum over c of code(r, c) * x[c] - x_sum: decode over I2_S, portable.
//
// W (rows, cols) as mapped: a row is cols / 128 blocks of 32 bytes; byte p of a block holds weights p, 32 + p,
// 64 + p, 96 + p at shifts 6, 4, 2, 0 as codes 0, 1, 2 (-1, 0, +1). Since dot(w, x) = dot(w + 1, x) - sum(x),
// codes are multiplied as they are. cols % 128 == 0.
// Overflow: products are below 2^9 and sums are i32; the renderer bounds cols.
// Rendered from templates/i2s_gemv_portable.c for baseline: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemv__baseline(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows, size_t cols, int32_t *restrict y);


void sterna_i2s_gemv__baseline(const uint8_t *restrict w, const int8_t *restrict x, int32_t x_sum, size_t rows,
                               size_t cols, int32_t *restrict y) {
    for (size_t r = 0; r < rows; r++) {
        int32_t sum = 0;
        const int8_t *xb = x;
        for (size_t b = 0; b < cols / 128; b++, w += 32, xb += 128) {
            for (int p = 0; p < 32; p++) {
                sum += (w[p] >> 6) * xb[p] + (w[p] >> 4 & 3) * xb[32 + p] + (w[p] >> 2 & 3) * xb[64 + p] +
                       (w[p] & 3) * xb[96 + p];
            }
        }
        y[r] = sum - x_sum;
    }
}
