// Options: one table of name, kind, default and help, and the places that
// values come from. Later ones win:
//   default, the code, dynatask.toml or pyproject.toml's [tool.dynatask] in
//   the working directory, DYNATASK_<OPTION>.
// The url itself follows the same order; the parameters of the URL that won
// count as given where it was, below an option named there.
#include "client/client.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TEXT, UNSIGNED, U32, TIME, SIZE, CHOICE, URL, LINES /* NAME=VALUE, each adds one */ } kind;

typedef struct {
    const char *name;
    kind kind;
    size_t at, room;             // in dti_conf; room: TEXT's bytes
    const char *def, *help;      // def "": all zero
    uint64_t least, most;        // of numbers, times in us, sizes
    const char *choices[5];      // CHOICE: value i is choices[i]
} option;

#define AT(field) offsetof(dti_conf, field), sizeof(((dti_conf *)0)->field)
#define SECOND 1000000ull
#define DAY (86400 * SECOND)

// clang-format off
static const option table[] = {
    {"url", URL, 0, 0, "sqlite:jobs.db", "the engine: memory:, sqlite:PATH, redis://HOST/0, kafka://HOST?store=URL", 0, 0, {0}},
    {"slots", UNSIGNED, AT(slots), "", "handlers that run at once in a worker; without it as many as processors", 1, 1024, {0}},
    {"processes", UNSIGNED, AT(processes), "1", "processes of a Python worker", 1, 256, {0}},
    {"prefetch", UNSIGNED, AT(prefetch), "256", "tasks that a worker claims ahead, at most", 0, 4096, {0}},
    {"lease", TIME, AT(lease_us), "15", "after so long without a sign of life a worker counts as dead", SECOND / 10, DAY, {0}},
    {"grace", TIME, AT(grace_us), "30", "time for handlers to end after a stop or a cancel", 0, 30 * DAY, {0}},
    {"engine_timeout", TIME, AT(engine_timeout_us), "30", "how long a call waits for the engine", SECOND / 1000, DAY, {0}},
    {"max_parked", U32, AT(max_parked), "10000", "waiting handlers that a worker keeps in memory", 0, 10000000, {0}},
    {"max_payload", SIZE, AT(max_payload), "64MiB", "largest arguments, result or error", 1024, 1ull << 30, {0}},
    {"blob_min", SIZE, AT(blob_min), "64KiB", "payloads above it are stored once per job", 64, 1ull << 30, {0}},
    {"max_depth", U32, AT(max_depth), "10000", "levels of tasks in a job", 1, 1000000, {0}},
    {"max_tasks", U32, AT(max_tasks), "0", "tasks in a job; 0: as many as 2^32-2", 0, UINT32_MAX - 1, {0}},
    {"keep", CHOICE, AT(keep), "failed", "whose payloads stay when their parent is complete: failed, all, root", 0, 0, {"failed", "all", "root"}},
    {"history", CHOICE, AT(counts), "rows", "what stays of succeeded tasks: rows, counts", 0, 0, {"rows", "counts"}},
    {"retain", TIME, AT(retain_us), "1d", "how long an ended job is kept", 0, 3650 * DAY, {0}},
    {"durability", CHOICE, AT(full), "normal", "normal: survives any process; full: the machine too", 0, 0, {"normal", "full"}},
    {"prefix", TEXT, AT(prefix), "", "heads the names of keys in Redis, so that apps of one name stay apart", 0, 0, {0}},
    {"store", TEXT, AT(store), "", "the URL of the Redis that keeps the state where the engine is kafka:", 0, 0, {0}},
    {"member", TEXT, AT(member), "", "static id of a worker in Kafka's group, no two alike: restarted, it goes on with its partitions at once", 0, 0, {0}},
    {"shared", TEXT, AT(shared), "", "rare task types, a,b: their starts lie in one topic of Kafka, APP.shared; the same in all processes of an app", 0, 0, {0}},
    {"partitions", UNSIGNED, AT(partitions), "0", "partitions of Kafka's topics that are made; 0: 4", 0, 10000, {0}},
    {"replication", UNSIGNED, AT(replication), "0", "copies of Kafka's topics that are made; 0: as the brokers have it", 0, 100, {0}},
    {"done", CHOICE, AT(done), "", "on: ends of jobs go into Kafka's topic APP.done; off: no longer; empty: as the store has it", 0, 0, {"", "on", "off"}},
    {"kafka", LINES, AT(kafka), "", "kafka.NAME passes NAME to librdkafka; in the environment DYNATASK_KAFKA_SASL_PASSWORD is kafka.sasl.password", 0, 0, {0}},
    {"tls_ca", TEXT, AT(tls_ca), "", "file of the authorities that the server's certificate may be of; empty: the system's", 0, 0, {0}},
    {"tls_cert", TEXT, AT(tls_cert), "", "file of our certificate, for servers that ask for one", 0, 0, {0}},
    {"tls_key", TEXT, AT(tls_key), "", "file of its key", 0, 0, {0}},
    {"types", TEXT, AT(types), "", "a worker serves only these types, a,b; empty: all it knows", 0, 0, {0}},
    {"log", CHOICE, AT(log), "info", "least level that is logged: info, debug, warning, error", 0, 0, {"info", "debug", "warning", "error"}},
    {"inline", CHOICE, AT(inline_), "0", "1: Python handlers run on the thread that waits for their job, for debugging; memory: alone", 0, 0, {"0", "1"}},
    {"app", TEXT, AT(app), "", "what the command line works on: module:app, or a file", 0, 0, {0}},
};
// clang-format on
enum { OPTIONS = sizeof table / sizeof *table };
_Static_assert((size_t)OPTIONS <= (size_t)DTI_OPTIONS_MAX, "dtask_app.source has a place for each");

