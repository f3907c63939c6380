// Options of librdkafka that are not the user's: those by which a promise of
// this engine would break, or that another option or the URL has.
#include "engines/kafka/inside.h"

#include <string.h>

static const struct { const char *name, *why; } kept[] = {
    {"bootstrap.servers", "the URL names the brokers"},
    {"metadata.broker.list", "the URL names the brokers"},
    {"client.id", "workers of another store are told by it"},
    {"group.id", "it is made of the option prefix and the app's name"},
    {"group.instance.id", "give the option member"},
    {"enable.auto.commit", "how far starts were taken in is kept with them, in the store"},
    {"auto.commit.enable", "how far starts were taken in is kept with them, in the store"},
    {"enable.auto.offset.store", "how far starts were taken in is kept with them, in the store"},
    {"auto.offset.reset", "a store that knows no position reads from the beginning"},
    {"isolation.level", "starts are no transactions"},
    {"partition.assignment.strategy", "workers of one group must agree in it"},
    {"allow.auto.create.topics", "topics are made by workers, without retention: a broker's would lose starts"},
    {"acks", "a start that was accepted is kept by all replicas"},
    {"request.required.acks", "a start that was accepted is kept by all replicas"},
    {"enable.idempotence", "it may end a producer for good, and what is written twice counts once anyway"},
    {"transactional.id", "starts are no transactions"},
    {"message.timeout.ms", "give the option engine_timeout"},
    {"delivery.timeout.ms", "give the option engine_timeout"},
    {"delivery.report.only.error", "who starts a job waits for the report"},
};

dtask_err dti_broker_kept(const char *name) {
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (!strcmp(kept[i].name, name)) return dti_fail(DTASK_EARGS, "The option kafka.%s is not for users: %s. Leave it out.", name, kept[i].why);
    return DTASK_OK;
}
