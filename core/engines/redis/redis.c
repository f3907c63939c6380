// redis: the model in a script on a server that many machines share. This
// file is the seam: open and close, operations to bytes and back.
//
// Guaranteed: an operation is atomic; a call returns when the server has done
// it (what of that outlives the server is the server's to say: its append-only
// file, its replicas). While the server is away calls wait, and are sent again
// where they may have been lost; after engine_timeout, a worker's turn after
// its lease, they end with EENGINE. A server that is full still ends tasks:
// only what needs memory is refused.
#include "engines/redis/redis.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engines/shards/shards.h"

enum { BRIEF_US = 100000 };

// ---- one caller's operations -----------------------------------------------------

static bool growing(const dti_message *m) {
    return m->nchildren > 0;
}

static bool op_grows(const dti_op *op) {
    if (op->kind == DTI_OP_START || op->kind == DTI_OP_POST || op->kind == DTI_OP_INTAKE) return true;
    if (op->kind != DTI_OP_TURN) return false;
    for (uint32_t i = 0; i < op->turn.nmessages; i++)
        if (growing(&op->turn.messages[i])) return true;
    return false;
}

static void put_op(dti_redis *r, dti_redis_call *c, const dti_op *op, dti_buf *scratch) {
    // The thread has asked for the era as it came up; who asks later must get
    // that, however often the server changes until this arrives.
    if (op->kind == DTI_OP_ERA) dti_redis_put_init(scratch, r->engine.salt, r->shards);
    else dti_redis_put_op(scratch, op);
    dti_redis_put_wire(c, scratch);
    c->turns |= op->kind == DTI_OP_TURN;
    c->brief |= op->kind == DTI_OP_READ && op->read.brief;
}

static dtask_err too_late(dti_redis *r, int64_t waited) { // under lock
    char host[300];
    dti_redis_host_show(r->up ? &r->server.host : &r->target.url.hosts[0], host, sizeof host);
    return dti_fail(DTASK_EENGINE, "Redis at %s did not answer for %.1f s (%s)", host, (double)waited / 1e6,
        *r->last ? r->last : r->up ? "it took the call, and is slow or stopped" : "there is no connection yet");
}

// Sends it and waits. The call is the caller's again, unless it came too late.
static dtask_err exchange(dti_redis *r, dti_redis_call *c, bool *ours) {
    int64_t most = c->brief ? BRIEF_US : c->turns ? r->lease_us : r->timeout_us;
    int64_t from = dti_mono_us(), until = from + (most < r->timeout_us ? most : r->timeout_us);
    struct timespec ts = {until / 1000000, until % 1000000 * 1000};
    dtask_err err = DTASK_OK;
    *ours = true;
    pthread_mutex_lock(&r->lock);
    dti_redis_enqueue(r, c, true);
    while (c->state != DTI_REDIS_DONE && !err) {
        if (!pthread_cond_timedwait(&c->news, &r->lock, &ts) || c->state == DTI_REDIS_DONE) continue;
        err = too_late(r, dti_mono_us() - from);
        if (c->state == DTI_REDIS_QUEUED) STAILQ_REMOVE(&r->queue, c, dti_redis_call, entry);
        else c->left = true, *ours = false;
    }
    pthread_mutex_unlock(&r->lock);
    return err;
}

static void fail_ops(dti_op *ops, size_t n, dtask_err err) {
    for (size_t i = 0; i < n; i++) ops[i].err = err;
}

// An era that was refused though it is the shard's: another server answered,
// or another client saw it change before we did.
static void doubt(dti_redis *r, const dti_op *op) {
    if (op->kind != DTI_OP_TURN || op->err || op->turn.status != DTI_TURN_ERA) return;
    pthread_mutex_lock(&r->lock);
    if (op->turn.era == atomic_load(&r->engine.era) && r->up) {
        r->doubt = true;
        dti_redis_wake(r);
    }
    pthread_mutex_unlock(&r->lock);
}

static void take(dti_redis *r, dti_arena *arena, dtask_str replies, dti_op *ops, size_t n, dti_failure *failure) {
    dti_redis_answer a = {.replies = dti_mp_of(replies), .nreplies = (uint32_t)n};
    for (size_t i = 0; i < n; i++) {
        dti_op *op = &ops[i];
        uint64_t salt;
        unsigned shards;
        if (op->kind == DTI_OP_ERA) op->err = dti_redis_take_init(&a, &salt, &op->era.era, &shards);
        else dti_redis_take_reply(arena, &a, op);
        if (op->kind == DTI_OP_SWEEP && !op->err && op->sweep.next < INT64_MAX / 2) op->sweep.next -= atomic_load(&r->ahead_us);
        if (op->err) dti_note_failure(failure);
        doubt(r, op);
    }
}

