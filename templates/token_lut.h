// Token tables: a product of a row with 32 tokens, four weights at a time, is an addition of 64 bytes from a table.
//
// Four weights take 81 values. For four columns, the 81 sums of their activations with every choice of signs, for 32
// tokens as i16, are a table of 81 x 64 bytes: adding an entry adds 128 products. The four fields of a byte of I2_S are such
// a group (columns p, 32 + p, 64 + p, 96 + p), so a byte becomes the number of its entry:
//
//   byte w0 w32 w64 w96   ->   27 w0 + 9 w32 + 3 w64 + w96   u8, once a call
//
// {{ tables }} tables at a time lie in L1d or near it while all rows pass: numbers in, sums of 32 tokens in and out. An entry is a
// cache line. A table costs as much to build as the additions of about 110 rows, and numbers as much as those of 7 tokens, so
// calls want many rows and tokens; but no more rows than leave room in L2 for the tables beside their numbers and sums.
// Overflow: an entry is at most 4 * 127; the sums of the 32 groups of two blocks are then added to i32. Code 3 has no entry, and
// -128, which no quantiser gives, no room: where one occurs, no sum of tables is used.
#include <assert.h>
#include <string.h>

enum { GROUPS = 32, SPAN = 2, TABLES = {{ tables }}, ENTRIES = 81, TILE = 32, LUT_ROWS = {{ gemm_rows }}, LUT_TOKENS = 128 };

{%- if packed %}

// The 32 bytes of block b of 8 rows from r on: lanes of the 8 chunks of the block in turn, {{ packing_rows }} rows each.
static inline __attribute__((always_inline)) void load_rows(const uint8_t *restrict w, size_t row_bytes, size_t rows, size_t r, size_t b,
                                                            __m256i *restrict v) {
    (void)rows;
    const uint8_t *block = w + r / {{ packing_rows }} * {{ packing_rows }} * row_bytes + b * {{ packing_rows * 32 }} + r % {{ packing_rows }} * 4;
{%- for i in range(end=8) %}
    const __m256i a{{ i }} = _mm256_loadu_si256((const __m256i *)(block + {{ i * packing_rows * 4 }}));
{%- endfor %}
{%- for i in range(start=0, end=8, step_by=2) %}
    const __m256i b{{ i }} = _mm256_unpacklo_epi32(a{{ i }}, a{{ i + 1 }}), b{{ i + 1 }} = _mm256_unpackhi_epi32(a{{ i }}, a{{ i + 1 }});
{%- endfor %}
{%- for i in [0, 1, 4, 5] %}
    const __m256i c{{ i }} = _mm256_unpacklo_epi64(b{{ i }}, b{{ i + 2 }}), d{{ i }} = _mm256_unpackhi_epi64(b{{ i }}, b{{ i + 2 }});
{%- endfor %}
{%- for i in range(end=2) %}
    v[{{ 2 * i }}] = _mm256_permute2x128_si256(c{{ i }}, c{{ i + 4 }}, 0x20);
    v[{{ 2 * i + 1 }}] = _mm256_permute2x128_si256(d{{ i }}, d{{ i + 4 }}, 0x20);
    v[{{ 2 * i + 4 }}] = _mm256_permute2x128_si256(c{{ i }}, c{{ i + 4 }}, 0x31);
    v[{{ 2 * i + 5 }}] = _mm256_permute2x128_si256(d{{ i }}, d{{ i + 4 }}, 0x31);
{%- endfor %}
}
{%- else %}

// The 32 bytes of block b of 8 rows from r on; what stands for rows beyond the last does not matter.
static inline __attribute__((always_inline)) void load_rows(const uint8_t *restrict w, size_t row_bytes, size_t rows, size_t r, size_t b,
                                                            __m256i *restrict v) {
{%- for i in range(end=8) %}
    v[{{ i }}] = _mm256_loadu_si256((const __m256i *)(w + (r + {{ i }} < rows ? r + {{ i }} : r) * row_bytes + b * 32));
{%- endfor %}
}
{%- endif %}

