// As many threads as the machine has cores to give: they wait for work in a loop, and exist only while they are measured, so that
// figures of one thread have the machine for themselves.
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

enum { MAXIMUM_THREADS = 64 };
static pthread_t helpers[MAXIMUM_THREADS];
static int helper_count;

static void (*current_body)(void *arg, int64_t index, int64_t worker);
static void *current_arg;
static int64_t current_count;
static _Atomic int64_t next_index, generation, working;

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void take_indices(int64_t worker) {
    for (int64_t i; (i = atomic_fetch_add(&next_index, 1)) < current_count;) current_body(current_arg, i, worker);
}

static void *help(void *arg) {
    for (int64_t seen = 0;;) {
        for (int spins = 0; atomic_load(&generation) == seen; spins++)
            if (spins % 1024 == 1023) sched_yield();
        seen = atomic_load(&generation);
        if (!current_body) return NULL;
        take_indices((int64_t)(intptr_t)arg);
        atomic_fetch_sub(&working, 1);
    }
}

void run_on_threads(void *pool, int64_t count, void (*body)(void *arg, int64_t index, int64_t worker), void *arg) {
    current_body = body, current_arg = arg, current_count = count;
    atomic_store(&next_index, 0);
    atomic_store(&working, helper_count);
    atomic_fetch_add(&generation, 1);
    take_indices(0);
    while (atomic_load(&working) > 0) sched_yield();
}

void set_threads(int threads) {
    current_body = NULL;
    atomic_fetch_add(&generation, 1);
    for (int i = 0; i < helper_count; i++) pthread_join(helpers[i], NULL);
    helper_count = 0;
    atomic_store(&generation, 0);
    for (; helper_count < threads - 1; helper_count++)
        pthread_create(&helpers[helper_count], NULL, help, (void *)(intptr_t)(helper_count + 1));
}
