/* SPDX-License-Identifier: Apache-2.0 */
/* The compact form, its frame, merging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/util.h"
#include "libledger.h"

static void make(struct tally_sealed *ret_sealed)
{
	struct tally_frozen_row rows[5] = { ledger_row(1, 1, 200, 3), ledger_row(2, 3, 200, 4),
					    ledger_row(3, 1, 500, 1), ledger_row(0, 0, 404, 2),
					    ledger_row(1, 1, 0, 1) };
	struct tally_totals totals;
	struct tally_frozen frozen;

	rows[1].row.incomplete = 1;
	rows[2].key.hour++;
	frozen = ledger_epoch(3, rows, 5, &totals);
	frozen.end_ns += 3600 * TALLY_NS_PER_S;
	totals.gaps[3] = 5;
	totals.unparsed_bytes[1][2] = 17;
	ledger_close(&frozen, ret_sealed);
	ret_sealed->held_after = -3;
}

static void test_reads_what_was_written(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf one = { 0 };
	_cleanup_(tally_buf_done) struct tally_buf two = { 0 };
	struct tally_sealed sealed, again;
	struct tally_reader reader;

	(void)state;
	make(&sealed);
	sealed.totals.gaps[TALLY_GAP_GUESSES_FULL] = 9;
	assert_int_equal(tally_sealed_encode(&sealed, &one), 0);
	tally_reader_init(&reader, one.data, one.len);
	assert_int_equal(tally_sealed_decode(&reader, &again), 0);
	assert_int_equal(reader.pos, one.len);
	assert_int_equal(again.n_rows, 5);
	assert_int_equal(again.held_after, -3);
	assert_int_equal(again.totals.gaps[3], 5);
	assert_int_equal(again.totals.gaps[TALLY_GAP_GUESSES_FULL], 9);
	assert_memory_equal(again.rows, sealed.rows, 5 * sizeof(*sealed.rows));
	assert_int_equal(tally_sealed_encode(&again, &two), 0);
	assert_int_equal(one.len, two.len);
	assert_memory_equal(one.data, two.data, one.len);
	tally_sealed_done(&sealed);
	tally_sealed_done(&again);
}

static void expect_digest(const struct tally_buf *buf, const char *want)
{
	char text[2 * TALLY_SHA256 + 1];
	__u8 digest[TALLY_SHA256];

	tally_sha256(buf->data, buf->len, digest);
	tally_util_hex(digest, sizeof(digest), text);
	assert_string_equal(text, want);
}

/* What was sealed and batched by any earlier version is read, and shipped under the same chain. */
static void test_bytes_of_files_are_a_promise(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf body = { 0 };
	_cleanup_(tally_buf_done) struct tally_buf file = { 0 };
	struct tally_frozen_row rows[2] = { ledger_row(1, 1, 200, 3), ledger_row(0, 0, 404, 2) };
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, rows, 2, &totals);
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;

	(void)state;
	make(&sealed);
	assert_int_equal(tally_sealed_encode(&sealed, &body), 0);
	expect_digest(&body, "ab045ce83b0981cd7b257e4b6afc88f029548c37ec04fb5e80394d1705a2dbce");
	tally_sealed_done(&sealed);
	ledger_batch(&frozen, 7, &batch);
	assert_int_equal(tally_batch_encode(batch, &file), 0);
	expect_digest(&file, "f7a95e63d249519cd97ea0a54ba83ac9aa377716ff56e2f2023840946aa6278e");
	tally_batch_free(batch);
}

/* Rows are told apart by where they were answered, in files and when files are merged; files without
 * such rows are as they were before there was an origin. */
