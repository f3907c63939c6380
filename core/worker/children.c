// Handles of children: which ord they have, whether they are complete, how
// they ended.
//
// A single child costs a handle and, once asked for, its outcome's bytes. A
// batch costs a few words for each run of ords, whatever its size; its
// outcomes are read from the store in pages when they are asked for.
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the table of handles by ord ----------------------------------------------

static size_t place(uint32_t ord, size_t cap) {
    return (ord * 0x9e3779b1u >> 4) & (cap - 1);
}

static bool table_add(dtask_task *f, dtask_child *c) {
    if (f->ntable >= f->ctable) {
        size_t cap = f->ctable ? f->ctable * 2 : 8;
        dtask_child **t = calloc(cap, sizeof *t);
        if (!t) return false;
        for (size_t i = 0; i < f->ctable; i++)
            for (dtask_child *k = f->table[i], *next; k; k = next) {
                next = k->chain;
                dtask_child **slot = &t[place(k->ord, cap)];
                k->chain = *slot;
                *slot = k;
            }
        free(f->table);
        f->table = t;
        f->ctable = cap;
    }
    dtask_child **slot = &f->table[place(c->ord, f->ctable)];
    c->chain = *slot;
    *slot = c;
    f->ntable++;
    return true;
}

static void table_del(dtask_task *f, dtask_child *c) {
    if (!f->ctable) return;
    dtask_child **slot = &f->table[place(c->ord, f->ctable)];
    while (*slot && *slot != c) slot = &(*slot)->chain;
    if (!*slot) return;
    *slot = c->chain;
    f->ntable--;
}

dtask_child *dti_child_by_ord(dtask_task *f, uint32_t ord) {
    if (!f->ctable) return NULL;
    dtask_child *c = f->table[place(ord, f->ctable)];
    while (c && c->ord != ord) c = c->chain;
    return c;
}

// ---- handles ----------------------------------------------------------------------

dtask_child *dti_child_new(dtask_task *f, bool batch, uint64_t n) {
    dtask_child *c = calloc(1, sizeof *c + (batch ? sizeof(dti_batch) : 0));
    if (!c) return NULL;
    c->task = f;
    c->refs = 1;
    c->serial = f->serial++;
    if (batch) {
        c->batch = (dti_batch *)(c + 1);
        c->batch->n = n;
        c->batch->next = f->batches;
        f->batches = c;
        c->sent = c->done = n == 0;
    }
    c->prev = f->kids_last;
    if (f->kids_last) f->kids_last->next = c;
    else f->kids = c;
    f->kids_last = c;
    return c;
}

static void child_free(dtask_child *c) {
    dtask_task *f = c->task;
    if (c->batch) {
        dtask_child **at = &f->batches;
        while (*at != c) at = &(*at)->batch->next;
        *at = c->batch->next;
        for (size_t i = 0; i < c->batch->njoins; i++) free(c->batch->joins[i].id);
        free(c->batch->joins);
        free(c->batch->segs);
        free(c->batch->bits);
    } else if (c->sent) {
        table_del(f, c);
    }
    if (c->prev) c->prev->next = c->next;
    else f->kids = c->next;
    if (c->next) c->next->prev = c->prev;
    else f->kids_last = c->prev;
    dti_buf_done(&c->end);
    free(c->id);
    free(c);
}

void dti_child_unref(dtask_child *c) {
    if (c && !--c->refs) child_free(c);
}

void dti_children_free(dtask_task *f) {
    while (f->kids) child_free(f->kids);
    free(f->table);
    free(f->handles);
    for (dti_given *g = f->given, *next; g; g = next) {
        next = g->next;
        dti_buf_done(&g->end);
        free(g);
    }
}

void dtask_b_child_free(dtask_child *c) {
    dtask_worker *w = c->task->w;
    if (dti_app_check(w->app)) return;
    pthread_mutex_lock(&w->lock);
    dti_child_unref(c);
    pthread_mutex_unlock(&w->lock);
}

// ---- ords ----------------------------------------------------------------------------

