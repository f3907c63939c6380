// dynatask.join: the memory of a trigger whose conditions are joined by `&`.
//
// Each such condition has one task, the root of a job of its own, to which
// the occurrences of its sides are posted, in any order. When each side has
// an unused one, the oldest of each are used: they start one job, as its
// trigger. The formats are in proto/join.md.
//
// Guaranteed: an occurrence is used once, however often it is posted and
// whenever a worker dies. Which go together follows from their order in the
// log alone, and the job's id is made of theirs: a run that is repeated
// starts the jobs that are there already. As soon as jobs were started the
// task goes on as itself (`then`), with what is unused as its arguments and
// all that it received out of its log. So the log stays short, and no job is
// started again when it was removed by its retention.
//
// Bounded: a side that has 10,000 unused occurrences, or 1 MiB of them, takes
// no more, the others do. Not done: filters, and what the sides are; who
// posts knows.
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

enum {
    PAGE = 1000,                 // log entries read at once
    SETS = 64,                   // jobs started by one call
    RECEIVED_MAX = 1000,         // of the log, before the task goes on as itself
    RECEIVED_BYTES_MAX = 256 << 10,
    AGAIN_MS = 1000,             // after an engine's failure
};

typedef struct { uint32_t side; dtask_str id, value, whole; } occurred;
typedef struct { occurred *v; size_t at, n, cap; } queue; // those before `at` are used
typedef struct {
    dtask_str type;
    uint32_t sides;
    queue *side;
    dti_arena mem;               // of what was read in the log
    uint32_t next, received;     // place in the log; entries that this run took
    size_t bytes;
} join;

// ---- formats --------------------------------------------------------------------

typedef struct { dtask_str type; uint32_t sides, n; dti_mp unused; } arguments;

static bool args_parse(dtask_str args, arguments *out) {
    dti_mp at = dti_mp_of(args);
    dti_mpval head, type, sides, unused;
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_ARRAY || head.n != 3) return false;
    if (!dti_mp_next(&at, &type) || type.kind != DTI_MP_STR) return false;
    if (!dti_mp_next(&at, &sides) || sides.kind != DTI_MP_UINT || sides.u < 2 || sides.u > DTI_JOIN_SIDES_MAX) return false;
    if (!dti_mp_next(&at, &unused) || unused.kind != DTI_MP_ARRAY) return false;
    *out = (arguments){type.s, (uint32_t)sides.u, unused.n, at};
    return true;
}

static void args_put(dti_buf *b, dtask_str type, uint32_t sides, uint32_t n) { // n occurrences follow
    dti_mp_put_array(b, 3);
    dti_mp_put_str(b, type);
    dti_mp_put_uint(b, sides);
    dti_mp_put_array(b, n);
}

static bool occurred_parse(dtask_str v, uint32_t sides, occurred *out) {
    dti_mp at = dti_mp_of(v);
    dti_mpval head, side, id;
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_ARRAY || head.n != 3) return false;
    if (!dti_mp_next(&at, &side) || side.kind != DTI_MP_UINT || side.u >= sides) return false;
    if (!dti_mp_next(&at, &id) || id.kind != DTI_MP_STR) return false;
    *out = (occurred){.side = (uint32_t)side.u, .id = id.s, .whole = v};
    return dti_mp_skip(&at, &out->value) && at.p == at.end;
}

static void occurred_put(dti_buf *b, const dti_occurrence *o) {
    dti_mp_put_array(b, 3);
    dti_mp_put_uint(b, o->side);
    dti_mp_put_str(b, o->id);
    dti_mp_put_raw(b, o->value);
}

// ---- what came ---------------------------------------------------------------------

static dtask_err take(join *j, occurred o) {
    queue *q = &j->side[o.side];
    if (!dti_grow(&q->v, q->n, &q->cap, sizeof *q->v)) return dti_fail(DTASK_ENOMEM, "no memory for an occurrence");
    q->v[q->n++] = o;
    return DTASK_OK;
}

static dtask_err take_args(dtask_task *f, join *j) {
    arguments a;
    if (!args_parse(f->args, &a)) return dti_fail(DTASK_EFATAL, DTI_SYS_JOIN " takes a type, a number of sides, and an array of occurrences");
    j->type = a.type;
    j->sides = a.sides;
    if (!(j->side = calloc(a.sides, sizeof *j->side))) return dti_fail(DTASK_ENOMEM, "no memory for a join");
    dtask_err err = DTASK_OK;
    for (uint32_t i = 0; i < a.n && !err; i++) {
        dtask_str v;
        occurred o;
        bool ok = dti_mp_skip(&a.unused, &v) && occurred_parse(v, j->sides, &o);
        err = ok ? take(j, o) : dti_fail(DTASK_EFATAL, "argument 2 of " DTI_SYS_JOIN " holds what is no occurrence");
    }
    return err;
}

