// The Redis script by itself: what a run beside the model does not reach.
// Versions, the run id, an operation that raises, memory that is full, bells.
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engines/redis/codec.h"
#include "engines/redis/library.h"
#include "redis_server.h"


#define KEY "{t.0}"
enum { OPS = 4 };
static redis_server at;
static dti_arena arena;
static dti_redis_answer answer;
static redisReply *reply;        // what `answer` points into
static char refused[64];         // the server's own word, where it refused the call
static const char *run_id = "run-1";
static uint32_t type;
static uint64_t shard_era;          // as the test began
static uint64_t worker, nonce;

// A call of raw operations; DTASK_EENGINE: the server refused it.
static dtask_err say(const dti_buf *header, const dti_buf *ops, size_t n, const char *name) {
    const char *argv[5 + OPS] = {"FCALL", name, "1", KEY, header->p};
    size_t lens[5 + OPS] = {5, strlen(name), 1, strlen(KEY), header->n};
    for (size_t i = 0; i < n; i++) argv[5 + i] = ops[i].p, lens[5 + i] = ops[i].n;
    if (reply) freeReplyObject(reply);
    reply = redisCommandArgv(at.c, (int)(5 + n), argv, lens);
    cr_assert(reply);
    snprintf(refused, sizeof refused, "%s", reply->type == REDIS_REPLY_ERROR ? reply->str : "");
    return *refused ? DTASK_EENGINE : dti_redis_take_answer(&arena, dti_str(reply->str, reply->len), &answer);
}

static dtask_err call_as(const char *name, dti_op *ops, size_t n) {
    dti_buf header = {0}, bytes[OPS] = {0};
    dti_redis_put_header(&header, 0, dti_strz(run_id), 0);
    for (size_t i = 0; i < n; i++) dti_redis_put_op(&bytes[i], &ops[i]);
    dtask_err err = say(&header, bytes, n, name);
    for (size_t i = 0; !err && i < n; i++) dti_redis_take_reply(&arena, &answer, &ops[i]);
    dti_buf_done(&header);
    for (size_t i = 0; i < n; i++) dti_buf_done(&bytes[i]);
    return err;
}

static void call(dti_op *ops, size_t n) { cr_assert_eq(call_as(dti_redis_function, ops, n), DTASK_OK, "%s %s", refused, dtask_err_detail()); }

static dtask_err raw(void (*put)(dti_buf *), unsigned format) {
    dti_buf header = {0}, op = {0};
    dti_redis_put_header(&header, 0, dti_strz(run_id), 0);
    header.p[1] = (char)format;
    put(&op);
    dtask_err err = say(&header, &op, 1, dti_redis_function);
    dti_buf_done(&header);
    dti_buf_done(&op);
    return err;
}

static void put_init(dti_buf *b) { dti_redis_put_init(b, 0x1122334455667788, 1); }
static void put_init_again(dti_buf *b) { dti_redis_put_init(b, 7, 1); }

// Makes an empty shard ready; `name` is its first worker.
static void begin(const char *name) {
    cr_assert_eq(raw(put_init, 1), DTASK_OK);
    dti_op era = {.kind = DTI_OP_ERA, .era = {.run_id = dti_strz(run_id)}};
    call(&era, 1);
    shard_era = era.era.era;
    dti_hello_type t = {.name = dti_strz("noop"), .version = 1, .crashes = 3};
    dti_op hello = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz(name), .lease_us = 60000000, .types = &t, .ntypes = 1}};
    call(&hello, 1);
    worker = hello.hello.worker;
    type = t.no;
}

static void open_shard(void) {
    cr_assert(redis_server_start(&at));
    begin("w");
}

static void close_shard(void) {
    if (reply) freeReplyObject(reply);
    redis_server_stop(&at);
    dti_arena_done(&arena);
}

TestSuite(redis_script, .init = open_shard, .fini = close_shard, .timeout = 60);

static dti_op start_of(const char *id) {
    return (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz(id), .retain_us = 3600000000, .grace_us = 1000000,
        .task = {.type = type, .call = {1, 2}, .args = dti_strz("\x91\x01"), .retries = 3, .crashes = 3}}};
}

