// A binding's seats: what a language's worker does, done here by a thread.
#include "worker_rig.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>

static dtask_str mp_int(dti_buf *b, int64_t n) {
    b->n = 0;
    dti_mp_put_int(b, n);
    return dti_str(b->p, b->n);
}

static int64_t arg_of(const dtask_b_item *i) {
    int64_t n = -1;
    dti_mp_int(dti_mp_at(i->data, 0), &n);
    return n;
}

typedef struct { rig r; uint32_t add, sum, loop; } seats;

static void open_seats(seats *s, const char *scheme, const char *const *opts) {
    rig *r = &s->r;
    memset(s, 0, sizeof *s);
    OK(dtask_open("seats", scheme, NULL, &r->app));
    OK(dtask_worker_new(r->app, opts, &r->worker));
    OK(dtask_b_handle(r->worker, &(dtask_b_type){.name = "add", .version = 1}, DTASK_B_THREAD, &s->add));
    OK(dtask_b_handle(r->worker, &(dtask_b_type){.name = "sum", .version = 1}, DTASK_B_THREAD, &s->sum));
    OK(dtask_b_handle(r->worker, &(dtask_b_type){.name = "loop", .version = 1}, DTASK_B_LOOP, &s->loop));
    OK(dtask_worker_start(r->worker));
}

static void close_seats(seats *s) {
    dtask_b_item item;
    size_t n;
    dtask_worker_stop(s->r.worker, 1000);
    while (!dtask_b_poll(s->r.worker, &item, 1, 1000, &n)) cr_assert_eq(n, 0);
    dtask_b_leave(s->r.worker);
    OK(dtask_worker_run(s->r.worker));
    dtask_worker_free(s->r.worker);
    dtask_close(s->r.app);
}

static dtask_b_item one_item(seats *s) {
    dtask_b_item item = {0};
    size_t n = 0;
    for (int i = 0; i < 100 && !n; i++) OK(dtask_b_poll(s->r.worker, &item, 1, 100, &n));
    cr_assert_eq(n, 1, "no item came");
    return item;
}

static void commit(seats *s, dtask_task *t, unsigned what, dtask_str data) {
    dtask_b_outcome o = {t, what, data};
    OK(dtask_b_commit(s->r.worker, &o, 1));
}

Test(worker_seats, runs_and_commits, .timeout = 30) {
    seats s;
    dti_buf b = {0};
    open_seats(&s, "memory:", NULL);
    dtask_b_item item;
    size_t got;
    FAILS(dtask_b_poll(s.r.worker, &item, 1, 0, &got), DTASK_EUSAGE);
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1));
    FAILS(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1), DTASK_EUSAGE);
    dtask_job *job = rig_job(&s.r, "add", NULL, 4);
    struct pollfd fd = {dtask_b_fd(s.r.worker), POLLIN, 0};
    cr_assert_eq(poll(&fd, 1, 10000), 1);
    item = one_item(&s);
    cr_assert_eq(item.event, DTASK_B_RUN);
    cr_assert_eq(item.type, s.add);
    cr_assert_eq(arg_of(&item), 4);
    dtask_str context, type;
    OK(dtask_b_context(item.task, &context));
    cr_assert(dti_mp_text(dti_mp_get(context, "type"), &type) && type.n == 3);
    commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 5));
    int64_t n = 0;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 5);
    dti_buf_done(&b);
    close_seats(&s);
}

// Many items in one poll, many outcomes in one commit.
Test(worker_seats, batches, .timeout = 30) {
    seats s;
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1));
    enum { N = 500 };
    dtask_job *jobs[N];
    for (int i = 0; i < N; i++) jobs[i] = rig_job(&s.r, "add", NULL, i);
    dtask_b_item items[64];
    dtask_b_outcome out[64];
    size_t most = 0;
    for (size_t done = 0, n; done < N; done += n) {
        OK(dtask_b_poll(s.r.worker, items, 64, 1000, &n));
        if (n > most) most = n;
        for (size_t i = 0; i < n; i++) out[i] = (dtask_b_outcome){items[i].task, DTASK_B_DONE, {0}};
        OK(dtask_b_commit(s.r.worker, out, n));
    }
    cr_assert_gt(most, 1);
    int64_t n;
    for (int i = 0; i < N; i++) OK(rig_end(jobs[i], &n));
    close_seats(&s);
}

