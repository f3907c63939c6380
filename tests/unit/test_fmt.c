// fmt.c: values through FMT and back, and what it refuses.
#include "client/client.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

static dtask_err enc(dti_buf *b, bool as_array, dti_outputs *o, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    dtask_err err = dti_fmt_encode(b, as_array, o, fmt, ap);
    va_end(ap);
    return err;
}

static dtask_err enc_from(dti_buf *b, int64_t first, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    dtask_err err = dti_fmt_encode_from(b, first, NULL, fmt, ap);
    va_end(ap);
    return err;
}

static dtask_err dec(dti_buf *b, bool is_args, const char *const *params, uint32_t n, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    dtask_err err = dti_fmt_decode(dti_str(b->p, b->n), is_args, params, n, fmt, ap);
    va_end(ap);
    return err;
}

static dtask_err dec_map(dti_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    dtask_err err = dti_fmt_decode_map(dti_str(b->p, b->n), fmt, ap);
    va_end(ap);
    return err;
}

static bool says(const char *part) {
    return strstr(dtask_err_detail(), part) != NULL;
}

Test(fmt, all_letters_come_back) {
    dti_buf b = {0};
    cr_assert(eq(int, 0, enc(&b, true, NULL, "i u f b s y v n z", (int64_t)-3, UINT64_MAX, 0.5, 7, dti_strz("text"), dti_str("\0\xff", 2),
        dti_strz("\x2a"), "zero-ended")));
    cr_assert(eq(int, 0, dti_mp_check(dti_str(b.p, b.n), "it")));
    int64_t i;
    uint64_t u;
    double f;
    int t;
    dtask_str s, y, v, z;
    cr_assert(eq(int, 0, dec(&b, true, NULL, 0, "i u f b s y v n s", &i, &u, &f, &t, &s, &y, &v, &z)));
    cr_assert(i == -3 && u == UINT64_MAX && f == 0.5 && t == 1);
    cr_assert(dti_str_eq(s, dti_strz("text")) && y.n == 2 && v.n == 1 && *v.p == 42 && dti_str_eq(z, dti_strz("zero-ended")));
    dti_buf_done(&b);
}

Test(fmt, one_value_needs_no_array_and_none_is_nil) {
    dti_buf b = {0};
    cr_assert(eq(int, 0, enc(&b, false, NULL, "i", (int64_t)5)));
    cr_assert(b.n == 1 && b.p[0] == 5);
    b.n = 0;
    cr_assert(eq(int, 0, enc(&b, false, NULL, "")));
    cr_assert(b.n == 1 && (unsigned char)b.p[0] == 0xc0);
    b.n = 0;
    cr_assert(eq(int, 0, enc(&b, true, NULL, NULL)));
    cr_assert(b.n == 1 && (unsigned char)b.p[0] == 0x90);
    b.n = 0;
    cr_assert(eq(int, 0, enc(&b, false, NULL, "i i", (int64_t)1, (int64_t)2)));
    int64_t x, y;
    cr_assert(eq(int, 0, dec(&b, false, NULL, 0, "i i", &x, &y)));
    cr_assert(x == 1 && y == 2);
    dti_buf_done(&b);
}

Test(fmt, names_find_arguments_in_any_order) {
    static const char *const params[] = {"path", "offset"};
    dti_buf b = {0};
    dtask_str path;
    int64_t offset;
    enc(&b, true, NULL, "z i", "a.txt", (int64_t)9);
    cr_assert(eq(int, 0, dec(&b, true, params, 2, "offset:i path:s", &offset, &path)));
    cr_assert(offset == 9 && dti_str_eq(path, dti_strz("a.txt")));
    cr_assert(eq(int, 0, dec(&b, true, params, 2, "offset:i", &offset))); // named: one may read a part
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, params, 2, "size:i", &offset)));
    cr_assert(says("size"));
    dti_buf_done(&b);
}

Test(fmt, what_does_not_fit_is_named_and_nothing_is_written) {
    dti_buf b = {0};
    int64_t i = 77;
    dtask_str s = {0};
    enc(&b, true, NULL, "i z", (int64_t)1, "x");
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, "n:i text:i", &i, &i)));
    cr_assert(says("argument text") && says("integer"));
    cr_assert(eq(i64, i, 77));
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, "i s size:u", &i, &s, &i)));
    cr_assert(says("argument size is missing"));
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, "i", &i))); // one too many
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, "")));
    cr_assert(eq(i64, i, 77));
    cr_assert(eq(int, DTASK_EARGS, dec(&b, false, NULL, 0, "i", &i))); // the result is an array
    cr_assert(says("result"));
    dti_buf_done(&b);
}

Test(fmt, optional_values_leave_the_variable) {
    dti_buf b = {0};
    int64_t a = 1, c = 3;
    dtask_str s = dti_strz("was");
    enc(&b, true, NULL, "i z?", (int64_t)10, NULL);
    cr_assert(eq(int, 0, dec(&b, true, NULL, 0, "i s? i?", &a, &s, &c)));
    cr_assert(a == 10 && c == 3 && dti_str_eq(s, dti_strz("was")));
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, "i s", &a, &s)));
    dti_buf_done(&b);
}