static void test_origins(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf body = { 0 };
	struct tally_frozen_row rows[5];
	struct tally_sealed sealed, again;
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_reader reader;
	const struct tally_sealed_shape *shape;

	(void)state;
	for (__u32 i = 0; i < 5; i++) {
		rows[i] = ledger_row(1, 1, 200, 1 + i);
		rows[i].key.origin = (__u32[]){ 1, 2, 1, 0, 77 }[i];
	}
	frozen = ledger_epoch(1, rows, 5, &totals);
	ledger_close(&frozen, &sealed);
	assert_int_equal(sealed.n_rows, 3);
	assert_int_equal(tally_sealed_encode(&sealed, &body), 0);
	tally_reader_init(&reader, body.data, body.len);
	assert_int_equal(tally_sealed_decode(&reader, &again), 0);
	assert_int_equal(again.n_shapes, 3);
	assert_memory_equal(again.shapes, sealed.shapes, 3 * sizeof(*again.shapes));
	shape = &again.shapes[1];
	assert_string_equal(again.strings[shape->workload], "Deployment/geo-api");
	assert_string_equal(again.strings[shape->pod], "geo-api-1");
	assert_int_equal(tally_sealed_merge(&again, &sealed), -EINVAL); /* the same epochs */
	tally_sealed_done(&again);
	tally_sealed_init(&again);
	assert_int_equal(tally_sealed_merge(&again, &sealed), 0);
	tally_sealed_settle(&again);
	assert_int_equal(again.n_rows, 3);
	assert_string_equal(again.strings[again.shapes[again.rows[1].shape].node], "n");
	tally_sealed_done(&again);
	tally_sealed_done(&sealed);
}

/* Without its digest, too, no input may do harm: every cut and every flipped bit of a body. */
static void test_damaged_bodies_do_no_harm(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf body = { 0 };
	struct tally_sealed sealed;

	(void)state;
	make(&sealed);
	assert_int_equal(tally_sealed_encode(&sealed, &body), 0);
	assert_int_equal(ledger_damage(&body), 0);
	tally_sealed_done(&sealed);
}

static void test_frame_finds_every_flip_and_cut(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf file = { 0 };
	struct tally_reader reader;
	char agent[TALLY_AGENT_ID + 1];

	(void)state;
	assert_int_equal(tally_frame_put(&file, TALLY_FRAME_SEALED, "0123456789ab", "payload", 7),
			 0);
	assert_int_equal(tally_frame_get(file.data, file.len, TALLY_FRAME_SEALED, "0123456789ab",
					 agent, &reader),
			 0);
	assert_string_equal(agent, "0123456789ab");
	assert_int_equal(reader.len, 7);
	assert_int_equal(tally_frame_get(file.data, file.len, TALLY_FRAME_SEALED, "ba9876543210",
					 NULL, &reader),
			 -EXDEV);
	assert_int_equal(
		tally_frame_get(file.data, file.len, TALLY_FRAME_BATCH, NULL, NULL, &reader),
		-EBADMSG);
	for (size_t i = 0; i < file.len; i++) {
		file.data[i] ^= 1;
		assert_int_equal(tally_frame_get(file.data, file.len, TALLY_FRAME_SEALED, NULL,
						 NULL, &reader),
				 -EBADMSG);
		file.data[i] ^= 1;
		assert_int_equal(
			tally_frame_get(file.data, i, TALLY_FRAME_SEALED, NULL, NULL, &reader),
			-EBADMSG);
	}
}

static void test_merging_adds_within_the_hour(void **state)
{
	struct tally_sealed all, one;

	(void)state;
	tally_sealed_init(&all);
	for (__u64 n = 1; n <= 3; n++) {
		struct tally_frozen_row rows[2] = { ledger_row(n == 2 ? 2 : 1, 1, 200, n),
						    ledger_row(1, 1, 500, 1) };
		struct tally_totals totals;
		struct tally_frozen frozen = ledger_epoch(n, rows, 2, &totals);

		ledger_close(&frozen, &one);
		one.held_after = (__s64)n;
		assert_int_equal(tally_sealed_merge(&all, &one), 0);
		tally_sealed_done(&one);
	}
	tally_sealed_settle(&all);
	assert_int_equal(all.n_rows, 3);
	assert_int_equal(all.windows, 3);
	assert_int_equal(all.epoch_first, 1);
	assert_int_equal(all.epoch_last, 3);
	assert_int_equal(all.held_after, 3);
	assert_int_equal(all.rows[0].sums.requests, 1 + 3);
	assert_int_equal(all.rows[0].start_s, LEDGER_START_S);
	assert_int_equal(all.rows[0].end_s, LEDGER_START_S + 30);
	assert_int_equal(all.totals.seen, 9);
	tally_sealed_done(&all);
}

