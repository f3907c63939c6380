// A job's frame: how it begins, how it ends with its root, what is kept of
// it, and how its rows go.
#include "model/model_int.h"

static void index_job(dti_tx *tx, uint64_t job, dti_jobrow *j, dti_jobstate to) {
    dti_del(tx->store, DTI_T_JOBS, j->state, ~job, 0);
    j->state = (uint8_t)to;
    dti_put(tx->store, DTI_T_JOBS, to, ~job, 0, NULL, 0);
}

// skipped_for: the task that holds the unique key, whose over=drop ends this
// one before it begins; else empty.
uint64_t dti_job_begin(dti_tx *tx, const dti_start *s, uint64_t hook_of, dtask_str skipped_for) {
    dti_meta *m = dti_w(tx)->meta;
    uint64_t job = m->next_job++;
    dti_jobrow *j = dti_put(tx->store, DTI_T_JOB, job, 0, 0, NULL, sizeof *j);
    *j = (dti_jobrow){.version = DTI_ROW_VERSION, .keep = s->keep, .type = s->task.type, .max_tasks = s->max_tasks ? s->max_tasks : UINT32_MAX,
        .max_depth = s->max_depth ? s->max_depth : UINT32_MAX, .blob_min = s->blob_min ? s->blob_min : DTI_BLOB_MIN,
        .of = s->of, .hook_of = hook_of, .retain_us = s->retain_us, .grace_us = s->grace_us};
    index_job(tx, job, j, DTI_JOB_RUNNING);
    j->created = tx->now;
    dti_hash h = dti_id_hash(s->id);
    dti_put(tx->store, DTI_T_JOBID, h.h[0], h.h[1], 0, &job, sizeof job);

    dti_t t = dti_task_make(tx, job, j, 0, &s->task, NULL);
    dti_data_set(tx, &t, DTI_D_ID, s->id);
    if (s->tags.n) dti_data_set(tx, &t, DTI_D_TAGS, s->tags);
    if (s->trigger.n) dti_data_set(tx, &t, DTI_D_TRIGGER, s->trigger);
    if (skipped_for.n) {
        dti_data_set(tx, &t, DTI_D_ERROR, skipped_for);
        t.r->bits |= DTI_HAS_ERROR;
        dti_finish(tx, &t, DTI_SKIPPED, DTI_R_UNIQUE);
    } else {
        dti_admit(tx, &t);
    }
    return job;
}

static void lapse(dti_tx *tx, uint64_t job, int64_t at) {
    dti_lapse row = {.version = DTI_ROW_VERSION, .kind = DTI_LAPSE_RETAIN, .h = {job}};
    dti_put(tx->store, DTI_T_LAPSE, (uint64_t)at, dti_w(tx)->meta->next_lapse++, 0, &row, sizeof row);
}

void dti_job_end(dti_tx *tx, dti_t *root) {
    dti_jobrow *j = root->j;
    unsigned v = root->r->state;
    index_job(tx, root->job, j, j->state == DTI_JOB_CANCELLING ? DTI_JOB_CANCELLED : dti_bad(root->r) ? DTI_JOB_FAILED
        : v == DTI_SUCCEEDED ? DTI_JOB_SUCCEEDED : DTI_JOB_CANCELLED);
    j->ended = tx->now;
    // A trigger's test said no: that it was asked leaves nothing.
    lapse(tx, root->job, root->r->reason == DTI_R_TEST ? tx->now : tx->now + j->retain_us);
    if (j->lanes) dti_push(tx, DTI_DO_LANES, root->job, 0, 0, 0);
    if (j->hook_of) {
        dti_jobrow *of = dti_mut(tx->store, DTI_T_JOB, j->hook_of, 0, 0);
        if (of && of->hooks) of->hooks--;
    }
    size_t n;
    const void *id = dti_get(tx->store, DTI_T_DATA, root->job, 0, DTI_D_ID, &n);
    dti_effects *fx = &tx->fx;
    fx->ended = dti_more(tx, fx->ended, fx->nended, &fx->cended, sizeof *fx->ended);
    fx->ended[fx->nended++] = dti_id_hash(dti_str(id, n));
}

bool dti_do_lanes(dti_tx *tx, dti_todo *d) {
    dti_jobrow *j = dti_job(tx, d->job);
    if (!j || !j->lanes) return false;
    if (dti_lane_drain(tx, j->lanes, d->job, DTI_CHUNK, NULL)) return true;
    uint64_t type = j->lanes / 8, prio = j->lanes % 8;
    dti_lane *lane = dti_mut(tx->store, DTI_T_LANE, type, d->job, prio);
    j->lanes = lane ? lane->next : 0;
    dti_del(tx->store, DTI_T_LANE, type, d->job, prio);
    return j->lanes != 0;
}

// ---- payloads: until the parent completes, then as `keep` says -------------------

