// A task's life: the one place where a task's state changes (dti_move), and
// the procedures of the state machine around it.
//
// Nothing here calls itself over a tree: what a change means for another
// task is either done at once, where it can go no further (a parent's counts,
// a warm frame's wake), or pushed as a step of the cascade (todo.c).
#include "model/model_int.h"

// ---- making -----------------------------------------------------------------

dti_t dti_task_make(dti_tx *tx, uint64_t job, dti_jobrow *j, uint32_t ord, const dti_new *new, dti_t *parent) {
    dti_t t = {job, ord, j, dti_put(tx->store, DTI_T_TASK, job, ord, 0, NULL, sizeof(dti_taskrow))};
    *t.r = (dti_taskrow){
        .version = DTI_ROW_VERSION, .state = DTI_STATES, .prio = new->prio,
        .bits = (uint16_t)((new->may_fail ? DTI_SEEN : 0) | (new->journal ? DTI_JOURNAL : 0)),
        .type = new->type, .parent = parent ? parent->ord : 0, .depth = parent ? parent->r->depth + 1 : 0,
        .ptries = parent ? parent->r->tries : 0,
        .retries = new->retries, .crashes = new->crashes, .timeout_ms = new->timeout_ms,
        .call = {new->call[0], new->call[1]}, .added = tx->now, .expires = new->expires, .due = new->due};
    if (new->args.n) dti_data_set(tx, &t, DTI_D_ARGS, new->args);
    if (new->nkeys) dti_keys_store(tx, &t, new, NULL, 0);
    if (t.r->expires) dti_put(tx->store, DTI_T_DUE, (uint64_t)t.r->expires, job, ord, NULL, 0);
    j->next = ord + 1;
    return t;
}

// ---- moving -----------------------------------------------------------------

void dti_unown(dti_tx *tx, dti_t *t) {
    if (!t->r->owner) return;
    dti_del(tx->store, DTI_T_HELD, t->r->owner, t->job, t->ord);
    t->r->owner = t->r->token = 0;
    t->r->seq = 0;
}

void dti_move(dti_tx *tx, dti_t *t, dti_state to) {
    dti_taskrow *r = t->r;
    unsigned from = r->state;
    if (!dti_edge_legal(from, to))
        dti_raise(tx->store, DTASK_EINTERNAL, "task %u of job no %llu may not go from %s to %s: a bug, please report it", t->ord,
            (unsigned long long)t->job, from < DTI_STATES ? dti_state_names[from] : "nothing", dti_state_names[to]);
    if ((from == DTI_READY || from == DTI_RUNNING) && to != DTI_RUNNING && to != DTI_READY && r->bits & DTI_PERMIT
        && !(DTI_PLANTED(PERMIT_KEPT) && to == DTI_PARKED))
        dti_permits_return(tx, t, from == DTI_READY);
    if (to != DTI_RUNNING && to != DTI_PARKED) dti_unown(tx, t);
    if (from == DTI_READY && r->lost) dti_del(tx->store, DTI_T_ALONE, r->type, t->job, t->ord); // nobody shall run dry for it
    if (from < DTI_STATES) t->j->count[from]--;
    t->j->count[to]++;
    r->state = (uint8_t)to;
}

static void settle(dti_tx *tx, dti_t *t, dti_state to) {
    if (t->r->state != to) dti_move(tx, t, to);
}

void dti_due_set(dti_tx *tx, dti_t *t, int64_t at) {
    dti_due_clear(tx, t);
    t->r->due = at;
    dti_put(tx->store, DTI_T_DUE, (uint64_t)at, t->job, t->ord, NULL, 0);
}

void dti_due_clear(dti_tx *tx, dti_t *t) {
    dti_taskrow *r = t->r;
    // The same row may also be the one by which an unbegun task expires.
    if (r->due && (r->begun || r->due != r->expires)) dti_del(tx->store, DTI_T_DUE, (uint64_t)r->due, t->job, t->ord);
    r->due = 0;
}

static bool expired(const dti_tx *tx, const dti_taskrow *r) {
    return !r->begun && r->expires && r->expires <= tx->now;
}

