# SPDX-License-Identifier: Apache-2.0
"""What the agent keeps of root's rights, and what it does without the rest: it meters."""

import errno
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lib import api, build
from lib.client import Conn
from lib.sandbox import run, wait_for
from lib.tallyd import BINARY, differences, service

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_PERFMON": 38, "CAP_BPF": 39}
TIER = "CAP_BPF", "CAP_NET_ADMIN"                   # of plaintext, once all is set up
TO_START = "CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"    # test_why_perfmon shows why the third


def test_probe_names_what_is_needed():
    probe = json.loads(subprocess.run([BINARY, "probe", "-o", "json"], capture_output=True,
                                      text=True, check=False).stdout)
    assert TO_START == tuple(i["name"] for i in probe["items"]
                             if i["capability"] and i["needed_for"] == "plaintext")


def test_probe_without_rights_says_so():
    """All that is missing at once; what could not be tried is unknown, not refused by the kernel."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BINARY, "probe"]
    done = subprocess.run(nobody, capture_output=True, text=True, check=False)
    assert done.returncode == 77
    for name in TO_START:
        assert f"missing {name}: " in done.stdout
    assert done.stdout.endswith("root has all of them\n")
    for name in ("cgroup_skb", "sock_ops", "sk_storage", "map_in_map", "uprobes"):
        assert re.search(rf"^{name} +unknown ", done.stdout, re.M), name


def test_who_may_not_ask_is_told_so(nginx, meter, sandbox):
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    sock = next(sandbox.dir.rglob("tallyd.sock"))
    for folder in (sandbox.dir, sock.parent):
        folder.chmod(0o755)
    config = next(sandbox.dir.rglob("*tallyd*.yaml"))
    config.chmod(0o644)
    config.parent.chmod(0o755)
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BINARY,
                           "status", "-c", config], capture_output=True, text=True, check=False)
    assert done.returncode == 69, done.stderr
    assert done.stderr.endswith("tallyd.sock: Permission denied: only root may ask it\n"), done.stderr
    assert not agent.stop().audit()


def test_start_without_root_says_so(sandbox, keys, meter, nginx):
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    agent.stop()
    config = agent.config_path
    for path in (config, agent.catalog):
        path.chmod(0o644)
    sandbox.dir.chmod(0o755)
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BINARY,
                           "run", "-c", config], capture_output=True, text=True, check=False)
    assert done.returncode == 74, done.stderr
    assert 'reason="start it as root, or as who may write there"' in done.stderr


def bounded_by(names):
    """A command that runs another with at most these capabilities."""
    words = ",".join("+" + n.removeprefix("CAP_").lower() for n in names)
    return ["setpriv", "--inh-caps=-all", f"--bounding-set=-all{',' if words else ''}{words}"]


def status(pid, task=None):
    path = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    return dict(re.findall(r"^(\w+):\s*(.*)$", Path(path).read_text(encoding="ascii"), re.M))


def mask(names):
    return sum(1 << CAPABILITIES[n] for n in names)


def threads(pid):
    return [p.name for p in Path(f"/proc/{pid}/task").iterdir()]


@pytest.fixture
def nginx(start):
    return start("nginx", proxied=False)


def ask(sandbox, port, key, n, truth):
    """n answers on one connection, added to the truth."""
    data = api.request("GET", "/v1/x", key)
    with Conn(sandbox, port) as c:
        for _ in range(n):
            response = c.ask(data)
            api.add(truth, ("key_a", "GET", "/v1/**", 200),
                    api.Sums(1, len(data), response.size))


def test_keeps_what_its_tier_needs(nginx, meter, sandbox):
    """In every thread, also those of the Kafka client: two capabilities, none to come, a filter."""
    kafka = {"kafka": {"brokers": "127.0.0.1:9", "required": False}}
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)],
                  sinks=[{"file": {"path": str(sandbox.dir / "usage.ndjson")}}, kafka])
    pid = agent.process.pid
    wait_for(lambda: len(threads(pid)) > 2, 10, "the threads of the Kafka client")
    for task in threads(pid):
        s = status(pid, task)
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            assert int(s[kind], 16) == mask(TIER), (task, kind, s[kind])
        assert int(s["CapInh"], 16) == int(s["CapAmb"], 16) == 0
        assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2", (task, s)
    assert "capabilities=CAP_NET_ADMIN,CAP_BPF system_calls=filtered" in agent.log()
    assert not agent.stop().audit()


def test_tries_what_it_may_not(nginx, meter, sandbox, keys):
    """
    The agent itself is made to call what it never would: each is refused, what it needs is not, and
    it goes on counting.
    """
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    ask(sandbox, nginx.port, key, 5, truth)
    out = run([str(build.inject()), str(agent.process.pid)])
    results = {name: int(value) for name, value in map(str.split, out.splitlines())}
    print(out)
    assert results.pop("may_getpid") == agent.process.pid
    for name in [n for n in results if n.startswith("may_")]:
        assert results.pop(name) > 0, name
    assert results.pop("clone3") == -errno.ENOSYS, "the C library would not fall back to clone"
    assert len(results) > 40
    allowed = {n: r for n, r in results.items() if r != -errno.EPERM}
    assert not allowed
    ask(sandbox, nginx.port, key, 5, truth)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_meters_with_exactly_the_capabilities_of_the_tier(nginx, meter, sandbox, keys):
    """Started with these and nothing else; a restart finds its pins again."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)],
                  wrap=bounded_by(TO_START))
    assert int(status(agent.process.pid)["CapEff"], 16) == mask(TIER)
    ask(sandbox, nginx.port, key, 20, truth)
    agent.stop()
    agent.start()
    ask(sandbox, nginx.port, key, 20, truth)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def loadall(objects, pins, capabilities):
    """Somebody else's loader; pins is made, and is to be removed."""
    loader = next((p for p in ("/usr/sbin/bpftool", "/usr/local/sbin/bpftool") if Path(p).exists()),
                  "bpftool")
    return subprocess.run(bounded_by(capabilities) + [loader, "prog", "loadall", str(objects), str(pins)],
                          capture_output=True, text=True, timeout=120, check=False)


