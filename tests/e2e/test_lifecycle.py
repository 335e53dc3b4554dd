# SPDX-License-Identifier: Apache-2.0
"""The agent is started, stopped, killed, upgraded; clients and servers go away: nothing is lost."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import ALL_SERVERS
from lib import api, build
from lib.client import Conn
from lib.load import Load, Template, mix
from lib.sandbox import Sandbox, cgroup2_root, inside_netns, need_program, run, wait_for
from lib.tallyd import BINARY, Tallyd, differences, service


@pytest.fixture
def nginx(start):
    return start("nginx", proxied=False)


def ask(key, path="/v1/x", **kw):
    return api.request("GET", path, key, **kw)


def exchange(conn, truth, keys, key, path="/v1/x"):
    data = ask(key, path)
    response = conn.ask(data)
    row = (keys.id_of(key), "GET", api.route_of("GET", path), response.status)
    api.add(truth, row, api.Sums(1, len(data), response.size))


def test_windows(nginx, meter, sandbox, keys):
    """Records come window by window, aligned to whole seconds; idle windows have control records."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key)
        agent.wait_for_records(lambda l: l.count("api") == 1, what="the first window")
        exchange(c, truth, keys, key)
        ledger = agent.wait_for_records(lambda l: l.count("api") == 2, what="a later window")
        idle = len(ledger.controls)
        agent.wait_for_records(lambda l: len(l.controls) >= idle + 2, what="idle control records")
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    windows = {(d["window_start"], d["window_end"]) for d in ledger.rows("api")}
    assert len(windows) == 2
    assert {d["close_cause"] for d in ledger.rows()} <= {"interval", "hour", "shutdown"}
    assert not ledger.audit()


def test_names_of_rows_cannot_be_read_for_a_while(nginx, meter, sandbox, keys):
    """The window waits in the kernel: nothing is sealed without its routes."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="2s")
    names = sandbox.dir / "state" / "rulesets" / "1.json"
    kept = names.rename(names.with_suffix(".kept"))
    names.symlink_to(names)     # too many levels of symbolic links: there, and not readable
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key, "/status/404")
    wait_for(lambda: "not_sealed" in agent.log(), 20, "a window that cannot be sealed")
    assert "ruleset_unreadable" in agent.log()
    kept.rename(names)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_the_state_directory_goes_away(nginx, meter, sandbox, keys):
    """No window is closed before the one before it is sealed: the kernel's memory does not grow."""
    key = keys.new("a")
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="1s")
    shutil.rmtree(sandbox.dir / "state")
    with Conn(sandbox, nginx.port) as c:
        c.ask(ask(key))
        wait_for(lambda: agent.log().count("not_sealed") >= 6, 30, "windows that cannot be sealed")
        c.ask(ask(key))
    waiting, open_now, prepared = 1, 1, 1
    assert len(list(agent.pin_dir.glob("epoch-*-rows"))) <= waiting + open_now + prepared
    agent.kill()
    agent.start()
    # The names of service and route went with the folder; what was counted did not.
    assert sum(row["requests"] for row in agent.stop().rows()) == 2


def test_sigterm_closes_the_open_window(nginx, meter, sandbox, keys):
    """A window of ten seconds, ended at once: its records are there when the agent has ended."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="10s")
    with Conn(sandbox, nginx.port) as c:
        for _ in range(7):
            exchange(c, truth, keys, key)
        ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert "shutdown" in {d["close_cause"] for d in ledger.rows("api")}
    assert not ledger.audit()


def test_counts_while_stopped(nginx, meter, sandbox, keys):
    """SIGTERM leaves the hooks: what is answered until the next start is in its books."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    with Conn(sandbox, nginx.port) as kept:
        exchange(kept, truth, keys, key)
        agent.stop()
        for _ in range(5):
            exchange(kept, truth, keys, key)
            with Conn(sandbox, nginx.port) as fresh:
                exchange(fresh, truth, keys, key)
        agent.start()
        exchange(kept, truth, keys, key)
        ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_detach(nginx, meter, sandbox, keys):
    """`stop --detach` takes the hooks out; what comes after is not counted."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key)
        agent.stop()
        assert "the programs are out of the kernel" in agent.detach().stderr
        assert not agent.pin_dir.exists() or not list(agent.pin_dir.iterdir())
        c.ask(ask(key))
    agent.start()
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")


def holes(agent):
    return [control["hole"]["cause"] for control in agent.ledger().controls if control["hole"]]


def take_pins(agent):
    """As a reboot does: nothing of the kernel's is there any more."""
    shutil.rmtree(agent.pin_dir)


