// What every engine must do: the cases that toy builds skip, each through
// dti_engine_call, on each engine of world.h.
#include <poll.h>

#include "world.h"

#include <stdio.h>

CASE(a_job_runs_and_ends) {
    actor a = worker(w);
    uint64_t no = start(w, "job-1", (dti_new){0});
    dti_claim c = claim(w, &a);
    cr_assert_eq(task(w, no, 0).row.state, DTI_RUNNING);
    dti_answer r = say(w, &a, &c, (dti_message){.end = DTI_END_SUCCEED, .value = dti_strz("\x2a")});
    cr_assert_eq(r.status, DTI_OK);
    dti_jobview j = job(w, no);
    cr_assert_eq(j.row.state, DTI_JOB_SUCCEEDED);
    cr_assert(dti_str_eq(j.root.result, dti_strz("\x2a")));
    leave(w, &a);
}

CASE(start_is_once_by_id) {
    start(w, "same", call_of(w->a, 1));
    dti_op again = world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz("same"), .task = call_of(w->a, 1)}});
    cr_assert_eq(again.start.status, DTI_EXISTS);
    dti_op other = world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz("same"), .task = call_of(w->a, 2)}});
    cr_assert_eq(other.start.status, DTI_CONFLICT);
    dti_op unknown = world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz("u"), .task = call_of(9999, 1)}});
    cr_assert_eq(unknown.start.status, DTI_UNKNOWN);
}

CASE(a_refused_op_changes_nothing_and_leaves_its_neighbours) {
    dti_op ops[3] = {
        {.kind = DTI_OP_START, .start = {.id = dti_strz("one"), .task = call_of(w->a, 1)}},
        {.kind = DTI_OP_START, .start = {.id = dti_strz("two/words\n"), .task = call_of(w->a, 1)}},
        {.kind = DTI_OP_START, .start = {.id = dti_strz("three"), .task = call_of(w->a, 1)}},
    };
    w->e->ops->call(w->e, &w->arena, ops, 3);
    cr_assert_eq(ops[0].err, DTASK_OK);
    cr_assert_eq(ops[1].err, DTASK_EARGS);
    cr_assert(strstr(dtask_err_detail(), "job id"));
    cr_assert_eq(ops[2].err, DTASK_OK);
    if (dti_shard_of(ops[2].start.job) == dti_shard_of(ops[0].start.job)) cr_assert_eq(ops[2].start.job, ops[0].start.job + 1);
}

// Of one call, on Kafka one wait; each has what it would have alone.
CASE(starts_in_one_call_are_each_their_own) {
    enum { N = 40 };
    actor a = worker(w);
    dti_op ops[N];
    char ids[N][16];
    for (unsigned i = 0; i < N; i++) {
        snprintf(ids[i], sizeof ids[i], "one-%u", i);
        bool is_b = i % 3 == 1;
        dti_new n = call_of(is_b ? w->b : w->a, i);
        ops[i] = (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz(ids[i]), .type = dti_strz(is_b ? "b" : "a"), .task = n,
            .retain_us = 86400000000, .grace_us = 30000000}};
    }
    ops[5].start.type = dti_strz("nobody's");
    ops[5].start.task.type = 0;
    w->e->ops->call(w->e, &w->arena, ops, N);
    for (unsigned i = 0; i < N; i++) {
        cr_assert_eq(ops[i].err, DTASK_OK, "%u: %s", i, dtask_err_detail());
        cr_assert_eq(ops[i].start.status, i == 5 ? DTI_UNKNOWN : DTI_CREATED, "%u", i);
        if (i == 5) continue;
        dti_op read = world_call(w, (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = ops[i].start.id}});
        cr_assert_eq(read.read.n, 1u, "who started %u does not find it", i);
        if (!ops[i].start.job) ops[i].start.job = take_in(w, ops[i].start.id);
        dti_jobview j = job(w, ops[i].start.job);
        cr_assert(dti_str_eq(j.id, ops[i].start.id));
        cr_assert_eq(j.root.row.type, i % 3 == 1 ? w->b : w->a, "%u", i);
    }
    uint32_t claimed = 0, more;
    while ((more = claims(w, &a, N))) claimed += more;
    cr_assert_eq(claimed, N - 1u);
    leave(w, &a);
}

