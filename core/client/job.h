// A job's handle, shared by what waits for it (job.c) and what watches it
// (watch.c).
#pragma once

#include "client/client.h"

typedef struct job_text job_text;

struct dtask_job {
    dtask_app *app;              // held
    atomic_int refs;             // the caller's, its watch's
    char *id;                    // as given: "job" or "job/ord"
    dtask_str job;               // the job's part of it
    uint32_t ord;
    dti_hash hash;               // of the job
    pthread_mutex_t lock;
    bool is_there;               // its start said so
    bool ended;                  // then for good:
    dtask_err end_err;           // 0, EFAILED, ECANCELLED, ESKIPPED
    dti_buf end;                 // the result, or the error map
    job_text *texts;             // that views were given of; few, each kept once
};

// Reads how it stands and remembers its end. ENOTFOUND.
dtask_err dti_job_look(dtask_job *, bool *out_ended);
// What a bell is told to ring at its end. ENOTFOUND.
dtask_err dti_job_bell(const dtask_job *, dti_awaited *out);
void dti_job_drop(dtask_job *);
