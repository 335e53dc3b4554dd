/* SPDX-License-Identifier: Apache-2.0 */
#include "deliver/reserve.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"

#define NAME "reserve"
#define BLOCK 4096ULL
#define BATCH_BYTES (8ULL << 20)  /* of most batches; what needs more has more */
#define SPARE_BYTES (64ULL << 10) /* a checkpoint of each sink, the state */
#define PART 16			  /* of a small disk each of them takes no more */

struct room {
	__u64 free, batch, spare;
};

static int measure(const struct tally_reserve *reserve, struct room *ret_room)
{
	__u64 total = 0, free = 0;
	int r = reserve->fs->room(reserve->fs->ctx, &total, &free);

	if (r == 0 && !total)
		r = -ENODATA; /* a file system that does not tell */
	if (r < 0)
		return r;
	*ret_room = (struct room){
		.free = free,
		.batch = TALLY_MIN(total / PART, BATCH_BYTES),
		.spare = TALLY_MIN(total / PART, SPARE_BYTES),
	};
	return 0;
}

static __u64 blocks(__u64 bytes)
{
	return (bytes + BLOCK - 1) / BLOCK * BLOCK;
}

bool tally_reserve_is_full(int r)
{
	return r == -ENOSPC || r == -EDQUOT;
}

static int resize(struct tally_reserve *reserve, __u64 bytes)
{
	int r = reserve->fs->allocate(reserve->fs->ctx, NAME, bytes);

	if (r == 0)
		reserve->held = bytes;
	else if (!tally_reserve_is_full(r))
		tally_log_warning("reserve_failed", "bytes=%llu error=%s",
				  (unsigned long long)bytes, strerror(-r));
	return r;
}

/* R2: grows to `bytes`, with so many to be written beside it. */
static int grow_beside(struct tally_reserve *reserve, const struct room *room, __u64 bytes,
		       __u64 write_bytes)
{
	__u64 more = bytes - reserve->held;

	if (room->free < more + blocks(write_bytes) + room->spare)
		return -ENOSPC;
	return resize(reserve, bytes);
}

int tally_reserve_hold(struct tally_reserve *reserve, __u64 batch_bytes, __u64 write_bytes)
{
	struct room room;
	__u64 least;
	int r;

	if (reserve->held >= blocks(batch_bytes) + SPARE_BYTES)
		return 0;
	r = measure(reserve, &room);
	if (r < 0)
		return r == -ENODATA ? 0 : r;
	least = blocks(batch_bytes + room.spare);
	if (reserve->held >= least)
		return 0;
	r = grow_beside(reserve, &room, TALLY_MAX(least, blocks(room.batch) + blocks(room.spare)),
			write_bytes);
	if (tally_reserve_is_full(r))
		r = grow_beside(reserve, &room, least, write_bytes);
	return tally_reserve_is_full(r) ? -ENOSPC : 0; /* of other faults writing will tell */
}

void tally_reserve_refill(struct tally_reserve *reserve, __u64 batch_bytes)
{
	struct room room;
	__u64 most;

	if (measure(reserve, &room) < 0)
		return; /* sealing will tell */
	most = TALLY_MAX(blocks(batch_bytes), blocks(room.batch)) + blocks(room.spare);
	if (reserve->held >= most || grow_beside(reserve, &room, most, 0) == 0)
		return;
	(void)tally_reserve_hold(reserve, batch_bytes, 0); /* or less; before the next is sealed */
}

static __u64 spare_bytes(const struct tally_reserve *reserve)
{
	struct room room;

	return blocks(measure(reserve, &room) < 0 ? SPARE_BYTES : room.spare);
}

bool tally_reserve_has_batch(const struct tally_reserve *reserve)
{
	return reserve->held > spare_bytes(reserve);
}

bool tally_reserve_give_batch(struct tally_reserve *reserve)
{
	__u64 spare = spare_bytes(reserve), held = reserve->held;

	if (held <= spare || resize(reserve, spare) < 0)
		return false;
	tally_log_notice("reserve_released", "bytes=%llu", (unsigned long long)(held - spare));
	return true;
}

bool tally_reserve_release(struct tally_reserve *reserve)
{
	const struct tally_fs *fs = reserve->fs;
	int r;

	if (!reserve->held)
		return false;
	r = fs->unlink(fs->ctx, "", NAME);
	if (r < 0 && r != -ENOENT)
		return false;
	tally_log_notice("reserve_released", "bytes=%llu", (unsigned long long)reserve->held);
	reserve->held = 0;
	(void)fs->sync_dir(fs->ctx, ""); /* some file systems free blocks only then */
	return r == 0;
}

static int find_size(void *arg, const char *name, __u64 size)
{
	__u64 *found = arg;

	if (strcmp(name, NAME) == 0)
		*found = size;
	return 0;
}

int tally_reserve_open(struct tally_reserve *reserve, const struct tally_fs *fs)
{
	__u64 size = 0;
	int r = fs->list(fs->ctx, "", find_size, &size);

	*reserve = (struct tally_reserve){ .fs = fs, .held = size };
	if (r < 0 || !size)
		return r;
	/* A copy of it may have come without its blocks. */
	if (tally_reserve_is_full(resize(reserve, size)))
		(void)tally_reserve_release(reserve);
	return 0;
}

bool tally_reserve_spares(const struct tally_reserve *reserve, __u64 bytes)
{
	struct room room;

	return reserve->held || measure(reserve, &room) < 0 ||
	       room.free >= blocks(bytes) + room.spare;
}
