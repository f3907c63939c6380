// Measures the C side through the public header, and many starts as a binding
// hands them in: throughput of no-ops, fan-out and join, latency from another
// process, a very wide job.
//
//   bench_core serve URL             a worker, until stdin closes
//   bench_core noop URL N            one job of N no-op children, tasks a second
//   bench_core fanout URL N ROUNDS   one line a round, ms from start to the join's result
//   bench_core latency URL ROUNDS    one line a round, us from start to result; but for memory: `serve` runs elsewhere
//   bench_core accept URL N THREADS  N jobs started one by one, nobody serves them: jobs a second; then this process' CPU for each, us
//   bench_core many URL N BATCH      the same, by one thread that hands in so many at once
//   bench_core starts URL N THREADS  the same, then a second line: life cycles of these jobs a second, by a worker
//
// noop and fanout bring a worker of their own in this process. Prints plain
// numbers, one a line; script/bench makes medians and JSON of them.
#include <dynatask.h>
#include <dynatask_binding.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double cpu_us(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e6 + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void check(dtask_err err, const char *what) {
    if (!err) return;
    fprintf(stderr, "bench_core: %s: %s: %s\n", what, dtask_err_name(err), dtask_err_detail());
    exit(1);
}

static _Atomic uint64_t noops;   // that ran
static sem_t all_ran;            // posted when noops is noops_wanted
static uint64_t noops_wanted;

static dtask_err noop(dtask_task *task, void *arg) {
    (void)arg;
    if (atomic_fetch_add(&noops, 1) + 1 == noops_wanted) sem_post(&all_ran);
    return dtask_done(task, "n");
}

static dtask_err fan(dtask_task *task, void *arg) {
    (void)arg;
    uint64_t n;
    dtask_err err = dtask_args(task, "n:u", &n);
    if (!err) err = dtask_map(task, "noop", NULL, NULL, 0, n, "");
    if (!err) err = dtask_wait(task, NULL, -1);
    return err ? err : dtask_done(task, "u", n);
}

static dtask_worker *worker_of(dtask_app *app) {
    dtask_worker *w;
    check(dtask_worker_new(app, NULL, &w), "worker");
    check(dtask_worker_add(w, "noop", "n:i -> n", noop, NULL), "noop");
    check(dtask_worker_add(w, "fan", "n:i -> i", fan, NULL), "fan");
    check(dtask_worker_start(w), "start");
    return w;
}

static double run_fan(dtask_app *app, uint64_t n) {
    dtask_job *job;
    double begin = now_us();
    check(dtask_start(app, "fan", NULL, &job, "u", n), "start fan");
    check(dtask_job_wait(job, -1), "wait");
    double took = now_us() - begin;
    uint64_t got = 0;
    check(dtask_job_result(job, "u", &got), "result");
    if (got != n) fprintf(stderr, "bench_core: %llu of %llu\n", (unsigned long long)got, (unsigned long long)n), exit(1);
    dtask_job_free(job);
    return took;
}

// ---- starts: each of the threads waits for its own, or one waits for many --------------------

enum { THREADS_MAX = 1024 };
typedef struct { dtask_app *app; _Atomic int64_t left; } producer;

static void *produce(void *arg) {
    producer *p = arg;
    for (int64_t i; (i = atomic_fetch_sub(&p->left, 1)) > 0;) {
        dtask_job *job;
        check(dtask_start(p->app, "noop", NULL, &job, "i", i), "start noop");
        dtask_job_free(job);
    }
    return NULL;
}

static double run_starts(dtask_app *app, uint64_t n, uint64_t nthreads) {
    producer p = {app, (int64_t)n};
    pthread_t threads[THREADS_MAX];
    double begin = now_us();
    for (uint64_t i = 0; i < nthreads; i++)
        if (pthread_create(&threads[i], NULL, produce, &p)) fprintf(stderr, "bench_core: no thread\n"), exit(1);
    for (uint64_t i = 0; i < nthreads; i++) pthread_join(threads[i], NULL);
    return now_us() - begin;
}

