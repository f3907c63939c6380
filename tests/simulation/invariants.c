// The invariants of the rows: what must hold after every step, whatever
// happened. Each has a name, which a violation prints.
#include <string.h>

#include "sim.h"

#define FAIL(name, ...) sim_violation(s, name, __VA_ARGS__)
#define AT "job %llu task %u: "
#define WHO (unsigned long long)no, i

// ---- one row's change --------------------------------------------------------
// Why the model itself ended a task must be so.
static void check_reason(sim *s, uint64_t no, uint32_t i, const dti_taskrow *is) {
    bool fine = true;
    switch ((dti_reason)is->reason) {
    case DTI_R_EXPIRED: fine = is->state == DTI_SKIPPED && !is->begun && is->expires && is->expires <= s->wall; break;
    case DTI_R_LIMIT: fine = !is->begun; break;
    case DTI_R_LOST: fine = is->state == DTI_FAILED && (is->crashes == 0 || is->lost > is->crashes); break;
    case DTI_R_CHILDREN: fine = is->state == DTI_FAILED; break;
    case DTI_R_GRACE: fine = is->state == DTI_CANCELLED; break;
    case DTI_R_AFTER: case DTI_R_TEST: case DTI_R_UNIQUE: fine = is->state == DTI_SKIPPED; break;
    case DTI_R_NONE: fine = is->state != DTI_SKIPPED; break;
    }
    if (!fine)
        FAIL("REASON", AT "%s for reason %u, begun %lld, expires %lld, lost %u of %u", WHO, dti_state_names[is->state], is->reason, (long long)is->begun,
            (long long)is->expires, is->lost, is->crashes);
}

static void check_task_change(sim *s, const dti_op *op, uint64_t no, uint32_t i, const dti_taskrow *was, const dti_taskrow *is) {
    if (dti_terminal(was->state)) {
        if (is->state != was->state)
            FAIL("TERMINAL_ABSORBS", AT "%s became %s", WHO, dti_state_names[was->state], dti_state_names[is->state]);
        if (is->lost != was->lost || is->tries != was->tries || is->attempt != was->attempt)
            FAIL("TERMINAL_ABSORBS", AT "ended, and was tried again", WHO);
    }
    if (is->lost > was->lost) {
        if (was->owner < s->m.nworkers && s->m.workers[was->owner].left)
            FAIL("LIFE_CHARGED", AT "is charged for a worker that did not die", WHO);
        bool died = op->kind == DTI_OP_SWEEP || (was->owner < s->m.nworkers && s->m.workers[was->owner].row.dead);
        if (!died || is->lost != was->lost + 1)
            FAIL("CHARGED_ONCE", AT "lost went from %u to %u", WHO, was->lost, is->lost);
        if (was->state != DTI_RUNNING && is->crashes > 0)
            FAIL("PARKED_CHARGED", AT "was %s, and is charged for its worker's death", WHO, dti_state_names[was->state]);
    }
    if (!dti_terminal(was->state) && dti_terminal(is->state))
        check_reason(s, no, i, is);
    if (was->state == DTI_PARKED && was->wait & DTI_THEN && was->token == 0
        && (is->state == DTI_READY || is->state == DTI_RUNNING || is->state == DTI_BLOCKED) && is->bad > 0)
        FAIL("THEN_AFTER_FAILURE", AT "`then` goes on with %u bad children", WHO, is->bad);
    if (is->attempt > was->attempt + 1)
        FAIL("CLAIMED_TWICE", AT "attempt went from %u to %u", WHO, was->attempt, is->attempt);
}

