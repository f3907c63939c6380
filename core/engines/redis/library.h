// The model's port as a library of Redis functions: made by lua/assemble.py.
#pragma once

#include <stddef.h>

extern const char dti_redis_library[];       // for FUNCTION LOAD
extern const size_t dti_redis_library_n;
extern const char dti_redis_function[];      // for FCALL: what may make the shard grow
extern const char dti_redis_function_oom[];  // what passes with memory full: ends
