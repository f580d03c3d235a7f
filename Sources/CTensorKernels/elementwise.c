#include "common.h"

// MARK: scalar definitions, once for float and once for double

#define DEFINE_SCALARS(T, S, EXP, SQRT, TANH, ERF, F)                                                                      \
    RZ_INLINE T neg_##S(T x) { return -x; }                                                                                \
    RZ_INLINE T abs_##S(T x) { return F(fabs)(x); }                                                                        \
    RZ_INLINE T sign_##S(T x) { return x != x ? x : (T)((x > 0) - (x < 0)); }                                              \
    RZ_INLINE T square_##S(T x) { return x * x; }                                                                          \
    RZ_INLINE T sqrt_##S(T x) { return SQRT(x); }                                                                          \
    RZ_INLINE T rsqrt_##S(T x) { return 1 / SQRT(x); }                                                                     \
    RZ_INLINE T reciprocal_##S(T x) { return 1 / x; }                                                                      \
    RZ_INLINE T exp_##S(T x) { return EXP(x); }                                                                            \
    RZ_INLINE T log_##S(T x) { return F(log)(x); }                                                                         \
    RZ_INLINE T sin_##S(T x) { return F(sin)(x); }                                                                         \
    RZ_INLINE T cos_##S(T x) { return F(cos)(x); }                                                                         \
    RZ_INLINE T tanh_##S(T x) { return TANH(x); }                                                                          \
    RZ_INLINE T erf_##S(T x) { return ERF(x); }                                                                            \
    RZ_INLINE T sigmoid_##S(T x) { return 1 / (1 + EXP(-x)); }                                                             \
    RZ_INLINE T silu_##S(T x) { return x / (1 + EXP(-x)); }                                                                \
    /* Hendrycks and Gimpel 2016: x Phi(x) */                                                                              \
    RZ_INLINE T gelu_##S(T x) { return (T)0.5 * x * (1 + ERF(x * (T)0.70710678118654752440)); }                            \
    RZ_INLINE T gelu_tanh_##S(T x) {                                                                                       \
        T u = (T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x);                                                   \
        return x / (1 + EXP(-2 * u)); /* (1 + tanh u) / 2 is the sigmoid of 2 u, and an exponential vectorises */          \
    }                                                                                                                      \
    RZ_INLINE T relu_##S(T x) { return x < 0 ? 0 : x; } /* NaN stays NaN */                                                \
    RZ_INLINE T add_##S(T a, T b) { return a + b; }                                                                        \
    RZ_INLINE T sub_##S(T a, T b) { return a - b; }                                                                        \
    RZ_INLINE T mul_##S(T a, T b) { return a * b; }                                                                        \
    RZ_INLINE T div_##S(T a, T b) { return a / b; }                                                                        \
    RZ_INLINE T pow_##S(T a, T b) { return F(pow)(a, b); }                                                                 \
    RZ_INLINE T max_##S(T a, T b) { return a > b || a != a ? a : b; }                                                      \
    RZ_INLINE T min_##S(T a, T b) { return a < b || a != a ? a : b; }                                                      \
    RZ_INLINE T silu_pullback_##S(T x, T g) {                                                                              \
        T s = 1 / (1 + EXP(-x));                                                                                           \
        return g * s * (1 + x * (1 - s));                                                                                  \
    }                                                                                                                      \
    RZ_INLINE T gelu_pullback_##S(T x, T g) {                                                                              \
        T cdf = (T)0.5 * (1 + ERF(x * (T)0.70710678118654752440));                                                         \
        return g * (cdf + x * (T)0.39894228040143267794 * EXP(-(T)0.5 * x * x));                                           \
    }                                                                                                                      \
    RZ_INLINE T gelu_tanh_pullback_##S(T x, T g) {                                                                         \
        T u = (T)0.79788456080286535588 * (x + (T)0.044715 * x * x * x);                                                   \
        T t = 2 / (1 + EXP(-2 * u)) - 1, du = (T)0.79788456080286535588 * (1 + 3 * (T)0.044715 * x * x);                                  \
        return g * ((T)0.5 * (1 + t) + (T)0.5 * x * (1 - t * t) * du);                                                     \
    }
