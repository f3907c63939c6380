// A frame is a claimed task and its life in this process: from the claim to
// the answer to its outcome. It is freed when its handler has returned, no
// message of it is in flight and its token is used up or void.
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- queues ----------------------------------------------------------------

void dti_queue_push(dti_queue *q, dtask_task *f) {
    f->next = NULL;
    if (q->last) q->last->next = f;
    else q->first = f;
    q->last = f;
    q->n++;
}

static void push_front(dti_queue *q, dtask_task *f) {
    f->next = q->first;
    q->first = f;
    if (!q->last) q->last = f;
    q->n++;
}

dtask_task *dti_queue_pop(dti_queue *q) {
    dtask_task *f = q->first;
    if (!f) return NULL;
    q->first = f->next;
    if (!q->first) q->last = NULL;
    q->n--;
    f->next = NULL;
    return f;
}

bool dti_queue_cut(dti_queue *q, dtask_task *f) {
    dtask_task *before = NULL;
    for (dtask_task *i = q->first; i; before = i, i = i->next) {
        if (i != f) continue;
        if (before) before->next = f->next;
        else q->first = f->next;
        if (q->last == f) q->last = before;
        q->n--;
        f->next = NULL;
        return true;
    }
    return false;
}

// ---- the table of frames, by job and ord ------------------------------------

static size_t place(uint64_t job, uint32_t ord, size_t cap) {
    return (size_t)((job * 0x9e3779b97f4a7c15u ^ ord * 0xc2b2ae3d27d4eb4fu) >> 20) & (cap - 1);
}

static bool table_grow(dtask_worker *w) {
    size_t cap = w->ctable ? w->ctable * 2 : 64;
    dtask_task **t = calloc(cap, sizeof *t);
    if (!t) return false;
    for (size_t i = 0; i < w->ctable; i++)
        for (dtask_task *f = w->table[i], *next; f; f = next) {
            next = f->chain;
            dtask_task **slot = &t[place(f->job, f->ord, cap)];
            f->chain = *slot;
            *slot = f;
        }
    free(w->table);
    w->table = t;
    w->ctable = cap;
    return true;
}

dtask_task *dti_frame_find(dtask_worker *w, uint64_t job, uint32_t ord) {
    if (!w->ctable) return NULL;
    dtask_task *f = w->table[place(job, ord, w->ctable)];
    // One that was lost may lie beside the one that was claimed anew.
    while (f && (f->job != job || f->ord != ord || f->lost)) f = f->chain;
    return f;
}

dtask_task *dti_frame_new(dti_link *link, dti_handler *h, const dti_claim *c, dtask_err *out_fits) {
    dtask_worker *w = link->w;
    if (w->ntable >= w->ctable && !table_grow(w)) return NULL;
    dti_buf filled = {0};
    dtask_str args = c->args;
    *out_fits = DTASK_OK;
    if (c->ndeps) {
        *out_fits = dti_args_fill(&filled, c);
        if (*out_fits == DTASK_ENOMEM) {
            dti_buf_done(&filled);
            return NULL;
        }
        if (!*out_fits) args = dti_str(filled.p, filled.n);
    }
    dtask_task *f = calloc(1, sizeof *f + c->id.n + args.n + c->trigger.n + 3);
    if (!f) {
        dti_buf_done(&filled);
        return NULL;
    }
    char *p = (char *)(f + 1);
    dtask_str *to[] = {&f->id, &f->args, &f->trigger};
    const dtask_str from[] = {c->id, args, c->trigger};
    for (int i = 0; i < 3; i++) {
        if (from[i].n) memcpy(p, from[i].p, from[i].n);
        *to[i] = dti_str(p, from[i].n);
        p += from[i].n + 1;      // a zero byte behind each
    }
    dti_buf_done(&filled);
    static atomic_uint claims;
    f->tag = atomic_fetch_add_explicit(&claims, 1, memory_order_relaxed) & 0xffffff;
    f->w = w;
    f->link = link;
    f->h = h;
    f->job = c->job;
    f->ord = c->ord;
    f->token = c->token;
    f->row = c->row;
    f->logread = c->row.logn;
    f->alone = c->row.lost > 0;
    f->retry_after_us = -1;
    f->serial = f->quiet_serial = 1;
    f->queued_at = dti_mono_us();
    if (c->row.bits & DTI_CANCEL) f->cancelled = true;
    dtask_task **slot = &w->table[place(f->job, f->ord, w->ctable)];
    f->chain = *slot;
    *slot = f;
    w->ntable++;
    f->after = w->all;
    if (w->all) w->all->prev = f;
    w->all = f;
    return f;
}

