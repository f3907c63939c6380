// A store that stands between the model and the memory store and sees every
// row that an operation changes: the old bytes, the new bytes. From these the
// mirror and the invariants live; the model does not know of it.
//
// It also keeps, on demand, what is needed to go back to an earlier state of
// the store: that is how an old snapshot takes over (failover).
#pragma once

#include "model/model.h"

typedef struct {
    dti_table t;
    dti_key k;
    const void *old;   // NULL: there was no such row
    size_t old_n;
    const void *now;   // set by watch_diff; NULL: there is none now
    size_t now_n;
} watch_row;

typedef struct {
    dti_store base;    // what the model is given
    dti_store *in;     // the memory store
    watch_row *rows;   // touched in this transaction
    size_t nrows, crows;
    uint32_t *slots, *stamps; // finds a touched row by its key
    size_t nslots;
    uint32_t stamp;
    dti_arena scratch; // old bytes of this transaction
    bool snapping;
    watch_row *undo;   // changes since the snapshot
    size_t nundo, cundo;
    dti_arena undo_bytes;
} watch;

void watch_open(watch *);
void watch_close(watch *);
// An empty store; memory is kept.
void watch_reset(watch *);
void watch_begin(watch *);
// The rows that differ from before, in w->rows[0..n). Valid until the next begin.
size_t watch_diff(watch *);
void watch_commit(watch *);
void watch_rollback(watch *);
// From here on changes are kept, so that watch_restore can come back here.
void watch_snapshot(watch *);
// Back to the snapshot; there is no snapshot after it.
void watch_restore(watch *);
