// A store over SQL: see sqlite_store.h.
#include "engines/sqlite_store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engines/rows.h"

enum {
    CACHE_MAX = 32 << 20,        // bytes of rows kept over transactions
    FILL_ROWS = 32,              // read at once from an ordered table
    FILL_BYTES = 16 << 10,
    APP_MAX = 100,
};

typedef enum { GET, SEEK, PUT, DEL, VERBS } verb;

struct dti_sqlite_store {
    dti_rows rows;               // first
    sqlite3 *db;
    sqlite3_stmt *stmts[DTI_TABLE_COUNT][VERBS];
    sqlite3_stmt *begin, *snapshot, *commit, *rollback;
    dti_row **dirty;             // rows to be written at commit, and gaps
    size_t ndirty, cdirty;
    unsigned version;            // of the data, as the cache has it
    bool failed;                 // the last transaction did not end well: know nothing
    char app[APP_MAX + 1];
};

static const char *const names[DTI_TABLE_COUNT] = {
#define X(NAME, name, cols) #name,
    DTI_TABLES(X)
#undef X
};
static const uint8_t columns[DTI_TABLE_COUNT] = {
#define X(NAME, name, cols) cols,
    DTI_TABLES(X)
#undef X
};

// The table's name without the `_` that keeps a few from C's words.
static int name_len(dti_table t) {
    size_t n = strlen(names[t]);
    return (int)(names[t][n - 1] == '_' ? n - 1 : n);
}

// ---- errors ------------------------------------------------------------------

dtask_err dti_sqlite_error(sqlite3 *db, int rc) {
    const char *file = sqlite3_db_filename(db, "main");
    return dti_sqlite_error_at(db, rc, file ? file : "the file");
}

dtask_err dti_sqlite_error_at(sqlite3 *db, int rc, const char *file) {
    const char *said = sqlite3_errmsg(db);
    size_t n = strlen(file);
    if (n > 600) file += n - 600; // so that the sentence is heard to its end
    int system = sqlite3_system_errno(db);
    if ((rc & 0xff) == SQLITE_CANTOPEN && (system == EMFILE || system == ENFILE))
        return dti_fail(DTASK_EENGINE, "%s cannot be opened, for there are no descriptors left: raise their limit (ulimit -n)", file);
    switch (rc & 0xff) {
    case SQLITE_FULL:
        return dti_fail(DTASK_EENGINE,
            "no space is left for %s: free some; what was accepted is kept, and work goes on by itself", file);
    case SQLITE_NOTADB:
        return dti_fail(DTASK_EENGINE, "%s is not a database: name another file, or move this one away", file);
    case SQLITE_CORRUPT:
        return dti_fail(DTASK_EENGINE, "%s is damaged (%s): restore it from a copy", file, said);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN:
        return dti_fail(DTASK_EENGINE,
            "%s cannot be written (%s): the file and its folder must be writable by this user", file, said);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return dti_fail(DTASK_EENGINE,
            "%s is locked by another program: end it, or its transaction, or raise engine_timeout", file);
    case SQLITE_NOMEM:
        return dti_fail(DTASK_ENOMEM, "out of memory in SQLite: give the process more");
    case SQLITE_IOERR:
        return dti_fail(DTASK_EENGINE, "%s cannot be read or written (%s): look at the disk", file, said);
    default:
        return dti_fail(DTASK_EENGINE, "SQLite refused an operation on %s (%s)", file, said);
    }
}

static _Noreturn void raise_sql(dti_sqlite_store *s, int rc) {
    dti_rows_raise(&s->rows, dti_sqlite_error(s->db, rc));
}

// ---- statements ------------------------------------------------------------------

static inline int64_t column_of(dti_table t, uint64_t k) {
    return (int64_t)(t < DTI_T_ORDERED ? k : k ^ (uint64_t)1 << 63);
}

static inline uint64_t key_of(dti_table t, int64_t k) {
    return t < DTI_T_ORDERED ? (uint64_t)k : (uint64_t)k ^ (uint64_t)1 << 63;
}

static sqlite3_stmt *prepare(dti_sqlite_store *s, const char *sql) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
    if (rc) raise_sql(s, rc);
    return stmt;
}

static sqlite3_stmt *stmt_of(dti_sqlite_store *s, dti_table t, verb v) {
    if (s->stmts[t][v]) return s->stmts[t][v];
    static const char *const cols[] = {"", "a", "a,b", "a,b,c"}, *const marks[] = {"", "?1", "?1,?2", "?1,?2,?3"},
        *const values[] = {"", "?1,?2", "?1,?2,?3", "?1,?2,?3,?4"};
    char sql[256], table[APP_MAX + 32];
    int n = columns[t];
    snprintf(table, sizeof table, "\"%s:%.*s\"", s->app, name_len(t), names[t]);
    switch (v) {
    case GET: snprintf(sql, sizeof sql, "SELECT v FROM %s WHERE (%s)=(%s)", table, cols[n], marks[n]); break;
    case SEEK:
        snprintf(sql, sizeof sql, "SELECT %s,v FROM %s WHERE (%s)>=(%s) ORDER BY %s", cols[n], table, cols[n],
            marks[n], cols[n]);
        break;
    case PUT: snprintf(sql, sizeof sql, "REPLACE INTO %s VALUES(%s)", table, values[n]); break;
    default: snprintf(sql, sizeof sql, "DELETE FROM %s WHERE (%s)=(%s)", table, cols[n], marks[n]); break;
    }
    return s->stmts[t][v] = prepare(s, sql);
}

