// Clients, operators, the sweeper and the faults: all that happens to the
// shard besides the turns of workers.
#include <string.h>

#include "sim.h"

// ---- jobs ---------------------------------------------------------------------
void clients_make(sim *s) {
    s->nj = (int)prng_range(&s->r, 1, 4);
    for (int i = 0; i < s->nj; i++) {
        sim_job *j = &s->j[i];
        *j = (sim_job){.exact = s->conf.exact};
        dtask_str id = sim_printf(s, "job-%d", i);
        memcpy(j->id, id.p, id.n);
        j->idn = (uint32_t)id.n;
        char *args = sim_alloc(s, PROG_ARGS);
        prog_args(args, prng_next(&s->r), prng_below(&s->r, s->conf.budget + 1), 0);
        j->task = (dti_new){.type = s->types[prng_below(&s->r, s->ntypes)], .args = dti_str(args, PROG_ARGS), .crashes = s->conf.exact ? 1000000 : 3};
        dti_hash h = dti_hash128(args, PROG_ARGS, j->task.type);
        memcpy(j->task.call, h.h, sizeof h.h);
        if (prog_has(&s->conf, PF_FAIL))
            j->task.retries = prng_below(&s->r, 3);
        if (prog_has(&s->conf, PF_FRAGILE))
            j->task.crashes = prng_below(&s->r, 3);
        if (prog_has(&s->conf, PF_TOOBIG) && prng_chance(&s->r, 500))
            j->max_tasks = prng_range(&s->r, 2, s->conf.budget + 2);
        if (prog_has(&s->conf, PF_TOOBIG) && prng_chance(&s->r, 300))
            j->max_depth = prng_range(&s->r, 1, 4);
        if (prog_has(&s->conf, PF_BLOB)) // arguments have 19 bytes, results 9, errors 10 to 13
            j->blob_min = prng_range(&s->r, 1, 18);
        if (prog_has(&s->conf, PF_EXPIRE) && prng_chance(&s->r, 200))
            j->task.expires = s->wall + prng_below(&s->r, 300000);
        if (s->faults >> FT_PURGE & 1 && prng_chance(&s->r, 300))
            j->retain = 100000 + prng_below(&s->r, 500000);
        if (prog_has(&s->conf, PF_UNIQUE) && prng_chance(&s->r, 400)) {
            static const uint8_t overs[] = {DTI_OVER_JOIN, DTI_OVER_DROP, DTI_OVER_RAISE};
            dti_keyspec *key = sim_alloc(s, sizeof *key);
            *key = (dti_keyspec){.h = {3000, s->seed}, .kind = DTI_KEY_UNIQUE, .over = overs[prng_below(&s->r, 3)],
                .until = (uint8_t)prng_below(&s->r, 2), .keep_us = prng_chance(&s->r, 300) ? 50000 : 0};
            j->task.keys = key;
            j->task.nkeys = 1;
        }
        sim_at(s, prng_below(&s->r, 200000), EV_START, (uint32_t)i, 0, NULL);
    }
}

