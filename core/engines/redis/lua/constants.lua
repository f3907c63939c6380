-- Numbers of core/model/rows.h and model.h. Each stands in the script as a
-- number: assemble.py puts it in where its name is, and leaves this file out.
local U32 = 4294967295
local HERE = 2147483648 -- a ref from here on is a place in its message

-- Errors: dtask_err of dynatask.h.
local EARGS, ENOTFOUND, ETOOBIG, EENGINE, EVERSION, EINTERNAL = -1, -3, -5, -6, -7, -19

-- States of a task, of a job.
local BLOCKED, SCHEDULED, READY, RUNNING, PARKED, CLOSING, SUCCEEDED, FAILED, CANCELLED, SKIPPED, STATES = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local JOB_RUNNING, JOB_CANCELLING, JOB_SUCCEEDED, JOB_FAILED, JOB_CANCELLED = 0, 1, 2, 3, 4
-- wait
local QUIET, MAIL, DUE, LIMIT_WAIT, PAUSE, THEN, AWAITS = 1, 2, 4, 8, 16, 32, 7
-- bits
local SEEN, REPLACED, FIRST, CANCEL, PERMIT, JOURNAL, UNDO, HAS_KEYS = 1, 2, 4, 8, 16, 32, 64, 128
local TELLS, HAS_EDGES, HAS_DEPS, LASTLY, HAS_STATE, HAS_PROGRESS, HAS_ERROR = 256, 512, 1024, 2048, 4096, 8192, 16384
-- reason
local R_NONE, R_AFTER, R_LIMIT, R_EXPIRED, R_UNIQUE, R_TEST, R_LOST, R_CHILDREN, R_GRACE = 0, 1, 2, 3, 4, 5, 6, 7, 8
-- kinds of data
local D_ARGS, D_KEYS, D_DEPS, D_TOLD, D_RESULT, D_ERROR, D_PROGRESS, D_STATE, D_ID, D_TAGS, D_TRIGGER, D_KIDS = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
local KEEP_FAILED, KEEP_ALL, KEEP_ROOT = 0, 1, 2
-- of the log
local NOTE, SIG, KID, WOKE, EMIT, UNDOING = 0, 1, 2, 3, 4, 5
-- what is left to do
local DO_COMPLETE, DO_SETTLE, DO_WAKE, DO_EDGES, DO_DROP, DO_CANCEL, DO_CANCEL_KIDS, DO_CANCEL_JOB, DO_PAUSE, DO_RESUME, DO_LANES, DO_PURGE,
    DO_LIMIT, DO_WORKER = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
local LAPSE_LIMIT, LAPSE_UNIQUE, LAPSE_WORKER, LAPSE_GONE, LAPSE_RETAIN = 0, 1, 2, 3, 4
local CASCADE, CHUNK, QUANTUM, MAILS_MAX, CHILDREN_MAX, MESSAGES_MAX, ENDED_MAX = 256, 32, 8, 512, 2048, 128, 64
-- how much
local TTL, ROOM_US = 60, 10000
-- status of start; of a turn; of a message; of mark; of post
local CREATED, EXISTS, CONFLICT, UNKNOWN = 0, 1, 2, 3
local TAKEN, TAKEN_BEFORE, TAKEN_NOT = 0, 1, 2
local TURN_OK, TURN_DEAD, TURN_OLD, TURN_ERA = 0, 1, 2, 3
local OK, STALE, ALREADY, GAP, TOOBIG, FULL, BAD = 0, 1, 2, 3, 4, 5, 6
local MARKED, MARK_ENDED, MARK_NONE, MARK_BUSY = 0, 1, 2, 3
local POSTED, DUP, ENDED, POST_FULL, NOTASK = 0, 1, 2, 3, 4
-- what ends a message; how a task parks; the verbs of mark
local END_NONE, END_SUCCEED, END_FAIL, END_CANCELLED, END_SKIP, END_RELEASE, END_PARK, END_BECOME = 0, 1, 2, 3, 4, 5, 6, 7
local WARM, COLD, STAY = 0, 1, 2
local VERB_CANCEL, VERB_PAUSE, VERB_RESUME, VERB_PURGE = 0, 1, 2, 3
