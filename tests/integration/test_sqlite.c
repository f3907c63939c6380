// The SQLite engine among processes: deaths inside and outside transactions,
// frozen holders, bells, forks, and what it refuses to open.
#include "world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engines/sqlite_file.h"

#define ALONE .timeout = 60

// ---- children ------------------------------------------------------------------

typedef struct {
    pid_t pid;
    int says, hears;             // a byte each way
} child;

static void say_byte(int fd) {
    cr_assert_eq(write(fd, "x", 1), 1);
}

static void await_byte(int fd) {
    char c;
    cr_assert_eq(read(fd, &c, 1), 1, "the other process died");
}

// Runs fn in a process of its own, which has nothing open yet.
static child spawn_child(world *w, void (*fn)(world *, int says, int hears)) {
    int up[2], down[2];
    cr_assert_eq(pipe2(up, O_CLOEXEC) | pipe2(down, O_CLOEXEC), 0);
    child c = {.pid = fork(), .says = up[0], .hears = down[1]};
    if (c.pid) {
        close(up[1]);
        close(down[0]);
        return c;
    }
    close(up[0]);
    close(down[1]);
    world mine = *w;
    mine.arena = (dti_arena){0};
    mine.e = world_again(&mine);
    mine.named = 100 + (unsigned)getpid() % 10000;
    fn(&mine, up[1], down[0]);
    _exit(0);
}

static void kill_child(child *c, int sig) {
    kill(c->pid, sig);
    waitpid(c->pid, NULL, 0);
    close(c->says);
    close(c->hears);
}

static int join_child(child *c) {
    int status;
    waitpid(c->pid, &status, 0);
    close(c->says);
    close(c->hears);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static dti_sqlite_file *file(world *w) {
    return ((dti_sqlite_handle *)w->e)->file;
}

// ---- deaths -------------------------------------------------------------------

static void claim_two_and_run_one(world *w, int says, int hears) {
    actor a = worker(w);
    dti_want want = {w->a, 2};
    dti_turn t = turn(w, &a, (dti_turn){.want = &want, .nwant = 1, .n = 2});
    for (uint32_t i = 0; i < t.nclaims; i++) {
        if (t.claims[i].job == 1) w->e->ops->bell_runs(a.in[0].bell, 3, 1, 0);
    }
    if (t.nclaims == 2) say_byte(says);
    await_byte(hears);
}

Test(sqlite_deaths, a_killed_worker_is_charged_for_what_it_ran, ALONE) {
    world w;
    world_open(&w, "sqlite");
    cr_assert_eq(start(&w, "j1", call_of(w.a, 1)), 1u);
    cr_assert_eq(start(&w, "j2", call_of(w.a, 2)), 2u);
    child c = spawn_child(&w, claim_two_and_run_one);
    await_byte(c.says);
    sweep(&w);
    cr_assert_eq(task(&w, 1, 0).row.state, DTI_RUNNING, "a live worker was swept");
    kill_child(&c, SIGKILL);
    sweep(&w);
    cr_assert_eq(task(&w, 1, 0).row.state, DTI_READY);
    cr_assert_eq(task(&w, 1, 0).row.lost, 1u);
    cr_assert_eq(task(&w, 2, 0).row.state, DTI_READY);
    cr_assert_eq(task(&w, 2, 0).row.lost, 0u, "a neighbour was charged");
    cr_assert_eq(atomic_load(&file(&w)->bell.slots[0].state), (uint32_t)DTI_SLOT_FREE);
    world_close(&w);
}

static void hold_and_write(world *w) {
    dti_sqlite_file *f = file(w);
    static jmp_buf trap;
    dti_sqlite_store_of(f->store)->trap = &trap;
    if (setjmp(trap)) _exit(3);
    if (dti_writer_lock_take(&f->bell.writer, 1000000)) _exit(4);
    atomic_store(&f->bell.head->writer, (uint32_t)getpid());
    dti_sqlite_begin(f->store, true);
    dti_put(dti_sqlite_store_of(f->store), DTI_T_EXT, 99, 99, 0, "half", 4);
    dti_del(dti_sqlite_store_of(f->store), DTI_T_META, 0, 0, 0);
    dti_sqlite_keep(f->store);
}

static void die_inside(world *w, int says, int hears) {
    hold_and_write(w);
    say_byte(says);
    await_byte(hears);
}

Test(sqlite_deaths, a_kill_inside_a_transaction_stops_nobody, ALONE) {
    world w;
    world_open(&w, "sqlite");
    start(&w, "j1", call_of(w.a, 1));
    child c = spawn_child(&w, die_inside);
    await_byte(c.says);
    kill_child(&c, SIGKILL);
    start(&w, "j2", call_of(w.a, 2));
    cr_assert_eq(job(&w, 1).row.next, 1u);
    world_close(&w);
}

Test(sqlite_deaths, a_stopped_writer_is_named, ALONE) {
    world w;
    world_open(&w, "sqlite");
    child c = spawn_child(&w, die_inside);
    await_byte(c.says);
    kill(c.pid, SIGSTOP);
    file(&w)->timeout_us = 100000;
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("j"), .task = call_of(w.a, 1)}};
    char pid[32];
    snprintf(pid, sizeof pid, "process %d ", c.pid);
    for (int i = 0; i < 2; i++) { // also the second time, with the helper still in the queue
        cr_assert_eq(dti_engine_call(w.e, &w.arena, &op), DTASK_EENGINE);
        cr_assert(strstr(dtask_err_detail(), pid), "%s", dtask_err_detail());
    }
    dti_op read = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPE, .id = dti_strz("a")}};
    cr_assert_eq(dti_engine_call(w.e, &w.arena, &read), DTASK_OK, "reading needs no writer");
    file(&w)->timeout_us = 10000000;
    kill(c.pid, SIGKILL);
    kill_child(&c, SIGCONT);
    start(&w, "j", call_of(w.a, 1));
    world_close(&w);
}

