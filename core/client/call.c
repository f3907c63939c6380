// How a call becomes a row: its options, the hash it is known by, the keys of
// its limits, its policy and its times.
#include "client/client.h"

#include <limits.h>
#include <string.h>

enum { TAGS_MAX = 32, TAG_BYTES_MAX = 4096, KEY_BYTES_MAX = 1024 };

// ---- OPTS of one call ------------------------------------------------------------

static dtask_err unfit(const char *name, const char *value, const char *what) {
    return dti_fail(DTASK_EARGS, "The option %s cannot be \"%.100s\": give %s.", name, value, what);
}

static dtask_err number(const char *name, const char *value, int64_t least, int64_t most, const char *what, int *out) {
    int64_t v;
    if (!dti_text_int(value, &v) || v < least || v > most) return unfit(name, value, what);
    *out = (int)v;
    return DTASK_OK;
}

static dtask_err set(const char *name, const char *value, bool is_start, dti_callopts *o) {
    static const char seconds[] = "seconds, such as 1.5, 90s, 5m";
    bool yes;
    if (!strcmp(name, "id")) {
        if (!is_start) return dti_fail(DTASK_EARGS, "The option id is of a job: a child takes the option key.");
        if (!*value) return unfit(name, value, "1 to 200 bytes");
        o->id = dti_strz(value);
        for (const char *p = value, *end = p + o->id.n; p < end;) {
            size_t n = dti_utf8_sign(p, end);
            if (!n) return dti_fail(DTASK_EARGS, "The option id is no UTF-8 text.");
            p += n;
        }
        return DTASK_OK;
    }
    if (!strcmp(name, "key")) {
        if (is_start) return dti_fail(DTASK_EARGS, "The option key is of a child: a job takes the option id.");
        if (!*value || strlen(value) > KEY_BYTES_MAX) return unfit(name, value, "1 to 1024 bytes");
        o->key = dti_strz(value);
        return DTASK_OK;
    }
    if (!strcmp(name, "delay")) return dti_text_us(value, &o->delay_us) ? DTASK_OK : unfit(name, value, seconds);
    if (!strcmp(name, "at")) return dti_text_us(value, &o->at_us) ? DTASK_OK : unfit(name, value, "seconds since 1970");
    if (!strcmp(name, "timeout")) return dti_text_us(value, &o->timeout_us) ? DTASK_OK : unfit(name, value, seconds);
    if (!strcmp(name, "expires")) return dti_text_us(value, &o->expires_us) ? DTASK_OK : unfit(name, value, seconds);
    if (!strcmp(name, "priority")) return number(name, value, -2, 2, "-2 to 2", &o->prio);
    if (!strcmp(name, "retries")) return number(name, value, 0, INT_MAX, "a number from 0", &o->retries);
    if (!strcmp(name, "unique")) return o->unique = value, DTASK_OK; // read where the type is known
    if (!strcmp(name, "may_fail")) {
        if (!dti_text_bool(value, &yes)) return unfit(name, value, "1 or 0");
        o->may_fail = yes;
        return DTASK_OK;
    }
    return dti_fail(DTASK_EARGS, "A call has no option \"%.100s\": there are id key delay at priority retries timeout expires unique may_fail tag.NAME.",
        name);
}

static dtask_err tag(const char *name, const char *value, bool is_start, dti_buf *tags, uint32_t *n) {
    if (!is_start) return dti_fail(DTASK_EARGS, "The option %.100s is of a job: children have no tags.", name);
    size_t from = tags->n;
    dti_mp_put_strz(tags, name + strlen("tag."));
    size_t mid = tags->n;
    dti_mp_put_strz(tags, value);
    if (tags->failed) return dti_fail(DTASK_ENOMEM, "No memory for tags.");
    if (dti_mp_check(dti_str(tags->p + from, mid - from), "A tag") || dti_mp_check(dti_str(tags->p + mid, tags->n - mid), "A tag"))
        return DTASK_EARGS;
    if (++*n > TAGS_MAX || tags->n > TAG_BYTES_MAX)
        return dti_fail(DTASK_ETOOBIG, "A job has at most %d tags with %d bytes in all.", TAGS_MAX, TAG_BYTES_MAX);
    return DTASK_OK;
}

