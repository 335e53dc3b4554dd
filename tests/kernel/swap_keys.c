// SPDX-License-Identifier: Apache-2.0
/*
 * Key texts on their way through: accepted ones become SHA-256 in the dictionary, and nothing of any
 * text is left in the maps; what the dictionary dropped to make room is still known here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <openssl/sha.h>

#include "collect/keys.h"
#include "libkernel.h"
#include "tally/hash.h"
#include "tally/ledger.h"

#define CAPACITY 100

/* libbpf's, for all that is linked here; the nth look-up from now on fails with this error. */
static struct {
	unsigned int nth;
	int error;
} failing;

int bpf_map_lookup_elem(int fd, const void *key, void *value)
{
	if (failing.nth && !--failing.nth) {
		errno = failing.error;
		return -failing.error;
	}
	return bpf_map_lookup_elem_flags(fd, key, value, 0);
}

static const uint64_t secret[2] = { 1, 2 };

static int setup(void **state)
{
	struct tally_load *load = calloc(1, sizeof(*load));

	assert_non_null(load);
	(void)kernel_pin_dir("keys", 0); /* skips where nothing can be loaded */
	load->maps[TALLY_MAP_DICTIONARY] =
		kernel_map(BPF_MAP_TYPE_HASH, 8, sizeof(struct tally_key_entry), CAPACITY, 0);
	load->maps[TALLY_MAP_CANDIDATES] =
		kernel_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct tally_candidate), TALLY_CANDIDATES,
			   BPF_F_MMAPABLE);
	load->maps[TALLY_MAP_CANDIDATES_LONG] =
		kernel_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct tally_candidate_long),
			   TALLY_CANDIDATES_LONG, BPF_F_MMAPABLE);
	*state = load;
	return 0;
}

static int teardown(void **state)
{
	struct tally_load *load = *state;

	close(load->maps[TALLY_MAP_DICTIONARY]);
	close(load->maps[TALLY_MAP_CANDIDATES]);
	close(load->maps[TALLY_MAP_CANDIDATES_LONG]);
	free(load);
	return 0;
}

/* What the kernel leaves when a response has accepted a key. */
static uint64_t leave(struct tally_load *load, uint32_t slot, const char *text,
		      uint32_t candidate_state)
{
	bool is_long = strlen(text) > TALLY_KEY_INLINE;
	struct tally_key_entry entry = { .state = TALLY_KEY_NEW, .slot = slot + 1 };
	struct tally_candidate_long candidate = { candidate_state, (__u32)strlen(text), 0, {} };
	int fd = load->maps[is_long ? TALLY_MAP_CANDIDATES_LONG : TALLY_MAP_CANDIDATES];

	candidate.hash = tally_key_hash(text, candidate.len, (const __u64 *)secret);
	memcpy(candidate.text, text, candidate.len);
	assert_int_equal(bpf_map_update_elem(fd, &slot, &candidate, BPF_ANY), 0);
	if (candidate_state == TALLY_CAND_ACCEPTED)
		assert_int_equal(bpf_map_update_elem(load->maps[TALLY_MAP_DICTIONARY],
						     &candidate.hash, &entry, BPF_ANY),
				 0);
	return candidate.hash;
}

static bool is_zero(struct tally_load *load, enum tally_map map, uint32_t slot)
{
	struct tally_candidate_long candidate = {}, zero = {};

	assert_int_equal(bpf_map_lookup_elem(load->maps[map], &slot, &candidate), 0);
	candidate.state = TALLY_CAND_STATE(candidate.state); /* generations only grow */
	return !memcmp(&candidate, &zero, sizeof(zero));
}

static struct tally_keys *open_keys(struct tally_load *load, uint64_t epoch)
{
	struct tally_keys *keys = NULL;

	assert_int_equal(tally_keys_open(load, epoch, &keys), 0);
	return keys;
}

