// The packed records of the Redis script, whose layouts proto/redis.md gives.
#include "engines/redis/packed.h"

#include <string.h>

#include "base/msgpack.h"

// ---- bytes ---------------------------------------------------------------------

typedef struct { const unsigned char *p, *end; bool bad; } cursor;

static uint64_t take(cursor *c, unsigned bytes) { // little-endian
    uint64_t v = 0;
    if ((size_t)(c->end - c->p) < bytes) {
        c->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)c->p[i] << (8 * i);
    c->p += bytes;
    return v;
}

static uint32_t u8(cursor *c) { return (uint32_t)take(c, 1); }
static uint32_t u16(cursor *c) { return (uint32_t)take(c, 2); }
static uint32_t u24(cursor *c) { return (uint32_t)take(c, 3); }
static uint32_t u32(cursor *c) { return (uint32_t)take(c, 4); }
static uint64_t u48(cursor *c) { return take(c, 6); }
static int64_t when(cursor *c) { return (int64_t)take(c, 7); } // a time, in 7 bytes

static cursor over(dtask_str s) { return (cursor){(const unsigned char *)s.p, (const unsigned char *)s.p + s.n, false}; }
static bool whole(const cursor *c) { return !c->bad && c->p == c->end; }

bool dti_packed_task(dtask_str s, dti_taskrow *r) {
    cursor at = over(s), *c = &at;
    *r = (dti_taskrow){.version = DTI_ROW_VERSION};
    if (u8(c) != 1) return false;
    uint32_t mask = u16(c);
    r->state = (uint8_t)u8(c);
    r->type = u24(c);
    r->parent = u32(c);
    r->added = when(c);
    for (int i = 0; i < 2; i++) r->call[i] = take(c, 8);
    r->retries = u8(c);
    r->crashes = u8(c);
    r->depth = u8(c);
    if (mask & 1) {
        r->retries = u32(c);
        r->crashes = u32(c);
        r->depth = u32(c);
        r->timeout_ms = u32(c);
    }
    if (mask & 2) {
        r->bits = (uint16_t)u16(c);
        r->prio = (int8_t)u8(c);
    }
    if (mask & 12) {
        r->attempt = mask & 4 ? u8(c) : u32(c);
        r->by = mask & 4 ? u24(c) : u48(c);
        r->begun = when(c);
    }
    if (mask & 16) {
        r->owner = r->by;
        r->token = take(c, 8);
    }
    if (mask & 32) {
        r->ended = when(c);
        r->reason = (uint8_t)u8(c);
        r->verdict = (uint8_t)u8(c);
    }
    if (mask & 64) {
        r->seq = u32(c);
        r->park_seq = u32(c);
    }
    if (mask & 128) {
        r->open = u32(c);
        r->bad = u32(c);
        r->blame = u32(c);
        r->nkids = u32(c);
        r->lastkid = u32(c);
        r->base = u32(c);
    }
    if (mask & 256) r->need = u32(c);
    if (mask & 512) {
        r->tries = u32(c);
        r->freed = u32(c);
        r->ptries = u32(c);
        r->lost = u32(c);
    }
    if (mask & 1024) {
        r->wait = (uint8_t)u8(c);
        r->due = (int64_t)take(c, 8);
        r->expires = (int64_t)take(c, 8);
        r->at_limit = u32(c);
    }
    if (mask & 2048) {
        r->logn = u32(c);
        r->logr = u32(c);
        r->emits = u32(c);
        r->log_bytes = u32(c);
        r->notes = u32(c);
    }
    return mask < 4096 && whole(c);
}

bool dti_packed_job(dtask_str s, dti_jobrow *j) {
    cursor at = over(s), *c = &at;
    *j = (dti_jobrow){.version = DTI_ROW_VERSION, .max_tasks = UINT32_MAX, .max_depth = UINT32_MAX, .blob_min = DTI_PACKED_BLOB_MIN};
    if (u8(c) != 1) return false;
    uint32_t mask = u8(c);
    j->state = (uint8_t)u8(c);
    j->keep = (uint8_t)u8(c);
    j->type = u24(c);
    j->next = u32(c);
    j->claimed = u32(c);
    j->created = when(c);
    j->ended = when(c);
    j->retain_us = when(c);
    j->grace_us = when(c);
    j->lanes = u32(c);
    uint32_t only = u8(c); // the state of the only task; 255: counts follow
    j->paused = (uint8_t)u8(c);
    if (only < DTI_STATES) {
        j->count[only] = 1;
    } else {
        uint32_t counts = u16(c);
        for (unsigned i = 0; i < DTI_STATES; i++) {
            if (counts >> i & 1) j->count[i] = u32(c);
        }
    }
    if (mask & 1) {
        j->max_tasks = u32(c);
        j->max_depth = u32(c);
    }
    if (mask & 2) {
        j->hooks = u32(c);
        j->of = u48(c);
        j->hook_of = u48(c);
    }
    if (mask & 4) {
        j->log_n = u32(c);
        j->log_bytes = u48(c);
    }
    if (mask & 8) {
        j->blob_min = u32(c);
        uint32_t n = u8(c); // the digest of the last blob, by which the script finds it
        if ((size_t)(c->end - c->p) < n) return false;
        c->p += n;
    }
    return mask < 16 && whole(c);
}

// ---- msgpack values, one after the other ---------------------------------------------

static uint64_t number(dti_mp *at, bool *bad) {
    dti_mpval v;
    if (dti_mp_next(at, &v) && v.kind == DTI_MP_UINT) return v.u;
    *bad = true;
    return 0;
}

static dtask_str text(dti_mp *at, bool *bad) {
    dti_mpval v;
    if (dti_mp_next(at, &v) && v.kind == DTI_MP_STR) return v.s;
    *bad = true;
    return (dtask_str){0};
}

bool dti_packed_type(dtask_str s, dti_type *r) {
    dti_mp at = dti_mp_of(s);
    bool bad = false;
    *r = (dti_type){.version = DTI_ROW_VERSION};
    if (number(&at, &bad) != 1) return false;
    r->paused = (uint8_t)number(&at, &bad);
    r->served = (uint8_t)number(&at, &bad);
    r->system = (uint8_t)number(&at, &bad);
    r->no = (uint32_t)number(&at, &bad);
    r->type_version = (uint32_t)number(&at, &bad);
    r->crashes = (uint32_t)number(&at, &bad);
    r->vmin = number(&at, &bad);
    r->workers = (uint32_t)number(&at, &bad);
    r->listeners = (uint32_t)number(&at, &bad);
    text(&at, &bad);
    return !bad && at.p == at.end;
}

bool dti_packed_worker(dtask_str s, dti_workerrow *w) {
    dti_mp at = dti_mp_of(s);
    bool bad = false;
    *w = (dti_workerrow){.version = DTI_ROW_VERSION};
    if (number(&at, &bad) != 1) return false;
    w->dead = (uint8_t)number(&at, &bad);
    w->no = number(&at, &bad);
    dtask_str nonce = text(&at, &bad);
    w->next_wake = number(&at, &bad);
    w->lease_us = (int64_t)number(&at, &bad);
    w->expires = (int64_t)number(&at, &bad);
    w->since = (int64_t)number(&at, &bad);
    dtask_str name = text(&at, &bad);
    if (bad || at.p != at.end || nonce.n != sizeof w->nonce || name.n > sizeof w->name) return false;
    memcpy(&w->nonce, nonce.p, nonce.n);
    memcpy(w->name, name.p, name.n);
    return true;
}
