// Answers and effects of an engine beside, against the model's.
#include <stdio.h>
#include <string.h>

#include "beside.h"
#include "sim.h"

#define SAME(a, b, ...)                                                                                   \
    do {                                                                                                  \
        if ((uint64_t)(a) != (uint64_t)(b)) {                                                             \
            char where[96];                                                                               \
            snprintf(where, sizeof where, __VA_ARGS__);                                                   \
            sim_violation(s, "BESIDE_REPLY", "%s: here %llu, the model %llu (%s)", where, (unsigned long long)(a), (unsigned long long)(b), #a); \
        }                                                                                                 \
    } while (0)
#define SAME_TEXT(a, b, ...)                                                                              \
    do {                                                                                                  \
        if (!dti_str_eq(a, b)) {                                                                          \
            char where[96];                                                                               \
            snprintf(where, sizeof where, __VA_ARGS__);                                                   \
            sim_violation(s, "BESIDE_REPLY", "%s: here %zu bytes, the model %zu (%s)", where, (a).n, (b).n, #a); \
        }                                                                                                 \
    } while (0)

static void same_row(sim *s, const dti_taskrow *x, const dti_taskrow *model, const char *what) {
    dti_taskrow y = *model;
    if (!x->call[0] && !x->call[1]) y.call[0] = y.call[1] = 0; // of a job that the model started: see packed.h
    for (size_t i = 0; i < sizeof y; i++)
        if (((const uint8_t *)x)[i] != ((const uint8_t *)&y)[i]) sim_violation(s, "BESIDE_REPLY", "%s: the row differs from byte %zu on", what, i);
}

static void same_mails(sim *s, const dti_mail *x, uint32_t nx, const dti_mail *y, uint32_t ny, const char *what) {
    SAME(nx, ny, "%s: mails", what);
    for (uint32_t i = 0; i < nx; i++) {
        SAME(x[i].n, y[i].n, "%s: mail %u", what, i);
        SAME(x[i].kind, y[i].kind, "%s: mail %u", what, i);
        SAME(x[i].ord, y[i].ord, "%s: mail %u", what, i);
        SAME(x[i].state, y[i].state, "%s: mail %u", what, i);
        SAME(x[i].bad, y[i].bad, "%s: mail %u", what, i);
        SAME(x[i].reason, y[i].reason, "%s: mail %u", what, i);
        SAME(x[i].blame, y[i].blame, "%s: mail %u", what, i);
        SAME(x[i].blame_state, y[i].blame_state, "%s: mail %u", what, i);
        SAME(x[i].blame_reason, y[i].blame_reason, "%s: mail %u", what, i);
        SAME(x[i].attempts, y[i].attempts, "%s: mail %u", what, i);
        SAME_TEXT(x[i].type, y[i].type, "%s: mail %u", what, i);
        SAME_TEXT(x[i].name, y[i].name, "%s: mail %u", what, i);
        SAME_TEXT(x[i].data, y[i].data, "%s: mail %u", what, i);
    }
}

static void same_turn(sim *s, const dti_turn *x, const dti_turn *y) {
    SAME(x->status, y->status, "turn");
    if (y->status) return;
    SAME(x->drain, y->drain, "turn");
    SAME(x->todo, y->todo, "turn");
    for (uint32_t i = 0; i < y->nmessages; i++) {
        const dti_answer *a = &x->answers[i], *b = &y->answers[i];
        char what[32];
        snprintf(what, sizeof what, "answer %u", i);
        SAME(a->status, b->status, "%s", what);
        SAME(a->first, b->first, "%s", what);
        SAME(a->count, b->count, "%s", what);
        SAME(a->now, b->now, "%s", what);
        SAME(a->cancelling, b->cancelling, "%s", what);
        SAME(a->state, b->state, "%s", what);
        SAME(a->mask, b->mask, "%s", what);
        SAME(a->njoined, b->njoined, "%s", what);
        for (uint32_t j = 0; j < b->njoined; j++) {
            SAME(a->joined[j].pos, b->joined[j].pos, "%s: joined %u", what, j);
            SAME(a->joined[j].ord, b->joined[j].ord, "%s: joined %u", what, j);
            SAME(a->joined[j].job, b->joined[j].job, "%s: joined %u", what, j);
            SAME(a->joined[j].conflict, b->joined[j].conflict, "%s: joined %u", what, j);
            SAME_TEXT(a->joined[j].id, b->joined[j].id, "%s: joined %u", what, j);
        }
        same_mails(s, a->mails, a->nmails, b->mails, b->nmails, what);
        SAME(a->more, b->more, "%s", what);
        SAME(a->logn, b->logn, "%s", what);
    }
    SAME(x->nclaims, y->nclaims, "turn");
    for (uint32_t i = 0; i < y->nclaims; i++) {
        const dti_claim *a = &x->claims[i], *b = &y->claims[i];
        char what[32];
        snprintf(what, sizeof what, "claim %u", i);
        SAME(a->job, b->job, "%s", what);
        SAME(a->ord, b->ord, "%s", what);
        SAME(a->token, b->token, "%s", what);
        SAME(a->again, b->again, "%s", what);
        same_row(s, &a->row, &b->row, what);
        SAME_TEXT(a->id, b->id, "%s", what);
        SAME_TEXT(a->args, b->args, "%s", what);
        SAME_TEXT(a->state, b->state, "%s", what);
        SAME_TEXT(a->trigger, b->trigger, "%s", what);
        same_mails(s, a->deps, a->ndeps, b->deps, b->ndeps, what);
    }
    SAME(x->nwakes, y->nwakes, "turn");
    for (uint32_t i = 0; i < y->nwakes; i++) {
        const dti_wake *a = &x->wakes[i], *b = &y->wakes[i];
        char what[32];
        snprintf(what, sizeof what, "wake %u", i);
        SAME(a->n, b->n, "%s", what);
        SAME(a->job, b->job, "%s", what);
        SAME(a->ord, b->ord, "%s", what);
        SAME(a->token, b->token, "%s", what);
        SAME(a->seq, b->seq, "%s", what);
        SAME(a->cancel, b->cancel, "%s", what);
        SAME(a->state, b->state, "%s", what);
        SAME(a->logn, b->logn, "%s", what);
        SAME(a->more, b->more, "%s", what);
        same_mails(s, a->mails, a->nmails, b->mails, b->nmails, what);
    }
}

static void same_view(sim *s, const dti_taskview *x, const dti_taskview *y, const char *what) {
    SAME(x->job, y->job, "%s", what);
    SAME(x->ord, y->ord, "%s", what);
    same_row(s, &x->row, &y->row, what);
    const dtask_str *a[] = {&x->id, &x->type, &x->by, &x->args, &x->result, &x->error, &x->progress, &x->state, &x->deps};
    const dtask_str *b[] = {&y->id, &y->type, &y->by, &y->args, &y->result, &y->error, &y->progress, &y->state, &y->deps};
    for (int i = 0; i < 9; i++) SAME_TEXT(*a[i], *b[i], "%s: text %d", what, i);
    same_mails(s, &x->end, 1, &y->end, 1, what);
}

void beside_same_read(sim *s, const dti_read *x, const dti_read *y) {
    SAME(x->n, y->n, "read %d", (int)y->what);
    SAME(x->more, y->more, "read %d", (int)y->what);
    SAME(x->next, y->next, "read %d", (int)y->what);
    for (uint32_t i = 0; i < y->n; i++) {
        char what[32];
        snprintf(what, sizeof what, "read %d, item %u", (int)y->what, i);
        if (y->jobs) {
            dti_jobrow here = x->jobs[i].row, row = y->jobs[i].row;
            here.blob = row.blob = (dti_hash){0}; // the script has none
            SAME(x->jobs[i].no, y->jobs[i].no, "%s", what);
            SAME(memcmp(&here, &row, sizeof row), 0, "%s", what);
            SAME_TEXT(x->jobs[i].id, y->jobs[i].id, "%s", what);
            SAME_TEXT(x->jobs[i].type, y->jobs[i].type, "%s", what);
            SAME_TEXT(x->jobs[i].tags, y->jobs[i].tags, "%s", what);
            same_view(s, &x->jobs[i].root, &y->jobs[i].root, what);
        }
        if (y->tasks) same_view(s, &x->tasks[i], &y->tasks[i], what);
        if (y->mails) same_mails(s, &x->mails[i], 1, &y->mails[i], 1, what);
        if (y->types) {
            dti_type here = x->types[i].row, row = y->types[i].row;
            here.name_n = here.signature_n = here.options_n = row.name_n = row.signature_n = row.options_n = 0; // as the script has them
            SAME(memcmp(&here, &row, sizeof row), 0, "%s", what);
            SAME_TEXT(x->types[i].name, y->types[i].name, "%s", what);
            SAME_TEXT(x->types[i].signature, y->types[i].signature, "%s", what);
            SAME_TEXT(x->types[i].options, y->types[i].options, "%s", what);
        }
        if (y->workers) SAME(memcmp(&x->workers[i].row, &y->workers[i].row, sizeof y->workers[i].row), 0, "%s", what);
    }
}

void beside_same_outs(sim *s, const dti_op *x, const dti_op *y) {
    switch (y->kind) {
    case DTI_OP_START:
        SAME(x->start.status, y->start.status, "start");
        SAME(x->start.job, y->start.job, "start");
        SAME_TEXT(x->start.joined, y->start.joined, "start");
        break;
    case DTI_OP_HELLO:
        SAME(x->hello.worker, y->hello.worker, "hello");
        for (uint32_t i = 0; i < y->hello.ntypes && !y->hello.bye; i++) {
            SAME(x->hello.types[i].no, y->hello.types[i].no, "hello: type %u", i);
            SAME(x->hello.types[i].refused, y->hello.types[i].refused, "hello: type %u", i);
            if (y->hello.types[i].refused) SAME_TEXT(x->hello.types[i].registered, y->hello.types[i].registered, "hello: type %u", i);
        }
        break;
    case DTI_OP_TURN: same_turn(s, &x->turn, &y->turn); break;
    case DTI_OP_READ: beside_same_read(s, &x->read, &y->read); break;
    case DTI_OP_POST: SAME(x->post.status, y->post.status, "post"); break;
    case DTI_OP_MARK: SAME(x->mark.status, y->mark.status, "mark"); break;
    case DTI_OP_SWEEP:
        SAME(x->sweep.next, y->sweep.next, "sweep");
        SAME(x->sweep.steps, y->sweep.steps, "sweep");
        break;
    case DTI_OP_ERA:
        SAME(x->era.era, y->era.era, "era");
        SAME(x->era.fresh, y->era.fresh, "era");
        break;
    case DTI_OP_INTAKE:
    case DTI_OP_DONE: break;     // the script's alone, which the model has not
    }
}

void beside_same_effects(sim *s, const dti_effects *x, const dti_effects *y) {
    SAME(x->ntypes, y->ntypes, "effects");
    for (size_t i = 0; i < y->ntypes; i++) SAME(x->types[i], y->types[i], "effects");
    SAME(x->nworkers, y->nworkers, "effects");
    for (size_t i = 0; i < y->nworkers; i++) SAME(x->workers[i], y->workers[i], "effects");
    SAME(x->nended, y->nended, "effects");
    for (size_t i = 0; i < y->nended; i++) SAME(dti_hash_eq(x->ended[i], y->ended[i]), 1, "effects: ended");
    SAME(x->ended_more, y->ended_more, "effects");
    SAME(x->todo, y->todo, "effects");
}
