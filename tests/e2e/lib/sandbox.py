# SPDX-License-Identifier: Apache-2.0
"""One sandbox per test: a cgroup v2 folder, a temporary folder, a network namespace.

    host ── tallyd (sees the cgroup, whatever the namespace)
      └─ cgroup  /<name>            servers run here
      └─ netns   <name>             servers listen here; lo is up, ports 22000-22999 are ours
           └─ veth (optional) ── netns <name>-c    the other end, for hand-made packets

Invariants: nothing outlives close(); a process is ended by the pid that we started, or that
stands in our own cgroup, never by name; a socket belongs to the namespace it was made in, so
only its creation needs to enter the namespace.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PORT_FIRST, PORT_LAST = 22000, 22999
VETH_SERVER, VETH_CLIENT = "10.77.0.1", "10.77.0.2"
VETH_SERVER6, VETH_CLIENT6 = "fd77::1", "fd77::2"
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)
# Not always from the first: services matched by port alone see the whole host, so two runs of
# this harness at once should not meet.
_RANGE = list(range(PORT_FIRST, PORT_LAST + 1))
_START = os.getpid() * 61 % len(_RANGE)
_ports = itertools.cycle(_RANGE[_START:] + _RANGE[:_START])


class HarnessError(Exception):
    """The harness itself (not tallyd, not a server) could not do its work."""


def wait_for(condition, seconds, what):
    """Returns the first true value of condition(); fails with *what* after *seconds*."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise HarnessError(f"waited {seconds} s for {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def cgroup2_root():
    """The mount point of cgroup v2, wherever this machine has it."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            if right.split()[0] == "cgroup2":
                return Path(left.split()[4])
    raise HarnessError("no cgroup v2 is mounted")


@contextlib.contextmanager
def inside_netns(name):
    """This thread is in the named network namespace for the time of the block."""
    if name is None:
        yield
        return
    with open("/proc/thread-self/ns/net", "rb") as old, open(f"/run/netns/{name}", "rb") as new:
        _setns(new.fileno())
        try:
            yield
        finally:
            _setns(old.fileno())


def _setns(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        err = ctypes.get_errno()
        raise HarnessError(f"setns: {os.strerror(err)}")


class Process:
    """A child that we started: its pid is the only handle by which it is ended."""

    def __init__(self, name, argv, popen, out_path):
        self.name, self.argv, self.popen, self.out_path = name, argv, popen, out_path

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def output(self):
        return Path(self.out_path).read_text(encoding="utf-8", errors="replace")

    def stop(self, sig=signal.SIGTERM, seconds=10):
        """Signals, waits, returns the exit status; SIGKILL if it does not end in time."""
        if self.alive():
            self.popen.send_signal(sig)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(5)
            raise HarnessError(f"{self.name} did not end within {seconds} s of {sig!r}\n"
                               f"{self.output()[-2000:]}") from None


class Sandbox:
    """See the module.

    veth: adds a second namespace and a pair of devices between them.
    exact: the window of a connection over lo starts wide open, so that small segments stay apart.
    """

    def __init__(self, label, netns=True, veth=False, exact=False):
        self.name = f"tally-e2e-{os.getpid()}-{next(_serial)}"
        self.label = label
        self.dir = Path(tempfile.mkdtemp(prefix=self.name + "-"))
        self.dir.chmod(0o755)       # servers give up root, and read their files here
        self.cgroup_path = "/" + self.name
        self.cgroup = cgroup2_root() / self.name
        self.netns = self.name if netns else None
        self.netns_client = self.name + "-c" if veth else None
        self.exact = exact
        self.processes = []
        self.undo = contextlib.ExitStack()
        try:
            self._make()
        except BaseException:
            self.undo.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _make(self):
        if not os.environ.get("TALLY_E2E_KEEP"):
            self.undo.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.cgroup.mkdir()
        self.undo.callback(self._remove_cgroup)
        for ns in filter(None, (self.netns, self.netns_client)):
            run(["ip", "netns", "add", ns])
            self.undo.callback(run, ["ip", "netns", "del", ns])
            run(["ip", "-n", ns, "link", "set", "lo", "up"])
            self._tune(ns)
        if self.exact:
            run(["ip", "-n", self.netns, "route", "replace", "local", "127.0.0.0/8", "dev", "lo",
                 "table", "local", "proto", "kernel", "scope", "host", "src", "127.0.0.1",
                 "initcwnd", "10000", "initrwnd", "1000"])
        if self.netns_client:
            self._make_veth()
        self.undo.callback(self._stop_processes)

    @staticmethod
    def _tune(ns):
        settings = {
            "net/ipv4/ip_local_port_range": "10240 65535",
            "net/ipv4/ip_local_reserved_ports": f"{PORT_FIRST}-{PORT_LAST}",
            "net/ipv4/tcp_tw_reuse": "1",
            "net/ipv4/tcp_max_syn_backlog": "65535",
            "net/core/somaxconn": "65535",
        }
        with inside_netns(ns):
            for key, value in settings.items():
                Path("/proc/sys", key).write_text(value, encoding="ascii")

    def _make_veth(self):
        a, b = self.netns, self.netns_client
        run(["ip", "-n", a, "link", "add", "veth0", "type", "veth",
             "peer", "name", "veth0", "netns", b])
        for ns, v4, v6 in ((a, VETH_SERVER, VETH_SERVER6), (b, VETH_CLIENT, VETH_CLIENT6)):
            run(["ip", "-n", ns, "addr", "add", v4 + "/24", "dev", "veth0"])
            run(["ip", "-n", ns, "addr", "add", v6 + "/64", "dev", "veth0", "nodad"])
            run(["ip", "-n", ns, "link", "set", "veth0", "up"])

    def new_cgroup(self, child):
        """A folder below the sandbox's own; returns its path relative to the root."""
        (self.cgroup / child).mkdir()
        return f"{self.cgroup_path}/{child}"

    def spawn(self, name, argv, cgroup=True, netns=True, client_side=False, env=None):
        """Starts argv; *cgroup* True: the sandbox's own, a path: that one, False: none of ours."""
        out_path = self.dir / f"{name}.out"
        ns = self.netns_client if client_side else self.netns
        prefix = ["nsenter", f"--net=/run/netns/{ns}"] if ns and netns else []
        if cgroup:
            path = self.cgroup_path if cgroup is True else cgroup
            procs = cgroup2_root() / path.lstrip("/") / "cgroup.procs"
            prefix = ["sh", "-c", f'echo 0 >"{procs}" && exec "$@"', "sh"] + prefix
        with open(out_path, "ab") as out:
            popen = subprocess.Popen(prefix + [str(a) for a in argv], stdin=subprocess.DEVNULL,
                                     stdout=out, stderr=out, cwd=self.dir,
                                     env={**os.environ, **(env or {})})
        process = Process(name, argv, popen, out_path)
        self.processes.append(process)
        return process

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, proto=0, client_side=False):
        with inside_netns(self.netns_client if client_side else self.netns):
            return socket.socket(family, kind, proto)

    def ports(self, count):
        """*count* consecutive ports of our range, free in this namespace."""
        while True:
            first = next(_ports)
            if first + count - 1 > PORT_LAST:
                continue
            block = range(first, first + count)
            if all(self._is_free(p) for p in block):
                for _ in range(count - 1):
                    next(_ports)
                return list(block)

    def port(self):
        return self.ports(1)[0]

    def _is_free(self, port):
        with self.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("0.0.0.0", port))
            except OSError:
                return False
        return True

    def _stop_processes(self):
        for process in reversed(self.processes):
            if process.alive():
                process.popen.terminate()
        for process in reversed(self.processes):
            try:
                process.popen.wait(5)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait(5)

    def _remove_cgroup(self):
        folders = [Path(d) for d, _, _ in os.walk(self.cgroup, topdown=False)]
        for folder in folders:
            wait_for(lambda f=folder: self._emptied(f), 5, f"{folder} to empty")
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()

    @staticmethod
    def _emptied(folder):
        try:
            pids = (folder / "cgroup.procs").read_text(encoding="ascii").split()
        except FileNotFoundError:
            return True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    def close(self):
        self.undo.close()


def run(argv):
    """Runs a tool of the system to its end; its words are in the error if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HarnessError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def need_program(*names):
    """The path of the first program that exists; a missing one is an error, never a skip."""
    for name in names:
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/lib/go/bin")
        if path:
            return path
    raise HarnessError(f"none of {', '.join(names)} is installed (scripts/install-deps.sh test)")
