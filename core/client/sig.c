// Signatures: the one line by which a C handler says what it takes, what it
// gives and how it is run. See client.h for the grammar.
#include "client/client.h"

#include <ctype.h>
#include <string.h>

typedef struct {
    dti_arena *arena;
    const char *text, *p;
} reader;

static dtask_err wrong(const reader *r, const char *what) {
    return dti_fail(DTASK_EARGS, "The signature \"%.200s\" is malformed at place %zu: %s.", r->text, (size_t)(r->p - r->text) + 1, what);
}

static void blanks(reader *r) {
    while (*r->p == ' ' || *r->p == '\t' || *r->p == '\n') r->p++;
}

static dtask_str name_at(reader *r) {
    const char *s = r->p;
    if (isalpha((unsigned char)*s) || *s == '_')
        while (isalnum((unsigned char)*r->p) || *r->p == '_') r->p++;
    return dti_str(s, (size_t)(r->p - s));
}

// "i" or "s?"; false: none of the letters.
static bool letter_at(reader *r, char *type, bool *optional) {
    if (!*r->p || !strchr("iufbsyvn", *r->p)) return false;
    if (isalnum((unsigned char)r->p[1]) || r->p[1] == '_') return false;
    *type = *r->p++;
    *optional = *r->p == '?';
    r->p += *optional;
    return true;
}

static dtask_err params(reader *r, dti_sig *sig) {
    bool optional = false;
    for (blanks(r); *r->p && *r->p != ';' && *r->p != '-'; blanks(r)) {
        if (*r->p == '*') {
            if (sig->nparams || sig->any) return wrong(r, "\"*\" stands alone, for any arguments");
            sig->any = true;
            r->p++;
            continue;
        }
        if (sig->any) return wrong(r, "\"*\" stands alone, for any arguments");
        if (sig->nparams == DTI_SIG_PARAMS_MAX) return wrong(r, "more than 32 parameters");
        dtask_str name = name_at(r);
        if (!name.n || *r->p != ':') return wrong(r, "a parameter is written name:type, as in \"path:s\"");
        r->p++;
        uint32_t i = sig->nparams++;
        if (!letter_at(r, &sig->params[i].type, &sig->params[i].optional))
            return wrong(r, "the type is one of i u f b s y v n, with ? if it is optional");
        if (optional && !sig->params[i].optional) return wrong(r, "after an optional parameter all are optional");
        optional = sig->params[i].optional;
        if (!(sig->params[i].name = dti_dupz(r->arena, name))) return dti_fail(DTASK_ENOMEM, "No memory.");
        for (uint32_t k = 0; k < i; k++)
            if (!strcmp(sig->params[k].name, sig->params[i].name)) return wrong(r, "two parameters have this name");
    }
    return DTASK_OK;
}

static dtask_err results(reader *r, dti_sig *sig) {
    for (blanks(r); *r->p && *r->p != ';'; blanks(r)) {
        if (sig->nresults == DTI_SIG_RESULTS_MAX) return wrong(r, "more than 8 results");
        reader named = *r;
        if (name_at(&named).n && *named.p == ':') r->p = named.p + 1;
        uint32_t i = sig->nresults++;
        if (!letter_at(r, &sig->results[i].type, &sig->results[i].optional))
            return wrong(r, "after -> comes the result's type, one of i u f b s y v n");
    }
    return sig->nresults ? DTASK_OK : wrong(r, "after -> comes the result's type, n for none");
}

// ---- options -----------------------------------------------------------------

static bool put_backoff(dti_buf *b, char *value) {
    uint32_t n = 1;
    for (char *c = value; *c; c++) n += *c == ',';
    dti_mp_put_array(b, n);
    for (char *part = value, *next; part; part = next) {
        int64_t us;
        if ((next = strchr(part, ','))) *next++ = 0;
        if (!dti_text_us(part, &us)) return false;
        dti_mp_put_float(b, (double)us / 1e6);
    }
    return n <= 32;
}

static bool put_int(dti_buf *b, const char *value, int64_t least, int64_t most) {
    int64_t v;
    if (!dti_text_int(value, &v) || v < least || v > most) return false;
    dti_mp_put_int(b, v);
    return true;
}

