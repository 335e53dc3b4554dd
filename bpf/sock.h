/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Birth and death of connections: sock_ops. At birth the stream positions are known before any data
 * passes; at death what is left is booked. Runs under the socket's lock.
 */
#ifndef TALLY_BPF_SOCK_H
#define TALLY_BPF_SOCK_H

#include "skb.h"

struct adopt_loop {
	struct tally_conn *c;
	struct tally_deferred *d;
};

#define FIRST_WINDOW 65535 /* what the handshake can have offered: its window field is not scaled */

static long adopt_step(__u32 i, void *ctx)
{
	struct adopt_loop *l = ctx;
	struct tally_parked *k;
	__u32 slot;

	tally_opaque(i);
	slot = l->d->piece[i & (TALLY_PARK_PIECES - 1)];
	k = piece_of(slot, 0);
	if (!k)
		return 1;
	k->owner = l->c->cookie;
	/* The other entry, or a packet on another CPU, may have been here. */
	for (__u32 try = 0; try < TALLY_PARK_PIECES; try += 4) {
		__u32 *at = parked_at(l->c, TALLY_IN, i + try);

		if (__sync_val_compare_and_swap(at, 0, slot))
			continue;
		__sync_fetch_and_add(&l->c->parked_count[TALLY_IN], 1);
		return 0;
	}
	piece_free(slot, l->c->cookie);
	return 0;
}

/* Data that came with the listener's socket, where this connection's stream begins, belongs to it. */
static __noinline int conn_adopt_nth(struct tally_deferred_key *k, struct tally_conn *c,
				     __u32 rcv_nxt)
{
	struct adopt_loop l = { c, bpf_map_lookup_elem(&deferred, k) };
	__u32 ahead;

	if (!l.d)
		return 0;
	/* Without a piece it is about the stream as a whole, or there was no room. */
	ahead = l.d->count ? defer_seq(l.d) + FIRST_WINDOW - rcv_nxt : 0;
	if (ahead > 2 * FIRST_WINDOW)
		return 0; /* of another handshake: it is swept */
	if (l.d->conflict)
		c->taint = TALLY_DETAIL_CONFLICT;
	if (l.d->fin && l.d->count) {
		c->way[TALLY_IN].fin = defer_seq(l.d) + l.d->len;
		c->fin_seen[TALLY_IN] = 1;
	}
	bpf_loop(TALLY_PARK_PIECES, adopt_step, &l, 0);
	bpf_map_delete_elem(&deferred, k);
	return 0;
}

static __noinline int conn_adopt(struct bpf_sock_ops *ops, struct bpf_sock *sk,
				 struct tally_conn *c)
{
	struct tally_deferred_key k = { .port = ops->local_port };
	__u16 port;

	peer_of(sk, k.peer, &port);
	k.peer_port = port;
	conn_adopt_nth(&k, c, ops->rcv_nxt);
	k.nth = 1;
	conn_adopt_nth(&k, c, ops->rcv_nxt);
	return 0;
}

static __always_inline int conn_died(struct tally_scratch *s, struct tally_conn *c, __u32 rcv_nxt,
				     __u32 snd_una)
{
	struct tally_run *run = &s->run;
	const struct tally_rules *r;
	struct tally_totals *t;
	__u32 slot;

	r = rules_of(c->service, &slot);
	if (!r) /* the service is gone: what is under way ends as it began */
		r = rules_before(c, TALLY_IN);
	run_clock(run, 0);
	t = totals_of(run, c->service);
	if (!r || !t)
		return 0;
	run->rcv_nxt = rcv_nxt;
	run->snd_una = snd_una;
	run->snd_nxt = snd_una;
	conn_end(run, c, r, t);
	return 0;
}

/* Is its port of nobody now, or was since it was asked? */
static __always_inline int conn_away(const struct tally_conn *c, __u8 mark)
{
	return !(mark & TALLY_PORT_WANTED) || (c->resolved != CONN_MIDWAY && c->resolved != mark);
}

/* All that can be known of the connection is known. What passed out of sight is not the service's. */
static __noinline int conn_over(struct bpf_sock_ops *ops, struct tally_conn *c)
{
	struct tally_scratch *s = scratch_take();
	__u32 rcv_nxt = ops->rcv_nxt;

	if (!s) {
		gap_shared(totals_shared(c->service), TALLY_GAP_NEST_FULL);
		return 0;
	}
	if (conn_away(c, port_mark(ops->local_port)) && (__s32)(rcv_nxt - c->far) > 0)
		rcv_nxt = c->far;
	conn_died(s, c, rcv_nxt, ops->snd_una);
	scratch_give(s);
	return 0;
}

/*
 * A subflow of MPTCP. Packets that came before the kernel had decided that may have been framed: they are of no
 * exchange any more, and nothing was answered yet.
 */
static __noinline int born_mptcp(struct bpf_sock_ops *ops, struct tally_conn *c)
{
	if (c->resolved && !c->ignored && !c->closed)
		conn_over(ops, c);
	c->closed = CONN_MPTCP;
	bpf_loop(TALLY_PARK_PIECES, drop_parked_step, &c, 0);
	return 0;
}

static __always_inline void on_born(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct tally_conn *c;
	int mptcp;

	if (!sk)
		return;
	c = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c)
		return;
	conn_birth(c, ops->rcv_nxt, ops->snd_nxt, 1);
	mptcp = sk_is_mptcp(sk);
	if (c->midstream && !mptcp)
		return;
	c->cookie = bpf_get_socket_cookie(ops);
	if (listener_has_lost())
		c->taint = TALLY_DETAIL_GAP;
	conn_adopt(ops, sk, c);
	if (mptcp)
		born_mptcp(ops, c);
	else
		bpf_sock_ops_cb_flags_set(ops,
					  ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline void on_state(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct tally_conn *c;

	if (ops->args[1] != BPF_TCP_CLOSE || !sk)
		return;
	c = bpf_sk_storage_get(&conns, sk, 0, 0);
	if (c && c->resolved && !c->ignored)
		conn_over(ops, c);
}

static __always_inline void on_sock_ops(struct bpf_sock_ops *ops)
{
	__u32 port = ops->local_port;
	__u8 *wanted;

	if (ops->op == BPF_SOCK_OPS_STATE_CB) {
		on_state(ops);
		return;
	}
	if (ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB &&
	    ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		return;
	wanted = bpf_map_lookup_elem(&ports, &port);
	if (!wanted || !(*wanted & TALLY_PORT_WANTED))
		return;
	if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		on_born(ops);
	else if (ops->sk)
		bpf_sk_storage_get(&outbound, ops->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

#endif
