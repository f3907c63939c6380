// The stores that the tests of test_store.c run on, behind one shape.
#pragma once

#include "engines/memory_store.h"
#include "engines/rows.h"
#include "model/rows.h"

typedef struct {
    void *(*make)(void);
    dti_store *(*begin)(void *);        // a transaction
    void (*keep)(void *), (*undo)(void *); // one operation of it
    void (*commit)(void *, bool forget); // forget: what is cached
    void (*free)(void *);
} test_store_kind;

extern const test_store_kind test_memory_kind, test_sqlite_kind;

static inline size_t test_store_bytes(dti_store *s) {
    return ((dti_rows *)s)->slab.chunks.total;
}
