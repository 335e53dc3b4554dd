# SPDX-License-Identifier: Apache-2.0
"""The kinds of faults. Each takes (world, dice), makes one fault happen, and returns what it did.

A fault that could not be made raises HarnessError: only what really happened is counted. A kind
leaves the world able to go on: the agent may be down (Agent.ensure starts it), the rest works.
"""

import contextlib
import fcntl
import os
import re
import resource as resource_module
import shutil
import signal
import struct
import time
from typing import Callable, NamedTuple

import calls
from cluster import Producer
from world import TXN_S, Broken, HarnessError, covers, sh, wait_for

EXT4_IOC_SHUTDOWN = 0x8004587D
SHUTDOWN_NOLOGFLUSH = 2


class Kind(NamedTuple):
    name: str
    make: Callable
    in_ci: int          # how many in the CI run
    flavour: str        # of the world it needs


KINDS = {}


def kind(name, in_ci, flavour="plain"):
    def add(function):
        KINDS[name] = Kind(name, function, in_ci, flavour)
        return function
    return add


def pause(dice, least, most):
    """The time of a fault is what is tested: a wait with no condition to wait for."""
    seconds = dice.uniform(least, most)
    time.sleep(seconds)
    return f"{seconds:.2f} s"


def end(agent):
    """The process is gone, by our hand or before."""
    if agent.alive():
        agent.kill()


# --- the agent -----------------------------------------------------------------------------------

@kind("kill", 8)
def kill(world, dice):
    """SIGKILL at any moment of the windows."""
    world.agent.ensure()
    text = pause(dice, 0.0, 1.6)
    end(world.agent)
    world.agent.start()
    return f"after {text}"


@kind("kill-start", 6)
def kill_start(world, dice):
    """SIGKILL while it starts and recovers."""
    end(world.agent)
    with world.agent.launch():
        text = pause(dice, 0.0, 0.8)
        end(world.agent)
    world.agent.start()
    return f"{text} after its start"


@kind("term", 6)
def term(world, dice):
    """SIGTERM and start, as a service manager does."""
    world.agent.ensure()
    text = pause(dice, 0.0, 1.2)
    code = world.agent.process.stop(signal.SIGTERM, 60)
    if code != 0:
        raise Broken(f"SIGTERM: exit {code}: {world.agent.log()[-2000:]}")
    world.agent.start()
    return f"after {text}"


@kind("away", 5)
def away(world, dice):
    """Killed, and nobody starts it for a while."""
    end(world.agent)
    text = pause(dice, 1.5, 4)
    world.agent.start()
    return f"down for {text}"


@kind("paused", 5)
def paused(world, dice):
    """SIGSTOP for longer than the transaction coordinator waits."""
    world.agent.ensure()
    pause(dice, 0, 1)
    world.agent.tell(signal.SIGSTOP)
    text = pause(dice, TXN_S + 0.5, TXN_S + 2.5)
    world.agent.tell(signal.SIGCONT)
    return f"for {text}"


@kind("two-agents", 5)
def two_agents(world, dice):
    """A second agent on the same state and pins refuses; the first goes on."""
    world.agent.ensure()
    pause(dice, 0, 0.5)
    done = world.agent.run("run", "--config", world.agent.config_path, timeout=20)
    if done.returncode <= 0 or not done.stderr.strip():
        raise Broken(f"a second agent: exit {done.returncode}: {done.stderr[-500:]}")
    if not world.agent.alive():
        raise Broken(f"a second agent ended the first: {world.agent.log()[-1500:]}")
    return f"exit {done.returncode}"


@kind("upgrade", 5)
def upgrade(world, dice):
    """Restarts in a row: each replaces the programs under traffic."""
    n = dice.randint(2, 4)
    for _ in range(n):
        world.agent.ensure()
        if world.agent.process.stop(signal.SIGTERM, 60) != 0:
            raise Broken(f"SIGTERM: {world.agent.log()[-2000:]}")
        world.agent.start()
    return f"{n} times"


