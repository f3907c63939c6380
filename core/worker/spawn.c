// Children on their way out. A call becomes a record at once, so that what
// is wrong with it is said to its caller; then it is found among the children
// of an earlier run, or it waits in the frame's outbox for the next turn. A
// dtask_map waits there as one record, whatever its n.
#include "worker/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void dti_unsent_free(dti_unsent *u) {
    if (u->child) dti_child_unref(u->child);
    for (uint32_t i = 0; i < u->call.ndeps; i++) dti_child_unref(u->deps[i]);
    free(u);
}

void dti_unsent_drop(dtask_task *f) {
    for (dti_unsent *u = f->unsent, *next; u; u = next) {
        next = u->next;
        if (u->child) u->child->unmade = u->child->done = true;
        dti_unsent_free(u);
    }
    f->unsent = f->unsent_last = NULL;
    f->nunsent = 0;
}

// ---- making the record ---------------------------------------------------------

static char *put(char **at, const void *p, size_t n) {
    char *to = *at;
    if (n) memcpy(to, p, n);
    *at += n;
    return to;
}

enum { DEPS_MAX = 1024 };

static dtask_err check_deps(dtask_task *f, const dtask_b_call *call) {
    if (call->ndeps > DEPS_MAX)
        return dti_fail(DTASK_ETOOBIG, "a call may wait for %d siblings, this one names %zu: join some in a task of their own",
            DEPS_MAX, call->ndeps);
    for (size_t i = 0; i < call->ndeps; i++) {
        const dtask_child *c = call->deps[i];
        if (!c || c->task != f)
            return dti_fail(DTASK_EDEADLOCK, "`after` and outputs name children of this task only, made before");
        if (c->joined) return dti_fail(DTASK_EDEADLOCK, "%s is another call's task (unique): `after` and outputs name own children", c->id);
        if (c->batch) return dti_fail(DTASK_EUSAGE, "a whole batch cannot be waited for by `after`: name its children");
    }
    return DTASK_OK;
}

// What the call hash is of where it has deps: the ords of a re-run may be
// others, its calls are the same.
static dtask_str hash_deps(dti_arena *mem, const dtask_b_call *call, dtask_str hashed) {
    size_t n = hashed.n + call->ndeps * 16;
    char *p = dti_alloc(mem, n), *at = p;
    if (!p) return hashed;
    put(&at, hashed.p, hashed.n);
    for (size_t i = 0; i < call->ndeps; i++) put(&at, call->deps[i]->call, 16);
    return dti_str(p, n);
}

typedef struct {                 // one call of spawn, spawn_many or map
    const dti_typeinfo *info;
    dti_callopts opts;
    dti_arena mem;
} making;

static dtask_err making_begin(dtask_task *f, const dtask_b_call *call, making *m) {
    dtask_err err = dti_frame_check(f);
    if (!err) err = check_deps(f, call);
    if (!err) err = dti_type_find(f->w->app, dti_strz(call->type), 0, &m->info);
    if (!err) err = dti_callopts_parse(&m->mem, call->opts, false, &m->opts);
    if (!err && f->row.depth >= f->w->app->conf.max_depth)
        err = dti_fail(DTASK_ETOOBIG, "this task is at depth %u: max_depth allows no children below it", f->row.depth);
    return err;
}

// Makes the record of one child with these arguments. Compact: what outlives
// the call lies behind it.
static dtask_err make_one(dtask_task *f, const dtask_b_call *call, making *m, dtask_str args, dtask_str hashed,
    dti_unsent **out) {
    dti_new n = {0};
    dtask_err err = call->ndeps ? dti_args_check(args, call->ndeps) : DTASK_OK;
    if (err) return err;
    if (call->ndeps) hashed = hash_deps(&m->mem, call, hashed.n ? hashed : args);
    err = dti_call_make(f->w->app, &m->mem, m->info, &m->opts, args, hashed, &n);
    if (err) return err;
    size_t keys = n.nkeys * sizeof *n.keys, deps = call->ndeps * sizeof(dtask_child *);
    dti_unsent *u = malloc(sizeof *u + keys + deps + n.args.n);
    if (!u) return dti_fail(DTASK_ENOMEM, "no memory for a child");
    memset(u, 0, sizeof *u);
    char *at = u->bytes;
    u->deps = (dtask_child **)put(&at, call->deps, deps);
    n.keys = (const dti_keyspec *)put(&at, n.keys, keys);
    n.args = dti_str(put(&at, n.args.p, n.args.n), n.args.n);
    n.ndeps = (uint32_t)call->ndeps;
    n.ptries = f->row.tries;
    u->call = n;
    *out = u;
    return DTASK_OK;
}

