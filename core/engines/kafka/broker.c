// See broker.h. librdkafka's own threads do the work; its events come by
// queues, so no callback of ours runs inside it but the reports of writes.
//
// Works with librdkafka 2.0.2: acks=all without idempotence (which may turn
// fatal there), the range assignor (cooperative-sticky may hang there), and no
// pause (which throws away what was fetched): a full worker does not read, and
// little is fetched ahead.
#include "engines/kafka/inside.h"
#include "engines/kafka/unread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

enum {
    TEXT = DTI_BROKER_TEXT, KNOWN_MAX = 65536, CLOSE_MS = 5000,
    POLL_MS = 100,
    AWAY_US = 1000000,           // without a broker: it is no connection that was just made anew
    HEARD_US = 3000000, AGAIN_US = 20000, // so long a broker may not have heard of a topic that is there; when it is asked again
    FIRST_MS = 10000,            // for the first answer, at most
};
// Bytes of a record at most, where nobody says otherwise: what max_payload
// allows (64 MiB), and room around it; a broker takes requests of 100 MiB.
#define RECORD_MAX "68157440"

// ---- settings ---------------------------------------------------------------------

static void logged(const rd_kafka_t *rk, int level, const char *fac, const char *text) {
    dti_broker *b = rd_kafka_opaque(rk);
    (void)fac;
    if (!b || level > 5) return;
    pthread_mutex_lock(&b->lock);
    snprintf(b->last, sizeof b->last, "%s", text);
    pthread_mutex_unlock(&b->lock);
}

static void failed(rd_kafka_t *rk, int err, const char *reason, void *opaque) {
    dti_broker *b = opaque;
    (void)rk;
    int64_t none = 0;
    bool all = err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
    if (all) atomic_compare_exchange_strong(&b->lost_at, &none, dti_mono_us());
    if (err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR__SSL) atomic_store(&b->refusal, err);
    pthread_mutex_lock(&b->lock);
    if (!all || !*b->last)       // that says less than what came before
    snprintf(b->last, sizeof b->last, "%s: %s", rd_kafka_err2str((rd_kafka_resp_err_t)err), reason);
    pthread_mutex_unlock(&b->lock);
}

static dtask_err set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[TEXT];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) == RD_KAFKA_CONF_OK) return DTASK_OK;
    // librdkafka's text may repeat the value.
    if (strstr(name, "password") || strstr(name, "secret") || strstr(name, "key") || strstr(name, "pem") || strstr(name, "oauthbearer"))
        return dti_fail(DTASK_EARGS, "The option kafka.%.100s is not one that librdkafka %s takes, or has a wrong value.", name, rd_kafka_version_str());
    return dti_fail(DTASK_EARGS, "The option kafka.%.100s: %s (librdkafka %s).", name, why, rd_kafka_version_str());
}

// Ours first, then the user's, which win.
dtask_err dti_broker_settings(const dti_broker *b, const char *const *pairs, rd_kafka_conf_t **out) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    // Partitions that are added are found by looking: what lies in one waits that long at most.
    static const char *const all[] = {"client.id", "dynatask", "reconnect.backoff.ms", "50", "reconnect.backoff.max.ms", "500",
        "socket.nagle.disable", "true", "socket.keepalive.enable", "true", "topic.metadata.refresh.interval.ms", "10000", NULL};
    dtask_err err = set(conf, "bootstrap.servers", b->servers);
    for (const char *const *p = all; *p && !err; p += 2) err = set(conf, p[0], p[1]);
    for (const char *const *p = pairs; p && *p && !err; p += 2) err = set(conf, p[0], p[1]);
    char *lines = strdup(b->options), *rest = lines, *line;
    if (!lines && !err) err = dti_fail(DTASK_ENOMEM, "no memory for Kafka's options");
    while (lines && !err && (line = strsep(&rest, "\n"))) {
        char *value = strchr(line, '=');
        if (!*line) continue;
        if (value) *value++ = 0;
        err = dti_broker_kept(line);
        if (!err) err = set(conf, line, value ? value : "");
    }
    free(lines);
    rd_kafka_conf_set_opaque(conf, (void *)b);
    rd_kafka_conf_set_log_cb(conf, logged);
    if (err) rd_kafka_conf_destroy(conf);
    else *out = conf;
    return err;
}

dtask_err dti_broker_trouble(dti_broker *b, const char *what, rd_kafka_resp_err_t code) {
    char last[TEXT];
    pthread_mutex_lock(&b->lock);
    memcpy(last, b->last, sizeof last);
    pthread_mutex_unlock(&b->lock);
    return dti_fail(DTASK_EENGINE, "Kafka at %.200s: %s: %s%s%s", b->servers, what, rd_kafka_err2str(code), *last ? "; " : "", last);
}

