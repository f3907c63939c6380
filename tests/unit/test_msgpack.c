// msgpack.c: every kind read and written, and nothing that bytes can do.
#include "base/msgpack.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static dtask_str of(dti_buf *b) {
    return dti_str(b->p, b->n);
}

Test(msgpack, integers_come_back_and_know_their_sign) {
    static const int64_t values[] = {0, 1, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, (int64_t)UINT32_MAX + 1, INT64_MAX, -1,
        -32, -33, -128, -129, -32768, -32769, INT32_MIN, (int64_t)INT32_MIN - 1, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        dti_buf b = {0};
        dti_mp_put_int(&b, values[i]);
        int64_t back;
        cr_assert(dti_mp_int(of(&b), &back));
        cr_assert(eq(i64, back, values[i]));
        dti_mp m = dti_mp_of(of(&b));
        dti_mpval v;
        cr_assert(dti_mp_next(&m, &v));
        cr_assert(eq(int, (int)v.kind, values[i] < 0 ? DTI_MP_INT : DTI_MP_UINT));
        dti_buf_done(&b);
    }
}

Test(msgpack, a_large_unsigned_does_not_fit_an_int64) {
    dti_buf b = {0};
    dti_mp_put_uint(&b, UINT64_MAX);
    int64_t i = 5;
    double f;
    cr_assert(not(dti_mp_int(of(&b), &i)));
    cr_assert(eq(i64, i, 5));
    cr_assert(dti_mp_float(of(&b), &f));
    cr_assert(f > 1.8e19);
    dti_buf_done(&b);
}

Test(msgpack, positive_values_in_signed_form_are_unsigned) {
    dti_mp m = dti_mp_of(dti_str("\xd1\x01\x00", 3));
    dti_mpval v;
    cr_assert(dti_mp_next(&m, &v));
    cr_assert(eq(int, (int)v.kind, DTI_MP_UINT));
    cr_assert(eq(u64, v.u, 256));
}

Test(msgpack, strings_of_every_length_class) {
    static const size_t lengths[] = {0, 31, 32, 255, 256, 65535, 65536};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char *text = malloc(lengths[i] + 1);
        memset(text, 'x', lengths[i]);
        dti_buf b = {0};
        dti_mp_put_str(&b, dti_str(text, lengths[i]));
        dti_mp_put_bin(&b, dti_str(text, lengths[i]));
        dti_mp_put_ext(&b, -7, dti_str(text, lengths[i]));
        dti_mp m = dti_mp_of(of(&b));
        dti_mpval v;
        cr_assert(dti_mp_next(&m, &v) && v.kind == DTI_MP_STR && v.s.n == lengths[i]);
        cr_assert(dti_mp_next(&m, &v) && v.kind == DTI_MP_BIN && v.s.n == lengths[i]);
        cr_assert(dti_mp_next(&m, &v) && v.kind == DTI_MP_EXT && v.s.n == lengths[i] && v.ext == -7);
        cr_assert(m.p == m.end);
        dti_buf_done(&b);
        free(text);
    }
}

Test(msgpack, fixed_extensions_are_read) {
    for (int k = 0; k < 5; k++) {
        char bytes[18] = {(char)(0xd4 + k), 3};
        dti_mp m = dti_mp_of(dti_str(bytes, 2 + (1u << k)));
        dti_mpval v;
        cr_assert(dti_mp_next(&m, &v) && v.kind == DTI_MP_EXT && v.ext == 3 && v.s.n == 1u << k && m.p == m.end);
    }
}

Test(msgpack, floats_of_both_widths) {
    double f;
    cr_assert(dti_mp_float(dti_str("\xca\x3f\xc0\x00\x00", 5), &f));
    cr_assert(f == 1.5);
    dti_buf b = {0};
    dti_mp_put_float(&b, -0.1);
    cr_assert(dti_mp_float(of(&b), &f));
    cr_assert(f == -0.1);
    dti_buf_done(&b);
}

static dti_buf sample(void) {
    dti_buf b = {0};
    dti_mp_put_map(&b, 3);
    dti_mp_put_strz(&b, "list");
    dti_mp_put_array(&b, 3);
    dti_mp_put_nil(&b);
    dti_mp_put_bool(&b, true);
    dti_mp_put_strz(&b, "h\xc3\xa9");
    dti_mp_put_int(&b, 7);
    dti_mp_put_strz(&b, "key that is no text");
    dti_mp_put_strz(&b, "n");
    dti_mp_put_float(&b, 2.5);
    return b;
}

