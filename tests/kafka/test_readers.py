# SPDX-License-Identifier: Apache-2.0
"""Consumers that are not ours read what was shipped: the Go SDK of CloudEvents, and OpenMeter's code.

Their modules come from the Go module proxy, as the broker's jars come from Maven.
"""
import json
import os
import subprocess

import pytest

import harness
from conftest import finish

HERE = os.path.dirname(os.path.abspath(__file__))


def build(name):
    """A Go program beside this file; (path, "") or (None, why)."""
    out = os.path.join(harness.BUILD, "test", f"kafka-{name}")
    done = subprocess.run(["go", "build", "-o", out, "."], check=False, capture_output=True, text=True,
                          cwd=os.path.join(HERE, name), timeout=600,
                          env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod -buildvcs=false"})
    return (out, "") if done.returncode == 0 else (None, done.stderr.strip())


def messages(address, topic):
    """Committed messages as kcat's JSON, one a line: headers and payload."""
    return subprocess.run(["kcat", "-C", "-q", "-e", "-J", "-b", address, "-t", topic,
                           "-X", "isolation.level=read_committed"], check=True,
                          stdout=subprocess.PIPE, timeout=60).stdout


def read_with(program, lines):
    done = subprocess.run([program], input=lines, check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def same_event(found, record):
    """What the SDK found is what stands in the record."""
    for name in ("id", "source", "type", "subject", "datacontenttype", "dataschema", "specversion"):
        assert found[name] == record[name], name
    assert found["encoding"] == "structured"
    assert found["data"] == record["data"]
    known = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype",
             "dataschema", "data"}
    assert found["extensions"] == {k: v for k, v in record.items() if k not in known}


@pytest.mark.parametrize("topic", [harness.RECORDS, harness.CONTROL])
def test_go_sdk_of_cloudevents_reads_every_message(kafka, agent, topic):
    program, why = build("cloudevents")
    assert program, why
    one = agent(rows=50)
    one.start(5)
    finish(one, 5)
    lines = messages(kafka.address, f"{one.topics}.{topic}")
    found = [json.loads(line) for line in read_with(program, lines)]
    records = [json.loads(json.loads(line)["payload"]) for line in lines.splitlines()]
    assert len(found) == len(records) > 0
    for event, record in zip(found, records):
        same_event(event, record)
    if topic == harness.RECORDS:
        assert harness.sums(found) == harness.truth(5, 50)


def test_openmeter_accepts_its_format(kafka, agent):
    program, why = build("openmeter")
    if not program:
        assert "openmeterio" in why or "go.mod" in why, why     # not to be had here; else a bug of ours
        pytest.skip(f"OpenMeter's module cannot be had: {why.splitlines()[-1]}")
    one = agent(rows=40, extra=["--openmeter"])
    one.start(5)
    finish(one, 5)
    lines = messages(kafka.address, f"{one.topics}.{harness.RECORDS}")
    charged = sum(int(harness.data_of(record)["units"]["requests"])
                  for _, _, record in harness.usage(kafka.address, one.topics))
    assert read_with(program, lines) == [str(charged)]