static dti_op turn_of(dti_want *want, uint32_t n) {
    *want = (dti_want){type, n};
    return (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = worker, .era = shard_era, .nonce = ++nonce, .want = want, .nwant = 1, .n = n}};
}

static void keep(const char *key, char *out, size_t n) { // a digest of all that the shard holds
    redisReply *r = redis_server_say(&at, "EVAL %s 0 %s", "local k = redis.call('KEYS', '*') table.sort(k) local s = ARGV[1] "
        "for _, x in ipairs(k) do s = redis.sha1hex(s .. x .. (redis.call('DUMP', x) or '')) end return s", key);
    snprintf(out, n, "%s", r->str);
    freeReplyObject(r);
}

Test(redis_script, an_empty_shard_says_so_and_init_keeps_the_first_salt) {
    uint64_t salt = 0, era = 0;
    unsigned shards;
    cr_assert_eq(raw(put_init_again, 1), DTASK_OK);
    cr_assert_eq(dti_redis_take_init(&answer, &salt, &era, &shards), DTASK_OK);
    cr_assert_eq(salt, 0x1122334455667788);
    cr_assert_gt(era, 1u);
    freeReplyObject(redis_server_say(&at, "FLUSHALL"));
    dti_op op = start_of("lost");
    cr_assert_eq(call_as(dti_redis_function, &op, 1), DTASK_ENOTFOUND);
}

Test(redis_script, another_format_or_schema_is_refused) {
    cr_assert_eq(raw(put_init, 2), DTASK_EVERSION);
    // The first values of the shard's row: shards, the schema that can read it, its own.
    freeReplyObject(redis_server_say(&at, "SET %s %b", KEY ":meta", "\x01\x02\x02", (size_t)3));
    dti_op op = start_of("newer");
    cr_assert_eq(call_as(dti_redis_function, &op, 1), DTASK_EVERSION);
    cr_assert(strstr(dtask_err_detail(), "upgrade"));
}

Test(redis_script, a_turn_of_another_run_id_is_refused) {
    dti_want want;
    dti_op turn = turn_of(&want, 1);
    run_id = "run-2";
    call(&turn, 1);
    cr_assert_eq(turn.turn.status, DTI_TURN_ERA);
    run_id = "run-1";
    turn = turn_of(&want, 1);
    turn.turn.era = 1;
    call(&turn, 1);
    cr_assert_eq(turn.turn.status, DTI_TURN_ERA);
    turn = turn_of(&want, 1);
    call(&turn, 1);
    cr_assert_eq(turn.turn.status, DTI_TURN_OK);
}

Test(redis_script, a_worker_from_before_the_shard_was_emptied_is_refused) {
    dti_want want;
    dti_op before = turn_of(&want, 1);
    redisReply *r;
    uint64_t ms;
    do { // numbers of eras are milliseconds: let one pass
        r = redis_server_say(&at, "TIME");
        ms = strtoull(r->element[0]->str, NULL, 10) * 1000 + strtoull(r->element[1]->str, NULL, 10) / 1000;
        freeReplyObject(r);
    } while (ms <= shard_era);
    freeReplyObject(redis_server_say(&at, "FLUSHALL"));
    uint64_t had = worker;
    begin("another");
    cr_assert_eq(worker, had); // the number is given out again
    call(&before, 1);
    cr_assert_eq(before.turn.status, DTI_TURN_ERA);
    dti_op now = turn_of(&want, 1);
    call(&now, 1);
    cr_assert_eq(now.turn.status, DTI_TURN_OK);
}

