/* SPDX-License-Identifier: Apache-2.0 */
/* The audit: each way in which books can be wrong, and none where they are right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "account/audit.h"
#include "base/util.h"
#include "libledger.h"

#define BATCHES 4
#define ROWS 3

struct books {
	struct tally_batch *batches[BATCHES];
	struct tally_audit *audit;
};

/* Batch n of ROWS records, its window so much later. A second incarnation begins with it. */
static struct tally_batch *make_at(__u64 n, __u64 epoch, __u64 later_s, const __u8 *prev_chain,
				   __u32 incarnation)
{
	struct tally_batch_head head = {
		.agent = "9f2c71d4a0b1",
		.incarnation = incarnation,
		.number = n,
		.seq_first = incarnation == 1 ? (n - 1) * ROWS + 1 : 1,
		.recorded_s = LEDGER_START_S + n,
		.version = "1",
		.host = "host",
		.boot_id = "boot",
	};
	struct tally_frozen_row rows[ROWS] = { ledger_row(1, 1, 200, n), ledger_row(2, 3, 200, 2),
					       ledger_row(0, 1, 404, 3) };
	struct tally_totals totals;
	struct tally_frozen frozen = ledger_epoch(epoch, rows, ROWS, &totals);
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;

	for (size_t i = 0; i < ROWS; i++)
		rows[i].key.hour += (__u32)(later_s / 3600);
	frozen.start_ns += later_s * TALLY_NS_PER_S;
	frozen.end_ns += later_s * TALLY_NS_PER_S;
	ledger_close(&frozen, &sealed);
	if (prev_chain)
		memcpy(head.prev_chain, prev_chain, TALLY_CHAIN);
	assert_int_equal(tally_batch_new(&head, &sealed, &batch), 0);
	return batch;
}

/* The chain goes on, held too. */
static struct tally_batch *make(__u64 n, __u64 epoch, const __u8 *prev_chain)
{
	return make_at(n, epoch, 0, prev_chain, 1);
}

static int set_up(void **state)
{
	struct books *books = calloc(1, sizeof(*books));

	for (__u64 i = 0; i < BATCHES; i++)
		books->batches[i] = make(i + 1, i + 1, i ? books->batches[i - 1]->chain : NULL);
	assert_int_equal(tally_audit_new(&books->audit), 0);
	*state = books;
	return 0;
}

static int tear_down(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < BATCHES; i++)
		tally_batch_free(books->batches[i]);
	tally_audit_free(books->audit);
	free(books);
	return 0;
}

static void feed_text(struct books *books, const char *text, size_t len)
{
	assert_int_equal(tally_audit_feed(books->audit, text, len), 0);
}

/* Record `index` of a batch; ROWS is its control record. `from` in its text becomes `to`. */
static void feed_changed(struct books *books, size_t batch, size_t index, const char *from,
			 const char *to)
{
	ledger_feed(books->audit, books->batches[batch], index == ROWS ? LEDGER_CONTROL : index,
		    from, to);
}

static void feed(struct books *books, size_t batch, size_t index)
{
	feed_changed(books, batch, index, NULL, NULL);
}

static void feed_batch(struct books *books, size_t batch)
{
	for (size_t i = 0; i <= ROWS; i++)
		feed(books, batch, i);
}

/* So many of this kind, and nothing worse than a note of any other. */
static void expect(struct books *books, enum tally_finding_kind kind, __u64 n)
{
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	for (int i = TALLY_FIND_DUPLICATE; i < TALLY_FIND_COUNT; i++) {
		if (tally_audit_count(books->audit, (enum tally_finding_kind)i) !=
		    (i == (int)kind ? n : 0))
			print_error("%s\n", tally_audit_finding(books->audit, 0)->text);
		assert_int_equal(tally_audit_count(books->audit, (enum tally_finding_kind)i),
				 i == (int)kind ? n : 0);
	}
}

static void test_right_books(void **state)
{
	struct books *books = *state;
	struct tally_audit_agent agent;

	for (size_t i = 0; i < BATCHES; i++)
		feed_batch(books, i);
	expect(books, TALLY_FIND_NOTE, 0);
	tally_audit_agent(books->audit, 0, &agent);
	assert_int_equal(agent.records, BATCHES * ROWS);
	assert_int_equal(agent.requests, 1 + 2 + 3 + 4 + BATCHES * 5);
	assert_int_equal(agent.complete_until_s, LEDGER_START_S + 40);
}

static void test_order_does_not_matter(void **state)
{
	struct books *books = *state;

	for (size_t i = BATCHES; i > 0; i--) {
		for (size_t k = ROWS + 1; k > 0; k--)
			feed(books, i - 1, k - 1);
	}
	expect(books, TALLY_FIND_NOTE, 0);
}

