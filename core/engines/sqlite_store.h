// A store in tables of an SQLite file, and rows.h in front of it: within a
// transaction a row is read once, changed in memory and written once at
// commit; one that comes and goes within it never reaches SQL. Clean rows
// stay known over transactions for as long as nobody else has written.
//
// Tables are named "app:task" and so on, WITHOUT ROWID, keys a, b, c, value
// v. Keys are u64, stored as i64: as they are in point tables, with the top
// bit flipped in ordered ones, where SQL must see their order.
//
// One thread at a time. Errors of SQLite are raised as EENGINE with a
// sentence. Not done here: the queue of writers, pragmas, checkpoints.
#pragma once

#include <sqlite3.h>

#include "model/store.h"

typedef struct dti_sqlite_store dti_sqlite_store;

// The connection stays the caller's. create: the tables, where they are
// absent; inside a transaction of the caller's.
dtask_err dti_sqlite_store_create(sqlite3 *, const char *app, bool *fresh);
dti_sqlite_store *dti_sqlite_store_new(sqlite3 *, const char *app); // NULL: no memory
void dti_sqlite_store_free(dti_sqlite_store *);
dti_store *dti_sqlite_store_of(dti_sqlite_store *);

// A transaction; all of these but rollback may raise. After a raise outside of
// an operation: rollback.
void dti_sqlite_begin(dti_sqlite_store *, bool write); // not write: a snapshot to read
void dti_sqlite_keep(dti_sqlite_store *);  // an operation of it is done
void dti_sqlite_undo(dti_sqlite_store *);  // or leaves no trace
void dti_sqlite_commit(dti_sqlite_store *);
void dti_sqlite_rollback(dti_sqlite_store *);
void dti_sqlite_forget(dti_sqlite_store *); // what is cached; between transactions

// An error of SQLite as one of ours, with what to do; sets the detail.
dtask_err dti_sqlite_error(sqlite3 *, int rc);
dtask_err dti_sqlite_error_at(sqlite3 *, int rc, const char *file); // of a connection that could not be opened
