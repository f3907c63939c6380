#include "beside_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines/memory_store.h"
#include "engines/redis/packed.h"
#include "engines/rows.h"
#include "model/model.h"

static const uint64_t MIDDLE = 1ull << DTI_BITS_MIDDLE, ROOM = 1ull << 63;
enum { DIGEST_N = 40 };

typedef struct { char digest[DIGEST_N]; dti_hash hash; uint64_t job; } blob_name;
typedef struct {
    dti_mp at;
    bool bad;
    dti_store *to, *model;
    dti_arena arena;
    uint64_t salt;
    blob_name *blobs; size_t nblobs, cblobs;
    uint64_t kids_job, kids_parent; uint32_t kids_first; // the kids row before
} reader;

// ---- values ------------------------------------------------------------------------
static uint64_t num(reader *r) {
    dti_mpval v;
    if (dti_mp_next(&r->at, &v)) {
        if (v.kind == DTI_MP_UINT) return v.u;
        if (v.kind == DTI_MP_INT) return (uint64_t)v.i;
        if (v.kind == DTI_MP_BOOL) return v.b;
        if (v.kind == DTI_MP_NIL) return 0;
    }
    r->bad = true;
    return 0;
}

static dtask_str str(reader *r) {
    dti_mpval v;
    if (dti_mp_next(&r->at, &v) && v.kind == DTI_MP_STR) return v.s;
    r->bad = true;
    return (dtask_str){0};
}

static void fixed(reader *r, void *to, size_t n) {
    dtask_str s = str(r);
    if (s.n == n) memcpy(to, s.p, n);
    else r->bad = true;
}

static void put(reader *r, dti_table t, uint64_t a, uint64_t b, uint64_t c, const void *p, size_t n) {
    dti_put(r->to, t, a, b, c, p, n);
}

static void put_parts(reader *r, dti_table t, dti_key k, const void *p, size_t n, const dtask_str *parts, int nparts) {
    size_t size = n;
    for (int i = 0; i < nparts; i++) size += parts[i].n;
    char *bytes = dti_alloc(&r->arena, size), *at = bytes + n;
    if (!bytes) abort();
    memcpy(bytes, p, n);
    for (int i = 0; i < nparts; at += parts[i++].n)
        if (parts[i].n) memcpy(at, parts[i].p, parts[i].n);
    put(r, t, k.a, k.b, k.c, bytes, size);
}

static dti_hash of_name(dtask_str s) { return dti_hash128(s.p, s.n, 0); }
static dti_hash of_key(const reader *r, dtask_str plain) { return dti_hash128(plain.p, plain.n, r->salt); }

// ---- each table ------------------------------------------------------------------------
static void meta(reader *r) {
    dti_meta m = {.version = DTI_ROW_VERSION, .order = 0x0807060504030201};
    m.shards = (uint8_t)num(r);
    m.read_min = (uint32_t)num(r);
    m.write = (uint32_t)num(r);
    fixed(r, &m.salt, sizeof m.salt);
    m.era = num(r);
    uint64_t *next[] = {&m.next_job, &m.next_type, &m.next_lane, &m.next_limit, &m.next_worker, &m.next_todo, &m.next_lapse};
    for (size_t i = 0; i < sizeof next / sizeof *next; i++) *next[i] = num(r);
    m.todos = num(r);
    m.todos += num(r);
    m.lease_us = (int64_t)num(r);
    m.last_time = (int64_t)num(r);
    m.resumed = (int64_t)num(r);
    m.drain_asked = (int64_t)num(r);
    m.undo_type = (uint32_t)num(r);
    m.any_root = (uint32_t)num(r);
    dtask_str run = str(r);
    if (run.n) memcpy(m.run_id, run.p, run.n < sizeof m.run_id ? run.n : sizeof m.run_id);
    r->salt = m.salt;
    put(r, DTI_T_META, 0, 0, 0, &m, sizeof m);
}

static dti_hash blob_hash(reader *r, uint64_t job, dtask_str digest) {
    for (size_t i = 0; i < r->nblobs; i++)
        if (r->blobs[i].job == job && digest.n == DIGEST_N && !memcmp(r->blobs[i].digest, digest.p, DIGEST_N)) return r->blobs[i].hash;
    if (digest.n) r->bad = true;
    return (dti_hash){0};
}

