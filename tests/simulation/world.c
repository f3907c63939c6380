// The clock, the events, and the one way an operation runs: inside a
// transaction, then the invariants, then the bells.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

const char *const sim_fault_names[FT_COUNT] = {
#define X(n) #n,
    SIM_FAULTS(X)
#undef X
};

enum { LINES = 64, CALM_US = 240000000, EVENTS_MAX = 60000, TASKS_MAX = 800 };

// ---- telling ------------------------------------------------------------------
void sim_trace(sim *s, const char *fmt, ...) {
    char line[200];
    va_list ap;
    va_start(ap, fmt);
    int n = snprintf(line, sizeof line, "%6llu %9.3f ", (unsigned long long)s->step, (double)s->now / 1000);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    if (s->out)
        fprintf(s->out, "%s\n", line);
    if (!s->lines)
        s->lines = malloc(LINES * sizeof *s->lines);
    memcpy(s->lines[s->nlines++ % LINES], line, sizeof line);
}

_Noreturn void sim_violation(sim *s, const char *name, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    snprintf(s->violation, sizeof s->violation, "%s", name);
    vsnprintf(s->why, sizeof s->why, fmt, ap);
    va_end(ap);
    static const char *const tables[] = {
#define X(NAME, name, cols) #name,
        DTI_TABLES(X)
#undef X
    };
    for (size_t i = 0; s->trace && i < s->store.nrows && i < 24; i++) {
        const watch_row *r = &s->store.rows[i];
        const mtask *t = r->t == DTI_T_TASK ? mirror_task(&s->m, r->k.a, (uint32_t)r->k.b) : NULL;
        const dti_taskrow *was = t && r->old ? r->old : NULL;
        sim_trace(s, "%s row %s %llu/%llu/%llu%s%s%s%s", !r->old ? "new" : !r->now ? "deleted" : "changed", tables[r->t], (unsigned long long)r->k.a,
            (unsigned long long)r->k.b, (unsigned long long)r->k.c, was ? " " : "", was ? dti_state_names[was->state] : "", t ? " -> " : "",
            t ? dti_state_names[t->row.state] : "");
    }
    longjmp(*s->caught, 1);
}

bool strikes(sim *s, sim_fault f, uint32_t n) {
    if (!on(s, f) || !prng_chance(&s->r, n))
        return false;
    s->stats->faults[f]++;
    return true;
}

// ---- memory ----------------------------------------------------------------------
void *sim_alloc(sim *s, size_t n) {
    void *p = dti_alloc(&s->arena, n ? n : 1);
    if (!p)
        abort();
    return p;
}

dtask_str sim_printf(sim *s, const char *fmt, ...) {
    char text[128];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char *p = sim_alloc(s, (size_t)n + 1);
    memcpy(p, text, (size_t)n + 1);
    return dti_str(p, (size_t)n);
}

sim_rpc *sim_rpc_new(sim *s, dti_opkind kind) {
    sim_rpc *r = s->free_rpcs;
    if (r)
        s->free_rpcs = r->next;
    else
        r = calloc(1, sizeof *r);
    r->turn = NULL;
    memset(&r->op, 0, sizeof r->op);
    r->op.kind = kind;
    dti_arena_reset(&r->arena);
    return r;
}
void sim_rpc_free(sim *s, sim_rpc *r) {
    r->next = s->free_rpcs;
    s->free_rpcs = r;
}

// ---- events: a heap by time ----------------------------------------------------------
static bool before(const event *x, const event *y) {
    return x->at != y->at ? x->at < y->at : x->n < y->n;
}

