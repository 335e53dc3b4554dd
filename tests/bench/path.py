#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each instruction of one exchange, by source line: where the meter's time goes, without noise.

    path.py [--lines N] [--tree DIR]

build/test/bench/exchange runs in an emulated Debian (tests/vm), whose emulator writes down each
instruction of jited BPF code; the last exchange of them is told: instructions of x86, lines of
instruction cache (64 octets) they stand in, and the source lines with the most of them. Helpers
of the kernel are not in it.
"""

import argparse
import bisect
import collections
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BPF_CODE = "0xffffffffa0000000..0xffffffffffffffff"     # modules and programs; above the kernel's text
WRAPPER = """#!/bin/sh
exec {qemu} "$@" -dfilter {code} -D {log} -monitor unix:{monitor},server=on,wait=off
"""


def trace(tree, folder):
    """Runs the benchmark in the guest. Returns the log of addresses, and what code they are of."""
    log, told, monitor = folder / "exec.log", folder / "out/lines", folder / "monitor"
    wrapper = folder / "bin/qemu-system-x86_64"
    wrapper.parent.mkdir()
    told.parent.mkdir()
    wrapper.write_text(WRAPPER.format(qemu=shutil.which("qemu-system-x86_64"), code=BPF_CODE,
                                      log=log, monitor=monitor))
    wrapper.chmod(0o755)
    guest = subprocess.Popen(
        ["tests/vm/run.sh", "bookworm", "--smp", "1", "--mem", "2048", "--timeout", "300",
         "--append", "nokaslr", "--share", told.parent, "--", "build/test/bench/exchange",
         "tests/bench/rules.yaml", "rows_10", "2", told],
        cwd=tree, stdout=subprocess.DEVNULL,
        env=os.environ | {"PATH": f"{wrapper.parent}:{os.environ['PATH']}", "ARCH": "amd64"})
    while not told.exists() or not told.read_text(encoding="utf-8").endswith("\n"):
        if guest.poll() is not None:
            sys.exit(f"path.py: the guest has ended, exit status {guest.returncode}")
        time.sleep(0.1)
    time.sleep(0.5)
    code = Code(told)
    with socket.socket(socket.AF_UNIX) as s:    # now each instruction, one by one
        s.connect(str(monitor))
        s.sendall(b"singlestep on\nlog exec,nochain\n")
        time.sleep(0.5)
        told.unlink()
        if guest.wait() != 0:
            sys.exit(f"path.py: the benchmark ended with exit status {guest.returncode}")
    return log, code


class Code:
    """Which function and line an address is of."""

    def __init__(self, path):
        self.functions, self.lines = [], []
        for words in map(str.split, open(path, encoding="utf-8")):
            if words[0] == "function":
                self.functions.append((int(words[1], 16), int(words[2])))
            else:
                self.lines.append((int(words[1], 16), f"{words[2]}:{words[3]}"))
        self.entry = self.functions[0][0]
        self.lines.sort()
        self.at = [a for a, _ in self.lines]

    def has(self, address):
        return any(a <= address < a + n for a, n in self.functions)

    def line(self, address):
        i = bisect.bisect_right(self.at, address) - 1
        return self.lines[i][1] if i >= 0 else "?"


def exchanges(log, code):
    """Addresses of each run of the program, as far as they are its own."""
    run = None
    for line in open(log, encoding="ascii", errors="replace"):
        m = re.search(r"\[[0-9a-f]+/([0-9a-f]{16})/", line)
        if not m:
            continue
        address = int(m[1], 16)
        if address == code.entry:
            if run:
                yield run
            run = []
        if run is not None and code.has(address):
            run.append(address)
    if run:
        yield run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=40, help="how many source lines to tell")
    parser.add_argument("--tree", type=Path, default=REPO, help="of another checkout, built")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log, code = trace(args.tree, Path(folder))
        *_, run = exchanges(log, code)
    cache = len({a >> 6 for a in run})
    by_line = collections.Counter(code.line(a) for a in run)
    by_file = collections.Counter(code.line(a).rsplit(":", 1)[0].rsplit("/", 1)[-1] for a in run)
    for line, n in by_line.most_common(args.lines):
        file, number = line.rsplit(":", 1)
        source = args.tree / file if not file.startswith("/") else Path(file)
        text = source.read_text(encoding="utf-8").splitlines()[int(number) - 1].strip() \
            if source.exists() else ""
        print(f"  {n:5} {file.rsplit('/', 1)[-1]}:{number}  {text}")
    for file, n in by_file.most_common():
        print(f"  {n:5} in {file}")
    print(f"{len(run)} instructions of x86 for one exchange, in {cache} lines of instruction cache")
    return 0


if __name__ == "__main__":
    sys.exit(main())
