#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs test suites in order and adds up what they say.
#
#	scripts/check.sh			the suites of `make check`
#	scripts/check.sh --long			those of `make check-long`
#	scripts/check.sh --hosts		those of `make check-hosts`
#	scripts/check.sh SUITE...		these
#	scripts/check.sh --list			all of them
#
# Each suite has a log in build/check/SUITE.log. On a terminal one line shows where a suite is (V=1:
# everything is shown); elsewhere everything is shown. With CI=true a skip that tests/allowed-skips does
# not list is a failure. The last line is `N passed, N failed, N skipped`.
#
# A suite is a command whose last lines tell counts: `N passed, N failed, N skipped`, or pytest's summary.
# A skip is announced by a line that begins with SKIP and says why; a known failure that is not run
# (KNOWN FAILURE, and why) is a skip, too. A suite that passes nothing fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

export BUILD=${BUILD:-build}
logs=$BUILD/check
kept=tests/allowed-skips
skip_line='^(SKIP|ok .*# SKIP|KNOWN FAILURE)'
diff=$BUILD/test/diff/diff
sim='/usr/bin/python3 tests/sim/run.py'
pytest='/usr/bin/python3 -m pytest -q -rsfE --color=no'

# suite | part of (check, long, hosts, own) | budget in seconds | command | what it shows
suites="
build       | check | 300  | scripts/check.sh --run-build              | everything compiles
lint        | check | 120  | tests/lint/run.sh                         | format, layers, licences, functions
unit        | check | 240  | scripts/check.sh --run-programs unit      | modules of the agent, ASan and UBSan
vectors     | check | 240  | scripts/check.sh --run-programs vectors   | the engine, whole and at every split
diff        | check | 90   | $diff -s 1795652129940229 -t 60           | the engine and two other parsers agree
sim         | check | 120  | $sim --histories 5000                     | sealing and shipping through seeded faults
fuzz        | check | 300  | scripts/fuzz.sh --all 120                 | corpus, then two minutes of new input
kernel      | check | 180  | scripts/check.sh --run-programs kernel    | the engine inside this kernel
e2e         | check | 900  | $pytest -m 'not long and not soak' tests/e2e | real servers, real sockets
package     | check | 240  | $pytest -m 'not long' tests/package      | unit, Debian package, manual
prometheus  | check | 150  | $pytest tests/prometheus                  | metrics, alerts, dashboards, runbook
page        | check | 240  | $pytest tests/page                        | the status page in a browser
vm          | check | 400  | tests/vm/matrix.sh                        | other kernels, counting right
e2e-long    | long  | 300  | $pytest -m long tests/e2e                 | load, many connections, long bodies
kafka       | long  | 540  | $pytest -s tests/kafka                    | a real Kafka: transactions, kills, doubt, readers
faults      | long  | 600  | tests/faults/run.py --ci --jobs 4         | a real Kafka, 200 faults, books that close
deploy      | long  | 150  | $pytest tests/deploy                      | topics and rights as documented, on a real Kafka
diff-long   | long  | 180  | $diff -t 150                              | the same, for longer, on new streams
sim-long    | long  | 240  | $sim --histories 10000 --outage 72 --mutants | more histories, days of outage; planted bugs are found
vm-long     | long  | 300  | tests/vm/matrix.sh --long                 | power cuts, full disks
k8s         | hosts | 1500 | $pytest tests/k8s                         | a real kube-apiserver: pods come, change, go
system      | hosts | 600  | $pytest -m long tests/package             | the package under a booted systemd
arm64       | hosts | 600  | tests/vm/arm64.sh                         | cross-compiled, on an arm64 kernel
bench       | own   | 900  | /usr/bin/python3 tests/bench/run.py       | nanoseconds, throughput, memory
histories   | own   | 900  | $sim --histories 100000                   | 100,000 histories through the simulator
soak        | own   | $((${TALLY_SOAK_S:-3600} + 600)) | $pytest -m soak tests/e2e                 | an hour of load (TALLY_SOAK_S)
calls       | own   | 1800 | tests/kafka/inject.py                     | each call of sealing and shipping, each error
calls-agent | own   | 7200 | tests/faults/run.py --every-call --jobs 4 | each call of a close and of a start, each error
upgrades    | own   | 5400 | tests/faults/upgrades.py --count 1000     | upgrades under load
soak-faults | own   | $((${MINUTES:-60} * 60 + 600)) | tests/faults/run.py --minutes ${MINUTES:-60} --jobs ${JOBS:-4} | faults, seed after seed (MINUTES, JOBS)
"

