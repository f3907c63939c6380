// A binding's handlers: its threads take seats, pull items, push outcomes.
//
// A seat of kind THREAD runs one handler at a time and has many parked; one
// of kind LOOP runs up to `slots` coroutines. What has not begun lies in one
// queue for all seats of a kind; what has begun belongs to its seat.
//
// A THREAD seat may take several items at once. It runs them in the order in
// which it got them, so the first without an outcome is the one that runs: on
// its account go `timeout` and the charge if the process dies.
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { AHEAD_US = 2000 };        // a THREAD seat takes what runs in so long

struct dti_seat {
    dtask_worker *w;
    dti_seat *next;
    dti_seat *below;             // this thread's, at another worker
    dti_poolkind pool;
    unsigned slots, running;
    unsigned parked;             // frames that come back to it
    int fd;
    bool ringing;                // fd is readable
    dtask_task *events, *events_last; // frames with news for it
    dtask_task *order;           // THREAD: what it runs, first, and has yet to run
};

static _Thread_local dti_seat *here; // this thread's, one for each worker

static dti_seat *seat_of(dtask_worker *w) {
    dti_seat *s = here;
    while (s && s->w != w) s = s->below;
    return s;
}

static void ring(dti_seat *s) {
    if (s->ringing) return;
    s->ringing = true;
    uint64_t one = 1;
    ssize_t n = write(s->fd, &one, sizeof one);
    (void)n;
}

static void unring(dti_seat *s) {
    if (!s->ringing) return;
    s->ringing = false;
    uint64_t n;
    ssize_t r = read(s->fd, &n, sizeof n);
    (void)r;
}

// L: a seat that parked frames come back to leaves what is new to one that
// has none: they would wait behind it, for it may take long.
static bool yields(const dti_seat *s) {
    if (!s->parked || s->pool != DTI_POOL_THREAD) return false;
    for (const dti_seat *o = s->w->seats; o; o = o->next)
        if (o->pool == s->pool && !o->parked && o->running < o->slots) return true;
    return false;
}

// L: whether this seat would get something from the common queue.
static bool takes(const dti_seat *s) {
    if (yields(s)) return false;
    const dtask_worker *w = s->w;
    const dtask_task *f = w->ready[s->pool].first;
    return f && !w->stopping && s->running < s->slots && (dti_may_begin((dtask_worker *)w) || w->alone == f);
}

void dti_seats_wake(dtask_worker *w, dti_poolkind pool) {
    unsigned n = w->ready[pool].n;
    for (dti_seat *s = w->seats; s; s = s->next) {
        if (s->pool != pool) continue;
        if (s->events) ring(s);
        if (!n || !takes(s)) continue;
        unsigned room = s->slots - s->running;
        n -= n < room ? n : room;
        ring(s);
    }
}

unsigned dti_seats_room(dtask_worker *w, dti_poolkind pool, unsigned *out_slots) {
    unsigned room = 0;
    *out_slots = 0;
    for (dti_seat *s = w->seats; s; s = s->next) {
        if (s->pool != pool) continue;
        *out_slots += s->slots;
        if (s->slots > s->running) room += s->slots - s->running;
    }
    return room;
}

void dti_seats_ring(dtask_worker *w) {
    for (dti_seat *s = w->seats; s; s = s->next) ring(s);
}

// ---- events of frames that have begun -------------------------------------------

void dti_seat_event(dtask_task *f, unsigned event) {
    dti_seat *s = f->seat;
    if (!s) return;              // its seat was left: nobody will run it
    f->events |= (uint8_t)(1u << event);
    if (!f->in_seat) {
        f->in_seat = true;
        f->seat_next = NULL;
        if (s->events_last) s->events_last->seat_next = f;
        else s->events = f;
        s->events_last = f;
    }
    ring(s);
}

static void event_cut(dti_seat *s, dtask_task *f) {
    if (!f->in_seat) return;
    dtask_task *before = NULL;
    for (dtask_task *i = s->events; i != f; i = i->seat_next) before = i;
    if (before) before->seat_next = f->seat_next;
    else s->events = f->seat_next;
    if (s->events_last == f) s->events_last = before;
    f->in_seat = false;
    f->events = 0;
}

void dti_seat_forget(dtask_task *f) {
    if (f->seat) event_cut(f->seat, f);
}

void dti_seat_left(dtask_task *f) {
    dti_seat *s = f->seat;
    if (!s || !f->seated) return;
    f->seated = false;
    s->running--;
    dtask_task **at = &s->order;
    while (*at && *at != f) at = &(*at)->order_next;
    if (*at) {
        bool first = at == &s->order;
        *at = f->order_next;
        f->order_next = NULL;
        if (first && s->order) dti_frame_runs(s->order);
    }
    if (takes(s) || s->events) ring(s);
}

