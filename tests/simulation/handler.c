// A frame: one attempt at a task, as a worker runs it. It steps through its
// program, gathers what the next message shall carry, waits, is woken, and
// ends. Before the first step of a re-run it reads its children and its log,
// and takes the child that it finds for each call that it makes again.
#include <string.h>

#include "sim.h"

static uint64_t number(dtask_str v) {
    uint64_t n = 0;
    if (v.n == 9 && (uint8_t)v.p[0] == 0xcf)
        for (int i = 1; i < 9; i++)
            n = n << 8 | (uint8_t)v.p[i];
    return n;
}
static dtask_str value(sim *s, uint64_t v) {
    char *p = sim_alloc(s, 9);
    p[0] = (char)0xcf;
    for (int i = 0; i < 8; i++)
        p[1 + i] = (char)(v >> (56 - 8 * i));
    return dti_str(p, 9);
}

sim_frame *frame_new(sim *s, int wi, const dti_claim *c) {
    sim_worker *w = &s->w[wi];
    sim_frame *f = s->spare;
    if (f) {
        s->spare = f->next;
    } else {
        if (s->nall == s->call) {
            sim_frame **more = sim_alloc(s, (s->call = s->call ? s->call * 2 : 64) * sizeof *more);
            if (s->nall)
                memcpy(more, s->all, s->nall * sizeof *more);
            s->all = more;
        }
        f = sim_alloc(s, sizeof *f);
        f->gen = 0;
        f->index = s->nall++;
        s->all[f->index] = f;
    }
    uint32_t gen = f->gen + 1, index = f->index;
    *f = (sim_frame){.st = F_QUEUED, .gen = gen, .index = index, .worker = wi, .job = c->job, .ord = c->ord,
        .token = c->token, .row = c->row};
    uint64_t seed;
    uint32_t budget, stage;
    if (prog_read_args(c->args, &seed, &budget, &stage)) {
        prog_make(&s->conf, seed, budget, stage, &f->p);
    } else { // a callback, an undo: one step
        f->p.n = 1;
        f->p.ncalls = 0;
        f->p.v[0] = (prog_ins){.op = I_END};
        f->p.own = 7;
        f->p.become = f->p.fatal = f->p.stubborn = false;
        f->p.skip = prog_has(&s->conf, PF_SKIP) && prng_chance(&s->r, 300);
    }
    f->sum = f->p.own;
    f->retold = prng_chance(&s->r, 500);
    if (w->nframes == w->cframes) {
        sim_frame **more = sim_alloc(s, (w->cframes = w->cframes ? w->cframes * 2 : 16) * sizeof *more);
        if (w->nframes)
            memcpy(more, w->frames, w->nframes * sizeof *more);
        w->frames = more;
    }
    w->frames[w->nframes++] = f;
    return f;
}

void frame_drop(sim *s, sim_frame *f) {
    sim_worker *w = &s->w[f->worker];
    for (uint32_t i = 0; i < w->nframes; i++)
        if (w->frames[i] == f) {
            w->frames[i] = w->frames[--w->nframes];
            break;
        }
    f->st = F_FREE;
    f->gen++;
    f->next = s->spare;
    s->spare = f;
}

// ---- what it learns ----------------------------------------------------------------
static sim_call *call_of(sim_frame *f, uint32_t ord) {
    for (uint32_t i = 0; i < f->p.ncalls; i++)
        if (f->calls[i].made && !f->calls[i].joined && f->calls[i].ord == ord && ord)
            return &f->calls[i];
    return NULL;
}

static void learn(sim *s, sim_frame *f, sim_call *c, uint8_t state, bool bad, uint64_t v) {
    const mtask *t = mirror_task(&s->m, f->job, c->ord);
    bool mine = mirror_task(&s->m, f->job, f->ord) && mirror_task(&s->m, f->job, f->ord)->row.token == f->token;
    mine = mine && s->w[f->worker].run == s->run; // a reply from before a failover tells of another store
    if (t && mine && (t->row.state != state || mtask_bad(t) != bad || (state == DTI_SUCCEEDED && !bad && t->value != v)))
        sim_violation(s, "MAIL_WRONG", "job %llu task %u: told that child %u is %s%s with %llu, and it is %s with %llu", (unsigned long long)f->job, f->ord, c->ord,
            dti_state_names[state], bad ? " bad" : "", (unsigned long long)v, dti_state_names[t->row.state], (unsigned long long)t->value);
    if (t && mine && !dti_terminal(t->row.state))
        sim_violation(s, "EARLY_RESULT", "job %llu task %u: child %u was readable before it was complete", (unsigned long long)f->job, f->ord, c->ord);
    c->known = true;
    c->state = state;
    c->bad = bad;
    c->value = v;
}

