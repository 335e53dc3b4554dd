# SPDX-License-Identifier: Apache-2.0
"""Services matched by the file that their processes run."""

import json
import os
import shutil
import subprocess

import pytest
from lib import api, build
from lib.client import Conn
from lib.sandbox import wait_for
from lib.servers.golang import Go
from lib.tallyd import BINARY, Tallyd, service


class Own(Go):
    """The Go server as a file of the test's own."""

    def __init__(self, sandbox, keys, name="api", **more):
        self.name = name
        super().__init__(sandbox, keys, **more)
        self.file = sandbox.dir / f"{name}.bin"
        if not self.file.exists():
            shutil.copy(build.go_api(), self.file)

    def launch(self):
        return self.sandbox.spawn(self.name, [self.file, *self.arguments()], cgroup=self.cgroup)


def by_file(file, ports="all", name="api"):
    entry = service(name, [1])
    entry["match"] = {"ports": ports, "executable": str(file)}
    return entry


def wait_attached(agent, group, seconds=8):
    """Told by the kernel: sooner than the look around every ten seconds would find it."""
    def attached():
        done = agent.command("services", "--config", str(agent.config_path), "-o", "json")
        rows = json.loads(done.stdout)["rows"] if done.returncode == 0 else []
        return any(path.endswith(group) for row in rows for path in row["cgroups"])
    wait_for(attached, seconds, lambda: f"{group} to be attached: {agent.log()}")


def ask(sandbox, port, key, times):
    with Conn(sandbox, port) as c:
        for _ in range(times):
            c.ask(api.request("GET", "/v1/x", key))


@pytest.mark.parametrize("named", [True, False], ids=["ports", "all"])
def test_comes_and_goes(sandbox, keys, meter, named):
    """Started, ended and started again elsewhere while the agent runs: every answer counts."""
    key, ports = keys.new("a"), sandbox.ports(3)
    groups = [sandbox.new_cgroup(f"g{n}") for n in range(3)]
    file = Own(sandbox, keys).file
    agent = meter([by_file(file, ports if named else "all")])
    for n, group in enumerate(groups):
        server = Own(sandbox, keys, ports=[ports[n]], cgroup=group).start()
        wait_attached(agent, group)
        ask(sandbox, ports[n], key, 5 + n)
        server.stop()
    ledger = agent.stop()
    assert ledger.by_key_and_status("api") == {("key_a", 200): 18}, agent.log()
    assert not ledger.audit()


def test_shared_cgroup(sandbox, keys, meter):
    """`ports: all` where another file runs in the same cgroup: only the ports of this one's
    processes, found where they listen."""
    key, ports = keys.new("a"), sandbox.ports(2)
    ours = Own(sandbox, keys, ports=[ports[0]]).start()
    other = Own(sandbox, keys, name="other", ports=[ports[1]]).start()
    agent = meter([by_file(ours.file)])
    ask(sandbox, ports[0], key, 3)
    ask(sandbox, ports[1], key, 4)
    ours.stop()
    other.stop()
    assert agent.stop().by_key_and_status() == {("key_a", 200): 3}, agent.log()


def test_precedence(sandbox, keys, meter):
    """By cgroup before by executable before by port, however deep the cgroups are."""
    key, ports = keys.new("a"), sandbox.ports(3)
    deep = sandbox.new_cgroup("slice") + "/deep"
    (sandbox.cgroup / "slice" / "deep").mkdir()
    first = Own(sandbox, keys, ports=[ports[0]], cgroup=deep).start()
    second = Own(sandbox, keys, ports=[ports[1]], cgroup=sandbox.new_cgroup("b")).start()
    other = Own(sandbox, keys, name="other", ports=[ports[2]],
                cgroup=sandbox.new_cgroup("c")).start()
    agent = meter([by_file(first.file, ports, "file"),
                   service("cgroup", [ports[0]], sandbox.cgroup_path + "/slice"),
                   service("port", ports)])
    for n, port in enumerate(ports):
        ask(sandbox, port, key, 3 + n)
    ledger = agent.stop()
    assert [ledger.count(s) for s in ("cgroup", "file", "port")] == [3, 4, 5], agent.log()
    for server in (first, second, other):
        server.stop()


