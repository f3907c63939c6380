// See served.h.
#include "engines/kafka/served.h"

#include <stdlib.h>
#include <string.h>

bool dti_served_outside(dtask_str type) {
    return type.n <= 9 || memcmp(type.p, "dynatask.", 9) || dti_str_eq(type, dti_strz(DTI_SYS_MAP));
}

dtask_err dti_served_new(dti_broker *b, const dti_kafka_names *names, const char *quarantine, const dti_hello *h, dti_served **out) {
    const char **topics = calloc(h->ntypes + 2, sizeof *topics);
    dti_served *s = *out = calloc(1, sizeof *s + (h->ntypes + 1) * sizeof *s->types);
    dtask_err err = s && topics ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory for a worker's topics");
    for (uint32_t i = 0; i <= h->ntypes && !err; i++) {
        dtask_str type = i < h->ntypes ? h->types[i].name : dti_strz(DTI_SYS_MAP);
        size_t same = 0;
        if (!dti_served_outside(type)) continue;
        err = dti_kafka_topic(names, type, s->types[s->n].topic);
        s->types[s->n].shared = dti_kafka_shares(names, type);
        while (same < s->n && strcmp(s->types[same].topic, s->types[s->n].topic)) same++;
        if (same == s->n) topics[s->n] = s->types[s->n].topic, s->n++;
    }
    if (!err) topics[s->n] = quarantine;
    if (!err) err = dti_broker_make(b, topics, s->n + 1, true);
    free(topics);
    return err;
}

void dti_served_number(dti_served *s, const dti_kafka_names *names, const dti_hello *h) {
    for (uint32_t i = 0; i < h->ntypes; i++) {
        char topic[DTI_KAFKA_NAME_MAX + 1];
        if (h->types[i].refused || dti_kafka_topic(names, h->types[i].name, topic)) continue;
        for (size_t j = 0; j < s->n; j++)
            if (!strcmp(s->types[j].topic, topic)) s->types[j].type = h->types[i].no;
    }
    size_t n = 0;
    for (size_t j = 0; j < s->n; j++)
        if (s->types[j].type) s->types[n++] = s->types[j];
    s->n = n;
}
