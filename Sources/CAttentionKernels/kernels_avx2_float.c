#if defined(__x86_64__)
#define KERNEL_AVX2
#define KERNEL_FLOAT
#include "kernel_engine.h"

const kernel_table avx2_float_kernels = KERNEL_TABLE;
#endif
