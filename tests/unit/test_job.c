// Jobs from outside, on the memory engine, or with JOB_ENGINE=sqlite on a file.
// What a worker would do is done here by turns of our own, so that each step
// is ours.
#include "client/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static dtask_app *app;
static uint64_t worker, nonce;

static bool says(const char *part) {
    return strstr(dtask_err_detail(), part) != NULL;
}
#define OK(call) cr_assert_eq(call, DTASK_OK, "%s", dtask_err_detail())
#define ERR(err, part, call)                                \
    do {                                                    \
        cr_assert_eq(call, DTASK_##err);                    \
        cr_assert(says(part), "%s", dtask_err_detail());    \
    } while (0)

static char folder[] = "/tmp/dynatask-job-XXXXXX", url[64] = "memory:";
static bool on_file;

static void begin(void) {
    on_file = getenv("JOB_ENGINE") && !strcmp(getenv("JOB_ENGINE"), "sqlite");
    if (on_file) {
        cr_assert(mkdtemp(folder) != NULL);
        snprintf(url, sizeof url, "sqlite:%s/jobs.db", folder);
    }
    OK(dtask_open("test", url, NULL, &app));
    OK(dtask_b_declare(app, &(dtask_b_type){.name = "add", .version = 1, .signature = "a:i b:i -> i; retries=0"}, 1));
    dti_arena arena = {0};
    dti_hello_type type = {.name = dti_strz("add"), .signature = dti_strz("a:i b:i -> i"), .version = 1, .crashes = 3};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("us"), .types = &type, .ntypes = 1}};
    OK(dti_engine_call(app->engine, &arena, &op));
    cr_assert(not(type.refused));
    worker = op.hello.worker;
    dti_arena_done(&arena);
}

static void end(void) {
    dtask_close(app);
    char remove[80];
    snprintf(remove, sizeof remove, "rm -r %s", folder);
    if (on_file) cr_assert_eq(system(remove), 0);
}

TestSuite(job, .init = begin, .fini = end);

static dti_turn turn(dti_arena *arena, const dti_message *messages, uint32_t n, uint32_t claims) {
    const dti_typeinfo *type;
    OK(dti_type_find(app, dti_strz("add"), 0, &type));
    dti_want want = {.type = type->no, .n = claims};
    dti_op op = {.kind = DTI_OP_TURN,
        .turn = {.worker = worker, .era = 1, .nonce = ++nonce, .messages = messages, .nmessages = n, .want = &want, .nwant = 1, .n = claims, .empty = true}};
    OK(dti_engine_call(app->engine, arena, &op));
    if (op.turn.status == DTI_TURN_ERA) { // eras begin where the model says
        op.turn.era = 0;
        OK(dti_engine_call(app->engine, arena, &op));
    }
    cr_assert_eq(op.turn.status, DTI_TURN_OK);
    return op.turn;
}

// Claims one task and ends it.
static void run_one(dti_endkind how, dtask_str value) {
    dti_arena arena = {0};
    dti_turn t = turn(&arena, NULL, 0, 1);
    cr_assert_eq(t.nclaims, 1);
    dti_message m = {.job = t.claims[0].job, .ord = t.claims[0].ord, .token = t.claims[0].token, .seq = 1, .end = how, .value = value};
    t = turn(&arena, &m, 1, 0);
    cr_assert_eq(t.answers[0].status, DTI_OK);
    dti_arena_done(&arena);
}

static dtask_job *started(const char *id) {
    dtask_job *job;
    OK(dtask_start(app, "add", DTASK_OPTS("id", id), &job, "i i", (int64_t)2, (int64_t)3));
    return job;
}

