// Which ready task comes next. A lane is the queue of one job's ready tasks
// of one type and priority: extents of ordinals, newest batch first. Lanes of
// a type share by stride scheduling: the lane of least virtual time is served
// next, and each task served costs it 1/4^priority.
//
// An extent may name tasks that are no longer ready (cancelled, expired): a
// claim looks. A ready task is in one extent, or in `alone` if a worker was
// lost over it.
#include "model/model_int.h"

static const uint64_t MIDDLE = 1ull << DTI_BITS_MIDDLE;

static void effect_type(dti_tx *tx, uint32_t type) {
    dti_effects *fx = &tx->fx;
    for (size_t i = 0; i < fx->ntypes; i++) {
        if (fx->types[i] == type) return;
    }
    fx->types = dti_more(tx, fx->types, fx->ntypes, &fx->ctypes, sizeof *fx->types);
    fx->types[fx->ntypes++] = type;
}

void dti_lane_add(dti_tx *tx, const dti_t *t) {
    const dti_taskrow *r = t->r;
    if (r->lost) {
        dti_put(tx->store, DTI_T_ALONE, r->type, t->job, t->ord, NULL, 0);
        dti_meta *m = dti_w(tx)->meta; // a worker is asked to run dry a second from now
        if (m->drain_asked < tx->now) m->drain_asked = tx->now;
        return effect_type(tx, r->type);
    }
    __typeof__(dti_w(tx)->run) *run = &dti_w(tx)->run;
    bool back = r->bits & DTI_LASTLY;
    if (run->count && run->job == t->job && run->type == r->type && run->prio == r->prio && run->back == back
        && run->first + run->count == t->ord) {
        run->count++;
        return;
    }
    dti_lane_flush(tx);
    run->job = t->job;
    run->type = r->type;
    run->first = t->ord;
    run->count = 1;
    run->prio = r->prio;
    run->back = back;
}

static void into_turnq(dti_tx *tx, uint32_t type, uint64_t job, uint8_t prio, const dti_lane *lane) {
    dti_turnq q = {.version = DTI_ROW_VERSION, .prio = prio, .job = job};
    dti_put(tx->store, DTI_T_TURNQ, type, lane->vtime, lane->no, &q, sizeof q);
}

// What a task costs its lane: a step of priority is a factor of four.
static unsigned cost_bits(uint8_t prio) {
    return 8 - 2 * ((unsigned)prio - 2);
}

void dti_lane_flush(dti_tx *tx) {
    dti_work *w = dti_w(tx);
    __typeof__(w->run) run = w->run;
    if (!run.count) return;
    w->run.count = 0;
    uint8_t prio = (uint8_t)(run.prio + 2);
    dti_lane *lane = dti_mut(tx->store, DTI_T_LANE, run.type, run.job, prio);
    if (!lane) {
        lane = dti_put(tx->store, DTI_T_LANE, run.type, run.job, prio, NULL, sizeof *lane);
        dti_jobrow *j = dti_job(tx, run.job);
        *lane = (dti_lane){.version = DTI_ROW_VERSION, .no = w->meta->next_lane++, .head = MIDDLE, .tail = MIDDLE, .next = j->lanes};
        j->lanes = dti_lane_code(run.type, run.prio);
    }
    if (lane->head == lane->tail) {
        const dti_type *type = dti_type_row(tx, run.type);
        // It pays for its first task as it enters: else lanes of one task each,
        // as jobs of one task are, would come in turn whatever their priority.
        uint64_t enters = type ? type->vmin + (1ull << cost_bits(prio)) : 0;
        if (enters > lane->vtime) lane->vtime = enters;
        into_turnq(tx, run.type, run.job, prio, lane);
    }
    dti_ext ext = {.version = DTI_ROW_VERSION, .first = run.first, .count = run.count, .job = run.job};
    dti_put(tx->store, DTI_T_EXT, lane->no, run.back ? lane->tail++ : --lane->head, 0, &ext, sizeof ext);
    effect_type(tx, run.type);
}

// The front extent, taken out; what is left of it is put back.
static bool front_take(dti_tx *tx, dti_lane *lane, dti_ext *out) {
    if (lane->head == lane->tail) return false;
    size_t n;
    const dti_ext *e = dti_get(tx->store, DTI_T_EXT, lane->no, lane->head, 0, &n);
    if (!e) dti_raise(tx->store, DTASK_EINTERNAL, "lane no %llu lacks an extent", (unsigned long long)lane->no);
    *out = *e;
    return true;
}

static void front_put(dti_tx *tx, dti_lane *lane, const dti_ext *rest) {
    if (rest->count) dti_put(tx->store, DTI_T_EXT, lane->no, lane->head, 0, rest, sizeof *rest);
    else dti_del(tx->store, DTI_T_EXT, lane->no, lane->head++, 0);
}

