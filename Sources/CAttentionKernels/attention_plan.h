// What one call works on, and how it is cut into units: shared by the planner (plain C) and every kernel set.
#ifndef ATTENTION_PLAN_H
#define ATTENTION_PLAN_H

#include <stdatomic.h>
#include <string.h>

#include "CAttentionKernels.h"

enum {
    DECODE_QUERIES = 16,    // up to here a call may be cut over the keys
    MAXIMUM_PARTIALS = 16,  // parallel pieces such a call is cut into
    MANY_KEYS = 7 * 128 + 1,
};

// The smallest and largest position and document of a block.
typedef struct {
    int64_t first, last;
    int32_t first_document, last_document;
} block_span;

typedef enum { PAIR_SKIPPED, PAIR_PARTIAL, PAIR_FULL } pair_kind;

// One instruction set and compute type, with the sizes of its blocks.
struct attention_plan;
typedef struct {
    int64_t line;                            // numbers of 64 bytes, as the products read them
    int64_t row_tile;                        // rows that a product takes at a time
    int64_t key_block;                       // keys of a block
    int64_t forward_rows, backward_rows;     // rows of a block, over the query heads of one kv head
    int64_t forward_share, backward_share;   // blocks of a unit, at most: of queries forward, of keys backward
    int64_t slope_blocks;                    // blocks fewer where a slope takes their room: keeps_slope
    int64_t few_rows;                        // rows up to which K and V are read as they are, where there are MANY_KEYS
    size_t (*forward_worker_bytes)(const struct attention_plan *plan);
    size_t (*backward_worker_bytes)(const struct attention_plan *plan);
    size_t (*partial_bytes)(const struct attention_plan *plan);
    void (*forward_unit)(void *plan, int64_t index, int64_t worker);
    void (*merge_unit)(void *plan, int64_t index, int64_t worker);
    void (*backward_unit)(void *plan, int64_t index, int64_t worker);
    int64_t (*multiply_adds)(int64_t rounds);
    void (*exponentials)(const void *from, void *to, int64_t count);
} kernel_table;

typedef struct attention_plan {
    const rz_attention_problem *problem;
    const kernel_table *table;
    rz_attention_tensor q, k, v, dout;
    void *m, *l, *acc;                       // forward state
    const double *lse;                       // backward input
    const void *delta;
    void *dq, *dk, *dv, *dbias;
    const int64_t *dbias_strides;

    int64_t group;                           // query heads of one kv head
    int64_t padded_size;                     // D up to a multiple of 64 bytes of what the products read
    int64_t query_block, query_blocks;       // queries of a block (each has `group` rows), number of blocks
    int64_t rows;                            // rows of a block, up to a multiple of row_tile
    int64_t key_blocks;
    int64_t share, maximum_share;            // blocks of a unit, and those that a worker has room for
    int64_t head_units;                      // units of one (batch, kv head)
    int64_t splits;                          // pieces of the keys (decoding), else 1
    bool few;                                // few rows against many keys: K and V are read as they are
    int64_t document_batches;                // B when documents differ by batch element, else 1
    block_span *query_spans, *key_spans;     // [document_batches][blocks]
    _Atomic int64_t *tickets;                // [B][Hkv][query_blocks]: 1 + the last key block whose dQ was added
    char *partials;                          // [units][splits] states of a decoding call
    size_t partial_bytes;
    char *worker_memory;
    size_t worker_bytes;
    _Atomic int64_t pairs;
} attention_plan;

extern const kernel_table portable_float_kernels, portable_double_kernels, emulated_bfloat16_kernels;
extern const kernel_table emulated_amx_kernels;
#if defined(__x86_64__)
extern const kernel_table avx2_float_kernels, avx2_double_kernels, avx512_float_kernels, avx512_double_kernels;
extern const kernel_table avx512_bfloat16_kernels, amx_bfloat16_kernels;
#endif

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t blocks_of(int64_t count, int64_t block) { return (count + block - 1) / block; }
static inline size_t whole_lines(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

// Whether the backward keeps something of every logit beside P and dS: the derivative of the cap, or the gradient of the bias.
static inline bool keeps_slope(const rz_attention_problem *p) { return p->soft_cap > 0 || p->bias != NULL; }

static inline bool has_products(const rz_attention_problem *p) { return p->products.float32 != NULL; }

// What the mask makes of a block of queries against a block of keys. Exact for SKIPPED and FULL; a pair whose keys are
// all invisible for reasons that the ranges do not show is PARTIAL.
static inline pair_kind classify(const rz_attention_problem *p, const block_span *q, const block_span *k) {
    bool full = true;
    if (p->causal) {
        if (k->first > q->last) return PAIR_SKIPPED;
        full = full && k->last <= q->first;
    }
    if (p->window_ahead >= 0) {
        if (k->first > q->last + p->window_ahead) return PAIR_SKIPPED;
        full = full && k->last <= q->first + p->window_ahead;
    }
    if (p->window_back >= 0) {
        if (k->last < q->first - p->window_back) return PAIR_SKIPPED;
        full = full && k->first >= q->last - p->window_back;
    }
    if (p->query_documents) {
        if (k->first_document > q->last_document || k->last_document < q->first_document) return PAIR_SKIPPED;
        full = full && k->first_document == q->last_document && k->last_document == q->first_document;
    }
    return full ? PAIR_FULL : PAIR_PARTIAL;
}

static inline const block_span *query_span(const attention_plan *plan, int64_t batch, int64_t block) {
    return plan->query_spans + (plan->document_batches > 1 ? batch : 0) * plan->query_blocks + block;
}
static inline const block_span *key_span(const attention_plan *plan, int64_t batch, int64_t block) {
    return plan->key_spans + (plan->document_batches > 1 ? batch : 0) * plan->key_blocks + block;
}

#endif
