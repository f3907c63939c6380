// A redis-server of a test's own, on a unix socket in a temporary folder and on
// a port of its own of the loopback. It keeps nothing on disk and dies with the
// process that started it.
#pragma once

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    char dir[40], socket[56];
    pid_t pid;
    int port;
    int log;                 // the read end of its output, kept open: it writes there
    redisContext *c;
} redis_server;

// Starts it, connects, loads the script. False: why stands on stderr.
bool redis_server_start(redis_server *);
// Of one that was not started, zeroed but for log = -1, too: nothing.
void redis_server_stop(redis_server *);
// A command that must succeed: else the program ends, the reason on stderr.
redisReply *redis_server_say(redis_server *, const char *format, ...);
