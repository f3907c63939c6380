// Finding the server that has the shard, and whether it can be trusted with it.
//
// Guaranteed of a connection that is handed out: logged in, the database
// selected; Redis 7.0 or newer, the master, done loading, one that evicts
// nothing, a Cluster or not as the URL says.
#pragma once

#include "engines/redis/connection.h"

typedef struct {
    dti_redis_url url;
    SSL_CTX *tls;                // NULL: none
    char name[128];              // how our connections are called in CLIENT LIST
    char tag[256];               // "app.k": what its keys have in braces
    unsigned first;              // the host to begin with: the last that knew
} dti_redis_target;

typedef struct {
    dti_redis_host host;         // where it was found
    // A hash of run_id and master_replid. A server that was started anew has
    // another run_id, and one that another server's data replaced has another
    // master_replid, also if it is the master again: run_id alone would miss
    // a master that was demoted and promoted again and lost its last writes.
    char run_id[33];
    char version[32], policy[32], persistence[64];
    unsigned masters;            // of the Cluster; 0: it is none
    uint64_t maxmemory, used;
    int64_t ahead_us;            // its clock of ours, about
} dti_redis_server;

// *soon: the server says that it will be ready in a while (loading, failing
// over). Errors: EENGINE with one sentence, EVERSION of an old server.
dtask_err dti_redis_find(dti_redis_target *, int64_t until, int cancel, dti_redis_connection *out, dti_redis_server *server, bool *soon);
// Another connection to a server that was found.
dtask_err dti_redis_join(const dti_redis_target *, const dti_redis_host *, int64_t until, int cancel, dti_redis_connection *out);
// What a reply of kind ERROR means, as a sentence; the code is EENGINE.
dtask_err dti_redis_refused(const dti_redis_target *, const char *peer, const redisReply *);
// Whether an error of Redis begins with this word.
bool dti_redis_says(const redisReply *, const char *word);
// Of the Cluster's 16,384.
unsigned dti_redis_slot(const char *tag);