def test_upgraded(sandbox, keys, meter):
    """A file renamed over: who runs the old one is metered on, and so is who runs the new."""
    key, ports = keys.new("a"), sandbox.ports(2)
    old = Own(sandbox, keys, ports=[ports[0]], cgroup=sandbox.new_cgroup("a")).start()
    agent = meter([by_file(old.file, ports)])
    new_file = sandbox.dir / "new"
    shutil.copy(old.file, new_file)
    os.rename(new_file, old.file)
    ask(sandbox, ports[0], key, 2)
    group = sandbox.new_cgroup("b")
    new = Own(sandbox, keys, ports=[ports[1]], cgroup=group).start()
    wait_attached(agent, group)
    ask(sandbox, ports[1], key, 3)
    ask(sandbox, ports[0], key, 4)
    ledger = agent.stop()
    assert ledger.by_key_and_status("api") == {("key_a", 200): 9}, agent.log()
    old.stop()
    new.stop()


def test_symbolic_link(sandbox, keys, meter):
    """The name may be a link: what it leads to counts, also when it is moved to another release, or the
    release is replaced; and who runs what it led to before is metered to its end."""
    key, ports = keys.new("a"), sandbox.ports(3)
    first = Own(sandbox, keys, name="one", ports=[ports[0]], cgroup=sandbox.new_cgroup("a")).start()
    link, aside = sandbox.dir / "current", sandbox.dir / "aside"
    link.symlink_to(first.file.name)
    agent = meter([by_file(link, ports)])
    ask(sandbox, ports[0], key, 2)
    shutil.copy(first.file, aside)
    os.rename(aside, first.file)        # as an upgrade does: another file of that path
    second_group, third_group = sandbox.new_cgroup("b"), sandbox.new_cgroup("c")
    second = Own(sandbox, keys, name="one", ports=[ports[1]], cgroup=second_group).start()
    wait_attached(agent, second_group)
    ask(sandbox, ports[0], key, 3)
    ask(sandbox, ports[1], key, 4)
    third = Own(sandbox, keys, name="two", ports=[ports[2]], cgroup=third_group)
    aside.symlink_to(third.file.name)
    os.rename(aside, link)
    third.start()
    wait_attached(agent, third_group)
    for n, port in enumerate(ports):
        ask(sandbox, port, key, 5 + n)
    ledger = agent.stop()
    assert ledger.by_key_and_status("api") == {("key_a", 200): 2 + 3 + 4 + 5 + 6 + 7}, agent.log()
    for server in (first, second, third):
        server.stop()


def test_file_that_is_not_there(sandbox, keys, meter):
    """`tallyd services` says whether it is the file or the process that is missing."""
    keys.new("a")
    file = Own(sandbox, keys).file
    agent = meter([by_file("/no/such/file", [1], "none"), by_file(file, [2], "idle")])
    done = agent.command("services", "--config", str(agent.config_path))
    assert "that file is not there" in done.stdout and "no process runs that file" in done.stdout


@pytest.mark.parametrize("wanted", ["executable", "ports"])
def test_capability(sandbox, keys, wanted):
    """Without CAP_SYS_PTRACE only a service that needs it is refused, with 77 and its name."""
    entry = by_file("/bin/true") if wanted == "executable" else service("api", [sandbox.port()])
    config = Tallyd(sandbox, keys, [entry]).write_config()
    argv = ["setpriv", "--bounding-set=-sys_ptrace", BINARY, "run", "--config", config]
    if wanted == "ports":
        process = sandbox.spawn("bounded", argv, cgroup=False, netns=False)
        wait_for(lambda: "notice ready" in process.output(), 30, process.output)
        assert process.stop() == 0
        return
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 77, done.stderr
    assert "CAP_SYS_PTRACE" in done.stderr