// Runs the ops in one call. False: the server is full, and nothing was done.
static bool run(dti_redis *r, dti_arena *arena, dti_op *ops, size_t n, bool grows, dti_failure *failure) {
    dti_redis_call *c = calloc(1, sizeof *c);
    dti_buf scratch = {0};
    bool ours = true, full = false;
    dtask_err err = c ? DTASK_OK : dti_fail(DTASK_ENOMEM, "out of memory for a call");
    if (c) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&c->news, &attr);
        pthread_condattr_destroy(&attr);
        c->grows = grows;
        for (size_t i = 0; i < n; i++) put_op(r, c, &ops[i], &scratch);
        dti_buf_done(&scratch);
        err = c->wire.failed ? dti_fail(DTASK_ENOMEM, "out of memory for a call") : exchange(r, c, &ours);
    }
    if (!err && ours) {
        full = c->full && grows;
        if (c->err) err = dti_fail(c->err, "%s", c->text);
    }
    if (!err) {
        dtask_str replies = dti_dup(arena, dti_str(c->replies, c->nreplies));
        if (replies.p) take(r, arena, replies, ops, n, failure);
        else err = dti_fail(DTASK_ENOMEM, "out of memory for an answer of Redis");
    }
    if (err && !full) {
        fail_ops(ops, n, err);
        dti_note_failure(failure);
    }
    if (c && ours) dti_redis_call_free(c);
    return !full;
}

// ---- a server that is full ---------------------------------------------------------

static dtask_err full_error(dti_redis *r) {
    pthread_mutex_lock(&r->lock);
    char host[300];
    dti_redis_host_show(&r->server.host, host, sizeof host);
    unsigned long long most = r->server.maxmemory;
    pthread_mutex_unlock(&r->lock);
    return dti_fail(DTASK_EENGINE, "Redis at %s is full (maxmemory is %llu MiB): raise it, or wait until jobs have ended and are removed",
        host, most >> 20);
}

// The turn without what needs memory, and without what the same tasks say
// behind it, which would come out of turn; those are answered as full.
static bool run_lean_turn(dti_redis *r, dti_arena *arena, dti_op *op, dti_failure *failure) {
    dti_turn *t = &op->turn;
    uint32_t n = t->nmessages, kept = 0;
    dti_message *messages = dti_alloc(arena, (n + 1) * sizeof *messages);
    uint32_t *places = dti_alloc(arena, (n + 1) * sizeof *places);
    dti_answer *answers = dti_alloc0(arena, (n + 1) * sizeof *answers);
    if (!messages || !places || !answers) return false;
    for (uint32_t i = 0; i < n; i++) {
        const dti_message *m = &t->messages[i];
        bool out = growing(m);
        for (uint32_t k = 0; k < i && !out; k++)
            out = answers[k].status == DTI_FULL && t->messages[k].job == m->job && t->messages[k].ord == m->ord;
        if (out) answers[i].status = DTI_FULL;
        else places[kept] = i, messages[kept++] = *m;
    }
    dti_op lean = *op;
    lean.turn.messages = messages;
    lean.turn.nmessages = kept;
    run(r, arena, &lean, 1, false, failure);
    for (uint32_t i = 0; i < kept && !lean.err && lean.turn.status == DTI_TURN_OK; i++) answers[places[i]] = lean.turn.answers[i];
    lean.turn.messages = t->messages;
    lean.turn.nmessages = n;
    lean.turn.answers = answers;
    *op = lean;
    return true;
}

static void run_lean(dti_redis *r, dti_arena *arena, dti_op *ops, size_t n, dti_failure *failure) {
    for (size_t i = 0; i < n; i++) {
        dti_op *op = &ops[i];
        if (!op_grows(op)) {
            run(r, arena, op, 1, false, failure);
        } else if (op->kind != DTI_OP_TURN) {
            op->err = full_error(r);
            dti_note_failure(failure);
        } else if (!run_lean_turn(r, arena, op, failure)) {
            op->err = dti_fail(DTASK_ENOMEM, "out of memory for a turn");
            dti_note_failure(failure);
        }
    }
}

