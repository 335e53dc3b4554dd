/* SPDX-License-Identifier: Apache-2.0 */
/* Rows by connection: cut, sealed, merged, batched, as records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <jansson.h>

#include "account/peer.h"
#include "base/util.h"
#include "libledger.h"

static const struct tally_peer_cut whole = { TALLY_PEER_IPV4, TALLY_PEER_IPV6 };

static struct tally_resolver resolver(const struct tally_peer_cut *cut)
{
	struct tally_resolver r = ledger_resolver;

	r.connections = cut;
	return r;
}

static void set_peer(struct tally_frozen_row *row, const char *text, __u16 port)
{
	memset(row->row.peer, 0, sizeof(row->row.peer));
	row->row.peer_port = port;
	if (strchr(text, ':')) {
		assert_int_equal(inet_pton(AF_INET6, text, row->row.peer), 1);
		return;
	}
	memset(row->row.peer + 10, 0xff, 2);
	assert_int_equal(inet_pton(AF_INET, text, row->row.peer + 12), 1);
}

static void close_by(const struct tally_frozen *frozen, const struct tally_peer_cut *cut,
		     struct tally_sealed *ret_sealed)
{
	struct tally_resolver r = resolver(cut);

	assert_int_equal(tally_account_close(frozen, &r, ret_sealed), 0);
	ret_sealed->epoch_first = ret_sealed->epoch_last = frozen->number;
}

/*
 * Two connections of key 1, one of them twice under rulesets that name alike; one of a key that is not
 * known any more; one row of `spill`; and what found no row at all.
 */
#define ROWS 5
#define TOLD 5

static void make(const struct tally_peer_cut *cut, __u64 number, struct tally_sealed *ret_sealed)
{
	struct tally_frozen_row rows[ROWS] = { ledger_row(1, 1, 200, 3), ledger_row(1, 1, 200, 5),
					       ledger_row(404, 1, 200, 2), ledger_row(1, 1, 200, 7),
					       ledger_row(1, 1, 200, 5) };
	struct tally_totals totals;
	struct tally_frozen frozen;

	set_peer(&rows[0], "192.0.2.7", 40000);
	set_peer(&rows[1], "2001:db8:1:2:3::4", 50000);
	set_peer(&rows[2], "192.0.2.7", 40001);
	set_peer(&rows[4], "2001:db8:1:2:3::4", 50000);
	rows[3].key.conn = 1; /* a CPU: not the connection of that number */
	rows[4].key.ruleset = 2;
	frozen = ledger_epoch(number, rows, ROWS, &totals);
	totals.lost.requests = totals.lost.answered[0] = 11;
	totals.lost.request_bytes = 1100;
	close_by(&frozen, cut, ret_sealed);
}

/* S5, for each usage row. */
static void expect_sums(const struct tally_sealed *sealed)
{
	for (size_t i = 0; i < sealed->n_rows; i++) {
		const struct tally_sealed_row *row = &sealed->rows[i];
		struct tally_sealed_sums left = row->sums;

		for (size_t k = 0; k < sealed->n_connections; k++) {
			const struct tally_sealed_row *part = &sealed->connections[k].row;

			if (part->hour != row->hour || part->owner != row->owner ||
			    part->shape != row->shape)
				continue;
			left.requests -= part->sums.requests;
			left.incomplete -= part->sums.incomplete;
			left.request_bytes -= part->sums.request_bytes;
			left.response_bytes -= part->sums.response_bytes;
			left.duration_ns -= part->sums.duration_ns;
			left.chargeable -= part->sums.chargeable;
		}
		assert_memory_equal(&left, &(struct tally_sealed_sums){ 0 }, sizeof(left));
	}
}