static void test_missing_record(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	feed(books, 1, 0);
	feed(books, 1, 2);
	feed(books, 1, ROWS);
	expect(books, TALLY_FIND_GAP, 1);
}

static void test_missing_batch(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	feed_batch(books, 2);
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_GAP), 2); /* batch, and epoch */
}

static void test_duplicates(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	feed_batch(books, 0);
	feed(books, 1, 0);
	feed(books, 1, 0);
	feed(books, 1, 1);
	feed(books, 1, 2);
	feed(books, 1, ROWS);
	expect(books, TALLY_FIND_DUPLICATE, ROWS + 1 + 1);
}

static void test_one_id_two_contents(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	feed_changed(books, 0, 1, "\"requests\":2", "\"requests\":3");
	expect(books, TALLY_FIND_CONFLICT, 1);
}

/* A changed record is seen twice: in the sums, and in the chain. */
static void test_changed_record(void **state)
{
	struct books *books = *state;

	feed(books, 0, 0);
	feed_changed(books, 0, 1, "\"requests\":2", "\"requests\":1");
	feed(books, 0, 2);
	feed(books, 0, ROWS);
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_SUM), 1);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_CHAIN), 1);
}

static void test_changed_unit(void **state)
{
	struct books *books = *state;

	feed_changed(books, 0, 0, "\"credits\":\"10\"", "\"credits\":\"11\"");
	feed(books, 0, 1);
	feed(books, 0, 2);
	feed(books, 0, ROWS);
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_SUM), 1);
}

/* Only the text differs, every number is right: the chain knows. */
static void test_changed_customer(void **state)
{
	struct books *books = *state;

	feed_changed(books, 0, 0, "\"customer_id\":\"cus_acme\"", "\"customer_id\":\"cus_evil\"");
	feed(books, 0, 1);
	feed(books, 0, 2);
	feed(books, 0, ROWS);
	expect(books, TALLY_FIND_CHAIN, 1);
}

static void test_changed_control_record(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < ROWS; i++)
		feed(books, 0, i);
	feed_changed(books, 0, ROWS, "\"host\":\"host\"", "\"host\":\"h0st\"");
	expect(books, TALLY_FIND_CHAIN, 1);
}

static void test_broken_identity(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < ROWS; i++)
		feed(books, 0, i);
	feed_changed(books, 0, ROWS, "\"seen\":6", "\"seen\":7");
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_IDENTITY), 1);
}

/* A batch of the right numbers that is not chained to the one before. */
static void test_foreign_batch(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	tally_batch_free(books->batches[1]);
	books->batches[1] = make(2, 2, NULL);
	feed_batch(books, 1);
	expect(books, TALLY_FIND_CHAIN, 1);
}

/* Batch 5 says that batch n is lost, and that what was answered before end_s is in the books. */
static void feed_loss(struct books *books, __u64 n, __u64 end_s)
{
	struct tally_batch_head head = books->batches[3]->head;
	struct tally_sealed none = { .start_s = end_s, .end_s = end_s };
	struct tally_batch *lost = NULL;

	head.kind = TALLY_BATCH_LOST;
	head.number = 5;
	head.seq_first += ROWS;
	memcpy(head.prev_chain, books->batches[3]->chain, TALLY_CHAIN);
	head.loss = (struct tally_loss){ .batch = n,
					 .epoch_first = n,
					 .epoch_last = n,
					 .seq_first = (n - 1) * ROWS + 1,
					 .seq_last = n * ROWS,
					 .incarnation = 1 };
	assert_int_equal(tally_batch_new(&head, &none, &lost), 0);
	ledger_feed(books->audit, lost, LEDGER_CONTROL, NULL, NULL);
	tally_batch_free(lost);
}

static void test_declared_loss(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	feed_batch(books, 2);
	feed_batch(books, 3);
	feed_loss(books, 2, LEDGER_START_S + 40);
	expect(books, TALLY_FIND_LOSS, 1);
}

/* A declared loss cannot be complete for longer than the batch before it. If that one is missing, who knows. */
static void test_declared_loss_is_complete_too_long(void **state)
{
	struct books *books = *state;
	struct tally_audit_agent agent;

	for (size_t i = 0; i < 2; i++) {
		tally_audit_free(books->audit);
		assert_int_equal(tally_audit_new(&books->audit), 0);
		feed_batch(books, 0);
		feed_batch(books, 2);
		if (i)
			feed_batch(books, 3);
		feed_loss(books, 2, LEDGER_START_S + 41);
		assert_int_equal(tally_audit_close(books->audit, 0), 0);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_IDENTITY), i);
		tally_audit_agent(books->audit, 0, &agent);
		assert_int_equal(agent.complete_until_s, LEDGER_START_S + (i ? 40 : 30));
	}
}

