/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads topics once, from what retention left up to what was there at the beginning, committed
 * records only. Blocks; for commands, not for the agent.
 */
#ifndef TALLY_DELIVER_KAFKA_READER_H
#define TALLY_DELIVER_KAFKA_READER_H

#include <stddef.h>

#include "deliver/ship.h"

struct tally_kafka_reading {
	const char *brokers;
	const char *const *topics;
	size_t n_topics;
	const struct tally_kafka_option *options; /* librdkafka settings */
	size_t n_options;
	int timeout_ms; /* without any progress; 0: 30000 */
};

/* Each message, in any order of partitions. Non-zero ends the reading with this value. */
typedef int tally_kafka_reader_fn(void *ctx, const void *value, size_t len);

/* 0; -ENOTCONN, -ENOENT (topic), -EINVAL (option), -ETIMEDOUT: *ret_error is a text to free. */
int tally_kafka_reader_run(const struct tally_kafka_reading *reading, tally_kafka_reader_fn *fn,
			   void *ctx, char **ret_error);

#endif
