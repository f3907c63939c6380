// Jobs from outside: start, find, wait, result, info, cancel.
//
// Waiting costs nothing: a bell is told which job, the store is read once
// more, and the thread sleeps until rung; every second it looks by itself, in
// case a ring was lost. A start is one operation known by the job's id, which
// is drawn before it is sent; the engine waits for its writers as long as
// engine_timeout. Many starts are one call of the engine, so they share its
// wait: a commit, a round trip.
#include "client/job.h"
#include "engines/run.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { BACKSTOP_MS = 1000,
    STARTS = 1024 };             // of many, in one call of the engine

static _Thread_local unsigned handlers_of; // dti_forks() + 1 of when this thread began to run handlers

void dti_enter_handlers(void) {
    handlers_of = dti_forks() + 1;
}

struct job_text {
    job_text *next;
    size_t n;
    char bytes[];                // a msgpack value
};

// ---- handles -----------------------------------------------------------------------

dtask_err dti_job_check(const dtask_job *job) {
    return job ? dti_app_check(job->app) : dti_fail(DTASK_EUSAGE, "The job is NULL: start or find one.");
}

static dtask_err handle(dtask_app *app, dtask_str id, dtask_job **out) {
    dtask_str job;
    uint32_t ord;
    if (!dti_id_split(id, &job, &ord)) return dti_fail(DTASK_EARGS, "The id \"%.*s\" is neither a job's nor a task's (job/number).", (int)(id.n > 200 ? 200 : id.n), id.p);
    dtask_err err = dti_id_check(job, true);
    if (err) return err;
    dtask_job *j = calloc(1, sizeof *j);
    char *copy = malloc(id.n + 1);
    if (!j || !copy) {
        free(j);
        free(copy);
        return dti_fail(DTASK_ENOMEM, "No memory for a job's handle.");
    }
    memcpy(copy, id.p, id.n);
    copy[id.n] = 0;
    dti_app_hold(app);
    *j = (dtask_job){.app = app, .id = copy, .job = dti_str(copy, job.n), .ord = ord, .hash = dti_id_hash(job)};
    atomic_init(&j->refs, 1);
    pthread_mutex_init(&j->lock, NULL);
    *out = j;
    return DTASK_OK;
}

dtask_err dtask_job_find(dtask_app *app, const char *id, dtask_job **out) {
    dtask_err err = dti_app_check(app);
    if (err) return err;
    if (!id || !out) return dti_fail(DTASK_EARGS, "dtask_job_find needs an id and a place for the handle.");
    return handle(app, dti_strz(id), out);
}

