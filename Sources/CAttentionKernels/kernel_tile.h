// The product of 6 rows in registers: 6 x one panel of columns of sums stay there over the whole reduction. A is read by broadcasts
// at any two strides, so P^T needs no transpose.

static void open_products(void) {}
static void close_products(void) {}

// acc += a column of A (6 words) times a row of B (width vectors).
INLINE void multiply_step(const int width, const word *a, int64_t row_stride, const word *b,
                          vector acc[ROW_TILE][TILE_VECTORS]) {
    word_vector column[TILE_VECTORS];
    UNROLLED for (int c = 0; c < width; c++) column[c] = load_words(b + c * LANES);
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        const word_vector x = all_words(a[r * row_stride]);
        UNROLLED for (int c = 0; c < width; c++) acc[r][c] = multiply_add(x, column[c], acc[r][c]);
    }
}

INLINE void clear_tile(vector acc[ROW_TILE][TILE_VECTORS]) {
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) acc[r][c] = (vector){0};
}

// acc = A (6 x depth words) B (depth words x width vectors). `pitch` is the vectors of a panel row, at least `width`.
INLINE void multiply_tile(const int width, const word *a, int64_t row_stride, int64_t depth_stride, const word *b,
                          const int pitch, int64_t depth, vector acc[ROW_TILE][TILE_VECTORS]) {
    clear_tile(acc);
    _Pragma("clang loop unroll_count(4)")
    for (int64_t t = 0; t < depth; t++, a += depth_stride, b += pitch * LANES) multiply_step(width, a, row_stride, b, acc);
}

// The same, with A by rows and all of a panel, and with `beside` called for each of 6 rows between the steps: what waits for
// itself, as a chain of exponentials does, takes turns that the product leaves.
INLINE void multiply_tile_beside(const word *a, int64_t row_stride, const word *b, int64_t depth,
                                 vector acc[ROW_TILE][TILE_VECTORS], void (*beside)(void *context, int row), void *context) {
    enum { STEPS = 4 };
    clear_tile(acc);
    int64_t t = 0;
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        if (t + STEPS <= depth) {
            UNROLLED for (int i = 0; i < STEPS; i++, a++, b += PANEL) multiply_step(TILE_VECTORS, a, row_stride, b, acc);
            t += STEPS;
        }
        beside(context, r);
    }
    _Pragma("clang loop unroll_count(4)")
    for (; t < depth; t++, a++, b += PANEL) multiply_step(TILE_VECTORS, a, row_stride, b, acc);
}

INLINE void store_tile(const int width, real *to, vector acc[ROW_TILE][TILE_VECTORS]) {
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < width; c++) store(to + r * PANEL + c * LANES, acc[r][c]);
}

// C += A B, likewise. C is fetched at the start and added at the end, off the critical path.
INLINE void add_tile(const int width, real *c, int64_t c_pitch, const word *a, int64_t row_stride, int64_t depth_stride,
                     const word *b, const int pitch, int64_t depth) {
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int i = 0; i < width; i += 64 / VECTOR_BYTES) __builtin_prefetch(c + r * c_pitch + i * LANES, 1);
    vector acc[ROW_TILE][TILE_VECTORS];
    multiply_tile(width, a, row_stride, depth_stride, b, pitch, depth, acc);
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int i = 0; i < width; i++) {
            real *place = c + r * c_pitch + i * LANES;
            store(place, acc[r][i] + load(place));
        }
}

// What the arithmetic can do at most: as many chains of multiply-adds as a register tile has accumulators,
// none of which waits for another, and no memory.
enum { CHAINS = ROW_TILE * TILE_VECTORS };

static int64_t multiply_adds(int64_t rounds) {
    vector chains[CHAINS];
    UNROLLED for (int i = 0; i < CHAINS; i++) chains[i] = all((real)i);
#if defined(KERNEL_BFLOAT16)
    const word_vector ones = all_words(0x3f803f80u), opposite = all_words(0x3f80bf80u);   // (1, 1) and (-1, 1)
#else
    const vector factor = all((real)0.875), addend = all((real)0.125);
#endif
    for (int64_t round = 0; round < rounds; round++) {
#if defined(KERNEL_BFLOAT16)
        UNROLLED for (int i = 0; i < CHAINS; i++) chains[i] = multiply_add(ones, opposite, chains[i]);
#else
        UNROLLED for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * factor + addend;
#endif
        // The compiler must believe that every chain is wanted, or it drops some and the ceiling comes out too high.
        UNROLLED for (int i = 0; i < CHAINS; i++) WANTED(chains[i]);
    }
    return rounds * CHAINS * LANES * WORD_NUMBERS * 2;
}
