// SPDX-License-Identifier: Apache-2.0
/*
 * The freeze is exact: two threads run a booking program without a pause while windows are closed,
 * drained, released, and the ledger is opened anew as by a new agent. Nothing reaches an epoch after
 * its swap returned, nothing is lost, nothing is there twice.
 *
 * And the states that an agent can die in are recovered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <bpf/bpf.h>
#include <pthread.h>
#include <sys/stat.h>

#include "collect/ledger.h"
#include "libkernel.h"
#include "tests/kernel/swap.skel.h"

#define SECOND TALLY_NS_PER_S
#define SWAPS 120
#define REPEAT 2000
#define WRITERS 2

struct fixture {
	struct swap_bpf *skel;
	struct tally_load load;
	struct tally_ledger *ledger;
	uint64_t now;
};

static void fill_load(struct fixture *f)
{
	static const char *const names[] = { [TALLY_MAP_SETTINGS] = "settings",
					     [TALLY_MAP_EPOCH] = "epoch",
					     [TALLY_MAP_EPOCHS_ROWS] = "epochs_rows",
					     [TALLY_MAP_EPOCHS_SPILL] = "epochs_spill",
					     [TALLY_MAP_EPOCHS_TOTALS] = "epochs_totals",
					     [TALLY_MAP_PLACES] = "places" };

	for (size_t i = 0; i < TALLY_ARRAY_SIZE(names); i++)
		if (names[i])
			f->load.maps[i] = bpf_object__find_map_fd_by_name(f->skel->obj, names[i]);
	assert_int_equal(tally_epoch_create_windows(&f->load.maps[TALLY_MAP_WINDOWS]), 0);
	f->load.connection_rows = 1024;
	f->load.rows = 1024;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	strcpy(f->load.pin_dir, kernel_pin_dir("swap", 1));
	f->skel = swap_bpf__open_and_load();
	assert_non_null(f->skel);
	fill_load(f);
	f->now = 1000 * SECOND;
	assert_int_equal(tally_ledger_open(&f->load, f->now, &f->ledger), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	tally_ledger_close(f->ledger);
	tally_util_close(f->load.maps[TALLY_MAP_WINDOWS]);
	swap_bpf__destroy(f->skel);
	kernel_unpin(f->load.pin_dir);
	free(f);
	return 0;
}

/* As another process would: all it has are the pins and the maps. */
static void reopen(struct fixture *f)
{
	tally_ledger_close(f->ledger);
	f->ledger = NULL;
	assert_int_equal(tally_ledger_open(&f->load, 7 * SECOND, &f->ledger), 0);
}

static void swap(struct fixture *f)
{
	f->now += SECOND;
	assert_int_equal(tally_ledger_swap(f->ledger, f->now, f->now, TALLY_CAUSE_INTERVAL), 0);
}

static uint64_t sum_rows(const struct tally_frozen *frozen)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < frozen->n_rows; i++)
		sum += frozen->rows[i].row.requests;
	return sum;
}

/* What an epoch holds, by rows and by totals, which agree. */
static uint64_t drained(struct fixture *f, uint64_t number)
{
	struct tally_frozen frozen;
	uint64_t sum;

	assert_int_equal(tally_ledger_drain(f->ledger, number, &frozen), 0);
	assert_int_equal(frozen.number, number);
	assert_int_equal(frozen.n_services, TALLY_SERVICES);
	sum = sum_rows(&frozen);
	assert_int_equal(frozen.totals[0].seen, sum);
	tally_ledger_frozen_done(&frozen);
	return sum;
}

static void run_slowly(struct fixture *f, unsigned char row, uint32_t times, unsigned char spin)
{
	/* a test run takes the Ethernet header off */
	unsigned char packet[64] = { [12] = 0x08, [14] = row, [15] = spin };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = sizeof(packet),
		    .repeat = (int)times);

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(f->skel->progs.tally_swap), &opts),
			 0);
	assert_int_equal(opts.retval, 1);
}

static void run(struct fixture *f, unsigned char row, uint32_t times)
{
	run_slowly(f, row, times, 0);
}

/* The first writer runs as fast as it can; the second is always in the middle of a run. */
struct writer {
	struct fixture *f;
	pthread_t thread;
	unsigned char row, spin;
	uint32_t repeat;
	uint64_t runs;
	bool stop;
};

