// dynatask.join: each occurrence is used once, in order, whatever dies.
#include "worker_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDES = 3, MOST = 12000 };
static const char *const ONE[] = {"slots", "1", NULL};
static const char JOIN[] = "report!join";

static gate reported = GATE;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int used[SIDES][MOST];    // how often each occurrence was
static int partner[MOST];        // of side 0's, on side 1

// What `&` starts: notes what it got.
static dtask_err report(dtask_task *t, void *arg) {
    (void)arg;
    dtask_str trigger;
    dtask_err err = dtask_info(t, "trigger:v", &trigger);
    if (err) return err;
    dtask_str all = dti_mp_get(trigger, "all"), v;
    int64_t n[SIDES];
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; (v = dti_mp_at(all, i)).n; i++) {
        cr_assert(i < SIDES && dti_mp_int(v, &n[i]));
        used[i][n[i]]++;
        if (i == 1) partner[n[0]] = (int)n[1];
    }
    pthread_mutex_unlock(&lock);
    gate_open(&reported);
    return dtask_done(t, "n");
}

static const rig_handler REPORT[] = {{"report", NULL, report}, {0}};

static dtask_err post_named(rig *r, const char *type, uint32_t sides, uint32_t side, int n) {
    char id[32];
    dti_buf value = {0};
    dti_mp_put_int(&value, n);
    snprintf(id, sizeof id, "job-%u-%d/3", side, n);
    dti_occurrence o = {.join = dti_strz(JOIN), .type = dti_strz(type), .sides = sides, .side = side, .id = dti_strz(id),
        .value = dti_str(value.p, value.n)};
    dtask_err err = dti_join_post(r->app, &o);
    dti_buf_done(&value);
    return err;
}

static dtask_err post(rig *r, uint32_t sides, uint32_t side, int n) { return post_named(r, "report", sides, side, n); }

static dti_taskrow join_row(rig *r) {
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .id = dti_strz(JOIN)}};
    OK(dti_engine_call(r->app->engine, &mem, &op));
    cr_assert_eq(op.read.n, 1, "no join");
    dti_taskrow row = op.read.tasks[0].row;
    dti_arena_done(&mem);
    return row;
}

// Until it has taken all that was posted, and waits for more.
static dti_taskrow join_rests(rig *r) {
    for (;; rig_pause(1)) {
        dti_taskrow row = join_row(r);
        if (row.state == DTI_PARKED && row.wait == DTI_MAIL && row.logr == row.logn) return row;
        cr_assert(!dti_terminal(row.state), "the join has ended");
    }
}

// Its arguments change again and again: none of them may stay for its job's life.
static void no_blobs(rig *r) {
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOB, .id = dti_strz(JOIN)}};
    OK(dti_engine_call(r->app->engine, &mem, &op));
    cr_assert_eq(op.read.n, 1);
    cr_assert_eq(op.read.jobs[0].row.blob.h[0] | op.read.jobs[0].row.blob.h[1], 0);
    dti_arena_done(&mem);
}

static int reports(rig *r) {     // jobs that were made
    int n = 0;
    uint64_t before = 0;
    for (bool more = true; more;) {
        dti_arena mem = {0};
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_JOBS, .state = -1, .before = before, .limit = 1000}};
        OK(dti_engine_call(r->app->engine, &mem, &op));
        for (uint32_t i = 0; i < op.read.n; i++) {
            n += dti_str_eq(op.read.jobs[i].type, dti_strz("report"));
            before = op.read.jobs[i].no;
        }
        more = op.read.n == 1000;
        dti_arena_done(&mem);
    }
    return n;
}

// n jobs ran, and used occurrences first .. first + n of each side, each once.
static void each_once(rig *r, uint32_t sides, int n) {
    gate_wait(&reported, n);
    join_rests(r);
    cr_assert_eq(reports(r), n);
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < sides; i++)
        for (int k = 0; k < n; k++) cr_assert_eq(used[i][k], 1, "occurrence %d of side %u was used %d times", k, i, used[i][k]);
    pthread_mutex_unlock(&lock);
}

BOTH(worker_join, two_sides) {
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    OK(post(&r, 2, 0, 0));
    OK(post(&r, 2, 0, 1));
    join_rests(&r);
    cr_assert_eq(reports(&r), 0);
    OK(post(&r, 2, 1, 0));
    each_once(&r, 2, 1);
    OK(post(&r, 2, 1, 1));
    each_once(&r, 2, 2);
    rig_close(&r);
}

BOTH(worker_join, three_sides) {
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    for (int k = 0; k < 5; k++) OK(post(&r, 3, 2, k));
    for (int k = 0; k < 5; k++) OK(post(&r, 3, 0, k));
    join_rests(&r);
    cr_assert_eq(reports(&r), 0);
    for (int k = 0; k < 5; k++) OK(post(&r, 3, 1, k));
    each_once(&r, 3, 5);
    rig_close(&r);
}

