#define KERNEL_EMULATED
#define KERNEL_BFLOAT16
#include "kernel_engine.h"

const kernel_table emulated_bfloat16_kernels = KERNEL_TABLE;
