// The bell file: see bell_file.h.
#include "engines/bell_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

// Lock bytes: far behind the file's own.
#define LOCKS ((off_t)1 << 40)
enum { INIT = 0, PRESENCE = 1, WRITER = 2 /* and 3 */, SLOT = 16 };
enum { HEAD_SIZE = 4096 };
static const size_t map_size = HEAD_SIZE + DTI_SLOTS * sizeof(dti_slot);
static const char magic[8] = "dtbell1";

_Static_assert(sizeof(dti_bellhead) <= HEAD_SIZE, "the head fits its page");

// ---- opening ---------------------------------------------------------------------

static dtask_err io_error(const dti_bellfile *b, const char *what, int e) {
    return dti_fail(DTASK_EENGINE, "%s cannot be %s (%s): the folder must be writable by this user, its disk not full",
        b->path, what, strerror(e));
}

static bool read_boot(char out[40]) {
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, 36);
    if (fd >= 0) close(fd);
    out[n == 36 ? 36 : 0] = 0;
    return n == 36;
}

static bool same_layout(const dti_bellhead *h) {
    return memcmp(h->magic, magic, sizeof magic) == 0 && h->size == sizeof(dti_slot) && h->slots == DTI_SLOTS;
}

// Under the INIT lock. alone: no other process has the file open.
static dtask_err prepare(dti_bellfile *b, bool alone) {
    struct stat st;
    if (fstat(b->fd, &st) < 0) return io_error(b, "read", errno);
    bool whole = (size_t)st.st_size >= map_size;
    // Reserved, so that a full disk shows here and not as a signal later.
    int e = whole ? 0 : posix_fallocate(b->fd, 0, (off_t)map_size);
    if (e) return io_error(b, "made", e);
    // Not through fd: a forked child's copy of the mapping would keep that
    // description, and its locks, alive.
    void *p = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, b->test, 0);
    if (p == MAP_FAILED) return io_error(b, "mapped", errno);
    b->head = p;
    b->slots = (dti_slot *)((char *)p + HEAD_SIZE);
    bool known = whole && same_layout(b->head);
    if (!alone && !known)
        return dti_fail(DTASK_EVERSION, "%s is in use by another version of dynatask: use one version at a time", b->path);
    if (!known) {
        memset(p, 0, map_size);
        memcpy(b->head->magic, magic, sizeof magic);
        b->head->size = sizeof(dti_slot);
        b->head->slots = DTI_SLOTS;
    }
    // Alone after a reboot: the slots are corpses, for the sweep to deal with.
    if (alone) memcpy(b->head->boot, b->boot, sizeof b->boot);
    return dti_bellfile_check(b);
}

