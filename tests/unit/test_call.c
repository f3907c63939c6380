// call.c, types.c, error.c: how a call becomes a row, without an engine.
#include "client/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static dti_arena arena;
static dti_engine engine = {.salt = 42};
static dtask_app app = {.engine = &engine, .conf.max_payload = 1024};

static bool says(const char *part) {
    return strstr(dtask_err_detail(), part) != NULL;
}

// msgpack from a format.
static dtask_str mp(const char *fmt, ...) {
    dti_buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    cr_assert(eq(int, dti_fmt_encode(&b, true, NULL, fmt, ap), 0), "%s", dtask_err_detail());
    va_end(ap);
    dtask_str s = dti_dup(&arena, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return s;
}

// A map of one option.
static dtask_str one(const char *name, dtask_str value) {
    dti_buf b = {0};
    dti_mp_put_map(&b, 1);
    dti_mp_put_strz(&b, name);
    dti_mp_put_raw(&b, value);
    dtask_str s = dti_dup(&arena, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return s;
}

static const dti_typeinfo *type(const char *name, const char *signature, dtask_str options) {
    dti_typeinfo *t = NULL;
    cr_assert(eq(int, dti_type_parse(&arena, 7, 1, dti_strz(name), dti_strz(signature), options, &t), 0), "%s", dtask_err_detail());
    return t;
}

static dtask_err make(const dti_typeinfo *t, const char *const *opts, dtask_str args, dtask_str hashed, dti_new *out) {
    dti_callopts o;
    dtask_err err = dti_callopts_parse(&arena, opts, false, &o);
    return err ? err : dti_call_make(&app, &arena, t, &o, args, hashed, out);
}

static dti_new call(const dti_typeinfo *t, const char *const *opts, dtask_str args) {
    dti_new n;
    cr_assert(eq(int, make(t, opts, args, (dtask_str){0}, &n), 0), "%s", dtask_err_detail());
    return n;
}

static bool same(const uint64_t a[2], const uint64_t b[2]) {
    return a[0] == b[0] && a[1] == b[1];
}

Test(call, hash_is_of_type_and_arguments) {
    const dti_typeinfo *a = type("a", NULL, (dtask_str){0}), *b = type("b", NULL, (dtask_str){0});
    dti_new x = call(a, NULL, mp("i", (int64_t)1)), y = call(a, DTASK_OPTS("retries", "3", "delay", "5"), mp("i", (int64_t)1));
    cr_assert(same(x.call, y.call)); // not of the options
    cr_assert(not(same(x.call, call(a, NULL, mp("i", (int64_t)2)).call)));
    cr_assert(not(same(x.call, call(b, NULL, mp("i", (int64_t)1)).call)));
    // As proto/values.md writes it down.
    dti_hash h = dti_hash128("a\0\x91\x01", 4, 42);
    cr_assert(same(x.call, h.h));
    engine.salt = 43;
    cr_assert(not(same(x.call, call(a, NULL, mp("i", (int64_t)1)).call)));
    dti_arena_done(&arena);
}

Test(call, an_option_given_twice) {
    dti_callopts o;
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("retries", "3", "delay", "5", "retries", "3"), false, &o), DTASK_EARGS));
    cr_assert(says("retries is given twice"), "%s", dtask_err_detail());
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("tag.a", "1", "tag.b", "2", "tag.a", "1"), true, &o), DTASK_EARGS));
    cr_assert(says("tag.a is given twice"), "%s", dtask_err_detail());
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("tag.a", "1", "tag.b", "1"), true, &o), 0));
    dti_arena_done(&arena);
}

Test(call, hash_of_a_key_is_of_that_alone) {
    const dti_typeinfo *a = type("a", NULL, (dtask_str){0}), *b = type("b", NULL, (dtask_str){0});
    const char *const *key = DTASK_OPTS("key", "k");
    dti_new x = call(a, key, mp("i", (int64_t)1));
    cr_assert(same(x.call, call(b, key, mp("i", (int64_t)2)).call)); // the row's type tells them apart
    cr_assert(not(same(x.call, call(a, DTASK_OPTS("key", "l"), mp("i", (int64_t)1)).call)));
    cr_assert(dti_str_eq(x.args, mp("i", (int64_t)1)));
    dti_arena_done(&arena);
}

