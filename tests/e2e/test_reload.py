# SPDX-License-Identifier: Apache-2.0
"""A running agent gets another configuration: nothing lost, nothing twice, nothing half."""

import os
import re
import shutil
import signal
import socket
import time
import urllib.request
from collections import Counter

import pytest
import yaml

from lib import api
from lib.client import Conn
from lib.ledger import Ledger, read_events
from lib.load import Load, mix
from lib.sandbox import wait_for
from lib.tallyd import differences, service

RELOADS = 50


@pytest.fixture
def nginx(start):
    return start("nginx", proxied=False)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Reloader:
    """Changes the files of a running agent, each in one step, and waits until it has taken notice."""

    def __init__(self, meter, sandbox, server):
        self.dir = sandbox.dir
        self.port = free_port()
        self.agent = meter([service("api", server.ports, sandbox.cgroup_path)],
                           agent={"metrics": {"listen": f"127.0.0.1:{self.port}"}})
        self.config = yaml.safe_load(self.agent.config_path.read_text())
        self.catalog = yaml.safe_load(self.agent.catalog.read_text())

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            text = page.read().decode()
        return float(re.search(rf"^tallyd_{name} (\S+)$", text, re.M).group(1))

    def sink(self, name):
        return {"name": name, "file": {"path": str(self.dir / f"{name}.ndjson")}}

    def events(self, name):
        return read_events(self.dir / f"{name}.ndjson")

    def _replace(self, path, text):
        fresh = path.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)

    def put(self, text=None, hup=True):
        """The config, or this text in its place; the agent is told, or has to find out."""
        before = self.metric("config_reloads_total")
        self._replace(self.agent.config_path, text or yaml.safe_dump(self.config))
        if hup:
            self.agent.process.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: self.metric("config_reloads_total") > before, 30, "the reload")
        return self.metric("config_last_reload_successful") == 1

    def put_catalog(self, text=None):
        self._replace(self.agent.catalog, text or yaml.safe_dump(self.catalog))


def by_key_and_status(tally):
    """Routes change meanwhile; a key that is out of the catalog has a fingerprint for an id."""
    sums = Counter()
    for (key, _, _, status), s in tally.items():
        key = "key_c7" if key and key.startswith("kfp_") else key
        sums[key, status, "requests"] += s.requests
        sums[key, status, "in"] += s.request_bytes
        sums[key, status, "out"] += s.response_bytes
    return sums


def change(reloader, i):
    """One of five kinds of change, undone the next time it comes round."""
    config, again = reloader.config, i // 5 % 2
    entry = config["services"][0]
    if i % 5 == 0:
        entry["routes"] = [{"match": r, "credits": i} for r in api.ROUTES[again * 4:]]
    elif i % 5 == 1:
        extra = dict(entry, name="extra", match=dict(entry["match"], ports=[22999]))
        config["services"] = [entry] if again else [entry, extra]
    elif i % 5 == 2:
        entry["key"] = list(api.KEY_SOURCES[:3 - again])
        config["agent"]["window"] = "1s" if again else "2s"
    elif i % 5 == 3:
        keys = [k for k in reloader.catalog["keys"] if k["id"] != "key_c7"]
        removed = [k for k in reloader.all_keys if k["id"] == "key_c7"]
        reloader.catalog["keys"] = keys + (removed if again else [])
        reloader.put_catalog()
    else:
        config["sinks"] = [reloader.first_sink] + ([] if again else [reloader.sink("second")])


@pytest.mark.parametrize("option", ["limits", "metrics", "fleet_secret"])
def test_restart_pending(nginx, meter, sandbox, option):
    """What only a restart puts in force is said for as long as the file asks for it, over other reloads, too."""
    r = Reloader(meter, sandbox, nginx)
    secret = sandbox.dir / "fleet"
    secret.write_text("f" * 64)
    secret.chmod(0o600)
    at_start, agent = dict(r.config["agent"]), r.config["agent"]

    def said():
        text = r.agent.command("status", "--config", str(r.agent.config_path)).stdout
        assert ("Restart pending: agent." + option in text) == (r.metric("config_restart_pending") == 1), text
        return r.metric("config_restart_pending")

    assert said() == 0
    agent[option] = {"limits": {"spool_bytes": 1 << 30}, "metrics": {"listen": f"127.0.0.1:{free_port()}"},
                     "fleet_secret": f"${{file:{secret}}}"}[option]
    assert r.put() and said() == 1
    agent["window"] = "2s"
    assert r.put() and said() == 1
    r.config["agent"] = at_start
    assert r.put() and said() == 0