static void beat_until_told(world *w, int says, int hears) {
    file(w)->bell.lease_us = 100000;
    actor a = worker(w);
    if (claims(w, &a, 1) != 1) _exit(5);
    say_byte(says);
    await_byte(hears); // stopped here
    if (turn(w, &a, (dti_turn){0}).status != DTI_TURN_DEAD) _exit(6);
    w->e->ops->bell_close(a.in[0].bell);
    actor b = worker(w);
    if (turn(w, &b, (dti_turn){0}).status != DTI_TURN_OK) _exit(7);
    leave(w, &b);
    w->e->ops->close(w->e);
}

Test(sqlite_deaths, a_frozen_worker_is_fenced, ALONE) {
    world w;
    world_open(&w, "sqlite");
    start(&w, "j", (dti_new){0});
    child c = spawn_child(&w, beat_until_told);
    await_byte(c.says);
    kill(c.pid, SIGSTOP);
    while (task(&w, 1, 0).row.state == DTI_RUNNING) sweep(&w);
    actor a = worker(&w);
    cr_assert_eq(claims(&w, &a, 1), 1u);
    kill(c.pid, SIGCONT);
    say_byte(c.hears);
    cr_assert_eq(join_child(&c), 0);
    leave(&w, &a);
    world_close(&w);
}

// ---- bells ----------------------------------------------------------------------

static void sleep_for_a(world *w, int says, int hears) {
    (void)hears;
    actor a = worker(w);
    const dti_engine_ops *ops = w->e->ops;
    ops->bell_asleep(a.in[0].bell, &w->a, 1, NULL);
    say_byte(says);
    struct pollfd p = {.fd = ops->bell_fd(a.in[0].bell), .events = POLLIN};
    if (poll(&p, 1, 30000) != 1) _exit(8);
    ops->bell_awake(a.in[0].bell);
    dti_claim c = claim(w, &a);
    end(w, &a, &c, DTI_END_SUCCEED);
    leave(w, &a);
}

