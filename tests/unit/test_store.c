// Stores against a reference: random operations in transactions that are kept
// or undone, each answer compared with that of a plain array of rows.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "stores.h"

enum { ROWS_MAX = 4096, VALUE_MAX = 2400, TABLES = 6 };
static const struct { dti_table t; int cols; } tables[TABLES] = {
    {DTI_T_TASK, 2}, {DTI_T_DATA, 3}, {DTI_T_JOB, 1}, {DTI_T_LOG, 3}, {DTI_T_EXT, 2}, {DTI_T_TODO, 1},
};

typedef struct { dti_table t; dti_key k; unsigned char *v; size_t n; } ref_row;
typedef struct { ref_row rows[ROWS_MAX]; size_t n; } ref;

static int cmp(dti_key x, dti_key y) {
    uint64_t a[3] = {x.a, x.b, x.c}, b[3] = {y.a, y.b, y.c};
    for (int i = 0; i < 3; i++) {
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

static ref_row *ref_find(ref *r, dti_table t, dti_key k) {
    for (size_t i = 0; i < r->n; i++) {
        if (r->rows[i].t == t && cmp(r->rows[i].k, k) == 0) return &r->rows[i];
    }
    return NULL;
}

static void ref_del(ref *r, ref_row *row) {
    if (!row) return;
    free(row->v);
    *row = r->rows[--r->n];
}

static void ref_put(ref *r, dti_table t, dti_key k, const void *p, size_t n) {
    ref_del(r, ref_find(r, t, k));
    cr_assert_lt(r->n, (size_t)ROWS_MAX);
    r->rows[r->n] = (ref_row){t, k, malloc(n + 1), n};
    if (n) memcpy(r->rows[r->n].v, p, n);
    r->n++;
}

static ref_row *ref_seek(ref *r, dti_table t, int prefix, dti_key k) {
    ref_row *best = NULL;
    for (size_t i = 0; i < r->n; i++) {
        ref_row *x = &r->rows[i];
        if (x->t != t || cmp(x->k, k) < 0) continue;
        if ((prefix > 0 && x->k.a != k.a) || (prefix > 1 && x->k.b != k.b) || (prefix > 2 && x->k.c != k.c)) continue;
        if (!best || cmp(x->k, best->k) < 0) best = x;
    }
    return best;
}

static void ref_clear(ref *r) {
    while (r->n) ref_del(r, r->rows);
}

static void ref_copy(ref *to, const ref *from) {
    ref_clear(to);
    for (size_t i = 0; i < from->n; i++) ref_put(to, from->rows[i].t, from->rows[i].k, from->rows[i].v, from->rows[i].n);
}

static uint64_t rnd(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void same(const void *p, size_t n, const ref_row *want, uint64_t seed) {
    cr_assert_eq(p != NULL, want != NULL, "seed %lu: there and not there", seed);
    if (want) cr_assert(n == want->n && memcmp(p, want->v, n) == 0, "seed %lu: another value", seed);
}

static dti_key any_key(uint64_t *seed, int cols) {
    static const uint64_t high[] = {0, 1, 2, 3, 5, UINT64_MAX, (uint64_t)1 << 63, INT64_MAX};
    dti_key k = {high[rnd(seed) % 8], cols > 1 ? rnd(seed) % 6 : 0, cols > 2 ? high[rnd(seed) % 8] : 0};
    return k;
}

static void one_op(dti_store *s, ref *r, uint64_t *seed, uint64_t first) {
    int i = (int)(rnd(seed) % TABLES), cols = tables[i].cols;
    dti_table t = tables[i].t;
    bool walked = t >= DTI_T_ORDERED;
    dti_key k = any_key(seed, cols);
    size_t n;
    switch (rnd(seed) % 8) {
    case 0: case 1: {
        unsigned char v[VALUE_MAX];
        size_t len = rnd(seed) % 4 ? rnd(seed) % 40 : rnd(seed) % VALUE_MAX;
        memset(v, (int)rnd(seed), len);
        bool zero = rnd(seed) % 8 == 0;
        if (zero) memset(v, 0, len);
        const void *got = dti_put(s, t, k.a, k.b, k.c, zero ? NULL : v, len);
        cr_assert(memcmp(got, v, len) == 0);
        ref_put(r, t, k, v, len);
        break;
    }
    case 2:
        dti_del(s, t, k.a, k.b, k.c);
        ref_del(r, ref_find(r, t, k));
        break;
    case 3: case 4: {
        ref_row *want = ref_find(r, t, k);
        if (walked) break;
        unsigned char *p = dti_mut(s, t, k.a, k.b, k.c);
        same(p, want ? want->n : 0, want, first);
        if (want && want->n) p[0] = want->v[0] = (unsigned char)rnd(seed);
        break;
    }
    case 5: {
        const void *p = dti_get(s, t, k.a, k.b, k.c, &n);
        same(p, n, ref_find(r, t, k), first);
        break;
    }
    default: {
        if (!walked) break;
        int prefix = (int)(rnd(seed) % (unsigned)(cols + 1));
        const void *p = NULL;
        for (int steps = (int)(rnd(seed) % 5); steps >= 0; steps--) {
            ref_row *want = ref_seek(r, t, prefix, k);
            bool found = s->ops->seek(s, t, prefix, &k, &p, &n);
            cr_assert_eq(found, want != NULL, "seed %lu: seek", first);
            if (!found) break;
            cr_assert_eq(cmp(k, want->k), 0, "seed %lu: seek found another key", first);
            same(p, n, want, first);
            if (++k.c == 0 && ++k.b == 0 && ++k.a == 0) break;
        }
    }
    }
}

static void property(const test_store_kind *kind, uint64_t seeds) {
    static ref now, before;
    for (uint64_t first = 1; first <= seeds; first++) {
        uint64_t seed = first * 0x9e3779b97f4a7c15u;
        void *at = kind->make();
        for (int tx = 0; tx < 40; tx++) {
            dti_store *s = kind->begin(at);
            for (int op = 0; op < 3; op++) {
                ref_copy(&before, &now);
                for (int i = (int)(rnd(&seed) % 30); i >= 0; i--) one_op(s, &now, &seed, first);
                if (rnd(&seed) % 3) {
                    kind->keep(at);
                } else {
                    kind->undo(at);
                    ref_copy(&now, &before);
                }
            }
            kind->commit(at, rnd(&seed) % 4 == 0);
        }
        kind->free(at);
        ref_clear(&now);
        ref_clear(&before);
    }
}

Test(store, memory_is_as_the_reference) {
    property(&test_memory_kind, 40);
}

Test(store, sqlite_is_as_the_reference) {
    property(&test_sqlite_kind, 40);
}

// What keeps the hash as it goes, and what walks the store, must agree; and an
// undone operation leaves it as it was.
Test(store, hash_knows_the_rows_alone) {
    static ref r;
    jmp_buf trap;
    uint64_t seed = 77;
    dti_store *s = dti_memory_store_new(), *t = dti_memory_store_new();
    s->trap = t->trap = &trap;
    cr_assert(setjmp(trap) == 0);
    uint64_t empty = dti_memory_store_hash(s);
    for (int i = 0; i < 300; i++) {
        uint64_t was = dti_memory_store_hash(s);
        static ref kept;
        ref_copy(&kept, &r);
        dti_memory_store_begin(s);
        for (int j = 0; j < 10; j++) one_op(s, &r, &seed, 77);
        if (i % 3) {
            dti_memory_store_commit(s);
        } else {
            dti_memory_store_rollback(s);
            ref_copy(&r, &kept);
            cr_assert_eq(was, dti_memory_store_hash(s));
        }
    }
    cr_assert_neq(empty, dti_memory_store_hash(s));
    dti_memory_store_begin(t);
    for (size_t i = 0; i < r.n; i++) dti_put(t, r.rows[i].t, r.rows[i].k.a, r.rows[i].k.b, r.rows[i].k.c, r.rows[i].v, r.rows[i].n);
    dti_memory_store_commit(t);
    cr_assert_eq(dti_memory_store_hash(s), dti_memory_store_hash(t));
    dti_memory_store_free(s);
    dti_memory_store_free(t);
    ref_clear(&r);
}

// Deleted rows' memory is used again.
Test(store, memory_is_reused) {
    jmp_buf trap;
    dti_store *s = dti_memory_store_new();
    s->trap = &trap;
    cr_assert(setjmp(trap) == 0);
    size_t high = 0;
    for (uint64_t round = 0; round < 50; round++) {
        dti_memory_store_begin(s);
        for (uint64_t i = 0; i < 1000; i++) {
            dti_put(s, DTI_T_TASK, round, i, 0, NULL, sizeof(dti_taskrow));
            dti_put(s, DTI_T_EXT, round, i, 0, NULL, 3000);
        }
        dti_memory_store_commit(s);
        dti_memory_store_begin(s);
        for (uint64_t i = 0; i < 1000; i++) {
            dti_del(s, DTI_T_TASK, round, i, 0);
            dti_del(s, DTI_T_EXT, round, i, 0);
        }
        dti_memory_store_commit(s);
        size_t held = test_store_bytes(s);
        if (round == 2) high = held;
        cr_assert(round < 3 || held <= high);
    }
    dti_memory_store_free(s);
}
