// SPDX-License-Identifier: Apache-2.0
/*
 * Forgotten pieces: those of handshakes that came to nothing, and of connections whose death nobody saw, are
 * wiped and free again; what somebody owns, or is young, is not touched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>

#include "collect/pieces.h"
#include "libkernel.h"
#include "tally/pieces.h"

#define NOW (3600 * TALLY_NS_PER_S)
#define OLD_DEFERRED (NOW - TALLY_DEFERRED_STALE_NS)
#define OLD_PIECE (NOW - TALLY_PIECE_STALE_NS)

static int setup(void **state)
{
	struct tally_load *load = calloc(1, sizeof(*load));

	assert_non_null(load);
	(void)kernel_pin_dir("pieces", 0); /* skips where nothing can be loaded */
	load->maps[TALLY_MAP_PARKED] =
		kernel_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct tally_parked), TALLY_PARK_POOL,
			   BPF_F_MMAPABLE);
	load->maps[TALLY_MAP_DEFERRED] =
		kernel_map(BPF_MAP_TYPE_HASH, sizeof(struct tally_deferred_key),
			   sizeof(struct tally_deferred), 64, 0);
	*state = load;
	return 0;
}

static int teardown(void **state)
{
	struct tally_load *load = *state;

	close(load->maps[TALLY_MAP_PARKED]);
	close(load->maps[TALLY_MAP_DEFERRED]);
	free(load);
	return 0;
}

static void park(const struct tally_load *load, uint32_t id, uint64_t owner, uint64_t since_ns)
{
	struct tally_parked piece = { .busy = 1, .owner = owner, .since_ns = since_ns };

	memset(&piece.data, 's', sizeof(piece.data));
	assert_int_equal(bpf_map_update_elem(load->maps[TALLY_MAP_PARKED], &id, &piece, BPF_ANY),
			 0);
}

/* 1: in use, with its octets; 0: free, with none; -1: something between. */
static int state_of(const struct tally_load *load, uint32_t id)
{
	struct tally_parked piece;
	size_t full = 0;

	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_PARKED], &id, &piece), 0);
	for (size_t i = 0; i < sizeof(piece.data.b); i++)
		full += piece.data.b[i] != 0;
	if (piece.busy && full == sizeof(piece.data.b))
		return 1;
	return piece.busy || piece.owner || full ? -1 : 0;
}

/* Data with the listener, of one 4-tuple, in the pieces a and b. */
static void defer(const struct tally_load *load, uint16_t port, uint32_t a, uint32_t b,
		  uint64_t since_ns)
{
	struct tally_deferred_key key = { .peer_port = port, .port = 80 };
	struct tally_deferred entry = { .since_ns = since_ns,
					.count = 2,
					.piece = { a + 1, b + 1 } };

	assert_int_equal(bpf_map_update_elem(load->maps[TALLY_MAP_DEFERRED], &key, &entry, BPF_ANY),
			 0);
}

static int is_deferred(const struct tally_load *load, uint16_t port)
{
	struct tally_deferred_key key = { .peer_port = port, .port = 80 };
	struct tally_deferred entry;

	return !bpf_map_lookup_elem(load->maps[TALLY_MAP_DEFERRED], &key, &entry);
}

static int sweep(struct tally_load *load)
{
	struct tally_pieces *pieces;
	int swept;

	assert_int_equal(tally_pieces_open(load, &pieces), 0);
	swept = tally_pieces_sweep(pieces, NOW);
	tally_pieces_close(pieces);
	return swept;
}

static void test_pool(void **state)
{
	struct tally_load *load = *state;

	park(load, 0, 7, OLD_PIECE);
	park(load, 1, 7, OLD_PIECE + 1);
	park(load, TALLY_PARK_POOL - 1, 0, OLD_PIECE);
	assert_int_equal(sweep(load), 2);
	assert_int_equal(state_of(load, 0), 0);
	assert_int_equal(state_of(load, 1), 1);
	assert_int_equal(state_of(load, TALLY_PARK_POOL - 1), 0);
	assert_int_equal(sweep(load), 0);
}

/* Whoever takes a piece marks it busy first, and says since when only then. */
static void test_being_taken(void **state)
{
	struct tally_load *load = *state;
	struct tally_parked piece;
	uint32_t id = 0;

	park(load, id, 7, OLD_PIECE);
	assert_int_equal(sweep(load), 1);
	assert_int_equal(bpf_map_lookup_elem(load->maps[TALLY_MAP_PARKED], &id, &piece), 0);
	assert_int_equal(piece.since_ns, 0); /* so that it is not said of the next one */
	park(load, id, 0, 0);
	assert_int_equal(sweep(load), 0);
	assert_int_equal(state_of(load, id), 1);
}

static void test_deferred(void **state)
{
	struct tally_load *load = *state;

	for (uint32_t id = 0; id < 6; id++)
		park(load, id, id == 3 ? 99 : 0, NOW - 1); /* 3 was adopted meanwhile */
	defer(load, 1000, 0, 1, OLD_DEFERRED);
	defer(load, 1001, 2, 3, OLD_DEFERRED);
	defer(load, 1002, 4, 5, OLD_DEFERRED + 1);
	assert_int_equal(sweep(load), 3);
	for (uint32_t id = 0; id < 6; id++)
		assert_int_equal(state_of(load, id), id >= 3);
	assert_false(is_deferred(load, 1000));
	assert_false(is_deferred(load, 1001));
	assert_true(is_deferred(load, 1002));
}

/* As many as there can be, and ids that are none: not one is left, and nothing else is touched. */
static void test_full(void **state)
{
	struct tally_load *load = *state;

	for (uint16_t i = 0; i < 64; i++) {
		park(load, i, 0, NOW - 1);
		defer(load, i, i, i % 2 ? TALLY_PARK_POOL : UINT32_MAX - 1, OLD_DEFERRED);
	}
	assert_int_equal(sweep(load), 64);
	for (uint16_t i = 0; i < 64; i++)
		assert_false(is_deferred(load, i) || state_of(load, i));
}

/* Pieces of programs of another version: not ours to touch. */
static void test_other_layout(void **state)
{
	struct tally_load *load = *state;

	close(load->maps[TALLY_MAP_PARKED]);
	load->maps[TALLY_MAP_PARKED] =
		kernel_map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct tally_parked) - 8, TALLY_PARK_POOL,
			   BPF_F_MMAPABLE);
	defer(load, 1000, 0, 1, OLD_DEFERRED);
	assert_int_equal(sweep(load), 0);
	assert_true(is_deferred(load, 1000));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = { TEST(test_pool), TEST(test_being_taken),
					    TEST(test_deferred), TEST(test_full),
					    TEST(test_other_layout) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
