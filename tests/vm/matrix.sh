#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The kernels of the promise: each loads the programs and counts real traffic right; one too old says
# what it lacks. Prints `N passed, N failed, N skipped`.
#
#	tests/vm/matrix.sh		Linux 6.1 and 6.12 count, 6.1 plays all vectors; 5.10 is refused
#	tests/vm/matrix.sh --long	also trixie's 6.12, and what the machines themselves promise
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
# shellcheck source=tests/vm/cases.sh
. tests/vm/cases.sh

kernels='bookworm bookworm-backports'
[ "${1-}" != --long ] || kernels=trixie
passed=0 failed=0

counts_right() {
	tests/vm/run.sh "$1" --mem 2048 --timeout 600 --env TALLY_READY_S=300 -- \
		/usr/bin/python3 -m pytest -q -x --color=no tests/e2e/test_vm.py
}

# The seed of the cuts is printed; TALLYD_SEED sets it.
plays_vectors() {
	tests/vm/run.sh "$1" --timeout 300 -- sh -c 'build/test/kernel/vectors -n 3 && build/test/kernel/race -n 1000'
}

# A kernel without bpf_loop: `probe` and `run` name it and exit with 71.
refused() {
	tests/vm/run.sh bullseye --timeout 300 -- bash -c '
		build/tallyd probe; probe=$?
		printf "%s\n" "agent: { state_dir: /tmp/state, runtime_dir: /tmp/run }" "services:" \
			"  - { name: api, match: { ports: [80] }, key: [ { header: X-API-Key } ] }" \
			"sinks:" "  - stdout: {}" >/tmp/old.yaml
		build/tallyd run --config /tmp/old.yaml; run=$?
		echo "probe exits with $probe, run with $run"
		[ "$probe" = 71 ] && [ "$run" = 71 ]'
}

for kernel in $kernels; do
	case_of "$kernel counts right" counts_right "$kernel"
done
if [ "${1-}" = --long ]; then
	case_of 'the machines themselves' tests/vm/selftest.sh bookworm
else
	case_of 'bookworm plays the vectors, and races' plays_vectors bookworm
	case_of '5.10 is refused by name' refused
fi
printf '%d passed, %d failed, 0 skipped\n' "$passed" "$failed"
[ "$failed" = 0 ]
