// The one place where engines are chosen.
#include "engines/engine.h"

#include <string.h>

#include "engines/run.h"

extern const dti_engine_ops dti_memory_engine, dti_sqlite_engine;

static const dti_engine_ops *const engines[] = {&dti_memory_engine, &dti_sqlite_engine};

dtask_err dti_engine_open(const dti_engine_conf *conf, dti_engine **out) {
    const char *colon = strchr(conf->url, ':');
    size_t n = colon ? (size_t)(colon - conf->url) : 0;
    dti_forks(); // from now on forks are counted
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        if (n && strlen(engines[i]->scheme) == n && memcmp(engines[i]->scheme, conf->url, n) == 0)
            return engines[i]->open(conf, out);
    }
    return dti_fail(DTASK_EARGS, "no engine has the URL '%s': write memory: or sqlite:PATH, such as sqlite:jobs.db",
        conf->url);
}

dtask_err dti_engine_call(dti_engine *e, dti_arena *arena, dti_op *op) {
    e->ops->call(e, arena, op, 1);
    return op->err;
}
