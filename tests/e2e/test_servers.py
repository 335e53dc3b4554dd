# SPDX-License-Identifier: Apache-2.0
"""The harness tested against itself, without tallyd: clients and servers tell the same truth."""

from collections import Counter

import pytest

from conftest import ALL_SERVERS
from lib import api
from lib.client import Conn
from lib.load import Load, mix

pytestmark = pytest.mark.parametrize("name", ALL_SERVERS)


def exchange(conn, tally, keys, method, target, key, **kw):
    data = api.request(method, target, key, **kw)
    response = conn.ask(data, method)
    interim = len(conn.raw) - response.size
    row = (keys.id_of(key), method, api.route_of(method, target), response.status)
    api.add(tally, row, api.Sums(1, len(data), response.size + interim))
    return response


def test_api(start, keys, sandbox, name):
    """Every route answers as lib/api.py says, and the log agrees with the client."""
    server = start(name)
    a, b = keys.new("a"), keys.new("b")
    truth = api.new_tally()
    with Conn(sandbox, server.port) as c:
        ask = lambda *args, **kw: exchange(c, truth, keys, *args, **kw)  # noqa: E731
        assert len(ask("POST", "/v1/enrich", a, body=b"x" * 1000).body) == 256
        assert len(ask("POST", "/v1/documents/7/extract", b, chunked=[b"a" * 9, b"bc"]).body) == 512
        assert len(ask("GET", "/v1/files/65536", a).body) == 65536
        assert ask("GET", "/v1/files/0", a).body == b""
        assert len(ask("GET", "/v1/files/1048576", b).body) == 1048576
        assert len(ask("GET", "/chunked/20", a).body) == 320
        assert ask("HEAD", "/v1/files/1000", a).headers["content-length"] == "1000"
        assert ask("GET", "/slow?s=0.05", a).status == 200
        assert ask("GET", "/x", None).status == 200
    with Conn(sandbox, server.port) as c:
        response = exchange(c, truth, keys, "GET", "/close", a)
        assert c.read_to_end() and response.headers.get("content-length") is None
        assert "chunked" not in response.headers.get("transfer-encoding", "")
        assert b"bye\n" in c.raw
    counted = server.witness(api.total(truth).requests)
    assert not api.explain(truth, counted, server.exact, ("client", "server"))


def test_statuses(start, keys, sandbox, name):
    server = start(name)
    key, truth = keys.new("a"), api.new_tally()
    for code in api.STATUSES:
        with Conn(sandbox, server.port) as c:
            assert exchange(c, truth, keys, "GET", f"/status/{code}", key).status == code
    counted = server.witness(len(api.STATUSES))
    assert not api.explain(truth, counted, server.exact, ("client", "server"))


def test_interim_and_upgrade(start, keys, sandbox, name):
    server = start(name)
    key, truth = keys.new("a"), api.new_tally()
    with Conn(sandbox, server.port) as c:
        head = api.request("POST", "/v1/enrich", key, body=b"z" * 300,
                           headers=["Expect: 100-continue"])
        c.send(head[:-300])
        c.read_until(b"100 Continue\r\n")
        c.send(head[-300:])
        assert [r.interim for r in c.responses(["POST"], 1)] == [(100,)]
        if server.sends_early_hints:
            response = exchange(c, truth, keys, "GET", "/early", key)
            assert (response.status, response.interim) == (200, (103,))
    if server.upgrades:
        with Conn(sandbox, server.port) as c:
            c.send(api.request("GET", "/upgrade", key,
                               headers=["Connection: Upgrade", "Upgrade: echo"]))
            assert c.responses(["GET"], 1)[0].status == 101
            c.send(b"hello")
            c.read_until(b"hello")
            c.finish()
            c.read_to_end(3)
    expected = 1 + server.sends_early_hints + server.upgrades
    statuses = Counter()
    for (_, _, _, status), sums in server.witness(expected).items():
        statuses[status] += sums.requests
    assert sum(statuses.values()) == expected and statuses[101] == server.upgrades


@pytest.mark.parametrize("one_per_connection", [False, True], ids=["kept", "single"])
def test_load(start, keys, sandbox, name, one_per_connection):
    """At speed, the generator and the log count the same, row by row."""
    server = start(name)
    load = Load(sandbox, keys, server.port, mix(keys), 64, 3000,
                one_per_connection=one_per_connection)
    truth = load.result()
    assert (api.total(truth).requests, load.lost) == (3000, 0), load.report
    assert not api.explain(truth, server.witness(3000), server.exact, ("client", "server"))
