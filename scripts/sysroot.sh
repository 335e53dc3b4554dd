#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The libraries that tallyd is built with, for another machine: scripts/sysroot.sh ARCH [PACKAGE...]
#
# Unpacks those of `install-deps.sh build` that are not tools, in the architecture of that machine, into
# the cache; nothing is installed, and apt here knows no other architecture afterwards. Prints the folder.
set -euo pipefail
cd "$(dirname "$0")/.."

arch=$1
shift
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
mapfile -t packages < <(scripts/install-deps.sh --list build | grep -E -- '-dev$' | grep -v '^libclang')
# shellcheck source=/dev/null
. tests/vm/common.sh
ARCH=$arch exec tests/vm/fetch-root.sh "$codename" "$(vm_cache)/roots/build-$arch" \
	"${packages[@]}" "$@"
