// Words of the bf16 engines: two bf16 numbers, neighbours along the dimension that a product sums, the first in the low half.
// A product of words adds both of their products to a float32 sum. Logits, softmax, sums and gradients stay in float32; only what
// is multiplied is bf16, and P and dS are rounded to it.

typedef uint32_t word;
typedef word word_vector __attribute__((vector_size(VECTOR_BYTES), may_alias));

enum {
    WORD_NUMBERS = 2,
    ROUNDS_WEIGHTS = 1,
    BACKWARD_ROWS = 192,
    FEW_ROWS = 8,                   // up to here they are left to the engine whose words are numbers: attention.c
#if defined(KERNEL_AMX)
    // Tiles multiply so fast that what is done once a block (packing, O from and to memory) counts: larger blocks.
    PRODUCT_STEP = 2 * LANES,
    KEY_BLOCK = 256,
    FORWARD_ROWS = 256,
    FORWARD_SHARE = 4,
    BACKWARD_SHARE = 4,
    SLOPE_BLOCKS = 0,
#else
    PRODUCT_STEP = 2,
    KEY_BLOCK = 192,                // whole panels and whole tiles of 6 keys; a 192 x 64 panel is 24 KB
    FORWARD_ROWS = 192,
    FORWARD_SHARE = 3,
    BACKWARD_SHARE = 4,             // within 2 MiB at a head size of 128,
    SLOPE_BLOCKS = 1,               // also with a slope
#endif
    ROW_PITCH = KEY_BLOCK + 16,
    WORD_PITCH = KEY_BLOCK / 2 + 16, // an odd number of cache lines
};

INLINE word_vector load_words(const word *p) { return *(const word_vector *)p; }
INLINE void store_words(word *p, word_vector x) { *(word_vector *)p = x; }
INLINE word_vector all_words(word x) { return x | (word_vector){0}; }

// The numbers of words in float32.
INLINE vector low_numbers(word_vector x) { return (vector)(x << 16); }
INLINE vector high_numbers(word_vector x) { return (vector)(x & 0xffff0000u); }

#if defined(KERNEL_AVX512)