CASE(a_resent_turn_claims_once) {
    actor a = worker(w);
    start(w, "j1", call_of(w->a, 1));
    start(w, "j2", call_of(w->a, 2));
    dti_want want = {w->a, 1};
    dti_turn first = turn(w, &a, (dti_turn){.want = &want, .nwant = 1, .n = 1});
    cr_assert_eq(first.nclaims, 1u);
    dti_turn again = turn(w, &a, (dti_turn){.nonce = a.nonce, .want = &want, .nwant = 1, .n = 1});
    cr_assert_eq(again.nclaims, 1u);
    cr_assert_eq(again.claims[0].job, first.claims[0].job);
    cr_assert_eq(again.claims[0].token, first.claims[0].token);
    cr_assert(again.claims[0].again);
    turn(w, &a, (dti_turn){0});
    cr_assert_eq(turn(w, &a, (dti_turn){.nonce = a.nonce - 1}).status, DTI_TURN_OLD, "a late copy was taken");
    leave(w, &a);
}

CASE(a_resent_message_counts_once) {
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kids[2] = {call_of(w->b, 1), call_of(w->b, 2)};
    dti_answer one = say(w, &a, &c, (dti_message){.children = kids, .nchildren = 2});
    cr_assert_eq(one.first, 1u);
    cr_assert_eq(one.count, 2u);
    c.row.seq--;
    dti_answer two = say(w, &a, &c, (dti_message){.children = kids, .nchildren = 2});
    cr_assert_eq(two.status, DTI_ALREADY);
    cr_assert_eq(two.first, 1u);
    cr_assert_eq(job(w, no).row.next, 3u);
    c.row.seq++;
    cr_assert_eq(say(w, &a, &c, (dti_message){0}).status, DTI_GAP);
    dti_claim stale = c;
    stale.token++;
    cr_assert_eq(say(w, &a, &stale, (dti_message){.end = DTI_END_SUCCEED}).status, DTI_STALE);
    leave(w, &a);
}

CASE(a_lost_now_is_told_again) {
    actor a = worker(w);
    start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_message park = {.end = DTI_END_PARK, .mask = DTI_QUIET, .how = DTI_WARM}; // no children: it holds already
    cr_assert(say(w, &a, &c, park).now);
    c.row.seq--;
    dti_answer again = say(w, &a, &c, park);
    cr_assert_eq(again.status, DTI_ALREADY);
    cr_assert(again.now);
    cr_assert_eq(again.state, DTI_RUNNING);
    leave(w, &a);
}

CASE(a_warm_park_wakes_its_owner) {
    actor a = worker(w), b = worker(w);
    start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kid = call_of(w->b, 1);
    dti_answer r = say(w, &a, &c, (dti_message){.children = &kid, .nchildren = 1, .end = DTI_END_PARK, .mask = DTI_QUIET});
    cr_assert(!r.now);
    cr_assert_eq(r.state, DTI_PARKED);
    dti_claim k = claim(w, &b);
    end(w, &b, &k, DTI_END_SUCCEED);
    dti_turn t = turn(w, &a, (dti_turn){0});
    cr_assert_eq(t.nwakes, 1u);
    cr_assert_eq(t.wakes[0].seq, c.row.seq);
    cr_assert_eq(turn(w, &a, (dti_turn){0}).nwakes, 1u, "a wake is repeated until it is acknowledged");
    heard(&a, &t.wakes[0]);
    cr_assert_eq(turn(w, &a, (dti_turn){0}).nwakes, 0u);
    cr_assert_eq(end(w, &a, &c, DTI_END_SUCCEED).status, DTI_OK);
    leave(w, &a);
    leave(w, &b);
}

CASE(a_cold_park_runs_again_anywhere) {
    actor a = worker(w), b = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kid = call_of(w->b, 1);
    say(w, &a, &c, (dti_message){.children = &kid, .nchildren = 1, .end = DTI_END_PARK, .mask = DTI_QUIET, .how = DTI_COLD});
    cr_assert_eq(task(w, no, 0).row.owner, 0u);
    dti_claim k = claim(w, &b);
    cr_assert_eq(k.ord, 1u);
    end(w, &b, &k, DTI_END_SUCCEED);
    dti_claim again = claim(w, &b);
    cr_assert_eq(again.ord, 0u);
    cr_assert_eq(again.row.lost, 0u);
    end(w, &b, &again, DTI_END_SUCCEED);
    cr_assert_eq(job(w, no).row.state, DTI_JOB_SUCCEEDED);
    leave(w, &a);
    leave(w, &b);
}

