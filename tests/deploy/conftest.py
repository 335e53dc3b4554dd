# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a real Kafka that asks who one is, and allows nothing that was not granted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
sys.path[:0] = [str(REPO / "tests/e2e"), str(REPO / "tests/kafka")]

from broker import Broker  # noqa: E402
from lib import servers, tallyd  # noqa: E402
from lib.fixtures import keys, sandbox  # noqa: E402,F401

PORT = int(os.environ.get("KAFKA_DEPLOY_PORT", "23060"))
SECURE = PORT + 2
# Who comes without a name administers; tallyd and mallory come by SASL and have no rights of their own;
# the auditor may read.
SETTINGS = f"""
listeners=PLAINTEXT://127.0.0.1:{PORT},CONTROLLER://127.0.0.1:{PORT + 1},SASL_PLAINTEXT://127.0.0.1:{SECURE}
advertised.listeners=PLAINTEXT://127.0.0.1:{PORT},SASL_PLAINTEXT://127.0.0.1:{SECURE}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
required user_tallyd="secret" user_mallory="secret" user_auditor="books";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:auditor
"""
TOOLS = {"kafka-topics.sh": "org.apache.kafka.tools.TopicCommand", "kafka-acls.sh": "kafka.admin.AclCommand"}


class Secured(Broker):
    """tool(NAME): a program that does what Kafka's own NAME does, which is one line of Java."""

    def tool(self, name):
        path = Path(self.folder, name)
        words = " ".join(f"'{w}'" for w in self.java(TOOLS[name], heap="128m"))
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def ask(self, name, *words):
        return subprocess.run([self.tool(name), "--bootstrap-server", self.address, *words],
                              check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    jars = subprocess.run([REPO / "scripts/fetch-kafka.sh"], check=True, capture_output=True,
                          text=True).stdout.strip()
    broker = Secured(jars, str(tmp_path_factory.mktemp("kafka")), PORT, SETTINGS)
    broker.start()
    yield broker
    broker.erase()


@pytest.fixture
def server(sandbox, keys):
    return servers.start("nginx", sandbox, keys, proxied=False)


@pytest.fixture
def agent(sandbox, keys, server):
    """agent(user): running, metering the server as `api`; ships to Kafka under that name, and to a file."""
    def start(user):
        properties = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN",
                      "sasl.username": user, "sasl.password": "secret"}
        kafka = {"brokers": f"127.0.0.1:{SECURE}", "create_topics": False, "properties": properties}
        return tallyd.Tallyd(sandbox, keys, [tallyd.service("api", server.ports, sandbox.cgroup_path)],
                             sinks=[{"file": {"path": str(sandbox.dir / "usage.ndjson")}},
                                    {"kafka": kafka}],
                             records={"connections": "on"}).start()
    return start