die() {
	printf 'check: %s\n' "$*" >&2
	exit 2
}

# field SUITE N
field() {
	awk -F' *[|] *' -v s="$1" -v n="$2" '{ sub(/^ +/, "") } $1 == s { sub(/ +$/, "", $n); print $n }' <<<"$suites"
}

# suites_of PART
suites_of() {
	awk -F' *[|] *' -v p="$1" '$2 == p { print $1 }' <<<"$suites"
}

# --- what some suites run -----------------------------------------------------------------------

# Everything is compiled in one go; a target that does not build is one failure.
run_build() {
	if make -k -j"$(nproc)" all tests; then
		echo '1 passed, 0 failed, 0 skipped'
	else
		echo '0 passed, 1 failed, 0 skipped'
		return 1
	fi
}

# counts_of LOG STATUS: "passed failed skipped" of one program: cmocka's TAP, its own counts, or its status
counts_of() {
	awk -v status="$2" '
		/^ok .*# SKIP/ { s++; next }
		/^ok / { p++ }
		/^not ok / { f++ }
		/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { p = $1; f = $3; s = $5 }
		END { if (status && !f) f = 1
		      if (!status && !p && !f && !s) p = 1
		      print p + 0, f + 0, s + 0 }' "$1"
}

# Each program of build/test/SUITE, one after the other.
run_programs() {
	local passed=0 failed=0 skipped=0 program log status p f s
	log=$(mktemp)
	while read -r program; do
		printf '%s\n' "--- ${program#"$BUILD"/test/}"
		CMOCKA_MESSAGE_OUTPUT=TAP "$program" >"$log" 2>&1
		status=$?
		grep -vE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log"
		[ "$status" = 0 ] || echo "FAIL ${program##*/}: exit status $status"
		read -r p f s < <(counts_of "$log" "$status")
		passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	done < <(programs_of "$1")
	rm -f "$log"
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" = 0 ]
}

# The sources say which programs there should be: a program that was not built fails, by its absence.
programs_of() {
	local source
	[ ! -e "tests/$1/$1.c" ] || {
		echo "$BUILD/test/$1/$1"
		return
	}
	for source in tests/"$1"/*.c; do
		case ${source##*/} in
		'*.c' | lib*.c | *.bpf.c) ;;
		*) source=${source#tests/} && echo "$BUILD/test/${source%.c}" ;;
		esac
	done
}

# --- running one suite --------------------------------------------------------------------------

# summary LOG: "passed failed skipped", or nothing where the log tells none
summary() {
	awk '
		/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ { r = $1 " " $3 " " $5 }
		/^(=+ )?([0-9]+ [a-z]+, )*[0-9]+ (passed|failed|skipped|errors?|deselected)(, [0-9]+ [a-z]+)* in [0-9.]+s/ {
			p = f = s = 0
			for (i = 1; i < NF; i++) {
				if ($(i + 1) ~ /^passed/) p += $i
				if ($(i + 1) ~ /^(failed|error|xpassed)/) f += $i
				if ($(i + 1) ~ /^(skipped|xfailed)/) s += $i
			}
			r = p " " f " " s
		}
		END { print r }' "$1"
}

# Shows the growing log: all of it, or its newest line in place.
show() {
	if [ -t 1 ] && [ -z "${V:-}" ]; then
		awk '{ gsub(/\t/, " "); printf "\r\033[K    %s", substr($0, 1, 92); fflush() } END { printf "\r\033[K" }'
	else
		sed -u 's/^/    /'
	fi
}

# skips_not_allowed LOG: the skips (lines that begin with SKIP) that no line of the list is part of
skips_not_allowed() {
	grep -E "$skip_line" "$1" | grep -vFf <(grep -vE '^(#|$)' "$kept" 2>/dev/null | sed 's/ *#.*//') || true
}

# judge SUITE LOG STATUS: sets passed, failed, skipped and notes
judge() {
	local counts bad
	counts=$(summary "$2")
	if [ -z "$counts" ]; then
		passed=0 failed=1 skipped=0
		notes="no result (exit status $3)"
		return
	fi
	read -r passed failed skipped <<<"$counts"
	skipped=$((skipped + $(grep -c '^KNOWN FAILURE' "$2")))
	if [ "$3" != 0 ] && [ "$failed" = 0 ]; then
		failed=1
		notes="exit status $3"
	elif [ "$passed" = 0 ] && [ "$failed" = 0 ]; then
		failed=1
		notes='nothing ran'
	fi
	[ "${CI:-}" = true ] && [ "$skipped" != 0 ] || return 0
	bad=$(skips_not_allowed "$2")
	if [ -n "$bad" ] || ! grep -qE "$skip_line" "$2"; then
		failed=$((failed + 1))
		notes='skips that CI does not allow'
		printf '%s\n' "$bad" | sed 's/^/    not allowed: /'
	fi
}