void dti_job_drop(dtask_job *job) {
    if (atomic_fetch_sub(&job->refs, 1) != 1) return;
    for (job_text *t = job->texts, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    dti_buf_done(&job->end);
    pthread_mutex_destroy(&job->lock);
    dti_app_drop(job->app);
    free(job->id);
    free(job);
}

void dtask_job_free(dtask_job *job) {
    // In a fork its locks may be held by threads that are not there.
    if (!job || job->app->fork_gen != dti_forks()) return;
    dtask_job_watch(job, NULL, NULL);
    dti_job_drop(job);
}

const char *dtask_b_job_id(dtask_job *job) {
    return job->id;
}

// ---- start ---------------------------------------------------------------------------

static dtask_err started(dtask_app *app, const dti_start *s, const char *type, dtask_job **out) {
    int n = (int)s->id.n;
    if (s->status == DTI_UNKNOWN) return dti_fail(DTASK_ENOTFOUND, "No task type is named %.200s: start a worker that serves it, or declare it.", type);
    if (s->status == DTI_CONFLICT && s->joined.n)
        return dti_fail(DTASK_ECONFLICT, "A call of %.200s that is unique is there already: %.*s.", type, (int)s->joined.n, s->joined.p);
    if (s->status == DTI_CONFLICT)
        return dti_fail(DTASK_ECONFLICT, "The job %.*s is there with another call: choose another id, or give the same arguments.", n, s->id.p);
    dtask_err err = out ? handle(app, s->joined.n ? s->joined : s->id, out) : DTASK_OK;
    if (out && !err) (*out)->is_there = !(*out)->ord;
    return err;
}

// drawn: the id's place, where the call has none.
static dtask_err prepare(dtask_app *app, dti_arena *arena, const dtask_b_call *call, char drawn[27], dti_op *op) {
    const dti_typeinfo *info;
    dti_callopts o;
    *op = (dti_op){.kind = DTI_OP_START};
    dti_start *s = &op->start;
    dtask_err err = dti_callopts_parse(arena, call->opts, true, &o);
    if (!err && o.id.n) err = dti_id_check(o.id, false);
    if (!err) err = dti_type_find(app, dti_strz(call->type), 0, &info);
    if (!err) err = dti_call_make(app, arena, info, &o, call->args, call->hashed, &s->task);
    if (err) return err;
    if (!o.id.n) dti_random_id(drawn);
    s->id = o.id.n ? o.id : dti_str(drawn, 26);
    s->type = dti_strz(info->name);
    s->tags = o.tags;
    s->max_tasks = app->conf.max_tasks;
    s->max_depth = app->conf.max_depth;
    s->blob_min = (uint32_t)app->conf.blob_min;
    s->keep = app->conf.keep;
    s->retain_us = app->conf.retain_us;
    s->grace_us = app->conf.grace_us;
    return DTASK_OK;
}

// Where the store has lost its types it is told them again.
static dtask_err know(dtask_app *app, dti_arena *arena, dti_op *op) {
    if (op->start.status != DTI_UNKNOWN || !dti_type_again(app, op->start.type)) return DTASK_OK;
    return dti_engine_call(app->engine, arena, op);
}

static dtask_err start(dtask_app *app, const dtask_b_call *call, dtask_job **out) {
    dti_arena arena = {0};
    char drawn[27];
    dti_op op;
    dtask_err err = prepare(app, &arena, call, drawn, &op);
    if (!err) err = dti_engine_call(app->engine, &arena, &op);
    if (!err) err = know(app, &arena, &op);
    if (!err) err = started(app, &op.start, call->type, out);
    dti_arena_done(&arena);
    return err;
}

dtask_err dtask_start(dtask_app *app, const char *type, const char *const *opts, dtask_job **out, const char *fmt, ...) {
    dtask_err err = dti_app_check(app);
    if (err) return err;
    dti_buf args = {0};
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_encode(&args, true, NULL, fmt, ap);
    va_end(ap);
    if (!err) err = dti_call_check_names(app, type, fmt, 0);
    if (!err) err = start(app, &(dtask_b_call){.type = type, .opts = opts, .args = dti_str(args.p, args.n)}, out);
    dti_buf_done(&args);
    return err;
}

static dtask_err call_check(const dtask_b_call *call) {
    if (call->ndeps) return dti_fail(DTASK_EARGS, "A job comes after nothing: `after` and outputs are for children.");
    return dti_mp_check(call->args, "The arguments");
}

dtask_err dtask_b_start(dtask_app *app, const dtask_b_call *call, dtask_job **out) {
    dtask_err err = dti_app_check(app);
    if (!err) err = call_check(call);
    return err ? err : start(app, call, out);
}

// The first error of many, and its detail.
typedef struct { dtask_err err; dti_failure why; } first_error;

static void note(first_error *first, dtask_err err) {
    if (!err) return;
    if (!first->err) first->err = err;
    dti_note_failure(&first->why);
}

typedef struct { dti_op ops[STARTS]; char drawn[STARTS][27]; size_t which[STARTS]; } starts;

static void start_some(dtask_app *app, dti_arena *arena, starts *s, const dtask_b_call *calls, size_t n, dtask_err *errs, dtask_job **out,
    first_error *first) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (out) out[i] = NULL;
        errs[i] = call_check(&calls[i]);
        if (!errs[i]) errs[i] = prepare(app, arena, &calls[i], s->drawn[count], &s->ops[count]);
        note(first, errs[i]);
        if (!errs[i]) s->which[count++] = i;
    }
    if (count) app->engine->ops->call(app->engine, arena, s->ops, count);
    for (size_t i = 0; i < count; i++) note(first, s->ops[i].err); // the detail is the first one's
    for (size_t i = 0; i < count; i++) {
        size_t at = s->which[i];
        errs[at] = s->ops[i].err;
        if (errs[at]) continue;
        errs[at] = know(app, arena, &s->ops[i]);
        if (!errs[at]) errs[at] = started(app, &s->ops[i].start, calls[at].type, out ? &out[at] : NULL);
        note(first, errs[at]);
    }
}

