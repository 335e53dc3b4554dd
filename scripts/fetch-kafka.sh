#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Fetches Apache Kafka for the tests through Maven (versions: tests/kafka/pom.xml) into a folder of
# jars, and prints the folder. Does nothing when it is there already.
#
#	scripts/fetch-kafka.sh [FOLDER]		(default: build/kafka)
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$top/build/kafka}
pom=$top/tests/kafka/pom.xml
stamp=$folder/.$(sha256sum <"$pom" | cut -c1-16)

die() {
	printf 'fetch-kafka: %s\n' "$*" >&2
	exit 1
}

command -v java >/dev/null || die "java is missing: scripts/install-deps.sh test"
command -v mvn >/dev/null || die "mvn is missing: scripts/install-deps.sh test"

if [ ! -e "$stamp" ]; then
	rm -rf "$folder"
	mkdir -p "$folder"
	for try in 1 2 3; do
		mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$folder" \
			-DincludeScope=runtime >&2 && break
		[ "$try" -lt 3 ] || die "Maven could not fetch Kafka"
	done
	ls "$folder"/kafka_2.13-*.jar >/dev/null || die "no broker among the jars"
	touch "$stamp"
fi
echo "$folder"
