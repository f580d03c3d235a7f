// Decoding: few rows against many keys. Every key is used only a few times, so that memory is the limit and packing into panels
// would cost more than the products: keys are read where they lie, and bf16 widened on the way.

typedef vector unaligned_vector __attribute__((aligned(1), may_alias));
INLINE vector load_unaligned(const char *p) { return *(const unaligned_vector *)p; }

// How the numbers of a row lie: one in each lane, or bf16 numbers in pairs. A vector of pairs becomes the vector of their first
// numbers and that of their second ones, and Q of such a call lies in that order too.
typedef enum { NUMBERS, PAIRS } row_kind;

#if defined(KERNEL_FLOAT)
enum { OWN_STORAGE = RZ_STORAGE_FLOAT32 };
// Rows that are read in pairs fill their vectors: what lies behind a row is not its own, and times a zero of Q may still be NaN.
INLINE row_kind kind_of(const rz_attention_tensor *from, int64_t size, int64_t padded) {
    return from->storage == RZ_STORAGE_BFLOAT16 && size == padded && size % (2 * LANES) == 0 ? PAIRS : NUMBERS;
}
INLINE vector first_of(vector pairs) { return (vector)((vector_bits)pairs << 16); }
INLINE vector second_of(vector pairs) { return (vector)((vector_bits)pairs & (real_bits)0xffff0000); }
#else
enum { OWN_STORAGE = RZ_STORAGE_FLOAT64 };
INLINE row_kind kind_of(const rz_attention_tensor *from, int64_t size, int64_t padded) { return NUMBERS; }
INLINE vector first_of(vector pairs) { return pairs; }
INLINE vector second_of(vector pairs) { return pairs; }
#endif

typedef struct {
    const char *at;
    int64_t pitch;   // bytes
    int64_t row;     // bytes of a row where keys are read where they lie, else 0
} few_keys;

// Asks for what will be read FETCH_AHEAD rows after a key. The rows of Q share the keys to ask for, one by one between their products:
// many at once fill the queue of the memory, and the products wait behind them. What lies past the tensor may be asked for.
INLINE void fetch_after(few_keys keys, int64_t key) {
    for (int64_t b = 0; b < keys.row; b += 64) __builtin_prefetch(keys.at + (FETCH_AHEAD + key) * keys.pitch + b);
}

// Those of LANES keys that a row asks for.
INLINE index_range share_of(int64_t row, int64_t rows) {
    return (index_range){(int32_t)(LANES * row / rows), (int32_t)(LANES * (row + 1) / rows)};
}

// Whether keys are read where they lie.
INLINE bool lie_ready(const row_kind kind, const rz_attention_tensor *from, int64_t size, int64_t padded) {
    return kind == PAIRS || (from->storage == OWN_STORAGE && size == padded);
}

// Keys from `index` on where they lie.
INLINE few_keys where_they_lie(const row_kind kind, const rz_attention_tensor *from, int64_t index, int64_t size) {
    const int64_t bytes = kind == PAIRS ? sizeof(uint16_t) : sizeof(real);
    return (few_keys){(const char *)from->data + index * bytes, from->token_stride * bytes, size * bytes};
}

// LANES keys, of which there are `keys` from `index` on: where they lie, or in `few` where they cannot be read as they are.
INLINE few_keys keys_at(const row_kind kind, const rz_attention_tensor *from, int64_t index, int64_t keys, int64_t size,
                        int64_t padded, real *few) {
    const bool whole = keys >= LANES;
    if (kind == NUMBERS && !(whole && lie_ready(kind, from, size, padded))) {
        pack_rows(few, from, index, smaller(LANES, keys), keys, LANES, size, padded);
        return (few_keys){(const char *)few, padded * (int64_t)sizeof(real), 0};
    }
    const few_keys there = where_they_lie(kind, from, index, size);
    if (whole) return there;
    memset(few, 0, (size_t)(LANES * there.row));
    for (int64_t r = 0; r < keys; r++) memcpy((char *)few + r * there.row, there.at + r * there.pitch, (size_t)there.row);
    return (few_keys){(const char *)few, there.row, 0};
}

