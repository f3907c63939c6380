// What the files that speak to librdkafka, broker.c, kept.c, look.c and unread.c, share.
#pragma once

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "engines/kafka/broker.h"

enum { DTI_BROKER_TEXT = 512 };

struct dti_broker {
    rd_kafka_t *rk;
    char *servers, *options;
    int timeout_ms;
    unsigned partitions;
    int replication;
    pthread_t thread;            // serves the reports of writes
    atomic_bool closing;
    _Atomic int64_t lost_at;     // when librdkafka said that no broker is there; 0: one is
    _Atomic int refusal;         // of a password or certificate, as librdkafka calls it; 0: none
    bool away;                   // that was told; the thread's own
    dti_tell tell;
    pthread_mutex_t lock;
    char last[DTI_BROKER_TEXT];             // what librdkafka said last; under lock
    char **known; size_t nknown, cknown; // topics that are there; under lock
};

// Settings for a client: ours first, `pairs` (ends with NULL), then the user's, which win.
dtask_err dti_broker_settings(const dti_broker *, const char *const *pairs, rd_kafka_conf_t **out);
// EARGS: an option of that name is not the user's to give; the sentence says why.
dtask_err dti_broker_kept(const char *name);
// EENGINE: what failed, and the last that librdkafka said.
dtask_err dti_broker_trouble(dti_broker *, const char *what, rd_kafka_resp_err_t code);
// "the right Read on the topic x"
void dti_broker_right(char out[DTI_BROKER_TEXT], const char *right, const char *of, const char *name);
// As dti_broker_knows; *may is set to false where the right to see it is missing.
dtask_err dti_broker_asked(dti_broker *, const char *topic, bool *may);
// Makes topics, or only asks whether they could be made; *may as above.
dtask_err dti_broker_create(dti_broker *, rd_kafka_NewTopic_t **list, size_t n, bool only_asks, bool *may);
