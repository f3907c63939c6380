// Faults that can be planted in the model, to prove that the simulator sees
// them. Only objects compiled with DTI_PLANT have them; elsewhere every test
// is a constant false and leaves no code.
#pragma once

#define DTI_FAULTS(X)                                                                        \
    X(NO_TOKEN, "a message is taken without comparing its token")                            \
    X(NO_SEQ, "a message is taken again when it is resent")                                  \
    X(PARK_BLIND, "park does not look again whether what it awaits is there")                \
    X(CLAIM_BLIND, "a claim takes an extent's tasks whatever their state")                   \
    X(REDO_NO_ACK, "a child made anew does not acknowledge the one it replaces")             \
    X(CANCEL_DESCENDS, "the cancel pass goes from the last task to the first")               \
    X(RESEND_CLAIMS, "a resent turn claims again")                                           \
    X(PARKED_CHARGED, "tasks parked at a lost worker are charged")                           \
    X(BAD_RELEASES, "a dependent is admitted by a success with bad children")                \
    X(PERMIT_KEPT, "a parked task keeps its permits")                                        \
    X(WAKE_LOST, "`already` answers a resent park without the row's state")                  \
    X(ONE_WAITER, "a freed permit is offered to one waiter only")                            \
    X(LATE_TURN, "a turn below the worker's nonce is applied")                               \
    X(TOLD_ONCE, "told leaves out children that were told before")                           \
    X(THEN_RUNS, "`then` runs its handler after a failure")                                  \
    X(LIFE_CHARGED, "a worker's new life charges what its last one held")                     \
    X(PURGE_BLOBLESS, "a purge leaves the job's large values")

typedef enum {
    DTI_FAULT_NONE,
#define X(name, text) DTI_FAULT_##name,
    DTI_FAULTS(X)
#undef X
} dti_fault;

#ifdef DTI_PLANT
extern dti_fault dti_planted; // the simulator's
#define DTI_PLANTED(name) (dti_planted == DTI_FAULT_##name)
#else
#define DTI_PLANTED(name) 0
#endif
