#include "program.h"

#include <string.h>

#include "prng.h"

const char *const prog_feature_names[PF_COUNT] = {
#define X(n) #n,
    PROG_FEATURES(X)
#undef X
};

static char *put64(char *p, uint64_t v) {
    *p++ = (char)0xcf;
    for (int i = 56; i >= 0; i -= 8)
        *p++ = (char)(v >> i);
    return p;
}
static uint64_t get64(const char *p) {
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | (uint8_t)p[i];
    return v;
}

void prog_args(char out[PROG_ARGS], uint64_t seed, uint32_t budget, uint32_t stage) {
    *out = (char)0x92; // an array of two
    put64(put64(out + 1, seed), (uint64_t)stage << 32 | budget);
}

bool prog_read_args(dtask_str a, uint64_t *seed, uint32_t *budget, uint32_t *stage) {
    if (a.n != PROG_ARGS || (uint8_t)a.p[0] != 0x92 || (uint8_t)a.p[1] != 0xcf || (uint8_t)a.p[10] != 0xcf)
        return false;
    uint64_t v = get64(a.p + 11);
    *seed = get64(a.p + 2);
    *budget = (uint32_t)v;
    *stage = (uint32_t)(v >> 32);
    return true;
}

// ---- making one ----------------------------------------------------------------
static void add(prog *p, prog_ins i) {
    if (p->n < PROG_INS - 1)
        p->v[p->n++] = i;
}

static uint32_t draw_delay(prng *r) {
    static const uint32_t us[] = {200, 2000, 20000, 300000};
    return us[prng_below(r, 4)] + prng_below(r, 1000);
}

static uint8_t draw_policy(const prog_conf *c, prng *r) {
    if (prog_has(c, PF_SUBST) && prng_chance(r, 250))
        return PROG_SUBST;
    return prog_has(c, PF_CATCH) && prng_chance(r, 600) ? PROG_CATCH : PROG_RAISE;
}

static void draw_call(const prog_conf *c, prng *r, prog *p, prog_call *k, uint32_t budget) {
    *k = (prog_call){.type = (uint8_t)prng_below(r, PROG_TYPES), .crashes = c->exact ? 1000000 : 3, .budget = budget,
        .seed = prng_next(r)};
    if (prog_has(c, PF_PRIO))
        k->prio = (int8_t)((int)prng_below(r, 5) - 2);
    // Retries of retries multiply: few of them high in the tree.
    if (prog_has(c, PF_FAIL) && prng_chance(r, 450))
        k->retries = budget > 5 ? 1 : prng_range(r, 1, 3);
    if (prog_has(c, PF_FRAGILE))
        k->crashes = prng_below(r, 4);
    if (prog_has(c, PF_ONCE) && prng_chance(r, 300))
        k->crashes = 0;
    if (prog_has(c, PF_MAYFAIL))
        k->may_fail = prng_chance(r, 250);
    if (prog_has(c, PF_JOURNAL))
        k->journal = prng_chance(r, 300);
    if (prog_has(c, PF_DELAY) && prng_chance(r, 250))
        k->delay = draw_delay(r);
    if (prog_has(c, PF_EXPIRE) && prng_chance(r, 250))
        k->expires = draw_delay(r) + (prng_chance(r, 500) ? k->delay : 0);
    if (prog_has(c, PF_LIMIT) && prng_chance(r, 350)) {
        k->limits[k->nlimits++] = (uint8_t)prng_below(r, PROG_LIMITS);
        uint8_t other = (uint8_t)prng_below(r, PROG_LIMITS);
        if (prng_chance(r, 400) && other != k->limits[0])
            k->limits[k->nlimits++] = other;
        if (prog_has(c, PF_DROP) && prng_chance(r, 200))
            k->over = prng_chance(r, 500) ? DTI_OVER_DROP : DTI_OVER_FAIL;
        k->per = prog_has(c, PF_PER);
    }
    if (prog_has(c, PF_UNIQUE) && prng_chance(r, 300)) {
        k->unique = true;
        k->unique_key = (uint8_t)prng_below(r, 4);
        k->unique_scope = (uint8_t)prng_below(r, 2);
        k->unique_until = (uint8_t)prng_below(r, 2);
    }
    if (prog_has(c, PF_AFTER) && p->ncalls && !k->unique && prng_chance(r, 300)) {
        uint32_t most = prng_range(r, 1, 2);
        for (uint32_t i = 0; i < most; i++) {
            uint8_t d = (uint8_t)prng_below(r, p->ncalls);
            if (!p->calls[d].unique && !p->calls[d].substitute && !(k->ndeps && k->deps[0] == d))
                k->deps[k->ndeps++] = d;
        }
    }
}

// Two calls in a row may be the same call, to the byte.
static bool same_again(const prog_conf *c, prng *r, const prog *p, uint32_t last, uint32_t budget) {
    return prog_has(c, PF_SAME) && p->ncalls && prng_chance(r, 250) && p->calls[last].budget == budget && !p->calls[last].unique;
}

