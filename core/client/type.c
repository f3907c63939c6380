// A task type as its worker published it: signature and options, parsed once
// and strictly; and how long its backoff waits.
#include "client/client.h"

#include <stdio.h>
#include <string.h>

// ---- parsing what was published ------------------------------------------------------

static dtask_err wrong(dtask_str name, const char *what) {
    return dti_fail(DTASK_EARGS, "The type %.*s is published with a wrong %s.", (int)(name.n > 100 ? 100 : name.n), name.p, what);
}

// The same error, with the type it is about in front.
static dtask_err named(dtask_err err, dtask_str name) {
    char why[700]; // the detail is written over
    snprintf(why, sizeof why, "%s", dtask_err_detail());
    return dti_fail(err, "Type %.*s: %s", (int)(name.n > 100 ? 100 : name.n), name.p, why);
}

static bool get_u32(dtask_str map, const char *key, int64_t least, uint32_t *out) {
    dtask_str v = dti_mp_get(map, key);
    int64_t i;
    if (!v.p) return true;
    if (!dti_mp_int(v, &i) || i < least || i > UINT32_MAX) return false;
    *out = (uint32_t)i;
    return true;
}

static bool is_nil(dtask_str v) {
    return v.n == 1 && (unsigned char)*v.p == 0xc0;
}

// Seconds to microseconds; absent or nil leaves *out.
static bool get_us(dtask_str map, const char *key, int64_t *out) {
    dtask_str v = dti_mp_get(map, key);
    double s;
    if (!v.p || is_nil(v)) return true;
    if (!dti_mp_float(v, &s) || !(s >= 0 && s < 4e12)) return false;
    *out = (int64_t)(s * 1e6 + 0.5);
    return true;
}

static uint32_t array_n(dtask_str v) {
    dti_mp m = dti_mp_of(v);
    dti_mpval head;
    return dti_mp_next(&m, &head) && head.kind == DTI_MP_ARRAY ? head.n : UINT32_MAX;
}

static bool seconds(dtask_str v, double *out) {
    return dti_mp_float(v, out) && *out >= 0 && *out < 4e12;
}

static bool get_backoff(dtask_str map, dti_backoff *out) {
    dtask_str v = dti_mp_get(map, "backoff");
    if (!v.p || is_nil(v)) return true;
    uint32_t n = array_n(v);
    if (n == UINT32_MAX) return out->nlist = 1, seconds(v, &out->list[0]);
    bool jitter;
    if (n == 4 && dti_mp_bool(dti_mp_at(v, 3), &jitter)) {
        out->jitter = jitter;
        return seconds(dti_mp_at(v, 0), &out->first) && dti_mp_float(dti_mp_at(v, 1), &out->factor) && out->factor >= 1 &&
            out->factor < 1e6 && seconds(dti_mp_at(v, 2), &out->max);
    }
    if (n == 0 || n > sizeof out->list / sizeof *out->list) return false;
    for (uint32_t i = 0; i < n; i++)
        if (!seconds(dti_mp_at(v, i), &out->list[i])) return false;
    out->nlist = n;
    return true;
}

static bool choice(dtask_str map, const char *key, const char *const *names, uint8_t *out) {
    dtask_str v = dti_mp_get(map, key), text;
    if (!v.p) return true;
    if (!dti_mp_text(v, &text)) return false;
    for (uint8_t i = 0; names[i]; i++)
        if (dti_str_eq(text, dti_strz(names[i]))) return *out = i, true;
    return false;
}

static bool param_place(const dti_typeinfo *t, dtask_str v, uint16_t *out) {
    dtask_str name;
    if (!dti_mp_text(v, &name)) return false;
    for (uint32_t i = 0; i < t->nparams; i++)
        if (dti_str_eq(name, dti_strz(t->params[i]))) return *out = (uint16_t)i, true;
    return false;
}

