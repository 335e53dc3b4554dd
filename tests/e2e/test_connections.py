# SPDX-License-Identifier: Apache-2.0
"""Records of connections: who used a key from where. nginx, which logs the address and port of each
client beside what it answered, is the witness."""

import json
import socket
import urllib.request
from collections import Counter
from ipaddress import ip_address, ip_network
from pathlib import Path

import jsonschema
import pytest

from lib import api
from lib.client import Conn
from lib.load import Load, mix
from lib.servers.base import pick_key
from lib.tallyd import differences, service

SCHEMAS = Path(__file__).parents[2] / "deploy" / "schema"
NAMES = ("api_key_id", "customer_id", "key_ref", "mode", "service", "method", "route", "protocol",
         "status", "status_class", "billable", "reason", "attribution", "attribution_detail",
         "ruleset")
ON = {"records": {"connections": "on"}}


def witness(server):
    """{(peer, port, key, method, route, status): Sums}, as nginx tells it."""
    tally = api.new_tally()
    for line in server.log.read_text().splitlines():
        f = json.loads(line)
        key = server.keys.id_of(pick_key(f["key"], f["auth"], f["query"]))
        row = (str(ip_address(f["peer"])), f["peer_port"], key, f["method"],
               api.route_of(f["method"], f["uri"]), f["status"])
        api.add(tally, row, api.Sums(1, f["received"], f["sent"]))
    return tally


def told(ledger, name="api"):
    tally = api.new_tally()
    for event in ledger.connections:
        d = event["data"]
        if d["service"] == name:
            row = (d["peer"], d["peer_port"], d["api_key_id"], d["method"],
                   d["route"].split(" ")[-1], d["status"])
            api.add(tally, row, api.Sums(d["requests"], d["request_bytes"], d["response_bytes"]))
    return tally


def validator(name):
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return jsonschema.Draft202012Validator(schema).validate


def check(ledger):
    """What the schema and the README promise of the records of connections, one by one and together."""
    valid, valid_control = validator("connections"), validator("control")
    usage = {(d["agent"]["id"], d["incarnation"], d["seq"]): d for d in ledger.rows()}
    parts, indices = Counter(), {}
    for event in ledger.connections:
        valid(event)
        d = event["data"]
        agent = d["agent"]["id"], d["incarnation"]
        whole = usage[(*agent, d["usage_seq"])]
        assert {n: d[n] for n in NAMES} == {n: whole[n] for n in NAMES}
        assert whole["window_start"] <= d["window_start"] < d["window_end"] <= whole["window_end"]
        assert event["time"] == d["window_start"] and event["subject"] == \
            (d["customer_id"] or (f"key:{d['api_key_id']}" if d["api_key_id"] else "unattributed"))
        assert event["id"] == f"{agent[0]}-{agent[1]:08x}-n{d['batch']:014d}-{d['index']:08d}"
        indices.setdefault((*agent, d["batch"]), []).append(d["index"])
        for field in ("requests", "incomplete", "request_bytes", "response_bytes"):
            parts[(*agent, d["usage_seq"], field)] += d[field]
    for (*at, field), total in parts.items():
        assert usage[tuple(at)][field] == total, (at, field)
    assert {at[:3] for at in parts} == set(usage)
    for event in ledger.control:
        valid_control(event)
        d = event["data"]
        found = indices.get((d["agent"]["id"], d["incarnation"], d["batch"]), [])
        assert sorted(found) == list(range(d["connections"]["records"]))
    assert not ledger.audit()


def audit(agent, *words):
    return agent.command("audit", *words, "--file", str(agent.usage))


def test_peers(start, meter, sandbox, keys):
    """Kept and short connections, IPv4 and IPv6, many keys: each as nginx saw it, over several windows."""
    templates = mix(keys)
    server = start("nginx")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)], **ON)
    truth = api.new_tally()
    for single, address, requests in ((False, "127.0.0.1", 3000), (True, "127.0.0.1", 300),
                                      (False, "::1", 1000)):
        load = Load(sandbox, keys, server.port, templates, 16, requests, address=address,
                    one_per_connection=single)
        for row, sums in load.result().items():
            api.add(truth, row, sums)
    server.witness(4300, 20)
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert not api.explain(witness(server), told(ledger), names=("nginx", "tallyd"))
    check(ledger)
    assert len({e["data"]["connection"] for e in ledger.connections}) == 16 + 300 + 16
    done = audit(agent, "-o", "json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["agents"][0]["connection_records"] == len(ledger.connections)
    lines = agent.usage.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if '"kind":"connection"' in line)
    agent.usage.write_text("".join(lines[:at] + lines[at + 1:]))
    done = audit(agent)
    assert done.returncode == 1 and "connection records are missing" in done.stdout
    assert audit(agent, "--without-connections").returncode == 0


