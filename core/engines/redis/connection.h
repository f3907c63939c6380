// One connection to a Redis server: TCP, TLS where asked for, hiredis' reader
// over what comes in.
//
// Guaranteed: no descriptor is inherited by a program that is started; every
// wait ends at its deadline, or when `cancel` is readable. Not done here: what
// is said over it (server.c, pipe.c). A connection belongs to one thread,
// which has SIGPIPE blocked.
#pragma once

#include <hiredis/hiredis.h>
#include <openssl/ssl.h>

#include "engines/redis/url.h"

typedef struct {
    int fd;                      // -1: closed
    SSL *ssl;
    dti_buf out;                 // to be sent from `sent` on
    size_t sent;
    redisReader *reader;
    bool wants_write;            // TLS reads only after it has written
    char peer[300];              // "host:port", for sentences
    bool heard;                  // a reply came
} dti_redis_connection;

// The TLS side of all connections of an engine. NULL texts: none. EARGS: a
// file that cannot be read, or a key without a certificate.
dtask_err dti_redis_tls_new(const char *ca, const char *cert, const char *key, SSL_CTX **out);

// Tries all addresses of the host. tls NULL: none. cancel: a descriptor, or -1.
// EENGINE names host and reason.
dtask_err dti_redis_connect(dti_redis_connection *, const dti_redis_host *, SSL_CTX *tls, int64_t until, int cancel);
void dti_redis_disconnect(dti_redis_connection *);

// Appends one command to `out`.
void dti_redis_say(dti_redis_connection *, int argc, const char *const *argv, const size_t *lengths /* NULL: texts */);
// Sends what goes now. EENGINE: the connection is lost.
dtask_err dti_redis_flush(dti_redis_connection *);
// Reads what is there. EENGINE: the connection is lost.
dtask_err dti_redis_fill(dti_redis_connection *);
// The next reply that was read whole, or NULL. EENGINE: no reply of Redis.
dtask_err dti_redis_next(dti_redis_connection *, redisReply **out);
// What to poll for.
short dti_redis_events(const dti_redis_connection *);
// Flushes and waits for one reply.
dtask_err dti_redis_await(dti_redis_connection *, int64_t until, int cancel, redisReply **out);
