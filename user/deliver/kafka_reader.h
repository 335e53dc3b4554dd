/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a topic once, from what retention left up to the high watermarks of the beginning, committed
 * records only. Blocks; for commands, not for the agent.
 *
 *	partition   [ gone | read and given to fn | left for another time
 *	            0      low                    high watermark when it began
 *
 * What stands before a high watermark is decided before it counts as read: an open transaction is
 * waited for, committed records may stand behind it. A partition that is read to there is paused, so
 * that its traffic does not pass for progress of another. The library runs in a thread of its own: a
 * call that does not come back holds up nobody. Who waits for it owns what it works on, and leaves that
 * to a thread it gives up.
 */
#ifndef TALLY_DELIVER_KAFKA_READER_H
#define TALLY_DELIVER_KAFKA_READER_H

#include <stddef.h>
#include <linux/types.h>

#include "deliver/ship.h"

struct tally_kafka_reading {
	const char *brokers, *topic;
	const struct tally_kafka_option *options; /* librdkafka settings */
	size_t n_options;
	int timeout_ms; /* without any progress; 0: 60000, longer than a transaction of ours may hang */
};

/* Each message, in any order of partitions, one at a time, in another thread than the caller's. 0, or
 * -errno, which ends the reading. */
typedef int tally_kafka_reader_fn(void *ctx, const void *value, size_t len);

/*
 * 0, or 1: all is read, but a thread is left in the library, so that only _exit() ends the process.
 * -ENOTCONN, -ENOENT (topic), -EINVAL (option), -ETIMEDOUT, -EIO: *ret_error is a text to free.
 * -ENOTRECOVERABLE, and a text, too: a thread is left as with 1, and until _exit() what `reading` points
 * to stays. fn is not called any more.
 * *ret_gone_s: retention took records that were written up to this time, or before it, and none that
 * were written later. 0: it took none; UINT64_MAX: it took all there were.
 */
int tally_kafka_reader_run(const struct tally_kafka_reading *reading, tally_kafka_reader_fn *fn,
			   void *ctx, __u64 *ret_gone_s, char **ret_error);

#endif
