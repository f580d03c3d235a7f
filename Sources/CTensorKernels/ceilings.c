// What a core can do at most when it reads memory.
#include "common.h"

// The result has every number in it, or the compiler would leave out the cache lines of those that nobody asks for.
RZ_CLONES float rz_read_sum(const float *x, int64_t n) {
    float lane[64] = {0}, sum = 0;
    for (int64_t i = 0; i + 64 <= n; i += 64)
        for (int j = 0; j < 64; j++) lane[j] += x[i + j];
    for (int j = 0; j < 64; j++) sum += lane[j];
    return sum;
}
