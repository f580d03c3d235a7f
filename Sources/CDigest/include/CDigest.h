#ifndef C_DIGEST_H
#define C_DIGEST_H

#include <stddef.h>
#include <stdint.h>

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) of `count` bytes, continuing from `crc` (0 for a new sum).
/// Uses the CRC instruction of the processor where there is one.
uint32_t ringzoo_crc32c(uint32_t crc, const void *bytes, size_t count);

/// The same sum by tables; public so that a test can hold the two against each other.
uint32_t ringzoo_crc32c_table(uint32_t crc, const void *bytes, size_t count);

/// The sum of A followed by B, from the sums of A and B and the byte count of B.
uint32_t ringzoo_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t count_b);

/// Running SHA-256 (FIPS 180-4).
typedef struct {
    uint32_t state[8];
    uint64_t count;
    uint8_t block[64];
} ringzoo_sha256;

void ringzoo_sha256_begin(ringzoo_sha256 *sum);
void ringzoo_sha256_add(ringzoo_sha256 *sum, const void *bytes, size_t count);
void ringzoo_sha256_end(ringzoo_sha256 *sum, uint8_t digest[32]);

#endif