static void read_log(sim *s, sim_frame *f, uint32_t from);

void frame_mails(sim *s, sim_frame *f, const dti_mail *mails, uint32_t n, bool more) {
    for (uint32_t i = 0; i < n; i++) {
        const dti_mail *m = &mails[i];
        if (m->n < f->read)
            continue;
        f->read = m->n + 1;
        if (m->kind == DTI_LOG_SIG) {
            f->sigs++;
        } else if (m->kind == DTI_LOG_KID) {
            sim_call *c = call_of(f, m->ord);
            if (c && !c->known)
                learn(s, f, c, m->state, m->bad, number(m->data));
        }
    }
    if (more)
        read_log(s, f, f->read);
}

static void read_log(sim *s, sim_frame *f, uint32_t from) {
    for (;;) {
        sim_rpc *r = sim_rpc_new(s, DTI_OP_READ);
        r->op.read = (dti_read){.what = DTI_READ_LOG, .job = f->job, .ord = f->ord, .from = from, .limit = prng_chance(&s->r, 500) ? 3 : 100};
        bool ok = sim_op(s, r);
        if (ok) {
            frame_mails(s, f, r->op.read.mails, r->op.read.n, false);
            for (uint32_t i = 0; i < r->op.read.n; i++) {
                const dti_mail *m = &r->op.read.mails[i];
                if (m->kind == DTI_LOG_NOTE && f->rerun && f->ndeadlines < 8 && m->data.n == 9)
                    f->deadlines[f->ndeadlines++] = (int64_t)number(m->data);
            }
        }
        bool more = ok && r->op.read.more;
        uint32_t next = ok ? r->op.read.next : from;
        sim_rpc_free(s, r);
        if (!more || next <= from)
            return;
        from = next;
    }
}

// Pages of its children: at a re-run to match them, after a quiet wait to
// learn how they ended.
static void read_kids(sim *s, sim_frame *f, bool match) {
    uint32_t from = f->row.base;
    uint32_t cap = 0;
    for (;;) {
        sim_rpc *r = sim_rpc_new(s, DTI_OP_READ);
        r->op.read = (dti_read){.what = DTI_READ_KIDS, .job = f->job, .ord = f->ord, .from = from, .whole = true, .limit = prng_chance(&s->r, 500) ? 2 : 64};
        bool ok = sim_op(s, r);
        for (uint32_t i = 0; ok && i < r->op.read.n; i++) {
            const dti_taskview *v = &r->op.read.tasks[i];
            bool bad = v->row.state == DTI_FAILED || (v->row.state == DTI_SUCCEEDED && v->row.bad);
            if (match) {
                if (f->nkids == cap) {
                    sim_kid *more = sim_alloc(s, (cap = cap ? cap * 2 : 16) * sizeof *more);
                    if (f->nkids)
                        memcpy(more, f->kids, f->nkids * sizeof *more);
                    f->kids = more;
                }
                f->kids[f->nkids++] = (sim_kid){.ord = v->ord, .ptries = v->row.ptries, .call = {v->row.call[0], v->row.call[1]},
                    .state = v->row.state, .bad = bad, .cancel = v->row.bits & DTI_CANCEL, .replaced = v->row.bits & DTI_REPLACED};
            } else if (dti_terminal(v->row.state)) {
                sim_call *c = call_of(f, v->ord);
                if (c && !c->known)
                    learn(s, f, c, v->row.state, bad, number(v->result));
            }
        }
        bool more = ok && r->op.read.more;
        uint32_t next = ok ? r->op.read.next : from;
        sim_rpc_free(s, r);
        if (!more || next <= from)
            return;
        from = next;
    }
}

