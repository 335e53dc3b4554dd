# SPDX-License-Identifier: Apache-2.0
"""Load that knows the truth: drives load/load.c and reads its account as a tally."""

import json
import struct
from typing import NamedTuple

from . import api, build
from .sandbox import HarnessError


class Template(NamedTuple):
    method: str
    target: str
    key: str
    body: bytes = b""
    weight: int = 1
    headers: tuple = ()

    def bytes(self):
        return api.request(self.method, self.target, self.key, self.body, self.headers)


class Load:
    """One run of the generator, in the background until result() is asked for."""

    def __init__(self, sandbox, keys, port, templates, connections, requests=1 << 62, seconds=None,
                 one_per_connection=False, seed=1, client_side=False, address="127.0.0.1"):
        self.keys, self.templates = keys, templates
        path = sandbox.dir / f"templates.{len(sandbox.processes)}"
        with open(path, "wb") as f:
            f.write(struct.pack("<I", len(templates)))
            for t in templates:
                data = t.bytes()
                f.write(struct.pack("<III", t.weight, t.method == "HEAD", len(data)) + data)
        argv = [build.load(), "-a", address, "-p", port, "-f", path, "-c", connections,
                "-n", requests, "-S", seed]
        argv += ["-s", seconds] if seconds else []
        argv += ["-1"] if one_per_connection else []
        self.process = sandbox.spawn(path.name.replace("templates", "load"), argv, cgroup=False,
                                     client_side=client_side)

    def stop(self):
        """No new requests from now on; result() waits for the answers under way."""
        if self.process.alive():
            self.process.popen.terminate()
        return self

    def result(self, seconds=120):
        """Waits; the truth as a tally. Lost requests stand in `lost`, {row without status: n}."""
        self.process.popen.wait(seconds)
        if self.process.popen.returncode != 0:
            raise HarnessError(f"load: {self.process.output()}")
        self.report = json.loads(self.process.output().strip().splitlines()[-1])
        tally = api.new_tally()
        for row in self.report["rows"]:
            api.add(tally, self._row(row["template"], row["status"]),
                    api.Sums(row["requests"], row["request_bytes"], row["response_bytes"]))
        self.lost = sum(row["requests"] for row in self.report["lost"])
        return tally

    def _row(self, index, status):
        t = self.templates[index]
        return self.keys.id_of(t.key), t.method, api.route_of(t.method, t.target), status


def mix(keys, customers=8):
    """A mix of routes, methods, sizes and statuses over some customers and no key."""
    templates = []
    for i in range(customers):
        key = keys.new(f"c{i}")
        templates += [
            Template("POST", "/v1/enrich", key, b"b" * (50 + 37 * i), weight=8),
            Template("POST", f"/v1/documents/{i}/extract", key, b"d" * 300, weight=4),
            Template("GET", "/v1/files/1000", key, weight=4),
            Template("GET", f"/chunked/{i + 1}", key, weight=2),
            Template("HEAD", "/v1/files/1000", key),
            Template("GET", "/status/404", key),
            Template("GET", "/status/204", key),
            Template("GET", "/v1/files/65536", key),
        ]
    return templates + [Template("GET", "/v1/anything", None, weight=customers)]
