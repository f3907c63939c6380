/* The C library from outside, one case at a time: c_api CASE URL. Says what
 * went wrong and exits 1, or exits 0. Nothing but the public header. */
#include <dynatask.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what)                                                                                 \
    do {                                                                                            \
        if (!(what)) {                                                                              \
            fprintf(stderr, "%s:%d: %s (detail: %s)\n", __FILE__, __LINE__, #what, dtask_err_detail()); \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)
#define OK(call) CHECK((call) == DTASK_OK)
#define ERR(err, call) CHECK((call) == DTASK_##err && strlen(dtask_err_detail()) > 8)

static const char *url;
static const char *app_name = "c-api";

static dtask_err add(dtask_task *task, void *arg) {
    int64_t a, b;
    if (arg) atomic_fetch_add((atomic_int *)arg, 1);
    dtask_err err = dtask_args(task, "a:i b:i", &a, &b);
    return err ? err : dtask_done(task, "i", a + b);
}

static dtask_err sum_of(dtask_task *task, void *arg) {
    int64_t n, sum = 0;
    dtask_child *batch;
    (void)arg;
    dtask_err err = dtask_args(task, "n:i", &n);
    if (!err) err = dtask_map(task, "add", NULL, &batch, 0, (uint64_t)n, "i", (int64_t)1);
    if (!err) err = dtask_wait(task, batch, -1);
    for (int64_t i = 0; !err && i < n; i++) {
        dtask_child *one;
        int64_t v;
        if (!(err = dtask_child_at(batch, (uint64_t)i, &one)) && !(err = dtask_child_result(one, "i", &v))) {
            sum += v;
            dtask_child_free(one);
        }
    }
    return err ? err : dtask_done(task, "i", sum);
}

static dtask_err hold(dtask_task *task, void *arg) {
    (void)arg;
    while (!dtask_cancelled(task)) usleep(1000);
    return DTASK_ECANCELLED;
}

static dtask_err broken(dtask_task *task, void *arg) {
    (void)arg;
    return dtask_fail(task, DTASK_EFAILED, "broken as told");
}

static dtask_app *open_app(void) {
    dtask_app *app;
    OK(dtask_open(app_name, url, NULL, &app));
    return app;
}

static dtask_worker *open_worker(dtask_app *app, atomic_int *runs) {
    dtask_worker *w;
    OK(dtask_worker_new(app, DTASK_OPTS("slots", "2"), &w));
    OK(dtask_worker_add(w, "add", "a:i b:i -> i", add, runs));
    OK(dtask_worker_add(w, "sum_of", "n:i -> i", sum_of, NULL));
    OK(dtask_worker_add(w, "hold", "-> n", hold, NULL));
    OK(dtask_worker_add(w, "broken", "-> n", broken, NULL));
    OK(dtask_worker_start(w));
    return w;
}

static void case_library(void) {
    CHECK(dtask_abi() == DTASK_ABI);
    CHECK(strlen(dtask_version()) >= 5);
    CHECK(!strcmp(dtask_err_name(DTASK_OK), "OK"));
    CHECK(!strcmp(dtask_err_name(DTASK_ENOTFOUND), "ENOTFOUND"));
    CHECK(!strcmp(dtask_err_name((dtask_err)-99), "EUNKNOWN"));
}

static void case_open_errors(void) {
    dtask_app *app = (dtask_app *)0x1;
    ERR(EARGS, dtask_open("bad name", url, NULL, &app));
    ERR(EARGS, dtask_open("", url, NULL, &app));
    ERR(EARGS, dtask_open(NULL, url, NULL, &app));
    ERR(EARGS, dtask_open("x", "nonsense", NULL, &app));
    ERR(EARGS, dtask_open("x", "memory:?nosuch=1", NULL, &app));
    ERR(EARGS, dtask_open("x", url, DTASK_OPTS("nosuch", "1"), &app));
    ERR(EARGS, dtask_open("x", url, DTASK_OPTS("lease", "soon"), &app));
    ERR(EENGINE, dtask_open("x", "sqlite:/nowhere/at/all.db", NULL, &app));
    CHECK(app == (dtask_app *)0x1); /* outputs untouched */
    dtask_close(NULL);
    dtask_job_free(NULL);
    dtask_child_free(NULL);
    dtask_worker_free(NULL);
}

static void case_start_wait_result(void) {
    atomic_int runs = 0;
    dtask_app *app = open_app();
    dtask_worker *w = open_worker(app, &runs);
    dtask_job *job;
    int64_t got = -1;
    OK(dtask_start(app, "add", NULL, &job, "i i", (int64_t)40, (int64_t)2));
    OK(dtask_job_wait(job, -1));
    OK(dtask_job_result(job, "i", &got));
    CHECK(got == 42 && atomic_load(&runs) == 1);
    ERR(EARGS, dtask_job_result(job, "s", (dtask_str *)&(dtask_str){0}));
    uint64_t added = 0, succeeded = 0;
    dtask_str state, type;
    OK(dtask_job_info(job, "state:s type:s added:u succeeded:u", &state, &type, &added, &succeeded));
    CHECK(state.n == 9 && !memcmp(state.p, "succeeded", 9) && type.n == 3 && added == 1 && succeeded == 1);
    ERR(EARGS, dtask_job_info(job, "nosuch:u", &added));
    ERR(EUSAGE, dtask_job_control(job, "cancel"));
    ERR(EARGS, dtask_job_control(job, "explode"));
    dtask_job_free(job);
    OK(dtask_start(app, "sum_of", DTASK_OPTS("id", "sum"), &job, "i", (int64_t)100));
    OK(dtask_job_wait(job, -1));
    OK(dtask_job_result(job, "i", &got));
    CHECK(got == 99 * 50 + 100);
    dtask_job_free(job);
    OK(dtask_job_find(app, "sum", &job));
    got = 0;
    OK(dtask_job_result(job, "i", &got));
    CHECK(got == 99 * 50 + 100);
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static void case_start_errors(void) {
    dtask_app *app = open_app();
    dtask_worker *w = open_worker(app, NULL);
    dtask_job *job;
    ERR(ENOTFOUND, dtask_start(app, "nobody", NULL, &job, ""));
    CHECK(strstr(dtask_err_detail(), "nobody"));
    ERR(EARGS, dtask_start(app, "add", NULL, &job, "i", (int64_t)1));
    ERR(EARGS, dtask_start(app, "add", NULL, &job, "i z", (int64_t)1, "x"));
    ERR(EARGS, dtask_start(app, "add", NULL, &job, "i i i", (int64_t)1, (int64_t)2, (int64_t)3));
    ERR(EARGS, dtask_start(app, "add", NULL, &job, "q", 1));
    ERR(EARGS, dtask_start(app, "add", DTASK_OPTS("colour", "red"), &job, "i i", (int64_t)1, (int64_t)2));
    ERR(EARGS, dtask_start(app, "add", DTASK_OPTS("id", "a/b"), &job, "i i", (int64_t)1, (int64_t)2));
    OK(dtask_start(app, "add", DTASK_OPTS("id", "mine"), NULL, "i i", (int64_t)1, (int64_t)2));
    OK(dtask_start(app, "add", DTASK_OPTS("id", "mine"), NULL, "i i", (int64_t)1, (int64_t)2));
    if (strncmp(url, "kafka:", 6)) { // there a worker sees it, and makes of it a failed job
        ERR(ECONFLICT, dtask_start(app, "add", DTASK_OPTS("id", "mine"), NULL, "i i", (int64_t)1, (int64_t)3));
    } else {
        OK(dtask_start(app, "add", DTASK_OPTS("id", "mine"), NULL, "i i", (int64_t)1, (int64_t)3));
        OK(dtask_job_find(app, "mine!conflict", &job));
        while (dtask_job_wait(job, 10) == DTASK_ENOTFOUND) usleep(1000); // till it is taken in
        OK(dtask_job_wait(job, -1));
        ERR(EFAILED, dtask_job_result(job, "i", &(int64_t){0}));
        dtask_job_free(job);
    }
    ERR(EARGS, dtask_job_find(app, "", &job));
    OK(dtask_job_find(app, "nowhere", &job));
    ERR(ENOTFOUND, dtask_job_wait(job, 10));
    ERR(ENOTFOUND, dtask_job_info(job, "state:s", &(dtask_str){0}));
    ERR(ENOTFOUND, dtask_job_control(job, "cancel"));
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static void case_failures(void) {
    dtask_app *app = open_app();
    dtask_worker *w = open_worker(app, NULL);
    dtask_job *job;
    OK(dtask_start(app, "broken", NULL, &job, ""));
    OK(dtask_job_wait(job, -1));
    ERR(EFAILED, dtask_job_result(job, ""));
    CHECK(strstr(dtask_err_detail(), "broken as told"));
    dtask_job_free(job);
    OK(dtask_start(app, "hold", NULL, &job, ""));
    ERR(ETIMEOUT, dtask_job_wait(job, 20));
    ERR(EUSAGE, dtask_job_result(job, ""));
    OK(dtask_job_control(job, "cancel"));
    OK(dtask_job_wait(job, -1));
    ERR(ECANCELLED, dtask_job_result(job, ""));
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static void case_worker_errors(void) {
    dtask_app *app = open_app();
    dtask_worker *w;
    ERR(EARGS, dtask_worker_new(app, DTASK_OPTS("slots", "none"), &w));
    ERR(EARGS, dtask_worker_new(app, DTASK_OPTS("nosuch", "1"), &w));
    OK(dtask_worker_new(app, NULL, &w));
    ERR(EARGS, dtask_worker_add(w, "x", "a:q", add, NULL));
    ERR(EARGS, dtask_worker_add(w, "x", "a:i -> i; colour=red", add, NULL));
    ERR(EARGS, dtask_worker_add(w, "", NULL, add, NULL));
    OK(dtask_worker_add(w, "x", NULL, add, NULL));
    ERR(ECONFLICT, dtask_worker_add(w, "x", NULL, add, NULL));
    ERR(EARGS, dtask_worker_load(w, "/nowhere/at/all.so"));
    OK(dtask_worker_start(w));
    ERR(EUSAGE, dtask_worker_add(w, "y", NULL, add, NULL));
    dtask_worker_stop(w, 0);
    dtask_worker_stop(w, 0);
    OK(dtask_worker_run(w));
    dtask_worker_free(w);
    dtask_close(app);
}

static void case_free_in_any_order(void) {
    dtask_app *app = open_app();
    dtask_worker *w = open_worker(app, NULL);
    dtask_job *job;
    OK(dtask_start(app, "hold", NULL, &job, ""));
    dtask_close(app);
    ERR(EUSAGE, dtask_job_info(job, "state:s", &(dtask_str){0}));
    dtask_worker_free(w);
    dtask_job_free(job);
}

static atomic_int changes, ends;
static void on_change(dtask_job *job, void *arg) {
    dtask_str state;
    CHECK(arg == &changes);
    OK(dtask_job_info(job, "state:s", &state));
    atomic_fetch_add(&changes, 1);
    if (state.n == 9 && !memcmp(state.p, "succeeded", 9)) atomic_fetch_add(&ends, 1);
}

static void case_watch_by_descriptor(void) {
    dtask_app *app = open_app();
    dtask_worker *w = open_worker(app, NULL);
    dtask_job *job;
    int fd = dtask_fd(app);
    CHECK(fd >= 0 && dtask_fd(app) == fd);
    OK(dtask_start(app, "sum_of", NULL, &job, "i", (int64_t)50));
    OK(dtask_job_watch(job, on_change, &changes));
    for (int i = 0; i < 600 && !atomic_load(&ends); i++) {
        struct pollfd p = {fd, POLLIN, 0};
        CHECK(poll(&p, 1, 10000) == 1);
        OK(dtask_poll(app, 0));
    }
    CHECK(atomic_load(&ends) == 1);
    OK(dtask_job_watch(job, NULL, NULL));
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static atomic_int callbacks;
static void on_complete(dtask_job *job, void *arg) {
    uint64_t added;
    dtask_str state;
    (void)arg;
    OK(dtask_job_info(job, "state:s added:u", &state, &added));
    CHECK(state.n == 9 && added == 11);
    atomic_fetch_add(&callbacks, 1);
}

static void case_on_complete(void) {
    dtask_app *app = open_app();
    dtask_worker *w;
    dtask_job *job;
    OK(dtask_worker_new(app, DTASK_OPTS("slots", "1"), &w));
    OK(dtask_worker_add(w, "add", "a:i b:i -> i", add, NULL));
    OK(dtask_worker_add(w, "sum_of", "n:i -> i", sum_of, NULL));
    OK(dtask_worker_on_complete(w, "sum_of", on_complete, NULL));
    OK(dtask_worker_start(w));
    OK(dtask_start(app, "sum_of", NULL, &job, "i", (int64_t)10));
    OK(dtask_job_wait(job, -1));
    for (int i = 0; i < 60000 && !atomic_load(&callbacks); i++) usleep(1000);
    dtask_worker_stop(w, 10000);
    OK(dtask_worker_run(w));
    CHECK(atomic_load(&callbacks) == 1);
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static void case_fork(void) {
    dtask_app *app = open_app();
    dtask_worker *w = open_worker(app, NULL);
    dtask_job *job;
    OK(dtask_start(app, "hold", NULL, &job, ""));
    pid_t pid = fork();
    if (pid == 0) {
        if (dtask_start(app, "add", NULL, NULL, "i i", (int64_t)1, (int64_t)1) != DTASK_EUSAGE) _exit(1);
        if (dtask_job_wait(job, 0) != DTASK_EUSAGE) _exit(2);
        if (dtask_job_control(job, "cancel") != DTASK_EUSAGE) _exit(3);
        dtask_worker_stop(w, 0);
        dtask_worker_free(w);
        dtask_job_free(job);
        dtask_close(app);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (status) fprintf(stderr, "child: status %x\n", (unsigned)status);
    CHECK(status == 0);
    OK(dtask_job_control(job, "cancel"));
    OK(dtask_job_wait(job, -1));
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static dtask_app *shared;
static void *starter(void *arg) {
    for (int64_t i = 0; i < 50; i++) {
        dtask_job *job;
        int64_t got = 0, me = (int64_t)(intptr_t)arg * 1000 + i;
        OK(dtask_start(shared, "add", NULL, &job, "i i", me, (int64_t)1));
        OK(dtask_job_wait(job, -1));
        OK(dtask_job_result(job, "i", &got));
        CHECK(got == me + 1);
        dtask_job_free(job);
    }
    return NULL;
}

static void case_threads(void) {
    shared = open_app();
    dtask_worker *w = open_worker(shared, NULL);
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) CHECK(!pthread_create(&threads[i], NULL, starter, (void *)(intptr_t)i));
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    dtask_worker_free(w);
    dtask_close(shared);
}

/* A handler that uses what is not its: objects of other tasks, itself later. */
static dtask_task *old_task;
static dtask_err misuse(dtask_task *task, void *arg) {
    (void)arg;
    old_task = task;
    dtask_child *child;
    if (dtask_spawn(task, "nobody", NULL, &child, "") != DTASK_ENOTFOUND) return dtask_fail(task, DTASK_EFATAL, "1");
    if (dtask_spawn(task, "add", NULL, &child, "i z", (int64_t)1, "x") != DTASK_EARGS) return dtask_fail(task, DTASK_EFATAL, "2");
    dtask_err err = dtask_spawn(task, "add", NULL, &child, "i i", (int64_t)1, (int64_t)2);
    if (err) return err;
    int64_t got;
    dtask_err early = dtask_child_result(child, "i", &got); /* EUSAGE unless it was quick */
    if (early && early != DTASK_EUSAGE) return dtask_fail(task, DTASK_EFATAL, "3");
    if ((err = dtask_wait(task, child, -1))) return err;
    dtask_str s;
    if (dtask_child_result(child, "s", &s) != DTASK_EARGS) return dtask_fail(task, DTASK_EFATAL, "4");
    if ((err = dtask_child_result(child, "i", &got))) return err;
    if (dtask_args(task, "nosuch:i", &got) != DTASK_EARGS) return dtask_fail(task, DTASK_EFATAL, "5");
    dtask_child_free(child);
    return dtask_done(task, "i", got);
}

static void case_misuse(void) {
    dtask_app *app = open_app();
    dtask_worker *w;
    dtask_job *job;
    int64_t got = 0;
    OK(dtask_worker_new(app, DTASK_OPTS("slots", "1"), &w));
    OK(dtask_worker_add(w, "add", "a:i b:i -> i", add, NULL));
    OK(dtask_worker_add(w, "misuse", NULL, misuse, NULL));
    OK(dtask_worker_start(w));
    OK(dtask_start(app, "misuse", NULL, &job, ""));
    OK(dtask_job_wait(job, -1));
    OK(dtask_job_result(job, "i", &got));
    CHECK(got == 3);
    dtask_job_free(job);
    dtask_worker_free(w);
    dtask_close(app);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"library", case_library}, {"open_errors", case_open_errors}, {"start_wait_result", case_start_wait_result},
    {"start_errors", case_start_errors}, {"failures", case_failures}, {"worker_errors", case_worker_errors},
    {"free_in_any_order", case_free_in_any_order}, {"watch_by_descriptor", case_watch_by_descriptor},
    {"on_complete", case_on_complete}, {"fork", case_fork}, {"threads", case_threads}, {"misuse", case_misuse},
};

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    url = argv[2];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[1], cases[i].name)) return cases[i].run(), 0;
    return fprintf(stderr, "no case %s\n", argv[1]), 2;
}