static bool get_key(const dti_typeinfo *t, dtask_str map, dti_keyrule *rule) {
    dtask_str v = dti_mp_get(map, "key"), text;
    if (!v.p) return true;
    if (dti_mp_text(v, &text)) {
        rule->all = dti_str_eq(text, dti_strz("*"));
        rule->nparams = !rule->all;
        return rule->all || param_place(t, v, &rule->params[0]);
    }
    uint32_t n = array_n(v);
    if (n > sizeof rule->params / sizeof *rule->params) return false;
    rule->all = false;
    rule->nparams = n;
    for (uint32_t i = 0; i < n; i++)
        if (!param_place(t, dti_mp_at(v, i), &rule->params[i])) return false;
    return true;
}

static const char *const scopes[] = {"app", "job", NULL};

static bool get_limit(const dti_typeinfo *t, dtask_str v, dti_keyrule *rule) {
    static const char *const overs[] = {"queue", "drop", "fail", NULL}; // DTI_OVER_QUEUE..
    int64_t n;
    rule->spec.kind = DTI_KEY_LIMIT;
    if (!dti_mp_int(v, &n)) {
        if (!dti_mp_int(dti_mp_get(v, "n"), &n) || !get_us(v, "per", &rule->spec.per_us) ||
            !choice(v, "scope", scopes, &rule->spec.scope) || !choice(v, "over", overs, &rule->spec.over) || !get_key(t, v, rule))
            return false;
    }
    rule->spec.max = (uint64_t)n;
    return n >= 1 && n <= UINT32_MAX;
}

static bool get_unique(const dti_typeinfo *t, dtask_str v, dti_keyrule *rule) {
    static const char *const overs[] = {"join", "raise", "drop", NULL}, *const untils[] = {"end", "run", NULL};
    static const uint8_t codes[] = {DTI_OVER_JOIN, DTI_OVER_RAISE, DTI_OVER_DROP};
    dti_keyspec *s = &rule->spec;
    bool yes = true, same = false;
    uint8_t over = 0;
    s->kind = DTI_KEY_UNIQUE;
    rule->all = true;
    if (!dti_mp_bool(v, &yes)) {
        dtask_str b = dti_mp_get(v, "same");
        dti_mp m = dti_mp_of(v);
        dti_mpval head;
        if (!dti_mp_next(&m, &head) || head.kind != DTI_MP_MAP || (b.p && !dti_mp_bool(b, &same)) || !get_us(v, "keep", &s->keep_us) || !choice(v, "scope", scopes, &s->scope) ||
            !choice(v, "until", untils, &s->until) || !choice(v, "over", overs, &over) || !get_key(t, v, rule))
            return false;
    }
    s->over = codes[over];
    s->same = same;
    return true;
}

// One word, name=value, as a pair of the map that get_unique takes.
static bool put_word(dti_buf *b, dtask_str word) {
    const char *eq = memchr(word.p, '=', word.n);
    char text[64];
    int64_t us;
    bool yes;
    if (!eq) return false;
    dtask_str name = dti_str(word.p, (size_t)(eq - word.p)), value = dti_str(eq + 1, word.n - name.n - 1);
    dti_mp_put_str(b, name);
    snprintf(text, sizeof text, "%.*s", (int)(value.n < sizeof text ? value.n : sizeof text - 1), value.p);
    if (dti_str_eq(name, dti_strz("same"))) return dti_text_bool(text, &yes) && (dti_mp_put_bool(b, yes), true);
    if (dti_str_eq(name, dti_strz("keep"))) return dti_text_us(text, &us) && (dti_mp_put_float(b, (double)us / 1e6), true);
    if (!dti_str_eq(name, dti_strz("key")) || dti_str_eq(value, dti_strz("*"))) {
        dti_mp_put_str(b, value);
        return dti_str_eq(name, dti_strz("key")) || dti_str_eq(name, dti_strz("until")) || dti_str_eq(name, dti_strz("scope")) ||
            dti_str_eq(name, dti_strz("over"));
    }
    uint32_t n = value.n > 0;
    for (size_t i = 0; i < value.n; i++) n += value.p[i] == ',';
    dti_mp_put_array(b, n);
    for (const char *p = value.p, *end = p + value.n; n--; p++) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        dti_mp_put_str(b, dti_str(p, (size_t)((comma ? comma : end) - p)));
        if (comma) p = comma;
    }
    return true;
}

