// Who sleeps, and how they are rung: each bell is a channel of the shard, all
// channels of a handle come in by one connection, the ear.
//
// Guaranteed: a bell that was opened is subscribed; what is rung while the ear
// is lost is made up for by ringing it once it hears again. A sleeper looks by
// itself once a second in any case.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engines/redis/redis.h"

enum {
    EAR_US = 2000000,            // to connect
    EAR_AGAIN_US = 500000,       // after it failed
    AGAIN_US = 30000000,         // a sleeper says it again: the shard forgets after a minute
};

// ---- callers ----------------------------------------------------------------------

static void ring(dti_bell *b) {
    uint64_t one = 1;
    while (write(b->fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

// Under lock: tells the shard. Without memory, the look each second is left.
static void tell(dti_bell *b, bool asleep, bool wake) {
    dti_redis *r = b->at;
    dti_redis_call *c = calloc(1, sizeof *c);
    dti_buf op = {0};
    if (!c) return;
    c->bell = c->left = true;
    dtask_str name = dti_str(b->name, strlen(b->name));
    dtask_str end = dti_str(b->end, b->nend);
    if (asleep) dti_redis_put_asleep(&op, name, b->worker, b->types, b->ntypes, end, atomic_load(&r->engine.era), b->nap, b->blind);
    else dti_redis_put_awake(&op, name, b->worker, end);
    dti_redis_put_wire(c, &op);
    dti_buf_done(&op);
    if (c->wire.failed) {
        dti_redis_call_free(c);
        return;
    }
    b->asleep = asleep;
    b->said_at = dti_mono_us();
    dti_redis_enqueue(r, c, wake);
}

dtask_err dti_redis_bell_open(dti_engine *engine, uint64_t worker, dti_bell **out) {
    dti_redis *r = (dti_redis *)engine;
    if (r->forks != dti_forks()) return dti_forked_error();
    dti_bell *b = calloc(1, sizeof *b);
    if (!b) return dti_fail(DTASK_ENOMEM, "out of memory for a bell");
    b->at = r;
    b->worker = worker;
    b->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->fd < 0) {
        free(b);
        return dti_fail(DTASK_EENGINE, "no descriptor for a bell (%s): raise the process's limit of open files", strerror(errno));
    }
    int64_t until = dti_mono_us() + r->timeout_us;
    struct timespec ts = {until / 1000000, until % 1000000 * 1000};
    pthread_mutex_lock(&r->lock);
    snprintf(b->name, sizeof b->name, "%016llx-%u", (unsigned long long)r->id, ++r->bell_count);
    LIST_INSERT_HEAD(&r->bells, b, entry);
    dti_redis_wake(r);
    int late = 0;
    while (!b->subscribed && !r->mute && !late) late = pthread_cond_timedwait(&r->moved, &r->lock, &ts);
    dtask_err err = b->subscribed ? DTASK_OK
        : r->mute ? dti_fail(DTASK_EENGINE, "%s", r->last)
        : dti_fail(DTASK_EENGINE, "Redis at %s took no subscription within engine_timeout (%.1f s): %s", r->target.url.hosts[0].host,
              (double)r->timeout_us / 1e6, *r->last ? r->last : "it does not answer");
    pthread_mutex_unlock(&r->lock);
    if (err) dti_redis_bell_close(b);
    else *out = b;
    return err;
}

void dti_redis_bell_close(dti_bell *b) {
    dti_redis *r = b->at;
    if (r->forks != dti_forks()) { // the I/O thread and its list are the parent's
        close(b->fd);
        return;
    }
    pthread_mutex_lock(&r->lock);
    if (b->asleep && !b->rung) tell(b, false, false);
    close(b->fd);
    b->fd = -1;
    b->gone = true; // the thread unsubscribes and frees it
    dti_redis_wake(r);
    pthread_mutex_unlock(&r->lock);
}

int dti_redis_bell_fd(dti_bell *b) {
    return b->fd;
}

static void drop_news(dti_bell *b) {
    free(b->news);
    b->news = NULL;
}

// blind: nobody looks now, so it is told at once.
static void sleeps(dti_bell *b, const uint32_t *types, size_t n, const dti_awaited *end, bool blind) {
    dti_redis *r = b->at;
    if (r->forks != dti_forks()) return;
    pthread_mutex_lock(&r->lock);
    bool other = b->nend && (!end || b->nend != end->id.n || memcmp(b->end, end->id.p, b->nend) != 0);
    if (b->asleep && !b->rung && other) tell(b, false, false); // each sleep is left before the next one
    b->ntypes = 0;
    for (size_t i = 0; i < n && dti_grow(&b->types, b->ntypes, &b->ctypes, sizeof *b->types); i++) b->types[b->ntypes++] = types[i];
    b->nend = end && end->id.n < sizeof b->end ? end->id.n : 0;
    if (b->nend) memcpy(b->end, end->id.p, b->nend);
    b->rung = false;
    b->nap++;
    b->blind = blind;
    drop_news(b);
    tell(b, true, blind);        // a look that comes now takes it along
    pthread_mutex_unlock(&r->lock);
}

void dti_redis_bell_asleep(dti_bell *b, const uint32_t *types, size_t n, const dti_awaited *end) {
    sleeps(b, types, n, end, false);
}

bool dti_redis_bell_await(dti_bell *b, const dti_awaited *end) {
    sleeps(b, NULL, 0, end, true);
    return b->at->forks == dti_forks();
}

bool dti_redis_bell_news(dti_bell *b, dti_arena *arena, dti_op *read) {
    dti_redis *r = b->at;
    if (r->forks != dti_forks()) return false;
    pthread_mutex_lock(&r->lock);
    char *news = b->news;
    b->news = NULL;
    pthread_mutex_unlock(&r->lock);
    if (!news) return false;
    dtask_str bytes = dti_dup(arena, dti_str(news, b->nnews));
    dti_redis_answer a = {.replies = dti_mp_of(bytes), .nreplies = 1};
    free(news);
    return bytes.p && !dti_redis_take_reply(arena, &a, read);
}

void dti_redis_bell_awake(dti_bell *b) {
    dti_redis *r = b->at;
    uint64_t n;
    if (r->forks != dti_forks()) return;
    pthread_mutex_lock(&r->lock);
    while (read(b->fd, &n, sizeof n) < 0 && errno == EINTR) {
    }
    if (b->asleep && !b->rung) tell(b, false, false); // who was rung is on no list
    b->asleep = b->rung = false;
    pthread_mutex_unlock(&r->lock);
}

void dti_redis_bell_ring(dti_bell *b) {
    if (b->at->forks == dti_forks()) ring(b);
}

// ---- the thread ----------------------------------------------------------------------

static void channel(const dti_redis *r, const dti_bell *b, char *out, size_t n) {
    snprintf(out, n, "%s:b:%s", r->key, b->name);
}

static void forget(dti_bell *b) {
    LIST_REMOVE(b, entry);
    free(b->types);
    drop_news(b);
    free(b);
}

void dti_redis_bells_ring(dti_redis *r) {
    dti_bell *b;
    pthread_mutex_lock(&r->lock);
    LIST_FOREACH(b, &r->bells, entry) {
        if (b->gone) continue;
        b->rung = true; // what the shard knew of it may be lost
        ring(b);
    }
    pthread_mutex_unlock(&r->lock);
}

void dti_redis_bells_deaf(dti_redis *r) {
    if (r->ear.fd < 0) return;
    dti_redis_disconnect(&r->ear);
    dti_bell *b;
    pthread_mutex_lock(&r->lock);
    LIST_FOREACH(b, &r->bells, entry) {
        b->again = b->again || b->subscribed;
        b->said = false;
    }
    pthread_mutex_unlock(&r->lock);
}

void dti_redis_bells_free(dti_redis *r) {
    dti_bell *b;
    while ((b = LIST_FIRST(&r->bells))) {
        if (b->fd >= 0) close(b->fd);
        forget(b);
    }
}

// Opens the ear if somebody needs it. False: not now.
static bool listens(dti_redis *r, bool needed, int64_t now) {
    if (r->ear.fd >= 0 || !needed) return r->ear.fd >= 0;
    if (now < r->ear_at) return false;
    dtask_err err = dti_redis_join(&r->target, &r->server.host, now + EAR_US, r->cancel_fd, &r->ear);
    pthread_mutex_lock(&r->lock);
    if (err) snprintf(r->last, sizeof r->last, "%s", dtask_err_detail());
    else r->mute = false;
    pthread_mutex_unlock(&r->lock);
    if (err) r->ear_at = now + EAR_AGAIN_US;
    return !err;
}

int64_t dti_redis_bells_round(dti_redis *r) {
    int64_t now = dti_mono_us(), next = now + AGAIN_US;
    dti_bell *b, *after;
    bool needed = false;
    pthread_mutex_lock(&r->lock);
    r->called = false;           // what called the thread until now is looked at from here on
    for (b = LIST_FIRST(&r->bells); b; b = after) {
        after = LIST_NEXT(b, entry);
        if (b->gone && (!b->said || r->ear.fd < 0)) forget(b);
        else needed = true;
    }
    pthread_mutex_unlock(&r->lock);
    if (!listens(r, needed, now)) return needed ? r->ear_at : next;
    pthread_mutex_lock(&r->lock);
    for (b = LIST_FIRST(&r->bells); b; b = after) {
        char name[320];
        after = LIST_NEXT(b, entry);
        channel(r, b, name, sizeof name);
        if (b->gone) {
            dti_redis_say(&r->ear, 2, (const char *[]){"UNSUBSCRIBE", name}, NULL);
            forget(b);
            continue;
        }
        if (!b->said) dti_redis_say(&r->ear, 2, (const char *[]){"SUBSCRIBE", name}, NULL);
        b->said = true;
        if (!b->asleep || b->rung) continue;
        if (b->said_at + AGAIN_US <= now) tell(b, true, false);
        if (b->said_at + AGAIN_US < next) next = b->said_at + AGAIN_US;
    }
    pthread_mutex_unlock(&r->lock);
    if (dti_redis_flush(&r->ear)) {
        dti_redis_bells_deaf(r);
        return r->ear_at = now + EAR_AGAIN_US;
    }
    return next;
}

// Under lock. Keeps what a ring brings, if it is of this sleep.
static void take_news(dti_bell *b, dtask_str bytes) {
    dti_mp at = dti_mp_of(bytes);
    dti_mpval head, nap;
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_ARRAY || head.n != 2) return;
    if (!dti_mp_next(&at, &nap) || nap.kind != DTI_MP_UINT || nap.u != b->nap) return;
    drop_news(b);
    b->nnews = (size_t)(at.end - at.p);
    b->news = malloc(b->nnews + 1);
    if (b->news) memcpy(b->news, at.p, b->nnews);
}

// Under lock. A message, or what SUBSCRIBE is answered with.
static void take(dti_redis *r, const redisReply *m) {
    if (m->type != REDIS_REPLY_ARRAY || m->elements != 3 || m->element[0]->type != REDIS_REPLY_STRING ||
        m->element[1]->type != REDIS_REPLY_STRING)
        return;
    bool message = !strcmp(m->element[0]->str, "message"), subscribed = !strcmp(m->element[0]->str, "subscribe");
    dti_bell *b;
    LIST_FOREACH(b, &r->bells, entry) {
        char name[320];
        channel(r, b, name, sizeof name);
        if (!b->gone && !strcmp(name, m->element[1]->str)) break;
    }
    if (!b) return;
    if (message && m->element[2]->type == REDIS_REPLY_STRING) take_news(b, dti_str(m->element[2]->str, m->element[2]->len));
    if (message || (subscribed && b->again)) {
        b->rung = true;
        b->again = false;
        ring(b);
    }
    if (subscribed && !b->subscribed) {
        b->subscribed = true;
        pthread_cond_broadcast(&r->moved);
    }
}

void dti_redis_bells_heard(dti_redis *r) {
    dtask_err err = dti_redis_flush(&r->ear);
    if (!err) err = dti_redis_fill(&r->ear);
    for (redisReply *m;;) { // also what came before it was lost
        if (dti_redis_next(&r->ear, &m) || !m) break;
        bool refused = m->type == REDIS_REPLY_ERROR;
        pthread_mutex_lock(&r->lock);
        if (refused) {
            dti_redis_refused(&r->target, r->ear.peer, m);
            snprintf(r->last, sizeof r->last, "%s", dtask_err_detail());
            r->mute = true;
            pthread_cond_broadcast(&r->moved);
        } else {
            take(r, m);
        }
        pthread_mutex_unlock(&r->lock);
        freeReplyObject(m);
        if (refused) err = DTASK_EENGINE;
    }
    if (!err && r->ear.reader->err) err = DTASK_EENGINE;
    if (!err) return;
    dti_redis_bells_deaf(r);
    r->ear_at = dti_mono_us() + EAR_AGAIN_US;
}
