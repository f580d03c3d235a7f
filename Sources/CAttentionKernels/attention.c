// Entry points: choose a kernel set, lay out the workspace, cut the call into units.
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "attention_plan.h"
#include "dropout_hash.h"

// MARK: kernel sets

typedef struct {
    const char *name;
    const kernel_table *float32, *float64;
    const kernel_table *bfloat16;   // NULL: bf16 tensors are widened and multiplied in float32
} kernel_set;

// The best first. What follows "portable", which every machine has, is never chosen but by name.
static const kernel_set kernel_sets[] = {
#if defined(__x86_64__)
    {"amx", &avx512_float_kernels, &avx512_double_kernels, &amx_bfloat16_kernels},
    {"avx512bf16", &avx512_float_kernels, &avx512_double_kernels, &avx512_bfloat16_kernels},
    {"avx512", &avx512_float_kernels, &avx512_double_kernels, NULL},
    {"avx2", &avx2_float_kernels, &avx2_double_kernels, NULL},
#endif
    {"portable", &portable_float_kernels, &portable_double_kernels, NULL},
    {"bf16-emulated", &portable_float_kernels, &portable_double_kernels, &emulated_bfloat16_kernels},
    {"amx-emulated", &portable_float_kernels, &portable_double_kernels, &emulated_amx_kernels},
};
enum { KERNEL_SETS = sizeof kernel_sets / sizeof kernel_sets[0] };

// Whether the processor has tiles of bf16 and the kernel gives them to this process, which must ask (Linux, arch/x86/xstate).
static bool has_amx(void) {
#if defined(__x86_64__) && defined(__linux__)
    enum { REQUEST_COMPONENT = 0x1023, TILE_DATA = 18 };
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1)
           && syscall(SYS_arch_prctl, REQUEST_COMPONENT, TILE_DATA) == 0;
#else
    return false;
#endif
}

static bool machine_has(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
                        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
                        && __builtin_cpu_supports("fma");
    const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    if (strcmp(name, "amx") == 0) return avx512bf16 && has_amx();
    if (strcmp(name, "avx512bf16") == 0) return avx512bf16;
    if (strcmp(name, "avx512") == 0) return avx512;
    if (strcmp(name, "avx2") == 0) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return strcmp(name, "portable") == 0 || strcmp(name, "bf16-emulated") == 0 || strcmp(name, "amx-emulated") == 0;
}

// Whether a set that the machine has is faster there than those after it. Intel's processors run VDPBF16PS at half the rate of float32
// multiply-adds (measured on Emerald Rapids: 87 against 172 GFLOP/s a core), AMD's at twice theirs. A rule and no measurement, so
// that the bits of a machine do not depend on the moment.
static bool pays(const char *name) {
#if defined(__x86_64__)
    if (strcmp(name, "avx512bf16") == 0) return __builtin_cpu_is("amd");
#endif
    return true;
}

static _Atomic int chosen_set = -1;

static const kernel_set *current_set(void) {
    int chosen = atomic_load_explicit(&chosen_set, memory_order_relaxed);
    if (chosen < 0) {
        chosen = 0;
        // Ends: every machine has "portable".
        while (!machine_has(kernel_sets[chosen].name) || !pays(kernel_sets[chosen].name)) chosen++;
        atomic_store_explicit(&chosen_set, chosen, memory_order_relaxed);
    }
    return &kernel_sets[chosen];
}

const char *rz_attention_kernels(void) { return current_set()->name; }

bool rz_attention_set_kernels(const char *name) {
    if (!name) {
        atomic_store(&chosen_set, -1);
        return true;
    }
    for (int i = 0; i < KERNEL_SETS; i++)
        if (strcmp(kernel_sets[i].name, name) == 0 && machine_has(name)) {
            atomic_store(&chosen_set, i);
            return true;
        }
    return false;
}

static const kernel_table *table_for(size_t element_bytes) {
    const kernel_set *set = current_set();
    if (element_bytes == sizeof(double)) return set->float64;
    return element_bytes == 2 && set->bfloat16 ? set->bfloat16 : set->float32;
}

int64_t rz_attention_multiply_adds(size_t element_bytes, int64_t rounds) {
    return table_for(element_bytes)->multiply_adds(rounds);
}

int64_t rz_attention_key_block(size_t element_bytes) { return table_for(element_bytes)->key_block; }

void rz_attention_exp2_f32(const float *x, float *y, int64_t count) {
    table_for(sizeof(float))->exponentials(x, y, count);
}
void rz_attention_exp2_bf16(const float *x, float *y, int64_t count) {
    const kernel_table *bfloat16 = current_set()->bfloat16;
    (bfloat16 ? bfloat16 : table_for(sizeof(float)))->exponentials(x, y, count);
}
void rz_attention_exp2_f64(const double *x, double *y, int64_t count) {
    table_for(sizeof(double))->exponentials(x, y, count);
}

