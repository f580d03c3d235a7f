// Decoding: few rows against many keys. Every key is used only a few times, so that memory is the limit and packing into panels
// would cost more than the products: a few keys at a time pass through the first-level cache as they are.

// The logits of one row and LANES keys.
INLINE vector dot_products(const real *q, const real *keys, int64_t padded) {
    vector sums[LANES];
    UNROLLED for (int i = 0; i < LANES; i++) sums[i] = (vector){0};
    for (int64_t d = 0; d < padded; d += LANES) {
        const vector x = load(q + d);
        UNROLLED for (int i = 0; i < LANES; i++) sums[i] = load(keys + i * padded + d) * x + sums[i];
    }
    transpose_square(sums);
    UNROLLED for (int step = LANES / 2; step > 0; step /= 2)
        UNROLLED for (int i = 0; i < step; i++) sums[i] += sums[i + step];
    return sums[0];
}

// S of `rows` rows and a range of the keys of a block, of which there are `keys` from index `k_at` on; `few` holds LANES rows.
NOT_INLINE void scores_of_few(real *p, const real *q, int64_t rows, const rz_attention_tensor *k, int64_t k_at, int64_t keys,
                              index_range range, int64_t size, int64_t padded, real *few) {
    for (int64_t j = range.first; j < range.end; j += LANES) {
        pack_rows(few, k, k_at + j * k->token_stride, smaller(LANES, keys - j), keys - j, LANES, size, padded);
        for (int64_t row = 0; row < rows; row++)
            store(p + row * ROW_PITCH + j, dot_products(q + row * padded, few, padded));
    }
}

// O += P V, likewise.
NOT_INLINE void add_values_of_few(real *o, const real *p, int64_t rows, const rz_attention_tensor *v, int64_t v_at,
                                  int64_t keys, index_range range, int64_t size, int64_t padded, real *few) {
    for (int64_t j = range.first; j < range.end; j += LANES) {
        pack_rows(few, v, v_at + j * v->token_stride, smaller(LANES, keys - j), keys - j, LANES, size, padded);
        for (int64_t row = 0; row < rows; row++) {
            vector weights[LANES];
            UNROLLED for (int i = 0; i < LANES; i++) weights[i] = all(p[row * ROW_PITCH + j + i]);
            for (int64_t d = 0; d < padded; d += LANES) {
                vector sum = load(o + row * padded + d);
                UNROLLED for (int i = 0; i < LANES; i++) sum = weights[i] * load(few + i * padded + d) + sum;
                store(o + row * padded + d, sum);
            }
        }
    }
}