static void note_blob(reader *r) {
    uint64_t job = num(r);
    dtask_str digest = str(r);
    str(r);
    dtask_str v = str(r);
    if (digest.n != DIGEST_N) r->bad = true;
    if (!dti_grow(&r->blobs, r->nblobs, &r->cblobs, sizeof *r->blobs)) abort();
    blob_name *b = &r->blobs[r->nblobs++];
    *b = (blob_name){.hash = dti_hash128(v.p, v.n, r->salt), .job = job};
    if (!r->bad) memcpy(b->digest, digest.p, DIGEST_N);
}

static void blob(reader *r) {
    uint64_t job = num(r);
    dti_hash h = blob_hash(r, job, str(r));
    dti_blob row = {.version = DTI_ROW_VERSION, .before = blob_hash(r, job, str(r))};
    dtask_str v = str(r);
    put_parts(r, DTI_T_BLOB, (dti_key){job, h.h[0], h.h[1]}, &row, sizeof row, &v, 1);
}

static void job(reader *r) {
    uint64_t no = num(r);
    dtask_str s = str(r);
    dti_jobrow j;
    if (!dti_packed_job(s, &j)) r->bad = true;
    for (size_t i = r->nblobs; i-- && s.n > DIGEST_N;) // the record ends with the last one's digest
        if (r->blobs[i].job == no && !memcmp(s.p + s.n - DIGEST_N, r->blobs[i].digest, DIGEST_N)) j.blob = r->blobs[i].hash;
    put(r, DTI_T_JOB, no, 0, 0, &j, sizeof j);
}

static void task(reader *r) {
    uint64_t no = num(r), ord = num(r);
    dti_taskrow t;
    if (!dti_packed_task(str(r), &t)) r->bad = true;
    size_t n;
    const dti_taskrow *same = dti_get(r->model, DTI_T_TASK, no, ord, 0, &n);
    if (!ord && same && !t.call[0] && !t.call[1]) memcpy(t.call, same->call, sizeof t.call);
    put(r, DTI_T_TASK, no, ord, 0, &t, sizeof t);
}

static void keys(reader *r, uint64_t no, uint64_t ord, dtask_str s) {
    dti_keyspec out[16];
    uint32_t n = 0;
    dtask_str each;
    for (; n < 16 && (each = dti_mp_at(s, n)).n; n++) {
        reader in = {.at = dti_mp_of(each)};
        dti_mpval head;
        dti_mp_next(&in.at, &head);
        dti_keyspec *k = &out[n];
        *k = (dti_keyspec){0};
        fixed(&in, k->h, sizeof k->h);
        k->kind = (uint8_t)num(&in);
        k->over = (uint8_t)num(&in);
        k->until = (uint8_t)num(&in);
        k->scope = (uint8_t)num(&in);
        k->same = (uint8_t)num(&in);
        k->max = num(&in);
        k->per_us = (int64_t)num(&in);
        k->keep_us = (int64_t)num(&in);
        struct { uint64_t h[2], kind, job; int64_t per; } of = {{k->h[0], k->h[1]}, k->kind, k->scope ? no : 0, k->kind == DTI_KEY_LIMIT ? k->per_us : 0};
        dti_hash h = dti_hash128(&of, sizeof of, r->salt);
        memcpy(k->h, h.h, sizeof k->h);
        r->bad |= in.bad;
    }
    put(r, DTI_T_DATA, no, ord, DTI_D_KEYS, out, n * sizeof *out);
}

static void told(reader *r, uint64_t no, uint64_t ord, dtask_str s) {
    dti_range out[DTI_TOLD_MAX];
    uint32_t n = 0;
    dtask_str each;
    for (; n < DTI_TOLD_MAX && (each = dti_mp_at(s, n)).n; n++) {
        reader in = {.at = dti_mp_of(each)};
        dti_mpval head;
        dti_mp_next(&in.at, &head);
        uint32_t first = (uint32_t)num(&in), count = (uint32_t)num(&in);
        out[n] = (dti_range){.first = first, .count = count, .bad_only = (uint8_t)num(&in)};
        r->bad |= in.bad;
    }
    put(r, DTI_T_DATA, no, ord, DTI_D_TOLD, out, n * sizeof *out);
}

static void data(reader *r) {
    uint64_t no = num(r), ord = num(r), kind = num(r);
    dtask_str s = str(r);
    if (kind == DTI_D_KEYS) return keys(r, no, ord, s);
    if (kind == DTI_D_TOLD) return told(r, no, ord, s);
    bool carried = kind == DTI_D_ARGS || kind == DTI_D_RESULT || kind == DTI_D_ERROR;
    char ref[1 + sizeof(dti_hash)];
    if (carried && s.n && s.p[0] == '\xc1') {
        dti_hash h = blob_hash(r, no, dti_str(s.p + 1, s.n - 1));
        ref[0] = '\xc1';
        memcpy(ref + 1, &h, sizeof h);
        s = dti_str(ref, sizeof ref);
    }
    put(r, DTI_T_DATA, no, ord, kind, s.p, s.n);
}

