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
    uint8_t log;                 // least level that is logged: DTI_LEVEL_*
    char app[256];               // what the command line works on
    bool inline_;                // memory: alone; read by bindings
    char prefix[64];             // heads the names of keys
    char store[1024];            // of kafka:
    char kafka[4096];            // lines NAME=VALUE for librdkafka
    char member[256];
    char shared[1024];           // "a,b": types whose starts lie in one topic
    uint8_t done;                // DTI_DONE_*
    unsigned partitions, replication; // of topics; 0: as the engine has it
    char tls_ca[1024], tls_cert[1024], tls_key[1024]; // files
} dti_conf;

enum { DTI_LEVEL_INFO, DTI_LEVEL_DEBUG, DTI_LEVEL_WARNING, DTI_LEVEL_ERROR };

// Where a value came from, for `dynatask config`. The environment goes before
// the file, the file before the code; a parameter of the URL ranks with the
// place its URL came from, just below an option named there.
typedef enum { DTI_SRC_DEFAULT, DTI_SRC_FILE, DTI_SRC_ENV, DTI_SRC_URL, DTI_SRC_CODE } dti_source;
enum { DTI_OPTIONS_MAX = 64 };
// Every source in order. *out_url: the engine's URL without its parameters,
// malloc'ed. EARGS: an unknown name, a value that does not fit, a malformed
// URL or file.
dtask_err dti_conf_load(const char *url, const char *const *opts, dti_conf *out, uint8_t source[DTI_OPTIONS_MAX],
    char **out_url);
// EARGS: opts name before what stands at `at`, one of its names.
dtask_err dti_option_once(const char *const *opts, const char *const *at);
// Options that the code gives a worker: they set what neither the file nor the
// environment has set. EARGS also: one that is the app's alone.
dtask_err dti_conf_worker(dti_conf *, uint8_t source[DTI_OPTIONS_MAX], const char *const *opts);
// [[name, value, source, default, help], ..] as msgpack.
void dti_conf_put(dti_buf *, const dti_conf *, const uint8_t source[DTI_OPTIONS_MAX], const char *url);
// name[i] of the options' names; NULL past the last.
const char *dti_conf_name(size_t i);

// One table of a TOML file: `table` "" is the top. Calls `set` for each key
// with its value as text. Only strings, numbers and booleans are values; what
// stands in other tables is skipped. A file that is not there: *found false.
typedef dtask_err dti_toml_fn(void *arg, const char *key, const char *value);
dtask_err dti_toml_read(const char *path, const char *table, dti_toml_fn *set, void *arg, bool *found);

// ---- texts with units (units.c); false: malformed, or it does not fit -----------
bool dti_text_us(const char *, int64_t *out);      // "1.5" "250ms" "90s" "5m" "2h" "1d": microseconds, >= 0
bool dti_text_size(const char *, uint64_t *out);   // "4096" "64KiB" "64MiB" "1GiB"
bool dti_text_int(const char *, int64_t *out);
bool dti_text_float(const char *, double *out);
bool dti_text_bool(const char *, bool *out);       // 1 0 true false yes no

// ---- the app --------------------------------------------------------------------
struct dtask_app {
    atomic_int refs;             // the caller's, each job's, each worker's
    atomic_bool closed;
    unsigned fork_gen;           // dti_forks() at open: another one means a child process
    char name[101];
    char *url;                   // as resolved, without secrets in logs
    dti_conf conf;
    uint8_t source[DTI_OPTIONS_MAX]; // dti_source, by place in the option table
    dti_engine *engine;          // engine->salt keys the hashes
    struct dti_types *types;     // cache
    pthread_mutex_t log_lock;
    dtask_log_fn *log_fn;
    bool logging;                // this thread is in it; under the lock
    void *log_arg;
    struct dti_watches *watches; // dtask_job_watch, dtask_fd, dtask_poll
    pthread_mutex_t bells_lock;
    dti_bell *bells[8];          // idle ones
    unsigned nbells;
};
dtask_err dti_app_name_check(const char *name); // EARGS
// 0, or EUSAGE: closed, or this process is a fork of the one that opened it.
dtask_err dti_app_check(dtask_app *);
void dti_app_hold(dtask_app *);
void dti_app_drop(dtask_app *);          // the last one frees
// dtask_job_watch's part of an app (watch.c).
dtask_err dti_watches_init(dtask_app *);
void dti_watches_close(dtask_app *); // who polls returns
void dti_watches_free(dtask_app *);
// A bell for this thread to wait on, from the app's few that lie idle.
dtask_err dti_app_bell(dtask_app *, dti_bell **out);
void dti_app_bell_back(dtask_app *, dti_bell *);
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
// How long to wait after the tries-th failure (from 1); random spreads it.
int64_t dti_backoff_us(const dti_backoff *, uint32_t tries, uint64_t random);

