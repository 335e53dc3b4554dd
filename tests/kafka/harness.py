# SPDX-License-Identifier: Apache-2.0
"""What the Kafka tests share: the driver, a consumer that knows nothing of us, and the oracle."""
import collections
import json
import os
import signal
import subprocess
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("BUILD", os.path.join(TOP, "build")))
JARS = os.environ.get("KAFKA_JARS", os.path.join(BUILD, "kafka"))
DRIVER = os.path.join(BUILD, "test", "kafka-driver")
TALLYD = os.path.join(BUILD, "tallyd")
RECORDS, CONTROL, PROGRESS, CONNECTIONS = "records", "control", "progress", "connections"


def prepare():
    """Builds the driver, fetches the broker."""
    subprocess.run([os.path.join(TOP, "scripts/fetch-kafka.sh"), JARS], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["make", "-s", f"BUILD={BUILD}", f"{BUILD}/obj/libtally.a", f"{BUILD}/tallyd"],
                   check=True, cwd=TOP, stdout=subprocess.DEVNULL)
    os.makedirs(os.path.dirname(DRIVER), exist_ok=True)
    subprocess.run(["gcc", "-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", "-w", f"-I{TOP}/include",
                    f"-I{TOP}/user", "-o", DRIVER, f"{TOP}/tests/kafka/driver.c",
                    f"{BUILD}/obj/libtally.a", "-lrdkafka", "-ljansson", "-lcrypto", "-lpthread"],
                   check=True)


class Agent:
    """The driver on a state directory; `topics` is the prefix of its three topics."""

    def __init__(self, folder, address, topics, rows=20, extra=()):
        self.folder, self.address, self.topics, self.rows = folder, address, topics, rows
        self.extra = list(extra)
        self.proc = None
        self.log = os.path.join(folder, "driver.log")
        self.state = os.path.join(folder, "state")
        os.makedirs(folder, exist_ok=True)

    def start(self, until, every_ms=20, grace_s=120):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(  # pylint: disable=consider-using-with
                [DRIVER, self.state, "--until", str(until), "--rows", str(self.rows),
                 "--every-ms", str(every_ms), "--grace-s", str(grace_s), "--kafka", self.address,
                 "--topics", self.topics, "--txn-ms", "6000", *self.extra],
                stdout=log, stderr=log)

    def kill(self, sig=signal.SIGKILL):
        self.proc.send_signal(sig)
        self.proc.wait(30)

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def wait(self, timeout=180):
        return self.proc.wait(timeout)

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-15:])


def truth(epochs, rows):
    out = subprocess.run([DRIVER, "--truth", str(epochs), "--rows", str(rows)], check=True,
                         stdout=subprocess.PIPE)
    return json.loads(out.stdout)


def consume(address, topic, timeout=120):
    """All committed values of a topic, as kcat reads them."""
    with tempfile.TemporaryFile() as out:
        subprocess.run(["kcat", "-C", "-q", "-e", "-b", address, "-t", topic,
                        "-X", "isolation.level=read_committed", "-f", "%p %k %s\n"],
                       check=True, stdout=out, timeout=timeout)
        out.seek(0)
        return out.read().decode().splitlines()


def usage(address, topics, name=RECORDS):
    """[(partition, key, record)]"""
    rows = []
    for line in consume(address, f"{topics}.{name}"):
        partition, key, value = line.split(" ", 2)
        rows.append((int(partition), key, json.loads(value)))
    return rows


def data_of(record):
    data = record["data"]
    return json.loads(data) if isinstance(data, str) else data


def sums(records):
    total = collections.Counter()
    for record in records:
        data = data_of(record)
        for name in ("requests", "request_bytes", "response_bytes"):
            total[name] += data[name]
    return dict(total)


def dedupe(rows):
    """By (source, id); the same id must be the same record in the same partition."""
    seen = {}
    for partition, key, record in rows:
        mark = (record["source"], record["id"])
        if mark in seen:
            assert seen[mark] == (partition, key, record), f"one id, two contents: {mark}"
        seen[mark] = (partition, key, record)
    return [entry[2] for entry in seen.values()]


def check_exact(address, topics, epochs, rows, duplicates=False):
    """Consumers hold the truth: each record once, or (duplicates) once after deduplication."""
    got = usage(address, topics)
    unique = dedupe(got)
    if not duplicates:
        assert len(got) == len(unique), f"{len(got) - len(unique)} records came twice"
    assert sums(unique) == truth(epochs, rows)
    return got


def audit(address, topics, *args):
    return subprocess.run([TALLYD, "audit", "--brokers", address, "--topic-records",
                           f"{topics}.{RECORDS}", "--topic-control", f"{topics}.{CONTROL}", "--topic-connections",
                           f"{topics}.{CONNECTIONS}", *args],
                          check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def murmur2_partition(key, partitions):
    """As org.apache.kafka.common.utils.Utils.murmur2 and the default partitioner do it."""
    data, m, mask = key.encode(), 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for i in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[i:i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = data[len(data) // 4 * 4:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions
