/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/kafka_wait.h"

#include "base/util.h"

#define PAUSE_MS 100 /* between tries of what fails at once */

__u64 tally_kafka_wait_now_ms(void)
{
	return tally_util_mono_ns() / 1000000;
}

__u64 tally_kafka_wait_rest_ms(const struct tally_kafka_wait *wait)
{
	__u64 now = tally_kafka_wait_now_ms();

	return __atomic_load_n(wait->stop, __ATOMIC_ACQUIRE) || now >= wait->until_ms
		       ? 0
		       : wait->until_ms - now;
}

static int growing_ms(const struct tally_kafka_wait *wait, __u64 *slice_ms)
{
	__u64 rest = tally_kafka_wait_rest_ms(wait), slice = *slice_ms;

	*slice_ms = slice * 2;
	return (int)(rest < 2 * slice ? rest : slice);
}

bool tally_kafka_wait_is_passing(rd_kafka_resp_err_t err)
{
	static const rd_kafka_resp_err_t passing[] = {
		RD_KAFKA_RESP_ERR__TRANSPORT,
		RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
		RD_KAFKA_RESP_ERR__RESOLVE,
		RD_KAFKA_RESP_ERR__TIMED_OUT,
		RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE,
		RD_KAFKA_RESP_ERR__WAIT_CACHE,
		RD_KAFKA_RESP_ERR__WAIT_COORD,
		RD_KAFKA_RESP_ERR__RETRY,
		RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
		RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
		RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
		RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
		RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
		RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
		RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
		RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
		RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
		RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
		RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
		RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
		RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
	};

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(passing); i++) {
		if (err == passing[i])
			return true;
	}
	return false;
}

/* Again? What fails at once is not asked again at once. */
static bool worth_a_try(rd_kafka_resp_err_t err)
{
	return err && tally_kafka_wait_is_passing(err) && usleep(PAUSE_MS * 1000) == 0;
}

rd_kafka_resp_err_t tally_kafka_wait_metadata(rd_kafka_t *client, rd_kafka_topic_t *topic,
					      const struct tally_kafka_wait *wait,
					      const struct rd_kafka_metadata **ret_meta)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;
	__u64 slice = TALLY_KAFKA_SLICE_MS;
	int left;

	do {
		left = growing_ms(wait, &slice);
		if (left > 0)
			err = rd_kafka_metadata(client, 0, topic, ret_meta, left);
	} while (left > 0 && worth_a_try(err));
	return err;
}

/* Asked as the offset of a time: librdkafka before 2.3 does not look at the clock in
 * rd_kafka_query_watermark_offsets() once it has asked. */
static rd_kafka_resp_err_t ask_offsets(rd_kafka_t *client, rd_kafka_topic_partition_list_t *list,
				       __s64 which, int timeout_ms)
{
	rd_kafka_resp_err_t err;

	for (int i = 0; i < list->cnt; i++) {
		list->elems[i].offset = which;
		list->elems[i].err = RD_KAFKA_RESP_ERR_NO_ERROR;
	}
	err = rd_kafka_offsets_for_times(client, list, timeout_ms);
	for (int i = 0; i < list->cnt && !err; i++) {
		err = list->elems[i].err;
		if (!err && list->elems[i].offset < 0)
			err = RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE; /* not answered */
	}
	return err;
}

rd_kafka_resp_err_t tally_kafka_wait_offsets(rd_kafka_t *client,
					     rd_kafka_topic_partition_list_t *list, __s64 which,
					     const struct tally_kafka_wait *wait)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;
	__u64 slice = TALLY_KAFKA_SLICE_MS;
	int left;

	do {
		left = growing_ms(wait, &slice);
		if (left > 0)
			err = ask_offsets(client, list, which, left);
	} while (left > 0 && worth_a_try(err));
	return err;
}
