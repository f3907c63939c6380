// What a frame waits for, when that is there, and the park that says so.
//
// A wait for all that is live parks on QUIET: one wake, whatever the number.
// Any other tells the store which children it awaits and parks on MAIL; each
// completion then comes once, with its outcome. A wake that does not satisfy
// the handler parks again here, without running it.
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

// ---- arming ---------------------------------------------------------------------

static void release(dti_wait *a) {
    for (size_t i = 0; i < a->n; i++) {
        a->kids[i]->any = a->kids[i]->ff = false;
        dti_child_unref(a->kids[i]);
    }
    free(a->kids);
}

void dti_wait_disarm(dtask_task *f) {
    for (size_t i = 0; i < f->nwaits; i++) release(&f->waits[i]);
    f->nwaits = 0;
    f->hit = f->quiet_now = f->cover = false;
    f->tell_wait = f->tell_kid = 0;
}

// All that is live is awaited: the store need not say which ended. Only a
// first run knows what is live.
static bool covers(const dtask_task *f, const dti_wait *a) {
    if (f->nwaits > 1 || f->row.nkids || a->flags & DTASK_B_ANY || a->next || a->quiet || a->mail) return false;
    uint64_t undone = 0;
    for (size_t i = a->at; i < a->n; i++) {
        const dtask_child *c = a->kids[i];
        if (dti_child_done(c)) continue;
        if (!c->batch && !c->counted) return false; // another handle may stand for the same child
        undone += c->batch ? c->batch->n - c->batch->ndone : 1;
    }
    return f->nspawned - f->ndone == undone;
}

static dtask_err check_kids(dtask_task *f, dtask_child *const *kids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!kids[i] || kids[i]->task != f)
            return dti_fail(DTASK_EDEADLOCK, "a handler waits only for its own children: spawn it here, or read it once complete");
    }
    return DTASK_OK;
}

dtask_err dti_wait_arm(dtask_task *f, dtask_child *const *kids, size_t n, int flags, int64_t ms, bool next) {
    dtask_worker *w = f->w;
    dtask_err err = check_kids(f, kids, n);
    if (err) return err;
    dti_wait a = {.n = n, .flags = flags, .quiet = !n && !next, .next = next};
    if (ms >= 0) a.deadline = dti_wall_us() + (ms < INT64_MAX / 2000 ? ms * 1000 : INT64_MAX / 2);
    if (n && !(a.kids = malloc(n * sizeof *a.kids))) return dti_fail(DTASK_ENOMEM, "no memory to wait for %zu children", n);
    pthread_mutex_lock(&w->lock);
    if (!dti_grow(&f->waits, f->nwaits, &f->cwaits, sizeof *f->waits)) {
        pthread_mutex_unlock(&w->lock);
        free(a.kids);
        return dti_fail(DTASK_ENOMEM, "no memory for a wait");
    }
    for (size_t i = 0; i < n; i++) {
        dtask_child *c = a.kids[i] = kids[i];
        c->refs++;
        if (flags & DTASK_B_ANY) c->any = true;
        if (flags & DTASK_B_FAIL_FAST) c->ff = true;
        if (dti_child_done(c) && (flags & DTASK_B_ANY || (flags & DTASK_B_FAIL_FAST && c->bad))) f->hit = true;
        if (c->batch && flags & DTASK_B_FAIL_FAST && c->bad) f->hit = true;
    }
    if (next) f->nexts = true;
    f->waits[f->nwaits++] = a;
    f->cover = covers(f, &f->waits[0]);
    pthread_mutex_unlock(&w->lock);
    return DTASK_OK;
}

static bool holds(dti_wait *a, const dtask_task *f) {
    if (a->deadline && dti_wall_us() >= a->deadline) return true;
    if (a->quiet) return f->quiet_now || f->nspawned + f->row.nkids == 0;
    if (a->next) return f->given;
    if (a->mail) return false;   // f->hit says so
    while (a->at < a->n && dti_child_done(a->kids[a->at])) a->at++;
    return a->at == a->n;
}

bool dti_wait_holds(dtask_task *f) {
    return f->cancelled || f->unwind || f->lost || f->broken || dti_wait_met(f);
}