static void check_change(sim *s, const dti_op *op, const watch_row *r) {
    uint64_t no = r->k.a;
    switch (r->t) {
    case DTI_T_TASK:
        if (r->old && r->now)
            check_task_change(s, op, no, (uint32_t)r->k.b, r->old, r->now);
        break;
    case DTI_T_WORKER: {
        const dti_workerrow *was = r->old, *is = r->now;
        bool seen_dead = op->kind != DTI_OP_SWEEP || r->k.a >= s->m.nworkers;
        for (uint32_t i = 0; !seen_dead && i < op->sweep.ndead; i++)
            seen_dead = op->sweep.dead[i] == r->k.a;
        if (was && is && is->dead && !was->dead && !seen_dead && s->now - s->m.workers[r->k.a].seen < is->lease_us)
            FAIL("LEASE_KEPT", "worker %llu is taken for dead %lld us after its last turn", (unsigned long long)r->k.a, (long long)(s->now - s->m.workers[r->k.a].seen));
        break;
    }
    case DTI_T_DATA:
        if ((r->k.c == DTI_D_RESULT || r->k.c == DTI_D_ERROR) && r->old && r->now) {
            const mtask *t = mirror_task(&s->m, no, (uint32_t)r->k.b);
            if (t && (dti_terminal(t->row.state) || t->row.state == DTI_CLOSING))
                FAIL("RESULT_MUTABLE", "job %llu task %u: its outcome changed after it ended", (unsigned long long)no, (unsigned)r->k.b);
        }
        break;
    case DTI_T_BLOB:
        if (r->old && r->now)
            FAIL("BLOB_MUTABLE", "job %llu: a value that tasks share was changed", (unsigned long long)no);
        break;
    case DTI_T_JOB:
        if (r->old && r->now) {
            const dti_jobrow *was = r->old, *is = r->now;
            if (was->state >= DTI_JOB_SUCCEEDED && is->state != was->state)
                FAIL("ENDS_ONCE", "job %llu had ended as %s and is %s", (unsigned long long)no, dti_jobstate_names[was->state], dti_jobstate_names[is->state]);
            if (is->next < was->next)
                FAIL("COUNTS_RISE", "job %llu: added fell", (unsigned long long)no);
        }
        break;
    default:
        break;
    }
}

// ---- a job's rows ---------------------------------------------------------------
static bool mask_holds(const sim *s, const mtask *t) {
    (void)s;
    return (t->row.wait & DTI_QUIET && t->row.open == 0) || (t->row.wait & DTI_MAIL && t->mail_end > t->row.logr);
}

// The limit that it waits at; NULL: none.
static mlimit *limit_awaited(sim *s, const mtask *t) {
    if (!mirror_waits(t) || t->row.at_limit == 0 || t->row.at_limit > t->nkeys)
        return NULL;
    return mirror_limit_of(&s->m, &t->keys[t->row.at_limit - 1]);
}

static void check_held(sim *s, uint64_t no, uint32_t i, const mtask *t) {
    const dti_taskrow *r = &t->row;
    bool owned = r->state == DTI_RUNNING || (r->state == DTI_PARKED && r->owner);
    if ((r->owner != 0) != owned || (r->token != 0) != owned)
        FAIL("OWNER_TOKEN", AT "%s with owner %llu and token %llx", WHO, dti_state_names[r->state], (unsigned long long)r->owner, (unsigned long long)r->token);
    if (t->held != (owned ? 1u : 0u) || (owned && t->held_by != r->owner))
        FAIL("HELD", AT "%s of owner %llu, held by %u workers", WHO, dti_state_names[r->state], (unsigned long long)r->owner, t->held);
    if (owned) {
        const mworker *w = r->owner < s->m.nworkers ? &s->m.workers[r->owner] : NULL;
        if (!w || !w->present || (w->row.dead && !w->todo))
            FAIL("HELD", AT "its owner %llu is gone, and no sweep comes", WHO, (unsigned long long)r->owner);
    }
}

