# SPDX-License-Identifier: Apache-2.0
"""Segments that TCP refuses, repeats, reorders: only what TCP took is billed, once.

In each decoy test the truth is the server's log: it never saw the decoy's key.
"""

import random

import pytest

from lib import api, servers, view
from lib.client import Conn
from lib.decoy import (ACK, PSH, REFUSED, URG, Injector, RawTcp, RawTcp6, destination_options, later_fragment,
                       whole_fragment)
from lib.sandbox import Sandbox
from lib.tallyd import Tallyd, differences, service

veth = pytest.mark.parametrize("sandbox", ["veth"], indirect=True)
PATHS = 5
PARK_PIECES = 32  # TALLY_PARK_PIECES: early octets that are kept per connection


@pytest.fixture
def decoys(start, meter, sandbox, keys):
    """nginx, metered by port at the root: every packet of the host passes the hooks."""
    texts = keys.new("real"), keys.new("fake")
    server = start("nginx", proxied=False)
    server.texts = texts
    server.agent = meter([service("api", server.ports)])
    return server


def ask(path, key):
    return api.request("GET", f"/v1/{path:05d}", key)


def answers_of(conn, methods, count):
    """The first `count` responses, whole: the last one may come in several segments."""
    def whole():
        return [r for r in view.parse(bytes(conn.got), methods, False)[0] if r.complete]

    conn.read_until(lambda _: len(whole()) >= count)
    return whole()


def answers(conn, count):
    return answers_of(conn, ["GET"], count)


def settle(server, answered, tainted=0):
    """All answers are the real key's, but for at most *tainted* that nobody pays for."""
    logged = server.witness(answered)
    assert set(k for k, *_ in logged) == {"key_real"}, "the decoy reached the server: no decoy"
    ledger = server.agent.stop()
    assert ledger.count("api", api_key_id="key_fake") == 0, "the decoy's key was billed"
    assert ledger.count("api", status=200) == answered, ledger.unattributed("api")
    real = ledger.count("api", api_key_id="key_real", status=200)
    assert answered - tainted <= real <= answered, ledger.unattributed("api")
    assert all(d["attribution"] == "tainted" and d["attribution_detail"] == "conflict"
               for d in ledger.rows("api") if d["attribution"] != "key" and d["requests"])
    assert not ledger.audit()
    return ledger


# Segments that TCP refuses: all kinds at once on one server, each with keys of its own -----------

PLACES = ("first", "after", "raw socket")


def refused_first(sandbox, port, kind, real, fake):
    """The decoy comes first, at the very place where the real request then stands."""
    offset, wrong = REFUSED[kind]
    with RawTcp(sandbox, port) as c:
        for i in range(PATHS):
            if i:
                c.segment(c.next + offset, ask(i, fake), **wrong)
            c.real(ask(i, real))
            answers(c, i + 1)
        assert not c.closed
    return PATHS - 1 if offset == 0 else 0


def refused_after(sandbox, port, kind, real, fake):
    """The decoy comes after the real request, at its place: it is old, whatever it says."""
    with RawTcp(sandbox, port) as c:
        for i in range(PATHS):
            place = c.next
            c.real(ask(i, real))
            c.segment(place, ask(i, fake), **REFUSED[kind][1])
            answers(c, i + 1)
    return PATHS if "SYN" in kind else 0    # a SYN takes a place itself


def refused_from_a_raw_socket(sandbox, port, kind, real, fake):
    """The same decoys from a raw socket on the same host, over loopback."""
    offset, wrong = REFUSED[kind]
    with Conn(sandbox, port) as c, Injector(sandbox, c.sock) as injector:
        for i in range(PATHS):
            if i:
                injector.follow()
                injector.segment(ask(i, fake), offset, **wrong)
            c.ask(ask(i, real))
    return PATHS - 1 if offset == 0 else 0