Test(call, hash_of_what_the_caller_says) {
    const dti_typeinfo *a = type("a", NULL, (dtask_str){0});
    dti_new x, y;
    cr_assert(eq(int, 0, make(a, NULL, mp("i", (int64_t)1), dti_strz("deps"), &x)));
    cr_assert(eq(int, 0, make(a, NULL, mp("i", (int64_t)2), dti_strz("deps"), &y)));
    cr_assert(same(x.call, y.call));
    cr_assert(dti_str_eq(y.args, mp("i", (int64_t)2)));
    dti_arena_done(&arena);
}

Test(call, policy_is_the_types_unless_the_call_says) {
    const dti_typeinfo *t = type("a", "; retries=2 timeout=1.5 priority=1 crashes=0 expires=10", (dtask_str){0});
    t = type("a", "", dti_str(t->sig->options, t->sig->options_n));
    dti_new x = call(t, NULL, mp(""));
    cr_assert(x.retries == 2 && x.timeout_ms == 1500 && x.prio == 1 && x.crashes == 0 && x.type == 7 && x.expires > dti_wall_us());
    x = call(t, DTASK_OPTS("retries", "0", "timeout", "1ms", "priority", "-2", "expires", "0", "may_fail", "1"), mp(""));
    cr_assert(x.retries == 0 && x.timeout_ms == 1 && x.prio == -2 && x.expires == 0 && x.may_fail);
    dti_arena_done(&arena);
}

Test(call, times) {
    const dti_typeinfo *t = type("a", NULL, (dtask_str){0});
    int64_t before = dti_wall_us();
    dti_new x = call(t, DTASK_OPTS("delay", "10", "expires", "5"), mp(""));
    cr_assert(x.due >= before + 10000000 && x.expires == x.due + 5000000); // it must begin so long after it could
    cr_assert(eq(i64, call(t, DTASK_OPTS("at", "4000000000.5"), mp("")).due, 4000000000500000));
    cr_assert(eq(i64, call(t, DTASK_OPTS("at", "1000000000"), mp("")).due, 0));
    cr_assert(eq(i64, call(t, DTASK_OPTS("delay", "0"), mp("")).due, 0));
    dti_arena_done(&arena);
}

Test(call, options_that_are_wrong) {
    static const char *const bad[][4] = {
        {"speed", "1"}, {"delay", "-1"}, {"priority", "3"}, {"retries", "-1"}, {"timeout", "soon"}, {"may_fail", "maybe"}, {"id", "x"},
        {"tag.a", "x"}, {"key", ""}, {"delay", "1", "at", "1"}, {"timeout", "60d"}, {"after", "x"},
    };
    dti_callopts o;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS(bad[i][0], bad[i][1], bad[i][2], bad[i][3]), false, &o), DTASK_EARGS), "%s", bad[i][0]);
        cr_assert(says(bad[i][0]), "%s", dtask_err_detail());
    }
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("key", "x"), true, &o), DTASK_EARGS));
    cr_assert(eq(int, dti_callopts_parse(&arena, (const char *const[]){"delay", NULL}, true, &o), DTASK_EARGS));
    cr_assert(says("no value"));
    dti_arena_done(&arena);
}

Test(call, tags) {
    dti_callopts o;
    dtask_str text;
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("tag.who", "me", "id", "j", "tag.why", "x"), true, &o), 0));
    cr_assert(dti_mp_text(dti_mp_get(o.tags, "why"), &text) && dti_str_eq(text, dti_strz("x")));
    cr_assert(dti_str_eq(o.id, dti_strz("j")));
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("tag.who", "\xff"), true, &o), DTASK_EARGS));
    char big[5000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    cr_assert(eq(int, dti_callopts_parse(&arena, DTASK_OPTS("tag.who", big), true, &o), DTASK_ETOOBIG));
    dti_arena_done(&arena);
}

Test(call, arguments_are_checked_before_anything) {
    const dti_typeinfo *t = type("count", "text:s -> i", (dtask_str){0});
    dti_new n;
    char big[2000] = {0};
    cr_assert(eq(int, make(t, NULL, mp("i", (int64_t)1), (dtask_str){0}, &n), DTASK_EARGS));
    cr_assert(says("text of count must be text"));
    cr_assert(eq(int, make(t, NULL, mp(""), (dtask_str){0}, &n), DTASK_EARGS));
    cr_assert(eq(int, make(t, NULL, dti_strz("\x01"), (dtask_str){0}, &n), DTASK_EARGS));
    cr_assert(eq(int, make(type("t", NULL, (dtask_str){0}), NULL, mp("y", dti_str(big, sizeof big)), (dtask_str){0}, &n), DTASK_ETOOBIG));
    cr_assert(says("max_payload"));
    dti_arena_done(&arena);
}