def test_fifty_reloads_under_load(nginx, meter, sandbox, keys):
    """Routes, services, key sources, the catalog and sinks change while 50 connections work."""
    templates = mix(keys)
    r = Reloader(meter, sandbox, nginx)
    r.all_keys, r.first_sink = list(r.catalog["keys"]), r.config["sinks"][0]
    load = Load(sandbox, keys, nginx.port, templates, 50, seconds=300)
    for i in range(RELOADS):
        change(r, i)
        assert r.put(hup=i % 2 == 0), r.agent.log()[-2000:]
    answered = len(nginx.entries())
    wait_for(lambda: len(nginx.entries()) > answered + 100, 20, "load after the last reload")
    truth = load.stop().result()
    assert load.lost == 0, load.report
    assert r.metric("config_reload_errors_total") == 0
    ledger = r.agent.stop(60)
    counted, expected = by_key_and_status(ledger.tally("api")), by_key_and_status(truth)
    print(f"{RELOADS} reloads, {api.total(truth).requests} requests, "
          f"{len(ledger.usage)} records, rulesets {len({d['ruleset'] for d in ledger.rows()})}")
    assert counted == expected, (expected - counted, counted - expected)
    assert len({d["ruleset"] for d in ledger.rows()}) >= 10
    assert not ledger.audit()
    both = Ledger(read_events(r.agent.usage) + r.events("second"))
    assert r.events("second") and not both.problems and len(both.usage) == len(ledger.usage)


RENAMES = 40


def test_renamed_under_load(nginx, meter, sandbox, keys):
    """A service gets another name again and again while connections of one request come and go: each
    request is booked under one of the two names."""
    templates = mix(keys)
    r = Reloader(meter, sandbox, nginx)
    load = Load(sandbox, keys, nginx.port, templates, 8, seconds=300, one_per_connection=True)
    for i in range(RENAMES):
        r.config["services"][0]["name"] = ("other", "api")[i % 2]
        assert r.put(), r.agent.log()[-2000:]
    answered = len(nginx.entries())
    wait_for(lambda: len(nginx.entries()) > answered + 20, 20, "load after the last reload")
    truth = load.stop().result()
    assert load.lost == 0, load.report
    ledger = r.agent.stop(60)
    counted = [ledger.count(name) for name in ("api", "other")]
    assert all(counted) and sum(counted) == api.total(truth).requests, ledger.unattributed()
    assert not ledger.count(attribution_detail="no-request"), ledger.unattributed()
    assert not ledger.audit()


def ask(sandbox, server, keys, n, truth, key):
    data = api.request("GET", "/v1/x", key)
    with Conn(sandbox, server.port) as c:
        for _ in range(n):
            response = c.ask(data)
            api.add(truth, (keys.id_of(key), "GET", "/v1/**", 200),
                    api.Sums(1, len(data), response.size))