void dti_admit(dti_tx *tx, dti_t *t) {
    dti_taskrow *r = t->r;
    if (dti_ending(t)) return dti_finish(tx, t, DTI_CANCELLED, DTI_R_NONE);
    if (expired(tx, r)) return dti_finish(tx, t, DTI_SKIPPED, DTI_R_EXPIRED);
    if (r->need) return settle(tx, t, DTI_BLOCKED);
    if (r->due > tx->now) {
        settle(tx, t, DTI_SCHEDULED);
        dti_put(tx->store, DTI_T_DUE, (uint64_t)r->due, t->job, t->ord, NULL, 0);
        return;
    }
    dti_due_clear(tx, t);
    if (t->j->paused) {
        settle(tx, t, DTI_BLOCKED);
        r->wait = DTI_PAUSE;
        return;
    }
    if (r->bits & DTI_PERMIT) dti_permits_return(tx, t, false); // of the attempt that is over; `ready` has its own
    uint32_t full = r->bits & DTI_HAS_KEYS ? dti_permits_take(tx, t, false) : 0;
    if (full) {
        uint8_t over = dti_key_at(tx, t, full - 1).over;
        if (!r->begun && over == DTI_OVER_DROP) return dti_finish(tx, t, DTI_SKIPPED, DTI_R_LIMIT);
        if (!r->begun && over == DTI_OVER_FAIL) return dti_finish(tx, t, DTI_FAILED, DTI_R_LIMIT);
        settle(tx, t, DTI_BLOCKED);
        return dti_limit_await(tx, t, full, false);
    }
    dti_move(tx, t, DTI_READY);
    dti_lane_add(tx, t);
}

// ---- ending -----------------------------------------------------------------

// For who waits from outside. Of very many some are not named: then all look.
static void tell_waiters(dti_tx *tx, const dti_t *t) {
    dti_effects *fx = &tx->fx;
    if (fx->nended >= DTI_ENDED_MAX) {
        fx->ended_more = true;
        return;
    }
    fx->ended = dti_more(tx, fx->ended, fx->nended, &fx->cended, sizeof *fx->ended);
    fx->ended[fx->nended++] = dti_task_hash(t->job, t->ord);
}

static void complete(dti_tx *tx, dti_t *t, dti_state verdict) {
    dti_taskrow *r = t->r;
    dti_move(tx, t, verdict);
    r->ended = tx->now;
    if (verdict == DTI_FAILED) dti_put(tx->store, DTI_T_DEAD, t->job, t->ord, 0, NULL, 0);
    if (r->bits & DTI_HAS_KEYS) dti_unique_free(tx, t, false);
    if (r->bits & DTI_HAS_EDGES) dti_push(tx, DTI_DO_EDGES, t->job, t->ord, 0, 0);
    if (r->nkids && t->j->keep != DTI_KEEP_ALL) dti_push(tx, DTI_DO_DROP, t->job, t->ord, 1, 0);
    dti_hooks(tx, t);
    if (t->ord == 0) return dti_job_end(tx, t);
    tell_waiters(tx, t);

    dti_t p;
    if (!dti_task(tx, t->job, r->parent, &p) || !p.r->open)
        dti_raise(tx->store, DTASK_EINTERNAL, "task %u of job no %llu has no open parent", t->ord, (unsigned long long)t->job);
    bool bad = dti_bad(r);
    p.r->open--;
    if (bad && !(r->bits & DTI_SEEN) && !p.r->bad++) p.r->blame = r->state == DTI_FAILED ? t->ord : r->blame;
    if (p.r->state == DTI_CLOSING) {
        if (!p.r->open) dti_push(tx, DTI_DO_COMPLETE, t->job, r->parent, 0, 0);
        return;
    }
    if (p.r->state != DTI_RUNNING && p.r->state != DTI_PARKED) return;
    if (p.r->bits & DTI_TELLS && dti_told_has(tx, &p, t->ord, bad)) dti_log_add(tx, &p, DTI_LOG_KID, t->ord, (dtask_str){0}, (dtask_str){0});
    if (p.r->wait & DTI_AWAITS && dti_holds(tx, &p)) dti_wake_up(tx, &p);
}

