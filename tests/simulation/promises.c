// What is promised to those outside, checked by what they were told and not
// by the rows: which messages are accepted, which claims may come, and that
// a job's outcome is what its program says (program.h is the oracle).
#include <string.h>

#include "sim.h"

#define FAIL(name, ...) sim_violation(s, name, __VA_ARGS__)
#define LL (unsigned long long)

// ---- turns ----------------------------------------------------------------------
void check_turn_before(sim *s, const dti_turn *t, turn_before *b) {
    *b = (turn_before){0};
    const mworker *w = t->worker < s->m.nworkers ? &s->m.workers[t->worker] : NULL;
    b->era = t->era != s->m.meta.era;
    b->dead = !w || !w->present || w->row.dead;
    b->old = w && w->present && t->nonce < w->row.nonce;
    b->resent = w && w->present && t->nonce == w->row.nonce;
    for (uint32_t i = 0; i < t->nmessages; i++) {
        const dti_message *m = &t->messages[i];
        const mtask *k = mirror_task(&s->m, m->job, m->ord);
        if (!k || k->row.token == 0 || k->row.token != m->token || k->row.owner != t->worker)
            b->expect[i] = DTI_STALE;
        else if (m->seq <= k->row.seq)
            b->expect[i] = DTI_ALREADY;
        else if (m->seq > k->row.seq + 1)
            b->expect[i] = DTI_GAP;
        else
            b->expect[i] = DTI_OK;
        if (k)
            b->state[i] = k->row.state;
    }
}

// Of the children that it told, those that are complete must be in its mail
// by this very message, though it may have told them before.
static void check_told(sim *s, const dti_message *m, const dti_answer *a) {
    for (uint32_t i = 0; i < m->ntold && a->njoined == 0 && !a->cancelling; i++)
        for (uint32_t k = 0; k < m->told[i].count; k++) {
            uint32_t first = m->told[i].first, ord = (first & DTI_HERE ? a->first + (first & ~DTI_HERE) : first) + k;
            const mtask *c = mirror_task(&s->m, m->job, ord);
            if (!c || !dti_terminal(c->row.state) || c->row.parent != m->ord || (m->told[i].bad_only && !mtask_bad(c)))
                continue;
            bool logged = false;
            for (size_t w = 0; w < s->store.nrows && !logged; w++) {
                const watch_row *r = &s->store.rows[w];
                const dti_log *l = r->now;
                logged = r->t == DTI_T_LOG && l && !r->old && r->k.a == m->job && r->k.b == m->ord && l->kind == DTI_LOG_KID && l->ord == ord;
            }
            if (!logged)
                FAIL("TOLD_LOGGED", "job %llu task %u: told of %u, which is complete, and no mail came", LL m->job, m->ord, ord);
        }
}

static bool joined_to(const dti_answer *a, uint32_t pos) {
    for (uint32_t i = 0; i < a->njoined; i++)
        if (a->joined[i].pos == pos)
            return true;
    return false;
}

