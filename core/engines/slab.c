// Blocks by size class over an arena: see slab.h.
#include "engines/slab.h"

#include <stdlib.h>
#include <string.h>

struct dti_large {
    dti_large *next, **back;
    size_t n;
    _Alignas(16) char bytes[];
};

void *dti_slab_get(dti_slab *s, size_t n) {
    size_t room = dti_slab_room(n);
    void *p;
    if (room > DTI_SLAB_SMALL) {
        dti_large *l = malloc(sizeof *l + room);
        if (!l) return NULL;
        *l = (dti_large){s->large, &s->large, room};
        if (s->large) s->large->back = &l->next;
        s->large = l;
        p = l->bytes;
    } else if ((p = s->spare[room / DTI_SLAB_STEP - 1])) {
        memcpy(&s->spare[room / DTI_SLAB_STEP - 1], p, sizeof p);
    } else if (!(p = dti_alloc(&s->chunks, room))) {
        return NULL;
    }
    s->used += room;
    return p;
}

void dti_slab_put(dti_slab *s, void *p, size_t n) {
    size_t room = dti_slab_room(n);
    s->used -= room;
    if (room <= DTI_SLAB_SMALL) {
        void **spare = &s->spare[room / DTI_SLAB_STEP - 1];
        memcpy(p, spare, sizeof *spare);
        *spare = p;
        return;
    }
    dti_large *l = (dti_large *)((char *)p - offsetof(dti_large, bytes));
    *l->back = l->next;
    if (l->next) l->next->back = l->back;
    free(l);
}

void dti_slab_drop(dti_slab *s) {
    for (dti_large *l = s->large, *next; l; l = next) {
        next = l->next;
        free(l);
    }
    s->large = NULL;
    dti_arena_reset(&s->chunks);
    memset(s->spare, 0, sizeof s->spare);
    s->used = 0;
}

void dti_slab_done(dti_slab *s) {
    dti_slab_drop(s);
    dti_arena_done(&s->chunks);
}
