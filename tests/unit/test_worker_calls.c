// What a C handler may call: arguments, results, errors, children, waits.
#include "worker_rig.h"

#include <string.h>

static const char *const ONE[] = {"slots", "1", NULL};

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

static dtask_err boom(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n = 0;
    dtask_args(t, "n:i", &n);
    return dtask_fail(t, DTASK_EFATAL, "boom %d", (int)n);
}

static dtask_err fib(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x, y;
    dtask_child *a, *b;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (err || n < 2) return err ? err : dtask_done(t, "i", n);
    if ((err = dtask_spawn(t, "fib", NULL, &a, "i", n - 1)) || (err = dtask_spawn(t, "fib", NULL, &b, "i", n - 2))) return err;
    if ((err = dtask_wait(t, a, -1)) || (err = dtask_wait(t, b, -1))) return err;
    if ((err = dtask_child_result(a, "i", &x)) || (err = dtask_child_result(b, "i", &y))) return err;
    return dtask_done(t, "i", x + y);
}

BOTH(worker_calls, one_slot_nests) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"fib", "n:i -> i", fib}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "fib", 12, &n));
    cr_assert_eq(n, 144);
    rig_close(&r);
}

BOTH(worker_calls, depth) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"deep", "n:i -> i", rig_deep}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "deep", 3000, &n));
    cr_assert_eq(n, 3000);
    rig_close(&r);
}

// max_parked 2: frames are dropped and run again.
BOTH(worker_calls, depth_beyond_max_parked) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"deep", "n:i -> i", rig_deep}, {"fib", "n:i -> i", fib}, {0}},
        DTASK_OPTS("slots", "1", "max_parked", "2"));
    int64_t n = 0;
    OK(rig_run(&r, "deep", 60, &n));
    cr_assert_eq(n, 60);
    dtask_job *job = rig_job(&r, "fib", NULL, 9);
    OK(dtask_job_wait(job, 50000));
    cr_assert_eq(rig_count(job, "added"), 109);
    cr_assert_eq(rig_count(job, "succeeded"), 109);
    OK(rig_end(job, &n));
    cr_assert_eq(n, 34);
    rig_close(&r);
}

static dtask_err joins(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x, sum = 0;
    dtask_child *b, *c;
    dtask_str all;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_map(t, "add", NULL, &b, 0, (uint64_t)n, "");
    if (!err) err = dtask_wait(t, b, -1);
    if (!err) err = dtask_child_result(b, "*", &all);
    for (int64_t i = 0; !err && i < n; i += n / 10 + 1) {
        if ((err = dtask_child_at(b, (uint64_t)i, &c)) || (err = dtask_child_result(c, "i", &x))) break;
        if (x != i + 1) return dtask_fail(t, DTASK_EFATAL, "child %d gives %d", (int)i, (int)x);
        dtask_child_free(c);
    }
    for (int64_t i = 0; !err && i < n; i++) {
        if (!dti_mp_int(dti_mp_at(all, (uint32_t)i), &x)) return dtask_fail(t, DTASK_EFATAL, "no result %d", (int)i);
        sum += x;
        if (n > 2000) break;     // dti_mp_at walks
    }
    return err ? err : dtask_done(t, "i", n > 2000 ? n : sum);
}

BOTH(worker_calls, map_joins) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"joins", "n:i -> i", joins}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "joins", 1000, &n));
    cr_assert_eq(n, 500500);
    OK(rig_run(&r, "joins", 0, &n));
    cr_assert_eq(n, 0);
    OK(rig_run(&r, "joins", 20000, &n));
    cr_assert_eq(n, 20000);
    rig_close(&r);
}

// Waits for one while others live, then for each: mail, told ahead.
static dtask_err each(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x, sum = 0;
    dtask_child *c[200];
    dtask_err err = dtask_args(t, "n:i", &n);
    for (int64_t i = 0; i < n && !err; i++) err = dtask_spawn(t, "add", NULL, &c[i], "i", i);
    for (int64_t i = n; i-- && !err;) {
        if ((err = dtask_wait(t, c[i], -1)) || (err = dtask_child_result(c[i], "i", &x))) break;
        sum += x;
        dtask_child_free(c[i]);
    }
    return err ? err : dtask_done(t, "i", sum);
}

BOTH(worker_calls, waits_for_each) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"each", "n:i -> i", each}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "each", 200, &n));
    cr_assert_eq(n, 20100);
    rig_close(&r);
}

