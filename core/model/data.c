// The variable bytes of a task. What calls carry (arguments, result, error)
// and is longer than the job's `blob_min` lies once in its job, by content;
// each task that has it holds a reference. A blob lives as long as the job's
// data: nobody counts references, and only the purge takes blobs away. So what
// changes as its task goes (the arguments of a `then`) makes none.
#include "model/model_int.h"

// A reference: this byte, and the hash. No msgpack value begins so; one that
// does all the same is made a blob whatever its length. So in these kinds the
// byte always means a reference, whoever wrote the value.
enum { REFERENCE = 0xc1, REFERENCE_N = 1 + sizeof(dti_hash) };

static bool carried(dti_data kind) { return kind == DTI_D_ARGS || kind == DTI_D_RESULT || kind == DTI_D_ERROR; }

static bool begins(dti_data kind, const void *p, size_t n) { return carried(kind) && n && *(const uint8_t *)p == REFERENCE; }

// Whether it is there; *h is its hash, or the one that it would have. Bytes are
// compared, so that a hash which two values share costs a look at the next one
// and nothing else.
static bool blob_find(dti_tx *tx, const dti_t *t, dtask_str v, dti_hash *h) {
    *h = dti_hash128(v.p, v.n, dti_w(tx)->meta->salt);
    size_t n;
    const dti_blob *have;
    for (; (have = dti_get(tx->store, DTI_T_BLOB, t->job, h->h[0], h->h[1], &n)); h->h[1]++) {
        if (n == sizeof *have + v.n && memcmp(have + 1, v.p, v.n) == 0) return true;
    }
    return false;
}

static void blob_make(dti_tx *tx, const dti_t *t, dtask_str v, dti_hash h) {
    dti_blob *new = dti_put(tx->store, DTI_T_BLOB, t->job, h.h[0], h.h[1], NULL, sizeof *new + v.n);
    *new = (dti_blob){.version = DTI_ROW_VERSION, .before = t->j->blob};
    memcpy(new + 1, v.p, v.n);
    t->j->blob = h;
}

dtask_str dti_data_get(dti_tx *tx, uint64_t job, uint32_t ord, dti_data kind) {
    size_t n = 0;
    const char *p = dti_get(tx->store, DTI_T_DATA, job, ord, kind, &n);
    if (p && begins(kind, p, n)) {
        dti_hash h;
        memcpy(&h, p + 1, sizeof h);
        const dti_blob *b = dti_get(tx->store, DTI_T_BLOB, job, h.h[0], h.h[1], &n);
        if (!b) dti_raise(tx->store, DTASK_EINTERNAL, "task %u of job no %llu refers to a value that is gone", ord, (unsigned long long)job);
        p = (const char *)(b + 1);
        n -= sizeof *b;
    }
    return dti_kept(tx, p, p ? n : 0);
}

static void set(dti_tx *tx, const dti_t *t, dti_data kind, dtask_str v, bool make) {
    char ref[REFERENCE_N];
    bool odd = begins(kind, v.p, v.n);
    dti_hash h;
    if (odd || (carried(kind) && v.n > t->j->blob_min)) {
        bool there = blob_find(tx, t, v, &h);
        if (!there && (make || odd)) blob_make(tx, t, v, h), there = true;
        ref[0] = (char)REFERENCE;
        memcpy(ref + 1, &h, sizeof h);
        if (there) v = dti_str(ref, sizeof ref);
    }
    dti_put(tx->store, DTI_T_DATA, t->job, t->ord, kind, v.p, v.n);
}

void dti_data_set(dti_tx *tx, const dti_t *t, dti_data kind, dtask_str v) { set(tx, t, kind, v, true); }

void dti_data_change(dti_tx *tx, const dti_t *t, dti_data kind, dtask_str v) { set(tx, t, kind, v, false); }

// The job's blobs, newest first. True: more remain.
bool dti_blobs_drop(dti_tx *tx, uint64_t job, dti_jobrow *j) {
    for (int i = 0; j->blob.h[0] || j->blob.h[1]; i++) {
        if (!dti_spend(tx, i)) return true;
        size_t n;
        dti_hash h = j->blob;
        const dti_blob *b = dti_get(tx->store, DTI_T_BLOB, job, h.h[0], h.h[1], &n);
        j->blob = b ? b->before : (dti_hash){0};
        dti_del(tx->store, DTI_T_BLOB, job, h.h[0], h.h[1]);
    }
    return false;
}
