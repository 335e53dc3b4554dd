/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/ledger.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"

#define BATCH 4096U

struct tally_ledger {
	struct tally_load *load;
	uint64_t number;	     /* of the open epoch */
	uint64_t start_ns;	     /* when it began */
	int fds[TALLY_EPOCH_KINDS];  /* of the open epoch */
	int next[TALLY_EPOCH_KINDS]; /* of the one after it, once it is prepared */
	bool prepared;
	bool unsettled; /* flipped, but the wait failed: no draining yet (L1) */
	int cpus;
	uint8_t id[TALLY_LEDGER_ID];
	struct tally_row_place *places; /* 2 * TALLY_PLACES, mapped; NULL: the programs know none */
	struct tally_epoch *epoch;	/* mapped; NULL: it is of the ABI before, and cannot be */
};

static const enum tally_map outer_maps[] = { TALLY_MAP_EPOCHS_ROWS, TALLY_MAP_EPOCHS_SPILL,
					     TALLY_MAP_EPOCHS_TOTALS };

static uint32_t slot_of(uint64_t number)
{
	return TALLY_EPOCH_INDEX(number);
}

/* ---- places ---- */

static size_t places_bytes(void)
{
	return 2 * TALLY_PLACES * sizeof(struct tally_row_place);
}

static int map_all(struct tally_ledger *ledger)
{
	const int *maps = ledger->load->maps;
	void *base = NULL;
	int err;

	if (!tally_load_map(maps[TALLY_MAP_EPOCH], sizeof(*ledger->epoch), &base))
		ledger->epoch = base;
	if (maps[TALLY_MAP_PLACES] < 0)
		return 0;
	err = tally_load_map(maps[TALLY_MAP_PLACES], places_bytes(), &base);
	if (!err)
		ledger->places = base;
	return err;
}

/* Its place's epoch is said last by who claimed it. */
static uint32_t epoch_of(const struct tally_row_place *place)
{
	return __atomic_load_n(&place->epoch, __ATOMIC_ACQUIRE);
}

/*
 * Programs of another epoch may look at it: it is theirs once `conn` says so, which is last. Without `epoch` all
 * else is zero already, should we die here.
 */
static void free_place(struct tally_row_place *place)
{
	memset(&place->row, 0, sizeof(place->row));
	memset((uint8_t *)&place->key + sizeof(place->key.conn), 0,
	       sizeof(place->key) - sizeof(place->key.conn));
	__atomic_store_n(&place->epoch, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&place->key.conn, 0, __ATOMIC_RELEASE);
}

static struct tally_row_place *half_of(const struct tally_ledger *ledger, uint64_t number)
{
	return ledger->places ? ledger->places + TALLY_PLACE_AT(slot_of(number), 0) : NULL;
}

/* Those of the epoch of that number. Nobody writes them any more. */
static void free_places(struct tally_ledger *ledger, uint64_t number)
{
	struct tally_row_place *half = half_of(ledger, number);

	for (uint32_t i = 0; half && i < TALLY_PLACES; i++)
		if (half[i].key.conn && epoch_of(&half[i]) == (uint32_t)number)
			free_place(&half[i]);
}

/* Is it of an epoch that is gone? Whoever released that died before its places were free. */
static bool is_left(const struct tally_ledger *ledger, uint32_t epoch)
{
	uint64_t number = 0;
	int err = 0;

	while (!err && epoch != (uint32_t)number)
		err = tally_epoch_next(ledger->load, number + 1, &number);
	return err == -ENOENT;
}

/* Where no program claims any, a place without epoch is one that was not freed to its end. */
static void clear_places(struct tally_ledger *ledger)
{
	const uint32_t closed = slot_of(ledger->number + 1);
	uint32_t checked = 0; /* many places, few epochs */
	bool left = false;

	for (uint32_t i = 0; ledger->places && i < 2 * TALLY_PLACES; i++) {
		struct tally_row_place *place = &ledger->places[i];
		uint32_t epoch = epoch_of(place);

		if (!epoch) {
			if (i / TALLY_PLACES == closed && place->key.conn)
				free_place(place);
			continue;
		}
		if (epoch != checked)
			left = is_left(ledger, epoch);
		checked = epoch;
		if (left)
			free_place(place);
	}
}

/* ---- epochs ---- */

static int fill_slots(struct tally_ledger *ledger, uint64_t number, const int *fds)
{
	__u32 slot = slot_of(number);

	for (int i = 0; i < TALLY_EPOCH_KINDS; i++) {
		int outer = ledger->load->maps[outer_maps[i]];

		if (bpf_map_update_elem(outer, &slot, &fds[i], BPF_ANY))
			return -errno;
	}
	return 0;
}

