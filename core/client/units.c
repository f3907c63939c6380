// Numbers, times and sizes as people write them in options, read strictly: a
// text is taken whole or not at all.
#include "client/client.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

static locale_t c_locale;
static void make_locale(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

// An unsigned decimal at *p; moves past it. strtold alone would also take
// blanks, signs, hexadecimal, "inf", and the comma of some locales.
static bool decimal(const char **p, long double *out) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_locale);
    const char *s = *p;
    if (!c_locale || !(isdigit((unsigned char)*s) || (*s == '.' && isdigit((unsigned char)s[1])))) return false;
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) return false;
    char *end;
    *out = strtold_l(s, &end, c_locale);
    *p = end;
    return true;
}

bool dti_text_us(const char *text, int64_t *out) {
    static const struct { const char *unit; long double us; } units[] = {
        {"", 1e6L}, {"ms", 1e3L}, {"s", 1e6L}, {"m", 60e6L}, {"h", 3600e6L}, {"d", 86400e6L},
    };
    const char *p = text;
    long double v;
    if (!decimal(&p, &v)) return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcmp(p, units[i].unit)) {
            v = v * units[i].us + 0.5L;
            // Far below the int64 limit, so that adding a clock cannot overflow.
            if (!(v < 4e18L)) return false;
            *out = (int64_t)v;
            return true;
        }
    return false;
}

bool dti_text_size(const char *text, uint64_t *out) {
    static const struct { const char *unit; long double bytes; } units[] = {
        {"", 1}, {"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", (long double)(1ull << 40)},
    };
    const char *p = text;
    long double v;
    if (!decimal(&p, &v)) return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcmp(p, units[i].unit)) {
            v *= units[i].bytes;
            if (!(v < 9e18L) || v != (long double)(uint64_t)v) return false;
            *out = (uint64_t)v;
            return true;
        }
    return false;
}

bool dti_text_int(const char *text, int64_t *out) {
    const char *digits = text + (*text == '-');
    if (!isdigit((unsigned char)*digits)) return false;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end || errno) return false;
    *out = v;
    return true;
}

bool dti_text_float(const char *text, double *out) {
    const char *p = text + (*text == '-');
    long double v;
    if (!decimal(&p, &v) || *p || !(v < 1e300L)) return false;
    *out = (double)(*text == '-' ? -v : v);
    return true;
}

bool dti_text_bool(const char *text, bool *out) {
    static const char *const words[2][3] = {{"0", "false", "no"}, {"1", "true", "yes"}};
    for (int v = 0; v < 2; v++)
        for (int i = 0; i < 3; i++)
            if (!strcasecmp(text, words[v][i])) return *out = v, true;
    return false;
}
