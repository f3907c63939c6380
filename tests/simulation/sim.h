// The simulated world: one shard, some workers, some clients, one clock.
//
// Everything that happens is an event on a virtual clock, and everything
// that is chance comes from one generator: a seed is a run, step by step the
// same. Operations run on the object code of core/model over a memory store;
// after each of them the invariants look at the rows that changed.
#pragma once

#include <setjmp.h>
#include <stdio.h>

#include "beside.h"
#include "mirror.h"
#include "prng.h"
#include "program.h"

// What may happen; each on or off in a seed.
#define SIM_FAULTS(X)                                                                        \
    X(LOSE_REQUEST) X(LOSE_REPLY) X(DOUBLE) X(LATE) X(SLOW) X(KILL) X(CHARGE_ALL) X(FREEZE)   \
    X(CLOCK) X(FAILOVER) X(BELL_LOST) X(SMALL_SWEEP) X(FORGE) X(PAUSE) X(CANCEL) X(PURGE)     \
    X(UNSTARTED) X(DROP_FRAME) X(CONFLICT) X(LEASE) X(LEAVE) X(TICK) X(ABANDON)
typedef enum {
#define X(n) FT_##n,
    SIM_FAULTS(X)
#undef X
    FT_COUNT
} sim_fault;
extern const char *const sim_fault_names[FT_COUNT];

typedef struct {
    uint64_t seeds, steps, tasks, jobs, ops[8], messages, claims, wakes;
    uint64_t faults[FT_COUNT];
} sim_stats;

typedef enum {
    F_FREE,
    F_QUEUED,   // claimed, not begun
    F_RUNNING,  // has a slot
    F_HOLD,     // has a slot, needs the answer to its last message to go on
    F_PARKING,  // sent its park, no answer yet
    F_PARKED,
    F_WOKEN,    // waits for a slot
    F_ENDING,   // sent its end
} frame_state;

typedef struct {
    uint32_t ord;      // 0: not yet known
    bool made, sent, joined, known, bad, given, told;
    uint8_t state;
    uint64_t value;
} sim_call;

typedef struct {       // a child found at a re-run
    uint32_t ord, ptries;
    uint64_t call[2];
    uint8_t state;
    bool bad, cancel, replaced, taken;
} sim_kid;

typedef struct {       // what the next message will carry
    uint8_t calls[PROG_CALLS]; uint32_t ncalls;
    uint32_t redo[PROG_CALLS]; uint32_t nredo; // ords made anew
    uint32_t acks[PROG_CALLS]; uint32_t nacks; // calls whose failure was given
    dti_note notes[8]; uint32_t nnotes;
    bool progress, state;
} sim_pending;

typedef struct sim_frame {
    struct sim_frame *next; // spare ones
    frame_state st;
    uint32_t gen, index;
    int worker;
    uint64_t job; uint32_t ord;
    uint64_t token; uint32_t seq, park_seq;
    dti_taskrow row;   // at the claim
    prog p; uint32_t type_index;
    uint32_t pc;
    sim_call calls[PROG_CALLS];
    sim_kid *kids; uint32_t nkids;
    sim_pending pend;
    bool begun, out, cancel, fails, rerun, woken, retold;
    uint64_t sum;      // of what it was given
    uint32_t read;     // log entries consumed
    uint32_t sigs, sigs_taken;
    uint32_t recv_gave_up; // bit per instruction: a wait that timed out
    int64_t deadlines[8]; uint32_t ndeadlines, deadlines_taken;
    int64_t all_until; uint32_t all_pc; // a wait for all, with a timeout
    uint32_t emits;
    dti_endkind ended; uint8_t parked_mask; dti_parkhow parked_how;
} sim_frame;

typedef struct sim_turn {
    dti_turn req;      // as sent; its messages never change
    int worker; uint32_t incarnation;
    uint32_t frames[16], gens[16];
    bool answered;
    int64_t sent;
} sim_turn;

typedef struct {
    bool alive, frozen, draining;
    uint32_t incarnation; uint64_t no, nonce, era, run; // run: of the store that `no` is from
    int64_t lease, renewed, frozen_until;
    uint32_t slots, prefetch, types; // types: bit per type index
    uint64_t got;
    sim_turn *flying;
    bool ring;         // someone rang while a turn was in flight
    dti_message *box[64]; uint32_t box_frame[64]; uint32_t nbox;
    sim_frame **frames; uint32_t nframes, cframes;
} sim_worker;

typedef struct {
    char id[32]; uint32_t idn;
    dti_new task;
    int64_t retain; uint32_t max_tasks, max_depth, blob_min;
    bool accepted, purged, cancelled, exact, joined;
    uint64_t no;
} sim_job;

typedef enum { EV_NONE, EV_ARRIVE, EV_REPLY, EV_RESEND, EV_WORKER, EV_FRAME, EV_START, EV_MISCHIEF, EV_SWEEP, EV_RISE } event_kind;
typedef struct { int64_t at; uint64_t n; event_kind kind; uint32_t a, b; void *p; } event;

// An operation and the memory of its answer.
typedef struct sim_rpc { struct sim_rpc *next; dti_op op; dti_arena arena; sim_turn *turn; } sim_rpc;

