#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The table of adversarial HTTP has 42 rows. Prints which tests name each of them; a row that no test names
# is a failure. A test names a row by `(case N)` in the title of a vector, by the first field of a Case in
# tests/e2e/lib/cases.py (letters tell inputs of one row apart), or by `Row N` in an end-to-end test.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

rows=42

# tests_of ROW: one line a test
tests_of() {
	grep -HE "^=== .*\(case $1\)" tests/vectors/*.http |
		sed -E "s/:=== (.*) \(case $1\)/: \1/"
	grep -HE "^ *yield Case\(\"$1[a-z]?\"" tests/e2e/lib/cases.py |
		sed -E 's/lib\/cases.py: *yield Case\("([0-9]+[a-z]?)", "([^"]*)".*/test_cases.py: \1 \2/
			s/lib\/cases.py: *yield Case\("([0-9]+)" \+.*/test_cases.py: \1, several/'
	awk -v row="Row $1[^0-9]" '
		/^ *def test_/ { name = $2; sub(/\(.*/, "", name) }
		$0 ~ row { print FILENAME ": " name }' tests/e2e/test_*.py
}

bare=0
for ((row = 1; row <= rows; row++)); do
	found=$(tests_of "$row")
	if [ -z "$found" ]; then
		printf 'row %2d  NO TEST NAMES IT\n' "$row"
		bare=$((bare + 1))
		continue
	fi
	sed "s/^/$(printf 'row %2d  ' "$row")/" <<<"$found"
done
[ "$bare" = 0 ]
