// What a worker does when it gets no more memory: the linker puts this file's
// mmap64 and dti_alloc in the place of the others, in the library's objects too.
#include "worker_rig.h"

#include <sys/mman.h>

static atomic_int left = 1000000, refused;       // mappings that are still given

void *__real_mmap64(void *, size_t, int, int, int, off_t);
void *__wrap_mmap64(void *, size_t, int, int, int, off_t);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t off) {
    if (!(flags & MAP_STACK) || atomic_fetch_sub(&left, 1) > 0) return __real_mmap64(at, n, prot, flags, fd, off);
    refused++;
    return MAP_FAILED;
}

// A handler that gets no second stack is dropped and runs again, as those past max_parked.
BOTH(worker_memory, no_stack_for_who_waits) {
    rig r;
    left = 10;
    rig_open(&r, scheme, (rig_handler[]){{"deep", "n:i -> i", rig_deep}, {0}}, (const char *const[]){"slots", "1", NULL});
    int64_t n = 0;
    OK(rig_run(&r, "deep", 40, &n));
    cr_assert_eq(n, 40);
    cr_assert(refused > 0);
    rig_close(&r);
}

// What a turn takes of a task's calls: the list of them grows by doubling, and this is its second growth.
static atomic_bool scarce;

void *__real_dti_alloc(dti_arena *, size_t);
void *__wrap_dti_alloc(dti_arena *, size_t);
void *__wrap_dti_alloc(dti_arena *mem, size_t n) {
    if (n == 16 * sizeof(dti_piece) && atomic_exchange(&scarce, false)) {
        refused++;
        return NULL;
    }
    return __real_dti_alloc(mem, n);
}

static dtask_err three(dtask_task *t, void *arg) {
    (void)arg;
    return dtask_done(t, "i", (int64_t)3);
}

static dtask_err twelve(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *kids[12];
    int64_t x, sum = 0;
    dtask_err err = DTASK_OK;
    scarce = true;
    for (int i = 0; i < 12 && !err; i++) err = dtask_spawn(t, "three", NULL, &kids[i], "i", (int64_t)i);
    for (int i = 0; i < 12 && !err; i++)
        if (!(err = dtask_wait(t, kids[i], -1)) && !(err = dtask_child_result(kids[i], "i", &x))) sum += x;
    return err ? err : dtask_done(t, "i", sum);
}

// Calls that a turn had begun to take were lost, and their parent waited for ever.
BOTH(worker_memory, no_room_for_all_calls_of_a_turn) {
    rig r;
    int64_t n = 0;
    rig_open(&r, scheme, (rig_handler[]){{"twelve", "n:i -> i", twelve}, {"three", "n:i -> i", three}, {0}}, (const char *const[]){"slots", "1", NULL});
    for (int i = 0; i < 20 && !refused; i++) OK(rig_run(&r, "twelve", i, &n));
    cr_assert_eq(n, 36);
    cr_assert(refused > 0);
    rig_close(&r);
}

// ---- a handler that is dropped while its calls are on their way ---------------------------

static gate calls = GATE;        // 1: a message with children has been taken by the engine; 2: its reply may come
static atomic_bool holding;

static void hold_reply(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    bool children = false;
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; ops[i].kind == DTI_OP_TURN && j < ops[i].turn.nmessages; j++) children |= ops[i].turn.messages[j].nchildren > 0;
    rig_engine(e, mem, ops, n);
    if (!children || !atomic_exchange(&holding, false)) return;
    gate_open(&calls);
    gate_wait(&calls, 2);
}

static dtask_err one_of_two(dtask_task *t, void *arg) {
    (void)arg;
    dtask_child *first, *second;
    int64_t x;
    dtask_err err = dtask_spawn(t, "three", DTASK_OPTS("unique", "scope=job over=drop"), &first, "i", (int64_t)1);
    if (!err) err = dtask_spawn(t, "three", DTASK_OPTS("unique", "scope=job over=drop"), &second, "i", (int64_t)1);
    if (err) return err;
    bool dropped = gate_at(&calls) < 2;
    if (dropped) gate_wait(&calls, 1), left = 0; // no stack: this wait drops the handler
    err = dtask_wait(t, second, -1);
    left = 1000000;
    cr_assert_eq(err, dropped ? DTASK_EUNWIND : DTASK_ESKIPPED, "%s", dtask_err_name(err));
    if (dropped) return err;
    err = dtask_wait(t, first, -1);
    if (!err) err = dtask_child_result(first, "i", &x);
    return err ? err : dtask_done(t, "i", x);
}

static bool parks(dtask_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool yes = w->all && w->all->end == DTI_END_PARK;
    pthread_mutex_unlock(&w->lock);
    return yes;
}

// The answer that the call it waited for was left out came as it was to park
// without its stack: nothing would have woken it.
BOTH(worker_memory, dropped_as_what_it_waits_for_comes) {
    rig r;
    int64_t n = 0;
    rig_fault = hold_reply;
    holding = true;
    rig_open(&r, scheme, (rig_handler[]){{"one", "n:i -> i", one_of_two}, {"three", "n:i -> i", three}, {0}}, (const char *const[]){"slots", "1", NULL});
    dtask_job *job = rig_job(&r, "one", NULL, 0);
    gate_wait(&calls, 1);
    while (!parks(r.worker)) rig_pause(1);
    gate_open(&calls);
    OK(rig_end(job, &n));
    cr_assert_eq(n, 3);
    cr_assert(refused > 0);
    rig_close(&r);
}
