#define KERNEL_PORTABLE
#define KERNEL_FLOAT
#include "kernel_engine.h"

const kernel_table portable_float_kernels = KERNEL_TABLE;
