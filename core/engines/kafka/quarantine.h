// Records that are no starts, or that no worker can take in: they go into a
// topic of their own, and the rest of their partition goes on.
//
// Not done here: who started such a record is told by the store (intake).
#pragma once

#include "engines/kafka/broker.h"

typedef struct {
    dti_broker *broker;
    const char *topic;
    char denied[512];            // why it could not be written last, for want of a right; or empty
} dti_quarantine;

// True: the record lies there, so that it may be left out; without its value
// where that is too large for the topic, for it lies where it came from.
// Blocks, for the broker's timeout at most. source: "topic/partition"; next:
// the position behind it.
bool dti_quarantine_put(dti_quarantine *, dtask_str source, int64_t next, dtask_str key, dtask_str value, const char *why);
// What who started it reads. `why` is text; it may be cut.
dtask_str dti_quarantine_refusal(const dti_quarantine *, dti_arena *, const char *why);
