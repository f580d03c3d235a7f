// Forward: one unit is a block of queries (all heads of a group) against the keys, or a piece of them when decoding.

enum { SLACK = 8 };   // a logit may exceed the reference by this (log2) before the row is rescaled

typedef struct {
    row_facts *rows;
    key_facts *keys;
    tile_range *ranges; // [rows / ROW_TILE] keys that a tile sees
    real *q;            // [rows][D'] times scale * log2 e; D' is the padded head size
    real *o;            // [rows][D']
    real *p;            // [rows][ROW_PITCH]: S, then P
    real *sums;         // [rows][LANES]: l, by lanes
    real *m;            // [rows] reference exponents, log2 units
    real *k, *v;        // [KEY_BLOCK][D'] row-major
    real *kt, *vp;      // packed: K^T by panels of keys, V by panels of columns
} forward_scratch;

// Gives the next bytes of a workspace, on cache lines of their own. Integers, since counting starts from NULL.
INLINE void *take(uintptr_t *at, size_t bytes) {
    const uintptr_t place = *at;
    *at += whole_lines(bytes);
    return (void *)place;
}

static size_t carve_forward(forward_scratch *s, const attention_plan *plan, char *memory) {
    uintptr_t at = (uintptr_t)memory;
    const size_t rows = (size_t)plan->rows, width = (size_t)plan->padded_size, n = sizeof(real);
    s->rows = take(&at, rows * sizeof(row_facts));
    s->keys = take(&at, sizeof(key_facts));
    s->ranges = take(&at, rows / ROW_TILE * sizeof(tile_range));
    s->q = take(&at, rows * width * n);
    s->o = take(&at, rows * width * n);
    s->p = take(&at, rows * ROW_PITCH * n);
    s->sums = take(&at, rows * 64);
    s->m = take(&at, rows * n);
    s->k = take(&at, KEY_BLOCK * width * n);
    s->v = take(&at, KEY_BLOCK * width * n);
    s->kt = take(&at, KEY_BLOCK * width * n);
    s->vp = take(&at, KEY_BLOCK * width * n);
    return (size_t)(at - (uintptr_t)memory);
}

static size_t forward_worker_bytes(const attention_plan *plan) {
    forward_scratch s;
    return carve_forward(&s, plan, NULL);
}

// MARK: softmax

// Moves the reference of a row up and rescales what was computed with the old one: O, l, and the first `columns` of P,
// which are not yet in O. New references are integers, so the factor is a power of two and the rescaling exact,
// however many blocks there are.
NOT_INLINE void raise_reference(forward_scratch *s, int64_t width, int64_t row, int64_t columns, real largest) {
    const real reference = (real)__builtin_ceil((double)largest);
    const vector factor = all((real)__builtin_exp2((double)s->m[row] - (double)reference));
    s->m[row] = reference;
    real *sums = s->sums + row * LANES, *o = s->o + row * width, *p = s->p + row * ROW_PITCH;
    store(sums, load(sums) * factor);
    for (int64_t d = 0; d < width; d += LANES) store(o + d, load(o + d) * factor);
    for (int64_t j = 0; j < columns; j += LANES) store(p + j, load(p + j) * factor);
}

// One row of logits in memory to exponentials.
INLINE void softmax_row(forward_scratch *s, int64_t width, int64_t row) {
    real *p = s->p + row * ROW_PITCH;
    vector most = load(p);
    for (int64_t j = LANES; j < KEY_BLOCK; j += LANES) most = larger_of(load(p + j), most);
    const real largest = largest_of(most);
    if (largest > s->m[row] + SLACK) raise_reference(s, width, row, 0, largest);
    const vector reference = all(s->m[row]);
    vector sum = load(s->sums + row * LANES);
    for (int64_t j = 0; j < KEY_BLOCK; j += LANES) {
        const vector e = exp2_vector(load(p + j) - reference);
        store(p + j, e);
        sum += e;
    }
    store(s->sums + row * LANES, sum);
}

