// What a completion starts, in the same shard and so in the same step:
// callbacks of a job, triggers, and the undo of a task. The job's id names
// the occurrence, so that it is started once.
#include "base/msgpack.h"
#include "model/model_int.h"

#include <stdio.h>

static const int64_t DAY_US = 86400 * 1000000ll, GRACE_US = 30 * 1000000ll; // a tick's job has no starter to say

// ---- msgpack into the arena ----------------------------------------------------

typedef struct { char *p; size_t n; } out; // room was made before

static void byte(out *o, unsigned b) { o->p[o->n++] = (char)b; }

static void raw(out *o, dtask_str s) {
    if (s.n) memcpy(o->p + o->n, s.p, s.n);
    o->n += s.n;
}

static void big(out *o, uint64_t v, int bytes) {
    while (bytes--) byte(o, (unsigned)(v >> (8 * bytes)) & 255);
}

static void text(out *o, dtask_str s) {
    byte(o, 0xda);
    big(o, s.n, 2);
    raw(o, s);
}

static void value(out *o, const char *key, dtask_str v) { // empty: nil
    text(o, dti_strz(key));
    if (v.n) raw(o, v);
    else byte(o, 0xc0);
}

static out room(dti_tx *tx, size_t n) { return (out){dti_need(tx, n + 256), 0}; }

// {"joined": id}: why a task was skipped for one with the same unique key.
dtask_str dti_joined_note(dti_tx *tx, dtask_str id) {
    out o = room(tx, id.n);
    byte(&o, 0x81);
    text(&o, dti_strz("joined"));
    text(&o, id);
    return dti_str(o.p, o.n);
}

// One argument: the handle of a job (sign J) or a task (T).
static dtask_str handle_args(dti_tx *tx, char sign, dtask_str id) {
    out o = room(tx, id.n);
    byte(&o, 0x91);
    byte(&o, 0xc8);
    big(&o, id.n + 1, 2);
    byte(&o, 1); // DTASK_B_EXT_HANDLE
    byte(&o, (unsigned char)sign);
    raw(&o, id);
    return dti_str(o.p, o.n);
}

static dtask_str occurrence(dti_tx *tx, const dti_t *t, dtask_str id) {
    const dti_taskrow *r = t->r;
    dtask_str args = dti_data_get(tx, t->job, t->ord, DTI_D_ARGS), source = dti_type_name(tx, r->type);
    dtask_str result = dti_data_get(tx, t->job, t->ord, DTI_D_RESULT);
    dtask_str error = r->bits & DTI_HAS_ERROR ? dti_data_get(tx, t->job, t->ord, DTI_D_ERROR) : (dtask_str){0};
    out o = room(tx, args.n + source.n + result.n + error.n + id.n);
    byte(&o, 0x87);
    text(&o, dti_strz("source"));
    text(&o, source);
    text(&o, dti_strz("task"));
    text(&o, id);
    text(&o, dti_strz("state"));
    text(&o, dti_strz(dti_state_names[r->state]));
    value(&o, "value", result);
    value(&o, "error", error);
    value(&o, "arguments", args);
    text(&o, dti_strz("time"));
    byte(&o, 0xd3);
    big(&o, (uint64_t)tx->now, 8);
    return dti_str(o.p, o.n);
}

// ---- starting ---------------------------------------------------------------------

static dti_new call_of(dti_tx *tx, const dti_type *type, dtask_str id) {
    dtask_str options = {(const char *)(type + 1) + type->name_n + type->signature_n, type->options_n};
    int64_t retries = 0, prio = 0;
    double timeout = 0;
    dti_mp_int(dti_mp_get(options, "retries"), &retries);
    dti_mp_int(dti_mp_get(options, "priority"), &prio);
    dti_mp_float(dti_mp_get(options, "timeout"), &timeout);
    dti_hash call = dti_hash128(id.p, id.n, dti_w(tx)->meta->salt);
    return (dti_new){.type = type->no, .call = {call.h[0], call.h[1]}, .crashes = type->crashes, .retries = (uint32_t)retries,
        .prio = (int8_t)prio, .timeout_ms = (uint32_t)(timeout * 1000)};
}

