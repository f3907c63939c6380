// Dependencies, then, cold frames, failures that climb, subtrees that are
// cancelled, callbacks, triggers, undo, and what is left of a job.
#include "rig.h"

static rig g;
static uint64_t job;
static dti_claim root;
static uint32_t seq;

static void open_rig(void) {
    rig_open(&g);
    job = rig_start(&g, "a");
    root = rig_claim(&g);
    seq = 0;
}
static void close_rig(void) { rig_close(&g); }
TestSuite(trees, .init = open_rig, .fini = close_rig);

static dti_message msg(dti_endkind end) { return rig_to(&root, ++seq, end); }

static dti_claim claim_one(void) { return rig_claim(&g); }

static void succeed(dti_claim c) {
    dti_message m = rig_to(&c, 1, DTI_END_SUCCEED);
    m.value = dti_strz("\x05");
    cr_assert_eq(rig_send(&g, m).status, DTI_OK);
}

Test(trees, after_and_outputs) {
    uint32_t on0[] = {DTI_HERE | 0}, on1[] = {DTI_HERE | 1, DTI_HERE | 0};
    dti_new kids[] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2), rig_child(&g, g.other, 3)};
    kids[1].deps = on0;
    kids[1].ndeps = 1;
    kids[2].deps = on1;
    kids[2].ndeps = 2;
    dti_message m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 3;
    rig_send(&g, m);
    succeed(claim_one());
    dti_claim c = claim_one();
    cr_assert_eq(c.ord, 2);
    cr_assert_eq(c.ndeps, 1);
    cr_assert(dti_str_eq(c.deps[0].data, dti_strz("\x05")));
    rig_send(&g, rig_to(&c, 1, DTI_END_FAIL));
    dti_taskrow r = rig_task(&g, job, 3);
    cr_assert_eq(r.state, DTI_SKIPPED);
    cr_assert_eq(r.reason, DTI_R_AFTER);
}

Test(trees, a_dependency_on_a_later_sibling_is_refused_whole) {
    uint32_t on1[] = {DTI_HERE | 1};
    dti_new kids[] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    kids[0].deps = on1;
    kids[0].ndeps = 1;
    uint64_t next = rig_job(&g, job).next;
    dti_message m = msg(DTI_END_SUCCEED);
    m.children = kids;
    m.nchildren = 2;
    cr_assert_eq(rig_send(&g, m).status, DTI_BAD);
    cr_assert_eq(rig_job(&g, job).next, next);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_RUNNING);
}

Test(trees, then_runs_when_all_is_quiet) {
    dti_new kid = rig_child(&g, g.other, 1), next = rig_child(&g, g.type, 7);
    uint32_t dep[] = {DTI_HERE | 0};
    next.deps = dep;
    next.ndeps = 1;
    dti_message m = msg(DTI_END_BECOME);
    m.children = &kid;
    m.nchildren = 1;
    m.next = &next;
    cr_assert_eq(rig_send(&g, m).state, DTI_PARKED);
    succeed(claim_one());
    dti_claim c = claim_one();
    cr_assert_eq(c.ord, 0);
    cr_assert_eq(c.row.base, 2);
    cr_assert_eq(c.ndeps, 1);
    succeed(c);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_SUCCEEDED);
}

Test(trees, then_is_not_run_after_a_failure) {
    dti_new kid = rig_child(&g, g.other, 1), next = rig_child(&g, g.type, 7);
    dti_message m = msg(DTI_END_BECOME);
    m.children = &kid;
    m.nchildren = 1;
    m.next = &next;
    rig_send(&g, m);
    dti_claim c = claim_one();
    m = rig_to(&c, 1, DTI_END_FAIL);
    m.value = dti_str("\x80", 1);
    rig_send(&g, m);
    dti_taskrow r = rig_task(&g, job, 0);
    cr_assert_eq(r.state, DTI_FAILED);
    cr_assert_eq(r.reason, DTI_R_CHILDREN);
    cr_assert_eq(r.blame, 1);
}

