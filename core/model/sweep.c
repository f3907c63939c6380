// sweep and era: what time brings. Due tasks, lapses (permits, keys, leases,
// retention), dead workers, ticks, and what earlier operations left.
#include "model/model_int.h"

enum { ROOM_US = 10000 }; // between sweeps that only make room: others write too

static void due(dti_tx *tx, dti_t *t) {
    dti_taskrow *r = t->r;
    if (dti_terminal(r->state) || r->state == DTI_CLOSING) return;
    if (r->state == DTI_RUNNING && !r->wait) {
        if (r->due && r->due <= tx->now && dti_ending(t)) dti_finish(tx, t, DTI_CANCELLED, DTI_R_GRACE);
    } else if (r->state == DTI_RUNNING || r->state == DTI_PARKED) {
        if (r->wait & DTI_AWAITS && dti_holds(tx, t)) dti_wake_up(tx, t);
    } else if (r->state == DTI_SCHEDULED && r->due <= tx->now) {
        dti_admit(tx, t);
    } else if (!r->begun && r->expires && r->expires <= tx->now) {
        dti_finish(tx, t, DTI_SKIPPED, DTI_R_EXPIRED);
    }
}

static bool sweep_due(dti_tx *tx, uint32_t budget, int64_t *next) {
    dti_key k = {0};
    const void *v;
    size_t n;
    while (tx->store->ops->seek(tx->store, DTI_T_DUE, 0, &k, &v, &n)) {
        if ((int64_t)k.a > tx->now) {
            if ((int64_t)k.a < *next) *next = (int64_t)k.a;
            return true;
        }
        if (dti_w(tx)->steps++ >= budget) return false;
        dti_del(tx->store, DTI_T_DUE, k.a, k.b, k.c);
        dti_t t;
        if (dti_task(tx, k.b, (uint32_t)k.c, &t)) due(tx, &t);
        k = (dti_key){0};
    }
    return true;
}

static void again(dti_tx *tx, const dti_lapse *l, int64_t at) {
    dti_put(tx->store, DTI_T_LAPSE, (uint64_t)at, dti_w(tx)->meta->next_lapse++, 0, l, sizeof *l);
}

static void worker_lapsed(dti_tx *tx, const dti_lapse *l) {
    dti_workerrow *w = dti_mut(tx->store, DTI_T_WORKER, l->h[0], 0, 0);
    if (!w || w->dead) return;
    int64_t grace = dti_w(tx)->meta->resumed + w->lease_us, until = w->expires > grace ? w->expires : grace;
    if (until > tx->now) again(tx, l, until);
    else dti_worker_end(tx, w, true);
}

static void worker_gone(dti_tx *tx, const dti_lapse *l) {
    size_t n;
    const dti_workerrow *w = dti_get(tx->store, DTI_T_WORKER, l->h[0], 0, 0, &n);
    dti_key k = {l->h[0], 0, 0};
    const void *v;
    if (!w) return;
    if (tx->store->ops->seek(tx->store, DTI_T_HELD, 1, &k, &v, &n)) return again(tx, l, tx->now + 60000000); // still being swept
    dti_hash id = dti_hash128(w->name, strnlen(w->name, sizeof w->name), 0);
    dti_del(tx->store, DTI_T_WORKERID, id.h[0], id.h[1], 0);
    dti_del(tx->store, DTI_T_WORKER, l->h[0], 0, 0);
}

static void unique_lapsed(dti_tx *tx, const dti_lapse *l) {
    size_t n;
    const dti_uniq *u = dti_get(tx->store, DTI_T_UNIQ, l->h[0], l->h[1], 0, &n);
    if (!u || !u->freed || u->lapse > tx->now) return;
    uint64_t job = u->job;
    uint32_t ord = u->ord;
    dti_del(tx->store, DTI_T_UNIQ, l->h[0], l->h[1], 0);
    const dti_taskrow *r = ord ? dti_look(tx, job, ord) : NULL, *p = r ? dti_look(tx, job, r->parent) : NULL;
    dti_jobrow *j = p ? dti_job(tx, job) : NULL;
    // It pinned its task's payload.
    if (j && dti_terminal(p->state) && j->keep != DTI_KEEP_ALL) dti_push(tx, DTI_DO_DROP, job, r->parent, ord, 1);
}

