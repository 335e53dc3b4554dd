# SPDX-License-Identifier: Apache-2.0
"""System calls of the agent: recorded, listed, and made to fail or to be the last one.

A *call* is (name, n): the n-th call of that name in one thread since the trace began.
"""

import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from typing import NamedTuple

from world import HarnessError, wait_for

NAMES = ("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2",
         "unlink", "unlinkat", "ftruncate", "fallocate", "mkdir", "mkdirat", "flock", "close", "bpf")
FILE_ERRORS = ("EIO", "ENOSPC", "EINTR")
BPF_ERRORS = ("ENOMEM", "EBUSY", "EINTR")
LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")


class Call(NamedTuple):
    name: str
    n: int
    text: str


def errors_of(name):
    """What the call can return. close() of a written file may report a failed write."""
    if name == "bpf":
        return BPF_ERRORS
    return ("EIO", "EINTR") if name == "close" else FILE_ERRORS


def parse(path, pid):
    """The calls of the thread *pid*, in order."""
    counts, calls = collections.Counter(), []
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            found = LINE.match(line)
            if not found or int(found[1]) != pid or found[2] not in NAMES:
                continue
            counts[found[2]] += 1
            calls.append(Call(found[2], counts[found[2]], found[3].strip()[:90]))
    return calls


def strace(out, *options):
    """-I 2: it goes when it is told to, also as the one that started the agent."""
    return ["strace", "-I", "2", "-f", "-o", str(out), "-s", "64", "-e", "trace=" + ",".join(NAMES), *options]


def happened(path):
    """Did what strace was told to do happen? A call that is killed at says so, or only ends."""
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read()
    return "(INJECTED)" in text or "killed by SIGKILL" in text


def release(agent):
    """A strace that started the agent leaves it, and it goes on. Now and then strace waits, as it leaves,
    for a thread that waits for it: SIGKILL ends that, too."""
    def tracer():
        text = (agent.proc / "status").read_text(encoding="ascii")
        return int(re.search(r"^TracerPid:\s+(\d+)", text, re.M)[1])
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):    # it ended by itself
        strace_pid = tracer()
        if not strace_pid:
            return
        os.kill(strace_pid, signal.SIGTERM)
        with contextlib.suppress(HarnessError):
            wait_for(lambda: not tracer(), 5, "strace to go")
            return
        os.kill(strace_pid, signal.SIGKILL)
        wait_for(lambda: not tracer(), 10, "strace to go")


class Trace:
    """strace attached to a running agent; with *inject*, as `fsync:error=EIO:when=2`; *path*: only
    calls that have to do with it."""

    def __init__(self, agent, inject=None, path=None):
        self.agent = agent
        self.pid = agent.process.pid
        self.out = agent.sandbox.dir / f"strace.{time.monotonic_ns()}"
        self.err = open(str(self.out) + ".err", "wb")       # pylint: disable=consider-using-with
        options = ["-e", f"inject={inject}"] if inject else []
        options += ["-P", str(path)] if path else []
        self.proc = subprocess.Popen(       # pylint: disable=consider-using-with
            [*strace(self.out, *options), "-p", str(self.pid)],
            stdin=subprocess.DEVNULL, stdout=self.err, stderr=self.err)
        wait_for(self._attached, 10, "strace to attach")

    def _attached(self):
        with open(self.err.name, encoding="utf-8") as f:
            text = f.read()
        if self.proc.poll() is not None and "attached" not in text:
            raise HarnessError(f"strace: {text}")
        return "attached" in text

    def injected(self):
        return happened(self.out)

    def stop(self):
        if self.proc.poll() is None:
            self.proc.terminate()
        try:
            self.proc.wait(10)
        except subprocess.TimeoutExpired:   # it waits for one that was killed meanwhile
            self.proc.kill()
            self.proc.wait(10)
        self.err.close()


