/* Handlers for the acceptance tests: one for each thing that C must be able
 * to do beside Python ones. Built with nothing but the public header. */
#include <dynatask.h>
#include <stdlib.h>
#include <string.h>

static dtask_err c_add(dtask_task *task, void *arg) {
    int64_t a, b;
    (void)arg;
    dtask_err err = dtask_args(task, "a:i b:i", &a, &b);
    return err ? err : dtask_done(task, "i", a + b);
}

static dtask_err c_fib(dtask_task *task, void *arg) {
    uint64_t n, x, y;
    dtask_child *a, *b;
    (void)arg;
    dtask_err err = dtask_args(task, "n:u", &n);
    if (err) return err;
    if (n < 2) return dtask_done(task, "u", n);
    if ((err = dtask_spawn(task, "c_fib", NULL, &a, "u", n - 1))) return err;
    if ((err = dtask_spawn(task, "c_fib", NULL, &b, "u", n - 2))) return err;
    if ((err = dtask_wait(task, a, -1)) || (err = dtask_wait(task, b, -1))) return err;
    if ((err = dtask_child_result(a, "u", &x)) || (err = dtask_child_result(b, "u", &y))) return err;
    dtask_child_free(a);
    dtask_child_free(b);
    return dtask_done(task, "u", x + y);
}

/* Spawns the Python type `py_double` and adds one. */
static dtask_err c_calls_python(dtask_task *task, void *arg) {
    int64_t n, got;
    dtask_child *child;
    (void)arg;
    dtask_err err = dtask_args(task, "n:i", &n);
    if (!err) err = dtask_spawn(task, "py_double", NULL, &child, "i", n);
    if (!err) err = dtask_wait(task, child, -1);
    if (!err) err = dtask_child_result(child, "i", &got);
    return err ? err : dtask_done(task, "i", got + 1);
}

static dtask_err c_fail(dtask_task *task, void *arg) {
    dtask_str word;
    (void)arg;
    dtask_err err = dtask_args(task, "word:s", &word);
    return err ? err : dtask_fail(task, DTASK_EFAILED, "the word was %.*s", (int)word.n, word.p);
}

static dtask_err c_fatal(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_fail(task, DTASK_EFATAL, "never again");
}

/* Fails until its third attempt. */
static dtask_err c_flaky(dtask_task *task, void *arg) {
    uint64_t attempt;
    (void)arg;
    dtask_err err = dtask_info(task, "attempt:u", &attempt);
    if (err) return err;
    return attempt < 3 ? dtask_retry(task, 1) : dtask_done(task, "u", attempt);
}

/* All types of values there and back. */
static dtask_err c_echo(dtask_task *task, void *arg) {
    dtask_str all;
    (void)arg;
    dtask_err err = dtask_args(task, "*", &all);
    return err ? err : dtask_done(task, "*", all);
}

static dtask_err c_kinds(dtask_task *task, void *arg) {
    int64_t i;
    uint64_t u;
    double f;
    int b;
    dtask_str s, y;
    int64_t o = -1;
    (void)arg;
    dtask_err err = dtask_args(task, "i:i u:u f:f b:b s:s y:y o:i?", &i, &u, &f, &b, &s, &y, &o);
    return err ? err : dtask_done(task, "i u f b s y i", i, u, f, b, s, y, o);
}

/* n children of a C type by one call, joined. */
static dtask_err c_map(dtask_task *task, void *arg) {
    uint64_t n;
    int64_t sum = 0;
    dtask_child *batch;
    (void)arg;
    dtask_err err = dtask_args(task, "n:u", &n);
    if (!err) err = dtask_map(task, "c_add", NULL, &batch, 0, n, "i", (int64_t)100);
    if (!err) err = dtask_wait(task, NULL, -1);
    for (uint64_t i = 0; !err && i < n; i++) {
        dtask_child *one;
        int64_t got;
        if (!(err = dtask_child_at(batch, i, &one)) && !(err = dtask_child_result(one, "i", &got))) {
            sum += got;
            dtask_child_free(one);
        }
    }
    return err ? err : dtask_done(task, "i", sum);
}

static dtask_err c_then(dtask_task *task, void *arg) {
    (void)arg;
    for (int64_t i = 0; i < 3; i++) {
        dtask_err err = dtask_spawn(task, "c_add", NULL, NULL, "i i", i, i);
        if (err) return err;
    }
    return dtask_then(task, "c_add", NULL, "i i", (int64_t)20, (int64_t)22);
}

