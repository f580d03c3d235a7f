#include "HDF5Library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file_driver.h"

#define MAXIMUM_DEPTH 64

static char reason[768];

const char *ringzoo_h5_reason(void) { return reason; }

void ringzoo_h5_version(unsigned version[3]) { H5get_libversion(&version[0], &version[1], &version[2]); }

// The error stack and its printer belong to the thread in a thread-safe libhdf5, so every entry silences the printer
// again.
static void enter(void) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5Eclear2(H5E_DEFAULT);
    reason[0] = 0;
}

static herr_t collect(unsigned n, const H5E_error2_t *error, void *context) {
    (void)context;
    size_t used = strlen(reason);
    snprintf(reason + used, sizeof reason - used, "%s%s: %s", n == 0 ? "" : "; ",
             error->func_name ? error->func_name : "?", error->desc ? error->desc : "?");
    return 0;
}

static int failed(const char *what) {
    snprintf(reason, sizeof reason, "%s: ", what);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, NULL);
    H5Eclear2(H5E_DEFAULT);
    return -1;
}

static int refused(const char *why) {
    snprintf(reason, sizeof reason, "%s", why);
    return -1;
}

// A little-endian 16-bit float with the given number of exponent bits; libhdf5 1.10 has no such type ready-made.
static hid_t small_float(size_t exponent, size_t bias) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    size_t mantissa = 15 - exponent;
    if (type < 0 || H5Tset_fields(type, 15, mantissa, exponent, 0, mantissa) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, bias) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

static hid_t make_type(int type, size_t string_length) {
    switch (type) {
    case RINGZOO_H5_FLOAT32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case RINGZOO_H5_FLOAT64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case RINGZOO_H5_BFLOAT16:
        return small_float(8, 127);
    case RINGZOO_H5_FLOAT16:
        return small_float(5, 15);
    case RINGZOO_H5_INT32:
        return H5Tcopy(H5T_STD_I32LE);
    case RINGZOO_H5_INT64:
        return H5Tcopy(H5T_STD_I64LE);
    case RINGZOO_H5_UINT8:
        return H5Tcopy(H5T_STD_U8LE);
    case RINGZOO_H5_BOOL: {
        hid_t made = H5Tenum_create(H5T_STD_I8LE);
        signed char no = 0, yes = 1;
        if (made >= 0 && (H5Tenum_insert(made, "FALSE", &no) < 0 || H5Tenum_insert(made, "TRUE", &yes) < 0)) {
            H5Tclose(made);
            return -1;
        }
        return made;
    }
    case RINGZOO_H5_STRING: {
        hid_t made = H5Tcopy(H5T_C_S1);
        if (made >= 0 && (H5Tset_size(made, string_length) < 0 || H5Tset_cset(made, H5T_CSET_UTF8) < 0 ||
                          H5Tset_strpad(made, H5T_STR_NULLPAD) < 0)) {
            H5Tclose(made);
            return -1;
        }
        return made;
    }
    default:
        return -1;
    }
}

// Skeleton

struct ringzoo_h5_skeleton {
    ringzoo_sparse sparse;
    hid_t file;
};

ringzoo_h5_skeleton *ringzoo_h5_skeleton_new(uint64_t user_block) {
    enter();
    ringzoo_h5_skeleton *skeleton = calloc(1, sizeof *skeleton);
    if (!skeleton) {
        refused("out of memory");
        return NULL;
    }
    ringzoo_source source = {NULL, 0, &skeleton->sparse};
    hid_t access = ringzoo_driver_access(&source);
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    skeleton->file = -1;
    if (access >= 0 && creation >= 0 && H5Pset_userblock(creation, user_block) >= 0 &&
        H5Pset_obj_track_times(creation, 0) >= 0) {
        skeleton->file = H5Fcreate("skeleton", H5F_ACC_TRUNC, creation, access);
    }
    int ok = skeleton->file >= 0;
    if (!ok) {
        failed("cannot lay out an HDF5 file");
    }
    H5Pclose(creation);
    H5Pclose(access);
    if (!ok) {
        ringzoo_h5_skeleton_free(skeleton);
        return NULL;
    }
    return skeleton;
}