// ---- keys --------------------------------------------------------------------------

// The same key twice in one run: the same call is the same child, another is
// a mistake.
static dtask_err find_keyed(dtask_task *f, const dti_new *n, dti_hash plain, dtask_str key, dtask_child **out) {
    *out = NULL;
    for (size_t i = 0; i < f->nkeyed; i++) {
        const dti_keyed *k = &f->keyed[i];
        if (k->key[0] != n->call[0] || k->key[1] != n->call[1]) continue;
        if (k->call[0] != plain.h[0] || k->call[1] != plain.h[1])
            return dti_fail(DTASK_ECONFLICT, "key \"%.*s\" belongs to another call of this run: give each call a key of its own",
                (int)key.n, key.p);
        *out = k->child;
        return DTASK_OK;
    }
    return DTASK_OK;
}

static dti_hash plain_hash(const dti_new *n) {
    return dti_hash128(n->args.p, n->args.n, n->type * 0x9e3779b97f4a7c15u);
}

// ---- into the outbox ------------------------------------------------------------------

// Waits on w->moved, at most until `until` (monotonic). False: time is up.
static bool wait_moved(dtask_worker *w, int64_t until) {
    struct timespec ts = {until / 1000000, until % 1000000 * 1000};
    return pthread_cond_timedwait(&w->moved, &w->lock, &ts) != ETIMEDOUT;
}

static dtask_err wait_for_room(dtask_task *f) {
    dtask_worker *w = f->w;
    int64_t until = dti_mono_us() + w->app->conf.engine_timeout_us;
    while (f->nunsent >= DTI_UNSENT_MAX && !f->lost && !f->given_up && !f->broken && !w->ended)
        if (!wait_moved(w, until))
            return dti_fail(DTASK_EENGINE, "%d children wait to be stored and the engine takes none for %.3g s", DTI_UNSENT_MAX,
                (double)w->app->conf.engine_timeout_us / 1e6);
    if (f->lost || f->given_up || w->ended) return dti_fail(DTASK_ELOST, "this attempt is over: return");
    return dti_frame_broken(f);
}

static void queue(dtask_task *f, dti_unsent *u) {
    u->next = NULL;
    if (f->unsent_last) f->unsent_last->next = u;
    else f->unsent = u;
    f->unsent_last = u;
    f->nunsent++;
    if (!f->link->flush_at) {
        f->link->flush_at = dti_mono_us() + DTI_FLUSH_US;
        if (f->link->io_sleeps) dti_io_ring(f->link);
    }
    dti_out_add(f, u->range || f->nunsent >= DTI_EAGER);
}

// Finds the child of an earlier run, or queues the call. child: its handle or
// batch (`index` in it), or NULL. Takes u. L: no; takes the lock itself.
static dtask_err match_or_queue(dtask_task *f, dti_unsent *u, dtask_child *child, uint64_t index) {
    dtask_worker *w = f->w;
    dti_found found = {0};
    dtask_err err = f->match ? dti_match_take(f, u->call.call, &found) : DTASK_OK;
    if (!err && found.found && found.type && found.type != u->call.type) {
        const dti_typeinfo *was = NULL;
        dti_type_by_no(w->app, found.type, &was);
        const dti_typeinfo *is = NULL;
        dti_type_by_no(w->app, u->call.type, &is);
        // Another version of the same type is no divergence.
        if (!was || !is || strcmp(was->name, is->name))
            err = dti_fail(DTASK_EDIVERGED, "the run before made a child of type %s under this key, this one calls %s",
                was ? was->name : "?", is ? is->name : "?");
    }
    pthread_mutex_lock(&w->lock);
    if (!err && !found.found) err = wait_for_room(f);
    if (err) {
        for (uint32_t i = 0; i < u->call.ndeps; i++) u->deps[i]->refs++;
        dti_unsent_free(u);
        pthread_mutex_unlock(&w->lock);
        return err;
    }
    f->nspawned++;
    if (child && !child->batch) {
        memcpy(child->call, u->call.call, sizeof child->call);
        child->counted = true;
    }
    for (uint32_t i = 0; i < u->call.ndeps; i++) u->deps[i]->refs++;
    if (found.found && !found.redo) {
        bool ok = dti_own_add(f, found.ord, 1);
        if (child && child->batch) {
            ok = ok && dti_batch_add(child, index, found.ord, 1);
        } else if (child) {
            ok = ok && dti_child_ord(child, found.ord);
            if (ok && found.done) dti_child_known(child, found.bad);
        } else {
            dti_joined_unheld(f, &u->call, found.ord);
        }
        dti_unsent_free(u);
        pthread_mutex_unlock(&w->lock);
        return ok ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory for a child's handle");
    }
    u->redo = found.redo ? found.ord : 0;
    u->child = child;
    u->index = index;
    if (child) child->refs++;
    queue(f, u);
    pthread_mutex_unlock(&w->lock);
    return DTASK_OK;
}