const char *dti_conf_name(size_t i) {
    return i < OPTIONS ? table[i].name : NULL;
}

static size_t find(const char *name) {
    size_t i = 0;
    if (!strncmp(name, "kafka.", 6) && name[6]) name = "kafka"; // with its name as a part of the value: `line`
    else if (!strcmp(name, "kafka")) return OPTIONS;
    while (i < OPTIONS && strcmp(table[i].name, name)) i++;
    return i;
}

// The value of an option as it is kept: of kafka.NAME it is NAME=VALUE, in
// `room`; NULL: it is too long.
enum { LINE_MAX_N = 2048 };
static const char *line(size_t i, const char *name, const char *value, char room[LINE_MAX_N]) {
    if (table[i].kind != LINES) return value;
    return snprintf(room, LINE_MAX_N, "%s=%s", name + strlen(table[i].name) + 1, value) < LINE_MAX_N ? room : "\n";
}

// ---- one value ---------------------------------------------------------------

// Of what kind a number is, beside it.
static const char *const units[] = {
    [TEXT] = "", [UNSIGNED] = "", [U32] = "", [TIME] = " s", [SIZE] = " bytes", [CHOICE] = "", [URL] = "", [LINES] = "",
};

// value NULL: it is not shown, for it may be a secret, or a part of one.
static dtask_err unfit(const option *o, const char *value) {
    static const char *const kinds[] = {
        [TEXT] = "a text of at most 1023 bytes", [UNSIGNED] = "a whole number", [U32] = "a whole number",
        [TIME] = "a time such as 1.5, 250ms, 90s, 5m, 2h, 1d", [SIZE] = "a size such as 4096, 64KiB, 64MiB",
        [CHOICE] = "one of", [URL] = "a URL", [LINES] = "a text",
    };
    char bounds[160] = "";
    double unit = o->kind == TIME ? (double)SECOND : 1;
    if (o->most) snprintf(bounds, sizeof bounds, ", from %.15g to %.15g%s", (double)o->least / unit, (double)o->most / unit, units[o->kind]);
    for (size_t i = 0, n = 0; i < 5 && o->choices[i] && n < sizeof bounds; i++)
        n += (size_t)snprintf(bounds + n, sizeof bounds - n, "%s %s", i ? "," : "", o->choices[i]);
    if (!value) return dti_fail(DTASK_EARGS, "The option %s cannot be as it was given: give %s%s (%s).", o->name, kinds[o->kind], bounds, o->help);
    return dti_fail(DTASK_EARGS, "The option %s cannot be \"%.100s\": give %s%s (%s).", o->name, value, kinds[o->kind], bounds, o->help);
}

