// Philox 4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
#include "common.h"

typedef struct { uint32_t v[4]; } block;

static inline block philox(uint64_t key, uint64_t high, uint64_t low) {
    block c = {{(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)}};
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c.v[0], p1 = (uint64_t)0xCD9E8D57u * c.v[2];
        block next = {{(uint32_t)(p1 >> 32) ^ c.v[1] ^ k0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c.v[3] ^ k1, (uint32_t)p0}};
        c = next;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// 24 bits: every value is exact in float32, and 1 is never reached.
static inline float unit(uint32_t bits) { return (float)(bits >> 8) * 0x1p-24f; }

void rz_random_uniform(uint64_t key, uint64_t row, int64_t column, int64_t n, float *out) {
    for (int64_t i = 0; i < n;) {
        uint64_t c = (uint64_t)(column + i);
        block b = philox(key, row, c >> 2);
        for (int lane = (int)(c & 3); lane < 4 && i < n; lane++, i++) out[i] = unit(b.v[lane]);
    }
}

void rz_random_normal(uint64_t key, uint64_t row, int64_t column, int64_t n, float *out) {
    for (int64_t i = 0; i < n;) {
        uint64_t c = (uint64_t)(column + i);
        block b = philox(key, row, c >> 2);
        float value[4];
        for (int pair = 0; pair < 2; pair++) { // Box and Muller 1958; 1 - u keeps the logarithm finite
            double radius = sqrt(-2 * log(1 - (double)unit(b.v[2 * pair])));
            double angle = 6.283185307179586 * (double)unit(b.v[2 * pair + 1]);
            value[2 * pair] = (float)(radius * cos(angle));
            value[2 * pair + 1] = (float)(radius * sin(angle));
        }
        for (int lane = (int)(c & 3); lane < 4 && i < n; lane++, i++) out[i] = value[lane];
    }
}

uint64_t rz_random_bits(uint64_t key, uint64_t row, uint64_t column) {
    block b = philox(key, row, column);
    return (uint64_t)b.v[0] | (uint64_t)b.v[1] << 32;
}
