// Backward: one unit is a few neighbouring blocks of keys against all queries of its heads. With P = 2^(S - lse) and dP = dO V^T:
//     dV += P^T dO     dS = P (dP - delta)     dK += dS^T Q     dQ += dS K
// dK and dV belong to the unit. dQ of a query block gets one addend from every unit, in the order of units: a ticket says which
// was the last one, and a unit waits for its predecessor before it adds.

#if defined(KERNEL_AMX)
#include "kernel_key_sums_amx.h"
#else
#include "kernel_key_sums.h"
#endif

// A block of keys, packed once for all queries, and what it gathers.
typedef struct {
    key_facts *keys;
    word *k, *v;                // K^T and V^T by panels of keys; row-major for external products
    word *kp;                   // K by panels of columns
    real *dk, *dv;              // [KEY_ROWS][D'], or [D'][KEY_ROWS]: kernel_key_sums*.h
    bool open;                  // some query sees it
} key_block;

typedef struct {
    key_block blocks[BACKWARD_SHARE];
    row_facts *rows;
    index_range *visible;       // [rows] keys that a row sees
    index_range *any, *every;   // [rows / ROW_TILE] keys that some row and that every row of a tile sees
    index_range *key_ranges;    // [KEY_ROWS / KEY_TILE] rows that see a tile of keys
    int64_t count, tiles;       // rows in use, and up to a multiple of ROW_TILE
    word *q, *dout;             // [rows][D'], Q as pack_queries makes it
    word *qp, *doutp;           // the same packed for sums over queries
    word *between;              // [rows][D'] on the way into qp and doutp, and
    real *strip;                // [LANES][D'] on the way out of dk and dv, where they need one
    real *p, *ds;               // [rows][ROW_PITCH]
    word *p_words, *ds_words;   // [rows / WORD_NUMBERS][ROW_PITCH]: P and dS for sums over queries, in the places of `p` and `ds`
    word *ds_rows;              // [rows][WORD_PITCH]: dS for sums over keys; behind `p_words`, or `ds` itself where words are numbers
    real *slope;                // [rows][ROW_PITCH] derivative of the soft cap, then the gradient of the bias: keeps_slope
    real *dq;                   // [rows][D']
    real *lse, *lse_rest;       // [rows], in log2 units: the rounded value and what rounding left
    real *delta;                // [rows]
    word *few;                  // [LANES][D']: rows on their way into panels
    real scale;                 // of products of Q and K, to logits in log2 units
} backward_scratch;

static size_t carve_backward(backward_scratch *s, const attention_plan *plan, char *memory) {
    uintptr_t at = (uintptr_t)memory;
    const size_t rows = (size_t)plan->rows, width = (size_t)plan->padded_size, n = sizeof(real);
    const size_t word_width = width / WORD_NUMBERS * sizeof(word);
    s->scale = logit_scale(plan->problem);
    for (int64_t i = 0; i < plan->maximum_share; i++) {   // whatever the share: memory does not depend on the lengths
        key_block *block = s->blocks + i;
        block->keys = take(&at, sizeof(key_facts));
        block->k = take(&at, KEY_BLOCK * word_width);
        block->v = take(&at, KEY_BLOCK * word_width);
        block->kp = take(&at, KEY_BLOCK * word_width);
        block->dk = take(&at, KEY_ROWS * width * n);
        block->dv = take(&at, KEY_ROWS * width * n);
        block->open = false;
    }
    s->rows = take(&at, rows * sizeof(row_facts));
    s->visible = take(&at, rows * sizeof(index_range));
    s->any = take(&at, rows / ROW_TILE * sizeof(index_range));
    s->every = take(&at, rows / ROW_TILE * sizeof(index_range));
    s->key_ranges = take(&at, KEY_ROWS / KEY_TILE * sizeof(index_range));
    s->q = take(&at, rows * word_width);
    s->dout = take(&at, rows * word_width);
    s->qp = take(&at, rows * word_width);
    s->doutp = take(&at, rows * word_width);
    s->between = take(&at, PACKS_TWICE * rows * word_width);
    s->strip = take(&at, PACKS_TWICE * LANES * width * n);
    const size_t words = rows / WORD_NUMBERS * ROW_PITCH;
    s->p = take(&at, ROUNDS_WEIGHTS ? (words + rows * WORD_PITCH) * sizeof(word) : rows * ROW_PITCH * n);
    s->ds = take(&at, rows * ROW_PITCH * n);
    s->p_words = (word *)s->p, s->ds_words = (word *)s->ds;
    s->ds_rows = ROUNDS_WEIGHTS ? s->p_words + words : s->ds_words;
    s->slope = take(&at, keeps_slope(plan->problem) * rows * ROW_PITCH * n);
    s->dq = take(&at, rows * width * n);
    s->lse = take(&at, rows * n);
    s->lse_rest = take(&at, rows * n);
    s->delta = take(&at, rows * n);
    s->few = take(&at, LANES * word_width);
    return (size_t)(at - (uintptr_t)memory);
}