static dtask_err make_bells(dti_bellfile *b) {
    char *bells = NULL;
    if (asprintf(&bells, "%ss", b->path) < 0) return dti_fail(DTASK_ENOMEM, "out of memory when opening %s", b->path);
    dtask_err err = DTASK_OK;
    if ((mkdir(bells, 0700) < 0 && errno != EEXIST) ||
        (b->dir = open(bells, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        err = dti_fail(DTASK_EENGINE, "the folder %s cannot be made (%s): its folder must be writable by this user",
            bells, strerror(errno));
    struct stat st;
    if (!err && (fstat(b->dir, &st) < 0 || st.st_uid != geteuid() || st.st_mode & 077))
        err = dti_fail(DTASK_EENGINE, "the folder %s can be written by others: remove it, or set its mode to 0700", bells);
    free(bells);
    if (!err && (b->sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
        err = io_error(b, "rung", errno);
    return err;
}

// A lock that is held only for moments; its wait ends with the timeout.
static dtask_err lock_init(dti_bellfile *b, int64_t timeout_us) {
    int64_t until = dti_mono_us() + timeout_us;
    int e;
    while ((e = dti_byte_lock(b->fd, LOCKS + INIT, F_WRLCK, false)) == EAGAIN || e == EACCES) {
        if (dti_mono_us() > until)
            return dti_fail(DTASK_EENGINE, "another process has been opening %s for too long: is it stopped?", b->path);
        usleep(1000);
    }
    return e ? io_error(b, "locked", e) : DTASK_OK;
}

dtask_err dti_bellfile_make(dti_bellfile *b, const char *db, const char *app, int64_t lease_us) {
    *b = (dti_bellfile){.fd = -1, .test = -1, .dir = -1, .sender = -1, .lease_us = lease_us};
    b->app = dti_hash128(app, strlen(app), 0).h[0];
    pthread_mutex_init(&b->lock, NULL);
    dti_writer_lock_init(&b->writer, -1, LOCKS + WRITER);
    if (asprintf(&b->path, "%s-bell", db) < 0) {
        b->path = NULL;
        return dti_fail(DTASK_ENOMEM, "out of memory when opening %s", db);
    }
    if (!read_boot(b->boot))
        return dti_fail(DTASK_EENGINE, "/proc/sys/kernel/random/boot_id cannot be read: mount /proc, which %s needs", db);
    b->fd = open(b->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (b->fd >= 0) b->test = open(b->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (b->test < 0) return io_error(b, "opened", errno);
    b->writer.fd = b->fd;
    return DTASK_OK;
}

dtask_err dti_bellfile_open(dti_bellfile *b, int64_t timeout_us) {
    dtask_err err = lock_init(b, timeout_us);
    if (err) return err;
    bool alone = dti_byte_lock(b->fd, LOCKS + PRESENCE, F_WRLCK, false) == 0;
    err = prepare(b, alone);
    int e = dti_byte_lock(b->fd, LOCKS + PRESENCE, F_RDLCK, false);
    if (!err && e) err = io_error(b, "locked", e);
    dti_byte_lock(b->fd, LOCKS + INIT, F_UNLCK, false);
    return err ? err : make_bells(b);
}

dtask_err dti_bellfile_check(const dti_bellfile *b) {
    struct stat st;
    if (fstat(b->fd, &st) < 0 || st.st_nlink == 0)
        return dti_fail(DTASK_EENGINE, "%s was removed while in use: stop all processes on it and start them anew", b->path);
    if (memcmp(b->head->boot, b->boot, sizeof b->boot) != 0)
        return dti_fail(DTASK_EENGINE,
            "%s is in use by another machine, or by processes from before a reboot: use it on one machine at a time", b->path);
    return DTASK_OK;
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

void dti_bellfile_forked(dti_bellfile *b) {
    close_fd(&b->fd);
    b->writer.fd = -1;
    close_fd(&b->test);
    close_fd(&b->sender);
    close_fd(&b->dir);
}

void dti_bellfile_close(dti_bellfile *b) {
    dti_writer_lock_done(&b->writer);
    close_fd(&b->fd); // and all locks with it
    close_fd(&b->test);
    close_fd(&b->sender);
    close_fd(&b->dir);
    if (b->head) munmap(b->head, map_size);
    pthread_mutex_destroy(&b->lock);
    free(b->path);
    b->path = NULL;
}

// ---- slots ---------------------------------------------------------------------

static struct sockaddr_un address(const dti_bellfile *b, unsigned i) {
    // By the folder's descriptor: a path may be longer than an address.
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%u", b->dir, i);
    return a;
}

static int open_socket(const dti_bellfile *b, unsigned i) {
    struct sockaddr_un a = address(b, i);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    unlink(a.sun_path); // of a holder that died
    if (bind(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
    int e = errno;
    close(fd);
    errno = e;
    return -1;
}

// Takes slot i if it is free or a dead client's.
static bool claim_slot(dti_bellfile *b, unsigned i) {
    if (b->mine[i / 64] >> (i % 64) & 1) return false;
    uint32_t state = atomic_load(&b->slots[i].state);
    if (state != DTI_SLOT_FREE && state != DTI_SLOT_CLIENT) return false;
    if (dti_byte_lock(b->fd, LOCKS + SLOT + i, F_WRLCK, false)) return false;
    state = atomic_load(&b->slots[i].state);
    if (state == DTI_SLOT_FREE || state == DTI_SLOT_CLIENT) return true;
    dti_byte_lock(b->fd, LOCKS + SLOT + i, F_UNLCK, false);
    return false;
}

dtask_err dti_slot_take(dti_bellfile *b, uint64_t worker, unsigned *out_i, int *out_socket) {
    dtask_err err = DTASK_OK;
    pthread_mutex_lock(&b->lock);
    unsigned i = 0;
    while (i < DTI_SLOTS && !claim_slot(b, i)) i++;
    if (i == DTI_SLOTS) {
        err = dti_fail(DTASK_EENGINE, "%s has no place left: %d workers and waiting clients are the most for one file",
            b->path, DTI_SLOTS);
    } else if ((*out_socket = open_socket(b, i)) < 0) {
        err = dti_fail(DTASK_EENGINE, "no doorbell in %ss (%s): the folder must be writable, and open files not at their limit",
            b->path, strerror(errno));
        dti_byte_lock(b->fd, LOCKS + SLOT + i, F_UNLCK, false);
    } else {
        dti_slot *s = &b->slots[i];
        *out_i = i;
        atomic_store(&s->pid, (uint32_t)getpid());
        atomic_store(&s->app, b->app);
        atomic_store(&s->beat, dti_mono_us());
        atomic_store(&s->lease, b->lease_us);
        atomic_store(&s->sleep.asleep, DTI_AWAKE);
        atomic_store(&s->sleep.worker, worker);
        for (int r = 0; r < DTI_BELL_SLOTS; r++) atomic_store(&s->runs[r].job, 0);
        uint32_t high = atomic_load(&b->head->high);
        while (high <= i && !atomic_compare_exchange_weak(&b->head->high, &high, i + 1)) {
        }
        atomic_store(&s->state, worker ? DTI_SLOT_WORKER : DTI_SLOT_CLIENT);
        b->mine[i / 64] |= (uint64_t)1 << (i % 64);
    }
    pthread_mutex_unlock(&b->lock);
    return err;
}

void dti_slot_give(dti_bellfile *b, unsigned i, bool corpse) {
    struct sockaddr_un a = address(b, i);
    pthread_mutex_lock(&b->lock);
    atomic_store(&b->slots[i].sleep.asleep, DTI_AWAKE);
    if (!corpse || atomic_load(&b->slots[i].state) != DTI_SLOT_WORKER) atomic_store(&b->slots[i].state, DTI_SLOT_FREE);
    unlink(a.sun_path);
    b->mine[i / 64] &= ~((uint64_t)1 << (i % 64));
    dti_byte_lock(b->fd, LOCKS + SLOT + i, F_UNLCK, false);
    pthread_mutex_unlock(&b->lock);
}

// ---- ringing ----------------------------------------------------------------------

void dti_slot_ring(const dti_bellfile *b, unsigned i) {
    struct sockaddr_un a = address(b, i);
    // A full queue has been rung already; one that is gone needs no bell.
    while (sendto(b->sender, "", 1, MSG_NOSIGNAL, (struct sockaddr *)&a, sizeof a) < 0 && errno == EINTR) {
    }
}

static bool ours(const dti_bellfile *b, unsigned i) {
    return atomic_load(&b->slots[i].state) != DTI_SLOT_FREE && atomic_load(&b->slots[i].app) == b->app;
}

void dti_bellfile_ring(dti_bellfile *b, dti_effects *fx) {
    unsigned high = atomic_load(&b->head->high);
    for (unsigned i = 0; i < high && i < DTI_SLOTS; i++) {
        if (ours(b, i) && dti_sleep_take(&b->slots[i].sleep, fx)) dti_slot_ring(b, i);
    }
}

bool dti_bellfile_hungry(const dti_bellfile *b, unsigned self, uint32_t type) {
    unsigned high = atomic_load(&b->head->high);
    for (unsigned i = 0; i < high && i < DTI_SLOTS; i++) {
        if (i != self && ours(b, i) && dti_sleep_hungry(&b->slots[i].sleep, type)) return true;
    }
    return false;
}

void dti_bellfile_left(dti_bellfile *b, uint64_t worker) {
    unsigned high = atomic_load(&b->head->high);
    for (unsigned i = 0; i < high && i < DTI_SLOTS; i++) {
        uint32_t state = DTI_SLOT_WORKER;
        if (ours(b, i) && atomic_load(&b->slots[i].sleep.worker) == worker)
            atomic_compare_exchange_strong(&b->slots[i].state, &state, DTI_SLOT_CLIENT);
    }
}

// ---- the dead -----------------------------------------------------------------------

static bool gone(const dti_bellfile *b, unsigned i) {
    return dti_byte_free(b->test, LOCKS + SLOT + i);
}

void dti_bellfile_corpses(const dti_bellfile *b, dti_corpses *c) {
    unsigned high = atomic_load(&b->head->high);
    int64_t now = dti_mono_us();
    c->n = 0;
    for (unsigned i = 0; i < high && i < DTI_SLOTS; i++) {
        const dti_slot *s = &b->slots[i];
        uint32_t state = atomic_load(&s->state);
        if ((state != DTI_SLOT_WORKER && state != DTI_SLOT_REAPED) || !ours(b, i)) continue;
        bool frozen = state == DTI_SLOT_WORKER && now - atomic_load(&s->beat) > atomic_load(&s->lease);
        if (!frozen && !gone(b, i)) continue;
        c->slots[c->n] = i;
        c->workers[c->n++] = atomic_load(&s->sleep.worker);
    }
}

void dti_bellfile_bury(dti_bellfile *b, const dti_corpses *c) {
    for (uint32_t i = 0; i < c->n; i++) {
        dti_slot *s = &b->slots[c->slots[i]];
        uint32_t state = atomic_load(&s->state);
        if (state == DTI_SLOT_FREE || atomic_load(&s->sleep.worker) != c->workers[i]) continue; // it left meanwhile
        atomic_store(&s->state, gone(b, c->slots[i]) ? DTI_SLOT_FREE : DTI_SLOT_REAPED);
    }
}

bool dti_bellfile_knows(const dti_bellfile *b, uint64_t worker) {
    unsigned high = atomic_load(&b->head->high);
    for (unsigned i = 0; i < high && i < DTI_SLOTS; i++) {
        if (ours(b, i) && atomic_load(&b->slots[i].sleep.worker) == worker) return true;
    }
    return false;
}
