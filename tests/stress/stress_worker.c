// Many threads at once, for the thread sanitizer: two workers, a seat each of
// kind THREAD and LOOP, clients that start, wait and cancel, and a killer
// that has workers taken for dead while they run; every third round the
// engine fails turns, before or after it applied them. Every tree must end with
// the right result and exact counts. A plain program: sanitizers and a test
// framework that forks do not go together.
//
//   stress_worker [URL [rounds]]; URL shards: is six memory engines as one
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engines/shards/shards.h"
#include "worker/worker.h"

#define CHECK(x)                                                                                        \
    do {                                                                                                \
        if (!(x)) {                                                                                     \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, dtask_err_detail());             \
            _exit(1);                                                                                   \
        }                                                                                               \
    } while (0)

static dtask_err add(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n;
    dtask_err err = dtask_args(t, "n:i", &n);
    return err ? err : dtask_done(t, "i", n + 1);
}

// Recursion with waits of each kind, and a mapped batch at the leaves.
static dtask_err fib(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x = 0, y = 0;
    dtask_child *a, *b;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (err || n < 2) return err ? err : dtask_done(t, "i", n);
    if ((err = dtask_spawn(t, "fib", NULL, &a, "i", n - 1))) return err;
    if ((err = dtask_spawn(t, n % 2 ? "fib" : "seat", NULL, &b, "i", n - 2))) return err;
    if (n % 3 == 0) err = dtask_wait(t, NULL, -1);
    else if (!(err = dtask_wait(t, a, -1))) err = dtask_wait(t, b, -1);
    if (err || (err = dtask_child_result(a, "i", &x)) || (err = dtask_child_result(b, "i", &y))) return err;
    return dtask_done(t, "i", x + y);
}

static int64_t fib_of(int64_t n) { return n < 2 ? n : fib_of(n - 1) + fib_of(n - 2); }

static dtask_err fan(dtask_task *t, void *arg) {
    (void)arg;
    int64_t n, x, sum = 0;
    dtask_child *b, *c;
    dtask_err err = dtask_args(t, "n:i", &n);
    if (!err) err = dtask_map(t, "add", NULL, &b, 0, (uint64_t)n, "");
    if (!err) err = dtask_wait(t, b, -1);
    for (int64_t i = 0; i < n && !err; i += 7)
        if (!(err = dtask_child_at(b, (uint64_t)i, &c)) && !(err = dtask_child_result(c, "i", &x))) sum += x, dtask_child_free(c);
    while (!err && !(err = dtask_next(t, -1, &c))) dtask_child_free(c);
    return err != DTASK_ENOTFOUND ? err : dtask_done(t, "i", sum);
}

// ---- a binding: each task is a small state machine ---------------------------------

typedef struct { dtask_worker *w; int kind; } sitting;
typedef struct { dtask_task *t; dtask_child *a, *b; int64_t n; } coroutine;
enum { MANY = 4096 };

static coroutine *find(coroutine *all, dtask_task *t) {
    for (int i = 0; i < MANY; i++)
        if (all[i].t == t) return &all[i];
    return NULL;
}

static dtask_err commit(dtask_worker *w, dtask_task *t, unsigned what, int64_t n) {
    dti_buf b = {0};
    if (what == DTASK_B_DONE) dti_mp_put_int(&b, n);
    dtask_b_outcome o = {t, what, dti_str(b.p, b.n)};
    dtask_err err = dtask_b_commit(w, &o, 1);
    dti_buf_done(&b);
    return err;
}

static dtask_err spawn(dtask_task *t, const char *type, int64_t n, dtask_child **out) {
    dti_buf b = {0};
    dti_mp_put_array(&b, 1);
    dti_mp_put_int(&b, n);
    dtask_b_call call = {.type = type, .args = dti_str(b.p, b.n)};
    dtask_err err = dtask_b_spawn(t, &call, out);
    dti_buf_done(&b);
    return err;
}