static void check_waiting(sim *s, uint64_t no, uint32_t i, const mjob *j, const mtask *t) {
    const dti_taskrow *r = &t->row;
    switch ((dti_state)r->state) {
    case DTI_BLOCKED: {
        if (r->need > 0)
            break;
        mlimit *l = limit_awaited(s, t);
        if (l && t->waiter > 0) {
            if (l->row.used < l->row.max && !l->todo)
                FAIL("WAITER_FORGOTTEN", AT "waits at a limit that is not full", WHO);
            break;
        }
        if (r->wait & DTI_PAUSE && (j->row.paused || j->todo[DTI_DO_RESUME]))
            break;
        FAIL("ONE_MOVER", AT "blocked, and nothing will admit it (wait %u, in %u waiters)", WHO, r->wait, t->waiter);
    }
    case DTI_SCHEDULED:
        if (!t->due)
            FAIL("ONE_MOVER", AT "scheduled, and in no due list", WHO);
        break;
    case DTI_READY:
        if (!t->ext && !t->alone && !t->todo[DTI_DO_SETTLE])
            FAIL("ONE_MOVER", AT "ready, and in no lane", WHO);
        if (r->lost && !t->alone && !t->todo[DTI_DO_SETTLE])
            FAIL("ALONE", AT "was lost, and does not wait to run alone", WHO);
        break;
    case DTI_PARKED:
        if (!(r->wait & (DTI_QUIET | DTI_MAIL | DTI_DUE)))
            FAIL("ONE_MOVER", AT "parked, and waits for nothing", WHO);
        if (r->wait & DTI_LIMIT_WAIT) {
            mlimit *l = limit_awaited(s, t);
            if (!l || !t->waiter || (l->row.used < l->row.max && !l->todo))
                FAIL("WAITER_FORGOTTEN", AT "parked for a permit, at a limit that is not full", WHO);
        } else if (!(r->wait & DTI_PAUSE) && mask_holds(s, t) && !t->todo[DTI_DO_WAKE] && !(r->need > 0 && r->wait & DTI_THEN)) {
            FAIL("MASK_HOLDS", AT "parked, though what it waits for is there (wait %u, open %u, mail %u of %u)", WHO, r->wait, r->open, r->logr, t->mail_end);
        }
        if (r->wait & DTI_PAUSE && !j->row.paused && !j->todo[DTI_DO_RESUME])
            FAIL("ONE_MOVER", AT "waits for a resume of a job that is not paused", WHO);
        if (r->wait & DTI_DUE && !t->due && !(r->wait & (DTI_LIMIT_WAIT | DTI_PAUSE)) && !t->todo[DTI_DO_WAKE])
            FAIL("ONE_MOVER", AT "parked until a time that is in no due list", WHO);
        break;
    case DTI_RUNNING:
        if (r->wait && (mask_holds(s, t) || !(r->wait & (DTI_QUIET | DTI_MAIL | DTI_DUE))))
            FAIL("MASK_HOLDS", AT "running with mask %u that holds", WHO, r->wait);
        break;
    case DTI_CLOSING:
        if (r->open == 0 && !t->todo[DTI_DO_COMPLETE])
            FAIL("ONE_MOVER", AT "closing, and no child is open", WHO);
        break;
    default:
        if (r->wait)
            FAIL("MASK_HOLDS", AT "ended with mask %u", WHO, r->wait);
        if (t->edges_out && !t->todo[DTI_DO_EDGES])
            FAIL("ONE_MOVER", AT "ended, and %u dependents were not told", WHO, t->edges_out);
        if (t->due)
            FAIL("DUE_LEFT", AT "ended, and is in %u due lists", WHO, t->due);
        break;
    }
}

static void check_cancel(sim *s, uint64_t no, uint32_t i, const mjob *j, const mtask *t) {
    const dti_taskrow *r = &t->row;
    if (dti_terminal(r->state))
        return;
    bool job = j->row.state == DTI_JOB_CANCELLING, marked = r->bits & DTI_CANCEL;
    if (j->todo[DTI_DO_CANCEL_JOB] == 1 && i < j->cancelled_to && !marked)
        FAIL("CANCEL_PASS", AT "still %s, though the cancel pass is at %llu: a parent goes before its children", WHO, dti_state_names[r->state], (unsigned long long)j->cancelled_to);
    if (!job && !marked) {
        if (i && j->t[r->parent].row.bits & DTI_CANCEL && !j->todo[DTI_DO_CANCEL])
            FAIL("CANCEL_INHERITED", AT "lives on below a cancelled task", WHO);
        return;
    }
    if (job && !marked && j->todo[DTI_DO_CANCEL_JOB])
        return;
    if (marked && r->state == DTI_RUNNING && !t->due)
        FAIL("GRACE", AT "asked to end, and no time is set by which", WHO);
    bool idle = r->state == DTI_BLOCKED || r->state == DTI_SCHEDULED || r->state == DTI_READY
        || (r->state == DTI_PARKED && !(r->owner && r->wait & DTI_LIMIT_WAIT)); // a frame takes its permit to end
    if (idle && !t->todo[DTI_DO_SETTLE] && !t->todo[DTI_DO_WAKE] && !j->todo[DTI_DO_CANCEL_JOB] && !j->todo[DTI_DO_CANCEL])
        FAIL("CANCEL_LEFT", AT "still %s after the cancel pass", WHO, dti_state_names[r->state]);
}