Test(sqlite_bells, ring_in_other_processes, ALONE) {
    world w;
    world_open(&w, "sqlite");
    child c = spawn_child(&w, sleep_for_a);
    dti_bell *mine;
    cr_assert_eq(w.e->ops->bell_open(w.e, 0, &mine), DTASK_OK);
    await_byte(c.says);
    cr_assert(w.e->ops->hungry(w.e, mine, w.a));
    w.e->ops->bell_asleep(mine, NULL, 0, &(dti_awaited){dti_id_hash(dti_strz("j")), dti_strz("j")});
    uint64_t no = start(&w, "j", (dti_new){0});
    struct pollfd p = {.fd = w.e->ops->bell_fd(mine), .events = POLLIN};
    cr_assert_eq(poll(&p, 1, 30000), 1);
    cr_assert_eq(job(&w, no).row.state, DTI_JOB_SUCCEEDED);
    cr_assert_eq(join_child(&c), 0);
    w.e->ops->bell_close(mine);
    world_close(&w);
}

// ---- many at once -------------------------------------------------------------------

enum { HAMMER_JOBS = 400 };
static void drain_all(world *w, int says, int hears) {
    (void)hears;
    actor a = worker(w);
    say_byte(says);
    for (int idle = 0; idle < 3;) {
        dti_want want = {w->a, 7};
        dti_turn t = turn(w, &a, (dti_turn){.want = &want, .nwant = 1, .n = 7, .empty = true});
        idle = t.nclaims ? 0 : idle + 1;
        for (uint32_t i = 0; i < t.nclaims; i++) {
            if (end(w, &a, &t.claims[i], DTI_END_SUCCEED).status != DTI_OK) _exit(9);
        }
    }
    leave(w, &a);
}

static void *start_some(void *arg) {
    world mine = *(world *)arg;
    mine.arena = (dti_arena){0};
    for (int i = 0; i < HAMMER_JOBS / 4; i++) {
        char id[32];
        snprintf(id, sizeof id, "job-%u-%d", mine.named, i);
        start(&mine, id, (dti_new){0});
    }
    dti_arena_done(&mine.arena);
    return NULL;
}

