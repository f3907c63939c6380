// fib, the C half: the same recursion in C. The two waits park the handler
// on its own small stack; one slot runs any depth.
//
//   dynatask-worker --app fib --plugin build/examples/fib/fib.so
#include <dynatask.h>

static dtask_err fib_c(dtask_task *task, void *arg) {
    (void)arg;
    int64_t n, a = 0, b = 0;
    dtask_err err = dtask_args(task, "n:i", &n);
    if (err) return err;
    if (n < 2) return dtask_done(task, "i", n);

    dtask_child *first, *second;
    err = dtask_spawn(task, "fib_c", NULL, &first, "i", n - 1);
    if (!err) err = dtask_spawn(task, "fib_c", NULL, &second, "i", n - 2);
    if (!err) err = dtask_wait(task, NULL, -1);
    if (!err) err = dtask_child_result(first, "i", &a);
    if (!err) err = dtask_child_result(second, "i", &b);
    return err ? err : dtask_done(task, "i", a + b);
}

DTASK_PLUGIN("fib", {"fib_c", fib_c, "n:i -> i"});
