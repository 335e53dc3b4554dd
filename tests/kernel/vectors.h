/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/* What vectors.c tells vectors.bpf.c of one segment. */
#ifndef TALLY_TEST_VECTORS_H
#define TALLY_TEST_VECTORS_H

#include "tally/types.h"

#define VECTORS_OFF 20	 /* of the payload: behind a header of IPv4 */
#define VECTORS_MAX 2048 /* octets of payload in one packet of BPF_PROG_TEST_RUN */

struct vectors_segment {
	__u32 seq, len, flags; /* flags as in the header of TCP */
	__u32 rcv_nxt, snd_nxt, snd_una;
};

#endif
