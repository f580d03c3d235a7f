// What was built: the version, and the commit where `make build` knows it.
#ifndef C_VERSION_H
#define C_VERSION_H
/// In place of a commit, where the build did not know it.
#define RZ_NO_COMMIT "commit unknown"
const char *rz_version(void);
const char *rz_commit(void);
#endif
