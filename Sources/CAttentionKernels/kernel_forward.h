// Forward: one unit is a few neighbouring blocks of queries (all heads of a group) against the keys, or a piece of them when
// decoding. A block of keys is packed once for all of them.

enum { SLACK = 8 };   // a logit may exceed the reference by this (log2) before the row is rescaled

// What one block of queries carries over the blocks of keys.
typedef struct {
    row_facts *rows;
    word *q;              // [rows][D'] as pack_queries makes them; D' is the padded head size
    real *o;              // [rows][D']
    real *sums;           // [rows][LANES]: l, by lanes
    real *rounded_sums;   // [rows][LANES]: the same of the weights as words; only where words round them
    real *m;              // [rows] reference exponents, log2 units
    int64_t count, tiles; // rows in use, and up to a multiple of ROW_TILE
} query_block;

typedef struct {
    query_block blocks[FORWARD_SHARE];
    key_facts *keys;
    index_range *visible;      // [rows] keys that a row sees
    index_range *any, *every;  // [rows / ROW_TILE] keys that some row and that every row of a tile sees
    real *p;                   // [rows][ROW_PITCH]: S, then P
    word *weights;             // [rows][WORD_PITCH]: P for the product with V, in the places of rows of `p` that were read
    word *k, *v;               // K^T by panels of keys and V by panels of columns; row-major for external products
    word *few;                 // [LANES][D']: rows on their way into panels
    real scale;                // of products, to logits in log2 units
    int64_t k_at, v_at;        // where the block of keys starts in K and V
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
    const size_t word_width = width / WORD_NUMBERS * sizeof(word);
    s->scale = logit_scale(plan->problem);
    for (int64_t i = 0; i < plan->maximum_share; i++) {   // whatever the share: memory does not depend on the lengths
        query_block *block = s->blocks + i;
        block->rows = take(&at, rows * sizeof(row_facts));
        block->q = take(&at, rows * word_width);
        block->o = take(&at, rows * width * n);
        block->sums = take(&at, rows * sizeof(vector));
        block->rounded_sums = ROUNDS_WEIGHTS ? take(&at, rows * sizeof(vector)) : block->sums;
        block->m = take(&at, rows * n);
    }
    s->keys = take(&at, sizeof(key_facts));
    s->visible = take(&at, rows * sizeof(index_range));
    s->any = take(&at, rows / ROW_TILE * sizeof(index_range));
    s->every = take(&at, rows / ROW_TILE * sizeof(index_range));
    s->p = take(&at, rows * ROW_PITCH * n);
    s->weights = (word *)s->p;
    s->k = take(&at, KEY_BLOCK * word_width);
    s->v = take(&at, KEY_BLOCK * word_width);
    s->few = take(&at, LANES * word_width);
    return (size_t)(at - (uintptr_t)memory);
}

static size_t forward_worker_bytes(const attention_plan *plan) {
    forward_scratch s;
    return carve_forward(&s, plan, NULL);
}

// MARK: softmax

// Moves the reference of a row up and rescales what was computed with the old one: O, l, and the weights of the first `columns`
// keys, which are not yet in O. New references are integers, so the factor is a power of two and the rescaling exact,
// however many blocks there are.
NOT_INLINE void raise_reference(query_block *block, word *weights, int64_t width, int64_t row, int64_t columns,
                                real largest) {
    const real reference = (real)__builtin_ceil((double)largest);
    const real before = block->m[row];
    block->m[row] = reference;
    if (before == (real)EMPTY_REFERENCE) return;   // there is nothing yet
    const vector factor = all((real)__builtin_exp2((double)before - (double)reference));
    real *sums = block->sums + row * LANES, *o = block->o + row * width;
    store(sums, load(sums) * factor);
    if (ROUNDS_WEIGHTS) {
        real *rounded = block->rounded_sums + row * LANES;
        store(rounded, load(rounded) * factor);
    }
    for (int64_t d = 0; d < width; d += LANES) store(o + d, load(o + d) * factor);
    rescale_weights(weights, columns, factor);
}

