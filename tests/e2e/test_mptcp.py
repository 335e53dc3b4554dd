# SPDX-License-Identifier: Apache-2.0
"""A subflow of MPTCP is counted in bytes, and never framed: what TCP took is not what the server reads.

Ordinary connections of a listener that speaks MPTCP, which are most, are metered as everywhere.
"""

import json
import re
import subprocess

import pytest

from lib import api, servers
from lib.client import Conn
from lib.decoy import RawMptcp
from lib.sandbox import VETH_SERVER, need_program, run, wait_for
from lib.tallyd import differences, service
from test_decoy import answers, ask
from test_vm import IPPROTO_MPTCP

pytestmark = pytest.mark.parametrize("sandbox", ["veth"], indirect=True)
LISTENERS = ("python", "go")
SECOND_ADDRESS = "10.77.0.3"
REQUESTS = 10


@pytest.fixture
def listen(sandbox, keys):
    """listen("go"): that server; it listens with MPTCP."""
    def start(name):
        if name == "go":
            text = subprocess.run([need_program("go"), "version"], capture_output=True, text=True,
                                  check=True).stdout
            if tuple(map(int, re.search(r"go(\d+)\.(\d+)", text).groups())) < (1, 24):
                pytest.skip("net/http of this Go does not listen with MPTCP by default")
        return servers.start(name, sandbox, keys, env={"MPTCP": "1"})
    return start


def of_mptcp(ledger):
    return sum(c["kernel"]["unparsed"].get("mptcp", 0) for c in ledger.controls)


def warnings_of(agent):
    done = agent.command("status", "--config", str(agent.config_path), "-o", "json")
    assert done.returncode == 0, done.stderr
    return {w["what"]: w["text"] for w in json.loads(done.stdout)["warnings"]}


@pytest.mark.parametrize("early", ("", "data with the handshake"))
@pytest.mark.parametrize("name", LISTENERS)
def test_old_data_with_another_key(listen, meter, sandbox, keys, name, early):
    """TCP acknowledges requests that the server never sees: nobody is charged for them."""
    real, fake = keys.new("real"), keys.new("fake")
    server = listen(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    with RawMptcp(sandbox, server.port, first=ask(0, real) if early else b"") as c:
        if not early:
            c.real(ask(0, real))
        answers(c, 1)
        for _ in range(REQUESTS):
            c.old(ask(0, fake))
        for i in range(REQUESTS):
            c.real(ask(i, real))
        answers(c, 1 + REQUESTS)
        passed = c.next + len(c.got)
        wait_for(lambda: "mptcp" in warnings_of(agent), 10, "the warning of MPTCP")
    assert "multipathtcp=0" in warnings_of(agent)["mptcp"]
    ledger = agent.stop()
    assert {k for k, *_ in server.witness()} <= {"key_real"}, "the decoys reached the server: none are"
    assert ledger.count("api") == 0, ledger.tally("api")
    assert of_mptcp(ledger) == passed == ledger.unparsed_bytes()
    assert not ledger.audit()


def talk(conn, key):
    """Exchanges of several sizes. Returns their octets."""
    passed = 0
    for size in (0, 100, 300000):
        for method, data in (("POST", api.request("POST", "/v1/enrich", key, b"u" * size)),
                             ("GET", ask(1, key))):
            passed += len(data) + conn.ask(data, method).size
    return passed


@pytest.mark.parametrize("subflows", (1, 2))
@pytest.mark.parametrize("name", LISTENERS)
def test_client_of_the_kernel(listen, meter, sandbox, keys, name, subflows):
    """No octet of an honest one is missing, whatever subflow it took, and none is billed."""
    key = keys.new("real")
    for ns in (sandbox.netns, sandbox.netns_client):
        run(["ip", "-n", ns, "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2"])
    if subflows == 2:
        run(["ip", "-n", sandbox.netns_client, "addr", "add", SECOND_ADDRESS + "/24", "dev", "veth0"])
        run(["ip", "-n", sandbox.netns_client, "mptcp", "endpoint", "add", SECOND_ADDRESS,
             "dev", "veth0", "subflow"])
    server = listen(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    with Conn(sandbox, server.port, VETH_SERVER, client_side=True, proto=IPPROTO_MPTCP) as c:
        passed = talk(c, key)
    ledger = agent.stop()
    assert ledger.count("api") == 0, ledger.tally("api")
    assert of_mptcp(ledger) >= passed       # data may come on two subflows
    assert of_mptcp(ledger) == ledger.unparsed_bytes()
    assert not ledger.audit()


@pytest.mark.parametrize("proto", (0, IPPROTO_MPTCP), ids=("tcp", "mptcp"))
def test_open_before_the_agent(listen, meter, sandbox, keys, proto):
    key = keys.new("real")
    server = listen("python")
    with Conn(sandbox, server.port, VETH_SERVER, client_side=True, proto=proto) as c:
        c.ask(ask(0, key))
        agent = meter([service("api", server.ports, sandbox.cgroup_path)])
        passed = sum(len(ask(i, key)) + c.ask(ask(i, key)).size for i in range(REQUESTS))
    ledger = agent.stop()
    if proto:
        assert ledger.count("api") == 0, ledger.tally("api")
        assert of_mptcp(ledger) == passed
    else:
        assert ledger.count("api", api_key_id="key_real", status=200) >= REQUESTS - 1
        assert of_mptcp(ledger) == 0
    assert not ledger.audit()


@pytest.mark.parametrize("kind", ("tcp", "falls back"))
@pytest.mark.parametrize("name", LISTENERS)
def test_ordinary_connections(listen, meter, sandbox, keys, name, kind):
    """A client that speaks plain TCP, and one that asks for MPTCP and does not go on with it."""
    key = keys.new("real")
    server = listen(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    if kind == "tcp":
        with Conn(sandbox, server.port, VETH_SERVER, client_side=True) as c:
            talk(c, key)
        answered = 6
    else:
        with RawMptcp(sandbox, server.port, falls_back=True) as c:
            for i in range(REQUESTS):
                c.real(ask(i, key))
                answers(c, i + 1)
        answered = REQUESTS
    truth = server.witness(answered)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert ledger.count("api", api_key_id="key_real", status=200) == answered
    assert of_mptcp(ledger) == 0
    assert not ledger.audit()