bool dti_own_add(dtask_task *f, uint32_t first, uint32_t count) {
    if (f->nown && f->own[f->nown - 1].first + f->own[f->nown - 1].count == first) {
        f->own[f->nown - 1].count += count;
        return true;
    }
    if (!dti_grow(&f->own, f->nown, &f->cown, sizeof *f->own)) return false;
    f->own[f->nown++] = (dti_span){first, count};
    return true;
}

bool dti_child_ord(dtask_child *c, uint32_t ord) {
    c->ord = ord;
    if (!table_add(c->task, c)) return false;
    c->sent = true;
    return true;
}

bool dti_batch_add(dtask_child *c, uint64_t at, uint32_t ord, uint32_t count) {
    dti_batch *b = c->batch;
    dti_seg *last = b->nsegs ? &b->segs[b->nsegs - 1] : NULL;
    if (last && last->at + last->count == at && last->ord + last->count == ord) {
        last->count += count;
    } else {
        if (!dti_grow(&b->segs, b->nsegs, &b->csegs, sizeof *b->segs)) return false;
        b->segs[b->nsegs++] = (dti_seg){at, ord, count};
    }
    b->known += count;
    if (b->known == b->n) c->sent = true;
    return true;
}

// Takes the id.
bool dti_batch_join(dtask_child *c, uint64_t at, const char *id) {
    dti_batch *b = c->batch;
    if (!dti_grow(&b->joins, b->njoins, &b->cjoins, sizeof *b->joins)) return free((char *)id), false;
    b->joins[b->njoins++] = (dti_join){at, (char *)id};
    b->ndone++;
    b->known++;
    if (b->known == b->n) c->sent = true;
    return true;
}

static const char *join_of_item(const dti_batch *b, uint64_t item) {
    for (size_t i = 0; i < b->njoins; i++)
        if (b->joins[i].at == item) return b->joins[i].id;
    return NULL;
}

// Segments come in the order of the turns, which for items that a re-run
// found and for those it made anew are two orders.
static const dti_seg *seg_of_item(const dti_batch *b, uint64_t item) {
    for (size_t i = 0; i < b->nsegs; i++)
        if (item - b->segs[i].at < b->segs[i].count) return &b->segs[i];
    return NULL;
}

bool dti_batch_ord(const dtask_child *c, uint64_t item, uint32_t *out) {
    const dti_seg *s = seg_of_item(c->batch, item);
    if (s) *out = s->ord + (uint32_t)(item - s->at);
    return s;
}

// ---- completion ------------------------------------------------------------------------

// It was complete when all were, and is counted with them.
static bool quiet_before(const dtask_child *c) {
    return c->serial < c->task->quiet_serial;
}

bool dti_child_done(const dtask_child *c) {
    if (c->done || c->joined || quiet_before(c)) return true;
    return c->batch && (c->unmade || c->batch->ndone == c->batch->n);
}

// The item of ord is complete: true if it is one of the batch's, and news.
static bool batch_mark(dtask_child *c, uint32_t ord, bool bad) {
    dti_batch *b = c->batch;
    for (size_t i = 0; i < b->nsegs; i++) {
        const dti_seg *s = &b->segs[i];
        if (ord - s->ord >= s->count) continue;
        uint64_t item = s->at + (ord - s->ord);
        if (!b->bits && !(b->bits = calloc((b->n + 63) / 64, sizeof *b->bits))) return false;
        if (b->bits[item / 64] >> (item % 64) & 1) return false;
        b->bits[item / 64] |= 1ull << (item % 64);
        b->ndone++;
        c->bad |= bad;
        if (c->any || (c->ff && bad)) c->task->hit = true;
        return true;
    }
    return false;
}

static void child_done(dtask_child *c, bool bad) {
    if (c->done) return;
    c->done = true;
    c->bad = bad;
    if (c->counted && !quiet_before(c)) c->task->ndone++;
    if (c->any || (c->ff && bad)) c->task->hit = true;
}

void dti_child_known(dtask_child *c, bool bad) {
    child_done(c, bad);
}

