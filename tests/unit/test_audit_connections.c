/* SPDX-License-Identifier: Apache-2.0 */
/* The audit of records of connections: they are all there, once, unchanged, and add up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "account/audit.h"
#include "base/util.h"
#include "libledger.h"

#define BATCHES 3
#define USAGE 2
#define CONNECTIONS 4
#define CONTROL (USAGE + CONNECTIONS)

struct books {
	struct tally_batch *batches[BATCHES];
	struct tally_audit *audit;
};

/* Key 1 on three connections, key 2 on one; `wrong` more requests on one of them than its usage record has. */
static struct tally_batch *make(__u64 n, const __u8 *prev_chain, __u64 wrong)
{
	static const struct tally_peer_cut cut = { 32, 128 };
	struct tally_batch_head head = { .agent = "9f2c71d4a0b1",
					 .incarnation = 1,
					 .number = n,
					 .seq_first = (n - 1) * USAGE + 1,
					 .recorded_s = LEDGER_START_S + n };
	struct tally_frozen_row rows[CONNECTIONS] = { ledger_row(1, 1, 200, 1 + n),
						      ledger_row(1, 1, 200, 2 + n),
						      ledger_row(1, 1, 200, 3 + n),
						      ledger_row(2, 1, 200, 1) };
	struct tally_resolver resolver = ledger_resolver;
	struct tally_batch *batch = NULL;
	struct tally_sealed sealed;
	struct tally_totals totals;
	struct tally_frozen frozen;

	resolver.connections = &cut;
	for (size_t i = 0; i < CONNECTIONS; i++) {
		rows[i].row.peer[0] = 0x20;
		rows[i].row.duration_ns += 999; /* rounded down in each record */
	}
	frozen = ledger_epoch(n, rows, CONNECTIONS, &totals);
	assert_int_equal(tally_account_close(&frozen, &resolver, &sealed), 0);
	sealed.epoch_first = sealed.epoch_last = n;
	sealed.connections[1].row.sums.requests += wrong;
	if (prev_chain)
		memcpy(head.prev_chain, prev_chain, TALLY_CHAIN);
	assert_int_equal(tally_batch_new(&head, &sealed, &batch), 0);
	assert_int_equal(tally_batch_messages(batch), CONTROL);
	return batch;
}

static int set_up(void **state)
{
	struct books *books = calloc(1, sizeof(*books));

	for (__u64 i = 0; i < BATCHES; i++)
		books->batches[i] = make(i + 1, i ? books->batches[i - 1]->chain : NULL, 0);
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

/* Message `index` of a batch. `from` in its text becomes `to`, which is as long. */
static void feed_changed(struct books *books, size_t batch, size_t index, const char *from,
			 const char *to)
{
	assert_true(!from || strlen(from) == strlen(to));
	ledger_feed(books->audit, books->batches[batch], index == CONTROL ? LEDGER_CONTROL : index,
		    from, to);
}

static void feed(struct books *books, size_t batch, size_t index)
{
	feed_changed(books, batch, index, NULL, NULL);
}

static void feed_batch(struct books *books, size_t batch)
{
	for (size_t i = 0; i <= CONTROL; i++)
		feed(books, batch, i);
}

/* But one of its messages. */
static void feed_all_but(struct books *books, size_t batch, size_t left_out)
{
	for (size_t i = 0; i <= CONTROL; i++) {
		if (i != left_out)
			feed(books, batch, i);
	}
}

/* So many of these kinds, and none of others but notes. */
static void expect(struct books *books, __u64 gaps, __u64 sums, __u64 chains)
{
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	for (int i = TALLY_FIND_DUPLICATE; i < TALLY_FIND_COUNT; i++) {
		__u64 want = i == TALLY_FIND_GAP     ? gaps
			     : i == TALLY_FIND_SUM   ? sums
			     : i == TALLY_FIND_CHAIN ? chains
						     : 0;

		if (tally_audit_count(books->audit, (enum tally_finding_kind)i) != want)
			print_error("%s\n", tally_audit_finding(books->audit, 0)->text);
		assert_int_equal(tally_audit_count(books->audit, (enum tally_finding_kind)i), want);
	}
}

static void test_right_books_in_any_order(void **state)
{
	struct books *books = *state;
	struct tally_audit_agent agent;

	feed_batch(books, 0);
	for (size_t i = CONTROL + 1; i > 0; i--)
		feed(books, 1, i - 1);
	feed(books, 2, USAGE + 1);
	feed(books, 2, CONTROL);
	feed_all_but(books, 2, USAGE + 1);
	assert_true(tally_audit_told_connections(books->audit));
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_DUPLICATE), 1); /* control */
	tally_audit_agent(books->audit, 0, &agent);
	assert_int_equal(agent.records, BATCHES * USAGE);
	assert_int_equal(agent.connections, BATCHES * CONNECTIONS);
	for (int i = TALLY_FIND_LOSS; i < TALLY_FIND_COUNT; i++)
		assert_int_equal(tally_audit_count(books->audit, (enum tally_finding_kind)i), 0);
}