static void begin(sim *s, sim_frame *f) {
    f->begun = true;
    f->rerun = f->row.nkids || f->row.logn;
    if (f->row.crashes == 0 && !s->failed_over) {
        for (size_t i = 0; i < s->nbegun; i++)
            if (s->begun[i].job == f->job && s->begun[i].ord == f->ord && s->begun[i].value == ((uint64_t)f->p.stage << 32 | f->row.tries))
                sim_violation(s, "RAN_TWICE", "job %llu task %u has crashes=0, and began twice", (unsigned long long)f->job, f->ord);
        if (s->nbegun == s->cbegun) {
            sim_entry *more = sim_alloc(s, (s->cbegun = s->cbegun ? s->cbegun * 2 : 32) * sizeof *more);
            if (s->nbegun)
                memcpy(more, s->begun, s->nbegun * sizeof *more);
            s->begun = more;
        }
        s->begun[s->nbegun++] = (sim_entry){.job = f->job, .ord = f->ord, .value = (uint64_t)f->p.stage << 32 | f->row.tries};
    }
    if (f->row.nkids)
        read_kids(s, f, true);
    if (f->row.logn)
        read_log(s, f, 0);
}

// ---- what it sends --------------------------------------------------------------------
static uint32_t ref_of(sim_frame *f, uint32_t call, const sim_pending *p) {
    for (uint32_t i = 0; i < p->ncalls; i++)
        if (p->calls[i] == call)
            return DTI_HERE | i;
    return f->calls[call].ord;
}

static void call_hash(const sim *s, const prog_call *k, uint64_t out[2]) {
    char args[PROG_ARGS];
    prog_args(args, k->seed, k->budget, 0);
    dti_hash h = dti_hash128(args, sizeof args, s->types[k->type]);
    out[0] = h.h[0];
    out[1] = h.h[1];
}

static void fill_keys(sim *s, sim_frame *f, const prog_call *k, dti_new *n) {
    uint32_t count = k->nlimits + k->unique;
    if (!count)
        return;
    dti_keyspec *keys = sim_alloc(s, count * sizeof *keys);
    memset(keys, 0, count * sizeof *keys);
    for (uint32_t i = 0; i < k->nlimits; i++) {
        keys[i] = (dti_keyspec){.h = {1000 + k->limits[i], s->seed}, .kind = DTI_KEY_LIMIT, .over = k->over,
            .max = 1 + k->limits[i] % 3, .per_us = k->per && k->limits[i] & 1 ? 30000 : 0};
    }
    if (k->unique)
        keys[k->nlimits] = (dti_keyspec){.h = {2000 + k->unique_key, k->unique_scope ? f->job : 0}, .kind = DTI_KEY_UNIQUE, .over = DTI_OVER_JOIN,
            .until = k->unique_until, .scope = k->unique_scope, .keep_us = k->unique_key & 1 ? 5000 : 0};
    n->keys = keys;
    n->nkeys = count;
}

static void fill_new(sim *s, sim_frame *f, uint32_t call, const sim_pending *p, dti_new *n) {
    const prog_call *k = &f->p.calls[call];
    *n = (dti_new){.type = s->types[k->type], .prio = k->prio, .may_fail = k->may_fail, .journal = k->journal, .retries = k->retries,
        .crashes = k->crashes, .ptries = f->row.tries};
    char *args = sim_alloc(s, PROG_ARGS);
    prog_args(args, k->seed, k->budget, 0);
    n->args = dti_str(args, PROG_ARGS);
    call_hash(s, k, n->call);
    n->due = k->delay ? s->wall + k->delay : 0;
    n->expires = k->expires ? s->wall + k->expires : 0;
    if (k->ndeps) {
        uint32_t *deps = sim_alloc(s, k->ndeps * sizeof *deps);
        for (uint32_t i = 0; i < k->ndeps; i++)
            if (f->calls[k->deps[i]].made && !f->calls[k->deps[i]].joined)
                deps[n->ndeps++] = ref_of(f, k->deps[i], p);
        n->deps = deps;
    }
    fill_keys(s, f, k, n);
}

