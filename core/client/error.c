// Errors and ends as data: the msgpack map that crosses languages, and how a
// task's end becomes what its waiter gets.
#include "client/client.h"

#include <stdio.h>
#include <string.h>

void dti_error_put(dti_buf *b, const char *type, dtask_str message, const char *language) {
    dti_mp_put_map(b, 4);
    dti_mp_put_strz(b, "type");
    dti_mp_put_strz(b, type);
    dti_mp_put_strz(b, "message");
    dti_mp_put_str(b, message);
    dti_mp_put_strz(b, "traceback");
    dti_mp_put_strz(b, "");
    dti_mp_put_strz(b, "language");
    dti_mp_put_strz(b, language);
}

// Ends that the model itself gave have no error map: what to say of them.
static const struct { const char *name, *type, *message; } reasons[] = {
    [DTI_R_NONE] = {"", "TaskFailed", "it failed"},
    [DTI_R_AFTER] = {"after", "TaskSkipped", "a task that it should come after did not end well"},
    [DTI_R_LIMIT] = {"limit", "LimitReached", "its limit was full"},
    [DTI_R_EXPIRED] = {"expired", "TaskSkipped", "it did not begin before it expired"},
    [DTI_R_UNIQUE] = {"unique", "TaskSkipped", "an equal one was there"},
    [DTI_R_TEST] = {"test", "TaskSkipped", "its condition was not met"},
    [DTI_R_LOST] = {"lost", "WorkerLost", "its workers died while it ran, more often than `crashes` allows"},
    [DTI_R_CHILDREN] = {"children", "ChildrenFailed", "a child, or a task that it should come after, did not end well"},
    [DTI_R_GRACE] = {"grace", "TaskCancelled", "it was cancelled and outstayed its grace time"},
};

const char *dti_reason_name(uint8_t reason) {
    return reason < sizeof reasons / sizeof *reasons ? reasons[reason].name : "";
}

static void copy_text(dti_buf *b, dtask_str error, const char *key, const char *otherwise) {
    dtask_str text;
    dti_mp_put_strz(b, key);
    if (dti_mp_text(dti_mp_get(error, key), &text)) dti_mp_put_str(b, text);
    else dti_mp_put_strz(b, otherwise);
}

dti_mail dti_job_mail(const dti_jobview *v) {
    dti_mail end = v->root.end;
    if (v->row.state == DTI_JOB_CANCELLED && (end.bad || (end.state != DTI_CANCELLED && end.state != DTI_SKIPPED)))
        end = (dti_mail){.state = DTI_CANCELLED, .attempts = end.attempts};
    return end;
}

dtask_err dti_payload_check(const dti_taskview *v, const char *id) {
    if (v->args.n || (v->row.state != DTI_SUCCEEDED && v->row.state != DTI_FAILED)) return DTASK_OK; // a call has arguments, if only []
    return dti_fail(DTASK_ENOTFOUND, "How %s ended is not kept any more, for its parent is complete: the option keep says what is.", id);
}

// What an error map has of children that failed goes on as it is.
static void copy_children(dti_buf *b, dtask_str failed, dtask_str errors) {
    if (failed.n) dti_mp_put_strz(b, "failed"), dti_mp_put_raw(b, failed);
    if (errors.n) dti_mp_put_strz(b, "errors"), dti_mp_put_raw(b, errors);
}

static dtask_err mail_end(dti_buf *b, dtask_str job_id, const dti_mail *mail, dtask_str *out_result, bool whole, uint64_t count) {
    static const char nil[] = "\xc0";
    if (mail->state == DTI_SUCCEEDED && !mail->bad) {
        *out_result = mail->data.n ? mail->data : dti_str(nil, 1);
        return DTASK_OK;
    }
    unsigned state = mail->bad ? DTI_FAILED : mail->state;
    uint8_t reason = mail->bad ? mail->blame_reason : mail->reason;
    if (reason >= sizeof reasons / sizeof *reasons) reason = DTI_R_NONE;
    const char *type = reasons[reason].type, *message = reasons[reason].message;
    if (state == DTI_CANCELLED && reason == DTI_R_NONE) type = "TaskCancelled", message = "it was cancelled";
    if (state == DTI_SKIPPED) type = "TaskSkipped";
    // The model keeps a cancelled handler's error too; a bad success blames a descendant.
    dtask_str error = mail->bad || mail->state != DTI_SUCCEEDED ? mail->data : (dtask_str){0};
    char ord[16];
    dti_buf id = {0}; // not on the stack, which may be a fiber's: an id has up to 4,000 bytes
    dti_buf_add(&id, job_id.p, job_id.n);
    dti_buf_add(&id, ord, (size_t)snprintf(ord, sizeof ord, "/%u", mail->bad ? mail->blame : mail->ord));
    dtask_str failed = dti_mp_get(error, "failed"), errors = whole ? dti_mp_get(error, "errors") : (dtask_str){0};
    dti_mp_put_map(b, 7 + (failed.n || count) + (errors.n > 0));
    copy_text(b, error, "type", type);
    copy_text(b, error, "message", message);
    copy_text(b, error, "traceback", "");
    copy_text(b, error, "language", "");
    dti_mp_put_strz(b, "task_id");
    dti_mp_put_str(b, dti_str(id.p, id.n));
    b->failed |= id.failed;
    dti_buf_done(&id);
    dti_mp_put_strz(b, "attempts");
    dti_mp_put_uint(b, mail->attempts);
    dti_mp_put_strz(b, "reason");
    dti_mp_put_strz(b, reasons[reason].name);
    if (!failed.n && count) dti_mp_put_strz(b, "failed"), dti_mp_put_uint(b, count);
    copy_children(b, failed, errors);
    return state == DTI_CANCELLED ? DTASK_ECANCELLED : state == DTI_SKIPPED ? DTASK_ESKIPPED : DTASK_EFAILED;
}

dtask_err dti_mail_end(dti_buf *b, dtask_str job_id, const dti_mail *mail, dtask_str *out_result) {
    return mail_end(b, job_id, mail, out_result, true, 0);
}

dtask_err dti_view_end_brief(dti_buf *b, const dti_taskview *v, dtask_str *out_result) {
    // What the model failed for its children has its count of them, if no more.
    bool unsaid = dti_mail_unsaid(&v->end) && v->end.blame == v->ord;
    return mail_end(b, v->id, &v->end, out_result, false, !unsaid ? 0 : v->row.bad ? v->row.bad : 1);
}

dtask_err dti_fail_map(dtask_err err, dtask_str map) {
    dtask_str type = {0}, message = {0}, id = {0};
    int64_t attempts = 0;
    dti_mp_text(dti_mp_get(map, "type"), &type);
    dti_mp_text(dti_mp_get(map, "message"), &message);
    dti_mp_text(dti_mp_get(map, "task_id"), &id);
    dti_mp_int(dti_mp_get(map, "attempts"), &attempts);
    return dti_fail(err, "%.*s: %.*s (task %.*s, %d attempt%s)", (int)(type.n > 100 ? 100 : type.n), type.p,
        (int)(message.n > 600 ? 600 : message.n), message.p, (int)id.n, id.p, (int)attempts, attempts == 1 ? "" : "s");
}