static void check_accepted(sim *s, const dti_message *m, const dti_answer *a) {
    const mtask *t = mirror_task(&s->m, m->job, m->ord);
    if (!t)
        FAIL("ROW_LOST", "job %llu task %u: its message was accepted, and it has no row", LL m->job, m->ord);
    if (t->row.token == m->token && t->row.seq != m->seq)
        FAIL("SEQ", "job %llu task %u: message %u was accepted, and its row is at %u", LL m->job, m->ord, m->seq, t->row.seq);
    uint32_t made = a->cancelling ? 0 : m->nchildren - a->njoined;
    if (a->count != made)
        FAIL("LOST_CHILD", "job %llu task %u: %u children sent, %u joined, %u made", LL m->job, m->ord, m->nchildren, a->njoined, a->count);
    for (uint32_t i = 0, k = 0; i < a->count && k < m->nchildren; k++) {
        if (joined_to(a, k))
            continue;
        const mtask *c = mirror_task(&s->m, m->job, a->first + i);
        if (!c || c->row.parent != m->ord || c->row.call[0] != m->children[k].call[0])
            FAIL("LOST_CHILD", "job %llu task %u: its child %u is not there", LL m->job, m->ord, a->first + i);
        if (c->row.ptries != m->children[k].ptries)
            FAIL("PTRIES", "job %llu task %u: its child %u was made by try %u, not %u", LL m->job, m->ord, a->first + i, m->children[k].ptries, c->row.ptries);
        if (m->children[k].due > s->wall && (c->row.state == DTI_READY || c->row.state == DTI_RUNNING))
            FAIL("TOO_EARLY", "job %llu task %u: %s before its delay is over", LL m->job, a->first + i, dti_state_names[c->row.state]);
        i++;
    }
    for (uint32_t i = 0; i < a->njoined; i++) {
        const mtask *to = mirror_task(&s->m, a->joined[i].job, a->joined[i].ord);
        if (to && a->joined[i].job == m->job && to->row.bits & DTI_REPLACED)
            FAIL("UNIQUE", "job %llu task %u: a child was joined to %u, which is made anew", LL m->job, m->ord, a->joined[i].ord);
    }
    if (m->end == DTI_END_FAIL && m->retry && m->retry_at > s->wall && (t->row.state == DTI_READY || t->row.state == DTI_RUNNING))
        FAIL("TOO_EARLY", "job %llu task %u: %s before its backoff is over", LL m->job, m->ord, dti_state_names[t->row.state]);
    const mjob *j = mirror_job(&s->m, m->job);
    for (uint32_t i = t->row.base; m->end == DTI_END_BECOME && t->row.wait & DTI_THEN && i && i < j->n; i++)
        if (j->t[i].row.parent == m->ord)
            FAIL("BASE", "job %llu task %u: child %u of what it was would be taken for its own", LL m->job, m->ord, i);
    if (m->end == DTI_END_BECOME && t->row.wait & DTI_THEN && !t->row.base)
        FAIL("BASE", "job %llu task %u: became another, and its children count from the first", LL m->job, m->ord);
    check_told(s, m, a);
    for (uint32_t i = 0; i < m->nacks; i++) {
        const mtask *c = m->acks[i].ref & DTI_HERE ? NULL : mirror_task(&s->m, m->job, m->acks[i].ref);
        if (c && (!(c->row.bits & DTI_SEEN) || (m->acks[i].replaced && !(c->row.bits & DTI_REPLACED))))
            FAIL("ACK_APPLIED", "job %llu task %u: the ack of %u was accepted, and is not there", LL m->job, m->ord, m->acks[i].ref);
    }
    if (m->end == DTI_END_SUCCEED) {
        for (size_t i = 0; i < s->nends; i++)
            if (s->ends[i].job == m->job && s->ends[i].ord == m->ord)
                FAIL("ENDED_TWICE", "job %llu task %u: two outcomes were accepted", LL m->job, m->ord);
        uint64_t v = 0;
        for (size_t i = 1; i < m->value.n; i++)
            v = v << 8 | (uint8_t)m->value.p[i];
        if (s->nends == s->cends) {
            sim_entry *more = sim_alloc(s, (s->cends = s->cends ? s->cends * 2 : 256) * sizeof *more);
            if (s->nends)
                memcpy(more, s->ends, s->nends * sizeof *more);
            s->ends = more;
        }
        s->ends[s->nends++] = (sim_entry){m->job, m->ord, v, (uint8_t)m->end};
    }
}