// MARK: plan

typedef enum { FORWARD, BACKWARD } direction;

// Sharing what is packed is worth less than work for every worker. Forward the rows of a unit do not see each other, so that the
// number of workers may count; backward the share decides the order of sums in dQ, so that only the shapes may.
static int64_t share_for(int64_t maximum_share, int64_t blocks, int64_t units_wanted) {
    return larger(1, smaller(maximum_share, blocks / units_wanted));
}

// Whatever the lengths, on which a worker's memory must not depend.
static int64_t maximum_share_of(const rz_attention_problem *p, const kernel_table *table, direction way) {
    if (way == FORWARD) return table->forward_share;
    return table->backward_share - (keeps_slope(p) ? table->slope_blocks : 0);
}

// A library rounds a logit differently in products of another shape, and at logits of 1e4 one rounding shows in
// P = exp(S - lse): with external products both directions cut the queries alike.
static int64_t rows_of_a_block(const rz_attention_problem *p, const kernel_table *table, direction way) {
    return way == BACKWARD && !has_products(p) ? table->backward_rows : table->forward_rows;
}

// Whether packing K and V would cost `table` more than it saves; with very few rows memory is the limit.
static bool is_few(const rz_attention_problem *p, const kernel_table *table, direction way) {
    return way == FORWARD && !has_products(p) && p->query_count * (p->heads / p->kv_heads) <= table->few_rows
           && p->key_count >= MANY_KEYS;
}

// The engine that multiplies bf16 numbers, or NULL: what external products and few rows want is in the others only.
static const kernel_table *bfloat16_table(const rz_attention_problem *p, size_t element_bytes, direction way) {
    const kernel_table *table = element_bytes == sizeof(float) && !has_products(p) ? current_set()->bfloat16 : NULL;
    return table && !is_few(p, table, way) ? table : NULL;
}

// It takes a problem whose tensors are all bf16; `dout` is NULL forward.
static const kernel_table *table_of(const rz_attention_problem *p, size_t element_bytes, direction way,
                                    const rz_attention_tensor *q, const rz_attention_tensor *k,
                                    const rz_attention_tensor *v, const rz_attention_tensor *dout) {
    const kernel_table *bfloat16 = bfloat16_table(p, element_bytes, way);
    const rz_attention_tensor *tensors[] = {q, k, v, dout};
    for (int i = 0; i < (way == FORWARD ? 3 : 4); i++)
        if (tensors[i]->storage != RZ_STORAGE_BFLOAT16) bfloat16 = NULL;
    return bfloat16 ? bfloat16 : table_for(element_bytes);
}

// Backward, fewer units pack Q and dO less often; 24 keep up to 16 workers as busy as 32 do, within 2 % (a list schedule of causal and full
// calls of 15 to 128 blocks).
enum { UNITS_PER_WORKER = 8, BACKWARD_UNITS = 24 };

static attention_plan make_plan(const rz_attention_problem *p, const kernel_table *table, direction way,
                                int64_t workers) {
    attention_plan plan = {.problem = p, .table = table};
    plan.group = p->heads / p->kv_heads;
    plan.padded_size = blocks_of(p->head_size, table->line) * table->line;
    plan.query_block = larger(1, smaller(rows_of_a_block(p, table, way) / plan.group, p->query_count));
    plan.query_blocks = blocks_of(p->query_count, plan.query_block);
    plan.rows = blocks_of(plan.query_block * plan.group, table->row_tile) * table->row_tile;
    plan.key_blocks = blocks_of(p->key_count, table->key_block);
    const int64_t heads = p->batch * p->kv_heads, blocks = way == FORWARD ? plan.query_blocks : plan.key_blocks;
    plan.maximum_share = maximum_share_of(p, table, way);
    plan.share = share_for(plan.maximum_share, heads * blocks, way == FORWARD ? UNITS_PER_WORKER * workers : BACKWARD_UNITS);
    plan.head_units = blocks_of(blocks, plan.share);
    plan.document_batches =
        p->query_documents && (p->query_document_batch_stride || p->key_document_batch_stride) ? p->batch : 1;
    // Decoding has too few units for the workers. The cut depends on the shapes alone, so the bits do not depend on
    // the number of workers; at least 4 key blocks a piece keep the merge small beside it.
    plan.splits = 1;
    plan.few = is_few(p, table, way);
    const int64_t units = p->batch * p->kv_heads * plan.query_blocks;
    if (way == FORWARD && units > 0 && p->query_count <= DECODE_QUERIES)
        plan.splits = larger(1, smaller(MAXIMUM_PARTIALS / units, plan.key_blocks / 4));
    if (plan.splits > 1) plan.share = 1, plan.head_units = plan.query_blocks;
    return plan;
}

