// What the parts of the benchmark share: a case with its tensors, the oracle, threads and a clock.
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "CAttentionKernels.h"

typedef enum { FLOAT32, BFLOAT16 } number_type;

// A problem with its inputs, as the kernels read them; widths and masks as in rz_attention_problem.
typedef struct {
    const char *name;
    int64_t heads, kv_heads, queries, keys, size;
    bool causal;
    int64_t back;               // window, 0 is none
    int64_t document;           // length of a document, 0 is none
    double soft_cap, dropout;
    bool bias, alibi, sinks, shuffled;
    double spread;              // of the logits, about
} bench_case;

typedef struct {
    bench_case c;
    number_type type;
    rz_attention_problem problem;
    rz_attention_tensor q, k, v, dout;
    float *m, *l, *acc;         // state; acc and l hold what one forward left
    double *lse;
    float *delta, *out, *dq, *dk, *dv, *dbias, *bias;
    int64_t bias_strides[4];
    double sink;                // logit of a sink, where the case has them
    void *workspace;
    size_t workspace_bytes;
} bench_run;

bench_run *open_run(const bench_case *c, number_type type);
void close_run(bench_run *run);
double element_of(const bench_run *run, const rz_attention_tensor *tensor, int64_t index);
bool is_visible(const bench_run *run, int64_t query, int64_t key);
double visible_pairs(const bench_run *run);

// Forward from an empty state over `pieces` of the keys, and the output; then backward over the same. `threads` is at least 1.
void run_forward(bench_run *run, int threads, int pieces);
void finish_forward(bench_run *run);
void run_backward(bench_run *run, int threads, int pieces);

double seconds_now(void);
void set_threads(int threads);              // starts and ends the threads that run_on_threads uses
void run_on_threads(void *pool, int64_t count, void (*body)(void *arg, int64_t index, int64_t worker), void *arg);

void start_profile(void);                   // of this thread's time
void print_profile(const char *title);

bool check_kernels(const char *set);        // prints errors, false where one is too large

#endif
