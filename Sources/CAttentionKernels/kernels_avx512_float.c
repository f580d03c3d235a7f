#if defined(__x86_64__)
#define KERNEL_AVX512
#define KERNEL_FLOAT
#include "kernel_engine.h"

const kernel_table avx512_float_kernels = KERNEL_TABLE;
#endif
