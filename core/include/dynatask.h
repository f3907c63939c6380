/* dynatask.h: jobs that grow while they run. C11 and C++.
 *
 * Conventions. 0 is success; on an error outputs are untouched, and
 * dtask_err_detail() says in one sentence what went wrong and what to do.
 * Input is copied. Objects given through `out` are the caller's, to be freed
 * with the function of their name; free and close take NULL, in any order.
 * Views (dtask_str) live as long as the object they came from. Every function
 * may be called from any thread, but a dtask_task and its children only from
 * their handler, on its thread and until it returns; elsewhere they are EUSAGE
 * (dtask_cancelled alone may be asked by threads that the handler waits for).
 * NULL for an object is EUSAGE, for a place or a value EARGS. In a child that
 * was forked all that was opened before is EUSAGE; it may open its own. A child
 * that a handler forked and let return is ended by _exit(1). Else the library
 * never prints, ends the process or touches signals. Only functions marked
 * "Waits" block for longer than a lock.
 *
 * OPTS: name, value, .., NULL; or NULL for none. Names as in Python, each once
 * at most; times in seconds ("1.5", "90s", "5m", "2h", "1d"), sizes in bytes
 * ("64KiB").
 * DTASK_OPTS("retries", "3", "id", "job-7") writes one. unique of a call, instead
 * of its type's: true, false, or words of "key=url,host until=run keep=1h
 * scope=job over=raise same=true".
 *
 * FMT: "[name:]type ..", one letter a value, then the values:
 *   i int64_t    u uint64_t    f double    b int (0 or 1)
 *   s dtask_str, text in UTF-8      y dtask_str, bytes
 *   v dtask_str, one msgpack value  n nil, takes no value
 *   ? after a letter: optional; decoding nil or an absent value leaves the
 *     variable as it was
 *   "*" alone: one dtask_str, all arguments as a msgpack array (or, for
 *     results, the one value)
 *   to encode also: z const char *, t dtask_child * (stands for its result);
 *   a name must be that of the parameter in its place, where those are known
 * Where several values stand for one (a result), they are a msgpack array.
 * Decoding takes pointers to these types.
 */
#ifndef DYNATASK_H
#define DYNATASK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DTASK_EXPORT __attribute__((visibility("default")))
#define DTASK_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define DTASK_EXPORT
#define DTASK_PRINTF(f, a)
#endif
#define DTASK_API DTASK_EXPORT

#define DTASK_ABI 1

/* name, number. ELOST: the attempt is another's now, its outcome was refused. */
#define DTASK_ERRORS(X) \
    X(EARGS, -1) X(EUSAGE, -2) X(ENOTFOUND, -3) X(ECONFLICT, -4) X(ETOOBIG, -5) X(EENGINE, -6) X(EVERSION, -7) \
    X(ETIMEOUT, -8) X(EFAILED, -9) X(ECANCELLED, -10) X(ESKIPPED, -11) X(ERETRY, -12) X(EFATAL, -13) \
    X(EDIVERGED, -14) X(EUNWIND, -15) X(ELOST, -16) X(EDEADLOCK, -17) X(ENOMEM, -18) X(EINTERNAL, -19)
#define DTASK_X(n, v) DTASK_##n = v,
typedef enum { DTASK_OK = 0, DTASK_ERRORS(DTASK_X) } dtask_err;
#undef DTASK_X

/* A view of n bytes, not terminated. */
typedef struct {
    const char *p;
    size_t n;
} dtask_str;

typedef struct dtask_app dtask_app;
typedef struct dtask_job dtask_job;
typedef struct dtask_task dtask_task;
typedef struct dtask_child dtask_child;
typedef struct dtask_worker dtask_worker;

/* A handler. Returns what dtask_done, dtask_fail or another call returned. The
 * last one of done, fail, retry and then is its outcome; an error counts also
 * if 0 is returned, and 0 without a result is EARGS where the signature has
 * one. */
typedef dtask_err dtask_fn(dtask_task *task, void *arg);
typedef void dtask_job_fn(dtask_job *job, void *arg);
/* level as in syslog; one JSON object without a line end. */
typedef void dtask_log_fn(int syslog_level, const char *json_line, void *arg);

#define DTASK_OPTS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* ---- library --------------------------------------------------------- */

DTASK_API int dtask_abi(void);              /* DTASK_ABI of the library that runs */
DTASK_API const char *dtask_version(void);  /* "0.1.0" */
DTASK_API const char *dtask_err_name(dtask_err err); /* "ENOTFOUND"; "OK"; "EUNKNOWN" */
DTASK_API const char *dtask_err_detail(void); /* of this thread's last failure; valid until its next */

/* ---- app ---------------------------------------------------------------- */

/* Opens the app `app` (1 to 100 of a-z A-Z 0-9 _ . -) on an engine. url NULL:
 * DYNATASK_URL, else dynatask.toml's url, else sqlite:jobs.db. opts: engine
 * options; each may also be a query parameter of the URL.
 * Waits for the file at most engine_timeout. EARGS: malformed URL, name or
 * option. EVERSION: newer schema. EENGINE: not a database, cannot be
 * written, network file system. */