#define FLOAT_NAME(name) name##f
#define DOUBLE_NAME(name) name
DEFINE_SCALARS(float, f32, rz_expf, rz_sqrtf, rz_tanhf, rz_erff, FLOAT_NAME)
DEFINE_SCALARS(double, f64, exp, rz_sqrt, tanh, erf, DOUBLE_NAME)

#define DEFINE_INTEGER_SCALARS(T, U, S)                                                                                    \
    RZ_INLINE T neg_##S(T x) { return (T)(0 - (U)x); }                                                                     \
    RZ_INLINE T abs_##S(T x) { return x < 0 ? (T)(0 - (U)x) : x; }                                                         \
    RZ_INLINE T sign_##S(T x) { return (T)((x > 0) - (x < 0)); }                                                           \
    RZ_INLINE T square_##S(T x) { return (T)((U)x * (U)x); }                                                               \
    RZ_INLINE T add_##S(T a, T b) { return (T)((U)a + (U)b); }                                                             \
    RZ_INLINE T sub_##S(T a, T b) { return (T)((U)a - (U)b); }                                                             \
    RZ_INLINE T mul_##S(T a, T b) { return (T)((U)a * (U)b); }                                                             \
    RZ_INLINE T div_##S(T a, T b) { return b == 0 ? 0 : (b == -1 ? (T)(0 - (U)a) : a / b); }                               \
    RZ_INLINE T max_##S(T a, T b) { return a > b ? a : b; }                                                                \
    RZ_INLINE T min_##S(T a, T b) { return a < b ? a : b; }
DEFINE_INTEGER_SCALARS(int32_t, uint32_t, i32)
DEFINE_INTEGER_SCALARS(int64_t, uint64_t, i64)

// MARK: loops; the contiguous cases apart, so that they vectorise

#define DEFINE_UNARY(name, T, S)                                                                                           \
    RZ_CLONES static void unary_##name##_##S(int64_t n, const T *x, int64_t sx, T *out, int64_t so) {                      \
        if (sx == 1 && so == 1) for (int64_t i = 0; i < n; i++) out[i] = name##_##S(x[i]);                                 \
        else for (int64_t i = 0; i < n; i++) out[i * so] = name##_##S(x[i * sx]);                                          \
    }