void dti_child_end(dtask_child *c, const dti_mail *m) {
    child_done(c, m->bad || m->state == DTI_FAILED);
    if (c->loaded || dti_joined_take(c, m)) return;
    c->bad = m->bad || m->state == DTI_FAILED;
    dtask_str result = {0};
    c->end.n = 0;
    dtask_str job = c->task->id;
    uint32_t ord;
    if (c->joined) dti_id_split(dti_strz(c->id), &job, &ord);
    c->code = dti_mail_end(&c->end, job, m, &result);
    if (!c->code) {
        c->end.n = 0;
        dti_buf_add(&c->end, result.p, result.n);
    }
    c->loaded = !c->end.failed && !dti_mail_unsaid(m); // else it is read when it is asked for
}

static bool seen_add(dtask_task *f, uint32_t ord) {
    if (f->nseen * 2 >= f->cseen) {
        size_t cap = f->cseen ? f->cseen * 2 : 64;
        uint32_t *t = calloc(cap, sizeof *t);
        if (!t) return false;
        for (size_t i = 0; i < f->cseen; i++)
            if (f->seen[i]) {
                size_t at = place(f->seen[i], cap);
                while (t[at]) at = (at + 1) & (cap - 1);
                t[at] = f->seen[i];
            }
        free(f->seen);
        f->seen = t;
        f->cseen = cap;
    }
    size_t at = place(ord, f->cseen);
    for (; f->seen[at]; at = (at + 1) & (f->cseen - 1))
        if (f->seen[at] == ord) return false;
    f->seen[at] = ord;
    f->nseen++;
    return true;
}

// For dtask_next: in the order of completion, each once.
static void give(dtask_task *f, const dti_mail *m) {
    if (!seen_add(f, m->ord)) return;
    dti_given *g = calloc(1, sizeof *g);
    if (!g) return;
    g->ord = m->ord;
    g->bad = m->bad || m->state == DTI_FAILED;
    g->loaded = !dti_mail_unsaid(m);
    g->unique = m->state == DTI_SKIPPED && m->reason == DTI_R_UNIQUE;
    dtask_str result = {0};
    g->code = dti_mail_end(&g->end, f->id, m, &result);
    if (!g->code) {
        g->end.n = 0;
        dti_buf_add(&g->end, result.p, result.n);
    }
    if (f->given_last) f->given_last->next = g;
    else f->given = g;
    f->given_last = g;
}

void dti_child_ended(dtask_task *f, const dti_mail *m) {
    bool batched = false;
    for (dtask_child *b = f->batches; b; b = b->batch->next)
        if (batch_mark(b, m->ord, m->bad || m->state == DTI_FAILED) && !quiet_before(b)) batched = true;
    if (batched) f->ndone++;
    dtask_child *c = dti_child_by_ord(f, m->ord);
    if (c) dti_child_end(c, m);
    if (f->nexts) give(f, m);
}

void dti_ack_add(dtask_task *f, uint32_t ord, bool replaced) {
    dti_acks *a = &f->acks;
    if (dti_grow(&a->v, a->n, &a->cap, sizeof *a->v)) a->v[a->n++] = (dti_ack){ord, replaced};
}

// ---- outcomes ------------------------------------------------------------------------------

// One read of the engine; the reply lies in *mem.
dtask_err dti_read_op(dtask_task *f, dti_arena *mem, dti_op *op) {
    op->kind = DTI_OP_READ;
    return dti_engine_call(f->w->engine, mem, op);
}

// Children's outcomes go when their parent is complete: another attempt has
// ended this task.
static dtask_err kept(const dti_taskview *v) {
    return dti_payload_check(v, "a child") ? dti_fail(DTASK_ELOST, "this attempt is over: another one has ended this task; return") : DTASK_OK;
}