static void test_missing(void **state)
{
	struct books *books = *state;

	feed_batch(books, 0);
	feed_all_but(books, 1, USAGE + 2);
	for (size_t i = 0; i < USAGE; i++)
		feed(books, 2, i);
	feed(books, 2, CONTROL); /* and none of its connections */
	expect(books, 2, 0, 0);
}

static void test_twice(void **state)
{
	struct books *books = *state;

	feed(books, 0, USAGE);
	feed(books, 0, USAGE);
	feed_all_but(books, 0, USAGE);
	feed(books, 0, USAGE + 1);
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_DUPLICATE), 2);
	feed_changed(books, 0, USAGE + 1, "\"peer\":\"2000::\"", "\"peer\":\"2001::\"");
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_CONFLICT), 1);
}

/* An address alone: every number is right, the digest knows. */
static void test_changed_address(void **state)
{
	struct books *books = *state;

	feed_all_but(books, 0, USAGE + 1);
	feed_changed(books, 0, USAGE + 1, "\"peer\":\"2000::\"", "\"peer\":\"2001::\"");
	expect(books, 0, 0, 1);
}

static void test_changed_sum(void **state)
{
	struct books *books = *state;

	feed_all_but(books, 0, USAGE + 1);
	feed_changed(books, 0, USAGE + 1, "\"requests\":3", "\"requests\":4");
	expect(books, 0, 1, 1);
}

/* Given to another customer: too few here, too many there. */
static void test_changed_customer(void **state)
{
	struct books *books = *state;

	feed_all_but(books, 0, USAGE + 1);
	feed_changed(books, 0, USAGE + 1, "\"customer_id\":\"cus_acme\"",
		     "\"customer_id\":\"cus_evil\"");
	expect(books, 0, 2, 1);
}

/* Numbers, digest and chain are those of the agent, but it adds up wrong. */
static void test_parts_that_do_not_add_up(void **state)
{
	struct books *books = *state;

	tally_batch_free(books->batches[2]);
	books->batches[2] = make(3, books->batches[1]->chain, 1);
	for (size_t i = 0; i < BATCHES; i++)
		feed_batch(books, i);
	expect(books, 0, 1, 0);
	assert_non_null(strstr(tally_audit_finding(books->audit, 0)->text, "key_a"));
	assert_non_null(strstr(tally_audit_finding(books->audit, 0)->text, "hold 15, "));
	assert_non_null(strstr(tally_audit_finding(books->audit, 0)->text, "connections 16"));
}

/* A control record that tells of other connections is not the one the chain was made of. */
static void test_changed_control_record(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < CONTROL; i++)
		feed(books, 0, i);
	feed_changed(books, 0, CONTROL, "\"connections\":{\"records\":4",
		     "\"connections\":{\"records\":3");
	assert_int_equal(tally_audit_close(books->audit, 0), 0);
	assert_true(tally_audit_count(books->audit, TALLY_FIND_CHAIN) > 0);
}

/* Their retention may be shorter; who may not read them audits the rest. */
static void test_anchor(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < USAGE; i++)
		feed(books, 0, i);
	feed(books, 0, CONTROL);
	feed_batch(books, 1);
	feed_batch(books, 2);
	expect(books, 0, 0, 0);
	assert_int_equal(tally_audit_count(books->audit, TALLY_FIND_NOTE), 1);
}

static void test_none_at_all(void **state)
{
	struct books *books = *state;

	for (size_t i = 0; i < BATCHES; i++) {
		for (size_t k = 0; k < USAGE; k++)
			feed(books, i, k);
		feed(books, i, CONTROL);
	}
	expect(books, BATCHES, 0, 0);
}

static void test_without(void **state)
{
	struct books *books = *state;

	tally_audit_without_connections(books->audit);
	feed_batch(books, 0);
	feed_all_but(books, 1, USAGE);
	expect(books, 0, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(test_right_books_in_any_order),
		TEST(test_missing),
		TEST(test_twice),
		TEST(test_changed_address),
		TEST(test_changed_sum),
		TEST(test_changed_customer),
		TEST(test_parts_that_do_not_add_up),
		TEST(test_changed_control_record),
		TEST(test_anchor),
		TEST(test_none_at_all),
		TEST(test_without),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
