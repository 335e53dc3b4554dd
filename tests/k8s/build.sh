#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds what the tests of Kubernetes run, from Go modules of fixed versions and checksums:
#
#	tests/k8s/build.sh apiserver	kube-apiserver and etcd
#	tests/k8s/build.sh render	kustomize and helm
#
# into $BUILD/k8s/. Go keeps what it compiled in its own cache, so that only the first time is long
# (kube-apiserver: about 11 minutes of CPU time).
set -euo pipefail
cd "$(dirname "$0")/../.."

out=$(realpath -m "${BUILD:-build}")/k8s
export GOTOOLCHAIN=local GOFLAGS='-mod=readonly -trimpath -buildvcs=false'

die() {
	printf 'tests/k8s/build.sh: %s\n' "$*" >&2
	exit 1
}

# build MODULE PACKAGE NAME
build() {
	local start=$SECONDS stamp=$out/$3.from
	if [ -x "$out/$3" ] && cmp -s "tests/k8s/$1/go.sum" "$stamp"; then
		return
	fi
	printf '  %s: compiling (%s)\n' "$3" "$(go version | cut -d' ' -f3)"
	(cd "tests/k8s/$1" && go build -ldflags='-s -w' -o "$out/$3" "$2") || die "$3 does not build"
	cp "tests/k8s/$1/go.sum" "$stamp"
	printf '  %s: %d s\n' "$3" $((SECONDS - start))
}

command -v go >/dev/null || die 'go is missing (scripts/install-deps.sh test)'
mkdir -p "$out"
for what in "${@:-apiserver}"; do
	case $what in
	apiserver)
		build apiserver go.etcd.io/etcd/server/v3 etcd
		build apiserver k8s.io/kubernetes/cmd/kube-apiserver kube-apiserver
		;;
	render)
		build render sigs.k8s.io/kustomize/kustomize/v5 kustomize
		build render helm.sh/helm/v3/cmd/helm helm
		;;
	*) die "unknown: $what" ;;
	esac
done