@pytest.fixture(scope="module")
def refused():
    """(the server's log, the ledger, {(place, kind): how many may be tainted}) of all decoys."""
    keys, may_taint = api.Keys(), {}
    play = dict(zip(PLACES, (refused_first, refused_after, refused_from_a_raw_socket)))
    with Sandbox("refused", veth=True) as sandbox:
        names = [(p, k) for p in PLACES for k in REFUSED]
        texts = [[keys.new(f"{i}.{who}") for who in ("real", "fake")] for i in range(len(names))]
        server = servers.start("nginx", sandbox, keys, proxied=False)
        agent = Tallyd(sandbox, keys, [service("api", server.ports)]).start()
        for (place, kind), pair in zip(names, texts):
            may_taint[place, kind] = play[place](sandbox, server.port, kind, *pair)
        logged = server.witness(PATHS * len(names))
        return logged, agent.stop(), may_taint


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("place", PLACES)
def test_refused_segment(refused, place, kind):
    """Row 41: what TCP refuses is never billed, whatever follows it."""
    logged, ledger, may_taint = refused
    name = list(may_taint).index((place, kind))
    real, fake = f"key_{name}.real", f"key_{name}.fake"
    answered = {key: sum(s.requests for row, s in logged.items() if row[0] == key)
                for key in (real, fake)}
    assert answered == {real: PATHS, fake: 0}, "the decoy reached the server: no decoy"
    assert ledger.count("api", api_key_id=fake) == 0, "the decoy's key was billed"
    counted = ledger.count("api", api_key_id=real, status=200)
    assert PATHS - may_taint[place, kind] <= counted <= PATHS, ledger.unattributed("api")


@veth
@pytest.mark.parametrize("longer", (0, 1))
def test_refused_before_the_connection_is_there(decoys, sandbox, longer):
    """Data that comes with the handshake is the listener's when the hook sees it, decoy or not (R9)."""
    real, fake = decoys.texts
    with RawTcp(sandbox, decoys.port, decoy=ask(0, fake) + b"x" * longer, first=ask(0, real)) as c:
        for i in range(1, PATHS):
            answers(c, i)
            c.real(ask(i, real))
        answers(c, PATHS)
    settle(decoys, PATHS, tainted=PATHS)


@veth
def test_repeated_before_the_connection_is_there(decoys, sandbox):
    """The same octets twice are no conflict."""
    real = decoys.texts[0]
    with RawTcp(sandbox, decoys.port, decoy=ask(0, real), first=ask(0, real)) as c:
        answers(c, 1)
    settle(decoys, 1)


def test_refused_segments_leave_the_books_whole(refused):
    _, ledger, may_taint = refused
    assert ledger.count("api", status=200) == PATHS * len(may_taint)
    assert {d["attribution_detail"] for d in ledger.rows("api")
            if d["attribution"] == "tainted"} <= {"conflict"}
    assert not ledger.audit()


@veth
@pytest.mark.parametrize("split", [1, 20, 60])
def test_half_a_decoy(decoys, sandbox, split):
    """The real request begins, a refused segment goes on with another key, then the real rest."""
    real, fake = decoys.texts
    with RawTcp(sandbox, decoys.port) as c:
        for i in range(PATHS):
            data = ask(i, real)
            c.real(data[:split])
            c.segment(c.next, ask(i, fake)[split:], bad_checksum=True)
            c.real(data[split:])
            answers(c, i + 1)
    settle(decoys, PATHS, tainted=PATHS)


@veth
def test_old_bytes_rewritten(decoys, sandbox):
    """A valid segment whose first octets repeat old ones, differently: TCP keeps the old ones."""
    real, fake = decoys.texts
    with RawTcp(sandbox, decoys.port) as c:
        for i in range(PATHS):
            data = ask(i, real)
            c.real(data[:70])
            c.segment(c.next - 70, ask(i, fake)[:70] + data[70:])
            c.next += len(data) - 70
            answers(c, i + 1)
    settle(decoys, PATHS)


@veth
def test_early_decoy_then_both(decoys, sandbox):
    """A refused early segment, an accepted early one at the same place, then what stands before."""
    real, fake = decoys.texts
    with RawTcp(sandbox, decoys.port) as c:
        for i in range(PATHS):
            data = ask(i, real)
            c.segment(c.next + 40, ask(i, fake)[40:], bad_checksum=True)
            c.segment(c.next + 40, data[40:])
            c.segment(c.next, data[:40])
            c.next += len(data)
            answers(c, i + 1)
    settle(decoys, PATHS, tainted=PATHS)