// Writes a number of `room` bytes.
static void store(void *to, size_t room, uint64_t v) {
    if (room == 8) memcpy(to, &v, 8);
    else if (room == 4) memcpy(to, &(uint32_t){(uint32_t)v}, 4);
    else *(uint8_t *)to = (uint8_t)v;
}

static uint64_t load(const void *from, size_t room) {
    uint64_t v = 0;
    if (room == 8) memcpy(&v, from, 8);
    else if (room == 4) {
        uint32_t w;
        memcpy(&w, from, 4);
        v = w;
    } else v = *(const uint8_t *)from;
    return v;
}

// secret: an error may not show the value.
static dtask_err put(dti_conf *c, const option *o, const char *value, bool secret) {
    void *to = (char *)c + o->at;
    int64_t i;
    uint64_t n;
    const char *shown = secret ? NULL : value;
    switch (o->kind) {
    case URL: return DTASK_OK; // resolved apart
    case TEXT:
        if (strlen(value) >= o->room) return unfit(o, NULL);
        memcpy(to, value, strlen(value) + 1);
        return DTASK_OK;
    case LINES: {
        size_t had = strlen(to);
        if (strchr(value, '\n') || had + strlen(value) + 2 > o->room)
            return dti_fail(DTASK_EARGS, "The options kafka.NAME have line breaks, or more than %zu bytes in all.", o->room);
        memcpy((char *)to + had, value, strlen(value) + 1);
        strcat(to, "\n");
        return DTASK_OK;
    }
    case CHOICE:
        for (n = 0; n < 5 && o->choices[n]; n++)
            if (!strcmp(o->choices[n], value)) return store(to, o->room, n), DTASK_OK;
        return unfit(o, shown);
    case SIZE:
        if (!dti_text_size(value, &n)) return unfit(o, shown);
        break;
    default:
        if (!(o->kind == TIME ? dti_text_us(value, &i) : dti_text_int(value, &i)) || i < 0) return unfit(o, shown);
        n = (uint64_t)i;
    }
    if (n < o->least || n > o->most) return unfit(o, shown);
    store(to, o->room, n);
    return DTASK_OK;
}

static dtask_err set(dti_conf *c, const option *o, const char *value) {
    return put(c, o, value, false);
}

static dtask_err unknown(const char *name) {
    return dti_fail(DTASK_EARGS, "There is no option \"%.100s\": `dynatask config` lists them.", name);
}

// ---- the URL -------------------------------------------------------------------

// Decodes %xx in place. False: malformed, or a zero byte.
static bool unescape(char *s) {
    char *to = s;
    for (; *s; s++)
        if (*s != '%') *to++ = *s;
        else if (isxdigit((unsigned char)s[1]) && isxdigit((unsigned char)s[2])) {
            *to = (char)strtol((char[]){s[1], s[2], 0}, NULL, 16);
            if (!*to++) return false;
            s += 2;
        } else return false;
    *to = 0;
    return true;
}

// Of such a URL no part is shown that was not looked at: where a password has ?
// or & as they are, the rest of it is taken for parameters.
static bool has_secret(const char *url) {
    return strchr(url, '@') || strstr(url, "kafka.");
}

static dtask_err misread(unsigned nth, const char *why) {
    return dti_fail(DTASK_EARGS, "The URL's parameter no. %u %s; it is not shown, for the URL has a password: write %%3F for ? in one, %%26 for &, "
        "%%40 for @.", nth, why);
}

