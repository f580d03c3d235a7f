#include "common.h"

#define DEFINE_OPTIMIZERS(T, S, SQRT)                                                                                       \
    RZ_CLONES static void adamw_##S(int64_t n, T *w, const T *g, T *m, T *v, T rate, T beta1, T rest1, T beta2, T rest2,   \
                                    T epsilon, T decay, T correction1, T correction2, T gradient_scale) {                  \
        for (int64_t i = 0; i < n; i++) {                                                                                  \
            T gi = g[i] * gradient_scale;                                                                                  \
            T mi = beta1 * m[i] + rest1 * gi;                                                                              \
            T vi = beta2 * v[i] + rest2 * gi * gi;                                                                         \
            T wi = w[i] - rate * decay * w[i];                                                                             \
            m[i] = mi;                                                                                                     \
            v[i] = vi;                                                                                                     \
            w[i] = wi - rate * (mi / correction1) / (SQRT(vi / correction2) + epsilon);                                 \
        }                                                                                                                  \
    }                                                                                                                      \
    RZ_CLONES static void sgd_##S(int64_t n, T *w, const T *g, T *b, T rate, T mu, T decay, T gradient_scale) {            \
        for (int64_t i = 0; i < n; i++) {                                                                                  \
            T gi = g[i] * gradient_scale + decay * w[i];                                                                   \
            if (b) { b[i] = mu * b[i] + gi; gi = b[i]; }                                                                   \
            w[i] -= rate * gi;                                                                                             \
        }                                                                                                                  \
    }
DEFINE_OPTIMIZERS(float, f32, rz_sqrtf)
DEFINE_OPTIMIZERS(double, f64, rz_sqrt)

void rz_adamw(int dtype, int64_t n, void *w, const void *g, void *m, void *v, double rate, double beta1, double beta2,
              double epsilon, double decay, double correction1, double correction2, double gradient_scale) {
    // 1 - beta is rounded after the subtraction: in float32, 1 - 0.999 would be off by 1e-5, and with it every second moment.
    double rest1 = 1 - beta1, rest2 = 1 - beta2;
    if (dtype == RZ_F64)
        adamw_f64(n, w, g, m, v, rate, beta1, rest1, beta2, rest2, epsilon, decay, correction1, correction2, gradient_scale);
    else
        adamw_f32(n, w, g, m, v, (float)rate, (float)beta1, (float)rest1, (float)beta2, (float)rest2, (float)epsilon,
                  (float)decay, (float)correction1, (float)correction2, (float)gradient_scale);
}
void rz_sgd(int dtype, int64_t n, void *w, const void *g, void *momentum, double rate, double mu, double decay,
            double gradient_scale) {
    if (dtype == RZ_F64) sgd_f64(n, w, g, momentum, rate, mu, decay, gradient_scale);
    else sgd_f32(n, w, g, momentum, (float)rate, (float)mu, (float)decay, (float)gradient_scale);
}
