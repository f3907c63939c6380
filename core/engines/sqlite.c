// sqlite: the model over a file that many processes share. This file runs
// calls; sqlite_file.c opens and closes.
//
// Guaranteed: an operation is atomic; a call returns when what it did is
// committed (durability=full: and synced). Threads of one process that call at
// the same time share a commit: one of them leads, takes the writer lock and
// runs the operations of all, each undone alone if it fails. Processes take
// turns by writer_lock.c. Whoever sleeps for what was committed is rung after
// the commit. Calls that only read take no lock.
//
// A worker's death is seen by its lock byte in the bell file (bell_file.c);
// the next sweep of anybody gives back what it held.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engines/sqlite_file.h"

struct dti_bell {
    dti_sqlite_file *file;
    unsigned slot;
    int fd;
};

enum {
    GATHER_US = 2000,            // a leader goes on taking calls that come for so long
    STRAYS_US = 10000000,        // workers without a slot are looked for so often, and are this old
};

// ---- bells -------------------------------------------------------------------

static dti_sqlite_file *file_of(dti_engine *engine) {
    return ((dti_sqlite_handle *)engine)->file;
}

static dtask_err bell_open(dti_engine *engine, uint64_t worker, dti_bell **out) {
    dti_sqlite_file *f = file_of(engine);
    if (f->forks != dti_forks()) return dti_forked_error();
    dti_bell *b = malloc(sizeof *b);
    if (!b) return dti_fail(DTASK_ENOMEM, "out of memory for a bell");
    b->file = f;
    dtask_err err = dti_slot_take(&f->bell, worker, &b->slot, &b->fd);
    if (err) return free(b), err;
    *out = b;
    return DTASK_OK;
}

static void bell_close(dti_bell *b) {
    if (b->file->forks == dti_forks()) dti_slot_give(&b->file->bell, b->slot, true);
    close(b->fd);
    free(b);
}

static int bell_fd(dti_bell *b) {
    return b->fd;
}

static dti_slot *slot_of(dti_bell *b) {
    return &b->file->bell.slots[b->slot];
}

static void bell_beat(dti_bell *b) {
    if (b->file->forks == dti_forks()) atomic_store(&slot_of(b)->beat, dti_mono_us());
}

static void bell_asleep(dti_bell *b, const uint32_t *types, size_t n, const dti_awaited *end) {
    if (b->file->forks != dti_forks()) return;
    bell_beat(b);
    dti_sleep_for(&slot_of(b)->sleep, types, n, end ? &end->hash : NULL);
}

static void bell_awake(dti_bell *b) {
    if (b->file->forks != dti_forks()) return;
    char rung[16];
    atomic_store(&slot_of(b)->sleep.asleep, DTI_AWAKE);
    bell_beat(b);
    while (recv(b->fd, rung, sizeof rung, MSG_DONTWAIT) >= 0 || errno == EINTR) {
    }
}

static void bell_runs(dti_bell *b, unsigned i, uint64_t job, uint32_t ord) {
    if (b->file->forks != dti_forks() || i >= DTI_BELL_SLOTS) return;
    dti_runs *r = &slot_of(b)->runs[i];
    atomic_store_explicit(&r->job, 0, memory_order_release); // never one's job with another's ord
    atomic_store_explicit(&r->ord, ord, memory_order_release);
    atomic_store_explicit(&r->job, job, memory_order_release);
}

static bool hungry(dti_engine *engine, dti_bell *self, uint32_t type) {
    dti_sqlite_file *f = file_of(engine);
    return f->forks == dti_forks() && dti_bellfile_hungry(&f->bell, self ? self->slot : DTI_SLOTS, type);
}

static void bell_ring(dti_bell *b) {
    if (b->file->forks == dti_forks()) dti_slot_ring(&b->file->bell, b->slot);
}

// ---- sweeping ------------------------------------------------------------------

// Workers that said hello and have no slot: they died before they had one, or
// the bell file is a new one.
static dtask_err find_strays(dti_sqlite_file *f, dti_tx *tx, uint64_t *dead, uint32_t *n, uint32_t max) {
    dti_op read = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_WORKERS, .limit = DTI_SLOTS}};
    dtask_err err = dti_run_op(dti_sqlite_store_of(f->store), tx, &read);
    if (err) return err;
    for (uint32_t i = 0; i < read.read.n && *n < max; i++) {
        const dti_workerrow *w = &read.read.workers[i].row;
        if (!w->dead && tx->now - w->since > STRAYS_US && !dti_bellfile_knows(&f->bell, w->no)) dead[(*n)++] = w->no;
    }
    return DTASK_OK;
}

