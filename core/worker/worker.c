// A worker from new to free: what it serves, its incarnations, its end.
#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

// ---- life ---------------------------------------------------------------------

void dti_worker_hold(dtask_worker *w) {
    atomic_fetch_add(&w->refs, 1);
}

static void links_free(dtask_worker *w) {
    for (unsigned i = 0; i < w->nlinks; i++) {
        dti_link *l = &w->links[i];
        if (l->ring_fd >= 0) close(l->ring_fd);
        free(l->unread.v);
        free(l->of);
    }
    free(w->links);
}

static dtask_err links_new(dtask_worker *w, unsigned n) {
    w->links = calloc(n, sizeof *w->links);
    if (!w->links) return dti_fail(DTASK_ENOMEM, "no memory for a worker");
    for (w->nlinks = 0; w->nlinks < n; w->nlinks++) {
        dti_link *l = &w->links[w->nlinks];
        *l = (dti_link){.w = w, .shard = w->nlinks, .ring_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
        if (l->ring_fd < 0) return dti_fail(DTASK_ENOMEM, "no descriptor for a worker: %s", strerror(errno));
    }
    return DTASK_OK;
}

void dti_worker_gone(dtask_worker *w) {
    for (dtask_task *f = w->all, *next; f; f = next) { // of seats that were never left
        next = f->after;
        f->lost = true;
        f->live = f->flying = false;
        f->seat = NULL;
        dti_frame_rest(f);
    }
    free(w->table);
    for (size_t i = 0; i < w->nhandlers; i++) {
        dti_handler *h = w->handlers[i];
        free(h->name);
        free(h->signature);
        free(h->options);
        if (h->owns_arg) free(h->arg);
        free(h);
    }
    free(w->handlers);
    free(w->served);
    free(w->callbacks);
    dti_arena_done(&w->infos);
    dti_buf_done(&w->tags);
    dti_fibers_free(w);
    links_free(w);
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->making);
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->moved);
    dti_app_drop(w->app);
    free(w);
}

void dti_worker_drop(dtask_worker *w) {
    if (atomic_fetch_sub(&w->refs, 1) == 1) dti_worker_gone(w);
}

bool dti_worker_forked(const dtask_worker *w) {
    return w->app->fork_gen != dti_forks();
}

void dti_worker_fail(dtask_worker *w, dtask_err err, const char *text) {
    if (w->why) return;
    w->why = err;
    snprintf(w->why_text, sizeof w->why_text, "%s", text);
    atomic_fetch_add(&w->stops, 2);
    w->say_end = true;
    for (unsigned i = 0; i < w->nlinks; i++) dti_io_ring(&w->links[i]);
}

void dti_worker_say(dtask_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool end = w->say_end, drains = w->say_drains;
    dti_line *lines = w->lines;
    w->say_end = w->say_drains = false;
    w->lines = NULL;
    pthread_mutex_unlock(&w->lock);
    dti_lines_log(w->app, lines);
    if (end) dti_app_log(w->app, LOG_ERR, NULL, "the worker ends: %s: %s", dtask_err_name(w->why), w->why_text);
    if (drains)
        dti_app_log(w->app, LOG_INFO, NULL, "the worker drains: it begins nothing more; handlers that run: %u, for at most %d ms",
            w->drains_with, w->grace_ms);
}

dtask_err dti_worker_check(const dtask_worker *w) {
    return w ? dti_app_check(w->app) : dti_fail(DTASK_EUSAGE, "The worker is NULL: make it with dtask_worker_new.");
}

