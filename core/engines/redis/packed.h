// The packed records of the Redis script: see proto/redis.md, "Packed records".
#pragma once

#include "model/rows.h"

// False: not such a record, or one of a newer version. The names, signature
// and options behind a type's row, and a worker's name, come apart.
bool dti_packed_task(dtask_str, dti_taskrow *out);
bool dti_packed_job(dtask_str, dti_jobrow *out);
bool dti_packed_type(dtask_str, dti_type *out);
bool dti_packed_worker(dtask_str, dti_workerrow *out);
