/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause OR Apache-2.0 */
/* What exchange.bpf.c and exchange.c agree on. */
#ifndef TALLY_BENCH_EXCHANGE_H
#define TALLY_BENCH_EXCHANGE_H

#include "tally/types.h"

#define BENCH_REQUEST 417
#define BENCH_RESPONSE_HEAD 200
#define BENCH_RESPONSE (BENCH_RESPONSE_HEAD + 64)

struct bench_setup {
	__u32 conns; /* a power of two */
	__u32 rows;
	__u32 keys;  /* 1: always the same; 2: another every now and then */
	__u32 fresh; /* no head is that of the exchange before: each is parsed */
};

#endif
