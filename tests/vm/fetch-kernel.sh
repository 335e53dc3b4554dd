#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetch the kernel of a Debian release for tests/vm/run.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/common.sh
. "$here/common.sh"
# shellcheck source=tests/vm/apt.sh
. "$here/apt.sh"

usage()
{
	cat <<-END
	usage: fetch-kernel.sh [--refresh] RELEASE...
	  RELEASE     one of: $vm_releases; or all
	  --refresh   fetch again although the cache holds the kernel
	environment:
	  ARCH                debian name of the machine (default: the host's, $(vm_host_arch))
	  TALLYD_CACHE        where kernels are kept (default /var/cache/tallyd)
	  TALLYD_DEBIAN_URI   the Debian archive, where apt here knows none (another distribution)
	END
}

# linux-image-ARCH depends on the one real package.
kernel_package()
{
	apt-cache depends "linux-image-$(vm_arch)" |
		awk '$1 == "Depends:" && !n++ { print $2 }' | grep .
}

# What a guest may want: virtio, 9p and overlay to boot; veth, tc, netfilter and tls for traffic;
# ext4, loop and device mapper for power cuts. Wireless, storage hardware and the other 90 % stay
# away.
unpack_kernel()
{
	local lib='./*lib/modules' mod='./*lib/modules/*/kernel'

	dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards \
		--exclude="$mod/net/wireless" --exclude="$mod/net/mac80211" \
		--exclude="$mod/net/bluetooth" --exclude="$mod/net/ceph" \
		--exclude="$mod/net/sunrpc" --exclude="$mod/net/can" \
		--exclude="$mod/net/batman-adv" --exclude="$mod/net/nfc" \
		'./boot/vmlinuz-*' './boot/config-*' "$lib/*/modules.builtin*" \
		"$lib/*/modules.order" \
		"$mod/net" "$mod/lib" "$mod/crypto" "$mod/arch/*/crypto" \
		"$mod/fs/9p" "$mod/fs/netfs*" "$mod/fs/fscache*" "$mod/fs/overlayfs" \
		"$mod/fs/fuse" \
		"$mod/fs/ext4" "$mod/fs/jbd2" "$mod/fs/mbcache.ko*" "$mod/fs/squashfs" \
		"$mod/drivers/virtio" "$mod/drivers/block/loop.ko*" \
		"$mod/drivers/block/virtio_blk.ko*" "$mod/drivers/char/virtio_console.ko*" \
		"$mod/drivers/char/hw_random/*rng*.ko*" "$mod/drivers/md/dm-*.ko*" \
		"$mod/drivers/net/veth.ko*" "$mod/drivers/net/dummy.ko*" \
		"$mod/drivers/net/tun.ko*" \
		"$mod/drivers/net/ifb.ko*" "$mod/drivers/net/macvlan.ko*" \
		"$mod/drivers/net/ipvlan" "$mod/drivers/net/virtio_net.ko*" \
		"$mod/drivers/net/net_failover.ko*" 2>"$2/tar.log" || missing_only "$2/tar.log"
	[ ! -d "$2/usr/lib" ] || mv "$2/usr/lib" "$2/lib"
}

# A pattern that matches nothing is a driver built in, or one this kernel has not: no error.
missing_only()
{
	! grep -vE ': Not found in archive$|Exiting with failure status' "$1" >&2
}

# Modules without compression: the guest inserts them with nothing but busybox.
index_modules()
{
	find "$1/lib/modules" -name '*.ko.xz' -print0 | xargs -0r xz -d
	busybox depmod -b "$1" "$2"
}

# What qemu boots fastest.
bootable()
{
	case $(vm_arch) in
	amd64) "$here/extract-vmlinux.py" "$1" "$2";;
	*) mv "$1" "$2";;
	esac
}

# Guests of another machine have no use for the host's programs.
fetch_busybox()
{
	[ "$(vm_arch)" != "$(vm_host_arch)" ] || return 0
	dpkg-deb --fsys-tarfile "$(apt_fetch "$1" busybox-static)" |
		tar -x -O --wildcards './*bin/busybox' >"$2/busybox"
	chmod 755 "$2/busybox"
}

# Everything is made aside and renamed into place: a folder that exists is whole. In a subshell,
# because of the APT_CONFIG that apt_setup exports.
fetch()
(
	dir=$1 work=$1.new apt=$1.apt

	rm -rf "$work" "$apt" && mkdir -p "$work" "$apt"
	apt_setup "$apt" "$2"
	package=$(kernel_package) || die "$2 has no linux-image-$(vm_arch)"
	echo "fetch-kernel.sh: release=$2 arch=$(vm_arch) package=$package" >&2
	unpack_kernel "$(apt_fetch "$apt" "$package")" "$work"
	version=$(basename "$work"/boot/vmlinuz-*)
	version=${version#vmlinuz-}
	bootable "$work/boot/vmlinuz-$version" "$work/kernel"
	mv "$work/boot/config-$version" "$work/config"
	rm -rf "${work:?}/boot" "${work:?}/usr" "$work/tar.log"
	index_modules "$work" "$version"
	fetch_busybox "$apt" "$work"
	echo "$version" >"$work/version"
	rm -rf "$apt" "$dir"
	mv "$work" "$dir"
)

# One at a time for each kernel: tests that run side by side want the same ones.
fetch_once()
{
	local dir

	vm_known "$1" || die "unknown release '$1' (one of: $vm_releases)" 2
	dir=$(vm_kernel_dir "$1")
	mkdir -p "${dir%/*}"
	exec 9>"$dir.lock"
	flock 9
	if [ -n "$refresh" ] || [ ! -e "$dir/version" ]; then
		fetch "$dir" "$1"
	fi
	exec 9>&-
	echo "$dir"
}

refresh=
[ "${1:-}" != --refresh ] || { refresh=1; shift; }
case ${1:-} in
''|-*) usage >&2; exit 2;;
all) read -ra all <<<"$vm_releases"; set -- "${all[@]}";;
esac
for release; do
	fetch_once "$release"
done
