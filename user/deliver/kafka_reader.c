/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/kafka_reader.h"

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdarg.h>

#include "base/util.h"
#include "deliver/kafka_wait.h"

#define TIMEOUT_MS 60000
#define META_MS 10000 /* what the topic has, and where it begins and ends */
#define BACK_MS 5000  /* so much later than it should a call of the library may come back */
#define WATCH_MS 100
#define ABANDONED UINT64_MAX
#define SEGMENT_S (7 * 86400) /* what a segment holds spans no longer: Kafka's segment.ms */
#define SKEW_S 60	      /* of the clocks that records of one partition were written by */

struct part {
	__s64 low, at, end; /* where it begins, is read to, is to be read to */
	__u64 first_s;	    /* when the first message of it was written; 0: none was read */
	__s64 first;	    /* and its offset */
	bool waits;	    /* at the end of what is decided */
};

struct reader {
	const struct tally_kafka_reading *reading;
	tally_kafka_reader_fn *fn;
	void *ctx;
	rd_kafka_t *asker, *client; /* sees open transactions; reads what is committed */
	struct part *parts;
	int n_parts, left;   /* partitions not read to their end */
	__u64 moved_ms;	     /* when a wanted partition came closer to its end */
	__u64 back_ms;	     /* the library will be back by then; 0: it is not asked. Atomic */
	int stop;	     /* ABANDONED was noticed */
	int result, closing; /* closing: nothing but the clients is touched. Atomic */
	char last[256];	     /* what the library complained of */
	char error[512];
};

static int fail(struct reader *reader, int r, const char *fmt, ...) TALLY_PRINTF(3, 4);

static int fail(struct reader *reader, int r, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(reader->error, sizeof(reader->error), fmt, args); /* cut when longer */
	va_end(args);
	return r;
}

static int timeout_of(const struct reader *reader)
{
	return reader->reading->timeout_ms ? reader->reading->timeout_ms : TIMEOUT_MS;
}

/* --- who waits for whom --- */

/* The library is asked, and shall be back in `ms`. */
static void enter(struct reader *reader, int ms)
{
	__u64 back = tally_kafka_wait_now_ms() + (__u64)ms + BACK_MS;

	if (!reader->stop &&
	    __atomic_exchange_n(&reader->back_ms, back, __ATOMIC_ACQ_REL) == ABANDONED)
		reader->stop = 1;
}

/* It is back. -ECANCELED: too late, nobody waits any more. */
static int leave(struct reader *reader)
{
	if (!reader->stop &&
	    __atomic_exchange_n(&reader->back_ms, 0, __ATOMIC_ACQ_REL) == ABANDONED)
		reader->stop = 1;
	return reader->stop ? -ECANCELED : 0;
}

/* For who waits: true if it is too late, and from then on nobody does. */
static bool abandon(struct reader *reader)
{
	__u64 back = __atomic_load_n(&reader->back_ms, __ATOMIC_ACQUIRE);

	return back && back < tally_kafka_wait_now_ms() &&
	       __atomic_compare_exchange_n(&reader->back_ms, &back, ABANDONED, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* --- before reading --- */

/* Of what is set the library may leave a text, too: of a topic's property it says that no client has it. */
static int set(struct reader *reader, rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char *error = reader->error;

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(reader->error)) != RD_KAFKA_CONF_OK)
		return -EINVAL;
	*error = 0;
	return 0;
}

static int set_all(struct reader *reader, rd_kafka_conf_t *conf)
{
	const struct tally_kafka_reading *reading = reader->reading;
	const char *const settings[][2] = {
		{ "bootstrap.servers", reading->brokers },
		{ "group.id", "tallyd-audit" },
		{ "enable.auto.commit", "false" },
		{ "enable.partition.eof", "true" },
		{ "auto.offset.reset", "earliest" },
		{ "isolation.level", "read_committed" },
		{ "log_level", "2" },
	};
	int r = 0;

	for (size_t i = 0; r == 0 && i < TALLY_ARRAY_SIZE(settings); i++)
		r = set(reader, conf, settings[i][0], settings[i][1]);
	for (size_t i = 0; r == 0 && i < reading->n_options; i++)
		r = set(reader, conf, reading->options[i].name, reading->options[i].value);
	return r;
}

