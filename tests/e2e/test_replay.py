# SPDX-License-Identifier: Apache-2.0
"""`tallyd replay`: a capture of real traffic gives what the server's own log says, and the agent's
records; also when the capture is out of order, has packets twice, or lacks some."""

import json
import random
import struct
import subprocess

import pytest

from lib import api, capture
from lib.client import Conn
from lib.ledger import Ledger
from lib.load import Load, mix
from lib.sandbox import wait_for
from lib.tallyd import BINARY, Tallyd, differences, service


def run(agent, path, *words, code=0):
    """The ledger that a replay prints, and what it says beside it."""
    done = subprocess.run([str(BINARY), "replay", "--config", str(agent.config_path), *words,
                           str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return Ledger([json.loads(line) for line in done.stdout.splitlines()]), done.stderr


def audit(agent, ledger_path):
    done = agent.command("audit", "--file", str(ledger_path))
    assert done.returncode == 0, done.stdout + done.stderr


def all_closed(packets):
    """Every connection that was begun has a FIN from both sides, or a RST."""
    ends = {}
    for p in packets:
        tcp = capture.Tcp.of(p)
        ends.setdefault(frozenset((tcp.source, tcp.target)), set()).update(
            {0, 1} if tcp.flags & 4 else {tcp.source < tcp.target} if tcp.flags & 1 else set())
    return bool(ends) and all(len(sides) == 2 for sides in ends.values())


class Traffic:
    """Real traffic of a real server, with three witnesses: its log, the agent, and a capture."""

    def __init__(self, sandbox, keys, server, agent=None, requests=2000, options=(),
                 templates=None):
        self.sandbox, self.keys, self.server = sandbox, keys, server
        self.templates = templates or mix(keys)
        self.agent = agent or Tallyd(sandbox, keys, [service("api", server.ports)])
        if not agent:
            self.agent.write_config()
        self.tcpdump = capture.Tcpdump(sandbox, server.ports, options=options)
        self.truth = api.new_tally()
        for single, share in ((False, 4), (True, 1)):
            load = Load(sandbox, keys, server.port, self.templates, 8, requests * share // 5,
                        one_per_connection=single)
            for row, sums in load.result().items():
                api.add(self.truth, row, sums)
            assert load.lost == 0
        self.path = self.tcpdump.path

    def stop(self):
        self.seen = self.server.witness(api.total(self.truth).requests, 20)
        assert not api.explain(self.truth, self.seen, self.server.exact, ("client", "server"))
        captured, dropped = self.tcpdump.stop(all_closed)
        assert captured and not dropped, "tcpdump could not keep up"
        return self

    def compare(self, ledger, what):
        problems = differences(self.seen, ledger, "api")
        assert not problems, f"{what}:\n{problems}"
        assert not ledger.audit(), what


def test_capture_agrees_with_log_and_agent(start, meter, sandbox, keys):
    """Per key, route, method and status, requests and octets: log, agent and capture are one."""
    server = start("nginx")
    templates = mix(keys)       # in the catalog before the agent reads it
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    traffic = Traffic(sandbox, keys, server, agent, templates=templates).stop()
    ledger, told = run(agent, traffic.path)
    traffic.compare(ledger, told)
    counted = agent.stop()
    traffic.compare(counted, "the agent's records")
    assert not api.explain(counted.tally("api"), ledger.tally("api"), names=("agent", "replay"))
    for data in ledger.rows("api", attribution="key"):
        assert data["customer_id"] == keys.customer_of(data["api_key_id"])
    usage = sandbox.dir / "replayed.ndjson"
    usage.write_text("".join(json.dumps(e) + "\n" for e in ledger.usage + ledger.control))
    again, _ = run(agent, traffic.path)
    assert [e for e in again.usage] == [e for e in ledger.usage], "a replay can be repeated"


def test_books_of_a_replay_balance(start, sandbox, keys):
    """`tallyd audit` finds nothing in what a replay prints; neither secret nor key is in it."""
    server = start("nginx", proxied=False)
    traffic = Traffic(sandbox, keys, server, requests=500).stop()
    usage = sandbox.dir / "replayed.ndjson"
    with open(usage, "wb") as out:
        subprocess.run([str(BINARY), "replay", "-c", str(traffic.agent.config_path), "-q",
                        str(traffic.path)], stdout=out, check=True, timeout=60)
    audit(traffic.agent, usage)
    text = usage.read_text()
    assert not any(key in text for key in keys._id_of)
    table = subprocess.run([str(BINARY), "replay", "-c", str(traffic.agent.config_path), "-o",
                            "table", str(traffic.path)], capture_output=True, text=True, timeout=60,
                           check=True)
    total = sum(int(line[78:87]) for line in table.stdout.splitlines()[1:])
    assert total == api.total(traffic.seen).requests


def reordered(packets, rng, reach=6):
    """Each packet comes up to `reach` places later; the clock goes on as it was."""
    order = sorted(range(len(packets)), key=lambda i: i + rng.random() * reach)
    return [packets[j]._replace(seconds=p.seconds, nanos=p.nanos)
            for p, j in zip(packets, order)]


def repeated(packets, rng):
    """Some twice, as a bridge shows them, some again a few packets later."""
    out, again = [], []
    for p in packets:
        out.append(p)
        if rng.random() < 0.2:
            out.append(p)
        if rng.random() < 0.1:
            again.append(p)
        if len(again) > 3:
            out.append(again.pop(0)._replace(seconds=p.seconds, nanos=p.nanos))
    return out


def in_pieces(packets, rng):
    """Payload in segments as small as one octet."""
    out = []
    for p in packets:
        size = len(capture.Tcp.of(p).payload)
        out += capture.cut_segment(p, rng.randrange(1, size)) if size > 1 else [p]
    return out



CHANGES = {"reordered": reordered, "repeated": repeated, "in pieces": in_pieces,
           "in pieces, reordered": lambda p, rng: reordered(in_pieces(p, rng), rng)}


@pytest.fixture
def traffic(start, sandbox, keys):
    return Traffic(sandbox, keys, start("nginx"), requests=1000).stop()


def test_changed_captures_say_the_same(traffic, sandbox):
    """Another order, packets twice, other pieces, other link layers: the same books."""
    packets, seed = capture.read(traffic.path), random.randrange(1 << 32)
    print(f"seed {seed}")
    for name, change in CHANGES.items():
        changed = capture.write(sandbox.dir / "changed.pcap", change(packets, random.Random(seed)))
        ledger, told = run(traffic.agent, changed)
        traffic.compare(ledger, f"{name}, seed {seed}: {told}")
    for link in (0, 101, 108, 113, 228, 276):
        changed = capture.write(sandbox.dir / "link.pcap",
                                [capture.with_link(p, link) for p in packets], link)
        traffic.compare(run(traffic.agent, changed)[0], f"link type {link}")
    for tags in ((5,), (7, 9)):
        changed = capture.write(sandbox.dir / "vlan.pcap",
                                [capture.with_vlan(p, *tags) for p in packets])
        traffic.compare(run(traffic.agent, changed)[0], f"tags {tags}")


def test_lost_packets_lose_only_what_they_held(traffic, sandbox):
    """Packets missing from the capture: nothing is booked to a key that did not earn it, what a gap
    hides is said, and connections that lost nothing are exact."""
    packets, seed = capture.read(traffic.path), random.randrange(1 << 32)
    rng = random.Random(seed)
    port = traffic.server.port
    kept = [p for p in packets if not (capture.Tcp.of(p).payload and rng.random() < 0.02)]
    assert len(kept) < len(packets)
    ledger, told = run(traffic.agent, capture.write(sandbox.dir / "lossy.pcap", kept))
    for row, sums in ledger.tally("api", aborted=False, attribution="key").items():
        assert sums.requests <= traffic.seen[row].requests, f"seed {seed}: {row}"
    assert not ledger.audit(), f"seed {seed}"
    whole = whole_connections(packets, kept, port)
    only = [p for p in packets if frozenset(peer(p, port)) in whole]
    exact, _ = run(traffic.agent, capture.write(sandbox.dir / "whole.pcap", only))
    for row, sums in exact.tally("api", attribution="key").items():
        assert ledger.tally("api")[row].requests >= sums.requests, f"seed {seed}: {row}: {told}"


def peer(packet, port):
    tcp = capture.Tcp.of(packet)
    return (tcp.source if tcp.target == port else tcp.target,)


def whole_connections(packets, kept, port):
    count = lambda some, who: sum(frozenset(peer(p, port)) == who for p in some)  # noqa: E731
    everyone = {frozenset(peer(p, port)) for p in packets}
    return {who for who in everyone if count(packets, who) == count(kept, who)}


def test_lost_acks_change_nothing(traffic, sandbox):
    """Packets without payload, SYN or FIN are not needed."""
    packets = [p for p in capture.read(traffic.path)
               if capture.Tcp.of(p).payload or capture.Tcp.of(p).flags & 7]
    ledger, told = run(traffic.agent, capture.write(sandbox.dir / "bare.pcap", packets))
    traffic.compare(ledger, told)


def test_begins_midway(start, sandbox, keys):
    """What began before the capture is midstream until a boundary is proven, then exact."""
    server, key = start("nginx"), keys.new("a")
    agent = Tallyd(sandbox, keys, [service("api", server.ports)])
    agent.write_config()
    data = api.request("GET", "/v1/x", key)
    with Conn(sandbox, server.port) as c:
        c.ask(data)
        tcpdump = capture.Tcpdump(sandbox, server.ports)
        sizes = [c.ask(data).size for _ in range(5)]
    tcpdump.stop(all_closed)
    ledger, told = run(agent, tcpdump.path)
    assert ledger.count("api") == 5, told
    assert ledger.count("api", attribution="midstream") <= 1, told
    assert ledger.count("api", api_key_id="key_a") >= 4, told
    assert sum(d["response_bytes"] for d in ledger.rows("api")) == sum(sizes)
    assert "1 of them without their beginning" in told


def test_begins_behind_a_head(start, sandbox, keys):
    """The capture's first answer is that to a HEAD before it: no body comes, whatever length it names."""
    server, key = start("go"), keys.new("a")
    agent = Tallyd(sandbox, keys, [service("api", server.ports)])
    agent.write_config()
    with Conn(sandbox, server.port) as c:
        c.send(api.request("HEAD", "/gate", key))
        tcpdump = capture.Tcpdump(sandbox, server.ports)
        (sandbox.dir / "files" / "gate").touch()
        c.responses(["HEAD"], 1)
        for _ in range(12):
            c.ask(api.request("GET", "/v1/x", key))
    tcpdump.stop(all_closed)
    ledger, told = run(agent, tcpdump.path)
    assert 12 <= ledger.count("api", status=200) <= 13, told
    assert ledger.count("api", attribution="midstream") <= 2, told
    assert ledger.count("api", api_key_id="key_a") >= 11, told


def test_ports_are_used_again(start, sandbox, keys):
    """The same 4-tuple, one connection after the other, also after a reset: one request each."""
    server = start("nginx")
    agent = Tallyd(sandbox, keys, [service("api", server.ports)])
    names = [keys.new(f"p{i}") for i in range(6)]
    agent.write_config()
    tcpdump = capture.Tcpdump(sandbox, server.ports)
    source = sandbox.port()
    for i, key in enumerate(names):
        data = api.request("GET", f"/v1/thing/{i}", key)
        sock = sandbox.socket()
        sock.setsockopt(1, 2, 1)    # SOL_SOCKET, SO_REUSEADDR
        wait_for(lambda s=sock: try_bind(s, source), 20, "the port")
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(data)
        got = b""
        while b"ok" not in got:
            got += sock.recv(4096)
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))     # SO_LINGER: a reset
        sock.close()
    tcpdump.stop(all_closed)
    ledger, told = run(agent, tcpdump.path)
    for i in range(6):
        assert ledger.count("api", api_key_id=f"key_p{i}") == 1, told
    assert "6 connections, 0 of them" in told


