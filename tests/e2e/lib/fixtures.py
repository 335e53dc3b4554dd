# SPDX-License-Identifier: Apache-2.0
"""What conftest.py of each suite takes: a test's sandbox and keys; and a suite that is told to stop by a
time limit still takes its sandboxes down."""

import signal
import sys

import pytest

from . import api
from .sandbox import Sandbox

signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))


@pytest.fixture
def sandbox(request):
    """The test's own cgroup, namespace and folder; `@pytest.mark.parametrize` can ask for veth."""
    with Sandbox(request.node.name, veth=getattr(request, "param", None) == "veth") as s:
        yield s


@pytest.fixture
def keys():
    return api.Keys()
