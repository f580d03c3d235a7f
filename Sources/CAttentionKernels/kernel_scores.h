// P = 2^(S - m) while S is in registers.

// Raises the references of a tile of products in memory, where they must be.
NOT_INLINE void raise_tile(int width, forward_scratch *s, query_block *block, int64_t padded, int64_t row, int64_t column,
                           real scale) {
    for (int r = 0; r < ROW_TILE; r++, row++) {
        const real *p = s->p + row * ROW_PITCH + column;
        vector most = load(p);
        for (int c = 1; c < width; c++) most = larger_of(load(p + c * LANES), most);
        const real largest = largest_of(most) * scale;
        if (largest > block->m[row] + SLACK)
            raise_reference(block, s->weights + row * WORD_PITCH, padded, row, column, largest);
    }
}

// One tile of S, `width` vectors wide, through the softmax.
INLINE void score_tile(const bool masked, const int width, forward_scratch *s, query_block *block, int64_t padded,
                       int64_t row, int64_t column, const word *panel) {
    const int64_t words = padded / WORD_NUMBERS;
    vector acc[ROW_TILE][TILE_VECTORS];
    multiply_tile(width, block->q + row * words, words, 1, panel, TILE_VECTORS, words, acc);
    if (masked)
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int c = 0; c < width; c++)
                acc[r][c] = replace_outside(scaled(acc[r][c], s->scale), column + c * LANES, s->visible + row + r, (real)MASKED);
    const real scale = masked ? 1 : s->scale;   // what products still need to be logits
    // The steady state only asks whether any logit exceeds its reference by more than the slack: one comparison a row,
    // no reduction across lanes.
    vector_bits over = {0};
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        vector most = acc[r][0];
        UNROLLED for (int c = 1; c < width; c++) most = larger_of(acc[r][c], most);
        over |= scaled(most, scale) > all(block->m[row + r] + SLACK);
    }
    if (__builtin_expect(any_bit(over), 0)) {   // through memory, so that nothing leaves its register in the steady state
        real *p = s->p + row * ROW_PITCH + column;
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int c = 0; c < width; c++) store(p + r * ROW_PITCH + c * LANES, acc[r][c]);
        raise_tile(width, s, block, padded, row, column, scale);
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int c = 0; c < width; c++) acc[r][c] = load(p + r * ROW_PITCH + c * LANES);
    }
    const real *references = block->m + row;
    real *sums = block->sums + row * LANES, *rounded_sums = block->rounded_sums + row * LANES;
    word *weights = s->weights + row * WORD_PITCH + column / WORD_NUMBERS;
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        const vector reference = all(references[r]);
        vector sum = load(sums + r * LANES), e[TILE_VECTORS];
        vector rounded = ROUNDS_WEIGHTS ? load(rounded_sums + r * LANES) : (vector){0};
        UNROLLED for (int c = 0; c < width; c++) {
            e[c] = exp2_weight(scaled_above(acc[r][c], scale, reference));
            sum += e[c];
        }
        store_weights(width, weights + r * WORD_PITCH, e, &rounded);
        store(sums + r * LANES, sum);
        if (ROUNDS_WEIGHTS) store(rounded_sums + r * LANES, rounded);
    }
}

// On a diagonal the tile is only as wide as what it sees.
#define MASKED_TILE(vectors)                                                                                          \
    score_tile(true, (vectors) < TILE_VECTORS ? (vectors) : TILE_VECTORS, s, block, width, row, column, panel)
NOT_INLINE void fuse_scores(forward_scratch *s, query_block *block, int64_t width) {
    const word *panel = s->k;
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += width / WORD_NUMBERS * PANEL)
        for (int64_t row = 0; row < block->tiles; row += ROW_TILE) {
            const index_range *any = s->any + row / ROW_TILE;
            if (covers(s->every + row / ROW_TILE, column)) {
                score_tile(false, TILE_VECTORS, s, block, width, row, column, panel);
            } else if (touches(any, column)) {
                switch (smaller(TILE_VECTORS, blocks_of(any->end - column, LANES))) {
                case 1: MASKED_TILE(1); break;
                case 2: MASKED_TILE(2); break;
                case 3: MASKED_TILE(3); break;
                default: MASKED_TILE(TILE_VECTORS); break;
                }
            }
        }
}
#undef MASKED_TILE