static void check_order(sim *s, uint64_t no, uint32_t i, const mjob *j, const mtask *t) {
    if (t->row.depth > j->row.max_depth)
        FAIL("TOO_DEEP", AT "at depth %u of at most %u", WHO, t->row.depth, j->row.max_depth);
    if (i && t->row.parent >= i)
        FAIL("ORDER", AT "older than its parent %u", WHO, t->row.parent);
    if (i && t->row.depth != j->t[t->row.parent].row.depth + 1)
        FAIL("ORDER", AT "at depth %u below %u", WHO, t->row.depth, j->t[t->row.parent].row.depth);
    for (uint32_t d = 0; d < t->ndeps; d++) {
        uint32_t dep = t->deps[d];
        bool sibling = dep < i && j->t[dep].row.parent == t->row.parent && dep != 0;
        bool child = dep > i && dep < j->n && j->t[dep].row.parent == i;
        bool unmade = dep == 0 && t->row.state == DTI_CANCELLED; // named by a message whose children were refused
        if (!sibling && !child && !unmade)
            FAIL("ORDER", AT "depends on %u, which is no earlier sibling", WHO, dep);
    }
}

static bool below(const mjob *j, uint32_t ord, uint32_t top) {
    while (ord > top)
        ord = j->t[ord].row.parent;
    return ord == top;
}

// Every reference has its blob, none is without its job; and its bytes lie
// under their hash, once.
static void check_blobs(sim *s, uint64_t no, const mjob *j) {
    for (size_t i = 0; i < j->nblobs; i++) {
        const mblob *b = &j->blobs[i];
        if (b->refs && !b->present)
            FAIL("BLOB_GONE", "job %llu: %u tasks name a value that is not there", (unsigned long long)no, b->refs);
        if (!b->present)
            continue;
        if (!j->present)
            FAIL("BLOB_LEFT", "job %llu is purged, and a value of %zu bytes is left", (unsigned long long)no, b->bytes.n);
        if (b->bytes.n <= j->row.blob_min || !dti_hash_eq(dti_hash128(b->bytes.p, b->bytes.n, s->m.meta.salt), b->h))
            FAIL("BLOB_PLACE", "job %llu: a value of %zu bytes is no blob, or lies where it will not be found", (unsigned long long)no, b->bytes.n);
    }
}

