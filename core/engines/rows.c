// Rows in memory: see rows.h.
#include "engines/rows.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS_MIN = 1024 };

_Noreturn void dti_raise(dti_store *s, dtask_err err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    s->trap_err = dti_vfail(err, fmt, ap);
    va_end(ap);
    longjmp(*s->trap, 1);
}

_Noreturn void dti_rows_raise(dti_rows *s, dtask_err err) {
    s->store.trap_err = err;
    longjmp(*s->store.trap, 1);
}

static _Noreturn void no_memory(dti_rows *s) {
    dti_raise(&s->store, DTASK_ENOMEM, "out of memory: give the process more, or run fewer tasks at a time");
}

// ---- entries ----------------------------------------------------------------

static int compare(const dti_row *x, const dti_row *y) {
    if (x->key.a != y->key.a) return x->key.a < y->key.a ? -1 : 1;
    if (x->key.b != y->key.b) return x->key.b < y->key.b ? -1 : 1;
    return x->key.c == y->key.c ? 0 : x->key.c < y->key.c ? -1 : 1;
}
RB_GENERATE_INTERNAL(dti_tree, dti_row, link.tree, compare, __attribute__((unused)) static)

static inline bool ordered(dti_table t) {
    return t >= DTI_T_ORDERED;
}

static inline struct dti_tree *tree_of(dti_rows *s, dti_table t) {
    return &s->trees[t - DTI_T_ORDERED];
}

static inline size_t head_size(dti_table t) { // of an entry, before its inline value
    return ordered(t) ? sizeof(dti_row) : (offsetof(dti_row, link) + sizeof(dti_row *));
}

static inline unsigned char *inline_of(dti_row *r) {
    return (unsigned char *)r + head_size(r->table);
}

static inline size_t slot(const dti_rows *s, dti_table t, dti_key k) {
    // Tasks of a job lie side by side, as they are met: eight to a cache line of buckets.
    uint64_t h = k.a * 0x9e3779b97f4a7c15u ^ ((k.b >> 3) + ((uint64_t)t << 40)) * 0xc2b2ae3d27d4eb4fu ^ (k.c + 1) * 0x165667b19e3779f9u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    return ((h ^ h >> 32) ^ (k.b & 7)) & (s->nbuckets - 1);
}

static dti_row *find(dti_rows *s, dti_table t, dti_key k) {
    if (ordered(t)) {
        dti_row probe = {.key = k};
        return RB_FIND(dti_tree, tree_of(s, t), &probe);
    }
    dti_row *r = s->buckets[slot(s, t, k)];
    while (r && (!dti_key_eq(r->key, k) || r->table != t)) r = r->link.next;
    return r;
}

static void grow(dti_rows *s) {
    size_t was = s->nbuckets;
    dti_row **old = s->buckets, **more = calloc(was * 2, sizeof *more);
    if (!more) return; // longer chains, still right
    s->buckets = more;
    s->nbuckets = was * 2;
    for (size_t i = 0; i < was; i++) {
        for (dti_row *r = old[i], *next; r; r = next) {
            next = r->link.next;
            dti_row **b = &s->buckets[slot(s, r->table, r->key)];
            r->link.next = *b;
            *b = r;
        }
    }
    free(old);
}

// A new entry, not HERE, with room for n bytes. NULL: no memory.
static dti_row *make(dti_rows *s, dti_table t, dti_key k, size_t n) {
    size_t head = head_size(t), room = head + n <= DTI_SLAB_SMALL ? dti_slab_room(head + n) - head : 0;
    dti_row *r = dti_slab_get(&s->slab, head + room);
    if (!r) return NULL;
    memset(r, 0, head);
    r->key = k;
    r->table = (uint8_t)t;
    r->room = (uint16_t)room;
    r->v = inline_of(r);
    r->cap = (uint32_t)room;
    if (n > room) {
        if (!(r->v = dti_slab_get(&s->slab, n))) return dti_slab_put(&s->slab, r, head + room), NULL;
        r->cap = (uint32_t)n;
    }
    if (ordered(t)) {
        RB_INSERT(dti_tree, tree_of(s, t), r);
        dti_row *next = RB_NEXT(dti_tree, tree_of(s, t), r);
        if (next ? next->flags & DTI_ROW_LINKED : s->whole[t - DTI_T_ORDERED]) r->flags = DTI_ROW_LINKED;
        else r->flags = DTI_ROW_STORED;
    } else {
        if (++s->npoint > s->nbuckets) grow(s);
        dti_row **b = &s->buckets[slot(s, t, k)];
        r->link.next = *b;
        *b = r;
        if (s->backing) r->flags = DTI_ROW_STORED;
    }
    return r;
}

