// Reads over all shards. Pages go on where the last one ended without anything
// being remembered between them. See shards.h.
#include "engines/shards/shards.h"

#include <string.h>

enum { PAGE = 256 };

static dtask_err read_in(dti_shards *s, dti_arena *arena, unsigned k, const dti_read *q, dti_read *out) {
    dti_op op = {.kind = DTI_OP_READ, .read = *q}, answer = op;
    dti_engine_call(s->of[k], arena, &op);
    dtask_err err = dti_shards_take(s, arena, k, &op, &answer);
    *out = answer.read;
    return err;
}

// The array at p with room for one more.
static void *more(dti_arena *arena, void *p, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return p;
    size_t most = *cap ? *cap * 2 : 64;
    char *q = dti_alloc(arena, most * size);
    if (q && n) memcpy(q, p, n * size);
    if (q) *cap = most;
    else dti_fail(DTASK_ENOMEM, "out of memory for a list");
    return q;
}

// ---- jobs -----------------------------------------------------------------------------
// The newest first, by when they were made; of one time the lower shard's.

typedef struct {
    const dti_jobview *v;
    uint32_t n, at;
    bool last;                   // there is no page after this one
    uint64_t before;
} list;

static bool newer(const dti_jobview *a, const dti_jobview *b) {
    if (a->row.created != b->row.created) return a->row.created > b->row.created;
    unsigned x = dti_shard_of(a->no), y = dti_shard_of(b->no);
    return x != y ? x < y : a->no > b->no;
}

// The newest of shard k below a number in it; NULL: none.
static dtask_err newest(dti_shards *s, dti_arena *arena, unsigned k, const dti_read *q, uint64_t below, const dti_jobview **out) {
    dti_read one = {.what = DTI_READ_JOBS, .state = q->state, .before = below, .limit = 1}, got;
    *out = NULL;
    if (below == 1) return DTASK_OK; // 0 would be: from the top
    dtask_err err = read_in(s, arena, k, &one, &got);
    if (!err && got.n) *out = got.jobs;
    return err;
}

// Where shard k goes on behind the cursor: its numbers rise with time.
static dtask_err seek(dti_shards *s, dti_arena *arena, unsigned k, const dti_read *q, const dti_jobview *cursor, uint64_t *out) {
    const dti_jobview *v;
    dtask_err err = newest(s, arena, k, q, 0, &v);
    uint64_t low = 1, high = !err && v ? dti_shards_inner(v->no) + 1 : 1;
    while (!err && low < high) {
        uint64_t mid = low + (high - low + 1) / 2;
        if ((err = newest(s, arena, k, q, mid, &v))) break;
        if (!v || newer(cursor, v)) low = mid;
        else high = dti_shards_inner(v->no);
    }
    *out = low;
    return err;
}

// The job that the page before ended with; if it is gone, the next one of its shard.
static dtask_err cursor_of(dti_shards *s, dti_arena *arena, const dti_read *q, const dti_jobview **out) {
    unsigned k = dti_shard_of(q->before);
    dti_read job = {.what = DTI_READ_JOB, .job = dti_shards_inner(q->before)}, got;
    *out = NULL;
    if (k >= s->n) return DTASK_OK;
    dtask_err err = read_in(s, arena, k, &job, &got);
    if (err || got.n) {
        if (!err) *out = got.jobs;
        return err;
    }
    return newest(s, arena, k, q, dti_shards_inner(q->before), out);
}

static dtask_err fill(dti_shards *s, dti_arena *arena, unsigned k, const dti_read *q, list *l) {
    if (l->at < l->n || l->last) return DTASK_OK;
    dti_read page = {.what = DTI_READ_JOBS, .state = q->state, .before = l->before, .limit = q->limit < PAGE ? q->limit : PAGE, .whole = q->whole}, got;
    dtask_err err = read_in(s, arena, k, &page, &got);
    if (err) return err;
    *l = (list){.v = got.jobs, .n = got.n, .last = !got.n || !got.more, .before = got.n ? dti_shards_inner(got.jobs[got.n - 1].no) : 0};
    return DTASK_OK;
}

static dtask_err read_jobs(dti_shards *s, dti_arena *arena, dti_read *q) {
    list lists[DTI_SHARDS_MAX] = {0};
    const dti_jobview *cursor = NULL;
    size_t cap = 0;
    dtask_err err = q->before ? cursor_of(s, arena, q, &cursor) : DTASK_OK;
    for (unsigned k = 0; k < s->n && cursor && !err; k++) {
        if (k == dti_shard_of(cursor->no)) lists[k].before = dti_shards_inner(q->before);
        else err = seek(s, arena, k, q, cursor, &lists[k].before);
        lists[k].last = lists[k].before == 1;
    }
    if (q->before && !cursor) return err;
    while (!err) {
        list *best = NULL;
        for (unsigned k = 0; k < s->n && !err; k++) {
            list *l = &lists[k];
            err = fill(s, arena, k, q, l);
            if (!err && l->at < l->n && (!best || newer(&l->v[l->at], &best->v[best->at]))) best = l;
        }
        if (err || !best) break;
        if ((q->more = q->n == q->limit)) break;
        q->jobs = more(arena, q->jobs, q->n, &cap, sizeof *q->jobs);
        if (!q->jobs) return DTASK_ENOMEM;
        q->jobs[q->n++] = best->v[best->at++];
    }
    return err;
}

