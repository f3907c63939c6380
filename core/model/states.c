// The one table of a task's states: every edge that is legal, and what
// happens to rows only through dti_move (life.c), which asks here.
#include "model/model.h"

const char *const dti_state_names[DTI_STATES] = {
    "blocked", "scheduled", "ready", "running", "parked", "closing", "succeeded", "failed", "cancelled", "skipped",
};
const char *const dti_jobstate_names[5] = {"running", "cancelling", "succeeded", "failed", "cancelled"};

#define TO(s) (1u << DTI_##s)

// clang-format off
static const uint16_t edges[DTI_STATES + 1] = {
    //               admit, and what a wake or a release leads to       | ends
    [DTI_BLOCKED]   = TO(SCHEDULED) | TO(READY)                         | TO(FAILED) | TO(CANCELLED) | TO(SKIPPED) | TO(CLOSING),
    [DTI_SCHEDULED] = TO(BLOCKED) | TO(READY)                           | TO(CANCELLED) | TO(SKIPPED) | TO(FAILED) | TO(CLOSING),
    [DTI_READY]     = TO(BLOCKED) | TO(RUNNING)                         | TO(CANCELLED) | TO(SKIPPED) | TO(FAILED) | TO(CLOSING),
    [DTI_RUNNING]   = TO(BLOCKED) | TO(SCHEDULED) | TO(READY) | TO(PARKED) | TO(CLOSING)
                                                                        | TO(SUCCEEDED) | TO(FAILED) | TO(CANCELLED) | TO(SKIPPED),
    [DTI_PARKED]    = TO(RUNNING) | TO(BLOCKED) | TO(SCHEDULED) | TO(READY) | TO(CLOSING)
                                                                        | TO(FAILED) | TO(CANCELLED) | TO(SKIPPED),
    [DTI_CLOSING]   =                                                     TO(SUCCEEDED) | TO(FAILED) | TO(CANCELLED) | TO(SKIPPED),
    // made as
    [DTI_STATES]    = TO(BLOCKED) | TO(SCHEDULED) | TO(READY)           | TO(FAILED) | TO(CANCELLED) | TO(SKIPPED),
};
// clang-format on

bool dti_edge_legal(unsigned from, unsigned to) {
    return from <= DTI_STATES && to < DTI_STATES && edges[from] >> to & 1;
}
