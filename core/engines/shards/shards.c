// The seam: see shards.h.
#include "engines/shards/shards.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/msgpack.h"
#include "engines/run.h"

// ---- which shard -----------------------------------------------------------------------

unsigned dti_shards_of_id(const dti_shards *s, dtask_str id) {
    size_t n = 0;
    while (n < id.n && id.p[n] != '/' && id.p[n] != '!' && id.p[n] != '@') n++;
    return (unsigned)(dti_hash128(id.p, n, 0).h[0] % s->n);
}

// Of a declaration, a list, or a type: no shard alone.
static bool spans(const dti_op *op) {
    switch (op->kind) {
    case DTI_OP_HELLO: return !op->hello.bye && !op->hello.name.n;
    case DTI_OP_MARK: return !op->mark.id.n;
    case DTI_OP_READ:
        return op->read.what == DTI_READ_TYPE || op->read.what == DTI_READ_TYPES || op->read.what == DTI_READ_JOBS ||
            op->read.what == DTI_READ_WORKERS;
    default: return false;
    }
}

static unsigned shard_of(const dti_shards *s, const dti_op *op) {
    switch (op->kind) {
    case DTI_OP_START: return dti_shards_of_id(s, op->start.id);
    case DTI_OP_HELLO: return op->hello.bye ? dti_shard_of(op->hello.worker) : op->shard;
    case DTI_OP_TURN: return dti_shard_of(op->turn.worker);
    case DTI_OP_READ: return op->read.job ? dti_shard_of(op->read.job) : dti_shards_of_id(s, op->read.id);
    case DTI_OP_POST: return dti_shards_of_id(s, op->post.id);
    case DTI_OP_MARK: return dti_shards_of_id(s, op->mark.id);
    case DTI_OP_SWEEP:
    case DTI_OP_ERA: return op->shard;
    case DTI_OP_INTAKE:
    case DTI_OP_DONE: break;       // Kafka's store is one shard
    }
    return s->n;
}

// ---- calls -----------------------------------------------------------------------------

static dtask_err run_in(dti_shards *s, dti_arena *arena, unsigned k, dti_op *op) {
    dti_op in;
    dtask_err err = dti_shards_put(s, arena, k, op, &in);
    if (!err) {
        s->of[k]->ops->call(s->of[k], arena, &in, 1);
        err = dti_shards_take(s, arena, k, &in, op);
    }
    return op->err = err;
}

static bool refused(const dti_hello *h) {
    for (uint32_t i = 0; i < h->ntypes; i++)
        if (h->types[i].refused) return true;
    return false;
}

static dtask_err run_all(dti_shards *s, dti_arena *arena, dti_op *op) {
    if (op->kind == DTI_OP_READ) return op->err = dti_shards_list(s, arena, &op->read);
    int marked = DTI_MARK_NONE;
    for (unsigned k = 0; k < s->n; k++) {
        if (run_in(s, arena, k, op)) return op->err;
        // The first shard decides what a type's signature is.
        if (op->kind == DTI_OP_HELLO && refused(&op->hello)) return DTASK_OK;
        if (op->kind == DTI_OP_MARK && op->mark.status != DTI_MARK_NONE) marked = (int)op->mark.status;
    }
    if (op->kind == DTI_OP_MARK) op->mark.status = marked;
    return DTASK_OK;
}

static void fail_ops(dti_op *ops, size_t n, dtask_err err) {
    for (size_t i = 0; i < n; i++) ops[i].err = err;
}

