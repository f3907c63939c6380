// Reads the arrays of proto/redis.md: zero for what was left off, and the
// first thing that does not fit is remembered in `bad`, so that who reads asks
// once, at the end. Never reads outside of the bytes; checks no meaning.
#pragma once

#include <string.h>

#include "base/msgpack.h"

typedef struct { dti_arena *arena; bool bad, nomem; } take;
typedef struct { take *t; dti_mp at; uint32_t left; } list; // the rest of an array

static inline list no_list(take *t) {
    return (list){.t = t};
}

// Next value's token; NIL where the array ended.
static inline dti_mpval next(list *l) {
    dti_mpval v = {.kind = DTI_MP_NIL};
    if (!l->left) return v;
    l->left--;
    if (!dti_mp_next(&l->at, &v)) l->t->bad = true, l->left = 0, v.kind = DTI_MP_NIL;
    return v;
}

// A list inside: l goes on behind it.
static inline list get_list(list *l) {
    dti_mp from = l->at;
    bool there = l->left;
    dti_mpval v = next(l);
    if (v.kind == DTI_MP_NIL) return no_list(l->t);
    // The script's packer writes an empty table as an empty array or map.
    if (v.kind != DTI_MP_ARRAY && !(v.kind == DTI_MP_MAP && !v.n)) {
        l->t->bad = true;
        return no_list(l->t);
    }
    list in = {.t = l->t, .at = l->at, .left = v.n};
    l->at = from;
    if (there && !dti_mp_skip(&l->at, NULL)) l->t->bad = true, l->left = 0, in.left = 0;
    return in;
}

static inline uint64_t get_uint(list *l) {
    dti_mpval v = next(l);
    if (v.kind == DTI_MP_NIL) return 0;
    if (v.kind != DTI_MP_UINT) return l->t->bad = true, 0;
    return v.u;
}

static inline uint32_t get_u32(list *l) {
    uint64_t v = get_uint(l);
    if (v > UINT32_MAX) return l->t->bad = true, 0;
    return (uint32_t)v;
}

static inline uint8_t get_u8(list *l) {
    uint64_t v = get_uint(l);
    if (v > UINT8_MAX) return l->t->bad = true, 0;
    return (uint8_t)v;
}

static inline int64_t get_int(list *l) {
    dti_mpval v = next(l);
    if (v.kind == DTI_MP_NIL) return 0;
    if (v.kind == DTI_MP_INT) return v.i;
    if (v.kind == DTI_MP_UINT && v.u <= INT64_MAX) return (int64_t)v.u;
    return l->t->bad = true, 0;
}

static inline bool get_bool(list *l) {
    dti_mpval v = next(l);
    if (v.kind == DTI_MP_NIL) return false;
    if (v.kind != DTI_MP_BOOL) return l->t->bad = true, false;
    return v.b;
}

static inline dtask_str get_str(list *l) {
    dti_mpval v = next(l);
    if (v.kind == DTI_MP_NIL) return (dtask_str){0};
    if (v.kind != DTI_MP_STR && v.kind != DTI_MP_BIN) return l->t->bad = true, (dtask_str){0};
    return v.s.n ? v.s : (dtask_str){0};
}

static inline uint64_t get_nonce(list *l) {
    dtask_str s = get_str(l);
    uint64_t v = 0;
    if (s.n && s.n != sizeof v) return l->t->bad = true, 0;
    if (s.n) memcpy(&v, s.p, sizeof v);
    return v;
}

static inline void *room(take *t, size_t n, size_t size) {
    void *p = n ? dti_alloc0(t->arena, n * size) : NULL;
    if (n && !p) t->nomem = true;
    return p;
}

// A list of `size`-byte elements, each at least one byte of the reply.
static inline void *get_many(list *l, list *in, uint32_t *n, size_t size) {
    *in = get_list(l);
    *n = in->left;
    void *p = room(l->t, *n, size);
    if (!p) *n = 0;
    return p;
}
