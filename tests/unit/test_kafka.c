/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Kafka sink against librdkafka's own mock cluster: settings, silence, the way of a batch. It
 * proves nothing about exactly-once; tests/kafka does, with Apache Kafka.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/checkpoint.h"
#include "libledger.h"

#define FETCH 1 /* of Kafka's protocol */
#define LIST_OFFSETS 2

struct place {
	char *folder;
	rd_kafka_t *host;
	rd_kafka_mock_cluster_t *cluster;
	struct tally_ship *ship;
};

static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	char error[256];

	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	p->folder = ledger_folder();
	p->host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), error, sizeof(error));
	assert_non_null(p->host);
	p->cluster = rd_kafka_mock_cluster_new(p->host, 1);
	assert_non_null(p->cluster);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	tally_ship_free(p->ship);
	rd_kafka_mock_cluster_destroy(p->cluster);
	rd_kafka_destroy(p->host);
	ledger_remove(p->folder);
	free(p);
	return 0;
}

static struct tally_kafka_config config_of(const struct place *p)
{
	return (struct tally_kafka_config){
		.name = "kafka",
		.state_dir = p->folder,
		.brokers = rd_kafka_mock_cluster_bootstraps(p->cluster),
		.transaction_timeout_ms = 5000,
	};
}

static void start_ship(struct place *p)
{
	const struct tally_ship_config config = { .state_dir = p->folder,
						  .machine_id = "machine",
						  .backoff_max_ms = 300 };

	assert_int_equal(tally_ship_new(&config, &p->ship), 0);
}

static void add(struct place *p, const struct tally_kafka_config *kafka)
{
	struct tally_sink *sink = NULL;
	char *error = NULL;

	assert_int_equal(tally_kafka_sink_new(kafka, &sink, &error), 0);
	assert_int_equal(tally_ship_add(p->ship, sink), 0);
}

static void start(struct place *p, const struct tally_kafka_config *kafka)
{
	start_ship(p);
	add(p, kafka);
}

static void seal(struct place *p, __u64 number)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, number);
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(number, &row, 1, &totals);

	assert_int_equal(tally_ship_seal(p->ship, &frozen, &ledger_resolver), 0);
	tally_ship_released(p->ship);
}

static void step(struct place *p)
{
	struct pollfd pfd = { .fd = tally_ship_fd(p->ship), .events = POLLIN };
	__u64 begin = tally_util_mono_ns();
	int wait_ms;

	assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
	assert_true(tally_util_mono_ns() - begin < TALLY_NS_PER_S);
	(void)poll(&pfd, 1, wait_ms < 0 ? 50 : TALLY_MIN(wait_ms, 50));
}

/* Steps until it is idle or the time is over; every step must come back quickly. */
static bool drive(struct place *p, int seconds)
{
	__u64 deadline = tally_util_mono_ns() + (__u64)seconds * TALLY_NS_PER_S;

	while (!tally_ship_idle(p->ship) && tally_util_mono_ns() < deadline)
		step(p);
	return tally_ship_idle(p->ship);
}

static struct tally_ship_sink_status status_of(const struct place *p, size_t index)
{
	struct tally_ship_sink_status status;

	assert_int_equal(tally_ship_sink_status(p->ship, index, &status), 0);
	return status;
}

/* Steps until a sink has that batch by its own word, or the time is over. */
static bool drive_to(struct place *p, size_t index, __u64 batch, int seconds)
{
	__u64 deadline = tally_util_mono_ns() + (__u64)seconds * TALLY_NS_PER_S;

	while (status_of(p, index).acked.batch < batch && tally_util_mono_ns() < deadline)
		step(p);
	return status_of(p, index).acked.batch >= batch;
}

/* Steps until a sink has failed once more, or the time is over. */
static bool drive_to_failure(struct place *p, int seconds)
{
	__u64 deadline = tally_util_mono_ns() + (__u64)seconds * TALLY_NS_PER_S;
	__u64 before = status_of(p, 0).failures;

	while (status_of(p, 0).failures == before && tally_util_mono_ns() < deadline)
		step(p);
	return status_of(p, 0).failures > before;
}

static void make_topics(struct place *p)
{
	static const char *const topics[] = { "usage.records.v1", "usage.control.v1",
					      "usage.progress.v1" };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(topics); i++)
		assert_int_equal(rd_kafka_mock_topic_create(p->cluster, topics[i], 2, 1), 0);
}

