// conf.c and toml.c: where options come from, which one wins, what is refused.
#include "client/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/dynatask-conf-XXXXXX";
static dti_conf conf;
static uint8_t source[DTI_OPTIONS_MAX];
static char *url;

// Each test is a process of its own: an empty folder, and no DYNATASK_ names.
static void begin(void) {
    cr_assert(mkdtemp(folder) != NULL);
    cr_assert(eq(int, chdir(folder), 0));
    extern char **environ;
    for (char **e = environ; *e;)
        if (!strncmp(*e, "DYNATASK_", 9)) {
            char *name = strndup(*e, strcspn(*e, "="));
            unsetenv(name);
            free(name);
            e = environ;
        } else e++;
}

static void end(void) {
    unlink("dynatask.toml");
    unlink("pyproject.toml");
    rmdir(folder);
    free(url);
}

static void file(const char *name, const char *text) {
    FILE *f = fopen(name, "w");
    cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

static dtask_err load(const char *from, const char *const *opts) {
    free(url);
    url = NULL;
    return dti_conf_load(from, opts, &conf, source, &url);
}

static int place(const char *name) {
    for (size_t i = 0; dti_conf_name(i); i++)
        if (!strcmp(dti_conf_name(i), name)) return source[i];
    return -1;
}

TestSuite(conf, .init = begin, .fini = end);

Test(conf, defaults) {
    cr_assert(eq(int, load(NULL, NULL), 0), "%s", dtask_err_detail());
    cr_assert(eq(str, url, "sqlite:jobs.db"));
    cr_assert(conf.lease_us == 15000000 && conf.grace_us == 30000000 && conf.engine_timeout_us == 30000000);
    cr_assert(conf.max_parked == 10000 && conf.max_payload == 64 << 20 && conf.blob_min == 64 << 10 && conf.max_depth == 10000);
    cr_assert(conf.keep == DTI_KEEP_FAILED && !conf.counts && !conf.full && conf.retain_us == 86400000000);
    cr_assert(eq(int, place("lease"), DTI_SRC_DEFAULT));
}

Test(conf, later_places_win) {
    const char *const *opts = DTASK_OPTS("lease", "1", "grace", "1", "retain", "1", "prefetch", "1");
    file("dynatask.toml", "grace = 2\nretain = '2s'\nprefetch = 2 # two\nkeep = \"all\"\n");
    setenv("DYNATASK_RETAIN", "3", 1);
    cr_assert(eq(int, load("memory:?prefetch=9&max_tasks=9&lease=9", opts), 0), "%s", dtask_err_detail());
    cr_assert(eq(str, url, "memory:"));
    cr_assert(conf.lease_us == 1000000 && conf.grace_us == 2000000 && conf.retain_us == 3000000);
    cr_assert(conf.prefetch == 2 && conf.max_tasks == 9 && conf.keep == DTI_KEEP_ALL);
    cr_assert(eq(int, place("lease"), DTI_SRC_CODE));
    cr_assert(eq(int, place("grace"), DTI_SRC_FILE));
    cr_assert(eq(int, place("retain"), DTI_SRC_ENV));
    cr_assert(eq(int, place("max_tasks"), DTI_SRC_URL));
    cr_assert(eq(int, place("url"), DTI_SRC_CODE));
}

Test(conf, a_parameter_counts_as_its_url) {
    file("dynatask.toml", "url = \"memory:f?lease=4&grace=4\"\nlease = 5\n");
    cr_assert(eq(int, load("memory:c?retain=7", DTASK_OPTS("grace", "1")), 0));
    cr_assert(eq(str, url, "memory:f"));
    cr_assert(conf.lease_us == 5000000 && conf.grace_us == 4000000 && conf.retain_us == 86400000000);
    setenv("DYNATASK_URL", "memory:e?lease=6", 1);
    cr_assert(eq(int, load("memory:c", NULL), 0));
    cr_assert(eq(str, url, "memory:e"));
    cr_assert(conf.lease_us == 6000000 && conf.grace_us == 30000000);
}

Test(conf, a_workers_options_rank_with_the_code) {
    file("dynatask.toml", "slots = 3\n");
    cr_assert(eq(int, load("memory:?prefetch=5", DTASK_OPTS("lease", "1")), 0));
    cr_assert(eq(int, dti_conf_worker(&conf, source, DTASK_OPTS("slots", "9", "lease", "2", "prefetch", "6")), 0));
    cr_assert(conf.slots == 3 && conf.lease_us == 2000000 && conf.prefetch == 6);
    cr_assert(eq(int, dti_conf_worker(&conf, source, DTASK_OPTS("lease", "3", "slot", "9")), DTASK_EARGS));
    cr_assert(conf.lease_us == 2000000); // nothing of a refused list
}

Test(conf, a_worker_refuses_what_is_the_apps) {
    static const char *const own[] = {"slots", "prefetch", "lease", "grace", "max_parked", "types"};
    cr_assert(eq(int, load("memory:", NULL), 0));
    for (size_t i = 0; dti_conf_name(i); i++) {
        const char *name = dti_conf_name(i);
        bool its = false;
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) its |= !strcmp(own[k], name);
        if (!strcmp(name, "kafka")) name = "kafka.any";
        dtask_err err = dti_conf_worker(&conf, source, DTASK_OPTS(name, "1"));
        cr_assert(eq(int, err, its ? 0 : DTASK_EARGS), "%s", name);
        if (!its) cr_assert(strstr(dtask_err_detail(), name) && strstr(dtask_err_detail(), "the app's"), "%s", dtask_err_detail());
    }
}

