// One engine in front of several, each with one shard: what a job's
// operations say goes to that job's shard, what all must know goes to each,
// and reads that span are put together.
//
//   shards.c   the seam: which shard, bells, open and close
//   numbers.c  numbers of jobs, workers and types, outside and in a shard
//   lists.c    reads that span: jobs, types, workers
//
// A job's shard is the hash of its id's part before the first `/`, `!` or
// `@`, so that what a completion starts lies where it completed, and all ticks
// of a type lie in one shard. Numbers of jobs and workers have their shard
// above DTI_SHARD_SHIFT. A type has a number in each shard, and one outside,
// which this handle alone gives out: from 1, never used again.
//
// Not done here: limits and unique keys of the scope app over shards. Who asks
// for them is refused by the client (dti_type_spread).
#pragma once

#include <pthread.h>

#include "engines/engine.h"

// Takes the engines over, also where it fails. n >= 1. EENGINE: they differ in their salt.
dtask_err dti_shards_new(dti_engine **of, unsigned n, dti_engine **out);

// ---- the parts among themselves ----------------------------------------------------
typedef struct {
    char *name;
    uint32_t version;
    uint32_t no[DTI_SHARDS_MAX]; // in each shard; 0: not known
} dti_shard_type;

typedef struct {
    dti_engine engine;
    unsigned forks, n;
    dti_engine *of[DTI_SHARDS_MAX];
    pthread_mutex_t lock;        // of what follows; no engine is called under it
    dti_shard_type **types; size_t ntypes, ctypes; // by outer number - 1
    uint32_t *outer[DTI_SHARDS_MAX]; size_t nouter[DTI_SHARDS_MAX]; // by number in the shard; 0: not known
    uint64_t era[DTI_SHARDS_MAX]; // under which the numbers were learnt
} dti_shards;

unsigned dti_shards_of_id(const dti_shards *, dtask_str id);
static inline uint64_t dti_shards_inner(uint64_t no) {
    return no & ((1ull << DTI_SHARD_SHIFT) - 1);
}
static inline uint64_t dti_shards_outer(unsigned k, uint64_t no) {
    return no ? (uint64_t)k << DTI_SHARD_SHIFT | no : 0;
}

// numbers.c. What a type is called in shard k; 0: there is none of that
// number, or the shard failed. It is made known there if it is not.
uint32_t dti_shards_type_in(dti_shards *, dti_arena *, unsigned k, uint32_t outer);
uint32_t dti_shards_type_out(dti_shards *, dti_arena *, unsigned k, uint32_t inner);
// The row's number from now on; 0: no memory.
uint32_t dti_shards_learn(dti_shards *, unsigned k, uint32_t inner, dtask_str name, uint32_t version);
// The name and version of an outer number. False: there is none.
bool dti_shards_named(dti_shards *, uint32_t outer, dtask_str *name, uint32_t *version);
// The operation as shard k has to see it. It points into op and the arena.
dtask_err dti_shards_put(dti_shards *, dti_arena *, unsigned k, const dti_op *op, dti_op *out);
// What shard k answered becomes the answer of op.
dtask_err dti_shards_take(dti_shards *, dti_arena *, unsigned k, dti_op *in, dti_op *op);

// lists.c. JOBS, TYPES and WORKERS, over all shards; sets read.err.
dtask_err dti_shards_list(dti_shards *, dti_arena *, dti_read *);
