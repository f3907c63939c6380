// Partitions that no member of the group reads, and a way out of it: one for
// each reader.
//
// Kafka's group divides partitions when its members change, or when its leader
// sees that there are more. A leader that does not read a topic itself, or
// that sees it while the group is being divided, never does so (librdkafka
// #4533, and seen in 2.0.2); starts in them would wait for ever.
//
// Guaranteed: while brokers answer, a partition of one of the reader's topics
// that lies with no member is found within some 10 s; then this reader leaves
// the group and joins it anew, by which the group divides all that is there.
// Where that does not help it is done ever less often, down to each 5 minutes.
// Not done here: placing and reading; that is the reader's.
//
// A thread of its own asks the brokers, by a small request each 10 s; who has
// which partitions only where their number has changed, or after each division.
#pragma once

#include "engines/kafka/inside.h"

typedef struct dti_unread dti_unread;

// group and topics are the reader's, and stay longer than this.
dtask_err dti_unread_open(dti_broker *, rd_kafka_t *reader, const char *group, char *const *topics, size_t n, dti_unread **out);
void dti_unread_close(dti_unread *);     // ahead of the reader's; waits while brokers are asked, 3 s at most
// The group was divided: what was known of it is over. Any thread.
void dti_unread_divided(dti_unread *);