static void draw_aside(const prog_conf *c, prng *r, prog *p) {
    if (prog_has(c, PF_NOTE) && prng_chance(r, 120))
        add(p, (prog_ins){.op = I_NOTE});
    if (prog_has(c, PF_EMIT) && prng_chance(r, 120))
        add(p, (prog_ins){.op = I_EMIT});
    if (prog_has(c, PF_UNDO) && prng_chance(r, 120))
        add(p, (prog_ins){.op = I_UNDO});
    if (prog_has(c, PF_FLUSH) && prng_chance(r, 200))
        add(p, (prog_ins){.op = I_FLUSH});
    if (prog_has(c, PF_NOTE) && prng_chance(r, 120))
        add(p, (prog_ins){.op = prng_chance(r, 500) ? I_PROGRESS : I_STATE});
    if (prog_has(c, PF_SLEEP) && prng_chance(r, 100))
        add(p, (prog_ins){.op = I_SLEEP, .t = draw_delay(r)});
    if (prog_has(c, PF_SIGNAL) && prng_chance(r, 80))
        add(p, (prog_ins){.op = I_RECV, .t = prog_has(c, PF_GIVEUP) && prng_chance(r, 500) ? draw_delay(r) : 0});
}

void prog_make(const prog_conf *c, uint64_t seed, uint32_t budget, uint32_t stage, prog *p) {
    prng rr = {prng_mix(seed ^ c->salt) + stage}, *r = &rr;
    p->seed = seed;
    p->budget = budget;
    p->stage = stage;
    p->n = p->ncalls = p->noutputs = 0;
    p->become = p->fatal = p->skip = false;
    p->own = seed >> 40;
    p->stubborn = prog_has(c, PF_STUBBORN) && prng_chance(r, 200);
    uint32_t fail_at = UINT32_MAX, times = 0;
    bool uncounted = false;
    uint32_t kids = budget ? prng_range(r, 1, prog_has(c, PF_WIDE) ? 10 : 4) : 0;
    if (kids > budget)
        kids = budget;
    if (prog_has(c, PF_FAIL) && prng_chance(r, 250)) {
        fail_at = prng_below(r, kids + 1);
        times = prng_range(r, 1, 3);
        uncounted = prng_chance(r, 300);
    }
    uint32_t left = budget - kids, last = 0;
    bool waited[PROG_CALLS] = {false};
    for (uint32_t i = 0; i <= kids; i++) {
        draw_aside(c, r, p);
        if (i == fail_at)
            add(p, (prog_ins){.op = I_FAILIF, .a = (uint8_t)times, .b = uncounted});
        if (i == kids)
            break;
        uint32_t share = i + 1 == kids ? left : prng_below(r, left + 1);
        left -= share;
        uint32_t at = p->ncalls;
        prog_call *k = &p->calls[at];
        if (same_again(c, r, p, last, share))
            *k = p->calls[last];
        else
            draw_call(c, r, p, k, share);
        last = at;
        p->ncalls++;
        add(p, (prog_ins){.op = I_SPAWN, .a = (uint8_t)at});
        uint8_t policy = draw_policy(c, r);
        if (prog_has(c, PF_ABORT) && prng_chance(r, 100))
            add(p, (prog_ins){.op = I_CANCEL, .a = (uint8_t)at});
        if (prog_has(c, PF_STAY) && prng_chance(r, 150))
            add(p, (prog_ins){.op = I_STAY, .a = (uint8_t)at});
        uint32_t which = prng_below(r, 10);
        if (which < 4) {
            uint8_t of = (uint8_t)prng_below(r, p->ncalls);
            if (p->calls[of].substitute || waited[of])
                continue;
            waited[of] = true;
            uint8_t sub = 0;
            if (policy == PROG_SUBST && p->ncalls < PROG_CALLS - 2 && !p->calls[of].unique) {
                sub = (uint8_t)p->ncalls++;
                draw_call(c, r, p, &p->calls[sub], 0);
                p->calls[sub].ndeps = 0;
                p->calls[sub].unique = false;
                p->calls[sub].substitute = true;
            } else if (policy == PROG_SUBST) {
                policy = PROG_CATCH;
            }
            add(p, (prog_ins){.op = I_WAIT, .a = of, .b = policy, .c = sub});
        } else if (which < 5) {
            add(p, (prog_ins){.op = I_ANY});
        } else if (which < 6) {
            add(p, (prog_ins){.op = I_ALL, .b = policy == PROG_SUBST ? PROG_CATCH : policy,
                .c = prog_has(c, PF_ABORT) && prng_chance(r, 300), .t = prog_has(c, PF_GIVEUP) && prng_chance(r, 300) ? draw_delay(r) : 0});
        }
        if (p->ncalls >= PROG_CALLS - 2)
            break;
    }
    if (prng_chance(r, 500))
        add(p, (prog_ins){.op = I_ALL, .b = draw_policy(c, r) == PROG_RAISE ? PROG_RAISE : PROG_CATCH});
    if (prog_has(c, PF_BECOME) && stage < 2 && prng_chance(r, 250)) {
        p->become = true;
        for (uint32_t i = 0; i < p->ncalls && prog_has(c, PF_OUTPUT); i++)
            if (!p->calls[i].unique && !p->calls[i].substitute && p->noutputs < 2 && prng_chance(r, 300))
                p->outputs[p->noutputs++] = (uint8_t)i;
    } else if (prog_has(c, PF_FAIL) && prng_chance(r, 60)) {
        p->fatal = true;
    } else if (prog_has(c, PF_SKIP) && prng_chance(r, 60)) {
        p->skip = true;
    }
    p->v[p->n++] = (prog_ins){.op = I_END};
}

