# SPDX-License-Identifier: Apache-2.0
"""Counted equals answered: per key, method, route and status, in requests and in bytes."""

import base64
import threading
from collections import Counter

import pytest

from conftest import ALL_SERVERS
from lib import api, build, servers
from lib.client import Conn
from lib.load import Load, Template, mix
from lib.sandbox import Sandbox
from lib.tallyd import Tallyd, differences, service

every_server = pytest.mark.parametrize("name", ALL_SERVERS)


def settle(agent, server, truth, sandbox):
    """Stops the agent and compares three witnesses: the client, the server's log, tallyd."""
    counted = server.witness(api.total(truth).requests, 20)
    assert not api.explain(truth, counted, server.exact, ("client", "server"))
    ledger = agent.stop()
    problems = differences(truth, ledger, "api")
    assert not problems, f"{server.name}:\n{problems}"
    assert not ledger.audit()
    for d in ledger.rows("api", attribution="key"):
        assert d["customer_id"] == agent.keys.customer_of(d["api_key_id"])
    return ledger


@every_server
@pytest.mark.parametrize("match", ["cgroup", "ports"])
def test_mix(start, meter, sandbox, keys, name, match):
    """Kept and single connections, all routes and statuses, over windows of a second."""
    templates = mix(keys)
    server = start(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path if match == "cgroup" else None)])
    truth = api.new_tally()
    for single, requests in ((False, 4000), (True, 1000)):
        load = Load(sandbox, keys, server.port, templates, 32, requests, one_per_connection=single)
        for row, sums in load.result().items():
            api.add(truth, row, sums)
        assert load.lost == 0, load.report
    ledger = settle(agent, server, truth, sandbox)
    assert not ledger.gaps() or set(ledger.gaps()) <= {"parked"}