// Everything a row can need, after S is in memory.
NOT_INLINE void softmax_rows(forward_scratch *s, int64_t width, int64_t count, const term_facts *terms, bool partial) {
    real factors[KEY_BLOCK];
    for (int64_t row = 0; row < count; row++) {
        real *p = s->p + row * ROW_PITCH;
        if (terms->capped || terms->alibi || terms->bias) modify_logits(p, NULL, s->rows + row, s->keys, terms);
        if (partial) replace_hidden(p, s->rows + row, s->keys, terms->documents, (real)MASKED);
        softmax_row(s, width, row);
        if (!terms->dropping) continue;
        find_kept(factors, s->rows + row, s->keys, terms);
        for (int64_t j = 0; j < KEY_BLOCK; j++) p[j] *= factors[j];
    }
}

// MARK: S = Q K^T

INLINE void score_tile(const bool fused, forward_scratch *s, int64_t width, int64_t row, int64_t column,
                       const real *panel) {
    vector acc[ROW_TILE][TILE_VECTORS];
    clear_tile(acc);
    multiply_tile(TILE_VECTORS, s->q + row * width, width, 1, panel, TILE_VECTORS, width, acc);
    real *p = s->p + row * ROW_PITCH + column;
    if (!fused) {
        UNROLLED for (int r = 0; r < ROW_TILE; r++)
            UNROLLED for (int c = 0; c < TILE_VECTORS; c++) store(p + r * ROW_PITCH + c * LANES, acc[r][c]);
        return;
    }
    // The steady state only asks whether any logit exceeds its reference by more than the slack: one comparison a row,
    // no reduction across lanes.
    vector_bits over = {0};
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        vector most = acc[r][0];
        UNROLLED for (int c = 1; c < TILE_VECTORS; c++) most = larger_of(acc[r][c], most);
        over |= most > all(s->m[row + r] + SLACK);
    }
    if (__builtin_expect(__builtin_reduce_or(over) != 0, 0))
        UNROLLED for (int r = 0; r < ROW_TILE; r++) {
            vector most = acc[r][0];
            UNROLLED for (int c = 1; c < TILE_VECTORS; c++) most = larger_of(acc[r][c], most);
            const real largest = largest_of(most);
            if (largest > s->m[row + r] + SLACK) raise_reference(s, width, row + r, column, largest);
        }
    UNROLLED for (int r = 0; r < ROW_TILE; r++) {
        const vector reference = all(s->m[row + r]);
        vector sum = load(s->sums + (row + r) * LANES);
        UNROLLED for (int c = 0; c < TILE_VECTORS; c++) {
            const vector e = exp2_vector(acc[r][c] - reference);
            store(p + r * ROW_PITCH + c * LANES, e);
            sum += e;
        }
        store(s->sums + (row + r) * LANES, sum);
    }
}

// All rows past one panel of K^T at a time, so that the panel stays in the first-level cache. Logits of tiles that see
// nothing of a panel are left undefined: the mask replaces them without looking.
#define DEFINE_SCORES(name, fused)                                                                                    \
    NOT_INLINE void name(forward_scratch *s, int64_t width, int64_t rows) {                                           \
        const real *panel = s->kt;                                                                                    \
        for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += width * PANEL)                         \
            for (int64_t row = 0; row < rows; row += ROW_TILE)                                                        \
                if (fused || touches(s->ranges + row / ROW_TILE, column))                                             \
                    score_tile(fused, s, width, row, column, panel);                                                  \
    }
DEFINE_SCORES(store_scores, false)
DEFINE_SCORES(fuse_scores, true)
#undef DEFINE_SCORES

// MARK: a unit