static int make_client(struct reader *reader, bool asks, rd_kafka_t **ret_client)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client = NULL;
	int r = set_all(reader, conf);

	if (r == 0 && asks)
		r = set(reader, conf, "isolation.level", "read_uncommitted");
	if (r == 0)
		client =
			rd_kafka_new(RD_KAFKA_CONSUMER, conf, reader->error, sizeof(reader->error));
	if (!client) {
		rd_kafka_conf_destroy(conf);
		return -EINVAL;
	}
	*ret_client = client;
	return 0;
}

static int count_parts(struct reader *reader, const struct tally_kafka_wait *wait)
{
	const char *topic = reader->reading->topic;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(reader->asker, topic, NULL);
	const struct rd_kafka_metadata *meta = NULL;
	rd_kafka_resp_err_t err;

	if (!handle)
		return fail(reader, -ENOENT, "%s: %s", topic,
			    rd_kafka_err2str(rd_kafka_last_error()));
	err = tally_kafka_wait_metadata(reader->asker, handle, wait, &meta);
	rd_kafka_topic_destroy(handle);
	if (err)
		return fail(reader, -ENOTCONN, "%s: %s", reader->reading->brokers,
			    rd_kafka_err2str(err));
	err = meta->topic_cnt == 1 ? meta->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
	if (!err)
		reader->n_parts = meta->topics[0].partition_cnt;
	rd_kafka_metadata_destroy(meta);
	return err ? fail(reader, -ENOENT, "%s: %s", topic, rd_kafka_err2str(err)) : 0;
}

/* Where all partitions begin, or end. */
static int ask_offsets(struct reader *reader, rd_kafka_topic_partition_list_t *list, __s64 which,
		       const struct tally_kafka_wait *wait)
{
	rd_kafka_resp_err_t err = tally_kafka_wait_offsets(reader->asker, list, which, wait);
	const char *what = which == RD_KAFKA_OFFSET_END ? "end" : "beginning";

	for (int i = 0; err && i < list->cnt; i++) {
		if (list->elems[i].err)
			return fail(reader, -ENOTCONN, "%s[%d]: its %s is not known: %s",
				    list->elems[i].topic, list->elems[i].partition, what,
				    rd_kafka_err2str(list->elems[i].err));
	}
	return err ? fail(reader, -ENOTCONN, "%s: the %s of its partitions is not known: %s",
			  reader->reading->topic, what, rd_kafka_err2str(err))
		   : 0;
}

static int ask_parts(struct reader *reader, rd_kafka_topic_partition_list_t *list,
		     const struct tally_kafka_wait *wait)
{
	int r;

	for (int i = 0; i < reader->n_parts; i++)
		(void)rd_kafka_topic_partition_list_add(list, reader->reading->topic, i);
	r = ask_offsets(reader, list, RD_KAFKA_OFFSET_BEGINNING, wait);
	for (int i = 0; r == 0 && i < reader->n_parts; i++)
		reader->parts[i].low = reader->parts[i].at = list->elems[i].offset;
	if (r == 0)
		r = ask_offsets(reader, list, RD_KAFKA_OFFSET_END, wait);
	for (int i = 0; r == 0 && i < reader->n_parts; i++) {
		struct part *part = &reader->parts[i];

		part->end = list->elems[i].offset;
		reader->left += part->at < part->end;
	}
	return r;
}

/* Empty ones are not read. */
static int assign(struct reader *reader, rd_kafka_topic_partition_list_t *list)
{
	rd_kafka_resp_err_t err;

	for (int i = reader->n_parts; i > 0; i--) {
		const struct part *part = &reader->parts[i - 1];

		list->elems[i - 1].offset = part->at;
		if (part->at >= part->end)
			(void)rd_kafka_topic_partition_list_del_by_idx(list,
								       i - 1); /* it is there */
	}
	err = rd_kafka_assign(reader->client, list);
	return err ? fail(reader, -EIO, "assign: %s", rd_kafka_err2str(err)) : 0;
}

