// The records of the model, as they lie in every store.
//
// Each fixed record begins with a version byte (DTI_ROW_VERSION), has no
// padding, and holds little-endian integers as the machine has them; the
// store's meta row says so, and a store of another kind is refused at open.
// Times are microseconds since 1970 (wall clock); 0 means none. A job is
// known inside by its job no, a type by its type no, a worker by its worker
// no: all from counters in meta, from 1, never used again.
#pragma once

#include "base/base.h"

enum { DTI_ROW_VERSION = 1, DTI_SCHEMA_READ_MIN = 1, DTI_SCHEMA_WRITE = 1 };

// ---- states ---------------------------------------------------------------
typedef enum {
    DTI_BLOCKED,    // waits for a sibling, a limit, or a paused job
    DTI_SCHEDULED,  // due later
    DTI_READY,      // in a lane
    DTI_RUNNING,    // claimed by a worker: executing, or in its queue
    DTI_PARKED,     // its handler waits; warm with an owner, cold without
    DTI_CLOSING,    // handler finished, descendants live
    DTI_SUCCEEDED,  // the terminal four, last, in this order
    DTI_FAILED,
    DTI_CANCELLED,
    DTI_SKIPPED,
    DTI_STATES
} dti_state;
static inline bool dti_terminal(unsigned s) { return s >= DTI_SUCCEEDED; }
extern const char *const dti_state_names[DTI_STATES];

typedef enum { DTI_JOB_RUNNING, DTI_JOB_CANCELLING, DTI_JOB_SUCCEEDED, DTI_JOB_FAILED, DTI_JOB_CANCELLED } dti_jobstate;
extern const char *const dti_jobstate_names[5];

// What a parked task waits for (dti_taskrow.wait). THEN is no condition: it
// makes the wake refuse a bad end.
enum { DTI_QUIET = 1, DTI_MAIL = 2, DTI_DUE = 4, DTI_LIMIT_WAIT = 8, DTI_PAUSE = 16, DTI_THEN = 32 };

// dti_taskrow.bits
enum {
    DTI_SEEN = 1,       // its failure counts as looked at
    DTI_REPLACED = 2,   // a retry of its parent made it anew
    DTI_FIRST = 4,      // its present claim is its first: released unstarted, it has not begun
    DTI_CANCEL = 8,     // marked: it and all below end
    DTI_PERMIT = 16,    // holds its permits
    DTI_JOURNAL = 32,   // its notes are replayed in order
    DTI_UNDO = 64,      // its log holds undo calls
    DTI_HAS_KEYS = 128, // data KEYS is there: limits, unique
    DTI_TELLS = 256,    // data TOLD is there
    DTI_HAS_EDGES = 512,   // some sibling waits for it
    DTI_HAS_DEPS = 1024,   // data DEPS is there
    DTI_LASTLY = 2048,  // spawned by a message that ended its parent: back of the lane
    DTI_HAS_STATE = 4096,     // data STATE, PROGRESS, ERROR are there
    DTI_HAS_PROGRESS = 8192,
    DTI_HAS_ERROR = 16384,
};

// Why a task was skipped or failed by the model itself (dti_taskrow.reason).
typedef enum {
    DTI_R_NONE, DTI_R_AFTER, DTI_R_LIMIT, DTI_R_EXPIRED, DTI_R_UNIQUE, DTI_R_TEST, // skipped
    DTI_R_LOST,      // failed: lost more often than `crashes` allows
    DTI_R_CHILDREN,  // failed: a `then` not run, for a child or dep was not good
    DTI_R_GRACE,     // cancelled: the handler outstayed its grace
} dti_reason;

// ---- variable data of a task: key (job no, ord, kind) -------------------------
typedef enum {
    DTI_D_ARGS,      // msgpack array
    DTI_D_KEYS,      // dti_keyspec[]
    DTI_D_DEPS,      // u32 ord[], in the order of the call's outputs
    DTI_D_TOLD,      // dti_range[]
    DTI_D_RESULT,    // msgpack value; absent: nil
    DTI_D_ERROR,     // msgpack map {type, message, traceback, language}
    DTI_D_PROGRESS,  // msgpack array [done, total]
    DTI_D_STATE,     // msgpack map: flow.state
    DTI_D_ID,        // ord 0 only: the job's id
    DTI_D_TAGS,      // ord 0 only: msgpack map
    DTI_D_TRIGGER,   // ord 0 only: msgpack map, the occurrence that started the job
} dti_data;

