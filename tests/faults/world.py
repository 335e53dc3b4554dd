# SPDX-License-Identifier: Apache-2.0
"""One world: nginx, clients that know the truth, tallyd on its own disk, topics, and the oracle.

    clients ──> nginx (own cgroup, own namespace; its log is the witness)
                  │ metered by
                tallyd ── state on an ext4 in a file (it can fill, break, lose power)
                  └──> proxy ──> Kafka ──> kcat, read_committed, no deduplication

    the identity, at every close(), per key, method, route and status, in requests and in bytes:
        sent by the clients = logged by nginx = consumed (each id once) + spooled + in the kernel
"""

import contextlib
import ctypes
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import jsonschema

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/e2e"), str(TOP / "tests/kafka")]

# pylint: disable=wrong-import-position
from lib import api  # noqa: E402
from lib.build import BUILD  # noqa: E402
from lib.ledger import Ledger  # noqa: E402
from lib.load import Load, Template  # noqa: E402
from lib.sandbox import HarnessError, Sandbox, wait_for  # noqa: E402
from lib.servers.nginx import Nginx  # noqa: E402
from lib.tallyd import Tallyd, service  # noqa: E402

FIELDS = ("requests", "request_bytes", "response_bytes")
TXN_S = 4           # transaction timeout: what a paused agent must exceed
DISK_MB = 48
READY_S = 120        # a machine that does much else verifies programs slowly
SAMPLE = 100        # records of a world that are held against the schema


def row_sums(value):
    """struct tally_row: requests, incomplete, request_bytes, response_bytes, duration_ns, late_bytes, ..."""
    requests, _, received, sent, _, late = struct.unpack_from("=6Q", value)
    return api.Sums(requests, received + late, sent)


PLACES, PLACE, ROW = 16384, 128, 80     # of one half; octets of one, and of the row at its end
BPF_OBJ_GET, BPF = 7, {"x86_64": 321, "aarch64": 280}


