// Prototypes of our own in place of mpi.h: MPI_Comm, MPI_Datatype and the like are `handle`, passed by value in a register;
// MPI_Request * and MPI_Datatype * are the address of 8 bytes, of which MPICH writes 4 (so they begin as zeros, and the machine is
// little-endian). The constants of MPICH are those of its ABI (the MPICH ABI Compatibility Initiative, 2013); Open MPI's are the
// addresses of exported objects.
#include "CMPIShim.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "handles of MPICH are read from the low half of 8 bytes"
#endif

typedef uintptr_t handle;

enum { THREAD_MULTIPLE = 3 };
// An MPI_Status is 20 or 24 bytes; nobody looks into it here.
typedef struct {
    uint64_t words[16];
} status;

static struct {
    void *library;
    const char *family;
    handle world, byte, errors_return;
    int any_source;
    int (*Init_thread)(int *, char ***, int, int *);
    int (*Finalize)(void);
    int (*Abort)(handle, int);
    int (*Comm_rank)(handle, int *);
    int (*Comm_size)(handle, int *);
    int (*Comm_set_errhandler)(handle, handle);
    int (*Isend)(const void *, int, handle, int, int, handle, void *);
    int (*Irecv)(void *, int, handle, int, int, handle, void *);
    int (*Test)(void *, int *, void *);
    int (*Cancel)(void *);
    int (*Get_count)(const void *, handle, int *);
    int (*Type_create_hindexed)(int, const int *, const intptr_t *, handle, void *);
    int (*Type_commit)(void *);
    int (*Type_free)(void *);
    int (*Error_string)(int, char *, int *);
    int (*Get_library_version)(char *, int *);
} mpi;

static char reason[512];

// The function `MPI_<name>`; the first one missing is noted in `reason`.
static void find(void *library, const char *name, void *function) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "MPI_%s", name);
    void *found = dlsym(library, symbol);
    if (!found && !reason[0]) snprintf(reason, sizeof reason, "it has no %s", symbol);
    memcpy(function, &found, sizeof found);
}

const char *rz_mpi_open(const char *name) {
    if (mpi.library) return NULL;
    reason[0] = 0;
    // Global, because Open MPI's plugins look their symbols up in the whole process.
    void *library = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (!library) {
        snprintf(reason, sizeof reason, "%s", dlerror());
        return reason;
    }
    find(library, "Init_thread", &mpi.Init_thread);
    find(library, "Finalize", &mpi.Finalize);
    find(library, "Abort", &mpi.Abort);
    find(library, "Comm_rank", &mpi.Comm_rank);
    find(library, "Comm_size", &mpi.Comm_size);
    find(library, "Comm_set_errhandler", &mpi.Comm_set_errhandler);
    find(library, "Isend", &mpi.Isend);
    find(library, "Irecv", &mpi.Irecv);
    find(library, "Test", &mpi.Test);
    find(library, "Cancel", &mpi.Cancel);
    find(library, "Get_count", &mpi.Get_count);
    find(library, "Type_create_hindexed", &mpi.Type_create_hindexed);
    find(library, "Type_commit", &mpi.Type_commit);
    find(library, "Type_free", &mpi.Type_free);
    find(library, "Error_string", &mpi.Error_string);
    find(library, "Get_library_version", &mpi.Get_library_version);
    if (reason[0]) {
        dlclose(library);
        return reason;
    }
    mpi.library = library;
    void *world = dlsym(library, "ompi_mpi_comm_world");
    if (world) {
        mpi.family = "Open MPI";
        mpi.world = (handle)world;
        mpi.byte = (handle)dlsym(library, "ompi_mpi_byte");
        mpi.errors_return = (handle)dlsym(library, "ompi_mpi_errors_return");
        mpi.any_source = -1;
        if (mpi.byte && mpi.errors_return) return NULL;
    } else if (strstr(rz_mpi_library_version(), "MPICH") || strstr(rz_mpi_library_version(), "MVAPICH") ||
               strstr(rz_mpi_library_version(), "Intel(R) MPI")) {
        mpi.family = "MPICH";
        mpi.world = 0x44000000u;
        mpi.byte = 0x4c00010du;
        mpi.errors_return = 0x54000001u;
        mpi.any_source = -2;
        return NULL;
    }
    snprintf(reason, sizeof reason, "it is neither Open MPI nor of MPICH's ABI: %.300s", rz_mpi_library_version());
    mpi.library = NULL;
    mpi.family = NULL;
    return reason;
}