static void *write_on(void *ctx)
{
	struct writer *w = ctx;

	while (!__atomic_load_n(&w->stop, __ATOMIC_ACQUIRE)) {
		run_slowly(w->f, w->row + w->runs / w->repeat % 32, w->repeat, w->spin);
		w->runs += w->repeat;
	}
	return NULL;
}

/* Releases what it has read; reads twice, a moment apart: the second must be the same. */
static uint64_t settle(struct fixture *f)
{
	uint64_t number, sum = 0;

	while (!tally_ledger_oldest(f->ledger, &number)) {
		uint64_t first = drained(f, number);

		usleep(3000);
		assert_int_equal(drained(f, number), first);
		assert_int_equal(tally_ledger_release(f->ledger, number), 0);
		sum += first;
	}
	return sum;
}

static void test_exact(void **state)
{
	struct fixture *f = *state;
	struct writer writers[WRITERS] = {};
	uint64_t counted = 0, runs = 0;

	for (int i = 0; i < WRITERS; i++) {
		writers[i].f = f;
		writers[i].row = (unsigned char)(i * 64);
		writers[i].spin = i ? 100 : 0;
		writers[i].repeat = i ? 1 : REPEAT;
		assert_int_equal(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]),
				 0);
	}
	for (int i = 0; i < SWAPS; i++) {
		swap(f);
		if (i % 7 == 3)
			reopen(f);
		if (i % 5)
			counted += settle(f);
		if (i % 3)
			assert_int_equal(tally_ledger_prepare(f->ledger), 0);
	}
	for (int i = 0; i < WRITERS; i++) {
		__atomic_store_n(&writers[i].stop, true, __ATOMIC_RELEASE);
		assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
		runs += writers[i].runs;
	}
	swap(f);
	counted += settle(f);
	print_message("%d swaps, %llu runs\n", SWAPS, (unsigned long long)runs);
	assert_true(runs > SWAPS * REPEAT);
	assert_int_equal(counted, runs);
	assert_int_equal(tally_ledger_frozen_count(f->ledger), 0);
}

static void test_windows(void **state)
{
	struct fixture *f = *state;
	struct tally_frozen frozen;
	uint64_t number;

	assert_int_equal(tally_ledger_number(f->ledger), 1);
	assert_int_equal(tally_ledger_oldest(f->ledger, &number), -ENOENT);
	assert_int_equal(tally_ledger_drain(f->ledger, 1, &frozen), -EBUSY);
	assert_int_equal(tally_ledger_release(f->ledger, 1), -EBUSY);
	run(f, 1, 3);
	assert_int_equal(
		tally_ledger_swap(f->ledger, 1010 * SECOND, 2000 * SECOND, TALLY_CAUSE_CLOCK), 0);
	run(f, 1, 4);
	reopen(f);
	assert_int_equal(tally_ledger_number(f->ledger), 2);
	assert_int_equal(tally_ledger_start_ns(f->ledger), 2000 * SECOND);
	assert_int_equal(tally_ledger_oldest(f->ledger, &number), 0);
	assert_int_equal(number, 1);
	assert_int_equal(tally_ledger_drain(f->ledger, 1, &frozen), 0);
	assert_int_equal(frozen.start_ns, 1000 * SECOND);
	assert_int_equal(frozen.end_ns, 1010 * SECOND);
	assert_int_equal(frozen.cause, TALLY_CAUSE_CLOCK);
	assert_int_equal(sum_rows(&frozen), 3);
	tally_ledger_frozen_done(&frozen);
	assert_int_equal(tally_ledger_peek(f->ledger, 1, &frozen), 0);
	assert_int_equal(sum_rows(&frozen), 4);
	tally_ledger_frozen_done(&frozen);
	assert_int_equal(tally_ledger_peek_totals(f->ledger, &frozen), 0);
	assert_int_equal(frozen.n_rows, 0);
	assert_int_equal(frozen.totals[0].seen, 4);
	tally_ledger_frozen_done(&frozen);
	run(f, 2, 1);
	assert_int_equal(tally_ledger_peek(f->ledger, 1, &frozen), -E2BIG);
}

/* Died after the new maps were pinned, before the flip: they are made again. */
static void test_half_made(void **state)
{
	struct fixture *f = *state;
	int fds[TALLY_EPOCH_KINDS];
	uint64_t number;

	run(f, 2, 5);
	assert_int_equal(tally_epoch_create(&f->load, 2, fds), 0);
	tally_epoch_close(fds);
	reopen(f);
	assert_int_equal(tally_ledger_number(f->ledger), 1);
	assert_int_equal(tally_epoch_next(&f->load, 2, &number), -ENOENT);
	swap(f);
	assert_int_equal(drained(f, 1), 5);
}

