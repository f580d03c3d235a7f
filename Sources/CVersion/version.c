#include "CVersion.h"

#ifndef RINGZOO_COMMIT
#define RINGZOO_COMMIT "unknown"
#endif

const char *rz_version(void) { return "0.1.0"; }
const char *rz_commit(void) { return RINGZOO_COMMIT; }