static dtask_err nexts(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x, sum = 0;
    dtask_child *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_map(t, "add", NULL, NULL, 0, (uint64_t)n, "");
    if (!err) err = dtask_spawn(t, "add", NULL, NULL, "i", n);
    if (!err) err = dtask_spawn(t, "boom", NULL, NULL, "i", n);
    int failed = 0;
    while (!err && !(err = dtask_next(t, -1, &c))) {
        dtask_err end = dtask_child_result(c, "i", &x);
        if (end == DTASK_EFAILED) failed++;
        else if (end) return end;
        else sum += x;
        dtask_child_free(c);
    }
    if (err != DTASK_ENOTFOUND) return err;
    return failed == 1 ? dtask_done(t, "i", sum) : dtask_fail(t, DTASK_EFATAL, "%d failed", failed);
}

BOTH(worker_calls, next_gives_each_once) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"boom", "n:i -> i", boom}, {"nexts", "n:i -> i", nexts}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "nexts", 10, &n));
    cr_assert_eq(n, 66);
    OK(rig_run(&r, "nexts", 3000, &n));
    cr_assert_eq(n, 3001 * 3002 / 2);
    rig_close(&r);
}

// ---- failures -------------------------------------------------------------------

static dtask_err looks(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *c;
    int64_t how, x;
    dtask_err err = dtask_args(t, "n:i", &how);
    if (!err) err = dtask_spawn(t, "boom", NULL, &c, "i", (int64_t)7);
    if (err) return err;
    if (how == 0) return dtask_done(t, "i", how); // nobody looks
    err = dtask_wait(t, how == 1 ? c : NULL, -1);
    if (err != DTASK_EFAILED) return dtask_fail(t, DTASK_EFATAL, "wait gave %s", dtask_err_name(err));
    if (!strstr(dtask_err_detail(), "boom 7")) return dtask_fail(t, DTASK_EFATAL, "detail: %s", dtask_err_detail());
    if (how == 3) return err;
    if (how == 1 && dtask_child_result(c, "i", &x) != DTASK_EFAILED) return dtask_fail(t, DTASK_EFATAL, "no failure");
    return dtask_done(t, "i", how);
}

BOTH(worker_calls, failures_are_looked_at_or_climb) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"boom", "n:i -> i", boom}, {"looks", "n:i -> i", looks}, {0}}, ONE);
    int64_t n = 0;
    FAILS(rig_run(&r, "looks", 0, &n), DTASK_EFAILED);
    cr_assert(strstr(dtask_err_detail(), "boom 7"), "%s", dtask_err_detail());
    OK(rig_run(&r, "looks", 1, &n));
    OK(rig_run(&r, "looks", 2, &n));
    FAILS(rig_run(&r, "looks", 3, &n), DTASK_EFAILED);
    rig_close(&r);
}

static dtask_err twice(dtask_task *t, void *arg) { // a batch with failures
    (void)arg;
    dtask_child *b;
    dtask_str s;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_map(t, "boom", NULL, &b, 0, (uint64_t)n, "");
    if (err) return err;
    err = dtask_wait(t, b, -1);
    if (err != DTASK_EFAILED) return dtask_fail(t, DTASK_EFATAL, "wait gave %s", dtask_err_name(err));
    err = dtask_child_result(b, "v", &s);
    if (err != DTASK_EFAILED || !strstr(dtask_err_detail(), "ChildrenFailed"))
        return dtask_fail(t, DTASK_EFATAL, "result gave %s: %s", dtask_err_name(err), dtask_err_detail());
    return dtask_done(t, "i", n);
}

BOTH(worker_calls, a_batch_with_failures) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"boom", "n:i -> i", boom}, {"twice", "n:i -> i", twice}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "twice", 300, &n));
    cr_assert_eq(n, 300);
    rig_close(&r);
}

static dtask_err booms(dtask_task *t, void *arg) { // n of them, and what is said of the last wait
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    for (int64_t i = 0; i < n && !err; i++) {
        err = dtask_spawn(t, "boom", DTASK_OPTS("key", i % 2 ? "odd" : "even"), NULL, "i", i % 2);
        if (!err && (err = dtask_wait(t, NULL, -1)) == DTASK_EFAILED && i + 1 < n) err = DTASK_OK;
    }
    return err;
}

static dtask_err led(dtask_task *t, void *arg) { // a `then` behind a child that fails
    (void)arg;
    dtask_err err = dtask_spawn(t, "boom", NULL, NULL, "i", (int64_t)0);
    return err ? err : dtask_then(t, "add", NULL, "i", (int64_t)1);
}

