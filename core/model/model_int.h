// What the rooms of the model share. Each room owns its tables:
//
//   life.c    a task's state: admit, move, finish, complete, wake, cancel, lose
//   todo.c    the bounded cascade, and what it leaves
//   lanes.c   lane, turnq, ext, alone: which ready task comes next; claim
//   limits.c  limit, waiter, uniq: permits and unique keys
//   data.c    data, blob: what tasks carry; large values once for a job
//   log.c     log, and what it becomes: told, mail
//   jobs.c    job, jobid, jobs: begin, end, payloads, purge
//   hooks.c   listen: callbacks, triggers, undo
//   start.c hello.c turn.c read.c mark.c post.c sweep.c   the operations
//   model.c   the entry; meta, ids
#pragma once

#include <string.h>

#include "model/faults.h"
#include "model/model.h"

typedef struct {                 // a task in hand; both rows are changed in place
    uint64_t job;
    uint32_t ord;
    dti_jobrow *j;
    dti_taskrow *r;
} dti_t;

typedef struct {                 // [head, n)
    dti_todo *p;
    size_t head, n, cap;
} dti_steps;

typedef struct {                 // tx->work: one operation's
    dti_meta *meta;
    uint64_t job_no;             // the job last used
    dti_jobrow *job;
    uint32_t named_no;           // the type last named
    dtask_str named;
    uint32_t type_no;            // the type last looked at
    const dti_type *type;
    uint64_t id_no;              // the job last named
    dtask_str id;
    dti_steps todo, room;        // waiting steps: that somebody waits for, that only make room
    uint32_t steps, limit;       // taken; to be taken at most
    struct {                     // ready tasks on their way into one extent
        uint64_t job;
        uint32_t type, first, count;
        int8_t prio;
        bool back;
    } run;
} dti_work;
static inline dti_work *dti_w(dti_tx *tx) { return tx->work; }

// ---- model.c ------------------------------------------------------------------
void *dti_need(dti_tx *, size_t n);              // zeroed, or raises ENOMEM
dtask_str dti_kept(dti_tx *, const void *p, size_t n); // copied into the arena
void *dti_more(dti_tx *, void *array, size_t n, size_t *cap, size_t size); // room for one more
dti_jobrow *dti_job(dti_tx *, uint64_t job);     // NULL: gone
bool dti_task(dti_tx *, uint64_t job, uint32_t ord, dti_t *out);
const dti_taskrow *dti_look(dti_tx *, uint64_t job, uint32_t ord); // only to read; NULL: gone
const dti_type *dti_type_row(dti_tx *, uint32_t no); // NULL: none
dti_type *dti_type_mut(dti_tx *, uint32_t no);
void dti_type_changed(dti_tx *);                 // a row was put: what was looked at is void
dtask_str dti_job_id(dti_tx *, uint64_t job);    // kept
dtask_str dti_type_name(dti_tx *, uint32_t no);
dtask_str dti_task_id(dti_tx *, uint64_t job, uint32_t ord); // "job", "job/7"
uint64_t dti_job_find(dti_tx *, dtask_str id);   // 0: none
static inline bool dti_here(dti_tx *tx, dti_table t, uint64_t a, uint64_t b, uint64_t c) {
    size_t n;
    return dti_get(tx->store, t, a, b, c, &n) != NULL;
}

// ---- data.c -------------------------------------------------------------------
dtask_str dti_data_get(dti_tx *, uint64_t job, uint32_t ord, dti_data kind); // copied; empty: none
void dti_data_set(dti_tx *, const dti_t *, dti_data kind, dtask_str v);
void dti_data_change(dti_tx *, const dti_t *, dti_data kind, dtask_str v); // makes no blob, but refers to one that is there
bool dti_blobs_drop(dti_tx *, uint64_t job, dti_jobrow *);  // a few; true: more remain