dtask_err dti_callopts_parse(dti_arena *arena, const char *const *opts, bool is_start, dti_callopts *out) {
    dti_callopts o = {.delay_us = -1, .at_us = -1, .prio = INT_MIN, .retries = INT_MIN, .timeout_us = -1, .expires_us = -1};
    dti_buf tags = {0};
    uint32_t ntags = 0;
    dtask_err err = DTASK_OK;
    for (const char *const *p = opts; !err && p && *p; p += 2) {
        if (!p[1]) err = dti_fail(DTASK_EARGS, "The option %.100s has no value.", p[0]);
        else if ((err = dti_option_once(opts, p))) break;
        else if (!strncmp(p[0], "tag.", 4) && p[0][4]) err = tag(p[0], p[1], is_start, &tags, &ntags);
        else err = set(p[0], p[1], is_start, &o);
    }
    if (!err && o.delay_us >= 0 && o.at_us >= 0) err = dti_fail(DTASK_EARGS, "A call has either delay or at, not both.");
    if (!err && o.timeout_us > (int64_t)UINT32_MAX * 1000) err = dti_fail(DTASK_EARGS, "The option timeout is at most 49 days.");
    if (!err && ntags) {
        dti_buf map = {0};
        dti_mp_put_map(&map, ntags);
        dti_mp_put_raw(&map, dti_str(tags.p, tags.n));
        o.tags = map.failed ? (dtask_str){0} : dti_dup(arena, dti_str(map.p, map.n));
        if (!o.tags.p) err = dti_fail(DTASK_ENOMEM, "No memory for tags.");
        dti_buf_done(&map);
    }
    dti_buf_done(&tags);
    if (!err) *out = o;
    return err;
}

dtask_err dti_call_check_names(dtask_app *app, const char *type, const char *fmt, uint32_t before) {
    if (!fmt || !strchr(fmt, ':')) return DTASK_OK;
    const dti_typeinfo *info;
    dtask_err err = dti_type_find(app, dti_strz(type), 0, &info);
    return err ? err : dti_fmt_check_names(fmt, before, info);
}

// ---- the row -----------------------------------------------------------------------

// The limit's or unique key's hash: of the type, the rule's kind, scope and
// period, and the arguments that it names.
static dtask_err key_hash(dtask_app *app, const dti_typeinfo *type, const dti_keyrule *rule, dtask_str args, dti_buf *b, uint64_t h[2]) {
    b->n = 0;
    dti_buf_add(b, type->name, strlen(type->name) + 1);
    dti_buf_add(b, &rule->spec.kind, 1);
    dti_buf_add(b, &rule->spec.scope, 1);
    dti_buf_add(b, &rule->spec.per_us, sizeof rule->spec.per_us);
    if (rule->all) dti_buf_add(b, args.p, args.n);
    for (uint32_t i = 0; i < rule->nparams; i++) {
        dtask_str v = dti_mp_at(args, rule->params[i]);
        dti_mp m = dti_mp_of(v);
        dti_mpval head;
        if (v.p && dti_mp_next(&m, &head) && head.kind == DTI_MP_EXT && head.ext == DTASK_B_EXT_OUTPUT)
            return dti_fail(DTASK_EARGS, "The argument %s of %s is part of a limit or unique key: it cannot stand for another task's result.",
                type->params[rule->params[i]], type->name);
        dti_buf_add(b, &rule->params[i], sizeof rule->params[i]);
        if (v.p) dti_buf_add(b, v.p, v.n);
        else dti_mp_put_nil(b);
    }
    if (b->failed) return dti_fail(DTASK_ENOMEM, "No memory for a key.");
    dti_hash hash = dti_hash128(b->p, b->n, app->engine->salt);
    memcpy(h, hash.h, sizeof hash.h);
    return DTASK_OK;
}