@veth
def test_conflicting_early_segments(start, meter, sandbox, keys):
    """Both are valid, TCP takes one: whichever the server logs is billed, or nobody."""
    a, b = keys.new("real"), keys.new("fake")
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports)])
    for first, second in ((a, b), (b, a)):
        with RawTcp(sandbox, server.port) as c:
            c.segment(30, ask(1, first)[30:])
            c.segment(30, ask(1, second)[30:])
            c.segment(0, ask(1, first)[:30])
            c.next = len(ask(1, first))
            answers(c, 1)
    logged = server.witness(2)
    ledger = agent.stop()
    assert ledger.count("api", status=200) == 2
    for key in ("key_real", "key_fake"):
        answered = sum(s.requests for row, s in logged.items() if row[0] == key)
        assert ledger.count("api", api_key_id=key, status=200) <= answered
    assert not ledger.audit()


@veth
def test_forged_request_in_flight_body(decoys, sandbox):
    """A refused segment in the middle of a body, with a request of another customer."""
    real, fake = decoys.texts
    with RawTcp(sandbox, decoys.port) as c:
        for i in range(PATHS):
            data = api.request("POST", "/v1/enrich", real, b"b" * 2000)
            c.real(data[:-1500])
            c.segment(c.next, ask(i, fake) * 3, bad_checksum=True)
            c.real(data[-1500:-100])
            c.segment(c.next - 600, ask(i, fake))
            c.real(data[-100:])
            answers(c, i + 1)
    settle(decoys, PATHS, tainted=PATHS)


@veth
def test_no_place_left(decoys, sandbox):
    """A request that TCP keeps and the meter has no place for; later a refused one, in its place."""
    real, fake = decoys.texts
    first, early, decoy = ask(1, real), ask(2, real), ask(2, fake)
    assert len(decoy) == len(early)
    with RawTcp(sandbox, decoys.port) as c:
        c.real(ask(0, real))
        answers(c, 1)
        at = c.next
        for _ in range(PARK_PIECES):
            c.segment(at + 1, first[1:2])
        c.segment(at + len(first), early)
        c.segment(at, first[:20])
        c.segment(at + len(first), decoy, bad_checksum=True)
        c.segment(at + 20, first[20:])
        c.next = at + len(first) + len(early)
        answers(c, 3)
    assert {row[0] for row in decoys.witness(3)} == {"key_real"}
    ledger = decoys.agent.stop()
    assert ledger.gaps()["park-full"] == 1
    assert not ledger.count("api", api_key_id="key_fake"), "a key that the server never saw was billed"
    assert ledger.count("api", attribution="tainted", attribution_detail="gap") >= 1
    assert not ledger.audit()


@veth
@pytest.mark.parametrize("seq, ack", [(1 << 26, 0), (0, 1 << 26), (1 << 29, 1 << 29)])
def test_urgent_mark_of_a_stranger(decoys, sandbox, seq, ack):
    """Who knows the addresses and ports alone cannot name positions near those of the connection."""
    real, _ = decoys.texts
    with RawTcp(sandbox, decoys.port) as c:
        c.real(ask(0, real))
        answers(c, 1)
        c.segment(c.next + seq, b"", flags=PSH | ACK | URG, urgent=1, ack_delta=ack)
        for i in range(1, PATHS):
            c.real(ask(i, real))
            answers(c, i + 1)
    ledger = decoys.agent.stop()
    assert ledger.count("api", api_key_id="key_real", status=200) == PATHS
    assert not ledger.audit()


def test_urgent_octet(start, meter, sandbox, keys):
    """Urgent data is cut out of the stream that the server reads, not out of the packets.

    A client that puts an urgent octet into its key shows the meter another key than the server.
    """
    key = keys.new("real")
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    data = ask(1, key)
    at = data.index(key.encode()) + 5
    with Conn(sandbox, server.port) as c:
        c.send(data[:at])
        c.sock.send(b"!", 1)        # MSG_OOB
        c.send(data[at:])
        assert c.responses(["GET"], 1)[0].status == 200
    assert list(server.witness(1)) == [("key_real", "GET", "/v1/**", 200)]
    ledger = agent.stop()
    assert ledger.count("api", status=200) == 1
    keyed = {d["api_key_id"] for d in ledger.rows("api", attribution="key") if d["requests"]}
    assert keyed <= {"key_real"}, "a key that the server never saw was billed"
    assert not ledger.audit()


