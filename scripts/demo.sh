#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# sudo make demo:      install, build, meter an nginx API, compare the records with nginx's own log
# sudo make demo-live: the same, left running until Ctrl-C
#
# Everything it starts lives in one temporary folder and is ended by process id, also on Ctrl-C;
# what must outlive a Ctrl-C to ship its last window runs in a session of its own (setsid).
# DEMO_PORT (18080) and DEMO_REQUESTS (20000) can be set.
set -euo pipefail
cd "$(dirname "$0")/.."

port=${DEMO_PORT:-18080}
requests=${DEMO_REQUESTS:-20000}
build=${BUILD:-build}
live=''
run=''
pids=() # of what was started, in order
nginx_started=''
meter_started=''

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\033[1m' dim=$'\033[2m' red=$'\033[1;31m' plain=$'\033[0m'
else
	bold='' dim='' red='' plain=''
fi

# step NAME: opens a line; done_step TEXT: ends it, with the seconds it took
step() {
	step_name=$1
	step_start=$EPOCHREALTIME
	[ ! -t 1 ] || printf '  %s%-9s%s %s' "$bold" "$step_name" "$plain" "${2:-}"
}

done_step() {
	local took
	took=$(awk -v a="$step_start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')
	[ ! -t 1 ] || printf '\r\033[K'
	printf '  %s%-9s%s %-72s %s%7s%s\n' "$bold" "$step_name" "$plain" "$1" "$dim" "$took" "$plain"
}

die() {
	[ ! -t 1 ] || printf '\n'
	printf '%sdemo: %s%s\n' "$red" "$1" "$plain" >&2
	shift
	local log
	for log in "$@"; do
		[ ! -s "$log" ] || tail -n 15 "$log" | sed 's/^/    /' >&2
	done
	exit 1
}

# wait_for SECONDS PID WHAT LOG COMMAND...: until COMMAND is true, or the process is gone
wait_for() {
	local deadline=$((SECONDS + $1)) pid=$2 what=$3 log=$4
	shift 4
	until "$@" >/dev/null 2>&1; do
		kill -0 "$pid" 2>/dev/null || die "$what ended" "$log"
		[ "$SECONDS" -lt "$deadline" ] || die "$what is not ready in time" "$log"
		sleep 0.05
	done
}

# end PID SECONDS: ask, wait, insist
end() {
	local pid=$1 deadline=$((SECONDS + $2))
	kill -TERM "$pid" 2>/dev/null || return 0
	while kill -0 "$pid" 2>/dev/null; do
		[ "$SECONDS" -lt "$deadline" ] || {
			kill -KILL "$pid" 2>/dev/null
			break
		}
		sleep 0.05
	done
	wait "$pid" 2>/dev/null || true
}

stop_meter() {
	[ -n "$meter_started" ] || return 0
	end "$meter_started" 15
	meter_started=''
}

# The programs count on without the agent, by design; here they shall not.
unhook() {
	[ -n "$run" ] && [ -e "$run/tallyd.yaml" ] && [ -x "$build/tallyd" ] || return 0
	"$build/tallyd" stop --detach --config "$run/tallyd.yaml" >"$run/stop.log" 2>&1 || {
		echo "demo: the programs are still in the kernel (/sys/fs/bpf/${run##*/}):" >&2
		tail -n 5 "$run/stop.log" >&2
	}
}

cleanup() {
	local status=$? i
	trap - EXIT INT TERM
	stop_meter
	unhook
	[ -z "$nginx_started" ] || nginx -p "$run" -c "$run/nginx.conf" -s stop 2>/dev/null || true
	for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
		end "${pids[i]}" 5
	done
	if [ -n "$run" ] && [ -z "${DEMO_KEEP:-}" ]; then
		rm -rf "$run"
	fi
	exit "$status"
}

install_and_build() {
	step packages 'nginx, a Kafka client, compilers and libraries ...'
	if [ -z "$(scripts/install-deps.sh --missing build demo)" ]; then
		done_step 'all there'
	else
		[ ! -t 1 ] || printf '\n'
		scripts/install-deps.sh build demo || die 'packages could not be installed'
		done_step 'installed'
	fi
	step build 'compiling ...'
	make -s -j"$(nproc)" BUILD="$build" all >"$run/build.log" 2>&1 || die 'the build failed' "$run/build.log"
	done_step "$build/tallyd $("$build/tallyd" version 2>/dev/null | head -n 1 | awk '{ print $NF }')"
}

start_kafka() {
	step kafka 'starting ...'
	setsid "$build/demo-broker" -w "$run/brokers" usage.records.v1 usage.control.v1 usage.progress.v1 \
		>"$run/broker.log" 2>&1 &
	pids+=($!)
	wait_for 10 $! 'the broker' "$run/broker.log" test -s "$run/brokers"
	brokers=$(<"$run/brokers")
	done_step "embedded broker on $brokers"
}

start_nginx() {
	local text
	step nginx 'starting ...'
	text=$(ss -Hltn "sport = :$port")
	[ -z "$text" ] || die "port $port is in use; choose another: DEMO_PORT=8099 make demo"
	sed "s/18080/$port/" deploy/demo/nginx.conf >"$run/nginx.conf"
	cp -r deploy/demo/www "$run/"
	nginx -p "$run" -c "$run/nginx.conf" 2>"$run/nginx.log" || die 'nginx does not start' "$run/nginx.log"
	nginx_started=1
	done_step "an API with keys on http://127.0.0.1:$port"
}

start_tallyd() {
	step tallyd 'starting ...'
	cp deploy/demo/keys.yaml "$run/"
	sed "s|@RUN@|$run|; s|@NAME@|${run##*/}|; s|@BROKERS@|$brokers|; s/18080/$port/; s/18081/$((port + 1))/" deploy/demo/tallyd.yaml >"$run/tallyd.yaml"
	mkdir -p "$run/state" "$run/run"
	setsid "$build/tallyd" run --config "$run/tallyd.yaml" >"$run/tallyd.log" 2>&1 &
	meter_started=$!
	wait_for 15 "$meter_started" tallyd "$run/tallyd.log" tallyd_is_ready
	done_step "metering port $port in the kernel; a window is 2 s"
}

tallyd_is_ready() {
	"$build/tallyd" status --config "$run/tallyd.yaml"
}

# bar DONE OF
bar() {
	local width=40 filled=$(($1 * 40 / $2))
	printf '\r  %s%-9s%s [%s%s] %d of %d requests' "$bold" traffic "$plain" \
		"$(printf '%*s' "$filled" '' | tr ' ' '#')" "$(printf '%*s' $((width - filled)) '' | tr ' ' .)" "$1" "$2"
}

run_traffic() {
	local n=0 line
	step traffic
	while read -r line; do
		n=$line
		[ ! -t 1 ] || bar "$n" "$requests"
	done < <(/usr/bin/python3 deploy/demo/traffic.py "$port" --requests "$requests" --progress 2>"$run/traffic.log")
	[ ! -s "$run/traffic.log" ] || die 'the traffic did not end well' "$run/traffic.log" "$run/error.log"
	done_step "$n requests of 4 customers with 5 keys, of guessers and of nobody"
}

# The open window is closed and shipped by an orderly end of the agent.
close_books() {
	step books 'closing the open window ...'
	stop_meter
	done_step 'tallyd stopped: last window closed, sealed and shipped'
	step consume 'reading the records back ...'
	consume >"$run/records.ndjson" 2>"$run/kcat.log" || die 'the records cannot be read' "$run/kcat.log" "$run/tallyd.log"
	done_step "$(wc -l <"$run/records.ndjson") records read from topic usage.records.v1 with kcat"
}

consume() {
	kcat -C -q -e -b "$brokers" -t usage.records.v1 -o beginning -X isolation.level=read_committed -f '%s\n'
}

print_live() {
	cat <<-TEXT

		It runs on; Ctrl-C ends it. In another terminal, as root, in this folder:

		  curl -i -H 'X-API-Key: acme-live-8d1b64c07f2e' 'http://127.0.0.1:$port/v1/search?q=invoice'
		  curl -i -H 'Authorization: Bearer initech-live-6e90b1f3a845' -d '{"text":"..."}' \\
		       http://127.0.0.1:$port/v1/documents/doc-7/extract
		  wrk -d 10 -c 32 -H 'X-API-Key: globex-live-c5a2740e96d3' http://127.0.0.1:$port/v1/search

		  # live rates per key and route; how the agent is; who is connected with which key
		  $build/tallyd top --config $run/tallyd.yaml
		  $build/tallyd status --config $run/tallyd.yaml
		  $build/tallyd connections --config $run/tallyd.yaml
		  # the metrics; the status page is http://127.0.0.1:$((port + 1))/ in a browser on this host
		  curl -s http://127.0.0.1:$((port + 1))/metrics
		  # the records as they come, two seconds after the requests; the server's own log
		  kcat -C -q -b $brokers -t usage.records.v1 -o end
		  tail -f $run/access.log
	TEXT
	# wait returns when the agent dies, too
	wait "$meter_started" || die 'tallyd ended' "$run/tallyd.log"
}

print_more() {
	cat <<-TEXT

		More:  sudo make demo-live    the same, left running to play with
		       sudo make check        every server and every case, compared like this
		       README.md              what it costs, and how to install it for good
	TEXT
}

main() {
	case ${1:-} in
	--live) live=1 ;;
	'') ;;
	*) die "usage: demo.sh [--live]" ;;
	esac
	[ "$(id -u)" = 0 ] || die 'needs root (it loads programs into the kernel): sudo make demo'
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	run=$(mktemp -d "${TMPDIR:-/tmp}/tallyd-demo-XXXXXX")
	chmod 0755 "$run"
	mkdir -p "$run/tmp"

	printf '\n%stallyd demo%s: an API is metered from the kernel, unchanged\n\n' "$bold" "$plain"
	install_and_build
	start_kafka
	start_nginx
	start_tallyd
	run_traffic
	if [ -n "$live" ]; then
		print_live
		return
	fi
	close_books
	printf '\n'
	/usr/bin/python3 deploy/demo/compare.py "$run/access.log" <"$run/records.ndjson" ||
		die "the books do not agree" "$run/tallyd.log"
	print_more
}

main "$@"
