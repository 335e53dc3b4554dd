# SPDX-License-Identifier: Apache-2.0
"""HAProxy: an HTTP front end that answers some routes itself and forwards the rest to an origin.

The origin is a Python server of ours on a port that no test meters.
"""

import signal

from .. import api
from ..sandbox import need_program
from .base import Entry, Server, pick_key, query_key_of

CONFIG = """\
global
    maxconn 9000
    log stdout len 65535 format raw local0
    nbthread 1		# two threads that log to one descriptor lose lines
defaults
    mode http
    log global
    option dontlognull
    timeout connect 5s
    timeout client {idle}s
    timeout http-request {idle}s
    timeout http-keep-alive {idle}s
    timeout server 60s
    backlog 65535
frontend metered
    {bind}
    http-request set-var(txn.key) req.hdr(X-API-Key)
    http-request set-var(txn.auth) req.hdr(Authorization)
    http-request set-var(txn.uri) capture.req.uri
    log-format "%{{+E}}o@%[var(txn.key)]\\t%[var(txn.auth)]\\t%HM\\t%[var(txn.uri)]\\t%ST\\t%U\\t%B\\t%ts\\t%fp"
    http-request early-hint Link "</a.css>; rel=preload" if {{ path /early }}
    http-request return status 200 content-type text/plain string "ok" if {{ path /early }}
    {statuses}
    default_backend origin
backend origin
    http-reuse safe
    server origin 127.0.0.1:{origin}
"""


class Haproxy(Server):
    name = "haproxy"
    exact = ("requests",)       # %B and %U count HAProxy's internal form of a message
    sends_early_hints = True
    upgrades = True
    stop_signal = signal.SIGUSR1

    def __init__(self, *args, origin=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.origin = origin

    def launch(self):
        statuses = "\n    ".join(
            f"http-request return status {code}"
            + ("" if code in (204, 304) else f' content-type text/plain string "{code}"')
            + (" hdr Location /" if code in (301, 302) else "")
            + f" if {{ path /status/{code} }}" for code in api.STATUSES)
        config = self.write("haproxy.cfg", CONFIG.format(
            idle=self.idle_s, statuses=statuses, origin=self.origin,
            bind="\n    ".join(f"bind :::{p} v4v6 defer-accept" for p in self.ports)))
        process = self.sandbox.spawn(self.name, [need_program("haproxy"), "-db", "-f", config],
                                     cgroup=self.cgroup)
        self.log = process.out_path
        return process

    def stop(self, sig=None):
        """SIGUSR1 waits for idle clients; a test that keeps connections open says SIGTERM."""
        super().stop(sig or signal.SIGTERM)

    def parse_line(self, line):
        if not line.startswith("@"):
            return None
        key, auth, method, uri, status, received, sent, _, port = line[1:].split("\t")
        if int(status) < 0 or int(sent) == 0:
            return None
        bad = method == "<BADREQ>"
        return Entry(pick_key(key, auth, query_key_of(uri)), "" if bad else method,
                     "" if bad else uri, int(status), int(received), int(sent), int(port))
