/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One run of the meter over one segment: what meter.h works on. */
#ifndef TALLY_RUN_H
#define TALLY_RUN_H

#include "engine/conn.h"

#define TALLY_WINDOW_MAX (1u << 30)   /* RFC 7323 2.2 */
#define TALLY_URGENT_REACH (1u << 25) /* more than windows are by default: tcp_rmem, tcp_wmem */

enum tally_segment_flag { SEG_FIN = 1, SEG_RST = 2, SEG_URG = 4 };

/* One run of the meter over one segment. In scratch memory, so that loops may change it. */
struct tally_run {
	__u64 now;     /* kernel time, ns */
	__u32 hour;    /* UTC hour of now */
	__u32 epoch;   /* ledger index, read once */
	__u32 seq;     /* stream position of the first octet */
	__u32 len;     /* octets of payload */
	__u32 off;     /* where they begin in the packet */
	__u32 at;      /* octets consumed */
	__u32 loaded;  /* `at` of the chunk's first octet */
	__u32 dir;     /* TALLY_IN, TALLY_OUT */
	__u32 flags;   /* enum tally_segment_flag */
	__u32 rcv_nxt; /* TCP's own, before this segment */
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 source;  /* 0: the packet; else parked piece id + 1 */
	__u32 piece;   /* index in c->parked of that piece */
	__s32 nearest; /* its distance from the next position */
	__u32 raw;  /* its octets were compared with nothing: they came while the lock was held */
	__u32 came; /* and TCP's rcv_nxt was this */
	__u32 from; /* of a comparison: stream positions from..to */
	__u32 to;
	__u32 compare;	    /* octets of the other chunk before `from` */
	__u32 differs;	    /* what it found */
	__u32 loads;	    /* chunks loaded in this feed */
	__u32 epoch_number; /* of the ledger, its low half; 0: not told */
	__u32 level;	    /* of the scratch slot: whose totals are counted in */
	struct tally_delta delta;
	struct tally_row_key
		key; /* of what is booked plainly: where that is done the stack is full */
	struct tally_chunk chunk; /* OUT; the octets of IN stay in the connection (R9) */
};

#endif