static size_t backward_worker_bytes(const attention_plan *plan) {
    backward_scratch s;
    return carve_backward(&s, plan, NULL);
}

// MARK: products to memory

// Where a tile sees nothing of a panel: the products over queries read these as numbers.
INLINE void clear_gradient_tile(real *to) {
    EACH_ROW for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) store(to + r * ROW_PITCH + c * LANES, (vector){0});
}

// A product of all rows with one panel of keys at a time, to memory.
INLINE void store_product(const backward_scratch *s, const word *a, const word *panel, int64_t words, real scale, real *to) {
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += words * PANEL)
        for (int64_t row = 0; row < s->tiles; row += ROW_TILE) {
            real *place = to + row * ROW_PITCH + column;
            if (!touches(s->any + row / ROW_TILE, column)) {
                clear_gradient_tile(place);
                continue;
            }
            vector acc[ROW_TILE][TILE_VECTORS];
            multiply_tile(TILE_VECTORS, a + row * words, words, 1, panel, TILE_VECTORS, words, acc);
            EACH_ROW for (int r = 0; r < ROW_TILE; r++)
                UNROLLED for (int c = 0; c < TILE_VECTORS; c++)
                    store(place + r * ROW_PITCH + c * LANES, scaled(acc[r][c], scale));
        }
}

NOT_INLINE void store_logits(backward_scratch *s, const key_block *block, int64_t width) {
    store_product(s, s->q, block->k, width / WORD_NUMBERS, s->scale, s->p);
}
NOT_INLINE void store_weight_gradients(backward_scratch *s, const key_block *block, int64_t width) {
    store_product(s, s->dout, block->v, width / WORD_NUMBERS, 1, s->ds);
}

// MARK: sums of a pair

INLINE int64_t key_tiles_of(const key_block *block) { return blocks_of(block->keys->count, KEY_TILE) * KEY_TILE; }

INLINE void add_dv(backward_scratch *s, key_block *block, int64_t width) {
    add_key_sums(block->dv, width, s->p_words, s->doutp, s->tiles, key_tiles_of(block), s->key_ranges);
}

INLINE void add_dk_dq(backward_scratch *s, key_block *block, int64_t width, const word *ds_words, const word *ds_rows) {
    add_key_sums(block->dk, width, ds_words, s->qp, s->tiles, key_tiles_of(block), s->key_ranges);
    add_product(s->dq, width, ds_rows, block->kp, KEY_BLOCK, s->tiles, s->any);
}

// MARK: P and dS

#if defined(KERNEL_BFLOAT16)
#include "kernel_gradient_words.h"
#else
#include "kernel_gradients.h"
#endif

// The columns of a row that were computed: whole panels, empty where its tile sees nothing.
INLINE index_range columns_of(const backward_scratch *s, int64_t row) {
    const index_range any = s->any[row / ROW_TILE];
    if (any.first >= any.end) return (index_range){0, 0};
    return (index_range){any.first / PANEL * PANEL, (int32_t)(blocks_of(any.end, PANEL) * PANEL)};
}

