// The I/O thread of a handle. Calls of many threads are queued; while some are
// on their way the next gather, and go as one FCALL.
//
// Guaranteed: what one caller sends is done in its order. A call whose
// connection is lost is sent again on the next one, from its operations, never
// from the old connection's bytes; the model takes a request twice as once. A
// new server is asked who it is before anything else; if it is not the one
// that the shard's era was made under, the era is made anew. A caller waits
// until its time is over, and no longer: that is redis.c's part.
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "engines/redis/redis.h"

enum {
    FLIGHTS_MAX = 3,             // on their way at once
    GATHER_OPS = 128, GATHER_BYTES = 256 * 1024, // in one FCALL; one caller's may be more
    CONNECT_US = 5000000,
    BACKOFF_MIN_US = 20000, BACKOFF_MAX_US = 1000000,
    PAUSE_US = 100000,           // after LOADING, BUSY and their like
    STALLED_US = 5000000,        // without an answer: Sentinels and Clusters are asked anew
};

typedef struct dti_redis_flight {
    STAILQ_ENTRY(dti_redis_flight) entry;
    struct dti_redis_calls calls;
    uint32_t nops;
    bool grows, turns;
    int64_t sent_at;
} flight;

// ---- the queue ----------------------------------------------------------------------

void dti_redis_call_free(dti_redis_call *c) {
    if (!c->bell) pthread_cond_destroy(&c->news);
    dti_buf_done(&c->wire);
    free(c->replies);
    free(c);
}

