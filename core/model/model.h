// The model: one state machine that every engine runs. Eight operations over
// the rows of rows.h, through the seam of store.h.
//
// Guaranteed: an operation is one transaction's worth of changes; a request
// that is refused changes nothing; every edge that a task's state takes is
// one of the table in states.c; at most DTI_CASCADE steps are taken before
// the rest goes to the shard's todo, which `sweep` works off.
//
// Not done here: time (handed in), chance, locks, durability, waking sleeping
// processes (the effects say whom), retry-or-not and backoff (the worker's).
//
// Memory: everything that a reply points at lies in the transaction's arena,
// or in the request.
#pragma once

#include "model/rows.h"
#include "model/store.h"

enum {
    DTI_CASCADE = 256,           // steps of an operation before it leaves a todo
    DTI_MESSAGES_MAX = 128,      // in a turn
    DTI_CHILDREN_MAX = 2048,     // in a turn
    DTI_QUANTUM = 8,             // claims from one lane before the next is asked
    DTI_MAILS_MAX = 512,         // with one wake; the rest is read
    DTI_LOG_MAX = 10000,         // notes and signals of a task
    DTI_LOG_BYTES_MAX = 1 << 20,
    DTI_EMITS_MAX = 100000,      // of a job
    DTI_TOLD_MAX = 256,          // ranges
    DTI_BLOB_MIN = 64 << 10,     // bytes
    DTI_ENDED_MAX = 64,          // ends that a transaction's effects name before tasks are left out
    DTI_BANGS_MAX = 7,           // '!' in a job id
};
#define DTI_HERE 0x80000000u     // a ref: position in this message's children, else an ord

typedef struct {                 // what a transaction did that others wait for
    uint32_t *types; size_t ntypes, ctypes;     // have new ready tasks (no duplicates)
    uint64_t *workers; size_t nworkers, cworkers; // have new wakes
    dti_hash *ended; size_t nended, cended;     // of jobs (dti_id_hash) and of tasks (dti_task_hash) that ended
    bool ended_more;             // and of tasks that are not in it: DTI_ENDED_MAX
    bool todo;                   // work that somebody waits for was left: a sweep is due at once
} dti_effects;                   // lies in the arena

typedef struct {
    dti_store *store;
    dti_arena *arena;
    int64_t now;                 // wall clock, us
    dti_effects fx;
    uint32_t cascade;            // steps of an operation but sweep; 0: DTI_CASCADE
    void *work;                  // the model's own: cascade in progress
} dti_tx;

// ---- 1. start --------------------------------------------------------------
typedef struct {                 // a task to be made
    uint32_t type;               // its no
    int8_t prio;
    bool may_fail, journal;
    uint64_t call[2];            // hash of type and args, or of the key
    dtask_str args;
    uint32_t retries, crashes, timeout_ms;
    uint32_t ptries;             // the parent's tries
    int64_t due, expires;        // absolute us, 0 none
    const uint32_t *deps; uint32_t ndeps;       // refs: earlier siblings; order: outputs first
    const dti_keyspec *keys; uint32_t nkeys;
} dti_new;

typedef struct {
    dtask_str id;                // of the job; must be valid (dti_id_check)
    // The name of task.type, which goes before the number: a store that has lost its types gives other ones. An engine may route
    // by it; empty: the number counts, and it goes to the store at once.
    dtask_str type;
    dti_new task;
    dtask_str tags;              // msgpack map or empty
    dtask_str trigger;           // msgpack map or empty
    uint64_t of;                 // job no that this retries, or 0
    uint32_t max_tasks, max_depth; // 0: UINT32_MAX
    uint32_t blob_min;           // bytes; 0: DTI_BLOB_MIN
    uint8_t keep;
    int64_t retain_us, grace_us;
    // out
    enum { DTI_CREATED, DTI_EXISTS, DTI_CONFLICT, DTI_UNKNOWN } status;
    uint64_t job;                // EXISTS with a unique key joined: that job
    dtask_str joined;            // then: "job" or "job/ord" that was joined; else empty
} dti_start;