def test_detach_is_a_stop(nginx, meter, sandbox, keys):
    """Stopped in order, detached, started: that time is told, and is no loss."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key)
        agent.stop()
        agent.detach()
    agent.start()
    ledger = agent.stop()
    assert holes(agent) == ["stopped"]
    assert {control["incarnation"] for control in ledger.controls} == {1}
    assert not differences(truth, ledger, "api")


@pytest.mark.parametrize("end, cause", [("stop", "stopped"), ("kill", "lost")])
def test_pins_go_after_a_short_second_life(nginx, meter, sandbox, keys, end, cause):
    """Started on pins that stand, and no window is closed by the clock before it ends."""
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="1h")
    agent.stop()
    agent.start()
    getattr(agent, end)()
    take_pins(agent)
    agent.start()
    agent.stop()
    assert holes(agent) == [cause]


def test_pins_go_in_the_first_window(nginx, meter, sandbox, keys):
    """What an agent counted after a detach is lost with its pins, however orderly the detach was."""
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="1h")
    agent.stop()
    agent.detach()
    agent.start()
    agent.kill()
    take_pins(agent)
    agent.start()
    agent.stop()
    assert holes(agent) == ["lost"]


UNUSABLE = {
    "credential": ({"kafka": {"brokers": "127.0.0.1:1", "properties": {"sasl.password": "${cred:pw}"}}},
                   "pw} is not checked"),
    "no-file": ({"kafka": {"brokers": "127.0.0.1:1", "properties": {"sasl.password": "${file:/none}"}}},
                "No such file"),
    "no-such-property": ({"kafka": {"brokers": "127.0.0.1:1", "properties": {"no.such": "1"}}}, "no.such"),
    "mistake": ({"kafka": {"broker": "127.0.0.1:1"}}, 'did you mean "brokers"'),
}


@pytest.mark.parametrize("sink, says", UNUSABLE.values(), ids=UNUSABLE)
def test_detach_with_a_sink_that_cannot_be_used(nginx, meter, sandbox, keys, sink, says):
    """As from a package's script: secrets of the unit are out of reach, or the file has a mistake. The
    hooks go all the same; what was counted waits in the spool, also for the sink that could be used."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="1m")
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key)
        agent.kill()
        before = len(agent.ledger().rows("api"))
        agent.sections = {"sinks": [{"file": {"path": str(agent.usage)}}, sink]}
        agent.write_config()
        done = agent.command("stop", "--detach", "--config", str(agent.config_path))
        assert done.returncode == 0, done.stderr
        assert says in done.stderr and "waits in the spool" in done.stderr
        assert not agent.pin_dir.exists() or not list(agent.pin_dir.iterdir())
        assert len(agent.ledger().rows("api")) == before
        c.ask(ask(key))
    agent.sections = {}
    agent.start()
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_detach_without_the_fleet_secret(nginx, meter, sandbox, keys):
    """Only the unit can read it: what was counted is shipped, and it is said whose secret made the ids."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], window="1m")
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key)
        agent.kill()
        agent.agent["fleet_secret"] = "${cred:fleet}"
        agent.write_config()
        done = agent.command("stop", "--detach", "--config", str(agent.config_path))
    assert done.returncode == 0 and "secret of this host" in done.stderr, done.stderr
    assert not differences(truth, agent.ledger(), "api")


# In a mount namespace of its own, so that the folders of a package's installation are not the host's.
UNREADABLE = r"""
set -e
mkdir -p "$1/etc/tallyd" "$1/lib" "$1/run" && cp /etc/machine-id "$1/etc/" || true
mount --bind "$1/etc" /etc && mount --bind "$1/lib" /var/lib && mount --bind "$1/run" /run
mount -t bpf bpf /sys/fs/bpf
printf 'agent: {metrics: {listen: off}}
sinks: [{file: {path: /var/lib/usage.ndjson}}]
' >/etc/tallyd/tallyd.yaml
"$2" run & agent=$!
for i in $(seq 600); do [ -S /run/tallyd/tallyd.sock ] && break; kill -0 $agent; sleep 0.1; done
kill $agent && wait $agent
[ -d /sys/fs/bpf/tallyd ]
printf 'agent:
	- what' >/etc/tallyd/tallyd.yaml
"$2" stop --detach
echo "detached $?, left: $(find /sys/fs/bpf -name 'tally*')"
printf 'agent:
	- what' >/etc/other.yaml
