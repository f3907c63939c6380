// What of a frame's outbox goes into a turn: one message for a frame, with
// as many of its children as the turn has room for. The end goes with the
// last of them, so an outcome carries all that was spawned before it.
//
// Two steps. `gather` moves things out of the outbox under the lock;
// `compose` makes the records, which for a range of a dtask_map is real work.
// What was gathered is untouched until the turn is answered, so a turn that
// failed is sent again byte for byte.
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

// ---- gather -----------------------------------------------------------------

// Takes calls of f, `room` children at most. Single ones leave the queue;
// a range stays at its head until all of it is stored. Where memory ends the
// rest is for the next turn; false: not even one could be taken, and nothing
// has changed.
static bool take_calls(dti_turnbox *box, dti_flight *fl, uint32_t room, dti_acks *redone) {
    dtask_task *f = fl->frame;
    uint32_t pos = 0, cap = 0;
    while (f->unsent && pos < room) {
        dti_unsent *u = f->unsent;
        uint32_t count = u->range ? u->n < room - pos ? (uint32_t)u->n : room - pos : 1;
        if (fl->npieces == cap) {
            uint32_t more = cap ? cap * 2 : 8;
            dti_piece *p = dti_alloc(&box->mem, more * sizeof *p);
            if (!p) break;
            if (cap) memcpy(p, fl->pieces, cap * sizeof *p);
            fl->pieces = p;
            cap = more;
        }
        // Never without its ack: the child that it takes the place of would be found again.
        if (u->redo && !dti_grow(&redone->v, redone->n, &redone->cap, sizeof *redone->v)) break;
        fl->pieces[fl->npieces++] = (dti_piece){u, u->index, pos, count};
        if (u->child && !u->child->batch) u->child->pos = pos;
        if (u->redo) redone->v[redone->n++] = (dti_ack){u->redo, true};
        pos += count;
        if (u->range && count < u->n) break; // the rest is for the next turn
        f->unsent = u->next;
        if (!f->unsent) f->unsent_last = NULL;
    }
    box->nchildren += pos;
    fl->whole = !f->unsent;
    return pos || fl->whole;
}

static void take_end(dti_turnbox *box, dti_flight *fl, dti_message *m) {
    dtask_task *f = fl->frame;
    m->value = dti_str(f->value.p, f->value.n);
    m->retry = f->retry;
    m->freed = f->freed;
    m->retry_at = f->retry_at;
    m->unstarted = f->unstarted;
    if (f->end == DTI_END_PARK) {
        dti_wait_arms(f);
        // Told first, in as many messages as it takes, then the park.
        if (!dti_wait_tell(f, fl, &box->mem, &m->told, &m->ntold)) {
            fl->whole = false;
            return;
        }
        m->mask = f->mask;
        m->how = f->how;
        m->due = dti_wait_due(f);
        m->read = f->logread;
        f->park_seq = m->seq;
        f->quiet_mark = f->serial;
        f->quiet_spawned = f->nspawned;
        if (m->due && (!box->link->due_at || m->due < box->link->due_at)) box->link->due_at = m->due;
    }
    m->end = f->end;
    f->end_flying = true;
    if (f->end == DTI_END_BECOME) {
        m->next = &f->become->call; // its deps: compose
        m->read = f->received;
    }
}

static bool gather_one(dti_turnbox *box, dtask_task *f, uint32_t room) {
    dti_flight *fl = &box->flights[box->n];
    dti_message *m = &box->messages[box->n];
    *fl = (dti_flight){.frame = f};
    *m = (dti_message){.job = f->job, .ord = f->ord, .token = f->token, .seq = f->seq + 1};
    if (!take_calls(box, fl, room, &f->acks)) return false;
    f->acks_sent = f->acks;
    f->acks = (dti_acks){0};
    f->notes_sent = f->notes;
    f->notes = (dti_notes){0};
    f->progress_sent = f->progress;
    f->progress = (dti_buf){0};
    m->acks = f->acks_sent.v;
    m->nacks = (uint32_t)f->acks_sent.n;
    m->notes = f->notes_sent.v;
    m->nnotes = (uint32_t)f->notes_sent.n;
    m->progress = dti_str(f->progress_sent.p, f->progress_sent.n);
    if (fl->whole && f->end) take_end(box, fl, m);
    f->flying = true;
    box->n++;
    return true;
}

