// What the rows of a store say, kept as plain arrays beside it.
//
// The mirror is fed with every row that changes (watch.h) and knows nothing
// of the model's code. So that a check after each step costs a walk over an
// array, it counts for each task the index entries that name it. Now and then
// it is built anew from a scan of the store and compared.
#pragma once

#include "watch.h"

typedef struct {
    dti_taskrow row;
    bool present;
    uint32_t ext, alone, waiter, held, due, dead; // index entries that name it
    uint32_t edges_in, edges_out;           // EDGE rows: as dependent, as dep
    uint32_t kids_rows, kids;               // KIDS rows, and what they sum to
    uint32_t *mails, nmails, cmails;        // places in its log of kids and sigs, rising
    uint32_t mail_end;                      // behind the last of them
    uint32_t sigs, log_rows;
    uint64_t held_by;
    const dti_keyspec *keys; uint32_t nkeys;
    const uint32_t *deps; uint32_t ndeps;
    uint64_t result, error;                 // hashes of the bytes, 0: none
    uint64_t value;                         // the result as a number
    uint8_t todo[DTI_DO_CANCEL + 1];        // todo items that name it, by kind
} mtask;

typedef struct { dti_hash h; bool present; uint32_t refs; dtask_str bytes; } mblob; // refs: DATA rows that name it

typedef struct {
    bool present, touched, start_seen;
    dti_jobrow row;
    mtask *t; uint32_t cap, n;              // n: highest ord seen + 1
    uint8_t todo[DTI_DO_KINDS];             // todo items that name it or a task of it, by kind
    uint64_t cancelled_to;                  // where the pass of its cancel is
    uint32_t emits, listed;                 // LOG rows of the job, JOBS rows
    mblob *blobs; size_t nblobs, cblobs;
    uint32_t ended;                         // how often it became terminal
    dtask_str id;
} mjob;

typedef struct {
    uint64_t h[2];
    bool present, touched;
    dti_limit row;
    uint32_t holders, lapses, waiters, todo; // tasks, due items, waiting tasks, todo items
} mlimit;

typedef struct {
    bool present, touched, queued;          // queued: in TURNQ
    uint64_t type, job; uint32_t prio;
    dti_lane row;
    uint32_t exts;
} mlane;

typedef struct { bool present; dti_workerrow row; uint32_t held, wakes, todo; int64_t seen; bool left; } mworker; // seen: virtual time of its last turn; left: it went on to a new life, alive

typedef struct {
    dti_arena *arena;
    dti_meta meta;
    mjob *jobs; size_t njobs, cjobs;
    mlimit *limits; size_t nlimits, climits;
    mlane *lanes; size_t nlanes, clanes;
    mworker *workers; size_t nworkers, cworkers;
    struct { bool paused; } types[64];
    uint32_t todos;
    uint64_t *touched; size_t ntouched, ctouched; // jobs
    uint64_t bad_table;                     // a row in a place it cannot have
} mirror;

void mirror_init(mirror *, dti_arena *);
void mirror_apply(mirror *, const watch_row *);
// From a scan. `old` tells which limits to ask for.
void mirror_scan(mirror *, dti_store *, const mirror *old);
// NULL, or what differs.
const char *mirror_differs(const mirror *, const mirror *);

mjob *mirror_job(mirror *, uint64_t no);         // NULL: not there
mtask *mirror_task(mirror *, uint64_t no, uint32_t ord);
mjob *mirror_job_of(mirror *, dtask_str id);     // by id; NULL: none
mlimit *mirror_limit(mirror *, uint64_t no);     // by limit no
mlimit *mirror_limit_of(mirror *, const dti_keyspec *); // by key; made where it is not known
bool mirror_holds(const mtask *, const dti_keyspec *); // does it hold this permit?
bool mirror_named(const watch_row *, const void *, size_t n); // are these bytes of the row a reference to a blob?
static inline bool mirror_carried(const watch_row *r) { // a kind of data that may be
    return r->t == DTI_T_DATA && (r->k.c == DTI_D_ARGS || r->k.c == DTI_D_RESULT || r->k.c == DTI_D_ERROR);
}
bool mirror_waits(const mtask *);                // does it wait for a permit?
static inline bool mtask_good(const mtask *t) { return t->row.state == DTI_SUCCEEDED && t->row.bad == 0; }
static inline bool mtask_bad(const mtask *t) {
    return t->row.state == DTI_FAILED || (t->row.state == DTI_SUCCEEDED && t->row.bad > 0);
}