/* L1. Any update of an array of maps waits for the programs that run. */
static int settle(struct tally_ledger *ledger)
{
	int outer = ledger->load->maps[TALLY_MAP_EPOCHS_ROWS];
	__u32 slot = slot_of(ledger->number);

	if (bpf_map_update_elem(outer, &slot, &ledger->fds[TALLY_EPOCH_ROWS], BPF_ANY))
		return -errno;
	ledger->unsettled = false;
	return 0;
}

/* What errors may teach in one window is a quarter of a small dictionary: we make room in between only. */
static __u32 guesses_spent(const struct tally_ledger *ledger)
{
	__u32 keys = tally_load_capacity(ledger->load, TALLY_MAP_DICTIONARY);

	return TALLY_GUESSES - TALLY_MIN(keys / 4, (__u32)TALLY_GUESSES);
}

/*
 * Programs take all from the number, so it is written in one store. An update copies it, octet by octet for all
 * that the architecture says; where there is nothing else, on pins of the ABI before, no torn one was seen.
 */
static int flip(struct tally_ledger *ledger, uint64_t number)
{
	struct tally_epoch epoch = { .index = slot_of(number),
				     .guesses = guesses_spent(ledger),
				     .number = number };
	__u32 zero = 0;

	if (ledger->epoch) {
		ledger->epoch->index = epoch.index;
		__atomic_store_n(&ledger->epoch->guesses, epoch.guesses, __ATOMIC_RELAXED);
		__atomic_store_n(&ledger->epoch->number, number, __ATOMIC_SEQ_CST);
		return 0;
	}
	return bpf_map_update_elem(ledger->load->maps[TALLY_MAP_EPOCH], &zero, &epoch, BPF_ANY)
		       ? -errno
		       : 0;
}

static int put_window(struct tally_ledger *ledger, uint64_t number, const struct tally_window *w)
{
	return bpf_map_update_elem(ledger->load->maps[TALLY_MAP_WINDOWS], &number, w, BPF_ANY)
		       ? -errno
		       : 0;
}

static int get_window(struct tally_ledger *ledger, uint64_t number, struct tally_window *ret_window)
{
	int fd = ledger->load->maps[TALLY_MAP_WINDOWS];

	return bpf_map_lookup_elem(fd, &number, ret_window) ? -errno : 0;
}

/* The very first epoch of these pins. The number is written last: without it, we begin again. */
static int begin(struct tally_ledger *ledger, uint64_t now_ns)
{
	struct tally_window window = { .start_ns = now_ns };
	int err = tally_epoch_unpin(ledger->load, 1);

	if (!err)
		err = tally_epoch_create(ledger->load, 1, ledger->fds);
	if (!err)
		err = put_window(ledger, 1, &window);
	if (!err)
		err = fill_slots(ledger, 1, ledger->fds);
	if (!err)
		err = flip(ledger, 1);
	if (err)
		return err;
	ledger->number = 1;
	ledger->start_ns = now_ns;
	return 0;
}

/* Made for a swap that never came, or released by half: nobody writes or needs them. */
static int clear_halves(struct tally_ledger *ledger)
{
	uint64_t number = 0;
	int fds[TALLY_EPOCH_KINDS];

	while (!tally_epoch_next(ledger->load, number + 1, &number)) {
		int err = -ENOENT;

		if (number == ledger->number)
			continue;
		if (number < ledger->number)
			err = tally_epoch_open(ledger->load, number, fds);
		if (!err) {
			tally_epoch_close(fds);
			continue;
		}
		if (err != -ENOENT) /* it may be whole: nothing of it may go */
			return err;
		err = tally_epoch_unpin(ledger->load, number);
		if (err)
			return err;
	}
	return 0;
}

/*
 * Windows of epochs that are gone: who released them died before the window went, too. They go in order, so
 * that nobody needs one before the oldest. What stays is room that is missing, and no reason not to start.
 */
static void clear_windows(struct tally_ledger *ledger)
{
	int fd = ledger->load->maps[TALLY_MAP_WINDOWS];
	uint64_t oldest, number = 0, next = 0;
	int err = tally_epoch_next(ledger->load, 1, &oldest);

	if (!err)
		err = bpf_map_get_next_key(fd, NULL, &number);
	while (!err) {
		err = bpf_map_get_next_key(fd, &number, &next); /* before this one is gone */
		if (number < oldest)
			(void)bpf_map_delete_elem(fd, &number);
		number = next;
	}
}

