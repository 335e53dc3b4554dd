/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reserve: a file of blocks that nothing else gets, so that what waits can leave the disk it filled.
 *
 *	reserve		in the state directory: room for a batch, and to spare for checkpoints
 *
 * Shipping needs room before it frees any: a batch is written before its sealed files go, and a sink notes
 * what it is about to do. The reserve is given up when that finds none: for a batch all but the spare room
 * (give_batch), which the state behind it needs though others fill the disk meanwhile; for small files all
 * of it (release). It is made again once something was trimmed, or before the next file is sealed.
 *
 * Invariants: R1 nothing is sealed that the reserve could not make a batch of, and sealing never lives on
 * it; R2 it is never made of the last room, which checkpoints need.
 */
#ifndef TALLY_DELIVER_RESERVE_H
#define TALLY_DELIVER_RESERVE_H

#include "deliver/fs.h"

struct tally_reserve {
	const struct tally_fs *fs;
	__u64 held; /* bytes; 0: none */
};

/* Takes over the file that is there. */
int tally_reserve_open(struct tally_reserve *reserve, const struct tally_fs *fs)
	__attribute__((warn_unused_result));
/* Room for a batch of so many bytes, kept while so many are written. -ENOSPC: there is too little. */
int tally_reserve_hold(struct tally_reserve *reserve, __u64 batch_bytes, __u64 write_bytes)
	__attribute__((warn_unused_result));
/* As large as it should be, if there is room. */
void tally_reserve_refill(struct tally_reserve *reserve, __u64 batch_bytes);
/* Is there more than the spare room? */
bool tally_reserve_has_batch(const struct tally_reserve *reserve);
/* True: there is room now that was not there. */
bool tally_reserve_give_batch(struct tally_reserve *reserve);
bool tally_reserve_release(struct tally_reserve *reserve);
/* Would checkpoints still find room behind so many bytes? */
bool tally_reserve_spares(const struct tally_reserve *reserve, __u64 bytes);
/* Is it for want of room that this failed? */
bool tally_reserve_is_full(int r);

#endif