static int begin(struct reader *reader)
{
	struct tally_kafka_wait wait = { .stop = &reader->stop };
	rd_kafka_topic_partition_list_t *list;
	int r;

	r = make_client(reader, true, &reader->asker);
	if (r < 0)
		return r;
	wait.until_ms = tally_kafka_wait_now_ms() + META_MS;
	enter(reader, META_MS);
	r = count_parts(reader, &wait);
	if (r < 0)
		return r;
	reader->parts = calloc((size_t)reader->n_parts + 1, sizeof(*reader->parts));
	list = rd_kafka_topic_partition_list_new(reader->n_parts);
	r = reader->parts ? ask_parts(reader, list, &wait) : -ENOMEM;
	if (r == 0 && reader->left)
		r = make_client(reader, false, &reader->client);
	if (r == 0 && reader->left)
		r = assign(reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	return r;
}

/* --- reading --- */

static void pause_part(struct reader *reader, int partition)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	(void)rd_kafka_topic_partition_list_add(list, reader->reading->topic, partition);
	(void)rd_kafka_pause_partitions(reader->client, list); /* else its messages are unwanted */
	rd_kafka_topic_partition_list_destroy(list);
}

/* Everything before `at` is decided and read. */
static void move(struct reader *reader, int partition, __s64 at)
{
	struct part *part = &reader->parts[partition];

	if (part->at >= part->end || at <= part->at)
		return;
	part->at = at;
	part->waits = false;
	*reader->last = 0;
	reader->moved_ms = tally_kafka_wait_now_ms();
	if (at < part->end)
		return;
	pause_part(reader, partition);
	reader->left--;
}

/* Meanwhile nobody waits for the library. */
static int give(struct reader *reader, const rd_kafka_message_t *msg)
{
	int r = leave(reader);

	if (r == 0)
		r = reader->fn(reader->ctx, msg->payload, msg->len);
	enter(reader, 0);
	return r;
}

static int take_message(struct reader *reader, const rd_kafka_message_t *msg)
{
	struct part *part = &reader->parts[msg->partition];
	int r = 0;

	if (part->at < part->end && msg->offset < part->end) {
		__s64 ms = rd_kafka_message_timestamp(msg, NULL);

		if (!part->first_s && ms > 0) {
			part->first_s = (__u64)ms / 1000;
			part->first = msg->offset;
		}
		r = give(reader, msg);
	}
	move(reader, msg->partition, msg->offset + 1);
	return r;
}

static int take(struct reader *reader, const rd_kafka_message_t *msg)
{
	bool ours = msg->rkt && msg->partition >= 0 && msg->partition < reader->n_parts;

	if (!msg->err && ours)
		return take_message(reader, msg);
	if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF && ours) {
		move(reader, msg->partition, msg->offset); /* markers stand before it, too */
		reader->parts[msg->partition].waits = true;
		return 0;
	}
	(void)snprintf(reader->last, sizeof(reader->last), "%s", rd_kafka_message_errstr(msg));
	if (!ours || tally_kafka_wait_is_passing(msg->err))
		return 0;
	return fail(reader, -EIO, "%s[%d]: %s", reader->reading->topic, msg->partition,
		    reader->last);
}

static int late(struct reader *reader)
{
	const struct part *part = reader->parts;
	const char *why = *reader->last ? reader->last : "no answer";

	while (part->at >= part->end)
		part++;
	if (part->waits && !*reader->last)
		why = "somebody's transaction is open there, and what stands behind it cannot be judged yet";
	return fail(
		reader, -ETIMEDOUT,
		"%s[%d]: no progress for %d s, read to offset %lld of %lld (%d of %d partitions are not read): %s",
		reader->reading->topic, (int)(part - reader->parts), timeout_of(reader) / 1000,
		(long long)part->at, (long long)part->end, reader->left, reader->n_parts, why);
}

static int read_all(struct reader *reader)
{
	struct tally_kafka_wait wait = { .stop = &reader->stop };
	int r = 0;

	reader->moved_ms = tally_kafka_wait_now_ms();
	while (r == 0 && reader->left) {
		rd_kafka_message_t *msg;
		int left;

		wait.until_ms = reader->moved_ms + (__u64)timeout_of(reader);
		left = (int)TALLY_MIN(tally_kafka_wait_rest_ms(&wait), (__u64)TALLY_KAFKA_SLICE_MS);
		if (!left)
			return late(reader);
		enter(reader, left);
		msg = rd_kafka_consumer_poll(reader->client, left);
		if (!msg)
			continue;
		r = take(reader, msg);
		rd_kafka_message_destroy(msg);
	}
	return r;
}

/* --- what retention took --- */

