// The script beside the model: a redis-server of its own on a unix socket in
// a temporary folder; each operation is sent ahead and compared afterwards.
//
// SIM_KAFKA: starts come as from Kafka's log, each with the log's position (a
// conflict excepted, whose job has another id then); some records come twice,
// or with a gap before them, and must leave no trace.
#include "beside.h"

#include <stdlib.h>
#include <string.h>

#include "beside_rows.h"
#include "engines/memory_store.h"
#include "engines/redis/codec.h"
#include "engines/redis/library.h"
#include "redis_server.h"
#include "sim.h"

static const char KEY[] = "{sim.0}";
enum { SMALL_SEEDS = 40, EVERY = 64 }; // rows are compared after each step of the first seeds, then after each 64th

static struct {
    redis_server server;
    dti_buf head, op, dump;
    dti_arena arena;
    uint64_t seeds;
    bool takes;                  // what was sent is a record, from `next` - 1 to `next`
    uint64_t next, older;        // the log's position; as of the snapshot
} at;

void beside_redis_open(void) {
    if (!redis_server_start(&at.server)) exit(1);
}

void beside_redis_close(void) {
    redis_server_stop(&at.server);
    dti_buf *bufs[] = {&at.head, &at.op, &at.dump};
    for (int i = 0; i < 3; i++) dti_buf_done(bufs[i]);
    dti_arena_done(&at.arena);
}

// ---- calls --------------------------------------------------------------------------------
static void header(dti_buf *b, const sim *s) {
    b->n = 0;
    dti_mp_put_array(b, 5);
    dti_mp_put_uint(b, DTI_REDIS_FORMAT);
    dti_mp_put_int(b, s->wall);
    dti_mp_put_str(b, dti_strz(s->m.meta.run_id));
    dti_mp_put_uint(b, DTI_REDIS_WANT_FX);
    dti_mp_put_uint(b, s->cascade);
}

static void send(const dti_buf *head, const dti_buf *op) {
    const char *argv[] = {"FCALL", dti_redis_function, "1", KEY, head->p, op->p};
    size_t lens[] = {5, strlen(dti_redis_function), 1, sizeof KEY - 1, head->n, op->n};
    if (redisAppendCommandArgv(at.server.c, 6, argv, lens)) abort(); // no memory
}

static redisReply *receive(sim *s, dti_redis_answer *a, const char *what) {
    redisReply *r;
    if (redisGetReply(at.server.c, (void **)&r)) sim_violation(s, "REDIS_GONE", "%s: %s", what, at.server.c->errstr);
    if (r->type != REDIS_REPLY_STRING) sim_violation(s, "REDIS_SCRIPT", "%s: %s", what, r->str ? r->str : "no answer");
    dtask_err err = dti_redis_take_answer(&at.arena, dti_str(r->str, r->len), a);
    if (err) sim_violation(s, "REDIS_ANSWER", "%s: %d: %s", what, (int)err, dtask_err_detail());
    return r;
}

static void begin(sim *s) {
    at.seeds++;
    at.next = 0;
    freeReplyObject(redis_server_say(&at.server, "FLUSHALL"));
    dti_arena_reset(&at.arena);
    header(&at.head, s);
    at.op.n = 0;
    dti_redis_put_init(&at.op, 1, 1);
    send(&at.head, &at.op);
    dti_redis_answer a;
    redisReply *r = receive(s, &a, "init");
    uint64_t salt, era;
    unsigned shards;
    if (dti_redis_take_init(&a, &salt, &era, &shards) || salt != 1 || era != 1) sim_violation(s, "REDIS_REPLY", "init: %s", dtask_err_detail());
    freeReplyObject(r);
}

static bool dumps(const sim *s) {
    return at.seeds <= SMALL_SEEDS || s->step % EVERY == 0 || s->beside_dumps;
}

static dti_op record(const dti_op *start, uint64_t from, uint64_t next) {
    return (dti_op){.kind = DTI_OP_INTAKE, .intake = {.source = dti_strz("sim/0"), .from = from, .next = next, .start = start->start}};
}