static void test_texts_are_those_of_rfc_5952(void **state)
{
	static const char *const texts[] = { "::",
					     "::1",
					     "2001:db8::",
					     "2001:db8::1",
					     "2001:db8:0:1:1:1:1:1",
					     "2001:db8::1:0:0:1",
					     "2001:0:0:1::1",
					     "1:2:3:4:5:6:7:8",
					     "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
					     "fe80::abcd:0:12",
					     "0:1::",
					     "192.0.2.1",
					     "255.255.255.255",
					     "0.0.0.0" };

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(texts); i++) {
		struct tally_frozen_row row = { 0 };
		char text[TALLY_PEER_TEXT], libc[INET6_ADDRSTRLEN];

		set_peer(&row, texts[i], 1);
		tally_peer_text(row.row.peer, text);
		assert_string_equal(text, texts[i]);
		if (strchr(texts[i], ':') && strcmp(texts[i], "::1") != 0 &&
		    strcmp(texts[i], "::") != 0) /* libc: an address of IPv4 at its end */
			assert_string_equal(inet_ntop(AF_INET6, row.row.peer, libc, sizeof(libc)),
					    text);
	}
}

static void expect_cut(const char *from, __u8 prefix, const char *want, __u16 port)
{
	const struct tally_peer_cut cut = { prefix, prefix };
	struct tally_frozen_row row = { .key.conn = 9 };
	struct tally_sealed_peer peer;
	char text[TALLY_PEER_TEXT];

	set_peer(&row, from, 1234);
	tally_peer_take(&row, &cut, &peer);
	assert_int_equal(peer.conn, 9);
	assert_int_equal(peer.prefix, prefix);
	assert_int_equal(peer.port, port);
	assert_true(tally_peer_is_valid(&peer));
	tally_peer_text(peer.address, text);
	assert_string_equal(text, want);
}

static void test_addresses_are_cut(void **state)
{
	const struct tally_frozen_row nowhere = { .key.conn = 3, .row.peer_port = 7 };
	struct tally_sealed_peer peer;

	(void)state;
	expect_cut("192.0.2.255", 32, "192.0.2.255", 1234);
	expect_cut("192.0.2.255", 31, "192.0.2.254", 0);
	expect_cut("192.0.2.255", 24, "192.0.2.0", 0);
	expect_cut("192.0.2.255", 1, "128.0.0.0", 0);
	expect_cut("192.0.2.255", 0, "::", 0);
	expect_cut("2001:db8:ffff:ffff::1", 128, "2001:db8:ffff:ffff::1", 1234);
	expect_cut("2001:db8:ffff:ffff::1", 48, "2001:db8:ffff::", 0);
	expect_cut("2001:db8:ffff:ffff::1", 45, "2001:db8:fff8::", 0);
	expect_cut("2001:db8:ffff:ffff::1", 0, "::", 0);
	tally_peer_take(&nowhere, &whole, &peer);
	assert_memory_equal(&peer, &(struct tally_sealed_peer){ 0 }, sizeof(peer));
}

static void test_each_row_is_taken_apart(void **state)
{
	struct tally_sealed sealed;
	__u64 requests = 0;

	(void)state;
	make(&whole, 1, &sealed);
	assert_true(sealed.by_connection);
	assert_int_equal(sealed.n_rows, 3);
	assert_int_equal(sealed.n_connections, TOLD);
	expect_sums(&sealed);
	for (size_t i = 0; i < TOLD; i++)
		requests += sealed.connections[i].row.sums.requests;
	assert_int_equal(requests, 3 + 5 + 2 + 7 + 5 + 11);
	assert_int_equal(sealed.connections[0].peer.conn, 0); /* of spill */
	assert_int_equal(sealed.connections[0].row.sums.requests, 7);
	assert_int_equal(sealed.connections[2].row.sums.requests, 10); /* two rulesets, one name */
	tally_sealed_done(&sealed);
}

/* Nothing is added where they are not asked for. */
static void test_off(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf off = { 0 };
	_cleanup_(tally_buf_done) struct tally_buf on = { 0 };
	struct tally_sealed sealed;

	(void)state;
	make(NULL, 1, &sealed);
	assert_false(sealed.by_connection);
	assert_int_equal(sealed.n_connections, 0);
	assert_int_equal(tally_sealed_encode(&sealed, &off), 0);
	tally_sealed_done(&sealed);
	make(&whole, 1, &sealed);
	assert_int_equal(tally_sealed_encode(&sealed, &on), 0);
	assert_true(on.len > off.len);
	assert_memory_equal(on.data, off.data, off.len);
	tally_sealed_done(&sealed);
}

