// The Redis engine's parts among themselves.
//
//   redis.c    the engine's seam: open, close, operations to bytes and back
//   pipe.c     the I/O thread: gathers calls, sends, hands answers back
//   bells.c    who sleeps, and the connection by which they are rung
//   server.c   which server, and whether it will do
//   connection.c, url.c, codec.c
//
// One handle has one shard, one I/O thread and two connections: one for the
// script, one that is subscribed to the bells. The thread alone touches them.
// `lock` guards what callers and thread share; nobody waits for the network
// under it. On a Cluster an app has several handles, behind shards/shards.h.
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "engines/redis/codec.h"
#include "engines/redis/library.h"
#include "engines/redis/server.h"
#include "engines/run.h"

// The script, without its first line; made from lua/ at build.

enum {
    DTI_REDIS_OPS_MAX = 64,      // of one caller in a call; more are several
    DTI_REDIS_SHARDS = 4,        // for each master of a Cluster
    DTI_REDIS_TEXT = 512,        // of an error
    DTI_REDIS_HUNGRY = 16,       // words: types that share a bit are hungry together, harmlessly
};

// ---- a call: one caller's operations ------------------------------------------------
typedef enum { DTI_REDIS_QUEUED, DTI_REDIS_FLYING, DTI_REDIS_DONE } dti_redis_state;
typedef struct dti_redis_call {
    STAILQ_ENTRY(dti_redis_call) entry;
    dti_buf wire;                // each operation as "$n\r\n..\r\n"
    uint32_t nops;
    bool grows;                  // needs memory: refused by a server that is full
    bool bell;                   // of a bell: nobody waits, lost with the connection
    bool turns;                  // asks for work: its answer says who is hungry
    bool brief;                  // its caller waits for an answer that is near
    // under lock
    dti_redis_state state;
    bool left;                   // its caller has: the I/O thread frees it
    pthread_cond_t news;
    // out
    dtask_err err;
    bool full;                   // the server is: nothing was done
    char text[DTI_REDIS_TEXT];   // of err
    char *replies; size_t nreplies; // msgpack of each operation, one behind the other; malloc'ed
} dti_redis_call;
STAILQ_HEAD(dti_redis_calls, dti_redis_call);

// ---- bells ----------------------------------------------------------------------------
struct dti_bell {
    LIST_ENTRY(dti_bell) entry;
    struct dti_redis *at;
    int fd;
    char name[40];
    uint64_t worker;
    // under lock
    bool said, subscribed, gone, again; // again: it was subscribed before, and may have missed a ring
    bool asleep, rung;           // as the shard knows it
    int64_t said_at;             // asleep: when the shard was told
    uint32_t nap;                // how often it fell asleep
    bool blind;                  // its owner did not look before this sleep
    char *news; size_t nnews;    // what the ring brought of `end`; malloc'ed
    uint32_t *types; size_t ntypes, ctypes;
    char end[224]; size_t nend;  // id of the job or task that it waits for
};

// ---- the handle ---------------------------------------------------------------------------
typedef struct dti_redis {
    dti_engine engine;
    unsigned forks;
    int64_t timeout_us, lease_us;
    char key[260];               // "{app.k}"
    unsigned shard;              // k
    unsigned shards;             // as the store has it; 0: not heard yet
    bool one_shard;              // a new app is to have one
    pthread_t thread;
    int wake_fd;                 // a caller has something for the thread
    int cancel_fd;               // the handle is being closed
    _Atomic uint64_t hungry[DTI_REDIS_HUNGRY];
    _Atomic int64_t ahead_us;    // the server's clock, of ours

    pthread_mutex_t lock;
    pthread_cond_t moved;        // up, down, a bell is subscribed
    struct dti_redis_calls queue;
    bool sleeps;                 // the thread polls: wake it
    bool called;                 // it was to be woken since it last looked at bells and queue
    bool closing, up, soon;
    bool doubt;                  // another server than it was
    bool mute;                   // the server refuses to let us subscribe
    unsigned attempts;           // to come up, since the last success
    dtask_err last_err;
    char last[DTI_REDIS_TEXT];   // what went wrong last
    dti_redis_server server;
    LIST_HEAD(, dti_bell) bells;
    unsigned bell_count;         // ever
    uint64_t id;                 // of this handle, in bells' names

    // the thread's own
    dti_redis_target target;
    dti_redis_connection line;   // for the script
    dti_redis_connection ear;    // for the bells
    STAILQ_HEAD(, dti_redis_flight) flights; // sent, oldest first
    unsigned nflights;
    int64_t pause_until;         // the server asked for patience
    int64_t ear_at;              // not before: try the ear again
    int64_t lost_at;             // when it went down; 0: never, or it is up
    bool away;                   // it did not come up at once, and that was told
    dti_tell tell;
    dti_arena arena;
} dti_redis;

// ---- pipe.c
void *dti_redis_main(void *);
// Under lock. wake: now; else with the next that is.
void dti_redis_enqueue(dti_redis *, dti_redis_call *, bool wake);
void dti_redis_call_free(dti_redis_call *);
// Appends one operation that stands in `op`, and empties that.
void dti_redis_put_wire(dti_redis_call *, dti_buf *op);
// Under lock: the thread looks at what is new.
void dti_redis_wake(dti_redis *);

// ---- bells.c
dtask_err dti_redis_bell_open(dti_engine *, uint64_t worker, dti_bell **out);
void dti_redis_bell_close(dti_bell *);
int dti_redis_bell_fd(dti_bell *);
void dti_redis_bell_asleep(dti_bell *, const uint32_t *types, size_t n, const dti_awaited *);
bool dti_redis_bell_await(dti_bell *, const dti_awaited *);
bool dti_redis_bell_news(dti_bell *, dti_arena *, dti_op *read);
void dti_redis_bell_awake(dti_bell *);
void dti_redis_bell_ring(dti_bell *);
// The thread's, in each of its rounds, before it polls: subscribes, says again
// who sleeps. Returns when it has to be called again (us, monotonic).
int64_t dti_redis_bells_round(dti_redis *);
void dti_redis_bells_heard(dti_redis *);  // the ear has something, or is lost
void dti_redis_bells_ring(dti_redis *);   // all: something may have been missed
void dti_redis_bells_deaf(dti_redis *);   // lets go of the ear
void dti_redis_bells_free(dti_redis *);
