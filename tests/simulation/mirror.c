#include "mirror.h"

#include <string.h>

// Arrays lie in the arena of the seed; what they outgrow stays there.
static void *room(mirror *m, void *array, size_t *cap, size_t want, size_t size) {
    if (want < *cap)
        return array;
    size_t cap2 = *cap ? *cap : 16;
    while (cap2 <= want)
        cap2 *= 2;
    char *p = dti_alloc0(m->arena, cap2 * size);
    if (*cap)
        memcpy(p, array, *cap * size);
    *cap = cap2;
    return p;
}

void mirror_init(mirror *m, dti_arena *arena) {
    *m = (mirror){.arena = arena};
}

static mjob *job_at(mirror *m, uint64_t no) {
    m->jobs = room(m, m->jobs, &m->cjobs, no, sizeof *m->jobs);
    if (no >= m->njobs)
        m->njobs = no + 1;
    mjob *j = &m->jobs[no];
    if (!j->touched) {
        j->touched = true;
        m->touched = room(m, m->touched, &m->ctouched, m->ntouched, sizeof *m->touched);
        m->touched[m->ntouched++] = no;
    }
    return j;
}

static mtask *task_at(mirror *m, uint64_t no, uint64_t ord) {
    mjob *j = job_at(m, no);
    if (ord >= 1u << 20) {
        m->bad_table = no;
        ord = 0;
    }
    size_t cap = j->cap;
    j->t = room(m, j->t, &cap, ord, sizeof *j->t);
    j->cap = (uint32_t)cap;
    if (ord >= j->n)
        j->n = (uint32_t)ord + 1;
    return &j->t[ord];
}

mjob *mirror_job(mirror *m, uint64_t no) {
    return no < m->njobs && m->jobs[no].present ? &m->jobs[no] : NULL;
}
mtask *mirror_task(mirror *m, uint64_t no, uint32_t ord) {
    mjob *j = mirror_job(m, no);
    return j && ord < j->n && j->t[ord].present ? &j->t[ord] : NULL;
}
mjob *mirror_job_of(mirror *m, dtask_str id) {
    for (size_t i = 1; i < m->njobs; i++)
        if (m->jobs[i].present && dti_str_eq(m->jobs[i].id, id))
            return &m->jobs[i];
    return NULL;
}

static mlimit *limit_of(mirror *m, uint64_t h0, uint64_t h1) {
    for (size_t i = 0; i < m->nlimits; i++)
        if (m->limits[i].h[0] == h0 && m->limits[i].h[1] == h1)
            return &m->limits[i];
    m->limits = room(m, m->limits, &m->climits, m->nlimits, sizeof *m->limits);
    mlimit *l = &m->limits[m->nlimits++];
    *l = (mlimit){.h = {h0, h1}};
    return l;
}
mlimit *mirror_limit_of(mirror *m, const dti_keyspec *k) {
    return limit_of(m, k->h[0], k->h[1]);
}
mlimit *mirror_limit(mirror *m, uint64_t no) {
    for (size_t i = 0; i < m->nlimits; i++)
        if (m->limits[i].present && m->limits[i].row.no == no)
            return &m->limits[i];
    return NULL;
}

bool mirror_holds(const mtask *t, const dti_keyspec *k) {
    if (!t->present || k->kind != DTI_KEY_LIMIT || !(t->row.bits & DTI_PERMIT))
        return false;
    return !k->per_us || t->row.state == DTI_READY; // from the claim on it is a due item
}
bool mirror_waits(const mtask *t) {
    return t->present && t->row.wait & DTI_LIMIT_WAIT && (t->row.state == DTI_BLOCKED || t->row.state == DTI_PARKED);
}

static void count_holders(mirror *m, const mtask *t, int by) {
    for (uint32_t i = 0; i < t->nkeys; i++)
        if (mirror_holds(t, &t->keys[i])) {
            mlimit *l = limit_of(m, t->keys[i].h[0], t->keys[i].h[1]);
            l->holders += (uint32_t)by;
            l->touched = true;
        }
}

