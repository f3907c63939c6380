// What a client or a worker asks of an engine: run operations atomically,
// and ring whoever waits for what they did. Engines are chosen by URL in
// engine.c, and nowhere else.
#pragma once

#include <stdatomic.h>

#include "model/model.h"

typedef struct dti_engine dti_engine;
typedef struct dti_bell dti_bell;

typedef struct {                 // values outlive open only
    const char *url;             // "memory:", "sqlite:jobs.db"
    const char *app;             // the namespace; memory: stores are shared by (app, url) in a process
    bool full;                   // durability=full
    int64_t lease_us;
    int64_t timeout_us;          // how long a call waits for other writers, or for a server: EENGINE after it
    const char *tls_ca, *tls_cert, *tls_key;    // files; NULL or empty: the system's authorities, none
    const char *prefix;          // heads the names of keys; NULL or empty: none
    bool one_shard;              // its user needs all in one
    dti_tell tell;               // of a server that was there: it is away, it is back
    // kafka: alone
    const char *store;           // the URL of what keeps the rows
    const char *kafka;           // options of librdkafka: lines NAME=VALUE; NULL or empty: none
    uint8_t done;                // DTI_DONE_*: whether ends of jobs go into a topic
    const char *member;          // the worker's static id in the group; NULL or empty: none
    const char *shared;          // "a,b": starts of these types lie in one topic; NULL or empty: each type has its own
    unsigned partitions, replication; // of topics that are made; 0: 4, as the brokers have it
} dti_engine_conf;

typedef struct {                 // a job, or a task that is no root
    dti_hash hash;               // dti_id_hash of the job, or dti_task_hash
    dtask_str id;                // "job", or "job/7"
} dti_awaited;

typedef struct {
    const char *schemes;         // "redis rediss": of the URLs that are its own
    dtask_err (*open)(const dti_engine_conf *, dti_engine **out);
    // Ends it for this holder; calls in other threads must have returned.
    void (*close)(dti_engine *);
    // op.err's detail: the engine keeps the text of the first that failed as
    // this thread's. Runs the ops, each atomically and in order; on return each op's err is
    // set, and what was accepted is as durable as the engine promises. Any
    // thread; blocks while others write. Several threads' ops share commits.
    void (*call)(dti_engine *, dti_arena *, dti_op *ops, size_t n);

    // ---- bells: how a sleeper learns of news ----
    // One for each worker and each waiting client thread. fd is readable when
    // rung. Where the engine sees deaths (`sees_deaths`) a worker's bell also is
    // its sign of life: it dies with the process, and the engine's sweep gives
    // back what the worker held. Elsewhere its turns are, within its lease.
    dtask_err (*bell_open)(dti_engine *, uint64_t worker /* 0: a client */, dti_bell **out);
    void (*bell_close)(dti_bell *);
    int (*bell_fd)(dti_bell *);
    // About to sleep: from now on ring me when one of these types has ready
    // tasks (or my wakes, for a worker), or when this has ended (NULL:
    // nothing). Then look once more, then poll the fd, then awake.
    void (*bell_asleep)(dti_bell *, const uint32_t *types, size_t n, const dti_awaited *);
    // A client's: about to sleep until this job's end; no look is needed before:
    // what has ended, or is not there, rings at once. NULL, or false: there is
    // no such thing here.
    bool (*bell_await)(dti_bell *, const dti_awaited *);
    // After such a ring, awake: answers a read of that job (DTI_READ_JOB, whole)
    // by what it brought. NULL, or false: nothing; the engine is to be asked.
    bool (*bell_news)(dti_bell *, dti_arena *, dti_op *read);
    // Clears the fd and the asleep mark. Sign of life too.
    void (*bell_awake)(dti_bell *);
    // Sign of life: call at least each lease/3.
    void (*bell_beat)(dti_bell *);
    // What slot i of this worker executes now (job 0: nothing), so that its
    // death charges these only. i < DTI_BELL_SLOTS. A plain store: any thread.
    void (*bell_runs)(dti_bell *, unsigned i, uint64_t job, uint32_t ord);
    // Some worker of another bell sleeps for this type.
    bool (*hungry)(dti_engine *, dti_bell *self, uint32_t type);
    // Rings one bell from another thread of this process (stop, new outbox).
    void (*bell_ring)(dti_bell *);
    // What there is to say about the server, as a msgpack map, after it was
    // asked for all that will be needed of it. NULL: there is none. May block.
    dtask_err (*about)(dti_engine *, dti_buf *out);
} dti_engine_ops;

enum { DTI_BELL_SLOTS = 64 };

struct dti_engine {
    const dti_engine_ops *ops;
    unsigned shards;             // 1, where open says nothing else
    uint64_t salt;               // the store's, of call, unique and key hashes
    bool by_name;                // takes starts by their type's name: one that was known stays so while the store has it not
    bool sees_deaths;            // at each sweep; else what is due says when to sweep
    _Atomic uint64_t era;        // as last heard; changed: the store may have lost its last writes, types among them
};

// Job and worker numbers have their shard in front: so a number is enough to
// find what it names. What one shard knows alone (claims, wakes, sweeps) goes
// to it by its worker's number or by dti_op.shard; all else by the job.
enum { DTI_SHARD_SHIFT = 40, DTI_SHARDS_MAX = 64 };
static inline unsigned dti_shard_of(uint64_t no) {
    return (unsigned)(no >> DTI_SHARD_SHIFT);
}

// Writes the URL with *** for its password, for people.
void dti_url_show(const char *url, char *out, size_t n);

// EARGS: no such scheme, malformed. Other errors are the engine's.
dtask_err dti_engine_open(const dti_engine_conf *, dti_engine **out);

// One op; returns its err (the detail is this thread's).
dtask_err dti_engine_call(dti_engine *, dti_arena *, dti_op *op);
