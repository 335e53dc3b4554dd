# SPDX-License-Identifier: Apache-2.0
"""Fixtures: one control plane for all tests, a node and an agent for each."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))
sys.path.insert(0, str(HERE))

from cluster import Cluster  # noqa: E402
from lib import tallyd  # noqa: E402
from lib.fixtures import keys, sandbox  # noqa: E402,F401
from lib.sandbox import wait_for  # noqa: E402
from node import Node  # noqa: E402

ACCOUNT = ("tallyd-system", "tallyd")
USER = "system:serviceaccount:tallyd-system:tallyd"


@pytest.fixture(scope="session")
def tools():
    """Those that render; they need no API server."""
    subprocess.run([str(HERE / "build.sh"), "render"], check=True)


@pytest.fixture(scope="session")
def cluster():
    subprocess.run([str(HERE / "build.sh"), "apiserver"], check=True)
    folder = tempfile.mkdtemp(prefix="tally-k8s-")
    c = Cluster(folder)
    try:
        yield c.start()
    finally:
        c.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def installed(cluster, tools):
    """The manifests that we ship, applied; the rights that the tests rely on are theirs."""
    from deploy import kustomize
    for manifest in kustomize("overlays/plaintext"):
        cluster.apply(manifest)
    return cluster


@pytest.fixture
def node(installed, sandbox):
    return Node(installed, sandbox, sandbox.name)


@pytest.fixture
def namespace(installed, sandbox):
    """Names a namespace of this test's own, made."""
    def make(suffix="a"):
        name = f"{sandbox.name}-{suffix}"
        installed.namespace(name)
        return name
    return make


class Agent(tallyd.Tallyd):
    """tallyd as it runs in the DaemonSet, but on the host."""

    def __init__(self, node, keys, services, kubernetes=None, **more):
        self.node, self.token_file = node, node.sandbox.dir / "token"
        self.renew_token()
        section = {"api": node.cluster.url, "token_file": str(self.token_file),
                   "ca_file": str(node.cluster.ca), "node": node.name, "linger": "1s",
                   "cgroup_root": node.sandbox.cgroup_path, "unlisted": {}, **(kubernetes or {})}
        section = {k: v for k, v in section.items() if v is not None}
        super().__init__(node.sandbox, keys, services, kubernetes=section, **more)

    def renew_token(self, seconds=3600):
        """As the kubelet does it: a new file in the place of the old one."""
        new = self.token_file.with_suffix(".new")
        new.write_text(self.node.cluster.token(*ACCOUNT, seconds=seconds))
        new.rename(self.token_file)

    def ask(self, what):
        done = self.command(what, "--config", str(self.config_path), "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def say(self, what):
        return self.command(what, "--config", str(self.config_path)).stdout

    def pods(self):
        """{name: its row} of all pods that the agent knows."""
        return {row["name"]: row for row in self.ask("services").get("pods", [])}

    def states(self):
        return {name: row["state"] for name, row in self.pods().items()}

    def wait_states(self, wanted, seconds=40):
        wait_for(lambda: self.states() == wanted, seconds,
                 lambda: f"{wanted}; there are {self.states()}; {self.log()[-2000:]}")

    def wait_metered(self, *pods, seconds=40):
        names = {p.name for p in pods}
        wait_for(lambda: names <= {n for n, s in self.states().items() if s == "metered"}, seconds,
                 lambda: f"{names} to be metered; {self.states()}; {self.log()[-2000:]}")


@pytest.fixture
def agent(node, keys):
    return lambda services=(), **kw: Agent(node, keys, list(services), **kw).start()
