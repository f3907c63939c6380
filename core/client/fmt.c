// FMT of dynatask.h: C values to msgpack and back. One letter a value; a name
// before it says which argument it is. Decoding points into the bytes and
// changes the caller's variables only if all of them fit.
#include "client/client.h"

#include <stdio.h>
#include <string.h>

enum { VALUES_MAX = 64 };

typedef struct {                 // one item of a format
    dtask_str name;              // empty: none
    char letter;
    bool optional;
} item;

// ---- the format itself -----------------------------------------------------------

static dtask_err items(const char *fmt, bool encode, item out[VALUES_MAX], uint32_t *out_n, bool *whole) {
    const char *letters = encode ? "iufbsyvnzt" : "iufbsyvn";
    uint32_t n = 0;
    *whole = false;
    for (const char *p = fmt ? fmt : "";;) {
        while (*p == ' ') p++;
        if (!*p) break;
        if (n == VALUES_MAX) return dti_fail(DTASK_EARGS, "The format has more than %d values: give an array with \"*\".", VALUES_MAX);
        const char *end = p + strcspn(p, " ");
        const char *colon = memchr(p, ':', (size_t)(end - p));
        item it = {.name = {p, 0}};
        const char *at = p;
        if (colon) {
            it.name.n = (size_t)(colon - p);
            at = colon + 1;
        }
        if (at < end && *at == '*' && at + 1 == end && at == p && n == 0 && !end[strspn(end, " ")]) {
            *whole = true;
            return DTASK_OK;
        }
        it.letter = at < end ? *at++ : 0;
        if (at < end && *at == '?') it.optional = true, at++;
        if (at != end || !it.letter || !strchr(letters, it.letter) || (colon && !it.name.n))
            return dti_fail(DTASK_EARGS, "The format \"%.100s\" has \"%.*s\", which is no [name:]type with a type of %s.", fmt,
                (int)(end - p), p, encode ? "i u f b s y v n z t, or * alone" : "i u f b s y v n, or * alone");
        out[n++] = it;
        p = end;
    }
    *out_n = n;
    return DTASK_OK;
}

const char *dti_fmt_kind_name(char letter) {
    switch (letter) {
    case 'i': return "an integer of 64 bits";
    case 'u': return "an integer from 0 to 2^64-1";
    case 'f': return "a number";
    case 'b': return "true or false";
    case 's': return "text";
    case 'y': return "bytes";
    case 'n': return "nil";
    }
    return "a value";
}

bool dti_fmt_fits(char letter, bool optional, const dti_mpval *v) {
    if (optional && v->kind == DTI_MP_NIL) return true;
    if (v->kind == DTI_MP_EXT && v->ext == DTASK_B_EXT_OUTPUT) return true;
    switch (letter) {
    case 'i': return v->kind == DTI_MP_INT || (v->kind == DTI_MP_UINT && v->u <= INT64_MAX);
    case 'u': return v->kind == DTI_MP_UINT;
    case 'f': return v->kind == DTI_MP_FLOAT || v->kind == DTI_MP_INT || v->kind == DTI_MP_UINT;
    case 'b': return v->kind == DTI_MP_BOOL;
    case 's': return v->kind == DTI_MP_STR;
    case 'y': return v->kind == DTI_MP_BIN;
    case 'n': return v->kind == DTI_MP_NIL;
    }
    return v->kind != DTI_MP_BAD;
}

// ---- encoding ---------------------------------------------------------------------

static dtask_err put_output(dti_buf *b, dti_outputs *outputs, dtask_child *child, uint32_t place) {
    if (!outputs) return dti_fail(DTASK_EARGS, "Value %u of the format is t: a child can only stand in the arguments of a sibling.", place);
    if (!child) return dti_fail(DTASK_EARGS, "Value %u of the format is t, and its child is NULL.", place);
    uint32_t i = 0;
    while (i < outputs->ndeps && outputs->deps[i] != child) i++;
    if (i == sizeof outputs->deps / sizeof *outputs->deps)
        return dti_fail(DTASK_ETOOBIG, "A call can stand on the results of at most %u children.", i);
    if (i == outputs->ndeps) outputs->deps[outputs->ndeps++] = child;
    dti_mp_put_ext(b, DTASK_B_EXT_OUTPUT, dti_str((char[]){(char)(i >> 24), (char)(i >> 16), (char)(i >> 8), (char)i}, 4));
    return DTASK_OK;
}