static dtask_err c_next(dtask_task *task, void *arg) {
    int64_t sum = 0, got;
    uint64_t n = 0;
    dtask_child *child;
    dtask_err err;
    (void)arg;
    for (int64_t i = 0; i < 5; i++)
        if ((err = dtask_spawn(task, "c_add", NULL, NULL, "i i", i, (int64_t)0))) return err;
    while (!(err = dtask_next(task, -1, &child))) {
        if ((err = dtask_child_result(child, "i", &got))) return err;
        sum += got;
        n++;
        dtask_child_free(child);
    }
    return err == DTASK_ENOTFOUND ? dtask_done(task, "u i", n, sum) : err;
}

/* The child of the given type and argument; its error's name is the result. */
static dtask_err c_error_of(dtask_task *task, void *arg) {
    dtask_str type, word;
    dtask_child *child;
    char name[64];
    (void)arg;
    dtask_err err = dtask_args(task, "type:s word:s", &type, &word);
    if (err) return err;
    if (type.n >= sizeof name) return dtask_fail(task, DTASK_EARGS, "long");
    memcpy(name, type.p, type.n);
    name[type.n] = 0;
    err = dtask_spawn(task, name, NULL, &child, "s", word);
    if (err) return dtask_done(task, "z z", dtask_err_name(err), dtask_err_detail());
    err = dtask_wait(task, child, -1);
    if (err == DTASK_EUNWIND) return err;
    return dtask_done(task, "z z", dtask_err_name(err), err ? dtask_err_detail() : "");
}

static dtask_err c_busy(dtask_task *task, void *arg) {
    (void)arg;
    while (!dtask_cancelled(task)) { }
    return DTASK_ECANCELLED;
}

/* Returns nothing that it should: no outcome at all. */
static dtask_err c_silent(dtask_task *task, void *arg) {
    (void)task, (void)arg;
    return DTASK_OK;
}

static dtask_err c_wrong_result(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "z", "text where an int was promised");
}

static dtask_err c_crash(dtask_task *task, void *arg) {
    (void)task, (void)arg;
    abort();
}

/* key twice with other arguments */
static dtask_err c_conflict(dtask_task *task, void *arg) {
    (void)arg;
    dtask_err err = dtask_spawn(task, "c_add", DTASK_OPTS("key", "k"), NULL, "i i", (int64_t)1, (int64_t)1);
    if (err) return err;
    err = dtask_spawn(task, "c_add", DTASK_OPTS("key", "k"), NULL, "i i", (int64_t)1, (int64_t)2);
    return dtask_done(task, "z", dtask_err_name(err));
}

/* n children of the Python type `boom`, which fails, and what a wait for them
 * gave, returned as it came: how is all, one, batch, result, kept or own. */
static dtask_err c_waits(dtask_task *task, void *arg) {
    dtask_str how, v;
    uint64_t n;
    dtask_child *kids = NULL;
    (void)arg;
    dtask_err err = dtask_args(task, "how:s n:u", &how, &n);
    int one = !err && how.n == 3 && !memcmp(how.p, "one", 3);
    if (err) return err;
    err = one ? dtask_spawn(task, "boom", NULL, &kids, "i", (int64_t)0) : dtask_map(task, "boom", NULL, &kids, 0, n, "");
    if (err) return err;
    err = dtask_wait(task, how.p[0] == 'o' || how.p[0] == 'b' ? kids : NULL, -1);
    if (how.p[0] == 'r') err = dtask_child_result(kids, "v", &v);
    dtask_child_free(kids);
    if (how.n == 3 && !memcmp(how.p, "own", 3)) return dtask_fail(task, err, "my own words");
    if (how.p[0] == 'k') return dtask_args(task, "i", &n); /* looked at, and another error */
    return err;
}

DTASK_PLUGIN("acc",
    {"c_add", c_add, "a:i b:i -> i"},
    {"c_fib", c_fib, "n:u -> u"},
    {"c_calls_python", c_calls_python, "n:i -> i"},
    {"c_fail", c_fail, "word:s -> n"},
    {"c_fatal", c_fatal, "-> n; retries=5"},
    {"c_flaky", c_flaky, "-> u; retries=2"},
    {"c_echo", c_echo, NULL},
    {"c_kinds", c_kinds, NULL},
    {"c_map", c_map, "n:u -> i"},
    {"c_then", c_then, "-> i"},
    {"c_next", c_next, NULL},
    {"c_error_of", c_error_of, NULL},
    {"c_busy", c_busy, "-> n"},
    {"c_silent", c_silent, "-> n"},
    {"c_wrong_result", c_wrong_result, "-> i"},
    {"c_crash", c_crash, "-> n; crashes=0"},
    {"c_waits", c_waits, NULL},
    {"c_conflict", c_conflict, NULL});