// Places everything in `memory`; with NULL it only counts, which is why addresses are computed as integers.
static size_t lay_out(attention_plan *plan, char *memory, direction way, int64_t workers) {
    const rz_attention_problem *p = plan->problem;
    const kernel_table *table = plan->table;
    const uintptr_t start = ((uintptr_t)memory + 63) & ~(uintptr_t)63;
    size_t used = 0;
    plan->query_spans = (block_span *)(start + used);
    used += whole_lines(sizeof(block_span) * (size_t)(plan->document_batches * plan->query_blocks));
    plan->key_spans = (block_span *)(start + used);
    used += whole_lines(sizeof(block_span) * (size_t)(plan->document_batches * plan->key_blocks));
    plan->tickets = (_Atomic int64_t *)(start + used);
    if (way == BACKWARD)
        used += whole_lines(sizeof(int64_t) * (size_t)(p->batch * p->kv_heads * plan->query_blocks));
    plan->partials = (char *)(start + used);
    plan->partial_bytes = table->partial_bytes(plan);
    if (plan->splits > 1)
        used += plan->partial_bytes * (size_t)(p->batch * p->kv_heads * plan->query_blocks * plan->splits);
    plan->worker_memory = (char *)(start + used);
    plan->worker_bytes = way == FORWARD ? table->forward_worker_bytes(plan) : table->backward_worker_bytes(plan);
    return used + plan->worker_bytes * (size_t)workers + 64;
}

// Enough for tensors of any storage: what both engines want for all workers and for each of them.
static size_t workspace(const rz_attention_problem *p, size_t element_bytes, direction way, int64_t workers) {
    const kernel_table *tables[] = {table_for(element_bytes), bfloat16_table(p, element_bytes, way)};
    size_t shared = 0, worker = 0;
    for (int i = 0; i < 2 && tables[i]; i++) {
        attention_plan plan = make_plan(p, tables[i], way, workers);
        const size_t bytes = lay_out(&plan, NULL, way, 0);
        if (bytes > shared) shared = bytes;
        if (plan.worker_bytes > worker) worker = plan.worker_bytes;
    }
    return shared + worker * (size_t)workers;
}
size_t rz_attention_forward_workspace(const rz_attention_problem *p, size_t element_bytes, int64_t workers) {
    return workspace(p, element_bytes, FORWARD, larger(1, workers));
}
size_t rz_attention_backward_workspace(const rz_attention_problem *p, size_t element_bytes, int64_t workers) {
    return workspace(p, element_bytes, BACKWARD, larger(1, workers));
}

static void find_spans(block_span *spans, int64_t batches, int64_t count, int64_t block, const int64_t *positions,
                       const int32_t *documents, int64_t document_stride) {
    for (int64_t b = 0; b < batches; b++)
        for (int64_t start = 0; start < count; start += block) {
            block_span s = {INT64_MAX, INT64_MIN, INT32_MAX, INT32_MIN};
            for (int64_t i = start; i < smaller(count, start + block); i++) {
                s.first = smaller(s.first, positions[i]);
                s.last = larger(s.last, positions[i]);
                if (!documents) continue;
                const int32_t document = documents[b * document_stride + i];
                if (document < s.first_document) s.first_document = document;
                if (document > s.last_document) s.last_document = document;
            }
            *spans++ = s;
        }
}

static void prepare(attention_plan *plan, void *memory, direction way, int64_t workers) {
    const rz_attention_problem *p = plan->problem;
    lay_out(plan, memory, way, workers);
    find_spans(plan->query_spans, plan->document_batches, p->query_count, plan->query_block, p->query_positions,
               p->query_documents, p->query_document_batch_stride);
    find_spans(plan->key_spans, plan->document_batches, p->key_count, plan->table->key_block, p->key_positions,
               p->key_documents, p->key_document_batch_stride);
    if (way == BACKWARD)
        for (int64_t i = 0; i < p->batch * p->kv_heads * plan->query_blocks; i++) atomic_init(&plan->tickets[i], 0);
}

static int64_t workers_of(const rz_attention_executor *executor) {
    return executor ? larger(1, executor->workers) : 1;
}

static void run_units(const rz_attention_executor *executor, int64_t count,
                      void (*body)(void *arg, int64_t index, int64_t worker), void *arg) {
    if (executor && executor->run && executor->workers > 1)
        executor->run(executor->pool, count, body, arg);
    else
        for (int64_t i = 0; i < count; i++) body(arg, i, 0);
}

// MARK: forward