// {"limit": [{"n": 2, "key": "host"}, {"n": 10, "key": ["host"], "per": 1}], "unique": {"key": "url", "scope": "job", "until": "run"}}
static dtask_str crawl_options(void) {
    dti_buf b = {0};
    dti_mp_put_map(&b, 2);
    dti_mp_put_strz(&b, "limit");
    dti_mp_put_array(&b, 2);
    dti_mp_put_map(&b, 2);
    dti_mp_put_strz(&b, "n"), dti_mp_put_int(&b, 2);
    dti_mp_put_strz(&b, "key"), dti_mp_put_strz(&b, "host");
    dti_mp_put_map(&b, 4);
    dti_mp_put_strz(&b, "n"), dti_mp_put_int(&b, 10);
    dti_mp_put_strz(&b, "key"), dti_mp_put_array(&b, 1), dti_mp_put_strz(&b, "host");
    dti_mp_put_strz(&b, "per"), dti_mp_put_int(&b, 1);
    dti_mp_put_strz(&b, "over"), dti_mp_put_strz(&b, "fail");
    dti_mp_put_strz(&b, "unique");
    dti_mp_put_map(&b, 3);
    dti_mp_put_strz(&b, "key"), dti_mp_put_strz(&b, "url");
    dti_mp_put_strz(&b, "scope"), dti_mp_put_strz(&b, "job");
    dti_mp_put_strz(&b, "until"), dti_mp_put_strz(&b, "run");
    dtask_str s = dti_dup(&arena, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return s;
}

Test(call, keys_of_limits_and_unique) {
    const dti_typeinfo *t = type("page", "url:s host:s", crawl_options());
    dti_new x = call(t, NULL, mp("z z", "u1", "a.org")), y = call(t, NULL, mp("z z", "u2", "a.org")), z = call(t, NULL, mp("z z", "u1", "b.org"));
    cr_assert(eq(u32, x.nkeys, 3));
    cr_assert(x.keys[0].kind == DTI_KEY_UNIQUE && x.keys[0].scope == 1 && x.keys[0].until == DTI_UNTIL_RUN && x.keys[0].over == DTI_OVER_JOIN);
    cr_assert(x.keys[1].kind == DTI_KEY_LIMIT && x.keys[1].max == 2 && x.keys[1].over == DTI_OVER_QUEUE);
    cr_assert(x.keys[2].per_us == 1000000 && x.keys[2].over == DTI_OVER_FAIL);
    cr_assert(not(same(x.keys[0].h, y.keys[0].h)));
    cr_assert(same(x.keys[1].h, y.keys[1].h));
    cr_assert(not(same(x.keys[1].h, x.keys[2].h))); // n at once, and n a second: two counters
    cr_assert(same(x.keys[0].h, z.keys[0].h));
    cr_assert(not(same(x.keys[1].h, z.keys[1].h)));
    cr_assert(not(same(x.keys[1].h, call(type("other", "url:s host:s", crawl_options()), NULL, mp("z z", "u1", "a.org")).keys[1].h)));
    // An argument that is not there yet cannot be a key.
    dti_buf b = {0};
    dti_mp_put_array(&b, 2);
    dti_mp_put_strz(&b, "u");
    dti_mp_put_ext(&b, DTASK_B_EXT_OUTPUT, dti_str("\0\0\0\0", 4));
    dti_new n;
    cr_assert(eq(int, make(t, NULL, dti_str(b.p, b.n), (dtask_str){0}, &n), DTASK_EARGS));
    cr_assert(says("host of page"));
    dti_buf_done(&b);
    dti_arena_done(&arena);
}

Test(call, unique_of_a_call_takes_the_place_of_its_types) {
    const dti_typeinfo *t = type("page", "url:s host:s", crawl_options()), *plain = type("page", "url:s host:s", (dtask_str){0});
    dtask_str args = mp("z z", "u1", "a.org");
    dti_new own = call(t, NULL, args), x = call(t, DTASK_OPTS("unique", "false"), args);
    cr_assert(x.nkeys == 2 && x.keys[0].kind == DTI_KEY_LIMIT);
    x = call(t, DTASK_OPTS("unique", "key=url scope=job until=run"), args);
    cr_assert(x.nkeys == 3 && x.keys[0].kind == DTI_KEY_UNIQUE && x.keys[1].kind == DTI_KEY_LIMIT);
    cr_assert(same(x.keys[0].h, own.keys[0].h)); // the key of those without the option
    x = call(plain, DTASK_OPTS("unique", "true"), args);
    cr_assert(x.nkeys == 1 && x.keys[0].scope == 0 && x.keys[0].until == DTI_UNTIL_END && x.keys[0].over == DTI_OVER_JOIN);
    cr_assert(same(x.keys[0].h, call(plain, DTASK_OPTS("unique", "key=*  same=false"), args).keys[0].h));
    x = call(plain, DTASK_OPTS("unique", "key=host,url keep=1m over=raise same=yes"), args);
    cr_assert(x.keys[0].keep_us == 60000000 && x.keys[0].over == DTI_OVER_RAISE && x.keys[0].same);
    dti_new n;
    static const char *const bad[] = {"", " ", "maybe", "key=nosuch", "key=url,", "key=,url", "scope=all", "keep=-1", "keep=", "same=", "over", "=", "n=1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert(eq(int, make(plain, DTASK_OPTS("unique", bad[i]), args, (dtask_str){0}, &n), DTASK_EARGS), "%s", bad[i]);
        cr_assert(says("unique"));
    }
    dti_arena_done(&arena);
}

Test(types, plain_forms_of_limit_and_unique) {
    const dti_typeinfo *t = type("a", "", one("limit", dti_strz("\x04")));
    cr_assert(t->nkeys == 1 && t->keys[0].spec.max == 4 && !t->keys[0].all && t->keys[0].nparams == 0);
    t = type("a", "", one("unique", dti_strz("\xc3")));
    cr_assert(t->nkeys == 1 && t->keys[0].all && t->keys[0].spec.kind == DTI_KEY_UNIQUE);
    t = type("a", "", one("unique", dti_strz("\xc2")));
    cr_assert(eq(u32, t->nkeys, 0));
    dti_arena_done(&arena);
}

Test(types, options_that_are_wrong) {
    static const struct { const char *name, *value, *says; } bad[] = {
        {"retries", "\xff", "retries"}, {"timeout", "\xa1x", "timeout"}, {"priority", "\x03", "priority"}, {"backoff", "\xa1x", "backoff"},
        {"backoff", "\x90", "backoff"}, {"limit", "\xff", "limit"}, {"limit", "\xa1x", "limit"}, {"unique", "\x05", "unique"},
        {"min_version", "\xff", "min_version"}, {"params", "\x91\x01", "parameters"},
        {"limit", "\x82\xa1n\x01\xa3key\xa4host", "limit"}, {"unique", "\x81\xa5scope\xa1x", "unique"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dti_typeinfo *t;
        cr_assert(eq(int, dti_type_parse(&arena, 1, 1, dti_strz("t"), (dtask_str){0}, one(bad[i].name, dti_strz(bad[i].value)), &t), DTASK_EARGS), "%zu", i);
        cr_assert(says(bad[i].says), "%s", dtask_err_detail());
    }
    dti_typeinfo *t;
    cr_assert(eq(int, dti_type_parse(&arena, 1, 1, dti_strz("t"), (dtask_str){0}, dti_strz("\x01"), &t), DTASK_EARGS));
    cr_assert(eq(int, dti_type_parse(&arena, 1, 1, dti_strz("count"), dti_strz("a"), (dtask_str){0}, &t), DTASK_EARGS));
    cr_assert(says("Type count: The signature \"a\""), "%s", dtask_err_detail());
    dti_arena_done(&arena);
}

Test(types, backoff) {
    const dti_typeinfo *t = type("a", NULL, (dtask_str){0}); // 1, 2, 4, .. 300 s with full jitter
    cr_assert(eq(i64, dti_backoff_us(&t->backoff, 1, 0), 0));
    for (uint32_t tries = 1; tries < 40; tries++) {
        int64_t most = tries < 10 ? 1000000ll << (tries - 1) : 300000000;
        if (most > 300000000) most = 300000000;
        cr_assert(dti_backoff_us(&t->backoff, tries, UINT64_MAX) <= most);
        cr_assert(dti_backoff_us(&t->backoff, tries, UINT64_MAX) > most - 2);
        cr_assert(dti_backoff_us(&t->backoff, tries, UINT64_MAX / 2) < most / 2 + 2);
    }
    cr_assert(dti_backoff_us(&t->backoff, UINT32_MAX, UINT64_MAX) <= 300000000);
    t = type("a", "", one("backoff", mp("i f i", (int64_t)1, 0.5, (int64_t)7)));
    cr_assert(dti_backoff_us(&t->backoff, 1, 9) == 1000000 && dti_backoff_us(&t->backoff, 2, 9) == 500000 && dti_backoff_us(&t->backoff, 9, 9) == 7000000);
    t = type("a", "", one("backoff", mp("i i i b", (int64_t)2, (int64_t)3, (int64_t)10, 0)));
    cr_assert(dti_backoff_us(&t->backoff, 1, 9) == 2000000 && dti_backoff_us(&t->backoff, 2, 9) == 6000000 && dti_backoff_us(&t->backoff, 3, 9) == 10000000);
    t = type("a", "", one("backoff", dti_strz("\x03")));
    cr_assert(dti_backoff_us(&t->backoff, 5, 9) == 3000000);
    dti_arena_done(&arena);
}

Test(error, ends_as_data) {
    dti_buf error = {0}, b = {0};
    dti_error_put(&error, "ValueError", dti_strz("no such page"), "python");
    dtask_str result;
    dti_mail good = {.state = DTI_SUCCEEDED, .data = dti_strz("\x05")};
    cr_assert(eq(int, dti_mail_end(&b, dti_strz("j"), &good, &result), 0));
    cr_assert(result.n == 1 && *result.p == 5);
    good.data = (dtask_str){0};
    cr_assert(eq(int, dti_mail_end(&b, dti_strz("j"), &good, &result), 0));
    cr_assert(result.n == 1 && (unsigned char)*result.p == 0xc0); // nil

    dti_mail failed = {.state = DTI_FAILED, .bad = true, .ord = 4, .blame = 4, .attempts = 3, .data = dti_str(error.p, error.n)};
    cr_assert(eq(int, dti_mail_end(&b, dti_strz("c-42"), &failed, &result), DTASK_EFAILED));
    cr_assert(eq(int, dti_mp_check(dti_str(b.p, b.n), "end"), 0));
    cr_assert(eq(int, dti_fail_map(DTASK_EFAILED, dti_str(b.p, b.n)), DTASK_EFAILED));
    cr_assert(eq(str, (char *)dtask_err_detail(), "ValueError: no such page (task c-42/4, 3 attempts)"));

    b.n = 0; // a success with a failed descendant blames that
    dti_mail climbed = {.state = DTI_SUCCEEDED, .bad = true, .ord = 4, .blame = 9, .blame_state = DTI_FAILED, .blame_reason = DTI_R_LOST, .attempts = 4};
    cr_assert(eq(int, dti_mail_end(&b, dti_strz("c"), &climbed, &result), DTASK_EFAILED));
    dti_fail_map(DTASK_EFAILED, dti_str(b.p, b.n));
    cr_assert(says("WorkerLost") && says("c/9"), "%s", dtask_err_detail());

    b.n = 0;
    dti_mail skipped = {.state = DTI_SKIPPED, .reason = DTI_R_EXPIRED, .ord = 1};
    dtask_str text;
    cr_assert(eq(int, dti_mail_end(&b, dti_strz("c"), &skipped, &result), DTASK_ESKIPPED));
    cr_assert(dti_mp_text(dti_mp_get(dti_str(b.p, b.n), "reason"), &text) && dti_str_eq(text, dti_strz("expired")));
    b.n = 0;
    dti_mail cancelled = {.state = DTI_CANCELLED, .ord = 1};
    cr_assert(eq(int, dti_mail_end(&b, dti_strz("c"), &cancelled, &result), DTASK_ECANCELLED));
    dti_buf_done(&b);
    dti_buf_done(&error);
}
