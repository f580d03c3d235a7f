// P and dS of bf16 engines: P stays in float32 until dS is formed, so that dS is rounded once. A tile has two products, and what
// follows one of them happens between the steps of the next, as in kernel_scores.h: P while dP is computed, dS while the S of the
// tile after is. K^T and V^T panels share the first-level cache.

typedef struct {
    real p[ROW_TILE * PANEL] __attribute__((aligned(64)));   // products of Q and K, then P
    real dp[ROW_TILE * PANEL] __attribute__((aligned(64)));
    backward_scratch *s;
    int64_t row, column;
    bool waiting;   // for its dS
} held_gradients;

// What follows a product takes two rows at a time, which become words of two queries, and half of their columns: 6 parts.
enum { HALF = TILE_VECTORS / 2 };
_Static_assert(HALF == 2, "words of neighbouring columns are those of one part");

INLINE void round_probabilities(const bool masked, held_gradients *held, int part) {
    const backward_scratch *s = held->s;
    const int first = part / 2 * 2, columns = part % 2 * HALF;
    word *p_words = s->p_words + (held->row + first) / 2 * ROW_PITCH + held->column;
    UNROLLED for (int c = columns; c < columns + HALF; c++) {
        vector pair[2];
        UNROLLED for (int i = 0; i < 2; i++) {
            const int64_t row = held->row + first + i;
            real *p = held->p + (first + i) * PANEL + c * LANES;
            // What rounding lse left is far below the rounding of P.
            pair[i] = exp2_weight(scaled_above(load(p), s->scale, all(s->lse[row])));
            if (masked) pair[i] = replace_outside(pair[i], held->column + c * LANES, s->visible + row, 0);
            store(p, pair[i]);
        }
        store_words(p_words + c * LANES, words_of(pair[0], pair[1]));
    }
}
INLINE void follow_full_scores(void *context, int part) { round_probabilities(false, context, part); }
INLINE void follow_masked_scores(void *context, int part) { round_probabilities(true, context, part); }

INLINE void follow_weight_gradients(void *context, int part) {
    const held_gradients *held = context;
    if (!held->waiting) return;
    const backward_scratch *s = held->s;
    const int first = part / 2 * 2, columns = part % 2 * HALF;
    const int64_t row = held->row + first;
    word *ds_words = s->ds_words + row / 2 * ROW_PITCH + held->column + columns * LANES;
    word *ds_rows = s->ds_rows + row * WORD_PITCH + held->column / 2 + columns * LANES / 2;
    vector ds[2][HALF];
    UNROLLED for (int i = 0; i < 2; i++) {
        UNROLLED for (int c = 0; c < HALF; c++) {
            const int at = (first + i) * PANEL + (columns + c) * LANES;
            ds[i][c] = load(held->p + at) * (load(held->dp + at) - s->delta[row + i]);
        }
        store_words(ds_rows + i * WORD_PITCH, words_along(ds[i][0], ds[i][1]));
    }
    UNROLLED for (int c = 0; c < HALF; c++) store_words(ds_words + c * LANES, words_of(ds[0][c], ds[1][c]));
}

NOT_INLINE void follow_last_tile(held_gradients *held) {
    UNROLLED for (int part = 0; part < ROW_TILE; part++) follow_weight_gradients(held, part);
}

INLINE void gradient_tile(const bool masked, held_gradients *held, const word *keys, const word *values, int64_t words,
                          int64_t row, int64_t column) {
    const backward_scratch *s = held->s;
    vector acc[ROW_TILE][TILE_VECTORS];
    multiply_tile_beside(s->q + row * words, words, keys, words, acc, follow_weight_gradients, held);
    store_tile(TILE_VECTORS, held->p, acc);
    held->row = row, held->column = column, held->waiting = true;
    multiply_tile_beside(s->dout + row * words, words, values, words, acc, masked ? follow_masked_scores : follow_full_scores, held);
    store_tile(TILE_VECTORS, held->dp, acc);
}

NOT_INLINE void fuse_gradients(backward_scratch *s, const key_block *block, int64_t width) {
    const int64_t words = width / 2;
    held_gradients held = {.s = s};
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL) {
        const word *keys = block->k + column * words, *values = block->v + column * words;
        for (int64_t row = 0; row < s->tiles; row += ROW_TILE)
            if (covers(s->every + row / ROW_TILE, column)) {
                gradient_tile(false, &held, keys, values, words, row, column);
            } else if (touches(s->any + row / ROW_TILE, column)) {
                gradient_tile(true, &held, keys, values, words, row, column);
            } else {
                clear_query_words(s->p_words + row / 2 * ROW_PITCH + column);
                clear_query_words(s->ds_words + row / 2 * ROW_PITCH + column);
            }
    }
    follow_last_tile(&held);
}
