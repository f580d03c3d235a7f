// libhdf5's own drivers either write the file themselves (and crash on a full disk) or keep all of it in memory. This
// one lays out a file of any size while holding only its metadata, and reads bytes that were mapped and verified
// before, with every access checked against their end. Metadata goes into pages of its own, so every data set starts on
// a page and a map can hand it out.
#include "file_driver.h"

#include <stdlib.h>
#include <string.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

typedef struct {
    H5FD_t base; // libhdf5 looks at this part
    ringzoo_source source;
    haddr_t end;
} driver_file;

static hid_t driver_id = -1;

static uint64_t round_up(uint64_t value) { return (value + RINGZOO_PAGE - 1) / RINGZOO_PAGE * RINGZOO_PAGE; }

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t maximum) {
    (void)name, (void)flags, (void)maximum;
    const ringzoo_source *source = H5Pget_driver_info(access);
    driver_file *file = source ? calloc(1, sizeof *file) : NULL;
    if (!file) {
        return NULL;
    }
    file->source = *source;
    return &file->base;
}

static herr_t driver_close(H5FD_t *base) {
    free(base);
    return 0;
}

static herr_t driver_query(const H5FD_t *base, unsigned long *flags) {
    (void)base;
    *flags = 0; // no aggregation: the arenas do that
    return 0;
}

static haddr_t driver_alloc(H5FD_t *base, H5FD_mem_t type, hid_t transfer, hsize_t size) {
    (void)transfer;
    driver_file *file = (driver_file *)base;
    ringzoo_sparse *sparse = file->source.sparse;
    if (!sparse || size > (UINT64_C(1) << 60) || file->end > (UINT64_C(1) << 61)) {
        return HADDR_UNDEF;
    }
    uint64_t place;
    if (type == H5FD_MEM_DRAW || size > RINGZOO_PAGE) {
        place = round_up(file->end);
        // The last page of a data set belongs to it alone: nothing else shares its map.
        file->end = round_up(place + size);
    } else {
        sparse->arena = (sparse->arena + 7) / 8 * 8;
        if (sparse->arena + size > sparse->arena_end) {
            sparse->arena = round_up(file->end);
            sparse->arena_end = sparse->arena + RINGZOO_PAGE;
            file->end = sparse->arena_end;
        }
        place = sparse->arena;
        sparse->arena += size;
    }
    return place;
}

static herr_t driver_free(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, hsize_t size) {
    (void)base, (void)type, (void)transfer, (void)address, (void)size;
    return 0; // a few bytes of metadata stay unused; the file is written once
}

static haddr_t driver_get_eoa(const H5FD_t *base, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)base)->end;
}

static herr_t driver_set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t end) {
    (void)type;
    ((driver_file *)base)->end = end;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *base, H5FD_mem_t type) {
    (void)type;
    const driver_file *file = (const driver_file *)base;
    return file->source.sparse ? file->end : file->source.count;
}

// The page that covers an offset, made where there is none and `make` is set.
static ringzoo_page *page_at(ringzoo_sparse *sparse, uint64_t offset, int make) {
    offset -= offset % RINGZOO_PAGE;
    size_t low = 0, high = sparse->page_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sparse->pages[middle]->offset < offset) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < sparse->page_count && sparse->pages[low]->offset == offset) {
        return sparse->pages[low];
    }
    if (!make) {
        return NULL;
    }
    if (sparse->page_count == sparse->page_capacity) {
        size_t capacity = sparse->page_capacity ? 2 * sparse->page_capacity : 16;
        ringzoo_page **pages = realloc(sparse->pages, capacity * sizeof *pages);
        if (!pages) {
            return NULL;
        }
        sparse->pages = pages;
        sparse->page_capacity = capacity;
    }
    ringzoo_page *page = calloc(1, sizeof *page);
    if (!page) {
        return NULL;
    }
    page->offset = offset;
    memmove(sparse->pages + low + 1, sparse->pages + low, (sparse->page_count - low) * sizeof *sparse->pages);
    sparse->pages[low] = page;
    sparse->page_count++;
    return page;
}

static herr_t driver_read(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size, void *buffer) {
    (void)type, (void)transfer;
    driver_file *file = (driver_file *)base;
    if (!file->source.sparse) {
        if (address > file->source.count || size > file->source.count - address) {
            return -1;
        }
        memcpy(buffer, file->source.bytes + address, size);
        return 0;
    }
    uint8_t *out = buffer;
    while (size > 0) {
        size_t inside = address % RINGZOO_PAGE;
        size_t part = size < RINGZOO_PAGE - inside ? size : RINGZOO_PAGE - inside;
        ringzoo_page *page = page_at(file->source.sparse, address, 0);
        if (page) {
            memcpy(out, page->bytes + inside, part);
        } else {
            memset(out, 0, part);
        }
        out += part, address += part, size -= part;
    }
    return 0;
}

static herr_t driver_write(H5FD_t *base, H5FD_mem_t type, hid_t transfer, haddr_t address, size_t size,
                           const void *buffer) {
    (void)type, (void)transfer;
    driver_file *file = (driver_file *)base;
    if (!file->source.sparse) {
        return -1;
    }
    const uint8_t *in = buffer;
    while (size > 0) {
        size_t inside = address % RINGZOO_PAGE;
        size_t part = size < RINGZOO_PAGE - inside ? size : RINGZOO_PAGE - inside;
        ringzoo_page *page = page_at(file->source.sparse, address, 1);
        if (!page) {
            return -1;
        }
        memcpy(page->bytes + inside, in, part);
        in += part, address += part, size -= part;
    }
    return 0;
}

// Called last, at close: the end that the superblock names is the end of the file.
static herr_t driver_truncate(H5FD_t *base, hid_t transfer, hbool_t closing) {
    (void)transfer, (void)closing;
    driver_file *file = (driver_file *)base;
    if (file->source.sparse) {
        file->source.sparse->end = file->end;
    }
    return 0;
}

static const H5FD_class_t driver_class = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)520,
#endif
    .name = "ringzoo_memory",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(ringzoo_source),
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .alloc = driver_alloc,
    .free = driver_free,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

hid_t ringzoo_driver_access(const ringzoo_source *source) {
    if (driver_id < 0 && (driver_id = H5FDregister(&driver_class)) < 0) {
        return -1;
    }
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0) {
        return -1;
    }
    // STRONG: closing the file closes whatever an error path left open in it.
    if (H5Pset_driver(access, driver_id, source) < 0 || H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 ||
        H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0) {
        H5Pclose(access);
        return -1;
    }
    return access;
}

void ringzoo_sparse_free(ringzoo_sparse *sparse) {
    for (size_t i = 0; i < sparse->page_count; i++) {
        free(sparse->pages[i]);
    }
    free(sparse->pages);
    *sparse = (ringzoo_sparse){0};
}
