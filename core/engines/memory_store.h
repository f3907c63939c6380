// The memory store: rows, and nothing behind them. One thread at a time.
#pragma once

#include "model/store.h"

dti_store *dti_memory_store_new(void);   // NULL: no memory
void dti_memory_store_free(dti_store *);
// A transaction: set store->trap before begin; after dti_raise, rollback.
void dti_memory_store_begin(dti_store *);
void dti_memory_store_commit(dti_store *);
void dti_memory_store_rollback(dti_store *);
// Of all rows of all tables, whatever the order they came in. Outside a
// transaction. The first call walks the store, later ones cost nothing, as
// commits then keep it.
uint64_t dti_memory_store_hash(dti_store *);
