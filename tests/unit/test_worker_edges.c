// Where a C handler's calls meet an edge: waits of no time, children that came
// before they were asked for, arguments that nobody would write, an app that
// is closed meanwhile.
#include "worker_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const ONE[] = {"slots", "1", NULL};

#define WANT(e, code)                                                                                                        \
    do {                                                                                                                     \
        dtask_err got = (e);                                                                                                 \
        if (got != code)                                                                                                     \
            return dtask_fail(t, DTASK_EFATAL, "line %d gave %s: %s", __LINE__, dtask_err_name(got), dtask_err_detail()); \
    } while (0)
#define HOLDS(what)                                                                      \
    do {                                                                                 \
        if (!(what)) return dtask_fail(t, DTASK_EFATAL, "line %d: not %s", __LINE__, #what); \
    } while (0)

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

// ---- waits ------------------------------------------------------------------------

static dtask_err looks(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *c;
    int64_t n;
    WANT(dtask_spawn(t, "add", NULL, &c, "i", (int64_t)1), 0);
    WANT(dtask_wait(t, NULL, 0), DTASK_ETIMEOUT); // nobody was told of it yet
    WANT(dtask_wait(t, c, 0), DTASK_ETIMEOUT);
    WANT(dtask_wait(t, NULL, -1), 0);
    WANT(dtask_child_result(c, "i", &n), 0);
    return dtask_done(t, "i", n);
}

BOTH(worker_edges, a_look_at_children_that_are_not_sent) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"looks", "n:i -> i", looks}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "looks", 0, &n));
    cr_assert_eq(n, 2);
    rig_close(&r);
}

static dtask_err next_after(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *a, *b, *c;
    int64_t n = 0, x;
    WANT(dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1), 0);
    WANT(dtask_wait(t, a, -1), 0);
    WANT(dtask_spawn(t, "add", NULL, &b, "i", (int64_t)2), 0);
    for (int i = 0; i < 2; i++) {
        WANT(dtask_next(t, 5000, &c), 0);
        WANT(dtask_child_result(c, "i", &x), 0);
        n = n * 10 + x;
        dtask_child_free(c);
    }
    WANT(dtask_next(t, 5000, &c), DTASK_ENOTFOUND);
    return dtask_done(t, "i", n);
}

BOTH(worker_edges, next_gives_what_was_waited_for_before) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"next_after", "n:i -> i", next_after}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "next_after", 0, &n));
    cr_assert_eq(n, 23);
    rig_close(&r);
}

// ---- arguments ----------------------------------------------------------------------

// Argument 1 says that it is the result of dep 7, of which there is one.
static dtask_err poisons(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *a;
    WANT(dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1), 0);
    dtask_err err = dtask_spawn(t, "any", NULL, NULL, "tv", a, dti_str("\xd6\x02\0\0\0\7", 6));
    return err ? dtask_fail(t, DTASK_EFATAL, "refused: %s", dtask_err_detail()) : dtask_done(t, "i", (int64_t)1);
}

BOTH(worker_edges, arguments_that_name_no_dep) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"any", NULL, add}, {"poisons", "n:i -> i", poisons}, {0}}, ONE);
    int64_t n = 0;
    FAILS(rig_run(&r, "poisons", 0, &n), DTASK_EFAILED);
    cr_assert_not_null(strstr(dtask_err_detail(), "refused"), "%s", dtask_err_detail());
    OK(rig_run(&r, "add", 1, &n)); // the worker lives
    rig_close(&r);
}

// ---- an app that is closed ---------------------------------------------------------

static gate closing = GATE;

static dtask_err outlives(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *c;
    int64_t n;
    gate_open(&closing);
    gate_wait(&closing, 2);
    dtask_err err = dtask_spawn(t, "add", NULL, &c, "i", (int64_t)1);
    if (!err) err = dtask_wait(t, c, -1);
    if (!err) err = dtask_child_result(c, "i", &n);
    return err ? err : dtask_done(t, "i", n);
}

// What it ran is not to blame: another worker runs it, though it has no retries.
Test(worker_edges, an_app_closed_over_its_handlers, .timeout = 60) {
    rig r;
    dtask_app *other;
    dtask_worker *w;
    static const rig_handler handlers[] = {{"add", "n:i -> i", add}, {"outlives", "n:i -> i; retries=0", outlives}, {0}};
    rig_open(&r, "sqlite:", handlers, ONE);
    dtask_job_free(rig_job(&r, "outlives", DTASK_OPTS("id", "job"), 0));
    gate_wait(&closing, 1);
    OK(dtask_open("test", r.url, NULL, &other));
    dtask_close(r.app);
    gate_open(&closing);
    OK(dtask_worker_run(r.worker) == DTASK_EUSAGE ? 0 : DTASK_EINTERNAL);
    dtask_worker_free(r.worker);
    r.app = other;
    OK(dtask_worker_new(r.app, ONE, &w));
    for (const rig_handler *h = handlers; h->type; h++) OK(dtask_worker_add(w, h->type, h->signature, h->fn, NULL));
    OK(dtask_worker_start(w));
    r.worker = w;
    dtask_job *job;
    OK(dtask_job_find(r.app, "job", &job));
    int64_t n = 0;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 2);
    rig_close(&r);
}
