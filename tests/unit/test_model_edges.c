// The model at its edges: bounds, long chains, many mails, bye, what reads
// answer, and ids.
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
TestSuite(edges, .init = open_rig, .fini = close_rig);

static dti_message msg(dti_endkind end) { return rig_to(&root, ++seq, end); }

// A chain of closing tasks, deeper than any operation's steps: it ends by todo.
Test(edges, a_deep_chain_ends_step_by_step) {
    enum { DEPTH = 1000 };
    dti_new kid = rig_child(&g, g.other, 1);
    dti_claim c = root;
    for (int i = 0; i < DEPTH; i++) {
        dti_message m = rig_to(&c, 1, DTI_END_SUCCEED);
        m.children = &kid;
        m.nchildren = 1;
        rig_send(&g, m);
        c = rig_claim(&g);
    }
    dti_message m = rig_to(&c, 1, DTI_END_FAIL);
    rig_send(&g, m);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_RUNNING);
    cr_assert(rig_turn(&g, NULL, 0, 0).todo);
    rig_sweep(&g);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_FAILED);
    cr_assert_eq(rig_task(&g, job, 0).blame, DEPTH);
}

Test(edges, bounds_are_refused_whole) {
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("b"), .task = rig_child(&g, g.type, 0), .max_tasks = 3, .max_depth = 1}};
    rig_run(&g, &op);
    root = rig_claim(&g);
    seq = 0;
    dti_new kids[3] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2), rig_child(&g, g.other, 3)};
    uint64_t b = op.start.job;
    dti_message m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 3;
    cr_assert_eq(rig_send(&g, m).status, DTI_TOOBIG);
    cr_assert_eq(rig_job(&g, b).next, 1);
    m.nchildren = 2;
    cr_assert_eq(rig_send(&g, m).status, DTI_OK);
    dti_claim c = rig_claim(&g);
    m = rig_to(&c, 1, DTI_END_SUCCEED);
    m.children = kids;
    m.nchildren = 1;
    cr_assert_eq(rig_send(&g, m).status, DTI_TOOBIG, "too deep");
    cr_assert_eq(rig_task(&g, b, c.ord).state, DTI_RUNNING);
    m.nchildren = 0;
    m.seq = 3;
    cr_assert_eq(rig_send(&g, m).status, DTI_GAP);
    m.token++;
    cr_assert_eq(rig_send(&g, m).status, DTI_STALE);
}

Test(edges, a_turn_has_a_size) {
    static dti_message many[DTI_MESSAGES_MAX + 1];
    dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = g.worker, .era = 1, .nonce = ++g.nonce, .messages = many, .nmessages = DTI_MESSAGES_MAX + 1}};
    jmp_buf trap;
    g.store->trap = &trap;
    dti_memory_store_begin(g.store);
    dti_tx tx = {.store = g.store, .arena = &g.arena, .now = g.now};
    dti_model_run(&tx, &op);
    dti_memory_store_commit(g.store);
    cr_assert_eq(op.err, DTASK_EARGS);
}

Test(edges, more_mail_than_one_wake_carries) {
    enum { N = DTI_MAILS_MAX + 40 };
    static dti_new kids[N];
    for (unsigned i = 0; i < N; i++) kids[i] = rig_child(&g, g.other, i);
    dti_range told = {.first = DTI_HERE, .count = N};
    dti_message m = msg(DTI_END_PARK);
    m.children = kids;
    m.nchildren = N;
    m.told = &told;
    m.ntold = 1;
    m.mask = DTI_QUIET;
    rig_send(&g, m);
    dti_turn u = {0};
    for (unsigned done = 0; done < N;) {
        dti_message ends[DTI_MESSAGES_MAX];
        u = rig_turn(&g, NULL, 0, DTI_MESSAGES_MAX);
        uint32_t n = u.nclaims;
        for (uint32_t i = 0; i < n; i++) ends[i] = rig_to(&u.claims[i], 1, DTI_END_SUCCEED);
        u = rig_turn(&g, ends, n, 0);
        done += n;
    }
    cr_assert_eq(u.nwakes, 1);
    cr_assert_eq(u.wakes[0].nmails, DTI_MAILS_MAX);
    cr_assert(u.wakes[0].more);
    cr_assert_eq(u.wakes[0].logn, N);
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_LOG, .job = job, .from = u.wakes[0].mails[DTI_MAILS_MAX - 1].n + 1}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 40);
    cr_assert_not(op.read.more);
}

