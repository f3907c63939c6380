// What a handler calls beside its children: arguments, result, error,
// progress, cancelling, who it is; and what its return means.
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- arguments -----------------------------------------------------------------

// Whether this value stands for the result of a dep: its number.
static bool stands(const dti_mpval *v, uint32_t *out) {
    if (v->kind != DTI_MP_EXT || v->ext != DTASK_B_EXT_OUTPUT || v->s.n != 4) return false;
    const unsigned char *b = (const unsigned char *)v->s.p;
    *out = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    return true;
}

dtask_err dti_args_check(dtask_str args, size_t ndeps) {
    dti_mp at = dti_mp_of(args);
    dti_mpval v;
    uint32_t i;
    while (at.p < at.end && dti_mp_next(&at, &v)) // heads of arrays and maps, then what is in them
        if (stands(&v, &i) && i >= ndeps)
            return dti_fail(DTASK_EARGS, "The arguments stand for the result of dep %u, and the call has %zu: give a child by the format t.", i, ndeps);
    return DTASK_OK;
}

// Copies one value, with results in the places that stand for them.
static bool fill(dti_buf *out, dti_mp *at, const dti_claim *c, unsigned depth) {
    const char *from = at->p;
    dti_mpval v;
    uint32_t i;
    if (depth > DTI_MP_DEPTH_MAX || !dti_mp_next(at, &v)) return false;
    if (stands(&v, &i)) {
        if (i >= c->ndeps) return false;
        if (c->deps[i].data.n) dti_mp_put_raw(out, c->deps[i].data);
        else dti_mp_put_nil(out);
        return true;
    }
    dti_buf_add(out, from, (size_t)(at->p - from));
    uint64_t parts = v.kind == DTI_MP_ARRAY ? v.n : v.kind == DTI_MP_MAP ? 2ull * v.n : 0;
    for (uint64_t i = 0; i < parts; i++)
        if (!fill(out, at, c, depth + 1)) return false;
    return true;
}

dtask_err dti_args_fill(dti_buf *out, const dti_claim *c) {
    dti_mp at = dti_mp_of(c->args);
    if (!fill(out, &at, c, 0)) return dti_fail(DTASK_EARGS, "the arguments do not fit their task's deps");
    return out->failed ? dti_fail(DTASK_ENOMEM, "no memory for a task's arguments") : DTASK_OK;
}

dtask_err dtask_args(dtask_task *f, const char *fmt, ...) {
    dtask_err err = dti_task_check(f);
    if (err) return err;
    const dti_typeinfo *info = f->h->info;
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_decode(f->args, true, info ? info->params : NULL, info ? info->nparams : 0, fmt, ap);
    va_end(ap);
    return err;
}

// ---- the outcome -----------------------------------------------------------------

static dtask_err check_size(const dtask_task *f, size_t n, const char *what) {
    if (n <= f->w->app->conf.max_payload) return DTASK_OK;
    return dti_fail(DTASK_ETOOBIG, "the %s has %zu bytes, over max_payload (%zu): store it elsewhere and return where", what, n,
        f->w->app->conf.max_payload);
}

dtask_err dtask_done(dtask_task *f, const char *fmt, ...) {
    dtask_err err = dti_task_check(f);
    if (err) return err;
    dti_buf value = {0};
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_encode(&value, false, NULL, fmt, ap);
    va_end(ap);
    if (!err) err = check_size(f, value.n, "result");
    if (!err && f->h->info && f->h->info->sig) err = dti_sig_check_result(f->h->info->sig, f->h->name, dti_str(value.p, value.n));
    if (err) {
        dti_buf_done(&value);
        return err;
    }
    pthread_mutex_lock(&f->w->lock);
    if (f->given_up) {
        dti_buf_done(&value);
    } else {
        dti_buf_done(&f->value);
        f->value = value;
        f->said = DTASK_OK;
        if (f->become) dti_unsent_free(f->become);
        f->become = NULL;
    }
    pthread_mutex_unlock(&f->w->lock);
    return DTASK_OK;
}

// For the outcome; takes the map.
static void keep_error(dtask_task *f, dtask_err err, dti_buf map) {
    pthread_mutex_lock(&f->w->lock);
    if (f->given_up) {
        dti_buf_done(&map);
    } else {
        dti_buf_done(&f->value);
        f->value = map;
        f->said = err;
    }
    pthread_mutex_unlock(&f->w->lock);
}

static void say_error(dtask_task *f, dtask_err err, const char *type, const char *text) {
    dti_buf map = {0};
    char message[1024];
    snprintf(message, sizeof message, "%s", text);
    dti_mp_put_strz(&map, message);
    if (dti_mp_check(dti_str(map.p, map.n), "the message")) // no UTF-8: its odd bytes go
        for (char *p = message; *p; p++)
            if (*p & 0x80) *p = '?';
    map.n = 0;
    dti_error_put(&map, type, dti_strz(message), "c");
    keep_error(f, err, map);
}