// Names the dead, and what they were executing, to a sweep.
static dtask_err prepare_sweep(dti_sqlite_file *f, dti_tx *tx, dti_sweep *sweep) {
    dti_corpses *c = &f->corpses;
    dti_bellfile_corpses(&f->bell, c);
    bool strays = tx->now - f->strays_looked > STRAYS_US || tx->now < f->strays_looked;
    if (!c->n && !strays) return DTASK_OK;
    uint32_t n = c->n, max = c->n + DTI_SLOTS, charges = 0;
    uint64_t *dead = dti_alloc(tx->arena, max * sizeof *dead);
    dti_charge *charge = dti_alloc(tx->arena, (size_t)(c->n + 1) * DTI_BELL_SLOTS * sizeof *charge);
    if (!dead || !charge) return dti_fail(DTASK_ENOMEM, "out of memory for a sweep");
    memcpy(dead, c->workers, n * sizeof *dead);
    for (uint32_t i = 0; i < c->n; i++) {
        dti_slot *s = &f->bell.slots[c->slots[i]];
        for (int r = 0; r < DTI_BELL_SLOTS; r++) {
            uint64_t job = atomic_load(&s->runs[r].job);
            if (job) charge[charges++] = (dti_charge){job, atomic_load(&s->runs[r].ord)};
        }
    }
    if (strays) {
        dtask_err err = find_strays(f, tx, dead, &n, max);
        if (err) return err;
        f->strays_looked = tx->now;
    }
    sweep->dead = dead;
    sweep->ndead = n;
    sweep->charge = charge;
    sweep->ncharge = charges;
    return DTASK_OK;
}

// ---- writing ---------------------------------------------------------------------

typedef dti_sqlite_call call;

// One operation of a transaction: kept, or undone. False: the transaction is
// lost, the store's trap_err says why.
static bool run_write(dti_sqlite_file *f, dti_tx *tx, dti_op *op) {
    dti_store *store = dti_sqlite_store_of(f->store);
    bool sweeps = op->kind == DTI_OP_SWEEP && !op->sweep.ndead;
    if (op->kind == DTI_OP_HELLO) op->hello.lease_us = 0; // deaths are seen here
    tx->now = dti_wall_us();
    op->err = sweeps ? prepare_sweep(f, tx, &op->sweep) : DTASK_OK;
    if (!op->err) op->err = dti_run_op(store, tx, op);
    if (!op->err) {
        dti_sqlite_keep(f->store);
        if (sweeps) f->bury = true;
        return true;
    }
    if (sqlite3_get_autocommit(f->db)) return false;
    dti_sqlite_undo(f->store);
    return true;
}

static void check_meta(dti_store *store) {
    size_t n;
    const void *meta = dti_get(store, DTI_T_META, 0, 0, 0, &n);
    dtask_err err = dti_model_check(meta, n);
    if (err) dti_raise(store, err, "%s", dtask_err_detail());
}

// Runs the calls of `all`, and those that join meanwhile, in one transaction.
static dtask_err transact(dti_sqlite_file *f, struct dti_sqlite_calls *all) {
    dti_store *store = dti_sqlite_store_of(f->store);
    jmp_buf trap;
    store->trap = &trap;
    if (setjmp(trap)) return store->trap_err;
    dti_sqlite_begin(f->store, true);
    check_meta(store);
    int64_t until = dti_mono_us() + GATHER_US;
    for (call *c = STAILQ_FIRST(all); c;) {
        dti_tx tx = {.arena = c->arena};
        for (size_t i = 0; i < c->n; i++) {
            if (!run_write(f, &tx, &c->ops[i])) return c->ops[i].err;
            if (c->ops[i].err) dti_note_failure(&c->failure);
        }
        c->fx = tx.fx;
        if (!STAILQ_NEXT(c, entry) && dti_mono_us() < until) {
            pthread_mutex_lock(&f->queue_lock);
            STAILQ_CONCAT(all, &f->queue);
            pthread_mutex_unlock(&f->queue_lock);
        }
        c = STAILQ_NEXT(c, entry);
    }
    dti_sqlite_commit(f->store);
    return DTASK_OK;
}

static void fail_all(struct dti_sqlite_calls *all, dtask_err err) {
    call *c;
    STAILQ_FOREACH(c, all, entry) {
        c->failure = (dti_failure){0};
        dti_note_failure(&c->failure);
        for (size_t i = 0; i < c->n; i++) c->ops[i].err = err;
        c->fx = (dti_effects){0};
    }
}

static dtask_err lock_writer(dti_sqlite_file *f) {
    dtask_err err = dti_bellfile_check(&f->bell);
    if (err) return err;
    int e = dti_writer_lock_take(&f->bell.writer, f->timeout_us);
    if (e == ETIMEDOUT)
        return dti_fail(DTASK_EENGINE,
            "process %u has been writing to %s for more than %.1f s: continue or end it, or raise engine_timeout",
            atomic_load(&f->bell.head->writer), f->path, (double)f->timeout_us / 1e6);
    if (e) return dti_fail(DTASK_EENGINE, "%s cannot be locked (%s): look at the disk", f->bell.path, strerror(e));
    atomic_store(&f->bell.head->writer, (uint32_t)getpid());
    return DTASK_OK;
}