CASE(the_last_descendant_decides) {
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kid = call_of(w->b, 1);
    say(w, &a, &c, (dti_message){.children = &kid, .nchildren = 1, .end = DTI_END_SUCCEED});
    cr_assert_eq(job(w, no).row.state, DTI_JOB_RUNNING);
    dti_claim k = claim(w, &a);
    dti_new grandkid = call_of(w->b, 2);
    say(w, &a, &k, (dti_message){.children = &grandkid, .nchildren = 1, .end = DTI_END_SUCCEED});
    cr_assert_eq(job(w, no).row.state, DTI_JOB_RUNNING);
    dti_claim g = claim(w, &a);
    end(w, &a, &g, DTI_END_SUCCEED);
    cr_assert_eq(job(w, no).row.state, DTI_JOB_SUCCEEDED);
    cr_assert_eq(job(w, no).row.count[DTI_SUCCEEDED], 3u);
    leave(w, &a);
}

// Fails child 1 of a parent; `acked`: the parent saw it.
static uint8_t job_after_a_failed_child(world *w, bool acked) {
    actor a = worker(w);
    uint64_t no = start(w, acked ? "seen" : "unseen", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kid = call_of(w->b, 1);
    say(w, &a, &c, (dti_message){.children = &kid, .nchildren = 1});
    dti_claim k = claim(w, &a);
    say(w, &a, &k, (dti_message){.end = DTI_END_FAIL, .value = dti_strz("\xa1x")});
    dti_ack ack = {.ref = 1};
    say(w, &a, &c, (dti_message){.acks = &ack, .nacks = acked, .end = DTI_END_SUCCEED});
    leave(w, &a);
    return job(w, no).row.state;
}

CASE(a_failure_that_nobody_saw_fails_the_job) {
    cr_assert_eq(job_after_a_failed_child(w, false), DTI_JOB_FAILED);
}

CASE(a_failure_that_was_acknowledged_does_not) {
    cr_assert_eq(job_after_a_failed_child(w, true), DTI_JOB_SUCCEEDED);
}

CASE(told_children_come_as_mail) {
    actor a = worker(w);
    start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kids[2] = {call_of(w->b, 1), call_of(w->b, 2)};
    dti_range told = {.first = DTI_HERE, .count = 2};
    say(w, &a, &c, (dti_message){.children = kids, .nchildren = 2, .told = &told, .ntold = 1, .end = DTI_END_PARK, .mask = DTI_MAIL});
    dti_claim k = claim(w, &a);
    say(w, &a, &k, (dti_message){.end = DTI_END_SUCCEED, .value = dti_strz("\x07")});
    dti_turn t = turn(w, &a, (dti_turn){0});
    cr_assert_eq(t.nwakes, 1u);
    cr_assert_eq(t.wakes[0].nmails, 1u);
    cr_assert_eq(t.wakes[0].mails[0].ord, k.ord);
    cr_assert(dti_str_eq(t.wakes[0].mails[0].data, dti_strz("\x07")));
    // Those that are complete already are told at once.
    dti_range both = {.first = 1, .count = 2};
    uint32_t before = t.wakes[0].logn;
    dti_answer r = say(w, &a, &c, (dti_message){.told = &both, .ntold = 1});
    cr_assert_eq(r.logn, before + 1);
    leave(w, &a);
}

CASE(a_retry_runs_again_when_due) {
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    say(w, &a, &c, (dti_message){.end = DTI_END_FAIL, .retry = true, .retry_at = dti_wall_us() + 3600000000, .value = dti_strz("\xa1x")});
    cr_assert_eq(task(w, no, 0).row.state, DTI_SCHEDULED);
    cr_assert_gt(sweep(w), dti_wall_us() + 3000000000);
    start(w, "k", call_of(w->a, 2));
    dti_claim d = claim(w, &a);
    say(w, &a, &d, (dti_message){.end = DTI_END_FAIL, .retry = true, .retry_at = dti_wall_us() - 1, .value = dti_strz("\xa1x")});
    dti_claim again = claim(w, &a);
    cr_assert_eq(again.job, d.job);
    cr_assert_eq(again.row.tries, 1u);
    leave(w, &a);
}

CASE(a_delay_is_kept) {
    actor a = worker(w);
    dti_new later = call_of(w->a, 1);
    later.due = dti_wall_us() + 50000;
    uint64_t no = start(w, "j", later);
    while (task(w, no, 0).row.state == DTI_SCHEDULED) sweep(w);
    dti_claim c = claim(w, &a);
    cr_assert_geq(c.row.begun, later.due);
    leave(w, &a);
}

CASE(what_expired_is_skipped) {
    actor a = worker(w);
    dti_new old = call_of(w->a, 1);
    old.expires = dti_wall_us() - 1;
    uint64_t no = start(w, "j", old);
    cr_assert_eq(claims(w, &a, 1), 0u);
    sweep(w);
    cr_assert_eq(task(w, no, 0).row.state, DTI_SKIPPED);
    cr_assert_eq(task(w, no, 0).row.reason, DTI_R_EXPIRED);
    leave(w, &a);
}

CASE(a_cascade_longer_than_a_step_ends_by_sweeps) {
    enum { DEPENDENTS = 1000 };
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    static dti_new kids[DEPENDENTS + 1];
    static const uint32_t dep = DTI_HERE;
    kids[0] = call_of(w->b, 0);
    for (uint32_t i = 1; i <= DEPENDENTS; i++) {
        kids[i] = call_of(w->b, i);
        kids[i].deps = &dep;
        kids[i].ndeps = 1;
    }
    say(w, &a, &c, (dti_message){.children = kids, .nchildren = DEPENDENTS + 1, .end = DTI_END_SUCCEED});
    dti_claim k = claim(w, &a);
    cr_assert_eq(k.ord, 1u);
    end(w, &a, &k, DTI_END_SUCCEED);
    cr_assert_gt(job(w, no).row.count[DTI_BLOCKED], 0u, "1,000 dependents were released in one operation");
    sweep(w);
    cr_assert_eq(job(w, no).row.count[DTI_READY], (uint32_t)DEPENDENTS);
    leave(w, &a);
}

CASE(pause_and_resume) {
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_PAUSE, .id = dti_strz("j")}});
    cr_assert_eq(op.mark.status, DTI_MARKED);
    sweep(w);
    cr_assert_eq(claims(w, &a, 1), 0u);
    world_call(w, (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_RESUME, .id = dti_strz("j")}});
    sweep(w);
    dti_claim c = claim(w, &a);
    cr_assert_eq(c.job, no);
    leave(w, &a);
}

