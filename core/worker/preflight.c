// What can be known before an engine is opened: the options, what a plugin
// holds, and that the option `types` names what the worker has handlers for.
//
// Guaranteed: nothing here makes, opens or changes anything but what dlopen
// does. An engine out of reach shows at dtask_open.
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

// ---- the option `types` ----------------------------------------------------------

// The next name of "a, b"; false: none is left.
static bool next_name(const char **at, dtask_str *out) {
    *at += strspn(*at, " ,");
    size_t n = strcspn(*at, ",");
    *out = dti_str(*at, n);
    *at += n;
    while (out->n && out->p[out->n - 1] == ' ') out->n--;
    return out->n > 0;
}

bool dti_types_name(const char *list, const char *type) {
    dtask_str name;
    while (next_name(&list, &name))
        if (dti_str_eq(name, dti_strz(type))) return true;
    return false;
}

// How many letters are to be changed, added or taken away; long names differ.
static size_t distance(dtask_str a, dtask_str b) {
    enum { LONGEST = 64 };
    size_t row[LONGEST + 1];
    if (a.n > LONGEST || b.n > LONGEST) return LONGEST;
    for (size_t j = 0; j <= b.n; j++) row[j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t corner = row[0]++;
        for (size_t j = 1; j <= b.n; j++) {
            size_t least = corner + (a.p[i - 1] != b.p[j - 1]);
            if (row[j] + 1 < least) least = row[j] + 1;
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            corner = row[j];
            row[j] = least;
        }
    }
    return row[b.n];
}

static dtask_err missing(dtask_str name, const char *const *has, size_t n) {
    const char *near = NULL;
    size_t best = name.n / 3 + 2;
    dti_buf all = {0};
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(name, dti_strz(has[i]));
        if (d < best) best = d, near = has[i];
        if (i) dti_buf_add(&all, ", ", 2);
        dti_buf_add(&all, has[i], strlen(has[i]));
    }
    dtask_err err = all.failed ? dti_fail(DTASK_ENOMEM, "No memory to list the types of a worker.")
        : dti_fail(DTASK_EARGS, "The option types names \"%.*s\", for which this worker has no handler: %s%.200s%s; it has %.*s%s.",
            (int)(name.n > 200 ? 200 : name.n), name.p, near ? "write " : "add the handler or its plugin, or leave the name out",
            near ? near : "", near ? ", or add the handler" : "", (int)(all.n > 600 ? 600 : all.n), n ? all.p : "",
            !n ? "none" : all.n > 600 ? ".." : "");
    dti_buf_done(&all);
    return err;
}

dtask_err dti_types_check(const char *list, const char *const *has, size_t n) {
    dtask_str name;
    while (next_name(&list, &name)) {
        bool found = false;
        for (size_t i = 0; i < n && !found; i++) found = dti_str_eq(name, dti_strz(has[i]));
        if (!found) return missing(name, has, n);
    }
    return DTASK_OK;
}

// ---- for bindings and the host -----------------------------------------------------

dtask_err dtask_b_check(const char *app, const char *url, const char *const *opts, const char *const *has, size_t n) {
    dti_conf conf;
    uint8_t source[DTI_OPTIONS_MAX];
    char *own;
    dtask_err err = dti_app_name_check(app);
    if (!err) err = dti_conf_load(url, opts, &conf, source, &own);
    if (err) return err;
    free(own);
    return has ? dti_types_check(conf.types, has, n) : DTASK_OK;
}

dtask_err dtask_b_check_shared(const char *url, const char *const *opts) {
    dti_conf conf;
    uint8_t source[DTI_OPTIONS_MAX];
    char *own;
    dtask_err err = dti_conf_load(url, opts, &conf, source, &own);
    if (err) return err;
    if (!strcmp(own, "memory:"))
        err = dti_fail(DTASK_EARGS, "The engine memory: is seen by one process alone, so nobody could give this one a task: "
            "name one that processes share, as sqlite:jobs.db.");
    free(own);
    return err;
}

const char *dtask_b_option(size_t i) {
    return dti_conf_name(i);
}