static void free_block(dti_rows *s, dti_row *r, unsigned char *v, size_t cap) {
    if (v != inline_of(r)) dti_slab_put(&s->slab, v, cap);
}

static void drop_entry(dti_rows *s, dti_row *r) {
    free_block(s, r, r->v, r->cap);
    dti_slab_put(&s->slab, r, head_size(r->table) + r->room);
}

void dti_rows_forget(dti_rows *s, dti_row *r) {
    if (ordered(r->table)) {
        struct dti_tree *tree = tree_of(s, r->table);
        dti_row *next = RB_NEXT(dti_tree, tree, r);
        bool before = r->flags & DTI_ROW_LINKED;
        bool after = next ? next->flags & DTI_ROW_LINKED : s->whole[r->table - DTI_T_ORDERED];
        if (r->flags & DTI_ROW_STORED) { // what the backing has here is not known any more
            if (next) next->flags &= (uint8_t)~DTI_ROW_LINKED;
            else s->whole[r->table - DTI_T_ORDERED] = false;
        } else if (after && !before) { // it marks where knowledge begins: stays, as a fence
            r->flags &= (uint8_t)~DTI_ROW_HERE;
            return;
        }
        RB_REMOVE(dti_tree, tree, r);
    } else {
        dti_row **b = &s->buckets[slot(s, r->table, r->key)];
        while (*b != r) b = &(*b)->link.next;
        *b = r->link.next;
        s->npoint--;
    }
    drop_entry(s, r);
}

dti_row *dti_rows_learn(dti_rows *s, dti_table t, dti_key k, const void *bytes, size_t n) {
    dti_row *r = find(s, t, k);
    if (r) return r;
    if (!(r = make(s, t, k, n))) return NULL;
    if (n) memcpy(r->v, bytes, n);
    r->n = (uint32_t)n;
    r->flags |= DTI_ROW_HERE | DTI_ROW_STORED;
    return r;
}

// ---- looking -----------------------------------------------------------------

static const uint8_t columns[DTI_TABLE_COUNT] = {
#define X(NAME, name, cols) cols,
    DTI_TABLES(X)
#undef X
};

// The least key of the table's columns that is not below k, or, with `after`,
// above it. False: there is none.
static bool step(dti_table t, dti_key *k, bool after) {
    if (columns[t] < 3 && k->c) after = true, k->c = 0;
    if (columns[t] < 2 && k->b) after = true, k->b = 0;
    if (!after) return true;
    if (columns[t] > 2 && ++k->c) return true;
    if (columns[t] > 1 && ++k->b) return true;
    return ++k->a != 0;
}

// Asks the backing for what lies from k on. Then there is an entry at k, and
// all up to the last that came is known.
static void look(dti_rows *s, dti_table t, dti_key k) {
    bool whole = false;
    dti_row *last = s->backing->fill(s, t, k, &whole), *at = find(s, t, k);
    if (!at) {
        if (!(at = make(s, t, k, 0))) no_memory(s);
        at->flags &= ~DTI_ROW_STORED; // was not among what came
    }
    if (whole) s->whole[t - DTI_T_ORDERED] = true;
    if (!last && !whole) return;
    for (dti_row *r = at; whole || r != last;) {
        if (!(r = RB_NEXT(dti_tree, tree_of(s, t), r))) break;
        r->flags |= DTI_ROW_LINKED;
    }
}

// The entry of k, HERE or not; NULL: known to be absent.
static dti_row *entry(dti_rows *s, dti_table t, dti_key k) {
    dti_row *r = find(s, t, k);
    if (r || !s->backing) return r;
    if (!ordered(t)) {
        s->backing->load(s, t, k);
        if ((r = find(s, t, k))) return r;
        if (!(r = make(s, t, k, 0))) no_memory(s);
        r->flags &= ~DTI_ROW_STORED;
        return r;
    }
    dti_row probe = {.key = k}, *next = RB_NFIND(dti_tree, tree_of(s, t), &probe);
    if (next ? next->flags & DTI_ROW_LINKED : s->whole[t - DTI_T_ORDERED]) return NULL;
    look(s, t, k);
    return find(s, t, k);
}

