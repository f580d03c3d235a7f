// What was built. The manifest defines RINGZOO_COMMIT where it is built from a git checkout.
#ifndef C_VERSION_H
#define C_VERSION_H
const char *rz_version(void);
const char *rz_commit(void);
#endif