const char *rz_mpi_family(void) { return mpi.family; }

const char *rz_mpi_library_version(void) {
    // MPICH asks for 8192 bytes.
    static char text[16384];
    int length = 0;
    if (!text[0] && mpi.Get_library_version) mpi.Get_library_version(text, &length);
    return text;
}

int rz_mpi_init(int *is_granted) {
    int provided = 0;
    int code = mpi.Init_thread(NULL, NULL, THREAD_MULTIPLE, &provided);
    *is_granted = provided >= THREAD_MULTIPLE;
    return code ? code : mpi.Comm_set_errhandler(mpi.world, mpi.errors_return);
}

int rz_mpi_rank(void) {
    int rank = -1;
    mpi.Comm_rank(mpi.world, &rank);
    return rank;
}

int rz_mpi_size(void) {
    int size = -1;
    mpi.Comm_size(mpi.world, &size);
    return size;
}

int rz_mpi_finalize(void) { return mpi.Finalize(); }

void rz_mpi_abort(int code) { mpi.Abort(mpi.world, code); }

// What Isend and Irecv are told of a message: where it begins, and so many of what.
typedef struct {
    void *address;
    int count;
    handle type;
    uint64_t made;
} message;

// Several pieces become a type of their own with absolute addresses, relative to MPI_BOTTOM (0 in both families).
static int describe(const rz_mpi_piece *pieces, int count, message *m) {
    *m = (message){count > 0 ? pieces[0].address : NULL, count > 0 ? (int)pieces[0].count : 0, mpi.byte, 0};
    if (count < 2) return 0;
    int *lengths = malloc((size_t)count * sizeof *lengths);
    intptr_t *places = malloc((size_t)count * sizeof *places);
    if (!lengths || !places) abort();
    for (int i = 0; i < count; i++) {
        lengths[i] = (int)pieces[i].count;
        places[i] = (intptr_t)pieces[i].address;
    }
    int code = mpi.Type_create_hindexed(count, lengths, places, mpi.byte, &m->made);
    free(lengths);
    free(places);
    if (code == 0) code = mpi.Type_commit(&m->made);
    m->address = NULL;
    m->count = 1;
    m->type = (handle)m->made;
    return code;
}

// The library keeps a type for as long as a transfer needs it.
static int forget(message *m, int code) {
    if (!m->made) return code;
    int freed = mpi.Type_free(&m->made);
    return code ? code : freed;
}

int rz_mpi_send(const rz_mpi_piece *pieces, int count, int peer, int tag, rz_mpi_transfer *transfer) {
    message m;
    transfer->request = 0;
    int code = describe(pieces, count, &m);
    if (code == 0) code = mpi.Isend(m.address, m.count, m.type, peer, tag, mpi.world, &transfer->request);
    return forget(&m, code);
}

int rz_mpi_receive(const rz_mpi_piece *pieces, int count, int peer, int tag, rz_mpi_transfer *transfer) {
    message m;
    transfer->request = 0;
    int code = describe(pieces, count, &m);
    if (peer == RZ_MPI_ANY_PEER) peer = mpi.any_source;
    if (code == 0) code = mpi.Irecv(m.address, m.count, m.type, peer, tag, mpi.world, &transfer->request);
    return forget(&m, code);
}

int rz_mpi_test(rz_mpi_transfer *transfer, int *is_done, size_t *bytes) {
    status s = {{0}};
    int count = 0;
    *is_done = 0;
    int code = mpi.Test(&transfer->request, is_done, &s);
    if (code == 0 && *is_done) mpi.Get_count(&s, mpi.byte, &count);
    *bytes = count > 0 ? (size_t)count : 0;
    return code;
}

int rz_mpi_cancel(rz_mpi_transfer *transfer) { return mpi.Cancel(&transfer->request); }

const char *rz_mpi_error_text(int code) {
    // MPICH's texts take up to 1024 bytes.
    static _Thread_local char text[4096];
    int length = 0;
    text[0] = 0;
    if (mpi.Error_string(code, text, &length) != 0) snprintf(text, sizeof text, "error %d", code);
    return text;
}

void rz_mpi_sleep_precisely(void) {
#if defined(__linux__)
    prctl(PR_SET_TIMERSLACK, 1000);
#endif
}
