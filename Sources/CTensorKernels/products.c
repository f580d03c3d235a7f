// Matrix products in float32: packed panels and a tile of C in registers (Goto and van de Geijn 2008).
//
// Each element of C is the sum over blocks of the reduction, in their order, of a chain of fused multiply-adds: its bits depend on
// its row of A, its column of B and the length of the reduction, not on where a tile begins or how large the matrices are.
#include "common.h"

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)

typedef float vector __attribute__((vector_size(32)));
typedef float unaligned_vector __attribute__((vector_size(32), aligned(4)));
enum { LANES = 8, TILE_ROWS = 6, TILE_VECTORS = 2, TILE_COLUMNS = TILE_VECTORS * LANES };
// A panel of B (18 KiB) and one of A (7 KiB) fit the first cache level, a block of A (162 KiB) the second, one of B (1.1 MiB) the third.
enum { DEPTH_BLOCK = 288, ROW_BLOCK = 144, COLUMN_BLOCK = 1024 };
#define UNROLLED _Pragma("clang loop unroll(full)")

RZ_INLINE vector load(const float *p) { return *(const unaligned_vector *)p; }
RZ_INLINE void store(float *p, vector x) { *(unaligned_vector *)p = x; }
RZ_INLINE vector all(float x) { return (vector){x, x, x, x, x, x, x, x}; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Eight rows of eight become columns.
RZ_INLINE void transpose(vector x[LANES]) {
    vector y[LANES];
    UNROLLED for (int i = 0; i < LANES; i += 2) {
        y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLLED for (int i = 0; i < LANES; i += 4)
        UNROLLED for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = __builtin_shufflevector(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            x[i + 2 * j + 1] = __builtin_shufflevector(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    UNROLLED for (int i = 0; i < 4; i++) {
        y[i] = __builtin_shufflevector(x[i], x[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        y[i + 4] = __builtin_shufflevector(x[i], x[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    UNROLLED for (int i = 0; i < LANES; i++) x[i] = y[i];
}

// `lines` (at most `width`) rows of A or columns of B as one panel, [depth][width] with zeros beyond `lines`. Writes up to two
// floats beyond the panel, which the next one overwrites.
RZ_INLINE void pack_panel(const int width, float *to, const float *from, int64_t lines, int64_t line_stride,
                          int64_t depth_stride, int64_t depth) {
    int64_t t = 0;
    if (lines == width && line_stride == 1) {
        for (; t < depth; t++) UNROLLED for (int i = 0; i < width; i++) to[t * width + i] = from[t * depth_stride + i];
        return;
    }
    if (lines == width && depth_stride == 1)
        for (; t + LANES <= depth; t += LANES)
            UNROLLED for (int group = 0; group < width; group += LANES) {
                const int count = width - group < LANES ? width - group : LANES;
                vector x[LANES];
                UNROLLED for (int i = 0; i < LANES; i++)
                    x[i] = i < count ? load(from + (group + i) * line_stride + t) : (vector){0};
                transpose(x);
                UNROLLED for (int i = 0; i < LANES; i++) store(to + (t + i) * width + group, x[i]);
            }
    for (; t < depth; t++)
        for (int64_t i = 0; i < width; i++)
            to[t * width + i] = i < lines ? from[i * line_stride + t * depth_stride] : 0;
}

// All panels of a block. Where lines lie side by side in memory, a few of them at a time for all panels: a cache line of theirs
// may belong to several.
RZ_INLINE void pack(const int width, float *to, const float *from, int64_t lines, int64_t line_stride, int64_t depth_stride,
                    int64_t depth) {
    const int64_t step = line_stride == 1 ? LANES : depth;
    for (int64_t t = 0; t < depth; t += step)
        for (int64_t i = 0; i < lines; i += width)
            pack_panel(width, to + i * depth + t * width, from + i * line_stride + t * depth_stride, smaller(width, lines - i),
                       line_stride, depth_stride, smaller(step, depth - t));
}

// c (6 rows of 16) = a b, or added to what is there, for packed panels.
static void multiply_tile(const float *a, const float *b, int64_t depth, float *c, int64_t row_stride, int accumulate) {
    vector sum[TILE_ROWS][TILE_VECTORS];
    UNROLLED for (int r = 0; r < TILE_ROWS; r++)
        UNROLLED for (int v = 0; v < TILE_VECTORS; v++) {
            sum[r][v] = (vector){0};
            __builtin_prefetch(c + r * row_stride + v * LANES);
        }
    _Pragma("clang loop unroll_count(4)")
    for (int64_t t = 0; t < depth; t++, a += TILE_ROWS, b += TILE_COLUMNS) {
        const vector left = load(b), right = load(b + LANES);
        UNROLLED for (int r = 0; r < TILE_ROWS; r++) {
            const vector x = all(a[r]);
            sum[r][0] = x * left + sum[r][0];
            sum[r][1] = x * right + sum[r][1];
        }
    }
    UNROLLED for (int r = 0; r < TILE_ROWS; r++)
        UNROLLED for (int v = 0; v < TILE_VECTORS; v++) {
            float *place = c + r * row_stride + v * LANES;
            store(place, accumulate ? load(place) + sum[r][v] : sum[r][v]);
        }
}

// The same where the tile reaches over the edge of C.
static void multiply_edge(const float *a, const float *b, int64_t depth, int64_t rows, int64_t columns, float *c,
                          int64_t row_stride, int accumulate) {
    float tile[TILE_ROWS * TILE_COLUMNS];
    multiply_tile(a, b, depth, tile, TILE_COLUMNS, 0);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < columns; i++) {
            float *place = c + r * row_stride + i;
            *place = accumulate ? *place + tile[r * TILE_COLUMNS + i] : tile[r * TILE_COLUMNS + i];
        }
}

// With AVX-512 OpenBLAS's kernels use vectors twice as wide as these.
int rz_has_products(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !__builtin_cpu_supports("avx512f");
}

static int64_t padded(int64_t count, int64_t limit, int64_t tile) { return (smaller(count, limit) + tile - 1) / tile * tile; }

// One vector more, since packing writes a little beyond the last panel.
int64_t rz_product_scratch(int64_t m, int64_t n, int64_t k) {
    int64_t lines = padded(m, ROW_BLOCK, TILE_ROWS) + padded(n, COLUMN_BLOCK, TILE_COLUMNS);
    return (int64_t)sizeof(float) * (padded(k, DEPTH_BLOCK, LANES) * lines + LANES);
}

void rz_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_depth, const float *b,
                int64_t b_depth, int64_t b_column, float *c, int64_t c_row, int accumulate, void *scratch) {
    // Blocks of even depth: a small rest would read and write all of C for little.
    const int64_t blocks = (k + DEPTH_BLOCK - 1) / DEPTH_BLOCK, depth_block = padded((k + blocks - 1) / blocks, DEPTH_BLOCK, LANES);
    float *packed_b = scratch, *packed_a = packed_b + depth_block * padded(n, COLUMN_BLOCK, TILE_COLUMNS);
    for (int64_t j = 0; j < n; j += COLUMN_BLOCK) {
        const int64_t columns = smaller(COLUMN_BLOCK, n - j);
        for (int64_t t = 0; t < k; t += depth_block) {
            const int64_t depth = smaller(depth_block, k - t);
            const int add = accumulate || t > 0;
            pack(TILE_COLUMNS, packed_b, b + t * b_depth + j * b_column, columns, b_column, b_depth, depth);
            for (int64_t i = 0; i < m; i += ROW_BLOCK) {
                const int64_t rows = smaller(ROW_BLOCK, m - i);
                pack(TILE_ROWS, packed_a, a + i * a_row + t * a_depth, rows, a_row, a_depth, depth);
                for (int64_t jj = 0; jj < columns; jj += TILE_COLUMNS)
                    for (int64_t ii = 0; ii < rows; ii += TILE_ROWS) {
                        const float *panel_a = packed_a + ii * depth, *panel_b = packed_b + jj * depth;
                        float *place = c + (i + ii) * c_row + j + jj;
                        if (rows - ii >= TILE_ROWS && columns - jj >= TILE_COLUMNS)
                            multiply_tile(panel_a, panel_b, depth, place, c_row, add);
                        else
                            multiply_edge(panel_a, panel_b, depth, smaller(TILE_ROWS, rows - ii),
                                          smaller(TILE_COLUMNS, columns - jj), place, c_row, add);
                    }
            }
        }
    }
}
#pragma clang attribute pop
#else
int rz_has_products(void) { return 0; }
int64_t rz_product_scratch(int64_t m, int64_t n, int64_t k) { return 0 * (m + n + k); }
void rz_product(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_depth, const float *b,
                int64_t b_depth, int64_t b_column, float *c, int64_t c_row, int accumulate, void *scratch) {
    (void)m, (void)n, (void)k, (void)a, (void)a_row, (void)a_depth, (void)b, (void)b_depth, (void)b_column, (void)c;
    (void)c_row, (void)accumulate, (void)scratch;
}
#endif