# Row 38: what TCP repairs is no decoy ----------------------------------------------------------

STREAMS = 30


SHAPES = [(kind, n) for kind in ("shuffled", "repeated", "overlapping", "all") for n in (1, 3, 8)]


def play_stream(sandbox, port, keys, truth, pair, seed, kind, requests):
    """One connection whose stream of requests comes in pieces. Returns the pieces."""
    chance = random.Random(seed)
    parts = [api.request("POST", "/v1/enrich", pair[i % 2], b"x" * chance.randrange(1, 300))
             for i in range(requests)]
    stream = b"".join(parts)
    cut = pieces(chance, len(stream), kind)
    with RawTcp(sandbox, port) as c:
        for a, b in cut:
            c.segment(a, stream[a:b])
        c.next = len(stream)
        for i, response in enumerate(answers_of(c, ["POST"], requests)):
            api.add(truth, (keys.id_of(pair[i % 2]), "POST", "/v1/enrich", 200),
                    api.Sums(1, len(parts[i]), response.size))
    return cut


@pytest.fixture(scope="module")
def reordered():
    """(truth, ledger, {key id: the pieces as they were sent}) of all shapes and seeds."""
    keys, truth, cut = api.Keys(), api.new_tally(), {}
    with Sandbox("reordered", veth=True) as sandbox:
        server = servers.start("nginx", sandbox, keys, proxied=False)
        texts = {(s, seed): [keys.new(f"{SHAPES.index(s)}.{seed}.{i}") for i in "ab"]
                 for s in SHAPES for seed in range(STREAMS)}
        agent = Tallyd(sandbox, keys, [service("api", server.ports)]).start()
        for (shape, seed), pair in texts.items():
            sent = play_stream(sandbox, server.port, keys, truth, pair, seed, *shape)
            cut.update({keys.id_of(t): sent for t in pair})
        return truth, agent.stop(), cut


@pytest.mark.parametrize("kind, requests", SHAPES)
def test_reordered(reordered, kind, requests):
    """Row 38: streams in shuffled, repeated, overlapping pieces count as when they come in order."""
    truth, ledger, cut = reordered
    mine = f"key_{SHAPES.index((kind, requests))}."
    counted = ledger.tally("api")
    wrong = [row for row in truth if row[0].startswith(mine) and counted[row] != truth[row]]
    shown = "\n".join(f"  {row}: {truth[row]}, counted {counted[row]}: {cut[row[0]]}"
                      for row in wrong[:3])
    assert not wrong, f"{len(wrong)} rows differ; all unattributed: " \
        f"{ledger.unattributed('api')}, {ledger.gaps()}; the first, as they were sent:\n{shown}"


def test_reordered_books(reordered):
    assert not reordered[1].audit()


def pieces(chance, size, kind):
    """[(begin, end)] that cover size octets, in the order in which they are sent."""
    edges = sorted({0, size, *(chance.randrange(1, size) for _ in range(10))})
    reach = 30 if kind in ("overlapping", "all") else 0
    cover = [(a, min(size, b + chance.choice((0, reach)))) for a, b in zip(edges, edges[1:])]
    if kind in ("repeated", "all"):
        cover += chance.sample(cover, len(cover) // 3)
    chance.shuffle(cover)
    return cover


@veth
def test_server_retransmits(start, meter, sandbox, keys):
    """The client does not acknowledge: the server sends its answer again; its bytes count once."""
    key = keys.new("real")
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports)])
    truth = api.new_tally()
    data = ask(1, key)
    with RawTcp(sandbox, server.port) as c:
        c.auto_ack = False
        c.real(data)
        c.read_until(lambda c: c.copies >= 2)
        c.auto_ack = True
        response = answers(c, 1)[0]
        c.real(data)
        answers(c, 2)
    for _ in range(2):
        api.add(truth, ("key_real", "GET", "/v1/**", 200),
                api.Sums(1, len(data), response.size))
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


