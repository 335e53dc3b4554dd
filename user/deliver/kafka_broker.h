/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to a Kafka cluster, as blocking calls: for the worker thread of a Kafka sink. Every
 * wait is made of slices, between which *stop is looked at, and has a deadline.
 *
 * A piece of a batch is one transaction: usage records, connections, the control record when the batch
 * ends, and the checkpoint in the progress topic. The checkpoint is read back with read_committed up to the
 * high watermark seen after init_transactions(), so that another agent's open transaction in the same
 * partition makes it wait, not believe an older one. Its key is AGENT/SINK: sinks that share a topic do not
 * share a checkpoint. Where there is none, one under AGENT alone (as versions before wrote them) counts,
 * but not for a sink that is new here, nor further than a transaction beyond what is noted in sinks/.
 */
#ifndef TALLY_DELIVER_KAFKA_BROKER_H
#define TALLY_DELIVER_KAFKA_BROKER_H

#include <stdbool.h>

#include "deliver/ship.h"
#include "deliver/sink.h"

struct tally_kafka_broker;

/* What was made of a try. */
enum tally_kafka_broker_outcome {
	TALLY_KAFKA_BROKER_DONE,
	TALLY_KAFKA_BROKER_FAILED,  /* surely nothing is visible */
	TALLY_KAFKA_BROKER_NO_ROOM, /* likewise: our disk has none for what is to be noted first */
	TALLY_KAFKA_BROKER_DOUBT,
};

/* A line for the log, from any thread. */
typedef void tally_kafka_broker_tell(void *ctx, const char *text);

struct tally_kafka_broker_hooks {
	void *ctx;
	tally_kafka_broker_tell *tell;
	const int *stop; /* non-zero: give up at the next slice; read atomically */
};

/* Checks the settings without a connection. -EINVAL and *ret_error: a text to free. */
int tally_kafka_broker_check(const struct tally_kafka_config *config, char **ret_error);

int tally_kafka_broker_new(const struct tally_kafka_config *config, const char *agent,
			   const struct tally_kafka_broker_hooks *hooks,
			   struct tally_kafka_broker **ret_broker)
	__attribute__((warn_unused_result));
/* May hang with a broken library or cluster: only a thread that nobody waits for calls it. */
void tally_kafka_broker_free(struct tally_kafka_broker *broker);

/* Topics, fencing of earlier producers, checkpoint. 0 or -errno, told why. */
int tally_kafka_broker_open(struct tally_kafka_broker *broker,
			    struct tally_checkpoint *ret_checkpoint)
	__attribute__((warn_unused_result));
enum tally_kafka_broker_outcome tally_kafka_broker_send(struct tally_kafka_broker *broker,
							const struct tally_send *send,
							struct tally_checkpoint *ret_checkpoint);
/* The checkpoint as it can be read now; not older than what was sent. */
int tally_kafka_broker_confirm(struct tally_kafka_broker *broker,
			       struct tally_checkpoint *ret_checkpoint)
	__attribute__((warn_unused_result));
/* Opening, sending, confirming: each comes back within this time, or never. */
__u32 tally_kafka_broker_patience_ms(const struct tally_kafka_config *config);
/* Serves the library's callbacks. */
void tally_kafka_broker_serve(struct tally_kafka_broker *broker);

#endif
