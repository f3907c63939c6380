// start: a new job, known by its id.
#include "model/model_int.h"

void dti_op_start(dti_tx *tx, dti_start *s) {
    s->joined = (dtask_str){0};
    s->job = dti_job_find(tx, s->id);
    if (s->job) {
        const dti_taskrow *root = dti_look(tx, s->job, 0);
        bool same = root && root->call[0] == s->task.call[0] && root->call[1] == s->task.call[1];
        s->status = same ? DTI_EXISTS : DTI_CONFLICT;
        return;
    }
    if (s->type.n) s->task.type = dti_type_named(tx, s->task.type, s->type);
    if (!dti_type_row(tx, s->task.type)) {
        s->status = DTI_UNKNOWN;
        return;
    }
    dtask_str skipped_for = {0};
    const dti_keyspec *unique = dti_unique_of(&s->task);
    dti_hash h = unique ? dti_key_hash(tx, unique, dti_w(tx)->meta->next_job) : (dti_hash){0};
    dti_uniq u;
    if (unique && dti_unique_find(tx, h, &u)) {
        bool differs = u.call[0] != s->task.call[0] || u.call[1] != s->task.call[1];
        s->joined = dti_task_id(tx, u.job, u.ord);
        if (unique->over != DTI_OVER_DROP) {
            s->status = unique->over == DTI_OVER_RAISE || (unique->same && differs) ? DTI_CONFLICT : DTI_EXISTS;
            s->job = u.job;
            return;
        }
        skipped_for = dti_joined_note(tx, s->joined);
        s->joined = (dtask_str){0};
    } else if (unique) {
        dti_unique_take(tx, h, unique, dti_w(tx)->meta->next_job, 0, s->task.call);
    }
    s->job = dti_job_begin(tx, s, 0, skipped_for);
    s->status = DTI_CREATED;
}
