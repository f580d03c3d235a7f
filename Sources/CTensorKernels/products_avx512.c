#include "common.h"
#include "products.h"

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)
#define PRODUCT_LANES 16
#define PRODUCT_ROWS 12
#include "product_engine.h"

const product_kernels rz_avx512_products = PRODUCT_KERNELS;
#pragma clang attribute pop
#endif
