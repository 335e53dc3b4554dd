#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The part of selftest.sh that runs in each kernel: selftest-guest.sh VERSION COUNT.BPF.O
set -euo pipefail
pins=/sys/fs/bpf/selftest group=/sys/fs/cgroup/selftest pings=5

die()
{
	echo "selftest-guest.sh: $1" >&2
	exit 1
}

# What tests rely on; each line: type, place.
check_mounts()
{
	local type place

	while read -r type place; do
		findmnt -n -t "$type" "$place" >/dev/null || die "no $type on $place"
	done <<-END
	proc /proc
	sysfs /sys
	cgroup2 /sys/fs/cgroup
	bpf /sys/fs/bpf
	debugfs /sys/kernel/debug
	tracefs /sys/kernel/tracing
	devtmpfs /dev
	tmpfs /dev/shm
	tmpfs /run
	overlay /
	END
	[ "$(nproc)" = 2 ] || die "$(nproc) processors, not 2"
	[[ $(ip addr show dev lo) == *"inet 127.0.0.1/8"* ]] || die "loopback has no address"
}

# Modules come on demand.
check_modules()
{
	ip link add va type veth peer name vb || die "no veth"
	tc qdisc add dev va root netem delay 1ms || die "no netem"
	ip link del va
}

slot()
{
	bpftool -j map lookup pinned "$pins/counts" key "$1" 0 0 0 | /usr/bin/python3 -c \
		'import json, sys; print(json.load(sys.stdin)["formatted"]["value"])'
}

expect()
{
	local got

	got=$(slot "$1")
	[ "$got" = "$2" ] || die "$3: got $got, expected $2"
}

check_counting()
{
	mkdir "$pins" "$group"
	bpftool prog loadall "$1" "$pins" pinmaps "$pins"
	bpftool cgroup attach "$group" egress pinned "$pins/count_out"
	bpftool cgroup attach "$group" ingress pinned "$pins/count_in"
	(echo $BASHPID >"$group/cgroup.procs" &&
		exec /run/vm/busybox ping -q -i 0.1 -c $pings -s 56 127.0.0.1) >/dev/null ||
		die "ping failed"
	/run/vm/busybox ping -q -c 1 127.0.0.1 >/dev/null	# from outside: must not count
	expect 0 $pings "requests out"
	expect 1 $((pings * 84)) "bytes out"
	expect 2 $pings "replies in"
	expect 3 $((pings * 84)) "bytes in"
}

# Probes fire on a program of the host, through 9p and overlay.
check_uprobes()
{
	local tracing=/sys/kernel/tracing entry hits

	entry=$(readelf -h /usr/bin/true | awk '/Entry point/ { print $4 }')
	echo "p:selftest/entry /usr/bin/true:$entry" >>$tracing/uprobe_events
	echo 1 >$tracing/events/selftest/entry/enable
	for _ in 1 2 3; do
		/usr/bin/true
	done
	hits=$(awk '$2 == "entry" { print $3 }' $tracing/uprobe_profile)
	[ "$hits" = 3 ] || die "uprobe: $hits hits, expected 3"
}

[ "$(uname -r)" = "$1" ] || die "this is $(uname -r), not $1"
check_mounts
check_modules
check_uprobes
check_counting "$2"
echo "kernel=$(uname -r) cpus=$(nproc) pings=$pings counted=$(slot 0)/$(slot 2)"
