/* A plugin whose signature cannot be read. */
#include <dynatask.h>

static dtask_err nothing(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "n");
}

DTASK_PLUGIN("bad_signature", {"nothing", nothing, "a:q b -> -> ; what"});