// Takes the parameters off the URL, which it changes.
static dtask_err query(char *url, dti_conf *c, uint8_t *source) {
    size_t n = strspn(url, "abcdefghijklmnopqrstuvwxyz+");
    if (!n || url[n] != ':') {
        char shown[101];
        dti_url_show(url, shown, sizeof shown);
        return dti_fail(DTASK_EARGS, "The URL \"%s\" has no scheme: write it as sqlite:jobs.db or memory:.", shown);
    }
    bool secret = has_secret(url);
    unsigned nth = 0;
    char *at = strchr(url, '?');
    if (!at) return DTASK_OK;
    *at++ = 0;
    bool given[OPTIONS] = {false};
    for (char *next; at && *at; at = next) {
        if ((next = strchr(at, '&'))) *next++ = 0;
        char *value = strchr(at, '=');
        nth++;
        if (secret && (!value || value == at)) return misread(nth, "is not written name=value");
        if (!value || value == at) return dti_fail(DTASK_EARGS, "The URL's parameter \"%.100s\" is not written name=value.", at);
        *value++ = 0;
        bool decoded = unescape(at) && unescape(value);
        if (secret && !decoded) return misread(nth, "has a % without two hexadecimal digits");
        if (!decoded) return dti_fail(DTASK_EARGS, "The URL's parameter \"%.100s\" has a %% without two hexadecimal digits.", at);
        size_t i = find(at);
        if (secret && (i == OPTIONS || table[i].kind == URL)) return misread(nth, "has a name that is no option's");
        if (i == OPTIONS || table[i].kind == URL) return unknown(at);
        if (given[i] && table[i].kind != LINES) return dti_fail(DTASK_EARGS, "The URL gives the parameter %s twice.", at);
        char room[LINE_MAX_N];
        dtask_err err = put(c, &table[i], line(i, at, value, room), secret);
        if (err) return err;
        given[i] = true;
        source[i] = DTI_SRC_URL;
    }
    return DTASK_OK;
}

// ---- the sources -----------------------------------------------------------------

typedef struct {
    char *values[OPTIONS];       // of the file
} collected;

static dtask_err collect(void *arg, const char *name, const char *value) {
    collected *c = arg;
    size_t i = find(name);
    if (i == OPTIONS) return unknown(name);
    if (table[i].kind == LINES) return dti_fail(DTASK_EARGS, "The options kafka.NAME stand in the URL, in the code or in the environment, not in a file.");
    if (c->values[i]) return dti_fail(DTASK_EARGS, "The option %s is given twice.", name);
    if (!(c->values[i] = strdup(value))) return dti_fail(DTASK_ENOMEM, "No memory.");
    dti_conf scratch; // told here, where the line is known
    return set(&scratch, &table[i], value);
}

static dtask_err environment(const char *values[OPTIONS], dti_conf *lines) {
    static const char prefix[] = "DYNATASK_";
    extern char **environ;
    for (char **e = environ; e && *e; e++) {
        if (strncmp(*e, prefix, sizeof prefix - 1)) continue;
        const char *rest = *e + sizeof prefix - 1, *value = strchr(rest, '=');
        char name[64];
        size_t n = value ? (size_t)(value - rest) : 0;
        if (!value || n >= sizeof name) continue;
        for (size_t i = 0; i < n; i++) name[i] = (char)tolower((unsigned char)rest[i]);
        name[n] = 0;
        if (!strncmp(name, "kafka_", 6)) {
            char room[LINE_MAX_N];
            for (char *c = name; *c; c++)
                if (*c == '_') *c = '.';
            size_t at = find(name);
            dtask_err err = at < OPTIONS ? set(lines, &table[at], line(at, name, value + 1, room)) : unknown(name);
            if (err) return err;
            continue;
        }
        size_t i = find(name);
        if (i == OPTIONS)
            return dti_fail(DTASK_EARGS, "%s%.*s names no option: `dynatask config` lists them.", prefix, (int)n, rest);
        values[i] = value + 1;
    }
    return DTASK_OK;
}

dtask_err dti_option_once(const char *const *opts, const char *const *at) {
    for (const char *const *o = opts; o < at; o += 2)
        if (!strcmp(o[0], at[0])) return dti_fail(DTASK_EARGS, "The option %.100s is given twice.", at[0]);
    return DTASK_OK;
}

