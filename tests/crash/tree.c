/* The C half of the crash rounds' tree: c_node(path, n) is a subtree of n
 * tasks. It notes its path and attempt in the log of effects, splits n - 1
 * tasks among at most 27 children, C and Python by turns, and waits for them or not. */
#include <dynatask.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FAN = 27 };

/* One write to a file opened for appending: lines of many processes do not mix.
 * A kill may cut a write where a page ends; so each begins a line of its own,
 * and is whole if it has its closing mark. */
static void note(dtask_str path, uint64_t attempt) {
    char line[512];
    int n = snprintf(line, sizeof line, "\n%.*s c %u;\n", (int)path.n, path.p, (unsigned)attempt);
    int fd = open(getenv("EFFECTS"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, line, (size_t)n) != n) abort();
    close(fd);
}

static dtask_err c_node(dtask_task *task, void *arg) {
    dtask_str path;
    uint64_t n, attempt;
    (void)arg;
    dtask_err err = dtask_args(task, "path:s n:u", &path, &n);
    if (err || (err = dtask_info(task, "attempt:u", &attempt))) return err;
    note(path, attempt);
    dtask_child *children[FAN];
    uint64_t left = n - 1, k = left < FAN ? left : FAN, sum = 1;
    for (uint64_t i = 0; i < k; i++) {
        char name[256];
        snprintf(name, sizeof name, "%.*s.%u", (int)path.n, path.p, (unsigned)i);
        uint64_t part = left / k + (i < left % k);
        err = dtask_spawn(task, (i + path.n) % 2 ? "c_node" : "p_node", NULL, &children[i], "z u", name, part);
        if (err) return err;
    }
    if (path.n % 3 == 0) /* its descendants go on without it */
        return dtask_done(task, "u", n);
    if (path.n % 3 == 1) /* all at once */
        if ((err = dtask_wait(task, NULL, -1))) return err;
    for (uint64_t i = 0; i < k; i++) {
        uint64_t part;
        if ((err = dtask_wait(task, children[i], -1)) || (err = dtask_child_result(children[i], "u", &part))) return err;
        sum += part;
        dtask_child_free(children[i]);
    }
    return dtask_done(task, "u", sum);
}

DTASK_PLUGIN("tree", {"c_node", c_node, "path:s n:u -> u; crashes=20"});
