// The codec of proto/redis.md, but for a start that is read back (started.c).
#include "engines/redis/codec.h"

#include <string.h>

#include "engines/redis/packed.h"
#include "engines/redis/reader.h"

// ---- writing -------------------------------------------------------------------

static void put_hash(dti_buf *b, const uint64_t h[2]) {
    dti_mp_put_str(b, dti_str(h, 16));
}

static void put_nonce(dti_buf *b, uint64_t v) {
    dti_mp_put_str(b, dti_str(&v, sizeof v));
}

static void put_key(dti_buf *b, const dti_keyspec *k) {
    dti_mp_put_array(b, 9);
    put_hash(b, k->h);
    dti_mp_put_uint(b, k->kind);
    dti_mp_put_uint(b, k->over);
    dti_mp_put_uint(b, k->until);
    dti_mp_put_uint(b, k->scope);
    dti_mp_put_bool(b, k->same);
    dti_mp_put_uint(b, k->max);
    dti_mp_put_int(b, k->per_us);
    dti_mp_put_int(b, k->keep_us);
}

static void put_new(dti_buf *b, const dti_new *t) {
    dti_mp_put_array(b, t->nkeys ? 13 : t->ndeps ? 12 : 11);
    dti_mp_put_uint(b, t->type);
    dti_mp_put_int(b, t->prio);
    dti_mp_put_uint(b, (t->may_fail ? 1u : 0) | (t->journal ? 2u : 0));
    put_hash(b, t->call);
    dti_mp_put_str(b, t->args);
    dti_mp_put_uint(b, t->retries);
    dti_mp_put_uint(b, t->crashes);
    dti_mp_put_uint(b, t->timeout_ms);
    dti_mp_put_uint(b, t->ptries);
    dti_mp_put_int(b, t->due);
    dti_mp_put_int(b, t->expires);
    if (!t->nkeys && !t->ndeps) return;
    dti_mp_put_array(b, t->ndeps);
    for (uint32_t i = 0; i < t->ndeps; i++) dti_mp_put_uint(b, t->deps[i]);
    if (!t->nkeys) return;
    dti_mp_put_array(b, t->nkeys);
    for (uint32_t i = 0; i < t->nkeys; i++) put_key(b, &t->keys[i]);
}

static void put_ranges(dti_buf *b, const dti_range *r, uint32_t n) {
    dti_mp_put_array(b, n);
    for (uint32_t i = 0; i < n; i++) {
        dti_mp_put_array(b, 3);
        dti_mp_put_uint(b, r[i].first);
        dti_mp_put_uint(b, r[i].count);
        dti_mp_put_bool(b, r[i].bad_only);
    }
}

// A task that just ends, the common message, is seven values long.
static bool only_ends(const dti_message *m) {
    return !m->nchildren && !m->nnotes && !m->nacks && !m->ntold && !m->progress.n && !m->state.n && !m->retry_at &&
        m->end != DTI_END_PARK && m->end != DTI_END_BECOME;
}

static void put_message(dti_buf *b, const dti_message *m) {
    bool brief = only_ends(m);
    dti_mp_put_array(b, brief ? 7 : m->next ? 19 : 18);
    dti_mp_put_uint(b, m->job);
    dti_mp_put_uint(b, m->ord);
    put_nonce(b, m->token);
    dti_mp_put_uint(b, m->seq);
    dti_mp_put_uint(b, m->end);
    dti_mp_put_str(b, m->value);
    dti_mp_put_uint(b, (m->retry ? 1u : 0) | (m->freed ? 2u : 0) | (m->unstarted ? 4u : 0));
    if (brief) return;
    dti_mp_put_array(b, m->nchildren);
    for (uint32_t i = 0; i < m->nchildren; i++) put_new(b, &m->children[i]);
    dti_mp_put_array(b, m->nnotes);
    for (uint32_t i = 0; i < m->nnotes; i++) {
        dti_mp_put_array(b, 3);
        dti_mp_put_uint(b, m->notes[i].kind);
        dti_mp_put_str(b, m->notes[i].name);
        dti_mp_put_str(b, m->notes[i].data);
    }
    dti_mp_put_array(b, m->nacks);
    for (uint32_t i = 0; i < m->nacks; i++) {
        dti_mp_put_array(b, 2);
        dti_mp_put_uint(b, m->acks[i].ref);
        dti_mp_put_bool(b, m->acks[i].replaced);
    }
    put_ranges(b, m->told, m->ntold);
    dti_mp_put_str(b, m->progress);
    dti_mp_put_str(b, m->state);
    dti_mp_put_int(b, m->retry_at);
    dti_mp_put_uint(b, m->mask);
    dti_mp_put_uint(b, m->how);
    dti_mp_put_int(b, m->due);
    dti_mp_put_uint(b, m->read);
    if (m->next) put_new(b, m->next);
}