static dti_message *message(sim *s, sim_frame *f) {
    sim_worker *w = &s->w[f->worker];
    sim_pending *p = &f->pend;
    dti_message *m = sim_alloc(s, sizeof *m);
    *m = (dti_message){.job = f->job, .ord = f->ord, .token = f->token, .seq = ++f->seq};
    if (p->ncalls) {
        dti_new *kids = sim_alloc(s, p->ncalls * sizeof *kids);
        for (uint32_t i = 0; i < p->ncalls; i++)
            fill_new(s, f, p->calls[i], p, &kids[i]);
        m->children = kids;
        m->nchildren = p->ncalls;
    }
    if (p->nnotes) {
        dti_note *notes = sim_alloc(s, p->nnotes * sizeof *notes);
        memcpy(notes, p->notes, p->nnotes * sizeof *notes);
        m->notes = notes;
        m->nnotes = p->nnotes;
    }
    if (p->nacks + p->nredo) {
        dti_ack *acks = sim_alloc(s, (p->nacks + p->nredo) * sizeof *acks);
        for (uint32_t i = 0; i < p->nredo; i++)
            acks[m->nacks++] = (dti_ack){p->redo[i], true};
        for (uint32_t i = 0; i < p->nacks; i++)
            acks[m->nacks++] = (dti_ack){f->calls[p->acks[i]].ord, false};
        m->acks = acks;
    }
    if (p->progress)
        m->progress = dti_strz("\x92\x01\x02");
    if (p->state)
        m->state = dti_strz("\x81\xa1s\x01");
    f->out = true;
    w->box_frame[w->nbox] = f->index;
    w->box[w->nbox++] = m;
    return m;
}

static void sent(sim_frame *f) {
    for (uint32_t i = 0; i < f->pend.ncalls; i++)
        f->calls[f->pend.calls[i]].sent = true;
    f->pend = (sim_pending){0};
}

static void end(sim *s, sim_frame *f, dti_endkind kind) {
    if (f->out) {
        f->st = F_HOLD;
        return;
    }
    dti_message *m = message(s, f);
    m->end = kind;
    const prog *p = &f->p;
    if (kind == DTI_END_SUCCEED) {
        m->value = value(s, f->sum);
    } else if (kind == DTI_END_FAIL) {
        m->value = dti_strz("\x81\xa4type\xa4" "Boom");
        m->freed = f->row.tries == 0 && p->v[f->pc].op == I_FAILIF && p->v[f->pc].b;
        m->retry = (m->freed || f->row.tries - f->row.freed < f->row.retries) && !(p->fatal && p->v[f->pc].op == I_END);
        if (m->retry)
            m->retry_at = prng_chance(&s->r, 500) ? 0 : s->wall + prng_below(&s->r, 50000);
    } else if (kind == DTI_END_CANCELLED) {
        m->value = dti_strz("\x81\xa4type\xa3" "End");
    } else if (kind == DTI_END_BECOME) {
        dti_new *next = sim_alloc(s, sizeof *next);
        *next = (dti_new){.type = s->types[p->seed % s->ntypes], .retries = f->row.retries, .crashes = f->row.crashes, .prio = f->row.prio,
            .call = {f->row.call[0], f->row.call[1]}};
        char *args = sim_alloc(s, PROG_ARGS);
        prog_args(args, p->seed, p->budget / 2, p->stage + 1);
        next->args = dti_str(args, PROG_ARGS);
        if (p->noutputs) {
            uint32_t *deps = sim_alloc(s, p->noutputs * sizeof *deps);
            for (uint32_t i = 0; i < p->noutputs; i++)
                if (f->calls[p->outputs[i]].made && !f->calls[p->outputs[i]].joined)
                    deps[next->ndeps++] = m->nchildren ? ref_of(f, p->outputs[i], &f->pend) : f->calls[p->outputs[i]].ord;
            next->deps = deps;
        }
        m->next = next;
    }
    sent(f);
    f->ended = kind;
    f->st = F_ENDING;
    TRACE(s, "  %llu/%u ends %d", (unsigned long long)f->job, f->ord, (int)kind);
}

// Parks for `mask`; true: that is on its way. Tells call `one`, or all that
// are not known (one = -1).
static bool park(sim *s, sim_frame *f, uint8_t mask, int one, bool bad_only, int64_t due, dti_parkhow how) {
    if (f->cancel) { // whoever was asked to end cannot wait any more
        f->fails = true;
        return false;
    }
    if (f->out) {
        f->st = F_HOLD;
        return false;
    }
    dti_range *told = sim_alloc(s, f->p.ncalls * sizeof *told + 1);
    uint32_t ntold = 0;
    for (uint32_t i = 0; i < f->p.ncalls; i++) {
        sim_call *c = &f->calls[i];
        if (!c->made || c->known || c->joined || (one >= 0 && (uint32_t)one != i))
            continue;
        told[ntold++] = (dti_range){.first = ref_of(f, i, &f->pend), .count = 1, .bad_only = bad_only};
    }
    dti_message *m = message(s, f);
    m->told = told;
    m->ntold = ntold;
    m->end = DTI_END_PARK;
    m->mask = mask;
    m->how = how;
    m->due = due;
    m->read = f->read;
    f->park_seq = f->seq;
    f->parked_mask = mask;
    f->parked_how = how;
    sent(f);
    if (how != DTI_STAY)
        f->st = F_PARKING;
    TRACE(s, "  %llu/%u parks seq %u mask %u how %d read %u", (unsigned long long)f->job, f->ord, f->seq, mask, (int)how, f->read);
    return true;
}

