#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs Debian packages by purpose:
#
#	scripts/install-deps.sh [build] [demo] [package] [test]	(default: build)
#	scripts/install-deps.sh --list [purpose...]	print the packages and stop
#	scripts/install-deps.sh --missing [purpose...]	print those that are not installed and stop
#
# Asks apt for nothing when all packages are there; then it needs neither root nor a network.
# Servers that come as a package (nginx, Apache httpd, HAProxy, Prometheus) are not started and not enabled:
# the demo and the tests run their own, with their own configuration.
set -euo pipefail

export PATH=$PATH:/usr/sbin:/sbin

# The lists are read by name (wanted). An entry is PACKAGE, or PACKAGE?COMMAND: not wanted where
# COMMAND is there already, from elsewhere.
# shellcheck disable=SC2034
build=(
	clang?clang llvm lld libclang-rt-14-dev # BPF programs; the fuzz targets' runtime
	bpftool libbpf-dev libelf-dev zlib1g-dev
	gcc libc6-dev make pkg-config
	librdkafka-dev libyaml-dev libjansson-dev libssl-dev uthash-dev
	libpcap-dev libmicrohttpd-dev libcurl4-openssl-dev libseccomp-dev
	libcmocka-dev # `make tests` builds without the test purpose
)
# shellcheck disable=SC2034
demo=(
	nginx-light?nginx wrk curl kcat
	python3 procps iproute2
)
# shellcheck disable=SC2034
package=(
	dpkg-dev scdoc gzip xz-utils # `make deb`
)
# shellcheck disable=SC2034
test=(
	# servers under test, and what drives them
	nginx-light?nginx apache2 haproxy nodejs?node golang-go?go wrk curl kcat
	python3 python3-pytest python3-jsonschema python3-yaml python3-cryptography python3-h11
	# witnesses: an independent parser, captures, packet tools
	libhttp-parser-dev tcpdump nftables iproute2 ethtool iptables strace util-linux procps
	# other kernels
	qemu-system-x86 qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross busybox-static cpio xz-utils zstd binutils debian-archive-keyring gpgv ca-certificates
	# a real Kafka broker
	openjdk-17-jre-headless?java maven?mvn
	# the package
	lintian man-db systemd mmdebstrap
	# alert rules and metrics (promtool); the status page in a browser
	prometheus?promtool chromium chromium-driver python3-selenium fonts-dejavu-core
	# full disks
	xfsprogs e2fsprogs
	# lint
	shellcheck clang-format clang-tidy valgrind git
)

die() {
	printf 'install-deps: %s\n' "$*" >&2
	exit 1
}

# wanted PURPOSE...: one package a line
wanted() {
	local purpose entry
	for purpose in "$@"; do
		declare -n list=$purpose
		for entry in "${list[@]}"; do
			[[ $entry == *\?* ]] && command -v "${entry#*\?}" >/dev/null && continue
			echo "${entry%\?*}"
		done
	done | sort -u
}

installed() {
	dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null |
		awk '$2 == "installed" { print $1 }' | sort -u
}

# While packages are configured, starting services is refused (policy-rc.d, Debian Policy 9.3.3).
# A policy that was there before is put back.
quiet_services() {
	policy=/usr/sbin/policy-rc.d
	backup=
	[ -e "$policy" ] && backup=$(mktemp) && cp -a "$policy" "$backup"
	trap restore_services EXIT
	trap 'exit 130' INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 0755 "$policy"
}

restore_services() {
	rm -f "$policy"
	if [ -n "$backup" ]; then
		cp -a "$backup" "$policy"
		rm -f "$backup"
	fi
}

# Package scripts enable a unit that is new to the machine; ours stay off. deb-systemd-helper is what
# they enabled it with, and works where systemd does not run.
disable_new_services() {
	local unit
	for unit in nginx apache2 haproxy prometheus; do
		if printf '%s\n' "$@" | grep -Eqx "$unit|$unit-light"; then
			DPKG_MAINTSCRIPT_PACKAGE=$unit deb-systemd-helper disable "$unit.service" >/dev/null 2>&1 || true
		fi
	done
}

# On a terminal the newest package in place, elsewhere a line for every tenth.
progress() {
	local tty=0
	[ ! -t 1 ] || tty=1
	awk -v tty="$tty" '
		/^Get:/ && tty { printf "\r\033[K  downloading %s", $5; fflush() }
		/^Setting up / { n++
			if (tty) printf "\r\033[K  %d set up: %s %s", n, $3, $4
			else if (n % 10 == 0) printf "  %d set up, now %s\n", n, $3
			fflush() }
		END { if (tty) printf "\r\033[K" }'
}

# apt_get ARGS...: quiet, one line of progress per package, the whole log on failure
apt_get() {
	local log
	log=$(mktemp)
	if ! DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Use-Pty=0 \
		-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 "$@" 2>&1 </dev/null |
		tee "$log" | progress; then
		tail -n 30 "$log" >&2
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

# missing PURPOSE...
missing() {
	comm -23 <(wanted "$@") <(installed)
}

main() {
	local print='' purposes=() packages=() need
	while [ $# -gt 0 ]; do
		case $1 in
		--list) print=wanted ;;
		--missing) print=missing ;;
		build | demo | package | test) purposes+=("$1") ;;
		-h | --help)
			sed -n '4,12s/^# \{0,1\}//p' "$0"
			return 0
			;;
		*) die "unknown purpose '$1' (build, demo, package, test)" ;;
		esac
		shift
	done
	[ ${#purposes[@]} -gt 0 ] || purposes=(build)
	if [ -n "$print" ]; then
		"$print" "${purposes[@]}"
		return 0
	fi

	command -v dpkg-query >/dev/null || die "this is not Debian; packages needed: $(wanted "${purposes[@]}" | xargs)"
	need=$(missing "${purposes[@]}")
	[ -n "$need" ] || return 0
	mapfile -t packages <<<"$need"
	[ "$(id -u)" = 0 ] || die "${#packages[@]} packages are missing and need root: ${packages[*]}"

	echo "installing ${#packages[@]} packages and what they need, for: ${purposes[*]}"
	quiet_services
	apt_get update || die "apt-get update failed: is the network reachable? (missing: ${packages[*]})"
	apt_get install --no-install-recommends "${packages[@]}" ||
		die "apt-get could not install: ${packages[*]}"
	disable_new_services "${packages[@]}"
	need=$(missing "${purposes[@]}")
	[ -z "$need" ] || die "still missing: $(xargs <<<"$need")"
}

main "$@"