static bool denies(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED || err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
}

void dti_broker_right(char out[TEXT], const char *right, const char *of, const char *name) {
    snprintf(out, TEXT, "the right %s on the %s %s", right, of, name);
}

static dtask_err denied(dti_broker *b, const char *right, const char *of, const char *name) {
    char text[TEXT];
    dti_broker_right(text, right, of, name);
    return dti_fail(DTASK_EENGINE, "Kafka at %.200s refuses this user %s: grant it (kafka-acls.sh); the list of rights is in docs/kafka.md", b->servers, text);
}

void dti_broker_unwritten(const dti_broker *b, const char *topic, int code) {
    char text[TEXT];
    dti_broker_right(text, "Write", "topic", topic);
    if (denies((rd_kafka_resp_err_t)code))
        dti_say(&b->tell, LOG_ERR, "Kafka at %.200s refuses this user %s: what waits for it is kept, grant the right (kafka-acls.sh); the list is in "
            "docs/kafka.md", b->servers, text);
    else
        dti_say(&b->tell, LOG_WARNING, "Kafka at %.200s does not take what is written to the topic %s: %s; it is kept, and tried again", b->servers,
            topic, rd_kafka_err2str((rd_kafka_resp_err_t)code));
}

static dtask_err too_old(dti_broker *b) {
    return dti_fail(DTASK_EENGINE, "Kafka at %.200s is too old, or does not speak all of Kafka's protocol: dynatask wants Kafka 2.4 or newer", b->servers);
}

// ---- writing ------------------------------------------------------------------------

// Writes that one thread waits for, all at once.
struct dti_batch { pthread_mutex_t lock; pthread_cond_t news; bool done; _Atomic size_t left; };

static void forget(dti_broker *b, const char *topic);

static dtask_err kind_of(rd_kafka_resp_err_t err) {
    switch (err) {
    case RD_KAFKA_RESP_ERR_NO_ERROR: return DTASK_OK;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE: return DTASK_ETOOBIG;
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART: return DTASK_ENOTFOUND;
    default: return DTASK_EENGINE;
    }
}

static void reported(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque) {
    (void)rk;
    dti_report *report = m->_private;
    dtask_err kind = kind_of(m->err);
    if (kind == DTASK_ENOTFOUND) forget(opaque, rd_kafka_topic_name(m->rkt));
    report->told(report, kind, m->err, (dti_place){m->partition, m->offset + 1});
}

// Who is the last wakes the thread, which then may go and take the batch with it.
static void awaited(dti_report *report, dtask_err kind, int code, dti_place place) {
    dti_write *w = (dti_write *)report;
    struct dti_batch *batch = w->batch;
    w->err = kind;
    w->code = code;
    w->place = place;
    if (atomic_fetch_sub(&batch->left, 1) > 1) return;
    pthread_mutex_lock(&batch->lock);
    batch->done = true;
    pthread_cond_signal(&batch->news);
    pthread_mutex_unlock(&batch->lock);
}

// librdkafka says when the last broker is gone, also of one that only closed a
// connection; whether one is there again is to be asked.
static void tell_outage(dti_broker *b) {
    const struct rd_kafka_metadata *m;
    int64_t lost_at = atomic_load(&b->lost_at), lasted = dti_mono_us() - lost_at;
    if (!lost_at) return;
    if (!rd_kafka_metadata(b->rk, 0, NULL, &m, POLL_MS)) {
        rd_kafka_metadata_destroy(m);
        if (b->away) dti_say(&b->tell, LOG_NOTICE, "Kafka is back after %.1f s: %.200s", (double)lasted / 1e6, b->servers);
        b->away = false;
        atomic_store(&b->lost_at, 0);
    } else if (!b->away && lasted >= AWAY_US) {
        b->away = true;
        dti_say(&b->tell, LOG_WARNING, "Kafka is away, starts wait for it, and jobs that were taken in go on: no broker answers at %.200s", b->servers);
    }
}

static void *serve(void *arg) {
    dti_broker *b = arg;
    while (!atomic_load(&b->closing)) {
        rd_kafka_poll(b->rk, POLL_MS);
        tell_outage(b);
    }
    return NULL;
}

static void forget(dti_broker *b, const char *topic) {
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->nknown; i++) {
        if (strcmp(b->known[i], topic)) continue;
        free(b->known[i]);
        b->known[i] = b->known[--b->nknown];
    }
    pthread_mutex_unlock(&b->lock);
}

