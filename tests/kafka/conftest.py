# SPDX-License-Identifier: Apache-2.0
"""One broker for all tests, a proxy before it, and agents that are ended with their test."""
import os
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position,redefined-outer-name
import harness  # noqa: E402
from broker import Broker  # noqa: E402
from proxy import Proxy  # noqa: E402

PORT = int(os.environ.get("KAFKA_TEST_PORT", "23040"))
PROXIED = (f"\nlisteners=PLAINTEXT://127.0.0.1:{PORT},CONTROLLER://127.0.0.1:{PORT + 1},"
           f"PROXIED://127.0.0.1:{PORT + 2}"
           f"\nadvertised.listeners=PLAINTEXT://127.0.0.1:{PORT},PROXIED://127.0.0.1:{PORT + 3}"
           "\nlistener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
           "PROXIED:PLAINTEXT\ninter.broker.listener.name=PLAINTEXT")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    harness.prepare()
    broker = Broker(harness.JARS, str(tmp_path_factory.mktemp("kafka")), PORT, PROXIED)
    broker.start()
    yield broker
    broker.erase()


@pytest.fixture(scope="session")
def proxy(kafka):  # pylint: disable=unused-argument
    one = Proxy(PORT + 3, ("127.0.0.1", PORT + 2))
    yield one
    one.stop()


@pytest.fixture
def agent(kafka, tmp_path, request):
    made = []

    def make(rows=20, address=None, extra=()):
        made.append(harness.Agent(str(tmp_path), address or kafka.address,
                                  request.node.name.replace("[", "-").replace("]", ""), rows, extra))
        return made[-1]

    yield make
    for one in made:
        if one.running():
            one.kill(signal.SIGCONT)
            one.kill()


def finish(one, epochs, timeout=180):
    if not one.running():
        one.start(epochs)
    assert one.wait(timeout) == 0, one.tail()
