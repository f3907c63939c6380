// The I/O thread: the only one that talks to the engine for the worker's
// claims and outcomes in one shard. One turn is in flight, the next gathers
// meanwhile; so light load is fast and heavy load makes its batches by itself.
//
// Guaranteed: a turn is resent, byte for byte, until it is answered, or the
// worker ends past engine_timeout; one whose lease may have lapsed drops all
// its frames before it goes on (it fences itself); an idle worker sleeps on
// its bell and looks once a second, over all shards.
//
// Where there are several shards, each has such a thread, and none waits for
// another: a shard that is away takes its own tasks with it, no others. They
// divide what the worker has room for, those that asked longest ago first.
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

void dti_io_ring(dti_link *l) {
    l->io_sleeps = false;
    uint64_t one = 1;
    ssize_t n = write(l->ring_fd, &one, sizeof one);
    (void)n;                     // full is as good: it is readable
}

void dti_io_ring_all(dtask_worker *w) {
    for (unsigned i = 0; i < w->nlinks; i++)
        if (w->links[i].io_sleeps) dti_io_ring(&w->links[i]);
}

// Whether a comes before b: it asked longer ago.
static bool before(const dti_link *a, const dti_link *b) {
    return a->turn != b->turn ? a->turn < b->turn : a->shard < b->shard;
}

void dti_io_room(dtask_worker *w) {
    dti_link *first = NULL;
    if (w->nlive < 2) return;    // it goes with what freed the slot
    for (unsigned i = 0; i < w->nlinks; i++) {
        dti_link *l = &w->links[i];
        if (l->io_sleeps && l->restless && (!first || before(l, first))) first = l;
    }
    if (first) dti_io_ring(first);
}

void dti_link_drain(dti_link *l, bool on) {
    if (l->drain == on) return;
    l->drain = on;
    l->w->drain += on ? 1 : -1u;
}

void dti_out_add(dtask_task *f, bool urgent) {
    dti_link *l = f->link;
    if (f->flying) return;       // goes with its answer
    if (!f->listed) {
        f->listed = true;
        f->out_next = NULL;
        if (l->out_last) l->out_last->out_next = f;
        else l->out = f;
        l->out_last = f;
        l->nout++;
    }
    if (urgent && !l->urgent) {
        l->urgent = true;
        if (l->io_sleeps) dti_io_ring(l);
    }
}

typedef struct {                 // the thread's own
    dtask_worker *w;
    dti_link *link;
    dti_turnbox box;
    dti_arena reply;
    dti_want *want; size_t nwant, cwant;
    uint32_t *served; size_t nserved, cserved; // types that there is room for: what it sleeps for
    unsigned claims, asks[DTI_POOLS]; // wanted in all; of each pool
    bool idle_slots;             // some of them could begin at once
    bool cut;                    // what other links ask for may be what there is room for
    bool rung;                   // by the bell, since the last turn
    bool asleep;                 // the bell knows what for
    uint64_t asleep_for;         // a hash of the types
    int64_t next_look, next_sweep, next_hungry;
    int64_t failing;             // since when turns fail, 0
    bool empty;                  // nothing runs, or waits to
    bool left;                   // it could not become a worker again
} io;

// L: something runs, or waits for a slot to begin.
static bool busy(const dtask_worker *w) {
    return !dti_runs_dry(w) || w->ready[DTI_POOL_C].n || w->ready[DTI_POOL_THREAD].n || w->ready[DTI_POOL_LOOP].n;
}

// ---- what to claim ---------------------------------------------------------------

static void want_of(io *t, dti_handler *h, unsigned n, bool room) {
    dtask_worker *w = t->w;
    for (size_t i = 0; i < w->nserved; i++) {
        if (w->served[i].handler != h->index) continue;
        if (!dti_grow(&t->want, t->nwant, &t->cwant, sizeof *t->want)) return;
        t->want[t->nwant++] = (dti_want){w->served[i].no, n};
        if (!room || !dti_grow(&t->served, t->nserved, &t->cserved, sizeof *t->served)) continue;
        t->served[t->nserved++] = w->served[i].no;
    }
}