static void alone_over(dtask_task *);

static void notes_free(dti_notes *v) {
    for (size_t i = 0; i < v->n; i++) free((char *)v->v[i].data.p);
    free(v->v);
}

void dti_frame_rest(dtask_task *f) {
    if (!f->lost || f->live || f->flying) return;
    dtask_worker *w = f->w;
    if (w->alone == f) {         // chosen, but it did not begin
        alone_over(f);
        dti_lonely_next(w);
    }
    dtask_task **slot = &w->table[place(f->job, f->ord, w->ctable)];
    while (*slot != f) slot = &(*slot)->chain;
    *slot = f->chain;
    w->ntable--;
    if (f->prev) f->prev->after = f->after;
    else w->all = f->after;
    if (f->after) f->after->prev = f->prev;
    if (f->listed) {
        dtask_task *before = NULL;
        dti_link *l = f->link;
        for (dtask_task *i = l->out; i != f; i = i->out_next) before = i;
        if (before) before->out_next = f->out_next;
        else l->out = f->out_next;
        if (l->out_last == f) l->out_last = before;
        l->nout--;
    }
    dti_seat_forget(f);
    dti_wait_disarm(f);
    dti_unsent_drop(f);
    if (f->become) dti_unsent_free(f->become);
    dti_children_free(f);
    dti_match_free(f->match);
    notes_free(&f->notes);
    notes_free(&f->notes_sent);
    free(f->acks.v);
    free(f->acks_sent.v);
    free(f->waits);
    free(f->own);
    free(f->joins);
    free(f->keyed);
    free(f->seen);
    free(f->broken);
    dti_buf_done(&f->value);
    dti_buf_done(&f->fallen.map);
    free(f->fallen.text);
    dti_buf_done(&f->context);
    dti_buf_done(&f->progress);
    dti_buf_done(&f->progress_sent);
    free(f);
    if (w->stopping) pthread_cond_broadcast(&w->moved);
}

void dti_frame_lose(dtask_task *f) {
    dtask_worker *w = f->w;
    if (f->lost) return;
    f->lost = true;
    f->cancelled = true;
    dti_end_set(f, DTI_END_NONE);
    switch (f->state) {
    case DTI_F_QUEUED:
        if (dti_queue_cut(&w->ready[f->h->pool], f) || dti_queue_cut(&w->lonely, f)) f->h->queued--;
        dti_begin_anew(w);
        break;
    case DTI_F_RUNNING:
        if (f->h->pool != DTI_POOL_C) dti_seat_event(f, DTASK_B_CANCEL);
        break;
    case DTI_F_ENDING:
        break;
    case DTI_F_PARKED:
        dti_queue_cut(&w->parked, f);
        // fall through
    case DTI_F_PARKING:
        f->unwind = true;
        dti_frame_resume(f, DTASK_B_UNWIND);
        break;
    case DTI_F_WOKEN:
        f->unwind = true;
        if (dti_queue_cut(&w->lonely, f)) dti_frame_resume(f, DTASK_B_UNWIND);
        break;
    }
    pthread_cond_broadcast(&w->moved);
    alone_over(f);               // its handler may never return
    dti_lonely_next(w);
    dti_frame_rest(f);
}

// ---- slots -------------------------------------------------------------------

bool dti_may_begin(dtask_worker *w) {
    return !w->alone && !w->lonely.n;
}

// Nothing runs that what must run alone has to wait for.
bool dti_runs_dry(const dtask_worker *w) {
    return w->executing == w->staying + w->aside;
}

// What runs alone did so, or will not: what was held up may begin.
void dti_begin_anew(dtask_worker *w) {
    if (!dti_may_begin(w)) return;
    if (w->ready[DTI_POOL_C].n || w->woken.n) dti_pool_wake(w);
    for (int pool = DTI_POOL_THREAD; pool < DTI_POOLS; pool++) dti_seats_wake(w, pool);
}

static void show(const dtask_task *f, bool runs) {
    const dti_link *l = f->link;
    if (f->bell_slot && l->bell) f->w->engine->ops->bell_runs(l->bell, f->bell_slot - 1, runs ? f->job : 0, f->ord);
}

// Those that stay do not pay for what kills the process when it runs alone:
// they only wait, often for just that.
static void show_staying(const dtask_worker *w, bool runs) {
    for (const dtask_task *f = w->staying ? w->all : NULL; f; f = f->after)
        if (f->stay) show(f, runs);
}

