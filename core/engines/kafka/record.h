// What lies in Kafka, and under which names: proto/kafka.md.
#pragma once

#include "model/model.h"

enum { DTI_KAFKA_FORMAT = 1, DTI_KAFKA_NAME_MAX = 249 };

typedef struct {
    char prefix[64], app[104];
    char shared[1024];           // "a,b": starts of these types lie in one topic
} dti_kafka_names;

// "<prefix>.<app>.<what>"; what NULL: "<prefix>.<app>", the consumer group. No
// two names are one, of topics neither, nor are they for Kafka, which takes `_`
// and `.` for the same. EARGS: longer than 249 bytes.
dtask_err dti_kafka_name(const dti_kafka_names *, const char *what, char out[DTI_KAFKA_NAME_MAX + 1]);
// Where a type's starts lie: "<prefix>.<app>.<type>.intake", or
// "<prefix>.<app>.shared". EARGS: as above.
dtask_err dti_kafka_topic(const dti_kafka_names *, dtask_str type, char out[DTI_KAFKA_NAME_MAX + 1]);
// EARGS: it is no list of types' names.
dtask_err dti_kafka_shared_check(const char *list);
// The type is one of those that share a topic.
bool dti_kafka_shares(const dti_kafka_names *, dtask_str type);

// A start as a record's value; named: with its type's name (`type`), else its
// topic says it.
void dti_kafka_put_start(dti_buf *, const dti_start *, bool named);
// Reads it back. False: *why says, in one sentence, why it is none of ours;
// and if somebody started it all the same (a newer release; it was damaged on
// its way), *out is a start of that id without a call, else its id is empty.
// What *out points at lies in key, value and arena. type: its number; 0: it was
// put with its name, by which *out has it.
bool dti_kafka_take_start(dti_arena *, dtask_str key, dtask_str value, uint32_t type, dti_start *out, const char **why);
// A start of that id and type, by its number or its name, and of no call: what is left of one that is refused.
dti_start dti_kafka_no_start(dtask_str id, uint32_t type, dtask_str name);