// What parked comes back to its seat, so what is new goes to one that has
// nothing parked: the first would find the way back taken.
typedef struct { seats *s; sem_t sat, go; int ran; } other_seat;

static void *other_main(void *arg) {
    other_seat *o = arg;
    OK(dtask_b_sit(o->s->r.worker, DTASK_B_THREAD, 1));
    sem_post(&o->sat);
    sem_wait(&o->go);
    dtask_b_item item;
    size_t n;
    while (!dtask_b_poll(o->s->r.worker, &item, 1, 1000, &n)) {
        if (!n) continue;
        cr_assert_eq(item.event, DTASK_B_RUN);
        o->ran++;
        commit(o->s, item.task, DTASK_B_DONE, (dtask_str){0});
    }
    dtask_b_leave(o->s->r.worker);
    return NULL;
}

Test(worker_seats, a_free_seat_goes_first, .timeout = 30) {
    seats s;
    pthread_t thread;
    other_seat o = {.s = &s};
    open_seats(&s, "memory:", NULL);
    sem_init(&o.sat, 0, 0);
    sem_init(&o.go, 0, 0);
    pthread_create(&thread, NULL, other_main, &o);
    sem_wait(&o.sat);
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1)); // the one that is asked first
    dtask_job *job = rig_job(&s.r, "sum", NULL, 1);
    dtask_b_item root = one_item(&s);
    sem_post(&o.go);
    dti_buf args = {0};
    dti_mp_put_array(&args, 1);
    dti_mp_put_int(&args, 1);
    enum { N = 20 };
    for (int i = 0; i < N; i++) {
        dtask_child *c;
        OK(dtask_b_spawn(root.task, &(dtask_b_call){.type = "add", .args = dti_str(args.p, args.n)}, &c));
        OK(dtask_b_await(root.task, &c, 1, 0, -1));
        cr_assert_eq(dtask_b_ready(root.task), 0);
        commit(&s, root.task, DTASK_B_PARK, (dtask_str){0});
        dtask_b_item item = one_item(&s);
        cr_assert_eq(item.event, DTASK_B_RESUME);
    }
    commit(&s, root.task, DTASK_B_DONE, (dtask_str){0});
    OK(dtask_job_wait(job, 10000));
    dtask_job_free(job);
    dti_buf_done(&args);
    dtask_worker_stop(s.r.worker, 1000);
    pthread_join(thread, NULL);
    cr_assert_eq(o.ran, N);
    close_seats(&s);
}

// A parent that parks, is resumed with its children's ends, and parks again.
static void park_and_resume(unsigned kind) {
    seats s;
    dti_buf b = {0};
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, (int)kind, 4));
    const char *type = kind == DTASK_B_LOOP ? "loop" : "sum";
    dtask_job *job = rig_job(&s.r, type, NULL, 3);
    dtask_b_item root = one_item(&s), item;
    dtask_child *c[3], *foreign = NULL;
    for (int i = 0; i < 3; i++) {
        dti_buf args = {0};
        dti_mp_put_array(&args, 1);
        dti_mp_put_int(&args, 10 + i);
        dtask_b_call call = {.type = type, .args = dti_str(args.p, args.n)};
        OK(dtask_b_spawn(root.task, &call, &c[i]));
        dti_buf_done(&args);
    }
    FAILS(dtask_b_await(root.task, &foreign, 1, 0, -1), DTASK_EDEADLOCK);
    dtask_str id;
    OK(dtask_b_child_id(c[2], &id));
    OK(dtask_b_await(root.task, c, 3, DTASK_B_ANY, -1));
    cr_assert_eq(dtask_b_ready(root.task), 0);
    commit(&s, root.task, DTASK_B_PARK, (dtask_str){0});
    int resumed = 0, ran = 0, ended = 0;
    while (!ended) {
        item = one_item(&s);
        if (item.event == DTASK_B_RUN) {
            ran++;
            commit(&s, item.task, DTASK_B_DONE, mp_int(&b, arg_of(&item) * 2));
            continue;
        }
        cr_assert_eq(item.event, DTASK_B_RESUME);
        cr_assert_eq(item.task, root.task);
        resumed++;
        int done = 0;
        for (int i = 0; i < 3; i++) done += dtask_b_child_done(c[i]);
        cr_assert_geq(done, 1);
        if (done < 3) {
            OK(dtask_b_await(root.task, c, 3, 0, -1));
            if (!dtask_b_ready(root.task)) {
                commit(&s, root.task, DTASK_B_PARK, (dtask_str){0});
                continue;
            }
        }
        int64_t sum = 0, x;
        for (int i = 0; i < 3; i++) {
            dtask_str v;
            OK(dtask_b_child_end(c[i], 1, &v));
            cr_assert(dti_mp_int(v, &x));
            sum += x;
        }
        commit(&s, root.task, DTASK_B_DONE, mp_int(&b, sum));
        ended = 1;
    }
    cr_assert_eq(ran, 3);
    cr_assert_geq(resumed, 1);
    int64_t n;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 66);
    dti_buf_done(&b);
    close_seats(&s);
}

