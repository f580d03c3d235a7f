// Backward: one unit is a block of keys against all queries of its heads. With P = 2^(S - lse) and dP = dO V^T:
//     dV += P^T dO     dS = P (dP - delta)     dK += dS^T Q     dQ += dS K
// dK and dV belong to the unit. dQ of a query block gets one addend from every key block, in the order of the key
// blocks: a ticket says which was the last one, and a unit waits for its predecessor before it adds.

typedef struct {
    row_facts *rows;
    key_facts *keys;
    tile_range *ranges;     // [rows / ROW_TILE] keys that a tile of rows sees
    tile_range *key_ranges; // [KEY_ROWS / ROW_TILE] rows that see a tile of keys
    real *q, *dout;         // [rows][D'], Q times scale * log2 e
    real *qp, *doutp;       // the same by panels of columns
    real *p, *ds;           // [rows][ROW_PITCH]
    real *slope;            // [rows][ROW_PITCH] derivative of the soft cap
    real *dq;               // [rows][D']
    real *lse, *lse_rest;   // [rows], in log2 units: the rounded value and what rounding left
    real *delta;            // [rows]
    real *k, *v;            // [KEY_BLOCK][D']
    real *kt, *vt, *kp;     // packed K^T, V^T, K
    real *dk, *dv;          // [KEY_ROWS][D']
} backward_scratch;

static size_t carve_backward(backward_scratch *s, const attention_plan *plan, char *memory) {
    uintptr_t at = (uintptr_t)memory;
    const size_t rows = (size_t)plan->rows, width = (size_t)plan->padded_size, n = sizeof(real);
    s->rows = take(&at, rows * sizeof(row_facts));
    s->keys = take(&at, sizeof(key_facts));
    s->ranges = take(&at, rows / ROW_TILE * sizeof(tile_range));
    s->key_ranges = take(&at, KEY_ROWS / ROW_TILE * sizeof(tile_range));
    s->q = take(&at, rows * width * n);
    s->dout = take(&at, rows * width * n);
    s->qp = take(&at, rows * width * n);
    s->doutp = take(&at, rows * width * n);
    s->p = take(&at, rows * ROW_PITCH * n);
    s->ds = take(&at, rows * ROW_PITCH * n);
    s->slope = take(&at, rows * ROW_PITCH * n);
    s->dq = take(&at, rows * width * n);
    s->lse = take(&at, rows * n);
    s->lse_rest = take(&at, rows * n);
    s->delta = take(&at, rows * n);
    s->k = take(&at, KEY_BLOCK * width * n);
    s->v = take(&at, KEY_BLOCK * width * n);
    s->kt = take(&at, KEY_BLOCK * width * n);
    s->vt = take(&at, KEY_BLOCK * width * n);
    s->kp = take(&at, KEY_BLOCK * width * n);
    s->dk = take(&at, KEY_ROWS * width * n);
    s->dv = take(&at, KEY_ROWS * width * n);
    return (size_t)(at - (uintptr_t)memory);
}

static size_t backward_worker_bytes(const attention_plan *plan) {
    backward_scratch s;
    return carve_backward(&s, plan, NULL);
}

// MARK: P and dS

typedef enum { STORE_PRODUCT, STORE_PROBABILITIES, STORE_LOGIT_GRADIENTS } tile_end;

INLINE void gradient_tile(const tile_end end, backward_scratch *s, int64_t width, const real *a, int64_t row,
                          int64_t column, const real *panel, real *to) {
    vector acc[ROW_TILE][TILE_VECTORS];
    clear_tile(acc);
    multiply_tile(TILE_VECTORS, a + row * width, width, 1, panel, TILE_VECTORS, width, acc);
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) {
            const int64_t at = (row + r) * ROW_PITCH + column + c * LANES;
            vector x = acc[r][c];
            if (end == STORE_PROBABILITIES) x = exp2_vector(x - s->lse[row + r] - s->lse_rest[row + r]);
            if (end == STORE_LOGIT_GRADIENTS) x = load(s->p + at) * (x - s->delta[row + r]);
            store(to + at, x);
        }
}

// Where a tile sees nothing of a panel: the products over queries read these as numbers.
INLINE void clear_gradient_tile(real *to) {
    UNROLLED for (int r = 0; r < ROW_TILE; r++)
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) store(to + r * ROW_PITCH + c * LANES, (vector){0});
}

