// Limits, unique keys, pause and expiry.
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
TestSuite(limits, .init = open_rig, .fini = close_rig);

static dti_answer spawn(const dti_new *kids, uint32_t n) {
    dti_message m = rig_to(&root, ++seq, DTI_END_NONE);
    m.children = kids;
    m.nchildren = n;
    return rig_send(&g, m);
}

static uint32_t claims(uint32_t n, dti_claim *out) {
    dti_turn u = rig_turn(&g, NULL, 0, n);
    for (uint32_t i = 0; i < u.nclaims; i++) out[i] = u.claims[i];
    return u.nclaims;
}

static uint32_t count(dti_state s) { return rig_job(&g, job).count[s]; }

Test(limits, permits_go_round) {
    dti_keyspec two = {.h = {1, 1}, .kind = DTI_KEY_LIMIT, .over = DTI_OVER_QUEUE, .max = 2};
    dti_new kids[5];
    for (unsigned i = 0; i < 5; i++) {
        kids[i] = rig_child(&g, g.other, i);
        kids[i].keys = &two;
        kids[i].nkeys = 1;
    }
    spawn(kids, 5);
    cr_assert_eq(count(DTI_READY), 2);
    cr_assert_eq(count(DTI_BLOCKED), 3);
    dti_claim c[8];
    for (uint32_t left = 5; left;) {
        uint32_t n = claims(8, c);
        cr_assert_eq(n, left < 2 ? left : 2);
        for (uint32_t i = 0; i < n; i++) rig_send(&g, rig_to(&c[i], 1, DTI_END_SUCCEED));
        left -= n;
    }
    cr_assert_eq(count(DTI_SUCCEEDED), 5);
}

Test(limits, a_parked_parent_holds_no_permit) {
    dti_keyspec one = {.h = {1, 1}, .kind = DTI_KEY_LIMIT, .max = 1};
    dti_new kid = rig_child(&g, g.other, 1);
    kid.keys = &one;
    kid.nkeys = 1;
    spawn(&kid, 1);
    dti_claim p;
    cr_assert_eq(claims(1, &p), 1);
    dti_new grandchild = rig_child(&g, g.other, 2);
    grandchild.keys = &one;
    grandchild.nkeys = 1;
    dti_message m = rig_to(&p, 1, DTI_END_PARK);
    m.children = &grandchild;
    m.nchildren = 1;
    m.mask = DTI_QUIET;
    cr_assert_eq(rig_send(&g, m).state, DTI_PARKED);
    dti_claim c;
    cr_assert_eq(claims(1, &c), 1, "the parent gave its permit back");
    rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
    cr_assert_eq(rig_task(&g, job, 1).state, DTI_RUNNING, "woken, with its permit");
    rig_send(&g, rig_to(&p, 2, DTI_END_SUCCEED));
    cr_assert_eq(count(DTI_SUCCEEDED), 2);
}

Test(limits, so_many_begun_in_a_time) {
    dti_keyspec rate = {.h = {1, 1}, .kind = DTI_KEY_LIMIT, .max = 1, .per_us = 1000};
    dti_new kids[2] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    for (int i = 0; i < 2; i++) kids[i].keys = &rate, kids[i].nkeys = 1;
    spawn(kids, 2);
    dti_claim c;
    cr_assert_eq(claims(8, &c), 1);
    rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
    cr_assert_eq(claims(8, &c), 0, "its time is not over, though it ended");
    g.now += 1000;
    rig_sweep(&g);
    cr_assert_eq(claims(8, &c), 1);
}

Test(limits, over_drop_and_fail) {
    dti_keyspec spec[2] = {{.h = {1, 1}, .kind = DTI_KEY_LIMIT, .max = 1, .over = DTI_OVER_DROP}, {.h = {2, 1}, .kind = DTI_KEY_LIMIT, .max = 1, .over = DTI_OVER_FAIL}};
    dti_new kids[4];
    for (unsigned i = 0; i < 4; i++) {
        kids[i] = rig_child(&g, g.other, i);
        kids[i].keys = &spec[i / 2];
        kids[i].nkeys = 1;
    }
    spawn(kids, 4);
    cr_assert_eq(rig_task(&g, job, 2).state, DTI_SKIPPED);
    cr_assert_eq(rig_task(&g, job, 2).reason, DTI_R_LIMIT);
    cr_assert_eq(rig_task(&g, job, 4).state, DTI_FAILED);
    cr_assert_eq(rig_task(&g, job, 0).bad, 1);
    cr_assert_eq(rig_task(&g, job, 0).open, 2);
}