dtask_err dtask_fail(dtask_task *f, dtask_err err, const char *printf_fmt, ...) {
    dtask_err wrong = dti_task_check(f);
    if (wrong) return wrong;
    char text[1024];
    va_list ap;
    va_start(ap, printf_fmt);
    vsnprintf(text, sizeof text, printf_fmt ? printf_fmt : "", ap);
    va_end(ap);
    if (err >= DTASK_OK) err = DTASK_EFAILED; // no error code: a failure is one all the same
    say_error(f, err, dtask_err_name(err), text);
    return dti_fail(err, "%s", text);
}

dtask_err dti_fail_as(dtask_task *f, dtask_err err, dtask_str error) {
    dti_buf map = {0};
    if (!dti_buf_add(&map, error.p, error.n)) return dti_fail(DTASK_ENOMEM, "no memory for an error");
    keep_error(f, err, map);
    return dti_fail_map(err, error);
}

void dti_fallen_keep(dtask_task *f, dtask_err err, const dti_failures *children) {
    dti_fallen *a = &f->fallen;
    if (f->h->pool != DTI_POOL_C) return; // a binding's handler says itself what its error is
    free(a->text);
    a->map.n = 0;
    dti_failures_put(children, &a->map, "", "c", f->w->conf.max_payload);
    a->err = err;
    a->text = a->map.failed ? NULL : strdup(dtask_err_detail());
}

// Whether the handler returned what that call gave it, and no error of its own.
static bool has_fallen(dtask_task *f, dtask_err err) {
    dti_fallen *a = &f->fallen;
    if (!a->text || a->err != err || strcmp(a->text, dtask_err_detail()) || (err == DTASK_ECANCELLED && f->cancelled)) return false;
    keep_error(f, err, a->map);
    a->map = (dti_buf){0};
    return true;
}

dtask_err dtask_retry(dtask_task *f, int after_ms) {
    dtask_err err = dti_task_check(f);
    if (err) return err;
    f->retry_after_us = after_ms > 0 ? (int64_t)after_ms * 1000 : 0;
    static const char why[] = "the handler asked to run again";
    say_error(f, DTASK_ERETRY, "ERETRY", why);
    return dti_fail(DTASK_ERETRY, "%s", why);
}

void dti_outcome_of(dtask_task *f, dtask_err err, dti_outcome *out) {
    if (f->lost || f->given_up) {
        *out = DTI_O_FAIL;       // settled already
        return;
    }
    if (f->unwind) {             // what a dropped frame says is no outcome
        *out = DTI_O_UNWOUND;
        return;
    }
    // An error that was its last word stands, though its code was not returned.
    if (!err) err = f->said;
    if (err && f->w->app->closed) { // over its head: maybe that is all that went wrong
        *out = DTI_O_UNWOUND;
        return;
    }
    const dti_sig *sig = f->h->info ? f->h->info->sig : NULL;
    if (!err && !f->become && !f->value.n && sig) err = dti_sig_check_result(sig, f->h->name, dti_str("\xc0", 1));
    if (!err) {
        *out = f->become ? DTI_O_THEN : DTI_O_DONE;
        return;
    }
    if (f->said != err) {
        if (!has_fallen(f, err)) {
            const char *detail = dtask_err_detail();
            char text[1024];
            snprintf(text, sizeof text, "%s", *detail ? detail : "the handler returned this error");
            say_error(f, err, dtask_err_name(err), text);
        }
        if (err == DTASK_ERETRY) f->retry_after_us = -1;
        // A wait for a cancelled child is a failure of this task, unless it was asked to end itself.
        if (err == DTASK_ECANCELLED && !f->cancelled) err = DTASK_EFAILED;
    }
    *out = err == DTASK_ERETRY ? DTI_O_RETRY : err == DTASK_EFATAL ? DTI_O_FATAL : err == DTASK_ECANCELLED ? DTI_O_CANCELLED : DTI_O_FAIL;
}

// ---- the rest ------------------------------------------------------------------------

int dtask_cancelled(dtask_task *f) {
    if (!f) return 1;
    return atomic_load_explicit(&f->cancelled, memory_order_relaxed);
}

dtask_err dtask_progress(dtask_task *f, double done, double total) {
    dtask_err err = dti_task_check(f);
    return err ? err : dtask_b_progress(f, done, total);
}

dtask_err dtask_b_progress(dtask_task *f, double done, double total) {
    dtask_err err = dti_frame_check(f);
    if (err) return err;
    pthread_mutex_lock(&f->w->lock);
    f->progress.n = 0;
    dti_mp_put_array(&f->progress, 2);
    dti_mp_put_float(&f->progress, done);
    if (total < 0) dti_mp_put_nil(&f->progress);
    else dti_mp_put_float(&f->progress, total);
    if (f->progress.failed) dti_buf_done(&f->progress), f->progress = (dti_buf){0};
    else dti_out_add(f, false);
    pthread_mutex_unlock(&f->w->lock);
    return DTASK_OK;
}

