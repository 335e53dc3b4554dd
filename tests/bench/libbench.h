/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the benchmarks have in common: one exchange as a browser's script and an API make it, as octets
 * and as a packet, and the rules it is metered by.
 *
 *	packet:	IPv4 header 20, TCP header 20, request head 417, other request 417, response 200 + 64
 *
 * The second request differs from the first in its key alone.
 */
#ifndef TALLY_BENCH_H
#define TALLY_BENCH_H

#include <stddef.h>
#include <stdint.h>

#include "tally/rules.h"
#include "tests/bench/exchange.h"

#define BENCH_HEADERS 40 /* of IPv4 and TCP */
#define BENCH_PACKET (BENCH_HEADERS + 2 * BENCH_REQUEST + BENCH_RESPONSE)

extern const char bench_request[];
extern const char bench_response[];

/* The packet behind a link-layer header of 14 octets, as BPF_PROG_TEST_RUN wants it. */
#define BENCH_FRAME (14 + BENCH_PACKET)
void bench_frame(uint8_t frame[BENCH_FRAME]);

/* tests/bench/rules.yaml, compiled. Faults end the program. */
struct tally_rules *bench_rules(const char *path);

/* Ends the program with errno's text. */
void bench_die(const char *what) __attribute__((noreturn));
void *bench_must(void *pointer);

/* Nanoseconds of a steady clock. */
uint64_t bench_now_ns(void);

/* Sorts, and gives the value at that share (0 .. 1) of them. */
double bench_quantile(double *values, size_t n, double share);

#endif