// In any order of sides; of one side the first is used first.
BOTH(worker_join, out_of_order) {
    enum { N = 400 };
    rig r;
    rig_open(&r, scheme, REPORT, DTASK_OPTS("slots", "4"));
    int order[2][N], at[2] = {0, 0};
    unsigned seed = 1;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < N; k++) order[i][k] = k;
    for (int i = 0; i < 2; i++)
        for (int k = N - 1; k; k--) {
            int with = rand_r(&seed) % (k + 1), was = order[i][k];
            order[i][k] = order[i][with];
            order[i][with] = was;
        }
    while (at[0] < N || at[1] < N) {
        int side = at[0] == N || (at[1] < N && rand_r(&seed) & 1);
        OK(post(&r, 2, (uint32_t)side, order[side][at[side]]));
        at[side]++;
    }
    each_once(&r, 2, N);
    for (int k = 0; k < N; k++) cr_assert_eq(partner[order[0][k]], order[1][k]);
    rig_close(&r);
}

BOTH(worker_join, posted_twice) {
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    for (int k = 0; k < 10; k++) {
        for (int twice = 0; twice < 2; twice++) OK(post(&r, 2, 0, k));
        for (int twice = 0; twice < 2; twice++) OK(post(&r, 2, 1, k));
    }
    each_once(&r, 2, 10);
    for (int k = 0; k < 10; k++) OK(post(&r, 2, k & 1, k)); // after they were used
    each_once(&r, 2, 10);
    rig_close(&r);
}

// ---- what may go wrong at the join's worker -------------------------------------------

static const dti_engine_ops *real;
static dti_engine_ops faulty;
static rig *faulted;
static atomic_int starts, ends, fault; // jobs asked for by the join; its outcomes; what is to go wrong
enum { NOTHING, DIE_AFTER_START, LOSE_START, LOSE_END, DIE_BEFORE_START };

static bool has_end(const dti_op *op) {
    for (uint32_t i = 0; op->kind == DTI_OP_TURN && i < op->turn.nmessages; i++)
        if (op->turn.messages[i].end == DTI_END_BECOME) return true;
    return false;
}

static void lose_reply(dti_op *ops, size_t n) {
    for (size_t i = 0; i < n; i++) ops[i].err = dti_fail(DTASK_EENGINE, "the reply was lost");
}

static void faulty_call(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    bool start = ops[0].kind == DTI_OP_START && ops[0].start.trigger.n, end = has_end(&ops[0]);
    int was = start || end ? fault : NOTHING;
    if (start) starts += (int)n;
    if (end) ends++;
    if ((start && was >= DIE_AFTER_START && was != LOSE_END) || (end && was == LOSE_END)) fault = NOTHING;
    else was = NOTHING;
    if (was == DIE_BEFORE_START) rig_kill(faulted, faulted->worker);
    real->call(e, mem, ops, n);
    if (was == DIE_AFTER_START) rig_kill(faulted, faulted->worker);
    if (was == LOSE_START || was == LOSE_END) lose_reply(ops, n);
}

static void goes_wrong(const char *scheme, int how, int want_starts) {
    enum { N = 20 };
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    real = r.app->engine->ops;
    faulty = *real;
    faulty.call = faulty_call;
    faulted = &r;
    for (int k = 0; k < N; k++) OK(post(&r, 2, 0, k));
    join_rests(&r);
    fault = how;
    starts = ends = 0;
    r.app->engine->ops = &faulty;
    OK(post(&r, 2, 1, 0));
    gate_wait(&reported, 1);
    join_rests(&r);
    cr_assert_eq(starts, want_starts);
    for (int k = 1; k < N; k++) OK(post(&r, 2, 1, k));
    each_once(&r, 2, N);
    cr_assert_eq(fault, NOTHING);
    r.app->engine->ops = real;
    rig_close(&r);
}

BOTH(worker_join, dies_before_the_start) { goes_wrong(scheme, DIE_BEFORE_START, 2); }
BOTH(worker_join, dies_between_start_and_outcome) { goes_wrong(scheme, DIE_AFTER_START, 2); }
BOTH(worker_join, reply_of_the_start_is_lost) { goes_wrong(scheme, LOSE_START, 2); }
BOTH(worker_join, reply_of_the_outcome_is_lost) { goes_wrong(scheme, LOSE_END, 1); }

// A worker that is gone leaves what is unused with the task.
BOTH(worker_join, another_worker_goes_on) {
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    for (int k = 0; k < 10; k++) OK(post(&r, 2, 0, k));
    join_rests(&r);
    dtask_worker_stop(r.worker, 1000);
    OK(dtask_worker_run(r.worker));
    dtask_worker_free(r.worker);
    for (int k = 0; k < 5; k++) OK(post(&r, 2, 1, k)); // nobody is there
    r.worker = rig_worker(&r, REPORT, ONE);
    OK(dtask_worker_start(r.worker));
    each_once(&r, 2, 5);
    for (int k = 5; k < 10; k++) OK(post(&r, 2, 1, k));
    each_once(&r, 2, 10);
    rig_close(&r);
}

