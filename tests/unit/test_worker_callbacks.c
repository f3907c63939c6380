// Callbacks: task types like others, served where the option `types` names
// them or names none, and told to the store by each worker that has one.
#include "worker_rig.h"

#include <stdio.h>
#include <string.h>

#define ONE DTASK_OPTS("slots", "1")

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

typedef struct { gate at; char id[64]; } ends;

static void on_end(dtask_job *job, void *arg) {
    ends *e = arg;
    dtask_str id;
    uint64_t ok = 0;
    dtask_job_info(job, "id:s succeeded:u", &id, &ok);
    snprintf(e->id, sizeof e->id, "%.*s %d", (int)id.n, id.p, (int)ok);
    gate_open(&e->at);
}

static void job_is(rig *r, const char *id, const char *state) {
    dtask_job *job;
    OK(dtask_job_find(r->app, id, &job));
    dtask_str is;
    uint64_t ready = 0;
    OK(dtask_job_info(job, "state:s ready:u", &is, &ready));
    cr_assert(is.n == strlen(state) && !memcmp(is.p, state, is.n), "%s: %.*s", id, (int)is.n, is.p);
    cr_assert_eq(ready, !strcmp(state, "running"), "%s waits for a worker", id);
    dtask_job_free(job);
}

BOTH(worker_callbacks, run_once) {
    static ends e = {.at = GATE};
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"unused", "n:i -> i", add}, {0}}, ONE);
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    OK(dtask_worker_on_complete(w, "add", on_end, &e));
    OK(dtask_worker_start(w));
    int64_t n;
    OK(rig_end(rig_job(&r, "add", DTASK_OPTS("id", "j1"), 1), &n));
    gate_wait(&e.at, 1);
    cr_assert_str_eq(e.id, "j1 1");
    OK(rig_end(rig_job(&r, "add", DTASK_OPTS("id", "j2"), 1), &n));
    gate_wait(&e.at, 2);
    cr_assert_str_eq(e.id, "j2 1");
    cr_assert_eq(gate_at(&e.at), 2);
    dtask_worker_free(w);
    rig_close(&r);
}

// Who names the callback runs it, also of a job that ended before that worker was there.
BOTH(worker_callbacks, run_where_types_names_them) {
    static ends here = {.at = GATE}, there = {.at = GATE};
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"unused", "n:i -> i", add}, {0}}, ONE);
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, DTASK_OPTS("slots", "1", "types", "add"));
    OK(dtask_worker_on_complete(w, "add", on_end, &here));
    OK(dtask_worker_start(w));
    int64_t n;
    OK(rig_end(rig_job(&r, "add", DTASK_OPTS("id", "j1"), 1), &n));
    OK(rig_end(rig_job(&r, "add", DTASK_OPTS("id", "j2"), 1), &n));
    job_is(&r, "j1!add.on_complete", "running");
    dtask_worker *other = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, DTASK_OPTS("slots", "1", "types", "add.on_complete"));
    OK(dtask_worker_on_complete(other, "add", on_end, &there));
    OK(dtask_worker_start(other));
    gate_wait(&there.at, 2);
    OK(rig_end(rig_job(&r, "add", DTASK_OPTS("id", "j3"), 1), &n));
    gate_wait(&there.at, 3);
    cr_assert_str_eq(there.id, "j3 1");
    cr_assert_eq(gate_at(&here.at), 0);
    dtask_worker_free(w);
    dtask_worker_free(other);
    rig_close(&r);
}

static dtask_err shaky(dtask_task *t, void *arg) {
    (void)arg;
    uint64_t attempt;
    dtask_err err = dtask_info(t, "attempt:u", &attempt);
    if (err) return err;
    return attempt < 3 ? dtask_fail(t, DTASK_EFAILED, "attempt %d", (int)attempt) : dtask_done(t, "i", (int64_t)attempt);
}

// A root type that a worker names for its callback, and does not serve, stays as its own worker published it.
BOTH(worker_callbacks, leave_their_root_types_alone) {
    static ends e = {.at = GATE};
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"shaky", "n:i -> i; retries=2 backoff=0.01", shaky}, {0}}, ONE);
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    OK(dtask_worker_on_complete(w, "shaky", on_end, &e));
    OK(dtask_worker_start(w));
    int64_t n = 0;
    OK(rig_run(&r, "shaky", 1, &n));
    cr_assert_eq(n, 3);
    gate_wait(&e.at, 1);
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPE, .id = dti_strz("shaky")}};
    OK(dti_engine_call(r.app->engine, &mem, &op));
    cr_assert_eq(op.read.types[0].row.workers, 1, "only one serves it");
    dti_arena_done(&mem);
    dtask_worker_free(w);
    rig_close(&r);
}

// The same where the worker has the root's handler, and `types` leaves it out.
BOTH(worker_callbacks, of_a_root_that_types_leaves_out) {
    static ends e = {.at = GATE};
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, DTASK_OPTS("slots", "1", "types", "add.on_complete"));
    OK(dtask_worker_on_complete(w, "add", on_end, &e));
    OK(dtask_worker_start(w));
    int64_t n;
    OK(rig_end(rig_job(&r, "add", DTASK_OPTS("id", "j1"), 1), &n));
    gate_wait(&e.at, 1);
    cr_assert_str_eq(e.id, "j1 1");
    dtask_worker_free(w);
    rig_close(&r);
}
