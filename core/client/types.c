// Task types as their workers published them: read from the store once, then
// found without a lock or I/O. An entry is looked at again after REFRESH_US,
// so that options of a worker that was deployed anew arrive. What was handed
// out lives as long as the app: rows change seldom, and only a changed one
// makes a new info.
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 256, REFRESH_US = 5000000 };

typedef struct entry {
    struct entry *_Atomic next;
    char *name;                  // NULL: known by its no
    uint32_t version, no;
    _Atomic(const dti_typeinfo *) info;
    _Atomic int64_t looked;      // dti_mono_us
    _Atomic uint64_t era;        // the engine's when it was looked at
    dti_hash row;                // of what info was made of; under the lock
} entry;

typedef struct told { struct told *next; dti_hello_type type; } told;

struct dti_types {
    pthread_mutex_t lock;        // of changes; readers take none
    told *told;                  // what this app told the store; under the lock
    dti_arena arena;
    entry *_Atomic heads[BUCKETS];
};

struct dti_types *dti_types_new(void) {
    struct dti_types *t = calloc(1, sizeof *t);
    if (t) pthread_mutex_init(&t->lock, NULL);
    return t;
}

void dti_types_free(struct dti_types *t) {
    dti_arena_done(&t->arena);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static unsigned bucket(dtask_str name, uint32_t number) {
    return (unsigned)(dti_hash128(name.p, name.n, number).h[0] % BUCKETS);
}

static entry *look(struct dti_types *t, unsigned at, dtask_str name, uint32_t version, uint32_t no) {
    for (entry *e = atomic_load_explicit(&t->heads[at], memory_order_acquire); e; e = atomic_load_explicit(&e->next, memory_order_acquire))
        if (name.n ? e->name && e->version == version && dti_str_eq(dti_strz(e->name), name) : !e->name && e->no == no) return e;
    return NULL;
}

// Under the lock: what the row says now, remembered at `at`.
static dtask_err remember(struct dti_types *t, unsigned at, dtask_str name, uint32_t version, uint32_t no, const dti_typeview *row,
    uint64_t era, const dti_typeinfo **out) {
    uint64_t seed = row->row.no;
    dti_hash h = dti_hash128(row->signature.p, row->signature.n, seed);
    h = dti_hash128(row->options.p, row->options.n, h.h[0]);
    entry *e = look(t, at, name, version, no);
    if (e && dti_hash_eq(e->row, h)) {
        atomic_store(&e->looked, dti_mono_us());
        atomic_store(&e->era, era);
        *out = atomic_load(&e->info);
        return DTASK_OK;
    }
    dti_typeinfo *info;
    dtask_err err = dti_type_parse(&t->arena, row->row.no, row->row.type_version, row->name, row->signature, row->options, &info);
    if (err) return err;
    bool fresh = !e;
    if (fresh) {
        e = dti_alloc0(&t->arena, sizeof *e);
        if (e && name.n) e->name = dti_dupz(&t->arena, name);
        if (!e || (name.n && !e->name)) return dti_fail(DTASK_ENOMEM, "No memory for a task type.");
        e->version = version;
        e->no = no;
    }
    e->row = h;
    atomic_store(&e->info, info);
    atomic_store(&e->looked, dti_mono_us());
    atomic_store(&e->era, era);
    if (fresh) {
        atomic_store(&e->next, atomic_load(&t->heads[at]));
        atomic_store_explicit(&t->heads[at], e, memory_order_release);
    }
    *out = info;
    return DTASK_OK;
}

static told *told_of(struct dti_types *t, dtask_str name, uint32_t version) { // version 0: any
    told *k = t->told;
    while (k && !(dti_str_eq(k->type.name, name) && (!version || k->type.version == version))) k = k->next;
    return k;
}

dtask_err dti_types_told(dtask_app *app, const dti_hello_type *types, size_t n) {
    struct dti_types *t = app->types;
    bool whole = true;
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < n && whole; i++) {
        const dti_hello_type *h = &types[i];
        if (told_of(t, h->name, h->version)) continue;
        told *k = dti_alloc0(&t->arena, sizeof *k);
        if (!k) whole = false;
        else *k = (told){t->told, {.name = dti_dup(&t->arena, h->name), .signature = dti_dup(&t->arena, h->signature),
            .options = dti_dup(&t->arena, h->options), .version = h->version, .crashes = h->crashes, .named = h->named}};
        if (whole) whole = (k->type.name.p || !h->name.n) && (k->type.signature.p || !h->signature.n) && (k->type.options.p || !h->options.n);
        if (whole) t->told = k;
    }
    pthread_mutex_unlock(&t->lock);
    return whole ? DTASK_OK : dti_fail(DTASK_ENOMEM, "No memory for task types.");
}

