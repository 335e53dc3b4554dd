# SPDX-License-Identifier: Apache-2.0
"""What the commands say of a running agent: in 80 columns for people, as JSON for programs."""

import json

from lib import servers
from lib.load import Load, Template, mix
from lib.sandbox import Sandbox
from lib.scrape import Agent
from lib.tallyd import service


def say(meter, *words):
    done = meter.command(*words, "--config", str(meter.config_path))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_services_say_why(agent, sandbox, keys, server):
    """Matched by what, where, which hooks, counted so far; or why not."""
    templates = mix(keys)
    meter = agent()
    meter.services.append(service("gone", [1], "/nowhere/at/all"))
    meter.write_config()
    meter.wait_for_metrics(lambda m: m.sum("tallyd_services_configured") == 2)
    Load(sandbox, keys, server.port, templates, 4, 300).result()
    rows = {r["service"]: r for r in json.loads(say(meter, "services", "-o", "json"))["rows"]}
    assert rows["api"]["attached"] and rows["api"]["why_not"] is None
    assert rows["api"]["responses"] == 300
    assert rows["api"]["hooks"] == ["ingress", "egress", "sockops"]
    assert rows["api"]["matched_by"] == f"cgroup {sandbox.cgroup_path}"
    assert [c[-len(sandbox.cgroup_path):] for c in rows["api"]["cgroups"]] == [sandbox.cgroup_path]
    assert not rows["gone"]["attached"] and "no cgroup" in rows["gone"]["why_not"]
    text = say(meter, "services")
    assert "hooks ingress, egress, sockops" in text
    assert "NOT METERED" in text and "not metered: no cgroup of that name is there" in text


def test_metered_hops(keys):
    """nginx and the application behind it, both metered: warned of, and counted in both."""
    with Sandbox("hops", netns=False) as sandbox:   # the agent sees its own network namespace
        look_for_hops(sandbox, keys)


def look_for_hops(sandbox, keys):
    proxy, app = sandbox.new_cgroup("proxy"), sandbox.new_cgroup("app")
    origin = servers.Python(sandbox, keys, cgroup=app).start()
    front = servers.Nginx(sandbox, keys, cgroup=proxy, origin=origin.port)
    front.start()
    meter = Agent(sandbox, keys, [service("edge", front.ports, proxy),
                                  service("app", origin.ports, app)]).start()
    assert meter.metrics().sum("tallyd_metered_hops") == 0
    key = keys.new("hop")
    load = Load(sandbox, keys, front.port, [Template("GET", "/upgrade", key)], 2, seconds=90)
    meter.wait_for_metrics(lambda m: m.sum("tallyd_metered_hops") == 1, 60, "the hop to be seen")
    rows = {r["service"]: r for r in json.loads(say(meter, "services", "-o", "json"))["rows"]}
    assert rows["app"]["called_by"] == ["edge"] and rows["edge"]["called_by"] == []
    assert "called by service edge" in say(meter, "services")
    assert "Service edge calls service app" in say(meter, "status")
    load.stop().result()


def test_status_warns(agent):
    meter = agent()
    assert "state     good" in say(meter, "status")
    assert json.loads(say(meter, "status", "-o", "json"))["warnings"] == []
    meter.config_path.write_text(meter.config_path.read_text(encoding="utf-8").replace(
        "window: 1s", "window: 7s"), encoding="utf-8")
    meter.wait_for_metrics(lambda m: m.sum("tallyd_config_last_reload_successful") == 0)
    text = say(meter, "status")     # the file that is wrong still says where the agent is
    assert "REFUSED" in text and "was refused; the one before is in force" in text


def test_top_fits_80_columns(agent, sandbox, keys, server):
    templates = mix(keys)
    meter = agent()
    load = Load(sandbox, keys, server.port, templates, 8, seconds=60)
    meter.wait_for_metrics(lambda m: m.sum("tallyd_requests_total") > 500)
    text = say(meter, "top", "--once")
    assert len(text.splitlines()) > 10
    assert max(len(line) for line in text.splitlines()) <= 80
    rows = json.loads(say(meter, "top", "-o", "json"))["rows"]
    assert rows[0]["requests"] >= rows[-1]["requests"] > 0
    assert {r["route"] for r in rows} >= {"/v1/enrich", "/v1/files/{size}"}
    peers = json.loads(say(meter, "connections", "-o", "json"))["rows"]
    assert peers and all(p["peer"].startswith("127.0.0.") for p in peers)
    load.stop().result()
