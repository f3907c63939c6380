/* For LD_PRELOAD: every file seems to lie on NFS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/statfs.h>

int statfs(const char *path, struct statfs *out) {
    int (*real)(const char *, struct statfs *) = (int (*)(const char *, struct statfs *))dlsym(RTLD_NEXT, "statfs");
    int got = real(path, out);
    out->f_type = 0x6969;
    return got;
}

/* The name of the same where files have 64-bit offsets. */
int statfs64(const char *path, struct statfs64 *out) {
    int (*real)(const char *, struct statfs64 *) = (int (*)(const char *, struct statfs64 *))dlsym(RTLD_NEXT, "statfs64");
    int got = real(path, out);
    out->f_type = 0x6969;
    return got;
}
