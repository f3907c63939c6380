// ChildrenFailed as data: the error of a task that failed for its children.
//
// A handler in Python gives its own. Here are that of a handler in C, which
// the worker makes of what a wait gave it, and that of a task which the model
// failed (reason children: a `then` that was not run), which whoever reads it
// makes of the children's rows, for the model keeps none.
//
// Bounded, so that a deep tree that fails does not multiply its texts: the
// first 100 errors, each with texts of 2 KiB and without errors of its own.
#include "client/client.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_MAX = 2048, PAGE = 1024 };

// ---- a list ---------------------------------------------------------------------------

// At most `most` bytes of whole signs, and a sign that says so.
static void put_most(dti_buf *b, const char *key, dtask_str text, size_t most, bool tail) {
    dti_mp_put_strz(b, key);
    if (text.n <= most) {
        dti_mp_put_str(b, text);
        return;
    }
    size_t from = tail ? text.n - most : 0, to = tail ? text.n : most;
    while (from < to && ((unsigned char)text.p[from] & 0xc0) == 0x80) from++;
    while (to > from && to < text.n && ((unsigned char)text.p[to] & 0xc0) == 0x80) to--;
    dti_buf cut = {0};
    if (tail) dti_buf_add(&cut, "…", strlen("…"));
    dti_buf_add(&cut, text.p + from, to - from);
    if (!tail) dti_buf_add(&cut, "…", strlen("…"));
    dti_mp_put_str(b, dti_str(cut.p, cut.n));
    b->failed |= cut.failed;
    dti_buf_done(&cut);
}

static void put_cut(dti_buf *b, const char *key, dtask_str text, bool tail) {
    put_most(b, key, text, TEXT_MAX, tail);
}

static dtask_str text_of(dtask_str map, const char *key) {
    dtask_str text = {0};
    dti_mp_text(dti_mp_get(map, key), &text);
    return text;
}

static void put_brief(dti_buf *b, dtask_str map, const char *code) {
    dtask_str failed = dti_mp_get(map, "failed"), attempts = dti_mp_get(map, "attempts");
    dti_mp_put_map(b, 8 + (failed.n > 0));
    put_cut(b, "code", dti_strz(code), false);
    put_cut(b, "type", text_of(map, "type"), false);
    put_cut(b, "message", text_of(map, "message"), false);
    put_cut(b, "traceback", text_of(map, "traceback"), true);
    put_cut(b, "language", text_of(map, "language"), false);
    dti_mp_put_strz(b, "task_id");
    dti_mp_put_str(b, text_of(map, "task_id"));
    dti_mp_put_strz(b, "attempts");
    if (attempts.n) dti_mp_put_raw(b, attempts);
    else dti_mp_put_uint(b, 0);
    put_cut(b, "reason", text_of(map, "reason"), false);
    if (failed.n) dti_mp_put_strz(b, "failed"), dti_mp_put_raw(b, failed);
}

// What the batch's list of the worker does not say of each.
static const char *code_of(dtask_str map) {
    dtask_str type = text_of(map, "type");
    return dti_str_eq(type, dti_strz("TaskCancelled")) ? "ECANCELLED" : dti_str_eq(type, dti_strz("TaskSkipped")) ? "ESKIPPED" : "EFAILED";
}

void dti_failures_add(dti_failures *l, dtask_str map, dtask_err code) {
    l->failed++;
    if (l->n == DTI_ERRORS_MAX) return;
    put_brief(&l->maps, map, code ? dtask_err_name(code) : code_of(map));
    l->n++;
}

dtask_str dti_failures_first(const dti_failures *l) {
    dtask_str first = {0};
    dti_mp at = dti_mp_of(dti_str(l->maps.p, l->maps.n));
    if (l->n) dti_mp_skip(&at, &first);
    return first;
}

static void put_message(dti_buf *b, const dti_failures *l, const char *before, size_t most) {
    dtask_str first = dti_failures_first(l), parts[] = {text_of(first, "task_id"), text_of(first, "type"), text_of(first, "message")};
    char head[100];
    int n = snprintf(head, sizeof head, "%llu child%s did not succeed%s", (unsigned long long)l->failed, l->failed == 1 ? "" : "ren",
        !first.n ? "" : l->failed == 1 ? ", " : ", the first ");
    dti_buf text = {0};
    dti_buf_add(&text, before, strlen(before));
    dti_buf_add(&text, head, (size_t)n);
    for (int i = 0; i < 3 && parts[i].n; i++) {
        if (i) dti_buf_add(&text, ": ", 2);
        dti_buf_add(&text, parts[i].p, parts[i].n);
    }
    put_most(b, "message", dti_str(text.p, text.n), most, false);
    b->failed |= text.failed;
    dti_buf_done(&text);
}

