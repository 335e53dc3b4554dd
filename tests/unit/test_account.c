/* SPDX-License-Identifier: Apache-2.0 */
/* From rows of the kernel to sealed rows: sums, hours, names, charges. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/util.h"
#include "libledger.h"

static const struct tally_sealed_shape *shape_of(const struct tally_sealed *sealed, size_t row)
{
	return &sealed->shapes[sealed->rows[row].shape];
}

static const char *key_of(const struct tally_sealed *sealed, size_t row)
{
	return sealed->strings[sealed->owners[sealed->rows[row].owner].api_key];
}

static void test_adds_up_over_connections(void **state)
{
	struct tally_frozen_row rows[4] = { ledger_row(1, 1, 200, 3), ledger_row(1, 1, 200, 4),
					    ledger_row(1, 1, 404, 1), ledger_row(2, 1, 200, 5) };
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, rows, 4, &totals);
	struct tally_sealed sealed;

	(void)state;
	ledger_close(&frozen, &sealed);
	assert_int_equal(sealed.n_rows, 3);
	assert_string_equal(key_of(&sealed, 0), "key_a");
	assert_int_equal(sealed.rows[0].sums.requests, 7);
	assert_int_equal(sealed.rows[0].sums.request_bytes, 700);
	assert_int_equal(sealed.rows[0].sums.response_bytes, 7000);
	assert_int_equal(sealed.rows[0].sums.duration_ns, 10500);
	assert_int_equal(sealed.rows[0].sums.chargeable, 7);
	assert_int_equal(shape_of(&sealed, 1)->status, 404);
	assert_int_equal(sealed.rows[1].sums.chargeable, 0);
	assert_int_equal(shape_of(&sealed, 1)->reason, TALLY_REASON_CLIENT_ERROR);
	assert_string_equal(key_of(&sealed, 2), "kfp_b");
	assert_int_equal(sealed.totals.seen, 13);
	tally_sealed_done(&sealed);
}

struct window_case {
	__u64 start_s, end_s, hour_offset, want_start_s, want_end_s;
};

/* Seconds after 12:00; hour_offset counts from the hour before. */
static const struct window_case windows[] = {
	{ 0, 10, 1, 0, 10 },
	{ 3590, 3600, 1, 3590, 3600 },
	{ 3590, 3610, 1, 3590, 3600 },
	{ 3590, 3610, 2, 3600, 3610 },
	{ 3590, 3600, 2, 3600, 3601 }, /* booked while the window was being closed */
	{ 0, 10, 0, 0, 0 },	       /* an hour too early: its last second, checked below */
	{ 10, 7210, 2, 3600, 7200 },
	{ 10, 7210, 1, 10, 3600 },
};

static void test_windows_are_clipped_to_the_hour(void **state)
{
	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(windows); i++) {
		const struct window_case *w = &windows[i];
		struct tally_frozen_row row = ledger_row(1, 1, 200, 1);
		struct tally_totals totals;
		struct tally_frozen frozen = ledger_epoch(1, &row, 1, &totals);
		struct tally_sealed sealed;

		row.key.hour = (__u32)(LEDGER_START_S / 3600 - 1 + w->hour_offset);
		frozen.start_ns = (LEDGER_START_S + w->start_s) * TALLY_NS_PER_S;
		frozen.end_ns = (LEDGER_START_S + w->end_s) * TALLY_NS_PER_S;
		ledger_close(&frozen, &sealed);
		if (w->hour_offset == 0) {
			assert_int_equal(sealed.rows[0].start_s, LEDGER_START_S - 1);
			assert_int_equal(sealed.rows[0].end_s, LEDGER_START_S);
		} else {
			assert_int_equal(sealed.rows[0].start_s, LEDGER_START_S + w->want_start_s);
			assert_int_equal(sealed.rows[0].end_s, LEDGER_START_S + w->want_end_s);
		}
		tally_sealed_done(&sealed);
	}
}

/* A rotation at 12:00. */
static int rotated_owner(void *ctx, __u64 key, __u64 time_s, struct tally_owner *ret_owner)
{
	(void)ctx;
	(void)key;
	*ret_owner = (struct tally_owner){
		"cus_acme",
		time_s < LEDGER_START_S ? "key_old" : "key_new",
		TALLY_KEYREF_CATALOG,
		TALLY_MODE_LIVE,
		true,
	};
	return 0;
}

