// What a C program does wrong: each is an error with a name and a sentence,
// never a crash, a hang or a silent success. Nothing but the public header.
//
// Handlers run on threads that must not assert: they write down what was
// wrong, and the test asserts that nothing was.
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dynatask.h"

static char wrong[8192];
static pthread_mutex_t wrong_lock = PTHREAD_MUTEX_INITIALIZER;

// The code is as expected, and its detail one sentence.
static void expect(int line, const char *call, dtask_err want, dtask_err got) {
    const char *detail = dtask_err_detail();
    if (got == want && (!want || (strlen(detail) > 20 && !strchr(detail, '\n')))) return;
    pthread_mutex_lock(&wrong_lock);
    size_t n = strlen(wrong);
    snprintf(wrong + n, sizeof wrong - n, "\n%d: %s: %s, not %s (%s)", line, call, dtask_err_name(got), dtask_err_name(want), detail);
    pthread_mutex_unlock(&wrong_lock);
}
#define GIVES(code, call) expect(__LINE__, #call, DTASK_##code, call)
#define HOLDS(what) expect(__LINE__, #what, DTASK_OK, (what) ? DTASK_OK : DTASK_EINTERNAL)

static dtask_app *app;
static dtask_worker *worker;
static sem_t arrived, go;

static dtask_err leaf(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "");
}

static void begin(void) {
    sem_init(&arrived, 0, 0);
    sem_init(&go, 0, 0);
    GIVES(OK, dtask_open("misuse", "memory:", NULL, &app));
}

static void end(void) {
    dtask_worker_free(worker);
    dtask_close(app);
    if (!*wrong) return;
    fprintf(stderr, "%s\n", wrong);
    abort();                     // a cr_assert would say so here, and not fail the test
}

// A worker of two slots that serves `leaf` and this handler under the name h.
static void serve(dtask_fn *fn, void *arg, const char *signature) {
    GIVES(OK, dtask_worker_new(app, DTASK_OPTS("slots", "2"), &worker));
    GIVES(OK, dtask_worker_add(worker, "leaf", NULL, leaf, NULL));
    GIVES(OK, dtask_worker_add(worker, "h", signature, fn, arg));
    GIVES(OK, dtask_worker_start(worker));
}

// How a job of h ended.
static dtask_err run(int64_t *result) {
    dtask_job *job = NULL;
    GIVES(OK, dtask_start(app, "h", NULL, &job, ""));
    GIVES(OK, dtask_job_wait(job, -1));
    dtask_err err = dtask_job_result(job, "i?", result);
    dtask_job_free(job);
    return err;
}

TestSuite(misuse, .init = begin, .fini = end, .timeout = 60);

// ---- NULL ------------------------------------------------------------------------

static void no_job(dtask_job *job, void *arg) {
    (void)job, (void)arg;
}