static void go_on(dtask_worker *w, coroutine *c) {
    dtask_child *both[] = {c->a, c->b};
    while (!dtask_b_child_done(c->a) || !dtask_b_child_done(c->b)) {
        if (dtask_b_await(c->t, both, 2, 0, -1)) break;
        if (dtask_b_ready(c->t)) {
            if (dtask_cancelled(c->t)) break;
            continue;
        }
        CHECK(!commit(w, c->t, DTASK_B_PARK, 0));
        return;
    }
    dtask_str x, y;
    int64_t i = 0, j = 0;
    dtask_err err = dtask_b_child_end(c->a, 1, &x);
    if (!err) err = dtask_b_child_end(c->b, 1, &y);
    if (!err && !(dti_mp_int(x, &i) && dti_mp_int(y, &j))) {
        fprintf(stderr, "children %u and %u gave %zu and %zu bytes\n", c->a->ord, c->b->ord, x.n, y.n);
        _exit(1);
    }
    dtask_task *t = c->t;
    c->t = NULL;
    CHECK(!commit(w, t, err ? DTASK_B_CANCELLED : DTASK_B_DONE, i + j));
}

static void *sit(void *arg) {
    sitting *s = arg;
    coroutine *all = calloc(MANY, sizeof *all);
    CHECK(all && !dtask_b_sit(s->w, s->kind, s->kind == DTASK_B_LOOP ? 8 : 1));
    dtask_b_item items[16];
    size_t n;
    while (!dtask_b_poll(s->w, items, 16, 1000, &n))
        for (size_t i = 0; i < n; i++) {
            dtask_task *t = items[i].task;
            if (items[i].event == DTASK_B_RUN) {
                int64_t k;
                CHECK(dti_mp_int(dti_mp_at(items[i].data, 0), &k));
                if (k < 2) {
                    CHECK(!commit(s->w, t, DTASK_B_DONE, k));
                    continue;
                }
                coroutine *c = find(all, NULL);
                CHECK(c);
                c->t = t;
                if (spawn(t, "fib", k - 1, &c->a) || spawn(t, "seat", k - 2, &c->b)) {
                    c->t = NULL;
                    CHECK(!commit(s->w, t, DTASK_B_CANCELLED, 0));
                } else {
                    go_on(s->w, c);
                }
                continue;
            }
            coroutine *c = find(all, t);
            if (!c) continue;    // has its outcome
            if (items[i].event == DTASK_B_RESUME) {
                go_on(s->w, c);
            } else if (items[i].event == DTASK_B_UNWIND || items[i].event == DTASK_B_CANCEL) {
                c->t = NULL;
                CHECK(!commit(s->w, t, items[i].event == DTASK_B_UNWIND ? DTASK_B_UNWOUND : DTASK_B_CANCELLED, 0));
            }
        }
    dtask_b_leave(s->w);
    free(all);
    return NULL;
}

// ---- an engine whose turns fail, before they are applied or after ---------------------

static const dti_engine_ops *real;
static atomic_bool flaky;

static void flaky_call(dti_engine *e, dti_arena *mem, dti_op *ops, size_t n) {
    uint64_t chance = dti_random64();
    bool turn = atomic_load(&flaky) && ops[n - 1].kind == DTI_OP_TURN;
    if (turn && chance % 16 == 0) {
        for (size_t i = 0; i < n; i++) ops[i].err = dti_fail(DTASK_EENGINE, "lost on its way");
        return;
    }
    real->call(e, mem, ops, n);
    if (turn && chance % 16 == 1) ops[n - 1].err = dti_fail(DTASK_EENGINE, "its reply was lost");
}

static dtask_worker *worker(dtask_app *app, int kind, const char *max_parked) {
    dtask_worker *w;
    uint32_t index;
    CHECK(!dtask_worker_new(app, DTASK_OPTS("slots", "2", "max_parked", max_parked), &w));
    CHECK(!dtask_worker_add(w, "fib", "n:i -> i; crashes=1000", fib, NULL));
    CHECK(!dtask_worker_add(w, "add", "n:i -> i; crashes=1000", add, NULL));
    CHECK(!dtask_worker_add(w, "fan", "n:i -> i; crashes=1000", fan, NULL));
    static const char options[] = "\x81\xa7" "crashes\xcd\x03\xe8";
    CHECK(!dtask_b_handle(w, &(dtask_b_type){.name = "seat", .version = 1, .options = {options, sizeof options - 1}}, kind, &index));
    CHECK(!dtask_worker_start(w));
    return w;
}

// ---- one worker that several threads make and run ---------------------------------------

static void *makes(void *arg) {
    char name[16];
    for (int i = 0; i < 50; i++) {
        snprintf(name, sizeof name, "t%d", i);
        dtask_err err = dtask_worker_add(arg, name, NULL, add, NULL);
        CHECK(!err || err == DTASK_ECONFLICT || err == DTASK_EUSAGE); // added by the other; started
        dtask_b_serves(arg, name);
    }
    return NULL;
}