INLINE vector multiply_add(word_vector a, word_vector b, vector c) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}
// Words of (low, high), lane by lane.
INLINE word_vector words_of(vector low, vector high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (word_vector)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
// Words of neighbouring lanes: first those of `low`, then those of `high`.
INLINE word_vector words_along(vector low, vector high) { return (word_vector)_mm512_cvtne2ps_pbh(high, low); }

#else

// The same arithmetic without the instructions (Intel SDM, VDPBF16PS and VCVTNE2PS2BF16): subnormal numbers count as zero, the
// high product is added first, each sum is rounded to nearest even. A product of two bf16 numbers is exact in float32 unless it
// is subnormal itself, so that it does not matter whether product and sum are fused.
INLINE vector without_subnormals(vector x) {
    const word_vector bits = (word_vector)x;
    return choose((vector_bits)((bits & 0x7f800000u) == 0), (vector)(bits & 0x80000000u), x);
}
INLINE vector multiply_add(word_vector a, word_vector b, vector c) {
    const vector high = without_subnormals(high_numbers(a)) * without_subnormals(high_numbers(b));
    const vector low = without_subnormals(low_numbers(a)) * without_subnormals(low_numbers(b));
    c = without_subnormals(without_subnormals(c) + high);
    return without_subnormals(c + low);
}
// bf16 numbers in the high halves, with something in the low ones.
INLINE word_vector rounded_high(vector x) {
    const word_vector bits = (word_vector)without_subnormals(x);
    const word_vector nearest = bits + 0x7fff + ((bits >> 16) & 1);
    return (word_vector)choose(x == x, (vector)nearest, (vector)(bits | 0x00400000u));
}
INLINE word_vector words_of(vector low, vector high) {
    return (rounded_high(low) >> 16) | (rounded_high(high) & 0xffff0000u);
}
INLINE word_vector words_along(vector low, vector high) {
    return words_of(__builtin_shufflevector(low, high, EVEN_LANES), __builtin_shufflevector(low, high, ODD_LANES));
}

#endif

// MARK: logits

// Q is not scaled, which would round it; the products are.
INLINE real logit_scale(const rz_attention_problem *p) { return (real)(p->scale * LOG2_E); }
INLINE vector scaled(vector product, real scale) { return product * scale; }
INLINE vector scaled_above(vector product, real scale, vector reference) { return product * scale - reference; }
INLINE real key_gradient_scale(const rz_attention_problem *p) { return (real)p->scale; }

// 2^x = 2^n c(f) with n the integer below and 0 <= f < 1, for weights that will be rounded to bf16: relative error 2.7e-6 (own fit), a
// thousandth of that rounding. Exact 0 for masked entries and -inf; NaN stays NaN; inf where the weight is too large.
INLINE vector exp2_weight(vector x) {
#if defined(KERNEL_AVX512)
    const vector f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#else
    const vector bounded = larger_of(all(ZERO_EXPONENT), choose(x > -ZERO_EXPONENT + 1, all(-ZERO_EXPONENT + 1), x));
    const vector n = __builtin_elementwise_floor(bounded), f = bounded - n;
#endif
    vector c = all(0x1.bb7cd4p-7f);
    c = c * f + 0x1.aa13fp-5f;
    c = c * f + 0x1.ee798ap-3f;
    c = c * f + 0x1.62d166p-1f;
    c = c * f + 0x1.00002cp+0f;
#if defined(KERNEL_AVX512)
    return _mm512_scalef_ps(c, x);
#else
    return c * (vector)((__builtin_convertvector(n, vector_bits) + EXPONENT_BIAS) << MANTISSA_BITS);
#endif
}

// tanh z = 1 - 2 / (e^2z + 1), at most 2e-6 off: a logit under a cap is as exact as its weight. -1 and 1 at the infinities, NaN stays NaN.
INLINE vector tanh_logit(vector z) {
    const vector x = z * (real)(2 * LOG2_E), power = exp2_weight(choose(x > 64, all(64), x)) + 1;
#if defined(KERNEL_AVX512)
    const vector near = _mm512_rcp14_ps(power), inverse = near * (2 - power * near);   // one step of Newton's
#else
    const vector inverse = 1 / power;
#endif
    return 1 - 2 * inverse;
}

// MARK: packing

// Rows of a tensor (token stride apart) to row-major memory of width `padded`; `rows` up to `capacity` become zero. The tensor
// holds `available` rows from `index` on, of which those after the packed ones are wanted next.
NOT_INLINE void pack_rows(word *to, const rz_attention_tensor *from, int64_t index, int64_t rows, int64_t available,
                          int64_t capacity, int64_t size, int64_t padded) {
    char *place = (char *)to;
    const int64_t used = 2 * size, width = 2 * padded, whole = used / 64 * 64;
    for (int64_t r = 0; r < rows; r++, place += width) {
        if (r + FETCH_AHEAD < available) fetch_row(from, index + (r + FETCH_AHEAD) * from->token_stride, size);
        const char *row = (const char *)((const uint16_t *)from->data + index + r * from->token_stride);
        for (int64_t at = 0; at < whole; at += 64) memcpy(place + at, row + at, 64);   // a line at a time: no call
        if (whole == width) continue;
        memset(place + whole, 0, (size_t)(width - whole));
        memcpy(place + whole, row + whole, (size_t)(used - whole));
    }
    memset(place, 0, (size_t)((capacity - rows) * width));
}

INLINE void pack_queries(word *to, const rz_attention_tensor *from, int64_t index, int64_t rows, int64_t padded,
                         const rz_attention_problem *p) {
    pack_rows(to, from, index, rows, rows, rows, p->head_size, padded);
}

// Rows of row-major memory, an even number of them, as the rows from `first` on of panels of columns: panel after panel, each
// [capacity / 2][<= PANEL] words of two rows.
INLINE void pack_columns(word *to, const word *from, int64_t first, int64_t rows, int64_t capacity, int64_t padded) {
    const int64_t pitch = padded / 2;
    for (int64_t d = 0; d < padded; d += PANEL) {
        const int64_t width = smaller(PANEL, padded - d);
        word *place = to + (capacity * d + first * width) / 2;
        for (int64_t r = 0; r < rows; r += 2, place += width)
            for (int64_t c = 0; c < width; c += 2 * LANES) {
                const word *source = from + r * pitch + (d + c) / 2;
                const word_vector a = load_words(source), b = load_words(source + pitch);
                const vector even = (vector)((a & 0xffffu) | (b << 16));
                const vector odd = (vector)((a >> 16) | (b & 0xffff0000u));
                store_words(place + c, (word_vector)DEAL_LOW(even, odd));
                store_words(place + c + LANES, (word_vector)DEAL_HIGH(even, odd));
            }
    }
}

// MARK: results as words

// Weights of one row and `width` vectors of keys for the product with V, up to a whole number of words, and their sum as rounded:
// O is divided by that one, so that the weights of a row add up to one. A one-hot row would else be wrong by 2^-9.
INLINE void store_weights(const int width, word *to, const vector *x, vector *rounded_sum) {
    UNROLLED for (int c = 0; c < width; c += 2) {
        const word_vector pair = words_along(x[c], c + 1 < width ? x[c + 1] : (vector){0});
        store_words(to + c * LANES / 2, pair);
        *rounded_sum = multiply_add(pair, all_words(0x3f803f80u), *rounded_sum);
    }
}

// Weights that were stored, times a power of two.
INLINE void rescale_weights(word *weights, int64_t columns, vector factor) {
    for (int64_t j = 0; j < columns / 2; j += LANES) {
        const word_vector x = load_words(weights + j);
        store_words(weights + j, words_of(low_numbers(x) * factor, high_numbers(x) * factor));
    }
}
