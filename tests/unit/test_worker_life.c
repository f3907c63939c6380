// Attempts, crashes, cancelling, timeouts, draining.
#include "worker_rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const ONE[] = {"slots", "1", NULL};
static atomic_int runs, fails;

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

// ---- retries ---------------------------------------------------------------------

static dtask_err shaky(dtask_task *t, void *arg) { // fails n times
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (err) return err;
    runs++;
    if (fails++ < n) return dtask_fail(t, DTASK_EINTERNAL, "not yet");
    return dtask_done(t, "i", (int64_t)runs);
}

BOTH(worker_life, retries) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"shaky", "n:i -> i; retries=2 backoff=0.01", shaky}, {0}}, ONE);
    int64_t n = 0;
    runs = fails = 0;
    OK(rig_run(&r, "shaky", 2, &n));
    cr_assert_eq(n, 3);
    runs = fails = 0;
    FAILS(rig_run(&r, "shaky", 3, &n), DTASK_EFAILED);
    cr_assert(strstr(dtask_err_detail(), "not yet"), "%s", dtask_err_detail());
    cr_assert_eq(runs, 3);
    rig_close(&r);
}

static dtask_err again(dtask_task *t, void *arg) {
    (void)arg;
    return runs++ < 2 ? dtask_retry(t, 5) : dtask_done(t, "i", (int64_t)runs);
}

BOTH(worker_life, retry_counts) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"again", "n:i -> i; retries=2", again}, {0}}, ONE);
    int64_t n = 0;
    runs = 0;
    OK(rig_run(&r, "again", 0, &n));
    cr_assert_eq(n, 3);
    rig_close(&r);
}

// A retry finds what was good, and makes the others anew.
static dtask_err parent(dtask_task *t, void *arg) {
    (void)arg;
    int64_t x = 0, y = 0;
    dtask_child *good, *bad;
    dtask_err err = dtask_spawn(t, "add", NULL, &good, "i", (int64_t)1);
    if (!err) err = dtask_spawn(t, "shaky", DTASK_OPTS("retries", "0"), &bad, "i", (int64_t)1);
    if (!err) err = dtask_wait(t, good, -1);
    if (!err) err = dtask_child_result(good, "i", &x);
    if (!err) err = dtask_wait(t, bad, -1);
    if (!err) err = dtask_child_result(bad, "i", &y);
    return err ? err : dtask_done(t, "i", x * 100 + y);
}

BOTH(worker_life, a_retry_makes_the_failed_anew) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"shaky", "n:i -> i", shaky},
        {"parent", "n:i -> i; retries=1 backoff=0.001", parent}, {0}}, ONE);
    int64_t n = 0;
    runs = fails = 0;
    dtask_job *job = rig_job(&r, "parent", NULL, 0);
    OK(dtask_job_wait(job, 20000));
    cr_assert_eq(rig_count(job, "added"), 4); // root, add, shaky twice
    cr_assert_eq(rig_count(job, "failed"), 1);
    OK(rig_end(job, &n));
    cr_assert_eq(n, 202);
    rig_close(&r);
}

// Of a map's children, the retry makes those anew that failed.
static dtask_err odd(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err && runs == 0 && n % 100 == 1) return dtask_fail(t, DTASK_EFATAL, "odd %d", (int)n);
    return err ? err : dtask_done(t, "i", n);
}

static dtask_err maps(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *b, *c;
    int64_t x, sum = 0;
    dtask_err err = dtask_map(t, "odd", NULL, &b, 0, 1000, "");
    if (!err) err = dtask_wait(t, b, -1);
    if (err == DTASK_EFAILED) runs++;
    for (uint64_t i = 0; i < 1000 && !err; i++) {
        if ((err = dtask_child_at(b, i, &c)) || (err = dtask_child_result(c, "i", &x))) break;
        if (x != (int64_t)i) return dtask_fail(t, DTASK_EFATAL, "item %d gives %d", (int)i, (int)x);
        sum += x;
        dtask_child_free(c);
    }
    return err ? err : dtask_done(t, "i", sum);
}

BOTH(worker_life, a_retry_of_a_map) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"odd", "n:i -> i", odd}, {"maps", "n:i -> i; retries=1 backoff=0.001", maps}, {0}}, ONE);
    int64_t n = 0;
    runs = 0;
    dtask_job *job = rig_job(&r, "maps", NULL, 0);
    OK(dtask_job_wait(job, 20000));
    cr_assert_eq(rig_count(job, "added"), 1011);
    cr_assert_eq(rig_count(job, "failed"), 10);
    OK(rig_end(job, &n));
    cr_assert_eq(n, 999 * 500);
    rig_close(&r);
}

