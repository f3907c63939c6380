// See world.h.
#include "world.h"

#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static dti_engine *open_it(world *w) {
    dti_engine *e;
    dti_engine_conf conf = {.url = w->url, .app = "test", .lease_us = 15000000, .timeout_us = 10000000};
    cr_assert_eq(dti_engine_open(&conf, &e), DTASK_OK, "%s", dtask_err_detail());
    return e;
}

// Where it is not installed the case is skipped; in CI it fails.
static void open_redis(world *w) {
    if (redis_server_start(&w->redis)) return;
    const char *ci = getenv("CI");
    cr_assert(!getenv("DTASK_CI") && !(ci && !strcmp(ci, "true")), "redis-server does not start: script/setup test installs it");
    cr_skip_test("redis-server does not start: script/setup test installs it");
}

void world_open(world *w, const char *engine) {
    *w = (world){.redis.log = -1};
    if (strcmp(engine, "memory") == 0) {
        strcpy(w->url, "memory:");
    } else if (strcmp(engine, "redis") == 0) {
        open_redis(w);
        snprintf(w->url, sizeof w->url, "redis://127.0.0.1:%d/0", w->redis.port);
    } else {
        strcpy(w->dir, "/tmp/dtest_XXXXXX");
        cr_assert(mkdtemp(w->dir));
        snprintf(w->url, sizeof w->url, "sqlite:%s/jobs.db", w->dir);
    }
    w->e = open_it(w);
    w->era = world_call(w, (dti_op){.kind = DTI_OP_ERA}).era.era;
    dti_hello_type types[] = {{.name = dti_strz("a"), .version = 1, .crashes = 3}, {.name = dti_strz("b"), .version = 1, .crashes = 3}};
    world_call(w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.types = types, .ntypes = 2}});
    w->a = types[0].no;
    w->b = types[1].no;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

void world_close(world *w) {
    w->e->ops->close(w->e);
    dti_arena_done(&w->arena);
    redis_server_stop(&w->redis);
    world_remove(w);
}

void world_remove(const world *w) {
    if (w->dir[0]) nftw(w->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

dti_engine *world_again(world *w) {
    return open_it(w);
}

dti_op world_call(world *w, dti_op op) {
    dtask_err err = dti_engine_call(w->e, &w->arena, &op);
    cr_assert_eq(err, DTASK_OK, "%s: %s", dtask_err_name(err), dtask_err_detail());
    return op;
}

actor worker(world *w) {
    char name[32];
    snprintf(name, sizeof name, "worker-%u", ++w->named);
    dti_hello_type types[] = {{.name = dti_strz("a"), .version = 1, .crashes = 3}, {.name = dti_strz("b"), .version = 1, .crashes = 3}};
    dti_op op = world_call(w,
        (dti_op){.kind = DTI_OP_HELLO, .hello = {.name = dti_strz(name), .lease_us = 7200000000, .types = types, .ntypes = 2}});
    actor a = {.no = op.hello.worker};
    cr_assert_gt(a.no, 0u);
    cr_assert_eq(w->e->ops->bell_open(w->e, a.no, &a.bell), DTASK_OK, "%s", dtask_err_detail());
    return a;
}

void leave(world *w, actor *a) {
    world_call(w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.bye = true, .worker = a->no}});
    w->e->ops->bell_close(a->bell);
}

void die(world *w, actor *a) {
    w->e->ops->bell_close(a->bell);
    if (!w->e->sees_deaths)      // its lease would lapse
        world_call(w, (dti_op){.kind = DTI_OP_SWEEP, .sweep = {.budget = 256, .dead = &a->no, .ndead = 1, .charge_all = true}});
    sweep(w);
}

bool rung(world *w, dti_bell *b) {
    dti_bell *fence;             // rings come in one line: once this bell is there, those before it are
    cr_assert_eq(w->e->ops->bell_open(w->e, 0, &fence), DTASK_OK, "%s", dtask_err_detail());
    w->e->ops->bell_close(fence);
    struct pollfd p = {.fd = w->e->ops->bell_fd(b), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

bool hungry(world *w, actor *a, uint32_t type) {
    dti_want want = {type, 0};
    turn(w, a, (dti_turn){.want = &want, .nwant = 1});
    return w->e->ops->hungry(w->e, a->bell, type);
}

dti_turn turn(world *w, actor *a, dti_turn t) {
    t.worker = a->no;
    if (!t.era) t.era = w->era;
    if (!t.nonce) t.nonce = ++a->nonce;
    t.got = a->got;
    return world_call(w, (dti_op){.kind = DTI_OP_TURN, .turn = t}).turn;
}

static dti_turn ask(world *w, actor *a, uint32_t n) {
    dti_want want[] = {{w->a, n}, {w->b, n}};
    return turn(w, a, (dti_turn){.want = want, .nwant = 2, .n = n, .empty = true});
}

dti_claim claim(world *w, actor *a) {
    dti_turn t = ask(w, a, 1);
    cr_assert_eq(t.status, DTI_TURN_OK);
    cr_assert_eq(t.nclaims, 1u, "nothing was claimed");
    return t.claims[0];
}

uint32_t claims(world *w, actor *a, uint32_t n) {
    return ask(w, a, n).nclaims;
}

dti_answer say(world *w, actor *a, dti_claim *c, dti_message m) {
    m.job = c->job;
    m.ord = c->ord;
    m.token = c->token;
    m.seq = ++c->row.seq;
    dti_turn t = turn(w, a, (dti_turn){.messages = &m, .nmessages = 1});
    cr_assert_eq(t.status, DTI_TURN_OK);
    return t.answers[0];
}

dti_answer end(world *w, actor *a, dti_claim *c, dti_endkind how) {
    return say(w, a, c, (dti_message){.end = how});
}

dti_new call_of(uint32_t type, uint64_t n) {
    return (dti_new){.type = type, .call = {n, n}, .retries = 3, .crashes = 3};
}

uint64_t start(world *w, const char *id, dti_new n) {
    if (!n.type) n = call_of(w->a, 1);
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = n, .retain_us = 86400000000, .grace_us = 30000000}});
    cr_assert_eq(op.start.status, DTI_CREATED);
    return op.start.job;
}

dti_taskview task(world *w, uint64_t job, uint32_t ord) {
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .job = job, .ord = ord}});
    cr_assert_eq(op.read.n, 1u, "no task %u", ord);
    return op.read.tasks[0];
}

dti_jobview job(world *w, uint64_t no) {
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .job = no}});
    cr_assert_eq(op.read.n, 1u, "no job");
    return op.read.jobs[0];
}

int64_t sweep(world *w) {
    int64_t next;
    do {
        next = world_call(w, (dti_op){.kind = DTI_OP_SWEEP, .sweep = {.budget = 256}}).sweep.next;
    } while (next <= dti_wall_us());
    return next;
}
