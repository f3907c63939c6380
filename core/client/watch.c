// dtask_job_watch: one descriptor for everything that an embedding program
// waits for. The end of a job is pushed by a bell; how it stands meanwhile is
// read at most ten times a second, and told only when it differs.
//
// A watch is looked at by one dtask_poll at a time. No lock is held while a
// callback runs, so it may watch, unwatch and free.
#include "client/job.h"
#include "engines/run.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { TICK_MS = 100, BATCH = 64 };

typedef struct watch {
    struct watch *next;
    dtask_job *job;              // held
    dti_bell *bell;
    dti_awaited end;             // what it rings for
    dtask_job_fn *fn;
    void *arg;
    dti_hash seen;               // of how it stood
    bool due, busy, gone;        // gone: its poll lets go of it
} watch;

struct dti_watches {
    pthread_mutex_t lock;
    int epoll, timer;            // -1: not yet
    bool closed;                 // who polls is to return
    watch *list;
};

dtask_err dti_watches_init(dtask_app *app) {
    struct dti_watches *w = calloc(1, sizeof *w);
    if (!w) return dti_fail(DTASK_ENOMEM, "No memory for an app.");
    pthread_mutex_init(&w->lock, NULL);
    w->epoll = w->timer = -1;
    app->watches = w;
    return DTASK_OK;
}

// Ticks while anything is watched, and once it is closed; `now`: the first at once.
static void tick(struct dti_watches *w, bool now) {
    struct itimerspec t = {0};
    if (w->list || w->closed) {
        t.it_interval.tv_nsec = TICK_MS * 1000000l;
        t.it_value.tv_nsec = now ? 1 : TICK_MS * 1000000l;
    }
    timerfd_settime(w->timer, 0, &t, NULL);
}

// Whoever sleeps in dtask_poll learns that the app is closed.
void dti_watches_close(dtask_app *app) {
    struct dti_watches *w = app->watches;
    pthread_mutex_lock(&w->lock);
    w->closed = true;
    if (w->timer >= 0) tick(w, true);
    pthread_mutex_unlock(&w->lock);
}

// No watch is left: each holds a job, and that the app.
void dti_watches_free(dtask_app *app) {
    struct dti_watches *w = app->watches;
    if (!w) return;
    if (w->epoll >= 0) close(w->epoll);
    if (w->timer >= 0) close(w->timer);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static bool open_fds(struct dti_watches *w) {
    if (w->epoll >= 0) return true;
    int epoll = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN};
    if (epoll >= 0 && timer >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &e)) {
        w->epoll = epoll;
        w->timer = timer;
        return true;
    }
    if (epoll >= 0) close(epoll);
    if (timer >= 0) close(timer);
    return false;
}

static void let_go(dtask_app *app, watch *one) {
    dti_app_bell_back(app, one->bell);
    dti_job_drop(one->job);
    free(one);
}

// Under the lock: takes it off the list. True: nobody looks at it, let it go.
static bool unlink_watch(struct dti_watches *w, watch *one) {
    watch **at = &w->list;
    while (*at != one) at = &(*at)->next;
    *at = one->next;
    epoll_ctl(w->epoll, EPOLL_CTL_DEL, one->job->app->engine->ops->bell_fd(one->bell), NULL);
    one->gone = true;
    if (!w->list) tick(w, false);
    return !one->busy;
}

static void unwatch(dtask_job *job) {
    struct dti_watches *w = job->app->watches;
    pthread_mutex_lock(&w->lock);
    watch *one = w->list;
    while (one && one->job != job) one = one->next;
    bool mine = one && unlink_watch(w, one);
    pthread_mutex_unlock(&w->lock);
    if (mine) let_go(job->app, one);
}

