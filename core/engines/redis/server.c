// See server.h.
#include "engines/redis/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 16384 };

bool dti_redis_says(const redisReply *r, const char *word) {
    size_t n = strlen(word);
    return r->type == REDIS_REPLY_ERROR && r->len >= n && !memcmp(r->str, word, n) && (r->len == n || r->str[n] == ' ');
}

dtask_err dti_redis_refused(const dti_redis_target *t, const char *peer, const redisReply *r) {
    const char *user = *t->url.user ? t->url.user : "default";
    if (dti_redis_says(r, "WRONGPASS") || (r->type == REDIS_REPLY_ERROR && !strncmp(r->str, "ERR invalid password", 20)))
        return dti_fail(DTASK_EENGINE, "Redis at %s does not take this password, or knows no user %s: correct the URL", peer, user);
    if (dti_redis_says(r, "NOAUTH"))
        return dti_fail(DTASK_EENGINE, "Redis at %s asks for a password: write redis://user:password@host, or :password@ without a user", peer);
    if (r->type == REDIS_REPLY_ERROR && !strncmp(r->str, "ERR AUTH <password> called without", 34))
        return dti_fail(DTASK_EENGINE, "Redis at %s has no password set for the default user: take it out of the URL, or name the user", peer);
    if (dti_redis_says(r, "NOPERM"))
        return dti_fail(DTASK_EENGINE, "Redis at %s refuses its user %s a right that is needed (%.150s): the list is in docs/redis.md", peer,
            user, r->str);
    if (r->type == REDIS_REPLY_ERROR) return dti_fail(DTASK_EENGINE, "Redis at %s says: %.300s", peer, r->str);
    return dti_fail(DTASK_EENGINE, "Redis at %s gave an answer of another kind than expected: is there a proxy between?", peer);
}

// ---- INFO -----------------------------------------------------------------------

// The value of a line "key:value\r\n", or an empty text.
static void info_value(const char *info, const char *key, char *out, size_t room) {
    size_t n = strlen(key);
    *out = 0;
    for (const char *at = info; at && *at; at = strchr(at, '\n'), at = at ? at + 1 : NULL) {
        if (strncmp(at, key, n) || at[n] != ':') continue;
        size_t len = strcspn(at + n + 1, "\r\n");
        snprintf(out, room, "%.*s", (int)(len < room ? len : room - 1), at + n + 1);
        return;
    }
}

static dtask_err judge(const dti_redis_target *t, const char *peer, const char *info, dti_redis_server *s, bool *soon) {
    char text[128], role[16], cluster[8], run_id[64], replid[64];
    info_value(info, "redis_version", s->version, sizeof s->version);
    if (!*s->version) return dti_fail(DTASK_EENGINE, "%s did not say which Redis it is: is there a proxy between?", peer);
    if (atoi(s->version) < 7)
        return dti_fail(DTASK_EVERSION, "Redis at %s is %s, and 7.0 or newer is needed: upgrade it", peer, s->version);
    info_value(info, "loading", text, sizeof text);
    if (!strcmp(text, "1")) {
        *soon = true;
        return dti_fail(DTASK_EENGINE, "Redis at %s is loading its data: wait", peer);
    }
    info_value(info, "cluster_enabled", cluster, sizeof cluster);
    bool is_cluster = !strcmp(cluster, "1"), wanted = t->url.mode == DTI_REDIS_CLUSTER;
    if (is_cluster && !wanted)
        return dti_fail(DTASK_EENGINE, "Redis at %s is part of a Cluster: write redis+cluster://h1,h2", peer);
    if (!is_cluster && wanted) return dti_fail(DTASK_EENGINE, "Redis at %s is part of no Cluster: write redis://", peer);
    info_value(info, "role", role, sizeof role);
    if (strcmp(role, "master")) {
        char host[128], port[8];
        info_value(info, "master_host", host, sizeof host);
        info_value(info, "master_port", port, sizeof port);
        *soon = t->url.mode != DTI_REDIS_ONE;
        return dti_fail(DTASK_EENGINE, "Redis at %s is a replica: name its master, %s:%s, or let Sentinels name it (redis+sentinel://)", peer,
            host, port);
    }
    info_value(info, "maxmemory_policy", s->policy, sizeof s->policy);
    if (strcmp(s->policy, "noeviction"))
        return dti_fail(DTASK_EENGINE, "Redis at %s may evict keys (maxmemory-policy %s), and with them tasks: set maxmemory-policy noeviction",
            peer, s->policy);
    info_value(info, "maxmemory", text, sizeof text);
    s->maxmemory = strtoull(text, NULL, 10);
    info_value(info, "used_memory", text, sizeof text);
    s->used = strtoull(text, NULL, 10);
    info_value(info, "server_time_usec", text, sizeof text);
    s->ahead_us = *text ? strtoll(text, NULL, 10) - dti_wall_us() : 0;
    char aof[8], rdb[16];
    info_value(info, "aof_enabled", aof, sizeof aof);
    info_value(info, "rdb_last_bgsave_status", rdb, sizeof rdb);
    snprintf(s->persistence, sizeof s->persistence, "%s", !strcmp(aof, "1") ? "append-only file" : !strcmp(rdb, "ok") ? "snapshots or none" : "snapshots, which fail");
    info_value(info, "run_id", run_id, sizeof run_id);
    info_value(info, "master_replid", replid, sizeof replid);
    int n = snprintf(text, sizeof text, "%.60s %.60s", run_id, replid);
    dti_hash h = dti_hash128(text, (size_t)n, 0);
    snprintf(s->run_id, sizeof s->run_id, "%016llx%016llx", (unsigned long long)h.h[1], (unsigned long long)h.h[0]);
    return DTASK_OK;
}

