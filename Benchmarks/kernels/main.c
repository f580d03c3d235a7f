// Attention kernels against the ceilings of the processor, measured beside them.
//
//     kernels-bench [--quick] [--check] [--shapes] [--profile] [--threads N] [--type float32|bf16] [--set NAME]...
//
// First every kernel set of this machine (of those asked for) is compared with float64; --check ends there. --shapes leaves out
// mask terms and decoding, --profile adds where the time of one thread goes.
// FLOPs are 4 H D a visible pair of query and key forward (the
// diagonal of a causal mask counted half), 2.5 times that backward. Rates are medians. "%" is of the ceiling of what is multiplied:
// chains of multiply-adds in float32 or of bf16 dot products, without memory, before and after the case.
#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool quick, profiling, shapes_only;
static int most_threads = 2;

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The median time of `body`, after one run that does not count.
static double median_seconds(void (*body)(void *), void *arg) {
    double times[100];
    int count = 0;
    body(arg);
    const double start = seconds_now(), enough = quick ? 0.3 : 0.6;
    do {
        const double begin = seconds_now();
        body(arg);
        times[count++] = seconds_now() - begin;
    } while (count < 100 && (count < 3 || seconds_now() - start < enough));
    qsort(times, (size_t)count, sizeof(double), by_size);
    return times[count / 2];
}

// MARK: ceilings

typedef struct {
    size_t bytes;
    int64_t rounds;
} chain_call;

static void run_chains(void *arg, int64_t index, int64_t worker) {
    const chain_call *call = arg;
    rz_attention_multiply_adds(call->bytes, call->rounds);
}

// GFLOP/s of all threads together.
static double ceiling(number_type type, int threads) {
    chain_call call = {type == FLOAT32 ? 4 : 2, 100000};
    double seconds = 0;
    for (int trial = 0; trial < 2; trial++) {
        const double begin = seconds_now();
        if (threads > 1)
            run_on_threads(NULL, threads, run_chains, &call);
        else
            run_chains(&call, 0, 0);
        seconds = seconds_now() - begin;
        if (trial == 0) call.rounds = (int64_t)(1e5 * 0.02 / fmax(seconds, 1e-6)) + 1;
    }
    return (double)rz_attention_multiply_adds(call.bytes, 1) * (double)call.rounds * threads / seconds * 1e-9;
}

// MARK: rates

typedef struct {
    bench_run *run;
    int threads;
} timed_call;

static void timed_forward(void *arg) { run_forward(((timed_call *)arg)->run, ((timed_call *)arg)->threads, 1); }
static void timed_backward(void *arg) { run_backward(((timed_call *)arg)->run, ((timed_call *)arg)->threads, 1); }

typedef struct {
    double forward, both, ceiling;   // GFLOP/s
} rates;

static rates measure(const bench_case *c, number_type type, int threads) {
    bench_run *run = open_run(c, type);
    timed_call call = {run, threads};
    set_threads(threads);
    const double flops = 4 * (double)(c->heads * c->size) * visible_pairs(run) * 1e-9;
    const double before = ceiling(type, threads);
    const double forward = median_seconds(timed_forward, &call);
    const bool profiled = profiling && threads == 1;
    if (profiled) {
        start_profile();
        median_seconds(timed_forward, &call);
        print_profile("forward");
    }
    const double between = ceiling(type, threads);
    finish_forward(run);
    const double backward = median_seconds(timed_backward, &call);
    const double after = ceiling(type, threads);
    if (profiled) {
        start_profile();
        median_seconds(timed_backward, &call);
        print_profile("backward");
    }
    set_threads(1);
    close_run(run);
    double all[] = {before, between, after};
    qsort(all, 3, sizeof(double), by_size);
    return (rates){flops / forward, 3.5 * flops / (forward + backward), all[1]};
}

static const char *name_of(number_type type) { return type == FLOAT32 ? "float32" : "bf16"; }

static void print_rates(const char *set, number_type type, const bench_case *c, int threads) {
    const rates r = measure(c, type, threads);
    printf("%-10s %-7s T %5lld D %3lld %-6s %d thread%s  forward %7.1f (%4.1f %%)  backward %4.1f %%  both %7.1f (%4.1f %%)  ceiling %.1f\n",
           set, name_of(type), (long long)c->keys, (long long)c->size, c->causal ? "causal" : "full", threads,
           threads > 1 ? "s" : " ", r.forward, 100 * r.forward / r.ceiling,
           100 * 2.5 / (3.5 / r.both - 1 / r.forward) / r.ceiling, r.both, 100 * r.both / r.ceiling, r.ceiling);
    fflush(stdout);
}

static void shapes(const char *set, number_type type) {
    for (int threads = 1; threads <= most_threads; threads++) {
        for (int64_t tokens = 4096; tokens <= (quick ? 4096 : 8192); tokens *= 2)
            for (int64_t size = 128; size >= 64; size /= 2)
                for (int causal = 0; causal < 2; causal++) {
                    const bench_case c = {.heads = tokens > 4096 ? 2 : 4, .kv_heads = tokens > 4096 ? 2 : 4, .queries = tokens,
                                          .keys = tokens, .size = size, .causal = causal, .spread = 1};
                    print_rates(set, type, &c, threads);
                }
        const bench_case small = {.heads = 8, .kv_heads = 8, .queries = 1024, .keys = 1024, .size = 64, .causal = true,
                                  .spread = 1};
        print_rates(set, type, &small, threads);
    }
}

// MARK: mask terms

static void terms(const char *set, number_type type) {
    const int64_t tokens = quick ? 4096 : 8192;
    const bench_case plain = {.name = "plain", .heads = 2, .kv_heads = 2, .queries = tokens, .keys = tokens, .size = 128,
                              .causal = true, .spread = 1};
    bench_case cases[6] = {plain, plain, plain, plain, plain, plain};
    cases[1].name = "window 1024", cases[1].back = 1024;
    cases[2].name = "documents of 1024", cases[2].document = 1024;
    cases[3].name = "soft cap", cases[3].soft_cap = 30;
    cases[4].name = "sinks", cases[4].sinks = true;
    cases[5].name = "bias, T 4096", cases[5].bias = true, cases[5].queries = cases[5].keys = 4096;
    rates first = {0};
    for (int i = 0; i < 6; i++) {
        const rates r = measure(cases + i, type, 1);
        if (i == 0) first = r;
        // Rates in units of the ceiling beside them, since the clock moves.
        printf("%-10s %-7s T %5lld D 128 causal, %-18s forward %5.1f %%  both %5.1f %% of plain's rate per visible pair\n", set,
               name_of(type), (long long)cases[i].keys, cases[i].name,
               100 * r.forward / r.ceiling / (first.forward / first.ceiling),
               100 * r.both / r.ceiling / (first.both / first.ceiling));
        fflush(stdout);
    }
}

// MARK: decoding

typedef struct {
    const char *memory;
    int64_t bytes, threads;
    volatile int64_t sink;
} read_call;

static void read_part(void *arg, int64_t index, int64_t worker) {
    read_call *call = arg;
    typedef int64_t lanes __attribute__((vector_size(32), aligned(32)));
    const int64_t from = call->bytes / 256 * index / call->threads, to = call->bytes / 256 * (index + 1) / call->threads;
    lanes sums[8] = {0};
    const lanes *x = (const lanes *)call->memory;
    for (int64_t i = from; i < to; i++) {
        __builtin_prefetch(call->memory + 256 * i + 4096);
        for (int j = 0; j < 8; j++) sums[j] += x[8 * i + j];
    }
    for (int j = 1; j < 8; j++) sums[0] += sums[j];
    call->sink = sums[0][0] + sums[0][1] + sums[0][2] + sums[0][3];
}

static void timed_read(void *arg) {
    read_call *call = arg;
    if (call->threads > 1)
        run_on_threads(NULL, call->threads, read_part, call);
    else
        read_part(call, 0, 0);
}

