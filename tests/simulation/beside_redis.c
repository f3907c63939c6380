// The script beside the model: a redis-server of its own on a unix socket in
// a temporary folder; each operation is sent ahead and compared afterwards.
#include "beside.h"

#include <stdlib.h>
#include <string.h>

#include "beside_rows.h"
#include "engines/memory_store.h"
#include "engines/redis/codec.h"
#include "engines/redis/library.h"
#include "redis_server.h"
#include "sim.h"

static const char KEY[] = "{sim.0}";
enum { SMALL_SEEDS = 40, EVERY = 64 }; // rows are compared after each step of the first seeds, then after each 64th

static struct {
    redis_server server;
    dti_buf head, op, dump;
    dti_arena arena;
    uint64_t seeds;
} at;

void beside_redis_open(void) {
    if (!redis_server_start(&at.server)) exit(1);
}

void beside_redis_close(void) {
    redis_server_stop(&at.server);
    dti_buf *bufs[] = {&at.head, &at.op, &at.dump};
    for (int i = 0; i < 3; i++) dti_buf_done(bufs[i]);
    dti_arena_done(&at.arena);
}

// ---- calls --------------------------------------------------------------------------------
static void header(dti_buf *b, const sim *s) {
    b->n = 0;
    dti_mp_put_array(b, 5);
    dti_mp_put_uint(b, DTI_REDIS_FORMAT);
    dti_mp_put_int(b, s->wall);
    dti_mp_put_str(b, dti_strz(s->m.meta.run_id));
    dti_mp_put_uint(b, DTI_REDIS_WANT_FX);
    dti_mp_put_uint(b, s->cascade);
}

static void send(const dti_buf *head, const dti_buf *op) {
    const char *argv[] = {"FCALL", dti_redis_function, "1", KEY, head->p, op->p};
    size_t lens[] = {5, strlen(dti_redis_function), 1, sizeof KEY - 1, head->n, op->n};
    if (redisAppendCommandArgv(at.server.c, 6, argv, lens)) abort(); // no memory
}

static redisReply *receive(sim *s, dti_redis_answer *a, const char *what) {
    redisReply *r;
    if (redisGetReply(at.server.c, (void **)&r)) sim_violation(s, "REDIS_GONE", "%s: %s", what, at.server.c->errstr);
    if (r->type != REDIS_REPLY_STRING) sim_violation(s, "REDIS_SCRIPT", "%s: %s", what, r->str ? r->str : "no answer");
    dtask_err err = dti_redis_take_answer(&at.arena, dti_str(r->str, r->len), a);
    if (err) sim_violation(s, "REDIS_ANSWER", "%s: %d: %s", what, (int)err, dtask_err_detail());
    return r;
}

static void begin(sim *s) {
    at.seeds++;
    freeReplyObject(redis_server_say(&at.server, "FLUSHALL"));
    dti_arena_reset(&at.arena);
    header(&at.head, s);
    at.op.n = 0;
    dti_redis_put_init(&at.op, 1, 1);
    send(&at.head, &at.op);
    dti_redis_answer a;
    redisReply *r = receive(s, &a, "init");
    uint64_t salt, era;
    unsigned shards;
    if (dti_redis_take_init(&a, &salt, &era, &shards) || salt != 1 || era != 1) sim_violation(s, "REDIS_REPLY", "init: %s", dtask_err_detail());
    freeReplyObject(r);
}

static bool dumps(const sim *s) {
    return at.seeds <= SMALL_SEEDS || s->step % EVERY == 0 || s->beside_dumps;
}

static void run(sim *s, const dti_op *op) {
    dti_arena_reset(&at.arena);
    header(&at.head, s);
    at.op.n = 0;
    dti_redis_put_op(&at.op, op);
    send(&at.head, &at.op);
    if (!dumps(s)) return;
    at.dump.n = 0;
    dti_mp_put_array(&at.dump, 1);
    dti_mp_put_uint(&at.dump, DTI_REDIS_OP_DUMP);
    send(&at.head, &at.dump);
}

