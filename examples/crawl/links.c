// crawl, the C half: the links of an HTML page.
//
//   dynatask-worker --app crawl --plugin build/examples/crawl/links.so
//
// Reads tags as browsers do where it matters for links: comments, scripts and
// styles hold none; attributes may be quoted either way or not at all; the
// five named entities and numeric ones below 128 in an address are decoded.
// The addresses come back as they stand in the page, in order, those over
// ADDRESS_MAX left out; making them absolute is the caller's.
#include <dynatask.h>

#include <ctype.h>
#include <msgpack.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

enum { LINKS_MAX = 100000, ADDRESS_MAX = 4096 };

typedef struct {
    const char *p, *end;
} cursor;

// Moves behind the next `what`, or to the end.
static void skip_behind(cursor *c, const char *what) {
    size_t n = strlen(what);
    for (; (size_t)(c->end - c->p) >= n; c->p++)
        if (!strncasecmp(c->p, what, n)) {
            c->p += n;
            return;
        }
    c->p = c->end;
}

static void skip_blanks(cursor *c) {
    while (c->p < c->end && isspace((unsigned char)*c->p)) c->p++;
}

static dtask_str take_name(cursor *c) {
    const char *from = c->p;
    while (c->p < c->end && !isspace((unsigned char)*c->p) && !strchr("=>/", *c->p)) c->p++;
    return (dtask_str){from, (size_t)(c->p - from)};
}

static dtask_str take_value(cursor *c) {
    char quote = c->p < c->end && (*c->p == '"' || *c->p == '\'') ? *c->p++ : 0;
    const char *from = c->p;
    while (c->p < c->end && (quote ? *c->p != quote : !isspace((unsigned char)*c->p) && *c->p != '>')) c->p++;
    dtask_str v = {from, (size_t)(c->p - from)};
    if (quote && c->p < c->end) c->p++;
    return v;
}

static bool is(dtask_str s, const char *name) { return s.n == strlen(name) && !strncasecmp(s.p, name, s.n); }

// Reads the attributes up to the tag's end; the value of the first href.
static dtask_str href_of_tag(cursor *c) {
    dtask_str href = {0};
    while (c->p < c->end) {
        skip_blanks(c);
        if (c->p == c->end) break;
        if (*c->p == '>') {
            c->p++;
            break;
        }
        if (*c->p == '/' || *c->p == '=') {
            c->p++;
            continue;
        }
        dtask_str name = take_name(c);
        skip_blanks(c);
        if (c->p == c->end || *c->p != '=') continue;
        c->p++;
        skip_blanks(c);
        dtask_str value = take_value(c);
        if (!href.p && is(name, "href")) href = value;
    }
    return href;
}

// The next <a href>; false: no more.
static bool next_link(cursor *c, dtask_str *out) {
    while ((c->p = memchr(c->p, '<', (size_t)(c->end - c->p)))) {
        c->p++;
        if (c->end - c->p >= 3 && !memcmp(c->p, "!--", 3)) {
            skip_behind(c, "-->");
            continue;
        }
        if (c->p == c->end || !isalpha((unsigned char)*c->p)) continue;
        dtask_str tag = take_name(c), href = href_of_tag(c);
        if (is(tag, "script")) skip_behind(c, "</script");
        else if (is(tag, "style")) skip_behind(c, "</style");
        else if (is(tag, "a") && href.n) {
            *out = href;
            return true;
        }
    }
    return false;
}

// Decodes entities into `to` (as large as `from`); the length.
static size_t decode(dtask_str from, char *to) {
    static const struct { const char *name; char sign; } entities[] = {
        {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    size_t n = 0;
    for (size_t i = 0; i < from.n;) {
        size_t took = 0;
        if (from.p[i] == '&') {
            for (size_t e = 0; e < sizeof entities / sizeof *entities && !took; e++) {
                size_t len = strlen(entities[e].name);
                if (from.n - i >= len && !memcmp(from.p + i, entities[e].name, len)) {
                    to[n++] = entities[e].sign;
                    took = len;
                }
            }
            unsigned code = 0, digits = 0;
            if (!took && from.n - i > 3 && from.p[i + 1] == '#')
                for (; digits < 3 && i + 2 + digits < from.n && isdigit((unsigned char)from.p[i + 2 + digits]); digits++)
                    code = code * 10 + (unsigned)(from.p[i + 2 + digits] - '0');
            if (digits && code && code < 128 && i + 2 + digits < from.n && from.p[i + 2 + digits] == ';') {
                to[n++] = (char)code;
                took = digits + 3;
            }
        }
        if (took) i += took;
        else to[n++] = from.p[i++];
    }
    return n;
}

static dtask_err links(dtask_task *task, void *arg) {
    (void)arg;
    dtask_str html, href;
    dtask_err err = dtask_args(task, "html:y", &html);
    if (err) return err;

    // The addresses in a buffer, then the array around them: its length comes first.
    msgpack_sbuffer items, whole;
    msgpack_packer pack;
    msgpack_sbuffer_init(&items);
    msgpack_sbuffer_init(&whole);
    msgpack_packer_init(&pack, &items, msgpack_sbuffer_write);
    size_t n = 0;
    int failed = 0;
    for (cursor c = {html.p, html.p + html.n}; n <= LINKS_MAX && !failed && next_link(&c, &href);) {
        char address[ADDRESS_MAX];
        if (href.n > sizeof address) continue;
        failed = msgpack_pack_bin_with_body(&pack, address, decode(href, address));
        n++;
    }
    msgpack_packer_init(&pack, &whole, msgpack_sbuffer_write);
    failed = failed || msgpack_pack_array(&pack, n) || msgpack_sbuffer_write(&whole, items.data, items.size);
    err = failed ? dtask_fail(task, DTASK_ENOMEM, "no memory for %zu links", n)
        : n > LINKS_MAX ? dtask_fail(task, DTASK_EFATAL, "the page has more than %d links", LINKS_MAX)
        : dtask_done(task, "v", (dtask_str){whole.data, whole.size});
    msgpack_sbuffer_destroy(&items);
    msgpack_sbuffer_destroy(&whole);
    return err;
}

DTASK_PLUGIN("links", {"links", links, "html:y -> v"});
