// Decoding: few rows against many keys. Every key is used only a few times, so that packing it into a panel would cost more than it
// saves, and with very few rows memory is the limit: keys are read where they lie, and bf16 widened on the way.

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

enum {
    AHEAD_KEYS = 32,
    MOST_ROWS = 4,       // of Q at a time
    MOST_COLUMNS = 16,   // vectors of a row in registers
};

typedef struct {
    const char *at;
    int64_t pitch;   // bytes
    int64_t ahead;   // bytes from a key to the one that is asked for meanwhile
} few_keys;

// Whether keys are read where they lie.
INLINE bool lie_ready(const row_kind kind, const rz_attention_tensor *from, int64_t size, int64_t padded) {
    return kind == PAIRS || (from->storage == OWN_STORAGE && size == padded);
}

// Keys from `index` on where they lie.
INLINE few_keys where_they_lie(const row_kind kind, const rz_attention_tensor *from, int64_t index) {
    const int64_t bytes = kind == PAIRS ? sizeof(uint16_t) : sizeof(real);
    const int64_t pitch = from->token_stride * bytes;
    return (few_keys){(const char *)from->data + index * bytes, pitch, AHEAD_KEYS * pitch};
}

// LANES keys, of which there are `keys` from `index` on, in `few`: numbers widened, pairs as they are, and zeros.
INLINE few_keys copied(const row_kind kind, const rz_attention_tensor *from, int64_t index, int64_t keys, int64_t size, int64_t padded,
                       real *few) {
    if (kind == NUMBERS) {
        pack_rows(few, from, index, smaller(LANES, keys), keys, LANES, size, padded);
        return (few_keys){(const char *)few, padded * (int64_t)sizeof(real), 0};
    }
    const few_keys there = where_they_lie(kind, from, index);
    const int64_t row = size * (int64_t)sizeof(uint16_t);
    memset(few, 0, (size_t)(LANES * row));
    for (int64_t r = 0; r < smaller(LANES, keys); r++) memcpy((char *)few + r * row, there.at + r * there.pitch, (size_t)row);
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

// MARK: keys against rows of Q
//
// What is summed up stays in registers: LANES logits, or columns of O. One row of numbers takes an instruction a vector of a key: the
// processor then reads far ahead by itself, and asking for what follows only delays it. With more instructions between two reads it
// does not look far enough, and every vector read asks for one further on. What lies past a tensor may be asked for.

INLINE bool is_asking(const row_kind kind, const int rows) { return kind == PAIRS || rows > 1; }

// Places of rows among LANES sums, which they divide evenly.
INLINE int places_of(const int rows) { return rows == 3 ? 4 : rows; }

// Numbers of a vector as it lies: it itself, or the first or second ones of its pairs.
INLINE int parts_of(const row_kind kind) { return kind == PAIRS ? 2 : 1; }
INLINE vector part_of(const row_kind kind, vector x, int part) {
    return kind == NUMBERS ? x : part == 0 ? first_of(x) : second_of(x);
}

// P = (Q K^T over vectors c, c + 1, .. of a row of Q), added to what is there unless these are the first.
INLINE void add_dots(const row_kind kind, const int vectors, int64_t c, real *p, const real *q, few_keys keys, int64_t count) {
    const int parts = parts_of(kind);
    const char *at = keys.at + c * (int64_t)sizeof(vector);
    q += c * parts * LANES;
    for (int64_t j = 0; j < count; j += LANES) {
        vector sums[LANES];
        for (int i = 0; i < LANES; i++, at += keys.pitch) {
            vector even = {0}, odd = {0};
            UNROLLED for (int v = 0; v < vectors; v++) {
                const vector key = load_unaligned(at + v * sizeof(vector));
                if (is_asking(kind, 1)) __builtin_prefetch(at + v * sizeof(vector) + keys.ahead);
                UNROLLED for (int part = 0; part < parts; part++) {
                    vector *sum = (v * parts + part) % 2 == 0 ? &even : &odd;
                    *sum = part_of(kind, key, part) * load(q + (v * parts + part) * LANES) + *sum;
                }
            }
            sums[i] = even + odd;
        }
        const vector sum = sums_of(sums);
        store(p + j, c > 0 ? load(p + j) + sum : sum);
    }
}

// P = Q K^T for several rows and LANES logits at a time, so that some keys lie side by side and share what is read of Q.
INLINE void multiply_rows(const row_kind kind, const int rows, real *p, const real *q, int64_t padded, few_keys keys, int64_t count) {
    const int parts = parts_of(kind), beside = LANES / places_of(rows);
    for (int64_t j = 0; j < count; j += beside) {
        const char *at = keys.at + j * keys.pitch;
        vector sums[LANES];
        UNROLLED for (int i = 0; i < LANES; i++) sums[i] = (vector){0};
        _Pragma("clang loop unroll(disable)")   // unrolled, Q is kept in registers, of which there are too few
        for (int64_t d = 0; d < padded; d += parts * LANES, at += sizeof(vector)) {
            vector key[LANES];
            UNROLLED for (int i = 0; i < beside; i++) {
                key[i] = load_unaligned(at + i * keys.pitch);
                __builtin_prefetch(at + i * keys.pitch + keys.ahead);
            }
            UNROLLED for (int part = 0; part < parts; part++)
                UNROLLED for (int row = 0; row < rows; row++) {
                    const vector x = load(q + row * padded + d + part * LANES);
                    UNROLLED for (int i = 0; i < beside; i++) {
                        vector *sum = sums + row * beside + i;
                        *sum = x * part_of(kind, key[i], part) + *sum;
                    }
                }
        }
        real logits[LANES] __attribute__((aligned(VECTOR_BYTES)));
        store(logits, sums_of(sums));
        UNROLLED for (int row = 0; row < rows; row++)
            memcpy(p + row * ROW_PITCH + j, logits + row * beside, (size_t)beside * sizeof(real));
    }
}

// Vectors of a row whose sums stay in registers, where weights of several rows and values want some too.
INLINE int most_columns(const row_kind kind, const int rows) {
    return (rows == 1 ? MOST_COLUMNS : 4 * TILE_VECTORS / places_of(rows)) / parts_of(kind);
}

// O += the weights of keys times vectors c, c + 1, .. of their values.
INLINE void add_columns(const row_kind kind, const int rows, const int vectors, int64_t c, real *o, const real *p, int64_t padded,
                        few_keys keys, int64_t count) {
    const int parts = parts_of(kind);
    const char *at = keys.at + c * (int64_t)sizeof(vector);
    vector sums[MOST_ROWS][MOST_COLUMNS][2];
    UNROLLED for (int row = 0; row < rows; row++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[row][v][0] = sums[row][v][1] = (vector){0};
    for (int64_t j = 0; j < count; j++, at += keys.pitch) {
        vector weights[MOST_ROWS];
        UNROLLED for (int row = 0; row < rows; row++) weights[row] = all(p[row * ROW_PITCH + j]);
        UNROLLED for (int v = 0; v < vectors; v++) {
            const vector value = load_unaligned(at + v * sizeof(vector));
            if (is_asking(kind, rows)) __builtin_prefetch(at + v * sizeof(vector) + keys.ahead);
            UNROLLED for (int part = 0; part < parts; part++) {
                const vector x = part_of(kind, value, part);
                UNROLLED for (int row = 0; row < rows; row++) sums[row][v][part] = weights[row] * x + sums[row][v][part];
            }
        }
    }
    UNROLLED for (int row = 0; row < rows; row++)
        UNROLLED for (int v = 0; v < vectors; v++) {
            real *to = o + row * padded + (c + v) * parts * LANES;
            const vector first = sums[row][v][0], second = sums[row][v][1];
            if (kind == NUMBERS) {
                store(to, load(to) + first);
            } else {
                store(to, load(to) + DEAL_LOW(first, second));
                store(to + LANES, load(to + LANES) + DEAL_HIGH(first, second));
            }
        }
}

// Calls what is compiled for 16, 8, 4, 2 or 1 vectors of a row from vector `c` on, at most `most` of them, until all are done.
#define BY_COLUMNS(vectors, most, CALL)                                                                           \
    for (int64_t c = 0, left = (vectors), done; left > 0; c += done, left -= done) {                              \
        if ((most) >= 16 && left >= 16) done = 16, CALL(16);                                                      \
        else if ((most) >= 8 && left >= 8) done = 8, CALL(8);                                                     \
        else if ((most) >= 4 && left >= 4) done = 4, CALL(4);                                                     \
        else if ((most) >= 2 && left >= 2) done = 2, CALL(2);                                                     \
        else done = 1, CALL(1);                                                                                   \
    }

// And for 4, 3, 2 or 1 rows from `row` on. Numbers of two rows are soon done with; pairs want widening, which four rows share.
#define BY_ROWS(CALL)                                                                                             \
    for (int64_t row = 0, left = rows, done; left > 0; row += done, left -= done) {                               \
        if (kind == PAIRS && left >= 4) done = 4, CALL(PAIRS, 4);                                                 \
        else if (kind == PAIRS && left == 3) done = 3, CALL(PAIRS, 3);                                            \
        else if (kind == PAIRS && left == 2) done = 2, CALL(PAIRS, 2);                                            \
        else if (kind == PAIRS) done = 1, CALL(PAIRS, 1);                                                         \
        else if (left >= 2) done = 2, CALL(NUMBERS, 2);                                                           \
        else done = 1, CALL(NUMBERS, 1);                                                                          \
    }

INLINE void dots_of(const row_kind kind, const int rows, real *p, const real *q, int64_t padded, few_keys keys, int64_t count) {
#define ADD_DOTS(vectors) add_dots(kind, vectors, c, p, q, keys, count)
    if (rows == 1) BY_COLUMNS(padded / (parts_of(kind) * LANES), MOST_COLUMNS / parts_of(kind), ADD_DOTS)
    else multiply_rows(kind, rows, p, q, padded, keys, count);
#undef ADD_DOTS
}
NOT_INLINE void dots_of_rows(const row_kind kind, real *p, const real *q, int64_t rows, int64_t padded, few_keys keys, int64_t count) {
#define DOTS_OF(kind, rows) dots_of(kind, rows, p + row * ROW_PITCH, q + row * padded, padded, keys, count)
    BY_ROWS(DOTS_OF)
#undef DOTS_OF
}

INLINE void values_of(const row_kind kind, const int rows, real *o, const real *p, int64_t padded, few_keys keys, int64_t count) {
#define ADD_COLUMNS(vectors) add_columns(kind, rows, vectors, c, o, p, padded, keys, count)
    BY_COLUMNS(padded / (parts_of(kind) * LANES), most_columns(kind, rows), ADD_COLUMNS)
#undef ADD_COLUMNS
}
NOT_INLINE void values_of_rows(const row_kind kind, real *o, const real *p, int64_t rows, int64_t padded, few_keys keys, int64_t count) {
#define VALUES_OF(kind, rows) values_of(kind, rows, o + row * padded, p + row * ROW_PITCH, padded, keys, count)
    BY_ROWS(VALUES_OF)
#undef VALUES_OF
}

// MARK: a block

// Keys that all rows, and all columns, go over before the next ones, so that only the first find them in memory.
INLINE int64_t keys_at_a_time(int64_t rows, bool ready) { return !ready ? LANES : rows > 1 ? AHEAD_KEYS : KEY_BLOCK; }

// S of `rows` rows and a range of the keys of a block, of which there are `keys` from index `at` on; `few` holds LANES rows.
NOT_INLINE void scores_of_few(real *p, const real *q, int64_t rows, const rz_attention_tensor *k, int64_t at, int64_t keys,
                              index_range range, int64_t size, int64_t padded, real *few) {
    const row_kind kind = kind_of(k, size, padded);
    const bool ready = lie_ready(kind, k, size, padded);
    const int64_t end = blocks_of(range.end, LANES) * LANES;
    const int64_t whole = ready ? smaller(end, keys / LANES * LANES) : 0;   // those beyond fill no vector
    for (int64_t j = range.first, count; j < range.end; j += count) {
        const int64_t from = at + j * k->token_stride;
        count = j < whole ? smaller(keys_at_a_time(rows, ready), whole - j) : LANES;
        dots_of_rows(kind, p + j, q, rows, padded,
                     j < whole ? where_they_lie(kind, k, from) : copied(kind, k, from, keys - j, size, padded, few), count);
    }
}

// O += P V, likewise.
NOT_INLINE void add_values_of_few(real *o, const real *p, int64_t rows, const rz_attention_tensor *v, int64_t at, int64_t keys,
                                  index_range range, int64_t size, int64_t padded, real *few) {
    const row_kind kind = kind_of(v, size, padded);
    const bool ready = lie_ready(kind, v, size, padded);
    const int64_t end = smaller(range.end, keys);
    for (int64_t j = range.first, count; j < end; j += count) {
        const int64_t from = at + j * v->token_stride;
        count = smaller(keys_at_a_time(rows, ready), end - j);
        values_of_rows(kind, o, p + j, rows, padded,
                       ready ? where_they_lie(kind, v, from) : copied(kind, v, from, keys - j, size, padded, few), count);
    }
}
#undef BY_COLUMNS
#undef BY_ROWS
