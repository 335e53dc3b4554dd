/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes while another processor is in the middle of a segment of the same connection, for longer than can
 * be waited for: a virtual processor may not run for milliseconds. Nothing is booked without the locks; who
 * holds one closes a connection that ended meanwhile behind its segment, and knows of octets that no place was
 * left for. The lock is held by hand here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <bpf/bpf.h>

#include "bpf/meter_types.h"
#include "tests/kernel/libprograms.h"
#include "tests/kernel/vectors.skel.h"
#include "tests/vectors/libplay.h"

#define REQUEST "GET /v1/items HTTP/1.1\r\nX-API-Key: A\r\n\r\n"
#define DECOY "GET /v1/items HTTP/1.1\r\nX-API-Key: B\r\n\r\n" /* as long */
#define RESPONSE "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
#define IN_FROM 1000u
#define OUT_FROM 5000u

static struct {
	struct programs p;
	uint32_t in, out;
	uint64_t key_a, key_b;
} k;

static struct tally_conn *conn_read(void)
{
	struct tally_conn *c = test_calloc(1, sizeof(*c));
	uint32_t zero = 0;

	if (bpf_map_lookup_elem(bpf_map__fd(k.p.skel->maps.vectors_conn), &zero, c))
		programs_die("connection");
	return c;
}

static void conn_write(struct tally_conn *c)
{
	programs_put(k.p.skel->maps.vectors_conn, c);
	test_free(c);
}

static void hold(uint32_t dir, uint32_t held)
{
	struct tally_conn *c = conn_read();

	c->way[dir].lock = held;
	conn_write(c);
}

static struct vectors_segment told(uint32_t seq, uint32_t len)
{
	return (struct vectors_segment){
		.seq = seq, .len = len, .rcv_nxt = k.in, .snd_nxt = k.out, .snd_una = k.out
	};
}

static void client(const char *text)
{
	const struct vectors_segment v = told(k.in, (uint32_t)strlen(text));

	programs_run(k.p.skel->progs.vectors_in, &v, text, v.len);
	k.in += v.len;
}

static void server(const char *text)
{
	const struct vectors_segment v = told(k.out, (uint32_t)strlen(text));

	programs_run(k.p.skel->progs.vectors_out, &v, text, v.len);
	k.out += v.len;
}

static void end(void)
{
	const struct vectors_segment v = told(k.in, 0);

	programs_run(k.p.skel->progs.vectors_close, &v, NULL, 0);
}

/* No server has asked for anything yet. */
static void born(void)
{
	struct tally_conn *c = test_calloc(1, sizeof(*c));

	k.in = IN_FROM;
	k.out = OUT_FROM;
	tally_conn_born(c, k.in, k.out);
	c->cookie = 1;
	c->resolved = 1;
	conn_write(c);
}

static void begin(void)
{
	born();
	client(REQUEST);
}

/* How far the end has come. */
static void assert_end(uint32_t ended, uint8_t closed)
{
	struct tally_conn *c = conn_read();

	assert_int_equal(c->ended, ended);
	assert_int_equal(c->closed, closed);
	test_free(c);
}

static struct tally_totals totals(void)
{
	struct tally_totals t;

	programs_totals(&k.p, &t);
	return t;
}

/* The holder answers the request; that exchange is booked once, and none as aborted. */
static void test_holder_closes(void **state)
{
	for (uint32_t dir = TALLY_IN; dir <= TALLY_OUT; dir++) {
		struct tally_totals before = totals(), t;

		begin();
		hold(dir, 1);
		end();
		assert_end(1, 0);
		t = totals();
		assert_int_equal(t.aborted, before.aborted);
		hold(dir, 0);
		server(RESPONSE);
		assert_end(1, 1);
		t = totals();
		assert_int_equal(t.seen, before.seen + 1);
		assert_int_equal(t.aborted, before.aborted);
		assert_int_equal(t.held_enter, t.held_leave);
	}
}

/* The holder reads half a head: the request before it had no answer, and the half is nobody's. */
static void test_holder_reads_on(void **state)
{
	struct tally_totals before = totals(), t;

	begin();
	hold(TALLY_OUT, 1);
	end();
	assert_end(1, 0);
	hold(TALLY_OUT, 0);
	client("GET /v1");
	assert_end(1, 1);
	t = totals();
	assert_int_equal(t.aborted, before.aborted + 1);
	assert_int_equal(t.unparsed_bytes[TALLY_IN][TALLY_UNPARSED_PARTIAL_HEAD],
			 before.unparsed_bytes[TALLY_IN][TALLY_UNPARSED_PARTIAL_HEAD] + 7);
}

/* Where nobody holds a lock the end comes at once, and only once. */
static void test_nobody_holds(void **state)
{
	struct tally_totals before = totals(), t;

	begin();
	end();
	end();
	assert_end(0, 1);
	t = totals();
	assert_int_equal(t.aborted, before.aborted + 1);
}

