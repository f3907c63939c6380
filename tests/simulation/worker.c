// Workers: one turn in flight each, resent until it is answered; slots;
// claims that wait for one; wakes; death, freezing and coming back.
#include <string.h>

#include "sim.h"

static void fence(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    while (w->nframes)
        frame_drop(s, w->frames[w->nframes - 1]);
    w->nbox = 0;
    w->flying = NULL;
    w->draining = w->ring = false;
    w->incarnation++;
}

static bool serves(const sim_worker *w, uint32_t type) {
    return w->types >> type & 1;
}

void worker_join(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    dtask_str was = w->alive ? sim_printf(s, "w%d.%u", wi, w->incarnation) : (dtask_str){0};
    if (was.n && w->run == s->run)
        s->m.workers[w->no].left = !s->m.workers[w->no].row.dead;
    fence(s, wi);
    w->alive = true;
    w->frozen = false;
    w->got = 0;
    w->renewed = s->now;
    w->run = s->run;
    w->lease = s->faults >> FT_LEASE & 1 ? 1000000 : 0;
    s->stats->faults[FT_LEASE] += w->lease != 0;
    sim_rpc *r = sim_rpc_new(s, DTI_OP_HELLO);
    dti_hello *h = &r->op.hello;
    *h = (dti_hello){.name = sim_printf(s, "w%d.%u", wi, w->incarnation), .was = was, .lease_us = w->lease};
    dti_hello_type *types = sim_alloc(s, (PROG_TYPES + 3) * sizeof *types);
    bool listens = prog_has(&s->conf, PF_LISTEN); // a worker names the types that it does not serve
    for (uint32_t i = 0; i < s->ntypes; i++)
        if (serves(w, i) || listens)
            types[h->ntypes++] = (dti_hello_type){.name = sim_printf(s, "t%u", i), .signature = dti_strz(serves(w, i) ? "x -> x" : ""), .version = 1,
                .crashes = 3, .named = !serves(w, i)};
    static const char *const sys[] = {DTI_SYS_MAP, DTI_SYS_UNDO, DTI_SYS_JOIN};
    for (int i = 0; i < 3; i++)
        types[h->ntypes++] = (dti_hello_type){.name = dti_strz(sys[i]), .version = 1, .crashes = 3};
    h->types = types;
    if (listens) {
        dti_listen *two = sim_alloc(s, 2 * sizeof *two);
        two[0] = (dti_listen){.listener = 0, .subject = 1, .kind = DTI_L_CALLBACK, .states = 0xffff};
        two[1] = (dti_listen){.listener = 1, .subject = s->ntypes - 1, .kind = DTI_L_TRIGGER, .states = 1u << DTI_SUCCEEDED};
        h->listens = two;
        h->nlistens = 2;
    }
    dti_hello ask = *h;
    for (int again = 0; again < 2; again++) { // the second: its answer was lost
        if (again && !strikes(s, FT_LOSE_REPLY, 300))
            break;
        r->op.hello = ask;
        if (!sim_op(s, r))
            sim_violation(s, "HELLO", "worker %d: hello failed: %d", wi, r->op.err);
        if (again && w->no != r->op.hello.worker)
            sim_violation(s, "HELLO", "worker %d: the same name is another worker", wi);
        w->no = r->op.hello.worker;
        for (uint32_t i = 0, k = 0; i < s->ntypes; i++)
            if (serves(w, i) || listens)
                s->types[i] = types[k++].no;
        for (int i = 0; i < 3; i++)
            s->sys_types[i] = types[h->ntypes - 3 + (uint32_t)i].no;
    }
    sim_rpc_free(s, r);
    w->nonce = w->no << 24;
    s->m.workers[w->no].seen = s->now;
    s->m.workers[w->no].left = false;
    w->era = s->m.meta.era;
    TRACE(s, "worker %d is %llu", wi, (unsigned long long)w->no);
    sim_at(s, 10 + prng_below(&s->r, 1000), EV_WORKER, (uint32_t)wi, w->incarnation, NULL);
}

// ---- slots ------------------------------------------------------------------
static bool lone(const sim_frame *f) {
    return f->row.lost > 0;
}

static uint32_t busy(const sim_worker *w, bool *out_lone) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->nframes; i++)
        if (frame_busy(w->frames[i])) {
            n++;
            *out_lone |= lone(w->frames[i]);
        }
    return n;
}

static int64_t draw_run(sim *s) {
    if (prog_has(&s->conf, PF_LONG) && prng_chance(&s->r, 60))
        return 1 + prng_below(&s->r, 400000);
    return 1 + prng_below(&s->r, prng_chance(&s->r, 200) ? 20000 : 1000);
}