static bool raises(const dti_new *n) {
    for (uint32_t i = 0; i < n->nkeys; i++)
        if (n->keys[i].kind == DTI_KEY_UNIQUE && n->keys[i].over == DTI_OVER_RAISE) return true;
    return false;
}

static dtask_child *new_child(dtask_task *f, bool batch, uint64_t n) {
    pthread_mutex_lock(&f->w->lock);
    dtask_child *c = dti_child_new(f, batch, n);
    pthread_mutex_unlock(&f->w->lock);
    return c;
}

static void drop_child(dtask_task *f, dtask_child *c) {
    pthread_mutex_lock(&f->w->lock);
    dti_child_unref(c);
    pthread_mutex_unlock(&f->w->lock);
}

static dtask_err begin_match(dtask_task *f) {
    return f->row.nkids && !f->match ? dti_match_new(f, &f->match) : DTASK_OK;
}

dtask_err dti_spawn(dtask_task *f, const dtask_b_call *call, dtask_child **out) {
    making m = {0};
    dti_unsent *u = NULL;
    dtask_child *child = NULL, *twin = NULL;
    bool raise = false;
    dtask_err err = making_begin(f, call, &m);
    if (!err) err = begin_match(f);
    if (!err) err = make_one(f, call, &m, call->args, call->hashed, &u);
    if (!err) {
        bool keyed = m.opts.key.n;
        dti_hash plain = keyed ? plain_hash(&u->call) : (dti_hash){0};
        raise = raises(&u->call);
        if (keyed) err = find_keyed(f, &u->call, plain, m.opts.key, &twin);
        // A handle, if somebody will ask for it.
        if (!err && !twin && (out || keyed || raise) && !(child = new_child(f, false, 0)))
            err = dti_fail(DTASK_ENOMEM, "no memory for a child's handle");
        dti_joined_spec(child, &u->call);
        if (!err && !twin && keyed) {
            if (dti_grow(&f->keyed, f->nkeyed, &f->ckeyed, sizeof *f->keyed)) {
                f->keyed[f->nkeyed++] = (dti_keyed){{u->call.call[0], u->call.call[1]}, {plain.h[0], plain.h[1]}, child};
                pthread_mutex_lock(&f->w->lock);
                child->refs++;
                pthread_mutex_unlock(&f->w->lock);
            } else {
                err = dti_fail(DTASK_ENOMEM, "no memory for a key");
            }
        }
        if (err || twin) free(u);
        else err = match_or_queue(f, u, child, 0);
    }
    dti_arena_done(&m.mem);
    if (!err && raise && !twin) {
        err = dti_sync(f, child, 0);
        if (!err && child->joined) err = dti_fail(DTASK_ECONFLICT, "%s has the same unique key and has not ended", child->id);
    }
    if (err) {
        if (child) drop_child(f, child);
        return err;
    }
    if (twin && out) {
        pthread_mutex_lock(&f->w->lock);
        twin->refs++;
        pthread_mutex_unlock(&f->w->lock);
    }
    if (out) *out = twin ? twin : child;
    else if (child) drop_child(f, child);
    return DTASK_OK;
}

static dtask_err no_key(const making *m) {
    return m->opts.key.n ? dti_fail(DTASK_EARGS, "option key: many children cannot share one; spawn them one by one") : DTASK_OK;
}

