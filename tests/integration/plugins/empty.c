// A plugin without handlers.
#include <dynatask.h>

DTASK_EXPORT const dtask_plugin_v1 dtask_plugin = {DTASK_ABI, sizeof(dtask_plugin_v1), "empty", (const dtask_handler_v1[]){{0}}};