Test(worker_seats, thread_parks, .timeout = 30) { park_and_resume(DTASK_B_THREAD); }
Test(worker_seats, loop_parks, .timeout = 30) { park_and_resume(DTASK_B_LOOP); }

// A coroutine stays busy while another of the same task awaits.
Test(worker_seats, stay, .timeout = 30) {
    seats s;
    dti_buf b = {0}, args = {0};
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_LOOP, 4));
    dtask_job *job = rig_job(&s.r, "loop", NULL, 0);
    dtask_b_item root = one_item(&s), item;
    dtask_child *c;
    dti_mp_put_array(&args, 1);
    dti_mp_put_int(&args, 1);
    dtask_b_call call = {.type = "loop", .args = dti_str(args.p, args.n)};
    OK(dtask_b_spawn(root.task, &call, &c));
    OK(dtask_b_await(root.task, &c, 1, 0, -1));
    commit(&s, root.task, DTASK_B_STAY, (dtask_str){0});
    item = one_item(&s);
    cr_assert_eq(item.event, DTASK_B_RUN);
    commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 3));
    item = one_item(&s);
    cr_assert_eq(item.event, DTASK_B_RESUME);
    cr_assert_eq(dtask_b_child_done(c), 1);
    commit(&s, root.task, DTASK_B_DONE, mp_int(&b, 8));
    int64_t n;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 8);
    dti_buf_done(&b);
    dti_buf_done(&args);
    close_seats(&s);
}

// An item of a later life: the frame that was lost is told to end first.
static dtask_b_item after_the_kill(seats *s, dtask_task *old) {
    dtask_b_item item = one_item(s);
    while (item.event != DTASK_B_RUN) {
        cr_assert_eq(item.event, DTASK_B_CANCEL);
        commit(s, old, DTASK_B_CANCELLED, (dtask_str){0});
        item = one_item(s);
    }
    return item;
}

// What cost a worker runs alone. Where it stays it goes on only when its child
// is complete, so that one may begin beside it.
Test(worker_seats, a_lost_one_that_stays, .timeout = 60) {
    seats s;
    dti_buf b = {0}, args = {0};
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_LOOP, 4));
    dtask_job *job = rig_job(&s.r, "loop", NULL, 0);
    dtask_b_item root = one_item(&s), item;
    rig_kill(&s.r, s.r.worker);
    root = after_the_kill(&s, root.task);
    dtask_child *c;
    dti_mp_put_array(&args, 1);
    dti_mp_put_int(&args, 1);
    OK(dtask_b_spawn(root.task, &(dtask_b_call){.type = "loop", .args = dti_str(args.p, args.n)}, &c));
    OK(dtask_b_await(root.task, &c, 1, 0, -1));
    commit(&s, root.task, DTASK_B_STAY, (dtask_str){0});
    item = one_item(&s);
    cr_assert_eq(item.event, DTASK_B_RUN);
    cr_assert_eq(arg_of(&item), 1);
    commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 3));
    item = one_item(&s);
    cr_assert_eq(item.event, DTASK_B_RESUME);
    commit(&s, root.task, DTASK_B_DONE, mp_int(&b, 8));
    int64_t n;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 8);
    dti_buf_done(&b);
    dti_buf_done(&args);
    close_seats(&s);
}