dtask_err dtask_worker_new(dtask_app *app, const char *const *opts, dtask_worker **out) {
    dtask_err err = dti_app_check(app);
    if (err) return err;
    if (!out) return dti_fail(DTASK_EARGS, "dtask_worker_new needs a place for the worker.");
    dtask_worker *w = calloc(1, sizeof *w);
    if (!w) return dti_fail(DTASK_ENOMEM, "no memory for a worker");
    w->conf = app->conf;
    memcpy(w->source, app->source, sizeof w->source);
    err = dti_conf_worker(&w->conf, w->source, opts);
    if (!err) err = links_new(w, app->engine->shards);
    if (err) {
        links_free(w);
        free(w);
        return err;
    }
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutexattr_t again;
    pthread_mutexattr_init(&again);
    pthread_mutexattr_settype(&again, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&w->making, &again);
    pthread_mutexattr_destroy(&again);
    pthread_cond_init(&w->work, NULL);
    pthread_cond_init(&w->moved, &attr);
    pthread_condattr_destroy(&attr);
    w->refs = 1;
    w->app = app;
    w->engine = app->engine;
    dti_app_hold(app);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    w->slots = w->conf.slots ? w->conf.slots : processors > 0 ? (unsigned)processors : 1;
    err = dti_system_add(w);
    if (err) dti_worker_drop(w);
    else *out = w;
    return err;
}

// Types that every worker serves.
static bool of_library(const char *type) {
    return !strncmp(type, "dynatask.", 9);
}

// ---- what it serves ---------------------------------------------------------------

static dti_handler *handler_find(dtask_worker *w, const char *name) {
    for (size_t i = 0; i < w->nhandlers; i++)
        if (!strcmp(w->handlers[i]->name, name)) return w->handlers[i];
    return NULL;
}

static char *copy(const char *p, size_t n) {
    char *to = malloc(n + 1);
    if (!to) return NULL;
    if (n) memcpy(to, p, n);
    to[n] = 0;
    return to;
}

// It said something before and is there already: a root type of callbacks.
static dtask_err handler_fill(dti_handler *h, const dtask_b_type *type, const dti_hello_type *published) {
    char *signature = type->signature ? copy(published->signature.p, published->signature.n) : NULL;
    char *options = copy(published->options.p, published->options.n);
    if (!options || (type->signature && !signature)) {
        free(signature);
        free(options);
        return dti_fail(DTASK_ENOMEM, "no memory for a handler");
    }
    free(h->signature);
    free(h->options);
    h->signature = signature;
    h->options = options;
    h->options_n = published->options.n;
    h->version = published->version;
    h->crashes = published->crashes;
    int64_t min = 1;
    dti_mp_int(dti_mp_get(published->options, "min_version"), &min);
    h->min_version = type->min_version > 1 ? type->min_version : (uint32_t)min;
    return DTASK_OK;
}

static dtask_err handler_add(dtask_worker *w, const dtask_b_type *type, dti_poolkind pool, dtask_fn *fn, void *arg, dti_handler **out) {
    dtask_err err;
    if (w->started) return dti_fail(DTASK_EUSAGE, "handlers are added before the worker starts");
    dti_handler *h = handler_find(w, type->name);
    if (h && !h->absent) return dti_fail(DTASK_ECONFLICT, "the type %s has a handler in this worker already", type->name);
    dti_arena mem = {0};
    dti_hello_type published;
    err = dti_type_publish(w->app, &mem, type, &published);
    if (!err && !h) {
        h = calloc(1, sizeof *h);
        if (h) h->name = copy(type->name, strlen(type->name));
        if (!h || !h->name || !dti_grow(&w->handlers, w->nhandlers, &w->chandlers, sizeof *w->handlers)) {
            if (h) free(h->name);
            free(h);
            err = dti_fail(DTASK_ENOMEM, "no memory for a handler");
        } else {
            h->index = (uint32_t)w->nhandlers;
            h->absent = true;
            h->mean_us = -1;
            w->handlers[w->nhandlers++] = h;
        }
    }
    if (!err) err = handler_fill(h, type, &published);
    dti_arena_done(&mem);
    if (err) return err;
    h->absent = false;
    h->pool = pool;
    h->fn = fn;
    h->arg = arg;
    h->off = *w->conf.types && !of_library(h->name) && !dti_types_name(w->conf.types, h->name);
    if (out) *out = h;
    return DTASK_OK;
}

