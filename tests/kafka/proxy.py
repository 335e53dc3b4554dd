# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that misbehaves on order: refuses, cuts, swallows answers, stalls, is slow.

A cut after a swallowed answer is the case that matters most: the request was applied and nobody
was told.
"""
import selectors
import socket
import struct
import threading
import time


class Pair:
    """Two sockets and what waits to be written to each."""

    def __init__(self, client, server):
        self.client, self.server = client, server

    def other(self, sock):
        return self.server if sock is self.client else self.client

    def close(self, reset=False):
        for sock in (self.client, self.server):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


class Proxy:
    """mode: pass, swallow (answers vanish), stall (nothing moves), refuse, slow."""

    def __init__(self, port, target):
        self.port, self.target = port, target
        self.mode = "pass"
        self.pairs = {}
        self.lock = threading.Lock()
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.over = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def set(self, mode):
        with self.lock:
            self.mode = mode

    def cut(self, reset=True):
        with self.lock:
            for pair in set(self.pairs.values()):
                self._drop(pair, reset)

    def stop(self):
        self.over = True
        self.thread.join(5)
        self.cut()
        self.listener.close()

    def _drop(self, pair, reset=False):
        for sock in (pair.client, pair.server):
            self.pairs.pop(sock, None)
            try:
                self.selector.unregister(sock)
            except (KeyError, ValueError):
                pass
        pair.close(reset)

    def _accept(self):
        client, _ = self.listener.accept()
        if self.mode == "refuse":
            client.close()
            return
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            client.close()
            return
        pair = Pair(client, server)
        for sock in (client, server):
            self.pairs[sock] = pair
            self.selector.register(sock, selectors.EVENT_READ)

    def _move(self, sock):
        pair = self.pairs.get(sock)
        if pair is None:
            return
        try:
            data = sock.recv(65536)
            if not data:
                raise ConnectionError
            if self.mode != "swallow" or sock is pair.client:
                pair.other(sock).sendall(data)
        except OSError:
            self._drop(pair)

    def _run(self):
        while not self.over:
            with self.lock:
                mode = self.mode
            if mode == "stall":
                time.sleep(0.01)
                continue
            for key, _ in self.selector.select(0.05):
                with self.lock:
                    if key.fileobj is self.listener:
                        self._accept()
                    else:
                        self._move(key.fileobj)
            if mode == "slow":
                time.sleep(0.02)
