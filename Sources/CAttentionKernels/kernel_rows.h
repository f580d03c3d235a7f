// Rows of a block and what the mask descriptor does to their logits, one row of KEY_BLOCK keys at a time.
//
// Row r of a block is query r % queries of query head r / queries of the group: all heads that share keys are rows of
// one product. Logits are in log2 units (Q is packed times scale * log2 e), so that exponentials are powers of two.

typedef struct {
    int64_t state;              // index into m, l, lse, delta; times D into acc, dq
    int64_t position;
    int64_t low, high;          // visible iff low <= kpos <= high
    int32_t document;
    real slope;                 // ALiBi, log2 units
    uint32_t key0, key1;        // dropout
    const real *bias;           // of key position 0
    real *dbias;
} row_facts;

typedef struct {
    int64_t positions[KEY_BLOCK];    // INT64_MAX beyond the last key, which no row sees
    real distances[KEY_BLOCK];       // position - base, for ALiBi
    int32_t documents[KEY_BLOCK];
    uint32_t columns[KEY_BLOCK];     // dropout
    int64_t base;
    int64_t count;
} key_facts;

// What of the problem a loop over rows needs, converted once per unit.
typedef struct {
    bool documents, alibi, bias, capped, dropping;
    bool plain;                      // nothing but a mask: softmax may happen while S is in registers
    real cap, inverse_cap;           // log2 units
    real keep_factor;
    uint32_t threshold;
    int64_t bias_stride, dbias_stride;
} term_facts;

INLINE term_facts terms_of(const attention_plan *plan) {
    const rz_attention_problem *p = plan->problem;
    term_facts t = {0};
    t.documents = p->query_documents != NULL;
    t.alibi = p->alibi_slopes != NULL;
    t.bias = p->bias != NULL;
    t.capped = p->soft_cap > 0;
    t.dropping = p->dropout > 0;
    t.plain = !t.alibi && !t.bias && !t.capped && !t.dropping && !plan->dbias;
    t.cap = (real)(p->soft_cap * LOG2_E);
    t.inverse_cap = t.capped ? (real)(1 / (p->soft_cap * LOG2_E)) : 0;
    t.keep_factor = (real)(1 / (1 - p->dropout));
    t.threshold = dropout_threshold(p->dropout);
    t.bias_stride = p->bias_strides[3];
    t.dbias_stride = plan->dbias ? plan->dbias_strides[3] : 0;
    return t;
}

NOT_INLINE void find_rows(row_facts *rows, const attention_plan *plan, int64_t batch, int64_t kv_head, int64_t first,
                          int64_t queries) {
    const rz_attention_problem *p = plan->problem;
    for (int64_t g = 0; g < plan->group; g++)
        for (int64_t i = 0; i < queries; i++) {
            row_facts *row = rows + g * queries + i;
            const int64_t head = kv_head * plan->group + g, query = first + i;
            const int64_t position = p->query_positions[query];
            row->state = (batch * p->heads + head) * p->query_count + query;
            row->position = position;
            row->low = p->window_back >= 0 ? position - p->window_back : INT64_MIN;
            row->high = p->window_ahead >= 0 ? position + p->window_ahead : INT64_MAX - 1;
            if (p->causal) row->high = smaller(row->high, position);
            row->document =
                p->query_documents ? p->query_documents[batch * p->query_document_batch_stride + query] : 0;
            row->slope = p->alibi_slopes ? (real)(p->alibi_slopes[head] * LOG2_E) : 0;
            if (p->dropout > 0) {
                const int64_t b = p->first_batch + batch, h = p->first_head + head;
                row->key0 = dropout_row_key(DROPOUT_START_0, p->dropout_seed, b, h, position);
                row->key1 = dropout_row_key(DROPOUT_START_1, p->dropout_seed, b, h, position);
            }
            const int64_t *s = p->bias_strides, *ds = plan->dbias_strides;
            row->bias = p->bias ? (const real *)p->bias + batch * s[0] + head * s[1] + query * s[2] : NULL;
            row->dbias = plan->dbias ? (real *)plan->dbias + batch * ds[0] + head * ds[1] + query * ds[2] : NULL;
        }
}