# suite NAME: runs it and adds a line to the table
suite() {
	local name=$1 budget command log=$logs/$1.log start=$SECONDS took status notes='' passed failed skipped
	budget=$(field "$name" 3)
	command=$(field "$name" 4)
	[ -n "$command" ] || die "no suite '$name' (scripts/check.sh --list)"
	printf '%s\n' "=== $name: $(field "$name" 5) (budget $budget s)"
	timeout -k 20 $((budget * 2 + 60)) bash -c "$command" 2>&1 </dev/null | tee "$log" | show
	status=${PIPESTATUS[0]}
	took=$((SECONDS - start))
	[ "$status" != 124 ] || notes='timed out'
	judge "$name" "$log" "$status"
	[ "$took" -le "$budget" ] || notes="${notes:+$notes; }over its budget of $budget s"
	if [ "$failed" != 0 ] && [ -t 1 ] && [ -z "${V:-}" ]; then
		tail -n 40 "$log" | sed 's/^/    /'
	fi
	printf '    %d passed, %d failed, %d skipped in %d s of %d  %s\n\n' \
		"$passed" "$failed" "$skipped" "$took" "$budget" "$notes"
	table+=$(printf '  %-10s %8d %8d %8d %8d %8d  %s' "$name" "$passed" "$failed" "$skipped" "$took" "$budget" "$notes")$'\n'
	[ "$failed" = 0 ] || broken+=("$name")
	all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed)) all_skipped=$((all_skipped + skipped))
}

print_skips() {
	local name
	for name in "$@"; do
		grep -HE "$skip_line" "$logs/$name.log" | sed "s|^$logs/||; s|\.log:|: |"
	done | sort | uniq -c | sed 's/^ */  skipped /'
}

# What the logs of these suites say of their failures: here, too, because who reads only the end wants it.
print_failures() {
	local name
	for name in "$@"; do
		printf '\n  --- %s failed; of %s:\n' "$name" "$logs/$name.log"
		grep -E '^(FAIL|not ok|FAILED|ERROR|E  |run.sh:|.*: runtime error:|SUMMARY:)' "$logs/$name.log" | tail -n 40 | cut -c1-400
		echo '  ...'
		tail -n 12 "$logs/$name.log" | cut -c1-400
	done
}

run_suites() {
	local name start=$SECONDS budget=0 broken=()
	for name in "$@"; do
		[ -n "$(field "$name" 3)" ] || die "no suite '$name' (scripts/check.sh --list)"
		budget=$((budget + $(field "$name" 3)))
	done
	echo "$# suites, $((budget / 60)) minutes at most; logs in $logs/"
	mkdir -p "$logs"
	for name in "$@"; do
		suite "$name"
	done
	printf '  %-10s %8s %8s %8s %8s %8s\n' suite passed failed skipped seconds budget
	printf '%s' "$table"
	print_skips "$@"
	printf '  total %d s\n' $((SECONDS - start))
	[ "${#broken[@]}" = 0 ] || print_failures "${broken[@]}"
	echo
	echo "$all_passed passed, $all_failed failed, $all_skipped skipped"
	[ "$all_failed" = 0 ]
}

main() {
	local table='' all_passed=0 all_failed=0 all_skipped=0 names
	case ${1:-} in
	--run-build) run_build && return 0 || return 1 ;;
	--run-programs) run_programs "$2" && return 0 || return 1 ;;
	--list)
		sed '/^$/d; s/ *| */ | /g' <<<"$suites" | awk -F' [|] ' '{ printf "%-10s %-6s %5d s  %s\n", $1, $2, $3, $5 }'
		return 0
		;;
	--long | --hosts) mapfile -t names < <(echo build && suites_of "${1#--}") ;;
	'') mapfile -t names < <(suites_of check) ;;
	-*) die "unknown option $1" ;;
	*) names=("$@") ;;
	esac
	[ "$(id -u)" = 0 ] || die 'needs root (it loads programs into the kernel): sudo make check'
	run_suites "${names[@]}"
}

main "$@"