static dti_parkhow draw_how(sim *s, const sim_frame *f) {
    bool cold = prog_has(&s->conf, PF_COLD) && f->row.crashes > 0 && prng_chance(&s->r, 350);
    return cold ? DTI_COLD : DTI_WARM;
}

// ---- the program ------------------------------------------------------------------------
static bool call_good(const sim_call *c) {
    return c->joined || (c->state == DTI_SUCCEEDED && !c->bad);
}

// The handler is given a child's outcome. True: that raises.
static bool give(sim_frame *f, uint32_t i) {
    sim_call *c = &f->calls[i];
    if (!c->given) {
        c->given = true;
        if (c->joined)
            return false;
        if (call_good(c))
            f->sum += c->value;
        else if (f->pend.nacks < PROG_CALLS)
            f->pend.acks[f->pend.nacks++] = (uint8_t)i;
    }
    return !call_good(c);
}

static void spawn(sim *s, sim_frame *f, uint32_t i) {
    sim_call *c = &f->calls[i];
    if (c->made)
        return;
    c->made = true;
    uint64_t h[2];
    call_hash(s, &f->p.calls[i], h);
    for (uint32_t k = 0; k < f->nkids; k++) {
        sim_kid *kid = &f->kids[k];
        if (kid->taken || kid->replaced || kid->call[0] != h[0] || kid->call[1] != h[1])
            continue;
        kid->taken = true;
        bool good = kid->state == DTI_SUCCEEDED && !kid->bad;
        if (((dti_terminal(kid->state) && !good) || kid->cancel) && kid->ptries < f->row.tries) {
            f->pend.redo[f->pend.nredo++] = kid->ord;
            break; // made anew
        }
        c->ord = kid->ord;
        c->sent = true;
        if (dti_terminal(kid->state) && !f->retold) {
            const mtask *t = mirror_task(&s->m, f->job, kid->ord);
            learn(s, f, c, kid->state, kid->bad, t ? t->value : 0);
        }
        return;
    }
    f->pend.calls[f->pend.ncalls++] = (uint8_t)i;
}

static void cancel_call(sim *s, sim_frame *f, uint32_t i) {
    sim_call *c = &f->calls[i];
    if (!c->ord || c->joined)
        return;
    sim_rpc *r = sim_rpc_new(s, DTI_OP_MARK);
    dti_range *range = sim_alloc(s, sizeof *range);
    *range = (dti_range){.first = c->ord, .count = 1};
    mjob *j = mirror_job(&s->m, f->job);
    r->op.mark = (dti_mark){.verb = DTI_MARK_CANCEL, .id = j ? j->id : dti_strz("gone"), .kids = prng_chance(&s->r, 500), .ord = c->ord};
    if (r->op.mark.kids) {
        r->op.mark.ord = f->ord;
        r->op.mark.ranges = range;
        r->op.mark.nranges = 1;
    }
    sim_op(s, r);
    sim_rpc_free(s, r);
}

static void note(sim *s, sim_frame *f, uint8_t kind, uint64_t v) {
    if (f->pend.nnotes < 8)
        f->pend.notes[f->pend.nnotes++] = (dti_note){kind, dti_strz("n"), value(s, v)};
}