static void test_batch_goes_to_the_cluster(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	struct tally_ship_sink_status status;

	make_topics(p);
	start(p, &kafka);
	seal(p, 1);
	assert_true(drive(p, 30));
	seal(p, 2);
	assert_true(drive(p, 30));
	assert_int_equal(tally_ship_sink_status(p->ship, 0, &status), 0);
	assert_true(status.connected);
	assert_int_equal(status.acked.batch, 2);
	assert_true(status.acked.whole);
}

/* Nobody there: the loop goes on, the records stay, and arrive when the cluster is back. */
static void test_silent_cluster_loses_nothing(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	struct tally_ship_status status;

	make_topics(p);
	rd_kafka_mock_broker_set_down(p->cluster, 1);
	start(p, &kafka);
	for (__u64 n = 1; n <= 10; n++)
		seal(p, n);
	assert_false(drive(p, 2));
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.records_acked, 0);
	assert_true(status.sealed_files < 10);
	rd_kafka_mock_broker_set_up(p->cluster, 1);
	assert_true(drive(p, 60));
}

static void test_refused_settings_are_told(void **state)
{
	struct place *p = *state;
	const struct tally_kafka_option bad = { "no.such.setting", "1" };
	const struct tally_kafka_option apart = { "socket.timeout.ms", "200000" };
	struct tally_kafka_config kafka = config_of(p);
	struct tally_sink *sink = NULL;
	char *error = NULL;

	kafka.n_options = 1;
	kafka.options = &bad;
	assert_int_equal(tally_kafka_sink_new(&kafka, &sink, &error), -EINVAL);
	assert_non_null(strstr(error, "no.such.setting"));
	free(TAKE_PTR(error));
	kafka.options = &apart; /* refused only beside the transaction timeout */
	assert_int_equal(tally_kafka_sink_new(&kafka, &sink, &error), -EINVAL);
	assert_non_null(strstr(error, "socket.timeout.ms"));
	free(TAKE_PTR(error));
	kafka.n_options = 0;
	kafka.brokers = "";
	assert_int_equal(tally_kafka_sink_new(&kafka, &sink, &error), -EINVAL);
	assert_string_equal(error, "no brokers");
	free(error);
}

/* Leaving does not wait for a cluster that hangs. */
static void test_leaving_has_a_deadline(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	__u64 begin;

	make_topics(p);
	rd_kafka_mock_broker_set_rtt(p->cluster, 1, 20000);
	start(p, &kafka);
	seal(p, 1);
	assert_false(drive(p, 1));
	begin = tally_util_mono_ns();
	tally_ship_free(TAKE_PTR(p->ship));
	assert_true(tally_util_mono_ns() - begin < 5 * TALLY_NS_PER_S);
}

/* How many messages a topic of two partitions holds. */
static size_t messages_in(const struct place *p, const char *topic)
{
	rd_kafka_topic_partition_list_t *parts = rd_kafka_topic_partition_list_new(2);
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	size_t n = 0, ends = 0;
	rd_kafka_t *client;
	char error[256];

	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(p->cluster),
			  error, sizeof(error));
	rd_kafka_conf_set(conf, "group.id", "test", error, sizeof(error));
	rd_kafka_conf_set(conf, "enable.partition.eof", "true", error, sizeof(error));
	client = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	assert_non_null(client);
	for (int i = 0; i < 2; i++)
		rd_kafka_topic_partition_list_add(parts, topic, i)->offset = 0;
	assert_int_equal(rd_kafka_assign(client, parts), 0);
	while (ends < 2) {
		rd_kafka_message_t *msg = rd_kafka_consumer_poll(client, 10000);

		assert_non_null(msg);
		n += !msg->err;
		ends += msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
		rd_kafka_message_destroy(msg);
	}
	rd_kafka_topic_partition_list_destroy(parts);
	rd_kafka_destroy_flags(client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return n;
}

static void put(const struct place *p, const char *topic, const char *key, const char *value)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *client;
	char error[256];

	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(p->cluster),
			  error, sizeof(error));
	rd_kafka_conf_set(conf, "partitioner", "murmur2", error, sizeof(error));
	client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	assert_non_null(client);
	assert_int_equal(
		rd_kafka_producev(client, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key, strlen(key)),
				  RD_KAFKA_V_VALUE((void *)value, strlen(value)), RD_KAFKA_V_END),
		0);
	assert_int_equal(rd_kafka_flush(client, 10000), 0);
	rd_kafka_destroy(client);
}

