// What goes by number has two: one outside, one in its shard. See shards.h.
#include "engines/shards/shards.h"

#include <stdlib.h>
#include <string.h>

static dtask_err no_memory(void) {
    return dti_fail(DTASK_ENOMEM, "out of memory for a call");
}

// ---- types ---------------------------------------------------------------------------

// Under lock: a shard that lost its last writes gives its numbers anew.
static void forget_old(dti_shards *s, unsigned k) {
    uint64_t era = atomic_load(&s->of[k]->era);
    if (s->era[k] == era) return;
    s->era[k] = era;
    for (size_t i = 0; i < s->ntypes; i++) s->types[i]->no[k] = 0;
    memset(s->outer[k], 0, s->nouter[k] * sizeof *s->outer[k]);
}

// Under lock.
static uint32_t outer_of(dti_shards *s, dtask_str name, uint32_t version) {
    for (size_t i = 0; i < s->ntypes; i++)
        if (s->types[i]->version == version && dti_str_eq(dti_strz(s->types[i]->name), name)) return (uint32_t)i + 1;
    dti_shard_type *t = calloc(1, sizeof *t);
    char *copy = t ? malloc(name.n + 1) : NULL;
    if (!copy || !dti_grow(&s->types, s->ntypes, &s->ctypes, sizeof *s->types)) {
        free(t);
        free(copy);
        return 0;
    }
    if (name.n) memcpy(copy, name.p, name.n);
    copy[name.n] = 0;
    *t = (dti_shard_type){.name = copy, .version = version};
    s->types[s->ntypes++] = t;
    return (uint32_t)s->ntypes;
}

uint32_t dti_shards_learn(dti_shards *s, unsigned k, uint32_t inner, dtask_str name, uint32_t version) {
    if (!inner) return 0;
    pthread_mutex_lock(&s->lock);
    forget_old(s, k);
    uint32_t outer = outer_of(s, name, version);
    if (outer && inner >= s->nouter[k]) {
        size_t n = inner + 64;
        uint32_t *v = realloc(s->outer[k], n * sizeof *v);
        if (v) {
            memset(v + s->nouter[k], 0, (n - s->nouter[k]) * sizeof *v);
            s->outer[k] = v;
            s->nouter[k] = n;
        } else {
            outer = 0;
        }
    }
    if (outer) {
        s->types[outer - 1]->no[k] = inner;
        s->outer[k][inner] = outer;
    }
    pthread_mutex_unlock(&s->lock);
    return outer;
}

bool dti_shards_named(dti_shards *s, uint32_t outer, dtask_str *name, uint32_t *version) {
    pthread_mutex_lock(&s->lock);
    bool there = outer && outer <= s->ntypes;
    if (there) {
        *name = dti_strz(s->types[outer - 1]->name); // for as long as the handle
        *version = s->types[outer - 1]->version;
    }
    pthread_mutex_unlock(&s->lock);
    return there;
}

static const dti_typeview *read_type(dti_shards *s, dti_arena *arena, unsigned k, dtask_str name, uint32_t version) {
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPE, .id = name, .version = version}};
    return !dti_engine_call(s->of[k], arena, &op) && op.read.n ? op.read.types : NULL;
}

// A shard that does not know the type, for it is new or lost all, is told what
// another one knows of it.
static uint32_t declare(dti_shards *s, dti_arena *arena, unsigned k, dtask_str name, uint32_t version) {
    const dti_typeview *v = NULL;
    for (unsigned i = 0; i < s->n && !v; i++)
        if (i != k) v = read_type(s, arena, i, name, version);
    if (!v) return 0;
    dti_hello_type type = {.name = v->name, .signature = v->signature, .options = v->options, .version = v->row.type_version, .crashes = v->row.crashes};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.types = &type, .ntypes = 1}};
    return dti_engine_call(s->of[k], arena, &op) || type.refused ? 0 : type.no;
}

uint32_t dti_shards_type_in(dti_shards *s, dti_arena *arena, unsigned k, uint32_t outer) {
    dtask_str name;
    uint32_t version, inner = 0;
    if (!dti_shards_named(s, outer, &name, &version)) return 0;
    pthread_mutex_lock(&s->lock);
    forget_old(s, k);
    inner = s->types[outer - 1]->no[k];
    pthread_mutex_unlock(&s->lock);
    if (inner) return inner;
    const dti_typeview *v = read_type(s, arena, k, name, version);
    inner = v ? v->row.no : declare(s, arena, k, name, version);
    dti_shards_learn(s, k, inner, name, version);
    return inner;
}

