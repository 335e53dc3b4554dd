#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# What can be said about the sources without running them. Each check prints its findings and one
# line; the last line is `N passed, N failed, N skipped`. With names, runs only these checks.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

generated='^bpf/vmlinux\.h$|_tables\.h$'
function_lines=60

files() {
	git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do
		[ -f "$f" ] && echo "$f"
	done
}

c_files() {
	files '*.c' '*.h' | grep -vE "$generated"
}

scripts() {
	files | grep -vE '\.(c|h|md|py|json|yaml|txt)$' | while read -r f; do
		head -n 1 "$f" | grep -qE '^#!.*\b(ba)?sh\b' && echo "$f"
	done
	return 0
}

check_format() {
	local bad=0 f
	while read -r f; do
		clang-format --dry-run --Werror "$f" >/dev/null 2>&1 || {
			echo "$f: clang-format would change it (clang-format -i $f)"
			bad=1
		}
	done < <(c_files)
	return $bad
}

# Not a check: `make format`
check_apply-format() {
	c_files | xargs -r clang-format -i
}

check_shellcheck() {
	scripts | xargs -r shellcheck -x -S warning
}

check_headers() {
	make -s -k headers
}

check_layers() {
	tests/lint/layers.sh
}

# A function's body runs from a brace in the first column to the next.
check_functions() {
	c_files | xargs -r awk -v max="$function_lines" '
		FNR == 1 { start = 0 }
		/^\{/ { start = FNR }
		/^\}/ && start { n = FNR - start - 1
			if (n > max) { print FILENAME ":" start ": a function of " n " lines (max " max ")"; bad = 1 }
			start = 0 }
		END { exit bad }'
}

# spdx_of FILE: a pattern. bpf/, include/tally/ and what tests compile for both sides are dual.
spdx_of() {
	local kernel='GPL-2\.0-only OR BSD-2-Clause'
	case $1 in
	bpf/*) echo "$kernel" ;;
	include/tally/*) echo "$kernel OR Apache-2\.0" ;;
	tests/*.bpf.c) echo "Apache-2\.0|$kernel" ;;
	tests/*.h) echo "Apache-2\.0|$kernel OR Apache-2\.0" ;;
	*) echo 'Apache-2\.0' ;;
	esac
}

check_spdx() {
	local bad=0 f line want
	while read -r f; do
		want=$(spdx_of "$f")
		line=$(head -n 3 "$f" | grep -ao 'SPDX-License-Identifier: .*' | sed 's:^[^ ]* ::; s: *\*/$::')
		[[ $line =~ ^($want)$ ]] || {
			echo "$f: wants SPDX-License-Identifier: $want in its first lines, has '$line'"
			bad=1
		}
	done < <({
		files '*.c' '*.h' '*.py' '*.sh' '*.go' '*.js' '*.lua' '*.yaml' '*.yml' '*.conf' '*.service' Makefile
		scripts
	} | sort -u)
	return $bad
}

# What would tie the tree to one machine or one person.
check_names() {
	local bad=0 pattern
	for pattern in '/(home|Users)/[a-z]' '/wor[k]/' '/tmp/w[/]' '\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b'; do
		files | xargs -r grep -nIE "$pattern" && bad=1
	done
	return $bad
}

# Every row of the table of adversarial HTTP is named by a test; alone, tests/lint/cases.sh prints which.
check_cases() {
	local out
	out=$(tests/lint/cases.sh) || { grep 'NO TEST' <<<"$out"; return 1; }
}

check_tidy() {
	local flags
	command -v clang-tidy >/dev/null || return 77
	make -s skeletons || return 1
	flags=$(make -s print-flags)
	# shellcheck disable=SC2086
	files 'user/*.c' 'deploy/demo/*.c' | xargs -r -n 4 -P 2 sh -c '
		flags=$1; shift
		clang-tidy --quiet "$@" -- $flags 2>/dev/null' sh "$flags" |
		{ ! grep -E 'error:|warning:'; }
}

passed=0 failed=0 skipped=0
[ $# -gt 0 ] || set -- format shellcheck headers layers functions spdx names cases tidy
for name in "$@"; do
	printf '%s\n' "--- $name"
	"check_$name"
	case $? in
	0) passed=$((passed + 1)) && echo "ok   $name" ;;
	77) skipped=$((skipped + 1)) && echo "SKIP $name: the tool is not installed" ;;
	*) failed=$((failed + 1)) && echo "FAIL $name" ;;
	esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
