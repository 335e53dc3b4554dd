/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Values of maps that only programs read. */
#ifndef TALLY_METER_TYPES_H
#define TALLY_METER_TYPES_H

#include "run.h"
#include "tally/pieces.h"

struct tally_scratch {
	__u32 busy;
	__u32 unkept; /* of the first slot: octets of the CPU's last packet to a listener were not kept */
	struct tally_run run;
	struct tally_deferred deferred;
	struct tally_candidate candidate;
};

#endif