@every_server
def test_statuses_and_key_sources(start, meter, sandbox, keys, name):
    """Every status, and the key from a header, a bearer token, a query parameter."""
    key = keys.new("a")
    server = start(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    truth = api.new_tally()
    ways = (dict(key=key), dict(headers=[f"Authorization: Bearer {key}"]),
            dict(headers=[f"authorization:bearer   {key} "]), "query", dict(key="  " + key + "\t"))
    for code in (200, *api.STATUSES):     # the first 200 makes the key known, also to 401 and 403
        for way in ways:
            target = f"/status/{code}" + (f"?x=1&api_key={key}&y" if way == "query" else "")
            data = api.request("GET", target, **({} if way == "query" else way))
            with Conn(sandbox, server.port) as c:
                response = c.ask(data)
            assert response.status == code
            api.add(truth, ("key_a", "GET", "/status/{code}", code),
                    api.Sums(1, len(data), response.size))
    settle(agent, server, truth, sandbox)


@every_server
def test_big_bodies(start, meter, sandbox, keys, name):
    """Uploads and downloads of megabytes, several at once: super-packets, sendfile, slow readers."""
    names = [keys.new(f"c{i}") for i in range(4)]
    server = start(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    truth, lock = api.new_tally(), threading.Lock()

    def work(key, chunked):
        body = b"0123456789abcdef" * (1 << 17)
        upload = api.request("POST", "/v1/enrich", key, b"" if chunked else body,
                             chunked=[body[:1000], body[:300000], body[1000:]] if chunked else None)
        with Conn(sandbox, server.port, rcvbuf=65536 if chunked else None) as c:
            for data, method, target in ((upload, "POST", "/v1/enrich"),
                                         (api.request("GET", "/v1/files/8388608", key), "GET",
                                          "/v1/files/8388608")):
                response = c.ask(data, method)
                assert response.status == 200
                with lock:
                    api.add(truth, (keys.id_of(key), method, api.route_of(method, target), 200),
                            api.Sums(1, len(data), response.size))

    threads = [threading.Thread(target=work, args=(k, i % 2)) for i, k in enumerate(names)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert api.total(truth).requests == 8
    settle(agent, server, truth, sandbox)


@every_server
def test_pipelined(start, meter, sandbox, keys, name):
    """Sixteen requests in one write, two keys in turn, and again byte by byte: one each."""
    a, b = keys.new("a"), keys.new("b")
    server = start(name)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    requests = [api.request("GET", f"/v1/thing/{i}?q={'z' * i}", (a, b)[i % 2]) for i in range(16)]
    truth = api.new_tally()
    for send in ("at once", "bytewise"):
        with Conn(sandbox, server.port) as c:
            data = b"".join(requests)
            assert c.send_segments([data]) if send == "at once" else c.send_bytewise(data)
            for i, response in enumerate(c.responses(["GET"], 16)):
                api.add(truth, (keys.id_of((a, b)[i % 2]), "GET", "/v1/**", 200),
                        api.Sums(1, len(requests[i]), response.size))
    counted = server.witness(32)
    assert not api.explain(truth, counted, ("requests",), ("client", "server"))
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_ipv6(start, meter, sandbox, keys):
    """IPv6, and IPv4 on an IPv6 socket."""
    key = keys.new("a")
    server = start("go")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    truth = api.new_tally()
    data = api.request("POST", "/v1/enrich", key, b"v6")
    for address in ("::1", "127.0.0.1"):
        with Conn(sandbox, server.port, address) as c:
            for _ in range(3):
                api.add(truth, ("key_a", "POST", "/v1/enrich", 200),
                        api.Sums(1, len(data), c.ask(data, "POST").size))
    settle(agent, server, truth, sandbox)


def test_only_the_service_is_metered(start, meter, sandbox, keys):
    """Another port, another cgroup, and the server's own outbound connections are not counted."""
    key = keys.new("a")
    haproxy = start("haproxy")          # connects out to its origin, which is in the same cgroup
    agent = meter([service("api", haproxy.ports, sandbox.cgroup_path),
                   service("other", [haproxy.origin], sandbox.new_cgroup("empty"))])
    truth = api.new_tally()
    data = api.request("GET", "/v1/x", key)
    with Conn(sandbox, haproxy.port) as c, Conn(sandbox, haproxy.origin) as direct:
        for _ in range(5):
            api.add(truth, ("key_a", "GET", "/v1/**", 200), api.Sums(1, len(data), c.ask(data).size))
            direct.ask(data)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.rows("other")
    assert not ledger.audit()


def test_nested_services_count_once(start, meter, sandbox, keys):
    """A proxy and its origin as two services: each counts its own; cgroup goes before port."""
    key = keys.new("a")
    haproxy = start("haproxy")
    agent = meter([service("front", haproxy.ports, sandbox.cgroup_path),
                   service("origin", [haproxy.origin]),
                   service("everything", [haproxy.port, haproxy.origin + 500])])
    load = Load(sandbox, keys, haproxy.port, [Template("GET", "/v1/x", key)], 8, 500)
    truth = load.result()
    ledger = agent.stop()
    assert not differences(truth, ledger, "front")
    assert ledger.count("origin") == 500
    assert not ledger.rows("everything")
    assert not ledger.audit()


@pytest.mark.parametrize("way", ["glob", "glob, all ports", "executable"])
def test_ways_to_match(start, meter, sandbox, keys, way):
    """A cgroup named by a glob; a server found by the file that it runs."""
    key = keys.new("a")
    server = start("go", cgroup=sandbox.new_cgroup("api-1"))
    entry = service("api", None if "all" in way else server.ports, sandbox.cgroup_path + "/api-*")
    if way == "executable":
        entry["match"] = {"ports": "all", "executable": str(build.go_api())}
    agent = meter([entry])
    with Conn(sandbox, server.port) as c:
        for _ in range(3):
            c.ask(api.request("GET", "/v1/x", key))
    ledger = agent.stop()
    assert ledger.count("api", api_key_id="key_a") == 3, agent.log()
    assert not ledger.audit()


def test_network_of_the_host(keys):
    """Services on the host's own network, as pods with hostNetwork are: each is told by its cgroup, though
    all see the same ports; who is in no tagged cgroup is not metered."""
    key = keys.new("a")
    with Sandbox("hostnet", netns=False) as sandbox:
        names = ("first", "second", "untagged")
        made = {n: servers.start("python", sandbox, keys, proxied=False, cgroup=sandbox.new_cgroup(n))
                for n in names}
        agent = Tallyd(sandbox, keys, [service(n, None, f"{sandbox.cgroup_path}/{n}")
                                       for n in names[:2]]).start()
        for i, server in enumerate(made.values()):
            with Conn(sandbox, server.port) as c:
                for _ in range(3 + i):
                    c.ask(api.request("GET", "/v1/x", key))
        ledger = agent.stop()
    assert [ledger.count(n, api_key_id="key_a") for n in names] == [3, 4, 0], agent.log()
    assert ledger.count() == 7
    assert not ledger.audit()


def test_basic_credentials(start, meter, sandbox, keys):
    """The user part of Basic is the key; the password is nobody's business."""
    key = keys.new("a")
    server = start("go")
    agent = meter([service("api", server.ports, sandbox.cgroup_path,
                           key=[{"header": "Authorization", "scheme": "Basic"}])])
    for i in range(4):
        word = base64.b64encode(f"{key}:{'secret' * i}".encode()).decode()
        with Conn(sandbox, server.port) as c:
            c.ask(api.request("GET", "/v1/x", headers=[f"Authorization: Basic {word}"]))
    ledger = agent.stop()
    assert ledger.count("api", api_key_id="key_a", status=200) == 4, ledger.unattributed()
    assert not ledger.audit()


def test_tainted_owner(start, meter, sandbox, keys):
    """`tainted: owner` charges what follows an ambiguous request to the last clean key."""
    a, m = keys.new("a"), keys.new("m")
    server = start("go")        # takes two equal lengths
    agent = meter([service("api", server.ports, sandbox.cgroup_path, tainted="owner")])
    with Conn(sandbox, server.port) as c:
        c.ask(api.request("GET", "/v1/x", a))
        c.ask(api.request("POST", "/v1/enrich", m, b"abc", ["Content-Length: 3"]), "POST")
        c.ask(api.request("GET", "/v1/x", m))
    ledger = agent.stop()
    assert ledger.count("api", status=200) == ledger.count("api", api_key_id="key_a") == 3
    assert not ledger.audit()


# (method, path, octets of the endpoint's answer), as nginx reads them
SPELLINGS = [("POST", p, 256) for p in (
    "/v1/enrich", "//v1//enrich", "/v1///enrich?x=//", "/v1%2fenrich", "/%2Fv1%2F/enrich",
    "/x//../v1/enrich", "/x/..%2fv1%2Fenrich", "/x%2f%2e%2E/v1//enrich", "/%76%31//%65nrich")] + [
    ("POST", p, 512) for p in (
        "/v1/documents/7/extract", "//v1/documents/7/extract", "/v1/documents//7/extract",
        "/v1/documents%2F7%2fextract", "/v1//documents/x//../7%2Fextract")]


@pytest.mark.parametrize("paths", [{}, {"paths": {"merge_slashes": False, "decode_slash": False}}])
def test_spellings_of_a_path(start, meter, sandbox, keys, paths):
    """Whatever a client writes to reach an endpoint of nginx is counted under its route, unless
    the configuration says that the server reads slashes otherwise."""
    key = keys.new("a")
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path, **paths)])
    for method, path, octets in SPELLINGS:
        with Conn(sandbox, server.port) as c:
            answer = c.ask(api.request(method, path, key), method)
        assert (answer.status, len(answer.body)) == (200, octets), path
    logged = server.witness(len(SPELLINGS), 20)
    ledger = agent.stop()
    routes = {256: "/v1/enrich", 512: "/v1/documents/{id}/extract"}
    for octets, route in routes.items():
        assert ledger.count("api", api_key_id="key_a", route=route, status=200) == \
            (1 if paths else len([s for s in SPELLINGS if s[2] == octets])), ledger.tally("api")
    assert api.total(ledger.tally("api")) == api.total(logged)
    assert not ledger.audit()


