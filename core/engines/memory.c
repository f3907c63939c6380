// memory: the model over the memory store, for one process. An app opened
// several times under the same name and URL is one store; it ends with the
// last of them.
//
// Guaranteed: an operation is atomic and seen at once by the next. Nothing
// outlives the process. Not done: a worker's death is only that its bell is
// closed without `bye`, for all threads here die together.
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

#include "engines/memory_store.h"
#include "engines/run.h"

typedef struct shared shared;
struct dti_bell {
    LIST_ENTRY(dti_bell) entry;
    shared *at;
    int fd;
    bool left;                   // said bye
    dti_sleep sleep;
};
struct shared {
    LIST_ENTRY(shared) entry;
    char *app, *url;
    unsigned refs, forks;
    pthread_mutex_t lock;        // of the store
    dti_store *store;
    uint64_t salt;
    pthread_mutex_t bell_lock;   // of what follows; taken last
    LIST_HEAD(, dti_bell) bells;
    uint64_t *dead;              // workers whose bell was closed without bye, until a sweep had them
    size_t ndead, cdead;
};
typedef struct {
    dti_engine engine;
    shared *at;
} memory;

extern const dti_engine_ops dti_memory_engine;

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, shared) all = LIST_HEAD_INITIALIZER(all);

static void lock_all(void) {
    pthread_mutex_lock(&all_lock);
}

static void unlock_all(void) {
    pthread_mutex_unlock(&all_lock);
}

static void forget(void) { // the child's opens make stores of their own
    LIST_INIT(&all);
    pthread_mutex_init(&all_lock, NULL);
}

static void free_shared(shared *at) {
    dti_memory_store_free(at->store);
    pthread_mutex_destroy(&at->lock);
    pthread_mutex_destroy(&at->bell_lock);
    free(at->dead);
    free(at->app);
    free(at->url);
    free(at);
}

static dtask_err fill(shared *at, dti_arena *arena) { // the first rows
    jmp_buf trap;
    at->store->trap = &trap;
    at->salt = dti_random64();
    dti_memory_store_begin(at->store);
    if (setjmp(trap)) return at->store->trap_err;
    dti_tx tx = {.store = at->store, .arena = arena, .now = dti_wall_us()};
    dti_model_init(&tx, at->salt, 1);
    dti_memory_store_commit(at->store);
    return DTASK_OK;
}

static dtask_err make_shared(const dti_engine_conf *conf, shared **out) {
    shared *at = calloc(1, sizeof *at);
    if (!at) return dti_fail(DTASK_ENOMEM, "out of memory when opening %s", conf->url);
    pthread_mutex_init(&at->lock, NULL);
    pthread_mutex_init(&at->bell_lock, NULL);
    at->forks = dti_forks();
    at->app = strdup(conf->app);
    at->url = strdup(conf->url);
    at->store = dti_memory_store_new();
    dti_arena arena = {0};
    dtask_err err = at->app && at->url && at->store
        ? fill(at, &arena) : dti_fail(DTASK_ENOMEM, "out of memory when opening %s", conf->url);
    dti_arena_done(&arena);
    if (err) return free_shared(at), err;
    *out = at;
    return DTASK_OK;
}

static dtask_err memory_open(const dti_engine_conf *conf, dti_engine **out) {
    if (strcmp(conf->url, "memory:") != 0)
        return dti_fail(DTASK_EARGS, "'%s' is no URL of the memory engine: write memory:", conf->url);
    dti_at_fork(lock_all, unlock_all, forget);
    memory *e = malloc(sizeof *e);
    if (!e) return dti_fail(DTASK_ENOMEM, "out of memory when opening %s", conf->url);
    pthread_mutex_lock(&all_lock);
    shared *at;
    LIST_FOREACH(at, &all, entry) {
        if (strcmp(at->app, conf->app) == 0 && strcmp(at->url, conf->url) == 0) break;
    }
    dtask_err err = DTASK_OK;
    if (!at && !(err = make_shared(conf, &at))) LIST_INSERT_HEAD(&all, at, entry);
    if (!err) at->refs++;
    pthread_mutex_unlock(&all_lock);
    if (err) return free(e), err;
    *e = (memory){{.ops = &dti_memory_engine, .salt = at->salt, .sees_deaths = true}, at};
    *out = &e->engine;
    return DTASK_OK;
}