/* Retention took the beginning: the oldest control record is the anchor. */
static void test_anchor(void **state)
{
	struct books *books = *state;

	feed(books, 1, 2); /* its control record is gone */
	feed_batch(books, 2);
	feed_batch(books, 3);
	expect(books, TALLY_FIND_NOTE, 0);
}

/* All control records; records of usage from batch `from` on. */
static void feed_from(struct books *books, size_t from)
{
	for (size_t i = 0; i < BATCHES; i++) {
		feed(books, i, ROWS);
		for (size_t k = 0; k < ROWS && i >= from; k++)
			feed(books, i, k);
	}
}

static void start_again(struct books *books)
{
	tally_audit_free(books->audit);
	assert_int_equal(tally_audit_new(&books->audit), 0);
}

/* Retention took the oldest records, and left their control records: another topic, other segments. */
static void test_retention_of_records(void **state)
{
	struct books *books = *state;

	feed_from(books, 2);
	expect(books, TALLY_FIND_GAP, 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), 1);
	assert_non_null(strstr(tally_audit_finding(books->audit, 0)->text,
			       "usage records of 2 batches are not here any more"));
}

static void test_hole_behind_what_retention_took(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < BATCHES; i++)
		feed(books, i, ROWS);
	for (size_t k = 0; k < ROWS; k++) {
		feed(books, 1, k);
		feed(books, 3, k);
	}
	expect(books, TALLY_FIND_GAP, 1);
	assert_non_null(strstr(tally_audit_finding(books->audit, 0)->text, "batch 3 "));
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), 1);
}

/* Who read them says until when some may be gone: of one partition more, of another less. */
static void test_retention_that_is_told(void **state)
{
	/* until when, and how many gaps: batches 1 and 2 have no record, 3 lacks one; each ends after 10 s */
	static const struct {
		__u64 until_s, gaps;
	} cases[] = { { 0, 3 },
		      { LEDGER_START_S + 9, 3 },
		      { LEDGER_START_S + 20, 1 },
		      { LEDGER_START_S + 30, 0 } };
	struct books *books = *state;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		start_again(books);
		for (size_t k = 0; k < BATCHES; k++)
			feed(books, k, ROWS);
		feed(books, 2, 1);
		feed(books, 2, 2);
		for (size_t k = 0; k < ROWS; k++)
			feed(books, 3, k);
		tally_audit_gone(books->audit, false, cases[i].until_s);
		expect(books, TALLY_FIND_GAP, cases[i].gaps);
	}
}

#define AGENT(id) "\"agent\":{\"id\":\"" id "\""

/* A batch of another agent, of the same hours as batch `like`. */
static void feed_other(struct books *books, size_t like)
{
	for (size_t k = 0; k < ROWS; k++)
		ledger_feed(books->audit, books->batches[like], k, AGENT("9f2c71d4a0b1"),
			    AGENT("000000000000"));
	ledger_feed(books->audit, books->batches[like], LEDGER_CONTROL, AGENT("9f2c71d4a0b1"),
		    AGENT("000000000000"));
}

/* Not one record of an agent is left: as old as others' that are here, they must be here, too. */
static void test_no_record_at_all(void **state)
{
	struct books *books = *state;

	feed_from(books, BATCHES);
	expect(books, TALLY_FIND_GAP, BATCHES);
	start_again(books);
	feed_from(books, BATCHES);
	feed_other(books, 2);
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_GAP), 2);
	start_again(books);
	feed_from(books, BATCHES);
	tally_audit_gone(books->audit, false, UINT64_MAX); /* the topic is empty: a week at most */
	expect(books, TALLY_FIND_GAP, 0);
}

/* A period that is closed must be there as a whole: its usage, and its control records. */
static void test_period(void **state)
{
	/* since when, and how many gaps: records are gone of batches 1 and 2, which end after 10 s each */
	static const __u64 cases[][2] = { { 0, 1 },
					  { LEDGER_START_S + 19, 1 },
					  { LEDGER_START_S + 20, 0 } };
	struct books *books = *state;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		start_again(books);
		feed_from(books, 2);
		tally_audit_since(books->audit, cases[i][0]);
		expect(books, TALLY_FIND_GAP, cases[i][1]);
	}
	for (size_t i = 0; i < 2; i++) {
		start_again(books);
		feed_batch(books, 2);
		feed_batch(books, 3);
		tally_audit_since(books->audit, LEDGER_START_S + 19 + i);
		expect(books, TALLY_FIND_GAP, !i);
	}
}

