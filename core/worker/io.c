// The I/O thread: the only one that talks to the engine for the worker's
// claims and outcomes. One turn is in flight, the next gathers meanwhile; so
// light load is fast and heavy load makes its batches by itself.
//
// Guaranteed: a turn is resent, byte for byte, until it is answered, or the
// worker ends past engine_timeout; one whose lease may have lapsed drops all
// its frames before it goes on (it fences itself); an idle worker sleeps on
// its bell and looks once a second.
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

void dti_io_ring(dtask_worker *w) {
    w->io_sleeps = false;
    uint64_t one = 1;
    ssize_t n = write(w->stop_fd, &one, sizeof one);
    (void)n;                     // full is as good: it is readable
}

void dti_out_add(dtask_task *f, bool urgent) {
    dtask_worker *w = f->w;
    if (f->flying) return;       // goes with its answer
    if (!f->listed) {
        f->listed = true;
        f->out_next = NULL;
        if (w->out_last) w->out_last->out_next = f;
        else w->out = f;
        w->out_last = f;
        w->nout++;
    }
    if (urgent && !w->urgent) {
        w->urgent = true;
        if (w->io_sleeps) dti_io_ring(w);
    }
}

typedef struct {                 // the thread's own
    dtask_worker *w;
    dti_turnbox box;
    dti_arena reply;
    dti_want *want; size_t nwant, cwant;
    unsigned claims;             // wanted in all
    bool idle_slots;             // some of them could begin at once
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

static void want_of(io *t, dti_handler *h, unsigned n) {
    dtask_worker *w = t->w;
    for (size_t i = 0; i < w->nserved; i++) {
        if (w->served[i].handler != h->index) continue;
        if (!dti_grow(&t->want, t->nwant, &t->cwant, sizeof *t->want)) return;
        t->want[t->nwant++] = (dti_want){w->served[i].no, n};
    }
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
    t->nwant = t->claims = 0;
    t->idle_slots = false;
    for (size_t i = 0; i < w->nhandlers; i++) w->handlers[i]->wanted = w->handlers[i]->got = 0;
    if (w->stopping || !dti_may_begin(w) || (w->drain && busy(w))) return;
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
        for (size_t i = 0; i < w->nhandlers; i++) {
            dti_handler *h = w->handlers[i];
            if ((int)h->pool != pool || h->absent || h->off) continue;
            h->wanted = wanted(w, h, room, slots, queued_us);
            // None of what waits here is wanted, but who else wants it is.
            if (h->wanted || h->queued) want_of(t, h, h->wanted);
            if (!h->wanted) continue;
            if (h->wanted > most) most = h->wanted;
            if (room > 0 && !h->dry) t->idle_slots = true;
        }
        t->claims += most;
    }
}

static bool want_more(const io *t) {
    if (t->idle_slots) return true;
    dtask_worker *w = t->w;
    for (size_t i = 0; i < w->nhandlers; i++) {
        const dti_handler *h = w->handlers[i];
        if (h->wanted && !h->dry && w->ready[h->pool].n < h->wanted) return true;
    }
    return false;
}

