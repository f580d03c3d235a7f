// MPI, opened at run time. The two families of libraries, Open MPI and MPICH, agree on the names of functions and on nothing about
// handles: pointers there, integers here. Both fit a register, and no handle leaves this target.
//
// Functions that return int give 0, or an error code that rz_mpi_error_text explains, unless they say otherwise.
#ifndef C_MPI_SHIM_H
#define C_MPI_SHIM_H
#include <stddef.h>
#include <stdint.h>

/// Opens a library by file name or path, once for the process. NULL, or why it cannot be used (valid until the next call).
const char *rz_mpi_open(const char *library);
/// "Open MPI" or "MPICH"; NULL while none is open.
const char *rz_mpi_family(void);
/// What the library says of itself. The library must be open; works before rz_mpi_init.
const char *rz_mpi_library_version(void);

/// Starts MPI, asking that all threads may call it; `is_granted` tells. Errors are returned from here on, and do not end the process.
int rz_mpi_init(int *is_granted);
int rz_mpi_rank(void);
int rz_mpi_size(void);
int rz_mpi_finalize(void);
/// Ends every process of the job; the launcher should give `code`.
void rz_mpi_abort(int code);

/// One run of bytes; several make one message.
typedef struct {
    void *address;
    size_t count;
} rz_mpi_piece;

/// A request of either family.
typedef struct {
    uint64_t request;
} rz_mpi_transfer;

/// Bytes of all pieces of a message at most.
enum { RZ_MPI_LARGEST_MESSAGE = 1 << 30 };
/// As `peer` of a receive: whoever sends first.
enum { RZ_MPI_ANY_PEER = -1 };

/// Start to send and to receive, and return at once. The bytes, not the pieces, must stay where they are until the transfer is done.
int rz_mpi_send(const rz_mpi_piece *pieces, int count, int peer, int tag, rz_mpi_transfer *transfer);
int rz_mpi_receive(const rz_mpi_piece *pieces, int count, int peer, int tag, rz_mpi_transfer *transfer);
/// Moves messages on. `is_done` tells whether this transfer is over, and `bytes` then what a receive got.
int rz_mpi_test(rz_mpi_transfer *transfer, int *is_done, size_t *bytes);
/// Gives up a receive; rz_mpi_test then says when it is over.
int rz_mpi_cancel(rz_mpi_transfer *transfer);

const char *rz_mpi_error_text(int code);

/// Lets short sleeps of the calling thread end on time (Linux rounds them up by 50 microseconds).
void rz_mpi_sleep_precisely(void);
#endif