Test(msgpack, get_and_at_find_whole_values) {
    dti_buf b = sample();
    cr_assert(eq(int, dti_mp_check(of(&b), "sample"), 0));
    dtask_str list = dti_mp_get(of(&b), "list"), text;
    double f;
    bool yes = false;
    cr_assert(eq(sz, dti_mp_at(list, 0).n, 1));
    cr_assert(dti_mp_bool(dti_mp_at(list, 1), &yes) && yes);
    cr_assert(dti_mp_text(dti_mp_at(list, 2), &text) && text.n == 3);
    cr_assert(dti_mp_float(dti_mp_get(of(&b), "n"), &f) && f == 2.5);
    cr_assert(zero(ptr, (void *)dti_mp_at(list, 3).p));
    cr_assert(zero(ptr, (void *)dti_mp_get(of(&b), "absent").p));
    cr_assert(zero(ptr, (void *)dti_mp_get(list, "list").p));
    cr_assert(zero(ptr, (void *)dti_mp_at(of(&b), 0).p));
    dti_buf_done(&b);
}

Test(msgpack, every_prefix_of_a_value_is_refused) {
    dti_buf b = sample();
    for (size_t n = 0; n < b.n; n++) {
        // A copy of just this size, so that a sanitizer sees a read past it.
        char *part = malloc(n + !n);
        memcpy(part, b.p, n);
        dti_mp m = dti_mp_of(dti_str(part, n));
        cr_assert(not(dti_mp_skip(&m, NULL)));
        cr_assert(m.p == part);
        cr_assert(eq(int, dti_mp_check(dti_str(part, n), "part"), DTASK_EARGS));
        cr_assert(strncmp(dtask_err_detail(), "part ", 5) == 0);
        free(part);
    }
    dti_buf_done(&b);
}

Test(msgpack, check_names_what_is_wrong) {
    static const struct { const char *bytes; size_t n; const char *says; } cases[] = {
        {"\xc1", 1, "is no msgpack"}, {"\x01\x01", 2, "goes on after its end"}, {"", 0, "is empty"},
        {"\xa2\xc0\x80", 3, "not UTF-8"},         // overlong
        {"\xa3\xed\xa0\x80", 4, "not UTF-8"},     // a surrogate
        {"\xa4\xf4\x90\x80\x80", 5, "not UTF-8"}, // above U+10FFFF
        {"\xa1\xff", 2, "not UTF-8"}, {"\xa1\xc3", 2, "not UTF-8"}, {"\xa1\x80", 2, "not UTF-8"},
        {"\xdd\xff\xff\xff\xff\xc0", 6, "ends too early"}, {"\xc6\xff\xff\xff\xff", 5, "ends too early"},
        {"\xdf\xff\xff\xff\xff", 5, "ends too early"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert(eq(int, dti_mp_check(dti_str(cases[i].bytes, cases[i].n), "it"), DTASK_EARGS), "case %zu", i);
        cr_assert(strstr(dtask_err_detail(), cases[i].says) != NULL, "case %zu: %s", i, dtask_err_detail());
    }
    static const char *good[] = {"\xa2\xc3\xa9", "\xa3\xe2\x82\xac", "\xa4\xf0\x9f\x8e\x89", "\xa4\xf4\x8f\xbf\xbf",
        "\xaa" "abcdefgh\xc3\xa9"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        cr_assert(eq(int, dti_mp_check(dti_strz(good[i]), "it"), 0), "case %zu: %s", i, dtask_err_detail());
}

Test(msgpack, depth_is_bounded) {
    char nested[DTI_MP_DEPTH_MAX + 2];
    memset(nested, '\x91', sizeof nested);
    nested[DTI_MP_DEPTH_MAX] = '\x01';
    cr_assert(eq(int, dti_mp_check(dti_str(nested, DTI_MP_DEPTH_MAX + 1), "it"), 0));
    nested[DTI_MP_DEPTH_MAX] = '\x90';
    cr_assert(eq(int, dti_mp_check(dti_str(nested, DTI_MP_DEPTH_MAX + 1), "it"), DTASK_EARGS));
    cr_assert(strstr(dtask_err_detail(), "too deep") != NULL);
    dti_mp m = dti_mp_of(dti_str(nested, DTI_MP_DEPTH_MAX + 1));
    cr_assert(not(dti_mp_skip(&m, NULL)));
}

Test(msgpack, random_bytes_are_taken_or_refused_within_bounds) {
    uint64_t x = 88172645463325252u; // xorshift
    unsigned accepted = 0;
    for (int round = 0; round < 100000; round++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        size_t n = x % 24;
        char *p = malloc(n + !n);
        uint64_t y = x;
        for (size_t i = 0; i < n; i++) y = y * 6364136223846793005u + 1442695040888963407u, p[i] = (char)(y >> 56);
        dtask_str s = dti_str(p, n);
        if (!dti_mp_check(s, "it")) {
            accepted++;
            // What was checked, a cursor walks to its end without a failure.
            dti_mp m = dti_mp_of(s);
            dti_mpval v;
            while (m.p < m.end) cr_assert(dti_mp_next(&m, &v));
        }
        dti_mp_get(s, "a");
        dti_mp_at(s, 1);
        free(p);
    }
    cr_assert(accepted > 100);
}

Test(msgpack, a_failed_buffer_stays_failed) {
    dti_buf b = {0};
    b.failed = true;
    dti_mp_put_strz(&b, "text");
    dti_mp_put_int(&b, 1);
    cr_assert(b.failed && b.n == 0);
}