static mlane *lane_at(mirror *m, uint64_t no) {
    m->lanes = room(m, m->lanes, &m->clanes, no, sizeof *m->lanes);
    if (no >= m->nlanes)
        m->nlanes = no + 1;
    m->lanes[no].touched = true;
    return &m->lanes[no];
}

static const void *keep(mirror *m, const void *p, size_t n) {
    if (!p || !n)
        return NULL;
    void *q = dti_alloc(m->arena, n);
    return memcpy(q, p, n);
}

static uint64_t hash_of(const void *p, size_t n) {
    return p ? dti_hash128(p, n, 1).h[0] | 1 : 0;
}

static uint64_t number_of(const void *p, size_t n) {
    const uint8_t *b = p;
    uint64_t v = 0;
    if (p && n == 9 && b[0] == 0xcf)
        for (int i = 1; i < 9; i++)
            v = v << 8 | b[i];
    return v;
}

static mblob *blob_at(mirror *m, uint64_t no, dti_hash h) {
    mjob *j = job_at(m, no);
    for (size_t i = 0; i < j->nblobs; i++)
        if (dti_hash_eq(j->blobs[i].h, h))
            return &j->blobs[i];
    j->blobs = room(m, j->blobs, &j->cblobs, j->nblobs, sizeof *j->blobs);
    mblob *b = &j->blobs[j->nblobs++];
    *b = (mblob){.h = h};
    return b;
}

bool mirror_named(const watch_row *r, const void *p, size_t n) {
    return mirror_carried(r) && p && n == 1 + sizeof(dti_hash) && *(const uint8_t *)p == 0xc1;
}

// Where the row is a reference: what it names; else NULL.
static mblob *named_by(mirror *m, const watch_row *r, const void *p, size_t n) {
    dti_hash h;
    if (!mirror_named(r, p, n))
        return NULL;
    memcpy(&h, (const char *)p + 1, sizeof h);
    return blob_at(m, r->k.a, h);
}

static void apply_data(mirror *m, const watch_row *row) {
    mtask *t = task_at(m, row->k.a, row->k.b);
    watch_row whole = *row, *r = &whole;
    mblob *was = named_by(m, row, row->old, row->old_n);
    if (was)
        was->refs--;
    mblob *is = named_by(m, row, row->now, row->now_n);
    if (is) {
        is->refs++;
        whole.now = is->bytes.p;
        whole.now_n = is->bytes.n;
    }
    switch ((dti_data)r->k.c) {
    case DTI_D_KEYS:
        count_holders(m, t, -1);
        t->keys = keep(m, r->now, r->now_n);
        t->nkeys = (uint32_t)(r->now ? r->now_n / sizeof *t->keys : 0);
        count_holders(m, t, 1);
        break;
    case DTI_D_DEPS:
        t->deps = keep(m, r->now, r->now_n);
        t->ndeps = (uint32_t)(r->now ? r->now_n / sizeof *t->deps : 0);
        break;
    case DTI_D_RESULT:
        t->result = hash_of(r->now, r->now_n);
        t->value = number_of(r->now, r->now_n);
        break;
    case DTI_D_ERROR:
        t->error = hash_of(r->now, r->now_n);
        break;
    case DTI_D_ID:
        m->jobs[r->k.a].id = dti_str(keep(m, r->now, r->now_n), r->now ? r->now_n : 0);
        break;
    default:
        break;
    }
}

static void apply_log(mirror *m, const watch_row *r) {
    int by = (r->now != NULL) - (r->old != NULL);
    if (r->k.b == DTI_EMITS) {
        job_at(m, r->k.a)->emits += (uint32_t)by;
        return;
    }
    mtask *t = task_at(m, r->k.a, r->k.b);
    const dti_log *l = r->now ? r->now : r->old;
    t->log_rows += (uint32_t)by;
    if (l->kind == DTI_LOG_SIG)
        t->sigs += (uint32_t)by;
    if (!by || (l->kind != DTI_LOG_SIG && l->kind != DTI_LOG_KID))
        return;
    uint32_t at = (uint32_t)r->k.c, i = t->nmails;
    if (r->now) {
        size_t cap = t->cmails;
        t->mails = room(m, t->mails, &cap, t->nmails + 1, sizeof *t->mails);
        t->cmails = (uint32_t)cap;
        for (; i && t->mails[i - 1] > at; i--)
            t->mails[i] = t->mails[i - 1];
        t->mails[i] = at;
        t->nmails++;
    } else {
        for (i = 0; i < t->nmails && t->mails[i] != at;)
            i++;
        if (i < t->nmails)
            memmove(t->mails + i, t->mails + i + 1, (--t->nmails - i) * sizeof *t->mails);
    }
    t->mail_end = t->nmails ? t->mails[t->nmails - 1] + 1 : 0;
}

