// Packing and register-tiled products: C (6 rows x one panel of columns) stays in registers over the whole reduction.
//
// B is always packed: a panel holds PANEL columns side by side, row after row of the reduction, so the inner loop reads
// it front to back. A is read by broadcasts at any two strides, so P^T needs no transpose.

// acc += A (6 x depth) B (depth x width vectors). `pitch` is the vectors of a panel row, at least `width`.
INLINE void multiply_tile(const int width, const real *a, int64_t row_stride, int64_t depth_stride, const real *b,
                          const int pitch, int64_t depth, vector acc[ROW_TILE][TILE_VECTORS]) {
    _Pragma("clang loop unroll_count(4)")
    for (int64_t t = 0; t < depth; t++) {
        vector column[TILE_VECTORS];
        UNROLLED for (int c = 0; c < width; c++) column[c] = load(b + c * LANES);
        UNROLLED for (int r = 0; r < ROW_TILE; r++) {
            const vector x = all(a[r * row_stride]);
            UNROLLED for (int c = 0; c < width; c++) acc[r][c] = x * column[c] + acc[r][c];
        }
        a += depth_stride;
        b += pitch * LANES;
    }
}

INLINE void clear_tile(vector acc[ROW_TILE][TILE_VECTORS]) {
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) acc[r][c] = (vector){0};
}

// MARK: packing

// Asks for a row that will be read soon.
enum { FETCH_AHEAD = 16 };
INLINE void fetch_row(const rz_attention_tensor *from, int64_t index, int64_t size) {
    static const int64_t element_bytes[] = {
        [RZ_STORAGE_FLOAT32] = 4, [RZ_STORAGE_FLOAT64] = 8, [RZ_STORAGE_BFLOAT16] = 2, [RZ_STORAGE_FLOAT16] = 2};
    const int64_t bytes = element_bytes[from->storage];
    const char *row = (const char *)from->data + index * bytes;
    for (int64_t at = 0; at < size * bytes; at += 64) __builtin_prefetch(row + at);
}

// Rows of a tensor (token stride apart) to row-major memory of width `padded`; `rows` up to `capacity` become zero. The tensor
// holds `available` rows from `index` on, of which those after the packed ones are wanted next.
NOT_INLINE void pack_rows(real *to, const rz_attention_tensor *from, int64_t index, int64_t rows, int64_t available,
                          int64_t capacity, int64_t size, int64_t padded, real factor) {
    for (int64_t r = 0; r < rows; r++, to += padded) {
        if (r + FETCH_AHEAD < available) fetch_row(from, index + (r + FETCH_AHEAD) * from->token_stride, size);
        widen(to, from, index + r * from->token_stride, size, factor);
        for (int64_t d = size; d < padded; d++) to[d] = 0;
    }
    memset(to, 0, sizeof(real) * (size_t)((capacity - rows) * padded));
}

// Rows of row-major memory as the rows from `first` on of panels of columns: panel after panel, each [capacity][<= PANEL].
INLINE void pack_columns(real *to, const real *from, int64_t first, int64_t rows, int64_t capacity, int64_t padded) {
    for (int64_t d = 0; d < padded; d += PANEL) {
        const int64_t width = smaller(PANEL, padded - d);
        real *place = to + capacity * d + first * width;
        for (int64_t r = 0; r < rows; r++, place += width)
            for (int64_t c = 0; c < width; c += LANES) store(place + c, load(from + r * padded + d + c));
    }
}

// LANES rows of row-major memory as the columns from `first` on of panels of keys: panel after panel, each [padded][PANEL].
INLINE void pack_transposed(real *to, const real *from, int64_t first, int64_t padded) {
    real *place = to + first / PANEL * PANEL * padded + first % PANEL;
    for (int64_t d = 0; d < padded; d += LANES) {
        vector x[LANES];
        UNROLLED for (int i = 0; i < LANES; i++) x[i] = load(from + i * padded + d);
        transpose_square(x);
        UNROLLED for (int i = 0; i < LANES; i++) store(place + (d + i) * PANEL, x[i]);
    }
}

