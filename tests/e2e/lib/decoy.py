# SPDX-License-Identifier: Apache-2.0
"""Hand-made TCP segments: a small TCP client of our own, and an injector beside a kernel socket.

    RawTcp    on a veth, an address that no kernel owns: every segment is ours, in any order,
              twice, overlapping, wrong in any way; the kernel on the other side cannot tell.
    RawMptcp  the same, as a subflow of MPTCP: what TCP takes can be old data to MPTCP.
    Injector  on loopback, for a connection of a kernel socket: it sniffs the sequence numbers
              (AF_PACKET) and sends with a raw socket, as a process on the same host could.

Offsets count the octets of the client's stream: 0 is the first octet after the SYN.
"""

import hashlib
import os
import random
import select
import socket
import struct
import time
from typing import NamedTuple

from .sandbox import VETH_SERVER, VETH_SERVER6, HarnessError, inside_netns, run

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86dd
RAW_ADDRESS, RAW_ADDRESS6 = "10.77.0.9", "fd77::9"


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Endpoint(NamedTuple):
    address: str
    port: int

    @property
    def family(self):
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def packed(self):
        return socket.inet_pton(self.family, self.address)


def build(src, dst, seq, ack, flags, payload=b"", options=b"", window=65535, urgent=0,
          bad_checksum=False, extension=lambda tcp: (6, tcp)):
    """A packet with one TCP segment. extension: of IPv6, the first next header and what follows it."""
    options += b"\1" * (-len(options) % 4)
    head = struct.pack("!HHIIBBHHH", src.port, dst.port, seq & 0xffffffff, ack & 0xffffffff,
                       (5 + len(options) // 4) << 4, flags, window, 0, urgent) + options
    pseudo = src.packed + dst.packed + struct.pack("!II", len(head) + len(payload), 6)
    value = checksum(pseudo + head + payload)
    if bad_checksum:
        value ^= 0x5555
    tcp = head[:16] + struct.pack("!H", value) + head[18:] + payload
    if src.family == socket.AF_INET6:
        following, rest = extension(tcp)
        return struct.pack("!IHBB", 6 << 28, len(rest), following, 64) + src.packed + dst.packed + rest
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), random.getrandbits(16), 0x4000, 64, 6, 0,
                     src.packed, dst.packed)
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


def whole_fragment(tcp):
    """RFC 6946: a fragment that is all of its packet."""
    return 44, struct.pack("!BBHI", 6, 0, 0, 0x1234) + tcp


def later_fragment(tcp):
    return 44, struct.pack("!BBHI", 6, 0, 8 | 1, 0x1234) + tcp


def destination_options(count):
    """That many headers, each of 8 octets of padding (RFC 8200 4.2)."""
    def extension(tcp):
        following = 6
        for _ in range(count):
            following, tcp = 60, struct.pack("!BBBB4x", following, 0, 1, 4) + tcp
        return following, tcp
    return extension


class Segment(NamedTuple):
    src: Endpoint
    dst: Endpoint
    seq: int
    ack: int
    flags: int
    payload: bytes
    ts_value: int
    ts_echo: int
    options: bytes


def dissect(packet):
    """The TCP segment of a packet; None if it is none, or has extension headers."""
    if len(packet) >= 40 and packet[0] >> 4 == 4 and packet[9] == 6:
        ihl, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
        tcp, src, dst = packet[ihl:total or len(packet)], packet[12:16], packet[16:20]
    elif len(packet) >= 60 and packet[0] >> 4 == 6 and packet[6] == 6:
        tcp = packet[40:40 + struct.unpack_from("!H", packet, 4)[0]]
        src, dst = packet[8:24], packet[24:40]
    else:
        return None
    family = socket.AF_INET if len(src) == 4 else socket.AF_INET6
    sport, dport, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", tcp)
    size = (offset >> 4) * 4
    value, echo = struct.unpack("!II", (option(tcp[20:size], 8) or b"").ljust(8, b"\0"))
    return Segment(Endpoint(socket.inet_ntop(family, src), sport),
                   Endpoint(socket.inet_ntop(family, dst), dport), seq, ack, flags, tcp[size:],
                   value, echo, tcp[20:size])


def option(options, kind):
    """What the first option of that kind holds; None: there is none."""
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        size = max(2, options[at + 1])
        if options[at] == kind:
            return options[at + 2:at + size]
        at += size
    return None


def ts_option(value, echo):
    return b"\1\1\x08\x0a" + struct.pack("!II", value & 0xffffffff, echo & 0xffffffff)


