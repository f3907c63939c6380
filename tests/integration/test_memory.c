// The memory engine where memory runs out: malloc fails at each place in turn.
#include "world.h"

#include <stdio.h>
#include <stdlib.h>

static int fails_at;             // the how-manieth allocation from now; 0: none
static bool failed;

static bool fails(void) {
    if (!fails_at || --fails_at) return false;
    return failed = true;
}

void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__wrap_malloc(size_t n), *__wrap_calloc(size_t, size_t), *__wrap_realloc(void *, size_t);

void *__wrap_malloc(size_t n) {
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
    return fails() ? NULL : __real_realloc(p, n);
}

enum { HELD = 300 };

// False once it takes more than `at` allocations.
static bool sweep_without_memory(int at) {
    world w;
    world_open(&w, "memory");
    actor a = worker(&w);
    for (uint64_t i = 1; i <= HELD; i++) {
        char id[16];
        snprintf(id, sizeof id, "j%lu", (unsigned long)i);
        cr_assert_eq(start(&w, id, call_of(w.a, i)), i);
    }
    cr_assert_eq(claims(&w, &a, HELD), (uint32_t)HELD);
    w.e->ops->bell_close(a.in[0].bell); // without bye: it died
    dti_arena arena = {0};
    dti_op op = {.kind = DTI_OP_SWEEP, .sweep = {.budget = 1000}};
    fails_at = at;
    failed = false;
    dtask_err err = dti_engine_call(w.e, &arena, &op);
    fails_at = 0;
    cr_assert(!err || (failed && err == DTASK_ENOMEM), "allocation %d: %s", at, dtask_err_name(err));
    dti_arena_done(&arena);
    sweep(&w);
    for (uint64_t i = 1; i <= HELD; i++)
        cr_assert_neq(task(&w, i, 0).row.state, DTI_RUNNING, "allocation %d failed, and the death is forgotten", at);
    world_close(&w);
    return failed;
}

Test(memory_full, a_sweep_without_memory_forgets_no_death) {
    int at = 1;
    while (sweep_without_memory(at)) at++;
    cr_assert_gt(at, 2, "nothing failed behind the list of the dead");
}