Test(sqlite_many, threads_and_processes_lose_nothing, ALONE) {
    world w;
    world_open(&w, "sqlite");
    pthread_t threads[4];
    world each[4];
    for (unsigned i = 0; i < 4; i++) {
        each[i] = w;
        each[i].named = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, start_some, &each[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    child c[2] = {spawn_child(&w, drain_all), spawn_child(&w, drain_all)};
    cr_assert_eq(join_child(&c[0]), 0);
    cr_assert_eq(join_child(&c[1]), 0);
    for (uint64_t no = 1; no <= HAMMER_JOBS; no++) cr_assert_eq(job(&w, no).row.state, DTI_JOB_SUCCEEDED);
    world_close(&w);
}

// Kills at moments that nobody chose, then counts.
Test(sqlite_many, random_kills_leave_a_whole_store, ALONE) {
    world w;
    world_open(&w, "sqlite");
    for (unsigned i = 0; i < 4; i++) {
        world each = w;
        each.named = i;
        start_some(&each);
    }
    for (int round = 0; round < 12; round++) {
        child c = spawn_child(&w, drain_all);
        await_byte(c.says);
        struct timespec t = {0, (long)(dti_random64() % 4000000)};
        nanosleep(&t, NULL);
        kill_child(&c, SIGKILL);
        sweep(&w);
    }
    child c = spawn_child(&w, drain_all);
    cr_assert_eq(join_child(&c), 0);
    for (uint64_t no = 1; no <= HAMMER_JOBS; no++) {
        dti_jobview j = job(&w, no);
        cr_assert_eq(j.row.state, DTI_JOB_SUCCEEDED, "job %lu is %s", no, dti_jobstate_names[j.row.state]);
    }
    world_close(&w);
}

// ---- fork -----------------------------------------------------------------------

Test(sqlite_fork, a_child_is_refused_and_lets_go, ALONE) {
    world w;
    world_open(&w, "sqlite");
    actor a = worker(&w);
    pid_t pid = fork();
    if (!pid) {
        dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPES}};
        dti_bell *b;
        bool ok = dti_engine_call(w.e, &w.arena, &op) == DTASK_EUSAGE && strstr(dtask_err_detail(), "fork") &&
            w.e->ops->bell_open(w.e, 0, &b) == DTASK_EUSAGE;
        w.e->ops->bell_close(a.in[0].bell);
        w.e->ops->close(w.e);
        dti_engine *fresh = world_again(&w); // one of its own
        op = (dti_op){.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPES}};
        ok &= dti_engine_call(fresh, &w.arena, &op) == DTASK_OK;
        fresh->ops->close(fresh);
        _exit(ok ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    cr_assert_eq(status, 0);
    sweep(&w);
    cr_assert_eq(turn(&w, &a, (dti_turn){0}).status, DTI_TURN_OK, "the child's end took the worker's sign of life");
    leave(&w, &a);
    world_close(&w);
}

// The grandchild outlives its parent, which dies as a worker inside a
// transaction. Nobody may think that it lives, or wait for it.
static void fork_inside(world *w, int says, int hears) {
    actor a = worker(w);
    if (claims(w, &a, 1) != 1) _exit(5);
    hold_and_write(w);
    pid_t pid = fork();
    if (!pid) {
        char byte;
        _exit(read(hears, &byte, 1) == 1 ? 0 : 1);
    }
    say_byte(says);
    await_byte(hears);
}

Test(sqlite_fork, a_grandchild_holds_no_lock, ALONE) {
    world w;
    world_open(&w, "sqlite");
    start(&w, "j1", (dti_new){0});
    child c = spawn_child(&w, fork_inside);
    await_byte(c.says);
    kill(c.pid, SIGKILL);
    waitpid(c.pid, NULL, 0);
    start(&w, "j2", call_of(w.a, 2));
    sweep(&w);
    cr_assert_eq(task(&w, 1, 0).row.state, DTI_READY);
    say_byte(c.hears); // the grandchild ends
    close(c.says);
    close(c.hears);
    world_close(&w);
}

// How many descriptors of this process are of bell files.
static int open_bell_files(void) {
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    for (struct dirent *d; (d = readdir(dir));) {
        char path[300], to[300];
        snprintf(path, sizeof path, "/proc/self/fd/%.200s", d->d_name);
        ssize_t len = readlink(path, to, sizeof to);
        n += len > 5 && memcmp(to + len - 5, "-bell", 5) == 0;
    }
    closedir(dir);
    return n;
}

static void *open_another(void *arg) {
    dti_engine_conf conf = {.url = ((world *)arg)->url, .app = "another", .lease_us = 15000000, .timeout_us = 30000000};
    dti_engine *e;
    return dti_engine_open(&conf, &e) ? NULL : e;
}

Test(sqlite_fork, a_child_of_the_midst_of_an_open_holds_no_lock, ALONE) {
    world w;
    world_open(&w, "sqlite");
    cr_assert_eq(dti_writer_lock_take(&file(&w)->bell.writer, 1000000), 0);
    int before = open_bell_files();
    pthread_t opener;
    cr_assert_eq(pthread_create(&opener, NULL, open_another, &w), 0);
    while (open_bell_files() < before + 2) sched_yield(); // then it waits for the writer
    pid_t pid = fork();
    if (!pid) _exit(open_bell_files());
    int status;
    waitpid(pid, &status, 0);
    dti_writer_lock_give(&file(&w)->bell.writer);
    void *e;
    pthread_join(opener, &e);
    cr_assert(e, "it did not open");
    ((dti_engine *)e)->ops->close(e);
    cr_assert(WIFEXITED(status));
    cr_assert_eq(WEXITSTATUS(status), 0, "the child has %d descriptors of locks", WEXITSTATUS(status));
    world_close(&w);
}

// ---- refusals ---------------------------------------------------------------------

static dtask_err try_open(const char *url, const char *app) {
    dti_engine *e;
    dti_engine_conf conf = {.url = url, .app = app, .lease_us = 15000000, .timeout_us = 2000000};
    dtask_err err = dti_engine_open(&conf, &e);
    if (!err) e->ops->close(e);
    return err;
}

#define REFUSED(err, url, words)                                                             \
    do {                                                                                     \
        dtask_err got_ = try_open(url, "test");                                              \
        cr_assert_eq(got_, err, "%s: %s", dtask_err_name(got_), dtask_err_detail());         \
        cr_assert(strstr(dtask_err_detail(), words), "it says: %s", dtask_err_detail());     \
    } while (0)

typedef struct { char dir[64], path[96], url[128]; } place;
static place make_place(void) {
    place p;
    strcpy(p.dir, "/tmp/dtest_XXXXXX");
    cr_assert(mkdtemp(p.dir));
    snprintf(p.path, sizeof p.path, "%s/jobs.db", p.dir);
    snprintf(p.url, sizeof p.url, "sqlite:%s", p.path);
    return p;
}
static void remove_place(const place *p) {
    world w = {.e = NULL};
    strcpy(w.dir, p->dir);
    world_remove(&w);
}
static int entries(const place *p) {
    struct stat st;
    int n = 0;
    static const char *const ends[] = {"", "-wal", "-shm", "-bell", "-bells"};
    for (int i = 0; i < 5; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", p->path, ends[i]);
        n += lstat(path, &st) == 0;
    }
    return n;
}
static void sql(const place *p, const char *text) {
    sqlite3 *db;
    cr_assert_eq(sqlite3_open(p->path, &db), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
    sqlite3_close(db);
}

Test(sqlite_refuses, urls_and_places) {
    REFUSED(DTASK_EARGS, "oracle:x", "no engine");
    REFUSED(DTASK_EARGS, "jobs.db", "no engine");
    REFUSED(DTASK_EARGS, "memory:x", "memory:");
    REFUSED(DTASK_EARGS, "sqlite:", "names no file");
    REFUSED(DTASK_EENGINE, "sqlite:/nowhere/at/all/jobs.db", "folder");
    REFUSED(DTASK_EENGINE, "sqlite:/tmp", "not a file");
}

Test(sqlite_refuses, a_file_that_is_no_database) {
    place p = make_place();
    FILE *f = fopen(p.path, "w");
    for (int i = 0; i < 1000; i++) fputs("this is a letter to my aunt\n", f);
    fclose(f);
    REFUSED(DTASK_EENGINE, p.url, "not a database");
    cr_assert_eq(entries(&p), 1, "something was made beside it");
    remove_place(&p);
}

Test(sqlite_refuses, another_programs_database) {
    place p = make_place();
    sql(&p, "CREATE TABLE recipes(name TEXT)");
    REFUSED(DTASK_EENGINE, p.url, "another program");
    cr_assert_eq(entries(&p), 1, "something was made beside it");
    remove_place(&p);
}

Test(sqlite_refuses, a_newer_schema) {
    place p = make_place();
    cr_assert_eq(try_open(p.url, "test"), DTASK_OK, "%s", dtask_err_detail());
    sql(&p, "PRAGMA user_version=99");
    REFUSED(DTASK_EVERSION, p.url, "newer");
    sql(&p, "PRAGMA user_version=1");
    // The rows' own version, which each transaction compares.
    dti_meta meta;
    sqlite3 *db;
    sqlite3_stmt *stmt;
    sqlite3_open(p.path, &db);
    sqlite3_prepare_v2(db, "SELECT v FROM \"test:meta\"", -1, &stmt, NULL);
    cr_assert_eq(sqlite3_step(stmt), SQLITE_ROW);
    memcpy(&meta, sqlite3_column_blob(stmt, 0), sizeof meta);
    sqlite3_finalize(stmt);
    meta.read_min = meta.write = 99;
    sqlite3_prepare_v2(db, "UPDATE \"test:meta\" SET v=?1", -1, &stmt, NULL);
    sqlite3_bind_blob(stmt, 1, &meta, sizeof meta, SQLITE_STATIC);
    cr_assert_eq(sqlite3_step(stmt), SQLITE_DONE);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    REFUSED(DTASK_EVERSION, p.url, "schema");
    remove_place(&p);
}

Test(sqlite_refuses, apps_that_differ_in_case_only) {
    place p = make_place();
    cr_assert_eq(try_open(p.url, "Test"), DTASK_OK);
    REFUSED(DTASK_EARGS, p.url, "case");
    cr_assert_eq(try_open(p.url, "another-app.1"), DTASK_OK);
    remove_place(&p);
}

static long is_nfs(const char *path) {
    (void)path;
    return 0x6969;
}

Test(sqlite_refuses, a_network_file_system) {
    place p = make_place();
    long (*real)(const char *) = dti_statfs_type;
    dti_statfs_type = is_nfs;
    REFUSED(DTASK_EENGINE, p.url, "NFS");
    dti_statfs_type = real;
    cr_assert_eq(entries(&p), 0);
    remove_place(&p);
}

Test(sqlite_refuses, what_cannot_be_written) {
    place p = make_place();
    cr_assert_eq(try_open(p.url, "test"), DTASK_OK);
    chmod(p.dir, 0555);
    if (geteuid() == 0) cr_assert_eq(seteuid(65534), 0); // root may write anything
    REFUSED(DTASK_EENGINE, p.url, "folder");
    if (getuid() == 0) {
        cr_assert_eq(seteuid(0), 0);
        chmod(p.dir, 0777);
        chmod(p.path, 0444);
        cr_assert_eq(seteuid(65534), 0);
        REFUSED(DTASK_EENGINE, p.url, "written");
        cr_assert_eq(seteuid(0), 0);
    }
    chmod(p.dir, 0755);
    remove_place(&p);
}

Test(sqlite_refuses, a_bell_file_that_was_removed_or_is_of_another_boot, ALONE) {
    world w;
    world_open(&w, "sqlite");
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("j"), .task = call_of(w.a, 1)}};
    char boot = file(&w)->bell.head->boot[0];
    file(&w)->bell.head->boot[0] = 'X';
    cr_assert_eq(dti_engine_call(w.e, &w.arena, &op), DTASK_EENGINE);
    cr_assert(strstr(dtask_err_detail(), "another machine"), "%s", dtask_err_detail());
    file(&w)->bell.head->boot[0] = boot;
    start(&w, "j", call_of(w.a, 1));
    unlink(file(&w)->bell.path);
    op.start.id = dti_strz("k");
    cr_assert_eq(dti_engine_call(w.e, &w.arena, &op), DTASK_EENGINE);
    cr_assert(strstr(dtask_err_detail(), "removed"), "%s", dtask_err_detail());
    world_close(&w);
}