#define DEFINE_GRADIENT(name, end, a, panels, to)                                                                     \
    NOT_INLINE void name(backward_scratch *s, int64_t width, int64_t rows) {                                          \
        const real *panel = panels;                                                                                   \
        for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += width * PANEL)                         \
            for (int64_t row = 0; row < rows; row += ROW_TILE)                                                        \
                if (touches(s->ranges + row / ROW_TILE, column))                                                      \
                    gradient_tile(end, s, width, a, row, column, panel, to);                                          \
                else                                                                                                  \
                    clear_gradient_tile(to + row * ROW_PITCH + column);                                               \
    }
DEFINE_GRADIENT(store_logits, STORE_PRODUCT, s->q, s->kt, s->p)
DEFINE_GRADIENT(fuse_probabilities, STORE_PROBABILITIES, s->q, s->kt, s->p)
DEFINE_GRADIENT(store_weight_gradients, STORE_PRODUCT, s->dout, s->vt, s->ds)
DEFINE_GRADIENT(fuse_logit_gradients, STORE_LOGIT_GRADIENTS, s->dout, s->vt, s->ds)
#undef DEFINE_GRADIENT

// Logits in memory to probabilities. Hidden keys are replaced before the exponential, which makes exact zeros of them.
NOT_INLINE void probability_rows(backward_scratch *s, int64_t count, const term_facts *terms, bool partial) {
    for (int64_t row = 0; row < count; row++) {
        real *p = s->p + row * ROW_PITCH;
        if (terms->capped || terms->alibi || terms->bias)
            modify_logits(p, s->slope + row * ROW_PITCH, s->rows + row, s->keys, terms);
        if (partial) replace_hidden(p, s->rows + row, s->keys, terms->documents, (real)MASKED);
        const vector lse = all(s->lse[row]), rest = all(s->lse_rest[row]);
        for (int64_t j = 0; j < KEY_BLOCK; j += LANES) store(p + j, exp2_vector(load(p + j) - lse - rest));
    }
}

// dP in memory to dS; P becomes what multiplied V in the forward, with its dropout.
NOT_INLINE void logit_gradient_rows(backward_scratch *s, int64_t count, const term_facts *terms) {
    real factors[KEY_BLOCK];
    for (int64_t row = 0; row < count; row++) {
        real *restrict p = s->p + row * ROW_PITCH, *restrict ds = s->ds + row * ROW_PITCH;
        const real delta = s->delta[row];
        if (terms->dropping) {
            find_kept(factors, s->rows + row, s->keys, terms);
            for (int64_t j = 0; j < KEY_BLOCK; j++) ds[j] = p[j] * (ds[j] * factors[j] - delta);
            for (int64_t j = 0; j < KEY_BLOCK; j++) p[j] *= factors[j];
        } else {
            for (int64_t j = 0; j < KEY_BLOCK; j++) ds[j] = p[j] * (ds[j] - delta);
        }
        real *dbias = s->rows[row].dbias;   // the bias is added after the cap: dS before the cap's derivative
        if (dbias && terms->dbias_stride != 0) {
            for (int64_t j = 0; j < s->keys->count; j++) dbias[s->keys->positions[j] * terms->dbias_stride] += ds[j];
        } else if (dbias) {   // the sum over keys cancels: in double, rounded once
            double sum = 0;
            for (int64_t j = 0; j < s->keys->count; j++) sum += (double)ds[j];
            *dbias += (real)sum;
        }
        if (!terms->capped) continue;
        const real *restrict slope = s->slope + row * ROW_PITCH;
        for (int64_t j = 0; j < KEY_BLOCK; j++) ds[j] *= slope[j];
    }
}

// The rows that see a tile of keys, from the keys that the tiles of rows see.
static void find_key_ranges(tile_range *key_ranges, const tile_range *ranges, int64_t tiles) {
    for (int64_t key = 0; key < KEY_ROWS; key += ROW_TILE, key_ranges++) {
        *key_ranges = (tile_range){0, 0};
        for (int64_t row = 0; row < tiles; row += ROW_TILE) {
            const tile_range *range = ranges + row / ROW_TILE;
            if (range->first >= key + ROW_TILE || range->end <= key) continue;
            if (key_ranges->end == 0) key_ranges->first = (int32_t)row;
            key_ranges->end = (int32_t)(row + ROW_TILE);
        }
    }
}

// MARK: a unit

