# SPDX-License-Identifier: Apache-2.0
"""tallyd itself: configured, started, waited for, killed, stopped, unhooked.

    sandbox.dir/tallyd.yaml   the config     sandbox.dir/keys.yaml    the catalog
    sandbox.dir/state         state_dir      sandbox.dir/usage.ndjson the file sink
    /sys/fs/bpf/<sandbox>     pin_dir        sandbox.dir/run          runtime_dir

The agent runs on the host, outside the sandbox's cgroup and namespace, as it does in production.
"""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import yaml

from . import api
from .build import BUILD
from .ledger import Ledger, read_events
from .sandbox import HarnessError, wait_for

BINARY = Path(os.environ.get("TALLYD", BUILD / "tallyd"))
READY_S = float(os.environ.get("TALLY_READY_S", "60"))  # an emulated or busy kernel verifies slowly


class PlainDumper(yaml.SafeDumper):
    """Writes what a person would: no anchors."""

    def ignore_aliases(self, data):
        return True


def service(name, ports=None, cgroup=None, **more):
    """One entry of `services:` with the API's routes and key sources."""
    match = {"ports": list(ports)} if ports else {"ports": "all"}
    if cgroup:
        match["cgroup"] = cgroup
    return {"name": name, "match": match, "key": list(api.KEY_SOURCES),
            "routes": [{"match": r} for r in api.ROUTES], **more}


class Tallyd:
    """wrap: a command that runs the agent, like setpriv with its options."""

    def __init__(self, sandbox, keys, services, window="1s", agent=None, wrap=(), **sections):
        self.sandbox, self.keys, self.services = sandbox, keys, services
        self.pin_dir = Path("/sys/fs/bpf", sandbox.name)
        self.usage = sandbox.dir / "usage.ndjson"
        self.config_path = sandbox.dir / "tallyd.yaml"
        self.catalog = sandbox.dir / "keys.yaml"
        self.process, self.runs, self.sections = None, 0, sections
        self.wrap = list(wrap)
        self.agent = {"window": window, "state_dir": str(sandbox.dir / "state"),
                      "runtime_dir": str(sandbox.dir / "run"), "pin_dir": str(self.pin_dir),
                      "metrics": {"listen": "off"}, **(agent or {})}
        sandbox.undo.callback(self._clean_up)

    def write_config(self):
        for folder in ("state", "run"):
            (self.sandbox.dir / folder).mkdir(mode=0o700, exist_ok=True)
        self.keys.write_catalog(self.catalog)
        config = {"agent": self.agent, "services": self.services,
                  "keys": {"file": str(self.catalog)},
                  "sinks": [{"file": {"path": str(self.usage)}}], **self.sections}
        text = yaml.dump(config, Dumper=PlainDumper, sort_keys=False)
        self.config_path.write_text(text, encoding="utf-8")
        return self.config_path

    def command(self, *words):
        """Runs another command of the binary to its end."""
        return subprocess.run([str(BINARY), *words], capture_output=True, text=True,
                              timeout=30, check=False)

    def start(self):
        if not BINARY.exists():
            raise HarnessError(f"{BINARY} does not exist: build it with `make`")
        self.write_config()
        self.runs += 1
        path = str(self.sandbox.dir / f"notify.{self.runs}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(0.05)
            self.process = self.sandbox.spawn(
                f"tallyd.{self.runs}", self.wrap + [BINARY, "run", "--config", self.config_path],
                cgroup=False, netns=False, env={"NOTIFY_SOCKET": path})
            wait_for(lambda: self._is_ready(notify), READY_S,
                     lambda: f"tallyd to be ready: {self.log()[-3000:]}")
        return self

    def _is_ready(self, notify):
        if not self.process.alive():
            raise HarnessError(f"tallyd ended with {self.process.popen.returncode}: "
                               f"{self.log()[-3000:]}")
        try:
            return b"READY=1" in notify.recv(4096)
        except TimeoutError:
            return False

    def log(self):
        return self.process.output()

    def kill(self):
        """SIGKILL: no chance to say goodbye. The hooks stay."""
        self.process.popen.kill()
        self.process.popen.wait(10)

    def stop(self, seconds=20):
        """SIGTERM: the open window is closed and shipped. Returns the ledger of all records."""
        code = self.process.stop(signal.SIGTERM, seconds)
        if code != 0:
            raise HarnessError(f"tallyd ended with {code} after SIGTERM: {self.log()[-3000:]}")
        return self.ledger()

    def ledger(self):
        return Ledger(read_events(self.usage))

    def wait_for_records(self, condition, seconds=15, what="records"):
        """The ledger once condition(ledger) holds, while the agent runs."""
        def attempt():
            ledger = self.ledger()
            return ledger if condition(ledger) else None
        return wait_for(attempt, seconds, lambda: f"{what}; unattributed: "
                        f"{self.ledger().unattributed()}, log: {self.log()[-1500:]}")

    def detach(self):
        """Takes the hooks out; what the kernel counted is settled by a stop() before it."""
        done = self.command("stop", "--detach", "--config", str(self.config_path))
        if done.returncode != 0:
            raise HarnessError(f"tallyd stop --detach: {done.returncode}: {done.stderr}")
        return done

    def _clean_up(self):
        if self.process and self.process.alive():
            self.kill()
        if self.process:
            self.command("stop", "--detach", "--config", str(self.config_path))
        shutil.rmtree(self.pin_dir, ignore_errors=True)


def differences(truth, ledger, service_name=None, fields=("requests", "request_bytes",
                                                          "response_bytes")):
    """Readable differences between the truth and tallyd's records, with the reasons it gave."""
    text = api.explain(truth, ledger.tally(service_name), fields, ("answered", "counted"))
    if text:
        text += f"\n  unattributed: {ledger.unattributed(service_name)}" \
                f"\n  gaps: {ledger.gaps()}, unparsed bytes: {ledger.unparsed_bytes()}"
    return text
