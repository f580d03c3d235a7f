// P = 2^(S - m) on AMX. A tile of S passes through memory, which the first-level cache holds: there its rows are weighed one by one.
// Products of the next tile between the rows of this one gain nothing: the two do not run beside each other (Docs/Benchmarks.md).

// Exponentials of one row of products against its reference, and their sum by lanes.
INLINE vector exponentials_of(vector e[TILE_VECTORS], const real *products, real scale, real reference, const bool masked,
                              int64_t column, const index_range *visible) {
    UNROLLED for (int c = 0; c < TILE_VECTORS; c++) {
        e[c] = exp2_weight(scaled_above(load(products + c * LANES), scale, all(reference)));
        if (masked) e[c] = replace_outside(e[c], column + c * LANES, visible, 0);
    }
    return (e[0] + e[1]) + (e[2] + e[3]);
}

NOT_INLINE void raise_row(bool masked, forward_scratch *s, query_block *block, int64_t padded, int64_t row, int64_t column,
                          const real *products) {
    vector most = all((real)MASKED);
    for (int c = 0; c < TILE_VECTORS; c++) {
        vector x = scaled(load(products + c * LANES), s->scale);
        if (masked) x = replace_outside(x, column + c * LANES, s->visible + row, (real)MASKED);
        most = larger_of(x, most);
    }
    const real largest = largest_of(most);
    if (largest > block->m[row]) raise_reference(block, s->weights + row * WORD_PITCH, padded, row, column, largest);
}

// The rows of a tile become weights. Where the sums say that some logit may exceed its reference by more than the slack, the row is
// weighed again against a higher one.
INLINE void weigh_tile(const bool masked, forward_scratch *s, query_block *block, int64_t padded, int64_t row, int64_t column,
                       const real *products) {
    const real scale = s->scale, *references = block->m + row;
    const index_range *visible = s->visible + row;
    real *sums = block->sums + row * LANES, *rounded_sums = block->rounded_sums + row * LANES;
    word *weights = s->weights + row * WORD_PITCH + column / WORD_NUMBERS;
    _Pragma("clang loop unroll_count(4)")
    for (int64_t r = 0; r < ROW_TILE; r++, products += PANEL) {
        vector e[TILE_VECTORS];
        vector sum = exponentials_of(e, products, scale, references[r], masked, column, visible + r);
        if (__builtin_expect(any_bit(sum > (real)(1 << SLACK)), 0)) {
            raise_row(masked, s, block, padded, row + r, column, products);
            sum = exponentials_of(e, products, scale, references[r], masked, column, visible + r);
        }
        vector rounded = load(rounded_sums + r * LANES);
        store_weights(TILE_VECTORS, weights + r * WORD_PITCH, e, &rounded);
        store(sums + r * LANES, load(sums + r * LANES) + sum);
        store(rounded_sums + r * LANES, rounded);
    }
}

NOT_INLINE void fuse_scores(forward_scratch *s, query_block *block, int64_t width) {
    const int64_t words = width / WORD_NUMBERS;
    vector products[ROW_TILE][TILE_VECTORS];
    const word *panel = s->k;
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += words * PANEL)
        for (int64_t row = 0; row < block->tiles; row += ROW_TILE) {
            if (!touches(s->any + row / ROW_TILE, column)) continue;
            multiply_tile(TILE_VECTORS, block->q + row * words, words, 1, panel, TILE_VECTORS, words, products);
            if (covers(s->every + row / ROW_TILE, column))
                weigh_tile(false, s, block, width, row, column, (const real *)products);
            else
                weigh_tile(true, s, block, width, row, column, (const real *)products);
        }
}
