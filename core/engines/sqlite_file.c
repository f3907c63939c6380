// Opening, refusing and closing an SQLite file: see sqlite_file.h.
//
// Only this file opens the database, and nothing else in the process may: a
// second open and close drops the POSIX locks that SQLite holds on it.
#include "engines/sqlite_file.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

enum {
    APPLICATION_ID = 0x64746173, // "dtas"
    PAGE_SIZE = 4096,
    CHECKPOINT_PAGES = 4096,     // of log, then it is copied back
    WAL_PAGES_MAX = (64 << 20) / PAGE_SIZE, // then it is cut
};

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER; // one open or close at a time
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, dti_sqlite_file) files = LIST_HEAD_INITIALIZER(files);
extern const dti_engine_ops dti_sqlite_engine;

// ---- fork ------------------------------------------------------------------------

static void lock_list(void) {
    pthread_mutex_lock(&list_lock);
}

static void unlock_list(void) {
    pthread_mutex_unlock(&list_lock);
}

static void forget(void) {
    dti_sqlite_file *f;
    LIST_FOREACH(f, &files, entry) dti_bellfile_forked(&f->bell);
    LIST_INIT(&files);
    pthread_mutex_init(&list_lock, NULL);
    pthread_mutex_init(&open_lock, NULL);
}

// ---- refusing ------------------------------------------------------------------

static long statfs_type(const char *path) {
    struct statfs st;
    return statfs(path, &st) < 0 ? -1 : (long)st.f_type;
}
long (*dti_statfs_type)(const char *path) = statfs_type;

// Their locks or mappings do not reach other machines, or not reliably.
static const struct { uint32_t type; const char *name; } remote[] = {
    {NFS_SUPER_MAGIC, "NFS"}, {SMB_SUPER_MAGIC, "SMB"}, {0xFE534D42, "SMB"}, {0xFF534D42, "CIFS"}, {V9FS_MAGIC, "9p"},
    {0x65735546, "FUSE or virtiofs"}, {0x00C36400, "Ceph"}, {AFS_SUPER_MAGIC, "AFS"}, {0x6B414653, "AFS"},
    {CODA_SUPER_MAGIC, "Coda"}, {0x0BD00BD0, "Lustre"}, {0x01161970, "GFS2"}, {OCFS2_SUPER_MAGIC, "OCFS2"},
    {0x786F4256, "a VirtualBox shared folder"},
};

static dtask_err refuse_remote(const char *folder) {
    uint32_t type = (uint32_t)dti_statfs_type(folder);
    for (size_t i = 0; i < sizeof remote / sizeof *remote; i++) {
        if (remote[i].type == type)
            return dti_fail(DTASK_EENGINE,
                "%s is on %s, a network or shared file system, where locks cannot be relied on: use a local disk", folder,
                remote[i].name);
    }
    return DTASK_OK;
}

// The absolute path of the file, whose folder exists; with all that can be
// refused before anything is touched.
static dtask_err find_path(const char *path, char **out) {
    char *copy = strdup(path), *slash = copy ? strrchr(copy, '/') : NULL, *folder = NULL, *full = NULL;
    const char *name = slash ? slash + 1 : copy;
    dtask_err err = DTASK_OK;
    if (!copy) return dti_fail(DTASK_ENOMEM, "out of memory when opening %.600s", path);
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        err = dti_fail(DTASK_EARGS, "'sqlite:%.600s' names no file: write sqlite:PATH, such as sqlite:jobs.db", path);
        goto end;
    }
    full = realpath(path, NULL); // links are followed: the files beside it lie by the real one
    if (!full && errno != ENOENT) {
        err = dti_fail(DTASK_EENGINE, "%.600s cannot be opened (%s): name another file", path, strerror(errno));
        goto end;
    }
    if (full) {
        folder = strdup(full);
        char *last = folder ? strrchr(folder, '/') : NULL;
        if (last) last[last == folder] = 0;
    } else {
        if (slash) *slash = 0;
        folder = realpath(!slash ? "." : slash == copy ? "/" : copy, NULL);
        if (!folder) {
            err = dti_fail(DTASK_EENGINE, "the folder of %.600s cannot be opened (%s): make it, or name another", path,
                strerror(errno));
            goto end;
        }
        if (asprintf(&full, "%s/%s", strcmp(folder, "/") ? folder : "", name) < 0) full = NULL;
    }
    if (!folder || !full) {
        err = dti_fail(DTASK_ENOMEM, "out of memory when opening %.600s", path);
        goto end;
    }
    struct stat st;
    if (stat(full, &st) == 0 && !S_ISREG(st.st_mode))
        err = dti_fail(DTASK_EENGINE, "%.600s is not a file: name a file of an SQLite database", full);
    if (!err) err = refuse_remote(folder);
    if (!err && eaccess(folder, W_OK) < 0)
        err = dti_fail(DTASK_EENGINE,
            "the folder %.600s cannot be written (%s): files beside the database must be made in it", folder, strerror(errno));
    if (!err && eaccess(full, F_OK) == 0 && eaccess(full, R_OK | W_OK) < 0)
        err = dti_fail(DTASK_EENGINE, "%.600s cannot be written (%s): it must be writable by this user", full, strerror(errno));
