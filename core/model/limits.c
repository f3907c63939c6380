// Limits and unique keys. A permit is held in ready and running only: taken
// at admission, all that a task needs or none, so that nothing that waits
// can hold up what it waits for. A task that finds one full waits in that
// limit's line; a freed permit is offered down the line until one takes it.
// A permit of a limit per time comes back by a lapse, counted from the claim.
//
// A unique key has one holder. Keys of the scope job live as long as the job.
#include "model/model_int.h"

static const uint64_t MIDDLE = 1ull << DTI_BITS_MIDDLE;

// Two limits that differ in their period, or in the job they are of, are not one.
dti_hash dti_key_hash(dti_tx *tx, const dti_keyspec *spec, uint64_t job) {
    struct { uint64_t h[2], kind, job; int64_t per; } of = {
        {spec->h[0], spec->h[1]}, spec->kind, spec->scope ? job : 0, spec->kind == DTI_KEY_LIMIT ? spec->per_us : 0};
    return dti_hash128(&of, sizeof of, dti_w(tx)->meta->salt);
}

static uint32_t specs(dti_tx *tx, const dti_t *t, const char **out) {
    size_t n = 0;
    *out = dti_get(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_KEYS, &n);
    return (uint32_t)(n / sizeof(dti_keyspec));
}

static dti_keyspec spec_at(const char *p, uint32_t i) { // stored bytes need not be aligned
    dti_keyspec s;
    memcpy(&s, p + i * sizeof s, sizeof s);
    return s;
}

dti_keyspec dti_key_at(dti_tx *tx, const dti_t *t, uint32_t i) {
    const char *p;
    return i < specs(tx, t, &p) ? spec_at(p, i) : (dti_keyspec){0};
}

static dti_hash hash_of(const dti_keyspec *s) { return (dti_hash){{s->h[0], s->h[1]}}; }

void dti_keys_store(dti_tx *tx, dti_t *t, const dti_new *new, const dti_keyspec *more, uint32_t nmore) {
    dti_keyspec *to = dti_need(tx, (new->nkeys + nmore) * sizeof *to);
    uint32_t n = 0;
    for (uint32_t i = 0; i < new->nkeys; i++) {
        dti_keyspec s = new->keys[i];
        dti_hash h = dti_key_hash(tx, &s, t->job);
        memcpy(s.h, h.h, sizeof s.h);
        uint32_t same = 0;
        while (same < n && !dti_hash_eq(hash_of(&to[same]), h)) same++;
        if (same == n) to[n++] = s;
        else if (s.max < to[same].max) to[same].max = s.max;
    }
    for (uint32_t i = 0; i < nmore; i++) to[n++] = more[i];
    if (n) {
        dti_put(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_KEYS, to, n * sizeof *to);
        t->r->bits |= DTI_HAS_KEYS;
    } else if (t->r->bits & DTI_HAS_KEYS) {
        dti_del(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_KEYS);
        t->r->bits &= (uint16_t)~DTI_HAS_KEYS;
    }
}

// ---- permits ------------------------------------------------------------------

static dti_limit *limit_mut(dti_tx *tx, dti_hash h) { return dti_mut(tx->store, DTI_T_LIMIT, h.h[0], h.h[1], 0); }

static dti_limit *limit_row(dti_tx *tx, const dti_keyspec *s) {
    dti_limit *l = limit_mut(tx, hash_of(s));
    if (!l) {
        l = dti_put(tx->store, DTI_T_LIMIT, s->h[0], s->h[1], 0, NULL, sizeof *l);
        *l = (dti_limit){.version = DTI_ROW_VERSION, .no = dti_w(tx)->meta->next_limit++, .head = MIDDLE, .tail = MIDDLE};
    }
    l->max = s->max;
    return l;
}

static void free_one(dti_tx *tx, dti_hash h) {
    dti_limit *l = limit_mut(tx, h);
    if (!l || !l->used) dti_raise(tx->store, DTASK_EINTERNAL, "a permit comes back that nobody holds");
    l->used--;
    if (l->head != l->tail) dti_push(tx, DTI_DO_LIMIT, h.h[0], 0, h.h[1], 0);
    else if (!l->used) dti_del(tx->store, DTI_T_LIMIT, h.h[0], h.h[1], 0);
}