// "<of>!<type>", unless it is there or its id would be too long a chain.
static void start(dti_tx *tx, const dti_t *t, dtask_str of, const char *suffix, uint32_t type_no, bool hook, dtask_str args, dtask_str trigger) {
    const dti_type *type = dti_type_row(tx, type_no);
    if (!type) return;
    dtask_str name = suffix ? dti_strz(suffix) : dti_type_name(tx, type_no);
    out o = room(tx, of.n + name.n);
    raw(&o, of);
    byte(&o, '!');
    raw(&o, name);
    dtask_str id = {o.p, o.n};
    if (dti_id_check(id, true) != DTASK_OK || dti_job_find(tx, id)) return;
    dti_start s = {.id = id, .task = call_of(tx, type, id), .trigger = trigger, .max_tasks = t->j->max_tasks, .max_depth = t->j->max_depth,
        .blob_min = t->j->blob_min, .keep = t->j->keep, .retain_us = t->j->retain_us, .grace_us = t->j->grace_us};
    s.task.args = args.n ? args : dti_str("\x90", 1);
    if (hook) t->j->hooks++;
    dti_job_begin(tx, &s, hook ? t->job : 0, (dtask_str){0});
}

static bool passes(dti_tx *tx, const dti_t *t, dtask_str filter) {
    if (!filter.n) return true;
    dtask_str args = dti_data_get(tx, t->job, t->ord, DTI_D_ARGS), at;
    for (uint32_t i = 0; (at = dti_mp_at(filter, i)).n; i += 2) {
        int64_t pos;
        if (!dti_mp_int(at, &pos) || !dti_str_eq(dti_mp_at(args, (uint32_t)pos), dti_mp_at(filter, i + 1))) return false;
    }
    return true;
}

// Those that listen to `subject` (a type's name; empty: any root).
static void listeners(dti_tx *tx, dti_t *t, dtask_str subject, unsigned kind, dtask_str of) {
    dti_key k = {subject.n ? dti_hash128(subject.p, subject.n, 0).h[0] : 0, kind, 0};
    const void *v;
    size_t n;
    for (; tx->store->ops->seek(tx->store, DTI_T_LISTEN, 2, &k, &v, &n); k.c++) {
        dti_listenrow row;
        memcpy(&row, v, sizeof row);
        dtask_str filter = dti_kept(tx, (const char *)v + sizeof row, row.filter_n);
        if (!(row.states >> t->r->state & 1)) continue;
        if (kind == DTI_L_CALLBACK) start(tx, t, of, NULL, (uint32_t)k.c, true, handle_args(tx, 'J', of), (dtask_str){0});
        else if (passes(tx, t, filter)) start(tx, t, of, NULL, (uint32_t)k.c, false, (dtask_str){0}, occurrence(tx, t, of));
    }
}

void dti_hooks(dti_tx *tx, dti_t *t) {
    dti_taskrow *r = t->r;
    dti_meta *m = dti_w(tx)->meta;
    if (r->bits & DTI_UNDO && (r->state == DTI_FAILED || r->state == DTI_CANCELLED)) {
        dtask_str id = dti_task_id(tx, t->job, t->ord);
        start(tx, t, id, "undo", m->undo_type, true, handle_args(tx, 'T', id), (dtask_str){0});
    }
    const dti_type *type = dti_type_row(tx, r->type);
    const dti_type *root = t->ord || t->j->type == r->type ? type : dti_type_row(tx, t->j->type);
    if (type && type->listeners) listeners(tx, t, dti_type_name(tx, r->type), DTI_L_TRIGGER, dti_task_id(tx, t->job, t->ord));
    if (t->ord || !((root && root->listeners) || m->any_root)) return;
    dtask_str id = dti_job_id(tx, t->job);
    if (memchr(id.p, '!', id.n)) return; // no callbacks of callbacks
    if (root && root->listeners) listeners(tx, t, dti_type_name(tx, t->j->type), DTI_L_CALLBACK, id);
    if (m->any_root) listeners(tx, t, (dtask_str){0}, DTI_L_CALLBACK, id);
}

// "<type>@<seconds>": a cron's tick.
uint64_t dti_tick_begin(dti_tx *tx, const dti_type *type, int64_t at) {
    dtask_str name = dti_kept(tx, type + 1, type->name_n);
    out o = room(tx, name.n);
    raw(&o, name);
    o.n += (size_t)snprintf(o.p + o.n, 32, "@%lld", (long long)(at / 1000000));
    dtask_str id = {o.p, o.n};
    if (dti_job_find(tx, id)) return 0;
    out trigger = room(tx, name.n);
    byte(&trigger, 0x82);
    text(&trigger, dti_strz("source"));
    text(&trigger, name);
    text(&trigger, dti_strz("time"));
    byte(&trigger, 0xd3);
    big(&trigger, (uint64_t)at, 8);
    dti_start s = {.id = id, .task = call_of(tx, type, id), .trigger = dti_str(trigger.p, trigger.n), .retain_us = DAY_US, .grace_us = GRACE_US};
    s.task.args = dti_str("\x90", 1);
    return dti_job_begin(tx, &s, 0, (dtask_str){0});
}
