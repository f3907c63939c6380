// turn: a worker's outcomes in, new claims and wakes out, in one step. Each
// message stands alone: it is checked whole before anything of it is
// written, and one refused message leaves the others as they are.
#include "model/model_int.h"

// ---- what a message refers to ----------------------------------------------------
// A ref is an ordinal, or a place in this message's children. A child whose
// unique key another task holds may have no row: then its place stands for
// that other task.
typedef struct {
    dti_tx *tx;
    const dti_message *m;
    dti_answer *a;
    dti_t t;
    uint32_t nchildren;          // 0 where the task is ending
    uint32_t *ords;              // by place; 0: joined
    dtask_str *skipped_for;      // by place; the holder's note where the row is made skipped
    dti_joined *joined;
    size_t cjoined;
    bool told_joined;            // it awaits one of them
    struct taken { dti_hash h; bool was; dti_uniq old; } *taken; // keys, to give back if refused
    size_t ntaken, ctaken;
} msg;

static bool own_child(msg *g, uint32_t ord) {
    const dti_taskrow *r = ord ? dti_look(g->tx, g->t.job, ord) : NULL;
    return r && r->parent == g->t.ord;
}

static bool ref_ok(msg *g, uint32_t ref, uint32_t before) {
    if (ref & DTI_HERE) return (ref & ~DTI_HERE) < before;
    return own_child(g, ref);
}

static const dti_joined *joined_at(const msg *g, uint32_t pos) {
    for (uint32_t i = 0; i < g->a->njoined; i++) {
        if (g->joined[i].pos == pos) return &g->joined[i];
    }
    return NULL;
}

// ---- checking ----------------------------------------------------------------------

static bool child_ok(msg *g, const dti_new *c, uint32_t before) {
    if (!dti_type_row(g->tx, c->type) || c->prio < -2 || c->prio > 2) return false;
    for (uint32_t i = 0; i < c->ndeps; i++) {
        if (!(c->deps[i] & DTI_HERE) ? !own_child(g, c->deps[i]) : g->nchildren && (c->deps[i] & ~DTI_HERE) >= before) return false;
    }
    return true;
}

static bool notes_fit(msg *g) {
    const dti_message *m = g->m;
    uint64_t n = g->t.r->notes, bytes = g->t.r->log_bytes, emits = g->t.j->log_n, emit_bytes = g->t.j->log_bytes;
    for (uint32_t i = 0; i < m->nnotes; i++) {
        uint64_t size = m->notes[i].name.n + m->notes[i].data.n;
        if (m->notes[i].kind == DTI_LOG_EMIT) emits++, emit_bytes += size;
        else n++, bytes += size;
    }
    return n <= DTI_LOG_MAX && bytes <= DTI_LOG_BYTES_MAX && emits <= DTI_EMITS_MAX && emit_bytes <= 16u << 20;
}

static bool well_formed(msg *g) {
    const dti_message *m = g->m;
    bool parked = g->t.r->state == DTI_PARKED;
    if (parked && (m->end != DTI_END_RELEASE && m->end != DTI_END_NONE)) return false; // its handler does not run
    for (uint32_t i = 0; i < m->nchildren; i++) {
        if (!child_ok(g, &m->children[i], i)) return false;
    }
    for (uint32_t i = 0; i < m->nacks; i++) {
        if (!ref_ok(g, m->acks[i].ref, m->nchildren)) return false;
    }
    for (uint32_t i = 0; i < m->ntold; i++) {
        uint64_t first = m->told[i].first & ~DTI_HERE, n = m->told[i].count;
        if (!n || !ref_ok(g, m->told[i].first, m->nchildren)) return false;
        if (first + n > (m->told[i].first & DTI_HERE ? m->nchildren : g->t.j->next)) return false;
    }
    for (uint32_t i = 0; i < m->nnotes; i++) {
        uint8_t k = m->notes[i].kind;
        if (k != DTI_LOG_NOTE && k != DTI_LOG_EMIT && k != DTI_LOG_UNDO) return false;
    }
    if (m->end == DTI_END_PARK) {
        if (!(m->mask & DTI_AWAITS) || m->mask & ~DTI_AWAITS || (m->mask & DTI_DUE && m->due <= 0)) return false;
    }
    if (m->end == DTI_END_BECOME && (!m->next || !child_ok(g, m->next, m->nchildren))) return false;
    return m->end <= DTI_END_BECOME;
}

