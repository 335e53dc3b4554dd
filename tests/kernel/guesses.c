/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys that an error answers: in one window only TALLY_GUESSES of them are learnt. What is answered otherwise
 * is learnt beside them, and after the swap there is room again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <bpf/bpf.h>

#include "bpf/meter_types.h"
#include "tests/kernel/libprograms.h"
#include "tests/kernel/vectors.skel.h"
#include "tests/vectors/libplay.h"

#define IN_FROM 1000u
#define OUT_FROM 5000u
#define MORE 7 /* than may be learnt */

static struct {
	struct programs p;
	uint32_t in, out, keys;
} k;

static struct vectors_segment told(uint32_t seq, uint32_t len)
{
	return (struct vectors_segment){
		.seq = seq, .len = len, .rcv_nxt = k.in, .snd_nxt = k.out, .snd_una = k.out
	};
}

/* A request with this key, and its answer. */
static void exchange(const char *key, unsigned int status)
{
	char request[128], response[128];
	struct vectors_segment v;

	snprintf(request, sizeof(request), "GET /v1/items HTTP/1.1\r\nX-API-Key: %s\r\n\r\n", key);
	v = told(k.in, (uint32_t)strlen(request));
	programs_run(k.p.skel->progs.vectors_in, &v, request, v.len);
	k.in += v.len;
	snprintf(response, sizeof(response), "HTTP/1.1 %u x\r\nContent-Length: 0\r\n\r\n", status);
	v = told(k.out, (uint32_t)strlen(response));
	programs_run(k.p.skel->progs.vectors_out, &v, response, v.len);
	k.out += v.len;
}

/* n of them, each with a key that was never used before. */
static void exchanges(uint32_t n, unsigned int status)
{
	char key[16];

	while (n--) {
		snprintf(key, sizeof(key), "key-%u", k.keys++);
		exchange(key, status);
	}
}

static uint32_t entries(void)
{
	int fd = bpf_map__fd(k.p.skel->maps.dictionary);
	__u64 hash, *previous = NULL;
	uint32_t n = 0;

	for (; !bpf_map_get_next_key(fd, previous, &hash); previous = &hash)
		n++;
	return n;
}

static void swap(uint64_t number, uint32_t guesses)
{
	const struct tally_epoch epoch = { .number = number, .guesses = guesses };

	programs_put(k.p.skel->maps.epoch, &epoch);
}

static void expect(uint64_t keyed, uint64_t anonymous, uint64_t guesses_full)
{
	struct tally_totals t;

	programs_totals(&k.p, &t);
	assert_int_equal(t.attributed, keyed);
	assert_int_equal(t.unattributed[TALLY_ATTR_ANONYMOUS], anonymous);
	assert_int_equal(t.guesses_full, guesses_full);
	assert_int_equal(entries(), k.keys - anonymous);
}

static void test_cap(void **state)
{
	exchanges(TALLY_GUESSES, 404);
	expect(TALLY_GUESSES, 0, 0);
	exchanges(MORE - 2, 404);
	exchanges(1, 429);
	exchanges(1, 500);
	expect(TALLY_GUESSES, MORE, MORE);
	exchanges(3, 200);
	exchanges(1, 302);
	expect(TALLY_GUESSES + 4, MORE, MORE);
}

/* What is known already is no guess; nor is a key that the server refused one that counts. */
static void test_known_and_refused(void **state)
{
	struct tally_totals before, t;

	programs_totals(&k.p, &before);
	exchange("key-0", 404);
	exchange("refused", 401);
	exchange("refused", 403);
	programs_totals(&k.p, &t);
	assert_int_equal(t.attributed, before.attributed + 1);
	assert_int_equal(t.guesses_full, before.guesses_full);
}

static void test_next_window(void **state)
{
	uint32_t before = entries();

	swap(3, 0); /* of the same slot */
	exchanges(TALLY_GUESSES + MORE, 404);
	assert_int_equal(entries(), before + TALLY_GUESSES);
	/* a small dictionary's agent lets in fewer */
	swap(5, TALLY_GUESSES - 5);
	exchanges(TALLY_GUESSES, 404);
	assert_int_equal(entries(), before + TALLY_GUESSES + 5);
}

static int setup(void **state)
{
	struct tally_conn *c = test_calloc(1, sizeof(*c));

	programs_load(&k.p);
	programs_put(k.p.skel->maps.rulesets, vector_rules("tests/vectors", "default")->rules);
	k.in = IN_FROM;
	k.out = OUT_FROM;
	tally_conn_born(c, k.in, k.out);
	c->cookie = 1;
	c->resolved = 1;
	programs_put(k.p.skel->maps.vectors_conn, c);
	test_free(c);
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
		cmocka_unit_test(test_cap),
		cmocka_unit_test(test_known_and_refused),
		cmocka_unit_test(test_next_window),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