// A deep failure comes to whoever looks as the first that failed.
Test(trees, blame) {
    dti_new kid = rig_child(&g, g.other, 1);
    dti_range told = {.first = DTI_HERE, .count = 1};
    dti_message m = msg(DTI_END_PARK);
    m.children = &kid;
    m.nchildren = 1;
    m.told = &told;
    m.ntold = 1;
    m.mask = DTI_MAIL;
    rig_send(&g, m);
    dti_claim c = claim_one();
    m = rig_to(&c, 1, DTI_END_SUCCEED);
    m.children = &kid;
    m.nchildren = 1;
    rig_send(&g, m);
    c = claim_one();
    m = rig_to(&c, 1, DTI_END_FAIL);
    m.value = dti_str("\x81\xa4type\xa1X", 8);
    dti_turn u = rig_turn(&g, &m, 1, 0);
    cr_assert_eq(u.nwakes, 1);
    const dti_mail *mail = &u.wakes[0].mails[0];
    cr_assert(mail->bad);
    cr_assert_eq(mail->ord, 1);
    cr_assert_eq(mail->state, DTI_SUCCEEDED);
    cr_assert_eq(mail->blame, 2);
    cr_assert_eq(mail->data.n, 8);
    dti_ack ack = {.ref = 1};
    m = msg(DTI_END_SUCCEED);
    m.acks = &ack;
    m.nacks = 1;
    rig_send(&g, m);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_SUCCEEDED, "it was looked at");
}

Test(trees, a_cold_frame_runs_again) {
    dti_new kid = rig_child(&g, g.other, 1);
    dti_message m = msg(DTI_END_PARK);
    m.children = &kid;
    m.nchildren = 1;
    m.mask = DTI_QUIET;
    m.how = DTI_COLD;
    rig_send(&g, m);
    dti_taskrow r = rig_task(&g, job, 0);
    cr_assert_eq(r.state, DTI_PARKED);
    cr_assert_eq(r.owner, 0);
    succeed(claim_one());
    root = claim_one();
    cr_assert_eq(root.ord, 0);
    cr_assert_eq(root.row.attempt, 2);
    cr_assert_eq(root.row.lost, 0);
}

Test(trees, a_subtree_is_cancelled) {
    dti_new kids[2] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    dti_message m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 2;
    rig_send(&g, m);
    dti_claim c = claim_one();
    m = rig_to(&c, 1, DTI_END_SUCCEED);
    m.children = kids;
    m.nchildren = 2;
    rig_send(&g, m);
    dti_range range = {.first = 1, .count = 1};
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("a"), .kids = true, .ranges = &range, .nranges = 1}};
    rig_run(&g, &op);
    cr_assert_eq(rig_task(&g, job, 3).state, DTI_CANCELLED);
    cr_assert_eq(rig_task(&g, job, 4).state, DTI_CANCELLED);
    cr_assert_eq(rig_task(&g, job, 1).state, DTI_SUCCEEDED, "its handler had finished");
    cr_assert_eq(rig_task(&g, job, 2).state, DTI_READY);
}

Test(trees, cancelled_past_its_grace) {
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("a")}};
    rig_run(&g, &op);
    g.now += 1000000;
    rig_sweep(&g);
    dti_taskrow r = rig_task(&g, job, 0);
    cr_assert_eq(r.state, DTI_CANCELLED);
    cr_assert_eq(r.reason, DTI_R_GRACE);
}

Test(trees, a_task_that_cost_a_worker_runs_alone) {
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 100, .dead = &g.worker, .ndead = 1, .charge_all = true}};
    rig_run(&g, &op);
    g.worker = rig_worker(&g, "w2");
    g.nonce = g.got = 0;
    dti_want want = {g.type, 4};
    op = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = g.worker, .era = 1, .nonce = ++g.nonce, .want = &want, .nwant = 1, .n = 4}};
    rig_run(&g, &op);
    cr_assert_eq(op.turn.nclaims, 0);
    cr_assert(!op.turn.drain);
    g.now += 1000001;
    op.turn.nonce = ++g.nonce;
    rig_run(&g, &op);
    cr_assert(op.turn.drain);
    cr_assert_eq(claim_one().row.lost, 1);
}