// One row of logits in memory to weights, over columns from `first` up to `end`, times the factors of dropout if there are any.
INLINE void softmax_row(query_block *block, const real *p, word *weights, const real *factors, int64_t width, int64_t row,
                        int64_t first, int64_t end) {
    vector most = load(p + first);
    for (int64_t j = first + LANES; j < end; j += LANES) most = larger_of(load(p + j), most);
    const real largest = largest_of(most);
    if (largest > block->m[row] + SLACK) raise_reference(block, weights, width, row, 0, largest);
    const vector reference = all(block->m[row]);
    vector sum = load(block->sums + row * LANES);
    vector rounded = ROUNDS_WEIGHTS ? load(block->rounded_sums + row * LANES) : (vector){0};
    for (int64_t j = first; j < end; j += WORD_NUMBERS * LANES) {
        vector e[WORD_NUMBERS];
        UNROLLED for (int i = 0; i < WORD_NUMBERS; i++) {
            e[i] = exp2_weight(load(p + j + i * LANES) - reference);
            sum += e[i];
        }
        store_weights(WORD_NUMBERS, weights + j / WORD_NUMBERS, e, &rounded);
        if (!factors) continue;
        vector thinned_sum = {0};   // dropout thins the weights, never their sums
        UNROLLED for (int i = 0; i < WORD_NUMBERS; i++) e[i] *= load(factors + j + i * LANES);
        store_weights(WORD_NUMBERS, weights + j / WORD_NUMBERS, e, &thinned_sum);
    }
    store(block->sums + row * LANES, sum);
    if (ROUNDS_WEIGHTS) store(block->rounded_sums + row * LANES, rounded);
}

// Everything a row can need, after S is in memory.
NOT_INLINE void softmax_rows(forward_scratch *s, query_block *block, int64_t width, const term_facts *terms,
                             bool partial) {
    real factors[KEY_BLOCK] __attribute__((aligned(64)));
    for (int64_t row = 0; row < block->count; row++) {
        const index_range any = s->any[row / ROW_TILE];
        if (any.first >= any.end) continue;
        const int64_t step = WORD_NUMBERS * LANES, first = any.first / step * step, end = blocks_of(any.end, step) * step;
        const row_facts *facts = block->rows + row;
        real *p = s->p + row * ROW_PITCH;
        modify_logits(p, NULL, facts, s->keys, terms, first, end);
        if (partial)
            replace_hidden(p, facts, s->visible + row, s->keys, terms->documents, first, end, (real)MASKED);
        if (terms->dropping) find_kept(factors, facts, s->keys, terms, first, end);
        softmax_row(block, p, s->weights + row * WORD_PITCH, terms->dropping ? factors : NULL, width, row, first, end);
    }
}

// MARK: S = Q K^T

// All rows past one panel of K^T at a time, so that the panel stays in the first-level cache. Tiles that see nothing of a
// panel are skipped, and what they would hold is never read: the products with V end where the range does.
NOT_INLINE void store_scores(forward_scratch *s, query_block *block, int64_t width) {
    const int64_t words = width / WORD_NUMBERS;
    const word *panel = s->k;
    for (int64_t column = 0; column < KEY_BLOCK; column += PANEL, panel += words * PANEL)
        for (int64_t row = 0; row < block->tiles; row += ROW_TILE) {
            if (!touches(s->any + row / ROW_TILE, column)) continue;
            vector acc[ROW_TILE][TILE_VECTORS];
            multiply_tile(TILE_VECTORS, block->q + row * words, words, 1, panel, TILE_VECTORS, words, acc);
            real *p = s->p + row * ROW_PITCH + column;
            EACH_ROW for (int r = 0; r < ROW_TILE; r++)
                UNROLLED for (int c = 0; c < TILE_VECTORS; c++)
                    store(p + r * ROW_PITCH + c * LANES, scaled(acc[r][c], s->scale));
        }
}

#if defined(KERNEL_AMX)
#include "kernel_scores_amx.h"
#else
#include "kernel_scores.h"
#endif

// MARK: a unit

// Where the keys of a block start, in elements.
INLINE int64_t place_of(const rz_attention_tensor *tensor, int64_t batch, int64_t kv_head, int64_t block) {
    return batch * tensor->batch_stride + kv_head * tensor->head_stride + block * KEY_BLOCK * tensor->token_stride;
}