static void lane(reader *r) {
    uint64_t type = num(r), no = num(r), prio = num(r);
    dti_lane l = {.version = DTI_ROW_VERSION};
    l.no = num(r);
    l.vtime = num(r);
    l.head = MIDDLE + num(r);
    l.tail = MIDDLE + num(r);
    l.next = num(r);
    put(r, DTI_T_LANE, type, no, prio, &l, sizeof l);
}

static void ext(reader *r, dti_table t) {
    uint64_t no = num(r), pos = MIDDLE + num(r);
    dti_ext e = {.version = DTI_ROW_VERSION};
    e.first = (uint32_t)num(r);
    e.count = (uint32_t)num(r);
    e.job = num(r);
    put(r, t, no, pos, 0, &e, sizeof e);
}

static void limit(reader *r) {
    dti_hash h = of_key(r, str(r));
    dti_limit l = {.version = DTI_ROW_VERSION};
    l.no = num(r);
    l.max = num(r);
    l.used = num(r);
    l.head = MIDDLE + num(r);
    l.tail = MIDDLE + num(r);
    put(r, DTI_T_LIMIT, h.h[0], h.h[1], 0, &l, sizeof l);
}

static void uniq(reader *r) {
    dti_hash h = of_key(r, str(r));
    dti_uniq u = {.version = DTI_ROW_VERSION};
    u.until = (uint8_t)num(r);
    u.scope = (uint8_t)num(r);
    u.freed = (uint8_t)num(r);
    u.ord = (uint32_t)num(r);
    u.job = num(r);
    fixed(r, u.call, sizeof u.call);
    u.keep_us = (int64_t)num(r);
    u.lapse = (int64_t)num(r);
    put(r, DTI_T_UNIQ, h.h[0], h.h[1], 0, &u, sizeof u);
}

static void kids(reader *r) {
    uint64_t no = num(r), parent = num(r);
    uint32_t v[4]; // first, count, attempt, seq
    fixed(r, v, sizeof v);
    dti_kids k = {.version = DTI_ROW_VERSION, .attempt = v[2], .seq = v[3], .first = v[0], .count = v[1]};
    size_t n;
    const dti_kids *same = dti_get(r->model, DTI_T_KIDS, no, parent, k.first, &n);
    if (r->kids_job == no && r->kids_parent == parent) k.prev = r->kids_first;
    else if (same) k.prev = same->prev; // the row before may have been purged already
    r->kids_job = no;
    r->kids_parent = parent;
    r->kids_first = k.first;
    put(r, DTI_T_KIDS, no, parent, k.first, &k, sizeof k);
}

static void log_row(reader *r) {
    uint64_t no = num(r), ord = num(r), n = num(r);
    dti_log l = {.version = DTI_ROW_VERSION};
    l.kind = (uint8_t)num(r);
    l.ord = (uint32_t)num(r);
    l.time = (int64_t)num(r);
    dtask_str parts[2];
    parts[0] = str(r);
    parts[1] = str(r);
    l.name_n = (uint32_t)parts[0].n;
    l.data_n = (uint32_t)parts[1].n;
    put_parts(r, DTI_T_LOG, (dti_key){no, ord, n}, &l, sizeof l, parts, 2);
}

static void lapse(reader *r) {
    uint64_t at = num(r), n = num(r);
    dti_lapse l = {.version = DTI_ROW_VERSION};
    l.kind = (uint8_t)num(r);
    l.h[0] = num(r);
    dtask_str key = str(r);
    if (key.n) memcpy(l.h, of_key(r, key).h, sizeof l.h);
    put(r, DTI_T_LAPSE, at, n, 0, &l, sizeof l);
}

static void wake(reader *r) {
    uint64_t worker = num(r), n = num(r);
    dti_wakerow w = {.version = DTI_ROW_VERSION};
    w.cancel = (uint8_t)num(r);
    w.ord = (uint32_t)num(r);
    w.job = num(r);
    fixed(r, &w.token, sizeof w.token);
    w.seq = (uint32_t)num(r);
    put(r, DTI_T_WAKE, worker, n, 0, &w, sizeof w);
}

