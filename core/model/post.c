// post: a signal for a task, kept until it is received.
#include "model/model_int.h"

enum { REMEMBERED_S = 86400 }; // how long a message id is known

void dti_op_post(dti_tx *tx, dti_post *p) {
    uint64_t job = dti_job_find(tx, p->id);
    dti_t t;
    if (!job || !dti_task(tx, job, p->ord, &t)) {
        p->status = DTI_NOTASK;
        return;
    }
    struct { uint64_t h[2], job, ord; } of = {{p->msgid[0], p->msgid[1]}, job, p->ord};
    dti_hash h = dti_hash128(&of, sizeof of, dti_w(tx)->meta->salt);
    dti_uniq u;
    if (dti_unique_find(tx, h, &u)) {
        p->status = DTI_DUP;
    } else if (dti_terminal(t.r->state) || t.r->state == DTI_CLOSING) {
        p->status = DTI_ENDED;
    } else if (t.r->notes >= DTI_LOG_MAX || t.r->log_bytes + p->name.n + p->data.n > DTI_LOG_BYTES_MAX) {
        p->status = DTI_POST_FULL;
    } else {
        p->status = DTI_POSTED;
        dti_uniq row = {.version = DTI_ROW_VERSION, .freed = 1, .ord = p->ord, .job = job, .lapse = tx->now + REMEMBERED_S * 1000000ll};
        dti_lapse lapse = {.version = DTI_ROW_VERSION, .kind = DTI_LAPSE_UNIQUE, .h = {h.h[0], h.h[1]}};
        dti_put(tx->store, DTI_T_UNIQ, h.h[0], h.h[1], 0, &row, sizeof row);
        dti_put(tx->store, DTI_T_LAPSE, (uint64_t)row.lapse, dti_w(tx)->meta->next_lapse++, 0, &lapse, sizeof lapse);
        dti_log_add(tx, &t, DTI_LOG_SIG, 0, p->name, p->data);
        if ((t.r->state == DTI_RUNNING || t.r->state == DTI_PARKED) && t.r->wait & DTI_AWAITS && dti_holds(tx, &t)) dti_wake_up(tx, &t);
    }
}
