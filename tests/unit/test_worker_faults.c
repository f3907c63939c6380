// What a worker does when its engine fails: replies that are lost, reads that
// fail, turns that fail for good, a store that is full.
#include "worker_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const ONE[] = {"slots", "1", NULL};

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

// The message of such an end in this call's turn, or NULL.
static const dti_message *message_of(const dti_op *ops, size_t n, dti_endkind end) {
    const dti_turn *t = &ops[n - 1].turn;
    if (ops[n - 1].kind != DTI_OP_TURN) return NULL;
    for (uint32_t i = 0; i < t->nmessages; i++)
        if (t->messages[i].end == end) return &t->messages[i];
    return NULL;
}

static void fail_all(dti_op *ops, size_t n) {
    for (size_t i = 0; i < n; i++) ops[i].err = dti_fail(DTASK_EENGINE, "no disk");
}

// ---- the reply to a park is lost --------------------------------------------------

static gate steps = GATE;
static atomic_int losing, others, seen_others;

// Before its worker hears that the first job's task is parked, the job is
// cancelled; another task has its permit by then.
static void lose_park(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    const dti_message *m = message_of(ops, n, DTI_END_PARK);
    rig_engine(e, mem, ops, n);
    if (!m || !losing) return;
    losing = 0;
    dti_arena other = {0};
    dti_op cancel = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("first")}};
    rig_engine(e, &other, &cancel, 1);
    cr_assert_eq(cancel.mark.status, DTI_MARKED);
    dti_arena_done(&other);
    fail_all(ops, n);
}

static dtask_err limited(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_child *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (err) return err;
    if (n) {
        others++;
        return dtask_done(t, "i", n);
    }
    gate_open(&steps);
    gate_wait(&steps, 2);
    err = dtask_spawn(t, "add", DTASK_OPTS("delay", "3600"), &c, "i", (int64_t)1);
    if (!err) err = dtask_wait(t, c, -1);
    seen_others = others;        // it cleans up, under a permit again
    return err;
}

// The frame stays parked until its cancel has woken the row: that has no
// permit before.
BOTH(worker_faults, a_cancel_behind_a_lost_park_waits_for_its_wake) {
    rig r;
    rig_fault = lose_park;
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"limited", "n:i -> i; limit=1", limited}, {0}}, ONE);
    int64_t n = 0;
    losing = 1;
    dtask_job *first = rig_job(&r, "limited", DTASK_OPTS("id", "first"), 0);
    gate_wait(&steps, 1);
    dtask_job *second = rig_job(&r, "limited", NULL, 1);
    gate_open(&steps);
    OK(rig_end(second, &n));
    FAILS(rig_end(first, &n), DTASK_ECANCELLED);
    cr_assert_eq(seen_others, 1, "it cleaned up while another had the permit");
    rig_close(&r);
}

// ---- turns fail for good -----------------------------------------------------------

static atomic_int failing;

static void fail_turns(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    if (failing && ops[n - 1].kind == DTI_OP_TURN) fail_all(ops, n);
    else rig_engine(e, mem, ops, n);
}

static gate begun = GATE;

static dtask_err outlives(dtask_task *t, void *arg) {
    (void)arg;
    gate_open(&begun);           // its outcome is what cannot be sent
    while (!failing && gate_at(&begun) == 1) rig_pause(1);
    return dtask_done(t, "i", (int64_t)gate_at(&begun));
}

// Nothing but this ends the worker: neither lease nor engine_timeout.
static void ends_by(const char *scheme, const char *lease, const char *timeout, bool stop) {
    rig r;
    int64_t n = 0;
    setenv("DYNATASK_LEASE", lease, 1);
    setenv("DYNATASK_ENGINE_TIMEOUT", timeout, 1);
    rig_fault = fail_turns;
    rig_handler handlers[] = {{"outlives", "n:i -> i", outlives}, {0}};
    rig_open(&r, scheme, handlers, ONE);
    dtask_job *job = rig_job(&r, "outlives", NULL, 0);
    gate_wait(&begun, 1);
    failing = 1;
    if (stop) dtask_worker_stop(r.worker, 0);
    FAILS(dtask_worker_run(r.worker), DTASK_EENGINE);
    cr_assert(strstr(dtask_err_detail(), "no disk"), "%s", dtask_err_detail());
    dtask_worker_free(r.worker);
    failing = 0;
    r.worker = rig_worker(&r, handlers, ONE); // has what it held
    OK(dtask_worker_start(r.worker));
    OK(rig_end(job, &n));
    cr_assert_eq(n, 2);
    rig_close(&r);
}

