// read: rows, for people, waiters and re-runs. Writes nothing.
#include "model/model_int.h"

static void task_view(dti_tx *tx, uint64_t job, dtask_str id, uint32_t ord, const dti_taskrow *r, bool whole, dti_taskview *v) {
    *v = (dti_taskview){.job = job, .ord = ord, .id = id, .row = *r, .type = dti_type_name(tx, r->type)};
    size_t n;
    const dti_workerrow *by = r->by ? dti_get(tx->store, DTI_T_WORKER, r->by, 0, 0, &n) : NULL;
    if (by) v->by = dti_kept(tx, by->name, strnlen(by->name, sizeof by->name));
    if (!whole) return;
    v->args = dti_data_get(tx, job, ord, DTI_D_ARGS);
    v->result = dti_data_get(tx, job, ord, DTI_D_RESULT);
    if (r->bits & DTI_HAS_ERROR) v->error = dti_data_get(tx, job, ord, DTI_D_ERROR);
    if (r->bits & DTI_HAS_PROGRESS) v->progress = dti_data_get(tx, job, ord, DTI_D_PROGRESS);
    if (r->bits & DTI_HAS_STATE) v->state = dti_data_get(tx, job, ord, DTI_D_STATE);
    if (dti_terminal(r->state)) v->end = dti_mail_of(tx, job, ord, r);
    if (r->state == DTI_FAILED && r->reason == DTI_R_CHILDREN && r->bits & DTI_HAS_DEPS) v->deps = dti_data_get(tx, job, ord, DTI_D_DEPS);
}

static bool job_view(dti_tx *tx, uint64_t job, dti_jobview *v) {
    size_t n;
    const dti_jobrow *j = dti_get(tx->store, DTI_T_JOB, job, 0, 0, &n);
    const dti_taskrow *root = dti_look(tx, job, 0);
    if (!j || !root) return false;
    *v = (dti_jobview){.no = job, .row = *j, .id = dti_job_id(tx, job), .type = dti_type_name(tx, j->type),
        .tags = dti_data_get(tx, job, 0, DTI_D_TAGS)};
    task_view(tx, job, v->id, 0, root, true, &v->root);
    return true;
}

static void read_kids(dti_tx *tx, dti_read *q, uint64_t job, dtask_str id) {
    size_t cap = 0;
    uint32_t at = q->from;
    for (;; at++) {
        const dti_taskrow *r = at ? dti_look(tx, job, at) : NULL;
        if (!r || r->parent != q->ord) { // the next run
            dti_key k = {job, q->ord, at};
            const void *v;
            size_t n;
            if (!tx->store->ops->seek(tx->store, DTI_T_KIDS, 2, &k, &v, &n)) return;
            at = (uint32_t)k.c;
            r = dti_look(tx, job, at);
            if (!r) return;
        }
        q->next = at;
        q->more = q->n == q->limit;
        if (q->more) return;
        q->tasks = dti_more(tx, q->tasks, q->n, &cap, sizeof *q->tasks);
        task_view(tx, job, id, at, r, q->whole, &q->tasks[q->n++]);
        q->next = at + 1;
    }
}

static void type_view(dti_tx *tx, uint32_t no, dti_typeview *v) {
    const dti_type *row = dti_type_row(tx, no);
    if (!row) return;
    const char *p = (const char *)(row + 1);
    v->row = *row;
    v->name = dti_kept(tx, p, row->name_n);
    v->signature = dti_kept(tx, p + row->name_n, row->signature_n);
    v->options = dti_kept(tx, p + row->name_n + row->signature_n, row->options_n);
}

static void read_types(dti_tx *tx, dti_read *q) {
    uint32_t end = (uint32_t)dti_w(tx)->meta->next_type;
    for (uint32_t no = q->from ? q->from : 1; no < end; no++) {
        if ((q->more = q->n == q->limit)) return;
        size_t cap = q->n;
        q->types = dti_more(tx, q->types, q->n, &cap, sizeof *q->types);
        type_view(tx, no, &q->types[q->n++]);
        q->next = no + 1;
    }
}

