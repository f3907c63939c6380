// What the files of the worker share. A worker claims tasks, runs their
// handlers and carries their outcomes to the engine.
//
//   io.c        the I/O threads, one for each shard: one turn in flight, the next gathers
//   message.c   what of a frame's outbox goes into a turn
//   answer.c    what a turn's reply means: answers, claims, wakes
//   frame.c     a claimed task and its life in this process
//   spawn.c     children on their way out: spawn, map, then
//   children.c  handles and batches, and how they ended
//   handles.c   ..which a C handler knows by numbers
//   match.c     a re-run finds the children of the run before
//   wait.c      what a frame waits for, and when that is there
//   handler.c   the other calls that a handler makes
//   pool.c      C handlers: threads, and parked handlers on their own stacks
//   seats.c     a binding's handlers: pull items, push outcomes
//   system.c    the task types that every worker serves
//   join.c      ..of which one remembers occurrences of joined conditions
//   preflight.c what can be checked before an engine is opened
//   plugin.c    loads handler plugins
//   worker.c    new, add, start, run, stop, free
//
// One lock, w->lock, guards everything that two threads see; it is held for
// work on lists only, never over a call of the engine, a handler or a check
// of arguments. A function of which this header says "L" is called with it.
// What only a frame's handler uses needs no lock.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "client/client.h"
#include "engines/run.h"

typedef struct dti_fiber dti_fiber;
typedef struct dti_thread dti_thread;
typedef struct dti_seat dti_seat;
typedef struct dti_match dti_match;
typedef struct dti_unsent dti_unsent;
typedef struct dti_link dti_link;

enum {
    DTI_UNSENT_MAX = 10000,      // calls of a frame that wait to be sent; then spawn waits
    DTI_EAGER = 512,             // so many are sent at once
    DTI_FAIR = 512,              // children of one frame in a turn while others wait
    DTI_TELL_MAX = 2048,         // children that one message tells
    DTI_KEPT_CHILDREN = 1000,    // a frame with more is not dropped: its re-run is that many calls
    DTI_PAGE = 256,              // children read at once with their outcomes
    DTI_AHEAD_US = 50000,        // prefetch what runs in so long
    DTI_FLUSH_US = 1000,         // a spawn waits so long for company
    DTI_DEATHS_US = 250000,      // between two looks for dead workers, where the engine sees them
    DTI_LOOK_US = 1000000,       // between two looks for work, whatever the bell says
    DTI_AGAIN_US = 100000,       // until what the engine refused is tried again
    DTI_STALE_US = 20000,        // a claim that waited so long goes to a hungry worker
    DTI_LEAKED_US = 2000000,     // all slots held by timed-out handlers so long: the worker ends
    DTI_DRY_US = 2000000,        // what must run alone waits so long for what runs
    DTI_FREED_MAX = 10000,       // attempts that are not counted
};

typedef enum { DTI_POOL_C, DTI_POOL_THREAD, DTI_POOL_LOOP, DTI_POOLS } dti_poolkind;

// A task type that this worker serves.
typedef struct {
    char *name, *signature;      // signature NULL: not known
    char *options;               // msgpack map
    size_t options_n;
    uint32_t version, min_version, crashes;
    dti_poolkind pool;
    dtask_fn *fn;                // POOL_C
    void *arg;
    bool owns_arg;               // malloc'ed
    bool absent;                 // has no handler here: only the root type of a callback
    bool off;                    // option `types` leaves it out
    uint32_t index;              // place in w->handlers
    const dti_typeinfo *_Atomic info; // after hello
    bool ahead;                  // may be claimed before a slot is free
    unsigned queued;             // claimed, not begun
    double mean_us;              // of a run; < 0: none seen
    int64_t modest_until;        // monotonic: others were hungry, nothing is claimed ahead
} dti_handler;

