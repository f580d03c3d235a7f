// posix_fallocate is not in the Swift overlay of every platform, and macOS has another call for it.
#define _GNU_SOURCE
#include "System.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int ringzoo_reserve(int descriptor, int64_t count) {
#if defined(__APPLE__)
    fstore_t store = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, count, 0};
    if (count > 0 && fcntl(descriptor, F_PREALLOCATE, &store) != 0) {
        return errno;
    }
    return ftruncate(descriptor, count) == 0 ? 0 : errno;
#else
    int failure;
    do {
        failure = count > 0 ? posix_fallocate(descriptor, 0, count) : 0;
    } while (failure == EINTR);
    return failure;
#endif
}