static void read_type(dti_tx *tx, dti_read *q) {
    size_t n;
    uint32_t no = q->version;
    if (q->id.n) {
        const uint32_t *have = dti_get(tx->store, DTI_T_TYPEID, dti_hash128(q->id.p, q->id.n, 0).h[0], q->version, 0, &n);
        no = have ? *have : 0;
    }
    if (!no || !dti_type_row(tx, no)) return;
    q->types = dti_need(tx, sizeof *q->types);
    type_view(tx, no, q->types);
    q->n = 1;
}

// Newest first: the states' lists are merged by job no.
static void read_jobs(dti_tx *tx, dti_read *q) {
    size_t cap = 0, size;
    const void *v;
    uint64_t at = q->before ? ~(q->before - 1) : 0;
    for (;;) {
        uint64_t best = UINT64_MAX;
        for (uint64_t state = 0; state <= DTI_JOB_CANCELLED; state++) {
            dti_key k = {state, at, 0};
            if (q->state >= 0 && (uint64_t)q->state != state) continue;
            if (tx->store->ops->seek(tx->store, DTI_T_JOBS, 1, &k, &v, &size) && k.b < best) best = k.b;
        }
        if (best == UINT64_MAX) return;
        if ((q->more = q->n == q->limit)) return;
        q->jobs = dti_more(tx, q->jobs, q->n, &cap, sizeof *q->jobs);
        if (job_view(tx, ~best, &q->jobs[q->n])) q->n++;
        at = best + 1;
    }
}

static void read_workers(dti_tx *tx, dti_read *q) {
    dti_key k = {q->from, 0, 0};
    const void *v;
    size_t cap = 0, n;
    for (; tx->store->ops->seek(tx->store, DTI_T_SERVES, 0, &k, &v, &n); k = (dti_key){k.a + 1, 0, 0}) {
        if ((q->more = q->n == q->limit)) return;
        const dti_workerrow *w = dti_get(tx->store, DTI_T_WORKER, k.a, 0, 0, &n);
        if (!w) continue;
        q->workers = dti_more(tx, q->workers, q->n, &cap, sizeof *q->workers);
        q->workers[q->n++].row = *w;
        q->next = (uint32_t)k.a + 1;
    }
}

void dti_op_read(dti_tx *tx, dti_read *q) {
    q->n = q->next = 0;
    q->more = false;
    q->jobs = NULL;
    q->tasks = NULL;
    q->mails = NULL;
    q->types = NULL;
    q->workers = NULL;
    if (!q->limit) q->limit = 1000;
    switch (q->what) {
    case DTI_READ_TYPE: return read_type(tx, q);
    case DTI_READ_TYPES: return read_types(tx, q);
    case DTI_READ_JOBS: return read_jobs(tx, q);
    case DTI_READ_WORKERS: return read_workers(tx, q);
    default: break;
    }
    uint64_t job = q->job;
    if (!job) job = q->job = dti_job_find(tx, q->id);
    if (!job) return;
    if (q->what == DTI_READ_JOB) {
        q->jobs = dti_need(tx, sizeof *q->jobs);
        q->n = job_view(tx, job, q->jobs);
        return;
    }
    if (q->what == DTI_READ_LOG) {
        q->n = dti_mails(tx, job, q->ord, q->from, q->limit, true, &q->mails, &q->more, &q->next);
        return;
    }
    dtask_str id = dti_job_id(tx, job);
    if (q->what == DTI_READ_KIDS) return read_kids(tx, q, job, id);
    const dti_taskrow *r = dti_look(tx, job, q->ord);
    if (!r || !id.n) return;
    q->tasks = dti_need(tx, sizeof *q->tasks);
    task_view(tx, job, id, q->ord, r, true, q->tasks);
    q->n = 1;
}
