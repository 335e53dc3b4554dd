// SPDX-License-Identifier: Apache-2.0
/*
 * Plain segments (bpf/meter.h) say nothing that the long way would not: random streams of heads that repeat
 * themselves are played to two meters, one of which never remembers a head, and after each segment rows,
 * totals, what is held and what the connection will go on with are the same. TCP is as bad as it gets:
 * segments cut and joined, early, late, twice, altered, urgent; rules, keys and ledgers change in between.
 *
 * And the two directions at the same time, at the one place where the plain way asks for the other's.
 */
#include "bpf/run.h"

static struct tally_exchange *slot_asked(struct tally_conn *c, __u32 i)
{
	return conn_slot(c, i);
}

static struct tally_exchange *slot_then(struct tally_conn *c, __u32 i);

#define conn_slot slot_then
#include "user/replay/meter.c" /* the connection's state is nobody else's business */
#undef conn_slot

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/config.h"
#include "identify/rules.h"

/* What the other direction does as soon as a slot of the queue was asked for. */
static void (*meanwhile)(void);

static struct tally_exchange *slot_then(struct tally_conn *c, __u32 i)
{
	struct tally_exchange *x = slot_asked(c, i);
	void (*then)(void) = meanwhile;

	meanwhile = NULL;
	if (then)
		then();
	return x;
}

/* Rules ----------------------------------------------------------------------------------------- */

static const char *const configs[] = {
	"services: [{ name: a, match: { ports: [1] }, key: [{ header: X-Key }],"
	" routes: [{ match: \"GET /a\" }, { match: /h, auth: none }] }]\nsinks: [{ stdout: {} }]\n",
	"services: [{ name: a, match: { ports: [1] }, key: [{ header: X-Other }], tainted: owner,"
	" routes: [{ match: /b }] }]\nsinks: [{ stdout: {} }]\n",
	"services: [{ name: a, match: { ports: [1] }, tainted: owner,"
	" key: [{ response_header: X-Owner }, { header: X-Key }] }]\nsinks: [{ stdout: {} }]\n",
};

static struct tally_rules *rules[TALLY_ARRAY_SIZE(configs)];

static int rules_init(void **state)
{
	const struct tally_rules_target target = { .generation = 1, .secret = { 1, 2 } };

	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(configs); i++) {
		struct tally_config *config = NULL;
		struct tally_diag diag;

		tally_diag_init(&diag, "test");
		rules[i] = calloc(1, sizeof(*rules[i]));
		assert_non_null(rules[i]);
		if (tally_config_parse(configs[i], strlen(configs[i]), TALLY_CONFIG_NO_SECRETS,
				       &diag, &config) ||
		    tally_rules_compile(&config->services[0], &target, rules[i])) {
			tally_diag_print(&diag, stderr);
			fail();
		}
		rules[i]->ruleset = (uint32_t)i + 1;
		tally_config_free(config);
		tally_diag_done(&diag);
	}
	return 0;
}

static int rules_done(void **state)
{
	(void)state;
	for (size_t i = 0; i < TALLY_ARRAY_SIZE(configs); i++)
		free(rules[i]);
	return 0;
}

/* Two meters ------------------------------------------------------------------------------------ */

enum { PLAIN, LONG };

struct pair {
	struct tally_meter *meter[2];
	struct tally_meter_conn *conn[2];
	unsigned int plain[2]; /* segments that took the short way, by direction */
};

static void pair_init(struct pair *p, const struct tally_meter_birth *birth)
{
	const struct tally_meter_options options = { .candidates = 8, .pieces = 64 };

	for (int i = 0; i < 2; i++) {
		assert_int_equal(tally_meter_new(&options, &p->meter[i]), 0);
		assert_int_equal(tally_meter_open(p->meter[i], birth, &p->conn[i]), 0);
	}
}

static void same_books(const struct pair *p)
{
	const struct tally_meter *a = p->meter[PLAIN], *b = p->meter[LONG];

	assert_int_equal(tally_meter_rows(a), tally_meter_rows(b));
	for (size_t i = 0; i < tally_meter_rows(a); i++)
		assert_memory_equal(tally_meter_row(a, i), tally_meter_row(b, i),
				    sizeof(struct tally_meter_entry));
	assert_memory_equal(a->totals, b->totals, sizeof(a->totals));
	assert_int_equal(tally_meter_keys(a), tally_meter_keys(b));
	assert_int_equal(tally_meter_candidates(a), tally_meter_candidates(b));
}