typedef struct { uint32_t no, handler; } dti_served; // a type row (name, version)
typedef struct { uint32_t listener, subject; } dti_callback; // places in w->handlers; subject UINT32_MAX: any

typedef struct {                 // of frames, by `next`
    dtask_task *first, *last;
    unsigned n;
} dti_queue;

typedef struct { dtask_task **v; size_t n, cap; } dti_frames;

// ---- frames ----------------------------------------------------------------
typedef enum {
    DTI_F_QUEUED,    // claimed, not begun
    DTI_F_RUNNING,   // its handler runs, or its seat has it next
    DTI_F_PARKING,   // its handler waits; the store has not answered
    DTI_F_PARKED,    // warm
    DTI_F_WOKEN,     // waits for a slot to go on
    DTI_F_ENDING,    // its outcome is on its way
} dti_framestate;

// One wait that is armed.
typedef struct {
    dtask_child **kids; size_t n, at; // before `at` all are complete
    int flags;                   // DTASK_B_*
    bool quiet, next, mail;      // for all descendants; for dtask_next; for a signal
    int64_t deadline;            // wall clock, 0 none
} dti_wait;

typedef struct { uint32_t first, count; } dti_span; // ords
typedef struct dti_line { struct dti_line *next; int level; uint32_t ord, attempt; const char *type, *text; char job[]; } dti_line; // of the log
typedef struct dti_given { struct dti_given *next; uint32_t ord; dtask_err code; bool bad, loaded, unique; dti_buf end; } dti_given; // unique: skipped for an equal one
typedef struct { dtask_child *child; uint32_t use, next; } dti_handle; // next: a free one's
typedef struct { dtask_err err; char *text; dti_buf map; } dti_fallen; // text: the detail that came with it
typedef struct { uint64_t key[2], call[2]; dtask_child *child; } dti_keyed;
typedef struct { dti_ack *v; size_t n, cap; } dti_acks;
typedef struct { dti_note *v; size_t n, cap; } dti_notes; // data malloc'ed

struct dtask_task {
    dtask_worker *w;
    dti_link *link;              // its job's shard
    dti_handler *h;
    dtask_task *chain;           // in the table of frames
    dtask_task *prev, *after;    // all frames
    dtask_task *next;            // in the queue that its state says
    dtask_task *out_next;        // in the outbox
    dtask_task *seat_next;       // in the seat's queue of events
    dti_framestate state;
    bool listed, flying;         // in the outbox; a message of it is in the turn in flight
    atomic_bool lost;                 // the token is void, or ended: nothing it does counts
    bool live;                   // its handler has begun and not returned
    bool unwind;                 // its stack is being dropped
    bool was_parked;             // its row is parked
    bool alone;                  // nothing may run beside it
    _Atomic(char *) broken;      // malloc'ed: why the engine failed this attempt; it cannot succeed
    atomic_bool given_up;               // timed out or out of grace: its outcome is settled
    bool leaks;                  // ..and it holds its slot
    bool executing;              // counted in w->executing
    bool stay;                   // a mask is armed though it runs; counted in w->staying
    bool aside;                  // nothing waits for its end any more; counted in w->aside
    atomic_bool cancelled;
    uint64_t job, token;
    uint32_t ord, seq, park_seq;
    dti_taskrow row;             // as claimed
    dtask_str id, args, trigger; // behind the frame, a zero byte after each
    dti_buf context;             // made when asked for
    int64_t queued_at, began_at; // monotonic; began_at: of this stretch
    int64_t ran_us;              // stretches before
    uint32_t logread;            // log entries consumed
    uint32_t received;           // ..those before it by the handler, signals too: a `then` drops them
    unsigned bell_slot;          // place + 1 in the bell's table of what runs; 0: none