static dtask_err next_of(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *c;
    int64_t n;
    dtask_err err = dtask_spawn(t, "led", NULL, NULL, "i", (int64_t)0);
    if (!err) err = dtask_next(t, -1, &c);
    if (err) return err;
    err = dtask_child_result(c, "i", &n);
    dtask_child_free(c);
    return err;
}

static void error_is(rig *r, const char *type, int64_t n, const char *text) {
    dtask_job *job = rig_job(r, type, DTASK_OPTS("id", type), n);
    OK(dtask_job_wait(job, 50000));
    FAILS(dtask_job_result(job, "i", &n), DTASK_EFAILED);
    cr_assert(strstr(dtask_err_detail(), text), "%s", dtask_err_detail());
    dtask_str error;
    OK(dtask_job_info(job, "error:s", &error));
    cr_assert(error.n == strlen(text) && !memcmp(error.p, text, error.n), "%.*s", (int)error.n, error.p);
    dtask_job_free(job);
}

BOTH(worker_calls, what_failed_is_named) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"boom", "n:i -> i", boom}, {"booms", "n:i -> i", booms}, {"add", "n:i -> i", add},
        {"led", "n:i -> i", led}, {"next_of", "n:i -> i", next_of}, {0}}, ONE);
    error_is(&r, "booms", 2, "ChildrenFailed: 1 child did not succeed, booms/2: EFATAL: boom 1");
    error_is(&r, "led", 0, "ChildrenFailed: what was to follow did not run: 1 child did not succeed, led/1: EFATAL: boom 0");
    error_is(&r, "next_of", 0, "ChildrenFailed: 1 child did not succeed, next_of/1: ChildrenFailed: what was to follow did not run: "
        "1 child did not succeed, next_of/2: EFATAL: boom 0");
    rig_close(&r);
}

// ---- then, dependencies, keys ------------------------------------------------------

static dtask_err becomes(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_child *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_spawn(t, n < 0 ? "boom" : "add", NULL, &c, "i", n);
    return err ? err : dtask_then(t, "add", NULL, "t", c);
}

BOTH(worker_calls, then_takes_its_place) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"boom", "n:i -> i", boom}, {"becomes", "n:i -> i", becomes}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "becomes", 5, &n));
    cr_assert_eq(n, 7);
    FAILS(rig_run(&r, "becomes", -1, &n), DTASK_EFAILED);
    rig_close(&r);
}

static dtask_err chained(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x;
    dtask_child *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_spawn(t, "add", NULL, &c, "i", (int64_t)0);
    for (int64_t i = 1; i < n && !err; i++) err = dtask_spawn(t, "add", NULL, &c, "t", c);
    if (!err) err = dtask_wait(t, c, -1);
    if (!err) err = dtask_child_result(c, "i", &x);
    return err ? err : dtask_done(t, "i", x);
}

BOTH(worker_calls, outputs_chain) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"chained", "n:i -> i", chained}, {0}}, ONE);
    int64_t n = 0;
    OK(rig_run(&r, "chained", 40, &n));
    cr_assert_eq(n, 40);
    rig_close(&r);
}

static dtask_err keyed(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *a, *b;
    dtask_err err = dtask_spawn(t, "add", DTASK_OPTS("key", "k"), &a, "i", (int64_t)1);
    if (!err) err = dtask_spawn(t, "add", DTASK_OPTS("key", "k"), &b, "i", (int64_t)1);
    if (err) return err;
    if (a != b) return dtask_fail(t, DTASK_EFATAL, "two children for one key");
    err = dtask_spawn(t, "add", DTASK_OPTS("key", "k"), &b, "i", (int64_t)2);
    if (err != DTASK_ECONFLICT) return dtask_fail(t, DTASK_EFATAL, "gave %s", dtask_err_name(err));
    return dtask_done(t, "i", (int64_t)1);
}

BOTH(worker_calls, keys) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"keyed", "n:i -> i", keyed}, {0}}, ONE);
    int64_t n = 0;
    dtask_job *job = rig_job(&r, "keyed", NULL, 0);
    OK(dtask_job_wait(job, 10000));
    cr_assert_eq(rig_count(job, "added"), 2);
    OK(rig_end(job, &n));
    rig_close(&r);
}

// ---- misuse --------------------------------------------------------------------------

