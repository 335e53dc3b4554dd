# SPDX-License-Identifier: Apache-2.0
"""What every kernel must count right, with one agent: small enough for an emulated machine."""

from lib import api, servers
from lib.client import Conn
from lib.load import Load, mix
from lib.tallyd import service
from test_counting import settle

IPPROTO_MPTCP = 262


def pieces(data, n):
    return [data[i:i + n] for i in range(0, len(data), n)]


def ask(truth, sandbox, port, row, segments):
    """One exchange on a connection of its own, its request in these segments."""
    with Conn(sandbox, port) as c:
        assert c.send_segments(segments)
        response = next(iter(c.responses([row[1]], 1)))
    assert response.status == row[3]
    api.add(truth, row, api.Sums(1, sum(map(len, segments)), response.size))


def test_other_kernel(start, meter, sandbox, keys):
    """
    Load on many connections, then heads in odd pieces, chunked uploads cut anywhere, pipelining,
    a forged request in a body. On 6.1 a loop that the verifier misjudged counts wrong, silently.
    """
    a, b = keys.new("a"), keys.new("b")
    templates = mix(keys)
    server = start("nginx")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    truth = api.new_tally()
    for single, requests in ((False, 1000), (True, 200)):
        load = Load(sandbox, keys, server.port, templates, 16, requests, one_per_connection=single)
        for row, sums in load.result().items():
            api.add(truth, row, sums)
        assert load.lost == 0, load.report
    row = ("key_a", "POST", "/v1/enrich", 200)
    forged = api.request("GET", "/v1/enrich", b)
    body = forged + b"0123456789abcdef" * 100
    chunked = api.request("POST", "/v1/enrich", a, chunked=[body[:7], body[7:900], body[900:]])
    sized = api.request("POST", "/v1/enrich", a, body)
    for n in (1, 2, 3, 5, 7, 8, 9, 16, 31, 1023, 1024, 1025):
        head = sized.index(b"\r\n\r\n") + 4
        ask(truth, sandbox, server.port, row, pieces(sized[:head + 20], n) + [sized[head + 20:]])
        ask(truth, sandbox, server.port, row, pieces(chunked[:400], n) + [chunked[400:]])
    requests = [api.request("GET", f"/v1/thing/{i}?q={'z' * i}", (a, b)[i % 2]) for i in range(16)]
    with Conn(sandbox, server.port) as c:
        assert c.send_segments([b"".join(requests)])
        for i, response in enumerate(c.responses(["GET"], 16)):
            api.add(truth, (keys.id_of((a, b)[i % 2]), "GET", "/v1/**", 200),
                    api.Sums(1, len(requests[i]), response.size))
    settle(agent, server, truth, sandbox)


def test_other_kernel_mptcp(sandbox, meter, keys):
    """Subflows are recognised, and ordinary connections of the same listener are not taken for them."""
    key = keys.new("a")
    server = servers.start("python", sandbox, keys, env={"MPTCP": "1"})
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    data, octets = api.request("GET", "/v1/x", key), {}
    for proto in (0, IPPROTO_MPTCP):
        with Conn(sandbox, server.port, proto=proto) as c:
            octets[proto] = sum(len(data) + c.ask(data).size for _ in range(10))
    ledger = agent.stop()
    (sums,) = ledger.tally("api").values()
    assert sums.requests == 10 and sums.request_bytes + sums.response_bytes == octets[0]
    assert ledger.count("api", api_key_id="key_a", status=200) == 10
    assert ledger.unparsed_bytes() == octets[IPPROTO_MPTCP]
    assert not ledger.audit()
