// A start that was written down (codec.h), read back from bytes that may be
// anything: all that the model would take on trust is checked here.
#include "engines/redis/codec.h"
#include "engines/redis/reader.h"

static uint64_t get_at_most(list *l, uint64_t most) {
    uint64_t v = get_uint(l);
    if (v > most) l->t->bad = true;
    return v;
}

static void get_call_hash(list *l, uint64_t h[2]) {
    dtask_str s = get_str(l);
    if (s.n == 16) memcpy(h, s.p, 16);
    else l->t->bad = true;
}

// A msgpack value of a kind, or empty.
static dtask_str get_value(list *l, dti_mpkind kind) {
    dtask_str s = get_str(l);
    dti_mp at = dti_mp_of(s);
    dti_mpval v;
    if (s.n && (dti_mp_check(s, "a value") || !dti_mp_next(&at, &v) || v.kind != kind)) l->t->bad = true;
    return s;
}

static void get_key(list *l, dti_keyspec *k) {
    list in = get_list(l);
    get_call_hash(&in, k->h);
    k->kind = (uint8_t)get_at_most(&in, DTI_KEY_UNIQUE);
    k->over = (uint8_t)get_at_most(&in, DTI_OVER_RAISE);
    k->until = (uint8_t)get_at_most(&in, DTI_UNTIL_RUN);
    k->scope = get_u8(&in);
    k->same = get_bool(&in);
    k->max = get_u32(&in);
    k->per_us = get_int(&in);
    k->keep_us = get_int(&in);
}

static void get_new(list *l, dti_new *t) {
    list in = get_list(l);
    t->type = get_u32(&in);
    int64_t prio = get_int(&in);
    if (prio < -2 || prio > 2) l->t->bad = true;
    t->prio = (int8_t)prio;
    uint64_t bits = get_at_most(&in, 3);
    t->may_fail = bits & 1;
    t->journal = bits & 2;
    get_call_hash(&in, t->call);
    t->args = get_value(&in, DTI_MP_ARRAY);
    t->retries = get_u32(&in);
    t->crashes = get_u32(&in);
    t->timeout_ms = get_u32(&in);
    t->ptries = (uint32_t)get_at_most(&in, 0);
    t->due = get_int(&in);
    t->expires = get_int(&in);
    if (get_list(&in).left) l->t->bad = true; // it has no siblings
    list each;
    dti_keyspec *keys = get_many(&in, &each, &t->nkeys, sizeof *keys);
    for (uint32_t i = 0; i < t->nkeys; i++) get_key(&each, &keys[i]);
    t->keys = keys;
}

bool dti_redis_take_start(dti_arena *arena, dtask_str bytes, dti_start *out) {
    take t = {.arena = arena};
    list whole = {.t = &t, .at = dti_mp_of(bytes), .left = 1};
    list in = get_list(&whole);
    *out = (dti_start){0};
    if (t.bad || whole.at.p != whole.at.end || in.left != 12 || get_uint(&in) != DTI_OP_START) return false;
    out->id = get_str(&in);
    get_new(&in, &out->task);
    out->tags = get_value(&in, DTI_MP_MAP);
    out->trigger = get_value(&in, DTI_MP_MAP);
    out->of = get_uint(&in);
    out->max_tasks = get_u32(&in);
    out->max_depth = get_u32(&in);
    out->keep = (uint8_t)get_at_most(&in, DTI_KEEP_ROOT);
    out->retain_us = get_int(&in);
    out->grace_us = get_int(&in);
    out->blob_min = get_u32(&in);
    return !t.bad && !t.nomem && !dti_id_check(out->id, false) && out->retain_us >= 0 && out->grace_us >= 0;
}