// ---- logging in ------------------------------------------------------------------

static dtask_err expect_ok(const dti_redis_target *t, dti_redis_connection *c, int64_t until, int cancel, bool must, bool *soon) {
    redisReply *r;
    dtask_err err = dti_redis_await(c, until, cancel, &r);
    if (err) return err;
    if (must && r->type == REDIS_REPLY_ERROR) {
        if (dti_redis_says(r, "LOADING")) *soon = true;
        err = dti_redis_refused(t, c->peer, r);
    }
    freeReplyObject(r);
    return err;
}

// Everything in one round trip. server NULL: no INFO, no SELECT.
static dtask_err login(const dti_redis_target *t, dti_redis_connection *c, int64_t until, int cancel, dti_redis_server *server, bool *soon) {
    const dti_redis_url *u = &t->url;
    char db[12];
    if (*u->user) dti_redis_say(c, 3, (const char *[]){"AUTH", u->user, u->password}, NULL);
    else if (*u->password) dti_redis_say(c, 2, (const char *[]){"AUTH", u->password}, NULL);
    dti_redis_say(c, 3, (const char *[]){"CLIENT", "SETNAME", t->name}, NULL);
    snprintf(db, sizeof db, "%u", u->db);
    if (server && u->db) dti_redis_say(c, 2, (const char *[]){"SELECT", db}, NULL);
    if (server) dti_redis_say(c, 1, (const char *[]){"INFO"}, NULL);
    dtask_err err = *u->user || *u->password ? expect_ok(t, c, until, cancel, true, soon) : DTASK_OK;
    if (!err) err = expect_ok(t, c, until, cancel, false, soon); // a name is a courtesy
    if (!err && server && u->db) err = expect_ok(t, c, until, cancel, true, soon);
    if (err || !server) return err;
    redisReply *r;
    if ((err = dti_redis_await(c, until, cancel, &r))) return err;
    if (dti_redis_says(r, "LOADING") || dti_redis_says(r, "BUSY")) *soon = true;
    err = r->type == REDIS_REPLY_STRING ? judge(t, c->peer, r->str, server, soon) : dti_redis_refused(t, c->peer, r);
    freeReplyObject(r);
    return err;
}

dtask_err dti_redis_join(const dti_redis_target *t, const dti_redis_host *host, int64_t until, int cancel, dti_redis_connection *out) {
    bool soon = false;
    dtask_err err = dti_redis_connect(out, host, t->tls, until, cancel);
    if (!err && (err = login(t, out, until, cancel, NULL, &soon))) dti_redis_disconnect(out);
    return err;
}

static dtask_err take_host(const redisReply *host, const redisReply *port, const dti_redis_host *asked, dti_redis_host *out) {
    char text[8];
    if (port->type == REDIS_REPLY_INTEGER) snprintf(text, sizeof text, "%u", (unsigned)port->integer & 65535);
    else snprintf(text, sizeof text, "%s", port->type == REDIS_REPLY_STRING && port->len < sizeof text ? port->str : "");
    // A node that does not know its own name: it is the one that was asked.
    bool itself = host->type != REDIS_REPLY_STRING || !host->len || !strcmp(host->str, "?");
    if (!*text || strlen(text) >= sizeof out->port || (!itself && host->len >= sizeof out->host))
        return dti_fail(DTASK_EENGINE, "a server named another one by an address that is none, or too long");
    strcpy(out->host, itself ? asked->host : host->str);
    strcpy(out->port, text);
    return DTASK_OK;
}

// ---- Sentinel --------------------------------------------------------------------

static dtask_err ask_sentinel(const dti_redis_target *t, dti_redis_connection *c, const dti_redis_host *asked, int64_t until, int cancel,
    dti_redis_host *out) {
    const char *question[] = {"SENTINEL", "get-master-addr-by-name", t->url.master};
    redisReply *r;
    dti_redis_say(c, 3, question, NULL);
    dtask_err err = dti_redis_await(c, until, cancel, &r);
    if (err) return err;
    if (dti_redis_says(r, "NOAUTH") && *t->url.password) { // Sentinels may have a password, too
        bool soon = false;
        freeReplyObject(r);
        if ((err = login(t, c, until, cancel, NULL, &soon))) return err;
        dti_redis_say(c, 3, question, NULL);
        if ((err = dti_redis_await(c, until, cancel, &r))) return err;
    }
    if (r->type == REDIS_REPLY_ARRAY && r->elements == 2) err = take_host(r->element[0], r->element[1], asked, out);
    else if (r->type == REDIS_REPLY_NIL || (r->type == REDIS_REPLY_ARRAY && !r->elements))
        err = dti_fail(DTASK_EENGINE, "the Sentinel at %s watches no master named %s: correct the URL", c->peer, t->url.master);
    else err = dti_redis_refused(t, c->peer, r);
    freeReplyObject(r);
    return err;
}

