#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# libFuzzer targets: tests/fuzz/fuzz_NAME.c, with a corpus in tests/fuzz/corpus/NAME/.
#
#	scripts/fuzz.sh NAME [SECONDS]	fuzz one target; new inputs stay in build/fuzz-found/NAME
#	scripts/fuzz.sh --all SECONDS	replay every corpus, then share the seconds among all targets
#	scripts/fuzz.sh			list the targets
#
# A crash leaves its input in build/fuzz-found/NAME-crash-*, and says how to replay it.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

build=${BUILD:-build}
found=$build/fuzz-found
export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1}

targets() {
	local f
	for f in tests/fuzz/fuzz_*.c; do
		[ -e "$f" ] || continue
		f=${f##*/fuzz_}
		echo "${f%.c}"
	done
}

# fuzz NAME OPTION...: one run of libFuzzer over the kept and the found corpus
fuzz() {
	local name=$1 dictionary=tests/fuzz/$1.dict args=()
	shift
	mkdir -p "$found/$name" "tests/fuzz/corpus/$name"
	case $name in
	request | response | connection) dictionary=tests/fuzz/http.dict ;;
	esac
	[ ! -f "$dictionary" ] || args+=("-dict=$dictionary")
	nice "$build/test/fuzz/fuzz_$name" "${args[@]}" -artifact_prefix="$found/$name-" -timeout=10 \
		-rss_limit_mb=2048 -print_final_stats=1 "$@"
}

# report STATUS WHAT...: one line, and the counts
report() {
	if [ "$1" = 0 ]; then
		passed=$((passed + 1))
		echo "ok   ${*:2}"
	else
		failed=$((failed + 1))
		echo "FAIL ${*:2} (exit status $1); inputs: $found/"
	fi
}

fuzz_all() {
	local seconds=$1 name names log status share passed=0 failed=0 n
	mapfile -t names < <(targets)
	[ ${#names[@]} -gt 0 ] || { echo 'no fuzz targets' && return 1; }
	share=$((seconds / ${#names[@]}))
	[ "$share" -gt 0 ] || share=1
	log=$(mktemp)
	for name in "${names[@]}"; do
		n=$(find "tests/fuzz/corpus/$name" -type f 2>/dev/null | wc -l)
		fuzz "$name" -runs=0 "tests/fuzz/corpus/$name" >"$log" 2>&1
		status=$?
		[ "$status" = 0 ] || cat "$log"
		[ "$n" -gt 0 ] || { status=1 && echo "tests/fuzz/corpus/$name is empty"; }
		report "$status" "$name: corpus of $n inputs"
	done
	for name in "${names[@]}"; do
		fuzz "$name" -max_total_time="$share" "$found/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1
		status=$?
		[ "$status" = 0 ] || tail -n 60 "$log"
		report "$status" "$name: $(awk '/number_of_executed_units/ { n = $2 } END { print n + 0 }' "$log") new inputs in $share s"
	done
	rm -f "$log"
	echo "$passed passed, $failed failed, 0 skipped"
	[ "$failed" = 0 ]
}

main() {
	local name
	case ${1:-} in
	'')
		echo 'targets (make fuzz T=name SECONDS=60):'
		targets | sed 's/^/  /'
		;;
	--all) fuzz_all "${2:-120}" ;;
	*)
		name=$1
		make -s "$build/test/fuzz/fuzz_$name" || exit
		fuzz "$name" -max_total_time="${2:-60}" "$found/$name" "tests/fuzz/corpus/$name"
		;;
	esac
}

main "$@"