#define DEFINE_BINARY(name, T, S)                                                                                          \
    RZ_CLONES static void binary_##name##_##S(int64_t n, const T *a, int64_t sa, const T *b, int64_t sb, T *out,           \
                                              int64_t so) {                                                                \
        if (so == 1 && sa == 1 && sb == 1) for (int64_t i = 0; i < n; i++) out[i] = name##_##S(a[i], b[i]);                \
        else if (so == 1 && sa == 1 && sb == 0) { T v = b[0]; for (int64_t i = 0; i < n; i++) out[i] = name##_##S(a[i], v); } \
        else if (so == 1 && sa == 0 && sb == 1) { T v = a[0]; for (int64_t i = 0; i < n; i++) out[i] = name##_##S(v, b[i]); } \
        else for (int64_t i = 0; i < n; i++) out[i * so] = name##_##S(a[i * sa], b[i * sb]);                               \
    }
#define FLOAT_UNARIES(M, T, S)                                                                                             \
    M(neg, T, S) M(abs, T, S) M(sign, T, S) M(square, T, S) M(sqrt, T, S) M(rsqrt, T, S) M(reciprocal, T, S) M(exp, T, S)  \
    M(log, T, S) M(sin, T, S) M(cos, T, S) M(tanh, T, S) M(erf, T, S) M(sigmoid, T, S) M(silu, T, S) M(gelu, T, S)         \
    M(gelu_tanh, T, S) M(relu, T, S)
#define INTEGER_UNARIES(M, T, S) M(neg, T, S) M(abs, T, S) M(sign, T, S) M(square, T, S)
#define FLOAT_BINARIES(M, T, S)                                                                                            \
    M(add, T, S) M(sub, T, S) M(mul, T, S) M(div, T, S) M(pow, T, S) M(max, T, S) M(min, T, S) M(silu_pullback, T, S)      \
    M(gelu_pullback, T, S) M(gelu_tanh_pullback, T, S)
#define INTEGER_BINARIES(M, T, S) M(add, T, S) M(sub, T, S) M(mul, T, S) M(div, T, S) M(max, T, S) M(min, T, S)
FLOAT_UNARIES(DEFINE_UNARY, float, f32)
FLOAT_UNARIES(DEFINE_UNARY, double, f64)
INTEGER_UNARIES(DEFINE_UNARY, int32_t, i32)
INTEGER_UNARIES(DEFINE_UNARY, int64_t, i64)
FLOAT_BINARIES(DEFINE_BINARY, float, f32)
FLOAT_BINARIES(DEFINE_BINARY, double, f64)
INTEGER_BINARIES(DEFINE_BINARY, int32_t, i32)
INTEGER_BINARIES(DEFINE_BINARY, int64_t, i64)

#define UCASE(id, name, T, S) case id: unary_##name##_##S(n, x, sx, out, so); return 1;
#define FLOAT_UNARY_CASES(T, S)                                                                                            \
    UCASE(RZ_NEG, neg, T, S) UCASE(RZ_ABS, abs, T, S) UCASE(RZ_SIGN, sign, T, S) UCASE(RZ_SQUARE, square, T, S)            \
    UCASE(RZ_SQRT, sqrt, T, S) UCASE(RZ_RSQRT, rsqrt, T, S) UCASE(RZ_RECIPROCAL, reciprocal, T, S)                         \
    UCASE(RZ_EXP, exp, T, S) UCASE(RZ_LOG, log, T, S) UCASE(RZ_SIN, sin, T, S) UCASE(RZ_COS, cos, T, S)                    \
    UCASE(RZ_TANH, tanh, T, S) UCASE(RZ_ERF, erf, T, S) UCASE(RZ_SIGMOID, sigmoid, T, S) UCASE(RZ_SILU, silu, T, S)        \
    UCASE(RZ_GELU, gelu, T, S) UCASE(RZ_GELU_TANH, gelu_tanh, T, S) UCASE(RZ_RELU, relu, T, S)
#define INTEGER_UNARY_CASES(T, S)                                                                                          \
    UCASE(RZ_NEG, neg, T, S) UCASE(RZ_ABS, abs, T, S) UCASE(RZ_SIGN, sign, T, S) UCASE(RZ_SQUARE, square, T, S)

static int unary_f32(int op, int64_t n, const float *x, int64_t sx, float *out, int64_t so) {
    switch (op) { FLOAT_UNARY_CASES(float, f32) }
    return 0;
}
static int unary_f64(int op, int64_t n, const double *x, int64_t sx, double *out, int64_t so) {
    switch (op) { FLOAT_UNARY_CASES(double, f64) }
    return 0;
}
static int unary_i32(int op, int64_t n, const int32_t *x, int64_t sx, int32_t *out, int64_t so) {
    switch (op) { INTEGER_UNARY_CASES(int32_t, i32) }
    return 0;
}
static int unary_i64(int op, int64_t n, const int64_t *x, int64_t sx, int64_t *out, int64_t so) {
    switch (op) { INTEGER_UNARY_CASES(int64_t, i64) }
    return 0;
}

#define BCASE(id, name, S) case id: binary_##name##_##S(n, a, sa, b, sb, out, so); return 1;
#define FLOAT_BINARY_CASES(S)                                                                                              \
    BCASE(RZ_ADD, add, S) BCASE(RZ_SUB, sub, S) BCASE(RZ_MUL, mul, S) BCASE(RZ_DIV, div, S) BCASE(RZ_POW, pow, S)          \
    BCASE(RZ_MAX, max, S) BCASE(RZ_MIN, min, S) BCASE(RZ_SILU_PULLBACK, silu_pullback, S)                                  \
    BCASE(RZ_GELU_PULLBACK, gelu_pullback, S) BCASE(RZ_GELU_TANH_PULLBACK, gelu_tanh_pullback, S)
#define INTEGER_BINARY_CASES(S)                                                                                            \
    BCASE(RZ_ADD, add, S) BCASE(RZ_SUB, sub, S) BCASE(RZ_MUL, mul, S) BCASE(RZ_DIV, div, S) BCASE(RZ_MAX, max, S)          \
    BCASE(RZ_MIN, min, S)

static int binary_f32(int op, int64_t n, const float *a, int64_t sa, const float *b, int64_t sb, float *out, int64_t so) {
    switch (op) { FLOAT_BINARY_CASES(f32) }
    return 0;
}
static int binary_f64(int op, int64_t n, const double *a, int64_t sa, const double *b, int64_t sb, double *out, int64_t so) {
    switch (op) { FLOAT_BINARY_CASES(f64) }
    return 0;
}
static int binary_i32(int op, int64_t n, const int32_t *a, int64_t sa, const int32_t *b, int64_t sb, int32_t *out, int64_t so) {
    switch (op) { INTEGER_BINARY_CASES(i32) }
    return 0;
}
static int binary_i64(int op, int64_t n, const int64_t *a, int64_t sa, const int64_t *b, int64_t sb, int64_t *out, int64_t so) {
    switch (op) { INTEGER_BINARY_CASES(i64) }
    return 0;
}

// MARK: conversions

#define DEFINE_CONVERT(name, F, T, expression)                                                                             \
    RZ_CLONES static void convert_##name(int64_t n, const F *x, int64_t sx, T *out, int64_t so) {                          \
        if (sx == 1 && so == 1) for (int64_t i = 0; i < n; i++) { F v = x[i]; out[i] = expression; }                       \
        else for (int64_t i = 0; i < n; i++) { F v = x[i * sx]; out[i * so] = expression; }                                \
    }
#define SATURATE(v, low, high, T) ((v) != (v) ? 0 : (v) <= (low) ? (T)(low) : (v) >= (high) ? (T)(high) : (T)(v))
RZ_INLINE int32_t to_i32(double v) { return v != v ? 0 : v <= -2147483648.0 ? INT32_MIN : v >= 2147483647.0 ? INT32_MAX : (int32_t)v; }
RZ_INLINE int64_t to_i64(double v) {
    return v != v ? 0 : v <= -9223372036854775808.0 ? INT64_MIN : v >= 9223372036854775808.0 ? INT64_MAX : (int64_t)v;
}
// Rounding to odd on the way: the value cut off, its last bit set if anything was lost. A second rounding to a format at least
// two bits shorter then gives what one rounding would (Boldo and Melquiond 2008).
RZ_INLINE float f64_to_f32_odd(double v) {
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    bits -= fabs((double)f) > fabs(v);
    bits |= (double)f != v;
    memcpy(&f, &bits, 4);
    return v != v ? (float)v : f;
}
RZ_INLINE double i64_to_f64_odd(int64_t v) {
    int fits = v > -((int64_t)1 << 53) && v < (int64_t)1 << 53;
    int64_t high = (v >> 11) | ((v & 0x7ff) != 0);
    return fits ? (double)v : (double)high * 2048;
}
DEFINE_CONVERT(bf16_f32, uint16_t, float, rz_bf16_to_f32(v))
DEFINE_CONVERT(f16_f32, uint16_t, float, rz_f16_to_f32(v))
DEFINE_CONVERT(f32_bf16, float, uint16_t, rz_f32_to_bf16(v))
DEFINE_CONVERT(f32_f16, float, uint16_t, rz_f32_to_f16(v))
DEFINE_CONVERT(f32_f32, float, float, v)
DEFINE_CONVERT(f32_f64, float, double, (double)v)
DEFINE_CONVERT(f64_f32, double, float, (float)v)
DEFINE_CONVERT(f64_bf16, double, uint16_t, rz_f32_to_bf16(f64_to_f32_odd(v)))
DEFINE_CONVERT(f64_f16, double, uint16_t, rz_f32_to_f16(f64_to_f32_odd(v)))
DEFINE_CONVERT(f64_f64, double, double, v)
DEFINE_CONVERT(i32_i32, int32_t, int32_t, v)
DEFINE_CONVERT(i64_i64, int64_t, int64_t, v)
DEFINE_CONVERT(i32_i64, int32_t, int64_t, v)
DEFINE_CONVERT(i64_i32, int64_t, int32_t, (int32_t)v)
DEFINE_CONVERT(i32_f64, int32_t, double, (double)v)
DEFINE_CONVERT(i64_f64, int64_t, double, (double)v)
DEFINE_CONVERT(i64_f32, int64_t, float, (float)v)
DEFINE_CONVERT(i64_bf16, int64_t, uint16_t, rz_f32_to_bf16(f64_to_f32_odd(i64_to_f64_odd(v))))
DEFINE_CONVERT(i64_f16, int64_t, uint16_t, rz_f32_to_f16(f64_to_f32_odd(i64_to_f64_odd(v))))
DEFINE_CONVERT(bool_f64, uint8_t, double, v ? 1.0 : 0.0)
DEFINE_CONVERT(bool_i64, uint8_t, int64_t, v ? 1 : 0)
DEFINE_CONVERT(f64_i32, double, int32_t, to_i32(v))
DEFINE_CONVERT(f64_i64, double, int64_t, to_i64(v))
DEFINE_CONVERT(f64_bool, double, uint8_t, v != 0)
DEFINE_CONVERT(i64_bool, int64_t, uint8_t, v != 0)
DEFINE_CONVERT(i32_bool, int32_t, uint8_t, v != 0)
DEFINE_CONVERT(u8_u8, uint8_t, uint8_t, v)
DEFINE_CONVERT(u16_u16, uint16_t, uint16_t, v)

#define CHUNK 512
static const int element_bytes[] = {4, 8, 2, 2, 4, 8, 1};
RZ_INLINE const void *at(const void *p, int dtype, int64_t offset) { return (const char *)p + offset * element_bytes[dtype]; }
RZ_INLINE void *at_mutable(void *p, int dtype, int64_t offset) { return (char *)p + offset * element_bytes[dtype]; }
#define PAIR(a, b) ((a) * 8 + (b))

// The pairs worth a loop of their own; returns 0 for the others.
static int convert_directly(int from, int64_t n, const void *x, int64_t sx, int to, void *out, int64_t so) {
    switch (PAIR(from, to)) {
    case PAIR(RZ_F32, RZ_F32): convert_f32_f32(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_F64): convert_f64_f64(n, x, sx, out, so); return 1;
    case PAIR(RZ_BF16, RZ_BF16): case PAIR(RZ_F16, RZ_F16): convert_u16_u16(n, x, sx, out, so); return 1;
    case PAIR(RZ_I32, RZ_I32): convert_i32_i32(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_I64): convert_i64_i64(n, x, sx, out, so); return 1;
    case PAIR(RZ_BOOL, RZ_BOOL): convert_u8_u8(n, x, sx, out, so); return 1;
    case PAIR(RZ_F32, RZ_F64): convert_f32_f64(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_F32): convert_f64_f32(n, x, sx, out, so); return 1;
    case PAIR(RZ_BF16, RZ_F32): convert_bf16_f32(n, x, sx, out, so); return 1;
    case PAIR(RZ_F16, RZ_F32): convert_f16_f32(n, x, sx, out, so); return 1;
    case PAIR(RZ_F32, RZ_BF16): convert_f32_bf16(n, x, sx, out, so); return 1;
    case PAIR(RZ_F32, RZ_F16): convert_f32_f16(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_BF16): convert_f64_bf16(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_F16): convert_f64_f16(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_F32): convert_i64_f32(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_BF16): convert_i64_bf16(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_F16): convert_i64_f16(n, x, sx, out, so); return 1;
    case PAIR(RZ_I32, RZ_I64): convert_i32_i64(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_I32): convert_i64_i32(n, x, sx, out, so); return 1;
    case PAIR(RZ_I32, RZ_F64): convert_i32_f64(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_F64): convert_i64_f64(n, x, sx, out, so); return 1;
    case PAIR(RZ_BOOL, RZ_F64): convert_bool_f64(n, x, sx, out, so); return 1;
    case PAIR(RZ_BOOL, RZ_I64): convert_bool_i64(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_I32): convert_f64_i32(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_I64): convert_f64_i64(n, x, sx, out, so); return 1;
    case PAIR(RZ_F64, RZ_BOOL): convert_f64_bool(n, x, sx, out, so); return 1;
    case PAIR(RZ_I64, RZ_BOOL): convert_i64_bool(n, x, sx, out, so); return 1;
    case PAIR(RZ_I32, RZ_BOOL): convert_i32_bool(n, x, sx, out, so); return 1;
    }
    return 0;
}

// The type through which a pair without a loop of its own goes: exact for the source, so only one rounding happens.
static int bridge(int from, int to) {
    if (from == RZ_BF16 || from == RZ_F16) return RZ_F32;
    if (from == RZ_BOOL && to == RZ_I32) return RZ_I64;
    return RZ_F64;
}

void rz_convert(int from, int64_t n, const void *x, int64_t sx, int to, void *out, int64_t so) {
    if (convert_directly(from, n, x, sx, to, out, so)) return;
    double buffer[CHUNK];
    int middle = bridge(from, to);
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = n - i < CHUNK ? n - i : CHUNK;
        rz_convert(from, count, at(x, from, i * sx), sx, middle, buffer, 1);
        rz_convert(middle, count, buffer, 1, to, at_mutable(out, to, i * so), so);
    }
}

