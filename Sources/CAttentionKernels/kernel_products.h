// Packed blocks and products over them. B is always packed: a panel holds PANEL columns side by side, row after row of the
// reduction, so the inner loop reads it front to back.

_Static_assert(KEY_BLOCK % PANEL == 0, "a key block is whole panels");

// MARK: packing

// LANES rows of row-major memory as the columns from `first` on of panels of keys: panel after panel, each [words][PANEL].
INLINE void pack_transposed(word *to, const word *from, int64_t first, int64_t words) {
    word *place = to + first / PANEL * PANEL * words + first % PANEL;
    for (int64_t d = 0; d < words; d += LANES) {
        vector x[LANES];
        UNROLLED for (int i = 0; i < LANES; i++) x[i] = (vector)load_words(from + i * words + d);
        transpose_square(x);
        UNROLLED for (int i = 0; i < LANES; i++) store_words(place + (d + i) * PANEL, (word_vector)x[i]);
    }
}

// A block of K or V, packed transposed, as columns, or both (the other is NULL). A few rows at a time pass through `rows`
// [LANES][padded], which stays in the first-level cache. Keys beyond the last are zero.
NOT_INLINE void pack_block(word *transposed, word *columns, word *rows, const rz_attention_tensor *from, int64_t index,
                           int64_t keys, int64_t size, int64_t padded) {
    for (int64_t key = 0; key < KEY_BLOCK; key += LANES) {
        const int64_t count = larger(0, smaller(LANES, keys - key));
        pack_rows(rows, from, index + key * from->token_stride, count, keys - key, LANES, size, padded);
        if (transposed) pack_transposed(transposed, rows, key, padded / WORD_NUMBERS);
        if (columns) pack_columns(columns, rows, key, LANES, KEY_BLOCK, padded);
    }
}

// MARK: products over packed operands

// first <= i < end.
typedef struct {
    int32_t first, end;
} index_range;

// C [rows][padded] += A B, A read at two strides, B panels of `capacity` rows each. `rows` is a multiple of ROW_TILE. The
// ranges are what of the reduction matters to a tile of rows: outside it the other factor is zero, also within the first and
// last step of a product.
INLINE void add_product_panel(const int width, real *c, int64_t padded, const word *a, int64_t row_stride,
                              int64_t depth_stride, const word *b, int64_t rows, const index_range *ranges) {
    for (int64_t row = 0; row < rows; row += ROW_TILE, ranges++) {
        if (ranges->first >= ranges->end) continue;
        const int64_t step = PRODUCT_STEP / WORD_NUMBERS, first = ranges->first / PRODUCT_STEP * step;
        const int64_t depth = blocks_of(ranges->end, PRODUCT_STEP) * step - first;
        add_tile(width, c + row * padded, padded, a + row * row_stride + first * depth_stride, row_stride, depth_stride,
                 b + first * width * LANES, width, depth);
    }
}

// The row strides are compile-time constants in both uses (A by rows, A by columns), one loop each. The last panel may
// be narrower than the others.
#define ADD_PRODUCT_PANEL(width, ROW_STRIDE, DEPTH_STRIDE)                                                             \
    add_product_panel((width) < TILE_VECTORS ? (width) : TILE_VECTORS, c + d, padded, a, ROW_STRIDE, DEPTH_STRIDE, b,  \
                      rows, ranges)
#define DEFINE_ADD_PRODUCT(name, ROW_STRIDE, DEPTH_STRIDE)                                                             \
    NOT_INLINE void name(real *c, int64_t padded, const word *a, const word *b, int64_t capacity, int64_t rows,        \
                         const index_range *ranges) {                                                                   \
        for (int64_t d = 0; d < padded; d += PANEL, b += capacity / WORD_NUMBERS * PANEL)                              \
            switch (smaller(PANEL, padded - d) / LANES) {                                                              \
            case 1: ADD_PRODUCT_PANEL(1, ROW_STRIDE, DEPTH_STRIDE); break;                                             \
            case 2: ADD_PRODUCT_PANEL(2, ROW_STRIDE, DEPTH_STRIDE); break;                                             \
            case 3: ADD_PRODUCT_PANEL(3, ROW_STRIDE, DEPTH_STRIDE); break;                                             \
            default: ADD_PRODUCT_PANEL(TILE_VECTORS, ROW_STRIDE, DEPTH_STRIDE); break;                                 \
            }                                                                                                          \
    }
DEFINE_ADD_PRODUCT(add_product, WORD_PITCH, 1)
#if !defined(KERNEL_AMX)
DEFINE_ADD_PRODUCT(add_transposed_product, 1, ROW_PITCH)
#endif
#undef DEFINE_ADD_PRODUCT
#undef ADD_PRODUCT_PANEL
