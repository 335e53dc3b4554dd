/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exit codes of every command, after sysexits(3). They are documented, and scripts depend on them.
 */
#ifndef TALLY_BASE_EXIT_H
#define TALLY_BASE_EXIT_H

enum tally_exit {
	TALLY_EXIT_OK = 0,
	TALLY_EXIT_DIFFERS = 1, /* the command worked and its answer is no (audit) */
	TALLY_EXIT_LOSSES = 3,	/* audit: the books balance, but for losses that they declare */
	TALLY_EXIT_USAGE = 64,	/* unknown command or option */
	TALLY_EXIT_INPUT = 65,	/* input data cannot be read as what it claims to be */
	TALLY_EXIT_UNAVAILABLE = 69, /* no agent, no broker, not all of a topic, no secret (yet) */
	TALLY_EXIT_BUG = 70,	     /* an invariant of ours is broken */
	TALLY_EXIT_KERNEL = 71,	     /* the kernel lacks a feature */
	TALLY_EXIT_IO = 74,	     /* spool or state directory */
	TALLY_EXIT_CAPABILITY = 77,  /* a capability is missing */
	TALLY_EXIT_CONFIG = 78,	     /* config or key catalog */
};

#endif
