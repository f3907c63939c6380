// C handlers: a few threads, and stacks of their own for handlers that wait.
//
// A thread runs its loop on a small stack, and calls handlers right there.
// When a handler waits, the thread leaves the stack, with the loop's frame
// below the handler's, and goes on with the loop on a fresh one. When it may
// go on, any thread of the pool leaves its own stack (a loop that holds
// nothing, it is kept for reuse) and enters the handler's, which later goes
// on as that thread's loop. So a handler that does not wait costs no switch.
//
// A handler may come back from a wait on another thread: what is
// thread-local, errno too, does not outlive a wait. Stacks have a guard page
// below; touched pages are what a parked handler costs.
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif
#ifdef ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if defined(ASAN) || defined(TSAN)
enum { STACK = 1 << 20 };        // instrumented frames are large
#else
enum { STACK = 256 << 10 };
#endif
enum { SPARE_MAX = 64 };         // stacks kept for reuse

struct dti_fiber {
    ucontext_t context;
    char *stack;                 // a guard page below
    size_t size;
    dti_fiber *next;             // spare
#ifdef ASAN
    void *fake;
#endif
#ifdef TSAN
    void *tsan;
#endif
};

struct dti_thread {
    dtask_worker *w;
    dti_fiber base;              // the thread's first stack; `stack` is not ours
    dti_fiber *on;               // where its loop runs
    dti_fiber *spent;            // left for good by the last switch
    dtask_task *parked;          // left its stack by the last switch
    dtask_task *runs;            // whose handler it runs
};

static _Thread_local dti_thread *here;

// The thread that runs this; asked anew after each switch, and never inlined,
// for a compiler may keep a thread-local's address.
__attribute__((noinline)) static dti_thread *self(void) {
    __asm__ volatile("");
    return here;
}

dtask_task *dti_pool_runs(void) {
    dti_thread *t = self();
    return t ? t->runs : NULL;
}

// ---- stacks -----------------------------------------------------------------

static void fiber_free(dti_fiber *f) {
    if (!f) return;
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
#ifdef TSAN
    if (f->tsan) __tsan_destroy_fiber(f->tsan);
#endif
    munmap(f->stack - guard, f->size + guard);
    free(f);
}

static dti_fiber *fiber_get(dtask_worker *w) {
    pthread_mutex_lock(&w->lock);
    dti_fiber *f = w->spare;
    if (f) {
        w->spare = f->next;
        w->nspare--;
    }
    pthread_mutex_unlock(&w->lock);
    if (!f) {
        size_t guard = (size_t)sysconf(_SC_PAGESIZE);
        f = calloc(1, sizeof *f);
        char *p = f ? mmap(NULL, STACK + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0)
            : MAP_FAILED;
        if (p == MAP_FAILED) {
            free(f);
            return NULL;
        }
        if (mprotect(p, guard, PROT_NONE)) { // out of mappings: without its guard it is none
            munmap(p, STACK + guard);
            free(f);
            return NULL;
        }
        f->stack = p + guard;
        f->size = STACK;
    }
#ifdef TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    return f;
}

// L
static void fiber_put(dtask_worker *w, dti_fiber *f) {
#ifdef TSAN
    __tsan_destroy_fiber(f->tsan);
    f->tsan = NULL;
#endif
#ifdef ASAN
    __asan_unpoison_memory_region(f->stack, f->size);
#endif
    if (w->nspare >= SPARE_MAX) {
        fiber_free(f);
        return;
    }
    f->next = w->spare;
    w->spare = f;
    w->nspare++;
}

void dti_fibers_free(dtask_worker *w) {
    for (dti_fiber *f; (f = w->spare);) {
        w->spare = f->next;
        fiber_free(f);
    }
    w->nspare = 0;
}

// ---- switching -----------------------------------------------------------------

// last: `from` is never entered again.
static void switch_to(dti_fiber *from, dti_fiber *to, bool last) {
#ifdef ASAN
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake, to->stack, to->size);
#endif
#ifdef TSAN
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
    if (last) setcontext(&to->context);
    else swapcontext(&from->context, &to->context);
#ifdef ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

// What the stack that was left wanted done once nobody stands on it.
static void arrived(void) {
    dti_thread *t = self();
    dtask_worker *w = t->w;
    if (!t->spent && !t->parked) return;
    pthread_mutex_lock(&w->lock);
    if (t->spent) fiber_put(w, t->spent);
    if (t->parked) {
        dti_frame_pause(t->parked);
        t->parked->state = DTI_F_PARKING;
        if (dti_wait_holds(t->parked)) dti_frame_resume(t->parked, DTASK_B_RESUME);
        else dti_wait_park(t->parked, DTI_WARM);
    }
    t->spent = NULL;
    t->parked = NULL;
    pthread_mutex_unlock(&w->lock);
}

// ---- the loop ---------------------------------------------------------------------

// L: what to run next; NULL: leave.
static dtask_task *next_work(dtask_worker *w) {
    for (;;) {
        dtask_task *f = w->woken.first;
        if (f && (f->lost || f->unwind || dti_may_begin(w) || w->alone == f)) return dti_queue_pop(&w->woken);
        if (!w->stopping && (f = w->ready[DTI_POOL_C].first) && (dti_may_begin(w) || w->alone == f))
            return dti_queue_pop(&w->ready[DTI_POOL_C]);
        if (w->ended && !w->woken.n) return NULL;
        w->idle++;
        pthread_cond_wait(&w->work, &w->lock);
        w->idle--;
    }
}