    // the outbox
    dti_unsent *unsent, *unsent_last;
    uint32_t nunsent;
    dti_acks acks, acks_sent;
    dti_notes notes, notes_sent;
    dti_buf progress, progress_sent;
    dti_endkind end;             // NONE: no outcome yet
    bool end_flying;             // ..and it is this one that the turn in flight carries
    dti_parkhow how;
    bool retry, freed, unstarted;
    int64_t retry_at, full_since, unread_since; // monotonic: the store is full; its mail cannot be read
    dti_buf value;               // result or error map
    dti_unsent *become;
    dtask_err said;              // what dtask_fail was given; value is its map
    dti_fallen fallen;           // a C handler: what a wait, or a child's result, gave last
    int64_t retry_after_us;      // -1: by backoff

    // children
    dtask_child *kids, *kids_last;   // handles, in the order of the calls
    dtask_child **table; size_t ntable, ctable; // by ord
    dtask_child *batches;
    dti_handle *handles; size_t nhandles, chandles; // what the handler holds
    uint32_t tag, free_handle;   // of this claim; first of the list, 0 none
    uint32_t serial, quiet_serial;   // handles below quiet_serial are complete
    uint64_t nspawned, ndone;        // children of this run; known complete
    dti_match *match;            // a re-run
    dti_span *own; size_t nown, cown; // ords of this run's children
    dti_span *joins; size_t njoins, cjoins; // ..that have no handle, and stand for an equal task if they were joined (unique)
    dti_keyed *keyed; size_t nkeyed, ckeyed; // calls with a key, in this run

    // waits
    dti_wait *waits; size_t nwaits, cwaits;
    bool cover;                  // what is awaited is all that is live
    bool hit;                    // a wait for any, for a signal, or fail_fast, has what it needs
    bool quiet_now;              // all descendants are complete
    uint32_t quiet_mark; uint64_t quiet_spawned; // as of the quiet park
    uint8_t mask;                // as armed
    size_t tell_wait, tell_kid;  // told up to here
    size_t own_told; uint32_t own_told_at; uint8_t own_level; // spans told, for dtask_next and quiet fail_fast
    bool nexts;                  // dtask_next is used
    dti_given *given, *given_last;
    uint32_t *seen; size_t nseen, cseen; // set of ords given out
    dti_fiber *fiber;            // parked C handler

    dti_seat *seat;              // whose it is, once begun
    uint8_t events;              // bits 1 << DTASK_B_*, in the seat's queue
    bool in_seat;                // ..is in that queue
    bool seated;                 // ..and holds a slot of it
    dtask_task *order_next;      // the next that a THREAD seat runs
};

// ---- children ------------------------------------------------------------------
typedef struct { uint64_t at; uint32_t ord, count; } dti_seg; // items at.. are ords ord..
typedef struct { uint64_t at; char *id; } dti_join;           // item at is another call's task (unique)
typedef struct {
    uint64_t n, known;           // items; those with an ord
    dti_seg *segs; size_t nsegs, csegs; // in the order they came
    dti_join *joins; size_t njoins, cjoins; // nobody waits for these
    uint64_t ndone, *bits;       // complete ones, where told
    size_t told_seg; uint32_t told_at; // told up to here
    dtask_child *next;           // the frame's next batch
} dti_batch;

struct dtask_child {
    dtask_task *task;
    dtask_child *prev, *next;    // the frame's handles
    dtask_child *chain;          // in the table by ord
    uint32_t refs;               // the caller's, waits', unsent calls'
    uint32_t handle, handed;     // its place in the frame's handles, and how often the handler has it
    uint32_t serial, ord, pos;   // pos: in the message in flight
    bool sent;                   // ord is known
    bool unmade;                 // never will be: the task is cancelled
    bool done, loaded;           // complete; code and end are here
    bool bad, acked;
    bool counted;                // one of the frame's nspawned
    bool any, ff;                // some wait for any; some fail_fast one
    bool joined;                 // another call's task (unique)
    uint8_t over;                // of its unique key, DTI_OVER_..; 0: it has none, or as many as there are
    uint8_t told;                // 0, 1 bad ends, 2 all
    uint64_t call[2];
    dtask_err code;
    dti_buf end;                 // the result, or the error map
    char *id;                    // "job/ord", once asked for; joined: always
    dti_batch *batch;
};

