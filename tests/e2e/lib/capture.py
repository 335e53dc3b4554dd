# SPDX-License-Identifier: Apache-2.0
"""Packet captures: taken with tcpdump while a test runs, and changed by the test afterwards.

A changed capture is what another observer could have written: packets in another order (a switch, a
merge of two files), twice (a bridge), or not at all (a ring that overflowed).
"""

import re
import signal
import struct
from typing import NamedTuple

from .sandbox import need_program, wait_for


class Packet(NamedTuple):
    seconds: int
    nanos: int
    wire: int           # octets on the wire
    data: bytes         # of these, those captured

    def at(self):
        return self.seconds * 10 ** 9 + self.nanos


class Tcpdump:
    """Runs in the sandbox's namespace until stop(), which says how many packets it missed."""

    def __init__(self, sandbox, ports, path=None, device="lo", options=()):
        self.path = path or sandbox.dir / "capture.pcap"
        expression = " or ".join(f"tcp port {p}" for p in ports)
        self.process = sandbox.spawn(
            "tcpdump", [need_program("tcpdump"), "-i", device, "-w", self.path, "-Z", "root", "-U",
                        "-B", 131072, "--time-stamp-precision=nano", *options, expression],
            cgroup=False)
        wait_for(lambda: "listening on" in self.process.output(), 20, "tcpdump to listen")

    def stop(self, until=None):
        """until(packets) tells when everything is in the file. Returns (captured, dropped)."""
        if until:
            wait_for(lambda: until(read(self.path)), 20, "tcpdump to write what it saw")
        self.process.stop(signal.SIGINT)
        told = self.process.output()
        captured, dropped = (re.search(rf"(\d+) packets? {what}", told)
                             for what in ("captured", "dropped by kernel"))
        return int(captured[1]), int(dropped[1])


def header(link=1, snaplen=262144):
    return struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, snaplen, link)


def read(path):
    """Packets of a file with nanoseconds, as this class of tcpdump writes it."""
    raw, at, packets = path.read_bytes(), 24, []
    if len(raw) < 24:
        return packets
    assert struct.unpack_from("<I", raw)[0] == 0xa1b23c4d
    while at + 16 <= len(raw):
        seconds, nanos, captured, wire = struct.unpack_from("<IIII", raw, at)
        if at + 16 + captured > len(raw):
            break
        packets.append(Packet(seconds, nanos, wire, raw[at + 16:at + 16 + captured]))
        at += 16 + captured
    return packets


def write(path, packets, link=1):
    out = bytearray(header(link))
    for p in packets:
        out += struct.pack("<IIII", p.seconds, p.nanos, len(p.data), p.wire) + p.data
    path.write_bytes(out)
    return path


def with_link(packet, link):
    """The same IP packet (of Ethernet) behind another link layer, as its LINKTYPE number says."""
    ether, ip = packet.data[12:14], packet.data[14:]
    front = {0: struct.pack("<I", 2), 101: b"", 108: struct.pack(">I", 2), 228: b"",
             113: struct.pack(">HHH8s", 0, 1, 6, b"") + ether,
             276: ether + struct.pack(">HIHBB8s", 0, 1, 1, 0, 6, b"")}[link]
    return packet._replace(data=front + ip, wire=packet.wire - 14 + len(front))


def with_vlan(packet, *tags):
    """Behind as many VLAN tags (the outer ones of 802.1ad)."""
    words = b"".join(struct.pack(">HH", 0x88a8 if i + 1 < len(tags) else 0x8100, tag)
                     for i, tag in enumerate(tags))
    return packet._replace(data=packet.data[:12] + words + packet.data[12:],
                           wire=packet.wire + len(words))


class Tcp(NamedTuple):
    """The TCP segment in an Ethernet frame that carries IPv4 without options to TCP."""
    source: int
    target: int
    seq: int
    ack: int
    flags: int
    payload: bytes

    @classmethod
    def of(cls, packet):
        ip = packet.data[14:]
        head = (ip[0] & 15) * 4
        tcp = ip[head:struct.unpack_from(">H", ip, 2)[0] or None]
        source, target, seq, ack, offset, flags = struct.unpack_from(">HHIIBB", tcp)
        return cls(source, target, seq, ack, flags, tcp[(offset >> 4) * 4:])


def cut_segment(packet, at):
    """Two segments, before and after octet `at` of the payload (IPv4 over Ethernet)."""
    data, tcp = packet.data, Tcp.of(packet)
    start = len(data) - len(tcp.payload)

    def part(seq, payload, flags):
        ip = bytearray(data[14:start])
        struct.pack_into(">H", ip, 2, len(ip) + len(payload))
        head = (ip[0] & 15) * 4
        struct.pack_into(">I", ip, head + 4, seq & 0xffffffff)
        ip[head + 13] = flags
        frame = data[:14] + bytes(ip) + payload
        return packet._replace(data=frame, wire=len(frame))
    return [part(tcp.seq, tcp.payload[:at], tcp.flags & ~9),
            part(tcp.seq + at, tcp.payload[at:], tcp.flags)]
