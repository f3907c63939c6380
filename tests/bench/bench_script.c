// The Redis script alone, on a server of its own: how many no-op life cycles
// a second it carries, what one costs the server, and how much memory a
// waiting task takes. Prints one JSON object a line.
//
//   bench_script [rounds] [tasks]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines/redis/codec.h"
#include "engines/redis/library.h"
#include "redis_server.h"

enum { STARTS = 64, FLIGHTS = 4, BATCH = 128, SPAWN = 2000, ROUNDS_MAX = 99 };
static const char KEY[] = "{bench.0}";

typedef struct {
    redis_server at;
    dti_arena arena;
    dti_buf header, op[STARTS];
    uint64_t worker, nonce, era;
    uint32_t type;
    dti_message *out; uint32_t nout; // outcomes for the next turn
} bench;

static void must(dtask_err err) {
    if (!err) return;
    fprintf(stderr, "%s: %s\n", dtask_err_name(err), dtask_err_detail());
    exit(1);
}

static void send(bench *b, const dti_op *ops, uint32_t n) {
    const char *argv[5 + STARTS] = {"FCALL", dti_redis_function, "1", KEY, b->header.p};
    size_t lens[5 + STARTS] = {5, strlen(dti_redis_function), 1, sizeof KEY - 1, b->header.n};
    for (uint32_t i = 0; i < n; i++) {
        b->op[i].n = 0;
        dti_redis_put_op(&b->op[i], &ops[i]);
        argv[5 + i] = b->op[i].p;
        lens[5 + i] = b->op[i].n;
    }
    redisAppendCommandArgv(b->at.c, (int)(5 + n), argv, lens);
}

// The answer to a call of n operations; the reply's bytes must outlive what is read of them.
static redisReply *receive(bench *b, dti_op *ops, uint32_t n) {
    redisReply *r = NULL;
    dti_redis_answer a;
    if (redisGetReply(b->at.c, (void **)&r) || r->type != REDIS_REPLY_STRING) {
        fprintf(stderr, "the script failed: %s\n", r ? r->str : b->at.c->errstr);
        exit(1);
    }
    must(dti_redis_take_answer(&b->arena, dti_str(r->str, r->len), &a));
    for (uint32_t i = 0; i < n; i++) must(dti_redis_take_reply(&b->arena, &a, &ops[i]));
    return r;
}

static void call(bench *b, dti_op *op) {
    send(b, op, 1);
    freeReplyObject(receive(b, op, 1));
}

static void begin(bench *b) {
    freeReplyObject(redis_server_say(&b->at, "FLUSHALL"));
    b->header.n = b->nout = 0;
    dti_redis_put_header(&b->header, 0, dti_strz("run"), 0);
    b->op[0].n = 0;
    dti_redis_put_init(&b->op[0], 1, 1);
    const char *argv[] = {"FCALL", dti_redis_function, "1", KEY, b->header.p, b->op[0].p};
    size_t lens[] = {5, strlen(dti_redis_function), 1, sizeof KEY - 1, b->header.n, b->op[0].n};
    freeReplyObject(redisCommandArgv(b->at.c, 6, argv, lens));
    dti_op era = {.kind = DTI_OP_ERA, .era = {.run_id = dti_strz("run")}};
    call(b, &era);
    b->era = era.era.era;
    dti_hello_type t = {.name = dti_strz("noop"), .version = 1, .crashes = 3};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz("bench"), .lease_us = 15000000, .types = &t, .ntypes = 1}};
    call(b, &op);
    b->worker = op.hello.worker;
    b->type = t.no;
}

static void start_jobs(bench *b, size_t n) {
    static dti_op ops[FLIGHTS][STARTS];
    static char ids[STARTS][32];
    size_t sent = 0, got = 0, calls = n / STARTS;
    while (got < calls) {
        for (; sent < calls && sent - got < FLIGHTS; sent++) {
            dti_op *o = ops[sent % FLIGHTS];
            for (size_t i = 0; i < STARTS; i++) {
                snprintf(ids[i], sizeof ids[i], "job-%zu", sent * STARTS + i);
                o[i] = (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz(ids[i]), .retain_us = 86400000000, .grace_us = 30000000,
                    .task = {.type = b->type, .call = {i, sent}, .args = dti_strz("\x91\x01"), .retries = 3, .crashes = 3}}};
            }
            send(b, o, STARTS);
        }
        freeReplyObject(receive(b, ops[got++ % FLIGHTS], STARTS));
        dti_arena_reset(&b->arena);
    }
}

// Turns: what was claimed is ended in the next one. Stops when nothing comes.
static void drain(bench *b) {
    static dti_message messages[BATCH];
    do {
        dti_want want = {b->type, BATCH};
        dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = b->worker, .era = b->era, .nonce = ++b->nonce, .messages = messages, .nmessages = b->nout,
            .want = &want, .nwant = 1, .n = BATCH, .empty = true}};
        call(b, &op);
        b->nout = op.turn.nclaims;
        for (uint32_t i = 0; i < b->nout; i++) {
            const dti_claim *c = &op.turn.claims[i];
            messages[i] = (dti_message){.job = c->job, .ord = c->ord, .token = c->token, .seq = 1, .end = DTI_END_SUCCEED};
        }
        dti_arena_reset(&b->arena);
    } while (b->nout);
}