static dtask_err misuses(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *c = NULL;
    dtask_str id, job, type;
    uint64_t attempt, version;
#define WANT(e, code) do { dtask_err got = (e); if (got != code) return dtask_fail(t, DTASK_EFATAL, "line %d gave %s: %s", __LINE__, dtask_err_name(got), dtask_err_detail()); } while (0)
    WANT(dtask_spawn(t, "nobody", NULL, &c, "i", (int64_t)1), DTASK_ENOTFOUND);
    WANT(dtask_spawn(t, "add", NULL, &c, "s", (dtask_str){"x", 1}), DTASK_EARGS);
    WANT(dtask_spawn(t, "add", DTASK_OPTS("id", "x"), &c, "i", (int64_t)1), DTASK_EARGS);
    WANT(dtask_done(t, "s", (dtask_str){"x", 1}), DTASK_EARGS);
    WANT(dtask_args(t, "m:i", &attempt), DTASK_EARGS);
    WANT(dtask_map(t, "add", DTASK_OPTS("key", "k"), NULL, 0, 2, ""), DTASK_EARGS);
    WANT(dtask_next(t, 0, &c), DTASK_ENOTFOUND);
    WANT(dtask_wait(t, NULL, 0), DTASK_OK);
    WANT(dtask_spawn(t, "add", NULL, &c, "i", (int64_t)1), DTASK_OK);
    WANT(dtask_child_result(c, "i", &attempt), DTASK_EUSAGE);
    WANT(dtask_info(t, "id:s job:s attempt:u version:u type:s", &id, &job, &attempt, &version, &type), DTASK_OK);
    if (attempt != 1 || version != 1 || type.n != 7 || id.n != job.n + 2) return dtask_fail(t, DTASK_EFATAL, "info");
    return dtask_done(t, "i", (int64_t)dtask_cancelled(t));
}

BOTH(worker_calls, misuse_is_named) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"misuses", "n:i -> i", misuses}, {0}}, ONE);
    int64_t n = 1;
    OK(rig_run(&r, "misuses", 0, &n));
    cr_assert_eq(n, 0);
    rig_close(&r);
}

// What dtask_next gives for a call that joined a task of the app: that task's end, whether there is a handle or not.
static dtask_err ten_times(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n * 10);
}

static dtask_err next_of_joined(dtask_task *t, void *arg) {
    (void)arg;
    static const char *const kept = "key=* keep=1h", *const dropped = "key=* keep=1h over=drop";
    int64_t n, x = 0;
    dtask_child *c, *held;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_spawn(t, "ten_times", DTASK_OPTS("unique", kept, "key", "held"), &held, "i", n);
    if (!err) err = dtask_next(t, -1, &c);
    if (err || (err = dtask_child_result(c, "i", &x)) || x != 10 * n) return dtask_fail(t, err ? err : DTASK_EFATAL, "held: %s", dtask_err_detail());
    err = dtask_spawn(t, "ten_times", DTASK_OPTS("unique", kept, "key", "not held"), NULL, "i", n);
    if (!err) err = dtask_next(t, -1, &c);
    x = 0;
    if (err || (err = dtask_child_result(c, "i", &x)) || x != 10 * n) return dtask_fail(t, err ? err : DTASK_EFATAL, "not held: %s", dtask_err_detail());
    err = dtask_spawn(t, "ten_times", DTASK_OPTS("unique", dropped, "key", "dropped"), NULL, "i", n);
    if (!err) err = dtask_next(t, -1, &c);
    if (err || (err = dtask_child_result(c, "i", &x)) != DTASK_ESKIPPED) return dtask_fail(t, DTASK_EFATAL, "dropped: %s", dtask_err_name(err));
    return dtask_next(t, -1, &c) == DTASK_ENOTFOUND ? dtask_done(t, "i", x) : dtask_fail(t, DTASK_EFATAL, "one more");
}

BOTH(worker_calls, next_of_joined_calls) {
    rig r;
    int64_t n = 0;
    rig_open(&r, scheme, (rig_handler[]){{"ten_times", "n:i -> i", ten_times}, {"next_of_joined", "n:i -> i", next_of_joined}, {0}}, ONE);
    dtask_job *first = rig_job(&r, "ten_times", DTASK_OPTS("unique", "key=* keep=1h"), 4);
    OK(rig_end(first, &n));
    OK(rig_run(&r, "next_of_joined", 4, &n));
    cr_assert_eq(n, 40);
    rig_close(&r);
}
