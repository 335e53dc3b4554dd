# SPDX-License-Identifier: Apache-2.0
"""Node's http module; its log is written by servers/node_api.js."""

from pathlib import Path

from ..sandbox import need_program
from .base import Entry, Server, pick_key, query_key_of

SOURCES = Path(__file__).parents[2] / "servers"


class TabLog(Server):
    """Servers of our own source log: key, authorization, method, target, status, in, out, port."""

    def parse_line(self, line):
        key, auth, method, target, status, received, sent, port = line.split("\t")
        return Entry(pick_key(key, auth, query_key_of(target)), method, target, int(status),
                     int(received), int(sent), int(port))

    def arguments(self):
        return [self.log, self.idle_s, self.make_files(), ",".join(map(str, self.ports))]


class Node(TabLog):
    name = "node"
    sends_early_hints = True
    upgrades = True

    def launch(self):
        return self.sandbox.spawn(self.name, [need_program("node", "nodejs"),
                                              SOURCES / "node_api.js", *self.arguments()],
                                  cgroup=self.cgroup)