// Whatever else is in the log (anybody may send a signal) is said and passed over.
static dtask_err take_log(dtask_task *f, join *j) {
    for (bool more = true; more;) {
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_LOG, .id = f->id, .job = f->job, .ord = f->ord, .from = j->next, .limit = PAGE}};
        dtask_err err = dti_engine_call(f->w->engine, &j->mem, &op);
        for (uint32_t i = 0; i < op.read.n && !err; i++) {
            const dti_mail *m = &op.read.mails[i];
            occurred o;
            j->received++;
            j->bytes += m->data.n;
            if (m->kind == DTI_LOG_SIG && occurred_parse(m->data, j->sides, &o)) err = take(j, o);
            else dti_frame_log(f, LOG_WARNING, "a signal that is no occurrence of this join was dropped");
        }
        if (err) return err;
        j->next = op.read.next;
        more = op.read.more;
    }
    return DTASK_OK;
}

// ---- what that starts ---------------------------------------------------------------

static unsigned bangs(dtask_str id) {
    unsigned n = 0;
    for (size_t i = 0; i < id.n; i++) n += id.p[i] == '!';
    return n;
}

// "<id>!<type>&<hash>": of the occurrence that came by the longest chain of
// triggers, so that a chain that closes ends; the hash is of all their ids.
static dtask_str id_of(const join *j, size_t k, dti_arena *mem) {
    dti_buf ids = {0};
    dtask_str longest = {0};
    for (uint32_t i = 0; i < j->sides; i++) {
        dtask_str id = j->side[i].v[j->side[i].at + k].id;
        uint64_t n = id.n;
        dti_buf_add(&ids, &n, sizeof n);
        dti_buf_add(&ids, id.p, n);
        if (!i || bangs(id) > bangs(longest)) longest = id;
    }
    dti_hash h = dti_hash128(ids.p, ids.n, 0);
    size_t room = longest.n + j->type.n + 36;
    char *p = ids.failed ? NULL : dti_alloc(mem, room);
    dti_buf_done(&ids);
    if (!p) return (dtask_str){0};
    int n = snprintf(p, room, "%.*s!%.*s&%016llx%016llx", (int)longest.n, longest.p, (int)j->type.n, j->type.p, (unsigned long long)h.h[0],
        (unsigned long long)h.h[1]);
    return dti_str(p, (size_t)n);
}