@pytest.mark.parametrize("one_per_connection", [False, True])
def test_more_rows_than_the_maps_hold(start, meter, sandbox, keys, one_per_connection):
    """1,000 keys on 100 connections, or on 30,000, and room for 1,024 rows: totals stay exact; who
    overflows is not guessed."""
    templates = [Template("GET", "/status/200", keys.new(f"k{i}")) for i in range(1000)]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)], window="10s",
                  agent={"limits": {"connection_rows": 1024, "rows": 1024}})
    load = Load(sandbox, keys, server.port, templates, 100, 30_000,
                one_per_connection=one_per_connection)
    truth = load.result()
    ledger = agent.stop(60)
    assert api.total(ledger.tally("api")) == api.total(truth), ledger.unattributed("api")
    assert ledger.gaps().get("connection-rows-full"), ledger.gaps()
    for row, sums in ledger.tally("api", attribution="key").items():
        assert sums.requests <= truth[row].requests
    assert not ledger.audit()


def test_more_keys_than_the_dictionary_holds(start, meter, sandbox, keys):
    """11 times as many: those beyond the dictionary are counted without a name, and said to be."""
    templates = [Template("GET", "/status/200", keys.new(f"k{i}")) for i in range(1000)]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)],
                  agent={"limits": {"keys": 1024}})
    answered = api.total(Load(sandbox, keys, server.port, templates, 20, 20_000).result()).requests
    for part in range(10):
        more = [Template("GET", "/status/200", f"uncatalogued-{part}-{i}") for i in range(1000)]
        load = Load(sandbox, keys, server.port, more, 20, 4_000)
        answered += api.total(load.result()).requests
    ledger = agent.stop(60)
    assert ledger.count("api") == answered, ledger.unattributed("api")
    assert ledger.count("api", attribution="dictionary_full") > 0
    assert ledger.gaps().get("dictionary-full"), ledger.gaps()
    assert not ledger.audit()