static dtask_err null_bytes(uint32_t place, size_t n) {
    return dti_fail(DTASK_EARGS, "Value %u of the format is %zu bytes at NULL: give a view of bytes that are there.", place, n);
}

static dtask_err put(dti_buf *b, dti_outputs *outputs, const item *it, uint32_t place, va_list *ap) {
    dtask_str s;
    switch (it->letter) {
    case 'i': dti_mp_put_int(b, va_arg(*ap, int64_t)); return DTASK_OK;
    case 'u': dti_mp_put_uint(b, va_arg(*ap, uint64_t)); return DTASK_OK;
    case 'f': dti_mp_put_float(b, va_arg(*ap, double)); return DTASK_OK;
    case 'b': dti_mp_put_bool(b, va_arg(*ap, int) != 0); return DTASK_OK;
    case 'n': dti_mp_put_nil(b); return DTASK_OK;
    case 't': return put_output(b, outputs, va_arg(*ap, dtask_child *), place);
    case 'z':
        s = dti_strz(va_arg(*ap, const char *));
        if (!s.p && !it->optional) return dti_fail(DTASK_EARGS, "Value %u of the format is z, and its text is NULL.", place);
        break;
    default: s = va_arg(*ap, dtask_str);
    }
    if (!s.p && it->optional) {
        dti_mp_put_nil(b);
        return DTASK_OK;
    }
    if (!s.p && s.n) return null_bytes(place, s.n);
    if (it->letter == 'y') {
        dti_mp_put_bin(b, s);
        return DTASK_OK;
    }
    if (it->letter == 'v') {
        dtask_err err = dti_mp_check(s, "A value of the format");
        if (!err) dti_mp_put_raw(b, s);
        return err;
    }
    size_t from = b->n;
    dti_mp_put_str(b, s);
    // Checked as it was written: the check knows UTF-8.
    return b->failed ? DTASK_OK : dti_mp_check(dti_str(b->p + from, b->n - from), "A text of the format");
}

// With `first`, that integer goes in front. On an error *b is as it was.
static dtask_err encode(dti_buf *b, bool as_array, const int64_t *first, dti_outputs *outputs, const char *fmt, va_list *ap) {
    item list[VALUES_MAX];
    uint32_t n = 0;
    bool whole;
    size_t from = b->n;
    dtask_err err = items(fmt, true, list, &n, &whole);
    if (err) return err;
    if (whole) {
        dtask_str s = va_arg(*ap, dtask_str);
        dti_mp m = dti_mp_of(s);
        dti_mpval head;
        if (!s.p && s.n) return null_bytes(1, s.n);
        if ((err = dti_mp_check(s, "The value of \"*\""))) return err;
        dti_mp_next(&m, &head);
        if (as_array && head.kind != DTI_MP_ARRAY) return dti_fail(DTASK_EARGS, "The value of \"*\" must be a msgpack array of all arguments.");
        if (first) {
            dti_mp_put_array(b, head.n + 1);
            dti_mp_put_int(b, *first);
            s = dti_str(m.p, (size_t)(m.end - m.p));
        }
        dti_mp_put_raw(b, s);
    } else {
        if (as_array || n > 1) dti_mp_put_array(b, n + (first != NULL));
        else if (n == 0) dti_mp_put_nil(b);
        if (first) dti_mp_put_int(b, *first);
        for (uint32_t i = 0; i < n && !err; i++) err = put(b, outputs, &list[i], i + 1, ap);
    }
    if (!err && b->failed) err = dti_fail(DTASK_ENOMEM, "No memory for the values, or one is over 4 GiB.");
    if (err) b->n = from;
    return err;
}

