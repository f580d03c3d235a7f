// What benchmarks and tests ask of a kernel set.

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

static void exponentials(const void *from, void *to, int64_t count) {
    const real *x = from;
    real *y = to;
    for (int64_t i = 0; i < count; i += LANES) {
        vector in = {0};
        const size_t bytes = sizeof(real) * (size_t)smaller(LANES, count - i);
        memcpy(&in, x + i, bytes);
        const vector out = exp2_vector(in);
        memcpy(y + i, &out, bytes);
    }
}
