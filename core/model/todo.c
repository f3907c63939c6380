// The bounded cascade: what one change means for other tasks is taken step
// by step, first pushed first. An operation takes DTI_CASCADE steps; what is
// left then becomes rows of `todo`, which later turns and sweeps work off.
//
// A step may find that its row was purged or has moved on: each looks first.
#include "model/model_int.h"

static dti_step *const does[DTI_DO_KINDS] = {
    [DTI_DO_COMPLETE] = dti_do_complete, [DTI_DO_SETTLE] = dti_do_settle, [DTI_DO_WAKE] = dti_do_wake,
    [DTI_DO_EDGES] = dti_do_edges, [DTI_DO_DROP] = dti_do_drop, [DTI_DO_CANCEL] = dti_do_cancel,
    [DTI_DO_CANCEL_KIDS] = dti_do_cancel_kids, [DTI_DO_CANCEL_JOB] = dti_do_cancel_job, [DTI_DO_PAUSE] = dti_do_pause, [DTI_DO_RESUME] = dti_do_resume,
    [DTI_DO_LANES] = dti_do_lanes, [DTI_DO_PURGE] = dti_do_purge, [DTI_DO_LIMIT] = dti_do_limit,
    [DTI_DO_WORKER] = dti_do_worker,
};

static void add(dti_tx *tx, const dti_todo *d) {
    dti_work *w = dti_w(tx);
    if (w->head == w->n) w->head = w->n = 0;
    w->todo = dti_more(tx, w->todo, w->n, &w->cap, sizeof *w->todo);
    w->todo[w->n++] = *d;
}

void dti_push(dti_tx *tx, dti_do kind, uint64_t job, uint32_t ord, uint64_t cursor, uint8_t arg) {
    add(tx, &(dti_todo){.version = DTI_ROW_VERSION, .kind = (uint8_t)kind, .arg = arg, .ord = ord, .job = job, .cursor = cursor});
}

static bool take_stored(dti_tx *tx, dti_todo *out) {
    dti_work *w = dti_w(tx);
    dti_key k = {0};
    const void *v;
    size_t n;
    if (!w->meta->todos || !tx->store->ops->seek(tx->store, DTI_T_TODO, 0, &k, &v, &n)) return false;
    memcpy(out, v, sizeof *out);
    dti_del(tx->store, DTI_T_TODO, k.a, 0, 0);
    w->meta->todos--;
    if (out->kind >= DTI_DO_KINDS) dti_raise(tx->store, DTASK_EVERSION, "the store has work of kind %u, made by a newer release: upgrade", out->kind);
    return true;
}

void dti_cascade(dti_tx *tx, bool stored) {
    dti_work *w = dti_w(tx);
    dti_todo d;
    while (w->steps < w->limit) {
        if (w->head < w->n) d = w->todo[w->head++];
        else if (!stored || !take_stored(tx, &d)) break;
        w->steps++;
        if (does[d.kind](tx, &d)) add(tx, &d);
    }
    dti_lane_flush(tx);
}

// What only makes room comes after what somebody waits for.
static bool lazy(const dti_todo *d) { return d->kind == DTI_DO_DROP || d->kind == DTI_DO_LANES || d->kind == DTI_DO_PURGE; }
static const uint64_t LAZY = 1ull << 63;

void dti_leave(dti_tx *tx) {
    dti_work *w = dti_w(tx);
    dti_lane_flush(tx);
    for (; w->head < w->n; w->head++) {
        dti_todo *d = &w->todo[w->head];
        dti_put(tx->store, DTI_T_TODO, w->meta->next_todo++ | (lazy(d) ? LAZY : 0), 0, 0, d, sizeof *d);
        w->meta->todos++;
    }
    dti_key k = {0};
    const void *v;
    size_t n;
    tx->fx.todo = w->meta->todos && tx->store->ops->seek(tx->store, DTI_T_TODO, 0, &k, &v, &n) && k.a < LAZY;
}