dtask_err dti_fmt_encode(dti_buf *b, bool as_array, dti_outputs *outputs, const char *fmt, va_list ap) {
    va_list own; // a va_list parameter may be an array, which no pointer can be taken of
    va_copy(own, ap);
    dtask_err err = encode(b, as_array, NULL, outputs, fmt, &own);
    va_end(own);
    return err;
}

dtask_err dti_fmt_encode_from(dti_buf *b, int64_t first, dti_outputs *outputs, const char *fmt, va_list ap) {
    va_list own;
    va_copy(own, ap);
    dtask_err err = encode(b, true, &first, outputs, fmt, &own);
    va_end(own);
    return err;
}

dtask_err dti_fmt_check_names(const char *fmt, uint32_t before, const dti_typeinfo *type) {
    item list[VALUES_MAX];
    uint32_t n = 0;
    bool whole;
    dtask_err err = items(fmt, true, list, &n, &whole);
    for (uint32_t i = 0; !err && !whole && i < n; i++) {
        uint32_t place = before + i;
        if (!list[i].name.n || place >= type->nparams || dti_str_eq(list[i].name, dti_strz(type->params[place]))) continue;
        err = dti_fail(DTASK_EARGS, "The format names argument %u %.*s, and %s has %s there: give the arguments in its order.", place + 1,
            (int)(list[i].name.n > 50 ? 50 : list[i].name.n), list[i].name.p, type->name, type->params[place]);
    }
    return err;
}

// ---- decoding ---------------------------------------------------------------------

// Says which value did not fit: its name, else its place.
static dtask_err unfit(const item *it, uint32_t place, const char *what, bool missing) {
    char shown[80];
    if (it->name.n) snprintf(shown, sizeof shown, "%s %.*s", what, (int)(it->name.n > 50 ? 50 : it->name.n), it->name.p);
    else snprintf(shown, sizeof shown, "%s %u", what, place);
    if (missing) return dti_fail(DTASK_EARGS, "The %s is missing: it should be %s.", shown, dti_fmt_kind_name(it->letter));
    return dti_fail(DTASK_EARGS, "The %s is not %s, as the format says.", shown, dti_fmt_kind_name(it->letter));
}

static bool parse(const item *it, dtask_str bytes, dti_mpval *v) {
    dti_mp m = dti_mp_of(bytes);
    return dti_mp_next(&m, v) && !(v->kind == DTI_MP_EXT && v->ext == DTASK_B_EXT_OUTPUT && it->letter != 'v') &&
        dti_fmt_fits(it->letter, it->optional, v);
}

// Writes one value that fits to the caller's variable; an absent one of a ?
// leaves it as it was.
static void get(const item *it, dtask_str bytes, va_list *ap) {
    if (it->letter == 'n') return;
    void *to = va_arg(*ap, void *);
    dti_mpval v = {.kind = DTI_MP_NIL};
    if (bytes.p) parse(it, bytes, &v);
    if (v.kind == DTI_MP_NIL && it->optional) return;
    switch (it->letter) {
    case 'i': *(int64_t *)to = v.i; break; // of INT and UINT the same bits
    case 'u': *(uint64_t *)to = v.u; break;
    case 'f': *(double *)to = v.kind == DTI_MP_FLOAT ? v.f : v.kind == DTI_MP_INT ? (double)v.i : (double)v.u; break;
    case 'b': *(int *)to = v.b; break;
    case 's':
    case 'y': *(dtask_str *)to = v.s; break;
    default: *(dtask_str *)to = bytes; // v
    }
}

static dtask_err null_place(uint32_t place) {
    return dti_fail(DTASK_EARGS, "The variable for value %u of the format is NULL: give a pointer to one.", place);
}

// All fit, then all are written: an error leaves the outputs untouched.
static dtask_err decode(const item *list, uint32_t n, const dtask_str *values, const char *what, va_list *ap) {
    va_list places;
    va_copy(places, *ap);
    uint32_t null = 0;
    for (uint32_t i = 0; i < n; i++)
        if (list[i].letter != 'n' && !va_arg(places, void *) && !null) null = i + 1;
    va_end(places);
    if (null) return null_place(null);
    for (uint32_t i = 0; i < n; i++) {
        dti_mpval v;
        if (!values[i].p) {
            if (!list[i].optional) return unfit(&list[i], i + 1, what, true);
        } else if (!parse(&list[i], values[i], &v)) return unfit(&list[i], i + 1, what, false);
    }
    for (uint32_t i = 0; i < n; i++) get(&list[i], values[i], ap);
    return DTASK_OK;
}

