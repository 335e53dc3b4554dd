/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A replay, from packets to batches: the flows and the meter of replay/, windows by the capture's own
 * clock, and the accounting of the agent behind them.
 *
 *	packet ── window over? ── flows ── meter ── rows ── sealed ── batch ── the caller
 *
 * Invariants: R1 the same capture, config and catalog give the same batches, octet by octet; R2 a window
 * in which nothing happened makes no batch; R3 the numbers of epochs, batches and records begin at 1.
 */
#ifndef TALLY_REPLAY_BOOKS_H
#define TALLY_REPLAY_BOOKS_H

#include "account/account.h"
#include "account/batch.h"
#include "base/config.h"
#include "identify/catalog.h"
#include "replay/flows.h"

struct tally_replay;

struct tally_replay_setup {
	const struct tally_config *config;   /* these four must outlive the replay */
	const struct tally_catalog *catalog; /* or NULL */
	const char *secret;		     /* of the fleet */
	const char *service;		     /* meter only this one; NULL: all */
	struct tally_meter_options caps;     /* for tests; 0: the kernel's */
	int (*batch)(void *ctx, const struct tally_batch *batch); /* an error ends the replay */
	void *ctx;
};

/*
 * -EINVAL: what the config asks for cannot be told apart in a capture; *ret_error says so, to free.
 * -ENOMEM.
 */
TALLY_MUST int tally_replay_new(const struct tally_replay_setup *setup,
				struct tally_replay **ret_replay, char **ret_error);
void tally_replay_free(struct tally_replay *replay);

/* 0, -ENOMEM, or what batch() returned. */
TALLY_MUST int tally_replay_packet(struct tally_replay *replay,
				   const struct tally_capture_packet *packet);
/* The last window. */
TALLY_MUST int tally_replay_finish(struct tally_replay *replay);

const struct tally_flows_counts *tally_replay_counts(const struct tally_replay *replay);
/* What is still open, and in no record; the number of connections. */
size_t tally_replay_held(const struct tally_replay *replay, struct tally_meter_held *ret_held);

TALLY_CLEANUP(struct tally_replay *, tally_replay_freep, tally_replay_free)

#endif