static void todo(reader *r) {
    uint64_t n = num(r), room = num(r);
    dti_todo d = {.version = DTI_ROW_VERSION};
    d.kind = (uint8_t)num(r);
    d.job = num(r);
    d.ord = (uint32_t)num(r);
    d.cursor = num(r);
    d.arg = (uint8_t)num(r);
    uint64_t count = num(r);
    dtask_str key = str(r);
    if (d.kind == DTI_DO_CANCEL_KIDS) d.cursor = d.cursor << 32 | count;
    if (d.kind == DTI_DO_LIMIT) {
        dti_hash h = of_key(r, key);
        d.job = h.h[0];
        d.cursor = h.h[1];
    }
    put(r, DTI_T_TODO, room ? n | ROOM : n, 0, 0, &d, sizeof d);
}

static void type(reader *r) {
    uint64_t no = num(r);
    dti_type t;
    if (!dti_packed_type(str(r), &t)) r->bad = true;
    dtask_str parts[3];
    for (int i = 0; i < 3; i++) parts[i] = str(r);
    t.name_n = (uint32_t)parts[0].n;
    t.signature_n = (uint32_t)parts[1].n;
    t.options_n = (uint32_t)parts[2].n;
    put_parts(r, DTI_T_TYPE, (dti_key){no, 0, 0}, &t, sizeof t, parts, 3);
}

static void listen_row(reader *r) {
    dtask_str subject = str(r);
    uint64_t kind = num(r), listener = num(r);
    dti_listenrow l = {.version = DTI_ROW_VERSION, .states = (uint16_t)num(r)};
    dtask_str filter = str(r);
    l.filter_n = (uint32_t)filter.n;
    put_parts(r, DTI_T_LISTEN, (dti_key){subject.n ? of_name(subject).h[0] : 0, kind, listener}, &l, sizeof l, &filter, 1);
}

static void small(reader *r, dtask_str name) { // rows of a few numbers
    uint64_t a, b, c;
    if (dti_str_eq(name, dti_strz("turnq"))) {
        a = num(r), b = num(r), c = num(r);
        dti_turnq q = {.version = DTI_ROW_VERSION, .prio = (uint8_t)num(r)};
        q.job = num(r);
        put(r, DTI_T_TURNQ, a, b, c, &q, sizeof q);
    } else if (dti_str_eq(name, dti_strz("jobid"))) {
        dti_hash h = dti_id_hash(str(r));
        a = num(r);
        put(r, DTI_T_JOBID, h.h[0], h.h[1], 0, &a, sizeof a);
    } else if (dti_str_eq(name, dti_strz("typeid"))) {
        a = of_name(str(r)).h[0], b = num(r);
        uint32_t no = (uint32_t)num(r);
        put(r, DTI_T_TYPEID, a, b, 0, &no, sizeof no);
    } else if (dti_str_eq(name, dti_strz("worker"))) {
        a = num(r);
        dti_workerrow w;
        if (!dti_packed_worker(str(r), &w)) r->bad = true;
        put(r, DTI_T_WORKER, a, 0, 0, &w, sizeof w);
    } else if (dti_str_eq(name, dti_strz("workerid"))) {
        dti_hash h = of_name(str(r));
        a = num(r);
        put(r, DTI_T_WORKERID, h.h[0], h.h[1], 0, &a, sizeof a);
    } else if (dti_str_eq(name, dti_strz("cron"))) {
        a = num(r);
        dti_cron k = {.version = DTI_ROW_VERSION, .next = (int64_t)num(r)};
        k.job = num(r);
        put(r, DTI_T_CRON, a, 0, 0, &k, sizeof k);
    } else if (dti_str_eq(name, dti_strz("jobs"))) {
        a = num(r), b = num(r);
        put(r, DTI_T_JOBS, a, ~b, 0, NULL, 0);
    } else if (dti_str_eq(name, dti_strz("serves")) || dti_str_eq(name, dti_strz("dead"))) {
        a = num(r), b = num(r);
        put(r, name.p[0] == 's' ? DTI_T_SERVES : DTI_T_DEAD, a, b, 0, NULL, 0);
    } else { // three numbers, and nothing behind them
        static const struct { const char *name; dti_table t; } tables[] = {
            {"edge", DTI_T_EDGE}, {"alone", DTI_T_ALONE}, {"due", DTI_T_DUE}, {"held", DTI_T_HELD}};
        size_t i = 0;
        while (i < 4 && !dti_str_eq(name, dti_strz(tables[i].name))) i++;
        a = num(r), b = num(r), c = num(r);
        if (i == 4) r->bad = true;
        else put(r, tables[i].t, a, b, c, NULL, 0);
    }
}