static int64_t forward(const rz_attention_problem *p, size_t element_bytes, const rz_attention_tensor *q,
                       const rz_attention_tensor *k, const rz_attention_tensor *v, void *m, void *l, void *acc,
                       const rz_attention_executor *executor, void *memory) {
    const int64_t workers = workers_of(executor);
    attention_plan plan = make_plan(p, table_of(p, element_bytes, FORWARD, q, k, v, NULL), FORWARD, workers);
    plan.q = *q, plan.k = *k, plan.v = *v;
    plan.m = m, plan.l = l, plan.acc = acc;
    const int64_t units = p->batch * p->kv_heads * plan.head_units;
    if (units == 0 || plan.key_blocks == 0) return 0;
    prepare(&plan, memory, FORWARD, workers);
    run_units(executor, units * plan.splits, plan.table->forward_unit, &plan);
    if (plan.splits > 1) run_units(executor, units, plan.table->merge_unit, &plan);
    return atomic_load(&plan.pairs);
}

int64_t rz_attention_forward_f32(const rz_attention_problem *problem, const rz_attention_tensor *q,
                                 const rz_attention_tensor *k, const rz_attention_tensor *v, float *m, float *l,
                                 float *acc, const rz_attention_executor *executor, void *workspace) {
    return forward(problem, sizeof(float), q, k, v, m, l, acc, executor, workspace);
}

int64_t rz_attention_forward_f64(const rz_attention_problem *problem, const rz_attention_tensor *q,
                                 const rz_attention_tensor *k, const rz_attention_tensor *v, double *m, double *l,
                                 double *acc, const rz_attention_executor *executor, void *workspace) {
    return forward(problem, sizeof(double), q, k, v, m, l, acc, executor, workspace);
}

// MARK: backward

static int64_t backward(attention_plan plan, const rz_attention_executor *executor, void *memory) {
    const rz_attention_problem *p = plan.problem;
    if (!p->bias) plan.dbias = NULL;   // there is no room for it: keeps_slope
    const int64_t units = p->batch * p->kv_heads * plan.head_units;
    if (units == 0 || plan.query_blocks == 0) return 0;
    prepare(&plan, memory, BACKWARD, workers_of(executor));
    // Tickets order what is added to one row of a bias. A row that all queries share is added to by every block of them: then
    // units run one after the other.
    const bool serial = plan.dbias && plan.dbias_strides[2] == 0 && plan.query_blocks > 1;
    run_units(serial ? NULL : executor, units, plan.table->backward_unit, &plan);
    return atomic_load(&plan.pairs);
}

int64_t rz_attention_backward_f32(const rz_attention_problem *problem, const rz_attention_tensor *dout,
                                  const rz_attention_tensor *q, const rz_attention_tensor *k,
                                  const rz_attention_tensor *v, const double *lse, const float *delta, float *dq,
                                  float *dk, float *dv, float *dbias, const int64_t *dbias_strides,
                                  const rz_attention_executor *executor, void *workspace) {
    const kernel_table *table = table_of(problem, sizeof(float), BACKWARD, q, k, v, dout);
    attention_plan plan = make_plan(problem, table, BACKWARD, workers_of(executor));
    plan.q = *q, plan.k = *k, plan.v = *v, plan.dout = *dout, plan.lse = lse, plan.delta = delta;
    plan.dq = dq, plan.dk = dk, plan.dv = dv, plan.dbias = dbias, plan.dbias_strides = dbias_strides;
    return backward(plan, executor, workspace);
}

int64_t rz_attention_backward_f64(const rz_attention_problem *problem, const rz_attention_tensor *dout,
                                  const rz_attention_tensor *q, const rz_attention_tensor *k,
                                  const rz_attention_tensor *v, const double *lse, const double *delta, double *dq,
                                  double *dk, double *dv, double *dbias, const int64_t *dbias_strides,
                                  const rz_attention_executor *executor, void *workspace) {
    const kernel_table *table = table_of(problem, sizeof(double), BACKWARD, q, k, v, dout);
    attention_plan plan = make_plan(problem, table, BACKWARD, workers_of(executor));
    plan.q = *q, plan.k = *k, plan.v = *v, plan.dout = *dout, plan.lse = lse, plan.delta = delta;
    plan.dq = dq, plan.dk = dk, plan.dv = dv, plan.dbias = dbias, plan.dbias_strides = dbias_strides;
    return backward(plan, executor, workspace);
}

// MARK: dropout

bool rz_attention_dropout_keeps(uint64_t seed, int64_t batch, int64_t head, int64_t query_position,
                                int64_t key_position, double probability) {
    const uint32_t key0 = dropout_row_key(DROPOUT_START_0, seed, batch, head, query_position);
    const uint32_t key1 = dropout_row_key(DROPOUT_START_1, seed, batch, head, query_position);
    return dropout_draw(dropout_column(key_position), key0, key1) >= dropout_threshold(probability);
}