static void lead(dti_sqlite_file *f, struct dti_sqlite_calls *all) {
    dtask_err err = lock_writer(f);
    if (err) {
        fail_all(all, err);
        return;
    }
    f->bury = false;
    err = transact(f, all);
    if (err) {
        fail_all(all, err);
        dti_sqlite_rollback(f->store);
    } else if (f->bury) {
        dti_bellfile_bury(&f->bell, &f->corpses);
    }
    if (!err) dti_sqlite_bound_wal(f, true);
    dti_writer_lock_give(&f->bell.writer);
    call *c;
    STAILQ_FOREACH(c, all, entry) {
        if (dti_fx_any(&c->fx)) dti_bellfile_ring(&f->bell, &c->fx);
        for (size_t i = 0; i < c->n; i++) {
            if (c->ops[i].kind == DTI_OP_HELLO && c->ops[i].hello.bye && !c->ops[i].err) dti_bellfile_left(&f->bell, c->ops[i].hello.worker);
        }
    }
}

// Joins the queue; returns when the call is done, having led if nobody did.
static void join(dti_sqlite_file *f, call *mine) {
    pthread_mutex_lock(&f->queue_lock);
    STAILQ_INSERT_TAIL(&f->queue, mine, entry);
    while (!mine->done && f->leading) pthread_cond_wait(&mine->news, &f->queue_lock);
    if (!mine->done) {
        struct dti_sqlite_calls all = STAILQ_HEAD_INITIALIZER(all);
        f->leading = true;
        STAILQ_CONCAT(&all, &f->queue);
        pthread_mutex_unlock(&f->queue_lock);
        lead(f, &all);
        pthread_mutex_lock(&f->queue_lock);
        for (call *c = STAILQ_FIRST(&all), *next; c; c = next) {
            next = STAILQ_NEXT(c, entry); // a done call is its owner's again
            c->done = true;
            if (c != mine) pthread_cond_signal(&c->news);
        }
        pthread_mutex_unlock(&f->queue_lock);
        dti_sqlite_bound_wal(f, false);
        pthread_mutex_lock(&f->queue_lock);
        f->leading = false;
        call *heir = STAILQ_FIRST(&f->queue);
        if (heir) pthread_cond_signal(&heir->news);
    }
    pthread_mutex_unlock(&f->queue_lock);
}

// ---- reading ---------------------------------------------------------------------

static dtask_err read_with(dti_sqlite_reader *r, dti_tx *tx, dti_op *op) {
    dti_store *store = dti_sqlite_store_of(r->store);
    jmp_buf trap;
    store->trap = &trap;
    if (setjmp(trap)) return store->trap_err;
    dti_sqlite_begin(r->store, false);
    check_meta(store);
    tx->now = dti_wall_us();
    dtask_err err = dti_run_op(store, tx, op);
    if (err) return err;
    dti_sqlite_keep(r->store);
    dti_sqlite_commit(r->store);
    return DTASK_OK;
}

static void read_one(dti_sqlite_file *f, dti_arena *arena, dti_op *op) {
    dti_sqlite_reader *r;
    op->err = dti_sqlite_reader_take(f, &r);
    if (op->err) return;
    dti_tx tx = {.arena = arena};
    if ((op->err = read_with(r, &tx, op))) dti_sqlite_rollback(r->store);
    dti_sqlite_reader_give(f, r);
}

// ---- calls -----------------------------------------------------------------------

static void sqlite_call(dti_engine *engine, dti_arena *arena, dti_op *ops, size_t n) {
    dti_sqlite_file *f = file_of(engine);
    if (f->forks != dti_forks()) {
        for (size_t i = 0; i < n; i++) ops[i].err = dti_forked_error();
        return;
    }
    call c = {.arena = arena};
    size_t reads = 0;
    for (; reads < n && ops[reads].kind == DTI_OP_READ; reads++) {
        read_one(f, arena, &ops[reads]);
        if (ops[reads].err) dti_note_failure(&c.failure);
    }
    if (reads < n) {
        c.ops = ops + reads;
        c.n = n - reads;
        dti_failure earlier = c.failure;
        pthread_cond_init(&c.news, NULL);
        join(f, &c);
        pthread_cond_destroy(&c.news);
        if (earlier.set) c.failure = earlier;
    }
    dti_tell_failure(&c.failure);
}

const dti_engine_ops dti_sqlite_engine = {
    .schemes = "sqlite",
    .open = dti_sqlite_open,
    .close = dti_sqlite_close,
    .call = sqlite_call,
    .bell_open = bell_open,
    .bell_close = bell_close,
    .bell_fd = bell_fd,
    .bell_asleep = bell_asleep,
    .bell_awake = bell_awake,
    .bell_beat = bell_beat,
    .bell_runs = bell_runs,
    .hungry = hungry,
    .bell_ring = bell_ring,
};
