// The task types that every worker serves: dynatask.map, which start_map
// starts; dynatask.undo, which the model starts; dynatask.join, the memory of
// a trigger whose conditions are joined by `&`, which the first occurrence
// starts (join.c).
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, MAP_WORDS_MAX = 13 }; // children of one batch; a name and six options

// ---- map: [type, common args.., items] -> the results in order --------------------
// type: its name, or [name, option, value, ..] with options of the children.

typedef struct {
    char **words;                // the name, then the children's options; NULL at the end
    bool may_fail;               // one of the options
    uint32_t ncommon;
    dtask_str common;            // values, one after the other
    dti_mp items; uint32_t n;
} mapping;

// What only a job or a single child has is no option of many.
static dtask_err map_option(mapping *m, const char *name, const char *value) {
    static const char *const names[] = {"retries", "timeout", "priority", "expires", "may_fail", "unique"};
    if (!strcmp(name, "may_fail") && !dti_text_bool(value, &m->may_fail))
        return dti_fail(DTASK_EFATAL, "The option may_fail of " DTI_SYS_MAP " cannot be \"%.100s\": give true or false.", value);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], name)) return DTASK_OK;
    return dti_fail(DTASK_EFATAL, "The children of " DTI_SYS_MAP " have no option \"%.100s\": there are retries timeout priority expires may_fail unique.", name);
}

static dtask_err map_words(dti_mp *at, mapping *m) {
    dti_mpval v;
    uint32_t n = 1;
    dtask_err wrong = dti_fail(DTASK_EFATAL, DTI_SYS_MAP " takes a type's name, alone or in an array with names and values of options");
    if (!dti_mp_next(at, &v)) return wrong;
    bool many = v.kind == DTI_MP_ARRAY;
    if (many) n = v.n;
    if (n % 2 == 0 || n > MAP_WORDS_MAX || !(m->words = calloc(n + 1, sizeof *m->words))) return wrong;
    for (uint32_t i = 0; i < n; i++) {
        if ((many && !dti_mp_next(at, &v)) || v.kind != DTI_MP_STR || memchr(v.s.p, 0, v.s.n)) return wrong;
        if (!(m->words[i] = strndup(v.s.p, v.s.n))) return dti_fail(DTASK_ENOMEM, "no memory for a map");
    }
    dtask_err err = DTASK_OK;
    for (uint32_t i = 1; i < n && !err; i += 2) err = map_option(m, m->words[i], m->words[i + 1]);
    return err;
}

static dtask_err map_args(dtask_str args, mapping *m) {
    dti_mp at = dti_mp_of(args);
    dti_mpval head, items;
    dtask_err wrong = dti_fail(DTASK_EFATAL, DTI_SYS_MAP " takes a type, common arguments, and an array of items");
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_ARRAY || head.n < 2) return wrong;
    dtask_err err = map_words(&at, m);
    if (err) return err;
    m->ncommon = head.n - 2;
    m->common.p = at.p;
    for (uint32_t i = 0; i < m->ncommon; i++) dti_mp_skip(&at, NULL);
    m->common.n = (size_t)(at.p - m->common.p);
    if (!dti_mp_next(&at, &items) || items.kind != DTI_MP_ARRAY) return wrong;
    m->items = at;
    m->n = items.n;
    return DTASK_OK;
}

static dtask_err spawn_page(dtask_task *f, mapping *m, uint32_t n, dtask_child **out) {
    dti_buf bytes = {0};
    dtask_str *args = calloc(n, sizeof *args);
    if (!args) return dti_fail(DTASK_ENOMEM, "no memory for a page of children");
    for (uint32_t i = 0; i < n; i++) {
        dtask_str item;
        dti_mp_skip(&m->items, &item);
        args[i].n = bytes.n;
        dti_mp_put_array(&bytes, 1 + m->ncommon);
        dti_buf_add(&bytes, item.p, item.n);
        dti_buf_add(&bytes, m->common.p, m->common.n);
        args[i].n = bytes.n - args[i].n;
    }
    dtask_err err = bytes.failed ? dti_fail(DTASK_ENOMEM, "no memory for a page of children") : DTASK_OK;
    const char *p = bytes.p;
    for (uint32_t i = 0; i < n; p += args[i++].n) args[i].p = p;
    dtask_b_call call = {.type = m->words[0], .opts = (const char *const *)(m->words + 1)};
    if (!err) err = dti_spawn_many(f, &call, args, n, out);
    dti_buf_done(&bytes);
    free(args);
    return err;
}

