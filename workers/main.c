// dynatask-worker: runs handler plugins, without Python.
//
//   dynatask-worker --app NAME [--url URL] --plugin X.so .. [--OPTION VALUE ..]
//
// The first line on stdout says what is served; log lines are JSON on stderr.
// SIGTERM or SIGINT: no more claims, handlers get the grace time, the rest is
// given back. A second one stops at once, and loses nothing either.
//
// What can be checked without the engine is checked before it is opened.
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dynatask_binding.h"

enum { OK = 0, USAGE = 2, UNREACHABLE = 5, PLUGINS_MAX = 64 };

typedef struct {
    const char *app;
    const char *plugins[PLUGINS_MAX];
    const dtask_plugin_v1 *loaded[PLUGINS_MAX];
    size_t nplugins;
    bool help, version;
} arguments;

static const char help[] =
    "Usage: dynatask-worker --app NAME [--url URL] --plugin X.so [--plugin Y.so ..] [--OPTION VALUE ..]\n"
    "\n"
    "Runs the C handlers of plugins until it is stopped. SIGTERM drains; a second one stops at once.\n"
    "\n"
    "  --app NAME       the app whose tasks to run: its name, as in App(\"NAME\")\n"
    "  --url URL        the engine: sqlite:PATH, redis://HOST/0, kafka://HOST?store=URL (default sqlite:jobs.db)\n"
    "  --plugin X.so    a plugin to load; may be given several times\n"
    "  --slots N        handlers that run at once (default: processors)\n"
    "  --types A,B      serve only these types\n"
    "  --grace TIME     time for handlers to end after SIGTERM (default 30s)\n"
    "  --lease TIME     a worker without a sign of life for so long counts as dead (default 15s)\n"
    "  --OPTION VALUE   any other option of dynatask, such as --durability full\n"
    "  --help, --version\n"
    "\n"
    "Options may also stand in DYNATASK_<OPTION> or dynatask.toml.\n"
    "Exit: 0 drained, 2 usage, 5 engine unreachable.\n";

static dtask_worker *worker;

static void on_signal(int sig) {
    (void)sig;
    int saved = errno;
    dtask_worker_stop(worker, -1); // -1: the option grace; again: at once
    errno = saved;
}

static void print_log(int level, const char *line, void *arg) {
    (void)level;
    (void)arg;
    fprintf(stderr, "%s\n", line);
}

static int fail(dtask_err err) {
    fprintf(stderr, "dynatask-worker: %s: %s\n", dtask_err_name(err), dtask_err_detail());
    return err == DTASK_EENGINE ? UNREACHABLE : err == DTASK_OK ? OK : USAGE;
}

static int usage(const char *what, const char *which) {
    fprintf(stderr, "dynatask-worker: %s%s; see dynatask-worker --help\n", what, which);
    return USAGE;
}

// The command line goes before the environment: an option becomes its
// DYNATASK_ variable, which this process alone sees.
static bool set_option(const char *typed, const char *value) {
    char name[64], variable[96] = "DYNATASK_";
    size_t n = 0, at = strlen(variable);
    for (; typed[n] && n < sizeof name - 1; n++) name[n] = typed[n] == '-' ? '_' : (char)tolower((unsigned char)typed[n]);
    name[n] = 0;
    const char *known;
    for (size_t i = 0; (known = dtask_b_option(i)) && strcmp(known, name);) i++;
    if (typed[n] || !known) return false;
    for (size_t i = 0; i <= n; i++) variable[at + i] = (char)toupper((unsigned char)name[i]);
    return !setenv(variable, value, 1);
}

