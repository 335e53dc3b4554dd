# SPDX-License-Identifier: Apache-2.0
"""What cannot be used is refused with its name and the documented exit code, and nothing is lost.

Elsewhere: captures and filters (test_replay), one capability less (test_privileges), a kernel that lacks
a feature (tests/vm), mistakes at a reload (test_reload).
"""

import json
import re
import subprocess

import pytest
import yaml

from lib import api
from lib.build import BUILD, REPO
from lib.client import Conn
from lib.sandbox import wait_for
from lib.tallyd import BINARY, Tallyd, differences, service

AWAY = "127.0.0.1:9"    # discard: nobody listens


def run(path, *words):
    """`tallyd run` to its end, which has to come by itself."""
    return subprocess.run([str(BINARY), "run", "--config", str(path), *words],
                          capture_output=True, text=True, timeout=30, check=False)


def edited(change):
    """A config that was good, with its parsed form changed."""
    def spoil(agent):
        config = yaml.safe_load(agent.config_path.read_text())
        change(config, agent)
        agent.config_path.write_text(yaml.safe_dump(config))
    return spoil


def catalog(text):
    return lambda agent: agent.catalog.write_text(text)


def a_file(agent, name):
    path = agent.sandbox.dir / name
    path.write_text("in the way\n")
    return path


INPUTS = {
    "no config": (lambda a: a.config_path.unlink(), 78, "No such file"),
    "no YAML": (lambda a: a.config_path.write_text("agent: ["), 78, ":2:1: not YAML"),
    "an empty config": (lambda a: a.config_path.write_text(""), 78, "services"),
    "a wrong word": (edited(lambda c, a: c["services"][0].update(mach={"ports": [1]})), 78,
                     'did you mean "match"'),
    "a wrong value": (edited(lambda c, a: c["agent"].update(window="10 parsecs")), 78, "window"),
    "a tie": (edited(lambda c, a: c["services"].append(dict(c["services"][0], name="b"))), 78,
              "can match the same sockets"),
    "no catalog": (lambda a: a.catalog.unlink(), 78, "keys.yaml"),
    "no YAML in the catalog": (catalog("keys: ["), 78, "not YAML"),
    "a key in the catalog": (catalog("keys: [ { id: a, customer: b, sha256: my-secret } ]"), 78,
                             "sha256 must be 64"),
    "state in a file": (edited(lambda c, a: c["agent"].update(
        state_dir=str(a_file(a, "f") / "state"))), 74, "Not a directory"),
    "pins in a folder": (edited(lambda c, a: c["agent"].update(
        pin_dir=str(a.sandbox.dir / "pins"))), 78, "is not on a bpf file system"),
    "a property that librdkafka does not know": (edited(lambda c, a: c["sinks"].append(
        {"kafka": {"brokers": AWAY, "properties": {"no.such": 1}}})), 78, "no.such"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_refused_at_start(sandbox, keys, name):
    """By its place or its name, with the code of sysexits; no key's text is repeated."""
    spoil, code, words = INPUTS[name]
    agent = Tallyd(sandbox, keys, [service("api", [18999])])
    agent.write_config()
    assert agent.command("check-config", str(agent.config_path)).returncode == 0
    spoil(agent)
    done = run(agent.config_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr, done.stderr
    assert "my-secret" not in done.stderr
    assert not agent.pin_dir.exists() or not list(agent.pin_dir.iterdir())
    if code == 78 and "catalog" not in name:
        assert agent.command("check-config", str(agent.config_path)).returncode == 78


def test_a_secret_that_comes_late(sandbox, keys):
    """Its file is not there when the host boots: that is no mistake of the config, so the unit may try again."""
    secret = sandbox.dir / "fleet-secret"
    a = Tallyd(sandbox, keys, [service("api", [sandbox.port()])], agent={"fleet_secret": f"${{file:{secret}}}"})
    path = str(a.write_config())
    assert a.command("check-config", path).returncode == 78
    done = a.command("run", "--config", path)
    assert done.returncode == 69 and str(secret) in done.stderr, done.stderr
    unit = (REPO / "deploy/systemd/tallyd.service").read_text(encoding="utf-8")
    assert "69" not in re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.M)[1].split()
    assert not a.pin_dir.exists()
    secret.write_text("0123456789abcdef", encoding="utf-8")
    assert a.command("check-config", path).returncode == 0


def test_usage():
    for words in ((), ("nonsense",), ("run", "--nonsense"), ("replay",)):
        done = subprocess.run([str(BINARY), *words], capture_output=True, text=True, timeout=30,
                              check=False)
        assert done.returncode == 64, (words, done.stderr)
        told = done.stdout + done.stderr
        assert told.startswith(("tallyd: ", "usage: tallyd")), told


def test_a_start_that_is_refused_loses_nothing(start, meter, sandbox, keys):
    """The agent stops, and does not come back until its config is good again: the kernel counts on."""
    key, truth = keys.new("a"), api.new_tally()
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    ask(sandbox, server, key, truth)
    agent.stop()
    good = agent.config_path.read_text()
    for text in ("agent: [", good.replace("X-API-Key", "X-API-Key: [")):
        agent.config_path.write_text(text)
        assert run(agent.config_path).returncode == 78
        ask(sandbox, server, key, truth)
    agent.start()
    ask(sandbox, server, key, truth)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def ask(sandbox, server, key, truth, n=5):
    with Conn(sandbox, server.port) as c:
        for _ in range(n):
            data = api.request("GET", "/v1/x", key)
            response = c.ask(data)
            api.add(truth, ("key_a", "GET", "/v1/**", response.status),
                    api.Sums(1, len(data), response.size))


def consumed(address):
    """What kcat, which is not ours, reads of the topic of usage records."""
    done = subprocess.run(["kcat", "-C", "-q", "-e", "-b", address, "-t", "usage.records.v1",
                           "-X", "isolation.level=read_committed"],
                          capture_output=True, text=True, timeout=60, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {r["id"]: r for r in records if r["type"] == "io.tallyd.usage.v1"}


def test_no_broker_answers(start, meter, sandbox, keys):
    """It says so, counts on, keeps all on disk over a restart, and ships it once there is a broker."""
    key, truth = keys.new("a"), api.new_tally()
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)],
                  sinks=[{"kafka": {"brokers": AWAY}}])
    ask(sandbox, server, key, truth)
    wait_for(lambda: AWAY in agent.log(), 20, "a word about the broker")
    ask(sandbox, server, key, truth)
    agent.stop(60)
    said = agent.log()
    where = sandbox.dir / "broker"
    sandbox.spawn("broker", [BUILD / "demo-broker", "-w", where], cgroup=False, netns=False)
    wait_for(where.exists, 10, "the broker")
    agent.sections["sinks"] = [{"kafka": {"brokers": where.read_text().strip()}}]
    agent.start()
    ask(sandbox, server, key, truth)
    agent.stop(60)
    records = consumed(where.read_text().strip()).values()
    counted = [api.Sums(*(r["data"][f] for f in api.Sums._fields)) for r in records
               if r["data"]["api_key_id"] == "key_a"]
    assert sum((s.requests for s in counted)) == api.total(truth).requests, said
    assert sum((s.response_bytes for s in counted)) == api.total(truth).response_bytes


