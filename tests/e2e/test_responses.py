# SPDX-License-Identifier: Apache-2.0
"""Responses of every framing, by a server that sends exact bytes, whole and byte by byte.

A script is what the server sends for two requests, key A then key B, that the client sends one
after the other. The expected counts stand beside it: {(key, status): requests}.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lib import api
from lib.client import Conn
from lib.sandbox import Sandbox, wait_for
from lib.tallyd import Tallyd, service

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Script(NamedTuple):
    title: str
    first: bytes
    second: bytes = OK
    counts: dict = {("A", 200): 1, ("B", 200): 1}
    closes: bool = False        # the server closes after the first answer
    methods: tuple = ("GET", "GET")
    exact: bool = True          # every byte belongs to its exchange


SCRIPTS = [
    Script("length", OK),
    Script("no body: length 0", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Script("no reason phrase", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
    Script("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    Script("chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
           b"2\r\nok\r\n1F;x=y\r\n" + b"z" * 31 + b"\r\n0\r\n\r\n"),
    Script("chunked with trailers", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n"
           b"\r\n2\r\nok\r\n0\r\nT: 1\r\nHTTP/1.1 500: x\r\n\r\n"),
    Script("a body that looks like a response", b"HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n" + OK[:38]),
    Script("until close", b"HTTP/1.1 200 OK\r\n\r\n" + b"body\r\n\r\nHTTP/1.1 500 X\r\n\r\n",
           counts={("A", 200): 1}, closes=True),
    Script("HTTP/1.0 until close", b"HTTP/1.0 200 OK\r\n\r\nbody", counts={("A", 200): 1},
           closes=True),
    Script("HTTP/1.0 kept alive", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
           b"Content-Length: 2\r\n\r\nok"),
    Script("HEAD with a length", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
           methods=("HEAD", "GET")),
    Script("HEAD, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
           methods=("HEAD", "GET")),
    Script("204", b"HTTP/1.1 204 No Content\r\n\r\n", counts={("A", 204): 1, ("B", 200): 1}),
    Script("204 with a length", b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n",
           counts={("A", 204): 1, ("B", 200): 1}),
    Script("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n",
           counts={("A", 304): 1, ("B", 200): 1}),
    Script("304, chunked", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
           counts={("A", 304): 1, ("B", 200): 1}),
    Script("100, 102, 103, 103, 200", b"".join(
        b"HTTP/1.1 %d X\r\nLink: </a>\r\n\r\n" % s for s in (100, 102, 103, 103)) + OK),
    Script("interim with a length", b"HTTP/1.1 103 X\r\nContent-Length: 7\r\n\r\n" + OK),
    Script("cut off in the body", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
           counts={("A", 200): 1}, closes=True),
    Script("cut off in the head", b"HTTP/1.1 200 OK\r\nContent-Le", counts={("A", 0): 1},
           closes=True, exact=False),
    Script("closed without a word", b"", counts={("A", 0): 1}, closes=True, exact=False),
    Script("only an interim response", b"HTTP/1.1 100 Continue\r\n\r\n", counts={("A", 0): 1},
           closes=True),
    Script("a status of three odd digits", b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nok",
           counts={("A", 299): 1, ("B", 200): 1}),
    Script("a large head", b"HTTP/1.1 200 OK\r\n" + b"".join(
        b"X-%d: %s\r\n" % (i, b"v" * 500) for i in range(40)) + b"Content-Length: 2\r\n\r\nok"),
    Script("length in odd case and spaces", b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh:\t 2 \r\n\r\nok"),
]
MODES = ("whole", "bytewise", "in threes")


def cut(data, mode):
    step = {"whole": len(data) or 1, "bytewise": 1 if len(data) < 2000 else 37, "in threes": 3}[mode]
    return [data[i:i + step] for i in range(0, len(data), step)]


def steps(script, mode):
    answers = [[1, [s.hex() for s in cut(script.first, mode)], script.closes]]
    return answers if script.closes else \
        answers + [[2, [s.hex() for s in cut(script.second, mode)], False]]


def talk(sandbox, port, script, a, b):
    """Both requests, the second when the first is answered; returns (sent, received)."""
    with Conn(sandbox, port) as c:
        for i, (method, key) in enumerate(zip(script.methods, (a, b))):
            c.send(api.request(method, f"/v1/{i}", key))
            expected = len(script.first) + (len(script.second) if i else 0)
            if script.closes:
                assert c.read_to_end(5)
                break
            c.read_bytes(expected)
        return c.sent, len(c.raw)


@pytest.fixture(scope="module")
def played():
    """All scripts in all segmentations: {(title, mode): (sent, received)}, the keys, the ledger."""
    keys, plays = api.Keys(), [(s, m) for s in SCRIPTS for m in MODES]
    outcome, ledgers = {}, {}
    for first in range(0, len(plays), 48):
        with Sandbox("responses", exact=True) as sandbox:
            batch = plays[first:first + 48]
            ports = sandbox.ports(len(batch))
            path = sandbox.dir / "script.json"
            path.write_text(json.dumps([steps(s, m) for s, m in batch]), encoding="ascii")
            server = sandbox.spawn("canned", [sys.executable, Path(__file__).parent / "servers"
                                              / "canned.py", path, ",".join(map(str, ports))])
            table = Path(f"/proc/{server.pid}/net/tcp")
            wait_for(lambda: f":{ports[-1]:04X} 00000000:0000 0A" in table.read_text(), 10,
                     lambda: f"the canned server: {server.output()}")
            pairs = [(keys.new(f"{first + i}.A"), keys.new(f"{first + i}.B"))
                     for i in range(len(batch))]
            agent = Tallyd(sandbox, keys, [service(
                f"s{first + i}", [p], sandbox.cgroup_path) for i, p in enumerate(ports)]).start()
            for i, ((script, mode), port) in enumerate(zip(batch, ports)):
                outcome[script.title, mode] = (first + i, talk(sandbox, port, script, *pairs[i]))
            ledger = agent.stop()
            ledgers.update({first + i: ledger for i in range(len(batch))})
    return outcome, ledgers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.title)
def test_script(played, script, mode):
    outcome, ledgers = played
    index, (sent, received) = outcome[script.title, mode]
    ledger, name = ledgers[index], f"s{index}"
    counted = {}
    for d in ledger.rows(name):
        if d["requests"]:
            who = (d["api_key_id"] or "?.A")[-1:] if d["status"] == 0 else \
                (d["api_key_id"] or "?")[-1:]
            counted[who, d["status"]] = counted.get((who, d["status"]), 0) + d["requests"]
    assert counted == script.counts, ledger.unattributed(name)
    total = api.total(ledger.tally(name))
    if script.exact:
        assert (total.request_bytes, total.response_bytes) == (sent, received)
    if "cut off in the body" == script.title:
        assert sum(d["incomplete"] for d in ledger.rows(name)) == 1


def test_books(played):
    problems = [p for ledger in set(played[1].values()) for p in ledger.audit()]
    assert not problems