# IPv6: what stands between its header and TCP's ----------------------------------------------------

EXTENSIONS = {"a fragment that is whole": whole_fragment, "one header": destination_options(1),
              "eight headers": destination_options(8)}


def behind_a_decoy(conn, real, fake, extension):
    """The second request of three comes behind a decoy, and with extension headers."""
    conn.segment(0, ask(0, real), extension=extension)
    conn.next = len(ask(0, real))
    answers(conn, 1)
    conn.segment(conn.next, ask(1, fake), bad_checksum=True)
    conn.segment(conn.next, ask(1, real), extension=extension)
    conn.next += len(ask(1, real))
    answers(conn, 2)


@veth
@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension_headers(decoys, sandbox, name):
    """TCP reads them, so does the meter: a request counts, and is compared with a decoy."""
    with RawTcp6(sandbox, decoys.port) as c:
        behind_a_decoy(c, *decoys.texts, EXTENSIONS[name])
    assert settle(decoys, 2, tainted=1).count("api", attribution_detail="conflict") == 1


@veth
def test_more_extension_headers_than_are_read(decoys, sandbox):
    """Nobody is charged for what only TCP has read."""
    real, fake = decoys.texts
    with RawTcp6(sandbox, decoys.port) as c:
        behind_a_decoy(c, real, fake, destination_options(9))
    assert set(k for k, *_ in decoys.witness(2)) == {"key_real"}
    ledger = decoys.agent.stop()
    assert not ledger.count("api", attribution="key"), "the decoy's key was billed"
    assert ledger.count("api", attribution="tainted", attribution_detail="gap") == 2, \
        ledger.unattributed("api")
    assert not ledger.audit()


@veth
def test_a_fragment_that_nobody_reads(decoys, sandbox):
    """TCP never sees it, and neither does the meter."""
    real, fake = decoys.texts
    with RawTcp6(sandbox, decoys.port) as c:
        c.segment(0, ask(1, fake), extension=later_fragment)
        c.real(ask(1, real))
        answers(c, 1)
    ledger = decoys.agent.stop()
    assert ledger.count("api", api_key_id="key_real") == 1
    assert not ledger.audit()


@veth
def test_first_data_comes_again_with_more(decoys, sandbox):
    """Data that came before the connection was there, and was not taken, comes again with what follows."""
    key, _ = decoys.texts
    data = ask(1, key)
    with RawTcp(sandbox, decoys.port, decoy=data[:30], first=data + ask(2, key)) as c:
        answers(c, 2)
    ledger = decoys.agent.stop()
    assert ledger.count("api", api_key_id="key_real") == 2, ledger.unattributed("api")
    assert not ledger.audit()


@veth
def test_two_decoys_before_the_connection_is_there(decoys, sandbox):
    """One that is the same, and one behind it that is not; then both in one segment."""
    real, fake = decoys.texts
    data = ask(0, real)
    with RawTcp(sandbox, decoys.port, decoy=data[:30], later=(30, ask(0, fake)[30:]), first=data) as c:
        answers(c, 1)
    settle(decoys, 1, tainted=1)


@veth
@pytest.mark.parametrize("count", [8, 9])
def test_extension_headers_before_the_connection_is_there(decoys, sandbox, count):
    """More than are read: what waits of a decoy is not believed."""
    real, fake = decoys.texts
    with RawTcp6(sandbox, decoys.port, decoy=ask(0, fake), first=ask(0, real),
                 extension=destination_options(count)) as c:
        answers(c, 1)
    assert set(k for k, *_ in decoys.witness(1)) == {"key_real"}
    ledger = decoys.agent.stop()
    assert ledger.count("api", attribution="tainted", status=200) == 1, ledger.unattributed("api")
    assert not ledger.audit()


@veth
def test_data_of_another_handshake(decoys, sandbox):
    """Somebody else's octets wait for the same addresses: they are not of this connection."""
    real, fake = decoys.texts
    with RawTcp(sandbox, decoys.port, stranger=ask(1, fake), first=ask(1, real)) as c:
        answers(c, 1)
    ledger = decoys.agent.stop()
    assert ledger.count("api", api_key_id="key_real") == 1, ledger.unattributed("api")
    assert not ledger.audit()