CASE(cancel_ends_the_tree) {
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    dti_new kids[2] = {call_of(w->b, 1), call_of(w->b, 2)};
    say(w, &a, &c, (dti_message){.children = kids, .nchildren = 2});
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("j")}});
    cr_assert_eq(op.mark.status, DTI_MARKED);
    cr_assert_eq(job(w, no).row.state, DTI_JOB_CANCELLING);
    sweep(w);
    dti_turn t = turn(w, &a, (dti_turn){0});
    cr_assert_eq(t.nwakes, 1u);
    cr_assert(t.wakes[0].cancel);
    dti_answer r = say(w, &a, &c, (dti_message){.children = kids, .nchildren = 1, .end = DTI_END_CANCELLED});
    cr_assert(r.cancelling);
    sweep(w);
    cr_assert_eq(job(w, no).row.state, DTI_JOB_CANCELLED);
    cr_assert_eq(job(w, no).row.count[DTI_CANCELLED], 3u);
    op = world_call(w, (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("j")}});
    cr_assert_eq(op.mark.status, DTI_MARK_ENDED);
    leave(w, &a);
}

// Over several shards these are the client's to refuse.
CASE(a_limit_is_kept_across_jobs_and_workers) {
    if (w->e->shards > 1) return;
    actor a = worker(w), b = worker(w);
    dti_keyspec limit = {.h = {7, 7}, .kind = DTI_KEY_LIMIT, .max = 1};
    dti_new n = call_of(w->a, 1);
    n.keys = &limit;
    n.nkeys = 1;
    start(w, "j1", n);
    start(w, "j2", n);
    dti_claim c = claim(w, &a);
    cr_assert_eq(claims(w, &b, 5), 0u);
    end(w, &a, &c, DTI_END_SUCCEED);
    cr_assert_eq(claims(w, &b, 5), 1u);
    leave(w, &a);
    leave(w, &b);
}