Test(sqlite_refuses, a_lock_of_another_program_for_too_long, ALONE) {
    world w;
    world_open(&w, "sqlite");
    sqlite3_busy_timeout(file(&w)->db, 50);
    sqlite3 *db; // within one process and one library this is allowed
    sqlite3_open(file(&w)->path, &db);
    cr_assert_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz("j"), .task = call_of(w.a, 1)}};
    cr_assert_eq(dti_engine_call(w.e, &w.arena, &op), DTASK_EENGINE);
    cr_assert(strstr(dtask_err_detail(), "another program"), "%s", dtask_err_detail());
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(db);
    start(&w, "j", call_of(w.a, 1));
    world_close(&w);
}

// ---- the disk ----------------------------------------------------------------------

Test(sqlite_disk, full_says_so_and_goes_on_when_there_is_space, ALONE) {
    char dir[] = "/tmp/dtest_XXXXXX", url[96];
    cr_assert(mkdtemp(dir));
    if (mount("dynatask-test", dir, "tmpfs", 0, "size=6m") < 0) {
        rmdir(dir);
        cr_skip_test("no right to mount a small file system");
    }
    snprintf(url, sizeof url, "sqlite:%s/jobs.db", dir);
    world w = {0};
    strcpy(w.url, url);
    w.e = world_again(&w);
    dti_hello_type type = {.name = dti_strz("a"), .version = 1, .crashes = 3};
    w.a = world_call(&w, (dti_op){.kind = DTI_OP_HELLO, .hello = {.types = &type, .ntypes = 1}}).hello.types[0].no;
    static char big[60000];
    int made = 0;
    dtask_err err = DTASK_OK;
    for (; !err && made < 1000; made += !err) {
        char id[32];
        snprintf(id, sizeof id, "job-%d", made);
        dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = call_of(w.a, 1), .retain_us = 86400000000}};
        op.start.task.args = dti_str(big, sizeof big);
        err = dti_engine_call(w.e, &w.arena, &op);
    }
    cr_assert_eq(err, DTASK_EENGINE);
    cr_assert(strstr(dtask_err_detail(), "space"), "%s", dtask_err_detail());
    cr_assert_gt(made, 5);
    for (int i = 1; i <= made; i++) cr_assert_eq(job(&w, (uint64_t)i).row.state, DTI_JOB_RUNNING);
    cr_assert_eq(mount("dynatask-test", dir, "tmpfs", MS_REMOUNT, "size=32m"), 0);
    cr_assert_eq(start(&w, "after", call_of(w.a, 1)), (uint64_t)made + 1);
    w.e->ops->close(w.e);
    dti_arena_done(&w.arena);
    umount(dir);
    rmdir(dir);
}