Test(job, runs_and_gives_its_result) {
    dtask_job *job = started("sum");
    int64_t got = 0;
    ERR(ETIMEOUT, "not complete", dtask_job_wait(job, 0));
    ERR(EUSAGE, "wait for it", dtask_job_result(job, "i", &got));
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    OK(dtask_job_wait(job, -1));
    OK(dtask_job_result(job, "i", &got));
    cr_assert_eq(got, 5);
    ERR(EARGS, "result", dtask_job_result(job, "s", &(dtask_str){0}));
    dtask_job_free(job);
    OK(dtask_job_find(app, "sum", &job)); // another handle, without a wait
    OK(dtask_job_result(job, "i", &got));
    dtask_str end;
    OK(dtask_b_job_end(job, &end));
    cr_assert(end.n == 1 && *end.p == 5);
    dtask_b_free(end);
    dtask_job_free(job);
    OK(dtask_job_find(app, "sum/0", &job)); // a task by its id
    OK(dtask_job_wait(job, 0));
    dtask_job_free(job);
}

static void *waits(void *job) {
    return (void *)(intptr_t)dtask_job_wait(job, -1);
}

Test(job, waiters_are_rung) {
    dtask_job *job = started("sum");
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) cr_assert(not(pthread_create(&threads[i], NULL, waits, job)));
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    for (int i = 0; i < 3; i++) {
        void *err;
        pthread_join(threads[i], &err);
        cr_assert_eq((intptr_t)err, DTASK_OK);
    }
    dtask_job_free(job);
}

Test(job, closing_ends_a_wait) {
    dtask_job *job = started("sum");
    pthread_t thread;
    void *err;
    cr_assert(not(pthread_create(&thread, NULL, waits, job)));
    dti_app_hold(app); // for `end`
    dtask_close(app);
    pthread_join(thread, &err);
    cr_assert_eq((intptr_t)err, DTASK_EUSAGE);
    ERR(EUSAGE, "closed", dtask_job_info(job, "state:s", &(dtask_str){0}));
    dtask_job_free(job);
}

Test(job, failure_has_its_error) {
    dtask_job *job = started("sum");
    dti_buf b = {0};
    dti_error_put(&b, "ValueError", dti_strz("no such page"), "python");
    run_one(DTI_END_FAIL, dti_str(b.p, b.n));
    OK(dtask_job_wait(job, -1));
    ERR(EFAILED, "ValueError: no such page (task sum/0, 1 attempt)", dtask_job_result(job, "i", &(int64_t){0}));
    dtask_str end, error, state;
    cr_assert_eq(dtask_b_job_end(job, &end), DTASK_EFAILED);
    cr_assert(dti_mp_text(dti_mp_get(end, "task_id"), &error) && dti_str_eq(error, dti_strz("sum/0")));
    dtask_b_free(end);
    OK(dtask_job_info(job, "error:s state:s", &error, &state));
    cr_assert(dti_str_eq(error, dti_strz("ValueError: no such page")) && dti_str_eq(state, dti_strz("failed")));
    dti_buf_done(&b);
    dtask_job_free(job);
}

Test(job, the_same_call_is_the_same_job) {
    dtask_job_free(started("one"));
    dtask_job_free(started("one"));
    ERR(ECONFLICT, "one", dtask_start(app, "add", DTASK_OPTS("id", "one"), NULL, "i i", (int64_t)2, (int64_t)4));
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    dti_arena arena = {0};
    cr_assert_eq(turn(&arena, NULL, 0, 1).nclaims, 0); // there was but one
    dti_arena_done(&arena);
}

Test(job, bad_input_is_refused_before_anything) {
    dtask_job *job = (void *)1;
    ERR(ENOTFOUND, "nobody", dtask_start(app, "nobody", NULL, &job, ""));
    ERR(EARGS, "argument b", dtask_start(app, "add", NULL, &job, "i", (int64_t)1));
    ERR(EARGS, "argument b", dtask_start(app, "add", NULL, &job, "i z", (int64_t)1, "x"));
    ERR(EARGS, "takes 2", dtask_start(app, "add", NULL, &job, "i i i", (int64_t)1, (int64_t)1, (int64_t)1));
    ERR(EARGS, "colour", dtask_start(app, "add", DTASK_OPTS("colour", "red"), &job, "i i", (int64_t)1, (int64_t)1));
    ERR(EARGS, "", dtask_start(app, "add", DTASK_OPTS("id", "a/b"), &job, "i i", (int64_t)1, (int64_t)1));
    ERR(EARGS, "", dtask_start(app, NULL, NULL, &job, ""));
    ERR(EARGS, "", dtask_job_find(app, "", &job));
    ERR(EARGS, "comes after", dtask_b_start(app, &(dtask_b_call){.type = "add", .ndeps = 1}, &job));
    ERR(EARGS, "arguments", dtask_b_start(app, &(dtask_b_call){.type = "add", .args = dti_strz("\xc1")}, &job));
    cr_assert(job == (void *)1);
    dtask_str out, rest;
    OK(dtask_b_read(app, dti_strz("\x81\xa4what\xa4jobs"), &out));
    rest = dti_mp_get(out, "jobs");
    cr_assert(rest.n == 1 && (unsigned char)*rest.p == 0x90);
    dtask_b_free(out);
}