// A page of children from this one on: those that have handles learn with it.
dtask_err dti_child_load(dtask_child *c) {
    dtask_task *f = c->task;
    pthread_mutex_lock(&f->w->lock);
    bool have = c->loaded || c->batch || c->unmade;
    pthread_mutex_unlock(&f->w->lock);
    if (have) return DTASK_OK;
    if (c->joined) return dti_joined_load(c);
    dti_arena mem = {0};
    dti_op op = {.read = {.what = DTI_READ_KIDS, .id = f->id, .job = f->job, .ord = f->ord, .from = c->ord,
        .limit = DTI_PAGE, .whole = true}};
    dtask_err err = dti_read_op(f, &mem, &op);
    if (!err && op.read.n && op.read.tasks[0].ord == c->ord) err = dti_mail_fill(f->w->engine, &mem, f->id, &op.read.tasks[0].end);
    pthread_mutex_lock(&f->w->lock);
    for (uint32_t i = 0; !err && i < op.read.n; i++) {
        const dti_taskview *v = &op.read.tasks[i];
        if ((err = kept(v))) break;
        dtask_child *k = dti_terminal(v->row.state) ? dti_child_by_ord(f, v->ord) : NULL;
        if (k) dti_child_end(k, &v->end);
    }
    bool joined = c->joined;     // its row says so
    if (!err && !joined && !c->loaded)
        err = dti_fail(DTASK_ENOTFOUND, "how child %.*s/%u ended is not kept", (int)f->id.n, f->id.p, c->ord);
    pthread_mutex_unlock(&f->w->lock);
    dti_arena_done(&mem);
    return err || !joined ? err : dti_joined_load(c);
}

static void ack_child(dtask_child *c) {
    if (!c->bad || c->acked || c->joined) return;
    c->acked = true;
    dti_ack_add(c->task, c->ord, false);
}

typedef struct {                 // a batch's outcome, as it is read
    dti_buf results, errors;
    uint64_t failed;
    uint32_t nerrors;
    dtask_err code;              // the first that is not good
    dtask_str first;             // its map, in errors
    size_t first_at, first_n;
} gathering;

static void gather_one(dtask_child *c, const dti_taskview *v, bool looked, gathering *g) {
    dtask_task *f = c->task;
    dti_buf map = {0};
    dtask_str result = {0};
    dtask_err code = dti_terminal(v->row.state) ? dti_view_end_brief(&map, v, &result) : DTASK_EUSAGE;
    if (!code) {
        if (result.n) dti_mp_put_raw(&g->results, result);
        else dti_mp_put_nil(&g->results);
    } else {
        if (!g->code) g->code = code, g->first_at = g->errors.n, g->first_n = map.n;
        g->failed++;
        if (g->nerrors < DTI_ERRORS_MAX && (!g->nerrors || g->errors.n + map.n <= f->w->conf.max_payload)) {
            dti_mp_put_raw(&g->errors, dti_str(map.p, map.n));
            g->nerrors++;
        }
        if (looked && code == DTASK_EFAILED && !(v->row.bits & DTI_SEEN)) {
            pthread_mutex_lock(&f->w->lock);
            dti_ack_add(f, v->ord, false);
            pthread_mutex_unlock(&f->w->lock);
        }
    }
    dti_buf_done(&map);
}