// Logits in memory to probabilities. Hidden keys are replaced before the exponential, which makes exact zeros of them.
NOT_INLINE void probability_rows(backward_scratch *s, const key_facts *keys, const term_facts *terms, bool partial) {
    for (int64_t row = 0; row < s->count; row++) {
        const index_range columns = columns_of(s, row);
        const row_facts *facts = s->rows + row;
        real *p = s->p + row * ROW_PITCH;
        modify_logits(p, s->slope + row * ROW_PITCH, facts, keys, terms, columns.first, columns.end);
        if (partial)
            replace_hidden(p, facts, s->visible + row, keys, terms->documents, columns.first, columns.end,
                           (real)MASKED);
        const vector lse = all(s->lse[row]), rest = all(s->lse_rest[row]);
        for (int64_t j = columns.first; j < columns.end; j += LANES)
            store(p + j, exp2_weight(load(p + j) - lse - rest));
    }
}

// dP in memory to dS; P becomes what multiplied V in the forward, with its dropout. Where the bias wants a gradient, `slope`
// keeps dS as it is before the derivative of the cap: the bias is added after the cap.
NOT_INLINE void logit_gradient_rows(backward_scratch *s, const key_facts *keys, const term_facts *terms, bool keep) {
    real factors[KEY_BLOCK] __attribute__((aligned(64)));
    for (int64_t row = 0; row < s->count; row++) {
        const index_range columns = columns_of(s, row);
        real *p = s->p + row * ROW_PITCH, *ds = s->ds + row * ROW_PITCH;
        real *slope = s->slope + row * ROW_PITCH;
        const vector delta = all(s->delta[row]);
        if (terms->dropping) {
            find_kept(factors, s->rows + row, keys, terms, columns.first, columns.end);
            for (int64_t j = columns.first; j < columns.end; j += LANES) {
                const vector weight = load(p + j), factor = load(factors + j);
                store(ds + j, weight * (load(ds + j) * factor - delta));
                store(p + j, weight * factor);
            }
        } else {
            for (int64_t j = columns.first; j < columns.end; j += LANES)
                store(ds + j, load(p + j) * (load(ds + j) - delta));
        }
        if (terms->capped)
            for (int64_t j = columns.first; j < columns.end; j += LANES) {
                const vector own = load(ds + j);
                store(ds + j, own * load(slope + j));
                store(slope + j, own);
            }
        else if (keep)
            memcpy(slope + columns.first, ds + columns.first, sizeof(real) * (size_t)(columns.end - columns.first));
    }
}

// Adds what `slope` kept to the gradient of the bias.
NOT_INLINE void add_bias_gradient(const backward_scratch *s, const key_facts *keys, const term_facts *terms) {
    for (int64_t row = 0; row < s->count; row++) {
        const index_range columns = columns_of(s, row);
        const int64_t end = smaller(columns.end, keys->count);
        const real *restrict ds = s->slope + row * ROW_PITCH;
        real *restrict dbias = s->rows[row].dbias;
        if (terms->dbias_stride == 1 && keys->consecutive) {
            dbias += keys->base;
            for (int64_t j = columns.first; j < end; j++) dbias[j] += ds[j];
        } else if (terms->dbias_stride != 0) {
            for (int64_t j = columns.first; j < end; j++) dbias[keys->positions[j] * terms->dbias_stride] += ds[j];
        } else {   // the sum over keys cancels: in double, rounded once
            double sum = 0;
            for (int64_t j = columns.first; j < end; j++) sum += (double)ds[j];
            *dbias += (real)sum;
        }
    }
}

// The rows that see a tile of keys, from the keys that the tiles of rows see.
static void find_key_ranges(index_range *key_ranges, const index_range *any, int64_t tiles) {
    for (int64_t key = 0; key < KEY_ROWS; key += KEY_TILE, key_ranges++) {
        *key_ranges = (index_range){0, 0};
        for (int64_t row = 0; row < tiles; row += ROW_TILE) {
            const index_range *range = any + row / ROW_TILE;
            if (range->first >= key + KEY_TILE || range->end <= key) continue;
            if (key_ranges->end == 0) key_ranges->first = (int32_t)row;
            key_ranges->end = (int32_t)(row + ROW_TILE);
        }
    }
}

// MARK: a unit