// Makes the groups above a path, without times: libhdf5's own way to make them would note the second of the save.
static int make_groups(hid_t file, const char *path) {
    int result = -1;
    char *prefix = strdup(path);
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    if (!prefix || creation < 0 || H5Pset_obj_track_times(creation, 0) < 0) {
        goto done;
    }
    for (char *slash = strchr(prefix + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        htri_t exists = H5Lexists(file, prefix, H5P_DEFAULT);
        if (exists < 0) {
            goto done;
        }
        if (exists == 0) {
            hid_t group = H5Gcreate2(file, prefix, H5P_DEFAULT, creation, H5P_DEFAULT);
            if (group < 0) {
                goto done;
            }
            H5Gclose(group);
        }
        *slash = '/';
    }
    result = 0;
done:
    if (result < 0) {
        failed("cannot add a group");
    }
    H5Pclose(creation);
    free(prefix);
    return result;
}

int ringzoo_h5_skeleton_add(ringzoo_h5_skeleton *skeleton, const char *path, int type, size_t string_length, int rank,
                            const uint64_t *extents, uint64_t *offset) {
    enter();
    int result = -1;
    hsize_t dimensions[H5S_MAX_RANK] = {0};
    int empty = 0;
    if (rank < 0 || rank > H5S_MAX_RANK) {
        return refused("rank out of range");
    }
    if (make_groups(skeleton->file, path) < 0) {
        return -1;
    }
    for (int i = 0; i < rank; i++) {
        dimensions[i] = extents[i];
        empty |= extents[i] == 0;
    }
    hid_t element = make_type(type, string_length);
    hid_t space = rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, dimensions, NULL);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    hid_t set = -1;
    // Early allocation fixes the offset now; never filling keeps libhdf5 away from the data; no times, so that equal
    // input gives equal bytes.
    if (element >= 0 && space >= 0 && creation >= 0 && H5Pset_layout(creation, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0 && H5Pset_obj_track_times(creation, 0) >= 0) {
        set = H5Dcreate2(skeleton->file, path, element, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    }
    if (set < 0) {
        failed("cannot add a data set");
    } else {
        haddr_t place = empty ? HADDR_UNDEF : H5Dget_offset(set);
        if (!empty && (place == HADDR_UNDEF || place % RINGZOO_PAGE != 0)) {
            refused("a data set did not get pages of its own");
        } else {
            *offset = empty ? RINGZOO_H5_NO_ADDRESS : place;
            result = 0;
        }
    }
    H5Dclose(set);
    H5Pclose(creation);
    H5Sclose(space);
    H5Tclose(element);
    return result;
}

int ringzoo_h5_skeleton_close(ringzoo_h5_skeleton *skeleton) {
    enter();
    hid_t file = skeleton->file;
    skeleton->file = -1;
    return H5Fclose(file) < 0 ? failed("cannot finish the layout of an HDF5 file") : 0;
}

uint64_t ringzoo_h5_skeleton_size(const ringzoo_h5_skeleton *skeleton) { return skeleton->sparse.end; }

const void *ringzoo_h5_skeleton_part(const ringzoo_h5_skeleton *skeleton, size_t index, uint64_t *offset,
                                     size_t *count) {
    if (index >= skeleton->sparse.page_count) {
        return NULL;
    }
    const ringzoo_page *page = skeleton->sparse.pages[index];
    uint64_t left = skeleton->sparse.end - page->offset;
    *offset = page->offset;
    *count = left < RINGZOO_PAGE ? (size_t)left : RINGZOO_PAGE;
    return page->bytes;
}

void ringzoo_h5_skeleton_free(ringzoo_h5_skeleton *skeleton) {
    if (skeleton->file >= 0) {
        enter();
        H5Fclose(skeleton->file);
    }
    ringzoo_sparse_free(&skeleton->sparse);
    free(skeleton);
}

// Walk

typedef struct {
    ringzoo_h5_visit visit;
    void *context;
    size_t objects_left;
    int depth;
    char *path; // grows; the walk appends to it and cuts it back
    size_t path_capacity;
    int stopped;
} walk_state;

static const char *class_words(hid_t type) {
    switch (H5Tget_class(type)) {
    case H5T_INTEGER:
        return "another integer type";
    case H5T_FLOAT:
        return "another float type";
    case H5T_STRING:
        return H5Tis_variable_str(type) > 0 ? "variable-length string" : "another string type";
    case H5T_BITFIELD:
        return "bit field";
    case H5T_OPAQUE:
        return "opaque";
    case H5T_COMPOUND:
        return "compound";
    case H5T_REFERENCE:
        return "reference";
    case H5T_ENUM:
        return "another enumeration";
    case H5T_VLEN:
        return "variable-length";
    case H5T_ARRAY:
        return "array";
    default:
        return "unknown type";
    }
}

// Float types of two bytes compare by their bit fields: other writers set other padding and normalisation marks.
static int is_small_float(hid_t type, size_t exponent, size_t bias) {
    size_t sign, exponent_place, exponent_size, mantissa_place, mantissa_size;
    return H5Tget_class(type) == H5T_FLOAT && H5Tget_size(type) == 2 && H5Tget_order(type) == H5T_ORDER_LE &&
           H5Tget_precision(type) == 16 && H5Tget_offset(type) == 0 &&
           H5Tget_fields(type, &sign, &exponent_place, &exponent_size, &mantissa_place, &mantissa_size) >= 0 &&
           sign == 15 && exponent_place == 15 - exponent && exponent_size == exponent && mantissa_place == 0 &&
           mantissa_size == 15 - exponent && H5Tget_ebias(type) == bias && H5Tget_norm(type) == H5T_NORM_IMPLIED;
}

static int is_bool(hid_t type) {
    if (H5Tget_class(type) != H5T_ENUM || H5Tget_size(type) != 1 || H5Tget_nmembers(type) != 2) {
        return 0;
    }
    hid_t base = H5Tget_super(type);
    int integer = base >= 0 && H5Tget_class(base) == H5T_INTEGER;
    H5Tclose(base);
    signed char no = -1, yes = -1;
    return integer && H5Tenum_valueof(type, "FALSE", &no) >= 0 && H5Tenum_valueof(type, "TRUE", &yes) >= 0 && no == 0 &&
           yes == 1;
}

static int type_of(hid_t type) {
    static const int exact[] = {RINGZOO_H5_FLOAT32, RINGZOO_H5_FLOAT64, RINGZOO_H5_INT32, RINGZOO_H5_INT64,
                                RINGZOO_H5_UINT8};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        hid_t known = make_type(exact[i], 0);
        int same = known >= 0 && H5Tequal(type, known) > 0;
        H5Tclose(known);
        if (same) {
            return exact[i];
        }
    }
    if (is_small_float(type, 8, 127)) {
        return RINGZOO_H5_BFLOAT16;
    }
    if (is_small_float(type, 5, 15)) {
        return RINGZOO_H5_FLOAT16;
    }
    if (is_bool(type)) {
        return RINGZOO_H5_BOOL;
    }
    if (H5Tget_class(type) == H5T_OPAQUE && H5Tget_size(type) == 2) {
        return RINGZOO_H5_OPAQUE2;
    }
    if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && H5Tget_strpad(type) == H5T_STR_NULLPAD) {
        return RINGZOO_H5_STRING;
    }
    return RINGZOO_H5_OTHER;
}