bool dti_type_again(dtask_app *app, dtask_str name) {
    struct dti_types *t = app->types;
    pthread_mutex_lock(&t->lock);
    told *k = told_of(t, name, 0);
    dti_hello_type type = k ? k->type : (dti_hello_type){0};
    pthread_mutex_unlock(&t->lock);
    if (!k) return false;
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.types = &type, .ntypes = 1}};
    bool known = !dti_engine_call(app->engine, &arena, &op) && type.no;
    dti_arena_done(&arena);
    return known;
}

static dtask_err find(dtask_app *app, dtask_str name, uint32_t version, uint32_t no, const dti_typeinfo **out) {
    struct dti_types *t = app->types;
    unsigned at = bucket(name, name.n ? version : no);
    entry *e = look(t, at, name, version, no);
    uint64_t era = atomic_load(&app->engine->era);
    if (e && atomic_load(&e->era) == era && dti_mono_us() - atomic_load(&e->looked) < REFRESH_US) {
        *out = atomic_load(&e->info);
        return DTASK_OK;
    }
    // Where a start needs the name alone, it does not wait for a store that is away; nor for another thread's look.
    bool brief = e && app->engine->by_name;
    int64_t looked = brief ? atomic_load(&e->looked) : 0, now = dti_mono_us();
    if (brief && now - looked >= REFRESH_US && !atomic_compare_exchange_strong(&e->looked, &looked, now)) {
        *out = atomic_load(&e->info);
        return DTASK_OK;
    }
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPE, .id = name, .version = name.n ? version : no, .brief = brief}};
    dtask_err err = dti_engine_call(app->engine, &arena, &op);
    if (!err && !op.read.n && name.n && dti_type_again(app, name)) err = dti_engine_call(app->engine, &arena, &op);
    if (e && (err || (!op.read.n && app->engine->by_name))) { // an engine that is away for a while takes no known type with it
        *out = atomic_load(&e->info);
        err = DTASK_OK;
    } else if (!err && !op.read.n) {
        err = name.n ? dti_fail(DTASK_ENOTFOUND, "No task type is named %.*s: start a worker that serves it, or declare it.",
                           (int)(name.n > 200 ? 200 : name.n), name.p)
                     : dti_fail(DTASK_ENOTFOUND, "There is no task type number %u.", no);
    } else if (!err) {
        pthread_mutex_lock(&t->lock);
        err = remember(t, at, name, version, no, &op.read.types[0], era, out);
        pthread_mutex_unlock(&t->lock);
    }
    dti_arena_done(&arena);
    return err;
}

dtask_err dti_type_find(dtask_app *app, dtask_str name, uint32_t version, const dti_typeinfo **out) {
    if (!name.n || name.n > 200) return dti_fail(DTASK_EARGS, "A task type's name has 1 to 200 bytes.");
    return find(app, name, version, 0, out);
}

dtask_err dti_type_by_no(dtask_app *app, uint32_t no, const dti_typeinfo **out) {
    return find(app, (dtask_str){0}, 0, no, out);
}