dtask_err dti_handler_add(dtask_worker *w, const dtask_b_type *type, dti_poolkind pool, dtask_fn *fn, void *arg, dti_handler **out) {
    dtask_err err = dti_worker_check(w);
    if (err) return err;
    pthread_mutex_lock(&w->making);
    err = handler_add(w, type, pool, fn, arg, out);
    pthread_mutex_unlock(&w->making);
    return err;
}

int dtask_b_serves(dtask_worker *w, const char *type) {
    pthread_mutex_lock(&w->making);
    const dti_handler *h = handler_find(w, type);
    bool serves = h && !h->off && !h->absent;
    pthread_mutex_unlock(&w->making);
    return serves;
}

dtask_err dti_handler_name_check(const char *type) {
    return of_library(type) ? dti_fail(DTASK_EARGS, "types whose name begins with dynatask. are the library's") : DTASK_OK;
}

dtask_err dtask_worker_add(dtask_worker *w, const char *type, const char *signature, dtask_fn *fn, void *arg) {
    dtask_err err = dti_worker_check(w);
    if (!err && (!type || !fn)) err = dti_fail(DTASK_EARGS, "a handler needs a type's name and a function");
    if (!err) err = dti_handler_name_check(type);
    if (err) return err;
    dtask_b_type t = {.name = type, .signature = signature};
    // What is not said about a C type is that it is C.
    static const char lang[] = "\x81\xa8language\xa1" "c";
    if (!signature) t.options = dti_str(lang, sizeof lang - 1);
    return dti_handler_add(w, &t, DTI_POOL_C, fn, arg, NULL);
}

dtask_err dtask_b_handle(dtask_worker *w, const dtask_b_type *type, int seat, uint32_t *out_index) {
    if (seat != DTASK_B_THREAD && seat != DTASK_B_LOOP) return dti_fail(DTASK_EARGS, "a seat is of kind THREAD or LOOP");
    dti_handler *h;
    dtask_err err = dti_handler_add(w, type, seat == DTASK_B_LOOP ? DTI_POOL_LOOP : DTI_POOL_THREAD, NULL, NULL, &h);
    if (!err) *out_index = h->index;
    return err;
}

dtask_err dtask_b_among(dtask_worker *w, const char *const *has, size_t n) {
    if (w->started) return dti_fail(DTASK_EUSAGE, "what the option types may name is said before a worker starts");
    dtask_err err = dti_types_check(w->conf.types, has, n);
    if (!err) w->among = true;
    return err;
}

dtask_err dtask_b_only(dtask_worker *w, dtask_job *job) {
    dtask_err err = dti_app_check(w->app);
    if (err) return err;
    if (w->started) return dti_fail(DTASK_EUSAGE, "what a worker claims is said before it starts");
    dti_arena mem = {0};
    dtask_str id;
    uint32_t ord;
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB}};
    if (dti_id_split(dti_strz(dtask_b_job_id(job)), &id, &ord)) op.read.id = id;
    err = dti_engine_call(w->engine, &mem, &op);
    if (!err && !op.read.n) err = dti_fail(DTASK_ENOTFOUND, "There is no job %.*s: it never was, or was removed after its retention.", (int)id.n, id.p);
    if (!err) w->only = op.read.jobs[0].no;
    dti_arena_done(&mem);
    return err;
}

// ---- callbacks ------------------------------------------------------------------------

// A root type that callbacks name; whoever serves it says more.
static dtask_err subject_of(dtask_worker *w, const char *name, uint32_t *out) {
    dti_handler *h = handler_find(w, name);
    if (!h) {
        dtask_b_type t = {.name = name, .version = 1};
        dtask_err err = dti_handler_add(w, &t, DTI_POOL_C, NULL, NULL, &h);
        if (err) return err;
        h->absent = true;
    }
    *out = h->index;
    return DTASK_OK;
}

static dtask_err callback_add(dtask_worker *w, uint32_t listener, uint32_t subject) {
    if (!dti_grow(&w->callbacks, w->ncallbacks, &w->ccallbacks, sizeof *w->callbacks))
        return dti_fail(DTASK_ENOMEM, "no memory for a callback");
    w->callbacks[w->ncallbacks++] = (dti_callback){listener, subject};
    return DTASK_OK;
}