class RawTcp:
    """A TCP client made of single segments. Acknowledges what it gets, unless told not to.

    decoy, first: octets that come before the connection is there, at the place of its first ones: with an
    old timestamp, so that TCP refuses them; and with the acknowledgement that ends the handshake, as *how*
    says. later: (place, octets) of one more such decoy. stranger: octets that come before its handshake, far from the place where its stream will begin.
    """

    ether, address, server = ETH_P_IP, RAW_ADDRESS, VETH_SERVER

    def __init__(self, sandbox, port, decoy=b"", first=b"", stranger=b"", later=(0, b""), **how):
        self.dst = Endpoint(self.server, port)
        self.src = Endpoint(self.address, 40000 + random.randrange(20000))
        self.packet = sandbox.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(self.ether),
                                     client_side=True)
        with inside_netns(sandbox.netns_client):
            self.packet.bind(("veth0", self.ether))
        mine, theirs = self._macs(sandbox)
        run(["ip", "-n", sandbox.netns, "neigh", "replace", self.address, "lladdr", mine,
             "dev", "veth0", "nud", "permanent"])
        self.frame = bytes.fromhex(theirs.replace(":", "") + mine.replace(":", "") + f"{self.ether:04x}")
        self.iss, self.clock = random.getrandbits(32), random.randrange(10 ** 6, 10 ** 9)
        self.got, self.early, self.peer_ts, self.auto_ack = bytearray(), {}, 0, True
        self.copies = 0         # segments of the server that came again
        self.closed = False     # FIN or RST came
        self.next = 0           # offset after the highest octet sent as real
        self.irs = 0
        if stranger:
            self._emit(self.iss + (1 << 30), PSH | ACK, stranger)
        self._handshake(((0, decoy), later), first, how)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._emit(self.iss + 1 + self.next, RST | ACK)
        self.packet.close()

    @staticmethod
    def _macs(sandbox):
        def mac(ns):
            words = run(["ip", "-n", ns, "link", "show", "dev", "veth0"]).split()
            return words[words.index("link/ether") + 1]
        return mac(sandbox.netns_client), mac(sandbox.netns)

    def _emit(self, seq, flags, payload=b"", ack_delta=0, ts_delta=0, options=b"", **wrong):
        self.clock += 1
        options += ts_option(self.clock + ts_delta, self.peer_ts)
        ack = 0 if flags & SYN and not flags & ACK else self.irs + 1 + len(self.got) + ack_delta
        self.packet.send(self.frame + build(self.src, self.dst, seq, ack, flags, payload, options,
                                            **wrong))

    def _handshake(self, decoys, first, how):
        self._emit(self.iss, SYN, options=b"\2\4\x05\xb4" + self._syn_options())
        deadline = time.monotonic() + 5
        while True:
            segment = self._receive(deadline)
            if segment is None:
                raise HarnessError("no SYN-ACK for a hand-made connection")
            if segment.flags & (SYN | ACK) == SYN | ACK:
                break
        self.irs, self.peer_ts = segment.seq, segment.ts_value
        self._answered(segment)
        for place, octets in decoys:
            if octets:
                self._emit(self.iss + 1 + place, PSH | ACK, octets, ts_delta=-100000)
        how = {"options": self._ack_options(first), **how}
        self._emit(self.iss + 1, PSH | ACK if first else ACK, first, **how)
        self.next = len(first)

    def _syn_options(self):
        return b""

    def _answered(self, segment):
        """The SYN-ACK came."""

    def _ack_options(self, first):
        return b""

    def _receive(self, deadline):
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.packet], [], [], left)[0]:
                return None
            segment = dissect(self.packet.recv(1 << 17)[14:])
            if segment and (segment.src, segment.dst) == (self.dst, self.src):
                return segment

    def segment(self, offset, payload, flags=PSH | ACK, **wrong):
        """Sends payload at a place of the stream. wrong: bad_checksum, ts_delta, ack_delta, urgent,
        window, options; they do not move the stream on."""
        self._emit(self.iss + 1 + offset, flags, payload, **wrong)

    def real(self, payload):
        """The next octets of the stream, in order."""
        self.segment(self.next, payload)
        self.next += len(payload)

    def _take(self, segment):
        offset = (segment.seq - self.irs - 1) & 0xffffffff
        offset -= 1 << 32 if offset > 1 << 31 else 0
        self.closed |= bool(segment.flags & (FIN | RST))
        if segment.payload:
            self.copies += offset < len(self.got)
            self.early[offset] = segment.payload
            for at in sorted(self.early):
                if at <= len(self.got):
                    self.got += self.early.pop(at)[len(self.got) - at:]
            if self.auto_ack:
                self._emit(self.iss + 1 + self.next, ACK)

    def read_until(self, condition, seconds=5):
        """Takes what the server sends until condition(self)."""
        deadline = time.monotonic() + seconds
        while not condition(self):
            segment = self._receive(deadline)
            if segment is None:
                raise HarnessError(f"the server's answer did not come: {bytes(self.got[-200:])!r}")
            self.peer_ts = segment.ts_value or self.peer_ts
            self._take(segment)


class RawTcp6(RawTcp):
    """The same over IPv6."""

    ether, address, server = ETH_P_IPV6, RAW_ADDRESS6, VETH_SERVER6