DTASK_API dtask_err dtask_open(const char *app, const char *url, const char *const *opts, dtask_app **out);
/* Jobs and workers of it stay valid as objects and answer EUSAGE. */
DTASK_API void dtask_close(dtask_app *app);
/* Where log lines go; NULL: nowhere, as at first. Called from any of the
 * library's threads, one at a time. It may call dtask_log, and nothing else of
 * the library; what it makes that log is not told to it. */
DTASK_API void dtask_log(dtask_app *app, dtask_log_fn *fn, void *arg);

/* ---- jobs ------------------------------------------------------------------ */

/* Starts a job whose root is `type`. Waits until it is durable. The id
 * (option "id", else drawn) makes it once: the same id with the same call
 * finds the job that is there. ENOTFOUND: no worker or declaration ever named
 * the type. ECONFLICT: the id belongs to another call. EARGS, ETOOBIG,
 * EENGINE. out may be NULL. */
DTASK_API dtask_err dtask_start(dtask_app *app, const char *type, const char *const *opts, dtask_job **out,
    const char *fmt, ...);
/* No I/O: whether the job exists is found out by use. EARGS: malformed id.
 * "job/ord" names a task. */
DTASK_API dtask_err dtask_job_find(dtask_app *app, const char *id, dtask_job **out);
/* Waits until complete: the task and all its descendants. ms -1: for ever.
 * ETIMEOUT, ENOTFOUND. */
DTASK_API dtask_err dtask_job_wait(dtask_job *job, int ms);
/* Its result, after dtask_job_wait. EFAILED, ECANCELLED, ESKIPPED with the
 * error as detail; EUSAGE: not complete; EARGS: does not fit fmt. */
DTASK_API dtask_err dtask_job_result(dtask_job *job, const char *fmt, ...);
/* Reads it now: "state:s added:u failed:u". Names: id type state error(s)
 * paused(b) added claimed blocked scheduled ready running parked closing
 * succeeded failed cancelled skipped started(i, us) ended(i, us) progress(f)
 * total(f). Waits for the engine. ENOTFOUND; EARGS: no such name. */
DTASK_API dtask_err dtask_job_info(dtask_job *job, const char *fmt, ...);
/* verb: "cancel" ("retry" "pause" "resume" come later). ENOTFOUND; EUSAGE:
 * has ended. Waits for the engine. */
DTASK_API dtask_err dtask_job_control(dtask_job *job, const char *verb);
/* fn is called from dtask_poll when the job changed, and at its end. fn NULL
 * ends that. */
DTASK_API dtask_err dtask_job_watch(dtask_job *job, dtask_job_fn *fn, void *arg);
DTASK_API void dtask_job_free(dtask_job *job);

/* ---- embedding: one descriptor for poll, epoll, libuv ------------------------ */

DTASK_API int dtask_fd(dtask_app *app);     /* readable: dtask_poll is due. -1: out of descriptors */
/* Runs due callbacks on this thread; waits up to ms for the first. EUSAGE: the
 * app was closed, also meanwhile. EENGINE: out of descriptors. */
DTASK_API dtask_err dtask_poll(dtask_app *app, int ms);

/* ---- in a handler ----------------------------------------------------------- */

/* EARGS: names the argument that is missing, or does not fit. */
DTASK_API dtask_err dtask_args(dtask_task *task, const char *fmt, ...);
/* Sets the result and returns 0. EARGS, ETOOBIG. */
DTASK_API dtask_err dtask_done(dtask_task *task, const char *fmt, ...);
/* Sets the error and returns err: ERETRY: again (counted), EFATAL: never
 * again, ECANCELLED; any other by the type's retries. */
DTASK_API dtask_err dtask_fail(dtask_task *task, dtask_err err, const char *printf_fmt, ...) DTASK_PRINTF(3, 4);
/* Returns ERETRY: the task runs again after_ms from now, counted. */
DTASK_API dtask_err dtask_retry(dtask_task *task, int after_ms);
/* Makes a child. It is known by its call: the same call by a re-run of this
 * handler finds the child that is there. Stored within milliseconds, at the
 * latest with this task's outcome. No I/O; waits while 10,000 are unsent, at
 * most engine_timeout. ENOTFOUND: unknown type. EARGS, ETOOBIG, ECONFLICT
 * (option "key"), EENGINE. out may be NULL. */
DTASK_API dtask_err dtask_spawn(dtask_task *task, const char *type, const char *const *opts, dtask_child **out,
    const char *fmt, ...);
/* n children; their first argument counts from, from + 1, ..; the others are
 * as in fmt. One handle for all. */
DTASK_API dtask_err dtask_map(dtask_task *task, const char *type, const char *const *opts, dtask_child **out,
    int64_t from, uint64_t n, const char *fmt, ...);
/* `type` takes this task's place when all its descendants are complete, none
 * failed. Return what it returns. */
