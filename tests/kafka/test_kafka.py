# SPDX-License-Identifier: Apache-2.0
"""Shipping to a real Apache Kafka (one KRaft node on loopback, ports 23000-23099)."""
import json
import os
import random
import signal
import subprocess
import sys
import time

import jsonschema
import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
import harness  # noqa: E402
from conftest import PORT, finish  # noqa: E402

def test_every_record_once_where_java_would_put_it(kafka, agent):
    one = agent(rows=100)
    one.start(30)
    finish(one, 30)
    got = harness.check_exact(kafka.address, one.topics, 30, 100)
    for partition, key, record in got:
        assert key == record["partitionkey"] == record["subject"]
        assert partition == harness.murmur2_partition(key, 6)
    done = harness.audit(kafka.address, one.topics, "--strict")
    assert done.returncode == 0, done.stdout


def test_records_are_those_of_the_schema(kafka, agent):
    one = agent(rows=300)
    one.start(5)
    finish(one, 5)
    schemas = [(f"{one.topics}.records", "record"), (f"{one.topics}.control", "control")]
    for topic, name in schemas:
        with open(os.path.join(harness.TOP, f"deploy/schema/{name}.schema.json"),
                  encoding="utf-8") as text:
            schema = jsonschema.Draft202012Validator(json.load(text))
        lines = harness.consume(kafka.address, topic)
        assert lines
        for line in lines:
            schema.validate(json.loads(line.split(" ", 2)[2]))


def test_connections_arrive_with_their_usage(kafka, agent):
    """Killed again and again: each record of a connection once, in its own topic, and nothing of it
    in the others; 12,000 of them need two transactions of a batch, which the checkpoint tells apart."""
    dice = random.Random(3)
    one = agent(rows=12000, extra=["--connections"])
    for _ in range(4):
        one.start(4, every_ms=5)
        time.sleep(dice.uniform(0.3, 1.5))
        one.kill()
    one.start(4)
    finish(one, 4)
    harness.check_exact(kafka.address, one.topics, 4, 12000)
    got = harness.usage(kafka.address, one.topics, harness.CONNECTIONS)
    unique = harness.dedupe(got)
    assert len(got) == len(unique)
    assert harness.sums(unique) == harness.truth(4, 12000)
    with open(os.path.join(harness.TOP, "deploy/schema/connections.schema.json"),
              encoding="utf-8") as text:
        schema = jsonschema.Draft202012Validator(json.load(text))
    for partition, key, record in got[::50]:
        schema.validate(record)
        assert partition == harness.murmur2_partition(key, 6)
    for name in (harness.RECORDS, harness.CONTROL, harness.PROGRESS):
        assert "192.0.2." not in "".join(harness.consume(kafka.address, f"{one.topics}.{name}"))
    done = harness.audit(kafka.address, one.topics, "--strict", "-o", "json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["agents"][0]["connection_records"] == 48000
    steps = [json.loads(line.split(" ", 2)[2])
             for line in harness.consume(kafka.address, f"{one.topics}.progress")]
    assert any(0 < step.get("connections", 0) and not step["whole"] for step in steps)


def test_topics_by_hand_and_no_right_to_make_them(kafka, agent):
    """A missing topic gets a clear error; once it is there, everything arrives."""
    one = agent(rows=5, extra=["--no-create"])
    one.start(3, grace_s=2)
    assert one.wait(60) == 75
    assert f"topic {one.topics}.records does not exist" in one.tail()
    for name in ("records", "control", "progress"):
        subprocess.run(kafka.java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server",
                                  kafka.address, "--create", "--topic", f"{one.topics}.{name}",
                                  "--partitions", "2"), check=True, stdout=subprocess.DEVNULL)
    finish(one, 3)
    harness.check_exact(kafka.address, one.topics, 3, 5)


def test_java_consumer_counts_the_same(kafka, agent):
    one = agent(rows=50)
    one.start(10)
    finish(one, 10)
    got = harness.check_exact(kafka.address, one.topics, 10, 50)
    out = subprocess.run(
        kafka.java("org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server",
                   kafka.address, "--topic", f"{one.topics}.records", "--from-beginning",
                   "--isolation-level", "read_committed", "--timeout-ms", "8000"),
        check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=90)
    # it ends with a timeout, which its log tells on the same output
    values = sorted(line for line in out.stdout.decode().splitlines() if line.startswith("{"))
    assert len(values) == len(got)
    assert [json.loads(v)["id"] for v in values] == sorted(r["id"] for _, _, r in got)


def test_headers_are_those_of_cloudevents(kafka, agent):
    one = agent(rows=3)
    one.start(1)
    finish(one, 1)
    out = subprocess.run(["kcat", "-C", "-q", "-e", "-b", kafka.address, "-t",
                          f"{one.topics}.records", "-f", "%h\n%s\n", "-c", "1"], check=True,
                         stdout=subprocess.PIPE, text=True).stdout.splitlines()
    headers = dict(pair.split("=", 1) for pair in out[0].split(","))
    record = json.loads(out[1])
    assert headers["content-type"] == "application/cloudevents+json; charset=UTF-8"
    for name in ("id", "type", "source", "subject", "time", "specversion"):
        assert headers[f"ce_{name}"] == record[name]


