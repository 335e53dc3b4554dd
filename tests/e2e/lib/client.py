# SPDX-License-Identifier: Apache-2.0
"""A client that writes exact bytes in exact segments, and reads to a condition, not for a time."""

import array
import contextlib
import errno
import fcntl
import select
import socket
import struct
import termios
import time

from . import view
from .sandbox import HarnessError


class Conn:
    """One TCP connection. Counts what it sent and received.

    Segments: TCP_NODELAY and one send() each. A full congestion window would glue them together:
    many small ones need a sandbox that is `exact`.
    """

    def __init__(self, sandbox, port, address="127.0.0.1", client_side=False, rcvbuf=None,
                 proto=0):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = sandbox.socket(family, proto=proto, client_side=client_side)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(10)
        self.sock.connect((address, port))
        self.sent = 0
        self.raw = bytearray()
        self.ended = False      # the server closed (or reset) its side
        self.was_reset = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def send(self, data):
        self.sock.sendall(data)
        self.sent += len(data)

    def send_segments(self, segments):
        """One segment each; stops quietly when the server has closed. Returns True when all left."""
        for segment in segments:
            if not segment:
                continue
            try:
                self.send(segment)
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    def send_split(self, data, *at):
        edges = [0, *sorted(at), len(data)]
        return self.send_segments(data[a:b] for a, b in zip(edges, edges[1:]))

    def send_bytewise(self, data):
        """
        An octet a segment. No more of them are under way than a busy server's buffer takes: those that
        TCP drops come again in one segment, and that is another test (R9 remembers 16 pieces).
        """
        def octets():
            for i in range(len(data)):
                if i % 64 == 0:
                    self.wait_acknowledged()
                yield data[i:i + 1]
        return self.send_segments(octets())

    def wait_acknowledged(self, left=64, seconds=0.3):
        """Until at most so many octets are not acknowledged, or the time is over."""
        deadline = time.monotonic() + seconds
        waiting = array.array("i", [0])
        while time.monotonic() < deadline:
            fcntl.ioctl(self.sock, termios.TIOCOUTQ, waiting)
            if waiting[0] <= left:
                return
            time.sleep(0.001)

    def finish(self):
        """Half-close: no more requests come."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Closes with a RST, dropping what is in flight."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()

    def tcp_counters(self):
        """(octets acknowledged by the server, data segments sent), of linux/tcp.h's tcp_info."""
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return struct.unpack_from("Q", info, 120)[0], struct.unpack_from("I", info, 156)[0]

    def _read_some(self, deadline, size=1 << 18):
        ready, _, _ = select.select([self.sock], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = self.sock.recv(size)
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE):
                raise
            data, self.was_reset = b"", True
        self.ended = not data
        self.raw += data
        return True

    def read_to_end(self, seconds=10):
        """Reads until the server closes; returns False when the deadline came first."""
        deadline = time.monotonic() + seconds
        while not self.ended:
            if not self._read_some(deadline):
                return False
        return True

    def read_until(self, pattern, seconds=10):
        deadline = time.monotonic() + seconds
        while pattern not in self.raw:
            if self.ended or not self._read_some(deadline):
                raise HarnessError(f"{pattern!r} did not come: {bytes(self.raw[-300:])!r}")

    def read_bytes(self, count, seconds=10):
        """Reads until *count* octets have come in all, or the server has closed."""
        deadline = time.monotonic() + seconds
        while len(self.raw) < count and not self.ended:
            if not self._read_some(deadline):
                raise HarnessError(f"{len(self.raw)} of {count} octets came within {seconds} s")

    def read_slowly(self, total, piece, pause):
        """Reads *total* bytes as a slow client does: the window closes meanwhile."""
        while len(self.raw) < total and not self.ended:
            if not self._read_some(time.monotonic() + 10, piece):
                raise HarnessError(f"{len(self.raw)} of {total} bytes came")
            time.sleep(pause)

    def responses(self, methods, count, seconds=10):
        """Reads until *count* final responses are complete (or the server closed)."""
        deadline = time.monotonic() + seconds
        while True:
            parsed, _ = view.parse(bytes(self.raw), methods, self.ended)
            whole = [r for r in parsed if r.complete]
            if len(whole) >= count or self.ended:
                return parsed
            if not self._read_some(deadline):
                raise HarnessError(f"{len(whole)} of {count} responses within {seconds} s: "
                                   f"{bytes(self.raw[:400])!r}")

    def ask(self, data, method="GET"):
        """One exchange on a kept-alive connection; forgets what was read before."""
        self.raw.clear()
        self.send(data)
        return self.responses([method], 1)[0]
