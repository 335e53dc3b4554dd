/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking a Kafka cluster under a deadline: where a partition begins and ends, what a topic has.
 *
 * librdkafka throws an answer away that comes after the time a call was given. So a question is asked
 * again and again until the deadline, each time for twice as long, and the last time for what is left:
 * a slow broker's answer falls into one of them, and a dead one is noticed when the deadline is over.
 * What does not heal by waiting is not waited for.
 */
#ifndef TALLY_DELIVER_KAFKA_WAIT_H
#define TALLY_DELIVER_KAFKA_WAIT_H

#include <librdkafka/rdkafka.h>
#include <linux/types.h>
#include <stdbool.h>

struct tally_kafka_wait {
	__u64 until_ms;	 /* of the monotonic clock */
	const int *stop; /* non-zero: give up at the next slice; read atomically */
};

#define TALLY_KAFKA_SLICE_MS 500 /* the first */

__u64 tally_kafka_wait_now_ms(void);
/* 0: it is over. */
__u64 tally_kafka_wait_rest_ms(const struct tally_kafka_wait *wait);
/* Errors that may go away while one waits; of the others each needs somebody who does something. */
bool tally_kafka_wait_is_passing(rd_kafka_resp_err_t err);

/* *ret_meta: of this topic, to be destroyed. */
rd_kafka_resp_err_t tally_kafka_wait_metadata(rd_kafka_t *client, rd_kafka_topic_t *topic,
					      const struct tally_kafka_wait *wait,
					      const struct rd_kafka_metadata **ret_meta);

/*
 * The offset of each partition of the list that `which` stands for: RD_KAFKA_OFFSET_BEGINNING, or
 * RD_KAFKA_OFFSET_END, which is the high watermark, open transactions included, for a client with
 * isolation.level=read_uncommitted only. On failure offsets are undefined, and err is set where one
 * partition is to blame.
 */
rd_kafka_resp_err_t tally_kafka_wait_offsets(rd_kafka_t *client,
					     rd_kafka_topic_partition_list_t *list, __s64 which,
					     const struct tally_kafka_wait *wait);

#endif
