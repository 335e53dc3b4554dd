# SPDX-License-Identifier: Apache-2.0
"""Services found by cgroup and unit: who is found and who is not, at once, and whatever does not fit."""

import contextlib
import json
import os
import subprocess
import sys
import time

import pytest

from lib import api
from lib.client import Conn
from lib.sandbox import cgroup2_root, wait_for
from lib.tallyd import BINARY, Tallyd, service

# A server that listens as soon as it is in its cgroup.
SERVER = """
import os, socket, sys

with open(sys.argv[1] + "/cgroup.procs", "w") as f:
    f.write("0")
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[2])))
s.listen(64)
while True:
    c, _ = s.accept()
    if c.recv(4096):
        c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
    c.close()
"""


def by_unit(name, unit, ports):
    entry = service(name, ports)
    entry["match"]["unit"] = unit
    return entry


def rows_of(agent, request="services"):
    done = agent.command(request, "--config", str(agent.config_path), "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def row_of(agent, name):
    return next(r for r in rows_of(agent)["rows"] if r["service"] == name)


def ask(sandbox, port, key, times=1):
    for _ in range(times):
        with Conn(sandbox, port) as c:
            c.ask(api.request("GET", "/v1/x", key))


@pytest.fixture
def tree(sandbox):
    """tree("a.slice/b.service"): that folder below a slice at the root, as a manager's; its path."""
    root = cgroup2_root() / f"{sandbox.name}.slice"
    made = []

    def make(path):
        folder = root
        for part in [None, *path.split("/")]:
            folder = folder / part if part else folder
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        return folder

    yield make
    for folder in reversed(made):
        def gone(f=folder):
            with contextlib.suppress(OSError):
                f.rmdir()
            return not f.exists()
        wait_for(gone, 10, f"{folder} to be empty")


@pytest.fixture
def serve(sandbox):
    running = []

    def start(folder, port):
        server = sandbox.spawn(f"server-{len(running)}",
                               [sys.executable, "-S", "-c", SERVER, folder, port], cgroup=False)
        running.append(server)
        return server

    yield start
    for server in running:
        if server.alive():
            server.popen.kill()
        server.popen.wait(5)


def wait_listening(sandbox, port):
    def listens():
        with sandbox.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    wait_for(listens, 10, f"port {port}")


def test_unit_is_one_of_the_system(sandbox, keys, meter, tree, serve):
    """A unit's name is literal but for globs; only below slices. A user's unit and a container's of the
    same name are somebody else's."""
    key, ports = keys.new("a"), sandbox.ports(4)
    name = f"geo@{sandbox.name}\\x2dwest.service"
    places = [f"system-geo.slice/{name}", f"user@1000.service/app.slice/{name}",
              f"a.scope/{name}", name.replace("\\x2d", "x2d")]
    for place, port in zip(places, ports):
        serve(tree(place), port)
        wait_listening(sandbox, port)
    agent = meter([by_unit("unit", name, ports)])
    (found,) = row_of(agent, "unit")["cgroups"]
    assert found.endswith(f"/system-geo.slice/{name}")
    for n, port in enumerate(ports):
        ask(sandbox, port, key, 3 + n)
    assert agent.stop().count("unit") == 3


def test_cgroup_with_a_backslash(sandbox, keys, meter, tree, serve):
    """A path as it stands in the tree; a backslash quotes nothing."""
    key, (port,) = keys.new("a"), sandbox.ports(1)
    folder = tree("a\\x2db.service")
    serve(folder, port)
    wait_listening(sandbox, port)
    agent = meter([service("glob", [port], f"/{sandbox.name}.slice/a\\x2d*.service")])
    ask(sandbox, port, key, 3)
    assert agent.stop().count("glob") == 3


class Restarts:
    """A unit whose folder goes and comes again shortly after, and whose server answers at once."""

    def __init__(self, sandbox, agent, serve, folder, port):
        self.sandbox, self.agent, self.serve = sandbox, agent, serve
        self.folder, self.port = folder, port
        self.server, self.delays, self.asked = None, [], 0

    def attached(self):
        inode = self.folder.stat().st_ino
        return len(list(self.agent.pin_dir.glob(f"link-{inode}-*"))) == 3

    def once(self, key, gap_s):
        if self.server:
            self.server.popen.kill()
            self.server.popen.wait(5)
            wait_for(lambda: not (self.folder / "cgroup.procs").read_text(), 5, "the server's end")
        self.folder.rmdir()
        time.sleep(gap_s)       # what is tested
        self.folder.mkdir()
        made = time.monotonic()
        while not self.attached() and time.monotonic() < made + 5:
            pass
        self.delays.append(time.monotonic() - made)
        self.server = self.serve(self.folder, self.port)
        wait_listening(self.sandbox, self.port)
        ask(self.sandbox, self.port, key, 3)
        self.asked += 3


def test_restarted_at_once(sandbox, keys, meter, tree, serve):
    """The end of a unit uses up no look that its start needs: the hooks are there when a server can be."""
    key, (port,) = keys.new("a"), sandbox.ports(1)
    folder = tree(f"{sandbox.name}.service")
    agent = meter([by_unit("unit", folder.name, [port])])
    restarts = Restarts(sandbox, agent, serve, folder, port)
    for _ in range(9):
        restarts.once(key, 0.002)
    ledger = agent.stop()
    assert sorted(restarts.delays)[4] < 0.025, restarts.delays
    assert ledger.count("unit") == restarts.asked
    assert not ledger.audit()


def test_storm(sandbox, keys, meter, tree):
    """Folders that come and go by the thousand where a look is long: the agent is not busy with them all the
    time, and answers."""
    keys.new("a")
    folder = tree("api.service")
    for n in range(600):
        tree(f"w{n}")
    agent = meter([by_unit("unit", "api.service", [1]),
                   service("many", [2], f"/{sandbox.name}.slice/w*")])

    def cpu_s():
        with open(f"/proc/{agent.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, end, n = cpu_s(), time.monotonic() + 4, 0
    while time.monotonic() < end:
        made = folder.parent / f"storm-{n}.slice"
        made.mkdir()
        made.rmdir()
        time.sleep(0.001)       # one event after the other: each would be worth a look
        n += 1
    assert cpu_s() - before < 2.2, f"{n} folders"
    assert row_of(agent, "unit")["attached"]


WIDE_PORTS = list(range(30000, 30070))


def test_one_that_does_not_fit(sandbox, keys, meter, tree, serve):
    """It is told of by its name, once, and as far as there is room it is metered; a service beside it comes,
    goes and comes again as ever, also across a restart of the agent."""
    key, (port,) = keys.new("a"), sandbox.ports(1)
    folder = tree("api.service")
    for n in range(60):
        tree(f"many.slice/w{n}")
    wide = service("wide", [*WIDE_PORTS, port], f"/{sandbox.name}.slice/many.slice/w*")
    agent = meter([wide, by_unit("api", "api.service", [port])])
    restarts = Restarts(sandbox, agent, serve, folder, port)
    restarts.once(key, 0)
    for _ in range(2):
        row = row_of(agent, "wide")
        assert not row["attached"] and row["partly"] and "do not fit" in row["why_not"], row
        assert len(row["cgroups"]) == 57 and len(row["hooks"]) == 3
        (warning,) = [w for w in rows_of(agent, "status")["warnings"] if w["what"] == "service"]
        assert "wide is metered in part only" in warning["text"]
        restarts.once(key, 0)
        assert row_of(agent, "api")["attached"]
        assert agent.log().count("service_not_attached") == 1   # a log of its own for each run
        assert "service=wide" in agent.log()
        text = agent.command("services", "--config", str(agent.config_path)).stdout
        assert "PARTLY" in text and "hooks ingress" in text, text
        agent.stop()
        agent.start()
    restarts.once(key, 0)
    for n in range(5):
        (folder.parent / "many.slice" / f"w{n}").rmdir()
    wait_for(lambda: row_of(agent, "wide")["attached"], 5, "room")
    assert "service_attached" in agent.log()
    assert agent.stop().count("api") == restarts.asked


FEW = """
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
int inotify_init1(int flags)
{
	if (!access(getenv("FEW"), F_OK)) { errno = EMFILE; return -1; }
	return (int)syscall(SYS_inotify_init1, flags);
}
"""


@pytest.fixture
def few(sandbox):
    """(a file: while it is there there are no inotify instances left, the wrap of an agent)"""
    source, library, sign = (sandbox.dir / n for n in ("few.c", "few.so", "few"))
    source.write_text(FEW, encoding="ascii")
    subprocess.run([os.environ.get("CC", "cc"), "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", library,
                    source], check=True)
    sign.touch()
    return sign, ["env", f"LD_PRELOAD={library}", f"FEW={sign}"]


def test_no_inotify_instance_left(sandbox, keys, meter, tree, few):
    """It starts, finds folders within a second, says so; and watches them when it can."""
    keys.new("a")
    sign, wrap = few
    agent = meter([by_unit("api", f"{sandbox.name}.service", [1])], wrap=wrap)

    def warned():
        return [w for w in rows_of(agent, "status")["warnings"] if w["what"] == "watch"]
    assert warned() and agent.log().count("not watched") == 1
    folder = tree(f"{sandbox.name}.service")
    wait_for(lambda: row_of(agent, "api")["attached"], 4, "the folder to be found")
    sign.unlink()
    wait_for(lambda: not warned(), 5, "folders to be watched")
    folder.rmdir()
    folder.mkdir()
    wait_for(lambda: list(agent.pin_dir.glob(f"link-{folder.stat().st_ino}-*")), 0.9,
             "the folder to be told of")
    agent.stop()


def test_a_shortage_is_no_missing_feature(sandbox, keys):
    """No descriptor is left for the maps: worth another start, so the code is not one at which the unit
    stays down."""
    keys.new("a")
    config = Tallyd(sandbox, keys, [service("api", [1])]).write_config()
    codes = set()
    for limit in (16, 24, 32, 40):
        done = subprocess.run(["prlimit", f"--nofile={limit}", BINARY, "run", "--config", config],
                              capture_output=True, text=True, timeout=60, check=False)
        codes.add(done.returncode)
        assert done.returncode in (69, 70, 74), done.stderr
    assert 69 in codes
