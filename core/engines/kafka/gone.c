// See gone.h.
#include "engines/kafka/gone.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { AGAIN_US = 5000000, ASK_MS = 1000 };
typedef struct { char *topic; int32_t partition; int64_t first, asked_at; } source; // first: the position of the first record

struct dti_gone {
    dti_broker *broker;
    pthread_mutex_t lock;
    source *sources; size_t n, room; // one for each partition that somebody waits for
};

dti_gone *dti_gone_new(dti_broker *b) {
    dti_gone *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->broker = b;
    pthread_mutex_init(&g->lock, NULL);
    return g;
}

void dti_gone_free(dti_gone *g) {
    for (size_t i = 0; i < g->n; i++) free(g->sources[i].topic);
    free(g->sources);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

// Its place; they only become more. n: no memory.
static size_t find(dti_gone *g, const char *topic, int32_t partition) {
    size_t i = 0;
    while (i < g->n && (g->sources[i].partition != partition || strcmp(g->sources[i].topic, topic))) i++;
    if (i < g->n || !dti_grow(&g->sources, g->n, &g->room, sizeof *g->sources)) return i;
    char *name = strdup(topic);
    if (name) g->sources[g->n++] = (source){.topic = name, .partition = partition, .asked_at = INT64_MIN / 2};
    return i;
}

bool dti_gone_was(dti_gone *g, const char *topic, int32_t partition, int64_t next) {
    pthread_mutex_lock(&g->lock);
    size_t i = find(g, topic, partition);
    int64_t first = i < g->n ? g->sources[i].first : 0, now = dti_mono_us();
    bool ask = i < g->n && first < next && now - g->sources[i].asked_at >= AGAIN_US;
    if (ask) g->sources[i].asked_at = now; // others do not wait
    pthread_mutex_unlock(&g->lock);
    int64_t now_first = 0;
    if (ask && !dti_broker_first(g->broker, topic, partition, ASK_MS, &now_first)) {
        pthread_mutex_lock(&g->lock);
        if (now_first > g->sources[i].first) g->sources[i].first = now_first;
        first = g->sources[i].first;
        pthread_mutex_unlock(&g->lock);
    }
    return first >= next;
}