static void forward_pair(forward_scratch *s, const attention_plan *plan, const term_facts *terms, int64_t batch,
                         int64_t kv_head, int64_t block, int64_t rows, bool partial) {
    const int64_t width = plan->padded_size, size = plan->problem->head_size, first = block * KEY_BLOCK;
    const int64_t tiles = blocks_of(rows, ROW_TILE) * ROW_TILE;
    find_keys(s->keys, plan, batch, block);
    const int64_t count = s->keys->count;
    const rz_attention_tensor *k = &plan->k, *v = &plan->v;
    const int64_t k_at = batch * k->batch_stride + kv_head * k->head_stride + first * k->token_stride;
    const int64_t v_at = batch * v->batch_stride + kv_head * v->head_stride + first * v->token_stride;
    pack_rows(s->k, k, k_at, count, KEY_BLOCK, size, width, 1);
    pack_rows(s->v, v, v_at, count, KEY_BLOCK, size, width, 1);
    partial = partial || count < KEY_BLOCK;   // the missing keys are masked like any other
    if (has_products(plan->problem)) {
        __auto_type multiply = plan->problem->products.EXTERNAL_PRODUCT;
        multiply(RZ_PLAIN, RZ_TRANSPOSED, rows, KEY_BLOCK, width, s->q, width, s->k, width, 0, s->p, ROW_PITCH);
        softmax_rows(s, width, rows, terms, partial);
        multiply(RZ_PLAIN, RZ_PLAIN, rows, width, count, s->p, ROW_PITCH, s->v, width, 1, s->o, width);
        return;
    }
    pack_transposed(s->kt, s->k, KEY_BLOCK, width);
    pack_columns(s->vp, s->v, KEY_BLOCK, width);
    find_ranges(s->ranges, s->rows, rows, s->keys, terms->documents, partial);
    if (terms->plain && !partial) {
        fuse_scores(s, width, tiles);
    } else {
        store_scores(s, width, tiles);
        softmax_rows(s, width, rows, terms, partial);
    }
    add_product(s->o, width, s->p, s->vp, KEY_BLOCK, tiles, s->ranges);
}

// A state kept between the pieces of a decoding call: rows of O, then per row m and l.
INLINE real *partial_of(const attention_plan *plan, int64_t unit, int64_t split) {
    return (real *)(plan->partials + plan->partial_bytes * (size_t)(unit * plan->splits + split));
}
static size_t partial_bytes(const attention_plan *plan) {
    return whole_lines((size_t)(plan->rows * (plan->padded_size + 2)) * sizeof(real));
}

// References are powers of two, so that rescaling is exact and nothing is lost between calls, however large the logits.
INLINE real reference_in(real m) { return m < (real)EMPTY_REFERENCE ? (real)EMPTY_REFERENCE : m; }

static void load_state(forward_scratch *s, const attention_plan *plan, int64_t row) {
    const int64_t at = s->rows[row].state, size = plan->problem->head_size;
    s->m[row] = reference_in(((const real *)plan->m)[at]);
    s->sums[row * LANES] = ((const real *)plan->l)[at];
    memcpy(s->o + row * plan->padded_size, (const real *)plan->acc + at * size, sizeof(real) * (size_t)size);
}

static void store_state(const forward_scratch *s, const attention_plan *plan, int64_t row) {
    const int64_t at = s->rows[row].state, size = plan->problem->head_size;
    real *m = (real *)plan->m + at;
    if (s->m[row] != (real)EMPTY_REFERENCE) *m = s->m[row];   // a row that saw nothing keeps its -inf
    ((real *)plan->l)[at] = sum_of(load(s->sums + row * LANES));
    memcpy((real *)plan->acc + at * size, s->o + row * plan->padded_size, sizeof(real) * (size_t)size);
}

INLINE void clear_state(forward_scratch *s, int64_t tiles, int64_t width) {
    for (int64_t row = 0; row < tiles; row++) s->m[row] = (real)EMPTY_REFERENCE;
    memset(s->sums, 0, sizeof(vector) * (size_t)tiles);
    memset(s->o, 0, sizeof(real) * (size_t)(tiles * width));
}

typedef struct {
    int64_t batch, kv_head, block, first, queries, rows;
} query_unit;

// Later blocks come first: under a causal mask they are the long ones, and long units last would leave workers idle.
INLINE query_unit unit_of(const attention_plan *plan, int64_t unit) {
    query_unit u;
    u.block = plan->query_blocks - 1 - unit % plan->query_blocks;
    u.kv_head = unit / plan->query_blocks % plan->problem->kv_heads;
    u.batch = unit / plan->query_blocks / plan->problem->kv_heads;
    u.first = u.block * plan->query_block;
    u.queries = smaller(plan->query_block, plan->problem->query_count - u.first);
    u.rows = u.queries * plan->group;
    return u;
}