typedef struct { uint64_t job; uint32_t ord; uint64_t value; uint8_t end; } sim_entry;
typedef struct { dtask_str id; uint32_t ord; uint64_t msgid; bool accepted; } sim_post;

enum { SIM_WORKERS = 4, SIM_JOBS = 8 };

struct sim {
    uint64_t seed;
    prng r;
    uint32_t faults;   // bit per sim_fault
    prog_conf conf;
    uint32_t cascade;  // steps of an operation before it leaves a todo
    int64_t now, wall; // virtual; wall is ahead of now by what the clock was set
    uint64_t step, events;
    bool calm;         // faults are off, all shall end
    dti_arena arena;   // life of a seed
    watch store;
    mirror m;
    event *heap; size_t nheap, cheap; uint64_t next_event;
    sim_worker w[SIM_WORKERS]; int nw;
    sim_frame *spare, **all; uint32_t nall, call;
    sim_job j[SIM_JOBS]; int nj;
    uint32_t types[PROG_TYPES], ntypes, sys_types[3];
    uint64_t dead[32]; uint32_t ndead;           // seen dead, not yet swept
    dti_charge charge[64]; uint32_t ncharge; bool charge_all;
    sim_entry *ends; size_t nends, cends;        // outcomes that were accepted
    sim_entry *begun; size_t nbegun, cbegun;     // what must not run twice and has begun; value: its try
    uint64_t ended[64]; uint32_t nended;         // jobs, not yet looked at
    sim_post *posts; size_t nposts, cposts;
    uint64_t run;      // the store's run id
    size_t snap_ends; bool snapped, failed_over;
    sim_turn *old[16]; uint32_t nold;            // late copies come from here
    int64_t next_sweep; uint32_t sweeps;         // when; which of the EV_SWEEPs is the one that counts
    sim_rpc *free_rpcs;
    sim_stats *stats;
    jmp_buf *caught;   // where a violation goes
    char violation[48], why[256];
    bool trace; FILE *out;
    char (*lines)[200]; uint64_t nlines;         // the last of them
    const sim_beside *beside; // NULL: the model runs alone
    bool beside_dumps;       // compares all rows after each step
};

static inline bool on(const sim *s, sim_fault f) { return !s->calm && s->faults >> f & 1; }
// Does this fault strike now? n in a thousand; counted.
bool strikes(sim *, sim_fault, uint32_t n);

// ---- world.c ----------------------------------------------------------------
// Runs the seed; 0, or a violation stands in s->violation.
bool sim_run(sim *);
void sim_done(sim *);
void sim_at(sim *, int64_t delay, event_kind, uint32_t a, uint32_t b, void *p);
// Runs an operation and checks the world after it. False: it failed.
bool sim_op(sim *, sim_rpc *);
sim_rpc *sim_rpc_new(sim *, dti_opkind);
void sim_rpc_free(sim *, sim_rpc *);
void *sim_alloc(sim *, size_t);
dtask_str sim_printf(sim *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void sim_violation(sim *, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void sim_trace(sim *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define TRACE(s, ...) ((s)->trace ? sim_trace(s, __VA_ARGS__) : (void)0)
void sim_ring(sim *, const dti_effects *);

// ---- worker.c: turns, claims, wakes, death ---------------------------------
void worker_join(sim *, int w);
void worker_look(sim *, int w);                  // starts what it can, sends a turn if there is need
void worker_send(sim *, int w);
void turn_arrives(sim *, sim_turn *);
void turn_answered(sim *, sim_rpc *);
void turn_resend(sim *, sim_turn *);
void worker_die(sim *, int w);
void worker_leave(sim *, int w);
void worker_freeze(sim *, int w);
void worker_thaw(sim *, int w);
void worker_forge(sim *, int w);                 // messages that must be refused

// ---- handler.c: frames --------------------------------------------------------
sim_frame *frame_new(sim *, int w, const dti_claim *);
void frame_drop(sim *, sim_frame *);
void frame_go(sim *, sim_frame *);               // runs until it waits, ends or must hear an answer
void frame_answer(sim *, sim_frame *, const dti_message *, const dti_answer *);
void frame_mails(sim *, sim_frame *, const dti_mail *, uint32_t n, bool more);
static inline bool frame_busy(const sim_frame *f) {
    return f->st == F_RUNNING || f->st == F_HOLD;
}

// ---- client.c: starts, cancels, pauses, posts, sweeps, faults -------------------
void clients_make(sim *);
void client_start(sim *, uint32_t j);
void mischief(sim *);
void sweep(sim *);
void sweep_at(sim *, int64_t delay);             // at the latest
void calm_down(sim *);
void calm_help(sim *);                           // signals and resumes, while calm

// ---- invariants.c --------------------------------------------------------------
void check_step(sim *, const dti_op *, const dti_effects *);
void check_scan(sim *);
void check_end(sim *);
void check_ended(sim *);                          // the jobs that ended since: their outcomes
// Before a turn: what must become of each of its messages.
typedef struct { bool dead, old, era, resent; uint8_t expect[16]; uint32_t seq[16]; uint8_t state[16]; } turn_before;
void check_turn_before(sim *, const dti_turn *, turn_before *);
void check_turn_after(sim *, const dti_turn *, const turn_before *);
// Nothing but the sign of life of worker `no` may have changed.
void check_unchanged(sim *, const char *name, uint64_t no);