/* Died after the flip, before the wait: the epoch is frozen, and the wait comes with the open. */
static void test_flipped(void **state)
{
	struct fixture *f = *state;
	struct tally_window closed = { 1000 * SECOND, 1001 * SECOND, TALLY_CAUSE_HOUR, 0 };
	struct tally_window next = { .start_ns = 1001 * SECOND };
	struct tally_epoch epoch = { .index = 1, .number = 2 };
	uint64_t one = 1, two = 2, number;
	int fds[TALLY_EPOCH_KINDS];
	__u32 zero = 0, slot = 1;

	run(f, 3, 6);
	assert_int_equal(tally_epoch_create(&f->load, 2, fds), 0);
	for (int i = 0; i < TALLY_EPOCH_KINDS; i++)
		assert_int_equal(bpf_map_update_elem(f->load.maps[TALLY_MAP_EPOCHS_ROWS + i], &slot,
						     &fds[i], BPF_ANY),
				 0);
	bpf_map_update_elem(f->load.maps[TALLY_MAP_WINDOWS], &one, &closed, BPF_ANY);
	bpf_map_update_elem(f->load.maps[TALLY_MAP_WINDOWS], &two, &next, BPF_ANY);
	bpf_map_update_elem(f->load.maps[TALLY_MAP_EPOCH], &zero, &epoch, BPF_ANY);
	tally_epoch_close(fds);
	reopen(f);
	run(f, 3, 7);
	assert_int_equal(tally_ledger_number(f->ledger), 2);
	assert_int_equal(tally_ledger_oldest(f->ledger, &number), 0);
	assert_int_equal(number, 1);
	assert_int_equal(drained(f, 1), 6);
	swap(f);
	assert_int_equal(drained(f, 2), 7);
}

/* Died in the middle of a release: what was being released is durable, and goes on going away. */
static void test_half_released(void **state)
{
	struct fixture *f = *state;
	char path[PATH_MAX];
	uint64_t number;

	run(f, 4, 8);
	swap(f);
	snprintf(path, sizeof(path), "%s/epoch-1-totals", f->load.pin_dir);
	assert_int_equal(unlink(path), 0);
	reopen(f);
	assert_int_equal(tally_ledger_oldest(f->ledger, &number), -ENOENT);
	snprintf(path, sizeof(path), "%s/epoch-1-rows", f->load.pin_dir);
	assert_int_equal(access(path, F_OK), -1);
}

static bool has_window(const struct fixture *f, uint64_t number)
{
	struct tally_window window;

	return !bpf_map_lookup_elem(f->load.maps[TALLY_MAP_WINDOWS], &number, &window);
}

/* Died after the pins of an epoch went, before its window did: there is room for so many windows only. */
static void test_left_windows(void **state)
{
	struct fixture *f = *state;

	for (uint64_t number = 1; number <= 3; number++) {
		swap(f);
		assert_int_equal(tally_epoch_unpin(&f->load, number), 0);
	}
	run(f, 4, 8);
	swap(f);
	for (uint64_t number = 1; number <= 5; number++)
		assert_true(has_window(f, number));
	reopen(f);
	for (uint64_t number = 1; number <= 3; number++)
		assert_false(has_window(f, number));
	assert_int_equal(drained(f, 4), 8);
	assert_int_equal(tally_ledger_release(f->ledger, 4), 0);
	assert_false(has_window(f, 4));
	assert_true(has_window(f, 5));
	reopen(f);
	assert_int_equal(tally_ledger_start_ns(f->ledger), f->now);
}

/* How many places are of that epoch. */
static unsigned int places_of(struct fixture *f, uint32_t epoch)
{
	struct tally_row_place place;
	unsigned int n = 0;

	for (__u32 i = 0; i < 2 * TALLY_PLACES; i++) {
		assert_int_equal(bpf_map_lookup_elem(f->load.maps[TALLY_MAP_PLACES], &i, &place),
				 0);
		n += place.key.conn && place.epoch == epoch;
	}
	return n;
}