// MARK: entry points; half-precision types pass through float32 in pieces that stay in the first cache level

// A loop checks when it starts whether its result overlaps an operand, and does one element at a time where it does. In place,
// then, results pass through a buffer in pieces that stay in the first cache level.
static int unary_in_place(int op, int dtype, int64_t n, void *x) {
    double buffer[CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = n - i < CHUNK ? n - i : CHUNK;
        void *piece = at_mutable(x, dtype, i);
        if (!rz_unary(op, dtype, count, piece, 1, buffer, 1)) return 0;
        memcpy(piece, buffer, (size_t)(count * element_bytes[dtype]));
    }
    return 1;
}

static int binary_in_place(int op, int dtype, int64_t n, const void *a, int64_t sa, const void *b, int64_t sb, void *out) {
    double buffer[CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = n - i < CHUNK ? n - i : CHUNK;
        if (!rz_binary(op, dtype, count, at(a, dtype, i * sa), sa, at(b, dtype, i * sb), sb, buffer, 1)) return 0;
        memcpy(at_mutable(out, dtype, i), buffer, (size_t)(count * element_bytes[dtype]));
    }
    return 1;
}

static int is_wide_float(int dtype) { return dtype == RZ_F32 || dtype == RZ_F64; }

int rz_unary(int op, int dtype, int64_t n, const void *x, int64_t sx, void *out, int64_t so) {
    if (x == out && sx == 1 && so == 1 && is_wide_float(dtype)) return unary_in_place(op, dtype, n, out);
    switch (dtype) {
    case RZ_F32: return unary_f32(op, n, x, sx, out, so);
    case RZ_F64: return unary_f64(op, n, x, sx, out, so);
    case RZ_I32: return unary_i32(op, n, x, sx, out, so);
    case RZ_I64: return unary_i64(op, n, x, sx, out, so);
    case RZ_BF16: case RZ_F16: {
        float buffer[CHUNK];
        for (int64_t i = 0; i < n; i += CHUNK) {
            int64_t count = n - i < CHUNK ? n - i : CHUNK;
            rz_convert(dtype, count, at(x, dtype, i * sx), sx, RZ_F32, buffer, 1);
            if (!unary_f32(op, count, buffer, 1, buffer, 1)) return 0;
            rz_convert(RZ_F32, count, buffer, 1, dtype, at_mutable(out, dtype, i * so), so);
        }
        return 1;
    }
    }
    return 0;
}

