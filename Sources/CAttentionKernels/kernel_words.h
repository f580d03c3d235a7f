// What the products multiply. Here a word is one number of the compute type; in kernel_words_bf16.h it is two bf16 numbers.
// The two files hold all that the engines do differently with words: multiply, pack, and make words of results.

typedef real word;
typedef vector word_vector;

enum {
    WORD_NUMBERS = 1,           // numbers of a word: neighbours along the dimension that a product sums
    PRODUCT_STEP = 1,           // numbers that a product sums at a time
    ROUNDS_WEIGHTS = 0,         // whether P is rounded to words
    KEY_BLOCK = PANEL > 16 ? 128 : 144,   // keys of a block: whole panels, and where those are narrow whole tiles of 6 as well
    FORWARD_ROWS = 192,         // rows of a block, over the query heads of one kv head
    BACKWARD_ROWS = 96,
    FORWARD_SHARE = PANEL > 32 ? 6 : 4,   // blocks of queries that one unit takes at most, and packs the other side for once,
    BACKWARD_SHARE = 4,         // and of keys,
    SLOPE_BLOCKS = 0,           // fewer by these where a slope takes their room
    FEW_ROWS = 32,              // up to here, against many keys, packing those would cost more than it saves
    ROW_PITCH = KEY_BLOCK + 16, // of S, P, dS: room for the columns a last tile of 6 keys may read beyond the block
    WORD_PITCH = ROW_PITCH,     // of rows of P and dS as the products read them
};

INLINE word_vector load_words(const word *p) { return load(p); }
INLINE void store_words(word *p, word_vector x) { store(p, x); }
INLINE word_vector all_words(word x) { return all(x); }
INLINE vector multiply_add(word_vector a, word_vector b, vector c) { return a * b + c; }

// MARK: logits

// Q is packed times scale * log2 e: products are logits in log2 units already, and those of dS and Q lack 1 / log2 e.
INLINE real logit_scale(const rz_attention_problem *p) { return 1; }
INLINE vector scaled(vector product, real scale) { return product; }
INLINE vector scaled_above(vector product, real scale, vector reference) { return product - reference; }
INLINE real key_gradient_scale(const rz_attention_problem *p) { return (real)LN_2; }
INLINE vector exp2_weight(vector x) { return exp2_vector(x); }
INLINE vector tanh_logit(vector z) { return tanh_vector(z); }

// MARK: packing

// Rows of a tensor (token stride apart) to row-major memory of width `padded`; `rows` up to `capacity` become zero. The tensor
// holds `available` rows from `index` on, of which those after the packed ones are wanted next.
NOT_INLINE void pack_scaled_rows(word *to, const rz_attention_tensor *from, int64_t index, int64_t rows, int64_t available,
                                 int64_t capacity, int64_t size, int64_t padded, real factor) {
    for (int64_t r = 0; r < rows; r++, to += padded) {
        if (r + FETCH_AHEAD < available) fetch_row(from, index + (r + FETCH_AHEAD) * from->token_stride, size);
        widen(to, from, index + r * from->token_stride, size, factor);
        for (int64_t d = size; d < padded; d++) to[d] = 0;
    }
    memset(to, 0, sizeof(real) * (size_t)((capacity - rows) * padded));
}

INLINE void pack_rows(word *to, const rz_attention_tensor *from, int64_t index, int64_t rows, int64_t available,
                      int64_t capacity, int64_t size, int64_t padded) {
    pack_scaled_rows(to, from, index, rows, available, capacity, size, padded, 1);
}

INLINE void pack_queries(word *to, const rz_attention_tensor *from, int64_t index, int64_t rows, int64_t padded,
                         const rz_attention_problem *p) {
    pack_scaled_rows(to, from, index, rows, rows, rows, p->head_size, padded, (real)(p->scale * LOG2_E));
}

// Rows of row-major memory as the rows from `first` on of panels of columns: panel after panel, each [capacity][<= PANEL].
INLINE void pack_columns(word *to, const word *from, int64_t first, int64_t rows, int64_t capacity, int64_t padded) {
    for (int64_t d = 0; d < padded; d += PANEL) {
        const int64_t width = smaller(PANEL, padded - d);
        word *place = to + capacity * d + first * width;
        for (int64_t r = 0; r < rows; r++, place += width)
            for (int64_t c = 0; c < width; c += LANES) store(place + c, load(from + r * padded + d + c));
    }
}

// MARK: results as words

// Weights of one row and `width` vectors of keys for the product with V, which takes them as they are.
INLINE void store_weights(const int width, word *to, const vector *x, vector *rounded_sum) {
    UNROLLED for (int c = 0; c < width; c++) store(to + c * LANES, x[c]);
}

// Weights that were stored, times a power of two.
INLINE void rescale_weights(word *weights, int64_t columns, vector factor) {
    for (int64_t j = 0; j < columns; j += LANES) store(weights + j, load(weights + j) * factor);
}