// Those that are refused keep nobody else from starting, and more than one
// call of the engine takes go in several.
Test(job, many_start_at_once) {
    enum { MANY = 2500 };
    static dtask_b_call calls[MANY];
    static dtask_err errs[MANY];
    static dtask_job *jobs[MANY];
    static char args[MANY][4], ids[MANY][16];
    static const char *opts[MANY][3];
    for (int i = 0; i < MANY; i++) {
        memcpy(args[i], "\x92\x01", 3);
        args[i][2] = (char)(i % 100);
        snprintf(ids[i], sizeof ids[i], "many-%d", i);
        opts[i][0] = "id", opts[i][1] = ids[i];
        calls[i] = (dtask_b_call){.type = "add", .opts = opts[i], .args = {args[i], 3}};
    }
    calls[7].type = "nobody";
    calls[8].opts = DTASK_OPTS("colour", "red");
    calls[9] = calls[1];         // the same call under the same id is one job
    calls[2000].args = dti_strz("\x92\x01\x62"); // under the id of 1999, which is another call
    calls[2000].opts = opts[1999];
    ERR(ENOTFOUND, "nobody", dtask_b_start_many(app, calls, MANY, errs, jobs));
    for (int i = 0; i < MANY; i++) {
        bool bad = i == 7 || i == 8 || i == 2000;
        cr_assert_eq(errs[i], i == 7 ? DTASK_ENOTFOUND : i == 8 ? DTASK_EARGS : i == 2000 ? DTASK_ECONFLICT : DTASK_OK, "%d", i);
        cr_assert_eq(jobs[i] == NULL, bad, "%d", i);
        if (bad) continue;
        cr_assert_str_eq(dtask_b_job_id(jobs[i]), ids[i == 9 ? 1 : i]);
        dtask_str state;
        OK(dtask_job_info(jobs[i], "state:s", &state));
        cr_assert(dti_str_eq(state, dti_strz("running")));
        dtask_job_free(jobs[i]);
    }
    OK(dtask_b_start_many(app, calls, 0, NULL, NULL));
    OK(dtask_b_start_many(app, (dtask_b_call[]){{.type = "add", .args = {args[0], 3}}, {.type = "add", .args = {args[0], 3}}}, 2, errs, NULL));
    dti_arena arena = {0};
    cr_assert_eq(turn(&arena, NULL, 0, 2 * MANY).nclaims, MANY - 4 + 2);
    dti_arena_done(&arena);
}

Test(job, one_that_is_not_there) {
    dtask_job *job;
    OK(dtask_job_find(app, "nowhere", &job));
    ERR(ENOTFOUND, "nowhere", dtask_job_wait(job, -1));
    ERR(ENOTFOUND, "nowhere", dtask_job_info(job, "state:s", &(dtask_str){0}));
    ERR(ENOTFOUND, "nowhere", dtask_job_result(job, ""));
    ERR(ENOTFOUND, "nowhere", dtask_job_control(job, "cancel"));
    dtask_job_free(job);
}

