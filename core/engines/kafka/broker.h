// All that is asked of Kafka: librdkafka is behind this file and nowhere else.
//
// A broker handle makes topics and writes records; a reader is one member of
// the app's consumer group. Records' places are told as "position behind it":
// the offset of the record that is wanted next.
//
// Threads: a broker takes calls of any thread; a reader of one at a time.
#pragma once

#include "base/base.h"

typedef struct dti_broker dti_broker;
typedef struct dti_reader dti_reader;

typedef struct {                 // values outlive open only
    const char *servers;         // "h1:9092,h2"
    const char *options;         // lines NAME=VALUE for librdkafka, or empty
    int64_t timeout_us;          // how long a write or a request may take
    unsigned partitions;         // of topics that are made
    int replication;             // the same; -1: as the brokers have it
    dti_tell tell;               // of an outage of all brokers and its end, and dti_broker_unwritten
} dti_broker_conf;

// EARGS: an option that librdkafka does not know, or its value. EENGINE: no
// broker answers; the sentence has the last that librdkafka said.
dtask_err dti_broker_open(const dti_broker_conf *, dti_broker **out);
void dti_broker_close(dti_broker *);     // what was written was awaited before

typedef struct { int32_t partition; int64_t next; } dti_place;
// Makes those that are not there, and returns when each is to be seen; a topic
// that is there stays as it is. accepted: their records are kept for ever, and
// may be as large as any start; else both are as the brokers have it.
// EENGINE names the topic and why.
dtask_err dti_broker_make(dti_broker *, const char *const *topics, size_t n, bool accepted);
// ENOTFOUND: there is no such topic. What was found once is remembered.
dtask_err dti_broker_knows(dti_broker *, const char *topic);
// A record without waiting: `told` is called once, by a thread of the broker's,
// which may not wait; key and value stay until then. On an error it is not
// called. One report may stand for many records. code: what librdkafka calls it.
typedef struct dti_report {
    void (*told)(struct dti_report *, dtask_err, int code, dti_place);
} dti_report;
dtask_err dti_broker_send(dti_broker *, const char *topic, dtask_str key, dtask_str value, dti_report *report);
// Records, each as durable as acks=all says when this returns, or not written:
// then its err says why. One wait for all; threads that write at once share
// requests. Those of one topic and key keep their order.
typedef struct {
    dti_report report;           // with `batch`, `code` and `sent` the broker's own
    struct dti_batch *batch;
    int code;
    bool sent;                   // it left this process
    dtask_err err;               // out: as of dti_broker_outcome
    dti_place place;             // out
    const char *topic;           // the caller's, as are key and value
    dtask_str key, value;
} dti_write;
void dti_broker_write(dti_broker *, dti_write *writes, size_t n);
// Its err, told in a sentence. ETOOBIG, by kafka.message.max.bytes before it is
// sent, else as the topic has it; ENOTFOUND: the topic is gone; EENGINE:
// not within the timeout, and it may have been written all the same.
dtask_err dti_broker_outcome(dti_broker *, const dti_write *);
// It was refused, for this user has no right to it.
bool dti_broker_denied(const dti_write *);
// topics: of types; done: where ends of jobs are told, else NULL
typedef struct { const char *group, *quarantine, *done; const char *const *topics; size_t n; } dti_look;
// Says to conf.tell why records of this topic are not written yet: code, a report's.
void dti_broker_unwritten(const dti_broker *, const char *topic, int code);
// About the cluster and what this user may do there, as pairs of a msgpack
// map: how many were put. Changes nothing: the right to write is seen by a
// record that brokers refuse. Blocks, for seconds. EENGINE: no broker answers,
// it is too old, or would not make such topics.
dtask_err dti_broker_look(dti_broker *, const dti_look *, dti_buf *out, uint32_t *pairs);

// The position of the first record that a partition still has. Blocks.
dtask_err dti_broker_first(dti_broker *, const char *topic, int32_t partition, int timeout_ms, int64_t *out);

// How many members of the group take records into another store; of dead ones
// too, until their session is over. 0 where that is not to be seen. Blocks.
unsigned dti_broker_strangers(dti_broker *, const char *group, uint64_t store);

// ---- reading ---------------------------------------------------------------------
// Joins `group` for these topics. fd (an eventfd) is written to when there is
// something to read, or to serve. member: the static id, or empty. store: a
// number of the store that it takes records into, for dti_broker_strangers.
dtask_err dti_reader_open(dti_broker *, const char *group, const char *member, uint64_t store, int fd, const char *const *topics, size_t n, dti_reader **out);
// Leaves the group (a static member's partitions wait for it).
void dti_reader_close(dti_reader *);

typedef struct {
    const char *topic;           // one of those of open, the same pointer
    int32_t partition;
    bool placed;                 // it is read
    int64_t at;                  // placed: the position of the next record to be handed out
} dti_part;
// EENGINE, with a sentence: the group, or one of the topics, may not be read
// by this user, or another reader is the same static member now. Looked at after dti_reader_serve and dti_reader_next.
dtask_err dti_reader_denied(const dti_reader *);
// Serves the group. Sets *parts to what is assigned; those that are not placed
// are to be given to dti_reader_place, all together. Valid until the next call.
size_t dti_reader_serve(dti_reader *, const dti_part **parts);
// Reads the i-th part from `at` on.
void dti_reader_place(dti_reader *, size_t i, int64_t at);

typedef struct {
    size_t part;                 // its place in parts
    int64_t from, next;          // the positions before and behind it
    dtask_str key, value;        // until dti_record_done
    void *own;
} dti_record;
// Of the topic that stood at `topic` in open's. Never waits; false: none is here.
bool dti_reader_next(dti_reader *, size_t topic, dti_record *out);
void dti_record_done(dti_record *);
bool dti_reader_waits(dti_reader *, size_t topic); // records of it are here that were not asked for yet
