// What a core can do at most: multiply-adds on registers, and reading memory. Only the time matters, so results go nowhere.
#include "common.h"

typedef float lanes __attribute__((vector_size(32)));
// Enough chains to hide the latency of a multiply-add on two ports, few enough for sixteen registers.
enum { CHAINS = 12, UNROLLED = 16 };
static volatile float sink;

#define FMA_LOOP                                                                                                           \
    lanes a[CHAINS], b = {0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f}, c = b;                                          \
    for (int j = 0; j < CHAINS; j++) a[j] = b * (float)j;                                                                  \
    for (int64_t i = 0; i < iterations; i++)                                                                               \
        for (int u = 0; u < UNROLLED; u++)                                                                                 \
            for (int j = 0; j < CHAINS; j++) a[j] = a[j] * b + c;                                                          \
    for (int j = 1; j < CHAINS; j++) a[0] += a[j];                                                                         \
    sink = a[0][0];

#if defined(__x86_64__)
typedef float wide_lanes __attribute__((vector_size(64)));
__attribute__((target("avx512f"))) static void fma_avx512(int64_t iterations) {
    wide_lanes a[CHAINS], b, c;
    for (int k = 0; k < 16; k++) b[k] = c[k] = 0.5f;
    for (int j = 0; j < CHAINS; j++) a[j] = b * (float)j;
    for (int64_t i = 0; i < iterations; i++)
        for (int u = 0; u < UNROLLED; u++)
            for (int j = 0; j < CHAINS; j++) a[j] = a[j] * b + c;
    for (int j = 1; j < CHAINS; j++) a[0] += a[j];
    sink = a[0][0];
}
__attribute__((target("avx2,fma"))) static void fma_avx2(int64_t iterations) { FMA_LOOP }
#endif
static void fma_portable(int64_t iterations) { FMA_LOOP }

static int fma_lanes(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return 16;
#endif
    return 8;
}

double rz_fma_operations(int64_t iterations) { return 2.0 * CHAINS * UNROLLED * fma_lanes() * (double)iterations; }

void rz_fma_work(int64_t iterations) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) { fma_avx512(iterations); return; }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) { fma_avx2(iterations); return; }
#endif
    fma_portable(iterations);
}

RZ_CLONES void rz_read_work(const float *x, int64_t n) {
    float lane[64] = {0};
    for (int64_t i = 0; i + 64 <= n; i += 64)
        for (int j = 0; j < 64; j++) lane[j] += x[i + j];
    sink = lane[0];
}
