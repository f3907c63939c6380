/* A plugin as built against another ABI. */
#include <dynatask.h>

static dtask_err nothing(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "n");
}

DTASK_EXPORT const dtask_plugin_v1 dtask_plugin = {DTASK_ABI + 1, sizeof(dtask_plugin_v1), "other_abi",
    (const dtask_handler_v1[]){{"nothing", nothing, "-> n"}, {0}}};