// Operations of which each has its shard: a call for each shard, in order.
static void run_each(dti_shards *s, dti_arena *arena, dti_op *ops, size_t n, dti_failure *failure) {
    dti_op *in = dti_alloc(arena, n * sizeof *in);
    size_t *place = dti_alloc(arena, n * sizeof *place);
    uint8_t *where = dti_alloc(arena, n);
    if (!in || !place || !where) {
        fail_ops(ops, n, dti_fail(DTASK_ENOMEM, "out of memory for a call"));
        dti_note_failure(failure);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned k = shard_of(s, &ops[i]);
        where[i] = (uint8_t)(k < s->n ? k : s->n);
        if (k < s->n) continue;
        ops[i].err = dti_fail(DTASK_ENOTFOUND, "there is no shard %u: the app has %u", k, s->n);
        dti_note_failure(failure);
    }
    for (unsigned k = 0; k < s->n; k++) {
        size_t m = 0;
        for (size_t i = 0; i < n; i++) {
            if (where[i] != k) continue;
            if (!(ops[i].err = dti_shards_put(s, arena, k, &ops[i], &in[m]))) place[m++] = i;
            else dti_note_failure(failure);
        }
        if (!m) continue;
        s->of[k]->ops->call(s->of[k], arena, in, m);
        for (size_t i = 0; i < m; i++)
            if (in[i].err) dti_note_failure(failure);
        for (size_t i = 0; i < m; i++)
            if (dti_shards_take(s, arena, k, &in[i], &ops[place[i]]) && !in[i].err) dti_note_failure(failure);
    }
}

// Changes when that of a shard does.
static void note_era(dti_shards *s) {
    uint64_t sum = 0;
    for (unsigned k = 0; k < s->n; k++) sum += atomic_load(&s->of[k]->era);
    atomic_store(&s->engine.era, sum);
}

static void shards_call(dti_engine *engine, dti_arena *arena, dti_op *ops, size_t n) {
    dti_shards *s = (dti_shards *)engine;
    dti_failure failure = {0};
    if (s->forks != dti_forks()) {
        fail_ops(ops, n, dti_forked_error());
        return;
    }
    for (size_t i = 0, to; i < n; i = to) {
        to = i + 1;
        if (spans(&ops[i])) {
            if (run_all(s, arena, &ops[i])) dti_note_failure(&failure);
            continue;
        }
        while (to < n && !spans(&ops[to])) to++;
        run_each(s, arena, ops + i, to - i, &failure);
    }
    note_era(s);
    dti_tell_failure(&failure);
}

// ---- bells -------------------------------------------------------------------------------
// A worker's is that of its one shard. A client's has one in each shard in
// which it waited so far, and one descriptor for all.

typedef struct {
    dti_shards *at;
    dti_bell *of[DTI_SHARDS_MAX]; // the shards'
    unsigned shard;              // a worker's; a client's: where it waits
    bool worker;
    int fd, own;                 // a client's: all of them, and what rings it here
} bell;

static bell *of(dti_bell *b) {
    return (bell *)b;
}

static const dti_engine_ops *ops_of(const bell *b) {
    return b->at->of[b->shard]->ops;
}

static void bell_close(dti_bell *handle) {
    bell *b = of(handle);
    for (unsigned k = 0; k < b->at->n; k++)
        if (b->of[k]) b->at->of[k]->ops->bell_close(b->of[k]);
    if (b->fd >= 0) close(b->fd);
    if (b->own >= 0) close(b->own);
    free(b);
}

static bool hears(bell *b, int fd) {
    struct epoll_event e = {.events = EPOLLIN};
    return fd >= 0 && !epoll_ctl(b->fd, EPOLL_CTL_ADD, fd, &e);
}

static dtask_err bell_open(dti_engine *engine, uint64_t worker, dti_bell **out) {
    dti_shards *s = (dti_shards *)engine;
    if (s->forks != dti_forks()) return dti_forked_error();
    bell *b = calloc(1, sizeof *b);
    if (!b) return dti_fail(DTASK_ENOMEM, "out of memory for a bell");
    *b = (bell){.at = s, .shard = dti_shard_of(worker), .worker = worker, .fd = -1, .own = -1};
    dtask_err err = DTASK_OK;
    if (worker) {
        err = b->shard < s->n ? s->of[b->shard]->ops->bell_open(s->of[b->shard], dti_shards_inner(worker), &b->of[b->shard])
                              : dti_fail(DTASK_ENOTFOUND, "there is no shard %u: the app has %u", b->shard, s->n);
    } else {
        b->fd = epoll_create1(EPOLL_CLOEXEC);
        b->own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (b->fd < 0 || !hears(b, b->own))
            err = dti_fail(DTASK_EENGINE, "no descriptor for a bell (%s): raise the process's limit of open files", strerror(errno));
    }
    if (err) bell_close((dti_bell *)b);
    else *out = (dti_bell *)b;
    return err;
}