// A call on its way: one child, or the children of a dtask_map.
struct dti_unsent {
    dti_unsent *next;
    dti_new call;                // points into `bytes`
    dtask_child *child;          // NULL: no handle
    uint64_t index;              // a batch's: of the item
    dtask_child **deps;          // references
    uint32_t redo;               // it takes this child's place; 0: none
    // a range: items `index` .. index + n of a batch; `from` is the argument of the first
    bool range;
    uint64_t n; int64_t from;
    const dti_typeinfo *info; dti_callopts opts;
    dtask_str tail; uint32_t ntail; // the arguments behind the first
    _Alignas(8) char bytes[];
};

// ---- the worker ------------------------------------------------------------------
typedef struct {                 // a handler's type in one shard
    bool dry;                    // a turn found no more of it
    bool room;                   // the worker has some for it
    unsigned wanted, got;        // of the turn in flight
} dti_asked;

// What a worker is in one shard: a number, a bell, an outbox and the thread
// that talks to it. Under w->lock where nothing else is said.
struct dti_link {
    dtask_worker *w;
    unsigned shard;
    pthread_t io;
    bool running;                // the thread was made
    int ring_fd;                 // an eventfd: wakes the thread, also from a signal handler
    bool io_sleeps;
    uint64_t no, era, count;     // this incarnation; turns in it
    char name[64];               // ..as its hello said; empty: none yet
    dti_bell *bell;
    uint64_t bell_slots;         // in use
    uint64_t got;
    int64_t alive_at;            // the thread's; monotonic: when the last turn that went well was sent
    dtask_task *out, *out_last;  // the outbox
    unsigned nout;
    bool urgent;                 // it must not wait
    int64_t flush_at;            // monotonic: it may wait so long; 0: for the next turn
    int64_t due_at;              // wall clock: first due that we caused, 0 none
    dti_frames unread; int64_t unread_at; // the thread's: mail that could not be read; when to try again, 0 never
    bool drain;                  // something there waits to run alone
    dti_asked *of;               // by place in w->handlers
    unsigned asked[DTI_POOLS];   // claims that the turn in flight may bring
    int64_t asked_at;            // monotonic: ..since when; 0: none
    uint64_t turn;               // when it asked last: who asked longest ago is next
    bool restless;               // it sleeps, and may have what there was no room for
};

struct dtask_worker {
    dtask_app *app;
    dti_engine *engine;
    dti_conf conf;
    uint8_t source[DTI_OPTIONS_MAX];
    pthread_mutex_t lock;
    pthread_cond_t work;         // C pool: something to run, or to leave
    pthread_cond_t moved;        // outboxes went, ords came, it ended
    atomic_int refs;             // the caller's, each thread's, each seat's

    bool among;                  // one of several: what the option types names was checked
    uint64_t only;               // not 0: the job whose tasks it claims, and no other's
    dti_handler **handlers; size_t nhandlers, chandlers;
    dti_served *served; size_t nserved; // sorted by no
    dti_callback *callbacks; size_t ncallbacks, ccallbacks;
    dti_arena infos;             // of typeinfos
    char name[64];               // of the first life, in all shards

    dti_link *links; unsigned nlinks; // by shard
    unsigned nlive;              // of their threads
    uint64_t turns;              // for dti_link.turn

    pthread_mutex_t making;      // recursive, taken before lock: handlers, callbacks, start; once started they do not change
    atomic_bool started;
    bool stopping, hard, ended, joined;
    bool say_end, say_drains;    // to be logged by dti_worker_say..
    dti_line *lines;             // ..and of frames, the last first
    unsigned drains_with;        // handlers that ran as it began to
    atomic_int stops, grace_ms;
    int64_t grace_at;            // monotonic
    dtask_err why; char why_text[512];
    sigset_t signals;            // of the thread that started it

