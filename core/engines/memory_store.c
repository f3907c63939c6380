// The memory store: see memory_store.h. What it does is in rows.c.
#include "engines/memory_store.h"

#include <stdlib.h>

#include "engines/rows.h"

dti_store *dti_memory_store_new(void) {
    dti_rows *r = malloc(sizeof *r);
    if (r && !dti_rows_init(r, NULL)) free(r), r = NULL;
    return r ? &r->store : NULL;
}

void dti_memory_store_free(dti_store *s) {
    if (!s) return;
    dti_rows_done((dti_rows *)s);
    free(s);
}

void dti_memory_store_begin(dti_store *s) {
    s->trap_err = DTASK_OK;
}

void dti_memory_store_commit(dti_store *s) {
    dti_rows_keep((dti_rows *)s);
}

void dti_memory_store_rollback(dti_store *s) {
    dti_rows_undo((dti_rows *)s);
}

uint64_t dti_memory_store_hash(dti_store *s) {
    return dti_rows_hash((dti_rows *)s);
}
