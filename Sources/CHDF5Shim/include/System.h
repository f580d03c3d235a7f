#ifndef RINGZOO_SYSTEM_H
#define RINGZOO_SYSTEM_H

#include <stdint.h>

/// Reserves disk space for the first `count` bytes of the file and makes it that long. Returns 0 or an errno value.
int ringzoo_reserve(int descriptor, int64_t count);

#endif