static void expect_read(const struct tally_buf *body, const struct tally_sealed *sealed)
{
	_cleanup_(tally_buf_done) struct tally_buf again = { 0 };
	struct tally_reader reader;
	struct tally_sealed read;

	tally_reader_init(&reader, body->data, body->len);
	assert_int_equal(tally_sealed_decode(&reader, &read), 0);
	assert_int_equal(reader.pos, body->len);
	assert_int_equal(read.by_connection, sealed->by_connection);
	assert_int_equal(read.n_connections, sealed->n_connections);
	if (sealed->n_connections)
		assert_memory_equal(read.connections, sealed->connections,
				    sealed->n_connections * sizeof(*read.connections));
	assert_int_equal(tally_sealed_encode(&read, &again), 0);
	assert_int_equal(again.len, body->len);
	assert_memory_equal(again.data, body->data, body->len);
	tally_sealed_done(&read);
}

/* Written and read; every cut and every flipped bit does no harm. A cut where the rows end, which is a
 * file without connections, is found by the frame. */
static void test_files(void **state)
{
	static const struct tally_peer_cut cuts[] = {
		{ 32, 128 }, { 24, 48 }, { 0, 0 }, { 9, 100 }
	};
	struct tally_sealed sealed;

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cuts); i++) {
		_cleanup_(tally_buf_done) struct tally_buf body = { 0 };

		make(&cuts[i], 1, &sealed);
		assert_int_equal(tally_sealed_encode(&sealed, &body), 0);
		expect_read(&body, &sealed);
		assert_int_equal(ledger_damage(&body), 1);
		tally_sealed_done(&sealed);
	}
}

static void test_merging(void **state)
{
	struct tally_sealed all, one;

	(void)state;
	tally_sealed_init(&all);
	for (__u64 n = 1; n <= 3; n++) {
		make(&whole, n, &one);
		assert_int_equal(tally_sealed_merge(&all, &one), 0);
		tally_sealed_done(&one);
	}
	tally_sealed_settle(&all);
	assert_true(all.by_connection);
	assert_int_equal(all.n_connections, TOLD);
	expect_sums(&all);
	assert_int_equal(all.connections[2].row.end_s, LEDGER_START_S + 30);
	make(NULL, 4, &one);
	assert_int_equal(tally_sealed_merge(&all, &one), -EINVAL); /* it would not add up */
	tally_sealed_done(&one);
	tally_sealed_done(&all);
}

static struct tally_batch *batch_of(const struct tally_peer_cut *cut)
{
	const struct tally_batch_head head = {
		.agent = "9f2c71d4a0b1",
		.incarnation = 12,
		.number = 7,
		.seq_first = 48213,
		.recorded_s = LEDGER_START_S + 62,
		.version = "0.3.0",
		.host = "node-7",
		.boot_id = "0d3f6a52-6f0e-4f6e-9a41-7c1f3f0b2a11",
	};
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;

	make(cut, 1, &sealed);
	assert_int_equal(tally_batch_new(&head, &sealed, &batch), 0);
	return batch;
}