// Table entries of block b, 128 weights, of every row; true if some code is 3. codes (GROUPS / TABLES, padded, TABLES)
static int recode(const uint8_t *restrict w, size_t row_bytes, size_t rows, size_t b, size_t padded, uint8_t *restrict codes) {
    // Of two codes, what they add to the entry's number; bit 7 if one of them is 3.
    const __m256i high = _mm256_setr_epi8({% for half in [0, 1] %}0, 9, 18, -1, 27, 36, 45, -1, 54, 63, 72, -1, -1, -1, -1, -1{% if not loop.last %}, {% endif %}{% endfor %});
    const __m256i low = _mm256_setr_epi8({% for half in [0, 1] %}0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, -1, -1, -1, -1{% if not loop.last %}, {% endif %}{% endfor %});
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i invalid = _mm256_setzero_si256();
    for (size_t r = 0; r < padded; r += 8, codes += 8 * TABLES) {
        __m256i rows8[8];
        load_rows(w, row_bytes, rows, r, b, rows8);
        for (size_t i = 0; i < 8; i++) {
            const __m256i h = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(rows8[i], 4), nibble));
            const __m256i l = _mm256_shuffle_epi8(low, _mm256_and_si256(rows8[i], nibble)), e = _mm256_add_epi8(h, l);
            invalid = _mm256_or_si256(invalid, _mm256_or_si256(h, l));
            uint8_t *to = codes + i * TABLES;
{%- for part in ["_mm256_castsi256_si128(e)", "_mm256_extracti128_si256(e, 1)"] %}
            const __m128i e{{ loop.index0 }} = {{ part }};
            _mm_storel_epi64((__m128i *)(to + {{ loop.index0 * 16 }} / TABLES * padded * TABLES + {{ loop.index0 * 16 }} % TABLES), e{{ loop.index0 }});
            _mm_storeh_pi((__m64 *)(to + {{ loop.index0 * 16 + 8 }} / TABLES * padded * TABLES + {{ loop.index0 * 16 + 8 }} % TABLES), _mm_castsi128_ps(e{{ loop.index0 }}));
{%- endfor %}
        }
    }
    return _mm256_movemask_epi8(invalid) != 0;
}