/* The first batch of all was lost and declared: no control record is missing before the oldest. */
static void test_period_behind_a_declared_loss(void **state)
{
	struct books *books = *state;

	for (size_t from = 1; from < 3; from++) {
		start_again(books);
		for (size_t i = from; i < BATCHES; i++)
			feed_batch(books, i);
		feed_loss(books, 1, LEDGER_START_S + 40);
		tally_audit_since(books->audit, LEDGER_START_S - 1000);
		assert_int_equal(tally_audit_close(books->audit, 0), 0);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_LOSS), 1);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_GAP), from - 1);
	}
}

static void test_until(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	assert_int_equal(tally_audit_expect(books->audit, "9f2c71d4a0b1"), 0);
	assert_int_equal(tally_audit_expect(books->audit, "000000000000"), 0);
	assert_int_equal(tally_audit_expect(books->audit, "short"), -EINVAL);
	assert_int_equal(tally_audit_close(books->audit, LEDGER_START_S + 10), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_BEHIND), 1);
	assert_string_equal(tally_audit_finding(books->audit, 0)->agent, "000000000000");
}

/* An agent that must be there and is not is behind, also where nobody asks how far it is. */
static void test_expected_agent_without_batch(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	assert_int_equal(tally_audit_expect(books->audit, "9f2c71d4a0b1"), 0);
	assert_int_equal(tally_audit_expect(books->audit, "000000000000"), 0);
	expect(books, TALLY_FIND_BEHIND, 1);
	assert_string_equal(tally_audit_finding(books->audit, 0)->agent, "000000000000");
}

/* No control record at all vouches for them. Of books that are written now it may be the first batch. */
static void test_records_without_control(void **state)
{
	static const __u64 live_since[] = { 0, LEDGER_START_S + 20, LEDGER_START_S + 21 };
	struct books *books = *state;

	for (size_t i = 0; i <= TALLY_ARRAY_SIZE(live_since); i++) {
		tally_audit_free(books->audit);
		assert_int_equal(tally_audit_new(&books->audit), 0);
		feed(books, 1, 0);
		feed(books, 1, 2);
		if (i < TALLY_ARRAY_SIZE(live_since))
			tally_audit_live_since(books->audit, live_since[i]);
		expect(books, TALLY_FIND_GAP, i >= 2);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), i < 2);
	}
}

/* Retention took the control records of an agent that is no more, and left one of its records. */
static void test_records_that_outlive_their_control(void **state)
{
	/* until when control records may be gone, since when the period is (0: none is), gaps; it ends at 20 s */
	static const __u64 cases[][3] = {
		{ 0, 0, 1 },
		{ LEDGER_START_S + 19, 0, 1 },
		{ LEDGER_START_S + 20, 0, 0 },
		{ UINT64_MAX, 0, 1 }, /* the topic is empty: nothing vouches for anything */
		{ LEDGER_START_S + 20, LEDGER_START_S + 20, 0 },
		{ LEDGER_START_S + 20, LEDGER_START_S + 19, 1 },
		{ 0, LEDGER_START_S + 20, 0 },
	};
	struct books *books = *state;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cases); i++) {
		start_again(books);
		feed(books, 1, 0);
		tally_audit_live_since(books->audit, LEDGER_START_S + 1000);
		tally_audit_gone_control(books->audit, cases[i][0]);
		if (cases[i][1])
			tally_audit_since(books->audit, cases[i][1]);
		expect(books, TALLY_FIND_GAP, cases[i][2]);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), !cases[i][2]);
	}
}

/* Of an agent with control records, too, records wait for theirs only for a while. */
static void test_records_that_wait_too_long(void **state)
{
	static const __u64 live_since[] = { LEDGER_START_S + 20, LEDGER_START_S + 21 };
	struct books *books = *state;

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(live_since); i++) {
		start_again(books);
		feed_batch(books, 0);
		feed(books, 1, 0);
		feed(books, 1, 2);
		tally_audit_live_since(books->audit, live_since[i]);
		expect(books, TALLY_FIND_BEHIND, i);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), !i);
	}
}

/* An incarnation ended at seq 3, the next is chained to it: what else came of the first is nobody's. */
static void test_records_past_an_incarnation(void **state)
{
	struct books *books = *state;
	struct tally_batch *next = make_at(2, 2, 0, books->batches[0]->chain, 2);

	feed_batch(books, 0);
	for (size_t i = 0; i < ROWS; i++) {
		ledger_feed(books->audit, next, i, NULL, NULL);
		feed(books, 1, i);
	}
	ledger_feed(books->audit, next, LEDGER_CONTROL, NULL, NULL);
	tally_audit_live_since(books->audit, 0);
	expect(books, TALLY_FIND_GAP, 1);
	tally_batch_free(next);
}