void client_start(sim *s, uint32_t i) {
    sim_job *j = &s->j[i];
    bool was = mirror_job_of(&s->m, dti_str(j->id, j->idn)) != NULL;
    for (int copy = 0; copy < 3; copy++) {
        if (copy && !strikes(s, copy == 1 ? FT_LOSE_REPLY : FT_CONFLICT, 300))
            continue;
        sim_rpc *r = sim_rpc_new(s, DTI_OP_START);
        dti_start *st = &r->op.start;
        *st = (dti_start){.id = dti_str(j->id, j->idn), .task = j->task, .keep = (uint8_t)(i % 3), .retain_us = j->retain ? j->retain : INT64_C(86400000000) * 3650,
            .grace_us = 30000, .max_tasks = j->max_tasks, .max_depth = j->max_depth, .blob_min = j->blob_min};
        for (uint32_t t = 0; t < s->ntypes; t++)
            if (s->types[t] == j->task.type)
                st->type = sim_printf(s, "t%u", t);
        if (st->type.n && prng_chance(&s->r, 100))
            st->task.type = prng_below(&s->r, s->ntypes + 4); // of a store that was lost
        if (copy == 2)
            st->task.call[0]++;
        if (!sim_op(s, r))
            sim_violation(s, "START", "%s: error %d", j->id, r->op.err);
        bool there = was || copy > 0;
        if (j->task.nkeys && !mirror_job_of(&s->m, st->id)) { // another has its unique key
            if (!st->joined.n || (st->status != DTI_EXISTS && st->status != DTI_CONFLICT) || there)
                sim_violation(s, "START", "%s: answered %d, and is not there", j->id, (int)st->status);
            check_unchanged(s, "REFUSED_CHANGES", 0);
            j->joined = true;
            sim_rpc_free(s, r);
            break;
        }
        if ((int)st->status != (int)(!there ? DTI_CREATED : copy == 2 ? DTI_CONFLICT : DTI_EXISTS))
            sim_violation(s, "START", "%s: answered %d, copy %d%s", j->id, (int)st->status, copy, was ? ", was there" : "");
        if (there)
            check_unchanged(s, "RESEND_CHANGES", 0);
        j->no = copy == 2 ? j->no : st->job;
        sim_rpc_free(s, r);
    }
    j->accepted = true;
    TRACE(s, "client starts %s as %llu", j->id, (unsigned long long)j->no);
}

static mjob *some_job(sim *s, uint64_t *out_no) {
    if (s->m.njobs < 2)
        return NULL;
    *out_no = 1 + prng_below(&s->r, (uint32_t)s->m.njobs - 1);
    mjob *j = mirror_job(&s->m, *out_no);
    return j && j->id.n ? j : NULL; // without an id it is being purged
}

static sim_job *client_of(sim *s, const mjob *j) {
    for (int i = 0; i < s->nj; i++)
        if (dti_str_eq(dti_str(s->j[i].id, s->j[i].idn), j->id))
            return &s->j[i];
    return NULL;
}

static void mark(sim *s, dti_mark m, const char *what) {
    sim_rpc *r = sim_rpc_new(s, DTI_OP_MARK);
    r->op.mark = m;
    TRACE(s, "%s %.*s", what, (int)m.id.n, m.id.p);
    if (!sim_op(s, r))
        sim_violation(s, "MARK", "%s: error %d", what, r->op.err);
    sim_rpc_free(s, r);
}

static void do_cancel(sim *s) {
    uint64_t no;
    mjob *j = some_job(s, &no);
    if (!j || !strikes(s, FT_CANCEL, 250))
        return;
    sim_job *c = client_of(s, j);
    if (c)
        c->cancelled = true;
    dti_mark m = {.verb = DTI_MARK_CANCEL, .id = j->id};
    if (prng_chance(&s->r, 600)) {
        m.ord = prng_below(&s->r, j->row.next);
        if (prng_chance(&s->r, 500)) {
            dti_range *range = sim_alloc(s, sizeof *range);
            *range = (dti_range){.first = m.ord + 1, .count = prng_range(&s->r, 1, 8)};
            m.kids = true;
            m.ranges = range;
            m.nranges = 1;
        }
    }
    mark(s, m, m.kids ? "cancel of children in" : m.ord ? "cancel of a task in" : "cancel of");
}

static void do_pause(sim *s) {
    uint64_t no;
    mjob *j = some_job(s, &no);
    if (!j || !strikes(s, FT_PAUSE, 300))
        return;
    if (prng_chance(&s->r, 300)) {
        uint32_t t = prng_below(&s->r, s->ntypes);
        bool paused = s->m.types[s->types[t]].paused;
        mark(s, (dti_mark){.verb = paused ? DTI_MARK_RESUME : DTI_MARK_PAUSE, .type = s->types[t]}, paused ? "resume of a type" : "pause of a type");
        return;
    }
    mark(s, (dti_mark){.verb = j->row.paused ? DTI_MARK_RESUME : DTI_MARK_PAUSE, .id = j->id}, j->row.paused ? "resume of" : "pause of");
}

