// See live_redis.h.
#include "live_redis.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int free_port(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && !bind(fd, (struct sockaddr *)&a, n) && !getsockname(fd, (struct sockaddr *)&a, &n));
    close(fd);
    return ntohs(a.sin_port);
}

// Returns once it says that it takes connections.
static void run(live_redis *s, const char *const *more) {
    char port[8];
    int out[2];
    snprintf(port, sizeof port, "%d", s->port);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    pid_t parent = getpid();
    s->pid = fork();
    if (!s->pid) {
        const char *argv[48] = {"redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", s->dir,
            "--enable-debug-command", "yes", "--maxmemory-policy", "noeviction"};
        size_t n = 13;
        for (; more && *more && n < 47; more++) argv[n++] = *more;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        dup2(out[1], 1);
        execvp(argv[0], (char **)(uintptr_t)argv);
        _exit(127);
    }
    close(out[1]);
    FILE *lines = fdopen(out[0], "r");
    char line[512];
    bool ready = false;
    while (!ready && fgets(line, sizeof line, lines)) ready = strstr(line, "Ready to accept connections");
    cr_assert(ready, "redis-server did not start: %s", line);
    fclose(lines);               // what it logs from here on is dropped
}

static bool installed(void) {
    return !system("command -v redis-server >/dev/null");
}

bool live_redis_start(live_redis *s, const char *const *args) {
    *s = (live_redis){0};
    if (!installed()) {
        const char *ci = getenv("CI");
        cr_assert(!getenv("DTASK_CI") && !(ci && !strcmp(ci, "true")), "redis-server is not installed: script/setup test does that");
        return false;
    }
    signal(SIGPIPE, SIG_IGN);
    strcpy(s->dir, "/tmp/dredis_XXXXXX");
    cr_assert(mkdtemp(s->dir));
    s->port = free_port();
    run(s, args);
    return true;
}

void live_redis_again(live_redis *s, const char *const *args) {
    run(s, args);
}

void live_redis_kill(live_redis *s) {
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
    s->pid = 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

void live_redis_end(live_redis *s) {
    live_redis_kill(s);
    if (*s->dir) nftw(s->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

char *live_redis_ask(const live_redis *s, const char *command) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)s->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    dprintf(fd, "%s\r\n", command);
    FILE *in = fdopen(fd, "r");
    char *line = NULL;
    size_t room = 0;
    cr_assert(getline(&line, &room, in) > 0, "%s: no answer", command);
    fclose(in);
    line[strcspn(line, "\r\n")] = 0;
    return line;
}
