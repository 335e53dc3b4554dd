# SPDX-License-Identifier: Apache-2.0
"""A sample of inject.py, which does all of them: SIGKILL and errors at single calls.

TALLY_CALLS_SEED makes the same sample again.
"""
import os
import random

import harness
import inject

SAMPLE = 24


def test_calls_killed_or_failed():
    seed = int(os.environ.get("TALLY_CALLS_SEED", random.randrange(1 << 30)))
    print(f"TALLY_CALLS_SEED={seed}", flush=True)
    harness.prepare()
    cases = inject.all_cases()
    failed = inject.failures(random.Random(seed).sample(cases, SAMPLE))
    assert not failed, f"TALLY_CALLS_SEED={seed}: {failed}"
