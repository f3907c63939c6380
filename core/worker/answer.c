// What a turn's reply means: answers to the messages, wakes, claims.
//
// Everything is taken in under the lock, in that order. Where a reply holds
// only the first of a frame's mail, the rest is read afterwards, page by page
// and only until the frame has what it waits for.
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

// ---- the children of a message -------------------------------------------------

typedef struct { const dti_answer *a; uint32_t joined, made; } naming; // walks positions upwards

// The ord of position `pos`; false: it was joined, *out_joined says to what.
static bool name_next(naming *n, uint32_t pos, uint32_t *out, const dti_joined **out_joined) {
    if (n->joined < n->a->njoined && n->a->joined[n->joined].pos == pos) {
        *out_joined = &n->a->joined[n->joined++];
        return false;
    }
    *out = n->a->first + n->made++;
    return true;
}

// Item `at` of c, if that is a batch, is another call's task.
static void join(dtask_task *f, dtask_child *c, uint64_t at, const dti_joined *j) {
    if (!c) {
        f->nspawned--;
        return;
    }
    char *id = malloc(j->id.n + 12);
    if (!id) return;
    snprintf(id, j->id.n + 12, "%.*s/%u", (int)j->id.n, j->id.p, j->ord);
    if (c->any) f->hit = true;
    if (c->batch) {
        f->nspawned--;
        dti_batch_join(c, at, id);
        return;
    }
    c->id = id;
    c->joined = c->sent = true;
    if (c->counted) c->counted = false, f->nspawned--;
}

static void piece_answered(dtask_task *f, dti_piece *p, const dti_answer *a, naming *n) {
    dti_unsent *u = p->call;
    dtask_child *c = u->child;
    bool made = !a->cancelling && a->first;
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t ord = 0;
        const dti_joined *j = NULL;
        if (!made && !a->njoined) {
            if (c) c->unmade = c->done = true;
            break;
        }
        if (!name_next(n, p->pos + i, &ord, &j)) {
            join(f, c, p->at + i, j);
        } else if (c && c->batch) {
            dti_batch_add(c, p->at + i, ord, 1);
        } else if (c) {
            dti_child_ord(c, ord);
        } else if (!u->range) {
            dti_joined_unheld(f, &u->call, ord);
        }
    }
    if (!u->range) {
        dti_unsent_free(u);
        f->nunsent--;
        return;
    }
    u->index += p->count;
    u->from += p->count;
    u->n -= p->count;
    if (u->n) return;            // the rest stayed at the head of the outbox
    f->nunsent--;
    dti_unsent_free(u);
}

static void children_answered(dti_flight *fl, const dti_answer *a) {
    dtask_task *f = fl->frame;
    if (!fl->npieces) return;
    if (a->count) dti_own_add(f, a->first, a->count);
    naming n = {a, 0, 0};
    for (uint32_t i = 0; i < fl->npieces; i++) piece_answered(f, &fl->pieces[i], a, &n);
    if (a->cancelling) dti_unsent_drop(f);
}

static void extras_free(dtask_task *f) {
    free(f->acks_sent.v);
    f->acks_sent = (dti_acks){0};
    for (size_t i = 0; i < f->notes_sent.n; i++) free((char *)f->notes_sent.v[i].data.p);
    free(f->notes_sent.v);
    f->notes_sent = (dti_notes){0};
    dti_buf_done(&f->progress_sent);
    f->progress_sent = (dti_buf){0};
}

// ---- the end of a message ---------------------------------------------------------

// Its mail goes on in the log.
static void read_on(dti_frames *more, dtask_task *f) {
    if (dti_grow(&more->v, more->n, &more->cap, sizeof *more->v)) {
        more->v[more->n++] = f;
        f->flying = true;        // holds it, and its outbox, until it is read
    } else {
        dti_settle(f);           // it parks again and is woken with the rest
    }
}