static int bell_fd(dti_bell *handle) {
    bell *b = of(handle);
    return b->worker ? ops_of(b)->bell_fd(b->of[b->shard]) : b->fd;
}

// The client's bell in a shard; NULL: none can be had, and who waits looks by
// itself, once a second.
static dti_bell *bell_in(bell *b, unsigned k) {
    dti_engine *e = b->at->of[k];
    if (b->of[k] || e->ops->bell_open(e, 0, &b->of[k])) return b->of[k];
    if (hears(b, e->ops->bell_fd(b->of[k]))) return b->of[k];
    e->ops->bell_close(b->of[k]);
    return b->of[k] = NULL;
}

static void bell_awake(dti_bell *handle) {
    bell *b = of(handle);
    uint64_t n;
    if (b->of[b->shard]) ops_of(b)->bell_awake(b->of[b->shard]);
    while (b->own >= 0 && read(b->own, &n, sizeof n) < 0 && errno == EINTR) {
    }
}

// The client's bell in the shard of this job, its only one from now on.
static dti_bell *bell_for(bell *b, const dti_awaited *end) {
    unsigned k = end ? dti_shards_of_id(b->at, end->id) : 0;
    if (k != b->shard) bell_awake((dti_bell *)b);
    b->shard = k;
    return bell_in(b, k);
}

static bool bell_await(dti_bell *handle, const dti_awaited *end) {
    bell *b = of(handle);
    if (b->at->forks != dti_forks() || !bell_for(b, end)) return false;
    return ops_of(b)->bell_await && ops_of(b)->bell_await(b->of[b->shard], end);
}

static bool bell_news(dti_bell *handle, dti_arena *arena, dti_op *read) {
    bell *b = of(handle);
    dti_op in = *read;
    if (b->at->forks != dti_forks() || !b->of[b->shard] || !ops_of(b)->bell_news) return false;
    return ops_of(b)->bell_news(b->of[b->shard], arena, &in) && !dti_shards_take(b->at, arena, b->shard, &in, read);
}

static void bell_asleep(dti_bell *handle, const uint32_t *types, size_t n, const dti_awaited *end) {
    bell *b = of(handle);
    dti_shards *s = b->at;
    if (s->forks != dti_forks()) return;
    if (!b->worker) {
        dti_bell *own = bell_for(b, end);
        if (!own) return;
        if (!end) {
            ops_of(b)->bell_asleep(own, NULL, 0, NULL);
            return;
        }
        // That of a task is made of its job's number, here the one in the shard.
        dti_awaited inside = *end;
        dtask_str job;
        uint32_t ord;
        if (dti_id_split(end->id, &job, &ord) && ord) inside.hash.h[0] = dti_shards_inner(end->hash.h[0]);
        ops_of(b)->bell_asleep(own, NULL, 0, &inside);
        return;
    }
    dti_arena arena = {0};
    uint32_t *inner = dti_alloc(&arena, (n + 1) * sizeof *inner);
    size_t m = 0;
    for (size_t i = 0; i < n && inner; i++)
        if ((inner[m] = dti_shards_type_in(s, &arena, b->shard, types[i]))) m++;
    ops_of(b)->bell_asleep(b->of[b->shard], inner, m, end);
    dti_arena_done(&arena);
}

static void bell_beat(dti_bell *handle) {
    bell *b = of(handle);
    if (b->of[b->shard]) ops_of(b)->bell_beat(b->of[b->shard]);
}

