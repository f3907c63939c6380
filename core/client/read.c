// dtask_b_read: a question as a msgpack map, the answer as one msgpack value.
// The shapes stand in dynatask_binding.h. Lists are read in pages, so that no
// answer holds up other users of the engine.
#include "client/client.h"

#include <stdio.h>
#include <string.h>

enum { PAGE = 256, LIMIT_MAX = 100000, DEPTH_MAX = 100, SCAN_MAX = 10000 };

typedef struct {
    dtask_app *app;
    dtask_str query;
    dti_buf out;
    dtask_err err;               // of reading what belongs to a row
} question;

// ---- writing --------------------------------------------------------------------------

static void put_int(dti_buf *b, const char *name, int64_t v) {
    dti_mp_put_strz(b, name);
    dti_mp_put_int(b, v);
}

static void put_text(dti_buf *b, const char *name, dtask_str v) {
    dti_mp_put_strz(b, name);
    dti_mp_put_str(b, v);
}

// A value that is msgpack already; nil where there is none.
static void put_value(dti_buf *b, const char *name, dtask_str v) {
    dti_mp_put_strz(b, name);
    if (v.n) dti_mp_put_raw(b, v);
    else dti_mp_put_nil(b);
}

static void put_map(dti_buf *b, const char *name, dtask_str v) {
    dti_mp_put_strz(b, name);
    if (v.n) dti_mp_put_raw(b, v);
    else dti_mp_put_map(b, 0);
}

static void put_id(dti_buf *b, const char *name, dtask_str job, uint32_t ord) {
    char id[4200]; // the longest that the model makes, and a number
    int n = snprintf(id, sizeof id, "%.*s/%u", (int)job.n, job.p, ord);
    put_text(b, name, dti_str(id, n < (int)sizeof id ? (size_t)n : sizeof id - 1));
}

// The error that a waiter would get; of a task that goes on, its last one.
static void put_error(question *q, const dti_taskview *t, dti_mail end) {
    dti_buf *b = &q->out;
    dti_arena mem = {0};
    dtask_str result;
    dti_mp_put_strz(b, "error");
    size_t from = b->n;
    if (!q->err) q->err = dti_mail_fill(q->app->engine, &mem, t->id, &end);
    if (dti_terminal(t->row.state)) dti_mail_end(b, t->id, &end, &result);
    else if (t->error.n) dti_mp_put_raw(b, t->error);
    if (b->n == from) dti_mp_put_nil(b);
    dti_arena_done(&mem);
}

// `more` pairs follow, the caller's.
static void put_task(question *q, const dti_taskview *t, uint32_t more) {
    dti_buf *b = &q->out;
    const dti_typeinfo *type = NULL;
    const dti_taskrow *r = &t->row;
    if (dti_type_by_no(q->app, r->type, &type)) type = NULL; // shown without its names, then
    dti_mp_put_map(b, 23 + more);
    put_id(b, "id", t->id, t->ord);
    put_text(b, "job", t->id);
    put_int(b, "ord", t->ord);
    if (t->ord) put_id(b, "parent", t->id, r->parent);
    else put_value(b, "parent", (dtask_str){0});
    put_text(b, "type", t->type);
    put_int(b, "version", type ? type->version : 0);
    put_text(b, "state", dti_strz(dti_state_names[r->state]));
    put_text(b, "reason", dti_strz(dti_reason_name(r->reason)));
    // Of a failed task the last try is among those counted.
    put_int(b, "attempt", (int64_t)r->tries + r->lost + (r->state != DTI_FAILED || !(r->tries || r->lost)));
    put_int(b, "lost", r->lost);
    put_text(b, "worker", t->by);
    put_text(b, "language", dti_strz(type ? type->language : ""));
    dti_mp_put_strz(b, "params");
    dti_mp_put_array(b, type ? type->nparams : 0);
    for (uint32_t i = 0; type && i < type->nparams; i++) dti_mp_put_strz(b, type->params[i]);
    put_value(b, "args", t->args);
    put_value(b, "result", t->result);
    put_error(q, t, t->end);
    put_value(b, "progress", t->progress);
    put_value(b, "flow", t->state);
    put_int(b, "added", r->added);
    put_int(b, "started", r->begun);
    put_int(b, "ended", r->ended);
    put_int(b, "open", r->open);
    put_int(b, "priority", r->prio);
}

