// The compute type as a vector: width, exponential, hyperbolic tangent, transpose, widening of stored elements.
//
// A kernel set is one source file that says KERNEL_FLOAT, KERNEL_DOUBLE or KERNEL_BFLOAT16 (whose compute type is float)
// and KERNEL_AVX512, KERNEL_AVX2, KERNEL_PORTABLE or KERNEL_EMULATED and includes kernel_engine.h, which includes this first.
// Everything is written with the compiler's vector extensions, so one text serves every instruction set; a * b + c becomes
// one instruction where there is one. KERNEL_EMULATED has the sizes of AVX-512 and none of its instructions.

#define INLINE static inline __attribute__((always_inline))
#define NOT_INLINE static __attribute__((noinline))
#define UNROLLED _Pragma("clang loop unroll(full)")

#if defined(KERNEL_AVX512) || defined(KERNEL_EMULATED)
#define VECTOR_BYTES 64
#elif defined(KERNEL_AVX2)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

// Vectors of B in a register tile: 6 x 4 accumulators want 32 registers, 6 x 2 want 16.
#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define TILE_VECTORS 4
#else
#define TILE_VECTORS 2
#endif

// Rows of a tile: in registers 6, and loops over them are unrolled; with AMX 32, and they are not.
#if defined(KERNEL_AMX)
#define KERNEL_BFLOAT16
#define EACH_ROW
enum { ROW_TILE = 32 };
#else
#define EACH_ROW UNROLLED
enum { ROW_TILE = 6 };
#endif

#if defined(KERNEL_BFLOAT16)
#define KERNEL_FLOAT
#endif

#if defined(KERNEL_FLOAT)
typedef float real;
typedef int32_t real_bits;
#define EXTERNAL_PRODUCT float32
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDER 0x1.8p23f         // adding it leaves the rounded integer in the low bits
#define ZERO_EXPONENT -127.0f     // with the bias added, the bits of zero
#define REAL_EPSILON 0x1p-23f
// Finite on purpose: no inf - inf anywhere. A masked logit lies so far under the reference of an empty row that its
// exponential is an exact zero there too.
#define MASKED -3e38f
#define EMPTY_REFERENCE -1e30f
#else
typedef double real;
typedef int64_t real_bits;
#define EXTERNAL_PRODUCT float64
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDER 0x1.8p52
#define ZERO_EXPONENT -1023.0
#define REAL_EPSILON 0x1p-52
#define MASKED -1e300
#define EMPTY_REFERENCE -1e290
#endif

#define LOG2_E 1.4426950408889634074
#define LN_2 0.69314718055994530942

typedef real vector __attribute__((vector_size(VECTOR_BYTES)));
typedef real_bits vector_bits __attribute__((vector_size(VECTOR_BYTES)));

enum {
    LANES = VECTOR_BYTES / sizeof(real),
    PANEL = LANES * TILE_VECTORS,   // columns of a register tile and of a packed panel
};
// Keeps a value that nothing reads, in its register.
#if defined(KERNEL_EMULATED)
#define WANTED(x) __asm__ volatile("" : "+m"(x))
#elif defined(__x86_64__)
#define WANTED(x) __asm__ volatile("" : "+v"(x))
#elif defined(__aarch64__)
#define WANTED(x) __asm__ volatile("" : "+w"(x))
#else
#define WANTED(x) __asm__ volatile("" : "+m"(x))
#endif

