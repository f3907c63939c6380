// The open app: made, counted, closed; its log; its idle bells.
//
// A fork of a process with an open app owns nothing of it: every call there
// answers EUSAGE, and letting go of the last reference frees nothing, for the
// engine's connections and locks are the parent's.
#include "client/client.h"
#include "engines/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

// ---- opening and closing ---------------------------------------------------------

dtask_err dti_app_name_check(const char *name) {
    static const char signs[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    size_t n = name ? strlen(name) : 0;
    if (n && n <= 100 && strspn(name, signs) == n) return DTASK_OK;
    return dti_fail(DTASK_EARGS, "The app's name \"%.100s\" must be 1 to 100 of a-z A-Z 0-9 _ . -", name ? name : "");
}

static void release(dtask_app *app) {
    for (unsigned i = 0; i < app->nbells; i++) app->engine->ops->bell_close(app->bells[i]);
    dti_watches_free(app);
    if (app->engine) app->engine->ops->close(app->engine);
    if (app->types) dti_types_free(app->types);
    pthread_mutex_destroy(&app->log_lock);
    pthread_mutex_destroy(&app->bells_lock);
    free(app->url);
    free(app);
}

static void tell(void *arg, int level, const char *text) {
    dti_app_log(arg, level, NULL, "%s", text);
}

dtask_err dtask_open(const char *name, const char *url, const char *const *opts, dtask_app **out) {
    if (!out) return dti_fail(DTASK_EARGS, "dtask_open needs a place for the app.");
    dtask_err err = dti_app_name_check(name);
    if (err) return err;
    dtask_app *app = calloc(1, sizeof *app);
    if (!app) return dti_fail(DTASK_ENOMEM, "No memory for an app.");
    atomic_init(&app->refs, 1);
    app->fork_gen = dti_forks();
    strcpy(app->name, name);
    pthread_mutexattr_t again;
    pthread_mutexattr_init(&again);
    pthread_mutexattr_settype(&again, PTHREAD_MUTEX_RECURSIVE); // the log function may set another one
    pthread_mutex_init(&app->log_lock, &again);
    pthread_mutexattr_destroy(&again);
    pthread_mutex_init(&app->bells_lock, NULL);
    err = dti_conf_load(url, opts, &app->conf, app->source, &app->url);
    if (!err && !(app->types = dti_types_new())) err = dti_fail(DTASK_ENOMEM, "No memory for an app.");
    if (!err) err = dti_watches_init(app);
    if (!err)
        err = dti_engine_open(&(dti_engine_conf){.url = app->url, .app = app->name, .full = app->conf.full, .lease_us = app->conf.lease_us,
                                  .timeout_us = app->conf.engine_timeout_us, .prefix = app->conf.prefix,
                                  .store = app->conf.store, .kafka = app->conf.kafka, .done = app->conf.done, .member = app->conf.member,
                                  .shared = app->conf.shared,
                                  .partitions = app->conf.partitions, .replication = app->conf.replication,
                                  .tls_ca = app->conf.tls_ca, .tls_cert = app->conf.tls_cert, .tls_key = app->conf.tls_key,
                                  .tell = {tell, app}}, &app->engine);
    if (err) {
        release(app);
        return err;
    }
    *out = app;
    return DTASK_OK;
}

void dtask_close(dtask_app *app) {
    if (!app) return;
    atomic_store(&app->closed, true);
    if (app->fork_gen == dti_forks()) dti_watches_close(app);
    dti_app_drop(app);
}

dtask_err dti_app_check(dtask_app *app) {
    if (!app) return dti_fail(DTASK_EUSAGE, "The app is NULL: open it with dtask_open.");
    if (app->fork_gen != dti_forks())
        return dti_fail(DTASK_EUSAGE, "The app %s was opened before this process was forked: open it again in the child.", app->name);
    if (atomic_load(&app->closed)) return dti_fail(DTASK_EUSAGE, "The app %s is closed: open it again.", app->name);
    return DTASK_OK;
}

void dti_app_hold(dtask_app *app) {
    atomic_fetch_add(&app->refs, 1);
}

void dti_app_drop(dtask_app *app) {
    if (atomic_fetch_sub(&app->refs, 1) == 1 && app->fork_gen == dti_forks()) release(app);
}

// ---- bells ------------------------------------------------------------------------

dtask_err dti_app_bell(dtask_app *app, dti_bell **out) {
    pthread_mutex_lock(&app->bells_lock);
    dti_bell *bell = app->nbells ? app->bells[--app->nbells] : NULL;
    pthread_mutex_unlock(&app->bells_lock);
    if (!bell) return app->engine->ops->bell_open(app->engine, 0, out);
    *out = bell;
    return DTASK_OK;
}

void dti_app_bell_back(dtask_app *app, dti_bell *bell) {
    if (!bell) return;
    app->engine->ops->bell_awake(bell);
    pthread_mutex_lock(&app->bells_lock);
    bool kept = app->nbells < sizeof app->bells / sizeof *app->bells;
    if (kept) app->bells[app->nbells++] = bell;
    pthread_mutex_unlock(&app->bells_lock);
    if (!kept) app->engine->ops->bell_close(bell);
}

// ---- log --------------------------------------------------------------------------

void dtask_log(dtask_app *app, dtask_log_fn *fn, void *arg) {
    if (dti_app_check(app)) return;
    pthread_mutex_lock(&app->log_lock);
    app->log_fn = fn;
    app->log_arg = arg;
    pthread_mutex_unlock(&app->log_lock);
}

static void put_json(dti_buf *b, const char *text) {
    dti_buf_add(b, "\"", 1);
    for (const char *c = text, *end = c + strlen(c); c < end;) {
        char code[8];
        size_t n = dti_utf8_sign(c, end);
        if (!n) dti_buf_add(b, "\xef\xbf\xbd", 3); // the sign for what is none
        else if (*c == '"' || *c == '\\') dti_buf_add(b, (char[]){'\\', *c}, 2);
        else if ((unsigned char)*c < 0x20) dti_buf_add(b, code, (size_t)snprintf(code, sizeof code, "\\u%04x", *c));
        else dti_buf_add(b, c, n);
        c += n ? n : 1;
    }
    dti_buf_add(b, "\"", 1);
}

void dti_app_log(dtask_app *app, int level, const char *const *fields, const char *fmt, ...) {
    static const char *const names[] = {"emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"};
    static const int least[] = {
        [DTI_LEVEL_INFO] = LOG_INFO, [DTI_LEVEL_DEBUG] = LOG_DEBUG, [DTI_LEVEL_WARNING] = LOG_WARNING, [DTI_LEVEL_ERROR] = LOG_ERR,
    };
    level = level < 0 ? 0 : level > LOG_DEBUG ? LOG_DEBUG : level;
    if (level > least[app->conf.log]) return;
    pthread_mutex_lock(&app->log_lock);
    if (app->log_fn && !app->logging) { // what it makes the library say is not told to it
        char message[2048], time_text[40];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(message, sizeof message, fmt, ap);
        va_end(ap);
        int64_t now = dti_wall_us();
        time_t seconds = (time_t)(now / 1000000);
        struct tm tm;
        size_t n = strftime(time_text, sizeof time_text, "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &tm));
        snprintf(time_text + n, sizeof time_text - n, ".%06dZ", (int)(now % 1000000));
        dti_buf b = {0};
        dti_buf_add(&b, "{\"time\":", 8);
        put_json(&b, time_text);
        dti_buf_add(&b, ",\"level\":", 9);
        put_json(&b, names[level]);
        dti_buf_add(&b, ",\"app\":", 7);
        put_json(&b, app->name);
        dti_buf_add(&b, ",\"message\":", 11);
        put_json(&b, message);
        for (const char *const *f = fields; f && f[0]; f += 2) {
            dti_buf_add(&b, ",", 1);
            put_json(&b, f[0]);
            dti_buf_add(&b, ":", 1);
            put_json(&b, f[1] ? f[1] : "");
        }
        dti_buf_add(&b, "}", 2);
        app->logging = true;
        if (!b.failed) app->log_fn(level, b.p, app->log_arg);
        app->logging = false;
        dti_buf_done(&b);
    }
    pthread_mutex_unlock(&app->log_lock);
}
