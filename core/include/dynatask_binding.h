/* dynatask_binding.h: for language bindings of the same version only; no
 * promise to anyone else. A binding's handlers run on threads of its own
 * ("seats") that pull work and push outcomes. */
#ifndef DYNATASK_BINDING_H
#define DYNATASK_BINDING_H

#include "dynatask.h"

#ifdef __cplusplus
extern "C" {
#endif

/* msgpack extension types inside arguments and results */
enum {
    DTASK_B_EXT_HANDLE = 1, /* text: 'J' job id, or 'T' task id "job/ord" */
    DTASK_B_EXT_OUTPUT = 2  /* big-endian u32: stands for the result of the call's deps[i] */
};

/* The system type `dynatask.map`, which every worker serves: its arguments are
 * [type, common arguments.., [items]]; it spawns a child for each item, with
 * the item and the common arguments, and its result is the array of their
 * results, in order. type: a name, or [name, option, value, ..] with the
 * children's retries, timeout, priority, expires, unique, may_fail, as texts; with
 * may_fail a child without a result has nil in the array. A start of it is
 * start_map. */

/* ---- before an engine is opened ---------------------------------------------- */
/* What dtask_open would refuse of name, URL and options; with has: also that
 * the option types, wherever it was given, names only these n. Opens and makes
 * nothing. EARGS. */
DTASK_API dtask_err dtask_b_check(const char *app, const char *url, const char *const *opts, const char *const *has, size_t n);
/* For a process that is to be given tasks by others: what dtask_open would
 * refuse of URL and options, and an engine that ends with this process. EARGS. */
DTASK_API dtask_err dtask_b_check_shared(const char *url, const char *const *opts);
/* Checks a plugin and loads it: what dtask_worker_load would refuse, but for
 * types that a worker has already. Lives as long as the process. */
DTASK_API dtask_err dtask_b_plugin(const char *path, const dtask_plugin_v1 **out);
/* The name of option i; NULL past the last. */
DTASK_API const char *dtask_b_option(size_t i);

/* ---- types ------------------------------------------------------------------ */
/* A type as its language knows it. options: msgpack map of retries, timeout,
 * expires, priority, crashes, language ("python"), params ["a", ..] (names,
 * for keys; the signature's names serve too);
 * backoff: seconds, a list of delays, or [first, factor, max, jitter (bool)];
 * limit: n, a map {n, key, per, scope, over}, or a list of these;
 * unique: bool or {key, until, keep, scope, over, same}.
 * Seconds are numbers; a key is "*", a name, or a list of names; absent
 * entries are as in API.md. Other names are ignored, and kept. */
typedef struct {
    const char *name;
    uint32_t version, min_version;
    const char *signature;   /* NULL: unknown */
    dtask_str options;       /* empty: none */
} dtask_b_type;
/* Makes types known without serving them (an `extern`, a script that
 * starts). Fills only what is absent. Waits. */
DTASK_API dtask_err dtask_b_declare(dtask_app *app, const dtask_b_type *types, size_t n);

/* ---- calls --------------------------------------------------------------------- */
typedef struct {
    const char *type;
    const char *const *opts;     /* OPTS: id key delay at(unix s) priority retries timeout expires unique may_fail tag.NAME */
    dtask_str args;              /* msgpack array */
    dtask_child *const *deps;    /* `after` and outputs: own children; EXT_OUTPUT i is deps[i] */
    size_t ndeps;
    dtask_str hashed;            /* what the call hash is of, if not of type and args (outputs: their ords); else empty */
} dtask_b_call;
/* As dtask_start, dtask_spawn, dtask_then. */
DTASK_API dtask_err dtask_b_start(dtask_app *app, const dtask_b_call *call, dtask_job **out);
DTASK_API dtask_err dtask_b_spawn(dtask_task *task, const dtask_b_call *call, dtask_child **out);
DTASK_API dtask_err dtask_b_then(dtask_task *task, const dtask_b_call *call);
/* n jobs, each as of dtask_b_start, in this order; they share waits, so many cost little more than one. errs[i]: its error, or 0, it is
 * durable. out: NULL, or n places; NULL where one failed. 0, or an error of one, with its detail. After EENGINE one may be there all the
 * same: given an id, it may be started again. */
DTASK_API dtask_err dtask_b_start_many(dtask_app *app, const dtask_b_call *calls, size_t n, dtask_err *errs, dtask_job **out);
/* n children that differ in args only; one batch handle. */
DTASK_API dtask_err dtask_b_spawn_many(dtask_task *task, const dtask_b_call *common, const dtask_str *args, size_t n,
    dtask_child **out_batch);
/* As dtask_map, dtask_child_at, dtask_child_free (not of NULL). */
DTASK_API dtask_err dtask_b_map(dtask_task *task, const char *type, const char *const *opts, dtask_child **out, int64_t from,
    uint64_t n, const char *fmt, ...);
DTASK_API dtask_err dtask_b_child_at(dtask_child *batch, uint64_t i, dtask_child **out);
DTASK_API void dtask_b_child_free(dtask_child *child);
/* "job/ord"; waits one turn if the child is unsent. Lives as long as the child. */
DTASK_API dtask_err dtask_b_child_id(dtask_child *child, dtask_str *out);
DTASK_API uint64_t dtask_b_child_count(dtask_child *child); /* of a batch; else 1 */
/* 0: not complete, as far as this frame was told; else 1. No I/O. */
DTASK_API int dtask_b_child_done(dtask_child *child);
/* 1: it, or one of the batch, is known to have failed. No I/O. */
DTASK_API int dtask_b_child_bad(dtask_child *child);
/* Its end, once done: 0 and the result as one msgpack value, or EFAILED
 * ECANCELLED ESKIPPED and the error map {type, message, traceback, language,
 * task_id, attempts, reason}; that of ChildrenFailed may have failed, a count,
 * and errors, the first 100 maps. looked: its failure counts as looked at. */
DTASK_API dtask_err dtask_b_child_end(dtask_child *child, int looked, dtask_str *out);
/* Of a complete child or batch: how many failed (not: cancelled, skipped, joined), and
 * the error maps of the first 100 as a msgpack array; they count as looked at.
 * Reads no results. Free *out with dtask_b_free. */
DTASK_API dtask_err dtask_b_child_failures(dtask_child *child, dtask_str *out, uint64_t *out_n);
/* Another child handle for the same child, from its id: own children only,
 * else EDEADLOCK. */
DTASK_API dtask_err dtask_b_child_find(dtask_task *task, const char *id, dtask_child **out);
DTASK_API dtask_err dtask_b_child_cancel(dtask_child *child);

/* ---- reading: one msgpack map in, one msgpack value out ----------------------------- */
/* query {"what": "job"|"task"|"tree"|"jobs"|"types"|"type"|"workers", ..}. Times are us since 1970, 0 none.
 *   task   id          {id, job, ord, parent (id or nil), type, version, state, reason, attempt, lost, worker, language,
 *                      params [names], args [..] or nil, result, error (map or nil), progress [done, total] or nil,
 *                      flow (map or nil), added, started, ended, open, priority}
 *   tree   id depth limit   the same, limit of them with the root, each with children [..] and more (true: cut)
 *   job    id          {id, type, state, paused, tags {}, counts {added, claimed, blocked, .. skipped},
 *                      error, progress, started, ended, root (task)}
 *   jobs   state type since limit   {jobs [newest first], cut (true: 10,000 were looked at)}; at most 10,001
 *   type   name version     {name, version, signature, options {}, served, workers, paused};   types   [type, ..]
 *   workers            [{name, since, expires, dead}, ..]
 *   rows   id ords      [[ord, parent, type, state (number), started, ended, claims, tries, lost, error's name], ..]: of these
 *                      tasks of the job (at most 1,024) the few fields that a follower needs
 *   server             the engine's server: {address, version, policy, persistence, maxmemory, used_memory, clock_ahead_us};
 *                      it was asked for all that it will be asked for. Empty for an engine without one
 * *out is malloc'ed: dtask_b_free. ENOTFOUND. EARGS: malformed query. Waits. */
DTASK_API dtask_err dtask_b_read(dtask_app *app, dtask_str query, dtask_str *out);
/* The job's or task's end, waiting up to ms: as dtask_b_child_end; EUSAGE not complete. Free *out. */
DTASK_API dtask_err dtask_b_job_end(dtask_job *job, dtask_str *out);
DTASK_API const char *dtask_b_job_id(dtask_job *job);
DTASK_API void dtask_b_free(dtask_str s);
/* Every option with its value and where it came from, as a msgpack list of
 * [name, value, source, default, help, unit]. value nil: not given; unit: s, bytes or empty. */
DTASK_API dtask_err dtask_b_config(dtask_app *app, dtask_str *out);

/* ---- a worker's seats ------------------------------------------------------------------ */
enum { DTASK_B_THREAD = 0, DTASK_B_LOOP = 1 }; /* one handler at a time; or many coroutines */
/* Before start: a type whose handler is the binding's, for seats of this
 * kind. *out_index names it in items. */
DTASK_API dtask_err dtask_b_handle(dtask_worker *worker, const dtask_b_type *type, int seat, uint32_t *out_index);
/* Before start: this worker is one of several that the binding makes one of,
 * which together have these n types: what the option types may name. EARGS. */
DTASK_API dtask_err dtask_b_among(dtask_worker *worker, const char *const *has, size_t n);
/* Before start: claims tasks of this job, its callbacks and its undo, and of
 * no other. Its handlers may outlive their timeout for as long as they like.
 * Waits. ENOTFOUND. */
DTASK_API dtask_err dtask_b_only(dtask_worker *worker, dtask_job *job);
/* Whether it has a handler of this type that the option `types` does not leave out. */
DTASK_API int dtask_b_serves(dtask_worker *worker, const char *type);
/* Before start: `index` runs as callback when a job of one of these root
 * types (n = 0: any) has ended; its one argument is the job's handle. If the
 * option types leaves it out, it waits for a worker that serves it. */
DTASK_API dtask_err dtask_b_on_complete(dtask_worker *worker, uint32_t index, const char *const *roots, size_t n);
/* This thread takes a seat, one at each worker: `slots` handlers at once. A
 * parked frame comes back to the seat that ran it. */
DTASK_API dtask_err dtask_b_sit(dtask_worker *worker, int seat, unsigned slots);
DTASK_API void dtask_b_leave(dtask_worker *worker); /* this thread's seat; what it holds is given back */

/* item.event */
enum {
    DTASK_B_RUN = 1,     /* run it; data: arguments, outputs filled in */
    DTASK_B_RESUME = 2,  /* a parked or staying frame: something that it awaits is there (or its timeout) */
    DTASK_B_CANCEL = 3,  /* asked to end */
    DTASK_B_UNWIND = 4,  /* drop its frame: throw Unwind, then commit UNWIND */
    DTASK_B_TIMEOUT = 5  /* outran `timeout`: its outcome will be refused; a thread's seat is lost until it returns */
};
typedef struct {
    dtask_task *task;
    uint32_t type, event;
    dtask_str data;
} dtask_b_item;

/* outcome.what. data is copied. */
enum {
    DTASK_B_DONE = 1,      /* data: result, one msgpack value; empty: nil */
    DTASK_B_FAIL = 2,      /* data: error map; by the type's retries */
    DTASK_B_FATAL = 3,     /* data: error map; never again */
    DTASK_B_RETRY = 4,     /* data: [error map, after seconds or nil, counted] */
    DTASK_B_CANCELLED = 5, /* data: error map or empty */
    DTASK_B_PARK = 6,      /* waits for what dtask_b_await armed; the seat is free */
    DTASK_B_STAY = 7,      /* the same, but other coroutines of it are busy */
    DTASK_B_THEN = 8,      /* after dtask_b_then */
    DTASK_B_UNWOUND = 9,   /* after UNWIND */
    DTASK_B_SKIP = 10
};
typedef struct {
    dtask_task *task;
    uint32_t what;
    dtask_str data;
} dtask_b_outcome;

/* Arms a wait of this frame: for these children to complete (n = 0: for all
 * descendants to), at most ms (-1: no limit). any: one of them is enough.
 * fail_fast: a failed one is enough. Several armed at once: any of them wakes.
 * A RESUME disarms them all, so does a ready of 1: before it parks again the
 * binding arms what it still awaits, and asks dtask_b_child_done which ended.
 * EDEADLOCK: not own children. */
enum { DTASK_B_ANY = 1, DTASK_B_FAIL_FAST = 2 };
DTASK_API dtask_err dtask_b_await(dtask_task *task, dtask_child *const *children, size_t n, int flags, int64_t ms);
/* 1: what was armed holds already: do not park. */
DTASK_API int dtask_b_ready(dtask_task *task);

/* Takes up to cap items for this thread's seat; waits up to ms for the first.
 * EUSAGE: the worker has stopped: leave. */
DTASK_API dtask_err dtask_b_poll(dtask_worker *worker, dtask_b_item *items, size_t cap, int ms, size_t *out_n);
/* Queues outcomes, in their order; the tasks, and their children's handles, end
 * here (but for PARK, STAY). From any thread, not only the seat's: a binding
 * gathers outcomes, and hands on those of a thread that is busy. One that
 * cannot be stored (too big, too deep, not of the signature) is FATAL with an
 * error that says why. EUSAGE: of the first task that does not run; all others
 * were taken. */
DTASK_API dtask_err dtask_b_commit(dtask_worker *worker, const dtask_b_outcome *outcomes, size_t n);
DTASK_API int dtask_b_fd(dtask_worker *worker); /* of this thread's seat: readable when poll has items */
/* Msgpack map {id, job, parent, type, attempt, version, trigger, tags}. Lives as long as the task. */
DTASK_API dtask_err dtask_b_context(dtask_task *task, dtask_str *out);
/* As dtask_progress. */
DTASK_API dtask_err dtask_b_progress(dtask_task *task, double done, double total);
DTASK_API dtask_err dtask_b_emit(dtask_task *task, dtask_str value);

#ifdef __cplusplus
}
#endif
#endif
