#include "worker_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

static void log_line(int level, const char *line, void *arg) {
    (void)arg;
    if (getenv("RIG_LOG") || level <= 3) fprintf(stderr, "%s\n", line);
}

void (*rig_fault)(dti_engine *, dti_arena *, dti_op *, size_t);
static const dti_engine_ops *real;
static dti_engine_ops faulty;

void rig_engine(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    real->call(e, mem, ops, n);
}

void rig_open(rig *r, const char *scheme, const rig_handler *handlers, const char *const *opts) {
    memset(r, 0, sizeof *r);
    snprintf(r->folder, sizeof r->folder, "/tmp/dtask-test-XXXXXX");
    cr_assert_not_null(mkdtemp(r->folder));
    snprintf(r->url, sizeof r->url, "%s%s%s", scheme, strcmp(scheme, "memory:") ? r->folder : "", strcmp(scheme, "memory:") ? "/t.db" : "");
    OK(dtask_open("test", r->url, NULL, &r->app));
    dtask_log(r->app, log_line, NULL);
    if (rig_fault) {
        real = r->app->engine->ops;
        faulty = *real;
        faulty.call = rig_fault;
        r->app->engine->ops = &faulty;
    }
    r->worker = rig_worker(r, handlers, opts);
    OK(dtask_worker_start(r->worker));
}

dtask_worker *rig_worker(rig *r, const rig_handler *handlers, const char *const *opts) {
    dtask_worker *w;
    OK(dtask_worker_new(r->app, opts, &w));
    for (const rig_handler *h = handlers; h->type; h++) OK(dtask_worker_add(w, h->type, h->signature, h->fn, r));
    return w;
}

void rig_close(rig *r) {
    dtask_worker_stop(r->worker, 5000);
    OK(dtask_worker_run(r->worker));
    dtask_worker_free(r->worker);
    dtask_close(r->app);
#ifdef __SANITIZE_ADDRESS__
    cr_assert_eq(__lsan_do_recoverable_leak_check(), 0, "something leaked");
#endif
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", r->folder);
    cr_assert_eq(system(command), 0);
}

dtask_job *rig_job(rig *r, const char *type, const char *const *opts, int64_t n) {
    dtask_job *job;
    OK(dtask_start(r->app, type, opts, &job, "i", n));
    return job;
}

dtask_err rig_end(dtask_job *job, int64_t *out) {
    dtask_err err = dtask_job_wait(job, 50000);
    if (!err) err = dtask_job_result(job, "i?", out);
    dtask_job_free(job);
    return err;
}

dtask_err rig_run(rig *r, const char *type, int64_t n, int64_t *out) {
    return rig_end(rig_job(r, type, NULL, n), out);
}

uint64_t rig_count(dtask_job *job, const char *name) {
    char fmt[64];
    uint64_t n;
    snprintf(fmt, sizeof fmt, "%s:u", name);
    OK(dtask_job_info(job, fmt, &n));
    return n;
}

void rig_kill(rig *r, dtask_worker *w) {
    dti_arena mem = {0};
    uint64_t no = w->links->no;
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 1000, .dead = &no, .ndead = 1, .charge_all = true}};
    OK(dti_engine_call(r->app->engine, &mem, &op));
    dti_arena_done(&mem);
}

void rig_pause(int ms) {
    usleep((useconds_t)ms * 1000);
}

void gate_open(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->at++;
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->lock);
}

void gate_wait(gate *g, int at) {
    pthread_mutex_lock(&g->lock);
    while (g->at < at) pthread_cond_wait(&g->moved, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

int gate_at(gate *g) {
    pthread_mutex_lock(&g->lock);
    int at = g->at;
    pthread_mutex_unlock(&g->lock);
    return at;
}

dtask_err rig_deep(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x;
    dtask_child *a;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (err || !n) return err ? err : dtask_done(t, "i", (int64_t)0);
    if ((err = dtask_spawn(t, "deep", NULL, &a, "i", n - 1)) || (err = dtask_wait(t, a, -1))) return err;
    err = dtask_child_result(a, "i", &x);
    return err ? err : dtask_done(t, "i", x + 1);
}