uint32_t dti_permits_take(dti_tx *tx, dti_t *t, bool waking) {
    const char *p;
    uint32_t n = specs(tx, t, &p), taken = 0;
    for (uint32_t i = 0; i < n; i++) {
        dti_keyspec s = spec_at(p, i);
        if (s.kind != DTI_KEY_LIMIT || (waking && s.per_us)) continue;
        dti_limit *l = limit_row(tx, &s);
        if (l->used >= l->max) return i + 1;
    }
    for (uint32_t i = 0; i < n; i++) {
        dti_keyspec s = spec_at(p, i);
        if (s.kind != DTI_KEY_LIMIT || (waking && s.per_us)) continue;
        limit_row(tx, &s)->used++;
        taken++;
    }
    if (taken) t->r->bits |= DTI_PERMIT;
    return 0;
}

void dti_permits_return(dti_tx *tx, dti_t *t, bool all) {
    const char *p;
    uint32_t n = specs(tx, t, &p);
    for (uint32_t i = 0; i < n; i++) {
        dti_keyspec s = spec_at(p, i);
        if (s.kind == DTI_KEY_LIMIT && (all || !s.per_us)) free_one(tx, hash_of(&s));
    }
    t->r->bits &= (uint16_t)~DTI_PERMIT;
}

static void lapse(dti_tx *tx, int64_t at, uint8_t kind, dti_hash h) {
    dti_lapse row = {.version = DTI_ROW_VERSION, .kind = kind, .h = {h.h[0], h.h[1]}};
    dti_put(tx->store, DTI_T_LAPSE, (uint64_t)at, dti_w(tx)->meta->next_lapse++, 0, &row, sizeof row);
}

void dti_permits_claimed(dti_tx *tx, dti_t *t) {
    const char *p;
    uint32_t n = specs(tx, t, &p), keeps = 0;
    for (uint32_t i = 0; i < n; i++) {
        dti_keyspec s = spec_at(p, i);
        if (s.kind != DTI_KEY_LIMIT) continue;
        if (s.per_us) lapse(tx, tx->now + s.per_us, DTI_LAPSE_LIMIT, hash_of(&s));
        else keeps++;
    }
    if (!keeps) t->r->bits &= (uint16_t)~DTI_PERMIT;
}

void dti_limit_lapsed(dti_tx *tx, dti_hash h) { free_one(tx, h); }

// ---- the line -------------------------------------------------------------------

void dti_limit_await(dti_tx *tx, dti_t *t, uint32_t full, bool first) {
    dti_keyspec s = dti_key_at(tx, t, full - 1);
    dti_limit *l = limit_row(tx, &s);
    t->r->wait |= DTI_LIMIT_WAIT;
    t->r->at_limit = full;
    dti_ext ext = {.version = DTI_ROW_VERSION, .first = t->ord, .count = 1, .job = t->job};
    size_t n;
    const dti_ext *last = first || l->head == l->tail ? NULL : dti_get(tx->store, DTI_T_WAITER, l->no, l->tail - 1, 0, &n);
    if (last && last->job == t->job && last->first + last->count == t->ord) {
        ext.first = last->first;
        ext.count = last->count + 1;
        dti_put(tx->store, DTI_T_WAITER, l->no, l->tail - 1, 0, &ext, sizeof ext);
    } else {
        dti_put(tx->store, DTI_T_WAITER, l->no, first ? --l->head : l->tail++, 0, &ext, sizeof ext);
    }
}