dtask_err dti_spawn_many(dtask_task *f, const dtask_b_call *common, const dtask_str *args, size_t n, dtask_child **out) {
    making m = {0};
    dtask_child *batch = NULL;
    dtask_err err = making_begin(f, common, &m);
    if (!err) err = no_key(&m);
    if (!err) err = begin_match(f);
    if (!err && n > UINT32_MAX) err = dti_fail(DTASK_ETOOBIG, "a batch has at most %u children", UINT32_MAX);
    if (!err && !(batch = new_child(f, true, n))) err = dti_fail(DTASK_ENOMEM, "no memory for a batch");
    dti_arena opts = m.mem;      // holds what the options point to
    m.mem = (dti_arena){0};
    for (size_t i = 0; i < n && !err; i++) {
        dti_unsent *u;
        dti_arena_reset(&m.mem);
        err = make_one(f, common, &m, args[i], (dtask_str){0}, &u);
        if (!err) dti_joined_spec(batch, &u->call);
        if (!err) err = match_or_queue(f, u, batch, i);
    }
    dti_arena_done(&m.mem);
    dti_arena_done(&opts);
    if (batch && (err || !out)) drop_child(f, batch);
    if (!err && out) *out = batch;
    return err;
}

// ---- map -----------------------------------------------------------------------------------

// Arguments of item i of a range: the number, then the tail.
static void range_args(dti_buf *b, const dti_unsent *u, uint64_t i) {
    b->n = 0;
    dti_mp_put_array(b, 1 + u->ntail);
    dti_mp_put_int(b, u->from + (int64_t)i);
    dti_buf_add(b, u->tail.p, u->tail.n);
}

// Queues items at .. at + n as one record.
static dtask_err queue_range(dtask_task *f, const making *m, dtask_str tail, uint32_t ntail, int64_t from, uint64_t at,
    uint64_t n, dtask_child *batch) {
    if (!n) return DTASK_OK;
    dtask_worker *w = f->w;
    size_t unique = m->opts.unique ? strlen(m->opts.unique) + 1 : 0;
    dti_unsent *u = malloc(sizeof *u + tail.n + unique);
    if (!u) return dti_fail(DTASK_ENOMEM, "no memory for a batch");
    memset(u, 0, sizeof *u);
    char *at_bytes = u->bytes;
    u->tail = dti_str(put(&at_bytes, tail.p, tail.n), tail.n);
    u->ntail = ntail;
    u->range = true;
    u->from = from + (int64_t)at;
    u->index = at;
    u->n = n;
    u->info = m->info;
    u->opts = m->opts;           // has no key, id or tags
    if (unique) u->opts.unique = put(&at_bytes, m->opts.unique, unique);
    pthread_mutex_lock(&w->lock);
    dtask_err err = wait_for_room(f);
    if (err) {
        free(u);
    } else {
        u->child = batch;
        if (batch) batch->refs++;
        f->nspawned += n;
        queue(f, u);
    }
    pthread_mutex_unlock(&w->lock);
    return err;
}

// Items that an earlier run made are found one by one; what is new goes as
// ranges.
static dtask_err match_range(dtask_task *f, const dtask_b_call *call, making *m, dti_unsent *shape, dtask_child *batch) {
    dti_buf args = {0};
    dtask_err err = DTASK_OK;
    uint64_t fresh = 0;          // items fresh .. i are new
    dti_arena opts = m->mem;
    m->mem = (dti_arena){0};
    for (uint64_t i = 0; i < shape->n && !err; i++) {
        dti_new n = {0};
        dti_found found = {0};
        dti_arena_reset(&m->mem);
        range_args(&args, shape, i);
        err = dti_call_make(f->w->app, &m->mem, m->info, &m->opts, dti_str(args.p, args.n), (dtask_str){0}, &n);
        if (!err) err = dti_match_take(f, n.call, &found);
        if (err || !found.found) continue;
        err = queue_range(f, m, shape->tail, shape->ntail, shape->from, fresh, i - fresh, batch);
        fresh = i + 1;
        if (err) break;
        if (found.redo) {
            dti_unsent *u = NULL;
            err = make_one(f, call, m, dti_str(args.p, args.n), (dtask_str){0}, &u);
            if (err) break;
            pthread_mutex_lock(&f->w->lock);
            err = wait_for_room(f);
            if (err) {
                free(u);
            } else {
                u->redo = found.ord;
                u->child = batch;
                u->index = i;
                if (batch) batch->refs++;
                f->nspawned++;
                queue(f, u);
            }
            pthread_mutex_unlock(&f->w->lock);
        } else {
            pthread_mutex_lock(&f->w->lock);
            f->nspawned++;
            bool ok = dti_own_add(f, found.ord, 1) && (!batch || dti_batch_add(batch, i, found.ord, 1));
            pthread_mutex_unlock(&f->w->lock);
            if (!ok) err = dti_fail(DTASK_ENOMEM, "no memory for a batch");
        }
    }
    if (!err) err = queue_range(f, m, shape->tail, shape->ntail, shape->from, fresh, shape->n - fresh, batch);
    dti_buf_done(&args);
    dti_arena_done(&m->mem);
    m->mem = opts;
    return err;
}