static void check_claim(sim *s, const dti_turn *t, const dti_claim *c) {
    const mtask *k = mirror_task(&s->m, c->job, c->ord);
    const mjob *j = mirror_job(&s->m, c->job);
    if (!k || k->row.owner != t->worker || k->row.token != c->token)
        FAIL("CLAIM_HELD", "job %llu task %u: claimed, and not held by worker %llu", LL c->job, c->ord, LL t->worker);
    const dti_taskrow *x = &c->row, *y = &k->row;
    if (x->attempt != y->attempt || x->tries != y->tries || x->lost != y->lost || x->type != y->type || x->base != y->base)
        FAIL("CLAIM_ROW", "job %llu task %u: the claim carries another row", LL c->job, c->ord);
    if (c->token != t->nonce)
        FAIL("CLAIM_HELD", "job %llu task %u: its token is not the turn's nonce", LL c->job, c->ord);
    if (c->again)
        return;
    if (c->row.bits & DTI_TELLS)
        FAIL("TOLD_CLEARED", "job %llu task %u: a claim begins with what an earlier frame told", LL c->job, c->ord);
    if (j->row.state != DTI_JOB_RUNNING || c->row.bits & DTI_CANCEL)
        FAIL("CLAIM_AFTER_CANCEL", "job %llu task %u: claimed, though cancelled", LL c->job, c->ord);
    if (j->row.paused)
        FAIL("CLAIM_PAUSED", "job %llu task %u: claimed, though its job is paused", LL c->job, c->ord);
    if (k->row.type < 64 && s->m.types[k->row.type].paused)
        FAIL("CLAIM_PAUSED", "job %llu task %u: claimed, though its type is paused", LL c->job, c->ord);
    if (k->row.lost && !t->empty)
        FAIL("ALONE", "job %llu task %u: was lost, and was claimed by a worker that is busy", LL c->job, c->ord);
    if (k->row.lost && t->nclaims > 1)
        FAIL("ALONE", "job %llu task %u: was lost, and was claimed with others", LL c->job, c->ord);
    if (k->row.attempt == 1 && k->row.expires && k->row.expires <= s->wall)
        FAIL("CLAIM_EXPIRED", "job %llu task %u: claimed after it expired", LL c->job, c->ord);
    if (k->row.need)
        FAIL("CLAIM_BEFORE_DEP", "job %llu task %u: claimed before what it comes after", LL c->job, c->ord);
    for (uint32_t i = 0; i < k->ndeps; i++) {
        const mtask *d = mirror_task(&s->m, c->job, k->deps[i]);
        if (!d || !mtask_good(d))
            FAIL("CLAIM_BEFORE_DEP", "job %llu task %u: claimed, though %u, which it comes after, is not good", LL c->job, c->ord, k->deps[i]);
    }
    bool wanted = false;
    for (uint32_t i = 0; i < t->nwant; i++)
        wanted |= t->want[i].type == k->row.type;
    if (!wanted)
        FAIL("CLAIM_UNWANTED", "job %llu task %u: of a type that was not asked for", LL c->job, c->ord);
}

void check_turn_after(sim *s, const dti_turn *t, const turn_before *b) {
    if (b->dead || b->old || b->era) {
        if (t->status == DTI_TURN_OK)
            FAIL(b->old ? "LATE_TURN" : b->dead ? "DEAD_WORKER" : "OLD_ERA", "turn %llx of worker %llu was applied", LL t->nonce, LL t->worker);
        check_unchanged(s, "REFUSED_CHANGES", 0);
        return;
    }
    if (t->status != DTI_TURN_OK)
        FAIL("TURN_REFUSED", "turn %llx of worker %llu was refused: %d", LL t->nonce, LL t->worker, (int)t->status);
    bool anew = false; // a message that was refused as too big may fit now
    for (uint32_t i = 0; i < t->nmessages; i++)
        anew |= b->expect[i] == DTI_OK;
    if (b->resent && !anew)
        check_unchanged(s, "RESEND_CHANGES", t->worker);
    for (uint32_t i = 0; i < t->nmessages; i++) {
        const dti_message *m = &t->messages[i];
        const dti_answer *a = &t->answers[i];
        s->stats->messages++;
        bool same = (uint8_t)a->status == b->expect[i];
        // Nothing but these may come of a message that is next in line.
        if (b->expect[i] == DTI_OK)
            same = a->status == DTI_OK || a->status == DTI_TOOBIG || a->status == DTI_FULL;
        if (!same)
            FAIL(b->expect[i] == DTI_STALE ? "TOKEN" : "SEQ", "job %llu task %u: message %u answered %d, not %d", LL m->job, m->ord, m->seq, (int)a->status, b->expect[i]);
        if (a->status == DTI_OK && b->expect[i] == DTI_OK)
            check_accepted(s, m, a);
        const mtask *k = mirror_task(&s->m, m->job, m->ord);
        bool woken = k && m->end == DTI_END_PARK && m->seq == k->row.park_seq && k->row.state == DTI_RUNNING && !k->row.wait && k->row.token == m->token;
        if (a->status == DTI_ALREADY && b->resent && woken && !a->now)
            FAIL("ALREADY_STATE", "job %llu task %u: a resent park is answered `already`, and not that the task runs", LL m->job, m->ord);
        if (a->status == DTI_ALREADY && b->resent && k && (a->state != k->row.state || a->mask != k->row.wait))
            FAIL("ALREADY_STATE", "job %llu task %u: `already` says %u mask %u, its row %u mask %u", LL m->job, m->ord, a->state, a->mask, k->row.state, k->row.wait);
    }
    if (t->nclaims > t->n && !b->resent)
        FAIL("CLAIM_UNWANTED", "%u claims for %u asked", t->nclaims, t->n);
    for (uint32_t i = 0; i < t->nclaims; i++)
        check_claim(s, t, &t->claims[i]);
    if (t->drain && t->nclaims)
        FAIL("ALONE", "worker %llu is to run dry, and was given %u claims", LL t->worker, t->nclaims);
    s->stats->claims += t->nclaims;
    s->stats->wakes += t->nwakes;
}

