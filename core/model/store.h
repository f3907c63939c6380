// The seam between the model and what keeps its rows.
//
// A store is a handful of ordered tables. A row's key is up to three
// unsigned integers, compared as a tuple; its value is bytes. Where the
// value is a fixed record its layout stands in rows.h, begins with a version
// byte and is stored as it lies in memory. The model reads and changes rows
// only through these functions, inside one transaction that the engine opens
// and ends, so the same model runs over any store that has them.
//
// Guaranteed by every store: inside a transaction reads see its own writes;
// `rollback` leaves no trace of it. Not done here: locking, durability,
// choosing when to commit. Those are the engine's.
//
// A store reports its own failures (no memory, I/O) by dti_raise, a longjmp
// to the frame that opened the transaction. So the model has no error paths
// for them and must own nothing that needs a free: it takes memory only from
// the operation's arena.
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

// Every table, its key, and the columns of the key that are used. The first
// group is met by exact key and is hot (a store caches it); the second is
// also walked in order.
#define DTI_TABLES(X)                                                         \
    /* point tables                                                        */ \
    X(META, meta, 1)     /* 0                     -> dti_meta               */ \
    X(TYPE, type, 1)     /* type no               -> dti_type + name, sig.. */ \
    X(TYPEID, typeid, 2) /* hash of name, version -> u32 type no; version 0: the newest */ \
    X(JOB, job, 1)       /* job no                -> dti_jobrow             */ \
    X(JOBID, jobid, 2)   /* hash of id            -> u64 job no             */ \
    X(TASK, task, 2)     /* job no, ord           -> dti_taskrow            */ \
    X(DATA, data, 3)     /* job no, ord, DTI_D_*  -> bytes, or a reference  */ \
    X(BLOB, blob, 3)     /* job no, hash          -> dti_blob + bytes       */ \
    X(LANE, lane, 3)     /* type no, job no, prio -> dti_lane               */ \
    X(LIMIT, limit_, 2)  /* hash                  -> dti_limit              */ \
    X(UNIQ, uniq, 2)     /* hash                  -> dti_uniq               */ \
    X(WORKER, worker, 1) /* worker no             -> dti_workerrow          */ \
    X(WORKERID, workerid, 2) /* hash of name      -> u64 worker no          */ \
    /* ordered tables                                                      */ \
    X(KIDS, kids, 3)     /* job no, parent, first -> dti_kids               */ \
    X(LOG, log, 3)       /* job no, ord|EMITS, n  -> dti_log + name, data   */ \
    X(EDGE, edge, 3)     /* job no, dep, dependent-> empty                  */ \
    X(TURNQ, turnq, 3)   /* type no, vtime, lane no->dti_turnq              */ \
    X(EXT, ext, 2)       /* lane no, position     -> dti_ext                */ \
    X(ALONE, alone, 3)   /* type no, job no, ord  -> empty                  */ \
    X(DUE, due, 3)       /* time us, job no, ord  -> empty                  */ \
    X(LAPSE, lapse, 3)   /* time us, n, 0         -> dti_lapse              */ \
    X(WAITER, waiter, 2) /* limit no, position    -> dti_ext                */ \
    X(HELD, held, 3)     /* worker no, job no,ord -> empty                  */ \
    X(WAKE, wake, 2)     /* worker no, n          -> dti_wakerow            */ \
    X(TODO, todo, 1)     /* n                     -> dti_todo               */ \
    X(DEAD, dead, 2)     /* job no, ord           -> empty                  */ \
    X(JOBS, jobs, 2)     /* state, ~job no        -> empty: newest first    */ \
    X(CRON, cron, 1)     /* type no               -> dti_cron               */ \
    X(LISTEN, listen, 3) /* hash of type's name (0: any root), kind, listener's type no -> dti_listenrow */ \
    X(SERVES, serves, 2) /* worker no, type no    -> empty                  */

typedef enum {
#define X(NAME, name, cols) DTI_T_##NAME,
    DTI_TABLES(X)
#undef X
    DTI_TABLE_COUNT,
    DTI_T_ORDERED = DTI_T_KIDS  // the first that is walked in order
} dti_table;

typedef struct {
    uint64_t a, b, c;
} dti_key;

typedef struct dti_store dti_store;

typedef struct {
    // The row's bytes, or NULL. Valid until the transaction ends or the row
    // is changed. The caller does not write to it.
    const void *(*get)(dti_store *, dti_table, dti_key, size_t *out_n);
    // The same, to be changed in place at its present length; the store
    // keeps what it needs to undo that. NULL where there is no such row.
    // Point tables only. The pointer stays valid until the row is deleted or
    // replaced, or the transaction ends.
    void *(*mut)(dti_store *, dti_table, dti_key);
    // Inserts or replaces. `bytes` may be NULL: n zero bytes. The result
    // points at the stored value, as from `mut` (ordered tables: do not write
    // through it).
    void *(*put)(dti_store *, dti_table, dti_key, const void *bytes, size_t n);
    // Deletes; without effect where there is no such row.
    void (*del)(dti_store *, dti_table, dti_key);
    // Ordered tables: the least row with key >= *inout_key that shares the
    // first `prefix` columns with it (prefix 0: any). True: *inout_key is its
    // key, *out its bytes. The pointer is valid until the next call.
    bool (*seek)(dti_store *, dti_table, int prefix, dti_key *inout_key,
        const void **out, size_t *out_n);
} dti_store_ops;

struct dti_store {
    const dti_store_ops *ops;
    jmp_buf *trap;        // set by the engine around a transaction
    dtask_err trap_err;   // why dti_raise came
};

// Leaves the transaction: the engine rolls it back and answers `err`, with
// the text as detail. A wrong model state comes this way as DTASK_EINTERNAL.
_Noreturn void dti_raise(dti_store *, dtask_err err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static inline const void *dti_get(dti_store *s, dti_table t, uint64_t a, uint64_t b, uint64_t c, size_t *n) {
    return s->ops->get(s, t, (dti_key){a, b, c}, n);
}
static inline void *dti_mut(dti_store *s, dti_table t, uint64_t a, uint64_t b, uint64_t c) {
    return s->ops->mut(s, t, (dti_key){a, b, c});
}
static inline void *dti_put(dti_store *s, dti_table t, uint64_t a, uint64_t b, uint64_t c, const void *p, size_t n) {
    return s->ops->put(s, t, (dti_key){a, b, c}, p, n);
}
static inline void dti_del(dti_store *s, dti_table t, uint64_t a, uint64_t b, uint64_t c) {
    s->ops->del(s, t, (dti_key){a, b, c});
}