void sim_at(sim *s, int64_t delay, event_kind kind, uint32_t a, uint32_t b, void *p) {
    if (s->nheap == s->cheap)
        s->heap = realloc(s->heap, (s->cheap = s->cheap ? s->cheap * 2 : 256) * sizeof *s->heap);
    event e = {.at = s->now + delay, .n = s->next_event++, .kind = kind, .a = a, .b = b, .p = p};
    size_t i = s->nheap++;
    for (; i && before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = e;
}

static event next_event(sim *s) {
    event top = s->heap[0], last = s->heap[--s->nheap];
    size_t i = 0;
    for (;;) {
        size_t k = i * 2 + 1;
        if (k >= s->nheap)
            break;
        if (k + 1 < s->nheap && before(&s->heap[k + 1], &s->heap[k]))
            k++;
        if (!before(&s->heap[k], &last))
            break;
        s->heap[i] = s->heap[k];
        i = k;
    }
    s->heap[i] = last;
    return top;
}

// ---- operations ------------------------------------------------------------------------
bool sim_op(sim *s, sim_rpc *r) {
    dti_tx tx = {.store = &s->store.base, .arena = &r->arena, .now = s->wall, .cascade = s->cascade};
    jmp_buf trap;
    s->store.base.trap = s->store.in->trap = &trap;
    check_ended(s);
    s->step++;
    s->stats->steps++;
    s->stats->ops[r->op.kind]++;
    watch_begin(&s->store);
    if (s->beside)
        s->beside->run(s, &r->op);
    if (setjmp(trap)) {
        dtask_err err = s->store.base.trap_err ? s->store.base.trap_err : s->store.in->trap_err;
        watch_rollback(&s->store);
        // The model itself refuses an edge that its table does not have.
        const char *name = strstr(dtask_err_detail(), "may not go from") ? "EDGE_LEGAL" : "RAISED";
        sim_violation(s, name, "operation %d raised %d: %s", (int)r->op.kind, (int)err, dtask_err_detail());
    }
    dti_model_run(&tx, &r->op);
    if (watch_diff(&s->store) && r->op.err)
        sim_violation(s, "ERROR_CHANGES", "operation %d failed with %d and changed rows", (int)r->op.kind, (int)r->op.err);
    if (r->op.kind == DTI_OP_READ && s->store.nrows)
        sim_violation(s, "READ_CHANGES", "a read changed rows");
    watch_commit(&s->store);
    if (s->beside)
        s->beside->compare(s, &r->op, &tx.fx);
    check_step(s, &r->op, &tx.fx);
    if (r->op.kind != DTI_OP_READ)
        sim_ring(s, &tx.fx);
    if (s->step % 512 == 0)
        check_scan(s);
    return r->op.err == DTASK_OK;
}

// Bells: a sleeper learns at once, or, where the ring is lost, at its next beat.
void sim_ring(sim *s, const dti_effects *fx) {
    uint32_t rung = 0;
    for (size_t i = 0; i < fx->ntypes; i++)
        for (int w = 0; w < s->nw; w++)
            for (uint32_t t = 0; t < s->ntypes + 3; t++)
                if (t < s->ntypes ? s->w[w].types >> t & 1 && s->types[t] == fx->types[i] : s->sys_types[t - s->ntypes] == fx->types[i])
                    rung |= 1u << w;
    for (size_t i = 0; i < fx->nworkers; i++)
        for (int w = 0; w < s->nw; w++)
            if (s->w[w].no == fx->workers[i])
                rung |= 1u << w | 1u << (w + 8);
    for (int w = 0; w < s->nw; w++) {
        sim_worker *k = &s->w[w];
        if (!(rung >> w & 1) || !k->alive || (k->ring && !(rung >> (w + 8) & 1)) || strikes(s, FT_BELL_LOST, 300))
            continue;
        k->ring = true;
        if (rung >> (w + 8) & 1 && !k->flying)
            k->renewed = INT64_MIN / 2; // a wake: a turn is due even if no claim is wanted
        sim_at(s, 10 + prng_below(&s->r, 60), EV_WORKER, (uint32_t)w, k->incarnation, (void *)1);
    }
    if (fx->todo && (s->calm || prng_chance(&s->r, 700)))
        sweep_at(s, 100 + prng_below(&s->r, 3000));
}

// ---- a seed ---------------------------------------------------------------------------------
static void draw(sim *s) {
    uint64_t features = prng_next(&s->r), faults = prng_next(&s->r);
    switch (prng_below(&s->r, 8)) { // swarm: some of all, few, or everything
    case 0: features = ~0ull; faults = ~0ull; break;
    case 1: features &= prng_next(&s->r); faults &= prng_next(&s->r); break;
    case 2: faults = 0; break;
    case 3: features |= prng_next(&s->r); faults |= prng_next(&s->r); break;
    default: break;
    }
    s->conf.features = features & ((1ull << PF_COUNT) - 1);
    s->faults = (uint32_t)(faults & ((1ull << FT_COUNT) - 1));
    // Every second seed is one whose outcome can be computed.
    s->conf.exact = prng_chance(&s->r, 500);
    if (s->conf.exact) {
        s->conf.features &= (1ull << PF_LOOSE) - 1;
        s->faults &= ~(1u << FT_CANCEL);
    }
    s->conf.budget = prng_chance(&s->r, 100) ? 60 : prng_range(&s->r, 2, 24);
    s->conf.salt = prng_next(&s->r);
    s->cascade = prng_chance(&s->r, 500) ? prng_range(&s->r, 1, 8) : 0; // tight: much is left to todo
}

static void make_store(sim *s) {
    watch_reset(&s->store);
    dti_tx tx = {.store = &s->store.base, .arena = &s->arena, .now = s->wall};
    jmp_buf trap;
    s->store.base.trap = s->store.in->trap = &trap;
    watch_begin(&s->store);
    if (setjmp(trap))
        sim_violation(s, "RAISED", "making the store: %s", dtask_err_detail());
    dti_model_init(&tx, 1, 1);
    watch_diff(&s->store);
    watch_commit(&s->store);
    for (size_t i = 0; i < s->store.nrows; i++)
        mirror_apply(&s->m, &s->store.rows[i]);
    if (s->beside)
        s->beside->begin(s);
}

static void open_store(sim *s) {
    make_store(s);
    sim_rpc *r = sim_rpc_new(s, DTI_OP_ERA);
    s->run = 1;
    r->op.era.run_id = dti_strz("run-1");
    sim_op(s, r);
    sim_rpc_free(s, r);
    // A client declares the types.
    s->ntypes = prng_range(&s->r, 2, PROG_TYPES - 1);
    r = sim_rpc_new(s, DTI_OP_HELLO);
    dti_hello_type *types = sim_alloc(s, (PROG_TYPES + 1) * sizeof *types);
    for (uint32_t i = 0; i < s->ntypes; i++)
        types[i] = (dti_hello_type){.name = sim_printf(s, "t%u", i), .signature = dti_strz("x -> x"), .version = 1, .crashes = 3};
    r->op.hello = (dti_hello){.types = types, .ntypes = s->ntypes};
    if (!sim_op(s, r))
        sim_violation(s, "HELLO", "a client's declaration failed: %d", r->op.err);
    for (uint32_t i = 0; i < s->ntypes; i++)
        s->types[i] = types[i].no;
    for (uint32_t i = s->ntypes; i < PROG_TYPES; i++)
        s->types[i] = s->types[i % s->ntypes];
    sim_rpc_free(s, r);
}

static void handle(sim *s, const event *e) {
    switch (e->kind) {
    case EV_ARRIVE: turn_arrives(s, e->p); break;
    case EV_REPLY: {
        sim_rpc *r = e->p;
        sim_worker *w = &s->w[r->turn->worker];
        if (w->frozen && w->incarnation == r->turn->incarnation)
            sim_at(s, w->frozen_until - s->now + 1 + prng_below(&s->r, 100), EV_REPLY, 0, 0, r);
        else
            turn_answered(s, r);
        break;
    }
    case EV_RESEND: {
        sim_turn *t = e->p;
        sim_worker *w = &s->w[t->worker];
        if (w->frozen && w->incarnation == t->incarnation)
            sim_at(s, w->frozen_until - s->now + 1 + prng_below(&s->r, 100), EV_RESEND, 0, 0, t);
        else
            turn_resend(s, t);
        break;
    }
    case EV_WORKER:
        if (e->b != s->w[e->a].incarnation)
            break;
        worker_look(s, (int)e->a);
        if (!e->p && e->b == s->w[e->a].incarnation) // the beat; others were rung
            sim_at(s, 300000, EV_WORKER, e->a, s->w[e->a].incarnation, NULL);
        break;
    case EV_FRAME: {
        sim_frame *f = s->all[e->a];
        if (f->gen != e->b || f->st != F_RUNNING)
            break;
        sim_worker *w = &s->w[f->worker];
        if (w->frozen) {
            sim_at(s, w->frozen_until - s->now + 1 + prng_below(&s->r, 100), EV_FRAME, e->a, e->b, NULL);
            break;
        }
        int wi = f->worker;
        frame_go(s, f);
        worker_look(s, wi);
        break;
    }
    case EV_START: client_start(s, e->a); break;
    case EV_MISCHIEF:
        if (s->calm)
            break;
        mischief(s);
        sim_at(s, 100 + prng_below(&s->r, 60000), EV_MISCHIEF, 0, 0, NULL);
        break;
    case EV_SWEEP:
        if (e->a == s->sweeps)
            sweep(s);
        break;
    case EV_RISE:
        if (e->b != s->w[e->a].incarnation)
            break;
        if (s->w[e->a].alive)
            worker_thaw(s, (int)e->a);
        else
            worker_join(s, (int)e->a);
        break;
    default: break;
    }
}

static bool all_ended(sim *s) {
    for (int i = 0; i < s->nj; i++)
        if (!s->j[i].accepted)
            return false;
    for (uint64_t no = 1; no < s->m.njobs; no++)
        if (s->m.jobs[no].present && s->m.jobs[no].row.state < DTI_JOB_SUCCEEDED)
            return false;
    return s->m.todos == 0;
}

static void stuck(sim *s) {
    for (uint64_t no = 1; no < s->m.njobs; no++) {
        mjob *j = &s->m.jobs[no];
        for (uint32_t i = 0; j->present && i < j->n; i++) {
            const dti_taskrow *t = &j->t[i].row;
            if (j->t[i].present && !dti_terminal(t->state))
                TRACE(s, "still %s: %llu/%u type %u lost %u wait %u open %u need %u due %lld logr %u of %u owner %llu", dti_state_names[t->state], (unsigned long long)no, i, t->type, t->lost,
                    t->wait, t->open, t->need, (long long)(t->due ? t->due - s->wall : 0), t->logr, j->t[i].mail_end, (unsigned long long)t->owner);
        }
    }
    for (int w = 0; w < s->nw; w++)
        for (uint32_t i = 0; i < s->w[w].nframes; i++)
            TRACE(s, "worker %d has %llu/%u in state %d, seq %u, pc %u", w, (unsigned long long)s->w[w].frames[i]->job, s->w[w].frames[i]->ord, (int)s->w[w].frames[i]->st,
                s->w[w].frames[i]->seq, s->w[w].frames[i]->pc);
    sim_violation(s, "STUCK", "jobs are not ended %lld virtual seconds after the last fault, %u todo", (long long)(CALM_US / 1000000), s->m.todos);
}

static void live(sim *s) {
    s->r.s = prng_mix(s->seed * 0x9e3779b97f4a7c15u + 1);
    s->wall = 1700000000000000;
    mirror_init(&s->m, &s->arena);
    draw(s);
    if (s->trace) {
        char on_[600] = "";
        for (int i = 0; i < PF_COUNT; i++)
            if (prog_has(&s->conf, (prog_feature)i))
                strcat(strcat(on_, " "), prog_feature_names[i]);
        TRACE(s, "programs:%.150s", on_);
        *on_ = 0;
        for (int i = 0; i < FT_COUNT; i++)
            if (s->faults >> i & 1)
                strcat(strcat(on_, " "), sim_fault_names[i]);
        TRACE(s, "faults:%.150s; %s", on_, s->conf.exact ? "exact" : "loose");
    }
    open_store(s);
    s->nw = (int)prng_range(&s->r, 1, SIM_WORKERS);
    for (int w = 0; w < s->nw; w++) {
        s->w[w] = (sim_worker){.slots = prng_range(&s->r, 1, 3), .prefetch = prng_below(&s->r, 4),
            .types = w == 0 ? ~0u : (uint32_t)prng_next(&s->r) | 1};
        worker_join(s, w);
    }
    clients_make(s);
    sim_at(s, 1000, EV_MISCHIEF, 0, 0, NULL);
    s->next_sweep = INT64_MAX;
    sweep_at(s, 1000);
    int64_t storm = 200000 + prng_below(&s->r, prng_chance(&s->r, 100) ? 4000000 : 1200000), calm_at = 0, helped = 0;
    while (s->nheap) {
        if (!s->calm && s->heap[0].at > storm) {
            calm_down(s);
            calm_at = s->now;
        }
        if (s->calm) {
            if (all_ended(s))
                break;
            if (s->now - calm_at > CALM_US || s->events > EVENTS_MAX) {
                for (uint64_t no = 1; no < s->m.njobs; no++)
                    if (s->m.jobs[no].n > TASKS_MAX) // grew by retries of retries: no proof of anything
                        return;
                stuck(s);
            }
            if (s->now - helped > 50000) {
                helped = s->now;
                calm_help(s);
            }
        }
        event e = next_event(s);
        s->wall += e.at - s->now;
        s->now = e.at;
        s->events++;
        handle(s, &e);
    }
    check_end(s);
}

bool sim_run(sim *s) {
    sim_stats *stats = s->stats;
    watch store = s->store;
    dti_arena arena = s->arena;
    event *heap = s->heap;
    size_t cheap = s->cheap;
    sim_rpc *rpcs = s->free_rpcs;
    char (*lines)[200] = s->lines;
    *s = (sim){.seed = s->seed, .trace = s->trace, .out = s->out, .stats = stats, .store = store, .arena = arena, .heap = heap,
        .cheap = cheap, .free_rpcs = rpcs, .lines = lines, .beside = s->beside, .beside_dumps = s->beside_dumps};
    if (!s->store.base.ops)
        watch_open(&s->store);
    dti_arena_reset(&s->arena);
    jmp_buf caught;
    s->caught = &caught;
    bool fine = setjmp(caught) == 0;
    if (fine)
        live(s);
    for (size_t i = 0; i < s->nheap; i++) // answers that nobody heard
        if (s->heap[i].kind == EV_REPLY)
            sim_rpc_free(s, s->heap[i].p);
    s->nheap = 0;
    stats->seeds++;
    return fine;
}

void sim_done(sim *s) {
    watch_close(&s->store);
    dti_arena_done(&s->arena);
    free(s->heap);
    free(s->lines);
    for (sim_rpc *r = s->free_rpcs, *next; r; r = next) {
        next = r->next;
        dti_arena_done(&r->arena);
        free(r);
    }
}