static bool put_seconds(dti_buf *b, const char *value) {
    int64_t us;
    if (!dti_text_us(value, &us)) return false;
    dti_mp_put_float(b, (double)us / 1e6);
    return true;
}

// Appends name and value. -1: no such name, 0: the value does not fit.
static int put_option(dti_buf *b, const char *name, char *value) {
    dti_mp_put_strz(b, name);
    if (!strcmp(name, "retries") || !strcmp(name, "crashes")) return put_int(b, value, 0, UINT32_MAX);
    if (!strcmp(name, "version") || !strcmp(name, "min_version")) return put_int(b, value, 1, UINT32_MAX);
    if (!strcmp(name, "priority")) return put_int(b, value, -2, 2);
    if (!strcmp(name, "limit")) return put_int(b, value, 1, UINT32_MAX);
    if (!strcmp(name, "timeout") || !strcmp(name, "expires")) return put_seconds(b, value);
    if (!strcmp(name, "backoff")) return put_backoff(b, value);
    if (!strcmp(name, "unique")) {
        bool yes;
        if (!dti_text_bool(value, &yes)) return 0;
        dti_mp_put_bool(b, yes);
        return 1;
    }
    return -1;
}

static dtask_err options(reader *r, dti_sig *sig) {
    dti_buf pairs = {0}, map = {0};
    const char *seen[16];
    uint32_t n = 0;
    dtask_err err = DTASK_OK;
    for (blanks(r); !err && *r->p; blanks(r)) {
        const char *start = r->p;
        char *name = dti_dupz(r->arena, name_at(r));
        if (!name || !*name || *r->p != '=') {
            err = wrong(r, "an option is written name=value");
            break;
        }
        const char *v = ++r->p;
        while (*r->p && !isspace((unsigned char)*r->p)) r->p++;
        char *value = dti_dupz(r->arena, dti_str(v, (size_t)(r->p - v)));
        if (!value) {
            err = dti_fail(DTASK_ENOMEM, "No memory.");
            break;
        }
        for (uint32_t k = 0; k < n && !err; k++)
            if (!strcmp(seen[k], name)) r->p = start, err = wrong(r, "this option is given twice");
        if (err) break;
        int ok = put_option(&pairs, name, value);
        if (ok <= 0) {
            r->p = start;
            err = wrong(r, ok < 0 ? "options are retries timeout expires priority backoff crashes limit unique version min_version"
                                  : "the option's value does not fit");
            break;
        }
        seen[n++] = name; // there are ten names, each at most once
    }
    if (!err) {
        dti_mp_put_map(&map, n + 1);
        dti_mp_put_strz(&map, "language");
        dti_mp_put_strz(&map, "c");
        dti_mp_put_raw(&map, dti_str(pairs.p, pairs.n));
        dtask_str kept = dti_dup(r->arena, dti_str(map.p, map.n));
        sig->options = kept.p;
        sig->options_n = kept.n;
        if (pairs.failed || map.failed || !kept.p) err = dti_fail(DTASK_ENOMEM, "No memory.");
    }
    dti_buf_done(&pairs);
    dti_buf_done(&map);
    return err;
}

