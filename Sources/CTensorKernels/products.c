// Which sets of kernels for products a processor has (product_engine.h).
#include "products.h"

#if defined(__x86_64__) && defined(__clang__)
static const product_kernels *const sets[] = {
    [RZ_PRODUCTS_AVX2] = &rz_avx2_products,
    [RZ_PRODUCTS_AVX512] = &rz_avx512_products,
    [RZ_PRODUCTS_AVX512_EMULATED] = &rz_emulated_products,
};

int rz_has_products(rz_product_set set) {
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (set != RZ_PRODUCTS_AVX512) return avx2;
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
           && __builtin_cpu_supports("avx512dq");
}

// Processors with AMX have these instructions too.
int rz_has_bf16_arithmetic(void) { return __builtin_cpu_supports("avx512bf16") != 0; }

int64_t rz_product_tile_rows(rz_product_set set) { return sets[set]->tile_rows; }
int64_t rz_product_tile_columns(rz_product_set set) { return sets[set]->tile_columns; }

int64_t rz_product_scratch(rz_product_set set, int64_t m, int64_t n, int64_t k, int type) {
    return sets[set]->scratch_size(m, n, k, type);
}

void rz_product(rz_product_set set, int factor_type, rz_factor a, rz_factor b, int64_t k, int type, void *c, int64_t c_row,
                int accumulate, void *scratch) {
    sets[set]->product(factor_type, a, b, k, type, c, c_row, accumulate, scratch);
}
#else
int rz_has_products(rz_product_set set) { return 0 * set; }
int rz_has_bf16_arithmetic(void) { return 0; }
int64_t rz_product_tile_rows(rz_product_set set) { return 1 + 0 * set; }
int64_t rz_product_tile_columns(rz_product_set set) { return 1 + 0 * set; }
int64_t rz_product_scratch(rz_product_set set, int64_t m, int64_t n, int64_t k, int type) { return 0 * (set + m + n + k + type); }
void rz_product(rz_product_set set, int factor_type, rz_factor a, rz_factor b, int64_t k, int type, void *c, int64_t c_row,
                int accumulate, void *scratch) {
    (void)set, (void)factor_type, (void)a, (void)b, (void)k, (void)type, (void)c, (void)c_row, (void)accumulate, (void)scratch;
}
#endif
