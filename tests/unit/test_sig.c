// sig.c and units.c: the texts by which handlers and options are written.
#include "client/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

static dti_arena arena;

static dti_sig *sig(const char *text) {
    dti_sig *s = NULL;
    cr_assert(eq(int, dti_sig_parse(&arena, text, &s), 0), "%s: %s", text, dtask_err_detail());
    return s;
}

static dtask_str option(const dti_sig *s, const char *name) {
    return dti_mp_get(dti_str(s->options, s->options_n), name);
}

Test(sig, a_whole_one) {
    dti_sig *s = sig("path:s offset:i  size:u? -> i ; retries=3 timeout=1m backoff=1,5,30");
    cr_assert(s->nparams == 3 && !strcmp(s->params[1].name, "offset") && s->params[1].type == 'i');
    cr_assert(s->params[2].optional && !s->params[0].optional);
    cr_assert(s->nresults == 1 && s->results[0].type == 'i');
    cr_assert(eq(str, (char *)s->text, "path:s offset:i size:u? -> i"));
    int64_t n;
    double f;
    dtask_str text;
    cr_assert(dti_mp_int(option(s, "retries"), &n) && n == 3);
    cr_assert(dti_mp_float(option(s, "timeout"), &f) && f == 60);
    cr_assert(dti_mp_float(dti_mp_at(option(s, "backoff"), 2), &f) && f == 30);
    cr_assert(dti_mp_text(option(s, "language"), &text) && text.n == 1);
    cr_assert(eq(int, dti_mp_check(dti_str(s->options, s->options_n), "options"), 0));
    dti_arena_done(&arena);
}

Test(sig, small_ones) {
    cr_assert(eq(u32, sig("")->nparams, 0));
    cr_assert(eq(u32, sig("-> n")->nresults, 1));
    cr_assert(eq(u32, sig("-> lines:i words:i")->nresults, 2));
    cr_assert(sig("* -> v")->any);
    cr_assert(eq(str, (char *)sig("; unique=yes limit=4 priority=-2 crashes=0 version=2")->text, ""));
    dti_arena_done(&arena);
}

