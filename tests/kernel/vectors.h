/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/* What tests tell vectors.bpf.c of one segment, in the packet itself. */
#ifndef TALLY_TEST_VECTORS_H
#define TALLY_TEST_VECTORS_H

#include "tally/types.h"

#define VECTORS_TOLD 20	 /* where a struct vectors_segment stands: behind a header of IPv4 */
#define VECTORS_OFF 48	 /* the octets of the segment, behind it */
#define VECTORS_MAX 2048 /* octets of payload in one packet of BPF_PROG_TEST_RUN */

struct vectors_segment {
	__u32 seq, len, flags; /* flags as in the header of TCP */
	__u32 rcv_nxt, snd_nxt, snd_una;
	__u32 pad;
};
TALLY_ASSERT(VECTORS_TOLD + sizeof(struct vectors_segment) == VECTORS_OFF, "a segment's place");

#endif
