// See connection.h.
#include "engines/redis/connection.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CHUNK = 64 * 1024,
    SILENT_MS = 10000,           // sent bytes that the other machine's kernel does not acknowledge: it is gone
};

// ---- waiting --------------------------------------------------------------------

// False: the deadline is over, or it was cancelled.
static bool wait_for(int fd, short events, int64_t until, int cancel) {
    for (;;) {
        struct pollfd fds[] = {{.fd = fd, .events = events}, {.fd = cancel, .events = POLLIN}};
        int64_t left = until - dti_mono_us();
        if (left <= 0) return false;
        int ms = left / 1000 > 60000 ? 60000 : (int)(left / 1000) + 1;
        if (poll(fds, 2, ms) < 0 && errno != EINTR) return false;
        if (fds[1].revents) return false;
        if (fds[0].revents) return true;
    }
}

// ---- TLS ------------------------------------------------------------------------

static const char *ssl_reason(void) {
    unsigned long e = ERR_peek_last_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;
    return text ? text : "no reason given";
}

dtask_err dti_redis_tls_new(const char *ca, const char *cert, const char *key, SSL_CTX **out) {
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    if (!ctx) return dti_fail(DTASK_ENOMEM, "no memory for TLS");
    dtask_err err = DTASK_OK;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    // Some servers close without a word: the reader sees the end all the same.
    SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
    if (ca ? SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1 : SSL_CTX_set_default_verify_paths(ctx) != 1)
        err = dti_fail(DTASK_EARGS, "the certificates of tls_ca, %s, cannot be read (%s)", ca ? ca : "the system's", ssl_reason());
    else if (!cert != !key)
        err = dti_fail(DTASK_EARGS, "tls_cert and tls_key go together: give both, or none");
    else if (cert && SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        err = dti_fail(DTASK_EARGS, "the certificate tls_cert, %s, cannot be read (%s)", cert, ssl_reason());
    else if (key && SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        err = dti_fail(DTASK_EARGS, "the key tls_key, %s, cannot be read or is of another certificate (%s)", key, ssl_reason());
    if (err) {
        SSL_CTX_free(ctx);
        return err;
    }
    *out = ctx;
    return DTASK_OK;
}

static dtask_err tls_failed(dti_redis_connection *c) {
    long verdict = c->ssl ? SSL_get_verify_result(c->ssl) : X509_V_OK;
    if (verdict != X509_V_OK)
        return dti_fail(DTASK_EENGINE, "the certificate of Redis at %s is refused (%s): give its authority by tls_ca, and the name it is made for in the URL",
            c->peer, X509_verify_cert_error_string(verdict));
    unsigned long e = ERR_peek_last_error();
    if (!e || ERR_GET_REASON(e) == SSL_R_WRONG_VERSION_NUMBER)
        return dti_fail(DTASK_EENGINE, "%s does not speak TLS: write redis:// instead of rediss://, or its TLS port", c->peer);
    return dti_fail(DTASK_EENGINE, "TLS with Redis at %s failed (%s): it may ask for a certificate, tls_cert and tls_key", c->peer,
        ssl_reason());
}

// What SSL_get_error says of n: 1 done, 0 later, -1 lost.
static int tls_state(dti_redis_connection *c, int n, bool writing) {
    int e = SSL_get_error(c->ssl, n);
    if (e == SSL_ERROR_WANT_WRITE) c->wants_write = true;
    else if (e == SSL_ERROR_WANT_READ && writing) c->wants_write = false;
    return e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static dtask_err tls_begin(dti_redis_connection *c, const char *host, SSL_CTX *ctx, int64_t until, int cancel) {
    unsigned char ip[16];
    bool is_ip = inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1;
    ERR_clear_error();
    c->ssl = SSL_new(ctx);
    if (!c->ssl || SSL_set_fd(c->ssl, c->fd) != 1) return dti_fail(DTASK_ENOMEM, "no memory for TLS");
    if (is_ip) X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(c->ssl), host);
    else if (SSL_set1_host(c->ssl, host) != 1 || SSL_set_tlsext_host_name(c->ssl, host) != 1)
        return dti_fail(DTASK_ENOMEM, "no memory for TLS");
    for (;;) {
        int n = SSL_connect(c->ssl), e = SSL_get_error(c->ssl, n);
        if (n == 1) return DTASK_OK;
        if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE) return tls_failed(c);
        if (!wait_for(c->fd, e == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, until, cancel))
            return dti_fail(DTASK_EENGINE, "%s did not answer to TLS in time: it may speak none, then write redis://", c->peer);
    }
}

// ---- TCP ------------------------------------------------------------------------

static void tune(int fd) {
    int on = 1, idle = 5, every = 5, count = 3, silent = SILENT_MS;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silent, sizeof silent);
}

