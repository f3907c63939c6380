// mark: cancel, pause, resume, purge. A flag at once, and a pass over the
// rows by steps. The pass of a job goes up the ordinals, so that a parent is
// marked before its children; that of a subtree goes down by its kids, depth
// first, each marked before those below it.
#include "model/model_int.h"

// ---- the passes ------------------------------------------------------------------

bool dti_do_cancel_job(dti_tx *tx, dti_todo *d) {
    dti_jobrow *j = dti_job(tx, d->job);
    for (int i = 0; j && d->cursor < j->next && dti_spend(tx, i); i++, d->cursor++) {
        uint32_t ord = DTI_PLANTED(CANCEL_DESCENDS) ? (uint32_t)(j->next - 1 - d->cursor) : (uint32_t)d->cursor;
        dti_t t;
        if (!dti_task(tx, d->job, ord, &t)) return false;
        dti_cancel(tx, &t);
    }
    return j && d->cursor < j->next;
}

// The task after `at` in the walk below `top`; 0: the walk is over.
static uint32_t next_below(dti_tx *tx, uint64_t job, uint32_t top, uint32_t at) {
    const void *v;
    size_t n;
    dti_key k = {job, at, 0};
    if (tx->store->ops->seek(tx->store, DTI_T_KIDS, 2, &k, &v, &n)) return (uint32_t)k.c;
    while (at != top) {
        const dti_taskrow *r = dti_look(tx, job, at), *next = r ? dti_look(tx, job, at + 1) : NULL;
        if (!r) return 0;
        if (next && next->parent == r->parent) return at + 1;
        k = (dti_key){job, r->parent, at + 1};
        if (tx->store->ops->seek(tx->store, DTI_T_KIDS, 2, &k, &v, &n)) return (uint32_t)k.c;
        at = r->parent;
        dti_w(tx)->steps++;
    }
    return 0;
}

bool dti_do_cancel(dti_tx *tx, dti_todo *d) {
    for (int i = 0; dti_spend(tx, i); i++) {
        uint32_t ord = next_below(tx, d->job, d->ord, (uint32_t)d->cursor);
        dti_t t;
        if (!ord || !dti_task(tx, d->job, ord, &t)) return false;
        dti_cancel(tx, &t);
        d->cursor = ord;
    }
    return true;
}

static void pause_one(dti_tx *tx, dti_t *t) {
    if (t->r->state != DTI_READY) return;
    dti_move(tx, t, DTI_BLOCKED);
    t->r->wait = DTI_PAUSE;
}

// Empties the job's lanes, and its part of `alone`. `cursor` is the lane's
// code; 0: the first. While the job is paused, none is added.
bool dti_do_pause(dti_tx *tx, dti_todo *d) {
    dti_jobrow *j = dti_job(tx, d->job);
    if (!j || !j->paused) return false;
    if (!d->cursor) d->cursor = j->lanes;
    for (int i = 0; d->cursor; i++) {
        if (!dti_spend(tx, i) || dti_lane_drain(tx, d->cursor, d->job, DTI_CHUNK, pause_one)) return true;
        uint64_t type = d->cursor / 8, prio = d->cursor % 8;
        dti_key k = {type, d->job, 0};
        const void *v;
        size_t n;
        dti_t t;
        for (int alone = 0; tx->store->ops->seek(tx->store, DTI_T_ALONE, 2, &k, &v, &n); alone++) {
            if (alone == DTI_CHUNK) return true;
            dti_del(tx->store, DTI_T_ALONE, k.a, k.b, k.c);
            if (dti_task(tx, d->job, (uint32_t)k.c, &t)) pause_one(tx, &t);
        }
        const dti_lane *lane = dti_get(tx->store, DTI_T_LANE, type, d->job, prio, &n);
        d->cursor = lane ? lane->next : 0;
    }
    return false;
}

bool dti_do_resume(dti_tx *tx, dti_todo *d) {
    dti_jobrow *j = dti_job(tx, d->job);
    for (int i = 0; j && !j->paused && d->cursor < j->next && dti_spend(tx, i); i++) {
        dti_t t;
        const dti_taskrow *r = dti_look(tx, d->job, (uint32_t)d->cursor++);
        if (!r || !(r->wait & DTI_PAUSE) || !dti_task(tx, d->job, (uint32_t)d->cursor - 1, &t)) continue;
        t.r->wait &= (uint8_t)~DTI_PAUSE;
        if (t.r->state == DTI_PARKED) dti_wake_up(tx, &t);
        else dti_admit(tx, &t);
    }
    return j && !j->paused && d->cursor < j->next;
}

