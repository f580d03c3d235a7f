#include "common.h"

// Eight interleaved double sums, joined in a fixed order: vectorises, and the order depends on n alone.
#define LANES 8
#define DEFINE_SUM(name, T, value)                                                                                         \
    RZ_CLONES static double name(int64_t n, const T *x, int64_t sx) {                                                      \
        double lane[LANES] = {0};                                                                                          \
        int64_t i = 0;                                                                                                     \
        if (sx == 1)                                                                                                       \
            for (; i + LANES <= n; i += LANES)                                                                             \
                for (int j = 0; j < LANES; j++) { double v = (double)x[i + j]; lane[j] += value; }                         \
        for (; i < n; i++) { double v = (double)x[i * sx]; lane[i % LANES] += value; }                                     \
        return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));                  \
    }
DEFINE_SUM(sum_f32, float, v)
DEFINE_SUM(sum_f64, double, v)
DEFINE_SUM(squares_f32, float, v * v)
DEFINE_SUM(squares_f64, double, v * v)

#define DEFINE_EXTREMES(T, S)                                                                                              \
    static T max_##S(int64_t n, const T *x, int64_t sx) {                                                                  \
        T best = x[0];                                                                                                     \
        for (int64_t i = 1; i < n; i++) best = x[i * sx] > best || x[i * sx] != x[i * sx] ? x[i * sx] : best;              \
        return best;                                                                                                       \
    }                                                                                                                      \
    static T min_##S(int64_t n, const T *x, int64_t sx) {                                                                  \
        T best = x[0];                                                                                                     \
        for (int64_t i = 1; i < n; i++) best = x[i * sx] < best || x[i * sx] != x[i * sx] ? x[i * sx] : best;              \
        return best;                                                                                                       \
    }
DEFINE_EXTREMES(float, f32)
DEFINE_EXTREMES(double, f64)
DEFINE_EXTREMES(int32_t, i32)
DEFINE_EXTREMES(int64_t, i64)

#define DEFINE_INTEGER_SUM(T, S)                                                                                           \
    static T sum_##S(int64_t n, const T *x, int64_t sx, int squared) {                                                     \
        uint64_t sum = 0;                                                                                                  \
        for (int64_t i = 0; i < n; i++) sum += squared ? (uint64_t)x[i * sx] * (uint64_t)x[i * sx] : (uint64_t)x[i * sx];  \
        return (T)sum;                                                                                                     \
    }
DEFINE_INTEGER_SUM(int32_t, i32)
DEFINE_INTEGER_SUM(int64_t, i64)

int rz_reduce_row(int op, int dtype, int64_t n, const void *x, int64_t sx, void *out) {
    switch (dtype) {
    case RZ_F32:
        switch (op) {
        case RZ_SUM: *(float *)out = (float)sum_f32(n, x, sx); return 1;
        case RZ_SUM_OF_SQUARES: *(float *)out = (float)squares_f32(n, x, sx); return 1;
        case RZ_REDUCE_MAX: *(float *)out = max_f32(n, x, sx); return 1;
        case RZ_REDUCE_MIN: *(float *)out = min_f32(n, x, sx); return 1;
        }
        return 0;
    case RZ_F64:
        switch (op) {
        case RZ_SUM: *(double *)out = sum_f64(n, x, sx); return 1;
        case RZ_SUM_OF_SQUARES: *(double *)out = squares_f64(n, x, sx); return 1;
        case RZ_REDUCE_MAX: *(double *)out = max_f64(n, x, sx); return 1;
        case RZ_REDUCE_MIN: *(double *)out = min_f64(n, x, sx); return 1;
        }
        return 0;
    case RZ_I32:
        switch (op) {
        case RZ_SUM: case RZ_SUM_OF_SQUARES: *(int32_t *)out = sum_i32(n, x, sx, op == RZ_SUM_OF_SQUARES); return 1;
        case RZ_REDUCE_MAX: *(int32_t *)out = max_i32(n, x, sx); return 1;
        case RZ_REDUCE_MIN: *(int32_t *)out = min_i32(n, x, sx); return 1;
        }
        return 0;
    case RZ_I64:
        switch (op) {
        case RZ_SUM: case RZ_SUM_OF_SQUARES: *(int64_t *)out = sum_i64(n, x, sx, op == RZ_SUM_OF_SQUARES); return 1;
        case RZ_REDUCE_MAX: *(int64_t *)out = max_i64(n, x, sx); return 1;
        case RZ_REDUCE_MIN: *(int64_t *)out = min_i64(n, x, sx); return 1;
        }
        return 0;
    }
    return 0;
}