static int by_item(const void *a, const void *b) {
    const dti_seg *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int by_join(const void *a, const void *b) {
    const dti_join *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static dtask_err gather_other(dtask_child *c, dtask_str id, gathering *g) {
    dti_arena mem = {0};
    dti_taskview v;
    dtask_err err = dti_joined_read(c, id, &mem, &v);
    if (!err) gather_one(c, &v, false, g); // its failure is its own parent's
    dti_arena_done(&mem);
    return err;
}

// Those that stand before item `to`, from *at on.
static dtask_err gather_joins(dtask_child *c, size_t *at, uint64_t to, gathering *g) {
    const dti_batch *b = c->batch;
    dtask_err err = DTASK_OK;
    for (; !err && *at < b->njoins && b->joins[*at].at < to; ++*at) {
        err = gather_other(c, dti_strz(b->joins[*at].id), g);
    }
    return err;
}

static dtask_err gather_seg(dtask_child *c, dti_seg s, bool looked, gathering *g) {
    dtask_task *f = c->task;
    dti_arena mem = {0};
    dtask_err err = DTASK_OK;
    uint32_t end = s.ord + s.count;
    for (uint32_t from = s.ord; !err && from < end;) {
        dti_arena_reset(&mem);
        dti_op op = {.read = {.what = DTI_READ_KIDS, .id = f->id, .job = f->job, .ord = f->ord, .from = from,
            .limit = end - from < DTI_PAGE ? end - from : DTI_PAGE, .whole = true}};
        err = dti_read_op(f, &mem, &op);
        uint32_t before = from;
        for (uint32_t i = 0; !err && i < op.read.n && op.read.tasks[i].ord == from; i++, from++)
            if (!(err = kept(&op.read.tasks[i]))) {
                dtask_str other = dti_joined_id(c, &op.read.tasks[i].end);
                if (other.n) err = gather_other(c, other, g);
                else gather_one(c, &op.read.tasks[i], looked, g);
            }
        if (!err && from == before)
            err = dti_fail(DTASK_ENOTFOUND, "how child %.*s/%u ended is not kept", (int)f->id.n, f->id.p, from);
        if (!err && g->results.n > f->w->conf.max_payload)
            err = dti_fail(DTASK_ETOOBIG, "the results of this batch are over max_payload (%zu bytes): read them one by one "
                "with dtask_child_at, or join them in tasks of their own", f->w->conf.max_payload);
    }
    dti_arena_done(&mem);
    return err;
}

// The map that a caller gets for a batch with ends that are not good.
static void put_children_failed(dtask_child *c, const gathering *g, dti_buf *out) {
    dtask_task *f = c->task;
    char text[80];
    static const char *const keys[] = {"task_id", "type", "message"};
    int n = snprintf(text, sizeof text, "%llu of %llu children did not succeed, the first ", (unsigned long long)g->failed,
        (unsigned long long)c->batch->n);
    dti_buf message = {0};
    dti_buf_add(&message, text, (size_t)n);
    for (int i = 0; i < 3; i++) {
        dtask_str why = {0};
        dti_mp_text(dti_mp_get(dti_str(g->errors.p + g->first_at, g->first_n), keys[i]), &why);
        if (i) dti_buf_add(&message, ": ", 2);
        dti_buf_add(&message, why.p, why.n);
    }
    dti_mp_put_map(out, 8);
    dti_mp_put_strz(out, "type");
    dti_mp_put_strz(out, "ChildrenFailed");
    dti_mp_put_strz(out, "message");
    dti_mp_put_str(out, dti_str(message.p, message.n));
    out->failed |= message.failed;
    dti_buf_done(&message);
    dti_mp_put_strz(out, "traceback");
    dti_mp_put_strz(out, "");
    dti_mp_put_strz(out, "language");
    dti_mp_put_strz(out, "");
    dti_mp_put_strz(out, "task_id");
    dti_put_task_id(out, f, f->ord);
    dti_mp_put_strz(out, "attempts");
    dti_mp_put_uint(out, 1);
    dti_mp_put_strz(out, "failed");
    dti_mp_put_uint(out, g->failed);
    dti_mp_put_strz(out, "errors");
    dti_mp_put_array(out, g->nerrors);
    dti_buf_add(out, g->errors.p, g->errors.n);
}

static dtask_err batch_outcome(dtask_child *c, bool looked) {
    dtask_task *f = c->task;
    dti_batch *b = c->batch;
    if (c->loaded) return c->code;
    if (c->unmade) return dti_fail(DTASK_ECANCELLED, "the task was cancelled before all of its children were made");
    gathering g = {0};
    dti_mp_put_array(&g.results, (uint32_t)b->n);
    dti_seg *segs = malloc(b->nsegs * sizeof *segs + 1);
    if (!segs) {
        dti_buf_done(&g.results);
        return dti_fail(DTASK_ENOMEM, "no memory for a batch of %zu runs", b->nsegs);
    }
    if (b->nsegs) memcpy(segs, b->segs, b->nsegs * sizeof *segs);
    qsort(segs, b->nsegs, sizeof *segs, by_item);
    if (b->njoins) qsort(b->joins, b->njoins, sizeof *b->joins, by_join);
    dtask_err err = DTASK_OK;
    size_t join = 0;
    for (size_t i = 0; i < b->nsegs && !err; i++) {
        err = gather_joins(c, &join, segs[i].at, &g);
        if (!err) err = gather_seg(c, segs[i], looked, &g);
    }
    if (!err) err = gather_joins(c, &join, b->n, &g);
    free(segs);
    if (!err && (g.results.failed || g.errors.failed)) err = dti_fail(DTASK_ENOMEM, "no memory for a batch's results");
    if (!err) {
        pthread_mutex_lock(&f->w->lock);
        c->code = g.failed ? g.code : DTASK_OK;
        c->end.n = 0;
        if (g.failed) put_children_failed(c, &g, &c->end);
        else dti_buf_add(&c->end, g.results.p, g.results.n);
        c->loaded = !c->end.failed && (looked || !g.failed);
        err = c->end.failed ? dti_fail(DTASK_ENOMEM, "no memory for a batch's results") : c->code;
        pthread_mutex_unlock(&f->w->lock);
    }
    dti_buf_done(&g.results);
    dti_buf_done(&g.errors);
    return err;
}

dtask_err dti_child_outcome(dtask_child *c, bool looked, dtask_str *out) {
    dtask_worker *w = c->task->w;
    pthread_mutex_lock(&w->lock);
    bool done = dti_child_done(c);
    pthread_mutex_unlock(&w->lock);
    if (!done) return dti_fail(DTASK_EUSAGE, "this child is not complete: wait for it first");
    if (c->batch) {
        dtask_err err = batch_outcome(c, looked);
        *out = c->loaded || c->end.n ? dti_str(c->end.p, c->end.n) : (dtask_str){0};
        return err;
    }
    if (c->unmade) {
        *out = (dtask_str){0};
        return dti_fail(DTASK_ECANCELLED, "the task was cancelled before this child was made");
    }
    dtask_err err = dti_child_load(c);
    if (err) return err;
    if (c->joined && !c->loaded) return dti_joined_not_ours(c->id);
    if (looked && c->code == DTASK_EFAILED) {
        pthread_mutex_lock(&w->lock);
        ack_child(c);
        pthread_mutex_unlock(&w->lock);
    }
    *out = dti_str(c->end.p, c->end.n);
    return c->code;
}

void dti_child_failures(const dtask_child *c, dtask_err err, dtask_str end, dti_failures *out) {
    dtask_str one;
    if (!c->batch) {
        dti_failures_add(out, end, err);
        return;
    }
    int64_t failed = 0;
    dti_mp at = dti_mp_of(dti_mp_get(end, "errors"));
    dti_mpval head;
    for (dti_mp_next(&at, &head); at.p < at.end && dti_mp_skip(&at, &one);) dti_failures_add(out, one, DTASK_OK);
    if (dti_mp_int(dti_mp_get(end, "failed"), &failed)) out->failed = (uint64_t)failed;
}

dtask_err dti_child_fails(dtask_child *c, dtask_err err, dtask_str end) {
    dti_fail_map(err, end);
    dti_failures all = {0};
    dti_child_failures(c, err, end, &all);
    dti_fallen_keep(c->task, err, &all);
    dti_failures_done(&all);
    return err;
}

dtask_err dtask_b_child_at(dtask_child *batch, uint64_t i, dtask_child **out) {
    dtask_task *f = batch->task;
    dtask_err err = dti_frame_check(f);
    if (err) return err;
    if (!batch->batch) return dti_fail(DTASK_EUSAGE, "this is one child, no batch");
    if (i >= batch->batch->n)
        return dti_fail(DTASK_EARGS, "the batch has %llu children: there is no number %llu",
            (unsigned long long)batch->batch->n, (unsigned long long)i);
    err = dti_sync(f, batch, i);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    uint32_t ord = 0;
    dtask_child *c = NULL;
    bool known = dti_batch_ord(batch, i, &ord);
    const char *joined = known ? NULL : join_of_item(batch->batch, i);
    if (joined) {
        if ((c = dti_child_new(f, false, 0)) && !(c->id = strdup(joined))) dti_child_unref(c), c = NULL;
        if (c) c->joined = c->sent = true, c->over = batch->over;
    } else if (known && (c = dti_child_by_ord(f, ord))) {
        c->refs++;
    } else if ((c = dti_child_new(f, false, 0))) {
        c->serial = batch->serial;
        c->over = batch->over;
        c->unmade = c->done = !known;
        const uint64_t *bits = batch->batch->bits;
        c->done |= bits && bits[i / 64] >> (i % 64) & 1;
        if (known && !dti_child_ord(c, ord)) {
            dti_child_unref(c);
            c = NULL;
        }
    }
    pthread_mutex_unlock(&f->w->lock);
    if (!c) return dti_fail(DTASK_ENOMEM, "no memory for a child's handle");
    *out = c;
    return DTASK_OK;
}

// ---- the binding's ---------------------------------------------------------------------------

uint64_t dtask_b_child_count(dtask_child *c) {
    return c->batch ? c->batch->n : 1;
}

int dtask_b_child_done(dtask_child *c) {
    dtask_worker *w = c->task->w;
    if (dti_app_check(w->app)) return 0;
    pthread_mutex_lock(&w->lock);
    bool done = dti_child_done(c);
    pthread_mutex_unlock(&w->lock);
    return done;
}

int dtask_b_child_bad(dtask_child *c) {
    pthread_mutex_lock(&c->task->w->lock);
    bool bad = c->bad;
    pthread_mutex_unlock(&c->task->w->lock);
    return bad;
}

dtask_err dtask_b_child_end(dtask_child *c, int looked, dtask_str *out) {
    dtask_err err = dti_frame_check(c->task);
    return err ? err : dti_child_outcome(c, looked, out);
}

dtask_err dtask_b_child_id(dtask_child *c, dtask_str *out) {
    dtask_task *f = c->task;
    dtask_err err = dti_frame_check(f);
    if (err) return err;
    if (c->batch) return dti_fail(DTASK_EUSAGE, "a batch has no id: ask its children");
    if (!c->id) {
        err = dti_sync(f, c, 0);
        if (err) return err;
    }
    if (c->unmade) return dti_fail(DTASK_ECANCELLED, "the task was cancelled before this child was made");
    if (!c->id && c->over && (err = dti_joined_look(c))) return err;
    if (!c->id) {
        char *id = malloc(f->id.n + 12);
        if (!id) return dti_fail(DTASK_ENOMEM, "no memory for an id");
        snprintf(id, f->id.n + 12, "%.*s/%u", (int)f->id.n, f->id.p, c->ord);
        c->id = id;
    }
    *out = dti_strz(c->id);
    return DTASK_OK;
}

dtask_err dtask_b_child_find(dtask_task *f, const char *id, dtask_child **out) {
    dtask_err err = dti_frame_check(f);
    if (err) return err;
    dtask_str job;
    uint32_t ord;
    if (!dti_id_split(dti_strz(id), &job, &ord)) return dti_fail(DTASK_EARGS, "\"%s\" is no task id: job/number", id);
    if (!dti_str_eq(job, f->id) || ord <= f->ord)
        return dti_fail(DTASK_EDEADLOCK, "%s is no child of this task: a handler waits only for its own children", id);
    dti_arena mem = {0};
    dti_op op = {.read = {.what = DTI_READ_TASK, .id = job, .job = f->job, .ord = ord}};
    err = dti_read_op(f, &mem, &op);
    if (!err && !op.read.n) err = dti_fail(DTASK_ENOTFOUND, "no task %s", id);
    if (!err && op.read.tasks[0].row.parent != f->ord)
        err = dti_fail(DTASK_EDEADLOCK, "%s is no child of this task: a handler waits only for its own children", id);
    dtask_child *c = NULL;
    if (!err) {
        pthread_mutex_lock(&f->w->lock);
        if ((c = dti_child_by_ord(f, ord))) c->refs++;
        else if ((c = dti_child_new(f, false, 0)) && !dti_child_ord(c, ord)) dti_child_unref(c), c = NULL;
        if (c && dti_terminal(op.read.tasks[0].row.state)) dti_child_end(c, &op.read.tasks[0].end);
        pthread_mutex_unlock(&f->w->lock);
        if (c) *out = c;
        else err = dti_fail(DTASK_ENOMEM, "no memory for a child's handle");
    }
    dti_arena_done(&mem);
    return err;
}

dtask_err dtask_b_child_cancel(dtask_child *c) {
    dtask_task *f = c->task;
    dtask_err err = dti_frame_check(f);
    if (err) return err;
    err = c->batch ? c->batch->n ? dti_sync(f, c, c->batch->n - 1) : DTASK_OK : dti_sync(f, c, 0);
    if (err || c->unmade) return err;
    if (c->joined) return dti_fail(DTASK_EUSAGE, "%s is another call's task: cancel it through its job", c->id);
    size_t n = c->batch ? c->batch->nsegs : 1;
    dti_range *ranges = calloc(n + 1, sizeof *ranges);
    if (!ranges) return dti_fail(DTASK_ENOMEM, "no memory to cancel a batch");
    pthread_mutex_lock(&f->w->lock);
    for (size_t i = 0; i < n; i++)
        ranges[i] = c->batch ? (dti_range){.first = c->batch->segs[i].ord, .count = c->batch->segs[i].count}
            : (dti_range){.first = c->ord, .count = 1};
    pthread_mutex_unlock(&f->w->lock);
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = f->id, .kids = true, .ord = f->ord,
        .ranges = ranges, .nranges = (uint32_t)n}};
    err = n ? dti_engine_call(f->w->engine, &mem, &op) : DTASK_OK;
    if (!err && n && op.mark.status == DTI_MARK_ENDED) err = dti_fail(DTASK_EUSAGE, "it has ended");
    dti_arena_done(&mem);
    free(ranges);
    return err;
}