// Woken frames first, then claims; one that must run alone only alone.
static void give_slots(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    for (int want = F_WOKEN; want >= F_QUEUED; want -= F_WOKEN - F_QUEUED)
        for (uint32_t i = 0; i < w->nframes; i++) {
            sim_frame *f = w->frames[i];
            if (f->st != (frame_state)want)
                continue;
            bool alone = false;
            uint32_t n = busy(w, &alone);
            if (alone || n >= w->slots)
                return;
            if (lone(f) && n)
                continue;
            f->st = F_RUNNING;
            sim_at(s, draw_run(s), EV_FRAME, f->index, f->gen, NULL);
        }
}

// ---- turns --------------------------------------------------------------------
static uint32_t room(const sim_worker *w, bool *out_empty) {
    uint32_t mine = 0;
    bool alone = false;
    for (uint32_t i = 0; i < w->nframes; i++) {
        frame_state st = w->frames[i]->st;
        if (st == F_QUEUED || st == F_RUNNING || st == F_HOLD || st == F_WOKEN) {
            mine++;
            alone |= lone(w->frames[i]);
        }
    }
    *out_empty = mine == 0;
    if (alone || (w->draining && mine))
        return 0;
    uint32_t most = w->slots + w->prefetch;
    return mine < most ? most - mine : 0;
}

void worker_send(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    sim_turn *t = sim_alloc(s, sizeof *t);
    *t = (sim_turn){.worker = wi, .incarnation = w->incarnation, .sent = s->now};
    uint32_t n = w->nbox < 16 ? w->nbox : 16;
    if (n > 1 && prng_chance(&s->r, 200))
        n = prng_range(&s->r, 1, n);
    dti_message *messages = sim_alloc(s, (n + 1) * sizeof *messages);
    for (uint32_t i = 0; i < n; i++) {
        messages[i] = *w->box[i];
        t->frames[i] = w->box_frame[i];
        t->gens[i] = s->all[w->box_frame[i]]->gen;
    }
    w->nbox -= n;
    memmove(w->box, w->box + n, w->nbox * sizeof *w->box);
    memmove(w->box_frame, w->box_frame + n, w->nbox * sizeof *w->box_frame);
    bool empty;
    uint32_t want = room(w, &empty);
    dti_want *wants = sim_alloc(s, (PROG_TYPES + 3) * sizeof *wants);
    uint32_t nwants = 0;
    for (uint32_t i = 0; want && i < s->ntypes; i++)
        if (serves(w, i))
            wants[nwants++] = (dti_want){s->types[i], prng_range(&s->r, 1, want)};
    for (int i = 0; want && i < 3; i++)
        wants[nwants++] = (dti_want){s->sys_types[i], want};
    t->req = (dti_turn){.worker = w->no, .era = w->era, .nonce = ++w->nonce, .got = w->got, .messages = messages,
        .nmessages = n, .want = wants, .nwant = nwants, .n = want, .empty = empty && w->nbox == 0};
    w->flying = t;
    w->ring = false;
    TRACE(s, "worker %d sends turn %llx: %u messages, wants %u%s", wi, (unsigned long long)t->req.nonce, n, want, t->req.empty ? ", empty" : "");
    turn_resend(s, t);
}

static int64_t latency(sim *s) {
    return strikes(s, FT_SLOW, 30) ? 1 + prng_below(&s->r, 2000000) : 20 + prng_below(&s->r, 300);
}

// Sends it, for the first time or again.
void turn_resend(sim *s, sim_turn *t) {
    sim_worker *w = &s->w[t->worker];
    if (t->answered || t->incarnation != w->incarnation)
        return;
    if (!strikes(s, FT_LOSE_REQUEST, 60))
        sim_at(s, latency(s), EV_ARRIVE, 0, 0, t);
    if (strikes(s, FT_DOUBLE, 60))
        sim_at(s, latency(s) + prng_below(&s->r, 50000), EV_ARRIVE, 0, 0, t);
    if (s->nold < 16)
        s->old[s->nold++] = t;
    else
        s->old[prng_below(&s->r, 16)] = t;
    sim_at(s, 20000 + prng_below(&s->r, 20000), EV_RESEND, 0, 0, t);
}

void turn_arrives(sim *s, sim_turn *t) {
    sim_worker *w = &s->w[t->worker];
    // A connection of before the failover reaches nobody.
    if (w->run != s->run && t->req.era == s->m.meta.era)
        return;
    sim_rpc *r = sim_rpc_new(s, DTI_OP_TURN);
    r->turn = t;
    r->op.turn = t->req;
    turn_before b;
    check_turn_before(s, &t->req, &b);
    TRACE(s, "turn %llx of worker %llu arrives%s", (unsigned long long)t->req.nonce, (unsigned long long)t->req.worker, b.resent ? " again" : "");
    if (!sim_op(s, r))
        sim_violation(s, "TURN_FAILED", "turn %llx: error %d", (unsigned long long)t->req.nonce, r->op.err);
    check_turn_after(s, &r->op.turn, &b);
    if (r->op.turn.status == DTI_TURN_OK)
        s->m.workers[t->req.worker].seen = s->now;
    if (t->incarnation != w->incarnation || t->answered || strikes(s, FT_LOSE_REPLY, 60)) {
        sim_rpc_free(s, r);
        return;
    }
    sim_at(s, latency(s), EV_REPLY, 0, 0, r);
}

