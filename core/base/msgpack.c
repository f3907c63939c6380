// msgpack, read in place and written through msgpack-c's packer: see msgpack.h.
#include "base/msgpack.h"

#include <msgpack/pack.h>
#include <string.h>

// ---- reading -----------------------------------------------------------------

static bool take(dti_mp *m, unsigned bytes, uint64_t *out) {
    if ((size_t)(m->end - m->p) < bytes) return false;
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++) v = v << 8 | (unsigned char)m->p[i];
    m->p += bytes;
    *out = v;
    return true;
}

static bool take_bytes(dti_mp *m, dti_mpval *out, dti_mpkind kind, uint64_t n) {
    if ((uint64_t)(m->end - m->p) < n) return false;
    out->kind = kind;
    out->s = dti_str(m->p, n);
    m->p += n;
    return true;
}

static bool take_int(dti_mp *m, dti_mpval *out, unsigned bytes) {
    uint64_t v;
    if (!take(m, bytes, &v)) return false;
    unsigned unused = 64 - 8 * bytes;
    int64_t i = (int64_t)(v << unused) >> unused;
    if (i < 0) {
        out->kind = DTI_MP_INT;
        out->i = i;
    } else {
        out->kind = DTI_MP_UINT;
        out->u = (uint64_t)i;
    }
    return true;
}

// The token at m; on false m may stand anywhere.
static bool token(dti_mp *m, dti_mpval *out) {
    uint64_t v, n;
    if (!take(m, 1, &v)) return false;
    unsigned c = (unsigned)v;
    if (c <= 0x7f) return out->kind = DTI_MP_UINT, out->u = c, true;
    if (c >= 0xe0) return out->kind = DTI_MP_INT, out->i = (int)c - 256, true;
    if (c <= 0x8f) return out->kind = DTI_MP_MAP, out->n = c & 15, true;
    if (c <= 0x9f) return out->kind = DTI_MP_ARRAY, out->n = c & 15, true;
    if (c <= 0xbf) return take_bytes(m, out, DTI_MP_STR, c & 31);
    switch (c) {
    case 0xc0: return out->kind = DTI_MP_NIL, true;
    case 0xc2:
    case 0xc3: return out->kind = DTI_MP_BOOL, out->b = c & 1, true;
    case 0xc4:
    case 0xc5:
    case 0xc6: return take(m, 1u << (c - 0xc4), &n) && take_bytes(m, out, DTI_MP_BIN, n);
    case 0xc7:
    case 0xc8:
    case 0xc9:
        if (!take(m, 1u << (c - 0xc7), &n) || !take(m, 1, &v)) return false;
        out->ext = (int8_t)v;
        return take_bytes(m, out, DTI_MP_EXT, n);
    case 0xca: {
        if (!take(m, 4, &v)) return false;
        uint32_t bits = (uint32_t)v;
        float f;
        memcpy(&f, &bits, sizeof f);
        return out->kind = DTI_MP_FLOAT, out->f = (double)f, true;
    }
    case 0xcb:
        if (!take(m, 8, &v)) return false;
        memcpy(&out->f, &v, sizeof v);
        return out->kind = DTI_MP_FLOAT, true;
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        if (!take(m, 1u << (c - 0xcc), &v)) return false;
        return out->kind = DTI_MP_UINT, out->u = v, true;
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3: return take_int(m, out, 1u << (c - 0xd0));
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        if (!take(m, 1, &v)) return false;
        out->ext = (int8_t)v;
        return take_bytes(m, out, DTI_MP_EXT, 1u << (c - 0xd4));
    case 0xd9:
    case 0xda:
    case 0xdb: return take(m, 1u << (c - 0xd9), &n) && take_bytes(m, out, DTI_MP_STR, n);
    case 0xdc:
    case 0xdd:
        if (!take(m, c == 0xdc ? 2 : 4, &n)) return false;
        return out->kind = DTI_MP_ARRAY, out->n = (uint32_t)n, true;
    case 0xde:
    case 0xdf:
        if (!take(m, c == 0xde ? 2 : 4, &n)) return false;
        return out->kind = DTI_MP_MAP, out->n = (uint32_t)n, true;
    }
    return false; // 0xc1 is never used
}

