// kafka: starts go through Kafka, all else is the store's, an engine of Redis
// that this one is put before.
//
// Guaranteed: a start that was accepted lies in Kafka until the store has it
// for good. A worker's turn takes in, of each type, as many starts as it wants
// tasks of that type, in the same call in which it claims, together with the
// position behind them; so what a store has lost is read again, and what is
// read twice counts once. While slots are full the backlog stays on Kafka's
// disk, unless another worker sleeps for its type.
//
// Starts that must be answered by the store (a `unique` key) go to it at once,
// as do those that a worker makes inside. Where the option `done` was set, each
// turn also takes ends of jobs out of the store and writes them into a topic
// (done.h). Not done here: dispatch of tasks, which is the store's lanes and
// bells.
#include "engines/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/msgpack.h"
#include "engines/kafka/broker.h"
#include "engines/kafka/done.h"
#include "engines/kafka/gone.h"
#include "engines/kafka/quarantine.h"
#include "engines/kafka/served.h"
#include "engines/kafka/started.h"
#include "engines/run.h"

enum { TAKE_MAX = 60,            // starts in a turn: with it they are one call of the script
    ASK_US = 5000000,            // so often a worker asks whether ends of jobs are kept by now
    HOLD_US = 500000,            // after an error of the store's its starts are left where they lie
    PASSED_MAX = 64,             // claims of others without one of a type, for which one of its starts more is taken in
    FLUSH_US = 5000000 };        // how long a worker that leaves waits for ends of jobs that it writes

struct dti_bell {
    LIST_ENTRY(dti_bell) entry;
    struct kafka *at;
    dti_bell *own;               // the store's
    uint64_t worker;
    // a worker's; its I/O thread's
    dti_served *served;
    dti_reader *reader;
    dti_publisher *publisher;
    bool kept, full;             // the store keeps ends, or did; too many wait
    int64_t asked_at;            // whether it does
    size_t first;                // the topic that the last turn began with
    dti_quarantine aside;
};

typedef struct kafka {
    dti_engine engine;
    unsigned forks;
    dti_engine *store;
    dti_broker *broker;
    dti_started *started;
    dti_gone *gone;
    dti_kafka_names names;
    char member[256], quarantine[DTI_KAFKA_NAME_MAX + 1], done[DTI_KAFKA_NAME_MAX + 1], group[DTI_KAFKA_NAME_MAX + 1];
    uint8_t keep;                // DTI_DONE_*
    pthread_mutex_t lock;
    LIST_HEAD(, dti_bell) bells;
    LIST_HEAD(, dti_served) hellos;  // until their bells are opened
    char **types; size_t ntypes, ctypes; // names of started types, by number
    int64_t timeout_us;
} kafka;

static void store_call(kafka *k, dti_arena *arena, dti_op *ops, size_t n) {
    k->store->ops->call(k->store, arena, ops, n);
    atomic_store(&k->engine.era, atomic_load(&k->store->era));
}

// ---- starts ------------------------------------------------------------------------

static bool routed(const dti_op *op) {
    if (op->kind != DTI_OP_START || !op->start.type.n) return false;
    for (uint32_t i = 0; i < op->start.task.nkeys; i++)
        if (op->start.task.keys[i].kind == DTI_KEY_UNIQUE) return false;
    return true;
}

static bool type_number(kafka *k, const char *name, uint32_t *out) {
    bool there = false;
    pthread_mutex_lock(&k->lock);
    for (uint32_t i = 0; i < k->ntypes && !there; i++)
        if ((there = !strcmp(k->types[i], name))) *out = i;
    if (!there && dti_grow(&k->types, k->ntypes, &k->ctypes, sizeof *k->types) && (k->types[k->ntypes] = strdup(name))) {
        *out = (uint32_t)k->ntypes++;
        there = true;
    }
    pthread_mutex_unlock(&k->lock);
    return there;
}

// Where starts of one type go.
typedef struct { dtask_str type; char topic[DTI_KAFKA_NAME_MAX + 1]; uint32_t number; bool shared, unknown, numbered; dtask_err err; } route;

static void route_to(kafka *k, dtask_str type, route *out) {
    char name[201];
    *out = (route){.type = type, .shared = dti_kafka_shares(&k->names, type)};
    snprintf(name, sizeof name, "%.*s", (int)type.n, type.p);
    out->err = dti_kafka_topic(&k->names, type, out->topic);
    if (out->err) return;
    out->err = dti_broker_knows(k->broker, out->topic);
    if ((out->unknown = out->err == DTASK_ENOTFOUND)) out->err = DTASK_OK;
    else if (!out->err) out->numbered = type_number(k, name, &out->number);
}