static void gather_queries(backward_scratch *s, const attention_plan *plan, int64_t batch, int64_t kv_head,
                           int64_t first, int64_t queries, int64_t rows, int64_t tiles) {
    const rz_attention_problem *p = plan->problem;
    const int64_t width = plan->padded_size;
    find_rows(s->rows, plan, batch, kv_head, first, queries);
    for (int64_t g = 0; g < plan->group; g++) {
        const int64_t head = kv_head * plan->group + g;
        const rz_attention_tensor *q = &plan->q, *dout = &plan->dout;
        pack_rows(s->q + g * queries * width, q,
                  batch * q->batch_stride + head * q->head_stride + first * q->token_stride, queries, queries,
                  p->head_size, width, (real)(p->scale * LOG2_E));
        pack_rows(s->dout + g * queries * width, dout,
                  batch * dout->batch_stride + head * dout->head_stride + first * dout->token_stride, queries, queries,
                  p->head_size, width, 1);
    }
    memset(s->q + rows * width, 0, sizeof(real) * (size_t)((tiles - rows) * width));
    memset(s->dout + rows * width, 0, sizeof(real) * (size_t)((tiles - rows) * width));
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

static void backward_pair(backward_scratch *s, const attention_plan *plan, const term_facts *terms, int64_t rows,
                          bool partial) {
    const int64_t width = plan->padded_size, count = s->keys->count;
    const int64_t tiles = blocks_of(rows, ROW_TILE) * ROW_TILE;
    memset(s->dq, 0, sizeof(real) * (size_t)(tiles * width));
    if (has_products(plan->problem)) {
        __auto_type multiply = plan->problem->products.EXTERNAL_PRODUCT;
        multiply(RZ_PLAIN, RZ_TRANSPOSED, rows, KEY_BLOCK, width, s->q, width, s->k, width, 0, s->p, ROW_PITCH);
        multiply(RZ_PLAIN, RZ_TRANSPOSED, rows, KEY_BLOCK, width, s->dout, width, s->v, width, 0, s->ds, ROW_PITCH);
        probability_rows(s, rows, terms, partial);
        logit_gradient_rows(s, rows, terms);
        multiply(RZ_TRANSPOSED, RZ_PLAIN, count, width, rows, s->p, ROW_PITCH, s->dout, width, 1, s->dv, width);
        multiply(RZ_TRANSPOSED, RZ_PLAIN, count, width, rows, s->ds, ROW_PITCH, s->q, width, 1, s->dk, width);
        multiply(RZ_PLAIN, RZ_PLAIN, rows, width, count, s->ds, ROW_PITCH, s->k, width, 1, s->dq, width);
        return;
    }
    find_ranges(s->ranges, s->rows, rows, s->keys, terms->documents, partial);
    find_key_ranges(s->key_ranges, s->ranges, tiles);
    if (terms->plain) {
        fuse_probabilities(s, width, tiles);
        if (partial)
            for (int64_t row = 0; row < rows; row++)
                replace_hidden(s->p + row * ROW_PITCH, s->rows + row, s->keys, terms->documents, 0);
        fuse_logit_gradients(s, width, tiles);
    } else {
        store_logits(s, width, tiles);
        probability_rows(s, rows, terms, partial);
        store_weight_gradients(s, width, tiles);
        logit_gradient_rows(s, rows, terms);
        // Padding rows count in the sums over queries: they must be zero (the fused way gets that from their lse).
        memset(s->p + rows * ROW_PITCH, 0, sizeof(real) * (size_t)((tiles - rows) * ROW_PITCH));
        memset(s->ds + rows * ROW_PITCH, 0, sizeof(real) * (size_t)((tiles - rows) * ROW_PITCH));
    }
    pack_columns(s->qp, s->q, tiles, width);
    pack_columns(s->doutp, s->dout, tiles, width);
    const int64_t key_tiles = blocks_of(count, ROW_TILE) * ROW_TILE;
    add_transposed_product(s->dv, width, s->p, s->doutp, tiles, key_tiles, s->key_ranges);
    add_transposed_product(s->dk, width, s->ds, s->qp, tiles, key_tiles, s->key_ranges);
    add_product(s->dq, width, s->ds, s->kp, KEY_BLOCK, tiles, s->ranges);
}

// Waits until the key block before this one (of those that see these queries) has added its dQ. Spinning is brief:
// workers on neighbouring key blocks walk the query blocks one behind the other.
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

static void backward_unit(void *arg, int64_t index, int64_t worker) {
    attention_plan *plan = arg;
    const rz_attention_problem *p = plan->problem;
    backward_scratch s;
    carve_backward(&s, plan, plan->worker_memory + plan->worker_bytes * (size_t)worker);
    const int64_t block = index % plan->key_blocks, head = index / plan->key_blocks;   // head counts batch x kv heads
    const int64_t batch = head / p->kv_heads, kv_head = head % p->kv_heads;
    const int64_t width = plan->padded_size, size = p->head_size, first = block * KEY_BLOCK;
    const block_span *keys = key_span(plan, batch, block);
    const term_facts terms = terms_of(plan);
    int64_t pairs = 0;

    for (int64_t i = 0; i < plan->query_blocks; i++) {
        const pair_kind kind = classify(p, query_span(plan, batch, i), keys);
        if (kind == PAIR_SKIPPED) continue;
        if (pairs++ == 0) {
            find_keys(s.keys, plan, batch, block);
            const rz_attention_tensor *k = &plan->k, *v = &plan->v;
            const int64_t k_at = batch * k->batch_stride + kv_head * k->head_stride + first * k->token_stride;
            const int64_t v_at = batch * v->batch_stride + kv_head * v->head_stride + first * v->token_stride;
            pack_rows(s.k, k, k_at, s.keys->count, KEY_BLOCK, size, width, 1);
            pack_rows(s.v, v, v_at, s.keys->count, KEY_BLOCK, size, width, 1);
            if (!has_products(p)) {
                pack_transposed(s.kt, s.k, KEY_BLOCK, width);
                pack_transposed(s.vt, s.v, KEY_BLOCK, width);
                pack_columns(s.kp, s.k, KEY_BLOCK, width);
                // The last tile of 6 keys reads columns beyond the block: they must hold numbers.
                for (int64_t row = 0; row < plan->rows; row++) {
                    memset(s.p + row * ROW_PITCH + KEY_BLOCK, 0, sizeof(real) * (ROW_PITCH - KEY_BLOCK));
                    memset(s.ds + row * ROW_PITCH + KEY_BLOCK, 0, sizeof(real) * (ROW_PITCH - KEY_BLOCK));
                }
            }
            memset(s.dk, 0, sizeof(real) * (size_t)(KEY_ROWS * width));
            memset(s.dv, 0, sizeof(real) * (size_t)(KEY_ROWS * width));
        }
        const int64_t start = i * plan->query_block, queries = smaller(plan->query_block, p->query_count - start);
        const int64_t rows = queries * plan->group;
        gather_queries(&s, plan, batch, kv_head, start, queries, rows, blocks_of(rows, ROW_TILE) * ROW_TILE);
        backward_pair(&s, plan, &terms, rows, kind == PAIR_PARTIAL || s.keys->count < KEY_BLOCK);

        int64_t predecessor = block;   // as tickets count: 1 + index of the key block
        while (predecessor > 0
               && classify(p, query_span(plan, batch, i), key_span(plan, batch, predecessor - 1)) == PAIR_SKIPPED)
            predecessor--;
        _Atomic int64_t *ticket = plan->tickets + head * plan->query_blocks + i;
        wait_for_ticket(ticket, predecessor);
        for (int64_t row = 0; row < rows; row++) {
            real *restrict to = (real *)plan->dq + s.rows[row].state * size;
            const real *restrict from = s.dq + row * width;
            const real scale = (real)p->scale;
            for (int64_t d = 0; d < size; d++) to[d] += scale * from[d];
        }
        atomic_store_explicit(ticket, block + 1, memory_order_release);
    }
    if (pairs == 0) return;
    atomic_fetch_add_explicit(&plan->pairs, pairs, memory_order_relaxed);

    // Q was packed times scale * log2 e; dK wants scale alone.
    for (int64_t j = 0; j < s.keys->count; j++) {
        const int64_t at = (head * p->key_count + first + j) * size;
        real *restrict dk = (real *)plan->dk + at, *restrict dv = (real *)plan->dv + at;
        const real *restrict dk_from = s.dk + j * width, *restrict dv_from = s.dv + j * width;
        for (int64_t d = 0; d < size; d++) dk[d] += (real)LN_2 * dk_from[d];
        for (int64_t d = 0; d < size; d++) dv[d] += dv_from[d];
    }
}