dtask_err dti_unique_rule(const dti_typeinfo *t, const char *text, bool *on, dti_keyrule *out) {
    dti_buf pairs = {0}, value = {0};
    uint32_t n = 0;
    bool ok = true;
    *out = (dti_keyrule){0};
    if (dti_text_bool(text, on)) {
        dti_mp_put_bool(&value, *on);
    } else {
        *on = true;
        for (const char *p = text; ok && *p; n++) {
            size_t len = strcspn(p, " ");
            ok = put_word(&pairs, dti_str(p, len));
            p += len + strspn(p + len, " ");
        }
        ok = ok && n;
        dti_mp_put_map(&value, n);
        dti_mp_put_raw(&value, dti_str(pairs.p, pairs.n));
    }
    ok = ok && !pairs.failed && !value.failed && (!*on || get_unique(t, dti_str(value.p, value.n), out));
    dti_buf_done(&pairs);
    dti_buf_done(&value);
    return ok ? DTASK_OK : dti_fail(DTASK_EARGS, "The option unique cannot be \"%.200s\" for %s: give true, false, or words such as key=url,host until=run "
        "keep=60 scope=job over=raise same=true, where key names parameters.", text, t->name);
}

static bool get_keys(dti_arena *arena, dti_typeinfo *t, dtask_str map) {
    dtask_str limit = dti_mp_get(map, "limit"), unique = dti_mp_get(map, "unique");
    bool yes = true;
    uint32_t list = array_n(limit), nlimits = !limit.p || is_nil(limit) ? 0 : list == UINT32_MAX ? 1 : list;
    if (!unique.p || is_nil(unique) || (dti_mp_bool(unique, &yes) && !yes)) unique = (dtask_str){0};
    if (nlimits > 8) return false;
    dti_keyrule *rules = dti_alloc0(arena, (nlimits + 1) * sizeof *rules);
    if (!rules) return false;
    uint32_t n = 0;
    // The unique one first: a call that joins another asks for no permits.
    if (unique.p && !get_unique(t, unique, &rules[n++])) return false;
    for (uint32_t i = 0; i < nlimits; i++)
        if (!get_limit(t, list == UINT32_MAX ? limit : dti_mp_at(limit, i), &rules[n++])) return false;
    t->keys = rules;
    t->nkeys = n;
    return true;
}

static bool get_params(dti_arena *arena, dti_typeinfo *t, dtask_str map) {
    dtask_str v = dti_mp_get(map, "params");
    uint32_t n = array_n(v);
    if (t->sig && !t->sig->any) n = t->sig->nparams;
    else if (!v.p || is_nil(v)) return true;
    else if (n > 1000) return false;
    const char **names = dti_alloc0(arena, (n + 1) * sizeof *names);
    if (!names) return false;
    for (uint32_t i = 0; i < n; i++) {
        dtask_str text;
        if (t->sig && !t->sig->any) names[i] = t->sig->params[i].name;
        else if (!dti_mp_text(dti_mp_at(v, i), &text) || !(names[i] = dti_dupz(arena, text))) return false;
    }
    t->params = names;
    t->nparams = n;
    return true;
}