/* The window that an agent closes after having been away for hours. */
static void test_keys_are_judged_in_the_hour_of_their_row(void **state)
{
	struct tally_frozen_row rows[3] = { ledger_row(1, 1, 200, 1), ledger_row(1, 1, 200, 2),
					    ledger_row(1, 1, 200, 4) };
	static const char *const want[] = { "key_old", "key_new", "key_new" };
	struct tally_resolver resolver = ledger_resolver;
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_sealed sealed;

	(void)state;
	rows[0].key.hour--;
	rows[2].key.hour++;
	frozen = ledger_epoch(1, rows, 3, &totals);
	frozen.start_ns -= 1800 * TALLY_NS_PER_S;
	frozen.end_ns += 7200 * TALLY_NS_PER_S;
	resolver.owner = rotated_owner;
	assert_int_equal(tally_account_close(&frozen, &resolver, &sealed), 0);
	assert_int_equal(sealed.n_rows, 3);
	for (size_t i = 0; i < sealed.n_rows; i++)
		assert_string_equal(key_of(&sealed, i), want[sealed.rows[i].sums.requests / 2]);
	tally_sealed_done(&sealed);
}

static void test_what_is_charged(void **state)
{
	struct tally_frozen_row rows[6] = {
		ledger_row(1, 1, 200, 1), /* charged */
		ledger_row(3, 1, 200, 1), /* the catalog says not */
		ledger_row(1, 2, 200, 1), /* health */
		ledger_row(1, 3, 200, 5), /* two of five cut short, on a route that forgives */
		ledger_row(1, 1, 0, 1),	  /* aborted */
		ledger_row(0, 1, 200, 1), /* anonymous, the rules say billable */
	};
	static const __u64 want[] = { 1, 0, 0, 3, 0, 1 };
	__u64 seen = 0;
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_sealed sealed;

	(void)state;
	rows[3].row.incomplete = 2;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(rows); i++) {
		frozen = ledger_epoch(1, &rows[i], 1, &totals);
		ledger_close(&frozen, &sealed);
		assert_int_equal(sealed.rows[0].sums.chargeable, want[i]);
		assert_int_equal(shape_of(&sealed, 0)->billable, want[i] != 0);
		seen |= 1ULL << shape_of(&sealed, 0)->reason;
		tally_sealed_done(&sealed);
	}
	assert_int_equal(seen, 1 << TALLY_REASON_SUCCESS | 1 << TALLY_REASON_HEALTH |
				       1 << TALLY_REASON_ABORTED | 1 << TALLY_REASON_UNATTRIBUTED);
}

static void test_what_cannot_be_named_is_still_counted(void **state)
{
	struct tally_frozen_row rows[2] = { ledger_row(404, 1, 200, 3), ledger_row(1, 1, 200, 4) };
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_sealed_sums sums;
	struct tally_sealed sealed;

	(void)state;
	rows[1].key.ruleset = 99;
	frozen = ledger_epoch(1, rows, 2, &totals);
	ledger_close(&frozen, &sealed);
	tally_sealed_sum(&sealed, &sums);
	assert_int_equal(sums.requests, 7);
	assert_int_equal(sums.chargeable, 0);
	assert_int_equal(sealed.totals.unresolved, 7);
	assert_int_equal(shape_of(&sealed, 0)->attribution, TALLY_ATTR_DICTIONARY_FULL);
	assert_string_equal(key_of(&sealed, 0), "");
	assert_string_equal(sealed.strings[shape_of(&sealed, 1)->route], "_unknown");
	assert_string_equal(sealed.strings[shape_of(&sealed, 1)->service], "geo-api");
	tally_sealed_done(&sealed);
}

