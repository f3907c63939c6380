// A task's log: one ordered list of notes, signals, kids that completed, and
// when it woke; a job's emits are a list of their own. What a parked frame
// awaits is told to the shard (`told`), arrives in its log, and travels to
// it as mail.
#include "model/model_int.h"

enum { NOT_COUNTED = 1 << DTI_LOG_KID | 1 << DTI_LOG_WOKE };

static void put(dti_tx *tx, uint64_t job, uint64_t ord, uint32_t n, dti_logkind kind, uint32_t of, dtask_str name, dtask_str data) {
    size_t size = sizeof(dti_log) + name.n + data.n;
    char small[256], *p = size <= sizeof small ? small : dti_need(tx, size);
    dti_log row = {.version = DTI_ROW_VERSION, .kind = (uint8_t)kind, .ord = of, .name_n = (uint32_t)name.n, .data_n = (uint32_t)data.n, .time = tx->now};
    memcpy(p, &row, sizeof row);
    if (name.n) memcpy(p + sizeof row, name.p, name.n);
    if (data.n) memcpy(p + sizeof row + name.n, data.p, data.n);
    dti_put(tx->store, DTI_T_LOG, job, ord, n, p, size);
}

void dti_log_add(dti_tx *tx, dti_t *t, dti_logkind kind, uint32_t ord, dtask_str name, dtask_str data) {
    put(tx, t->job, t->ord, t->r->logn++, kind, ord, name, data);
    if (NOT_COUNTED >> kind & 1) return;
    t->r->notes++;
    t->r->log_bytes += (uint32_t)(name.n + data.n);
}

void dti_log_emit(dti_tx *tx, dti_t *t, dtask_str name, dtask_str data) {
    put(tx, t->job, DTI_EMITS, t->j->log_n++, DTI_LOG_EMIT, t->ord, name, data);
    t->j->log_bytes += name.n + data.n;
    t->r->emits++;
}

static bool seek(dti_tx *tx, uint64_t job, uint64_t ord, uint32_t from, uint32_t *n, dti_log *row, const char **bytes) {
    dti_key k = {job, ord, from};
    const void *v;
    size_t size;
    if (!tx->store->ops->seek(tx->store, DTI_T_LOG, 2, &k, &v, &size)) return false;
    memcpy(row, v, sizeof *row);
    *n = (uint32_t)k.c;
    *bytes = (const char *)v + sizeof *row;
    return true;
}

bool dti_log_unread(dti_tx *tx, uint64_t job, uint32_t ord, const dti_taskrow *r) {
    dti_log row;
    const char *p;
    for (uint32_t n = r->logr; n < r->logn && seek(tx, job, ord, n, &n, &row, &p); n++) {
        if (row.kind == DTI_LOG_SIG || row.kind == DTI_LOG_KID) return true;
    }
    return false;
}

// Kids that were read are of no more use, but to a replay.
void dti_log_read(dti_tx *tx, dti_t *t, uint32_t read) {
    if (read > t->r->logn) read = t->r->logn;
    if (read <= t->r->logr) return;
    if (!(t->r->bits & DTI_JOURNAL)) {
        dti_log row;
        const char *p;
        for (uint32_t n = t->r->logr; n < read && seek(tx, t->job, t->ord, n, &n, &row, &p) && n < read; n++) {
            if (row.kind == DTI_LOG_KID) dti_del(tx->store, DTI_T_LOG, t->job, t->ord, n);
        }
    }
    t->r->logr = read;
}

void dti_log_restart(dti_tx *tx, dti_t *t) {
    dti_log row;
    const char *p;
    dti_taskrow *r = t->r;
    for (uint32_t n = 0; n < r->logn && seek(tx, t->job, t->ord, n, &n, &row, &p); n++) {
        if (row.kind == DTI_LOG_UNDO || (row.kind == DTI_LOG_SIG && n >= r->logr)) continue;
        dti_del(tx->store, DTI_T_LOG, t->job, t->ord, n);
        if (NOT_COUNTED >> row.kind & 1) continue;
        r->notes--;
        r->log_bytes -= row.name_n + row.data_n;
    }
}

// ---- told -------------------------------------------------------------------------

static uint32_t told(dti_tx *tx, const dti_t *t, dti_range *out) {
    size_t n = 0;
    const void *p = t->r->bits & DTI_TELLS ? dti_get(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_TOLD, &n) : NULL;
    if (n) memcpy(out, p, n);
    return (uint32_t)(n / sizeof *out);
}

