// One operation over a store, sleepers, forks: see run.h.
#include "engines/run.h"

#include <pthread.h>
#include <stdio.h>

static dtask_err run(dti_store *store, dti_tx *tx, dti_op *op, jmp_buf *trap) {
    if (setjmp(*trap)) return store->trap_err;
    dti_model_run(tx, op);
    return op->err;
}

dtask_err dti_run_op(dti_store *store, dti_tx *tx, dti_op *op) {
    jmp_buf trap, *outer = store->trap;
    size_t types = tx->fx.ntypes, workers = tx->fx.nworkers, ended = tx->fx.nended;
    bool more = tx->fx.ended_more;
    store->trap = &trap;
    tx->store = store;
    tx->work = NULL;
    dtask_err err = run(store, tx, op, &trap);
    store->trap = outer;
    if (err) {
        tx->fx.ntypes = types;
        tx->fx.nworkers = workers;
        tx->fx.nended = ended;
        tx->fx.ended_more = more;
    }
    return err;
}

void dti_note_failure(dti_failure *f) {
    if (f->set) return;
    f->set = true;
    snprintf(f->text, sizeof f->text, "%s", dtask_err_detail());
}

void dti_tell_failure(const dti_failure *f) {
    if (f->set) dti_fail(DTASK_OK, "%s", f->text);
}

// ---- sleepers ----------------------------------------------------------------

static inline uint64_t bit_of(uint32_t type) {
    return (uint64_t)1 << (type & 63);
}

static inline unsigned word_of(uint32_t type) {
    return type / 64 % DTI_SLEEP_WORDS;
}

void dti_sleep_for(dti_sleep *s, const uint32_t *types, size_t n, const dti_hash *job) {
    uint64_t words[DTI_SLEEP_WORDS] = {0};
    for (size_t i = 0; i < n; i++) words[word_of(types[i])] |= bit_of(types[i]);
    for (int i = 0; i < DTI_SLEEP_WORDS; i++) atomic_store_explicit(&s->types[i], words[i], memory_order_relaxed);
    for (int i = 0; i < 2; i++) atomic_store_explicit(&s->job[i], job ? job->h[i] : 0, memory_order_relaxed);
    atomic_store_explicit(&s->for_job, job != NULL, memory_order_relaxed);
    // Before the sleeper's last look, and after what a writer committed: one
    // of the two sees the other.
    atomic_store(&s->asleep, DTI_ASLEEP);
}

bool dti_sleep_hungry(dti_sleep *s, uint32_t type) {
    return atomic_load(&s->asleep) != DTI_AWAKE &&
        atomic_load_explicit(&s->types[word_of(type)], memory_order_relaxed) & bit_of(type);
}

bool dti_sleep_take(dti_sleep *s, dti_effects *fx) {
    if (atomic_load(&s->asleep) != DTI_ASLEEP) return false;
    bool wanted = false;
    for (size_t i = 0; i < fx->ntypes && !wanted; i++) {
        wanted = atomic_load_explicit(&s->types[word_of(fx->types[i])], memory_order_relaxed) & bit_of(fx->types[i]);
    }
    uint64_t worker = atomic_load_explicit(&s->worker, memory_order_relaxed);
    for (size_t i = 0; worker && i < fx->nworkers && !wanted; i++) wanted = fx->workers[i] == worker;
    if (!wanted && atomic_load_explicit(&s->for_job, memory_order_relaxed)) {
        uint64_t h0 = atomic_load_explicit(&s->job[0], memory_order_relaxed);
        uint64_t h1 = atomic_load_explicit(&s->job[1], memory_order_relaxed);
        wanted = fx->ended_more;
        for (size_t i = 0; i < fx->nended && !wanted; i++) wanted = fx->ended[i].h[0] == h0 && fx->ended[i].h[1] == h1;
    }
    bool works = fx->todo && worker;
    uint32_t asleep = DTI_ASLEEP;
    if (!(wanted || works) || !atomic_compare_exchange_strong(&s->asleep, &asleep, DTI_RUNG)) return false;
    if (worker) fx->todo = false;
    return true;
}

// ---- fork ---------------------------------------------------------------------

enum { AT_FORK_MAX = 4 };
static pthread_mutex_t at_fork_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { void (*lock)(void), (*unlock)(void), (*forget)(void); } at_fork[AT_FORK_MAX];
static atomic_uint forks;

static void before(void) {
    pthread_mutex_lock(&at_fork_lock);
    for (int i = 0; i < AT_FORK_MAX && at_fork[i].lock; i++) at_fork[i].lock();
}

static void in_parent(void) {
    for (int i = 0; i < AT_FORK_MAX && at_fork[i].unlock; i++) at_fork[i].unlock();
    pthread_mutex_unlock(&at_fork_lock);
}

static void in_child(void) {
    atomic_fetch_add(&forks, 1);
    for (int i = 0; i < AT_FORK_MAX && at_fork[i].forget; i++) at_fork[i].forget();
    pthread_mutex_init(&at_fork_lock, NULL);
}

static void install(void) {
    pthread_atfork(before, in_parent, in_child);
}

unsigned dti_forks(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    return atomic_load(&forks);
}

void dti_at_fork(void (*lock)(void), void (*unlock)(void), void (*forget)(void)) {
    pthread_mutex_lock(&at_fork_lock);
    int i = 0;
    while (i < AT_FORK_MAX - 1 && at_fork[i].forget && at_fork[i].forget != forget) i++;
    at_fork[i].lock = lock;
    at_fork[i].unlock = unlock;
    at_fork[i].forget = forget;
    pthread_mutex_unlock(&at_fork_lock);
}

dtask_err dti_forked_error(void) {
    return dti_fail(DTASK_EUSAGE,
        "this app was opened before a fork and cannot be used in the child: open another in the child");
}