// What the turns of other links may bring. One that takes long may bring
// nothing for long, and holds nothing up.
static unsigned asked_elsewhere(const io *t, int pool, int64_t now) {
    unsigned n = 0;
    for (unsigned i = 0; i < t->w->nlinks; i++) {
        const dti_link *l = &t->w->links[i];
        if (l != t->link && l->asked_at && now - l->asked_at < DTI_AGAIN_US) n += l->asked[pool];
    }
    return n;
}

// Of n tasks that there is room for, those that this link asks its shard for:
// each that may find some has its part, and where n is smaller than their
// number, those that asked longest ago.
static unsigned part_of(io *t, const dti_handler *h, unsigned n) {
    dtask_worker *w = t->w;
    unsigned all = 1, ahead = 0;
    for (unsigned i = 0; i < w->nlinks && n; i++) {
        dti_link *l = &w->links[i];
        if (l == t->link || !l->bell || l->asked_at || l->of[h->index].dry) continue;
        all++;
        ahead += before(l, t->link);
    }
    unsigned part = n / all + (ahead < n % all);
    for (unsigned i = 0; i < w->nlinks && part < n; i++) { // the others take theirs
        dti_link *l = &w->links[i];
        if (l != t->link && l->bell && l->io_sleeps && !l->asked_at && !l->of[h->index].dry && (n >= all || before(l, t->link))) dti_io_ring(l);
    }
    return part;
}

// How many of h: what free slots take at once, and what runs in a moment.
static unsigned wanted(dtask_worker *w, const dti_handler *h, int64_t room, unsigned slots, double queued_us) {
    unsigned queued = w->ready[h->pool].n;
    int64_t n = room;
    bool ahead = h->ahead && !w->drain && !w->aside; // what may have to run alone comes to a free slot
    if (ahead && h->mean_us >= 0 && slots && dti_mono_us() >= h->modest_until) {
        double spare = (double)DTI_AHEAD_US * slots - queued_us, mean = h->mean_us < 1 ? 1 : h->mean_us;
        if (spare > 0) n += spare / mean < w->conf.prefetch ? (int64_t)(spare / mean) : (int64_t)w->conf.prefetch;
        int64_t most = (int64_t)w->conf.prefetch + room - (int64_t)queued;
        if (n > most) n = most;
    }
    return n > 0 ? (unsigned)n : 0;
}

// L: fills t->want.
static void wants(io *t) {
    dtask_worker *w = t->w;
    dti_link *l = t->link;
    int64_t now = dti_mono_us();
    t->nwant = t->nserved = t->claims = 0;
    t->idle_slots = t->cut = false;
    memset(t->asks, 0, sizeof t->asks);
    for (size_t i = 0; i < w->nhandlers; i++) l->of[i] = (dti_asked){.dry = l->of[i].dry};
    if (w->stopping || !dti_may_begin(w) || (w->drain && (busy(w) || !l->drain))) return;
    for (int pool = 0; pool < DTI_POOLS; pool++) {
        unsigned slots = w->slots, most = 0;
        int64_t room = (int64_t)w->slots - w->running[DTI_POOL_C] - w->woken.n;
        if (pool != DTI_POOL_C) room = dti_seats_room(w, pool, &slots);
        if (room < 0) room = 0;
        room -= w->ready[pool].n;
        double queued_us = 0;
        for (size_t i = 0; i < w->nhandlers; i++) {
            const dti_handler *h = w->handlers[i];
            if ((int)h->pool == pool && h->mean_us > 0) queued_us += h->mean_us * h->queued;
        }
        unsigned elsewhere = asked_elsewhere(t, pool, now);
        for (size_t i = 0; i < w->nhandlers; i++) {
            dti_handler *h = w->handlers[i];
            dti_asked *a = &l->of[i];
            if ((int)h->pool != pool || h->absent || h->off) continue;
            unsigned n = wanted(w, h, room, slots, queued_us), open = n > elsewhere ? n - elsewhere : 0;
            // A ring that came as all slots were taken must not be lost: the
            // claim waits here, or goes to who sleeps for it.
            bool vain = !n && t->rung && w->nlive > 1 && h->ahead && !w->drain;
            a->wanted = vain ? 1 : part_of(t, h, open);
            a->room = n > 0;
            t->cut = t->cut || a->wanted < n;
            // None of what waits here is wanted, but who else wants it is.
            if (n || a->wanted || h->queued) want_of(t, h, a->wanted, n > 0);
            if (!a->wanted) continue;
            if (a->wanted > most) most = a->wanted;
            if ((room > 0 || vain) && !a->dry) t->idle_slots = true;
        }
        t->asks[pool] = most;
        t->claims += most;
    }
}

