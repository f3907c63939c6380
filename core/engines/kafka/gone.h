// Which records of a partition are not there any more: so that who waits for
// a start whose record was deleted hears of it.
//
// A partition is asked at most each 5 s; in between, and while no broker
// answers, the last answer holds, which stays true: what is gone is gone. Any
// thread; one of them waits for the broker, 1 s at most.
#pragma once

#include "engines/kafka/broker.h"

typedef struct dti_gone dti_gone;

dti_gone *dti_gone_new(dti_broker *);    // NULL: no memory
void dti_gone_free(dti_gone *);
// Whether the record before the position `next` is known to be deleted.
bool dti_gone_was(dti_gone *, const char *topic, int32_t partition, int64_t next);
