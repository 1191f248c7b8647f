// y[t * y_stride + r] = sum over c of code(r, c) * x[t][c] - x_sums[t]: prefill over I2_S, portable.
//
// Layout and overflow as in i2s_gemv_portable.c. A block of a row is decoded once for all tokens of a tile.
// Rendered from templates/i2s_gemm_portable.c for baseline: edit the template, not this.
#include <stddef.h>
#include <stdint.h>

void sterna_i2s_gemm__baseline(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums, size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride);


void sterna_i2s_gemm__baseline(const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                               size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    for (size_t t0 = 0; t0 < tokens; t0 += 4) {
        const size_t n = tokens - t0 < 4 ? tokens - t0 : 4;
        for (size_t r = 0; r < rows; r++) {
            int32_t sum[4] = {0};
            for (size_t b = 0; b < cols / 128; b++) {
                const uint8_t *wb = w + r * (cols / 4) + b * 32;
                int8_t code[128];
                for (int p = 0; p < 32; p++) {
                    code[p] = (int8_t)(wb[p] >> 6);
                    code[32 + p] = (int8_t)(wb[p] >> 4 & 3);
                    code[64 + p] = (int8_t)(wb[p] >> 2 & 3);
                    code[96 + p] = (int8_t)(wb[p] & 3);
                }
                for (size_t t = 0; t < n; t++) {
                    const int8_t *xb = x + (t0 + t) * cols + b * 128;
                    int32_t s = 0;
                    for (int p = 0; p < 128; p++) {
                        s += code[p] * xb[p];
                    }
                    sum[t] += s;
                }
            }
            for (size_t t = 0; t < n; t++) {
                y[(t0 + t) * y_stride + r] = sum[t] - x_sums[t0 + t];
            }
        }
    }
}
