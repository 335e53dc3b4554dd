#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes the Debian package with plain dpkg-deb: deploy/debian/build.sh BUILD VERSION [ARCH]
#
#	BUILD/tallyd_VERSION_ARCH.deb	of what `make` built there (ARCH: the machine's own)
#	NATIVE=FOLDER			where the manual was built and tallyd for this machine, when
#					BUILD is for another one
#
# The same sources make the same file, byte by byte, wherever and whenever: files carry the date of the
# newest changelog entry (or SOURCE_DATE_EPOCH), belong to root, and stand in order.
set -euo pipefail
cd "$(dirname "$0")/../.."

build=$1 version=$2 arch=${3:-$(dpkg --print-architecture)}
native=${NATIVE:-$build}
here=deploy/debian
umask 022
export LC_ALL=C TZ=UTC

die() {
	printf 'deb: %s\n' "$*" >&2
	exit 1
}

changelog_date() {
	date -d "$(sed -n 's/^ -- .*>  //p;T;q' "$here/changelog")" +%s
}

# compressed FILE < TEXT: as gzip -9n, which says neither name nor time
compressed() {
	mkdir -p "$(dirname "$1")"
	gzip -9n >"$1"
}

install_manual() {
	local page
	for page in tallyd.8 tallyd.yaml.5 tallyd-keys.yaml.5; do
		"$native/manual" "$page" | scdoc | compressed "$1/usr/share/man/man${page##*.}/$page.gz"
	done
	mkdir -p "$1/usr/share/bash-completion/completions"
	"$native/manual" completion >"$1/usr/share/bash-completion/completions/tallyd"
}

install_files() {
	local root=$1 doc=$1/usr/share/doc/tallyd
	install -D -m 0755 "$build/tallyd" "$root/usr/sbin/tallyd"
	"$strip" --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/sbin/tallyd"
	install -D -m 0644 -t "$root/lib/systemd/system" deploy/systemd/tallyd.service
	install -D -m 0640 -t "$root/etc/tallyd" "$here/tallyd.yaml" "$here/keys.yaml"
	chmod 0750 "$root/etc/tallyd"
	install -D -m 0644 "$here/logrotate" "$root/etc/logrotate.d/tallyd"
	install -D -m 0644 -t "$root/usr/share/tallyd/schema" deploy/schema/*.json
	install -D -m 0644 -t "$root/usr/share/tallyd/prometheus" deploy/prometheus/*
	install -D -m 0644 -t "$root/usr/share/tallyd/grafana" deploy/grafana/*.json
	install -D -m 0644 -t "$doc" README.md "$here/copyright"
	install -D -m 0644 -t "$doc/LICENSES" LICENSES/BSD-2-Clause.txt
	install -D -m 0644 -t "$doc/examples" deploy/examples/*.yaml
	install -D -m 0644 -t "$doc/examples/tallyd.service.d" deploy/systemd/tallyd.service.d/*.conf
	install -D -m 0644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/tallyd"
	compressed "$doc/changelog.gz" <"$here/changelog"
	install_manual "$root"
}

# Libraries by what the program is linked to. Their packages have the same names everywhere.
depends() {
	local work
	work=$(mktemp -d)
	mkdir "$work/debian"
	printf 'Source: tallyd\n\nPackage: tallyd\nArchitecture: any\n' >"$work/debian/control"
	(cd "$work" && dpkg-shlibdeps -O -e"$1") | sed -n 's/^shlibs:Depends=//p'
	rm -rf "$work"
}

install_control() {
	local root=$1 needs
	needs=$(depends "$(realpath "$native/tallyd")") && [ -n "$needs" ] || die 'no library found'
	mkdir -p "$root/DEBIAN"
	install -m 0755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"
	install -m 0644 "$here/conffiles" "$root/DEBIAN/"
	(cd "$root" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z |
		xargs -0 md5sum) >"$root/DEBIAN/md5sums"
	sed "s|@VERSION@|$version|; s|@ARCH@|$arch|; s|@DEPENDS@|$needs|
		s|@SIZE@|$(find "$root" -type f -printf '%s\n' | awk '{ n += int(($1 + 1023) / 1024) } END { print n }')|" \
		"$here/control" >"$root/DEBIAN/control"
}

case $arch in
"$(dpkg --print-architecture)") strip='strip' ;;
arm64) strip=aarch64-linux-gnu-strip ;;
*) die "no tools known for $arch" ;;
esac
for tool in dpkg-deb dpkg-shlibdeps scdoc "$strip"; do
	command -v "$tool" >/dev/null || die "$tool is missing: scripts/install-deps.sh package"
done
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(changelog_date)}
export SOURCE_DATE_EPOCH
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
install_files "$root"
install_control "$root"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz -b "$root" "$build/tallyd_${version}_$arch.deb" >/dev/null
echo "$build/tallyd_${version}_$arch.deb"