// The type's, but the unique one that the call brings instead of its type's.
static dtask_err keys(dtask_app *app, dti_arena *arena, const dti_typeinfo *type, const char *unique, dtask_str args, dti_new *out) {
    dti_keyrule own;
    bool on = false;
    dtask_err err = unique ? dti_unique_rule(type, unique, &on, &own) : DTASK_OK;
    const dti_keyrule **rules = dti_alloc(arena, (type->nkeys + 1) * sizeof *rules);
    dti_keyspec *specs = dti_alloc(arena, (type->nkeys + 1) * sizeof *specs);
    if (err) return err;
    if (!rules || !specs) return dti_fail(DTASK_ENOMEM, "No memory for keys.");
    uint32_t n = 0;
    if (on) rules[n++] = &own; // before the limits, as in a type
    for (uint32_t i = 0; i < type->nkeys; i++)
        if (!unique || type->keys[i].spec.kind != DTI_KEY_UNIQUE) rules[n++] = &type->keys[i];
    dti_buf b = {0};
    for (uint32_t i = 0; !err && i < n; i++) {
        specs[i] = rules[i]->spec;
        err = dti_key_spread(app, type, rules[i]);
        if (!err) err = key_hash(app, type, rules[i], args, &b, specs[i].h);
    }
    dti_buf_done(&b);
    out->keys = specs;
    out->nkeys = n;
    return err;
}

dtask_err dti_call_make(dtask_app *app, dti_arena *arena, const dti_typeinfo *type, const dti_callopts *o, dtask_str args, dtask_str hashed,
    dti_new *out) {
    dti_mp m = dti_mp_of(args);
    dti_mpval head;
    if (!dti_mp_next(&m, &head) || head.kind != DTI_MP_ARRAY)
        return dti_fail(DTASK_EARGS, "The arguments of %s must be a msgpack array.", type->name);
    if (args.n > app->conf.max_payload)
        return dti_fail(DTASK_ETOOBIG, "The arguments of %s have %zu bytes, over max_payload (%zu): pass a reference instead.", type->name,
            args.n, app->conf.max_payload);
    dtask_err err = type->sig ? dti_sig_check_args(type->sig, type->name, args) : DTASK_OK;
    if (err) return err;

    // One copy, what the hash is of: name, zero byte, arguments. A call with
    // a key is known by that alone, so that another type under it is seen.
    size_t n = strlen(type->name) + 1;
    dtask_str subject = o->key.n ? o->key : hashed.n ? hashed : args;
    if (o->key.n) n = 1;
    char *copy = dti_alloc(arena, n + subject.n);
    if (!copy) return dti_fail(DTASK_ENOMEM, "No memory for a call.");
    memcpy(copy, o->key.n ? "" : type->name, n);
    memcpy(copy + n, subject.p, subject.n);
    dti_hash call = dti_hash128(copy, n + subject.n, app->engine->salt);

    dti_new made = {
        .type = type->no,
        .prio = (int8_t)(o->prio == INT_MIN ? type->prio : o->prio),
        .may_fail = o->may_fail,
        .call = {call.h[0], call.h[1]},
        .args = subject.p == args.p ? dti_str(copy + n, args.n) : dti_dup(arena, args),
        .retries = o->retries == INT_MIN ? type->retries : (uint32_t)o->retries,
        .crashes = type->crashes,
        .timeout_ms = o->timeout_us < 0 ? type->timeout_ms : (uint32_t)((o->timeout_us + 999) / 1000),
    };
    if (!made.args.p) return dti_fail(DTASK_ENOMEM, "No memory for a call.");
    int64_t expires = o->expires_us < 0 ? type->expires_us : o->expires_us;
    if (o->delay_us > 0 || o->at_us >= 0 || expires > 0) {
        int64_t now = dti_wall_us();
        made.due = o->delay_us > 0 ? now + o->delay_us : o->at_us > now ? o->at_us : 0;
        // It must begin so long after it could.
        if (expires > 0) made.expires = (made.due ? made.due : now) + expires;
    }
    if ((type->nkeys || o->unique) && (err = keys(app, arena, type, o->unique, made.args, &made))) return err;
    *out = made;
    return DTASK_OK;
}
