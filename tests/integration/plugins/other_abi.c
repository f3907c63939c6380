// A plugin of another ABI.
#include <dynatask.h>

DTASK_EXPORT const dtask_plugin_v1 dtask_plugin = {DTASK_ABI + 1, sizeof(dtask_plugin_v1), "later", NULL};