void dti_failures_put(const dti_failures *l, dti_buf *b, const char *before, const char *language, size_t most) {
    size_t from = b->n;
    for (bool all = true;; all = false) {
        dti_mp_put_map(b, 6);
        dti_mp_put_strz(b, "type");
        dti_mp_put_strz(b, "ChildrenFailed");
        put_message(b, l, before, all ? SIZE_MAX : most / 2); // of a map of at least 1 KiB
        dti_mp_put_strz(b, "traceback");
        dti_mp_put_strz(b, "");
        dti_mp_put_strz(b, "language");
        dti_mp_put_strz(b, language);
        dti_mp_put_strz(b, "failed");
        dti_mp_put_uint(b, l->failed);
        dti_mp_put_strz(b, "errors");
        dti_mp_put_array(b, all ? l->n : 0);
        if (all) dti_buf_add(b, l->maps.p, l->maps.n);
        b->failed |= l->maps.failed;
        if (!all || b->n - from <= most) return;
        b->n = from; // the count is told, and why the first of them failed
    }
}

void dti_failures_done(dti_failures *l) {
    dti_buf_done(&l->maps);
    *l = (dti_failures){0};
}

// ---- from rows --------------------------------------------------------------------------

bool dti_mail_unsaid(const dti_mail *m) {
    return m->bad && m->blame_reason == DTI_R_CHILDREN && !m->data.n;
}

dtask_err dti_failures_read(dti_failures *l, dti_engine *engine, dtask_str id, uint64_t job, const uint32_t *ords, uint32_t n) {
    dti_arena mem = {0};
    dtask_err err = DTASK_OK;
    for (uint32_t i = 0; i < n && !err; i++) { // one by one: their arguments come along
        dti_arena_reset(&mem);
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = id, .job = job, .ord = ords[i], .whole = true}};
        err = dti_engine_call(engine, &mem, &op);
        if (err || !op.read.n) continue;
        dti_buf map = {0};
        dtask_str result;
        dtask_err code = dti_view_end_brief(&map, op.read.tasks, &result);
        if (code) dti_failures_add(l, dti_str(map.p, map.n), code);
        if (map.failed) err = dti_fail(DTASK_ENOMEM, "No memory for an error.");
        dti_buf_done(&map);
    }
    dti_arena_done(&mem);
    return err;
}

typedef struct {                 // children for which a `then` was not run
    uint32_t ords[DTI_ERRORS_MAX], n;
    uint64_t failed;
    uint32_t bad, last;          // not looked at; the last dep
} reasons;

static bool among(dtask_str deps, uint32_t ord) {
    for (size_t i = 0; i + 4 <= deps.n; i += 4) {
        uint32_t dep;
        memcpy(&dep, deps.p + i, 4);
        if (dep == ord) return true;
    }
    return false;
}

static void look_at(reasons *r, const dti_taskview *kid, dtask_str deps) {
    const dti_taskrow *row = &kid->row;
    bool bad = (row->state == DTI_FAILED || (row->state == DTI_SUCCEEDED && row->bad)) && !(row->bits & DTI_SEEN);
    r->bad += bad;
    if (!bad && ((row->state == DTI_SUCCEEDED && !row->bad) || !among(deps, kid->ord))) return;
    r->failed++;
    if (r->n < DTI_ERRORS_MAX) r->ords[r->n++] = kid->ord;
}

// Rows alone, as far as there are some that count.
static dtask_err find(reasons *r, dti_engine *engine, dtask_str id, const dti_taskview *v) {
    dti_arena mem = {0};
    dtask_err err = DTASK_OK;
    for (size_t i = 0; i + 4 <= v->deps.n; i += 4) {
        uint32_t dep;
        memcpy(&dep, v->deps.p + i, 4);
        if (dep > r->last) r->last = dep;
    }
    bool more = true;
    for (uint32_t from = 0; more && !err && (r->bad < v->row.bad || from <= r->last);) {
        dti_arena_reset(&mem);
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_KIDS, .id = id, .job = v->job, .ord = v->ord, .from = from, .limit = PAGE}};
        err = dti_engine_call(engine, &mem, &op);
        for (uint32_t i = 0; !err && i < op.read.n; i++) look_at(r, &op.read.tasks[i], v->deps);
        more = op.read.more;
        from = op.read.next;
    }
    dti_arena_done(&mem);
    return err;
}

dtask_err dti_mail_fill(dti_engine *engine, dti_arena *mem, dtask_str id, dti_mail *m) {
    if (!dti_mail_unsaid(m)) return DTASK_OK;
    dti_arena own = {0};
    reasons r = {0};
    dti_failures l = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = id, .ord = m->blame, .whole = true}};
    dtask_err err = dti_engine_call(engine, &own, &op);
    if (!err && op.read.n) {
        err = find(&r, engine, id, op.read.tasks);
        if (!err) err = dti_failures_read(&l, engine, id, op.read.tasks->job, r.ords, r.n);
    }
    l.failed = r.failed;
    dti_buf b = {0};
    if (!err) dti_failures_put(&l, &b, "what was to follow did not run: ", "", SIZE_MAX);
    if (!err) m->data = dti_dup(mem, dti_str(b.p, b.n));
    if (!err && (b.failed || !m->data.p)) err = dti_fail(DTASK_ENOMEM, "No memory for an error.");
    dti_buf_done(&b);
    dti_failures_done(&l);
    dti_arena_done(&own);
    return err;
}