void dti_redis_put_start(dti_buf *b, const dti_start *s) {
    dti_mp_put_array(b, s->type.n ? 13 : 12);
    dti_mp_put_uint(b, DTI_OP_START);
    dti_mp_put_str(b, s->id);
    put_new(b, &s->task);
    dti_mp_put_str(b, s->tags);
    dti_mp_put_str(b, s->trigger);
    dti_mp_put_uint(b, s->of);
    dti_mp_put_uint(b, s->max_tasks);
    dti_mp_put_uint(b, s->max_depth);
    dti_mp_put_uint(b, s->keep);
    dti_mp_put_int(b, s->retain_us);
    dti_mp_put_int(b, s->grace_us);
    dti_mp_put_uint(b, s->blob_min);
    if (s->type.n) dti_mp_put_str(b, s->type);
}

static void put_intake(dti_buf *b, const dti_intake *i) {
    bool moves = i->from != i->next, refuses = moves && i->skip && i->refused.n, starts = moves && !i->skip;
    dti_mp_put_array(b, refuses ? 6 : starts ? 5 : 4);
    dti_mp_put_uint(b, DTI_REDIS_OP_INTAKE);
    dti_mp_put_str(b, i->source);
    dti_mp_put_uint(b, i->from);
    dti_mp_put_uint(b, i->next);
    if (starts || refuses) dti_redis_put_start(b, &i->start);
    if (refuses) dti_mp_put_str(b, i->refused);
}

static void put_done(dti_buf *b, const dti_done *d) {
    dti_mp_put_array(b, 6);
    dti_mp_put_uint(b, DTI_REDIS_OP_DONE);
    dti_mp_put_uint(b, d->keep);
    dti_mp_put_uint(b, d->worker);
    dti_mp_put_uint(b, d->upto ? d->era : 0);
    dti_mp_put_uint(b, d->upto);
    dti_mp_put_uint(b, d->n);
}

static void put_hello(dti_buf *b, const dti_hello *h) {
    dti_mp_put_array(b, h->was.n ? 8 : 7);
    dti_mp_put_uint(b, DTI_OP_HELLO);
    dti_mp_put_str(b, h->name);
    dti_mp_put_int(b, h->lease_us);
    dti_mp_put_array(b, h->ntypes);
    for (uint32_t i = 0; i < h->ntypes; i++) {
        const dti_hello_type *t = &h->types[i];
        dti_mp_put_array(b, 6);
        dti_mp_put_str(b, t->name);
        dti_mp_put_str(b, t->signature);
        dti_mp_put_str(b, t->options);
        dti_mp_put_uint(b, t->version);
        dti_mp_put_uint(b, t->crashes);
        dti_mp_put_bool(b, t->named);
    }
    dti_mp_put_array(b, h->nlistens);
    for (uint32_t i = 0; i < h->nlistens; i++) {
        const dti_listen *l = &h->listens[i];
        dti_mp_put_array(b, 5);
        dti_mp_put_uint(b, l->listener);
        dti_mp_put_uint(b, l->subject);
        dti_mp_put_uint(b, l->kind);
        dti_mp_put_uint(b, l->states);
        dti_mp_put_str(b, l->filter);
    }
    dti_mp_put_bool(b, h->bye);
    dti_mp_put_uint(b, h->worker);
    if (h->was.n) dti_mp_put_str(b, h->was);
}