bool dti_told_has(dti_tx *tx, const dti_t *t, uint32_t ord, bool bad) {
    dti_range have[DTI_TOLD_MAX];
    uint32_t n = told(tx, t, have);
    for (uint32_t i = 0; i < n; i++) {
        if (ord - have[i].first < have[i].count && (bad || !have[i].bad_only)) return true;
    }
    return false;
}

void dti_told_add(dti_tx *tx, dti_t *t, const dti_range *add, uint32_t nadd) {
    dti_range have[DTI_TOLD_MAX];
    uint32_t n = told(tx, t, have);
    for (uint32_t i = 0; i < nadd; i++) {
        uint32_t first = add[i].first, end = first + add[i].count, at = 0;
        while (at < n && (have[at].bad_only != add[i].bad_only || first > have[at].first + have[at].count || end < have[at].first)) at++;
        if (at == DTI_TOLD_MAX) { // one for all
            for (at = 0; at < n; at++) {
                if (have[at].first < first) first = have[at].first;
                if (have[at].first + have[at].count > end) end = have[at].first + have[at].count;
            }
            have[0] = (dti_range){.first = first, .count = end - first};
            n = 1;
        } else if (at == n) {
            have[n++] = (dti_range){.first = first, .count = add[i].count, .bad_only = add[i].bad_only};
        } else {
            if (have[at].first < first) first = have[at].first;
            if (have[at].first + have[at].count > end) end = have[at].first + have[at].count;
            have[at].first = first;
            have[at].count = end - first;
        }
    }
    if (!n) return;
    dti_put(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_TOLD, have, n * sizeof *have);
    t->r->bits |= DTI_TELLS;
}

void dti_told_clear(dti_tx *tx, dti_t *t) {
    dti_del(tx->store, DTI_T_DATA, t->job, t->ord, DTI_D_TOLD);
    t->r->bits &= (uint16_t)~DTI_TELLS;
}

// ---- mail -------------------------------------------------------------------------

// How a task ended, as whoever awaited it gets it. A success with failed
// descendants comes with the first of their failures.
dti_mail dti_mail_of(dti_tx *tx, uint64_t job, uint32_t ord, const dti_taskrow *r) {
    dti_mail m = {.kind = DTI_LOG_KID, .ord = ord, .state = r->state, .bad = dti_bad(r), .reason = r->reason, .blame = ord};
    const dti_taskrow *failed = m.bad && r->state == DTI_SUCCEEDED ? dti_look(tx, job, r->blame) : NULL;
    if (failed) {
        m.blame = r->blame;
        r = failed;
    }
    m.blame_state = r->state;
    m.blame_reason = r->reason;
    m.attempts = r->tries + r->lost + (r->state != DTI_FAILED);
    m.type = dti_type_name(tx, r->type);
    if (dti_good(r)) m.data = dti_data_get(tx, job, m.blame, DTI_D_RESULT);
    else if (r->bits & DTI_HAS_ERROR) m.data = dti_data_get(tx, job, m.blame, DTI_D_ERROR);
    return m;
}

// Up to max entries from `from` on; all: also those that are no mail.
uint32_t dti_mails(dti_tx *tx, uint64_t job, uint32_t ord, uint32_t from, uint32_t max, bool all, dti_mail **out, bool *more,
    uint32_t *next) {
    size_t cap = 0;
    uint32_t got = 0, n = from;
    dti_log row;
    const char *p;
    *out = NULL;
    *more = false;
    for (; seek(tx, job, ord, n, &n, &row, &p); n++) {
        if (!all && row.kind != DTI_LOG_KID && row.kind != DTI_LOG_SIG) continue;
        if (got == max) {
            *more = true;
            break;
        }
        *out = dti_more(tx, *out, got, &cap, sizeof **out);
        dti_mail *m = &(*out)[got++];
        const dti_taskrow *kid = row.kind == DTI_LOG_KID ? dti_look(tx, job, row.ord) : NULL;
        *m = kid ? dti_mail_of(tx, job, row.ord, kid) : (dti_mail){.kind = row.kind, .ord = row.ord};
        m->n = n;
        if (row.name_n) m->name = dti_kept(tx, p, row.name_n);
        if (row.data_n) m->data = dti_kept(tx, p + row.name_n, row.data_n);
    }
    if (next) *next = n;
    return got;
}
