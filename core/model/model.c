// The model's entry, the rows that every room looks at, and ids.
#include "model/model_int.h"

#include <stdio.h>
#include <stdlib.h>

static const uint64_t ORDER = 0x0807060504030201;

// ---- memory -------------------------------------------------------------------

void *dti_need(dti_tx *tx, size_t n) {
    void *p = dti_alloc0(tx->arena, n ? n : 1);
    if (!p) dti_raise(tx->store, DTASK_ENOMEM, "out of memory: give the process more, or ask for less at once");
    return p;
}

dtask_str dti_kept(dti_tx *tx, const void *p, size_t n) {
    return n ? dti_str(memcpy(dti_need(tx, n), p, n), n) : (dtask_str){0};
}

void *dti_more(dti_tx *tx, void *array, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return array;
    size_t more = *cap ? *cap * 2 : 8;
    void *p = dti_need(tx, more * size);
    if (n) memcpy(p, array, n * size);
    *cap = more;
    return p;
}

// ---- rows ---------------------------------------------------------------------

dti_jobrow *dti_job(dti_tx *tx, uint64_t job) {
    dti_work *w = dti_w(tx);
    if (w->job && w->job_no == job) return w->job;
    w->job_no = job;
    return w->job = dti_mut(tx->store, DTI_T_JOB, job, 0, 0);
}

bool dti_task(dti_tx *tx, uint64_t job, uint32_t ord, dti_t *out) {
    dti_jobrow *j = dti_job(tx, job);
    dti_taskrow *r = j ? dti_mut(tx->store, DTI_T_TASK, job, ord, 0) : NULL;
    *out = (dti_t){job, ord, j, r};
    return r;
}

const dti_taskrow *dti_look(dti_tx *tx, uint64_t job, uint32_t ord) {
    size_t n;
    return dti_get(tx->store, DTI_T_TASK, job, ord, 0, &n);
}

const dti_type *dti_type_row(dti_tx *tx, uint32_t no) {
    dti_work *w = dti_w(tx);
    size_t n;
    if (w->type && w->type_no == no) return w->type;
    w->type_no = no;
    return w->type = dti_get(tx->store, DTI_T_TYPE, no, 0, 0, &n);
}

dti_type *dti_type_mut(dti_tx *tx, uint32_t no) {
    dti_w(tx)->type = NULL;
    return dti_mut(tx->store, DTI_T_TYPE, no, 0, 0);
}

void dti_type_changed(dti_tx *tx) {
    dti_w(tx)->type = NULL;
    dti_w(tx)->named_no = 0;
}

dtask_str dti_type_name(dti_tx *tx, uint32_t no) {
    dti_work *w = dti_w(tx);
    if (w->named_no == no && no) return w->named;
    const dti_type *row = dti_type_row(tx, no);
    w->named = row ? dti_kept(tx, row + 1, row->name_n) : (dtask_str){0};
    w->named_no = no;
    return w->named;
}

dtask_str dti_job_id(dti_tx *tx, uint64_t job) {
    dti_work *w = dti_w(tx);
    if (w->id_no == job && w->id.n) return w->id;
    w->id = dti_data_get(tx, job, 0, DTI_D_ID);
    w->id_no = job;
    return w->id;
}

dtask_str dti_task_id(dti_tx *tx, uint64_t job, uint32_t ord) {
    dtask_str id = dti_job_id(tx, job);
    if (!ord) return id;
    char *p = dti_need(tx, id.n + 12);
    int n = snprintf(p, id.n + 12, "%.*s/%u", (int)id.n, id.p ? id.p : "", ord);
    return dti_str(p, (size_t)n);
}

uint64_t dti_job_find(dti_tx *tx, dtask_str id) {
    size_t n;
    dti_hash h = dti_id_hash(id);
    const uint64_t *no = dti_get(tx->store, DTI_T_JOBID, h.h[0], h.h[1], 0, &n);
    return no ? *no : 0;
}

// ---- ids ------------------------------------------------------------------------

dtask_err dti_id_check(dtask_str id, bool own) {
    unsigned bangs = 0;
    if (!id.n || (!own && id.n > 200)) return dti_fail(id.n ? DTASK_ETOOBIG : DTASK_EARGS, "a job id has 1 to 200 bytes, this one has %zu", id.n);
    if (id.n > 4000) return dti_fail(DTASK_ETOOBIG, "the id \"%.60s..\" has %zu bytes: shorten the ids of the chain that it came by", id.p, id.n);
    for (size_t i = 0; i < id.n; i++) {
        unsigned char c = (unsigned char)id.p[i];
        if (c < 32 || c == 127) return dti_fail(DTASK_EARGS, "a job id may not hold control signs: byte %zu is 0x%02x", i, c);
        bangs += c == '!';
        if (!own && (c == '/' || c == '!' || c == '@'))
            return dti_fail(DTASK_EARGS, "a job id may not hold '/', '!' or '@': \"%.*s\"", (int)id.n, id.p);
    }
    if (bangs > DTI_BANGS_MAX)
        return dti_fail(DTASK_ETOOBIG, "a chain of triggers is longer than %d: one of them starts itself again", DTI_BANGS_MAX);
    return DTASK_OK;
}

