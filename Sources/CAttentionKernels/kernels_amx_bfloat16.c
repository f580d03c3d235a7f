#if defined(__x86_64__)
#define KERNEL_AVX512
#define KERNEL_AMX
#include "kernel_engine.h"

const kernel_table amx_bfloat16_kernels = KERNEL_TABLE;
#endif