// The row runs (again); its mail is here, or the first of it.
static void woken(dtask_task *f, const dti_mail *mails, uint32_t n, bool more, uint32_t logn, dti_frames *rest) {
    f->was_parked = false;
    dti_deliver(f, mails, n);
    if (!more && f->logread < logn) f->logread = logn;
    // Only QUIET can have held if nothing else was armed, or came.
    bool due = f->mask & DTI_DUE && dti_wall_us() >= dti_wait_due(f);
    if (f->mask == DTI_QUIET || (f->mask & DTI_QUIET && !f->hit && !due && !n && !more)) f->quiet_now = true;
    bool unsure = f->mask & DTI_QUIET && !f->quiet_now && !f->hit;
    if ((more || unsure) && !f->hit && !f->cancelled && !f->unwind) read_on(rest, f);
    else dti_settle(f);
}

// Warm frames beyond max_parked are dropped, the oldest that may be.
static void drop_beyond(dtask_worker *w) {
    if (w->parked.n <= w->conf.max_parked) return;
    for (dtask_task *f = w->parked.first; f; f = f->next) {
        if (!dti_frame_droppable(f)) continue;
        dti_queue_cut(&w->parked, f);
        f->unwind = true;
        dti_frame_resume(f, DTASK_B_UNWIND);
        return;
    }
}

static void parked(dtask_task *f) {
    dtask_worker *w = f->w;
    dti_end_set(f, DTI_END_NONE);
    if (f->how == DTI_STAY) {
        dti_frame_stays(f);
        return;
    }
    if (f->how == DTI_COLD) {
        f->lost = true;
        return;
    }
    f->state = DTI_F_PARKED;
    f->was_parked = true;
    // One that was asked to end goes on when its cancel has woken the row,
    // which may lack a permit until then.
    if (w->stopping) {
        f->unwind = true;
        dti_frame_resume(f, DTASK_B_UNWIND);
        return;
    }
    dti_queue_push(&w->parked, f);
    drop_beyond(w);
}

// What it waits for is here, and nobody to go on with it: another claim runs it.
static void release_cold(dtask_task *f) {
    dti_end_set(f, DTI_END_RELEASE);
    f->unstarted = false;
}

static void ended(dtask_task *f, const dti_message *m, const dti_answer *a, dti_frames *rest) {
    switch (m->end) {
    case DTI_END_NONE: return;
    case DTI_END_PARK: {
        bool now = a->now || (a->status == DTI_ALREADY && a->state == DTI_RUNNING && !a->mask);
        if (!f->end_flying) return; // it was overtaken
        if (!now) {
            parked(f);
        } else if (f->how == DTI_COLD) {
            release_cold(f);
            dti_out_add(f, true);
        } else {
            dti_end_set(f, DTI_END_NONE);
            woken(f, a->mails, a->nmails, a->more || a->status == DTI_ALREADY, a->logn, rest);
        }
        return;
    }
    default:
        f->lost = true;          // nothing of it is left to say
    }
}

// What was in flight will not be made.
static void flight_drop(const dti_flight *fl) {
    for (uint32_t i = 0; i < fl->npieces; i++) {
        dti_unsent *u = fl->pieces[i].call;
        if (u->child) u->child->unmade = u->child->done = true;
        if (u != fl->frame->unsent) dti_unsent_free(u);
    }
}

// The whole message was refused: the task ends with this error, and no retry.
static void refuse(dtask_task *f, const dti_flight *fl, const char *type, const char *text) {
    flight_drop(fl);
    dti_unsent_drop(f);
    extras_free(f);
    f->value.n = 0;
    dti_error_put(&f->value, type, dti_strz(text), "c");
    f->retry = f->freed = false;
    if (f->state == DTI_F_PARKING) {
        f->unwind = true;
        dti_frame_resume(f, DTASK_B_UNWIND);
    } else if (f->state == DTI_F_RUNNING && f->h->pool != DTI_POOL_C) {
        dti_seat_event(f, DTASK_B_CANCEL);
    }
    dti_frame_give_up(f, DTI_END_FAIL);
    pthread_cond_broadcast(&f->w->moved);
}

