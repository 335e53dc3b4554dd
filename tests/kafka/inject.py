#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every file system call of sealing, shipping to a file and recovering: killed at it, failed at it.

    tests/kafka/inject.py [--every N] [--list]

The calls are taken from a recorded trace (strace). For each one, in a run of its own, the process is
killed there, or the call fails with EIO, ENOSPC or EINTR; a second run then goes on with what is
left. Afterwards the file must hold the truth, each record once, and `tallyd audit --strict` must
agree. --every N: only each N-th case (the first is drawn by --seed).
"""
import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
import harness  # noqa: E402

CALLS = ["openat", "read", "write", "fsync", "close", "rename", "renameat", "renameat2", "unlink",
         "unlinkat", "ftruncate", "fallocate", "fstatfs", "flock", "getdents64", "mkdir", "mkdirat",
         "newfstatat"]
FAULTS = ["signal=SIGKILL", "error=EIO", "error=ENOSPC", "error=EINTR"]
EPOCHS, ROWS = 3, 3


def drive(folder, prefix=()):
    state = os.path.join(folder, "state")
    os.makedirs(state, exist_ok=True)
    return subprocess.run([*prefix, harness.DRIVER, state, "--until", str(EPOCHS), "--rows", str(ROWS),
                           "--grace-s", "5", "--file", os.path.join(folder, "usage.ndjson")],
                          check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          timeout=60)


def trace():
    """How often each call is made: {call: n}."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "trace")
        done = drive(folder, ["strace", "-f", "-qq", "-o", out, "-e", "trace=" + ",".join(CALLS)])
        if done.returncode != 0:
            raise RuntimeError(f"the traced run failed: {done.stderr}")
        with open(out, encoding="utf-8") as lines:
            names = (re.match(r"\d+ +(\w+)\(", line) for line in lines)
            return collections.Counter(name.group(1) for name in names if name)


def check(folder):
    """What is wrong with the books, or None."""
    path = os.path.join(folder, "usage.ndjson")
    with open(path, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    usage = [one for one in records if one["type"] == "io.tallyd.usage.v1"]
    if len({one["id"] for one in usage}) != len(usage):
        return "a record came twice"
    if harness.sums(usage) != harness.truth(EPOCHS, ROWS):
        return f"{harness.sums(usage)} instead of {harness.truth(EPOCHS, ROWS)}"
    done = subprocess.run([harness.TALLYD, "audit", "--strict", "--file", path], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout if done.returncode else None


def injected(path):
    """Did what strace was told to do happen? A call that is killed at says so, or only ends."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        text = lines.read()
    return "(INJECTED)" in text or "killed by SIGKILL" in text


def try_case(case):
    """(what was injected, what is wrong or None)"""
    call, number, fault = case
    folder = tempfile.mkdtemp(prefix="tally-inject-")
    what, out = f"{call} #{number} {fault}", os.path.join(folder, "trace")
    try:
        drive(folder, ["strace", "-f", "-o", out, "-e", f"trace={call}", "-e",
                       f"inject={call}:{fault}:when={number}"])
        if not injected(out):
            return what, "it was not called"
        done = drive(folder)
        if done.returncode != 0:
            return what, f"it does not go on: {done.stderr[-500:]}"
        return what, check(folder)
    except subprocess.TimeoutExpired:
        return what, "it hangs"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def all_cases():
    """Every call of the trace with every fault; prints how often each call is made."""
    calls = trace()
    for call, n in sorted(calls.items()):
        print(f"{call} {n}")
    return [(call, number, fault) for call, n in sorted(calls.items())
            for number in range(1, n + 1) for fault in FAULTS]


def failures(cases):
    """Texts of those after which the books did not close; tells them as they come."""
    failed = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for number, (what, wrong) in enumerate(pool.map(try_case, cases), 1):
            if wrong:
                failed.append(f"{what}: {wrong}")
                print(f"FAIL {failed[-1]}", flush=True)
            if number % 100 == 0:
                print(f"{number} cases", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print the calls and stop")
    args = parser.parse_args()
    harness.prepare()
    cases = all_cases()
    chosen = cases[random.Random(args.seed).randrange(args.every)::args.every]
    print(f"{len(chosen)} of {len(cases)} cases", flush=True)
    if args.list:
        return
    failed = failures(chosen)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