Test(conf, an_option_given_twice) {
    cr_assert(eq(int, load("memory:", DTASK_OPTS("lease", "1", "grace", "1", "lease", "1")), DTASK_EARGS));
    cr_assert(strstr(dtask_err_detail(), "lease is given twice") != NULL, "%s", dtask_err_detail());
    cr_assert(eq(int, load("memory:", DTASK_OPTS("kafka.a", "1", "kafka.a", "2")), DTASK_EARGS));
    cr_assert(eq(int, load("memory:", DTASK_OPTS("kafka.a", "1", "kafka.b", "2")), 0));
    cr_assert(eq(int, dti_conf_worker(&conf, source, DTASK_OPTS("slots", "1", "slots", "2")), DTASK_EARGS));
    cr_assert(strstr(dtask_err_detail(), "slots is given twice") != NULL);
}

Test(conf, pyproject_has_a_table) {
    file("pyproject.toml",
        "[build-system]\nrequires = [\n  \"a]\", # ]\n  'b',\n]\nx = { y = [1, 2], z = \"}\" }\n[tool.other]\nlease = 99\ntext = \"\"\"\n"
        "[tool.dynatask]\nlease = 98\n\"\"\"\n[[tool.list]]\nwhen = 2020-01-01T00:00:00Z\n[tool.dynatask]\nlease = 1_0\nhistory = 'counts'\n"
        "[tool.more]\nlease = 97\n");
    cr_assert(eq(int, load(NULL, NULL), 0), "%s", dtask_err_detail());
    cr_assert(conf.lease_us == 10000000 && conf.counts);
    file("dynatask.toml", ""); // it goes before, and alone
    cr_assert(eq(int, load(NULL, NULL), 0));
    cr_assert(conf.lease_us == 15000000);
}

Test(conf, unknown_names_are_errors_everywhere) {
    cr_assert(eq(int, load(NULL, DTASK_OPTS("leese", "1")), DTASK_EARGS));
    cr_assert(strstr(dtask_err_detail(), "\"leese\"") != NULL);
    cr_assert(eq(int, load("memory:?leese=1", NULL), DTASK_EARGS));
    cr_assert(eq(int, load("memory:?url=1", NULL), DTASK_EARGS));
    file("dynatask.toml", "\n\nleese = 1\n");
    cr_assert(eq(int, load(NULL, NULL), DTASK_EARGS));
    cr_assert(strstr(dtask_err_detail(), "dynatask.toml, line 3") != NULL, "%s", dtask_err_detail());
    unlink("dynatask.toml");
    setenv("DYNATASK_LEESE", "1", 1);
    cr_assert(eq(int, load(NULL, NULL), DTASK_EARGS));
    cr_assert(strstr(dtask_err_detail(), "DYNATASK_LEESE") != NULL);
}