// Each is durable, or has its err, when this returns: one wait for all. Sets
// this thread's detail to the first one's that failed.
static void starts(kafka *k, dti_arena *arena, dti_op *ops, size_t n, dti_failure *failure) {
    dti_buf value = {0};
    dti_write *writes = dti_alloc0(arena, n * sizeof *writes);
    size_t *which = dti_alloc(arena, n * sizeof *which), count = 0, nroutes = 0;
    route **routes = dti_alloc(arena, n * sizeof *routes), *r = NULL;
    for (size_t i = 0; i < n; i++) {
        dti_start *s = &ops[i].start;
        ops[i].err = DTASK_OK;
        if (!writes || !which || !routes || ((!r || !dti_str_eq(r->type, s->type)) && !(r = dti_alloc(arena, sizeof *r)))) {
            ops[i].err = dti_fail(DTASK_ENOMEM, "no memory for a start");
            dti_note_failure(failure);
            continue;
        }
        if (!nroutes || routes[nroutes - 1] != r) route_to(k, s->type, routes[nroutes++] = r);
        s->status = DTI_UNKNOWN;
        if ((ops[i].err = r->err)) dti_note_failure(failure);
        if (ops[i].err || r->unknown) continue;
        value.n = 0;
        dti_kafka_put_start(&value, s, r->shared);
        dtask_str bytes = value.failed ? (dtask_str){0} : dti_dup(arena, dti_str(value.p, value.n));
        if (!bytes.p) {
            ops[i].err = dti_fail(DTASK_ENOMEM, "no memory for a start");
            dti_note_failure(failure);
            continue;
        }
        which[count] = i;
        writes[count++] = (dti_write){.topic = r->topic, .key = s->id, .value = bytes};
    }
    dti_buf_done(&value);
    dti_broker_write(k->broker, writes, count);
    for (size_t i = 0, at = 0; i < count; i++) {
        dti_start *s = &ops[which[i]].start;
        const dti_write *w = &writes[i];
        while (routes[at]->topic != w->topic) at++;
        if (w->err) {
            ops[which[i]].err = dti_broker_outcome(k->broker, w);
            dti_note_failure(failure);
            continue;
        }
        s->status = DTI_CREATED;
        s->job = 0;
        s->joined = (dtask_str){0};
        dti_started_job job = {.id = dti_id_hash(s->id), .call = {s->task.call[0], s->task.call[1]}, .retain_us = s->retain_us,
            .next = w->place.next, .topic = routes[at]->number, .type = s->task.type, .partition = w->place.partition};
        if (routes[at]->numbered) dti_started_add(k->started, &job);
    }
}

// ---- what was started and not taken in ----------------------------------------------------

static dtask_str source_of(dti_arena *arena, const char *topic, int32_t partition) {
    char text[DTI_KAFKA_NAME_MAX + 16];
    int n = snprintf(text, sizeof text, "%s/%d", topic, partition);
    return dti_dup(arena, dti_str(text, (size_t)n));
}

// Does `op` again together with a look at how far the job's records were
// taken in. True: its start still lies in Kafka; *type is its type's name.
static bool lies_in_kafka(kafka *k, dti_arena *arena, dtask_str id, dti_op *op, dti_started_job *job, const char **type) {
    char topic[DTI_KAFKA_NAME_MAX + 1];
    if (!dti_started_find(k->started, dti_id_hash(id), job)) return false;
    pthread_mutex_lock(&k->lock);
    *type = k->types[job->topic];
    pthread_mutex_unlock(&k->lock);
    if (dti_kafka_topic(&k->names, dti_strz(*type), topic)) return false;
    bool gone = dti_gone_was(k->gone, topic, job->partition, job->next); // asked ahead of the store
    dti_op ops[] = {{.kind = DTI_OP_INTAKE, .intake = {.source = source_of(arena, topic, job->partition)}}, *op};
    store_call(k, arena, ops, 2);
    *op = ops[1];
    if (ops[0].err || op->err) return false;
    return !gone && ops[0].intake.at < (uint64_t)job->next; // of a store that has lost its rows it is so again
}

static void read_started(kafka *k, dti_arena *arena, dti_op *op) {
    dti_read *r = &op->read;
    dti_started_job job;
    const char *type;
    if (op->err || !r->id.n || r->ord || (r->what != DTI_READ_JOB && r->what != DTI_READ_TASK)) return;
    if (r->n) return;
    if (!lies_in_kafka(k, arena, r->id, op, &job, &type) || r->n) return;
    dti_jobview *v = dti_alloc0(arena, sizeof *v);
    if (!v) return;
    v->id = v->root.id = r->id;
    v->type = v->root.type = dti_strz(type);
    v->row.state = DTI_JOB_RUNNING;
    v->row.retain_us = job.retain_us;
    v->root.row.state = DTI_READY;
    v->root.row.type = job.type;
    r->n = 1;
    if (r->what == DTI_READ_JOB) r->jobs = v;
    else r->tasks = &v->root;
}

