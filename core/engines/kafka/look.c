// What `doctor` shows of Kafka: dti_broker_look of broker.h. Looks only: it makes
// nothing, writes nothing and joins no group.
#include "base/msgpack.h"
#include "engines/kafka/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = DTI_BROKER_TEXT };

typedef struct {
    dti_buf missing, absent, topics;   // elements of msgpack arrays, and how many
    uint32_t nmissing, nabsent, ntopics;
    uint32_t unseen;             // topics whose settings this user may not see
    int64_t quarantined, newest;
    char why[TEXT];
} found;

static void misses(found *f, const char *right, const char *of, const char *name) {
    char text[TEXT];
    dti_broker_right(text, right, of, name);
    dti_mp_put_strz(&f->missing, text);
    f->nmissing++;
}

static void misses_topic(found *f, const char *topic) {
    dti_mp_put_strz(&f->absent, topic);
    f->nabsent++;
}

// NULL: it is not there, or not to be seen.
static const struct rd_kafka_metadata_topic *topic_of(const struct rd_kafka_metadata *m, const char *name) {
    for (int i = 0; i < m->topic_cnt; i++)
        if (!strcmp(m->topics[i].topic, name)) return m->topics[i].partition_cnt ? &m->topics[i] : NULL;
    return NULL;
}

// Whether topics can be made is asked without making one.
static dtask_err may_create(dti_broker *b, const char *topic, found *f) {
    char why[TEXT];
    rd_kafka_NewTopic_t *new = rd_kafka_NewTopic_new(topic, (int)b->partitions, b->replication, why, sizeof why);
    if (!new) return dti_fail(DTASK_EARGS, "Kafka's topic %s cannot be made: %s", topic, why);
    bool may = true;
    dtask_err err = dti_broker_create(b, &new, 1, true, &may);
    rd_kafka_NewTopic_destroy(new);
    if (may) return err;
    misses(f, "Create", "topic", topic);
    return DTASK_OK;
}

// `[1, source, offset, why, value]`: the fourth.
static void newest(found *f, const rd_kafka_message_t *m) {
    dti_mp at = dti_mp_of(dti_str(m->payload, m->len));
    dti_mpval v;
    int64_t when = rd_kafka_message_timestamp(m, NULL);
    if (when < f->newest || !dti_mp_next(&at, &v) || v.kind != DTI_MP_ARRAY || v.n < 4) return;
    for (int i = 0; i < 4; i++)
        if (!dti_mp_next(&at, &v)) return;
    if (v.kind != DTI_MP_STR) return;
    f->newest = when;
    snprintf(f->why, sizeof f->why, "%.*s", (int)v.s.n, v.s.p);
    for (char *p = f->why, *end = p + strlen(p); p < end;) { // anybody may have written it, and it was cut
        size_t n = dti_utf8_sign(p, end);
        if (!n) *p = '?';
        p += n ? n : 1;
    }
}

static void held(dti_broker *b, const char *topic, int32_t partitions, found *f) {
    for (int32_t i = 0; i < partitions; i++) {
        int64_t low, high;
        if (!rd_kafka_query_watermark_offsets(b->rk, topic, i, &low, &high, b->timeout_ms)) f->quarantined += high - low;
    }
}

