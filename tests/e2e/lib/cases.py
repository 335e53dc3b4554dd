# SPDX-License-Identifier: Apache-2.0
"""HTTP as an adversary writes it: inputs with the answer that the meter must give.

An input is a request with key A, followed at once by `GET /v1/m` with key M, another customer's,
which also closes. V is a victim's key that stands where no key can stand: it must never be billed.

verdict CLEAN: response i belongs to owners[i], in order: A, M or - (nobody's)
        TAINT: everything from this request on is unattributed; A at most its own, M and V nothing
        LOOSE: either, as long as totals are right and nobody pays for another's request
Rows are numbered as in the project's table of cases; letters tell inputs of one row apart.
"""

from typing import Callable, NamedTuple

CLEAN, TAINT, LOOSE = "clean", "taint", "loose"
CRLF = b"\r\n"
CHUNKED = b"3\r\nabc\r\n0\r\n\r\n"


class Case(NamedTuple):
    row: str
    title: str
    build: Callable             # (a, m, v: key bytes) -> bytes, M's request included or not
    owners: str = "AM"
    verdict: str = CLEAN
    methods: tuple = ("GET",)
    routes: tuple = ()          # expected of tallyd, per owner; () does not say
    extra_routes: tuple = ()    # templates added to the service
    request_bytes: bool = True  # those that were answered in full sum up to what was sent
    needs: str = ""             # a property of the server: sends_early_hints, upgrades
    wait_after: bytes = b""     # interactive too: waits for the server's answer after this point


def head(line, *headers, key=None, name="X-API-Key"):
    lines = [line.encode() if isinstance(line, str) else line, b"Host: api.test"]
    if key is not None:
        lines.append(name.encode() + b": " + key)
    return CRLF.join(lines + [h.encode("latin-1") if isinstance(h, str) else h for h in headers]) \
        + CRLF + CRLF


def last(m):
    return head("GET /v1/m HTTP/1.1", "Connection: close", key=m)


def then_m(build):
    """A's input, then M's request."""
    return lambda a, m, v: build(a, v) + last(m)


def post(*headers, body=b"", line="POST /v1/enrich HTTP/1.1"):
    return then_m(lambda a, v: head(line, *headers, key=a) + body)


def get(*headers, line="GET /v1/a HTTP/1.1", name="X-API-Key"):
    return then_m(lambda a, v: head(line, *headers, key=a, name=name))


def forged(v):
    return head("GET /v1/forged HTTP/1.1", key=v)


def _framing():
    te = "Transfer-Encoding: chunked"
    yield Case("1a", "Content-Length, then chunked",
               post("Content-Length: 5", te, body=b"0\r\n\r\n"), verdict=TAINT)
    yield Case("1b", "chunked, then Content-Length",
               post(te, "Content-Length: 5", body=b"0\r\n\r\n"), verdict=TAINT)
    yield Case("1c", "chunked, and a length that would swallow the next request",
               post("Content-Length: 60", te, body=CHUNKED), verdict=TAINT)
    yield Case("1d", "a length, and a chunk that would swallow the next request",
               post("Content-Length: 4", te, body=b"40\r\n"), verdict=TAINT)
    yield Case("2", "gzip, chunked", post("Transfer-Encoding: gzip, chunked", body=CHUNKED),
               verdict=CLEAN)
    yield Case("3", "chunked, identity", post("Transfer-Encoding: chunked, identity", body=CHUNKED),
               verdict=TAINT)
    yield Case("4a", "two chunked fields", post(te, te, body=CHUNKED), verdict=TAINT)
    yield Case("4b", "chunked, chunked", post("Transfer-Encoding: chunked, chunked", body=CHUNKED),
               verdict=TAINT)
    yield Case("4c", "Chunked in another case, tab before it",
               post("transfer-encoding:\tChunked", body=CHUNKED))
    yield Case("4d", "xchunked", post("Transfer-Encoding: xchunked", body=CHUNKED), verdict=LOOSE)
    yield Case("4e", "chunked in HTTP/1.0",
               post(te, body=CHUNKED, line="POST /v1/enrich HTTP/1.0"), verdict=LOOSE)
    yield Case("9", "equal lengths twice",
               post("Content-Length: 3", "Content-Length: 3", body=b"abc"), verdict=TAINT)
    bad = {"a": ("Content-Length: 3", "Content-Length: 5"), "b": ("Content-Length: 3, 3",),
           "c": ("Content-Length: +3",), "d": ("Content-Length: -1",),
           "e": ("Content-Length: 99999999999999999999999",), "f": ("Content-Length: 0x3",),
           "g": ("Content-Length: 3 3",), "h": ("Content-Length: 18446744073709551619",)}
    for letter, headers in bad.items():
        yield Case("10" + letter, " and ".join(headers), post(*headers, body=b"abc"),
                   verdict=TAINT)
    yield Case("10i", "an empty length", post("Content-Length:"), verdict=LOOSE)
    yield Case("10j", "leading zeros, spaces around",
               post("Content-Length:   0003  ", body=b"abc"))
    yield Case("11", "GET with a body",
               then_m(lambda a, v: head("GET /v1/a HTTP/1.1", "Content-Length: 5", key=a) + b"hello"))
    yield Case("11b", "POST without a length", post())