static void decoding(const char *set, number_type type) {
    for (int64_t size = 64; size <= 128; size *= 2)
        for (int threads = 1; threads <= most_threads; threads++) {
            const bench_case c = {.heads = 8, .kv_heads = 8, .queries = 1, .keys = 65536, .size = size, .causal = true, .spread = 1};
            bench_run *run = open_run(&c, type);
            timed_call call = {run, threads};
            const int64_t bytes = c.heads * c.keys * size * (type == FLOAT32 ? 4 : 2);
            read_call keys = {run->k.data, bytes, threads, 0};
            set_threads(threads);
            const double before = median_seconds(timed_read, &keys);
            const double forward = median_seconds(timed_forward, &call);
            const double after = median_seconds(timed_read, &keys);
            set_threads(1);
            close_run(run);
            const double rate = 2 * (double)bytes / forward * 1e-9, bandwidth = (double)bytes / fmin(before, after) * 1e-9;
            printf("%-10s %-7s decoding, Tk 65536 D %3lld, %d thread%s  %5.1f GB/s of %5.1f read (%4.1f %%)\n", set, name_of(type),
                   (long long)size, threads, threads > 1 ? "s" : " ", rate, bandwidth, 100 * rate / bandwidth);
            fflush(stdout);
        }
}

int main(int count, char **arguments) {
    static const char *known[] = {"amx", "avx512bf16", "avx512", "avx2", "portable", "bf16-emulated", "amx-emulated"};
    enum { KNOWN = sizeof known / sizeof known[0] };
    const char *asked[KNOWN] = {0};
    const char *type_asked = NULL;
    bool check_only = false;
    for (int i = 1, sets = 0; i < count; i++) {
        if (strcmp(arguments[i], "--quick") == 0) {
            quick = true;
        } else if (strcmp(arguments[i], "--check") == 0) {
            check_only = true;
        } else if (strcmp(arguments[i], "--shapes") == 0) {
            shapes_only = true;
        } else if (strcmp(arguments[i], "--profile") == 0) {
            profiling = true;
        } else if (strcmp(arguments[i], "--threads") == 0 && i + 1 < count && atoi(arguments[i + 1]) > 0) {
            most_threads = atoi(arguments[++i]);
        } else if (strcmp(arguments[i], "--type") == 0 && i + 1 < count) {
            type_asked = arguments[++i];
        } else if (strcmp(arguments[i], "--set") == 0 && i + 1 < count && sets < KNOWN) {
            asked[sets++] = arguments[++i];
        } else {
            fprintf(stderr, "usage: %s [--quick] [--check] [--shapes] [--profile] [--threads N] [--type float32|bf16]\n"
                            "       [--set amx|avx512bf16|avx512|avx2|portable|bf16-emulated|amx-emulated]...\n", arguments[0]);
            return 64;
        }
    }
    bool wanted[KNOWN], good = true;
    for (int i = 0; i < KNOWN; i++) {
        wanted[i] = !asked[0];
        for (int j = 0; j < KNOWN && asked[j]; j++) wanted[i] |= strcmp(asked[j], known[i]) == 0;
        if (!wanted[i]) continue;
        wanted[i] = rz_attention_set_kernels(known[i]);
        if (wanted[i])
            good &= check_kernels(known[i]);
        else
            printf("%s: not on this machine\n", known[i]);
        fflush(stdout);
    }
    if (!good || check_only) return good ? 0 : 1;
    for (int i = 0; i < KNOWN; i++) {
        if (!wanted[i]) continue;
        rz_attention_set_kernels(known[i]);
        // bf16 differs from float32 only where it has an engine of its own.
        const bool own = rz_attention_multiply_adds(2, 1) != rz_attention_multiply_adds(4, 1);
        for (number_type type = own ? BFLOAT16 : FLOAT32;; type = FLOAT32) {
            if (!type_asked || strcmp(type_asked, name_of(type)) == 0) {
                shapes(known[i], type);
                if (!shapes_only) terms(known[i], type), decoding(known[i], type);
            }
            if (type == FLOAT32) break;
        }
        if (!asked[0]) break;   // the best set alone, unless others are asked for
    }
    return 0;
}