def test_sinks_replaced(nginx, meter, sandbox, keys):
    """One sink goes as another comes: together they have everything, each record whole."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    for name in ("usage", "second", "third", "second"):
        r.config["sinks"] = [r.sink(name)] if name != "usage" else r.config["sinks"]
        assert r.put()
        ask(sandbox, nginx, keys, 7, truth, key)
        wait_for(lambda n=name: Ledger(r.events(n)).count("api") >= 7, 15, f"records in {name}")
    r.agent.stop()
    ledger = Ledger(r.events("usage") + r.events("second") + r.events("third"))
    assert not differences(truth, ledger, "api")
    assert not ledger.problems and not ledger.audit()


def test_a_sink_that_hangs_is_taken_out(nginx, meter, sandbox, keys):
    """A required broker that does not answer fills the spool; without it the spool empties."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    first = r.config["sinks"]
    r.config["sinks"] = first + [{"kafka": {"brokers": "127.0.0.1:9"}}]
    assert r.put()
    ask(sandbox, nginx, keys, 7, truth, key)
    r.agent.wait_for_records(lambda l: l.count("api") == 7, what="the file has them")
    assert r.metric("spool_records") > 0
    r.config["sinks"] = first
    assert r.put(hup=False)
    wait_for(lambda: r.metric("spool_records") == 0, 15, "the spool to be empty")
    ask(sandbox, nginx, keys, 7, truth, key)
    ledger = r.agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


@pytest.mark.parametrize("cut", (b"/v1/docu", b"extr", b"X-API-K"))
def test_head_that_outlives_its_rules(nginx, meter, sandbox, keys, cut):
    """Routes and key sources change in the middle of a head: it is read to its end under the old ones."""
    key = keys.new("a")
    data = api.request("POST", "/v1/documents/7/extract", key)
    at = data.index(cut) + len(cut)
    r = Reloader(meter, sandbox, nginx)
    entry = r.config["services"][0]
    with Conn(sandbox, nginx.port) as c:
        c.send(data[:at])
        c.wait_acknowledged(0)
        entry["routes"] = [{"match": f"/v1/{word}"} for word in ("x", "y/z", "documents/**", "**")]
        entry["key"] = [{"header": "X-Other"}]
        assert r.put()
        c.send(data[at:])
        assert len(c.responses(["POST"], 1)) == 1
        c.ask(data)
    ledger = r.agent.stop()
    assert ledger.count("api", api_key_id="key_a", route="/v1/documents/{id}/extract") == 1, \
        ledger.rows("api")
    assert ledger.count("api", attribution="anonymous", route="/v1/documents/**") == 1
    assert not ledger.audit()


@pytest.mark.parametrize("ended", ("answered", "closed"))
def test_exchange_that_outlives_its_service(nginx, meter, sandbox, keys, ended):
    """Its service is taken out while it is under way: what was asked stands in the books once."""
    key = keys.new("a")
    r = Reloader(meter, sandbox, nginx)
    entry = r.config["services"][0]
    other = dict(entry, name="other", match=dict(entry["match"], ports=[22999]))
    with Conn(sandbox, nginx.port, rcvbuf=16384) as c:
        c.send(api.request("GET", "/v1/files/8388608", key))
        c.read_until(b"\r\n\r\n")
        r.config["services"] = [other]
        assert r.put()
        if ended == "answered":
            c.responses(["GET"], 1)
    # Its end, which the server's socket comes to when it has seen the client's, books it.
    r.agent.wait_for_records(lambda l: l.count("api", status=200) == 1, what="the exchange")
    ledger = r.agent.stop()
    assert ledger.count("api", api_key_id="key_a", status=200) == 1, ledger.rows("api")
    assert not ledger.audit()


# Of a service that goes and comes back: what is left meanwhile, by the place and ports that it gives away.
MEANWHILE = {
    "its hook": lambda match, elsewhere: dict(match, ports=[22999]),
    "its port": lambda match, elsewhere: dict(match, cgroup=elsewhere),
    "neither": lambda match, elsewhere: dict(match, cgroup=elsewhere, ports=[22999]),
}