/* A place serves one epoch, and is the next one's of that half only when the first is released. */
static void test_places(void **state)
{
	struct fixture *f = *state;

	run(f, 3, 5);
	run(f, 5, 1);
	assert_int_equal(places_of(f, 1), 2);
	swap(f);
	swap(f);
	run(f, 3, 7); /* its place is still the first epoch's */
	run(f, 7, 1);
	assert_int_equal(places_of(f, 3), 1);
	assert_int_equal(drained(f, 1), 6);
	assert_int_equal(tally_ledger_release(f->ledger, 1), 0);
	assert_int_equal(places_of(f, 1), 0);
	run(f, 5, 2);
	assert_int_equal(places_of(f, 3), 2);
	swap(f);
	assert_int_equal(drained(f, 3), 10);
	reopen(f);
	assert_int_equal(drained(f, 3), 10);
}

/* Died after the pins of an epoch went, before its places were free; or in the middle of one. */
static void test_left_places(void **state)
{
	struct fixture *f = *state;
	const struct tally_row_place half = { .key.conn = 99 };
	const __u32 at = TALLY_PLACE_AT(1, 99);

	run(f, 3, 5);
	swap(f);
	run(f, 3, 6);
	swap(f);
	run(f, 3, 7);
	assert_int_equal(tally_epoch_unpin(&f->load, 1), 0);
	assert_int_equal(places_of(f, 1), 1);
	assert_int_equal(bpf_map_update_elem(f->load.maps[TALLY_MAP_PLACES], &at, &half, BPF_ANY),
			 0);
	assert_int_equal(places_of(f, 0), 1);
	reopen(f);
	assert_int_equal(places_of(f, 1), 0);
	assert_int_equal(places_of(f, 0), 0);
	assert_int_equal(drained(f, 2), 6);
	run(f, 3, 8);
	assert_int_equal(places_of(f, 3), 1);
	swap(f);
	assert_int_equal(drained(f, 3), 15);
}

/* No memory for new maps: the open epoch goes on, and is closed later. */
static void test_failed_swap(void **state)
{
	struct fixture *f = *state;
	uint64_t number;

	run(f, 5, 9);
	f->load.connection_rows = 0;
	assert_true(tally_ledger_swap(f->ledger, f->now + SECOND, f->now + SECOND,
				      TALLY_CAUSE_INTERVAL) < 0);
	assert_int_equal(tally_ledger_number(f->ledger), 1);
	assert_int_equal(tally_ledger_oldest(f->ledger, &number), -ENOENT);
	run(f, 5, 10);
	f->load.connection_rows = 1024;
	swap(f);
	assert_int_equal(drained(f, 1), 19);
}

/* Somebody clears the folder: the open epoch is pinned again, and nothing of it is lost. */
static void test_cleared(void **state)
{
	struct fixture *f = *state;

	run(f, 6, 11);
	assert_int_equal(tally_ledger_prepare(f->ledger), 0);
	kernel_unpin(f->load.pin_dir);
	assert_int_equal(mkdir(f->load.pin_dir, 0700), 0);
	assert_int_equal(tally_ledger_repair(f->ledger), 0);
	reopen(f);
	swap(f);
	assert_int_equal(drained(f, 1), 11);
}

/* More rows than one batch, in both hashes. */
static void test_many_rows(void **state)
{
	struct fixture *f = *state;
	struct tally_frozen frozen;
	int fds[TALLY_EPOCH_KINDS];
	uint64_t expected = 0;

	f->load.connection_rows = 30000;
	f->load.rows = 5000;
	swap(f);
	assert_int_equal(tally_epoch_open(&f->load, 2, fds), 0);
	for (uint32_t i = 1; i <= 35000; i++) {
		struct tally_row_key key = { .conn = i };
		struct tally_row row = { .requests = i };
		int kind = i <= 30000 ? TALLY_EPOCH_ROWS : TALLY_EPOCH_SPILL;

		assert_int_equal(bpf_map_update_elem(fds[kind], &key, &row, BPF_ANY), 0);
		expected += i;
	}
	tally_epoch_close(fds);
	swap(f);
	assert_int_equal(tally_ledger_drain(f->ledger, 2, &frozen), 0);
	assert_int_equal(frozen.n_rows, 35000);
	assert_int_equal(sum_rows(&frozen), expected);
	tally_ledger_frozen_done(&frozen);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = { TEST(test_exact),	      TEST(test_windows),
					    TEST(test_half_made),     TEST(test_flipped),
					    TEST(test_half_released), TEST(test_left_windows),
					    TEST(test_failed_swap),   TEST(test_cleared),
					    TEST(test_many_rows),     TEST(test_places),
					    TEST(test_left_places) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