static void dry_none(dtask_worker *w) {
    for (size_t i = 0; i < w->nhandlers; i++) w->handlers[i]->dry = false;
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
        if (!w->engine->ops->hungry(w->engine, w->bell, h->info->no)) continue;
        h->modest_until = now + DTI_LOOK_US;
        unsigned keep = h->queued / 2;
        dti_queue rest = {0};
        for (dtask_task *f; (f = dti_queue_pop(q));) {
            if (f->h != h || now - f->queued_at < DTI_STALE_US || keep) {
                if (f->h == h && keep) keep--;
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
        dry_none(w);
    }
}

// L: stopping begins: what has not begun goes back, what waits is dropped.
static void drain_begin(dtask_worker *w, int64_t now) {
    w->stopping = true;
    w->grace_at = now + (int64_t)w->grace_ms * 1000;
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
    dti_app_log(w->app, LOG_WARNING, NULL, "%s: what was claimed is dropped, its outcomes will be refused", why);
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
    while (dti_worker_hello(w)) {
        if (dti_mono_us() < until && !w->stops) {
            poll(NULL, 0, 100);
            continue;
        }
        pthread_mutex_lock(&w->lock);
        dti_worker_fail(w, DTASK_EENGINE, dtask_err_detail());
        pthread_mutex_unlock(&w->lock);
        t->left = true;
        return;
    }
    t->asleep = false;
    t->failing = 0;
    dry_none(w);
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
    bool done = stage(t, now);   // nothing is held any more
    if (done || w->hard || now - t->failing >= w->app->conf.engine_timeout_us) {
        dti_frames_void(&t->box);
        if (!done) dti_worker_fail(w, err, why);
        t->left = !done;
        pthread_mutex_unlock(&w->lock);
        return false;
    }
    pthread_mutex_unlock(&w->lock);
    if (now - w->alive_at > w->conf.lease_us) {
        fence(t, "no turn went well for a whole lease");
        return false;
    }
    poll(NULL, 0, now - t->failing < 100000 ? 5 : 200);
    return true;
}

// Between two turns, whatever the bell says: for most engines they renew the
// lease.
static int64_t look_us(const dtask_worker *w) {
    return w->conf.lease_us / 3 < DTI_LOOK_US ? w->conf.lease_us / 3 : DTI_LOOK_US;
}

static void swept(io *t, const dti_op *op, int64_t now) {
    dtask_worker *w = t->w;
    int64_t most = w->engine->sees_deaths ? DTI_DEATHS_US : DTI_LOOK_US;
    t->next_sweep = now + most;
    if (op->err) return;
    int64_t in = op->sweep.next - dti_wall_us();
    if (op->sweep.next && in < most) t->next_sweep = now + (in > 0 ? in : 0);
    if (op->sweep.steps) dry_none(w);
}

static void note_dry(io *t, const dti_turn *turn) {
    dtask_worker *w = t->w;
    for (size_t i = 0; i < w->nhandlers; i++) {
        dti_handler *h = w->handlers[i];
        if (h->wanted) h->dry = turn->nclaims < turn->n && h->got < h->wanted;
    }
    // What had to run alone had its chance.
    if (turn->empty && turn->n) w->drain = false;
}

static void exchange(io *t, bool sweep) {
    dtask_worker *w = t->w;
    dti_compose(&t->box);
    if (t->box.failed) {         // sent without them, children would be lost in silence
        fence(t, "no memory for a turn");
        return;
    }
    uint64_t nonce = w->no << 32 | (++w->count & UINT32_MAX);
    for (;;) {
        int64_t now = dti_mono_us();
        w->engine->ops->bell_beat(w->bell); // a worker that is never idle lives too
        dti_op ops[2] = {0};
        size_t n = 0;
        if (sweep) ops[n++] = (dti_op){.kind = DTI_OP_SWEEP, .sweep = {.budget = DTI_CASCADE * 4}};
        ops[n++] = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = w->no, .era = w->era, .nonce = nonce, .got = w->got,
            .messages = t->box.messages, .nmessages = t->box.n, .want = t->want, .nwant = (uint32_t)t->nwant, .n = t->claims,
            .empty = t->empty, .only = w->only}};
        dti_turn *turn = &ops[n - 1].turn;
        dti_arena_reset(&t->reply);
        w->engine->ops->call(w->engine, &t->reply, ops, n);
        if (sweep) swept(t, &ops[0], now);
        if (ops[n - 1].err) {
            if (send_again(t, ops[n - 1].err)) continue;
            return;
        }
        t->failing = 0;
        if (turn->status == DTI_TURN_DEAD || turn->status == DTI_TURN_ERA) {
            fence(t, "this worker was taken for dead");
            return;
        }
        w->alive_at = now;
        t->next_look = now + look_us(w);
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

// ---- sleep -----------------------------------------------------------------------------

// Tells the bell what to ring for. True if it is news: then one more look.
static bool fall_asleep(io *t) {
    dtask_worker *w = t->w;
    uint64_t hash = 1;
    uint32_t *types = dti_alloc(&t->box.mem, (t->nwant + 1) * sizeof *types);
    size_t n = 0;
    if (!types) return false;
    for (size_t i = 0; i < t->nwant; i++) {
        if (!t->want[i].n) continue;
        types[n++] = t->want[i].type;
        hash = hash * 0x100000001b3u + t->want[i].type;
    }
    if (t->asleep && t->asleep_for == hash) return false;
    t->asleep = true;
    t->asleep_for = hash;
    w->engine->ops->bell_asleep(w->bell, types, n, NULL);
    return true;
}

static void wake_up(io *t) {
    if (!t->asleep) return;
    t->w->engine->ops->bell_awake(t->w->bell);
    t->asleep = false;
}

static void earlier(int64_t *at, int64_t other) {
    if (other && other < *at) *at = other;
}

static void sleep_until(io *t, int64_t at) {
    dtask_worker *w = t->w;
    struct pollfd fds[] = {{w->stop_fd, POLLIN, 0}, {w->engine->ops->bell_fd(w->bell), POLLIN, 0}};
    int64_t us = at - dti_mono_us();
    struct timespec ts = {us > 0 ? us / 1000000 : 0, us > 0 ? us % 1000000 * 1000 : 0};
    ppoll(fds, 2, &ts, NULL);
    if (fds[0].revents) {
        uint64_t n;
        ssize_t r = read(w->stop_fd, &n, sizeof n);
        (void)r;
    }
    if (fds[1].revents) {
        wake_up(t);
        pthread_mutex_lock(&w->lock);
        dry_none(w);
        pthread_mutex_unlock(&w->lock);
    }
    w->engine->ops->bell_beat(w->bell);
}

// One round: a turn if there is reason for one, else sleep.
static bool io_round(io *t) {
    dtask_worker *w = t->w;
    int64_t now = dti_mono_us();
    if (w->unread_at && now >= w->unread_at) dti_mail_again(w);
    pthread_mutex_lock(&w->lock);
    w->io_sleeps = false;
    if (stage(t, now) || t->left) {
        pthread_mutex_unlock(&w->lock);
        return false;
    }
    if (now >= t->next_look) dry_none(w);
    bool sweep = now >= t->next_sweep;
    if (w->due_at) {             // something that we caused is due, maybe before the sweep says
        int64_t in = w->due_at - dti_wall_us();
        if (in <= 0) sweep = true, w->due_at = 0;
        else earlier(&t->next_sweep, now + in);
    }
    wants(t);
    bool turn = w->urgent || (w->out && w->flush_at && now >= w->flush_at) || now >= t->next_look || want_more(t) || sweep;
    t->empty = !busy(w);
    if (turn) dti_gather(&t->box);
    int64_t until = t->next_look;
    earlier(&until, t->next_sweep);
    earlier(&until, w->flush_at);
    earlier(&until, w->limit_at);
    earlier(&until, w->unread_at);
    earlier(&until, w->leaked_at ? w->leaked_at + DTI_LEAKED_US : 0);
    earlier(&until, w->dry_at ? w->dry_at + DTI_DRY_US : 0);
    if (w->stopping && !w->hard) earlier(&until, w->grace_at);
    if (w->ready[DTI_POOL_C].n || w->ready[DTI_POOL_THREAD].n || w->ready[DTI_POOL_LOOP].n)
        earlier(&until, t->next_hungry > now ? t->next_hungry : now + DTI_STALE_US);
    if (!turn) w->io_sleeps = true;
    pthread_mutex_unlock(&w->lock);

    if (turn) {
        // Likely the last before sleep: whatever comes from here on rings.
        if (t->empty) fall_asleep(t);
        exchange(t, sweep);
        return !t->left;
    }
    if (fall_asleep(t)) {        // look once more
        exchange(t, false);
        return !t->left;
    }
    sleep_until(t, until);
    return true;
}

void *dti_io_main(void *arg) {
    dtask_worker *w = arg;
    io *t = calloc(1, sizeof *t);
    if (t) {
        t->w = t->box.w = w;
        while (io_round(t)) {}
    }
    if (!t || !t->left) {
        dti_arena mem = {0};
        dti_op op = {.kind = DTI_OP_HELLO, .hello = {.bye = true, .worker = w->no}};
        dti_engine_call(w->engine, &mem, &op);
        dti_arena_done(&mem);
    }
    if (t) {
        dti_arena_done(&t->box.mem);
        dti_arena_done(&t->reply);
        free(t->want);
        free(t);
    }
    pthread_mutex_lock(&w->lock);
    if (w->bell) w->engine->ops->bell_close(w->bell);
    w->bell = NULL;
    if (!t) dti_worker_fail(w, DTASK_ENOMEM, "no memory for the worker's I/O thread");
    w->ended = true;
    pthread_cond_broadcast(&w->moved);
    pthread_cond_broadcast(&w->work);
    dti_seats_ring(w);
    pthread_mutex_unlock(&w->lock);
    dti_worker_drop(w);
    return NULL;
}