int rz_binary(int op, int dtype, int64_t n, const void *a, int64_t sa, const void *b, int64_t sb, void *out, int64_t so) {
    int in_place = (a == out && sa == 1) || (b == out && sb == 1);
    if (in_place && so == 1 && is_wide_float(dtype)) return binary_in_place(op, dtype, n, a, sa, b, sb, out);
    switch (dtype) {
    case RZ_F32: return binary_f32(op, n, a, sa, b, sb, out, so);
    case RZ_F64: return binary_f64(op, n, a, sa, b, sb, out, so);
    case RZ_I32: return binary_i32(op, n, a, sa, b, sb, out, so);
    case RZ_I64: return binary_i64(op, n, a, sa, b, sb, out, so);
    case RZ_BF16: case RZ_F16: {
        float left[CHUNK], right[CHUNK];
        for (int64_t i = 0; i < n; i += CHUNK) {
            int64_t count = n - i < CHUNK ? n - i : CHUNK;
            rz_convert(dtype, count, at(a, dtype, i * sa), sa, RZ_F32, left, 1);
            rz_convert(dtype, count, at(b, dtype, i * sb), sb, RZ_F32, right, 1);
            if (!binary_f32(op, count, left, 1, right, 1, left, 1)) return 0;
            rz_convert(RZ_F32, count, left, 1, dtype, at_mutable(out, dtype, i * so), so);
        }
        return 1;
    }
    }
    return 0;
}