bool dti_wait_met(dtask_task *f) {
    if (f->hit) return true;
    for (size_t i = 0; i < f->nwaits; i++)
        if (holds(&f->waits[i], f)) return true;
    return false;
}

int64_t dti_wait_due(const dtask_task *f) {
    int64_t due = 0;
    for (size_t i = 0; i < f->nwaits; i++)
        if (f->waits[i].deadline && (!due || f->waits[i].deadline < due)) due = f->waits[i].deadline;
    return due;
}

void dti_wait_park(dtask_task *f, dti_parkhow how) {
    if (how != DTI_STAY) f->state = DTI_F_PARKING;
    dti_end_set(f, DTI_END_PARK);
    f->how = how;
    dti_out_add(f, true);
}

void dti_wait_arms(dtask_task *f) {
    f->mask = 0;
    for (size_t i = 0; i < f->nwaits; i++) {
        const dti_wait *a = &f->waits[i];
        bool fast = a->flags & DTASK_B_FAIL_FAST;
        if (a->quiet || f->cover) f->mask |= DTI_QUIET | (fast ? DTI_MAIL : 0);
        else f->mask |= DTI_MAIL;
        if (a->deadline) f->mask |= DTI_DUE;
    }
}

// ---- telling ------------------------------------------------------------------------

typedef struct {
    dti_range *v; uint32_t n, cap;
    uint32_t left;               // children that this message may still tell
    dti_arena *mem;
    bool failed;
} telling;

static void tell(telling *t, uint32_t first, uint32_t count, bool bad_only) {
    if (t->n) {
        dti_range *r = &t->v[t->n - 1];
        if (r->bad_only == bad_only && r->first + r->count == first && ((r->first ^ first) & DTI_HERE) == 0) {
            r->count += count;
            t->left -= count;
            return;
        }
    }
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? t->cap * 2 : 8;
        dti_range *v = dti_alloc(t->mem, cap * sizeof *v);
        if (!v) {
            t->failed = true;
            return;
        }
        if (t->n) memcpy(v, t->v, t->n * sizeof *v);
        t->v = v;
        t->cap = cap;
    }
    t->v[t->n++] = (dti_range){.first = first, .count = count, .bad_only = bad_only};
    t->left -= count;
}

// The pieces of this very message that belong to a batch, or to all.
static bool tell_pieces(telling *t, const dti_flight *fl, const dtask_child *batch, bool bad_only) {
    for (uint32_t i = 0; i < fl->npieces; i++) {
        const dti_piece *p = &fl->pieces[i];
        if (batch && p->call->child != batch) continue;
        if (t->left < p->count) return false;
        tell(t, DTI_HERE | p->pos, p->count, bad_only);
    }
    return true;
}

static bool tell_batch(telling *t, const dti_flight *fl, dtask_child *c, uint8_t level) {
    dti_batch *b = c->batch;
    if (c->told >= level) return true;
    while (b->told_seg < b->nsegs) {
        const dti_seg *s = &b->segs[b->told_seg];
        uint32_t count = s->count - b->told_at;
        if (!count) {
            // The last may yet grow: it stays the one to look at.
            if (b->told_seg + 1 == b->nsegs) break;
            b->told_seg++, b->told_at = 0;
            continue;
        }
        if (count > t->left) count = t->left;
        if (!count) return false;
        tell(t, s->ord + b->told_at, count, level == 1);
        b->told_at += count;
    }
    if (!tell_pieces(t, fl, c, level == 1)) return false;
    c->told = level;
    b->told_seg = b->told_at = 0;
    return true;
}

static bool tell_child(telling *t, const dti_flight *fl, dtask_child *c, uint8_t level) {
    if (dti_child_done(c) || c->unmade || c->joined) return true;
    if (c->batch) return tell_batch(t, fl, c, level);
    if (c->told >= level) return true;
    if (!t->left) return false;
    tell(t, c->sent ? c->ord : DTI_HERE | c->pos, 1, level == 1);
    c->told = level;
    return true;
}

