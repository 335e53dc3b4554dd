// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What run statistics say of programs that do less than any meter must: how much of the meter's figure
 * is the machine's and the hook's, and how much is the meter's own.
 *
 *	floor_empty_*	returns
 *	floor_least_*	finds the socket's state, reads the clock, takes the octets, adds to a row: no
 *			look at the octets, no stream order, no route, no key, no totals
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#define OCTETS 512
#define HEADERS 52 /* IPv4 and TCP with time stamps */

struct floor_state {
	__u64 cookie;
	__u64 start_ns;
	__u64 octets;
};

struct floor_key {
	__u64 words[5]; /* as long as the key of a row */
};

struct floor_row {
	__u64 requests, request_bytes, response_bytes, duration_ns;
};

struct floor_chunk {
	__u8 b[OCTETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct floor_state);
} floor_conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct floor_key);
	__type(value, struct floor_row);
} floor_rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct floor_chunk);
} floor_chunks SEC(".maps");

/* The state of the packet's socket, or NULL: no payload, or no socket. Sets the payload's length. */
static __always_inline struct floor_state *floor_find(struct __sk_buff *skb, __u32 *len)
{
	struct bpf_sock *sk = skb->sk;
	struct floor_state *s;

	if (skb->len <= HEADERS || !sk)
		return 0;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 0;
	s = bpf_sk_storage_get(&floor_conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	*len = skb->len - HEADERS;
	if (s && !s->cookie)
		s->cookie = bpf_get_socket_cookie(skb);
	return s;
}

static __always_inline void floor_load(struct __sk_buff *skb, __u32 len)
{
	__u32 zero = 0, n = (len - 1) & (OCTETS - 1);
	struct floor_chunk *chunk = bpf_map_lookup_elem(&floor_chunks, &zero);

	if (chunk)
		bpf_skb_load_bytes(skb, HEADERS, chunk->b, n + 1);
}

static __always_inline void floor_book(const struct floor_state *s, __u32 len)
{
	struct floor_key key = { { s->cookie } };
	struct floor_row fresh = {}, *row = bpf_map_lookup_elem(&floor_rows, &key);

	if (!row) {
		bpf_map_update_elem(&floor_rows, &key, &fresh, BPF_NOEXIST);
		row = bpf_map_lookup_elem(&floor_rows, &key);
	}
	if (!row)
		return;
	__sync_fetch_and_add(&row->requests, 1);
	__sync_fetch_and_add(&row->request_bytes, s->octets);
	__sync_fetch_and_add(&row->response_bytes, len);
	__sync_fetch_and_add(&row->duration_ns, bpf_ktime_get_ns() - s->start_ns);
}

SEC("cgroup_skb/ingress")
int floor_empty_in(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress")
int floor_empty_out(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/ingress")
int floor_least_in(struct __sk_buff *skb)
{
	__u32 len;
	struct floor_state *s = floor_find(skb, &len);

	if (!s)
		return 1;
	s->start_ns = bpf_ktime_get_ns();
	s->octets = len;
	floor_load(skb, len);
	return 1;
}

SEC("cgroup_skb/egress")
int floor_least_out(struct __sk_buff *skb)
{
	__u32 len;
	struct floor_state *s = floor_find(skb, &len);

	if (!s)
		return 1;
	floor_load(skb, len);
	floor_book(s, len);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