static bool is_bad_end(dtask_err err) {
    return err == DTASK_EFAILED || err == DTASK_ECANCELLED || err == DTASK_ESKIPPED;
}

// The results of children that may fail: nil where there is none.
static dtask_err put_each(dtask_child *page, uint32_t n, dti_buf *all) {
    dtask_err err = DTASK_OK;
    for (uint32_t i = 0; i < n && !err; i++) {
        dtask_child *one;
        dtask_str value = {0};
        if ((err = dtask_b_child_at(page, i, &one))) break;
        err = dti_child_outcome(one, true, &value);
        if (is_bad_end(err)) value.n = 0, err = DTASK_OK;
        if (value.n) dti_buf_add(all, value.p, value.n);
        else dti_mp_put_nil(all);
        dtask_b_child_free(one);
    }
    return err;
}

// Fails for this page's children, within max_payload.
static dtask_err fail_for(dtask_task *f, dtask_child *page, dtask_str end) {
    if (end.n <= f->w->conf.max_payload) return dti_fail_as(f, DTASK_EFAILED, end);
    dti_failures all = {0};
    dti_buf map = {0};
    dti_child_failures(page, DTASK_EFAILED, end, &all);
    dti_failures_put(&all, &map, "", "", f->w->conf.max_payload);
    dtask_err err = map.failed ? dti_fail(DTASK_ENOMEM, "no memory for an error") : dti_fail_as(f, DTASK_EFAILED, dti_str(map.p, map.n));
    dti_failures_done(&all);
    dti_buf_done(&map);
    return err;
}

static dtask_err put_page(dtask_task *f, dtask_child *page, uint32_t n, bool may_fail, dti_buf *all) {
    dtask_str values = {0};
    dtask_err err = dti_child_outcome(page, true, &values);
    if (is_bad_end(err) && may_fail) return put_each(page, n, all);
    if (err) return err == DTASK_EFAILED && values.n ? fail_for(f, page, values) : err;
    dti_mp at = dti_mp_of(values);
    dti_mpval head;
    if (dti_mp_next(&at, &head)) dti_buf_add(all, at.p, (size_t)(at.end - at.p));
    return DTASK_OK;
}

static uint32_t page_size(const mapping *m, uint32_t page) {
    return m->n - page * PAGE < PAGE ? m->n - page * PAGE : PAGE;
}

static dtask_err run_map(dtask_task *f, void *arg) {
    (void)arg;
    mapping m = {0};
    dtask_err err = map_args(f->args, &m);
    uint32_t npages = (m.n + PAGE - 1) / PAGE;
    dtask_child **pages = err ? NULL : calloc(npages + 1, sizeof *pages);
    if (!err && !pages) err = dti_fail(DTASK_ENOMEM, "no memory for the pages of a map");
    for (uint32_t i = 0; i < npages && !err; i++) err = spawn_page(f, &m, page_size(&m, i), &pages[i]);
    if (!err) err = dtask_wait(f, NULL, -1);
    if (err == DTASK_EFAILED) err = DTASK_OK; // the pages say more
    dti_buf all = {0};
    if (!err) dti_mp_put_array(&all, m.n);
    for (uint32_t i = 0; i < npages && !err; i++) {
        err = put_page(f, pages[i], page_size(&m, i), m.may_fail, &all);
        dtask_b_child_free(pages[i]);
        pages[i] = NULL;
    }
    if (!err && all.failed) err = dti_fail(DTASK_ENOMEM, "no memory for the results of a map");
    if (!err) err = dtask_done(f, "v", dti_str(all.p, all.n));
    dti_buf_done(&all);
    free(pages);
    for (char **w = m.words; w && *w; w++) free(*w);
    free(m.words);
    return err;
}