    dtask_task **table; size_t ntable, ctable;
    dtask_task *all;
    dti_queue ready[DTI_POOLS];  // claimed
    dti_queue woken;             // pool C: to go on
    dti_queue parked;            // warm ones, oldest first
    dti_queue lonely;            // begin or go on when nothing runs
    dtask_task *alone;           // runs, and nothing beside it
    unsigned executing, running[DTI_POOLS]; // frames that hold a slot; of each pool
    unsigned staying, aside;     // of those executing: what runs alone does not wait for them
    unsigned drain;              // links that drain: run dry, then claim with nothing running
    int64_t dry_at;              // monotonic: since when something waits to run alone, 0 none
    int64_t limit_at;            // monotonic: first `timeout` to look at, 0 none
    int64_t leaked_at;           // monotonic: since when all slots of a pool are leaked

    unsigned slots, nthreads, idle, leaked; // C pool
    dti_fiber *spare; unsigned nspare;
    dti_seat *seats;
    unsigned seats_leaked;
    uint64_t tags_of; dti_buf tags; // of the job that was asked for last
};

// worker.c
dtask_err dti_handler_add(dtask_worker *, const dtask_b_type *, dti_poolkind, dtask_fn *, void *arg, dti_handler **out);
dti_handler *dti_handler_of(dtask_worker *, uint32_t type_no);
dtask_err dti_link_hello(dti_link *);        // a new incarnation; engine call
void dti_worker_hold(dtask_worker *);
void dti_worker_drop(dtask_worker *);
void dti_worker_gone(dtask_worker *);        // its last holder has dropped it
bool dti_worker_forked(const dtask_worker *); // this is the copy in a child process
// What dti_worker_fail and the drain left to be logged: a log function is never called under lock.
void dti_worker_say(dtask_worker *);
void dti_worker_fail(dtask_worker *, dtask_err, const char *text); // L: it ends at once, for this reason

// io.c
void *dti_io_main(void *link);
void dti_io_ring(dti_link *);                // L: it has something to do
void dti_io_ring_all(dtask_worker *);        // L: those that sleep look at what is new
void dti_io_room(dtask_worker *);            // L: a slot is free; a link whose turn it is asks for it
void dti_link_drain(dti_link *, bool);       // L
void dti_out_add(dtask_task *, bool urgent); // L: the frame has something to send

// message.c
typedef struct { dti_unsent *call; uint64_t at; uint32_t pos, count; } dti_piece; // what of a call goes now
typedef struct {
    dtask_task *frame;
    dti_piece *pieces; uint32_t npieces;
    bool whole;                  // nothing is left behind: the end goes too
} dti_flight;
typedef struct {
    dtask_worker *w;
    dti_link *link;
    dti_arena mem;               // of the request; kept until it is answered
    dti_message messages[DTI_MESSAGES_MAX];
    dti_flight flights[DTI_MESSAGES_MAX];
    uint32_t n, nchildren;
    bool failed;                 // no memory for some of it
} dti_turnbox;
void dti_gather(dti_turnbox *);              // L: takes from the outbox
void dti_compose(dti_turnbox *);             // makes the children's records

// answer.c
void dti_answers(dti_turnbox *, dti_turn *);
void dti_mail_again(dti_link *);             // reads what could not be read
void dti_frames_void(dti_turnbox *);         // L: every token of its shard is void, and what is in flight too