// All children of this run: for dtask_next, and a quiet wait that fails fast.
static bool tell_own(telling *t, dtask_task *f, const dti_flight *fl, uint8_t level) {
    if (f->own_level < level) f->own_told = f->own_told_at = 0, f->own_level = level;
    while (f->own_told < f->nown) {
        const dti_span *s = &f->own[f->own_told];
        uint32_t count = s->count - f->own_told_at;
        if (!count) {
            // The last span may yet grow: it stays the one to look at.
            if (f->own_told + 1 == f->nown) break;
            f->own_told++, f->own_told_at = 0;
            continue;
        }
        if (count > t->left) count = t->left;
        if (!count) return false;
        tell(t, s->first + f->own_told_at, count, level == 1);
        f->own_told_at += count;
    }
    // What goes with this message has no ord yet and is told by place; it is
    // told again by ord with the next, which does no harm.
    return tell_pieces(t, fl, NULL, level == 1);
}

// Others that will be asked for next: their ends come along.
static void tell_ahead(telling *t, const dti_flight *fl, const dti_wait *a) {
    if (a->n != 1 || a->kids[0]->batch) return;
    for (dtask_child *c = a->kids[0]->next; c && t->left; c = c->next)
        if (!c->batch) tell_child(t, fl, c, 2);
}

// To tell a child twice does no harm.
void dti_wait_untell(dtask_task *f) {
    for (dtask_child *c = f->kids; c; c = c->next) {
        c->told = 0;
        if (c->batch) c->batch->told_seg = c->batch->told_at = 0;
    }
    f->tell_wait = f->tell_kid = 0;
    f->own_told = f->own_told_at = f->own_level = 0;
}

bool dti_wait_tell(dtask_task *f, const dti_flight *fl, dti_arena *mem, const dti_range **out, uint32_t *out_n) {
    telling t = {.left = DTI_TELL_MAX, .mem = mem};
    bool all = true;
    for (; f->tell_wait < f->nwaits && all; f->tell_wait++, f->tell_kid = 0) {
        dti_wait *a = &f->waits[f->tell_wait];
        bool fast = a->flags & DTASK_B_FAIL_FAST;
        if (a->next) all = tell_own(&t, f, fl, 2);
        else if (a->quiet && fast) all = tell_own(&t, f, fl, 1);
        else if (a->quiet || (f->cover && !fast)) continue;
        for (; f->tell_kid < a->n && all; f->tell_kid++)
            if (!tell_child(&t, fl, a->kids[f->tell_kid], f->cover ? 1 : 2)) all = false, f->tell_kid--;
        if (all && !f->cover) tell_ahead(&t, fl, a);
        if (!all) f->tell_wait--;
    }
    if (t.failed) {
        dti_wait_untell(f);      // what was told so far goes nowhere
        return false;
    }
    *out = t.v;
    *out_n = t.n;
    return all;
}

// ---- what comes back --------------------------------------------------------------------

void dti_deliver(dtask_task *f, const dti_mail *mails, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (mails[i].n < f->logread) continue;
        f->logread = mails[i].n + 1;
        if (mails[i].kind == DTI_LOG_KID) dti_child_ended(f, &mails[i]);
        else if (mails[i].kind == DTI_LOG_SIG && f->nwaits && f->waits[0].mail) f->hit = true;
    }
}

void dti_settle(dtask_task *f) {
    if (f->given_up || !f->nwaits) return; // a stay that is past
    if (f->quiet_now) {
        f->quiet_serial = f->quiet_mark;
        f->ndone = f->quiet_spawned;
    }
    if (dti_wait_holds(f)) {
        if (f->state == DTI_F_PARKING || f->state == DTI_F_PARKED || f->state == DTI_F_RUNNING)
            dti_frame_resume(f, f->unwind ? DTASK_B_UNWIND : f->cancelled ? DTASK_B_CANCEL : DTASK_B_RESUME);
    } else {
        f->tell_wait = f->tell_kid = 0;
        dti_wait_park(f, f->state == DTI_F_RUNNING ? DTI_STAY : DTI_WARM);
    }
}

