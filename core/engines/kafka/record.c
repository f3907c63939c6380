// See record.h.
#include "engines/kafka/record.h"

#include <stdio.h>
#include <string.h>

#include "engines/redis/codec.h"

// Letters and digits are themselves, a dash leads what is not: `--`, `-_`, or
// two hexadecimal digits. dots: a dot is itself too.
static size_t put_part(char *out, size_t at, const char *part, bool dots) {
    for (const char *c = part; *c && at <= DTI_KAFKA_NAME_MAX; c++) {
        unsigned char u = (unsigned char)*c;
        bool plain = (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z') || (u >= '0' && u <= '9') || (dots && u == '.');
        int n = snprintf(out + at, DTI_KAFKA_NAME_MAX + 2 - at, plain ? "%c" : u == '-' || u == '_' ? "-%c" : "-%02x", u);
        at += (size_t)n;
    }
    return at;
}

static dtask_err put_name(const dti_kafka_names *names, const char *type, const char *what, char out[DTI_KAFKA_NAME_MAX + 1]) {
    char name[DTI_KAFKA_NAME_MAX + 8];
    size_t n = put_part(name, 0, names->prefix, true);
    if (n && n <= DTI_KAFKA_NAME_MAX) name[n++] = '.';
    n = put_part(name, n, names->app, false);
    const char *rest[] = {type, type ? "intake" : what};
    for (int i = 0; i < 2; i++) {
        if (!rest[i] || n > DTI_KAFKA_NAME_MAX) continue;
        name[n++] = '.';
        n = put_part(name, n, rest[i], false);
    }
    if (n > DTI_KAFKA_NAME_MAX)
        return dti_fail(DTASK_EARGS, "Kafka's topic for the task type \"%.100s\" would have a name of more than %d bytes: choose shorter names.",
            type ? type : names->app, DTI_KAFKA_NAME_MAX);
    memcpy(out, name, n);
    out[n] = 0;
    return DTASK_OK;
}

dtask_err dti_kafka_name(const dti_kafka_names *names, const char *what, char out[DTI_KAFKA_NAME_MAX + 1]) {
    return put_name(names, NULL, what, out);
}

dtask_err dti_kafka_topic(const dti_kafka_names *names, dtask_str type, char out[DTI_KAFKA_NAME_MAX + 1]) {
    char name[201];
    if (dti_kafka_shares(names, type)) return put_name(names, NULL, "shared", out);
    snprintf(name, sizeof name, "%.*s", (int)type.n, type.p);
    return put_name(names, name, NULL, out);
}

dtask_err dti_kafka_shared_check(const char *list) {
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        if (!n || n > 200 || strcspn(at, " \t") < n)
            return dti_fail(DTASK_EARGS, "The option shared cannot be \"%.100s\": give names of task types, without spaces, as a,b.", list);
        at += n + (at[n] == ',');
    }
    return DTASK_OK;
}

bool dti_kafka_shares(const dti_kafka_names *names, dtask_str type) {
    for (const char *at = names->shared; *at; at += *at == ',') {
        size_t n = strcspn(at, ",");
        if (n == type.n && !memcmp(at, type.p, n)) return true;
        at += n;
    }
    return false;
}

void dti_kafka_put_start(dti_buf *b, const dti_start *s, bool named) {
    dti_start typeless = *s;
    typeless.task.type = 0;
    typeless.type = (dtask_str){0};
    dti_mp_put_array(b, named ? 4 : 3);
    dti_mp_put_uint(b, DTI_KAFKA_FORMAT);
    dti_mp_put_str(b, s->id);
    dti_redis_put_start(b, &typeless);
    if (named) dti_mp_put_str(b, s->type);
}

// A type's name, the last element of a record's array.
static bool last_name(dtask_str value, dtask_str *out) {
    dti_mp at = dti_mp_of(value);
    dti_mpval v;
    dtask_str skipped;
    if (!dti_mp_next(&at, &v) || v.kind != DTI_MP_ARRAY) return false;
    for (uint32_t i = 1; i < v.n; i++)
        if (!dti_mp_skip(&at, &skipped)) return false;
    if (!dti_mp_next(&at, &v) || v.kind != DTI_MP_STR || !v.s.n || v.s.n > 200) return false;
    *out = v.s;
    return true;
}

dti_start dti_kafka_no_start(dtask_str id, uint32_t type, dtask_str name) {
    return (dti_start){.id = id, .type = name, .retain_us = INT64_C(86400000000), .task = {.type = type, .args = dti_str("\x90", 1)}};
}

bool dti_kafka_take_start(dti_arena *arena, dtask_str key, dtask_str value, uint32_t type, dti_start *out, const char **why) {
    dti_mp at = dti_mp_of(value);
    dti_mpval head, version, id;
    dtask_str start, skipped, name = {0};
    *out = (dti_start){0};
    *why = "it is no record of dynatask";
    if (!dti_mp_next(&at, &head) || head.kind != DTI_MP_ARRAY || head.n < 3 || !dti_mp_next(&at, &version) || version.kind != DTI_MP_UINT) return false;
    // In each format the key is the id, and a type's name stands last.
    if (!type && !last_name(value, &name)) return false;
    dti_start nothing = dti_kafka_no_start(dti_id_check(key, false) ? (dtask_str){0} : key, type, name);
    *out = nothing;
    if (version.u != DTI_KAFKA_FORMAT) return *why = "it is of another format than 1: upgrade dynatask where workers run", false;
    *why = "it is damaged";
    bool whole = head.n == (type ? 3 : 4) && dti_mp_next(&at, &id) && id.kind == DTI_MP_STR && dti_mp_skip(&at, &start) &&
                 (type || dti_mp_skip(&at, &skipped)) && at.p == at.end && dti_redis_take_start(arena, start, out) && dti_str_eq(out->id, id.s);
    if (!whole) return *out = nothing, false;
    out->task.type = type;
    out->type = name;
    return true;
}