static void check_job(sim *s, uint64_t no) {
    mjob *j = &s->m.jobs[no];
    check_blobs(s, no, j);
    if (!j->present || j->todo[DTI_DO_PURGE])
        return;
    if (j->n > j->row.next)
        FAIL("COUNTS_SUM", "job %llu: task %u is beyond the %u that were added", (unsigned long long)no, j->n - 1, j->row.next);
    static uint32_t open[1 << 12], bad[1 << 12], kids[1 << 12];
    uint32_t n = j->row.next, count[DTI_STATES] = {0};
    if (n > 1 << 12)
        FAIL("COUNTS_SUM", "job %llu has %u tasks", (unsigned long long)no, n);
    memset(open, 0, n * sizeof *open);
    memset(bad, 0, n * sizeof *bad);
    memset(kids, 0, n * sizeof *kids);
    for (uint32_t i = 0; i < n; i++) {
        const mtask *t = i < j->n ? &j->t[i] : NULL;
        if (!t || !t->present)
            FAIL("ROW_LOST", AT "was added and has no row", WHO);
        const dti_taskrow *r = &t->row;
        count[r->state]++;
        check_order(s, no, i, j, t);
        if (i) {
            kids[r->parent]++;
            open[r->parent] += !dti_terminal(r->state);
            bad[r->parent] += mtask_bad(t) && !(r->bits & DTI_SEEN);
        }
        check_held(s, no, i, t);
        if (t->alone && (r->state != DTI_READY || !r->lost))
            FAIL("ALONE", AT "%s, and waits to run alone", WHO, dti_state_names[r->state]);
        check_waiting(s, no, i, j, t);
        check_cancel(s, no, i, j, t);
        if (r->bits & DTI_PERMIT && r->state != DTI_READY && r->state != DTI_RUNNING)
            FAIL("PERMIT_STATE", AT "%s with a permit", WHO, dti_state_names[r->state]);
        if (!dti_terminal(r->state) && r->need != t->edges_in)
            FAIL("NEED_COUNT", AT "needs %u, and %u edges lead to it", WHO, r->need, t->edges_in);
        if (r->lost > r->crashes + 1u || r->tries - r->freed > r->retries + 1u || r->freed > 10000)
            FAIL("ATTEMPT_BOUND", AT "lost %u of %u, tries %u - %u of %u", WHO, r->lost, r->crashes, r->tries, r->freed, r->retries);
    }
    if (n > j->row.max_tasks)
        FAIL("TOO_MANY", "job %llu has %u tasks of at most %u", (unsigned long long)no, n, j->row.max_tasks);
    uint32_t live = 0, claimed = 0;
    for (uint32_t i = 0; i < n; i++) {
        const mtask *t = &j->t[i];
        if (t->row.open != open[i])
            FAIL("OPEN_COUNT", AT "open %u, and %u children live", WHO, t->row.open, open[i]);
        if (t->row.bad != bad[i])
            FAIL("BAD_COUNT", AT "bad %u, and %u children are bad", WHO, t->row.bad, bad[i]);
        if (t->kids != kids[i])
            FAIL("KIDS", AT "%u children in its list, %u with rows", WHO, t->kids, kids[i]);
        if (dti_terminal(t->row.state) && open[i])
            FAIL("OPEN_COUNT", AT "%s before %u children", WHO, dti_state_names[t->row.state], open[i]);
        live += !dti_terminal(t->row.state);
        claimed += t->row.begun != 0;
        if (t->dead != (t->row.state == DTI_FAILED ? 1u : 0u))
            FAIL("DEAD_LETTER", AT "%s, and %u times among the dead letters", WHO, dti_state_names[t->row.state], t->dead);
        const dti_taskrow *blamed = t->row.bad && t->row.blame < n ? &j->t[t->row.blame].row : NULL;
        if (t->row.bad && (!blamed || blamed->state != DTI_FAILED || !below(j, t->row.blame, i)))
            FAIL("BLAME", AT "blames %u, which is no failed descendant", WHO, t->row.blame);
    }
    if (claimed != j->row.claimed)
        FAIL("CLAIMED_COUNT", "job %llu: %u tasks have begun, and it counts %llu", (unsigned long long)no, claimed, (unsigned long long)j->row.claimed);
    if (j->listed != 1 && j->id.n)
        FAIL("LISTED", "job %llu is in %u lists", (unsigned long long)no, j->listed);
    for (uint32_t st = 0; st < DTI_STATES; st++)
        if (count[st] != j->row.count[st])
            FAIL("COUNTS_SCAN", "job %llu counts %u %s, and has %u", (unsigned long long)no, j->row.count[st], dti_state_names[st], count[st]);
    if (j->emits != j->row.log_n)
        FAIL("EMITS", "job %llu counts %u emits, and has %u", (unsigned long long)no, j->row.log_n, j->emits);
    bool ended = j->row.state >= DTI_JOB_SUCCEEDED, root = dti_terminal(j->t[0].row.state);
    if (ended != root || ended != (live == 0))
        FAIL("JOB_ENDED", "job %llu is %s, its root %s, %u tasks live", (unsigned long long)no, dti_jobstate_names[j->row.state], dti_state_names[j->t[0].row.state], live);
    if (ended) {
        const mtask *t = &j->t[0];
        unsigned want = mtask_bad(t) ? DTI_JOB_FAILED : t->row.state == DTI_SUCCEEDED ? DTI_JOB_SUCCEEDED : DTI_JOB_CANCELLED;
        if (j->row.state != want && j->row.state != DTI_JOB_CANCELLED)
            FAIL("JOB_STATE", "job %llu is %s, its root %s with %u bad", (unsigned long long)no, dti_jobstate_names[j->row.state], dti_state_names[t->row.state], t->row.bad);
    }
}

// ---- limits and lanes ---------------------------------------------------------------
static void check_limits(sim *s) {
    for (size_t k = 0; k < s->m.nlimits; k++) {
        mlimit *l = &s->m.limits[k];
        if (!l->touched)
            continue;
        l->touched = false;
        uint64_t used = l->present ? l->row.used : 0, max = l->present ? l->row.max : 0;
        if (used != l->holders + l->lapses)
            FAIL("LIMIT_USED", "limit %zu: used %llu, and %u tasks and %u due items hold it", k, (unsigned long long)used, l->holders, l->lapses);
        if (l->present && used > max)
            FAIL("LIMIT_MAX", "limit %zu: used %llu of %llu", k, (unsigned long long)used, (unsigned long long)max);
        if (used >= max || !l->waiters || l->todo)
            continue;
        for (uint64_t no = 1; no < s->m.njobs; no++)
            for (uint32_t i = 0; s->m.jobs[no].present && i < s->m.jobs[no].n; i++)
                if (limit_awaited(s, &s->m.jobs[no].t[i]) == l)
                    FAIL("WAITER_FORGOTTEN", AT "waits at a limit that is not full", WHO);
    }
}

