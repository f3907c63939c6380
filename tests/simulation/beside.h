// Another engine of the model that runs beside it: each operation goes to
// both, and their answers, effects and rows must be the same.
#pragma once

#include "model/model.h"

typedef struct sim sim;
typedef struct {
    void (*begin)(sim *);        // an empty store, made ready
    void (*run)(sim *, const dti_op *);             // ahead of the model: nothing in it is an answer yet
    void (*compare)(sim *, const dti_op *, const dti_effects *); // the model has run it
    void (*snapshot)(sim *);
    void (*restore)(sim *);
} sim_beside;

// What came of an operation beside and in the model is the same, or a violation.
void beside_same_outs(sim *, const dti_op *beside, const dti_op *model);
void beside_same_effects(sim *, const dti_effects *beside, const dti_effects *model);
void beside_same_read(sim *, const dti_read *beside, const dti_read *model);

// The program has one of them at most, or none. open ends the program where it cannot.
#ifdef SIM_REDIS
extern const sim_beside beside_redis; // the script, on a server of its own
void beside_redis_open(void);
void beside_redis_close(void);
#endif
#ifdef SIM_SQLITE
extern const sim_beside beside_sqlite; // the tables of a file
void beside_sqlite_open(void);
void beside_sqlite_close(void);
#endif
