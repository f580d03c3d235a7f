// P and dS as words. dV += P^T dO and dK += dS^T Q sum over queries and read words of two queries (p_words, ds_words);
// dQ += dS K sums over keys and reads words of two keys (ds_rows).

// Where a tile sees nothing of a panel: the products over queries read these as numbers.
INLINE void clear_query_words(word *to) {
    EACH_ROW for (int r = 0; r < ROW_TILE / 2; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) store_words(to + r * ROW_PITCH + c * LANES, (word_vector){0});
}

// P and dS in memory to words, after everything a row can need.
NOT_INLINE void round_gradients(backward_scratch *s) {
    for (int64_t row = 0; row < s->tiles; row += 2)
        for (int64_t j = 0; j < KEY_BLOCK; j += 2 * LANES) {
            const real *p = s->p + row * ROW_PITCH + j, *ds = s->ds + row * ROW_PITCH + j;
            UNROLLED for (int c = 0; c < 2; c++, p += LANES, ds += LANES) {
                const int64_t at = row / 2 * ROW_PITCH + j + c * LANES;
                store_words(s->p_words + at, words_of(load(p), load(p + ROW_PITCH)));
                store_words(s->ds_words + at, words_of(load(ds), load(ds + ROW_PITCH)));
            }
            ds = s->ds + row * ROW_PITCH + j;
            word *ds_rows = s->ds_rows + row * WORD_PITCH + j / 2;
            store_words(ds_rows, words_along(load(ds), load(ds + LANES)));
            store_words(ds_rows + WORD_PITCH, words_along(load(ds + ROW_PITCH), load(ds + ROW_PITCH + LANES)));
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