dtask_err dtask_b_start_many(dtask_app *app, const dtask_b_call *calls, size_t n, dtask_err *errs, dtask_job **out) {
    first_error first = {0};
    dti_arena arena = {0};
    dtask_err err = dti_app_check(app);
    starts *s = err ? NULL : malloc(sizeof *s);
    if (!err && !s) err = dti_fail(DTASK_ENOMEM, "No memory for starts.");
    for (size_t i = 0; err && i < n; i++) {
        errs[i] = err;
        if (out) out[i] = NULL;
    }
    for (size_t at = 0, some; !err && at < n; at += some) {
        some = n - at < STARTS ? n - at : STARTS;
        start_some(app, &arena, s, calls + at, some, errs + at, out ? out + at : NULL, &first);
        dti_arena_reset(&arena);
    }
    free(s);
    dti_arena_done(&arena);
    if (err) return err;
    dti_tell_failure(&first.why);
    return first.err;
}

// ---- looking and waiting -----------------------------------------------------------------

static dtask_err not_found(const dtask_job *job) {
    return dti_fail(DTASK_ENOTFOUND, "There is no job or task %s: it never was, or was removed after its retention.", job->id);
}

// The handle's task, and how it ended if it did. "job" is the whole job: a
// cancelled one is cancelled, whatever its root did. "job/0" is that root.
static dtask_err read_end(dtask_job *job, dti_bell *bell, dti_arena *arena, bool *out_ended, dti_mail *out) {
    const dti_engine_ops *ops = job->app->engine->ops;
    bool whole = !strchr(job->id, '/');
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = whole ? DTI_READ_JOB : DTI_READ_TASK, .id = job->job, .ord = job->ord, .whole = true}};
    bool told = bell && whole && ops->bell_news && ops->bell_news(bell, arena, &op);
    dtask_err err = told ? DTASK_OK : dti_engine_call(job->app->engine, arena, &op);
    if (!err && !op.read.n) err = not_found(job);
    if (err) return err;
    const dti_taskview *task = whole ? &op.read.jobs[0].root : &op.read.tasks[0];
    *out_ended = dti_terminal(task->row.state);
    *out = whole ? dti_job_mail(&op.read.jobs[0]) : task->end;
    if (!whole && (err = dti_payload_check(task, job->id))) return err;
    return dti_mail_fill(job->app->engine, arena, job->job, out);
}

static dtask_err remember_end(dtask_job *job, const dti_mail *end) {
    dti_buf b = {0};
    dtask_str result = {0};
    dtask_err how = dti_mail_end(&b, job->job, end, &result);
    if (!how) dti_buf_add(&b, result.p, result.n);
    if (b.failed) {
        dti_buf_done(&b);
        return dti_fail(DTASK_ENOMEM, "No memory for the result of %s.", job->id);
    }
    pthread_mutex_lock(&job->lock);
    if (!job->ended) {
        job->end = b;
        job->end_err = how;
        job->ended = true;
        b = (dti_buf){0};
    }
    pthread_mutex_unlock(&job->lock);
    dti_buf_done(&b);
    return DTASK_OK;
}