// ---- poll ---------------------------------------------------------------------------

static void seat_begin(dti_seat *s, dtask_task *f) {
    f->seat = s;
    f->seated = true;
    s->running++;
    dti_frame_begin(f);
    if (s->pool == DTI_POOL_LOOP || !s->order) dti_frame_runs(f);
    if (s->pool == DTI_POOL_LOOP) return;
    dtask_task **at = &s->order;
    while (*at) at = &(*at)->order_next;
    *at = f;
}

// L: the next event of a frame; false: it has to wait for a slot.
static bool take_event(dti_seat *s, dtask_task *f, dtask_b_item *item) {
    static const uint8_t order[] = {DTASK_B_TIMEOUT, DTASK_B_CANCEL, DTASK_B_UNWIND, DTASK_B_RESUME};
    unsigned event = 0;
    for (size_t i = 0; i < sizeof order && !event; i++)
        if (f->events >> order[i] & 1) event = order[i];
    bool resumes = f->state == DTI_F_WOKEN; // it holds no slot as yet
    if (resumes && event == DTASK_B_RESUME && s->pool == DTI_POOL_LOOP && s->running >= s->slots) return false;
    if (resumes && !f->lost && !f->unwind && s->w->alone != f && !dti_may_begin(s->w)) return false;
    event_cut(s, f);
    if (f->unwind && resumes) event = DTASK_B_UNWIND;
    *item = (dtask_b_item){.task = f, .type = f->h->index, .event = event};
    if (resumes) {
        s->parked--;
        seat_begin(s, f);
    }
    if (event == DTASK_B_RESUME || (event == DTASK_B_CANCEL && resumes)) dti_wait_disarm(f);
    return true;
}

static size_t take_events(dti_seat *s, dtask_b_item *items, size_t cap) {
    size_t n = 0;
    for (dtask_task *f = s->events, *next; f && n < cap; f = next) {
        next = f->seat_next;
        if (take_event(s, f, &items[n])) n++;
    }
    return n;
}

// How much longer a THREAD seat may take: short ones without a timeout.
static bool takes_more(const dti_seat *s, const dtask_task *f, double *us, size_t n) {
    if (!n) return true;
    if (s->pool == DTI_POOL_LOOP) return true;
    if (f->h->mean_us < 0 || f->row.timeout_ms || f->alone || !f->row.crashes) return false;
    *us += f->h->mean_us;
    return *us < AHEAD_US;
}

static size_t take_ready(dti_seat *s, dtask_b_item *items, size_t cap, size_t had) {
    dtask_worker *w = s->w;
    size_t n = 0;
    double us = 0;
    // Its share, so that the other seats do not find the queue empty.
    unsigned seats = 1;
    for (dti_seat *o = w->seats; o; o = o->next) seats += o->pool == s->pool && o != s && o->running < o->slots;
    size_t share = (w->ready[s->pool].n + seats - 1) / seats;
    if (cap > share) cap = share;
    while (n < cap && (n ? w->ready[s->pool].n && dti_may_begin(w) : takes(s))) {
        if (s->pool == DTI_POOL_LOOP && s->running >= s->slots) break;
        if (s->pool == DTI_POOL_THREAD && had && n == 0) break; // it has something to run first
        if (!takes_more(s, w->ready[s->pool].first, &us, n)) break;
        dtask_task *f = dti_queue_pop(&w->ready[s->pool]);
        if (n == 0 && f->h->mean_us > 0) us = f->h->mean_us;
        seat_begin(s, f);
        items[n++] = (dtask_b_item){.task = f, .type = f->h->index, .event = DTASK_B_RUN, .data = f->args};
    }
    return n;
}

dtask_err dtask_b_poll(dtask_worker *w, dtask_b_item *items, size_t cap, int ms, size_t *out_n) {
    dti_seat *s = seat_of(w);
    dtask_err err = dti_app_check(w->app);
    if (err) return err;
    if (!s) return dti_fail(DTASK_EUSAGE, "this thread has no seat at that worker");
    int64_t until = ms < 0 ? INT64_MAX : dti_mono_us() + (int64_t)ms * 1000;
    *out_n = 0;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        size_t n = take_events(s, items, cap);
        n += take_ready(s, items + n, cap - n, n);
        bool ended = w->ended && !s->events;
        // What is left of events when there was room for more waits for a slot.
        if (takes(s) || (n == cap && s->events) || ended) ring(s);
        else unring(s);
        if (n && w->ready[s->pool].n) dti_seats_wake(w, s->pool);
        pthread_mutex_unlock(&w->lock);
        if (n) {
            *out_n = n;
            return DTASK_OK;
        }
        if (ended) return dti_fail(DTASK_EUSAGE, "the worker has stopped: leave the seat");
        int64_t left = until - dti_mono_us();
        if (left <= 0) return DTASK_OK;
        struct pollfd fd = {s->fd, POLLIN, 0};
        int wait = left > 3600000000 ? 3600000 : (int)((left + 999) / 1000);
        if (poll(&fd, 1, wait) < 0 && errno == EINTR) return DTASK_OK; // the binding looks at its signals
    }
}