static dtask_err decode_array(dtask_str array, bool is_args, const char *const *params, uint32_t nparams, const item *list, uint32_t n,
    va_list *ap) {
    const char *what = is_args ? "argument" : "result";
    dti_mp m = dti_mp_of(array);
    dti_mpval head;
    if (!dti_mp_next(&m, &head) || head.kind != DTI_MP_ARRAY)
        return dti_fail(DTASK_EARGS, is_args ? "The arguments are no msgpack array." : "The result is one value, and the format has %u.", n);
    dtask_str at[VALUES_MAX] = {0}, values[VALUES_MAX] = {0};
    uint32_t have = head.n < VALUES_MAX ? head.n : VALUES_MAX;
    for (uint32_t i = 0; i < have; i++)
        if (!dti_mp_skip(&m, &at[i])) return dti_fail(DTASK_EARGS, "The %ss end too early.", what);
    bool all_named = n > 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t place = i;
        if (params && list[i].name.n) {
            for (place = 0; place < nparams; place++)
                if (dti_str_eq(list[i].name, dti_strz(params[place]))) break;
            if (place == nparams)
                return dti_fail(DTASK_EARGS, "There is no argument %.*s: the type's signature does not name it.", (int)list[i].name.n,
                    list[i].name.p);
        } else all_named = false;
        if (place < have) values[i] = at[place];
    }
    if (!all_named && head.n > n)
        return dti_fail(DTASK_EARGS, "There are %u %ss, and the format has %u: read them all, or take \"*\".", head.n, what, n);
    return decode(list, n, values, what, ap);
}

dtask_err dti_fmt_decode(dtask_str value, bool is_args, const char *const *params, uint32_t nparams, const char *fmt, va_list ap) {
    item list[VALUES_MAX];
    uint32_t n = 0;
    bool whole;
    dtask_err err = items(fmt, false, list, &n, &whole);
    if (err) return err;
    va_list own;
    va_copy(own, ap);
    if (whole) {
        dtask_str *to = va_arg(own, dtask_str *);
        if (to) *to = value;
        else err = null_place(1);
    }
    else if (is_args || n > 1) err = decode_array(value, is_args, params, nparams, list, n, &own);
    else if (n == 1) err = decode(list, 1, &value, "result", &own);
    va_end(own);
    return err;
}

dtask_err dti_fmt_decode_by(dti_lookup_fn *find, void *arg, const char *fmt, va_list ap) {
    item list[VALUES_MAX];
    dtask_str values[VALUES_MAX];
    uint32_t n = 0;
    bool whole;
    dtask_err err = items(fmt, false, list, &n, &whole);
    if (err) return err;
    if (whole) return dti_fail(DTASK_EARGS, "\"*\" is not for reading by name: give \"name:type ..\".");
    for (uint32_t i = 0; i < n; i++) {
        if (!list[i].name.n) return dti_fail(DTASK_EARGS, "Value %u of the format has no name: give \"name:type ..\".", i + 1);
        values[i] = find(arg, list[i].name);
        if (!values[i].p) return dti_fail(DTASK_EARGS, "There is no value named %.*s to read here.", (int)list[i].name.n, list[i].name.p);
    }
    va_list own;
    va_copy(own, ap);
    err = decode(list, n, values, "value", &own);
    va_end(own);
    return err;
}

static dtask_str in_map(void *map, dtask_str name) {
    char key[64];
    if (name.n >= sizeof key) return (dtask_str){0};
    memcpy(key, name.p, name.n);
    key[name.n] = 0;
    return dti_mp_get(*(dtask_str *)map, key);
}

dtask_err dti_fmt_decode_map(dtask_str map, const char *fmt, va_list ap) {
    return dti_fmt_decode_by(in_map, &map, fmt, ap);
}