static dtask_err on_complete(dtask_worker *w, uint32_t index, const char *const *roots, size_t n) {
    dtask_err err = DTASK_OK;
    if (w->started) return dti_fail(DTASK_EUSAGE, "callbacks are added before the worker starts");
    if (index >= w->nhandlers) return dti_fail(DTASK_EARGS, "there is no handler %u", index);
    if (!n) return callback_add(w, index, UINT32_MAX);
    for (size_t i = 0; i < n && !err; i++) {
        uint32_t subject;
        err = subject_of(w, roots[i], &subject);
        if (!err) err = callback_add(w, index, subject);
    }
    return err;
}

dtask_err dtask_b_on_complete(dtask_worker *w, uint32_t index, const char *const *roots, size_t n) {
    dtask_err err = dti_app_check(w->app);
    if (err) return err;
    pthread_mutex_lock(&w->making);
    err = on_complete(w, index, roots, n);
    pthread_mutex_unlock(&w->making);
    return err;
}

typedef struct { dtask_job_fn *fn; void *arg; dtask_worker *w; } job_callback;

// Its one argument is the job's handle.
static dtask_err run_callback(dtask_task *f, void *arg) {
    job_callback *c = arg;
    dti_mp at = dti_mp_of(f->args);
    dti_mpval head, handle;
    if (!dti_mp_next(&at, &head) || !dti_mp_next(&at, &handle) || handle.kind != DTI_MP_EXT || handle.s.n < 2)
        return dti_fail(DTASK_EFATAL, "a callback's argument is the job's handle");
    char *id = strndup(handle.s.p + 1, handle.s.n - 1);
    if (!id) return dti_fail(DTASK_ENOMEM, "no memory for a job's id");
    dtask_job *job;
    dtask_err err = dtask_job_find(f->w->app, id, &job);
    free(id);
    if (err) return err;
    c->fn(job, c->arg);
    dtask_job_free(job);
    return DTASK_OK;
}

dtask_err dtask_worker_on_complete(dtask_worker *w, const char *root_type, dtask_job_fn *fn, void *arg) {
    dtask_err err = dti_worker_check(w);
    if (!err && !fn) err = dti_fail(DTASK_EARGS, "a callback needs a function");
    if (err) return err;
    char name[256];
    snprintf(name, sizeof name, "%s.on_complete", root_type ? root_type : "any");
    job_callback *c = malloc(sizeof *c);
    if (!c) return dti_fail(DTASK_ENOMEM, "no memory for a callback");
    *c = (job_callback){fn, arg, w};
    dti_handler *h = NULL;
    dtask_b_type t = {.name = name, .version = 1};
    pthread_mutex_lock(&w->making); // no start between the two
    err = dti_handler_add(w, &t, DTI_POOL_C, run_callback, c, &h);
    if (err) free(c);
    else h->owns_arg = true;
    if (!err) err = dtask_b_on_complete(w, h->index, root_type ? &root_type : NULL, root_type ? 1 : 0);
    pthread_mutex_unlock(&w->making);
    return err;
}

// ---- an incarnation ------------------------------------------------------------------------

dti_handler *dti_handler_of(dtask_worker *w, uint32_t no) {
    size_t low = 0, high = w->nserved;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (w->served[mid].no < no) low = mid + 1;
        else high = mid;
    }
    return low < w->nserved && w->served[low].no == no ? w->handlers[w->served[low].handler] : NULL;
}

static int by_no(const void *a, const void *b) {
    const dti_served *x = a, *y = b;
    return x->no < y->no ? -1 : x->no > y->no;
}

typedef struct { dti_served *v; size_t n, cap; } served;

static dtask_err serve(served *s, uint32_t no, uint32_t handler) {
    if (!dti_grow(&s->v, s->n, &s->cap, sizeof *s->v)) return dti_fail(DTASK_ENOMEM, "no memory for a worker");
    s->v[s->n++] = (dti_served){no, handler};
    return DTASK_OK;
}

