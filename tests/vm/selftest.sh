#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Proves that run.sh may be believed: every kernel boots and counts, and what a command did there,
# how it ended or failed to, is what run.sh says. Arguments: the kernels to try (default all); the
# first of them also does what depends on run.sh alone.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
# shellcheck source=tests/vm/common.sh
. ./common.sh
[ $# -gt 0 ] || { read -ra all <<<"$vm_releases"; set -- "${all[@]}"; }
first=$1 failed=0 passed=0 skipped=0
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

pass_if()
{
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
		echo "PASS $2"
	else
		failed=$((failed + 1))
		echo "FAIL $2"
	fi
}

# Run a command in the first kernel: output in $tmp/out, the rest in $tmp/err; expects exit code $1.
guest()
{
	local want=$1 got=0

	shift
	./run.sh "$first" --timeout 180 "$@" >"$tmp/out" 2>"$tmp/err" || got=$?
	[ "$got" = "$want" ] && return
	echo "exit code $got, expected $want; stderr:"
	tail -n 20 "$tmp/err"
	return 1
}

a_kernel_boots_and_counts()
{
	local kernel=$1

	shift
	./fetch-kernel.sh "$kernel" >/dev/null &&
		./run.sh "$kernel" --timeout 300 --share "$tmp" "$@" -- "$PWD/selftest-guest.sh" \
			"$(cat "$(vm_kernel_dir "$kernel")/version")" "$tmp/count.bpf.o"
}

# With its own programs: Debian packages of that machine.
another_machine_boots_and_counts()
{
	local root

	root=$(./fetch-root.sh bookworm "$(vm_cache)/roots/selftest-$ARCH" bash coreutils \
		util-linux mawk grep hostname iproute2 binutils bpftool python3) || return
	a_kernel_boots_and_counts bookworm --root "$root"
}

exit_codes_come_back()
{
	guest 42 -- sh -c 'exit 42' && guest 0 -- true && guest 137 -- sh -c 'kill -9 $$'
}

streams_stay_apart_and_arguments_whole()
{
	local odd=$'a b\n"c" \'$d\' \\ *'

	# shellcheck disable=SC2016  # the guest expands
	guest 0 --env "ODD=$odd" -- \
		sh -c 'printf %s "$1$ODD"; printf err >&2; printf again >/dev/stderr' x "$odd" &&
		[ "$(cat "$tmp/out")" = "$odd$odd" ] && [ "$(cat "$tmp/err")" = erragain ]
}

# Through a reader slower than the guest, which must not cut the end off.
long_output_is_complete()
{
	local want got

	want=$(seq 300000 | md5sum)
	got=$(./run.sh "$first" --timeout 180 -- seq 300000 | (sleep 12; md5sum))
	[ "$want" = "$got" ]
}

host_files_are_seen_and_safe()
{
	guest 0 -- sh -c 'pwd; cat run.sh; echo no >written-by-guest' &&
		[ "$(head -n1 "$tmp/out")" = "$PWD" ] &&
		cmp -s <(tail -n +2 "$tmp/out") run.sh && [ ! -e written-by-guest ]
}

shared_folders_are_written()
{
	mkdir "$tmp/share" && guest 0 --share "$tmp/share" -- sh -c "echo yes >$tmp/share/file" &&
		[ "$(cat "$tmp/share/file")" = yes ]
}

# What was synced outlives a reset; what was not is gone: a power cut, and the exit code of one.
a_disk_survives_a_power_cut()
{
	truncate -s 32M "$tmp/disk" &&
		guest 123 --disk "$tmp/disk" -- sh -c 'mkfs.ext4 -q /dev/vda &&
			mount /dev/vda /mnt && echo kept >/mnt/synced && sync &&
			echo lost >/mnt/late && echo b >/proc/sysrq-trigger && sleep 60' &&
		guest 0 --disk "$tmp/disk" -- sh -c 'mount /dev/vda /mnt &&
			cat /mnt/synced && [ ! -s /mnt/late ]' &&
		[ "$(cat "$tmp/out")" = kept ]
}

time_runs_out()
{
	local start=$SECONDS

	./run.sh "$first" --timeout 45 -- sh -c 'echo begun; sleep 600' >"$tmp/out" 2>"$tmp/err"
	[ $? = 124 ] && [ "$(cat "$tmp/out")" = begun ] && [ $((SECONDS - start)) -lt 55 ] &&
		grep -q 'time is up after 45 s' "$tmp/err"
}

a_panic_is_told()
{
	guest 125 -- sh -c 'echo before; echo c >/proc/sysrq-trigger; sleep 60' &&
		[ "$(cat "$tmp/out")" = before ] && grep -q 'the kernel panicked' "$tmp/err" &&
		grep -q 'sysrq' "$tmp/err"
}

daemons_do_not_keep_the_guest()
{
	guest 3 --timeout 60 -- sh -c 'sleep 600 & setsid sleep 600 & exit 3'
}

unknown_kernels_are_refused()
{
	./run.sh potato -- true 2>"$tmp/err"
	[ $? = 125 ] && grep -q 'unknown kernel' "$tmp/err"
}

clang -g -O2 -target bpf -mcpu=v3 -I"/usr/include/$(gcc -dumpmachine)" \
	-c count.bpf.c -o "$tmp/count.bpf.o" || exit 1
for kernel; do
	a_kernel_boots_and_counts "$kernel"
	pass_if $? "$kernel: boots and counts"
done
if [ "$(vm_host_arch)" = arm64 ] || ! command -v qemu-system-aarch64 >/dev/null; then
	skipped=1
	echo "SKIP arm64: no qemu-system-aarch64, or this is one"
else
	(ARCH=arm64 && export ARCH && another_machine_boots_and_counts)
	pass_if $? "arm64: boots and counts"
fi
for case in exit_codes_come_back streams_stay_apart_and_arguments_whole long_output_is_complete \
	host_files_are_seen_and_safe shared_folders_are_written a_disk_survives_a_power_cut \
	time_runs_out a_panic_is_told daemons_do_not_keep_the_guest unknown_kernels_are_refused; do
	$case
	pass_if $? "$first: ${case//_/ }"
done
echo "passed=$passed failed=$failed skipped=$skipped"
[ $failed = 0 ]