static bool want_more(const io *t) {
    if (t->idle_slots) return true;
    dtask_worker *w = t->w;
    for (size_t i = 0; i < w->nhandlers; i++) {
        const dti_handler *h = w->handlers[i];
        const dti_asked *a = &t->link->of[i];
        if (a->wanted && !a->dry && w->ready[h->pool].n < a->wanted) return true;
    }
    return false;
}

static void dry_none(dti_link *l) {
    for (size_t i = 0; i < l->w->nhandlers; i++) l->of[i].dry = false;
}

// ---- between turns ----------------------------------------------------------------

// L: attempts that outran their `timeout`.
static void expire(dtask_worker *w, int64_t now) {
    if (w->limit_at && now >= w->limit_at) {
        w->limit_at = 0;
        for (dtask_task *f = w->all; f; f = f->after) {
            if (!f->began_at || f->given_up || f->lost || !f->row.timeout_ms) continue;
            int64_t at = f->began_at + (int64_t)f->row.timeout_ms * 1000 - f->ran_us;
            if (at <= now) dti_frame_expired(f);
            else if (!w->limit_at || at < w->limit_at) w->limit_at = at;
        }
    }
    unsigned slots = 0;
    dti_seats_room(w, DTI_POOL_THREAD, &slots);
    // The thread of a wait is its only one: it outlives a timeout, as where somebody debugs.
    bool all = !w->only && ((w->leaked && w->leaked >= w->slots) || (w->seats_leaked && w->seats_leaked >= slots));
    if (!all) w->leaked_at = 0;
    else if (!w->leaked_at) w->leaked_at = now;
    else if (now - w->leaked_at >= DTI_LEAKED_US && !w->why)
        dti_worker_fail(w, DTASK_ETIMEOUT, "every slot is held by a handler that outran its timeout: the worker gave the rest back");
}

// L: claims that wait here while another worker sleeps for their type.
static void share(io *t, int64_t now) {
    dtask_worker *w = t->w;
    if (now < t->next_hungry) return;
    t->next_hungry = now + DTI_STALE_US;
    for (size_t i = 0; i < w->nhandlers; i++) {
        dti_handler *h = w->handlers[i];
        dti_queue *q = &w->ready[h->pool];
        if (!h->queued || !q->n || now - q->first->queued_at < DTI_STALE_US) continue;
        if (!w->engine->ops->hungry(w->engine, t->link->bell, h->info->no)) continue;
        h->modest_until = now + DTI_LOOK_US;
        unsigned keep = h->queued / 2;
        dti_queue rest = {0};
        for (dtask_task *f; (f = dti_queue_pop(q));) {
            bool other = f->h != h || f->link != t->link;
            if (other || now - f->queued_at < DTI_STALE_US || keep) {
                if (!other && keep) keep--;
                dti_queue_push(&rest, f);
            } else {
                dti_frame_give_back(f);
            }
        }
        *q = rest;
    }
}

// L: what must run alone waits for handlers to end, but not for ever: after
// DTI_DRY_US it runs beside them. Nothing else begins meanwhile.
static void set_aside(dtask_worker *w, int64_t now) {
    if (w->stopping || w->alone || dti_runs_dry(w) || !(w->drain || w->lonely.n)) {
        w->dry_at = 0;
    } else if (!w->dry_at) {
        w->dry_at = now;
    } else if (now - w->dry_at >= DTI_DRY_US) {
        w->dry_at = 0;
        for (dtask_task *f = w->all; f; f = f->after) dti_frame_aside(f);
        dti_lonely_next(w);
        for (unsigned i = 0; i < w->nlinks; i++)
            if (w->links[i].of) dry_none(&w->links[i]);
    }
}