Test(misuse, null_for_an_object) {
    dtask_worker *w;
    dtask_job *job;
    dtask_child *child;
    GIVES(EARGS, dtask_open("misuse", "memory:", NULL, NULL));
    GIVES(EUSAGE, dtask_start(NULL, "leaf", NULL, NULL, ""));
    GIVES(EARGS, dtask_start(app, NULL, NULL, NULL, ""));
    GIVES(EUSAGE, dtask_job_find(NULL, "j", &job));
    GIVES(EARGS, dtask_job_find(app, NULL, &job));
    GIVES(EARGS, dtask_job_find(app, "j", NULL));
    GIVES(EUSAGE, dtask_job_wait(NULL, 0));
    GIVES(EUSAGE, dtask_job_result(NULL, ""));
    GIVES(EUSAGE, dtask_job_info(NULL, ""));
    GIVES(EUSAGE, dtask_job_control(NULL, "cancel"));
    GIVES(EUSAGE, dtask_job_watch(NULL, no_job, NULL));
    GIVES(EUSAGE, dtask_job_watch(NULL, NULL, NULL));
    HOLDS(dtask_fd(NULL) == -1);
    GIVES(EUSAGE, dtask_poll(NULL, 0));
    GIVES(EUSAGE, dtask_args(NULL, ""));
    GIVES(EUSAGE, dtask_done(NULL, ""));
    GIVES(EUSAGE, dtask_fail(NULL, DTASK_EFATAL, "x"));
    GIVES(EUSAGE, dtask_retry(NULL, 1));
    GIVES(EUSAGE, dtask_spawn(NULL, "leaf", NULL, NULL, ""));
    GIVES(EUSAGE, dtask_map(NULL, "leaf", NULL, NULL, 0, 2, ""));
    GIVES(EUSAGE, dtask_then(NULL, "leaf", NULL, ""));
    GIVES(EUSAGE, dtask_wait(NULL, NULL, 0));
    GIVES(EUSAGE, dtask_next(NULL, 0, &child));
    GIVES(EUSAGE, dtask_child_result(NULL, ""));
    GIVES(EUSAGE, dtask_child_at(NULL, 0, &child));
    HOLDS(dtask_cancelled(NULL) == 1);
    GIVES(EUSAGE, dtask_progress(NULL, 1, 2));
    GIVES(EUSAGE, dtask_info(NULL, ""));
    dtask_say(NULL, 3, "x");
    GIVES(EUSAGE, dtask_worker_new(NULL, NULL, &w));
    GIVES(EARGS, dtask_worker_new(app, NULL, NULL));
    GIVES(EUSAGE, dtask_worker_add(NULL, "h", NULL, leaf, NULL));
    GIVES(EUSAGE, dtask_worker_load(NULL, "x.so"));
    GIVES(EUSAGE, dtask_worker_load(NULL, NULL));
    GIVES(EUSAGE, dtask_worker_add(NULL, NULL, NULL, NULL, NULL));
    GIVES(EUSAGE, dtask_worker_on_complete(NULL, NULL, NULL, NULL));
    GIVES(EUSAGE, dtask_worker_on_complete(NULL, NULL, no_job, NULL));
    GIVES(EUSAGE, dtask_worker_start(NULL));
    GIVES(EUSAGE, dtask_worker_run(NULL));
    dtask_worker_stop(NULL, 0);
}

static dtask_err gives_null(dtask_task *task, void *arg) {
    (void)arg;
    dtask_child *batch = NULL, *one;
    GIVES(OK, dtask_map(task, "leaf", NULL, &batch, 0, 3, ""));
    GIVES(EARGS, dtask_child_at(batch, 0, NULL));
    GIVES(EARGS, dtask_child_at(batch, 3, &one));
    GIVES(OK, dtask_wait(task, batch, -1));
    GIVES(EARGS, dtask_next(task, -1, NULL));
    GIVES(OK, dtask_next(task, -1, &one));
    GIVES(EARGS, dtask_child_result(one, "v", NULL));
    GIVES(EARGS, dtask_args(task, "*", NULL));
    GIVES(EARGS, dtask_info(task, "id:s", NULL));
    GIVES(EARGS, dtask_spawn(task, NULL, NULL, NULL, ""));
    GIVES(EARGS, dtask_then(task, NULL, NULL, ""));
    GIVES(EARGS, dtask_spawn(task, "leaf", NULL, NULL, "t", NULL));
    return dtask_done(task, NULL);
}

Test(misuse, null_for_a_value_or_its_place) {
    serve(gives_null, NULL, NULL);
    int64_t none = 7;
    GIVES(OK, run(&none));
    for (const char *letter = "syv*"; *letter; letter++) {
        char fmt[] = {*letter, 0};
        GIVES(EARGS, dtask_start(app, "leaf", NULL, NULL, fmt, (dtask_str){NULL, 5}));
    }
    GIVES(EARGS, dtask_start(app, "leaf", NULL, NULL, "z", NULL));
    GIVES(OK, dtask_start(app, "leaf", NULL, NULL, "s y z?", (dtask_str){NULL, 0}, (dtask_str){NULL, 0}, NULL));
}

