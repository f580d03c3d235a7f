// The tiles of AVX-512 in the instructions of AVX2, for tests on processors without it.
#include "common.h"
#include "products.h"

#if defined(__x86_64__) && defined(__clang__)
// No call passes a vector: what takes one is inlined.
#pragma clang diagnostic ignored "-Wpsabi"
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#define PRODUCT_LANES 16
#define PRODUCT_ROWS 12
#include "product_engine.h"

const product_kernels rz_emulated_products = PRODUCT_KERNELS;
#pragma clang attribute pop
#endif
