// SPDX-License-Identifier: Apache-2.0
/* Another user of sock_ops, which asks for its own callbacks only, as the kernel's samples do. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("sockops")
int flags(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_RTT_CB_FLAG);
	return 1;
}

char _license[] SEC("license") = "GPL";