typedef struct {                 // one limit or unique of a type; params name the key's arguments
    dti_keyspec spec;            // without its hash
    bool all;                    // "*"
    uint32_t nparams;
    uint16_t params[16];         // positions of parameters
} dti_keyrule;

typedef struct {                 // immutable; lives as long as the app
    uint32_t no, version, min_version;
    const char *name, *signature, *language; // language: as published, "" if it is not
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
// The cache; made and freed with the app.
struct dti_types *dti_types_new(void);
// This app told the store of these types, which need not last: they are copied.
dtask_err dti_types_told(dtask_app *, const dti_hello_type *, size_t n);
// The store does not know the type: if this app told it, then it has lost it
// since, and is told again. True: it knows it now.
bool dti_type_again(dtask_app *, dtask_str name);
void dti_types_free(struct dti_types *);
// Parses the published options and signature of a row; EARGS names what is wrong.
dtask_err dti_type_parse(dti_arena *, uint32_t no, uint32_t version, dtask_str name, dtask_str signature, dtask_str options,
    dti_typeinfo **out);

// EUSAGE: a limit or unique key of the scope app, where the app has several shards.
dtask_err dti_type_spread(const dtask_app *, const dti_typeinfo *);
dtask_err dti_key_spread(const dtask_app *, const dti_typeinfo *, const dti_keyrule *);
// The option unique of one call: true, false, or words such as "key=url,host
// until=run keep=60 scope=job over=raise same=true". *on: whether it has one. EARGS.
dtask_err dti_unique_rule(const dti_typeinfo *, const char *text, bool *on, dti_keyrule *out);
// How a type is said hello with; in the arena. EARGS: its name, signature or
// options are malformed. As dti_type_spread, where the app is known.
dtask_err dti_type_publish(const dtask_app * /* NULL: none is open yet */, dti_arena *, const dtask_b_type *, dti_hello_type *out);
// After the hello. ECONFLICT: refused, for another signature is registered,
// which says something else. (A worker that was refused one that says the
// same sends hello again with the registered text.)
dtask_err dti_type_agrees(dti_arena *, const dti_hello_type *);

// ---- calls --------------------------------------------------------------------------
typedef struct {                 // OPTS of one call
    dtask_str id, key;           // empty: none
    int64_t delay_us, at_us;     // -1: none
    int prio, retries;           // INT_MIN: as the type says
    int64_t timeout_us, expires_us; // -1: as the type says
    bool may_fail;
    dtask_str tags;              // msgpack map in the arena, or empty
    const char *unique;          // as dti_unique_rule takes it; NULL: as the type says
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
// Names in the format of a call are those of the type's parameters, where
// they are known; `before` parameters are not in the format. EARGS.
dtask_err dti_fmt_check_names(const char *fmt, uint32_t before, const dti_typeinfo *);
// The same of a type by its name; reads it only for a format that has names. ENOTFOUND.
dtask_err dti_call_check_names(dtask_app *, const char *type, const char *fmt, uint32_t before);
// args: a msgpack array (is_args: matched by position, or by name where `fmt`
// names them and params gives the names) or one result value. EARGS names it.
dtask_err dti_fmt_decode(dtask_str value, bool is_args, const char *const *params, uint32_t nparams, const char *fmt,
    va_list ap);
// "state:s added:u": names and their values by lookup in a msgpack map.
dtask_err dti_fmt_decode_map(dtask_str map, const char *fmt, va_list ap);
// The same with a lookup of one's own; it gives {NULL, 0} for no such name.
typedef dtask_str dti_lookup_fn(void *arg, dtask_str name);
dtask_err dti_fmt_decode_by(dti_lookup_fn *, void *arg, const char *fmt, va_list ap);
// The letter's kind takes this value (v: any; a stand-in for a result: always).
bool dti_fmt_fits(char letter, bool optional, const dti_mpval *);
const char *dti_fmt_kind_name(char letter);        // "an integer"

// ---- jobs (job.c) --------------------------------------------------------------------
// From here on this thread runs handlers: waiting there for a job that is not
// complete would hold a slot, and could close a circle. EDEADLOCK. In a child
// that such a thread forks it does not hold.
void dti_enter_handlers(void);
dtask_err dti_job_check(const dtask_job *); // EUSAGE: NULL, or as dti_app_check

// ---- reading for bindings (rows.c): dtask_b_read's "rows" ------------------------------
dtask_err dti_read_rows(dtask_app *, dti_arena *, dtask_str query, dti_buf *out);

// ---- errors as data ---------------------------------------------------------------------
// The error map {type, message, traceback, language} of the model and the API;
// that of ChildrenFailed also has `failed`, a count, and `errors`, the first 100 maps.
void dti_error_put(dti_buf *, const char *type, dtask_str message, const char *language);
// The whole map that a waiter gets, from a mail (a task's end): type, message,
// traceback, language, task_id, attempts, reason, and failed and errors where
// they are; and the code for its state: EFAILED, ECANCELLED, ESKIPPED; 0 for a
// good end (*out: the result).
dtask_err dti_mail_end(dti_buf *, dtask_str job_id, const dti_mail *, dtask_str *out_result);
// The same of a task as it was read, without `errors`: to stand in the errors of another, bounded however deep a tree fails.
dtask_err dti_view_end_brief(dti_buf *, const dti_taskview *, dtask_str *out_result);
// An end that the model gave for children that did not end well (reason
// children) has no error map: this makes that of ChildrenFailed, in the arena.
// Any other end stays as it is. Reads the children's rows; before dti_mail_end.
dtask_err dti_mail_fill(dti_engine *, dti_arena *, dtask_str job_id, dti_mail *);
bool dti_mail_unsaid(const dti_mail *);            // dti_mail_fill has something to do
// Children that did not succeed (failed.c): their number, and the first 100 errors.
enum { DTI_ERRORS_MAX = 100 };
typedef struct { uint64_t failed; uint32_t n; dti_buf maps; } dti_failures;
void dti_failures_add(dti_failures *, dtask_str error_map, dtask_err code); // 0: by the map's type
// Adds these tasks, if they ended so: their outcomes are read.
dtask_err dti_failures_read(dti_failures *, dti_engine *, dtask_str job_id, uint64_t job, const uint32_t *ords, uint32_t n);
dtask_str dti_failures_first(const dti_failures *); // its map; empty: none
// As the map of ChildrenFailed, its message after `before`. Over `most` bytes
// (1,024 at least) it goes without errors, with a message of half of that.
void dti_failures_put(const dti_failures *, dti_buf *, const char *before, const char *language, size_t most);
void dti_failures_done(dti_failures *);
// ENOTFOUND: it completed, and its payload went with its parent (option keep).
dtask_err dti_payload_check(const dti_taskview *, const char *id);
const char *dti_reason_name(uint8_t reason);       // "after", "lost"; "" for none
// How a job ended: as its root, but a cancelled job is cancelled whatever its root did.
dti_mail dti_job_mail(const dti_jobview *);
// Sets the thread's detail from an error map: "ValueError: no such page (task c-42/17, 3 attempts)".
dtask_err dti_fail_map(dtask_err err, dtask_str error_map);

// ---- signatures: "path:s offset:i -> i; retries=3 timeout=60" (sig.c) ----------------
// Parameters have names; "*" alone takes any. After "->" the result's letter,
// or several for an array; without it the result is not known. After ";" the
// type's options: retries timeout expires priority backoff crashes limit
// unique version min_version.
enum { DTI_SIG_PARAMS_MAX = 32, DTI_SIG_RESULTS_MAX = 8 };
typedef struct dti_sig {
    bool any;                    // "*"
    uint32_t nparams;
    struct { const char *name; char type; bool optional; } params[DTI_SIG_PARAMS_MAX];
    uint32_t nresults;           // 0: not known
    struct { char type; bool optional; } results[DTI_SIG_RESULTS_MAX];
    const char *options;         // msgpack map of the part after `;`, as in dtask_b_type, with language "c"
    size_t options_n;
    const char *text;            // the part before `;` in one spelling: what is registered
} dti_sig;
// type letters: i u f b s y v n. EARGS with the place.
dtask_err dti_sig_parse(dti_arena *, const char *text, dti_sig **out);
// Two signatures of one type agree: same names, kinds, result. v fits anything.
bool dti_sig_equal(const dti_sig *, const dti_sig *);
// The arguments (a checked msgpack array) fit; EARGS names the one that does not.
dtask_err dti_sig_check_args(const dti_sig *, const char *type, dtask_str args);
// The result (one checked value) fits.
dtask_err dti_sig_check_result(const dti_sig *, const char *type, dtask_str value);