Test(conf, values_that_do_not_fit) {
    static const char *const bad[][2] = {
        {"lease", "soon"}, {"lease", "-1"}, {"lease", "0"}, {"slots", "1.5"}, {"slots", "100000"}, {"max_payload", "64MB"}, {"keep", "some"},
        {"history", ""}, {"durability", "FULL"}, {"max_depth", "0"}, {"log", "loud"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert(eq(int, load(NULL, DTASK_OPTS(bad[i][0], bad[i][1])), DTASK_EARGS), "%s=%s", bad[i][0], bad[i][1]);
        cr_assert(strstr(dtask_err_detail(), bad[i][0]) != NULL, "%s", dtask_err_detail());
    }
    cr_assert(eq(int, load(NULL, (const char *const[]){"lease", NULL, NULL}), DTASK_EARGS));
    file("dynatask.toml", "lease = 5\n"); // a wrong one is told even where another wins
    cr_assert(eq(int, load(NULL, DTASK_OPTS("lease", "soon")), DTASK_EARGS));
}

Test(conf, malformed_urls) {
    static const char *const bad[] = {"", "jobs.db", ":x", "memory:?lease", "memory:?=1", "memory:?lease=%zz", "memory:?lease=1&lease=2",
        "memory:?lease=%00", "memory:?lease=1&&grace=2", "SQLITE:x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert(eq(int, load(bad[i], NULL), DTASK_EARGS), "%s", bad[i]);
    cr_assert(eq(int, load("memory:a?lease=%31", NULL), 0));
    cr_assert(conf.lease_us == 1000000);
}

Test(conf, malformed_files) {
    static const char *const bad[] = {"lease\n", "= 1\n", "lease = \n", "lease = [1]\n", "lease = {a = 1}\n", "lease = \"1\n", "lease = 1 2\n",
        "[table]\nlease = 1\n", "lease = 1\nlease = 2\n", "lease = 2020-01-01\n", "types = \"\\q\"\n", "lease = nonsense\n", "types = '''a\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        file("dynatask.toml", bad[i]);
        cr_assert(eq(int, load(NULL, NULL), DTASK_EARGS), "%s", bad[i]);
        cr_assert(strstr(dtask_err_detail(), "dynatask.toml, line") != NULL, "%s: %s", bad[i], dtask_err_detail());
    }
    static const char *const good[] = {"types = \"a,\\u00e9\\n\"\r\n", "\xef\xbb\xbf# only this", "lease=1", "\"lease\" = 1\n", "types = \"\"\"a\"\"\"\"\n"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        file("dynatask.toml", good[i]);
        cr_assert(eq(int, load(NULL, NULL), 0), "%s: %s", good[i], dtask_err_detail());
    }
}

Test(conf, toml_takes_any_bytes) {
    uint64_t x = 0x9e3779b97f4a7c15u;
    static const char signs[] = "[]{}\"'=.,#\\\n ab1u_-\t\"\"'''[[";
    for (int round = 0; round < 300; round++) {
        char text[64];
        for (size_t i = 0; i < sizeof text - 1; i++) x = x * 6364136223846793005u + 1442695040888963407u, text[i] = signs[(x >> 33) % (sizeof signs - 1)];
        text[sizeof text - 1] = 0;
        file("pyproject.toml", text);
        dtask_err err = load(NULL, NULL);
        cr_assert(err == 0 || err == DTASK_EARGS);
    }
}

Test(conf, what_a_value_may_be_is_told) {
    static const struct { const char *name, *value, *told; } all[] = {
        {"slots", "0", "give a whole number, from 1 to 1024 ("},
        {"lease", "0.01", "5m, 2h, 1d, from 0.1 to 86400 s ("},
        {"max_payload", "1", "64MiB, from 1024 to 1073741824 bytes ("},
        {"keep", "some", "give one of failed, all, root ("},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        cr_assert(eq(int, load("memory:", DTASK_OPTS(all[i].name, all[i].value)), DTASK_EARGS));
        cr_assert(strstr(dtask_err_detail(), all[i].told) != NULL, "%s", dtask_err_detail());
    }
}

Test(conf, what_is_shown) {
    dti_buf b = {0};
    cr_assert(eq(int, load("memory:", DTASK_OPTS("lease", "2.5", "keep", "root")), 0));
    dti_conf_put(&b, &conf, source, url);
    dtask_str all = dti_str(b.p, b.n), text;
    cr_assert(eq(int, dti_mp_check(all, "it"), 0));
    double f;
    for (uint32_t i = 0; dti_conf_name(i); i++) {
        dtask_str row = dti_mp_at(all, i);
        cr_assert(dti_mp_text(dti_mp_at(row, 0), &text) && dti_str_eq(text, dti_strz(dti_conf_name(i))));
        if (!strcmp(dti_conf_name(i), "lease")) {
            cr_assert(dti_mp_float(dti_mp_at(row, 1), &f) && f == 2.5);
            cr_assert(dti_mp_text(dti_mp_at(row, 2), &text) && dti_str_eq(text, dti_strz("code")));
            cr_assert(dti_mp_float(dti_mp_at(row, 3), &f) && f == 15);
            cr_assert(dti_mp_text(dti_mp_at(row, 5), &text) && dti_str_eq(text, dti_strz("s")));
        }
        if (!strcmp(dti_conf_name(i), "keep")) cr_assert(dti_mp_text(dti_mp_at(row, 1), &text) && dti_str_eq(text, dti_strz("root")));
        if (!strcmp(dti_conf_name(i), "slots")) cr_assert(dti_str_eq(dti_mp_at(row, 1), dti_strz("\xc0"))); // nil: not given
        if (!strcmp(dti_conf_name(i), "blob_min")) cr_assert(dti_mp_text(dti_mp_at(row, 5), &text) && dti_str_eq(text, dti_strz("bytes")));
        if (!strcmp(dti_conf_name(i), "url")) cr_assert(dti_mp_text(dti_mp_at(row, 1), &text) && dti_str_eq(text, dti_strz("memory:")));
    }
    dti_buf_done(&b);
}

// Whatever a password has in it, and wherever it was cut.
Test(conf, no_error_shows_a_part_of_a_password) {
    static const char *const urls[] = {
        "redis://:ab?s3cret@host/0", "redis://:ab&s3cret?x@host/0", "redis://:ab?s3cret=1@host/0", "redis://:ab?slots=s3cret@host/0",
        "redis://u:ab?lease=1&s3cret=2@host/0", "redis://u:ab?%s3cret=2@host/0", "kafka://h?store=redis://:p&s3cret@h",
        "kafka://h?store=redis://h&kafka.sasl.password=a&s3cret", "kafka://h?kafka.sasl.password=a&s3cret=b", "nosuch:u:s3/cret@h",
        "kafka://h?kafka.sasl.password=a&slots=s3cret", "u:s3cret@h", "redis://u:s3cret/more@h/0?inline=1", "redis://u:s3cret@h/0?inline=1",
    };
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        dtask_err err = load(urls[i], NULL);
        cr_assert(err || *urls[i] == 'n' || *urls[i] == 'u', "%s", urls[i]); // their scheme is the engine's to refuse
        bool shown = err && (strstr(dtask_err_detail(), "s3") || strstr(dtask_err_detail(), "cret@"));
        cr_assert(not(shown), "%s: %s", urls[i], dtask_err_detail());
    }
    char shown[200];
    dti_url_show("redis://u:a/b@c?d@host/0", shown, sizeof shown);
    cr_assert(eq(str, shown, "redis://u:***@host/0"));
    dti_url_show("sqlite:a@b/x:y@z.db", shown, sizeof shown);
    cr_assert(eq(str, shown, "sqlite:a@b/x:y@z.db"));
    char store[1200] = "kafka://h?store=redis://:s3cret";
    memset(store + strlen(store), 'x', 1100);
    strcpy(store + 1130, "@h");
    cr_assert(eq(int, load(store, NULL), DTASK_EARGS));
    cr_assert(not(strstr(dtask_err_detail(), "s3cret") != NULL), "%s", dtask_err_detail());
}
