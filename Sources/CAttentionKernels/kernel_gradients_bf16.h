// P and dS of bf16 engines while they are in registers.

// One tile of S, P, dP and dS: P stays in float32 until dS is formed, so that dS is rounded once. K^T and V^T panels share the
// first-level cache. Two rows at a time leave the registers, as words of two queries.
INLINE void gradient_tile(const bool masked, backward_scratch *s, const word *keys, const word *values, int64_t words,
                          int64_t row, int64_t column) {
    vector acc[ROW_TILE][TILE_VECTORS];
    real *tile = s->p;   // free in this way: P of the tile, in the first-level cache
    word *p_words = s->p_words + row / 2 * ROW_PITCH + column, *ds_words = s->ds_words + row / 2 * ROW_PITCH + column;
    word *ds_rows = s->ds_rows + row * WORD_PITCH + column / 2;
    const real *lse = s->lse + row, *delta = s->delta + row;
    multiply_tile(TILE_VECTORS, s->q + row * words, words, 1, keys, TILE_VECTORS, words, acc);
    EACH_ROW for (int r = 0; r < ROW_TILE; r += 2)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) {
            vector pair[2];
            UNROLLED for (int i = 0; i < 2; i++) {
                // What rounding lse left is far below the rounding of P.
                pair[i] = exp2_weight(scaled_above(acc[r + i][c], s->scale, all(lse[r + i])));
                if (masked) pair[i] = replace_outside(pair[i], column + c * LANES, s->visible + row + r + i, 0);
                store(tile + (r + i) * PANEL + c * LANES, pair[i]);
            }
            store_words(p_words + r / 2 * ROW_PITCH + c * LANES, words_of(pair[0], pair[1]));
        }
    multiply_tile(TILE_VECTORS, s->dout + row * words, words, 1, values, TILE_VECTORS, words, acc);
    EACH_ROW for (int r = 0; r < ROW_TILE; r += 2)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c += 2) {
            vector ds[2][2];
            UNROLLED for (int i = 0; i < 2; i++) {
                UNROLLED for (int k = 0; k < 2; k++)
                    ds[i][k] = load(tile + (r + i) * PANEL + (c + k) * LANES) * (acc[r + i][c + k] - delta[r + i]);
                store_words(ds_rows + (r + i) * WORD_PITCH + c * LANES / 2, words_along(ds[i][0], ds[i][1]));
            }
            UNROLLED for (int k = 0; k < 2; k++)
                store_words(ds_words + r / 2 * ROW_PITCH + (c + k) * LANES, words_of(ds[0][k], ds[1][k]));
        }
}

NOT_INLINE void fuse_gradients(backward_scratch *s, const key_block *block, int64_t width) {
    const int64_t words = width / 2;
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL) {
        const word *keys = block->k + column * words, *values = block->v + column * words;
        for (int64_t row = 0; row < s->tiles; row += ROW_TILE)
            if (covers(s->every + row / ROW_TILE, column)) {
                gradient_tile(false, s, keys, values, words, row, column);
            } else if (touches(s->any + row / ROW_TILE, column)) {
                gradient_tile(true, s, keys, values, words, row, column);
            } else {
                clear_query_words(s->p_words + row / 2 * ROW_PITCH + column);
                clear_query_words(s->ds_words + row / 2 * ROW_PITCH + column);
            }
    }
}
