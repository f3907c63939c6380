// See unread.h.
#include "engines/kafka/unread.h"

#include <stdlib.h>
#include <string.h>
#include <syslog.h>

enum {
    LOOK_US = 10000000,
    AGAIN_US = 1000000,          // where it could not be seen: the group is being divided, or no broker answered
    RARE_US = 300000000,
    COUNT_MS = 1000, GROUP_MS = 2000,
};

typedef enum { ALL_READ, NOT_SEEN, UNREAD } seen;
typedef struct {
    const char *name;
    rd_kafka_topic_t *known;     // so that metadata tells of it
    int partitions;              // 0: not to be seen
    int all_read;                // so many were there when all of them were read
    bool *read;                  // while looking
} topic;

struct dti_unread {
    dti_broker *at;
    rd_kafka_t *rk;
    const char *group;
    topic *topics; size_t n;
    atomic_bool divided;
    bool joined;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t news;         // on the monotonic clock
    bool over, runs;             // over: under lock
};

void dti_unread_divided(dti_unread *u) {
    atomic_store(&u->divided, true);
}

// ---- what a member has, in Kafka's own words: numbers of 2 and 4 bytes, big end first ----

typedef struct { const uint8_t *p, *end; bool bad; } words;

static int64_t number(words *w, ptrdiff_t n) {
    uint32_t v = 0;
    if (w->end - w->p < n) return w->bad = true, 0;
    for (ptrdiff_t i = 0; i < n; i++) v = v << 8 | *w->p++;
    return n == 2 ? (int64_t)(int16_t)v : (int64_t)(int32_t)v;
}

static topic *topic_of(dti_unread *u, const uint8_t *name, size_t n) {
    for (size_t i = 0; i < u->n; i++)
        if (strlen(u->topics[i].name) == n && !memcmp(u->topics[i].name, name, n)) return &u->topics[i];
    return NULL;
}

// version, [topic, [partition]], and more that does not matter here.
static void mark(dti_unread *u, const void *bytes, int n) {
    words w = {bytes, (const uint8_t *)bytes + (n > 0 ? n : 0), false};
    number(&w, 2);
    for (int64_t topics = number(&w, 4); topics > 0 && !w.bad; topics--) {
        int64_t length = number(&w, 2);
        if (length < 0 || w.end - w.p < length) return;
        topic *t = topic_of(u, w.p, (size_t)length);
        w.p += length;
        for (int64_t left = number(&w, 4); left > 0 && !w.bad; left--) {
            int64_t partition = number(&w, 4);
            if (t && !w.bad && partition >= 0 && partition < t->partitions) t->read[partition] = true;
        }
    }
}

// ---- looking -------------------------------------------------------------------------------

// How many partitions there are. True: it is not known that all of them are read.
static bool counted(dti_unread *u, bool *told) {
    const struct rd_kafka_metadata *m;
    bool more = false;
    *told = !rd_kafka_metadata(u->rk, 0, NULL, &m, COUNT_MS);
    if (!*told) return true;
    for (size_t i = 0; i < u->n; i++) {
        topic *t = &u->topics[i];
        t->partitions = 0;
        for (int j = 0; j < m->topic_cnt; j++)
            if (!strcmp(m->topics[j].topic, t->name) && !m->topics[j].err) t->partitions = m->topics[j].partition_cnt;
        more = more || t->partitions != t->all_read;
    }
    rd_kafka_metadata_destroy(m);
    return more;
}

// A group that is being divided says nothing of who has what.
static bool asked(dti_unread *u) {
    const struct rd_kafka_group_list *list;
    bool told = false;
    rd_kafka_resp_err_t err = rd_kafka_list_groups(u->rk, u->group, &list, GROUP_MS);
    if (err && err != RD_KAFKA_RESP_ERR__PARTIAL) return false;
    for (int i = 0; i < list->group_cnt; i++) {
        const struct rd_kafka_group_info *g = &list->groups[i];
        if (g->err || !g->state || strcmp(g->state, "Stable")) continue;
        told = true;
        for (int j = 0; j < g->member_cnt; j++) mark(u, g->members[j].member_assignment, g->members[j].member_assignment_size);
    }
    rd_kafka_group_list_destroy(list);
    return told;
}

