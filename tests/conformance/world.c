// See world.h.
#include "world.h"

#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engines/shards/shards.h"

enum { SHARDS = 12 };

static dti_engine *open_one(const world *w, const char *app) {
    dti_engine *e;
    dti_engine_conf conf = {.url = w->url, .app = app, .lease_us = 15000000, .timeout_us = 10000000,
        .store = w->store, .prefix = w->topics, .partitions = 1};
    cr_assert_eq(dti_engine_open(&conf, &e), DTASK_OK, "%s", dtask_err_detail());
    return e;
}

static dti_engine *open_it(world *w) {
    if (!w->several) return open_one(w, w->app);
    dti_engine *all[SHARDS], *e;
    for (unsigned k = 0; k < SHARDS; k++) {
        char app[40];
        snprintf(app, sizeof app, "%s.%u", w->app, k);
        all[k] = open_one(w, app);
    }
    cr_assert_eq(dti_shards_new(all, SHARDS, &e), DTASK_OK, "%s", dtask_err_detail());
    return e;
}

// Where it is not installed the case is skipped; in CI it fails.
static void need(bool there, const char *server) {
    const char *ci = getenv("CI");
    if (there) return;
    cr_assert(!getenv("DTASK_CI") && !(ci && !strcmp(ci, "true")), "%s does not start: script/setup test installs it", server);
    cr_skip_test("%s does not start: script/setup test installs it", server);
}

static void open_redis(world *w) {
    need(redis_server_start(&w->redis), "redis-server");
}

static void open_kafka(world *w) {
    const char *servers = getenv("DTASK_KAFKA");
    need(servers, "Kafka");
    open_redis(w);
    snprintf(w->store, sizeof w->store, "redis://127.0.0.1:%d/0", w->redis.port);
    snprintf(w->url, sizeof w->url, "kafka://%s", servers);
    snprintf(w->topics, sizeof w->topics, "case-%d", (int)getpid());
    w->taker.e = open_it(w);
}

static uint64_t say_hello(world *w, dti_engine *e, unsigned k, const char *name) {
    dti_hello_type types[] = {{.name = dti_strz("a"), .version = 1, .crashes = 3}, {.name = dti_strz("b"), .version = 1, .crashes = 3}};
    dti_op op = {.kind = DTI_OP_HELLO, .shard = (uint8_t)k, .hello = {.name = dti_strz(name), .lease_us = 7200000000, .types = types, .ntypes = 2}};
    cr_assert_eq(dti_engine_call(e, &w->arena, &op), DTASK_OK, "%s", dtask_err_detail());
    cr_assert_gt(op.hello.worker, 0u);
    cr_assert_eq(types[0].no, w->a, "a type has one number");
    return op.hello.worker;
}

static void open_taker(world *w) {
    w->taker.no = say_hello(w, w->taker.e, 0, "taker");
    cr_assert_eq(w->taker.e->ops->bell_open(w->taker.e, w->taker.no, &w->taker.bell), DTASK_OK, "%s", dtask_err_detail());
}

static void close_taker(world *w) {
    w->taker.e->ops->bell_close(w->taker.bell);
    w->taker.e->ops->close(w->taker.e);
}

// Until the job is in the store: its number.
uint64_t take_in(world *w, dtask_str id) {
    const dti_engine_ops *ops = w->taker.e->ops;
    for (;;) {
        ops->bell_awake(w->taker.bell);
        dti_want want[] = {{w->a, UINT32_MAX}, {w->b, UINT32_MAX}}; // it claims none of them
        dti_op turn = {.kind = DTI_OP_TURN, .turn = {.worker = w->taker.no, .era = w->era[0], .nonce = ++w->taker.nonce, .want = want, .nwant = 2}};
        cr_assert_eq(dti_engine_call(w->taker.e, &w->arena, &turn), DTASK_OK, "%s", dtask_err_detail());
        dti_op read = world_call(w, (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = id}});
        cr_assert_eq(read.read.n, 1u, "its starter does not know it");
        if (read.read.jobs->no) return read.read.jobs->no;
        poll(&(struct pollfd){.fd = ops->bell_fd(w->taker.bell), .events = POLLIN}, 1, 1000);
    }
}

