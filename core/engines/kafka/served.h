// The topics that a worker said hello for, and the numbers of their types in
// the store.
#pragma once

#include <sys/queue.h>

#include "engines/kafka/broker.h"
#include "engines/kafka/record.h"
#include "model/model.h"

typedef struct dti_served {
    LIST_ENTRY(dti_served) entry; // the caller's, as are the next two
    uint64_t worker;
    bool kept;                   // the store keeps ends of jobs
    size_t n;
    struct dti_served_type {
        char topic[DTI_KAFKA_NAME_MAX + 1];
        bool shared;             // of several types, all of which are taken in as they come: what follows, but held_until and taken, is not used
        uint32_t type;
        uint32_t surplus;        // starts taken in that this worker has not claimed since: its lanes are long
        uint32_t passed;         // claims since one of this type came, though it was wanted
        int64_t held_until;      // the store took none: until then it is not asked again
        uint32_t wanted, most, taken, got, roots; // of one turn: tasks wanted; starts to take, that were taken; claims, and first tasks among them
    } types[];
} dti_served;

// Of the library's own types only maps are started from outside.
bool dti_served_outside(dtask_str type);
// The topics of hello's types, and of maps: each once. They are made if need
// be, with the quarantine's, so that a right that is missing is told now.
// *out is to be freed, also on an error.
dtask_err dti_served_new(dti_broker *, const dti_kafka_names *, const char *quarantine, const dti_hello *, dti_served **out);
// Gives the topics their types' numbers once hello was answered, of several
// versions the last; one without a number is not served.
void dti_served_number(dti_served *, const dti_kafka_names *, const dti_hello *);
