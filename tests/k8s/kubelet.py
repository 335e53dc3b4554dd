#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The kubelet's part, without containers: starts a server in a pod's cgroup, stops it again.

    stdin   {"start": NAME, "cgroup": PATH, "port": N}      {"stop": NAME}
    stdout  {"started": NAME}                {"stopped": NAME, "counts": {"<key> <status>": n}}

A server answers GET with 200 when X-API-Key begins with sk_, else with 401; it counts its own
answers, which is what tallyd's count is held against.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections import Counter


class Server:
    def __init__(self, port):
        self.counts, self.rest, self.stopping = Counter(), {}, False
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("0.0.0.0", port), backlog=512)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def stop(self, *_):
        self.stopping = True

    def run(self):
        while not self.stopping:
            for key, _ in self.selector.select(0.2):
                if key.fileobj is self.listener:
                    self.accept()
                else:
                    self.read(key.fileobj)

    def accept(self):
        with contextlib.suppress(BlockingIOError):
            connection, _ = self.listener.accept()
            self.selector.register(connection, selectors.EVENT_READ)
            self.rest[connection] = b""

    def read(self, connection):
        try:
            data = connection.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.selector.unregister(connection)
            del self.rest[connection]
            connection.close()
            return
        heads = (self.rest[connection] + data).split(b"\r\n\r\n")
        self.rest[connection] = heads.pop()
        for head in heads:
            connection.sendall(self.answer(head))

    def answer(self, head):
        key = ""
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"x-api-key":
                key = value.strip().decode()
        status = 200 if key.startswith("sk_") else 401
        self.counts[f"{key} {status}"] += 1
        return b"HTTP/1.1 %d X\r\nContent-Length: 3\r\n\r\nabc" % status


def serve(cgroup, port, ready, result):
    """In the child: first into the cgroup, so that its sockets are born there."""
    server = None
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), "w", encoding="ascii") as procs:
            procs.write("0")
        server = Server(port)
        signal.signal(signal.SIGTERM, server.stop)
        os.write(ready, b"1")
        server.run()
        os.write(result, json.dumps(server.counts).encode())
    except OSError as error:
        print(f"{cgroup}: {error}", file=sys.stderr)
    os._exit(0 if server else 1)


class Kubelet:
    def __init__(self):
        self.pods = {}

    def start(self, order):
        ready, child_ready = os.pipe()
        result, child_result = os.pipe()
        pid = os.fork()
        if pid == 0:
            serve(order["cgroup"], order["port"], child_ready, child_result)
        os.close(child_ready)
        os.close(child_result)
        self.pods[order["start"]] = pid, result
        up = os.read(ready, 1) == b"1"
        os.close(ready)
        return {"started": order["start"]} if up else {"failed": order["start"]}

    def stop(self, order):
        pid, result = self.pods.pop(order["stop"])
        os.kill(pid, signal.SIGTERM)
        with os.fdopen(result) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return {"stopped": order["stop"], "counts": json.loads(text or "{}")}

    def run(self):
        for line in sys.stdin:
            order = json.loads(line)
            answer = self.start(order) if "start" in order else self.stop(order)
            print(json.dumps(answer), flush=True)
        for pid, _ in self.pods.values():
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    Kubelet().run()