// Older versions that it still runs, as far as they are known.
static dtask_err serve_older(dtask_worker *w, dti_handler *h, served *s) {
    dti_arena mem = {0};
    dtask_err err = DTASK_OK;
    for (uint32_t v = h->min_version; v && v < h->version && !err; v++) {
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPE, .id = dti_strz(h->name), .version = v}};
        err = dti_engine_call(w->engine, &mem, &op);
        if (!err && op.read.n) err = serve(s, op.read.types[0].row.no, h->index);
    }
    dti_arena_done(&mem);
    return err;
}

// What hello answered becomes what is served. A type's number is another one
// only in a store that has lost it; handlers of the life before may still run
// and look at its info, which stays.
static dtask_err take_types(dtask_worker *w, const dti_hello_type *types, const uint32_t *handlers, uint32_t n) {
    bool known = w->nserved > 0, told = false;
    for (uint32_t i = 0; i < n; i++) {
        const dti_typeinfo *info = w->handlers[handlers[i]]->info;
        known &= info && info->no == types[i].no;
        told |= info && info->no != types[i].no;
    }
    if (known) return DTASK_OK;
    if (told && w->nlinks > 1)   // the other shards have the old one
        return dti_fail(DTASK_EENGINE, "a shard has lost its last writes, and gives its types other numbers: start the worker anew");
    served s = {0};
    dtask_err err = DTASK_OK;
    for (uint32_t i = 0; i < n && !err; i++) {
        dti_handler *h = w->handlers[handlers[i]];
        dti_typeinfo *info;
        err = dti_type_parse(&w->infos, types[i].no, types[i].version, types[i].name, types[i].signature, types[i].options, &info);
        if (err) break;
        h->info = info;
        h->ahead = info->crashes > 0;
        for (uint32_t k = 0; k < info->nkeys; k++) h->ahead &= info->keys[k].spec.kind != DTI_KEY_LIMIT;
        if (types[i].named) continue;
        err = serve(&s, types[i].no, h->index);
        if (!err) err = serve_older(w, h, &s);
    }
    qsort(s.v, s.n, sizeof *s.v, by_no);
    pthread_mutex_lock(&w->lock);
    free(w->served);
    w->served = s.v;
    w->nserved = err ? 0 : s.n;
    pthread_mutex_unlock(&w->lock);
    return err;
}

static void make_name(char name[64]) {
    char host[24] = "", id[27];
    gethostname(host, sizeof host - 1);
    dti_random_id(id);
    snprintf(name, 64, "%s:%ld:%.12s", host, (long)getpid(), id + 14);
}

static bool of_callback(const dtask_worker *w, uint32_t handler) {
    for (size_t i = 0; i < w->ncallbacks; i++)
        if (w->callbacks[i].listener == handler || w->callbacks[i].subject == handler) return true;
    return false;
}

// What it serves; and what it only names, for others serve it: callbacks, so
// that they wait for one of those, and their root types.
static uint32_t hello_types(dtask_worker *w, dti_hello_type *types, uint32_t *handlers, uint32_t *places) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->nhandlers; i++) {
        const dti_handler *h = w->handlers[i];
        bool named = h->off || h->absent;
        if (named && !of_callback(w, i)) continue;
        places[i] = n;
        handlers[n] = i;
        dti_hello_type *t = &types[n++];
        *t = (dti_hello_type){.name = dti_strz(h->name), .version = h->version, .crashes = h->crashes, .named = named};
        if (named) continue;
        t->signature = dti_strz(h->signature);
        t->options = dti_str(h->options, h->options_n);
    }
    return n;
}