static bool is_record(sim *s, const dti_op *op) {
#ifdef SIM_KAFKA
    if (op->kind != DTI_OP_START || mirror_job_of(&s->m, op->start.id)) return false;
    for (uint32_t i = 0; i < op->start.task.nkeys; i++)
        if (op->start.task.keys[i].kind == DTI_KEY_UNIQUE) return false;
    return true;
#else
    (void)s, (void)op;
    return false;
#endif
}

static void run(sim *s, const dti_op *op) {
    dti_arena_reset(&at.arena);
    header(&at.head, s);
    at.op.n = 0;
    dti_op taken;
    if ((at.takes = is_record(s, op))) taken = record(op, at.next, at.next + 1), at.next++, op = &taken;
    dti_redis_put_op(&at.op, op);
    send(&at.head, &at.op);
    if (!dumps(s)) return;
    at.dump.n = 0;
    dti_mp_put_array(&at.dump, 1);
    dti_mp_put_uint(&at.dump, DTI_REDIS_OP_DUMP);
    send(&at.head, &at.dump);
}

// ---- comparing -------------------------------------------------------------------------------
static void same_rows(sim *s, dtask_str dump) {
    dti_store *other = dti_memory_store_new();
    char what[200];
    const char *wrong = beside_rows(dump, other, s->store.in);
    bool same = !wrong && dti_memory_store_hash(other) == dti_memory_store_hash(s->store.in);
    if (!same && !wrong && !beside_differs(other, s->store.in, what, sizeof what)) snprintf(what, sizeof what, "the hashes differ, and no row does");
    dti_memory_store_free(other);
    if (wrong) sim_violation(s, "REDIS_ROWS", "a row of %s is malformed", wrong);
    if (!same) sim_violation(s, "REDIS_ROWS", "%s", what);
}

// What no worker of a seed reads is read here.
static dti_read probe(sim *s, dti_read q) {
    dti_op op = {.kind = DTI_OP_READ, .read = q}, other = op;
    dti_tx tx = {.store = s->store.in, .arena = &at.arena, .now = s->wall};
    dti_redis_answer a;
    dti_model_run(&tx, &op);
    header(&at.head, s);
    at.op.n = 0;
    dti_redis_put_op(&at.op, &other);
    send(&at.head, &at.op);
    redisReply *r = receive(s, &a, "a read");
    if (dti_redis_take_reply(&at.arena, &a, &other)) sim_violation(s, "REDIS_REPLY", "read %d: %s", (int)q.what, dtask_err_detail());
    beside_same_read(s, &other.read, &op.read);
    freeReplyObject(r);
    return op.read;
}

static void probe_all(sim *s) {
    probe(s, (dti_read){.what = DTI_READ_TYPES, .from = (uint32_t)(s->step % 3), .limit = 3});
    probe(s, (dti_read){.what = DTI_READ_TYPE, .id = dti_strz("t1"), .version = (uint32_t)(s->step % 3)});
    probe(s, (dti_read){.what = DTI_READ_WORKERS, .from = (uint32_t)(s->step % 4), .limit = 2});
    dti_read all = probe(s, (dti_read){.what = DTI_READ_JOBS, .state = (int)(s->step % 6) - 1, .limit = 3, .before = s->step % 5 * 2});
    for (uint32_t i = 0; i < all.n; i++) {
        const dti_jobview *j = &all.jobs[i];
        uint32_t ord = (uint32_t)(s->step % j->row.next);
        probe(s, (dti_read){.what = DTI_READ_JOB, .id = j->id});
        probe(s, (dti_read){.what = DTI_READ_TASK, .id = j->id, .ord = ord});
        probe(s, (dti_read){.what = DTI_READ_LOG, .id = j->id, .ord = ord, .limit = 3});
        probe(s, (dti_read){.what = DTI_READ_LOG, .id = j->id, .ord = DTI_EMITS, .limit = 3});
        probe(s, (dti_read){.what = DTI_READ_KIDS, .job = j->no, .ord = ord, .limit = 2, .whole = s->step % 2, .from = ord});
    }
}