/* A promise, like those of test_batch.c. */
static const char golden[] =
	"{\"specversion\":\"1.0\",\"id\":\"9f2c71d4a0b1-0000000c-n00000000000007-00000002\","
	"\"source\":\"/agents/9f2c71d4a0b1\",\"type\":\"io.tallyd.usage.connections.v1\","
	"\"subject\":\"cus_acme\",\"time\":\"2026-09-01T12:00:00Z\","
	"\"datacontenttype\":\"application/json\","
	"\"dataschema\":\"https://tallyd.io/schema/connections/v1.json\",\"partitionkey\":\"cus_acme\","
	"\"sequence\":\"0000000c-n00000000000007-00000002\",\"recordedtime\":\"2026-09-01T12:01:02Z\","
	"\"data\":{\"window_start\":\"2026-09-01T12:00:00Z\",\"window_end\":\"2026-09-01T12:00:10Z\","
	"\"kind\":\"connection\",\"customer_id\":\"cus_acme\",\"api_key_id\":\"key_a\","
	"\"key_ref\":\"catalog\",\"mode\":\"live\",\"service\":\"geo-api\",\"method\":\"POST\","
	"\"route\":\"/v1/a\",\"protocol\":\"http/1.1\",\"status\":200,\"status_class\":\"2xx\","
	"\"billable\":true,\"reason\":\"success\",\"attribution\":\"key\",\"attribution_detail\":null,"
	"\"connection\":\"6c656467-12\",\"peer\":\"2001:db8:1:2:3::4\",\"peer_prefix\":128,"
	"\"peer_port\":50000,\"requests\":10,\"incomplete\":0,\"request_bytes\":1000,"
	"\"response_bytes\":10000,\"duration_us\":15,\"agent\":{\"id\":\"9f2c71d4a0b1\","
	"\"version\":\"0.3.0\",\"host\":\"node-7\",\"boot_id\":\"0d3f6a52-6f0e-4f6e-9a41-7c1f3f0b2a11\"},"
	"\"incarnation\":12,\"epoch\":1,\"batch\":7,\"index\":2,\"usage_seq\":48213,"
	"\"close_cause\":\"interval\",\"ruleset\":\"sha256:5b1e90aa\"}}";

static void test_record_has_these_bytes(void **state)
{
	struct tally_batch *batch = batch_of(&whole);
	struct tally_message msg;

	(void)state;
	tally_message_init(&msg);
	assert_int_equal(tally_batch_connections(batch), TOLD);
	assert_int_equal(tally_batch_connection(batch, 2, &msg), 0);
	assert_string_equal(msg.value.data, golden);
	assert_string_equal(msg.key.data, "cus_acme");
	assert_int_equal(tally_batch_connection(batch, TOLD, &msg), -EINVAL);
	tally_message_done(&msg);
	tally_batch_free(batch);
}

/* Who reads usage records alone sees the same with and without; of the others the control record tells. */
static void test_usage_is_the_same(void **state)
{
	struct tally_batch *on = batch_of(&whole), *off = batch_of(NULL);
	struct tally_message a, b;
	json_t *root, *told;

	(void)state;
	tally_message_init(&a);
	tally_message_init(&b);
	assert_int_equal(tally_batch_records(on), tally_batch_records(off));
	assert_int_equal(tally_batch_seq_last(on), tally_batch_seq_last(off));
	for (__u64 i = 0; i < tally_batch_records(on); i++) {
		assert_int_equal(tally_batch_message(on, i, TALLY_FORMAT_CLOUDEVENTS, &a), 0);
		assert_int_equal(tally_batch_message(off, i, TALLY_FORMAT_CLOUDEVENTS, &b), 0);
		assert_string_equal(a.value.data, b.value.data);
	}
	assert_int_equal(tally_batch_messages(off), tally_batch_records(off));
	assert_int_equal(tally_batch_control(off, &b), 0);
	assert_null(strstr(b.value.data, "\"digest\""));
	assert_int_equal(tally_batch_control(on, &a), 0);
	root = json_loads(a.value.data, 0, NULL);
	told = json_object_get(json_object_get(root, "data"), "connections");
	assert_int_equal(json_integer_value(json_object_get(told, "records")), TOLD);
	assert_int_equal(json_string_length(json_object_get(told, "digest")), 64);
	json_decref(root);
	tally_message_done(&a);
	tally_message_done(&b);
	tally_batch_free(on);
	tally_batch_free(off);
}

