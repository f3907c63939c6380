// What lies in Kafka, and under which names: proto/kafka.md.
#pragma once

#include "model/model.h"

enum { DTI_KAFKA_FORMAT = 1, DTI_KAFKA_NAME_MAX = 249 };

// "<prefix>.<app>.<type>.intake"; type NULL: "<prefix>.<app>.<what>"; what
// NULL too: "<prefix>.<app>", the consumer group. No two are one, nor are for
// Kafka, which takes `_` and `.` for the same. EARGS: longer than 249 bytes.
dtask_err dti_kafka_name(const char *prefix, const char *app, const char *type, const char *what, char out[DTI_KAFKA_NAME_MAX + 1]);

// A start as a record's value; its type is its topic's.
void dti_kafka_put_start(dti_buf *, const dti_start *);
// Reads it back. False: *why says, in one sentence, why it is none of ours;
// and if somebody started it all the same (a newer release; it was damaged on
// its way), *out is a start of that id without a call, else its id is empty.
// What *out points at lies in key, value and arena.
bool dti_kafka_take_start(dti_arena *, dtask_str key, dtask_str value, uint32_t type, dti_start *out, const char **why);
// A start of that id and type, and of no call: what is left of one that is refused.
dti_start dti_kafka_no_start(dtask_str id, uint32_t type);
