// A plugin as it should be: two handlers.
#include <dynatask.h>

static dtask_err twice(dtask_task *task, void *arg) {
    int64_t n;
    (void)arg;
    dtask_err err = dtask_args(task, "n:i", &n);
    return err ? err : dtask_done(task, "i", 2 * n);
}

static dtask_err nothing(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "");
}

DTASK_PLUGIN("good", {"twice", twice, "n:i -> i; retries=1"}, {"nothing", nothing, NULL});