// ---- 2. hello, bye -----------------------------------------------------------
typedef struct {
    dtask_str name, signature, options;
    uint32_t version, crashes;
    bool named;                  // a listener or subject that this worker does not serve: only what is absent is filled
    // out
    uint32_t no;
    bool refused;                // another signature is registered
    dtask_str registered;        // then: that one
} dti_hello_type;
typedef struct {
    uint32_t listener;           // index into types
    uint32_t subject;            // index into types, or UINT32_MAX: every root type (callbacks only)
    uint8_t kind;                // DTI_L_*
    uint16_t states;             // bit per state: which ends
    dtask_str filter;            // TRIGGER: msgpack array of position, value, ..: these arguments are so; or empty
} dti_listen;
enum { DTI_L_CALLBACK, DTI_L_TRIGGER };
typedef struct {
    dtask_str name;              // of this incarnation; empty: a client declares types, fills only what is absent
    dtask_str was;               // the name of its last one, if any, which ends: it did not die, so nothing that it held is charged
    int64_t lease_us;            // 0: the engine sees deaths itself
    dti_hello_type *types; uint32_t ntypes;
    const dti_listen *listens; uint32_t nlistens;
    bool bye;                    // instead: gives all back and leaves
    uint64_t worker;             // bye: in; hello: out
} dti_hello;

// ---- 3. turn -----------------------------------------------------------------
typedef struct { uint8_t kind; dtask_str name, data; } dti_note;  // DTI_LOG_NOTE, EMIT, UNDO
typedef struct { uint32_t ref; bool replaced; } dti_ack;
typedef enum {
    DTI_END_NONE, DTI_END_SUCCEED, DTI_END_FAIL, DTI_END_CANCELLED, DTI_END_SKIP,
    DTI_END_RELEASE, DTI_END_PARK, DTI_END_BECOME
} dti_endkind;
typedef enum { DTI_WARM, DTI_COLD, DTI_STAY } dti_parkhow;

typedef struct {
    uint64_t job; uint32_t ord;
    uint64_t token; uint32_t seq; // 1, 2, .. under this token
    const dti_new *children; uint32_t nchildren;
    const dti_note *notes; uint32_t nnotes;
    const dti_ack *acks; uint32_t nacks;
    const dti_range *told; uint32_t ntold;      // first is a ref
    dtask_str progress, state;   // empty: unchanged
    dti_endkind end;
    dtask_str value;             // SUCCEED: result, FAIL and CANCELLED: error, SKIP: empty
    bool retry, freed;           // FAIL: again at retry_at; not counted
    int64_t retry_at;
    bool unstarted;              // RELEASE: it never began
    uint8_t mask; dti_parkhow how; int64_t due; uint32_t read; // PARK; read: log entries consumed (BECOME too)
    const dti_new *next;         // BECOME; deps: refs
} dti_message;

// unique: that call's task, not a child; id is its job's. conflict: over=raise, or `same` and other arguments.
typedef struct { uint32_t pos, ord; uint64_t job; dtask_str id; bool conflict; } dti_joined;

typedef struct {
    enum { DTI_OK, DTI_STALE, DTI_ALREADY, DTI_GAP, DTI_TOOBIG, DTI_FULL, DTI_BAD } status;
    uint32_t first, count;       // ords of the children that were made; joined ones are left out
    bool now;                    // PARK: something awaited holds already: still running, mails below
    bool cancelling;             // children were not made; the task is to end
    uint8_t state, mask;         // after it
    const dti_joined *joined; uint32_t njoined;
    const struct dti_mail *mails; uint32_t nmails; bool more; // with `now`
    uint32_t logn;
} dti_answer;

typedef struct dti_mail {
    uint32_t n;                  // its place in the log
    uint8_t kind;                // DTI_LOG_KID or DTI_LOG_SIG
    uint32_t ord;                // KID
    uint8_t state; bool bad; uint8_t reason;
    uint32_t blame; uint8_t blame_state, blame_reason; // bad: the failed descendant (or itself)
    uint32_t attempts;
    dtask_str type;              // name, of the blamed where bad
    dtask_str name, data;        // KID: result, or error of the blamed; SIG: name, value
} dti_mail;