// *which: a topic with partitions that nobody reads.
static seen look(dti_unread *u, const topic **which) {
    bool told, memory = true, divided = atomic_exchange(&u->divided, false);
    for (size_t i = 0; i < u->n && divided; i++) u->topics[i].all_read = 0;
    if (!counted(u, &told)) return ALL_READ;
    for (size_t i = 0; i < u->n; i++) memory = (u->topics[i].read = calloc((size_t)u->topics[i].partitions + 1, sizeof(bool))) && memory;
    seen out = told && memory && asked(u) ? ALL_READ : NOT_SEEN;
    for (size_t i = 0; i < u->n; i++) {
        topic *t = &u->topics[i];
        int n = 0;
        while (out != NOT_SEEN && n < t->partitions && t->read[n]) n++;
        if (out != NOT_SEEN && n < t->partitions) out = UNREAD, *which = t;
        else if (out != NOT_SEEN) t->all_read = n;
        free(t->read);
        t->read = NULL;
    }
    return out;
}

// ---- the thread --------------------------------------------------------------------------------

static bool join_group(dti_unread *u) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)u->n);
    for (size_t i = 0; i < u->n; i++) rd_kafka_topic_partition_list_add(list, u->topics[i].name, RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t err = rd_kafka_subscribe(u->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    return !err;
}

// Until it is over. False: it is.
static bool slept(dti_unread *u, int64_t us) {
    int64_t until = dti_mono_us() + us;
    struct timespec ts = {until / 1000000, until % 1000000 * 1000};
    pthread_mutex_lock(&u->lock);
    for (int late = 0; !u->over && !late;) late = pthread_cond_timedwait(&u->news, &u->lock, &ts);
    bool over = u->over;
    pthread_mutex_unlock(&u->lock);
    return !over;
}

static void *watch(void *arg) {
    dti_unread *u = arg;
    int64_t pause = LOOK_US, rest = LOOK_US;
    while (slept(u, pause)) {
        const topic *which = NULL;
        seen now = u->joined ? look(u, &which) : NOT_SEEN;
        if (now == UNREAD) {
            dti_say(&u->at->tell, LOG_NOTICE, "Some partitions of Kafka's topic %.200s were read by no worker: the group %.200s divides them anew",
                which->name, u->group);
            rd_kafka_unsubscribe(u->rk);
            u->joined = false;
        }
        if (!u->joined) u->joined = join_group(u);
        pause = now == NOT_SEEN ? AGAIN_US : now == UNREAD ? rest : LOOK_US;
        if (now == UNREAD && (rest *= 2) > RARE_US) rest = RARE_US;
        if (now == ALL_READ) rest = LOOK_US;
    }
    return NULL;
}

void dti_unread_close(dti_unread *u) {
    pthread_mutex_lock(&u->lock);
    u->over = true;
    pthread_cond_signal(&u->news);
    pthread_mutex_unlock(&u->lock);
    if (u->runs) pthread_join(u->thread, NULL);
    for (size_t i = 0; u->topics && i < u->n; i++)
        if (u->topics[i].known) rd_kafka_topic_destroy(u->topics[i].known);
    pthread_cond_destroy(&u->news);
    pthread_mutex_destroy(&u->lock);
    free(u->topics);
    free(u);
}

dtask_err dti_unread_open(dti_broker *b, rd_kafka_t *reader, const char *group, char *const *topics, size_t n, dti_unread **out) {
    dti_unread *u = calloc(1, sizeof *u);
    if (!u) return dti_fail(DTASK_ENOMEM, "no memory for a reader of Kafka");
    *u = (dti_unread){.at = b, .rk = reader, .group = group, .n = n, .joined = true};
    pthread_condattr_t mono;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&u->news, &mono);
    pthread_condattr_destroy(&mono);
    pthread_mutex_init(&u->lock, NULL);
    bool made = (u->topics = calloc(n + 1, sizeof *u->topics));
    for (size_t i = 0; i < n && made; i++) made = (u->topics[i] = (topic){.name = topics[i], .known = rd_kafka_topic_new(reader, topics[i], NULL)}).known;
    u->runs = made && !pthread_create(&u->thread, NULL, watch, u);
    if (!u->runs) {
        dti_unread_close(u);
        return dti_fail(DTASK_ENOMEM, "no memory, or no thread, for a reader of Kafka");
    }
    *out = u;
    return DTASK_OK;
}