static uint32_t attempt(const dtask_task *f) {
    return f->row.tries + f->row.lost + 1;
}

// The tags lie with the job. Tasks of one job come in rows, so those of the
// last one asked for are kept.
static dtask_err put_tags(dtask_task *f, dti_buf *b) {
    dtask_worker *w = f->w;
    dtask_err err = DTASK_OK;
    pthread_mutex_lock(&w->lock);
    bool have = w->tags_of == f->job;
    if (have && w->tags.n) dti_mp_put_raw(b, dti_str(w->tags.p, w->tags.n));
    else if (have) dti_mp_put_map(b, 0);
    pthread_mutex_unlock(&w->lock);
    if (have) return DTASK_OK;
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = f->id, .job = f->job}};
    err = dti_engine_call(w->engine, &mem, &op);
    dtask_str tags = !err && op.read.n ? op.read.jobs[0].tags : (dtask_str){0};
    if (tags.n) dti_mp_put_raw(b, tags);
    else dti_mp_put_map(b, 0);
    if (!err && !f->lost) {
        pthread_mutex_lock(&w->lock);
        w->tags.n = 0;
        w->tags_of = dti_buf_add(&w->tags, tags.p, tags.n) ? f->job : 0;
        pthread_mutex_unlock(&w->lock);
    }
    dti_arena_done(&mem);
    return err;
}

dtask_err dtask_b_context(dtask_task *f, dtask_str *out) {
    if (f->context.n) {
        *out = dti_str(f->context.p, f->context.n);
        return DTASK_OK;
    }
    dti_buf *b = &f->context;
    bool tags = f->h->pool != DTI_POOL_C; // dtask_info does not ask for them
    dti_mp_put_map(b, tags ? 8 : 7);
    dti_mp_put_strz(b, "id");
    dti_put_task_id(b, f, f->ord);
    dti_mp_put_strz(b, "job");
    dti_mp_put_str(b, f->id);
    dti_mp_put_strz(b, "parent");
    if (f->ord) dti_put_task_id(b, f, f->row.parent);
    else dti_mp_put_nil(b);
    dti_mp_put_strz(b, "type");
    dti_mp_put_strz(b, f->h->name);
    dti_mp_put_strz(b, "attempt");
    dti_mp_put_uint(b, attempt(f));
    const dti_typeinfo *of = NULL;
    dti_mp_put_strz(b, "version");
    dti_mp_put_uint(b, dti_type_by_no(f->w->app, f->row.type, &of) ? f->h->version : of->version);
    dti_mp_put_strz(b, "trigger");
    if (f->trigger.n) dti_mp_put_raw(b, f->trigger);
    else dti_mp_put_nil(b);
    dtask_err err = DTASK_OK;
    if (tags) {
        dti_mp_put_strz(b, "tags");
        err = put_tags(f, b);
    }
    if (!err && b->failed) err = dti_fail(DTASK_ENOMEM, "no memory for a task's context");
    if (err) {
        dti_buf_done(b);
        *b = (dti_buf){0};
        return err;
    }
    *out = dti_str(b->p, b->n);
    return DTASK_OK;
}

dtask_err dtask_info(dtask_task *f, const char *fmt, ...) {
    // Views are given of the context map, which lives as long as the task.
    dtask_str map;
    dtask_err err = dti_task_check(f);
    if (!err) err = dtask_b_context(f, &map);
    if (err) return err;
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_decode_map(map, fmt, ap);
    va_end(ap);
    return err;
}

void dtask_say(dtask_task *f, int level, const char *printf_fmt, ...) {
    if (dti_task_check(f)) return;
    char text[2048];
    va_list ap;
    va_start(ap, printf_fmt);
    vsnprintf(text, sizeof text, printf_fmt ? printf_fmt : "", ap);
    va_end(ap);
    dti_frame_log(f, level, text);
}

dtask_err dtask_b_emit(dtask_task *f, dtask_str value) {
    dtask_err err = dti_frame_check(f);
    if (!err) err = dti_mp_check(value, "the emitted value");
    if (!err) err = check_size(f, value.n, "emitted value");
    if (err) return err;
    char *copy = malloc(value.n);
    if (!copy) return dti_fail(DTASK_ENOMEM, "no memory for an emitted value");
    memcpy(copy, value.p, value.n);
    pthread_mutex_lock(&f->w->lock);
    bool ok = dti_grow(&f->notes.v, f->notes.n, &f->notes.cap, sizeof *f->notes.v);
    if (ok) {
        f->notes.v[f->notes.n++] = (dti_note){.kind = DTI_LOG_EMIT, .data = dti_str(copy, value.n)};
        dti_out_add(f, f->notes.n >= DTI_EAGER);
    }
    pthread_mutex_unlock(&f->w->lock);
    if (!ok) free(copy);
    return ok ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory for an emitted value");
}