static void expect(struct tally_keys *keys, uint64_t hash, const char *text)
{
	uint8_t want[32], have[32];

	SHA256((const uint8_t *)text, strlen(text), want);
	assert_int_equal(tally_keys_find(keys, hash, 1, have), 0);
	assert_memory_equal(want, have, sizeof(want));
}

static void test_resolve(void **state)
{
	struct tally_load *load = *state;
	struct tally_keys *keys = open_keys(load, 1);
	struct tally_key_entry entry;
	char text[TALLY_KEY_MAX + 1];
	uint64_t a, b, held;
	uint8_t sha256[32];

	memset(text, 'k', TALLY_KEY_MAX);
	text[TALLY_KEY_MAX] = 0;
	a = leave(load, 0, "acme-live", TALLY_CAND_ACCEPTED);
	b = leave(load, TALLY_CANDIDATES_LONG - 1, text, TALLY_CAND_ACCEPTED);
	held = leave(load, 7, "a guess", TALLY_CAND_HELD);
	assert_int_equal(tally_keys_find(keys, a, 1, sha256), -ENOENT);
	assert_int_equal(tally_keys_poll(keys), 0);
	expect(keys, a, "acme-live");
	expect(keys, b, text);
	assert_int_equal(tally_keys_find(keys, held, 1, sha256), -ENOENT);
	assert_int_equal(tally_keys_find(keys, 0, 1, sha256), -ENOENT);
	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_DICTIONARY], &a, &entry), 0);
	assert_int_equal(entry.state, TALLY_KEY_RESOLVED);
	assert_int_equal(entry.slot, 0);
	assert_true(is_zero(load, TALLY_MAP_CANDIDATES, 0));
	assert_true(is_zero(load, TALLY_MAP_CANDIDATES_LONG, TALLY_CANDIDATES_LONG - 1));
	assert_false(is_zero(load, TALLY_MAP_CANDIDATES, 7));
	tally_keys_close(keys);
	/* the next start reads the dictionary */
	keys = open_keys(load, 1);
	expect(keys, a, "acme-live");
	expect(keys, b, text);
	tally_keys_close(keys);
}

/* The kernel frees a long text without wiping it. */
static void test_wipe(void **state)
{
	struct tally_load *load = *state;
	struct tally_keys *keys = open_keys(load, 1);
	char text[1000];

	memset(text, 'g', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	leave(load, 3, text, TALLY_CAND_FREE);
	assert_false(is_zero(load, TALLY_MAP_CANDIDATES_LONG, 3));
	assert_int_equal(tally_keys_poll(keys), 0);
	assert_true(is_zero(load, TALLY_MAP_CANDIDATES_LONG, 3));
	tally_keys_close(keys);
}

/* The dictionary is full of keys that were used in epoch 1. */
static struct tally_keys *open_full(struct tally_load *load, uint64_t hashes[CAPACITY])
{
	struct tally_keys *keys = open_keys(load, 1);
	char text[32];

	for (uint32_t i = 0; i < CAPACITY; i++) {
		snprintf(text, sizeof(text), "key-%u", i);
		hashes[i] = leave(load, i, text, TALLY_CAND_ACCEPTED);
	}
	assert_int_equal(tally_keys_poll(keys), 0);
	return keys;
}

static bool all_catalogued(void *ctx, const uint8_t sha256[32])
{
	return true;
}

static bool none_catalogued(void *ctx, const uint8_t sha256[32])
{
	return false;
}

static const struct tally_keys_catalog all = { all_catalogued, NULL };
static const struct tally_keys_catalog none = { none_catalogued, NULL };

/* ctx: of the one that is. */
static bool one_catalogued(void *ctx, const uint8_t sha256[32])
{
	uint8_t one[32];

	SHA256(ctx, strlen(ctx), one);
	return !memcmp(one, sha256, sizeof(one));
}

static bool is_entry(struct tally_load *load, uint64_t hash)
{
	struct tally_key_entry entry;

	return !bpf_map_lookup_elem(load->maps[TALLY_MAP_DICTIONARY], &hash, &entry);
}

static void test_trim(void **state)
{
	struct tally_load *load = *state;
	uint64_t hashes[CAPACITY], late = 2 + TALLY_KEYS_IDLE;
	struct tally_keys *keys = open_full(load, hashes);
	struct tally_keys_status status;
	struct tally_key_entry entry;
	uint8_t sha256[32];

	assert_int_equal(tally_keys_trim(keys, late - 1, &all), 0);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, CAPACITY);
	/* one of them is in use */
	assert_int_equal(tally_keys_find(keys, hashes[42], late, sha256), 0);
	assert_int_equal(tally_keys_trim(keys, late, &all), 0);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, 1);
	assert_int_equal(status.dropped, CAPACITY - 1);
	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_DICTIONARY], &hashes[42], &entry),
			 0);
	/* a row of a connection that knew it before is still nameable */
	expect(keys, hashes[7], "key-7");
	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_DICTIONARY], &hashes[7], &entry),
			 -ENOENT);
	/* and when it comes again, it is learned again */
	leave(load, 7, "key-7", TALLY_CAND_ACCEPTED);
	assert_int_equal(tally_keys_poll(keys), 0);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, 2);
	tally_keys_close(keys);
}

