// Large values: stored once for their job, read whole by all, gone with it.
#include "rig.h"

enum { MIN = 64, LONG = 100 };
static rig g;
static void open_rig(void) { rig_open(&g); }
static void close_rig(void) { rig_close(&g); }
TestSuite(model_blobs, .init = open_rig, .fini = close_rig);

static dtask_str filled(char sign, size_t n) { // lives as long as the test
    static char pool[1 << 20];
    static size_t used;
    cr_assert(used + n <= sizeof pool);
    char *p = pool + used;
    used += n;
    return dti_str(memset(p, sign, n), n);
}

static uint64_t begin(const char *id, dtask_str args) {
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = rig_child(&g, g.type, 0), .retain_us = 3600000000, .grace_us = 1000000, .blob_min = MIN}};
    op.start.task.args = args;
    rig_run(&g, &op);
    cr_assert_eq(op.start.status, DTI_CREATED);
    return op.start.job;
}

static const dti_blob *blob(uint64_t job, dti_hash h) {
    size_t n;
    return dti_get(g.store, DTI_T_BLOB, job, h.h[0], h.h[1], &n);
}

static uint32_t blobs(uint64_t job) {
    uint32_t n = 0;
    size_t size;
    const dti_jobrow *j = dti_get(g.store, DTI_T_JOB, job, 0, 0, &size);
    for (dti_hash h = j ? j->blob : (dti_hash){0}; h.h[0] || h.h[1]; n++) h = blob(job, h)->before;
    return n;
}

static size_t stored(uint64_t job, uint32_t ord, dti_data kind) { // bytes in the task's own row
    size_t n = 0;
    dti_get(g.store, DTI_T_DATA, job, ord, kind, &n);
    return n;
}

static dti_taskview view(uint64_t job, uint32_t ord) {
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TASK, .job = job, .ord = ord}};
    rig_run(&g, &op);
    cr_assert_eq(op.read.n, 1);
    return op.read.tasks[0];
}

static void purge(const char *id) {
    dti_op op = {.kind = DTI_OP_MARK, .mark = {.verb = DTI_MARK_PURGE, .id = dti_strz(id)}};
    rig_run(&g, &op);
    cr_assert_eq(op.mark.status, DTI_MARKED);
}

static dti_message with_kids(const dti_claim *c, dti_endkind end, dti_new *kids, uint32_t n, dtask_str args) {
    for (uint32_t i = 0; i < n; i++) {
        kids[i] = rig_child(&g, g.other, i + 1);
        kids[i].args = args;
    }
    dti_message m = rig_to(c, 1, end);
    m.children = kids;
    m.nchildren = n;
    return m;
}

Test(model_blobs, many_children_cost_one) {
    dtask_str args = filled('a', LONG);
    uint64_t job = begin("a", args);
    dti_claim root = rig_claim(&g);
    cr_assert(dti_str_eq(root.args, args));
    dti_new kids[20];
    rig_send(&g, with_kids(&root, DTI_END_SUCCEED, kids, 20, args));
    cr_assert_eq(blobs(job), 1);
    cr_assert_lt(stored(job, 20, DTI_D_ARGS), (size_t)20);
    dti_turn u = rig_turn(&g, NULL, 0, 20);
    cr_assert_eq(u.nclaims, 20);
    for (uint32_t i = 0; i < 20; i++) cr_assert(dti_str_eq(u.claims[i].args, args));
    cr_assert(dti_str_eq(view(job, 7).args, args));
}

Test(model_blobs, above_the_limit_only) {
    uint64_t at = begin("a", filled('a', MIN)), above = begin("b", filled('a', MIN + 1));
    cr_assert_eq(blobs(at), 0);
    cr_assert_eq(stored(at, 0, DTI_D_ARGS), (size_t)MIN);
    cr_assert_eq(blobs(above), 1);
    cr_assert_eq(rig_job(&g, rig_start(&g, "c")).blob_min, 64u << 10, "where nothing is said");
}