static int parse(int argc, char **argv, arguments *a) {
    for (int i = 1; i < argc; i++) {
        char *name = argv[i], *value;
        if (!strcmp(name, "--help") || !strcmp(name, "-h")) return a->help = true, OK;
        if (!strcmp(name, "--version")) return a->version = true, OK;
        if (strncmp(name, "--", 2) || !isalpha((unsigned char)name[2])) return usage("unexpected argument ", name);
        name += 2;
        if ((value = strchr(name, '='))) *value++ = 0;
        else if (i + 1 < argc) value = argv[++i];
        else return usage("no value for --", name);
        if (!strcmp(name, "app")) a->app = value;
        else if (!strcmp(name, "plugin")) {
            if (a->nplugins == PLUGINS_MAX) return usage("too many plugins, the last ", value);
            a->plugins[a->nplugins++] = value;
        } else if (!set_option(name, value)) return usage("no such option: --", name);
    }
    if (!a->app) return usage("--app is missing", "");
    size_t n = strlen(a->app);
    if (n > 3 && !strcmp(a->app + n - 3, ".py")) return usage("--app takes an app's name, as in App(\"NAME\"), not a file: ", a->app);
    if (!a->nplugins) return usage("--plugin is missing", "");
    return OK;
}

static size_t count_types(const arguments *a) {
    size_t n = 0;
    for (size_t i = 0; i < a->nplugins; i++)
        for (const dtask_handler_v1 *h = a->loaded[i]->handlers; h->type; h++) n++;
    return n;
}

// Types of all plugins, in their order; to be freed.
static const char **list_types(const arguments *a) {
    size_t n = 0;
    const char **types = calloc(count_types(a), sizeof *types);
    for (size_t i = 0; types && i < a->nplugins; i++)
        for (const dtask_handler_v1 *h = a->loaded[i]->handlers; h->type; h++) types[n++] = h->type;
    return types;
}

// Options, plugins, types: all that is known without the engine.
static int check(arguments *a) {
    dtask_err err = dtask_b_check(a->app, NULL, NULL, NULL, 0);
    if (!err) err = dtask_b_check_shared(NULL, NULL);
    for (size_t i = 0; !err && i < a->nplugins; i++) err = dtask_b_plugin(a->plugins[i], &a->loaded[i]);
    if (err) return fail(err);
    size_t n = count_types(a);
    const char **types = list_types(a);
    if (!types) return usage("no memory to list the types of the plugins", "");
    int code = OK;
    for (size_t i = 0; !code && i < n; i++)
        for (size_t j = 0; !code && j < i; j++)
            if (!strcmp(types[i], types[j])) code = usage("two plugins have a handler of the type ", types[i]);
    if (!code && (err = dtask_b_check(a->app, NULL, NULL, types, n))) code = fail(err);
    free(types);
    return code;
}

static void print_served(const arguments *a) {
    printf("dynatask-worker %s serves %s:", dtask_version(), a->app);
    for (size_t i = 0; i < a->nplugins; i++)
        for (const dtask_handler_v1 *h = a->loaded[i]->handlers; h->type; h++)
            if (dtask_b_serves(worker, h->type)) printf(" %s", h->type);
    printf("\n");
    fflush(stdout);
}

static void handle_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv) {
    arguments a = {0};
    int code = parse(argc, argv, &a);
    if (code) return code;
    if (a.help) return fputs(help, stdout) < 0;
    if (a.version) return printf("dynatask-worker %s\n", dtask_version()) < 0;
    if ((code = check(&a))) return code;

    dtask_app *app;
    dtask_err err = dtask_open(a.app, NULL, NULL, &app);
    if (err) return fail(err);
    dtask_log(app, print_log, NULL);
    err = dtask_worker_new(app, NULL, &worker);
    for (size_t i = 0; !err && i < a.nplugins; i++) err = dtask_worker_load(worker, a.plugins[i]);
    if (!err) {
        handle_signals();
        err = dtask_worker_start(worker);
    }
    if (!err) {
        print_served(&a);
        err = dtask_worker_run(worker);
    }
    code = err ? fail(err) : OK;
    // Signals that come now find no worker to stop.
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    dtask_worker_free(worker);
    dtask_close(app);
    return code;
}
