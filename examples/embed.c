/* A C program that starts a job and runs its tasks itself: no server, no
 * second process. `squares` spawns one `square` for each number, waits for
 * them without holding a slot, and adds up what they give.
 *
 *   cc embed.c $(pkg-config --cflags --libs dynatask) -o embed && ./embed 10
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <dynatask.h>

static dtask_err square(dtask_task *task, void *arg) {
    int64_t n;
    (void)arg;
    dtask_err err = dtask_args(task, "n:i", &n);
    return err ? err : dtask_done(task, "i", n * n);
}

static dtask_err squares(dtask_task *task, void *arg) {
    uint64_t n;
    int64_t sum = 0;
    dtask_child *batch;
    (void)arg;
    dtask_err err = dtask_args(task, "n:u", &n);
    if (!err) err = dtask_map(task, "square", NULL, &batch, 1, n, NULL);
    if (!err) err = dtask_wait(task, batch, -1);
    for (uint64_t i = 0; !err && i < n; i++) {
        dtask_child *one;
        int64_t value;
        err = dtask_child_at(batch, i, &one);
        if (!err) err = dtask_child_result(one, "i", &value);
        if (!err) sum += value;
    }
    return err ? err : dtask_done(task, "i", sum);
}

int main(int argc, char **argv) {
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 10, added;
    int64_t sum;
    dtask_app *app = NULL;
    dtask_worker *worker = NULL;
    dtask_job *job = NULL;
    dtask_err err = dtask_open("embed", "memory:", NULL, &app);
    if (!err) err = dtask_worker_new(app, NULL, &worker);
    if (!err) err = dtask_worker_add(worker, "square", "n:i -> i", square, NULL);
    if (!err) err = dtask_worker_add(worker, "squares", "n:u -> i; retries=1", squares, NULL);
    if (!err) err = dtask_worker_start(worker);
    if (!err) err = dtask_start(app, "squares", DTASK_OPTS("id", "squares-1"), &job, "u", n);
    if (!err) err = dtask_job_wait(job, -1);
    if (!err) err = dtask_job_result(job, "i", &sum);
    if (!err) err = dtask_job_info(job, "added:u", &added);
    if (err) fprintf(stderr, "%s: %s\n", dtask_err_name(err), dtask_err_detail());
    else printf("sum=%" PRId64 " tasks=%" PRIu64 "\n", sum, added);
    dtask_job_free(job);
    dtask_worker_free(worker);
    dtask_close(app);
    return err != DTASK_OK;
}