// ---- types ----------------------------------------------------------------------------

// By name: what the first shard that knows it says. By number: by its name.
static dtask_err read_type(dti_shards *s, dti_arena *arena, dti_read *q) {
    dti_read one = *q, got;
    if (!q->id.n && !dti_shards_named(s, q->version, &one.id, &one.version)) return DTASK_OK;
    for (unsigned k = 0; k < s->n && !q->n; k++) {
        dtask_err err = read_in(s, arena, k, &one, &got);
        if (err) return err;
        q->n = got.n;
        q->types = got.types;
    }
    return DTASK_OK;
}

static void add_type(dti_type *to, const dti_type *from) {
    if (from->workers > to->workers) to->workers = from->workers;
    to->served |= from->served;
    to->paused |= from->paused;
}

// All, in the order in which the shards know them.
static dtask_err all_types(dti_shards *s, dti_arena *arena, dti_typeview **out, uint32_t *n) {
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    for (unsigned k = 0; k < s->n; k++) {
        dti_read page = {.what = DTI_READ_TYPES, .limit = PAGE}, got = {.more = true};
        for (; got.more; page.from = got.next) {
            dtask_err err = read_in(s, arena, k, &page, &got);
            if (err) return err;
            for (uint32_t i = 0; i < got.n; i++) {
                uint32_t at = 0;
                while (at < *n && (*out)[at].row.no != got.types[i].row.no) at++;
                if (at < *n) {
                    add_type(&(*out)[at].row, &got.types[i].row);
                    continue;
                }
                *out = more(arena, *out, *n, &cap, sizeof **out);
                if (!*out) return DTASK_ENOMEM;
                (*out)[(*n)++] = got.types[i];
            }
        }
    }
    return DTASK_OK;
}

// ---- workers --------------------------------------------------------------------------

// One that is a member of several shards is one worker, dead if it is in all.
static dtask_err all_workers(dti_shards *s, dti_arena *arena, dti_workerview **out, uint32_t *n) {
    size_t cap = 0;
    *out = NULL;
    *n = 0;
    for (unsigned k = 0; k < s->n; k++) {
        dti_read page = {.what = DTI_READ_WORKERS, .limit = PAGE}, got = {.more = true};
        for (; got.more; page.from = got.next) {
            dtask_err err = read_in(s, arena, k, &page, &got);
            if (err) return err;
            for (uint32_t i = 0; i < got.n; i++) {
                const dti_workerrow *r = &got.workers[i].row;
                uint32_t at = 0;
                while (at < *n && memcmp((*out)[at].row.name, r->name, sizeof r->name) != 0) at++;
                if (at == *n) {
                    *out = more(arena, *out, *n, &cap, sizeof **out);
                    if (!*out) return DTASK_ENOMEM;
                    (*out)[(*n)++] = got.workers[i];
                    continue;
                }
                dti_workerrow *w = &(*out)[at].row;
                w->dead &= r->dead;
                if (r->expires > w->expires) w->expires = r->expires;
                if (r->since < w->since) w->since = r->since;
            }
        }
    }
    return DTASK_OK;
}

// ---- any of them -----------------------------------------------------------------------

dtask_err dti_shards_list(dti_shards *s, dti_arena *arena, dti_read *q) {
    uint32_t n = 0;
    dtask_err err = DTASK_OK;
    q->n = q->next = 0;
    q->more = false;
    q->jobs = NULL;
    q->types = NULL;
    q->workers = NULL;
    if (!q->limit) q->limit = 1000;
    if (q->what == DTI_READ_JOBS) return read_jobs(s, arena, q);
    if (q->what == DTI_READ_TYPE) return read_type(s, arena, q);
    if (q->what == DTI_READ_TYPES) err = all_types(s, arena, &q->types, &n);
    else err = all_workers(s, arena, &q->workers, &n);
    if (err) return err;
    uint32_t from = q->from < n ? q->from : n;
    q->n = n - from < q->limit ? n - from : q->limit;
    q->next = from + q->n;
    q->more = q->next < n;
    if (q->types) q->types += from;
    if (q->workers) q->workers += from;
    return DTASK_OK;
}