Test(model_blobs, outcomes_reach_who_waits) {
    dtask_str result = filled('r', LONG), error = filled('e', LONG);
    uint64_t job = begin("a", filled('a', 8));
    dti_claim root = rig_claim(&g);
    dti_new kids[3];
    dti_message m = with_kids(&root, DTI_END_PARK, kids, 3, filled('k', 8));
    uint32_t dep = DTI_HERE;
    kids[1].deps = &dep;
    kids[1].ndeps = 1;
    kids[2].retries = 0;
    dti_range told = {.first = DTI_HERE, .count = 3};
    m.told = &told;
    m.ntold = 1;
    m.mask = DTI_QUIET;
    rig_send(&g, m);
    dti_turn u = rig_turn(&g, NULL, 0, 8);
    cr_assert_eq(u.nclaims, 2);
    dti_claim one = u.claims[0].ord == 1 ? u.claims[0] : u.claims[1], three = u.claims[0].ord == 3 ? u.claims[0] : u.claims[1];
    m = rig_to(&one, 1, DTI_END_SUCCEED);
    m.value = result;
    rig_send(&g, m);
    m = rig_to(&three, 1, DTI_END_FAIL);
    m.value = error;
    rig_send(&g, m);
    dti_claim two = rig_claim(&g);
    cr_assert_eq(two.ndeps, 1);
    cr_assert(dti_str_eq(two.deps[0].data, result));
    m = rig_to(&two, 1, DTI_END_SUCCEED);
    m.value = result;
    u = rig_turn(&g, &m, 1, 0);
    cr_assert_eq(u.nwakes, 1);
    cr_assert_eq(u.wakes[0].nmails, 3);
    for (uint32_t i = 0; i < 3; i++) cr_assert(dti_str_eq(u.wakes[0].mails[i].data, u.wakes[0].mails[i].ord == 3 ? error : result));
    cr_assert_eq(blobs(job), 2, "two results are one");
    cr_assert(dti_str_eq(view(job, 2).result, result));
    cr_assert(dti_str_eq(view(job, 3).error, error));
    cr_assert(dti_str_eq(view(job, 3).end.data, error));
}

// What a task changes as it goes would pile up.
Test(model_blobs, state_is_none) {
    dtask_str state = filled('s', LONG);
    uint64_t job = begin("a", filled('a', 8));
    dti_claim c = rig_claim(&g);
    dti_message m = rig_to(&c, 1, DTI_END_NONE);
    m.state = m.progress = state;
    rig_send(&g, m);
    cr_assert_eq(blobs(job), 0);
    cr_assert(dti_str_eq(view(job, 0).state, state));
}

// So would the arguments of a chain; those that are there already it shares.
Test(model_blobs, a_chain_makes_none) {
    dtask_str first = filled('a', LONG);
    uint64_t job = begin("a", first);
    for (int i = 0; i < 4; i++) {
        dti_claim c = rig_claim(&g);
        cr_assert_eq(c.args.n, (size_t)LONG);
        dti_new next = rig_child(&g, g.type, 0);
        next.args = i == 2 ? first : filled((char)('b' + i), LONG);
        dti_message m = rig_to(&c, 1, DTI_END_BECOME);
        m.next = &next;
        rig_send(&g, m);
        cr_assert(dti_str_eq(view(job, 0).args, next.args));
        cr_assert_eq(stored(job, 0, DTI_D_ARGS), i == 2 ? 17u : LONG);
        cr_assert_eq(blobs(job), 1, "that of the start alone");
    }
    dti_claim last = rig_claim(&g);
    cr_assert(dti_str_eq(last.args, filled('e', LONG)));
}

// A value that looks like a reference is told from one, and an id is none.
Test(model_blobs, a_value_that_looks_like_a_reference) {
    dtask_str known = filled('a', LONG);
    uint64_t job = begin("\xc1________________", known);
    char forged[17];
    size_t n;
    memcpy(forged, dti_get(g.store, DTI_T_DATA, job, 0, DTI_D_ARGS, &n), sizeof forged);
    cr_assert_eq(n, sizeof forged);
    dti_claim root = rig_claim(&g);
    dti_new kids[2];
    dti_message m = with_kids(&root, DTI_END_SUCCEED, kids, 2, dti_str(forged, sizeof forged));
    kids[1].args = dti_str("\xc1", 1);
    rig_send(&g, m);
    dti_turn u = rig_turn(&g, NULL, 0, 2);
    cr_assert_eq(u.nclaims, 2);
    for (uint32_t i = 0; i < 2; i++) cr_assert(dti_str_eq(u.claims[i].args, kids[u.claims[i].ord - 1].args));
    cr_assert(dti_str_eq(u.claims[0].id, dti_strz("\xc1________________")));
}