// When nothing runs, the first of those that must run alone goes.
void dti_lonely_next(dtask_worker *w) {
    if (!dti_runs_dry(w) || w->alone || !w->lonely.n) return;
    dtask_task *f = dti_queue_pop(&w->lonely);
    w->alone = f;
    show_staying(w, false);
    if (f->state == DTI_F_QUEUED) {
        push_front(&w->ready[f->h->pool], f); // those before it must not begin
        if (f->h->pool == DTI_POOL_C) dti_pool_wake(w);
        else dti_seats_wake(w, f->h->pool);
    } else if (f->h->pool == DTI_POOL_C) {
        push_front(&w->woken, f);
        dti_pool_wake(w);
    } else {
        dti_seat_event(f, f->unwind ? DTASK_B_UNWIND : DTASK_B_RESUME);
    }
}

static void alone_over(dtask_task *f) {
    dtask_worker *w = f->w;
    if (w->alone != f) return;
    w->alone = NULL;
    show_staying(w, true);
    dti_begin_anew(w);
}

// It runs on, but first of all it waits: what must run alone, maybe what it
// waits for, need not wait for it; and if it ran alone itself, that is over.
void dti_frame_stays(dtask_task *f) {
    dtask_worker *w = f->w;
    if (f->stay) return;
    if (f->aside) f->aside = false, w->aside--;
    f->stay = true;
    w->staying++;
    alone_over(f);
    if (w->alone) show(f, false);
    dti_lonely_next(w);
}

void dti_frame_goes_on(dtask_task *f) {
    if (!f->stay) return;
    f->stay = false;
    f->w->staying--;
    show(f, true);
}

// Its end is no longer waited for. One that must run alone is.
void dti_frame_aside(dtask_task *f) {
    if (!f->executing || f->stay || f->aside || (f->alone && !f->lost && !f->given_up)) return;
    f->aside = true;
    f->w->aside++;
}

void dti_frame_runs(dtask_task *f) {
    dtask_worker *w = f->w;
    f->began_at = dti_mono_us();
    if (f->row.timeout_ms) {
        int64_t at = f->began_at + (int64_t)f->row.timeout_ms * 1000 - f->ran_us;
        if (!w->limit_at || at < w->limit_at) {
            w->limit_at = at;
            dti_io_ring_all(w);
        }
    }
    dti_link *l = f->link;
    uint64_t open = ~l->bell_slots;
    if (open && !f->bell_slot) {
        unsigned slot = (unsigned)__builtin_ctzll(open);
        l->bell_slots |= 1ull << slot;
        f->bell_slot = slot + 1;
        if (l->bell) w->engine->ops->bell_runs(l->bell, slot, f->job, f->ord);
    }
}

void dti_frame_begin(dtask_task *f) {
    dtask_worker *w = f->w;
    if (f->state == DTI_F_QUEUED) f->h->queued--;
    f->state = DTI_F_RUNNING;
    f->live = true;
    if (f->executing) return;
    f->executing = true;
    w->executing++;
    w->running[f->h->pool]++;
}

void dti_frame_pause(dtask_task *f) {
    dtask_worker *w = f->w;
    if (!f->executing) return;
    dti_frame_goes_on(f);
    if (f->aside) f->aside = false, w->aside--;
    f->executing = false;
    w->executing--;
    w->running[f->h->pool]--;
    int64_t ran = f->began_at ? dti_mono_us() - f->began_at : 0;
    f->ran_us += ran;
    f->began_at = 0;
    dti_handler *h = f->h;
    h->mean_us = h->mean_us < 0 ? (double)ran : h->mean_us + ((double)ran - h->mean_us) / 16;
    if (f->bell_slot) {
        dti_link *l = f->link;
        l->bell_slots &= ~(1ull << (f->bell_slot - 1));
        if (l->bell) w->engine->ops->bell_runs(l->bell, f->bell_slot - 1, 0, 0);
        f->bell_slot = 0;
    }
    if (f->leaks) {
        f->leaks = false;
        if (h->pool == DTI_POOL_C) w->leaked--;
        else w->seats_leaked--;
    }
    alone_over(f);
    dti_lonely_next(w);
    dti_io_room(w);
}

bool dti_frame_droppable(const dtask_task *f) {
    return f->row.crashes && f->nspawned + f->row.nkids <= DTI_KEPT_CHILDREN;
}

void dti_frame_resume(dtask_task *f, unsigned event) {
    dtask_worker *w = f->w;
    if (!f->given_up) dti_end_set(f, DTI_END_NONE);
    dti_frame_goes_on(f);
    if (f->state == DTI_F_RUNNING) { // one that stayed
        dti_seat_event(f, event);
        return;
    }
    f->state = DTI_F_WOKEN;
    if (f->alone && !f->lost) {
        dti_queue_push(&w->lonely, f);
        dti_lonely_next(w);
    } else if (f->h->pool == DTI_POOL_C) {
        dti_queue_push(&w->woken, f);
        dti_pool_wake(w);
    } else {
        dti_seat_event(f, event);
    }
}