/* Each has a checkpoint of its own, though they share the topic: the one that comes later gets all. */
static void test_two_sinks_on_one_cluster_get_everything(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config ce = config_of(p), om = config_of(p);

	make_topics(p);
	assert_int_equal(rd_kafka_mock_topic_create(p->cluster, "om.records", 2, 1), 0);
	ce.name = "ce";
	om.name = "om";
	om.topic_records = "om.records";
	start(p, &ce);
	add(p, &om);
	seal(p, 1);
	assert_true(drive(p, 30));
	rd_kafka_mock_topic_set_error(p->cluster, "om.records",
				      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
	assert_int_equal(tally_ship_remove(p->ship, "om"), 0);
	add(p, &om);
	for (__u64 n = 2; n <= 5; n++) {
		seal(p, n);
		assert_true(drive_to(p, 0, n, 30));
	}
	assert_false(tally_ship_idle(p->ship));
	rd_kafka_mock_topic_set_error(p->cluster, "om.records", RD_KAFKA_RESP_ERR_NO_ERROR);
	assert_true(drive(p, 30));
	assert_int_equal(messages_in(p, "usage.records.v1"), 5);
	assert_int_equal(messages_in(p, "om.records"), 5);
}

#define OLD_CHECKPOINT                                                             \
	"{\"agent\":\"x\",\"incarnation\":1,\"batch\":7,\"seq\":9,\"whole\":true," \
	"\"chain\":\"0000000000000000000000000000000000000000000000000000000000000000\"}"

static void put_old_checkpoint(const struct place *p)
{
	struct tally_ship_status status;

	tally_ship_status(p->ship, &status);
	put(p, "usage.progress.v1", status.agent, OLD_CHECKPOINT);
}

/* Checkpoints stood under the agent alone once: a sink that was there then goes on from it. */
static void test_checkpoint_of_the_agent_is_taken_over(void **state)
{
	const struct tally_checkpoint_file before = { .at = { .batch = 6, .whole = true } };
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	struct tally_ship_status status;

	make_topics(p);
	start_ship(p);
	put_old_checkpoint(p);
	tally_ship_status(p->ship, &status);
	assert_int_equal(tally_checkpoint_save(p->folder, "kafka", status.agent, &before), 0);
	add(p, &kafka);
	assert_true(drive_to(p, 0, 7, 30));
	seal(p, 1);
	assert_true(drive(p, 30));
	assert_true(status_of(p, 0).acked.batch > 7);
	assert_int_equal(messages_in(p, "usage.records.v1"), 1);
}

/* It may be another sink's, which was further: then what this one has is what its own file says, at least. */
static void test_checkpoint_of_the_agent_far_ahead_is_another_sinks(void **state)
{
	const struct tally_checkpoint_file before = { .at = { .batch = 5, .whole = true } };
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	struct tally_ship_status status;

	make_topics(p);
	start_ship(p);
	put_old_checkpoint(p);
	tally_ship_status(p->ship, &status);
	assert_int_equal(tally_checkpoint_save(p->folder, "kafka", status.agent, &before), 0);
	add(p, &kafka);
	assert_true(drive_to(p, 0, 5, 30));
	assert_int_equal(status_of(p, 0).acked.batch, 5);
}

/* A sink that is new here had no part in it. */
static void test_checkpoint_of_the_agent_is_not_for_a_new_sink(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);

	make_topics(p);
	start_ship(p);
	put_old_checkpoint(p);
	add(p, &kafka);
	seal(p, 1);
	assert_true(drive(p, 30));
	assert_int_equal(status_of(p, 0).acked.batch, 1);
	assert_int_equal(messages_in(p, "usage.records.v1"), 1);
}

static void deny_fetches(const struct place *p)
{
	rd_kafka_resp_err_t errors[400];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(errors); i++)
		errors[i] = RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
	rd_kafka_mock_push_request_errors_array(p->cluster, FETCH, TALLY_ARRAY_SIZE(errors),
						errors);
}

/* Nothing is waited for that does not heal by itself. */
static void test_denied_reading_fails_soon(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);

	make_topics(p);
	start(p, &kafka);
	seal(p, 1);
	assert_true(drive(p, 30));
	deny_fetches(p);
	seal(p, 2);
	assert_true(drive_to_failure(p, 8)); /* confirming */
	assert_true(drive_to_failure(p, 8)); /* opening */
	rd_kafka_mock_clear_request_errors(p->cluster, FETCH);
	assert_true(drive(p, 30));
	assert_int_equal(messages_in(p, "usage.records.v1"), 2);
}

