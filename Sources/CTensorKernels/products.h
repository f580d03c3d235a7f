// A set of kernels for products, as products.c chooses among them.
#ifndef RZ_PRODUCTS_H
#define RZ_PRODUCTS_H
#include "CTensorKernels.h"

typedef struct {
    int64_t tile_rows, tile_columns;   // of C in registers
    int64_t (*scratch_size)(int64_t m, int64_t n, int64_t k, int type);
    void (*product)(int factor_type, rz_factor a, rz_factor b, int64_t k, int type, void *c, int64_t c_row, int accumulate,
                    void *scratch);
} product_kernels;

extern const product_kernels rz_avx2_products, rz_avx512_products, rz_emulated_products;

#endif