// ---- the wrong task, the wrong thread ------------------------------------------------

static dtask_task *kept;
static dtask_child *kept_child;

static dtask_err keeps(dtask_task *task, void *arg) {
    (void)arg;
    kept = task;
    GIVES(OK, dtask_spawn(task, "leaf", NULL, &kept_child, ""));
    return dtask_done(task, "");
}

// Every call with a task and a child that are not this thread's.
static void use_foreign(dtask_task *task, dtask_child *child) {
    dtask_child *out;
    dtask_str s;
    GIVES(EUSAGE, dtask_args(task, "*", &s));
    GIVES(EUSAGE, dtask_done(task, ""));
    GIVES(EUSAGE, dtask_fail(task, DTASK_EFATAL, "x"));
    GIVES(EUSAGE, dtask_retry(task, 1));
    GIVES(EUSAGE, dtask_spawn(task, "leaf", NULL, &out, ""));
    GIVES(EUSAGE, dtask_map(task, "leaf", NULL, &out, 0, 2, ""));
    GIVES(EUSAGE, dtask_then(task, "leaf", NULL, ""));
    GIVES(EUSAGE, dtask_wait(task, NULL, -1));
    GIVES(EUSAGE, dtask_wait(task, child, -1));
    GIVES(EUSAGE, dtask_next(task, -1, &out));
    GIVES(EUSAGE, dtask_progress(task, 1, 2));
    GIVES(EUSAGE, dtask_info(task, "id:s", &s));
    GIVES(EUSAGE, dtask_child_result(child, ""));
    GIVES(EUSAGE, dtask_child_at(child, 0, &out));
    dtask_say(task, 3, "x");
    dtask_child_free(child);
}

Test(misuse, a_task_after_its_handler) {
    serve(keeps, NULL, NULL);
    GIVES(OK, run(&(int64_t){0}));
    use_foreign(kept, kept_child);
}

static void *helper(void *arg) {
    use_foreign(arg, kept_child);
    return NULL;
}

static dtask_err has_a_helper(dtask_task *task, void *arg) {
    (void)arg;
    pthread_t thread;
    GIVES(OK, dtask_spawn(task, "leaf", NULL, &kept_child, ""));
    pthread_create(&thread, NULL, helper, task);
    pthread_join(thread, NULL);
    GIVES(OK, dtask_wait(task, kept_child, -1)); // its own handle is as it was
    GIVES(OK, dtask_child_result(kept_child, "n"));
    return dtask_done(task, "i", (int64_t)4);
}

Test(misuse, a_task_on_a_thread_of_the_handlers_own) {
    serve(has_a_helper, NULL, "-> i");
    int64_t got = 0;
    GIVES(OK, run(&got));
    HOLDS(got == 4);
}

static dtask_err holds_still(dtask_task *task, void *arg) {
    dtask_err err = keeps(task, arg);
    sem_post(&arrived);
    sem_wait(&go);
    return err;
}

static dtask_err thief(dtask_task *task, void *arg) {
    (void)arg;
    sem_wait(&arrived);
    use_foreign(kept, kept_child);
    GIVES(EDEADLOCK, dtask_wait(task, kept_child, -1));
    sem_post(&go);
    return dtask_done(task, "");
}

Test(misuse, a_task_of_another_handler_that_runs) {
    dtask_job *job = NULL;
    GIVES(OK, dtask_worker_new(app, DTASK_OPTS("slots", "2"), &worker));
    GIVES(OK, dtask_worker_add(worker, "leaf", NULL, leaf, NULL));
    GIVES(OK, dtask_worker_add(worker, "holds", NULL, holds_still, NULL));
    GIVES(OK, dtask_worker_add(worker, "h", NULL, thief, NULL));
    GIVES(OK, dtask_worker_start(worker));
    GIVES(OK, dtask_start(app, "holds", NULL, &job, ""));
    GIVES(OK, run(&(int64_t){0}));
    GIVES(OK, dtask_job_wait(job, -1));
    GIVES(OK, dtask_job_result(job, ""));
    dtask_job_free(job);
}

