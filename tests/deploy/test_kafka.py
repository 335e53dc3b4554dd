# SPDX-License-Identifier: Apache-2.0
"""deploy/kafka as it stands there: topics.sh makes the topics, the ACLs of the README are enough, and
without them nothing goes."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lib.load import Load, mix
from lib.sandbox import wait_for
from lib.tallyd import differences

FOLDER = Path(__file__).parents[2] / "deploy/kafka"
TOPICS = "usage.records.v1", "usage.control.v1", "usage.progress.v1", "usage.connections.v1"


@pytest.fixture(scope="module")
def topics(kafka):
    for _ in range(2):      # there is no harm in a second time
        subprocess.run([FOLDER / "topics.sh", kafka.address, "4", "1"], check=True,
                       env={"KAFKA_TOPICS": kafka.tool("kafka-topics.sh"), "PATH": "/usr/bin:/bin"})
    return kafka


def acl_commands():
    """[[words]] of the README's, without the program and what follows for the place of the cluster."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    found = [shlex.split(m) for m in re.findall(r"^ +kafka-acls\.sh \.\.\. (.*)$", text, re.M)]
    assert len(found) == 4
    return found


def consumed(kafka, topic):
    """What whoever may read everything finds there, one event a line."""
    out = subprocess.run(["kcat", "-C", "-q", "-e", "-b", kafka.address, "-t", topic,
                          "-X", "isolation.level=read_committed"],
                         check=True, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines()]


def test_topics(topics):
    text = topics.ask("kafka-topics.sh", "--describe")
    for topic in TOPICS:
        head = re.search(rf"Topic: {re.escape(topic)}\s.*PartitionCount: (\d+).*Configs: (.*)", text)
        assert head and head.group(1) == "4", text
        assert ("cleanup.policy=compact" in head.group(2)) == (topic == TOPICS[2])
        assert ("retention.ms=3888000000" in head.group(2)) == (topic != TOPICS[2])


def test_rights(topics, agent, sandbox, keys, server):
    """Refused, everything waits; with the ACLs of the README, all of it arrives, once."""
    templates = mix(keys)
    meter = agent("tallyd")
    truth = Load(sandbox, keys, server.port, templates, 8, 500).result()
    meter.wait_for_records(lambda l: l.count("api") == 500, 30, "500 requests in the file")
    wait_for(lambda: "authorization failed" in meter.log(), 30,
             lambda: f"a refusal: {meter.log()}")
    assert not consumed(topics, TOPICS[0])
    for words in acl_commands():
        topics.ask("kafka-acls.sh", *words)
    wait_for(lambda: sum(e["data"]["requests"] for e in consumed(topics, TOPICS[0])) == 500, 120,
             lambda: f"all records in Kafka: {meter.log()[-3000:]}")
    ledger = meter.stop()
    assert not differences(truth, ledger, "api")
    ids = [(e["source"], e["id"]) for e in consumed(topics, TOPICS[0])]
    assert len(set(ids)) == len(ids) == len(ledger.rows("api"))
    assert consumed(topics, TOPICS[1])
    connections = consumed(topics, TOPICS[3])
    assert sum(e["data"]["requests"] for e in connections) == 500
    assert sorted(e["id"] for e in connections) == sorted(e["id"] for e in ledger.connections)
    audit_the_books(meter, sandbox)


def audit_the_books(meter, sandbox):
    """By the agent's configuration and a name of one's own, whose password stands in a file; without the
    configuration, too, where each setting has an -X."""
    (sandbox.dir / "password").write_text("books\n", encoding="utf-8")
    mine = {"sasl.username": "auditor", "sasl.password": f"${{file:{sandbox.dir}/password}}"}
    whole = {"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN", **mine}
    brokers = meter.sections["sinks"][1]["kafka"]["brokers"]
    for source, properties in (["--config", meter.config_path], mine), (["--brokers", brokers], whole):
        words = [w for name, value in properties.items() for w in ("-X", f"{name}={value}")]
        done = meter.command("audit", "--strict", *map(str, source), *words)
        assert done.returncode == 0 and "the books balance" in done.stdout, done.stdout + done.stderr


def test_others_have_none(topics, agent):
    """The ACLs are the user's, nobody else's."""
    meter = agent("mallory")
    wait_for(lambda: "authorization failed" in meter.log(), 30,
             lambda: f"a refusal: {meter.log()}")
    meter.kill()
