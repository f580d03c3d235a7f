// P = 2^(S - m). A tile of S waits in the first-level cache and becomes weights between the steps of the next tile's product:
// exponentials wait for themselves, and products for nothing.

typedef struct {
    real products[ROW_TILE * PANEL] __attribute__((aligned(64)));
    forward_scratch *s;
    query_block *block;
    int64_t row, column;
    bool waiting;
} held_tile;

// One row of `width` vectors of products, which `scale` makes logits, to weights. The reference is such that nothing overflows.
INLINE void weigh_row(const int width, const forward_scratch *s, query_block *block, int64_t row, int64_t column,
                      const vector *products, real scale) {
    real *sums = block->sums + row * LANES, *rounded_sums = block->rounded_sums + row * LANES;
    const vector reference = all(block->m[row]);
    vector sum = load(sums), rounded = ROUNDS_WEIGHTS ? load(rounded_sums) : (vector){0}, e[TILE_VECTORS];
    UNROLLED for (int c = 0; c < width; c++) {
        e[c] = exp2_weight(scaled_above(products[c], scale, reference));
        sum += e[c];
    }
    store_weights(width, s->weights + row * WORD_PITCH + column / WORD_NUMBERS, e, &rounded);
    store(sums, sum);
    if (ROUNDS_WEIGHTS) store(rounded_sums, rounded);
}

INLINE void weigh_held_row(void *context, int r) {
    const held_tile *held = context;
    vector products[TILE_VECTORS];
    UNROLLED for (int c = 0; c < TILE_VECTORS; c++) products[c] = load(held->products + r * PANEL + c * LANES);
    weigh_row(TILE_VECTORS, held->s, held->block, held->row + r, held->column, products, held->s->scale);
}

NOT_INLINE void weigh_held_tile(held_tile *held) {
    if (!held->waiting) return;
    UNROLLED for (int r = 0; r < ROW_TILE; r++) weigh_held_row(held, r);
    held->waiting = false;
}

// Whether any logit exceeds its reference by more than the slack: one comparison a row, no reduction across lanes.
INLINE bool exceeds(const int width, const query_block *block, int64_t row, vector acc[ROW_TILE][TILE_VECTORS], real scale) {
    vector_bits over = {0};
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        vector most = acc[r][0];
        UNROLLED for (int c = 1; c < width; c++) most = larger_of(acc[r][c], most);
        over |= scaled(most, scale) > all(block->m[row + r] + SLACK);
    }
    return __builtin_expect(any_bit(over), 0);
}

// Raises the references of a tile of products in memory, where they must be.
NOT_INLINE void raise_tile(int width, const forward_scratch *s, query_block *block, int64_t padded, int64_t row, int64_t column,
                           const real *products, real scale) {
    for (int r = 0; r < ROW_TILE; r++, row++, products += PANEL) {
        vector most = load(products);
        for (int c = 1; c < width; c++) most = larger_of(load(products + c * LANES), most);
        const real largest = largest_of(most) * scale;
        if (largest > block->m[row] + SLACK)
            raise_reference(block, s->weights + row * WORD_PITCH, padded, row, column, largest);
    }
}

// A tile without a mask, and the weights of the one before.
INLINE void hold_tile(const bool beside, held_tile *held, int64_t padded, int64_t row, int64_t column, const word *panel) {
    const int64_t words = padded / WORD_NUMBERS;
    query_block *block = held->block;
    const real scale = held->s->scale;
    vector acc[ROW_TILE][TILE_VECTORS];
    if (beside)
        multiply_tile_beside(block->q + row * words, words, panel, words, acc, weigh_held_row, held);
    else
        multiply_tile(TILE_VECTORS, block->q + row * words, words, 1, panel, TILE_VECTORS, words, acc);
    const bool raises = exceeds(TILE_VECTORS, block, row, acc, scale);
    store_tile(TILE_VECTORS, held->products, acc);
    held->row = row, held->column = column, held->waiting = true;
    if (raises) raise_tile(TILE_VECTORS, held->s, block, padded, row, column, held->products, scale);
}

NOT_INLINE void hold_first_tile(held_tile *held, int64_t padded, int64_t row, int64_t column, const word *panel) {
    hold_tile(false, held, padded, row, column, panel);
}

// A tile on an edge of the mask, `width` vectors wide, weighed at once. `room` is for a tile.
INLINE void weigh_masked_tile(const int width, forward_scratch *s, query_block *block, int64_t padded, int64_t row,
                              int64_t column, const word *panel, real *room) {
    const int64_t words = padded / WORD_NUMBERS;
    vector acc[ROW_TILE][TILE_VECTORS];
    multiply_tile(width, block->q + row * words, words, 1, panel, TILE_VECTORS, words, acc);
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < width; c++)
            acc[r][c] = replace_outside(scaled(acc[r][c], s->scale), column + c * LANES, s->visible + row + r, (real)MASKED);
    if (exceeds(width, block, row, acc, 1)) {   // through memory, so that nothing leaves its register in the steady state
        store_tile(width, room, acc);
        raise_tile(width, s, block, padded, row, column, room, 1);
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int c = 0; c < width; c++) acc[r][c] = load(room + r * PANEL + c * LANES);
    }
    UNROLLED for (int r = 0; r < ROW_TILE; r++) weigh_row(width, s, block, row + r, column, acc[r], 1);
}

// On a diagonal the tile is only as wide as what it sees.
#define MASKED_TILE(vectors)                                                                                          \
    weigh_masked_tile((vectors) < TILE_VECTORS ? (vectors) : TILE_VECTORS, s, block, width, row, column, panel, held.products)
NOT_INLINE void fuse_scores(forward_scratch *s, query_block *block, int64_t width) {
    const word *panel = s->k;
    held_tile held = {.s = s, .block = block};
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += width / WORD_NUMBERS * PANEL)
        for (int64_t row = 0; row < block->tiles; row += ROW_TILE) {
            const index_range *any = s->any + row / ROW_TILE;
            if (covers(s->every + row / ROW_TILE, column)) {
                if (held.waiting)
                    hold_tile(true, &held, width, row, column, panel);
                else
                    hold_first_tile(&held, width, row, column, panel);
            } else if (touches(any, column)) {
                weigh_held_tile(&held);
                switch (smaller(TILE_VECTORS, blocks_of(any->end - column, LANES))) {
                case 1: MASKED_TILE(1); break;
                case 2: MASKED_TILE(2); break;
                case 3: MASKED_TILE(3); break;
                default: MASKED_TILE(TILE_VECTORS); break;
                }
            }
        }
    weigh_held_tile(&held);
}
#undef MASKED_TILE
