/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The maps of one epoch, as made, pinned and found again.
 *
 *	PIN_DIR/epoch-<n>-rows     hash, allocated as rows come
 *	PIN_DIR/epoch-<n>-spill    hash, preallocated: it takes what `rows` refuses
 *	PIN_DIR/epoch-<n>-totals   per-CPU array, cannot refuse
 *	PIN_DIR/windows            epoch number -> struct tally_window
 *
 * Invariant: pins of an epoch go away in the order totals, spill, rows, before its window's entry; so
 * an epoch that still has `totals` is whole, and one without is already released.
 */
#ifndef TALLY_COLLECT_EPOCH_H
#define TALLY_COLLECT_EPOCH_H

#include <stddef.h>
#include <stdint.h>

#include "base/util.h"
#include "collect/load.h"

enum tally_epoch_kind {
	TALLY_EPOCH_ROWS,
	TALLY_EPOCH_SPILL,
	TALLY_EPOCH_TOTALS,
	TALLY_EPOCH_KINDS
};

#define TALLY_WINDOWS 4096 /* epochs waiting for a disk, at most; then windows grow */

/* When an epoch was in force. end 0: it still is, or the agent died before it could say. */
struct tally_window {
	uint64_t start_ns; /* UTC */
	uint64_t end_ns;
	uint32_t cause; /* enum tally_close_cause */
	uint32_t pad;
};

/* A new map of that kind, of the sizes in load. */
TALLY_MUST int tally_epoch_create_map(const struct tally_load *load, enum tally_epoch_kind kind,
				      int *ret_fd);

TALLY_MUST int tally_epoch_create_windows(int *ret_fd);

/* The three maps of epoch `number`: new and pinned, or from their pins. */
TALLY_MUST int tally_epoch_create(struct tally_load *load, uint64_t number,
				  int ret_fds[TALLY_EPOCH_KINDS]);
TALLY_MUST int tally_epoch_open(const struct tally_load *load, uint64_t number,
				int ret_fds[TALLY_EPOCH_KINDS]);
/* Pin maps that are held, where their pins are gone. */
TALLY_MUST int tally_epoch_pin(struct tally_load *load, uint64_t number,
			       const int fds[TALLY_EPOCH_KINDS]);
void tally_epoch_close(int fds[TALLY_EPOCH_KINDS]);

/* Remove the pins of an epoch; those that are gone are no error. */
TALLY_MUST int tally_epoch_unpin(struct tally_load *load, uint64_t number);

/* The smallest pinned epoch number that is at least `from`. -ENOENT: none. */
TALLY_MUST int tally_epoch_next(const struct tally_load *load, uint64_t from, uint64_t *ret_number);

#endif