// Before those that came meanwhile.
static void notes_back(dtask_task *f) {
    size_t sent = f->notes_sent.n, n = sent + f->notes.n;
    dti_note *v = n ? malloc(n * sizeof *v) : NULL;
    if (n && !v) {
        dti_worker_fail(f->w, DTASK_ENOMEM, "no memory for a task's notes: the worker gives everything back");
        return;
    }
    if (sent) memcpy(v, f->notes_sent.v, sent * sizeof *v);
    if (n > sent) memcpy(v + sent, f->notes.v, (n - sent) * sizeof *v);
    free(f->notes_sent.v);
    free(f->notes.v);
    f->notes = (dti_notes){v, n, n};
    f->notes_sent = (dti_notes){0};
}

// Back into the outbox: the shard is full.
static void again_later(dtask_task *f, dti_flight *fl) {
    for (uint32_t i = fl->npieces; i--;) {
        dti_unsent *u = fl->pieces[i].call;
        if (u->range && f->unsent == u) continue;
        u->next = f->unsent;
        f->unsent = u;
        if (!u->next) f->unsent_last = u;
    }
    for (size_t i = 0; i < f->acks_sent.n; i++)
        if (!f->acks_sent.v[i].replaced) dti_ack_add(f, f->acks_sent.v[i].ref, false);
    free(f->acks_sent.v);
    f->acks_sent = (dti_acks){0};
    notes_back(f);
    if (f->progress.n) dti_buf_done(&f->progress_sent);
    else f->progress = f->progress_sent;
    f->progress_sent = (dti_buf){0};
    dti_wait_untell(f);
    f->link->flush_at = dti_mono_us() + DTI_AGAIN_US;
}

// Its wait was armed while a message without an end was on its way, and the
// answer has said that a call of it joined another task, or was left out: what
// it waits for may be here, and no row of its own will wake it.
static void come_meanwhile(dtask_task *f) {
    if (f->end != DTI_END_PARK || f->cancelled || f->lost) return;
    if (!f->unwind && dti_wait_holds(f)) {
        dti_end_set(f, DTI_END_NONE);
        dti_settle(f);
    } else if (f->unwind && dti_wait_met(f)) {
        release_cold(f);
    }
}

static void answered(dti_flight *fl, const dti_message *m, const dti_answer *a, dti_frames *rest) {
    dtask_task *f = fl->frame;
    dtask_worker *w = f->w;
    f->flying = false;
    switch (a->status) {
    case DTI_OK:
    case DTI_ALREADY:
        f->seq = m->seq;
        f->full_since = 0;
        uint64_t had = f->nspawned;
        children_answered(fl, a);
        if (m->end == DTI_END_PARK) f->quiet_spawned -= had - f->nspawned; // joined: none of its children
        if (a->cancelling && !f->cancelled) {
            f->cancelled = true;
            if (f->state == DTI_F_RUNNING && f->h->pool != DTI_POOL_C) dti_seat_event(f, DTASK_B_CANCEL);
        }
        extras_free(f);
        ended(f, m, a, rest);
        if (!m->end) come_meanwhile(f);
        break;
    case DTI_FULL:
        if (!f->full_since) f->full_since = dti_mono_us();
        again_later(f, fl);
        if (dti_mono_us() - f->full_since < w->app->conf.engine_timeout_us) {
            dti_out_add(f, false);
            return;
        }
        dti_frame_break(f, "the engine is full: it took none of this task's children within engine_timeout");
        break;
    case DTI_TOOBIG:
        refuse(f, fl, "TooBig", "the job has reached max_tasks, or max_depth, or its log is full: split it into jobs of their own");
        break;
    case DTI_BAD:
        refuse(f, fl, "UsageError", "the engine refused this task's message: a call names a sibling that was not made before it");
        break;
    case DTI_STALE:
    case DTI_GAP:
        if (m->end && m->end != DTI_END_RELEASE)
            dti_frame_note(f, LOG_WARNING, "the outcome was refused: the attempt belongs to another worker now (ELOST)");
        flight_drop(fl);
        dti_unsent_drop(f);
        dti_frame_lose(f);
        pthread_cond_broadcast(&w->moved);
        return;
    }
    if (fl->npieces) pthread_cond_broadcast(&w->moved);
    if (f->lost) dti_frame_rest(f);
    else if (!f->flying && (f->unsent || f->end || f->progress.n))
        dti_out_add(f, f->end || f->nunsent >= DTI_EAGER || (f->unsent && f->unsent->range));
}

