/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection, and its two directions at once on two processors, through the programs' own code: answers
 * are sent as soon as a request's head is taken, while its body and the next requests are still being read
 * and pushed. Then the same with request segments that come on two processors at once, so that the lock is
 * taken, and segments are early. Every request is its key's, every octet is counted once.
 *
 *	race [-s SEED] [-n REQUESTS]	SEED: also TALLYD_SEED
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "bpf/meter_types.h"
#include "tests/kernel/libprograms.h"
#include "tests/kernel/vectors.skel.h"
#include "tests/vectors/libplay.h"

#define REQUESTS 20000
#define KEYS 3
#define AHEAD 12 /* requests without an answer: fewer than the queue holds */
#define IN_FROM 0xfff00000u
#define OUT_FROM 0x7ffff000u
#define BODY_MAX 700
#define FIN 1 /* as in the header of TCP */

static struct {
	struct programs p;
	const struct vector_rules *rules;
	uint64_t hash[KEYS];
	uint64_t seed;
	unsigned long n;
	bool pairs; /* two request segments at once */
	_Atomic unsigned long asked, answered;
	_Atomic uint32_t in, out; /* stream positions that TCP has */
	uint64_t request_bytes[KEYS], response_bytes[KEYS];
} r;

struct segment {
	uint32_t seq, len, rcv_nxt;
	const char *data;
};

static void run_in(const struct segment *s)
{
	const struct vectors_segment told = { .seq = s->seq,
					      .len = s->len,
					      .rcv_nxt = s->rcv_nxt,
					      .snd_nxt = r.out,
					      .snd_una = r.out };

	programs_run(r.p.skel->progs.vectors_in, &told, s->data, s->len);
}

/* Two segments at once: the other one's thread --------------------------------------------------- */

static struct {
	_Atomic(const struct segment *) work;
	_Atomic bool begun, over;
} helper;

static void *help(void *unused)
{
	while (!helper.over) {
		const struct segment *s = helper.work;

		if (!s) {
			(void)sched_yield();
			continue;
		}
		helper.begun = true;
		run_in(s);
		helper.work = NULL;
	}
	return unused;
}

static void run_both(const struct segment *mine, const struct segment *other)
{
	helper.begun = false;
	helper.work = other;
	while (!helper.begun)
		(void)sched_yield();
	run_in(mine);
	while (helper.work)
		(void)sched_yield();
}

/* The client ------------------------------------------------------------------------------------ */

static size_t request_text(unsigned long i, char *text)
{
	unsigned int body = (unsigned int)(i * 37 % BODY_MAX);
	int n = sprintf(
		text, "POST /v1/items HTTP/1.1\r\nX-API-Key: key-%c\r\nContent-Length: %u\r\n\r\n",
		(char)('a' + i % KEYS), body);

	memset(text + n, 'b', body);
	return (size_t)n + body;
}

/*
 * Who holds the lock may not run for a while (a thread, or a virtual processor, that is preempted); segments
 * wait meanwhile, and there is room for so many of them. More would be a gap, and an answer that cannot wait
 * for them a taint: no matter of this test. Returns when no more than that wait, or nobody holds the lock.
 */
static void wait_for_holder(uint32_t most)
{
	static struct tally_conn c;
	uint32_t zero = 0;

	do {
		if (bpf_map_lookup_elem(bpf_map__fd(r.p.skel->maps.vectors_conn), &zero, &c))
			programs_die("connection");
	} while (c.parked_count[TALLY_IN] > most && c.way[TALLY_IN].lock && !sched_yield());
}