/* What is dropped may be in the window that is open: it has a name when that is sealed, however idle it was. */
static void test_trim_open_window(void **state)
{
	uint64_t hashes[CAPACITY], late = 3 + 2 * TALLY_KEYS_IDLE;
	struct tally_keys *keys = open_full(*state, hashes);
	uint8_t sha256[32];

	assert_int_equal(tally_keys_trim(keys, late, &all), 0);
	assert_int_equal(tally_keys_find(keys, hashes[7], late + 1, sha256), 0);
	tally_keys_close(keys);
}

/*
 * What is not catalogued goes when the dictionary is more than half full, the longest unused first, and is
 * named still; what is catalogued stays, however long it was not used.
 */
static void test_trim_strangers(void **state)
{
	uint64_t hashes[CAPACITY];
	struct tally_keys *keys = open_full(*state, hashes);
	struct tally_keys_status status;
	const struct tally_keys_catalog one = { one_catalogued, (void *)"key-0" };
	uint8_t sha256[32];

	/* the higher its number, the later it was used */
	for (uint32_t i = 1; i < CAPACITY; i++)
		assert_int_equal(tally_keys_find(keys, hashes[i], 1 + i, sha256), 0);
	assert_int_equal(tally_keys_trim(keys, 200, &one), 0);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, CAPACITY / 2);
	for (uint32_t i = 0; i < CAPACITY; i++) {
		assert_int_equal(is_entry(*state, hashes[i]), i == 0 || i > CAPACITY / 2);
		assert_int_equal(tally_keys_find(keys, hashes[i], 201, sha256), 0);
	}
	/* it gets no emptier */
	assert_int_equal(tally_keys_trim(keys, 201, &none), 0);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, CAPACITY / 2);
	leave(*state, 0, "key-0", TALLY_CAND_ACCEPTED);
	leave(*state, 1, "key-1", TALLY_CAND_ACCEPTED);
	assert_int_equal(tally_keys_poll(keys), 0);
	expect(keys, hashes[1], "key-1");
	assert_int_equal(tally_keys_trim(keys, 202, &one), 0);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, CAPACITY / 2);
	tally_keys_close(keys);
}