// A write's outcome, in a sentence. sent: it is the broker's.
static dtask_err said(dti_broker *b, rd_kafka_resp_err_t err, const char *topic, size_t bytes, bool sent) {
    dtask_err kind = kind_of(err);
    if (kind == DTASK_ETOOBIG && !sent)
        return dti_fail(kind, "A record of %zu bytes is more than kafka.message.max.bytes: pass a reference to the data, or raise the option; "
            "nothing was sent.", bytes);
    if (kind == DTASK_ETOOBIG)
        return dti_fail(kind, "A record of %zu bytes is more than Kafka's topic %s takes: pass a reference to the data, or raise the topic's "
            "max.message.bytes (kafka-configs.sh; dynatask makes topics with " RECORD_MAX ").", bytes, topic);
    if (denies(err)) return denied(b, "Write", "topic", topic);
    if (kind == DTASK_ENOTFOUND) {
        forget(b, topic);
        return dti_fail(kind, "Kafka has no topic %s: start a worker that serves the type, which makes it.", topic);
    }
    return kind ? dti_broker_trouble(b, topic, err) : DTASK_OK;
}

static rd_kafka_resp_err_t enqueue(dti_broker *b, const char *topic, dtask_str key, dtask_str value, dti_report *report) {
    return rd_kafka_producev(b->rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY((void *)key.p, key.n), RD_KAFKA_V_VALUE((void *)value.p, value.n),
        RD_KAFKA_V_OPAQUE(report), RD_KAFKA_V_END);
}

// No broker has the record, for one did not know of its topic or partition:
// one that comes back, or that leads it since just now.
static bool unheard(int code) {
    return code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION || code == RD_KAFKA_RESP_ERR__DESTROY;
}

// Writes all records, or those that were `unheard`, and waits for them. A
// record's bytes are the caller's until its report, which comes within
// message.timeout.ms. How many are unheard now.
static size_t write_all(dti_broker *b, dti_write *writes, size_t n, size_t count, bool again, int64_t until) {
    struct dti_batch batch = {.left = count};
    size_t left = 0;
    pthread_mutex_init(&batch.lock, NULL);
    pthread_cond_init(&batch.news, NULL);
    for (size_t i = 0; i < n; i++) {
        dti_write *w = &writes[i];
        rd_kafka_resp_err_t err;
        if (again && !unheard(w->code)) continue;
        w->report.told = awaited;
        w->batch = &batch;
        // A full queue is emptied by the broker's answers, or by their time.
        while ((err = enqueue(b, w->topic, w->key, w->value, &w->report)) == RD_KAFKA_RESP_ERR__QUEUE_FULL && dti_mono_us() < until)
            rd_kafka_poll(b->rk, 50);
        w->sent = !err;
        if (err) awaited(&w->report, kind_of(err), err, (dti_place){0});
    }
    pthread_mutex_lock(&batch.lock);
    while (!batch.done) pthread_cond_wait(&batch.news, &batch.lock);
    pthread_mutex_unlock(&batch.lock);
    pthread_mutex_destroy(&batch.lock);
    pthread_cond_destroy(&batch.news);
    for (size_t i = 0; i < n; i++) left += unheard(writes[i].code);
    return left;
}

void dti_broker_write(dti_broker *b, dti_write *writes, size_t n) {
    int64_t begun = dti_mono_us(), until = begun + (int64_t)b->timeout_ms * 1000;
    int64_t heard = until - begun < HEARD_US ? until : begun + HEARD_US;
    size_t left = n ? write_all(b, writes, n, n, false, until) : 0;
    while (left && dti_mono_us() < heard) {
        usleep(AGAIN_US);
        left = write_all(b, writes, n, left, true, until);
    }
}

dtask_err dti_broker_outcome(dti_broker *b, const dti_write *w) {
    return said(b, (rd_kafka_resp_err_t)w->code, w->topic, w->value.n, w->sent);
}

bool dti_broker_denied(const dti_write *w) {
    return denies((rd_kafka_resp_err_t)w->code);
}

dtask_err dti_broker_send(dti_broker *b, const char *topic, dtask_str key, dtask_str value, dti_report *report) {
    return said(b, enqueue(b, topic, key, value, report), topic, value.n, false);
}

// ---- topics -----------------------------------------------------------------------------

static bool remembered(dti_broker *b, const char *topic) {
    bool yes = false;
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->nknown && !yes; i++) yes = !strcmp(b->known[i], topic);
    pthread_mutex_unlock(&b->lock);
    return yes;
}

