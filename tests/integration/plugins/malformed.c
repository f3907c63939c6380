// A plugin whose signature is malformed.
#include <dynatask.h>

static dtask_err nothing(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "");
}

DTASK_PLUGIN("malformed", {"nothing", nothing, "n:q"});