// ---- unique keys of children -----------------------------------------------------------

static bool redo_of(msg *g, const dti_uniq *u, const dti_new *c) {
    if (u->job != g->t.job || u->call[0] != c->call[0] || u->call[1] != c->call[1] || !own_child(g, u->ord)) return false;
    if (dti_look(g->tx, u->job, u->ord)->bits & DTI_REPLACED) return true;
    for (uint32_t i = 0; i < g->m->nacks; i++) {
        if (g->m->acks[i].ref == u->ord && g->m->acks[i].replaced) return true;
    }
    return false;
}

static void take_key(msg *g, dti_hash h, const dti_keyspec *s, uint32_t ord, const dti_new *c) {
    size_t n;
    const dti_uniq *old = dti_get(g->tx->store, DTI_T_UNIQ, h.h[0], h.h[1], 0, &n);
    g->taken = dti_more(g->tx, g->taken, g->ntaken, &g->ctaken, sizeof *g->taken);
    g->taken[g->ntaken++] = (struct taken){h, old, old ? *old : (dti_uniq){0}};
    dti_unique_take(g->tx, h, s, g->t.job, ord, c->call);
}

static void give_keys_back(msg *g) {
    for (size_t i = g->ntaken; i--;) {
        struct taken *k = &g->taken[i];
        if (k->was) dti_put(g->tx->store, DTI_T_UNIQ, k->h.h[0], k->h.h[1], 0, &k->old, sizeof k->old);
        else dti_del(g->tx->store, DTI_T_UNIQ, k->h.h[0], k->h.h[1], 0);
    }
}

// Gives each child its ordinal, or the task that it joins.
static void place(msg *g) {
    uint32_t next = g->t.j->next;
    g->ords = dti_need(g->tx, g->nchildren * sizeof *g->ords);
    for (uint32_t i = 0; i < g->nchildren; i++) {
        const dti_new *c = &g->m->children[i];
        const dti_keyspec *s = dti_unique_of(c);
        dti_uniq u;
        g->ords[i] = next;
        if (s) {
            dti_hash h = dti_key_hash(g->tx, s, g->t.job);
            if (dti_unique_find(g->tx, h, &u) && !redo_of(g, &u, c)) {
                bool differs = u.call[0] != c->call[0] || u.call[1] != c->call[1];
                bool conflict = s->over == DTI_OVER_RAISE || (s->same && differs);
                if (conflict || s->scope) { // no row
                    g->joined = dti_more(g->tx, g->joined, g->a->njoined, &g->cjoined, sizeof *g->joined);
                    g->joined[g->a->njoined++] = (dti_joined){i, u.ord, u.job, dti_job_id(g->tx, u.job), conflict};
                    g->ords[i] = 0;
                    continue;
                }
                if (!g->skipped_for) g->skipped_for = dti_need(g->tx, g->nchildren * sizeof *g->skipped_for);
                g->skipped_for[i] = dti_joined_note(g->tx, dti_task_id(g->tx, u.job, u.ord));
            } else {
                take_key(g, h, s, next, c);
            }
        }
        next++;
    }
    g->a->joined = g->joined;
    g->a->count = next - g->t.j->next;
    g->a->first = g->a->count ? g->t.j->next : 0;
}

// A dependency on a joined task is fine if that one is good, and else a
// circle that could form.
static bool joined_deps_ok(msg *g, const dti_new *c) {
    for (uint32_t i = 0; i < c->ndeps; i++) {
        const dti_joined *j = c->deps[i] & DTI_HERE ? joined_at(g, c->deps[i] & ~DTI_HERE) : NULL;
        const dti_taskrow *r = j ? dti_look(g->tx, j->job, j->ord) : NULL;
        if (j && (j->job != g->t.job || !r || !dti_good(r))) return false;
    }
    return true;
}

// ---- writing -----------------------------------------------------------------------------

static uint32_t ord_of(const msg *g, uint32_t ref) { // 0: joined, or not made
    if (!(ref & DTI_HERE)) return ref;
    uint32_t pos = ref & ~DTI_HERE;
    return pos < g->nchildren ? g->ords[pos] : 0;
}

