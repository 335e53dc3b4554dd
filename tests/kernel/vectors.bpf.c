// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Vectors inside the kernel: the very code of the programs from packet_meter() on, under
 * BPF_PROG_TEST_RUN. A test packet has no TCP socket, so the connection stands in an array, and what TCP
 * knows is told (vectors.h). The end of a connection is that of sock_ops.
 */
#include "vmlinux.h"

#include "sock.h"

#include "tests/kernel/vectors.h"

ARRAY(vectors_conn, 1, struct tally_conn);

/* conn_again(), without a socket to ask whose it is. */
static __noinline int begin_again(struct tally_run *run, struct tally_conn *c)
{
	if (!run || !c)
		return 0;
	if (meter_may_join(run, c) && conn_wait_both(c)) {
		conn_settle(run, c);
		tally_conn_again(c);
		conn_unlock(c, TALLY_OUT);
		conn_unlock(c, TALLY_IN);
	}
	meter_asked(run, c);
	return 0;
}

/* In a frame of its own: the stack of the programs is full. */
static __noinline int take_told(struct __sk_buff *skb, struct tally_run *run, struct packet_head *h)
{
	struct vectors_segment v;

	if (bpf_skb_load_bytes(skb, VECTORS_TOLD, &v, sizeof(v)))
		return -1;
	h->seq = v.seq;
	h->off = VECTORS_OFF;
	h->len = v.len;
	h->flags = v.flags | TCP_ACK;
	h->ack = v.snd_una;
	run->rcv_nxt = v.rcv_nxt;
	run->snd_nxt = v.snd_nxt;
	run->snd_una = v.snd_una;
	return 0;
}

static __always_inline int run_segment(struct __sk_buff *skb, __u32 dir)
{
	__u32 zero = 0;
	struct tally_conn *c = bpf_map_lookup_elem(&vectors_conn, &zero);
	struct packet_head h = { 0 };
	struct tally_scratch *s;

	if (!c)
		return 0;
	s = scratch_take();
	if (!s)
		return 0;
	if (take_told(skb, &s->run, &h)) {
		scratch_give(s);
		return 0;
	}
	if (c->midstream && !c->closed) {
		run_packet(&s->run, &h, dir);
		begin_again(&s->run, c);
	}
	packet_meter(skb, s, c, &h, dir);
	scratch_give(s);
	return PASS;
}

SEC("cgroup_skb/ingress")
int vectors_in(struct __sk_buff *skb)
{
	return run_segment(skb, TALLY_IN);
}

SEC("cgroup_skb/ingress")
int vectors_out(struct __sk_buff *skb)
{
	return run_segment(skb, TALLY_OUT);
}

SEC("cgroup_skb/ingress")
int vectors_close(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct vectors_segment v;
	struct tally_conn *c = bpf_map_lookup_elem(&vectors_conn, &zero);
	struct tally_scratch *s;

	if (!c || bpf_skb_load_bytes(skb, VECTORS_TOLD, &v, sizeof(v)))
		return 0;
	s = scratch_take();
	if (!s)
		return 0;
	conn_died(s, c, v.rcv_nxt, v.snd_una);
	scratch_give(s);
	return PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