static void gather_queries(backward_scratch *s, const attention_plan *plan, int64_t batch, int64_t kv_head,
                           int64_t block) {
    const rz_attention_problem *p = plan->problem;
    const int64_t width = plan->padded_size, words = width / WORD_NUMBERS, first = block * plan->query_block;
    const int64_t queries = smaller(plan->query_block, p->query_count - first);
    const int64_t rows = queries * plan->group, tiles = blocks_of(rows, ROW_TILE) * ROW_TILE;
    s->count = rows, s->tiles = tiles;
    find_rows(s->rows, plan, batch, kv_head, first, queries);
    for (int64_t row = rows; row < tiles; row++) s->rows[row] = s->rows[rows - 1];
    for (int64_t g = 0; g < plan->group; g++) {
        const int64_t head = kv_head * plan->group + g;
        const rz_attention_tensor *q = &plan->q, *dout = &plan->dout;
        pack_queries(s->q + g * queries * words, q,
                     batch * q->batch_stride + head * q->head_stride + first * q->token_stride, queries, width, p);
        pack_rows(s->dout + g * queries * words, dout,
                  batch * dout->batch_stride + head * dout->head_stride + first * dout->token_stride, queries, queries, queries,
                  p->head_size, width);
    }
    memset(s->q + rows * words, 0, sizeof(word) * (size_t)((tiles - rows) * words));
    memset(s->dout + rows * words, 0, sizeof(word) * (size_t)((tiles - rows) * words));
    memset(s->dq, 0, sizeof(real) * (size_t)(tiles * width));
    if (!has_products(p)) {
        pack_key_factor(s->qp, s->between, s->q, tiles, width);
        pack_key_factor(s->doutp, s->between, s->dout, tiles, width);
    }
    for (int64_t row = 0; row < tiles; row++) {
        // A row without a key, and a padding row: a huge lse makes P an exact zero.
        // The subtraction S - lse is exact where P matters, so the rest of lse is all that is missing: without it P of logits in
        // the hundreds would be wrong by 1e-5.
        const double lse = row < rows ? plan->lse[s->rows[row].state] * LOG2_E : -INFINITY;
        const int empty = lse < (double)EMPTY_REFERENCE;
        s->lse[row] = empty ? -(real)MASKED : (real)lse;
        s->lse_rest[row] = empty ? 0 : (real)(lse - (double)s->lse[row]);
        s->delta[row] = row < rows ? ((const real *)plan->delta)[s->rows[row].state] : 0;
    }
}

static void open_keys(backward_scratch *s, key_block *block, const attention_plan *plan, int64_t batch, int64_t kv_head,
                      int64_t index) {
    const int64_t width = plan->padded_size, size = plan->problem->head_size;
    const rz_attention_tensor *k = &plan->k, *v = &plan->v;
    const int64_t k_at = place_of(k, batch, kv_head, index), v_at = place_of(v, batch, kv_head, index);
    find_keys(block->keys, plan, batch, index, true);
    const int64_t count = block->keys->count;
    if (has_products(plan->problem)) {
        pack_rows(block->k, k, k_at, count, count, KEY_BLOCK, size, width);
        pack_rows(block->v, v, v_at, count, count, KEY_BLOCK, size, width);
    } else {
        pack_block(block->k, block->kp, s->few, k, k_at, count, size, width);
        pack_block(block->v, NULL, s->few, v, v_at, count, size, width);
        // The last tile of 6 keys reads columns beyond the block: they must hold numbers.
        for (int64_t row = 0; KEY_ROWS > KEY_BLOCK && row < plan->rows / WORD_NUMBERS; row++) {
            memset(s->p_words + row * ROW_PITCH + KEY_BLOCK, 0, sizeof(word) * (ROW_PITCH - KEY_BLOCK));
            memset(s->ds_words + row * ROW_PITCH + KEY_BLOCK, 0, sizeof(word) * (ROW_PITCH - KEY_BLOCK));
        }
    }
    memset(block->dk, 0, sizeof(real) * (size_t)(KEY_ROWS * width));
    memset(block->dv, 0, sizeof(real) * (size_t)(KEY_ROWS * width));
    block->open = true;
}

