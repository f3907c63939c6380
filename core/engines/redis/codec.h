// Operations as they travel to the Redis script and back: proto/redis.md.
//
// Guaranteed: what is written fits the format; a reply that does not is
// EVERSION or EINTERNAL, never a read outside of it. Not done here: sending.
//
// Memory: what a reply points at lies in `arena` or in the reply's bytes,
// which the caller keeps as long.
#pragma once

#include "base/msgpack.h"
#include "model/model.h"

enum { DTI_REDIS_FORMAT = 1, DTI_REDIS_WANT_FX = 1 };
enum { DTI_REDIS_OP_ASLEEP = 8, DTI_REDIS_OP_AWAKE = 9, DTI_REDIS_OP_DUMP = 10, DTI_REDIS_OP_INIT = 11,
    DTI_REDIS_OP_INTAKE = 12, DTI_REDIS_OP_DONE = 13 };

// ---- to the script: one argument each; failures stay in buf.failed -------------
void dti_redis_put_header(dti_buf *, int64_t now, dtask_str run_id, unsigned flags);
void dti_redis_put_op(dti_buf *, const dti_op *);
// A start as it is written there. dti_redis_take_start reads it back, from
// bytes that may be anything: false, or all of it fits; *out points into them
// and the arena.
void dti_redis_put_start(dti_buf *, const dti_start *);
bool dti_redis_take_start(dti_arena *, dtask_str bytes, dti_start *out);
void dti_redis_put_asleep(dti_buf *, dtask_str bell, uint64_t worker, const uint32_t *types, size_t n, dtask_str job_id, uint64_t era,
    uint32_t nap, bool blind);
void dti_redis_put_awake(dti_buf *, dtask_str bell, uint64_t worker, dtask_str job_id);
// Makes an empty shard ready, with this salt, as one of so many; in one that is ready changes nothing.
void dti_redis_put_init(dti_buf *, uint64_t salt, unsigned shards);

// ---- from the script ---------------------------------------------------------------
typedef struct {
    const uint32_t *hungry; uint32_t nhungry;
    dti_effects fx;              // ended: hashed
    uint64_t era;                // the shard's
    dti_mp replies;              // take them in order
    uint32_t nreplies;
} dti_redis_answer;
// The call's error (the detail set) or DTASK_OK.
dtask_err dti_redis_take_answer(dti_arena *, dtask_str bytes, dti_redis_answer *out);
// The next reply becomes op's outs; op->err is set and returned.
dtask_err dti_redis_take_reply(dti_arena *, dti_redis_answer *, dti_op *op);
// The next reply is of init: the shard's salt and era, and how many shards there are.
dtask_err dti_redis_take_init(dti_redis_answer *, uint64_t *salt, uint64_t *era, unsigned *shards);
// The next reply is of no op of the model: its error; *out (may be NULL): its value.
dtask_err dti_redis_take_value(dti_redis_answer *, dtask_str *out);