// ---- wakes and claims ------------------------------------------------------------------

static void wake(dti_link *l, const dti_wake *k, dti_frames *rest) {
    dtask_worker *w = l->w;
    if (k->n <= l->got) return;
    l->got = k->n;
    dtask_task *f = dti_frame_find(w, k->job, k->ord);
    if (!f || f->token != k->token) return;
    if (k->cancel) {
        bool first = !f->cancelled;
        f->cancelled = true;
        if (f->state == DTI_F_PARKED) {
            dti_queue_cut(&w->parked, f);
            f->was_parked = false;
            dti_frame_resume(f, DTASK_B_CANCEL);
        } else if (f->state == DTI_F_QUEUED) {
            // It begins with `cancelled` set: it may look and end at once.
        } else if (f->state == DTI_F_RUNNING && f->h->pool != DTI_POOL_C && first) {
            dti_seat_event(f, DTASK_B_CANCEL);
        }
        return;
    }
    if (k->seq < f->park_seq || f->flying) return;
    if (f->state == DTI_F_PARKED) {
        dti_queue_cut(&w->parked, f);
        f->state = DTI_F_PARKING;
    } else if (f->state == DTI_F_RUNNING && f->stay) {
        dti_frame_goes_on(f);
    } else if (f->state != DTI_F_PARKING) {
        f->was_parked = false;
        return;
    }
    if (f->given_up) return;
    dti_end_set(f, DTI_END_NONE);
    woken(f, k->mails, k->nmails, k->more, k->logn, rest);
}

static void claim(dti_link *l, const dti_claim *c) {
    dtask_worker *w = l->w;
    dtask_task *f = dti_frame_find(w, c->job, c->ord);
    if (f && f->token == c->token) return; // the turn was sent again
    dti_handler *h = dti_handler_of(w, c->row.type);
    if (!h) return;              // cannot be: only what is served is wanted
    if (f) dti_frame_lose(f);
    dtask_err fits;
    f = dti_frame_new(l, h, c, &fits);
    if (!f) {
        dti_worker_fail(w, DTASK_ENOMEM, "no memory for a claimed task: the worker gives everything back");
        return;
    }
    l->of[h->index].got++;
    if (fits) {                  // it must not keep this worker, and then the next, from the rest
        dti_frame_unfit(f, dtask_err_detail());
        return;
    }
    h->queued++;
    if (w->stopping) dti_frame_give_back(f);
    else if (f->alone) dti_queue_push(&w->lonely, f);
    else dti_queue_push(&w->ready[h->pool], f);
}

void dti_frames_void(dti_turnbox *box) {
    dtask_worker *w = box->w;
    for (uint32_t i = 0; i < box->n; i++) {
        dti_flight *fl = &box->flights[i];
        fl->frame->flying = false;
        flight_drop(fl);
    }
    box->n = 0;
    dti_link *l = box->link;
    for (size_t i = 0; i < l->unread.n; i++) l->unread.v[i]->flying = false;
    l->unread.n = 0;
    for (dtask_task *f = w->all, *next; f; f = next) {
        next = f->after;
        if (f->link != l) continue;
        if (f->lost) dti_frame_rest(f);
        else dti_frame_lose(f);
    }
}

// ---- the rest of a frame's mail -----------------------------------------------------------