class RawMptcp(RawTcp):
    """
    A subflow of MPTCP version 1 (RFC 8684), without checksums. real() sends data that is new; old() sends
    octets that are said to be the data's first ones: TCP takes them, and MPTCP throws them away.
    falls_back: it asks for MPTCP, and then does not go on with it.
    """

    CAPABLE = bytes([0x01, 0x01])       # MP_CAPABLE, version 1, HMAC-SHA256

    def __init__(self, *args, falls_back=False, **how):
        self.falls_back, self.key = falls_back, os.urandom(8)
        self.peer_key, self.data = b"", 0       # octets of data sent
        super().__init__(*args, **how)

    @staticmethod
    def _option(content):
        return bytes([30, 2 + len(content)]) + content

    def _syn_options(self):
        return self._option(self.CAPABLE)

    def _answered(self, segment):
        self.peer_key = (option(segment.options, 30) or b"")[2:10]
        if len(self.peer_key) != 8:
            raise HarnessError("the server does not speak MPTCP")

    def _capable(self, payload):
        """The third MP_CAPABLE: alone in the handshake, then once more with the first data."""
        keys = self.CAPABLE + self.key + self.peer_key
        return self._option(keys + struct.pack("!H", len(payload)) if payload else keys)

    def _ack_options(self, first):
        self.data = len(first)
        return b"" if self.falls_back else self._capable(first)

    @staticmethod
    def _sequence(key, data):
        """What the octet of that number of the data is called by who has this key, in 8 octets."""
        (initial,) = struct.unpack("!Q", hashlib.sha256(key).digest()[24:])
        return struct.pack("!Q", (initial + 1 + data) % 2 ** 64)

    def _acknowledged(self):
        return self._sequence(self.peer_key, len(self.got))

    def _mapping(self, data, payload):
        """DSS, with an acknowledgement of data."""
        return self._option(bytes([0x20, 0x0f]) + self._acknowledged() + self._sequence(self.key, data)
                            + struct.pack("!IH", 1 + self.next, len(payload)))

    def _emit(self, seq, flags, *args, options=b"", **how):
        if flags == ACK and not options and not self.falls_back:
            options = self._option(bytes([0x20, 0x03]) + self._acknowledged())
        super()._emit(seq, flags, *args, options=options, **how)

    def real(self, payload):
        if self.falls_back:
            return super().real(payload)
        self.segment(self.next, payload, options=self._mapping(self.data, payload)
                     if self.next else self._capable(payload))
        self.next += len(payload)
        self.data += len(payload)
        return None

    def old(self, payload):
        self.segment(self.next, payload, options=self._mapping(0, payload))
        self.next += len(payload)


class Injector:
    """Segments beside a connection of a kernel socket on loopback."""

    def __init__(self, sandbox, sock):
        self.src, self.dst = Endpoint(*sock.getsockname()), Endpoint(*sock.getpeername())
        self.sniffer = sandbox.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        with inside_netns(sandbox.netns):
            self.sniffer.bind(("lo", ETH_P_IP))
        self.raw = sandbox.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.last = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sniffer.close()
        self.raw.close()

    def follow(self, seconds=5):
        """Looks on until the client has acknowledged something: then its place is known."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self.sniffer], [], [], 0.02)[0]:
                segment = dissect(self.sniffer.recv(1 << 17)[14:])
                if segment and (segment.src, segment.dst) == (self.src, self.dst):
                    self.last = segment
            elif self.last:
                return self
        raise HarnessError("nothing of the connection was seen on lo")

    def segment(self, payload, offset=0, ts_delta=0, ack_delta=0, flags=PSH | ACK, **wrong):
        """offset counts from the next octet that the client will send."""
        seq = self.last.seq + len(self.last.payload) + offset
        packet = build(self.src, self.dst, seq, self.last.ack + ack_delta, flags, payload,
                       ts_option(self.last.ts_value + ts_delta, self.last.ts_echo), **wrong)
        self.raw.sendto(packet, (self.dst.address, 0))


# What TCP refuses, each as the arguments of segment(): (offset, arguments) ----------------------

REFUSED = {
    "bad checksum": (0, dict(bad_checksum=True)),
    "old timestamp": (0, dict(ts_delta=-10 ** 6)),
    "before the window": (-1 << 20, {}),
    "after the window": (1 << 30, {}),
    "acknowledges what was never sent": (0, dict(ack_delta=1 << 20)),
    "acknowledges the distant past": (0, dict(ack_delta=-1 << 30)),
    "no ACK flag": (0, dict(flags=PSH)),
    "SYN in the middle": (0, dict(flags=SYN | PSH | ACK)),
    "FIN with a bad checksum": (0, dict(flags=FIN | PSH | ACK, bad_checksum=True)),
    "RST with a bad checksum": (0, dict(flags=RST | PSH | ACK, bad_checksum=True)),
}
