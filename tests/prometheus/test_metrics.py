# SPDX-License-Identifier: Apache-2.0
"""/metrics is what deploy/prometheus/metrics.md says, and says what the records say."""

import re
import socket
import subprocess
from pathlib import Path

from lib import api
from lib.load import Load, mix
from lib.sandbox import need_program, wait_for
from lib.tallyd import service

REPO = Path(__file__).parents[2]
DEPLOY = REPO / "deploy/prometheus"
LOSSES = ("unattributed_requests_total", "unparsed_bytes_total", "resyncs_total", "holes_total",
          "map_overflow_total", "aborted_requests_total", "uncatalogued_requests_total",
          "book_errors_total", "attach_errors_total", "config_reload_errors_total",
          "kafka_errors_total", "ledger_imbalance_records", "sealing_fails",
          "spool_quarantined_files")


def documented():
    """{name: (type, labels, meaning)}"""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$",
                      (DEPLOY / "metrics.md").read_text(encoding="utf-8"), re.M)
    return {name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels))), text)
            for name, kind, labels, text in rows}


def test_list_and_names(agent):
    """Name by name, label by label, word by word; every loss from the start, at 0."""
    metrics = agent().metrics()
    found = {name: (metrics.type[name], labels, metrics.help[name])
             for name in metrics.type for labels in metrics.labels(name)}
    assert found == documented()
    for name in LOSSES:
        assert metrics.sum("tallyd_" + name) == 0, name
    assert len([1 for _, labels in metrics.series if ("service", "api") in labels]) == 14
    done = subprocess.run([need_program("promtool"), "check", "metrics"], input=metrics.text,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr


def test_metrics_equal_the_records(agent, sandbox, keys, server):
    templates = mix(keys)
    meter = agent()
    truth = Load(sandbox, keys, server.port, templates, 32, 5000).result()
    metrics = meter.wait_for_metrics(
        lambda m: m.sum("tallyd_requests_total") == 5000
        and m.sum("tallyd_records_acked_total") == m.sum("tallyd_records_sealed_total"))
    ledger = meter.stop()
    rows = list(ledger.rows("api"))
    assert metrics.sum("tallyd_records_sealed_total") == len(rows)
    for field, name, labels in (("requests", "tallyd_requests_total", {}),
                                ("request_bytes", "tallyd_bytes_total", {"direction": "in"}),
                                ("response_bytes", "tallyd_bytes_total", {"direction": "out"})):
        assert metrics.sum(name, **labels) == sum(r[field] for r in rows), name
    for c in "2345":
        assert metrics.sum("tallyd_responses_total", **{"class": c + "xx"}) == sum(
            r["requests"] for r in rows if r["status_class"] == c + "xx")
    assert metrics.sum("tallyd_unattributed_requests_total", reason="anonymous") == sum(
        r["requests"] for r in rows if r["attribution"] == "anonymous")
    assert not api.explain(truth, ledger.tally("api"))
    assert metrics.sum("tallyd_held_requests") == 0
    seconds = metrics.sum("tallyd_exchange_seconds_total")
    assert abs(seconds - sum(r["duration_us"] for r in rows) / 1e6) < 1e-3 * max(1, seconds)


def test_no_customer_and_no_key(agent, sandbox, keys, server):
    templates = mix(keys)
    meter = agent()
    Load(sandbox, keys, server.port, templates, 8, 500).result()
    text = meter.wait_for_metrics(lambda m: m.sum("tallyd_requests_total") == 500).text
    assert not re.search(r"sk_c\d|key_c\d|cus_c\d|enrich", text)


def test_uncatalogued_keys(agent, sandbox, keys, server):
    """A key that the server takes and the catalog lacks is counted, and told."""
    known = mix(keys, 2)
    meter = agent()
    Load(sandbox, keys, server.port, mix(api.Keys(), 4)[:4], 4, 100).result()
    Load(sandbox, keys, server.port, known[-8:-1], 4, 100).result()
    metrics = meter.wait_for_metrics(lambda m: m.sum("tallyd_requests_total") == 200)
    strangers = sum(r["requests"] for r in meter.stop().rows("api") if r["key_ref"] == "hmac")
    assert metrics.sum("tallyd_uncatalogued_requests_total") == strangers


def test_health(agent, sandbox, keys, server):
    """Ready without a sink that answers: what cannot be shipped waits on disk, and is told."""
    meter = agent(sinks=[{"kafka": {"brokers": "127.0.0.1:1"}}])
    assert meter.get("/healthz")[0] == 200
    assert meter.get("/readyz")[0] == 200
    Load(sandbox, keys, server.port, mix(keys), 4, 200).result()
    metrics = meter.wait_for_metrics(lambda m: m.sum("tallyd_requests_total") == 200
                                     and m.sum("tallyd_spool_records") > 0)
    assert metrics.sum("tallyd_sink_connected", sink="kafka") == 0
    assert metrics.sum("tallyd_records_acked_total") == 0
    assert meter.get("/readyz")[0] == 200
    assert meter.get("/metrics", method="POST")[0] == 405
    assert meter.get("/nothing")[0] == 404


def test_config_refused_and_service_gone(agent, sandbox):
    """What alerts stand on: a file that does not load, a service whose cgroup is not there."""
    meter = agent()
    assert meter.metrics().sum("tallyd_config_last_reload_successful") == 1
    good = meter.config_path.read_text(encoding="utf-8")
    meter.config_path.write_text(good + "\nbogus: 1\n", encoding="utf-8")
    metrics = meter.wait_for_metrics(lambda m: m.sum("tallyd_config_last_reload_successful") == 0)
    assert metrics.sum("tallyd_config_reload_errors_total") >= 1
    assert metrics.sum("tallyd_services_attached") == 1
    meter.services.append(service("gone", [1], "/nowhere/at/all"))
    meter.write_config()
    metrics = meter.wait_for_metrics(lambda m: m.sum("tallyd_services_configured") == 2)
    assert metrics.sum("tallyd_config_last_reload_successful") == 1
    assert metrics.sum("tallyd_services_attached") == 1
    meter.catalog.write_text("keys: 7\n", encoding="utf-8")
    meter.wait_for_metrics(lambda m: m.sum("tallyd_catalog_last_reload_successful") == 0)


def test_an_address_that_comes_later(agent):
    """Somebody else has it at the start: the agent meters, says so once, and answers when it is free."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        a = agent(agent={"metrics": {"listen": f"127.0.0.1:{port}"}})
        a.port = port
        wait_for(lambda: "metrics_off" in a.log(), 10, "a word about the address")
    wait_for(lambda: "metrics_on" in a.log(), 10, "the address")
    assert a.metrics().sum("tallyd_services_configured") == 1
    assert a.log().count("metrics_off") == 1 and a.log().count("metrics_on") == 1
