// P and dS as words. dV += P^T dO and dK += dS^T Q sum over queries and read words of two queries (p_words, ds_words);
// dQ += dS K sums over keys and reads words of two keys (ds_rows).

// Where a tile sees nothing of a panel: the products over queries read these as numbers.
INLINE void clear_query_words(word *to) {
    EACH_ROW for (int r = 0; r < ROW_TILE / 2; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) store_words(to + r * ROW_PITCH + c * LANES, (word_vector){0});
}

// P and dS in memory to words, after everything a row can need. Words take the places of numbers that were read: all of P, whose
// second half makes room, before dS.
NOT_INLINE void round_gradients(backward_scratch *s) {
    for (int64_t row = 0; row < s->tiles; row += 2)
        for (int64_t j = 0; j < KEY_BLOCK; j += LANES) {
            const real *p = s->p + row * ROW_PITCH + j;
            store_words(s->p_words + row / 2 * ROW_PITCH + j, words_of(load(p), load(p + ROW_PITCH)));
        }
    for (int64_t row = 0; row < s->tiles; row += 2)
        for (int64_t j = 0; j < KEY_BLOCK; j += 2 * LANES) {
            vector ds[2][2];
            UNROLLED for (int i = 0; i < 2; i++) {
                UNROLLED for (int c = 0; c < 2; c++) ds[i][c] = load(s->ds + (row + i) * ROW_PITCH + j + c * LANES);
                store_words(s->ds_rows + (row + i) * WORD_PITCH + j / 2, words_along(ds[i][0], ds[i][1]));
            }
            UNROLLED for (int c = 0; c < 2; c++)
                store_words(s->ds_words + row / 2 * ROW_PITCH + j + c * LANES, words_of(ds[0][c], ds[1][c]));
        }
}

#if defined(KERNEL_AMX)
#include "kernel_gradients_amx.h"
#else
#include "kernel_gradients_bf16.h"
#endif

static void fused_pair(backward_scratch *s, key_block *block, int64_t width) {
    fuse_gradients(s, block, width);
    add_dv(s, block, width);
    add_dk_dq(s, block, width, s->ds_words, s->ds_rows);
}
