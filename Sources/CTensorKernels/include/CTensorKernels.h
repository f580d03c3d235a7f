// Kernels of the CPU device: one row of elements at a time; Swift walks the outer dimensions and the threads.
// Strides are in elements and may be 0 (broadcast) or negative. Results never depend on the number of threads.
#ifndef C_TENSOR_KERNELS_H
#define C_TENSOR_KERNELS_H
#include <stddef.h>
#include <stdint.h>

// Order of TensorCore.DType.
enum { RZ_F32, RZ_F64, RZ_BF16, RZ_F16, RZ_I32, RZ_I64, RZ_BOOL };

// MARK: elementwise (elementwise.c)

enum {
    RZ_NEG, RZ_ABS, RZ_SIGN, RZ_SQUARE, RZ_SQRT, RZ_RSQRT, RZ_RECIPROCAL, RZ_EXP, RZ_LOG, RZ_SIN, RZ_COS, RZ_TANH, RZ_ERF,
    RZ_SIGMOID, RZ_SILU, RZ_GELU, RZ_GELU_TANH, RZ_RELU
};
enum {
    RZ_ADD, RZ_SUB, RZ_MUL, RZ_DIV, RZ_POW, RZ_MAX, RZ_MIN,
    // Derivatives, g being the gradient that arrives: f'(x) * g.
    RZ_SILU_PULLBACK, RZ_GELU_PULLBACK, RZ_GELU_TANH_PULLBACK
};
enum { RZ_EQ, RZ_NE, RZ_LT, RZ_LE };

/// out[i] = op(x[i]); integer types support NEG, ABS, SIGN and SQUARE only (0 is returned when the pair does not exist).
int rz_unary(int op, int dtype, int64_t n, const void *x, int64_t sx, void *out, int64_t so);
/// out[i] = op(a[i], b[i]); integer types support ADD to DIV, MAX and MIN. Integer division by zero gives 0.
int rz_binary(int op, int dtype, int64_t n, const void *a, int64_t sa, const void *b, int64_t sb, void *out, int64_t so);
int rz_compare(int op, int dtype, int64_t n, const void *a, int64_t sa, const void *b, int64_t sb, uint8_t *out, int64_t so);
/// out[i] = silu(a[i]) b[i], contiguous, of a float type (as all three arrays).
void rz_swiglu(int dtype, int64_t n, const void *a, const void *b, void *out);
/// Its derivatives with respect to a and b, times g.
void rz_swiglu_pullback(int dtype, int64_t n, const void *a, const void *b, const void *g, void *da, void *db);
/// out[i] = condition[i] ? a[i] : b[i] for elements of `bytes` bytes.
void rz_select(int bytes, int64_t n, const uint8_t *condition, int64_t sc, const void *a, int64_t sa, const void *b,
               int64_t sb, void *out, int64_t so);
/// Conversion with round-to-nearest-even; float to integer truncates and saturates, anything to bool is != 0.
void rz_convert(int from, int64_t n, const void *x, int64_t sx, int to, void *out, int64_t so);
void rz_fill(int dtype, int64_t n, void *out, int64_t so, double value);

// MARK: reductions (reduce.c)

enum { RZ_SUM, RZ_REDUCE_MAX, RZ_REDUCE_MIN, RZ_SUM_OF_SQUARES };
/// One row to one element of the same type. Sums of float types are kept in double, in an order that depends on n alone.
int rz_reduce_row(int op, int dtype, int64_t n, const void *x, int64_t sx, void *out);
/// Columns: out[c] = reduction over r of x[r*row_stride + c], c < columns (unit stride).
int rz_reduce_columns(int op, int dtype, int64_t rows, int64_t columns, const void *x, int64_t row_stride, void *out);
/// Sum, or sum of squares, of a piece of a row of float32 or float64, not rounded yet.
double rz_partial_sum(int op, int dtype, int64_t n, const void *x);
int64_t rz_argmax_row(int dtype, int64_t n, const void *x, int64_t sx);

// MARK: rows (rows.c); float32 (dtype 0), float64 (1), bfloat16 (2) and float16 (3), statistics in float32 (double for float64)

void rz_softmax_row(int dtype, int64_t n, const void *x, void *out);
/// Ends an online softmax (float32 or float64): values /= sum + exp(sink) 2^-reference, zeros where the sum is 0. Returns
/// reference ln 2 + log of the divisor. A sink of -inf is none.
double rz_finish_softmax_row(int dtype, int64_t n, const void *reference, const void *sum, double sink, void *values);
/// Sum of x * y in float64; y is float32 (double for float64).
double rz_dot_row(int dtype, int64_t n, const void *x, const void *y);
/// dx = p * (g - sum(p*g))
void rz_softmax_pullback_row(int dtype, int64_t n, const void *p, const void *g, void *dx);
/// out = x * rsqrt(mean(x^2) + epsilon) * w
void rz_rms_norm_row(int dtype, int64_t n, const void *x, const void *w, double epsilon, void *out);
/// dx of one row, or added to what is there; dw (accumulator type: float, or double for float64) is added to.
void rz_rms_norm_pullback_row(int dtype, int64_t n, const void *x, const void *w, const void *g, double epsilon,
                              int accumulate, void *dx, void *dw);