static void put_turn(dti_buf *b, const dti_turn *t) {
    dti_mp_put_array(b, t->only ? 10 : 9);
    dti_mp_put_uint(b, DTI_OP_TURN);
    dti_mp_put_uint(b, t->worker);
    dti_mp_put_uint(b, t->era);
    put_nonce(b, t->nonce);
    dti_mp_put_uint(b, t->got);
    dti_mp_put_array(b, t->nmessages);
    for (uint32_t i = 0; i < t->nmessages; i++) put_message(b, &t->messages[i]);
    dti_mp_put_array(b, t->nwant);
    for (uint32_t i = 0; i < t->nwant; i++) {
        dti_mp_put_array(b, 2);
        dti_mp_put_uint(b, t->want[i].type);
        dti_mp_put_uint(b, t->want[i].n);
    }
    dti_mp_put_uint(b, t->n);
    dti_mp_put_bool(b, t->empty);
    if (t->only) dti_mp_put_uint(b, t->only);
}

static void put_read(dti_buf *b, const dti_read *r) {
    dti_mp_put_array(b, 11);
    dti_mp_put_uint(b, DTI_OP_READ);
    dti_mp_put_uint(b, r->what);
    dti_mp_put_str(b, r->id);
    dti_mp_put_uint(b, r->job);
    dti_mp_put_uint(b, r->ord);
    dti_mp_put_uint(b, r->from);
    dti_mp_put_uint(b, r->limit);
    dti_mp_put_uint(b, r->version);
    dti_mp_put_int(b, r->state);
    dti_mp_put_uint(b, r->before);
    dti_mp_put_bool(b, r->whole);
}

static void put_sweep(dti_buf *b, const dti_sweep *s) {
    dti_mp_put_array(b, 6);
    dti_mp_put_uint(b, DTI_OP_SWEEP);
    dti_mp_put_uint(b, s->budget);
    dti_mp_put_array(b, s->ndead);
    for (uint32_t i = 0; i < s->ndead; i++) dti_mp_put_uint(b, s->dead[i]);
    dti_mp_put_array(b, s->ncharge);
    for (uint32_t i = 0; i < s->ncharge; i++) {
        dti_mp_put_array(b, 2);
        dti_mp_put_uint(b, s->charge[i].job);
        dti_mp_put_uint(b, s->charge[i].ord);
    }
    dti_mp_put_bool(b, s->charge_all);
    dti_mp_put_array(b, s->nticks);
    for (uint32_t i = 0; i < s->nticks; i++) {
        dti_mp_put_array(b, 3);
        dti_mp_put_uint(b, s->ticks[i].type);
        dti_mp_put_int(b, s->ticks[i].at);
        dti_mp_put_int(b, s->ticks[i].next);
    }
}

void dti_redis_put_op(dti_buf *b, const dti_op *op) {
    switch (op->kind) {
    case DTI_OP_START: dti_redis_put_start(b, &op->start); break;
    case DTI_OP_HELLO: put_hello(b, &op->hello); break;
    case DTI_OP_TURN: put_turn(b, &op->turn); break;
    case DTI_OP_READ: put_read(b, &op->read); break;
    case DTI_OP_POST:
        dti_mp_put_array(b, 6);
        dti_mp_put_uint(b, DTI_OP_POST);
        dti_mp_put_str(b, op->post.id);
        dti_mp_put_uint(b, op->post.ord);
        put_hash(b, op->post.msgid);
        dti_mp_put_str(b, op->post.name);
        dti_mp_put_str(b, op->post.data);
        break;
    case DTI_OP_MARK:
        dti_mp_put_array(b, 7);
        dti_mp_put_uint(b, DTI_OP_MARK);
        dti_mp_put_uint(b, op->mark.verb);
        dti_mp_put_str(b, op->mark.id);
        dti_mp_put_uint(b, op->mark.type);
        dti_mp_put_bool(b, op->mark.kids);
        dti_mp_put_uint(b, op->mark.ord);
        put_ranges(b, op->mark.ranges, op->mark.nranges);
        break;
    case DTI_OP_SWEEP: put_sweep(b, &op->sweep); break;
    case DTI_OP_INTAKE: put_intake(b, &op->intake); break;
    case DTI_OP_DONE: put_done(b, &op->done); break;
    case DTI_OP_ERA:
        dti_mp_put_array(b, 2);
        dti_mp_put_uint(b, DTI_OP_ERA);
        dti_mp_put_str(b, op->era.run_id);
        break;
    }
}