static dtask_err code(dti_conf *c, uint8_t *source, const char *const *opts) {
    for (const char *const *o = opts; o && *o; o += 2) {
        size_t i = find(o[0]);
        if (i == OPTIONS || table[i].kind == URL) return unknown(o[0]);
        if (!o[1]) return dti_fail(DTASK_EARGS, "The option %s has no value.", o[0]);
        dtask_err err = dti_option_once(opts, o);
        if (err) return err;
        dti_conf scratch = {0};
        char room[LINE_MAX_N];
        const char *value = line(i, o[0], o[1], room);
        err = set(&scratch, &table[i], value); // wrong even where another place wins
        if (err) return err;
        uint8_t s = source[i] == DTI_SRC_URL ? source[0] : source[i];
        if (table[i].kind != LINES && s != DTI_SRC_DEFAULT && s != DTI_SRC_CODE) continue;
        if ((err = set(c, &table[i], value))) return err;
        source[i] = DTI_SRC_CODE;
    }
    return DTASK_OK;
}

// What a worker has of its own; all else is said once, for the app.
static dtask_err check_worker(const char *const *opts) {
    static const char *const names[] = {"slots", "prefetch", "lease", "grace", "max_parked", "types", NULL};
    for (const char *const *o = opts; o && *o; o += 2) {
        const char *const *name = names;
        while (*name && strcmp(*name, o[0])) name++;
        if (!*name && find(o[0]) == OPTIONS) return unknown(o[0]);
        if (!*name)
            return dti_fail(DTASK_EARGS, "The option %.100s is the app's, and does nothing for a worker: give it where the app is opened. "
                "A worker has slots prefetch lease grace max_parked types.", o[0]);
        if (!o[1]) break;        // `code` says so
    }
    return DTASK_OK;
}

dtask_err dti_conf_worker(dti_conf *c, uint8_t source[DTI_OPTIONS_MAX], const char *const *opts) {
    dtask_err wrong = check_worker(opts);
    if (wrong) return wrong;
    dti_conf tried = *c;
    uint8_t tried_source[DTI_OPTIONS_MAX];
    memcpy(tried_source, source, sizeof tried_source);
    dtask_err err = code(&tried, tried_source, opts);
    if (err) return err;
    *c = tried;
    memcpy(source, tried_source, sizeof tried_source);
    return DTASK_OK;
}

static dtask_err resolve(const char *url, const char *const *opts, dti_conf *c, uint8_t *source, char **out_url, collected *file) {
    bool found;
    const char *env[OPTIONS] = {NULL};
    dti_conf lines = {0};        // the environment's kafka.NAME
    dtask_err err = dti_toml_read("dynatask.toml", "", collect, file, &found);
    if (!err && !found) err = dti_toml_read("pyproject.toml", "tool.dynatask", collect, file, &found);
    if (!err) err = environment(env, &lines);
    if (err) return err;

    const struct { const char *url; dti_source source; } urls[] = {
        {env[0], DTI_SRC_ENV}, {file->values[0], DTI_SRC_FILE}, {url, DTI_SRC_CODE}, {table[0].def, DTI_SRC_DEFAULT},
    };
    size_t won = 0;
    while (!urls[won].url) won++;
    char *own = strdup(urls[won].url);
    if (!own) return dti_fail(DTASK_ENOMEM, "No memory.");
    *out_url = own;
    source[0] = urls[won].source;

    for (size_t i = 0; i < OPTIONS; i++)
        if (*table[i].def) set(c, &table[i], table[i].def);
    dti_conf given = *c;
    uint8_t given_source[DTI_OPTIONS_MAX] = {0};
    given_source[0] = source[0];
    if ((err = query(own, &given, given_source))) return err;
    // The lowest first; the URL's parameters just below its own place.
    if (source[0] == DTI_SRC_CODE) *c = given, memcpy(source, given_source, DTI_OPTIONS_MAX);
    if ((err = code(c, source, opts))) return err;
    for (dti_source place = DTI_SRC_FILE; place <= DTI_SRC_ENV; place++)
        for (size_t i = 1; i < OPTIONS; i++) {
            if (source[0] == place && given_source[i] == DTI_SRC_URL) {
                memcpy((char *)c + table[i].at, (char *)&given + table[i].at, table[i].room);
                source[i] = DTI_SRC_URL;
            }
            const char *v = place == DTI_SRC_FILE ? file->values[i] : env[i];
            if (!v) continue;
            if ((err = set(c, &table[i], v))) return err;
            source[i] = (uint8_t)place;
        }
    if (!*lines.kafka) return DTASK_OK;
    if (strlen(c->kafka) + strlen(lines.kafka) >= sizeof c->kafka) return dti_fail(DTASK_EARGS, "The options kafka.NAME have more than %zu bytes in all.", sizeof c->kafka);
    strcat(c->kafka, lines.kafka); // the last of a name counts
    source[find("kafka.any")] = DTI_SRC_ENV;
    return DTASK_OK;
}