// The 128 columns at x of n <= 16 tokens, as i16, into a half of xt (128, 32). Tokens beyond n are 0. True if -128 is among them.
static int transpose(const int8_t *restrict x, size_t cols, size_t n, int16_t *restrict xt) {
    __m128i least = _mm_setzero_si128();
    for (size_t c = 0; c < 128; c += 16) {
{%- for t in range(end=16) %}
        const __m128i a{{ t }} = {{ t }} < n ? _mm_loadu_si128((const __m128i *)(x + {{ t }} * cols + c)) : _mm_setzero_si128();
{%- endfor %}
{#- Four rounds of interleaving i with i + 8 turn 16 rows of 16 bytes. #}
{%- for round in [["a", "b"], ["b", "c"], ["c", "d"], ["d", "e"]] %}{% for i in range(end=8) %}
        const __m128i {{ round[1] }}{{ 2 * i }} = _mm_unpacklo_epi8({{ round[0] }}{{ i }}, {{ round[0] }}{{ i + 8 }}), {{ round[1] }}{{ 2 * i + 1 }} = _mm_unpackhi_epi8({{ round[0] }}{{ i }}, {{ round[0] }}{{ i + 8 }});
{%- endfor %}{% endfor %}
{%- for i in range(end=16) %}
        least = _mm_min_epi8(least, e{{ i }});
        _mm256_store_si256((__m256i *)(xt + (c + {{ i }}) * TILE), _mm256_cvtepi8_epi16(e{{ i }}));
{%- endfor %}
    }
    return _mm_movemask_epi8(_mm_cmpeq_epi8(least, _mm_set1_epi8(INT8_MIN))) != 0;
}

// All sums of +-x or 0 over the four columns of a group, for 16 tokens: a half of xt (128, 32), from the group's first column on, into a
// half of table (81, 32).
static void build(const int16_t *restrict xt, int16_t *restrict table) {
    const __m256i zero = _mm256_setzero_si256();
{%- for i in range(end=4) %}
    const __m256i x{{ i }} = _mm256_load_si256((const __m256i *)(xt + {{ 32 * i }} * TILE));
{%- endfor %}
{#- Index 3 i + j: weights i - 1 and j - 1. #}
{%- for pair in [["high", "x0", "x1"], ["low", "x2", "x3"]] %}
    const __m256i {{ pair[0] }}3 = _mm256_sub_epi16(zero, {{ pair[2] }}), {{ pair[0] }}4 = zero, {{ pair[0] }}5 = {{ pair[2] }}, {{ pair[0] }}7 = {{ pair[1] }}, {{ pair[0] }}1 = _mm256_sub_epi16(zero, {{ pair[1] }});
    const __m256i {{ pair[0] }}0 = _mm256_sub_epi16({{ pair[0] }}1, {{ pair[2] }}), {{ pair[0] }}2 = _mm256_add_epi16({{ pair[0] }}1, {{ pair[2] }});
    const __m256i {{ pair[0] }}6 = _mm256_sub_epi16({{ pair[1] }}, {{ pair[2] }}), {{ pair[0] }}8 = _mm256_add_epi16({{ pair[1] }}, {{ pair[2] }});
{%- endfor %}
{%- for i in range(end=9) %}{% for j in range(end=9) %}
    _mm256_store_si256((__m256i *)(table + {{ 9 * i + j }} * TILE), _mm256_add_epi16(high{{ i }}, low{{ j }}));
{%- endfor %}{% endfor %}
}

// Adds the entry at `at` + 8 * `eighth`.
{% if lanes == 16 -%}
#define ADD(at, eighth) a = _mm512_add_epi16(a, *(const __m512i *)((const char *)tables + at + 8 * (eighth)))
{%- else -%}
// Both halves of an entry, one right after the other: the cache reads a line's halves at once, but not the same half of two lines. Left to
// itself, gcc adds all first halves and then all second ones.
#define ADD(at, eighth) \
    __asm__("vpaddw " #at "(%2,%3,8), %0, %0\n\tvpaddw " #at "+32(%2,%3,8), %1, %1" \
            : "+x"(a0), "+x"(a1) : "r"(tables), "r"(eighth), "m"(*(const int16_t (*)[TABLES * ENTRIES * TILE])tables))
{%- endif %}

// acc (padded, 32) i16 += entries of {{ tables }} groups; with the first of a span acc starts at 0, with the last it goes into sum (padded, 32).
// Codes are loaded eight at a time, as loads are what limits.
static inline __attribute__((always_inline)) void add(const uint8_t *restrict codes, const int16_t *restrict tables, size_t padded,
                                                      int16_t *restrict acc, int32_t *restrict sum, int first, int last) {
    for (size_t r = 0; r < padded; r++, codes += TABLES, acc += TILE, sum += TILE) {
{%- if lanes == 16 %}
        __m512i a = first ? _mm512_setzero_si512() : _mm512_load_si512(acc);
{%- else %}
        __m256i a0 = _mm256_setzero_si256(), a1 = a0;
        if (!first) {
            a0 = _mm256_load_si256((const __m256i *)acc);
            a1 = _mm256_load_si256((const __m256i *)(acc + 16));
        }
{%- endif %}
        uint64_t eight;
{%- for k in range(end=tables) %}
{%- set shift = k % 8 * 8 - 3 %}
{%- if k % 8 == 0 %}
        __builtin_memcpy(&eight, codes + {{ k }}, 8);
{%- endif %}
        ADD({{ k * 81 * 64 }}, (eight {% if shift < 0 %}<< 3{% else %}>> {{ shift }}{% endif %}) & 0xff << 3);
{%- endfor %}
{%- if lanes == 16 %}
        if (last) {
            __m512i *s = (__m512i *)sum;
            s[0] = _mm512_add_epi32(s[0], _mm512_cvtepi16_epi32(_mm512_castsi512_si256(a)));
            s[1] = _mm512_add_epi32(s[1], _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(a, 1)));
        } else {
            _mm512_store_si512(acc, a);
        }
{%- else %}
        if (last) {
            __m256i *s = (__m256i *)sum;
            s[0] = _mm256_add_epi32(s[0], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(a0)));
            s[1] = _mm256_add_epi32(s[1], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(a0, 1)));
            s[2] = _mm256_add_epi32(s[2], _mm256_cvtepi16_epi32(_mm256_castsi256_si128(a1)));
            s[3] = _mm256_add_epi32(s[3], _mm256_cvtepi16_epi32(_mm256_extracti128_si256(a1, 1)));
        } else {
            _mm256_store_si256((__m256i *)acc, a0);
            _mm256_store_si256((__m256i *)(acc + 16), a1);
        }
{%- endif %}
    }
}

