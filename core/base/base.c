// Errors with a detail, arenas, buffers, hashes, the clock: see base.h.
#include "base/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

// ---- errors ---------------------------------------------------------------

static _Thread_local char detail[1024];

dtask_err dti_vfail(dtask_err err, const char *fmt, va_list ap) {
    vsnprintf(detail, sizeof detail, fmt, ap);
    return err;
}

dtask_err dti_fail(dtask_err err, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    dti_vfail(err, fmt, ap);
    va_end(ap);
    return err;
}

void dti_say(const dti_tell *to, int level, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (to->fn) to->fn(to->arg, level, text);
}

void dti_no_detail(void) {
    detail[0] = 0;
}

const char *dtask_err_detail(void) {
    return detail;
}

const char *dtask_err_name(dtask_err err) {
    switch (err) {
    case DTASK_OK: return "OK";
#define X(name, value) \
    case DTASK_##name: return #name;
        DTASK_ERRORS(X)
#undef X
    }
    return "EUNKNOWN";
}

int dtask_abi(void) {
    return DTASK_ABI;
}

const char *dtask_version(void) {
    return DTI_VERSION;
}

// ---- views ----------------------------------------------------------------

dtask_str dti_strz(const char *z) {
    return (dtask_str){z, z ? strlen(z) : 0};
}

bool dti_str_eq(dtask_str a, dtask_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

// ---- arena ----------------------------------------------------------------

enum { BLOCK_MIN = 16 << 10, BLOCK_MAX = 1 << 20, ALIGN = 16 };

struct dti_block {
    dti_block *next;
    size_t n;
    _Alignas(ALIGN) char bytes[];
};

void *dti_alloc(dti_arena *a, size_t n) {
    if (n > SIZE_MAX / 2) return NULL;
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if ((size_t)(a->end - a->at) < n || !a->at) {
        size_t size = a->total < BLOCK_MIN ? BLOCK_MIN : a->total > BLOCK_MAX ? BLOCK_MAX : a->total;
        if (size < n) size = n;
        dti_block *b = malloc(sizeof *b + size);
        if (!b) return NULL;
        *b = (dti_block){a->block, size};
        a->block = b;
        a->at = b->bytes;
        a->end = b->bytes + size;
        a->total += size;
    }
    void *p = a->at;
    a->at += n;
    return p;
}

void *dti_alloc0(dti_arena *a, size_t n) {
    void *p = dti_alloc(a, n);
    return p ? memset(p, 0, n) : NULL;
}

dtask_str dti_dup(dti_arena *a, dtask_str s) {
    char *p = s.n ? dti_alloc(a, s.n) : NULL;
    return p ? (dtask_str){memcpy(p, s.p, s.n), s.n} : (dtask_str){0};
}

char *dti_dupz(dti_arena *a, dtask_str s) {
    char *p = dti_alloc(a, s.n + 1);
    if (!p) return NULL;
    if (s.n) memcpy(p, s.p, s.n);
    p[s.n] = 0;
    return p;
}

void dti_arena_reset(dti_arena *a) {
    dti_block *keep = a->block;
    if (!keep) return;
    for (dti_block *b = keep->next, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    keep->next = NULL;
    a->at = keep->bytes;
    a->end = keep->bytes + keep->n;
    a->total = keep->n;
    if (keep->n > BLOCK_MAX) dti_arena_done(a); // one huge reply is no reason to keep its memory
}

void dti_arena_done(dti_arena *a) {
    for (dti_block *b = a->block, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (dti_arena){0};
}

// ---- buf and arrays --------------------------------------------------------

bool dti_buf_reserve(dti_buf *b, size_t more) {
    if (b->failed) return false;
    if (b->cap - b->n >= more) return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap - b->n < more) {
        if (cap > SIZE_MAX / 2) return b->failed = true, false;
        cap *= 2;
    }
    char *p = realloc(b->p, cap);
    if (!p) return b->failed = true, false;
    b->p = p;
    b->cap = cap;
    return true;
}

bool dti_buf_add(dti_buf *b, const void *p, size_t n) {
    if (!dti_buf_reserve(b, n)) return false;
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
    return true;
}

void dti_buf_done(dti_buf *b) {
    free(b->p);
    *b = (dti_buf){0};
}

bool dti_grow(void *p_array, size_t n, size_t *cap, size_t size) {
    if (n < *cap) return true;
    size_t more = *cap ? *cap * 2 : 8;
    if (more > SIZE_MAX / size) return false;
    void *old, *grown;
    memcpy(&old, p_array, sizeof old);
    grown = realloc(old, more * size);
    if (!grown) return false;
    memcpy(p_array, &grown, sizeof grown);
    *cap = more;
    return true;
}

// ---- hashes ----------------------------------------------------------------

dti_hash dti_hash128(const void *p, size_t n, uint64_t salt) {
    XXH128_hash_t h = XXH3_128bits_withSeed(p, n, salt);
    return (dti_hash){{h.low64, h.high64}};
}

// ---- time and chance ---------------------------------------------------------

static int64_t clock_us(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t dti_wall_us(void) {
    return clock_us(CLOCK_REALTIME);
}

int64_t dti_mono_us(void) {
    return clock_us(CLOCK_MONOTONIC);
}

uint64_t dti_random64(void) {
    uint64_t r = 0;
    // Eight bytes from an initialised pool come whole; EINTR is only for more.
    while (getrandom(&r, sizeof r, 0) != sizeof r && errno == EINTR) {
    }
    return r;
}

void dti_random_id(char out[27]) {
    static const char signs[] = "0123456789abcdefghijklmnopqrstuv";
    uint64_t ms = (uint64_t)dti_wall_us() / 1000, r[2] = {dti_random64(), dti_random64()};
    for (int i = 9; i >= 0; i--, ms >>= 5) out[i] = signs[ms & 31];
    for (int i = 0; i < 16; i++) out[10 + i] = signs[r[i / 8] >> (5 * (i % 8)) & 31];
    out[26] = 0;
}