Test(fmt, number_kinds) {
    dti_buf b = {0};
    double f;
    uint64_t u;
    int64_t i;
    enc(&b, false, NULL, "i", (int64_t)-1);
    cr_assert(eq(int, 0, dec(&b, false, NULL, 0, "f", &f)));
    cr_assert(f == -1);
    cr_assert(eq(int, DTASK_EARGS, dec(&b, false, NULL, 0, "u", &u)));
    b.n = 0;
    enc(&b, false, NULL, "u", UINT64_MAX);
    cr_assert(eq(int, DTASK_EARGS, dec(&b, false, NULL, 0, "i", &i)));
    b.n = 0;
    enc(&b, false, NULL, "f", 1.0);
    cr_assert(eq(int, DTASK_EARGS, dec(&b, false, NULL, 0, "i", &i)));
    dti_buf_done(&b);
}

Test(fmt, star_is_everything) {
    dti_buf b = {0}, c = {0};
    dtask_str all;
    enc(&b, true, NULL, "i i", (int64_t)1, (int64_t)2);
    cr_assert(eq(int, 0, dec(&b, true, NULL, 0, " * ", &all)));
    cr_assert(eq(sz, all.n, b.n));
    cr_assert(eq(int, 0, enc(&c, true, NULL, "*", all)));
    cr_assert(c.n == b.n && !memcmp(c.p, b.p, b.n));
    c.n = 0;
    cr_assert(eq(int, DTASK_EARGS, enc(&c, true, NULL, "*", dti_strz("\x05"))));
    cr_assert(says("array"));
    cr_assert(eq(int, DTASK_EARGS, enc(&c, true, NULL, "*", dti_strz("\xc1"))));
    cr_assert(eq(int, DTASK_EARGS, enc(&c, true, NULL, "* i", all, (int64_t)1)));
    cr_assert(eq(sz, c.n, 0));
    dti_buf_done(&b);
    dti_buf_done(&c);
}

Test(fmt, map_puts_its_index_first) {
    dti_buf b = {0};
    int64_t i;
    dtask_str s;
    cr_assert(eq(int, 0, enc_from(&b, -4, "z", "scene")));
    cr_assert(eq(int, 0, dec(&b, true, NULL, 0, "i s", &i, &s)));
    cr_assert(i == -4);
    b.n = 0;
    cr_assert(eq(int, 0, enc_from(&b, 1, NULL)));
    cr_assert(b.n == 2 && (unsigned char)b.p[0] == 0x91);
    b.n = 0;
    cr_assert(eq(int, 0, enc_from(&b, 1, "*", dti_str("\x91\xa1x", 3))));
    cr_assert(b.n == 4 && !memcmp(b.p, "\x92\x01\xa1x", 4));
    dti_buf_done(&b);
}

Test(fmt, formats_that_are_none) {
    static const char *const bad[] = {"x", "q:i i", "i:", ":i", "ii", "i,s", "s??", "*?", "n:*", "i\ts"};
    dti_buf b = {0};
    int64_t v;
    enc(&b, true, NULL, "");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (!strcmp(bad[i], "q:i i")) continue;
        cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, bad[i], &v)), "%s", bad[i]);
        cr_assert(says("format"), "%s: %s", bad[i], dtask_err_detail());
    }
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, "z", &v))); // only to encode
    char many[200];
    for (int i = 0; i < 65; i++) memcpy(many + 2 * i, "i ", 3);
    cr_assert(eq(int, DTASK_EARGS, dec(&b, true, NULL, 0, many, &v)));
    dti_buf_done(&b);
}

Test(fmt, text_must_be_utf8_and_there) {
    dti_buf b = {0};
    cr_assert(eq(int, DTASK_EARGS, enc(&b, true, NULL, "i s", (int64_t)1, dti_str("\xff", 1))));
    cr_assert(says("UTF-8"));
    cr_assert(eq(sz, b.n, 0));
    cr_assert(eq(int, DTASK_EARGS, enc(&b, true, NULL, "z", NULL)));
    cr_assert(eq(int, DTASK_EARGS, enc(&b, true, NULL, "v", dti_strz(""))));
    dti_buf_done(&b);
}

Test(fmt, children_stand_for_their_results) {
    dti_buf b = {0};
    dti_outputs o = {0};
    dtask_child *one = (void *)0x10, *two = (void *)0x20; // only compared
    cr_assert(eq(int, 0, enc(&b, true, &o, "t t t", one, two, one)));
    cr_assert(eq(u32, o.ndeps, 2));
    cr_assert(b.n == 1 + 3 * 6 && !memcmp(b.p + 13, b.p + 1, 6));
    cr_assert(eq(int, DTASK_EARGS, enc(&b, true, NULL, "t", one)));
    cr_assert(eq(int, DTASK_EARGS, enc(&b, true, &o, "t", NULL)));
    dti_buf_done(&b);
}

Test(fmt, values_by_name_from_a_map) {
    dti_buf b = {0};
    dtask_str s;
    uint64_t u;
    dti_mp_put_map(&b, 2);
    dti_mp_put_strz(&b, "state");
    dti_mp_put_strz(&b, "running");
    dti_mp_put_strz(&b, "added");
    dti_mp_put_uint(&b, 12);
    cr_assert(eq(int, 0, dec_map(&b, "added:u state:s", &u, &s)));
    cr_assert(u == 12 && dti_str_eq(s, dti_strz("running")));
    cr_assert(eq(int, DTASK_EARGS, dec_map(&b, "nothing:u", &u)));
    cr_assert(says("nothing"));
    cr_assert(eq(int, DTASK_EARGS, dec_map(&b, "u", &u)));
    cr_assert(eq(int, DTASK_EARGS, dec_map(&b, "*", &s)));
    dti_buf_done(&b);
}