// Reads the end of each topic's first partition, and what was put into
// quarantine last, with a reader that joins no group: a fetch tells what may
// not be read.
static dtask_err may_read(dti_broker *b, const dti_look *what, const struct rd_kafka_metadata *m, found *f) {
    const char *pairs[] = {"group.id", what->group, "enable.partition.eof", "true", "enable.auto.commit", "false", "fetch.wait.max.ms", "10", NULL};
    rd_kafka_conf_t *conf;
    char why[TEXT];
    rd_kafka_topic_partition_list_t *parts = rd_kafka_topic_partition_list_new(16);
    for (size_t i = 0; i < what->n; i++)
        if (topic_of(m, what->topics[i])) rd_kafka_topic_partition_list_add(parts, what->topics[i], 0);
    const struct rd_kafka_metadata_topic *last = topic_of(m, what->quarantine);
    if (last) held(b, last->topic, last->partition_cnt, f);
    for (int32_t p = 0; last && p < last->partition_cnt; p++) rd_kafka_topic_partition_list_add(parts, last->topic, p);
    bool last_denied = false;
    dtask_err err = dti_broker_settings(b, pairs, &conf);
    rd_kafka_t *rk = err ? NULL : rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!err && !rk) {
        rd_kafka_conf_destroy(conf);
        err = dti_fail(DTASK_EARGS, "librdkafka refuses its options: %s", why);
    }
    if (rk && parts->cnt) {
        rd_kafka_poll_set_consumer(rk);
        // Without the right to the group no coordinator is found, which is told among the records.
        bool grouped = rd_kafka_committed(rk, parts, b->timeout_ms < 3000 ? b->timeout_ms : 3000) != RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
        for (int i = 0; i < parts->cnt; i++)
            parts->elems[i].offset = strcmp(parts->elems[i].topic, what->quarantine) ? RD_KAFKA_OFFSET_END : RD_KAFKA_OFFSET_TAIL(1);
        rd_kafka_assign(rk, parts);
        int64_t until = dti_mono_us() + (int64_t)b->timeout_ms * 1000;
        for (int left = parts->cnt; left && dti_mono_us() < until;) {
            rd_kafka_message_t *r = rd_kafka_consumer_poll(rk, 100);
            if (!r) continue;
            if (r->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED && r->rkt) {
                bool of_last = !strcmp(rd_kafka_topic_name(r->rkt), what->quarantine);
                if (!of_last || !last_denied) misses(f, "Read", "topic", rd_kafka_topic_name(r->rkt));
                last_denied = last_denied || of_last; // of all its partitions once
            }
            if (r->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED || r->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) left--;
            if (r->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED) grouped = false;
            if (!r->err) newest(f, r);
            rd_kafka_message_destroy(r);
        }
        if (!grouped) misses(f, "Read", "group", what->group);
        rd_kafka_assign(rk, NULL);
        rd_kafka_consumer_close(rk);
    }
    if (rk) rd_kafka_destroy(rk);
    rd_kafka_topic_partition_list_destroy(parts);
    return err;
}

static void tried(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    (void)rk, (void)opaque;
    if (m->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) misses(m->_private, "Write", "topic", rd_kafka_topic_name(m->rkt));
}

// By a record that no broker takes: rights come first, then acks=2, which is
// refused, for it is none of all, 1, 0. So nothing is written.
static void may_write(dti_broker *b, const dti_look *what, const struct rd_kafka_metadata *m, found *f) {
    const char *pairs[] = {"message.timeout.ms", "3000", "message.send.max.retries", "0", NULL};
    rd_kafka_conf_t *conf;
    char why[TEXT];
    if (dti_broker_settings(b, pairs, &conf)) return;
    rd_kafka_conf_set_dr_msg_cb(conf, tried);
    rd_kafka_t *rk = NULL;
    // Behind the user's settings, which may name it too.
    if (rd_kafka_conf_set(conf, "acks", "2", why, sizeof why) == RD_KAFKA_CONF_OK && rd_kafka_conf_set(conf, "enable.idempotence", "false", why, sizeof why) == RD_KAFKA_CONF_OK)
        rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        return;
    }
    for (size_t i = 0; i < what->n + 2; i++) {
        const char *topic = i < what->n ? what->topics[i] : i == what->n ? what->quarantine : what->done;
        if (topic && topic_of(m, topic)) rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_OPAQUE(f), RD_KAFKA_V_END);
    }
    rd_kafka_flush(rk, 5000);    // within it all have their report
    rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(rk, 1000);
    rd_kafka_destroy(rk);
}

// ---- settings of topics -------------------------------------------------------------------

// `[name, replicas, settings]`
static void put_topic(found *f, const rd_kafka_ConfigResource_t *r, int replicas) {
    static const char *const names[] = {"cleanup.policy", "min.insync.replicas", "retention.bytes", "retention.ms"};
    size_t n;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(r, &n);
    const char *values[sizeof names / sizeof *names] = {0};
    uint32_t there = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < sizeof names / sizeof *names; j++)
            if (!strcmp(rd_kafka_ConfigEntry_name(entries[i]), names[j])) values[j] = rd_kafka_ConfigEntry_value(entries[i]);
    for (size_t j = 0; j < sizeof names / sizeof *names; j++) there += values[j] != NULL;
    dti_mp_put_array(&f->topics, 3);
    dti_mp_put_strz(&f->topics, rd_kafka_ConfigResource_name(r));
    dti_mp_put_uint(&f->topics, (uint64_t)replicas);
    dti_mp_put_map(&f->topics, there);
    for (size_t j = 0; j < sizeof names / sizeof *names; j++) {
        if (!values[j]) continue;
        dti_mp_put_strz(&f->topics, names[j]);
        dti_mp_put_strz(&f->topics, values[j]);
    }
    f->ntopics++;
}

