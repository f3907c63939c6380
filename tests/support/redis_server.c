#include "redis_server.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engines/redis/library.h"

static bool ready(int fd) {
    static const char sign[] = "eady to accept connections";
    size_t at = 0;
    char c;
    while (at < sizeof sign - 1 && read(fd, &c, 1) == 1) at = c == sign[at] ? at + 1 : c == sign[0];
    return at == sizeof sign - 1;
}

static bool load(redis_server *s) {
    redisReply *r = redis_server_say(s, "FUNCTION LOAD %b", dti_redis_library, dti_redis_library_n);
    bool ok = r->type != REDIS_REPLY_ERROR;
    if (!ok) fprintf(stderr, "%s\n", r->str);
    freeReplyObject(r);
    return ok;
}

static int free_port(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && !bind(fd, (struct sockaddr *)&a, n) && !getsockname(fd, (struct sockaddr *)&a, &n);
    if (fd >= 0) close(fd);
    return ok ? ntohs(a.sin_port) : 0;
}

bool redis_server_start(redis_server *s) {
    int out[2];
    char port[8];
    *s = (redis_server){.log = -1};
    snprintf(s->dir, sizeof s->dir, "/tmp/dtask-redis-XXXXXX");
    if (!mkdtemp(s->dir) || pipe(out)) return perror("a folder for redis-server"), false;
    snprintf(s->socket, sizeof s->socket, "%s/socket", s->dir);
    snprintf(port, sizeof port, "%d", s->port = free_port());
    s->pid = fork();
    if (s->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        close(out[0]);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--unixsocket", s->socket,
            "--save", "", "--appendonly", "no", "--dir", s->dir, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    s->log = out[0];
    bool ok = ready(s->log) && (s->c = redisConnectUnix(s->socket)) && !s->c->err && load(s);
    if (!ok) {
        fprintf(stderr, "redis-server does not start: is it installed?\n");
        redis_server_stop(s);
    }
    return ok;
}

void redis_server_stop(redis_server *s) {
    if (s->c) redisFree(s->c);
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
        unlink(s->socket);
        rmdir(s->dir);
    }
    if (s->log >= 0) close(s->log);
    *s = (redis_server){.log = -1};
}

redisReply *redis_server_say(redis_server *s, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    redisReply *r = redisvCommand(s->c, format, ap);
    va_end(ap);
    if (r && r->type != REDIS_REPLY_ERROR) return r;
    fprintf(stderr, "redis-server: %s\n", r ? r->str : s->c->errstr);
    redis_server_stop(s);
    exit(1);
}
