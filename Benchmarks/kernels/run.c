// A case with random inputs, and the kernels called as a program would call them.
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// splitmix64 (S. Vigna, public domain), and a sum of uniform numbers that is near enough to normal.
static uint64_t random_bits(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static float random_normal(uint64_t *state) {
    const uint64_t bits = random_bits(state);
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)(bits >> 16 * i & 0xffff) * 0x1p-16f;
    return (sum - 2) * 1.7320508f;
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "kernels-bench: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(memory, 0, bytes);
    return memory;
}

static rz_attention_tensor random_tensor(uint64_t *state, number_type type, int64_t heads, int64_t tokens, int64_t size,
                                         double spread) {
    const int64_t count = heads * tokens * size;
    void *data = allocate((size_t)count * (type == FLOAT32 ? 4 : 2));
    for (int64_t i = 0; i < count; i++) {
        const float x = random_normal(state) * (float)spread;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (type == FLOAT32)
            ((float *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = (uint16_t)((bits + 0x8000) >> 16);
    }
    return (rz_attention_tensor){data, type == FLOAT32 ? RZ_STORAGE_FLOAT32 : RZ_STORAGE_BFLOAT16, count, tokens * size, size};
}

double element_of(const bench_run *run, const rz_attention_tensor *tensor, int64_t index) {
    if (run->type == FLOAT32) return ((const float *)tensor->data)[index];
    const uint32_t bits = (uint32_t)((const uint16_t *)tensor->data)[index] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

bench_run *open_run(const bench_case *c, number_type type) {
    bench_run *run = allocate(sizeof *run);
    uint64_t state = 42;
    run->c = *c;
    run->type = type;
    run->q = random_tensor(&state, type, c->heads, c->queries, c->size, c->spread);
    run->k = random_tensor(&state, type, c->kv_heads, c->keys, c->size, 1);
    run->v = random_tensor(&state, type, c->kv_heads, c->keys, c->size, 1);
    run->dout = random_tensor(&state, type, c->heads, c->queries, c->size, 1);
    const size_t rows = (size_t)(c->heads * c->queries), keys = (size_t)(c->kv_heads * c->keys), size = (size_t)c->size;
    run->m = allocate(rows * 4), run->l = allocate(rows * 4), run->acc = allocate(rows * size * 4);
    run->lse = allocate(rows * 8), run->delta = allocate(rows * 4), run->out = allocate(rows * size * 4);
    run->dq = allocate(rows * size * 4), run->dk = allocate(keys * size * 4), run->dv = allocate(keys * size * 4);

    rz_attention_problem *p = &run->problem;
    p->batch = 1, p->heads = c->heads, p->kv_heads = c->kv_heads, p->query_count = c->queries, p->key_count = c->keys;
    p->head_size = c->size, p->scale = 1 / sqrt((double)c->size);
    int64_t *query_positions = allocate((size_t)c->queries * 8), *key_positions = allocate((size_t)c->keys * 8);
    // Queries stand at the end of the keys.
    for (int64_t i = 0; i < c->queries; i++) query_positions[i] = i + (c->keys > c->queries ? c->keys - c->queries : 0);
    for (int64_t j = 0; j < c->keys; j++) key_positions[j] = j;
    for (int64_t j = c->keys - 1; c->shuffled && j > 0; j--) {
        const int64_t other = (int64_t)(random_bits(&state) % (uint64_t)(j + 1)), kept = key_positions[j];
        key_positions[j] = key_positions[other], key_positions[other] = kept;
    }
    p->query_positions = query_positions, p->key_positions = key_positions;
    p->causal = c->causal, p->window_back = c->back > 0 ? c->back : -1, p->window_ahead = -1;
    if (c->document > 0) {
        int32_t *query_documents = allocate((size_t)c->queries * 4), *key_documents = allocate((size_t)c->keys * 4);
        for (int64_t i = 0; i < c->queries; i++) query_documents[i] = (int32_t)(query_positions[i] / c->document);
        for (int64_t j = 0; j < c->keys; j++) key_documents[j] = (int32_t)(key_positions[j] / c->document);
        p->query_documents = query_documents, p->key_documents = key_documents;
    }
    if (c->alibi) {
        double *slopes = allocate((size_t)c->heads * 8);
        for (int64_t h = 0; h < c->heads; h++) slopes[h] = 0.125 / (double)(h + 1);
        p->alibi_slopes = slopes;
    }
    p->soft_cap = c->soft_cap, p->dropout = c->dropout, p->dropout_seed = 7;
    if (c->bias) {
        // Shared by the heads.
        const size_t count = (size_t)(c->queries * c->keys);
        run->bias = allocate(count * 4), run->dbias = allocate(count * 4);
        for (size_t i = 0; i < count; i++) run->bias[i] = random_normal(&state);
        p->bias = run->bias;
        p->bias_strides[2] = run->bias_strides[2] = c->keys, p->bias_strides[3] = run->bias_strides[3] = 1;
    }
    run->sink = 1.5;
    return run;
}

void close_run(bench_run *run) {
    const rz_attention_problem *p = &run->problem;
    const void *memory[] = {run->q.data, run->k.data, run->v.data, run->dout.data, run->m, run->l, run->acc, run->lse,
                            run->delta, run->out, run->dq, run->dk, run->dv, run->dbias, run->bias, run->workspace,
                            p->query_positions, p->key_positions, p->query_documents, p->key_documents, p->alibi_slopes};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) free((void *)memory[i]);
    free(run);
}

bool is_visible(const bench_run *run, int64_t query, int64_t key) {
    const rz_attention_problem *p = &run->problem;
    const int64_t from = p->query_positions[query], to = p->key_positions[key];
    if (p->causal && to > from) return false;
    if (p->window_back >= 0 && to < from - p->window_back) return false;
    return !p->query_documents || p->query_documents[query] == p->key_documents[key];
}

// Pairs of query and key, the diagonal of a causal mask counted half. Positions must be in order.
double visible_pairs(const bench_run *run) {
    const bench_case *c = &run->c;
    double pairs = 0;
    for (int64_t i = 0; i < c->queries; i++) {
        const int64_t position = run->problem.query_positions[i];
        double first = 0, end = (double)c->keys;
        if (c->causal) end = (double)position + 0.5;
        if (c->back > 0 && position - c->back > 0) first = (double)(position - c->back);
        if (c->document > 0) {
            const double start = (double)(position / c->document * c->document);
            if (start > first) first = start;
            if (start + (double)c->document < end) end = start + (double)c->document;
        }
        pairs += end - first;
    }
    return pairs;
}

static void reserve(bench_run *run, size_t bytes) {
    if (run->workspace_bytes >= bytes) return;
    free(run->workspace);
    run->workspace = allocate(bytes);
    run->workspace_bytes = bytes;
}

// A piece of the keys as a problem and tensors of its own.
typedef struct {
    rz_attention_problem problem;
    rz_attention_tensor k, v;
    int64_t first;
} key_piece;

static key_piece piece_of(const bench_run *run, int piece, int pieces) {
    key_piece out = {run->problem, run->k, run->v, run->c.keys * piece / pieces};
    const size_t bytes = run->type == FLOAT32 ? 4 : 2;
    out.problem.key_count = run->c.keys * (piece + 1) / pieces - out.first;
    out.problem.key_positions += out.first;
    if (out.problem.key_documents) out.problem.key_documents += out.first;
    out.k.data = (const char *)run->k.data + (size_t)(out.first * run->c.size) * bytes;
    out.v.data = (const char *)run->v.data + (size_t)(out.first * run->c.size) * bytes;
    return out;
}

static rz_attention_executor executor_of(int threads) {
    return (rz_attention_executor){threads > 1 ? run_on_threads : NULL, NULL, threads};
}

void run_forward(bench_run *run, int threads, int pieces) {
    const int64_t rows = run->c.heads * run->c.queries;
    for (int64_t row = 0; row < rows; row++) {
        // A sink is a key of value 0 whose logit is given.
        run->m[row] = run->c.sinks ? ceilf((float)(run->sink * M_LOG2E)) : -INFINITY;
        run->l[row] = run->c.sinks ? (float)exp2(run->sink * M_LOG2E - run->m[row]) : 0;
    }
    memset(run->acc, 0, (size_t)(rows * run->c.size) * 4);
    const rz_attention_executor executor = executor_of(threads);
    for (int i = 0; i < pieces; i++) {
        const key_piece piece = piece_of(run, i, pieces);
        reserve(run, rz_attention_forward_workspace(&piece.problem, 4, threads));
        rz_attention_forward_f32(&piece.problem, &run->q, &piece.k, &piece.v, run->m, run->l, run->acc, &executor, run->workspace);
    }
}

void finish_forward(bench_run *run) {
    const int64_t rows = run->c.heads * run->c.queries, size = run->c.size;
    for (int64_t row = 0; row < rows; row++) {
        const double l = run->l[row];
        run->lse[row] = l == 0 ? -INFINITY : run->m[row] * M_LN2 + log(l);
        double delta = 0;
        for (int64_t d = 0; d < size; d++) {
            run->out[row * size + d] = l == 0 ? 0 : run->acc[row * size + d] / (float)l;
            delta += run->out[row * size + d] * element_of(run, &run->dout, row * size + d);
        }
        run->delta[row] = (float)delta;
    }
}

void run_backward(bench_run *run, int threads, int pieces) {
    const int64_t rows = run->c.heads * run->c.queries, keys = run->c.kv_heads * run->c.keys, size = run->c.size;
    memset(run->dq, 0, (size_t)(rows * size) * 4);
    memset(run->dk, 0, (size_t)(keys * size) * 4);
    memset(run->dv, 0, (size_t)(keys * size) * 4);
    if (run->dbias) memset(run->dbias, 0, (size_t)(run->c.queries * run->c.keys) * 4);
    const rz_attention_executor executor = executor_of(threads);
    for (int i = 0; i < pieces; i++) {
        const key_piece piece = piece_of(run, i, pieces);
        const int64_t count = piece.problem.key_count;
        reserve(run, rz_attention_backward_workspace(&piece.problem, 4, threads));
        // dK and dV of a piece are contiguous: where there are several pieces, they are moved to their place.
        const size_t bytes = (size_t)(run->c.kv_heads * count * size) * 4;
        float *dk = pieces == 1 ? run->dk : allocate(bytes), *dv = pieces == 1 ? run->dv : allocate(bytes);
        rz_attention_backward_f32(&piece.problem, &run->dout, &run->q, &piece.k, &piece.v, run->lse, run->delta, run->dq, dk, dv,
                                  run->dbias, run->bias_strides, &executor, run->workspace);
        if (pieces == 1) return;
        for (int64_t h = 0; h < run->c.kv_heads; h++) {
            const size_t to = (size_t)((h * run->c.keys + piece.first) * size), from = (size_t)(h * count * size);
            memcpy(run->dk + to, dk + from, (size_t)(count * size) * 4);
            memcpy(run->dv + to, dv + from, (size_t)(count * size) * 4);
        }
        free(dk);
        free(dv);
    }
}