// Two values of one hash: neither is taken for the other.
Test(model_blobs, equal_hashes) {
    dtask_str args = filled('a', LONG), other = filled('b', LONG);
    uint64_t job = begin("a", other);
    size_t n;
    dti_hash has = ((const dti_jobrow *)dti_get(g.store, DTI_T_JOB, job, 0, 0, &n))->blob;
    uint64_t salt = ((const dti_meta *)dti_get(g.store, DTI_T_META, 0, 0, 0, &n))->salt;
    dti_hash h = dti_hash128(args.p, args.n, salt);
    cr_assert(dti_hash_eq(has, dti_hash128(other.p, other.n, salt)));
    dti_memory_store_begin(g.store);
    dti_blob *squatter = dti_put(g.store, DTI_T_BLOB, job, h.h[0], h.h[1], NULL, sizeof *squatter + LONG);
    *squatter = (dti_blob){.version = DTI_ROW_VERSION, .before = has};
    memcpy(squatter + 1, filled('c', LONG).p, LONG);
    ((dti_jobrow *)dti_mut(g.store, DTI_T_JOB, job, 0, 0))->blob = h;
    dti_memory_store_commit(g.store);
    dti_claim root = rig_claim(&g);
    dti_new kids[2];
    rig_send(&g, with_kids(&root, DTI_END_SUCCEED, kids, 2, args));
    cr_assert_eq(blobs(job), 3, "the second child's value is found where the first's lies");
    dti_turn u = rig_turn(&g, NULL, 0, 2);
    cr_assert_eq(u.nclaims, 2);
    for (uint32_t i = 0; i < 2; i++) cr_assert(dti_str_eq(u.claims[i].args, args));
    cr_assert(dti_str_eq(view(job, 0).args, other));
}

// A blob outlives the payloads that named it; the purge takes it, and only
// those of its job.
Test(model_blobs, live_as_long_as_the_job) {
    enum { KIDS = 400 };
    dtask_str args = filled('a', LONG);
    uint64_t job = begin("a", args), neighbour = begin("b", args);
    dti_claim root = rig_claim(&g), next = rig_claim(&g);
    dti_new kids[KIDS];
    rig_send(&g, with_kids(&root, DTI_END_SUCCEED, kids, KIDS, args));
    for (uint32_t i = 0; i < KIDS; i++) {
        dti_claim c = rig_claim(&g);
        char value[LONG] = {0};
        memcpy(value, &i, sizeof i);
        dti_message m = rig_to(&c, 1, DTI_END_SUCCEED);
        m.value = dti_str(value, sizeof value);
        rig_send(&g, m);
    }
    rig_send(&g, rig_to(&next, 1, DTI_END_SUCCEED));
    rig_sweep(&g);
    cr_assert_eq(rig_job(&g, job).state, DTI_JOB_SUCCEEDED);
    cr_assert_eq(stored(job, 1, DTI_D_ARGS) + stored(job, 1, DTI_D_RESULT), (size_t)0, "dropped with their parent's end");
    cr_assert_eq(blobs(job), KIDS + 1);
    size_t n;
    dti_hash of_args = ((const dti_jobrow *)dti_get(g.store, DTI_T_JOB, neighbour, 0, 0, &n))->blob;
    cr_assert(blob(job, of_args));
    purge("a");
    for (uint32_t left; (left = blobs(job));) { // KIDS are more than one operation may take
        dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 10}};
        rig_run(&g, &op);
        cr_assert_leq(left - blobs(job), (uint32_t)DTI_CASCADE);
    }
    rig_sweep(&g);
    cr_assert_not(dti_get(g.store, DTI_T_JOB, job, 0, 0, &n));
    cr_assert_not(blob(job, of_args));
    cr_assert(dti_str_eq(view(neighbour, 0).args, args));
}