// ---- life.c -------------------------------------------------------------------
static inline bool dti_bad(const dti_taskrow *r) {
    return r->state == DTI_FAILED || (r->state == DTI_SUCCEEDED && r->bad);
}
static inline bool dti_good(const dti_taskrow *r) { return r->state == DTI_SUCCEEDED && !r->bad; }
// The job's flag counts at once, ahead of the pass. (With it nothing could be
// seen of a pass in the wrong order.)
static inline bool dti_ending(const dti_t *t) {
    return t->r->bits & DTI_CANCEL || (t->j->state == DTI_JOB_CANCELLING && !DTI_PLANTED(CANCEL_DESCENDS));
}
enum { DTI_AWAITS = DTI_QUIET | DTI_MAIL | DTI_DUE };

// A new row and its data, in no state yet (DTI_STATES): the caller admits or
// finishes it. parent NULL: a root.
dti_t dti_task_make(dti_tx *, uint64_t job, dti_jobrow *, uint32_t ord, const dti_new *, dti_t *parent);
void dti_move(dti_tx *, dti_t *, dti_state to);
void dti_admit(dti_tx *, dti_t *);
void dti_finish(dti_tx *, dti_t *, dti_state verdict, dti_reason);
bool dti_holds(dti_tx *, const dti_t *);
void dti_wake_up(dti_tx *, dti_t *);
void dti_cancel(dti_tx *, dti_t *);
void dti_lose(dti_tx *, dti_t *, bool charge);   // its owner is gone
void dti_unown(dti_tx *, dti_t *);               // its owner has it no longer
void dti_release(dti_tx *, dti_t *);             // given back: running is admitted, a warm frame dropped
void dti_due_set(dti_tx *, dti_t *, int64_t at);
void dti_due_clear(dti_tx *, dti_t *);

// ---- todo.c -------------------------------------------------------------------
void dti_push(dti_tx *, dti_do, uint64_t job, uint32_t ord, uint64_t cursor, uint8_t arg);
// Takes steps until none waits or the operation has taken its number;
// stored: also those that earlier operations left.
void dti_cascade(dti_tx *, bool stored);
void dti_make_room(dti_tx *, uint32_t steps);    // so many steps of what nobody waits for
bool dti_leave(dti_tx *);                        // the rest goes to todo; true: some of it only makes room
// May a pass take its i-th row in this call? The first always (its step was
// counted), the others while the operation has steps left.
enum { DTI_CHUNK = 32 };
static inline bool dti_spend(dti_tx *tx, int i) {
    dti_work *w = dti_w(tx);
    if (i == 0) return true;
    if (i >= DTI_CHUNK || w->steps >= w->limit) return false;
    w->steps++;
    return true;
}
// The steps, by room: true: more remains, *d says from where.
typedef bool dti_step(dti_tx *, dti_todo *d);
dti_step dti_do_complete, dti_do_settle, dti_do_wake, dti_do_edges;            // life.c
dti_step dti_do_cancel, dti_do_cancel_kids, dti_do_cancel_job, dti_do_pause, dti_do_resume; // mark.c
dti_step dti_do_drop, dti_do_lanes, dti_do_purge;                              // jobs.c
dti_step dti_do_limit;                                                         // limits.c
dti_step dti_do_worker;                                                        // hello.c

// ---- lanes.c ------------------------------------------------------------------
void dti_lane_add(dti_tx *, const dti_t *);      // it is ready
void dti_lane_flush(dti_tx *);
void dti_claim_all(dti_tx *, dti_turn *, dti_workerrow *);
void dti_claim_again(dti_tx *, dti_turn *);
// Takes up to n extents out of the lane's front, handing each task to `each`
// (may be NULL); true: more remain.
bool dti_lane_drain(dti_tx *, uint64_t lane_code, uint64_t job, uint32_t n, void (*each)(dti_tx *, dti_t *));
static inline uint64_t dti_lane_code(uint32_t type, int prio) { return (uint64_t)type * 8 + (uint64_t)(prio + 2); }