def record_close(world):
    """The calls of the main thread until it has sealed two windows and trimmed a batch: all that a
    window takes, from its freezing to the end of what was shipped."""
    trace = Trace(world.agent)

    def ends():
        """Behind which call it is enough, or None; all calls."""
        listed = parse(trace.out, trace.pid)
        sealed = [i for i, c in enumerate(listed)
                  if c.name == "renameat" and re.search(r'"e\d+-\d+"', c.text)]
        trimmed = [i for i, c in enumerate(listed) if c.name == "unlinkat" and '"b' in c.text]
        return max(sealed[1], trimmed[0]) + 1 if sealed[1:] and trimmed else None, listed
    try:
        wait_for(lambda: ends()[0], 60, "two windows to be sealed and shipped")
    finally:
        trace.stop()
    end, listed = ends()
    return listed[:end]


def kill_frozen(world):
    """SIGKILL between freezing and sealing: the next start finds an epoch to drain."""
    world.agent.ensure()
    trace = Trace(world.agent, "renameat:signal=KILL", world.state / "sealed")
    try:
        wait_for(lambda: not world.agent.alive(), 30, "a window to be sealed")
    finally:
        trace.stop()
    world.left = pinned(world)


def pinned(world):
    """The pins of epochs, by name."""
    return {pin.name for pin in world.agent.pin_dir.glob("epoch-*")}


def is_left(world):
    """Does the epoch that kill_frozen() left still wait to be drained? Pinned, and not sealed."""
    if world.agent.alive() or not world.left or not world.left <= pinned(world):
        return False
    frozen = min(int(name.split("-")[1]) for name in world.left)
    sealed = (re.match(r"e(\d+)-(\d+)$", path.name) for path in (world.state / "sealed").iterdir())
    return not any(found and int(found[1]) <= frozen <= int(found[2]) for found in sealed)


def record_start(world):
    """The calls of a start, up to readiness, after a SIGKILL that left a frozen epoch."""
    kill_frozen(world)
    out = world.agent.sandbox.dir / "strace.start"
    if not world.agent.try_start(*strace(out), "-D"):
        raise HarnessError(f"the agent did not start under strace: {world.agent.log()[-800:]}")
    pid = world.agent.process.pid
    return parse(out, pid)


def record(world, say):
    lists = {"close": record_close(world), "start": record_start(world)}
    world.agent.kill()
    world.agent.start()
    for name, listed in lists.items():
        print_list(f"calls of a {name}", listed, say)
    return lists


def save(path, lists):
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(lists), encoding="utf-8")
    fresh.rename(path)


def load(path):
    return {name: [Call(*c) for c in listed] for name, listed in
            json.loads(path.read_text(encoding="utf-8")).items()}


def operation(call):
    """What the call is about, without the numbers that differ from one to the next."""
    found = re.match(r"(BPF_\w+)", call.text)
    if found:
        return f"{call.name} {found[1]}"
    paths = re.findall(r'"([^"]*)"', call.text)
    return f"{call.name} {' '.join(re.sub('[0-9a-f]{6,}|[0-9]+', 'N', p) for p in paths)}"


def groups(calls):
    """Neighbours that do the same, as lists."""
    result = []
    for call in calls:
        if result and operation(result[-1][0]) == operation(call):
            result[-1].append(call)
        else:
            result.append([call])
    return result


def every(calls, errors):
    """[(call, error)]: of each group the first and the last; *errors*: with each it can return."""
    chosen = [c for g in groups(calls) for c in ([g[0], g[-1]] if len(g) > 1 else g)]
    return [(c, e) for c in chosen for e in (errors_of(c.name) if errors else (None,))]


def print_list(title, calls, say):
    """Neighbours that do the same are one line: from which to which, what."""
    counts = collections.Counter(c.name for c in calls)
    say(f"{title}: {len(calls)} calls: "
        + ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
    for group in groups(calls):
        last = f"..{group[-1].n}" if len(group) > 1 else ""
        print(f"    #{group[0].n}{last} {operation(group[0])}")
