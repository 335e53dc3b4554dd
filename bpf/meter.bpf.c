// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs. They never change, delay or drop traffic: cgroup_skb programs return PASS whatever
 * happens, sock_ops programs only observe.
 */
#include "vmlinux.h"

#include "sock.h"

SEC("cgroup_skb/ingress")
int tally_ingress(struct __sk_buff *skb)
{
	return on_packet(skb, TALLY_IN);
}

SEC("cgroup_skb/egress")
int tally_egress(struct __sk_buff *skb)
{
	return on_packet(skb, TALLY_OUT);
}

SEC("sockops")
int tally_sockops(struct bpf_sock_ops *ops)
{
	on_sock_ops(ops);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
