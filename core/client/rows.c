// What a follower of a large job reads: of many tasks the few fields that
// change, by their ordinals, without arguments and results.
#include "client/client.h"

#include <string.h>

enum { ROWS_MAX = 1024 };

static void put(dti_buf *out, const dti_taskview *t, dtask_str error) {
    dti_mp_put_array(out, 10);
    dti_mp_put_uint(out, t->ord);
    dti_mp_put_uint(out, t->row.parent);
    dti_mp_put_str(out, t->type);
    dti_mp_put_uint(out, t->row.state);
    dti_mp_put_int(out, t->row.begun);
    dti_mp_put_int(out, t->row.ended);
    dti_mp_put_uint(out, t->row.attempt);
    dti_mp_put_uint(out, t->row.tries);
    dti_mp_put_uint(out, t->row.lost);
    dti_mp_put_str(out, error);
}

// The name of a failed task's error.
static dtask_err error_of(dtask_app *app, dti_arena *arena, const dti_taskview *t, dtask_str *out) {
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .job = t->job, .ord = t->ord, .whole = true}};
    dtask_err err = dti_engine_call(app->engine, arena, &op);
    *out = (dtask_str){0};
    if (!err && op.read.n) dti_mp_text(dti_mp_get(op.read.tasks->error, "type"), out);
    return err;
}

dtask_err dti_read_rows(dtask_app *app, dti_arena *arena, dtask_str query, dti_buf *out) {
    dtask_str id;
    dti_mp ords = dti_mp_of(dti_mp_get(query, "ords"));
    dti_mpval head, ord;
    if (!dti_mp_text(dti_mp_get(query, "id"), &id) || !dti_mp_next(&ords, &head) || head.kind != DTI_MP_ARRAY || head.n > ROWS_MAX)
        return dti_fail(DTASK_EARGS, "The query \"rows\" needs a job's id and ords, at most %d.", ROWS_MAX);
    dti_op job = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = id}};
    dtask_err err = dti_engine_call(app->engine, arena, &job);
    if (err) return err;
    if (!job.read.n) return dti_fail(DTASK_ENOTFOUND, "There is no job %.*s.", (int)(id.n > 200 ? 200 : id.n), id.p);

    dti_op *ops = dti_alloc0(arena, (head.n + 1) * sizeof *ops);
    if (!ops) return dti_fail(DTASK_ENOMEM, "No memory to read %u tasks.", head.n);
    for (uint32_t i = 0; i < head.n; i++) {
        if (!dti_mp_next(&ords, &ord) || ord.kind != DTI_MP_UINT || ord.u >= UINT32_MAX)
            return dti_fail(DTASK_EARGS, "The ords of a query \"rows\" are whole numbers.");
        ops[i].kind = DTI_OP_READ;
        ops[i].read = (dti_read){.what = DTI_READ_TASK, .job = job.read.jobs->no, .ord = (uint32_t)ord.u};
    }
    app->engine->ops->call(app->engine, arena, ops, head.n);
    uint32_t found = 0;
    for (uint32_t i = 0; i < head.n; i++) {
        if (ops[i].err) return ops[i].err;
        found += ops[i].read.n;
    }
    dti_mp_put_array(out, found);
    for (uint32_t i = 0; i < head.n && !err; i++) {
        dtask_str error = {0};
        const dti_taskview *t = ops[i].read.tasks;
        if (!ops[i].read.n) continue;
        if (t->row.state == DTI_FAILED) err = error_of(app, arena, t, &error);
        put(out, t, error);
    }
    return err;
}
