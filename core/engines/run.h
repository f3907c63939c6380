// What the engines that run the model in this process share: one operation
// over a store, who sleeps for what it did, and what becomes of them in a
// forked child.
#pragma once

#include <stdatomic.h>

#include "engines/engine.h"

// Runs op in the store's open transaction. On an error (returned, the detail
// set) the caller undoes the operation; tx->fx is as before it.
dtask_err dti_run_op(dti_store *, dti_tx *, dti_op *);

// The text of the first operation that failed, which is the call's detail.
typedef struct { bool set; char text[1024]; } dti_failure;
void dti_note_failure(dti_failure *); // from this thread's detail, if it is the first
void dti_tell_failure(const dti_failure *); // sets it as this thread's

// ---- sleepers: lie in memory, or in a file mapped by many processes -------------
enum { DTI_AWAKE, DTI_ASLEEP, DTI_RUNG };
enum { DTI_SLEEP_WORDS = 16 };   // a bitmap: types that share a bit wake each other, in vain but harmlessly
typedef struct {
    _Atomic uint32_t asleep;     // DTI_AWAKE ..; rung once for each sleep
    _Atomic uint32_t for_job;
    _Atomic uint64_t worker;     // 0: a client
    _Atomic uint64_t job[2];
    _Atomic uint64_t types[DTI_SLEEP_WORDS];
} dti_sleep;
void dti_sleep_for(dti_sleep *, const uint32_t *types, size_t n, const dti_hash *job); // falls asleep
bool dti_sleep_hungry(dti_sleep *, uint32_t type);
// Whether it is to be rung for fx now; then it is marked as rung. fx->todo is
// for one worker: the first that is taken.
bool dti_sleep_take(dti_sleep *, dti_effects *fx);
static inline bool dti_fx_any(const dti_effects *fx) {
    return fx->ntypes || fx->nworkers || fx->nended || fx->todo;
}

// ---- fork -------------------------------------------------------------------------
// How often this process is a fork of one that had the library. A handle made
// under another count answers EUSAGE and touches nothing.
unsigned dti_forks(void);
// Around each fork from now on: lock before, unlock after in the parent,
// forget instead in the child. For a few distinct modules; once for each.
void dti_at_fork(void (*lock)(void), void (*unlock)(void), void (*forget)(void));
dtask_err dti_forked_error(void); // EUSAGE, with its sentence