// ---- crashes --------------------------------------------------------------------

static gate crash = GATE;
static atomic_int attempts;

// Its worker is killed between the children and the end of the first run.
static dtask_err survivor(dtask_task *t, void *arg) {
    rig *r = arg;
    int64_t n, x, sum = 0;
    dtask_child *c[50], *b;
    dtask_err err = dtask_args(t, "n:i", &n);
    int attempt = ++attempts;
    for (int64_t i = 0; i < 50 && !err; i++) err = dtask_spawn(t, "add", NULL, &c[i], "i", i % 7);
    if (!err) err = dtask_map(t, "add", NULL, &b, 0, 3000, "");
    if (!err) err = dtask_wait(t, n ? c[3] : NULL, -1);
    if (err) return err;
    if (attempt == 1) {
        rig_kill(r, r->worker);
        // Any call says so once the worker knows.
        while (!(err = dtask_progress(t, 1, 2))) rig_pause(1);
        if (err == DTASK_ELOST) gate_open(&crash);
        return err;
    }
    if ((err = dtask_wait(t, NULL, -1))) return err;
    for (int64_t i = 0; i < 50 && !err; i++) {
        err = dtask_child_result(c[i], "i", &x);
        sum += x;
    }
    if (!err) err = dtask_wait(t, b, -1);
    for (uint64_t i = 0; i < 3000 && !err; i += 100) {
        dtask_child *item;
        if ((err = dtask_child_at(b, i, &item)) || (err = dtask_child_result(item, "i", &x))) break;
        if (x != (int64_t)i + 1) return dtask_fail(t, DTASK_EFATAL, "item %d gives %d", (int)i, (int)x);
    }
    return err ? err : dtask_done(t, "i", sum);
}

BOTH(worker_life, a_crash_doubles_nothing) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"survivor", "n:i -> i", survivor}, {0}}, ONE);
    for (int how = 0; how < 2; how++) {
        int64_t n = 0, want = 0;
        attempts = 0;
        dtask_job *job = rig_job(&r, "survivor", NULL, how);
        OK(dtask_job_wait(job, 40000));
        cr_assert_eq(gate_at(&crash), how + 1);
        cr_assert_eq(attempts, 2);
        cr_assert_eq(rig_count(job, "added"), 3051);
        cr_assert_eq(rig_count(job, "succeeded"), 3051);
        OK(rig_end(job, &n));
        for (int i = 0; i < 50; i++) want += i % 7 + 1;
        cr_assert_eq(n, want);
    }
    rig_close(&r);
}

// Told in more than one message: a batch, then each by dtask_next.
static dtask_err many(dtask_task *t, void *arg) {
    rig *r = arg;
    int64_t n, got = 0;
    dtask_child *b, *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    int attempt = ++attempts;
    if (!err) err = dtask_map(t, "add", NULL, &b, 0, (uint64_t)n, "");
    if (!err) err = dtask_wait(t, b, -1);
    while (!err && !(err = dtask_next(t, -1, &c))) {
        dtask_child_free(c);
        if (++got < n / 2 || attempt > 1) continue;
        rig_kill(r, r->worker);
        while (!(err = dtask_progress(t, 1, 2))) rig_pause(1);
        return err;
    }
    return err == DTASK_ENOTFOUND ? dtask_done(t, "i", got) : err;
}

BOTH(worker_life, a_crash_among_many) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"many", "n:i -> i", many}, {0}}, ONE);
    int64_t n = 0;
    attempts = 0;
    OK(rig_run(&r, "many", 5000, &n));
    cr_assert_eq(n, 5000);
    cr_assert_eq(attempts, 2);
    rig_close(&r);
}

// A crash re-run is given the failure that it was given before.
static dtask_err replays(dtask_task *t, void *arg) {
    rig *r = arg;
    dtask_child *c;
    int attempt = ++attempts;
    dtask_err err = dtask_spawn(t, "shaky", NULL, &c, "i", (int64_t)1);
    if (!err) err = dtask_wait(t, c, -1);
    if (err != DTASK_EFAILED) return dtask_fail(t, DTASK_EFATAL, "attempt %d: wait gave %s", attempt, dtask_err_name(err));
    if (attempt == 1) {
        rig_kill(r, r->worker);
        while (!(err = dtask_progress(t, 1, 2))) rig_pause(1);
        return err;
    }
    return dtask_done(t, "i", (int64_t)attempt);
}