@pytest.mark.parametrize("left", MEANWHILE)
@pytest.mark.parametrize("meanwhile", ("nothing", "asked", "answered", "sent"))
def test_service_that_comes_back(start, meter, sandbox, keys, left, meanwhile):
    """Clients keep their connections. What happened while it was not there is not its own; what was under way
    when it went ends there; what comes after counts, from the next boundary on."""
    key = keys.new("a")
    go = start("go")
    data, gate = (api.request("GET", path, key) for path in ("/v1/x", "/gate"))
    r = Reloader(meter, sandbox, go)
    api_service = r.config["services"][0]
    match = MEANWHILE[left](api_service["match"], sandbox.new_cgroup("elsewhere"))
    other = dict(api_service, name="other", match=match)

    def put(*services):
        r.config["services"] = list(services)
        assert r.put(), r.agent.log()[-1000:]

    put(api_service, other)
    with Conn(sandbox, go.port) as c:
        c.ask(data)
        if meanwhile == "answered":
            c.send(gate)
            c.wait_acknowledged(0)
        put(other)
        if meanwhile == "asked":
            for _ in range(3):
                c.ask(data)
        elif meanwhile == "sent":
            c.send(gate)
            c.wait_acknowledged(0)
        elif meanwhile == "answered":
            (sandbox.dir / "files" / "gate").touch()
            c.responses(["GET"], 2)
        put(api_service, other)
        if meanwhile == "sent":
            (sandbox.dir / "files" / "gate").touch()
            c.responses(["GET"], 2)
        for _ in range(50):
            c.ask(data)
    ledger = r.agent.stop()
    seen = ledger.rows("api"), ledger.gaps()
    joined = ledger.count("api", attribution="midstream")
    assert joined <= {"nothing": 0, "sent": 4}.get(meanwhile, 2), seen
    assert ledger.count("api", status=200) in ((51, 52) if meanwhile == "sent" else (51,)), seen
    assert ledger.count("api", api_key_id="key_a", status=200) >= 51 - joined, seen
    assert ledger.count("api", status=0) == (meanwhile == "answered"), seen
    assert not ledger.count("other"), seen
    assert not ledger.audit()


def test_connection_whose_service_is_renamed(start, meter, sandbox, keys):
    """What is under way ends under the name under which it began; the next request has the new one."""
    key = keys.new("a")
    go = start("go")
    r = Reloader(meter, sandbox, go)
    with Conn(sandbox, go.port) as c:
        c.ask(api.request("GET", "/v1/x", key))
        c.send(api.request("GET", "/gate", key))
        c.wait_acknowledged(0)
        r.config["services"][0]["name"] = "fresh"
        assert r.put()
        (sandbox.dir / "files" / "gate").touch()
        c.responses(["GET"], 2)
        for _ in range(5):
            c.ask(api.request("GET", "/v1/x", key))
    ledger = r.agent.stop()
    assert ledger.count("api", api_key_id="key_a", status=200) == 2, ledger.rows()
    assert ledger.count("fresh", api_key_id="key_a", status=200) == 5, ledger.rows()
    assert not ledger.audit()


def test_connection_that_nobody_wanted(nginx, meter, sandbox, keys):
    """Its port was marked for a service elsewhere, and a hook covered it: it is joined when its service comes,
    and asked again only then."""
    key = keys.new("a")
    r = Reloader(meter, sandbox, nginx)
    own = r.config["services"][0]
    elsewhere = dict(own, name="elsewhere", match=dict(own["match"], cgroup=sandbox.new_cgroup("x")))
    root = dict(own, name="root", match={"ports": [22999]})
    r.config["services"] = [elsewhere, root]
    assert r.put()
    with Conn(sandbox, nginx.port) as c:
        for _ in range(3):
            c.ask(api.request("GET", "/v1/x", key))
        r.config["services"] = [elsewhere, root, own]
        assert r.put()
        for _ in range(50):
            c.ask(api.request("GET", "/v1/x", key))
    ledger = r.agent.stop()
    assert ledger.count("api", status=200) == 50, (ledger.rows(), ledger.gaps())
    assert ledger.count("api", api_key_id="key_a") >= 49
    assert not ledger.count("elsewhere") and not ledger.count("root")
    assert not ledger.audit()


