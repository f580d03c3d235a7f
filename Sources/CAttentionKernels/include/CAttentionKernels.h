/// Exact attention on CPUs, block by block: forward into a carried state, backward from the log-sum-exp.
///
/// Letters, as in Docs: S logits, P probabilities, m the reference exponent (of 2) of a row, l its sum of exponentials,
/// O (`acc`) its unnormalised output. Sizes: B batch, H query heads, Hkv key/value heads, Tq queries, Tk keys,
/// D head size. All strides count elements. All sizes may be zero except D and the head counts.
///
/// Preconditions are the caller's to check (a Swift wrapper reports them); nothing here allocates or fails.
#ifndef C_ATTENTION_KERNELS_H
#define C_ATTENTION_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// How the elements of a tensor are stored. Two-byte types are widened while a block is packed, except that kernel sets with bf16
/// products multiply tensors that are all bf16 as they are (not with external products, nor few queries against many keys,
/// where memory is the limit): P and dS are rounded to bf16 for their products, everything else is float32.
typedef enum {
    RZ_STORAGE_FLOAT32 = 0,
    RZ_STORAGE_FLOAT64 = 1,
    RZ_STORAGE_BFLOAT16 = 2,
    RZ_STORAGE_FLOAT16 = 3
} rz_storage;

/// A strided tensor [B, heads, tokens, D] whose last dimension is contiguous, so that [B, T, H, D] is read in place.
typedef struct {
    const void *data;
    rz_storage storage;
    int64_t batch_stride, head_stride, token_stride;
} rz_attention_tensor;

/// Whether a product reads an operand as it lies in memory or transposed.
typedef enum { RZ_PLAIN, RZ_TRANSPOSED } rz_operand;