bool dti_mp_next(dti_mp *m, dti_mpval *out) {
    const char *start = m->p;
    if (token(m, out)) return true;
    m->p = start;
    out->kind = DTI_MP_BAD;
    return false;
}

// What RFC 3629 allows and no more: no overlong forms, no surrogates, nothing
// above U+10FFFF.
size_t dti_utf8_sign(const char *from, const char *to) {
    const unsigned char *p = (const unsigned char *)from, *end = (const unsigned char *)to;
    size_t more, least = 0x80, most = 0xbf;
    unsigned c = *p;
    if (c < 0x80) return 1;
    if (c >= 0xc2 && c <= 0xdf) more = 1;
    else if (c >= 0xe0 && c <= 0xef) {
        more = 2;
        if (c == 0xe0) least = 0xa0;
        if (c == 0xed) most = 0x9f;
    } else if (c >= 0xf0 && c <= 0xf4) {
        more = 3;
        if (c == 0xf0) least = 0x90;
        if (c == 0xf4) most = 0x8f;
    } else return 0;
    if ((size_t)(end - p) <= more) return 0;
    for (size_t i = 1; i <= more; i++, least = 0x80, most = 0xbf)
        if (p[i] < least || p[i] > most) return 0;
    return more + 1;
}

static bool utf8(dtask_str s) {
    for (const char *p = s.p, *end = p + s.n; p < end;) {
        uint64_t eight;
        if (end - p >= 8 && (memcpy(&eight, p, 8), !(eight & 0x8080808080808080u))) {
            p += 8;
            continue;
        }
        size_t n = dti_utf8_sign(p, end);
        if (!n) return false;
        p += n;
    }
    return true;
}

// One whole value. Iterative, so that no input can deepen the C stack.
static const char *walk(dti_mp *m, bool check_text) {
    uint64_t left[DTI_MP_DEPTH_MAX + 1] = {1}; // values still to come, by nesting
    unsigned depth = 0;
    for (;;) {
        while (left[depth] == 0) {
            if (depth == 0) return NULL;
            depth--;
        }
        left[depth]--;
        dti_mpval v;
        const char *start = m->p;
        if (!token(m, &v)) return m->p = start, start < m->end && *start == '\xc1' ? "is no msgpack" : "ends too early";
        if (v.kind == DTI_MP_STR && check_text && !utf8(v.s)) return "holds text that is not UTF-8";
        if (v.kind != DTI_MP_ARRAY && v.kind != DTI_MP_MAP) continue;
        if (depth == DTI_MP_DEPTH_MAX) return "is nested too deep";
        left[++depth] = v.kind == DTI_MP_MAP ? 2 * (uint64_t)v.n : v.n;
    }
}

bool dti_mp_skip(dti_mp *m, dtask_str *out) {
    const char *start = m->p;
    if (walk(m, false)) {
        m->p = start;
        return false;
    }
    if (out) *out = dti_str(start, (size_t)(m->p - start));
    return true;
}

dtask_err dti_mp_check(dtask_str s, const char *what) {
    dti_mp m = dti_mp_of(s);
    const char *wrong = s.n ? walk(&m, true) : "is empty";
    if (!wrong && m.p != m.end) wrong = "goes on after its end";
    if (!wrong) return DTASK_OK;
    return dti_fail(DTASK_EARGS, "%s %s (at byte %zu of %zu): give one msgpack value, nested at most %d deep.", what, wrong,
        s.n ? (size_t)(m.p - s.p) : 0, s.n, DTI_MP_DEPTH_MAX);
}

dtask_str dti_mp_get(dtask_str map, const char *key) {
    dti_mp m = dti_mp_of(map);
    dti_mpval head, k;
    dtask_str want = dti_strz(key), v;
    if (!dti_mp_next(&m, &head) || head.kind != DTI_MP_MAP) return (dtask_str){0};
    for (uint32_t i = 0; i < head.n; i++) {
        dti_mp at = m;
        if (!dti_mp_next(&at, &k) || !dti_mp_skip(&m, NULL) || !dti_mp_skip(&m, &v)) break;
        if (k.kind == DTI_MP_STR && dti_str_eq(k.s, want)) return v;
    }
    return (dtask_str){0};
}

