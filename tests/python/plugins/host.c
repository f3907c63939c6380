// A handler that says that it runs, and ends when it is told to; deaf to all else.
#define _POSIX_C_SOURCE 200809L
#include <dynatask.h>
#include <stdio.h>
#include <time.h>

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int there(const char *path) {
    FILE *f = fopen(path, "r");
    if (f) fclose(f);
    return f != NULL;
}

static void path_of(dtask_str s, char out[512]) {
    snprintf(out, 512, "%.*s", (int)s.n, s.p);
}

// Makes the file `mark`; ends when the file `go` is there.
static dtask_err until(dtask_task *task, void *arg) {
    dtask_str s, g;
    char mark[512], go[512];
    (void)arg;
    dtask_err err = dtask_args(task, "mark:s go:s", &s, &g);
    if (err) return err;
    path_of(s, mark);
    path_of(g, go);
    FILE *f = fopen(mark, "w");
    if (!f || fclose(f)) return dtask_fail(task, DTASK_EFATAL, "cannot write %s", mark);
    while (!there(go)) nap();
    return dtask_done(task, "i", (int64_t)7);
}

DTASK_PLUGIN("host", {"until", until, "mark:s go:s -> i"});
