#if defined(__x86_64__)
#define KERNEL_AVX512
#define KERNEL_BFLOAT16
#include "kernel_engine.h"

const kernel_table avx512_bfloat16_kernels = KERNEL_TABLE;
#endif