Test(redis_script, an_operation_that_raises_leaves_no_trace_and_the_others_stand) {
    dti_op first = start_of("a");
    call(&first, 1);
    freeReplyObject(redis_server_say(&at, "HSET %s r %b", KEY ":j:1", "\x09\x00\x00\x02\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", (size_t)37));
    dti_op ops[OPS] = {start_of("b"), {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz("a"), .ord = 0}},
        {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz("a")}}, start_of("c")};
    call(ops, OPS);
    cr_assert_eq(ops[0].err, DTASK_OK);
    cr_assert_eq(ops[1].err, DTASK_EVERSION, "%d", (int)ops[1].err);
    cr_assert_eq(ops[2].err, DTASK_EVERSION, "%d", (int)ops[2].err);
    cr_assert_eq(ops[3].err, DTASK_OK);
    cr_assert_eq(ops[0].start.job, 2);
    cr_assert_eq(ops[3].start.job, 3); // the second run gave no number twice
    redisReply *r = redis_server_say(&at, "ZCARD %s", KEY ":jobs:0");
    cr_assert_eq(r->integer, 3); // "a" was not marked
    freeReplyObject(r);
}

Test(redis_script, with_memory_full_a_start_changes_nothing_and_an_end_passes) {
    char before[48], after[48];
    dti_want want;
    dti_op ops[2] = {start_of("a"), turn_of(&want, 1)};
    call(ops, 2);
    cr_assert_eq(ops[1].turn.nclaims, 1);
    dti_claim c = ops[1].turn.claims[0];
    dti_message end = {.job = c.job, .ord = c.ord, .token = c.token, .seq = 1, .end = DTI_END_SUCCEED};
    freeReplyObject(redis_server_say(&at, "CONFIG SET maxmemory 1"));
    keep("", before, sizeof before);
    dti_op start = start_of("b");
    cr_assert_eq(call_as(dti_redis_function, &start, 1), DTASK_EENGINE);
    cr_assert(strncmp(refused, "OOM", 3) == 0, "%s", refused);
    keep("", after, sizeof after);
    cr_assert_str_eq(before, after);
    dti_op turn = turn_of(&want, 0);
    turn.turn.messages = &end;
    turn.turn.nmessages = 1;
    cr_assert_eq(call_as(dti_redis_function_oom, &turn, 1), DTASK_OK, "%s", refused);
    cr_assert_eq(turn.turn.answers[0].status, DTI_OK);
    cr_assert_eq(turn.turn.answers[0].state, DTI_SUCCEEDED);
}

// ---- bells ----------------------------------------------------------------------------
static redisContext *listener(const char *bell) {
    redisContext *c = redisConnectUnix(at.socket);
    cr_assert(c && !c->err);
    redisReply *r = redisCommand(c, "SUBSCRIBE %s:b:%s", KEY, bell);
    cr_assert(r);
    freeReplyObject(r);
    return c;
}

static redisReply *message(redisContext *c) { // waits for a ring
    redisReply *r = NULL;
    cr_assert_eq(redisGetReply(c, (void **)&r), REDIS_OK);
    cr_assert_str_eq(r->element[0]->str, "message");
    return r;
}

static void heard(redisContext *c) { freeReplyObject(message(c)); }

// Rung for the end of a job: what it brings is what a read of that job gives.
static void heard_end(redisContext *c, uint64_t nap, const char *id, dti_state state, const char *result) {
    redisReply *r = message(c);
    dti_mp in = dti_mp_of(dti_str(r->element[2]->str, r->element[2]->len));
    dti_mpval head, number;
    cr_assert(dti_mp_next(&in, &head) && head.kind == DTI_MP_ARRAY && head.n == 2);
    cr_assert(dti_mp_next(&in, &number) && number.u == nap);
    dti_redis_answer a = {.replies = in, .nreplies = 1};
    dti_op read = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz(id), .whole = true}};
    cr_assert_eq(dti_redis_take_reply(&arena, &a, &read), DTASK_OK);
    cr_assert_eq(read.read.n, 1);
    cr_assert(dti_str_eq(read.read.jobs[0].id, dti_strz(id)));
    cr_assert_eq(read.read.jobs[0].root.row.state, state);
    cr_assert(dti_str_eq(read.read.jobs[0].root.end.data, dti_strz(result)));
    freeReplyObject(r);
}

// Nothing rang it so far: the server answers a connection's commands in order.
static void silent(redisContext *c) {
    redisReply *r = redisCommand(c, "PING");
    cr_assert(r && r->type == REDIS_REPLY_ARRAY);
    cr_assert_str_eq(r->element[0]->str, "pong");
    freeReplyObject(r);
}

