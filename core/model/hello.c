// hello and bye: which task types there are, who serves them, and how a
// worker's row ends, by its own word or by its death.
#include "model/model_int.h"

static dti_hash name_hash(dtask_str name) { return dti_hash128(name.p, name.n, 0); }

static uint32_t type_find(dti_tx *tx, dtask_str name, uint32_t version) { // version 0: the newest
    size_t n;
    const uint32_t *no = dti_get(tx->store, DTI_T_TYPEID, name_hash(name).h[0], version, 0, &n);
    return no ? *no : 0;
}

uint32_t dti_type_named(dti_tx *tx, uint32_t no, dtask_str name) {
    const dti_type *row = dti_type_row(tx, no);
    return row && dti_str_eq(dti_str((const char *)(row + 1), row->name_n), name) ? no : type_find(tx, name, 0);
}

static void type_put(dti_tx *tx, const dti_type *fixed, dtask_str name, dtask_str signature, dtask_str options) {
    dti_type row = *fixed;
    row.name_n = (uint32_t)name.n;
    row.signature_n = (uint32_t)signature.n;
    row.options_n = (uint32_t)options.n;
    char *p = dti_need(tx, sizeof row + name.n + signature.n + options.n), *at = p + sizeof row;
    memcpy(p, &row, sizeof row);
    dtask_str parts[] = {name, signature, options};
    for (int i = 0; i < 3; at += parts[i++].n) {
        if (parts[i].n) memcpy(at, parts[i].p, parts[i].n);
    }
    dti_put(tx->store, DTI_T_TYPE, row.no, 0, 0, p, (size_t)(at - p));
    dti_type_changed(tx);
}

static dtask_str signature_of(dti_tx *tx, const dti_type *row) {
    return dti_kept(tx, (const char *)(row + 1) + row->name_n, row->signature_n);
}

// Writes what a worker or a client says of a type; a client only what is absent.
static void declare(dti_tx *tx, dti_hello_type *t, bool worker, bool system) {
    dti_meta *m = dti_w(tx)->meta;
    uint32_t no = type_find(tx, t->name, t->version);
    if (!no) {
        no = (uint32_t)m->next_type++;
        uint32_t newest = type_find(tx, t->name, 0);
        const dti_type *before = newest ? dti_type_row(tx, newest) : NULL;
        dti_type row = {.version = DTI_ROW_VERSION, .no = no, .type_version = t->version, .crashes = t->crashes, .served = worker,
            .system = system, .listeners = before ? before->listeners : 0};
        bool newer = !before || before->type_version < t->version;
        type_put(tx, &row, t->name, t->signature, t->options);
        dti_hash h = name_hash(t->name);
        dti_put(tx->store, DTI_T_TYPEID, h.h[0], t->version, 0, &no, sizeof no);
        if (newer) dti_put(tx->store, DTI_T_TYPEID, h.h[0], 0, 0, &no, sizeof no);
    } else {
        const dti_type *have = dti_type_row(tx, no);
        dti_type row = *have;
        dtask_str signature = signature_of(tx, have);
        dtask_str options = dti_kept(tx, (const char *)(have + 1) + have->name_n + have->signature_n, have->options_n);
        if (t->signature.n && (worker || !signature.n)) signature = t->signature;
        if (worker || !row.served) {
            if (worker || !options.n) options = t->options, row.crashes = t->crashes;
        }
        row.served |= worker;
        type_put(tx, &row, t->name, signature, options);
    }
    t->no = no;
}

uint32_t dti_type_system(dti_tx *tx, const char *name) {
    dti_hello_type t = {.name = dti_strz(name), .version = 1, .crashes = 3};
    declare(tx, &t, false, true);
    return t.no;
}

// A signature is what its live workers agree on: with none left, another one
// may come.
static bool refuse(dti_tx *tx, dti_hello *h, bool worker) {
    bool any = false;
    for (uint32_t i = 0; i < h->ntypes; i++) {
        dti_hello_type *t = &h->types[i];
        uint32_t no = type_find(tx, t->name, t->version);
        const dti_type *row = no ? dti_type_row(tx, no) : NULL;
        t->refused = false;
        t->no = no;
        if (!row || !row->signature_n || !t->signature.n) continue;
        dtask_str have = signature_of(tx, row);
        t->refused = !t->named && !dti_str_eq(have, t->signature) && (!worker || row->workers);
        if (t->refused) t->registered = have;
        any |= t->refused;
    }
    return any;
}