dtask_err dti_link_hello(dti_link *l) {
    dtask_worker *w = l->w;
    dti_arena mem = {0};
    size_t n = w->nhandlers;
    dti_hello_type *types = dti_alloc(&mem, n * sizeof *types);
    uint32_t *handlers = dti_alloc(&mem, n * sizeof *handlers), *places = dti_alloc0(&mem, n * sizeof *places);
    dti_listen *listens = dti_alloc(&mem, (w->ncallbacks + 1) * sizeof *listens);
    char name[64];
    if (l->no) make_name(name);
    else memcpy(name, w->name, sizeof name);
    dtask_err err = types && handlers && places && listens ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory for a worker");
    uint32_t ntypes = err ? 0 : hello_types(w, types, handlers, places), nlistens = 0;
    for (size_t i = 0; !err && i < w->ncallbacks; i++) {
        const dti_callback *c = &w->callbacks[i];
        listens[nlistens++] = (dti_listen){.listener = places[c->listener],
            .subject = c->subject == UINT32_MAX ? UINT32_MAX : places[c->subject], .kind = DTI_L_CALLBACK, .states = UINT16_MAX};
    }
    int64_t now = dti_mono_us();
    dti_op ops[2] = {{.kind = DTI_OP_HELLO, .shard = (uint8_t)l->shard, .hello = {.name = dti_strz(name), .was = dti_strz(l->name), .lease_us = w->conf.lease_us, .types = types, .ntypes = ntypes, .listens = listens,
        .nlistens = nlistens}}, {.kind = DTI_OP_ERA, .shard = (uint8_t)l->shard}};
    // A type that says the same in another spelling takes the registered one.
    for (bool refused = true; refused && !err;) {
        err = dti_engine_call(w->engine, &mem, &ops[0]);
        refused = false;
        for (uint32_t i = 0; i < ntypes && !err; i++) {
            err = dti_type_agrees(&mem, &types[i]);
            if (!types[i].refused) continue;
            refused = true;
            types[i].signature = types[i].registered;
        }
    }
    if (!err) err = dti_engine_call(w->engine, &mem, &ops[1]);
    dti_bell *bell = NULL;
    if (!err) err = w->engine->ops->bell_open(w->engine, ops[0].hello.worker, &bell);
    if (!err) {
        pthread_mutex_lock(&w->lock);
        dti_bell *old = l->bell;
        l->bell = bell;
        l->bell_slots = 0;
        // What the life before left running must not clear a place of this one.
        for (dtask_task *f = w->all; f; f = f->after)
            if (f->link == l) f->bell_slot = 0;
        memcpy(l->name, name, sizeof name);
        l->no = ops[0].hello.worker;
        l->era = ops[1].era.era;
        l->count = l->got = 0;
        l->alive_at = now;
        w->tags_of = 0;          // a store that began anew gives a job's number again
        pthread_mutex_unlock(&w->lock);
        if (old) w->engine->ops->bell_close(old);
        err = take_types(w, types, handlers, ntypes);
        if (!err) err = dti_types_told(w->app, types, ntypes);
    }
    dti_arena_done(&mem);
    return err;
}

// ---- start, run, stop, free -------------------------------------------------------------------

// What the option `types` names is there.
static dtask_err check_types(dtask_worker *w) {
    if (w->among) return DTASK_OK; // checked for all of them together
    const char **has = calloc(w->nhandlers + 1, sizeof *has);
    if (!has) return dti_fail(DTASK_ENOMEM, "no memory for a worker");
    size_t n = 0;
    for (size_t i = 0; i < w->nhandlers; i++)
        if (!w->handlers[i]->absent && !of_library(w->handlers[i]->name)) has[n++] = w->handlers[i]->name;
    dtask_err err = dti_types_check(w->conf.types, has, n);
    free(has);
    return err;
}

// Says hello in each shard in turn, the first one deciding what its types'
// signatures are. One that claims of a single job needs that job's shard alone.
static dtask_err links_begin(dtask_worker *w) {
    dtask_err err = DTASK_OK;
    make_name(w->name);
    for (unsigned i = 0; i < w->nlinks && !err; i++) {
        dti_link *l = &w->links[i];
        if (w->only && dti_shard_of(w->only) != i) continue;
        l->of = calloc(w->nhandlers + 1, sizeof *l->of);
        err = l->of ? dti_link_hello(l) : dti_fail(DTASK_ENOMEM, "no memory for a worker");
    }
    return err;
}