// What is told in more pieces than can be kept is told as a whole.
Test(edges, told_beyond_its_ranges_is_a_hull) {
    enum { N = 2 * DTI_TOLD_MAX + 10 };
    static dti_new kids[N];
    static dti_range told[N / 2];
    for (unsigned i = 0; i < N; i++) kids[i] = rig_child(&g, g.other, i);
    for (unsigned i = 0; i < N / 2; i++) told[i] = (dti_range){.first = DTI_HERE | i * 2, .count = 1};
    dti_message m = msg(DTI_END_PARK);
    m.children = kids;
    m.nchildren = N;
    m.told = told;
    m.ntold = N / 2;
    m.mask = DTI_MAIL;
    cr_assert_eq(rig_send(&g, m).state, DTI_PARKED);
    for (;;) { // the last one told
        dti_claim c = rig_claim(&g);
        if (c.ord != N - 1) continue;
        rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
        break;
    }
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_RUNNING);
}

Test(edges, a_dependency_on_a_joined_call) {
    dti_keyspec key = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .scope = 1};
    uint32_t on0[] = {DTI_HERE | 0};
    dti_new kids[2] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    kids[0].keys = &key;
    kids[0].nkeys = 1;
    dti_message m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 1;
    rig_send(&g, m);
    kids[1].deps = on0;
    kids[1].ndeps = 1;
    m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 2;
    uint64_t next = rig_job(&g, job).next;
    cr_assert_eq(rig_send(&g, m).status, DTI_BAD, "not yet good: a circle could form");
    cr_assert_eq(rig_job(&g, job).next, next);
    dti_claim c = rig_claim(&g);
    rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
    dti_answer a = rig_send(&g, m);
    cr_assert_eq(a.status, DTI_OK);
    cr_assert_eq(a.count, 1);
    c = rig_claim(&g);
    cr_assert_eq(c.ndeps, 1);
    cr_assert_eq(c.deps[0].ord, 1);
}

Test(edges, a_refused_message_gives_its_keys_back) {
    dti_keyspec key = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .scope = 1}, held = {.h = {8, 8}, .kind = DTI_KEY_UNIQUE, .scope = 1};
    uint32_t on1[] = {DTI_HERE | 1};
    dti_new kids[3] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2), rig_child(&g, g.other, 3)};
    kids[1].keys = &held;
    kids[1].nkeys = 1;
    dti_message m = msg(DTI_END_NONE);
    m.children = &kids[1];
    m.nchildren = 1;
    rig_send(&g, m);
    kids[0].keys = &key;
    kids[0].nkeys = 1;
    kids[2].deps = on1;
    kids[2].ndeps = 1;
    m = msg(DTI_END_NONE);
    m.children = kids;
    m.nchildren = 3;
    cr_assert_eq(rig_send(&g, m).status, DTI_BAD);
    m.nchildren = 1;
    cr_assert_eq(rig_send(&g, m).njoined, 0, "the key is free");
}

Test(edges, bye_gives_all_back_uncharged) {
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.bye = true, .worker = g.worker}};
    rig_run(&g, &op);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_READY);
    cr_assert_eq(rig_task(&g, job, 0).lost, 0);
    op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_WORKERS}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 0);
    g.now += 2 * 86400 * 1000000ll;
    rig_sweep(&g);
    size_t n;
    cr_assert_null(g.store->ops->get(g.store, DTI_T_WORKER, (dti_key){g.worker, 0, 0}, &n));
}

Test(edges, a_lease_ends_but_not_in_an_outage) {
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("leased"), .lease_us = 1000}};
    rig_run(&g, &op);
    uint64_t w = op.hello.worker;
    g.now += 5000; // nobody was served for so long
    rig_sweep(&g);
    op = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = w, .era = 1, .nonce = 1}};
    rig_run(&g, &op);
    cr_assert_eq(op.turn.status, DTI_TURN_OK);
    for (int i = 0; i < 4; i++) {
        g.now += 400;
        rig_sweep(&g);
    }
    op.turn.nonce = 2;
    rig_run(&g, &op);
    cr_assert_eq(op.turn.status, DTI_TURN_DEAD);
}

// The store was away, and the worker could not know: it begins a new life.
Test(edges, a_worker_that_goes_on_under_another_name_did_not_die) {
    dti_hello_type t = {.name = dti_strz("t"), .version = 1};
    dti_op hello = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("one"), .lease_us = 1000, .types = &t, .ntypes = 1}};
    rig_run(&g, &hello);
    uint64_t one = hello.hello.worker, job = rig_start(&g, "j");
    dti_want want = {g.type, 1};
    dti_op turn = {.kind = DTI_OP_TURN, .turn = {.worker = one, .era = 1, .nonce = one << 32 | 1, .want = &want, .nwant = 1, .n = 1}};
    rig_run(&g, &turn);
    cr_assert_eq(turn.turn.nclaims, 1);
    hello.hello.name = dti_strz("two");
    hello.hello.was = dti_strz("one");
    for (int again = 0; again < 2; again++) { // its answer was lost
        rig_run(&g, &hello);
        cr_assert_neq(hello.hello.worker, one);
        turn.turn.nonce++;
        rig_run(&g, &turn);
        cr_assert_eq(turn.turn.status, DTI_TURN_DEAD);
        cr_assert_eq(rig_task(&g, job, 0).state, DTI_READY);
        cr_assert_eq(rig_task(&g, job, 0).lost, 0);
    }
    turn.turn.worker = hello.hello.worker;
    turn.turn.nonce = hello.hello.worker << 32 | 1;
    rig_run(&g, &turn);
    cr_assert_eq(turn.turn.nclaims, 1);
    g.now += 400;
    for (int i = 0; i < 4; i++, g.now += 400) rig_sweep(&g); // this one dies
    cr_assert_eq(rig_task(&g, job, 0).lost, 1);
    hello.hello.name = dti_strz("three");
    hello.hello.was = dti_strz("two"); // it was late: that stands
    rig_run(&g, &hello);
    cr_assert_eq(rig_task(&g, job, 0).lost, 1);
}

