// Handlers as programs: what a task of the simulation does is computed from
// its arguments alone (a seed, a budget of descendants, a stage), so a re-run
// does the same, and the outcome of a whole tree can be computed without any
// store: prog_expect is the oracle.
#pragma once

#include "model/model.h"

// What programs may do; each on or off in a seed. The second group makes an
// outcome depend on timing: then prog_expect does not hold (conf.exact).
#define PROG_FEATURES(X)                                                                       \
    X(AFTER) X(DELAY) X(FAIL) X(CATCH) X(SUBST) X(MAYFAIL) X(LIMIT) X(PER) X(PRIO) X(BECOME)   \
    X(NOTE) X(EMIT) X(SIGNAL) X(SLEEP) X(STAY) X(COLD) X(JOURNAL) X(UNDO) X(FLUSH) X(SAME)     \
    X(OUTPUT) X(LISTEN) X(LONG) X(WIDE) X(BLOB)                                                        \
    X(UNIQUE) X(EXPIRE) X(DROP) X(ABORT) X(FRAGILE) X(ONCE) X(GIVEUP) X(TOOBIG) X(STUBBORN) X(SKIP)
typedef enum {
#define X(n) PF_##n,
    PROG_FEATURES(X)
#undef X
    PF_COUNT,
    PF_LOOSE = PF_UNIQUE // from here on
} prog_feature;
extern const char *const prog_feature_names[PF_COUNT];

enum { PROG_CALLS = 16, PROG_INS = 40, PROG_TYPES = 5, PROG_ARGS = 19, PROG_LIMITS = 4 };

typedef struct {
    uint64_t features;
    bool exact;
    uint32_t budget;        // descendants of a root
    uint64_t salt;
} prog_conf;
static inline bool prog_has(const prog_conf *c, prog_feature f) { return c->features >> f & 1; }

typedef enum {
    I_SPAWN,    // calls[a]
    I_WAIT,     // calls[a]; b: what a failure does, PROG_RAISE..
    I_ALL,      // all so far; b likewise; c: fail fast
    I_ANY,      // one that was not given yet, if any is left
    I_STAY,     // another coroutine waits for calls[a] meanwhile
    I_SLEEP,    // t us, recorded
    I_RECV,     // a signal; t: gives up after so long, 0 never
    I_NOTE, I_EMIT, I_PROGRESS, I_STATE, I_UNDO,
    I_FLUSH,    // sends what it has
    I_CANCEL,   // calls[a]
    I_FAILIF,   // fails while tries < a; b: the first is not counted
    I_END,
} prog_op;
enum { PROG_RAISE, PROG_CATCH, PROG_SUBST /* spawns and waits for calls[c] instead */ };

typedef struct { uint8_t op, a, b, c; uint32_t t; } prog_ins;

typedef struct {
    uint8_t type;           // index
    int8_t prio;
    bool may_fail, journal, substitute;
    uint32_t retries, crashes, delay, expires;
    uint8_t deps[2], ndeps;
    uint8_t limits[2], nlimits, over;
    bool per, unique;
    uint8_t unique_key, unique_scope, unique_until;
    uint64_t seed; uint32_t budget;
} prog_call;

typedef struct {
    uint64_t seed; uint32_t budget, stage;
    prog_ins v[PROG_INS]; uint32_t n;
    prog_call calls[PROG_CALLS]; uint32_t ncalls;
    bool become, fatal, stubborn, skip;
    uint64_t own;           // its part of the sum
    uint8_t outputs[2], noutputs; // calls that the next stage takes the results of
} prog;

void prog_args(char out[PROG_ARGS], uint64_t seed, uint32_t budget, uint32_t stage);
bool prog_read_args(dtask_str args, uint64_t *seed, uint32_t *budget, uint32_t *stage);
void prog_make(const prog_conf *, uint64_t seed, uint32_t budget, uint32_t stage, prog *);

typedef struct {
    uint8_t state; bool bad; uint64_t value;
    uint32_t live;          // tasks of the tree that no retry replaced
} prog_expected;
prog_expected prog_expect(const prog_conf *, uint64_t seed, uint32_t budget, uint32_t stage, uint32_t retries);
