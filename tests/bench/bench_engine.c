// Engines alone, without workers and handlers: how many no-op lifecycles a
// second their turns carry. Prints one JSON object a line.
//
//   bench_engine [rounds] [tasks]
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engines/engine.h"

enum { BATCH = 128, SPAWN = 2000, ROUNDS_MAX = 99 };

typedef struct {
    dti_engine *e;
    dti_arena arena;
    uint64_t worker, nonce;
    uint32_t type;
    char dir[64], url[96];
} bench;

static void must(dtask_err err) {
    if (!err) return;
    fprintf(stderr, "%s: %s\n", dtask_err_name(err), dtask_err_detail());
    exit(1);
}

static void call(bench *b, dti_op *ops, size_t n) {
    b->e->ops->call(b->e, &b->arena, ops, n);
    for (size_t i = 0; i < n; i++) must(ops[i].err);
}

static void hello(bench *b) {
    char name[64];
    snprintf(name, sizeof name, "bench-%d-%lx", getpid(), dti_random64());
    dti_hello_type t = {.name = dti_strz("noop"), .version = 1, .crashes = 3};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz(name), .types = &t, .ntypes = 1}};
    call(b, &op, 1);
    b->worker = op.hello.worker;
    b->type = t.no;
}

static void attach(bench *b, bool full) {
    dti_engine_conf conf = {.url = b->url, .app = "bench", .full = full, .lease_us = 15000000, .timeout_us = 30000000};
    must(dti_engine_open(&conf, &b->e));
    hello(b);
}

static void begin(bench *b, const char *engine, bool full) {
    *b = (bench){0};
    strcpy(b->url, "memory:");
    if (strcmp(engine, "sqlite") == 0) {
        const char *tmp = getenv("TMPDIR");
        snprintf(b->dir, sizeof b->dir, "%.40s/dbench_XXXXXX", tmp ? tmp : "/tmp");
        if (!mkdtemp(b->dir)) must(DTASK_EENGINE);
        snprintf(b->url, sizeof b->url, "sqlite:%s/jobs.db", b->dir);
    }
    attach(b, full);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void end(bench *b) {
    b->e->ops->close(b->e);
    dti_arena_done(&b->arena);
    if (b->dir[0]) nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

// Claims and ends all there is, in turns of `batch`. Each turn carries the
// outcomes of the last. Stops when nothing comes; returns how many it ended.
static size_t drain(bench *b, uint32_t batch) {
    dti_message messages[BATCH];
    uint32_t n = 0;
    size_t ended = 0;
    do {
        dti_want want = {b->type, batch};
        dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = b->worker, .era = 1, .nonce = ++b->nonce, .messages = messages,
            .nmessages = n, .want = &want, .nwant = 1, .n = batch, .empty = true}};
        call(b, &op, 1);
        ended += n;
        n = op.turn.nclaims;
        for (uint32_t i = 0; i < n; i++) {
            const dti_claim *c = &op.turn.claims[i];
            messages[i] = (dti_message){.job = c->job, .ord = c->ord, .token = c->token, .seq = 1, .end = DTI_END_SUCCEED};
        }
        dti_arena_reset(&b->arena);
    } while (n);
    return ended;
}

static void start_jobs(bench *b, size_t from, size_t n, size_t batch) {
    static dti_op ops[BATCH];
    static char ids[BATCH][32];
    for (size_t i = 0; i < n; i += batch) {
        for (size_t j = 0; j < batch; j++) {
            snprintf(ids[j], sizeof ids[j], "job-%zu", from + i + j);
            ops[j] = (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz(ids[j]), .retain_us = 86400000000,
                .task = {.type = b->type, .call = {i, j}, .args = dti_strz("\x91\x01"), .retries = 3, .crashes = 3}}};
        }
        call(b, ops, batch);
        dti_arena_reset(&b->arena);
    }
}