// The row is there before its start comes, which then finds it, and is the
// same call.
static void cancel_started(kafka *k, dti_arena *arena, dti_op *op) {
    dti_started_job job;
    const char *type;
    if (op->err || op->mark.verb != DTI_MARK_CANCEL || !op->mark.id.n || op->mark.ord || op->mark.kids || op->mark.status != DTI_MARK_NONE) return;
    if (!lies_in_kafka(k, arena, op->mark.id, op, &job, &type) || op->mark.status != DTI_MARK_NONE) return;
    dti_op ops[] = {{.kind = DTI_OP_START, .start = {.id = op->mark.id, .retain_us = job.retain_us,
        .task = {.type = job.type, .call = {job.call[0], job.call[1]}, .args = dti_str("\x90", 1)}}}, *op};
    store_call(k, arena, ops, 2);
    *op = ops[1];
    if (ops[0].err) op->err = ops[0].err;
}

static dti_bell *bell_of(kafka *k, uint64_t worker) {
    dti_bell *b;
    pthread_mutex_lock(&k->lock);
    LIST_FOREACH(b, &k->bells, entry)
        if (b->worker == worker && b->reader) break;
    pthread_mutex_unlock(&k->lock);
    return b;
}

// ---- hello ---------------------------------------------------------------------------------

// Whether the store keeps ends is said before a job can end, and their topic
// is there before one is written.
static dtask_err done_topic(kafka *k, dti_arena *arena, bool *kept) {
    const char *topic = k->done;
    dti_op op = {.kind = DTI_OP_DONE, .done = {.keep = k->keep}};
    store_call(k, arena, &op, 1);
    *kept = !op.err && (op.done.on || op.done.waiting);
    if (op.err || !*kept) return op.err;
    return dti_broker_make(k->broker, &topic, 1, false);
}

// A worker that leaves writes what is left, if no other does.
static void flush(kafka *k, dti_bell *b, dti_arena *arena) {
    int64_t until = dti_mono_us() + FLUSH_US;
    dti_op op;
    do {
        op = (dti_op){.kind = DTI_OP_DONE};
        dti_done_ask(b->publisher, b->worker, &op.done);
        store_call(k, arena, &op, 1);
        if (op.err) return;
        dti_done_take(b->publisher, &op.done);
    } while ((op.done.nends || !op.done.n) && dti_done_wait(b->publisher, until));
}

// Two stores behind one app's topics would each get some of its starts. Those
// who died with a store that was lost are members until their session is over.
static dtask_err alone(kafka *k) {
    int64_t until = dti_mono_us() + k->timeout_us;
    while (dti_broker_strangers(k->broker, k->group, k->engine.salt)) {
        if (dti_mono_us() >= until)
            return dti_fail(DTASK_EENGINE, "Workers with another store take starts from Kafka's group %s: give one of the two apps another "
                "name or prefix, or both the same store", k->group);
        usleep(50000);
    }
    return DTASK_OK;
}

// A type has its topic before it is in the store: who finds it there can start
// jobs of it.
static void hello(kafka *k, dti_arena *arena, dti_op *op) {
    dti_hello *h = &op->hello;
    dti_served *s = NULL;
    dtask_err err = h->bye ? DTASK_OK : alone(k);
    if (!err && !h->bye) err = dti_served_new(k->broker, &k->names, k->quarantine, h, &s);
    dti_bell *leaves = h->bye ? bell_of(k, h->worker) : NULL;
    if (!h->bye && !err && (h->name.n || k->keep)) err = done_topic(k, arena, &s->kept);
    if (leaves && leaves->kept) flush(k, leaves, arena);
    if (err) {
        op->err = err;
    } else {
        store_call(k, arena, op, 1);
        if (!op->err && s) dti_served_number(s, &k->names, h);
    }
    if (op->err || !s || !s->n || !h->worker || !h->name.n) {
        free(s);
        return;
    }
    s->worker = h->worker;
    pthread_mutex_lock(&k->lock);
    LIST_INSERT_HEAD(&k->hellos, s, entry);
    pthread_mutex_unlock(&k->lock);
}

static dti_served *take_served(kafka *k, uint64_t worker) {
    dti_served *s;
    pthread_mutex_lock(&k->lock);
    LIST_FOREACH(s, &k->hellos, entry)
        if (s->worker == worker) break;
    if (s) LIST_REMOVE(s, entry);
    pthread_mutex_unlock(&k->lock);
    return s;
}

// ---- a turn with starts -----------------------------------------------------------------------