// ---- many -------------------------------------------------------------------------------

// Half of them wait long for the other half: the log is short all the same.
BOTH(worker_join, ten_thousand_in_a_short_log) {
    enum { N = 5000 };
    rig r;
    rig_open(&r, scheme, REPORT, DTASK_OPTS("slots", "2"));
    for (int k = 0; k < N; k++) OK(post(&r, 2, 0, k));
    dti_taskrow row = join_rests(&r);
    cr_assert_lt(row.notes, 1000, "%u in its log", row.notes);
    no_blobs(&r);
    for (int k = 0; k < N; k++) OK(post(&r, 2, 1, k));
    each_once(&r, 2, N);
    row = join_rests(&r);
    cr_assert_eq(row.notes, 0, "%u in its log", row.notes);
    cr_assert_eq(row.log_bytes, 0);
    rig_close(&r);
}

// A side that is full says so to who posts; the others go on, and make room.
Test(worker_join, a_full_side, .timeout = 60) {
    rig r;
    rig_open(&r, "memory:", REPORT, ONE);
    dtask_err err = DTASK_OK;
    int n = 0;
    while (n < MOST && !(err = post(&r, 2, 0, n))) {
        if (++n % 100 == 0) join_rests(&r); // what is in its log has no limit of a side
    }
    cr_assert_eq(err, DTASK_ETOOBIG, "%d were taken: %s", n, dtask_err_detail());
    cr_assert(n >= DTI_LOG_MAX, "%d were taken", n);
    for (int k = 0; k < 1000; k++) OK(post(&r, 2, 1, k));
    each_once(&r, 2, 1000);
    OK(post(&r, 2, 0, n));
    rig_close(&r);
}

// ---- misuse -------------------------------------------------------------------------------

BOTH(worker_join, misuse_is_named) {
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    FAILS(post(&r, 1, 0, 0), DTASK_EARGS);
    FAILS(post(&r, DTI_JOIN_SIDES_MAX + 1, 0, 0), DTASK_EARGS);
    FAILS(post(&r, 2, 2, 0), DTASK_EARGS);
    FAILS(post_named(&r, "nobody", 2, 0, 0), DTASK_ENOTFOUND);
    dti_occurrence o = {.join = dti_strz(JOIN), .type = dti_strz("report"), .sides = 2, .id = dti_strz("x"), .value = dti_strz("\x91")};
    FAILS(dti_join_post(r.app, &o), DTASK_EARGS);
    OK(post(&r, 2, 0, 0));
    FAILS(post(&r, 3, 0, 1), DTASK_ECONFLICT);
    FAILS(post_named(&r, DTI_SYS_MAP, 2, 0, 1), DTASK_ECONFLICT);
    join_rests(&r);
    // What is no occurrence is passed over.
    dti_arena mem = {0};
    dti_op op = {.kind = DTI_OP_POST, .post = {.id = dti_strz(JOIN), .msgid = {1, 1}, .name = dti_strz("x"), .data = dti_strz("\x93\x07")}};
    OK(dti_engine_call(r.app->engine, &mem, &op));
    cr_assert_eq(op.post.status, DTI_POSTED);
    dti_arena_done(&mem);
    OK(post(&r, 2, 1, 0));
    each_once(&r, 2, 1);
    dtask_job *job;
    OK(dtask_job_find(r.app, JOIN, &job));
    OK(dtask_job_control(job, "cancel"));
    FAILS(dtask_job_wait(job, 10000), DTASK_OK);
    FAILS(post(&r, 2, 0, 1), DTASK_EUSAGE);
    dtask_job_free(job);
    OK(dtask_start(r.app, DTI_SYS_JOIN, NULL, &job, "z u v", "report", (uint64_t)1, dti_strz("\x90")));
    FAILS(rig_end(job, NULL), DTASK_EFAILED);
    rig_close(&r);
}

// A chain of triggers that closes ends, as it does without a join.
BOTH(worker_join, a_chain_that_closes_ends) {
    rig r;
    rig_open(&r, scheme, REPORT, ONE);
    for (uint32_t side = 0; side < 2; side++)
        for (int k = 0; k < 2; k++) {
            const char *ids[2][2] = {{"a!b!c!d!e!f!g!h", "a!b"}, {"b", "b/2"}};
            dti_occurrence o = {.join = dti_strz(JOIN), .type = dti_strz("report"), .sides = 2, .side = side, .id = dti_strz(ids[side][k]),
                .value = dti_strz(k ? "\x01" : "\x00")};
            if (!k) o.value.n = 1;
            OK(dti_join_post(r.app, &o));
        }
    gate_wait(&reported, 1);
    join_rests(&r);
    cr_assert_eq(reports(&r), 1);
    cr_assert_eq(used[0][0], 0);
    cr_assert_eq(used[0][1], 1);
    rig_close(&r);
}
