// A world for the conformance cases: one engine, opened fresh, and actors that
// speak to it as a worker's core does. Each case runs on every engine of
// EACH_ENGINE; a new engine is one line there and its URL in world.c.
//
// Values are made by the case itself, so nothing here is msgpack-aware: the
// engines carry them as bytes.
#pragma once

#include <criterion/criterion.h>
#include <string.h>

#include "engines/engine.h"
#include "redis_server.h"

#define EACH_ENGINE(RUN, name) \
    RUN(memory, name)          \
    RUN(sqlite, name)          \
    RUN(redis, name)

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

typedef struct {
    dti_engine *e;
    dti_arena arena;             // replies live until the case ends
    char dir[64], url[96];
    redis_server redis;
    uint64_t era;                // as it was opened
    uint32_t a, b;               // nos of the types "a" and "b", declared by every worker
    unsigned named;
} world;
void world_open(world *, const char *engine);
void world_close(world *);
void world_remove(const world *);    // its folder
dti_engine *world_again(world *);    // another handle of the same store
dti_op world_call(world *, dti_op);  // fails the case if the engine does

typedef struct {
    uint64_t no, nonce, got;
    dti_bell *bell;
    uint32_t seq;
} actor;
actor worker(world *);
void leave(world *, actor *);        // bye
void die(world *, actor *);          // without bye; swept
bool rung(world *, dti_bell *);
bool hungry(world *, actor *, uint32_t type); // somebody else is
// A turn under the worker's next nonce.
dti_turn turn(world *, actor *, dti_turn);
dti_claim claim(world *, actor *);   // exactly one of type a or b
uint32_t claims(world *, actor *, uint32_t n); // how many of n came
dti_answer say(world *, actor *, dti_claim *, dti_message); // one message about a claimed task; seq is kept in row.seq
dti_answer end(world *, actor *, dti_claim *, dti_endkind);
uint64_t start(world *, const char *id, dti_new); // type 0: a; returns the job no
dti_taskview task(world *, uint64_t job, uint32_t ord);
dti_jobview job(world *, uint64_t job);
int64_t sweep(world *);              // until nothing is left to do now
dti_new call_of(uint32_t type, uint64_t n); // distinct calls for distinct n