// One instruction. False: the frame does not go on now.
static bool step(sim *s, sim_frame *f) {
    const prog_ins *i = &f->p.v[f->pc];
    switch ((prog_op)i->op) {
    case I_SPAWN:
        spawn(s, f, i->a);
        break;
    case I_WAIT: {
        sim_call *c = &f->calls[i->a];
        if (!c->made)
            break;
        if (!c->known && !c->joined) {
            park(s, f, DTI_MAIL, i->a, false, 0, draw_how(s, f));
            return false;
        }
        if (!give(f, i->a))
            break;
        if (i->b == PROG_RAISE)
            return f->fails = true;
        if (i->b == PROG_SUBST) {
            sim_call *sub = &f->calls[i->c];
            spawn(s, f, i->c);
            if (!sub->known && !sub->joined) {
                park(s, f, DTI_MAIL, i->c, false, 0, draw_how(s, f));
                return false;
            }
            if (give(f, i->c))
                return f->fails = true;
        }
        break;
    }
    case I_ALL: {
        bool open = false, raises = false;
        for (int look = 0; look < 2; look++) {
            open = false;
            for (uint32_t k = 0; k < f->p.ncalls; k++) {
                open |= f->calls[k].made && !f->calls[k].known && !f->calls[k].joined;
                raises |= f->calls[k].known && !call_good(&f->calls[k]);
            }
            if (!open || !f->woken)
                break;
            read_kids(s, f, false);
            f->woken = false;
        }
        if (open && raises && i->c)
            for (uint32_t k = 0; k < f->p.ncalls; k++)
                if (f->calls[k].made && !f->calls[k].known)
                    cancel_call(s, f, k);
        if (open && i->t && f->all_pc != f->pc + 1) {
            f->all_pc = f->pc + 1;
            f->all_until = s->wall + i->t;
        }
        if (open && i->t && f->all_until <= s->wall) { // not in time
            if (i->b == PROG_RAISE)
                return f->fails = true;
            break;
        }
        if (open) {
            bool quiet = prng_chance(&s->r, 700);
            park(s, f, (uint8_t)((quiet ? DTI_QUIET | (i->c ? DTI_MAIL : 0) : DTI_MAIL) | (i->t ? DTI_DUE : 0)), -1, quiet, i->t ? f->all_until : 0, draw_how(s, f));
            return false;
        }
        raises = false;
        for (uint32_t k = 0; k < f->p.ncalls; k++)
            if (f->calls[k].made && !f->calls[k].given)
                raises |= give(f, k);
        if (raises && i->b == PROG_RAISE)
            return f->fails = true;
        break;
    }
    case I_ANY: {
        bool open = false, got = false;
        for (uint32_t k = 0; k < f->p.ncalls; k++) {
            open |= f->calls[k].made && !f->calls[k].known && !f->calls[k].joined;
            got |= f->calls[k].known && !f->calls[k].given;
        }
        if (open && !got) {
            park(s, f, DTI_MAIL, -1, false, 0, draw_how(s, f));
            return false;
        }
        break;
    }
    case I_STAY: {
        sim_call *c = &f->calls[i->a];
        if (!c->made || c->known || c->joined)
            break;
        if (!park(s, f, DTI_MAIL, i->a, false, 0, DTI_STAY))
            return false;
        break;
    }
    case I_SLEEP: {
        bool recorded = f->deadlines_taken < f->ndeadlines;
        if (!recorded && f->ndeadlines < 8) {
            f->deadlines[f->ndeadlines++] = s->wall + i->t;
            note(s, f, DTI_LOG_NOTE, (uint64_t)(s->wall + i->t));
        }
        if (f->deadlines_taken < f->ndeadlines && f->deadlines[f->deadlines_taken] > s->wall) {
            park(s, f, DTI_DUE, f->p.ncalls, false, f->deadlines[f->deadlines_taken], draw_how(s, f));
            return false;
        }
        f->deadlines_taken++;
        break;
    }
    case I_RECV:
        if (f->sigs_taken < f->sigs) {
            f->sigs_taken++;
            break;
        }
        if (i->t && f->recv_gave_up & 1u << (f->pc & 31))
            break;
        if (!park(s, f, (uint8_t)(DTI_MAIL | (i->t ? DTI_DUE : 0)), f->p.ncalls, false, i->t ? s->wall + i->t : 0, draw_how(s, f)))
            return false;
        if (i->t)
            f->recv_gave_up |= 1u << (f->pc & 31);
        return false;
    case I_NOTE:
        note(s, f, DTI_LOG_NOTE, 1);
        f->pend.notes[f->pend.nnotes - 1].data = dti_strz("\x01");
        break;
    case I_EMIT:
        if (f->emits++ >= f->row.emits)
            note(s, f, DTI_LOG_EMIT, f->emits);
        break;
    case I_UNDO:
        if (!f->rerun)
            note(s, f, DTI_LOG_UNDO, 3);
        break;
    case I_PROGRESS:
        f->pend.progress = true;
        break;
    case I_STATE:
        f->pend.state = true;
        break;
    case I_FLUSH:
        if (f->out) {
            f->st = F_HOLD;
            return false;
        }
        message(s, f);
        sent(f);
        f->pc++;
        sim_at(s, 1 + prng_below(&s->r, 800), EV_FRAME, f->index, f->gen, NULL);
        return false;
    case I_CANCEL:
        cancel_call(s, f, i->a);
        break;
    case I_FAILIF:
        if (f->row.tries < i->a)
            return f->fails = true;
        break;
    case I_END:
        return f->fails = true; // stops the walk; what it means is seen there
    }
    f->pc++;
    return true;
}