// y[t * y_stride + r] = sum (padded, 32)[r][t] for 8 rows and n <= 8 tokens.
static void turn(const int32_t *restrict sum, size_t n, int32_t *restrict y, size_t y_stride) {
{%- for i in range(end=4) %}
    // Rows {{ i }} and {{ i + 4 }}: tokens 0 .. 3 and 4 .. 7.
    const __m256i v{{ i }} = _mm256_load_si256((const __m256i *)(sum + {{ i }} * TILE)), u{{ i }} = _mm256_load_si256((const __m256i *)(sum + {{ i + 4 }} * TILE));
    const __m256i a{{ i }} = _mm256_permute2x128_si256(v{{ i }}, u{{ i }}, 0x20), b{{ i }} = _mm256_permute2x128_si256(v{{ i }}, u{{ i }}, 0x31);
{%- endfor %}
    __m256i row[8];
{%- for m in ["a", "b"] %}
    const __m256i {{ m }}01l = _mm256_unpacklo_epi32({{ m }}0, {{ m }}1), {{ m }}01h = _mm256_unpackhi_epi32({{ m }}0, {{ m }}1);
    const __m256i {{ m }}23l = _mm256_unpacklo_epi32({{ m }}2, {{ m }}3), {{ m }}23h = _mm256_unpackhi_epi32({{ m }}2, {{ m }}3);
    row[{{ loop.index0 * 4 }}] = _mm256_unpacklo_epi64({{ m }}01l, {{ m }}23l);
    row[{{ loop.index0 * 4 + 1 }}] = _mm256_unpackhi_epi64({{ m }}01l, {{ m }}23l);
    row[{{ loop.index0 * 4 + 2 }}] = _mm256_unpacklo_epi64({{ m }}01h, {{ m }}23h);
    row[{{ loop.index0 * 4 + 3 }}] = _mm256_unpackhi_epi64({{ m }}01h, {{ m }}23h);
{%- endfor %}
    for (size_t t = 0; t < n; t++) {
        _mm256_storeu_si256((__m256i *)(y + t * y_stride), row[t]);
    }
}

