// msgpack: reading in place, writing into a buffer.
//
// Reading allocates nothing and trusts nothing: msgpack-c's unpacker builds a
// tree and reserves what a header claims, so arguments are read here by a
// cursor over the bytes. Writing goes through msgpack-c's packer.
//
// Bytes that come from outside (arguments, results, messages) pass
// dti_mp_check once; after that a cursor cannot fail.
#pragma once

#include "base/base.h"

enum { DTI_MP_DEPTH_MAX = 32 };

typedef enum {
    DTI_MP_BAD,      // end of bytes, or not msgpack
    DTI_MP_NIL, DTI_MP_BOOL, DTI_MP_INT /* negative, i */, DTI_MP_UINT /* >= 0, u */, DTI_MP_FLOAT,
    DTI_MP_STR, DTI_MP_BIN, DTI_MP_EXT, DTI_MP_ARRAY, DTI_MP_MAP
} dti_mpkind;

typedef struct {
    dti_mpkind kind;
    int8_t ext;          // EXT: its type
    union { bool b; int64_t i; uint64_t u; double f; uint32_t n; /* ARRAY: elements, MAP: pairs */ };
    dtask_str s;         // STR, BIN, EXT: the bytes
} dti_mpval;

typedef struct { const char *p, *end; } dti_mp;  // a cursor

static inline dti_mp dti_mp_of(dtask_str s) { return (dti_mp){s.p, s.p + s.n}; }
// The next token (of an array or map only its head) and moves on. False: BAD.
bool dti_mp_next(dti_mp *, dti_mpval *out);
// Steps over one whole value; *out (may be NULL) is its bytes. False: BAD, or
// nested deeper than DTI_MP_DEPTH_MAX.
bool dti_mp_skip(dti_mp *, dtask_str *out);
// 0 if `s` is exactly one well-formed value, nested at most DTI_MP_DEPTH_MAX
// deep, its text valid UTF-8; else EARGS, the detail naming `what`.
dtask_err dti_mp_check(dtask_str s, const char *what);
// The length of the UTF-8 sign at p < end; 0: it is none.
size_t dti_utf8_sign(const char *p, const char *end);
// The value of text key `key` in the map `map`; {NULL, 0}: absent, or no map.
dtask_str dti_mp_get(dtask_str map, const char *key);
// Array `array`'s element i; {NULL, 0}: absent, or no array.
dtask_str dti_mp_at(dtask_str array, uint32_t i);
// Plain reads of one value; false: another kind (or it does not fit).
bool dti_mp_int(dtask_str v, int64_t *out);
bool dti_mp_float(dtask_str v, double *out);     // any number
bool dti_mp_bool(dtask_str v, bool *out);
bool dti_mp_text(dtask_str v, dtask_str *out);   // STR

// ---- writing; failures stay in buf.failed --------------------------------------
void dti_mp_put_nil(dti_buf *);
void dti_mp_put_bool(dti_buf *, bool);
void dti_mp_put_int(dti_buf *, int64_t);
void dti_mp_put_uint(dti_buf *, uint64_t);
void dti_mp_put_float(dti_buf *, double);
void dti_mp_put_str(dti_buf *, dtask_str);
void dti_mp_put_strz(dti_buf *, const char *);
void dti_mp_put_bin(dti_buf *, dtask_str);
void dti_mp_put_ext(dti_buf *, int8_t type, dtask_str);
void dti_mp_put_array(dti_buf *, uint32_t n);    // head; n values follow
void dti_mp_put_map(dti_buf *, uint32_t n);      // head; n pairs follow
void dti_mp_put_raw(dti_buf *, dtask_str value); // a value that is msgpack already