static bool has_ended(dtask_job *job) {
    pthread_mutex_lock(&job->lock);
    bool yes = job->ended;
    pthread_mutex_unlock(&job->lock);
    return yes;
}

// bell: NULL, or one that may have brought it.
static dtask_err look(dtask_job *job, dti_bell *bell, bool *out_ended) {
    *out_ended = has_ended(job);
    if (*out_ended) return DTASK_OK;
    dti_arena arena = {0};
    dti_mail end;
    bool ended;
    dtask_err err = read_end(job, bell, &arena, &ended, &end);
    if (!err && ended) {
        err = remember_end(job, &end);
        *out_ended = !err;
    }
    dti_arena_done(&arena);
    return err;
}

dtask_err dti_job_look(dtask_job *job, bool *out_ended) {
    return look(job, NULL, out_ended);
}

dtask_err dti_job_bell(const dtask_job *job, dti_awaited *out) {
    *out = (dti_awaited){job->hash, job->job};
    if (!job->ord) return DTASK_OK;
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = job->job, .ord = job->ord}};
    dtask_err err = dti_engine_call(job->app->engine, &arena, &op);
    if (!err && !op.read.n) err = not_found(job);
    if (!err) *out = (dti_awaited){dti_task_hash(op.read.tasks[0].job, job->ord), dti_strz(job->id)};
    dti_arena_done(&arena);
    return err;
}

static dtask_err wait_rung(dtask_job *job, dti_bell *bell, int64_t until) {
    const dti_engine_ops *ops = job->app->engine->ops;
    dti_awaited end;
    dtask_err none = dti_job_bell(job, &end);
    if (none) return none;
    bool ended = false, asleep = false, blind = job->is_there && ops->bell_await;
    for (;;) {
        dtask_err err = DTASK_OK;
        if (asleep) err = dti_job_look(job, &ended); // the bell may be lost
        else if (blind && ops->bell_await(bell, &end)) blind = false;
        else ops->bell_asleep(bell, NULL, 0, &end), err = dti_job_look(job, &ended);
        if (err || ended) return err;
        asleep = true;
        int64_t left = until < 0 ? INT64_MAX : until - dti_mono_us();
        if (left <= 0) return dti_fail(DTASK_ETIMEOUT, "%s is not complete yet.", job->id);
        int ms = left > BACKSTOP_MS * 1000 ? BACKSTOP_MS : (int)((left + 999) / 1000);
        struct pollfd fd = {.fd = ops->bell_fd(bell), .events = POLLIN};
        bool rung = poll(&fd, 1, ms) > 0;
        if ((err = dti_app_check(job->app))) return err;
        if (!rung) continue;     // it sleeps on
        ops->bell_awake(bell);
        asleep = false;
        // Mostly it has ended, and the bell need not be told anything.
        if ((err = look(job, bell, &ended)) || ended) return err;
    }
}

dtask_err dtask_job_wait(dtask_job *job, int ms) {
    dtask_err err = dti_job_check(job);
    if (err) return err;
    bool ended;
    if (ms == 0 || handlers_of == dti_forks() + 1 || has_ended(job)) {
        if ((err = dti_job_look(job, &ended)) || ended) return err;
        if (ms == 0) return dti_fail(DTASK_ETIMEOUT, "%s is not complete yet.", job->id);
        return dti_fail(DTASK_EDEADLOCK, "A handler waits only for its own children, and %s is not complete: spawn it instead.", job->id);
    }
    dti_bell *bell;
    if ((err = dti_app_bell(job->app, &bell))) return err;
    err = wait_rung(job, bell, ms < 0 ? -1 : dti_mono_us() + (int64_t)ms * 1000);
    dti_app_bell_back(job->app, bell);
    return err;
}