void rz_layer_norm_row(int dtype, int64_t n, const void *x, const void *w, const void *b, double epsilon, void *out);
void rz_layer_norm_pullback_row(int dtype, int64_t n, const void *x, const void *w, const void *g, double epsilon, void *dx,
                                void *dw, void *db);
/// Half against half in each row: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin); sign -1 rotates back. Rows of x have 2*half
/// elements and begin `pitch` elements apart, those of out (which may be x itself, where the pitch is 2*half) lie side by side. The
/// angle's cosine and sine are float32 (double for float64).
void rz_rotary_rows(int dtype, int64_t rows, int64_t half, const void *x, int64_t pitch, const void *cosine,
                    const void *sine, double sign, void *out);
/// Softmax cross-entropy of one row. Returns -log softmax(x)[target]; when dx is given, (softmax(x) - onehot) * scale.
double rz_cross_entropy_row(int dtype, int64_t n, const void *x, int64_t target, double scale, void *dx);

// MARK: products (products.c, product_engine.h); float32, bfloat16 and float16 with float32 sums

/// Sets of kernels; all give the same bits.
typedef enum {
    RZ_PRODUCTS_AVX2,
    RZ_PRODUCTS_AVX512,
    RZ_PRODUCTS_AVX512_EMULATED,   ///< the tiles of AVX-512 in the instructions of AVX2: slow, for tests
} rz_product_set;

/// 1 where this processor can run a set (AVX2, FMA and F16C; AVX-512 F, BW, VL and DQ); where not, nothing of it may be called.
int rz_has_products(rz_product_set set);
/// 1 where the processor multiplies bf16 (AVX-512 BF16, AMX), which no set does.
int rz_has_bf16_arithmetic(void);
/// Rows and columns of C that a set computes at a time.
int64_t rz_product_tile_rows(rz_product_set set);
int64_t rz_product_tile_columns(rz_product_set set);
/// The rows of A or the columns of B, each as long as the sum: strides from one to the next and along one.
typedef struct {
    const void *address;
    int64_t lines, line_stride, depth_stride;
} rz_factor;
/// Bytes of scratch memory that a product [m, k] x [k, n] with a result of this type, or a smaller one, needs.
int64_t rz_product_scratch(rz_product_set set, int64_t m, int64_t n, int64_t k, int type);
/// c [m, n] = a b, or added to what is there; the columns of c lie side by side. The factors have one type, and c has it or float32.
void rz_product(rz_product_set set, int factor_type, rz_factor a, rz_factor b, int64_t k, int type, void *c, int64_t c_row,
                int accumulate, void *scratch);

// MARK: optimizers (optimizer.c)

/// AdamW, decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2): everything float32 or everything float64.
void rz_adamw(int dtype, int64_t n, void *w, const void *g, void *m, void *v, double rate, double beta1, double beta2,
              double epsilon, double decay, double correction1, double correction2, double gradient_scale);
void rz_sgd(int dtype, int64_t n, void *w, const void *g, void *momentum, double rate, double mu, double decay,
            double gradient_scale);

// MARK: random numbers (random.c)

/// Philox 4x32-10 (Salmon et al. 2011): element (row, column) of stream `key` is a pure function of the three.
void rz_random_uniform(uint64_t key, uint64_t row, int64_t column, int64_t n, float *out);
void rz_random_normal(uint64_t key, uint64_t row, int64_t column, int64_t n, float *out);
uint64_t rz_random_bits(uint64_t key, uint64_t row, uint64_t column);

// MARK: threads (pool.c)

typedef struct rz_pool rz_pool;
typedef void (*rz_pool_body)(void *argument, int64_t index, int64_t worker);
/// A pool of `workers` threads, the caller included: worker 0 is the calling thread. NULL when threads cannot be made.
rz_pool *rz_pool_create(int workers);
void rz_pool_destroy(rz_pool *pool);
int rz_pool_workers(const rz_pool *pool);
/// Runs body for every index in [0, count), started in increasing order; returns when all are done. One caller at a time;
/// a call from inside a body runs on the calling worker alone.
void rz_pool_run(rz_pool *pool, int64_t count, rz_pool_body body, void *argument);

// MARK: ceilings (ceilings.c)

/// The sum of n floats, n a multiple of 64, as fast as they come from memory.
float rz_read_sum(const float *x, int64_t n);

// MARK: waiting (monitor.c)

typedef struct rz_monitor rz_monitor;
rz_monitor *rz_monitor_create(void);
void rz_monitor_destroy(rz_monitor *monitor);
void rz_monitor_lock(rz_monitor *monitor);
void rz_monitor_unlock(rz_monitor *monitor);
void rz_monitor_broadcast(rz_monitor *monitor);
/// With the lock held: waits for a broadcast (or a spurious wake) until `deadline` on the monotonic clock; 0 when it passed.
int rz_monitor_wait(rz_monitor *monitor, double deadline);
/// Seconds of a clock that is never set.
double rz_monotonic_seconds(void);
#endif
