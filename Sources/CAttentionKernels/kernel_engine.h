// One kernel set: included by a source file that names the compute type and the instruction set.
//
// No file of a package may be compiled for a special machine, so every function below carries its instruction set as an
// attribute, and attention.c asks the processor before it calls.
#include <math.h>
#include <sched.h>

#include "attention_plan.h"
#include "dropout_hash.h"

#if defined(KERNEL_AVX512)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), \
                             apply_to = function)
#elif defined(KERNEL_AVX2)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif

// In this order: each builds on the ones before.
#include "kernel_vector.h"
#include "kernel_products.h"
#include "kernel_rows.h"
#include "kernel_few_rows.h"
#include "kernel_forward.h"
#include "kernel_backward.h"
#include "kernel_probes.h"

#define KERNEL_TABLE                                                                                                  \
    {                                                                                                                 \
        .forward_worker_bytes = forward_worker_bytes, .backward_worker_bytes = backward_worker_bytes,                 \
        .partial_bytes = partial_bytes, .forward_unit = forward_unit, .merge_unit = merge_unit,                       \
        .backward_unit = backward_unit, .multiply_adds = multiply_adds,                               \
        .exponentials = exponentials,                                                                                 \
    }

#if defined(KERNEL_AVX512) || defined(KERNEL_AVX2)
#pragma clang attribute pop
#endif