/* It may run while it is read. */
static int ask_beginnings(struct reader *reader)
{
	struct tally_kafka_wait wait = { .until_ms = tally_kafka_wait_now_ms() + META_MS,
					 .stop = &reader->stop };
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(reader->n_parts);
	int r;

	for (int i = 0; i < reader->n_parts; i++)
		(void)rd_kafka_topic_partition_list_add(list, reader->reading->topic, i);
	enter(reader, META_MS);
	r = ask_offsets(reader, list, RD_KAFKA_OFFSET_BEGINNING, &wait);
	for (int i = 0; r == 0 && i < reader->n_parts; i++)
		reader->parts[i].low = list->elems[i].offset;
	rd_kafka_topic_partition_list_destroy(list);
	return r;
}

/* An aborted transaction may stand at the beginning of a partition: where its first record stands tells nothing. */
static bool lacks_beginning(const struct part *part)
{
	return part->low > 0 && (!part->first_s || part->first > 0);
}

/*
 * Retention takes whole segments from the beginning of a partition. What it took was written before the
 * first record that is left of that partition; and before the newest of the segment that begins with the
 * oldest record of all, which it left.
 */
static __u64 gone_until(const struct reader *reader)
{
	__u64 oldest = UINT64_MAX, latest = 0;

	for (int i = 0; i < reader->n_parts; i++) {
		const struct part *part = &reader->parts[i];

		if (part->first_s)
			oldest = TALLY_MIN(oldest, part->first_s);
		if (lacks_beginning(part))
			latest = TALLY_MAX(latest,
					   part->first_s ? part->first_s + SKEW_S : UINT64_MAX);
	}
	return oldest == UINT64_MAX ? latest : TALLY_MIN(latest, oldest + SEGMENT_S);
}

/* --- the thread --- */

static void reader_free(struct reader *reader)
{
	free(reader->parts);
	free(reader);
}

static void close_clients(struct reader *reader)
{
	if (reader->client)
		rd_kafka_destroy_flags(reader->client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	if (reader->asker)
		rd_kafka_destroy_flags(reader->asker, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
}

static void *reader_main(void *arg)
{
	struct reader *reader = arg;

	enter(reader, 0);
	reader->result = begin(reader);
	if (reader->result == 0)
		reader->result = read_all(reader);
	if (reader->result == 0)
		reader->result = ask_beginnings(reader);
	__atomic_store_n(&reader->closing, 1, __ATOMIC_RELEASE);
	enter(reader, 0);
	close_clients(reader);
	(void)leave(reader); /* too late or not, it ends */
	return NULL;
}

/*
 * Once it is closing, result and error are written no more, and fn had all there is to read. It
 * may come back at any time, so that its memory stays.
 */
static int give_up(const struct reader *reader, __u64 *ret_gone_s, char **ret_error)
{
	bool closing = __atomic_load_n(&reader->closing, __ATOMIC_ACQUIRE) != 0;

	if (closing && reader->result == 0) {
		*ret_gone_s = gone_until(reader);
		return 1;
	}
	if (asprintf(ret_error, "%s%slibrdkafka does not come back from %s %s",
		     closing ? reader->error : "", closing && *reader->error ? "; " : "",
		     closing ? "closing" : "reading", reader->reading->topic) < 0)
		*ret_error = NULL;
	return -ENOTRECOVERABLE;
}

static bool has_ended(pthread_t thread)
{
	__u64 until = tally_util_mono_ns() + WATCH_MS * 1000000ULL;
	const struct timespec at = { (time_t)(until / TALLY_NS_PER_S),
				     (long)(until % TALLY_NS_PER_S) };

	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &at) == 0;
}

int tally_kafka_reader_run(const struct tally_kafka_reading *reading, tally_kafka_reader_fn *fn,
			   void *ctx, __u64 *ret_gone_s, char **ret_error)
{
	struct reader *reader = calloc(1, sizeof(*reader));
	pthread_t thread;
	int r;

	if (!reader)
		return -ENOMEM;
	reader->reading = reading;
	reader->fn = fn;
	reader->ctx = ctx;
	r = -pthread_create(&thread, NULL, reader_main, reader);
	while (r == 0 && !has_ended(thread)) {
		if (!abandon(reader))
			continue;
		r = give_up(reader, ret_gone_s, ret_error);
		(void)pthread_detach(thread); /* nobody waits any more */
		return r;
	}
	if (r == 0)
		r = reader->result;
	if (r < 0)
		*ret_error = strdup(*reader->error ? reader->error : strerror(-r));
	else
		*ret_gone_s = gone_until(reader);
	reader_free(reader);
	return r;
}
