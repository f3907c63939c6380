// Children whose call was there already, by its unique key: what the handle of
// such a child stands for.
//
// With over = join it is the other call's task, wherever that is, once its
// handler asks: its id, and how it ended. That task is no child: it counts as
// done at once, nobody waits for it, and its failure is its own parent's. To
// ask how it ended before it has is EDEADLOCK, so no circle can form. With
// over = drop the child was skipped.
//
// The store says it in two ways. In the scope job such a call has no row, and
// the turn's answer names the other task (answer.c). In the scope app it has a
// row, skipped, whose error names it, so that a re-run finds it again.
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dti_joined_spec(dtask_child *c, const dti_new *n) {
    for (uint32_t i = 0; c && i < n->nkeys; i++)
        if (n->keys[i].kind == DTI_KEY_UNIQUE) c->over = n->keys[i].over;
}

void dti_joined_unheld(dtask_task *f, const dti_new *n, uint32_t ord) {
    dtask_child c = {0};
    dti_joined_spec(&c, n);
    if (c.over != DTI_OVER_JOIN) return;
    dti_span *last = f->njoins ? &f->joins[f->njoins - 1] : NULL;
    if (last && last->first + last->count == ord) last->count++;
    else if (dti_grow(&f->joins, f->njoins, &f->cjoins, sizeof *f->joins)) f->joins[f->njoins++] = (dti_span){ord, 1};
}

uint8_t dti_joined_over(const dtask_task *f, uint32_t ord) {
    for (const dtask_child *c = f->batches; c; c = c->batch->next)
        for (size_t i = 0; i < c->batch->nsegs; i++)
            if (ord - c->batch->segs[i].ord < c->batch->segs[i].count) return c->over;
    for (size_t i = 0; i < f->njoins; i++)
        if (ord - f->joins[i].first < f->joins[i].count) return DTI_OVER_JOIN;
    return 0;
}

dtask_err dti_joined_not_ours(const char *id) {
    return dti_fail(DTASK_EDEADLOCK, "%s was joined by its unique key: it is another call's task, not complete, and no child to wait for",
        id);
}

dtask_str dti_joined_id(const dtask_child *c, const dti_mail *m) {
    dtask_str id = {0};
    if (c->over == DTI_OVER_JOIN && m->state == DTI_SKIPPED && m->reason == DTI_R_UNIQUE) dti_mp_text(dti_mp_get(m->data, "joined"), &id);
    return id;
}

bool dti_joined_take(dtask_child *c, const dti_mail *m) {
    dtask_str other = c->joined ? (dtask_str){0} : dti_joined_id(c, m);
    dtask_str job;
    uint32_t ord;
    if (!other.n || !dti_id_split(other, &job, &ord)) return false;
    char *id = malloc(job.n + 12);
    if (!id) return true;        // it is read again when it is asked for
    snprintf(id, job.n + 12, "%.*s/%u", (int)job.n, job.p, ord);
    free(c->id);
    c->id = id;
    c->joined = true;
    return true;
}

// The task that a joined call stands for, or the call as it was dropped.
static dtask_err read_other(dtask_child *c, const char *id, dti_arena *mem, dti_taskview *out) {
    dtask_str job;
    uint32_t ord;
    if (!dti_id_split(dti_strz(id), &job, &ord)) return dti_fail(DTASK_EINTERNAL, "bad task id %s", id);
    if (c->over == DTI_OVER_DROP) {
        *out = (dti_taskview){.id = job, .ord = ord, .row.state = DTI_SKIPPED,
            .end = {.state = DTI_SKIPPED, .reason = DTI_R_UNIQUE, .ord = ord, .attempts = 1}};
        return DTASK_OK;
    }
    dti_op op = {.read = {.what = DTI_READ_TASK, .id = job, .ord = ord}};
    dtask_err err = dti_read_op(c->task, mem, &op);
    if (!err && !op.read.n) err = dti_fail(DTASK_ENOTFOUND, "no task %s: its job is gone", id);
    if (!err) *out = op.read.tasks[0];
    return err ? err : dti_payload_check(out, id);
}

dtask_err dti_joined_read(dtask_child *c, dtask_str id, dti_arena *mem, dti_taskview *out) {
    const char *text = dti_dupz(mem, id);
    if (!text) return dti_fail(DTASK_ENOMEM, "no memory for a task's id");
    dtask_err err = read_other(c, text, mem, out);
    return err || dti_terminal(out->row.state) ? err : dti_joined_not_ours(text);
}

dtask_err dti_joined_load(dtask_child *c) {
    dtask_task *f = c->task;
    dti_arena mem = {0};
    dti_taskview v;
    dtask_err err = read_other(c, c->id, &mem, &v);
    bool ended = !err && dti_terminal(v.row.state);
    if (ended) err = dti_mail_fill(f->w->engine, &mem, v.id, &v.end);
    if (ended && !err) {
        pthread_mutex_lock(&f->w->lock);
        dti_child_end(c, &v.end);
        pthread_mutex_unlock(&f->w->lock);
    }
    dti_arena_done(&mem);
    return err;
}

dtask_err dti_joined_look(dtask_child *c) {
    dtask_task *f = c->task;
    dti_arena mem = {0};
    dti_op op = {.read = {.what = DTI_READ_TASK, .id = f->id, .job = f->job, .ord = c->ord}};
    dtask_err err = dti_read_op(f, &mem, &op);
    if (!err && op.read.n && op.read.tasks[0].row.state == DTI_SKIPPED) {
        pthread_mutex_lock(&f->w->lock);
        dti_child_end(c, &op.read.tasks[0].end);
        pthread_mutex_unlock(&f->w->lock);
    }
    dti_arena_done(&mem);
    return err;
}