static const void *rows_get(dti_store *store, dti_table t, dti_key k, size_t *out_n) {
    dti_row *r = entry((dti_rows *)store, t, k);
    if (!r || !(r->flags & DTI_ROW_HERE)) {
        if (out_n) *out_n = 0;
        return NULL;
    }
    if (out_n) *out_n = r->n;
    return r->v;
}

static bool rows_seek(dti_store *store, dti_table t, int prefix, dti_key *key, const void **out, size_t *out_n) {
    dti_rows *s = (dti_rows *)store;
    dti_key at = *key;
    if (!step(t, &at, false)) return false;
    dti_row probe = {.key = at}, *r = RB_NFIND(dti_tree, tree_of(s, t), &probe);
    for (;;) {
        if (!(r && dti_key_eq(r->key, at)) && !(r ? r->flags & DTI_ROW_LINKED : s->whole[t - DTI_T_ORDERED])) {
            look(s, t, at);
            r = find(s, t, at);
        }
        if (!r || (prefix > 0 && r->key.a != key->a) || (prefix > 1 && r->key.b != key->b) ||
            (prefix > 2 && r->key.c != key->c))
            return false;
        if (r->flags & DTI_ROW_HERE) {
            *key = r->key;
            if (out) *out = r->v;
            if (out_n) *out_n = r->n;
            return true;
        }
        at = r->key;
        if (!step(t, &at, true)) return false;
        r = RB_NEXT(dti_tree, tree_of(s, t), r);
    }
}

// ---- changing ------------------------------------------------------------------

// Before r changes: its state goes to the undo log; with `overwrite` also its
// bytes, as they will be written over.
static const dti_undo *save(dti_rows *s, dti_row *r, bool overwrite, bool fresh) {
    if (!r->undo) {
        if (!dti_grow(&s->undo, s->nundo, &s->cundo, sizeof *s->undo)) no_memory(s);
        s->undo[s->nundo] =
            (dti_undo){r, r->v, NULL, r->n, r->cap, (uint8_t)(r->flags | (fresh ? DTI_ROW_NEW : 0))};
        r->undo = (uint32_t)++s->nundo;
    }
    dti_undo *u = &s->undo[r->undo - 1];
    if (overwrite && !u->copy && u->flags & DTI_ROW_HERE && u->v == r->v && u->n) {
        if (!(u->copy = dti_alloc(&s->copies, u->n))) no_memory(s);
        memcpy(u->copy, u->v, u->n);
    }
    return u;
}

static void *rows_mut(dti_store *store, dti_table t, dti_key k) {
    dti_rows *s = (dti_rows *)store;
    dti_row *r = entry(s, t, k);
    if (!r || !(r->flags & DTI_ROW_HERE)) return NULL;
    save(s, r, true, false);
    return r->v;
}

static void *rows_put(dti_store *store, dti_table t, dti_key k, const void *bytes, size_t n) {
    dti_rows *s = (dti_rows *)store;
    if (n > UINT32_MAX / 2) dti_raise(store, DTASK_ETOOBIG, "a value of %zu bytes is more than any store keeps", n);
    dti_row *r = find(s, t, k);
    if (!r) {
        if (!(r = make(s, t, k, n))) no_memory(s);
        save(s, r, false, true);
    } else if (n > r->cap) {
        const dti_undo *u = save(s, r, false, false);
        unsigned char *v = dti_slab_get(&s->slab, n);
        if (!v) no_memory(s);
        if (n && bytes) memcpy(v, bytes, n), bytes = v; // before its source goes
        if (r->v != u->v) free_block(s, r, r->v, r->cap);
        r->v = v;
        r->cap = (uint32_t)n;
    } else {
        save(s, r, true, false);
    }
    if (n && bytes != r->v) bytes ? memmove(r->v, bytes, n) : memset(r->v, 0, n);
    r->n = (uint32_t)n;
    r->flags |= DTI_ROW_HERE;
    return r->v;
}

