// See done.h.
#include "engines/kafka/done.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/msgpack.h"
#include "engines/kafka/record.h"

struct dti_publisher {
    dti_report report;           // one for all that is on its way
    dti_broker *broker;
    char *topic;
    void (*rung)(void *);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t news;         // on the monotonic clock
    // under lock
    size_t left;                 // not told yet
    bool failed, missing, closed;
    int code;                    // why one was not written
    bool said;                   // once, until all that was on its way is written
    uint64_t era, upto;          // of what is on its way; upto 0: none was taken
    char *bytes;                 // of its records
};

static void release(dti_publisher *p) {
    pthread_cond_destroy(&p->news);
    pthread_mutex_destroy(&p->lock);
    free(p->bytes);
    free(p->topic);
    free(p);
}

// n records were told, or not sent at all.
static void told(dti_publisher *p, size_t n, dtask_err err, int code) {
    int say = 0;
    char topic[DTI_KAFKA_NAME_MAX + 1];
    pthread_mutex_lock(&p->lock);
    dti_broker *broker = p->broker;
    p->left -= n;
    if (err) p->failed = true;
    if (err && code) p->code = code;
    if (err == DTASK_ENOTFOUND) p->missing = true;
    bool over = !p->left, last = over && p->closed;
    if (over) {
        if (p->failed) p->upto = 0; // at the next turn again
        if (!p->failed) p->said = false;
        else if (!p->said && !p->missing) say = p->code, p->said = say;
        free(p->bytes);
        p->bytes = NULL;
        pthread_cond_broadcast(&p->news);
        if (!p->closed && !p->failed) p->rung(p->arg); // failed: not at once
    }
    if (say) snprintf(topic, sizeof topic, "%s", p->topic);
    pthread_mutex_unlock(&p->lock); // from here on it may be closed, and gone
    if (last) release(p);
    if (say) dti_broker_unwritten(broker, topic, say);
}

static void reported(dti_report *r, dtask_err err, int code, dti_place place) {
    (void)place;
    told((dti_publisher *)r, 1, err, code);
}

dtask_err dti_done_open(dti_broker *b, const char *topic, void (*rung)(void *), void *arg, dti_publisher **out) {
    dti_publisher *p = calloc(1, sizeof *p);
    if (!p || !(p->topic = strdup(topic))) {
        free(p);
        return dti_fail(DTASK_ENOMEM, "out of memory for the ends of jobs");
    }
    p->report.told = reported;
    p->broker = b;
    p->rung = rung;
    p->arg = arg;
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&p->news, &mono);
    pthread_condattr_destroy(&mono);
    pthread_mutex_init(&p->lock, NULL);
    *out = p;
    return DTASK_OK;
}

void dti_done_close(dti_publisher *p) {
    pthread_mutex_lock(&p->lock);
    bool last = !p->left;
    p->closed = true;
    pthread_mutex_unlock(&p->lock);
    if (last) release(p);
}

void dti_done_ask(dti_publisher *p, uint64_t worker, dti_done *d) {
    *d = (dti_done){.worker = worker};
    pthread_mutex_lock(&p->lock);
    if (!p->left) {
        d->n = DTI_DONE_BATCH;
        d->era = p->era;
        d->upto = p->upto;
    }
    pthread_mutex_unlock(&p->lock);
}

// The record's key: `id` is its first field.
static dtask_str key_of(dtask_str record) {
    dti_mp at = dti_mp_of(record);
    dti_mpval head, name, id;
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_MAP || !dti_mp_next(&at, &name) || !dti_mp_next(&at, &id) || id.kind != DTI_MP_STR)
        return (dtask_str){0};
    return id.s;
}

void dti_done_take(dti_publisher *p, const dti_done *d) {
    size_t size = 0, at = 0, sent = 0;
    if (!d->nends) return;
    pthread_mutex_lock(&p->lock);
    bool missing = p->missing;
    pthread_mutex_unlock(&p->lock);
    if (missing && dti_broker_make(p->broker, &(const char *){p->topic}, 1, false)) return;
    for (uint32_t i = 0; i < d->nends; i++) size += d->ends[i].n;
    char *bytes = malloc(size + 1);
    if (!bytes) return;          // at the next turn again
    pthread_mutex_lock(&p->lock);
    p->left = d->nends;
    p->failed = p->missing = false;
    p->code = 0;
    p->bytes = bytes;
    p->era = d->era;
    p->upto = d->first + d->nends;
    pthread_mutex_unlock(&p->lock);
    dtask_err err = DTASK_OK;
    // The last one is told only after all others: until then `bytes` stays.
    for (; sent < d->nends; sent++) {
        dtask_str record = dti_str(memcpy(bytes + at, d->ends[sent].p, d->ends[sent].n), d->ends[sent].n);
        if ((err = dti_broker_send(p->broker, p->topic, key_of(record), record, &p->report))) break;
        at += record.n;
    }
    if (err) told(p, d->nends - sent, err, 0);
}

bool dti_done_wait(dti_publisher *p, int64_t until_us) {
    struct timespec ts = {until_us / 1000000, until_us % 1000000 * 1000};
    pthread_mutex_lock(&p->lock);
    int late = 0;
    while (p->left && !late) late = pthread_cond_timedwait(&p->news, &p->lock, &ts);
    bool done = !p->left && !p->failed;
    pthread_mutex_unlock(&p->lock);
    return done;
}
