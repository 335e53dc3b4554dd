#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Unpack Debian packages, and all they depend on, as a file tree: the root of a guest of another
# machine (run.sh --root), and the sysroot of a build for it. Nothing is configured, no package
# script runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/common.sh
. "$here/common.sh"
# shellcheck source=tests/vm/apt.sh
. "$here/apt.sh"

usage()
{
	cat <<-END
	usage: fetch-root.sh RELEASE DIR PACKAGE...
	  RELEASE   one of: $vm_releases
	  DIR       the tree to make; kept as it is when it was made of the same packages
	environment: ARCH, TALLYD_CACHE, TALLYD_DEBIAN_URI (see fetch-kernel.sh)
	END
}

# /bin and the like are links since Debian 12; some packages still bring them as folders.
merged_usr()
{
	local name

	for name in bin sbin lib; do
		mkdir -p "$1/usr/$name"
		ln -s "usr/$name" "$1/$name"
	done
	mkdir -p "$1"/{dev,proc,sys,run,root,mnt,var/lib} && mkdir -m 1777 "$1/tmp"
}

# What package scripts would do, as far as a guest needs it.
configure()
{
	[ ! -e "$1/usr/bin/dash" ] || ln -sf dash "$1/usr/bin/sh"
	[ ! -e "$1/usr/bin/mawk" ] || ln -sf mawk "$1/usr/bin/awk"
	echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
	echo 'nobody:x:65534:65534::/:/bin/false' >>"$1/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
	echo '127.0.0.1 localhost' >"$1/etc/hosts"
}

# fetch RELEASE DIR WANTED: made aside and renamed, so that a tree that exists is whole.
fetch()
(
	apt=$2.apt work=$2.new

	rm -rf "$apt" "$work" && mkdir -p "$apt" "$work"
	apt_setup "$apt" "$1"
	# shellcheck disable=SC2086  # words
	apt-get -qq -o APT::Install-Recommends=false --download-only -y install $3 >&2
	merged_usr "$work"
	for deb in "$apt"/cache/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$work" --keep-directory-symlink
	done
	configure "$work"
	echo "$1 $(vm_arch) $3" >"$work/.made-of"
	rm -rf "$apt" "$2"
	mv "$work" "$2"
)

[ $# -ge 3 ] || { usage >&2; exit 2; }
release=$1 dir=$(realpath -m "$2")
shift 2
vm_known "$release" || die "unknown release '$release'" 2
mkdir -p "${dir%/*}"
exec 9>"$dir.lock"
flock 9
if [ "$(cat "$dir/.made-of" 2>/dev/null)" != "$release $(vm_arch) $*" ]; then
	fetch "$release" "$dir" "$*"
fi
echo "$dir"