static void do_purge(sim *s) {
    uint64_t no;
    mjob *j = some_job(s, &no);
    if (!j || !strikes(s, FT_PURGE, 200))
        return;
    sim_job *c = client_of(s, j);
    sim_rpc *r = sim_rpc_new(s, DTI_OP_MARK);
    bool live = j->row.state < DTI_JOB_SUCCEEDED;
    r->op.mark = (dti_mark){.verb = DTI_MARK_PURGE, .id = j->id};
    TRACE(s, "purge of %.*s", (int)j->id.n, j->id.p);
    sim_op(s, r);
    if (live && r->op.mark.status != DTI_MARK_BUSY)
        sim_violation(s, "PURGE_LIVE", "job %llu is live, and its purge answered %d", (unsigned long long)no, (int)r->op.mark.status);
    if (c && r->op.mark.status == DTI_MARKED)
        c->purged = true;
    sim_rpc_free(s, r);
}

static void post(sim *s, mjob *j, uint32_t ord) {
    sim_rpc *r = sim_rpc_new(s, DTI_OP_POST);
    bool again = s->nposts && prng_chance(&s->r, 200);
    sim_post p = again ? s->posts[prng_below(&s->r, (uint32_t)s->nposts)] : (sim_post){.id = j->id, .ord = ord, .msgid = prng_next(&s->r)};
    mjob *to = mirror_job_of(&s->m, p.id);
    const mtask *t = to && p.ord < to->n && to->t[p.ord].present ? &to->t[p.ord] : NULL;
    uint32_t before = t ? t->sigs : 0;
    r->op.post = (dti_post){.id = p.id, .ord = p.ord, .msgid = {p.msgid, p.msgid}, .name = dti_strz("s"), .data = dti_strz("\x01")};
    if (!sim_op(s, r))
        sim_violation(s, "POST", "error %d", r->op.err);
    int st = (int)r->op.post.status;
    if (again && p.accepted && st == DTI_POSTED)
        sim_violation(s, "POST_ONCE", "a signal to %.*s/%u was taken twice", (int)p.id.n, p.id.p, p.ord);
    if (t && t->present && (t->sigs - before) != (st == DTI_POSTED ? 1u : 0u))
        sim_violation(s, "POST_ONCE", "a post answered %d, and %u signals came", st, t->sigs - before);
    if (!again && st == DTI_POSTED) {
        if (s->nposts == s->cposts) {
            sim_post *more = sim_alloc(s, (s->cposts = s->cposts ? s->cposts * 2 : 64) * sizeof *more);
            if (s->nposts)
                memcpy(more, s->posts, s->nposts * sizeof *more);
            s->posts = more;
        }
        p.accepted = true;
        s->posts[s->nposts++] = p;
    }
    TRACE(s, "post to %.*s/%u: %d", (int)p.id.n, p.id.p, p.ord, st);
    sim_rpc_free(s, r);
}

static void do_post(sim *s) {
    uint64_t no;
    mjob *j = some_job(s, &no);
    if (j && prog_has(&s->conf, PF_SIGNAL))
        post(s, j, prng_below(&s->r, j->row.next));
}