void dti_frame_give_back(dtask_task *f) {
    f->state = DTI_F_ENDING;
    f->h->queued--;
    dti_end_set(f, DTI_END_RELEASE);
    f->unstarted = true;
    dti_out_add(f, true);
}

void dti_frame_unfit(dtask_task *f, const char *why) {
    f->state = DTI_F_ENDING;
    dti_error_put(&f->value, "BadArguments", dti_strz(why), "");
    dti_end_set(f, DTI_END_FAIL);
    dti_out_add(f, true);
}

// ---- outcomes ------------------------------------------------------------------

void dti_end_set(dtask_task *f, dti_endkind end) {
    f->end = end;
    f->end_flying = false;
}

// A failed attempt: whether another follows, and when.
static void fail(dtask_task *f, bool counted) {
    const dti_taskrow *row = &f->row;
    dti_end_set(f, DTI_END_FAIL);
    uint32_t counts = row->tries - row->freed + 1;
    f->freed = !counted && row->freed < DTI_FREED_MAX;
    f->retry = f->freed || counts <= row->retries;
    if (!f->retry) return;
    int64_t after = f->retry_after_us >= 0 ? f->retry_after_us
        : f->h->info ? dti_backoff_us(&f->h->info->backoff, counts, dti_random64()) : 0;
    f->retry_at = dti_wall_us() + after;
    if (!f->link->due_at || f->retry_at < f->link->due_at) f->link->due_at = f->retry_at;
}

// Not all that it asked for was done, so whatever it returned is no success.
static void fail_broken(dtask_task *f) {
    f->value.n = 0;
    dti_error_put(&f->value, "EngineError", dti_strz(f->broken), f->h->pool == DTI_POOL_C ? "c" : f->h->info->language);
    f->retry_after_us = -1;
    fail(f, true);
}

void dti_frame_end(dtask_task *f, dti_outcome what) {
    dti_frame_pause(f);
    f->live = false;
    if (f->h->pool != DTI_POOL_C) {
        dti_seat_left(f);
        dti_seat_forget(f);
    }
    if (f->lost) {
        dti_frame_rest(f);
        return;
    }
    f->state = DTI_F_ENDING;
    if (f->given_up) return; // the outcome that counts is on its way
    if (f->broken && (what == DTI_O_DONE || what == DTI_O_THEN)) {
        fail_broken(f);
        what = DTI_O_FAIL;
    } else switch (what) {
    case DTI_O_DONE: dti_end_set(f, DTI_END_SUCCEED); break;
    case DTI_O_FAIL: fail(f, true); break;
    case DTI_O_RETRY: fail(f, !f->freed); break;
    case DTI_O_FATAL: dti_end_set(f, DTI_END_FAIL), f->retry = f->freed = false; break;
    case DTI_O_CANCELLED: dti_end_set(f, DTI_END_CANCELLED); break;
    case DTI_O_SKIP: dti_end_set(f, DTI_END_SKIP); break;
    case DTI_O_THEN: dti_end_set(f, DTI_END_BECOME); break;
    case DTI_O_UNWOUND:
        // A row that is parked, or was woken since, gives up its owner; one
        // that had not parked yet parks without one.
        dti_end_set(f, f->was_parked || !f->nwaits ? DTI_END_RELEASE : DTI_END_PARK);
        f->how = DTI_COLD;
        break;
    }
    if (what != DTI_O_UNWOUND) dti_wait_disarm(f);
    dti_out_add(f, true);
}

void dti_frame_break(dtask_task *f, const char *why) {
    dtask_worker *w = f->w;
    if (f->broken || f->given_up || f->lost) return;
    char *text = strdup(why);
    if (!text) {
        dti_worker_fail(w, DTASK_ENOMEM, "no memory for an error: the worker gives everything back");
        return;
    }
    f->broken = text;
    dti_unsent_drop(f);
    switch (f->state) {
    case DTI_F_PARKED:
        dti_queue_cut(&w->parked, f);
        // fall through
    case DTI_F_PARKING:
        dti_frame_resume(f, DTASK_B_RESUME);
        break;
    case DTI_F_RUNNING:
        if (f->stay || f->end == DTI_END_PARK) dti_frame_resume(f, DTASK_B_RESUME);
        break;
    case DTI_F_ENDING:
        if (f->end == DTI_END_SUCCEED || f->end == DTI_END_BECOME) fail_broken(f);
        break;
    case DTI_F_QUEUED:
    case DTI_F_WOKEN:
        break;                   // its handler's next call says it
    }
    pthread_cond_broadcast(&w->moved);
}

