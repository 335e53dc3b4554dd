# SPDX-License-Identifier: Apache-2.0
"""At full speed the difference is 0, and what the maps cannot hold is reported, not lost."""

import pytest

from lib import api
from lib.load import Load, Template, mix
from lib.tallyd import differences, service


def settle(agent, server, truth, load):
    assert load.lost == 0, load.report
    ledger = agent.stop(60)
    problems = differences(truth, ledger, "api")
    assert not problems, problems
    assert not ledger.audit()
    return ledger


@pytest.mark.parametrize("name", ["nginx", "go"])
def test_100000_requests_over_1000_connections(start, meter, sandbox, keys, name):
    templates = mix(keys)
    server = start(name, proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, server.port, templates, 1000, 100_000)
    truth = load.result()
    print(f"{name}: 100000 requests in {load.report['seconds']} s")
    assert api.total(truth).requests == 100_000
    ledger = settle(agent, server, truth, load)
    assert ledger.unattributed("api") == {("anonymous", None): sum(
        s.requests for (key, *_), s in truth.items() if key is None)}
    assert not api.explain(truth, server.witness(100_000, 30), ("requests",), ("client", "server"))


def test_one_hot_key(start, meter, sandbox, keys):
    """One key, one route, 64 connections: no row is contended away."""
    templates = [Template("GET", "/status/200", keys.new("hot"))]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, server.port, templates, 64, 100_000)
    settle(agent, server, load.result(), load)


def test_many_keys(start, meter, sandbox, keys):
    """A thousand keys on every connection: rows by the thousand in each window."""
    templates = [Template("GET", "/status/200", keys.new(f"k{i}")) for i in range(1000)]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, server.port, templates, 200, 60_000)
    settle(agent, server, load.result(), load)


@pytest.mark.parametrize("requests", [30_000, pytest.param(300_000, marks=pytest.mark.long)])
def test_one_request_per_connection(start, meter, sandbox, keys, requests):
    """20,000 connections a second of one request each; totals are exact whatever overflows."""
    templates = [Template("GET", "/status/200", keys.new(f"k{i}")) for i in range(10)]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, server.port, templates, 200, requests, one_per_connection=True)
    truth = load.result()
    rate = requests / load.report["seconds"]
    print(f"{rate:.0f} connections/s")
    settle(agent, server, truth, load)


@pytest.mark.long
def test_agent_stopped_for_a_minute(start, meter, sandbox, keys):
    """Killed under full load, down for a minute, and started again under load: totals exact."""
    templates = [Template("GET", "/status/200", keys.new(f"k{i}")) for i in range(10)]
    server = start("nginx", proxied=False)
    agent = meter([service("api", server.ports, sandbox.cgroup_path)])
    load = Load(sandbox, keys, server.port, templates, 200, seconds=62, one_per_connection=True)
    agent.wait_for_records(lambda l: l.count("api") >= 1000)
    agent.kill()
    truth = load.result(120)
    after = Load(sandbox, keys, server.port, templates, 50, seconds=10, one_per_connection=True)
    agent.start()
    for row, sums in after.result(60).items():
        api.add(truth, row, sums)
    assert load.lost == after.lost == 0
    print(f"{load.report['connections'] / load.report['seconds']:.0f} connections/s")
    ledger = agent.stop(120)
    total, counted = api.total(truth), api.total(ledger.tally("api"))
    assert counted == total, f"answered {total}, counted {counted}, gaps {ledger.gaps()}"
    if ledger.count("api", attribution="overflow"):
        assert ledger.gaps(), "an overflow that no gap counter reports"
    else:
        assert not differences(truth, ledger, "api")
    assert not ledger.audit()