dtask_err dti_type_parse(dti_arena *arena, uint32_t no, uint32_t version, dtask_str name, dtask_str signature, dtask_str options,
    dti_typeinfo **out) {
    dti_typeinfo *t = dti_alloc0(arena, sizeof *t);
    char *own_name = t ? dti_dupz(arena, name) : NULL, *own_sig = own_name ? dti_dupz(arena, signature) : NULL;
    if (!own_sig) return dti_fail(DTASK_ENOMEM, "No memory for a task type.");
    *t = (dti_typeinfo){.no = no, .version = version, .min_version = 1, .name = own_name, .signature = own_sig, .crashes = 3,
        .backoff = {.first = 1, .factor = 2, .max = 300, .jitter = true}};
    dti_sig *sig;
    dtask_err err;
    if (signature.n) {
        if ((err = dti_sig_parse(arena, own_sig, &sig))) return named(err, name);
        t->sig = sig;
    }
    if (options.n) {
        dti_mp m = dti_mp_of(options);
        dti_mpval head;
        if (dti_mp_check(options, "The type's options") || !dti_mp_next(&m, &head) || head.kind != DTI_MP_MAP)
            return wrong(name, "map of options");
    }
    int64_t timeout_us = 0, prio = 0;
    dtask_str v = dti_mp_get(options, "priority"), language = {0};
    if (v.p && (!dti_mp_int(v, &prio) || prio < -2 || prio > 2)) return wrong(name, "priority: it is -2 to 2");
    t->prio = (int8_t)prio;
    dti_mp_text(dti_mp_get(options, "language"), &language);
    if (!(t->language = dti_dupz(arena, language))) return dti_fail(DTASK_ENOMEM, "No memory for a task type.");
    if (!get_u32(options, "retries", 0, &t->retries)) return wrong(name, "number of retries");
    if (!get_u32(options, "crashes", 0, &t->crashes)) return wrong(name, "number of crashes");
    if (!get_u32(options, "min_version", 1, &t->min_version)) return wrong(name, "min_version");
    if (!get_us(options, "timeout", &timeout_us) || timeout_us > (int64_t)UINT32_MAX * 1000) return wrong(name, "timeout");
    t->timeout_ms = (uint32_t)((timeout_us + 999) / 1000);
    if (!get_us(options, "expires", &t->expires_us)) return wrong(name, "expires");
    if (!get_backoff(options, &t->backoff)) return wrong(name, "backoff");
    if (!get_params(arena, t, options)) return wrong(name, "list of parameters");
    if (!get_keys(arena, t, options)) return wrong(name, "limit or unique: see that its key names parameters");
    *out = t;
    return DTASK_OK;
}

dtask_err dti_key_spread(const dtask_app *app, const dti_typeinfo *t, const dti_keyrule *rule) {
    if (app->engine->shards <= 1 || rule->spec.scope) return DTASK_OK;
    return dti_fail(DTASK_EUSAGE, "The type %s has a %s over the whole app, and this app lies in %u shards of a Redis Cluster, none of which sees the "
        "others' tasks: give it the scope \"job\", or use a Redis that is no Cluster.", t->name,
        rule->spec.kind == DTI_KEY_LIMIT ? "limit" : "unique key", app->engine->shards);
}

dtask_err dti_type_spread(const dtask_app *app, const dti_typeinfo *t) {
    dtask_err err = DTASK_OK;
    for (uint32_t i = 0; i < t->nkeys && !err; i++) err = dti_key_spread(app, t, &t->keys[i]);
    return err;
}

// ---- backoff ------------------------------------------------------------------------

int64_t dti_backoff_us(const dti_backoff *b, uint32_t tries, uint64_t random) {
    uint32_t before = tries ? tries - 1 : 0;
    if (b->nlist) return (int64_t)(b->list[before < b->nlist ? before : b->nlist - 1] * 1e6);
    double s = b->first;
    for (uint32_t i = 0; i < before && s < b->max && b->factor > 1; i++) s *= b->factor;
    if (s > b->max) s = b->max;
    // Full jitter: anywhere from nothing to all of it.
    if (b->jitter) s *= (double)(random >> 11) * 0x1p-53;
    return (int64_t)(s * 1e6);
}
