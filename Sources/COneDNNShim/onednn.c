// Prototypes of our own in place of dnnl.h. Handles are pointers in both versions. Descriptors are too in version 3; in version 2 they
// are structs of the caller's (696 and 2,800 bytes in 2.6), passed by address.
#include "COneDNNShim.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { CPU = 1, IN_ORDER = 1, UNDEFINED_TYPE = 0, ARGUMENT_SOURCE = 1, ARGUMENT_WEIGHTS = 33, ARGUMENT_DESTINATION = 17 };
// Status codes of our own use.
enum { SUCCESS = 0, UNIMPLEMENTED = 3 };

typedef void *handle;
typedef struct {
    int major, minor, patch;
} version;
typedef struct {
    int argument;
    handle memory;
} argument;
// Room for a descriptor of version 2, or a handle of version 3.
typedef union {
    handle handle;
    _Alignas(16) char words[2048];
} memory_descriptor;
typedef struct {
    _Alignas(16) char words[8192];
} product_descriptor;

static struct {
    void *library;
    int major;
    char version[32];
    handle engine;
    const version *(*get_version)(void);
    int (*engine_create)(handle *, int, size_t);
    int (*stream_create)(handle *, handle, unsigned);
    int (*stream_wait)(handle);
    int (*stream_destroy)(handle);
    int (*memory_create)(handle *, const void *, handle, void *);
    int (*memory_destroy)(handle);
    int (*attr_create)(handle *);
    int (*attr_set_post_ops)(handle, handle);
    int (*attr_destroy)(handle);
    int (*post_ops_create)(handle *);
    int (*post_ops_append_sum)(handle, float, int32_t, int);
    int (*post_ops_destroy)(handle);
    int (*primitive_create)(handle *, handle);
    int (*primitive_execute)(handle, handle, int, const argument *);
    int (*primitive_destroy)(handle);
    int (*primitive_desc_destroy)(handle);
    // Version 2.
    int (*memory_desc_init)(void *, int, const int64_t *, int, const int64_t *);
    int (*matmul_desc_init)(void *, const void *, const void *, const void *, const void *);
    int (*primitive_desc_create)(handle *, const void *, handle, handle, handle);
    // Version 3.
    int (*memory_desc_create)(handle *, int, const int64_t *, int, const int64_t *);
    int (*memory_desc_destroy)(handle);
    int (*matmul_create)(handle *, handle, handle, handle, handle, handle, handle);
    // Of the OpenMP library that it was built with; missing where it was built without.
    void (*set_threads)(int);
} dnnl;

static char reason[512];

// The function `dnnl_<name>`; the first one missing is noted in `reason`.
static void find(void *library, const char *name, void *function) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "dnnl_%s", name);
    void *found = dlsym(library, symbol);
    if (!found && !reason[0]) snprintf(reason, sizeof reason, "it has no %s", symbol);
    memcpy(function, &found, sizeof found);
}