static void remember(dti_broker *b, const char *topic) {
    pthread_mutex_lock(&b->lock);
    if (b->nknown < KNOWN_MAX && dti_grow(&b->known, b->nknown, &b->cknown, sizeof *b->known) && (b->known[b->nknown] = strdup(topic)))
        b->nknown++;
    pthread_mutex_unlock(&b->lock);
}

dtask_err dti_broker_asked(dti_broker *b, const char *topic, bool *may) {
    if (remembered(b, topic)) return DTASK_OK;
    const struct rd_kafka_metadata *m;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(b->rk, topic, NULL);
    if (!rkt) return dti_broker_trouble(b, topic, rd_kafka_last_error());
    rd_kafka_resp_err_t err = rd_kafka_metadata(b->rk, 0, rkt, &m, b->timeout_ms);
    rd_kafka_topic_destroy(rkt);
    if (err) return dti_broker_trouble(b, topic, err);
    err = m->topic_cnt ? m->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    rd_kafka_metadata_destroy(m);
    if (!err || err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) return remember(b, topic), DTASK_OK;
    if (denies(err)) return *may = false, denied(b, "Describe", "topic", topic);
    if (err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) return dti_broker_trouble(b, topic, err);
    return dti_fail(DTASK_ENOTFOUND, "Kafka has no topic %s: start a worker that serves the type, which makes it.", topic);
}

dtask_err dti_broker_knows(dti_broker *b, const char *topic) {
    bool may;
    return dti_broker_asked(b, topic, &may);
}

// may: set to false where a right is missing.
static dtask_err made(dti_broker *b, rd_kafka_event_t *event, bool *may) {
    size_t n;
    if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE) return too_old(b);
    if (rd_kafka_event_error(event)) return dti_broker_trouble(b, "the topics could not be made", rd_kafka_event_error(event));
    const rd_kafka_topic_result_t **results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
    for (size_t i = 0; i < n; i++) {
        rd_kafka_resp_err_t err = rd_kafka_topic_result_error(results[i]);
        if (!err || err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) continue;
        if (denies(err)) return *may = false, denied(b, "Create", "topic", rd_kafka_topic_result_name(results[i]));
        if (err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE || err == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION) return too_old(b);
        const char *why = rd_kafka_topic_result_error_string(results[i]);
        return dti_fail(DTASK_EENGINE, "Kafka at %.200s did not make the topic %s: %s", b->servers, rd_kafka_topic_result_name(results[i]),
            why ? why : rd_kafka_err2str(err));
    }
    return DTASK_OK;
}