// What a record that is taken in once has come to; a second time, or out of its place, it comes to nothing.
static void same_taken(sim *s, const dti_op *op, const dti_op *taken) {
    if (taken->intake.status != DTI_TAKEN || taken->intake.at != at.next)
        sim_violation(s, "INTAKE", "status %d at %llu, not %llu", (int)taken->intake.status, (unsigned long long)taken->intake.at, (unsigned long long)at.next);
    if (op->start.status != DTI_CREATED) sim_violation(s, "INTAKE", "the model's status is %d", (int)op->start.status);
    if (s->step % 4) return;
    bool gap = s->step % 8;
    dti_op again = record(op, at.next + gap - 1, at.next + gap);
    if (gap) again.intake.from++, again.intake.next++;
    dti_redis_answer a;
    header(&at.head, s);
    at.op.n = 0;
    dti_redis_put_op(&at.op, &again);
    send(&at.head, &at.op);
    redisReply *r = receive(s, &a, "a record again");
    dti_effects none = {0};
    if (dti_redis_take_reply(&at.arena, &a, &again) || again.intake.status != (gap ? DTI_TAKEN_NOT : DTI_TAKEN_BEFORE) || again.intake.at != at.next)
        sim_violation(s, "INTAKE", "again: error %d, status %d at %llu", (int)again.err, (int)again.intake.status, (unsigned long long)again.intake.at);
    none.todo = a.fx.todo;       // of before
    beside_same_effects(s, &a.fx, &none);
    freeReplyObject(r);
}

static void compare(sim *s, const dti_op *op, const dti_effects *fx) {
    dti_redis_answer a;
    char what[32];
    snprintf(what, sizeof what, "operation %d", (int)op->kind);
    redisReply *r = receive(s, &a, what), *rows = NULL;
    if (dumps(s) && redisGetReply(at.server.c, (void **)&rows)) sim_violation(s, "REDIS_GONE", "dump: %s", at.server.c->errstr);
    dti_op other = at.takes ? record(op, at.next - 1, at.next) : *op;
    if (op->kind == DTI_OP_HELLO) {
        other.hello.types = dti_alloc0(&at.arena, op->hello.ntypes * sizeof *other.hello.types);
        if (!other.hello.types) abort();
    }
    dti_redis_take_reply(&at.arena, &a, &other);
    if (other.err != op->err) sim_violation(s, "REDIS_REPLY", "operation %d: redis %d (%s), the model %d", (int)op->kind, (int)other.err, other.err ? dtask_err_detail() : "", (int)op->err);
    if (!op->err && !at.takes) beside_same_outs(s, &other, op);
    if (op->err && at.takes) at.next--;
    if (op->kind != DTI_OP_READ) beside_same_effects(s, &a.fx, fx);
    freeReplyObject(r);
    if (at.takes && !op->err) same_taken(s, op, &other);
    if (!rows) return;
    if (rows->type != REDIS_REPLY_STRING) sim_violation(s, "REDIS_SCRIPT", "dump: %s", rows->str);
    dtask_str dump;
    dtask_err err = dti_redis_take_answer(&at.arena, dti_str(rows->str, rows->len), &a);
    if (!err) err = dti_redis_take_value(&a, &dump);
    if (err) sim_violation(s, "REDIS_ANSWER", "dump: %s", dtask_err_detail());
    same_rows(s, dump);
    freeReplyObject(rows);
    probe_all(s);
}

// ---- an older state: a copy of all keys in database 1 ------------------------------------------
static void snapshot(sim *s) {
    (void)s;
    at.older = at.next;
    freeReplyObject(redis_server_say(&at.server, "SELECT 1"));
    freeReplyObject(redis_server_say(&at.server, "FLUSHDB"));
    freeReplyObject(redis_server_say(&at.server, "SELECT 0"));
    freeReplyObject(redis_server_say(&at.server, "EVAL %s 0", "for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', k, k, 'DB', 1) end"));
}

static void restore(sim *s) {
    (void)s;
    at.next = at.older;
    freeReplyObject(redis_server_say(&at.server, "FLUSHDB"));
    freeReplyObject(redis_server_say(&at.server, "SWAPDB 0 1"));
}

const sim_beside beside_redis = {begin, run, compare, snapshot, restore};