// 0, or an errno.
static int connect_to(const struct addrinfo *a, int64_t until, int cancel, int *out) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e = 0;
    socklen_t n = sizeof e;
    if (fd < 0) return errno;
    tune(fd);
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        if (errno != EINPROGRESS && errno != EINTR) e = errno;
        else if (!wait_for(fd, POLLOUT, until, cancel)) e = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0) e = errno;
    }
    if (e) close(fd);
    else *out = fd;
    return e;
}

static dtask_err connect_any(dti_redis_connection *c, const dti_redis_host *host, int64_t until, int cancel) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *all, *a;
    int e = getaddrinfo(host->host, host->port, &hints, &all), left = 0;
    if (e == EAI_NONAME || e == EAI_ADDRFAMILY) { // "localhost" on a machine that has but loopback
        hints.ai_flags = 0;
        e = getaddrinfo(host->host, host->port, &hints, &all);
    }
    if (e) return dti_fail(DTASK_EENGINE, "the host %s of Redis has no address (%s)", host->host, gai_strerror(e));
    for (a = all; a; a = a->ai_next) left++;
    e = ETIMEDOUT;
    for (a = all; a; a = a->ai_next, left--) { // the first that answers; each gets its share of the time
        int64_t now = dti_mono_us();
        e = connect_to(a, now + (until - now) / left, cancel, &c->fd);
        if (!e) break;
    }
    freeaddrinfo(all);
    if (!e) return DTASK_OK;
    return dti_fail(DTASK_EENGINE, "Redis at %s cannot be reached (%s): start it, or correct the URL", c->peer, strerror(e));
}

dtask_err dti_redis_connect(dti_redis_connection *c, const dti_redis_host *host, SSL_CTX *tls, int64_t until, int cancel) {
    *c = (dti_redis_connection){.fd = -1};
    dti_redis_host_show(host, c->peer, sizeof c->peer);
    c->reader = redisReaderCreate();
    if (!c->reader) return dti_fail(DTASK_ENOMEM, "no memory for a connection");
    dtask_err err = connect_any(c, host, until, cancel);
    if (!err && tls) err = tls_begin(c, host->host, tls, until, cancel);
    if (err) dti_redis_disconnect(c);
    return err;
}

void dti_redis_disconnect(dti_redis_connection *c) {
    if (c->ssl) SSL_free(c->ssl);
    if (c->fd >= 0) {
        shutdown(c->fd, SHUT_RDWR); // a forked child may have a copy
        close(c->fd);
    }
    if (c->reader) redisReaderFree(c->reader);
    dti_buf_done(&c->out);
    c->ssl = NULL;
    c->fd = -1;
    c->reader = NULL;
    c->out = (dti_buf){0};
    c->sent = 0;
    c->wants_write = false;
}

// ---- talking --------------------------------------------------------------------

static dtask_err lost(dti_redis_connection *c, int e) {
    if (!c->heard && c->ssl)
        return dti_fail(DTASK_EENGINE, "Redis at %s closed the connection after TLS: it may ask for a certificate, tls_cert and tls_key", c->peer);
    if (!c->heard)
        return dti_fail(DTASK_EENGINE, "%s closed the connection before it said a word: it may want TLS, then write rediss://", c->peer);
    return dti_fail(DTASK_EENGINE, "the connection to Redis at %s is lost (%s)", c->peer, e ? strerror(e) : "it was closed");
}