int dtask_b_fd(dtask_worker *w) {
    dti_seat *s = seat_of(w);
    return s ? s->fd : -1;
}

// ---- commit ------------------------------------------------------------------------------

static dtask_err set_value(dtask_task *f, dtask_str data) {
    if (f->given_up) return DTASK_OK;
    f->value.n = 0;
    if (!data.n || dti_buf_add(&f->value, data.p, data.n)) return DTASK_OK;
    dti_buf_done(&f->value);
    f->value = (dti_buf){0};
    return dti_fail(DTASK_ENOMEM, "no memory for an outcome");
}

static dtask_err check_data(dtask_task *f, const dtask_b_outcome *o) {
    const dti_conf *conf = &f->w->app->conf;
    if (!o->data.n) return DTASK_OK;
    if (o->data.n > conf->max_payload)
        return dti_fail(DTASK_ETOOBIG, "the outcome of %s has %zu bytes, over max_payload (%zu): store it elsewhere and return where",
            f->h->name, o->data.n, conf->max_payload);
    dtask_err err = dti_mp_check(o->data, "the outcome");
    if (!err && o->what == DTASK_B_DONE && f->h->info && f->h->info->sig)
        err = dti_sig_check_result(f->h->info->sig, f->h->name, o->data);
    return err;
}

static dtask_err commit_retry(dtask_task *f, dtask_str data) {
    double after;
    bool counted = true;
    dtask_str map = dti_mp_at(data, 0), at = dti_mp_at(data, 1);
    f->retry_after_us = dti_mp_float(at, &after) && after >= 0 ? (int64_t)(after < 4e12 ? after * 1e6 : 4e18) : -1;
    dti_mp_bool(dti_mp_at(data, 2), &counted);
    f->freed = !counted;
    return set_value(f, map);
}

// L
static dtask_err commit_wait(dtask_task *f, bool stay) {
    dtask_worker *w = f->w;
    // What was armed is gone if it was given up since.
    if (!f->nwaits && !f->given_up) return dti_fail(DTASK_EUSAGE, "nothing is armed: call dtask_b_await before PARK or STAY");
    bool drop = w->stopping && !f->cancelled;
    if (!stay) {
        dti_frame_pause(f);
        f->seat->parked++;
        dti_seat_left(f);
        f->state = DTI_F_PARKING;
    }
    if (f->given_up && !stay) f->unwind = true; // what it awaits will not come to it
    if (f->lost || dti_wait_holds(f) || (drop && !stay)) {
        if (drop && !stay && !dti_wait_holds(f)) f->unwind = true;
        dti_frame_resume(f, f->unwind || f->lost ? DTASK_B_UNWIND : f->cancelled ? DTASK_B_CANCEL : DTASK_B_RESUME);
    } else {
        dti_wait_park(f, stay ? DTI_STAY : DTI_WARM);
    }
    return DTASK_OK;
}

static dtask_err commit_one(dtask_worker *w, const dtask_b_outcome *o) {
    dtask_task *f = o->task;
    dtask_err err = check_data(f, o);
    if (err) return err;
    static const dti_outcome ends[] = {[DTASK_B_DONE] = DTI_O_DONE, [DTASK_B_FAIL] = DTI_O_FAIL, [DTASK_B_FATAL] = DTI_O_FATAL,
        [DTASK_B_RETRY] = DTI_O_RETRY, [DTASK_B_CANCELLED] = DTI_O_CANCELLED, [DTASK_B_THEN] = DTI_O_THEN,
        [DTASK_B_UNWOUND] = DTI_O_UNWOUND, [DTASK_B_SKIP] = DTI_O_SKIP};
    if (o->what < DTASK_B_DONE || o->what > DTASK_B_SKIP) return dti_fail(DTASK_EARGS, "there is no outcome %u", o->what);
    pthread_mutex_lock(&w->lock);
    if (!f->live || f->state != DTI_F_RUNNING) {
        err = dti_fail(DTASK_EUSAGE, "this task does not run: it has an outcome, or is parked");
    } else if (o->what == DTASK_B_PARK || o->what == DTASK_B_STAY) {
        err = commit_wait(f, o->what == DTASK_B_STAY);
    } else if (o->what == DTASK_B_THEN && !f->become && !f->lost && !f->given_up) {
        err = dti_fail(DTASK_EUSAGE, "dtask_b_then was not called for this task");
    } else {
        err = o->what == DTASK_B_RETRY ? commit_retry(f, o->data) : set_value(f, o->data);
        if (!err) dti_frame_end(f, ends[o->what]);
    }
    pthread_mutex_unlock(&w->lock);
    return err;
}