static void redis_call(dti_engine *engine, dti_arena *arena, dti_op *ops, size_t n) {
    dti_redis *r = (dti_redis *)engine;
    dti_failure failure = {0};
    if (r->forks != dti_forks()) {
        fail_ops(ops, n, dti_forked_error());
        return;
    }
    for (size_t at = 0, some; at < n; at += some) {
        bool grows = false;
        some = n - at < DTI_REDIS_OPS_MAX ? n - at : DTI_REDIS_OPS_MAX;
        for (size_t i = 0; i < some; i++) grows |= op_grows(&ops[at + i]);
        if (!run(r, arena, ops + at, some, grows, &failure)) run_lean(r, arena, ops + at, some, &failure);
    }
    dti_tell_failure(&failure);
}

static bool redis_hungry(dti_engine *engine, dti_bell *self, uint32_t type) {
    dti_redis *r = (dti_redis *)engine;
    (void)self;                  // the script leaves out who asks
    return atomic_load_explicit(&r->hungry[type / 64 % DTI_REDIS_HUNGRY], memory_order_relaxed) >> (type & 63) & 1;
}

static void bell_beat(dti_bell *b) {
    (void)b;                     // a turn is the sign of life
}

static void bell_runs(dti_bell *b, unsigned i, uint64_t job, uint32_t ord) {
    (void)b, (void)i, (void)job, (void)ord; // nobody could read it of a worker that died
}

// A look and a bell: all that will be asked of the server's user was asked.
static dtask_err about(dti_engine *engine, dti_buf *out) {
    dti_redis *r = (dti_redis *)engine;
    dti_arena arena = {0};
    dti_bell *bell;
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPES, .limit = 1}};
    dtask_err err = dti_engine_call(engine, &arena, &op);
    dti_arena_done(&arena);
    if (!err) err = dti_redis_bell_open(engine, 0, &bell);
    if (err) return err;
    dti_redis_bell_close(bell);
    pthread_mutex_lock(&r->lock);
    dti_redis_server s = r->server;
    pthread_mutex_unlock(&r->lock);
    char host[300];
    dti_redis_host_show(&s.host, host, sizeof host);
    dti_mp_put_map(out, 7);
    const char *texts[] = {"address", host, "version", s.version, "policy", s.policy, "persistence", s.persistence};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) dti_mp_put_strz(out, texts[i]);
    dti_mp_put_strz(out, "maxmemory");
    dti_mp_put_uint(out, s.maxmemory);
    dti_mp_put_strz(out, "used_memory");
    dti_mp_put_uint(out, s.used);
    dti_mp_put_strz(out, "clock_ahead_us");
    dti_mp_put_int(out, s.ahead_us);
    return DTASK_OK;
}

// ---- open and close -------------------------------------------------------------------

static const char *given(const char *text) {
    return text && *text ? text : NULL;
}

static void release(dti_redis *r) {
    dti_redis_call *c;
    while ((c = STAILQ_FIRST(&r->queue))) {
        STAILQ_REMOVE_HEAD(&r->queue, entry);
        dti_redis_call_free(c);
    }
    dti_redis_bells_free(r);
    if (r->wake_fd >= 0) close(r->wake_fd);
    if (r->cancel_fd >= 0) close(r->cancel_fd);
    if (r->target.tls) SSL_CTX_free(r->target.tls);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->moved);
    explicit_bzero(r->target.url.password, sizeof r->target.url.password);
    free(r);
}

