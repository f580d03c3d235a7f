#define KERNEL_EMULATED
#define KERNEL_AMX
#include "kernel_engine.h"

const kernel_table emulated_amx_kernels = KERNEL_TABLE;