#define SAME(member) assert_int_equal(a->member, b->member)

static void same_parser(const struct tally_h1 *a, const struct tally_h1 *b)
{
	SAME(state);
	SAME(taint);
	SAME(octets);
	SAME(blank);
	SAME(remain);
	SAME(length);
	SAME(spill_slot);
}

static void same_conn(const struct pair *p)
{
	const struct tally_conn *a = p->conn[PLAIN]->c, *b = p->conn[LONG]->c;
	struct tally_meter_held held[2];

	for (int i = 0; i < 2; i++) {
		tally_meter_held(p->meter[i], p->conn[i], &held[i]);
		same_parser(&a->way[i].h1, &b->way[i].h1);
		SAME(way[i].next);
		SAME(parked_count[i]);
		SAME(fin_seen[i]);
	}
	assert_memory_equal(&held[0], &held[1], sizeof(held[0]));
	SAME(odd);
	SAME(responding);
	SAME(on_orphan);
	SAME(in_over);
	SAME(owner_known);
	SAME(last_key);
	SAME(known_key);
	SAME(begun_ns);
	SAME(far);
	SAME(head);
	SAME(tail);
	SAME(over_head);
	SAME(over_tail);
}

static void pair_segment(struct pair *p, const struct tally_meter_segment *s)
{
	struct tally_conn *c[2] = { p->conn[PLAIN]->c, p->conn[LONG]->c };
	struct tally_h1 *h1 = &c[PLAIN]->way[s->dir].h1;

	c[LONG]->way[0].h1.recall_len = 0;
	c[LONG]->way[1].h1.recall_len = 0;
	h1->pos = h1->end = UINT32_MAX; /* the long way sets both */
	for (int i = 0; i < 2; i++)
		assert_int_equal(tally_meter_segment(p->meter[i], p->conn[i], s), 0);
	p->plain[s->dir] += h1->pos == 0 && h1->end == UINT32_MAX;
	same_books(p);
	same_conn(p);
}

static void pair_done(struct pair *p, const struct tally_meter_segment *last)
{
	for (int i = 0; i < 2; i++)
		assert_int_equal(tally_meter_close(p->meter[i], p->conn[i], last), 0);
	same_books(p);
	for (int i = 0; i < 2; i++)
		tally_meter_free(p->meter[i]);
}

/* Streams --------------------------------------------------------------------------------------- */

#define H11 " HTTP/1.1\r\nHost: a\r\n"
static const char *const requests[] = {
	"GET /a" H11 "X-Key: A\r\n\r\n",
	"GET /a" H11 "X-Key: B\r\n\r\n",
	"GET /a" H11 "X-Other: C\r\n\r\n",
	"GET /h" H11 "X-Key: D\r\n\r\n",
	"HEAD /a" H11 "X-Key: A\r\n\r\n",
	"POST /b" H11 "X-Key: A\r\nContent-Length: 40\r\n\r\n",
	"POST /b" H11 "X-Key: B\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
	"GET /b" H11 "\r\n",
	"GET /b HTTP/1.0\r\nX-Key: A\r\n\r\n",
	/* Seldom: what nothing is plain with. */
	"GET /a" H11 "X-Key:\r\n\r\n",
	"GET /a" H11 "X-Key: A\r\nX-Key: B\r\n\r\n",
	"GET /a#b" H11 "X-Key: A\r\n\r\n",
	"POST /a" H11 "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	"CONNECT a:1" H11 "X-Key: A\r\n\r\n",
	"\r\nGET /a" H11 "X-Key: A\r\n\r\n",
	"GET /a  HTTP/1.1\r\nX-Key: A\r\n\r\n",
	"GET /a" H11 "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
	"GET /a\r\n",
};
static const char *const responses[] = {
	"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 12\r\n\r\n",
	"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\n",
	"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n",
	"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n",
	/* Seldom. */
	"HTTP/1.1 100 Continue\r\n\r\n",
	"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX-Owner: E\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
	"HTTP/1.1 200 OK\r\n\r\n",
	"HTTP/1.1 205 Reset\r\n\r\n",
	"HTTP/1.1 101 Switching\r\n\r\n",
};
#define OFTEN 9 /* of both: the first ones */