static dtask_err prepare(dti_redis *r, const dti_engine_conf *conf) {
    const char *prefix = given(conf->prefix);
    dtask_err err = dti_redis_url_parse(conf->url, &r->target.url);
    if (err) return err;
    if (r->target.url.tls) {
        if ((err = dti_redis_tls_new(given(conf->tls_ca), given(conf->tls_cert), given(conf->tls_key), &r->target.tls))) return err;
    } else if (given(conf->tls_ca) || given(conf->tls_cert) || given(conf->tls_key)) {
        return dti_fail(DTASK_EARGS, "tls_ca, tls_cert and tls_key are for TLS, and the URL asks for none: write rediss://");
    }
    if (prefix && strspn(prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != strlen(prefix))
        return dti_fail(DTASK_EARGS, "the option prefix is \"%.64s\", and may have a-z A-Z 0-9 _ . - only", prefix);
    // An app's name has no colon, so no two pairs of prefix and app are one.
    snprintf(r->target.tag, sizeof r->target.tag, "%s%s%s.%u", prefix ? prefix : "", prefix ? ":" : "", conf->app, r->shard);
    snprintf(r->key, sizeof r->key, "{%s}", r->target.tag);
    snprintf(r->target.name, sizeof r->target.name, "dynatask:%.100s", conf->app);
    if (r->wake_fd < 0 || r->cancel_fd < 0)
        return dti_fail(DTASK_EENGINE, "no descriptor for Redis (%s): raise the process's limit of open files", strerror(errno));
    return DTASK_OK;
}

static void stop(dti_redis *r) {
    uint64_t one = 1;
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    dti_redis_wake(r);
    while (write(r->cancel_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
}

// The first connection is made at once or not at all, so that a wrong URL is
// said soon; only a server that says it will be ready is waited for.
static dtask_err first_time(dti_redis *r) {
    int64_t until = dti_mono_us() + r->timeout_us;
    struct timespec ts = {until / 1000000, until % 1000000 * 1000};
    int late = 0;
    pthread_mutex_lock(&r->lock);
    while (!r->up && (!r->attempts || r->soon) && !late) late = pthread_cond_timedwait(&r->moved, &r->lock, &ts);
    dtask_err err = r->up ? DTASK_OK : r->attempts ? dti_fail(r->last_err, "%s", r->last) : too_late(r, r->timeout_us);
    pthread_mutex_unlock(&r->lock);
    return err;
}

// Opens shard k; first: it is the first of them, else it is to be one of as
// many, with the same salt. Whether its server is there, first_time says.
static dtask_err begin(const dti_engine_conf *conf, unsigned k, const dti_redis *first, dti_redis **out) {
    dti_redis *r = calloc(1, sizeof *r);
    if (!r) return dti_fail(DTASK_ENOMEM, "out of memory for an engine");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->moved, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&r->lock, NULL);
    STAILQ_INIT(&r->queue);
    STAILQ_INIT(&r->flights);
    LIST_INIT(&r->bells);
    extern const dti_engine_ops dti_redis_engine;
    r->engine.ops = &dti_redis_engine;
    r->forks = dti_forks();
    r->id = dti_random64();
    r->shard = k;
    r->shards = first ? first->shards : 0;
    r->engine.salt = first ? first->engine.salt : 0;
    r->one_shard = conf->one_shard;
    r->timeout_us = conf->timeout_us;
    r->lease_us = conf->lease_us;
    r->tell = conf->tell;
    r->line.fd = r->ear.fd = -1;
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dtask_err err = prepare(r, conf);
    if (err) return release(r), err;
    // It takes no signals, and a lost connection is an error, not a SIGPIPE.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&r->thread, NULL, dti_redis_main, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        release(r);
        return dti_fail(DTASK_ENOMEM, "no thread can be made for Redis: %s", strerror(failed));
    }
    *out = r;
    return DTASK_OK;
}

static dtask_err redis_open(const dti_engine_conf *conf, dti_engine **out) {
    dti_redis *all[DTI_SHARDS_MAX];
    unsigned n = 0;
    dtask_err err = begin(conf, 0, NULL, &all[0]);
    if (err) return err;
    err = first_time(all[n++]);
    unsigned shards = all[0]->shards;
    if (!err && conf->one_shard && shards > 1)
        err = dti_fail(DTASK_EUSAGE, "The app %s lies in %u shards of a Redis Cluster, and here all must lie in one: take another name.", conf->app, shards);
    while (!err && n < shards)
        if (!(err = begin(conf, n, all[0], &all[n]))) n++;
    for (unsigned k = 1; k < n && !err; k++) err = first_time(all[k]);
    if (err) {
        char why[DTI_REDIS_TEXT];
        snprintf(why, sizeof why, "%s", dtask_err_detail());
        while (n) {
            stop(all[--n]);
            release(all[n]);
        }
        return dti_fail(err, "%s", why);
    }
    *out = &all[0]->engine;
    if (n == 1) return DTASK_OK;
    dti_engine *engines[DTI_SHARDS_MAX];
    for (unsigned k = 0; k < n; k++) engines[k] = &all[k]->engine;
    return dti_shards_new(engines, n, out);
}

static void redis_close(dti_engine *engine) {
    dti_redis *r = (dti_redis *)engine;
    if (r->forks != dti_forks()) return; // thread, connections and memory are the parent's
    stop(r);
    release(r);
}

const dti_engine_ops dti_redis_engine = {
    .schemes = "redis rediss redis+cluster rediss+cluster redis+sentinel rediss+sentinel",
    .open = redis_open,
    .close = redis_close,
    .call = redis_call,
    .bell_open = dti_redis_bell_open,
    .bell_close = dti_redis_bell_close,
    .bell_fd = dti_redis_bell_fd,
    .bell_asleep = dti_redis_bell_asleep,
    .bell_await = dti_redis_bell_await,
    .bell_news = dti_redis_bell_news,
    .bell_awake = dti_redis_bell_awake,
    .bell_beat = bell_beat,
    .bell_runs = bell_runs,
    .hungry = redis_hungry,
    .bell_ring = dti_redis_bell_ring,
    .about = about,
};
