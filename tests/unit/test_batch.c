/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers, bytes and the chain of batches; records as JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>

#include "account/json.h"
#include "account/record.h"
#include "base/util.h"
#include "libledger.h"

/*
 * The bytes of a record are a promise: they are hashed into the chain, and resent after upgrades.
 * If this text must change, so must TALLY_ENCODER, and the old encoder stays.
 */
static const char golden[] =
	"{\"specversion\":\"1.0\",\"id\":\"9f2c71d4a0b1-0000000c-000000000048213\","
	"\"source\":\"/agents/9f2c71d4a0b1\",\"type\":\"io.tallyd.usage.v1\",\"subject\":\"cus_acme\","
	"\"time\":\"2026-09-01T12:00:00Z\",\"datacontenttype\":\"application/json\","
	"\"dataschema\":\"https://tallyd.io/schema/usage/v1.json\",\"partitionkey\":\"cus_acme\","
	"\"sequence\":\"0000000c-000000000048213\",\"recordedtime\":\"2026-09-01T12:01:02Z\","
	"\"data\":{\"window_start\":\"2026-09-01T12:00:00Z\",\"window_end\":\"2026-09-01T12:00:10Z\","
	"\"kind\":\"usage\",\"customer_id\":\"cus_acme\",\"api_key_id\":\"key_a\",\"key_ref\":\"catalog\","
	"\"mode\":\"live\",\"service\":\"geo-api\",\"method\":\"POST\",\"route\":\"/v1/a\","
	"\"protocol\":\"http/1.1\",\"status\":200,\"status_class\":\"2xx\",\"billable\":true,"
	"\"reason\":\"success\",\"attribution\":\"key\",\"attribution_detail\":null,\"requests\":310,"
	"\"incomplete\":0,\"request_bytes\":31000,\"response_bytes\":310000,\"duration_us\":465,"
	"\"units\":{\"requests\":\"310\",\"credits\":\"3100\"},\"agent\":{\"id\":\"9f2c71d4a0b1\","
	"\"version\":\"0.3.0\",\"host\":\"node-7\",\"boot_id\":\"0d3f6a52-6f0e-4f6e-9a41-7c1f3f0b2a11\"},"
	"\"incarnation\":12,\"epoch\":1,\"seq\":48213,\"close_cause\":\"interval\","
	"\"ruleset\":\"sha256:5b1e90aa\"}}";

static struct tally_batch *make(size_t n, struct tally_frozen_row *rows)
{
	struct tally_batch *batch = NULL;
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, rows, n, &totals);

	ledger_batch(&frozen, 7, &batch);
	return batch;
}

static void test_record_has_these_bytes(void **state)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, 310);
	struct tally_batch *batch = make(1, &row);
	struct tally_message msg;

	(void)state;
	tally_message_init(&msg);
	assert_int_equal(tally_batch_usage(batch, 0, TALLY_FORMAT_CLOUDEVENTS, &msg), 0);
	assert_string_equal(msg.value.data, golden);
	assert_string_equal(msg.key.data, "cus_acme");
	assert_int_equal(tally_batch_usage(batch, 1, TALLY_FORMAT_CLOUDEVENTS, &msg), -EINVAL);
	tally_message_done(&msg);
	tally_batch_free(batch);
}

static void test_openmeter_carries_data_as_a_string(void **state)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, 310);
	struct tally_batch *batch = make(1, &row);
	struct tally_message msg;
	json_t *root, *data;

	(void)state;
	tally_message_init(&msg);
	assert_int_equal(tally_batch_usage(batch, 0, TALLY_FORMAT_OPENMETER, &msg), 0);
	root = json_loadb(msg.value.data, msg.value.len, 0, NULL);
	assert_non_null(root);
	assert_int_equal(json_object_size(root), 6);
	assert_int_equal(json_integer_value(json_object_get(root, "time")), LEDGER_START_S);
	data = json_loads(json_string_value(json_object_get(root, "data")), 0, NULL);
	assert_non_null(data);
	assert_int_equal(json_integer_value(json_object_get(data, "requests")), 310);
	json_decref(data);
	json_decref(root);
	tally_message_done(&msg);
	tally_batch_free(batch);
}

static void test_subjects(void **state)
{
	struct tally_frozen_row rows[3] = { ledger_row(1, 1, 200, 1), ledger_row(2, 1, 200, 1),
					    ledger_row(0, 1, 200, 1) };
	static const char *const want[] = { "cus_acme", "key:kfp_b", "unattributed" };
	struct tally_batch *batch = make(3, rows);
	struct tally_message msg;

	(void)state;
	tally_message_init(&msg);
	for (__u64 i = 0; i < 3; i++) {
		assert_int_equal(tally_batch_usage(batch, i, TALLY_FORMAT_CLOUDEVENTS, &msg), 0);
		assert_string_equal(msg.subject.data, want[i]);
	}
	tally_message_done(&msg);
	tally_batch_free(batch);
}

