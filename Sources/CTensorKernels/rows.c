// Operations that need a whole row at once. Each is written once for float and double; half-precision rows are widened to
// float32 first, and results narrowed once.
#include "common.h"
#include <stdlib.h>

#define LANES 16
#define LN_2 0.693147180559945309417
// A loop over exponentials. clang would unroll it before it looks for vectors, and then find none; and one vector at a time waits for
// its own polynomial, so it computes four.
#ifdef __clang__
#define EXPONENTIALS_LOOP _Pragma("clang loop interleave_count(4) unroll(disable)")
#else
#define EXPONENTIALS_LOOP
#endif

#define DEFINE_ROWS(T, S, EXP)                                                                                             \
    RZ_CLONES static T largest_##S(int64_t n, const T *x) {                                                                \
        T lane[LANES];                                                                                                     \
        for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;                                                               \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];                             \
        for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];                                                      \
        for (int j = 1; j < LANES; j++) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];                                   \
        return lane[0];                                                                                                    \
    }                                                                                                                      \
    /* out = exp(x - m), where out may be x; returns the sum */                                                            \
    RZ_CLONES static double exponentials_##S(int64_t n, const T *x, T m, T *out) {                                         \
        double lane[LANES] = {0};                                                                                          \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES * 4 <= n; i += LANES * 4) {                                                                       \
            T e[LANES * 4]; /* of its own, so that the loop needs no check whether out overlaps x */                       \
            EXPONENTIALS_LOOP for (int j = 0; j < LANES * 4; j++) e[j] = EXP(x[i + j] - m);                                \
            for (int k = 0; k < LANES * 4; k += LANES)                                                                     \
                for (int j = 0; j < LANES; j++) lane[j] += (double)e[k + j];                                               \
            memcpy(out + i, e, sizeof e);                                                                                  \
        }                                                                                                                  \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) { T e = EXP(x[i + j] - m); out[i + j] = e; lane[j] += (double)e; }             \
        for (; i < n; i++) { T e = EXP(x[i] - m); out[i] = e; lane[0] += (double)e; }                                      \
        for (int j = 1; j < LANES; j++) lane[0] += lane[j];                                                                \
        return lane[0];                                                                                                    \
    }                                                                                                                      \
    RZ_CLONES static double exponential_sum_##S(int64_t n, const T *x, T m) {                                              \
        double lane[LANES] = {0};                                                                                          \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES * 4 <= n; i += LANES * 4) {                                                                       \
            T e[LANES * 4];                                                                                                \
            EXPONENTIALS_LOOP for (int j = 0; j < LANES * 4; j++) e[j] = EXP(x[i + j] - m);                                \
            for (int k = 0; k < LANES * 4; k += LANES)                                                                     \
                for (int j = 0; j < LANES; j++) lane[j] += (double)e[k + j];                                               \
        }                                                                                                                  \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) lane[j] += (double)EXP(x[i + j] - m);                                          \
        for (; i < n; i++) lane[0] += (double)EXP(x[i] - m);                                                               \
        for (int j = 1; j < LANES; j++) lane[0] += lane[j];                                                                \
        return lane[0];                                                                                                    \
    }                                                                                                                      \
    RZ_CLONES static double dot_##S(int64_t n, const T *x, const T *y) {                                                   \
        double lane[LANES] = {0};                                                                                          \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j] * (double)y[i + j];                                \
        for (; i < n; i++) lane[0] += (double)x[i] * (double)y[i];                                                         \
        for (int j = 1; j < LANES; j++) lane[0] += lane[j];                                                                \
        return lane[0];                                                                                                    \
    }                                                                                                                      \
    RZ_CLONES static double total_##S(int64_t n, const T *x) {                                                             \
        double lane[LANES] = {0};                                                                                          \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) lane[j] += (double)x[i + j];                                                   \
        for (; i < n; i++) lane[0] += (double)x[i];                                                                        \
        for (int j = 1; j < LANES; j++) lane[0] += lane[j];                                                                \
        return lane[0];                                                                                                    \
    }                                                                                                                      \
    RZ_CLONES static void softmax_##S(int64_t n, const T *x, T *out) {                                                     \
        T m = largest_##S(n, x);                                                                                           \
        if (m == -INFINITY) { /* nothing to see: zeros, unless a NaN hides among them */                                   \
            T value = 0;                                                                                                   \
            for (int64_t i = 0; i < n; i++) value = x[i] != x[i] ? x[i] : value;                                           \
            for (int64_t i = 0; i < n; i++) out[i] = value;                                                                \
            return;                                                                                                        \
        }                                                                                                                  \
        T scale = (T)(1 / exponentials_##S(n, x, m, out));                                                                 \
        for (int64_t i = 0; i < n; i++) out[i] *= scale;                                                                   \
    }                                                                                                                      \
    RZ_CLONES static double finish_softmax_##S(int64_t n, double reference, double sum, double sink, T *values) {          \
        if (sum == 0) { /* a row that saw nothing */                                                                       \
            memset(values, 0, (size_t)n * sizeof(T));                                                                      \
            return sink;                                                                                                   \
        }                                                                                                                  \
        double exponent = reference * LN_2, lse = exponent + log(sum), total = sum;                                        \
        if (sink > -INFINITY) {                                                                                            \
            /* Beyond the range of exp the sink has all the weight: the quotient is the right 0. */                        \
            double most = sink > lse ? sink : lse;                                                                         \
            total += exp(sink - exponent);                                                                                 \
            lse = most + log(exp(lse - most) + exp(sink - most));                                                          \
        }                                                                                                                  \
        T scale = (T)(1 / total);                                                                                          \
        for (int64_t i = 0; i < n; i++) values[i] *= scale;                                                                \
        return lse;                                                                                                        \
    }                                                                                                                      \
    RZ_CLONES static void softmax_pullback_##S(int64_t n, const T *p, const T *g, T *dx) {                                 \
        T sum = (T)dot_##S(n, p, g);                                                                                       \
        for (int64_t i = 0; i < n; i++) dx[i] = p[i] * (g[i] - sum);                                                       \
    }                                                                                                                      \
    RZ_CLONES static void rms_norm_##S(int64_t n, const T *x, const T *w, double epsilon, T *out) {                        \
        T r = (T)(1 / sqrt(dot_##S(n, x, x) / (double)n + epsilon));                                                       \
        for (int64_t i = 0; i < n; i++) out[i] = x[i] * r * w[i];                                                          \
    }                                                                                                                      \
    /* with r = rsqrt(mean(x^2) + e): dx = r w g - x r^3 / n sum(g w x) */                                                 \
    RZ_CLONES static void rms_norm_pullback_##S(int64_t n, const T *x, const T *w, const T *g, double epsilon,             \
                                                int accumulate, T *dx, T *dw) {                                            \
        double r = 1 / sqrt(dot_##S(n, x, x) / (double)n + epsilon), lane[LANES] = {0};                                    \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) lane[j] += (double)g[i + j] * (double)w[i + j] * (double)x[i + j];             \
        for (; i < n; i++) lane[0] += (double)g[i] * (double)w[i] * (double)x[i];                                          \
        for (int j = 1; j < LANES; j++) lane[0] += lane[j];                                                                \
        T a = (T)r, b = (T)(lane[0] * r * r * r / (double)n);                                                              \
        for (i = 0; i < n; i++) dw[i] += g[i] * x[i] * a;                                                                  \
        if (accumulate) for (i = 0; i < n; i++) dx[i] += g[i] * w[i] * a - x[i] * b;                                       \
        else for (i = 0; i < n; i++) dx[i] = g[i] * w[i] * a - x[i] * b;                                                   \
    }                                                                                                                      \
    RZ_CLONES static void moments_##S(int64_t n, const T *x, double epsilon, T *mean, T *r) {                              \
        double mu = total_##S(n, x) / (double)n, lane[LANES] = {0};                                                        \
        int64_t i = 0;                                                                                                     \
        for (; i + LANES <= n; i += LANES)                                                                                 \
            for (int j = 0; j < LANES; j++) { double d = (double)x[i + j] - mu; lane[j] += d * d; }                        \
        for (; i < n; i++) { double d = (double)x[i] - mu; lane[0] += d * d; }                                             \
        for (int j = 1; j < LANES; j++) lane[0] += lane[j];                                                                \
        *mean = (T)mu;                                                                                                     \
        *r = (T)(1 / sqrt(lane[0] / (double)n + epsilon));                                                                 \
    }                                                                                                                      \
    RZ_CLONES static void layer_norm_##S(int64_t n, const T *x, const T *w, const T *b, double epsilon, T *out) {          \
        T mean, r;                                                                                                         \
        moments_##S(n, x, epsilon, &mean, &r);                                                                             \
        for (int64_t i = 0; i < n; i++) out[i] = (x[i] - mean) * r * w[i] + b[i];                                          \
    }                                                                                                                      \
    /* with h = (x - mean) r and u = g w: dx = r (u - mean(u) - h mean(u h)) */                                            \
    RZ_CLONES static void layer_norm_pullback_##S(int64_t n, const T *x, const T *w, const T *g, double epsilon, T *dx,    \
                                                  T *dw, T *db) {                                                          \
        T mean, r;                                                                                                         \
        moments_##S(n, x, epsilon, &mean, &r);                                                                             \
        double sum = 0, projection = 0;                                                                                    \
        for (int64_t i = 0; i < n; i++) {                                                                                  \
            T h = (x[i] - mean) * r, u = g[i] * w[i];                                                                      \
            sum += (double)u;                                                                                              \
            projection += (double)u * (double)h;                                                                           \
            dw[i] += g[i] * h;                                                                                             \
            db[i] += g[i];                                                                                                 \
        }                                                                                                                  \
        T a = (T)(sum / (double)n), b = (T)(projection / (double)n);                                                       \
        for (int64_t i = 0; i < n; i++) dx[i] = r * (g[i] * w[i] - a - (x[i] - mean) * r * b);                             \
    }                                                                                                                      \
    /* In place, so that the two halves are all that the compiler must tell apart. */                                      \
    RZ_CLONES static void rotary_##S(int64_t half, T *x, const T *c, const T *s, T sign) {                                 \
        for (int64_t i = 0; i < half; i++) {                                                                               \
            T a = x[i], b = x[half + i], sine = sign * s[i];                                                               \
            x[i] = a * c[i] - b * sine;                                                                                    \
            x[half + i] = b * c[i] + a * sine;                                                                             \
        }                                                                                                                  \
    }                                                                                                                      \
    static void rotary_rows_##S(int64_t rows, int64_t half, const T *x, int64_t pitch, const T *c, const T *s, T sign,     \
                                T *out) {                                                                                  \
        for (int64_t r = 0; r < rows; r++, x += pitch, out += 2 * half) {                                                  \
            if (x != out) memcpy(out, x, (size_t)(2 * half) * sizeof(T));                                                  \
            rotary_##S(half, out, c, s, sign);                                                                             \
        }                                                                                                                  \
    }                                                                                                                      \
    RZ_CLONES static double cross_entropy_##S(int64_t n, const T *x, int64_t target, double scale, T *dx) {                \
        T m = largest_##S(n, x), at_target = x[target]; /* read before dx, which may be x itself, is written */           \
        double sum = dx ? exponentials_##S(n, x, m, dx) : exponential_sum_##S(n, x, m);                                    \
        double loss = log(sum) - ((double)at_target - (double)m);                                                          \
        if (dx) {                                                                                                          \
            T factor = (T)(scale / sum);                                                                                   \
            for (int64_t i = 0; i < n; i++) dx[i] *= factor;                                                               \
            dx[target] -= (T)scale;                                                                                        \
        }                                                                                                                  \
        return loss;                                                                                                       \
    }