static sim_frame *frame_of(sim *s, int wi, uint64_t job, uint32_t ord, uint64_t token) {
    sim_worker *w = &s->w[wi];
    for (uint32_t i = 0; i < w->nframes; i++)
        if (w->frames[i]->job == job && w->frames[i]->ord == ord && w->frames[i]->token == token)
            return w->frames[i];
    return NULL;
}

static void wake(sim *s, int wi, const dti_wake *k) {
    sim_frame *f = frame_of(s, wi, k->job, k->ord, k->token);
    if (!f)
        return;
    TRACE(s, "  %llu/%u is %s, seq %u (parked at %u)", (unsigned long long)k->job, k->ord, k->cancel ? "asked to end" : "woken", k->seq, f->park_seq);
    if (k->cancel) {
        f->cancel = true;
    } else {
        if (k->seq < f->park_seq)
            return; // of an earlier wait
        frame_mails(s, f, k->mails, k->nmails, k->more);
        f->woken = true;
    }
    if (f->st == F_PARKED)
        f->st = F_WOKEN;
}

void turn_answered(sim *s, sim_rpc *r) {
    sim_turn *t = r->turn;
    sim_worker *w = &s->w[t->worker];
    if (t->answered || t->incarnation != w->incarnation || !w->alive) {
        sim_rpc_free(s, r);
        return;
    }
    t->answered = true;
    w->flying = NULL;
    const dti_turn *a = &r->op.turn;
    TRACE(s, "worker %d hears turn %llx: status %d, %u claims, %u wakes%s", t->worker, (unsigned long long)a->nonce, (int)a->status, a->nclaims, a->nwakes, a->drain ? ", drain" : "");
    if (a->status != DTI_TURN_OK) { // dead, or of an older store: begins anew
        sim_rpc_free(s, r);
        worker_join(s, t->worker);
        return;
    }
    w->renewed = t->sent;
    for (uint32_t i = 0; i < a->nmessages; i++) {
        sim_frame *f = s->all[t->frames[i]];
        if (f->gen == t->gens[i] && f->st != F_FREE)
            frame_answer(s, f, &t->req.messages[i], &a->answers[i]);
    }
    for (uint32_t i = 0; i < a->nclaims; i++)
        if (!frame_of(s, t->worker, a->claims[i].job, a->claims[i].ord, a->claims[i].token)) {
            TRACE(s, "  claims %llu/%u, attempt %u%s", (unsigned long long)a->claims[i].job, a->claims[i].ord, a->claims[i].row.attempt, a->claims[i].again ? " (again)" : "");
            frame_new(s, t->worker, &a->claims[i]);
        }
    for (uint32_t i = 0; i < a->nwakes; i++)
        if (a->wakes[i].n > w->got) {
            w->got = a->wakes[i].n;
            wake(s, t->worker, &a->wakes[i]);
        }
    w->draining = a->drain || (w->draining && !t->req.empty);
    bool more = a->nclaims > 0;
    sim_rpc_free(s, r);
    if (more)
        w->ring = true;
    worker_look(s, t->worker);
}

// A claim that has not begun goes back; a parked frame may be dropped, and a
// running one given up.
static void give_back(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    for (uint32_t i = 0; i < w->nframes && w->nbox < 48; i++) {
        sim_frame *f = w->frames[i];
        bool queued = f->st == F_QUEUED && strikes(s, FT_UNSTARTED, 40);
        bool parked = f->st == F_PARKED && f->row.crashes > 0 && strikes(s, FT_DROP_FRAME, 20);
        bool running = f->st == F_RUNNING && strikes(s, FT_ABANDON, 15); // it stops, and the handler outstayed that
        if ((!queued && !parked && !running) || f->out)
            continue;
        dti_message *m = sim_alloc(s, sizeof *m);
        *m = (dti_message){.job = f->job, .ord = f->ord, .token = f->token, .seq = ++f->seq, .end = DTI_END_RELEASE, .unstarted = queued};
        f->out = true;
        f->st = F_ENDING;
        f->ended = DTI_END_RELEASE;
        w->box_frame[w->nbox] = f->index;
        w->box[w->nbox++] = m;
    }
}