CASE(a_unique_start_joins) {
    if (w->e->shards > 1) return;
    dti_keyspec key = {.h = {9, 9}, .kind = DTI_KEY_UNIQUE, .over = DTI_OVER_JOIN};
    dti_new n = call_of(w->a, 1);
    n.keys = &key;
    n.nkeys = 1;
    uint64_t no = start(w, "j1", n);
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz("j2"), .task = n}});
    cr_assert_eq(op.start.status, DTI_EXISTS);
    cr_assert_eq(op.start.job, no);
    cr_assert(dti_str_eq(op.start.joined, dti_strz("j1")));
}

CASE(a_post_arrives_once) {
    actor a = worker(w);
    start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    say(w, &a, &c, (dti_message){.end = DTI_END_PARK, .mask = DTI_MAIL});
    dti_op post = {.kind = DTI_OP_POST, .post = {.id = dti_strz("j"), .msgid = {1, 2}, .name = dti_strz("go"), .data = dti_strz("\x01")}};
    cr_assert_eq(world_call(w, post).post.status, DTI_POSTED);
    cr_assert_eq(world_call(w, post).post.status, DTI_DUP);
    dti_turn t = turn(w, &a, (dti_turn){0});
    cr_assert_eq(t.nwakes, 1u);
    cr_assert_eq(t.wakes[0].nmails, 1u);
    cr_assert(dti_str_eq(t.wakes[0].mails[0].name, dti_strz("go")));
    leave(w, &a);
}

CASE(pages_of_children_meet) {
    enum { KIDS = 300 };
    actor a = worker(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a);
    static dti_new kids[KIDS];
    for (uint32_t i = 0; i < KIDS; i++) kids[i] = call_of(w->b, i);
    say(w, &a, &c, (dti_message){.children = kids, .nchildren = KIDS});
    uint32_t seen = 0, from = 0;
    for (bool more = true; more;) {
        dti_read r = world_call(w, (dti_op){.kind = DTI_OP_READ,
            .read = {.what = DTI_READ_KIDS, .job = no, .ord = 0, .from = from, .limit = 70}}).read;
        for (uint32_t i = 0; i < r.n; i++) cr_assert_eq(r.tasks[i].ord, ++seen);
        more = r.more;
        from = r.next;
    }
    cr_assert_eq(seen, (uint32_t)KIDS);
    leave(w, &a);
}