// ---- undo: [handle of a task] -----------------------------------------------------------

typedef struct { char *type; dti_buf args; } undoing;

// The calls that the task noted, in the order it did.
static dtask_err undo_calls(dtask_task *f, dtask_str task, undoing **out, size_t *out_n) {
    dtask_str job;
    uint32_t ord;
    size_t cap = 0;
    if (!dti_id_split(task, &job, &ord)) return dti_fail(DTASK_EFATAL, DTI_SYS_UNDO " takes the handle of a task");
    dti_arena mem = {0};
    dtask_err err = DTASK_OK;
    bool more = true;
    for (uint32_t from = 0; more && !err;) {
        dti_arena_reset(&mem);
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_LOG, .id = job, .ord = ord, .from = from, .limit = 1000}};
        err = dti_engine_call(f->w->engine, &mem, &op);
        for (uint32_t i = 0; !err && i < op.read.n; i++) {
            const dti_mail *m = &op.read.mails[i];
            if (m->kind != DTI_LOG_UNDO) continue;
            undoing u = {.type = strndup(m->name.p, m->name.n)};
            if (!u.type || !dti_buf_add(&u.args, m->data.p, m->data.n) || !dti_grow(out, *out_n, &cap, sizeof **out)) {
                free(u.type);
                dti_buf_done(&u.args);
                err = dti_fail(DTASK_ENOMEM, "no memory for undo calls");
                break;
            }
            (*out)[(*out_n)++] = u;
        }
        more = op.read.more;
        from = op.read.next;
    }
    dti_arena_done(&mem);
    return err;
}

static dtask_err run_undo(dtask_task *f, void *arg) {
    (void)arg;
    dti_mp at = dti_mp_of(f->args);
    dti_mpval head, handle;
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_ARRAY || !head.n || !dti_mp_next(&at, &handle) || handle.kind != DTI_MP_EXT
        || handle.ext != DTASK_B_EXT_HANDLE || handle.s.n < 2)
        return dti_fail(DTASK_EFATAL, DTI_SYS_UNDO " takes the handle of a task");
    undoing *calls = NULL;
    size_t n = 0, failed = 0;
    dtask_err err = undo_calls(f, dti_str(handle.s.p + 1, handle.s.n - 1), &calls, &n);
    for (size_t i = n; i-- && !err;) {
        dtask_child *child;
        dtask_b_call call = {.type = calls[i].type, .args = dti_str(calls[i].args.p, calls[i].args.n)};
        err = dti_spawn(f, &call, &child);
        if (!err) err = dti_wait_child(f, child, -1);
        if (err == DTASK_EFAILED || err == DTASK_ESKIPPED) failed++, err = DTASK_OK; // on to the one before it
    }
    for (size_t i = 0; i < n; i++) {
        free(calls[i].type);
        dti_buf_done(&calls[i].args);
    }
    free(calls);
    if (!err && failed) err = dtask_fail(f, DTASK_EFATAL, "%zu of %zu undo calls failed", failed, n);
    return err;
}

dtask_err dti_system_add(dtask_worker *w) {
    static const struct { const char *name; dtask_fn *fn; } types[] = {
        {DTI_SYS_MAP, run_map}, {DTI_SYS_UNDO, run_undo}, {DTI_SYS_JOIN, dti_join_run}};
    dtask_err err = DTASK_OK;
    for (size_t i = 0; i < sizeof types / sizeof *types && !err; i++)
        err = dti_handler_add(w, &(dtask_b_type){.name = types[i].name, .version = 1}, DTI_POOL_C, types[i].fn, NULL, NULL);
    return err;
}