static void bind_key(sqlite3_stmt *stmt, dti_table t, dti_key k) {
    sqlite3_bind_int64(stmt, 1, column_of(t, k.a));
    if (columns[t] > 1) sqlite3_bind_int64(stmt, 2, column_of(t, k.b));
    if (columns[t] > 2) sqlite3_bind_int64(stmt, 3, column_of(t, k.c));
}

static void run(dti_sqlite_store *s, sqlite3_stmt *stmt) { // one that answers no rows
    int rc = sqlite3_step(stmt);
    sqlite3_reset(stmt);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW) raise_sql(s, rc);
}

dtask_err dti_sqlite_store_create(sqlite3 *db, const char *app, bool *fresh) {
    char sql[512];
    sqlite3_stmt *stmt;
    *fresh = true;
    // Table names do not tell cases apart; apps do.
    snprintf(sql, sizeof sql, "SELECT name='%s:meta', name FROM sqlite_master WHERE name='%s:meta' COLLATE NOCASE", app, app);
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (rc) return dti_sqlite_error(db, rc);
    dtask_err err = DTASK_OK;
    if ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        *fresh = false;
        const char *name = (const char *)sqlite3_column_text(stmt, 1);
        if (!sqlite3_column_int(stmt, 0))
            err = dti_fail(DTASK_EARGS,
                "the file holds the app '%.*s', which differs from '%s' in case only: write it so, or use another file",
                (int)strlen(name) - 5, name, app);
    } else if (rc != SQLITE_DONE) {
        err = dti_sqlite_error(db, rc);
    }
    sqlite3_finalize(stmt);
    static const char *const defs[] = {"", "a INTEGER NOT NULL", "a INTEGER NOT NULL,b INTEGER NOT NULL",
        "a INTEGER NOT NULL,b INTEGER NOT NULL,c INTEGER NOT NULL"};
    static const char *const cols[] = {"", "a", "a,b", "a,b,c"};
    for (int t = 0; t < DTI_TABLE_COUNT && !err && *fresh; t++) {
        snprintf(sql, sizeof sql, "CREATE TABLE \"%s:%.*s\"(%s,v BLOB,PRIMARY KEY(%s)) WITHOUT ROWID", app,
            name_len((dti_table)t), names[t], defs[columns[t]], cols[columns[t]]);
        if ((rc = sqlite3_exec(db, sql, NULL, NULL, NULL))) err = dti_sqlite_error(db, rc);
    }
    return err;
}

// ---- what rows.c asks for --------------------------------------------------------

static void load(dti_rows *rows, dti_table t, dti_key k) {
    dti_sqlite_store *s = (dti_sqlite_store *)rows;
    sqlite3_stmt *stmt = stmt_of(s, t, GET);
    bind_key(stmt, t, k);
    int rc = sqlite3_step(stmt);
    bool learned = rc != SQLITE_ROW ||
        dti_rows_learn(rows, t, k, sqlite3_column_blob(stmt, 0), (size_t)sqlite3_column_bytes(stmt, 0));
    sqlite3_reset(stmt);
    if (!learned) raise_sql(s, SQLITE_NOMEM);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) raise_sql(s, rc);
}

static dti_row *fill(dti_rows *rows, dti_table t, dti_key from, bool *whole) {
    dti_sqlite_store *s = (dti_sqlite_store *)rows;
    sqlite3_stmt *stmt = stmt_of(s, t, SEEK);
    int cols = columns[t], rc = SQLITE_ROW;
    dti_row *last = NULL;
    size_t bytes = 0;
    bind_key(stmt, t, from);
    for (int i = 0; i < FILL_ROWS && bytes < FILL_BYTES && (rc = sqlite3_step(stmt)) == SQLITE_ROW; i++) {
        dti_key k = {key_of(t, sqlite3_column_int64(stmt, 0)), cols > 1 ? key_of(t, sqlite3_column_int64(stmt, 1)) : 0,
            cols > 2 ? key_of(t, sqlite3_column_int64(stmt, 2)) : 0};
        size_t n = (size_t)sqlite3_column_bytes(stmt, cols);
        if (!(last = dti_rows_learn(rows, t, k, sqlite3_column_blob(stmt, cols), n))) rc = SQLITE_NOMEM;
        if (!last) break;
        bytes += n;
    }
    sqlite3_reset(stmt);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) raise_sql(s, rc);
    *whole = rc == SQLITE_DONE;
    return last;
}

static void clean(dti_sqlite_store *s, dti_row *r) {
    if (r->dirty) s->dirty[r->dirty - 1] = NULL;
    r->dirty = 0;
}