const char *rz_onednn_open(const char *name) {
    if (dnnl.engine) return NULL;
    reason[0] = 0;
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(reason, sizeof reason, "%s", dlerror());
        return reason;
    }
    find(library, "version", &dnnl.get_version);
    dnnl.major = dnnl.get_version ? dnnl.get_version()->major : 0;
    if (!reason[0] && dnnl.major != 2 && dnnl.major != 3)
        snprintf(reason, sizeof reason, "it is of version %d; 2 and 3 are known", dnnl.major);
    find(library, "engine_create", &dnnl.engine_create);
    find(library, "stream_create", &dnnl.stream_create);
    find(library, "stream_wait", &dnnl.stream_wait);
    find(library, "stream_destroy", &dnnl.stream_destroy);
    find(library, "memory_create", &dnnl.memory_create);
    find(library, "memory_destroy", &dnnl.memory_destroy);
    find(library, "primitive_attr_create", &dnnl.attr_create);
    find(library, "primitive_attr_set_post_ops", &dnnl.attr_set_post_ops);
    find(library, "primitive_attr_destroy", &dnnl.attr_destroy);
    find(library, "post_ops_create", &dnnl.post_ops_create);
    find(library, "post_ops_destroy", &dnnl.post_ops_destroy);
    find(library, "primitive_create", &dnnl.primitive_create);
    find(library, "primitive_execute", &dnnl.primitive_execute);
    find(library, "primitive_destroy", &dnnl.primitive_destroy);
    find(library, "primitive_desc_destroy", &dnnl.primitive_desc_destroy);
    if (dnnl.major == 2) {
        find(library, "post_ops_append_sum_v3", &dnnl.post_ops_append_sum);
        find(library, "memory_desc_init_by_strides", &dnnl.memory_desc_init);
        find(library, "matmul_desc_init", &dnnl.matmul_desc_init);
        find(library, "primitive_desc_create", &dnnl.primitive_desc_create);
    } else {
        find(library, "post_ops_append_sum", &dnnl.post_ops_append_sum);
        find(library, "memory_desc_create_with_strides", &dnnl.memory_desc_create);
        find(library, "memory_desc_destroy", &dnnl.memory_desc_destroy);
        find(library, "matmul_primitive_desc_create", &dnnl.matmul_create);
    }
    if (!reason[0] && dnnl.engine_create(&dnnl.engine, CPU, 0) != SUCCESS)
        snprintf(reason, sizeof reason, "it has no engine for this processor");
    if (reason[0]) {
        dnnl.engine = NULL;
        dlclose(library);
        return reason;
    }
    void *set_threads = dlsym(library, "omp_set_num_threads");
    memcpy(&dnnl.set_threads, &set_threads, sizeof set_threads);
    const version *v = dnnl.get_version();
    snprintf(dnnl.version, sizeof dnnl.version, "%d.%d.%d", v->major, v->minor, v->patch);
    dnnl.library = library;
    return NULL;
}

const char *rz_onednn_version(void) { return dnnl.engine ? dnnl.version : NULL; }

static int describe(memory_descriptor *to, int64_t rows, int64_t columns, int type, int64_t row, int64_t column) {
    const int64_t extents[12] = {rows, columns}, strides[12] = {row, column};
    return dnnl.major == 2 ? dnnl.memory_desc_init(to, 2, extents, type, strides)
                           : dnnl.memory_desc_create(&to->handle, 2, extents, type, strides);
}

static const void *address(const memory_descriptor *x) { return dnnl.major == 2 ? (const void *)x : x->handle; }

// All that one product needs, in the order in which it is made.
typedef struct {
    memory_descriptor a, b, c;
    handle sum, attributes, form, primitive, stream, memory[3];
} product;

static int make_form(product *x, int accumulate) {
    int status = SUCCESS;
    if (accumulate) {
        status = dnnl.post_ops_create(&x->sum);
        if (!status) status = dnnl.post_ops_append_sum(x->sum, 1, 0, UNDEFINED_TYPE);
        if (!status) status = dnnl.attr_create(&x->attributes);
        if (!status) status = dnnl.attr_set_post_ops(x->attributes, x->sum);
    }
    if (status) return status;
    if (dnnl.major == 3)
        return dnnl.matmul_create(&x->form, dnnl.engine, x->a.handle, x->b.handle, NULL, x->c.handle, x->attributes);
    product_descriptor d;
    status = dnnl.matmul_desc_init(&d, &x->a, &x->b, NULL, &x->c);
    return status ? status : dnnl.primitive_desc_create(&x->form, &d, x->attributes, dnnl.engine, NULL);
}

