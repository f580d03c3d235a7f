// A file driver for libhdf5 that knows no files: see file_driver.c.
#ifndef RINGZOO_FILE_DRIVER_H
#define RINGZOO_FILE_DRIVER_H

#define H5_USE_110_API 1
#include <hdf5.h>
#include <stddef.h>
#include <stdint.h>

// Metadata is packed into arenas of this size; data sets get whole pages of their own.
#define RINGZOO_PAGE 4096u

// An arena of metadata at a place in the file to be.
typedef struct {
    uint64_t offset;
    uint8_t bytes[RINGZOO_PAGE];
} ringzoo_page;

// A file being laid out: sparse, ascending pages of metadata, and an end.
typedef struct {
    ringzoo_page **pages;
    size_t page_count;
    size_t page_capacity;
    uint64_t end;   // end of allocation
    uint64_t arena; // next free byte of metadata
    uint64_t arena_end;
} ringzoo_sparse;

// What the driver opens: either bytes to read, or a sparse file to lay out.
typedef struct {
    const uint8_t *bytes;
    size_t count;
    ringzoo_sparse *sparse;
} ringzoo_source;

// The access properties for a source; negative on failure.
hid_t ringzoo_driver_access(const ringzoo_source *source);

void ringzoo_sparse_free(ringzoo_sparse *sparse);

#endif