static void run(dtask_task *f) {
    dtask_worker *w = f->w;
    self()->runs = f;
    dti_no_detail();             // what failed here before was another task's
    dtask_err err = f->h->fn(f, f->h->arg);
    // A child that the handler forked, and let return: nothing of the worker is in it but this thread.
    if (dti_worker_forked(w)) _exit(1);
    dti_outcome what;
    dti_outcome_of(f, err, &what);
    self()->runs = NULL;
    pthread_mutex_lock(&w->lock);
    dti_frame_end(f, what);
    pthread_mutex_unlock(&w->lock);
}

static void loop(void) {
    for (;;) {
        arrived();
        dti_thread *t = self();
        dtask_worker *w = t->w;
        pthread_mutex_lock(&w->lock);
        dtask_task *f = next_work(w);
        if (f) {
            dti_frame_begin(f);
            dti_frame_runs(f);
            if (dti_may_begin(w) && (w->woken.n || w->ready[DTI_POOL_C].n)) dti_pool_wake(w); // this may take long
        }
        pthread_mutex_unlock(&w->lock);
        if (!f) {
            t->spent = t->on;
            switch_to(t->on, &t->base, true);
        } else if (f->fiber) {
            dti_fiber *to = f->fiber;
            f->fiber = NULL;
            t->spent = t->on;
            t->on = to;
            switch_to(t->spent, to, true);
        } else {
            run(f);
        }
    }
}

static void enter(void) {
#ifdef ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
    loop();
}

static void prepare(dti_fiber *f) {
    getcontext(&f->context);
    f->context.uc_stack = (stack_t){.ss_sp = f->stack, .ss_size = f->size};
    f->context.uc_link = NULL;
    makecontext(&f->context, enter, 0);
}

bool dti_pool_can_park(dtask_task *f) {
    dti_thread *t = self();
    if (!t || t->w != f->w) return false;
    dti_fiber *fresh = fiber_get(f->w);
    if (!fresh) return false;
    prepare(fresh);
    f->fiber = fresh;            // until the park: where its thread goes on
    return true;
}

void dti_pool_park(dtask_task *f) {
    dti_thread *t = self();
    dti_fiber *mine = t->on, *fresh = f->fiber;
    f->fiber = mine;
    t->on = fresh;
    t->parked = f;
    t->runs = NULL;
    switch_to(mine, fresh, false);
    arrived();
    self()->runs = f;
    dti_no_detail();             // as above
}

static void *thread_main(void *arg) {
    dti_thread *t = arg;
    dtask_worker *w = t->w;
    pthread_sigmask(SIG_SETMASK, &w->signals, NULL);
    here = t;
    dti_enter_handlers();
    dti_fiber *first = fiber_get(w);
    if (first) {
        prepare(first);
        t->on = first;
#ifdef ASAN
        pthread_attr_t attr;
        pthread_getattr_np(pthread_self(), &attr);
        pthread_attr_getstack(&attr, (void **)&t->base.stack, &t->base.size);
        pthread_attr_destroy(&attr);
        __sanitizer_start_switch_fiber(&t->base.fake, first->stack, first->size);
#endif
#ifdef TSAN
        t->base.tsan = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(first->tsan, 0);
#endif
        swapcontext(&t->base.context, &first->context);
#ifdef ASAN
        __sanitizer_finish_switch_fiber(t->base.fake, NULL, NULL);
#endif
    }
    here = NULL;
    pthread_mutex_lock(&w->lock);
    if (t->spent) fiber_put(w, t->spent);
    free(t);
    w->nthreads--;
    if (!first) dti_worker_fail(w, DTASK_ENOMEM, "no memory for a handler's stack");
    // Who waits for this thread may free the worker once it has the lock.
    bool last = atomic_fetch_sub(&w->refs, 1) == 1;
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->lock);
    if (last) dti_worker_gone(w);
    return NULL;
}

// Threads are made when there is work and none is idle.
void dti_pool_wake(dtask_worker *w) {
    if (w->idle) pthread_cond_signal(&w->work);
    if (w->idle >= w->woken.n + w->ready[DTI_POOL_C].n || w->nthreads >= w->slots) return;
    dti_thread *t = calloc(1, sizeof *t);
    pthread_attr_t attr;
    pthread_t id;
    if (!t || pthread_attr_init(&attr)) {
        free(t);
        if (!w->nthreads) dti_worker_fail(w, DTASK_ENOMEM, "no memory for a thread of handlers");
        return;                  // those that run go on
    }
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    t->w = w;
    dti_worker_hold(w);
    w->nthreads++;
    if (pthread_create(&id, &attr, thread_main, t)) {
        w->nthreads--;
        free(t);
        atomic_fetch_sub(&w->refs, 1); // not the last: the caller holds one
        if (!w->nthreads) dti_worker_fail(w, DTASK_ENOMEM, "no thread can be made for handlers");
    }
    pthread_attr_destroy(&attr);
}