void dti_redis_put_header(dti_buf *b, int64_t now, dtask_str run_id, unsigned flags) {
    dti_mp_put_array(b, 4);
    dti_mp_put_uint(b, DTI_REDIS_FORMAT);
    dti_mp_put_int(b, now);
    dti_mp_put_str(b, run_id);
    dti_mp_put_uint(b, flags);
}

void dti_redis_put_asleep(dti_buf *b, dtask_str bell, uint64_t worker, const uint32_t *types, size_t n, dtask_str job_id, uint64_t era,
    uint32_t nap, bool blind) {
    dti_mp_put_array(b, 8);
    dti_mp_put_uint(b, DTI_REDIS_OP_ASLEEP);
    dti_mp_put_str(b, bell);
    dti_mp_put_uint(b, worker);
    dti_mp_put_array(b, (uint32_t)n);
    for (size_t i = 0; i < n; i++) dti_mp_put_uint(b, types[i]);
    dti_mp_put_str(b, job_id);
    dti_mp_put_uint(b, era);
    dti_mp_put_uint(b, nap);
    dti_mp_put_bool(b, blind);
}

void dti_redis_put_awake(dti_buf *b, dtask_str bell, uint64_t worker, dtask_str job_id) {
    dti_mp_put_array(b, 4);
    dti_mp_put_uint(b, DTI_REDIS_OP_AWAKE);
    dti_mp_put_str(b, bell);
    dti_mp_put_uint(b, worker);
    dti_mp_put_str(b, job_id);
}

void dti_redis_put_init(dti_buf *b, uint64_t salt, unsigned shards) {
    dti_mp_put_array(b, 3);
    dti_mp_put_uint(b, DTI_REDIS_OP_INIT);
    put_nonce(b, salt);
    dti_mp_put_uint(b, shards);
}

// ---- reading ------------------------------------------------------------------------

static void get_mail(list *l, dti_mail *m) {
    list in = get_list(l);
    m->n = get_u32(&in);
    m->kind = get_u8(&in);
    m->ord = get_u32(&in);
    m->state = get_u8(&in);
    m->bad = get_bool(&in);
    m->reason = get_u8(&in);
    m->blame = get_u32(&in);
    m->blame_state = get_u8(&in);
    m->blame_reason = get_u8(&in);
    m->attempts = get_u32(&in);
    m->type = get_str(&in);
    m->name = get_str(&in);
    m->data = get_str(&in);
}

static dti_mail *get_mails(list *l, uint32_t *n) {
    list in;
    dti_mail *p = get_many(l, &in, n, sizeof *p);
    for (uint32_t i = 0; i < *n; i++) get_mail(&in, &p[i]);
    return p;
}

static void get_task_row(list *l, dti_taskrow *row) {
    if (!dti_packed_task(get_str(l), row)) l->t->bad = true;
}

