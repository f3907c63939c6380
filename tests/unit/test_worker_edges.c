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

#define DEP_7 dti_str("\xd6\x02\0\0\0\7", 6)

// Argument 1 says that it is the result of dep 7, of which there is one.
static dtask_err poisons(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *a;
    WANT(dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1), 0);
    WANT(dtask_spawn(t, "any", NULL, NULL, "t v", a, DEP_7), DTASK_EARGS);
    WANT(dtask_then(t, "any", NULL, "t v", a, DEP_7), DTASK_EARGS);
    return dtask_done(t, "i", (int64_t)1);
}

BOTH(worker_edges, arguments_that_name_no_dep) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"any", NULL, add}, {"poisons", "n:i -> i", poisons}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "poisons", 0, &n));
    rig_close(&r);
}

// The store gives such arguments, whoever wrote them.
static void spoil(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    rig_engine(e, mem, ops, n);
    dti_turn *t = &ops[n - 1].turn;
    for (uint32_t i = 0; ops[n - 1].kind == DTI_OP_TURN && i < t->nclaims; i++)
        if (t->claims[i].ndeps) ((dti_claim *)t->claims)[i].args = dti_str("\x92\1\xd6\x02\0\0\0\7", 8);
}

static dtask_err depends(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *a, *b;
    WANT(dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1), 0);
    WANT(dtask_spawn(t, "add", NULL, &b, "t", a), 0);
    WANT(dtask_wait(t, b, -1), DTASK_EFAILED);
    HOLDS(strstr(dtask_err_detail(), "BadArguments"));
    return dtask_done(t, "i", (int64_t)7);
}

BOTH(worker_edges, a_claim_whose_arguments_name_no_dep) {
    rig r;
    rig_fault = spoil;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"depends", "n:i -> i", depends}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "depends", 0, &n));
    cr_assert_eq(n, 7);
    OK(rig_run(&r, "add", 1, &n)); // its worker goes on
    rig_close(&r);
}

// ---- errors ---------------------------------------------------------------------------

static dtask_err wails(dtask_task *t, void *arg) {
    (void)arg;
    char text[1000];
    memset(text, 'x', sizeof text);
    return dtask_fail(t, DTASK_EFATAL, "%.*s", (int)sizeof text, text);
}

// Its error, of so many children, in a store of such a max_payload.
static dtask_str map_fails(const char *max_payload, uint32_t n) {
    dtask_app *app;
    dtask_worker *w;
    dtask_job *job;
    dtask_str end = {0};
    dti_buf items = {0};
    dti_mp_put_array(&items, n);
    for (uint32_t i = 0; i < n; i++) dti_mp_put_uint(&items, i);
    OK(dtask_open("test", "memory:", DTASK_OPTS("max_payload", max_payload), &app));
    OK(dtask_worker_new(app, ONE, &w));
    OK(dtask_worker_add(w, "wails", NULL, wails, NULL));
    OK(dtask_worker_start(w));
    OK(dtask_start(app, "dynatask.map", NULL, &job, "z v", "wails", dti_str(items.p, items.n)));
    OK(dtask_job_wait(job, -1));
    FAILS(dtask_b_job_end(job, &end), DTASK_EFAILED);
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
    dti_buf_done(&items);
    return end;
}

Test(worker_edges, the_error_of_a_map_is_within_max_payload, .timeout = 60) {
    static const struct { const char *max_payload; size_t most; uint32_t least, errors; } cases[] = {
        {"1KiB", 1024, 0, 0}, {"16KiB", 16384, 0, 19}, {"64KiB", 65536, 20, 20}};
    for (size_t i = 0; i < 3; i++) {
        dtask_str end = map_fails(cases[i].max_payload, 20), message = {0};
        int64_t failed = 0;
        dti_mp at = dti_mp_of(dti_mp_get(end, "errors"));
        dti_mpval head = {0};
        cr_assert(dti_mp_next(&at, &head) && head.kind == DTI_MP_ARRAY);
        cr_assert(head.n >= cases[i].least && head.n <= cases[i].errors, "%s: %u errors", cases[i].max_payload, head.n);
        cr_assert(dti_mp_int(dti_mp_get(end, "failed"), &failed) && failed == 20);
        cr_assert(dti_mp_text(dti_mp_get(end, "message"), &message) && strstr(message.p, "20 children did not succeed, the first "), "%.*s", (int)message.n, message.p);
        // What a reader gets names the task too.
        cr_assert(end.n < cases[i].most + 300, "%s: %zu bytes", cases[i].max_payload, end.n);
        dtask_b_free(end);
    }
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
