/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the packets of a capture to what the meter is told in the kernel: which connection a segment
 * belongs to, when that was born and died, and what the server's TCP knew at that moment.
 *
 *	packet ── flow (client, server) ──┬─ handshake: birth, with the first positions
 *	                                  ├─ ACKs: rcv_nxt, snd_una, snd_nxt of the server
 *	                                  ├─ payload: to the meter
 *	                                  └─ FINs, RST: death
 *
 * A capture is no socket: what the server's TCP took is only known from its ACKs, so rcv_nxt never
 * runs ahead of them. Octets that are sent again before their ACK are compared here and dropped when
 * they are the same, whatever their number (the kernel can compare with the last chunk alone).
 *
 * A packet waits, for a while, for octets before its own, and for those that it acknowledges: captures
 * of two directions, or of two CPUs, are merged imprecisely, and segments are larger than the kernel's
 * meter would have to park. What does not come is a gap for the meter, as in the kernel.
 *
 * Invariants: F1 a segment is metered once, or counted under a reason; F2 a 4-tuple that is used again
 * is another connection; F3 the side that accepts is the server: without a handshake it is the one
 * whose port is metered, and when both are, the connection is not metered (`undirected`).
 */
#ifndef TALLY_REPLAY_FLOWS_H
#define TALLY_REPLAY_FLOWS_H

#include "replay/capture.h"
#include "replay/meter.h"

#define TALLY_FLOWS_OPEN (1u << 17)	/* connections metered at a time */
#define TALLY_FLOWS_KNOWN (1u << 20)	/* with those being opened, and those closed lately */
#define TALLY_FLOWS_COMPARED (1u << 16) /* octets without an ACK kept for comparison, each */

/* Segments with payload that were not metered, and why. */
#define TALLY_FLOWS_DROPS(X)                                           \
	X(DROP_UNDIRECTED, "of connections whose server is not known") \
	X(DROP_CLOSED, "after the end of their connection")            \
	X(DROP_TOO_MANY, "of more connections than can be followed")

#define TALLY_FLOWS_ITEM(symbol, text) TALLY_FLOWS_##symbol,
enum tally_flows_drop { TALLY_FLOWS_DROPS(TALLY_FLOWS_ITEM) TALLY_FLOWS_DROP_COUNT };

struct tally_flows_counts {
	uint64_t segments;	  /* to or from a metered port, of whatever length */
	uint64_t born, midstream; /* connections, with their handshake and without */
	uint64_t closed;
	uint64_t repeated; /* segments of clients with octets that were seen before */
	uint64_t dropped[TALLY_FLOWS_DROP_COUNT];
};

struct tally_flows;

/* Texts of enum tally_flows_drop. */
extern const char *const tally_flows_drop_texts[];

/* by_port[65536]: the rules for that port of a server, NULL: not metered. Both must outlive it. */
TALLY_MUST int tally_flows_new(struct tally_meter *meter, const struct tally_rules *const *by_port,
			       struct tally_flows **ret_flows);
void tally_flows_free(struct tally_flows *flows);

/* 0, or -ENOMEM: the books are not whole any more. */
TALLY_MUST int tally_flows_packet(struct tally_flows *flows,
				  const struct tally_capture_packet *packet);
/* What waits for longer than it should at now_ns is metered: before a window is closed. */
TALLY_MUST int tally_flows_settle(struct tally_flows *flows, uint64_t now_ns);
/* The capture is over: connections that a client probably reset are closed. Others stay open. */
TALLY_MUST int tally_flows_finish(struct tally_flows *flows);

const struct tally_flows_counts *tally_flows_counts(const struct tally_flows *flows);
/* What the open connections hold; their number. */
size_t tally_flows_held(const struct tally_flows *flows, struct tally_meter_held *ret_held);

TALLY_CLEANUP(struct tally_flows *, tally_flows_freep, tally_flows_free)

#endif
