// Decoding: few rows against many keys. Every key is used only a few times, so that memory is the limit and packing into panels
// would cost more than the products: keys are read where they lie, and bf16 widened on the way.

typedef vector unaligned_vector __attribute__((aligned(1), may_alias));
INLINE vector load_unaligned(const char *p) { return *(const unaligned_vector *)p; }

// How the numbers of a row lie: one in each lane, or bf16 numbers in pairs. A vector of pairs becomes the vector of their first
// numbers and that of their second ones, and Q of such a call lies in that order too.
typedef enum { NUMBERS, PAIRS } row_kind;

#if defined(KERNEL_FLOAT)
enum { OWN_STORAGE = RZ_STORAGE_FLOAT32 };
INLINE row_kind kind_of(const rz_attention_tensor *from, int64_t size) {
    return from->storage == RZ_STORAGE_BFLOAT16 && size % (2 * LANES) == 0 ? PAIRS : NUMBERS;
}
INLINE vector first_of(vector pairs) { return (vector)((vector_bits)pairs << 16); }
INLINE vector second_of(vector pairs) { return (vector)((vector_bits)pairs & (real_bits)0xffff0000); }
#else
enum { OWN_STORAGE = RZ_STORAGE_FLOAT64 };
INLINE row_kind kind_of(const rz_attention_tensor *from, int64_t size) { return NUMBERS; }
INLINE vector first_of(vector pairs) { return pairs; }
INLINE vector second_of(vector pairs) { return pairs; }
#endif

typedef struct {
    const char *at;
    int64_t pitch;   // bytes
    int64_t row;     // bytes of a row where keys are read where they lie, else 0
} few_keys;

// Asks for what will be read FETCH_AHEAD rows after a key. The first row of Q does so, key by key between its products: all at once they
// would fill the queue of the memory, and the products wait behind them. What lies past the tensor may be asked for.
INLINE void fetch_after(few_keys keys, int64_t key) {
    for (int64_t b = 0; b < keys.row; b += 64) __builtin_prefetch(keys.at + (FETCH_AHEAD + key) * keys.pitch + b);
}

// LANES keys, of which there are `keys` from `index` on: where they lie, or in `few` where they cannot be read as they are.
INLINE few_keys keys_at(const row_kind kind, const rz_attention_tensor *from, int64_t index, int64_t keys, int64_t size,
                        int64_t padded, real *few) {
    const bool whole = keys >= LANES, numbers = from->storage == OWN_STORAGE && size == padded;
    if (kind == NUMBERS && !(whole && numbers)) {
        pack_rows(few, from, index, smaller(LANES, keys), keys, LANES, size, padded);
        return (few_keys){(const char *)few, padded * (int64_t)sizeof(real), 0};
    }
    const int64_t bytes = kind == PAIRS ? sizeof(uint16_t) : sizeof(real), row = size * bytes;
    const char *at = (const char *)from->data + index * bytes;
    const int64_t pitch = from->token_stride * bytes;
    if (whole) return (few_keys){at, pitch, row};
    memset(few, 0, (size_t)(LANES * row));
    for (int64_t r = 0; r < keys; r++) memcpy((char *)few + r * row, at + r * pitch, (size_t)row);
    return (few_keys){(const char *)few, row, 0};
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

// The logits of one row and LANES keys: key by key while memory is the limit, side by side where it no longer is. The sums are the same.
INLINE vector dot_products(const row_kind kind, const bool fetching, const real *q, few_keys keys, int64_t padded) {
    const int64_t step = (kind == PAIRS ? 2 : 1) * LANES, together = fetching ? 1 : LANES;
    vector sums[LANES];
    UNROLLED for (int i = 0; i < LANES; i++) sums[i] = (vector){0};
    UNROLLED for (int first = 0; first < LANES; first += together) {
        const char *at = keys.at + first * keys.pitch;
        if (fetching) fetch_after(keys, first);
        for (int64_t d = 0; d < padded; d += step, at += sizeof(vector)) {
            const vector x = load(q + d), y = kind == PAIRS ? load(q + d + LANES) : x;
            UNROLLED for (int i = 0; i < together; i++) {
                const vector key = load_unaligned(at + i * keys.pitch);
                vector *sum = sums + first + i;
                *sum = kind == PAIRS ? second_of(key) * y + (first_of(key) * x + *sum) : key * x + *sum;
            }
        }
    }
    transpose_square(sums);
    UNROLLED for (int step = LANES / 2; step > 0; step /= 2)
        UNROLLED for (int i = 0; i < step; i++) sums[i] += sums[i + step];
    return sums[0];
}

// One row of O += the weights of LANES keys times their values.
INLINE void add_values(const row_kind kind, const bool fetching, real *o, const real *p, few_keys keys, int64_t padded) {
    const int64_t step = (kind == PAIRS ? 2 : 1) * LANES;
    const char *at = keys.at;
    int64_t fetched = 0;
    vector weights[LANES];
    UNROLLED for (int i = 0; i < LANES; i++) weights[i] = all(p[i]);
    for (int64_t d = 0; d < padded; d += step, at += sizeof(vector)) {
        for (; fetching && fetched * padded < (d + step) * LANES; fetched++) fetch_after(keys, fetched);
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

// Calls what is compiled for a kind, and for rows that fetch or do not.
#define OF_KIND(kind, row, function, ...)                                                                             \
    ((kind) == PAIRS ? ((row) == 0 ? function(PAIRS, true, __VA_ARGS__) : function(PAIRS, false, __VA_ARGS__))         \
                     : ((row) == 0 ? function(NUMBERS, true, __VA_ARGS__) : function(NUMBERS, false, __VA_ARGS__)))

// S of `rows` rows and a range of the keys of a block, of which there are `keys` from index `at` on; `few` holds LANES rows.
NOT_INLINE void scores_of_few(real *p, const real *q, int64_t rows, const rz_attention_tensor *k, int64_t at, int64_t keys,
                              index_range range, int64_t size, int64_t padded, real *few) {
    const row_kind kind = kind_of(k, size);
    for (int64_t j = range.first; j < range.end; j += LANES) {
        const few_keys some = keys_at(kind, k, at + j * k->token_stride, keys - j, size, padded, few);
        for (int64_t row = 0; row < rows; row++)
            store(p + row * ROW_PITCH + j, OF_KIND(kind, row, dot_products, q + row * padded, some, padded));
    }
}

// O += P V, likewise.
NOT_INLINE void add_values_of_few(real *o, const real *p, int64_t rows, const rz_attention_tensor *v, int64_t at, int64_t keys,
                                  index_range range, int64_t size, int64_t padded, real *few) {
    const row_kind kind = kind_of(v, size);
    for (int64_t j = range.first; j < range.end; j += LANES) {
        const few_keys some = keys_at(kind, v, at + j * v->token_stride, keys - j, size, padded, few);
        for (int64_t row = 0; row < rows; row++)
            OF_KIND(kind, row, add_values, o + row * padded, p + row * ROW_PITCH + j, some, padded);
    }
}
#undef OF_KIND