#define STREAM 65536

struct stream {
	uint64_t seed;
	unsigned int wild; /* how often, of 100 times, something goes wrong */
	unsigned int lag;  /* and something is taken, or acknowledged, later */
	struct pair pair;
	char octets[2][STREAM];
	bool begins[2][STREAM]; /* a head does */
	size_t written[2], passed[2], taken, acked;
	uint32_t isn[2];
	size_t heads[2][3]; /* which ones it has, and of these the last one */
	size_t last[2];
	size_t asked;	/* octets up to the end of the last request's head */
	size_t waiting; /* requests without an answer */
	bool head_only[64];
	uint64_t now;
};

static size_t below(struct stream *s, size_t n)
{
	uint64_t z = s->seed += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (z ^ z >> 31) % n;
}

static bool chance(struct stream *s, unsigned int percent)
{
	return below(s, 100) < percent;
}

static size_t body_of(const char *head)
{
	const char *length = strstr(head, "Content-Length: ");

	return length ? strtoul(length + 16, NULL, 10) : 0;
}

static void write_octets(struct stream *s, int dir, const char *text, size_t body)
{
	size_t n = strlen(text);

	assert_true(s->written[dir] + n + body < STREAM);
	s->begins[dir][s->written[dir]] = true;
	memcpy(s->octets[dir] + s->written[dir], text, n);
	memset(s->octets[dir] + s->written[dir] + n, 'x', body);
	s->written[dir] += n + body;
}

static const char *next_head(struct stream *s, int dir)
{
	if (chance(s, 25))
		s->last[dir] = s->heads[dir][below(s, TALLY_ARRAY_SIZE(s->heads[dir]))];
	return dir ? responses[s->last[dir]] : requests[s->last[dir]];
}

static void choose_heads(struct stream *s)
{
	const size_t n[] = { TALLY_ARRAY_SIZE(requests), TALLY_ARRAY_SIZE(responses) };

	for (int dir = 0; dir < 2; dir++)
		for (size_t i = 0; i < TALLY_ARRAY_SIZE(s->heads[dir]); i++)
			s->heads[dir][i] = below(s, chance(s, 20) ? n[dir] : OFTEN);
}

static void ask(struct stream *s)
{
	const char *head = next_head(s, TALLY_IN);

	write_octets(s, TALLY_IN, head, body_of(head));
	s->asked = s->written[TALLY_IN] - body_of(head);
	if (s->waiting < TALLY_ARRAY_SIZE(s->head_only))
		s->head_only[s->waiting] = !strncmp(head, "HEAD", 4);
	s->waiting++;
}

static void answer(struct stream *s)
{
	const char *head = next_head(s, TALLY_OUT);
	int status = atoi(head + 9);
	bool bare =
		(s->waiting && s->head_only[0]) || status == 204 || status == 304 || status < 200;

	if (chance(s, 5))
		write_octets(s, TALLY_OUT, "HTTP/1.1 100 Continue\r\n\r\n", 0);
	write_octets(s, TALLY_OUT, head, chance(s, s->wild / 4) || !bare ? body_of(head) : 0);
	if (status < 200 || !s->waiting)
		return;
	s->waiting--;
	memmove(s->head_only, s->head_only + 1, sizeof(s->head_only) - 1);
}