BOTH(worker_life, a_crash_replays_failures) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"shaky", "n:i -> i", shaky}, {"replays", "n:i -> i", replays}, {0}}, ONE);
    int64_t n = 0;
    runs = fails = attempts = 0;
    dtask_job *job = rig_job(&r, "replays", NULL, 0);
    OK(dtask_job_wait(job, 20000));
    cr_assert_eq(rig_count(job, "added"), 2);
    OK(rig_end(job, &n));
    cr_assert_eq(n, 2);
    cr_assert_eq(runs, 1);
    rig_close(&r);
}

// ---- an engine that fails, a worker that freezes -----------------------------------

static const dti_engine_ops *real;
static atomic_int failing;       // turns yet to fail

static void failing_call(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    if (ops[n - 1].kind != DTI_OP_TURN || failing <= 0) {
        real->call(e, mem, ops, n);
        return;
    }
    failing--;
    for (size_t i = 0; i < n; i++) ops[i].err = dti_fail(DTASK_EENGINE, "no disk");
}

static dtask_err fails_engine(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_child *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (attempts++ == 0) failing = (int)n;
    if (!err) err = dtask_spawn(t, "add", NULL, &c, "i", (int64_t)1);
    if (!err) err = dtask_wait(t, c, -1);
    return err ? err : dtask_done(t, "i", (int64_t)attempts);
}

static void fail_turns(rig *r, const char *scheme, const char *lease, dti_engine_ops *ops) {
    rig_open(r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"fails", "n:i -> i", fails_engine}, {0}}, DTASK_OPTS("slots", "1", "lease", lease));
    real = r->app->engine->ops;
    *ops = *real;
    ops->call = failing_call;
    r->app->engine->ops = ops;
    attempts = 0;
}

// Turns that fail are sent again, as long as the lease holds: a long one, for
// a slow machine.
BOTH(worker_life, turns_that_fail) {
    rig r;
    dti_engine_ops ops;
    fail_turns(&r, scheme, "3600", &ops);
    int64_t n = 0;
    OK(rig_run(&r, "fails", 10, &n));
    cr_assert_eq(n, 1);
    r.app->engine->ops = real;
    rig_close(&r);
}

// Past the lease the worker starts anew; where the machine is slow, more than once.
BOTH(worker_life, turns_that_fail_for_a_lease) {
    rig r;
    dti_engine_ops ops;
    fail_turns(&r, scheme, "1", &ops);
    int64_t n = 0;
    dtask_job *job = rig_job(&r, "fails", NULL, 1000000);
    uint64_t was = r.worker->links->no;
    while (r.worker->links->no == was) rig_pause(10);
    failing = 0;
    OK(rig_end(job, &n));        // what the old one held is given back
    cr_assert(n >= 2);
    r.app->engine->ops = real;
    rig_close(&r);
}

static dtask_err frozen(dtask_task *t, void *arg) {
    (void)t;
    (void)arg;
    return dtask_done(t, "i", (int64_t)getpid());
}

static volatile sig_atomic_t thawed;

static void thaw(int signal) {
    (void)signal;
    thawed = 1;
}

// Another thread may be the one that is stopped first: this one must not get
// to its outcome meanwhile.
static dtask_err froze(dtask_task *t, void *arg) {
    (void)arg;
    uint64_t attempt;
    dtask_err err = dtask_info(t, "attempt:u", &attempt);
    if (!err && attempt == 1) {
        signal(SIGCONT, thaw);
        rig_pause(100);          // not in the midst of a turn: who freezes there holds up the file
        kill(getpid(), SIGSTOP);
        while (!thawed) rig_pause(1);
    }
    return err ? err : dtask_done(t, "i", (int64_t)getpid());
}

// Its late outcome is refused, and it serves on under a new name.
Test(worker_life, a_frozen_worker_fences_itself, .timeout = 60) {
    char folder[] = "/tmp/dtask-test-XXXXXX", url[64];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(url, sizeof url, "sqlite:%s/t.db", folder);
    const char *const *lease = DTASK_OPTS("lease", "1");
    pid_t child = fork();
    if (!child) {
        dtask_app *app;
        dtask_worker *w;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dtask_err err = dtask_open("test", url, lease, &app);
        if (!err) err = dtask_worker_new(app, ONE, &w);
        if (!err) err = dtask_worker_add(w, "froze", "n:i -> i", froze, NULL);
        if (!err) err = dtask_worker_add(w, "frozen", "n:i -> i", frozen, NULL);
        if (!err) err = dtask_worker_run(w);
        fprintf(stderr, "child: %s: %s\n", dtask_err_name(err), dtask_err_detail());
        _exit(1);
    }
    rig r = {0};
    int64_t n = 0;
    OK(dtask_open("test", url, lease, &r.app));
    while (dtask_start(r.app, "froze", DTASK_OPTS("id", "one"), NULL, "i", (int64_t)0)) rig_pause(10); // until the type is known
    int status;
    cr_assert_eq(waitpid(child, &status, WUNTRACED), child);
    cr_assert(WIFSTOPPED(status));
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"froze", "n:i -> i", froze}, {0}}, ONE);
    OK(dtask_worker_start(w));
    dtask_job *job;
    OK(dtask_job_find(r.app, "one", &job));
    OK(rig_end(job, &n));
    cr_assert_eq(n, getpid());
    kill(child, SIGCONT);
    OK(rig_run(&r, "frozen", 0, &n));
    cr_assert_eq(n, child);
    OK(dtask_job_find(r.app, "one", &job));
    cr_assert_eq(rig_count(job, "succeeded"), 1);
    OK(rig_end(job, &n));
    cr_assert_eq(n, getpid());
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    dtask_worker_free(w);
    dtask_close(r.app);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

// ---- cancelling, timeouts ---------------------------------------------------------

static gate begun = GATE;

static dtask_err waits_for_cancel(dtask_task *t, void *arg) {
    (void)arg;
    gate_open(&begun);
    while (!dtask_cancelled(t)) rig_pause(1);
    return DTASK_ECANCELLED;
}

static dtask_err holds_child(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *c;
    dtask_err err = dtask_spawn(t, "sleeper", NULL, &c, "i", (int64_t)0);
    if (!err) err = dtask_wait(t, c, -1);
    return err;
}

BOTH(worker_life, cancel_reaches_running_and_parked) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"sleeper", "n:i", waits_for_cancel}, {"holds", "n:i", holds_child}, {0}}, ONE);
    int64_t n;
    dtask_job *job = rig_job(&r, "holds", NULL, 0);
    gate_wait(&begun, 1);
    OK(dtask_job_control(job, "cancel"));
    OK(dtask_job_wait(job, 20000));
    cr_assert_eq(rig_count(job, "cancelled"), 2);
    FAILS(rig_end(job, &n), DTASK_ECANCELLED);
    rig_close(&r);
}

static dtask_err slow(dtask_task *t, void *arg) {
    (void)arg;
    if (runs++) return dtask_done(t, "i", (int64_t)runs);
    while (!dtask_cancelled(t)) rig_pause(1);
    return dtask_done(t, "i", (int64_t)-1); // too late: refused
}

BOTH(worker_life, timeout_is_an_attempt) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"slow", "n:i -> i; timeout=0.05 retries=1 backoff=0.001", slow}, {0}}, ONE);
    int64_t n = 0;
    runs = 0;
    OK(rig_run(&r, "slow", 0, &n));
    cr_assert_eq(n, 2);
    rig_close(&r);
}

static gate stuck = GATE;

static dtask_err hangs(dtask_task *t, void *arg) {
    (void)t;
    (void)arg;
    gate_open(&begun);
    gate_wait(&stuck, 1);
    return DTASK_OK;
}

BOTH(worker_life, all_slots_leaked_ends_the_worker) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"hangs", "n:i; timeout=0.02", hangs}, {0}}, ONE);
    int64_t n = 0;
    FAILS(rig_run(&r, "hangs", 0, &n), DTASK_EFAILED);
    cr_assert(strstr(dtask_err_detail(), "timeout"), "%s", dtask_err_detail());
    FAILS(dtask_worker_run(r.worker), DTASK_ETIMEOUT);
    gate_open(&stuck);
    dtask_worker_free(r.worker);
    dtask_close(r.app);
}

// ---- draining ------------------------------------------------------------------------

static dtask_err waits_for_gate(dtask_task *t, void *arg) {
    (void)arg;
    gate_open(&begun);
    gate_wait(&stuck, 1);
    return dtask_done(t, "i", (int64_t)7);
}