MISTAKES = {
    "not YAML": lambda c: "services: [",
    "unknown key": lambda c: dict(c, sevices=[]),
    "tie": lambda c: dict(c, services=c["services"] + [dict(c["services"][0], name="twin")]),
    "route": lambda c: dict(c, services=[dict(c["services"][0], routes=[{"match": "x{"}])]),
    "no sink": lambda c: dict(c, sinks=[]),
    "librdkafka": lambda c: dict(c, sinks=c["sinks"] + [
        {"kafka": {"brokers": "b", "properties": {"no.such.property": 1}}}]),
    "no catalog": lambda c: dict(c, keys={"file": "/nonexistent/keys.yaml"}),
    "no secret": lambda c: dict(c, agent=dict(c["agent"], fleet_secret="${file:/nonexistent}")),
    "a capability given up": lambda c: dict(c, services=c["services"] + [
        {"name": "other", "match": {"executable": "/usr/bin/other", "ports": [1]},
         "tainted": "owner"}]),
}


def state_of(agent):
    """What the agent says of its services and sinks, without what grows."""
    words = "name", "match", "routes", "ports", "cgroups", "sink", "connected"
    text = "".join(agent.command(c, "-o", "json", "-c", str(agent.good)).stdout
                   for c in ("services", "status"))
    return sorted(re.findall(rf'"(?:{"|".join(words)})": (?:"[^"]*"|\d+|true|false)', text))