// Fills the facts of an open data set. The layout comes first: a virtual data set is not even asked for its extents,
// because that would open its sources.
static int describe(hid_t set, ringzoo_h5_fact *fact) {
    int result = -1;
    hid_t creation = H5Dget_create_plist(set), type = -1, space = -1;
    fact->type_words = "unread type";
    if (creation < 0) {
        goto done;
    }
    H5D_layout_t layout = H5Pget_layout(creation);
    fact->layout = layout == H5D_CONTIGUOUS ? RINGZOO_H5_CONTIGUOUS
                   : layout == H5D_CHUNKED  ? RINGZOO_H5_CHUNKED
                                            : RINGZOO_H5_UNUSUAL_LAYOUT;
    fact->external_files = H5Pget_external_count(creation);
    if (fact->external_files != 0) {
        fact->kind = RINGZOO_H5_REFUSED;
        fact->refusal = "its bytes lie in another file (external storage)";
        result = 0;
        goto done;
    }
    if (fact->layout == RINGZOO_H5_UNUSUAL_LAYOUT) {
        fact->kind = RINGZOO_H5_REFUSED;
        fact->refusal =
            layout == H5D_COMPACT ? "its layout is compact" : "its layout is virtual (it points into other files)";
        result = 0;
        goto done;
    }
    fact->plain_filters = 1;
    int filters = H5Pget_nfilters(creation);
    hsize_t chunk[RINGZOO_H5_MAXIMUM_RANK] = {0};
    int chunk_rank = layout == H5D_CHUNKED ? H5Pget_chunk(creation, RINGZOO_H5_MAXIMUM_RANK, chunk) : 0;
    for (int i = 0; i < filters; i++) {
        unsigned flags;
        size_t values = 0;
        H5Z_filter_t filter = H5Pget_filter2(creation, (unsigned)i, &flags, &values, NULL, 0, NULL, NULL);
        fact->plain_filters &=
            filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE || filter == H5Z_FILTER_FLETCHER32;
    }
    type = H5Dget_type(set);
    space = H5Dget_space(set);
    if (filters < 0 || chunk_rank < 0 || type < 0 || space < 0) {
        goto done;
    }
    fact->type = type_of(type);
    fact->element_size = H5Tget_size(type);
    fact->type_words = class_words(type);
    fact->rank = H5Sget_simple_extent_ndims(space);
    H5S_class_t class = H5Sget_simple_extent_type(space);
    if (fact->rank < 0 || fact->rank > RINGZOO_H5_MAXIMUM_RANK || (class != H5S_SIMPLE && class != H5S_SCALAR)) {
        fact->kind = RINGZOO_H5_REFUSED;
        fact->refusal = "its data space is neither scalar nor simple";
        result = 0;
        goto done;
    }
    hsize_t dimensions[RINGZOO_H5_MAXIMUM_RANK] = {0};
    if (fact->rank > 0 && H5Sget_simple_extent_dims(space, dimensions, NULL) < 0) {
        goto done;
    }
    for (int i = 0; i < fact->rank; i++) {
        fact->extents[i] = dimensions[i];
    }
    fact->storage_size = H5Dget_storage_size(set);
    fact->filters = filters;
    fact->chunk_size = fact->element_size;
    for (int i = 0; i < chunk_rank; i++) {
        fact->chunk_size =
            chunk[i] > UINT32_MAX || fact->chunk_size > UINT32_MAX ? UINT64_MAX : fact->chunk_size * chunk[i];
    }
    haddr_t place = fact->layout == RINGZOO_H5_CONTIGUOUS ? H5Dget_offset(set) : HADDR_UNDEF;
    fact->offset = place == HADDR_UNDEF ? RINGZOO_H5_NO_ADDRESS : place;
    result = 0;
done:
    if (result < 0) {
        failed("libhdf5 cannot describe it"); // before the closes below clear the messages
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Pclose(creation);
    return result;
}

static int report(walk_state *state, ringzoo_h5_fact *fact) {
    fact->path = state->path;
    state->stopped = state->visit(fact, state->context) != 0;
    reason[0] = 0; // a refused object's reason must not pass for that of a later failure
    return state->stopped ? 1 : 0;
}

static int report_refusal(walk_state *state, const char *why) {
    ringzoo_h5_fact fact = {.kind = RINGZOO_H5_REFUSED, .refusal = why};
    return report(state, &fact);
}

// An object that libhdf5 cannot make sense of is refused; the others may be sound.
static int report_failure(walk_state *state) {
    failed("libhdf5 cannot describe it");
    return report_refusal(state, reason);
}

static herr_t walk_link(hid_t group, const char *name, const H5L_info_t *link, void *context);

static int walk_group(hid_t group, walk_state *state) {
    if (state->depth == MAXIMUM_DEPTH) {
        return refused("groups are nested more than 64 deep");
    }
    state->depth++;
    hsize_t index = 0;
    herr_t result = H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, &index, walk_link, state);
    state->depth--;
    if (result < 0 && reason[0] == 0) {
        failed("cannot list a group");
    }
    return result;
}