static dtask_str trigger_of(const join *j, size_t k, dti_arena *mem) {
    dti_buf b = {0};
    dti_mp_put_map(&b, 1);
    dti_mp_put_strz(&b, "all");
    dti_mp_put_array(&b, j->sides);
    for (uint32_t i = 0; i < j->sides; i++) dti_mp_put_raw(&b, j->side[i].v[j->side[i].at + k].value);
    dtask_str v = b.failed ? (dtask_str){0} : dti_dup(mem, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return v;
}

// As triggers start a job: without arguments, which its worker makes of the
// trigger, and so without keys of them.
static dtask_err start_of(dtask_app *app, const dti_typeinfo *type, dtask_str id, dtask_str args, dti_arena *mem, dti_start *out) {
    dti_typeinfo bare = *type;
    dti_callopts none;
    bare.sig = NULL;
    bare.nkeys = 0;
    dtask_err err = dti_callopts_parse(mem, NULL, true, &none);
    if (!err) err = dti_call_make(app, mem, &bare, &none, args, id, &out->task);
    out->id = id;
    out->max_tasks = app->conf.max_tasks;
    out->max_depth = app->conf.max_depth;
    out->blob_min = (uint32_t)app->conf.blob_min;
    out->keep = app->conf.keep;
    out->retain_us = app->conf.retain_us;
    out->grace_us = app->conf.grace_us;
    return err;
}

// The first n sets, n at most SETS.
static dtask_err start_some(dtask_task *f, join *j, const dti_typeinfo *type, size_t n) {
    dti_arena mem = {0};
    dtask_app *app = f->w->app;
    dti_op *ops = dti_alloc0(&mem, n * sizeof *ops);
    size_t nops = 0;
    dtask_err err = ops ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory to start jobs");
    for (size_t k = 0; k < n && !err; k++) {
        dtask_str id = id_of(j, k, &mem), trigger = trigger_of(j, k, &mem);
        if (!id.p || !trigger.p) err = dti_fail(DTASK_ENOMEM, "no memory to start jobs");
        else if (dti_id_check(id, true)) dti_frame_log(f, LOG_ERR, dtask_err_detail()); // as any trigger: the chain ends here
        else {
            dti_op *op = &ops[nops++];
            *op = (dti_op){.kind = DTI_OP_START, .start = {.trigger = trigger}};
            err = start_of(app, type, id, dti_str("\x90", 1), &mem, &op->start);
        }
    }
    if (!err && nops) f->w->engine->ops->call(f->w->engine, &mem, ops, nops);
    for (size_t i = 0; i < nops && !err; i++) {
        if (ops[i].err) err = ops[i].err;
        else if (ops[i].start.status != DTI_CREATED && ops[i].start.status != DTI_EXISTS)
            err = dti_fail(DTASK_EFATAL, "%.*s is there and is another job", (int)ops[i].start.id.n, ops[i].start.id.p);
    }
    for (uint32_t i = 0; i < j->sides && !err; i++) j->side[i].at += n;
    dti_arena_done(&mem);
    return err;
}

static dtask_err start_all(dtask_task *f, join *j, bool *out_some) {
    *out_some = false;
    for (;;) {
        size_t n = SETS;
        for (uint32_t i = 0; i < j->sides; i++) {
            size_t unused = j->side[i].n - j->side[i].at;
            if (unused < n) n = unused;
        }
        if (!n) return DTASK_OK;
        const dti_typeinfo *type;
        dtask_err err = dti_type_find(f->w->app, j->type, 0, &type);
        if (!err) err = start_some(f, j, type, n);
        if (err) return err;
        *out_some = true;
    }
}

// ---- the handler --------------------------------------------------------------------------

static dtask_err go_on(dtask_task *f, const join *j) {
    dti_buf args = {0};
    uint32_t n = 0;
    for (uint32_t i = 0; i < j->sides; i++) n += (uint32_t)(j->side[i].n - j->side[i].at);
    args_put(&args, j->type, j->sides, n);
    for (uint32_t i = 0; i < j->sides; i++)
        for (size_t k = j->side[i].at; k < j->side[i].n; k++) dti_mp_put_raw(&args, j->side[i].v[k].whole);
    dtask_b_call call = {.type = DTI_SYS_JOIN, .args = dti_str(args.p, args.n)};
    dtask_err err = args.failed ? dti_fail(DTASK_ENOMEM, "no memory for a join's arguments") : dtask_b_then(f, &call);
    dti_buf_done(&args);
    pthread_mutex_lock(&f->w->lock);
    f->received = j->next;
    pthread_mutex_unlock(&f->w->lock);
    return err;
}

dtask_err dti_join_run(dtask_task *f, void *arg) {
    (void)arg;
    join j = {0};
    bool some = false;
    dtask_err err = take_args(f, &j);
    while (!err) {
        err = take_log(f, &j);
        if (!err) err = start_all(f, &j, &some);
        if (!err && (some || j.received >= RECEIVED_MAX || j.bytes >= RECEIVED_BYTES_MAX)) {
            err = go_on(f, &j);
            break;
        }
        if (!err) err = dti_wait_mail(f, j.next);
    }
    for (uint32_t i = 0; j.side && i < j.sides; i++) free(j.side[i].v);
    free(j.side);
    dti_arena_done(&j.mem);
    if (err != DTASK_EENGINE && err != DTASK_ENOMEM) return err;
    // It holds what others count on: it tries for ever.
    dti_frame_log(f, LOG_WARNING, dtask_err_detail());
    pthread_mutex_lock(&f->w->lock);
    f->freed = true;
    pthread_mutex_unlock(&f->w->lock);
    return dtask_retry(f, AGAIN_MS);
}

// ---- who posts -------------------------------------------------------------------------------

static dtask_err check(const dti_occurrence *o) {
    if (o->sides < 2 || o->sides > DTI_JOIN_SIDES_MAX || o->side >= o->sides)
        return dti_fail(DTASK_EARGS, "side %u of %u: a join has 2 to %d sides, from 0", o->side, o->sides, DTI_JOIN_SIDES_MAX);
    if (!o->id.n) return dti_fail(DTASK_EARGS, "an occurrence has an id");
    dtask_err err = dti_id_check(o->join, true);
    return err ? err : dti_mp_check(o->value, "the occurrence");
}

// That the join in the store is this one, and its side has room.
static dtask_err check_room(dtask_str args, const dti_occurrence *o) {
    arguments a;
    if (!args_parse(args, &a) || a.sides != o->sides || !dti_str_eq(a.type, o->type))
        return dti_fail(DTASK_ECONFLICT, "the job %.*s joins other conditions: choose another id", (int)o->join.n, o->join.p);
    if (a.n < DTI_LOG_MAX && args.n < DTI_LOG_BYTES_MAX) return DTASK_OK; // all sides together have so few
    size_t n = 0, bytes = 0;
    for (uint32_t i = 0; i < a.n; i++) {
        dtask_str v;
        occurred was;
        if (!dti_mp_skip(&a.unused, &v) || !occurred_parse(v, a.sides, &was) || was.side != o->side) continue;
        n++;
        bytes += v.n;
    }
    if (n < DTI_LOG_MAX && bytes < DTI_LOG_BYTES_MAX) return DTASK_OK;
    return dti_fail(DTASK_ETOOBIG, "%zu occurrences of side %u wait for another side of %.*s: no more are kept", n, o->side,
        (int)o->join.n, o->join.p);
}

static dtask_err begin(dtask_app *app, const dti_occurrence *o, dti_arena *mem) {
    const dti_typeinfo *type;
    dti_op op = {.kind = DTI_OP_START};
    dti_buf args = {0};
    args_put(&args, o->type, o->sides, 0);
    dtask_err err = args.failed ? dti_fail(DTASK_ENOMEM, "no memory for a join's arguments") : dti_type_find(app, dti_strz(DTI_SYS_JOIN), 0, &type);
    if (!err) err = start_of(app, type, o->join, dti_str(args.p, args.n), mem, &op.start);
    op.start.blob_min = UINT32_MAX; // its arguments change with each `then`; blobs would stay as long as it, for ever
    if (!err) err = dti_engine_call(app->engine, mem, &op);
    if (!err && op.start.status == DTI_CONFLICT)
        err = dti_fail(DTASK_ECONFLICT, "the job %.*s is there and is another one: choose another id", (int)o->join.n, o->join.p);
    dti_buf_done(&args);
    return err;
}

static dtask_err post(dtask_app *app, const dti_occurrence *o, dtask_str data, dti_arena *mem, bool *out_again) {
    dti_op look = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = o->join}};
    dtask_err err = dti_engine_call(app->engine, mem, &look);
    if (!err) err = look.read.n ? check_room(look.read.tasks[0].args, o) : begin(app, o, mem);
    if (err) return err;
    dti_hash id = dti_hash128(o->id.p, o->id.n, o->side);
    dti_op op = {.kind = DTI_OP_POST, .post = {.id = o->join, .msgid = {id.h[0], id.h[1]}, .data = data}};
    if ((err = dti_engine_call(app->engine, mem, &op))) return err;
    switch (op.post.status) {
    case DTI_POSTED: case DTI_DUP: return DTASK_OK;
    case DTI_NOTASK: *out_again = true; return DTASK_OK; // it was removed since the look
    case DTI_ENDED: return dti_fail(DTASK_EUSAGE, "the join %.*s has ended: purge it, and the next occurrence begins it anew", (int)o->join.n, o->join.p);
    case DTI_POST_FULL: break;
    }
    return dti_fail(DTASK_ETOOBIG, "the log of %.*s has no room for %zu bytes: is a worker running?", (int)o->join.n, o->join.p, data.n);
}

dtask_err dti_join_post(dtask_app *app, const dti_occurrence *o) {
    const dti_typeinfo *type;
    dtask_err err = dti_app_check(app);
    if (!err) err = check(o);
    if (!err) err = dti_type_find(app, o->type, 0, &type);
    dti_buf data = {0};
    if (!err) occurred_put(&data, o);
    if (data.failed) err = dti_fail(DTASK_ENOMEM, "no memory for an occurrence");
    dti_arena mem = {0};
    for (bool again = true; again && !err;) {
        again = false;
        dti_arena_reset(&mem);
        err = post(app, o, dti_str(data.p, data.n), &mem, &again);
    }
    dti_arena_done(&mem);
    dti_buf_done(&data);
    return err;
}