INLINE vector load(const real *p) { return *(const vector *)p; }
INLINE void store(real *p, vector x) { *(vector *)p = x; }
INLINE vector all(real x) { return x - (vector){0}; }
// C has no ?: on vectors; the compiler makes a blend of this.
INLINE vector choose(vector_bits where, vector a, vector b) {
    return (vector)((where & (vector_bits)a) | (~where & (vector_bits)b));
}
// b where one of them is not a number.
INLINE vector larger_of(vector a, vector b) {
#if defined(KERNEL_AVX512) && defined(KERNEL_FLOAT)
    return _mm512_max_ps(a, b);
#elif defined(KERNEL_AVX512)
    return _mm512_max_pd(a, b);
#elif defined(KERNEL_AVX2) && defined(KERNEL_FLOAT)
    return _mm256_max_ps(a, b);
#elif defined(KERNEL_AVX2)
    return _mm256_max_pd(a, b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE bool any_bit(vector_bits x) {
#if defined(KERNEL_AVX2)
    return !_mm256_testz_si256((__m256i)x, (__m256i)x);
#else
    return __builtin_reduce_or(x) != 0;
#endif
}

// In double: a carried sum lies in one lane, and adding the others to it one by one would round it LANES times a call. By halves,
// which wait less for each other.
INLINE real sum_of(vector x) {
    double sums[LANES];
    UNROLLED for (int i = 0; i < LANES; i++) sums[i] = (double)x[i];
    UNROLLED for (int half = LANES / 2; half > 0; half /= 2)
        UNROLLED for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return (real)sums[0];
}

INLINE real largest_of(vector x) {
    UNROLLED for (int half = LANES / 2; half > 0; half /= 2)
        UNROLLED for (int i = 0; i < half; i++) x[i] = x[i + half] > x[i] ? x[i + half] : x[i];
    return x[0];
}

#if (defined(KERNEL_AVX2) || defined(KERNEL_AVX512)) && defined(KERNEL_FLOAT)
// The lowest bits of every lane choose one of `powers`.
INLINE vector_bits chosen(vector_bits powers, vector_bits lanes) {
#if defined(KERNEL_AVX512)
    return (vector_bits)_mm512_permutexvar_epi32((__m512i)lanes, (__m512i)powers);
#else
    return (vector_bits)_mm256_permutevar8x32_epi32((__m256i)powers, (__m256i)lanes);
#endif
}

// 2^x = 2^n (1 + f c(f)) with n the nearest multiple of 1 / LANES: so many powers fit a vector, which leaves c three coefficients
// (own fit; relative error 3e-9 or 4e-8 before rounding, in all at most 1.3 or 1.5 ulp where the result is normal). For x below 127;
// exact 0 for masked entries and -inf; NaN stays NaN.
INLINE vector exp2_vector(vector x) {
    // 2^(i / LANES) less what i adds to the exponent below.
#if defined(KERNEL_AVX512)
    enum { STEP_BITS = MANTISSA_BITS - 4 };
    const real c2 = 0x1.c6b29ap-5f, c1 = 0x1.ebff92p-3f, c0 = 0x1.62e43p-1f;
    static const vector_bits powers = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                                       0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
#else
    enum { STEP_BITS = MANTISSA_BITS - 3 };
    const real c2 = 0x1.c6b8c4p-5f, c1 = 0x1.ec0aa6p-3f, c0 = 0x1.62e43p-1f;
    static const vector_bits powers = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
#endif
    x = larger_of(all(ZERO_EXPONENT), x);
    const vector shifted = x + ROUNDER / LANES, f = x - (shifted - ROUNDER / LANES);
    const vector_bits steps = (vector_bits)shifted;   // their lowest bits choose the power, the others are its exponent
    const vector power = (vector)(chosen(powers, steps) + (steps << STEP_BITS));
    vector c = all(c2);   // step by step: in one expression the forward with AVX2 was 4 % slower
    c = c * f + c1;
    c = c * f + c0;
    return power * f * c + power;
}
#else
// 2^x = 2^n (1 + f c(f)) with n the nearest integer and |f| <= 1/2; the coefficients are the Chebyshev interpolation of
// (2^f - 1) / f (own fit; relative error 4e-9 in float, 6e-18 in double, before rounding; in all at most 2 ulp, where
// the result is normal). For x below 127 (1023); exact 0 for masked entries and -inf; NaN stays NaN.
INLINE vector exp2_vector(vector x) {
#if defined(KERNEL_FLOAT)
    x = larger_of(all(ZERO_EXPONENT), x);
    const vector shifted = x + (ROUNDER + EXPONENT_BIAS);
    const vector f = x - (shifted - (ROUNDER + EXPONENT_BIAS));
    vector c = all(0x1.44138ap-13f);
    c = c * f + 0x1.5f089p-10f;
    c = c * f + 0x1.3b2a54p-7f;
    c = c * f + 0x1.c6af6cp-5f;
    c = c * f + 0x1.ebfbep-3f;
    c = c * f + 0x1.62e43p-1f;
    c = c * f + 1.0f;
#else
#if defined(KERNEL_AVX512)
    const vector n = _mm512_roundscale_pd(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const vector f = x - n;
#else
    x = larger_of(all(ZERO_EXPONENT), x);
    const vector shifted = x + (ROUNDER + EXPONENT_BIAS);
    const vector f = x - (shifted - (ROUNDER + EXPONENT_BIAS));
#endif
    vector c = all(0x1.e9d3fe3952179p-32);
    c = c * f + 0x1.e6063f7217bc6p-28;
    c = c * f + 0x1.b524fae627834p-24;
    c = c * f + 0x1.62bfd47773353p-20;
    c = c * f + 0x1.ffcbfc670dcd4p-17;
    c = c * f + 0x1.430913096fd9fp-13;
    c = c * f + 0x1.5d87fe78a5276p-10;
    c = c * f + 0x1.3b2ab6fba1ddap-7;
    c = c * f + 0x1.c6b08d704a0c2p-5;
    c = c * f + 0x1.ebfbdff82c598p-3;
    c = c * f + 0x1.62e42fefa39efp-1;
    c = c * f + 1.0;
#if defined(KERNEL_AVX512)
    return _mm512_scalef_pd(c, n);
#endif
#endif
#if !defined(KERNEL_AVX512)
    // The low bits of `shifted` are n + bias: shifted into place they are 2^n, or 0 for the smallest n.
    return c * (vector)((vector_bits)shifted << MANTISSA_BITS);
#endif
}
#endif

// tanh: an odd polynomial up to 1/2 (own fit, relative error 2e-9 in float, 1e-17 in double), beyond it
// 1 - 2 / (e^2|z| + 1), which has lost its relative accuracy only where the polynomial serves.
INLINE vector tanh_vector(vector z) {
    const vector w = z * z;
#if defined(KERNEL_FLOAT)
    vector c = all(-0x1.c7033cp-8f);
    c = c * w + 0x1.5fc692p-6f;
    c = c * w - 0x1.b9d2aep-5f;
    c = c * w + 0x1.11108p-3f;
    c = c * w - 0x1.555554p-2f;
#else
    vector c = all(-0x1.8117b15cbb104p-16);
    c = c * w + 0x1.71eb85bee4b4ap-14;
    c = c * w - 0x1.efab6555ccc22p-13;
    c = c * w + 0x1.350ce30757046p-11;
    c = c * w - 0x1.7d9e74586c684p-10;
    c = c * w + 0x1.d6d39b48449bfp-9;
    c = c * w - 0x1.226e34a851d2cp-7;
    c = c * w + 0x1.664f487fed22ap-6;
    c = c * w - 0x1.ba1ba1ba15daap-5;
    c = c * w + 0x1.11111111110ecp-3;
    c = c * w - 0x1.5555555555555p-2;
#endif
    const vector small = z + z * (w * c);
    const vector size = choose(z < 0, -z, z);
    const vector doubled = size * (real)(2 * LOG2_E);
    const vector power = exp2_vector(choose(doubled > 64, all(64), doubled));   // tanh is 1 long before
    const vector large = 1 - 2 / (power + 1);
    return choose(size < (real)0.5, small, choose(z < 0, -large, large));
}

// LANES x LANES elements transposed in registers: each round deals the two halves of the rows like cards, and after
// log2(LANES) perfect shuffles element (i, j) has moved to (j, i).
#if VECTOR_BYTES == 64 && defined(KERNEL_FLOAT)
#define DEAL_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define DEAL_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif VECTOR_BYTES / 8 == 8 || (VECTOR_BYTES == 32 && defined(KERNEL_FLOAT))
#define DEAL_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define DEAL_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#elif VECTOR_BYTES == 32 || (VECTOR_BYTES == 16 && defined(KERNEL_FLOAT))
#define DEAL_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define DEAL_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#else
#define DEAL_LOW(a, b) __builtin_shufflevector(a, b, 0, 2)
#define DEAL_HIGH(a, b) __builtin_shufflevector(a, b, 1, 3)
#endif

INLINE void transpose_square(vector x[LANES]) {
    UNROLLED for (int step = 1; step < LANES; step *= 2) {
        vector y[LANES];
        UNROLLED for (int i = 0; i < LANES / 2; i++) {
            y[2 * i] = DEAL_LOW(x[i], x[i + LANES / 2]);
            y[2 * i + 1] = DEAL_HIGH(x[i], x[i + LANES / 2]);
        }
        UNROLLED for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

// Of two vectors, one half of every group of lanes, the first vector's beside the second's; and the same of the other half.
#if VECTOR_BYTES == 64 && defined(KERNEL_FLOAT)
#define OF_LANES(f, ...) OF_8_LANES(f, 0, __VA_ARGS__), OF_8_LANES(f, 8, __VA_ARGS__)
#elif VECTOR_BYTES / 8 == 8 || (VECTOR_BYTES == 32 && defined(KERNEL_FLOAT))
#define OF_LANES(f, ...) OF_8_LANES(f, 0, __VA_ARGS__)
#elif VECTOR_BYTES == 32 || (VECTOR_BYTES == 16 && defined(KERNEL_FLOAT))
#define OF_LANES(f, ...) OF_4_LANES(f, 0, __VA_ARGS__)
#else
#define OF_LANES(f, ...) f(0, __VA_ARGS__), f(1, __VA_ARGS__)
#endif
#define OF_8_LANES(f, at, ...) OF_4_LANES(f, at, __VA_ARGS__), OF_4_LANES(f, at + 4, __VA_ARGS__)
#define OF_4_LANES(f, at, ...) f(at, __VA_ARGS__), f(at + 1, __VA_ARGS__), f(at + 2, __VA_ARGS__), f(at + 3, __VA_ARGS__)
#define LANE_OF_HALF(lane, group, half)                                                                          \
    ((lane) / (group) * (group) + (lane) % ((group) / 2) + (half) * ((group) / 2) + ((lane) % (group) < (group) / 2 ? 0 : LANES))
#define HALVES(a, b, group, half) __builtin_shufflevector(a, b, OF_LANES(LANE_OF_HALF, group, half))

// The sum of every one of LANES vectors, that of x[i] in lane i. Each round adds up the halves of groups of lanes, so that twice as
// many vectors share one, and half the work is left: fewer instructions than a transposition and LANES sums.
INLINE vector sums_of(vector x[LANES]) {
    int left = LANES;
#define ADD_HALVES(group)                                                                                        \
    if ((group) <= LANES) {                                                                                      \
        enum { lanes = (group) <= LANES ? (group) : LANES };                                                     \
        left /= 2;                                                                                               \
        UNROLLED for (int i = 0; i < left; i++)                                                                  \
            x[i] = HALVES(x[i], x[i + left], lanes, 0) + HALVES(x[i], x[i + left], lanes, 1);                    \
    }
    ADD_HALVES(16)
    ADD_HALVES(8)
    ADD_HALVES(4)
    ADD_HALVES(2)
#undef ADD_HALVES
    return x[0];
}

#if VECTOR_BYTES == 64
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#endif

// Asks for a row that will be read soon.
enum { FETCH_AHEAD = 16 };
INLINE void fetch_row(const rz_attention_tensor *from, int64_t index, int64_t size) {
    static const int64_t element_bytes[] = {
        [RZ_STORAGE_FLOAT32] = 4, [RZ_STORAGE_FLOAT64] = 8, [RZ_STORAGE_BFLOAT16] = 2, [RZ_STORAGE_FLOAT16] = 2};
    const int64_t bytes = element_bytes[from->storage];
    const char *row = (const char *)from->data + index * bytes;
    for (int64_t at = 0; at < size * bytes; at += 64) __builtin_prefetch(row + at);
}

// `count` stored elements from `index` on, widened and multiplied.
INLINE void widen(real *restrict to, const rz_attention_tensor *from, int64_t index, int64_t count, real factor) {
    switch (from->storage) {
    case RZ_STORAGE_FLOAT32: {
        const float *restrict x = (const float *)from->data + index;
        for (int64_t i = 0; i < count; i++) to[i] = (real)x[i] * factor;
        break;
    }
    case RZ_STORAGE_FLOAT64: {
        const double *restrict x = (const double *)from->data + index;
        for (int64_t i = 0; i < count; i++) to[i] = (real)x[i] * factor;
        break;
    }
    case RZ_STORAGE_BFLOAT16: {
        const uint16_t *restrict x = (const uint16_t *)from->data + index;
        for (int64_t i = 0; i < count; i++) {
            const uint32_t bits = (uint32_t)x[i] << 16;
            float value;
            memcpy(&value, &bits, sizeof value);
            to[i] = (real)value * factor;
        }
        break;
    }
    case RZ_STORAGE_FLOAT16: {
        // Moved into place, the 5-bit exponent is 112 too low; the product corrects it and is exact for subnormals.
        const uint16_t *restrict x = (const uint16_t *)from->data + index;
        for (int64_t i = 0; i < count; i++) {
            const uint32_t magnitude = (uint32_t)(x[i] & 0x7fff) << 13;
            const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0;   // Inf and NaN
            float value;
            memcpy(&value, &magnitude, sizeof value);
            value *= 0x1p112f;
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            bits |= special | (uint32_t)(x[i] & 0x8000) << 16;
            memcpy(&value, &bits, sizeof value);
            to[i] = (real)value * factor;
        }
        break;
    }
    }
}