static void deliver(struct stream *s, int dir, size_t at, size_t n, bool altered)
{
	struct tally_meter_segment segment = {
		.len = (uint32_t)n,
		.seq = s->isn[dir] + (uint32_t)at,
		.dir = (uint8_t)dir,
		.urgent = dir == TALLY_IN && chance(s, s->wild) && chance(s, 3),
		.fin = chance(s, s->wild) && chance(s, 2),
		.rcv_nxt = s->isn[TALLY_IN] + (uint32_t)s->taken,
		.snd_nxt = s->isn[TALLY_OUT] + (uint32_t)s->passed[TALLY_OUT],
		.snd_una = s->isn[TALLY_OUT] + (uint32_t)s->acked,
		.now_ns = s->now += 1000,
	};
	_cleanup_free_ char *copy = malloc(n + 1);

	assert_non_null(copy);
	memcpy(copy, s->octets[dir] + at, n);
	if (altered)
		copy[below(s, n)] ^= 1;
	segment.data = copy;
	pair_segment(&s->pair, &segment);
	if (at <= s->passed[dir] && at + n > s->passed[dir])
		s->passed[dir] = at + n;
	if (!chance(s, s->lag))
		s->taken = s->passed[TALLY_IN];
	if (!chance(s, s->lag))
		s->acked = s->passed[TALLY_OUT];
}

/* One or two segments of what was written. */
static void pass(struct stream *s, int dir)
{
	size_t at = s->passed[dir], left = s->written[dir] - at, n = left;

	if (!left)
		return;
	if (chance(s, 20)) /* to the next head only */
		for (n = 1; n < left && !s->begins[dir][at + n];)
			n++;
	if (chance(s, 15))
		n = 1 + below(s, n);
	if (chance(s, s->wild) && chance(s, 25)) { /* what comes behind comes first */
		size_t ahead = 1 + below(s, left);

		deliver(s, dir, at + ahead, left - ahead, false);
	}
	if (chance(s, s->wild) && chance(s, 10)) { /* TCP took it, and nobody saw it */
		s->passed[dir] += n;
		return;
	}
	deliver(s, dir, at, n, false);
	if (chance(s, s->wild) && chance(s, 25)) { /* again; perhaps other octets, perhaps more */
		size_t back = below(s, TALLY_MIN(at + 1, (size_t)100));

		if (chance(s, 50))
			deliver(s, dir, at, n, s->begins[dir][at] && chance(s, 30) && n < 40);
		else
			deliver(s, dir, at - back, back + below(s, n + 1), false);
	}
}

/* What is no segment. */
static void change(struct stream *s)
{
	struct pair *p = &s->pair;
	size_t what = below(s, 4), to = below(s, TALLY_ARRAY_SIZE(rules));
	char key[2] = { (char)('A' + below(s, 5)), 0 };

	for (int i = 0; i < 2; i++) {
		const __u64 secret[2] = { rules[0]->secret[0], rules[0]->secret[1] };
		struct known *k = key_find(p->meter[i], tally_key_hash(key, 1, secret));

		if (what == 0 && !conn_half_head(&p->conn[i]->c->way[TALLY_IN].h1) &&
		    !conn_half_head(&p->conn[i]->c->way[TALLY_OUT].h1))
			p->conn[i]->rules = rules[to];
		if (what == 1)
			tally_meter_swap(p->meter[i]);
		if (what == 1 || what == 2)
			p->meter[i]->env->run.epoch_number++;
		if (what == 2 && k) {
			HASH_DEL(p->meter[i]->keys, k);
			free(k->text);
			free(k);
		}
		if (what == 3)
			(void)!tally_meter_know(p->meter[i], rules[0], key, 1);
	}
}

static void play(uint64_t seed, unsigned int *plain)
{
	struct tally_meter_birth birth = { .cookie = 1 };
	_cleanup_free_ struct stream *s = calloc(1, sizeof(*s));
	struct tally_meter_segment last = { 0 };
	unsigned int pipelined;

	assert_non_null(s);
	s->seed = seed;
	s->wild = (unsigned int)(seed % 4) * 7;
	s->lag = s->wild && chance(s, 30) ? 50 : s->wild / 2;
	s->now = 1000000;
	choose_heads(s);
	pipelined = chance(s, 15) ? 50 : 0;
	s->isn[0] = birth.next_in = (uint32_t)below(s, UINT32_MAX) | below(s, 2) << 31;
	s->isn[1] = birth.next_out = (uint32_t)below(s, UINT32_MAX);
	birth.rules = rules[below(s, TALLY_ARRAY_SIZE(rules))];
	birth.midstream = chance(s, s->wild);
	pair_init(&s->pair, &birth);
	for (int i = 0; i < 2; i++)
		s->pair.meter[i]->env->run.epoch_number = 1;
	for (unsigned int i = 0; i < 60; i++) {
		if (!s->waiting || chance(s, pipelined))
			ask(s);
		if (chance(s, 90))
			pass(s, TALLY_IN);
		/* Before its head has come an answer to it is one more thing gone wrong. */
		if ((s->waiting || chance(s, s->wild / 4)) &&
		    (!chance(s, pipelined) || chance(s, 50)) &&
		    (s->passed[TALLY_IN] >= s->asked || chance(s, s->wild / 4)))
			answer(s);
		if (chance(s, 90))
			pass(s, TALLY_OUT);
		if (chance(s, 6))
			change(s);
		if (chance(s, 4))
			pipelined = 95 - pipelined;
	}
	last.rcv_nxt = s->isn[0] + (uint32_t)s->taken;
	last.snd_nxt = last.snd_una = s->isn[1] + (uint32_t)s->passed[1];
	last.now_ns = s->now;
	pair_done(&s->pair, &last);
	plain[0] += s->pair.plain[0];
	plain[1] += s->pair.plain[1];
}

