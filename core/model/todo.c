// The bounded cascade: what one change means for other tasks is taken step
// by step, first pushed first. An operation takes DTI_CASCADE steps; what is
// left then becomes rows of `todo`, which later turns and sweeps work off.
// What only makes room (payloads, lanes, purges) is apart: it comes after
// what somebody waits for, a little with each turn.
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

static const uint64_t ROOM = 1ull << 63; // `todo` keys from here on only make room

static bool makes_room(unsigned kind) { return kind == DTI_DO_DROP || kind == DTI_DO_LANES || kind == DTI_DO_PURGE; }

static void add(dti_tx *tx, const dti_todo *d) {
    dti_steps *q = makes_room(d->kind) ? &dti_w(tx)->room : &dti_w(tx)->todo;
    if (q->head == q->n) q->head = q->n = 0;
    q->p = dti_more(tx, q->p, q->n, &q->cap, sizeof *q->p);
    q->p[q->n++] = *d;
}

void dti_push(dti_tx *tx, dti_do kind, uint64_t job, uint32_t ord, uint64_t cursor, uint8_t arg) {
    add(tx, &(dti_todo){.version = DTI_ROW_VERSION, .kind = (uint8_t)kind, .arg = arg, .ord = ord, .job = job, .cursor = cursor});
}

// The oldest stored key of that sort; false: none.
static bool stored_at(dti_tx *tx, uint64_t from, dti_key *k, const void **v) {
    size_t n;
    *k = (dti_key){from, 0, 0};
    return dti_w(tx)->meta->todos && tx->store->ops->seek(tx->store, DTI_T_TODO, 0, k, v, &n) && (k->a >= ROOM) == (from >= ROOM);
}

static bool take_stored(dti_tx *tx, uint64_t from, dti_todo *out) {
    dti_key k;
    const void *v;
    if (!stored_at(tx, from, &k, &v)) return false;
    memcpy(out, v, sizeof *out);
    dti_del(tx->store, DTI_T_TODO, k.a, 0, 0);
    dti_w(tx)->meta->todos--;
    if (out->kind >= DTI_DO_KINDS) dti_raise(tx->store, DTASK_EVERSION, "the store has work of kind %u, made by a newer release: upgrade", out->kind);
    return true;
}

static void take(dti_tx *tx, dti_steps *q, uint64_t from, bool stored) {
    dti_work *w = dti_w(tx);
    dti_todo d;
    while (w->steps < w->limit) {
        if (q->head < q->n) d = q->p[q->head++];
        else if (!stored || !take_stored(tx, from, &d)) break;
        w->steps++;
        if (does[d.kind](tx, &d)) add(tx, &d);
    }
}

void dti_cascade(dti_tx *tx, bool stored) {
    take(tx, &dti_w(tx)->todo, 0, stored);
    dti_lane_flush(tx);
}

void dti_make_room(dti_tx *tx, uint32_t steps) {
    dti_w(tx)->limit = dti_w(tx)->steps + steps;
    take(tx, &dti_w(tx)->room, ROOM, true);
}

static void leave(dti_tx *tx, dti_steps *q, uint64_t from) {
    dti_meta *m = dti_w(tx)->meta;
    for (; q->head < q->n; q->head++, m->todos++) dti_put(tx->store, DTI_T_TODO, m->next_todo++ | from, 0, 0, &q->p[q->head], sizeof *q->p);
}

bool dti_leave(dti_tx *tx) {
    dti_key k;
    const void *v;
    dti_lane_flush(tx);
    leave(tx, &dti_w(tx)->todo, 0);
    leave(tx, &dti_w(tx)->room, ROOM);
    tx->fx.todo = stored_at(tx, 0, &k, &v);
    return stored_at(tx, ROOM, &k, &v);
}