static void apply_task(mirror *m, const watch_row *r) {
    mtask *t = task_at(m, r->k.a, r->k.b);
    count_holders(m, t, -1);
    if (r->now)
        memcpy(&t->row, r->now, sizeof t->row);
    t->present = r->now != NULL;
    count_holders(m, t, 1);
}

static void apply_ext(mirror *m, const watch_row *r) {
    for (int which = 0; which < 2; which++) {
        const dti_ext *e = which ? r->now : r->old;
        if (!e)
            continue;
        for (uint32_t i = 0; i < e->count; i++)
            task_at(m, e->job, e->first + i)->ext += which ? 1 : -1u;
    }
    mlane *l = lane_at(m, r->k.a);
    l->exts += (r->now != NULL) - (uint32_t)(r->old != NULL);
}

static void apply_waiter(mirror *m, const watch_row *r) {
    mlimit *l = mirror_limit(m, r->k.a);
    if (l)
        l->touched = true;
    for (int which = 0; which < 2; which++) {
        const dti_ext *e = which ? r->now : r->old;
        if (!e)
            continue;
        for (uint32_t i = 0; i < e->count; i++)
            task_at(m, e->job, e->first + i)->waiter += which ? 1 : -1u;
        if (l)
            l->waiters += which ? e->count : -e->count;
    }
}