Test(sig, malformed_ones_name_the_place) {
    static const struct { const char *text, *says; } bad[] = {
        {"path", "place 5"}, {"path:x", "place 6"}, {"path:ss", "place 6"}, {":s", "place 1"}, {"a:i a:s", "this name"},
        {"a:i? b:i", "optional"}, {"a:i ->", "result"}, {"a:i - i", "->"}, {"a:i -> q", "result"}, {"* a:i", "alone"}, {"a:i *", "alone"},
        {"; retries", "name=value"}, {"; retries=x", "place 3"}, {"; retries=-1", "does not fit"}, {"; speed=3", "options are"},
        {"; retries=1 retries=2", "twice"}, {"; priority=3", "does not fit"}, {"; timeout=1y", "does not fit"},
        {"; backoff=1,,2", "does not fit"}, {"; =3", "name=value"}, {"a:i b", "name:type"}, {"; unique=perhaps", "does not fit"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dti_sig *s;
        cr_assert(eq(int, dti_sig_parse(&arena, bad[i].text, &s), DTASK_EARGS), "%s", bad[i].text);
        cr_assert(strstr(dtask_err_detail(), bad[i].says) != NULL, "%s: %s", bad[i].text, dtask_err_detail());
    }
    char many[400] = "";
    for (int i = 0; i < 33; i++) sprintf(many + strlen(many), "p%d:i ", i);
    dti_sig *s;
    cr_assert(eq(int, dti_sig_parse(&arena, many, &s), DTASK_EARGS));
    dti_arena_done(&arena);
}

Test(sig, equality_is_of_names_kinds_and_result) {
    cr_assert(dti_sig_equal(sig("a:i -> s"), sig("a:i   -> s; retries=4")));
    cr_assert(dti_sig_equal(sig("a:v -> s"), sig("a:i -> s")));
    cr_assert(dti_sig_equal(sig("a:u -> u"), sig("a:i -> i")));
    cr_assert(dti_sig_equal(sig("a:i"), sig("a:i -> s")));
    cr_assert(dti_sig_equal(sig("a:i -> v"), sig("a:i -> s i")));
    cr_assert(dti_sig_equal(sig("*"), sig("a:i")));
    cr_assert(not(dti_sig_equal(sig("a:i"), sig("b:i"))));
    cr_assert(not(dti_sig_equal(sig("a:i"), sig("a:s"))));
    cr_assert(not(dti_sig_equal(sig("a:i"), sig("a:i?"))));
    cr_assert(not(dti_sig_equal(sig("a:i"), sig("a:i b:i"))));
    cr_assert(not(dti_sig_equal(sig("-> i"), sig("-> s"))));
    dti_arena_done(&arena);
}

static dtask_err args(const char *signature, const char *fmt, ...) {
    dti_buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    cr_assert(eq(int, dti_fmt_encode(&b, true, NULL, fmt, ap), 0));
    va_end(ap);
    dtask_err err = dti_sig_check_args(sig(signature), "work", dti_str(b.p, b.n));
    dti_buf_done(&b);
    return err;
}

Test(sig, arguments_are_held_to_it) {
    cr_assert(eq(int, 0, args("a:s b:i?", "z", "x")));
    cr_assert(eq(int, 0, args("a:s b:i?", "z n", "x")));
    cr_assert(eq(int, 0, args("*", "z n i", "x", (int64_t)1)));
    cr_assert(eq(int, 0, args("a:f", "i", (int64_t)1)));
    cr_assert(eq(int, DTASK_EARGS, args("a:s b:i", "z", "x")));
    cr_assert(strstr(dtask_err_detail(), "argument b") != NULL);
    cr_assert(eq(int, DTASK_EARGS, args("a:s", "z i", "x", (int64_t)1)));
    cr_assert(strstr(dtask_err_detail(), "takes 1") != NULL);
    cr_assert(eq(int, DTASK_EARGS, args("a:s b:i", "z z", "x", "y")));
    cr_assert(strstr(dtask_err_detail(), "argument b of work must be an integer") != NULL);
    dti_arena_done(&arena);
}

Test(sig, results_are_held_to_it) {
    cr_assert(eq(int, 0, dti_sig_check_result(sig("a:i"), "work", dti_strz("\xc3"))));
    cr_assert(eq(int, 0, dti_sig_check_result(sig("-> i"), "work", dti_strz("\x07"))));
    cr_assert(eq(int, 0, dti_sig_check_result(sig("-> i s"), "work", dti_strz("\x92\x07\xa1x"))));
    cr_assert(eq(int, DTASK_EARGS, dti_sig_check_result(sig("-> i"), "work", dti_strz("\xc0"))));
    cr_assert(eq(int, DTASK_EARGS, dti_sig_check_result(sig("-> i s"), "work", dti_strz("\x92\x07\x07"))));
    cr_assert(eq(int, DTASK_EARGS, dti_sig_check_result(sig("-> i s"), "work", dti_strz("\x07"))));
    dti_arena_done(&arena);
}

Test(units, times) {
    static const struct { const char *text; int64_t us; } good[] = {
        {"0", 0}, {"1.5", 1500000}, {"250ms", 250000}, {"90s", 90000000}, {"5m", 300000000}, {"2h", 7200000000}, {"1d", 86400000000},
        {"1e-05", 10}, {".5", 500000}, {"1700000000.123456", 1700000000123456},
    };
    static const char *const bad[] = {"", "x", "-1", "1x", "1 s", " 1", "1s ", "0x10", "inf", "nan", "1e400", "1,5", "s", "."};
    int64_t us;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_assert(dti_text_us(good[i].text, &us) && us == good[i].us, "%s", good[i].text);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) cr_assert(not(dti_text_us(bad[i], &us)), "%s", bad[i]);
}

Test(units, sizes_integers_booleans) {
    uint64_t n;
    int64_t i;
    bool b;
    double f;
    cr_assert(dti_text_size("64KiB", &n) && n == 65536);
    cr_assert(dti_text_size("1.5MiB", &n) && n == 1572864);
    cr_assert(dti_text_size("0", &n) && n == 0);
    cr_assert(not(dti_text_size("64KB", &n)));
    cr_assert(not(dti_text_size("0.3", &n)));
    cr_assert(not(dti_text_size("-1", &n)));
    cr_assert(dti_text_int("-12", &i) && i == -12);
    cr_assert(not(dti_text_int("1.0", &i)));
    cr_assert(not(dti_text_int("", &i)));
    cr_assert(not(dti_text_int("99999999999999999999", &i)));
    cr_assert(dti_text_bool("Yes", &b) && b);
    cr_assert(not(dti_text_bool("2", &b)));
    cr_assert(dti_text_float("-2.5", &f) && f == -2.5);
    cr_assert(not(dti_text_float("--1", &f)));
}
