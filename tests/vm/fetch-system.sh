#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Install a small Debian with systemd, as a disk image that run.sh --system boots. Packages are
# configured as anywhere, in a chroot (needs root); nothing of this machine goes in.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/vm/common.sh
. "$here/common.sh"
# shellcheck source=tests/vm/apt.sh
. "$here/apt.sh"
base='usr-is-merged systemd systemd-sysv iproute2 procps'
size=${TALLYD_IMAGE_SIZE:-768M}

usage()
{
	cat <<-END
	usage: fetch-system.sh RELEASE IMAGE PACKAGE...
	  RELEASE   a release of Debian, for this machine
	  IMAGE     the ext4 image to make; kept as it is when it was made of the same packages
	environment: TALLYD_DEBIAN_URI (see fetch-kernel.sh), TALLYD_IMAGE_SIZE (768M)
	END
}

# Documentation, translations and locales stay away. policy-rc.d is mmdebstrap's: nothing starts.
install_tree()
{
	local root=$1 release=$2 words
	shift 2
	words=$(tr ' ' ',' <<<"$*")
	mmdebstrap --quiet --mode=root --variant=essential \
		--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--include="$words" "$release" "$root" \
		"deb [signed-by=$keyring] $(debian_uri) $release main" >&2
}

# Made aside and renamed, so that an image that exists is whole.
make_image()
{
	local image=$1 release=$2 root=$1.root
	shift 2
	rm -rf "$root" "$image.new"
	# shellcheck disable=SC2086  # words
	install_tree "$root" "$release" $base "$@"
	echo tallyd-vm >"$root/etc/hostname"
	echo '127.0.0.1 localhost tallyd-vm' >"$root/etc/hosts"
	: >"$root/etc/machine-id" # made at the first boot
	mkfs.ext4 -q -d "$root" "$image.new" "$size"
	rm -rf "$root"
	mv "$image.new" "$image"
}

[ $# -ge 3 ] || { usage >&2; exit 2; }
[ "$(id -u)" = 0 ] || die 'needs root'
release=$1 image=$(realpath -m "$2")
shift 2
mkdir -p "${image%/*}"
exec 9>"$image.lock"
flock 9
made_of="$release $size $base $*"
if [ ! -e "$image" ] || [ "$(cat "$image.made-of" 2>/dev/null)" != "$made_of" ]; then
	make_image "$image" "$release" "$@"
	echo "$made_of" >"$image.made-of"
fi
echo "$image"