double rz_partial_sum(int op, int dtype, int64_t n, const void *x) {
    if (dtype == RZ_F64) return op == RZ_SUM ? sum_f64(n, x, 1) : squares_f64(n, x, 1);
    return op == RZ_SUM ? sum_f32(n, x, 1) : squares_f32(n, x, 1);
}

#define COLUMNS 256
#define DEFINE_COLUMNS(T, S, A)                                                                                            \
    RZ_CLONES static void columns_##S(int op, int64_t rows, int64_t n, const T *x, int64_t stride, T *out) {               \
        A sum[COLUMNS];                                                                                                    \
        for (int64_t c0 = 0; c0 < n; c0 += COLUMNS) {                                                                      \
            int64_t m = n - c0 < COLUMNS ? n - c0 : COLUMNS;                                                               \
            const T *row = x + c0;                                                                                         \
            if (op == RZ_SUM || op == RZ_SUM_OF_SQUARES) {                                                                 \
                for (int64_t c = 0; c < m; c++) sum[c] = 0;                                                                \
                for (int64_t r = 0; r < rows; r++, row += stride)                                                          \
                    if (op == RZ_SUM) for (int64_t c = 0; c < m; c++) sum[c] += (A)row[c];                                 \
                    else for (int64_t c = 0; c < m; c++) sum[c] += (A)row[c] * (A)row[c];                                  \
            } else {                                                                                                       \
                for (int64_t c = 0; c < m; c++) sum[c] = (A)row[c];                                                        \
                row += stride;                                                                                             \
                for (int64_t r = 1; r < rows; r++, row += stride)                                                          \
                    for (int64_t c = 0; c < m; c++) {                                                                      \
                        A v = (A)row[c];                                                                                   \
                        sum[c] = v != v || (op == RZ_REDUCE_MAX ? v > sum[c] : v < sum[c]) ? v : sum[c];                   \
                    }                                                                                                      \
            }                                                                                                              \
            for (int64_t c = 0; c < m; c++) out[c0 + c] = (T)sum[c];                                                       \
        }                                                                                                                  \
    }
DEFINE_COLUMNS(float, f32, double)
DEFINE_COLUMNS(double, f64, double)
DEFINE_COLUMNS(int32_t, i32, int64_t)
DEFINE_COLUMNS(int64_t, i64, int64_t)

int rz_reduce_columns(int op, int dtype, int64_t rows, int64_t columns, const void *x, int64_t row_stride, void *out) {
    switch (dtype) {
    case RZ_F32: columns_f32(op, rows, columns, x, row_stride, out); return 1;
    case RZ_F64: columns_f64(op, rows, columns, x, row_stride, out); return 1;
    case RZ_I32: columns_i32(op, rows, columns, x, row_stride, out); return 1;
    case RZ_I64: columns_i64(op, rows, columns, x, row_stride, out); return 1;
    }
    return 0;
}

#define ARGMAX(T) {                                                                                                        \
        const T *v = x;                                                                                                    \
        int64_t best = 0;                                                                                                  \
        for (int64_t i = 1; i < n; i++) if (v[i * sx] > v[best * sx]) best = i;                                            \
        return best;                                                                                                       \
    }
int64_t rz_argmax_row(int dtype, int64_t n, const void *x, int64_t sx) {
    switch (dtype) {
    case RZ_F32: ARGMAX(float)
    case RZ_F64: ARGMAX(double)
    case RZ_I32: ARGMAX(int32_t)
    case RZ_I64: ARGMAX(int64_t)
    }
    return -1;
}
