#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The part of test_system.py that runs in a booted Debian: guest.sh STAGE SHARE
#
#	install	the package comes, is started, restarted, reloaded, upgraded and killed under load;
#		then the machine is shut down while answers are under way
#	purge	after the next boot: what was answered last is in the books; the package goes
#
# What is found goes as lines `name value` into SHARE/facts, for test_system.py to judge. SHARE also
# holds one.deb, next.deb, load (the generator) and its templates fast and slow.
set -euo pipefail

stage=$1 share=$2
config=/etc/tallyd/tallyd.yaml usage=/var/lib/tallyd/usage.ndjson

# Beside it, in SHARE/times, when: seconds since boot, and of processor time spent.
fact() {
	printf '%s %s\n' "$1" "${2:-}" >>"$share/facts"
	awk -v name="$1" -v hz="$(getconf CLK_TCK)" 'FNR == NR { up = $1; next }
		$1 == "cpu" { printf "%8.1f %8.1f  %s\n", up, ($2 + $3 + $4 + $7 + $8) / hz, name }' \
		/proc/uptime /proc/stat >>"$share/times"
}

# fact_of NAME COMMAND...: its exit status
fact_of() {
	local name=$1 status=0
	shift
	"$@" >>"$share/output" 2>&1 || status=$?
	fact "$name" "$status"
}

show() {
	systemctl show --value -p "$2" "$1"
}

# wait_until SECONDS WHAT COMMAND...
wait_until() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		if [ "$SECONDS" -gt "$deadline" ]; then
			fact timeout "$what"
			systemctl status --no-pager tallyd >>"$share/output" 2>&1 || true
			return 1
		fi
		sleep 0.5 # an emulated machine: do not take its time away
	done
}

# --- the services --------------------------------------------------------------------------------

server() {
	cat <<-END
	log_format books '\$msec \$http_x_api_key \$request_method \$uri \$status \$request_length \$bytes_sent';
	server {
		listen 127.0.0.1:$1;
		access_log /srv/$2.log books;
		keepalive_requests 100000;
		location / { echo_sleep 0.1; echo ok; }
		location /slow { echo_sleep $3; echo late; }
	}
	END
}

# nginx as Debian ships it; and a unit like those that people write themselves, without any ordering.
make_services() {
	server 8080 nginx 3 >/etc/nginx/conf.d/api.conf
	{
		echo 'pid /run/plain.pid; error_log stderr; daemon off; worker_processes 1;'
		echo 'include /etc/nginx/modules-enabled/*.conf;'
		echo 'events {} http {'
		server 8081 plain 3
		echo '}'
	} >/srv/plain.conf
	cat >/etc/systemd/system/plain.service <<-END
	[Service]
	ExecStart=/usr/sbin/nginx -c /srv/plain.conf
	KillSignal=SIGQUIT
	TimeoutStopSec=30
	[Install]
	WantedBy=multi-user.target
	END
	systemctl daemon-reload
	systemctl enable plain
	systemctl reload nginx
	systemctl start plain
}

# write_config ROUTE
write_config() {
	cat >$config <<-END
	agent: { window: 2s }
	services:
	  - name: api
	    match: { unit: nginx.service, ports: [8080] }
	    key: [ { header: X-API-Key } ]
	    routes: [ { match: "$1" } ]
	  - name: plain
	    match: { unit: plain.service, ports: [8081] }
	    key: [ { header: X-API-Key } ]
	keys: { file: /etc/tallyd/keys.yaml }
	sinks: [ { file: { path: $usage } } ]
	END
}

write_catalog() {
	local key
	echo keys: >/etc/tallyd/keys.yaml
	for key in one two; do
		printf -- '- { id: key_%s, customer: cus_%s, sha256: %s }\n' $key $key \
			"$(printf %s "secret-$key" | sha256sum | cut -d' ' -f1)" >>/etc/tallyd/keys.yaml
	done
}

# load_unit NAME PORT TEMPLATES ARGS...: in a unit that outlives the services at shutdown
load_unit() {
	local name=$1 port=$2 templates=$3
	shift 3
	systemd-run -q -u "$name" -p DefaultDependencies=no -p Nice=10 \
		-p StandardOutput="file:/srv/$name.json" /srv/load -p "$port" -f "/srv/$templates" "$@"
}

answered() {
	cat /srv/nginx.log /srv/plain.log 2>/dev/null | wc -l
}

# More answers than there were: load goes on.
load_goes_on() {
	local now
	now=$(answered)
	wait_until 240 "load to go on" bash -c "[ \$(cat /srv/nginx.log /srv/plain.log | wc -l) -gt $((now + 20)) ]"
}

# The sum of requests in all records, however they were written.
counted() {
	grep -o '"requests":[0-9]*' $usage 2>/dev/null | awk -F: '{ n += $2 } END { print n + 0 }'
}

# Control records repeat the sums of their records.
books_are_closed() {
	[ "$(counted)" -ge $((2 * $(answered))) ]
}

keep() {
	cp $usage "$share/$1.ndjson"
	cat /srv/nginx.log >"$share/$1.nginx.log"
	cat /srv/plain.log >"$share/$1.plain.log"
}

# --- stage install -------------------------------------------------------------------------------

after_installation() {
	fact active_after_install "$(systemctl is-active tallyd)"
	fact enabled_after_install "$(systemctl is-enabled tallyd)"
	fact pins_after_install "$(find /sys/fs/bpf -name 'tally*' | wc -l)"
	fact mode_config "$(stat -c %a $config)"
}

