// The model, case by case. What holds over all cases is the simulator's.
#include "rig.h"

static rig g;
static void open_rig(void) { rig_open(&g); }
static void close_rig(void) { rig_close(&g); }
TestSuite(model, .init = open_rig, .fini = close_rig);

Test(model, one_task) {
    uint64_t job = rig_start(&g, "a");
    dti_claim c = rig_claim(&g);
    cr_assert_eq(c.job, job);
    cr_assert(dti_str_eq(c.id, dti_strz("a")));
    dti_message m = rig_to(&c, 1, DTI_END_SUCCEED);
    m.value = dti_strz("\x05");
    cr_assert_eq(rig_send(&g, m).status, DTI_OK);
    cr_assert_eq(g.fx.nended, 1);
    cr_assert(dti_hash_eq(g.fx.ended[0], dti_id_hash(dti_strz("a"))));
    dti_jobrow j = rig_job(&g, job);
    cr_assert_eq(j.state, DTI_JOB_SUCCEEDED);
    cr_assert_eq(j.count[DTI_SUCCEEDED], 1);
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = dti_strz("a")}};
    rig_run(&g, &op);
    cr_assert(dti_str_eq(op.read.tasks[0].end.data, dti_strz("\x05")));
}

Test(model, start_again_is_the_same_job) {
    rig_start(&g, "a");
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("a"), .task = rig_child(&g, g.type, 0)}};
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_EXISTS);
    op.start.task.call[1]++;
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_CONFLICT);
    op = (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz("b"), .task = rig_child(&g, 99, 0)}};
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_UNKNOWN);
}

// The store has lost its types since the client read them, and numbers them anew.
Test(model, a_start_goes_by_its_types_name) {
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("a"), .type = dti_strz("t"), .task = rig_child(&g, g.other, 0)}};
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_CREATED);
    cr_assert_eq(rig_task(&g, op.start.job, 0).type, g.type);
    op.start.id = dti_strz("b");
    op.start.type = dti_strz("who");
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_UNKNOWN);
}

// A root that returned at once: the job lives until its last descendant.
Test(model, the_last_descendant_decides) {
    uint64_t job = rig_start(&g, "a");
    dti_claim root = rig_claim(&g);
    dti_new kids[] = {rig_child(&g, g.type, 1), rig_child(&g, g.type, 2)};
    dti_message m = rig_to(&root, 1, DTI_END_SUCCEED);
    m.children = kids;
    m.nchildren = 2;
    dti_answer a = rig_send(&g, m);
    cr_assert_eq(a.first, 1);
    cr_assert_eq(a.count, 2);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_CLOSING);
    dti_turn u = rig_turn(&g, NULL, 0, 8);
    cr_assert_eq(u.nclaims, 2);
    dti_claim c[2] = {u.claims[0], u.claims[1]};
    cr_assert_eq(c[0].ord, 1, "the back of the lane: oldest first");
    rig_send(&g, rig_to(&c[0], 1, DTI_END_SUCCEED));
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_RUNNING);
    rig_send(&g, rig_to(&c[1], 1, DTI_END_FAIL));
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_FAILED, "a failure nobody looked at climbs");
}

Test(model, retry_waits_its_time) {
    uint64_t job = rig_start(&g, "a");
    for (int i = 0; i < 3; i++) {
        dti_claim c = rig_claim(&g);
        dti_message m = rig_to(&c, 1, DTI_END_FAIL);
        m.retry = true;
        m.retry_at = g.now + 1000;
        rig_send(&g, m);
        if (i == 2) break;
        cr_assert_eq(rig_task(&g, job, 0).state, DTI_SCHEDULED);
        cr_assert_eq(rig_turn(&g, NULL, 0, 1).nclaims, 0);
        g.now += 1000;
        rig_sweep(&g);
    }
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_FAILED, "two retries, three tries");
}

Test(model, park_wakes_with_mail) {
    uint64_t job = rig_start(&g, "a");
    dti_claim root = rig_claim(&g);
    dti_new kid = rig_child(&g, g.other, 1);
    dti_range told = {.first = DTI_HERE, .count = 1};
    dti_message m = rig_to(&root, 1, DTI_END_PARK);
    m.children = &kid;
    m.nchildren = 1;
    m.told = &told;
    m.ntold = 1;
    m.mask = DTI_MAIL;
    dti_answer a = rig_send(&g, m);
    cr_assert_eq(a.state, DTI_PARKED);
    cr_assert(!a.now);
    dti_claim c = rig_claim(&g);
    dti_message end = rig_to(&c, 1, DTI_END_SUCCEED);
    end.value = dti_strz("\x07");
    dti_turn u = rig_turn(&g, &end, 1, 0);
    cr_assert_eq(u.nwakes, 1);
    cr_assert_eq(u.wakes[0].ord, 0);
    cr_assert_eq(u.wakes[0].seq, 1);
    cr_assert_eq(u.wakes[0].nmails, 1);
    cr_assert(dti_str_eq(u.wakes[0].mails[0].data, dti_strz("\x07")));
    u = rig_turn(&g, NULL, 0, 0);
    cr_assert_eq(u.nwakes, 0, "acknowledged");
    // It is there already: park answers at once, told a second time.
    m = rig_to(&root, 2, DTI_END_PARK);
    told.first = 1;
    m.told = &told;
    m.ntold = 1;
    m.mask = DTI_MAIL;
    m.read = 1;
    a = rig_send(&g, m);
    cr_assert(a.now);
    cr_assert_eq(a.nmails, 1);
    m.seq = 3;
    m.end = DTI_END_SUCCEED;
    m.ntold = 0;
    rig_send(&g, m);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_SUCCEEDED);
}

