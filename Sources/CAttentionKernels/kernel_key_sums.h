// Sums over queries, dV += P^T dO and dK += dS^T Q, for engines that read P^T by columns of P: tiles of 6 keys, row-major sums.

enum { KEY_TILE = ROW_TILE, KEY_ROWS = (KEY_BLOCK + KEY_TILE - 1) / KEY_TILE * KEY_TILE, PACKS_TWICE = 0 };
_Static_assert(KEY_ROWS <= ROW_PITCH, "a last tile of keys stays in its row");

// Q and dO are packed by panels of columns.
INLINE void pack_key_factor(word *to, word *between, const word *from, int64_t rows, int64_t padded) {
    pack_columns(to, from, 0, rows, rows, padded);
}

INLINE void add_key_sums(real *sums, int64_t padded, const word *p, const word *factor, int64_t rows, int64_t keys,
                         const index_range *ranges) {
    add_transposed_product(sums, padded, p, factor, rows, keys, ranges);
}

// The sums of LANES keys from `key` on, row-major.
INLINE const real *rows_of_key_sums(real *strip, const real *sums, int64_t key, int64_t padded) { return sums + key * padded; }
