#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The tree, cross-compiled, on an arm64 kernel: it says what it needs, loads its programs, counts real
# traffic right, and the vectors hold inside that kernel, too. Everything in the guest but tests and
# binary is Debian's for that machine. Prints `N passed, N failed, N skipped`.
#
#	tests/vm/arm64.sh [RELEASE...]		default: bookworm (Linux 6.1)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/vm/common.sh
. tests/vm/common.sh
# shellcheck source=tests/vm/cases.sh
. tests/vm/cases.sh

native=${BUILD:-build} build=build-arm64 passed=0 failed=0 root=''
[ $# -gt 0 ] || set -- bookworm

# Of the suite `kernel`. The others write from all processors at once: too long on an emulated machine.
kernel_programs() {
	printf '%s\n' "$build/test/kernel/vectors" "$build/test/kernel/swap_keys"
}

# The generator is newer than its source: the guest has no compiler and wants none.
cross_compile() {
	local sysroot
	mkdir -p "$build"
	sysroot=$(scripts/sysroot.sh arm64) || return
	# shellcheck disable=SC2046  # names without blanks
	make -j"$(nproc)" BUILD="$build" ARCH=arm64 SYSROOT="$sysroot" all $(kernel_programs) \
		>"$build/make.log" 2>&1 || { tail -n 30 "$build/make.log"; return 1; }
	mkdir -p "$build/e2e" &&
		aarch64-linux-gnu-gcc --sysroot="$sysroot" -O2 -D_GNU_SOURCE -std=gnu11 \
			-o "$build/e2e/load" tests/e2e/load/load.c &&
		[ "$(od -An -tx2 -j18 -N2 "$build/tallyd" | tr -d ' ')" = 00b7 ] # EM_AARCH64
}

# What the binary is linked to, by the names of Debian's packages for this machine.
libraries() {
	shlibs | tr ',' '\n' | sed 's/ *(.*//; s/^ *//' | sort -u
}

shlibs() {
	local work binary
	work=$(mktemp -d) binary=$(realpath -e "$native/tallyd") || return
	mkdir "$work/debian"
	printf 'Source: t\n\nPackage: t\nArchitecture: any\n' >"$work/debian/control"
	(cd "$work" && dpkg-shlibdeps -O -e"$binary" 2>/dev/null) | sed -n 's/^shlibs:Depends=//p'
	rm -rf "$work"
}

fetch_root() {
	local packages
	mapfile -t packages < <(libraries)
	[ ${#packages[@]} -gt 0 ] || return
	root=$(ARCH=arm64 tests/vm/fetch-root.sh bookworm "$(vm_cache)/roots/e2e-arm64" bash dash coreutils \
		util-linux mawk grep sed hostname iproute2 procps python3 python3-pytest python3-yaml \
		nginx-light libcmocka0 "${packages[@]}")
}

in_guest() {
	ARCH=arm64 tests/vm/run.sh "$1" --root "$root" --mem 2048 --timeout "${TALLY_BOOT_S:-900}" \
		--env TALLY_READY_S=600 --env "BUILD=$build" "${@:2}"
}

# Each vector whole, and cut once.
kernel_suite() {
	# shellcheck disable=SC2046  # names without blanks
	in_guest "$1" --env TALLYD_CUTS=1 -- /bin/bash -c '
		failed=0
		for program; do
			echo "- ${program##*/}"
			"$program" || { echo "FAIL ${program##*/}: exit status $?"; failed=1; }
		done
		exit $failed' - $(kernel_programs)
}

case_of 'cross-compile' cross_compile
case_of 'a root of Debian packages' fetch_root
[ -n "$root" ] || set --
for kernel; do
	case_of "$kernel: nothing is missing" in_guest "$kernel" -- "$build/tallyd" probe
	case_of "$kernel: counts right" in_guest "$kernel" -- \
		/usr/bin/python3 -m pytest -q -x --color=no tests/e2e/test_vm.py
	case_of "$kernel: vectors inside the kernel" kernel_suite "$kernel"
done
printf '%d passed, %d failed, 0 skipped\n' "$passed" "$failed"
[ "$failed" = 0 ]