// frame.c
// L: NULL: no memory. *out_fits EARGS: its arguments do not fit its deps.
dtask_task *dti_frame_new(dti_link *, dti_handler *, const dti_claim *, dtask_err *out_fits);
void dti_frame_unfit(dtask_task *, const char *why); // L: fails before it begins, for good
dtask_task *dti_frame_find(dtask_worker *, uint64_t job, uint32_t ord); // L
void dti_frame_rest(dtask_task *);           // L: frees it if nothing needs it any more
void dti_frame_lose(dtask_task *);           // L: its token is void
void dti_queue_push(dti_queue *, dtask_task *);
dtask_task *dti_queue_pop(dti_queue *);
bool dti_queue_cut(dti_queue *, dtask_task *);
bool dti_may_begin(dtask_worker *);          // L: a handler may begin or go on now
bool dti_runs_dry(const dtask_worker *);     // L: nothing runs that a lonely one would wait for
void dti_begin_anew(dtask_worker *);         // L: if one may, those that wait for it are rung
void dti_frame_stays(dtask_task *);          // L: it is armed and runs on
void dti_frame_goes_on(dtask_task *);        // L: no longer armed
void dti_frame_aside(dtask_task *);          // L: a lonely one waited for it long enough
void dti_lonely_next(dtask_worker *);        // L: if nothing runs, one that must run alone goes
void dti_frame_begin(dtask_task *);          // L: its handler begins or goes on, or has its seat's promise
void dti_frame_runs(dtask_task *);           // L: ..and runs from now on
void dti_frame_pause(dtask_task *);          // L: ..ends or waits
void dti_frame_resume(dtask_task *, unsigned event); // L: to its pool or seat
bool dti_frame_droppable(const dtask_task *); // L, or its handler: it may run again, at no great cost
void dti_frame_give_back(dtask_task *);      // L: not begun: another may have it
void dti_frame_expired(dtask_task *);        // L: outran its `timeout`
void dti_put_task_id(dti_buf *, const dtask_task *, uint32_t ord); // "job/ord" as msgpack
void dti_frame_log(const dtask_task *, int syslog_level, const char *text); // not under lock
void dti_lines_log(dtask_app *, dti_line *last); // and frees them
void dti_frame_note(const dtask_task *, int syslog_level, const char *text); // L: the same later; the text stays
dtask_err dti_frame_check(dtask_task *);     // before a call of its handler: ELOST, EUSAGE, EENGINE
// Before a C handler's call, first of all: that this thread runs the task's
// handler, in the process that claimed it. A pointer to a task that is gone
// is not looked into. EUSAGE.
dtask_err dti_task_check(const dtask_task *);
dtask_err dti_worker_check(const dtask_worker *); // EUSAGE: NULL, or as dti_app_check
dtask_err dti_frame_broken(const dtask_task *); // EENGINE, with why; else OK
// L: what the engine did not do for it within engine_timeout will not be done:
// calls not yet sent are dropped, its waits end, its handler gets EENGINE.
void dti_frame_break(dtask_task *, const char *why);
typedef enum {
    DTI_O_DONE, DTI_O_FAIL, DTI_O_FATAL, DTI_O_RETRY, DTI_O_CANCELLED, DTI_O_THEN, DTI_O_UNWOUND, DTI_O_SKIP
} dti_outcome;
// L: its handler returned. f->value holds the result or the error map;
// f->retry_after_us and f->freed belong to RETRY.
void dti_frame_end(dtask_task *, dti_outcome);
void dti_frame_give_up(dtask_task *, dti_endkind); // L: takes the outcome out of its handler's hands
void dti_end_set(dtask_task *, dti_endkind); // L

// spawn.c
void dti_unsent_free(dti_unsent *);          // L
void dti_unsent_drop(dtask_task *);          // L: all of the frame
dtask_err dti_sync(dtask_task *, dtask_child *, uint64_t item); // waits until that one's ord is known
dtask_err dti_spawn(dtask_task *, const dtask_b_call *, dtask_child **out);
// common.args is not used; args[i] are the items'.
dtask_err dti_spawn_many(dtask_task *, const dtask_b_call *common, const dtask_str *args, size_t n, dtask_child **out);