dtask_err dti_conf_load(const char *url, const char *const *opts, dti_conf *out, uint8_t source[DTI_OPTIONS_MAX], char **out_url) {
    dti_conf c = {0};
    uint8_t from[DTI_OPTIONS_MAX] = {0};
    char *own = NULL;
    collected file = {0};
    dtask_err err = resolve(url, opts, &c, from, &own, &file);
    for (size_t i = 0; i < OPTIONS; i++) free(file.values[i]);
    if (!err && c.inline_ && strcmp(own, "memory:")) {
        char shown[101];
        dti_url_show(own, shown, sizeof shown);
        err = dti_fail(DTASK_EARGS, "The option inline is for debugging in one process, of memory: alone, and the engine is \"%s\": "
            "write memory:?inline=1, or leave it out.", shown);
    }
    if (err) {
        free(own);
        return err;
    }
    *out = c;
    memcpy(source, from, sizeof from);
    *out_url = own;
    return DTASK_OK;
}

// ---- showing ------------------------------------------------------------------------

// Lines without their values, which may be secret.
static void put_names(dti_buf *b, const char *lines) {
    dti_buf names = {0};
    for (const char *at = lines; *at; at = strchr(at, '\n') + 1) {
        if (at != lines) dti_buf_add(&names, " ", 1);
        dti_buf_add(&names, at, strcspn(at, "="));
    }
    dti_mp_put_str(b, dti_str(names.p, names.n));
    dti_buf_done(&names);
}

static void put_value(dti_buf *b, const option *o, const dti_conf *c) {
    const void *at = (const char *)c + o->at;
    char shown[1100];
    switch (o->kind) {
    case URL: dti_mp_put_strz(b, o->def); break;
    case LINES: put_names(b, at); break;
    case TEXT:
        dti_url_show(at, shown, sizeof shown); // of all texts only a URL has a password
        dti_mp_put_strz(b, shown);
        break;
    case CHOICE: dti_mp_put_strz(b, o->choices[load(at, o->room)]); break;
    case TIME: dti_mp_put_float(b, (double)load(at, o->room) / 1e6); break;
    default:
        if (load(at, o->room) < o->least) dti_mp_put_nil(b); // not given
        else dti_mp_put_uint(b, load(at, o->room));
    }
}

void dti_conf_put(dti_buf *b, const dti_conf *c, const uint8_t source[DTI_OPTIONS_MAX], const char *url) {
    static const char *const sources[] = {"default", "file", "environment", "url", "code"};
    dti_conf defaults = {0};
    char shown[2048];
    dti_url_show(url, shown, sizeof shown);
    dti_mp_put_array(b, OPTIONS);
    for (size_t i = 0; i < OPTIONS; i++) {
        if (*table[i].def) set(&defaults, &table[i], table[i].def);
        dti_mp_put_array(b, 6);
        dti_mp_put_strz(b, table[i].name);
        if (table[i].kind == URL) dti_mp_put_strz(b, shown);
        else put_value(b, &table[i], c);
        dti_mp_put_strz(b, sources[source[i]]);
        put_value(b, &table[i], &defaults);
        dti_mp_put_strz(b, table[i].help);
        dti_mp_put_strz(b, units[table[i].kind] + (*units[table[i].kind] == ' '));
    }
}
