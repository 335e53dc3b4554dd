/* SPDX-License-Identifier: Apache-2.0 */
/* `tallyd audit` of the topics of librdkafka's mock cluster. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include "libcommand.h"
#include "libledger.h"

#define CONTROL "usage.control.v1"
#define RECORDS "usage.records.v1"
#define AGENT "\"agent\":{\"id\":\""

struct place {
	rd_kafka_t *host, *producer;
	rd_kafka_mock_cluster_t *cluster;
	struct tally_batch *batch;
};

static __s64 low; /* of the control topic: retention took what stands before it */
static bool hangs, refuses;

typedef rd_kafka_resp_err_t offsets_fn(rd_kafka_t *client, rd_kafka_topic_partition_list_t *list,
				       int timeout_ms);
typedef void destroy_fn(rd_kafka_t *client, int flags);

/* In place of the library's. */
rd_kafka_resp_err_t rd_kafka_offsets_for_times(rd_kafka_t *client,
					       rd_kafka_topic_partition_list_t *list,
					       int timeout_ms)
{
	bool begins = list->elems[0].offset == RD_KAFKA_OFFSET_BEGINNING &&
		      strcmp(list->elems[0].topic, CONTROL) == 0;
	void *found = dlsym(RTLD_NEXT, "rd_kafka_offsets_for_times");
	rd_kafka_resp_err_t err;
	offsets_fn *real;

	if (refuses)
		return RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
	memcpy(&real, &found, sizeof(real));
	err = real(client, list, timeout_ms);
	if (!err && begins)
		list->elems[0].offset = low;
	return err;
}

void rd_kafka_destroy_flags(rd_kafka_t *client, int flags)
{
	void *found = dlsym(RTLD_NEXT, "rd_kafka_destroy_flags");
	destroy_fn *real;

	memcpy(&real, &found, sizeof(real));
	while (__atomic_load_n(&hangs, __ATOMIC_ACQUIRE))
		(void)pause();
	real(client, flags);
}

static void put(struct place *p, const char *topic, const char *text)
{
	rd_kafka_producev(p->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0),
			  RD_KAFKA_V_VALUE((void *)(uintptr_t)text, strlen(text)),
			  RD_KAFKA_V_TIMESTAMP((__s64)(LEDGER_START_S + 100) * 1000),
			  RD_KAFKA_V_END);
	assert_int_equal(rd_kafka_flush(p->producer, 10000), 0);
}

static void send_message(struct place *p, const char *topic, const struct tally_message *msg)
{
	char *text = strndup(msg->value.data, msg->value.len);

	put(p, topic, text);
	free(text);
}

/* Once as it is, and its first record again as one of an agent that is no more. */
static void send_batch(struct place *p)
{
	struct tally_message msg;
	char *text, *id;

	tally_message_init(&msg);
	assert_int_equal(tally_batch_control(p->batch, &msg), 0);
	send_message(p, CONTROL, &msg);
	for (size_t i = 0; i < p->batch->sealed.n_rows; i++) {
		assert_int_equal(tally_batch_message(p->batch, i, TALLY_FORMAT_CLOUDEVENTS, &msg),
				 0);
		send_message(p, RECORDS, &msg);
	}
	text = strndup(msg.value.data, msg.value.len);
	id = strstr(text, AGENT);
	assert_non_null(id);
	memset(id + strlen(AGENT), '0', 12);
	put(p, RECORDS, text);
	free(text);
	tally_message_done(&msg);
}

static int set_up(void **state)
{
	struct tally_frozen_row rows[] = { ledger_row(1, 1, 200, 1), ledger_row(2, 3, 200, 2) };
	struct place *p = calloc(1, sizeof(*p));
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, rows, 2, &totals);
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char error[256];

	command_open();
	ledger_batch(&frozen, 1, &p->batch);
	p->host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), error, sizeof(error));
	p->cluster = rd_kafka_mock_cluster_new(p->host, 1);
	rd_kafka_mock_topic_create(p->cluster, CONTROL, 1, 1);
	rd_kafka_mock_topic_create(p->cluster, RECORDS, 1, 1);
	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(p->cluster),
			  error, sizeof(error));
	p->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	assert_non_null(p->producer);
	put(p, CONTROL, "{\"type\":\"com.example.event\",\"data\":{}}");
	send_batch(p);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	low = 0;
	hangs = refuses = false;
	rd_kafka_destroy(p->producer);
	rd_kafka_mock_cluster_destroy(p->cluster);
	rd_kafka_destroy(p->host);
	tally_batch_free(p->batch);
	free(p);
	return command_close();
}

static int audit(const struct place *p)
{
	char words[256];

	snprintf(words, sizeof(words), "audit --without-connections --brokers %s",
		 rd_kafka_mock_cluster_bootstraps(p->cluster));
	return command_call(words, "");
}

static void test_records_without_control(void **state)
{
	assert_int_equal(audit(*state), TALLY_EXIT_DIFFERS);
	assert_true(command_returned);
	assert_non_null(strstr(command_out, "gap: 000000000000: 1 records, and no control record"));
}

/* Their control records may be among what retention took of that topic. */
static void test_retention_of_control_records(void **state)
{
	low = 1;
	assert_int_equal(audit(*state), 0);
	assert_non_null(strstr(command_out, "note: 000000000000: control records of 1 records"));
}

/* What is read is judged, though the library does not come back from closing. */
static void test_library_that_hangs(void **state)
{
	low = 1;
	hangs = true;
	assert_int_equal(audit(*state), 0);
	assert_non_null(strstr(command_out, "the books balance"));
}

/* Nor does it after a failure: the command ends at once, and says both. */
static void test_library_that_hangs_after_a_failure(void **state)
{
	hangs = refuses = true;
	assert_int_equal(audit(*state), TALLY_EXIT_UNAVAILABLE);
	assert_false(command_returned); /* to what the library still uses */
	assert_non_null(strstr(command_err, "librdkafka does not come back from closing " CONTROL));
	assert_string_equal(command_out, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_records_without_control),
		TEST(test_retention_of_control_records),
		TEST(test_library_that_hangs),
		TEST(test_library_that_hangs_after_a_failure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