static void test_sums_without_a_row_become_an_overflow_record(void **state)
{
	struct tally_totals totals[2];
	struct tally_frozen frozen = ledger_epoch(1, NULL, 0, &totals[0]);
	struct tally_sealed sealed;

	(void)state;
	totals[1] = (struct tally_totals){
		.attributed = 8,
		.unattributed = { [TALLY_ATTR_ANONYMOUS] = 3 },
		.guesses_full = 4,
		.lost = { .answered = { [TALLY_ATTR_KEY] = 6, [TALLY_ATTR_ANONYMOUS] = 2 },
			  .requests = 9,
			  .request_bytes = 90 },
	};
	frozen.n_services = 2;
	ledger_close(&frozen, &sealed);
	assert_int_equal(sealed.n_rows, 1);
	assert_int_equal(sealed.rows[0].sums.requests, 9);
	assert_int_equal(sealed.rows[0].sums.request_bytes, 90);
	assert_int_equal(shape_of(&sealed, 0)->attribution, TALLY_ATTR_OVERFLOW);
	assert_int_equal(shape_of(&sealed, 0)->detail, TALLY_DETAIL_LEDGER_FULL);
	/* One of the nine was aborted: it is in neither. */
	assert_int_equal(sealed.totals.attributed, 2);
	assert_int_equal(sealed.totals.unattributed[TALLY_ATTR_ANONYMOUS], 1);
	assert_int_equal(sealed.totals.unattributed[TALLY_ATTR_OVERFLOW], 8);
	assert_int_equal(sealed.totals.gaps[TALLY_GAP_GUESSES_FULL], 4);
	tally_sealed_done(&sealed);
}

/* Near 2^64 nothing wraps: the rows stay apart. */
static void test_sums_do_not_wrap(void **state)
{
	struct tally_frozen_row rows[2] = { ledger_row(1, 1, 200, 1), ledger_row(1, 1, 200, 2) };
	struct tally_totals totals;
	struct tally_frozen frozen;
	struct tally_sealed sealed;

	(void)state;
	rows[0].row.response_bytes = ~0ULL - 5;
	frozen = ledger_epoch(1, rows, 2, &totals);
	ledger_close(&frozen, &sealed);
	assert_int_equal(sealed.n_rows, 2);
	assert_true(sealed.rows[0].sums.response_bytes == ~0ULL - 5 ||
		    sealed.rows[1].sums.response_bytes == ~0ULL - 5);
	tally_sealed_done(&sealed);
}

static void test_bad_windows_are_refused(void **state)
{
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(1, NULL, 0, &totals);
	struct tally_sealed sealed;

	(void)state;
	frozen.end_ns = frozen.start_ns;
	assert_int_equal(tally_account_close(&frozen, &ledger_resolver, &sealed), -EINVAL);
}

static void test_reasons(void **state)
{
	static const struct {
		__u16 status;
		enum tally_reason reason;
	} cases[] = { { 101, TALLY_REASON_SUCCESS },	  { 204, TALLY_REASON_SUCCESS },
		      { 304, TALLY_REASON_SUCCESS },	  { 401, TALLY_REASON_AUTH },
		      { 403, TALLY_REASON_AUTH },	  { 407, TALLY_REASON_AUTH },
		      { 429, TALLY_REASON_RATE_LIMITED }, { 400, TALLY_REASON_CLIENT_ERROR },
		      { 500, TALLY_REASON_SERVER_ERROR }, { 599, TALLY_REASON_SERVER_ERROR },
		      { 0, TALLY_REASON_ABORTED } };

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++)
		assert_int_equal(tally_account_reason(cases[i].status, TALLY_ATTR_KEY, false),
				 cases[i].reason);
	assert_int_equal(tally_account_reason(200, TALLY_ATTR_TAINTED, false),
			 TALLY_REASON_UNATTRIBUTED);
	assert_int_equal(tally_account_reason(500, TALLY_ATTR_KEY, true), TALLY_REASON_HEALTH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_adds_up_over_connections),
		cmocka_unit_test(test_windows_are_clipped_to_the_hour),
		cmocka_unit_test(test_keys_are_judged_in_the_hour_of_their_row),
		cmocka_unit_test(test_what_is_charged),
		cmocka_unit_test(test_what_cannot_be_named_is_still_counted),
		cmocka_unit_test(test_sums_without_a_row_become_an_overflow_record),
		cmocka_unit_test(test_sums_do_not_wrap),
		cmocka_unit_test(test_bad_windows_are_refused),
		cmocka_unit_test(test_reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
