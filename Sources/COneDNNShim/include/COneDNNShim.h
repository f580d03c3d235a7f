// oneDNN's matrix product, from whichever of its libraries (version 2 or 3) the system has. Opened at run time: a machine without
// it runs everything else.
#ifndef RINGZOO_CONEDNNSHIM_H
#define RINGZOO_CONEDNNSHIM_H
#include <stdint.h>

enum { RZ_ONEDNN_BF16 = 2, RZ_ONEDNN_F32 = 3 };

/// Opens the library of this file name. Returns NULL, or why it cannot be used. Only the first that can is kept; not to be called by
/// two threads at once.
const char *rz_onednn_open(const char *name);
/// Its version, "2.6.3"; NULL where none is open.
const char *rz_onednn_version(void);
/// 1 where it has products of these types on this processor, and a small one came out right.
int rz_onednn_has(int factor_type, int result_type);

/// The distance, in elements, from one row and from one column to the next.
typedef struct {
    const void *address;
    int64_t row, column;
} rz_onednn_matrix;
/// c [m, n] = a [m, k] b [k, n], or added to what is there, on the calling thread alone. Sums are float32, rounded once. Returns
/// oneDNN's status: 0 when done, 1 when it had no memory, 3 where `rz_onednn_has` gives 0.
int rz_onednn_product(int64_t m, int64_t n, int64_t k, int factor_type, rz_onednn_matrix a, rz_onednn_matrix b, int result_type,
                      void *c, int64_t c_row, int accumulate);
#endif