// ---- the oracle ------------------------------------------------------------------
typedef struct {
    const prog_conf *c;
    const prog *p;
    prog_expected kid[PROG_CALLS];
    bool computed[PROG_CALLS], reached[PROG_CALLS]; // in any attempt
    bool made[PROG_CALLS], seen[PROG_CALLS], given[PROG_CALLS];
    uint64_t sum;
} walk;

static bool good(const prog_expected *e) {
    return e->state == DTI_SUCCEEDED && !e->bad;
}

static void reach(walk *w, uint32_t i) {
    w->reached[i] = w->made[i] = true;
    if (w->computed[i])
        return;
    w->computed[i] = true;
    const prog_call *k = &w->p->calls[i];
    for (uint32_t d = 0; d < k->ndeps; d++)
        if (!good(&w->kid[k->deps[d]])) {
            w->kid[i] = (prog_expected){.state = DTI_SKIPPED, .live = 1};
            return;
        }
    w->kid[i] = prog_expect(w->c, k->seed, k->budget, 0, k->retries);
}

// The handler is given child i. True: that raises.
static bool give(walk *w, uint32_t i) {
    const prog_expected *e = &w->kid[i];
    if (w->given[i])
        return !good(e);
    w->given[i] = true;
    if (good(e)) {
        w->sum += e->value;
        return false;
    }
    w->seen[i] = true;
    return true;
}

// One attempt. True: it fails.
static bool attempt(walk *w, uint32_t tries, bool *uncounted) {
    const prog *p = w->p;
    memset(w->made, 0, sizeof w->made);
    memset(w->given, 0, sizeof w->given);
    memset(w->seen, 0, sizeof w->seen);
    w->sum = p->own;
    for (uint32_t pc = 0; pc < p->n; pc++) {
        const prog_ins *i = &p->v[pc];
        switch (i->op) {
        case I_SPAWN:
            reach(w, i->a);
            break;
        case I_WAIT:
            if (give(w, i->a)) {
                if (i->b == PROG_RAISE)
                    return true;
                if (i->b == PROG_SUBST) {
                    reach(w, i->c);
                    if (give(w, i->c))
                        return true;
                }
            }
            break;
        case I_ALL: {
            bool raises = false;
            for (uint32_t k = 0; k < p->ncalls; k++)
                if (w->made[k] && !w->given[k])
                    raises |= give(w, k);
            if (raises && i->b == PROG_RAISE)
                return true;
            break;
        }
        case I_FAILIF:
            if (tries < i->a) {
                *uncounted = i->b && tries == 0;
                return true;
            }
            break;
        default:
            break;
        }
    }
    return false;
}

prog_expected prog_expect(const prog_conf *c, uint64_t seed, uint32_t budget, uint32_t stage, uint32_t retries) {
    prog p;
    prog_make(c, seed, budget, stage, &p);
    walk w = {.c = c, .p = &p};
    uint32_t tries = 0, freed = 0;
    bool failed;
    for (;;) {
        bool uncounted = false;
        // Calls of earlier attempts are made again, so `reached` only grows.
        failed = attempt(&w, tries, &uncounted) || p.fatal;
        if (!failed)
            break;
        bool retry = uncounted || tries - freed < retries;
        tries++;
        freed += uncounted;
        if (!retry)
            break;
    }
    prog_expected e = {.live = 1, .value = w.sum};
    uint32_t bad = 0;
    for (uint32_t i = 0; i < p.ncalls; i++) {
        if (!w.reached[i])
            continue;
        e.live += w.kid[i].live;
        bool child_bad = w.kid[i].state == DTI_FAILED || (w.kid[i].state == DTI_SUCCEEDED && w.kid[i].bad);
        bad += child_bad && !w.seen[i] && !p.calls[i].may_fail;
    }
    if (failed) {
        e.state = DTI_FAILED;
    } else if (p.become) {
        for (uint32_t i = 0; i < p.noutputs; i++)
            bad += !w.reached[p.outputs[i]] || !good(&w.kid[p.outputs[i]]);
        if (bad) {
            e.state = DTI_FAILED;
        } else {
            // The next stage takes this one's place: its retries are the same.
            prog_expected next = prog_expect(c, seed, budget / 2, stage + 1, retries);
            next.live += e.live - 1;
            return next;
        }
    } else {
        e.state = DTI_SUCCEEDED;
        e.bad = bad > 0;
    }
    return e;
}