static void set_deps(msg *g, dti_t *t, const dti_new *c) {
    if (!c->ndeps) return;
    uint32_t *to = dti_need(g->tx, c->ndeps * sizeof *to);
    for (uint32_t i = 0; i < c->ndeps; i++) {
        const dti_joined *j = c->deps[i] & DTI_HERE ? joined_at(g, c->deps[i] & ~DTI_HERE) : NULL;
        to[i] = j ? j->ord : ord_of(g, c->deps[i]);
    }
    dti_put(g->tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_DEPS, to, c->ndeps * sizeof *to);
    t->r->bits |= DTI_HAS_DEPS;
}

// Ties it to the deps that are not terminal; false: one has ended not good.
static bool tie(msg *g, dti_t *t, const dti_new *c) {
    bool ok = true;
    for (uint32_t i = 0; i < c->ndeps; i++) {
        uint32_t ord = ord_of(g, c->deps[i]);
        const dti_taskrow *look = ord ? dti_look(g->tx, t->job, ord) : NULL;
        if (!look) continue; // joined, and good
        if (dti_terminal(look->state)) {
            ok &= dti_good(look);
        } else if (!dti_here(g->tx, DTI_T_EDGE, t->job, ord, t->ord)) {
            dti_put(g->tx->store, DTI_T_EDGE, t->job, ord, t->ord, NULL, 0);
            dti_taskrow *dep = dti_mut(g->tx->store, DTI_T_TASK, t->job, ord, 0);
            dep->bits |= DTI_HAS_EDGES;
            t->r->need++;
        }
    }
    return ok;
}

static void spawn(msg *g) {
    dti_t *p = &g->t;
    dti_tx *tx = g->tx;
    if (!g->a->count) return;
    dti_kids row = {.version = DTI_ROW_VERSION, .attempt = p->r->attempt, .seq = p->r->seq, .first = g->a->first, .count = g->a->count,
        .prev = p->r->lastkid};
    dti_put(tx->store, DTI_T_KIDS, p->job, p->ord, row.first, &row, sizeof row);
    p->r->lastkid = row.first;
    p->r->nkids++;
    p->r->open += row.count;
    for (uint32_t i = 0; i < g->nchildren; i++) {
        if (!g->ords[i]) continue;
        const dti_new *c = &g->m->children[i];
        dti_t t = dti_task_make(tx, p->job, p->j, g->ords[i], c, p);
        if (g->m->end == DTI_END_SUCCEED) t.r->bits |= DTI_LASTLY;
        set_deps(g, &t, c);
        if (g->skipped_for && g->skipped_for[i].n) {
            dti_data_set(tx, &t, DTI_D_ERROR, g->skipped_for[i]);
            t.r->bits |= DTI_HAS_ERROR;
            dti_finish(tx, &t, DTI_SKIPPED, DTI_R_UNIQUE);
        } else if (c->ndeps && !tie(g, &t, c)) {
            dti_finish(tx, &t, DTI_SKIPPED, DTI_R_AFTER); // edges to those that live find nobody
        } else {
            dti_admit(tx, &t);
        }
    }
}

static void note(msg *g) {
    for (uint32_t i = 0; i < g->m->nnotes; i++) {
        const dti_note *n = &g->m->notes[i];
        if (n->kind == DTI_LOG_EMIT) dti_log_emit(g->tx, &g->t, n->name, n->data);
        else dti_log_add(g->tx, &g->t, n->kind, 0, n->name, n->data);
        if (n->kind == DTI_LOG_UNDO) g->t.r->bits |= DTI_UNDO;
    }
}

static void acknowledge(msg *g) {
    dti_taskrow *p = g->t.r;
    for (uint32_t i = 0; i < g->m->nacks; i++) {
        uint32_t ord = ord_of(g, g->m->acks[i].ref);
        dti_taskrow *r = ord ? dti_mut(g->tx->store, DTI_T_TASK, g->t.job, ord, 0) : NULL;
        if (!r) continue; // joined: its failure is its parent's
        if (!(r->bits & DTI_SEEN)) {
            r->bits |= DTI_SEEN;
            if (dti_bad(r) && !--p->bad) p->blame = 0;
        }
        if (g->m->acks[i].replaced && !DTI_PLANTED(REDO_NO_ACK)) r->bits |= DTI_REPLACED;
    }
}