static double run_many(dtask_app *app, uint64_t n, uint64_t batch) {
    dtask_b_call *calls = calloc(batch, sizeof *calls);
    dtask_err *errs = calloc(batch, sizeof *errs);
    char (*args)[6] = calloc(batch, sizeof *args); // [i], a msgpack uint 32
    if (!calls || !errs || !args) fprintf(stderr, "bench_core: no memory\n"), exit(1);
    double begin = now_us();
    for (uint64_t at = 0, some; at < n; at += some) {
        some = n - at < batch ? n - at : batch;
        for (uint64_t i = 0; i < some; i++) {
            uint32_t v = (uint32_t)(at + i);
            memcpy(args[i], (char[]){(char)0x91, (char)0xce, (char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v}, 6);
            calls[i] = (dtask_b_call){.type = "noop", .args = {args[i], 6}};
        }
        check(dtask_b_start_many(app, calls, some, errs, NULL), "start many");
    }
    double took = now_us() - begin;
    free(calls);
    free(errs);
    free(args);
    return took;
}

// Until the last handler ran; its outcome goes with a turn that is not waited for.
static double run_backlog(dtask_app *app, uint64_t n, dtask_worker **w) {
    sem_init(&all_ran, 0, 0);
    noops_wanted = n;
    double begin = now_us();
    *w = worker_of(app);
    while (sem_wait(&all_ran)) {
    }
    return now_us() - begin;
}

static void stop(dtask_worker *w) {
    dtask_worker_stop(w, 1000);
    dtask_worker_free(w);
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: bench_core serve|noop|fanout|latency|accept|many|starts URL [N] [ROUNDS|THREADS|BATCH]\n"), 2;
    const char *mode = argv[1], *url = argv[2];
    uint64_t n = argc > 3 ? strtoull(argv[3], NULL, 10) : 1, m = argc > 4 ? strtoull(argv[4], NULL, 10) : 5;
    dtask_app *app;
    check(dtask_open("bench", url, NULL, &app), "open");
    dtask_worker *w = strcmp(mode, "latency") || !strncmp(url, "memory:", 7) ? worker_of(app) : NULL;

    if (!strcmp(mode, "serve")) {
        puts("serving");
        fflush(stdout);
        while (getchar() != EOF) {
        }
    } else if (!strcmp(mode, "noop")) {
        run_fan(app, 100);
        printf("%.0f\n", (double)(n + 1) / (run_fan(app, n) / 1e6));
    } else if (!strcmp(mode, "fanout")) {
        run_fan(app, n);
        for (uint64_t i = 0; i < m; i++) printf("%.3f\n", run_fan(app, n) / 1e3);
    } else if (!strcmp(mode, "latency")) {
        for (uint64_t i = 0; i < n + 20; i++) {
            dtask_job *job;
            double begin = now_us();
            check(dtask_start(app, "noop", NULL, &job, "i", (int64_t)i), "start noop");
            check(dtask_job_wait(job, -1), "wait");
            check(dtask_job_result(job, "n"), "result");
            if (i >= 20) printf("%.1f\n", now_us() - begin);
            dtask_job_free(job);
            usleep(2000); // a quiet system: each start finds everyone asleep
        }
    } else if (!strcmp(mode, "accept") || !strcmp(mode, "many") || !strcmp(mode, "starts")) {
        bool many = !strcmp(mode, "many");
        stop(w); // it said what types there are
        w = NULL;
        double before = cpu_us(), took = many ? run_many(app, n, m) : run_starts(app, n, m < THREADS_MAX ? m : THREADS_MAX);
        double cpu = cpu_us() - before;
        printf("%.0f\n", (double)n / (took / 1e6));
        if (strcmp(mode, "starts")) printf("%.2f\n", cpu / (double)n);
        else printf("%.0f\n", (double)n / (run_backlog(app, n, &w) / 1e6));
    } else {
        return fprintf(stderr, "bench_core: no mode %s\n", mode), 2;
    }
    if (w) stop(w);
    dtask_close(app);
    return 0;
}
