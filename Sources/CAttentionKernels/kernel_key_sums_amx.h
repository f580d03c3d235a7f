// Sums over queries on AMX, which reads the first factor by rows: dV^T += dO^T P and dK^T += Q^T dS, with sums [D'][KEY_BLOCK]. P by
// words of two queries is a second factor as it lies.

enum { KEY_TILE = PANEL, KEY_ROWS = KEY_BLOCK, PACKS_TWICE = 1 };

// Q and dO become [D'][rows / 2] words of two rows.
NOT_INLINE void pack_key_factor(word *to, word *between, const word *from, int64_t rows, int64_t padded) {
    pack_columns(between, from, 0, rows, rows, padded);
    const int64_t pitch = rows / 2;
    for (int64_t d = 0; d < padded; d += LANES) {
        const int64_t panel = d / PANEL * PANEL, width = smaller(PANEL, padded - panel);
        const word *place = between + pitch * panel + (d - panel);
        for (int64_t pair = 0; pair < pitch; pair += LANES) {
            vector x[LANES];
            UNROLLED for (int i = 0; i < LANES; i++) x[i] = (vector)load_words(place + (pair + i) * width);
            transpose_square(x);
            UNROLLED for (int i = 0; i < LANES; i++) store_words(to + (d + i) * pitch + pair, (word_vector)x[i]);
        }
    }
}

// All rows of D' past one panel of keys at a time, over the queries that see it.
NOT_INLINE void add_key_sums(real *sums, int64_t padded, const word *p, const word *factor, int64_t rows, int64_t keys,
                             const index_range *ranges) {
    for (int64_t key = 0; key < keys; key += PANEL, ranges++) {
        const int64_t first = ranges->first / 2, depth = ranges->end / 2 - first;
        if (depth <= 0) continue;
        for (int64_t d = 0; d < padded; d += ROW_TILE)
            add_tile(TILE_VECTORS, sums + d * KEY_BLOCK + key, KEY_BLOCK, factor + d * (rows / 2) + first, rows / 2, 1,
                     p + first * ROW_PITCH + key, ROW_PITCH / LANES, depth);
    }
}

// The sums of LANES keys from `key` on, row-major.
INLINE const real *rows_of_key_sums(real *strip, const real *sums, int64_t key, int64_t padded) {
    for (int64_t d = 0; d < padded; d += LANES) {
        vector x[LANES];
        UNROLLED for (int i = 0; i < LANES; i++) x[i] = load(sums + (d + i) * KEY_BLOCK + key);
        transpose_square(x);
        UNROLLED for (int i = 0; i < LANES; i++) store(strip + i * padded + d, x[i]);
    }
    return strip;
}