// Large values: one copy in the store, whole for all who get them.
CASE(a_large_value_is_whole_everywhere) {
    enum { LARGE = 300000, KIDS = 40 };
    static char args[LARGE], results[2][LARGE];
    memset(args, 'a', LARGE);
    memcpy(args, "\x91\xc6\x00\x04\x93\xda", 6); // one argument: so many bytes
    memset(results[0], 'r', LARGE);
    memset(results[1], 's', LARGE);
    dtask_str large = dti_str(args, LARGE);
    actor a = worker(w);
    dti_new root = call_of(w->a, 1);
    root.args = large;
    uint64_t no = start(w, "j", root);
    dti_claim c = claim(w, &a);
    cr_assert(dti_str_eq(c.args, large));
    dti_new kids[KIDS];
    for (uint32_t i = 0; i < KIDS; i++) {
        kids[i] = call_of(w->b, i);
        kids[i].args = large;
    }
    dti_range told = {.first = DTI_HERE, .count = KIDS};
    say(w, &a, &c, (dti_message){.children = kids, .nchildren = KIDS, .told = &told, .ntold = 1, .end = DTI_END_PARK, .mask = DTI_QUIET});
    for (uint32_t i = 0; i < KIDS; i++) {
        dti_claim k = claim(w, &a);
        cr_assert(dti_str_eq(k.args, large));
        say(w, &a, &k, (dti_message){.end = DTI_END_SUCCEED, .value = dti_str(results[k.ord % 2], LARGE)});
    }
    cr_assert(dti_str_eq(task(w, no, KIDS).args, large));
    cr_assert(dti_str_eq(task(w, no, KIDS).result, dti_str(results[0], LARGE)));
    dti_turn t = turn(w, &a, (dti_turn){0});
    cr_assert_eq(t.nwakes, 1u);
    cr_assert_eq(t.wakes[0].nmails, (uint32_t)KIDS);
    for (uint32_t i = 0; i < KIDS; i++)
        cr_assert(dti_str_eq(t.wakes[0].mails[i].data, dti_str(results[t.wakes[0].mails[i].ord % 2], LARGE)));
    heard(&a, &t.wakes[0]);
    say(w, &a, &c, (dti_message){.end = DTI_END_SUCCEED, .value = large});
    cr_assert(dti_str_eq(job(w, no).root.result, large));
    dti_op purge = world_call(w, (dti_op){.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_PURGE, .id = dti_strz("j")}});
    cr_assert_eq(purge.mark.status, DTI_MARKED);
    sweep(w);
    cr_assert_eq(world_call(w, (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .job = no}}).read.n, 0u);
    // The same values again, in a job that came after.
    root.args = large;
    uint64_t again = start(w, "j", root);
    cr_assert(dti_str_eq(task(w, again, 0).args, large));
    leave(w, &a);
}

// ---- bells and deaths ---------------------------------------------------------------

CASE(work_rings_whoever_sleeps_for_it) {
    actor a = worker(w), b = worker(w);
    asleep(w, &a, &w->a, 1);
    asleep(w, &b, &w->b, 1);
    cr_assert(!called(w, &a));
    cr_assert(hungry(w, &b, w->a));
    cr_assert(!hungry(w, &a, w->a), "one is not hungry for itself");
    start(w, "j", (dti_new){0});
    cr_assert(called(w, &a));
    cr_assert(!called(w, &b), "who sleeps for another type is left asleep");
    awake(w, &a);
    cr_assert(!called(w, &a));
    cr_assert(!hungry(w, &b, w->a));
    leave(w, &a);
    leave(w, &b);
}

CASE(a_wake_rings_its_worker_and_an_end_its_waiter) {
    actor a = worker(w), b = worker(w);
    const dti_engine_ops *ops = w->e->ops;
    dti_bell *client;
    cr_assert_eq(ops->bell_open(w->e, 0, &client), DTASK_OK);
    uint64_t no = start(w, "j", (dti_new){0});
    (void)no;
    dti_claim c = claim(w, &a);
    dti_new kid = call_of(w->b, 1);
    say(w, &a, &c, (dti_message){.children = &kid, .nchildren = 1, .end = DTI_END_PARK, .mask = DTI_QUIET});
    dti_claim k = claim(w, &b);
    ops->bell_asleep(client, NULL, 0, &(dti_awaited){dti_id_hash(dti_strz("j")), dti_strz("j")});
    asleep(w, &a, NULL, 0);
    end(w, &b, &k, DTI_END_SUCCEED);
    cr_assert(called(w, &a));
    cr_assert(!rung(w, client));
    awake(w, &a);
    end(w, &a, &c, DTI_END_SUCCEED);
    cr_assert(rung(w, client));
    ring(w, &a);
    cr_assert(called(w, &a));
    ops->bell_close(client);
    leave(w, &a);
    leave(w, &b);
}

// An engine's thread that is about to sleep as a bell is opened must not sleep
// over it. A call that was just answered leaves it on the way to sleep; the
// spins strike each point of that way.
CASE(bells_are_opened_beside_calls) {
    start(w, "j", (dti_new){0});
    for (int i = 0; i < 2000; i++) {
        dti_bell *bell;
        world_call(w, (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz("j")}});
        for (volatile int spin = i % 200 * 20; spin > 0; spin--) {
        }
        cr_assert_eq(w->e->ops->bell_open(w->e, 0, &bell), DTASK_OK, "%s", dtask_err_detail());
        w->e->ops->bell_close(bell);
        dti_arena_reset(&w->arena);
    }
}

