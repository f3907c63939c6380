// What client.c, the call builder and the worker share: the open app, its
// options, its cache of task types, and how a call becomes a row.
//
// The layers: base <- model <- engines <- client <- worker. A worker is made
// of an app; a client needs no worker.
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/msgpack.h"
#include "dynatask_binding.h"
#include "engines/engine.h"

// ---- options: one table (conf.c) of name, unit, default, help ------------------
typedef struct {
    unsigned slots, processes, prefetch;   // slots, processes 0: as many as processors, 1; prefetch: most at once (256)
    int64_t lease_us, grace_us, engine_timeout_us, retain_us;
    uint32_t max_parked, max_depth, max_tasks;
    size_t max_payload, blob_min;
    uint8_t keep;                // DTI_KEEP_*
    bool full;                   // durability=full
    bool counts;                 // history=counts
    char types[1024];            // "a,b": a worker serves only these; empty: all it knows
    char log[16];                // least level that is logged
} dti_conf;

// Where a value came from, for `dynatask config`.
typedef enum { DTI_SRC_DEFAULT, DTI_SRC_FILE, DTI_SRC_ENV, DTI_SRC_URL, DTI_SRC_CODE } dti_source;

// ---- the app --------------------------------------------------------------------
struct dtask_app {
    atomic_int refs;             // the caller's, each job's, each worker's
    atomic_bool closed;
    unsigned fork_gen;           // dti_fork_generation() at open: another one means a child process
    char name[101];
    char *url;                   // as resolved, without secrets in logs
    dti_conf conf;
    uint8_t source[64];          // dti_source, by place in the option table
    dti_engine *engine;          // engine->salt keys the hashes
    struct dti_types *types;     // cache
    pthread_mutex_t log_lock;
    dtask_log_fn *log_fn;
    void *log_arg;
    struct dti_watches *watches; // dtask_job_watch, dtask_fd, dtask_poll
};
// 0, or EUSAGE: closed, or this process is a fork of the one that opened it.
dtask_err dti_app_check(dtask_app *);
void dti_app_hold(dtask_app *);
void dti_app_drop(dtask_app *);          // the last one frees
// One JSON line {time, level, message, ..fields} to the app's log function.
// fields: name, text value, .., NULL (dynatask_job, _task, _type, _attempt).
void dti_app_log(dtask_app *, int syslog_level, const char *const *fields, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

// ---- task types, as their workers published them -------------------------------------
typedef struct {
    double first, factor, max;   // seconds
    bool jitter;
    uint32_t nlist;              // if any: these delays instead, the last one repeats
    double list[32];
} dti_backoff;

typedef struct {                 // one limit or unique of a type; params name the key's arguments
    dti_keyspec spec;            // without its hash
    bool all;                    // "*"
    uint32_t nparams;
    uint16_t params[16];         // positions of parameters
} dti_keyrule;

typedef struct {                 // immutable; lives as long as the app
    uint32_t no, version, min_version;
    const char *name, *signature;
    uint32_t retries, crashes, timeout_ms;
    int64_t expires_us;
    int8_t prio;
    dti_backoff backoff;
    uint32_t nparams;
    const char **params;         // names, for keys and error texts; from the signature or the options
    uint32_t nkeys;
    const dti_keyrule *keys;
    const struct dti_sig *sig;   // parsed signature, NULL if unknown
} dti_typeinfo;
// From the cache, else read from the store (Waits). version 0: the newest.
// ENOTFOUND: no worker or declaration ever named it.
dtask_err dti_type_find(dtask_app *, dtask_str name, uint32_t version, const dti_typeinfo **out);
dtask_err dti_type_by_no(dtask_app *, uint32_t no, const dti_typeinfo **out);
// Parses the published options and signature of a row; EARGS names what is wrong.
dtask_err dti_type_parse(dti_arena *, uint32_t no, uint32_t version, dtask_str name, dtask_str signature, dtask_str options,
    dti_typeinfo **out);

// ---- calls --------------------------------------------------------------------------
typedef struct {                 // OPTS of one call
    dtask_str id, key;           // empty: none
    int64_t delay_us, at_us;     // -1: none
    int prio, retries;           // INT_MIN: as the type says
    int64_t timeout_us, expires_us; // -1: as the type says
    bool may_fail;
    dtask_str tags;              // msgpack map in the arena, or empty
} dti_callopts;
// EARGS names the option. is_start: id and tags are allowed, key is not.
dtask_err dti_callopts_parse(dti_arena *, const char *const *opts, bool is_start, dti_callopts *out);
// Fills *out (but deps, ptries). args: a msgpack array that was checked;
// hashed: what the call hash is of, if not of type and args. EARGS: does not
// fit the type's signature (count, kinds; names the argument). ETOOBIG.
dtask_err dti_call_make(dtask_app *, dti_arena *, const dti_typeinfo *, const dti_callopts *, dtask_str args,
    dtask_str hashed, dti_new *out);

// ---- FMT (dynatask.h) ------------------------------------------------------------------
typedef struct {                 // t: children that stand for their results become EXT_OUTPUT i
    dtask_child *deps[64];
    uint32_t ndeps;
} dti_outputs;
// Appends the values as one msgpack array (as_array), or as the one value if
// there is but one and !as_array (none: nil). outputs NULL: `t` is EARGS.
dtask_err dti_fmt_encode(dti_buf *, bool as_array, dti_outputs *, const char *fmt, va_list ap);
// n more arguments of dtask_map: as dti_fmt_encode as_array, with an i64 in
// front whose place the caller knows to be the first element.
dtask_err dti_fmt_encode_from(dti_buf *, int64_t first, dti_outputs *, const char *fmt, va_list ap);
// args: a msgpack array (is_args: matched by position, or by name where `fmt`
// names them and params gives the names) or one result value. EARGS names it.
dtask_err dti_fmt_decode(dtask_str value, bool is_args, const char *const *params, uint32_t nparams, const char *fmt,
    va_list ap);
// "state:s added:u": names and their values by lookup in a msgpack map.
dtask_err dti_fmt_decode_map(dtask_str map, const char *fmt, va_list ap);

// ---- errors as data ---------------------------------------------------------------------
// The error map {type, message, traceback, language} of the model and the API.
void dti_error_put(dti_buf *, const char *type, dtask_str message, const char *language);
// The whole map that a waiter gets, from a mail (a task's end): type, message,
// traceback, language, task_id, attempts, reason; and the code for its state:
// EFAILED, ECANCELLED, ESKIPPED; 0 for a good end (*out: the result).
dtask_err dti_mail_end(dti_buf *, dtask_str job_id, const dti_mail *, dtask_str *out_result);
// Sets the thread's detail from an error map: "ValueError: no such page (task c-42/17, 3 attempts)".
dtask_err dti_fail_map(dtask_err err, dtask_str error_map);

// ---- signatures: "path:s offset:i -> i; retries=3 timeout=60" (signature.c) ---------------
typedef struct dti_sig {
    uint32_t nparams;
    struct { const char *name; char type; bool optional; } params[32];
    char result;                 // 0: any
    uint32_t nresults;
    const char *options;         // msgpack map of the part after `;`
    size_t options_n;
} dti_sig;
// type letters: i u f b s y v n. EARGS with the place.
dtask_err dti_sig_parse(dti_arena *, const char *text, dti_sig **out);
// Two signatures of one type agree: same names, kinds, result. v fits anything.
bool dti_sig_equal(const dti_sig *, const dti_sig *);
