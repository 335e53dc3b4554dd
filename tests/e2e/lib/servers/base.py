# SPDX-License-Identifier: Apache-2.0
"""What all servers share: life, readiness, and the witness.

A server logs one line per answered request. `entries()` reads them; `witness(n)` waits until
the log tells of at least n answers and returns a tally (see api.py). `exact` names
the fields that a log counts as they pass on the wire; for the others the client alone knows.
"""

import os
import signal
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from .. import api
from ..sandbox import HarnessError, wait_for


START_S = float(os.environ.get("TALLY_READY_S", "60"))     # on an emulated or busy machine


class Entry(NamedTuple):
    """One line of a server's log. key: the text that the server saw, "" for none."""
    key: str
    method: str
    target: str
    status: int
    received: int
    sent: int
    port: int = 0


def pick_key(x_api_key, authorization="", query_key=""):
    """The key as the tests configure it: header, bearer token, query; the first there is."""
    x_api_key = (x_api_key or "").strip(" \t")
    if x_api_key and x_api_key != "-":
        return x_api_key
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return "" if query_key in ("-", None) else query_key


def query_key_of(target):
    return parse_qs(urlsplit(target).query, encoding="latin-1").get("api_key", [""])[0]


class Server:
    name = "?"
    exact = ("requests", "request_bytes", "response_bytes")     # what its log counts exactly
    sends_early_hints = False
    upgrades = False
    stop_signal = signal.SIGTERM

    def __init__(self, sandbox, keys, ports=None, idle_s=60, cgroup=True, env=None):
        self.sandbox, self.keys, self.idle_s, self.cgroup = sandbox, keys, idle_s, cgroup
        self.env = env
        self.ports = list(ports) if ports else [sandbox.port()]
        self.dir = sandbox.dir / self.name
        self.dir.mkdir(exist_ok=True)
        self.dir.chmod(0o755)
        self.log = self.dir / "access.log"
        self.process = None
        self._entries, self._read_to = [], 0

    @property
    def port(self):
        return self.ports[0]

    def start(self):
        self.process = self.launch()
        for port in self.ports:
            wait_for(lambda p=port: self._listens(p), START_S,
                     lambda: f"{self.name} to listen: {self.process.output()[-1500:]}")
        return self

    def launch(self):
        raise NotImplementedError

    def stop(self, sig=None):
        """Ends the server in an orderly way: its log is whole afterwards."""
        self.process.stop(sig or self.stop_signal)

    def _listens(self, port):
        """
        Asked of the kernel's table of sockets (state 0A is LISTEN): a connection would be metered, and a
        port that is bound to see whether it is free is not free for the server at that moment.
        """
        if not self.process.alive():
            raise HarnessError(f"{self.name} ended: {self.process.output()[-2000:]}")
        for table in ("tcp", "tcp6"):
            with open(f"/proc/{self.process.pid}/net/{table}", encoding="ascii") as f:
                for line in list(f)[1:]:
                    fields = line.split()
                    if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                        return True
        return False

    def entries(self):
        """All whole lines of the log so far, oldest first. Each line is read once."""
        if not self.log.exists():
            return self._entries
        with open(self.log, "rb") as f:
            f.seek(self._read_to)
            data = f.read()
        data = data[:data.rfind(b"\n") + 1]
        self._read_to += len(data)
        parsed = (self.parse_line(line) for line in data.decode("latin-1").split("\n") if line)
        self._entries += [e for e in parsed if e is not None]
        return self._entries

    def parse_line(self, line):
        raise NotImplementedError

    def witness(self, at_least=0, seconds=10, port=None):
        """The server's own tally, once it knows of *at_least* answered requests."""
        def enough():
            entries = [e for e in self.entries() if port in (None, e.port)]
            return entries if len(entries) >= at_least else None
        entries = [] if not at_least and not self.entries() else \
            wait_for(enough, seconds, lambda: f"{at_least} answers in {self.name}'s log, "
                     f"which has {len(self.entries())}")
        tally = api.new_tally()
        for e in entries:
            row = (self.keys.id_of(e.key), e.method, api.route_of(e.method, e.target), e.status)
            api.add(tally, row, api.Sums(1, e.received, e.sent))
        return tally

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text, encoding="utf-8")
        return path

    def make_files(self):
        """Files for /v1/files/<size>, shared by the servers of a sandbox."""
        folder = self.sandbox.dir / "files"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        for size in api.FILE_SIZES:
            path = folder / str(size)
            if not path.exists():
                with open(path, "wb") as f:
                    os.truncate(f.fileno(), size)
        return folder