Test(limits, unique_in_a_job_makes_no_second_row) {
    dti_keyspec page = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .over = DTI_OVER_JOIN, .scope = 1};
    dti_new kids[3] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    kids[0].keys = kids[1].keys = &page;
    kids[0].nkeys = kids[1].nkeys = 1;
    dti_answer a = spawn(kids, 3);
    cr_assert_eq(a.count, 2);
    cr_assert_eq(a.njoined, 1);
    cr_assert_eq(a.joined[0].pos, 1);
    cr_assert_eq(a.joined[0].ord, 1);
    cr_assert(!a.joined[0].conflict);
    dti_claim c;
    while (claims(1, &c)) rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
    a = spawn(kids, 1);
    cr_assert_eq(a.count, 0, "once in a job's life");
    page.over = DTI_OVER_RAISE;
    cr_assert(spawn(kids, 1).joined[0].conflict);
}

Test(limits, unique_in_the_app_until_its_end) {
    dti_keyspec key = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .over = DTI_OVER_JOIN, .until = DTI_UNTIL_END, .keep_us = 500};
    dti_new kids[2] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    for (int i = 0; i < 2; i++) kids[i].keys = &key, kids[i].nkeys = 1;
    dti_answer a = spawn(kids, 2);
    cr_assert_eq(a.count, 2);
    cr_assert_eq(rig_task(&g, job, 2).reason, DTI_R_UNIQUE);
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("b"), .task = kids[0]}};
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_EXISTS);
    cr_assert(dti_str_eq(op.start.joined, dti_strz("a/1")));
    dti_claim c;
    cr_assert_eq(claims(8, &c), 1);
    rig_send(&g, rig_to(&c, 1, DTI_END_SUCCEED));
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_EXISTS, "kept");
    g.now += 500;
    rig_sweep(&g);
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_CREATED);
}

Test(limits, a_retry_may_redo_the_holder_of_a_key) {
    dti_keyspec key = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .scope = 1};
    dti_new kid = rig_child(&g, g.other, 1);
    kid.keys = &key;
    kid.nkeys = 1;
    spawn(&kid, 1);
    dti_claim c;
    claims(1, &c);
    rig_send(&g, rig_to(&c, 1, DTI_END_FAIL));
    dti_message m = rig_to(&root, ++seq, DTI_END_FAIL);
    m.retry = true;
    rig_send(&g, m);
    root = rig_claim(&g);
    dti_ack old = {.ref = 1, .replaced = true};
    m = rig_to(&root, 1, DTI_END_NONE);
    m.children = &kid;
    m.nchildren = 1;
    m.acks = &old;
    m.nacks = 1;
    dti_answer a = rig_send(&g, m);
    cr_assert_eq(a.count, 1);
    cr_assert_eq(a.first, 2);
    cr_assert_eq(rig_task(&g, job, 0).bad, 0);
    cr_assert_eq(rig_task(&g, job, 2).ptries, 1);
}

Test(limits, pause_and_resume) {
    dti_new kids[3] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2), rig_child(&g, g.other, 3)};
    kids[2].due = g.now + 1000;
    spawn(kids, 3);
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_PAUSE, .id = dti_strz("a")}};
    rig_run(&g, &op);
    cr_assert_eq(count(DTI_BLOCKED), 2);
    dti_message m = rig_to(&root, ++seq, DTI_END_PARK);
    m.mask = DTI_DUE;
    m.due = g.now + 10;
    rig_send(&g, m);
    g.now += 1000;
    rig_sweep(&g);
    cr_assert_eq(count(DTI_BLOCKED), 3);
    cr_assert_eq(count(DTI_PARKED), 1, "a wake waits too");
    dti_claim c[4];
    cr_assert_eq(claims(4, c), 0);
    op.mark.verb = DTI_MARK_RESUME;
    rig_run(&g, &op);
    cr_assert_eq(count(DTI_RUNNING), 1);
    cr_assert_eq(claims(4, c), 3);
}