static dtask_err map(dtask_task *f, const dtask_b_call *call, int64_t from, uint64_t n, dtask_str tail, uint32_t ntail,
    dtask_child **out) {
    making m = {0};
    dtask_child *batch = NULL;
    dti_new first;
    dtask_err err = making_begin(f, call, &m);
    if (!err) err = no_key(&m);
    if (!err && n > UINT32_MAX) err = dti_fail(DTASK_ETOOBIG, "a batch has at most %u children", UINT32_MAX);
    if (!err && n && from > INT64_MAX - (int64_t)(n - 1)) err = dti_fail(DTASK_EARGS, "from + n is beyond the largest int64_t");
    if (!err) err = begin_match(f);
    // Whether such calls fit their type is said here, before one is stored.
    if (!err && n) err = dti_call_make(f->w->app, &m.mem, m.info, &m.opts, call->args, (dtask_str){0}, &first);
    if (!err && !(batch = new_child(f, true, n))) err = dti_fail(DTASK_ENOMEM, "no memory for a batch");
    if (!err && n) dti_joined_spec(batch, &first);
    if (!err && f->match) {
        dti_unsent shape = {.from = from, .n = n, .tail = tail, .ntail = ntail};
        err = match_range(f, call, &m, &shape, batch);
    } else if (!err) {
        err = queue_range(f, &m, tail, ntail, from, 0, n, batch);
    }
    dti_arena_done(&m.mem);
    if (batch && (err || !out)) drop_child(f, batch);
    if (!err && out) *out = batch;
    return err;
}

// ---- the calls ---------------------------------------------------------------------------------

// In the place of handles come their children; NULL where one is not this task's: `check_deps` says so.
static void take_handles(const dtask_task *f, dti_outputs *o) {
    for (uint32_t i = 0; i < o->ndeps; i++) o->deps[i] = dti_handle_child(f, o->deps[i]);
}

// Views of the deps as a call wants them.
static dtask_b_call call_of(const char *type, const char *const *opts, const dti_buf *args, const dti_outputs *o) {
    return (dtask_b_call){.type = type, .opts = opts, .args = dti_str(args->p, args->n), .deps = o->deps, .ndeps = o->ndeps};
}

dtask_err dtask_spawn(dtask_task *f, const char *type, const char *const *opts, dtask_child **out, const char *fmt, ...) {
    dti_buf args = {0};
    dti_outputs outputs = {0};
    dtask_err err = dti_task_check(f);
    if (err) return err;
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_encode(&args, true, &outputs, fmt, ap);
    va_end(ap);
    take_handles(f, &outputs);
    dtask_child *child = NULL;
    dtask_b_call call = call_of(type, opts, &args, &outputs);
    if (!err) err = dti_call_check_names(f->w->app, type, fmt, 0);
    if (!err && out) err = dti_handle_room(f);
    if (!err) err = dti_spawn(f, &call, out ? &child : NULL);
    if (!err && out) *out = dti_handle_of(f, child);
    dti_buf_done(&args);
    return err;
}

static dtask_err vmap(dtask_task *f, const char *type, const char *const *opts, dtask_child **out, int64_t from, uint64_t n,
    const char *fmt, va_list ap) {
    dti_buf args = {0};
    dtask_err err = dti_fmt_encode_from(&args, from, NULL, fmt, ap);
    if (!err) err = dti_call_check_names(f->w->app, type, fmt, 1);
    if (!err) {
        dti_mp at = dti_mp_of(dti_str(args.p, args.n));
        dti_mpval head;
        dti_outputs none = {0};
        dti_mp_next(&at, &head);
        dti_mp_skip(&at, NULL);
        dtask_b_call call = call_of(type, opts, &args, &none);
        err = map(f, &call, from, n, dti_str(at.p, (size_t)(at.end - at.p)), head.n - 1, out);
    }
    dti_buf_done(&args);
    return err;
}