// The same where its child cost a worker too: one that stays is no reason to
// wait for an empty worker, it waits itself.
Test(worker_seats, stays_for_a_lost_child, .timeout = 60) {
    seats s;
    dti_buf b = {0}, args = {0}, later = {0};
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_LOOP, 4));
    dtask_job *job = rig_job(&s.r, "loop", NULL, 0);
    dtask_b_item root = one_item(&s), kid, item;
    dtask_child *c;
    dti_mp_put_array(&args, 1);
    dti_mp_put_int(&args, 1);
    dtask_b_call call = {.type = "loop", .args = dti_str(args.p, args.n)};
    OK(dtask_b_spawn(root.task, &call, &c));
    OK(dtask_b_await(root.task, &c, 1, 0, -1));
    commit(&s, root.task, DTASK_B_STAY, (dtask_str){0});
    kid = one_item(&s);
    cr_assert_eq(arg_of(&kid), 1);
    dtask_task *lost[] = {root.task, kid.task};
    rig_kill(&s.r, s.r.worker);
    dti_mp_put_array(&later, 3); // no error map, after 0.5 s, not counted
    dti_mp_put_map(&later, 0);
    dti_mp_put_float(&later, 0.5);
    dti_mp_put_bool(&later, false);
    bool stays = false;
    for (int ended = 0; !ended;) {
        item = one_item(&s);
        if (item.event == DTASK_B_CANCEL) {
            cr_assert(item.task == lost[0] || item.task == lost[1]);
            commit(&s, item.task, DTASK_B_CANCELLED, (dtask_str){0});
        } else if (item.event == DTASK_B_RUN && arg_of(&item) == 1) {
            // Whichever begins first: it must run to its end while its parent stays.
            if (!stays) commit(&s, item.task, DTASK_B_RETRY, dti_str(later.p, later.n));
            else commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 3));
        } else if (item.event == DTASK_B_RUN) {
            root = item;
            OK(dtask_b_spawn(root.task, &call, &c)); // finds it
            OK(dtask_b_await(root.task, &c, 1, 0, -1));
            commit(&s, root.task, DTASK_B_STAY, (dtask_str){0});
            stays = true;
        } else {
            cr_assert_eq(item.event, DTASK_B_RESUME);
            commit(&s, root.task, DTASK_B_DONE, mp_int(&b, 8));
            ended = 1;
        }
    }
    int64_t n;
    OK(rig_end(job, &n));
    cr_assert_eq(n, 8);
    dti_buf_done(&b);
    dti_buf_done(&args);
    dti_buf_done(&later);
    close_seats(&s);
}

// Past max_parked a frame is asked to unwind, and runs again later.
Test(worker_seats, unwind, .timeout = 30) {
    seats s;
    dti_buf b = {0}, args = {0};
    open_seats(&s, "memory:", DTASK_OPTS("max_parked", "0"));
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1));
    dtask_job *job = rig_job(&s.r, "sum", NULL, 0);
    dtask_b_item root = one_item(&s);
    dtask_child *c;
    dti_mp_put_array(&args, 1);
    dti_mp_put_int(&args, 1);
    dtask_b_call call = {.type = "add", .args = dti_str(args.p, args.n)};
    OK(dtask_b_spawn(root.task, &call, &c));
    OK(dtask_b_await(root.task, &c, 1, 0, -1));
    commit(&s, root.task, DTASK_B_PARK, (dtask_str){0});
    int unwound = 0, ended = 0;
    while (!ended) {
        dtask_b_item item = one_item(&s);
        if (item.event == DTASK_B_UNWIND) {
            unwound++;
            commit(&s, item.task, DTASK_B_UNWOUND, (dtask_str){0});
        } else if (item.type == s.add) {
            commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 3));
        } else {
            cr_assert_eq(item.event, DTASK_B_RUN);
            OK(dtask_b_spawn(item.task, &call, &c)); // finds it
            cr_assert_eq(dtask_b_child_done(c), 1);
            commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 4));
            ended = 1;
        }
    }
    cr_assert_eq(unwound, 1);
    OK(dtask_job_wait(job, 10000));
    cr_assert_eq(rig_count(job, "added"), 2);
    int64_t n;
    OK(rig_end(job, &n));
    dti_buf_done(&b);
    dti_buf_done(&args);
    close_seats(&s);
}

