# SPDX-License-Identifier: Apache-2.0
"""Servers that are there before their cgroup is known: socket activation, where the listener was opened in
another cgroup than that of the server that accepts; and containers that start while nobody looks."""

import sys

import pytest

from lib import api
from lib.client import Conn
from lib.sandbox import cgroup2_root, wait_for
from lib.tallyd import differences, service

# What systemd and a service do, in one process: listen here, serve there.
SERVER = """
import os, socket, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

port, procs = int(sys.argv[1]), sys.argv[2]
server = HTTPServer(("127.0.0.1", port), Handler, bind_and_activate=False)
server.server_bind()
server.server_activate()
with open(procs, "w") as f:
    f.write("0")
print("serving", flush=True)
server.serve_forever()
"""


@pytest.fixture
def activated(sandbox):
    """Its port; the listener is of /init, the process of /app."""
    listener, app = sandbox.new_cgroup("init"), sandbox.new_cgroup("app")
    procs = cgroup2_root() / app.lstrip("/") / "cgroup.procs"
    port = sandbox.ports(1)[0]
    server = sandbox.spawn("server", [sys.executable, "-c", SERVER, str(port), str(procs)],
                           cgroup=listener)
    wait_for(lambda: "serving" in server.output(), 20, server.output)
    assert procs.read_text(encoding="ascii").split() == [str(server.pid)]
    return port


@pytest.mark.parametrize("way", ["the listener's cgroup", "port"])
def test_socket_activated(activated, sandbox, meter, keys, way):
    """Found where its listener is, or by its port; the cgroup of the process sees none of it."""
    key, truth = keys.new("a"), api.new_tally()
    data = api.request("GET", "/v1/x", key)
    place = None if way == "port" else sandbox.cgroup_path + "/init"
    agent = meter([service("api", [activated], place),
                   service("process", None, sandbox.cgroup_path + "/app")])
    for _ in range(3):
        with Conn(sandbox, activated) as c:
            for _ in range(5):
                response = c.ask(data)
                api.add(truth, ("key_a", "GET", "/v1/**", 200), api.Sums(1, len(data), response.size))
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.rows("process")
    assert not ledger.audit()


@pytest.mark.parametrize("hook", ["no other hook", "a hook at the root"])
def test_started_while_the_agent_was_down(sandbox, meter, keys, hook):
    """A connection that a hook has seen before its cgroup was known is joined, not given up."""
    key = keys.new("a")
    port, other = sandbox.ports(2)
    data = api.request("GET", "/v1/x", key)
    sandbox.new_cgroup("c1")
    entries = [service("api", [port], sandbox.cgroup_path + "/c*")]
    agent = meter(entries if hook == "no other hook" else entries + [service("root", [other])])
    agent.kill()
    place = sandbox.new_cgroup("c2")
    server = sandbox.spawn("server", [sys.executable, "-c", SERVER, str(port),
                                      str(cgroup2_root() / place.lstrip("/") / "cgroup.procs")],
                           cgroup=place)
    wait_for(lambda: "serving" in server.output(), 20, server.output)
    with Conn(sandbox, port) as c:
        c.ask(data)
        agent.start()
        for _ in range(50):
            c.ask(data)
    ledger = agent.stop()
    assert ledger.count("api", status=200) == 50, (ledger.rows("api"), ledger.gaps())
    assert ledger.count("api", api_key_id="key_a") >= 49
    assert not ledger.audit()