static int walk_object(hid_t group, const char *name, const H5L_info_t *link, walk_state *state) {
    if (link->type != H5L_TYPE_HARD) {
        return report_refusal(state, link->type == H5L_TYPE_SOFT       ? "it is a soft link"
                                     : link->type == H5L_TYPE_EXTERNAL ? "it is a link into another file"
                                                                       : "it is a link of an unknown kind");
    }
    H5O_info_t object;
    if (H5Oget_info_by_name2(group, name, &object, H5O_INFO_BASIC, H5P_DEFAULT) < 0) {
        return report_failure(state);
    }
    if (object.type == H5O_TYPE_DATASET) {
        ringzoo_h5_fact fact = {.kind = RINGZOO_H5_DATASET};
        hid_t set = H5Dopen2(group, name, H5P_DEFAULT);
        if (set < 0) {
            return report_failure(state);
        }
        int described = describe(set, &fact);
        H5Dclose(set);
        return described < 0 ? report_refusal(state, reason) : report(state, &fact);
    }
    if (object.type != H5O_TYPE_GROUP) {
        return report_refusal(state, "it is neither a group nor a data set");
    }
    // One name for each group means the walk follows a tree: no cycle, no blow-up.
    if (object.rc > 1) {
        return report_refusal(state, "it is a group with more than one name");
    }
    ringzoo_h5_fact fact = {.kind = RINGZOO_H5_GROUP};
    int result = report(state, &fact);
    if (result != 0) {
        return result;
    }
    hid_t inner = H5Gopen2(group, name, H5P_DEFAULT);
    if (inner < 0) {
        return failed("cannot open a group");
    }
    result = walk_group(inner, state);
    H5Gclose(inner);
    return result;
}