// A read changes nothing and says what the rows say.
static void do_read(sim *s) {
    uint64_t no;
    mjob *j = some_job(s, &no);
    if (!j)
        return;
    sim_rpc *r = sim_rpc_new(s, DTI_OP_READ);
    r->op.read = (dti_read){.what = DTI_READ_JOB, .id = j->id, .limit = 1, .state = -1};
    if (!sim_op(s, r) || s->store.nrows)
        sim_violation(s, "READ", "a read of job %llu failed or wrote", (unsigned long long)no);
    if (r->op.read.n == 1 && memcmp(r->op.read.jobs[0].row.count, j->row.count, sizeof j->row.count))
        sim_violation(s, "READ", "job %llu: other counts were read than there are", (unsigned long long)no);
    if (r->op.read.n != 1 && !j->todo[DTI_DO_PURGE])
        sim_violation(s, "READ", "job %llu is there, and was not found", (unsigned long long)no);
    sim_rpc_free(s, r);
}

// ---- the sweeper ----------------------------------------------------------------
void sweep(sim *s) {
    sim_rpc *r = sim_rpc_new(s, DTI_OP_SWEEP);
    dti_sweep *w = &r->op.sweep;
    *w = (dti_sweep){.budget = strikes(s, FT_SMALL_SWEEP, 800) ? prng_range(&s->r, 1, 6) : 256, .dead = s->dead, .ndead = s->ndead,
        .charge = s->charge, .ncharge = s->ncharge, .charge_all = s->charge_all};
    TRACE(s, "sweep of %u, %u dead", w->budget, w->ndead);
    struct dti_tick *tick = sim_alloc(s, 2 * sizeof *tick);
    size_t n;
    const dti_cron *cron = dti_get(s->store.in, DTI_T_CRON, s->types[0], 0, 0, &n);
    if (cron ? cron->next <= s->wall : strikes(s, FT_TICK, 150)) { // two sweepers may say the same
        tick[0] = tick[1] = (struct dti_tick){.type = s->types[0], .at = cron ? cron->next : 0,
            .next = s->wall + 1000000 * (int64_t)prng_range(&s->r, 1, s->calm ? 900 : 3)};
        w->ticks = tick;
        w->nticks = prng_range(&s->r, 1, 2);
    }
    if (!sim_op(s, r))
        sim_violation(s, "SWEEP", "error %d", r->op.err);
    int64_t next = w->next ? w->next - s->wall : 300000;
    s->ndead = s->ncharge = 0;
    s->charge_all = false;
    sim_rpc_free(s, r);
    if (next < 0)
        next = 0;
    int64_t most = s->calm ? 100000 : 300000;
    s->next_sweep = INT64_MAX;
    sweep_at(s, (next > most ? most : next) + 20 + prng_below(&s->r, 200));
}

void sweep_at(sim *s, int64_t delay) {
    if (s->now + delay >= s->next_sweep)
        return;
    s->next_sweep = s->now + delay;
    sim_at(s, delay, EV_SWEEP, ++s->sweeps, 0, NULL);
}

// ---- failover: an older copy of the store takes over ------------------------------
static void failover(sim *s) {
    if (s->failed_over)
        return;
    if (!s->snapped) {
        watch_snapshot(&s->store);
        if (s->beside)
            s->beside->snapshot(s);
        s->snapped = true;
        s->snap_ends = s->nends;
        return;
    }
    if (!strikes(s, FT_FAILOVER, 500))
        return;
    s->failed_over = true;
    check_ended(s);
    watch_restore(&s->store);
    if (s->beside)
        s->beside->restore(s);
    mirror old = s->m;
    mirror_init(&s->m, &s->arena);
    mirror_scan(&s->m, s->store.in, &old);
    for (size_t i = 0; i < s->m.ntouched; i++)
        s->m.jobs[s->m.touched[i]].touched = false;
    s->m.ntouched = 0;
    for (uint64_t no = 1; no < s->m.njobs; no++)
        s->m.jobs[no].ended = s->m.jobs[no].present && s->m.jobs[no].row.state >= DTI_JOB_SUCCEEDED;
    s->nends = s->snap_ends;
    s->nposts = 0;
    s->ndead = s->ncharge = 0;
    s->run++;
    TRACE(s, "failover to an older store");
    sim_rpc *r = sim_rpc_new(s, DTI_OP_ERA);
    uint64_t era = s->m.meta.era;
    r->op.era = (dti_era){.run_id = sim_printf(s, "run-%llu", (unsigned long long)s->run)};
    if (!sim_op(s, r) || r->op.era.era <= era || !r->op.era.fresh)
        sim_violation(s, "ERA", "a new run id did not begin a new era");
    uint64_t got = r->op.era.era;
    r->op.era = (dti_era){.run_id = sim_printf(s, "run-%llu", (unsigned long long)s->run)};
    if (!sim_op(s, r) || r->op.era.era != got)
        sim_violation(s, "ERA", "the same run id began another era");
    check_unchanged(s, "RESEND_CHANGES", 0);
    sim_rpc_free(s, r);
    for (int i = 0; i < s->nj; i++)
        if (s->j[i].accepted && !s->j[i].joined && !s->j[i].purged && !s->j[i].retain && !mirror_job_of(&s->m, dti_str(s->j[i].id, s->j[i].idn))) {
            s->j[i].accepted = false;
            sim_at(s, 1000 + prng_below(&s->r, 10000), EV_START, (uint32_t)i, 0, NULL);
        }
}