DEFINE_ROWS(float, f32, rz_expf)
DEFINE_ROWS(double, f64, exp)

// MARK: half-precision rows

// Room for `rows` float rows of length n: on the stack of the caller's frame when small.
#define STACK_FLOATS 6144
#define WITH_ROWS(rows, n, body) {                                                                                         \
        float small[STACK_FLOATS], *buffer = small;                                                                        \
        int64_t needed = (int64_t)(rows) * (n);                                                                            \
        if (needed > STACK_FLOATS && !(buffer = malloc((size_t)needed * sizeof(float)))) abort();                          \
        body                                                                                                               \
        if (buffer != small) free(buffer);                                                                                 \
    }
#define WIDEN(x, row) rz_convert(dtype, n, x, 1, RZ_F32, buffer + (row) * n, 1)
#define NARROW(row, out) rz_convert(RZ_F32, n, buffer + (row) * n, 1, dtype, out, 1)

void rz_softmax_row(int dtype, int64_t n, const void *x, void *out) {
    if (dtype == RZ_F32) { softmax_f32(n, x, out); return; }
    if (dtype == RZ_F64) { softmax_f64(n, x, out); return; }
    WITH_ROWS(1, n, WIDEN(x, 0); softmax_f32(n, buffer, buffer); NARROW(0, out);)
}
double rz_finish_softmax_row(int dtype, int64_t n, const void *reference, const void *sum, double sink, void *values) {
    return dtype == RZ_F64
        ? finish_softmax_f64(n, *(const double *)reference, *(const double *)sum, sink, values)
        : finish_softmax_f32(n, (double)*(const float *)reference, (double)*(const float *)sum, sink, values);
}
double rz_dot_row(int dtype, int64_t n, const void *x, const void *y) {
    if (dtype == RZ_F32) return dot_f32(n, x, y);
    if (dtype == RZ_F64) return dot_f64(n, x, y);
    double dot = 0;
    WITH_ROWS(1, n, WIDEN(x, 0); dot = dot_f32(n, buffer, y);)
    return dot;
}
void rz_softmax_pullback_row(int dtype, int64_t n, const void *p, const void *g, void *dx) {
    if (dtype == RZ_F32) { softmax_pullback_f32(n, p, g, dx); return; }
    if (dtype == RZ_F64) { softmax_pullback_f64(n, p, g, dx); return; }
    WITH_ROWS(2, n, WIDEN(p, 0); WIDEN(g, 1); softmax_pullback_f32(n, buffer, buffer + n, buffer); NARROW(0, dx);)
}
void rz_rms_norm_row(int dtype, int64_t n, const void *x, const void *w, double epsilon, void *out) {
    if (dtype == RZ_F32) { rms_norm_f32(n, x, w, epsilon, out); return; }
    if (dtype == RZ_F64) { rms_norm_f64(n, x, w, epsilon, out); return; }
    WITH_ROWS(2, n, WIDEN(x, 0); WIDEN(w, 1); rms_norm_f32(n, buffer, buffer + n, epsilon, buffer); NARROW(0, out);)
}
void rz_rms_norm_pullback_row(int dtype, int64_t n, const void *x, const void *w, const void *g, double epsilon,
                              int accumulate, void *dx, void *dw) {
    if (dtype == RZ_F32) { rms_norm_pullback_f32(n, x, w, g, epsilon, accumulate, dx, dw); return; }
    if (dtype == RZ_F64) { rms_norm_pullback_f64(n, x, w, g, epsilon, accumulate, dx, dw); return; }
    WITH_ROWS(4, n, WIDEN(x, 0); WIDEN(w, 1); WIDEN(g, 2); if (accumulate) WIDEN(dx, 3);
              rms_norm_pullback_f32(n, buffer, buffer + n, buffer + 2 * n, epsilon, accumulate, buffer + 3 * n, dw);
              NARROW(3, dx);)
}
void rz_layer_norm_row(int dtype, int64_t n, const void *x, const void *w, const void *b, double epsilon, void *out) {
    if (dtype == RZ_F32) { layer_norm_f32(n, x, w, b, epsilon, out); return; }
    if (dtype == RZ_F64) { layer_norm_f64(n, x, w, b, epsilon, out); return; }
    WITH_ROWS(3, n, WIDEN(x, 0); WIDEN(w, 1); WIDEN(b, 2);
              layer_norm_f32(n, buffer, buffer + n, buffer + 2 * n, epsilon, buffer); NARROW(0, out);)
}
void rz_layer_norm_pullback_row(int dtype, int64_t n, const void *x, const void *w, const void *g, double epsilon, void *dx,
                                void *dw, void *db) {
    if (dtype == RZ_F32) { layer_norm_pullback_f32(n, x, w, g, epsilon, dx, dw, db); return; }
    if (dtype == RZ_F64) { layer_norm_pullback_f64(n, x, w, g, epsilon, dx, dw, db); return; }
    WITH_ROWS(4, n, WIDEN(x, 0); WIDEN(w, 1); WIDEN(g, 2);
              layer_norm_pullback_f32(n, buffer, buffer + n, buffer + 2 * n, epsilon, buffer + 3 * n, dw, db); NARROW(3, dx);)
}
void rz_rotary_rows(int dtype, int64_t rows, int64_t half, const void *x, int64_t pitch, const void *cosine,
                    const void *sine, double sign, void *out) {
    int64_t n = 2 * half;
    if (dtype == RZ_F32) { rotary_rows_f32(rows, half, x, pitch, cosine, sine, (float)sign, out); return; }
    if (dtype == RZ_F64) { rotary_rows_f64(rows, half, x, pitch, cosine, sine, sign, out); return; }
    const uint16_t *from = x;
    uint16_t *to = out;
    WITH_ROWS(1, n,
              for (int64_t r = 0; r < rows; r++) {
                  WIDEN(from + r * pitch, 0);
                  rotary_f32(half, buffer, cosine, sine, (float)sign);
                  NARROW(0, to + r * n);
              })
}
double rz_cross_entropy_row(int dtype, int64_t n, const void *x, int64_t target, double scale, void *dx) {
    if (dtype == RZ_F32) return cross_entropy_f32(n, x, target, scale, dx);
    if (dtype == RZ_F64) return cross_entropy_f64(n, x, target, scale, dx);
    double loss = 0;
    WITH_ROWS(1, n, WIDEN(x, 0); loss = cross_entropy_f32(n, buffer, target, scale, dx ? buffer : 0); if (dx) NARROW(0, dx);)
    return loss;
}