BOTH(worker_life, drain_lets_handlers_finish) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"held", "n:i -> i", waits_for_gate}, {"add", "n:i -> i", add}, {0}}, ONE);
    int64_t n = 0;
    dtask_job *job = rig_job(&r, "held", NULL, 0);
    gate_wait(&begun, 1);
    dtask_job *later = rig_job(&r, "add", NULL, 1);
    dtask_worker_stop(r.worker, 20000);
    gate_open(&stuck);
    OK(dtask_worker_run(r.worker));
    OK(rig_end(job, &n));
    cr_assert_eq(n, 7);
    cr_assert_eq(rig_count(later, "ready"), 1);
    dtask_worker *second = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    OK(dtask_worker_start(second));
    OK(rig_end(later, &n));
    dtask_worker_free(r.worker);
    r.worker = second;
    rig_close(&r);
}

BOTH(worker_life, a_second_stop_gives_back_at_once) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"held", "n:i -> i", waits_for_gate}, {0}}, ONE);
    int64_t n = 0;
    dtask_job *job = rig_job(&r, "held", NULL, 0);
    gate_wait(&begun, 1);
    dtask_worker_stop(r.worker, 20000);
    dtask_worker_stop(r.worker, 20000);
    OK(dtask_worker_run(r.worker));
    cr_assert_eq(rig_count(job, "ready"), 1);
    gate_open(&stuck);
    dtask_worker *second = rig_worker(&r, (rig_handler[]){{"held", "n:i -> i", waits_for_gate}, {0}}, ONE);
    OK(dtask_worker_start(second));
    OK(rig_end(job, &n));
    cr_assert_eq(n, 7);
    dtask_worker_free(r.worker);
    r.worker = second;
    rig_close(&r);
}

// Parked frames of a worker that drains go on in another.
BOTH(worker_life, drain_hands_parked_on) {
    rig r;
    rig_handler both[] = {{"held", "n:i -> i", waits_for_gate}, {"holds2", "n:i", holds_child}, {"sleeper", "n:i -> i", waits_for_gate}, {0}};
    rig_open(&r, scheme, both, ONE);
    int64_t n = 0;
    dtask_job *job = rig_job(&r, "holds2", NULL, 0);
    gate_wait(&begun, 1);
    dtask_worker *second = rig_worker(&r, both, ONE);
    OK(dtask_worker_start(second));
    dtask_worker_stop(r.worker, 20000);
    gate_open(&stuck);
    OK(dtask_worker_run(r.worker));
    dtask_worker_free(r.worker);
    r.worker = second;
    OK(rig_end(job, &n));
    rig_close(&r);
}

// ---- who serves what ------------------------------------------------------------------

BOTH(worker_life, another_signature_is_refused) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"add", "n:s -> i", add}, {0}}, ONE);
    FAILS(dtask_worker_start(w), DTASK_ECONFLICT);
    cr_assert(strstr(dtask_err_detail(), "n:i") && strstr(dtask_err_detail(), "n:s"), "%s", dtask_err_detail());
    dtask_worker_free(w);
    FAILS(dtask_worker_add(r.worker, "late", NULL, add, NULL), DTASK_EUSAGE);
    rig_close(&r);
}

static dtask_err fib(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x, y;
    dtask_child *a, *b;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (err || n < 2) return err ? err : dtask_done(t, "i", n);
    if ((err = dtask_spawn(t, "fib", NULL, &a, "i", n - 1)) || (err = dtask_spawn(t, "fib", NULL, &b, "i", n - 2))) return err;
    if ((err = dtask_wait(t, NULL, -1))) return err;
    if ((err = dtask_child_result(a, "i", &x)) || (err = dtask_child_result(b, "i", &y))) return err;
    return dtask_done(t, "i", x + y);
}

BOTH(worker_life, two_workers_one_tree) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"fib", "n:i -> i", fib}, {0}}, DTASK_OPTS("slots", "3"));
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"fib", "n:i -> i", fib}, {0}}, DTASK_OPTS("slots", "2"));
    OK(dtask_worker_start(w));
    int64_t n = 0;
    OK(rig_run(&r, "fib", 15, &n));
    cr_assert_eq(n, 610);
    dtask_worker_free(w);
    rig_close(&r);
}

// ---- system types -------------------------------------------------------------------

static gate called = GATE;
static char undone[64];

static dtask_err undoes(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    snprintf(undone + strlen(undone), sizeof undone - strlen(undone), "%d ", (int)n);
    if (n == 2) return dtask_fail(t, DTASK_EFATAL, "cannot be undone");
    if (n == 1) gate_open(&called);
    return err;
}