/* What an error answered is there for a window, and named longer, unless it is catalogued. */
static void test_drop_guesses(void **state)
{
	const struct tally_keys_catalog one = { one_catalogued, (void *)"mine" };
	const char *const texts[] = { "mine", "guessed", "accepted" };
	struct tally_load *load = *state;
	struct tally_keys *keys = open_keys(load, 1);
	struct tally_key_entry entry = { .state = TALLY_KEY_GUESS };
	uint64_t hashes[3];

	for (uint32_t i = 0; i < 3; i++) {
		hashes[i] = leave(load, i, texts[i], TALLY_CAND_ACCEPTED);
		entry.slot = i + 1;
		if (i < 2)
			assert_int_equal(bpf_map_update_elem(load->maps[TALLY_MAP_DICTIONARY],
							     &hashes[i], &entry, BPF_ANY),
					 0);
	}
	assert_int_equal(tally_keys_poll(keys), 0);
	assert_int_equal(tally_keys_drop_guesses(keys, 1, &one), 0);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(is_entry(load, hashes[i]), i != 1);
		expect(keys, hashes[i], texts[i]);
	}
	/* a better answer to the same key, a window later */
	leave(load, 1, "guessed", TALLY_CAND_ACCEPTED);
	assert_int_equal(tally_keys_poll(keys), 0);
	assert_int_equal(tally_keys_drop_guesses(keys, 2, &one), 0);
	assert_true(is_entry(load, hashes[1]));
	tally_keys_close(keys);
}

/* A flood that goes on: memory has an end, and what went last has a name. */
static void test_trim_forgets(void **state)
{
	struct tally_load *load = *state;
	struct tally_keys *keys = open_keys(load, 1);
	uint64_t hashes[10 * CAPACITY];
	uint32_t n = 0, named = 0;
	const struct tally_keys_catalog one = { one_catalogued, (void *)"flood-0" };
	char text[32];
	uint8_t sha256[32];

	for (uint64_t epoch = 2; n < TALLY_ARRAY_SIZE(hashes); epoch++) {
		for (uint32_t i = 0; i < CAPACITY / 4; i++, n++) {
			snprintf(text, sizeof(text), "flood-%u", n);
			hashes[n] = leave(load, i, text, TALLY_CAND_ACCEPTED);
		}
		assert_int_equal(tally_keys_poll(keys), 0);
		for (uint32_t i = n - CAPACITY / 4; i < n; i++)
			assert_int_equal(tally_keys_find(keys, hashes[i], epoch, sha256), 0);
		assert_int_equal(tally_keys_trim(keys, epoch, &one), 0);
	}
	assert_true(is_entry(load, hashes[0]));
	for (uint32_t i = 0; i < n; i++)
		named += !tally_keys_find(keys, hashes[i], 1, sha256);
	assert_true(named >= CAPACITY && named <= 2 * CAPACITY);
	for (uint32_t i = n - 3 * CAPACITY / 4; i < n; i++)
		assert_int_equal(tally_keys_find(keys, hashes[i], 1, sha256), 0);
	tally_keys_close(keys);
}

/*
 * A restart reads the dictionary. An entry that is gone meanwhile may be missing; after any other error the
 * agent does not start with a key that it cannot name.
 */
static void test_lookup_fails(void **state)
{
	struct tally_load *load = *state;
	struct tally_keys *keys = open_keys(load, 1);
	struct tally_keys_status status;
	char text[] = "key-0";

	for (uint32_t i = 0; i < 5; i++, text[4]++)
		leave(load, i, text, TALLY_CAND_ACCEPTED);
	assert_int_equal(tally_keys_poll(keys), 0);
	tally_keys_close(keys);
	for (failing.nth = 1; failing.nth <= 5; failing.nth++) {
		unsigned int nth = failing.nth;

		failing.error = EIO;
		assert_int_equal(tally_keys_open(load, 1, &keys), -EIO);
		failing.nth = nth;
		failing.error = ENOENT;
		keys = open_keys(load, 1);
		tally_keys_status(keys, &status);
		assert_int_equal(status.entries, 4);
		tally_keys_close(keys);
		failing.nth = nth;
	}
	failing.nth = 0;
	keys = open_keys(load, 1);
	tally_keys_status(keys, &status);
	assert_int_equal(status.entries, 5);
	tally_keys_close(keys);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = { TEST(test_resolve),	       TEST(test_wipe),
					    TEST(test_trim),	       TEST(test_trim_open_window),
					    TEST(test_trim_strangers), TEST(test_drop_guesses),
					    TEST(test_trim_forgets),   TEST(test_lookup_fails) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
