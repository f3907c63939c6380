// The golden vectors of proto/: what both languages must read and write alike.
#include <criterion/criterion.h>

#include "base/msgpack.h"
#include "vectors.h"

// Reads one value token by token and writes each again.
static bool copy(dti_mp *in, dti_buf *out) {
    dti_mpval v;
    if (!dti_mp_next(in, &v)) return false;
    switch (v.kind) {
    case DTI_MP_NIL: dti_mp_put_nil(out); break;
    case DTI_MP_BOOL: dti_mp_put_bool(out, v.b); break;
    case DTI_MP_INT: dti_mp_put_int(out, v.i); break;
    case DTI_MP_UINT: dti_mp_put_uint(out, v.u); break;
    case DTI_MP_FLOAT: dti_mp_put_float(out, v.f); break;
    case DTI_MP_STR: dti_mp_put_str(out, v.s); break;
    case DTI_MP_BIN: dti_mp_put_bin(out, v.s); break;
    case DTI_MP_EXT: dti_mp_put_ext(out, v.ext, v.s); break;
    case DTI_MP_ARRAY:
        dti_mp_put_array(out, v.n);
        for (uint32_t i = 0; i < v.n; i++)
            if (!copy(in, out)) return false;
        break;
    case DTI_MP_MAP:
        dti_mp_put_map(out, v.n);
        for (uint32_t i = 0; i < 2 * v.n; i++)
            if (!copy(in, out)) return false;
        break;
    case DTI_MP_BAD: return false;
    }
    return true;
}

Test(vectors, are_written_as_they_were_read) {
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        dtask_str s = {(const char *)vectors[i].bytes, vectors[i].n};
        cr_assert_eq(dti_mp_check(s, "vector"), 0, "%s: %s", vectors[i].name, dtask_err_detail());
        dti_buf out = {0};
        dti_mp in = dti_mp_of(s);
        cr_assert(copy(&in, &out), "%s", vectors[i].name);
        cr_assert_eq(in.p, in.end, "%s", vectors[i].name);
        cr_assert(dti_str_eq(s, (dtask_str){out.p, out.n}), "%s", vectors[i].name);
        dti_buf_done(&out);
    }
}

Test(vectors, malformed_bytes_are_refused) {
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) {
        dtask_str s = {(const char *)malformed[i].bytes, malformed[i].n};
        cr_expect_eq(dti_mp_check(s, "vector"), DTASK_EARGS, "%s", malformed[i].name);
    }
}