"$2" stop --detach --config /etc/other.yaml || echo "other $?"
"""


def test_detach_with_a_config_that_cannot_be_read(sandbox):
    """That of the package stands for the folders of the package; another one for none."""
    done = subprocess.run(["unshare", "-m", "bash", "-c", UNREADABLE, "bash", sandbox.dir, BINARY],
                          capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["detached 0, left: ", "other 78"], done.stdout + done.stderr
    assert "a tab" in done.stderr and "waits in the spool" in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("kills", [1, 4])
def test_killed_under_load(nginx, meter, sandbox, keys, kills):
    """SIGKILL under load, and again: nothing lost, nothing twice."""
    templates = mix(keys)
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, nginx.port, templates, 100, seconds=60)
    for _ in range(kills):
        have = len(agent.ledger().controls)
        agent.wait_for_records(lambda l, n=have: len(l.controls) > n, what="a closed window")
        agent.kill()
        answered = len(nginx.entries())
        wait_for(lambda n=answered: len(nginx.entries()) > n + 100, 10,
                 "load to go on while the agent is dead")
        agent.start()
    truth = load.stop().result()
    assert load.lost == 0, load.report
    ledger = agent.stop(60)
    problems = differences(truth, ledger, "api")
    assert not problems, problems
    assert not ledger.audit()


@pytest.mark.faults
def test_killed_at_random_times(nginx, meter, sandbox, keys):
    """Killed soon after each start, at a time that moves through start-up and the first windows."""
    templates = [Template("GET", "/status/200", keys.new("a"))]
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, nginx.port, templates, 20, seconds=60)
    for i in range(6):
        time.sleep(0.05 + 0.23 * i)     # the time itself is what is tested
        agent.kill()
        agent.start()
    truth = load.stop().result()
    ledger = agent.stop(60)
    problems = differences(truth, ledger, "api")
    assert not problems, problems
    assert not ledger.audit()


def test_two_agents_with_one_identity(nginx, meter, sandbox, keys):
    """The second agent on the same state refuses to run; the first goes on."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    second = agent.command("run", "--config", str(agent.config_path))
    assert second.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    assert second.stderr.strip()
    with Conn(sandbox, nginx.port) as c:
        exchange(c, truth, keys, key)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_two_agents_side_by_side(start, meter, sandbox, keys):
    """Own pins, state and services: each counts its own server."""
    key, truth = keys.new("a"), api.new_tally()
    nginx, go = start("nginx", proxied=False), start("go")
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    with Sandbox("second") as other:
        twin = Tallyd(other, keys, [service("api", go.ports, sandbox.cgroup_path)]).start()
        for server in (nginx, go):
            with Conn(sandbox, server.port) as c:
                exchange(c, truth, keys, key)
        ledgers = [agent.stop(), twin.stop()]
    for ledger in ledgers:
        assert ledger.count("api", api_key_id="key_a") == 1
        assert not ledger.audit()


def test_key_added_to_the_catalog_while_running(nginx, meter, sandbox, keys):
    """The catalog is read again when it changes; resolution is by the catalog in force."""
    keys.new("a")
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    late = keys.new("late")
    keys.write_catalog(agent.catalog)

    def counted_by_name():
        with Conn(sandbox, nginx.port) as c:
            c.ask(ask(late))
        return agent.ledger().count("api", api_key_id="key_late")
    wait_for(counted_by_name, 15, "the new key's id in a record")
    ledger = agent.stop()
    assert {d["customer_id"] for d in ledger.rows("api", api_key_id="key_late")} == {"cus_late"}
    assert not ledger.audit()


# Clients and servers that go away ----------------------------------------------------------------

def abort_downloads(sandbox, port, key):
    """Five downloads that end with a RST. Returns the octets that the client had by then."""
    acknowledged = 0
    for _ in range(5):
        c = Conn(sandbox, port, rcvbuf=8192)
        c.send(ask(key, "/v1/files/8388608"))
        c.read_until(b"\r\n\r\n")
        acknowledged += len(c.raw)
        c.reset()
    return acknowledged