GUESSES, ROOM = 1024, 65536     # TALLY_GUESSES; agent.limits.keys by default
UNDER_WAY = 10                  # requests that guess() has without an answer


def guess(sandbox, port, n, keys=1 << 30):
    """So many requests, with so many keys, answered 404 by who has not looked at them."""
    with Conn(sandbox, port) as c:
        for first in range(0, n, UNDER_WAY):
            c.send(b"".join(api.request("GET", "/status/404", f"guess-{i % keys}")
                            for i in range(first, first + UNDER_WAY)))
            answers, tail = 0, b""
            while answers < UNDER_WAY:
                data = c.sock.recv(1 << 16)
                assert data, "the server closed"
                text = tail + data
                answers += text.count(b"HTTP/1.1 404")
                tail = text[-11:]


@pytest.mark.parametrize("room, requests", [(ROOM, 200_000), (1024, 40_000)])
def test_guessed_keys(start, meter, sandbox, keys, room, requests):
    """A flood of keys that nobody checks takes no customer's place, and makes few rows. In the smaller
    dictionary guesses have to make room for others."""
    old, new = keys.new("old"), [keys.new(f"new{i}") for i in range(20)]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)],
                  agent={"limits": {"keys": room}})
    with Conn(sandbox, server.port) as c:
        c.ask(api.request("GET", "/v1/x", old))
    guess(sandbox, server.port, requests)
    guess(sandbox, server.port, requests, 5 * GUESSES)
    for key in (old, *new):
        with Conn(sandbox, server.port) as c:
            for _ in range(10):
                c.ask(api.request("GET", "/v1/x", key))
    ledger = agent.stop(60)
    for i in range(20):
        assert ledger.count("api", api_key_id=f"key_new{i}", status=200) == 10
    assert ledger.count("api", api_key_id="key_old", status=200) == 11
    guessed = Counter(d["epoch"] for d in ledger.rows("api", key_ref="hmac"))
    # and those under way when the window changed: their keys were known when they were asked
    assert guessed and max(guessed.values()) <= min(GUESSES, room // 4) + UNDER_WAY, guessed
    assert ledger.count("api", status=404) == 2 * requests
    assert ledger.gaps()["guesses-full"] == ledger.count("api", attribution_detail="unverified-key")
    assert not ledger.gaps().get("dictionary-full")
    assert not ledger.audit()


def test_unknown_rejected_absent_keys(start, meter, sandbox, keys):
    """An uncatalogued key that was accepted gets a stable id; a rejected one no row of its own."""
    known = keys.new("known")
    server = start("nginx")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])

    def ask(target, key, times=1):
        for _ in range(times):
            with Conn(sandbox, server.port) as c:
                c.ask(api.request("GET", target, key))
    ask("/v1/x", known, 3)
    ask("/v1/x", "stranger-but-accepted", 4)
    for i in range(50):
        ask("/status/401", f"guess-{i}")
    ask("/v1/x", None, 2)
    ask("/v1/x", "", 2)
    ledger = agent.stop()
    keyed = {d["api_key_id"]: d for d in ledger.rows("api", attribution="key")}
    assert len(keyed) == 2 and keyed["key_known"]["customer_id"] == "cus_known"
    stranger = next(d for k, d in keyed.items() if k != "key_known")
    assert stranger["api_key_id"].startswith("kfp_") and stranger["key_ref"] == "hmac"
    asked = ledger.count("api", attribution="key", api_key_id=stranger["api_key_id"])
    assert (asked, stranger["customer_id"]) == (4, None)  # a window may close amid the four
    assert ledger.count("api", status=401) == 50
    assert ledger.count("api", status=200, attribution="anonymous") == 4
    text = agent.usage.read_text() + agent.log()
    assert "guess-" not in text and "stranger" not in text and known not in text
    assert not ledger.audit()


def test_response_header_names_the_customer(start, meter, sandbox, keys):
    """A service that authenticates by session: the key is in the answer."""
    server = start("node")
    key = keys.new("named", text="ETag-like")
    agent = meter([service("api", server.ports, sandbox.cgroup_path,
                           key=[{"response_header": "X-Customer"}])])
    with Conn(sandbox, server.port) as c:
        for _ in range(3):
            c.ask(api.request("GET", f"/customer/{key}", None))
    ledger = agent.stop()
    assert ledger.count("api", api_key_id="key_named", status=200) == 3
    assert not ledger.audit()