// Says whose completion is to come by mail. Of up to DTI_CHILDREN_MAX those
// that are complete already come at once; of more, none.
static void tell(msg *g) {
    const dti_message *m = g->m;
    if (!m->ntold) return;
    dti_range *add = dti_need(g->tx, m->ntold * sizeof *add);
    uint32_t n = 0;
    uint64_t all = 0;
    for (uint32_t i = 0; i < m->ntold; i++) {
        dti_range r = m->told[i];
        if (r.first & DTI_HERE) { // places to ordinals: those made are dense
            uint32_t from = r.first & ~DTI_HERE, end = from + r.count < g->nchildren ? from + r.count : g->nchildren, first = 0, count = 0;
            for (uint32_t pos = from; pos < end; pos++) {
                if (!g->ords[pos]) g->told_joined = true;
                else if (!count++) first = g->ords[pos];
            }
            r.first = first;
            r.count = count;
        }
        if (!r.count) continue;
        add[n++] = r;
        all += r.count;
    }
    for (uint32_t i = 0; i < n && all <= DTI_CHILDREN_MAX; i++) {
        for (uint32_t ord = add[i].first; ord < add[i].first + add[i].count; ord++) {
            const dti_taskrow *r = dti_look(g->tx, g->t.job, ord);
            if (!r || r->parent != g->t.ord || !dti_terminal(r->state) || (add[i].bad_only && !dti_bad(r))) continue;
            if (DTI_PLANTED(TOLD_ONCE) && dti_told_has(g->tx, &g->t, ord, true)) continue;
            dti_log_add(g->tx, &g->t, DTI_LOG_KID, ord, (dtask_str){0}, (dtask_str){0});
        }
    }
    dti_told_add(g->tx, &g->t, add, n);
}

// ---- ends --------------------------------------------------------------------------------

static void mail_now(msg *g) {
    dti_mail *mails;
    g->a->now = true;
    g->a->nmails = dti_mails(g->tx, g->t.job, g->t.ord, g->t.r->logr, DTI_MAILS_MAX, false, &mails, &g->a->more, NULL);
    g->a->mails = mails;
}

static void park(msg *g) {
    const dti_message *m = g->m;
    dti_tx *tx = g->tx;
    dti_t *t = &g->t;
    dti_taskrow *r = t->r;
    dti_log_read(tx, t, m->read);
    if (!dti_ending(t)) dti_due_clear(tx, t); // ending: its due is the end of its grace
    r->wait = m->mask;
    if (m->mask & DTI_DUE && !dti_ending(t)) r->due = m->due;
    r->park_seq = m->seq;
    // One that it awaits is no child of its: it must look again.
    if (g->told_joined || (dti_holds(tx, t) && !DTI_PLANTED(PARK_BLIND))) {
        if (!dti_ending(t)) r->due = 0;
        r->wait = 0;
        if (r->bits & DTI_JOURNAL) dti_log_add(tx, t, DTI_LOG_WOKE, r->logn, (dtask_str){0}, (dtask_str){0});
        mail_now(g);
        return;
    }
    if (r->due) dti_put(tx->store, DTI_T_DUE, (uint64_t)r->due, t->job, t->ord, NULL, 0);
    if (m->how == DTI_STAY) return;
    dti_move(tx, t, DTI_PARKED);
    if (m->how == DTI_COLD) dti_release(tx, t);
}