BOTH(worker_faults, a_stop_is_heard_while_turns_fail) {
    ends_by(scheme, "600", "600", true);
}

BOTH(worker_faults, turns_fail_no_longer_than_engine_timeout) {
    ends_by(scheme, "600", "1", false);
}

// What was in flight goes with the worker's old life, of each kind.
static dtask_err sends_all(dtask_task *t, void *arg) {
    (void)arg;
    static atomic_int runs;
    bool first = runs++ == 0;
    dtask_child *one, *many;
    dtask_err err = dtask_progress(t, 1, 2);
    if (!err) err = dtask_spawn(t, "add", DTASK_OPTS("key", "one"), &one, "i", (int64_t)1);
    if (!err) err = dtask_spawn(t, "add", NULL, NULL, "i", (int64_t)2);
    if (first) failing = 1;
    if (!err) err = dtask_map(t, "add", NULL, &many, 0, 3000, ""); // more than goes with a turn
    if (!err) err = dtask_then(t, "add", NULL, "i", (int64_t)41);
    if (first && !err) err = dtask_wait(t, one, -1);
    return err;
}

static uint64_t life_of(dtask_worker *w) {
    pthread_mutex_lock(&w->lock);
    uint64_t no = w->links->no;
    pthread_mutex_unlock(&w->lock);
    return no;
}

static unsigned lost_frames(dtask_worker *w) {
    unsigned left = 0;
    pthread_mutex_lock(&w->lock);
    for (dtask_task *f = w->all; f; f = f->after) left += f->lost;
    pthread_mutex_unlock(&w->lock);
    return left;
}

BOTH(worker_faults, a_life_that_ends_leaves_nothing) {
    rig r;
    int64_t n = 0;
    setenv("DYNATASK_LEASE", "1", 1);
    rig_fault = fail_turns;
    // Where the machine is slow, more lives than one may end.
    rig_open(&r, scheme, (rig_handler[]){{"add", "n:i -> i; crashes=1000", add}, {"all", "n:i -> i; crashes=1000", sends_all}, {0}}, ONE);
    uint64_t was = life_of(r.worker);
    dtask_job *job = rig_job(&r, "all", NULL, 0);
    while (life_of(r.worker) == was) rig_pause(1);
    failing = 0;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 42);
    while (lost_frames(r.worker)) rig_pause(1); // one that is kept is kept for ever
    rig_close(&r);
}

// ---- a frame's mail cannot be read --------------------------------------------------

enum { FAN = 600 };              // more than come with one wake
static atomic_int reads;
static atomic_bool fan_done;

// The fan's worker hears of its park once all of the children have ended.
static void fail_reads(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    if (ops[0].kind == DTI_OP_READ && ops[0].read.what == DTI_READ_LOG && failing) {
        reads++;
        fail_all(ops, n);
        return;
    }
    const dti_message *park = message_of(ops, n, DTI_END_PARK);
    bool first = park && !fan_done;
    uint64_t job = park ? park->job : 0;
    rig_engine(e, mem, ops, n);
    dti_arena other = {0};
    while (first && !fan_done) {
        dti_arena_reset(&other);
        dti_op read = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .job = job, .id = dti_strz("fan")}};
        rig_engine(e, &other, &read, 1);
        fan_done = read.read.n && read.read.jobs[0].row.count[DTI_SUCCEEDED] == FAN;
        rig_pause(1);
    }
    dti_arena_done(&other);
}

static gate fan_told = GATE;
static dtask_err fan_err;
static char fan_why[200];

static dtask_err fan(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *all, *late;
    dtask_err err = dtask_map(t, "add", NULL, &all, 0, FAN, "");
    if (!err) err = dtask_spawn(t, "add", DTASK_OPTS("delay", "3600"), &late, "i", (int64_t)0); // so that all are told
    if (!err) err = dtask_wait(t, all, -1);
    fan_err = err;
    snprintf(fan_why, sizeof fan_why, "%s", err ? dtask_err_detail() : "");
    gate_open(&fan_told);
    return err ? err : dtask_done(t, "i", (int64_t)FAN);
}