dtask_err dti_broker_create(dti_broker *b, rd_kafka_NewTopic_t **list, size_t n, bool only_asks, bool *may) {
    char why[TEXT];
    rd_kafka_queue_t *answers = rd_kafka_queue_new(b->rk);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(b->rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_AdminOptions_set_request_timeout(options, b->timeout_ms, why, sizeof why);
    rd_kafka_AdminOptions_set_operation_timeout(options, b->timeout_ms, why, sizeof why);
    if (only_asks) rd_kafka_AdminOptions_set_validate_only(options, 1, why, sizeof why);
    rd_kafka_CreateTopics(b->rk, list, n, options, answers);
    rd_kafka_event_t *event = rd_kafka_queue_poll(answers, -1); // it ends with its time
    dtask_err err = event ? made(b, event, may) : dti_broker_trouble(b, "the topics could not be made", RD_KAFKA_RESP_ERR__TIMED_OUT);
    if (event) rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(answers);
    return err;
}

dtask_err dti_broker_make(dti_broker *b, const char *const *topics, size_t n, bool accepted) {
    rd_kafka_NewTopic_t **list = calloc(n + 1, sizeof *list);
    size_t count = 0;
    bool may = true;
    char why[TEXT] = "";
    dtask_err err = list ? DTASK_OK : dti_fail(DTASK_ENOMEM, "no memory for topics");
    for (size_t i = 0; i < n && !err; i++) {
        if (dti_broker_knows(b, topics[i]) == DTASK_OK) continue; // no right to make topics is needed where they are
        list[count] = rd_kafka_NewTopic_new(topics[i], (int)b->partitions, b->replication, why, sizeof why);
        if (!list[count]) err = dti_fail(DTASK_EARGS, "Kafka's topic %s cannot be made: %s", topics[i], why);
        if (err) break;
        if (accepted) rd_kafka_NewTopic_set_config(list[count], "retention.ms", "-1");
        if (accepted) rd_kafka_NewTopic_set_config(list[count], "max.message.bytes", RECORD_MAX);
        count++;
    }
    if (!err && count) err = dti_broker_create(b, list, count, false, &may);
    // They are made when the controller says so, which is before a broker shows them.
    int64_t until = dti_mono_us() + (int64_t)b->timeout_ms * 1000;
    for (size_t i = 0; i < n && !err; i++)
        while ((err = dti_broker_knows(b, topics[i])) == DTASK_ENOTFOUND && dti_mono_us() < until) usleep(1000);
    for (size_t i = 0; i < count; i++) rd_kafka_NewTopic_destroy(list[i]);
    free(list);
    return err;
}

// ---- open, close ------------------------------------------------------------------------------

static void release(dti_broker *b) {
    if (b->rk) rd_kafka_destroy(b->rk);
    for (size_t i = 0; i < b->nknown; i++) free(b->known[i]);
    free(b->known);
    if (b->options) explicit_bzero(b->options, strlen(b->options));
    free(b->options);
    free(b->servers);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

// What no waiting mends is told as soon as it is seen.
static dtask_err refused(dti_broker *b) {
    char last[TEXT];
    pthread_mutex_lock(&b->lock);
    memcpy(last, b->last, sizeof last);
    pthread_mutex_unlock(&b->lock);
    switch (atomic_load(&b->refusal)) {
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
        return dti_fail(DTASK_EENGINE, "Kafka at %.200s refuses this user or password: set kafka.sasl.username, kafka.sasl.password and "
            "kafka.sasl.mechanism as the broker has them; %s", b->servers, last);
    case RD_KAFKA_RESP_ERR__SSL:
        return dti_fail(DTASK_EENGINE, "Kafka at %.200s: no TLS with it: give its certificate's authority by kafka.ssl.ca.location, the name it is made for in "
            "the URL, and ours, if it asks for one, by kafka.ssl.certificate.location and kafka.ssl.key.location; %s", b->servers, last);
    default:
        return dti_fail(DTASK_EENGINE, "Kafka at %.200s: no broker answers: start it, or correct host and port in the URL, or kafka.security.protocol; %s",
            b->servers, *last ? last : "nothing came back");
    }
}

// The first connection is made soon or not at all, so that a wrong URL is
// said; a broker that is started anew is waited for, as is any later outage.
static dtask_err first_answer(dti_broker *b) {
    const struct rd_kafka_metadata *m;
    int64_t until = dti_mono_us() + (int64_t)(b->timeout_ms < FIRST_MS ? b->timeout_ms : FIRST_MS) * 1000;
    for (int64_t now; (now = dti_mono_us()) < until;) {
        int left = (int)((until - now) / 1000) + 1;
        if (!rd_kafka_metadata(b->rk, 0, NULL, &m, left < POLL_MS ? left : POLL_MS)) {
            rd_kafka_metadata_destroy(m);
            atomic_store(&b->lost_at, 0);
            return DTASK_OK;
        }
        rd_kafka_poll(b->rk, 0);
        if (atomic_load(&b->lost_at) && atomic_load(&b->refusal)) break; // no broker is left that would take us
    }
    return refused(b);
}

dtask_err dti_broker_open(const dti_broker_conf *conf, dti_broker **out) {
    dti_broker *b = calloc(1, sizeof *b);
    if (!b) return dti_fail(DTASK_ENOMEM, "no memory for Kafka");
    pthread_mutex_init(&b->lock, NULL);
    b->servers = strdup(conf->servers);
    b->options = strdup(conf->options ? conf->options : "");
    b->timeout_ms = conf->timeout_us < 1000 ? 1 : (int)(conf->timeout_us / 1000);
    b->partitions = conf->partitions;
    b->replication = conf->replication;
    b->tell = conf->tell;
    char ms[16], why[TEXT];
    snprintf(ms, sizeof ms, "%d", b->timeout_ms);
    // While two requests are on their way what comes gathers for the next: no timer, and few small requests under load.
    const char *pairs[] = {"acks", "all", "message.timeout.ms", ms, "linger.ms", "0", "max.in.flight.requests.per.connection", "2",
        "message.max.bytes", RECORD_MAX, NULL};
    rd_kafka_conf_t *settled;
    dtask_err err = b->servers && b->options ? dti_broker_settings(b, pairs, &settled) : dti_fail(DTASK_ENOMEM, "no memory for Kafka");
    if (!err) {
        rd_kafka_conf_set_dr_msg_cb(settled, reported);
        rd_kafka_conf_set_error_cb(settled, failed);
        b->rk = rd_kafka_new(RD_KAFKA_PRODUCER, settled, why, sizeof why);
        if (!b->rk) {
            rd_kafka_conf_destroy(settled);
            err = dti_fail(DTASK_EARGS, "librdkafka refuses its options: %s", why);
        }
    }
    if (!err) err = first_answer(b);
    if (!err && pthread_create(&b->thread, NULL, serve, b)) err = dti_fail(DTASK_ENOMEM, "no thread can be made for Kafka");
    if (err) {
        snprintf(why, sizeof why, "%s", dtask_err_detail());
        release(b);
        return dti_fail(err, "%s", why);
    }
    *out = b;
    return DTASK_OK;
}

void dti_broker_close(dti_broker *b) {
    rd_kafka_flush(b->rk, CLOSE_MS);
    atomic_store(&b->closing, true);
    pthread_join(b->thread, NULL);
    release(b);
}

// ---- who else reads --------------------------------------------------------------------------------

#define CLIENT "dynatask-"
static void client_id(char out[sizeof CLIENT + 16], uint64_t store) {
    snprintf(out, sizeof CLIENT + 16, CLIENT "%016" PRIx64, store);
}

// By the older of librdkafka's two ways: DescribeConsumerGroups ends the
// process where the coordinator goes away at the wrong moment (2.0.2; an
// assertion of rd_kafka_enq_once_del_source_return, librdkafka#4605). It asks
// every broker, so one that is away is waited for until GROUPS_MS.
unsigned dti_broker_strangers(dti_broker *b, const char *group, uint64_t store) {
    enum { GROUPS_MS = 2000 };
    char own[sizeof CLIENT + 16];
    const struct rd_kafka_group_list *list;
    unsigned n = 0;
    client_id(own, store);
    rd_kafka_resp_err_t err = rd_kafka_list_groups(b->rk, group, &list, b->timeout_ms < GROUPS_MS ? b->timeout_ms : GROUPS_MS);
    if (err && err != RD_KAFKA_RESP_ERR__PARTIAL) return 0;
    for (int i = 0; i < list->group_cnt; i++) {
        for (int j = 0; j < list->groups[i].member_cnt; j++) {
            const char *id = list->groups[i].members[j].client_id;
            n += id && !strncmp(id, CLIENT, sizeof CLIENT - 1) && strcmp(id, own);
        }
    }
    rd_kafka_group_list_destroy(list);
    return n;
}

dtask_err dti_broker_first(dti_broker *b, const char *topic, int32_t partition, int timeout_ms, int64_t *out) {
    int64_t end;
    rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(b->rk, topic, partition, out, &end, timeout_ms);
    return err ? dti_broker_trouble(b, topic, err) : DTASK_OK;
}

// ---- reading --------------------------------------------------------------------------------------

struct dti_reader {
    dti_broker *at;
    rd_kafka_t *rk;
    rd_kafka_queue_t *group, **records; // of each topic: what is not wanted yet holds up no other
    char *name, **topics; size_t ntopics; // name: the group's
    dti_part *parts; int64_t *holes; size_t nparts;
    rd_kafka_topic_partition_list_t *assigned; // of parts; not yet assigned while placing
    size_t placed;
    dti_unread *unread;
    char denied[TEXT];           // a right that is missing, or empty
    bool fixed, fenced;          // it is a static member; another reader is the same one now
};

// An error of the group's, or of a topic's.
static void noticed(dti_reader *r, rd_kafka_resp_err_t err, const char *text, const char *topic) {
    failed(r->rk, (int)err, text, r->at);
    if (err == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID) r->fenced = true;
    else if (err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED) dti_broker_right(r->denied, "Read", "group", r->name);
    else if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) dti_broker_right(r->denied, "Read", "topic", topic ? topic : text);
}

dtask_err dti_reader_denied(const dti_reader *r) {
    if (r->fenced)
        return dti_fail(DTASK_EENGINE, "Another worker has joined Kafka's group %.200s as the same member: give each worker that runs its own name "
            "by the option member, or none", r->name);
    if (!*r->denied) return DTASK_OK;
    return dti_fail(DTASK_EENGINE, "Kafka at %.200s refuses this user %s: grant it (kafka-acls.sh); the list of rights is in docs/kafka.md", r->at->servers, r->denied);
}

static size_t own_place(const dti_reader *r, const char *topic) {
    size_t i = 0;
    while (i < r->ntopics && strcmp(r->topics[i], topic)) i++;
    return i;
}

static void take_away(dti_reader *r) {
    if (r->assigned) rd_kafka_topic_partition_list_destroy(r->assigned);
    r->assigned = NULL;
    r->nparts = r->placed = 0;
}

// What is assigned is read only when its positions are known.
static void assigned(dti_reader *r, const rd_kafka_topic_partition_list_t *list) {
    take_away(r);
    r->assigned = rd_kafka_topic_partition_list_copy(list);
    dti_part *parts = realloc(r->parts, (size_t)(list->cnt + 1) * sizeof *parts);
    if (parts) r->parts = parts;
    int64_t *holes = realloc(r->holes, (size_t)(list->cnt + 1) * sizeof *holes);
    if (holes) r->holes = holes;
    if (!parts || !holes || !r->assigned) return; // the group gives them to others once this member is late
    for (int i = 0; i < list->cnt; i++) {
        size_t own = own_place(r, list->elems[i].topic);
        if (own == r->ntopics) continue;
        const char *topic = r->topics[own];
        r->holes[r->nparts] = -1;
        r->parts[r->nparts++] = (dti_part){.topic = topic, .partition = list->elems[i].partition};
        // Its records come by its topic's queue, so that the group is served while nobody reads.
        rd_kafka_queue_t *q = rd_kafka_queue_get_partition(r->rk, topic, list->elems[i].partition);
        if (q) rd_kafka_queue_forward(q, r->records[own]), rd_kafka_queue_destroy(q);
    }
    if (!list->cnt) rd_kafka_assign(r->rk, list);
}

size_t dti_reader_serve(dti_reader *r, const dti_part **parts) {
    for (rd_kafka_event_t *e; (e = rd_kafka_queue_poll(r->group, 0));) {
        if (rd_kafka_event_type(e) == RD_KAFKA_EVENT_REBALANCE) {
            if (rd_kafka_event_error(e) == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
                *r->denied = 0;
                dti_unread_divided(r->unread);
                assigned(r, rd_kafka_event_topic_partition_list(e));
            } else {
                take_away(r);
                rd_kafka_assign(r->rk, NULL);
            }
        } else if (rd_kafka_event_type(e) == RD_KAFKA_EVENT_ERROR) {
            noticed(r, rd_kafka_event_error(e), rd_kafka_event_error_string(e), NULL);
        }
        rd_kafka_event_destroy(e);
    }
    *parts = r->parts;
    return r->nparts;
}

void dti_reader_place(dti_reader *r, size_t i, int64_t at) {
    dti_part *p = &r->parts[i];
    int64_t offset = at ? at : RD_KAFKA_OFFSET_BEGINNING;
    p->at = at;
    if (p->placed) {             // goes back, or forth
        rd_kafka_topic_t *topic = rd_kafka_topic_new(r->rk, p->topic, NULL);
        if (topic && rd_kafka_seek(topic, p->partition, offset, 1000)) p->placed = false, r->placed--; // is tried again
        if (topic) rd_kafka_topic_destroy(topic);
        return;
    }
    rd_kafka_topic_partition_list_set_offset(r->assigned, p->topic, p->partition, offset);
    p->placed = true;
    if (++r->placed == r->nparts) rd_kafka_assign(r->rk, r->assigned);
}

// A record further on than expected: either some are not there any more, or
// it was on its way when the position was set. Told apart by asking again.
static bool jumps(dti_reader *r, size_t i, int64_t offset) {
    dti_part *p = &r->parts[i];
    if (!p->at || offset == p->at || r->holes[i] == offset) return false;
    r->holes[i] = offset;
    dti_reader_place(r, i, p->at);
    return true;
}

bool dti_reader_next(dti_reader *r, size_t topic, dti_record *out) {
    if (!r->nparts || r->placed < r->nparts) return false;
    for (rd_kafka_event_t *e; (e = rd_kafka_queue_poll(r->records[topic], 0)); rd_kafka_event_destroy(e)) {
        if (rd_kafka_event_type(e) == RD_KAFKA_EVENT_ERROR) {
            rd_kafka_topic_partition_t *of = rd_kafka_event_topic_partition(e);
            noticed(r, rd_kafka_event_error(e), rd_kafka_event_error_string(e), of ? of->topic : NULL);
            if (of) rd_kafka_topic_partition_destroy(of);
        }
        const rd_kafka_message_t *m = rd_kafka_event_type(e) == RD_KAFKA_EVENT_FETCH ? rd_kafka_event_message_next(e) : NULL;
        if (!m) continue;
        if (m->err) {
            noticed(r, m->err, rd_kafka_message_errstr(m), rd_kafka_topic_name(m->rkt));
            continue;
        }
        size_t i = 0;
        while (i < r->nparts && (r->parts[i].partition != m->partition || r->parts[i].topic != r->topics[topic])) i++;
        if (i == r->nparts || m->offset < r->parts[i].at || jumps(r, i, m->offset)) continue;
        *out = (dti_record){.part = i, .from = r->parts[i].at, .next = m->offset + 1, .key = dti_str(m->key, m->key_len),
            .value = dti_str(m->payload, m->len), .own = e};
        r->parts[i].at = out->next;
        return true;
    }
    return false;
}

void dti_record_done(dti_record *record) {
    rd_kafka_event_destroy(record->own);
}

bool dti_reader_waits(dti_reader *r, size_t topic) {
    return r->nparts && rd_kafka_queue_length(r->records[topic]) > 0;
}

void dti_reader_close(dti_reader *r) {
    if (r->unread) dti_unread_close(r->unread);
    if (r->rk) {
        if (r->group) rd_kafka_queue_io_event_enable(r->group, -1, NULL, 0);
        for (size_t i = 0; r->records && i < r->ntopics; i++) rd_kafka_queue_io_event_enable(r->records[i], -1, NULL, 0);
        take_away(r);
        // A member whose join is under way as it closes may end the process (an
        // assertion on the subscription, 2.0.2); without one it joins no more.
        // A static one would leave by it, and its partitions would not wait.
        if (!r->fixed) rd_kafka_unsubscribe(r->rk);
        if (r->group) rd_kafka_queue_destroy(r->group);
        for (size_t i = 0; r->records && i < r->ntopics; i++) rd_kafka_queue_destroy(r->records[i]);
        rd_kafka_consumer_close(r->rk);
        rd_kafka_destroy(r->rk);
    }
    for (size_t i = 0; i < r->ntopics; i++) free(r->topics[i]);
    free(r->topics);
    free(r->records);
    free(r->name);
    free(r->parts);
    free(r->holes);
    free(r);
}

dtask_err dti_reader_open(dti_broker *b, const char *group, const char *member, uint64_t store, int fd, const char *const *topics, size_t n, dti_reader **out) {
    dti_reader *r = calloc(1, sizeof *r);
    char why[TEXT], client[sizeof CLIENT + 16];
    if (!r || !(r->name = strdup(group))) return free(r), dti_fail(DTASK_ENOMEM, "no memory for a reader of Kafka");
    r->at = b;
    r->fixed = *member;
    client_id(client, store);
    r->topics = calloc(n + 1, sizeof *r->topics);
    for (size_t i = 0; r->topics && i < n && (r->topics[i] = strdup(topics[i])); i++) r->ntopics++;
    // A worker whose slots are full may not read for long, but it serves the
    // group. One that does not, for its store is away, may not hold up the
    // others: a rebalance waits that long for each member.
    const char *pairs[] = {"client.id", client, "group.id", group, "partition.assignment.strategy", "range", "enable.auto.commit", "false", "enable.auto.offset.store",
        "false", "auto.offset.reset", "earliest", "max.poll.interval.ms", "10000", "session.timeout.ms", "6000", "heartbeat.interval.ms", "1000",
        "queued.min.messages", "512", "queued.max.messages.kbytes", "4096", "fetch.message.max.bytes", "1048576",
        *member ? "group.instance.id" : NULL, member, NULL};
    rd_kafka_conf_t *conf;
    dtask_err err = r->ntopics == n ? dti_broker_settings(b, pairs, &conf) : dti_fail(DTASK_ENOMEM, "no memory for a reader of Kafka");
    if (!err) {
        rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_FETCH);
        r->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
        if (!r->rk) {
            rd_kafka_conf_destroy(conf);
            err = dti_fail(DTASK_EARGS, "librdkafka refuses its options: %s", why);
        }
    }
    if (!err && !(r->records = calloc(n + 1, sizeof *r->records))) err = dti_fail(DTASK_ENOMEM, "no memory for a reader of Kafka");
    if (!err) {
        static const uint64_t one = 1;
        rd_kafka_poll_set_consumer(r->rk);
        r->group = rd_kafka_queue_get_consumer(r->rk);
        rd_kafka_queue_io_event_enable(r->group, fd, &one, sizeof one);
        for (size_t i = 0; i < n; i++) {
            r->records[i] = rd_kafka_queue_new(r->rk);
            rd_kafka_queue_io_event_enable(r->records[i], fd, &one, sizeof one);
        }
        rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
        for (size_t i = 0; i < n; i++) rd_kafka_topic_partition_list_add(list, topics[i], RD_KAFKA_PARTITION_UA);
        rd_kafka_resp_err_t code = rd_kafka_subscribe(r->rk, list);
        rd_kafka_topic_partition_list_destroy(list);
        if (code) err = dti_broker_trouble(b, "the group could not be joined", code);
        else err = dti_unread_open(b, r->rk, r->name, r->topics, n, &r->unread);
    }
    if (err) dti_reader_close(r);
    else *out = r;
    return err;
}