Test(trees, signals) {
    dti_message m = msg(DTI_END_PARK);
    m.mask = DTI_MAIL;
    rig_send(&g, m);
    dti_op op = {.kind = DTI_OP_POST, .post = {.id = dti_strz("a"), .msgid = {1, 2}, .name = dti_strz("s"), .data = dti_strz("\x01")}};
    rig_run(&g, &op);
    cr_assert_eq(op.post.status, DTI_POSTED);
    rig_run(&g, &op);
    cr_assert_eq(op.post.status, DTI_DUP);
    dti_turn u = rig_turn(&g, NULL, 0, 0);
    cr_assert_eq(u.nwakes, 1);
    cr_assert_eq(u.wakes[0].nmails, 1);
    cr_assert(dti_str_eq(u.wakes[0].mails[0].name, dti_strz("s")));
    rig_send(&g, msg(DTI_END_SUCCEED));
    op.post.msgid[0]++;
    rig_run(&g, &op);
    cr_assert_eq(op.post.status, DTI_ENDED);
}

// `then` drops what was received, and keeps what was not.
Test(trees, then_keeps_unread_signals) {
    for (int i = 0; i < 3; i++) {
        dti_op op = {.kind = DTI_OP_POST, .post = {.id = dti_strz("a"), .msgid = {1, (uint64_t)i}, .name = dti_strz("s"), .data = dti_strz("\x01")}};
        rig_run(&g, &op);
        cr_assert_eq(op.post.status, DTI_POSTED);
    }
    dti_new next = rig_child(&g, g.type, 7);
    dti_message m = msg(DTI_END_BECOME);
    m.next = &next;
    m.read = 2;
    rig_send(&g, m);
    cr_assert_eq(rig_task(&g, job, 0).notes, 1);
    dti_claim c = claim_one();
    m = rig_to(&c, 1, DTI_END_PARK);
    m.mask = DTI_MAIL;
    dti_answer a = rig_send(&g, m);
    cr_assert(a.now);
    cr_assert_eq(a.nmails, 1);
    cr_assert_eq(a.mails[0].n, 2);
}

Test(trees, callbacks_and_undo_hold_the_job) {
    dti_hello_type types[] = {{.name = dti_strz("cb"), .version = 1, .crashes = 3}, {.name = dti_strz("t"), .version = 1, .crashes = 3}};
    dti_listen listen = {.listener = 0, .subject = 1, .kind = DTI_L_CALLBACK, .states = UINT16_MAX};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("w3"), .types = types, .ntypes = 2, .listens = &listen, .nlistens = 1}};
    rig_run(&g, &op);
    dti_note undo = {.kind = DTI_LOG_UNDO, .name = dti_strz("u"), .data = dti_strz("\x90")};
    dti_message m = msg(DTI_END_FAIL);
    m.notes = &undo;
    m.nnotes = 1;
    rig_send(&g, m);
    cr_assert_eq(rig_job(&g, job).hooks, 2);
    op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz("a!cb")}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 1);
    cr_assert_eq(op.read.jobs[0].root.args.n, 7, "one handle: 0x91, 0xc8, length, 1, 'J', 'a'");
    op.read.id = dti_strz("a!undo");
    op.read.job = 0;
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 1);
    op = (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_PURGE, .id = dti_strz("a")}};
    rig_run(&g, &op);
    cr_assert_eq(op.mark.status, DTI_MARK_BUSY);
}

Test(trees, a_trigger_starts_once_and_filters) {
    dti_hello_type types[] = {{.name = dti_strz("tr"), .version = 1, .crashes = 3}, {.name = dti_strz("u"), .version = 1, .crashes = 3}};
    dti_listen listen = {.listener = 0, .subject = 1, .kind = DTI_L_TRIGGER, .states = 1 << DTI_SUCCEEDED, .filter = dti_str("\x92\x00\x07", 3)};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("w3"), .types = types, .ntypes = 2, .listens = &listen, .nlistens = 1}};
    rig_run(&g, &op);
    dti_new kids[2] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    kids[1].args = dti_str("\x91\x07", 2);
    dti_message m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 2;
    rig_send(&g, m);
    succeed(claim_one());
    succeed(claim_one());
    op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOBS, .state = -1}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 2);
    cr_assert(dti_str_eq(op.read.jobs[0].id, dti_strz("a/2!tr")), "newest first");
}