def try_bind(sock, port):
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_short_captures_are_enough_for_bodies(start, sandbox, keys):
    """Heads alone (tcpdump -s): bodies of known length are skipped by it, and the books are exact."""
    server, key = start("nginx"), keys.new("a")
    agent = Tallyd(sandbox, keys, [service("api", server.ports)])
    agent.write_config()
    tcpdump = capture.Tcpdump(sandbox, server.ports, options=("-s", "1200"))
    upload = api.request("POST", "/v1/enrich", key, b"x" * 100000)
    with Conn(sandbox, server.port) as c:
        sizes = [c.ask(upload, "POST").size, c.ask(api.request("GET", "/v1/files/1048576", key)).size]
    tcpdump.stop(all_closed)
    ledger, told = run(agent, tcpdump.path)
    assert ledger.count("api", api_key_id="key_a") == 2, told
    assert sum(d["response_bytes"] for d in ledger.rows("api")) == sum(sizes)
    assert sum(d["request_bytes"] for d in ledger.rows(route="/v1/enrich")) == len(upload)
    assert "cut short" in told


def test_head_and_body_in_a_segment_that_was_cut(start, sandbox, keys):
    """The whole head was captured, and some of its body: under its key, with all of its octets."""
    server, key = start("nginx"), keys.new("a")
    agent = Tallyd(sandbox, keys, [service("api", server.ports)])
    agent.write_config()
    tcpdump = capture.Tcpdump(sandbox, server.ports, options=("-s", "2048"))
    bare = api.request("POST", "/v1/enrich", key, b"x" * 4000)
    upload = bare.replace(b"\r\n", b"\r\nX-Pad: " + b"p" * (1190 + 4000 - len(bare) - 9) + b"\r\n", 1)
    assert upload.index(b"\r\n\r\n") + 4 == 1190
    with Conn(sandbox, server.port) as c:
        for _ in range(3):
            c.ask(upload, "POST")
    tcpdump.stop(all_closed)
    ledger, told = run(agent, tcpdump.path)
    assert "cut short" in told
    assert ledger.count("api", api_key_id="key_a") == ledger.count("api") == 3, told
    assert sum(d["request_bytes"] for d in ledger.rows("api")) == 3 * len(upload)