/// Matrix products in place of our own tiles, row-major with leading dimensions: C = A B + beta C, where C is [m, n], k is summed
/// and beta is 0 or 1. Both are given, or none.
typedef struct {
    void (*float32)(rz_operand of_a, rz_operand of_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                    const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
    void (*float64)(rz_operand of_a, rz_operand of_b, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                    const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
} rz_attention_products;

/// Everything that decides which logits there are and what they weigh; the same struct serves both directions.
///
/// The logit of query i (global position qpos) and key j (kpos) in head h is
///     cap(scale * q.k) - alibi_slopes[h] * |qpos - kpos| + bias,   cap(x) = soft_cap * tanh(x / soft_cap)
/// and it counts only where every mask term that is set says so. In float32 a logit below -6e29 counts as masked.
typedef struct {
    int64_t batch, heads, kv_heads;      ///< heads % kv_heads == 0; head h reads kv head h / (heads / kv_heads)
    int64_t query_count, key_count;      ///< Tq, Tk
    int64_t head_size;                   ///< D >= 1
    double scale;                        ///< usually 1 / sqrt(D)

    const int64_t *query_positions;      ///< [Tq] global token positions, any order, 0 <= position < 2^62
    const int64_t *key_positions;        ///< [Tk]
    bool causal;                         ///< kpos <= qpos
    int64_t window_back, window_ahead;   ///< qpos - back <= kpos <= qpos + ahead; -1 is unlimited; below 2^62

    const int32_t *query_documents;      ///< [1|B, Tq] or NULL: only keys of the same document are visible
    const int32_t *key_documents;        ///< [1|B, Tk], NULL exactly when query_documents is
    int64_t query_document_batch_stride; ///< 0 when the batch shares the documents
    int64_t key_document_batch_stride;

    const double *alibi_slopes;          ///< [H] or NULL
    double soft_cap;                     ///< 0 is none

    const void *bias;                    ///< in the compute type, or NULL; -inf masks
    int64_t bias_strides[4];             ///< batch, head, LOCAL query row, GLOBAL key position; 0 broadcasts

    double dropout;                      ///< probability in [0, 1) with which a weight is dropped
    uint64_t dropout_seed;
    int64_t first_batch, first_head;     ///< added to the indices that key dropout, for a shard of a larger problem
    rz_attention_products products;      ///< all NULL: our own tiles
} rz_attention_problem;

/// Runs `body(arg, index, worker)` for every index in 0..<count and returns when all have ended.
///
/// `worker` is below the executor's `workers`, and two bodies with the same worker never overlap. Bodies must START in
/// increasing order of index: the backward waits for lower indices only, which is why it cannot deadlock.
typedef void (*rz_parallel_for)(void *pool, int64_t count, void (*body)(void *arg, int64_t index, int64_t worker),
                                void *arg);

/// Who runs the units of work. Results have the same bits for any number of workers.
typedef struct {
    rz_parallel_for run;                 ///< NULL runs everything on the calling thread
    void *pool;
    int64_t workers;                     ///< at least 1
} rz_attention_executor;

/// Bytes of workspace for one call. Per worker it depends on D, H / Hkv and whether there is a soft cap or a bias, never on a
/// length. Shared by all workers come 24 bytes a block of queries and of keys (times B where documents differ by batch element),
/// at most 16 partial states when Tq is small, and backward 8 bytes a block of queries and key/value head. Any alignment; the
/// contents need not be cleared. `element_bytes` is 4 for the _f32 entry points and 8 for the _f64 ones.
size_t rz_attention_forward_workspace(const rz_attention_problem *problem, size_t element_bytes, int64_t workers);
size_t rz_attention_backward_workspace(const rz_attention_problem *problem, size_t element_bytes, int64_t workers);

/// Folds these keys into the state of the queries.
///
/// m, l [B, H, Tq] and acc [B, H, Tq, D] are contiguous. `m` is a power of two near the largest term, and the others are in its
/// units: l = sum of exp(S) 2^-m, acc = sum of exp(S) 2^-m v; lse = m ln 2 + log(l), out = acc / l. An empty state is m = -inf,
/// l = 0, acc = 0, and a row that sees no key stays exactly so. Dropout thins acc, never l.
/// Returns the number of (batch, kv head, query block, key block) computed.
int64_t rz_attention_forward_f32(const rz_attention_problem *problem, const rz_attention_tensor *q,
                                 const rz_attention_tensor *k, const rz_attention_tensor *v, float *m, float *l,
                                 float *acc, const rz_attention_executor *executor, void *workspace);
int64_t rz_attention_forward_f64(const rz_attention_problem *problem, const rz_attention_tensor *q,
                                 const rz_attention_tensor *k, const rz_attention_tensor *v, double *m, double *l,
                                 double *acc, const rz_attention_executor *executor, void *workspace);

/// Adds these keys' share to the gradients.
///
/// lse (float64) and delta [B, H, Tq] (delta = row sums of dout * out) are over ALL keys, so any subset of keys is valid; a row
/// with lse = -inf contributes nothing. dq [B, H, Tq, D], dk and dv [B, Hkv, Tk, D] are contiguous and are added to.
/// `dbias` (or NULL; not touched where the problem has no bias) is added to at dbias_strides, axes as bias_strides, summing over
/// broadcast axes, in one order whatever the number of workers (by one worker where all queries share a row of it). Returns the
/// number of block pairs computed.
int64_t rz_attention_backward_f32(const rz_attention_problem *problem, const rz_attention_tensor *dout,
                                  const rz_attention_tensor *q, const rz_attention_tensor *k,
                                  const rz_attention_tensor *v, const double *lse, const float *delta, float *dq,
                                  float *dk, float *dv, float *dbias, const int64_t *dbias_strides,
                                  const rz_attention_executor *executor, void *workspace);
int64_t rz_attention_backward_f64(const rz_attention_problem *problem, const rz_attention_tensor *dout,
                                  const rz_attention_tensor *q, const rz_attention_tensor *k,
                                  const rz_attention_tensor *v, const double *lse, const double *delta, double *dq,
                                  double *dk, double *dv, double *dbias, const int64_t *dbias_strides,
                                  const rz_attention_executor *executor, void *workspace);

/// The kernel set in use: the best one of the machine unless another was chosen. In float32 and float64 there are "avx512", "avx2"
/// and "portable". "amx" and "avx512bf16" are "avx512" with bf16 products, by tiles of AMX or by VDPBF16PS; the latter is best on
/// AMD's processors, while Intel's multiply float32 faster (Emerald Rapids, a core: 172 GFLOP/s against 87). "bf16-emulated"
/// and "amx-emulated" are chosen by name only: the same engines in plain C, slow, for tests on any machine.
const char *rz_attention_kernels(void);
/// Chooses a kernel set by name for the whole process; NULL is the best one. False when this machine lacks it.
/// Not to be called while attention runs.
bool rz_attention_set_kernels(const char *name);

/// Runs chains of multiply-adds that do not wait for each other, without memory, on the calling thread, and returns the number of
/// floating-point operations (2 a multiply-add). Divided by the time it took: the ceiling of the kernel set in use.
/// `element_bytes` is 4 or 8; 2 is bf16 products, or float32 where the set has none.
int64_t rz_attention_multiply_adds(size_t element_bytes, int64_t rounds);

/// Keys of a block of the kernel set in use; `element_bytes` as above.
int64_t rz_attention_key_block(size_t element_bytes);

/// y = 2^x as the kernels compute it, for x below 127 (1023 in float64): wrong by at most 2 ulp where the result is normal (in
/// float32 measured: 1.39 with avx2, 0.85 with avx512, 1.14 without fused multiply-adds), exactly 0 for x <= -160 (-1080), NaN for NaN.
void rz_attention_exp2_f32(const float *x, float *y, int64_t count);
void rz_attention_exp2_f64(const double *x, double *y, int64_t count);
/// The same where weights will be rounded to bf16, 2^-9 of them: wrong by at most 3e-6 of the result. As float32's in a set without an
/// engine of its own for bf16.
void rz_attention_exp2_bf16(const float *x, float *y, int64_t count);

/// True where dropout keeps the weight of (batch, head, query position, key position); kept weights are scaled by
/// 1 / (1 - probability).
///
/// All arithmetic is modulo 2^32; `mix` is the finaliser "lowbias32" (C. Wellons, "Prospecting for Hash Functions",
/// 2018; public domain):
///     mix(x):  x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x *= 0x846ca68b;  x ^= x >> 16
/// A row has two keys. Key t (t = 0, 1) folds six words into r, starting from r = 0x9e3779b9 for t = 0 and
/// r = 0x85ebca6b for t = 1, by r = mix(r ^ word) in this order: low and high half of the seed, batch, head, low and
/// high half of the query position (batch and head are their low 32 bits, first_batch and first_head included).
/// The column is  c = low half of kpos ^ mix(high half of kpos),  the draw  h = mix(mix(c ^ key0) + key1),
/// and the weight is kept where h >= floor(probability * 2^32).
bool rz_attention_dropout_keeps(uint64_t seed, int64_t batch, int64_t head, int64_t query_position,
                                int64_t key_position, double probability);

#ifdef __cplusplus
}
#endif

#endif