uint32_t dti_shards_type_out(dti_shards *s, dti_arena *arena, unsigned k, uint32_t inner) {
    pthread_mutex_lock(&s->lock);
    forget_old(s, k);
    uint32_t outer = inner < s->nouter[k] ? s->outer[k][inner] : 0;
    pthread_mutex_unlock(&s->lock);
    if (outer || !inner) return outer;
    const dti_typeview *v = read_type(s, arena, k, (dtask_str){0}, inner);
    return v ? dti_shards_learn(s, k, inner, v->name, v->row.type_version) : 0;
}

// ---- requests --------------------------------------------------------------------------

static dtask_err put_turn(dti_shards *s, dti_arena *arena, unsigned k, dti_turn *t) {
    dti_message *messages = dti_alloc(arena, (t->nmessages + 1) * sizeof *messages);
    dti_want *want = dti_alloc(arena, (t->nwant + 1) * sizeof *want);
    if (!messages || !want) return no_memory();
    for (uint32_t i = 0; i < t->nmessages; i++) {
        dti_message *m = &messages[i];
        *m = t->messages[i];
        m->job = dti_shards_inner(m->job);
        if (m->nchildren) {
            dti_new *children = dti_alloc(arena, m->nchildren * sizeof *children);
            if (!children) return no_memory();
            for (uint32_t c = 0; c < m->nchildren; c++) {
                children[c] = m->children[c];
                // Siblings are often of one type.
                children[c].type = c && m->children[c - 1].type == m->children[c].type ? children[c - 1].type
                    : dti_shards_type_in(s, arena, k, m->children[c].type);
            }
            m->children = children;
        }
        if (m->next) {
            dti_new *next = dti_alloc(arena, sizeof *next);
            if (!next) return no_memory();
            *next = *m->next;
            next->type = dti_shards_type_in(s, arena, k, next->type);
            m->next = next;
        }
    }
    for (uint32_t i = 0; i < t->nwant; i++) want[i] = (dti_want){dti_shards_type_in(s, arena, k, t->want[i].type), t->want[i].n};
    t->messages = messages;
    t->want = want;
    t->worker = dti_shards_inner(t->worker);
    t->only = dti_shards_inner(t->only);
    return DTASK_OK;
}

// What it names of other shards is left out.
static dtask_err put_sweep(dti_shards *s, dti_arena *arena, unsigned k, dti_sweep *w) {
    uint64_t *dead = dti_alloc(arena, (w->ndead + 1) * sizeof *dead);
    dti_charge *charge = dti_alloc(arena, (w->ncharge + 1) * sizeof *charge);
    struct dti_tick *ticks = dti_alloc(arena, (w->nticks + 1) * sizeof *ticks);
    if (!dead || !charge || !ticks) return no_memory();
    uint32_t ndead = 0, ncharge = 0, nticks = 0;
    for (uint32_t i = 0; i < w->ndead; i++)
        if (dti_shard_of(w->dead[i]) == k) dead[ndead++] = dti_shards_inner(w->dead[i]);
    for (uint32_t i = 0; i < w->ncharge; i++)
        if (dti_shard_of(w->charge[i].job) == k) charge[ncharge++] = (dti_charge){dti_shards_inner(w->charge[i].job), w->charge[i].ord};
    for (uint32_t i = 0; i < w->nticks; i++) {
        dtask_str name;
        uint32_t version;
        if (!dti_shards_named(s, w->ticks[i].type, &name, &version) || dti_shards_of_id(s, name) != k) continue;
        ticks[nticks] = w->ticks[i];
        ticks[nticks++].type = dti_shards_type_in(s, arena, k, w->ticks[i].type);
    }
    if (w->charge) w->charge = charge;
    w->dead = dead;
    w->ndead = ndead;
    w->ncharge = ncharge;
    w->ticks = ticks;
    w->nticks = nticks;
    return DTASK_OK;
}

dtask_err dti_shards_put(dti_shards *s, dti_arena *arena, unsigned k, const dti_op *op, dti_op *out) {
    *out = *op;
    switch (op->kind) {
    case DTI_OP_START:           // `of` is kept as it is outside
        out->start.task.type = dti_shards_type_in(s, arena, k, op->start.task.type);
        return DTASK_OK;
    case DTI_OP_HELLO: out->hello.worker = dti_shards_inner(op->hello.worker); return DTASK_OK;
    case DTI_OP_TURN: return put_turn(s, arena, k, &out->turn);
    case DTI_OP_READ: out->read.job = dti_shards_inner(op->read.job); return DTASK_OK;
    case DTI_OP_MARK:
        if (!op->mark.id.n) out->mark.type = dti_shards_type_in(s, arena, k, op->mark.type);
        return DTASK_OK;
    case DTI_OP_SWEEP: return put_sweep(s, arena, k, &out->sweep);
    case DTI_OP_POST:
    case DTI_OP_ERA:
    case DTI_OP_INTAKE:
    case DTI_OP_DONE: return DTASK_OK;
    }
    return DTASK_OK;
}