// ---- failures, without the results beside them --------------------------------------

static bool is_bad(const dti_taskrow *r) {
    return r->state == DTI_FAILED || (r->state == DTI_SUCCEEDED && r->bad);
}

// Rows come alone; of those that are bad the first are read whole.
static dtask_err failures_of(dtask_child *c, dti_seg s, gathering *g) {
    dtask_task *f = c->task;
    dti_arena mem = {0}, one = {0};
    dtask_err err = DTASK_OK;
    uint32_t end = s.ord + s.count;
    for (uint32_t from = s.ord; !err && from < end;) {
        dti_arena_reset(&mem);
        dti_op op = {.read = {.what = DTI_READ_KIDS, .id = f->id, .job = f->job, .ord = f->ord, .from = from,
            .limit = end - from < DTI_PAGE ? end - from : DTI_PAGE}};
        err = dti_read_op(f, &mem, &op);
        uint32_t before = from;
        for (uint32_t i = 0; !err && i < op.read.n && op.read.tasks[i].ord == from; i++, from++) {
            if (!is_bad(&op.read.tasks[i].row)) continue;
            dti_arena_reset(&one);
            dti_op whole = {.read = {.what = DTI_READ_TASK, .id = f->id, .job = f->job, .ord = from, .whole = true}};
            err = dti_read_op(f, &one, &whole);
            if (!err && whole.read.n) gather_one(c, &whole.read.tasks[0], true, g);
        }
        if (!err && from == before) break; // their rows are not kept: they were good
    }
    dti_arena_done(&mem);
    dti_arena_done(&one);
    return err;
}

dtask_err dtask_b_child_failures(dtask_child *c, dtask_str *out, uint64_t *out_n) {
    dtask_err err = dti_frame_check(c->task);
    gathering g = {0};
    dtask_str map = {0};
    if (!err && !c->batch && !c->joined) {
        dtask_err how = dti_child_outcome(c, true, &map);
        if (how == DTASK_EFAILED) g.failed = g.nerrors = 1, dti_mp_put_raw(&g.errors, map);
        else if (how != DTASK_ECANCELLED && how != DTASK_ESKIPPED) err = how;
    }
    for (size_t i = 0; !err && c->batch && i < c->batch->nsegs; i++) err = failures_of(c, c->batch->segs[i], &g);
    if (!err) {
        dti_buf list = {0};
        dti_mp_put_array(&list, g.nerrors);
        dti_buf_add(&list, g.errors.p, g.errors.n);
        if (list.failed || g.errors.failed) {
            dti_buf_done(&list);
            err = dti_fail(DTASK_ENOMEM, "no memory for a batch's failures");
        } else {
            *out = dti_str(list.p, list.n);
            *out_n = g.failed;
        }
    }
    dti_buf_done(&g.results);
    dti_buf_done(&g.errors);
    return err;
}