static void listen(dti_tx *tx, dti_hello *h) {
    dti_store *s = tx->store;
    dti_key k = {0};
    const void *v;
    size_t n;
    while (s->ops->seek(s, DTI_T_LISTEN, 0, &k, &v, &n)) { // what these types listened to before; who serves one knows
        for (uint32_t i = 0; i < h->ntypes; i++) {
            if (h->types[i].no == k.c && !h->types[i].named) dti_del(s, DTI_T_LISTEN, k.a, k.b, k.c);
        }
        if (!++k.c && !++k.b) ++k.a;
    }
    for (uint32_t i = 0; i < h->nlistens; i++) {
        const dti_listen *l = &h->listens[i];
        uint64_t subject = 0;
        if (l->subject == UINT32_MAX) {
            dti_w(tx)->meta->any_root = 1;
        } else {
            dtask_str name = h->types[l->subject].name;
            subject = name_hash(name).h[0];
            for (uint32_t no = 1; no < dti_w(tx)->meta->next_type; no++) { // all its versions
                dti_type *row = dti_type_mut(tx, no);
                if (row && row->name_n == name.n && !memcmp(row + 1, name.p, name.n)) row->listeners = 1;
            }
        }
        dti_listenrow row = {.version = DTI_ROW_VERSION, .states = l->states, .filter_n = (uint32_t)l->filter.n};
        char *p = dti_need(tx, sizeof row + l->filter.n);
        memcpy(p, &row, sizeof row);
        if (l->filter.n) memcpy(p + sizeof row, l->filter.p, l->filter.n);
        dti_put(s, DTI_T_LISTEN, subject, l->kind, h->types[l->listener].no, p, sizeof row + l->filter.n);
    }
}

static void lapse(dti_tx *tx, uint8_t kind, uint64_t worker, int64_t at) {
    dti_lapse row = {.version = DTI_ROW_VERSION, .kind = kind, .h = {worker}};
    dti_put(tx->store, DTI_T_LAPSE, (uint64_t)at, dti_w(tx)->meta->next_lapse++, 0, &row, sizeof row);
}

static uint64_t worker_find(dti_tx *tx, dtask_str name) {
    dti_hash id = name_hash(name);
    size_t n;
    const uint64_t *no = dti_get(tx->store, DTI_T_WORKERID, id.h[0], id.h[1], 0, &n);
    return no ? *no : 0;
}

static void worker_begin(dti_tx *tx, dti_hello *h) {
    dti_meta *m = dti_w(tx)->meta;
    dti_hash id = name_hash(h->name);
    dti_workerrow w = {.version = DTI_ROW_VERSION, .no = m->next_worker++, .lease_us = h->lease_us, .since = tx->now};
    memcpy(w.name, h->name.p, h->name.n < sizeof w.name ? h->name.n : sizeof w.name);
    if (h->lease_us) {
        w.expires = tx->now + h->lease_us;
        lapse(tx, DTI_LAPSE_WORKER, w.no, w.expires);
        if (m->lease_us < h->lease_us) m->lease_us = h->lease_us;
    }
    dti_put(tx->store, DTI_T_WORKER, w.no, 0, 0, &w, sizeof w);
    dti_put(tx->store, DTI_T_WORKERID, id.h[0], id.h[1], 0, &w.no, sizeof w.no);
    for (uint32_t no = 1; no < m->next_type; no++) {
        dti_type *row = dti_type_mut(tx, no);
        bool serves = row && row->system;
        for (uint32_t i = 0; row && i < h->ntypes; i++) serves |= h->types[i].no == no && !h->types[i].named;
        if (!serves) continue;
        row->workers++;
        dti_put(tx->store, DTI_T_SERVES, w.no, no, 0, NULL, 0);
    }
    h->worker = w.no;
}