static void forward_unit(void *arg, int64_t index, int64_t worker) {
    attention_plan *plan = arg;
    const rz_attention_problem *p = plan->problem;
    forward_scratch s;
    carve_forward(&s, plan, plan->worker_memory + plan->worker_bytes * (size_t)worker);
    const int64_t unit = index / plan->splits, split = index % plan->splits;
    const query_unit u = unit_of(plan, unit);
    const int64_t width = plan->padded_size, tiles = blocks_of(u.rows, ROW_TILE) * ROW_TILE;
    const term_facts terms = terms_of(plan);

    find_rows(s.rows, plan, u.batch, u.kv_head, u.first, u.queries);
    for (int64_t g = 0; g < plan->group; g++) {
        const int64_t at = u.batch * plan->q.batch_stride + (u.kv_head * plan->group + g) * plan->q.head_stride
                           + u.first * plan->q.token_stride;
        pack_rows(s.q + g * u.queries * width, &plan->q, at, u.queries, u.queries, p->head_size, width,
                  (real)(p->scale * LOG2_E));
    }
    memset(s.q + u.rows * width, 0, sizeof(real) * (size_t)((tiles - u.rows) * width));
    clear_state(&s, tiles, width);
    if (plan->splits == 1)
        for (int64_t row = 0; row < u.rows; row++) load_state(&s, plan, row);

    const block_span *queries = query_span(plan, u.batch, u.block);
    int64_t pairs = 0;
    for (int64_t block = plan->key_blocks * split / plan->splits;
         block < plan->key_blocks * (split + 1) / plan->splits; block++) {
        const pair_kind kind = classify(p, queries, key_span(plan, u.batch, block));
        if (kind == PAIR_SKIPPED) continue;
        forward_pair(&s, plan, &terms, u.batch, u.kv_head, block, u.rows, kind == PAIR_PARTIAL);
        pairs++;
    }
    if (pairs > 0) atomic_fetch_add_explicit(&plan->pairs, pairs, memory_order_relaxed);

    if (plan->splits == 1) {
        if (pairs > 0)
            for (int64_t row = 0; row < u.rows; row++) store_state(&s, plan, row);
        return;
    }
    real *part = partial_of(plan, unit, split), *references = part + plan->rows * width;
    memcpy(part, s.o, sizeof(real) * (size_t)(u.rows * width));
    for (int64_t row = 0; row < u.rows; row++) {
        references[2 * row] = s.m[row];
        references[2 * row + 1] = sum_of(load(s.sums + row * LANES));
    }
}

// Folds the pieces of a decoding call into the state, in their order.
static void merge_unit(void *arg, int64_t index, int64_t worker) {
    attention_plan *plan = arg;
    forward_scratch s;
    carve_forward(&s, plan, plan->worker_memory + plan->worker_bytes * (size_t)worker);
    const query_unit u = unit_of(plan, index);
    const int64_t width = plan->padded_size;
    find_rows(s.rows, plan, u.batch, u.kv_head, u.first, u.queries);
    clear_state(&s, blocks_of(u.rows, ROW_TILE) * ROW_TILE, width);
    for (int64_t row = 0; row < u.rows; row++) {
        load_state(&s, plan, row);
        for (int64_t split = 0; split < plan->splits; split++) {
            const real *part = partial_of(plan, index, split), *references = part + plan->rows * width + 2 * row;
            if (references[0] > s.m[row]) raise_reference(&s, width, row, 0, references[0]);
            const real factor = (real)__builtin_exp2((double)references[0] - (double)s.m[row]);
            if (references[1] == 0) continue;   // this piece held no visible key
            s.sums[row * LANES] += factor * references[1];
            for (int64_t d = 0; d < width; d++) s.o[row * width + d] += factor * part[row * width + d];
        }
        store_state(&s, plan, row);
    }
}
