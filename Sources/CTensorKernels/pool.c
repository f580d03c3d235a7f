// A small thread pool: work is handed out by an atomic counter, so indices start in increasing order. Idle workers spin
// briefly (a training step is thousands of short loops), then sleep, so that more pools than cores do not starve each other.
#define _GNU_SOURCE // the affinity of threads
#include "common.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() sched_yield()
#endif
enum { SPINS = 2000 };

typedef struct rz_pool_helper {
    rz_pool *pool;
    int worker;
    int asleep;                           // under the pool's lock
    pthread_t thread;
#if defined(__linux__)
    cpu_set_t cores;                      // where it may run; none where it is not to be kept off any
#endif
} pool_helper;

struct rz_pool {
    int workers, running;                 // workers includes the caller
    int spins;                            // 0 where there are fewer cores than threads
    pool_helper *helpers;                 // workers - 1, of which `running` have a thread
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    atomic_uint_fast64_t generation;      // one more for every run
    atomic_int busy;                      // helpers that have not yet finished the current run
    atomic_int stop;
    atomic_int_fast64_t next;
    int64_t count;
    rz_pool_body body;
    void *argument;
};

static _Thread_local int current_worker = -1;          // of the pool whose body runs on this thread
static _Thread_local const rz_pool *current_pool;

static void work(rz_pool *p, int worker) {
    int outer = current_worker;
    const rz_pool *outer_pool = current_pool;
    current_worker = worker;
    current_pool = p;
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->count) break;
        p->body(p->argument, i, worker);
    }
    current_worker = outer;
    current_pool = outer_pool;
}

// A sleeper is kept off its caller's core while it is woken, then may run where it might before. Left to itself, Linux in a
// virtual machine often wakes it on that very core while another is idle (one that its host has halted passes for taken,
// presumably), and the two share it until loads are balanced, a millisecond or more later: a short call at half its speed.
#if defined(__linux__)
static int cores_allowed(void) {
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) ? (int)sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT(&cores);
}

static void remember_cores(pool_helper *h) {
    if (sched_getaffinity(0, sizeof h->cores, &h->cores)) CPU_ZERO(&h->cores);
}

static void keep_off(pool_helper *h, int core) {
    cpu_set_t others = h->cores;
    if (core < 0 || core >= CPU_SETSIZE) return;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others)) pthread_setaffinity_np(h->thread, sizeof others, &others);
}

static void allow_cores(const pool_helper *h) {
    if (CPU_COUNT(&h->cores)) sched_setaffinity(0, sizeof h->cores, &h->cores);
}
#else
static int cores_allowed(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }
static void remember_cores(pool_helper *h) { (void)h; }
static void keep_off(pool_helper *h, int core) { (void)h; (void)core; }
static void allow_cores(const pool_helper *h) { (void)h; }
static int sched_getcpu(void) { return -1; }
#endif

static void *helper(void *raw) {
    pool_helper *h = raw;
    rz_pool *p = h->pool;
    uint64_t seen = 0;
    for (;;) {
        for (int s = 0; s < p->spins && atomic_load_explicit(&p->generation, memory_order_acquire) == seen; s++) PAUSE();
        if (atomic_load_explicit(&p->generation, memory_order_acquire) == seen) {
            if (p->spins) remember_cores(h); // with more threads than cores some share one anyway
            pthread_mutex_lock(&p->lock);
            int slept = h->asleep = atomic_load(&p->generation) == seen;
            while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->wake, &p->lock);
            h->asleep = 0;
            pthread_mutex_unlock(&p->lock);
            if (slept) allow_cores(h);
        }
        seen++;
        if (atomic_load(&p->stop)) return NULL;
        work(p, h->worker);
        if (atomic_fetch_sub_explicit(&p->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

rz_pool *rz_pool_create(int workers) {
    rz_pool *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->workers = workers < 1 ? 1 : workers;
    p->spins = cores_allowed() >= p->workers ? SPINS : 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    p->helpers = calloc((size_t)p->workers, sizeof *p->helpers);
    for (int w = 1; p->helpers && w < p->workers; w++) {
        pool_helper *h = &p->helpers[w - 1];
        h->pool = p;
        h->worker = w;
        if (pthread_create(&h->thread, NULL, helper, h)) break;
        p->running++;
    }
    if (p->running + 1 < p->workers) { rz_pool_destroy(p); return NULL; }
    return p;
}

void rz_pool_destroy(rz_pool *p) {
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, 1);
    atomic_fetch_add(&p->generation, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->running; i++) pthread_join(p->helpers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    free(p->helpers);
    free(p);
}

int rz_pool_workers(const rz_pool *p) { return p->workers; }

void rz_pool_run(rz_pool *p, int64_t count, rz_pool_body body, void *argument) {
    if (count <= 0) return;
    if (current_worker >= 0 || p->running == 0 || count == 1) { // nested, alone, or not worth waking anyone
        // Worker numbers name scratch memory of one pool: nested in itself the caller keeps its own, elsewhere it is worker 0.
        int worker = current_pool == p ? current_worker : 0;
        for (int64_t i = 0; i < count; i++) body(argument, i, worker);
        return;
    }
    p->count = count;
    p->body = body;
    p->argument = argument;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->busy, p->running, memory_order_relaxed);
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_release);
    const int core = sched_getcpu();
    for (int i = 0; i < p->running; i++)
        if (p->helpers[i].asleep) keep_off(&p->helpers[i], core);
    pthread_mutex_unlock(&p->lock);
    pthread_cond_broadcast(&p->wake); // without the lock, which the woken take
    work(p, 0);
    for (int s = 0; s < p->spins && atomic_load_explicit(&p->busy, memory_order_acquire); s++) PAUSE();
    if (atomic_load_explicit(&p->busy, memory_order_acquire)) {
        pthread_mutex_lock(&p->lock);
        while (atomic_load_explicit(&p->busy, memory_order_acquire)) pthread_cond_wait(&p->done, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
}
