# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Cases of a suite of machines, counted in passed and failed, which whoever sources this has set to 0.

# case_of TITLE COMMAND...
case_of() {
	local title=$1 start=$SECONDS status
	shift
	printf -- '--- %s\n' "$title"
	"$@"
	status=$?
	if [ "$status" = 0 ]; then
		passed=$((passed + 1))
		printf 'ok %s (%d s)\n' "$title" $((SECONDS - start))
	else
		failed=$((failed + 1))
		printf 'FAIL %s: exit status %d (%d s)\n' "$title" "$status" $((SECONDS - start))
	fi
}