/* Cut in up to four, at the seed's places; the head is complete with the first that reaches its end. */
static void ask(unsigned long i, uint64_t *seed)
{
	char text[BODY_MAX + 128];
	uint32_t len = (uint32_t)request_text(i, text), head, at = 0;

	head = (uint32_t)(strstr(text, "\r\n\r\n") + 4 - text);
	wait_for_holder(TALLY_PARK_PIECES / 2);
	while (at < len) {
		uint32_t n = 1 + (uint32_t)(play_random(seed) % (len - at));
		uint32_t more = r.pairs && at + n < len
					? 1 + (uint32_t)(play_random(seed) % (len - at - n))
					: 0;
		struct segment one = { r.in, n, r.in, text + at };
		struct segment two = { r.in + n, more, r.in, text + at + n };

		if (more)
			run_both(i & 1 ? &one : &two, i & 1 ? &two : &one);
		else
			run_in(&one);
		at += n + more;
		r.in += n + more;
		if (at >= head && r.asked == i)
			r.asked = i + 1;
	}
	r.request_bytes[i % KEYS] += len;
}

static void *client(void *unused)
{
	uint64_t seed = r.seed;

	for (unsigned long i = 0; i < r.n; i++) {
		while (r.answered + AHEAD <= i)
			(void)sched_yield();
		ask(i, &seed);
	}
	helper.over = true;
	return unused;
}

/* The server ------------------------------------------------------------------------------------ */

static void run_out(const char *data, uint32_t len)
{
	const struct vectors_segment told = {
		.seq = r.out, .len = len, .rcv_nxt = r.in, .snd_nxt = r.out, .snd_una = r.out
	};

	wait_for_holder(0);
	programs_run(r.p.skel->progs.vectors_out, &told, data, len);
	r.out += len;
}

static void *server(void *unused)
{
	uint64_t seed = ~r.seed;

	for (unsigned long i = 0; i < r.n; i++) {
		unsigned int body = (unsigned int)(i * 53 % BODY_MAX);
		char text[BODY_MAX + 128];
		uint32_t len = (uint32_t)sprintf(
			text, "HTTP/1.1 200 OK\r\nContent-Length: %u\r\n\r\n", body);
		uint32_t cut;

		memset(text + len, 'c', body);
		len += body;
		cut = (uint32_t)(play_random(&seed) % len);
		while (r.asked <= i)
			(void)sched_yield();
		if (cut)
			run_out(text, cut);
		run_out(text + cut, len - cut);
		r.response_bytes[i % KEYS] += len;
		r.answered = i + 1;
	}
	return unused;
}

/* ----------------------------------------------------------------------------------------------- */

static void begin(void)
{
	struct tally_conn *c = calloc(1, sizeof(*c));
	char text[] = "key-a";

	if (!c)
		abort();
	tally_conn_born(c, IN_FROM, OUT_FROM);
	c->cookie = r.pairs ? 2 : 1;
	c->resolved = 1;
	programs_put(r.p.skel->maps.vectors_conn, c);
	free(c);
	for (int i = 0; i < KEYS; i++, text[4]++)
		r.hash[i] = programs_know(&r.p, r.rules->rules, text);
	memset(r.request_bytes, 0, sizeof(r.request_bytes));
	memset(r.response_bytes, 0, sizeof(r.response_bytes));
	r.asked = r.answered = 0;
	r.in = IN_FROM;
	r.out = OUT_FROM;
	helper.over = false;
}

static void play_connection(void)
{
	const struct vectors_segment none = { .rcv_nxt = r.in, .snd_nxt = r.out };
	struct vectors_segment last = none, fin = { .flags = FIN };
	pthread_t threads[3];

	if (pthread_create(&threads[0], NULL, client, NULL) ||
	    pthread_create(&threads[1], NULL, server, NULL) ||
	    pthread_create(&threads[2], NULL, help, NULL))
		programs_die("thread");
	for (int i = 0; i < 3; i++)
		(void)pthread_join(threads[i], NULL); /* they end by themselves */
	/* What came while the lock was taken waits for the next segment: the FIN, at the latest. */
	fin.seq = fin.rcv_nxt = r.in;
	fin.snd_nxt = fin.snd_una = r.out;
	programs_run(r.p.skel->progs.vectors_in, &fin, NULL, 0);
	last.rcv_nxt = r.in;
	last.snd_nxt = last.snd_una = r.out;
	programs_run(r.p.skel->progs.vectors_close, &last, NULL, 0);
}