Test(sqlite_disk, a_steady_load_stops_growing, ALONE) {
    world w;
    world_open(&w, "sqlite");
    actor a = worker(&w);
    static char args[3000];
    off_t size[12];
    uint64_t n = 0;
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 60; i++) {
            char id[32];
            snprintf(id, sizeof id, "job-%lu", ++n);
            dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = call_of(w.a, n), .retain_us = 1}};
            op.start.task.args = dti_str(args, sizeof args);
            world_call(&w, op);
        }
        for (bool more = true; more;) {
            dti_want want = {w.a, 64};
            dti_turn t = turn(&w, &a, (dti_turn){.want = &want, .nwant = 1, .n = 64});
            more = t.nclaims;
            for (uint32_t i = 0; i < t.nclaims; i++) end(&w, &a, &t.claims[i], DTI_END_SUCCEED);
        }
        sweep(&w);
        struct stat st;
        sqlite3_wal_checkpoint_v2(file(&w)->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
        cr_assert_eq(stat(file(&w)->path, &st), 0);
        size[round] = st.st_size;
        dti_arena_reset(&w.arena);
    }
    cr_assert_leq(size[11], size[5], "it grew from %ld to %ld", (long)size[5], (long)size[11]);
    leave(&w, &a);
    world_close(&w);
}