static void put_job(question *q, const dti_jobview *j) {
    dti_buf *b = &q->out;
    dti_mp_put_map(b, 11);
    put_text(b, "id", j->id);
    put_text(b, "type", j->type);
    put_text(b, "state", dti_strz(dti_jobstate_names[j->row.state]));
    dti_mp_put_strz(b, "paused");
    dti_mp_put_bool(b, j->row.paused);
    put_map(b, "tags", j->tags);
    dti_mp_put_strz(b, "counts");
    dti_mp_put_map(b, 2 + DTI_STATES);
    put_int(b, "added", j->row.next);
    put_int(b, "claimed", (int64_t)j->row.claimed);
    for (int s = 0; s < DTI_STATES; s++) put_int(b, dti_state_names[s], j->row.count[s]);
    put_error(q, &j->root, dti_job_mail(j));
    put_value(b, "progress", j->root.progress);
    put_int(b, "started", j->row.created);
    put_int(b, "ended", j->row.ended);
    dti_mp_put_strz(b, "root");
    put_task(q, &j->root, 0);
}

static void put_type(dti_buf *b, const dti_typeview *t) {
    dti_mp_put_map(b, 7);
    put_text(b, "name", t->name);
    put_int(b, "version", t->row.type_version);
    put_text(b, "signature", t->signature);
    put_map(b, "options", t->options);
    dti_mp_put_strz(b, "served");
    dti_mp_put_bool(b, t->row.served);
    put_int(b, "workers", t->row.workers);
    dti_mp_put_strz(b, "paused");
    dti_mp_put_bool(b, t->row.paused);
}

static void put_worker(dti_buf *b, const dti_workerview *w) {
    dti_mp_put_map(b, 4);
    put_text(b, "name", dti_str(w->row.name, strnlen(w->row.name, sizeof w->row.name)));
    put_int(b, "since", w->row.since);
    put_int(b, "expires", w->row.expires);
    dti_mp_put_strz(b, "dead");
    dti_mp_put_bool(b, w->row.dead);
}

// ---- the question -----------------------------------------------------------------------

static dtask_err text_of(question *q, const char *name, bool needed, dtask_str *out) {
    dtask_str v = dti_mp_get(q->query, name);
    *out = (dtask_str){0};
    if (v.p && !dti_mp_text(v, out)) return dti_fail(DTASK_EARGS, "The query's %s must be text.", name);
    if (needed && !out->n) return dti_fail(DTASK_EARGS, "The query has no %s.", name);
    return DTASK_OK;
}

static dtask_err number_of(question *q, const char *name, int64_t otherwise, int64_t most, int64_t *out) {
    dtask_str v = dti_mp_get(q->query, name);
    *out = otherwise;
    if (v.p && (!dti_mp_int(v, out) || *out < 0)) return dti_fail(DTASK_EARGS, "The query's %s must be a number from 0.", name);
    if (*out > most) *out = most;
    return DTASK_OK;
}

static dtask_err ask(question *q, dti_arena *arena, dti_op *op) {
    op->kind = DTI_OP_READ;
    return dti_engine_call(q->app->engine, arena, op);
}

static dtask_err none(dtask_str id) {
    return dti_fail(DTASK_ENOTFOUND, "There is no job or task %.*s: it never was, or was removed after its retention.",
        (int)(id.n > 200 ? 200 : id.n), id.p);
}

static dtask_err task_id(question *q, dtask_str *job, uint32_t *ord) {
    dtask_str id;
    dtask_err err = text_of(q, "id", true, &id);
    if (err) return err;
    if (!dti_id_split(id, job, ord)) return dti_fail(DTASK_EARGS, "The id \"%.*s\" is neither a job's nor a task's (job/number).", (int)(id.n > 200 ? 200 : id.n), id.p);
    return dti_id_check(*job, true);
}

static dtask_err read_job(question *q, dti_arena *arena) {
    dti_op op = {.read = {.what = DTI_READ_JOB, .whole = true}};
    uint32_t ord;
    dtask_err err = task_id(q, &op.read.id, &ord);
    if (!err && !(err = ask(q, arena, &op)) && !op.read.n) err = none(op.read.id);
    if (!err) put_job(q, &op.read.jobs[0]);
    return err;
}

static dtask_err read_task(question *q, dti_arena *arena) {
    dti_op op = {.read = {.what = DTI_READ_TASK, .whole = true}};
    dtask_err err = task_id(q, &op.read.id, &op.read.ord);
    if (!err && !(err = ask(q, arena, &op)) && !op.read.n) err = none(op.read.id);
    if (!err) put_task(q, &op.read.tasks[0], 0);
    return err;
}

// ---- tree ---------------------------------------------------------------------------------
// Read level by level: which tasks are shown when the limit cuts is decided
// breadth first, so that one deep branch does not take it all.

