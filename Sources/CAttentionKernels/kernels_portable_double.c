#define KERNEL_PORTABLE
#define KERNEL_DOUBLE
#include "kernel_engine.h"

const kernel_table portable_double_kernels = KERNEL_TABLE;