// All but arguments and result, which most tasks have alone. False: a key
// that others may still join pins them.
static bool drop_extras(dti_tx *tx, uint64_t job, uint32_t ord) {
    dti_t t;
    if (!dti_task(tx, job, ord, &t)) return false;
    dti_taskrow *r = t.r;
    uint16_t gone = DTI_HAS_DEPS | DTI_HAS_STATE | DTI_HAS_PROGRESS | DTI_HAS_ERROR;
    if (r->bits & DTI_HAS_KEYS) {
        bool forever = false; // once in the job's life: the purge will want to know
        dti_keyspec s;
        for (uint32_t i = 0; (s = dti_key_at(tx, &t, i)).h[0] || s.h[1]; i++) {
            dti_uniq u;
            if (s.kind != DTI_KEY_UNIQUE || !dti_unique_find(tx, (dti_hash){{s.h[0], s.h[1]}}, &u) || u.job != job || u.ord != ord) continue;
            if (!s.scope) return false;
            forever = true;
        }
        if (!forever) {
            dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_KEYS);
            gone |= DTI_HAS_KEYS;
        }
    }
    if (r->bits & DTI_HAS_DEPS) dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_DEPS);
    if (r->bits & DTI_TELLS) dti_told_clear(tx, &t);
    if (r->bits & DTI_HAS_STATE) dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_STATE);
    if (r->bits & DTI_HAS_PROGRESS) dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_PROGRESS);
    if (r->bits & DTI_HAS_ERROR) dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_ERROR);
    r->bits &= (uint16_t)~gone;
    return true;
}

static void drop_payload(dti_tx *tx, uint64_t job, const dti_jobrow *j, uint32_t ord, const dti_taskrow *r) {
    enum { EXTRAS = DTI_HAS_KEYS | DTI_HAS_DEPS | DTI_TELLS | DTI_HAS_STATE | DTI_HAS_PROGRESS | DTI_HAS_ERROR };
    if (r->state == DTI_FAILED && j->keep == DTI_KEEP_FAILED) return;
    if (r->bits & EXTRAS && !drop_extras(tx, job, ord)) return;
    dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_ARGS);
    dti_del(tx->store, DTI_T_DATA, job, ord, DTI_D_RESULT);
}

bool dti_do_drop(dti_tx *tx, dti_todo *d) {
    dti_jobrow *j = dti_job(tx, d->job);
    for (int i = 0; j && dti_spend(tx, i); i++) {
        const dti_taskrow *r = dti_look(tx, d->job, (uint32_t)d->cursor);
        if (!r || r->parent != d->ord) { // the run is over: the next one
            dti_key k = {d->job, d->ord, d->cursor};
            const void *v;
            size_t n;
            if (!tx->store->ops->seek(tx->store, DTI_T_KIDS, 2, &k, &v, &n)) return false;
            d->cursor = k.c;
            if (!(r = dti_look(tx, d->job, (uint32_t)k.c))) return false; // purged meanwhile
        }
        drop_payload(tx, d->job, j, (uint32_t)d->cursor++, r);
        if (d->arg) return false;
    }
    return j;
}

// ---- leaving ------------------------------------------------------------------------

// From here on the id is free, and nobody finds the job; its rows go step by step.
bool dti_job_forget(dti_tx *tx, uint64_t job, dti_jobrow *j) {
    if (!j->ended || j->hooks) return false;
    size_t n;
    const void *id = dti_get(tx->store, DTI_T_DATA, job, 0, DTI_D_ID, &n);
    if (!id) return true; // has begun
    dti_hash h = dti_id_hash(dti_str(id, n));
    dti_del(tx->store, DTI_T_JOBID, h.h[0], h.h[1], 0);
    dti_del(tx->store, DTI_T_JOBS, j->state, ~job, 0);
    dti_del(tx->store, DTI_T_DATA, job, 0, DTI_D_ID);
    dti_push(tx, DTI_DO_PURGE, job, 0, 0, 0);
    return true;
}

static bool clear(dti_tx *tx, dti_table table, uint64_t job, uint64_t ord) { // false: more remains
    for (int i = 0; dti_spend(tx, i); i++) {
        dti_key k = {job, ord, 0};
        const void *v;
        size_t n;
        if (!tx->store->ops->seek(tx->store, table, 2, &k, &v, &n)) return true;
        dti_del(tx->store, table, k.a, k.b, k.c);
    }
    return false;
}

bool dti_do_purge(dti_tx *tx, dti_todo *d) {
    dti_jobrow *j = dti_job(tx, d->job);
    if (!j) return false;
    if (j->lanes) return dti_do_lanes(tx, d), true;
    if (!d->arg && j->log_n && !clear(tx, DTI_T_LOG, d->job, DTI_EMITS)) return true;
    d->arg = 1;
    for (int i = 0; d->cursor < j->next && dti_spend(tx, i); i++, d->cursor++) {
        uint32_t ord = (uint32_t)d->cursor;
        const dti_taskrow *r = dti_look(tx, d->job, ord);
        if (!r) continue;
        if (r->nkids && !clear(tx, DTI_T_KIDS, d->job, ord)) return true;
        if (r->logn && !clear(tx, DTI_T_LOG, d->job, ord)) return true;
        if (r->bits & DTI_HAS_EDGES && !clear(tx, DTI_T_EDGE, d->job, ord)) return true;
        if (r->bits & DTI_HAS_KEYS) dti_unique_forget(tx, d->job, ord);
        if (r->state == DTI_FAILED) dti_del(tx->store, DTI_T_DEAD, d->job, ord, 0);
        for (uint64_t kind = DTI_D_ARGS; kind <= (ord ? DTI_D_STATE : DTI_D_TRIGGER); kind++) dti_del(tx->store, DTI_T_DATA, d->job, ord, kind);
        dti_del(tx->store, DTI_T_TASK, d->job, ord, 0);
    }
    if (d->cursor < j->next || (!DTI_PLANTED(PURGE_BLOBLESS) && dti_blobs_drop(tx, d->job, j))) return true;
    dti_del(tx->store, DTI_T_JOB, d->job, 0, 0);
    dti_w(tx)->job = NULL;
    return false;
}