dtask_err dti_own_row(dtask_task *f, dti_taskrow *out) {
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = f->id, .job = f->job, .ord = f->ord}};
    dtask_err err = dti_engine_call(f->w->engine, &mem, &op);
    if (!err && (!op.read.n || op.read.tasks[0].row.token != f->token)) err = dti_fail(DTASK_ELOST, "this attempt is over: return");
    if (!err) *out = op.read.tasks[0].row;
    dti_arena_done(&mem);
    return err;
}

// ---- the C handler's waits --------------------------------------------------------------

// Parks until what was armed is there. 0, or why the handler must stop.
static dtask_err park(dtask_task *f) {
    dtask_worker *w = f->w;
    dtask_err err = DTASK_OK;
    pthread_mutex_lock(&w->lock);
    bool here = dti_wait_holds(f);
    if (!here && w->stopping) f->unwind = true;
    bool go = !here && !f->unwind;
    pthread_mutex_unlock(&w->lock);
    if (go && dti_pool_can_park(f)) dti_pool_park(f);
    else if (go && dti_frame_droppable(f)) f->unwind = true; // no memory for another stack, as past max_parked
    else if (go) err = dti_fail(DTASK_ENOMEM, "no memory for another stack: the wait cannot park");
    if (!err && f->lost && !f->unwind) err = dti_fail(DTASK_ELOST, "this attempt is over: its outcome will be refused; return");
    if (!err && f->unwind)
        return dti_fail(DTASK_EUNWIND, "this frame is dropped; the handler runs again when the wait is over: return EUNWIND");
    if (!err && f->cancelled) err = dti_fail(DTASK_ECANCELLED, "this task was asked to end");
    if (!err) err = dti_frame_broken(f);
    pthread_mutex_lock(&w->lock);
    dti_wait_disarm(f);
    pthread_mutex_unlock(&w->lock);
    return err;
}

static dtask_err may_wait(dtask_task *f) {
    dtask_err err = dti_frame_check(f);
    if (err) return err;
    if (f->h->pool != DTI_POOL_C) return dti_fail(DTASK_EUSAGE, "a binding's handler waits with dtask_b_await");
    if (f->unwind) return dti_fail(DTASK_EUNWIND, "this frame is dropped: return EUNWIND");
    return DTASK_OK;
}

// Whether all descendants are complete, after a wait that may have timed out.
// All children that are bad and were not looked at count as looked at now.
static dtask_err look_at_all(dtask_task *f) {
    dti_taskrow row;
    dtask_err err = dti_own_row(f, &row);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    bool unsent = f->nunsent;    // the store has not heard of them
    pthread_mutex_unlock(&f->w->lock);
    if (row.open || unsent) return dti_fail(DTASK_ETIMEOUT, "%u%s children were not complete in time", row.open, unsent ? " and more" : "");
    if (!row.bad) return DTASK_OK;
    dti_arena mem = {0};
    uint32_t first[DTI_ERRORS_MAX], n = 0; // of those, whose errors are told
    dti_failures all = {0};
    uint64_t failed = 0;
    bool more = true;
    for (uint32_t from = f->row.base; !err && more;) {
        dti_arena_reset(&mem);
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_KIDS, .id = f->id, .job = f->job, .ord = f->ord,
            .from = from, .limit = 1024}};
        err = dti_engine_call(f->w->engine, &mem, &op);
        if (err) break;
        pthread_mutex_lock(&f->w->lock);
        for (uint32_t i = 0; i < op.read.n; i++) {
            const dti_taskview *v = &op.read.tasks[i];
            bool bad = v->row.state == DTI_FAILED || (v->row.state == DTI_SUCCEEDED && v->row.bad);
            if (!bad || v->row.bits & DTI_SEEN) continue;
            failed++;
            if (n < DTI_ERRORS_MAX) first[n++] = v->ord;
            dtask_child *c = dti_child_by_ord(f, v->ord);
            if (c) c->acked = true;
            dti_ack_add(f, v->ord, false);
        }
        pthread_mutex_unlock(&f->w->lock);
        more = op.read.more;
        from = op.read.next;
    }
    dti_arena_done(&mem);
    if (!err && n) err = dti_failures_read(&all, f->w->engine, f->id, f->job, first, n);
    if (!err && n) {
        all.failed = failed;
        err = dti_fail_map(DTASK_EFAILED, dti_failures_first(&all));
        dti_fallen_keep(f, err, &all);
    }
    dti_failures_done(&all);
    return err;
}