static int execute(product *x, const void *a, const void *b, void *c) {
    int status = dnnl.primitive_create(&x->primitive, x->form);
    if (!status) status = dnnl.stream_create(&x->stream, dnnl.engine, IN_ORDER);
    if (!status) status = dnnl.memory_create(&x->memory[0], address(&x->a), dnnl.engine, (void *)a);
    if (!status) status = dnnl.memory_create(&x->memory[1], address(&x->b), dnnl.engine, (void *)b);
    if (!status) status = dnnl.memory_create(&x->memory[2], address(&x->c), dnnl.engine, c);
    if (status) return status;
    const argument arguments[3] = {
        {ARGUMENT_SOURCE, x->memory[0]}, {ARGUMENT_WEIGHTS, x->memory[1]}, {ARGUMENT_DESTINATION, x->memory[2]}};
    status = dnnl.primitive_execute(x->primitive, x->stream, 3, arguments);
    return status ? status : dnnl.stream_wait(x->stream);
}

static void release(product *x) {
    for (int i = 0; i < 3; i++)
        if (x->memory[i]) dnnl.memory_destroy(x->memory[i]);
    if (x->stream) dnnl.stream_destroy(x->stream);
    if (x->primitive) dnnl.primitive_destroy(x->primitive);
    if (x->form) dnnl.primitive_desc_destroy(x->form);
    if (x->attributes) dnnl.attr_destroy(x->attributes);
    if (x->sum) dnnl.post_ops_destroy(x->sum);
    if (dnnl.major == 2) return;
    memory_descriptor *descriptors[3] = {&x->a, &x->b, &x->c};
    for (int i = 0; i < 3; i++)
        if (descriptors[i]->handle) dnnl.memory_desc_destroy(descriptors[i]->handle);
}

static void clear(product *x) {
    x->a.handle = x->b.handle = x->c.handle = NULL;
    x->sum = x->attributes = x->form = x->primitive = x->stream = NULL;
    x->memory[0] = x->memory[1] = x->memory[2] = NULL;
}

// OpenMP keeps the number of threads for each thread that calls it: one here, since tiles are shared out over threads already.
static void use_one_thread(void) {
    static _Thread_local int done = 0;
    if (!done && dnnl.set_threads) dnnl.set_threads(1);
    done = 1;
}

int rz_onednn_product(int64_t m, int64_t n, int64_t k, int factor_type, rz_onednn_matrix a, rz_onednn_matrix b, int result_type,
                      void *c, int64_t c_row, int accumulate) {
    if (!dnnl.engine) return UNIMPLEMENTED;
    use_one_thread();
    // What was made for a form before is in oneDNN's own cache of primitives, so that each call makes it anew.
    product x;
    clear(&x);
    int status = describe(&x.a, m, k, factor_type, a.row, a.column);
    if (!status) status = describe(&x.b, k, n, factor_type, b.row, b.column);
    if (!status) status = describe(&x.c, m, n, result_type, c_row, 1);
    if (!status) status = make_form(&x, accumulate);
    if (!status) status = execute(&x, a.address, b.address, c);
    release(&x);
    return status;
}

int rz_onednn_has(int factor_type, int result_type) {
    // [1 1; 1 1] [1 1; 1 1] = [2 2; 2 2]: a library that takes the types for others shows here and not in a model.
    static const float ones[4] = {1, 1, 1, 1};
    static const uint16_t ones_bf16[4] = {0x3f80, 0x3f80, 0x3f80, 0x3f80};
    const void *factor = factor_type == RZ_ONEDNN_BF16 ? (const void *)ones_bf16 : ones;
    const rz_onednn_matrix x = {factor, 2, 1};
    float floats[4] = {0};
    uint16_t halves[4] = {0};
    const int is_half = result_type == RZ_ONEDNN_BF16;
    void *result = is_half ? (void *)halves : floats;
    if (rz_onednn_product(2, 2, 2, factor_type, x, x, result_type, result, 2, 0) != SUCCESS) return 0;
    for (int i = 0; i < 4; i++)
        if (is_half ? halves[i] != 0x4000 : floats[i] != 2) return 0;
    return 1;
}