Test(edges, a_signature_may_change_when_nobody_serves_it) {
    dti_hello_type t = {.name = dti_strz("sig"), .signature = dti_strz("a:i"), .version = 1};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("w5"), .types = &t, .ntypes = 1}};
    rig_run(&g, &op);
    cr_assert_not(t.refused);
    uint64_t w5 = op.hello.worker;
    t.signature = dti_strz("b:i");
    op.hello.name = dti_strz("w6");
    rig_run(&g, &op);
    cr_assert(t.refused);
    cr_assert(dti_str_eq(t.registered, dti_strz("a:i")));
    cr_assert_eq(op.hello.worker, 0);
    dti_op bye = {.kind = DTI_OP_HELLO, .hello = {.bye = true, .worker = w5}};
    rig_run(&g, &bye);
    rig_run(&g, &op);
    cr_assert_not(t.refused);
    cr_assert_neq(op.hello.worker, 0);
}

Test(edges, the_newest_version_is_found) {
    dti_hello_type t[2] = {{.name = dti_strz("v"), .version = 2}, {.name = dti_strz("v"), .version = 1}};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.types = t, .ntypes = 2}};
    rig_run(&g, &op);
    op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPE, .id = dti_strz("v")}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 1);
    cr_assert_eq(op.read.types[0].row.type_version, 2);
    op.read.version = 1;
    rig_run(&g, &op);
    cr_assert_eq(op.read.types[0].row.type_version, 1);
}

Test(edges, unique_starts_dropped_and_refused) {
    dti_keyspec key = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .over = DTI_OVER_DROP};
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("b"), .task = rig_child(&g, g.type, 0), .retain_us = 1000}};
    op.start.task.keys = &key;
    op.start.task.nkeys = 1;
    rig_run(&g, &op);
    op.start.id = dti_strz("c");
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_CREATED);
    dti_taskrow r = rig_task(&g, op.start.job, 0);
    cr_assert_eq(r.state, DTI_SKIPPED);
    cr_assert_eq(r.reason, DTI_R_UNIQUE);
    key.over = DTI_OVER_RAISE;
    op.start.id = dti_strz("d");
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_CONFLICT);
}

Test(edges, jobs_come_newest_first_in_pages) {
    for (char id[] = "b"; id[0] < 'g'; id[0]++) rig_start(&g, id);
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOBS, .state = DTI_JOB_RUNNING, .limit = 4}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 4);
    cr_assert(op.read.more);
    cr_assert(dti_str_eq(op.read.jobs[0].id, dti_strz("f")));
    op.read.before = op.read.jobs[3].no;
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 2);
    cr_assert(dti_str_eq(op.read.jobs[1].id, dti_strz("a")));
}

// ---- ids ---------------------------------------------------------------------------

Test(ids, splitting) {
    dtask_str j;
    uint32_t ord;
    cr_assert(dti_id_split(dti_strz("c-42/17"), &j, &ord));
    cr_assert(dti_str_eq(j, dti_strz("c-42")));
    cr_assert_eq(ord, 17);
    cr_assert(dti_id_split(dti_strz("c-42/17!undo"), &j, &ord));
    cr_assert(dti_str_eq(j, dti_strz("c-42/17!undo")));
    cr_assert(dti_id_split(dti_strz("c-42/17!undo/3"), &j, &ord));
    cr_assert(dti_str_eq(j, dti_strz("c-42/17!undo")));
    cr_assert_eq(ord, 3);
    cr_assert_not(dti_id_split(dti_strz(""), &j, &ord));
}

Test(ids, checking) {
    cr_assert_eq(dti_id_check(dti_strz("a b-é"), false), DTASK_OK);
    cr_assert_eq(dti_id_check(dti_strz("a/b"), false), DTASK_EARGS);
    cr_assert_eq(dti_id_check(dti_strz("a\nb"), true), DTASK_EARGS);
    cr_assert_eq(dti_id_check(dti_strz("a!1!2!3!4!5!6!7"), true), DTASK_OK);
    cr_assert_eq(dti_id_check(dti_strz("a!1!2!3!4!5!6!7!8"), true), DTASK_ETOOBIG);
}