Test(trees, retention_leaves_nothing) {
    dti_new kids[3] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2), rig_child(&g, g.type, 3)};
    dti_note emit = {.kind = DTI_LOG_EMIT, .data = dti_strz("\x01")};
    dti_message m = msg(DTI_END_SUCCEED);
    m.children = kids;
    m.nchildren = 3;
    m.notes = &emit;
    m.nnotes = 1;
    rig_send(&g, m);
    for (int i = 0; i < 3; i++) succeed(claim_one());
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_SUCCEEDED);
    g.now += 3600000000;
    rig_sweep(&g);
    for (dti_table t = 0; t < DTI_TABLE_COUNT; t++) {
        dti_key k = {0};
        const void *v;
        size_t n;
        if (t < DTI_T_ORDERED || t == DTI_T_SERVES) continue;
        cr_assert_not(g.store->ops->seek(g.store, t, 0, &k, &v, &n), "table %d has a row", t);
    }
    size_t n;
    cr_assert_null(g.store->ops->get(g.store, DTI_T_TASK, (dti_key){job, 3, 0}, &n));
    cr_assert_null(g.store->ops->get(g.store, DTI_T_JOB, (dti_key){job, 0, 0}, &n));
    cr_assert_null(g.store->ops->get(g.store, DTI_T_LANE, (dti_key){g.other, job, 2}, &n));
}

Test(trees, kids_are_read_in_pages) {
    for (unsigned i = 0; i < 3; i++) {
        dti_new kids[2] = {rig_child(&g, g.other, i * 2), rig_child(&g, g.other, i * 2 + 1)};
        dti_message m = msg(DTI_END_NONE);
        m.children = kids;
        m.nchildren = 2;
        rig_send(&g, m);
        if (i == 1) { // strangers between
            dti_claim c = claim_one();
            m = rig_to(&c, 1, DTI_END_SUCCEED);
            m.children = kids;
            m.nchildren = 2;
            rig_send(&g, m);
        }
    }
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_KIDS, .job = job, .limit = 4}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 4);
    cr_assert(op.read.more);
    cr_assert_eq(op.read.tasks[3].ord, 4);
    op.read.from = op.read.next;
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 2);
    cr_assert_not(op.read.more);
    cr_assert_eq(op.read.tasks[0].ord, 7);
}

Test(trees, a_tick_is_taken_once) {
    struct dti_tick set = {g.other, 0, g.now + 1000000}, first = {g.other, g.now + 1000000, g.now + 2000000};
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 10, .ticks = &set, .nticks = 1}};
    rig_run(&g, &op);
    cr_assert_eq(op.sweep.next, g.now + 1000000);
    g.now += 1000000;
    op = (dti_op){.kind = DTI_OP_SWEEP, .sweep = {.budget = 10, .ticks = &first, .nticks = 1}};
    rig_run(&g, &op);
    rig_run(&g, &op);
    op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz("u@2")}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 1);
}

Test(trees, a_new_era_voids_all_tokens) {
    dti_op op = {.kind = DTI_OP_ERA, .era = {.run_id = dti_strz("r2")}};
    rig_run(&g, &op);
    cr_assert(op.era.fresh);
    cr_assert_gt(op.era.era, 1u);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_READY);
    cr_assert_eq(rig_task(&g, job, 0).lost, 0);
    rig_run(&g, &op);
    cr_assert_not(op.era.fresh);
}

// What a cold frame waited for was there, its wake was left to todo, and the
// clock was set back before it came to that: its time must come again.
// (Found by the simulator.)
Test(trees, a_due_wait_survives_a_clock_set_back) {
    dti_message m = rig_to(&root, ++seq, DTI_END_PARK);
    m.mask = DTI_DUE;
    m.how = DTI_COLD;
    m.due = g.now + 1000;
    cr_assert_eq(rig_send(&g, m).status, DTI_OK);
    g.now += 1000;
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 1}};
    rig_run(&g, &op);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_PARKED, "its wake is left to todo");
    g.now -= 500;
    rig_sweep(&g);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_PARKED);
    g.now += 500;
    rig_sweep(&g);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_READY);
}

// A task that waits to run alone and is cancelled: no worker shall be asked
// to run dry for it. (Found by the simulator.)
Test(trees, what_ended_waits_no_more_to_run_alone) {
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 100, .dead = &g.worker, .ndead = 1, .charge_all = true}};
    rig_run(&g, &op);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_READY);
    op = (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("a")}};
    rig_run(&g, &op);
    rig_sweep(&g);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_CANCELLED);
    size_t n;
    cr_assert_null(g.store->ops->get(g.store, DTI_T_ALONE, (dti_key){g.type, job, 0}, &n));
}