static dtask_err the_end(dtask_job *job) {
    bool ended;
    dtask_err err = dti_job_check(job);
    if (err || (err = dti_job_look(job, &ended))) return err;
    return ended ? DTASK_OK : dti_fail(DTASK_EUSAGE, "%s is not complete: wait for it first.", job->id);
}

dtask_err dtask_job_result(dtask_job *job, const char *fmt, ...) {
    dtask_err err = the_end(job);
    if (err) return err;
    dtask_str end = dti_str(job->end.p, job->end.n);
    if (job->end_err) return dti_fail_map(job->end_err, end);
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_decode(end, false, NULL, 0, fmt, ap);
    va_end(ap);
    return err;
}

dtask_err dtask_b_job_end(dtask_job *job, dtask_str *out) {
    dtask_err err = the_end(job);
    if (err) return err;
    char *copy = malloc(job->end.n + !job->end.n);
    if (!copy) return dti_fail(DTASK_ENOMEM, "No memory for the result of %s.", job->id);
    memcpy(copy, job->end.p, job->end.n);
    *out = dti_str(copy, job->end.n);
    return job->end_err ? dti_fail_map(job->end_err, *out) : DTASK_OK;
}

// ---- info -----------------------------------------------------------------------------------

typedef struct {
    dtask_job *job;
    const dti_jobview *view;     // NULL: a task's handle
    const dti_taskview *task;
    dti_arena *arena;
    dtask_err err;               // of reading what a value takes
} info;

// A text as msgpack that lives as long as the job's handle.
static dtask_str keep_text(dtask_job *job, dtask_str text) {
    dti_buf b = {0};
    dtask_str kept = {0};
    dti_mp_put_str(&b, text);
    if (b.failed) return dti_buf_done(&b), kept;
    pthread_mutex_lock(&job->lock);
    job_text *t = job->texts;
    while (t && !dti_str_eq(dti_str(t->bytes, t->n), dti_str(b.p, b.n))) t = t->next;
    if (!t && (t = malloc(sizeof *t + b.n))) {
        *t = (job_text){job->texts, b.n};
        memcpy(t->bytes, b.p, b.n);
        job->texts = t;
    }
    pthread_mutex_unlock(&job->lock);
    dti_buf_done(&b);
    return t ? dti_str(t->bytes, t->n) : kept;
}