// L: stopping begins: what has not begun goes back, what waits is dropped. From
// the log line on, nothing begins: who stops a worker may rely on that.
static void drain_begin(dtask_worker *w, int64_t now) {
    w->stopping = true;
    w->grace_at = now + (int64_t)w->grace_ms * 1000;
    w->drains_with = w->executing;
    w->say_drains = true;
    for (int pool = 0; pool < DTI_POOLS; pool++)
        for (dtask_task *f; (f = dti_queue_pop(&w->ready[pool]));) dti_frame_give_back(f);
    dti_queue woken = {0};
    for (dtask_task *f; (f = dti_queue_pop(&w->lonely));) {
        if (f->state == DTI_F_QUEUED) dti_frame_give_back(f);
        else dti_queue_push(&woken, f);
    }
    w->lonely = woken;
    dti_begin_anew(w);
    for (dtask_task *f; (f = dti_queue_pop(&w->parked));) {
        f->unwind = true;
        dti_frame_resume(f, DTASK_B_UNWIND);
    }
    pthread_cond_broadcast(&w->moved);
}

// L: grace is over: what still runs is given back over its handler's head.
static void drain_hard(dtask_worker *w) {
    w->hard = true;
    for (dtask_task *f = w->all; f; f = f->after) {
        if (f->lost || f->given_up || f->state == DTI_F_ENDING) continue;
        f->unstarted = false;
        if (f->state == DTI_F_RUNNING && f->h->pool != DTI_POOL_C) dti_seat_event(f, DTASK_B_CANCEL);
        if (f->state == DTI_F_PARKING) {
            f->unwind = true;
            dti_frame_resume(f, DTASK_B_UNWIND);
        }
        dti_frame_give_up(f, DTI_END_RELEASE);
    }
}

// L: true when all that this worker held is settled.
static bool drained(dtask_worker *w) {
    for (dtask_task *f = w->all; f; f = f->after)
        if (!f->lost) return false;
    return true;
}

// L: true when it is time to leave.
static bool stage(io *t, int64_t now) {
    dtask_worker *w = t->w;
    expire(w, now);
    set_aside(w, now);
    if (!w->stopping) share(t, now);
    int stops = w->stops + (w->app->closed ? 2 : 0);
    if (stops && !w->stopping) drain_begin(w, now);
    if (w->stopping && !w->hard && (stops > 1 || w->why || now >= w->grace_at)) drain_hard(w);
    return w->stopping && drained(w);
}

// ---- a turn -------------------------------------------------------------------------

static void new_life(io *t);

static void fence(io *t, const char *why) {
    dtask_worker *w = t->w;
    dti_app_log(w->app, LOG_WARNING, NULL, "%s: what it had claimed is given up, and runs again", why);
    pthread_mutex_lock(&w->lock);
    dti_frames_void(&t->box);
    pthread_mutex_unlock(&w->lock);
    new_life(t);
}

// Becomes a worker again, under a new number. Fails for good after
// engine_timeout.
static void new_life(io *t) {
    dtask_worker *w = t->w;
    int64_t until = dti_mono_us() + w->app->conf.engine_timeout_us;
    while (dti_link_hello(t->link)) {
        if (dti_mono_us() < until && !w->stops) {
            poll(NULL, 0, 100);
            continue;
        }
        pthread_mutex_lock(&w->lock);
        dti_worker_fail(w, DTASK_EENGINE, dtask_err_detail());
        pthread_mutex_unlock(&w->lock);
        dti_worker_say(w);
        t->left = true;
        return;
    }
    t->asleep = false;
    t->failing = 0;
    pthread_mutex_lock(&w->lock);
    dry_none(t->link);
    pthread_mutex_unlock(&w->lock);
}

// A turn failed: true if it is to be sent again. Meanwhile stops are heard,
// and attempts time out. Past the lease it is a new life's turn; the worker
// ends past engine_timeout, or when it is stopped and its grace is over.
static bool send_again(io *t, dtask_err err) {
    dtask_worker *w = t->w;
    int64_t now = dti_mono_us();
    char why[sizeof w->why_text];
    snprintf(why, sizeof why, "%s", dtask_err_detail());
    if (!t->failing) {
        t->failing = now;
        dti_app_log(w->app, LOG_ERR, NULL, "the engine failed, the turn is sent again: %s: %s", dtask_err_name(err), why);
    }
    pthread_mutex_lock(&w->lock);
    dti_link_drain(t->link, false); // other shards do not wait for this one
    bool done = stage(t, now);   // nothing is held any more
    if (done || w->hard || now - t->failing >= w->app->conf.engine_timeout_us) {
        dti_frames_void(&t->box);
        if (!done) dti_worker_fail(w, err, why);
        t->left = !done;
        pthread_mutex_unlock(&w->lock);
        dti_worker_say(w);
        return false;
    }
    pthread_mutex_unlock(&w->lock);
    dti_worker_say(w);
    if (now - t->link->alive_at > w->conf.lease_us) {
        fence(t, "no turn went well for a whole lease");
        return false;
    }
    poll(NULL, 0, now - t->failing < 100000 ? 5 : 200);
    return true;
}

