// Tests of the worker: an app on an engine of its own, C handlers, and a root
// task that is run to its end. BOTH(suite, name) makes a test for each engine.
#pragma once

#include <criterion/criterion.h>

#include "worker/worker.h"

typedef struct {
    dtask_app *app;
    dtask_worker *worker;
    char folder[64];
    char url[128];
} rig;

typedef struct { const char *type, *signature; dtask_fn *fn; } rig_handler;

// handlers end with a NULL type; opts are the worker's.
void rig_open(rig *, const char *scheme, const rig_handler *, const char *const *opts);
// Another worker of the same app with these handlers, not started.
dtask_worker *rig_worker(rig *, const rig_handler *, const char *const *opts);
void rig_close(rig *);
dtask_job *rig_job(rig *, const char *type, const char *const *opts, int64_t n); // one argument
// Starts it and waits for its end: the job's code; *out is the result.
dtask_err rig_run(rig *, const char *type, int64_t n, int64_t *out);
dtask_err rig_end(dtask_job *, int64_t *out); // waits, and frees it
uint64_t rig_count(dtask_job *, const char *name); // "added", "failed", ..
// As if the worker's process had died: what it ran is charged, and it finds
// out by its next turn.
void rig_kill(rig *, dtask_worker *);
void rig_pause(int ms);
// Faults: if set before rig_open, the engine's calls go to it; what it lets
// pass it hands on to rig_engine, the engine's own.
extern void (*rig_fault)(dti_engine *, dti_arena *, dti_op *, size_t);
void rig_engine(dti_engine *, dti_arena *, dti_op *, size_t);

dtask_err rig_deep(dtask_task *, void *); // type deep: n levels, each waits for the next; the result is n

// A gate that handlers and the test pass in turns.
typedef struct { pthread_mutex_t lock; pthread_cond_t moved; int at; } gate;
#define GATE {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0}
void gate_open(gate *);          // one more step
void gate_wait(gate *, int at);  // until it is at least there
int gate_at(gate *);

#define BOTH(suite, name)                                                        \
    static void name(const char *scheme);                                        \
    Test(suite, name##_memory, .timeout = 60) { name("memory:"); }               \
    Test(suite, name##_sqlite, .timeout = 60) { name("sqlite:"); }               \
    static void name(const char *scheme)
#define OK(e)                                                                    \
    do {                                                                         \
        dtask_err ok_ = (e);                                                     \
        cr_assert_eq(ok_, 0, "%s: %s: %s", #e, dtask_err_name(ok_), dtask_err_detail()); \
    } while (0)
#define FAILS(e, code)                                                           \
    do {                                                                         \
        dtask_err got_ = (e);                                                    \
        cr_assert_eq(got_, code, "%s: %s, not %s (%s)", #e, dtask_err_name(got_), dtask_err_name(code), dtask_err_detail()); \
    } while (0)