static dtask_str put_number(info *in, void (*put)(dti_buf *, int64_t), int64_t v) {
    dti_buf b = {0};
    put(&b, v);
    dtask_str s = dti_dup(in->arena, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return s;
}

static void put_yes(dti_buf *b, int64_t v) {
    dti_mp_put_bool(b, v != 0);
}

static dtask_str error_text(info *in) {
    dtask_str map = in->task->error, type = {0}, message = {0};
    dti_buf b = {0}, text = {0};
    if (dti_terminal(in->task->row.state)) {
        dtask_str result;
        dti_mail end = in->view ? dti_job_mail(in->view) : in->task->end;
        if ((in->err = dti_mail_fill(in->job->app->engine, in->arena, in->job->job, &end))) return (dtask_str){0};
        map = dti_mail_end(&b, in->job->job, &end, &result) ? dti_str(b.p, b.n) : (dtask_str){0};
    }
    if (dti_mp_text(dti_mp_get(map, "type"), &type) && dti_mp_text(dti_mp_get(map, "message"), &message)) {
        dti_buf_add(&text, type.p, type.n);
        dti_buf_add(&text, ": ", 2);
        dti_buf_add(&text, message.p, message.n);
    }
    dtask_str kept = keep_text(in->job, dti_str(text.p, text.n));
    dti_buf_done(&b);
    dti_buf_done(&text);
    return kept;
}

static dtask_str progress(info *in, uint32_t i) {
    dtask_str v = dti_mp_at(in->task->progress, i), copy;
    double f;
    if (dti_mp_float(v, &f)) {
        copy = dti_dup(in->arena, v);
        return copy;
    }
    if (i == 1 && in->task->progress.n) return put_number(in, dti_mp_put_int, -1);
    if (!in->view) return put_number(in, dti_mp_put_int, i ? -1 : 0);
    const uint32_t *c = in->view->row.count;
    int64_t ended = (int64_t)c[DTI_SUCCEEDED] + c[DTI_FAILED] + c[DTI_CANCELLED] + c[DTI_SKIPPED];
    return put_number(in, dti_mp_put_int, i ? (int64_t)in->view->row.next : ended);
}

static dtask_str info_value(void *arg, dtask_str name) {
    info *in = arg;
    const dti_jobview *v = in->view;
    const dti_taskrow *t = &in->task->row;
    const char *state = v ? dti_jobstate_names[v->row.state] : dti_state_names[t->state];
#define IS(text) dti_str_eq(name, dti_strz(text))
    if (IS("id")) return keep_text(in->job, dti_strz(in->job->id));
    if (IS("type")) return keep_text(in->job, v ? v->type : in->task->type);
    if (IS("state")) return keep_text(in->job, dti_strz(state));
    if (IS("error")) return error_text(in);
    if (IS("progress")) return progress(in, 0);
    if (IS("total")) return progress(in, 1);
    if (IS("started")) return put_number(in, dti_mp_put_int, v ? v->row.created : t->begun);
    if (IS("ended")) return put_number(in, dti_mp_put_int, v ? v->row.ended : t->ended);
    if (!v) return (dtask_str){0};
    if (IS("paused")) return put_number(in, put_yes, v->row.paused);
    if (IS("added")) return put_number(in, dti_mp_put_int, v->row.next);
    if (IS("claimed")) return put_number(in, dti_mp_put_int, (int64_t)v->row.claimed);
    for (int s = 0; s < DTI_STATES; s++)
        if (IS(dti_state_names[s])) return put_number(in, dti_mp_put_int, v->row.count[s]);
#undef IS
    return (dtask_str){0};
}

dtask_err dtask_job_info(dtask_job *job, const char *fmt, ...) {
    dtask_err err = dti_job_check(job);
    if (err) return err;
    dti_arena arena = {0};
    dti_op op;
    info in = {.job = job, .arena = &arena};
    if (job->ord) {
        op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = job->job, .ord = job->ord, .whole = true}};
        err = dti_engine_call(job->app->engine, &arena, &op);
        if (!err && !op.read.n) err = not_found(job);
        if (!err) in.task = &op.read.tasks[0];
    } else {
        op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = job->job}};
        err = dti_engine_call(job->app->engine, &arena, &op);
        if (!err && !op.read.n) err = not_found(job);
        if (!err) in.view = &op.read.jobs[0], in.task = &in.view->root;
    }
    if (!err) {
        va_list ap;
        va_start(ap, fmt);
        err = dti_fmt_decode_by(info_value, &in, fmt, ap);
        va_end(ap);
        if (in.err) err = in.err;
    }
    dti_arena_done(&arena);
    return err;
}

// ---- control --------------------------------------------------------------------------------

dtask_err dtask_job_control(dtask_job *job, const char *verb) {
    dtask_err err = dti_job_check(job);
    if (err) return err;
    if (!verb || strcmp(verb, "cancel")) return dti_fail(DTASK_EARGS, "A job cannot \"%.50s\": there is cancel.", verb ? verb : "");
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = job->job, .ord = job->ord}};
    err = dti_engine_call(job->app->engine, &arena, &op);
    dti_arena_done(&arena);
    if (err) return err;
    if (op.mark.status == DTI_MARK_NONE) return not_found(job);
    if (op.mark.status == DTI_MARK_ENDED) return dti_fail(DTASK_EUSAGE, "%s has ended already.", job->id);
    return DTASK_OK;
}
