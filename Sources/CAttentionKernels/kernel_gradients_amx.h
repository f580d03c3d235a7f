// P and dS on AMX, a tile at a time, whose products pass through the first-level cache. P stays in float32 until dS is formed, so
// that dS is rounded once.

// S of a tile becomes P; two rows at a time leave as words of two queries.
INLINE void make_probabilities(const bool masked, const backward_scratch *s, int64_t row, int64_t column, real *p) {
    const real scale = s->scale, *lse = s->lse + row;
    const index_range *visible = s->visible + row;
    word *words = s->p_words + row / 2 * ROW_PITCH + column;
    _Pragma("clang loop unroll_count(2)")
    for (int64_t r = 0; r < ROW_TILE; r += 2, p += 2 * PANEL)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) {
            vector pair[2];
            UNROLLED for (int i = 0; i < 2; i++) {
                real *place = p + i * PANEL + c * LANES;
                // What rounding lse left is far below the rounding of P.
                pair[i] = exp2_weight(scaled_above(load(place), scale, all(lse[r + i])));
                if (masked) pair[i] = replace_outside(pair[i], column + c * LANES, visible + r + i, 0);
                store(place, pair[i]);
            }
            store_words(words + r / 2 * ROW_PITCH + c * LANES, words_of(pair[0], pair[1]));
        }
}

// dS = P (dP - delta), as words of two queries and as words of two keys.
INLINE void make_logit_gradients(const backward_scratch *s, int64_t row, int64_t column, const real *p, const real *dp) {
    const real *delta = s->delta + row;
    word *words = s->ds_words + row / 2 * ROW_PITCH + column, *rows = s->ds_rows + row * WORD_PITCH + column / 2;
    _Pragma("clang loop unroll_count(2)")
    for (int64_t r = 0; r < ROW_TILE; r += 2)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c += 2) {
            vector ds[2][2];
            UNROLLED for (int i = 0; i < 2; i++) {
                UNROLLED for (int k = 0; k < 2; k++) {
                    const int64_t at = (r + i) * PANEL + (c + k) * LANES;
                    ds[i][k] = load(p + at) * (load(dp + at) - all(delta[r + i]));
                }
                store_words(rows + (r + i) * WORD_PITCH + c * LANES / 2, words_along(ds[i][0], ds[i][1]));
            }
            UNROLLED for (int k = 0; k < 2; k++)
                store_words(words + r / 2 * ROW_PITCH + (c + k) * LANES, words_of(ds[0][k], ds[1][k]));
        }
}

NOT_INLINE void fuse_gradients(backward_scratch *s, const key_block *block, int64_t width) {
    const int64_t words = width / 2;
    vector p[ROW_TILE][TILE_VECTORS], dp[ROW_TILE][TILE_VECTORS];
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL) {
        const word *keys = block->k + column * words, *values = block->v + column * words;
        for (int64_t row = 0; row < s->tiles; row += ROW_TILE) {
            if (!touches(s->any + row / ROW_TILE, column)) {
                clear_query_words(s->p_words + row / 2 * ROW_PITCH + column);
                clear_query_words(s->ds_words + row / 2 * ROW_PITCH + column);
                continue;
            }
            multiply_tile(TILE_VECTORS, s->q + row * words, words, 1, keys, TILE_VECTORS, words, p);
            multiply_tile(TILE_VECTORS, s->dout + row * words, words, 1, values, TILE_VECTORS, words, dp);
            if (covers(s->every + row / ROW_TILE, column))
                make_probabilities(false, s, row, column, (real *)p);
            else
                make_probabilities(true, s, row, column, (real *)p);
            make_logit_gradients(s, row, column, (const real *)p, (const real *)dp);
        }
    }
}