static void rows_del(dti_store *store, dti_table t, dti_key k) {
    dti_rows *s = (dti_rows *)store;
    dti_row *r = find(s, t, k);
    if (!r && s->backing) { // it may be there, unseen
        if (!(r = make(s, t, k, 0))) no_memory(s);
        if (r->flags & DTI_ROW_STORED) save(s, r, false, true);
        else dti_rows_forget(s, r);
        return;
    }
    if (!r || !(r->flags & DTI_ROW_HERE)) return;
    save(s, r, false, false);
    r->flags &= ~DTI_ROW_HERE;
}

static const dti_store_ops rows_ops = {rows_get, rows_mut, rows_put, rows_del, rows_seek};

// ---- ending an operation ---------------------------------------------------------

static uint64_t row_hash(const dti_row *r, const void *v, size_t n) {
    uint64_t k[4] = {r->table, r->key.a, r->key.b, r->key.c};
    return dti_hash128(v, n, dti_hash128(k, sizeof k, 0).h[0]).h[0];
}

void dti_rows_keep(dti_rows *s) {
    for (size_t i = 0; i < s->nundo; i++) {
        dti_undo *u = &s->undo[i];
        dti_row *r = u->row;
        if (s->hashing) {
            if (u->flags & DTI_ROW_HERE) s->hash -= row_hash(r, u->copy ? u->copy : u->v, u->n);
            if (r->flags & DTI_ROW_HERE) s->hash += row_hash(r, r->v, r->n);
        }
        if (r->v != u->v) free_block(s, r, u->v, u->cap);
        r->undo = 0;
        if (s->backing) s->backing->changed(s, r);
        else if (!(r->flags & DTI_ROW_HERE)) dti_rows_forget(s, r);
    }
    s->nundo = 0;
    dti_arena_reset(&s->copies);
}

void dti_rows_undo(dti_rows *s) {
    while (s->nundo) {
        dti_undo *u = &s->undo[--s->nundo];
        dti_row *r = u->row;
        if (r->v != u->v) {
            free_block(s, r, r->v, r->cap);
            r->v = u->v;
            r->cap = u->cap;
        }
        if (u->copy) memcpy(r->v, u->copy, u->n);
        r->n = u->n;
        r->undo = 0;
        r->flags = (uint8_t)((r->flags & ~DTI_ROW_HERE) | (u->flags & DTI_ROW_HERE));
        if (u->flags & DTI_ROW_NEW) dti_rows_forget(s, r);
    }
    dti_arena_reset(&s->copies);
}

// ---- the whole -------------------------------------------------------------------

static void empty(dti_rows *s) {
    for (int i = 0; i < DTI_TABLE_COUNT - DTI_T_ORDERED; i++) {
        RB_INIT(&s->trees[i]);
        s->whole[i] = !s->backing;
    }
    s->npoint = s->nundo = 0;
}

bool dti_rows_init(dti_rows *s, const dti_backing *backing) {
    *s = (dti_rows){.store.ops = &rows_ops, .backing = backing, .nbuckets = BUCKETS_MIN};
    empty(s);
    return (s->buckets = calloc(s->nbuckets, sizeof *s->buckets));
}

void dti_rows_drop(dti_rows *s) {
    // Few buckets again: a cache may be dropped with every transaction.
    dti_row **few = s->nbuckets > BUCKETS_MIN ? realloc(s->buckets, BUCKETS_MIN * sizeof *few) : NULL;
    if (few) {
        s->buckets = few;
        s->nbuckets = BUCKETS_MIN;
    }
    memset(s->buckets, 0, s->nbuckets * sizeof *s->buckets);
    dti_slab_drop(&s->slab);
    dti_arena_reset(&s->copies);
    empty(s);
}

void dti_rows_done(dti_rows *s) {
    free(s->buckets);
    free(s->undo);
    dti_slab_done(&s->slab);
    dti_arena_done(&s->copies);
}

uint64_t dti_rows_hash(dti_rows *s) {
    if (s->hashing) return s->hash;
    s->hashing = true;
    for (size_t i = 0; i < s->nbuckets; i++) {
        for (dti_row *r = s->buckets[i]; r; r = r->link.next) s->hash += row_hash(r, r->v, r->n);
    }
    for (int t = 0; t < DTI_TABLE_COUNT - DTI_T_ORDERED; t++) {
        dti_row *r;
        RB_FOREACH(r, dti_tree, &s->trees[t]) s->hash += row_hash(r, r->v, r->n);
    }
    return s->hash;
}