Test(limits, a_paused_type_is_not_claimed) {
    dti_new kid = rig_child(&g, g.other, 1);
    spawn(&kid, 1);
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_PAUSE, .type = g.other}};
    rig_run(&g, &op);
    dti_claim c;
    cr_assert_eq(claims(1, &c), 0);
    op.mark.verb = DTI_MARK_RESUME;
    rig_run(&g, &op);
    cr_assert_eq(g.fx.ntypes, 1);
    cr_assert_eq(claims(1, &c), 1);
}

Test(limits, expires_unless_begun) {
    dti_new kids[2] = {rig_child(&g, g.other, 1), rig_child(&g, g.other, 2)};
    kids[0].expires = kids[1].expires = g.now + 100;
    spawn(kids, 2);
    dti_claim c;
    cr_assert_eq(claims(1, &c), 1);
    g.now += 100;
    rig_sweep(&g);
    cr_assert_eq(count(DTI_SKIPPED), 1);
    dti_message m = rig_to(&c, 1, DTI_END_RELEASE);
    rig_send(&g, m);
    cr_assert_eq(count(DTI_READY), 1, "it has begun");
    claims(1, &c);
    m = rig_to(&c, 1, DTI_END_RELEASE);
    m.unstarted = true;
    rig_send(&g, m);
    cr_assert_eq(count(DTI_READY), 1, "not its first claim");
}

Test(limits, released_unstarted_it_expires) {
    dti_new kid = rig_child(&g, g.other, 1);
    kid.expires = g.now + 100;
    spawn(&kid, 1);
    dti_claim c;
    claims(1, &c);
    cr_assert_eq(rig_job(&g, job).claimed, 2);
    dti_message m = rig_to(&c, 1, DTI_END_RELEASE);
    m.unstarted = true;
    rig_send(&g, m);
    cr_assert_eq(rig_job(&g, job).claimed, 1);
    g.now += 100;
    rig_sweep(&g);
    cr_assert_eq(count(DTI_SKIPPED), 1);
}

// A retry gives its permit back and takes one for the next attempt: the count
// must not drift. (Found by the simulator.)
Test(limits, a_retry_holds_one_permit) {
    dti_keyspec two = {.h = {1, 1}, .kind = DTI_KEY_LIMIT, .over = DTI_OVER_QUEUE, .max = 2};
    dti_new kids[4];
    for (unsigned i = 0; i < 4; i++) {
        kids[i] = rig_child(&g, g.other, i);
        kids[i].keys = &two;
        kids[i].nkeys = 1;
    }
    spawn(kids, 1);
    dti_claim c[8];
    cr_assert_eq(claims(8, c), 1);
    dti_message m = rig_to(&c[0], 1, DTI_END_FAIL);
    m.retry = true;
    rig_send(&g, m);
    cr_assert_eq(claims(8, c), 1);
    cr_assert(rig_task(&g, job, c[0].ord).bits & DTI_PERMIT);
    rig_send(&g, rig_to(&c[0], 1, DTI_END_SUCCEED));
    spawn(kids + 1, 3);
    cr_assert_eq(count(DTI_READY), 2, "both permits are there");
    cr_assert_eq(count(DTI_BLOCKED), 1);
}

// A handler that spawned and waited in one message, and whose child was
// joined to another's: no mail would ever come. (Found by the simulator.)
Test(limits, a_wait_for_a_joined_child_looks_again) {
    dti_keyspec once = {.h = {1, 1}, .kind = DTI_KEY_UNIQUE, .over = DTI_OVER_JOIN, .scope = 1};
    dti_new kid = rig_child(&g, g.other, 1);
    kid.keys = &once;
    kid.nkeys = 1;
    spawn(&kid, 1);
    dti_range told = {.first = DTI_HERE, .count = 1};
    dti_message m = rig_to(&root, ++seq, DTI_END_PARK);
    m.children = &kid;
    m.nchildren = 1;
    m.told = &told;
    m.ntold = 1;
    m.mask = DTI_MAIL;
    dti_answer a = rig_send(&g, m);
    cr_assert_eq(a.njoined, 1);
    cr_assert(a.now);
    cr_assert_eq(rig_task(&g, job, 0).state, DTI_RUNNING);
}
