/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sweeper of forgotten pieces (include/tally/pieces.h): of handshakes that came to nothing, and of
 * connections whose death no program saw. Without it a client could use up the pool, and early segments
 * of others would have no place to wait.
 */
#ifndef TALLY_COLLECT_PIECES_H
#define TALLY_COLLECT_PIECES_H

#include <stdint.h>

#include "base/util.h"
#include "collect/load.h"

#define TALLY_DEFERRED_STALE_NS (10 * TALLY_NS_PER_S) /* a birth follows its data at once */
#define TALLY_PIECE_STALE_NS \
	(900 * TALLY_NS_PER_S) /* TCP itself gives up within (RFC 1122: 100 s) */

struct tally_pieces;

TALLY_MUST int tally_pieces_open(const struct tally_load *load, struct tally_pieces **ret_pieces);
void tally_pieces_close(struct tally_pieces *pieces);

/* Frees, and wipes, what is stale at kernel time now_ns. Returns how many pieces, or -errno. */
int tally_pieces_sweep(struct tally_pieces *pieces, uint64_t now_ns);

#endif