static void get_answer(list *l, dti_answer *a) {
    list in = get_list(l), each;
    a->status = get_u8(&in);
    a->first = get_u32(&in);
    a->count = get_u32(&in);
    a->now = get_bool(&in);
    a->cancelling = get_bool(&in);
    a->state = get_u8(&in);
    a->mask = get_u8(&in);
    dti_joined *joined = get_many(&in, &each, &a->njoined, sizeof *joined);
    for (uint32_t i = 0; i < a->njoined; i++) {
        list j = get_list(&each);
        joined[i].pos = get_u32(&j);
        joined[i].ord = get_u32(&j);
        joined[i].job = get_uint(&j);
        joined[i].id = get_str(&j);
        joined[i].conflict = get_bool(&j);
    }
    a->joined = joined;
    a->mails = get_mails(&in, &a->nmails);
    a->more = get_bool(&in);
    a->logn = get_u32(&in);
}

static void get_claim(list *l, dti_claim *c) {
    list in = get_list(l);
    c->job = get_uint(&in);
    c->ord = get_u32(&in);
    c->token = get_nonce(&in);
    get_task_row(&in, &c->row);
    c->id = get_str(&in);
    c->args = get_str(&in);
    c->deps = get_mails(&in, &c->ndeps);
    c->again = get_bool(&in);
    c->state = get_str(&in);
    c->trigger = get_str(&in);
}

static void get_wake(list *l, dti_wake *w) {
    list in = get_list(l);
    w->n = get_uint(&in);
    w->job = get_uint(&in);
    w->ord = get_u32(&in);
    w->token = get_nonce(&in);
    w->seq = get_u32(&in);
    w->cancel = get_bool(&in);
    w->state = get_u8(&in);
    w->logn = get_u32(&in);
    w->mails = get_mails(&in, &w->nmails);
    w->more = get_bool(&in);
}

static void get_turn(list *l, dti_turn *t) {
    list in;
    uint32_t n;
    t->status = get_u8(l);
    t->drain = get_bool(l);
    t->todo = get_bool(l);
    t->answers = get_many(l, &in, &n, sizeof *t->answers);
    if (t->status == DTI_TURN_OK && n != t->nmessages) l->t->bad = true;
    for (uint32_t i = 0; i < n; i++) get_answer(&in, &t->answers[i]);
    t->claims = get_many(l, &in, &t->nclaims, sizeof *t->claims);
    for (uint32_t i = 0; i < t->nclaims; i++) get_claim(&in, &t->claims[i]);
    t->wakes = get_many(l, &in, &t->nwakes, sizeof *t->wakes);
    for (uint32_t i = 0; i < t->nwakes; i++) get_wake(&in, &t->wakes[i]);
}

static void get_task(list *l, dti_taskview *v) {
    list in = get_list(l);
    v->job = get_uint(&in);
    v->ord = get_u32(&in);
    v->id = get_str(&in);
    get_task_row(&in, &v->row);
    v->type = get_str(&in);
    v->by = get_str(&in);
    v->args = get_str(&in);
    v->result = get_str(&in);
    v->error = get_str(&in);
    v->progress = get_str(&in);
    v->state = get_str(&in);
    get_mail(&in, &v->end);
    v->deps = get_str(&in);
}

static void get_job(list *l, dti_jobview *v) {
    list in = get_list(l);
    v->no = get_uint(&in);
    v->id = get_str(&in);
    v->type = get_str(&in);
    v->tags = get_str(&in);
    if (!dti_packed_job(get_str(&in), &v->row)) l->t->bad = true;
    get_task(&in, &v->root);
}

static void get_type(list *l, dti_typeview *v) {
    list in = get_list(l);
    if (!dti_packed_type(get_str(&in), &v->row)) l->t->bad = true;
    v->name = get_str(&in);
    v->signature = get_str(&in);
    v->options = get_str(&in);
}