static void read_fan(const char *scheme, const char *timeout, int recovers) {
    rig r;
    int64_t n = 0;
    setenv("DYNATASK_ENGINE_TIMEOUT", timeout, 1);
    rig_fault = fail_reads;
    rig_open(&r, scheme, (rig_handler[]){{"fan", "n:i -> i", fan}, {0}}, ONE);
    dtask_worker *adds = rig_worker(&r, (rig_handler[]){{"add", "n:i -> i", add}, {0}}, ONE);
    OK(dtask_worker_start(adds));
    failing = 1;
    dtask_job *job = rig_job(&r, "fan", DTASK_OPTS("id", "fan"), 0);
    while (recovers && reads < recovers) rig_pause(1);
    if (recovers) failing = 0;
    gate_wait(&fan_told, 1);
    OK(dtask_job_control(job, "cancel")); // the delayed one
    FAILS(rig_end(job, &n), DTASK_ECANCELLED);
    rig_close(&r);
    dtask_worker_free(adds);
}

BOTH(worker_faults, mail_that_cannot_be_read_is_told_to_the_handler) {
    read_fan(scheme, "1", 0);
    cr_assert_eq(fan_err, DTASK_EENGINE, "%s", dtask_err_name(fan_err));
    cr_assert(strstr(fan_why, "no disk"), "%s", fan_why);
    cr_assert_leq(reads, 12, "read %d times", (int)reads); // ten a second
}

BOTH(worker_faults, mail_is_read_once_it_can_be) {
    read_fan(scheme, "600", 2);
    OK(fan_err);
}

// ---- the store is full ---------------------------------------------------------------

static gate noted = GATE;
static char notes[8];            // those that were taken, in their order
static atomic_bool second_note;  // the first refusal waits for it

static void take_notes(const dti_turn *t) {
    for (uint32_t i = 0; i < t->nmessages; i++)
        for (uint32_t k = 0; k < t->messages[i].nnotes && strlen(notes) < sizeof notes - 1; k++)
            notes[strlen(notes)] = t->messages[i].notes[k].data.p[0];
}

// Takes no children, but all else.
static void refuse_children(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    dti_turn *t = &ops[n - 1].turn;
    if (ops[n - 1].kind != DTI_OP_TURN || !failing || !t->nmessages) {
        if (ops[n - 1].kind == DTI_OP_TURN) take_notes(t);
        rig_engine(e, mem, ops, n);
        return;
    }
    const dti_message *all = t->messages;
    uint32_t nall = t->nmessages, taken = 0;
    dti_message *some = dti_alloc(mem, nall * sizeof *some);
    for (uint32_t i = 0; i < nall; i++)
        if (!all[i].nchildren) some[taken++] = all[i];
    t->messages = some;
    t->nmessages = taken;
    take_notes(t);               // a note that went before its children
    rig_engine(e, mem, ops, n);
    t->messages = all;
    t->nmessages = nall;
    if (ops[n - 1].err || t->status != DTI_TURN_OK) return;
    dti_answer *answers = dti_alloc0(mem, nall * sizeof *answers);
    for (uint32_t i = 0, k = 0; i < nall; i++) {
        if (!all[i].nchildren) answers[i] = t->answers[k++];
        else if (answers[i].status = DTI_FULL, reads++ == 0 && second_note) gate_open(&noted), gate_wait(&noted, 2);
    }
    t->answers = answers;
}

static gate full_told = GATE;
static atomic_int attempts;

// Waits for one of two, so that the park tells which, with the children.
static dtask_err spawner(dtask_task *t, void *arg) {
    (void)arg;
    int64_t x = 0, y = 0, caught;
    dtask_child *a, *b;
    attempts++;
    dtask_err err = dtask_args(t, "n:i", &caught);
    if (!err) err = dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1);
    if (!err) err = dtask_spawn(t, "add", NULL, &b, "i", (int64_t)2);
    if (!err) err = dtask_wait(t, a, -1);
    if (err == DTASK_EENGINE) {
        fan_err = err;
        gate_open(&full_told);
        cr_assert_eq(dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1), DTASK_EENGINE);
        cr_assert_eq(dtask_child_result(b, "i", &y), DTASK_EENGINE);
        if (caught) err = dtask_done(t, "i", (int64_t)0); // a success without its children
        else failing = 0;        // before its retry, however late the test's own thread is
    }
    if (err) return err;
    if ((err = dtask_wait(t, b, -1)) || (err = dtask_child_result(a, "i", &x)) || (err = dtask_child_result(b, "i", &y))) return err;
    return dtask_done(t, "i", x + y);
}