#if !defined(KERNEL_BFLOAT16)   // attention.c leaves external products to the engines whose words are numbers
static void external_backward_pair(backward_scratch *s, key_block *block, const attention_plan *plan,
                                   const term_facts *terms, bool partial) {
    __auto_type multiply = plan->problem->products.EXTERNAL_PRODUCT;
    const int64_t width = plan->padded_size, count = block->keys->count, rows = s->count;
    for (int64_t row = 0; row < s->tiles; row += ROW_TILE) s->any[row / ROW_TILE] = (index_range){0, KEY_BLOCK};
    multiply(RZ_PLAIN, RZ_TRANSPOSED, rows, KEY_BLOCK, width, s->q, width, block->k, width, 0, s->p, ROW_PITCH);
    multiply(RZ_PLAIN, RZ_TRANSPOSED, rows, KEY_BLOCK, width, s->dout, width, block->v, width, 0, s->ds, ROW_PITCH);
    probability_rows(s, block->keys, terms, partial);
    logit_gradient_rows(s, block->keys, terms, plan->dbias != NULL);
    multiply(RZ_TRANSPOSED, RZ_PLAIN, count, width, rows, s->p, ROW_PITCH, s->dout, width, 1, block->dv, width);
    multiply(RZ_TRANSPOSED, RZ_PLAIN, count, width, rows, s->ds, ROW_PITCH, s->q, width, 1, block->dk, width);
    multiply(RZ_PLAIN, RZ_PLAIN, rows, width, count, s->ds, ROW_PITCH, block->k, width, 1, s->dq, width);
}
#endif

static void backward_pair(backward_scratch *s, key_block *block, const attention_plan *plan, const term_facts *terms,
                          bool partial) {
    const int64_t width = plan->padded_size, count = block->keys->count, rows = s->count, tiles = s->tiles;
    partial = partial || count < KEY_BLOCK;
    if (partial) find_visible(s->visible, s->rows, tiles, block->keys, terms->documents);
#if !defined(KERNEL_BFLOAT16)
    if (has_products(plan->problem)) {
        external_backward_pair(s, block, plan, terms, partial);
        return;
    }
#endif
    find_ranges(s->any, s->every, partial ? s->visible : NULL, tiles, block->keys);
    find_key_ranges(s->key_ranges, s->any, tiles);
    if (terms->plain && (!partial || block->keys->ordered)) {
        fused_pair(s, block, width);
        return;
    }
    store_logits(s, block, width);
    probability_rows(s, block->keys, terms, partial);
    store_weight_gradients(s, block, width);
    logit_gradient_rows(s, block->keys, terms, plan->dbias != NULL);
    // Padding rows count in the sums over queries: they must be zero (the fused way gets that from their lse).
    memset(s->p + rows * ROW_PITCH, 0, sizeof(real) * (size_t)((tiles - rows) * ROW_PITCH));
    memset(s->ds + rows * ROW_PITCH, 0, sizeof(real) * (size_t)((tiles - rows) * ROW_PITCH));
    round_gradients(s);
    add_dv(s, block, width);
    add_dk_dq(s, block, width, s->ds_words, s->ds_rows);
}