// Rows of Q in the order of `kind`.
INLINE void order_queries(const row_kind kind, real *q, int64_t rows, int64_t padded) {
    if (kind == NUMBERS) return;
    for (real *at = q; at < q + rows * padded; at += 2 * LANES) {
        real pairs[2 * LANES];
        memcpy(pairs, at, sizeof pairs);
        for (int64_t i = 0; i < LANES; i++) at[i] = pairs[2 * i], at[LANES + i] = pairs[2 * i + 1];
    }
}

// The logits of one row and LANES keys: key by key where no other row uses them, side by side where one does. The sums are the same.
INLINE vector dot_products(const row_kind kind, const bool alone, const real *q, few_keys keys, int64_t padded,
                           index_range share) {
    const int64_t step = (kind == PAIRS ? 2 : 1) * LANES, together = alone ? 1 : LANES, asking = share.end - share.first;
    int64_t asked = 0;
    vector sums[LANES];
    UNROLLED for (int i = 0; i < LANES; i++) sums[i] = (vector){0};
    UNROLLED for (int first = 0; first < LANES; first += together) {
        const char *at = keys.at + first * keys.pitch;
        if (alone) fetch_after(keys, first);
        for (int64_t d = 0; d < padded; d += step, at += sizeof(vector)) {
            for (; !alone && asked * padded < (d + step) * asking; asked++) fetch_after(keys, share.first + asked);
            const vector x = load(q + d), y = kind == PAIRS ? load(q + d + LANES) : x;
            UNROLLED for (int i = 0; i < together; i++) {
                const vector key = load_unaligned(at + i * keys.pitch);
                vector *sum = sums + first + i;
                *sum = kind == PAIRS ? second_of(key) * y + (first_of(key) * x + *sum) : key * x + *sum;
            }
        }
    }
    return sums_of(sums);
}

// One row of O += the weights of LANES keys times their values.
INLINE void add_values(const row_kind kind, real *o, const real *p, few_keys keys, int64_t padded, index_range share) {
    const int64_t step = (kind == PAIRS ? 2 : 1) * LANES, asking = share.end - share.first;
    const char *at = keys.at;
    int64_t asked = 0;
    vector weights[LANES];
    UNROLLED for (int i = 0; i < LANES; i++) weights[i] = all(p[i]);
    for (int64_t d = 0; d < padded; d += step, at += sizeof(vector)) {
        for (; asked * padded < (d + step) * asking; asked++) fetch_after(keys, share.first + asked);
        vector sum = {0}, second = {0};
        UNROLLED for (int i = 0; i < LANES; i++) {
            const vector value = load_unaligned(at + i * keys.pitch);
            sum = weights[i] * (kind == PAIRS ? first_of(value) : value) + sum;
            if (kind == PAIRS) second = weights[i] * second_of(value) + second;
        }
        if (kind == PAIRS) {
            store(o + d, load(o + d) + DEAL_LOW(sum, second));
            store(o + d + LANES, load(o + d + LANES) + DEAL_HIGH(sum, second));
        } else {
            store(o + d, load(o + d) + sum);
        }
    }
}

// MARK: one row, and keys of the compute type
//
// The processor reads ahead by itself, and further the fewer instructions lie between two reads: Q, or the sums of O, stay in registers
// while the keys pass. Nothing is asked for: even one line a page is slower.

enum { MOST_COLUMNS = 16 };   // vectors of a row in registers

// Calls what is compiled for 16, 8, 4 or 1 vectors of a row, from vector `c` on, until all are done.
#define BY_COLUMNS(vectors, function, ...)                                                                        \
    for (int64_t c = 0, left = (vectors); left > 0; left = (vectors) - c) {                                       \
        if (left >= MOST_COLUMNS) function(MOST_COLUMNS, c, __VA_ARGS__), c += MOST_COLUMNS;                      \
        else if (left >= 8) function(8, c, __VA_ARGS__), c += 8;                                                  \
        else if (left >= 4) function(4, c, __VA_ARGS__), c += 4;                                                  \
        else function(1, c, __VA_ARGS__), c += 1;                                                                 \
    }