CASE(the_end_of_a_task_rings_who_waits_for_it) {
    enum { KIDS = DTI_ENDED_MAX + 6 };
    actor a = worker(w);
    const dti_engine_ops *ops = w->e->ops;
    dti_bell *client;
    cr_assert_eq(ops->bell_open(w->e, 0, &client), DTASK_OK);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_claim c = claim(w, &a), kids[KIDS];
    dti_new made[KIDS];
    for (uint64_t i = 0; i < KIDS; i++) made[i] = call_of(w->b, i);
    say(w, &a, &c, (dti_message){.children = made, .nchildren = KIDS, .end = DTI_END_PARK, .mask = DTI_QUIET});
    for (int i = 0; i < KIDS; i++) kids[i] = claim(w, &a);
    char id[16];
    snprintf(id, sizeof id, "j/%u", kids[1].ord);
    dti_awaited awaited = {dti_task_hash(no, kids[1].ord), dti_strz(id)};
    ops->bell_asleep(client, NULL, 0, &awaited);
    end(w, &a, &kids[0], DTI_END_SUCCEED);
    cr_assert(!rung(w, client), "another task ended");
    end(w, &a, &kids[1], DTI_END_SUCCEED);
    cr_assert(rung(w, client));
    ops->bell_awake(client);
    snprintf(id, sizeof id, "j/%u", kids[KIDS - 1].ord);
    awaited = (dti_awaited){dti_task_hash(no, kids[KIDS - 1].ord), dti_strz(id)}; // the last of more than are named
    ops->bell_asleep(client, NULL, 0, &awaited);
    dti_message m[KIDS - 2];
    for (int i = 2; i < KIDS; i++)
        m[i - 2] = (dti_message){.job = no, .ord = kids[i].ord, .token = kids[i].token, .seq = 1, .end = DTI_END_SUCCEED};
    turn(w, &a, (dti_turn){.messages = m, .nmessages = KIDS - 2});
    cr_assert(rung(w, client));
    ops->bell_close(client);
    leave(w, &a);
}

CASE(a_worker_that_is_gone_gives_back_what_it_held) {
    actor a = worker(w), b = worker(w);
    uint64_t one = start(w, "j1", call_of(w->a, 1)), two = start(w, "j2", call_of(w->a, 2));
    cr_assert_eq(claims(w, &a, 2), 2u);
    die(w, &a);
    cr_assert_eq(turn(w, &a, (dti_turn){0}).status, DTI_TURN_DEAD);
    cr_assert_eq(task(w, one, 0).row.state, DTI_READY);
    cr_assert_eq(task(w, two, 0).row.state, DTI_READY);
    uint32_t got = claims(w, &b, 2);
    cr_assert_eq(w->e->sees_deaths ? got : got + claims(w, &b, 2), 2u, "elsewhere all are charged, and run alone");
    leave(w, &b);
}

CASE(what_was_lost_runs_alone) {
    actor a = worker(w), b = worker(w);
    uint64_t one = start(w, "j1", call_of(w->a, 1));
    dti_claim c = claim(w, &a);
    lapse(w, &a, (dti_charge){c.job, c.ord});
    sweep(w);
    cr_assert_eq(task(w, one, 0).row.lost, 1u);
    dti_want want = {w->a, 4};
    cr_assert_eq(turn(w, &b, (dti_turn){.want = &want, .nwant = 1, .n = 4, .empty = false}).nclaims, 0u);
    cr_assert_eq(turn(w, &b, (dti_turn){.want = &want, .nwant = 1, .n = 4, .empty = true}).nclaims, 1u);
    leave(w, &b);
}

CASE(another_era_is_refused) {
    actor a = worker(w);
    cr_assert_eq(turn(w, &a, (dti_turn){.era = w->era[0] + 7}).status, DTI_TURN_ERA);
    leave(w, &a);
}

CASE(a_signature_that_differs_is_refused) {
    dti_hello_type t = {.name = dti_strz("sig"), .version = 1, .crashes = 3, .signature = dti_strz("n:i -> i")};
    world_call(w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("w1"), .types = &t, .ntypes = 1}});
    t = (dti_hello_type){.name = dti_strz("sig"), .version = 1, .crashes = 3, .signature = dti_strz("n:s -> i")};
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("w2"), .types = &t, .ntypes = 1}});
    cr_assert(t.refused);
    cr_assert(dti_str_eq(t.registered, dti_strz("n:i -> i")));
    (void)op;
}