def test_ipv6(start, sandbox, keys):
    server, key = start("nginx"), keys.new("a")
    agent = Tallyd(sandbox, keys, [service("api", server.ports)])
    agent.write_config()
    tcpdump = capture.Tcpdump(sandbox, server.ports)
    with Conn(sandbox, server.port, "::1") as c:
        for _ in range(3):
            c.ask(api.request("GET", "/v1/x", key))
    tcpdump.stop(lambda packets: len(packets) >= 13)
    ledger, told = run(agent, tcpdump.path)
    assert ledger.count("api", api_key_id="key_a") == 3, told


def test_bad_input(traffic, sandbox, tmp_path):
    """No file, no capture, half a capture, a filter or service that is none: said, with a code."""
    agent, raw = traffic.agent, traffic.path.read_bytes()

    def write(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name
    for path, words, code, text in (
            (tmp_path / "none.pcap", (), 65, "No such file"),
            (write("empty", b""), (), 65, "truncated"),
            (write("text", b"this is no capture, whatever it is called\n" * 9), (), 65,
             "unknown file format"),
            (write("wifi", capture.header(105)), (), 65, "link type 105"),
            (traffic.path, ("-f", "tcp port http or"), 65, "syntax"),
            (traffic.path, ("-s", "apis"), 78, "no service is called apis"),
            (traffic.path, ("-o", "tabel"), 64, "but ndjson or table")):
        _, told = run(agent, path, *words, code=code)
        assert text in told, told
    half = raw[:len(raw) // 2 - 3]
    ledger, told = run(agent, write("half", half), code=65)
    assert "damaged after packet" in told and "was metered" in told
    assert 0 < ledger.count("api") < api.total(traffic.seen).requests
    assert not ledger.audit()


def test_services_that_share_a_port(traffic, sandbox, keys):
    """Two cgroups, one port: a capture cannot tell; --service chooses."""
    ports = traffic.server.ports
    agent = Tallyd(sandbox, keys, [service("one", ports, "/a"), service("two", ports, "/b")])
    agent.write_config()
    _, told = run(agent, traffic.path, code=78)
    assert "services one and two share ports" in told and "--service" in told
    ledger, _ = run(agent, traffic.path, "--service", "two")
    assert ledger.count("two") == api.total(traffic.seen).requests