dtask_err dti_op_hello(dti_tx *tx, dti_hello *h) {
    if (h->bye) {
        dti_workerrow *w = dti_mut(tx->store, DTI_T_WORKER, h->worker, 0, 0);
        if (w && !w->dead) dti_worker_end(tx, w, false);
        return DTASK_OK;
    }
    bool worker = h->name.n;
    for (uint32_t i = 0; i < h->ntypes; i++) {
        if (!h->types[i].name.n || h->types[i].name.n > 200 || !h->types[i].version)
            return dti_fail(DTASK_EARGS, "a task type needs a name of 1 to 200 bytes and a version from 1");
    }
    for (uint32_t i = 0; i < h->nlistens; i++) {
        const dti_listen *l = &h->listens[i];
        if (l->listener >= h->ntypes || (l->subject >= h->ntypes && l->subject != UINT32_MAX) || l->kind > DTI_L_TRIGGER
            || (l->kind == DTI_L_TRIGGER && l->subject == UINT32_MAX))
            return dti_fail(DTASK_EARGS, "listener %u names a type that is not declared with it", i);
    }
    if (h->name.n > sizeof(((dti_workerrow *)0)->name)) return dti_fail(DTASK_EARGS, "a worker's name has at most 64 bytes");
    uint64_t last = worker && h->was.n ? worker_find(tx, h->was) : 0, have = worker ? worker_find(tx, h->name) : 0;
    dti_workerrow *before = last ? dti_mut(tx->store, DTI_T_WORKER, last, 0, 0) : NULL;
    if (before && !before->dead) dti_worker_end(tx, before, DTI_PLANTED(LIFE_CHARGED));
    if (have) { // said before; its types stand
        h->worker = have;
        refuse(tx, h, false);
        return DTASK_OK;
    }
    h->worker = 0;
    if (refuse(tx, h, worker) && worker) return DTASK_OK;
    for (uint32_t i = 0; i < h->ntypes; i++) declare(tx, &h->types[i], worker && !h->types[i].named, false);
    if (!worker) return DTASK_OK;
    listen(tx, h);
    worker_begin(tx, h);
    return DTASK_OK;
}

// ---- how a worker ends ---------------------------------------------------------------

// From here on all its messages are refused; what it held goes step by step.
void dti_worker_end(dti_tx *tx, dti_workerrow *w, bool charge) {
    w->dead = 1;
    w->expires = tx->now;
    dti_key k = {w->no, 0, 0};
    const void *v;
    size_t n;
    while (tx->store->ops->seek(tx->store, DTI_T_SERVES, 1, &k, &v, &n)) {
        dti_type *row = dti_type_mut(tx, (uint32_t)k.b);
        if (row && row->workers) row->workers--;
        dti_del(tx->store, DTI_T_SERVES, k.a, k.b, 0);
    }
    lapse(tx, DTI_LAPSE_GONE, w->no, tx->now + 86400 * 1000000ll); // its name is still asked for
    dti_push(tx, DTI_DO_WORKER, w->no, 0, 0, charge);
}

bool dti_do_worker(dti_tx *tx, dti_todo *d) {
    dti_store *s = tx->store;
    for (int i = 0; dti_spend(tx, i); i++) {
        dti_key k = {d->job, 0, 0};
        const void *v;
        size_t n;
        dti_t t;
        if (s->ops->seek(s, DTI_T_WAKE, 1, &k, &v, &n)) { // woken, and it never heard of it: not to blame
            dti_wakerow row;
            memcpy(&row, v, sizeof row);
            dti_del(s, DTI_T_WAKE, k.a, k.b, 0);
            if (dti_task(tx, row.job, row.ord, &t) && t.r->owner == d->job && t.r->token == row.token && t.r->state == DTI_RUNNING)
                dti_lose(tx, &t, false);
            continue;
        }
        if (!s->ops->seek(s, DTI_T_HELD, 1, &k, &v, &n)) return false;
        if (!dti_task(tx, k.b, (uint32_t)k.c, &t)) dti_del(s, DTI_T_HELD, k.a, k.b, k.c);
        else dti_lose(tx, &t, d->arg);
    }
    return true;
}