// ---- limits.c -----------------------------------------------------------------
dti_hash dti_key_hash(dti_tx *, const dti_keyspec *, uint64_t job);
void dti_keys_store(dti_tx *, dti_t *, const dti_new *, const dti_keyspec *more, uint32_t nmore);
// Takes all permits that it lacks, or none: 0, or 1 + the place in KEYS of
// the first that is full. waking: those with `per` are not needed.
uint32_t dti_permits_take(dti_tx *, dti_t *, bool waking);
void dti_permits_return(dti_tx *, dti_t *, bool all);
void dti_permits_claimed(dti_tx *, dti_t *);
dti_keyspec dti_key_at(dti_tx *, const dti_t *, uint32_t i);
void dti_limit_await(dti_tx *, dti_t *, uint32_t full, bool first);
void dti_limit_lapsed(dti_tx *, dti_hash);
const dti_keyspec *dti_unique_of(const dti_new *);
bool dti_unique_find(dti_tx *, dti_hash, dti_uniq *out);
void dti_unique_take(dti_tx *, dti_hash, const dti_keyspec *, uint64_t job, uint32_t ord, const uint64_t call[2]);
void dti_unique_free(dti_tx *, dti_t *, bool begun);
void dti_unique_forget(dti_tx *, uint64_t job, uint32_t ord);

// ---- log.c --------------------------------------------------------------------
void dti_log_add(dti_tx *, dti_t *, dti_logkind, uint32_t ord, dtask_str name, dtask_str data);
void dti_log_emit(dti_tx *, dti_t *, dtask_str name, dtask_str data);
void dti_log_read(dti_tx *, dti_t *, uint32_t read); // entries before `read` are consumed
void dti_log_restart(dti_tx *, dti_t *);             // become: all but unread signals and undo calls
bool dti_log_unread(dti_tx *, uint64_t job, uint32_t ord, const dti_taskrow *); // a signal or kid
void dti_told_add(dti_tx *, dti_t *, const dti_range *, uint32_t n);
void dti_told_clear(dti_tx *, dti_t *);
bool dti_told_has(dti_tx *, const dti_t *, uint32_t ord, bool bad);
dti_mail dti_mail_of(dti_tx *, uint64_t job, uint32_t ord, const dti_taskrow *);
uint32_t dti_mails(dti_tx *, uint64_t job, uint32_t ord, uint32_t from, uint32_t max, bool all, dti_mail **out, bool *more,
    uint32_t *next);

// ---- jobs.c, hooks.c ------------------------------------------------------------
uint64_t dti_job_begin(dti_tx *, const dti_start *, uint64_t hook_of, dtask_str skipped_for);
void dti_job_end(dti_tx *, dti_t *root);
bool dti_job_forget(dti_tx *, uint64_t job, dti_jobrow *); // begins the purge; false: callbacks have not ended
void dti_hooks(dti_tx *, dti_t *);               // it completed
uint64_t dti_tick_begin(dti_tx *, const dti_type *, int64_t at); // 0: it is there
dtask_str dti_joined_note(dti_tx *, dtask_str id); // {"joined": id}, the error of a task that its unique key skipped

// ---- the operations --------------------------------------------------------------
void dti_op_start(dti_tx *, dti_start *);
dtask_err dti_op_hello(dti_tx *, dti_hello *);
dtask_err dti_op_turn(dti_tx *, dti_turn *);
void dti_op_read(dti_tx *, dti_read *);
void dti_op_post(dti_tx *, dti_post *);
void dti_op_mark(dti_tx *, dti_mark *);
void dti_op_sweep(dti_tx *, dti_sweep *);
void dti_op_era(dti_tx *, dti_era *);
uint32_t dti_type_system(dti_tx *, const char *name); // its no
uint32_t dti_type_named(dti_tx *, uint32_t no, dtask_str name); // no, if it has that name; else the newest that has; 0: none
void dti_worker_end(dti_tx *, dti_workerrow *, bool charge);