static dtask_err read_mail(dtask_worker *w, dtask_task *f) {
    dti_arena mem = {0};
    bool more = true;
    dtask_err err = DTASK_OK;
    while (more && !err) {
        dti_arena_reset(&mem);
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_LOG, .id = f->id, .job = f->job, .ord = f->ord,
            .from = f->logread, .limit = DTI_MAILS_MAX}};
        err = dti_engine_call(w->engine, &mem, &op);
        pthread_mutex_lock(&w->lock);
        if (!err) {
            dti_deliver(f, op.read.mails, op.read.n);
            more = op.read.more;
            if (op.read.next > f->logread) f->logread = op.read.next;
            if (dti_wait_holds(f)) more = false;
        }
        pthread_mutex_unlock(&w->lock);
    }
    dti_arena_done(&mem);
    return err;
}

// L: the engine did not let its mail be read. Another look later, and past
// engine_timeout its handler hears of it. False: now.
static bool postpone(dtask_worker *w, dtask_task *f) {
    dti_link *l = f->link;
    int64_t now = dti_mono_us();
    char why[300];
    snprintf(why, sizeof why, "this task's mail could not be read within engine_timeout: %s", dtask_err_detail());
    if (!f->unread_since) {
        f->unread_since = now;
        dti_frame_note(f, LOG_WARNING, "its mail cannot be read, it is tried again");
    }
    if (now - f->unread_since < w->app->conf.engine_timeout_us &&
        dti_grow(&l->unread.v, l->unread.n, &l->unread.cap, sizeof *l->unread.v)) {
        l->unread.v[l->unread.n++] = f;
        l->unread_at = now + DTI_AGAIN_US;
        return true;
    }
    dti_frame_break(f, why);
    return false;
}

static void read_rest(dtask_worker *w, dtask_task *f) {
    pthread_mutex_lock(&w->lock);
    bool wanted = !f->lost && !f->given_up && !f->cancelled && !f->unwind && !f->broken;
    pthread_mutex_unlock(&w->lock);
    dtask_err err = wanted ? read_mail(w, f) : DTASK_OK;
    // What was read is this attempt's only if the token still is.
    dti_taskrow row = {.open = 1};
    if (!err && wanted) err = dti_own_row(f, &row);
    pthread_mutex_lock(&w->lock);
    if (err && err != DTASK_ELOST && !f->lost && !f->given_up && postpone(w, f)) {
        pthread_mutex_unlock(&w->lock);
        return;
    }
    f->unread_since = 0;
    if (!err && !row.open && f->mask & DTI_QUIET) f->quiet_now = true;
    f->flying = false;
    if (err == DTASK_ELOST) {
        dti_frame_lose(f);
        pthread_mutex_unlock(&w->lock);
        return;
    }
    if (f->lost) dti_frame_rest(f);
    else dti_settle(f);
    if (!f->lost && f->end) dti_out_add(f, true);
    pthread_mutex_unlock(&w->lock);
}

void dti_mail_again(dti_link *l) {
    dti_frames rest = l->unread;
    l->unread = (dti_frames){0};
    l->unread_at = 0;
    for (size_t i = 0; i < rest.n; i++) read_rest(l->w, rest.v[i]);
    free(rest.v);
}

void dti_answers(dti_turnbox *box, dti_turn *t) {
    dtask_worker *w = box->w;
    dti_frames rest = {0};
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < box->n; i++) answered(&box->flights[i], &box->messages[i], &t->answers[i], &rest);
    for (uint32_t i = 0; i < t->nwakes; i++) wake(box->link, &t->wakes[i], &rest);
    for (uint32_t i = 0; i < t->nclaims; i++) claim(box->link, &t->claims[i]);
    if (t->nclaims) {
        dti_lonely_next(w);
        if (w->ready[DTI_POOL_C].n) dti_pool_wake(w);
        for (int pool = DTI_POOL_THREAD; pool < DTI_POOLS; pool++)
            if (w->ready[pool].n) dti_seats_wake(w, pool);
    }
    if (t->drain) dti_link_drain(box->link, true);
    pthread_mutex_unlock(&w->lock);
    for (size_t i = 0; i < rest.n; i++) read_rest(w, rest.v[i]);
    free(rest.v);
}