Test(worker_seats, cancel_and_timeout, .timeout = 30) {
    seats s;
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_LOOP, 2));
    int64_t n;
    dtask_job *job = rig_job(&s.r, "loop", NULL, 0);
    dtask_b_item item = one_item(&s);
    OK(dtask_job_control(job, "cancel"));
    dtask_b_item event = one_item(&s);
    cr_assert_eq(event.event, DTASK_B_CANCEL);
    cr_assert_eq(event.task, item.task);
    cr_assert_eq(dtask_cancelled(item.task), 1);
    commit(&s, item.task, DTASK_B_CANCELLED, (dtask_str){0});
    FAILS(rig_end(job, &n), DTASK_ECANCELLED);

    job = rig_job(&s.r, "loop", DTASK_OPTS("timeout", "0.01"), 0);
    item = one_item(&s);
    event = one_item(&s);
    cr_assert_eq(event.event, DTASK_B_TIMEOUT);
    commit(&s, item.task, DTASK_B_DONE, (dtask_str){0}); // refused
    FAILS(rig_end(job, &n), DTASK_EFAILED);
    close_seats(&s);
}

// Given up between its await and its park: it is unwound, and the seat lives.
Test(worker_seats, given_up_before_it_parks, .timeout = 30) {
    seats s;
    dti_buf args = {0}, b = {0};
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1));
    dtask_job *job = rig_job(&s.r, "sum", DTASK_OPTS("timeout", "0.05"), 0);
    dtask_b_item root = one_item(&s);
    dtask_child *c;
    dti_mp_put_array(&args, 1);
    dti_mp_put_int(&args, 1);
    dtask_b_call call = {.type = "add", .args = dti_str(args.p, args.n)};
    OK(dtask_b_spawn(root.task, &call, &c));
    OK(dtask_b_await(root.task, &c, 1, 0, -1));
    for (bool unwound = false, added = false; !unwound || !added;) { // the child may begin at any time
        dtask_b_item item = one_item(&s);
        if (item.type == s.add) {
            cr_assert_eq(item.event, DTASK_B_RUN);
            commit(&s, item.task, DTASK_B_DONE, mp_int(&b, 3));
            added = true;
        } else if (item.event == DTASK_B_TIMEOUT) {
            commit(&s, root.task, DTASK_B_PARK, (dtask_str){0});
        } else {
            cr_assert_eq(item.event, DTASK_B_UNWIND);
            commit(&s, root.task, DTASK_B_UNWOUND, (dtask_str){0});
            unwound = true;
        }
    }
    int64_t n;
    FAILS(rig_end(job, &n), DTASK_EFAILED);
    dti_buf_done(&args);
    dti_buf_done(&b);
    close_seats(&s);
}

// Leaving a seat gives back what it ran.
Test(worker_seats, leave, .timeout = 30) {
    seats s;
    open_seats(&s, "memory:", NULL);
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1));
    dtask_job *job = rig_job(&s.r, "add", NULL, 1);
    one_item(&s);
    dtask_b_leave(s.r.worker);
    OK(dtask_b_sit(s.r.worker, DTASK_B_THREAD, 1));
    dtask_b_item item = one_item(&s);
    commit(&s, item.task, DTASK_B_DONE, (dtask_str){0});
    int64_t n;
    OK(rig_end(job, &n));
    close_seats(&s);
}