DTASK_API dtask_err dtask_then(dtask_task *task, const char *type, const char *const *opts, const char *fmt, ...);
/* Waits (parks: no slot, no thread) until the child, or with NULL all
 * children so far, are complete. EFAILED: one failed (and counts as looked
 * at), ECANCELLED, ESKIPPED; ETIMEOUT; EDEADLOCK: not one's own child;
 * EUNWIND: return it. A handler that returns what this or dtask_child_result
 * gave last, as it came, fails with ChildrenFailed and their errors. */
DTASK_API dtask_err dtask_wait(dtask_task *task, dtask_child *child, int ms);
/* Waits for the next child to complete that was not given out yet, in the
 * order of completion. ENOTFOUND: none left. */
DTASK_API dtask_err dtask_next(dtask_task *task, int ms, dtask_child **out);
/* After a wait; errors as of dtask_wait, EUSAGE: not complete. A batch gives
 * a msgpack array. */
DTASK_API dtask_err dtask_child_result(dtask_child *child, const char *fmt, ...);
DTASK_API dtask_err dtask_child_at(dtask_child *batch, uint64_t i, dtask_child **out);
/* The handler's handle; the child itself goes on. One that was freed is as one
 * of another task. */
DTASK_API void dtask_child_free(dtask_child *child);
/* 1: asked to end; return DTASK_ECANCELLED. An atomic read; 1 for NULL. */
DTASK_API int dtask_cancelled(dtask_task *task);
/* total < 0: unknown. Sent with the next turn. */
DTASK_API dtask_err dtask_progress(dtask_task *task, double done, double total);
/* "id:s job:s attempt:u version:u type:s" */
DTASK_API dtask_err dtask_info(dtask_task *task, const char *fmt, ...);
DTASK_API void dtask_say(dtask_task *task, int syslog_level, const char *printf_fmt, ...) DTASK_PRINTF(3, 4);

/* ---- workers -------------------------------------------------------------------- */

/* opts: slots (threads for C handlers; default: processors), prefetch, lease,
 * grace, max_parked, types ("a,b": serves only these; a callback of
 * dtask_worker_on_complete is one by its name there). What the file or the
 * environment says goes before. EARGS: another option, also one of the app's. */
DTASK_API dtask_err dtask_worker_new(dtask_app *app, const char *const *opts, dtask_worker **out);
/* Before start. signature may be NULL: "path:s offset:i -> i; retries=3".
 * EARGS: malformed. ECONFLICT: added before. */
DTASK_API dtask_err dtask_worker_add(dtask_worker *worker, const char *type, const char *signature, dtask_fn *fn,
    void *arg);
/* Loads a plugin. EVERSION: of another ABI. EARGS: no plugin, or its file or
 * folder can be written by others. */
DTASK_API dtask_err dtask_worker_load(dtask_worker *worker, const char *path);
/* Before start: fn runs once when a job of this root type (NULL: any) has
 * ended, on a thread of the worker, as a task of the type
 * "<root_type>.on_complete" ("any.on_complete"). The option types counts it
 * as any other: a worker whose types leave it out leaves it to one whose
 * types name it, and until then it waits. `job` is freed after fn.
 * ECONFLICT: added before. EARGS, EUSAGE: it has started. */
DTASK_API dtask_err dtask_worker_on_complete(dtask_worker *worker, const char *root_type, dtask_job_fn *fn, void *arg);
/* Starts its threads. ECONFLICT: a type is registered with another signature. */
DTASK_API dtask_err dtask_worker_start(dtask_worker *worker);
/* Starts it if need be. Waits until stopped and drained. 0, or why it ended.
 * EDEADLOCK: in a handler of its own. */
DTASK_API dtask_err dtask_worker_run(dtask_worker *worker);
/* No more claims; handlers get grace_ms (below 0: the option grace), the rest
 * is given back uncounted. Again: at once. Async-signal-safe: it may return
 * before it has effect. From a log line "the worker drains: .." (info) on,
 * nothing begins. */
DTASK_API void dtask_worker_stop(dtask_worker *worker, int grace_ms);
/* Stops at once if it runs. */
DTASK_API void dtask_worker_free(dtask_worker *worker);

/* ---- plugins: a shared object that exports `dtask_plugin` --------------------------- */

typedef struct {
    const char *type;
    dtask_fn *fn;
    const char *signature;   /* "path:s offset:i -> i; retries=3 timeout=60" */
} dtask_handler_v1;
typedef struct {
    uint32_t abi, size;
    const char *name;
    const dtask_handler_v1 *handlers; /* ends with a NULL type */
} dtask_plugin_v1;

#define DTASK_PLUGIN(name, ...) \
    DTASK_EXPORT const dtask_plugin_v1 dtask_plugin = {DTASK_ABI, sizeof(dtask_plugin_v1), name, \
        (const dtask_handler_v1[]){__VA_ARGS__, {0}}}

#ifdef __cplusplus
}
#endif
#endif