typedef struct { uint32_t type; uint32_t n; } dti_want; // at most n of it
typedef struct {
    uint64_t job; uint32_t ord; uint64_t token;
    dti_taskrow row;
    dtask_str id;                // the job's
    dtask_str args, state, trigger;
    const dti_mail *deps; uint32_t ndeps;       // results of deps, in order
    bool again;                  // token was given out before (the turn was resent)
} dti_claim;
typedef struct {
    uint64_t n;                  // acknowledge by `got`
    uint64_t job; uint32_t ord; uint64_t token; uint32_t seq;
    bool cancel;                 // asked to end; else woken
    uint8_t state; uint32_t logn;
    const dti_mail *mails; uint32_t nmails; bool more;
} dti_wake;

typedef struct {
    uint64_t worker, era, nonce, got; // got: wakes up to here have arrived
    const dti_message *messages; uint32_t nmessages;
    const dti_want *want; uint32_t nwant;
    uint32_t n;                  // claims wanted in all
    bool empty;                  // nothing runs here: may take tasks that must run alone
    uint64_t only;               // not 0: claims of this job and of its callbacks and undo alone
    // out
    enum { DTI_TURN_OK, DTI_TURN_DEAD, DTI_TURN_OLD, DTI_TURN_ERA } status; // not OK: nothing was applied
    dti_answer *answers;         // one for each message
    dti_claim *claims; uint32_t nclaims;
    dti_wake *wakes; uint32_t nwakes;
    bool drain;                  // run dry: a task waits to run alone
    bool todo;                   // as in dti_effects: sweep at once
    bool stored;                 // with an error: all was applied and the lease is renewed, but there will be no claims
} dti_turn;

// ---- 4. read -----------------------------------------------------------------
typedef struct {
    uint64_t job; uint32_t ord;
    dtask_str id;                // the job's
    dti_taskrow row;
    dtask_str type, by;          // names
    dtask_str args, result, error, progress, state;
    dti_mail end;                // terminal: how it ended, as a waiter gets it
    dtask_str deps;              // failed, reason CHILDREN: those of the `then` that was not run, ords of 4 bytes
} dti_taskview;
typedef struct {
    uint64_t no; dtask_str id, type, tags;
    dti_jobrow row;
    dti_taskview root;
} dti_jobview;
typedef struct { dti_type row; dtask_str name, signature, options; } dti_typeview;
typedef struct { dti_workerrow row; } dti_workerview;
typedef struct {
    enum { DTI_READ_JOB, DTI_READ_TASK, DTI_READ_KIDS, DTI_READ_LOG, DTI_READ_TYPE, DTI_READ_TYPES, DTI_READ_JOBS,
        DTI_READ_WORKERS } what;
    dtask_str id;                // JOB, TASK, KIDS, LOG; TYPE: its name
    uint64_t job;                // instead of id, where known
    uint32_t ord, from, limit;   // KIDS: children of ord, from ord `from`; LOG: entries from
    uint32_t version;            // TYPE: 0 the newest; else of that no where id is empty
    int state;                   // JOBS: a dti_jobstate or -1; newest first
    uint64_t before;             // JOBS: job no, 0 none
    bool whole;                  // KIDS: with args and outcomes, else the row alone
    bool brief;                  // the caller does without: a server that is away is not waited for
    // out; nothing found: n = 0
    uint32_t n; bool more; uint32_t next;       // next: `from` of the next page
    dti_jobview *jobs; dti_taskview *tasks; dti_mail *mails; dti_typeview *types; dti_workerview *workers;
} dti_read;

// ---- 5. post, 6. mark, 7. sweep, 8. era -----------------------------------------
typedef struct {
    dtask_str id; uint32_t ord;
    uint64_t msgid[2]; dtask_str name, data;
    enum { DTI_POSTED, DTI_DUP, DTI_ENDED, DTI_POST_FULL, DTI_NOTASK } status; // out
} dti_post;
typedef struct {
    enum { DTI_MARK_CANCEL, DTI_MARK_PAUSE, DTI_MARK_RESUME, DTI_MARK_PURGE } verb;
    dtask_str id;                // a job's; or empty, with type
    uint32_t type;               // PAUSE, RESUME of a type
    bool kids; uint32_t ord;     // CANCEL of children of ord (false: the task ord; ord 0: the job)
    const dti_range *ranges; uint32_t nranges;
    enum { DTI_MARKED, DTI_MARK_ENDED, DTI_MARK_NONE, DTI_MARK_BUSY } status; // out; BUSY: purge of a live job
} dti_mark;
typedef struct {
    uint32_t budget;             // steps
    const uint64_t *dead; uint32_t ndead;       // workers that the engine saw die
    const struct dti_charge *charge; uint32_t ncharge; // what those were executing; NULL with charge_all
    bool charge_all;             // the engine cannot tell: all that they held running
    const struct dti_tick { uint32_t type; int64_t at, next; } *ticks; uint32_t nticks; // cron, by the caller
    // out
    int64_t next;                // when to sweep again, us; now: more to do
    uint32_t steps;
} dti_sweep;
typedef struct dti_charge { uint64_t job; uint32_t ord; } dti_charge;
typedef struct { dtask_str run_id; uint64_t era; bool fresh; } dti_era;