bool dti_lane_drain(dti_tx *tx, uint64_t code, uint64_t job, uint32_t n, void (*each)(dti_tx *, dti_t *)) {
    uint64_t type = code / 8, prio = code % 8;
    dti_lane *lane = dti_mut(tx->store, DTI_T_LANE, type, job, prio);
    if (!lane || lane->head == lane->tail) return false;
    dti_ext ext;
    dti_t t;
    while (n && front_take(tx, lane, &ext)) {
        for (; each && n && ext.count; n--, ext.first++, ext.count--) {
            if (dti_task(tx, job, ext.first, &t)) each(tx, &t);
        }
        if (!each) ext.count = 0, n--;
        front_put(tx, lane, &ext);
    }
    if (lane->head != lane->tail) return true;
    dti_del(tx->store, DTI_T_TURNQ, type, lane->vtime, lane->no);
    return false;
}

// ---- claiming -----------------------------------------------------------------

static void fill(dti_tx *tx, dti_t *t, dti_claim *c) {
    const dti_taskrow *r = t->r;
    *c = (dti_claim){.job = t->job, .ord = t->ord, .token = r->token, .row = *r};
    c->id = dti_job_id(tx, t->job);
    c->args = dti_data_get(tx, t->job, t->ord, DTI_D_ARGS);
    if (r->bits & DTI_HAS_STATE) c->state = dti_data_get(tx, t->job, t->ord, DTI_D_STATE);
    if (!t->ord) c->trigger = dti_data_get(tx, t->job, 0, DTI_D_TRIGGER);
    if (!(r->bits & DTI_HAS_DEPS)) return;
    dtask_str deps = dti_data_get(tx, t->job, t->ord, DTI_D_DEPS);
    c->ndeps = (uint32_t)(deps.n / 4);
    dti_mail *mails = dti_need(tx, c->ndeps * sizeof *mails);
    for (uint32_t i = 0; i < c->ndeps; i++) {
        uint32_t ord;
        memcpy(&ord, deps.p + i * 4, 4);
        const dti_taskrow *dep = dti_look(tx, t->job, ord);
        if (dep) mails[i] = dti_mail_of(tx, t->job, ord, dep);
    }
    c->deps = mails;
}

// Takes it, if it is to be had.
static bool claim(dti_tx *tx, dti_turn *u, dti_workerrow *w, uint64_t job, uint32_t ord) {
    dti_t t;
    if (!dti_task(tx, job, ord, &t)) return false;
    dti_taskrow *r = t.r;
    bool blind = DTI_PLANTED(CLAIM_BLIND);
    if (r->state != DTI_READY && !blind) return false;
    if ((dti_ending(&t) && !blind) || (!r->begun && r->expires && r->expires <= tx->now)) {
        dti_push(tx, DTI_DO_SETTLE, job, ord, 0, 0);
        return false;
    }
    if (t.j->paused) { // ahead of the pass
        dti_move(tx, &t, DTI_BLOCKED);
        r->wait = DTI_PAUSE;
        return false;
    }
    dti_move(tx, &t, DTI_RUNNING);
    if (r->begun) {
        r->bits &= (uint16_t)~DTI_FIRST;
    } else {
        r->begun = tx->now;
        r->bits |= DTI_FIRST;
        t.j->claimed++;
        if (r->expires) dti_del(tx->store, DTI_T_DUE, (uint64_t)r->expires, job, ord);
    }
    r->owner = r->by = w->no;
    r->token = u->nonce;
    r->seq = r->park_seq = 0;
    r->attempt++;
    if (r->bits & DTI_TELLS) dti_told_clear(tx, &t);
    if (r->bits & DTI_HAS_KEYS) {
        dti_permits_claimed(tx, &t);
        dti_unique_free(tx, &t, true);
    }
    dti_put(tx->store, DTI_T_HELD, w->no, job, ord, NULL, 0);
    fill(tx, &t, &u->claims[u->nclaims++]);
    return true;
}

// Whether the turn takes tasks of that job.
static bool asked(dti_tx *tx, const dti_turn *u, uint64_t job) {
    return !u->only || u->only == job || dti_job(tx, job)->hook_of == u->only;
}

