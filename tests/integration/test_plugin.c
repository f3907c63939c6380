// The plugin loader: what it loads, and what it refuses before any of its
// code runs.
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dynatask.h"

static dtask_app *app;
static dtask_worker *worker;
static char folder[] = "/tmp/dynatask-plugin-XXXXXX";

static const char *path(const char *name) {
    static char full[512];
    snprintf(full, sizeof full, "%s/%s.so", folder, name);
    return full;
}

// The plugins are copied, so that a test may change their modes.
static void begin(void) {
    char copy[1200];
    cr_assert(mkdtemp(folder) != NULL);
    snprintf(copy, sizeof copy, "cp %s/*.so %s && chmod 755 %s/*.so", PLUGINS, folder, folder);
    cr_assert_eq(system(copy), 0);
    cr_assert_eq(dtask_open("plugins", "memory:", NULL, &app), 0, "%s", dtask_err_detail());
    cr_assert_eq(dtask_worker_new(app, DTASK_OPTS("slots", "1"), &worker), 0, "%s", dtask_err_detail());
}

static void end(void) {
    char remove[80];
    dtask_worker_free(worker);
    dtask_close(app);
    snprintf(remove, sizeof remove, "rm -r %s", folder);
    cr_assert_eq(system(remove), 0);
}

TestSuite(plugin, .init = begin, .fini = end);

static void refused(dtask_err err, const char *part, const char *file) {
    cr_assert_eq(dtask_worker_load(worker, file), err, "%s", file);
    cr_assert(strstr(dtask_err_detail(), part) != NULL, "%s", dtask_err_detail());
}

Test(plugin, its_handlers_run) {
    cr_assert_eq(dtask_worker_load(worker, path("good")), 0, "%s", dtask_err_detail());
    cr_assert_eq(dtask_worker_start(worker), 0, "%s", dtask_err_detail());
    dtask_job *job;
    int64_t got = 0;
    cr_assert_eq(dtask_start(app, "twice", NULL, &job, "i", (int64_t)21), 0, "%s", dtask_err_detail());
    cr_assert_eq(dtask_job_wait(job, -1), 0);
    cr_assert_eq(dtask_job_result(job, "i", &got), 0, "%s", dtask_err_detail());
    cr_assert_eq(got, 42);
    dtask_job_free(job);
}

Test(plugin, twice_is_a_conflict) {
    cr_assert_eq(dtask_worker_load(worker, path("good")), 0, "%s", dtask_err_detail());
    refused(DTASK_ECONFLICT, "twice", path("good"));
}

Test(plugin, what_is_none) {
    refused(DTASK_EVERSION, "ABI", path("other_abi"));
    refused(DTASK_EARGS, "no handlers", path("empty"));
    refused(DTASK_EARGS, "no plugin", path("none"));
    refused(DTASK_EARGS, "place 3", path("malformed"));
    refused(DTASK_EARGS, "No such file", path("missing"));
    refused(DTASK_EARGS, "no regular file", folder);
    FILE *f = fopen(path("text"), "w");
    cr_assert(f && fputs("not a library\n", f) >= 0 && !fclose(f));
    chmod(path("text"), 0755);
    refused(DTASK_EARGS, "cannot be loaded", path("text"));
}

Test(plugin, what_others_can_write) {
    cr_assert_eq(chmod(path("good"), 0775), 0);
    refused(DTASK_EARGS, "written by others", path("good"));
    cr_assert_eq(chmod(path("good"), 0757), 0);
    refused(DTASK_EARGS, "written by others", path("good"));
    cr_assert_eq(chmod(path("good"), 0755), 0);
    cr_assert_eq(chmod(folder, 0777), 0);
    refused(DTASK_EARGS, "folder", path("good"));
    cr_assert_eq(chmod(folder, 0770), 0);
    refused(DTASK_EARGS, "folder", path("good"));
    cr_assert_eq(chmod(folder, 01777), 0); // sticky, as /tmp: its file is nobody else's to exchange
    cr_assert_eq(dtask_worker_load(worker, path("good")), 0, "%s", dtask_err_detail());
}

Test(plugin, a_link_is_followed_to_what_is_checked) {
    char target[512];
    snprintf(target, sizeof target, "%s", path("good"));
    cr_assert_eq(symlink(target, path("link")), 0);
    cr_assert_eq(chmod(target, 0777), 0);
    refused(DTASK_EARGS, "written by others", path("link"));
    cr_assert_eq(chmod(target, 0755), 0);
    cr_assert_eq(dtask_worker_load(worker, path("link")), 0, "%s", dtask_err_detail());
}