// ---- answers ---------------------------------------------------------------------------

static void take_row(dti_shards *s, dti_arena *arena, unsigned k, dti_taskrow *r) {
    r->type = dti_shards_type_out(s, arena, k, r->type);
    r->owner = dti_shards_outer(k, r->owner);
    r->by = dti_shards_outer(k, r->by);
}

static void take_task(dti_shards *s, dti_arena *arena, unsigned k, dti_taskview *t) {
    t->job = dti_shards_outer(k, t->job);
    take_row(s, arena, k, &t->row);
}

static dtask_err take_turn(dti_shards *s, dti_arena *arena, unsigned k, dti_turn *t) {
    if (t->status != DTI_TURN_OK) return DTASK_OK;
    for (uint32_t i = 0; i < t->nmessages; i++) {
        dti_answer *a = &t->answers[i];
        dti_joined *joined = a->njoined ? dti_alloc(arena, a->njoined * sizeof *joined) : NULL;
        if (a->njoined && !joined) return no_memory();
        for (uint32_t j = 0; j < a->njoined; j++) {
            joined[j] = a->joined[j];
            joined[j].job = dti_shards_outer(k, joined[j].job);
        }
        a->joined = joined;
    }
    for (uint32_t i = 0; i < t->nclaims; i++) {
        t->claims[i].job = dti_shards_outer(k, t->claims[i].job);
        take_row(s, arena, k, &t->claims[i].row);
    }
    for (uint32_t i = 0; i < t->nwakes; i++) t->wakes[i].job = dti_shards_outer(k, t->wakes[i].job);
    return DTASK_OK;
}

static void take_read(dti_shards *s, dti_arena *arena, unsigned k, dti_read *q) {
    q->job = dti_shards_outer(k, q->job);
    if (q->what == DTI_READ_TASK || q->what == DTI_READ_KIDS)
        for (uint32_t i = 0; i < q->n; i++) take_task(s, arena, k, &q->tasks[i]);
    if (q->what == DTI_READ_JOB || q->what == DTI_READ_JOBS) {
        for (uint32_t i = 0; i < q->n; i++) {
            dti_jobview *j = &q->jobs[i];
            j->no = dti_shards_outer(k, j->no);
            j->row.type = dti_shards_type_out(s, arena, k, j->row.type);
            j->row.hook_of = dti_shards_outer(k, j->row.hook_of);
            take_task(s, arena, k, &j->root);
        }
    }
    if (q->what == DTI_READ_TYPE || q->what == DTI_READ_TYPES)
        for (uint32_t i = 0; i < q->n; i++) {
            dti_typeview *t = &q->types[i];
            t->row.no = dti_shards_learn(s, k, t->row.no, t->name, t->row.type_version);
        }
    if (q->what == DTI_READ_WORKERS)
        for (uint32_t i = 0; i < q->n; i++) q->workers[i].row.no = dti_shards_outer(k, q->workers[i].row.no);
}

dtask_err dti_shards_take(dti_shards *s, dti_arena *arena, unsigned k, dti_op *in, dti_op *op) {
    op->err = in->err;
    if (in->err) return in->err;
    switch (op->kind) {
    case DTI_OP_START:
        op->start.status = in->start.status;
        op->start.job = dti_shards_outer(k, in->start.job);
        op->start.joined = in->start.joined;
        break;
    case DTI_OP_HELLO:
        op->hello.worker = dti_shards_outer(k, in->hello.worker);
        for (uint32_t i = 0; i < op->hello.ntypes && !op->hello.bye; i++) {
            dti_hello_type *t = &op->hello.types[i];
            if (!t->refused && !(t->no = dti_shards_learn(s, k, t->no, t->name, t->version))) return op->err = no_memory();
        }
        break;
    case DTI_OP_TURN: {
        const dti_turn asked = op->turn;
        op->err = take_turn(s, arena, k, &in->turn);
        op->turn = in->turn;
        op->turn.worker = asked.worker;
        op->turn.messages = asked.messages;
        op->turn.want = asked.want;
        op->turn.only = asked.only;
        break;
    }
    case DTI_OP_READ:
        take_read(s, arena, k, &in->read);
        op->read = in->read;
        break;
    case DTI_OP_POST: op->post.status = in->post.status; break;
    case DTI_OP_MARK: op->mark.status = in->mark.status; break;
    case DTI_OP_SWEEP:
        op->sweep.next = in->sweep.next;
        op->sweep.steps = in->sweep.steps;
        break;
    case DTI_OP_ERA: op->era = in->era; break;
    case DTI_OP_INTAKE:
    case DTI_OP_DONE: break;
    }
    return op->err;
}