Test(job, info_by_name) {
    dtask_job *job = started("sum");
    dtask_str id, type, state, error;
    uint64_t added, ready, succeeded;
    int64_t start, ended;
    int paused;
    double progress, total;
    OK(dtask_job_info(job, "id:s type:s state:s error:s added:u ready:u succeeded:u started:i ended:i paused:b progress:f total:f", &id, &type,
        &state, &error, &added, &ready, &succeeded, &start, &ended, &paused, &progress, &total));
    cr_assert(dti_str_eq(id, dti_strz("sum")) && dti_str_eq(type, dti_strz("add")) && dti_str_eq(state, dti_strz("running")) && error.n == 0);
    cr_assert(added == 1 && ready == 1 && succeeded == 0 && start > 0 && ended == 0 && !paused && progress == 0 && total == 1);
    ERR(EARGS, "nosuch", dtask_job_info(job, "nosuch:u", &added));
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    OK(dtask_job_info(job, "succeeded:u ended:i", &succeeded, &ended));
    cr_assert(succeeded == 1 && ended >= start);
    cr_assert(dti_str_eq(state, dti_strz("running"))); // a view lives as long as the handle
    dtask_job_free(job);
}

Test(job, cancel) {
    dtask_job *job = started("sum");
    ERR(EARGS, "explode", dtask_job_control(job, "explode"));
    OK(dtask_job_control(job, "cancel"));
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 1000}}; // the pass is a todo
    OK(dti_engine_call(app->engine, &arena, &op));
    dti_arena_done(&arena);
    OK(dtask_job_wait(job, -1));
    ERR(ECANCELLED, "sum/0", dtask_job_result(job, ""));
    ERR(EUSAGE, "ended", dtask_job_control(job, "cancel"));
    dtask_job_free(job);
}

static int calls;
static char last[32];
static void on_change(dtask_job *job, void *arg) {
    dtask_str state;
    cr_assert(arg == last);
    OK(dtask_job_info(job, "state:s", &state));
    snprintf(last, sizeof last, "%.*s", (int)state.n, state.p);
    calls++;
}

Test(job, watching_tells_changes_and_the_end) {
    dtask_job *job = started("sum");
    int fd = dtask_fd(app);
    cr_assert(fd >= 0 && dtask_fd(app) == fd);
    OK(dtask_job_watch(job, on_change, last));
    struct pollfd p = {fd, POLLIN, 0};
    cr_assert_eq(poll(&p, 1, 10000), 1);
    OK(dtask_poll(app, 0));
    cr_assert(calls == 1 && !strcmp(last, "running"));
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    while (strcmp(last, "succeeded")) OK(dtask_poll(app, 10000));
    int before = calls;
    OK(dtask_poll(app, 0));
    cr_assert_eq(calls, before); // the end is told once
    p.revents = 0;
    cr_assert_eq(poll(&p, 1, 0), 0); // and then it is quiet
    dtask_job_free(job);
}

static void frees(dtask_job *job, void *arg) {
    calls++;
    *(int *)arg = 1;
    dtask_job_free(job);
}

Test(job, a_callback_may_free_its_job) {
    int freed = 0;
    OK(dtask_job_watch(started("sum"), frees, &freed));
    OK(dtask_poll(app, 10000));
    cr_assert(freed && calls == 1);
    OK(dtask_poll(app, 0));
    cr_assert_eq(calls, 1);
}

Test(job, a_watch_that_ended_is_silent) {
    dtask_job *job = started("sum");
    OK(dtask_job_watch(job, on_change, last));
    OK(dtask_job_watch(job, NULL, NULL));
    OK(dtask_poll(app, 0));
    cr_assert_eq(calls, 0);
    dtask_job_free(job);
}

Test(job, a_handler_does_not_wait_for_a_job) {
    dtask_job *job = started("sum");
    dti_enter_handlers();
    ERR(EDEADLOCK, "spawn it", dtask_job_wait(job, -1));
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    OK(dtask_job_wait(job, -1)); // one that is complete
    dtask_job_free(job);
}