@contextlib.contextmanager
def limited(world, resource, soft):
    """A soft limit of the running agent, for the time of the block."""
    pid = world.agent.process.pid
    _, hard = resource_module.prlimit(pid, resource)
    resource_module.prlimit(pid, resource, (soft, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource_module.prlimit(pid, resource, (hard, hard))


def status(world, field):
    """A line of /proc/PID/status, in bytes."""
    text = (world.agent.proc / "status").read_text(encoding="ascii")
    return int(re.search(rf"^{field}:\s+(\d+)", text, re.M)[1]) << 10


@kind("no-descriptors", 5)
def no_descriptors(world, dice):
    """EMFILE at whatever opens a file."""
    world.agent.ensure()
    with limited(world, resource_module.RLIMIT_NOFILE, 3):
        text = pause(dice, 1, 3)
    ended = "" if world.agent.alive() else " (it ended)"
    world.agent.ensure()
    return f"for {text}{ended}"


@kind("no-memory", 5)
def no_memory(world, dice):
    """No address space beyond what it has: what needs more fails, ENOMEM."""
    world.agent.ensure()
    with limited(world, resource_module.RLIMIT_AS, status(world, "VmSize")):
        text = pause(dice, 1, 3)
    ended = "" if world.agent.alive() else " (it ended)"
    world.agent.ensure()
    return f"for {text}{ended}"


@kind("starved", 5)
def starved(world, dice):
    """A few milliseconds of processor time now and then."""
    world.agent.ensure()
    n = dice.randint(20, 60)
    for _ in range(n):
        world.agent.tell(signal.SIGSTOP)
        pause(dice, 0.03, 0.09)
        world.agent.tell(signal.SIGCONT)
        pause(dice, 0.001, 0.006)
    return f"{n} slices"


@kind("reload-storm", 5)
def reload_storm(world, dice):
    """SIGHUP after SIGHUP, with rules that change."""
    world.agent.ensure()
    routes, n = world.agent.services[0]["routes"], dice.randint(5, 20)
    for i in range(n):
        routes[-1]["credits"] = i % 3
        world.agent.write_config()
        world.agent.tell(signal.SIGHUP)
        pause(dice, 0, 0.15)
    wait_for(lambda: "reload services=1" in world.agent.log(), 20, "a reload")
    return f"{n} times"


@kind("object-refused", 5)
def object_refused(world, dice):
    """The new programs are not accepted: the old ones count on."""
    end(world.agent)
    loads = [c for c in world.calls["start"] if "prog_type=BPF_PROG_TYPE_CGROUP_SKB" in c.text]
    call = loads[-1]
    # libbpf tries again, to hear why
    ran, hit = start_injected(world, call._replace(n=f"{call.n}..{call.n + 1}"), "error=EINVAL")
    log = world.agent.log()
    pause(dice, 0.5, 1.5)
    end(world.agent)
    world.agent.start()
    if not hit:
        raise HarnessError(f"{call.name}#{call.n} was not called")
    if not ran or "programs_refused" not in log:
        raise Broken(f"refused programs: {log[-2000:]}")
    return f"at {call.name}#{call.n}"


# --- system calls --------------------------------------------------------------------------------

def pick(world, dice, where):
    """(call, error): drawn, or the next one of a list that is worked through."""
    if where in world.forced:
        return world.forced[where][0]
    call = dice.choice(world.calls[where])
    return call, dice.choice(calls.errors_of(call.name))


def inject_running(world, call, what, seconds=15):
    """Waits until it has happened."""
    world.agent.ensure()
    trace = calls.Trace(world.agent, f"{call.name}:{what}:when={call.n}")
    try:
        wait_for(lambda: trace.injected() or not world.agent.alive(), seconds,
                 f"{call.name}#{call.n} to be called")
    finally:
        trace.stop()


@kind("call-kill", 10)
def call_kill(world, dice):
    """SIGKILL at the n-th call of a close."""
    call, _ = pick(world, dice, "close")
    inject_running(world, call, "signal=KILL")
    world.agent.process.popen.wait(10)
    world.agent.start()
    return f"at {call.name}#{call.n} {call.text}"


@kind("call-error", 12)
def call_error(world, dice):
    """An error from the n-th call of a close; the agent goes on, or is started anew."""
    call, error = pick(world, dice, "close")
    inject_running(world, call, f"error={error}")
    time.sleep(0.2)
    note = "" if world.agent.alive() else " (it ended)"
    world.agent.ensure()
    return f"{error} at {call.name}#{call.n} {call.text}{note}"


def start_injected(world, call, what):
    """(does it run, did it happen)"""
    out = world.agent.sandbox.dir / f"strace.{time.monotonic_ns()}"
    ran = world.agent.try_start(*calls.strace(out, "-e", f"inject={call.name}:{what}:"
                                              f"when={call.n}"), "-D")
    with contextlib.suppress(HarnessError):     # strace tells a moment later; a call may come then, too
        wait_for(lambda: calls.happened(out), 3, "the call")
    if ran:
        calls.release(world.agent)
    return ran, calls.happened(out)


def to_recover(world):
    """The agent is down, and an epoch that it froze waits. In a list that is worked through, the one
    that the start before left in its place serves again."""
    if "start" not in world.forced or not calls.is_left(world):
        calls.kill_frozen(world)


def recover(world, more):
    """It runs again. With *more* calls to come, their start is it, while the epoch still waits."""
    if not more or not calls.is_left(world):
        world.agent.ensure()


@kind("start-kill", 6)
def start_kill(world, dice):
    """SIGKILL at the n-th call of a start that recovers."""
    to_recover(world)
    call, _ = pick(world, dice, "start")
    _, hit = start_injected(world, call, "signal=KILL")
    end(world.agent)
    recover(world, len(world.forced.get("start", ())) > 1)
    if not hit:
        raise HarnessError(f"{call.name}#{call.n} was not called")
    return f"at {call.name}#{call.n} {call.text}"


@kind("start-error", 8)
def start_error(world, dice):
    """An error from the n-th call of a start that recovers; it goes on, or is started anew."""
    to_recover(world)
    call, error = pick(world, dice, "start")
    ran, hit = start_injected(world, call, f"error={error}")
    recover(world, len(world.forced.get("start", ())) > 1)
    if not hit:
        raise HarnessError(f"{call.name}#{call.n} was not called")
    return f"{error} at {call.name}#{call.n} {call.text}" + ("" if ran else " (it ended)")


# --- the broker and the way to it ----------------------------------------------------------------

@kind("broker-kill", 5)
def broker_kill(world, dice):
    world.agent.ensure()
    pause(dice, 0, 1)
    world.kafka.kill()
    text = pause(dice, 0, 2)
    world.kafka.start()
    return f"down for {text} and a start"


@kind("broker-restart", 5)
def broker_restart(world, dice):
    world.agent.ensure()
    pause(dice, 0, 1)
    world.kafka.stop()
    world.kafka.start()
    return "SIGTERM"


@kind("broker-paused", 5)
def broker_paused(world, dice):
    """Half open: connections stand and nobody answers."""
    world.agent.ensure()
    pause(dice, 0, 1)
    world.kafka.pause()
    text = pause(dice, 0.5, 3.5)
    world.kafka.resume()
    return f"for {text}"


@kind("reset", 6)
def reset(world, dice):
    world.agent.ensure()
    n = dice.randint(1, 3)
    for _ in range(n):
        pause(dice, 0, 0.9)
        world.kafka.proxy.cut()
    return f"{n} times"


@kind("reply-lost", 6)
def reply_lost(world, dice):
    """Requests are applied, answers vanish, then the connection is cut."""
    world.agent.ensure()
    pause(dice, 0, 1)
    world.kafka.proxy.set("swallow")
    text = pause(dice, 0.1, 1.5)
    world.kafka.proxy.cut()
    world.kafka.proxy.set("pass")
    return f"for {text}"


@kind("partition", 5)
def partition(world, dice):
    """Refused or stalled; sometimes the agent is killed meanwhile."""
    world.agent.ensure()
    mode = dice.choice(("refuse", "stall", "slow"))
    world.kafka.proxy.set(mode)
    if mode == "refuse":
        world.kafka.proxy.cut()
    text = pause(dice, 0.5, 3)
    killed = dice.random() < 0.5
    if killed:
        end(world.agent)
    world.kafka.proxy.set("pass")
    world.agent.ensure()
    return f"{mode} for {text}" + (", agent killed in it" if killed else "")


@kind("fenced", 5)
def fenced(world, dice):
    """Another producer takes the agent's transactional id."""
    world.agent.ensure()
    pause(dice, 0, 1)
    found = agent_ids(world)
    for agent in found:
        other = Producer(world.kafka.address, f"tallyd-{agent}-kafka")
        other.fence()
        other.close()
    time.sleep(0.3)
    return f"{len(found)} id"


def agent_ids(world):
    def shipped():
        world.consume()
        return {e["data"]["agent"]["id"] for e in world.events[-1:]}
    return wait_for(shipped, 30, "something to be shipped")


@kind("forbidden", 5)
def forbidden(world, dice):
    """The right to write a topic is taken away, and given back."""
    world.agent.ensure()
    topic = f"{world.topics}.{dice.choice(('records', 'control', 'progress'))}"
    before = world.agent.log().count("uthorization failed")
    with world.kafka.forbid(topic):
        wait_for(lambda: world.agent.log().count("uthorization failed") > before, 30,
                 lambda: f"the broker to refuse: {world.agent.log()[-2000:]}")
        pause(dice, 0, 1)
    return topic.rpartition(".")[2]


@kind("too-large", 5)
def too_large(world, dice):
    """The topic refuses messages for a while."""
    topic = f"{world.topics}.records"
    world.agent.ensure()
    world.kafka.config(topic, max_message_bytes="300")
    text = pause(dice, 0.5, 2)
    world.kafka.config(topic)
    return f"for {text}"


# --- the disk ------------------------------------------------------------------------------------

@kind("disk-full", 6)
def disk_full(world, dice):
    world.agent.ensure()
    world.disk.fill()
    try:
        text = pause(dice, 1, 3.5)
        killed = dice.random() < 0.3
        if killed:
            end(world.agent)
    finally:
        world.disk.relieve()
    world.agent.ensure()
    return f"for {text}" + (", agent killed in it" if killed else "")


@kind("read-only", 5)
def read_only(world, dice):
    """The file system reports an error and turns read-only; repaired as at a boot."""
    world.agent.ensure()
    sh("mount", "-o", "remount,errors=remount-ro", world.disk.mount)
    trigger = f"/sys/fs/ext4/{world.disk.loop()}/trigger_fs_error"
    with open(trigger, "w", encoding="ascii") as f:
        f.write("test")
    text = pause(dice, 1, 2.5)
    with contextlib.suppress(OSError):
        (world.disk.mount / "probe").write_bytes(b"x")
        raise HarnessError("the file system did not become read-only")
    end(world.agent)
    world.disk.repair()
    world.agent.start()
    return f"for {text}"


@kind("power-cut", 5)
def power_cut(world, dice):
    """What was not synced is gone. The kernel lives on here, so that not even a window may miss."""
    world.agent.ensure()
    pause(dice, 0, 1.5)
    fd = os.open(world.disk.mount, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NOLOGFLUSH))
    finally:
        os.close(fd)
    text = pause(dice, 0, 1.5)
    end(world.agent)
    world.disk.repair()
    world.agent.start()
    return f"agent went on for {text}"


# --- the state directory -------------------------------------------------------------------------

def quiesce(world):
    """All that was answered, and something was since the last time, is shipped and read; the agent is
    down. Traffic goes on after."""
    wait_for(lambda: os.path.getsize(world.nginx.log) > world.quiet, 30, "a first answer")
    world.traffic.stop()
    world.quiet = os.path.getsize(world.nginx.log)
    world.settle()
    world.consume()


@kind("state-lost", 5)
def state_lost(world, _):
    """A new agent id; no id is used twice (the consumer would say so)."""
    quiesce(world)
    before = agent_ids(world)
    shutil.rmtree(world.state)
    sh("sync", "-f", world.disk.mount)
    world.agent.start()
    world.traffic.start()
    return f"was {before.pop()}"


@kind("state-old", 5)
def state_old(world, _):
    """The state directory of yesterday is put back: numbers go on behind those of the topic."""
    quiesce(world)
    kept = world.sandbox.dir / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(world.state, kept)
    world.agent.start()
    world.traffic.start()
    time.sleep(2.5)
    quiesce(world)
    shutil.rmtree(world.state)
    shutil.copytree(kept, world.state)
    sh("sync", "-f", world.state)
    world.agent.start()
    world.traffic.start()
    return "restored"


@kind("state-cloned", 5)
def state_cloned(world, _):
    """The same directory on another machine: another agent id."""
    quiesce(world)
    before = agent_ids(world)
    machine = world.sandbox.dir / "machine-id"
    machine.write_text(os.urandom(16).hex() + "\n", encoding="ascii")
    started = world.agent.try_start("unshare", "-m", "sh", "-c",
                                    f'mount --bind {machine} /etc/machine-id && exec "$@"', "sh")
    if not started:
        raise Broken(f"a cloned state directory: {world.agent.log()[-1500:]}")
    world.traffic.start()
    time.sleep(2.5)
    quiesce(world)
    if agent_ids(world) == before:
        raise Broken("a cloned state directory kept its agent id")
    world.agent.start()
    world.traffic.start()
    return f"was {before.pop()}"


# --- files ---------------------------------------------------------------------------------------

def spool_without_broker(world, dice):
    """Several windows of usage wait on the disk; nothing of them was ever attempted."""
    quiesce(world)
    world.kafka.proxy.set("refuse")
    world.kafka.proxy.cut()
    world.agent.start()
    world.traffic.start()
    pause(dice, 2.2, 4)
    world.traffic.stop()


@kind("spooled-stop", 5)
def spooled_stop(world, dice):
    """Broker away, agent killed: consumed + spooled + in the kernel = answered, right there."""
    spool_without_broker(world, dice)
    end(world.agent)
    world.consume()
    spooled, kernel = world.spooled(), world.in_kernel()
    consumed, truth = world.total(world.consumed), world.total(world.traffic.truth)
    found = consumed.plus(spooled).plus(kernel)
    if found != truth:
        raise Broken(f"answered {truth}, consumed {consumed}, spooled {spooled}, kernel {kernel}")
    world.kafka.proxy.set("pass")
    world.agent.start()
    world.traffic.start()
    return f"consumed {consumed.requests} + spooled {spooled.requests} + kernel {kernel.requests}"


def damage(path, dice):
    """One bit flipped, or the end torn off."""
    data = bytearray(path.read_bytes())
    if dice.random() < 0.5:
        at = dice.randrange(len(data))
        data[at] ^= 1 << dice.randrange(8)
        text = f"bit flipped at {at}"
    else:
        del data[dice.randrange(len(data)):]
        text = f"cut to {len(data)} bytes"
    path.write_bytes(data)
    return text


@kind("spool-damaged", 5)
def spool_damaged(world, dice):
    """Quarantined, never shipped; declared lost, and the books say so and go on."""
    spool_without_broker(world, dice)
    end(world.agent)
    spool = world.spool()       # what is there twice, in a merge cut short, is not lost with one file
    files = [f for f in world.waiting() if f["records"] and not any(covers(f, o) for o in spool)]
    if not files:
        raise HarnessError(f"nothing is spooled once: {spool}")
    file = dice.choice(files)
    lost = world.rows_of(file)
    text = damage(world.state / file["folder"] / file["file"], dice)
    world.kafka.proxy.set("pass")
    world.settle()
    held = [f for f in world.spool() if f["folder"] == "quarantine"
            and f["file"].endswith(file["file"])]
    if len(held) != 1:
        raise Broken(f"{file['file']} is not in quarantine: {world.spool()}")
    done = world.agent.run("spool", "declare-lost", "-d", world.state, held[0]["file"])
    if done.returncode != 0:
        raise Broken(f"declare-lost: {done.returncode}: {done.stderr[-500:]}")
    world.lose(lost)
    world.audit_codes = {3}
    world.agent.start()
    world.traffic.start()
    return f"{file['folder']} file, {text}"


@kind("topic-deleted", 5, "topics")
def topic_deleted(world, _):
    """Everything of the topics was consumed; they are deleted, made again, and filled."""
    quiesce(world)
    world.agent.start()
    for topic in ("records", "control"):
        world.kafka.delete(f"{world.topics}.{topic}")
    world.records.next = dict.fromkeys(world.records.next, 0)
    world.audit_codes = {0, 3}
    world.traffic.start()
    return "both, idle agent running"


# --- the kernel side -----------------------------------------------------------------------------

@kind("map-full", 5, "tiny")
def map_full(world, dice):
    """Twice 1,024 rows under more rows of traffic: totals exact, overflow reported."""
    world.agent.ensure()
    text = pause(dice, 4, 10)
    killed = dice.random() < 0.5
    if killed:
        end(world.agent)
        world.agent.start()
    return f"for {text}" + (", agent killed" if killed else "")


@kind("cgroup-made-again", 5)
def cgroup_made_again(world, _):
    """The service's cgroup goes and comes back, as at a restart of its unit."""
    quiesce(world)
    world.agent.start()
    world.nginx.stop()
    wait_for(lambda: not (world.cgroup / "cgroup.procs").read_text(), 10, "the cgroup to be empty")
    os.rmdir(world.cgroup)
    wait_for(lambda: "cgroups=0" in world.agent.log(), 20, "the agent to notice")
    world.cgroup.mkdir()
    wait_for(lambda: "cgroups=1" in world.agent.log().rpartition("cgroups=0")[2], 20,
             "the new cgroup to be metered")
    world.nginx.start()
    world.traffic.start()
    return "and metered again"


@kind("pins-deleted", 5, "pins")
def pins_deleted(world, dice):
    """Some pins are removed by hand while no agent runs: refused aloud, or all made anew."""
    quiesce(world)
    pins = sorted(world.agent.pin_dir.iterdir())
    gone = pins if dice.random() < 0.3 else dice.sample(pins, dice.randint(1, len(pins) - 1))
    for pin in gone:
        pin.unlink()
    started = world.agent.try_start()
    if not started:
        if "stop --detach" not in world.agent.log():
            raise Broken(f"the agent did not say what to do: {world.agent.log()[-800:]}")
        world.agent.run("stop", "--detach", "--config", world.agent.config_path)
        if world.agent.pin_dir.exists():
            raise Broken(f"pins that stop --detach left: {list(world.agent.pin_dir.iterdir())}")
        world.agent.start()
    world.audit_codes = {0, 3}
    world.traffic.start()
    return f"{len(gone)} of {len(pins)}: " + ("started" if started else "refused")