static void check_lanes(sim *s) {
    for (size_t k = 0; k < s->m.nlanes; k++) {
        mlane *l = &s->m.lanes[k];
        if (!l->touched)
            continue;
        l->touched = false;
        if (l->exts && !l->queued)
            FAIL("LANE_TURN", "lane %zu has %u extents and no turn", k, l->exts);
        if (l->present && l->row.tail - l->row.head < l->exts)
            FAIL("LANE_TURN", "lane %zu: %u extents in %llu places", k, l->exts, (unsigned long long)(l->row.tail - l->row.head));
        if (!l->present && l->exts)
            FAIL("LANE_TURN", "lane %zu is gone, and %u extents are left", k, l->exts);
    }
}

// ---- effects: whoever sleeps must be told ------------------------------------------------
static void check_effects(sim *s, const dti_effects *fx) {
    for (size_t k = 0; k < s->store.nrows; k++) {
        const watch_row *r = &s->store.rows[k];
        if (!r->now)
            continue;
        bool told = true;
        if (r->t == DTI_T_EXT && !r->old) {
            told = false;
            for (size_t i = 0; i < fx->ntypes; i++)
                told |= fx->types[i] == s->m.lanes[r->k.a].type;
        } else if (r->t == DTI_T_ALONE) {
            told = false;
            for (size_t i = 0; i < fx->ntypes; i++)
                told |= fx->types[i] == r->k.a;
        } else if (r->t == DTI_T_WAKE && !r->old) {
            told = false;
            for (size_t i = 0; i < fx->nworkers; i++)
                told |= fx->workers[i] == r->k.a;
        } else if (r->t == DTI_T_JOB) {
            const dti_jobrow *is = r->now, *was = r->old;
            // (Without an id it was forgotten at once: nobody can wait for it.)
            if (is->state >= DTI_JOB_SUCCEEDED && (!was || was->state < DTI_JOB_SUCCEEDED) && s->m.jobs[r->k.a].id.n) {
                dti_hash h = dti_id_hash(s->m.jobs[r->k.a].id);
                told = false;
                for (size_t i = 0; i < fx->nended; i++)
                    told |= dti_hash_eq(fx->ended[i], h);
            }
        }
        if (!told)
            FAIL("NOBODY_TOLD", "table %d row %llu/%llu/%llu: no bell rings", (int)r->t, (unsigned long long)r->k.a, (unsigned long long)r->k.b, (unsigned long long)r->k.c);
    }
}

// ---- after every step -----------------------------------------------------------------------
static void check_edge_gone(sim *s, const watch_row *r) {
    if (r->t != DTI_T_EDGE || r->now)
        return;
    const mtask *dep = mirror_task(&s->m, r->k.a, (uint32_t)r->k.b), *t = mirror_task(&s->m, r->k.a, (uint32_t)r->k.c);
    if (!dep || !t || dti_terminal(t->row.state))
        return;
    if (!mtask_good(dep) && t->row.state != DTI_CLOSING)
        FAIL("BAD_RELEASES", "job %llu task %llu goes on, though %llu, which it comes after, is not good", (unsigned long long)r->k.a, (unsigned long long)r->k.c, (unsigned long long)r->k.b);
}

static void check_plain(sim *s, const watch_row *r) {
    const mjob *j = mirror_carried(r) && r->now ? mirror_job(&s->m, r->k.a) : NULL;
    const mtask *t = j ? mirror_task(&s->m, r->k.a, (uint32_t)r->k.b) : NULL;
    bool then = t && t->row.base && r->k.c == DTI_D_ARGS; // its arguments change, and make no blob
    if (j && !then && r->now_n > j->row.blob_min && !mirror_named(r, r->now, r->now_n))
        FAIL("BLOB_PLAIN", "job %llu task %llu: %zu bytes lie with it, and only %u may", (unsigned long long)r->k.a, (unsigned long long)r->k.b, r->now_n, j->row.blob_min);
}