#define DEFINE_SWIGLU(T, S, EXP)                                                                                           \
    RZ_CLONES static void swiglu_##S(int64_t n, const T *a, const T *b, T *out) {                                          \
        for (int64_t i = 0; i < n; i++) out[i] = silu_##S(a[i]) * b[i];                                                    \
    }                                                                                                                      \
    RZ_CLONES static void swiglu_pullback_##S(int64_t n, const T *a, const T *b, const T *g, T *da, T *db) {               \
        for (int64_t i = 0; i < n; i++) {                                                                                  \
            T s = 1 / (1 + EXP(-a[i])), silu = a[i] * s;                                                                   \
            da[i] = g[i] * b[i] * (s + silu * (1 - s));                                                                    \
            db[i] = g[i] * silu;                                                                                           \
        }                                                                                                                  \
    }
DEFINE_SWIGLU(float, f32, rz_expf)
DEFINE_SWIGLU(double, f64, exp)

void rz_swiglu(int dtype, int64_t n, const void *a, const void *b, void *out) {
    if (dtype == RZ_F32) { swiglu_f32(n, a, b, out); return; }
    if (dtype == RZ_F64) { swiglu_f64(n, a, b, out); return; }
    float wide[3][CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = n - i < CHUNK ? n - i : CHUNK;
        rz_convert(dtype, count, at(a, dtype, i), 1, RZ_F32, wide[0], 1);
        rz_convert(dtype, count, at(b, dtype, i), 1, RZ_F32, wide[1], 1);
        swiglu_f32(count, wide[0], wide[1], wide[2]);
        rz_convert(RZ_F32, count, wide[2], 1, dtype, at_mutable(out, dtype, i), 1);
    }
}