def _chunks():
    def chunked(body, *headers):
        return post("Transfer-Encoding: chunked", *headers, body=body)
    yield Case("15a", "chunk extension", chunked(b"3;a=1\r\nabc\r\n0;b\r\n\r\n"))
    yield Case("15b", "quoted chunk extension", chunked(b'3;a="x;y"\r\nabc\r\n0\r\n\r\n'))
    yield Case("15c", "a long chunk extension", chunked(b"3;" + b"e" * 3000 + b"\r\nabc\r\n0\r\n\r\n"))
    yield Case("16", "chunk size ended by bare LF", chunked(b"3\nabc\r\n0\r\n\r\n"), verdict=TAINT)
    yield Case("17a", "chunk without CRLF", chunked(b"3\r\nabc0\r\n\r\n"), verdict=TAINT)
    yield Case("17b", "chunk size 0x3", chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), verdict=TAINT)
    yield Case("17c", "chunk size +3", chunked(b"+3\r\nabc\r\n0\r\n\r\n"), verdict=TAINT)
    yield Case("17d", "chunk size over 64 bits", chunked(b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
               verdict=TAINT)
    yield Case("17e", "leading zeros in the size", chunked(b"0000000003\r\nabc\r\n000\r\n\r\n"))
    yield Case("18a", "a trailer that carries a key", then_m(
        lambda a, v: head("POST /v1/enrich HTTP/1.1", "Transfer-Encoding: chunked", key=a)
        + b"3\r\nabc\r\n0\r\nX-API-Key: " + v + b"\r\n\r\n"))
    yield Case("18b", "a trailer that carries a length",
               chunked(b"3\r\nabc\r\n0\r\nContent-Length: 50\r\n\r\n"))
    yield Case("18c", "a key in the trailer only", then_m(
        lambda a, v: head("POST /v1/enrich HTTP/1.1", "Transfer-Encoding: chunked")
        + b"3\r\nabc\r\n0\r\nX-API-Key: " + v + b"\r\n\r\n"), owners="-M")


def _heads():
    yield Case("5", "space before the colon of the key", get(name="X-API-Key "), verdict=TAINT)
    yield Case("6", "folded key", then_m(lambda a, v: head("GET /v1/a HTTP/1.1",
               b"X-API-Key: " + a + b"\r\n " + v)), verdict=TAINT)
    yield Case("6b", "another header folded over a key", then_m(lambda a, v: head(
               "GET /v1/a HTTP/1.1", b"X-Other: 1\r\n X-API-Key: " + v, key=a)), verdict=TAINT)
    yield Case("7", "bare LF", then_m(
        lambda a, v: head("GET /v1/a HTTP/1.1", key=a).replace(CRLF, b"\n")))
    yield Case("8a", "NUL in a value", get(b"X-Other: a\0b"), verdict=TAINT)
    yield Case("8b", "bare CR in a value", then_m(lambda a, v: head(
               "GET /v1/a HTTP/1.1", b"X-Other: a\rX-API-Key: " + v, key=a)), verdict=TAINT)
    yield Case("8c", "NUL in the key", then_m(lambda a, v: head(
               "GET /v1/a HTTP/1.1", key=a + b"\0" + v)), verdict=TAINT)
    yield Case("20", "HTTP/0.9", lambda a, m, v: b"GET /v1/a\r\n", owners="-")
    yield Case("21", "method FOO", get(line="FOO /v1/a HTTP/1.1"))
    yield Case("22", "absolute-form", get(line="GET http://api.test/v1/a HTTP/1.1"),
               routes=("/v1/**", "/v1/**"))
    yield Case("22b", "absolute-form without a path", get(line="GET http://api.test HTTP/1.1"))
    yield Case("23", "OPTIONS *", get(line="OPTIONS * HTTP/1.1"))
    yield Case("24a", "blank lines before a request", then_m(
        lambda a, v: b"\r\n\r\n" + head("GET /v1/a HTTP/1.1", key=a)), request_bytes=False)
    yield Case("24b", "a blank line after a body",
               post("Content-Length: 3", body=b"abc\r\n"), request_bytes=False)
    yield Case("30a", "the key twice, different", then_m(lambda a, v: head(
               "GET /v1/a HTTP/1.1", b"X-API-Key: " + v, key=a)), owners="-M")
    yield Case("30b", "the key twice, the same", then_m(lambda a, v: head(
               "GET /v1/a HTTP/1.1", b"x-api-key: " + a, key=a)))
    yield Case("30c", "a key in the header, another in the query: the first source wins", then_m(
        lambda a, v: head(b"GET /v1/a?api_key=" + v + b" HTTP/1.1", key=a)))
    yield Case("31a", "the name in another case", get(name="x-aPi-kEY"))
    yield Case("31b", "an empty key", then_m(lambda a, v: head("GET /v1/a HTTP/1.1", key=b" ")),
               owners="-M")
    yield Case("31c", "a key that is not ASCII", get())     # the runner makes it so
    yield Case("31d", "no key", then_m(lambda a, v: head("GET /v1/a HTTP/1.1")), owners="-M")
    yield Case("32", "X_Api_Key is another header", then_m(
        lambda a, v: head("GET /v1/a HTTP/1.1", key=v, name="X_Api_Key")), owners="-M")
    yield Case("33a", "a key of 5 KiB", get())              # the runner makes it so
    yield Case("33b", "a key after 6 KiB of headers", then_m(lambda a, v: head(
        "GET /v1/a HTTP/1.1", *(f"X-Fill-{i}: {'f' * 480}" for i in range(12)),
        b"X-API-Key: " + a)))
    yield Case("34a", "200 headers", get(*(f"X-H-{i}: {i}" for i in range(200))))
    yield Case("34b", "a head of 20 KiB", get(*(f"X-H-{i}: {'h' * 1000}" for i in range(20))))
    yield Case("34c", "a target of 9 KiB", get(line="GET /v1/" + "t" * 9000 + " HTTP/1.1"))
    yield Case("47", "a header without a colon", get("NoColon"), verdict=LOOSE)
    yield Case("48", "a first header that is folded", then_m(
        lambda a, v: b"GET /v1/a HTTP/1.1\r\n X: 1\r\nHost: h\r\nX-API-Key: " + a + CRLF * 2),
        verdict=LOOSE)
    yield Case("49", "two spaces in the request line", get(line="GET  /v1/a  HTTP/1.1"),
               verdict=LOOSE)
    for letter, version in (("a", "HTTP/1.2"), ("b", "HTTP/2.0"), ("c", "HTTP/9.9"),
                            ("d", "http/1.1"), ("e", "HTTP/1.10"), ("f", "HTTP/01.1")):
        yield Case("50" + letter, "version " + version, get(line="GET /v1/a " + version),
                   verdict=LOOSE)
    yield Case("51", "the preface of HTTP/2", then_m(
        lambda a, v: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), verdict=LOOSE)
    yield Case("52", "a TLS hello", then_m(
        lambda a, v: bytes.fromhex("16030100c4010000c00303") + b"\0" * 190), verdict=LOOSE)
    yield Case("36a", "dot segments, unreserved decoding", then_m(lambda a, v: head(
        "POST /v1/x/../%64ocuments/./7/extract?x=/../y HTTP/1.1", "Content-Length: 0", key=a)),
        methods=("POST", "GET"), routes=("/v1/documents/{id}/extract", "/v1/**"))
    yield Case("36b", "slashes are merged", get(line="GET //v1/files//7 HTTP/1.1"),
               routes=("/v1/files/{size}", "/v1/**"))
    yield Case("36c", "%2F is a slash", get(line="GET /a/../b//c/./%2e%2e/d%2Fe?x=1 HTTP/1.1"),
               extra_routes=("/b/d/{one}",), routes=("/b/d/{one}", "/v1/**"))


def _bodies():
    yield Case("12", "two pipelined requests, two keys", get(), routes=("/v1/**", "/v1/**"))
    yield Case("13a", "a body that holds a request of another customer", then_m(
        lambda a, v: head("POST /v1/enrich HTTP/1.1", f"Content-Length: {len(forged(v))}", key=a)
        + forged(v)), methods=("POST", "GET"), routes=("/v1/enrich", "/v1/**"))
    yield Case("13b", "the same, chunked", then_m(
        lambda a, v: head("POST /v1/enrich HTTP/1.1", "Transfer-Encoding: chunked", key=a)
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(forged(v)), forged(v))), methods=("POST", "GET"))
    yield Case("13c", "many forged requests in a large body", then_m(
        lambda a, v: head("POST /v1/enrich HTTP/1.1", f"Content-Length: {40 * len(forged(v))}",
                          key=a) + forged(v) * 40), methods=("POST", "GET"))
    yield Case("14", "the same after Expect: 100-continue", then_m(
        lambda a, v: head("POST /v1/enrich HTTP/1.1", "Expect: 100-continue",
                          f"Content-Length: {len(forged(v))}", key=a) + forged(v)),
        methods=("POST", "GET"), wait_after=b"\r\n\r\n")
    yield Case("29", "an early final response during an upload", then_m(
        lambda a, v: head("POST /status/413 HTTP/1.1", "Content-Length: 3000", key=a)
        + b"u" * 3000), methods=("POST", "GET"), wait_after=b"uuuuuuuuuu")