// Reads on from where the store is.
static void place(kafka *k, dti_bell *b, dti_arena *arena, const dti_part *parts, size_t n) {
    size_t count = 0;
    dti_op *ops = dti_alloc0(arena, (n + 1) * sizeof *ops);
    size_t *which = dti_alloc(arena, (n + 1) * sizeof *which);
    for (size_t i = 0; i < n && ops && which; i++) {
        if (parts[i].placed) continue;
        which[count] = i;
        ops[count++] = (dti_op){.kind = DTI_OP_INTAKE, .intake = {.source = source_of(arena, parts[i].topic, parts[i].partition)}};
    }
    if (!count) return;
    store_call(k, arena, ops, count);
    for (size_t i = 0; i < count; i++)
        if (ops[i].err) return;  // at the next turn
    for (size_t i = 0; i < count; i++) dti_reader_place(b->reader, which[i], (int64_t)ops[i].intake.at);
}

typedef struct { size_t part; dtask_str key, value; } taken;

// One start as an operation; false: no more of that topic. What cannot be read
// is left in quarantine; *stuck: it could not be.
static bool take_one(dti_bell *b, dti_arena *arena, const dti_part *parts, size_t topic, dti_op *op, taken *from, bool *stuck) {
    dti_record r;
    if (!dti_reader_next(b->reader, topic, &r)) return false;
    const dti_part *p = &parts[r.part];
    const struct dti_served_type *t = &b->served->types[topic];
    dti_intake *in = &op->intake;
    const char *why;
    op->kind = DTI_OP_INTAKE;
    *in = (dti_intake){.source = source_of(arena, p->topic, p->partition), .from = (uint64_t)r.from, .next = (uint64_t)r.next};
    *from = (taken){r.part, dti_dup(arena, r.key), dti_dup(arena, r.value)};
    dti_record_done(&r);
    in->skip = !dti_kafka_take_start(arena, from->key, from->value, t->shared ? 0 : t->type, &in->start, &why);
    if (in->skip && in->start.id.n) in->refused = dti_quarantine_refusal(&b->aside, arena, why);
    *stuck = in->skip && !dti_quarantine_put(&b->aside, in->source, r.next, from->key, from->value, why);
    if (*stuck) dti_reader_place(b->reader, r.part, r.from);
    return !*stuck;
}

// Up to n starts as operations, of each type as many as the turn has room for.
// Turns begin with one topic after another.
static size_t take(dti_bell *b, dti_arena *arena, const dti_part *parts, dti_op *ops, taken *from, size_t n) {
    dti_served *s = b->served;
    size_t count = 0;
    bool stuck = false;
    b->first = (b->first + 1) % s->n;
    for (size_t i = 0; i < s->n && !stuck; i++) {
        size_t topic = (b->first + i) % s->n;
        struct dti_served_type *t = &s->types[topic];
        while (count < n && t->taken < t->most && take_one(b, arena, parts, topic, &ops[count], &from[count], &stuck)) t->taken++, count++;
    }
    return count;
}

// The record itself is at fault: what the store says of it would stay so. Not
// where the store fails, is full, or is used by somebody who lacks a right.
static bool at_fault(dtask_err err) {
    return err == DTASK_EARGS || err == DTASK_ETOOBIG || err == DTASK_EINTERNAL;
}

static void hold(dti_bell *b, const char *topic) {
    for (size_t i = 0; i < b->served->n; i++)
        if (!strcmp(b->served->types[i].topic, topic)) b->served->types[i].held_until = dti_mono_us() + HOLD_US;
}

// A type that the store has lost, and that this worker may not serve: so that
// starts of others behind it in a shared topic go on.
static bool made_known(kafka *k, dti_arena *arena, dtask_str name) {
    if (!name.n) return false;
    dti_hello_type *type = dti_alloc0(arena, sizeof *type);
    if (!type) return false;
    *type = (dti_hello_type){.name = name, .version = 1, .crashes = 3, .named = true};
    dti_op op = {.kind = DTI_OP_HELLO, .hello = {.types = type, .ntypes = 1}};
    store_call(k, arena, &op, 1);
    return !op.err && type->no;
}

static void took(kafka *k, dti_bell *b, dti_arena *arena, const dti_part *parts, const dti_op *ops, const taken *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const dti_intake *in = &ops[i].intake;
        size_t part = from[i].part;
        bool first = true;
        for (size_t j = 0; j < i && first; j++) first = from[j].part != part || (!ops[j].err && ops[j].intake.status != DTI_TAKEN_NOT);
        if (!first) continue;    // it went back already
        char why[512];
        snprintf(why, sizeof why, "%s", dtask_err_detail());
        if (ops[i].err && at_fault(ops[i].err) && dti_quarantine_put(&b->aside, in->source, (int64_t)in->next, from[i].key, from[i].value, why)) {
            dti_op skip = {.kind = DTI_OP_INTAKE, .intake = {.source = in->source, .from = in->from, .next = in->next, .skip = true,
                .refused = dti_quarantine_refusal(&b->aside, arena, why),
                .start = dti_kafka_no_start(in->start.id, in->start.task.type, in->start.type)}};
            store_call(k, arena, &skip, 1);
            dti_reader_place(b->reader, part, skip.err ? (int64_t)in->from : (int64_t)skip.intake.at);
        } else if (ops[i].err) {
            dti_reader_place(b->reader, part, (int64_t)in->from);
            if (ops[i].err != DTASK_ENOTFOUND || !made_known(k, arena, in->start.type)) hold(b, parts[part].topic);
        } else if (in->status == DTI_TAKEN_NOT) {
            dti_reader_place(b->reader, part, (int64_t)in->at);
        }
    }
}

