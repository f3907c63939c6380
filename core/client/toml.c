// One flat table out of a TOML file: strings, numbers and booleans. What
// stands in other tables is stepped over, whatever it is, so that a
// pyproject.toml can be read; in our own table anything else is an error.
#include "client/client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 1 << 20 };

typedef struct {
    const char *path, *text, *p; // NUL-ended
} reader;

static dtask_err wrong(const reader *r, const char *what) {
    int line = 1;
    for (const char *c = r->text; c < r->p; c++) line += *c == '\n';
    return dti_fail(DTASK_EARGS, "%s, line %d: %s.", r->path, line, what);
}

static dtask_err slurp(const char *path, char **out, bool *found) {
    *found = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return DTASK_OK;
    struct stat st;
    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        int why = fd < 0 ? errno : EISDIR;
        if (fd >= 0) close(fd);
        return dti_fail(DTASK_EARGS, "The configuration file %s cannot be read: %s.", path, strerror(why));
    }
    char *text = malloc(FILE_MAX + 1);
    ssize_t n = 0, got = 1;
    while (text && got > 0 && n <= FILE_MAX && (got = read(fd, text + n, (size_t)(FILE_MAX + 1 - n))) > 0) n += got;
    close(fd);
    if (!text) return dti_fail(DTASK_ENOMEM, "No memory to read %s.", path);
    if (got < 0 || n > FILE_MAX || memchr(text, 0, (size_t)n)) {
        free(text);
        return dti_fail(DTASK_EARGS, "The configuration file %s is no text of at most 1 MiB.", path);
    }
    text[n] = 0;
    *out = text;
    *found = true;
    return DTASK_OK;
}

static void blanks(reader *r, bool lines) {
    for (;;) {
        if (*r->p == ' ' || *r->p == '\t' || (lines && (*r->p == '\n' || *r->p == '\r'))) r->p++;
        else if (*r->p == '#') r->p += strcspn(r->p, "\n");
        else return;
    }
}

static bool put_utf8(dti_buf *b, unsigned long c) {
    if (c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) || c == 0) return false;
    char s[4];
    size_t n = 0;
    if (c < 0x80) s[n++] = (char)c;
    else {
        if (c < 0x800) s[n++] = (char)(0xc0 | c >> 6);
        else {
            if (c < 0x10000) s[n++] = (char)(0xe0 | c >> 12);
            else s[n++] = (char)(0xf0 | c >> 18), s[n++] = (char)(0x80 | (c >> 12 & 63));
            s[n++] = (char)(0x80 | (c >> 6 & 63));
        }
        s[n++] = (char)(0x80 | (c & 63));
    }
    return dti_buf_add(b, s, n);
}

static bool escape(reader *r, dti_buf *b) {
    static const char from[] = "btnfr\"\\e", to[] = "\b\t\n\f\r\"\\\033";
    const char *at = *r->p ? strchr(from, *r->p) : NULL;
    if (at) {
        r->p++;
        return dti_buf_add(b, &to[at - from], 1);
    }
    int digits = *r->p == 'u' ? 4 : *r->p == 'U' ? 8 : 0;
    if (!digits) return false;
    char hex[9] = {0};
    for (int i = 0; i < digits; i++) {
        hex[i] = r->p[1 + i];
        if (!hex[i] || !strchr("0123456789abcdefABCDEF", hex[i])) return false;
    }
    r->p += 1 + digits;
    return put_utf8(b, strtoul(hex, NULL, 16));
}

// A string of any of the four kinds, at its first quote.
static dtask_err string(reader *r, dti_buf *b) {
    char quote = *r->p;
    bool many = r->p[1] == quote && r->p[2] == quote;
    r->p += many ? 3 : 1;
    if (many && *r->p == '\n') r->p++;
    for (;; ) {
        if (!*r->p || (!many && *r->p == '\n')) return wrong(r, "a string has no end");
        if (*r->p == quote && (!many || (r->p[1] == quote && r->p[2] == quote))) {
            r->p += many ? 3 : 1;
            // Up to two quotes may stand before the closing three.
            for (int i = 0; many && i < 2 && *r->p == quote; i++) dti_buf_add(b, r->p++, 1);
            return DTASK_OK;
        }
        if (quote == '"' && *r->p == '\\') {
            r->p++;
            if (many && (*r->p == '\n' || *r->p == ' ' || *r->p == '\t' || *r->p == '\r')) {
                r->p += strspn(r->p, " \t\r\n"); // a line that goes on
                continue;
            }
            if (!escape(r, b)) return wrong(r, "a string has an escape that TOML does not know");
            continue;
        }
        dti_buf_add(b, r->p++, 1);
    }
}