// False, and nothing written, if some code is 3, or some activation -128. rows <= LUT_ROWS, tokens <= LUT_TOKENS
static int token_lut(const uint8_t *restrict w, const int8_t *restrict x, size_t rows, size_t cols, size_t tokens,
                     int32_t *restrict y, size_t y_stride) {
    static_assert(TABLES % 8 == 0 && TABLES < GROUPS && GROUPS % TABLES == 0 && LUT_ROWS % 8 == 0 && LUT_TOKENS % TILE == 0, "shapes");
    static_assert(SPAN * GROUPS * 4 * 127 <= INT16_MAX, "sums of a span");
    _Alignas(64) uint8_t codes[SPAN * GROUPS * LUT_ROWS];
    _Alignas(64) int16_t tables[TABLES * ENTRIES * TILE], xt[128 * TILE], acc[LUT_ROWS * TILE];
    _Alignas(64) int32_t sums[LUT_TOKENS * LUT_ROWS];
    static_assert(sizeof codes + sizeof tables + sizeof xt + sizeof acc + sizeof sums < {{ stack_bytes }}, "half of a thread's stack");
    const size_t padded = (rows + 7) & ~(size_t)7; // what is computed for rows beyond the last is not read
    const size_t blocks = cols / 128;
    memset(sums, 0, (tokens + TILE - 1) / TILE * TILE * padded * sizeof *sums);
    for (size_t first = 0, end; first < blocks; first = end) {
        end = blocks - first < SPAN ? blocks : first + SPAN;
        for (size_t b = first; b < end; b++) {
            if (recode(w, cols / 4, rows, b, padded, codes + (b - first) * GROUPS * padded)) {
                return 0;
            }
        }
        for (size_t t = 0; t < tokens; t += TILE) {
            const uint8_t *c = codes;
            for (size_t b = first; b < end; b++) {
                for (size_t half = 0; half < TILE; half += 16) {
                    const size_t n = tokens > t + half ? tokens - t - half : 0;
                    if (transpose(x + (n ? t + half : 0) * cols + b * 128, cols, n < 16 ? n : 16, xt + half)) {
                        return 0;
                    }
                }
                for (size_t g = 0; g < GROUPS; g += TABLES, c += TABLES * padded) {
                    for (size_t k = 0; k < TABLES; k++) {
                        build(xt + (g + k) * TILE, tables + k * ENTRIES * TILE);
                        build(xt + (g + k) * TILE + 16, tables + k * ENTRIES * TILE + 16);
                    }
                    if (b == first && g == 0) {
                        add(c, tables, padded, acc, sums + t * padded, 1, 0);
                    } else if (b + 1 < end || g + TABLES < GROUPS) {
                        add(c, tables, padded, acc, sums + t * padded, 0, 0);
                    } else {
                        add(c, tables, padded, acc, sums + t * padded, 0, 1);
                    }
                }
            }
        }
    }
    for (size_t t = 0; t < tokens; t += 8) {
        const int32_t *s = sums + t / TILE * TILE * padded + t % TILE;
        const size_t n = tokens - t < 8 ? tokens - t : 8;
        size_t r = 0;
        for (; r + 8 <= rows; r += 8) {
            turn(s + r * TILE, n, y + t * y_stride + r, y_stride);
        }
        for (; r < rows; r++) {
            for (size_t i = 0; i < n; i++) {
                y[(t + i) * y_stride + r] = s[r * TILE + i];
            }
        }
    }
    return 1;
}

// A GEMM of any shape: by tables where they pay, and by `tiles` where not.
static inline void by_tables(void tiles(const uint8_t *, const int8_t *, const int32_t *, size_t, size_t, size_t, int32_t *, size_t),
                             const uint8_t *restrict w, const int8_t *restrict x, const int32_t *restrict x_sums,
                             size_t rows, size_t cols, size_t tokens, int32_t *restrict y, size_t y_stride) {
    // Tables pay from about 220 rows on (measured on Zen 4), and for a tile of tokens when {{ table_tokens }} of them are there.
    const size_t rest = tokens % TILE, whole = rest < {{ table_tokens }} ? tokens - rest : tokens;
    for (size_t r = 0; r < rows; r += LUT_ROWS, w += LUT_ROWS * (cols / 4), y += LUT_ROWS) {
        const size_t m = rows - r < LUT_ROWS ? rows - r : LUT_ROWS, tabled = m < 224 ? 0 : whole;
        for (size_t t = 0, n; t < tokens; t += n) {
            n = t < tabled ? (tabled - t < LUT_TOKENS ? tabled - t : LUT_TOKENS) : tokens - t;
            if (t >= tabled || !token_lut(w, x + t * cols, m, cols, n, y + t * y_stride, y_stride)) {
                tiles(w, x + t * cols, x_sums + t, m, cols, n, y + t * y_stride, y_stride);
            }
        }
    }
}