// ---- a job's end ------------------------------------------------------------------
static uint32_t live_tasks(const mjob *j) {
    uint32_t n = 0;
    static bool gone[1 << 12];
    for (uint32_t i = 0; i < j->n; i++) {
        gone[i] = j->t[i].row.bits & DTI_REPLACED || (i && gone[j->t[i].row.parent]);
        n += !gone[i];
    }
    return n;
}

static void check_job_end(sim *s, uint64_t no) {
    mjob *j = &s->m.jobs[no];
    s->stats->jobs++;
    s->stats->tasks += j->row.next;
    if (j->ended++ && !s->failed_over)
        FAIL("ENDS_ONCE", "job %llu ended %u times", LL no, j->ended);
    for (uint32_t i = 0; i < j->n; i++) {
        const mtask *t = &j->t[i];
        if (t->row.state != DTI_SUCCEEDED || (!t->result && j->row.keep != DTI_KEEP_ALL))
            continue;
        bool found = false;
        for (size_t k = 0; k < s->nends && !found; k++)
            found = s->ends[k].job == no && s->ends[k].ord == i && s->ends[k].value == t->value;
        if (!found)
            FAIL("OUTCOME_UNKNOWN", "job %llu task %u: succeeded with %llu, which nobody sent", LL no, i, LL t->value);
    }
    for (int k = 0; k < s->nj; k++) {
        sim_job *job = &s->j[k];
        if (!dti_str_eq(dti_str(job->id, job->idn), j->id) || !job->exact || job->cancelled)
            continue;
        uint64_t seed;
        uint32_t budget, stage;
        if (!prog_read_args(job->task.args, &seed, &budget, &stage))
            continue;
        prog_expected e = prog_expect(&s->conf, seed, budget, stage, job->task.retries);
        const mtask *root = &j->t[0];
        if (root->row.state != e.state || (e.state == DTI_SUCCEEDED && (root->row.bad > 0) != e.bad))
            FAIL("WRONG_OUTCOME", "job %s: root %s with %u bad, not %s%s", job->id, dti_state_names[root->row.state], root->row.bad, dti_state_names[e.state], e.bad ? " bad" : "");
        if (e.state == DTI_SUCCEEDED && root->value != e.value)
            FAIL("WRONG_RESULT", "job %s: %llu, not %llu", job->id, LL root->value, LL e.value);
        uint32_t live = live_tasks(j);
        if (live != e.live)
            FAIL(live < e.live ? "LOST_CHILD" : "DOUBLED_CHILD", "job %s: %u tasks count, not %u", job->id, live, e.live);
    }
}

