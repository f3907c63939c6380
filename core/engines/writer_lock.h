// The queue of writers on one file: OFD locks on two bytes of a file of their
// own. The kernel gives them back when their holder dies, inside a
// transaction too.
//
// Fair: whoever waits for the file holds the gate, so one that let go cannot
// come again before it. Not blocking for ever: a wait ends at its timeout,
// also where the holder is stopped; a helper thread then stands in the queue,
// as a wait in the kernel cannot be ended from outside.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "base/base.h"

typedef struct {
    int fd;                      // the caller's; -1 after a fork
    off_t gate, writer;          // the bytes
    pthread_mutex_t lock;
    pthread_cond_t news;
    pthread_t helper;
    bool started, wanted, waiting, stopping; // wanted: someone awaits the helper; waiting: the helper is in the kernel
    int result;                  // the helper's: 0 held, -1 not yet, else errno
} dti_writer_lock;

void dti_writer_lock_init(dti_writer_lock *, int fd, off_t at);
void dti_writer_lock_done(dti_writer_lock *);
// 0, or errno: ETIMEDOUT. One thread at a time.
int dti_writer_lock_take(dti_writer_lock *, int64_t timeout_us);
void dti_writer_lock_give(dti_writer_lock *);

// One byte of a file by an OFD lock. type: F_RDLCK, F_WRLCK, F_UNLCK. 0 or errno.
int dti_byte_lock(int fd, off_t at, short type, bool wait);
bool dti_byte_free(int fd, off_t at); // nobody else than fd itself holds it