// ---- comparing -------------------------------------------------------------------------------
#define SAME(a, b, ...)                                                                                   \
    do {                                                                                                  \
        if ((uint64_t)(a) != (uint64_t)(b)) {                                                             \
            char where[96];                                                                               \
            snprintf(where, sizeof where, __VA_ARGS__);                                                   \
            sim_violation(s, "REDIS_REPLY", "%s: redis %llu, the model %llu (%s)", where, (unsigned long long)(a), (unsigned long long)(b), #a); \
        }                                                                                                 \
    } while (0)
#define SAME_TEXT(a, b, ...)                                                                              \
    do {                                                                                                  \
        if (!dti_str_eq(a, b)) {                                                                          \
            char where[96];                                                                               \
            snprintf(where, sizeof where, __VA_ARGS__);                                                   \
            sim_violation(s, "REDIS_REPLY", "%s: redis %zu bytes, the model %zu (%s)", where, (a).n, (b).n, #a); \
        }                                                                                                 \
    } while (0)

static void same_row(sim *s, const dti_taskrow *x, const dti_taskrow *model, const char *what) {
    dti_taskrow y = *model;
    if (!x->call[0] && !x->call[1]) y.call[0] = y.call[1] = 0; // of a job that the model started: see packed.h
    for (size_t i = 0; i < sizeof y; i++)
        if (((const uint8_t *)x)[i] != ((const uint8_t *)&y)[i]) sim_violation(s, "REDIS_REPLY", "%s: the row differs from byte %zu on", what, i);
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

static void same_read(sim *s, const dti_read *x, const dti_read *y) {
    SAME(x->n, y->n, "read %d", (int)y->what);
    SAME(x->more, y->more, "read %d", (int)y->what);
    SAME(x->next, y->next, "read %d", (int)y->what);
    for (uint32_t i = 0; i < y->n; i++) {
        char what[32];
        snprintf(what, sizeof what, "read %d, item %u", (int)y->what, i);
        if (y->jobs) {
            dti_jobrow row = y->jobs[i].row;
            row.blob = (dti_hash){0};
            SAME(x->jobs[i].no, y->jobs[i].no, "%s", what);
            SAME(memcmp(&x->jobs[i].row, &row, sizeof row), 0, "%s", what);
            SAME_TEXT(x->jobs[i].id, y->jobs[i].id, "%s", what);
            SAME_TEXT(x->jobs[i].type, y->jobs[i].type, "%s", what);
            SAME_TEXT(x->jobs[i].tags, y->jobs[i].tags, "%s", what);
            same_view(s, &x->jobs[i].root, &y->jobs[i].root, what);
        }
        if (y->tasks) same_view(s, &x->tasks[i], &y->tasks[i], what);
        if (y->mails) same_mails(s, &x->mails[i], 1, &y->mails[i], 1, what);
        if (y->types) {
            dti_type row = y->types[i].row;
            row.name_n = row.signature_n = row.options_n = 0;
            SAME(memcmp(&x->types[i].row, &row, sizeof row), 0, "%s", what);
            SAME_TEXT(x->types[i].name, y->types[i].name, "%s", what);
            SAME_TEXT(x->types[i].signature, y->types[i].signature, "%s", what);
            SAME_TEXT(x->types[i].options, y->types[i].options, "%s", what);
        }
        if (y->workers) SAME(memcmp(&x->workers[i].row, &y->workers[i].row, sizeof y->workers[i].row), 0, "%s", what);
    }
}

static void same_outs(sim *s, const dti_op *x, const dti_op *y) {
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
    case DTI_OP_READ: same_read(s, &x->read, &y->read); break;
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
    case DTI_OP_DONE: break;     // the script's alone
    }
}

static void same_effects(sim *s, const dti_effects *x, const dti_effects *y) {
    SAME(x->ntypes, y->ntypes, "effects");
    for (size_t i = 0; i < y->ntypes; i++) SAME(x->types[i], y->types[i], "effects");
    SAME(x->nworkers, y->nworkers, "effects");
    for (size_t i = 0; i < y->nworkers; i++) SAME(x->workers[i], y->workers[i], "effects");
    SAME(x->nended, y->nended, "effects");
    for (size_t i = 0; i < y->nended; i++) SAME(dti_hash_eq(x->ended[i], y->ended[i]), 1, "effects: ended");
    SAME(x->ended_more, y->ended_more, "effects");
    SAME(x->todo, y->todo, "effects");
}

static void same_rows(sim *s, dtask_str dump) {
    dti_store *other = dti_memory_store_new();
    char what[200];
    const char *wrong = beside_rows(dump, other, s->store.in);
    bool same = !wrong && dti_memory_store_hash(other) == dti_memory_store_hash(s->store.in);
    if (!same && !wrong && !beside_differs(other, s->store.in, what, sizeof what)) snprintf(what, sizeof what, "the hashes differ, and no row does");
    dti_memory_store_free(other);
    if (wrong) sim_violation(s, "REDIS_ROWS", "a row of %s is malformed", wrong);
    if (!same) sim_violation(s, "REDIS_ROWS", "%s", what);
}

// What no worker of a seed reads is read here.
static dti_read probe(sim *s, dti_read q) {
    dti_op op = {.kind = DTI_OP_READ, .read = q}, other = op;
    dti_tx tx = {.store = s->store.in, .arena = &at.arena, .now = s->wall};
    dti_redis_answer a;
    dti_model_run(&tx, &op);
    header(&at.head, s);
    at.op.n = 0;
    dti_redis_put_op(&at.op, &other);
    send(&at.head, &at.op);
    redisReply *r = receive(s, &a, "a read");
    if (dti_redis_take_reply(&at.arena, &a, &other)) sim_violation(s, "REDIS_REPLY", "read %d: %s", (int)q.what, dtask_err_detail());
    same_read(s, &other.read, &op.read);
    freeReplyObject(r);
    return op.read;
}

static void probe_all(sim *s) {
    probe(s, (dti_read){.what = DTI_READ_TYPES, .from = (uint32_t)(s->step % 3), .limit = 3});
    probe(s, (dti_read){.what = DTI_READ_TYPE, .id = dti_strz("t1"), .version = (uint32_t)(s->step % 3)});
    probe(s, (dti_read){.what = DTI_READ_WORKERS, .from = (uint32_t)(s->step % 4), .limit = 2});
    dti_read all = probe(s, (dti_read){.what = DTI_READ_JOBS, .state = (int)(s->step % 6) - 1, .limit = 3, .before = s->step % 5 * 2});
    for (uint32_t i = 0; i < all.n; i++) {
        const dti_jobview *j = &all.jobs[i];
        uint32_t ord = (uint32_t)(s->step % j->row.next);
        probe(s, (dti_read){.what = DTI_READ_JOB, .id = j->id});
        probe(s, (dti_read){.what = DTI_READ_TASK, .id = j->id, .ord = ord});
        probe(s, (dti_read){.what = DTI_READ_LOG, .id = j->id, .ord = ord, .limit = 3});
        probe(s, (dti_read){.what = DTI_READ_LOG, .id = j->id, .ord = DTI_EMITS, .limit = 3});
        probe(s, (dti_read){.what = DTI_READ_KIDS, .job = j->no, .ord = ord, .limit = 2, .whole = s->step % 2, .from = ord});
    }
}

static void compare(sim *s, const dti_op *op, const dti_effects *fx) {
    dti_redis_answer a;
    char what[32];
    snprintf(what, sizeof what, "operation %d", (int)op->kind);
    redisReply *r = receive(s, &a, what), *rows = NULL;
    if (dumps(s) && redisGetReply(at.server.c, (void **)&rows)) sim_violation(s, "REDIS_GONE", "dump: %s", at.server.c->errstr);
    dti_op other = *op;
    if (op->kind == DTI_OP_HELLO) {
        other.hello.types = dti_alloc0(&at.arena, op->hello.ntypes * sizeof *other.hello.types);
        if (!other.hello.types) abort();
    }
    dti_redis_take_reply(&at.arena, &a, &other);
    if (other.err != op->err) sim_violation(s, "REDIS_REPLY", "operation %d: redis %d (%s), the model %d", (int)op->kind, (int)other.err, other.err ? dtask_err_detail() : "", (int)op->err);
    if (!op->err) same_outs(s, &other, op);
    if (op->kind != DTI_OP_READ) same_effects(s, &a.fx, fx);
    freeReplyObject(r);
    if (!rows) return;
    if (rows->type != REDIS_REPLY_STRING) sim_violation(s, "REDIS_SCRIPT", "dump: %s", rows->str);
    dtask_str dump;
    dtask_err err = dti_redis_take_answer(&at.arena, dti_str(rows->str, rows->len), &a);
    if (!err) err = dti_redis_take_value(&a, &dump);
    if (err) sim_violation(s, "REDIS_ANSWER", "dump: %s", dtask_err_detail());
    same_rows(s, dump);
    freeReplyObject(rows);
    probe_all(s);
}

// ---- an older state: a copy of all keys in database 1 ------------------------------------------
static void snapshot(sim *s) {
    (void)s;
    freeReplyObject(redis_server_say(&at.server, "SELECT 1"));
    freeReplyObject(redis_server_say(&at.server, "FLUSHDB"));
    freeReplyObject(redis_server_say(&at.server, "SELECT 0"));
    freeReplyObject(redis_server_say(&at.server, "EVAL %s 0", "for _, k in ipairs(redis.call('KEYS', '*')) do redis.call('COPY', k, k, 'DB', 1) end"));
}

static void restore(sim *s) {
    (void)s;
    freeReplyObject(redis_server_say(&at.server, "FLUSHDB"));
    freeReplyObject(redis_server_say(&at.server, "SWAPDB 0 1"));
}

const sim_beside beside_redis = {begin, run, compare, snapshot, restore};