Test(model, a_dead_worker_gives_back) {
    uint64_t job = rig_start(&g, "a");
    dti_claim c = rig_claim(&g);
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 100, .dead = &g.worker, .ndead = 1, .charge_all = true}};
    rig_run(&g, &op);
    dti_taskrow r = rig_task(&g, job, 0);
    cr_assert_eq(r.state, DTI_READY);
    cr_assert_eq(r.lost, 1);
    dti_message late = rig_to(&c, 1, DTI_END_SUCCEED);
    op = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = g.worker, .era = 1, .nonce = ++g.nonce, .messages = &late, .nmessages = 1}};
    rig_run(&g, &op);
    cr_assert_eq(op.turn.status, DTI_TURN_DEAD);
    g.worker = rig_worker(&g, "w2");
    g.nonce = g.got = 0;
    c = rig_claim(&g);
    cr_assert_eq(c.row.lost, 1);
    rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_SUCCEEDED);
}

Test(model, cancel_ends_all) {
    uint64_t job = rig_start(&g, "a");
    dti_claim root = rig_claim(&g);
    dti_new kids[] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    dti_message m = rig_to(&root, 1, DTI_END_NONE);
    m.children = kids;
    m.nchildren = 2;
    rig_send(&g, m);
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("a")}};
    rig_run(&g, &op);
    cr_assert_eq(op.mark.status, DTI_MARKED);
    cr_assert_eq(rig_job(&g, job).count[DTI_CANCELLED], 2);
    dti_turn u = rig_turn(&g, NULL, 0, 4);
    cr_assert_eq(u.nclaims, 0);
    cr_assert_eq(u.nwakes, 1);
    cr_assert(u.wakes[0].cancel);
    m = rig_to(&root, 2, DTI_END_FAIL);
    rig_send(&g, m);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_CANCELLED);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_CANCELLED);
}

Test(model, a_resent_turn_changes_nothing) {
    rig_start(&g, "a");
    dti_turn u = rig_turn(&g, NULL, 0, 1);
    uint64_t token = u.claims[0].token, hash = dti_memory_store_hash(g.store);
    g.nonce--;
    u = rig_turn(&g, NULL, 0, 1);
    cr_assert_eq(u.nclaims, 1);
    cr_assert(u.claims[0].again);
    cr_assert_eq(u.claims[0].token, token);
    cr_assert_eq(dti_memory_store_hash(g.store), hash);
}

// A turn that asks for one job gets that one's tasks and its callbacks', whatever else is ready.
Test(model, claims_of_one_job_only) {
    rig g;
    rig_open(&g);
    dti_hello_type types[] = {{.name = dti_strz("t"), .version = 1, .crashes = 3}, {.name = dti_strz("cb"), .version = 1, .crashes = 3}};
    dti_listen listens[] = {{.listener = 1, .subject = 0, .kind = DTI_L_CALLBACK, .states = UINT16_MAX}};
    dti_op hello = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("x"), .types = types, .ntypes = 2, .listens = listens, .nlistens = 1}};
    rig_run(&g, &hello);
    uint64_t first = rig_start(&g, "first"), second = rig_start(&g, "second");
    rig_start(&g, "third");
    dti_want want[] = {{types[0].no, 8}, {types[1].no, 8}};
    dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = g.worker, .era = 1, .nonce = ++g.nonce, .want = want, .nwant = 2, .n = 8,
        .empty = true, .only = second}};
    rig_run(&g, &op);
    cr_assert_eq(op.turn.nclaims, 1);
    cr_assert_eq(op.turn.claims[0].job, second);
    dti_message done = rig_to(&op.turn.claims[0], 1, DTI_END_SUCCEED);
    op.turn = (dti_turn){.worker = g.worker, .era = 1, .nonce = ++g.nonce, .messages = &done, .nmessages = 1, .want = want, .nwant = 2,
        .n = 8, .empty = true, .only = second};
    rig_run(&g, &op);
    cr_assert_eq(op.turn.nclaims, 1, "its callback");
    cr_assert_eq(op.turn.claims[0].row.type, types[1].no);
    op.turn = (dti_turn){.worker = g.worker, .era = 1, .nonce = ++g.nonce, .want = want, .nwant = 2, .n = 8, .empty = true};
    rig_run(&g, &op);
    cr_assert_eq(op.turn.nclaims, 2, "the others are still to be had");
    cr_assert(op.turn.claims[0].job == first || op.turn.claims[1].job == first);
    rig_close(&g);
}
