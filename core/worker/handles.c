// The handles of children that a C handler holds. To it they are pointers, to
// the library numbers: of the frame, of a place in its table, and of how often
// that place was taken. So one that is used after its handler, by another one,
// or after it was freed is told from those that are good by looking at nothing
// but the frame that runs on this thread.
//
// Only the frame's own thread gets here, so nothing needs the lock. Bindings
// have the children themselves. Not told apart: a frame from the one 2^24
// claims before, and a place from itself 2^12 frees before.
#include "worker/worker.h"

#include <stdlib.h>

enum { PLACE_BITS = 28, USE_BITS = 12, PLACES_MAX = (1 << PLACE_BITS) - 1, NONE = 0 };
_Static_assert(sizeof(uintptr_t) == 8, "a handle holds 24 bits of its frame, 12 of its use, 28 of its place");

// ---- the table ------------------------------------------------------------------

// The place of the next one: taken off the list of free ones, which is never empty then.
dtask_err dti_handle_room(dtask_task *f) {
    if (f->free_handle != NONE) return DTASK_OK;
    if (f->nhandles == PLACES_MAX) return dti_fail(DTASK_ENOMEM, "this handler holds %d children: free some of them", PLACES_MAX);
    if (!dti_grow(&f->handles, f->nhandles, &f->chandles, sizeof *f->handles)) return dti_fail(DTASK_ENOMEM, "no memory for a child's handle");
    f->handles[f->nhandles++] = (dti_handle){0};
    f->free_handle = (uint32_t)f->nhandles; // places count from 1
    return DTASK_OK;
}

static dtask_child *handle_at(const dtask_task *f, uint32_t place) {
    uint64_t use = f->handles[place - 1].use & ((1u << USE_BITS) - 1);
    return (dtask_child *)(uintptr_t)((uint64_t)f->tag << (PLACE_BITS + USE_BITS) | use << PLACE_BITS | place);
}

dtask_child *dti_handle_of(dtask_task *f, dtask_child *c) {
    if (!c->handed++) {
        c->handle = f->free_handle;
        f->free_handle = f->handles[c->handle - 1].next;
        f->handles[c->handle - 1].child = c;
    }
    return handle_at(f, c->handle);
}

dtask_child *dti_handle_child(const dtask_task *f, const dtask_child *handle) {
    uint32_t place = (uint32_t)((uintptr_t)handle & PLACES_MAX);
    if (place == NONE || place > f->nhandles || handle_at(f, place) != handle) return NULL;
    return f->handles[place - 1].child;
}

// The child of a handle, where that is one of the task that this thread runs.
static dtask_err child_of(const dtask_child *handle, dtask_child **out) {
    if (!handle) return dti_fail(DTASK_EUSAGE, "The child is NULL: give one that dtask_spawn, dtask_map, dtask_next or dtask_child_at made.");
    const dtask_task *f = dti_pool_runs();
    dtask_child *c = f ? dti_handle_child(f, handle) : NULL;
    if (c) return *out = c, dti_task_check(f);
    return dti_fail(DTASK_EUSAGE, "The child is not of the task whose handler runs on this thread, or was freed: use it there alone, until the handler returns.");
}

// ---- the calls -------------------------------------------------------------------

void dtask_child_free(dtask_child *handle) {
    dtask_child *c = NULL;
    if (!handle || child_of(handle, &c)) return; // it goes, or went, with its task
    dtask_task *f = c->task;
    if (!--c->handed) {
        dti_handle *h = &f->handles[c->handle - 1];
        *h = (dti_handle){.use = h->use + 1, .next = f->free_handle};
        f->free_handle = c->handle;
    }
    pthread_mutex_lock(&f->w->lock);
    dti_child_unref(c);
    pthread_mutex_unlock(&f->w->lock);
}

dtask_err dtask_child_result(dtask_child *handle, const char *fmt, ...) {
    dtask_child *c = NULL;
    dtask_str value = {0};
    dtask_err err = child_of(handle, &c);
    if (!err) err = dti_frame_check(c->task);
    if (err) return err;
    err = dti_child_outcome(c, true, &value);
    if (err) return value.n && (err == DTASK_EFAILED || err == DTASK_ECANCELLED || err == DTASK_ESKIPPED)
        ? dti_child_fails(c, err, value) : err;
    va_list ap;
    va_start(ap, fmt);
    err = dti_fmt_decode(value.n ? value : dti_str("\xc0", 1), false, NULL, 0, fmt, ap);
    va_end(ap);
    return err;
}

dtask_err dtask_child_at(dtask_child *batch, uint64_t i, dtask_child **out) {
    dtask_child *c = NULL, *one;
    dtask_err err = child_of(batch, &c);
    if (err) return err;
    if (!out) return dti_fail(DTASK_EARGS, "dtask_child_at needs a place for the child.");
    err = dti_handle_room(c->task);
    if (!err) err = dtask_b_child_at(c, i, &one);
    if (!err) *out = dti_handle_of(c->task, one);
    return err;
}