void mirror_apply(mirror *m, const watch_row *r) {
    uint32_t by = (uint32_t)(r->now != NULL) - (uint32_t)(r->old != NULL);
    const void *either = r->now ? r->now : r->old;
    switch (r->t) {
    case DTI_T_META:
        memcpy(&m->meta, r->now, sizeof m->meta);
        break;
    case DTI_T_TYPE:
        if (r->k.a < 64)
            m->types[r->k.a].paused = ((const dti_type *)either)->paused;
        break;
    case DTI_T_JOB: {
        mjob *j = job_at(m, r->k.a);
        j->present = r->now != NULL;
        if (r->now)
            memcpy(&j->row, r->now, sizeof j->row);
        break;
    }
    case DTI_T_TASK: apply_task(m, r); break;
    case DTI_T_DATA: apply_data(m, r); break;
    case DTI_T_BLOB: {
        mblob *b = blob_at(m, r->k.a, (dti_hash){{r->k.b, r->k.c}});
        b->present = r->now != NULL;
        size_t n = r->now ? r->now_n - sizeof(dti_blob) : 0;
        b->bytes = dti_str(r->now ? keep(m, (const char *)r->now + sizeof(dti_blob), n) : NULL, n);
        break;
    }
    case DTI_T_LANE: {
        mlane *l = lane_at(m, ((const dti_lane *)either)->no);
        l->present = r->now != NULL;
        l->type = r->k.a;
        l->job = r->k.b;
        l->prio = (uint32_t)r->k.c;
        if (r->now)
            memcpy(&l->row, r->now, sizeof l->row);
        break;
    }
    case DTI_T_LIMIT: {
        mlimit *l = limit_of(m, r->k.a, r->k.b);
        l->present = r->now != NULL;
        l->touched = true;
        if (r->now)
            memcpy(&l->row, r->now, sizeof l->row);
        break;
    }
    case DTI_T_WORKER: {
        m->workers = room(m, m->workers, &m->cworkers, r->k.a, sizeof *m->workers);
        if (r->k.a >= m->nworkers)
            m->nworkers = r->k.a + 1;
        m->workers[r->k.a].present = r->now != NULL;
        if (r->now)
            memcpy(&m->workers[r->k.a].row, r->now, sizeof(dti_workerrow));
        break;
    }
    case DTI_T_KIDS: {
        mtask *t = task_at(m, r->k.a, r->k.b);
        t->kids_rows += by;
        t->kids += (r->now ? ((const dti_kids *)r->now)->count : 0) - (r->old ? ((const dti_kids *)r->old)->count : 0);
        break;
    }
    case DTI_T_LOG: apply_log(m, r); break;
    case DTI_T_EDGE:
        task_at(m, r->k.a, r->k.b)->edges_out += by;
        task_at(m, r->k.a, r->k.c)->edges_in += by;
        break;
    case DTI_T_TURNQ: lane_at(m, r->k.c)->queued = r->now != NULL; break;
    case DTI_T_EXT: apply_ext(m, r); break;
    case DTI_T_ALONE: task_at(m, r->k.b, r->k.c)->alone += by; break;
    case DTI_T_DUE: {
        task_at(m, r->k.b, r->k.c)->due += by;
        break;
    }
    case DTI_T_LAPSE: {
        const dti_lapse *l = either;
        if (l->kind == DTI_LAPSE_LIMIT) {
            mlimit *k = limit_of(m, l->h[0], l->h[1]);
            k->lapses += by;
            k->touched = true;
        }
        break;
    }
    case DTI_T_WAITER: apply_waiter(m, r); break;
    case DTI_T_HELD: {
        mtask *t = task_at(m, r->k.b, r->k.c);
        t->held += by;
        if (r->now)
            t->held_by = r->k.a;
        if (r->k.a < m->nworkers)
            m->workers[r->k.a].held += by;
        break;
    }
    case DTI_T_WAKE:
        if (r->k.a < m->nworkers)
            m->workers[r->k.a].wakes += by;
        break;
    case DTI_T_TODO: {
        const dti_todo *t = either;
        m->todos += by;
        if (t->kind == DTI_DO_LIMIT) {
            limit_of(m, t->job, t->cursor)->todo += by;
        } else if (t->kind == DTI_DO_WORKER) {
            if (t->job < m->nworkers)
                m->workers[t->job].todo += by;
        } else {
            mjob *j = job_at(m, t->job);
            j->todo[t->kind] += (uint8_t)by;
            if (t->kind == DTI_DO_CANCEL_JOB && r->now)
                j->cancelled_to = t->cursor;
            if (t->kind <= DTI_DO_CANCEL)
                task_at(m, t->job, t->ord)->todo[t->kind] += (uint8_t)by;
        }
        break;
    }
    case DTI_T_DEAD: task_at(m, r->k.a, r->k.b)->dead += by; break;
    case DTI_T_JOBS: job_at(m, ~r->k.b)->listed += by; break;
    default: break; // no invariant reads them
    }
}

// ---- from a scan ------------------------------------------------------------------
static void feed(mirror *m, dti_table t, dti_key k, const void *p, size_t n) {
    if (p)
        mirror_apply(m, &(watch_row){.t = t, .k = k, .now = p, .now_n = n});
}
static void feed_point(mirror *m, dti_store *s, dti_table t, uint64_t a, uint64_t b, uint64_t c) {
    size_t n = 0;
    const void *p = dti_get(s, t, a, b, c, &n);
    feed(m, t, (dti_key){a, b, c}, p, n);
}