typedef struct {
    uint8_t version, shards, pad[6];
    uint32_t read_min, write;
    uint64_t order;              // 0x0807060504030201 as this machine writes it
    uint64_t salt;               // of call, unique and blob hashes
    uint64_t era;
    uint64_t next_job, next_type, next_lane, next_limit, next_worker, next_todo, next_lapse;
    uint64_t todos;              // rows in todo
    int64_t lease_us;            // the longest that a worker has asked for
    int64_t last_time;           // of the last request
    int64_t resumed;             // end of the last outage: no request for longer than half a lease
    int64_t drain_asked;         // when a turn last answered `drain`, or a task came to `alone`
    uint32_t undo_type;          // no of the system type that runs undo calls
    uint32_t any_root;           // not 0: some callbacks listen to every root type
    char run_id[64];             // the store's, under which era was made
} dti_meta;

typedef struct {
    uint8_t version, paused, served, system; // served: some worker said hello with it
    uint32_t no, type_version, crashes;
    uint64_t vmin;               // least vtime given out: lanes that enter begin here
    uint32_t name_n, signature_n, options_n;
    uint32_t workers;            // live ones that serve it
    uint32_t listeners;          // not 0: `listen` has rows for it
    uint32_t pad;
    // name, signature, options (msgpack map) follow
} dti_type;

typedef struct {
    uint8_t version, state, paused, keep; // keep: DTI_KEEP_*
    uint32_t type;
    uint32_t next;               // = added
    uint32_t gone;               // succeeded rows not kept
    uint64_t claimed;
    uint32_t count[DTI_STATES];
    uint32_t max_tasks, max_depth;
    uint32_t hooks;              // callback and undo jobs of this one that have not ended
    uint32_t log_n;              // emits so far
    uint32_t blob_min, pad;      // longer values lie in `blob`
    uint64_t log_bytes;
    uint64_t of;                 // the job that this one retries, or 0
    uint64_t hook_of;            // the job whose callback or undo this one is, or 0
    uint64_t lanes;              // the last lane made for it: type no * 8 + prio + 2, or 0
    int64_t created, ended;
    int64_t retain_us, grace_us;
    dti_hash blob;               // the last made for it; 0: none
} dti_jobrow;
enum { DTI_KEEP_FAILED, DTI_KEEP_ALL, DTI_KEEP_ROOT };

typedef struct { uint8_t version, pad[7]; dti_hash before; } dti_blob; // before: the one made before it for the same job

typedef struct {
    uint8_t version, state, verdict, wait;
    int8_t prio;
    uint8_t reason;
    uint16_t bits;
    uint32_t type, parent, depth;
    uint32_t open, need, bad, blame;
    uint32_t attempt, tries, freed, ptries, lost; // freed: of tries, those not counted
    uint32_t retries, crashes, timeout_ms;        // policy of this call
    uint32_t seq;                // last message applied under token
    uint32_t base, nkids;        // first child ord matched by a re-run; kids rows so far
    uint32_t logn, logr, emits;  // log: entries so far; read so far; emits so far
    uint32_t log_bytes;
    uint32_t park_seq, lastkid;  // seq of the message that armed `wait`; key of its last kids row
    uint32_t notes, at_limit;    // notes and signals in its log; LIMIT: 1 + place in KEYS of the one it waits at
    uint64_t call[2];
    uint64_t owner, token, by;   // by: last owner
    int64_t added, begun, ended, expires, due;
} dti_taskrow;

// One limit or unique key of a call; made by the caller's core from its
// options, compared by the shard.
typedef struct {
    uint64_t h[2];               // of type, scope and key values, salted
    uint8_t kind;                // DTI_KEY_*
    uint8_t over;                // limit: DTI_OVER_QUEUE.. ; unique: DTI_OVER_JOIN..
    uint8_t until;               // unique: DTI_UNTIL_END or DTI_UNTIL_RUN
    uint8_t scope;               // 0 app, 1 job
    uint8_t same;                // unique: other arguments conflict
    uint8_t pad[3];
    uint64_t max;                // limit
    int64_t per_us;              // limit: 0, or n begun in so long
    int64_t keep_us;             // unique
} dti_keyspec;
enum { DTI_KEY_LIMIT, DTI_KEY_UNIQUE };
enum { DTI_OVER_QUEUE, DTI_OVER_DROP, DTI_OVER_FAIL, DTI_OVER_JOIN, DTI_OVER_RAISE };
enum { DTI_UNTIL_END, DTI_UNTIL_RUN };

