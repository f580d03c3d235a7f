#if defined(__x86_64__)
#define KERNEL_AVX512
#define KERNEL_DOUBLE
#include "kernel_engine.h"

const kernel_table avx512_double_kernels = KERNEL_TABLE;
#endif