void mirror_scan(mirror *m, dti_store *s, const mirror *old) {
    feed_point(m, s, DTI_T_META, 0, 0, 0);
    for (uint64_t i = 1; i < m->meta.next_type; i++)
        feed_point(m, s, DTI_T_TYPE, i, 0, 0);
    for (uint64_t i = 1; i < m->meta.next_worker; i++)
        feed_point(m, s, DTI_T_WORKER, i, 0, 0);
    for (uint64_t j = 1; j < m->meta.next_job; j++) {
        feed_point(m, s, DTI_T_JOB, j, 0, 0);
        // A job that is being purged may have lost its row before its tasks.
        uint32_t n = mirror_job(m, j) ? mirror_job(m, j)->row.next : 0;
        if (j < old->njobs && old->jobs[j].n > n)
            n = old->jobs[j].n;
        for (size_t i = 0; j < old->njobs && i < old->jobs[j].nblobs; i++)
            feed_point(m, s, DTI_T_BLOB, j, old->jobs[j].blobs[i].h.h[0], old->jobs[j].blobs[i].h.h[1]);
        for (uint32_t i = 0; i < n; i++) {
            feed_point(m, s, DTI_T_TASK, j, i, 0);
            for (unsigned d = 0; d <= DTI_D_TRIGGER; d++)
                feed_point(m, s, DTI_T_DATA, j, i, d);
        }
    }
    for (size_t i = 0; i < old->nlimits; i++)
        feed_point(m, s, DTI_T_LIMIT, old->limits[i].h[0], old->limits[i].h[1], 0);
    for (size_t i = 0; i < old->nlanes; i++)
        if (old->lanes[i].row.no)
            feed_point(m, s, DTI_T_LANE, old->lanes[i].type, old->lanes[i].job, old->lanes[i].prio);
    for (dti_table t = DTI_T_ORDERED; t < DTI_TABLE_COUNT; t++) {
        dti_key k = {0, 0, 0};
        const void *p;
        size_t n;
        static const int cols[DTI_TABLE_COUNT] = {
#define X(NAME, name, c) [DTI_T_##NAME] = c,
            DTI_TABLES(X)
#undef X
        };
        while (s->ops->seek(s, t, 0, &k, &p, &n)) {
            feed(m, t, k, p ? p : "", n);
            if (cols[t] == 1)
                k.a++;
            else if (cols[t] == 2)
                k.b++;
            else
                k.c++;
        }
    }
}

// Of those there are: how many, and how often they are named.
static uint64_t blobs_of(const mjob *j) {
    uint64_t sum = 0;
    for (size_t i = 0; i < j->nblobs; i++)
        sum += j->blobs[i].present ? (1ull << 32) + j->blobs[i].refs : 0;
    return sum;
}

const char *mirror_differs(const mirror *a, const mirror *b) {
    if (memcmp(&a->meta, &b->meta, sizeof a->meta))
        return "meta";
    size_t njobs = a->njobs > b->njobs ? a->njobs : b->njobs;
    static const mjob nojob;
    static const mtask notask;
    for (size_t i = 0; i < njobs; i++) {
        const mjob *x = i < a->njobs ? &a->jobs[i] : &nojob, *y = i < b->njobs ? &b->jobs[i] : &nojob;
        if (x->present != y->present || (x->present && memcmp(&x->row, &y->row, sizeof x->row)))
            return "job";
        if (memcmp(x->todo, y->todo, sizeof x->todo) || x->emits != y->emits || x->listed != y->listed || blobs_of(x) != blobs_of(y))
            return "job's indexes";
        for (uint32_t k = 0; k < x->n || k < y->n; k++) {
            const mtask *s = k < x->n ? &x->t[k] : &notask, *t = k < y->n ? &y->t[k] : &notask;
            if (s->present != t->present || (s->present && memcmp(&s->row, &t->row, sizeof s->row)))
                return "task";
            if (s->ext != t->ext || s->alone != t->alone || s->waiter != t->waiter || s->held != t->held || s->due != t->due || s->dead != t->dead
                || s->edges_in != t->edges_in || s->edges_out != t->edges_out || s->kids != t->kids || s->sigs != t->sigs
                || s->log_rows != t->log_rows || s->result != t->result || s->error != t->error || s->nkeys != t->nkeys)
                return "task's indexes";
        }
    }
    for (size_t i = 0; i < a->nlimits; i++) {
        const mlimit *x = &a->limits[i];
        for (size_t k = 0; k < b->nlimits; k++) {
            const mlimit *y = &b->limits[k];
            if (x->h[0] == y->h[0] && x->h[1] == y->h[1]
                && (x->present != y->present || x->holders != y->holders || x->lapses != y->lapses))
                return "limit";
        }
    }
    return NULL;
}
