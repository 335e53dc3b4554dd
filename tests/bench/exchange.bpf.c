// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The meter under BPF_PROG_TEST_RUN. A test packet has no TCP socket, so the connections stand in an
 * array, and both segments of an exchange come from one packet (libbench.h); all else is the very
 * code of the programs, from reading the headers to booking the row. Stream positions go on from run
 * to run as the connection has them, so every exchange is a new one.
 *
 *	bench_empty	which connection and row: what the others pay for being a benchmark
 *	bench_front	... and what a packet costs before its octets are looked at: socket, port,
 *			headers, storage, scratch
 *	bench_request	... and one request, taken back unanswered
 *	bench_response	... and one answer, to a request made up
 *	bench_exchange	... both
 */
#include "vmlinux.h"

#include "sock.h"

#include "tests/bench/exchange.h"

ARRAY(bench_conns, 16, struct tally_conn);
ARRAY(bench_setup, 1, struct bench_setup);

struct bench_run {
	struct bench_setup *setup;
	struct tally_conn *c;
};

/* A connection and a row by chance. */
static __always_inline int bench_pick(struct bench_run *b)
{
	__u32 zero = 0, which;

	b->setup = bpf_map_lookup_elem(&bench_setup, &zero);
	if (!b->setup)
		return -1;
	which = bpf_get_prandom_u32() & (b->setup->conns - 1);
	b->c = bpf_map_lookup_elem(&bench_conns, &which);
	return b->c ? 0 : -1;
}

static __always_inline void bench_row(struct bench_run *b)
{
	b->c->cookie = 1 + bpf_get_prandom_u32() % b->setup->rows;
}

/* on_packet() up to the connection. The test socket is none of TCP: bpf_tcp_sock() finds nothing. */
static __always_inline int packet_front(struct __sk_buff *skb, struct packet_head *h)
{
	struct bpf_sock *sk = skb->sk;
	__u32 port = 26000;
	__u8 *wanted;

	if (!sk)
		return -1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return -1;
	port += sk->src_port;
	wanted = bpf_map_lookup_elem(&ports, &port);
	if (!wanted || !*wanted || packet_parse(skb, h))
		return -1;
	if (!bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE))
		return -1;
	return bpf_tcp_sock(sk) ? -1 : 0;
}

static __always_inline void bench_segment(struct __sk_buff *skb, struct bench_run *b, __u32 dir)
{
	struct tally_conn *c = b->c;
	struct tally_scratch *s;
	struct packet_head h;

	if (packet_front(skb, &h))
		return;
	s = scratch_take();
	if (!s)
		return;
	if (b->setup->fresh)
		c->way[conn_side(dir)].h1.recall_len = 0;
	if (dir == TALLY_IN) {
		h.seq = c->way[TALLY_IN].next;
		h.len = BENCH_REQUEST;
		if (b->setup->keys > 1 && bpf_get_prandom_u32() & 1)
			h.off += BENCH_REQUEST;
	} else {
		h.seq = c->way[TALLY_OUT].next;
		h.len = BENCH_RESPONSE;
		h.off += 2 * BENCH_REQUEST;
	}
	s->run.rcv_nxt = c->way[TALLY_IN].next;
	s->run.snd_nxt = c->way[TALLY_OUT].next;
	s->run.snd_una = c->way[TALLY_OUT].next;
	packet_meter(skb, s, c, &h, dir);
	scratch_give(s);
}

SEC("cgroup_skb/ingress")
int bench_empty(struct __sk_buff *skb)
{
	struct bench_run b;

	if (bench_pick(&b))
		return 0;
	bpf_get_prandom_u32();
	return PASS;
}

SEC("cgroup_skb/ingress")
int bench_front(struct __sk_buff *skb)
{
	struct tally_scratch *s;
	struct packet_head h;
	struct bench_run b;

	if (bench_pick(&b) || packet_front(skb, &h))
		return 0;
	s = scratch_take();
	if (!s)
		return 0;
	s->run.rcv_nxt = bpf_get_prandom_u32();
	scratch_give(s);
	return PASS;
}

SEC("cgroup_skb/ingress")
int bench_request(struct __sk_buff *skb)
{
	struct bench_run b;

	if (bench_pick(&b))
		return 0;
	bench_row(&b);
	bench_segment(skb, &b, TALLY_IN);
	if (!conn_waiting(b.c))
		return 0;
	b.c->head = b.c->tail;
	return PASS;
}

SEC("cgroup_skb/ingress")
int bench_response(struct __sk_buff *skb)
{
	struct bench_run b;

	if (bench_pick(&b))
		return 0;
	bench_row(&b);
	b.c->queue[0].answered = 0;
	b.c->queue[0].request_bytes = BENCH_REQUEST;
	b.c->tail = 0;
	b.c->head = 1;
	b.c->queue[0].turn = 1;
	bench_segment(skb, &b, TALLY_OUT);
	return b.c->tail == 1 ? PASS : 0;
}

SEC("cgroup_skb/ingress")
int bench_exchange(struct __sk_buff *skb)
{
	struct bench_run b;
	__u32 before;

	if (bench_pick(&b))
		return 0;
	bench_row(&b);
	before = b.c->tail;
	bench_segment(skb, &b, TALLY_IN);
	bench_segment(skb, &b, TALLY_OUT);
	return b.c->tail == before + 1 ? PASS : 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