// A handle outlives its task, whose memory is others' by then.
static dtask_err uses_old(dtask_task *task, void *arg) {
    (void)arg;
    dtask_child *mine, *other = NULL, *old = kept_child;
    GIVES(OK, dtask_spawn(task, "leaf", NULL, &mine, ""));
    GIVES(EUSAGE, dtask_child_result(old, "n"));
    GIVES(EUSAGE, dtask_child_at(old, 0, &other));
    GIVES(EDEADLOCK, dtask_wait(task, old, -1));
    GIVES(EDEADLOCK, dtask_spawn(task, "leaf", NULL, NULL, "t", old));
    GIVES(EDEADLOCK, dtask_then(task, "leaf", NULL, "t", old));
    dtask_child_free(old);
    GIVES(OK, dtask_wait(task, mine, -1));
    GIVES(OK, dtask_child_result(mine, "n"));
    dtask_child_free(mine);
    GIVES(EUSAGE, dtask_child_result(mine, "n"));
    GIVES(OK, dtask_spawn(task, "leaf", DTASK_OPTS("key", "again"), &other, ""));
    dtask_child_free(mine);      // not the one that took its place
    GIVES(EUSAGE, dtask_child_result(mine, "n"));
    GIVES(EDEADLOCK, dtask_wait(task, mine, -1));
    GIVES(EUSAGE, dtask_child_result((dtask_child *)&other, "n"));
    GIVES(OK, dtask_spawn(task, "leaf", DTASK_OPTS("key", "again"), &mine, "")); // the same child, held twice
    dtask_child_free(other);
    GIVES(OK, dtask_wait(task, mine, -1));
    GIVES(OK, dtask_child_result(mine, "n"));
    return dtask_done(task, "");
}

Test(misuse, a_child_of_a_handler_that_is_gone) {
    dtask_job *job = NULL;
    GIVES(OK, dtask_worker_new(app, DTASK_OPTS("slots", "1"), &worker));
    GIVES(OK, dtask_worker_add(worker, "leaf", NULL, leaf, NULL));
    GIVES(OK, dtask_worker_add(worker, "keeps", NULL, keeps, NULL));
    GIVES(OK, dtask_worker_add(worker, "h", NULL, uses_old, NULL));
    GIVES(OK, dtask_worker_start(worker));
    GIVES(OK, dtask_start(app, "keeps", NULL, &job, ""));
    GIVES(OK, dtask_job_wait(job, -1));
    dtask_job_free(job);
    GIVES(OK, run(&(int64_t){0}));
}

static dtask_err waits_for_its_worker(dtask_task *task, void *arg) {
    (void)arg;
    GIVES(EDEADLOCK, dtask_worker_run(worker));
    return dtask_done(task, "");
}

Test(misuse, a_handler_that_waits_for_the_end_of_its_worker) {
    serve(waits_for_its_worker, NULL, NULL);
    GIVES(OK, run(&(int64_t){0}));
}

// ---- fork ------------------------------------------------------------------------------

static void child_calls(dtask_task *task) {
    dtask_app *own = NULL;
    dtask_job *job = NULL;
    use_foreign(task, kept_child);
    GIVES(EUSAGE, dtask_start(app, "leaf", NULL, NULL, ""));
    GIVES(OK, dtask_open("own", "memory:", NULL, &own)); // what it opens is its own
    GIVES(OK, dtask_job_find(own, "nowhere", &job));
    GIVES(ENOTFOUND, dtask_job_wait(job, -1)); // not EDEADLOCK: this is no handler's thread any more
    dtask_job_free(job);
    dtask_close(own);
    if (*wrong) fprintf(stderr, "in the child of a handler:%s\n", wrong);
    _exit(*wrong != 0);
}