// Offers free permits down the line. Some in it may have left: cancelled,
// expired, in line elsewhere.
bool dti_do_limit(dti_tx *tx, dti_todo *d) {
    dti_hash h = {{d->job, d->cursor}};
    for (int i = 0; dti_spend(tx, i); i++) {
        dti_limit *l = limit_mut(tx, h);
        if (!l) return false;
        if (l->head == l->tail) {
            if (!l->used) dti_del(tx->store, DTI_T_LIMIT, h.h[0], h.h[1], 0);
            return false;
        }
        if (l->used >= l->max) return false;
        size_t n;
        dti_ext ext = *(const dti_ext *)dti_get(tx->store, DTI_T_WAITER, l->no, l->head, 0, &n);
        dti_t t;
        bool here = dti_task(tx, ext.job, ext.first, &t);
        if (--ext.count) {
            ext.first++;
            dti_put(tx->store, DTI_T_WAITER, l->no, l->head, 0, &ext, sizeof ext);
        } else {
            dti_del(tx->store, DTI_T_WAITER, l->no, l->head++, 0);
        }
        if (!here || !(t.r->wait & DTI_LIMIT_WAIT)) continue;
        dti_keyspec s = dti_key_at(tx, &t, t.r->at_limit - 1);
        if (!dti_hash_eq(hash_of(&s), h)) continue;
        t.r->wait &= (uint8_t)~DTI_LIMIT_WAIT;
        t.r->at_limit = 0;
        if (t.r->state == DTI_PARKED) dti_wake_up(tx, &t);
        else dti_admit(tx, &t);
        if (DTI_PLANTED(ONE_WAITER)) return false;
    }
    return true;
}

// ---- unique keys ------------------------------------------------------------------

const dti_keyspec *dti_unique_of(const dti_new *new) {
    for (uint32_t i = 0; i < new->nkeys; i++) {
        if (new->keys[i].kind == DTI_KEY_UNIQUE) return &new->keys[i];
    }
    return NULL;
}

bool dti_unique_find(dti_tx *tx, dti_hash h, dti_uniq *out) {
    size_t n;
    const dti_uniq *u = dti_get(tx->store, DTI_T_UNIQ, h.h[0], h.h[1], 0, &n);
    if (!u || (u->freed && u->lapse <= tx->now)) return false;
    *out = *u;
    return dti_here(tx, DTI_T_DATA, u->job, 0, DTI_D_ID); // else its job is being purged
}

void dti_unique_take(dti_tx *tx, dti_hash h, const dti_keyspec *s, uint64_t job, uint32_t ord, const uint64_t call[2]) {
    dti_uniq u = {.version = DTI_ROW_VERSION, .until = s->until, .scope = s->scope, .ord = ord, .job = job,
        .call = {call[0], call[1]}, .keep_us = s->keep_us};
    dti_put(tx->store, DTI_T_UNIQ, h.h[0], h.h[1], 0, &u, sizeof u);
}

static dti_uniq *held(dti_tx *tx, const dti_keyspec *s, uint64_t job, uint32_t ord) {
    dti_uniq *u = s->kind == DTI_KEY_UNIQUE ? dti_mut(tx->store, DTI_T_UNIQ, s->h[0], s->h[1], 0) : NULL;
    return u && u->job == job && u->ord == ord ? u : NULL;
}

void dti_unique_free(dti_tx *tx, dti_t *t, bool begun) {
    const char *p;
    uint32_t n = specs(tx, t, &p);
    for (uint32_t i = 0; i < n; i++) {
        dti_keyspec s = spec_at(p, i);
        dti_uniq *u = held(tx, &s, t->job, t->ord);
        if (!u || u->freed || u->scope || (begun && u->until != DTI_UNTIL_RUN)) continue;
        if (u->keep_us) {
            u->freed = 1;
            u->lapse = tx->now + u->keep_us;
            lapse(tx, u->lapse, DTI_LAPSE_UNIQUE, hash_of(&s));
        } else {
            dti_del(tx->store, DTI_T_UNIQ, s.h[0], s.h[1], 0);
        }
    }
}

// The task's row goes, and so does what its key says of it.
void dti_unique_forget(dti_tx *tx, uint64_t job, uint32_t ord) {
    const char *p;
    uint32_t n = specs(tx, &(dti_t){.job = job, .ord = ord}, &p);
    for (uint32_t i = 0; i < n; i++) {
        dti_keyspec s = spec_at(p, i);
        if (held(tx, &s, job, ord)) dti_del(tx->store, DTI_T_UNIQ, s.h[0], s.h[1], 0);
    }
}