// Of the topics that starts lie in. That their settings may not be seen harms nobody.
static dtask_err settled(dti_broker *b, const dti_look *what, const struct rd_kafka_metadata *m, found *f) {
    rd_kafka_ConfigResource_t **list = calloc(what->n + 1, sizeof *list);
    char why[TEXT];
    size_t n = 0;
    if (!list) return dti_fail(DTASK_ENOMEM, "no memory for the settings of topics");
    for (size_t i = 0; i < what->n; i++)
        if (topic_of(m, what->topics[i]) && (list[n] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, what->topics[i]))) n++;
    rd_kafka_queue_t *answers = rd_kafka_queue_new(b->rk);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(b->rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_AdminOptions_set_request_timeout(options, b->timeout_ms, why, sizeof why);
    if (n) rd_kafka_DescribeConfigs(b->rk, list, n, options, answers);
    rd_kafka_event_t *event = n ? rd_kafka_queue_poll(answers, -1) : NULL; // it ends with its time
    rd_kafka_resp_err_t code = event ? rd_kafka_event_error(event) : 0;
    dtask_err err = code ? dti_broker_trouble(b, "the settings of topics cannot be read", code) : DTASK_OK;
    size_t count = 0;
    const rd_kafka_ConfigResource_t **of =
        event && !code ? rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &count) : NULL;
    for (size_t i = 0; i < count; i++) {
        const struct rd_kafka_metadata_topic *t = topic_of(m, rd_kafka_ConfigResource_name(of[i]));
        if (rd_kafka_ConfigResource_error(of[i])) f->unseen++;
        else if (t) put_topic(f, of[i], t->partitions[0].replica_cnt);
    }
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(answers);
    rd_kafka_ConfigResource_destroy_array(list, n);
    free(list);
    return err;
}

// ---- all of it ------------------------------------------------------------------------------

static void put_found(dti_buf *out, const char *name, uint32_t n, dti_buf *elements) {
    dti_mp_put_strz(out, name);
    dti_mp_put_array(out, n);
    dti_buf_add(out, elements->p, elements->n);
    out->failed = out->failed || elements->failed;
    dti_buf_done(elements);
}

dtask_err dti_broker_look(dti_broker *b, const dti_look *what, dti_buf *out, uint32_t *pairs) {
    found f = {.newest = INT64_MIN};
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t code = rd_kafka_metadata(b->rk, 1, NULL, &m, b->timeout_ms);
    if (code) return dti_broker_trouble(b, "no broker answers", code);
    dti_mp_put_strz(out, "kafka");
    dti_mp_put_strz(out, b->servers);
    dti_mp_put_strz(out, "kafka_brokers");
    dti_mp_put_uint(out, (uint64_t)m->broker_cnt);
    const char *absent = NULL;   // who has all topics needs no right to make them
    dtask_err err = DTASK_OK;
    for (size_t i = 0; i < what->n + 2; i++) {
        const char *topic = i < what->n ? what->topics[i] : i == what->n ? what->quarantine : what->done;
        bool may = true;
        if (!topic || topic_of(m, topic)) continue;
        dtask_err here = dti_broker_asked(b, topic, &may);
        if (here && !may && i != what->n) misses(&f, "Describe", "topic", topic);
        else if (here) absent = topic;
        // A worker of whatever type makes the quarantine: without types there was none.
        if (here == DTASK_ENOTFOUND && (i != what->n || what->n)) misses_topic(&f, topic);
    }
    if (absent) err = may_create(b, absent, &f);
    if (!err) err = may_read(b, what, m, &f);
    if (!err) may_write(b, what, m, &f);
    if (!err) err = settled(b, what, m, &f);
    rd_kafka_metadata_destroy(m);
    dti_mp_put_strz(out, "librdkafka");
    dti_mp_put_strz(out, rd_kafka_version_str());
    dti_mp_put_strz(out, "quarantined");
    dti_mp_put_int(out, f.quarantined);
    dti_mp_put_strz(out, "quarantined_why");
    dti_mp_put_strz(out, f.why);
    put_found(out, "missing", f.nmissing, &f.missing);
    put_found(out, "absent", f.nabsent, &f.absent);
    put_found(out, "topics", f.ntopics, &f.topics);
    dti_mp_put_strz(out, "unseen");
    dti_mp_put_uint(out, f.unseen);
    *pairs = 9;
    return err;
}
