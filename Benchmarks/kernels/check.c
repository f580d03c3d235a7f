// Every kernel set against attention in float64, on small cases with every mask term.
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Results as the kernels name them, one after the other, in float64.
typedef struct {
    double *out, *lse, *dq, *dk, *dv, *dbias;
} results;

static double *zeros(int64_t count) { return calloc((size_t)count, sizeof(double)); }

static double *widened(const bench_run *run, const rz_attention_tensor *tensor, int64_t count) {
    double *values = zeros(count);
    for (int64_t i = 0; i < count; i++) values[i] = element_of(run, tensor, i);
    return values;
}

static double dot(const double *a, const double *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

// to += factor * from
static void add(double *restrict to, double factor, const double *restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] += factor * from[i];
}

static double to_bfloat16(double x) {
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (!isfinite(f)) return f;
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&f, &bits, 4);
    return f;
}

// The definition, in float64; or as one would write it in bf16: logits, probabilities and dS rounded to it.
static results reference(const bench_run *run, bool naive) {
    const bench_case *c = &run->c;
    const rz_attention_problem *p = &run->problem;
    const int64_t size = c->size, rows = c->heads * c->queries, group = c->heads / c->kv_heads;
    results r = {zeros(rows * size), zeros(rows), zeros(rows * size), zeros(c->kv_heads * c->keys * size),
                 zeros(c->kv_heads * c->keys * size), zeros(c->queries * c->keys)};
    double *q = widened(run, &run->q, rows * size), *dout = widened(run, &run->dout, rows * size);
    double *k = widened(run, &run->k, c->kv_heads * c->keys * size), *v = widened(run, &run->v, c->kv_heads * c->keys * size);
    double *logits = zeros(c->keys), *slope = zeros(c->keys), *kept = zeros(c->keys), *weights = zeros(c->keys);
    for (int64_t h = 0; h < c->heads; h++)
        for (int64_t i = 0; i < c->queries; i++) {
            const int64_t row = h * c->queries + i, keys = h / group * c->keys;
            double largest = c->sinks ? run->sink : -INFINITY;
            for (int64_t j = 0; j < c->keys; j++) {
                logits[j] = -INFINITY;
                if (!is_visible(run, i, j)) continue;
                double x = p->scale * dot(q + row * size, k + (keys + j) * size, size);
                if (naive) x = to_bfloat16(x);
                slope[j] = 1;
                if (c->soft_cap > 0) {
                    const double t = tanh(x / c->soft_cap);
                    slope[j] = 1 - t * t;
                    x = c->soft_cap * t;
                }
                if (c->alibi) x -= p->alibi_slopes[h] * fabs((double)(p->query_positions[i] - p->key_positions[j]));
                if (c->bias) x += run->bias[i * c->keys + p->key_positions[j]];
                logits[j] = naive ? to_bfloat16(x) : x;
                largest = fmax(largest, logits[j]);
            }
            r.lse[row] = -INFINITY;
            if (largest == -INFINITY) continue;
            double sum = c->sinks ? exp(run->sink - largest) : 0;
            for (int64_t j = 0; j < c->keys; j++) sum += exp(logits[j] - largest);
            r.lse[row] = largest + log(sum);
            double *out = r.out + row * size;
            for (int64_t j = 0; j < c->keys; j++) {
                weights[j] = exp(logits[j] - r.lse[row]);
                kept[j] = 1;
                if (c->dropout > 0)
                    kept[j] = rz_attention_dropout_keeps(p->dropout_seed, 0, h, p->query_positions[i], p->key_positions[j],
                                                         p->dropout) ? 1 / (1 - c->dropout) : 0;
                const double weight = naive ? to_bfloat16(weights[j] * kept[j]) : weights[j] * kept[j];
                if (weight != 0) add(out, weight, v + (keys + j) * size, size);
            }
            const double delta = dot(out, dout + row * size, size);
            for (int64_t j = 0; j < c->keys; j++) {
                if (weights[j] == 0) continue;
                const double dp = dot(dout + row * size, v + (keys + j) * size, size);
                double ds = weights[j] * (dp * kept[j] - delta), weight = weights[j] * kept[j];
                if (c->bias) r.dbias[i * c->keys + p->key_positions[j]] += ds;
                ds *= slope[j];
                if (naive) ds = to_bfloat16(ds), weight = to_bfloat16(weight);
                add(r.dq + row * size, ds * p->scale, k + (keys + j) * size, size);
                add(r.dk + (keys + j) * size, ds * p->scale, q + row * size, size);
                add(r.dv + (keys + j) * size, weight, dout + row * size, size);
            }
        }
    free(q), free(k), free(v), free(dout), free(logits), free(slope), free(kept), free(weights);
    return r;
}

