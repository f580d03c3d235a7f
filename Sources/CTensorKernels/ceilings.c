// What a core can do at most when it reads memory. Only the time matters, so the result goes nowhere.
#include "common.h"

static volatile float sink;

RZ_CLONES void rz_read_work(const float *x, int64_t n) {
    float lane[64] = {0};
    for (int64_t i = 0; i + 64 <= n; i += 64)
        for (int j = 0; j < 64; j++) lane[j] += x[i + j];
    sink = lane[0];
}