static bool sweep_lapses(dti_tx *tx, uint32_t budget, int64_t *next) {
    dti_key k = {0};
    const void *v;
    size_t n;
    while (tx->store->ops->seek(tx->store, DTI_T_LAPSE, 0, &k, &v, &n)) {
        if ((int64_t)k.a > tx->now) {
            if ((int64_t)k.a < *next) *next = (int64_t)k.a;
            return true;
        }
        if (dti_w(tx)->steps++ >= budget) return false;
        dti_lapse l;
        memcpy(&l, v, sizeof l);
        dti_del(tx->store, DTI_T_LAPSE, k.a, k.b, 0);
        switch (l.kind) {
        case DTI_LAPSE_LIMIT: dti_limit_lapsed(tx, (dti_hash){{l.h[0], l.h[1]}}); break;
        case DTI_LAPSE_UNIQUE: unique_lapsed(tx, &l); break;
        case DTI_LAPSE_WORKER: worker_lapsed(tx, &l); break;
        case DTI_LAPSE_GONE: worker_gone(tx, &l); break;
        case DTI_LAPSE_RETAIN: {
            dti_jobrow *j = dti_job(tx, l.h[0]);
            if (j && !dti_job_forget(tx, l.h[0], j)) again(tx, &l, tx->now + 60000000); // its callbacks have not ended
            break;
        }
        default: dti_raise(tx->store, DTASK_EVERSION, "the store has a lapse of kind %u, made by a newer release: upgrade", l.kind);
        }
        k = (dti_key){0};
    }
    return true;
}

// Those that a worker was executing as it died pay for it; the rest of what
// it held does not.
static void dead(dti_tx *tx, dti_sweep *s) {
    for (uint32_t i = 0; i < s->ndead; i++) {
        dti_workerrow *w = dti_mut(tx->store, DTI_T_WORKER, s->dead[i], 0, 0);
        if (!w || w->dead) continue;
        for (uint32_t c = 0; !s->charge_all && c < s->ncharge; c++) {
            dti_t t;
            if (dti_task(tx, s->charge[c].job, s->charge[c].ord, &t) && t.r->owner == w->no && t.r->state == DTI_RUNNING) dti_lose(tx, &t, true);
        }
        dti_worker_end(tx, w, s->charge_all);
    }
}

// A tick starts "type@time", unless the last one's job has not begun.
static void tick(dti_tx *tx, const struct dti_tick *k) {
    dti_cron *c = dti_mut(tx->store, DTI_T_CRON, k->type, 0, 0);
    const dti_type *type = dti_type_row(tx, k->type);
    if (!type || (c ? c->next : 0) != k->at) return; // another worker was first
    if (!c) {
        c = dti_put(tx->store, DTI_T_CRON, k->type, 0, 0, NULL, sizeof *c);
        c->version = DTI_ROW_VERSION;
    }
    c->next = k->next;
    const dti_taskrow *last = c->job ? dti_look(tx, c->job, 0) : NULL;
    if (!k->at || (last && !last->begun && !dti_terminal(last->state))) return;
    uint64_t job = dti_tick_begin(tx, type, k->at);
    if (job) c->job = job;
}

static void sweep_ticks(dti_tx *tx, dti_sweep *s, int64_t *next) {
    for (uint32_t i = 0; i < s->nticks; i++) tick(tx, &s->ticks[i]);
    dti_key k = {0};
    const void *v;
    size_t n;
    for (; tx->store->ops->seek(tx->store, DTI_T_CRON, 0, &k, &v, &n); k.a++) {
        const dti_cron *c = v;
        if (c->next && c->next < *next) *next = c->next;
    }
}

void dti_op_sweep(dti_tx *tx, dti_sweep *s) {
    dti_work *w = dti_w(tx);
    int64_t next = INT64_MAX;
    dead(tx, s);
    // What is due does not wait for a long todo, nor that for what is due.
    bool all = sweep_lapses(tx, s->budget / 4 + 1, &next);
    all &= sweep_due(tx, s->budget / 2 + 1, &next);
    sweep_ticks(tx, s, &next);
    dti_cascade(tx, true);
    dti_make_room(tx, DTI_CASCADE);
    bool room = dti_leave(tx);
    s->steps = w->steps;
    if (room && next > tx->now + ROOM_US) next = tx->now + ROOM_US;
    s->next = !all || tx->fx.todo ? tx->now : next;
}

// Another store took over: all that was owned under the old one is void.
void dti_op_era(dti_tx *tx, dti_era *e) {
    dti_meta *m = dti_w(tx)->meta;
    e->fresh = !dti_str_eq(e->run_id, dti_str(m->run_id, strnlen(m->run_id, sizeof m->run_id)));
    if (e->fresh) {
        // A store that was set back, or emptied, would give out the same number again.
        uint64_t ms = tx->now > 0 ? (uint64_t)tx->now / 1000 : 0;
        m->era = m->era + 1 > ms ? m->era + 1 : ms;
        memset(m->run_id, 0, sizeof m->run_id);
        if (e->run_id.n) memcpy(m->run_id, e->run_id.p, e->run_id.n < sizeof m->run_id ? e->run_id.n : sizeof m->run_id);
        dti_key k = {0};
        const void *v;
        size_t n;
        for (; tx->store->ops->seek(tx->store, DTI_T_SERVES, 0, &k, &v, &n); k = (dti_key){k.a + 1, 0, 0}) {
            dti_workerrow *w = dti_mut(tx->store, DTI_T_WORKER, k.a, 0, 0);
            if (w && !w->dead) dti_worker_end(tx, w, false);
        }
    }
    e->era = m->era;
}