PEER = "127.9.8.7"      # like no other text
MAY_TELL = {"connections", "records of connections"}


def ask_as(sandbox, port, key):
    with sandbox.socket() as s:
        s.bind((PEER, 0))
        s.connect(("127.0.0.1", port))
        s.sendall(api.request("GET", "/v1/a", key))
        assert b" 200 " in s.recv(4096)
        return s.getsockname()[1]


@pytest.mark.parametrize("switch", ["on", "off"])
def test_addresses_are_nowhere_else(start, meter, sandbox, keys, switch):
    """In no other record, log, metric, page or answer; by default in no record at all."""
    key = keys.new("a")
    server = start("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = "%s:%d" % free.getsockname()
    agent = meter([service("api", server.ports, sandbox.cgroup_path)],
                  agent={"metrics": {"listen": listen}, "log": {"level": "debug"}},
                  records={"connections": switch})
    mine = ask_as(sandbox, server.port, key)
    told = {c: agent.command(c, "-o", "json", "--config", str(agent.config_path)).stdout
            for c in ("connections", "services", "status", "top")}
    for path in ("metrics", "", "live.json", "history.json", "healthz", "readyz"):
        with urllib.request.urlopen(f"http://{listen}/{path}", timeout=10) as answer:
            told[path] = answer.read().decode()
    agent.wait_for_records(lambda l: l.count("api") == 1)
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        sealed = f"tallyd_connection_records_sealed_total {int(switch == 'on')}\n"
        assert sealed in answer.read().decode()
    ledger = agent.stop()
    assert ledger.count("api") == 1
    told.update({"log": agent.log(), "usage": json.dumps([*ledger.usage, *ledger.control]),
                 "records of connections": json.dumps(ledger.connections)})
    assert all(len(text) > 1 for text in told.values())
    if switch == "off":
        assert not ledger.connections and all("connections" not in c for c in ledger.controls)
    wanted = MAY_TELL if switch == "on" else {"connections"}
    for words in (PEER, f"\"peer_port\": {mine}", f":{mine}"):
        assert {name for name, text in told.items() if words in text} <= wanted
    assert {name for name, text in told.items() if PEER in text} == wanted


@pytest.mark.parametrize("ipv4,ipv6", [(24, 48), (0, 0), (9, 1)])
def test_prefix(start, meter, sandbox, keys, ipv4, ipv6):
    """What is cut off is nowhere: not in records, not in the files of the spool."""
    key = keys.new("a")
    server = start("nginx")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)], records={
        "connections": "on", "peer_prefix": {"ipv4": ipv4, "ipv6": ipv6}})
    for address in ("127.0.0.1", "::1"):
        with Conn(sandbox, server.port, address) as c:
            assert c.ask(api.request("GET", "/v1/a", key)).status == 200
    ledger = agent.stop()
    check(ledger)
    peers = sorted((str(e["data"]["peer"]), e["data"]["peer_prefix"], e["data"]["peer_port"])
                   for e in ledger.connections)
    wanted = [(str(ip_network(f"{a}/{p}", strict=False).network_address) if p else "None", p, None)
              for a, p in (("127.0.0.1", ipv4), ("::1", ipv6))]
    assert peers == sorted(wanted)
    assert len({e["data"]["connection"] for e in ledger.connections}) == 2


def test_overflow(start, meter, sandbox, keys):
    """More connections than the map takes: what has no row of its own is told as that, sums are exact."""
    templates = mix(keys)
    server = start("nginx")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)], window="10s",
                  agent={"limits": {"connection_rows": 1024}}, **ON)
    load = Load(sandbox, keys, server.port, templates, 64, 24000, one_per_connection=True)
    truth = load.result()
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    check(ledger)
    without = sum(e["data"]["requests"] for e in ledger.connections
                  if e["data"]["connection"] is None)
    assert 0 < without < 24000, ledger.gaps()
    assert audit(agent).returncode == 0


def test_switched_under_load(start, meter, sandbox, keys):
    """On, off and on again without a restart; a kill between: each batch is by connection, or is not."""
    templates = mix(keys)
    server = start("nginx")
    agent = meter([service("api", server.ports, sandbox.cgroup_path)], **ON)
    load = Load(sandbox, keys, server.port, templates, 8)

    def both(ledger):
        return {"connections" in c for c in ledger.controls[-2:]}

    agent.wait_for_records(lambda l: both(l) == {True})
    agent.sections = {}
    agent.write_config()
    agent.wait_for_records(lambda l: both(l) == {False})
    agent.kill()
    agent.sections = ON
    agent.start()
    before = len(agent.ledger().controls)
    agent.wait_for_records(lambda l: len(l.controls) > before + 2 and both(l) == {True})
    truth = load.stop().result()
    ledger = agent.stop()
    assert not differences(truth, ledger, "api")
    assert audit(agent).returncode == 0, audit(agent).stdout
