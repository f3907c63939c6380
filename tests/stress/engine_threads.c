// An engine under many threads, for the thread sanitizer: workers that claim
// and end, starters, a canceller, readers, signals, sweeps, and sleepers on
// bells. Every job must have ended at the end, and none twice. A plain
// program: sanitizers and a test framework that forks do not go together.
//
//   engine_threads [memory: | sqlite: | redis://.. [jobs]]     sqlite: in a folder of its own
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engines/engine.h"

enum { WORKERS = 3, STARTERS = 2, BATCH = 16 };

static dti_engine *engine;
static uint32_t type;
static uint64_t era;
static unsigned per_starter;
static atomic_uint starters_left = STARTERS, ended;
static atomic_bool over;

static void must(dtask_err err, const char *what) {
    if (!err) return;
    fprintf(stderr, "%s: %s: %s\n", what, dtask_err_name(err), dtask_err_detail());
    _exit(1);
}

static void call(dti_arena *arena, dti_op *op, const char *what) {
    must(dti_engine_call(engine, arena, op), what);
}

static void *start_jobs(void *arg) {
    for (unsigned i = 0; i < per_starter; i++) {
        dti_arena arena = {0};
        char id[32];
        snprintf(id, sizeof id, "job-%zu-%u", (size_t)arg, i);
        dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = {.type = type, .call = {i, 1}, .crashes = 3}, .retain_us = 1000000000}};
        call(&arena, &op, "start");
        if (i % 7 == 0) {
            dti_op mark = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_CANCEL, .id = dti_strz(id)}};
            call(&arena, &mark, "mark");
        }
        dti_op post = {.kind = DTI_OP_POST, .post = {.id = dti_strz(id), .msgid = {i, 2}, .name = dti_strz("s"), .data = dti_strz("\xc0")}};
        call(&arena, &post, "post");
        dti_arena_done(&arena);
    }
    atomic_fetch_sub(&starters_left, 1);
    return NULL;
}

static void *work(void *arg) {
    (void)arg;
    const dti_engine_ops *ops = engine->ops;
    dti_arena arena = {0};
    char name[64];
    snprintf(name, sizeof name, "worker-%lx", dti_random64());
    dti_hello_type t = {.name = dti_strz("noop"), .version = 1, .crashes = 3};
    dti_op hello = {.kind = DTI_OP_HELLO, .hello = {.name = dti_strz(name), .lease_us = 60000000, .types = &t, .ntypes = 1}};
    call(&arena, &hello, "hello");
    uint64_t no = hello.hello.worker, nonce = 0, got = 0;
    dti_bell *bell;
    must(ops->bell_open(engine, no, &bell), "bell");
    dti_message done[BATCH];
    uint32_t n = 0;
    while (!atomic_load(&over)) {
        dti_arena_reset(&arena);
        dti_want want = {type, BATCH};
        dti_op op = {.kind = DTI_OP_TURN, .turn = {.worker = no, .era = era, .nonce = ++nonce, .got = got, .messages = done,
            .nmessages = n, .want = &want, .nwant = 1, .n = BATCH, .empty = true}};
        ops->bell_asleep(bell, &type, 1, NULL);
        ops->hungry(engine, bell, type);
        call(&arena, &op, "turn");
        if (op.turn.status != DTI_TURN_OK) must(DTASK_EINTERNAL, "a live worker was refused");
        for (uint32_t i = 0; i < n; i++) atomic_fetch_add(&ended, op.turn.answers[i].status == DTI_OK);
        for (uint32_t i = 0; i < op.turn.nwakes; i++) got = op.turn.wakes[i].n;
        for (n = 0; n < op.turn.nclaims; n++) {
            const dti_claim *c = &op.turn.claims[n];
            ops->bell_runs(bell, n, c->job, c->ord);
            done[n] = (dti_message){.job = c->job, .ord = c->ord, .token = c->token, .seq = 1, .end = DTI_END_SUCCEED};
        }
        if (!n) usleep(200);
        ops->bell_awake(bell);
    }
    dti_op bye = {.kind = DTI_OP_HELLO, .hello = {.bye = true, .worker = no}};
    call(&arena, &bye, "bye");
    ops->bell_close(bell);
    dti_arena_done(&arena);
    return NULL;
}

static bool all_ended(dti_arena *arena) {
    static const int live[] = {DTI_JOB_RUNNING, DTI_JOB_CANCELLING};
    for (int i = 0; i < 2; i++) {
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOBS, .state = live[i], .limit = 1}};
        call(arena, &op, "read");
        if (op.read.n) return false;
    }
    return true;
}

static void *sweep(void *arg) {
    (void)arg;
    dti_arena arena = {0};
    while (!atomic_load(&over)) {
        dti_arena_reset(&arena);
        dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 500}};
        call(&arena, &op, "sweep");
        if (!atomic_load(&starters_left) && all_ended(&arena)) atomic_store(&over, true);
        usleep(1000);
    }
    dti_arena_done(&arena);
    return NULL;
}

int main(int argc, char **argv) {
    const char *url = argc > 1 ? argv[1] : "memory:";
    char folder[] = "/tmp/dtask-stress-XXXXXX", file[64], remove[64];
    bool on_file = strcmp(url, "sqlite:") == 0;
    if (on_file) {
        if (!mkdtemp(folder)) must(DTASK_EENGINE, "mkdtemp");
        snprintf(file, sizeof file, "sqlite:%s/jobs.db", folder);
        url = file;
    }
    per_starter = (unsigned)(argc > 2 ? atoi(argv[2]) : 300);
    dti_engine_conf conf = {.url = url, .app = "stress", .lease_us = 60000000, .timeout_us = 30000000};
    must(dti_engine_open(&conf, &engine), "open");
    dti_arena arena = {0};
    dti_hello_type t = {.name = dti_strz("noop"), .version = 1, .crashes = 3};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.types = &t, .ntypes = 1}};
    call(&arena, &op, "declare");
    type = t.no;
    op = (dti_op){.kind = DTI_OP_ERA};
    call(&arena, &op, "era");
    era = op.era.era;
    pthread_t threads[WORKERS + STARTERS + 1];
    int n = 0;
    for (; n < WORKERS; n++) pthread_create(&threads[n], NULL, work, NULL);
    for (size_t i = 0; i < STARTERS; i++) pthread_create(&threads[n++], NULL, start_jobs, (void *)i);
    pthread_create(&threads[n++], NULL, sweep, NULL);
    while (n) pthread_join(threads[--n], NULL);
    dti_arena_done(&arena);
    engine->ops->close(engine);
    snprintf(remove, sizeof remove, "rm -rf %s", folder);
    if (on_file && system(remove)) must(DTASK_EENGINE, "rm");
    if (!ended || ended > STARTERS * per_starter) must(DTASK_EINTERNAL, "a job ended twice, or none did");
    printf("%u ended by a worker\n", (unsigned)ended);
}
