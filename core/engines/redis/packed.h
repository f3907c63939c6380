// The packed records of the Redis script: see proto/redis.md, "Packed records".
#pragma once

#include "model/rows.h"

enum { DTI_PACKED_BLOB_MIN = 64 << 10 }; // of a job whose record says nothing

// False: not such a record, or one of a newer version. The name, signature
// and options behind a type's row come apart. Left at 0: a call that the
// model made itself, and a job's last blob, which only the script looks for.
bool dti_packed_task(dtask_str, dti_taskrow *out);
bool dti_packed_job(dtask_str, dti_jobrow *out);
bool dti_packed_type(dtask_str, dti_type *out);
bool dti_packed_worker(dtask_str, dti_workerrow *out);
