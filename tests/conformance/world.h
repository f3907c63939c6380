// A world for the conformance cases: one engine, opened fresh, and actors that
// speak to it as a worker's core does, members of each of its shards. Each
// case runs on every engine of EACH_ENGINE; a new engine is one line there and
// its URL in world.c. `shards` is twelve memory engines as one. With
// WORLD_CLUSTER there is only `cluster`: the Redis Cluster that the variable
// DTEST_CLUSTER has the URL of, shared by all cases, each under a name of its own.
//
// Values are made by the case itself, so nothing here is msgpack-aware: the
// engines carry them as bytes.
#pragma once

#include <criterion/criterion.h>
#include <string.h>

#include "engines/engine.h"
#include "redis_server.h"

#ifdef WORLD_CLUSTER
#define EACH_ENGINE(RUN, name) RUN(cluster, name)
#else
#define EACH_ENGINE(RUN, name) \
    RUN(memory, name)          \
    RUN(sqlite, name)          \
    RUN(redis, name)           \
    RUN(kafka, name)           \
    RUN(shards, name)
#endif

#define CASE(name)                       \
    static void case_##name(world *w);   \
    EACH_ENGINE(RUN_ON, name)            \
    static void case_##name(world *w)
#define RUN_ON(engine, name)             \
    Test(engine, name) {                 \
        world w;                         \
        world_open(&w, #engine);         \
        case_##name(&w);                 \
        world_close(&w);                 \
    }

// Kafka: starts go through the broker at DTASK_KAFKA. A worker that claims
// nothing takes them in, the only one of the consumer group: the actors said
// hello on its handle, so their bells have no reader and hear of tasks alone.
typedef struct {
    dti_engine *e;
    dti_bell *bell;
    uint64_t no, nonce;
} taker;

typedef struct {
    dti_engine *e;
    dti_arena arena;             // replies live until the case ends
    char dir[64], url[256], app[32];
    redis_server redis;
    taker taker;
    char store[64], topics[32];  // Kafka's: the store's URL, what heads the names
    uint64_t era[DTI_SHARDS_MAX]; // as they were opened
    uint32_t a, b;               // nos of the types "a" and "b", declared by every worker
    unsigned named;
    bool several;                // `shards`
    dti_awaited there[DTI_SHARDS_MAX]; // some job's end in each shard, where there are several
} world;
void world_open(world *, const char *engine);
void world_close(world *);
void world_remove(const world *);    // its folder
dti_engine *world_again(world *);    // another handle of the same store
dti_op world_call(world *, dti_op);  // fails the case if the engine does

typedef struct {
    struct { uint64_t no, got; dti_bell *bell; } in[DTI_SHARDS_MAX];
    uint64_t nonce;
} actor;
actor worker(world *);
void leave(world *, actor *);        // bye
void die(world *, actor *);          // without bye; swept
void lapse(world *, actor *, dti_charge); // its lease, as it ran that; not swept further
void asleep(world *, actor *, const uint32_t *types, size_t n);
void awake(world *, actor *);
void ring(world *, actor *);
void heard(actor *, const dti_wake *); // acknowledges it with the next turn
bool rung(world *, dti_bell *);
bool called(world *, actor *);       // one of its bells is rung
bool hungry(world *, actor *, uint32_t type); // somebody else is
// A turn under the worker's next nonce.
dti_turn turn(world *, actor *, dti_turn);
dti_claim claim(world *, actor *);   // exactly one of type a or b
uint32_t claims(world *, actor *, uint32_t n); // how many of n came
dti_answer say(world *, actor *, dti_claim *, dti_message); // one message about a claimed task; seq is kept in row.seq
dti_answer end(world *, actor *, dti_claim *, dti_endkind);
uint64_t start(world *, const char *id, dti_new); // type 0: a; returns the job no
uint64_t take_in(world *, dtask_str id); // of a start that lies in Kafka: the job no
dti_taskview task(world *, uint64_t job, uint32_t ord);
dti_jobview job(world *, uint64_t job);
int64_t sweep(world *);              // until nothing is left to do now
dti_new call_of(uint32_t type, uint64_t n); // distinct calls for distinct n