bool dti_id_split(dtask_str id, dtask_str *job, uint32_t *ord) {
    size_t at = id.n;
    while (at && id.p[at - 1] != '/') at--;
    // "job/3!undo" is a job of its own: what follows the slash is no number.
    uint64_t n = 0;
    bool number = at && at < id.n && id.n - at <= 10 && (id.p[at] != '0' || id.n - at == 1);
    for (size_t i = at; number && i < id.n; i++) {
        number = id.p[i] >= '0' && id.p[i] <= '9';
        n = n * 10 + (uint64_t)(id.p[i] - '0');
    }
    if (number && n <= UINT32_MAX && at > 1) {
        *job = dti_str(id.p, at - 1);
        *ord = (uint32_t)n;
        return true;
    }
    *job = id;
    *ord = 0;
    return id.n && dti_id_check(id, true) == DTASK_OK;
}

dti_hash dti_id_hash(dtask_str id) { return dti_hash128(id.p, id.n, 0); }
dti_hash dti_task_hash(uint64_t job, uint32_t ord) { return (dti_hash){{job, ord}}; }

// ---- the store's own -----------------------------------------------------------------

void dti_model_init(dti_tx *tx, uint64_t salt, uint8_t shards) {
    dti_meta m = {.version = DTI_ROW_VERSION, .shards = shards, .read_min = DTI_SCHEMA_READ_MIN, .write = DTI_SCHEMA_WRITE, .order = ORDER,
        .salt = salt, .era = 1, .next_job = 1, .next_type = 1, .next_lane = 1, .next_limit = 1, .next_worker = 1, .next_todo = 1, .next_lapse = 1,
        .last_time = tx->now};
    dti_work work = {.meta = dti_put(tx->store, DTI_T_META, 0, 0, 0, &m, sizeof m)};
    tx->work = &work;
    static const char *const names[] = {DTI_SYS_MAP, DTI_SYS_UNDO, DTI_SYS_JOIN};
    for (int i = 0; i < 3; i++) {
        uint32_t no = dti_type_system(tx, names[i]);
        if (i == 1) work.meta->undo_type = no;
    }
    tx->work = NULL;
}

dtask_err dti_model_check(const dti_meta *m, size_t n) {
    if (n < offsetof(dti_meta, salt) || m->order != ORDER)
        return dti_fail(DTASK_EVERSION, "the store was written by another kind of machine: open it there");
    if (m->read_min > DTI_SCHEMA_WRITE || m->version > DTI_ROW_VERSION)
        return dti_fail(DTASK_EVERSION, "the store has schema %u, this release reads up to %d: upgrade dynatask", m->write, DTI_SCHEMA_WRITE);
    if (m->write < DTI_SCHEMA_READ_MIN || n != sizeof *m)
        return dti_fail(DTASK_EVERSION, "the store has schema %u, this release reads from %d: run the release between", m->write, DTI_SCHEMA_READ_MIN);
    return DTASK_OK;
}

// An outage must not look like the death of all workers.
static void note_time(dti_tx *tx, dti_meta *m) {
    if (m->lease_us && tx->now - m->last_time > m->lease_us / 2) m->resumed = tx->now;
    m->last_time = tx->now;
}

void dti_model_run(dti_tx *tx, dti_op *op) {
    dti_work work = {0};
    tx->work = &work;
    op->err = DTASK_OK;
    if (op->kind == DTI_OP_READ) {
        size_t n;
        work.meta = (dti_meta *)dti_get(tx->store, DTI_T_META, 0, 0, 0, &n); // not written to
    } else {
        work.meta = dti_mut(tx->store, DTI_T_META, 0, 0, 0);
    }
    if (!work.meta) dti_raise(tx->store, DTASK_EINTERNAL, "the store has no meta row: it was not made ready");
    if (op->kind == DTI_OP_READ) {
        dti_op_read(tx, &op->read);
        tx->work = NULL;
        return;
    }
    work.limit = op->kind == DTI_OP_SWEEP ? op->sweep.budget : tx->cascade ? tx->cascade : DTI_CASCADE;
    note_time(tx, work.meta);
    switch (op->kind) {
    case DTI_OP_START:
        op->err = dti_id_check(op->start.id, true);
        if (!op->err) dti_op_start(tx, &op->start);
        break;
    case DTI_OP_HELLO: op->err = dti_op_hello(tx, &op->hello); break;
    case DTI_OP_TURN: op->err = dti_op_turn(tx, &op->turn); break;
    case DTI_OP_POST: dti_op_post(tx, &op->post); break;
    case DTI_OP_MARK: dti_op_mark(tx, &op->mark); break;
    case DTI_OP_SWEEP: dti_op_sweep(tx, &op->sweep); break;
    case DTI_OP_ERA: dti_op_era(tx, &op->era); break;
    case DTI_OP_INTAKE:
    case DTI_OP_DONE: op->err = dti_fail(DTASK_EUSAGE, "Only a store in Redis stands behind Kafka."); break;
    case DTI_OP_READ: break;
    }
    if (op->kind != DTI_OP_SWEEP) {
        dti_cascade(tx, false);
        dti_leave(tx);
    }
    if (op->kind == DTI_OP_TURN) op->turn.todo = tx->fx.todo;
    tx->work = NULL;
}