// P = (Q K^T over vectors c, c + 1, ..), added to what is there unless these are the first.
INLINE void add_dots(const int vectors, int64_t c, real *p, const real *q, few_keys keys, int64_t count) {
    const char *at = keys.at + c * (int64_t)sizeof(vector);
    for (int64_t j = 0; j < count; j += LANES) {
        vector sums[LANES];
        for (int i = 0; i < LANES; i++, at += keys.pitch) {
            vector even = {0}, odd = {0};
            UNROLLED for (int v = 0; v < vectors; v++) {
                vector *sum = v % 2 == 0 ? &even : &odd;
                *sum = load_unaligned(at + v * sizeof(vector)) * load(q + (c + v) * LANES) + *sum;
            }
            sums[i] = even + odd;
        }
        const vector sum = sums_of(sums);
        store(p + j, c > 0 ? load(p + j) + sum : sum);
    }
}
NOT_INLINE void scores_of_one(real *p, const real *q, few_keys keys, int64_t count, int64_t padded) {
    BY_COLUMNS(padded / LANES, add_dots, p, q, keys, count);
}

// O += the weights of keys times their values.
INLINE void add_columns(const int vectors, int64_t c, real *o, const real *p, few_keys keys, int64_t count) {
    const char *at = keys.at + c * (int64_t)sizeof(vector);
    vector sums[MOST_COLUMNS];
    UNROLLED for (int v = 0; v < vectors; v++) sums[v] = (vector){0};
    for (int64_t j = 0; j < count; j++, at += keys.pitch) {
        const vector weight = all(p[j]);
        UNROLLED for (int v = 0; v < vectors; v++) sums[v] = weight * load_unaligned(at + v * sizeof(vector)) + sums[v];
    }
    UNROLLED for (int v = 0; v < vectors; v++) store(o + (c + v) * LANES, load(o + (c + v) * LANES) + sums[v]);
}

// MARK: a block

// S of `rows` rows and a range of the keys of a block, of which there are `keys` from index `at` on; `few` holds LANES rows.
NOT_INLINE void scores_of_few(real *p, const real *q, int64_t rows, const rz_attention_tensor *k, int64_t at, int64_t keys,
                              index_range range, int64_t size, int64_t padded, real *few) {
    const row_kind kind = kind_of(k, size, padded);
    int64_t j = range.first;
    if (rows == 1 && kind == NUMBERS && lie_ready(kind, k, size, padded)) {
        const int64_t count = larger(0, smaller(range.end, keys / LANES * LANES) - j);
        scores_of_one(p + j, q, where_they_lie(kind, k, at + j * k->token_stride, size), count, padded);
        j += count;
    }
    for (; j < range.end; j += LANES) {
        const few_keys some = keys_at(kind, k, at + j * k->token_stride, keys - j, size, padded, few);
        if (rows == 1 && kind == NUMBERS) {
            scores_of_one(p + j, q, some, LANES, padded);
            continue;
        }
        for (int64_t row = 0; row < rows; row++) {
            const real *x = q + row * padded;
            const index_range share = share_of(row, rows);
            if (kind == NUMBERS)
                store(p + row * ROW_PITCH + j, dot_products(NUMBERS, false, x, some, padded, share));
            else if (rows > 1)
                store(p + row * ROW_PITCH + j, dot_products(PAIRS, false, x, some, padded, share));
            else
                store(p + j, dot_products(PAIRS, true, x, some, padded, share));
        }
    }
}

// O += P V, likewise.
NOT_INLINE void add_values_of_few(real *o, const real *p, int64_t rows, const rz_attention_tensor *v, int64_t at, int64_t keys,
                                  index_range range, int64_t size, int64_t padded, real *few) {
    const row_kind kind = kind_of(v, size, padded);
    if (rows == 1 && kind == NUMBERS && lie_ready(kind, v, size, padded)) {
        const few_keys seen = where_they_lie(kind, v, at + range.first * v->token_stride, size);
        BY_COLUMNS(padded / LANES, add_columns, o, p + range.first, seen, smaller(range.end, keys) - range.first);
        return;
    }
    for (int64_t j = range.first; j < range.end; j += LANES) {
        const few_keys some = keys_at(kind, v, at + j * v->token_stride, keys - j, size, padded, few);
        for (int64_t row = 0; row < rows; row++) {
            real *to = o + row * padded;
            const real *weights = p + row * ROW_PITCH + j;
            if (kind == PAIRS)
                add_values(PAIRS, to, weights, some, padded, share_of(row, rows));
            else
                add_values(NUMBERS, to, weights, some, padded, share_of(row, rows));
        }
    }
}
#undef BY_COLUMNS