// As a workflow's undo notes them: the call's type, and its arguments.
static dtask_err notes_undo(dtask_task *t, void *arg) {
    (void)arg;
    for (int n = 1; n <= 3; n++) {
        dti_buf args = {0};
        dti_mp_put_array(&args, 1);
        dti_mp_put_int(&args, n);
        pthread_mutex_lock(&t->w->lock);
        cr_assert(dti_grow(&t->notes.v, t->notes.n, &t->notes.cap, sizeof *t->notes.v));
        t->notes.v[t->notes.n++] = (dti_note){.kind = DTI_LOG_UNDO, .name = dti_strz("undoes"), .data = dti_str(args.p, args.n)};
        pthread_mutex_unlock(&t->w->lock);
    }
    return dtask_fail(t, DTASK_EFATAL, "to be undone");
}

BOTH(worker_life, undo_runs_last_first) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"undoes", "n:i", undoes}, {"notes", "n:i", notes_undo}, {0}}, ONE);
    int64_t n;
    int before = gate_at(&called);
    FAILS(rig_run(&r, "notes", 0, &n), DTASK_EFAILED);
    gate_wait(&called, before + 1);
    cr_assert_str_eq(undone, "3 2 1 ");
    rig_close(&r);
}

BOTH(worker_life, start_map_gives_results_in_order) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    dti_buf items = {0};
    dti_mp_put_array(&items, 10000);
    for (int i = 0; i < 10000; i++) dti_mp_put_int(&items, i);
    dtask_job *job;
    dtask_str all;
    OK(dtask_start(r.app, DTI_SYS_MAP, NULL, &job, "z v", "add", dti_str(items.p, items.n)));
    OK(dtask_job_wait(job, 50000));
    OK(dtask_job_result(job, "v", &all));
    dti_mp at = dti_mp_of(all);
    dti_mpval v;
    cr_assert(dti_mp_next(&at, &v) && v.kind == DTI_MP_ARRAY && v.n == 10000);
    for (uint64_t i = 0; i < 10000; i++) cr_assert(dti_mp_next(&at, &v) && v.u == i + 1);
    dtask_job_free(job);
    dti_buf_done(&items);
    rig_close(&r);
}

// A slow claim does not hold up the ones behind it: a worker that sleeps gets them.
BOTH(worker_life, claims_go_to_the_hungry) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"held", "n:i -> i", waits_for_gate}, {"add", "n:i -> i", add}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "add", 1, &n)); // its time is known
    dtask_job *slow_one = rig_job(&r, "held", NULL, 0);
    gate_wait(&begun, 1);
    dtask_job *jobs[20];
    for (int i = 0; i < 20; i++) jobs[i] = rig_job(&r, "add", NULL, i);
    dtask_worker *w = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    OK(dtask_worker_start(w));
    for (int i = 0; i < 20; i++) OK(rig_end(jobs[i], &n));
    gate_open(&stuck);
    OK(rig_end(slow_one, &n));
    dtask_worker_free(w);
    rig_close(&r);
}

// ---- signs of life -----------------------------------------------------------------

// A worker that always has something to send never sleeps, and beats all the same.
static dti_engine_ops busy_ops;
static const dti_engine_ops *real_ops;
static dtask_worker *busy;
static atomic_int turns, unseen, unseen_most;

static void busy_beat(dti_bell *b) {
    unseen = 0;
    real_ops->bell_beat(b);
}

static void busy_call(dti_engine *e, dti_arena *arena, dti_op *ops, size_t n) {
    real_ops->call(e, arena, ops, n);
    if (ops[n - 1].kind != DTI_OP_TURN || turns >= 20) return;
    turns++;
    if (++unseen > unseen_most) unseen_most = unseen;
    pthread_mutex_lock(&busy->lock);
    busy->links->urgent = true;
    pthread_mutex_unlock(&busy->lock);
}

BOTH(worker_life, a_worker_that_never_sleeps_beats) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    dtask_worker *w = busy = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    turns = unseen = unseen_most = 0;
    real_ops = w->engine->ops;
    busy_ops = *real_ops;
    busy_ops.call = busy_call;
    busy_ops.bell_beat = busy_beat;
    dtask_worker_stop(r.worker, 0);
    OK(dtask_worker_run(r.worker));
    w->engine->ops = &busy_ops;
    OK(dtask_worker_start(w));
    while (turns < 20) rig_pause(1);
    dtask_worker_free(w);
    cr_assert_eq(unseen_most, 1, "%d turns went by without a sign of life", (int)unseen_most);
    rig_close(&r);
}