def _connections():
    yield Case("19a", "HTTP/1.0", get(line="GET /v1/a HTTP/1.0"))
    yield Case("19b", "HTTP/1.0 with keep-alive", get("Connection: keep-alive",
                                                      line="GET /v1/a HTTP/1.0"))
    yield Case("25a", "HEAD", get(line="HEAD /v1/files/1000 HTTP/1.1"), methods=("HEAD", "GET"),
               routes=("/v1/files/{size}", "/v1/**"))
    yield Case("25b", "204", get(line="GET /status/204 HTTP/1.1"),
               routes=("/status/{code}", "/v1/**"))
    yield Case("25c", "304", get(line="GET /status/304 HTTP/1.1"))
    yield Case("25d", "HEAD of a chunked resource", get(line="HEAD /chunked/5 HTTP/1.1"),
               methods=("HEAD", "GET"))
    yield Case("26", "103 before 200", get(line="GET /early HTTP/1.1"), needs="sends_early_hints")
    yield Case("27", "101, then bytes that look like a request", lambda a, m, v: head(
        "GET /upgrade HTTP/1.1", "Connection: Upgrade", "Upgrade: echo", key=a)
        + forged(v) * 3, owners="A", needs="upgrades", wait_after=b"\r\n\r\n")
    yield Case("27b", "an Upgrade that the server declines",
               get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"),
               verdict=LOOSE)
    yield Case("28", "a response without a length", get(line="GET /close HTTP/1.1"))
    yield Case("35", "Connection: close, then a second", get("Connection: close"))
    yield Case("53", "CONNECT that the server answers like any other",
               get(line="CONNECT api.test:80 HTTP/1.1"), methods=("GET",), verdict=LOOSE)
    yield Case("54", "sixty pipelined", lambda a, m, v: head("GET /v1/a HTTP/1.1", key=a) * 60
               + last(m), owners="A" * 60 + "M", verdict=LOOSE)


ALL = {c.row: c for group in (_framing, _chunks, _heads, _bodies, _connections) for c in group()}