@pytest.mark.parametrize("what,agent,properties,word", [
    ("name", {}, {"secuirty.protocol": "ssl"}, "no such setting"),
    ("value", {}, {"acks": "perhaps"}, "does not accept"),
    ("together", {}, {"security.protocol": "sasl_plaintext", "sasl.mechanism": "SCRAM-SHA-512"},
     "sink"),
    ("file", {}, {"security.protocol": "ssl", "ssl.ca.location": "/nonexistent"}, "ssl.ca.location"),
    ("pins", {"pin_dir": None}, {}, "is not on a bpf file system"),
])
def test_refused_before_anything_is_hooked(sandbox, keys, what, agent, properties, word):
    """Settings that the agent cannot use: exit code 78, the reason, and nothing pinned."""
    if "pin_dir" in agent:
        agent = {"pin_dir": str(sandbox.dir / "pins")}
    a = Tallyd(sandbox, keys, [service("api", [sandbox.port()])], agent=agent, sinks=[
        {"kafka": {"brokers": "127.0.0.1:1", "properties": {**properties, "ssl.key.password": "hush"}}}])
    path = str(a.write_config())
    done = a.command("run", "--config", path)
    assert done.returncode == 78, done.stderr
    assert word in done.stderr and "hush" not in done.stderr
    assert not a.pin_dir.exists() and not (sandbox.dir / "pins").exists()
    check = a.command("check-config", path)
    assert check.returncode == 78, check.stderr
    assert word in check.stderr and "hush" not in check.stderr
    if what in ("name", "value"):
        assert re.search(rf"{re.escape(path)}:\d+:\d+: sinks\[0\]\.kafka\.properties\..*{word}",
                         check.stderr)


@pytest.mark.parametrize("path", ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"])
@pytest.mark.parametrize("error", ["EIO", "EINTR", "EMFILE"])
def test_an_id_that_cannot_be_read(sandbox, keys, path, error):
    """The state directory is bound to the machine: taken for another one's it would step aside."""
    agent = Tallyd(sandbox, keys, [service("api", [18999])])
    agent.start().stop()
    done = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-P", path, "-e", "trace=openat", "-e",
                           f"inject=openat:error={error}", str(BINARY), "run", "--config",
                           str(agent.config_path)],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 74, done.stderr
    assert path in done.stderr
    assert not list((sandbox.dir / "state").rglob("quarantine/*")), "something stepped aside"
