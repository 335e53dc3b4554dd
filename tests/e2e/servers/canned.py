# SPDX-License-Identifier: Apache-2.0
"""A server that answers with exact bytes in exact segments. Arguments: script (JSON), ports.

The script is a list of [head ends to wait for, [segments, hex], close] steps per connection: a
step begins when that many `\\r\\n\\r\\n` have been received in all.
"""

import json
import signal
import socket
import sys
import threading


def serve(conn, steps):
    received = b""
    conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for heads, segments, close in steps:
        while received.count(b"\r\n\r\n") < heads:
            data = conn.recv(65536)
            if not data:
                return conn.close()
            received += data
        for segment in segments:
            conn.sendall(bytes.fromhex(segment))
        if close:
            conn.shutdown(socket.SHUT_WR)
            break
    while conn.recv(65536):
        pass
    return conn.close()


def accept(listener, steps):
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=(conn, steps), daemon=True).start()


def main():
    with open(sys.argv[1], encoding="ascii") as f:
        scripts = json.load(f)
    for port, steps in zip(sys.argv[2].split(","), scripts):
        listener = socket.create_server(("0.0.0.0", int(port)), backlog=1024)
        threading.Thread(target=accept, args=(listener, steps), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


main()