static int resume(struct tally_ledger *ledger, uint64_t number)
{
	struct tally_window window;
	int err;

	ledger->number = number;
	err = tally_epoch_open(ledger->load, number, ledger->fds);
	if (err == -ENOENT)
		return -EUCLEAN; /* the pins of the open epoch: somebody removed them */
	if (!err)
		err = get_window(ledger, number, &window);
	if (!err)
		err = settle(ledger);
	if (!err)
		err = clear_halves(ledger);
	if (err)
		return err;
	clear_windows(ledger);
	clear_places(ledger);
	ledger->start_ns = window.start_ns;
	return 0;
}

/* Not the secret itself: the id is written to files. */
static int make_id(struct tally_ledger *ledger)
{
	struct {
		char label[32];
		uint64_t secret[2];
	} text = { .label = "tally ledger id" };
	uint8_t digest[SHA256_DIGEST_LENGTH];
	int err = tally_load_secret(ledger->load, text.secret);

	if (err)
		return err;
	SHA256((const uint8_t *)&text, sizeof(text), digest);
	memcpy(ledger->id, digest, sizeof(ledger->id));
	explicit_bzero(&text, sizeof(text));
	return 0;
}

int tally_ledger_open(struct tally_load *load, uint64_t now_ns, struct tally_ledger **ret_ledger)
{
	struct tally_ledger *ledger = calloc(1, sizeof(*ledger));
	struct tally_epoch epoch;
	__u32 zero = 0;
	int err;

	if (!ledger)
		return -ENOMEM;
	ledger->load = load;
	for (int i = 0; i < TALLY_EPOCH_KINDS; i++)
		ledger->fds[i] = ledger->next[i] = -1;
	ledger->cpus = libbpf_num_possible_cpus();
	err = ledger->cpus < 0 ? ledger->cpus : make_id(ledger);
	if (!err)
		err = map_all(ledger);
	if (!err && bpf_map_lookup_elem(load->maps[TALLY_MAP_EPOCH], &zero, &epoch))
		err = -errno;
	if (!err)
		err = epoch.number ? resume(ledger, epoch.number) : begin(ledger, now_ns);
	if (err) {
		tally_ledger_close(ledger);
		return err;
	}
	*ret_ledger = ledger;
	return 0;
}

void tally_ledger_close(struct tally_ledger *ledger)
{
	if (!ledger)
		return;
	tally_epoch_close(ledger->fds);
	tally_epoch_close(ledger->next);
	if (ledger->places)
		(void)munmap(ledger->places, places_bytes());
	if (ledger->epoch)
		(void)munmap(ledger->epoch, sizeof(*ledger->epoch));
	free(ledger);
}

uint64_t tally_ledger_number(const struct tally_ledger *ledger)
{
	return ledger->number;
}

uint64_t tally_ledger_start_ns(const struct tally_ledger *ledger)
{
	return ledger->start_ns;
}

void tally_ledger_id(const struct tally_ledger *ledger, uint8_t ret_id[TALLY_LEDGER_ID])
{
	memcpy(ret_id, ledger->id, TALLY_LEDGER_ID);
}

/* Maps of a size cost time and memory: they can be made before they are needed. */
int tally_ledger_prepare(struct tally_ledger *ledger)
{
	uint64_t number = ledger->number + 1;
	int err;

	if (ledger->prepared)
		return 0;
	err = tally_epoch_unpin(ledger->load, number);
	if (!err)
		err = tally_epoch_create(ledger->load, number, ledger->next);
	if (!err)
		err = fill_slots(ledger, number, ledger->next);
	if (err) {
		tally_epoch_close(ledger->next);
		return err; /* pins that stand already are removed by the next try */
	}
	ledger->prepared = true;
	return 0;
}

/* L2, then the flip, which is the last thing that can fail. */
static int turn(struct tally_ledger *ledger, const struct tally_window *closed,
		const struct tally_window *next)
{
	int err = put_window(ledger, ledger->number + 1, next);

	if (!err)
		err = put_window(ledger, ledger->number, closed);
	if (!err)
		err = flip(ledger, ledger->number + 1);
	return err;
}

int tally_ledger_swap(struct tally_ledger *ledger, uint64_t end_ns, uint64_t next_ns,
		      enum tally_close_cause cause)
{
	struct tally_window closed = { ledger->start_ns, end_ns, cause, 0 };
	struct tally_window next = { .start_ns = next_ns };
	int err = ledger->unsettled ? settle(ledger) : 0;