// ---- Cluster ---------------------------------------------------------------------

static unsigned crc16(const char *p, size_t n) {
    unsigned crc = 0;
    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned)(unsigned char)p[i] << 8;
        for (int b = 0; b < 8; b++) crc = crc & 0x8000 ? (crc << 1 ^ 0x1021) & 0xffff : crc << 1 & 0xffff;
    }
    return crc;
}

unsigned dti_redis_slot(const char *tag) {
    return crc16(tag, strlen(tag)) % SLOTS;
}

// How many masters have slots.
static unsigned count_masters(const redisReply *slots) {
    unsigned n = 0;
    for (size_t i = 0; i < slots->elements; i++) {
        const redisReply *one = slots->element[i];
        if (one->elements < 3 || one->element[2]->elements < 3 || !one->element[2]->element[2]->str) continue;
        size_t before = 0;       // a master may have several ranges
        for (; before < i; before++) {
            const redisReply *other = slots->element[before];
            if (other->elements >= 3 && other->element[2]->elements >= 3 && other->element[2]->element[2]->str &&
                !strcmp(other->element[2]->element[2]->str, one->element[2]->element[2]->str))
                break;
        }
        n += before == i;
    }
    return n;
}

static dtask_err ask_node(const dti_redis_target *t, dti_redis_connection *c, const dti_redis_host *asked, int64_t until, int cancel,
    dti_redis_host *out, unsigned *masters, bool *soon) {
    unsigned slot = dti_redis_slot(t->tag);
    dtask_err err = login(t, c, until, cancel, NULL, soon);
    redisReply *r;
    if (err) return err;
    dti_redis_say(c, 2, (const char *[]){"CLUSTER", "SLOTS"}, NULL);
    if ((err = dti_redis_await(c, until, cancel, &r))) return err;
    if (dti_redis_says(r, "CLUSTERDOWN") || dti_redis_says(r, "LOADING")) *soon = true;
    if (r->type == REDIS_REPLY_ERROR && strstr(r->str, "cluster support disabled"))
        err = dti_fail(DTASK_EENGINE, "Redis at %s is part of no Cluster: write redis://", c->peer);
    else if (r->type != REDIS_REPLY_ARRAY)
        err = dti_redis_refused(t, c->peer, r);
    else
        err = DTASK_ENOTFOUND;
    for (size_t i = 0; err == DTASK_ENOTFOUND && i < r->elements; i++) {
        const redisReply *range = r->element[i];
        if (range->type != REDIS_REPLY_ARRAY || range->elements < 3 || range->element[2]->type != REDIS_REPLY_ARRAY ||
            range->element[2]->elements < 2)
            continue;
        if (slot < (unsigned)range->element[0]->integer || slot > (unsigned)range->element[1]->integer) continue;
        err = take_host(range->element[2]->element[0], range->element[2]->element[1], asked, out);
        *masters = count_masters(r);
    }
    if (err == DTASK_ENOTFOUND) {
        *soon = true;
        err = dti_fail(DTASK_EENGINE, "the Cluster at %s has no node for slot %u: wait, or repair it", c->peer, slot);
    }
    freeReplyObject(r);
    return err;
}

// ---- finding ---------------------------------------------------------------------

// Which server that host says it is.
static dtask_err ask(dti_redis_target *t, const dti_redis_host *asked, int64_t until, int cancel, dti_redis_server *out, bool *soon) {
    dti_redis_connection c;
    dtask_err err = dti_redis_connect(&c, asked, t->tls, until, cancel);
    if (err) return err;
    err = t->url.mode == DTI_REDIS_SENTINEL ? ask_sentinel(t, &c, asked, until, cancel, &out->host)
                                            : ask_node(t, &c, asked, until, cancel, &out->host, &out->masters, soon);
    dti_redis_disconnect(&c);
    return err;
}

dtask_err dti_redis_find(dti_redis_target *t, int64_t until, int cancel, dti_redis_connection *out, dti_redis_server *server, bool *soon) {
    unsigned n = t->url.nhosts;
    dtask_err err = DTASK_OK;
    *soon = false;
    server->masters = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned at = (t->first + i) % n;
        int64_t now = dti_mono_us(), share = now + (until - now) / (n - i);
        server->host = t->url.hosts[at];
        err = t->url.mode == DTI_REDIS_ONE ? DTASK_OK : ask(t, &t->url.hosts[at], share, cancel, server, soon);
        if (err) continue;
        t->first = at;
        err = dti_redis_connect(out, &server->host, t->tls, share, cancel);
        if (err) {
            *soon = t->url.mode != DTI_REDIS_ONE; // they will name another one
            return err;
        }
        if ((err = login(t, out, share, cancel, server, soon))) dti_redis_disconnect(out);
        return err;
    }
    return err;
}
