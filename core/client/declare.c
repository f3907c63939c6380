// Types made known by who does not serve them, and the options shown.
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

enum { DECLARE_MAX = 1000 };

// The options with min_version among them, where it is not 1.
static dtask_str with_min_version(dti_arena *arena, dtask_str options, uint32_t min_version) {
    if (min_version <= 1) return options;
    dti_mp m = dti_mp_of(options);
    dti_mpval head = {.kind = DTI_MP_MAP};
    if (options.n) dti_mp_next(&m, &head);
    dti_buf b = {0};
    dti_mp_put_map(&b, head.n + 1);
    dti_mp_put_strz(&b, "min_version");
    dti_mp_put_uint(&b, min_version);
    if (options.n) dti_mp_put_raw(&b, dti_str(m.p, (size_t)(m.end - m.p)));
    dtask_str all = b.failed ? (dtask_str){0} : dti_dup(arena, dti_str(b.p, b.n));
    dti_buf_done(&b);
    return all;
}

dtask_err dti_type_publish(const dtask_app *app, dti_arena *arena, const dtask_b_type *type, dti_hello_type *out) {
    dti_typeinfo *info;
    dtask_str name = dti_strz(type->name);
    if (!name.n || name.n > 200) return dti_fail(DTASK_EARGS, "A task type's name has 1 to 200 bytes.");
    for (const char *p = name.p, *end = p + name.n; p < end;) {
        size_t n = dti_utf8_sign(p, end);
        if (!n || (unsigned char)*p < 32 || *p == 127)
            return dti_fail(DTASK_EARGS, "The task type's name that begins \"%.*s\" has the byte 0x%02x at place %zu, no sign of UTF-8 text: leave it out.",
                (int)(p - name.p), name.p, (unsigned char)*p, (size_t)(p - name.p) + 1);
        p += n;
    }
    if (memchr(name.p, ' ', name.n) || memchr(name.p, '!', name.n) || memchr(name.p, '@', name.n) || memchr(name.p, '/', name.n))
        return dti_fail(DTASK_EARGS, "The task type's name \"%.200s\" has one of blank / ! @, which are taken.", name.p);
    if (type->min_version > type->version)
        return dti_fail(DTASK_EARGS, "The task type %.200s has version %u, below its min_version %u.", name.p, type->version, type->min_version);
    dtask_str options = type->options;
    dtask_err err = dti_type_parse(arena, 0, type->version, name, dti_strz(type->signature), options, &info);
    if (!err && app) err = dti_type_spread(app, info);
    if (err) return err;
    if (info->sig && !options.n) options = dti_str(info->sig->options, info->sig->options_n);
    options = with_min_version(arena, options, type->min_version);
    if (type->min_version > 1 && !options.p) return dti_fail(DTASK_ENOMEM, "No memory for a task type.");
    *out = (dti_hello_type){
        .name = dti_strz(info->name),
        .signature = info->sig ? dti_strz(info->sig->text) : (dtask_str){0},
        .options = options,
        .version = type->version ? type->version : 1,
        .crashes = info->crashes,
    };
    return DTASK_OK;
}

// Signatures are compared as text by the model; here by what they say.
static bool agrees(dti_arena *arena, dtask_str a, dtask_str b) {
    dti_sig *x, *y;
    char *one = dti_dupz(arena, a), *other = dti_dupz(arena, b);
    return one && other && !dti_sig_parse(arena, one, &x) && !dti_sig_parse(arena, other, &y) && dti_sig_equal(x, y);
}

dtask_err dti_type_agrees(dti_arena *arena, const dti_hello_type *type) {
    if (!type->refused || agrees(arena, type->registered, type->signature)) return DTASK_OK;
    return dti_fail(DTASK_ECONFLICT, "The type %.*s is registered with another signature: \"%.*s\" is there, \"%.*s\" is here; make them one, or give this type another name.",
        (int)type->name.n, type->name.p, (int)(type->registered.n > 300 ? 300 : type->registered.n), type->registered.p,
        (int)(type->signature.n > 300 ? 300 : type->signature.n), type->signature.p);
}

dtask_err dtask_b_declare(dtask_app *app, const dtask_b_type *types, size_t n) {
    dtask_err err = dti_app_check(app);
    if (err || !n) return err;
    if (n > DECLARE_MAX) return dti_fail(DTASK_ETOOBIG, "At most %d types are declared at once.", DECLARE_MAX);
    dti_arena arena = {0};
    dti_hello_type *rows = dti_alloc0(&arena, n * sizeof *rows);
    if (!rows) err = dti_fail(DTASK_ENOMEM, "No memory for task types.");
    for (size_t i = 0; !err && i < n; i++) err = dti_type_publish(app, &arena, &types[i], &rows[i]);
    if (!err) {
        dti_op op = {.kind = DTI_OP_HELLO, .hello = {.types = rows, .ntypes = (uint32_t)n}};
        err = dti_engine_call(app->engine, &arena, &op);
        for (size_t i = 0; !err && i < n; i++) err = dti_type_agrees(&arena, &rows[i]);
        if (!err) err = dti_types_told(app, rows, n);
    }
    dti_arena_done(&arena);
    return err;
}

dtask_err dtask_b_config(dtask_app *app, dtask_str *out) {
    dtask_err err = dti_app_check(app);
    if (err) return err;
    dti_buf b = {0};
    dti_conf_put(&b, &app->conf, app->source, app->url);
    if (b.failed) {
        dti_buf_done(&b);
        return dti_fail(DTASK_ENOMEM, "No memory for the options.");
    }
    *out = dti_str(b.p, b.n);
    return DTASK_OK;
}

void dtask_b_free(dtask_str s) {
    free((void *)s.p);
}