dtask_err dti_wait_child(dtask_task *f, dtask_child *c, int ms) {
    dtask_err err = may_wait(f);
    if (!err) err = dti_wait_arm(f, &c, 1, 0, ms, false);
    if (!err) err = park(f);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    bool done = dti_child_done(c);
    pthread_mutex_unlock(&f->w->lock);
    if (!done) return dti_fail(DTASK_ETIMEOUT, "the child was not complete in time");
    if (c->batch) {
        // Its outcomes are read when asked for; here only whether one is bad.
        dti_taskrow row;
        err = dti_own_row(f, &row);
        if (err || (!row.bad && !c->bad)) return err;
    }
    dtask_str end = {0};
    err = dti_child_outcome(c, true, &end);
    return err && end.n ? dti_child_fails(c, err, end) : err;
}

dtask_err dtask_wait(dtask_task *f, dtask_child *handle, int ms) {
    dtask_err err = dti_task_check(f);
    if (err) return err;
    if (handle) return dti_wait_child(f, dti_handle_child(f, handle), ms);
    err = may_wait(f);
    if (!err) err = dti_wait_arm(f, NULL, 0, 0, ms, false);
    if (!err) err = park(f);
    return err ? err : look_at_all(f);
}

dtask_err dtask_next(dtask_task *f, int ms, dtask_child **out) {
    dtask_err err = dti_task_check(f);
    if (!err) err = may_wait(f);
    if (err) return err;
    if (!out) return dti_fail(DTASK_EARGS, "dtask_next needs a place for the child.");
    pthread_mutex_lock(&f->w->lock);
    bool none = !f->given && f->nseen >= f->nspawned;
    pthread_mutex_unlock(&f->w->lock);
    if (none) return dti_fail(DTASK_ENOTFOUND, "every child was given out");
    err = dti_handle_room(f);
    if (!err) err = dti_wait_arm(f, NULL, 0, 0, ms, true);
    if (!err) err = park(f);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    dti_given *g = f->given;
    dtask_child *c = NULL;
    if (g) {
        c = dti_child_by_ord(f, g->ord);
        if (c) c->refs++;
        else if ((c = dti_child_new(f, false, 0)) && !dti_child_ord(c, g->ord)) dti_child_unref(c), c = NULL;
        if (c) {
            f->given = g->next;
            if (!f->given) f->given_last = NULL;
            if (g->unique && !c->over) c->over = dti_joined_over(f, g->ord);
            if (c->joined || (g->unique && c->over == DTI_OVER_JOIN)) { // the other's end is read when it is asked for
                dti_child_known(c, false);
                dti_buf_done(&g->end);
            } else if (!c->loaded) {
                dti_child_known(c, g->bad);
                c->loaded = g->loaded;
                c->code = g->code;
                dti_buf_done(&c->end);
                c->end = g->end;
            } else {
                dti_buf_done(&g->end);
            }
            free(g);
        }
    }
    pthread_mutex_unlock(&f->w->lock);
    if (!g) return dti_fail(DTASK_ETIMEOUT, "no child was complete in time");
    if (!c) return dti_fail(DTASK_ENOMEM, "no memory for a child's handle");
    *out = dti_handle_of(f, c);
    return DTASK_OK;
}

dtask_err dti_wait_mail(dtask_task *f, uint32_t received) {
    dtask_err err = may_wait(f);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    bool armed = dti_grow(&f->waits, f->nwaits, &f->cwaits, sizeof *f->waits);
    if (armed) f->waits[f->nwaits++] = (dti_wait){.mail = true};
    f->received = received;
    if (f->logread < received) f->logread = received;
    pthread_mutex_unlock(&f->w->lock);
    return armed ? park(f) : dti_fail(DTASK_ENOMEM, "no memory for a wait");
}
