// One SQLite file as this process has it open for one app: shared by all
// handles that were opened with the same options.
#pragma once

#include <sys/queue.h>

#include "engines/bell_file.h"
#include "engines/sqlite_store.h"

enum { DTI_READERS_MAX = 4 };

typedef struct dti_sqlite_call {  // a call that waits to be run
    STAILQ_ENTRY(dti_sqlite_call) entry;
    dti_op *ops;
    size_t n;
    dti_arena *arena;
    dti_effects fx;
    dti_failure failure;
    pthread_cond_t news;
    bool done;
} dti_sqlite_call;
STAILQ_HEAD(dti_sqlite_calls, dti_sqlite_call);

typedef struct dti_sqlite_reader {
    SLIST_ENTRY(dti_sqlite_reader) entry;
    sqlite3 *db;
    dti_sqlite_store *store;
} dti_sqlite_reader;

typedef struct dti_sqlite_file {
    LIST_ENTRY(dti_sqlite_file) entry;
    char *path, *app;            // absolute
    bool full;
    int64_t lease_us, timeout_us;
    unsigned refs, forks;
    bool listed;                 // known to fork, and to later opens
    uint64_t salt;
    dti_bellfile bell;
    // the leader's
    sqlite3 *db;
    dti_sqlite_store *store;
    dti_corpses corpses;
    bool bury;                   // this transaction's sweep named them
    int64_t strays_looked;
    int wal_pages, wal_checked;  // in the log; when it was last copied back
    int64_t cut_at;              // monotonic: it is not cut before, for someone read on and on

    pthread_mutex_t queue_lock;  // of queue, leading
    struct dti_sqlite_calls queue;
    bool leading;

    pthread_mutex_t reader_lock;
    pthread_cond_t reader_news;
    SLIST_HEAD(, dti_sqlite_reader) readers; // idle
    int nreaders;                // in all
} dti_sqlite_file;

typedef struct {
    dti_engine engine;
    dti_sqlite_file *file;
} dti_sqlite_handle;

dtask_err dti_sqlite_open(const dti_engine_conf *, dti_engine **out);
void dti_sqlite_close(dti_engine *);
dtask_err dti_sqlite_reader_take(dti_sqlite_file *, dti_sqlite_reader **out);
void dti_sqlite_reader_give(dti_sqlite_file *, dti_sqlite_reader *);
// Copies the log back where it has grown; with the writer lock it also cuts it.
void dti_sqlite_bound_wal(dti_sqlite_file *, bool locked);

// The type of the file system of a path (statfs), or -1. Tests put another in
// its place.
extern long (*dti_statfs_type)(const char *path);