static void get_read(list *l, dti_read *r) {
    r->n = get_u32(l);
    r->more = get_bool(l);
    r->next = get_u32(l);
    list in = get_list(l);
    uint32_t n = in.left;
    if (r->n != n && n) l->t->bad = true;
    switch (r->what) {
    case DTI_READ_JOB:
    case DTI_READ_JOBS:
        r->jobs = room(l->t, n, sizeof *r->jobs);
        for (uint32_t i = 0; r->jobs && i < n; i++) get_job(&in, &r->jobs[i]);
        break;
    case DTI_READ_TASK:
    case DTI_READ_KIDS:
        r->tasks = room(l->t, n, sizeof *r->tasks);
        for (uint32_t i = 0; r->tasks && i < n; i++) get_task(&in, &r->tasks[i]);
        break;
    case DTI_READ_LOG:
        r->mails = room(l->t, n, sizeof *r->mails);
        for (uint32_t i = 0; r->mails && i < n; i++) get_mail(&in, &r->mails[i]);
        break;
    case DTI_READ_TYPE:
    case DTI_READ_TYPES:
        r->types = room(l->t, n, sizeof *r->types);
        for (uint32_t i = 0; r->types && i < n; i++) get_type(&in, &r->types[i]);
        break;
    case DTI_READ_WORKERS:
        r->workers = room(l->t, n, sizeof *r->workers);
        for (uint32_t i = 0; r->workers && i < n; i++) {
            list w = get_list(&in);
            if (!dti_packed_worker(get_str(&w), &r->workers[i].row)) l->t->bad = true;
        }
        break;
    }
}

static void get_hello(list *l, dti_hello *h) {
    h->worker = get_uint(l);
    list in = get_list(l);
    if (in.left != h->ntypes) l->t->bad = true;
    for (uint32_t i = 0; i < h->ntypes; i++) {
        list t = get_list(&in);
        h->types[i].no = get_u32(&t);
        h->types[i].refused = get_bool(&t);
        h->types[i].registered = get_str(&t);
    }
}

static void get_done(list *l, dti_done *d) {
    d->on = get_bool(l);
    d->era = get_uint(l);
    d->first = get_uint(l);
    d->waiting = get_uint(l);
    list in = get_list(l);
    d->nends = in.left;
    dtask_str *ends = room(l->t, in.left, sizeof *ends);
    for (uint32_t i = 0; ends && i < d->nends; i++) ends[i] = get_str(&in);
    if (!ends) d->nends = 0;
    d->ends = ends;
}

static void get_outs(list *l, dti_op *op) {
    switch (op->kind) {
    case DTI_OP_START:
        op->start.status = get_u8(l);
        op->start.job = get_uint(l);
        op->start.joined = get_str(l);
        break;
    case DTI_OP_HELLO: get_hello(l, &op->hello); break;
    case DTI_OP_TURN: get_turn(l, &op->turn); break;
    case DTI_OP_READ: get_read(l, &op->read); break;
    case DTI_OP_POST: op->post.status = get_u8(l); break;
    case DTI_OP_INTAKE:
        op->intake.status = get_u8(l);
        op->intake.at = get_uint(l);
        break;
    case DTI_OP_DONE: get_done(l, &op->done); break;
    case DTI_OP_MARK: op->mark.status = get_u8(l); break;
    case DTI_OP_SWEEP:
        op->sweep.next = get_int(l);
        if (!op->sweep.next) op->sweep.next = INT64_MAX;
        op->sweep.steps = get_u32(l);
        break;
    case DTI_OP_ERA:
        op->era.era = get_uint(l);
        op->era.fresh = get_bool(l);
        break;
    }
}

static dtask_err malformed(void) {
    return dti_fail(DTASK_EVERSION, "the script in Redis answered in a form that this release does not know: upgrade");
}

// A dtask_err that the script sent, its text the detail.
static dtask_err scripts(int64_t err, dtask_str text) {
    if (err > 0 || err < DTASK_EINTERNAL) return malformed();
    return err ? dti_fail((dtask_err)err, "%.*s", (int)text.n, text.p) : DTASK_OK;
}

// The id of a job, or a task's two numbers.
static dti_hash get_end(list *l) {
    dti_mp from = l->at;
    dti_mpval v = {.kind = DTI_MP_NIL};
    if (l->left) dti_mp_next(&from, &v);
    if (v.kind != DTI_MP_ARRAY) return dti_id_hash(get_str(l));
    list in = get_list(l);
    uint64_t job = get_uint(&in);
    return dti_task_hash(job, get_u32(&in));
}