@pytest.mark.parametrize("name", ALL_SERVERS)
def test_client_aborts(start, meter, sandbox, keys, name):
    """RST inside a download: counted once with its status, incomplete; bytes within bounds."""
    key = keys.new("a")
    server = start(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    acknowledged = abort_downloads(sandbox, server.port, key)
    logged = server.witness(5, 20)
    ledger = agent.stop()
    rows = ledger.rows("api", api_key_id="key_a", status=200)
    assert sum(d["requests"] for d in rows) == sum(d["incomplete"] for d in rows) == 5, rows
    assert sum(d["request_bytes"] for d in rows) == 5 * len(ask(key, "/v1/files/8388608"))
    sent = api.total(logged).response_bytes if "response_bytes" in server.exact else 5 * 8400000
    counted = sum(d["response_bytes"] for d in rows)
    assert acknowledged <= counted <= max(sent, acknowledged), (acknowledged, counted, sent)
    assert not ledger.audit()


@contextlib.contextmanager
def other_sock_ops(sandbox):
    """Another program behind ours, which sets the flags of each new socket to what it needs itself."""
    tool, pin = need_program("bpftool"), f"/sys/fs/bpf/{sandbox.name}-flags"
    hook = (str(cgroup2_root() / sandbox.cgroup_path.lstrip("/")), "sock_ops", "pinned", pin)
    run([tool, "prog", "load", str(build.sock_ops_flags()), pin])
    try:
        run([tool, "cgroup", "attach", *hook, "multi"])
        yield
        run([tool, "cgroup", "detach", *hook])
    finally:
        os.unlink(pin)


def test_client_aborts_that_nobody_tells(start, meter, sandbox, keys):
    """The kernel tells the death of no connection: the packets do."""
    key = keys.new("a")
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    with other_sock_ops(sandbox):
        abort_downloads(sandbox, server.port, key)
        server.witness(5, 20)
        ledger = agent.stop()
    rows = ledger.rows("api", api_key_id="key_a", status=200)
    assert sum(d["requests"] for d in rows) == sum(d["incomplete"] for d in rows) == 5, rows
    assert not ledger.audit()


@pytest.mark.parametrize("name", ALL_SERVERS)
def test_client_aborts_before_the_answer(start, meter, sandbox, keys, name):
    """Gone before a response head left: no request is charged; it stands as aborted, if at all."""
    key = keys.new("a")
    server = start(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    with Conn(sandbox, server.port) as c:
        c.ask(ask(key))
    for _ in range(5):
        c = Conn(sandbox, server.port)
        c.send(api.request("POST", "/v1/enrich", key, b"x" * 100)[:-50])
        c.reset()
    ledger = agent.stop()
    assert ledger.count("api", api_key_id="key_a", status=200) == 1
    for d in ledger.rows("api"):
        if d["status"] == 0:
            assert d["reason"] in ("aborted", "unattributed") and not d["billable"]
    assert not ledger.audit()


def test_half_closed_client(nginx, meter, sandbox, keys):
    """The client says that it will send no more, then reads its answer."""
    key = keys.new("a")
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    data = ask(key, "/v1/files/1048576")
    with Conn(sandbox, nginx.port) as c:
        c.send(data)
        c.finish()
        response = c.responses(["GET"], 1)[0]
    ledger = agent.stop()
    assert response.complete
    assert not differences({("key_a", "GET", "/v1/files/{size}", 200):
                            api.Sums(1, len(data), response.size)}, ledger, "api")
    assert ledger.rows("api")[0]["incomplete"] == 0
    assert not ledger.audit()


def test_response_across_windows(nginx, meter, sandbox, keys):
    """Row 39: a slow reader; bytes fall where they were sent, the request where it ended."""
    key = keys.new("a")
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)])
    data = ask(key, "/v1/files/8388608")
    with Conn(sandbox, nginx.port, rcvbuf=4096) as c:
        c.send(data)
        c.read_slowly(200000, 16384, 0.01)
        early = agent.wait_for_records(
            lambda l: sum(d["response_bytes"] for d in l.rows("api")) > 100000,
            what="bytes of an open response")
        assert early.count("api") == 0, "the request was counted before it ended"
        response = c.responses(["GET"], 1, 30)[0]
    ledger = agent.stop()
    assert not differences({("key_a", "GET", "/v1/files/{size}", 200):
                            api.Sums(1, len(data), response.size)}, ledger, "api")
    assert len({d["window_start"] for d in ledger.rows("api")}) >= 2
    assert not ledger.audit()


def test_upgraded_connection_across_windows(start, meter, sandbox, keys):
    """Row 27: 101 counts once; the bytes of the tunnel go on counting, window by window."""
    key = keys.new("a")
    server = start("node")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    with Conn(sandbox, server.port) as c:
        c.send(ask(key, "/upgrade", headers=["Connection: Upgrade", "Upgrade: echo"]))
        assert c.responses(["GET"], 1)[0].status == 101
        agent.wait_for_records(lambda l: l.rows("api", status=101), what="the upgrade")
        c.send(b"GET /v1/forged HTTP/1.1\r\n\r\n" * 100)
        c.read_until(b"forged HTTP/1.1\r\n\r\n" * 1)
        agent.wait_for_records(lambda l: len({d["window_start"] for d in l.rows("api")}) >= 2,
                               what="bytes of the tunnel in a later window")
        c.finish()
        c.read_to_end()
        sent, received = c.sent, len(c.raw)
    ledger = agent.stop()
    assert ledger.count("api") == ledger.count("api", api_key_id="key_a", status=101) == 1
    total = api.total(ledger.tally("api"))
    assert (total.request_bytes, total.response_bytes) == (sent, received)
    assert not ledger.audit()


