# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a server, and an agent whose /metrics answers."""

import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "tests/e2e"))

from lib import servers, tallyd  # noqa: E402
from lib.fixtures import keys, sandbox  # noqa: E402,F401
from lib.scrape import Agent  # noqa: E402


@pytest.fixture
def server(sandbox, keys):
    return servers.start("nginx", sandbox, keys, proxied=False)


@pytest.fixture
def agent(sandbox, keys, server):
    """agent(...): running, metering the server as `api`, windows of a second."""
    def start(**kwargs):
        services = [tallyd.service("api", server.ports, sandbox.cgroup_path)]
        return Agent(sandbox, keys, services, **kwargs).start()
    return start