static void claim_type(dti_tx *tx, dti_turn *u, dti_workerrow *w, uint32_t type, uint32_t n) {
    dti_store *s = tx->store;
    dti_key k = {type, 0, 0};
    const void *v;
    size_t size;
    uint32_t stale = 0; // extents are cleared of what is gone a little at a time
    while (n && stale < DTI_CASCADE && s->ops->seek(s, DTI_T_TURNQ, 1, &k, &v, &size)) {
        dti_turnq q;
        memcpy(&q, v, sizeof q);
        if (!asked(tx, u, q.job)) {
            k.c++;
            continue;
        }
        dti_lane *lane = dti_mut(s, DTI_T_LANE, type, q.job, q.prio);
        const dti_type *row = dti_type_row(tx, type);
        if (!lane || !row) dti_raise(s, DTASK_EINTERNAL, "type no %u has a turn without a lane", type);
        if (!u->only && row->vmin < k.b) dti_type_mut(tx, type)->vmin = k.b;
        dti_key next = {type, k.b, k.c + 1};
        bool rival = s->ops->seek(s, DTI_T_TURNQ, 1, &next, &v, &size);
        do {
            uint32_t got = 0, most = rival ? DTI_QUANTUM : DTI_CHUNK;
            dti_ext ext;
            while (got < most && n && stale < DTI_CASCADE && front_take(tx, lane, &ext)) {
                for (; got < most && n && stale < DTI_CASCADE && ext.count; ext.first++, ext.count--) {
                    if (claim(tx, u, w, q.job, ext.first)) got++, n--;
                    else stale++;
                }
                front_put(tx, lane, &ext);
            }
            lane->vtime += (uint64_t)got << cost_bits(q.prio);
        } while (n && stale < DTI_CASCADE && lane->head != lane->tail && (!rival || lane->vtime <= next.b));
        dti_del(s, DTI_T_TURNQ, type, k.b, k.c);
        if (lane->head != lane->tail) into_turnq(tx, type, q.job, q.prio, lane);
        k = (dti_key){type, 0, 0};
    }
}

// A task that has cost a worker runs alone. True: it was taken, or waits for
// a worker that is empty.
static bool claim_alone(dti_tx *tx, dti_turn *u, dti_workerrow *w, uint32_t type) {
    dti_key k = {type, 0, 0};
    const void *v;
    size_t n;
    for (int i = 0; i < DTI_CASCADE && tx->store->ops->seek(tx->store, DTI_T_ALONE, 1, &k, &v, &n); i++) {
        if (!asked(tx, u, k.b)) {
            k.c++;
            continue;
        }
        dti_meta *m = dti_w(tx)->meta;
        if (!u->empty) {
            if (m->drain_asked + 1000000 <= tx->now) {
                m->drain_asked = tx->now;
                u->drain = true;
            }
            return false;
        }
        dti_del(tx->store, DTI_T_ALONE, k.a, k.b, k.c);
        if (claim(tx, u, w, k.b, (uint32_t)k.c)) return true;
        k = (dti_key){type, 0, 0};
    }
    return false;
}

void dti_claim_all(dti_tx *tx, dti_turn *u, dti_workerrow *w) {
    u->nclaims = 0;
    if (!u->n || !u->nwant) return;
    uint32_t total = 0;
    for (uint32_t i = 0; i < u->nwant; i++) total += u->want[i].n < u->n ? u->want[i].n : u->n;
    uint32_t cap = total < u->n ? total : u->n;
    u->claims = dti_need(tx, cap * sizeof *u->claims);
    uint32_t at = (uint32_t)(u->nonce % u->nwant);
    for (int pass = 0; pass < 2; pass++) { // first those that must run alone
        for (uint32_t i = 0; i < u->nwant && u->nclaims < cap; i++) {
            const dti_want *want = &u->want[(at + i) % u->nwant];
            const dti_type *type = dti_type_row(tx, want->type);
            uint32_t n = want->n < cap - u->nclaims ? want->n : cap - u->nclaims;
            if (!type || type->paused || !n) continue;
            if (pass) claim_type(tx, u, w, want->type, n);
            else if (claim_alone(tx, u, w, want->type)) return;
        }
        if (u->drain) return;
    }
}

// The turn was resent: what its first copy claimed.
void dti_claim_again(dti_tx *tx, dti_turn *u) {
    dti_key k = {u->worker, 0, 0};
    const void *v;
    size_t n, cap = 0;
    dti_t t;
    for (; tx->store->ops->seek(tx->store, DTI_T_HELD, 1, &k, &v, &n); k.c++) {
        const dti_taskrow *r = dti_look(tx, k.b, (uint32_t)k.c);
        if (!r || r->token != u->nonce || r->state != DTI_RUNNING || r->seq || !dti_task(tx, k.b, (uint32_t)k.c, &t)) continue;
        u->claims = dti_more(tx, u->claims, u->nclaims, &cap, sizeof *u->claims);
        fill(tx, &t, &u->claims[u->nclaims]);
        u->claims[u->nclaims++].again = true;
    }
}