void rz_swiglu_pullback(int dtype, int64_t n, const void *a, const void *b, const void *g, void *da, void *db) {
    if (dtype == RZ_F32) { swiglu_pullback_f32(n, a, b, g, da, db); return; }
    if (dtype == RZ_F64) { swiglu_pullback_f64(n, a, b, g, da, db); return; }
    float wide[5][CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = n - i < CHUNK ? n - i : CHUNK;
        rz_convert(dtype, count, at(a, dtype, i), 1, RZ_F32, wide[0], 1);
        rz_convert(dtype, count, at(b, dtype, i), 1, RZ_F32, wide[1], 1);
        rz_convert(dtype, count, at(g, dtype, i), 1, RZ_F32, wide[2], 1);
        swiglu_pullback_f32(count, wide[0], wide[1], wide[2], wide[3], wide[4]);
        rz_convert(RZ_F32, count, wide[3], 1, dtype, at_mutable(da, dtype, i), 1);
        rz_convert(RZ_F32, count, wide[4], 1, dtype, at_mutable(db, dtype, i), 1);
    }
}

#define DEFINE_COMPARE(T, S)                                                                                               \
    static int compare_##S(int op, int64_t n, const T *a, int64_t sa, const T *b, int64_t sb, uint8_t *out, int64_t so) {  \
        switch (op) {                                                                                                      \
        case RZ_EQ: for (int64_t i = 0; i < n; i++) out[i * so] = a[i * sa] == b[i * sb]; return 1;                        \
        case RZ_NE: for (int64_t i = 0; i < n; i++) out[i * so] = a[i * sa] != b[i * sb]; return 1;                        \
        case RZ_LT: for (int64_t i = 0; i < n; i++) out[i * so] = a[i * sa] < b[i * sb]; return 1;                         \
        case RZ_LE: for (int64_t i = 0; i < n; i++) out[i * so] = a[i * sa] <= b[i * sb]; return 1;                        \
        }                                                                                                                  \
        return 0;                                                                                                          \
    }