void check_ended(sim *s) {
    for (uint32_t i = 0; i < s->nended; i++)
        check_job_end(s, s->ended[i]);
    s->nended = 0;
}

// Each end that somebody listens to has started its job, once.
static void check_hooks(sim *s) {
    for (uint64_t a = 1; a < s->m.njobs; a++)
        for (uint64_t b = a + 1; b < s->m.njobs && s->m.jobs[a].present && s->m.jobs[a].id.n; b++)
            if (s->m.jobs[b].present && dti_str_eq(s->m.jobs[a].id, s->m.jobs[b].id))
                FAIL("STARTED_TWICE", "job %.*s is there twice", (int)s->m.jobs[a].id.n, s->m.jobs[a].id.p);
    // Those that are forgotten cannot be asked for.
    if (s->faults >> FT_PURGE & 1 || s->failed_over || prog_has(&s->conf, PF_SKIP) || !prog_has(&s->conf, PF_LISTEN))
        return;
    for (uint64_t no = 1; no < s->m.njobs; no++) {
        mjob *j = &s->m.jobs[no];
        for (uint32_t i = 0; j->present && j->id.n && i < j->n; i++) {
            const dti_taskrow *r = &j->t[i].row;
            dtask_str id = i ? sim_printf(s, "%.*s/%u", (int)j->id.n, j->id.p, i) : j->id;
            bool deep = false;
            uint32_t bangs = 0;
            for (size_t k = 0; k < id.n; k++)
                bangs += id.p[k] == '!';
            deep = bangs >= DTI_BANGS_MAX || id.n > 180;
            const struct { bool due; const char *suffix; } hook[] = {
                {r->type == s->types[s->ntypes - 1] && r->state == DTI_SUCCEEDED && !deep, "t1"},
                {i == 0 && j->row.type == s->types[1] && bangs == 0, "t0"},
                {r->bits & DTI_UNDO && (r->state == DTI_FAILED || r->state == DTI_CANCELLED) && !deep, "undo"},
            };
            for (int k = 0; k < 3; k++)
                if (hook[k].due && !mirror_job_of(&s->m, sim_printf(s, "%.*s!%s", (int)id.n, id.p, hook[k].suffix)))
                    FAIL("HOOK_LOST", "job %.*s task %u ended as %s, and %s did not start", (int)j->id.n, j->id.p, i, dti_state_names[r->state], hook[k].suffix);
        }
    }
}

// ---- at the end, all calm -------------------------------------------------------------
void check_end(sim *s) {
    check_ended(s);
    check_scan(s);
    for (uint64_t no = 1; no < s->m.njobs; no++) {
        mjob *j = &s->m.jobs[no];
        if (j->present && j->row.state < DTI_JOB_SUCCEEDED)
            FAIL("STUCK", "job %llu never ended", LL no);
        if (j->present && j->ended == 0)
            FAIL("ENDS_ONCE", "job %llu never ended", LL no);
        for (uint32_t i = 0; i < j->n && !j->present; i++) {
            const mtask *t = &j->t[i];
            if (t->present || t->ext || t->alone || t->due || t->held || t->dead || t->edges_in || t->edges_out || t->kids_rows || t->log_rows || t->nkeys)
                FAIL("PURGE_LEFT", "job %llu is purged, and something of task %u is left", LL no, i);
        }
        if (!j->present && (j->emits || j->listed))
            FAIL("PURGE_LEFT", "job %llu is purged, and its emits or its place in a list are left", LL no);
    }
    check_hooks(s);
    for (int k = 0; k < s->nj; k++) {
        const sim_job *job = &s->j[k];
        if (job->accepted && !job->joined && !job->purged && !job->retain && !prog_has(&s->conf, PF_SKIP) && !mirror_job_of(&s->m, dti_str(job->id, job->idn)))
            FAIL("ACCEPTED_LOST", "job %s was accepted and is not there", job->id);
    }
    for (size_t k = 0; k < s->m.nlimits; k++)
        if (s->m.limits[k].holders)
            FAIL("LIMIT_USED", "limit %zu is held by %u tasks, and all have ended", k, s->m.limits[k].holders);
}