static dtask_err spell(dti_arena *arena, dti_sig *sig) {
    dti_buf b = {0};
    if (sig->any) dti_buf_add(&b, "*", 1);
    for (uint32_t i = 0; i < sig->nparams; i++) {
        if (i) dti_buf_add(&b, " ", 1);
        dti_buf_add(&b, sig->params[i].name, strlen(sig->params[i].name));
        dti_buf_add(&b, (char[]){':', sig->params[i].type}, 2);
        if (sig->params[i].optional) dti_buf_add(&b, "?", 1);
    }
    if (sig->nresults) dti_buf_add(&b, b.n ? " ->" : "->", b.n ? 3 : 2);
    for (uint32_t i = 0; i < sig->nresults; i++) {
        dti_buf_add(&b, (char[]){' ', sig->results[i].type}, 2);
        if (sig->results[i].optional) dti_buf_add(&b, "?", 1);
    }
    sig->text = b.failed ? NULL : dti_dupz(arena, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return sig->text ? DTASK_OK : dti_fail(DTASK_ENOMEM, "No memory.");
}

dtask_err dti_sig_parse(dti_arena *arena, const char *text, dti_sig **out) {
    dti_sig *sig = dti_alloc0(arena, sizeof *sig);
    if (!sig) return dti_fail(DTASK_ENOMEM, "No memory.");
    reader r = {arena, text, text};
    dtask_err err = params(&r, sig);
    if (!err && *r.p == '-') {
        if (r.p[1] != '>') return wrong(&r, "the result is written -> type");
        r.p += 2;
        err = results(&r, sig);
    }
    if (!err && *r.p == ';') r.p++;
    if (!err) err = options(&r, sig);
    if (!err) err = spell(arena, sig);
    if (!err) *out = sig;
    return err;
}

// ---- comparing -----------------------------------------------------------------

// Whole numbers are of one kind: Python has but one. Whether a value fits is
// seen when it comes.
static char kind(char letter) {
    return letter == 'u' ? 'i' : letter;
}

static bool agree(char a, bool a_optional, char b, bool b_optional) {
    return a == 'v' || b == 'v' || (kind(a) == kind(b) && a_optional == b_optional);
}

bool dti_sig_equal(const dti_sig *a, const dti_sig *b) {
    if (!a->any && !b->any) {
        if (a->nparams != b->nparams) return false;
        for (uint32_t i = 0; i < a->nparams; i++)
            if (strcmp(a->params[i].name, b->params[i].name) ||
                !agree(a->params[i].type, a->params[i].optional, b->params[i].type, b->params[i].optional))
                return false;
    }
    if (!a->nresults || !b->nresults) return true;
    // One v may be an array of several.
    if ((a->nresults == 1 && a->results[0].type == 'v') || (b->nresults == 1 && b->results[0].type == 'v')) return true;
    if (a->nresults != b->nresults) return false;
    for (uint32_t i = 0; i < a->nresults; i++)
        if (!agree(a->results[i].type, a->results[i].optional, b->results[i].type, b->results[i].optional)) return false;
    return true;
}

dtask_err dti_sig_check_args(const dti_sig *sig, const char *type, dtask_str args) {
    if (sig->any) return DTASK_OK;
    dti_mp m = dti_mp_of(args);
    dti_mpval v;
    dti_mp_next(&m, &v);
    uint32_t n = v.n;
    if (n > sig->nparams)
        return dti_fail(DTASK_EARGS, "%s takes %u arguments and was given %u: its signature is \"%s\".", type, sig->nparams, n, sig->text);
    for (uint32_t i = 0; i < sig->nparams; i++) {
        if (i >= n) {
            if (sig->params[i].optional) break;
            return dti_fail(DTASK_EARGS, "%s is called without its argument %s: its signature is \"%s\".", type, sig->params[i].name,
                sig->text);
        }
        dtask_str one;
        dti_mp_skip(&m, &one);
        dti_mp at = dti_mp_of(one);
        dti_mp_next(&at, &v);
        if (!dti_fmt_fits(sig->params[i].type, sig->params[i].optional, &v))
            return dti_fail(DTASK_EARGS, "The argument %s of %s must be %s: its signature is \"%s\".", sig->params[i].name, type,
                dti_fmt_kind_name(sig->params[i].type), sig->text);
    }
    return DTASK_OK;
}

dtask_err dti_sig_check_result(const dti_sig *sig, const char *type, dtask_str value) {
    if (!sig->nresults) return DTASK_OK;
    dti_mp m = dti_mp_of(value);
    dti_mpval v;
    dti_mp_next(&m, &v);
    if (sig->nresults == 1) {
        if (dti_fmt_fits(sig->results[0].type, sig->results[0].optional, &v)) return DTASK_OK;
        return dti_fail(DTASK_EARGS, "The result of %s must be %s: its signature is \"%s\".", type,
            dti_fmt_kind_name(sig->results[0].type), sig->text);
    }
    bool fits = v.kind == DTI_MP_ARRAY && v.n == sig->nresults;
    for (uint32_t i = 0; fits && i < sig->nresults; i++) {
        dtask_str one;
        dti_mp_skip(&m, &one);
        dti_mp at = dti_mp_of(one);
        dti_mp_next(&at, &v);
        fits = dti_fmt_fits(sig->results[i].type, sig->results[i].optional, &v);
    }
    if (fits) return DTASK_OK;
    return dti_fail(DTASK_EARGS, "The result of %s must be an array of %u values: its signature is \"%s\".", type, sig->nresults, sig->text);
}
