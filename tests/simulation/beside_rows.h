// The rows of a store, made from a dump of the Redis script.
#pragma once

#include "base/msgpack.h"
#include "model/store.h"

// Fills the empty memory store `to` with the rows of a dump (proto/redis.md,
// "Packed records"). What the script does not know by itself, the hash that
// names a job it started, is taken from `model`. NULL, or the name of the
// first row that is malformed.
const char *beside_rows(dtask_str dump, dti_store *to, dti_store *model);
// The first row that one has and the other has not, or has otherwise; false: none.
bool beside_differs(dti_store *here, dti_store *model, char *out, size_t n);
