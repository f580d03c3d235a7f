// P and dS while they are in registers, for engines whose words are numbers: two phases over all rows, so that one panel of keys
// at a time is in the first-level cache. dS takes the place of P in memory. kernel_gradients_bf16.h has the other way.

typedef enum { PROBABILITIES, MASKED_PROBABILITIES, LOGIT_GRADIENTS } gradient_end;

INLINE void gradient_tile(const gradient_end end, backward_scratch *s, int64_t width, const word *a, int64_t row,
                          int64_t column, const word *panel) {
    vector acc[ROW_TILE][TILE_VECTORS];
    multiply_tile(TILE_VECTORS, a + row * width, width, 1, panel, TILE_VECTORS, width, acc);
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) {
            const int64_t at = (row + r) * ROW_PITCH + column + c * LANES;
            vector x = acc[r][c];
            if (end == LOGIT_GRADIENTS)
                x = load(s->p + at) * (x - s->delta[row + r]);
            else
                x = exp2_vector(x - s->lse[row + r] - s->lse_rest[row + r]);
            if (end == MASKED_PROBABILITIES) x = replace_outside(x, column + c * LANES, s->visible + row + r, 0);
            store(s->p + at, x);
        }
}

NOT_INLINE void fuse_probabilities(backward_scratch *s, const key_block *block, int64_t width) {
    const word *panel = block->k;
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += width * PANEL)
        for (int64_t row = 0; row < s->tiles; row += ROW_TILE)
            if (covers(s->every + row / ROW_TILE, column))
                gradient_tile(PROBABILITIES, s, width, s->q, row, column, panel);
            else if (touches(s->any + row / ROW_TILE, column))
                gradient_tile(MASKED_PROBABILITIES, s, width, s->q, row, column, panel);
            else
                clear_gradient_tile(s->p + row * ROW_PITCH + column);
}

NOT_INLINE void fuse_logit_gradients(backward_scratch *s, const key_block *block, int64_t width) {
    const word *panel = block->v;
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += width * PANEL)
        for (int64_t row = 0; row < s->tiles; row += ROW_TILE)
            if (touches(s->any + row / ROW_TILE, column))
                gradient_tile(LOGIT_GRADIENTS, s, width, s->dout, row, column, panel);
}

static void fused_pair(backward_scratch *s, key_block *block, int64_t width) {
    fuse_probabilities(s, block, width);
    add_dv(s, block, width);
    fuse_logit_gradients(s, block, width);
    add_dk_dq(s, block, width, s->p, s->p);
}

// The products read P and dS as they are.
INLINE void round_gradients(backward_scratch *s) {}
