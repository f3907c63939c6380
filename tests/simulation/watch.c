#include "watch.h"

#include <stdlib.h>
#include <string.h>

#include "engines/memory_store.h"

static uint64_t key_hash(dti_table t, dti_key k) {
    uint64_t h = (k.a * 0x9e3779b97f4a7c15u) ^ (k.b * 0xc2b2ae3d27d4eb4fu) ^ (k.c * 0x165667b19e3779f9u) ^ ((uint64_t)t << 56);
    return (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
}

static void grow_slots(watch *w) {
    free(w->slots);
    free(w->stamps);
    w->nslots = w->nslots ? w->nslots * 2 : 4096;
    w->slots = malloc(w->nslots * sizeof *w->slots);
    w->stamps = calloc(w->nslots, sizeof *w->stamps);
    w->stamp = 1;
    for (size_t i = 0; i < w->nrows; i++) {
        size_t at = (key_hash(w->rows[i].t, w->rows[i].k) >> 20) & (w->nslots - 1);
        while (w->stamps[at] == w->stamp)
            at = (at + 1) & (w->nslots - 1);
        w->slots[at] = (uint32_t)i;
        w->stamps[at] = w->stamp;
    }
}

// The first touch of a row in a transaction keeps its bytes.
static void touch(watch *w, dti_table t, dti_key k) {
    if (w->nrows * 2 >= w->nslots)
        grow_slots(w);
    size_t at = (key_hash(t, k) >> 20) & (w->nslots - 1);
    for (; w->stamps[at] == w->stamp; at = (at + 1) & (w->nslots - 1)) {
        const watch_row *r = &w->rows[w->slots[at]];
        if (r->t == t && r->k.a == k.a && r->k.b == k.b && r->k.c == k.c)
            return;
    }
    w->slots[at] = (uint32_t)w->nrows;
    w->stamps[at] = w->stamp;
    if (w->nrows == w->crows)
        w->rows = realloc(w->rows, (w->crows = w->crows ? w->crows * 2 : 256) * sizeof *w->rows);
    watch_row *r = &w->rows[w->nrows++];
    *r = (watch_row){.t = t, .k = k};
    const void *p = w->in->ops->get(w->in, t, k, &r->old_n);
    if (p) {
        void *copy = dti_alloc(&w->scratch, r->old_n + 1);
        memcpy(copy, p, r->old_n);
        r->old = copy;
    }
}

static const void *w_get(dti_store *s, dti_table t, dti_key k, size_t *n) {
    watch *w = (watch *)s;
    return w->in->ops->get(w->in, t, k, n);
}
static void *w_mut(dti_store *s, dti_table t, dti_key k) {
    watch *w = (watch *)s;
    touch(w, t, k);
    return w->in->ops->mut(w->in, t, k);
}
static void *w_put(dti_store *s, dti_table t, dti_key k, const void *p, size_t n) {
    watch *w = (watch *)s;
    touch(w, t, k);
    return w->in->ops->put(w->in, t, k, p, n);
}
static void w_del(dti_store *s, dti_table t, dti_key k) {
    watch *w = (watch *)s;
    touch(w, t, k);
    w->in->ops->del(w->in, t, k);
}
static bool w_seek(dti_store *s, dti_table t, int prefix, dti_key *k, const void **p, size_t *n) {
    watch *w = (watch *)s;
    return w->in->ops->seek(w->in, t, prefix, k, p, n);
}

static const dti_store_ops watch_ops = {w_get, w_mut, w_put, w_del, w_seek};

void watch_open(watch *w) {
    *w = (watch){.base.ops = &watch_ops};
}

void watch_close(watch *w) {
    if (w->in)
        dti_memory_store_free(w->in);
    free(w->rows);
    free(w->slots);
    free(w->stamps);
    free(w->undo);
    dti_arena_done(&w->scratch);
    dti_arena_done(&w->undo_bytes);
}

void watch_reset(watch *w) {
    if (w->in)
        dti_memory_store_free(w->in);
    w->in = dti_memory_store_new();
    w->nrows = w->nundo = 0;
    w->snapping = false;
}

void watch_begin(watch *w) {
    w->nrows = 0;
    dti_arena_reset(&w->scratch);
    if (++w->stamp == 0) {
        memset(w->stamps, 0, w->nslots * sizeof *w->stamps);
        w->stamp = 1;
    }
    dti_memory_store_begin(w->in);
}

size_t watch_diff(watch *w) {
    size_t kept = 0;
    for (size_t i = 0; i < w->nrows; i++) {
        watch_row r = w->rows[i];
        r.now = w->in->ops->get(w->in, r.t, r.k, &r.now_n);
        if (!r.now && !r.old)
            continue;
        if (r.now && r.old && r.now_n == r.old_n && !memcmp(r.now, r.old, r.now_n))
            continue;
        w->rows[kept++] = r;
    }
    return w->nrows = kept;
}

void watch_commit(watch *w) {
    if (w->snapping) {
        for (size_t i = 0; i < w->nrows; i++) {
            if (w->nundo == w->cundo)
                w->undo = realloc(w->undo, (w->cundo = w->cundo ? w->cundo * 2 : 1024) * sizeof *w->undo);
            watch_row r = w->rows[i];
            if (r.old) {
                void *copy = dti_alloc(&w->undo_bytes, r.old_n + 1);
                memcpy(copy, r.old, r.old_n);
                r.old = copy;
            }
            w->undo[w->nundo++] = r;
        }
    }
    dti_memory_store_commit(w->in);
}

void watch_rollback(watch *w) {
    w->nrows = 0;
    dti_memory_store_rollback(w->in);
}

void watch_snapshot(watch *w) {
    w->snapping = true;
    w->nundo = 0;
    dti_arena_reset(&w->undo_bytes);
}

void watch_restore(watch *w) {
    dti_memory_store_begin(w->in);
    for (size_t i = w->nundo; i-- > 0;) {
        const watch_row *r = &w->undo[i];
        if (r->old)
            w->in->ops->put(w->in, r->t, r->k, r->old, r->old_n);
        else
            w->in->ops->del(w->in, r->t, r->k);
    }
    dti_memory_store_commit(w->in);
    w->snapping = false;
    w->nundo = 0;
}
