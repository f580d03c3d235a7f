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
    bool ordered;                    // positions and documents do not decrease: a row sees one range of the keys
    bool consecutive;                // positions are base, base + 1, ...
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

// The keys of a block. Where they are is left out unless someone asks for their places; for a last, incomplete block someone does.
NOT_INLINE void find_keys(key_facts *keys, const attention_plan *plan, int64_t batch, int64_t block, bool places) {
    const rz_attention_problem *p = plan->problem;
    const int64_t first = block * KEY_BLOCK;
    keys->count = smaller(KEY_BLOCK, p->key_count - first);
    keys->base = key_span(plan, batch, block)->first;
    if (!places && keys->count == KEY_BLOCK) return;
    for (int64_t j = keys->count; j < KEY_BLOCK; j++) keys->positions[j] = INT64_MAX;
    memcpy(keys->positions, p->key_positions + first, sizeof(int64_t) * (size_t)keys->count);
    if (p->key_documents)
        memcpy(keys->documents, p->key_documents + batch * p->key_document_batch_stride + first,
               sizeof(int32_t) * (size_t)keys->count);
    // Without branches: beside a few rows of queries this loop shows.
    int64_t falls = 0, leaps = 0;   // negative where a step falls, and not zero where a step is not 1
    for (int64_t j = 1; j < keys->count; j++) {
        const int64_t step = keys->positions[j] - keys->positions[j - 1];
        falls |= step;
        leaps |= step - 1;
    }
    keys->ordered = falls >= 0;
    keys->consecutive = leaps == 0;
    if (p->key_documents)
        for (int64_t j = 1; j < keys->count; j++) keys->ordered &= keys->documents[j] >= keys->documents[j - 1];
    if (p->alibi_slopes)
        for (int64_t j = 0; j < keys->count; j++) keys->distances[j] = (real)(keys->positions[j] - keys->base);
    if (p->dropout > 0)
        for (int64_t j = 0; j < keys->count; j++) keys->columns[j] = dropout_column(keys->positions[j]);
}

// MARK: visible keys

INLINE bool sees(const row_facts *row, const key_facts *keys, int64_t j, bool documents) {
    return keys->positions[j] >= row->low && keys->positions[j] <= row->high
           && (!documents || keys->documents[j] == row->document);
}

// For every row the range of keys it sees, or, where keys are not ordered, the range between the first and the last of them.
// Neighbouring rows see nearly the same: over ordered keys the ends of a row's range are walked to from those of the row before.
NOT_INLINE void find_visible(index_range *visible, const row_facts *rows, int64_t count, const key_facts *keys,
                             bool documents) {
    const int32_t last = (int32_t)keys->count;
    if (!keys->ordered) {
        for (int64_t row = 0; row < count; row++) {
            index_range range = {0, last};
            while (range.end > 0 && !sees(rows + row, keys, range.end - 1, documents)) range.end--;
            while (range.first < range.end && !sees(rows + row, keys, range.first, documents)) range.first++;
            visible[row] = range;
        }
        return;
    }
    index_range window = {0, last}, document = {0, last};
    for (int64_t row = 0; row < count; row++) {
        const int64_t low = rows[row].low, high = rows[row].high;
        while (window.first > 0 && keys->positions[window.first - 1] >= low) window.first--;
        while (window.first < last && keys->positions[window.first] < low) window.first++;
        while (window.end > 0 && keys->positions[window.end - 1] > high) window.end--;
        while (window.end < last && keys->positions[window.end] <= high) window.end++;
        visible[row] = window;
        if (!documents) continue;
        const int32_t own = rows[row].document;
        while (document.first > 0 && keys->documents[document.first - 1] >= own) document.first--;
        while (document.first < last && keys->documents[document.first] < own) document.first++;
        while (document.end > 0 && keys->documents[document.end - 1] > own) document.end--;
        while (document.end < last && keys->documents[document.end] <= own) document.end++;
        if (document.first > window.first) visible[row].first = document.first;
        if (document.end < window.end) visible[row].end = document.end;
    }
}

