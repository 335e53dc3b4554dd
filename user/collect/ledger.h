/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's books: closing an epoch, reading it once it is final, and letting it go.
 *
 *	open ── swap ──> frozen ── drain ──> memory ── (made durable by others) ── release ──> gone
 *
 * Invariants:
 * L1 an epoch is drained only after a map-in-map update that came after the index was flipped: that
 *    update waits until no program can still write the old maps (kernel commit 1ae80cf31938);
 * L2 when and why an epoch was closed is pinned before the flip, so that it survives us;
 * L3 release is the only thing that removes pins of a frozen epoch;
 * L4 a failed swap changes nothing: the open epoch goes on.
 */
#ifndef TALLY_COLLECT_LEDGER_H
#define TALLY_COLLECT_LEDGER_H

#include <stdint.h>

#include "base/util.h"
#include "account/frozen.h"
#include "collect/epoch.h"
#include "collect/load.h"

struct tally_ledger;

/*
 * Find the epoch in force and those frozen before it, or begin with the first one, which starts at
 * now_ns (UTC). What a start that died left half made is removed.
 */
TALLY_MUST int tally_ledger_open(struct tally_load *load, uint64_t now_ns,
				 struct tally_ledger **ret_ledger);
void tally_ledger_close(struct tally_ledger *ledger);

uint64_t tally_ledger_number(const struct tally_ledger *ledger);
/* UTC, when the open epoch began. */
uint64_t tally_ledger_start_ns(const struct tally_ledger *ledger);
/* Identity of this set of pins. */
void tally_ledger_id(const struct tally_ledger *ledger, uint8_t ret_id[TALLY_LEDGER_ID]);

/* Make the maps of the next epoch now, so that the swap need not. Without it, the swap does. */
TALLY_MUST int tally_ledger_prepare(struct tally_ledger *ledger);

/* Close the open epoch with that end and cause; the next one starts at next_ns. Takes some 20 ms. */
TALLY_MUST int tally_ledger_swap(struct tally_ledger *ledger, uint64_t end_ns, uint64_t next_ns,
				 enum tally_close_cause cause);

/* Pins were removed under us: the open epoch is pinned again. Frozen ones whose pins went are lost. */
TALLY_MUST int tally_ledger_repair(struct tally_ledger *ledger);

/* The oldest frozen epoch, and how many there are. -ENOENT: none. */
TALLY_MUST int tally_ledger_oldest(struct tally_ledger *ledger, uint64_t *ret_number);
uint32_t tally_ledger_frozen_count(const struct tally_ledger *ledger);

/* Copy a frozen epoch into memory; tally_ledger_frozen_done() frees it. */
TALLY_MUST int tally_ledger_drain(struct tally_ledger *ledger, uint64_t number,
				  struct tally_frozen *ret_frozen);
/* The open epoch as it stands now: counters of different rows are of different moments. -E2BIG: it has
 * more than max_rows rows, and reading them would take long. */
TALLY_MUST int tally_ledger_peek(struct tally_ledger *ledger, size_t max_rows,
				 struct tally_frozen *ret_frozen);
/* The same without the rows: always cheap. */
TALLY_MUST int tally_ledger_peek_totals(struct tally_ledger *ledger,
					struct tally_frozen *ret_frozen);
void tally_ledger_frozen_done(struct tally_frozen *frozen);

/* Its records are durable: remove its pins and free its memory. */
TALLY_MUST int tally_ledger_release(struct tally_ledger *ledger, uint64_t number);

#endif