typedef struct node {
    dti_taskview view;
    struct node *first, *last, *next, *queue;
    uint32_t depth, nkids;
    bool more;
} node;

static dtask_err grow_node(question *q, dti_arena *arena, dtask_str job, node *at, int64_t *left, node **tail) {
    uint32_t from = 0;
    for (;;) {
        int64_t page = *left < PAGE ? *left : PAGE;
        // One beyond the limit, to know whether there is more.
        dti_op op = {.read = {.what = DTI_READ_KIDS, .id = job, .ord = at->view.ord, .from = from, .limit = (uint32_t)page + 1, .whole = true}};
        dtask_err err = ask(q, arena, &op);
        if (err) return err;
        for (uint32_t i = 0; i < op.read.n; i++) {
            if (!*left) {
                at->more = true;
                return DTASK_OK;
            }
            node *kid = dti_alloc0(arena, sizeof *kid);
            if (!kid) return dti_fail(DTASK_ENOMEM, "No memory for the tree.");
            kid->view = op.read.tasks[i];
            kid->depth = at->depth + 1;
            if (at->last) at->last->next = kid;
            else at->first = kid;
            at->last = kid;
            at->nkids++;
            (*tail)->queue = kid;
            *tail = kid;
            --*left;
        }
        if (!op.read.more) return DTASK_OK;
        from = op.read.next;
    }
}

static void put_tree(question *q, const node *at) {
    put_task(q, &at->view, 2);
    dti_mp_put_strz(&q->out, "children");
    dti_mp_put_array(&q->out, at->nkids);
    for (const node *kid = at->first; kid; kid = kid->next) put_tree(q, kid); // at most DEPTH_MAX deep
    dti_mp_put_strz(&q->out, "more");
    dti_mp_put_bool(&q->out, at->more);
}

static dtask_err read_tree(question *q, dti_arena *arena) {
    dtask_str job;
    int64_t depth, limit;
    dti_op op = {.read = {.what = DTI_READ_TASK, .whole = true}};
    dtask_err err = task_id(q, &job, &op.read.ord);
    if (!err) err = number_of(q, "depth", 3, DEPTH_MAX, &depth);
    if (!err) err = number_of(q, "limit", 1000, LIMIT_MAX, &limit);
    if (!err && !limit--) err = dti_fail(DTASK_EARGS, "A tree has its root at least: its limit is a number from 1."); // below it
    if (err) return err;
    op.read.id = job;
    if (!(err = ask(q, arena, &op)) && !op.read.n) err = none(job);
    if (err) return err;
    node root = {.view = op.read.tasks[0]}, *tail = &root;
    for (node *at = &root; at && !err; at = at->queue) {
        if (at->depth < depth) err = grow_node(q, arena, job, at, &limit, &tail);
        else at->more = at->view.row.nkids > 0;
    }
    if (!err) put_tree(q, &root);
    return err;
}

// ---- lists ----------------------------------------------------------------------------------

static dtask_err jobs_filter(question *q, int *state, dtask_str *type, int64_t *since, int64_t *limit) {
    dtask_str name;
    double seconds = 0;
    dtask_err err = text_of(q, "state", false, &name);
    if (!err) err = text_of(q, "type", false, type);
    if (!err) err = number_of(q, "limit", 100, SCAN_MAX + 1, limit); // one more tells that there is more
    if (err) return err;
    *state = -1;
    for (int s = 0; s < 5; s++)
        if (name.n && dti_str_eq(name, dti_strz(dti_jobstate_names[s]))) *state = s;
    if (name.n && *state < 0) return dti_fail(DTASK_EARGS, "A job's state is running, cancelling, succeeded, failed or cancelled, not \"%.*s\".", (int)(name.n > 50 ? 50 : name.n), name.p);
    dtask_str v = dti_mp_get(q->query, "since");
    if (v.p && (!dti_mp_float(v, &seconds) || !(seconds >= 0 && seconds < 4e12)))
        return dti_fail(DTASK_EARGS, "The query's since must be seconds since 1970.");
    *since = (int64_t)(seconds * 1e6);
    return DTASK_OK;
}