// An outcome that cannot be stored is a failure that says why.
static dtask_err commit_or_fail(dtask_worker *w, const dtask_b_outcome *o) {
    dtask_err err = commit_one(w, o);
    if (err != DTASK_EARGS && err != DTASK_ETOOBIG) return err;
    dti_buf map = {0};
    dti_error_put(&map, err == DTASK_ETOOBIG ? "TooBig" : "BadArguments", dti_strz(dtask_err_detail()), "");
    dtask_b_outcome failed = {.task = o->task, .what = DTASK_B_FATAL, .data = dti_str(map.p, map.n)};
    err = map.failed ? dti_fail(DTASK_ENOMEM, "no memory for an error") : commit_one(w, &failed);
    dti_buf_done(&map);
    return err;
}

dtask_err dtask_b_commit(dtask_worker *w, const dtask_b_outcome *outcomes, size_t n) {
    dtask_err first = dti_app_check(w->app);
    if (first) return first;
    for (size_t i = 0; i < n; i++) {
        dtask_err err = commit_or_fail(w, &outcomes[i]);
        if (!first) first = err;
    }
    return first;
}

// ---- waits ----------------------------------------------------------------------------------

dtask_err dtask_b_await(dtask_task *f, dtask_child *const *children, size_t n, int flags, int64_t ms) {
    dtask_err err = dti_app_check(f->w->app);
    if (!err) err = dti_frame_broken(f);
    return err ? err : dti_wait_arm(f, children, n, flags, ms, false);
}

int dtask_b_ready(dtask_task *f) {
    dtask_worker *w = f->w;
    if (dti_app_check(w->app)) return 0;
    pthread_mutex_lock(&w->lock);
    bool ready = f->nwaits && dti_wait_holds(f);
    if (ready && !f->given_up && f->end == DTI_END_PARK && !f->end_flying) dti_end_set(f, DTI_END_NONE);
    if (ready) dti_wait_disarm(f);
    pthread_mutex_unlock(&w->lock);
    return ready;
}

// ---- sit and leave -----------------------------------------------------------------------------

dtask_err dtask_b_sit(dtask_worker *w, int kind, unsigned slots) {
    dtask_err err = dti_app_check(w->app);
    if (err) return err;
    if (seat_of(w)) return dti_fail(DTASK_EUSAGE, "this thread has a seat at that worker already");
    if (kind != DTASK_B_THREAD && kind != DTASK_B_LOOP) return dti_fail(DTASK_EARGS, "a seat is of kind THREAD or LOOP");
    if (!slots) return dti_fail(DTASK_EARGS, "a seat has at least one slot");
    dti_seat *s = calloc(1, sizeof *s);
    if (!s) return dti_fail(DTASK_ENOMEM, "no memory for a seat");
    s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->fd < 0) {
        free(s);
        return dti_fail(DTASK_ENOMEM, "no descriptor for a seat: %s", strerror(errno));
    }
    s->w = w;
    s->pool = kind == DTASK_B_LOOP ? DTI_POOL_LOOP : DTI_POOL_THREAD;
    s->slots = slots;
    dti_worker_hold(w);
    pthread_mutex_lock(&w->lock);
    s->next = w->seats;
    w->seats = s;
    dti_io_ring_all(w); // there is room now
    pthread_mutex_unlock(&w->lock);
    s->below = here;
    here = s;
    return DTASK_OK;
}

// What it ran or had parked is nobody's now: back, uncounted.
static void abandon(dtask_task *f) {
    dtask_worker *w = f->w;
    dti_frame_pause(f);
    event_cut(f->seat, f);
    dti_seat_left(f);
    f->seat = NULL;
    f->live = false;
    dti_queue_cut(&w->parked, f);
    dti_queue_cut(&w->lonely, f);
    if (!f->lost && !f->given_up && f->state != DTI_F_ENDING) {
        dti_wait_disarm(f);
        f->unstarted = false;
        dti_end_set(f, DTI_END_RELEASE);
        dti_out_add(f, true);
    }
    f->state = DTI_F_ENDING;
    dti_frame_rest(f);
}

void dtask_b_leave(dtask_worker *w) {
    dti_seat *s = seat_of(w);
    if (!s) return;
    dti_seat **mine = &here;
    while (*mine != s) mine = &(*mine)->below;
    *mine = s->below;
    if (dti_worker_forked(w)) return;
    pthread_mutex_lock(&w->lock);
    for (dtask_task *f = w->all, *next; f; f = next) {
        next = f->after;
        if (f->seat == s) abandon(f);
    }
    dti_seat **at = &w->seats;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&w->lock);
    close(s->fd);
    free(s);
    dti_worker_drop(w);
}