end:
    free(copy);
    free(folder);
    if (err) free(full);
    else *out = full;
    return err;
}

// ---- connections -----------------------------------------------------------------

static dtask_err exec(sqlite3 *db, const char *sql) {
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    return rc ? dti_sqlite_error(db, rc) : DTASK_OK;
}

static dtask_err query_int(sqlite3 *db, const char *sql, int64_t *out) {
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
    if (!rc && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        *out = sqlite3_column_int64(stmt, 0);
        rc = SQLITE_OK;
    }
    dtask_err err = rc ? dti_sqlite_error(db, rc) : DTASK_OK;
    sqlite3_finalize(stmt);
    return err;
}

static int count_wal(void *arg, sqlite3 *db, const char *name, int pages) {
    (void)db, (void)name;
    ((dti_sqlite_file *)arg)->wal_pages = pages;
    return SQLITE_OK;
}

static dtask_err connect(const dti_sqlite_file *f, sqlite3 **out) {
    int rc = sqlite3_open_v2(f->path, out, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc) {
        dtask_err err = *out ? dti_sqlite_error_at(*out, rc, f->path) : dti_fail(DTASK_ENOMEM, "out of memory when opening %s", f->path);
        sqlite3_close(*out);
        *out = NULL;
        return err;
    }
    sqlite3_extended_result_codes(*out, 1);
    sqlite3_busy_timeout(*out, (int)(f->timeout_us / 1000));
    dtask_err err = exec(*out, f->full ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
    if (!err) err = exec(*out, "PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF");
    return err;
}

// Ours, or empty; `empty` where nothing is in it. Before anything is changed.
static dtask_err identify(dti_sqlite_file *f, bool *empty) {
    int64_t id = 0, version = 0, tables = 0;
    dtask_err err = query_int(f->db, "SELECT count(*) FROM sqlite_master", &tables);
    if (!err) err = query_int(f->db, "PRAGMA application_id", &id);
    if (!err) err = query_int(f->db, "PRAGMA user_version", &version);
    if (err) return err;
    *empty = tables == 0 && id == 0;
    if (!*empty && id != APPLICATION_ID)
        return dti_fail(DTASK_EENGINE, "%s is the database of another program: name another file", f->path);
    if (version > DTI_SCHEMA_WRITE)
        return dti_fail(DTASK_EVERSION, "%s was made by a newer dynatask (schema %d, this one knows %d): upgrade this one",
            f->path, (int)version, DTI_SCHEMA_WRITE);
    return DTASK_OK;
}

static dtask_err fill_new(dti_sqlite_file *f, dti_arena *arena) { // an app's first rows
    dti_store *store = dti_sqlite_store_of(f->store);
    jmp_buf trap;
    store->trap = &trap;
    if (setjmp(trap)) return store->trap_err;
    dti_sqlite_begin(f->store, true);
    size_t n;
    if (!dti_get(store, DTI_T_META, 0, 0, 0, &n)) {
        dti_tx tx = {.store = store, .arena = arena, .now = dti_wall_us()};
        dti_model_init(&tx, dti_random64(), 1);
        dti_sqlite_keep(f->store);
    }
    const dti_meta *meta = dti_get(store, DTI_T_META, 0, 0, 0, &n);
    dtask_err err = dti_model_check(meta, n);
    if (err) return err;
    f->salt = meta->salt;
    dti_sqlite_commit(f->store);
    return DTASK_OK;
}

// Under the writer lock: makes the file ours, and the app's tables.
static dtask_err set_up(dti_sqlite_file *f) {
    bool empty, fresh;
    char sql[160];
    dtask_err err = identify(f, &empty);
    if (!err && empty) {
        snprintf(sql, sizeof sql, "PRAGMA page_size=%d", PAGE_SIZE);
        err = exec(f->db, sql);
    }
    int64_t wal = 0;
    if (!err) err = exec(f->db, "PRAGMA journal_mode=WAL");
    if (!err) err = query_int(f->db, "SELECT journal_mode='wal' FROM pragma_journal_mode", &wal);
    if (!err && !wal)
        err = dti_fail(DTASK_EENGINE, "%s cannot be put into WAL mode: is another program using it?", f->path);
    if (!err) err = exec(f->db, "BEGIN IMMEDIATE");
    if (err) return err;
    err = dti_sqlite_store_create(f->db, f->app, &fresh);
    snprintf(sql, sizeof sql, "PRAGMA application_id=%d; PRAGMA user_version=%d", APPLICATION_ID, DTI_SCHEMA_WRITE);
    if (!err && empty) err = exec(f->db, sql);
    if (!err) err = exec(f->db, "COMMIT");
    if (err) {
        dti_failure why = {0};
        dti_note_failure(&why);
        exec(f->db, "ROLLBACK");
        dti_tell_failure(&why);
        return err;
    }
    f->store = dti_sqlite_store_new(f->db, f->app);
    if (!f->store) return dti_fail(DTASK_ENOMEM, "out of memory when opening %s", f->path);
    dti_arena arena = {0};
    if ((err = fill_new(f, &arena))) dti_sqlite_rollback(f->store);
    dti_arena_done(&arena);
    return err;
}

// ---- readers ---------------------------------------------------------------------

static void free_reader(dti_sqlite_reader *r) {
    dti_sqlite_store_free(r->store);
    sqlite3_close(r->db);
    free(r);
}

dtask_err dti_sqlite_reader_take(dti_sqlite_file *f, dti_sqlite_reader **out) {
    pthread_mutex_lock(&f->reader_lock);
    while (SLIST_EMPTY(&f->readers) && f->nreaders == DTI_READERS_MAX)
        pthread_cond_wait(&f->reader_news, &f->reader_lock); // reads are short
    dti_sqlite_reader *r = SLIST_FIRST(&f->readers);
    if (r) SLIST_REMOVE_HEAD(&f->readers, entry);
    else f->nreaders++;
    pthread_mutex_unlock(&f->reader_lock);
    dtask_err err = DTASK_OK;
    if (!r) {
        r = calloc(1, sizeof *r);
        err = r ? connect(f, &r->db) : dti_fail(DTASK_ENOMEM, "out of memory when reading %s", f->path);
        if (!err) err = exec(r->db, "PRAGMA query_only=ON");
        if (!err && !(r->store = dti_sqlite_store_new(r->db, f->app)))
            err = dti_fail(DTASK_ENOMEM, "out of memory when reading %s", f->path);
    }
    if (err) {
        if (r) free_reader(r);
        pthread_mutex_lock(&f->reader_lock);
        f->nreaders--;
        pthread_cond_signal(&f->reader_news);
        pthread_mutex_unlock(&f->reader_lock);
        return err;
    }
    *out = r;
    return DTASK_OK;
}

void dti_sqlite_reader_give(dti_sqlite_file *f, dti_sqlite_reader *r) {
    pthread_mutex_lock(&f->reader_lock);
    SLIST_INSERT_HEAD(&f->readers, r, entry);
    pthread_cond_signal(&f->reader_news);
    pthread_mutex_unlock(&f->reader_lock);
}

// ---- the log ----------------------------------------------------------------------

void dti_sqlite_bound_wal(dti_sqlite_file *f, bool locked) {
    int64_t began = dti_mono_us();
    bool cut = f->wal_pages > WAL_PAGES_MAX && began >= f->cut_at;
    if (f->wal_pages < f->wal_checked) f->wal_checked = 0; // it began anew
    if (locked ? !cut : f->wal_pages - f->wal_checked < CHECKPOINT_PAGES) return;
    int left = 0;
    sqlite3_busy_timeout(f->db, 100);
    int rc = sqlite3_wal_checkpoint_v2(f->db, NULL, locked ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE, &left,
        NULL);
    sqlite3_busy_timeout(f->db, (int)(f->timeout_us / 1000));
    f->wal_checked = f->wal_pages;
    if (!locked) return;
    // Not done because someone reads: waiting for that takes a tenth of the
    // time, not some of each commit.
    if (rc) f->cut_at = began + 10 * (dti_mono_us() - began);
    else f->wal_pages = f->wal_checked = 0;
}

// ---- open and close -----------------------------------------------------------------

static void free_file(dti_sqlite_file *f) {
    for (dti_sqlite_reader *r; (r = SLIST_FIRST(&f->readers));) {
        SLIST_REMOVE_HEAD(&f->readers, entry);
        free_reader(r);
    }
    dti_sqlite_store_free(f->store);
    sqlite3_close(f->db);
    if (f->listed) {
        lock_list();
        LIST_REMOVE(f, entry);
        dti_bellfile_close(&f->bell);
        unlock_list();
    }
    pthread_mutex_destroy(&f->queue_lock);
    pthread_mutex_destroy(&f->reader_lock);
    pthread_cond_destroy(&f->reader_news);
    free(f->path);
    free(f->app);
    free(f);
}

static dtask_err make_file(const dti_engine_conf *conf, char *path, dti_sqlite_file **out) {
    dti_sqlite_file *f = calloc(1, sizeof *f);
    if (!f) return free(path), dti_fail(DTASK_ENOMEM, "out of memory when opening %s", conf->url);
    *f = (dti_sqlite_file){.path = path, .app = strdup(conf->app), .full = conf->full, .lease_us = conf->lease_us,
        .timeout_us = conf->timeout_us, .forks = dti_forks(), .strays_looked = 0};
    STAILQ_INIT(&f->queue);
    SLIST_INIT(&f->readers);
    pthread_mutex_init(&f->queue_lock, NULL);
    pthread_mutex_init(&f->reader_lock, NULL);
    pthread_cond_init(&f->reader_news, NULL);
    bool empty;
    dtask_err err = f->app ? connect(f, &f->db) : dti_fail(DTASK_ENOMEM, "out of memory when opening %s", conf->url);
    if (!err) err = identify(f, &empty);
    if (!err) {
        lock_list(); // listed before it holds a lock: a fork from here on lets go of it
        err = dti_bellfile_make(&f->bell, f->path, f->app, f->lease_us);
        LIST_INSERT_HEAD(&files, f, entry);
        f->listed = true;
        unlock_list();
    }
    if (!err) err = dti_bellfile_open(&f->bell, f->timeout_us);
    if (!err) {
        int e = dti_writer_lock_take(&f->bell.writer, f->timeout_us);
        if (e) {
            err = dti_fail(DTASK_EENGINE, "%s stays locked by process %u: continue or end it, or raise engine_timeout",
                f->path, atomic_load(&f->bell.head->writer));
        } else {
            atomic_store(&f->bell.head->writer, (uint32_t)getpid());
            err = set_up(f);
            sqlite3_wal_hook(f->db, count_wal, f);
            dti_writer_lock_give(&f->bell.writer);
        }
    }
    if (err) return free_file(f), err;
    *out = f;
    return DTASK_OK;
}

dtask_err dti_sqlite_open(const dti_engine_conf *conf, dti_engine **out) {
    dti_at_fork(lock_list, unlock_list, forget);
    char *path = NULL;
    dtask_err err = find_path(strchr(conf->url, ':') + 1, &path);
    if (err) return err;
    dti_sqlite_handle *h = malloc(sizeof *h);
    if (!h) return free(path), dti_fail(DTASK_ENOMEM, "out of memory when opening %s", conf->url);
    pthread_mutex_lock(&open_lock);
    dti_sqlite_file *f;
    LIST_FOREACH(f, &files, entry) {
        if (strcmp(f->path, path) == 0 && strcmp(f->app, conf->app) == 0 && f->full == conf->full &&
            f->lease_us == conf->lease_us && f->timeout_us == conf->timeout_us)
            break;
    }
    if (f) {
        free(path);
    } else {
        err = make_file(conf, path, &f);
    }
    if (!err) f->refs++;
    pthread_mutex_unlock(&open_lock);
    if (err) return free(h), err;
    *h = (dti_sqlite_handle){{.ops = &dti_sqlite_engine, .salt = f->salt, .sees_deaths = true}, f};
    *out = &h->engine;
    return DTASK_OK;
}

void dti_sqlite_close(dti_engine *engine) {
    dti_sqlite_handle *h = (dti_sqlite_handle *)engine;
    dti_sqlite_file *f = h->file;
    if (f->forks == dti_forks()) {
        pthread_mutex_lock(&open_lock);
        if (--f->refs == 0) free_file(f);
        pthread_mutex_unlock(&open_lock);
    }
    free(h);
}