def test_mistakes_change_nothing(nginx, meter, sandbox, keys):
    """Each is refused as a whole, told by a metric and a line of the log; counting goes on."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    r.agent.good = sandbox.dir / "good.yaml"
    r.agent.good.write_text(r.agent.config_path.read_text())
    assert r.put()
    before = state_of(r.agent)
    assert before
    for name, spoil in MISTAKES.items():
        bad = spoil(r.config)
        lines = len(r.agent.log().splitlines())
        errors = r.metric("config_reload_errors_total")
        assert not r.put(bad if isinstance(bad, str) else yaml.safe_dump(bad)), name
        assert r.metric("config_reload_errors_total") > errors, name
        said = "\n".join(r.agent.log().splitlines()[lines:])
        assert re.search("refused|reason=", said), (name, said)
        assert state_of(r.agent) == before, name
        ask(sandbox, nginx, keys, 3, truth, key)
    assert r.put(hup=False) and r.metric("config_last_reload_successful") == 1
    ask(sandbox, nginx, keys, 3, truth, key)
    ledger = r.agent.stop()
    assert not differences(truth, ledger, "api")
    assert len({d["ruleset"] for d in ledger.rows("api")}) == 1
    assert not ledger.audit()


def test_broken_catalog_changes_nothing(nginx, meter, sandbox, keys):
    """The old keys hold; the metric says so until the file is good again."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    r.put_catalog("keys: [")
    wait_for(lambda: r.metric("catalog_last_reload_successful") == 0, 15, "the refusal")
    ask(sandbox, nginx, keys, 5, truth, key)
    assert not r.put()      # nor does a reload take another config with it
    r.put_catalog()
    wait_for(lambda: r.metric("catalog_last_reload_successful") == 1, 15, "the good one")
    ask(sandbox, nginx, keys, 5, truth, key)
    ledger = r.agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def test_catalog_written_in_place(nginx, meter, sandbox, keys):
    """By somebody who takes some seconds. What stands there meanwhile is a good catalog at each step: without
    a key, or with another customer's name. Nobody is billed by it."""
    key, last, truth = keys.new("a"), keys.new("b"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    entry = {k["id"]: f"- sha256: {k['sha256']}\n  id: {k['id']}\n  customer: " for k in r.catalog["keys"]}
    r.config["agent"]["window"] = "1s"
    assert r.put()
    taken = r.agent.log().count(" catalog keys=")
    assert taken
    with r.agent.catalog.open("w", encoding="utf-8") as out:
        for piece in ["keys:\n", entry["key_a"], "cus_ab", "1", "2", "\n", entry["key_b"], "cus_b\n"]:
            out.write(piece)
            out.flush()
            until = time.monotonic() + 0.4
            while time.monotonic() < until:
                ask(sandbox, nginx, keys, 1, truth, key)
                ask(sandbox, nginx, keys, 1, truth, last)
    wait_for(lambda: r.agent.log().count(" catalog keys=") > taken, 15, "the catalog")
    ask(sandbox, nginx, keys, 3, truth, key)
    ledger = r.agent.stop()
    assert not differences(truth, ledger, "api")
    assert {d["customer_id"] for d in ledger.rows("api")} == {"cus_a", "cus_ab12", "cus_b"}
    assert not ledger.audit()


def test_key_that_changes_hands(nginx, meter, sandbox, keys):
    """Who has it when the window is closed gets all that the window holds."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    r.config["agent"]["window"] = "1h"
    assert r.put()
    taken = r.agent.log().count(" catalog keys=")
    ask(sandbox, nginx, keys, 3, truth, key)
    r.catalog["keys"][0]["customer"] = "cus_new"
    r.put_catalog()
    wait_for(lambda: r.agent.log().count(" catalog keys=") > taken, 15, "the catalog")
    ask(sandbox, nginx, keys, 4, truth, key)
    ledger = r.agent.stop()
    assert ledger.count("api", api_key_id="key_a", customer_id="cus_new") == 7, ledger.rows("api")
    assert not ledger.audit()


def test_catalog_that_never_rests(nginx, meter, sandbox, keys):
    """Somebody replaces it several times a second: it is read all the same."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    catalog_of(r, "key_b")

    def replaced():
        r.put_catalog()
        return r.agent.log().count(" catalog keys=") > 1
    wait_for(replaced, 30, "the catalog")
    ask(sandbox, nginx, keys, 3, truth, key)
    assert r.agent.stop().count("api", api_key_id="key_b") == 3


@pytest.mark.parametrize("moved", [False, True])
def test_catalog_that_comes_whole_later(nginx, meter, sandbox, keys, moved):
    """Config and catalog are deployed together, and the catalog is half written when it is read: when it is
    whole, both are in force, though nobody touches the config again."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    if moved:
        r.agent.catalog = r.agent.catalog.with_name("elsewhere.yaml")
        r.config["keys"]["file"] = str(r.agent.catalog)
    r.config["services"][0]["routes"] = [{"match": "/v1/x"}]
    whole = yaml.safe_dump(catalog_of(r, "key_b"))
    r.agent.catalog.write_text("keys: [", encoding="utf-8")
    assert not r.put(hup=False)
    r.agent.catalog.write_text(whole, encoding="utf-8")
    wait_for(lambda: r.metric("config_last_reload_successful") == 1, 15, "both")
    ask(sandbox, nginx, keys, 3, truth, key)
    ledger = r.agent.stop()
    assert ledger.count("api", api_key_id="key_b", route="/v1/x") == 3, ledger.rows("api")
    assert not ledger.audit()


def catalog_of(r, name):
    r.catalog["keys"] = [dict(k, id=name) if k["id"] in ("key_a", "key_b") else k
                         for k in r.catalog["keys"]]
    return r.catalog


def test_reload_that_fails_late_is_tried_again(nginx, meter, sandbox, keys):
    """Config and catalog change together, and the disk fails: the catalog is taken at once, the config
    as soon as it can be, though nobody touches a file again."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    rulesets = next(sandbox.dir.rglob("rulesets"))
    aside = rulesets.rename(rulesets.with_name("aside"))
    rulesets.write_text("no folder")
    r.config["services"][0]["routes"] = [{"match": "/v1/x"}]
    catalog_of(r, "key_b")
    r.put_catalog()
    assert not r.put()
    assert "config=unchanged" in r.agent.log()
    errors = r.metric("config_reload_errors_total")
    wait_for(lambda: r.metric("config_reload_errors_total") > errors + 1, 15, "more tries")
    assert r.metric("catalog_last_reload_successful") == 1
    ask(sandbox, nginx, keys, 5, truth, key)
    rulesets.unlink()
    aside.rename(rulesets)
    wait_for(lambda: r.metric("config_last_reload_successful") == 1, 15, "the reload")
    ask(sandbox, nginx, keys, 3, truth, key)
    ledger = r.agent.stop()
    assert ledger.count("api", api_key_id="key_b") == 8, ledger.rows("api")
    assert ledger.count("api", api_key_id="key_b", route="/v1/x") == 3
    assert not ledger.audit()


def test_more_scopes_than_there_can_be(nginx, meter, sandbox, keys):
    """The config is in force but for them: that service is told of, the others are metered."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    entry, own = r.config["services"][0], r.config["services"][:]
    r.config["services"] = own + [
        dict(entry, name=f"s{i}", match=dict(entry["match"], ports=list(range(i * 100 + 1, i * 100 + 71))))
        for i in range(60)]
    assert r.put()
    assert r.agent.log().count("service_not_attached") == 2, r.agent.log()
    errors = r'attach_errors_total\{reason="full"\}'
    reloads, looks = r.metric("config_reloads_total"), r.metric(errors)
    wait_for(lambda: r.metric(errors) > looks, 25, "another try of what failed")
    assert r.metric("config_reloads_total") == reloads
    ask(sandbox, nginx, keys, 2, truth, key)
    r.config["services"] = own
    assert r.put()
    assert "service_attached" not in r.agent.log()
    ask(sandbox, nginx, keys, 3, truth, key)
    ledger = r.agent.stop()
    assert not differences(truth, ledger, "api")
    assert not ledger.audit()


def seen(r):
    """Requests so far by service, as the metrics say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{r.port}/metrics", timeout=10) as page:
        text = page.read().decode()
    counts = Counter()
    for name, count in re.findall(r'^tallyd_requests_total{service="([^"]+)".*} (\S+)$', text, re.M):
        counts[name] += int(count)
    return counts


def test_all_names_taken(nginx, meter, sandbox, keys):
    """With 64 services a new one takes the index of one that went: not before the reload succeeds, and
    without its sums."""
    key, truth = keys.new("a"), api.new_tally()
    r = Reloader(meter, sandbox, nginx)
    entry = r.config["services"][0]
    r.config["services"] += [dict(entry, name=f"s{i}", match=dict(entry["match"], ports=[21000 + i]))
                             for i in range(63)]
    assert r.put(), r.agent.log()[-2000:]
    ask(sandbox, nginx, keys, 3, truth, key)
    r.agent.wait_for_records(lambda l: l.count("api") == 3, what="the first name's")
    wait_for(lambda: seen(r)["api"] == 3, 5, "the metric")
    connections = r.metric("connections_total")
    rulesets = next(sandbox.dir.rglob("rulesets"))
    aside = rulesets.rename(rulesets.with_name("aside"))
    rulesets.write_text("no folder")
    entry["name"] = "fresh"
    assert not r.put()
    assert "api" in seen(r) and "fresh" not in seen(r)
    rulesets.unlink()
    aside.rename(rulesets)
    wait_for(lambda: r.metric("config_last_reload_successful") == 1, 15, "the reload")
    assert "api" not in seen(r) and "fresh" in seen(r) and not seen(r)["fresh"]
    assert r.metric("connections_total") >= connections
    ask(sandbox, nginx, keys, 2, truth, key)
    ledger = r.agent.stop()
    assert ledger.count("api") == 3 and ledger.count("fresh") == 2
    assert not ledger.audit()


def test_rules_lost(nginx, meter, sandbox, keys):
    """The files of rules are lost while nobody runs: what was counted under them is of no service that
    has its index now by chance."""
    key, truth = keys.new("a"), api.new_tally()
    agent = meter([service("api", nginx.ports, sandbox.cgroup_path)], agent={"window": "1m"})
    ask(sandbox, nginx, keys, 3, truth, key)
    agent.kill()
    shutil.rmtree(next(sandbox.dir.rglob("rulesets")))
    agent.services.insert(0, service("other", [22999], sandbox.cgroup_path))
    agent.start()
    ask(sandbox, nginx, keys, 2, truth, key)
    ledger = agent.stop()
    assert ledger.count("_unknown") == 3 and ledger.count("api") == 2, ledger.rows()
    assert not ledger.count("other")
    assert all(not d["billable"] for d in ledger.rows("_unknown"))
    assert all(": billable: " in p for p in ledger.audit())     # without its rules, no charge