// How many starts the turn may take in, at most TAKE_MAX. Of a type for which
// another worker sleeps the lanes are empty: its starts are taken in though
// all slots here be full, for they come to nobody else.
static size_t room(kafka *k, dti_bell *b, const dti_turn *turn) {
    size_t all = 0;
    int64_t now = dti_mono_us();
    for (size_t i = 0; i < b->served->n; i++) {
        struct dti_served_type *t = &b->served->types[i];
        t->wanted = t->most = t->taken = t->got = t->roots = 0;
        for (uint32_t j = 0; j < turn->nwant; j++)
            if (turn->want[j].type == t->type) t->wanted = turn->want[j].n;
        if (b->full || now < t->held_until) continue;
        if (t->shared) t->most = dti_reader_waits(b->reader, i) ? TAKE_MAX : 0;
        else if (k->store->ops->hungry(k->store, b->own, t->type)) t->surplus = 0, t->most = TAKE_MAX;
        else if (t->wanted > t->surplus) t->most = t->wanted - t->surplus;
        all += t->most < TAKE_MAX ? t->most : TAKE_MAX;
    }
    return all < TAKE_MAX ? all : TAKE_MAX;
}

// Asks the store also who sleeps for the types whose starts wait here.
static void ask_hungry(dti_bell *b, dti_arena *arena, dti_turn *turn) {
    dti_served *s = b->served;
    dti_want *want = dti_alloc(arena, (turn->nwant + s->n) * sizeof *want);
    if (!want) return;
    if (turn->nwant) memcpy(want, turn->want, turn->nwant * sizeof *want);
    for (size_t i = 0; i < s->n; i++)
        if (!s->types[i].shared && !s->types[i].wanted && dti_reader_waits(b->reader, i)) want[turn->nwant++] = (dti_want){s->types[i].type, 0};
    turn->want = want;
}

// What the turn has claimed. True: starts wait here of a type that the store
// had too few of.
static bool claimed(dti_bell *b, const dti_turn *turn) {
    dti_served *s = b->served;
    bool more = false;
    int64_t now = dti_mono_us();
    for (size_t i = 0; i < s->n; i++) {
        struct dti_served_type *t = &s->types[i];
        for (uint32_t j = 0; j < turn->nclaims; j++) {
            const dti_claim *c = &turn->claims[j];
            if (c->row.type == t->type) t->got++, t->roots += !c->ord && !c->again;
        }
        bool dry = t->shared || (turn->nclaims < turn->n && t->got < t->wanted);
        t->surplus = dry || t->surplus + t->taken < t->roots ? 0 : t->surplus + t->taken - t->roots;
        // Others have claimed them, or they are not due: while other types
        // fill the turns nothing says so.
        if (t->got || dry) t->passed = 0;
        else if (t->wanted) t->passed += turn->nclaims;
        uint32_t gone = t->passed / PASSED_MAX;
        t->passed %= PASSED_MAX;
        t->surplus -= gone < t->surplus ? gone : t->surplus;
        more = more || (dry && now >= t->held_until && dti_reader_waits(b->reader, i));
    }
    return more;
}

// A worker that may not read, or not put aside what it cannot read, would
// leave starts for ever, and nobody would know: its turns fail, once the store
// has what they bring, and claim nothing.
static dtask_err denied(const dti_bell *b) {
    return *b->aside.denied ? dti_fail(DTASK_EENGINE, "%s", b->aside.denied) : dti_reader_denied(b->reader);
}

