// One kernel set: included by a source file that names the compute type and the instruction set.
//
// No file of a package may be compiled for a special machine, so every function below carries its instruction set as an
// attribute, and attention.c asks the processor before it calls.
#include <math.h>
#include <sched.h>

#include "attention_plan.h"
#include "dropout_hash.h"

#if defined(KERNEL_AVX512) && defined(KERNEL_AMX)
#include <immintrin.h>
#pragma clang attribute push(                                                                                         \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,amx-tile,amx-bf16"))), apply_to = function)
#elif defined(KERNEL_AVX512) && defined(KERNEL_BFLOAT16)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#elif defined(KERNEL_AVX512)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), \
                             apply_to = function)
#elif defined(KERNEL_AVX2)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#endif

#if defined(KERNEL_EMULATED)
// Vectors wider than the machine's: no call passes one, since everything that takes or returns one is inlined.
#pragma clang diagnostic ignored "-Wpsabi"
#endif

// In this order: each builds on the ones before.
#include "kernel_vector.h"
#if defined(KERNEL_BFLOAT16)
#include "kernel_words_bf16.h"
#else
#include "kernel_words.h"
#endif
#if defined(KERNEL_AMX)
#include "kernel_tile_amx.h"
#else
#include "kernel_tile.h"
#endif
#include "kernel_products.h"
#include "kernel_rows.h"
#if !defined(KERNEL_BFLOAT16)
#include "kernel_few_rows.h"
#endif
#include "kernel_forward.h"
#include "kernel_backward.h"
#include "kernel_probes.h"

#define KERNEL_TABLE                                                                                                  \
    {                                                                                                                 \
        .line = 64 / (int64_t)sizeof(word) * WORD_NUMBERS, .row_tile = ROW_TILE, .key_block = KEY_BLOCK,              \
        .forward_rows = FORWARD_ROWS, .backward_rows = BACKWARD_ROWS, .forward_share = FORWARD_SHARE,                 \
        .backward_share = BACKWARD_SHARE, .slope_blocks = SLOPE_BLOCKS, .few_rows = FEW_ROWS,                         \
        .forward_worker_bytes = forward_worker_bytes, .backward_worker_bytes = backward_worker_bytes,                 \
        .partial_bytes = partial_bytes, .forward_unit = forward_unit, .merge_unit = merge_unit,                       \
        .backward_unit = backward_unit, .multiply_adds = multiply_adds, .exponentials = exponentials,                 \
    }

#if defined(KERNEL_AVX512) || defined(KERNEL_AVX2)
#pragma clang attribute pop
#endif
