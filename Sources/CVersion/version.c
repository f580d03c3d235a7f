#include "CVersion.h"

// `Scripts/build` writes this file; a plain `swift build` works without it.
#if __has_include("commit.h")
#include "commit.h"
#endif
#ifndef RINGZOO_COMMIT
#define RINGZOO_COMMIT RZ_NO_COMMIT
#endif

const char *rz_version(void) { return "0.1.0"; }
const char *rz_commit(void) { return RINGZOO_COMMIT; }