def test_large_batch_goes_in_several_transactions(kafka, agent):
    """60,000 rows: at most 10,000 records a transaction, every piece with its checkpoint."""
    one = agent(rows=60000)
    one.start(1)
    finish(one, 1)
    harness.check_exact(kafka.address, one.topics, 1, 60000)
    steps = [json.loads(line.split(" ", 2)[2])
             for line in harness.consume(kafka.address, f"{one.topics}.progress")]
    seqs = [0] + [step["seq"] for step in steps]
    assert len(steps) >= 6
    assert all(0 < b - a <= 10000 for a, b in zip(seqs, seqs[1:]))
    assert [step["whole"] for step in steps] == [False] * (len(steps) - 1) + [True]


def test_agent_killed_again_and_again(kafka, agent):
    dice = random.Random(1)
    one = agent(rows=200)
    for _ in range(12):
        one.start(400, every_ms=5)
        time.sleep(dice.uniform(0.05, 1.2))
        if one.running():
            one.kill()
    finish(one, 400)
    harness.check_exact(kafka.address, one.topics, 400, 200)
    done = harness.audit(kafka.address, one.topics, "--strict")
    assert done.returncode == 0, done.stdout


def test_broker_killed_while_shipping(kafka, agent):
    one = agent(rows=100)
    one.start(600, every_ms=20)
    for pause in (1, 0.3):
        time.sleep(2)
        kafka.kill()
        time.sleep(pause)
        kafka.start()
    finish(one, 600)
    harness.check_exact(kafka.address, one.topics, 600, 100)
    done = harness.audit(kafka.address, one.topics, "--strict")
    assert done.returncode == 0, done.stdout


def test_agent_stopped_past_the_transaction_timeout(kafka, agent):
    """SIGSTOP for longer than the coordinator waits: it aborts, the agent wakes and must notice."""
    one = agent(rows=100)
    one.start(300, every_ms=20)
    time.sleep(2)
    one.proc.send_signal(signal.SIGSTOP)
    time.sleep(9)
    one.proc.send_signal(signal.SIGCONT)
    finish(one, 300)
    harness.check_exact(kafka.address, one.topics, 300, 100)


@pytest.mark.parametrize("mode", ["swallow", "stall", "cut", "refuse"])
def test_connection_fails_in_the_middle(kafka, proxy, agent, mode):
    """Above all: the answer is lost after the request was applied."""
    dice = random.Random(mode)
    one = agent(rows=50, address=proxy.address)
    one.start(400, every_ms=20)
    for _ in range(4):
        time.sleep(dice.uniform(0.3, 1.0))
        if mode != "cut":
            proxy.set(mode)
            time.sleep(dice.uniform(0.05, 2.0))
        proxy.cut()
        proxy.set("pass")
    finish(one, 400)
    harness.check_exact(kafka.address, one.topics, 400, 50)


def test_idempotent_delivery_is_once_after_deduplication(kafka, proxy, agent):
    one = agent(rows=50, address=proxy.address, extra=["--idempotent"])
    one.start(200, every_ms=20)
    for _ in range(3):
        time.sleep(0.6)
        proxy.set("swallow")
        time.sleep(0.5)
        proxy.cut()
        proxy.set("pass")
    finish(one, 200)
    harness.check_exact(kafka.address, one.topics, 200, 50, duplicates=True)


def test_partitions_added_while_shipping(kafka, agent):
    one = agent(rows=100)
    one.start(10)
    finish(one, 10)
    subprocess.run(kafka.java("org.apache.kafka.tools.TopicCommand", "--bootstrap-server",
                              kafka.address, "--alter", "--topic", f"{one.topics}.records",
                              "--partitions", "9"), check=True, stdout=subprocess.DEVNULL)
    one.start(60)
    finish(one, 60)
    got = harness.check_exact(kafka.address, one.topics, 60, 100)
    assert {p for p, _, _ in got} > {6, 7, 8}


def test_openmeter_payload(kafka, agent):
    one = agent(rows=20, extra=["--openmeter"])
    one.start(5)
    finish(one, 5)
    out = subprocess.run(["kcat", "-C", "-q", "-e", "-b", kafka.address, "-t",
                          f"{one.topics}.records", "-f", "%h %s\n"], check=True,
                         stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for line in out:
        header, value = line.split(" ", 1)
        record = json.loads(value)
        assert header == "namespace=default"
        assert set(record) == {"id", "type", "source", "subject", "time", "data"}
        assert isinstance(record["time"], int) and isinstance(record["data"], str)
        assert json.loads(record["data"])["units"]["requests"].isdigit()
    harness.check_exact(kafka.address, one.topics, 5, 20)
    assert harness.audit(kafka.address, one.topics).returncode == 0


def test_second_agent_on_the_same_state_is_refused(kafka, agent):
    one = agent()
    one.start(2000, every_ms=50)
    deadline = time.monotonic() + 10
    while not os.path.exists(os.path.join(one.state, "state.1")) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = subprocess.run([harness.DRIVER, one.state, "--until", "1", "--kafka", kafka.address],
                          check=False, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 74 and "busy" in done.stderr
    one.kill()


def test_unreachable_broker_is_said_and_nothing_is_lost(kafka, agent):
    one = agent(rows=10, address=f"127.0.0.1:{PORT + 9}")
    one.start(20, grace_s=3)
    assert one.wait(60) == 75
    assert "Connection refused" in one.tail() or "no broker" in one.tail()
    one.address = kafka.address
    finish(one, 20)
    harness.check_exact(kafka.address, one.topics, 20, 10)