// Redis alone, for the engine kafka: a start that lies in a log, taken in with
// the log's position, so that each is taken once and none is left out.
typedef struct {
    dtask_str source;            // "topic/partition"
    uint64_t from, next;         // the position before it and behind it; equal: only asks for `at`
    bool skip;                   // nothing is started: it was no start, or is refused
    dtask_str refused;           // skip: why; start.id is there then, failed with it. Empty: nobody is told
    dti_start start;             // on a conflict "<id>!conflict" is started, failed
    // out
    enum { DTI_TAKEN, DTI_TAKEN_BEFORE, DTI_TAKEN_NOT } status; // NOT: the position is another
    uint64_t at;                 // the position now
} dti_intake;

// The same: ends of jobs that are to be told outside, kept from the change on
// that ends the job until they are acknowledged.
typedef struct {
    enum { DTI_DONE_AS_IS, DTI_DONE_KEEP, DTI_DONE_LEAVE } keep; // whether they are kept from now on
    uint64_t worker;             // one at a time is given them
    uint64_t era, upto;          // in: those before upto, given in that era, are told; 0: none. out: the shard's era
    uint32_t n;                  // at most so many are wanted
    // out
    bool on;                     // they are kept
    uint64_t first, waiting;     // the number of the first one that is not acknowledged; how many there are
    const dtask_str *ends; uint32_t nends;      // from first on, as records: proto/kafka.md
} dti_done;

// ---- any of them ---------------------------------------------------------------
typedef enum { DTI_OP_START, DTI_OP_HELLO, DTI_OP_TURN, DTI_OP_READ, DTI_OP_POST, DTI_OP_MARK, DTI_OP_SWEEP, DTI_OP_ERA, DTI_OP_INTAKE, DTI_OP_DONE } dti_opkind;
typedef struct {
    dti_opkind kind;
    uint8_t shard;               // hello and bye of a worker, sweep, era: of which shard; the others find theirs
    dtask_err err;               // out: the engine's; other outs are valid on DTASK_OK only
    union {
        dti_start start; dti_hello hello; dti_turn turn; dti_read read; dti_post post; dti_mark mark; dti_sweep sweep; dti_era era; dti_intake intake; dti_done done;
    };
} dti_op;

// Runs one operation inside the transaction tx->store is in. The one entry.
// May dti_raise (the engine rolls back).
void dti_model_run(dti_tx *tx, dti_op *op);
// Makes an empty store ready: meta row, system types. Once, in a transaction.
void dti_model_init(dti_tx *tx, uint64_t salt, uint8_t shards);
// EVERSION where meta is of another schema or machine.
dtask_err dti_model_check(const dti_meta *meta, size_t n);

// 1 to 200 bytes, none of them a control sign or `/`; `!` and `@` only in ids
// the model makes (own = true). ETOOBIG past DTI_BANGS_MAX '!'.
dtask_err dti_id_check(dtask_str id, bool own);
// Splits "job/ord" at the last slash; a bare job id gives ord 0.
bool dti_id_split(dtask_str id, dtask_str *job, uint32_t *ord);
dti_hash dti_id_hash(dtask_str job_id);
dti_hash dti_task_hash(uint64_t job_no, uint32_t ord); // what who waits for a task other than a root sleeps for

// states.c: the one table of legal edges; from DTI_STATES: "made as".
bool dti_edge_legal(unsigned from, unsigned to);

// System types, served by every worker's core.
#define DTI_SYS_MAP "dynatask.map"
#define DTI_SYS_UNDO "dynatask.undo"
#define DTI_SYS_JOIN "dynatask.join"