start_service() {
	write_config '/v1/**'
	write_catalog
	fact_of enable systemctl enable --now tallyd
	fact active_after_start "$(systemctl is-active tallyd)"
	fact mode_state "$(stat -c %a /var/lib/tallyd)"
	grep -E '^(Cap(Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' "/proc/$(show tallyd MainPID)/status" |
		while read -r name value; do fact "status_${name%:}" "$value"; done
	tallyd services >>"$share/output"
	fact services_attached "$(tallyd services -o json | grep -c '/system.slice/')"
}

restart_and_reload() {
	fact_of restart systemctl restart tallyd
	load_goes_on
	write_config '/v2/**'
	fact_of reload systemctl reload tallyd
	wait_until 240 'the reload' journal_has 'reload services=2'
	load_goes_on
	pid=$(show tallyd MainPID)
	echo 'services: [ { nmae: api } ]' >$config
	fact_of reload_of_a_mistake systemctl reload tallyd
	wait_until 240 'the refusal' journal_has config_refused
	write_config '/v2/**'
	fact errors_in_journal "$(journalctl -q -u tallyd -p err -o cat | grep -c '^error config_refused' || true)"
	fact notices_among_errors "$(journalctl -q -u tallyd -p err -o cat | grep -c 'reload services=2' || true)"
	fact_of reload_repaired systemctl reload tallyd
	load_goes_on
	fact pid_kept_by_reloads "$([ "$pid" = "$(show tallyd MainPID)" ] && echo yes)"
}

journal_has() {
	journalctl -q -u tallyd -o cat | grep -q "$1"
}

upgrade() {
	local pid
	pid=$(show tallyd MainPID)
	fact_of upgrade dpkg -i "$share/next.deb"
	fact version_after_upgrade "$(dpkg-query -W -f '${Version}' tallyd)"
	fact active_after_upgrade "$(systemctl is-active tallyd)"
	fact pid_changed_by_upgrade "$([ "$pid" != "$(show tallyd MainPID)" ] && echo yes)"
	fact config_kept "$(grep -c nginx.service $config)"
	load_goes_on
}

kill_it() {
	local pid
	pid=$(show tallyd MainPID)
	kill -KILL "$pid"
	wait_until 240 'the restart by systemd' \
		bash -c "systemctl is-active tallyd && [ \$(systemctl show --value -p MainPID tallyd) != $pid ]"
	fact restarts "$(show tallyd NRestarts)"
	load_goes_on
}

restart_nginx() {
	fact_of restart_nginx systemctl restart nginx
	systemctl stop fast-nginx # ended with the first connection refused
	load_unit again-nginx 8080 fast -c 2 -n 1000000
	load_goes_on
}

stop_load() {
	systemctl stop again-nginx fast-plain
	wait_until 240 'the books to be closed' books_are_closed
	keep running
}

# Whenever the order to stop comes, answers are under way, which outlive it.
shut_down() {
	load_unit slow-nginx 8080 slow -c 4 -n 120
	load_unit slow-plain 8081 slow -c 4 -n 120
	wait_until 240 'the slow requests' bash -c \
		'[ $(ss -Htn state established "( sport = :8080 or sport = :8081 )" | wc -l) -ge 8 ]'
	fact shutdown
	sync
	systemctl poweroff
	sleep 300
}

install_stage() {
	cp "$share/load" "$share/fast" "$share/slow" /srv/
	fact_of install dpkg -i "$share/one.deb"
	after_installation
	make_services
	start_service
	load_unit fast-nginx 8080 fast -c 2 -n 1000000
	load_unit fast-plain 8081 fast -c 2 -n 1000000
	load_goes_on
	restart_and_reload
	upgrade
	kill_it
	restart_nginx
	stop_load
	shut_down
}

# --- stage purge ---------------------------------------------------------------------------------

# When did the last boot begin and end to stop a unit? Seconds since 1970; nothing: not said.
journal_time() {
	journalctl -q -b -1 -o short-unix | grep -E "systemd\[1\]: $1" | tail -n 1 | cut -d. -f1-2 | cut -d' ' -f1
}

shutdown_order() {
	fact nginx_stopping "$(journal_time 'Stopping nginx.service')"
	fact nginx_stopped "$(journal_time 'Stopped nginx.service')"
	fact plain_stopping "$(journal_time 'Stopping plain.service')"
	fact plain_stopped "$(journal_time 'Stopped plain.service')"
	fact tallyd_stopping "$(journal_time 'Stopping tallyd.service')"
	fact tallyd_stopped "$(journal_time 'Stopped tallyd.service')"
}

removal() {
	fact_of remove dpkg -r tallyd
	fact active_after_remove "$(systemctl is-active tallyd)"
	fact pins_after_remove "$(find /sys/fs/bpf -name 'tally*' | wc -l)"
	fact config_after_remove "$(find $config | wc -l)"
	keep final
	fact_of purge dpkg --purge tallyd
	find / -xdev -path /var/log/journal -prune -o -path /srv -prune -o -name '*tallyd*' -print |
		grep -vE '^/(var/lib/dpkg/|var/log/|run/)' >"$share/left" || true
	fact unit_after_purge "$(show tallyd LoadState)"
	fact_of nginx_still_answers /srv/load -p 8080 -f /srv/fast -c 1 -n 1
}

purge_stage() {
	shutdown_order
	fact active_after_boot "$(systemctl is-active tallyd)"
	fact tallyd_ready_us "$(show tallyd ActiveEnterTimestampMonotonic)"
	fact nginx_begun_us "$(show nginx InactiveExitTimestampMonotonic)"
	fact plain_begun_us "$(show plain InactiveExitTimestampMonotonic)"
	fact failed_units "$(systemctl --failed --no-legend | wc -l)"
	wait_until 240 'the books to be closed' books_are_closed
	keep booted
	/srv/load -p 8080 -f /srv/fast -c 2 -n 40 >/dev/null
	removal
}

: >"$share/output"
: >"$share/times"
"${stage}_stage"
fact complete
