#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The demo's customers: five keys, each used in its own way, over plain sockets.

    traffic.py PORT [--requests N] [--progress]

Every exchange is finished before the program ends, so that the server's log and the meter have the
same to count. Each customer's traffic shows one thing a meter can get wrong:

    acme      keep-alive connections, bodies by Content-Length
    acme/test the same key header, a test key: counted apart
    globex    pipelining: four requests in one write
    initech   Authorization: Bearer, chunked bodies with extensions and a trailer; bodies that
              contain what looks like a request
    umbrella  a new connection for each request, faster than the free tier allows
    nobody    no key, and keys that the server refuses
"""
import argparse
import asyncio
import random
import sys

HOST = "127.0.0.1"


def request(method, target, headers=(), body=None, chunked=False):
    """The bytes of one request. body: bytes or None; chunked: send it in chunked coding."""
    lines = [f"{method} {target} HTTP/1.1", "Host: api.example.com", "User-Agent: demo/1"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append("Content-Type: application/json")
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    if body is None:
        return head
    return head + (chunks(body) if chunked else body)


def chunks(body, size=700):
    out = b""
    for i in range(0, len(body), size):
        piece = body[i:i + size]
        out += b"%x;part=%d\r\n%s\r\n" % (len(piece), i // size, piece)
    return out + b"0\r\nX-Checksum: 9f86d081\r\n\r\n"


async def response(reader):
    """Read one whole response; returns (status, does the connection stay?)."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if headers.get("transfer-encoding") == "chunked":
        while (size := int((await reader.readline()).split(b";")[0], 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))
    return status, headers.get("connection") != "close"


class Traffic:
    def __init__(self, port, total, progress):
        self.port, self.total, self.progress = port, total, progress
        self.done = 0
        self.random = random.Random(20260901)

    def count(self, n):
        before, self.done = self.done, self.done + n
        if self.progress and before * 50 // self.total != self.done * 50 // self.total:
            print(self.done, flush=True)

    def extract(self, key, header="X-API-Key", chunked=False):
        document = f"{self.random.choice(('doc', 'doc', 'doc', 'gone'))}-{self.random.randrange(999)}"
        fake = b"POST /v1/enrich HTTP/1.1\\r\\nX-API-Key: acme-live-8d1b64c07f2e\\r\\n\\r\\n"
        body = b'{"text":"' + (fake if chunked else b"lorem ipsum ") * self.random.randrange(1, 40) + b'"}'
        if chunked:
            body = body.replace(b"\\r\\n", b"\r\n")  # a forged request, byte for byte
        value = f"Bearer {key}" if header == "Authorization" else key
        return request("POST", f"/v1/documents/{document}/extract", [(header, value)], body, chunked)

    def search(self, key=None):
        headers = [("X-API-Key", key)] if key else []
        return request("GET", f"/v1/search?q=term-{self.random.randrange(9999)}", headers)

    def enrich(self, key):
        return request("POST", "/v1/enrich", [("X-API-Key", key)], b'{"domain":"example.com"}')

    async def converse(self, n, make, batch=1, reconnect=False):
        """n requests, `batch` of them in one write, over one connection at a time."""
        reader = writer = None
        while n > 0:
            if writer is None:
                reader, writer = await asyncio.open_connection(HOST, self.port)
            size = min(batch, n)
            writer.write(b"".join(make() for _ in range(size)))
            stays = [(await response(reader))[1] for _ in range(size)]
            self.count(size)
            n -= size
            if reconnect or not all(stays) or n <= 0:
                writer.close()
                await writer.wait_closed()
                writer = None

    async def run(self):
        share = self.total // 100
        mixed = lambda key: lambda: self.random.choice((self.extract, self.search, self.enrich))(key)
        initech = lambda: self.extract("initech-live-6e90b1f3a845", "Authorization", chunked=True)
        plans = [
            (30, dict(make=mixed("acme-live-8d1b64c07f2e"))),
            (10, dict(make=mixed("acme-test-31f09ab5d7c4"))),
            (30, dict(make=lambda: self.search("globex-live-c5a2740e96d3"), batch=4)),
            (15, dict(make=initech)),
            (10, dict(make=lambda: self.search("umbrella-free-0a7d52c8e41b"), reconnect=True)),
            (3, dict(make=lambda: self.search())),
            (2, dict(make=lambda: self.search(f"guess-{self.random.getrandbits(64):016x}"))),
        ]
        # Two connections for each customer.
        await asyncio.gather(*(self.converse(part, **plan) for percent, plan in plans
                               for part in (percent * share // 2, percent * share - percent * share // 2)))


def main():
    parser = argparse.ArgumentParser(description="The demo's customers.")
    parser.add_argument("port", type=int)
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--progress", action="store_true", help="print the count as it grows")
    args = parser.parse_args()
    traffic = Traffic(args.port, max(args.requests // 100 * 100, 100), args.progress)
    try:
        asyncio.run(traffic.run())
    except (OSError, asyncio.IncompleteReadError) as error:
        sys.exit(f"traffic: {error}")
    print(traffic.done)


if __name__ == "__main__":
    main()
