/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Places (ledger.h): the row of what a connection asks for most stands where its number says, and nothing is
 * hashed to find it.
 *
 * Invariants: P1 a place is claimed by its key's `conn`, once per epoch; whoever holds that connection's OUT lock
 * writes the rest of it, and says which epoch it is of last. P2 nobody but the agent frees a place, when the
 * epoch is released, which is before the next epoch of its half is opened (the agent settles one window before
 * it closes another). What has no place is in a hash; late octets of an exchange of the epoch before may have
 * come there first, so that one key is in both: the agent adds rows of one key up.
 */
#ifndef TALLY_BPF_PLACE_H
#define TALLY_BPF_PLACE_H

#include <bpf/bpf_helpers.h>

#include "engine/port.h"
#include "tally/ledger.h"

/* Mapped, so that places begin with a page, and the agent reads them without a call for each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2 * TALLY_PLACES);
	__type(key, __u32);
	__type(value, struct tally_row_place);
} places SEC(".maps");

static __always_inline struct tally_row_place *place_of(__u32 index, __u64 conn)
{
	__u32 at = TALLY_PLACE_AT(index, conn);

	return bpf_map_lookup_elem(&places, &at);
}

static __always_inline __u64 place_differs(const struct tally_row_place *p,
					   const struct tally_row_key *key, __u32 epoch)
{
	const __u64 *a = (const __u64 *)&p->key, *b = (const __u64 *)key;

	return (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
	       (p->epoch ^ epoch);
}

/* The row of that key, if it has a place. */
static __always_inline struct tally_row *place_find(__u32 index, __u32 epoch,
						    const struct tally_row_key *key)
{
	struct tally_row_place *p = place_of(index, key->conn);

	return p && !place_differs(p, key, epoch) ? &p->row : 0;
}

/* The same, or of a place that was free. NULL: it is another's. */
static __always_inline struct tally_row *place_claim(__u32 index, __u32 epoch,
						     const struct tally_row_key *key)
{
	struct tally_row_place *p = place_of(index, key->conn);
	const __u64 *from = (const __u64 *)key;
	__u64 *to;

	if (!p || !key->conn)
		return 0;
	if (!place_differs(p, key, epoch))
		return &p->row;
	if (p->key.conn || __sync_val_compare_and_swap(&p->key.conn, 0, key->conn))
		return 0;
	to = (__u64 *)&p->key;
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
	to[4] = from[4];
	tally_publish(&p->epoch, epoch);
	return &p->row;
}

#endif
