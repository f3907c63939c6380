// Re-run matching: a handler that runs again finds the children that an
// earlier run made. A call takes the first child of this parent, in the
// order they were made, that has the same hash and was not taken yet.
//
// The store's children are read in pages, and only as far as calls need: a
// re-run in the same order holds one page, one in another order 24 bytes for
// each child that was passed over. The first run reads and holds nothing.
#include "worker/worker.h"

#include <stdlib.h>

enum { PAGE = 1024, END = UINT32_MAX };

typedef struct {
    uint64_t call;               // the first half: 64 bits tell a parent's calls apart
    uint32_t ord;
    uint32_t type;               // 0: a `then` has changed it
    uint32_t next;               // the next with the same place in the table
    uint8_t state;
    bool bad, redo, taken;
} entry;

struct dti_match {
    entry *v; size_t n, cap, left; // left: not taken
    uint32_t *table; size_t ctable; // first entry of a chain, END none; chains are in order
    uint32_t *tails;
    uint32_t from;               // of the next page
    bool whole;                  // all pages are read
};

dtask_err dti_match_new(dtask_task *f, dti_match **out) {
    dti_match *m = calloc(1, sizeof *m);
    if (!m) return dti_fail(DTASK_ENOMEM, "no memory to find the children of the run before");
    m->from = f->row.base;
    *out = m;
    return DTASK_OK;
}

void dti_match_free(dti_match *m) {
    if (!m) return;
    free(m->v);
    free(m->table);
    free(m->tails);
    free(m);
}

static size_t place(const dti_match *m, uint64_t call) {
    return (size_t)(call >> 7) & (m->ctable - 1);
}

static void chain(dti_match *m, uint32_t i) {
    size_t at = place(m, m->v[i].call);
    m->v[i].next = END;
    if (m->table[at] == END) m->table[at] = i;
    else m->v[m->tails[at]].next = i;
    m->tails[at] = i;
}

static bool add(dti_match *m, entry e) {
    if (!dti_grow(&m->v, m->n, &m->cap, sizeof *m->v)) return false;
    m->v[m->n] = e;
    if (m->n >= m->ctable) {
        size_t cap = m->ctable ? m->ctable * 2 : PAGE;
        uint32_t *t = malloc(cap * sizeof *t), *tails = malloc(cap * sizeof *tails);
        if (!t || !tails) {
            free(t);
            free(tails);
            return false;
        }
        free(m->table);
        free(m->tails);
        m->table = t;
        m->tails = tails;
        m->ctable = cap;
        for (size_t i = 0; i < cap; i++) t[i] = END;
        for (uint32_t i = 0; i < m->n; i++)
            if (!m->v[i].taken) chain(m, i);
    }
    chain(m, (uint32_t)m->n);
    m->n++;
    m->left++;
    return true;
}

static dtask_err read_page(dtask_task *f) {
    dti_match *m = f->match;
    if (!m->left && m->n) {      // the window is used up
        m->n = 0;
        for (size_t i = 0; i < m->ctable; i++) m->table[i] = END;
    }
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_KIDS, .id = f->id, .job = f->job, .ord = f->ord,
        .from = m->from, .limit = PAGE}};
    dtask_err err = dti_engine_call(f->w->engine, &mem, &op);
    for (uint32_t i = 0; !err && i < op.read.n; i++) {
        const dti_taskview *v = &op.read.tasks[i];
        const dti_taskrow *r = &v->row;
        if (r->bits & DTI_REPLACED) continue;
        bool bad = r->state == DTI_FAILED || (r->state == DTI_SUCCEEDED && r->bad);
        bool good = r->state == DTI_SUCCEEDED && !r->bad;
        entry e = {.call = r->call[0], .ord = v->ord, .type = r->base ? 0 : r->type, .state = r->state, .bad = bad,
            .redo = r->ptries < f->row.tries && ((dti_terminal(r->state) && !good) || r->bits & DTI_CANCEL)};
        if (!add(m, e)) err = dti_fail(DTASK_ENOMEM, "no memory to find the children of the run before");
    }
    if (!err) {
        m->whole = !op.read.more;
        m->from = op.read.next;
    }
    dti_arena_done(&mem);
    return err;
}

dtask_err dti_match_take(dtask_task *f, const uint64_t call[2], dti_found *out) {
    dti_match *m = f->match;
    *out = (dti_found){0};
    for (size_t looked = 0;;) {
        // Entries before `looked` have another hash or are taken; the chain
        // is walked anew, for a page may have moved the table.
        if (m->ctable)
            for (uint32_t i = m->table[place(m, call[0])], before = END; i != END; before = i, i = m->v[i].next) {
                entry *e = &m->v[i];
                if (i < looked || e->call != call[0]) continue;
                size_t at = place(m, e->call);
                if (before == END) m->table[at] = e->next;
                else m->v[before].next = e->next;
                if (m->tails[at] == i) m->tails[at] = before;
                e->taken = true;
                m->left--;
                *out = (dti_found){.found = true, .redo = e->redo, .done = dti_terminal(e->state), .bad = e->bad,
                    .ord = e->ord, .type = e->type};
                return DTASK_OK;
            }
        looked = m->n;
        if (m->whole) return DTASK_OK;
        if (!m->left) looked = 0;
        dtask_err err = read_page(f);
        if (err) return err;
    }
}