void world_open(world *w, const char *engine) {
    *w = (world){.redis.log = -1, .several = !strcmp(engine, "shards")};
    strcpy(w->app, "test");
    if (strcmp(engine, "memory") == 0 || w->several) {
        strcpy(w->url, "memory:");
    } else if (strcmp(engine, "cluster") == 0) {
        const char *url = getenv("DTEST_CLUSTER");
        cr_assert(url, "DTEST_CLUSTER is to have a Cluster's URL");
        snprintf(w->url, sizeof w->url, "%s", url);
        snprintf(w->app, sizeof w->app, "test%d", (int)getpid());
    } else if (strcmp(engine, "redis") == 0) {
        open_redis(w);
        snprintf(w->url, sizeof w->url, "redis://127.0.0.1:%d/0", w->redis.port);
    } else if (strcmp(engine, "kafka") == 0) {
        open_kafka(w);
    } else {
        strcpy(w->dir, "/tmp/dtest_XXXXXX");
        cr_assert(mkdtemp(w->dir));
        snprintf(w->url, sizeof w->url, "sqlite:%s/jobs.db", w->dir);
    }
    w->e = open_it(w);
    for (unsigned k = 0; k < w->e->shards; k++) w->era[k] = world_call(w, (dti_op){.kind = DTI_OP_ERA, .shard = (uint8_t)k}).era.era;
    for (unsigned i = 0, k = 0; w->e->shards > 1 && k < w->e->shards; i++) { // an id in each shard
        char id[16];
        snprintf(id, sizeof id, "in%u", i);
        if (dti_shards_of_id((dti_shards *)w->e, dti_strz(id)) != k) continue;
        w->there[k].id = dti_dup(&w->arena, dti_strz(id));
        w->there[k++].hash = dti_id_hash(dti_strz(id));
    }
    dti_hello_type types[] = {{.name = dti_strz("a"), .version = 1, .crashes = 3}, {.name = dti_strz("b"), .version = 1, .crashes = 3}};
    world_call(w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.types = types, .ntypes = 2}});
    w->a = types[0].no;
    w->b = types[1].no;
    if (w->taker.e) open_taker(w);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

void world_close(world *w) {
    if (w->taker.e) close_taker(w);
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
    actor a = {0};
    for (unsigned k = 0; k < w->e->shards; k++) {
        a.in[k].no = say_hello(w, w->taker.e ? w->taker.e : w->e, k, name);
        cr_assert_eq(dti_shard_of(a.in[k].no), k);
        cr_assert_eq(w->e->ops->bell_open(w->e, a.in[k].no, &a.in[k].bell), DTASK_OK, "%s", dtask_err_detail());
    }
    return a;
}

void leave(world *w, actor *a) {
    for (unsigned k = 0; k < w->e->shards; k++) {
        world_call(w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.bye = true, .worker = a->in[k].no}});
        w->e->ops->bell_close(a->in[k].bell);
    }
}

static void sweep_dead(world *w, actor *a, const dti_charge *charge) {
    for (unsigned k = 0; k < w->e->shards; k++)
        world_call(w, (dti_op){.kind = DTI_OP_SWEEP, .shard = (uint8_t)k, .sweep = {.budget = 256, .dead = &a->in[k].no, .ndead = 1,
            .charge = charge, .ncharge = charge ? 1 : 0, .charge_all = !charge}});
}

static void bells_close(world *w, actor *a) {
    for (unsigned k = 0; k < w->e->shards; k++) w->e->ops->bell_close(a->in[k].bell);
}

void die(world *w, actor *a) {
    bells_close(w, a);
    if (!w->e->sees_deaths) sweep_dead(w, a, NULL); // its lease would lapse
    sweep(w);
}

void lapse(world *w, actor *a, dti_charge charge) {
    sweep_dead(w, a, &charge);
    bells_close(w, a);
}

void asleep(world *w, actor *a, const uint32_t *types, size_t n) {
    for (unsigned k = 0; k < w->e->shards; k++) w->e->ops->bell_asleep(a->in[k].bell, types, n, NULL);
}

void awake(world *w, actor *a) {
    for (unsigned k = 0; k < w->e->shards; k++) w->e->ops->bell_awake(a->in[k].bell);
}

void ring(world *w, actor *a) {
    w->e->ops->bell_ring(a->in[w->e->shards - 1].bell);
}

void heard(actor *a, const dti_wake *k) {
    a->in[dti_shard_of(k->job)].got = k->n;
}