// A block of K or V, packed transposed, as columns, or both (the other is NULL). A few rows at a time pass through `rows`
// [LANES][padded], which stays in the first-level cache. Keys beyond the last are zero.
NOT_INLINE void pack_block(real *transposed, real *columns, real *rows, const rz_attention_tensor *from, int64_t index,
                           int64_t keys, int64_t size, int64_t padded) {
    for (int64_t key = 0; key < KEY_BLOCK; key += LANES) {
        const int64_t count = larger(0, smaller(LANES, keys - key));
        pack_rows(rows, from, index + key * from->token_stride, count, keys - key, LANES, size, padded, 1);
        if (transposed) pack_transposed(transposed, rows, key, padded);
        if (columns) pack_columns(columns, rows, key, LANES, KEY_BLOCK, padded);
    }
}

// MARK: products over packed operands

// first <= i < end.
typedef struct {
    int32_t first, end;
} index_range;

// C [rows][padded] += A B, A read at two strides, B panels of `capacity` rows each. `rows` is a multiple of ROW_TILE. The
// ranges are what of the reduction matters to a tile of 6 rows: outside it the other factor is zero. C is fetched at the
// start of a tile and added at its end, off the critical path.
INLINE void add_product_panel(const int width, real *c, int64_t padded, const real *a, int64_t row_stride,
                              int64_t depth_stride, const real *b, int64_t rows, const index_range *ranges) {
    for (int64_t row = 0; row < rows; row += ROW_TILE, ranges++) {
        const int64_t first = ranges->first, depth = ranges->end - first;
        if (depth <= 0) continue;
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int i = 0; i < width; i += 64 / VECTOR_BYTES)
                __builtin_prefetch(c + (row + r) * padded + i * LANES, 1);
        vector acc[ROW_TILE][TILE_VECTORS];
        clear_tile(acc);
        multiply_tile(width, a + row * row_stride + first * depth_stride, row_stride, depth_stride,
                      b + first * width * LANES, width, depth, acc);
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int i = 0; i < width; i++) {
                real *place = c + (row + r) * padded + i * LANES;
                store(place, acc[r][i] + load(place));
            }
    }
}

// The row strides are compile-time constants in both uses (A by rows, A by columns), one loop each. The last panel may
// be narrower than the others.
#define ADD_PRODUCT_PANEL(width, ROW_STRIDE, DEPTH_STRIDE)                                                             \
    add_product_panel((width) < TILE_VECTORS ? (width) : TILE_VECTORS, c + d, padded, a, ROW_STRIDE, DEPTH_STRIDE, b,  \
                      rows, ranges)
#define DEFINE_ADD_PRODUCT(name, ROW_STRIDE, DEPTH_STRIDE)                                                             \
    NOT_INLINE void name(real *c, int64_t padded, const real *a, const real *b, int64_t capacity, int64_t rows,        \
                         const index_range *ranges) {                                                                   \
        for (int64_t d = 0; d < padded; d += PANEL, b += capacity * PANEL)                                             \
            switch (smaller(PANEL, padded - d) / LANES) {                                                              \
            case 1: ADD_PRODUCT_PANEL(1, ROW_STRIDE, DEPTH_STRIDE); break;                                             \
            case 2: ADD_PRODUCT_PANEL(2, ROW_STRIDE, DEPTH_STRIDE); break;                                             \
            case 3: ADD_PRODUCT_PANEL(3, ROW_STRIDE, DEPTH_STRIDE); break;                                             \
            default: ADD_PRODUCT_PANEL(TILE_VECTORS, ROW_STRIDE, DEPTH_STRIDE); break;                                 \
            }                                                                                                          \
    }
DEFINE_ADD_PRODUCT(add_product, ROW_PITCH, 1)
DEFINE_ADD_PRODUCT(add_transposed_product, 1, ROW_PITCH)
#undef DEFINE_ADD_PRODUCT
#undef ADD_PRODUCT_PANEL
