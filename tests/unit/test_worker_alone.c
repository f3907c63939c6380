// What must run alone, and that nothing is held up by it for ever.
#include "worker_rig.h"

static atomic_int attempts;

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

// What cost a worker waits for one where nothing runs, but not for ever: a
// handler that never ends holds up neither it nor what comes after it.
static gate anew = GATE, endless_runs = GATE, all_over = GATE;

static dtask_err endless(dtask_task *t, void *arg) {
    (void)arg;
    gate_open(&endless_runs);
    gate_wait(&all_over, 1);
    return dtask_done(t, "i", (int64_t)1);
}

static dtask_err suspect(dtask_task *t, void *arg) {
    rig *r = arg;
    dtask_err err;
    int attempt = ++attempts;
    if (attempt == 1) {
        rig_kill(r, r->worker);
        while (!(err = dtask_progress(t, 1, 2))) rig_pause(1);
        return err;
    }
    if (attempt == 2) gate_open(&anew);
    return attempt == 2 || !gate_at(&endless_runs) ? dtask_retry(t, 100) : dtask_done(t, "i", (int64_t)attempt);
}

BOTH(worker_alone, a_lost_one_beside_one_that_never_ends) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"suspect", "n:i -> i; retries=1000", suspect},
        {"endless", "n:i -> i", endless}, {0}}, DTASK_OPTS("slots", "2"));
    int64_t n = 0;
    attempts = 0;
    dtask_job *job = rig_job(&r, "suspect", NULL, 0);
    gate_wait(&anew, 1);
    dtask_job *other = rig_job(&r, "endless", NULL, 0);
    OK(rig_end(job, &n));
    cr_assert_geq(n, 3);
    cr_assert_eq(gate_at(&endless_runs), 1);
    OK(rig_run(&r, "add", 1, &n));
    cr_assert_eq(n, 2);
    gate_open(&all_over);
    OK(rig_end(other, &n));
    rig_close(&r);
}

// One that runs alone, outruns its timeout and never returns has its outcome,
// and is alone no more.
static gate overdue_over = GATE;

static dtask_err overdue(dtask_task *t, void *arg) {
    rig *r = arg;
    dtask_err err;
    if (++attempts == 1) {
        rig_kill(r, r->worker);
        while (!(err = dtask_progress(t, 1, 2))) rig_pause(1);
        return err;
    }
    gate_wait(&overdue_over, 1);
    return dtask_done(t, "i", (int64_t)1);
}

BOTH(worker_alone, a_lost_one_that_never_returns) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"overdue", "n:i -> i; retries=0 timeout=1", overdue}, {0}},
        DTASK_OPTS("slots", "2"));
    int64_t n = 0;
    attempts = 0;
    FAILS(rig_run(&r, "overdue", 0, &n), DTASK_EFAILED);
    OK(rig_run(&r, "add", 1, &n));
    cr_assert_eq(n, 2);
    gate_open(&overdue_over);
    rig_close(&r);
}

// What was claimed together begins together: no slot is idle behind another.
static gate brood_over = GATE;

static dtask_err hatch(dtask_task *t, void *arg) {
    (void)arg;
    gate_wait(&brood_over, 1);
    return dtask_done(t, "i", (int64_t)1);
}

static dtask_err brood(dtask_task *t, void *arg) {
    (void)arg;
    int64_t x = 0;
    dtask_child *quick;
    dtask_err err = DTASK_OK;
    for (int64_t i = 0; i < 2 && !err; i++) err = dtask_spawn(t, "hatch", NULL, NULL, "i", i);
    if (!err) err = dtask_spawn(t, "add", NULL, &quick, "i", (int64_t)1);
    if (!err) err = dtask_wait(t, quick, -1);
    if (!err) err = dtask_child_result(quick, "i", &x);
    if (err) return err;
    gate_open(&brood_over);
    return dtask_done(t, "i", x);
}

BOTH(worker_alone, no_slot_is_idle_behind_another) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"hatch", "n:i -> i", hatch}, {"brood", "n:i -> i", brood}, {0}},
        DTASK_OPTS("slots", "3"));
    int64_t n = 0;
    OK(rig_run(&r, "brood", 0, &n));
    cr_assert_eq(n, 2);
    rig_close(&r);
}

// One that is woken to go on alone goes before those that were woken earlier:
// they may not begin until it has.
static gate parkers = GATE, holds_slot = GATE, lets_go = GATE;

static dtask_err holder(dtask_task *t, void *arg) {
    (void)arg;
    gate_open(&holds_slot);
    gate_wait(&lets_go, 1);
    return dtask_done(t, "i", (int64_t)1);
}

// Parks again and again until the only slot is held, then once more.
static dtask_err parks(dtask_task *t) {
    dtask_child *c;
    dtask_err err = dtask_spawn(t, "add", DTASK_OPTS("delay", "5"), &c, "i", (int64_t)1);
    bool held = false;
    if (attempts) gate_open(&parkers); // one that began before the kill begins again
    while (!err && !held) {
        held = gate_at(&holds_slot);
        err = dtask_wait(t, c, 50);
        if (err == DTASK_ETIMEOUT) err = DTASK_OK;
    }
    return err ? err : dtask_done(t, "i", (int64_t)1);
}

static dtask_err parks_lost(dtask_task *t, void *arg) {
    rig *r = arg;
    dtask_err err;
    if (++attempts > 1) return parks(t);
    rig_kill(r, r->worker);
    while (!(err = dtask_progress(t, 1, 2))) rig_pause(1);
    return err;
}

static dtask_err parks_other(dtask_task *t, void *arg) {
    (void)arg;
    return parks(t);
}

BOTH(worker_alone, a_woken_one_goes_first) {
    rig r;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"holder", "n:i -> i", holder},
        {"parks_lost", "n:i -> i", parks_lost}, {"parks_other", "n:i -> i", parks_other}, {0}}, DTASK_OPTS("slots", "1"));
    int64_t n = 0;
    attempts = 0;
    dtask_job *jobs[3] = {rig_job(&r, "parks_lost", NULL, 0), rig_job(&r, "parks_other", NULL, 0)};
    gate_wait(&parkers, 2);
    jobs[2] = rig_job(&r, "holder", NULL, 0);
    gate_wait(&holds_slot, 1);
    for (bool both = false; !both; rig_pause(1)) { // both are woken, and the slot is held
        pthread_mutex_lock(&r.worker->lock);
        both = r.worker->woken.n == 1 && r.worker->lonely.n == 1;
        pthread_mutex_unlock(&r.worker->lock);
    }
    gate_open(&lets_go);
    for (int i = 0; i < 3; i++) OK(rig_end(jobs[i], &n));
    rig_close(&r);
}