// Waits until the unit before this one (of those that see these queries) has added its share. Spinning is brief: it was taken before, and
// with one head workers on neighbouring units walk the query blocks one behind the other.
static void wait_for_ticket(_Atomic int64_t *ticket, int64_t predecessor) {
    for (int64_t spins = 0; atomic_load_explicit(ticket, memory_order_acquire) != predecessor; spins++) {
        if (spins > 256) {
            sched_yield();
            continue;
        }
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

// Whether any key block of a unit (counted within its head) sees a block of queries.
static bool unit_sees(const attention_plan *plan, int64_t batch, int64_t unit, int64_t queries) {
    for (int64_t block = unit * plan->share; block < smaller(plan->key_blocks, (unit + 1) * plan->share); block++)
        if (classify(plan->problem, query_span(plan, batch, queries), key_span(plan, batch, block)) != PAIR_SKIPPED)
            return true;
    return false;
}

// The last unit before this one that adds to the same rows, as tickets count: 1 + its index, or 0. A bias may be shared by all
// heads: where it wants a gradient, the order goes through all of them.
static int64_t predecessor_of(const attention_plan *plan, int64_t index, int64_t queries) {
    const int64_t first = plan->dbias ? 0 : index / plan->head_units * plan->head_units;
    while (index > first) {
        index--;
        if (unit_sees(plan, index / plan->head_units / plan->problem->kv_heads, index % plan->head_units, queries))
            return index + 1;
    }
    return 0;
}

static void add_dq(const backward_scratch *s, const attention_plan *plan) {
    const int64_t size = plan->problem->head_size;
    const real scale = (real)plan->problem->scale;
    for (int64_t row = 0; row < s->count; row++) {
        real *restrict to = (real *)plan->dq + s->rows[row].state * size;
        const real *restrict from = s->dq + row * plan->padded_size;
        for (int64_t d = 0; d < size; d++) to[d] += scale * from[d];
    }
}

static void add_key_gradient(real *to, real factor, const real *sums, real *strip, int64_t keys, int64_t size,
                             int64_t padded) {
    for (int64_t key = 0; key < keys; key += LANES) {
        const real *rows = rows_of_key_sums(strip, sums, key, padded);
        for (int64_t j = key; j < smaller(keys, key + LANES); j++, rows += padded) {
            real *restrict row = to + j * size;
            for (int64_t d = 0; d < size; d++) row[d] += factor * rows[d];
        }
    }
}

static void add_dk_dv(const backward_scratch *s, const key_block *block, const attention_plan *plan, int64_t head,
                      int64_t first) {
    const int64_t size = plan->problem->head_size, width = plan->padded_size, count = block->keys->count;
    const int64_t at = (head * plan->problem->key_count + first) * size;
    add_key_gradient((real *)plan->dk + at, key_gradient_scale(plan->problem), block->dk, s->strip, count, size, width);
    add_key_gradient((real *)plan->dv + at, 1, block->dv, s->strip, count, size, width);
}

// The unit that is taken as number `taken`. Those taken one after the other belong to different heads, so that a unit need not wait for
// its predecessor, which was taken long before. A bias that wants its gradient has one order through all heads.
static int64_t unit_taken(const attention_plan *plan, int64_t taken) {
    const int64_t heads = plan->problem->batch * plan->problem->kv_heads;
    return plan->dbias ? taken : taken % heads * plan->head_units + taken / heads;
}

static void backward_unit(void *arg, int64_t taken, int64_t worker) {
    attention_plan *plan = arg;
    const int64_t index = unit_taken(plan, taken);
    const rz_attention_problem *p = plan->problem;
    backward_scratch s;
    carve_backward(&s, plan, plan->worker_memory + plan->worker_bytes * (size_t)worker);
    const int64_t unit = index % plan->head_units, head = index / plan->head_units;   // head counts batch x kv heads
    const int64_t batch = head / p->kv_heads, kv_head = head % p->kv_heads;
    const int64_t first = unit * plan->share, blocks = smaller(plan->share, plan->key_blocks - first);
    const term_facts terms = terms_of(plan);
    int64_t pairs = 0;
    open_products();

    for (int64_t i = 0; i < plan->query_blocks; i++) {
        if (!unit_sees(plan, batch, unit, i)) continue;
        gather_queries(&s, plan, batch, kv_head, i);
        _Atomic int64_t *ticket = plan->tickets + (plan->dbias ? 0 : head * plan->query_blocks) + i;
        const int64_t predecessor = predecessor_of(plan, index, i);
        if (plan->dbias) wait_for_ticket(ticket, predecessor);
        for (int64_t b = 0; b < blocks; b++) {
            key_block *block = s.blocks + b;
            const pair_kind kind = classify(p, query_span(plan, batch, i), key_span(plan, batch, first + b));
            if (kind == PAIR_SKIPPED) continue;
            if (!block->open) open_keys(&s, block, plan, batch, kv_head, first + b);
            backward_pair(&s, block, plan, &terms, kind == PAIR_PARTIAL);
            if (plan->dbias) add_bias_gradient(&s, block->keys, &terms);
            pairs++;
        }
        wait_for_ticket(ticket, predecessor);
        add_dq(&s, plan);
        atomic_store_explicit(ticket, index + 1, memory_order_release);
    }
    close_products();
    atomic_fetch_add_explicit(&plan->pairs, pairs, memory_order_relaxed);
    for (int64_t b = 0; b < blocks; b++)
        if (s.blocks[b].open) add_dk_dv(&s, s.blocks + b, plan, head, (first + b) * KEY_BLOCK);
}
