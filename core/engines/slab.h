// Memory for rows: small blocks by size class, carved from chunks and used
// again; large ones by malloc. Everything is freed at once by drop, so a
// cache is forgotten without a walk over its rows. One thread at a time.
#pragma once

#include "base/base.h"

enum { DTI_SLAB_STEP = 16, DTI_SLAB_CLASSES = 64, DTI_SLAB_SMALL = DTI_SLAB_STEP * DTI_SLAB_CLASSES };

typedef struct dti_large dti_large;
typedef struct {
    dti_arena chunks;
    void *spare[DTI_SLAB_CLASSES]; // freed blocks, linked through their first word
    dti_large *large;
    size_t used;                   // bytes in blocks that are in use
} dti_slab;

// The size that a block of n bytes really has.
static inline size_t dti_slab_room(size_t n) {
    return n > DTI_SLAB_SMALL ? n : n ? (n + DTI_SLAB_STEP - 1) & ~(size_t)(DTI_SLAB_STEP - 1) : DTI_SLAB_STEP;
}
void *dti_slab_get(dti_slab *, size_t n);            // NULL: no memory
void dti_slab_put(dti_slab *, void *p, size_t n);    // n as it was asked for
void dti_slab_drop(dti_slab *);                      // all blocks; a first chunk stays
void dti_slab_done(dti_slab *);