static herr_t walk_link(hid_t group, const char *name, const H5L_info_t *link, void *context) {
    walk_state *state = context;
    if (state->objects_left-- == 0) {
        state->objects_left = 0;
        return refused("there are too many objects");
    }
    size_t before = strlen(state->path);
    size_t wanted = before + strlen(name) + 2;
    if (wanted > state->path_capacity) {
        char *path = realloc(state->path, 2 * wanted);
        if (!path) {
            return refused("out of memory");
        }
        state->path = path;
        state->path_capacity = 2 * wanted;
    }
    state->path[before] = '/';
    strcpy(state->path + before + 1, name);
    int result = walk_object(group, name, link, state);
    // On an error the path stays, for the message.
    if (result >= 0) {
        state->path[before] = 0;
    }
    return result;
}

static hid_t open_bytes(const void *bytes, size_t count) {
    ringzoo_source source = {bytes, count, NULL};
    hid_t access = ringzoo_driver_access(&source);
    hid_t file = access < 0 ? -1 : H5Fopen("bytes", H5F_ACC_RDONLY, access);
    if (file < 0) {
        failed("not a readable HDF5 file");
    }
    H5Pclose(access);
    return file;
}

int ringzoo_h5_walk(const void *bytes, size_t count, size_t maximum_objects, ringzoo_h5_visit visit, void *context) {
    enter();
    hid_t file = open_bytes(bytes, count);
    if (file < 0) {
        return -1;
    }
    walk_state state = {visit, context, maximum_objects, 0, calloc(1, 64), 64, 0};
    hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    int result = root < 0     ? failed("cannot open the root group")
                 : state.path ? walk_group(root, &state)
                              : refused("out of memory");
    if (result < 0 && state.path && state.path[0] != 0) {
        size_t used = strlen(reason);
        snprintf(reason + used, sizeof reason - used, " (at %.200s)", state.path);
    }
    H5Gclose(root);
    H5Fclose(file);
    free(state.path);
    return result < 0 ? -1 : 0;
}

int ringzoo_h5_read(const void *bytes, size_t count, const char *path, void *out, size_t out_size) {
    enter();
    hid_t file = open_bytes(bytes, count);
    if (file < 0) {
        return -1;
    }
    int result = -1;
    hid_t set = H5Dopen2(file, path, H5P_DEFAULT);
    hid_t type = set < 0 ? -1 : H5Dget_type(set);
    hid_t space = set < 0 ? -1 : H5Dget_space(set);
    hssize_t elements = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    size_t size = type < 0 ? 0 : H5Tget_size(type);
    if (elements < 0 || size == 0) {
        failed("cannot open a data set");
    } else if (out_size % size != 0 || (hssize_t)(out_size / size) != elements) {
        refused("a data set has changed its size");
    } else if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0) {
        failed("cannot read a data set");
    } else {
        result = 0;
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(set);
    H5Fclose(file);
    return result;
}