static int status_of(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

static dtask_err forks(dtask_task *task, void *arg) {
    (void)arg;
    GIVES(OK, dtask_spawn(task, "leaf", NULL, &kept_child, ""));
    pid_t pid = fork();
    if (pid == 0) child_calls(task);
    HOLDS(status_of(pid) == 0);
    pid = fork();
    if (pid == 0) return dtask_done(task, "i", (int64_t)1); // forgets that it is a child
    int status = status_of(pid);
    HOLDS(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    return dtask_done(task, "i", (int64_t)2);
}

Test(misuse, a_handler_that_forks) {
    serve(forks, NULL, "-> i");
    int64_t got = 0;
    GIVES(OK, run(&got));
    HOLDS(got == 2);
}

static _Atomic bool enough;

static void *keeps_locks_busy(void *arg) {
    (void)arg;
    while (!enough) {
        dtask_job *job = NULL;
        GIVES(OK, dtask_start(app, "leaf", NULL, &job, ""));
        GIVES(OK, dtask_job_wait(job, -1));
        dtask_job_free(job);
    }
    return NULL;
}

static dtask_err forks_often(dtask_task *task, void *arg) {
    (void)arg;
    GIVES(OK, dtask_spawn(task, "leaf", NULL, &kept_child, ""));
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(20); // a lock that nobody gives back would hang it
            use_foreign(task, kept_child);
            _exit(*wrong != 0);
        }
        HOLDS(status_of(pid) == 0);
    }
    return dtask_done(task, "");
}

Test(misuse, a_handler_that_forks_while_others_hold_locks) {
    serve(forks_often, NULL, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, keeps_locks_busy, NULL);
    GIVES(OK, run(&(int64_t){0}));
    enough = true;
    pthread_join(thread, NULL);
}

// ---- outcomes ---------------------------------------------------------------------------

typedef enum { DONE_TWICE, FAIL_DONE, DONE_FAIL, FAIL_ZERO, FAIL_THEN, THEN_DONE, THEN_FAIL, ONLY_ZERO, NO_CODE, CODE_ALONE } outcome;

static dtask_err says_much(dtask_task *task, void *arg) {
    const outcome *how = arg;
    switch (*how) {
    case DONE_TWICE:
        GIVES(OK, dtask_done(task, "i", (int64_t)1));
        return dtask_done(task, "i", (int64_t)2);
    case FAIL_DONE:
        dtask_fail(task, DTASK_EFATAL, "given up, too early");
        return dtask_done(task, "i", (int64_t)3);
    case DONE_FAIL:
        GIVES(OK, dtask_done(task, "i", (int64_t)1));
        return dtask_fail(task, DTASK_EFATAL, "after all it failed");
    case FAIL_ZERO:
        dtask_fail(task, DTASK_EFATAL, "its code was not returned");
        return DTASK_OK;
    case FAIL_THEN:
        dtask_fail(task, DTASK_EFATAL, "given up, too early");
        return dtask_then(task, "four", NULL, "");
    case THEN_DONE:
        GIVES(OK, dtask_then(task, "four", NULL, ""));
        return dtask_done(task, "i", (int64_t)5);
    case THEN_FAIL:
        GIVES(OK, dtask_then(task, "four", NULL, ""));
        return dtask_fail(task, DTASK_EFATAL, "after all it failed");
    case ONLY_ZERO: return DTASK_OK;
    case NO_CODE: return (dtask_err)5;
    case CODE_ALONE: return DTASK_EFATAL;
    }
    return DTASK_OK;
}

static dtask_err four(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_done(task, "i", (int64_t)4);
}

static void outcome_is(outcome *how, outcome of, dtask_err code, int64_t result, const char *says) {
    int64_t got = -1;
    *how = of;
    expect((int)of, "outcome", code, run(&got));
    if (code) HOLDS(strstr(dtask_err_detail(), says));
    else HOLDS(got == result);
}