// ops[turn] is of b's worker: starts go ahead of it.
static void turn_call(kafka *k, dti_bell *b, dti_arena *arena, dti_op *ops, size_t n, size_t turn) {
    const dti_part *parts;
    size_t nparts = dti_reader_serve(b->reader, &parts), count = 0;
    place(k, b, arena, parts, nparts);
    size_t want = room(k, b, &ops[turn].turn);
    if (want && denied(b)) want = 1; // whether it still is
    dti_op *all = dti_alloc0(arena, (n + want + 1) * sizeof *all);
    taken *from = dti_alloc0(arena, (want + 1) * sizeof *from);
    if (!all || !from) {
        store_call(k, arena, ops, n);
        return;
    }
    memcpy(all, ops, turn * sizeof *ops);
    count = take(b, arena, parts, all + turn, from, want);
    memcpy(all + turn + count, ops + turn, (n - turn) * sizeof *ops);
    dti_op *done = &all[n + count];
    dti_turn *asks = &all[turn + count].turn, as_it_was = *asks;
    if (b->full || denied(b)) asks->n = 0;
    ask_hungry(b, arena, asks);
    int64_t now = dti_mono_us();
    bool asks_done = b->kept || now - b->asked_at >= ASK_US;
    if (asks_done) b->asked_at = now;
    done->kind = DTI_OP_DONE;
    dti_done_ask(b->publisher, b->worker, &done->done);
    if (b->kept) done->done.keep = k->keep; // else who said it later is right
    store_call(k, arena, all, n + count + asks_done);
    asks->n = as_it_was.n;
    asks->want = as_it_was.want;
    asks->nwant = as_it_was.nwant;
    char detail[1024];
    snprintf(detail, sizeof detail, "%s", dtask_err_detail());
    memcpy(ops, all, turn * sizeof *ops);
    memcpy(ops + turn, all + turn + count, (n - turn) * sizeof *ops);
    took(k, b, arena, parts, all + turn, from, count);
    if (asks_done && !done->err) {
        b->kept = b->kept || done->done.on || done->done.waiting;
        dti_done_take(b->publisher, &done->done);
        b->full = done->done.waiting >= DTI_DONE_MAX;
    }
    const dti_turn *t = &ops[turn].turn;
    if (ops[turn].err) {
        dti_fail(ops[turn].err, "%s", detail);
        return;
    }
    bool more = claimed(b, t);
    if (t->status == DTI_TURN_OK) ops[turn].err = denied(b);
    ops[turn].turn.stored = ops[turn].err;
    if (more && !b->full && !ops[turn].err) k->store->ops->bell_ring(b->own); // what is here rings no more
}

// ---- the engine ------------------------------------------------------------------------------------

static void run(kafka *k, dti_arena *arena, dti_op *ops, size_t n) {
    dti_bell *b = NULL;
    size_t turn = 0;
    for (size_t i = 0; i < n && !b; i++)
        if (ops[i].kind == DTI_OP_TURN && !ops[i].turn.only && (b = bell_of(k, ops[i].turn.worker))) turn = i;
    if (b) turn_call(k, b, arena, ops, n, turn);
    else store_call(k, arena, ops, n);
    for (size_t i = 0; i < n; i++) {
        if (ops[i].kind == DTI_OP_READ) read_started(k, arena, &ops[i]);
        else if (ops[i].kind == DTI_OP_MARK) cancel_started(k, arena, &ops[i]);
    }
}

static void kafka_call(dti_engine *engine, dti_arena *arena, dti_op *ops, size_t n) {
    kafka *k = (kafka *)engine;
    dti_failure failure = {0};
    if (k->forks != dti_forks()) {
        for (size_t i = 0; i < n; i++) ops[i].err = dti_forked_error();
        return;
    }
    for (size_t i = 0, last; i < n; i = last) {
        last = i + 1;
        if (routed(&ops[i])) {
            while (last < n && routed(&ops[last])) last++;
            starts(k, arena, ops + i, last - i, &failure);
        } else if (ops[i].kind == DTI_OP_HELLO) {
            hello(k, arena, &ops[i]);
        } else {
            while (last < n && !routed(&ops[last]) && ops[last].kind != DTI_OP_HELLO) last++;
            run(k, arena, ops + i, last - i);
        }
        for (size_t j = i; j < last; j++)
            if (ops[j].err) dti_note_failure(&failure);
    }
    dti_tell_failure(&failure);
}

static void bell_close(dti_bell *b) {
    kafka *k = b->at;
    bool ours = k->forks == dti_forks();
    if (ours) {
        pthread_mutex_lock(&k->lock);
        LIST_REMOVE(b, entry);
        pthread_mutex_unlock(&k->lock);
        if (b->publisher) dti_done_close(b->publisher);
        if (b->reader) dti_reader_close(b->reader); // ahead of the descriptor that it writes to
    }
    k->store->ops->bell_close(b->own);
    free(b->served);
    free(b);
}

static void ring(void *bell) {
    dti_bell *b = bell;
    b->at->store->ops->bell_ring(b->own);
}

