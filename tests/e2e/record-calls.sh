#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Which system calls does the agent make once it is set up? Runs a command with $TALLYD set to a
# wrapper that traces each agent, then prints every call with its count, and those refused:
#
#	tests/e2e/record-calls.sh pytest tests/e2e/test_lifecycle.py
#
# user/base/privileges.c lists what may be called; what stands under "refused" is missing there.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
binary=$(realpath "${BUILD:-build}/tallyd")
cat >"$folder/tallyd" <<END
#!/bin/sh
[ "\$1" = run ] || exec $binary "\$@"
exec strace -D -f -qq -s 0 -e signal=none -o $folder/\$\$.trace $binary "\$@"
END
chmod +x "$folder/tallyd"
status=0
TALLYD=$folder/tallyd TALLY_READY_S=120 "$@" || status=$?
awk '
	FNR == 1 { on = 0 }
	/ seccomp\(SECCOMP_SET_MODE_FILTER/ { on = 1; next }
	on && match($0, /^[0-9]+ +[a-z_0-9]+\(/) {
		name = substr($0, RSTART, RLENGTH - 1); sub(/^[0-9]+ +/, "", name)
		n[name]++
		if (/= -1 E(PERM|NOSYS)/) refused[name]++
	}
	END {
		for (name in n) printf "%8d %s\n", n[name], name
		for (name in refused) printf "refused %d times: %s\n", refused[name], name
	}' "$folder"/*.trace | sort -rn
exit "$status"