void frame_go(sim *s, sim_frame *f) {
    if (!f->begun)
        begin(s, f);
    f->st = F_RUNNING;
    for (;;) {
        if (f->cancel && !f->p.stubborn) {
            end(s, f, DTI_END_CANCELLED);
            return;
        }
        // More of these fit into no message: send what there is.
        if (f->pend.nnotes >= 7 || f->pend.nredo >= PROG_CALLS - 1) {
            if (f->out) {
                f->st = F_HOLD;
                return;
            }
            message(s, f);
            sent(f);
        }
        if (f->fails)
            break;
        if (!step(s, f) && !f->fails)
            return;
    }
    bool at_end = f->p.v[f->pc].op == I_END;
    if (!at_end || f->p.fatal)
        end(s, f, DTI_END_FAIL);
    else if (f->p.skip)
        end(s, f, DTI_END_SKIP);
    else
        end(s, f, f->p.become ? DTI_END_BECOME : DTI_END_SUCCEED);
}

// ---- the answer to its message -------------------------------------------------------------
static void resume(sim *s, sim_frame *f) {
    if (f->st == F_HOLD) {
        f->st = F_RUNNING;
        sim_at(s, 1 + prng_below(&s->r, 200), EV_FRAME, f->index, f->gen, NULL);
    }
}

void frame_answer(sim *s, sim_frame *f, const dti_message *m, const dti_answer *a) {
    f->out = false;
    TRACE(s, "  %llu/%u hears %d of seq %u (now %d, state %u, mask %u)", (unsigned long long)f->job, f->ord, (int)a->status, m->seq, a->now, a->state, a->mask);
    if (a->status == DTI_STALE || a->status == DTI_BAD || a->status == DTI_GAP) {
        frame_drop(s, f);
        return;
    }
    if (a->status == DTI_TOOBIG) { // refused whole: the task ends by it
        f->seq--;
        for (uint32_t i = 0; i < f->p.ncalls; i++)
            if (f->calls[i].made && !f->calls[i].ord)
                f->calls[i].made = false;
        f->pend = (sim_pending){0};
        dti_message *last = message(s, f);
        last->end = DTI_END_FAIL;
        last->value = dti_strz("\x81\xa4type\xa6TooBig");
        f->ended = DTI_END_FAIL;
        f->st = F_ENDING;
        return;
    }
    uint32_t ord = a->first;
    for (uint32_t i = 0, k = 0; i < m->nchildren; i++) {
        // Which call is it? The one that was sent and has no number yet.
        sim_call *c = NULL;
        for (; k < f->p.ncalls && !c; k++)
            if (f->calls[k].sent && !f->calls[k].ord && !f->calls[k].joined)
                c = &f->calls[k];
        bool joined = false;
        for (uint32_t q = 0; q < a->njoined; q++)
            joined |= a->joined[q].pos == i;
        if (!c)
            continue;
        if (a->cancelling || a->count == 0 || joined)
            c->joined = true; // no child of this one
        else
            c->ord = ord++;
    }
    if (a->cancelling)
        f->cancel = true;
    bool park = m->end == DTI_END_PARK;
    bool now = park && a->now;
    if (park && now) {
        if (a->status == DTI_OK)
            frame_mails(s, f, a->mails, a->nmails, a->more);
        else
            read_log(s, f, f->read);
        f->woken = true;
        if (m->how != DTI_STAY)
            f->st = F_WOKEN; // it has no slot until it gets one
    } else if (park && m->how != DTI_STAY) {
        if (m->how == DTI_COLD) {
            frame_drop(s, f);
            return;
        }
        if (f->st == F_PARKING)
            f->st = F_PARKED; // also if asked to end: it may have to wait for a permit; a wake comes
    } else if (m->end != DTI_END_NONE && !park) {
        frame_drop(s, f);
        return;
    }
    resume(s, f);
}