static void become(msg *g) {
    const dti_new *next = g->m->next;
    dti_tx *tx = g->tx;
    dti_t *t = &g->t;
    dti_taskrow *r = t->r;
    dti_due_clear(tx, t);
    dti_move(tx, t, DTI_PARKED);
    dti_log_read(tx, t, g->m->read);
    dti_log_restart(tx, t);
    if (r->bits & DTI_TELLS) dti_told_clear(tx, t);
    dti_keyspec unique[1]; // the key that it holds is its call's, which stays
    uint32_t nunique = 0;
    for (uint32_t i = 0; r->bits & DTI_HAS_KEYS && !nunique; i++) {
        unique[0] = dti_key_at(tx, t, i);
        if (!unique[0].h[0] && !unique[0].h[1]) break;
        nunique = unique[0].kind == DTI_KEY_UNIQUE;
    }
    dti_new limits = *next;
    dti_keyspec *keys = dti_need(tx, next->nkeys * sizeof *keys);
    limits.keys = keys;
    limits.nkeys = 0;
    for (uint32_t i = 0; i < next->nkeys; i++) {
        if (next->keys[i].kind == DTI_KEY_LIMIT) keys[limits.nkeys++] = next->keys[i];
    }
    dti_keys_store(tx, t, &limits, unique, nunique);
    dti_data_change(tx, t, DTI_D_ARGS, next->args);
    if (r->bits & DTI_HAS_DEPS) dti_del(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_DEPS);
    if (r->bits & DTI_HAS_ERROR) dti_del(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_ERROR);
    r->bits &= (uint16_t) ~(DTI_HAS_DEPS | DTI_HAS_ERROR | DTI_FIRST | DTI_JOURNAL | DTI_LASTLY);
    if (next->journal) r->bits |= DTI_JOURNAL;
    set_deps(g, t, next);
    r->type = next->type;
    r->prio = next->prio;
    r->retries = next->retries;
    r->crashes = next->crashes;
    r->timeout_ms = next->timeout_ms;
    r->tries = r->freed = r->lost = r->emits = 0;
    r->base = t->j->next;
    r->wait = DTI_QUIET | DTI_THEN;
    r->park_seq = g->m->seq;
    dti_unown(tx, t);
    if (dti_holds(tx, t)) dti_wake_up(tx, t);
}

static void fail(msg *g) {
    const dti_message *m = g->m;
    dti_taskrow *r = g->t.r;
    r->tries++;
    if (m->retry && m->freed && r->freed < 10000) r->freed++;
    bool again = m->retry && r->tries - r->freed <= r->retries && !dti_ending(&g->t);
    if (m->value.n) {
        dti_data_set(g->tx, &g->t, DTI_D_ERROR, m->value);
        r->bits |= DTI_HAS_ERROR;
    }
    if (!again) return dti_finish(g->tx, &g->t, dti_ending(&g->t) ? DTI_CANCELLED : DTI_FAILED, DTI_R_NONE);
    dti_due_clear(g->tx, &g->t);
    r->wait = 0;
    r->bits &= (uint16_t)~DTI_FIRST;
    r->due = m->retry_at;
    dti_admit(g->tx, &g->t);
}

static void set_value(msg *g, dti_data kind, uint16_t bit, dtask_str v) {
    if (!v.n) return;
    dti_data_set(g->tx, &g->t, kind, v);
    g->t.r->bits |= bit;
}

static void end(msg *g) {
    const dti_message *m = g->m;
    dti_tx *tx = g->tx;
    dti_t *t = &g->t;
    switch (m->end) {
    case DTI_END_NONE: return;
    case DTI_END_SUCCEED:
        if (t->r->bits & DTI_HAS_ERROR) { // of an earlier try
            dti_del(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_ERROR);
            t->r->bits &= (uint16_t)~DTI_HAS_ERROR;
        }
        if (m->value.n > 1 || (m->value.n && m->value.p[0] != '\xc0')) dti_data_set(tx, t, DTI_D_RESULT, m->value);
        return dti_finish(tx, t, DTI_SUCCEEDED, DTI_R_NONE);
    case DTI_END_FAIL: return fail(g);
    case DTI_END_CANCELLED:
        set_value(g, DTI_D_ERROR, DTI_HAS_ERROR, m->value);
        return dti_finish(tx, t, DTI_CANCELLED, DTI_R_NONE);
    case DTI_END_SKIP: return dti_finish(tx, t, DTI_SKIPPED, DTI_R_TEST);
    case DTI_END_RELEASE:
        if (m->unstarted && t->r->bits & DTI_FIRST && t->r->state == DTI_RUNNING && !t->r->nkids) { // it has not begun
            t->r->begun = 0;
            t->r->bits &= (uint16_t)~DTI_FIRST;
            t->j->claimed--;
            if (t->r->expires) dti_put(tx->store, DTI_T_DUE, (uint64_t)t->r->expires, t->job, t->ord, NULL, 0);
        }
        return dti_release(tx, t);
    case DTI_END_PARK: return park(g);
    case DTI_END_BECOME: return become(g);
    }
}