static void one(reader *r, dtask_str name) {
    static const struct { const char *name; void (*read)(reader *); } rows[] = {{"meta", meta}, {"blob", blob}, {"job", job}, {"task", task},
        {"data", data}, {"lane", lane}, {"limit", limit}, {"uniq", uniq}, {"kids", kids}, {"log", log_row}, {"lapse", lapse},
        {"wake", wake}, {"todo", todo}, {"type", type}, {"listen", listen_row}};
    if (dti_str_eq(name, dti_strz("ext"))) return ext(r, DTI_T_EXT);
    if (dti_str_eq(name, dti_strz("waiter"))) return ext(r, DTI_T_WAITER);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (dti_str_eq(name, dti_strz(rows[i].name))) return rows[i].read(r);
    small(r, name);
}

static const char *pass(reader *r, dtask_str dump, bool names) { // names: of blobs, which are referred to
    static char wrong[32];
    dti_mpval v;
    r->at = dti_mp_of(dump);
    while (r->at.p < r->at.end) {
        dti_mp row = r->at;
        dtask_str bytes;
        if (!dti_mp_skip(&r->at, &bytes)) return "no msgpack";
        dti_mp after = r->at;
        r->at = row;
        dti_mp_next(&r->at, &v);
        dtask_str name = str(r);
        bool is_blob = dti_str_eq(name, dti_strz("blob")), is_meta = dti_str_eq(name, dti_strz("meta"));
        if (names && is_blob) note_blob(r);
        else if (names ? is_meta : !is_meta) one(r, name);
        if (r->bad) return snprintf(wrong, sizeof wrong, "%.*s", (int)name.n, name.p), wrong;
        r->at = after;
    }
    return NULL;
}

const char *beside_rows(dtask_str dump, dti_store *to, dti_store *model) {
    reader r = {.to = to, .model = model};
    jmp_buf trap;
    to->trap = &trap;
    if (setjmp(trap)) abort(); // no memory
    dti_memory_store_begin(to);
    const char *wrong = pass(&r, dump, true);
    if (!wrong) wrong = pass(&r, dump, false);
    dti_memory_store_commit(to);
    free(r.blobs);
    dti_arena_done(&r.arena);
    return wrong;
}

// ---- comparing -----------------------------------------------------------------------------
static const char *const tables[] = {
#define X(NAME, name, cols) #name,
    DTI_TABLES(X)
#undef X
};

static bool tell(dti_table t, dti_key k, const unsigned char *v, size_t vn, dti_store *other, const char *here, char *out, size_t n) {
    size_t size = 0;
    const unsigned char *p = other->ops->get(other, t, k, &size);
    if (p && size == vn && (!vn || memcmp(p, v, vn) == 0)) return false;
    int at = snprintf(out, n, "%s %llu/%llu/%llu: ", tables[t], (unsigned long long)k.a, (unsigned long long)k.b, (unsigned long long)k.c);
    if (!p) return snprintf(out + at, n - (size_t)at, "only %s has it", here), true;
    size_t i = 0;
    while (i < size && i < vn && p[i] == v[i]) i++;
    at += snprintf(out + at, n - (size_t)at, "%zu bytes at %s, %zu at the other; from byte %zu on:", vn, here, size, i);
    for (size_t b = i; b < i + 4 && b < size && b < vn && (size_t)at < n; b++) at += snprintf(out + at, n - (size_t)at, " %02x/%02x", v[b], p[b]);
    return true;
}

static bool one_way(dti_store *a, dti_store *b, const char *name, char *out, size_t n) {
    const dti_rows *s = (const dti_rows *)a;
    for (size_t i = 0; i < s->nbuckets; i++)
        for (const dti_row *r = s->buckets[i]; r; r = r->link.next)
            if (tell(r->table, r->key, r->v, r->n, b, name, out, n)) return true;
    for (int t = DTI_T_ORDERED; t < DTI_TABLE_COUNT; t++) {
        const void *v;
        size_t size;
        dti_key k = {0};
        while (a->ops->seek(a, (dti_table)t, 0, &k, &v, &size)) {
            if (tell((dti_table)t, k, v, size, b, name, out, n)) return true;
            if (!++k.c && !++k.b) ++k.a;
        }
    }
    return false;
}

bool beside_differs(dti_store *here, dti_store *model, char *out, size_t n) {
    return one_way(here, model, "beside", out, n) || one_way(model, here, "the model", out, n);
}
