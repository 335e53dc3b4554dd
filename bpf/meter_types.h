/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Values of maps that only programs read, and the agent's sweeper of forgotten pieces. */
#ifndef TALLY_METER_TYPES_H
#define TALLY_METER_TYPES_H

#include "engine/conn.h"

/* A piece of a segment that came early, or before its connection was born. */
struct tally_parked {
	__u32 busy; /* 0: free; taken by exchange */
	__u32 seq;
	__u32 len;
	__u32 pad;
	__u64 since_ns;
	struct tally_chunk data;
};

/* Data that arrived with the listener (TCP_DEFER_ACCEPT, Fast Open, data on the handshake's ACK). */
struct tally_deferred_key {
	__u8 peer[16];
	__u16 peer_port; /* host order */
	__u16 port;
	__u32 pad;
};

struct tally_deferred {
	__u64 since_ns;
	__u32 count;
	__u32 pad;
	__u32 piece[TALLY_PARK_PIECES]; /* ids + 1 */
};

#include "run.h"

struct tally_scratch {
	__u32 busy;
	__u32 pad;
	struct tally_run run;
	struct tally_deferred deferred;
	struct tally_candidate candidate;
};

#endif
