// What this process has started, and where in Kafka it lies, so that whoever
// started a job can look at it and cancel it before a worker took it in; or
// again, where the store has lost it.
//
// Bounded: of the latest starts at least DTI_STARTED_MIN are known, at most
// twice as many. Any thread.
#pragma once

#include "base/base.h"

enum { DTI_STARTED_MIN = 1 << 18 };
typedef struct dti_started dti_started;

typedef struct {
    dti_hash id;                 // dti_id_hash
    uint64_t call[2];
    int64_t retain_us, next;     // next: the position behind its record
    uint32_t topic, type;        // topic: the user's number of it
    int32_t partition;
    bool there;                  // of the table's own
} dti_started_job;

dti_started *dti_started_new(void);              // NULL: no memory
void dti_started_free(dti_started *);
void dti_started_add(dti_started *, const dti_started_job *); // without memory it is not known
bool dti_started_find(dti_started *, dti_hash id, dti_started_job *out);
