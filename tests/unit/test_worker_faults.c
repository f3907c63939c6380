// What a worker does when its engine fails: replies that are lost, reads that
// fail, turns that fail for good, a store that is full.
#include "worker_rig.h"

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
