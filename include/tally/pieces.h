/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/*
 * Pieces of segments that wait in the kernel, from one bounded pool: they came early, or with the
 * listener's socket before their connection was born, or may come again (bpf/meter.h says when each).
 *
 *	connection ── parked[], kept[] ──► piece        freed with the connection
 *	deferred: 4-tuple ── piece[] ────► piece        adopted by the connection at its birth
 *
 * A connection whose death no program saw, or a handshake that came to nothing, leaves its pieces
 * behind: the agent sweeps them by age (user/collect/pieces.c). A piece is its owner's only while `owner`
 * says so: who was forgotten finds none.
 */
#ifndef TALLY_PIECES_H
#define TALLY_PIECES_H

#include "tally/limits.h"
#include "tally/types.h"

/* Bytes under the parser's eyes: a window of one direction of one connection. */
struct tally_chunk {
	__u8 b[TALLY_CHUNK + TALLY_CHUNK_PAD];
};

/* The octets of a response's head. */
struct tally_reply {
	__u8 b[TALLY_REPLY + TALLY_CHUNK_PAD];
};

struct tally_parked {
	__u32 busy; /* 0: free; taken by compare-and-exchange */
	__u32 seq;  /* stream position of the first octet */
	__u32 len;
	__u32 raw;	/* parked by somebody without the lock: compared with nothing (R9) */
	__u64 owner;	/* socket cookie; 0: nobody yet (`deferred`) */
	__u64 since_ns; /* kernel time when it was taken */
	__u32 rcv_nxt;	/* what TCP had taken then */
	__u32 pad;
	struct tally_chunk data;
};
TALLY_ASSERT(sizeof(struct tally_parked) == 40 + TALLY_CHUNK + TALLY_CHUNK_PAD, "ABI: piece");

/* Data that arrived with the listener (TCP_DEFER_ACCEPT, Fast Open, data on the handshake's ACK). */
struct tally_deferred_key {
	__u8 peer[16];
	__u16 peer_port; /* host order */
	__u16 port;
	__u32 nth; /* 0, 1: data of two places of a stream, or of two handshakes, wait side by side */
};

struct tally_deferred {
	__u64 since_ns;
	__u8 count;
	__u8 conflict; /* two segments came, and differ: nobody can tell which of them TCP took (R9) */
	__u8 fin;      /* behind its octets */
	__u8 pad;
	__u32 len;			/* octets, also of those that found no room */
	__u32 piece[TALLY_PARK_PIECES]; /* ids + 1 */
};

#endif
