// A real Redis for one test in C: on a port of its own, dead with the test.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    pid_t pid;
    int port;
    char dir[64];
} live_redis;

// False: redis-server is not installed (in CI, CI=true or DTASK_CI set, the
// test fails). args: more of its command line, ending with NULL; NULL: none.
bool live_redis_start(live_redis *, const char *const *args);
// Starts it again in its folder and on its port, with its data if it kept any.
void live_redis_again(live_redis *, const char *const *args);
void live_redis_kill(live_redis *);      // SIGKILL
void live_redis_end(live_redis *);       // and its folder is removed
// One command on a connection of its own; its reply's first line. malloc'ed.
char *live_redis_ask(const live_redis *, const char *command);