// Packs a block of keys for all query blocks of a unit.
static void gather_keys(forward_scratch *s, const attention_plan *plan, int64_t batch, int64_t kv_head, int64_t block,
                        bool places) {
    const int64_t width = plan->padded_size, size = plan->problem->head_size;
    find_keys(s->keys, plan, batch, block, places);
    const int64_t count = s->keys->count;
    const rz_attention_tensor *k = &plan->k, *v = &plan->v;
    s->k_at = place_of(k, batch, kv_head, block);
    s->v_at = place_of(v, batch, kv_head, block);
    if (has_products(plan->problem)) {
        pack_rows(s->k, k, s->k_at, count, count, KEY_BLOCK, size, width);
        pack_rows(s->v, v, s->v_at, count, count, KEY_BLOCK, size, width);
    } else if (!plan->few) {
        pack_block(s->k, NULL, s->few, k, s->k_at, count, size, width);
        pack_block(NULL, s->v, s->few, v, s->v_at, count, size, width);
    }
}

// attention.c leaves few rows and external products to the engines whose words are numbers.
#if !defined(KERNEL_BFLOAT16)

// A pair of a block with few rows: all of them go over the keys that any of them sees.
static void few_pair(forward_scratch *s, query_block *block, const attention_plan *plan, const term_facts *terms,
                     bool partial) {
    const int64_t width = plan->padded_size, size = plan->problem->head_size, keys = s->keys->count;
    index_range range = {KEY_BLOCK, 0};
    for (int64_t tile = 0; tile < block->tiles / ROW_TILE; tile++) {
        if (s->any[tile].first < range.first) range.first = s->any[tile].first / LANES * LANES;
        if (s->any[tile].end > range.end) range.end = s->any[tile].end;
    }
    for (int64_t tile = 0; tile < block->tiles / ROW_TILE; tile++) s->any[tile] = range;
    scores_of_few(s->p, block->q, block->count, &plan->k, s->k_at, keys, range, size, width, s->few);
    softmax_rows(s, block, width, terms, partial);
    add_values_of_few(block->o, s->p, block->count, &plan->v, s->v_at, keys, range, size, width, s->few);
}

static void external_pair(forward_scratch *s, query_block *block, const attention_plan *plan, const term_facts *terms,
                          bool partial) {
    __auto_type multiply = plan->problem->products.EXTERNAL_PRODUCT;
    const int64_t width = plan->padded_size;
    for (int64_t row = 0; row < block->tiles; row += ROW_TILE) s->any[row / ROW_TILE] = (index_range){0, KEY_BLOCK};
    multiply(RZ_PLAIN, RZ_TRANSPOSED, block->count, KEY_BLOCK, width, block->q, width, s->k, width, 0, s->p, ROW_PITCH);
    softmax_rows(s, block, width, terms, partial);
    multiply(RZ_PLAIN, RZ_PLAIN, block->count, width, s->keys->count, s->p, ROW_PITCH, s->v, width, 1, block->o, width);
}

#endif