static void free_results(results r) { free(r.out), free(r.lse), free(r.dq), free(r.dk), free(r.dv), free(r.dbias); }

typedef struct {
    double rms, most, largest;   // of the errors; the largest reference
} error_size;

static error_size compare(const float *values, const double *exact_values, const double *references, int64_t count) {
    error_size e = {0, 0, 1};
    for (int64_t i = 0; i < count; i++) {
        const double value = values ? values[i] : exact_values[i];
        if (value == references[i]) continue;   // also -inf
        const double error = fabs(value - references[i]);
        e.rms += error * error;
        e.most = error <= e.most ? e.most : error;   // keeps NaN
        if (isfinite(references[i])) e.largest = fmax(e.largest, fabs(references[i]));
    }
    e.rms = sqrt(e.rms / (double)count);
    return e;
}

// float32: the bound of the tests. bf16: twice the RMS error of the naive computation, and never stricter than float32's roundings.
static bool check_one(const char *set, const bench_run *run, int pieces, const char *name, const float *values,
                      const double *doubles, const double *exact, const double *naive, int64_t count, double *worst) {
    const error_size e = compare(values, doubles, exact, count);
    const double spread = fmax(1, run->c.spread);
    double ratio;
    if (run->type == FLOAT32) {
        ratio = e.most / (spread * (2e-6 + 1e-5) * e.largest);
    } else {
        const error_size n = compare(NULL, naive, exact, count);
        ratio = e.rms / (2 * n.rms + 4 * 0x1p-24 * e.largest);
    }
    if (ratio > *worst) *worst = ratio;
    if (ratio <= 1) return true;
    printf("WRONG %s %s %s in %d pieces: %s is off by %.2e at most, %.2e RMS: %.2f of what is allowed\n", set,
           run->type == FLOAT32 ? "float32" : "bf16", run->c.name, pieces, name, e.most, e.rms, ratio);
    return false;
}