Test(misuse, the_last_word_is_the_outcome) {
    outcome how;
    GIVES(OK, dtask_worker_new(app, DTASK_OPTS("slots", "1"), &worker)); // one thread: its last error is never another task's
    GIVES(OK, dtask_worker_add(worker, "h", "-> i", says_much, &how));
    GIVES(OK, dtask_worker_add(worker, "four", "-> i", four, NULL));
    GIVES(OK, dtask_worker_start(worker));
    outcome_is(&how, DONE_TWICE, DTASK_OK, 2, "");
    outcome_is(&how, FAIL_DONE, DTASK_OK, 3, "");
    outcome_is(&how, DONE_FAIL, DTASK_EFAILED, 0, "after all it failed");
    outcome_is(&how, FAIL_ZERO, DTASK_EFAILED, 0, "its code was not returned");
    outcome_is(&how, FAIL_THEN, DTASK_OK, 4, "");
    outcome_is(&how, THEN_DONE, DTASK_OK, 5, "");
    outcome_is(&how, THEN_FAIL, DTASK_EFAILED, 0, "after all it failed");
    outcome_is(&how, ONLY_ZERO, DTASK_EFAILED, 0, "its signature is \"-> i\"");
    outcome_is(&how, NO_CODE, DTASK_EFAILED, 0, "EUNKNOWN: the handler returned this error");
    outcome_is(&how, CODE_ALONE, DTASK_EFAILED, 0, "EFATAL: the handler returned this error");
}

static dtask_err ignores_unwind(dtask_task *task, void *arg) {
    (void)arg;
    dtask_child *child;
    GIVES(OK, dtask_spawn(task, "leaf", DTASK_OPTS("delay", "1d"), &child, ""));
    sem_post(&arrived);
    GIVES(EUNWIND, dtask_wait(task, child, -1));
    return dtask_done(task, ""); // told to return EUNWIND
}

Test(misuse, what_a_dropped_frame_says_is_no_outcome) {
    dtask_job *job = NULL;
    uint64_t succeeded = 9, closing = 9;
    serve(ignores_unwind, NULL, NULL);
    GIVES(OK, dtask_start(app, "h", NULL, &job, ""));
    sem_wait(&arrived);
    dtask_worker_stop(worker, 10000);
    GIVES(OK, dtask_worker_run(worker));
    GIVES(OK, dtask_job_info(job, "succeeded:u closing:u", &succeeded, &closing));
    HOLDS(succeeded == 0 && closing == 0);
    dtask_job_free(job);
}

// ---- names --------------------------------------------------------------------------------

static dtask_err spawns_by_name(dtask_task *task, void *arg) {
    (void)arg;
    dtask_str text = {"x", 1};
    GIVES(EARGS, dtask_spawn(task, "h", NULL, NULL, "b:s a:i", text, (int64_t)1));
    GIVES(EARGS, dtask_then(task, "h", NULL, "b:s a:i", text, (int64_t)1));
    GIVES(EARGS, dtask_map(task, "h", NULL, NULL, 0, 2, "a:s", text));
    return dtask_fail(task, DTASK_EFATAL, "as it should");
}

Test(misuse, names_of_arguments_that_are_not_there) {
    dtask_job *job = NULL;
    serve(spawns_by_name, NULL, "a:i b:s?");
    GIVES(EARGS, dtask_start(app, "h", NULL, NULL, "b:i a:z", (int64_t)1, "x"));
    GIVES(EARGS, dtask_start(app, "h", NULL, NULL, "nosuch:i", (int64_t)1));
    GIVES(OK, dtask_start(app, "leaf", NULL, NULL, "any:i", (int64_t)1)); // its parameters are not known
    GIVES(OK, dtask_start(app, "h", NULL, &job, "a:i z", (int64_t)1, "x"));
    GIVES(OK, dtask_job_wait(job, -1));
    GIVES(EFAILED, dtask_job_result(job, ""));
    HOLDS(strstr(dtask_err_detail(), "as it should"));
    dtask_job_free(job);
}