// ---- one message ----------------------------------------------------------------------------

// Sent before: what it did then.
static void already(msg *g) {
    const dti_message *m = g->m;
    dti_taskrow *r = g->t.r;
    g->a->status = DTI_ALREADY;
    size_t n;
    const dti_kids *k = NULL;
    for (uint32_t at = r->lastkid; at; at = k->prev) {
        k = dti_get(g->tx->store, DTI_T_KIDS, g->t.job, g->t.ord, at, &n);
        if (!k || k->attempt < r->attempt || (k->attempt == r->attempt && k->seq <= m->seq)) break;
    }
    uint32_t made = 0;
    if (k && k->attempt == r->attempt && k->seq == m->seq) {
        g->a->first = k->first;
        g->a->count = made = k->count;
    }
    for (uint32_t i = 0, ord = 0; i < m->nchildren && (made || g->a->njoined || dti_unique_of(&m->children[i])); i++) {
        const dti_new *c = &m->children[i];
        const dti_taskrow *row = ord < made ? dti_look(g->tx, g->t.job, g->a->first + ord) : NULL;
        if (row && row->call[0] == c->call[0] && row->call[1] == c->call[1]) {
            ord++;
            continue;
        }
        const dti_keyspec *s = dti_unique_of(c);
        dti_uniq u;
        if (!s || !dti_unique_find(g->tx, dti_key_hash(g->tx, s, g->t.job), &u)) continue;
        bool differs = u.call[0] != c->call[0] || u.call[1] != c->call[1];
        g->joined = dti_more(g->tx, g->joined, g->a->njoined, &g->cjoined, sizeof *g->joined);
        g->joined[g->a->njoined++] = (dti_joined){i, u.ord, u.job, dti_job_id(g->tx, u.job),
            s->over == DTI_OVER_RAISE || (s->same && differs)};
    }
    g->a->joined = g->joined;
    if (m->end != DTI_END_PARK || m->seq != r->park_seq || r->state != DTI_RUNNING || r->wait) return;
    if (DTI_PLANTED(WAKE_LOST)) {
        g->a->state = DTI_PARKED;
        return;
    }
    mail_now(g); // the first answer said `now`, or a wake is on its way: it runs
}

static void apply(dti_tx *tx, const dti_turn *u, const dti_message *m, dti_answer *a) {
    msg *g = &(msg){.tx = tx, .m = m, .a = a};
    dti_t *t = &g->t;
    a->status = DTI_STALE;
    if (!dti_task(tx, m->job, m->ord, t)) return;
    dti_taskrow *r = t->r;
    a->state = r->state;
    if (!r->owner || r->owner != u->worker) return;
    if ((!m->token || r->token != m->token) && !DTI_PLANTED(NO_TOKEN)) return;
    a->mask = r->wait;
    a->logn = r->logn;
    a->cancelling = dti_ending(t);
    if (m->seq <= r->seq && !DTI_PLANTED(NO_SEQ)) return already(g);
    a->status = DTI_GAP;
    if (m->seq > r->seq + 1) return;
    g->nchildren = dti_ending(t) ? 0 : m->nchildren;
    a->status = DTI_BAD;
    if (!well_formed(g)) return;
    a->status = DTI_TOOBIG;
    if (!notes_fit(g) || (g->nchildren && r->depth >= t->j->max_depth)) return;
    place(g);
    bool ok = (uint64_t)t->j->next + a->count <= t->j->max_tasks;
    for (uint32_t i = 0; ok && a->njoined && i < g->nchildren; i++) {
        if (!joined_deps_ok(g, &m->children[i])) ok = false, a->status = DTI_BAD;
    }
    if (ok && a->njoined && m->end == DTI_END_BECOME && !joined_deps_ok(g, m->next)) ok = false, a->status = DTI_BAD;
    if (!ok) {
        give_keys_back(g);
        a->first = a->count = a->njoined = 0;
        return;
    }
    a->status = DTI_OK;
    r->seq = m->seq;
    spawn(g);
    note(g);
    acknowledge(g);
    tell(g);
    set_value(g, DTI_D_PROGRESS, DTI_HAS_PROGRESS, m->progress);
    set_value(g, DTI_D_STATE, DTI_HAS_STATE, m->state);
    end(g);
    a->state = r->state;
    a->mask = r->wait;
    a->logn = r->logn;
}