static unsigned int expect(const char *what, uint64_t expected, uint64_t found)
{
	if (expected != found)
		printf("FAIL %s%s: expected %ju, found %ju\n", what, r.pairs ? ", pairs" : "",
		       (uintmax_t)expected, (uintmax_t)found);
	return expected != found;
}

/* Of each key; the last one: of none of them. */
struct sums {
	struct tally_row of[KEYS + 1];
};

static void add_row(const struct tally_row_key *key, const struct tally_row *row, void *ctx)
{
	struct sums *sums = ctx;
	int i = 0;

	if (key->conn != (r.pairs ? 2 : 1))
		return;
	while (i < KEYS && r.hash[i] != key->key)
		i++;
	if (i == KEYS)
		printf("attribution %u detail %u: %llu requests\n", key->attribution, key->detail,
		       row->requests);
	sums->of[i].requests += row->requests;
	sums->of[i].request_bytes += row->request_bytes;
	sums->of[i].response_bytes += row->response_bytes;
}

/* The rows of this connection against what was sent. Returns how many things are wrong. */
static unsigned int check_rows(void)
{
	struct sums sums = { 0 };
	unsigned int bad = 0;

	programs_rows(&r.p, add_row, &sums);
	for (unsigned int i = 0; i < KEYS; i++) {
		bad += expect("requests of a key", (r.n + KEYS - 1 - i) / KEYS,
			      sums.of[i].requests);
		bad += expect("request octets of a key", r.request_bytes[i],
			      sums.of[i].request_bytes);
		bad += expect("response octets of a key", r.response_bytes[i],
			      sums.of[i].response_bytes);
	}
	bad += expect("requests of no key", 0, sums.of[KEYS].requests);
	bad += expect("request octets of no key", 0, sums.of[KEYS].request_bytes);
	bad += expect("response octets of no key", 0, sums.of[KEYS].response_bytes);
	return bad;
}

static bool race(void)
{
	struct tally_totals before, t;
	unsigned int bad;

	programs_totals(&r.p, &before);
	begin();
	play_connection();
	programs_totals(&r.p, &t);
	bad = check_rows();
	bad += expect("answers seen", r.n, t.seen - before.seen);
	bad += expect("held at the end", t.held_enter, t.held_leave);
	bad += expect("segments without room", 0,
		      t.gaps[TALLY_GAP_PARK_FULL] - before.gaps[TALLY_GAP_PARK_FULL]);
	printf("%s: %lu requests; waited for the lock %llu times, parked %llu\n",
	       r.pairs ? "two request segments at once" : "both directions at once", r.n,
	       t.gaps[TALLY_GAP_LOCK_BUSY] - before.gaps[TALLY_GAP_LOCK_BUSY],
	       t.gaps[TALLY_GAP_PARKED] - before.gaps[TALLY_GAP_PARKED]);
	return !bad;
}

int main(int argc, char **argv)
{
	const char *seed = getenv("TALLYD_SEED");
	unsigned int passed = 0;
	uint64_t n = REQUESTS;
	int c;

	r.seed = (uint64_t)time(NULL);
	if (seed && tally_util_parse_u64(seed, UINT64_MAX, &r.seed))
		return 64;
	while ((c = getopt(argc, argv, "s:n:")) != -1)
		if ((c == 's' && tally_util_parse_u64(optarg, UINT64_MAX, &r.seed)) ||
		    (c == 'n' && tally_util_parse_u64(optarg, 10000000, &n)) || c == '?')
			return 64;
	r.n = n;
	printf("seed %ju\n", (uintmax_t)r.seed);
	r.rules = vector_rules("tests/vectors", "default");
	programs_load(&r.p);
	programs_put(r.p.skel->maps.rulesets, r.rules->rules);
	passed += race();
	r.pairs = true;
	passed += race();
	printf("%u passed, %u failed, 0 skipped\n", passed, 2 - passed);
	programs_unload(&r.p);
	vector_rules_done();
	return passed != 2;
}
