// Ends of jobs on their way from the store into the `done` topic: one for
// each worker that reads from Kafka.
//
// Guaranteed: an end is acknowledged to the store only once its record is as
// durable as acks=all says; so each is written at least once, and again when
// that was not heard. Never waits, but in dti_done_wait and where it makes the
// topic. Not done here: keeping the ends, and who is given them: the store's
// operation `done`.
//
// Threads: calls of one at a time; reports come by the broker's.
#pragma once

#include "engines/kafka/broker.h"
#include "model/model.h"

enum { DTI_DONE_BATCH = 128,     // ends on their way, of a worker
    DTI_DONE_MAX = 65536 };      // so many wait: workers begin nothing new
typedef struct dti_publisher dti_publisher;

// rung(arg) is called by another thread when all that is on its way was told.
dtask_err dti_done_open(dti_broker *, const char *topic, void (*rung)(void *), void *arg, dti_publisher **out);
void dti_done_close(dti_publisher *);   // what is on its way may yet arrive; rung is not called any more
// Fills the operation: acknowledges what was written, asks for more if nothing is on its way.
void dti_done_ask(dti_publisher *, uint64_t worker, dti_done *);
// Takes what it was answered, and sends it.
void dti_done_take(dti_publisher *, const dti_done *);
// Waits until nothing is on its way. False: not in time, or it could not be written.
bool dti_done_wait(dti_publisher *, int64_t until_us);