// ---- the operation ----------------------------------------------------------------

static void mark_type(dti_tx *tx, dti_mark *m) {
    dti_type *type = dti_type_mut(tx, m->type);
    m->status = type ? DTI_MARKED : DTI_MARK_NONE;
    if (!type || (m->verb != DTI_MARK_PAUSE && m->verb != DTI_MARK_RESUME)) return;
    type->paused = m->verb == DTI_MARK_PAUSE;
    if (type->paused) return;
    uint32_t *fx = dti_need(tx, sizeof *fx);
    *fx = m->type;
    tx->fx.types = fx;
    tx->fx.ntypes = tx->fx.ctypes = 1;
}

static void cancel_tree(dti_tx *tx, uint64_t job, uint32_t ord) {
    dti_t t;
    if (!dti_task(tx, job, ord, &t) || dti_terminal(t.r->state)) return;
    dti_cancel(tx, &t);
    if (t.r->nkids) dti_push(tx, DTI_DO_CANCEL, job, ord, ord, 0);
}

static void cancel(dti_tx *tx, dti_mark *m, uint64_t job, dti_jobrow *j) {
    if (!m->kids && !m->ord) {
        j->state = DTI_JOB_CANCELLING;
        dti_del(tx->store, DTI_T_JOBS, DTI_JOB_RUNNING, ~job, 0);
        dti_put(tx->store, DTI_T_JOBS, DTI_JOB_CANCELLING, ~job, 0, NULL, 0);
        dti_push(tx, DTI_DO_CANCEL_JOB, job, 0, 0, 0);
        return;
    }
    if (!m->kids) {
        const dti_taskrow *r = dti_look(tx, job, m->ord);
        m->status = !r ? DTI_MARK_NONE : dti_terminal(r->state) ? DTI_MARK_ENDED : DTI_MARKED;
        if (m->status == DTI_MARKED) cancel_tree(tx, job, m->ord);
        return;
    }
    for (uint32_t i = 0; i < m->nranges; i++) dti_push(tx, DTI_DO_CANCEL_KIDS, job, m->ord, (uint64_t)m->ranges[i].first << 32 | m->ranges[i].count, 0);
}

// The children of one parent in a range: `cursor` is first << 32 | count.
bool dti_do_cancel_kids(dti_tx *tx, dti_todo *d) {
    uint32_t first = (uint32_t)(d->cursor >> 32), count = (uint32_t)d->cursor;
    for (int i = 0; count && dti_spend(tx, i); i++, first++, count--) {
        const dti_taskrow *r = dti_look(tx, d->job, first);
        if (!r) return false;
        if (r->parent == d->ord && first) cancel_tree(tx, d->job, first);
    }
    d->cursor = (uint64_t)first << 32 | count;
    return count;
}

void dti_op_mark(dti_tx *tx, dti_mark *m) {
    if (!m->id.n) return mark_type(tx, m);
    uint64_t job = dti_job_find(tx, m->id);
    dti_jobrow *j = job ? dti_job(tx, job) : NULL;
    m->status = DTI_MARK_NONE;
    if (!j) return;
    bool ended = j->state > DTI_JOB_CANCELLING;
    m->status = DTI_MARKED;
    if (m->verb == DTI_MARK_PURGE) {
        if (!ended || !dti_job_forget(tx, job, j)) m->status = DTI_MARK_BUSY;
        return;
    }
    if (ended) {
        m->status = DTI_MARK_ENDED;
    } else if (m->verb == DTI_MARK_CANCEL) {
        if (j->state == DTI_JOB_RUNNING) cancel(tx, m, job, j);
    } else if (j->paused != (m->verb == DTI_MARK_PAUSE)) {
        j->paused = m->verb == DTI_MARK_PAUSE;
        dti_push(tx, j->paused ? DTI_DO_PAUSE : DTI_DO_RESUME, job, 0, 0, 0);
    }
}
