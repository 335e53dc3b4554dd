# SPDX-License-Identifier: Apache-2.0
"""The API of lib/api.py on http.server. Arguments: log, idle seconds, files, ports. Environment: MPTCP=1,
to listen with it.

rfile and wfile count what the handler consumes and writes, so bytes are exact per exchange,
pipelined or not.
"""

import os
import re
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LOG_PATH, IDLE, FILES, PORTS = sys.argv[1:5]
LOG = os.open(LOG_PATH, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


class Counted:
    """A file that counts the octets that pass."""

    def __init__(self, file):
        self.file, self.count = file, 0

    def readline(self, limit=-1):
        data = self.file.readline(limit)
        self.count += len(data)
        return data

    def read(self, n=-1):
        data = self.file.read(n)
        self.count += len(data)
        return data

    def read1(self, n):
        data = self.file.read1(n)
        self.count += len(data)
        return data

    def write(self, data):
        self.file.write(data)
        self.count += len(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = int(IDLE)
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.rfile, self.wfile = Counted(self.rfile), Counted(self.wfile)

    def handle_one_request(self):
        self.rfile.count = self.wfile.count = 0
        self.final = 0
        self.command = self.path = ""
        self.headers = {}
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        if self.final:
            self._note()

    def _note(self):
        fields = (self.headers.get("X-API-Key", "").strip(" \t"), self.headers.get("Authorization", "").strip(" \t"),
                  self.command or "", self.path, self.final, self.rfile.count, self.wfile.count,
                  self.connection.getsockname()[1])
        line = "\t".join(re.sub(r"[\r\n\t]+", " ", str(f)) for f in fields)
        os.write(LOG, (line + "\n").encode("latin-1"))

    def send_response(self, code, message=None):
        if code >= 200 or code == 101:
            self.final = code
        super().send_response(code, message)

    def log_message(self, *args):
        pass

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    def _read_body(self):
        codings = self.headers.get("Transfer-Encoding", "").lower().split(",")
        if codings[-1].strip() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            got = len(self.rfile.read1(min(left, 1 << 16)))
            if not got:
                raise ConnectionError("the body ended early")
            left -= got

    def serve(self):
        try:
            self._read_body()
        except ValueError:
            self.close_connection = True
            return self._answer(400, b"400\n")
        url = urlsplit(self.path)
        part = url.path.split("/")[1:] or [""]
        special = {"upgrade": self._upgrade, "close": self._close, "early": self._early}
        if part[0] in special:
            special[part[0]]()
        elif url.path == "/v1/enrich":
            self._answer(200, b"e" * 256)
        elif part[0] == "v1" and len(part) == 4 and part[3] == "extract":
            self._answer(200, b"x" * 512)
        elif part[:2] == ["v1", "files"]:
            self._file(part[2])
        elif part[0] == "status":
            self._status(int(part[1]))
        elif part[0] == "chunked":
            self._chunked(int(part[1]))
        else:
            if part[0] == "slow":
                time.sleep(float(parse_qs(url.query)["s"][0]))
            self._answer(200, b"ok\n")
        return None

    def _answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _status(self, code):
        if code not in (204, 304):
            return self._answer(code, b"%d\n" % code)
        self.send_response(code)
        self.end_headers()
        return None

    def _file(self, size):
        if not size.isdigit():
            return self._answer(404, b"404\n")
        self.send_response(200)
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command == "HEAD":
            return None
        with open(os.path.join(FILES, size), "rb") as f:
            try:
                self.connection.sendfile(f)
            finally:
                self.wfile.count += f.tell()
        return None

    def _chunked(self, count):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for _ in range(count):
            self.wfile.write(b"10\r\n0123456789abcde\n\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _close(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"bye\n")

    def _early(self):
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        self._answer(200, b"ok\n")

    def _upgrade(self):
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "echo")
        self.end_headers()
        self.close_connection = True
        while data := self.rfile.read1(65536):
            self.wfile.write(data)


class Listener(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 65535
    daemon_threads = True

    def server_bind(self):
        if os.environ.get("MPTCP") == "1":
            self.socket.close()
            self.socket = socket.socket(self.address_family, self.socket_type, 262)
        super().server_bind()


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    listeners = [Listener(("::", int(p)), Api) for p in PORTS.split(",")]
    for listener in listeners:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
    while True:
        signal.pause()


main()