// children.c
dtask_child *dti_child_new(dtask_task *, bool batch, uint64_t n); // L
void dti_child_unref(dtask_child *);         // L
void dti_children_free(dtask_task *);        // L
bool dti_child_ord(dtask_child *, uint32_t ord); // L: it is known now
bool dti_batch_add(dtask_child *, uint64_t at, uint32_t ord, uint32_t count); // L
bool dti_batch_ord(const dtask_child *, uint64_t item, uint32_t *out); // L
bool dti_own_add(dtask_task *, uint32_t first, uint32_t count); // L
bool dti_child_done(const dtask_child *);    // L; a joined one always: it is no child to wait for
bool dti_batch_join(dtask_child *, uint64_t at, const char *id); // L
dtask_child *dti_child_by_ord(dtask_task *, uint32_t ord); // L
void dti_child_ended(dtask_task *, const dti_mail *); // L: the child mail->ord is complete
void dti_child_known(dtask_child *, bool bad); // L: it is complete; how is read when asked for
dtask_err dti_child_load(dtask_child *);     // reads how it ended if need be
void dti_child_end(dtask_child *, const dti_mail *); // L: it ended so
dtask_err dti_read_op(dtask_task *, dti_arena *, dti_op *); // one read of the engine; the reply lies in the arena

// ---- calls that were there by their unique key (unique.c) ----
void dti_joined_spec(dtask_child *, const dti_new *); // its call; child or batch, or NULL
void dti_joined_unheld(dtask_task *, const dti_new *, uint32_t ord); // L: the same of a child without a handle
uint8_t dti_joined_over(const dtask_task *, uint32_t ord); // L: DTI_OVER_.. of a child that has none yet
dtask_str dti_joined_id(const dtask_child *, const dti_mail *); // it ended so: the task that it stands for, or empty
bool dti_joined_take(dtask_child *, const dti_mail *); // L: it stands for another task, from now on
dtask_err dti_joined_read(dtask_child *, dtask_str id, dti_arena *, dti_taskview *out); // EDEADLOCK: not complete
dtask_err dti_joined_load(dtask_child *);    // reads how the other ended, if it has
dtask_err dti_joined_look(dtask_child *);    // whether its row says that it is another's
dtask_err dti_joined_not_ours(const char *id);
dtask_err dti_child_outcome(dtask_child *, bool looked, dtask_str *out); // 0 and the result, or the error map
void dti_child_failures(const dtask_child *, dtask_err, dtask_str map, dti_failures *); // of such an outcome
dtask_err dti_child_fails(dtask_child *, dtask_err, dtask_str map); // a C handler gets this outcome; returns the error
void dti_ack_add(dtask_task *, uint32_t ord, bool replaced); // L

// handles.c: of the frame that this thread runs
dtask_err dti_handle_room(dtask_task *);     // the next dti_handle_of has a place; ENOMEM
dtask_child *dti_handle_of(dtask_task *, dtask_child *); // takes a reference, which dtask_child_free drops
dtask_child *dti_handle_child(const dtask_task *, const dtask_child *handle); // NULL: is none of this frame

// match.c
typedef struct { bool found, redo, done, bad; uint32_t ord, type; } dti_found; // type 0: not known any more
dtask_err dti_match_new(dtask_task *, dti_match **out);
void dti_match_free(dti_match *);
dtask_err dti_match_take(dtask_task *, const uint64_t call[2], dti_found *out); // may read a page