NOT_INLINE void find_keys(key_facts *keys, const attention_plan *plan, int64_t batch, int64_t block) {
    const rz_attention_problem *p = plan->problem;
    const int64_t first = block * KEY_BLOCK;
    keys->count = smaller(KEY_BLOCK, p->key_count - first);
    keys->base = key_span(plan, batch, block)->first;
    for (int64_t j = 0; j < KEY_BLOCK; j++) keys->positions[j] = INT64_MAX;
    memcpy(keys->positions, p->key_positions + first, sizeof(int64_t) * (size_t)keys->count);
    if (p->key_documents)
        memcpy(keys->documents, p->key_documents + batch * p->key_document_batch_stride + first,
               sizeof(int32_t) * (size_t)keys->count);
    if (p->alibi_slopes)
        for (int64_t j = 0; j < keys->count; j++) keys->distances[j] = (real)(keys->positions[j] - keys->base);
    if (p->dropout > 0)
        for (int64_t j = 0; j < keys->count; j++) keys->columns[j] = dropout_column(keys->positions[j]);
}

// For every tile of 6 rows the keys between its first and its last visible one: what lies outside is not computed.
NOT_INLINE void find_ranges(tile_range *ranges, const row_facts *rows, int64_t count, const key_facts *keys,
                            bool documents, bool partial) {
    for (int64_t start = 0; start < count; start += ROW_TILE, ranges++) {
        *ranges = (tile_range){0, (int32_t)keys->count};
        if (!partial) continue;
        row_facts all = rows[start];
        int32_t last_document = all.document;
        for (int64_t row = start + 1; row < smaller(count, start + ROW_TILE); row++) {
            all.low = smaller(all.low, rows[row].low);
            all.high = larger(all.high, rows[row].high);
            if (rows[row].document < all.document) all.document = rows[row].document;
            if (rows[row].document > last_document) last_document = rows[row].document;
        }
        *ranges = (tile_range){0, 0};
        for (int32_t j = 0; j < keys->count; j++) {
            if (keys->positions[j] < all.low || keys->positions[j] > all.high) continue;
            if (documents && (keys->documents[j] < all.document || keys->documents[j] > last_document)) continue;
            if (ranges->end == 0) ranges->first = j;
            ranges->end = j + 1;
        }
    }
}

// Whether a tile needs the panel of keys that starts at `column`.
INLINE bool touches(const tile_range *range, int64_t column) {
    return range->first < column + PANEL && range->end > column;
}

// x = replacement where the row does not see the key.
INLINE void replace_hidden(real *restrict x, const row_facts *row, const key_facts *keys, bool documents,
                           real replacement) {
    const int64_t low = row->low, high = row->high;
    for (int64_t j = 0; j < KEY_BLOCK; j++) {
        const int64_t position = keys->positions[j];
        x[j] = ((position >= low) & (position <= high)) ? x[j] : replacement;
    }
    if (!documents) return;
    const int32_t document = row->document;
    for (int64_t j = 0; j < KEY_BLOCK; j++) x[j] = keys->documents[j] == document ? x[j] : replacement;
}

// Soft cap, ALiBi and bias on one row of logits. `slope` gets the derivative of the cap, where asked for.
NOT_INLINE void modify_logits(real *restrict x, real *restrict slope, const row_facts *row, const key_facts *keys,
                              const term_facts *terms) {
    if (terms->capped)
        for (int64_t j = 0; j < KEY_BLOCK; j += LANES) {
            const vector t = tanh_vector(load(x + j) * terms->inverse_cap);
            store(x + j, t * terms->cap);
            if (slope) store(slope + j, 1 - t * t);
        }
    if (terms->alibi) {
        const real from = (real)(row->position - keys->base), weight = row->slope;
        for (int64_t j = 0; j < keys->count; j++) {
            const real distance = from - keys->distances[j];
            x[j] -= weight * (distance < 0 ? -distance : distance);
        }
    }
    if (terms->bias)
        for (int64_t j = 0; j < keys->count; j++)   // -inf masks: references and lse are finite, so its exponential is 0
            x[j] += row->bias[keys->positions[j] * terms->bias_stride] * (real)LOG2_E;
}

// The factor of every weight: 0 where dropout drops it, else 1 / (1 - probability).
INLINE void find_kept(real *restrict factors, const row_facts *row, const key_facts *keys, const term_facts *terms) {
    const uint32_t key0 = row->key0, key1 = row->key1, threshold = terms->threshold;
    const real factor = terms->keep_factor;
    for (int64_t j = 0; j < KEY_BLOCK; j++)
        factors[j] = dropout_draw(keys->columns[j], key0, key1) >= threshold ? factor : 0;
}
