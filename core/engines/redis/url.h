// Which Redis: the URL taken apart.
//
//   redis[s]://[[user]:password@]host[:port][/db]
//   redis[s]+cluster://[[user]:password@]h1[:port],h2[:port]
//   redis[s]+sentinel://[[user]:password@]h1[:port],h2[:port]/MASTER[/db]
//
// A host is a name, an IPv4 address or an IPv6 address in brackets. User and
// password have %xx for signs that mean something in a URL.
#pragma once

#include "base/base.h"

enum { DTI_REDIS_HOSTS = 16 };
typedef enum { DTI_REDIS_ONE, DTI_REDIS_CLUSTER, DTI_REDIS_SENTINEL } dti_redis_mode;
typedef struct { char host[256], port[6]; } dti_redis_host;

typedef struct {
    dti_redis_mode mode;
    bool tls;
    dti_redis_host hosts[DTI_REDIS_HOSTS];
    unsigned nhosts;
    char user[256], password[512]; // empty: none
    char master[128];            // SENTINEL
    unsigned db;
} dti_redis_url;

// EARGS: it is none; the sentence does not repeat user and password.
dtask_err dti_redis_url_parse(const char *url, dti_redis_url *out);
// "host:port", of IPv6 "[host]:port"; n: room.
void dti_redis_host_show(const dti_redis_host *, char *out, size_t n);
