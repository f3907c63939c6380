// See stores.h.
#include "stores.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engines/sqlite_store.h"

static jmp_buf trap;

static void *memory_make(void) {
    dti_store *s = dti_memory_store_new();
    s->trap = &trap;
    return s;
}
static dti_store *memory_begin(void *at) {
    dti_memory_store_begin(at);
    return at;
}
static void memory_keep(void *at) {
    dti_memory_store_commit(at);
}
static void memory_undo(void *at) {
    dti_memory_store_rollback(at);
}
static void memory_commit(void *at, bool forget) {
    (void)forget;
    dti_memory_store_commit(at);
}
static void memory_free(void *at) {
    dti_memory_store_free(at);
}
const test_store_kind test_memory_kind = {memory_make, memory_begin, memory_keep, memory_undo, memory_commit, memory_free};

// ---- SQLite: a file of its own for each ------------------------------------------

typedef struct {
    sqlite3 *db;
    dti_sqlite_store *store;
    char dir[64], path[96];
} sqlite_test;

static void *sqlite_make(void) {
    sqlite_test *t = calloc(1, sizeof *t);
    strcpy(t->dir, "/tmp/dtest_XXXXXX");
    cr_assert(mkdtemp(t->dir));
    snprintf(t->path, sizeof t->path, "%s/s.db", t->dir);
    cr_assert_eq(sqlite3_open(t->path, &t->db), SQLITE_OK);
    bool fresh;
    sqlite3_exec(t->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF", NULL, NULL, NULL);
    cr_assert_eq(dti_sqlite_store_create(t->db, "test", &fresh), DTASK_OK);
    cr_assert(fresh);
    t->store = dti_sqlite_store_new(t->db, "test");
    dti_sqlite_store_of(t->store)->trap = &trap;
    return t;
}
static dti_store *sqlite_begin(void *at) {
    sqlite_test *t = at;
    dti_sqlite_begin(t->store, true);
    return dti_sqlite_store_of(t->store);
}
static void sqlite_keep(void *at) {
    dti_sqlite_keep(((sqlite_test *)at)->store);
}
static void sqlite_undo(void *at) {
    dti_sqlite_undo(((sqlite_test *)at)->store);
}
static void sqlite_commit(void *at, bool forget) {
    sqlite_test *t = at;
    dti_sqlite_commit(t->store);
    if (forget) dti_sqlite_forget(t->store);
}
static void sqlite_free(void *at) {
    static const char *const ends[] = {"", "-wal", "-shm"};
    sqlite_test *t = at;
    dti_sqlite_store_free(t->store);
    sqlite3_close(t->db);
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", t->path, ends[i]);
        unlink(path);
    }
    rmdir(t->dir);
    free(t);
}
const test_store_kind test_sqlite_kind = {sqlite_make, sqlite_begin, sqlite_keep, sqlite_undo, sqlite_commit, sqlite_free};