// A root that makes n children and waits for them or ends.
static void fan_out(bench *b, size_t n, dti_endkind end) {
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("wide"), .retain_us = 86400000000,
        .task = {.type = b->type, .args = dti_strz("\x91\x01"), .retries = 3, .crashes = 3}}};
    call(b, &op);
    dti_want want = {b->type, 1};
    op = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = b->worker, .era = b->era, .nonce = ++b->nonce, .want = &want, .nwant = 1, .n = 1}};
    call(b, &op);
    dti_claim root = op.turn.claims[0];
    static dti_new kids[SPAWN];
    uint32_t seq = 0;
    for (size_t at = 0; at < n; at += SPAWN) {
        uint32_t count = (uint32_t)(n - at < SPAWN ? n - at : SPAWN);
        for (uint32_t i = 0; i < count; i++)
            kids[i] = (dti_new){.type = b->type, .call = {(at + i) * 0x9e3779b97f4a7c15u, at + i + 1}, .args = dti_strz("\x91\x01"), .retries = 3, .crashes = 3};
        dti_message m = {.job = root.job, .ord = 0, .token = root.token, .seq = ++seq, .children = kids, .nchildren = count,
            .end = at + count == n ? end : DTI_END_NONE, .mask = DTI_QUIET};
        op = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = b->worker, .era = b->era, .nonce = ++b->nonce, .messages = &m, .nmessages = 1}};
        call(b, &op);
        dti_arena_reset(&b->arena);
    }
}

// ---- what the server says of itself ---------------------------------------------------
static double info(bench *b, const char *section, const char *field) {
    redisReply *r = redis_server_say(&b->at, "INFO %s", section);
    const char *p = strstr(r->str, field);
    double v = p ? atof(p + strlen(field)) : 0;
    freeReplyObject(r);
    return v;
}

// CPU of the server since it started: a machine that does other things too does not show in it.
static double cpu_us(bench *b) { return (info(b, "cpu", "used_cpu_user:") + info(b, "cpu", "used_cpu_sys:")) * 1e6; }

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static void print(const char *name, const char *unit, double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    printf("{\"name\": \"redis script: %s\", \"value\": %.2f, \"unit\": \"%s\", \"median\": %.2f, \"min\": %.2f, \"max\": %.2f}\n", name, v[n / 2],
        unit, v[n / 2], v[0], v[n - 1]);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 3;
    size_t tasks = argc > 2 ? strtoul(argv[2], NULL, 10) : 64000;
    if (rounds < 1 || rounds > ROUNDS_MAX || tasks < 1000) return fprintf(stderr, "usage: bench_script [rounds 1..99] [tasks >= 1000]\n"), 2;
    static bench b;
    if (!redis_server_start(&b.at)) return 1;
    enum { KINDS = 9 };
    static const struct { const char *name, *unit; } kinds[KINDS] = {{"job life cycles", "1/s"}, {"server CPU of a start", "us"},
        {"server CPU of a claim and an end", "us"}, {"memory of a waiting job", "B"}, {"memory of an ended job", "B"},
        {"1,000 children and their join", "ms"}, {"children's life cycles", "1/s"}, {"server CPU of a child's life cycle", "us"},
        {"memory of a waiting child", "B"}};
    static double v[KINDS][ROUNDS_MAX];
    for (int r = 0; r < rounds; r++) {
        begin(&b);
        size_t jobs = tasks / STARTS * STARTS;
        double empty = info(&b, "memory", "used_memory:");
        double cpu = cpu_us(&b);
        int64_t since = dti_mono_us();
        start_jobs(&b, jobs);
        v[1][r] = (cpu_us(&b) - cpu) / (double)jobs;
        v[3][r] = (info(&b, "memory", "used_memory:") - empty) / (double)jobs;
        cpu = cpu_us(&b);
        drain(&b);
        v[0][r] = (double)jobs * 1e6 / (double)(dti_mono_us() - since);
        v[2][r] = (cpu_us(&b) - cpu) / (double)jobs;
        v[4][r] = (info(&b, "memory", "used_memory:") - empty) / (double)jobs;
        begin(&b);
        since = dti_mono_us();
        fan_out(&b, 1000, DTI_END_PARK);
        drain(&b);
        v[5][r] = (double)(dti_mono_us() - since) / 1000;
        begin(&b);
        empty = info(&b, "memory", "used_memory:");
        cpu = cpu_us(&b);
        since = dti_mono_us();
        fan_out(&b, tasks, DTI_END_SUCCEED);
        v[8][r] = (info(&b, "memory", "used_memory:") - empty) / (double)tasks;
        drain(&b);
        v[6][r] = (double)tasks * 1e6 / (double)(dti_mono_us() - since);
        v[7][r] = (cpu_us(&b) - cpu) / (double)tasks;
    }
    for (int i = 0; i < KINDS; i++) print(kinds[i].name, kinds[i].unit, v[i], rounds);
    redis_server_stop(&b.at);
    return 0;
}
