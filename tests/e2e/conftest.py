# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a sandbox, keys, and real servers in it."""

import resource
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lib import api, servers, tallyd  # noqa: E402
from lib.sandbox import Sandbox  # noqa: E402

_HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (_HARD, _HARD))
ALL_SERVERS = sorted(servers.ALL)


def pytest_collection_modifyitems(config, items):
    """Soak tests run only when they are asked for by their mark."""
    if "soak" in config.getoption("-m"):
        return
    left_out = [i for i in items if i.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [i for i in items if i not in left_out]


@pytest.fixture
def sandbox(request):
    """The test's own cgroup, namespace and folder; `@pytest.mark.parametrize` can ask for veth."""
    with Sandbox(request.node.name, veth=getattr(request, "param", None) == "veth") as s:
        yield s


@pytest.fixture
def keys():
    return api.Keys()


@pytest.fixture
def start(sandbox, keys):
    """start("nginx", ports=..., idle_s=...): that server, running; with its origin if it has one."""
    return lambda name, **kw: servers.start(name, sandbox, keys, **kw)


@pytest.fixture
def meter(sandbox, keys):
    """meter([services], ...): tallyd, running on them; its hooks are gone after the test."""
    return lambda services, **kw: tallyd.Tallyd(sandbox, keys, services, **kw).start()