static void memory_close(dti_engine *engine) {
    memory *e = (memory *)engine;
    if (e->at->forks == dti_forks()) {
        pthread_mutex_lock(&all_lock);
        if (--e->at->refs == 0) {
            LIST_REMOVE(e->at, entry);
            free_shared(e->at);
        }
        pthread_mutex_unlock(&all_lock);
    }
    free(e);
}

// ---- bells -------------------------------------------------------------------

static void ring(dti_bell *b) {
    uint64_t one = 1;
    while (write(b->fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static dtask_err memory_bell_open(dti_engine *engine, uint64_t worker, dti_bell **out) {
    memory *e = (memory *)engine;
    if (e->at->forks != dti_forks()) return dti_forked_error();
    dti_bell *b = calloc(1, sizeof *b);
    if (!b) return dti_fail(DTASK_ENOMEM, "out of memory for a bell");
    b->at = e->at;
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->fd < 0) {
        free(b);
        return dti_fail(DTASK_EENGINE, "no descriptor for a bell (%s): raise the process's limit of open files",
            strerror(errno));
    }
    atomic_store(&b->sleep.worker, worker);
    pthread_mutex_lock(&b->at->bell_lock);
    LIST_INSERT_HEAD(&b->at->bells, b, entry);
    pthread_mutex_unlock(&b->at->bell_lock);
    *out = b;
    return DTASK_OK;
}

static void memory_bell_close(dti_bell *b) {
    if (b->at->forks == dti_forks()) {
        shared *at = b->at;
        pthread_mutex_lock(&at->bell_lock);
        LIST_REMOVE(b, entry);
        uint64_t worker = atomic_load(&b->sleep.worker);
        // Without memory for this note the worker stays: its lease is the
        // model's to see.
        if (worker && !b->left && dti_grow(&at->dead, at->ndead, &at->cdead, sizeof *at->dead))
            at->dead[at->ndead++] = worker;
        pthread_mutex_unlock(&at->bell_lock);
    }
    close(b->fd);
    free(b);
}

static int memory_bell_fd(dti_bell *b) {
    return b->fd;
}

static void memory_bell_asleep(dti_bell *b, const uint32_t *types, size_t n, const dti_awaited *end) {
    dti_sleep_for(&b->sleep, types, n, end ? &end->hash : NULL);
}

static void memory_bell_awake(dti_bell *b) {
    uint64_t n;
    atomic_store(&b->sleep.asleep, DTI_AWAKE);
    while (read(b->fd, &n, sizeof n) < 0 && errno == EINTR) {
    }
}

static void memory_bell_beat(dti_bell *b) {
    (void)b; // it lives as its process does
}

static void memory_bell_runs(dti_bell *b, unsigned i, uint64_t job, uint32_t ord) {
    (void)b, (void)i, (void)job, (void)ord; // no worker dies alone
}

static bool memory_hungry(dti_engine *engine, dti_bell *self, uint32_t type) {
    shared *at = ((memory *)engine)->at;
    bool hungry = false;
    if (at->forks != dti_forks()) return false;
    pthread_mutex_lock(&at->bell_lock);
    dti_bell *b;
    LIST_FOREACH(b, &at->bells, entry) {
        if (b != self && (hungry = dti_sleep_hungry(&b->sleep, type))) break;
    }
    pthread_mutex_unlock(&at->bell_lock);
    return hungry;
}

// ---- calls -----------------------------------------------------------------------

// What is to be known before an operation of bells and the dead. The dead
// stay listed until a sweep that went well has had them.
static dtask_err prepare(shared *at, dti_arena *arena, dti_op *op, size_t *out_dead) {
    if (op->kind == DTI_OP_HELLO) op->hello.lease_us = 0; // deaths are seen here
    if (op->kind != DTI_OP_SWEEP || op->sweep.ndead) return DTASK_OK;
    dtask_err err = DTASK_OK;
    pthread_mutex_lock(&at->bell_lock);
    if (at->ndead) {
        uint64_t *dead = dti_alloc(arena, at->ndead * sizeof *dead);
        if (dead) {
            memcpy(dead, at->dead, at->ndead * sizeof *dead);
            op->sweep.dead = dead;
            op->sweep.ndead = (uint32_t)at->ndead;
            *out_dead = at->ndead;
        } else {
            err = dti_fail(DTASK_ENOMEM, "out of memory for a sweep");
        }
    }
    pthread_mutex_unlock(&at->bell_lock);
    return err;
}

// A sweep has dealt with the first n; what came meanwhile is behind them.
static void forget_dead(shared *at, size_t n) {
    pthread_mutex_lock(&at->bell_lock);
    at->ndead -= n;
    memmove(at->dead, at->dead + n, at->ndead * sizeof *at->dead);
    pthread_mutex_unlock(&at->bell_lock);
}

static void said_bye(shared *at, uint64_t worker) {
    pthread_mutex_lock(&at->bell_lock);
    dti_bell *b;
    LIST_FOREACH(b, &at->bells, entry) {
        if (atomic_load(&b->sleep.worker) == worker) b->left = true;
    }
    pthread_mutex_unlock(&at->bell_lock);
}

static void memory_call(dti_engine *engine, dti_arena *arena, dti_op *ops, size_t n) {
    shared *at = ((memory *)engine)->at;
    if (at->forks != dti_forks()) {
        for (size_t i = 0; i < n; i++) ops[i].err = dti_forked_error();
        return;
    }
    dti_tx tx = {.arena = arena};
    dti_failure failure = {0};
    pthread_mutex_lock(&at->lock);
    for (size_t i = 0; i < n; i++) {
        tx.now = dti_wall_us();
        size_t ndead = 0;
        ops[i].err = prepare(at, arena, &ops[i], &ndead);
        if (!ops[i].err) {
            dti_memory_store_begin(at->store);
            ops[i].err = dti_run_op(at->store, &tx, &ops[i]);
            if (ops[i].err) dti_memory_store_rollback(at->store);
            else dti_memory_store_commit(at->store);
            if (!ops[i].err && ndead) forget_dead(at, ndead);
        }
        if (ops[i].err) dti_note_failure(&failure);
    }
    pthread_mutex_unlock(&at->lock);
    for (size_t i = 0; i < n; i++) {
        if (ops[i].kind == DTI_OP_HELLO && ops[i].hello.bye && !ops[i].err) said_bye(at, ops[i].hello.worker);
    }
    if (dti_fx_any(&tx.fx)) {
        pthread_mutex_lock(&at->bell_lock);
        dti_bell *b;
        LIST_FOREACH(b, &at->bells, entry) {
            if (dti_sleep_take(&b->sleep, &tx.fx)) ring(b);
        }
        pthread_mutex_unlock(&at->bell_lock);
    }
    dti_tell_failure(&failure);
}

const dti_engine_ops dti_memory_engine = {
    .schemes = "memory",
    .open = memory_open,
    .close = memory_close,
    .call = memory_call,
    .bell_open = memory_bell_open,
    .bell_close = memory_bell_close,
    .bell_fd = memory_bell_fd,
    .bell_asleep = memory_bell_asleep,
    .bell_awake = memory_bell_awake,
    .bell_beat = memory_bell_beat,
    .bell_runs = memory_bell_runs,
    .hungry = memory_hungry,
    .bell_ring = ring,
};
