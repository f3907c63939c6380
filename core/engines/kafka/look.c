// What `doctor` shows of Kafka: dti_broker_look of broker.h. Looks only: it makes
// nothing, writes nothing and joins no group.
#include "base/msgpack.h"
#include "engines/kafka/inside.h"

#include <stdio.h>
#include <string.h>

enum { TEXT = DTI_BROKER_TEXT };

typedef struct { dti_buf missing; uint32_t n; int64_t quarantined, newest; char why[TEXT]; } found;

static void misses(found *f, const char *right, const char *of, const char *name) {
    char text[TEXT];
    dti_broker_right(text, right, of, name);
    dti_mp_put_strz(&f->missing, text);
    f->n++;
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
static dtask_err may_read(dti_broker *b, const dti_look *what, found *f) {
    const char *pairs[] = {"group.id", what->group, "enable.partition.eof", "true", "enable.auto.commit", "false", "fetch.wait.max.ms", "10", NULL};
    rd_kafka_conf_t *conf;
    char why[TEXT];
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t code = rd_kafka_metadata(b->rk, 1, NULL, &m, b->timeout_ms);
    if (code) return dti_broker_trouble(b, "no broker answers", code);
    rd_kafka_topic_partition_list_t *parts = rd_kafka_topic_partition_list_new(16);
    for (int i = 0; i < m->topic_cnt; i++) {
        const struct rd_kafka_metadata_topic *t = &m->topics[i];
        bool last = !strcmp(t->topic, what->quarantine), ours = last;
        for (size_t j = 0; j < what->n && !ours; j++) ours = !strcmp(t->topic, what->topics[j]);
        if (!ours || !t->partition_cnt) continue;
        if (last) held(b, t->topic, t->partition_cnt, f);
        for (int32_t p = 0; p < (last ? t->partition_cnt : 1); p++)
            rd_kafka_topic_partition_list_add(parts, t->topic, p);
    }
    rd_kafka_metadata_destroy(m);
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
            if (r->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED && r->rkt) misses(f, "Read", "topic", rd_kafka_topic_name(r->rkt));
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

dtask_err dti_broker_look(dti_broker *b, const dti_look *what, dti_buf *out, uint32_t *pairs) {
    found f = {.newest = INT64_MIN};
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t code = rd_kafka_metadata(b->rk, 0, NULL, &m, b->timeout_ms);
    if (code) return dti_broker_trouble(b, "no broker answers", code);
    dti_mp_put_strz(out, "kafka");
    dti_mp_put_strz(out, b->servers);
    dti_mp_put_strz(out, "kafka_brokers");
    dti_mp_put_uint(out, (uint64_t)m->broker_cnt);
    rd_kafka_metadata_destroy(m);
    const char *absent = NULL;   // who has all topics needs no right to make them
    dtask_err err = DTASK_OK;
    for (size_t i = 0; i <= what->n; i++) {
        const char *topic = i < what->n ? what->topics[i] : what->quarantine;
        bool may = true;
        dtask_err here = dti_broker_asked(b, topic, &may);
        if (here && !may && i < what->n) misses(&f, "Describe", "topic", topic);
        else if (here) absent = topic;
    }
    if (absent) err = may_create(b, absent, &f);
    if (!err) err = may_read(b, what, &f);
    dti_mp_put_strz(out, "librdkafka");
    dti_mp_put_strz(out, rd_kafka_version_str());
    dti_mp_put_strz(out, "quarantined");
    dti_mp_put_int(out, f.quarantined);
    dti_mp_put_strz(out, "quarantined_why");
    dti_mp_put_strz(out, f.why);
    dti_mp_put_strz(out, "missing");
    dti_mp_put_array(out, f.n);
    dti_buf_add(out, f.missing.p, f.missing.n);
    dti_buf_done(&f.missing);
    *pairs = 6;
    return err;
}
