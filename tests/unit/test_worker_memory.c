// What a worker does when it gets no more memory: the linker puts this file's
// mmap64 in the place of the C library's, in the library's objects too.
#include "worker_rig.h"

#include <sys/mman.h>

static atomic_int left = 1000000, refused;       // mappings that are still given

void *__real_mmap64(void *, size_t, int, int, int, off_t);
void *__wrap_mmap64(void *, size_t, int, int, int, off_t);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off) {
    if (!(flags & MAP_STACK) || atomic_fetch_sub(&left, 1) > 0) return __real_mmap64(at, n, prot, flags, fd, off);
    refused++;
    return MAP_FAILED;
}

// A handler that gets no second stack is dropped and runs again, as those past max_parked.
BOTH(worker_memory, no_stack_for_who_waits) {
    rig r;
    left = 10;
    rig_open(&r, scheme, (rig_handler[]){{"deep", "n:i -> i", rig_deep}, {0}}, (const char *const[]){"slots", "1", NULL});
    int64_t n = 0;
    OK(rig_run(&r, "deep", 40, &n));
    cr_assert_eq(n, 40);
    cr_assert(refused > 0);
    rig_close(&r);
}
