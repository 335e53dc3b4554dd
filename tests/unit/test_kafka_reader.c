/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What reads a topic for the audit, against librdkafka's mock cluster: it reads what was there when it
 * began, and it ends. Transactions it cannot mock; tests/kafka has them, with Apache Kafka.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>
#include <semaphore.h>

#include "base/log.h"
#include "base/util.h"
#include "deliver/kafka_reader.h"

#define RECORDS 5 /* of each partition, before it begins */
#define TIMEOUT_MS 3000

struct place {
	rd_kafka_t *host;
	rd_kafka_mock_cluster_t *cluster;
	bool breaks;  /* the second broker goes down with the first record */
	bool refuses; /* any record */
	int stop;     /* traffic */
	size_t n;
	char *error;
};

static bool hangs; /* closing a client, until `go` is posted */
static sem_t go, ended;
static pthread_key_t end; /* its destructor tells that the thread has returned */
static bool comes_back;	  /* while it is given up */
static bool lacks_first;  /* of partition 0: an aborted transaction */
static int deletes; /* retention takes one record, after it was asked for the beginnings so often */

typedef void destroy_fn(rd_kafka_t *client, int flags);
typedef rd_kafka_message_t *poll_fn(rd_kafka_t *client, int timeout_ms);
typedef rd_kafka_resp_err_t offsets_fn(rd_kafka_t *client, rd_kafka_topic_partition_list_t *list,
				       int timeout_ms);

/* A reading that is given up leaves its memory: _exit() follows elsewhere. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:tally_kafka_reader_run\nleak:reader_main\n";
}

/* In place of the library's. */
void rd_kafka_destroy_flags(rd_kafka_t *client, int flags)
{
	destroy_fn *real;
	void *found = dlsym(RTLD_NEXT, "rd_kafka_destroy_flags");

	memcpy(&real, &found, sizeof(real));
	if (__atomic_load_n(&hangs, __ATOMIC_ACQUIRE))
		assert_int_equal(pthread_setspecific(end, &ended) + sem_wait(&go), 0);
	real(client, flags);
}

rd_kafka_message_t *rd_kafka_consumer_poll(rd_kafka_t *client, int timeout_ms)
{
	poll_fn *real;
	void *found = dlsym(RTLD_NEXT, "rd_kafka_consumer_poll");
	rd_kafka_message_t *msg;

	memcpy(&real, &found, sizeof(real));
	msg = real(client, timeout_ms);
	if (!lacks_first || !msg || msg->err || msg->partition || msg->offset)
		return msg;
	rd_kafka_message_destroy(msg);
	return NULL;
}

rd_kafka_resp_err_t rd_kafka_offsets_for_times(rd_kafka_t *client,
					       rd_kafka_topic_partition_list_t *list,
					       int timeout_ms)
{
	bool begins = list->cnt && list->elems[0].offset == RD_KAFKA_OFFSET_BEGINNING;
	void *found = dlsym(RTLD_NEXT, "rd_kafka_offsets_for_times");
	rd_kafka_resp_err_t err;
	offsets_fn *real;

	memcpy(&real, &found, sizeof(real));
	err = real(client, list, timeout_ms);
	if (!err && begins && deletes && --deletes == 0)
		list->elems[0].offset = 1;
	return err;
}

static void come_back(void)
{
	for (int i = 0; i < 2; i++)
		assert_int_equal(sem_post(&go), 0);
	assert_int_equal(sem_wait(&ended), 0);
}

/* The text of a reading that is given up. */
int asprintf(char **ret_text, const char *fmt, ...)
{
	va_list args;
	int r;

	if (__atomic_exchange_n(&comes_back, false, __ATOMIC_ACQ_REL))
		come_back();
	va_start(args, fmt);
	r = vasprintf(ret_text, fmt, args);
	va_end(args);
	return r;
}

static void on_end(void *sem)
{
	(void)sem_post(sem);
}

static rd_kafka_t *producer_of(const struct place *p)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *producer;
	char error[256];

	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(p->cluster),
			  error, sizeof(error));
	rd_kafka_conf_set(conf, "linger.ms", "0", error, sizeof(error));
	producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	assert_non_null(producer);
	return producer;
}

static void put(rd_kafka_t *producer, int partition)
{
	rd_kafka_producev(producer, RD_KAFKA_V_TOPIC("t"), RD_KAFKA_V_PARTITION(partition),
			  RD_KAFKA_V_VALUE((void *)"{}", 2), RD_KAFKA_V_END);
	rd_kafka_poll(producer, 0);
}

/* Two partitions, each on a broker of its own. */
static int set_up(void **state)
{
	struct place *p = calloc(1, sizeof(*p));
	rd_kafka_t *producer;
	char error[256];

	tally_log_setup((enum tally_log_level)0, TALLY_LOG_TEXT);
	p->host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), error, sizeof(error));
	p->cluster = rd_kafka_mock_cluster_new(p->host, 2);
	rd_kafka_mock_topic_create(p->cluster, "t", 2, 1);
	rd_kafka_mock_partition_set_leader(p->cluster, "t", 0, 1);
	rd_kafka_mock_partition_set_leader(p->cluster, "t", 1, 2);
	producer = producer_of(p);
	for (int i = 0; i < RECORDS; i++) {
		put(producer, 0);
		put(producer, 1);
	}
	assert_int_equal(rd_kafka_flush(producer, 10000), 0);
	rd_kafka_destroy(producer);
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct place *p = *state;

	rd_kafka_mock_cluster_destroy(p->cluster);
	rd_kafka_destroy(p->host);
	free(p->error);
	free(p);
	return 0;
}