void dti_finish(dti_tx *tx, dti_t *t, dti_state verdict, dti_reason reason) {
    dti_taskrow *r = t->r;
    dti_due_clear(tx, t);
    if (r->expires && !r->begun) dti_del(tx->store, DTI_T_DUE, (uint64_t)r->expires, t->job, t->ord);
    r->wait = 0;
    r->at_limit = 0;
    r->reason = (uint8_t)reason;
    if (!r->open) return complete(tx, t, verdict);
    r->verdict = (uint8_t)verdict;
    dti_move(tx, t, DTI_CLOSING);
}

bool dti_do_complete(dti_tx *tx, dti_todo *d) {
    dti_t t;
    if (dti_task(tx, d->job, d->ord, &t) && t.r->state == DTI_CLOSING && !t.r->open) complete(tx, &t, t.r->verdict);
    return false;
}

bool dti_do_settle(dti_tx *tx, dti_todo *d) {
    dti_t t;
    if (dti_task(tx, d->job, d->ord, &t) && t.r->state == DTI_READY)
        dti_finish(tx, &t, dti_ending(&t) ? DTI_CANCELLED : DTI_SKIPPED, dti_ending(&t) ? DTI_R_NONE : DTI_R_EXPIRED);
    return false;
}

// Its dependents. A row that is gone was purged, with its job.
bool dti_do_edges(dti_tx *tx, dti_todo *d) {
    const dti_taskrow *dep = dti_look(tx, d->job, d->ord);
    if (!dep) return false;
    bool good = DTI_PLANTED(BAD_RELEASES) ? dep->state == DTI_SUCCEEDED : dti_good(dep);
    for (int i = 0; dti_spend(tx, i); i++) {
        dti_key k = {d->job, d->ord, 0};
        const void *v;
        size_t n;
        if (!tx->store->ops->seek(tx->store, DTI_T_EDGE, 2, &k, &v, &n)) return false;
        dti_del(tx->store, DTI_T_EDGE, k.a, k.b, k.c);
        dti_t t;
        if (!dti_task(tx, d->job, (uint32_t)k.c, &t) || t.r->state != DTI_BLOCKED || !t.r->need) continue;
        if (!good) dti_finish(tx, &t, dti_ending(&t) ? DTI_CANCELLED : DTI_SKIPPED, dti_ending(&t) ? DTI_R_NONE : DTI_R_AFTER);
        else if (!--t.r->need) dti_admit(tx, &t);
    }
    return true;
}

// ---- waiting ----------------------------------------------------------------

bool dti_holds(dti_tx *tx, const dti_t *t) {
    const dti_taskrow *r = t->r;
    if (dti_ending(t)) return true;
    if (r->wait & DTI_QUIET && !r->open) return true;
    if (r->wait & DTI_DUE && r->due <= tx->now) return true;
    return r->wait & DTI_MAIL && dti_log_unread(tx, t->job, t->ord, r);
}

// Tells the owner: that it runs again, or that it is to end within its grace.
static void tell_owner(dti_tx *tx, dti_t *t, bool cancel) {
    dti_workerrow *w = dti_mut(tx->store, DTI_T_WORKER, t->r->owner, 0, 0);
    if (!w) dti_raise(tx->store, DTASK_EINTERNAL, "worker no %llu owns a task and is gone", (unsigned long long)t->r->owner);
    dti_wakerow row = {.version = DTI_ROW_VERSION, .cancel = cancel, .ord = t->ord, .job = t->job, .token = t->r->token, .seq = t->r->park_seq};
    dti_put(tx->store, DTI_T_WAKE, w->no, ++w->next_wake, 0, &row, sizeof row);
    if (cancel) dti_due_set(tx, t, tx->now + t->j->grace_us);
    dti_effects *fx = &tx->fx;
    for (size_t i = 0; i < fx->nworkers; i++) {
        if (fx->workers[i] == w->no) return;
    }
    fx->workers = dti_more(tx, fx->workers, fx->nworkers, &fx->cworkers, sizeof *fx->workers);
    fx->workers[fx->nworkers++] = w->no;
}