static void test_batch_reads_and_verifies(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
	struct tally_batch *batch = batch_of(&whole), *again = NULL;
	struct tally_reader reader;

	(void)state;
	assert_int_equal(tally_batch_encode(batch, &buf), 0);
	tally_reader_init(&reader, buf.data, buf.len);
	assert_int_equal(tally_batch_decode(&reader, "9f2c71d4a0b1", &again), 0);
	assert_int_equal(tally_batch_verify(again), 0);
	again->sealed.connections[1].peer.port++;
	assert_int_equal(tally_batch_verify(again), -EBADMSG);
	again->sealed.connections[1].peer.port--;
	assert_int_equal(tally_batch_verify(again), 0);
	again->connections[0] ^= 1;
	assert_int_equal(tally_batch_verify(again), -EBADMSG);
	tally_batch_free(again);
	again = NULL;
	tally_reader_init(&reader, buf.data, buf.len - 1);
	assert_int_equal(tally_batch_decode(&reader, "9f2c71d4a0b1", &again), -EBADMSG);
	tally_batch_free(batch);
}

/* Counters above 2^53 - 1: parts, the same sums. */
static void test_large_counters_are_split(void **state)
{
	struct tally_frozen_row row = ledger_row(1, 1, 200, 5);
	const struct tally_batch_head head = { .agent = "9f2c71d4a0b1",
					       .number = 1,
					       .seq_first = 1 };
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;
	__u64 bytes = 0;

	(void)state;
	row.row.response_bytes = (1ULL << 55) + 3;
	set_peer(&row, "192.0.2.7", 40000);
	frozen = ledger_epoch(1, &row, 1, &totals);
	close_by(&frozen, &whole, &sealed);
	assert_int_equal(tally_batch_new(&head, &sealed, &batch), 0);
	assert_int_equal(tally_batch_connections(batch), tally_batch_records(batch));
	for (size_t i = 0; i < batch->sealed.n_connections; i++) {
		assert_true(batch->sealed.connections[i].row.sums.response_bytes <=
			    TALLY_JSON_INT_MAX);
		bytes += batch->sealed.connections[i].row.sums.response_bytes;
	}
	assert_true(bytes == (1ULL << 55) + 3);
	tally_batch_free(batch);
}

/* What the README says of the size: 64 octets a row at most, here with addresses of IPv6. */
static void test_rows_are_small_on_disk(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf off = { 0 };
	_cleanup_(tally_buf_done) struct tally_buf on = { 0 };
	struct tally_frozen_row *rows = calloc(50000, sizeof(*rows));
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_sealed sealed;

	(void)state;
	for (__u32 i = 0; i < 50000; i++) {
		rows[i] = ledger_row(1 + i % 3, 1, 200, 1 + i % 200);
		rows[i].key.conn = 1000000 + i;
		set_peer(&rows[i], "2001:db8:1:2:3:4:5:6", (__u16)(1024 + i));
	}
	frozen = ledger_epoch(1, rows, 50000, &totals);
	close_by(&frozen, NULL, &sealed);
	assert_int_equal(tally_sealed_encode(&sealed, &off), 0);
	tally_sealed_done(&sealed);
	close_by(&frozen, &whole, &sealed);
	assert_int_equal(tally_sealed_encode(&sealed, &on), 0);
	assert_int_equal(sealed.n_connections, 50000);
	print_message("# %zu bytes a connection\n", (on.len - off.len) / 50000);
	assert_true(on.len - off.len <= 50000 * 64);
	tally_sealed_done(&sealed);
	free(rows);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts_are_those_of_rfc_5952),
		cmocka_unit_test(test_addresses_are_cut),
		cmocka_unit_test(test_each_row_is_taken_apart),
		cmocka_unit_test(test_off),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_merging),
		cmocka_unit_test(test_record_has_these_bytes),
		cmocka_unit_test(test_usage_is_the_same),
		cmocka_unit_test(test_batch_reads_and_verifies),
		cmocka_unit_test(test_large_counters_are_split),
		cmocka_unit_test(test_rows_are_small_on_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
