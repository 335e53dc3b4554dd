# SPDX-License-Identifier: Apache-2.0
"""What the service manager hears: ready, alive, reloading, stopping; and nothing from an agent that hangs."""

import signal
import socket
import time
from pathlib import Path

import pytest

from lib.sandbox import wait_for
from lib.tallyd import BINARY, READY_S, Tallyd, service

WATCHDOG_S = 2


class Manager:
    """systemd's side of the socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))

    def hear(self, word, seconds):
        """Was this said within that time? Other words are passed over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if word in self.socket.recv(4096).decode().splitlines():
                    return True
            except TimeoutError:
                break
        return False

    def forget(self):
        """What was said up to now."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(4096):
                pass
        except BlockingIOError:
            pass


@pytest.fixture
def manager(sandbox):
    one = Manager(sandbox.dir / "manager")
    yield one
    one.socket.close()


def stopped(pid):
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text(encoding="ascii")


def test_service_manager(sandbox, keys, manager):
    agent = Tallyd(sandbox, keys, [service("api", [1], sandbox.cgroup_path)])
    config = agent.write_config()
    agent.process = sandbox.spawn(
        "tallyd", [BINARY, "run", "--config", config], cgroup=False, netns=False,
        env={"NOTIFY_SOCKET": str(sandbox.dir / "manager"), "WATCHDOG_USEC": str(WATCHDOG_S * 10**6)})
    process = agent.process.popen
    assert manager.hear("READY=1", READY_S), agent.log()
    for _ in range(3):
        assert manager.hear("WATCHDOG=1", WATCHDOG_S * 5), agent.log()
    process.send_signal(signal.SIGHUP)
    assert manager.hear("RELOADING=1", 10) and manager.hear("READY=1", 10), agent.log()
    process.send_signal(signal.SIGSTOP)     # as one that hangs
    wait_for(lambda: stopped(process.pid), 10, "the agent to stand still")
    manager.forget()
    assert not manager.hear("WATCHDOG=1", WATCHDOG_S)
    process.send_signal(signal.SIGCONT)
    assert manager.hear("WATCHDOG=1", 10)
    process.send_signal(signal.SIGTERM)
    assert manager.hear("STOPPING=1", 10), agent.log()
    assert process.wait(20) == 0