bool rung(world *w, dti_bell *b) {
    // Rings come in one line, in each shard: once this bell is there, those before it are.
    for (unsigned k = 0; k < w->e->shards; k++) {
        dti_bell *fence;
        cr_assert_eq(w->e->ops->bell_open(w->e, 0, &fence), DTASK_OK, "%s", dtask_err_detail());
        if (w->e->shards > 1) w->e->ops->bell_asleep(fence, NULL, 0, &w->there[k]);
        w->e->ops->bell_close(fence);
    }
    struct pollfd p = {.fd = w->e->ops->bell_fd(b), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

bool called(world *w, actor *a) {
    bool any = rung(w, a->in[0].bell);
    for (unsigned k = 1; k < w->e->shards; k++) {
        struct pollfd p = {.fd = w->e->ops->bell_fd(a->in[k].bell), .events = POLLIN};
        any |= poll(&p, 1, 0) == 1;
    }
    return any;
}

bool hungry(world *w, actor *a, uint32_t type) {
    dti_want want = {type, 0};
    turn(w, a, (dti_turn){.want = &want, .nwant = 1});
    bool any = false;
    for (unsigned k = 0; k < w->e->shards; k++) any |= w->e->ops->hungry(w->e, a->in[k].bell, type);
    return any;
}

static void *joined(world *w, const void *a, size_t n, const void *b, size_t m, size_t size) {
    char *to = dti_alloc(&w->arena, (n + m) * size + 1);
    if (n) memcpy(to, a, n * size);
    if (m) memcpy(to + n * size, b, m * size);
    return to;
}

// One in each shard, all under one nonce, and their answers as one.
dti_turn turn(world *w, actor *a, dti_turn t) {
    if (!t.nonce) t.nonce = ++a->nonce;
    dti_turn all = t;
    all.answers = dti_alloc0(&w->arena, (t.nmessages + 1) * sizeof *all.answers);
    for (unsigned k = 0; k < w->e->shards; k++) {
        dti_turn one = t;
        dti_message *messages = dti_alloc(&w->arena, (t.nmessages + 1) * sizeof *messages);
        uint32_t *place = dti_alloc(&w->arena, (t.nmessages + 1) * sizeof *place);
        one.messages = messages;
        one.nmessages = 0;
        for (uint32_t i = 0; i < t.nmessages; i++) {
            if (dti_shard_of(t.messages[i].job) != k) continue;
            place[one.nmessages] = i;
            messages[one.nmessages++] = t.messages[i];
        }
        one.worker = a->in[k].no;
        one.got = a->in[k].got;
        if (!one.era) one.era = w->era[k];
        one.n = t.n - all.nclaims;
        one = world_call(w, (dti_op){.kind = DTI_OP_TURN, .turn = one}).turn;
        if (one.status != DTI_TURN_OK) {
            all.status = one.status;
            continue;
        }
        for (uint32_t i = 0; i < one.nmessages; i++) all.answers[place[i]] = one.answers[i];
        all.claims = joined(w, all.claims, all.nclaims, one.claims, one.nclaims, sizeof *all.claims);
        all.nclaims += one.nclaims;
        all.wakes = joined(w, all.wakes, all.nwakes, one.wakes, one.nwakes, sizeof *all.wakes);
        all.nwakes += one.nwakes;
        all.drain |= one.drain;
        all.todo |= one.todo;
    }
    return all;
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
    dtask_str type = n.type == w->a || n.type == w->b ? dti_strz(n.type == w->a ? "a" : "b") : (dtask_str){0};
    dti_op op = world_call(w, (dti_op){.kind = DTI_OP_START, .start = {.id = dti_strz(id), .type = type, .task = n, .retain_us = 86400000000,
        .grace_us = 30000000}});
    cr_assert_eq(op.start.status, DTI_CREATED);
    return op.start.job ? op.start.job : take_in(w, dti_strz(id));
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
    int64_t first = INT64_MAX;
    for (unsigned k = 0; k < w->e->shards; k++) {
        int64_t next;
        uint32_t steps;
        do {                     // a server's clock is known about: what it did says more than when it says to come again
            dti_sweep s = world_call(w, (dti_op){.kind = DTI_OP_SWEEP, .shard = (uint8_t)k, .sweep = {.budget = 256}}).sweep;
            next = s.next;
            steps = s.steps;
        } while (steps || (next && next <= dti_wall_us()));
        if (next && next < first) first = next;
    }
    return first;
}