@contextlib.contextmanager
def mapped(pin, size):
    """The values of a pinned array that may be mapped."""
    path = ctypes.create_string_buffer(bytes(pin))
    attributes = ctypes.create_string_buffer(struct.pack("=QII", ctypes.addressof(path), 0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(BPF[os.uname().machine], BPF_OBJ_GET, attributes, len(attributes) - 1)
    if fd < 0:
        raise HarnessError(f"{pin}: {os.strerror(ctypes.get_errno())}")
    try:
        with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as values:
            yield values
    finally:
        os.close(fd)


class Broken(Exception):
    """The product broke a promise."""


def sh(*argv, check=True, timeout=60, **more):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout,
                          check=False, **more)
    if check and done.returncode != 0:
        raise HarnessError(f"{' '.join(map(str, argv))}: {done.returncode}: "
                           f"{done.stdout[-500:]}{done.stderr[-1500:]}")
    return done


def covers(file, other):
    """Are all epochs of the other one in this one, which a recovery would keep?"""
    def rank(f):
        return f["epoch_last"] - f["epoch_first"], f["folder"] == "batches"
    return file["epoch_first"] <= other["epoch_first"] and \
        other["epoch_last"] <= file["epoch_last"] and rank(file) > rank(other)


class Disk:
    """A small ext4 in a file: the state directory lives on it."""

    def __init__(self, folder, megabytes=DISK_MB):
        self.image, self.mount = folder / "disk.img", folder / "state"
        self.mount.mkdir(mode=0o700)
        with open(self.image, "wb") as f:
            os.truncate(f.fileno(), megabytes << 20)
        sh("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode", self.image)
        self.attach()

    def attach(self):
        sh("mount", "-o", "loop", self.image, self.mount)

    def detach(self):
        sh("umount", self.mount)

    def loop(self):
        return Path(sh("findmnt", "-no", "SOURCE", self.mount).stdout.strip()).name

    def fill(self):
        """Not one block is left."""
        with open(self.mount / "filler", "wb", buffering=0) as f:
            for size in (1 << 20, 1 << 16, 1 << 12, 512):
                with contextlib.suppress(OSError):
                    while True:
                        f.write(bytes(size))

    def relieve(self):
        (self.mount / "filler").unlink(missing_ok=True)

    def repair(self):
        """As a boot does: journal replayed, file system checked.

        On a copy of the image: somebody else's mount namespace may hold the broken one for a while,
        and to mount the same file again would give us that one back.
        """
        self.detach()
        copy = self.image.with_name(f"disk.{time.monotonic_ns()}.img")
        sh("cp", "--sparse=always", self.image, copy)
        self.image.unlink()
        self.image = copy
        done = sh("e2fsck", "-p", self.image, check=False)
        if done.returncode & ~3:
            raise HarnessError(f"e2fsck: {done.stdout} {done.stderr}")
        self.attach()


class Traffic:
    """Two clients, each a chain of short loads until stop(); the truth is the sum of all."""

    def __init__(self, world):
        self.world, self.truth, self.lost = world, api.new_tally(), 0
        self.over, self.lock, self.error = False, threading.Lock(), None
        self.threads, self.loads = [], set()

    def start(self):
        self.over = False
        self.threads = [threading.Thread(target=self._chain, args=args, daemon=True)
                        for args in zip((1.3, 3.1), self.world.mixes)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.over = True
        with self.lock:
            for load in self.loads:
                load.stop()
        for thread in self.threads:
            thread.join(60)
        self.threads = []
        if self.error:
            raise self.error

    def _chain(self, seconds, templates):
        seed = 0
        try:
            while not self.over:
                seed += 1
                self._run(seconds, templates, seed)
        except Exception as error:      # pylint: disable=broad-except
            self.error = error          # raised by stop()

    def _run(self, seconds, templates, seed):
        w = self.world
        with self.lock:
            if self.over:
                return
            load = Load(w.sandbox, w.keys, w.nginx.port, templates, 3, seconds=seconds, seed=seed)
            self.loads.add(load)
        if load.process.popen.wait(120) == -signal.SIGTERM:
            return      # stop() came before it could begin
        tally = load.result()
        with self.lock:
            self.loads.remove(load)
            for row, sums in tally.items():
                api.add(self.truth, row, sums)
            self.lost += load.lost


class Agent(Tallyd):
    """tallyd, also started under strace, in the background, and expected to fail."""

    def launch(self, *prefix, config=None):
        self.write_config()
        self.runs += 1
        path = self.sandbox.dir / f"notify.{self.runs}"
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(path))
        notify.settimeout(0.02)
        self.process = self.sandbox.spawn(
            f"tallyd.{self.runs}", [*prefix, self.sandbox.dir / "tallyd", "run", "--config",
                                    config or self.config_path],
            cgroup=False, netns=False, env={"NOTIFY_SOCKET": str(path)})
        return notify

    def start(self):
        with self.launch() as notify:
            wait_for(lambda: self._is_ready(notify), READY_S, lambda: f"ready: {self.log()[-2000:]}")
        return self

    def try_start(self, *prefix, seconds=READY_S):
        """Ready, or ended, whichever comes first. True: it runs."""
        with self.launch(*prefix) as notify:
            deadline = time.monotonic() + seconds
            while self.process.alive() and time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notify.recv(4096):
                        return True
            if self.process.alive():
                raise Broken(f"the agent is neither ready nor ended: {self.log()[-2000:]}")
            return False

    def alive(self):
        return self.process is not None and self.process.alive()

    def ensure(self):
        """Runs, started anew if a fault ended it."""
        if not self.alive():
            self.start()

    @property
    def proc(self):
        return Path("/proc", str(self.process.pid))

    def tell(self, sig):
        self.process.popen.send_signal(sig)

    def run(self, *words, timeout=60):
        return sh(self.sandbox.dir / "tallyd", *words, check=False, timeout=timeout)


class Consumer:
    """kcat, committed records only, from where it stopped last time. Nothing is deduplicated."""

    def __init__(self, address, topic, partitions):
        self.address, self.topic = address, topic
        self.next = dict.fromkeys(range(partitions), 0)

    def read(self, isolation="read_committed"):
        events = []
        for partition, offset in self.next.items():
            out = sh("kcat", "-C", "-q", "-e", "-b", self.address, "-t", self.topic,
                     "-p", partition, "-o", offset, "-X", f"isolation.level={isolation}",
                     "-f", "%o %s\\n").stdout
            for line in out.splitlines():
                at, _, value = line.partition(" ")
                self.next[partition] = int(at) + 1
                events.append(json.loads(value))
        return events


class World:
    """See the module. *limits* make its maps overflow; audit_codes is what audit may say."""

    def __init__(self, kafka, name, limits=None, customers=4, window="1s"):
        self.kafka, self.name, self.topics = kafka, name, f"{name}.{os.getpid()}"
        with contextlib.ExitStack() as undo:    # nothing is left of one that cannot be made
            self.sandbox = undo.enter_context(Sandbox(name))
            self.make(limits, customers, window)
            self.undo = undo.pop_all()

    def make(self, limits, customers, window):
        self.disk = Disk(self.sandbox.dir)
        self.sandbox.undo.callback(sh, "umount", "-l", self.disk.mount, check=False)
        shutil.copy2(BUILD / "tallyd", self.sandbox.dir / "tallyd")
        self.keys = api.Keys()
        self.window = window
        # one mix for each client: the generator takes 1,024 templates
        self.mixes = [self.mix("a", customers)] * 2 if not limits else \
            [self.mix("a", customers), self.mix("b", customers)]
        self.cgroup_path = self.sandbox.new_cgroup("api")
        self.cgroup = self.sandbox.cgroup / "api"
        self.nginx = Nginx(self.sandbox, self.keys, cgroup=self.cgroup_path).start()
        self.agent = self.make_agent(limits or {})
        self.traffic = Traffic(self)
        self.logged, self.log_offset = api.new_tally(), 0
        self.events, self.ids, self.consumed = [], set(), api.new_tally()
        self.declared = 0
        self.quiet = 0          # bytes of the log when traffic was stopped last
        for topic in ("records", "control", "progress"):
            self.kafka.create(f"{self.topics}.{topic}", 2)
        self.records = Consumer(self.kafka.address, f"{self.topics}.records", 2)
        self.audit_codes = {0}
        self.exact_rows = not limits

    def mix(self, prefix, customers):
        """Paced by /slow, so that a window holds hundreds of requests and not ten thousands."""
        templates = []
        for i in range(customers):
            key = self.keys.new(f"{prefix}{i}")
            templates += [
                Template("POST", "/v1/enrich", key, b"b" * (50 + 37 * (i % 9)), weight=3),
                Template("POST", f"/v1/documents/{i}/extract", key, b"d" * 300, weight=2),
                Template("GET", "/v1/files/1000", key, weight=2),
                Template("GET", f"/chunked/{i % 9 + 1}", key),
                Template("GET", "/status/404", key),
                Template("GET", "/v1/files/65536", key),
                Template("GET", "/slow?s=0.02", key, weight=10),
            ]
        return templates + [Template("GET", "/v1/anything", None)]

    def make_agent(self, limits):
        topics = {t: f"{self.topics}.{t}" for t in ("records", "control", "progress")}
        kafka = {"brokers": self.kafka.proxy.address, "topics": topics, "partitions": 2,
                 "transaction_timeout": f"{TXN_S}s",
                 "properties": {"socket.timeout.ms": "2000", "reconnect.backoff.max.ms": "500"}}
        return Agent(self.sandbox, self.keys,
                     [service("api", self.nginx.ports, self.cgroup_path)],
                     window=self.window, sinks=[{"kafka": kafka}],
                     agent={"state_dir": str(self.disk.mount / "tallyd"), "limits": limits,
                            "log": {"level": "debug"}})

    def close(self):
        self.traffic.over = True
        if self.agent.alive():
            self.agent.tell(signal.SIGCONT)
        self.undo.close()

    # --- what is where ---------------------------------------------------------------------------

    @property
    def state(self):
        return self.disk.mount / "tallyd"

    def spool(self):
        """[{folder, file, records, state, ...}] of what waits on disk."""
        done = self.agent.run("spool", "ls", "-d", self.state, "-o", "json")
        if done.returncode not in (0, 1):
            raise Broken(f"spool ls: {done.returncode}: {done.stderr[-500:]}")
        return json.loads(done.stdout or "[]")

    def waiting(self):
        """What is still to be shipped. A kill between a merge or a batch and the removal of what went
        into it leaves both: then what another file covers counts there, once."""
        files = [f for f in self.spool() if f["folder"] != "quarantine"]
        return [f for f in files if not any(covers(other, f) for other in files)]

    @staticmethod
    def total(tally):
        return api.total(tally)

    def rows_of(self, file):
        """A file of the spool, as a tally with the rows of the oracle."""
        tally = api.new_tally()
        if file["folder"] == "batches":
            done = self.agent.run("spool", "export", "-d", self.state, file["file"])
            for event in map(json.loads, done.stdout.splitlines()):
                if event["type"] == "io.tallyd.usage.v1":
                    d = event["data"]
                    api.add(tally, (d["api_key_id"], d["method"], d["route"], d["status"]),
                            api.Sums(*(d[f] for f in FIELDS)))
            return tally
        done = self.agent.run("spool", "show", "-d", self.state, file["file"])
        for line in done.stdout.splitlines():
            if re.match(r"\d{4}-\d\d-\d\dT", line):
                key, _, method, route, status, *sums = line.split()[-8:]
                key = key if key.startswith("key_") else None
                api.add(tally, (key, method, route, int(status)), api.Sums(*map(int, sums)))
        return tally

    def spooled(self):
        total = api.Sums()
        for file in self.waiting():
            total = total.plus(api.total(self.rows_of(file)))
        return total

    def in_kernel(self):
        """What the pinned ledgers hold, the open one and the frozen ones, as bpftool reads them."""
        total, sealed = api.Sums(), self.sealed_windows()
        for pin in self.agent.pin_dir.glob("epoch-*-*"):
            number, _, what = pin.name[6:].partition("-")
            if what == "totals" or int(number) in sealed:
                continue
            rows = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", pin).stdout)
            for row in rows:
                total = total.plus(row_sums(bytes(int(b, 16) for b in row["value"])))
            if what == "rows":
                total = total.plus(self.in_places(int(number)))
        return total

    def in_places(self, number):
        """Rows of that epoch which stand in their connection's place (include/tally/ledger.h)."""
        total = api.Sums()
        with mapped(self.agent.pin_dir / "places", 2 * PLACES * PLACE) as places:
            for at in range(0, len(places), PLACE):
                conn, epoch = struct.unpack_from("<Q32xI", places, at)
                if conn and epoch == number:
                    total = total.plus(row_sums(places[at + PLACE - ROW:at + PLACE]))
        return total

    def sealed_windows(self):
        """Windows of the ledger that are sealed. One whose pins stand, too, counts once, on the disk."""
        return {f["window"] - back for f in self.spool() if f["folder"] == "sealed"
                for back in range(f["epoch_last"] - f["epoch_first"] + 1)}

    def lose(self, tally):
        """Declared lost: stands on the side of what was consumed."""
        self.declared += api.total(tally).requests
        for row, sums in tally.items():
            api.add(self.consumed, row, sums)

    def consume(self):
        """Adds what came; an id that came before is a double."""
        for event in self.records.read():
            identity = (event["source"], event["id"])
            if identity in self.ids:
                raise Broken(f"{identity} was read twice by a read_committed consumer")
            self.ids.add(identity)
            d = event["data"]
            row = (d["api_key_id"], d["method"], d["route"], d["status"])
            api.add(self.consumed, row, api.Sums(*(d[f] for f in FIELDS)))
            self.events.append(event)

    def read_log(self):
        """nginx's own account, up to the last whole line."""
        with open(self.nginx.log, "rb") as f:
            f.seek(self.log_offset)
            data = f.read()
        data = data[:data.rfind(b"\n") + 1]
        self.log_offset += len(data)
        for line in data.decode("latin-1").split("\n")[:-1]:
            e = self.nginx.parse_line(line)
            row = (self.keys.id_of(e.key), e.method, api.route_of(e.method, e.target), e.status)
            api.add(self.logged, row, api.Sums(1, e.received, e.sent))

    # --- the oracle ------------------------------------------------------------------------------

    def settle(self, seconds=90):
        """Everything answered is shipped: the agent ends in order and nothing waits on its disk."""
        deadline = time.monotonic() + seconds
        while True:
            self.agent.ensure()
            code = self.agent.process.stop(signal.SIGTERM, 60)
            if code == 0 and not self.waiting():
                return
            if time.monotonic() > deadline:
                raise Broken(f"not shipped in {seconds} s; exit {code}; {self.waiting()}; "
                             f"{self.agent.log()[-3000:]}")

    def close_books(self):
        """Returns figures; raises Broken with what differs. Traffic and agent are stopped after."""
        self.traffic.stop()
        self.settle()
        return self.compare()

    def compare(self):
        truth = self.traffic.truth
        if self.traffic.lost:
            raise Broken(f"{self.traffic.lost} requests were not answered")

        def logged():
            self.read_log()
            return api.total(self.logged).requests >= api.total(truth).requests
        wait_for(logged, 10, "nginx's log to hold every answer")
        self.consume()
        problems = api.explain(truth, self.logged, names=("sent", "logged"))
        problems += self.differences(truth)
        if problems:
            raise Broken("the books do not close:\n" + problems)
        self.audit()
        self.check_schema()
        self.check_overflow()
        total = api.total(truth)
        return {"requests": total.requests, "bytes": total.request_bytes + total.response_bytes,
                "records": len(self.ids)}

    def check_overflow(self):
        """Rows that found no room are in the totals, under their reason."""
        overflow = sum(e["data"]["requests"] for e in self.events
                       if e["data"]["attribution"] == "overflow")
        if bool(overflow) == self.exact_rows:
            raise Broken(f"{overflow} requests are under `overflow`")

    def differences(self, truth):
        if self.exact_rows:
            return api.explain(truth, self.consumed, names=("answered", "consumed"))
        return api.explain({"total": api.total(truth)}, {"total": api.total(self.consumed)},
                           names=("answered", "consumed"))

    def check_schema(self):
        """Some of each topic, as deploy/schema says."""
        controls = Consumer(self.kafka.address, f"{self.topics}.control", 2).read()
        for name, events in (("record", self.events), ("control", controls)):
            text = (TOP / f"deploy/schema/{name}.schema.json").read_text(encoding="utf-8")
            schema = jsonschema.Draft202012Validator(json.loads(text))
            for event in events[-SAMPLE:]:
                for error in schema.iter_errors(event):
                    raise Broken(f"{name}: {error.message}: {event}")

    def audit(self):
        done = self.agent.run("audit", "--brokers", self.kafka.address, "--strict",
                              "--topic-records", f"{self.topics}.records",
                              "--topic-control", f"{self.topics}.control")
        if done.returncode not in self.audit_codes:
            raise Broken(f"audit: {done.returncode}, not in {self.audit_codes}: "
                         f"{done.stdout[-2000:]}{done.stderr[-1000:]}")

    def ledger(self):
        return Ledger(self.events)