void dti_wake_up(dti_tx *tx, dti_t *t) {
    dti_taskrow *r = t->r;
    if (!r->owner) return dti_push(tx, DTI_DO_WAKE, t->job, t->ord, 0, 0);
    if (r->state == DTI_PARKED) {
        if (r->wait & DTI_LIMIT_WAIT) return;
        if (t->j->paused && !dti_ending(t)) {
            r->wait |= DTI_PAUSE;
            return;
        }
        uint32_t full = r->bits & DTI_HAS_KEYS && !(r->bits & DTI_PERMIT) ? dti_permits_take(tx, t, true) : 0;
        if (full) return dti_limit_await(tx, t, full, true);
        dti_move(tx, t, DTI_RUNNING);
    }
    dti_due_clear(tx, t);
    r->wait = 0;
    if (r->bits & DTI_JOURNAL) dti_log_add(tx, t, DTI_LOG_WOKE, r->logn, (dtask_str){0}, (dtask_str){0});
    tell_owner(tx, t, dti_ending(t));
}

static bool deps_good(dti_tx *tx, const dti_t *t) {
    size_t n = 0;
    const char *p = t->r->bits & DTI_HAS_DEPS ? dti_get(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_DEPS, &n) : NULL;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        uint32_t ord;
        memcpy(&ord, p + i, 4);
        const dti_taskrow *dep = dti_look(tx, t->job, ord);
        if (!dep || !dti_good(dep)) return false;
    }
    return true;
}

bool dti_do_wake(dti_tx *tx, dti_todo *d) {
    dti_t t;
    if (!dti_task(tx, d->job, d->ord, &t) || t.r->state != DTI_PARKED || t.r->owner) return false;
    if (!dti_holds(tx, &t)) { // the clock was set back since its time came
        if (t.r->wait & DTI_DUE) dti_put(tx->store, DTI_T_DUE, (uint64_t)t.r->due, t.job, t.ord, NULL, 0);
        return false;
    }
    bool then = t.r->wait & DTI_THEN;
    if (then && !dti_ending(&t) && (t.r->bad || !deps_good(tx, &t)) && !DTI_PLANTED(THEN_RUNS)) {
        dti_finish(tx, &t, DTI_FAILED, DTI_R_CHILDREN);
        return false;
    }
    dti_due_clear(tx, &t);
    t.r->wait = 0;
    dti_admit(tx, &t);
    return false;
}

// ---- cancel, loss, release ------------------------------------------------------

void dti_cancel(dti_tx *tx, dti_t *t) {
    dti_taskrow *r = t->r;
    if (dti_terminal(r->state) || r->bits & DTI_CANCEL) return;
    r->bits |= DTI_CANCEL;
    if (r->state == DTI_CLOSING) return;
    if (r->state == DTI_RUNNING && !r->wait) return tell_owner(tx, t, true);
    if (r->state == DTI_RUNNING || (r->state == DTI_PARKED && r->owner)) return dti_wake_up(tx, t);
    dti_finish(tx, t, DTI_CANCELLED, DTI_R_NONE);
}

static void drop_frame(dti_tx *tx, dti_t *t) {
    dti_unown(tx, t);
    if (!(t->r->wait & (DTI_LIMIT_WAIT | DTI_PAUSE))) return;
    t->r->wait &= (uint8_t) ~(DTI_LIMIT_WAIT | DTI_PAUSE); // what it awaited is there: it queues as any
    t->r->at_limit = 0;
    dti_push(tx, DTI_DO_WAKE, t->job, t->ord, 0, 0);
}

// A task that must never run twice fails once it may have run.
static void give_up(dti_tx *tx, dti_t *t) {
    bool ending = dti_ending(t);
    dti_finish(tx, t, ending ? DTI_CANCELLED : DTI_FAILED, ending ? DTI_R_NONE : DTI_R_LOST);
}

static void ready_again(dti_tx *tx, dti_t *t) {
    dti_due_clear(tx, t);
    t->r->wait = 0;
    dti_admit(tx, t);
}

void dti_lose(dti_tx *tx, dti_t *t, bool charge) {
    dti_taskrow *r = t->r;
    if (charge && (r->state == DTI_RUNNING || DTI_PLANTED(PARKED_CHARGED))) r->lost++;
    if (!r->crashes || r->lost > r->crashes) return give_up(tx, t);
    if (r->state == DTI_PARKED) return drop_frame(tx, t);
    ready_again(tx, t);
}

void dti_release(dti_tx *tx, dti_t *t) {
    if (!t->r->crashes && t->r->begun) return give_up(tx, t);
    if (t->r->state == DTI_PARKED) return drop_frame(tx, t);
    ready_again(tx, t);
}
