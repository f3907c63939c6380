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

extern const sim_beside beside_redis; // the script, on a server of its own
void beside_redis_open(void);         // starts the server; ends the program where it cannot
void beside_redis_close(void);