static void asleep_for(const char *bell, uint64_t no, const uint32_t *types, size_t n, const char *job, bool blind) {
    dti_buf header = {0}, op = {0};
    dti_redis_put_header(&header, 0, dti_strz(run_id), 0);
    dti_redis_put_asleep(&op, dti_strz(bell), no, types, n, dti_strz(job), 2, 77, blind);
    cr_assert_eq(say(&header, &op, 1, dti_redis_function), DTASK_OK);
    cr_assert_eq(dti_redis_take_value(&answer, NULL), DTASK_OK);
    dti_buf_done(&header);
    dti_buf_done(&op);
}

static void asleep(const char *bell, uint64_t no, const char *job) { asleep_for(bell, no, &type, no ? 1 : 0, job, false); }

static uint32_t other_type(void) {
    dti_hello_type t = {.name = dti_strz("other"), .version = 1, .crashes = 3};
    dti_op hello = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("w2"), .lease_us = 60000000, .types = &t, .ntypes = 1}};
    call(&hello, 1);
    return t.no;
}

static void awake(dti_buf *b) { dti_redis_put_awake(b, dti_strz("one"), worker + 1, (dtask_str){0}); }

Test(redis_script, ready_tasks_ring_as_many_sleepers_and_skip_those_that_nobody_hears) {
    redisContext *one = listener("one"), *two = listener("two");
    asleep("one", worker, "");
    asleep("two", worker + 1, "");
    asleep("gone", worker + 2, ""); // fell asleep last, and its process died
    dti_op op = start_of("a");
    call(&op, 1);
    heard(two);
    silent(one);
    op = start_of("b");
    call(&op, 1);
    heard(one);
    op = start_of("c"); // nobody sleeps any more
    call(&op, 1);
    silent(one);
    silent(two);
    redisReply *r = redis_server_say(&at, "KEYS %s", "*bell:gone*");
    cr_assert_eq(r->elements, 0);
    freeReplyObject(r);
    redisFree(one);
    redisFree(two);
}

Test(redis_script, who_is_rung_sleeps_again_for_all_that_it_slept_for) {
    redisContext *one = listener("one");
    uint32_t served[2] = {type, other_type()};
    for (int round = 0; round < 3; round++) { // rung for the one, then for the other
        for (int i = 0; i < 2; i++) {
            asleep_for("one", worker + 1, served, 2, "", false);
            char id[16];
            snprintf(id, sizeof id, "job-%d-%d", round, i);
            dti_op op = start_of(id);
            op.start.task.type = served[(round + i) % 2];
            call(&op, 1);
            heard(one);
            silent(one);
        }
    }
    // Awake it stands in the list of the other type: who serves that is not told that somebody sleeps.
    dti_want want;
    dti_op turn = turn_of(&want, 0);
    call(&turn, 1);
    cr_assert_eq(answer.nhungry, 0);
    redisFree(one);
}

Test(redis_script, who_sleeps_for_another_type_than_before_is_not_rung_for_that) {
    redisContext *one = listener("one"), *two = listener("two");
    uint32_t other = other_type();
    asleep_for("two", worker + 2, &type, 1, "", false);
    asleep_for("one", worker + 1, &type, 1, "", false);
    asleep_for("one", worker + 1, &other, 1, "", false);
    dti_op op = start_of("a");
    call(&op, 1);
    heard(two);
    silent(one);
    redisFree(one);
    redisFree(two);
}

Test(redis_script, who_awakes_is_not_rung_and_what_a_turn_claims_itself_rings_nobody) {
    redisContext *one = listener("one");
    asleep("one", worker + 1, "");
    cr_assert_eq(raw(awake, 1), DTASK_OK);
    dti_op op = start_of("a");
    call(&op, 1);
    silent(one);
    asleep("one", worker + 1, "");
    dti_want want;
    dti_op both[2] = {start_of("b"), turn_of(&want, 2)};
    call(both, 2);
    cr_assert_eq(both[1].turn.nclaims, 2);
    silent(one);
    cr_assert_eq(answer.nhungry, 1); // and it learns that somebody waits for more
    cr_assert_eq(answer.hungry[0], type);
    redisFree(one);
}