dtask_err dti_redis_take_answer(dti_arena *arena, dtask_str bytes, dti_redis_answer *out) {
    take t = {.arena = arena};
    list whole = {.t = &t, .at = dti_mp_of(bytes), .left = 1};
    list in = get_list(&whole), each;
    int64_t failed = get_int(&in);
    dtask_str text = get_str(&in);
    if (t.bad) return malformed();
    dtask_err err = scripts(failed, text);
    if (err) return err;
    *out = (dti_redis_answer){0};
    uint32_t *hungry = get_many(&in, &each, &out->nhungry, sizeof *hungry);
    for (uint32_t i = 0; i < out->nhungry; i++) hungry[i] = get_u32(&each);
    out->hungry = hungry;
    list fx = get_list(&in);
    uint32_t n;
    out->fx.types = get_many(&fx, &each, &n, sizeof *out->fx.types);
    for (out->fx.ntypes = 0; out->fx.ntypes < n; out->fx.ntypes++) out->fx.types[out->fx.ntypes] = get_u32(&each);
    out->fx.workers = get_many(&fx, &each, &n, sizeof *out->fx.workers);
    for (out->fx.nworkers = 0; out->fx.nworkers < n; out->fx.nworkers++) out->fx.workers[out->fx.nworkers] = get_uint(&each);
    out->fx.ended = get_many(&fx, &each, &n, sizeof *out->fx.ended);
    for (out->fx.nended = 0; out->fx.nended < n; out->fx.nended++) out->fx.ended[out->fx.nended] = get_end(&each);
    out->fx.todo = get_bool(&fx);
    out->fx.ended_more = get_bool(&fx);
    out->era = get_uint(&fx);
    list replies = get_list(&in);
    out->replies = replies.at;
    out->nreplies = replies.left;
    if (t.nomem) return dti_fail(DTASK_ENOMEM, "out of memory for an answer of Redis");
    return t.bad ? malformed() : DTASK_OK;
}

// Opens the next reply: its error, or the list of its values.
static dtask_err next_reply(take *t, dti_redis_answer *a, list *out) {
    if (!a->nreplies) return malformed();
    list rest = {.t = t, .at = a->replies, .left = a->nreplies};
    list in = get_list(&rest);
    a->replies = rest.at;
    a->nreplies = t->bad ? 0 : rest.left;
    int64_t failed = get_int(&in);
    if (t->bad) return malformed();
    if (failed) return scripts(failed, get_str(&in));
    *out = get_list(&in);
    return t->bad ? malformed() : DTASK_OK;
}

dtask_err dti_redis_take_reply(dti_arena *arena, dti_redis_answer *a, dti_op *op) {
    take t = {.arena = arena};
    list outs;
    op->err = next_reply(&t, a, &outs);
    if (op->err) return op->err;
    get_outs(&outs, op);
    if (t.nomem) op->err = dti_fail(DTASK_ENOMEM, "out of memory for an answer of Redis");
    else if (t.bad) op->err = malformed();
    return op->err;
}

dtask_err dti_redis_take_init(dti_redis_answer *a, uint64_t *salt, uint64_t *era, unsigned *shards) {
    take t = {0};
    list outs;
    dtask_err err = next_reply(&t, a, &outs);
    if (err) return err;
    *salt = get_nonce(&outs);
    *era = get_uint(&outs);
    *shards = get_u8(&outs);
    return t.bad ? malformed() : DTASK_OK;
}

dtask_err dti_redis_take_value(dti_redis_answer *a, dtask_str *out) {
    take t = {0};
    list outs;
    dtask_err err = next_reply(&t, a, &outs);
    if (err || !out) return err;
    const char *from = outs.at.p;
    for (uint32_t i = 0; i < outs.left; i++) {
        if (!dti_mp_skip(&outs.at, NULL)) return malformed();
    }
    *out = dti_str(from, (size_t)(outs.at.p - from));
    return DTASK_OK;
}
