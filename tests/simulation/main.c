// simulation [--seeds N] [--from S] [--seconds T]   runs seeds S .. S+N-1, at most T seconds
// simulation --seed S [--trace]                     runs one again, and tells all
// simulation-redis ..                               the same, with the Redis script beside the model
// simulation-kafka ..                               and starts as a worker takes them in from Kafka
// simulation-sqlite ..                              the same, with the tables of an SQLite file beside it
// simulation-planted [--fault NAME --until-caught]  for each planted fault: seeds until it is caught
//
// A violation prints the seed, the step, the invariant's name and the last
// operations, and exits with 1.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engines/memory_store.h"
#include "model/faults.h"
#include "sim.h"

#ifdef DTI_PLANT
dti_fault dti_planted = DTI_FAULT_NONE;
static const char *const planted_names[] = {"none",
#define X(name, text) #name,
    DTI_FAULTS(X)
#undef X
};
enum { PLANTED = sizeof planted_names / sizeof *planted_names };
#endif

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void show_violation(sim *s) {
    printf("seed %llu step %llu: invariant %s violated: %s\n", (unsigned long long)s->seed, (unsigned long long)s->step, s->violation, s->why);
    if (!s->trace) { // a seed is a run: once more, to hear what happened
        s->trace = true;
        s->beside = NULL;
        sim_run(s);
    }
    printf("the last operations:\n");
    uint64_t from = s->nlines > 40 ? s->nlines - 40 : 0;
    for (uint64_t i = from; i < s->nlines; i++)
        printf("%s\n", s->lines[i % 64]);
    printf("again: simulation --seed %llu --trace\n", (unsigned long long)s->seed);
}

// A seed is a run: the same steps, and the same rows at the end.
static bool repeats(sim *s) {
    s->stats->seeds--; // counted once
    uint64_t step = s->step, hash = dti_memory_store_hash(s->store.in);
    if (sim_run(s) && s->step == step && dti_memory_store_hash(s->store.in) == hash)
        return true;
    snprintf(s->violation, sizeof s->violation, "DETERMINISM");
    snprintf(s->why, sizeof s->why, "the second run of the seed was another one");
    return false;
}

static int run(sim *s, uint64_t from, uint64_t n, double limit) {
    double begun = seconds();
    for (uint64_t i = 0; i < n; i++) {
        if (limit > 0 && seconds() - begun > limit)
            break;
        s->seed = from + i;
        if (!sim_run(s) || (i % 256 == 0 && !s->beside && !repeats(s))) {
            show_violation(s);
            return 1;
        }
    }
    const sim_stats *t = s->stats;
    double took = seconds() - begun;
    printf("seeds %llu, steps %llu (%.0f a second), jobs %llu, lifecycles %llu, messages %llu, claims %llu, wakes %llu\n", (unsigned long long)t->seeds,
        (unsigned long long)t->steps, (double)t->steps / took, (unsigned long long)t->jobs, (unsigned long long)t->tasks, (unsigned long long)t->messages,
        (unsigned long long)t->claims, (unsigned long long)t->wakes);
    printf("faults:");
    for (int f = 0; f < FT_COUNT; f++)
        printf(" %s %llu", sim_fault_names[f], (unsigned long long)t->faults[f]);
    printf("\nviolations 0, %.1f s\n", took);
    return 0;
}

#ifdef DTI_PLANT
static int planted(sim *s, const char *only, uint64_t from, uint64_t n) {
    int missed = 0;
    printf("%-18s %7s  %s\n", "fault", "seeds", "caught by");
    for (int f = 1; f < PLANTED; f++) {
        if (only && strcmp(only, planted_names[f]))
            continue;
        dti_planted = (dti_fault)f;
        uint64_t i = 0;
        for (; i < n; i++) {
            s->seed = from + i;
            if (!sim_run(s))
                break;
        }
        missed += i == n;
        printf("%-18s %7llu  %s\n", planted_names[f], (unsigned long long)(i < n ? i + 1 : n), i < n ? s->violation : "NOT CAUGHT");
        if (only && i < n)
            printf("  seed %llu step %llu: %s\n", (unsigned long long)s->seed, (unsigned long long)s->step, s->why);
        fflush(stdout);
    }
    return missed != 0;
}
#endif

static int usage(void) {
    fputs("usage: simulation [--seeds N] [--from S] [--seconds T] | --seed S [--trace] | --fault NAME --until-caught\n", stderr);
    return 2;
}

int main(int argc, char **argv) {
    uint64_t n = 20000, from = 1;
    double limit = 0;
    bool trace = false, one = false, until = false;
    const char *fault = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--trace"))
            trace = true;
        else if (!strcmp(a, "--until-caught"))
            until = true;
        else if (!v)
            return usage();
        else if (!strcmp(a, "--seeds"))
            n = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--from"))
            from = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--seconds"))
            limit = strtod(v, NULL), i++;
        else if (!strcmp(a, "--seed"))
            from = strtoull(v, NULL, 10), n = 1, one = true, i++;
        else if (!strcmp(a, "--fault"))
            fault = v, i++;
        else
            return usage();
    }
    sim_stats stats = {0};
    sim *s = calloc(1, sizeof *s);
    s->stats = &stats;
    s->beside_dumps = one;
#ifdef SIM_REDIS
    s->beside = &beside_redis;
    beside_redis_open();
#endif
#ifdef SIM_SQLITE
    s->beside = &beside_sqlite;
    beside_sqlite_open();
#endif
    int code;
#ifdef DTI_PLANT
    if (one) {
        for (int f = 1; fault && f < PLANTED; f++)
            if (!strcmp(fault, planted_names[f]))
                dti_planted = (dti_fault)f;
        s->trace = trace;
        s->out = trace ? stdout : NULL;
        code = run(s, from, 1, 0);
    } else {
        (void)until, (void)limit;
        code = planted(s, fault, from, n);
    }
#else
    if (fault || until) {
        fputs("no fault is planted in this one: use simulation-planted\n", stderr);
        free(s);
        return 2;
    }
    s->trace = one && trace;
    s->out = s->trace ? stdout : NULL;
    code = run(s, from, n, limit);
#endif
#ifdef SIM_REDIS
    beside_redis_close();
#endif
#ifdef SIM_SQLITE
    beside_sqlite_close();
#endif
    sim_done(s);
    free(s);
    return code;
}