def test_why_functions_of_their_own(sandbox):
    """
    What needs the third capability are functions that are verified by themselves, in which the verifier
    knows of a pointer no more than its size. Without them it takes the programs from nobody.
    """
    pins = Path("/sys/fs/bpf", sandbox.name + "-static")
    sandbox.undo.callback(shutil.rmtree, pins, ignore_errors=True)
    flags = subprocess.run(["make", "-s", "-C", build.REPO, "print-flags", "KIND=bpf"],
                           capture_output=True, text=True, check=True).stdout.split()
    static = sandbox.dir / "meter.bpf.o"
    subprocess.run(["clang", *flags, "-DTALLY_GLOBAL=static __attribute__((noinline))", "-c",
                    "bpf/meter.bpf.c", "-o", static], cwd=build.REPO, check=True)
    done = loadall(static, pins, TO_START)
    assert done.returncode != 0
    assert "BPF program is too large" in done.stderr, done.stderr[-2000:]


# What the verifier takes only from who has the third: whichever it comes upon first.
UNTRUSTED = ("pointer arithmetic with it prohibited for !root", "attempt to corrupt spilled pointer on stack",
             "cannot use helper bpf_skc_to_mptcp_sock")


def test_why_perfmon(sandbox):
    """
    The third capability, by somebody else's loader: with the two of the tier the verifier refuses variable
    offsets, stack places that serve twice, and to tell which sockets are MPTCP's; with CAP_PERFMON the
    same object loads.
    """
    pins = Path("/sys/fs/bpf", sandbox.name + "-why")
    sandbox.undo.callback(shutil.rmtree, pins, ignore_errors=True)
    for have in (TIER, TO_START):
        done = loadall(build.BUILD / "meter.bpf.o", pins, have)
        told = any(text in done.stdout + done.stderr for text in UNTRUSTED)
        assert told == (have == TIER), done.stderr[-2000:]
        assert (done.returncode == 0) == (have == TO_START), done.stderr[-2000:]


@pytest.mark.parametrize("missing", TO_START)
def test_one_capability_less(meter, sandbox, missing):
    """Exit code 77, and the name of what is missing."""
    agent = meter([service("api", [1], sandbox.cgroup_path)])
    agent.stop()
    agent.detach()
    for extra in ([], ["CAP_SYS_PTRACE"]):          # others do not make up for it
        have = [n for n in TO_START if n != missing] + extra
        done = subprocess.run(bounded_by(have) + [str(BINARY), "run", "--config",
                                                  str(agent.config_path)],
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 77, done.stderr
        assert f"capability={missing}" in done.stderr


def test_nobody_else_reads_its_memory(nginx, meter, sandbox):
    """Not even root without CAP_SYS_PTRACE; and no core is ever written."""
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    less = ["setpriv", "--inh-caps=-all", "--bounding-set=-sys_ptrace"]
    own = sandbox.spawn("sleep", less + ["sleep", "60"], cgroup=False, netns=False)
    wait_for(lambda: Path(f"/proc/{own.pid}/comm").read_text().strip() == "sleep", 5, "sleep")
    codes = [subprocess.run(less + ["dd", "count=0", f"if=/proc/{pid}/mem"], capture_output=True,
                            check=False).returncode for pid in (own.pid, agent.process.pid)]
    assert codes == [0, 1], "the first may be opened, the agent's not"
    limits = Path(f"/proc/{agent.process.pid}/limits").read_text(encoding="ascii")
    assert re.search(r"Max core file size +0 +0 ", limits)


def memory_of(pid):
    """All that can be read of a process, one mapping at a time."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            first, last = (int(x, 16) for x in line.split()[0].split("-"))
            if "r" not in line.split()[1] or "[v" in line:
                continue
            mem.seek(first)
            try:
                yield line.split()[-1], mem.read(last - first)
            except OSError:
                continue


def test_keys_are_wiped(nginx, meter, sandbox, keys):
    """Once a key has become an id its text is nowhere in the agent's memory; its customer is."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    ask(sandbox, nginx.port, key, 3, truth)
    agent.wait_for_records(lambda l: l.count("api", api_key_id="key_a") == 3, what="the key's id")
    places = list(memory_of(agent.process.pid))
    assert any(b"cus_a" in data for _, data in places), "this looks at the wrong memory"
    found = [name for name, data in places if key.encode() in data]
    assert not found
    assert key not in agent.log()


def test_modes_of_files(nginx, meter, sandbox, keys):
    """Secrets are the owner's; nothing is anybody's to write."""
    shutil.rmtree(sandbox.dir / "state", ignore_errors=True)
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], agent={
        "state_dir": str(sandbox.dir / "fresh" / "state")})
    ask(sandbox, nginx.port, keys.new("a"), 3, api.new_tally())
    agent.stop()
    state = sandbox.dir / "fresh" / "state"
    assert state.stat().st_mode & 0o7777 == 0o750
    secrets = [p for p in state.rglob("*secret*")]
    assert secrets and all(p.stat().st_mode & 0o077 == 0 for p in secrets)
    assert not [p for p in state.rglob("*") if p.stat().st_mode & 0o022]
    assert agent.pin_dir.stat().st_mode & 0o077 == 0