/* All places for early octets are in use, or none is. */
static void fill_places(uint32_t slot)
{
	struct tally_conn *c = conn_read();

	for (int i = 0; i < TALLY_PARK_PIECES; i++)
		c->parked[TALLY_IN][i] = slot;
	conn_write(c);
}

/* The client's octets come while the lock is held, and there is no place for them. TCP takes them. */
static void client_unkept(const char *text)
{
	hold(TALLY_IN, 1);
	fill_places(TALLY_PARK_POOL);
	client(text);
	hold(TALLY_IN, 0);
	fill_places(0);
}

static enum tally_detail taint(void)
{
	struct tally_conn *c = conn_read();
	enum tally_detail detail = c->taint;

	test_free(c);
	return detail;
}

struct requests {
	uint64_t key, n;
};

static void add_requests(const struct tally_row_key *key, const struct tally_row *row, void *ctx)
{
	struct requests *of = ctx;

	of->n += key->key == of->key ? row->requests : 0;
}

static uint64_t requests_of(uint64_t key)
{
	struct requests of = { .key = key };

	programs_rows(&k.p, add_requests, &of);
	return of.n;
}

/* A request that TCP refused was read; another one that it takes in its place can be compared with nothing. */
static void test_head_without_place(void **state)
{
	uint64_t before = requests_of(k.key_b);
	struct vectors_segment decoy;

	born();
	decoy = told(k.in, (uint32_t)strlen(DECOY));
	programs_run(k.p.skel->progs.vectors_in, &decoy, DECOY, decoy.len);
	client_unkept(REQUEST);
	server(RESPONSE);
	client(REQUEST);
	assert_int_equal(taint(), TALLY_DETAIL_GAP);
	server(RESPONSE);
	assert_int_equal(requests_of(k.key_b), before);
}

/* The octets of a body are read by nobody: the connection is what it was, and so is the next request. */
static void test_body_without_place(void **state)
{
	struct tally_totals before = totals(), t;
	uint64_t keyed = requests_of(k.key_a);

	born();
	client("POST /v1/items HTTP/1.1\r\nX-API-Key: A\r\nContent-Length: 20\r\n\r\n");
	client_unkept("GET /x HTT");
	client("P/1.1\r\n123");
	server(RESPONSE);
	client(REQUEST);
	server(RESPONSE);
	assert_int_equal(taint(), 0);
	assert_int_equal(requests_of(k.key_a), keyed + 2);
	t = totals();
	assert_int_equal(t.gaps[TALLY_GAP_PARK_FULL], before.gaps[TALLY_GAP_PARK_FULL] + 1);
}

/* Two such stretches, before anybody has the lock again: in the body both, or the second one beyond it. */
static void test_two_without_place(void **state)
{
	static const char *const second[] = { "56789", "56789GET" };

	for (int i = 0; i < 2; i++) {
		born();
		client("POST /v1/items HTTP/1.1\r\nX-API-Key: A\r\nContent-Length: 11\r\n\r\n");
		client_unkept("01234");
		client_unkept(second[i]);
		client("+");
		assert_int_equal(taint(), i ? TALLY_DETAIL_GAP : 0);
	}
}

/* What TCP has already, and comes again, it does not take again. */
static void test_again_without_place(void **state)
{
	begin();
	server(RESPONSE);
	hold(TALLY_IN, 1);
	fill_places(TALLY_PARK_POOL);
	{
		const struct vectors_segment again = { .seq = IN_FROM,
						       .len = (uint32_t)strlen(REQUEST),
						       .rcv_nxt = k.in,
						       .snd_nxt = k.out,
						       .snd_una = k.out };

		programs_run(k.p.skel->progs.vectors_in, &again, REQUEST, again.len);
	}
	hold(TALLY_IN, 0);
	fill_places(0);
	client(REQUEST);
	server(RESPONSE);
	assert_int_equal(taint(), 0);
}

static int setup(void **state)
{
	const struct vector_rules *rules = vector_rules("tests/vectors", "default");

	programs_load(&k.p);
	programs_put(k.p.skel->maps.rulesets, rules->rules);
	k.key_a = programs_know(&k.p, rules->rules, "A");
	k.key_b = programs_know(&k.p, rules->rules, "B");
	return 0;
}

static int teardown(void **state)
{
	programs_unload(&k.p);
	vector_rules_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_holder_closes),
		cmocka_unit_test(test_holder_reads_on),
		cmocka_unit_test(test_nobody_holds),
		cmocka_unit_test(test_head_without_place),
		cmocka_unit_test(test_body_without_place),
		cmocka_unit_test(test_two_without_place),
		cmocka_unit_test(test_again_without_place),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