dtask_err dtask_map(dtask_task *f, const char *type, const char *const *opts, dtask_child **out, int64_t from, uint64_t n,
    const char *fmt, ...) {
    dtask_err err = dti_task_check(f);
    if (err) return err;
    dtask_child *batch = NULL;
    if (out && (err = dti_handle_room(f))) return err;
    va_list ap;
    va_start(ap, fmt);
    err = vmap(f, type, opts, out ? &batch : NULL, from, n, fmt, ap);
    va_end(ap);
    if (!err && out) *out = dti_handle_of(f, batch);
    return err;
}

dtask_err dtask_b_map(dtask_task *f, const char *type, const char *const *opts, dtask_child **out, int64_t from, uint64_t n,
    const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    dtask_err err = vmap(f, type, opts, out, from, n, fmt, ap);
    va_end(ap);
    return err;
}

static dtask_err then(dtask_task *f, const dtask_b_call *call) {
    making m = {0};
    dti_unsent *u = NULL;
    dtask_err err = dti_frame_check(f);
    if (!err) err = check_deps(f, call);
    if (!err) err = dti_type_find(f->w->app, dti_strz(call->type), 0, &m.info);
    if (!err) err = dti_callopts_parse(&m.mem, call->opts, false, &m.opts);
    if (!err) err = make_one(f, call, &m, call->args, call->hashed, &u);
    dti_arena_done(&m.mem);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    for (uint32_t i = 0; i < u->call.ndeps; i++) u->deps[i]->refs++;
    if (f->become) dti_unsent_free(f->become);
    f->become = u;
    f->said = DTASK_OK;
    pthread_mutex_unlock(&f->w->lock);
    return DTASK_OK;
}

dtask_err dtask_then(dtask_task *f, const char *type, const char *const *opts, const char *fmt, ...) {
    dti_buf args = {0};
    dti_outputs outputs = {0};
    dtask_err err = dti_task_check(f);
    if (err) return err;
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_encode(&args, true, &outputs, fmt, ap);
    va_end(ap);
    take_handles(f, &outputs);
    dtask_b_call call = call_of(type, opts, &args, &outputs);
    if (!err) err = dti_call_check_names(f->w->app, type, fmt, 0);
    if (!err) err = then(f, &call);
    dti_buf_done(&args);
    return err;
}

static dtask_err check_args(const dtask_b_call *call) {
    return call->args.n ? dti_mp_check(call->args, "the arguments") : dti_fail(DTASK_EARGS, "no arguments: an empty array is one");
}

dtask_err dtask_b_spawn(dtask_task *f, const dtask_b_call *call, dtask_child **out) {
    dtask_err err = check_args(call);
    return err ? err : dti_spawn(f, call, out);
}

dtask_err dtask_b_then(dtask_task *f, const dtask_b_call *call) {
    dtask_err err = check_args(call);
    return err ? err : then(f, call);
}

dtask_err dtask_b_spawn_many(dtask_task *f, const dtask_b_call *common, const dtask_str *args, size_t n, dtask_child **out) {
    dtask_err err = DTASK_OK;
    for (size_t i = 0; i < n && !err; i++) err = dti_mp_check(args[i], "the arguments");
    return err ? err : dti_spawn_many(f, common, args, n, out);
}

// ---- waiting for a turn ---------------------------------------------------------------------------

dtask_err dti_sync(dtask_task *f, dtask_child *c, uint64_t item) {
    dtask_worker *w = f->w;
    dtask_err err = DTASK_OK;
    pthread_mutex_lock(&w->lock);
    int64_t until = dti_mono_us() + w->app->conf.engine_timeout_us;
    uint32_t ord;
    if (!c->sent && f->unsent) dti_out_add(f, true);
    while (!err && !c->sent && !c->unmade && !(c->batch && dti_batch_ord(c, item, &ord))) {
        if (f->lost || f->given_up || w->ended) err = dti_fail(DTASK_ELOST, "this attempt is over: return");
        else if (!wait_moved(w, until))
            err = dti_fail(DTASK_EENGINE, "the engine did not store a child within %.3g s",
                (double)w->app->conf.engine_timeout_us / 1e6);
    }
    pthread_mutex_unlock(&w->lock);
    return err ? err : dti_frame_broken(f);
}
