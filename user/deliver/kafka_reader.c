/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/kafka_reader.h"

#include <librdkafka/rdkafka.h>

#include "base/util.h"

#define TIMEOUT_MS 30000
#define META_MS 10000

struct reader {
	const struct tally_kafka_reading *reading;
	rd_kafka_t *client;
	rd_kafka_topic_partition_list_t *parts; /* offset: end, as of the beginning */
	size_t left;				/* partitions not read to their end */
	char error[512];
};

static int make_client(struct reader *reader)
{
	const char *const settings[][2] = {
		{ "bootstrap.servers", reader->reading->brokers },
		{ "group.id", "tallyd-audit" },
		{ "enable.auto.commit", "false" },
		{ "enable.partition.eof", "true" },
		{ "auto.offset.reset", "earliest" },
		{ "isolation.level", "read_committed" },
		{ "log_level", "2" },
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_res_t res = RD_KAFKA_CONF_OK;

	for (size_t i = 0; res == RD_KAFKA_CONF_OK && i < TALLY_ARRAY_SIZE(settings); i++)
		res = rd_kafka_conf_set(conf, settings[i][0], settings[i][1], reader->error,
					sizeof(reader->error));
	for (size_t i = 0; res == RD_KAFKA_CONF_OK && i < reader->reading->n_options; i++)
		res = rd_kafka_conf_set(conf, reader->reading->options[i].name,
					reader->reading->options[i].value, reader->error,
					sizeof(reader->error));
	if (res == RD_KAFKA_CONF_OK)
		reader->client =
			rd_kafka_new(RD_KAFKA_CONSUMER, conf, reader->error, sizeof(reader->error));
	if (reader->client)
		return 0;
	rd_kafka_conf_destroy(conf);
	return -EINVAL;
}

static int fail(struct reader *reader, int r, const char *what, rd_kafka_resp_err_t err)
{
	(void)snprintf(reader->error, sizeof(reader->error), "%s: %s", what,
		       rd_kafka_err2str(err)); /* cut when longer */
	return r;
}

/* One partition, unless it is empty. */
static int add_partition(struct reader *reader, const char *topic, int partition)
{
	rd_kafka_resp_err_t err;
	int64_t low = 0, high = 0;

	err = rd_kafka_query_watermark_offsets(reader->client, topic, partition, &low, &high,
					       META_MS);
	if (err)
		return fail(reader, -ENOTCONN, topic, err);
	if (high <= low)
		return 0;
	rd_kafka_topic_partition_list_add(reader->parts, topic, partition)->offset = high;
	reader->left++;
	return 0;
}

static int add_topic(struct reader *reader, const char *topic)
{
	rd_kafka_topic_t *handle = rd_kafka_topic_new(reader->client, topic, NULL);
	const struct rd_kafka_metadata *meta = NULL;
	rd_kafka_resp_err_t err;
	int r = 0;

	if (!handle)
		return -ENOMEM;
	err = rd_kafka_metadata(reader->client, 0, handle, &meta, META_MS);
	rd_kafka_topic_destroy(handle);
	if (err)
		return fail(reader, -ENOTCONN, reader->reading->brokers, err);
	if (meta->topic_cnt != 1 || meta->topics[0].err)
		r = fail(reader, -ENOENT, topic,
			 meta->topic_cnt ? meta->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC);
	for (int i = 0; r == 0 && i < meta->topics[0].partition_cnt; i++)
		r = add_partition(reader, topic, meta->topics[0].partitions[i].id);
	rd_kafka_metadata_destroy(meta);
	return r;
}

static int begin(struct reader *reader)
{
	rd_kafka_topic_partition_list_t *from;
	rd_kafka_resp_err_t err;
	int r = 0;

	reader->parts = rd_kafka_topic_partition_list_new(16);
	for (size_t i = 0; r == 0 && i < reader->reading->n_topics; i++)
		r = add_topic(reader, reader->reading->topics[i]);
	if (r < 0)
		return r;
	from = rd_kafka_topic_partition_list_copy(reader->parts);
	for (int i = 0; i < from->cnt; i++)
		from->elems[i].offset = RD_KAFKA_OFFSET_BEGINNING;
	err = rd_kafka_assign(reader->client, from);
	rd_kafka_topic_partition_list_destroy(from);
	return err ? fail(reader, -EIO, "assign", err) : 0;
}

/* The partition of a message; the first time it is read to its end, it counts as done. */
static void reached(struct reader *reader, const rd_kafka_message_t *msg, int64_t next)
{
	rd_kafka_topic_partition_t *part = rd_kafka_topic_partition_list_find(
		reader->parts, rd_kafka_topic_name(msg->rkt), msg->partition);

	if (!part || part->offset < 0 || next < part->offset)
		return;
	part->offset = -1;
	reader->left--;
}

/* What came after the beginning is left for another time. */
static bool wanted(const struct reader *reader, const rd_kafka_message_t *msg)
{
	const rd_kafka_topic_partition_t *part = rd_kafka_topic_partition_list_find(
		reader->parts, rd_kafka_topic_name(msg->rkt), msg->partition);

	return part && part->offset > msg->offset;
}

static int read_all(struct reader *reader, tally_kafka_reader_fn *fn, void *ctx)
{
	int timeout = reader->reading->timeout_ms ? reader->reading->timeout_ms : TIMEOUT_MS;
	int r = 0;

	while (r == 0 && reader->left) {
		rd_kafka_message_t *msg = rd_kafka_consumer_poll(reader->client, timeout);

		if (!msg)
			return fail(reader, -ETIMEDOUT, "no progress",
				    RD_KAFKA_RESP_ERR__TIMED_OUT);
		if (!msg->err) {
			if (wanted(reader, msg))
				r = fn(ctx, msg->payload, msg->len);
			reached(reader, msg, msg->offset + 1);
		} else if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
			/* the end of what is committed: an open transaction stays unread */
			reached(reader, msg, INT64_MAX);
		}
		rd_kafka_message_destroy(msg);
	}
	return r;
}

int tally_kafka_reader_run(const struct tally_kafka_reading *reading, tally_kafka_reader_fn *fn,
			   void *ctx, char **ret_error)
{
	struct reader reader = { .reading = reading };
	int r;

	r = make_client(&reader);
	if (r == 0)
		r = begin(&reader);
	if (r == 0)
		r = read_all(&reader, fn, ctx);
	if (r < 0)
		*ret_error = strdup(reader.error);
	if (reader.parts)
		rd_kafka_topic_partition_list_destroy(reader.parts);
	if (reader.client)
		rd_kafka_destroy_flags(reader.client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return r;
}
