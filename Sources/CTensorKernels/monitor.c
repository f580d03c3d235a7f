// A lock with a condition whose waits end by the monotonic clock: setting the wall clock neither ends nor prolongs them.
#include "CTensorKernels.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct rz_monitor {
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

rz_monitor *rz_monitor_create(void) {
    rz_monitor *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if defined(__linux__)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&m->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return m;
}
void rz_monitor_destroy(rz_monitor *m) {
    if (!m) return;
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
void rz_monitor_lock(rz_monitor *m) { pthread_mutex_lock(&m->lock); }
void rz_monitor_unlock(rz_monitor *m) { pthread_mutex_unlock(&m->lock); }
void rz_monitor_broadcast(rz_monitor *m) { pthread_cond_broadcast(&m->changed); }

double rz_monotonic_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int rz_monitor_wait(rz_monitor *m, double deadline) {
    if (isinf(deadline)) return pthread_cond_wait(&m->changed, &m->lock) == 0;
#if defined(__linux__)
    struct timespec until = {(time_t)deadline, (long)((deadline - floor(deadline)) * 1e9)};
    return pthread_cond_timedwait(&m->changed, &m->lock, &until) != ETIMEDOUT;
#else
    double left = deadline - rz_monotonic_seconds();
    if (left <= 0) return 0;
    struct timespec relative = {(time_t)left, (long)((left - floor(left)) * 1e9)};
    return pthread_cond_timedwait_relative_np(&m->changed, &m->lock, &relative) != ETIMEDOUT;
#endif
}
