// One shard over the memory store, one operation at a time, with a clock that
// is set by hand: what the model's tests stand on.
#pragma once

#include <criterion/criterion.h>
#include <string.h>

#include "engines/memory_store.h"
#include "model/model.h"

typedef struct {
    dti_store *store;
    dti_arena arena;             // of the last operation
    int64_t now;
    dti_effects fx;
    uint64_t worker, nonce, got;
    uint32_t type, other;        // "t" and "u", served by the worker
} rig;

void rig_open(rig *);            // with a worker
void rig_close(rig *);
void rig_run(rig *, dti_op *);   // fails the test on an engine error
uint64_t rig_worker(rig *, const char *name); // another one, for the same types

uint64_t rig_start(rig *, const char *id); // a job of type t; its no
dti_new rig_child(rig *, uint32_t type, unsigned n); // a call told apart by n
// A turn of the rig's worker: messages in, up to n claims out.
dti_turn rig_turn(rig *, const dti_message *, uint32_t nmessages, uint32_t n);
dti_answer rig_send(rig *, dti_message); // one message, no claims
dti_claim rig_claim(rig *);      // exactly one
dti_message rig_to(const dti_claim *, uint32_t seq, dti_endkind);
dti_taskrow rig_task(rig *, uint64_t job, uint32_t ord);
dti_jobrow rig_job(rig *, uint64_t job);
void rig_sweep(rig *);           // until nothing is left to do now
