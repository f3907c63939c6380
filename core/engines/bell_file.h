// PATH-bell: what the processes on one SQLite file know of each other without
// SQL. A mapped file with a slot for each worker and each waiting client, a
// lock byte for each slot as its sign of life (the kernel frees it with the
// process), and a doorbell: a unix datagram socket in PATH-bells/.
//
// Guaranteed: a slot whose byte is free is a corpse, whatever it says; a
// worker's slot names what it executed until a sweep has dealt with it. Locks
// are open file description locks, so only a close of the description gives
// them back: a fork closes its copies and unlocks nothing.
//
// Not done here: what a death means (the model), when to look (the caller).
#pragma once

#include "engines/run.h"
#include "engines/writer_lock.h"

enum { DTI_SLOTS = 1024 };

typedef struct {
    _Atomic uint64_t job;        // 0: nothing
    _Atomic uint32_t ord;
    uint32_t pad;
} dti_runs;
typedef enum { DTI_SLOT_FREE, DTI_SLOT_CLIENT, DTI_SLOT_WORKER, DTI_SLOT_REAPED } dti_slotstate; // REAPED: frozen, and dealt with
typedef struct {
    _Atomic uint32_t state;
    _Atomic uint32_t pid;
    _Atomic uint64_t app;        // hash of its name
    _Atomic int64_t beat, lease; // CLOCK_MONOTONIC, us
    dti_sleep sleep;
    dti_runs runs[DTI_BELL_SLOTS];
} dti_slot;

typedef struct {
    char magic[8];
    uint32_t size, slots;
    char boot[40];
    _Atomic uint32_t high;       // slots from here on were never used
    _Atomic uint32_t writer;     // pid of who last took the writer lock
} dti_bellhead;

typedef struct {
    char *path;
    int fd, test, dir, sender;   // locks are made through fd, looked at through test
    dti_bellhead *head;          // mapped
    dti_slot *slots;
    char boot[40];
    uint64_t app;
    int64_t lease_us;
    pthread_mutex_t lock;        // of `mine`
    uint64_t mine[DTI_SLOTS / 64]; // slots that this process holds by fd
    dti_writer_lock writer;
} dti_bellfile;

// Its descriptors, nothing locked yet; close it also where this fails. make
// and close with forks held off, and between them fork calls `forked`: so
// every copy of a lock is known in the child. db: an absolute path. EENGINE.
dtask_err dti_bellfile_make(dti_bellfile *, const char *db, const char *app, int64_t lease_us);
// The rest; may wait for other processes. EENGINE; EVERSION: another layout is in use.
dtask_err dti_bellfile_open(dti_bellfile *, int64_t timeout_us);
void dti_bellfile_close(dti_bellfile *);
void dti_bellfile_forked(dti_bellfile *); // in the child: closes the copies of locks
// EENGINE: it was removed, or a machine of another boot uses it too.
dtask_err dti_bellfile_check(const dti_bellfile *);

dtask_err dti_slot_take(dti_bellfile *, uint64_t worker, unsigned *out_i, int *out_socket);
void dti_slot_give(dti_bellfile *, unsigned i, bool corpse); // corpse: a sweep is to deal with it
// It has said bye: its slot is no corpse when it closes.
void dti_bellfile_left(dti_bellfile *, uint64_t worker);
void dti_slot_ring(const dti_bellfile *, unsigned i);
void dti_bellfile_ring(dti_bellfile *, dti_effects *);
bool dti_bellfile_hungry(const dti_bellfile *, unsigned self, uint32_t type);

typedef struct {
    uint32_t slots[DTI_SLOTS]; uint32_t n;
    uint64_t workers[DTI_SLOTS]; // of slots[i]
} dti_corpses;
// This app's workers that are dead or frozen. Under the writer lock.
void dti_bellfile_corpses(const dti_bellfile *, dti_corpses *);
// Their deaths are committed: their slots are free, or stay as REAPED until
// their holders wake. Under the writer lock.
void dti_bellfile_bury(dti_bellfile *, const dti_corpses *);
bool dti_bellfile_knows(const dti_bellfile *, uint64_t worker); // has a slot, dead or alive