// Steps over an array or an inline table, whatever is in it.
static dtask_err nested(reader *r) {
    dti_buf b = {0};
    int depth = 0;
    dtask_err err = DTASK_OK;
    do {
        blanks(r, true);
        char c = *r->p;
        if (!c) err = wrong(r, "an array or a table has no end");
        else if (c == '"' || c == '\'') {
            b.n = 0;
            err = string(r, &b);
        } else {
            depth += c == '[' || c == '{';
            depth -= c == ']' || c == '}';
            r->p++;
        }
    } while (!err && depth > 0);
    dti_buf_done(&b);
    return err;
}

// A bare or quoted key, dots and all, into b, NUL-ended; stops at `end`.
static dtask_err key(reader *r, dti_buf *b, char end) {
    for (b->n = 0;;) {
        blanks(r, false);
        dtask_err err = DTASK_OK;
        if (*r->p == '"' || *r->p == '\'') err = string(r, b);
        else if (*r->p == '.') dti_buf_add(b, r->p++, 1);
        else {
            size_t n = strspn(r->p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
            if (!n) {
                if (*r->p != end || !b->n) return wrong(r, end == '=' ? "here should be name = value" : "here should be [table]");
                dti_buf_add(b, "", 1);
                return b->failed ? dti_fail(DTASK_ENOMEM, "No memory.") : DTASK_OK;
            }
            dti_buf_add(b, r->p, n);
            r->p += n;
        }
        if (err) return err;
    }
}

// A value of our own table as text, NUL-ended.
static dtask_err value(reader *r, dti_buf *b, const char *name) {
    b->n = 0;
    dtask_err err = DTASK_OK;
    if (*r->p == '"' || *r->p == '\'') err = string(r, b);
    else {
        size_t n = strcspn(r->p, " \t\r\n#");
        for (size_t i = 0; i < n; i++)
            if (r->p[i] != '_') dti_buf_add(b, &r->p[i], 1);
        bool plain = n && strspn(r->p, "+-0123456789._eE") == n;
        if (!plain && !(n == 4 && !memcmp(r->p, "true", 4)) && !(n == 5 && !memcmp(r->p, "false", 5))) {
            char what[160];
            snprintf(what, sizeof what, "the value of %.80s must be a string, a number or a boolean", name);
            return wrong(r, what);
        }
        r->p += n;
    }
    dti_buf_add(b, "", 1);
    return !err && b->failed ? dti_fail(DTASK_ENOMEM, "No memory.") : err;
}

static dtask_err line(reader *r, const char *table, bool *ours, dti_buf *name, dti_buf *text, dti_toml_fn *set, void *arg) {
    dtask_err err;
    if (*r->p == '[') {
        bool list = r->p[1] == '[';
        r->p += 1 + list;
        if ((err = key(r, name, ']'))) return err;
        r->p++;
        if (list && *r->p++ != ']') return r->p--, wrong(r, "here should be [[table]]");
        *ours = !list && !strcmp(name->p, table);
        if (!*table) {
            char what[160];
            snprintf(what, sizeof what, "this file has no tables, and here is [%.80s]", name->p);
            return wrong(r, what);
        }
        return DTASK_OK;
    }
    if ((err = key(r, name, '='))) return err;
    r->p++;
    blanks(r, false);
    if (*ours) {
        const char *at = r->p;
        if ((err = value(r, text, name->p))) return err;
        if ((err = set(arg, name->p, text->p))) {
            char why[600];
            snprintf(why, sizeof why, "%s", dtask_err_detail());
            size_t n = strlen(why);
            if (n && why[n - 1] == '.') why[n - 1] = 0;
            r->p = at;
            return wrong(r, why);
        }
        return DTASK_OK;
    }
    if (*r->p == '[' || *r->p == '{') return nested(r);
    text->n = 0;
    if (*r->p == '"' || *r->p == '\'') return string(r, text);
    r->p += strcspn(r->p, "#\n");
    return DTASK_OK;
}

dtask_err dti_toml_read(const char *path, const char *table, dti_toml_fn *set, void *arg, bool *found) {
    char *text = NULL;
    dtask_err err = slurp(path, &text, found);
    if (err || !text) return err;
    reader r = {path, text, text};
    if (!strncmp(r.p, "\xef\xbb\xbf", 3)) r.p += 3;
    dti_buf name = {0}, val = {0};
    bool ours = !*table;
    for (blanks(&r, true); !err && *r.p; blanks(&r, true)) {
        err = line(&r, table, &ours, &name, &val, set, arg);
        blanks(&r, false);
        if (!err && *r.p && *r.p != '\n' && *r.p != '\r') err = wrong(&r, "something stands after the value");
    }
    dti_buf_done(&name);
    dti_buf_done(&val);
    free(text);
    return err;
}