CASE(handles_share_one_store) {
    dti_engine *other = world_again(w);
    uint64_t no = start(w, "j", (dti_new){0});
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz("j")}};
    cr_assert_eq(dti_engine_call(other, &w->arena, &op), DTASK_OK);
    cr_assert_eq(op.read.n, 1u);
    cr_assert_eq(op.read.jobs[0].no, no);
    cr_assert_eq(other->salt, w->e->salt);
    other->ops->close(other);
}

// Two new jobs of one task are always there, of the same type: the old job's
// tasks have a third of the claims.
CASE(a_job_of_many_tasks_has_its_share_beside_a_stream_of_new_jobs) {
    enum { KIDS = 60, TURNS = 60 };
    if (w->e->shards > 1) return; // fair within each shard
    actor a = worker(w);
    uint64_t big = start(w, "big", (dti_new){0});
    dti_claim root = claim(w, &a);
    dti_new kids[KIDS];
    for (unsigned i = 0; i < KIDS; i++) kids[i] = call_of(w->a, 100 + i);
    say(w, &a, &root, (dti_message){.children = kids, .nchildren = KIDS, .end = DTI_END_SUCCEED});
    unsigned small = 0, there = 0, served = 0, since = 0;
    for (unsigned i = 0; i < TURNS; i++) {
        for (; there < 2; there++) {
            char id[24];
            snprintf(id, sizeof id, "s%u", small++);
            start(w, id, call_of(w->a, 1000 + small));
        }
        dti_claim c = claim(w, &a);
        end(w, &a, &c, DTI_END_SUCCEED);
        if (c.job != big) {
            there--;
            cr_assert_leq(++since, 2 * DTI_QUANTUM + 2u, "the job of many tasks stands still");
        } else {
            served++;
            since = 0;
        }
    }
    cr_assert_geq(served, (TURNS - 2 * DTI_QUANTUM) / 3u, "%u of %d claims", served, TURNS);
    cr_assert_leq(served, (TURNS + 2 * DTI_QUANTUM) / 3u + DTI_QUANTUM, "%u of %d claims", served, TURNS);
    leave(w, &a);
}

// What a worker took in and another one has claimed is not there any more,
// though it is never told so while other tasks fill its turns.
CASE(a_start_is_taken_in_beside_a_job_of_many_tasks_of_another_type) {
    enum { KIDS = 1000 };
    if (!w->taker.e) return; // starts lie nowhere else
    const dti_engine_ops *ops = w->taker.e->ops;
    actor a = worker(w);
    start(w, "first", (dti_new){0});
    cr_assert_eq(claim(w, &a).row.type, w->a);
    start(w, "big", call_of(w->b, 1));
    dti_claim root = claim(w, &a);
    dti_new kids[KIDS];
    for (unsigned i = 0; i < KIDS; i++) kids[i] = call_of(w->b, 100 + i);
    say(w, &a, &root, (dti_message){.children = kids, .nchildren = KIDS, .end = DTI_END_SUCCEED});
    ops->bell_awake(w->taker.bell);
    world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz("next"), .type = dti_strz("a"), .task = call_of(w->a, 2),
        .retain_us = 86400000000, .grace_us = 30000000}});
    poll(&(struct pollfd){.fd = ops->bell_fd(w->taker.bell), .events = POLLIN}, 1, -1); // its record has come
    dti_want want[] = {{w->a, 1}, {w->b, 1}};
    unsigned others = 0;
    for (bool there = false; !there; others += !there) {
        dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = w->taker.no, .era = w->era[0], .nonce = ++w->taker.nonce, .want = want, .nwant = 2, .n = 1}};
        cr_assert_eq(dti_engine_call(w->taker.e, &w->arena, &op), DTASK_OK, "%s", dtask_err_detail());
        cr_assert_eq(op.turn.nclaims, 1u);
        there = op.turn.claims[0].row.type == w->a;
        cr_assert_lt(others, KIDS - 1, "it lies in Kafka until the other job is done");
    }
    leave(w, &a);
}
