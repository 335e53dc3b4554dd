/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of a capture to what the meter is told: segments that were cut, flows that are forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "replay/flows.h"

#define PORT 80
#define BEGIN_S 1000
#define FIRST 5000	  /* position of the first octet, of both sides */
#define ENOUGH (1u << 16) /* flows, and what is old is looked for */

struct fixture {
	struct tally_rules rules;
	const struct tally_rules *by_port[65536];
	struct tally_meter *meter;
	struct tally_flows *flows;
};

static void know_length(struct tally_name *name)
{
	memcpy(name->text, "content-length", 14);
	name->len = 14;
	name->role = TALLY_NAME_LENGTH;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->rules.ruleset = 1;
	f->rules.response_first = f->rules.request_first = UINT64_MAX;
	know_length(&f->rules.request[0]);
	know_length(&f->rules.response[0]);
	f->by_port[PORT] = &f->rules;
	assert_int_equal(tally_meter_new(NULL, &f->meter), 0);
	assert_int_equal(tally_flows_new(f->meter, f->by_port, &f->flows), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	tally_flows_free(f->flows);
	tally_meter_free(f->meter);
	free(f);
	return 0;
}

static struct tally_capture_packet from_client(uint32_t client, uint64_t time_s)
{
	struct tally_capture_packet p = { .time_ns = time_s * TALLY_NS_PER_S,
					  .flags = TALLY_CAPTURE_ACK,
					  .seq = FIRST,
					  .ack = FIRST };

	memcpy(p.src.addr, &client, sizeof(client));
	p.src.port = 40000;
	p.dst.port = PORT;
	return p;
}

static struct tally_capture_packet from_server(uint32_t client, uint64_t time_s)
{
	struct tally_capture_packet p = from_client(client, time_s);
	struct tally_capture_end end = p.src;

	p.src = p.dst;
	p.dst = end;
	return p;
}

static void pass(const struct fixture *f, const struct tally_capture_packet *p)
{
	assert_int_equal(tally_flows_packet(f->flows, p), 0);
}

static void connect_to(const struct fixture *f, uint32_t client, uint64_t time_s)
{
	struct tally_capture_packet syn = from_client(client, time_s),
				    answer = from_server(client, time_s);

	syn.flags = TALLY_CAPTURE_SYN;
	syn.seq = answer.seq = FIRST - 1;
	answer.flags |= TALLY_CAPTURE_SYN;
	pass(f, &syn);
	pass(f, &answer);
}

/* One segment with this payload, of which so much was captured. */
static void say(const struct fixture *f, struct tally_capture_packet p, const char *text,
		uint32_t len, uint32_t captured)
{
	p.data = (const uint8_t *)text;
	p.len = len;
	p.captured = captured;
	pass(f, &p);
}

static void answer(const struct fixture *f, uint32_t client, uint32_t taken)
{
	static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	struct tally_capture_packet p = from_server(client, BEGIN_S);

	p.ack = FIRST + taken;
	say(f, p, text, sizeof(text) - 1, sizeof(text) - 1);
}

struct cut_case {
	uint32_t head, body, captured;
	bool fin;
};

/* The meter looks at 1,024 octets at a time. */
static const struct cut_case cuts[] = {
	{ 1190, 4000, 2000, false }, { 1190, 4000, 2000, true },
	{ 1190, 4000, 1190, false }, { 1190, 4000, 1500, true },
	{ 500, 700, 900, false },    { 1190, 4000, 5190, true }, /* whole */
};

/* A head that was captured counts, wherever its segment was cut behind it. */
static void test_cut(void **state)
{
	char text[6000];

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(cuts); i++) {
		const struct cut_case *c = &cuts[i];
		struct tally_capture_packet p = from_client(1, BEGIN_S);
		const struct tally_meter_entry *row;
		uint32_t len = c->head + c->body;
		struct fixture *f;
		int n;

		if (i) {
			teardown(state);
			setup(state);
		}
		f = *state;
		memset(text, 'x', sizeof(text));
		n = snprintf(text, sizeof(text),
			     "POST / HTTP/1.1\r\nContent-Length: %u\r\nX: ", c->body);
		text[n] = 'x';
		memcpy(text + c->head - 4, "\r\n\r\n", 4);
		connect_to(f, 1, BEGIN_S);
		p.flags |= c->fin ? TALLY_CAPTURE_FIN : 0;
		say(f, p, text, len, c->captured);
		answer(f, 1, len + c->fin);
		assert_int_equal(tally_meter_rows(f->meter), 1);
		row = tally_meter_row(f->meter, 0);
		assert_int_equal(row->row.requests, 1);
		assert_int_equal(row->row.incomplete, 0);
		assert_int_equal(row->row.request_bytes, len);
	}
}

/* A packet that is older than what a flow last said: the flow is not old for that. */
static void test_late_packets_forget_nothing(void **state)
{
	static const char text[] = "GET / HTTP/1.1\r\n\r\n";
	const struct fixture *f = *state;
	const struct tally_flows_counts *counts = tally_flows_counts(f->flows);

	connect_to(f, 0, BEGIN_S);
	for (uint32_t i = 1; i <= ENOUGH; i++)
		connect_to(f, i, BEGIN_S - 1);
	say(f, from_client(0, BEGIN_S), text, sizeof(text) - 1, sizeof(text) - 1);
	assert_int_equal(counts->midstream, 0);
	assert_int_equal(counts->born, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = { TEST(test_cut),
					    TEST(test_late_packets_forget_nothing) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