static void test_only_epochs_that_follow_are_merged(void **state)
{
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, NULL, 0, &totals);
	struct tally_sealed all, one;

	(void)state;
	tally_sealed_init(&all);
	ledger_close(&frozen, &one);
	assert_int_equal(tally_sealed_merge(&all, &one), 0);
	assert_int_equal(tally_sealed_merge(&all, &one), -EINVAL);
	one.epoch_first = one.epoch_last = 2;
	one.hole = TALLY_HOLE_LOST;
	assert_int_equal(tally_sealed_merge(&all, &one), -EINVAL);
	tally_sealed_done(&one);
	tally_sealed_done(&all);
}

/* FAULTS: at most 64 bytes on disk per row and hour. 10,000 keys with 6 rows each. */
static void test_rows_are_small_on_disk(void **state)
{
	_cleanup_(tally_buf_done) struct tally_buf buf = { 0 };
	struct tally_sealed sealed;

	(void)state;
	tally_sealed_init(&sealed);
	for (__u32 i = 0; i < 60000; i++) {
		struct tally_sealed_owner owner = { .key_ref = TALLY_KEYREF_CATALOG,
						    .mode = TALLY_MODE_LIVE };
		struct tally_sealed_shape shape = { .status = 200 };
		struct tally_sealed_row row = {
			.hour = LEDGER_START_S / 3600,
			.start_s = LEDGER_START_S,
			.end_s = LEDGER_START_S + 3600,
			.sums = { 1000000 + i, i, 1ULL << 33, 1ULL << 40, 1ULL << 45, 900000 + i },
		};
		char text[64];

		snprintf(text, sizeof(text), "customer_%010u", i / 6);
		assert_int_equal(tally_sealed_text(&sealed, text, &owner.customer), 0);
		snprintf(text, sizeof(text), "key_%022u", i / 6);
		assert_int_equal(tally_sealed_text(&sealed, text, &owner.api_key), 0);
		snprintf(text, sizeof(text), "/v1/documents/{id}/route%u", i % 6);
		assert_int_equal(tally_sealed_text(&sealed, text, &shape.route), 0);
		assert_int_equal(tally_sealed_tariff(&sealed, NULL, 0, &shape.tariff), 0);
		assert_int_equal(tally_sealed_owner(&sealed, &owner, &row.owner), 0);
		assert_int_equal(tally_sealed_shape(&sealed, &shape, &row.shape), 0);
		assert_int_equal(tally_sealed_add(&sealed, &row), 0);
	}
	tally_sealed_settle(&sealed);
	assert_int_equal(sealed.n_rows, 60000);
	assert_int_equal(tally_sealed_encode(&sealed, &buf), 0);
	print_message("# %zu bytes a row\n", buf.len / 60000);
	assert_true(buf.len <= 60000 * 64);
	tally_sealed_done(&sealed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_what_was_written),
		cmocka_unit_test(test_bytes_of_files_are_a_promise),
		cmocka_unit_test(test_origins),
		cmocka_unit_test(test_damaged_bodies_do_no_harm),
		cmocka_unit_test(test_frame_finds_every_flip_and_cut),
		cmocka_unit_test(test_merging_adds_within_the_hour),
		cmocka_unit_test(test_only_epochs_that_follow_are_merged),
		cmocka_unit_test(test_rows_are_small_on_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