Test(misuse, names_of_types_that_are_no_text) {
    GIVES(OK, dtask_worker_new(app, NULL, &worker));
    GIVES(EARGS, dtask_worker_add(worker, "\xff", NULL, leaf, NULL));
    GIVES(EARGS, dtask_worker_add(worker, "a\n", NULL, leaf, NULL));
    GIVES(EARGS, dtask_worker_add(worker, "\xed\xa0\x80", NULL, leaf, NULL)); // half of a surrogate pair
    GIVES(OK, dtask_worker_add(worker, "\xc3\xa9t\xc3\xa9", NULL, leaf, NULL));
}

// ---- around closing -------------------------------------------------------------------------

static dtask_err polled;

static void *polls(void *arg) {
    dtask_app *a = arg;
    sem_post(&arrived);
    while (!(polled = dtask_poll(a, -1))) {
    }
    return NULL;
}

Test(misuse, a_poll_ends_when_its_app_is_closed) {
    pthread_t thread[2];
    dtask_app *own = NULL;
    dtask_job *job = NULL;
    GIVES(OK, dtask_open("own", "memory:", NULL, &own));
    GIVES(OK, dtask_job_find(own, "holds-the-app", &job));
    for (int i = 0; i < 2; i++) pthread_create(&thread[i], NULL, polls, own);
    for (int i = 0; i < 2; i++) sem_wait(&arrived);
    dtask_close(own);
    for (int i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
        HOLDS(polled == DTASK_EUSAGE);
    }
    dtask_job_free(job);
}

static int lines;

static void logs_itself(int level, const char *line, void *arg) {
    (void)level, (void)line;
    lines++;
    dtask_log(arg, logs_itself, arg);
}

static dtask_err speaks(dtask_task *task, void *arg) {
    (void)arg;
    dtask_say(task, 3, "hello");
    return dtask_done(task, "");
}

Test(misuse, a_log_function_that_sets_the_log_function) {
    serve(speaks, NULL, NULL);
    dtask_log(app, logs_itself, app);
    GIVES(OK, run(&(int64_t){0}));
    HOLDS(lines == 1);
}

// What the header promises of jobs and workers whose app is closed, call by call.
typedef struct { const char *name; dtask_err (*call)(dtask_job *, dtask_worker *); dtask_err gives; } closed_call;
#define CLOSED(n, code, expression) \
    static dtask_err closed_##n(dtask_job *j, dtask_worker *w) { (void)j, (void)w; return expression; }
#define CLOSED_CALLS(X) \
    X(job_wait, EUSAGE, dtask_job_wait(j, -1)) X(job_result, EUSAGE, dtask_job_result(j, "")) X(job_info, EUSAGE, dtask_job_info(j, "")) \
    X(job_control, EUSAGE, dtask_job_control(j, "cancel")) X(job_watch, EUSAGE, dtask_job_watch(j, no_job, NULL)) \
    X(job_unwatch, OK, dtask_job_watch(j, NULL, NULL)) X(worker_add, EUSAGE, dtask_worker_add(w, "x", NULL, leaf, NULL)) \
    X(worker_add_nothing, EUSAGE, dtask_worker_add(w, NULL, NULL, NULL, NULL)) X(worker_load, EUSAGE, dtask_worker_load(w, "x.so")) \
    X(worker_load_nothing, EUSAGE, dtask_worker_load(w, NULL)) \
    X(worker_on_complete, EUSAGE, dtask_worker_on_complete(w, NULL, no_job, NULL)) \
    X(worker_on_nothing, EUSAGE, dtask_worker_on_complete(w, NULL, NULL, NULL)) \
    X(worker_start, EUSAGE, dtask_worker_start(w)) X(worker_run, EUSAGE, dtask_worker_run(w))