static void delete_row(dti_sqlite_store *s, dti_row *r) {
    sqlite3_stmt *stmt = stmt_of(s, r->table, DEL);
    bind_key(stmt, r->table, r->key);
    run(s, stmt);
    r->flags &= (uint8_t)~DTI_ROW_STORED;
}

static void changed(dti_rows *rows, dti_row *r) {
    dti_sqlite_store *s = (dti_sqlite_store *)rows;
    bool here = r->flags & DTI_ROW_HERE;
    if (!here && r->table >= DTI_T_ORDERED) { // at once, so that no seek wades through what is gone
        if (r->flags & DTI_ROW_STORED) delete_row(s, r);
        clean(s, r);
        dti_rows_forget(rows, r);
    } else if (!here && !(r->flags & DTI_ROW_STORED)) {
        clean(s, r);
    } else if (!r->dirty) {
        if (!dti_grow(&s->dirty, s->ndirty, &s->cdirty, sizeof *s->dirty)) raise_sql(s, SQLITE_NOMEM);
        s->dirty[s->ndirty] = r;
        r->dirty = (uint32_t)++s->ndirty;
    }
}

static void flush(dti_sqlite_store *s) {
    for (size_t i = 0; i < s->ndirty; i++) {
        dti_row *r = s->dirty[i];
        if (!r) continue;
        r->dirty = 0;
        if (!(r->flags & DTI_ROW_HERE)) {
            delete_row(s, r);
            continue;
        }
        sqlite3_stmt *stmt = stmt_of(s, r->table, PUT);
        bind_key(stmt, r->table, r->key);
        sqlite3_bind_blob(stmt, columns[r->table] + 1, r->v, (int)r->n, SQLITE_STATIC);
        run(s, stmt);
        r->flags |= DTI_ROW_STORED;
    }
    s->ndirty = 0;
}

// ---- transactions -------------------------------------------------------------------

void dti_sqlite_forget(dti_sqlite_store *s) {
    s->ndirty = 0;
    dti_rows_drop(&s->rows);
}

// SQLite counts, for this connection, its commits, and how often another's
// made it drop its pages. What it still trusts, the rows may trust too.
static unsigned data_version(dti_sqlite_store *s) {
    unsigned version = 0;
    sqlite3_file_control(s->db, "main", SQLITE_FCNTL_DATA_VERSION, &version);
    return version;
}

void dti_sqlite_begin(dti_sqlite_store *s, bool write) {
    if (!s->begin) {
        s->begin = prepare(s, "BEGIN IMMEDIATE");
        s->snapshot = prepare(s, "BEGIN");
        s->commit = prepare(s, "COMMIT");
        s->rollback = prepare(s, "ROLLBACK");
    }
    run(s, write ? s->begin : s->snapshot);
    if (!write) { // the snapshot is that of the first read
        sqlite3_stmt *stmt = stmt_of(s, DTI_T_META, GET);
        bind_key(stmt, DTI_T_META, (dti_key){0});
        run(s, stmt);
    }
    unsigned version = data_version(s);
    if (version != s->version || s->failed) dti_sqlite_forget(s);
    s->version = version;
    s->failed = false;
}

void dti_sqlite_keep(dti_sqlite_store *s) {
    dti_rows_keep(&s->rows);
}

void dti_sqlite_undo(dti_sqlite_store *s) {
    dti_rows_undo(&s->rows);
}

void dti_sqlite_commit(dti_sqlite_store *s) {
    flush(s);
    run(s, s->commit);
    s->version = data_version(s);
    if (s->rows.slab.used > CACHE_MAX) dti_sqlite_forget(s);
}

void dti_sqlite_rollback(dti_sqlite_store *s) {
    s->failed = true;
    if (s->rollback && !sqlite3_get_autocommit(s->db)) {
        sqlite3_step(s->rollback); // an error here means that there is nothing to roll back
        sqlite3_reset(s->rollback);
    }
    dti_sqlite_forget(s);
}

// ---- the whole -----------------------------------------------------------------------

static const dti_backing backing = {load, fill, changed};

dti_sqlite_store *dti_sqlite_store_new(sqlite3 *db, const char *app) {
    dti_sqlite_store *s = calloc(1, sizeof *s);
    if (!s || !dti_rows_init(&s->rows, &backing)) return free(s), NULL;
    s->db = db;
    snprintf(s->app, sizeof s->app, "%s", app);
    return s;
}

void dti_sqlite_store_free(dti_sqlite_store *s) {
    if (!s) return;
    for (int t = 0; t < DTI_TABLE_COUNT; t++) {
        for (int v = 0; v < VERBS; v++) sqlite3_finalize(s->stmts[t][v]);
    }
    sqlite3_finalize(s->begin);
    sqlite3_finalize(s->snapshot);
    sqlite3_finalize(s->commit);
    sqlite3_finalize(s->rollback);
    dti_rows_done(&s->rows);
    free(s->dirty);
    free(s);
}

dti_store *dti_sqlite_store_of(dti_sqlite_store *s) {
    return &s->rows.store;
}