static int on_value(void *ctx, const void *value, size_t len)
{
	struct place *p = ctx;

	(void)value;
	assert_int_equal(len, 2);
	p->n++;
	if (p->refuses)
		return -ENOMEM;
	if (p->breaks)
		rd_kafka_mock_broker_set_down(p->cluster, 2);
	return 0;
}

static int reads(struct place *p, __u64 *ret_gone_s)
{
	const struct tally_kafka_reading reading = {
		.brokers = rd_kafka_mock_cluster_bootstraps(p->cluster),
		.topic = "t",
		.timeout_ms = TIMEOUT_MS,
	};

	return tally_kafka_reader_run(&reading, on_value, p, ret_gone_s, &p->error);
}

/* What a live topic does: another record again and again, on the partition that is well. */
static void *live(void *arg)
{
	struct place *p = arg;
	rd_kafka_t *producer = producer_of(p);

	while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE)) {
		put(producer, 0);
		(void)usleep(200000);
	}
	rd_kafka_purge(producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	rd_kafka_destroy(producer);
	return NULL;
}

static void test_reads_what_was_there(void **state)
{
	struct place *p = *state;
	__u64 gone_s = 1;

	assert_int_equal(reads(p, &gone_s), 0);
	assert_int_equal(p->n, 2 * RECORDS);
	assert_int_equal(gone_s, 0);
}

/* What is not committed is not missing, and retention took nothing; or it did, while it was read. */
static void test_first_record_that_is_not_the_first(void **state)
{
	struct place *p = *state;
	__u64 gone_s = 1;

	lacks_first = true;
	assert_int_equal(reads(p, &gone_s), 0);
	assert_int_equal(p->n, 2 * RECORDS - 1);
	assert_int_equal(gone_s, 0);
	deletes = 2;
	assert_int_equal(reads(p, &gone_s), 0);
	lacks_first = false;
	assert_int_equal(deletes, 0);
	assert_true(gone_s > 0 && gone_s < UINT64_MAX);
}

/* Retention took only what was read before. */
static void test_retention_behind_the_reader(void **state)
{
	struct place *p = *state;
	__u64 gone_s = 1;

	deletes = 2;
	assert_int_equal(reads(p, &gone_s), 0);
	assert_int_equal(deletes, 0);
	assert_int_equal(p->n, 2 * RECORDS);
	assert_int_equal(gone_s, 0);
}

static void gives_up(struct place *p, bool with_traffic)
{
	__u64 begin, took_ns, gone_s = 0;
	pthread_t thread;
	int r;

	p->breaks = true;
	rd_kafka_mock_broker_set_rtt(p->cluster, 2, 400);
	if (with_traffic)
		assert_int_equal(pthread_create(&thread, NULL, live, p), 0);
	begin = tally_util_mono_ns();
	r = reads(p, &gone_s);
	took_ns = tally_util_mono_ns() - begin;
	__atomic_store_n(&p->stop, 1, __ATOMIC_RELEASE);
	if (with_traffic)
		assert_int_equal(pthread_join(thread, NULL), 0);
	print_message("%d: %s\n", r, p->error ? p->error : "");
	assert_int_equal(r, -ETIMEDOUT);
	assert_true(took_ns < 15 * TALLY_NS_PER_S);
	assert_non_null(strstr(p->error, "t[1]: no progress for 3 s, read to offset 0 of "));
	assert_true(p->n >= RECORDS);
}

static void test_dead_leader(void **state)
{
	gives_up(*state, false);
}

/* Traffic of one partition is no progress of another. */
static void test_dead_leader_while_others_have_traffic(void **state)
{
	gives_up(*state, true);
}

/* It dies before it said where its partition ends. */
static void test_leader_that_does_not_tell_its_end(void **state)
{
	struct place *p = *state;
	__u64 gone_s = 0, begin = tally_util_mono_ns();

	rd_kafka_mock_broker_set_rtt(p->cluster, 2, 60000);
	assert_int_equal(reads(p, &gone_s), -ENOTCONN);
	assert_true(tally_util_mono_ns() - begin < 15 * TALLY_NS_PER_S);
	assert_int_equal(p->n, 0);
}

static void hang(bool yes)
{
	__atomic_store_n(&hangs, yes, __ATOMIC_RELEASE);
}

/* Whoever reads ends, though the library does not, and has what was read. */
static void test_library_that_hangs(void **state)
{
	struct place *p = *state;
	__u64 gone_s = 1, begin = tally_util_mono_ns();

	hang(true);
	assert_int_equal(reads(p, &gone_s), 1);
	assert_true(tally_util_mono_ns() - begin < 15 * TALLY_NS_PER_S);
	assert_int_equal(p->n, 2 * RECORDS);
	assert_int_equal(gone_s, 0);
	assert_null(p->error);
	come_back();
	hang(false);
}

/* It comes back just when nobody waits any more: what is said of it is still there. */
static void test_library_that_comes_back_too_late(void **state)
{
	struct place *p = *state;
	__u64 gone_s = 0;

	p->refuses = true;
	hang(true);
	__atomic_store_n(&comes_back, true, __ATOMIC_RELEASE);
	assert_int_equal(reads(p, &gone_s), -ENOTRECOVERABLE);
	hang(false);
	assert_string_equal(p->error, "librdkafka does not come back from closing t");
}

static int set_up_all(void **state)
{
	assert_int_equal(pthread_key_create(&end, on_end), 0);
	return sem_init(&go, 0, 0) + sem_init(&ended, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_reads_what_was_there),
		TEST(test_first_record_that_is_not_the_first),
		TEST(test_retention_behind_the_reader),
		TEST(test_dead_leader),
		TEST(test_dead_leader_while_others_have_traffic),
		TEST(test_leader_that_does_not_tell_its_end),
		TEST(test_library_that_hangs),
		TEST(test_library_that_comes_back_too_late),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
