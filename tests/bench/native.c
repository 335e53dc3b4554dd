// SPDX-License-Identifier: Apache-2.0
/*
 * native RULES COUNT: the meter over COUNT exchanges in plain memory, its ports as small as they can
 * be. Under callgrind this counts instructions: a figure that no noise changes, to compare two
 * versions of the engine by. The functions that begin with native_ are what is counted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bpf/meter_types.h"
#include "tests/bench/libbench.h"

static struct tally_row row;

static int port_load(const char *data, struct tally_run *run, struct tally_chunk *chunk, __u32 off,
		     __u32 n)
{
	memcpy(chunk->b, data + off, n);
	return 0;
}

static int port_row_found(struct tally_run *run, const struct tally_row_key *key,
			  const struct tally_delta *d)
{
	row.requests += d->requests;
	row.request_bytes += d->request_bytes + d->late_bytes;
	row.response_bytes += d->response_bytes;
	row.duration_ns += d->duration_ns;
	return 1;
}

static void port_row_add(struct tally_run *run, struct tally_conn *c, struct tally_row_key *key)
{
	port_row_found(run, key, &run->delta);
}

static int port_key_known(struct tally_run *run, __u64 hash)
{
	return 1;
}

/* Ports that this exchange does not need. */

static int port_key_learn(struct tally_run *run, __u64 hash, __u32 id, int guess)
{
	return -1;
}

static int port_key_guess(struct tally_run *run)
{
	return -1;
}

static __u32 port_candidate_take(struct tally_run *run, struct tally_h1 *p, __u64 hash)
{
	return 0;
}

static void port_candidate_drop(struct tally_run *run, __u32 id)
{
}

static void port_spill(struct tally_run *run, struct tally_h1 *p)
{
}

static int port_park(const char *data, struct tally_run *run, struct tally_conn *c)
{
	return -1;
}

static struct tally_chunk *port_parked(struct tally_run *run, struct tally_conn *c, __u32 i,
				       __u32 *seq, __u32 *len)
{
	return NULL;
}

static int port_parked_at(struct tally_run *run, struct tally_conn *c, __u32 i, __u32 *seq)
{
	return 0;
}

static int port_unpark(struct tally_run *run, struct tally_conn *c, __u32 i)
{
	return 0;
}

static void port_park_drop(struct tally_run *run, struct tally_conn *c, __u32 i)
{
}

static void port_keep(struct tally_run *run, struct tally_conn *c)
{
}

static struct tally_chunk *port_kept(struct tally_run *run, struct tally_conn *c, __u32 i,
				     __u32 *seq, __u32 *len)
{
	return NULL;
}

static void port_kept_drop(struct tally_run *run, struct tally_conn *c, __u32 i)
{
}

#include "bpf/meter.h"

static struct tally_conn conn;
static struct tally_run run;
static struct tally_totals totals;
static const struct tally_rules *rules;

static void segment(__u32 dir, const char *data, __u32 len)
{
	run.dir = dir;
	run.seq = conn.way[dir].next;
	run.len = len;
	run.now += 1000;
	run.rcv_nxt = conn.way[TALLY_IN].next;
	run.snd_nxt = run.snd_una = conn.way[TALLY_OUT].next;
	if (!meter_plain_segment((void *)(uintptr_t)data, &run, run.dir, &conn, rules, &totals))
		meter_any_segment((void *)(uintptr_t)data, &run, &conn, rules, &totals);
}

/* Names for callgrind's --toggle-collect. */
void native_request(void);
void native_response(void);

__attribute__((noinline)) void native_request(void)
{
	segment(TALLY_IN, bench_request, BENCH_REQUEST);
}

__attribute__((noinline)) void native_response(void)
{
	segment(TALLY_OUT, bench_response, BENCH_RESPONSE);
}

int main(int argc, char **argv)
{
	unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

	if (!n) {
		fprintf(stderr, "usage: native RULES COUNT\n");
		return 64;
	}
	rules = bench_rules(argv[1]);
	tally_conn_born(&conn, 1, 1);
	for (unsigned long i = 0; i < n; i++) {
		native_request();
		native_response();
	}
	printf("%llu\n", (unsigned long long)row.requests);
	return row.requests != n || row.request_bytes != n * BENCH_REQUEST ||
	       row.response_bytes != n * BENCH_RESPONSE;
}