/* Where a partition ends is denied: no reason to ask for ten seconds. */
static void test_denied_offsets_fail_soon(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	rd_kafka_resp_err_t errors[400];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(errors); i++)
		errors[i] = RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
	make_topics(p);
	rd_kafka_mock_push_request_errors_array(p->cluster, LIST_OFFSETS, TALLY_ARRAY_SIZE(errors),
						errors);
	start(p, &kafka);
	seal(p, 1);
	assert_true(drive_to_failure(p, 6));
	rd_kafka_mock_clear_request_errors(p->cluster, LIST_OFFSETS);
	assert_true(drive(p, 30));
}

/* Longer than the first slice of waiting: it still gets everything. */
static void test_slow_cluster_gets_everything(void **state)
{
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);

	make_topics(p);
	kafka.transaction_timeout_ms = 30000;
	rd_kafka_mock_broker_set_rtt(p->cluster, 1, 700);
	start(p, &kafka);
	seal(p, 1);
	assert_true(drive(p, 60));
	assert_int_equal(status_of(p, 0).failures + status_of(p, 0).doubts, 0);
}

/* The topic was made anew with fewer partitions than the batch was meant for. */
static void test_fewer_partitions_than_pinned(void **state)
{
	/* hint of partition and offset, partitions of records, of which batch, of connections */
	const struct tally_checkpoint_file pinned = { .extra = { 0, 0, 1000003, 1, 0 } };
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	struct tally_ship_status status;

	make_topics(p);
	start_ship(p);
	tally_ship_status(p->ship, &status);
	assert_int_equal(tally_checkpoint_save(p->folder, "kafka", status.agent, &pinned), 0);
	add(p, &kafka);
	seal(p, 1);
	assert_true(drive(p, 20));
	assert_int_equal(messages_in(p, "usage.records.v1"), 1);
}

/* Takes what room is left on a disk. */
static void fill_disk(const char *path)
{
	const char block[4096] = "x";
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	close(fd);
}

/* Others fill the disk when a batch is durable, or on its way: nothing that Kafka needs is missing. */
static void test_batch_leaves_a_full_disk(void **state)
{
	struct tally_ship_status status;
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	char filler[160];
	int wait_ms;

	snprintf(filler, sizeof(filler), "%s/filler", p->folder);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", p->folder, "tmpfs", 0, "size=256k"))
		skip();
	make_topics(p);
	start(p, &kafka);
	for (__u64 n = 1; n <= 3; n++) {
		assert_true(drive(p, 30));
		seal(p, n);
		for (__u64 i = 0; i < n; i++)
			assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
		fill_disk(filler);
		assert_true(drive(p, 30));
		assert_int_equal(status_of(p, 0).acked.batch, n);
		assert_int_equal(unlink(filler), 0);
	}
	tally_ship_status(p->ship, &status);
	assert_int_equal(status.batch_files, 0);
	assert_int_equal(messages_in(p, "usage.records.v1"), 3);
	tally_ship_free(TAKE_PTR(p->ship));
	assert_int_equal(umount2(p->folder, MNT_DETACH), 0);
}

/* What the log has no room for is counted in it. */
static void test_lost_lines_are_told(void **state)
{
	const struct tally_kafka_option chatty = { "debug", "all" };
	_cleanup_free_ char *path = NULL, *text = NULL;
	struct place *p = *state;
	struct tally_kafka_config kafka = config_of(p);
	int err = dup(STDERR_FILENO), fd;
	size_t bytes;

	assert_true(asprintf(&path, "%s/log", p->folder) > 0);
	kafka.n_options = 1;
	kafka.options = &chatty;
	make_topics(p);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
	tally_log_setup(TALLY_LOG_WARNING, TALLY_LOG_TEXT);
	start(p, &kafka);
	seal(p, 1);
	(void)drive(p, 20);
	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	assert_true(dup2(err, STDERR_FILENO) >= 0);
	close(fd);
	close(err);
	assert_int_equal(tally_util_read_file(path, 1 << 24, &text, &bytes), 0);
	assert_non_null(strstr(text, "lines_lost="));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_batch_goes_to_the_cluster),
		TEST(test_silent_cluster_loses_nothing),
		TEST(test_refused_settings_are_told),
		TEST(test_leaving_has_a_deadline),
		TEST(test_two_sinks_on_one_cluster_get_everything),
		TEST(test_checkpoint_of_the_agent_is_taken_over),
		TEST(test_checkpoint_of_the_agent_far_ahead_is_another_sinks),
		TEST(test_checkpoint_of_the_agent_is_not_for_a_new_sink),
		TEST(test_denied_reading_fails_soon),
		TEST(test_denied_offsets_fail_soon),
		TEST(test_slow_cluster_gets_everything),
		TEST(test_fewer_partitions_than_pinned),
		TEST(test_batch_leaves_a_full_disk),
		TEST(test_lost_lines_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