// A turn was stored, and yet there will be no claims until somebody mends what
// the error tells: false past engine_timeout, when the worker ends. What runs
// goes on until then.
static bool holds_out(io *t, dtask_err err) {
    dtask_worker *w = t->w;
    int64_t now = dti_mono_us();
    char why[sizeof w->why_text];
    snprintf(why, sizeof why, "%s", dtask_err_detail());
    if (!t->failing) {
        t->failing = now;
        dti_app_log(w->app, LOG_ERR, NULL, "the engine gives no tasks: %s: %s", dtask_err_name(err), why);
    }
    if (now - t->failing < w->app->conf.engine_timeout_us) {
        poll(NULL, 0, 50);       // what is wrong is looked at in each turn
        return true;
    }
    pthread_mutex_lock(&w->lock);
    dti_frames_void(&t->box);
    dti_worker_fail(w, err, why);
    t->left = true;
    pthread_mutex_unlock(&w->lock);
    return false;
}

// Between two turns, whatever the bell says: for most engines they renew the
// lease. Several links look in turn. A shard that hears nothing for half a
// lease takes that for an outage, in which nobody's lease lapses.
static int64_t look_us(const dti_link *l) {
    int64_t most = l->w->conf.lease_us / 3, us = DTI_LOOK_US * (int64_t)l->w->nlive;
    if (us > most) us = most;
    // At one time all would ask for the same slots, and ask again.
    return l->w->nlive < 2 ? us : us - (int64_t)(dti_random64() % (uint64_t)(us / 4 + 1));
}

static void swept(io *t, const dti_op *op, int64_t now) {
    dtask_worker *w = t->w;
    pthread_mutex_lock(&w->lock);
    int64_t most = w->engine->sees_deaths ? DTI_DEATHS_US : w->nlive < 2 ? DTI_LOOK_US : w->conf.lease_us;
    pthread_mutex_unlock(&w->lock);
    t->next_sweep = now + most;
    if (op->err) return;
    int64_t in = op->sweep.next - dti_wall_us();
    if (op->sweep.next && in < most) t->next_sweep = now + (in > 0 ? in : 0);
    if (!op->sweep.steps) return;
    pthread_mutex_lock(&w->lock);
    dry_none(t->link);
    pthread_mutex_unlock(&w->lock);
}

static void note_dry(io *t, const dti_turn *turn) {
    for (size_t i = 0; i < t->w->nhandlers; i++) {
        dti_asked *a = &t->link->of[i];
        if (a->wanted) a->dry = turn->nclaims < turn->n && a->got < a->wanted;
    }
    // What had to run alone had its chance.
    if (turn->empty && turn->n) dti_link_drain(t->link, false);
}

static void exchange_turn(io *t, bool sweep) {
    dtask_worker *w = t->w;
    dti_link *l = t->link;
    dti_compose(&t->box);
    if (t->box.failed) {         // sent without them, children would be lost in silence
        fence(t, "no memory for a turn");
        return;
    }
    uint64_t nonce = l->no << 32 | (++l->count & UINT32_MAX);
    for (;;) {
        int64_t now = dti_mono_us();
        w->engine->ops->bell_beat(l->bell); // a worker that is never idle lives too
        dti_op ops[2] = {0};
        size_t n = 0;
        if (sweep) ops[n++] = (dti_op){.kind = DTI_OP_SWEEP, .shard = (uint8_t)l->shard, .sweep = {.budget = DTI_CASCADE * 4}};
        ops[n++] = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = l->no, .era = l->era, .nonce = nonce, .got = l->got,
            .messages = t->box.messages, .nmessages = t->box.n, .want = t->want, .nwant = (uint32_t)t->nwant, .n = t->claims,
            .empty = t->empty, .only = w->only}};
        dti_turn *turn = &ops[n - 1].turn;
        dti_arena_reset(&t->reply);
        w->engine->ops->call(w->engine, &t->reply, ops, n);
        if (sweep) swept(t, &ops[0], now);
        dtask_err err = ops[n - 1].err;
        if (err && !turn->stored) {
            if (send_again(t, err)) continue;
            return;
        }
        if (!err) t->failing = 0;
        else if (!holds_out(t, err)) return;
        if (turn->status == DTI_TURN_DEAD || turn->status == DTI_TURN_ERA) {
            fence(t, turn->status == DTI_TURN_DEAD ? "this worker was taken for dead" : "the store was started anew, or is another");
            return;
        }
        l->alive_at = now;
        pthread_mutex_lock(&w->lock);
        t->next_look = now + look_us(l);
        pthread_mutex_unlock(&w->lock);
        if (turn->todo) t->next_sweep = now;
        if (turn->status == DTI_TURN_OK) {
            dti_answers(&t->box, turn);
            pthread_mutex_lock(&w->lock);
            note_dry(t, turn);
            pthread_mutex_unlock(&w->lock);
        }
        t->box.n = 0;
        dti_arena_reset(&t->box.mem);
        return;
    }
}