// A root that makes n children and ends; then all are run.
static void fan_out(bench *b, size_t n) {
    start_jobs(b, 0, 1, 1);
    dti_want want = {b->type, 1};
    dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = b->worker, .era = 1, .nonce = ++b->nonce, .want = &want, .nwant = 1, .n = 1}};
    call(b, &op, 1);
    dti_claim root = op.turn.claims[0];
    static dti_new kids[SPAWN];
    uint32_t seq = 0;
    for (size_t at = 0; at < n; at += SPAWN) {
        uint32_t count = (uint32_t)(n - at < SPAWN ? n - at : SPAWN);
        for (uint32_t i = 0; i < count; i++)
            kids[i] = (dti_new){.type = b->type, .call = {at + i, 1}, .args = dti_strz("\x91\x01"), .retries = 3, .crashes = 3};
        dti_message m = {.job = root.job, .ord = 0, .token = root.token, .seq = ++seq, .children = kids, .nchildren = count,
            .end = at + count == n ? DTI_END_SUCCEED : DTI_END_NONE};
        op = (dti_op){.kind = DTI_OP_TURN, .turn = {.worker = b->worker, .era = 1, .nonce = ++b->nonce, .messages = &m, .nmessages = 1}};
        call(b, &op, 1);
        dti_arena_reset(&b->arena);
    }
}

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static void print(const char *name, const char *unit, double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    printf("{\"name\": \"%s\", \"value\": %.0f, \"unit\": \"%s\", \"median\": %.0f, \"min\": %.0f, \"max\": %.0f}\n", name, v[n / 2],
        unit, v[n / 2], v[0], v[n - 1]);
    fflush(stdout);
}

static double rate(size_t n, int64_t since) {
    return (double)n * 1e6 / (double)(dti_mono_us() - since);
}

// Two processes drain what a third made.
static double two_processes(size_t n) {
    bench b;
    begin(&b, "sqlite", false);
    fan_out(&b, n);
    int64_t since = dti_mono_us();
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        if ((pids[i] = fork())) continue;
        bench mine = {0};
        strcpy(mine.url, b.url);
        attach(&mine, false);
        drain(&mine, BATCH);
        _exit(0);
    }
    for (int i = 0; i < 2; i++) waitpid(pids[i], NULL, 0);
    double r = rate(n, since);
    end(&b);
    return r;
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 5;
    size_t tasks = argc > 2 ? strtoul(argv[2], NULL, 10) : 50000;
    if (rounds < 1 || rounds > ROUNDS_MAX || tasks < 1000) return fprintf(stderr, "usage: bench_engine [rounds 1..99] [tasks >= 1000]\n"), 2;
    static const struct { const char *name, *engine; bool full; } kinds[] = {
        {"memory", "memory", false}, {"sqlite normal", "sqlite", false}, {"sqlite full", "sqlite", true},
    };
    double v[5][ROUNDS_MAX];
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        char name[96];
        bench b;
        for (int r = 0; r < rounds; r++) {
            begin(&b, kinds[k].engine, kinds[k].full);
            int64_t since = dti_mono_us();
            fan_out(&b, tasks);
            v[0][r] = rate(tasks, since);
            drain(&b, BATCH);
            v[1][r] = rate(tasks, since);
            end(&b);
            begin(&b, kinds[k].engine, kinds[k].full);
            since = dti_mono_us();
            start_jobs(&b, 0, tasks / 10, 100);
            drain(&b, BATCH);
            v[2][r] = rate(tasks / 10, since);
            since = dti_mono_us();
            start_jobs(&b, tasks, 500, 1);
            v[3][r] = rate(500, since);
            since = dti_mono_us();
            drain(&b, 1);
            v[4][r] = rate(500, since);
            end(&b);
        }
        static const char *const names[] = {"children spawned", "child lifecycles, turns of 128", "job lifecycles, turns of 128",
            "job starts, one by one", "job runs, one by one"};
        for (int i = 0; i < 5; i++) {
            snprintf(name, sizeof name, "engine %s: %s", kinds[k].name, names[i]);
            print(name, "1/s", v[i], rounds);
        }
    }
    for (int r = 0; r < rounds; r++) v[0][r] = two_processes(tasks);
    print("engine sqlite normal: child runs by two processes", "1/s", v[0], rounds);
    return 0;
}
