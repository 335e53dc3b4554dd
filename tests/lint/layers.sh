#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The direction of the arrows: who may include whom. Prints each breach, exit 1 if there is one.
#
#	include/tally   itself only
#	bpf/engine      itself, tally/; no helper, no map (port.h alone knows both worlds)
#	user/base       tally/
#	user/X          itself, base/, tally/, and the arrows below
#	user/*.c        everyone: they introduce everyone to everyone
set -euo pipefail
cd "$(dirname "$0")/../.."

# Arrows between siblings, each with its reason.
arrows='
collect account/frozen.h   a drained epoch is what account takes over
deliver account/           batches are made of sealed rows
replay  bpf/               the engine and the sequence code of the programs, natively
'

breaches=0
breach() {
	printf '%s\n' "$*"
	breaches=$((breaches + 1))
}

# includes PATTERN: "file header" for every #include "header" or <header> of these files
includes() {
	files "$1" | xargs -r awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*[<"][^>"]+/) {
		h = substr($0, RSTART, RLENGTH); sub(/.*[<"]/, "", h)
		print FILENAME, h }'
}

files() {
	git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do
		[ -e "$f" ] && echo "$f"
	done
}

# ours HEADER: is it a header of this repository?
ours() {
	[[ $1 == tally/* || $1 == *.skel.h || -e user/$1 || -e bpf/$1 || -e bpf/engine/$1 ]]
}

sibling_allowed() { # module header
	awk -v m="$1" -v h="$2" '$1 == m && index(h, $2) == 1 { found = 1 } END { exit !found }' <<<"$arrows"
}

check_contract() {
	while read -r file header; do
		[[ $header == tally/* || $header == linux/types.h || $header == vmlinux.h ]] ||
			breach "$file: the contract includes $header"
	done < <(includes 'include/tally/*.h')
}

check_engine() {
	while read -r file header; do
		[[ $file == */port.h || $header == tally/* || -e bpf/engine/$header ]] ||
			breach "$file: the engine includes $header"
	done < <(includes 'bpf/engine/*.h')
	while IFS= read -r line; do
		breach "$line: the engine calls a helper or owns a map"
	done < <(files 'bpf/engine/*.h' | grep -v /port.h |
		xargs -r grep -HnE '\bbpf_[a-z0-9_]+ *\(|\bSEC *\(' |
		grep -vE '^[^:]+:[0-9]+:[[:space:]]*(/?\*|//)' | cut -d: -f1,2)
}

check_user() {
	local module
	while read -r file header; do
		module=${file#user/}
		module=${module%%/*}
		[[ $file == user/*/* ]] || continue
		case $header in
		*.skel.h | bpf/*)
			[ ! -e "$header" ] || ! sibling_allowed "$module" "$header" || continue
			[ "$module" = collect ] || breach "$file: only collect/ knows libbpf ($header)"
			continue
			;;
		librdkafka/*)
			[[ $file == user/deliver/kafka* ]] || breach "$file: only deliver/kafka* knows librdkafka"
			continue
			;;
		tally/* | base/* | "$module"/*) continue ;;
		esac
		if ours "$header" && [ "$header" = "${header#engine/}" ]; then
			sibling_allowed "$module" "$header" || breach "$file: includes its sibling $header"
		fi
	done < <(includes 'user/*/*.[ch]')
	while read -r file header; do
		case $header in
		bpf/* | librdkafka/*) breach "$file: includes $header, which belongs to one module" ;;
		esac
	done < <(includes ':(glob)user/*.[ch]')
}

check_contract
check_engine
check_user
[ "$breaches" = 0 ]
