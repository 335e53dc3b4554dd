/* SPDX-License-Identifier: Apache-2.0 */
/* When a window is to be closed, whatever the clock did. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/util.h"
#include "collect/clock.h"

#define SECOND TALLY_NS_PER_S
#define HOUR (3600 * SECOND)
#define WINDOW (10 * SECOND)
#define NOON (496884 * HOUR) /* of some day */

static void expect(uint64_t start, uint64_t now, uint64_t end, uint64_t next,
		   enum tally_close_cause cause)
{
	struct tally_clock_close due = {};

	assert_true(tally_clock_due(start, now, WINDOW, &due));
	assert_int_equal(due.end_ns, end);
	assert_int_equal(due.next_ns, next);
	assert_int_equal(due.cause, cause);
}

static void expect_open(uint64_t start, uint64_t now)
{
	struct tally_clock_close due = {};

	assert_false(tally_clock_due(start, now, WINDOW, &due));
}

static void test_last_boundary(void **state)
{
	(void)state;
	expect_open(NOON, NOON + WINDOW - 1);
	expect(NOON, NOON + WINDOW, NOON + WINDOW, NOON + WINDOW, TALLY_CAUSE_INTERVAL);
	expect(NOON + 3 * SECOND, NOON + WINDOW + 7, NOON + WINDOW, NOON + WINDOW,
	       TALLY_CAUSE_INTERVAL);
	/* what could not be closed for an hour is one window */
	expect(NOON, NOON + HOUR + 7 * SECOND, NOON + HOUR, NOON + HOUR, TALLY_CAUSE_INTERVAL);
}

/* A reload closes at the next second, and ten of them within one second are ten seconds ahead. */
static void test_closed_at_once(void **state)
{
	(void)state;
	expect_open(NOON + SECOND, NOON + SECOND / 2);
	expect_open(NOON + WINDOW, NOON);
}

/*
 * The clock went back, and the close that belonged to it failed: the programs' clock has followed already,
 * so that nothing else tells of the step any more.
 */
static void test_clock_went_back(void **state)
{
	(void)state;
	expect(NOON + HOUR, NOON + SECOND / 2, NOON + HOUR + SECOND, NOON, TALLY_CAUSE_CLOCK);
	expect(NOON + HOUR + SECOND / 2, NOON + 3 * SECOND + 1, NOON + HOUR + SECOND,
	       NOON + 3 * SECOND, TALLY_CAUSE_CLOCK);
	/* what comes next is an ordinary window */
	expect(NOON + 3 * SECOND, NOON + WINDOW, NOON + WINDOW, NOON + WINDOW,
	       TALLY_CAUSE_INTERVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_last_boundary),
		cmocka_unit_test(test_closed_at_once),
		cmocka_unit_test(test_clock_went_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