// ---- the log -----------------------------------------------------------------------

static int cuts;                 // how often it was tried

int __real_sqlite3_wal_checkpoint_v2(sqlite3 *, const char *, int, int *, int *);
int __wrap_sqlite3_wal_checkpoint_v2(sqlite3 *, const char *, int, int *, int *);

int __wrap_sqlite3_wal_checkpoint_v2(sqlite3 *db, const char *name, int mode, int *log, int *done) {
    cuts += mode == SQLITE_CHECKPOINT_TRUNCATE;
    return __real_sqlite3_wal_checkpoint_v2(db, name, mode, log, done);
}

static off_t log_size(world *w) {
    char path[160];
    struct stat st;
    snprintf(path, sizeof path, "%s-wal", file(w)->path);
    cr_assert_eq(stat(path, &st), 0);
    return st.st_size;
}

// Somebody reads, on and on, so that the log cannot be cut: the commits do not
// wait for that each time.
Test(sqlite_log, a_cut_that_failed_is_not_tried_at_each_commit, ALONE) {
    world w;
    world_open(&w, "sqlite");
    sqlite3 *reader; // within one process and one library this is allowed
    sqlite3_open(file(&w)->path, &reader);
    cr_assert_eq(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM sqlite_master", NULL, NULL, NULL), SQLITE_OK);
    static char big[1 << 20];
    char id[32];
    uint64_t n = 0;
    while (!cuts) {
        snprintf(id, sizeof id, "job-%lu", ++n);
        dti_op op = {.kind = DTI_OP_START, .start = {.id = dti_strz(id), .task = call_of(w.a, n)}};
        op.start.task.args = dti_str(big, sizeof big);
        world_call(&w, op);
    }
    cr_assert_gt(log_size(&w), 60 << 20);
    cr_assert_gt(file(&w)->cut_at, 0, "it may try again at once");
    file(&w)->cut_at = INT64_MAX; // the pause, however slow this machine is
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof id, "job-%lu", ++n);
        start(&w, id, call_of(w.a, n));
    }
    cr_assert_eq(cuts, 1, "tried %d times", cuts);
    cr_assert_eq(sqlite3_exec(reader, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    file(&w)->cut_at = 0; // it is over
    start(&w, "last", call_of(w.a, n + 1));
    cr_assert_eq(log_size(&w), 0);
    sqlite3_close(reader);
    world_close(&w);
}