/* Nobody took control records for their age, and those of the records are not here. */
static void test_control_records_that_vanished(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < 3; i++) {
		start_again(books);
		tally_audit_gone_control(books->audit, i == 2 ? LEDGER_START_S : 0);
		if (i)
			feed(books, 1, 0);
		feed_batch(books, 2);
		expect(books, TALLY_FIND_GAP, i == 1);
		assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), i == 2);
	}
}

/* A state that was put back and used twice: two batches of one number, both behind batch 1. */
static void test_fork(void **state)
{
	struct books *books = *state;
	struct tally_batch *other = make_at(2, 3, 0, books->batches[0]->chain, 2);

	feed_batch(books, 0);
	feed_batch(books, 1);
	for (size_t i = 0; i < ROWS; i++)
		ledger_feed(books->audit, other, i, NULL, NULL);
	ledger_feed(books->audit, other, LEDGER_CONTROL, NULL, NULL);
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_true(tally_audit_count(books->audit, TALLY_FIND_CHAIN) > 0);
	tally_batch_free(other);
}

/* The clock was a day ahead, and was put right: what comes later says until when the books are complete. */
static void test_clock_that_was_ahead(void **state)
{
	struct books *books = *state;
	struct tally_batch *ahead = make_at(1, 1, 86400, NULL, 1);
	struct tally_batch *right = make_at(2, 2, 0, ahead->chain, 1);
	struct tally_audit_agent agent;

	for (size_t i = 0; i < ROWS; i++) {
		ledger_feed(books->audit, ahead, i, NULL, NULL);
		ledger_feed(books->audit, right, i, NULL, NULL);
	}
	ledger_feed(books->audit, ahead, LEDGER_CONTROL, NULL, NULL);
	ledger_feed(books->audit, right, LEDGER_CONTROL, NULL, NULL);
	assert_int_equal(tally_audit_expect(books->audit, "9f2c71d4a0b1"), 0);
	assert_int_equal(tally_audit_close(books->audit, LEDGER_START_S + 43200), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_BEHIND), 1);
	tally_audit_agent(books->audit, 0, &agent);
	assert_true(agent.complete_until_s < LEDGER_START_S + 43200);
	tally_batch_free(ahead);
	tally_batch_free(right);
}

/* Rules or a key's text were gone when the window was closed: usage without units is a loss. */
static void test_unresolved(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	for (size_t i = 0; i < ROWS; i++)
		feed(books, 1, i);
	feed_changed(books, 1, ROWS, "\"unresolved\":0", "\"unresolved\":5");
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_LOSS), 1);
}

static void test_what_is_no_record(void **state)
{
	struct books *books = *state;
	static const char other[] =
		"{\"type\":\"com.example.event\",\"data\":{\"agent\":{\"id\":1}}}";

	feed_batch(books, 0);
	feed_text(books, other, strlen(other));
	expect(books, TALLY_FIND_NOTE, 0);
	feed_text(books, "{\"half\":", 8);
	feed_text(books, "\xff\xfe", 2);
	feed_text(books, "[]", 2);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_UNREADABLE), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_right_books),
		TEST(test_order_does_not_matter),
		TEST(test_missing_record),
		TEST(test_missing_batch),
		TEST(test_duplicates),
		TEST(test_one_id_two_contents),
		TEST(test_changed_record),
		TEST(test_changed_unit),
		TEST(test_changed_customer),
		TEST(test_changed_control_record),
		TEST(test_broken_identity),
		TEST(test_foreign_batch),
		TEST(test_declared_loss),
		TEST(test_declared_loss_is_complete_too_long),
		TEST(test_anchor),
		TEST(test_retention_of_records),
		TEST(test_hole_behind_what_retention_took),
		TEST(test_retention_that_is_told),
		TEST(test_no_record_at_all),
		TEST(test_period),
		TEST(test_period_behind_a_declared_loss),
		TEST(test_until),
		TEST(test_expected_agent_without_batch),
		TEST(test_records_without_control),
		TEST(test_records_that_outlive_their_control),
		TEST(test_records_that_wait_too_long),
		TEST(test_records_past_an_incarnation),
		TEST(test_control_records_that_vanished),
		TEST(test_fork),
		TEST(test_clock_that_was_ahead),
		TEST(test_unresolved),
		TEST(test_what_is_no_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