// ---- mischief: one of all that, at a random moment ----------------------------------
void mischief(sim *s) {
    int w = (int)prng_below(&s->r, (uint32_t)s->nw);
    switch (prng_below(&s->r, 12)) {
    case 0: case 1:
        if (s->w[w].alive && strikes(s, FT_KILL, 400))
            worker_die(s, w);
        else if (s->w[w].alive && !s->w[w].frozen && strikes(s, FT_LEAVE, 200))
            worker_leave(s, w);
        break;
    case 2:
        if (s->w[w].alive && !s->w[w].frozen && strikes(s, FT_FREEZE, 400))
            worker_freeze(s, w);
        break;
    case 3: do_cancel(s); break;
    case 4: do_pause(s); break;
    case 5: do_purge(s); break;
    case 6: case 7: do_post(s); break;
    case 8: do_read(s); break;
    case 9:
        if (strikes(s, FT_CLOCK, 200))
            s->wall += prng_chance(&s->r, 500) ? 3600000000 : -(int64_t)prng_below(&s->r, 2000000);
        else if (on(s, FT_FAILOVER))
            failover(s);
        break;
    case 10:
        if (s->nold && strikes(s, FT_LATE, 700))
            turn_arrives(s, s->old[prng_below(&s->r, s->nold)]);
        break;
    default:
        if (strikes(s, FT_FORGE, 800))
            worker_forge(s, w);
        break;
    }
}

// ---- the calm after the storm ----------------------------------------------------------
void calm_down(sim *s) {
    s->calm = true;
    TRACE(s, "all is calm from here");
    for (uint32_t t = 1; t < 64; t++)
        if (s->m.types[t].paused)
            mark(s, (dti_mark){.verb = DTI_MARK_RESUME, .type = t}, "resume of a type");
    for (int i = 0; i < s->nw; i++) {
        if (s->w[i].frozen) {
            s->w[i].frozen = false;
            worker_thaw(s, i);
        }
    }
}

// Signals that are awaited, resumes.
void calm_help(sim *s) {
    for (uint64_t no = 1; no < s->m.njobs; no++) {
        mjob *j = &s->m.jobs[no];
        if (!j->present || j->row.state >= DTI_JOB_SUCCEEDED)
            continue;
        if (j->row.paused)
            mark(s, (dti_mark){.verb = DTI_MARK_RESUME, .id = j->id}, "resume of");
        for (uint32_t i = 0; i < j->n && prog_has(&s->conf, PF_SIGNAL); i++)
            if (j->t[i].present && j->t[i].row.state == DTI_PARKED && j->t[i].row.wait & DTI_MAIL && j->t[i].sigs < 200)
                post(s, j, i);
    }
}
