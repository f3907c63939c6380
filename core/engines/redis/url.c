// See url.h.
#include "engines/redis/url.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static dtask_err wrong(const char *why) {
    return dti_fail(DTASK_EARGS,
        "the Redis URL %s: write redis://[user:password@]host[:port]/db, redis+cluster://h1,h2 or redis+sentinel://h1,h2/MASTER/db, with rediss for TLS",
        why);
}

// Copies [from, end) with %xx decoded. False: it does not fit, or is malformed.
static bool decode(const char *from, const char *end, char *to, size_t room) {
    size_t n = 0;
    for (; from < end; from++) {
        if (n + 1 >= room) return false;
        if (*from != '%') {
            to[n++] = *from;
            continue;
        }
        if (end - from < 3 || !isxdigit((unsigned char)from[1]) || !isxdigit((unsigned char)from[2])) return false;
        to[n] = (char)strtol((char[]){from[1], from[2], 0}, NULL, 16);
        if (!to[n++]) return false;
        from += 2;
    }
    to[n] = 0;
    return true;
}

static bool number(const char *from, const char *end, unsigned most, unsigned *out) {
    unsigned v = 0;
    if (from == end) return false;
    for (; from < end; from++) {
        if (!isdigit((unsigned char)*from)) return false;
        v = v * 10 + (unsigned)(*from - '0');
        if (v > most) return false;
    }
    *out = v;
    return true;
}

static const char *find(const char *from, const char *end, int sign) {
    const char *p = memchr(from, sign, (size_t)(end - from));
    return p ? p : end;
}

static bool take_host(const char *from, const char *end, const char *port, dti_redis_host *out) {
    const char *colon;
    if (from < end && *from == '[') {
        const char *close = find(from, end, ']');
        if (close == end || !decode(from + 1, close, out->host, sizeof out->host)) return false;
        colon = close + 1;
        if (colon < end && *colon != ':') return false;
    } else {
        colon = find(from, end, ':');
        if (!decode(from, colon, out->host, sizeof out->host)) return false;
    }
    strcpy(out->port, port);
    if (!*out->host) return false;
    if (colon == end) return true;
    unsigned n;
    if (!number(colon + 1, end, 65535, &n) || !n) return false;
    snprintf(out->port, sizeof out->port, "%hu", (unsigned short)n);
    return true;
}

static dtask_err take_scheme(const char *url, const char *end, dti_redis_url *out) {
    static const struct { const char *name; dti_redis_mode mode; bool tls; } schemes[] = {
        {"redis", DTI_REDIS_ONE, false}, {"rediss", DTI_REDIS_ONE, true},
        {"redis+cluster", DTI_REDIS_CLUSTER, false}, {"rediss+cluster", DTI_REDIS_CLUSTER, true},
        {"redis+sentinel", DTI_REDIS_SENTINEL, false}, {"rediss+sentinel", DTI_REDIS_SENTINEL, true},
    };
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strlen(schemes[i].name) != (size_t)(end - url) || memcmp(schemes[i].name, url, (size_t)(end - url))) continue;
        out->mode = schemes[i].mode;
        out->tls = schemes[i].tls;
        return DTASK_OK;
    }
    return wrong("has another scheme");
}

// What stands behind the hosts: /db, or /MASTER/db.
static dtask_err take_path(const char *at, const char *end, dti_redis_url *out) {
    if (out->mode == DTI_REDIS_SENTINEL) {
        const char *slash = at < end ? find(at + 1, end, '/') : end;
        if (at == end || slash == at + 1 || !decode(at + 1, slash, out->master, sizeof out->master))
            return wrong("does not name the Sentinels' master");
        at = slash;
    }
    if (at < end && ++at < end && !number(at, end, 65535, &out->db)) return wrong("has a database that is no number");
    if (out->mode == DTI_REDIS_CLUSTER && out->db) return wrong("names a database, and a Cluster has only number 0");
    return DTASK_OK;
}

dtask_err dti_redis_url_parse(const char *url, dti_redis_url *out) {
    *out = (dti_redis_url){0};
    const char *end = url + strlen(url), *at = strstr(url, "://");
    if (!at) return wrong("has no // behind its scheme");
    dtask_err err = take_scheme(url, at, out);
    if (err) return err;
    at += 3;
    const char *path = find(at, end, '/'), *sign = find(at, path, '@');
    if (find(sign < path ? sign + 1 : path, path, '@') != path) return wrong("has more than one @: write %40 for one in a password");
    if (sign < path) {
        const char *colon = find(at, sign, ':');
        if (colon == sign || colon + 1 == sign || !decode(at, colon, out->user, sizeof out->user) ||
            !decode(colon + 1, sign, out->password, sizeof out->password))
            return wrong("has a user or password that cannot be read");
        at = sign + 1;
    }
    while (at <= path) {
        const char *comma = find(at, path, ',');
        if (out->nhosts == DTI_REDIS_HOSTS) return wrong("names more than 16 hosts");
        if (!take_host(at, comma, out->mode == DTI_REDIS_SENTINEL ? "26379" : "6379", &out->hosts[out->nhosts++]))
            return wrong("has a host that cannot be read");
        at = comma + 1;
    }
    if (out->mode == DTI_REDIS_ONE && out->nhosts > 1) return wrong("names several hosts of a server that stands alone");
    return take_path(path, end, out);
}

void dti_redis_host_show(const dti_redis_host *h, char *out, size_t n) {
    snprintf(out, n, strchr(h->host, ':') ? "[%s]:%s" : "%s:%s", h->host, h->port);
}