@pytest.mark.faults
def test_server_killed_and_its_cgroup_removed(start, meter, sandbox, keys):
    """Row 42: what left is counted; the end of the cgroup is no end of the agent."""
    key = keys.new("a")
    path = sandbox.new_cgroup("api")
    server = start("python", cgroup=path)
    agent = meter([service("api", server.ports, path)])
    with Conn(sandbox, server.port) as done, Conn(sandbox, server.port, rcvbuf=8192) as open_:
        for _ in range(4):
            done.ask(ask(key))
        open_.send(ask(key, "/v1/files/8388608"))
        open_.read_until(b"\r\n\r\n")
        server.process.popen.kill()
        server.process.popen.wait(5)
        wait_for(lambda: not (sandbox.cgroup / "api" / "cgroup.procs").read_text(), 5, "the end")
        os.rmdir(sandbox.cgroup / "api")
    assert agent.process.alive()
    ledger = agent.stop()
    assert ledger.count("api", api_key_id="key_a", status=200, route="/v1/**") == 4
    assert ledger.count("api") <= 5
    assert not ledger.audit()


def test_cgroup_made_again(start, meter, sandbox, keys):
    """The service's cgroup goes and comes back, as at a restart of its unit: metered again."""
    key = keys.new("a")
    path = sandbox.new_cgroup("api")
    port = sandbox.port()
    server = start("python", cgroup=path, ports=[port])
    agent = meter([service("api", [port], path)])
    with Conn(sandbox, port) as c:
        c.ask(ask(key))
    server.stop()
    os.rmdir(sandbox.cgroup / "api")
    sandbox.new_cgroup("api")
    server.start()

    def counted_again():
        with Conn(sandbox, port) as c:
            c.ask(ask(key))
        return agent.ledger().count("api", api_key_id="key_a") >= 2
    wait_for(counted_again, 20, "the new cgroup to be metered")
    ledger = agent.stop()
    assert not ledger.audit()


def test_fast_open(start, meter, sandbox, keys):
    """Row 40: the first request comes in the SYN."""
    with inside_netns(sandbox.netns), open("/proc/sys/net/ipv4/tcp_fastopen", "w") as f:
        f.write("1543")     # both sides, without cookies, and listeners need not ask
    key = keys.new("a")
    server = start("go")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    truth, data = api.new_tally(), ask(key)
    for _ in range(5):
        with sandbox.socket() as s:
            s.sendto(data, 0x20000000, ("127.0.0.1", server.port))      # MSG_FASTOPEN
            s.settimeout(5)
            raw = b""
            while not raw.endswith(b"ok\n"):
                raw += s.recv(4096)
        api.add(truth, ("key_a", "GET", "/v1/**", 200), api.Sums(1, len(data), len(raw)))
    with inside_netns(sandbox.netns), open("/proc/net/netstat", encoding="ascii") as f:
        names, values = [line.split() for line in f if line.startswith("TcpExt")]
    assert int(values[names.index("TCPFastOpenPassive")]) >= 5, "no data came in a SYN"
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


@pytest.mark.long
def test_upload_over_4_gib(start, meter, sandbox, keys):
    """Row 39: counters and lengths of 64 bits."""
    key = keys.new("a")
    server = start("go")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    size, block = (1 << 32) + 12345, bytes(1 << 20)
    head = (f"POST /v1/enrich HTTP/1.1\r\nHost: h\r\nX-API-Key: {key}\r\n"
            f"Content-Length: {size}\r\n\r\n").encode()
    with Conn(sandbox, server.port) as c:
        c.sock.settimeout(60)
        c.send(head)
        left = size
        while left:
            c.send(block[:min(left, len(block))])
            left -= min(left, len(block))
        response = c.responses(["POST"], 1, 60)[0]
        again = c.ask(ask(key))
    ledger = agent.stop()
    assert not differences({
        ("key_a", "POST", "/v1/enrich", 200): api.Sums(1, len(head) + size, response.size),
        ("key_a", "GET", "/v1/**", 200): api.Sums(1, len(ask(key)), again.size)}, ledger, "api")
    assert not ledger.audit()
