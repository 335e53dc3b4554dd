/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frozen epoch, as the collector hands it over: plain memory, copied out of maps that nobody
 * writes any more. It belongs to the caller; accounting only reads it.
 *
 *	rows	every row of `rows` and of `spill`, in any order; equal keys may repeat. One of `spill`
 *		has no peer (all zeros), and so no connection: its `conn` is a CPU's number
 *	totals	one per service index, summed over CPUs
 *
 * Invariants: `number` grows by one from epoch to epoch of one ledger; a ledger is one set of
 * pins (a reboot, or pins deleted, makes another one with another id).
 */
#ifndef TALLY_ACCOUNT_FROZEN_H
#define TALLY_ACCOUNT_FROZEN_H

#include <stddef.h>

#include "tally/ledger.h"

#define TALLY_LEDGER_ID 16

/* Why the window was closed. Record field `close_cause`; values are stored on disk: never reuse. */
#define TALLY_CAUSES(X)                  \
	X(CAUSE_INTERVAL, 0, "interval") \
	X(CAUSE_HOUR, 1, "hour")         \
	X(CAUSE_SHUTDOWN, 2, "shutdown") \
	X(CAUSE_RELOAD, 3, "reload")     \
	X(CAUSE_CLOCK, 4, "clock")       \
	X(CAUSE_RECOVERED, 5, "recovered")
enum tally_close_cause { TALLY_CAUSES(TALLY_ENUM_ITEM) TALLY_CAUSE_COUNT };

struct tally_frozen_row {
	struct tally_row_key key;
	struct tally_row row;
};

struct tally_frozen {
	__u8 ledger
		[TALLY_LEDGER_ID]; /* random, made with the pins (settings.secret will do, hashed) */
	__u64 number;		   /* struct tally_epoch.number of the frozen epoch */
	__u64 start_ns;		   /* UTC, whole seconds: when the window was opened */
	__u64 end_ns;		   /* UTC, whole seconds, later than start_ns */
	enum tally_close_cause cause;

	struct tally_frozen_row *rows;
	size_t n_rows;
	size_t n_placed;	     /* of these, rows that stood in places: they fill no map */
	struct tally_totals *totals; /* [n_services], by service index */
	size_t n_services;
};

#endif