static dtask_err bell_open(dti_engine *engine, uint64_t worker, dti_bell **out) {
    kafka *k = (kafka *)engine;
    if (k->forks != dti_forks()) return dti_forked_error();
    dti_bell *b = calloc(1, sizeof *b);
    if (!b) return dti_fail(DTASK_ENOMEM, "out of memory for a bell");
    dtask_err err = k->store->ops->bell_open(k->store, worker, &b->own);
    if (err) return free(b), err;
    b->at = k;
    b->worker = worker;
    b->served = worker ? take_served(k, worker) : NULL;
    if (b->served) {
        const char **topics = calloc(b->served->n, sizeof *topics);
        if (!topics) err = dti_fail(DTASK_ENOMEM, "out of memory for a bell");
        for (size_t i = 0; topics && i < b->served->n; i++) topics[i] = b->served->types[i].topic;
        int fd = k->store->ops->bell_fd(b->own);
        if (topics) err = dti_reader_open(k->broker, k->group, k->member, k->engine.salt, fd, topics, b->served->n, &b->reader);
        free(topics);
        b->kept = b->served->kept;
        b->aside = (dti_quarantine){.broker = k->broker, .topic = k->quarantine};
        if (!err) err = dti_done_open(k->broker, k->done, ring, b, &b->publisher);
    }
    pthread_mutex_lock(&k->lock);
    LIST_INSERT_HEAD(&k->bells, b, entry);
    pthread_mutex_unlock(&k->lock);
    if (err) {
        char why[1024];
        snprintf(why, sizeof why, "%s", dtask_err_detail());
        bell_close(b);
        return dti_fail(err, "%s", why);
    }
    *out = b;
    return DTASK_OK;
}

static int bell_fd(dti_bell *b) {
    return b->at->store->ops->bell_fd(b->own);
}

static void bell_asleep(dti_bell *b, const uint32_t *types, size_t n, const dti_awaited *end) {
    b->at->store->ops->bell_asleep(b->own, types, n, end);
}

static bool bell_news(dti_bell *b, dti_arena *arena, dti_op *read) {
    return b->at->store->ops->bell_news(b->own, arena, read);
}

static void bell_awake(dti_bell *b) {
    b->at->store->ops->bell_awake(b->own);
}

// Between turns too the group is to be answered.
static void bell_beat(dti_bell *b) {
    const dti_part *parts;
    b->at->store->ops->bell_beat(b->own);
    if (b->reader && b->at->forks == dti_forks()) dti_reader_serve(b->reader, &parts);
}

static void bell_runs(dti_bell *b, unsigned i, uint64_t job, uint32_t ord) {
    b->at->store->ops->bell_runs(b->own, i, job, ord);
}

static bool hungry(dti_engine *engine, dti_bell *self, uint32_t type) {
    kafka *k = (kafka *)engine;
    return k->store->ops->hungry(k->store, self->own, type);
}

static void bell_ring(dti_bell *b) {
    b->at->store->ops->bell_ring(b->own);
}

// The topics of all types that the store knows; strings and list are the arena's.
static dtask_err known_topics(kafka *k, dti_arena *arena, dti_look *what) {
    dti_op op = {.kind = DTI_OP_READ, .read = {.what = DTI_READ_TYPES}};
    store_call(k, arena, &op, 1);
    if (op.err) return op.err;
    const char **topics = dti_alloc(arena, (op.read.n + 1) * sizeof *topics);
    for (uint32_t i = 0; topics && i < op.read.n; i++) {
        char topic[DTI_KAFKA_NAME_MAX + 1];
        dtask_str type = op.read.types[i].name;
        size_t same = 0;
        if (!dti_served_outside(type) || dti_kafka_topic(&k->names, type, topic)) continue;
        while (same < what->n && strcmp(topics[same], topic)) same++;
        if (same < what->n) continue;
        dtask_str copy = dti_dup(arena, dti_str(topic, strlen(topic) + 1));
        if (copy.p) topics[what->n++] = copy.p;
    }
    what->topics = topics;
    return topics ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory for the types' topics");
}

// The store's map, with ours behind it.
static dtask_err about(dti_engine *engine, dti_buf *out) {
    kafka *k = (kafka *)engine;
    dti_buf theirs = {0}, ours = {0};
    dti_arena arena = {0};
    uint32_t pairs = 0;
    dti_look what = {.group = k->group, .quarantine = k->quarantine};
    dtask_err err = k->store->ops->about(k->store, &theirs);
    if (!err) err = known_topics(k, &arena, &what);
    dti_op ends = {.kind = DTI_OP_DONE}; // asks only whether they are kept
    if (!err) store_call(k, &arena, &ends, 1);
    if (!err && !ends.err && (ends.done.on || ends.done.waiting)) what.done = k->done;
    if (!err) err = dti_broker_look(k->broker, &what, &ours, &pairs);
    dti_mp at = {theirs.p, theirs.p + theirs.n};
    dti_mpval head;
    if (!err && (!dti_mp_next(&at, &head) || ours.failed || theirs.failed)) err = dti_fail(DTASK_ENOMEM, "no memory for what the servers say");
    if (!err) {
        dti_mp_put_map(out, head.n + pairs + 2);
        dti_buf_add(out, at.p, (size_t)(at.end - at.p));
        dti_buf_add(out, ours.p, ours.n);
        dti_mp_put_strz(out, "quarantine");
        dti_mp_put_strz(out, k->quarantine);
        dti_mp_put_strz(out, "strangers");
        dti_mp_put_uint(out, dti_broker_strangers(k->broker, k->group, k->engine.salt));
    }
    dti_arena_done(&arena);
    dti_buf_done(&theirs);
    dti_buf_done(&ours);
    return err;
}

