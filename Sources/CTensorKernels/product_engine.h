// Matrix products of float32, bfloat16 and float16 with float32 sums: packed panels and a tile of C in registers (Goto and van de
// Geijn 2008). Half precision is widened as it is packed. Included by a file for each instruction set, which says PRODUCT_LANES, the
// floats of its vectors, and PRODUCT_ROWS, the rows of a tile, and gives the functions their attribute.
//
// Each element of C is the sum over blocks of the reduction, in their order, of a chain of fused multiply-adds, rounded to the type
// of C once: its bits depend on its row of A, its column of B and the length of the reduction, not on where a tile begins, how large
// the matrices are, or which instruction set multiplies.
typedef float vector __attribute__((vector_size(32)));
typedef float unaligned_vector __attribute__((vector_size(32), aligned(4)));
typedef uint32_t words __attribute__((vector_size(32)));
typedef uint16_t unaligned_halves __attribute__((vector_size(16), aligned(2)));
typedef _Float16 unaligned_float16s __attribute__((vector_size(16), aligned(2)));
// What multiplies; packing takes vectors of LANES whatever the set.
typedef float wide_vector __attribute__((vector_size(4 * PRODUCT_LANES)));
typedef float unaligned_wide_vector __attribute__((vector_size(4 * PRODUCT_LANES), aligned(4)));
enum { LANES = 8, TILE_ROWS = PRODUCT_ROWS, TILE_VECTORS = 2, TILE_COLUMNS = TILE_VECTORS * PRODUCT_LANES };
// AVX2: a panel of B (18 KiB) and one of A (7 KiB) fit the first cache level; AVX-512: those of 36 and 14 KiB fit one of 48 KiB. A block of
// A (162 KiB) fits the second, one of B (1.1 MiB) the third.
enum { DEPTH_BLOCK = 288, ROW_BLOCK = 144, COLUMN_BLOCK = 1024 };
#define UNROLLED _Pragma("clang loop unroll(full)")

