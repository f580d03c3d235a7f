#ifndef RZ_COMMON_H
#define RZ_COMMON_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "CTensorKernels.h"

// No -march flag may be set for the package, so the hot loops are compiled three times and chosen when the program loads.
#if defined(__x86_64__) && defined(__linux__)
#define RZ_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define RZ_CLONES
#endif
#define RZ_INLINE static inline __attribute__((always_inline))

// Square roots without errno, which would keep every loop around them scalar.
#ifndef __has_builtin
#define __has_builtin(name) 0
#endif
#if __has_builtin(__builtin_elementwise_sqrt)
RZ_INLINE float rz_sqrtf(float x) { return __builtin_elementwise_sqrt(x); }
RZ_INLINE double rz_sqrt(double x) { return __builtin_elementwise_sqrt(x); }
#else
RZ_INLINE float rz_sqrtf(float x) { return sqrtf(x); }
RZ_INLINE double rz_sqrt(double x) { return sqrt(x); }
#endif

RZ_INLINE float rz_bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
RZ_INLINE uint16_t rz_f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}
RZ_INLINE float rz_f16_to_f32(uint16_t h) {
    _Float16 v;
    memcpy(&v, &h, 2);
    return (float)v;
}
RZ_INLINE uint16_t rz_f32_to_f16(float f) {
    _Float16 v = (_Float16)f;
    uint16_t h;
    memcpy(&h, &v, 2);
    return h;
}

// exp(x) in float32: error below 1 ulp before the last rounding, exact 0 below -104, infinity above 88.73.
// Straight-line code, so that loops over it vectorise.
RZ_INLINE float rz_expf(float x) {
    float clamped = x < -104.0f ? -104.0f : (x > 89.0f ? 89.0f : x);
    float n = rintf(clamped * 1.44269504f);
    float r = clamped - n * 0.693359375f;              // ln 2 in two parts (Cody and Waite)
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    // 2^n in two factors, so that results near the ends of the range neither overflow early nor vanish too soon.
    int32_t whole = (int32_t)n, half = whole >> 1;
    uint32_t first = (uint32_t)(half + 127) << 23, second = (uint32_t)(whole - half + 127) << 23;
    float a, b;
    memcpy(&a, &first, 4);
    memcpy(&b, &second, 4);
    float y = p * a * b;
    return x != x ? x : (x < -104.0f ? 0.0f : y);
}

// tanh(x) in float32, below 2 ulp: an odd polynomial (fitted to the least relative error) near 0, 1 - 2 / (e^2x + 1) beyond.
RZ_INLINE float rz_tanhf(float x) {
    float a = fabsf(x), s = x * x;
    float p = -5.5448616e-3f;
    p = p * s + 2.0487084e-2f;
    p = p * s - 5.3688624e-2f;
    p = p * s + 1.3330720e-1f;
    p = p * s - 3.3333243e-1f;
    float near_zero = p * s * a + a, beyond = 1 - 2 / (rz_expf(2 * a) + 1);
    return copysignf(a < 0.625f ? near_zero : beyond, x);
}
// erf(x) in float32, below 2 ulp: an odd polynomial near 0, 1 - e^-q(|x|) beyond, where q is a polynomial for -ln(erfc).
RZ_INLINE float rz_erff(float x) {
    float a = fabsf(x), s = x * x;
    float p = 8.316772682e-5f;
    p = p * s - 8.1300120e-4f;
    p = p * s + 5.1999066e-3f;
    p = p * s - 2.6858941e-2f;
    p = p * s + 1.1283687e-1f;
    p = p * s - 3.7612633e-1f;
    float near_zero = (p * s + 1.2837916658e-1f) * a + a; // 2 / sqrt(pi) = 1 + 0.128...
    float b = a > 4 ? 4 : a;                              // erf(4) rounds to 1
    float q = 7.374564450e-7f;
    q = q * b + 1.131134938e-5f;
    q = q * b - 3.788496769e-4f;
    q = q * b + 3.994101070e-3f;
    q = q * b - 2.477451239e-2f;
    q = q * b + 1.078582126e-1f;
    q = q * b + 6.336633128e-1f;
    q = q * b + 1.129381810e+0f;
    q = q * b - 1.506136974e-4f;
    float beyond = 1 - rz_expf(-q);
    return copysignf(a < 0.92f ? near_zero : beyond, x);
}
#endif