// wait.c
dtask_err dti_wait_arm(dtask_task *, dtask_child *const *, size_t n, int flags, int64_t ms, bool next);
bool dti_wait_holds(dtask_task *);           // L: something armed is there, or nothing of it is awaited any more
bool dti_wait_met(dtask_task *);             // L: something armed is there
void dti_wait_disarm(dtask_task *);          // L
void dti_wait_park(dtask_task *, dti_parkhow); // L: queues the park
void dti_wait_arms(dtask_task *);            // L: sets f->mask; at the time the message is made
// L: the ranges to tell with this message; false: some are left for the next.
bool dti_wait_tell(dtask_task *, const dti_flight *, dti_arena *, const dti_range **out, uint32_t *out_n);
void dti_wait_untell(dtask_task *);          // L: the store did not hear what was told last
int64_t dti_wait_due(const dtask_task *);    // L
void dti_deliver(dtask_task *, const dti_mail *, uint32_t n); // L
void dti_settle(dtask_task *);               // L: its row runs again: resume it, or park on
dtask_err dti_own_row(dtask_task *, dti_taskrow *out); // engine call
dtask_err dti_wait_child(dtask_task *, dtask_child *, int ms); // dtask_wait of the child itself
// A C handler that took what lies in its log before `received` waits for a
// signal after it. Errors as of dtask_wait.
dtask_err dti_wait_mail(dtask_task *, uint32_t received);

// pool.c
void dti_pool_wake(dtask_worker *);          // L: there is something to run
dtask_task *dti_pool_runs(void);             // whose handler this thread runs; NULL: none
void dti_pool_park(dtask_task *);            // on its stack: returns when resumed
bool dti_pool_can_park(dtask_task *);
void dti_fibers_free(dtask_worker *);

// seats.c
void dti_seat_event(dtask_task *, unsigned event); // L
void dti_seats_wake(dtask_worker *, dti_poolkind); // L: there is something to run
unsigned dti_seats_room(dtask_worker *, dti_poolkind, unsigned *out_slots); // L: free slots, all slots
void dti_seat_left(dtask_task *);            // L: it holds its seat's slot no more
void dti_seats_ring(dtask_worker *);         // L: the worker ended
void dti_seat_forget(dtask_task *);          // L: the frame goes

// handler.c
dtask_err dti_args_fill(dti_buf *, const dti_claim *); // outputs put in their places; EARGS, ENOMEM
dtask_err dti_args_check(dtask_str args, size_t ndeps); // EARGS: they stand for another dep's result
// A call gives a C handler this error, for its children: if that is what it
// returns, its task fails with ChildrenFailed. The thread's detail is set before.
void dti_fallen_keep(dtask_task *, dtask_err err, const dti_failures *);
dtask_err dti_fail_as(dtask_task *, dtask_err err, dtask_str map); // fails with this error map; returns err
void dti_outcome_of(dtask_task *, dtask_err err, dti_outcome *out); // what a C handler's return means

dtask_err dti_handler_name_check(const char *type); // EARGS: the library's own

// preflight.c
bool dti_types_name(const char *list, const char *type); // "a,b" names it
// EARGS: the list names one that is not in `has`; says which are near.
dtask_err dti_types_check(const char *list, const char *const *has, size_t n);

// system.c
dtask_err dti_system_add(dtask_worker *);

// join.c
enum { DTI_JOIN_SIDES_MAX = 64 };
typedef struct {
    dtask_str join;              // id of the join's job: one for each condition; the first occurrence starts it
    dtask_str type;              // the type to start
    uint32_t sides, side;        // 2 to DTI_JOIN_SIDES_MAX; from 0
    dtask_str id;                // what occurred, in text: "job/3"; known for a day
    dtask_str value;             // what the started job gets to see of it: one msgpack value
} dti_occurrence;
// Hands an occurrence to its join; posted before: nothing happens. Any
// thread. Waits for the engine. EARGS: malformed. ENOTFOUND: no such type.
// ECONFLICT: that job is another condition's. ETOOBIG: so many of this side
// are unused that no more are kept; or the value is. EUSAGE: the join was
// cancelled or failed. EENGINE, ENOMEM.
dtask_err dti_join_post(dtask_app *, const dti_occurrence *);
dtask_err dti_join_run(dtask_task *, void *arg); // the handler
