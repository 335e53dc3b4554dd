# SPDX-License-Identifier: Apache-2.0
"""What a client saw: an independent reading of response bytes, by the standard library's parser."""

import http.client
import io
from typing import NamedTuple


class Response(NamedTuple):
    status: int
    size: int           # octets of the head and the body, interim responses not included
    complete: bool      # the body ended as its framing says
    interim: tuple      # statuses of the 1xx responses before it
    headers: dict
    body: bytes


class _Stream(io.BytesIO):
    """http.client closes its file at the end of a response; the next one is in the same file."""

    def close(self):
        pass


class _Socket:
    def __init__(self, stream):
        self.stream = stream

    def makefile(self, mode):
        assert mode == "rb"
        return self.stream


def parse(raw, methods, ended=True):
    """Splits the bytes of one connection into responses.

    methods: of the requests, in order (the last one repeats); ended: the server closed.
    Returns (responses, rest): rest is what is no complete head, or follows a 101.
    """
    stream, responses, interim, start = _Stream(raw), [], [], 0
    while start < len(raw):
        if not raw.startswith(b"HTTP/1.", start):
            break
        head_end = raw.find(b"\r\n\r\n", start)
        if head_end < 0:
            break
        status = int(raw[start + 9:start + 12])
        if status != 101 and 100 <= status < 200:
            interim.append((status, head_end + 4 - start))
            start = head_end + 4
            continue
        stream.seek(start)
        method = methods[min(len(responses), len(methods) - 1)]
        response = _one(stream, method, start, tuple(s for s, _ in interim), len(raw), ended)
        responses.append(response)
        interim = []
        start += response.size
        if status == 101 or (method == "CONNECT" and 200 <= status < 300):
            break
    return responses, raw[start:]


def _one(stream, method, start, interim, end, ended):
    parsed = http.client.HTTPResponse(_Socket(stream), method=method)
    parsed.begin()
    tunnel = parsed.status == 101 or (method == "CONNECT" and 200 <= parsed.status < 300)
    until_close = parsed.length is None and not parsed.chunked and not tunnel
    body, complete = b"", True
    if not tunnel:
        try:
            body = parsed.read()
            complete = not until_close or ended
        except (http.client.IncompleteRead, ValueError) as error:
            body, complete = getattr(error, "partial", b""), False
            stream.seek(end)
    return Response(parsed.status, stream.tell() - start, complete, interim,
                    {k.lower(): v for k, v in parsed.getheaders()}, body)