static void bell_runs(dti_bell *handle, unsigned i, uint64_t job, uint32_t ord) {
    bell *b = of(handle);
    if (b->worker) ops_of(b)->bell_runs(b->of[b->shard], i, dti_shards_inner(job), ord);
}

static void bell_ring(dti_bell *handle) {
    bell *b = of(handle);
    uint64_t one = 1;
    if (b->worker) ops_of(b)->bell_ring(b->of[b->shard]);
    else
        while (write(b->own, &one, sizeof one) < 0 && errno == EINTR) {
        }
}

static bool hungry(dti_engine *engine, dti_bell *self, uint32_t type) {
    dti_shards *s = (dti_shards *)engine;
    bell *b = of(self);
    uint32_t inner = 0;
    pthread_mutex_lock(&s->lock);
    if (type && type <= s->ntypes) inner = s->types[type - 1]->no[b->shard];
    pthread_mutex_unlock(&s->lock);
    return inner && ops_of(b)->hungry(s->of[b->shard], b->of[b->shard], inner);
}

// Each shard's server is asked; what is said is of the first's, and how many shards.
static dtask_err about(dti_engine *engine, dti_buf *out) {
    dti_shards *s = (dti_shards *)engine;
    dtask_err err = DTASK_OK;
    dti_buf first = {0};
    for (unsigned k = 0; k < s->n && !err && s->of[k]->ops->about; k++) {
        dti_buf one = {0};
        err = s->of[k]->ops->about(s->of[k], &one);
        if (k) dti_buf_done(&one);
        else first = one;
    }
    dti_mp at = dti_mp_of(dti_str(first.p, first.n));
    dti_mpval head = {.kind = DTI_MP_MAP};
    if (!err && first.n && (!dti_mp_next(&at, &head) || head.kind != DTI_MP_MAP)) err = dti_fail(DTASK_EENGINE, "a shard told nothing about itself");
    if (!err) {
        dti_mp_put_map(out, head.n + 1);
        if (first.n) dti_mp_put_raw(out, dti_str(at.p, (size_t)(at.end - at.p)));
        dti_mp_put_strz(out, "shards");
        dti_mp_put_uint(out, s->n);
    }
    dti_buf_done(&first);
    return err;
}

// ---- open and close ------------------------------------------------------------------------

static void shards_close(dti_engine *engine) {
    dti_shards *s = (dti_shards *)engine;
    for (unsigned k = 0; k < s->n; k++) s->of[k]->ops->close(s->of[k]);
    if (s->forks != dti_forks()) return; // the lock may be held by a thread that is not here
    for (size_t i = 0; i < s->ntypes; i++) {
        free(s->types[i]->name);
        free(s->types[i]);
    }
    free(s->types);
    for (unsigned k = 0; k < s->n; k++) free(s->outer[k]);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const dti_engine_ops shards_ops = {
    .close = shards_close,
    .call = shards_call,
    .bell_open = bell_open,
    .bell_close = bell_close,
    .bell_fd = bell_fd,
    .bell_asleep = bell_asleep,
    .bell_await = bell_await,
    .bell_news = bell_news,
    .bell_awake = bell_awake,
    .bell_beat = bell_beat,
    .bell_runs = bell_runs,
    .hungry = hungry,
    .bell_ring = bell_ring,
    .about = about,
};

dtask_err dti_shards_new(dti_engine **engines, unsigned n, dti_engine **out) {
    dti_shards *s = calloc(1, sizeof *s);
    if (!s) {
        for (unsigned k = 0; k < n; k++) engines[k]->ops->close(engines[k]);
        return dti_fail(DTASK_ENOMEM, "out of memory for an engine");
    }
    pthread_mutex_init(&s->lock, NULL);
    s->forks = dti_forks();
    s->n = n;
    memcpy(s->of, engines, n * sizeof *engines);
    s->engine.ops = &shards_ops;
    s->engine.shards = n;
    s->engine.salt = engines[0]->salt;
    s->engine.sees_deaths = engines[0]->sees_deaths;
    note_era(s);
    *out = &s->engine;
    return DTASK_OK;
}
