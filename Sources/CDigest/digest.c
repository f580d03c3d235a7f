// CRC-32C: three independent streams of the CRC instruction hide its latency; the three sums are joined by moving a sum
// over a run of zero bytes, which is a linear map over GF(2) kept as four tables. Without the instruction: slicing by
// eight.
#include "CDigest.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u
#define LANE 4096u

static uint32_t slices[8][256];
static uint32_t over_one_lane[4][256];
static uint32_t over_two_lanes[4][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

// A reflected polynomial times x, modulo the CRC polynomial.
static uint32_t times_x(uint32_t a) { return (a >> 1) ^ ((a & 1) ? POLYNOMIAL : 0); }

// a * b modulo the CRC polynomial; bit 31 is x^0.
static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
        if (a & bit) {
            product ^= b;
        }
        b = times_x(b);
    }
    return product;
}

// x^(8 * count) modulo the CRC polynomial.
static uint32_t power_of_bytes(uint64_t count) {
    uint32_t result = 0x80000000u;      // x^0
    uint32_t square = 0x80000000u >> 8; // x^8
    for (; count != 0; count >>= 1) {
        if (count & 1) {
            result = multiply(square, result);
        }
        square = multiply(square, square);
    }
    return result;
}

static void make_move(uint32_t table[4][256], uint64_t count) {
    uint32_t power = power_of_bytes(count);
    for (int byte = 0; byte < 4; byte++) {
        for (uint32_t value = 0; value < 256; value++) {
            table[byte][value] = multiply(power, value << (8 * byte));
        }
    }
}

static void make_tables(void) {
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (int bit = 0; bit < 8; bit++) {
            crc = times_x(crc);
        }
        slices[0][value] = crc;
    }
    for (int slice = 1; slice < 8; slice++) {
        for (int value = 0; value < 256; value++) {
            uint32_t before = slices[slice - 1][value];
            slices[slice][value] = (before >> 8) ^ slices[0][before & 0xff];
        }
    }
    make_move(over_one_lane, LANE);
    make_move(over_two_lanes, 2 * LANE);
}

uint32_t ringzoo_crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t count_b) {
    // The inversions before and after cancel: crc(AB) = crc(A) moved over B, plus crc(B).
    return multiply(power_of_bytes(count_b), crc_a) ^ crc_b;
}

uint32_t ringzoo_crc32c_table(uint32_t crc, const void *bytes, size_t count) {
    pthread_once(&tables_once, make_tables);
    const uint8_t *p = bytes;
    crc = ~crc;
    for (; count >= 8; count -= 8, p += 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = slices[7][low & 0xff] ^ slices[6][(low >> 8) & 0xff] ^ slices[5][(low >> 16) & 0xff] ^
              slices[4][low >> 24] ^ slices[3][p[4]] ^ slices[2][p[5]] ^ slices[1][p[6]] ^ slices[0][p[7]];
    }
    for (; count > 0; count--, p++) {
        crc = (crc >> 8) ^ slices[0][(crc ^ *p) & 0xff];
    }
    return ~crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

static uint32_t move(uint32_t table[4][256], uint32_t crc) {
    return table[0][crc & 0xff] ^ table[1][(crc >> 8) & 0xff] ^ table[2][(crc >> 16) & 0xff] ^ table[3][crc >> 24];
}

static uint64_t load(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t count) {
    uint64_t a = (uint32_t)~crc;
    for (; count >= 3 * LANE; count -= 3 * LANE, p += 3 * LANE) {
        uint64_t b = 0, c = 0;
        for (size_t i = 0; i < LANE; i += 8) {
            a = _mm_crc32_u64(a, load(p + i));
            b = _mm_crc32_u64(b, load(p + LANE + i));
            c = _mm_crc32_u64(c, load(p + 2 * LANE + i));
        }
        a = move(over_two_lanes, (uint32_t)a) ^ move(over_one_lane, (uint32_t)b) ^ c;
    }
    for (; count >= 8; count -= 8, p += 8) {
        a = _mm_crc32_u64(a, load(p));
    }
    for (; count > 0; count--, p++) {
        a = _mm_crc32_u8((uint32_t)a, *p);
    }
    return ~(uint32_t)a;
}
#endif

uint32_t ringzoo_crc32c(uint32_t crc, const void *bytes, size_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        pthread_once(&tables_once, make_tables);
        return crc32c_sse42(crc, bytes, count);
    }
#endif
    return ringzoo_crc32c_table(crc, bytes, count);
}

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void compress(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               (uint32_t)block[4 * i + 3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 =
            h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void ringzoo_sha256_begin(ringzoo_sha256 *sum) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memset(sum, 0, sizeof *sum);
    memcpy(sum->state, start, sizeof start);
}

void ringzoo_sha256_add(ringzoo_sha256 *sum, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    size_t held = sum->count % 64;
    sum->count += count;
    if (held > 0) {
        size_t take = count < 64 - held ? count : 64 - held;
        if (take > 0) {
            memcpy(sum->block + held, p, take);
        }
        p += take, count -= take;
        if (held + take < 64) {
            return;
        }
        compress(sum->state, sum->block);
    }
    for (; count >= 64; count -= 64, p += 64) {
        compress(sum->state, p);
    }
    if (count > 0) {
        memcpy(sum->block, p, count);
    }
}

void ringzoo_sha256_end(ringzoo_sha256 *sum, uint8_t digest[32]) {
    uint64_t bits = sum->count * 8;
    uint8_t padding[72] = {0x80};
    size_t held = sum->count % 64;
    size_t zeros = (held < 56 ? 56 : 120) - held;
    for (int i = 0; i < 8; i++) {
        padding[zeros + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    }
    ringzoo_sha256_add(sum, padding, zeros + 8);
    for (int i = 0; i < 32; i++) {
        digest[i] = (uint8_t)(sum->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}
