// See stores.h.
#include "stores.h"

#include <criterion/criterion.h>

static jmp_buf trap;

static void *memory_make(void) {
    dti_store *s = dti_memory_store_new();
    s->trap = &trap;
    return s;
}
static dti_store *memory_begin(void *at) {
    dti_memory_store_begin(at);
    return at;
}
static void memory_keep(void *at) {
    dti_memory_store_commit(at);
}
static void memory_undo(void *at) {
    dti_memory_store_rollback(at);
}
static void memory_commit(void *at, bool forget) {
    (void)forget;
    dti_memory_store_commit(at);
}
static void memory_free(void *at) {
    dti_memory_store_free(at);
}
const test_store_kind test_memory_kind = {memory_make, memory_begin, memory_keep, memory_undo, memory_commit, memory_free};