dtask_str dti_mp_at(dtask_str array, uint32_t i) {
    dti_mp m = dti_mp_of(array);
    dti_mpval head;
    dtask_str v;
    if (!dti_mp_next(&m, &head) || head.kind != DTI_MP_ARRAY || i >= head.n) return (dtask_str){0};
    while (dti_mp_skip(&m, &v))
        if (i-- == 0) return v;
    return (dtask_str){0};
}

static bool one(dtask_str s, dti_mpval *out) {
    dti_mp m = dti_mp_of(s);
    return dti_mp_next(&m, out) && m.p == m.end;
}

bool dti_mp_int(dtask_str v, int64_t *out) {
    dti_mpval x;
    if (!one(v, &x)) return false;
    if (x.kind == DTI_MP_INT) return *out = x.i, true;
    if (x.kind == DTI_MP_UINT && x.u <= INT64_MAX) return *out = (int64_t)x.u, true;
    return false;
}

bool dti_mp_float(dtask_str v, double *out) {
    dti_mpval x;
    if (!one(v, &x)) return false;
    if (x.kind == DTI_MP_FLOAT) return *out = x.f, true;
    if (x.kind == DTI_MP_INT) return *out = (double)x.i, true;
    if (x.kind == DTI_MP_UINT) return *out = (double)x.u, true;
    return false;
}

bool dti_mp_bool(dtask_str v, bool *out) {
    dti_mpval x;
    return one(v, &x) && x.kind == DTI_MP_BOOL && (*out = x.b, true);
}

bool dti_mp_text(dtask_str v, dtask_str *out) {
    dti_mpval x;
    return one(v, &x) && x.kind == DTI_MP_STR && (*out = x.s, true);
}

// ---- writing -----------------------------------------------------------------

static int append(void *buf, const char *p, size_t n) {
    return dti_buf_add(buf, p, n) ? 0 : -1;
}

static msgpack_packer packer(dti_buf *b) {
    return (msgpack_packer){b, append};
}

// msgpack counts bytes and elements with 32 bits.
static bool fits(dti_buf *b, size_t n) {
    if (n > UINT32_MAX) b->failed = true;
    return !b->failed;
}

void dti_mp_put_nil(dti_buf *b) {
    msgpack_packer k = packer(b);
    msgpack_pack_nil(&k);
}

void dti_mp_put_bool(dti_buf *b, bool v) {
    msgpack_packer k = packer(b);
    if (v) msgpack_pack_true(&k);
    else msgpack_pack_false(&k);
}

void dti_mp_put_int(dti_buf *b, int64_t v) {
    msgpack_packer k = packer(b);
    msgpack_pack_int64(&k, v);
}

void dti_mp_put_uint(dti_buf *b, uint64_t v) {
    msgpack_packer k = packer(b);
    msgpack_pack_uint64(&k, v);
}

void dti_mp_put_float(dti_buf *b, double v) {
    msgpack_packer k = packer(b);
    msgpack_pack_double(&k, v);
}

void dti_mp_put_str(dti_buf *b, dtask_str s) {
    msgpack_packer k = packer(b);
    if (!fits(b, s.n)) return;
    msgpack_pack_str(&k, s.n);
    msgpack_pack_str_body(&k, s.p, s.n);
}

void dti_mp_put_strz(dti_buf *b, const char *z) {
    dti_mp_put_str(b, dti_strz(z));
}

void dti_mp_put_bin(dti_buf *b, dtask_str s) {
    msgpack_packer k = packer(b);
    if (!fits(b, s.n)) return;
    msgpack_pack_bin(&k, s.n);
    msgpack_pack_bin_body(&k, s.p, s.n);
}

void dti_mp_put_ext(dti_buf *b, int8_t type, dtask_str s) {
    msgpack_packer k = packer(b);
    if (!fits(b, s.n)) return;
    msgpack_pack_ext(&k, s.n, type);
    msgpack_pack_ext_body(&k, s.p, s.n);
}

void dti_mp_put_array(dti_buf *b, uint32_t n) {
    msgpack_packer k = packer(b);
    msgpack_pack_array(&k, n);
}

void dti_mp_put_map(dti_buf *b, uint32_t n) {
    msgpack_packer k = packer(b);
    msgpack_pack_map(&k, n);
}

void dti_mp_put_raw(dti_buf *b, dtask_str value) {
    dti_buf_add(b, value.p, value.n);
}