static void put_bulk(dti_buf *b, const void *p, size_t n) {
    char head[24];
    dti_buf_add(b, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", n));
    dti_buf_add(b, p, n);
    dti_buf_add(b, "\r\n", 2);
}

void dti_redis_put_wire(dti_redis_call *c, dti_buf *op) {
    if (op->failed) c->wire.failed = true;
    put_bulk(&c->wire, op->p, op->n);
    op->n = 0;
    c->nops++;
}

void dti_redis_wake(dti_redis *r) {
    r->called = true;            // it may be about to sleep
    if (!r->sleeps) return;
    uint64_t one = 1;
    r->sleeps = false;
    while (write(r->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

void dti_redis_enqueue(dti_redis *r, dti_redis_call *c, bool wake) {
    c->state = DTI_REDIS_QUEUED;
    STAILQ_INSERT_TAIL(&r->queue, c, entry);
    if (wake) dti_redis_wake(r);
}

// Under lock. It is its caller's again, or nobody's.
static void done(dti_redis_call *c) {
    c->state = DTI_REDIS_DONE;
    if (c->left) dti_redis_call_free(c);
    else pthread_cond_signal(&c->news);
}

static void fail_calls(dti_redis *r, struct dti_redis_calls *calls, dtask_err err, bool full) {
    dti_redis_call *c, *after;
    pthread_mutex_lock(&r->lock);
    for (c = STAILQ_FIRST(calls); c; c = after) {
        after = STAILQ_NEXT(c, entry);
        c->err = err;
        c->full = full;
        snprintf(c->text, sizeof c->text, "%s", dtask_err_detail());
        done(c);
    }
    pthread_mutex_unlock(&r->lock);
    STAILQ_INIT(calls);
}

// Puts calls in front of the queue, as they were. bells: also what bells say,
// which is of no use on another connection.
static void put_back(dti_redis *r, struct dti_redis_calls *calls, bool bells) {
    struct dti_redis_calls keep = STAILQ_HEAD_INITIALIZER(keep);
    dti_redis_call *c, *after;
    pthread_mutex_lock(&r->lock);
    for (c = STAILQ_FIRST(calls); c; c = after) {
        after = STAILQ_NEXT(c, entry);
        if (c->left && !(c->bell && bells)) {
            dti_redis_call_free(c);
            continue;
        }
        c->state = DTI_REDIS_QUEUED;
        STAILQ_INSERT_TAIL(&keep, c, entry);
    }
    STAILQ_CONCAT(&keep, &r->queue);
    STAILQ_CONCAT(&r->queue, &keep);
    pthread_mutex_unlock(&r->lock);
    STAILQ_INIT(calls);
}

static void note(dti_redis *r, dtask_err err) { // under lock
    r->last_err = err;
    snprintf(r->last, sizeof r->last, "%s", dtask_err_detail());
}

static flight *pop_flight(dti_redis *r) {
    flight *f = STAILQ_FIRST(&r->flights);
    if (!f) return NULL;
    STAILQ_REMOVE_HEAD(&r->flights, entry);
    r->nflights--;
    return f;
}

// The connection is over; the thread's detail says why.
static void go_down(dti_redis *r) {
    struct dti_redis_calls all = STAILQ_HEAD_INITIALIZER(all);
    pthread_mutex_lock(&r->lock);
    note(r, DTASK_EENGINE);
    r->up = r->doubt = false;
    pthread_mutex_unlock(&r->lock);
    r->lost_at = dti_mono_us();
    dti_redis_disconnect(&r->line);
    dti_redis_bells_deaf(r);
    for (flight *f; (f = pop_flight(r)); free(f)) STAILQ_CONCAT(&all, &f->calls);
    put_back(r, &all, false);
}

// ---- sending --------------------------------------------------------------------------

// The head of one call of the function; its operations follow.
static void say_function(dti_redis *r, bool grows, uint32_t nops) {
    dti_buf *out = &r->line.out, header = {0};
    const char *name = grows ? dti_redis_function : dti_redis_function_oom;
    char head[32];
    dti_buf_add(out, head, (size_t)snprintf(head, sizeof head, "*%u\r\n", 5 + nops));
    put_bulk(out, "FCALL", 5);
    put_bulk(out, name, strlen(name));
    put_bulk(out, "1", 1);
    put_bulk(out, r->key, strlen(r->key));
    dti_redis_put_header(&header, 0, dti_str(r->server.run_id, strlen(r->server.run_id)), 0);
    if (header.failed) out->failed = true;
    put_bulk(out, header.p, header.n);
    dti_buf_done(&header);
}

// Takes what goes together from the head of the queue. NULL: nothing.
static flight *gather(dti_redis *r) {
    flight *f = NULL;
    size_t bytes = 0;
    bool bound = false;
    pthread_mutex_lock(&r->lock);
    for (dti_redis_call *c; (c = STAILQ_FIRST(&r->queue));) {
        if (!f) {
            if (!(f = calloc(1, sizeof *f))) {
                r->pause_until = dti_mono_us() + PAUSE_US; // there may be memory then
                break;
            }
            STAILQ_INIT(&f->calls);
        }
        if (f->nops && (f->nops + c->nops > GATHER_OPS || bytes + c->wire.n > GATHER_BYTES)) break;
        if (!c->bell && bound && c->grows != f->grows) break;
        STAILQ_REMOVE_HEAD(&r->queue, entry);
        if (!c->bell) bound = true, f->grows = c->grows;
        STAILQ_INSERT_TAIL(&f->calls, c, entry);
        c->state = DTI_REDIS_FLYING;
        f->nops += c->nops;
        f->turns |= c->turns;
        bytes += c->wire.n;
    }
    pthread_mutex_unlock(&r->lock);
    return f;
}

static void send_queue(dti_redis *r, int64_t now) {
    if (now < r->pause_until) return;
    while (r->nflights < FLIGHTS_MAX) {
        flight *f = gather(r);
        if (!f) return;
        say_function(r, f->grows, f->nops);
        dti_redis_call *c;
        STAILQ_FOREACH(c, &f->calls, entry) dti_buf_add(&r->line.out, c->wire.p, c->wire.n);
        f->sent_at = now;
        STAILQ_INSERT_TAIL(&r->flights, f, entry);
        r->nflights++;
    }
}

// ---- answers ----------------------------------------------------------------------------

static void note_hungry(dti_redis *r, const dti_redis_answer *a) {
    uint64_t words[DTI_REDIS_HUNGRY] = {0};
    for (uint32_t i = 0; i < a->nhungry; i++) words[a->hungry[i] / 64 % DTI_REDIS_HUNGRY] |= (uint64_t)1 << (a->hungry[i] & 63);
    for (int i = 0; i < DTI_REDIS_HUNGRY; i++) atomic_store_explicit(&r->hungry[i], words[i], memory_order_relaxed);
}

// Hands each call its part of the replies.
static dtask_err deal(dti_redis *r, flight *f, const dti_redis_answer *a) {
    dti_mp at = a->replies;
    if (a->nreplies != f->nops) return dti_fail(DTASK_EVERSION, "the script in Redis answered in a form that this release does not know: upgrade");
    for (dti_redis_call *c; (c = STAILQ_FIRST(&f->calls));) {
        const char *from = at.p;
        bool whole = true;
        for (uint32_t i = 0; i < c->nops && whole; i++) whole = dti_mp_skip(&at, NULL);
        if (!whole) return dti_fail(DTASK_EVERSION, "the script in Redis answered in a form that this release does not know: upgrade");
        c->nreplies = (size_t)(at.p - from);
        c->replies = c->bell ? NULL : malloc(c->nreplies + 1);
        if (c->replies) memcpy(c->replies, from, c->nreplies);
        else if (!c->bell) {
            c->err = DTASK_ENOMEM;
            strcpy(c->text, "out of memory for an answer of Redis");
        }
        STAILQ_REMOVE_HEAD(&f->calls, entry);
        pthread_mutex_lock(&r->lock);
        done(c);
        pthread_mutex_unlock(&r->lock);
    }
    return DTASK_OK;
}

static bool asks_patience(const redisReply *e) {
    static const char *const words[] = {"LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS", "MISCONF"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (dti_redis_says(e, words[i])) return true;
    return strstr(e->str, "attempted to access a non local key"); // the slot is on its way to another node
}

static bool not_there(const redisReply *e) {
    return e->type == REDIS_REPLY_ERROR && strstr(e->str, "Function not found");
}

// An error for a whole call of the function. True: the connection is of no more use.
static bool refused(dti_redis *r, flight *f, const redisReply *e) {
    dti_redis_refused(&r->target, r->line.peer, e);
    if (not_there(e)) {          // it is loaded as we come up again
        put_back(r, &f->calls, false);
        return true;
    }
    if (dti_redis_says(e, "MOVED") || dti_redis_says(e, "ASK") || dti_redis_says(e, "READONLY") || dti_redis_says(e, "MASTERDOWN") ||
        dti_redis_says(e, "UNBLOCKED")) {
        put_back(r, &f->calls, false);
        return true;
    }
    if (asks_patience(e)) {
        pthread_mutex_lock(&r->lock);
        note(r, DTASK_EENGINE);
        pthread_mutex_unlock(&r->lock);
        r->pause_until = dti_mono_us() + PAUSE_US;
        put_back(r, &f->calls, true);
        return false;
    }
    bool full = dti_redis_says(e, "OOM");
    if (strstr(e->str, "Script killed by user"))
        dti_fail(DTASK_EENGINE, "the call was ended by FUNCTION KILL at Redis %s: nothing was changed, try again", r->line.peer);
    fail_calls(r, &f->calls, DTASK_EENGINE, full);
    return false;
}

// One reply: of the oldest flight. True: go down.
static bool answered(dti_redis *r, redisReply *reply) {
    flight *f = pop_flight(r);
    bool down = false;
    if (!f) return dti_fail(DTASK_EENGINE, "Redis at %s answered what nobody asked", r->line.peer), true;
    if (reply->type == REDIS_REPLY_ERROR) {
        down = refused(r, f, reply);
    } else if (reply->type != REDIS_REPLY_STRING) {
        dti_fail(DTASK_EVERSION, "the script in Redis answered in a form that this release does not know: upgrade");
        fail_calls(r, &f->calls, DTASK_EVERSION, false);
    } else {
        dti_redis_answer a;
        dti_arena_reset(&r->arena);
        dtask_err err = dti_redis_take_answer(&r->arena, dti_str(reply->str, reply->len), &a);
        if (!err && f->turns) note_hungry(r, &a);
        if (!err) err = deal(r, f, &a);
        if (err == DTASK_ENOTFOUND) { // the shard lost all: it is made anew as we come up
            dti_fail(DTASK_EENGINE, "Redis at %s has lost its data", r->line.peer);
            put_back(r, &f->calls, false);
            down = true;
        } else if (err) {
            fail_calls(r, &f->calls, err, false);
        } else if (a.era != atomic_load(&r->engine.era)) { // another client saw it set back, or emptied, before we did
            dti_fail(DTASK_EENGINE, "Redis at %s has lost its last writes", r->line.peer);
            down = true;
        }
    }
    free(f);
    return down;
}

// True: go down; the detail says why.
static bool hear(dti_redis *r, short events) {
    dtask_err err = dti_redis_flush(&r->line);
    if (!err && events & (POLLIN | POLLERR | POLLHUP)) err = dti_redis_fill(&r->line);
    char why[DTI_REDIS_TEXT] = "";
    if (err) snprintf(why, sizeof why, "%s", dtask_err_detail());
    for (redisReply *reply;;) { // also what came before it was lost
        if (dti_redis_next(&r->line, &reply)) return true;
        if (!reply) break;
        bool down = answered(r, reply);
        freeReplyObject(reply);
        if (down) return true;
    }
    if (err) dti_fail(err, "%s", why);
    return err;
}

// ---- coming up ---------------------------------------------------------------------------

// Gives the server the library. That another client was first is as good.
static dtask_err load(dti_redis *r, int64_t until) {
    dti_buf *out = &r->line.out;
    redisReply *reply;
    dti_buf_add(out, "*3\r\n", 4);
    put_bulk(out, "FUNCTION", 8);
    put_bulk(out, "LOAD", 4);
    put_bulk(out, dti_redis_library, dti_redis_library_n);
    dtask_err err = dti_redis_await(&r->line, until, r->cancel_fd, &reply);
    if (err) return err;
    if (reply->type == REDIS_REPLY_ERROR && !strstr(reply->str, "already exists")) err = dti_redis_refused(&r->target, r->line.peer, reply);
    freeReplyObject(reply);
    return err;
}

// Of an app that is new; later it stays as it is stored.
static unsigned wanted_shards(const dti_redis *r) {
    unsigned n = r->one_shard || !r->server.masters ? 1 : r->server.masters * DTI_REDIS_SHARDS;
    return n < DTI_SHARDS_MAX ? n : DTI_SHARDS_MAX;
}

// Makes the shard ready and of the present era.
static dtask_err enter(dti_redis *r, int64_t until, uint64_t *era, unsigned *shards, bool *soon) {
    dti_redis_call ask = {0};
    dti_buf op = {0};
    redisReply *reply = NULL;
    dti_op change = {.kind = DTI_OP_ERA, .era = {.run_id = dti_str(r->server.run_id, strlen(r->server.run_id))}};
    uint64_t salt = r->engine.salt;
    dti_redis_put_init(&op, salt ? salt : dti_random64() | 1, r->shards ? r->shards : wanted_shards(r));
    dti_redis_put_wire(&ask, &op);
    dti_redis_put_op(&op, &change);
    dti_redis_put_wire(&ask, &op);
    dti_buf_done(&op);
    dtask_err err = DTASK_OK;
    for (int i = 0; i < 2 && !err; i++) {
        say_function(r, false, ask.nops);
        dti_buf_add(&r->line.out, ask.wire.p, ask.wire.n);
        if (ask.wire.failed) r->line.out.failed = true;
        if (reply) freeReplyObject(reply);
        reply = NULL;
        err = dti_redis_await(&r->line, until, r->cancel_fd, &reply);
        if (err || !not_there(reply) || i) break;
        err = load(r, until);
    }
    dti_buf_done(&ask.wire);
    if (!err && reply->type != REDIS_REPLY_STRING) {
        *soon = reply->type == REDIS_REPLY_ERROR && asks_patience(reply);
        err = dti_redis_refused(&r->target, r->line.peer, reply);
    }
    dti_redis_answer a;
    uint64_t had;
    dti_arena_reset(&r->arena);
    if (!err) err = dti_redis_take_answer(&r->arena, dti_str(reply->str, reply->len), &a);
    if (!err) err = dti_redis_take_init(&a, &had, era, shards);
    if (!err) err = dti_redis_take_reply(&r->arena, &a, &change);
    if (!err) *era = change.era.era;
    if (!err && salt && salt != had)
        err = dti_fail(DTASK_EENGINE, "the data of Redis at %s was replaced by another app's of this name: open the app again", r->line.peer);
    if (!err && r->shards && r->shards != *shards)
        err = dti_fail(DTASK_EENGINE, "shard %u in Redis at %s is one of %u, and the app has %u: its data is another app's of this name, or an old copy of it",
            r->shard, r->line.peer, *shards, r->shards);
    if (!err && (!*shards || *shards > DTI_SHARDS_MAX))
        err = dti_fail(DTASK_EVERSION, "the app in Redis at %s has %u shards, and this release knows up to %d: upgrade", r->line.peer, *shards, DTI_SHARDS_MAX);
    if (!err && !salt) r->engine.salt = had;
    if (reply) freeReplyObject(reply);
    return err;
}

static bool closing(dti_redis *r) {
    pthread_mutex_lock(&r->lock);
    bool yes = r->closing;
    pthread_mutex_unlock(&r->lock);
    return yes;
}

// Of a server that was there. A connection that is made again at once is no
// outage; of one, the reason is how it began.
static void tell_outage(dti_redis *r) {
    if (!r->lost_at || r->away || closing(r)) return;
    r->away = true;
    dti_say(&r->tell, LOG_WARNING, "the engine is away, calls wait for it: %s", r->last);
}

static void tell_back(dti_redis *r) {
    if (r->away) dti_say(&r->tell, LOG_NOTICE, "the engine is back after %.1f s: Redis at %s", (double)(dti_mono_us() - r->lost_at) / 1e6, r->line.peer);
    r->away = false;
    r->lost_at = 0;
}

static bool come_up(dti_redis *r) {
    bool soon;
    uint64_t era = 0;
    unsigned shards = 0;
    dti_redis_server found;
    int64_t until = dti_mono_us() + (r->timeout_us / 4 * 3 < CONNECT_US ? r->timeout_us / 4 * 3 : CONNECT_US);
    dtask_err err = dti_redis_find(&r->target, until, r->cancel_fd, &r->line, &found, &soon);
    if (!err) {
        pthread_mutex_lock(&r->lock);
        r->server = found;
        pthread_mutex_unlock(&r->lock);
        if ((err = enter(r, until, &era, &shards, &soon))) dti_redis_disconnect(&r->line);
    }
    if (err) tell_outage(r);
    pthread_mutex_lock(&r->lock);
    r->attempts = err ? r->attempts + 1 : 0;
    r->soon = soon;
    if (err) note(r, err);
    else {
        r->last_err = DTASK_OK;
        *r->last = 0;
        r->up = true;
        r->shards = shards;
        atomic_store(&r->engine.era, era);
    }
    pthread_cond_broadcast(&r->moved);
    pthread_mutex_unlock(&r->lock);
    if (err) return false;
    tell_back(r);
    atomic_store(&r->ahead_us, found.ahead_us);
    r->pause_until = r->ear_at = 0;
    dti_redis_bells_ring(r);
    return true;
}

// Longer after each failure, and never all clients at once. Of a server that
// is back all workers hear within a small part of a lease: the first one that
// does must not take the others for dead.
static void back_off(dti_redis *r) {
    int64_t us = BACKOFF_MIN_US, most = r->lease_us / 9 < BACKOFF_MAX_US ? r->lease_us / 9 : BACKOFF_MAX_US;
    for (unsigned i = 1; i < r->attempts && us < most; i++) us *= 2;
    if (us > most && most > BACKOFF_MIN_US) us = most;
    us = us / 2 + (int64_t)(dti_random64() % (uint64_t)us);
    struct pollfd fd = {.fd = r->cancel_fd, .events = POLLIN};
    poll(&fd, 1, (int)(us / 1000) + 1);
}

// ---- rounds ---------------------------------------------------------------------------------

// Sleeps until there is something to do. True: go down.
static bool listen_all(dti_redis *r, int64_t until) {
    struct pollfd fds[] = {
        {.fd = r->line.fd, .events = dti_redis_events(&r->line)},
        {.fd = r->wake_fd, .events = POLLIN},
        {.fd = r->ear.fd, .events = r->ear.fd >= 0 ? dti_redis_events(&r->ear) : 0},
    };
    pthread_mutex_lock(&r->lock);
    // What is in the queue and called nobody, a bell's words, goes with the next
    // call, or with the next thing heard.
    bool doubt = r->doubt, sleeps = !r->called && !r->closing;
    r->sleeps = sleeps;
    pthread_mutex_unlock(&r->lock);
    if (doubt) return dti_fail(DTASK_EENGINE, "Redis at %s may be another than it was: it is asked", r->line.peer), true;
    int64_t left = until - dti_mono_us();
    struct timespec ts = {left > 0 ? left / 1000000 : 0, left > 0 ? left % 1000000 * 1000 : 0};
    if (!sleeps) ts = (struct timespec){0};
    int n = ppoll(fds, 3, &ts, NULL);
    pthread_mutex_lock(&r->lock);
    r->sleeps = false;
    pthread_mutex_unlock(&r->lock);
    if (n <= 0) return false;
    if (fds[1].revents) {
        uint64_t count;
        ssize_t got = read(r->wake_fd, &count, sizeof count);
        (void)got;
    }
    if (fds[2].revents) dti_redis_bells_heard(r);
    return fds[0].revents && hear(r, fds[0].revents);
}

static bool round_of(dti_redis *r) {
    int64_t until = dti_redis_bells_round(r), now = dti_mono_us();
    send_queue(r, now);
    if (dti_redis_flush(&r->line)) return true;
    if (now < r->pause_until && r->pause_until < until) until = r->pause_until;
    if (r->nflights && r->target.url.mode != DTI_REDIS_ONE) { // a frozen master keeps its connections
        int64_t stalled = STAILQ_FIRST(&r->flights)->sent_at + STALLED_US;
        if (stalled <= now) return dti_fail(DTASK_EENGINE, "Redis at %s has not answered for 5 s", r->line.peer), true;
        if (stalled < until) until = stalled;
    }
    return listen_all(r, until);
}

void *dti_redis_main(void *arg) {
    dti_redis *r = arg;
    while (!closing(r)) {
        if (r->line.fd < 0 && !come_up(r)) back_off(r);
        else if (round_of(r)) go_down(r);
    }
    for (flight *f; (f = pop_flight(r)); free(f)) put_back(r, &f->calls, true);
    dti_redis_disconnect(&r->line);
    dti_redis_disconnect(&r->ear);
    dti_arena_done(&r->arena);
    return NULL;
}