static dtask_err emits(dtask_task *t, void *arg) {
    (void)arg;
    dtask_err err = dtask_b_emit(t, dti_strz("\1"));
    if (!err) err = dtask_spawn(t, "add", NULL, NULL, "i", (int64_t)1);
    if (err) return err;
    gate_wait(&noted, 1);        // the first is on its way
    if (!(err = dtask_b_emit(t, dti_strz("\2")))) err = dtask_progress(t, 1, 2);
    gate_open(&noted);
    while (reads < 2) rig_pause(1);
    failing = 0;
    return err ? err : dtask_done(t, "i", (int64_t)0);
}

static dtask_err leaves(dtask_task *t, void *arg) { // without a wait
    (void)arg;
    dtask_child *a;
    attempts++;
    dtask_err err = dtask_spawn(t, "add", NULL, &a, "i", (int64_t)1);
    return err ? err : dtask_done(t, "i", (int64_t)7);
}

static void open_full(rig *r, const char *scheme, const char *timeout) {
    setenv("DYNATASK_ENGINE_TIMEOUT", timeout, 1);
    rig_fault = refuse_children;
    rig_open(r, scheme, (rig_handler[]){{"add", "n:i -> i", add}, {"spawner", "n:i -> i; retries=1 backoff=0.01", spawner},
        {"leaves", "n:i -> i", leaves}, {"emits", "n:i -> i", emits}, {0}}, ONE);
    failing = 1;
}

BOTH(worker_faults, a_full_store_frees_the_slot_and_is_asked_again) {
    rig r;
    int64_t n = 0;
    open_full(&r, scheme, "600");
    dtask_job *job = rig_job(&r, "spawner", NULL, 0);
    while (reads < 2) rig_pause(1);
    OK(rig_run(&r, "add", 5, &n)); // in the one slot there is
    cr_assert_eq(n, 6);
    failing = 0;
    dtask_job *same;
    OK(dtask_job_find(r.app, dtask_b_job_id(job), &same));
    OK(rig_end(job, &n));
    cr_assert_eq(n, 5);
    cr_assert_eq(attempts, 1);
    cr_assert_eq(rig_count(same, "added"), 3);
    dtask_job_free(same);
    rig_close(&r);
}

BOTH(worker_faults, what_a_full_store_refused_keeps_its_order) {
    rig r;
    int64_t n = 0;
    second_note = true;
    open_full(&r, scheme, "600");
    OK(rig_run(&r, "emits", 0, &n));
    cr_assert_str_eq(notes, "\1\2");
    rig_close(&r);
}

BOTH(worker_faults, a_store_that_stays_full_is_told_to_the_spawner) {
    rig r;
    int64_t n = 0;
    open_full(&r, scheme, "1");
    dtask_job *job = rig_job(&r, "spawner", NULL, 0);
    gate_wait(&full_told, 1);
    OK(rig_end(job, &n));        // by its retry
    cr_assert_eq(n, 5);
    cr_assert_eq(attempts, 2);
    rig_close(&r);
}

BOTH(worker_faults, a_store_that_stays_full_lets_no_spawner_succeed) {
    rig r;
    int64_t n = 0;
    open_full(&r, scheme, "1");
    FAILS(rig_run(&r, "spawner", 1, &n), DTASK_EFAILED); // that caught it, twice
    cr_assert(strstr(dtask_err_detail(), "full"), "%s", dtask_err_detail());
    cr_assert_eq(attempts, 2);
    FAILS(rig_run(&r, "leaves", 0, &n), DTASK_EFAILED);
    cr_assert(strstr(dtask_err_detail(), "full"), "%s", dtask_err_detail());
    rig_close(&r);
}
