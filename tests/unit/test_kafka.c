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
#include <poll.h>

#include "base/log.h"
#include "base/util.h"
#include "libledger.h"

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

static void start(struct place *p, const struct tally_kafka_config *kafka)
{
	const struct tally_ship_config config = { .state_dir = p->folder,
						  .machine_id = "machine",
						  .backoff_max_ms = 300 };
	struct tally_sink *sink = NULL;
	char *error = NULL;

	assert_int_equal(tally_ship_new(&config, &p->ship), 0);
	assert_int_equal(tally_kafka_sink_new(kafka, &sink, &error), 0);
	assert_int_equal(tally_ship_add(p->ship, sink), 0);
}

static void seal(struct place *p, __u64 number)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, number);
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(number, &row, 1, &totals);

	assert_int_equal(tally_ship_seal(p->ship, &frozen, &ledger_resolver), 0);
	tally_ship_released(p->ship);
}

/* Steps until it is idle or the time is over; every step must come back quickly. */
static bool drive(struct place *p, int seconds)
{
	__u64 deadline = tally_util_mono_ns() + (__u64)seconds * TALLY_NS_PER_S, begin;
	struct pollfd pfd = { .fd = tally_ship_fd(p->ship), .events = POLLIN };
	int wait_ms;

	while (!tally_ship_idle(p->ship) && tally_util_mono_ns() < deadline) {
		begin = tally_util_mono_ns();
		assert_int_equal(tally_ship_step(p->ship, &wait_ms), 0);
		assert_true(tally_util_mono_ns() - begin < TALLY_NS_PER_S);
		(void)poll(&pfd, 1, wait_ms < 0 ? 50 : TALLY_MIN(wait_ms, 50));
	}
	return tally_ship_idle(p->ship);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_batch_goes_to_the_cluster),
		TEST(test_silent_cluster_loses_nothing),
		TEST(test_refused_settings_are_told),
		TEST(test_leaving_has_a_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
