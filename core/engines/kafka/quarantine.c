// See quarantine.h. The record is told in proto/kafka.md.
#include "engines/kafka/quarantine.h"

#include <stdio.h>

#include "base/msgpack.h"
#include "engines/kafka/record.h"

static dtask_err put(dti_quarantine *q, dtask_str source, int64_t next, dtask_str key, const dtask_str *value, const char *why) {
    dti_buf b = {0};
    dti_mp_put_array(&b, 5);
    dti_mp_put_uint(&b, DTI_KAFKA_FORMAT);
    dti_mp_put_str(&b, source);
    dti_mp_put_int(&b, next - 1);
    dti_mp_put_strz(&b, why);
    if (value) dti_mp_put_bin(&b, *value);
    else dti_mp_put_nil(&b);
    dti_write write = {.topic = q->topic, .key = key, .value = dti_str(b.p, b.n)};
    if (!b.failed) dti_broker_write(q->broker, &write, 1);
    dtask_err err = b.failed ? DTASK_ENOMEM : dti_broker_outcome(q->broker, &write);
    dti_buf_done(&b);
    snprintf(q->denied, sizeof q->denied, "%s", dti_broker_denied(&write) ? dtask_err_detail() : "");
    return err;
}

bool dti_quarantine_put(dti_quarantine *q, dtask_str source, int64_t next, dtask_str key, dtask_str value, const char *why) {
    if (dti_broker_make(q->broker, &q->topic, 1, true)) return false; // it was deleted
    dtask_err err = put(q, source, next, key, &value, why);
    return !(err == DTASK_ETOOBIG ? put(q, source, next, key, NULL, why) : err);
}

dtask_str dti_quarantine_refusal(const dti_quarantine *q, dti_arena *arena, const char *why) {
    char text[1024];
    int n = snprintf(text, sizeof text, "this start was not taken in: %s; its record lies in Kafka's topic %s", why, q->topic);
    return dti_dup(arena, dti_str(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1));
}
