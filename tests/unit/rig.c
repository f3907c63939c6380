#include "rig.h"

#include <setjmp.h>

static const uint64_t SALT = 7;

static void within(rig *g, dti_op *op) {
    jmp_buf trap;
    g->store->trap = &trap;
    dti_arena_reset(&g->arena);
    dti_memory_store_begin(g->store);
    dti_tx tx = {.store = g->store, .arena = &g->arena, .now = g->now};
    if (setjmp(trap)) {
        dti_memory_store_rollback(g->store);
        cr_assert_fail("the model raised %s: %s", dtask_err_name(g->store->trap_err), dtask_err_detail());
    }
    if (op) dti_model_run(&tx, op);
    else dti_model_init(&tx, SALT, 1);
    g->fx = tx.fx;
    dti_memory_store_commit(g->store);
}

void rig_run(rig *g, dti_op *op) {
    within(g, op);
    cr_assert_eq(op->err, DTASK_OK, "%s: %s", dtask_err_name(op->err), dtask_err_detail());
}

uint64_t rig_worker(rig *g, const char *name) {
    dti_hello_type types[] = {{.name = dti_strz("t"), .version = 1, .crashes = 3}, {.name = dti_strz("u"), .version = 1, .crashes = 3}};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz(name), .types = types, .ntypes = 2}};
    rig_run(g, &op);
    g->type = types[0].no;
    g->other = types[1].no;
    return op.hello.worker;
}

void rig_open(rig *g) {
    *g = (rig){.store = dti_memory_store_new(), .now = 1000000};
    cr_assert(g->store);
    within(g, NULL);
    g->worker = rig_worker(g, "w");
}

void rig_close(rig *g) {
    dti_memory_store_free(g->store);
    dti_arena_done(&g->arena);
}

dti_new rig_child(rig *g, uint32_t type, unsigned n) {
    (void)g;
    return (dti_new){.type = type, .call = {type, n}, .args = dti_str("\x90", 1), .crashes = 3, .retries = 2};
}

uint64_t rig_start(rig *g, const char *id) {
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = rig_child(g, g->type, 0), .retain_us = 3600000000, .grace_us = 1000000}};
    rig_run(g, &op);
    cr_assert_eq(op.start.status, DTI_CREATED);
    return op.start.job;
}

dti_turn rig_turn(rig *g, const dti_message *m, uint32_t nm, uint32_t n) {
    dti_want want[] = {{g->type, n}, {g->other, n}};
    dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = g->worker, .era = 1, .nonce = ++g->nonce, .got = g->got, .messages = m,
        .nmessages = nm, .want = want, .nwant = 2, .n = n, .empty = true}};
    rig_run(g, &op);
    cr_assert_eq(op.turn.status, DTI_TURN_OK);
    if (op.turn.nwakes) g->got = op.turn.wakes[op.turn.nwakes - 1].n;
    return op.turn;
}

dti_answer rig_send(rig *g, dti_message m) { return rig_turn(g, &m, 1, 0).answers[0]; }

dti_claim rig_claim(rig *g) {
    dti_turn u = rig_turn(g, NULL, 0, 1);
    cr_assert_eq(u.nclaims, 1);
    return u.claims[0];
}

dti_message rig_to(const dti_claim *c, uint32_t seq, dti_endkind end) {
    return (dti_message){.job = c->job, .ord = c->ord, .token = c->token, .seq = seq, .end = end};
}

dti_taskrow rig_task(rig *g, uint64_t job, uint32_t ord) {
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .job = job, .ord = ord}};
    rig_run(g, &op);
    cr_assert_eq(op.read.n, 1);
    return op.read.tasks[0].row;
}

dti_jobrow rig_job(rig *g, uint64_t job) {
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .job = job}};
    rig_run(g, &op);
    cr_assert_eq(op.read.n, 1);
    return op.read.jobs[0].row;
}

void rig_sweep(rig *g) {
    dti_op op;
    do {
        op = (dti_op){.kind = DTI_OP_SWEEP, .sweep = {.budget = 1000}};
        rig_run(g, &op);
    } while (op.sweep.steps);
}