/* Counters above 2^53 - 1: several records, the same sum. */
static void test_large_counters_are_split(void **state)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, 5);
	struct tally_sealed_sums sums;
	struct tally_batch *batch;

	(void)state;
	row.row.response_bytes = ~0ULL - 3;
	row.row.requests = (1ULL << 54) + 1;
	batch = make(1, &row);
	assert_int_equal(tally_batch_records(batch), 2049);
	tally_sealed_sum(&batch->sealed, &sums);
	assert_true(sums.response_bytes == ~0ULL - 3);
	assert_true(sums.requests == (1ULL << 54) + 1);
	assert_true(sums.chargeable == (1ULL << 54) + 1);
	for (size_t i = 0; i < batch->sealed.n_rows; i++)
		assert_true(batch->sealed.rows[i].sums.response_bytes <= TALLY_JSON_INT_MAX);
	tally_batch_free(batch);
}

static void test_batch_reads_and_verifies(void **state)
{
	struct tally_frozen_row rows[2] = { ledger_row(1, 1, 200, 3), ledger_row(2, 1, 404, 4) };
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
	struct tally_batch *batch = make(2, rows), *again = NULL;
	struct tally_message one, two;
	struct tally_reader reader;

	(void)state;
	assert_int_equal(tally_batch_encode(batch, &buf), 0);
	tally_reader_init(&reader, buf.data, buf.len);
	assert_int_equal(tally_batch_decode(&reader, "9f2c71d4a0b1", &again), 0);
	assert_int_equal(tally_batch_verify(again), 0);
	tally_message_init(&one);
	tally_message_init(&two);
	assert_int_equal(tally_batch_control(batch, &one), 0);
	assert_int_equal(tally_batch_control(again, &two), 0);
	assert_string_equal(one.value.data, two.value.data);
	again->sealed.rows[1].sums.requests++;
	assert_int_equal(tally_batch_verify(again), -EBADMSG);
	again->sealed.rows[1].sums.requests--;
	again->encoder++;
	assert_int_equal(tally_batch_verify(again), -EBADMSG);
	tally_message_done(&one);
	tally_message_done(&two);
	tally_batch_free(batch);
	tally_batch_free(again);
}

static void test_control_record_adds_up(void **state)
{
	struct tally_frozen_row rows[3] = { ledger_row(1, 1, 200, 3), ledger_row(2, 3, 200, 2),
					    ledger_row(0, 1, 404, 4) };
	struct tally_batch *batch = make(3, rows);
	struct tally_message msg;
	json_int_t requests, seen, attributed, anonymous;
	const char *credits;
	json_t *root;

	(void)state;
	tally_message_init(&msg);
	assert_int_equal(tally_batch_control(batch, &msg), 0);
	assert_string_equal(msg.id, "9f2c71d4a0b1-0000000c-c00000000000007");
	root = json_loadb(msg.value.data, msg.value.len, 0, NULL);
	assert_non_null(root);
	assert_int_equal(json_unpack(root, "{s:{s:{s:I,s:{s:s}},s:{s:I,s:I,s:{s:I}}}}", "data",
				     "sums", "requests", &requests, "units", "credits", &credits,
				     "kernel", "seen", &seen, "attributed", &attributed,
				     "unattributed", "anonymous", &anonymous),
			 0);
	assert_int_equal(requests, 9);
	assert_string_equal(credits, "30.5");
	assert_int_equal(seen, 9);
	assert_int_equal(attributed + anonymous, 9);
	json_decref(root);
	tally_message_done(&msg);
	tally_batch_free(batch);
}

/* Values of org.apache.kafka.common.utils.UtilsTest, and the sign bit cut off as its partitioner does. */
static void test_murmur2_is_javas(void **state)
{
	static const struct {
		const char *key;
		__s32 hash;
	} cases[] = { { "21", -973932308 },
		      { "foobar", -790332482 },
		      { "a-little-bit-long-string", -985981536 },
		      { "a-little-bit-longer-string", -1486304829 },
		      { "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971 },
		      { "abc", 479470107 } };

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++)
		assert_int_equal(tally_batch_murmur2(cases[i].key, strlen(cases[i].key)),
				 cases[i].hash & 0x7fffffff);
}

static void test_texts_are_json(void **state)
{
	static const char *const texts[] = { "plain",
					     "quote\"back\\slash",
					     "tab\tnew\nline\x01\x7f",
					     "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
					     "bad \xff\xc3(\xed\xa0\x80 end",
					     "\xe2\x82" };

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(texts); i++) {
		_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
		json_t *text;

		tally_json_text(&buf, texts[i]);
		text = json_loadb(buf.data, buf.len, JSON_DECODE_ANY, NULL);
		assert_non_null(text);
		if (i < 4)
			assert_string_equal(json_string_value(text), texts[i]);
		else
			assert_non_null(strstr(json_string_value(text), "\xef\xbf\xbd"));
		json_decref(text);
	}
}