static void exchange(io *t, bool sweep) {
    exchange_turn(t, sweep);
    t->rung = false;
    pthread_mutex_lock(&t->w->lock);
    t->link->asked_at = 0;
    memset(t->link->asked, 0, sizeof t->link->asked);
    dti_io_room(t->w);           // what it did not bring, another may
    pthread_mutex_unlock(&t->w->lock);
}

// ---- sleep -----------------------------------------------------------------------------

// Tells the bell what to ring for. True if it is news: then one more look.
static bool fall_asleep(io *t) {
    dtask_worker *w = t->w;
    uint64_t hash = 1;
    for (size_t i = 0; i < t->nserved; i++) hash = hash * 0x100000001b3u + t->served[i];
    if (t->asleep && t->asleep_for == hash) return false;
    t->asleep = true;
    t->asleep_for = hash;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < w->nhandlers; i++) t->link->of[i].dry &= t->link->of[i].room; // what it is not rung for it does not know
    pthread_mutex_unlock(&w->lock);
    w->engine->ops->bell_asleep(t->link->bell, t->served, t->nserved, NULL);
    return true;
}

static void wake_up(io *t) {
    if (!t->asleep) return;
    t->w->engine->ops->bell_awake(t->link->bell);
    t->asleep = false;
}

static void earlier(int64_t *at, int64_t other) {
    if (other && other < *at) *at = other;
}

static void sleep_until(io *t, int64_t at) {
    dtask_worker *w = t->w;
    struct pollfd fds[] = {{t->link->ring_fd, POLLIN, 0}, {w->engine->ops->bell_fd(t->link->bell), POLLIN, 0}};
    int64_t us = at - dti_mono_us();
    struct timespec ts = {us > 0 ? us / 1000000 : 0, us > 0 ? us % 1000000 * 1000 : 0};
    ppoll(fds, 2, &ts, NULL);
    if (fds[0].revents) {
        uint64_t n;
        ssize_t r = read(t->link->ring_fd, &n, sizeof n);
        (void)r;
    }
    if (fds[1].revents) {
        wake_up(t);
        t->rung = true;
        pthread_mutex_lock(&w->lock);
        dry_none(t->link);
        // It may be rung for what is due, which it hears of by a sweep; an
        // only link looks soon enough.
        if (w->nlive > 1 && !w->engine->sees_deaths) t->next_sweep = 0;
        pthread_mutex_unlock(&w->lock);
    }
    w->engine->ops->bell_beat(t->link->bell);
}

// L: the turn that goes now asks for what it wants.
static void ask(io *t, int64_t now) {
    dti_link *l = t->link;
    if (!t->claims) return;
    memcpy(l->asked, t->asks, sizeof l->asked);
    l->asked_at = now;
    l->turn = ++t->w->turns;
}

