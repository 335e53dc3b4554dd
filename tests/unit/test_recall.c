// SPDX-License-Identifier: Apache-2.0
/*
 * Heads that repeat themselves are recalled, and not only with the right outcome (tests/vectors/repeats.http
 * shows that): the way is taken, is left after some misses, and is found again. Looks into the connection.
 */
#include "user/replay/meter.c" /* the connection's state is nobody else's business */

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static const char *const request = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

struct fixture {
	struct tally_rules rules;
	struct tally_meter *meter;
	struct tally_meter_conn *conn;
	uint32_t next[2];
};

static void fixture_init(struct fixture *f)
{
	const struct tally_meter_options options = { 0 };
	struct tally_meter_birth birth = { .rules = &f->rules, .cookie = 1 };

	memset(f, 0, sizeof(*f));
	f->rules.ruleset = 1;
	memcpy(f->rules.response[0].text, "content-length", 14);
	f->rules.response[0].len = 14;
	f->rules.response[0].role = TALLY_NAME_LENGTH;
	f->rules.response_first = f->rules.request_first = UINT64_MAX;
	birth.next_in = birth.next_out = f->next[0] = f->next[1] = 1000;
	assert_int_equal(tally_meter_new(&options, &f->meter), 0);
	assert_int_equal(tally_meter_open(f->meter, &birth, &f->conn), 0);
}

static void fixture_done(struct fixture *f)
{
	const struct tally_meter_segment last = { .rcv_nxt = f->next[0],
						  .snd_nxt = f->next[1],
						  .snd_una = f->next[1] };

	assert_int_equal(tally_meter_close(f->meter, f->conn, &last), 0);
	tally_meter_free(f->meter);
}

/* One segment. Returns whether its head was recalled: the cursor was not moved over it. */
static bool pass(struct fixture *f, uint8_t dir, const char *text)
{
	struct tally_h1 *p = &f->conn->c->way[dir].h1;
	const struct tally_meter_segment segment = {
		.data = text,
		.len = (uint32_t)strlen(text),
		.seq = f->next[dir],
		.dir = dir,
		.rcv_nxt = f->next[0],
		.snd_nxt = f->next[1],
		.snd_una = f->next[1],
		.now_ns = 1,
	};

	p->pos = UINT32_MAX;
	assert_int_equal(tally_meter_segment(f->meter, f->conn, &segment), 0);
	f->next[dir] += segment.len;
	return p->pos == 0;
}

static bool answer(struct fixture *f, unsigned int n)
{
	char text[128];

	(void)pass(f, TALLY_METER_IN, request);
	snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nX-N: %u\r\nContent-Length: 0\r\n\r\n", n);
	return pass(f, TALLY_METER_OUT, text);
}

static void test_recalled(void **state)
{
	struct fixture f;

	fixture_init(&f);
	assert_false(pass(&f, TALLY_METER_IN, request));
	assert_false(pass(&f, TALLY_METER_OUT, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
	assert_true(pass(&f, TALLY_METER_IN, request));
	assert_true(pass(&f, TALLY_METER_OUT, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
	f.rules.ruleset = 2; /* what it meant may be another thing now */
	assert_false(pass(&f, TALLY_METER_IN, request));
	assert_false(pass(&f, TALLY_METER_OUT, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
	fixture_done(&f);
}

static void test_found_again(void **state)
{
	unsigned int recalled = 0;
	struct fixture f;

	fixture_init(&f);
	for (unsigned int i = 0; i < 40; i++)
		assert_false(answer(&f, i));
	for (unsigned int i = 0; i < 40; i++)
		recalled += answer(&f, 1000);
	/* The next turn comes within 16 responses; from then on all. */
	assert_true(recalled >= 40 - RECALL_TURNS - 1);
	fixture_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_recalled),
		cmocka_unit_test(test_found_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
