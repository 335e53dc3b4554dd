# SPDX-License-Identifier: Apache-2.0
"""The small API that every server offers, its route templates, and the keys of its customers.

    POST /v1/enrich                     reads the body, 256 bytes with a Content-Length
    POST /v1/documents/<id>/extract     reads the body, 512 bytes
    GET  /v1/files/<size>               <size> bytes, by sendfile where the server can
    any  /status/<code>                 that status
    GET  /slow?s=<seconds>              the head of the response comes late
    GET  /chunked/<n>                   n lines of 16 bytes, chunked
    GET  /close                         a body that ends with the connection
    GET  /early                         103 before 200, where the server can
    GET  /upgrade                       101, then echoes bytes, where the server can
    any  anything else                  200, 3 bytes

A *tally* is what every witness of the harness yields, and what is compared:
    {(key id or None, method, route, status): Sums(requests, request_bytes, response_bytes)}
"""

import hashlib
import json
from collections import defaultdict
from typing import NamedTuple
from urllib.parse import urlsplit

ROUTES = (
    "POST /v1/enrich",
    "POST /v1/documents/{id}/extract",
    "/v1/files/{size}",
    "/status/{code}",
    "/slow",
    "/chunked/{n}",
    "/close",
    "/v1/**",
)
STATUSES = (200, 201, 202, 204, 301, 302, 304, 400, 401, 403, 404, 405, 409, 410, 413, 422, 429,
            500, 502, 503)
FILE_SIZES = (0, 1, 1000, 65536, 1048576, 8388608)
KEY_SOURCES = ({"header": "X-API-Key"}, {"header": "Authorization", "scheme": "Bearer"},
               {"query": "api_key"})


class Sums(NamedTuple):
    requests: int = 0
    request_bytes: int = 0
    response_bytes: int = 0

    def plus(self, other):
        return Sums(*(a + b for a, b in zip(self, other)))


def new_tally():
    return defaultdict(Sums)


def add(tally, row, sums):
    tally[row] = tally[row].plus(sums)


def total(tally):
    result = Sums()
    for sums in tally.values():
        result = result.plus(sums)
    return result


def route_of(method, target):
    """The template that a request falls under: written anew here, on purpose, for these few."""
    path = urlsplit(target).path if "://" in target else target.split("?")[0].split("#")[0]
    parts = path.split("/")[1:]
    if method == "POST" and path == "/v1/enrich":
        return "/v1/enrich"
    if method == "POST" and len(parts) == 4 and parts[:2] == ["v1", "documents"] \
            and parts[2] and parts[3] == "extract":
        return "/v1/documents/{id}/extract"
    if len(parts) == 3 and parts[:2] == ["v1", "files"] and parts[2]:
        return "/v1/files/{size}"
    for prefix, template in (("status", "/status/{code}"), ("chunked", "/chunked/{n}")):
        if len(parts) == 2 and parts[0] == prefix and parts[1]:
            return template
    if path in ("/slow", "/close"):
        return path
    return "/v1/**" if parts[0] == "v1" and len(parts) > 1 else "_other"


class Keys:
    """Customers' keys: text for the clients, SHA-256 for tallyd's catalog."""

    def __init__(self):
        self._id_of = {}

    def new(self, name, customer=None, text=None):
        """Makes a key; its id is key_<name>, its customer cus_<name>; returns the text."""
        text = text if text is not None else \
            f"sk_{name}_" + hashlib.sha256(name.encode()).hexdigest()[:20]
        self._id_of[text] = ("key_" + name, customer or "cus_" + name)
        return text

    def id_of(self, text):
        """The id of a key's text; None for no key; unknown texts stand out as `?text`."""
        if not text:
            return None
        return self._id_of[text][0] if text in self._id_of else "?" + text

    def customer_of(self, key_id):
        return {i: c for i, c in self._id_of.values()}.get(key_id)

    def write_catalog(self, path):
        """JSON is YAML; the catalog holds no key, only its hash."""
        entries = [{"id": i, "customer": c,
                    "sha256": hashlib.sha256(text.encode("latin-1")).hexdigest()}
                   for text, (i, c) in sorted(self._id_of.items())]
        path.write_text(json.dumps({"keys": entries}, indent=1), encoding="utf-8")
        return path


def request(method, target, key=None, body=b"", headers=(), chunked=None, version="1.1"):
    """The exact bytes of one request; *chunked* is a list of chunk payloads."""
    lines = [f"{method} {target} HTTP/{version}", "Host: api.test"]
    if key is not None:
        lines.append(f"X-API-Key: {key}")
    lines += list(headers)
    if chunked is not None:
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunked) + b"0\r\n\r\n"
    elif body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def explain(expected, counted, fields=("requests", "request_bytes", "response_bytes"),
            names=("expected", "counted")):
    """The rows in which two tallies differ, one a line; an empty string when they agree."""
    lines = []
    for row in sorted(set(expected) | set(counted), key=repr):
        a, b = expected.get(row, Sums()), counted.get(row, Sums())
        for field in fields:
            x, y = getattr(a, field), getattr(b, field)
            if x != y:
                lines.append(f"  {row}: {field}: {names[0]} {x}, {names[1]} {y} ({y - x:+d})")
    return "\n".join(lines)