Test(job, a_fork_owns_nothing) {
    dtask_job *job = started("sum");
    pid_t pid = fork();
    if (pid == 0) {
        bool right = dtask_start(app, "add", NULL, NULL, "i i", (int64_t)1, (int64_t)1) == DTASK_EUSAGE && says("forked") &&
            dtask_job_wait(job, -1) == DTASK_EUSAGE && dtask_job_watch(job, NULL, NULL) == DTASK_EUSAGE && dtask_fd(app) == -1;
        dtask_job_free(job);
        dtask_close(app);
        _exit(right ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    OK(dtask_job_wait(job, -1));
    dtask_job_free(job);
}

static dtask_str query(const char *what, const char *id) {
    static dti_buf b;
    b.n = 0;
    dti_mp_put_map(&b, 2);
    dti_mp_put_strz(&b, "what");
    dti_mp_put_strz(&b, what);
    dti_mp_put_strz(&b, "id");
    dti_mp_put_strz(&b, id);
    return dti_str(b.p, b.n);
}

Test(job, what_bindings_read) {
    dtask_job *job = started("sum");
    run_one(DTI_END_SUCCEED, dti_strz("\x05"));
    dtask_str out, text;
    int64_t n;
    OK(dtask_b_read(app, query("job", "sum"), &out));
    OK(dti_mp_check(out, "job"));
    cr_assert(dti_mp_text(dti_mp_get(out, "state"), &text) && dti_str_eq(text, dti_strz("succeeded")));
    cr_assert(dti_mp_int(dti_mp_get(dti_mp_get(out, "counts"), "succeeded"), &n) && n == 1);
    dtask_str root = dti_mp_get(out, "root");
    cr_assert(dti_mp_text(dti_mp_at(dti_mp_get(root, "params"), 1), &text) && dti_str_eq(text, dti_strz("b")));
    cr_assert(dti_mp_int(dti_mp_at(dti_mp_get(root, "args"), 1), &n) && n == 3);
    cr_assert(dti_mp_text(dti_mp_get(root, "worker"), &text) && dti_str_eq(text, dti_strz("us")));
    dtask_b_free(out);
    OK(dtask_b_read(app, query("tree", "sum"), &out));
    cr_assert(dti_mp_get(out, "children").n == 1);
    OK(dti_mp_check(out, "tree"));
    dtask_b_free(out);
    OK(dtask_b_read(app, query("task", "sum/0"), &out));
    OK(dti_mp_check(out, "task"));
    dtask_b_free(out);
    OK(dtask_b_read(app, query("types", ""), &out));
    OK(dti_mp_check(out, "types"));
    dtask_b_free(out);
    OK(dtask_b_read(app, query("workers", ""), &out));
    cr_assert(dti_mp_text(dti_mp_get(dti_mp_at(out, 0), "name"), &text) && dti_str_eq(text, dti_strz("us")));
    dtask_b_free(out);
    OK(dtask_b_read(app, query("jobs", ""), &out));
    cr_assert(dti_mp_text(dti_mp_get(dti_mp_at(dti_mp_get(out, "jobs"), 0), "id"), &text) && dti_str_eq(text, dti_strz("sum")));
    dtask_b_free(out);
    ERR(ENOTFOUND, "nowhere", dtask_b_read(app, query("job", "nowhere"), &out));
    ERR(EARGS, "weather", dtask_b_read(app, query("weather", ""), &out));
    ERR(EARGS, "query", dtask_b_read(app, dti_strz("\xc1"), &out));
    ERR(EARGS, "what", dtask_b_read(app, dti_strz("\x80"), &out));
    ERR(EARGS, "id", dtask_b_read(app, query("job", ""), &out));
    dtask_job_free(job);
}

static dtask_str rows_of(dti_buf *b, const char *id, uint32_t n) {
    *b = (dti_buf){0};
    dti_mp_put_map(b, 3);
    dti_mp_put_strz(b, "what");
    dti_mp_put_strz(b, "rows");
    dti_mp_put_strz(b, "id");
    dti_mp_put_strz(b, id);
    dti_mp_put_strz(b, "ords");
    dti_mp_put_array(b, n);
    for (uint32_t i = 0; i < n; i++) dti_mp_put_uint(b, i);
    return dti_str(b->p, b->n);
}

Test(job, rows_for_a_follower) {
    dtask_job_free(started("sum"));
    dtask_str out;
    dti_buf b;
    int64_t n;
    OK(dtask_b_read(app, rows_of(&b, "sum", 2), &out)); // task 1 is not there
    cr_assert(zero(ptr, (void *)dti_mp_at(out, 1).p));
    dtask_str row = dti_mp_at(out, 0), text;
    cr_assert(dti_mp_int(dti_mp_at(row, 3), &n) && n == DTI_READY);
    dtask_b_free(out);
    dti_buf_done(&b);

    dti_buf error = {0};
    dti_error_put(&error, "ValueError", dti_strz("no"), "c");
    run_one(DTI_END_FAIL, dti_str(error.p, error.n));
    dti_buf_done(&error);
    OK(dtask_b_read(app, rows_of(&b, "sum", 1), &out));
    row = dti_mp_at(out, 0);
    cr_assert(dti_mp_text(dti_mp_at(row, 2), &text) && dti_str_eq(text, dti_strz("add")));
    cr_assert(dti_mp_int(dti_mp_at(row, 3), &n) && n == DTI_FAILED);
    cr_assert(dti_mp_int(dti_mp_at(row, 4), &n) && n > 0, "began");
    cr_assert(dti_mp_text(dti_mp_at(row, 9), &text) && dti_str_eq(text, dti_strz("ValueError")));
    dtask_b_free(out);
    dti_buf_done(&b);

    ERR(ENOTFOUND, "nowhere", dtask_b_read(app, rows_of(&b, "nowhere", 1), &out));
    dti_buf_done(&b);
    ERR(EARGS, "ords", dtask_b_read(app, rows_of(&b, "sum", 1025), &out));
    dti_buf_done(&b);
}

Test(job, declarations) {
    dtask_b_type type = {.name = "mul", .version = 1, .signature = "a:i -> i"};
    OK(dtask_b_declare(app, &type, 1));
    OK(dtask_b_declare(app, &type, 1));
    type.signature = "a:v"; // says less
    OK(dtask_b_declare(app, &type, 1));
    type.signature = "a:s";
    ERR(ECONFLICT, "mul", dtask_b_declare(app, &type, 1));
    ERR(EARGS, "malformed", dtask_b_declare(app, &(dtask_b_type){.name = "x", .version = 1, .signature = "a:q"}, 1));
    ERR(EARGS, "name", dtask_b_declare(app, &(dtask_b_type){.name = "", .version = 1}, 1));
    ERR(EARGS, "taken", dtask_b_declare(app, &(dtask_b_type){.name = "a b", .version = 1}, 1));
    ERR(EARGS, "min_version", dtask_b_declare(app, &(dtask_b_type){.name = "x", .version = 1, .min_version = 2}, 1));
}

Test(job, opening_refuses_what_is_malformed) {
    dtask_app *other = (void *)1;
    ERR(EARGS, "name", dtask_open("bad name", "memory:", NULL, &other));
    ERR(EARGS, "name", dtask_open("", "memory:", NULL, &other));
    ERR(EARGS, "name", dtask_open(NULL, "memory:", NULL, &other));
    ERR(EARGS, "scheme", dtask_open("x", "nonsense", NULL, &other));
    ERR(EARGS, "http", dtask_open("x", "http://host/x", NULL, &other));
    ERR(EARGS, "nosuch", dtask_open("x", "memory:?nosuch=1", NULL, &other));
    cr_assert(other == (void *)1);
}

static char line[1024];
static void keep_line(int level, const char *json, void *arg) {
    cr_assert(level == 4 && arg == line);
    snprintf(line, sizeof line, "%s", json);
}

Test(job, log_lines_are_json) {
    dtask_log(app, keep_line, line);
    dti_app_log(app, 4, (const char *const[]){"dynatask_job", "j", NULL}, "a \"quote\", a\nline, \xc3\xa9 and \xff: %d", 7);
    cr_assert(strstr(line, "\"level\":\"warning\",\"app\":\"test\",\"message\":\"a \\\"quote\\\", a\\u000aline, \xc3\xa9 and \xef\xbf\xbd: 7\",\"dynatask_job\":\"j\"}") != NULL, "%s", line);
    line[0] = 0;
    dti_app_log(app, 7, NULL, "below the level");
    cr_assert(line[0] == 0);
    dtask_log(app, NULL, NULL);
    dti_app_log(app, 4, NULL, "nobody listens");
    cr_assert(line[0] == 0);
}