	if (!err)
		err = tally_ledger_prepare(ledger);
	if (!err)
		err = turn(ledger, &closed, &next);
	if (err)
		return err;
	tally_epoch_close(ledger->fds);
	for (int i = 0; i < TALLY_EPOCH_KINDS; i++)
		ledger->fds[i] = TAKE_FD(ledger->next[i]);
	ledger->prepared = false;
	ledger->number++;
	ledger->start_ns = next_ns;
	ledger->unsettled = true;
	(void)!settle(ledger); /* oldest() tries again */
	return 0;
}

int tally_ledger_repair(struct tally_ledger *ledger)
{
	tally_epoch_close(ledger->next);
	ledger->prepared = false;
	clear_places(ledger);
	return tally_epoch_pin(ledger->load, ledger->number, ledger->fds);
}

int tally_ledger_oldest(struct tally_ledger *ledger, uint64_t *ret_number)
{
	uint64_t number;
	int err;

	if (ledger->unsettled) {
		err = settle(ledger);
		if (err)
			return err;
	}
	err = tally_epoch_next(ledger->load, 1, &number);
	if (err)
		return err;
	if (number >= ledger->number)
		return -ENOENT;
	*ret_number = number;
	return 0;
}

uint32_t tally_ledger_frozen_count(const struct tally_ledger *ledger)
{
	uint64_t number = 0;
	uint32_t n = 0;

	while (!tally_epoch_next(ledger->load, number + 1, &number) && number < ledger->number)
		n++;
	return n;
}

