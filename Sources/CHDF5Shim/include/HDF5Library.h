// The whole of libhdf5 that RingZoo uses, without its handles, macros and versions.
//
// libhdf5 never touches a file here. It builds a skeleton (everything but the data) in memory, and it parses bytes that
// somebody else has mapped. Both go through one small file driver (file_driver.c). No function is thread-safe: the
// caller holds one lock. Functions that return int give 0 for success and -1 for failure; the reason is then in
// ringzoo_h5_reason().
#ifndef RINGZOO_HDF5LIBRARY_H
#define RINGZOO_HDF5LIBRARY_H

#include <stddef.h>
#include <stdint.h>

#define RINGZOO_H5_MAXIMUM_RANK 32

/// Address of a data set that has no bytes in the file.
#define RINGZOO_H5_NO_ADDRESS UINT64_MAX

/// Element types in a file. Little-endian only; BOOL is the one-byte enumeration FALSE, TRUE that h5py writes.
enum {
    RINGZOO_H5_OTHER = 0,
    RINGZOO_H5_FLOAT32,
    RINGZOO_H5_FLOAT64,
    RINGZOO_H5_BFLOAT16,
    RINGZOO_H5_FLOAT16,
    RINGZOO_H5_INT32,
    RINGZOO_H5_INT64,
    RINGZOO_H5_BOOL,
    RINGZOO_H5_UINT8,
    RINGZOO_H5_STRING,  // fixed length, null-padded
    RINGZOO_H5_OPAQUE2, // two opaque bytes: how h5py stores the bfloat16 of ml_dtypes
};

enum { RINGZOO_H5_GROUP, RINGZOO_H5_DATASET, RINGZOO_H5_REFUSED };
enum { RINGZOO_H5_CONTIGUOUS, RINGZOO_H5_CHUNKED, RINGZOO_H5_UNUSUAL_LAYOUT };

/// Why the last call failed: our own words or the innermost and outermost message of libhdf5. Valid until the next
/// call.
const char *ringzoo_h5_reason(void);

/// The version of the linked library.
void ringzoo_h5_version(unsigned version[3]);

// Writing: a skeleton.

typedef struct ringzoo_h5_skeleton ringzoo_h5_skeleton;

/// A new file in memory whose first `user_block` bytes (0, or a power of two from 512) are not HDF5's. NULL on failure.
ringzoo_h5_skeleton *ringzoo_h5_skeleton_new(uint64_t user_block);

/// Adds a contiguous data set and the groups above it; `path` begins with a slash. `string_length` counts for STRING
/// only. `offset` becomes its first byte's place in the file (a multiple of 4096), or NO_ADDRESS for a data set without
/// elements.
int ringzoo_h5_skeleton_add(ringzoo_h5_skeleton *skeleton, const char *path, int type, size_t string_length, int rank,
                            const uint64_t *extents, uint64_t *offset);

/// Closes the HDF5 file; the parts below are then complete.
int ringzoo_h5_skeleton_close(ringzoo_h5_skeleton *skeleton);

/// Bytes of the whole file, data included.
uint64_t ringzoo_h5_skeleton_size(const ringzoo_h5_skeleton *skeleton);

/// Part `index` of the skeleton's own bytes, ascending and apart from each other; NULL past the last. What lies between
/// the parts is data or zero.
const void *ringzoo_h5_skeleton_part(const ringzoo_h5_skeleton *skeleton, size_t index, uint64_t *offset,
                                     size_t *count);

void ringzoo_h5_skeleton_free(ringzoo_h5_skeleton *skeleton);

// Reading: facts about a file's bytes.

/// One object as libhdf5 describes it. Nothing was followed or read to learn this.
typedef struct {
    const char *path;
    int kind;
    /// For REFUSED: why the walk did not look further (a soft link, an external link, ...).
    const char *refusal;
    int type;
    size_t element_size;
    /// A few words about the type for messages.
    const char *type_words;
    int rank;
    uint64_t extents[RINGZOO_H5_MAXIMUM_RANK];
    int layout;
    uint64_t offset;
    uint64_t storage_size;
    int external_files;
    /// Bytes of one chunk once unpacked; UINT64_MAX when that is absurd.
    uint64_t chunk_size;
    int filters;
    /// 1 when every filter is shuffle, deflate or fletcher32.
    int plain_filters;
} ringzoo_h5_fact;

/// Return non-zero to stop the walk.
typedef int (*ringzoo_h5_visit)(const ringzoo_h5_fact *fact, void *context);

/// Visits every object of the file image. Links that are not hard, and groups with more than one name, are reported as
/// refused and not entered. Stops with an error beyond `maximum_objects` or 64 levels.
int ringzoo_h5_walk(const void *bytes, size_t count, size_t maximum_objects, ringzoo_h5_visit visit, void *context);

/// Reads all elements of a data set, in the type of the file, into `out`, which must be exactly their size.
int ringzoo_h5_read(const void *bytes, size_t count, const char *path, void *out, size_t out_size);

#endif
