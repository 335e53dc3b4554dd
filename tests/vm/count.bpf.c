// SPDX-License-Identifier: Apache-2.0
/*
 * Counts the pings that leave and the answers that come, for selftest.sh: a kernel of the matrix
 * that loads programs but runs them wrongly would be worse than none.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <bpf/bpf_helpers.h>

#define COUNT_SLOTS 4
#define ICMP_ECHOREPLY 0 /* linux/icmp.h wants a libc */
#define ICMP_ECHO 8

/* 0: requests out, 1: their bytes; 2: replies in, 3: their bytes */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNT_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

static void add(__u32 slot, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value)
		__sync_fetch_and_add(value, n);
}

static int count(struct __sk_buff *skb, __u8 type, __u32 slot)
{
	__u8 icmp_type;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) || ip.version != 4)
		return 1;
	if (ip.protocol != IPPROTO_ICMP)
		return 1;
	if (bpf_skb_load_bytes(skb, sizeof(ip), &icmp_type, 1) || icmp_type != type)
		return 1;
	add(slot, 1);
	add(slot + 1, skb->len);
	return 1;
}

SEC("cgroup_skb/egress")
int count_out(struct __sk_buff *skb)
{
	return count(skb, ICMP_ECHO, 0);
}

SEC("cgroup_skb/ingress")
int count_in(struct __sk_buff *skb)
{
	return count(skb, ICMP_ECHOREPLY, 2);
}

char _license[] SEC("license") = "Apache-2.0";