static void release(kafka *k) {
    for (dti_served *s; (s = LIST_FIRST(&k->hellos));) {
        LIST_REMOVE(s, entry);
        free(s);
    }
    if (k->gone) dti_gone_free(k->gone);
    if (k->broker) dti_broker_close(k->broker);
    if (k->store) k->store->ops->close(k->store);
    if (k->started) dti_started_free(k->started);
    for (size_t i = 0; i < k->ntypes; i++) free(k->types[i]);
    free(k->types);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

static void kafka_close(dti_engine *engine) {
    kafka *k = (kafka *)engine;
    if (k->forks == dti_forks()) release(k); // else threads, connections and memory are the parent's
}

static dtask_err prepare(kafka *k, const dti_engine_conf *conf) {
    const char *servers = conf->url + strlen("kafka://");
    if (strncmp(conf->url, "kafka://", 8) || !*servers || strpbrk(servers, "/@ "))
        return dti_fail(DTASK_EARGS, "The URL of Kafka is written kafka://HOST:PORT,HOST:PORT?store=redis://HOST/0; users and passwords are options "
            "kafka.sasl.username and kafka.sasl.password.");
    if (!conf->store || strncmp(conf->store, "redis", 5))
        return dti_fail(DTASK_EARGS, "Kafka needs a store in Redis: write kafka://%.200s?store=redis://HOST/0.", servers);
    snprintf(k->names.prefix, sizeof k->names.prefix, "%s", conf->prefix ? conf->prefix : "");
    snprintf(k->names.app, sizeof k->names.app, "%s", conf->app);
    snprintf(k->names.shared, sizeof k->names.shared, "%s", conf->shared ? conf->shared : "");
    dtask_err err = dti_kafka_shared_check(k->names.shared);
    if (err) return err;
    k->keep = conf->done;
    k->timeout_us = conf->timeout_us;
    snprintf(k->member, sizeof k->member, "%s", conf->member ? conf->member : "");
    err = dti_kafka_name(&k->names, "quarantine", k->quarantine);
    if (!err) err = dti_kafka_name(&k->names, "done", k->done);
    if (!err) err = dti_kafka_name(&k->names, NULL, k->group);
    if (err) return err;
    if (!(k->started = dti_started_new())) return dti_fail(DTASK_ENOMEM, "out of memory for an engine");
    // A wrong option is said before any server is asked.
    dti_broker_conf broker = {.servers = servers, .options = conf->kafka, .timeout_us = conf->timeout_us,
        .partitions = conf->partitions ? conf->partitions : 4, .replication = conf->replication ? (int)conf->replication : -1,
        .tell = conf->tell};
    if ((err = dti_broker_open(&broker, &k->broker))) return err;
    if (!(k->gone = dti_gone_new(k->broker))) return dti_fail(DTASK_ENOMEM, "out of memory for an engine");
    dti_engine_conf store = *conf;
    store.url = conf->store;
    store.one_shard = true;      // a turn takes in starts and where they stood in one operation
    return dti_engine_open(&store, &k->store);
}

static dtask_err kafka_open(const dti_engine_conf *conf, dti_engine **out) {
    kafka *k = calloc(1, sizeof *k);
    if (!k) return dti_fail(DTASK_ENOMEM, "out of memory for an engine");
    extern const dti_engine_ops dti_kafka_engine;
    pthread_mutex_init(&k->lock, NULL);
    LIST_INIT(&k->bells);
    LIST_INIT(&k->hellos);
    k->forks = dti_forks();
    dtask_err err = prepare(k, conf);
    if (err) {
        char why[1024];
        snprintf(why, sizeof why, "%s", dtask_err_detail());
        release(k);
        return dti_fail(err, "%s", why);
    }
    k->engine.ops = &dti_kafka_engine;
    k->engine.salt = k->store->salt;
    k->engine.by_name = true;
    k->engine.sees_deaths = k->store->sees_deaths;
    atomic_store(&k->engine.era, atomic_load(&k->store->era));
    *out = &k->engine;
    return DTASK_OK;
}

const dti_engine_ops dti_kafka_engine = {
    .schemes = "kafka",
    .open = kafka_open,
    .close = kafka_close,
    .call = kafka_call,
    .bell_open = bell_open,
    .bell_close = bell_close,
    .bell_fd = bell_fd,
    .bell_asleep = bell_asleep,
    .bell_await = NULL,          // the store may not have it yet
    .bell_news = bell_news,
    .bell_awake = bell_awake,
    .bell_beat = bell_beat,
    .bell_runs = bell_runs,
    .hungry = hungry,
    .bell_ring = bell_ring,
    .about = about,
};