// One round: a turn if there is reason for one, else sleep.
static bool io_round(io *t) {
    dtask_worker *w = t->w;
    dti_link *l = t->link;
    int64_t now = dti_mono_us();
    if (l->unread_at && now >= l->unread_at) dti_mail_again(l);
    pthread_mutex_lock(&w->lock);
    l->io_sleeps = l->restless = false;
    if (stage(t, now) || t->left) {
        pthread_mutex_unlock(&w->lock);
        dti_worker_say(w);
        return false;
    }
    bool unsaid = w->say_end || w->say_drains || w->lines;
    if (now >= t->next_look && w->nlive < 2) dry_none(l); // of several, the one that looks asks for all
    bool sweep = now >= t->next_sweep || (now >= t->next_look && w->nlive > 1); // of several, it goes with the look
    if (l->due_at) {             // something that we caused is due, maybe before the sweep says
        int64_t in = l->due_at - dti_wall_us();
        if (in <= 0) sweep = true, l->due_at = 0;
        else earlier(&t->next_sweep, now + in);
    }
    wants(t);
    bool turn = l->urgent || (l->out && l->flush_at && now >= l->flush_at) || now >= t->next_look || want_more(t) || sweep;
    t->empty = !busy(w);
    if (turn) dti_gather(&t->box);
    int64_t until = t->next_look;
    earlier(&until, t->next_sweep);
    earlier(&until, l->flush_at);
    earlier(&until, w->limit_at);
    earlier(&until, l->unread_at);
    earlier(&until, t->cut ? now + DTI_AGAIN_US : 0);
    earlier(&until, w->leaked_at ? w->leaked_at + DTI_LEAKED_US : 0);
    earlier(&until, w->dry_at ? w->dry_at + DTI_DRY_US : 0);
    if (w->stopping && !w->hard) earlier(&until, w->grace_at);
    if (w->ready[DTI_POOL_C].n || w->ready[DTI_POOL_THREAD].n || w->ready[DTI_POOL_LOOP].n)
        earlier(&until, t->next_hungry > now ? t->next_hungry : now + DTI_STALE_US);
    if (turn) {
        ask(t, now);
    } else {
        l->io_sleeps = true;
        for (size_t i = 0; i < w->nhandlers; i++) l->restless |= !w->handlers[i]->absent && !w->handlers[i]->off && !l->of[i].dry;
    }
    pthread_mutex_unlock(&w->lock);
    if (unsaid) dti_worker_say(w);

    if (turn) {
        // Likely the last before sleep: whatever comes from here on rings.
        if (t->empty) fall_asleep(t);
        exchange(t, sweep);
        return !t->left;
    }
    if (fall_asleep(t)) {        // look once more
        pthread_mutex_lock(&w->lock);
        ask(t, now);
        pthread_mutex_unlock(&w->lock);
        exchange(t, false);
        return !t->left;
    }
    sleep_until(t, until);
    return true;
}

void *dti_io_main(void *arg) {
    dti_link *l = arg;
    dtask_worker *w = l->w;
    io *t = calloc(1, sizeof *t);
    pthread_mutex_lock(&w->lock); // all are there
    pthread_mutex_unlock(&w->lock);
    if (t) {
        t->w = t->box.w = w;
        t->link = t->box.link = l;
        while (io_round(t)) {}
    }
    if (!t || !t->left) {
        dti_arena mem = {0};
        dti_op op = {.kind = DTI_OP_HELLO, .shard = (uint8_t)l->shard, .hello = {.bye = true, .worker = l->no}};
        dti_engine_call(w->engine, &mem, &op);
        dti_arena_done(&mem);
    }
    if (t) {
        dti_arena_done(&t->box.mem);
        dti_arena_done(&t->reply);
        free(t->want);
        free(t->served);
        free(t);
    }
    pthread_mutex_lock(&w->lock);
    if (l->bell) w->engine->ops->bell_close(l->bell);
    l->bell = NULL;
    dti_link_drain(l, false);
    if (!t) dti_worker_fail(w, DTASK_ENOMEM, "no memory for the worker's I/O thread");
    pthread_mutex_unlock(&w->lock);
    dti_worker_say(w);           // the last of it before it has ended
    pthread_mutex_lock(&w->lock);
    w->ended = !--w->nlive;
    for (unsigned i = 0; i < w->nlinks; i++) dti_io_ring(&w->links[i]); // what kept this one may have kept them
    pthread_cond_broadcast(&w->moved);
    pthread_cond_broadcast(&w->work);
    if (w->ended) dti_seats_ring(w);
    pthread_mutex_unlock(&w->lock);
    dti_worker_drop(w);
    return NULL;
}