Test(redis_script, the_end_of_a_job_rings_those_who_wait_for_it) {
    redisContext *one = listener("one"), *two = listener("two");
    dti_want want;
    dti_op both[2] = {start_of("a"), turn_of(&want, 1)};
    call(both, 2);
    asleep("one", 0, "a");
    asleep("two", 0, "b");
    dti_claim c = both[1].turn.claims[0];
    dti_message end = {.job = c.job, .ord = c.ord, .token = c.token, .seq = 1, .end = DTI_END_SUCCEED, .value = dti_strz("\xa3yes")};
    dti_op turn = turn_of(&want, 0);
    turn.turn.messages = &end;
    turn.turn.nmessages = 1;
    call(&turn, 1);
    heard_end(one, 77, "a", DTI_SUCCEEDED, "\xa3yes");
    silent(two);
    redisFree(one);
    redisFree(two);
}

Test(redis_script, who_sleeps_without_a_look_is_rung_at_once_for_what_has_ended_or_is_not_there) {
    redisContext *one = listener("one");
    dti_want want;
    dti_op both[2] = {start_of("a"), turn_of(&want, 1)};
    call(both, 2);
    asleep_for("one", 0, NULL, 0, "a", true);
    silent(one);
    dti_claim c = both[1].turn.claims[0];
    static char big[20000] = "\xda\x4e\x1d"; // more than a ring brings
    dti_message end = {.job = c.job, .ord = c.ord, .token = c.token, .seq = 1, .end = DTI_END_SUCCEED, .value = dti_str(big, sizeof big)};
    dti_op turn = turn_of(&want, 0);
    turn.turn.messages = &end;
    turn.turn.nmessages = 1;
    call(&turn, 1);
    redisReply *r = message(one);
    cr_assert_eq(r->element[2]->len, 0);
    freeReplyObject(r);
    silent(one);
    asleep_for("one", 0, NULL, 0, "a", true);
    heard(one);
    asleep_for("one", 0, NULL, 0, "never", true);
    heard(one);
    silent(one);
    both[0] = start_of("b");
    both[1] = turn_of(&want, 1);
    call(both, 2);
    c = both[1].turn.claims[0];
    end = (dti_message){.job = c.job, .ord = c.ord, .token = c.token, .seq = 1, .end = DTI_END_FAIL, .value = dti_strz("\xa2no")};
    turn = turn_of(&want, 0);
    turn.turn.messages = &end;
    turn.turn.nmessages = 1;
    call(&turn, 1);
    silent(one);
    asleep_for("one", 0, NULL, 0, "b", true);
    heard_end(one, 77, "b", DTI_FAILED, "\xa2no");
    redisFree(one);
}

Test(redis_script, the_end_of_a_child_rings_those_who_wait_for_it) {
    redisContext *one = listener("one"), *two = listener("two");
    dti_want want;
    dti_op both[2] = {start_of("a"), turn_of(&want, 1)};
    call(both, 2);
    dti_claim root = both[1].turn.claims[0];
    dti_new kid = {.type = type, .call = {3, 4}, .args = dti_strz("\x90"), .crashes = 3};
    dti_message spawn = {.job = root.job, .token = root.token, .seq = 1, .children = &kid, .nchildren = 1};
    dti_op turn = turn_of(&want, 1);
    turn.turn.messages = &spawn;
    turn.turn.nmessages = 1;
    call(&turn, 1);
    cr_assert_eq(turn.turn.nclaims, 1);
    asleep("one", 0, "a/1");
    asleep("two", 0, "a");
    dti_claim c = turn.turn.claims[0];
    dti_message end = {.job = c.job, .ord = c.ord, .token = c.token, .seq = 1, .end = DTI_END_SUCCEED};
    turn = turn_of(&want, 0);
    turn.turn.messages = &end;
    turn.turn.nmessages = 1;
    call(&turn, 1);
    heard(one);
    silent(two);
    redisFree(one);
    redisFree(two);
}