void dti_redis_say(dti_redis_connection *c, int argc, const char *const *argv, const size_t *lengths) {
    char *command;
    int n = redisFormatCommandArgv(&command, argc, (const char **)(uintptr_t)argv, lengths);
    if (n < 0) {
        c->out.failed = true;
        return;
    }
    dti_buf_add(&c->out, command, (size_t)n);
    redisFreeCommand(command);
}

dtask_err dti_redis_flush(dti_redis_connection *c) {
    if (c->out.failed) return dti_fail(DTASK_ENOMEM, "no memory to speak with Redis");
    c->wants_write = false;
    while (c->sent < c->out.n) {
        size_t left = c->out.n - c->sent;
        ssize_t n;
        if (c->ssl) {
            ERR_clear_error();
            n = SSL_write(c->ssl, c->out.p + c->sent, left > INT32_MAX ? INT32_MAX : (int)left);
            if (n <= 0) {
                int e = errno;
                if (tls_state(c, (int)n, true) == 0) return DTASK_OK;
                return lost(c, e);
            }
        } else {
            n = send(c->fd, c->out.p + c->sent, left, MSG_NOSIGNAL);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return DTASK_OK;
            if (n < 0) return lost(c, errno);
        }
        c->sent += (size_t)n;
    }
    c->sent = c->out.n = 0;
    if (c->out.cap > 16 * CHUNK) { // one large message must not be kept for ever
        dti_buf_done(&c->out);
        c->out = (dti_buf){0};
    }
    return DTASK_OK;
}

dtask_err dti_redis_fill(dti_redis_connection *c) {
    char chunk[CHUNK];
    for (;;) {
        ssize_t n;
        if (c->ssl) {
            ERR_clear_error();
            n = SSL_read(c->ssl, chunk, sizeof chunk);
            if (n <= 0) {
                if (SSL_get_error(c->ssl, (int)n) == SSL_ERROR_SSL && !c->heard) return tls_failed(c);
                int e = n < 0 ? errno : 0;
                if (tls_state(c, (int)n, false) == 0) return DTASK_OK;
                return lost(c, e);
            }
        } else {
            n = recv(c->fd, chunk, sizeof chunk, 0);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return DTASK_OK;
            if (n <= 0) return lost(c, n ? errno : 0);
        }
        if (redisReaderFeed(c->reader, chunk, (size_t)n) != REDIS_OK)
            return dti_fail(DTASK_ENOMEM, "no memory for an answer of Redis");
        if (!c->ssl && n < CHUNK) return DTASK_OK; // that was all; poll tells of more
    }
}

dtask_err dti_redis_next(dti_redis_connection *c, redisReply **out) {
    void *reply = NULL;
    *out = NULL;
    if (redisReaderGetReply(c->reader, &reply) != REDIS_OK)
        return dti_fail(DTASK_EENGINE, "what answers at %s is not Redis, or wants TLS (%s): correct the URL", c->peer, c->reader->errstr);
    if (reply) c->heard = true;
    *out = reply;
    return DTASK_OK;
}

short dti_redis_events(const dti_redis_connection *c) {
    bool writes = c->ssl ? c->wants_write : c->sent < c->out.n;
    return (short)(POLLIN | (writes ? POLLOUT : 0));
}

dtask_err dti_redis_await(dti_redis_connection *c, int64_t until, int cancel, redisReply **out) {
    for (;;) {
        dtask_err err = dti_redis_next(c, out);
        if (err || *out) return err;
        if ((err = dti_redis_flush(c))) return err;
        if (!wait_for(c->fd, dti_redis_events(c), until, cancel))
            return dti_fail(DTASK_EENGINE, "Redis at %s took the connection and does not answer", c->peer);
        if ((err = dti_redis_fill(c))) {
            // What it said last may be why it closed.
            char text[512];
            strncpy(text, dtask_err_detail(), sizeof text - 1);
            text[sizeof text - 1] = 0;
            if (dti_redis_next(c, out) || *out) return *out ? DTASK_OK : DTASK_EENGINE;
            return dti_fail(err, "%s", text);
        }
    }
}
