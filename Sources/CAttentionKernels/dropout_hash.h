// The counter hash of dropout; the header states it in words, since others must reproduce it bit for bit.
#ifndef DROPOUT_HASH_H
#define DROPOUT_HASH_H

#include "CAttentionKernels.h"

// Inlined everywhere, so that a kernel set vectorises it with its own instructions.
#define HASH_INLINE static inline __attribute__((always_inline))

HASH_INLINE uint32_t dropout_mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

HASH_INLINE uint32_t dropout_row_key(uint32_t start, uint64_t seed, int64_t batch, int64_t head, int64_t position) {
    const uint64_t place = (uint64_t)position;
    const uint32_t words[6] = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)batch,
                               (uint32_t)head, (uint32_t)place,        (uint32_t)(place >> 32)};
    uint32_t r = start;
    for (int i = 0; i < 6; i++) r = dropout_mix(r ^ words[i]);
    return r;
}
#define DROPOUT_START_0 0x9e3779b9u
#define DROPOUT_START_1 0x85ebca6bu

HASH_INLINE uint32_t dropout_column(int64_t position) {
    const uint64_t place = (uint64_t)position;
    return (uint32_t)place ^ dropout_mix((uint32_t)(place >> 32));
}

HASH_INLINE uint32_t dropout_draw(uint32_t column, uint32_t key0, uint32_t key1) {
    return dropout_mix(dropout_mix(column ^ key0) + key1);
}

HASH_INLINE uint32_t dropout_threshold(double probability) { return (uint32_t)(probability * 4294967296.0); }

#endif