typedef struct { uint8_t version, pad[3]; uint32_t attempt, seq, first, count, prev; } dti_kids; // prev: key of the row before

typedef struct {
    uint8_t version, kind, pad[2];  // DTI_LOG_*
    uint32_t ord;                // kid: the child
    uint32_t name_n, data_n;     // sig, note, emit: bytes that follow
    int64_t time;
} dti_log;
typedef enum { DTI_LOG_NOTE, DTI_LOG_SIG, DTI_LOG_KID, DTI_LOG_WOKE, DTI_LOG_EMIT, DTI_LOG_UNDO } dti_logkind;
#define DTI_EMITS UINT32_MAX     // as ord in table LOG: the job's emits

// Extents lie at [head, tail); next: the lane made before it for the same job, coded as in dti_jobrow.
typedef struct { uint8_t version, pad[7]; uint64_t no, vtime, head, tail, next; } dti_lane;
enum { DTI_BITS_MIDDLE = 62 };   // head and tail begin at 1 << 62
typedef struct { uint8_t version, prio, pad[6]; uint64_t job; } dti_turnq;  // prio + 2
typedef struct { uint8_t version, pad[3]; uint32_t first, count, pad2; uint64_t job; } dti_ext;
typedef struct { uint8_t version, pad[7]; uint64_t no, max, used, head, tail; } dti_limit;
typedef struct {
    uint8_t version, until, scope, freed; uint32_t ord; // freed: no longer held, kept until lapse
    uint64_t job, call[2]; int64_t keep_us, lapse;
} dti_uniq;
typedef struct { uint8_t version, kind, pad[6]; uint64_t h[2]; } dti_lapse; // DTI_LAPSE_*; h: what it is of
enum {
    DTI_LAPSE_LIMIT,   // a permit of a `per` limit comes back; h: the limit's
    DTI_LAPSE_UNIQUE,  // a key that was kept; h: the key's
    DTI_LAPSE_WORKER,  // a lease may be over; h[0]: worker no
    DTI_LAPSE_GONE,    // the row of a worker that ended; h[0]: worker no
    DTI_LAPSE_RETAIN,  // a job's time is over; h[0]: job no
};
// A listener: value of `listen`; the filter (msgpack array of position, value, ..) follows.
typedef struct { uint8_t version, pad; uint16_t states; uint32_t filter_n; } dti_listenrow;
typedef struct {
    uint8_t version, dead, pad[6];
    uint64_t no, nonce, next_wake;
    int64_t lease_us, expires, since;
    char name[64];               // "host:pid:random", NUL-padded
} dti_workerrow;
typedef struct { uint8_t version, cancel, pad[2]; uint32_t ord; uint64_t job, token; uint32_t seq, pad2; } dti_wakerow;
typedef struct { uint8_t version, kind, arg, pad; uint32_t ord; uint64_t job, cursor; } dti_todo; // DTI_DO_*
typedef enum {         // what an operation left undone; job, ord name the task where nothing else is said
    DTI_DO_COMPLETE,   // it is closing, and its last child completed
    DTI_DO_SETTLE,     // it is ready in no extent: cancelled, or expired
    DTI_DO_WAKE,       // it is parked cold, and what it waits for is there
    DTI_DO_EDGES,      // it ended: its dependents
    DTI_DO_DROP,       // it completed: its children's payloads, from ord `cursor`; arg 1: of that one only
    DTI_DO_CANCEL,     // it is marked: all below it, from ord `cursor`, depth first
    DTI_DO_CANCEL_KIDS, // of its children those in a range: cursor is first << 32 | count
    DTI_DO_CANCEL_JOB, // all tasks, from ord `cursor`
    DTI_DO_PAUSE,      // the job's lanes
    DTI_DO_RESUME,     // all tasks, from ord `cursor`
    DTI_DO_LANES,      // the job ended: its lanes
    DTI_DO_PURGE,      // all its rows, from ord `cursor`; arg 1: emits are gone
    DTI_DO_LIMIT,      // has free permits; job, cursor: its hash
    DTI_DO_WORKER,     // has ended; job: worker no; arg 1: charge what it held running
    DTI_DO_KINDS
} dti_do;
typedef struct { uint8_t version, pad[7]; int64_t next; uint64_t job; } dti_cron; // job: the last tick's
typedef struct { uint32_t first, count; uint8_t bad_only, pad[3]; } dti_range;

_Static_assert(sizeof(dti_taskrow) == 192, "task row: no padding");
_Static_assert(sizeof(dti_jobrow) == 168, "job row: no padding");
