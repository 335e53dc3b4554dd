#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes tallyd's topics (that of connections too, which stays empty unless records.connections is on), with Kafka's own kafka-topics.sh, where agents may not (create_topics: false).
#
#	deploy/kafka/topics.sh BROKERS [PARTITIONS [REPLICATION]]	(default: 6 3)
#	deploy/kafka/topics.sh --print ...				print the commands only
#
# KAFKA_TOPICS names the program (default: kafka-topics.sh). Records are deltas: never compact
# usage.records.v1. Partitions may be added later; a record that is sent again still goes where it
# went before.
set -euo pipefail

run=()
if [ "${1:-}" = --print ]; then
	run=(echo)
	shift
fi
brokers=${1:?brokers, host:port,...}
partitions=${2:-6}
replication=${3:-3}
days45=$((45 * 24 * 3600 * 1000))

# create TOPIC SETTING...
create() {
	local topic=$1 setting settings=()
	shift
	for setting in "$@"; do
		settings+=(--config "$setting")
	done
	"${run[@]}" "${KAFKA_TOPICS:-kafka-topics.sh}" --bootstrap-server "$brokers" --create --if-not-exists \
		--topic "$topic" --partitions "$partitions" --replication-factor "$replication" "${settings[@]}"
}

create usage.records.v1 cleanup.policy=delete "retention.ms=$days45"
create usage.control.v1 cleanup.policy=delete "retention.ms=$days45"
create usage.progress.v1 cleanup.policy=compact
create usage.connections.v1 cleanup.policy=delete "retention.ms=$days45"