void check_step(sim *s, const dti_op *op, const dti_effects *fx) {
    watch *w = &s->store;
    for (size_t i = 0; i < w->nrows; i++)
        check_change(s, op, &w->rows[i]);
    for (int blobs = 1; blobs >= 0; blobs--) // first, for what names them
        for (size_t i = 0; i < w->nrows; i++)
            if ((w->rows[i].t == DTI_T_BLOB) == blobs)
                mirror_apply(&s->m, &w->rows[i]);
    if (s->m.bad_table)
        FAIL("COUNTS_SUM", "job %llu: an index names a task that cannot be", (unsigned long long)s->m.bad_table);
    for (size_t i = 0; i < w->nrows; i++)
        check_edge_gone(s, &w->rows[i]), check_plain(s, &w->rows[i]);
    check_effects(s, fx);
    check_limits(s);
    check_lanes(s);
    for (size_t i = 0; i < s->m.ntouched; i++)
        check_job(s, s->m.touched[i]);
    for (size_t i = 0; i < w->nrows; i++) {
        const watch_row *r = &w->rows[i];
        if (r->t != DTI_T_JOB || !r->now)
            continue;
        const dti_jobrow *is = r->now, *was = r->old;
        if (is->state >= DTI_JOB_SUCCEEDED && (!was || was->state < DTI_JOB_SUCCEEDED))
            s->ended[s->nended++ & 63] = r->k.a;
    }
    for (size_t i = 0; i < s->m.ntouched; i++)
        s->m.jobs[s->m.touched[i]].touched = false;
    s->m.ntouched = 0;
}

// A key has one holder at a time: of those that it keeps apart, one lives.
static void check_unique(sim *s) {
    struct { uint64_t h[2]; uint64_t job; uint32_t ord; } held[256];
    uint32_t n = 0;
    for (uint64_t no = 1; no < s->m.njobs; no++)
        for (uint32_t i = 0; s->m.jobs[no].present && s->m.jobs[no].id.n && i < s->m.jobs[no].n; i++) {
            const mtask *t = &s->m.jobs[no].t[i];
            for (uint32_t k = 0; k < t->nkeys && t->present; k++) {
                const dti_keyspec *key = &t->keys[k];
                size_t size;
                const dti_uniq *row = key->kind == DTI_KEY_UNIQUE ? dti_get(s->store.in, DTI_T_UNIQ, key->h[0], key->h[1], 0, &size) : NULL;
                if (row && row->job == no && row->ord == i && !row->freed && !row->scope && dti_terminal(t->row.state))
                    FAIL("UNIQUE", AT "ended, and still holds its key", WHO);
                if (key->kind != DTI_KEY_UNIQUE || t->row.bits & DTI_REPLACED || dti_terminal(t->row.state) || (key->until == DTI_UNTIL_RUN && t->row.begun))
                    continue;
                for (uint32_t q = 0; q < n; q++)
                    if (held[q].h[0] == key->h[0] && held[q].h[1] == key->h[1])
                        FAIL("UNIQUE", AT "has a key that job %llu task %u holds", WHO, (unsigned long long)held[q].job, held[q].ord);
                if (n < 256) {
                    held[n].h[0] = key->h[0];
                    held[n].h[1] = key->h[1];
                    held[n].job = no;
                    held[n++].ord = i;
                }
            }
        }
}

// The mirror against a scan of the store: no row was changed behind it.
void check_scan(sim *s) {
    mirror fresh;
    mirror_init(&fresh, &s->arena);
    mirror_scan(&fresh, s->store.in, &s->m);
    const char *what = mirror_differs(&s->m, &fresh);
    if (what)
        FAIL("SCAN", "a %s differs from what the changes said", what);
    for (uint64_t no = 1; no < s->m.njobs; no++)
        check_job(s, no);
    check_unique(s);
}

void check_unchanged(sim *s, const char *name, uint64_t worker) {
    for (size_t i = 0; i < s->store.nrows; i++) {
        const watch_row *r = &s->store.rows[i];
        bool life = r->t == DTI_T_META || r->t == DTI_T_LAPSE || (r->t == DTI_T_WORKER && r->k.a == worker)
            || (r->t == DTI_T_WAKE && r->k.a == worker && !r->now);
        if (!life)
            FAIL(name, "table %d row %llu/%llu/%llu was changed", (int)r->t, (unsigned long long)r->k.a, (unsigned long long)r->k.b, (unsigned long long)r->k.c);
    }
}
