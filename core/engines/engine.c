// The one place where engines are chosen.
#include "engines/engine.h"

#include <stdio.h>
#include <string.h>

#include "engines/run.h"

extern const dti_engine_ops dti_memory_engine, dti_sqlite_engine, dti_redis_engine, dti_kafka_engine;

static const dti_engine_ops *const engines[] = {&dti_memory_engine, &dti_sqlite_engine, &dti_redis_engine, &dti_kafka_engine};

static bool knows(const dti_engine_ops *ops, const char *scheme, size_t n) {
    for (const char *at = ops->schemes; at; at = strchr(at, ' ')) {
        at += *at == ' ';
        if (strcspn(at, " ") == n && !memcmp(at, scheme, n)) return true;
    }
    return false;
}

void dti_url_show(const char *url, char *out, size_t n) {
    const char *from = strstr(url, "://");
    from = from ? from + 3 : url;
    // A password that was not escaped may have any sign: up to the last @. A path has none.
    const char *at = strncmp(url, "sqlite:", 7) ? strrchr(from, '@') : NULL;
    const char *colon = at ? memchr(from, ':', (size_t)(at - from)) : NULL;
    if (colon) snprintf(out, n, "%.*s:***%s", (int)(colon - url), url, at);
    else snprintf(out, n, "%s", url);
}

dtask_err dti_engine_open(const dti_engine_conf *conf, dti_engine **out) {
    const char *colon = strchr(conf->url, ':');
    size_t n = colon ? (size_t)(colon - conf->url) : 0;
    dti_forks(); // from now on forks are counted
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        if (!n || !knows(engines[i], conf->url, n)) continue;
        dtask_err err = engines[i]->open(conf, out);
        if (!err && !(*out)->shards) (*out)->shards = 1;
        return err;
    }
    char shown[300];
    dti_url_show(conf->url, shown, sizeof shown);
    return dti_fail(DTASK_EARGS, "no engine has the URL '%s': write memory:, sqlite:PATH, such as sqlite:jobs.db, redis://HOST/0, or kafka://HOST?store=redis://HOST/0", shown);
}

dtask_err dti_engine_call(dti_engine *e, dti_arena *arena, dti_op *op) {
    e->ops->call(e, arena, op, 1);
    return op->err;
}
