// Two tables by hash, the young and the old; when the young one is full it
// becomes the old one, and what that held is forgotten.
#include "engines/kafka/started.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct { dti_started_job *jobs; size_t n, room; } table; // room: a power of two, or 0

struct dti_started {
    pthread_mutex_t lock;
    table young, old;
};

dti_started *dti_started_new(void) {
    dti_started *s = calloc(1, sizeof *s);
    if (s) pthread_mutex_init(&s->lock, NULL);
    return s;
}

void dti_started_free(dti_started *s) {
    free(s->young.jobs);
    free(s->old.jobs);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

// Its place, or the free one where it would be.
static dti_started_job *place(const table *t, dti_hash id) {
    for (size_t i = id.h[0] & (t->room - 1);; i = (i + 1) & (t->room - 1)) {
        dti_started_job *j = &t->jobs[i];
        if (!j->there || dti_hash_eq(j->id, id)) return j;
    }
}

static bool grow(table *t) {
    if (t->n + 1 <= t->room / 2) return true;
    table more = {.room = t->room ? t->room * 2 : 256};
    more.jobs = calloc(more.room, sizeof *more.jobs);
    if (!more.jobs) return false;
    for (size_t i = 0; i < t->room; i++) {
        if (!t->jobs[i].there) continue;
        *place(&more, t->jobs[i].id) = t->jobs[i];
        more.n++;
    }
    free(t->jobs);
    *t = more;
    return true;
}

void dti_started_add(dti_started *s, const dti_started_job *job) {
    pthread_mutex_lock(&s->lock);
    if (s->young.n >= DTI_STARTED_MIN) {
        free(s->old.jobs);
        s->old = s->young;
        s->young = (table){0};
    }
    if (grow(&s->young)) {
        dti_started_job *at = place(&s->young, job->id);
        if (!at->there) s->young.n++;
        *at = *job;
        at->there = true;
    }
    pthread_mutex_unlock(&s->lock);
}

static dti_started_job *find(const table *t, dti_hash id) {
    dti_started_job *at = t->room ? place(t, id) : NULL;
    return at && at->there ? at : NULL;
}

bool dti_started_find(dti_started *s, dti_hash id, dti_started_job *out) {
    pthread_mutex_lock(&s->lock);
    const dti_started_job *at = find(&s->young, id);
    if (!at) at = find(&s->old, id);
    if (at) *out = *at;
    pthread_mutex_unlock(&s->lock);
    return at;
}
