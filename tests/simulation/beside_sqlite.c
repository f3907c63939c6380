// The model over the tables of an SQLite file, beside the model over memory:
// a transaction for each operation, as the engine runs them. Its rows are read
// by SQL, past all that the store keeps in memory.
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "beside.h"
#include "beside_rows.h"
#include "engines/memory_store.h"
#include "engines/sqlite_store.h"
#include "sim.h"

enum { SMALL_SEEDS = 40, EVERY = 64 }; // rows are compared after each step of the first seeds, then after each 64th

static const struct { const char *name; int columns; } tables[] = {
#define X(NAME, name, columns) {#name, columns},
    DTI_TABLES(X)
#undef X
};

static struct {
    char folder[32], path[48];
    sqlite3 *db, *older;         // older: the snapshot
    dti_sqlite_store *store;
    dti_arena arena;
    dti_op op;                   // as it ran here
    dti_effects fx;
    uint64_t seeds;
} at;

// ---- SQL -------------------------------------------------------------------------------------

static void must(int rc, const char *what) {
    if (!rc) return;
    fprintf(stderr, "simulation-sqlite: %s: %s\n", what, sqlite3_errmsg(at.db));
    exit(1);
}

static void table_name(char out[64], int t) {
    snprintf(out, 64, "\"sim:%.*s\"", (int)strcspn(tables[t].name, "_"), tables[t].name);
}

static void copy_all(sqlite3 *to, sqlite3 *from) {
    sqlite3_backup *b = sqlite3_backup_init(to, "main", from, "main");
    if (!b || sqlite3_backup_step(b, -1) != SQLITE_DONE || sqlite3_backup_finish(b)) must(1, "a copy of all rows");
}

void beside_sqlite_open(void) {
    bool fresh;
    strcpy(at.folder, "/tmp/simulation-XXXXXX");
    if (!mkdtemp(at.folder)) must(1, "no folder");
    snprintf(at.path, sizeof at.path, "%s/jobs.db", at.folder);
    must(sqlite3_open(at.path, &at.db), "open");
    must(sqlite3_open(":memory:", &at.older), "open the snapshot");
    must(sqlite3_exec(at.db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; BEGIN IMMEDIATE", NULL, NULL, NULL), "begin");
    if (dti_sqlite_store_create(at.db, "sim", &fresh)) must(1, "tables");
    must(sqlite3_exec(at.db, "COMMIT", NULL, NULL, NULL), "commit");
    if (!(at.store = dti_sqlite_store_new(at.db, "sim"))) must(1, "no memory");
}

void beside_sqlite_close(void) {
    char path[64];
    dti_sqlite_store_free(at.store);
    sqlite3_close(at.db);
    sqlite3_close(at.older);
    dti_arena_done(&at.arena);
    static const char *const ends[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", at.path, ends[i]);
        unlink(path);
    }
    rmdir(at.folder);
}

// ---- operations --------------------------------------------------------------------------------

static void begin(sim *s) {
    dti_store *store = dti_sqlite_store_of(at.store);
    dti_tx tx = {.store = store, .arena = &at.arena, .now = s->wall};
    jmp_buf trap;
    at.seeds++;
    dti_arena_reset(&at.arena);
    for (int t = 0; t < DTI_TABLE_COUNT; t++) {
        char name[64], sql[96];
        table_name(name, t);
        snprintf(sql, sizeof sql, "DELETE FROM %s", name);
        must(sqlite3_exec(at.db, sql, NULL, NULL, NULL), sql);
    }
    dti_sqlite_forget(at.store);
    store->trap = &trap;
    if (setjmp(trap)) sim_violation(s, "BESIDE_RAISED", "making the store: %s", dtask_err_detail());
    dti_sqlite_begin(at.store, true);
    dti_model_init(&tx, 1, 1);
    dti_sqlite_keep(at.store);
    dti_sqlite_commit(at.store);
}

static void run(sim *s, const dti_op *op) {
    dti_store *store = dti_sqlite_store_of(at.store);
    jmp_buf trap;
    dti_arena_reset(&at.arena);
    at.op = *op;
    if (op->kind == DTI_OP_HELLO) { // its types are answered in place
        at.op.hello.types = dti_alloc(&at.arena, op->hello.ntypes * sizeof *op->hello.types + 1);
        if (!at.op.hello.types) abort();
        if (op->hello.ntypes) memcpy(at.op.hello.types, op->hello.types, op->hello.ntypes * sizeof *op->hello.types);
    }
    dti_tx tx = {.store = store, .arena = &at.arena, .now = s->wall, .cascade = s->cascade};
    store->trap = &trap;
    if (setjmp(trap)) sim_violation(s, "BESIDE_RAISED", "operation %d: %s", (int)op->kind, dtask_err_detail());
    dti_sqlite_begin(at.store, op->kind != DTI_OP_READ);
    dti_model_run(&tx, &at.op);
    if (at.op.err) dti_sqlite_undo(at.store);
    else dti_sqlite_keep(at.store);
    dti_sqlite_commit(at.store);
    at.fx = tx.fx;
}

static void same_rows(sim *s) {
    dti_store *other = dti_memory_store_new();
    char what[200], name[64], sql[96];
    if (!other) abort();
    for (int t = 0; t < DTI_TABLE_COUNT; t++) {
        sqlite3_stmt *rows;
        uint64_t flip = t < DTI_T_ORDERED ? 0 : (uint64_t)1 << 63;
        int n = tables[t].columns;
        table_name(name, t);
        snprintf(sql, sizeof sql, "SELECT * FROM %s", name);
        must(sqlite3_prepare_v2(at.db, sql, -1, &rows, NULL), sql);
        while (sqlite3_step(rows) == SQLITE_ROW) {
            uint64_t k[3] = {0};
            for (int i = 0; i < n; i++) k[i] = (uint64_t)sqlite3_column_int64(rows, i) ^ flip;
            dti_put(other, (dti_table)t, k[0], k[1], k[2], sqlite3_column_blob(rows, n), (size_t)sqlite3_column_bytes(rows, n));
        }
        must(sqlite3_finalize(rows), sql);
    }
    bool same = dti_memory_store_hash(other) == dti_memory_store_hash(s->store.in);
    if (!same && !beside_differs(other, s->store.in, what, sizeof what)) snprintf(what, sizeof what, "the hashes differ, and no row does");
    dti_memory_store_free(other);
    if (!same) sim_violation(s, "BESIDE_ROWS", "%s", what);
}

static void compare(sim *s, const dti_op *op, const dti_effects *fx) {
    if (at.op.err != op->err) sim_violation(s, "BESIDE_REPLY", "operation %d: here %d, the model %d", (int)op->kind, (int)at.op.err, (int)op->err);
    if (!op->err) beside_same_outs(s, &at.op, op);
    if (op->kind != DTI_OP_READ) beside_same_effects(s, &at.fx, fx);
    if (at.seeds <= SMALL_SEEDS || s->step % EVERY == 0 || s->beside_dumps) same_rows(s);
}

static void snapshot(sim *s) {
    (void)s;
    copy_all(at.older, at.db);
}

static void restore(sim *s) {
    (void)s;
    copy_all(at.db, at.older);
    dti_sqlite_forget(at.store);
}

const sim_beside beside_sqlite = {begin, run, compare, snapshot, restore};