static int grow(struct tally_frozen *frozen, size_t more, size_t *cap)
{
	struct tally_frozen_row *rows;
	size_t want = *cap ? *cap : BATCH;

	while (want < frozen->n_rows + more)
		want *= 2;
	if (want == *cap)
		return 0;
	rows = reallocarray(frozen->rows, want, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	frozen->rows = rows;
	*cap = want;
	return 0;
}

struct batch {
	struct tally_row_key *keys;
	struct tally_row *rows;
	uint32_t room;
};

static void batch_done(struct batch *batch)
{
	free(batch->keys);
	free(batch->rows);
}

static int batch_resize(struct batch *batch, uint32_t room)
{
	batch_done(batch);
	batch->keys = calloc(room, sizeof(*batch->keys));
	batch->rows = calloc(room, sizeof(*batch->rows));
	batch->room = room;
	return batch->keys && batch->rows ? 0 : -ENOMEM;
}

static int append(struct tally_frozen *frozen, const struct batch *batch, uint32_t n, size_t *cap)
{
	int err = grow(frozen, n, cap);

	if (err)
		return err;
	for (uint32_t i = 0; i < n; i++) {
		struct tally_frozen_row *row = &frozen->rows[frozen->n_rows++];

		row->key = batch->keys[i];
		row->row = batch->rows[i];
		tally_row_whole(&row->row);
	}
	return 0;
}

/* Read a whole hash. ENOENT comes with the last entries, ENOSPC when one bucket is over our room.
 * -E2BIG: the epoch has more than max rows. */
static int read_rows(int fd, struct tally_frozen *frozen, size_t max, size_t *cap)
{
	_cleanup_(batch_done) struct batch batch = {};
	__u64 cursor = 0; /* the kernel writes a u32 bucket number */
	bool first = true;
	int err = batch_resize(&batch, BATCH);

	while (!err) {
		__u32 n = batch.room;
		int last = bpf_map_lookup_batch(fd, first ? NULL : &cursor, &cursor, batch.keys,
						batch.rows, &n, NULL)
				   ? errno
				   : 0;

		if (last == ENOSPC) {
			err = batch_resize(&batch, batch.room * 2);
			continue;
		}
		if (last && last != ENOENT)
			return -last;
		err = frozen->n_rows + n > max ? -E2BIG : append(frozen, &batch, n, cap);
		if (last)
			return err;
		first = false;
	}
	return err;
}

static int read_places(const struct tally_ledger *ledger, struct tally_frozen *frozen, size_t max,
		       size_t *cap)
{
	const struct tally_row_place *half = half_of(ledger, frozen->number);

	for (uint32_t i = 0; half && i < TALLY_PLACES; i++) {
		struct tally_frozen_row *row;
		int err;

		if (epoch_of(&half[i]) != (uint32_t)frozen->number || !half[i].key.conn)
			continue;
		err = frozen->n_rows == max ? -E2BIG : grow(frozen, 1, cap);
		if (err)
			return err;
		row = &frozen->rows[frozen->n_rows++];
		frozen->n_placed++;
		row->key = half[i].key;
		row->row = half[i].row;
		tally_row_whole(&row->row);
	}
	return 0;
}

/* Counters are all u64, so that adding CPUs and levels up is adding words up. */
static int read_totals(const struct tally_ledger *ledger, int fd, struct tally_frozen *frozen)
{
	const size_t words = sizeof(struct tally_totals) / sizeof(__u64);
	_cleanup_free_ __u64 *values = calloc(ledger->cpus, sizeof(struct tally_totals));

	frozen->totals = calloc(TALLY_SERVICES, sizeof(*frozen->totals));
	if (!values || !frozen->totals)
		return -ENOMEM;
	frozen->n_services = TALLY_SERVICES;
	for (__u32 at = 0; at < TALLY_TOTALS; at++) {
		__u64 *sum = (__u64 *)&frozen->totals[at % TALLY_SERVICES];

		if (bpf_map_lookup_elem(fd, &at, values))
			return -errno;
		for (size_t i = 0; i < words * ledger->cpus; i++)
			sum[i % words] += values[i];
	}
	return 0;
}

/* max_rows 0: totals only. */
static int read_epoch(const struct tally_ledger *ledger, const int *fds, size_t max_rows,
		      struct tally_frozen *frozen)
{
	size_t cap = 0;
	int err = 0;

	if (max_rows)
		err = read_rows(fds[TALLY_EPOCH_ROWS], frozen, max_rows, &cap);
	if (max_rows && !err)
		err = read_rows(fds[TALLY_EPOCH_SPILL], frozen, max_rows, &cap);
	if (max_rows && !err)
		err = read_places(ledger, frozen, max_rows, &cap);
	if (!err)
		err = read_totals(ledger, fds[TALLY_EPOCH_TOTALS], frozen);
	return err;
}

static int copy_out(struct tally_ledger *ledger, uint64_t number, const int *fds, size_t max_rows,
		    struct tally_frozen *ret_frozen)
{
	struct tally_frozen frozen = { .number = number };
	struct tally_window window;
	int err = get_window(ledger, number, &window);

	if (err)
		return err;
	memcpy(frozen.ledger, ledger->id, sizeof(frozen.ledger));
	frozen.start_ns = window.start_ns;
	frozen.end_ns = window.end_ns;
	frozen.cause = window.cause;
	err = read_epoch(ledger, fds, max_rows, &frozen);
	if (err) {
		tally_ledger_frozen_done(&frozen);
		return err;
	}
	*ret_frozen = frozen;
	return 0;
}

int tally_ledger_drain(struct tally_ledger *ledger, uint64_t number,
		       struct tally_frozen *ret_frozen)
{
	int fds[TALLY_EPOCH_KINDS];
	int err;

	if (number >= ledger->number || ledger->unsettled)
		return -EBUSY;
	err = tally_epoch_open(ledger->load, number, fds);
	if (err)
		return err;
	err = copy_out(ledger, number, fds, SIZE_MAX, ret_frozen);
	tally_epoch_close(fds);
	return err;
}

int tally_ledger_peek(struct tally_ledger *ledger, size_t max_rows, struct tally_frozen *ret_frozen)
{
	return copy_out(ledger, ledger->number, ledger->fds, max_rows, ret_frozen);
}

int tally_ledger_peek_totals(struct tally_ledger *ledger, struct tally_frozen *ret_frozen)
{
	return copy_out(ledger, ledger->number, ledger->fds, 0, ret_frozen);
}

void tally_ledger_frozen_done(struct tally_frozen *frozen)
{
	free(frozen->rows);
	free(frozen->totals);
	memset(frozen, 0, sizeof(*frozen));
}

/* The outer maps still hold the last frozen epoch: let go of it, its memory is wanted. */
static void clear_slots(struct tally_ledger *ledger)
{
	__u32 slot = slot_of(ledger->number + 1);

	for (int i = 0; i < TALLY_EPOCH_KINDS; i++)
		/* an empty slot is no error, and the next swap fills it anyway */
		(void)bpf_map_delete_elem(ledger->load->maps[outer_maps[i]], &slot);
}

int tally_ledger_release(struct tally_ledger *ledger, uint64_t number)
{
	int err;

	if (number >= ledger->number)
		return -EBUSY;
	err = tally_epoch_unpin(ledger->load, number);
	if (err)
		return err;
	free_places(ledger, number);
	if (number + 1 == ledger->number && !ledger->prepared)
		clear_slots(ledger);
	(void)bpf_map_delete_elem(ledger->load->maps[TALLY_MAP_WINDOWS],
				  &number); /* gone is fine */
	return 0;
}