DEFINE_COMPARE(float, f32)
DEFINE_COMPARE(double, f64)
DEFINE_COMPARE(int32_t, i32)
DEFINE_COMPARE(int64_t, i64)
DEFINE_COMPARE(uint8_t, u8)

int rz_compare(int op, int dtype, int64_t n, const void *a, int64_t sa, const void *b, int64_t sb, uint8_t *out, int64_t so) {
    switch (dtype) {
    case RZ_F32: return compare_f32(op, n, a, sa, b, sb, out, so);
    case RZ_F64: return compare_f64(op, n, a, sa, b, sb, out, so);
    case RZ_I32: return compare_i32(op, n, a, sa, b, sb, out, so);
    case RZ_I64: return compare_i64(op, n, a, sa, b, sb, out, so);
    case RZ_BOOL: return compare_u8(op, n, a, sa, b, sb, out, so);
    case RZ_BF16: case RZ_F16: {
        float left[CHUNK], right[CHUNK];
        for (int64_t i = 0; i < n; i += CHUNK) {
            int64_t count = n - i < CHUNK ? n - i : CHUNK;
            rz_convert(dtype, count, at(a, dtype, i * sa), sa, RZ_F32, left, 1);
            rz_convert(dtype, count, at(b, dtype, i * sb), sb, RZ_F32, right, 1);
            if (!compare_f32(op, count, left, 1, right, 1, out + i * so, so)) return 0;
        }
        return 1;
    }
    }
    return 0;
}

#define SELECT_LOOP(T) {                                                                                                   \
        const T *p = a, *q = b;                                                                                            \
        T *r = out;                                                                                                        \
        for (int64_t i = 0; i < n; i++) r[i * so] = condition[i * sc] ? p[i * sa] : q[i * sb];                             \
        return;                                                                                                            \
    }
void rz_select(int bytes, int64_t n, const uint8_t *condition, int64_t sc, const void *a, int64_t sa, const void *b,
               int64_t sb, void *out, int64_t so) {
    switch (bytes) {
    case 1: SELECT_LOOP(uint8_t)
    case 2: SELECT_LOOP(uint16_t)
    case 4: SELECT_LOOP(uint32_t)
    case 8: SELECT_LOOP(uint64_t)
    }
}

void rz_fill(int dtype, int64_t n, void *out, int64_t so, double value) {
    if (value == 0 && so == 1 && !signbit(value)) { memset(out, 0, (size_t)n * (size_t)element_bytes[dtype]); return; }
    rz_convert(RZ_F64, n, &value, 0, dtype, out, so);
}