static void bells_close(dtask_worker *w) {
    for (unsigned i = 0; i < w->nlinks; i++) {
        dti_link *l = &w->links[i];
        if (l->bell) w->engine->ops->bell_close(l->bell);
        l->bell = NULL;
        free(l->of);
        l->of = NULL;
    }
}

// Waits until its threads have left; a handler that is stuck keeps its
// thread, and what it may yet touch.
static void join(dtask_worker *w) {
    pthread_mutex_lock(&w->lock);
    while (!w->ended || w->nthreads > w->running[DTI_POOL_C]) pthread_cond_wait(&w->moved, &w->lock);
    bool mine = !w->joined;
    w->joined = true;
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; mine && i < w->nlinks; i++)
        if (w->links[i].running) pthread_join(w->links[i].io, NULL);
}

static dtask_err start(dtask_worker *w) {
    dtask_err err;
    if (w->started) return dti_fail(DTASK_EUSAGE, "the worker has started already");
    err = check_types(w);
    if (!err) err = links_begin(w);
    if (err) {
        bells_close(w);
        return err;
    }
    // The I/O thread takes no signals; handlers' threads take what their
    // starter takes, and so do the programs that they start.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &w->signals);
    w->started = true;
    int failed = 0;
    pthread_mutex_lock(&w->lock); // none of them looks before all are there
    for (unsigned i = 0; i < w->nlinks && !failed; i++) {
        dti_link *l = &w->links[i];
        if (!l->bell) continue;
        dti_worker_hold(w);
        failed = pthread_create(&l->io, NULL, dti_io_main, l);
        if (failed) dti_worker_drop(w);
        else l->running = true, w->nlive++;
    }
    bool none = !w->nlive;
    if (none) w->started = false;
    pthread_mutex_unlock(&w->lock);
    pthread_sigmask(SIG_SETMASK, &w->signals, NULL);
    if (!failed) return DTASK_OK;
    if (!none) {
        dtask_worker_stop(w, 0);
        dtask_worker_stop(w, 0);
        join(w);
    }
    bells_close(w);
    return dti_fail(DTASK_ENOMEM, "no thread can be made for the worker: %s", strerror(failed));
}

dtask_err dtask_worker_start(dtask_worker *w) {
    dtask_err err = dti_worker_check(w);
    if (err) return err;
    pthread_mutex_lock(&w->making);
    err = start(w);
    pthread_mutex_unlock(&w->making);
    return err;
}

dtask_err dtask_worker_run(dtask_worker *w) {
    const dtask_task *f = dti_pool_runs();
    if (w && f && f->w == w) return dti_fail(DTASK_EDEADLOCK, "A handler cannot wait for the end of the worker that runs it: call dtask_worker_stop.");
    dtask_err err = dti_worker_check(w);
    if (err) return err;
    pthread_mutex_lock(&w->making);
    if (!w->started) err = start(w);
    pthread_mutex_unlock(&w->making);
    if (err) return err;
    join(w);
    return w->why ? dti_fail(w->why, "%s", w->why_text) : DTASK_OK;
}

void dtask_worker_stop(dtask_worker *w, int grace_ms) {
    if (!w) return;
    int saved = errno;
    if (!atomic_load(&w->stops)) {
        int64_t grace = grace_ms < 0 ? w->conf.grace_us / 1000 : grace_ms;
        atomic_store(&w->grace_ms, grace > INT32_MAX ? INT32_MAX : (int)grace);
    }
    atomic_fetch_add(&w->stops, 1);
    for (unsigned i = 0; i < w->nlinks; i++) {
        uint64_t one = 1;
        ssize_t n = write(w->links[i].ring_fd, &one, sizeof one);
        (void)n;
    }
    errno = saved;
}

void dtask_worker_free(dtask_worker *w) {
    if (!w) return;
    if (dti_worker_forked(w)) return;
    if (w->started) {
        pthread_mutex_lock(&w->lock);
        bool ended = w->ended;
        pthread_mutex_unlock(&w->lock);
        for (int i = 0; !ended && i < 2; i++) dtask_worker_stop(w, 0);
        join(w);
    }
    dti_worker_drop(w);
}