static void test_decimals_are_exact(void **state)
{
	static const struct {
		__u64 amount, count;
		const char *text;
	} cases[] = { { 0, 5, "0" },
		      { TALLY_UNIT_SCALE, 0, "0" },
		      { TALLY_UNIT_SCALE, 310, "310" },
		      { TALLY_UNIT_SCALE / 2, 3, "1.5" },
		      { 1, 1, "0.000000001" },
		      { 100000000, 3, "0.3" },
		      { ~0ULL, TALLY_JSON_INT_MAX, "166153499473114465657224609.570750465" } };

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };

		tally_json_decimal(&buf, (unsigned __int128)cases[i].amount * cases[i].count);
		assert_string_equal(buf.data, cases[i].text);
	}
}

static void test_times(void **state)
{
	static const struct {
		__u64 s;
		const char *text;
	} cases[] = {
		{ 0, "1970-01-01T00:00:00Z" },		{ 951782399, "2000-02-28T23:59:59Z" },
		{ 951782400, "2000-02-29T00:00:00Z" },	{ 4107542399, "2100-02-28T23:59:59Z" },
		{ 4107542400, "2100-03-01T00:00:00Z" }, { 1788264000, "2026-09-01T12:00:00Z" }
	};
	char text[TALLY_JSON_TIME];
	__u64 s;

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		tally_json_time(cases[i].s, text);
		assert_string_equal(text, cases[i].text);
		assert_int_equal(tally_json_parse_time(text, &s), 0);
		assert_int_equal(s, cases[i].s);
	}
	assert_int_equal(tally_json_parse_time("2026-02-30T00:00:00Z", &s), -EINVAL);
	assert_int_equal(tally_json_parse_time("2026-02-01 00:00:00Z", &s), -EINVAL);
	assert_int_equal(tally_json_parse_time("2026-02-01T25:00:00Z", &s), -EINVAL);
}

/* Of origin 1 what is far too long in a record, of 2 what only OpenMeter's payload has no room for. */
static void long_origin(void *ctx, __u32 id, struct tally_origin *ret_origin)
{
	static char text[4][70001];
	static const size_t lengths[] = { 0, 70000, 9500, 11000 };

	memset(text[id], id == 1 ? 'a' : 1, lengths[id]);
	*ret_origin = (struct tally_origin){ "geo", text[id], NULL, NULL };
}

static void expect_where(const struct tally_batch *batch, __u64 index, enum tally_format format,
			 bool told)
{
	struct tally_message msg;

	tally_message_init(&msg);
	assert_int_equal(tally_batch_message(batch, index, format, &msg), 0);
	assert_true(msg.value.len <= TALLY_RECORD_MAX);
	assert_int_equal(strstr(msg.value.data, "kubernetes") != NULL, told);
	assert_non_null(strstr(msg.value.data, "requests"));
	tally_message_done(&msg);
}

/* A text of others that makes a record too long is left out of it, the same each time. */
static void test_long_origins_are_left_out(void **state)
{
	static const struct tally_peer_cut cut = { 32, 128 };
	struct tally_resolver resolver = ledger_resolver;
	struct tally_frozen_row rows[3] = { ledger_row(1, 1, 200, 1), ledger_row(1, 1, 201, 1),
					    ledger_row(1, 1, 202, 1) };
	struct tally_batch_head head = { .agent = "9f2c71d4a0b1", .number = 7, .seq_first = 1 };
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;
	struct tally_frozen frozen;
	struct tally_totals totals;

	(void)state;
	resolver.origin = long_origin;
	resolver.connections = &cut;
	for (__u32 i = 0; i < 3; i++)
		rows[i].key.origin = i + 1;
	frozen = ledger_epoch(1, rows, 3, &totals);
	assert_int_equal(tally_account_close(&frozen, &resolver, &sealed), 0);
	assert_int_equal(tally_batch_new(&head, &sealed, &batch), 0);
	assert_int_equal(tally_batch_verify(batch), 0);
	assert_int_equal(tally_batch_messages(batch), 6);
	for (__u64 i = 0; i < 6; i++) /* first the records, then their connections */
		expect_where(batch, i, TALLY_FORMAT_CLOUDEVENTS, i % 3 == 1);
	for (__u64 i = 0; i < 3; i++)
		expect_where(batch, i, TALLY_FORMAT_OPENMETER, false);
	tally_batch_free(batch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record_has_these_bytes),
		cmocka_unit_test(test_openmeter_carries_data_as_a_string),
		cmocka_unit_test(test_subjects),
		cmocka_unit_test(test_large_counters_are_split),
		cmocka_unit_test(test_batch_reads_and_verifies),
		cmocka_unit_test(test_long_origins_are_left_out),
		cmocka_unit_test(test_control_record_adds_up),
		cmocka_unit_test(test_murmur2_is_javas),
		cmocka_unit_test(test_texts_are_json),
		cmocka_unit_test(test_decimals_are_exact),
		cmocka_unit_test(test_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