void dti_gather(dti_turnbox *box) {
    dti_link *l = box->link;
    box->n = box->nchildren = 0;
    for (unsigned left = l->nout; left && box->n < DTI_MESSAGES_MAX; left--) {
        dtask_task *f = l->out;
        uint32_t room = DTI_CHILDREN_MAX - box->nchildren;
        if (f->unsent && !room) break;
        if (l->nout > 1 && room > DTI_FAIR) room = DTI_FAIR;
        l->out = f->out_next;
        if (!l->out) l->out_last = NULL;
        l->nout--;
        f->listed = false;
        if (f->lost) {
            dti_frame_rest(f);
            continue;
        }
        if (!gather_one(box, f, room)) {
            dti_out_add(f, true);
            break;
        }
    }
    l->urgent = l->nout > 0;
    l->flush_at = 0;
}

// ---- compose -------------------------------------------------------------------

static bool put_deps(dti_turnbox *box, const dti_unsent *u, dti_new *n) {
    if (!n->ndeps) return true;
    uint32_t *refs = dti_alloc(&box->mem, n->ndeps * sizeof *refs);
    if (!refs) return false;
    for (uint32_t i = 0; i < n->ndeps; i++) {
        const dtask_child *c = u->deps[i];
        refs[i] = c->sent ? c->ord : DTI_HERE | c->pos;
    }
    n->deps = refs;
    return true;
}

static bool put_range(dti_turnbox *box, const dti_piece *p, uint32_t ptries, dti_new *to) {
    const dti_unsent *u = p->call;
    dti_buf args = {0};
    bool ok = true;
    for (uint32_t i = 0; i < p->count && ok; i++) {
        args.n = 0;
        dti_mp_put_array(&args, 1 + u->ntail);
        dti_mp_put_int(&args, u->from + (int64_t)i);
        dti_buf_add(&args, u->tail.p, u->tail.n);
        dtask_str a = dti_dup(&box->mem, dti_str(args.p, args.n));
        to[i] = (dti_new){0};
        ok = a.p && !dti_call_make(box->w->app, &box->mem, u->info, &u->opts, a, (dtask_str){0}, &to[i]);
        to[i].ptries = ptries;
    }
    dti_buf_done(&args);
    return ok;
}

static bool compose_one(dti_turnbox *box, dti_flight *fl, dti_message *m) {
    uint32_t n = fl->npieces ? fl->pieces[fl->npieces - 1].pos + fl->pieces[fl->npieces - 1].count : 0;
    if (n) {
        dti_new *to = dti_alloc(&box->mem, n * sizeof *to);
        if (!to) return false;
        for (uint32_t i = 0; i < fl->npieces; i++) {
            const dti_piece *p = &fl->pieces[i];
            if (p->call->range) {
                if (!put_range(box, p, fl->frame->row.tries, to + p->pos)) return false;
            } else {
                to[p->pos] = p->call->call;
                if (!put_deps(box, p->call, &to[p->pos])) return false;
            }
        }
        m->children = to;
        m->nchildren = n;
    }
    if (m->end == DTI_END_BECOME) {
        dti_new *next = dti_alloc(&box->mem, sizeof *next);
        if (!next) return false;
        *next = *m->next;
        if (!put_deps(box, fl->frame->become, next)) return false;
        m->next = next;
    }
    return true;
}

void dti_compose(dti_turnbox *box) {
    box->failed = false;
    for (uint32_t i = 0; i < box->n; i++)
        if (!compose_one(box, &box->flights[i], &box->messages[i])) box->failed = true;
}