static void forward_pair(forward_scratch *s, query_block *block, const attention_plan *plan, const term_facts *terms,
                         bool partial) {
    const int64_t width = plan->padded_size;
    partial = partial || s->keys->count < KEY_BLOCK;   // the missing keys are masked like any other
    if (partial) find_visible(s->visible, block->rows, block->tiles, s->keys, terms->documents);
#if !defined(KERNEL_BFLOAT16)
    if (has_products(plan->problem)) {
        external_pair(s, block, plan, terms, partial);
        return;
    }
#endif
    find_ranges(s->any, s->every, partial ? s->visible : NULL, block->tiles, s->keys);
#if !defined(KERNEL_BFLOAT16)
    if (plan->few) {
        few_pair(s, block, plan, terms, partial);
        return;
    }
#endif
    // The fused way may compare products before they are logits, which a negative scale would turn around.
    if (terms->plain && s->scale > 0 && (!partial || s->keys->ordered)) {
        fuse_scores(s, block, width);
    } else {
        store_scores(s, block, width);
        softmax_rows(s, block, width, terms, partial);
    }
    add_product(block->o, width, s->weights, s->v, KEY_BLOCK, block->tiles, s->any);
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

static void load_state(query_block *block, const attention_plan *plan, int64_t row) {
    const int64_t at = block->rows[row].state, size = plan->problem->head_size;
    if (((const real *)plan->l)[at] == 0) return;   // nothing yet: O is zero, and not worth reading
    block->m[row] = reference_in(((const real *)plan->m)[at]);
    block->sums[row * LANES] = ((const real *)plan->l)[at];
    if (ROUNDS_WEIGHTS) block->rounded_sums[row * LANES] = block->sums[row * LANES];
    memcpy(block->o + row * plan->padded_size, (const real *)plan->acc + at * size, sizeof(real) * (size_t)size);
}

INLINE void scale_output(query_block *block, int64_t row, int64_t width, real factor) {
    real *o = block->o + row * width;
    for (int64_t d = 0; d < width; d += LANES) store(o + d, load(o + d) * factor);
}

// Where weights are rounded, dropout keeps them as they are and O waits for its factor, so that they are rounded once.
static void open_rounded_rows(query_block *block, const attention_plan *plan) {
    if (plan->problem->dropout == 0) return;
    for (int64_t row = 0; row < block->count; row++)
        scale_output(block, row, plan->padded_size, (real)(1 - plan->problem->dropout));
}

// And O gets the weights that l, the sum of a row, counts. A row that saw nothing has none.
static void close_rounded_row(query_block *block, const attention_plan *plan, int64_t row, real sum) {
    const real rounded = sum_of(load(block->rounded_sums + row * LANES));
    if (rounded != 0) scale_output(block, row, plan->padded_size, sum / (rounded * (real)(1 - plan->problem->dropout)));
}

static void store_state(const query_block *block, const attention_plan *plan, int64_t row, real sum) {
    const int64_t at = block->rows[row].state, size = plan->problem->head_size;
    real *m = (real *)plan->m + at;
    if (block->m[row] != (real)EMPTY_REFERENCE) *m = block->m[row];   // a row that saw nothing keeps its -inf
    ((real *)plan->l)[at] = sum;
    memcpy((real *)plan->acc + at * size, block->o + row * plan->padded_size, sizeof(real) * (size_t)size);
}

INLINE void clear_state(query_block *block, int64_t width) {
    for (int64_t row = 0; row < block->tiles; row++) block->m[row] = (real)EMPTY_REFERENCE;
    memset(block->sums, 0, sizeof(vector) * (size_t)block->tiles);
    if (ROUNDS_WEIGHTS) memset(block->rounded_sums, 0, sizeof(vector) * (size_t)block->tiles);
    memset(block->o, 0, sizeof(real) * (size_t)(block->tiles * width));
}

typedef struct {
    int64_t batch, kv_head;
    int64_t block, blocks;   // the first block of queries and their number
} query_unit;

// Long units last would leave workers idle: all heads take turns, later blocks first, which under a causal mask are the long ones, and
// a unit of fewer blocks than the others is its head's last.
INLINE query_unit unit_of(const attention_plan *plan, int64_t unit) {
    const int64_t kv_heads = plan->problem->kv_heads, heads = plan->problem->batch * kv_heads, head = unit % heads;
    const int64_t end = plan->query_blocks - unit / heads * plan->share;
    query_unit u = {.batch = head / kv_heads, .kv_head = head % kv_heads, .block = larger(0, end - plan->share)};
    u.blocks = end - u.block;
    return u;
}

// The rows of a block of queries, without Q and without a state.
static void open_block(query_block *block, const attention_plan *plan, const query_unit *u, int64_t index) {
    const int64_t first = index * plan->query_block;
    const int64_t queries = smaller(plan->query_block, plan->problem->query_count - first);
    block->count = queries * plan->group;
    block->tiles = blocks_of(block->count, ROW_TILE) * ROW_TILE;
    find_rows(block->rows, plan, u->batch, u->kv_head, first, queries);
    for (int64_t row = block->count; row < block->tiles; row++) block->rows[row] = block->rows[block->count - 1];
    clear_state(block, plan->padded_size);
}

static void gather_q(query_block *block, const attention_plan *plan, const query_unit *u, int64_t index) {
    const rz_attention_problem *p = plan->problem;
    const int64_t width = plan->padded_size, words = width / WORD_NUMBERS, queries = block->count / plan->group;
    for (int64_t g = 0; g < plan->group; g++) {
        const int64_t at = u->batch * plan->q.batch_stride + (u->kv_head * plan->group + g) * plan->q.head_stride
                           + index * plan->query_block * plan->q.token_stride;
        pack_queries(block->q + g * queries * words, &plan->q, at, queries, width, p);
    }
    memset(block->q + block->count * words, 0, sizeof(word) * (size_t)((block->tiles - block->count) * words));
}

static void forward_unit(void *arg, int64_t index, int64_t worker) {
    attention_plan *plan = arg;
    forward_scratch s;
    carve_forward(&s, plan, plan->worker_memory + plan->worker_bytes * (size_t)worker);
    const int64_t unit = index / plan->splits, split = index % plan->splits;
    const query_unit u = unit_of(plan, unit);
    const int64_t width = plan->padded_size;
    term_facts terms = terms_of(plan);
    open_products();
    if (ROUNDS_WEIGHTS) terms.keep_factor = 1;

    int64_t pairs[FORWARD_SHARE] = {0};
    for (int64_t i = 0; i < u.blocks; i++) {
        open_block(s.blocks + i, plan, &u, u.block + i);
        gather_q(s.blocks + i, plan, &u, u.block + i);
#if !defined(KERNEL_BFLOAT16)
        if (plan->few)
            order_queries(kind_of(&plan->k, plan->problem->head_size, width), s.blocks[i].q, s.blocks[i].count, width);
#endif
        if (plan->splits == 1)
            for (int64_t row = 0; row < s.blocks[i].count; row++) load_state(s.blocks + i, plan, row);
        if (ROUNDS_WEIGHTS) open_rounded_rows(s.blocks + i, plan);
    }
    for (int64_t block = plan->key_blocks * split / plan->splits;
         block < plan->key_blocks * (split + 1) / plan->splits; block++) {
        bool packed = false;
        for (int64_t i = 0; i < u.blocks; i++) {
            const pair_kind kind =
                classify(plan->problem, query_span(plan, u.batch, u.block + i), key_span(plan, u.batch, block));
            if (kind == PAIR_SKIPPED) continue;
            const bool places = !plan->few || !terms.plain || kind == PAIR_PARTIAL;
            if (!packed) gather_keys(&s, plan, u.batch, u.kv_head, block, places);
            packed = true;
            forward_pair(&s, s.blocks + i, plan, &terms, kind == PAIR_PARTIAL);
            pairs[i]++;
        }
    }
    close_products();
    for (int64_t i = 0; i < u.blocks; i++) {
        if (pairs[i] == 0) continue;
        atomic_fetch_add_explicit(&plan->pairs, pairs[i], memory_order_relaxed);
        for (int64_t row = 0; row < s.blocks[i].count; row++) {
            const real sum = sum_of(load(s.blocks[i].sums + row * LANES));
            if (ROUNDS_WEIGHTS) close_rounded_row(s.blocks + i, plan, row, sum);
            if (plan->splits == 1) store_state(s.blocks + i, plan, row, sum);
        }
    }
    if (plan->splits == 1) return;
    const query_block *block = s.blocks;   // few queries are one block
    real *part = partial_of(plan, unit, split), *references = part + plan->rows * width;
    memcpy(part, block->o, sizeof(real) * (size_t)(block->count * width));
    for (int64_t row = 0; row < block->count; row++) {
        references[2 * row] = block->m[row];
        references[2 * row + 1] = sum_of(load(block->sums + row * LANES));
    }
}

// Folds the pieces of a decoding call into the state, in their order.
static void merge_unit(void *arg, int64_t index, int64_t worker) {
    attention_plan *plan = arg;
    forward_scratch s;
    carve_forward(&s, plan, plan->worker_memory + plan->worker_bytes * (size_t)worker);
    const query_unit u = unit_of(plan, index);
    const int64_t width = plan->padded_size;
    query_block *block = s.blocks;
    open_block(block, plan, &u, u.block);
    for (int64_t row = 0; row < block->count; row++) {
        load_state(block, plan, row);
        for (int64_t split = 0; split < plan->splits; split++) {
            const real *part = partial_of(plan, index, split), *references = part + plan->rows * width + 2 * row;
            if (references[0] > block->m[row]) raise_reference(block, s.weights, width, row, 0, references[0]);
            const real factor = (real)__builtin_exp2((double)references[0] - (double)block->m[row]);
            if (references[1] == 0) continue;   // this piece held no visible key
            block->sums[row * LANES] += factor * references[1];
            for (int64_t d = 0; d < width; d++) block->o[row * width + d] += factor * part[row * width + d];
        }
        store_state(block, plan, row, sum_of(load(block->sums + row * LANES)));
    }
}