RZ_INLINE vector load(const float *p) { return *(const unaligned_vector *)p; }
RZ_INLINE void store(float *p, vector x) { *(unaligned_vector *)p = x; }
RZ_INLINE void store_half(float *p, vector x) { memcpy(p, &x, sizeof x / 2); }
RZ_INLINE wide_vector load_wide(const float *p) { return *(const unaligned_wide_vector *)p; }
RZ_INLINE void store_wide(float *p, wide_vector x) { *(unaligned_wide_vector *)p = x; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// MARK: Elements of the three types; `type` is a constant wherever these are inlined

RZ_INLINE const void *place(const int type, const void *from, int64_t i) {
    return (const char *)from + i * (type == RZ_F32 ? 4 : 2);
}

RZ_INLINE float element(const int type, const void *from, int64_t i) {
    from = place(type, from, i);
    if (type == RZ_BF16) return rz_bf16_to_f32(*(const uint16_t *)from);
    if (type == RZ_F16) return rz_f16_to_f32(*(const uint16_t *)from);
    return *(const float *)from;
}

RZ_INLINE vector elements(const int type, const void *from, int64_t i) {
    from = place(type, from, i);
    if (type == RZ_BF16) return (vector)(__builtin_convertvector(*(const unaligned_halves *)from, words) << 16);
    if (type == RZ_F16) return __builtin_convertvector(*(const unaligned_float16s *)from, vector);
    return load(from);
}

RZ_INLINE void put(const int type, void *to, int64_t i, float x) {
    if (type == RZ_BF16) ((uint16_t *)to)[i] = rz_f32_to_bf16(x);
    else if (type == RZ_F16) ((uint16_t *)to)[i] = rz_f32_to_f16(x);
    else ((float *)to)[i] = x;
}

// MARK: Packing

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
RZ_INLINE void pack_panel(const int type, const int width, float *to, const void *from, int64_t lines, int64_t line_stride,
                          int64_t depth_stride, int64_t depth) {
    int64_t t = 0;
    if (lines == width && line_stride == 1) {
        for (; t < depth; t++) {
            // All are read before one is written, or each is moved by itself: the compiler cannot know that the two do not overlap.
            float x[TILE_COLUMNS];
            UNROLLED for (int i = 0; i < width; i++) x[i] = element(type, from, t * depth_stride + i);
            UNROLLED for (int i = 0; i < width; i++) to[t * width + i] = x[i];
        }
        return;
    }
    if (lines == width && depth_stride == 1)
        for (; t + LANES <= depth; t += LANES)
            UNROLLED for (int group = 0; group < width; group += LANES) {
                const int count = width - group < LANES ? width - group : LANES;
                vector x[LANES];
                UNROLLED for (int i = 0; i < LANES; i++)
                    x[i] = i < count ? elements(type, from, (group + i) * line_stride + t) : (vector){0};
                transpose(x);
                UNROLLED for (int i = 0; i < LANES; i++) {
                    float *place = to + (t + i) * width + group;
                    if (count == LANES / 2) store_half(place, x[i]);
                    else store(place, x[i]);
                }
            }
    for (; t < depth; t++)
        for (int64_t i = 0; i < width; i++)
            to[t * width + i] = i < lines ? element(type, from, i * line_stride + t * depth_stride) : 0;
}

// All panels of a block. Where lines lie side by side in memory, a few of them at a time for all panels: a cache line of theirs
// may belong to several.
RZ_INLINE void pack_type(const int type, const int width, float *to, const rz_factor *x, int64_t first, int64_t lines,
                         int64_t start, int64_t depth) {
    const void *from = place(type, x->address, first * x->line_stride + start * x->depth_stride);
    const int64_t step = x->line_stride == 1 ? LANES : depth;
    for (int64_t t = 0; t < depth; t += step)
        for (int64_t i = 0; i < lines; i += width)
            pack_panel(type, width, to + i * depth + t * width,
                       place(type, from, i * x->line_stride + t * x->depth_stride), smaller(width, lines - i),
                       x->line_stride, x->depth_stride, smaller(step, depth - t));
}

// `lines` lines of a factor from `first` on, from `start` along them.
RZ_INLINE void pack(int type, const int width, float *to, const rz_factor *x, int64_t first, int64_t lines, int64_t start,
                    int64_t depth) {
    if (type == RZ_F32) pack_type(RZ_F32, width, to, x, first, lines, start, depth);
    else if (type == RZ_BF16) pack_type(RZ_BF16, width, to, x, first, lines, start, depth);
    else pack_type(RZ_F16, width, to, x, first, lines, start, depth);
}

// MARK: Fetching

// Cache lines of a panel that is to be packed soon, which are fetched a few at a time while others are multiplied.
typedef struct {
    const char *address;
    int64_t pitch, width, rows; // of the memory they lie in, in bytes
    int64_t row, column;        // the next one
} fetching;

static fetching fetching_panel(int type, const rz_factor *x, int64_t first, int64_t lines, int64_t start, int64_t depth) {
    const int64_t bytes = type == RZ_F32 ? 4 : 2;
    fetching f = {0};
    if (lines == 0) return f;
    f.address = place(type, x->address, first * x->line_stride + start * x->depth_stride);
    if (x->line_stride == 1) f.pitch = bytes * x->depth_stride, f.width = bytes * lines, f.rows = depth;
    else f.pitch = bytes * x->line_stride, f.width = bytes * depth, f.rows = lines;
    return f;
}

static void fetch_some(fetching *f) {
    // A whole panel of B before three quarters of a block of A are done.
    enum { CACHE_LINE = 64, PANEL_LINES = DEPTH_BLOCK * TILE_COLUMNS * 4 / CACHE_LINE };
    enum { AT_ONCE = PANEL_LINES / (ROW_BLOCK / TILE_ROWS * 3 / 4) };
    for (int i = 0; i < AT_ONCE && f->row < f->rows; i++) {
        __builtin_prefetch(f->address + f->row * f->pitch + f->column, 0, 2);
        f->column += CACHE_LINE;
        if (f->column >= f->width) f->column = 0, f->row++;
    }
}

// MARK: Multiplying

// c (a tile) = a b, or added to what is there, for packed panels.
static void multiply_tile(const float *a, const float *b, int64_t depth, float *c, int64_t row_stride, int accumulate) {
    wide_vector sum[TILE_ROWS][TILE_VECTORS];
    UNROLLED for (int r = 0; r < TILE_ROWS; r++)
        UNROLLED for (int v = 0; v < TILE_VECTORS; v++) {
            sum[r][v] = (wide_vector){0};
            __builtin_prefetch(c + r * row_stride + v * PRODUCT_LANES);
        }
    _Pragma("clang loop unroll_count(4)")
    for (int64_t t = 0; t < depth; t++, a += TILE_ROWS, b += TILE_COLUMNS) {
        const wide_vector left = load_wide(b), right = load_wide(b + PRODUCT_LANES);
        UNROLLED for (int r = 0; r < TILE_ROWS; r++) {
            const wide_vector x = a[r] - (wide_vector){0};
            sum[r][0] = x * left + sum[r][0];
            sum[r][1] = x * right + sum[r][1];
        }
    }
    UNROLLED for (int r = 0; r < TILE_ROWS; r++)
        UNROLLED for (int v = 0; v < TILE_VECTORS; v++) {
            float *place = c + r * row_stride + v * PRODUCT_LANES;
            store_wide(place, accumulate ? load_wide(place) + sum[r][v] : sum[r][v]);
        }
}

// Where the sums of a block of the reduction go.
typedef struct {
    int type;
    void *c;
    int64_t c_row;
    // Sums of the blocks so far, which C cannot hold unrounded. Unused where C is float32 or there is one block.
    float *sums;
    int64_t sums_row;
    int is_first, is_last, accumulate;
} target;

RZ_INLINE void settle(const int type, const target *to, const float *tile, int64_t row, int64_t column, const int64_t rows,
                      const int64_t columns) {
    for (int64_t r = 0; r < rows; r++) {
        const int64_t c = (row + r) * to->c_row + column;
        float *sums = to->sums + (row + r) * to->sums_row + column, x[TILE_COLUMNS];
        for (int64_t i = 0; i < columns; i++) x[i] = tile[r * TILE_COLUMNS + i];
        if (!to->is_first && type != RZ_F32)
            for (int64_t i = 0; i < columns; i++) x[i] = sums[i] + x[i];
        else if (!to->is_first || to->accumulate)
            for (int64_t i = 0; i < columns; i++) x[i] = element(type, to->c, c + i) + x[i];
        if (to->is_last || type == RZ_F32)
            for (int64_t i = 0; i < columns; i++) put(type, to->c, c + i, x[i]);
        else
            for (int64_t i = 0; i < columns; i++) sums[i] = x[i];
    }
}

RZ_INLINE void settle_type(const target *to, const float *tile, int64_t row, int64_t column, const int64_t rows,
                           const int64_t columns) {
    if (to->type == RZ_F32) settle(RZ_F32, to, tile, row, column, rows, columns);
    else if (to->type == RZ_BF16) settle(RZ_BF16, to, tile, row, column, rows, columns);
    else settle(RZ_F16, to, tile, row, column, rows, columns);
}

// A tile of C from packed panels, `rows` and `columns` of it.
static void multiply(const float *a, const float *b, int64_t depth, const target *to, int64_t row, int64_t column, int64_t rows,
                     int64_t columns) {
    const int whole = rows == TILE_ROWS && columns == TILE_COLUMNS;
    if (whole && to->type == RZ_F32) {
        float *c = (float *)to->c + row * to->c_row + column;
        multiply_tile(a, b, depth, c, to->c_row, to->accumulate || !to->is_first);
        return;
    }
    float tile[TILE_ROWS * TILE_COLUMNS];
    multiply_tile(a, b, depth, tile, TILE_COLUMNS, 0);
    // Extents that the compiler knows become vector code.
    if (whole) settle_type(to, tile, row, column, TILE_ROWS, TILE_COLUMNS);
    else settle_type(to, tile, row, column, rows, columns);
}

static int64_t padded(int64_t count, int64_t limit, int64_t tile) { return (smaller(count, limit) + tile - 1) / tile * tile; }

// Blocks of even depth: a small rest would read and write all of C for little.
static int64_t depth_block(int64_t depth) {
    const int64_t blocks = (depth + DEPTH_BLOCK - 1) / DEPTH_BLOCK;
    return blocks == 0 ? 0 : padded((depth + blocks - 1) / blocks, DEPTH_BLOCK, LANES);
}

// Floats of the sums that C cannot hold.
static int64_t sums_size(int64_t m, int64_t n, int64_t k, int type) {
    return type == RZ_F32 || k <= DEPTH_BLOCK ? 0 : m * smaller(n, COLUMN_BLOCK);
}

// One vector more, since packing writes a little beyond the last panel.
static int64_t scratch_size(int64_t m, int64_t n, int64_t k, int type) {
    const int64_t lines = padded(m, ROW_BLOCK, TILE_ROWS) + padded(n, COLUMN_BLOCK, TILE_COLUMNS);
    return (int64_t)sizeof(float) * (depth_block(k) * lines + LANES + sums_size(m, n, k, type));
}

static void product(int factor_type, rz_factor a, rz_factor b, int64_t k, int type, void *c, int64_t c_row, int accumulate,
                    void *scratch) {
    const int64_t m = a.lines, n = b.lines, block = depth_block(k);
    float *packed_b = scratch, *packed_a = packed_b + block * padded(n, COLUMN_BLOCK, TILE_COLUMNS);
    float *sums = packed_a + block * padded(m, ROW_BLOCK, TILE_ROWS) + LANES;
    for (int64_t j = 0; j < n; j += COLUMN_BLOCK) {
        const int64_t columns = smaller(COLUMN_BLOCK, n - j);
        for (int64_t t = 0; t < k; t += block) {
            const int64_t depth = smaller(block, k - t);
            for (int64_t i = 0; i < m; i += ROW_BLOCK) {
                const int64_t rows = smaller(ROW_BLOCK, m - i);
                const target to = {type, (void *)place(type, c, i * c_row + j), c_row, sums + i * columns, columns,
                                   t == 0, t + block >= k, accumulate};
                pack(factor_type, TILE_ROWS, packed_a, &a, i, rows, t, depth);
                for (int64_t jj = 0; jj < columns; jj += TILE_COLUMNS) {
                    const int64_t width = smaller(TILE_COLUMNS, columns - jj), rest = columns - jj - width;
                    float *panel = packed_b + jj * depth;
                    fetching next = {0};
                    // A panel of B is packed right before it is first used, so that it need not come back from a far cache.
                    if (i == 0) {
                        pack(factor_type, TILE_COLUMNS, panel, &b, j + jj, width, t, depth);
                        next = fetching_panel(factor_type, &b, j + jj + width, smaller(TILE_COLUMNS, rest), t, depth);
                    }
                    for (int64_t ii = 0; ii < rows; ii += TILE_ROWS) {
                        fetch_some(&next);
                        multiply(packed_a + ii * depth, panel, depth, &to, ii, jj, smaller(TILE_ROWS, rows - ii), width);
                    }
                }
            }
        }
    }
}

#define PRODUCT_KERNELS                                                                                                \
    { .tile_rows = TILE_ROWS, .tile_columns = TILE_COLUMNS, .scratch_size = scratch_size, .product = product }