// ---- the turn ------------------------------------------------------------------------------

static void wakes(dti_tx *tx, dti_turn *u) {
    enum { WAKES_MAX = 1024, MAILS_MAX = 16 * DTI_MAILS_MAX }; // in one turn
    dti_key k = {u->worker, 0, 0};
    const void *v;
    size_t n, cap = 0;
    uint32_t room = MAILS_MAX;
    for (; u->nwakes < WAKES_MAX && tx->store->ops->seek(tx->store, DTI_T_WAKE, 1, &k, &v, &n); k.b++) {
        dti_wakerow row;
        memcpy(&row, v, sizeof row);
        const dti_taskrow *r = dti_look(tx, row.job, row.ord);
        if (!r || r->owner != u->worker || r->token != row.token || (!row.cancel && r->park_seq != row.seq)) { // past
            dti_del(tx->store, DTI_T_WAKE, k.a, k.b, 0);
            continue;
        }
        u->wakes = dti_more(tx, u->wakes, u->nwakes, &cap, sizeof *u->wakes);
        dti_wake *w = &u->wakes[u->nwakes++];
        *w = (dti_wake){.n = k.b, .job = row.job, .ord = row.ord, .token = row.token, .seq = row.seq, .cancel = row.cancel, .state = r->state, .logn = r->logn};
        dti_mail *mails;
        w->nmails = dti_mails(tx, row.job, row.ord, r->logr, room < DTI_MAILS_MAX ? room : DTI_MAILS_MAX, false, &mails, &w->more, NULL);
        w->mails = mails;
        room -= w->nmails;
    }
}

dtask_err dti_op_turn(dti_tx *tx, dti_turn *u) {
    dti_store *s = tx->store;
    uint32_t children = 0;
    for (uint32_t i = 0; i < u->nmessages; i++) children += u->messages[i].nchildren;
    if (u->nmessages > DTI_MESSAGES_MAX || children > DTI_CHILDREN_MAX)
        return dti_fail(DTASK_EARGS, "a turn has at most %d messages with %d children in all", DTI_MESSAGES_MAX, DTI_CHILDREN_MAX);
    u->answers = NULL;
    u->claims = NULL;
    u->wakes = NULL;
    u->nclaims = u->nwakes = 0;
    u->drain = false;
    dti_workerrow *w = dti_mut(s, DTI_T_WORKER, u->worker, 0, 0);
    if (!w || w->dead) return u->status = DTI_TURN_DEAD, DTASK_OK;
    if (u->era != dti_w(tx)->meta->era) return u->status = DTI_TURN_ERA, DTASK_OK;
    if (u->nonce < w->nonce && !DTI_PLANTED(LATE_TURN)) return u->status = DTI_TURN_OLD, DTASK_OK;
    u->status = DTI_TURN_OK;
    bool again = u->nonce == w->nonce && !DTI_PLANTED(RESEND_CLAIMS);
    if (w->lease_us) w->expires = tx->now + w->lease_us;

    dti_key k = {u->worker, 0, 0};
    const void *v;
    size_t n;
    while (s->ops->seek(s, DTI_T_WAKE, 1, &k, &v, &n) && k.b <= u->got) dti_del(s, DTI_T_WAKE, k.a, k.b, 0);

    u->answers = dti_need(tx, u->nmessages * sizeof *u->answers);
    for (uint32_t i = 0; i < u->nmessages; i++) apply(tx, u, &u->messages[i], &u->answers[i]);
    dti_cascade(tx, false);
    if (again) {
        dti_claim_again(tx, u);
    } else {
        w->nonce = u->nonce;
        dti_claim_all(tx, u, w);
        dti_cascade(tx, true);
        dti_make_room(tx, DTI_CHUNK + 2 * u->nmessages); // as much as these can have caused
    }
    wakes(tx, u);
    return DTASK_OK;
}