void worker_look(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    if (!w->alive || w->frozen)
        return;
    if (w->run != s->run) { // it sees the store's run id when it connects
        worker_join(s, wi);
        return;
    }
    if (!s->calm)
        give_back(s, wi);
    give_slots(s, wi);
    if (w->flying)
        return;
    bool empty;
    uint32_t want = room(w, &empty);
    int64_t beat = w->lease ? w->lease / 3 : 1000000;
    if (w->nbox || (w->ring && want) || s->now - w->renewed >= beat)
        worker_send(s, wi);
}

// ---- faults -----------------------------------------------------------------------
void worker_die(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    bool seen = !w->lease && s->ndead < 32;
    if (!w->lease && !seen)
        return;
    if (seen && w->run == s->run) {
        if (strikes(s, FT_CHARGE_ALL, 300))
            s->charge_all = true;
        for (uint32_t i = 0; i < w->nframes; i++)
            if (frame_busy(w->frames[i]) && s->ncharge < 64)
                s->charge[s->ncharge++] = (dti_charge){w->frames[i]->job, w->frames[i]->ord};
        s->dead[s->ndead++] = w->no;
    }
    TRACE(s, "worker %d dies", wi);
    fence(s, wi);
    w->alive = false;
    w->frozen = false;
    sim_at(s, 1000 + prng_below(&s->r, 800000), EV_RISE, (uint32_t)wi, w->incarnation, NULL);
}

// Says goodbye: what it held goes back, uncharged.
void worker_leave(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    if (w->run != s->run)
        return;
    TRACE(s, "worker %d leaves", wi);
    sim_rpc *r = sim_rpc_new(s, DTI_OP_HELLO);
    r->op.hello = (dti_hello){.bye = true, .worker = w->no};
    if (!sim_op(s, r))
        sim_violation(s, "HELLO", "bye failed: %d", r->op.err);
    sim_rpc_free(s, r);
    fence(s, wi);
    w->alive = w->frozen = false;
    sim_at(s, 1000 + prng_below(&s->r, 300000), EV_RISE, (uint32_t)wi, w->incarnation, NULL);
}

void worker_freeze(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    w->frozen = true;
    w->frozen_until = s->now + prng_below(&s->r, 4000000);
    TRACE(s, "worker %d freezes", wi);
    if (!w->lease && s->ndead < 32 && w->run == s->run && prng_chance(&s->r, 500)) { // its heartbeat is old
        s->charge_all = true;
        s->dead[s->ndead++] = w->no;
    }
    sim_at(s, w->frozen_until - s->now, EV_RISE, (uint32_t)wi, w->incarnation, NULL);
}

void worker_thaw(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    w->frozen = false;
    TRACE(s, "worker %d goes on", wi);
    // It fences itself, by its clock; or did not look yet, and must be refused.
    if (w->lease && s->now - w->renewed > w->lease && prng_chance(&s->r, 500)) {
        worker_join(s, wi);
        return;
    }
    sim_at(s, 1 + prng_below(&s->r, 100), EV_WORKER, (uint32_t)wi, w->incarnation, NULL);
}

// Messages that must be refused, under the nonce that was answered last: no
// claim can come, and nothing may change.
void worker_forge(sim *s, int wi) {
    sim_worker *w = &s->w[wi];
    if (!w->alive || w->frozen || !w->nframes || w->run != s->run || w->no >= s->m.nworkers)
        return;
    const mworker *row = &s->m.workers[w->no];
    if (!row->present || row->row.dead || row->row.nonce == 0)
        return;
    sim_frame *f = w->frames[prng_below(&s->r, w->nframes)];
    const mtask *t = mirror_task(&s->m, f->job, f->ord);
    if (!t)
        return;
    sim_turn *turn = sim_alloc(s, sizeof *turn);
    dti_message *m = sim_alloc(s, sizeof *m);
    dti_new *kid = sim_alloc(s, sizeof *kid);
    char *args = sim_alloc(s, PROG_ARGS);
    prog_args(args, 1, 0, 0);
    *kid = (dti_new){.type = s->types[0], .args = dti_str(args, PROG_ARGS)};
    *m = (dti_message){.job = f->job, .ord = f->ord, .token = f->token, .seq = t->row.seq + 1, .children = kid, .nchildren = 1,
        .end = DTI_END_SUCCEED, .value = dti_strz("\x01")};
    bool held = t->row.token == f->token && t->row.owner == w->no;
    switch (held ? prng_below(&s->r, 3) : 0) {
    case 0: m->token ^= 1u << 20; break;          // another's token
    case 1: m->seq = t->row.seq; break;           // was applied
    default: m->seq = t->row.seq + 2; break;      // one is missing
    }
    if (m->seq == 0)
        m->token ^= 1u << 20;
    *turn = (sim_turn){.worker = wi, .answered = true};
    turn->req = (dti_turn){.worker = w->no, .era = w->era, .nonce = row->row.nonce, .got = w->got, .messages = m, .nmessages = 1};
    turn_arrives(s, turn);
}