#ifndef STREAMS
#define STREAMS 2000
#endif

static void test_as_the_long_way(void **state)
{
	unsigned int plain[2] = { 0 };

	(void)state;
	for (uint64_t seed = 0; seed < STREAMS; seed++)
		play(seed, plain);
	/* Else it says nothing. */
	printf("plain: %u requests, %u responses\n", plain[0], plain[1]);
	assert_true(plain[0] > 3 * STREAMS && plain[1] > 3 * STREAMS);
}

/* Both directions at once ----------------------------------------------------------------------- */

static struct {
	struct tally_meter *cpu[2]; /* by direction */
	struct tally_meter_conn *conn;
	uint32_t next[2];
} both;

static void both_pass(int dir, const char *text)
{
	const struct tally_meter_segment segment = {
		.data = text,
		.len = (uint32_t)strlen(text),
		.seq = both.next[dir],
		.dir = (uint8_t)dir,
		.rcv_nxt = both.next[TALLY_IN],
		.snd_nxt = both.next[TALLY_OUT],
		.snd_una = both.next[TALLY_OUT],
		.now_ns = 1,
	};

	assert_int_equal(tally_meter_segment(both.cpu[dir], both.conn, &segment), 0);
	both.next[dir] += segment.len;
}

static void another_asks(void)
{
	both_pass(TALLY_IN, requests[1]);
}

/* An answer to nothing, and at the same time a request: the one answered before is not charged again. */
static void test_slot_of_no_request(void **state)
{
	const struct tally_meter_birth birth = { .rules = rules[0], .cookie = 1 };
	struct tally_meter_segment last = { 0 };

	(void)state;
	memset(&both, 0, sizeof(both));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(tally_meter_new(NULL, &both.cpu[i]), 0);
		assert_int_equal(tally_meter_know(both.cpu[i], rules[0], "A", 1), 0);
		assert_int_equal(tally_meter_know(both.cpu[i], rules[0], "B", 1), 0);
	}
	assert_int_equal(tally_meter_open(both.cpu[TALLY_OUT], &birth, &both.conn), 0);
	/* So many that the next slot is one that was used. */
	for (int i = 0; i < TALLY_PIPELINE; i++) {
		both_pass(TALLY_IN, requests[0]);
		both_pass(TALLY_OUT, responses[0]);
	}
	assert_int_equal(tally_meter_row(both.cpu[TALLY_OUT], 0)->row.requests, TALLY_PIPELINE);
	meanwhile = another_asks;
	both_pass(TALLY_OUT, responses[0]);
	meanwhile = NULL;
	assert_int_equal(tally_meter_row(both.cpu[TALLY_OUT], 0)->row.requests, TALLY_PIPELINE);
	last.rcv_nxt = both.next[TALLY_IN];
	assert_int_equal(tally_meter_close(both.cpu[TALLY_OUT], both.conn, &last), 0);
	for (int i = 0; i < 2; i++)
		tally_meter_free(both.cpu[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_as_the_long_way),
		cmocka_unit_test(test_slot_of_no_request),
	};

	return cmocka_run_group_tests(tests, rules_init, rules_done);
}