void dti_frame_give_up(dtask_task *f, dti_endkind end) {
    dti_end_set(f, end);
    f->given_up = true;
    f->cancelled = true;
    dti_wait_disarm(f);
    dti_out_add(f, true);
    alone_over(f);               // its handler may never return
    dti_lonely_next(f->w);
    pthread_cond_broadcast(&f->w->moved);
}

void dti_frame_expired(dtask_task *f) {
    dtask_worker *w = f->w;
    char text[96];
    int n = snprintf(text, sizeof text, "ran longer than its timeout of %.3g s", f->row.timeout_ms / 1e3);
    f->value.n = 0;
    dti_error_put(&f->value, "TimeoutError", dti_str(text, (size_t)n), f->h->pool == DTI_POOL_C ? "c" : f->h->info->language);
    f->retry_after_us = -1;
    fail(f, true);
    if (f->h->pool != DTI_POOL_LOOP) {
        f->leaks = true;
        if (f->h->pool == DTI_POOL_C) w->leaked++;
        else w->seats_leaked++;
    }
    if (f->h->pool != DTI_POOL_C) dti_seat_event(f, DTASK_B_TIMEOUT);
    dti_frame_give_up(f, DTI_END_FAIL);
}

void dti_put_task_id(dti_buf *b, const dtask_task *f, uint32_t ord) {
    dti_buf id = {0};
    char text[16];
    dti_buf_add(&id, f->id.p, f->id.n);
    dti_buf_add(&id, text, (size_t)snprintf(text, sizeof text, "/%u", ord));
    dti_mp_put_str(b, dti_str(id.p, id.n));
    b->failed |= id.failed;
    dti_buf_done(&id);
}

static void log_line(dtask_app *app, int level, const char *job, uint32_t ord_of, const char *type, uint32_t attempt_of, const char *text) {
    char ord[16], attempt[16];
    snprintf(ord, sizeof ord, "%u", ord_of);
    snprintf(attempt, sizeof attempt, "%u", attempt_of);
    const char *fields[] = {"dynatask_job", job, "dynatask_task", ord, "dynatask_type", type, "dynatask_attempt", attempt, NULL};
    dti_app_log(app, level, fields, "%s", text);
}

void dti_frame_log(const dtask_task *f, int level, const char *text) {
    log_line(f->w->app, level, f->id.p, f->ord, f->h->name, f->row.tries + f->row.lost + 1, text);
}

void dti_frame_note(const dtask_task *f, int level, const char *text) {
    size_t n = strlen(f->id.p) + 1;
    dti_line *line = malloc(sizeof *line + n);
    if (!line) return;           // a log is not what a task fails by
    *line = (dti_line){.next = f->w->lines, .level = level, .ord = f->ord, .attempt = f->row.tries + f->row.lost + 1, .type = f->h->name, .text = text};
    memcpy(line->job, f->id.p, n);
    f->w->lines = line;
}

void dti_lines_log(dtask_app *app, dti_line *last) {
    dti_line *first = NULL;
    for (dti_line *next; last; last = next) {
        next = last->next;
        last->next = first;
        first = last;
    }
    for (dti_line *next; first; first = next) {
        next = first->next;
        log_line(app, first->level, first->job, first->ord, first->type, first->attempt, first->text);
        free(first);
    }
}

dtask_err dti_frame_broken(const dtask_task *f) {
    const char *why = f->broken;
    return why ? dti_fail(DTASK_EENGINE, "%s", why) : DTASK_OK;
}

dtask_err dti_task_check(const dtask_task *f) {
    if (!f) return dti_fail(DTASK_EUSAGE, "The task is NULL: give the one that the handler was called with.");
    if (f != dti_pool_runs())
        return dti_fail(DTASK_EUSAGE, "The task is not the one whose handler runs on this thread: use it there alone, until the handler returns.");
    if (!dti_worker_forked(f->w)) return DTASK_OK;
    return dti_fail(DTASK_EUSAGE, "The task is of the process that this one was forked from: end it with _exit, or open an app of its own.");
}

dtask_err dti_frame_check(dtask_task *f) {
    dtask_err err = dti_app_check(f->w->app);
    if (err) return err;
    if (f->given_up || f->lost) return dti_fail(DTASK_ELOST, "this attempt is over: its outcome will be refused; return");
    return dti_frame_broken(f);
}
