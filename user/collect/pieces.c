/* SPDX-License-Identifier: Apache-2.0 */
#include "collect/pieces.h"

#include <bpf/bpf.h>
#include <sys/mman.h>

#include "tally/pieces.h"

struct tally_pieces {
	int deferred_fd;
	struct tally_parked *pool; /* mapped */
	size_t bytes;
};

TALLY_CLEANUP(struct tally_pieces *, pieces_closep, tally_pieces_close)

/* Programs of another version that count on have pieces of their own, which we cannot read. */
static bool is_ours(int fd)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);

	return !bpf_obj_get_info_by_fd(fd, &info, &len) && info.max_entries == TALLY_PARK_POOL &&
	       info.value_size == sizeof(struct tally_parked);
}

int tally_pieces_open(const struct tally_load *load, struct tally_pieces **ret_pieces)
{
	_cleanup_(pieces_closep) struct tally_pieces *pieces = calloc(1, sizeof(*pieces));
	size_t page = sysconf(_SC_PAGESIZE);
	void *base = NULL;
	int err;

	if (!pieces)
		return -ENOMEM;
	if (!is_ours(load->maps[TALLY_MAP_PARKED])) {
		*ret_pieces = TAKE_PTR(pieces);
		return 0;
	}
	pieces->deferred_fd = load->maps[TALLY_MAP_DEFERRED];
	pieces->bytes = (sizeof(*pieces->pool) * TALLY_PARK_POOL + page - 1) / page * page;
	err = tally_load_map(load->maps[TALLY_MAP_PARKED], pieces->bytes, &base);
	if (err)
		return err;
	pieces->pool = base;
	/* Payload: not in core dumps. Old kernels may refuse, which changes nothing else. */
	(void)madvise(base, pieces->bytes, MADV_DONTDUMP);
	*ret_pieces = TAKE_PTR(pieces);
	return 0;
}

void tally_pieces_close(struct tally_pieces *pieces)
{
	if (!pieces)
		return;
	if (pieces->pool)
		(void)munmap(pieces->pool, pieces->bytes); /* cannot fail */
	free(pieces);
}

static void wipe(struct tally_parked *piece)
{
	__atomic_store_n(&piece->owner, 0, __ATOMIC_RELEASE); /* from here on nobody's */
	explicit_bzero(&piece->data, sizeof(piece->data));
	__atomic_store_n(&piece->since_ns, 0, __ATOMIC_RELAXED); /* before whoever takes it next */
	__atomic_store_n(&piece->busy, 0, __ATOMIC_RELEASE);
}

/* Since 0: it is being taken. */
static bool is_stale(const struct tally_parked *piece, uint64_t now_ns)
{
	uint64_t since_ns;

	if (!__atomic_load_n(&piece->busy, __ATOMIC_ACQUIRE))
		return false;
	since_ns = __atomic_load_n(&piece->since_ns, __ATOMIC_RELAXED);
	return since_ns && since_ns + TALLY_PIECE_STALE_NS <= now_ns;
}

static int sweep_pool(struct tally_pieces *pieces, uint64_t now_ns)
{
	int swept = 0;

	for (size_t i = 0; i < TALLY_PARK_POOL; i++) {
		struct tally_parked *piece = &pieces->pool[i];

		if (!is_stale(piece, now_ns))
			continue;
		wipe(piece);
		swept++;
	}
	return swept;
}

/* Whoever deletes the entry owns its pieces; a connection that was born has deleted it. */
static int sweep_entry(struct tally_pieces *pieces, const struct tally_deferred_key *key,
		       uint64_t now_ns)
{
	struct tally_deferred entry;
	int swept = 0;

	if (bpf_map_lookup_elem(pieces->deferred_fd, key, &entry) ||
	    entry.since_ns + TALLY_DEFERRED_STALE_NS > now_ns ||
	    bpf_map_delete_elem(pieces->deferred_fd, key))
		return 0;
	for (size_t i = 0; i < TALLY_PARK_PIECES; i++) {
		uint32_t id = entry.piece[i] - 1;

		if (id >= TALLY_PARK_POOL || pieces->pool[id].owner)
			continue;
		wipe(&pieces->pool[id]);
		swept++;
	}
	return swept;
}

#define DEFERRED_TURNS 8192 /* entries may come while we look: not for ever */

static int sweep_deferred(struct tally_pieces *pieces, uint64_t now_ns)
{
	struct tally_deferred_key key, next;
	void *previous = NULL;
	int swept = 0;

	for (int i = 0; i < DEFERRED_TURNS; i++) {
		int last = bpf_map_get_next_key(pieces->deferred_fd, previous, &next) ? errno : 0;

		if (previous)
			swept += sweep_entry(pieces, &key, now_ns);
		if (last)
			return last == ENOENT ? swept : -last;
		key = next;
		previous = &key;
	}
	return swept;
}

int tally_pieces_sweep(struct tally_pieces *pieces, uint64_t now_ns)
{
	int swept;

	if (!pieces->pool)
		return 0;
	swept = sweep_deferred(pieces, now_ns);
	return swept < 0 ? swept : swept + sweep_pool(pieces, now_ns);
}
