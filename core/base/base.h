// What every layer stands on: errors with a detail, byte views, arenas,
// growing buffers, hashes, the clock. Nothing here knows of jobs.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dynatask.h"

// ---- errors ---------------------------------------------------------------
// Sets this thread's detail (one sentence, what to do; cut at 1,023 bytes)
// and returns err, so that a failing function ends with one line.
dtask_err dti_fail(dtask_err err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void dti_no_detail(void);         // as on a thread on which nothing has failed
dtask_err dti_vfail(dtask_err err, const char *fmt, va_list ap);

// ---- the log --------------------------------------------------------------
// Whom a part tells what its owner's log should say; fn NULL: nobody. level as
// in syslog. Called on any thread.
typedef struct { void (*fn)(void *arg, int level, const char *text); void *arg; } dti_tell;
void dti_say(const dti_tell *, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

// ---- views ----------------------------------------------------------------
static inline dtask_str dti_str(const void *p, size_t n) { return (dtask_str){p, n}; }
dtask_str dti_strz(const char *z);               // NULL: empty
bool dti_str_eq(dtask_str a, dtask_str b);

// ---- arena: memory with the life of one operation ---------------------------
// Zero it to begin. Allocations are aligned to 16 and not zeroed; NULL when
// out of memory. reset keeps one block for reuse, done frees all.
typedef struct dti_block dti_block;
typedef struct {
    dti_block *block;      // newest first
    char *at, *end;
    size_t total;          // bytes of all blocks
} dti_arena;
void *dti_alloc(dti_arena *, size_t n);
void *dti_alloc0(dti_arena *, size_t n);
dtask_str dti_dup(dti_arena *, dtask_str);       // {NULL, 0} for empty or no memory
char *dti_dupz(dti_arena *, dtask_str);          // with a terminating NUL
void dti_arena_reset(dti_arena *);
void dti_arena_done(dti_arena *);

// ---- buf: a growing byte string ---------------------------------------------
// Zero it to begin. Failing to grow sets `failed`; later appends do nothing.
typedef struct {
    char *p;
    size_t n, cap;
    bool failed;
} dti_buf;
bool dti_buf_add(dti_buf *, const void *p, size_t n);
bool dti_buf_reserve(dti_buf *, size_t more);
void dti_buf_done(dti_buf *);

// Makes room for one more element of a plain array: `*p` of `cap` elements of
// `size` bytes, doubled when n == *cap. False: no memory, nothing changed.
bool dti_grow(void *p_array, size_t n, size_t *cap, size_t size);

// ---- hashes (XXH3, 128 bits) ------------------------------------------------
typedef struct {
    uint64_t h[2];
} dti_hash;
dti_hash dti_hash128(const void *p, size_t n, uint64_t salt);
static inline bool dti_hash_eq(dti_hash a, dti_hash b) { return a.h[0] == b.h[0] && a.h[1] == b.h[1]; }

// ---- time and chance --------------------------------------------------------
int64_t dti_wall_us(void);       // since 1970, CLOCK_REALTIME
int64_t dti_mono_us(void);       // CLOCK_MONOTONIC
uint64_t dti_random64(void);     // getrandom(2)
void dti_random_id(char out[27]); // 26 signs 0-9a-v, the first by time: sorts by age; NUL-ended