bool check_kernels(const char *set) {
    static const bench_case cases[] = {
        {.name = "full D 64", .heads = 2, .kv_heads = 1, .queries = 201, .keys = 259, .size = 64, .spread = 1},
        {.name = "full D 128 spread 6", .heads = 2, .kv_heads = 2, .queries = 97, .keys = 400, .size = 128, .spread = 6},
        {.name = "causal D 128", .heads = 3, .kv_heads = 1, .queries = 400, .keys = 400, .size = 128, .causal = true, .spread = 1},
        {.name = "causal D 64", .heads = 1, .kv_heads = 1, .queries = 577, .keys = 577, .size = 64, .causal = true, .spread = 2},
        {.name = "D 80", .heads = 1, .kv_heads = 1, .queries = 130, .keys = 193, .size = 80, .causal = true, .spread = 1},
        {.name = "D 33", .heads = 1, .kv_heads = 1, .queries = 61, .keys = 129, .size = 33, .spread = 1},
        {.name = "D 5", .heads = 1, .kv_heads = 1, .queries = 61, .keys = 129, .size = 5, .spread = 1},
        {.name = "D 256", .heads = 1, .kv_heads = 1, .queries = 61, .keys = 129, .size = 256, .causal = true, .spread = 1},
        {.name = "window", .heads = 2, .kv_heads = 1, .queries = 300, .keys = 300, .size = 64, .causal = true, .back = 37,
         .spread = 1},
        {.name = "documents", .heads = 2, .kv_heads = 1, .queries = 300, .keys = 300, .size = 64, .causal = true, .document = 77,
         .spread = 1},
        {.name = "sinks", .heads = 2, .kv_heads = 1, .queries = 150, .keys = 300, .size = 64, .causal = true, .sinks = true,
         .spread = 1},
        {.name = "soft cap", .heads = 2, .kv_heads = 1, .queries = 150, .keys = 300, .size = 64, .causal = true, .soft_cap = 3,
         .spread = 2},
        {.name = "ALiBi", .heads = 2, .kv_heads = 1, .queries = 150, .keys = 300, .size = 64, .causal = true, .alibi = true,
         .spread = 1},
        {.name = "bias", .heads = 2, .kv_heads = 1, .queries = 150, .keys = 300, .size = 64, .bias = true, .spread = 1},
        {.name = "dropout", .heads = 2, .kv_heads = 1, .queries = 150, .keys = 300, .size = 64, .dropout = 0.2, .spread = 1},
        {.name = "shuffled keys", .heads = 2, .kv_heads = 1, .queries = 300, .keys = 300, .size = 64, .causal = true, .back = 100,
         .shuffled = true, .spread = 1},
        {.name = "decoding", .heads = 4, .kv_heads = 2, .queries = 3, .keys = 1500, .size = 64, .causal = true, .spread = 1},
        {.name = "short decoding", .heads = 4, .kv_heads = 2, .queries = 12, .keys = 1100, .size = 64, .causal = true, .spread = 1},
        {.name = "one query and key", .heads = 1, .kv_heads = 1, .queries = 1, .keys = 1, .size = 64, .spread = 1},
    };
    bool good = true;
    rz_attention_set_kernels(set);
    for (number_type type = FLOAT32; type <= BFLOAT16; type++) {
        double worst = 0;
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            bench_run *run = open_run(cases + i, type);
            const results exact = reference(run, false), naive = reference(run, true);
            const int64_t rows = run->c.heads * run->c.queries, size = run->c.size, keys = run->c.kv_heads * run->c.keys;
            for (int pieces = 1; pieces <= 5; pieces += 4) {
                run_forward(run, 1, pieces);
                finish_forward(run);
                run_backward(run, 1, pieces);
#define CHECK(name, values, doubles, count) \
    good &= check_one(set, run, pieces, #name, values, doubles, exact.name, naive.name, count, &worst)
                CHECK(out, run->out, NULL, rows * size);
                CHECK(lse, NULL, run->lse, rows);
                CHECK(dq, run->dq, NULL, rows * size);
                CHECK(dk, run->dk, NULL, keys * size);
                CHECK(dv, run->dv, NULL, keys * size);
                if (run->dbias) CHECK(dbias, run->dbias, NULL, run->c.queries * run->c.keys);
#undef CHECK
            }
            // The same bits on two threads.
            const size_t bytes = (size_t)(rows * size) * 4;
            float *acc = malloc(bytes), *dq = malloc(bytes);
            run_forward(run, 1, 1), finish_forward(run), run_backward(run, 1, 1);
            memcpy(acc, run->acc, bytes), memcpy(dq, run->dq, bytes);
            set_threads(2);
            run_forward(run, 2, 1), finish_forward(run), run_backward(run, 2, 1);
            set_threads(1);
            if (memcmp(acc, run->acc, bytes) || memcmp(dq, run->dq, bytes)) {
                printf("WRONG %s %s: two threads give other bits\n", set, run->c.name);
                good = false;
            }
            free(acc), free(dq);
            free_results(exact), free_results(naive);
            close_run(run);
        }
        printf("check %-14s %-8s largest error %.2f of what is allowed\n", set, type == FLOAT32 ? "float32" : "bf16", worst);
    }
    rz_attention_set_kernels(NULL);
    return good;
}