// For every tile of 6 rows the keys that any of them sees, which are computed, and those that all of them see, which need
// no mask. A pair without a mask passes no `visible`.
NOT_INLINE void find_ranges(index_range *any, index_range *every, const index_range *visible, int64_t count,
                            const key_facts *keys) {
    for (int64_t start = 0; start < count; start += ROW_TILE, any++, every++) {
        *any = *every = (index_range){0, (int32_t)keys->count};
        if (!visible) continue;
        *any = (index_range){KEY_BLOCK, 0};
        for (int64_t row = start; row < smaller(count, start + ROW_TILE); row++) {
            const index_range range = visible[row];
            if (range.first > every->first) every->first = range.first;
            if (range.end < every->end) every->end = range.end;
            if (range.first >= range.end) continue;
            if (range.first < any->first) any->first = range.first;
            if (range.end > any->end) any->end = range.end;
        }
        if (!keys->ordered) *every = (index_range){0, 0};
    }
}

// Whether a tile needs the panel of keys that starts at `column`, and whether it needs no mask there.
INLINE bool touches(const index_range *any, int64_t column) {
    return any->first < column + PANEL && any->end > column;
}
INLINE bool covers(const index_range *every, int64_t column) {
    return every->first <= column && every->end >= column + PANEL;
}

// x = replacement in the vector of keys from `column` on where they are outside the range.
INLINE vector replace_outside(vector x, int64_t column, const index_range *range, real replacement) {
    vector_bits lane;
    UNROLLED for (int i = 0; i < LANES; i++) lane[i] = i;
    const real_bits first = (real_bits)(range->first - column), end = (real_bits)(range->end - column);
    return choose((lane >= first) & (lane < end), x, all(replacement));
}

// x = replacement where the row does not see the key, over columns from `first` up to `end`.
INLINE void replace_hidden(real *restrict x, const row_facts *row, const index_range *range, const key_facts *keys,
                           bool documents, int64_t first, int64_t end, real replacement) {
    for (int64_t j = first; j < end; j += LANES) store(x + j, replace_outside(load(x + j), j, range, replacement));
    if (keys->ordered) return;
    for (int64_t j = larger(first, range->first); j < smaller(end, range->end); j++)
        if (!sees(row, keys, j, documents)) x[j] = replacement;
}

// MARK: terms

// Soft cap, ALiBi and bias on one row of logits, over columns from `first` up to `end`. `slope` gets the derivative of the
// cap, where asked for.
NOT_INLINE void modify_logits(real *restrict x, real *restrict slope, const row_facts *row, const key_facts *keys,
                              const term_facts *terms, int64_t first, int64_t end) {
    if (terms->capped)
        for (int64_t j = first; j < end; j += LANES) {
            const vector t = tanh_logit(load(x + j) * terms->inverse_cap);
            store(x + j, t * terms->cap);
            if (slope) store(slope + j, 1 - t * t);
        }
    end = smaller(end, keys->count);
    if (terms->alibi) {
        const real from = (real)(row->position - keys->base), weight = row->slope;
        for (int64_t j = first; j < end; j++) {
            const real distance = from - keys->distances[j];
            x[j] -= weight * (distance < 0 ? -distance : distance);
        }
    }
    // A bias of -inf masks: references and lse are finite, so its exponential is 0.
    if (terms->bias && keys->consecutive && terms->bias_stride == 1) {
        const real *restrict bias = row->bias + keys->base;
        for (int64_t j = first; j < end; j++) x[j] += bias[j] * (real)LOG2_E;
    } else if (terms->bias) {
        for (int64_t j = first; j < end; j++)
            x[j] += row->bias[keys->positions[j] * terms->bias_stride] * (real)LOG2_E;
    }
}

// The factor of every weight, over columns from `first` up to `end`: 0 where dropout drops it, else 1 / (1 - probability).
INLINE void find_kept(real *restrict factors, const row_facts *row, const key_facts *keys, const term_facts *terms,
                      int64_t first, int64_t end) {
    const uint32_t key0 = row->key0, key1 = row->key1, threshold = terms->threshold;
    const real factor = terms->keep_factor;
    for (int64_t j = first; j < end; j++)
        factors[j] = dropout_draw(keys->columns[j], key0, key1) >= threshold ? factor : 0;
}
