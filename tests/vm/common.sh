# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What the scripts of tests/vm share: where kernels are kept, for which machine, and how to fail.
#
#   $TALLYD_CACHE/kernels/ARCH/RELEASE/
#       kernel    config   version           the kernel, its configuration, what `uname -r` says
#       lib/modules/VERSION/                 the modules the guest may want, uncompressed
#       busybox                              only where ARCH is not the host's

# Oldest of the promise first; bullseye is too old and must be refused.
vm_releases="bookworm bookworm-backports trixie bullseye"

die()
{
	echo "${0##*/}: $1" >&2
	exit "${2:-1}"
}

vm_host_arch()
{
	dpkg --print-architecture
}

vm_arch()
{
	echo "${ARCH:-$(vm_host_arch)}"
}

vm_cache()
{
	realpath -m "${TALLYD_CACHE:-/var/cache/tallyd}"
}

vm_kernel_dir()
{
	echo "$(vm_cache)/kernels/$(vm_arch)/$1"
}

vm_known()
{
	local release

	for release in $vm_releases; do
		[ "$release" != "$1" ] || return 0
	done
	return 1
}
