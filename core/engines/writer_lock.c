// The queue of writers: see writer_lock.h.
#include "engines/writer_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

int dti_byte_lock(int fd, off_t at, short type, bool wait) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    while (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l) < 0) {
        if (errno != EINTR) return errno;
    }
    return 0;
}

bool dti_byte_free(int fd, off_t at) {
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type == F_UNLCK;
}

void dti_writer_lock_init(dti_writer_lock *w, int fd, off_t at) {
    *w = (dti_writer_lock){.fd = fd, .gate = at, .writer = at + 1, .result = -1};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->news, &attr);
    pthread_condattr_destroy(&attr);
}

static int queue(dti_writer_lock *w, bool wait) {
    int e = dti_byte_lock(w->fd, w->gate, F_WRLCK, wait);
    if (e) return e;
    e = dti_byte_lock(w->fd, w->writer, F_WRLCK, wait);
    dti_byte_lock(w->fd, w->gate, F_UNLCK, false);
    return e;
}

static void *help(void *arg) {
    dti_writer_lock *w = arg;
    int old;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    pthread_mutex_lock(&w->lock);
    while (!w->stopping) {
        if (!w->wanted || w->result != -1) {
            pthread_cond_wait(&w->news, &w->lock);
            continue;
        }
        w->waiting = true;
        pthread_mutex_unlock(&w->lock);
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
        int e = queue(w, true);
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
        pthread_mutex_lock(&w->lock);
        w->waiting = false;
        if (w->wanted) w->result = e;
        else if (!e) dti_writer_lock_give(w); // it came too late
        pthread_cond_broadcast(&w->news);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static int start(dti_writer_lock *w) {
    sigset_t all, old; // signals are for the program's own threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&w->helper, NULL, help, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    w->started = e == 0;
    return e;
}

int dti_writer_lock_take(dti_writer_lock *w, int64_t timeout_us) {
    pthread_mutex_lock(&w->lock);
    // Where the helper still stands in the queue for one that gave up, it is
    // asked again: both would be the same holder to the kernel.
    int e = w->waiting ? EAGAIN : queue(w, false);
    if (e == EAGAIN || e == EACCES) {
        e = w->started ? 0 : start(w);
        if (!e) {
            int64_t until = dti_mono_us() + timeout_us;
            struct timespec t = {until / 1000000, until % 1000000 * 1000};
            w->wanted = true;
            w->result = -1;
            pthread_cond_broadcast(&w->news);
            while (w->result == -1 && !e) e = pthread_cond_timedwait(&w->news, &w->lock, &t);
            if (w->result != -1) e = w->result;
            w->wanted = false;
            w->result = -1;
        }
    }
    pthread_mutex_unlock(&w->lock);
    return e;
}

void dti_writer_lock_give(dti_writer_lock *w) {
    dti_byte_lock(w->fd, w->writer, F_UNLCK, false);
}

void dti_writer_lock_done(dti_writer_lock *w) {
    if (w->started) {
        pthread_mutex_lock(&w->lock);
        w->stopping = true;
        if (w->waiting) pthread_cancel(w->helper); // behind a holder that may never let go
        pthread_cond_broadcast(&w->news);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->helper, NULL);
    }
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->news);
}
