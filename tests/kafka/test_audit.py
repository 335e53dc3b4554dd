# SPDX-License-Identifier: Apache-2.0
"""`tallyd audit` against a real Kafka: somebody's open transaction, a broker that hangs, retention."""
import json
import os
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

# pylint: disable=wrong-import-position
import harness  # noqa: E402
from conftest import finish  # noqa: E402

HOLDER = os.path.join(harness.BUILD, "test", "kafka-holder")


@pytest.fixture(scope="module", name="holder")
def fixture_holder():
    """Opens a transaction, writes into a topic, says so, and ends it as it is told on stdin."""
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-w", "-o", HOLDER,
                    os.path.join(harness.TOP, "tests/kafka/holder.c"), "-lrdkafka"], check=True)
    return HOLDER


def hold(holder, address, topic):
    one = subprocess.Popen([holder, address, topic, "0"],  # pylint: disable=consider-using-with
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert one.stdout.readline() == "open\n"
    return one


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_audit_waits_for_an_open_transaction(kafka, agent, holder, end):
    """What is committed stands behind it: to end there would be a gap in right books."""
    one = agent(rows=100)
    one.start(5)
    finish(one, 5)
    other = hold(holder, kafka.address, f"{one.topics}.records")
    one.start(10)
    finish(one, 10)
    began = time.monotonic()
    timer = threading.Timer(6, lambda: (other.stdin.write(end + "\n"), other.stdin.flush()))
    timer.start()
    done = harness.audit(kafka.address, one.topics, "--strict", "-o", "json")
    assert done.returncode == 0, done.stdout
    assert time.monotonic() - began > 5
    timer.join()
    assert other.wait(30) == 0
    ours = [record for _, _, record in harness.usage(kafka.address, one.topics)
            if record["type"] == "io.tallyd.usage.v1"]
    assert json.loads(done.stdout)["agents"][0]["records"] == len(ours)
    assert harness.sums(ours) == harness.truth(10, 100)


def test_audit_of_a_broker_that_hangs_ends(kafka, agent):
    one = agent(rows=10)
    one.start(3)
    finish(one, 3)
    kafka.pause()
    try:
        began = time.monotonic()
        done = harness.audit(kafka.address, one.topics)
        took = time.monotonic() - began
    finally:
        kafka.resume()
    assert done.returncode == 69, done.stdout
    assert took < 30
    kafka.wait(60)


def test_audit_of_a_broker_that_hangs_while_read(kafka, proxy, agent):
    """It told where the topic ends, and says no more."""
    one = agent(rows=2000)
    one.start(60, every_ms=5)
    finish(one, 60)
    timer = threading.Timer(0.3, proxy.set, ["swallow"])
    timer.start()
    try:
        began = time.monotonic()
        done = harness.audit(proxy.address, one.topics)
        took = time.monotonic() - began
    finally:
        timer.join()
        proxy.set("pass")
    assert done.returncode == 69, done.stdout
    assert took < 90


def delete_before(kafka, topic, offsets):
    """As retention does: everything before the offset of each partition."""
    path = os.path.join(kafka.folder, "delete.json")
    with open(path, "w", encoding="utf-8") as out:
        json.dump({"version": 1, "partitions": [
            {"topic": topic, "partition": p, "offset": o} for p, o in offsets.items()]}, out)
    subprocess.run(kafka.java("org.apache.kafka.tools.DeleteRecordsCommand", "--bootstrap-server",
                              kafka.address, "--offset-json-file", path),
                   check=True, stdout=subprocess.DEVNULL)


def test_audit_after_retention(kafka, agent):
    """Records are gone, of one partition more than of others, and control records are all there."""
    one = agent(rows=100)
    one.start(20)
    finish(one, 20)
    delete_before(kafka, f"{one.topics}.records", {0: 40, 1: 10})
    done = harness.audit(kafka.address, one.topics)
    assert done.returncode == 0, done.stdout
    assert "are not here any more" in done.stdout
    done = harness.audit(kafka.address, one.topics, "--since", "2026-01-01T00:00:00Z")
    assert done.returncode == 1 and "is not whole" in done.stdout, done.stdout