static void *runs(void *arg) {
    CHECK(!dtask_worker_run(arg));
    return NULL;
}

static void make_together(dtask_app *app) {
    dtask_worker *w;
    pthread_t threads[4];
    CHECK(!dtask_worker_new(app, NULL, &w));
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, i % 2 ? runs : makes, w);
    usleep(1000);
    dtask_worker_stop(w, 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    dtask_worker_free(w);
}

static void *client(void *arg) {
    dtask_app *app = arg;
    dtask_job *job, *doomed;
    int64_t n, want = 0;
    CHECK(!dtask_start(app, "fib", NULL, &doomed, "i", (int64_t)10));
    CHECK(!dtask_start(app, "fib", NULL, &job, "i", (int64_t)11));
    dtask_job_control(doomed, "cancel");
    CHECK(!dtask_job_wait(job, 120000) && !dtask_job_result(job, "i", &n) && n == fib_of(11));
    dtask_job_free(job);
    CHECK(!dtask_job_wait(doomed, 120000));
    dtask_job_free(doomed);
    CHECK(!dtask_start(app, "fan", NULL, &job, "i", (int64_t)2500));
    CHECK(!dtask_job_wait(job, 120000) && !dtask_job_result(job, "i", &n));
    for (int64_t i = 0; i < 2500; i += 7) want += i + 1;
    CHECK(n == want);
    uint64_t added, succeeded;
    CHECK(!dtask_job_info(job, "added:u succeeded:u", &added, &succeeded) && added == 2501 && succeeded == added);
    dtask_job_free(job);
    return NULL;
}

static void kill_one(dtask_app *app, dtask_worker *w) {
    dti_arena mem = {0};
    pthread_mutex_lock(&w->lock);
    unsigned k = (unsigned)(dti_random64() % w->nlinks);
    uint64_t no = w->links[k].no;
    pthread_mutex_unlock(&w->lock);
    dti_op op = {.kind = DTI_OP_SWEEP, .shard = (uint8_t)k, .sweep = {.budget = 1000, .dead = &no, .ndead = 1, .charge_all = true}};
    CHECK(!dti_engine_call(app->engine, &mem, &op));
    dti_arena_done(&mem);
}

static void spread(dtask_app *app) {
    enum { SHARDS = 6 };
    dti_engine *all[SHARDS];
    for (int k = 0; k < SHARDS; k++) {
        char name[16];
        snprintf(name, sizeof name, "stress-%d", k);
        CHECK(!dti_engine_open(&(dti_engine_conf){.url = "memory:", .app = name}, &all[k]));
    }
    app->engine->ops->close(app->engine);
    CHECK(!dti_shards_new(all, SHARDS, &app->engine));
}

int main(int argc, char **argv) {
    const char *url = argc > 1 ? argv[1] : "memory:";
    int rounds = argc > 2 ? atoi(argv[2]) : 3;
    dtask_app *app;
    bool several = !strcmp(url, "shards:");
    CHECK(!dtask_open("stress", several ? "memory:" : url, NULL, &app));
    if (several) spread(app);
    real = app->engine->ops;
    dti_engine_ops ops = *real;
    ops.call = flaky_call;
    app->engine->ops = &ops;
    for (int i = 0; i < 5; i++) make_together(app);
    for (int round = 0; round < rounds; round++) {
        flaky = round % 3 > 1;
        dtask_worker *a = worker(app, DTASK_B_THREAD, "10000"), *b = worker(app, DTASK_B_LOOP, "5");
        sitting sa = {a, DTASK_B_THREAD}, sb = {b, DTASK_B_LOOP};
        pthread_t seats[2], clients[3];
        pthread_create(&seats[0], NULL, sit, &sa);
        pthread_create(&seats[1], NULL, sit, &sb);
        for (int i = 0; i < 3; i++) pthread_create(&clients[i], NULL, client, app);
        for (int i = 0; i < 4; i++) {
            usleep(30000);
            if (round) kill_one(app, i % 2 ? a : b);
        }
        for (int i = 0; i < 3; i++) pthread_join(clients[i], NULL);
        dtask_worker_stop(a, 5000);
        dtask_worker_stop(b, 5000);
        CHECK(!dtask_worker_run(a));
        CHECK(!dtask_worker_run(b));
        for (int i = 0; i < 2; i++) pthread_join(seats[i], NULL);
        dtask_worker_free(a);
        dtask_worker_free(b);
        printf("round %d ok\n", round);
    }
    app->engine->ops = real;
    dtask_close(app);
    return 0;
}