static dtask_err read_jobs(question *q, dti_arena *arena) {
    int state;
    dtask_str type;
    int64_t since = 0, limit = 0, looked = 0;
    dtask_err err = jobs_filter(q, &state, &type, &since, &limit);
    uint64_t before = 0;
    bool cut = false, end = limit == 0;
    dti_buf rows = q->out; // the list's head comes first: gathered apart
    q->out = (dti_buf){0};
    uint32_t n = 0;
    while (!err && !end) {
        dti_arena_reset(arena);
        dti_op op = {.read = {.what = DTI_READ_JOBS, .state = state, .before = before, .limit = PAGE, .whole = true}};
        if ((err = ask(q, arena, &op))) break;
        for (uint32_t i = 0; i < op.read.n && !end; i++) {
            const dti_jobview *j = &op.read.jobs[i];
            before = j->no;
            if (++looked > SCAN_MAX) cut = end = true;
            if ((type.n && !dti_str_eq(type, j->type)) || j->row.created < since || end) continue;
            put_job(q, j);
            end = ++n == limit;
        }
        end = end || !op.read.n || !op.read.more;
    }
    dti_buf list = q->out;
    q->out = rows;
    if (!err) {
        dti_mp_put_map(&q->out, 2);
        dti_mp_put_strz(&q->out, "cut");
        dti_mp_put_bool(&q->out, cut);
        dti_mp_put_strz(&q->out, "jobs");
        dti_mp_put_array(&q->out, n);
        dti_mp_put_raw(&q->out, dti_str(list.p, list.n));
        q->out.failed |= list.failed;
    }
    dti_buf_done(&list);
    return err;
}

static dtask_err read_type(question *q, dti_arena *arena) {
    int64_t version;
    dti_op op = {.read = {.what = DTI_READ_TYPE}};
    dtask_err err = text_of(q, "name", true, &op.read.id);
    if (!err) err = number_of(q, "version", 0, UINT32_MAX, &version);
    if (err) return err;
    op.read.version = (uint32_t)version;
    if ((err = ask(q, arena, &op))) return err;
    if (!op.read.n) return dti_fail(DTASK_ENOTFOUND, "No task type is named %.*s.", (int)(op.read.id.n > 200 ? 200 : op.read.id.n), op.read.id.p);
    put_type(&q->out, &op.read.types[0]);
    return DTASK_OK;
}

static dtask_err read_types(question *q, dti_arena *arena) {
    dti_op op = {.read = {.what = DTI_READ_TYPES, .limit = LIMIT_MAX}};
    dtask_err err = ask(q, arena, &op);
    if (err) return err;
    dti_mp_put_array(&q->out, op.read.n);
    for (uint32_t i = 0; i < op.read.n; i++) put_type(&q->out, &op.read.types[i]);
    return DTASK_OK;
}

static dtask_err read_workers(question *q, dti_arena *arena) {
    dti_op op = {.read = {.what = DTI_READ_WORKERS, .limit = LIMIT_MAX}};
    dtask_err err = ask(q, arena, &op);
    if (err) return err;
    dti_mp_put_array(&q->out, op.read.n);
    for (uint32_t i = 0; i < op.read.n; i++) put_worker(&q->out, &op.read.workers[i]);
    return DTASK_OK;
}

static dtask_err read_server(question *q, dti_arena *arena) {
    (void)arena;
    if (q->app->engine->ops->about) return q->app->engine->ops->about(q->app->engine, &q->out);
    dti_mp_put_map(&q->out, 0);
    return DTASK_OK;
}

static dtask_err read_rows(question *q, dti_arena *arena) {
    return dti_read_rows(q->app, arena, q->query, &q->out);
}

dtask_err dtask_b_read(dtask_app *app, dtask_str query, dtask_str *out) {
    static const struct { const char *what; dtask_err (*read)(question *, dti_arena *); } answers[] = {
        {"job", read_job}, {"task", read_task}, {"tree", read_tree}, {"jobs", read_jobs}, {"type", read_type}, {"types", read_types},
        {"workers", read_workers}, {"rows", read_rows}, {"server", read_server},
    };
    dtask_err err = dti_app_check(app);
    if (err || (err = dti_mp_check(query, "The query"))) return err;
    question q = {.app = app, .query = query};
    dti_arena arena = {0};
    dtask_str what;
    size_t i = 0;
    if ((err = text_of(&q, "what", true, &what))) return err;
    while (i < sizeof answers / sizeof *answers && !dti_str_eq(what, dti_strz(answers[i].what))) i++;
    if (i == sizeof answers / sizeof *answers)
        return dti_fail(DTASK_EARGS, "A query's what is job, task, tree, jobs, type, types, workers, rows or server, not \"%.*s\".", (int)(what.n > 50 ? 50 : what.n), what.p);
    err = answers[i].read(&q, &arena);
    if (!err) err = q.err;
    if (!err && q.out.failed) err = dti_fail(DTASK_ENOMEM, "No memory for the answer.");
    if (err) dti_buf_done(&q.out);
    else *out = dti_str(q.out.p, q.out.n);
    dti_arena_done(&arena);
    return err;
}