CLOSED_CALLS(CLOSED)
#define CLOSED_ROW(n, code, expression) {#n, closed_##n, DTASK_##code},
static const closed_call closed_calls[] = {CLOSED_CALLS(CLOSED_ROW)};

Test(misuse, jobs_and_workers_of_an_app_that_is_closed) {
    dtask_app *own = NULL;
    dtask_job *job = NULL;
    dtask_worker *fresh = NULL, *runs = NULL;
    GIVES(OK, dtask_open("own", "memory:", NULL, &own));
    GIVES(OK, dtask_job_find(own, "j", &job));
    GIVES(OK, dtask_worker_new(own, NULL, &fresh));
    GIVES(OK, dtask_worker_new(own, DTASK_OPTS("slots", "1"), &runs));
    GIVES(OK, dtask_worker_add(runs, "leaf", NULL, leaf, NULL));
    GIVES(OK, dtask_worker_start(runs));
    dtask_close(own);
    for (size_t i = 0; i < sizeof closed_calls / sizeof *closed_calls; i++)
        for (int k = 0; k < 2; k++) expect(k, closed_calls[i].name, closed_calls[i].gives, closed_calls[i].call(job, k ? runs : fresh));
    dtask_worker_stop(fresh, 0);
    dtask_worker_free(fresh);
    dtask_worker_free(runs);
    dtask_job_free(job);
}

// ---- a log function that takes its time ---------------------------------------------------------

static sem_t spawned;

// Returns once a handler has had its way with the library.
static void logs_slowly(int level, const char *line, void *arg) {
    (void)level, (void)arg;
    if (!strstr(line, "the worker drains")) return;
    sem_post(&go);
    sem_wait(&spawned);
}

static dtask_err spawns_while_it_logs(dtask_task *task, void *arg) {
    (void)arg;
    sem_post(&arrived);
    sem_wait(&go);
    GIVES(OK, dtask_spawn(task, "leaf", NULL, NULL, ""));
    sem_post(&spawned);
    return dtask_done(task, "");
}

Test(misuse, a_log_function_is_called_under_no_lock_that_handlers_need) {
    sem_init(&spawned, 0, 0);
    serve(spawns_while_it_logs, NULL, NULL);
    dtask_log(app, logs_slowly, NULL);
    GIVES(OK, dtask_start(app, "h", NULL, NULL, ""));
    sem_wait(&arrived);
    dtask_worker_stop(worker, 30000);
    GIVES(OK, dtask_worker_run(worker));
}

// ---- one worker, many threads ---------------------------------------------------------------------

static void *adds(void *arg) {
    (void)arg;
    char name[16];
    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "t%d", i);
        dtask_err err = dtask_worker_add(worker, name, NULL, leaf, NULL);
        if (err == DTASK_ECONFLICT) continue; // the other one was first
        if (err) return expect(__LINE__, "add", DTASK_EUSAGE, err), NULL; // it has started
        err = dtask_worker_on_complete(worker, name, no_job, NULL);
        if (err && err != DTASK_ECONFLICT) return expect(__LINE__, "on_complete", DTASK_EUSAGE, err), NULL;
    }
    return NULL;
}

static void *runs_it(void *arg) {
    (void)arg;
    GIVES(OK, dtask_worker_run(worker));
    return NULL;
}

Test(misuse, threads_that_add_and_run_at_once) {
    for (int round = 0; round < 10; round++) {
        pthread_t thread[4];
        GIVES(OK, dtask_worker_new(app, DTASK_OPTS("slots", "1"), &worker));
        for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, i % 2 ? runs_it : adds, NULL);
        dtask_worker_stop(worker, 0);
        for (int i = 0; i < 4; i++) pthread_join(thread[i], NULL);
        dtask_worker_free(worker);
    }
    worker = NULL;
}