dtask_err dtask_job_watch(dtask_job *job, dtask_job_fn *fn, void *arg) {
    dtask_err err = dti_job_check(job);
    if (!fn && job && job->app->fork_gen == dti_forks()) { // also of a closed app
        unwatch(job);
        return DTASK_OK;
    }
    if (err) return err;
    unwatch(job);
    watch *one = calloc(1, sizeof *one);
    if (!one) return dti_fail(DTASK_ENOMEM, "No memory to watch %s.", job->id);
    if (dti_job_bell(job, &one->end)) one->end = (dti_awaited){job->hash, job->job}; // none yet: its looks say so
    if ((err = dti_app_bell(job->app, &one->bell))) {
        free(one);
        return err;
    }
    atomic_fetch_add(&job->refs, 1);
    one->job = job;
    one->fn = fn;
    one->arg = arg;
    struct dti_watches *w = job->app->watches;
    const dti_engine_ops *ops = job->app->engine->ops;
    ops->bell_asleep(one->bell, NULL, 0, &one->end);
    pthread_mutex_lock(&w->lock);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = one};
    bool ok = open_fds(w) && !epoll_ctl(w->epoll, EPOLL_CTL_ADD, ops->bell_fd(one->bell), &e);
    if (ok) {
        one->next = w->list;
        w->list = one;
        tick(w, true);
    }
    pthread_mutex_unlock(&w->lock);
    if (ok) return DTASK_OK;
    let_go(job->app, one);
    return dti_fail(DTASK_EENGINE, "%s cannot be watched: out of descriptors; raise their limit (ulimit -n).", job->id);
}

int dtask_fd(dtask_app *app) {
    if (dti_app_check(app)) return -1;
    struct dti_watches *w = app->watches;
    pthread_mutex_lock(&w->lock);
    int fd = open_fds(w) ? w->epoll : -1;
    pthread_mutex_unlock(&w->lock);
    return fd;
}

// How it stands, as a hash; *over: it has ended, or is no more.
static dtask_err stand(dtask_job *job, dti_hash *out, bool *over) {
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = job->ord ? DTI_READ_TASK : DTI_READ_JOB, .id = job->job, .ord = job->ord}};
    dtask_err err = dti_engine_call(job->app->engine, &arena, &op);
    *over = !err && !op.read.n;
    if (!err && op.read.n) {
        const dti_taskview *t = job->ord ? &op.read.tasks[0] : &op.read.jobs[0].root;
        *out = job->ord ? dti_hash128(&t->row, sizeof t->row, 1) : dti_hash128(&op.read.jobs[0].row, sizeof op.read.jobs[0].row, 2);
        *out = dti_hash128(t->progress.p, t->progress.n, out->h[0]);
        if (dti_terminal(t->row.state)) err = dti_job_look(job, over);
    }
    dti_arena_done(&arena);
    return err;
}

static void look(dtask_app *app, watch *one) {
    struct dti_watches *w = app->watches;
    const dti_engine_ops *ops = app->engine->ops;
    dti_hash now = one->seen;
    bool over;
    ops->bell_awake(one->bell);
    ops->bell_asleep(one->bell, NULL, 0, &one->end);
    dtask_err err = stand(one->job, &now, &over);
    bool tell = !err && (over || !dti_hash_eq(now, one->seen));
    one->seen = now;
    pthread_mutex_lock(&w->lock);
    tell = tell && !one->gone;
    if (over && !one->gone) unlink_watch(w, one); // its last call; `busy` keeps it until then
    pthread_mutex_unlock(&w->lock);
    if (tell) one->fn(one->job, one->arg);
    pthread_mutex_lock(&w->lock);
    one->busy = false;
    bool gone = one->gone;
    pthread_mutex_unlock(&w->lock);
    if (gone) let_go(app, one);
}

dtask_err dtask_poll(dtask_app *app, int ms) {
    dtask_err err = dti_app_check(app);
    if (err) return err;
    struct dti_watches *w = app->watches;
    dti_app_hold(app); // a callback may close it
    if (dtask_fd(app) < 0) {
        if (!(err = dti_app_check(app))) err = dti_fail(DTASK_EENGINE, "dtask_poll is out of descriptors: raise their limit (ulimit -n).");
        dti_app_drop(app);
        return err;
    }
    struct epoll_event events[BATCH];
    int n = epoll_wait(w->epoll, events, BATCH, ms);
    if ((err = dti_app_check(app))) {
        dti_app_drop(app);
        return err;
    }
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < n; i++) {
        uint64_t ticks;
        bool timer = !events[i].data.ptr && read(w->timer, &ticks, sizeof ticks) == sizeof ticks;
        // An event may be of a watch that went meanwhile: only listed ones count.
        for (watch *one = w->list; one; one = one->next)
            if (timer || one == events[i].data.ptr) one->due = true;
    }
    for (;;) {
        watch *one = w->list;
        while (one && (!one->due || one->busy)) one = one->next;
        if (!one) break;
        one->due = false;
        one->busy = true;
        pthread_mutex_unlock(&w->lock);
        look(app, one);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    dti_app_drop(app);
    return DTASK_OK;
}
