# SPDX-License-Identifier: Apache-2.0
"""Alerts, runbook and dashboards: they load, they fire and resolve, and they speak of what exists."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from lib.sandbox import need_program
from test_metrics import DEPLOY, REPO, documented

RULES = DEPLOY / "tallyd.rules.yaml"
GRAFANA = REPO / "deploy/grafana"
DASHBOARDS = sorted(GRAFANA.glob("*.json"))
NOT_OURS = {"up"}       # made by Prometheus itself


def promtool(*words, **kwargs):
    done = subprocess.run([need_program("promtool"), *map(str, words)], capture_output=True,
                          text=True, check=False, **kwargs)
    return done.returncode, done.stdout + done.stderr


def alerts():
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]


def unknown(query):
    """Metrics and labels of a query that metrics.md does not know."""
    known = documented()
    bare = re.sub(r'"[^"]*"', '""', query)
    names = set(re.findall(r"\b(?:tallyd|process)_\w+|\bup\b", bare)) - NOT_OURS
    wrong = {n for n in names if n not in known}
    for name, body in re.findall(r"\b((?:tallyd|process)_\w+)\{([^}]*)\}", bare):
        labels = set(re.findall(r'(\w+)\s*[=!]', body)) - {"job", "instance"}
        wrong |= {f"{name}{{{x}}}" for x in labels if name in known and x not in known[name][1]}
    return wrong


def queries(dashboard):
    return [t["expr"] for p in dashboard["panels"] for t in p["targets"]]


def test_rules_load_fire_and_resolve():
    assert promtool("check", "config", DEPLOY / "scrape.yaml")[0] == 0
    code, text = promtool("check", "rules", RULES)
    assert code == 0, text
    code, text = promtool("test", "rules", DEPLOY / "tallyd.rules.test.yaml")
    assert code == 0, text


def test_scrape_config_of_kubernetes():
    """What is commented out is a job, too (Debian's promtool knows none of Kubernetes), and looks where the
    manifests put the pods."""
    text = (DEPLOY / "scrape.yaml").read_text(encoding="utf-8")
    job = "".join(re.findall(r"^  # ([- ] .*\n)", text.split("In Kubernetes")[1], re.M))
    job = job[job.index("- job_name"):]
    (parsed,) = yaml.safe_load(job)
    assert parsed["job_name"] == "tallyd"
    (discovery,) = parsed["kubernetes_sd_configs"]
    folder = REPO / "deploy/kubernetes/base"
    namespace = yaml.safe_load((folder / "namespace.yaml").read_text(encoding="utf-8"))
    assert discovery["namespaces"]["names"] == [namespace["metadata"]["name"]]
    pod = yaml.safe_load((folder / "daemonset.yaml").read_text(encoding="utf-8"))["spec"]["template"]
    assert pod["spec"]["containers"][0]["ports"][0]["name"] in job


@pytest.mark.parametrize("rule", alerts(), ids=lambda r: r["alert"])
def test_each_alert(rule):
    """Is tested quiet, firing and resolved; speaks of metrics that exist; has its section."""
    tests = yaml.safe_load((DEPLOY / "tallyd.rules.test.yaml").read_text(encoding="utf-8"))["tests"]
    cases = [c for t in tests for c in t["alert_rule_test"] if c["alertname"] == rule["alert"]]
    assert [bool(c["exp_alerts"]) for c in cases] == [False, True, False]
    assert not unknown(rule["expr"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["runbook"] == f"runbook.md#{rule['alert'].lower()}"
    runbook = (DEPLOY / "runbook.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {rule['alert']}\n\n(.*?)(?=^## |\Z)", runbook, re.M | re.S)
    assert section and section[1].startswith("**Means** ")


# Counters that move once per window: what they gain per minute, in good times and in bad ones.
WINDOWED = {
    "TallydUnattributedRatio": ('tallyd_unattributed_requests_total{reason="tainted"}', 0, 50),
    "TallydAnonymousRatio": ('tallyd_unattributed_requests_total{reason="anonymous"}', 10, 900),
    "TallydUncatalogued": ("tallyd_uncatalogued_requests_total", 0, 100),
    "TallydUnparsedBytes": ('tallyd_unparsed_bytes_total{reason="gave-up"}', 0, 1000),
    "TallydStreamGaps": ('tallyd_resyncs_total{reason="park-full"}', 0, 100),
}
AT_ONCE = {"TallydAttachErrors", "TallydBooksNotClosing", "TallydPodsNotMetered"}      # their counters wait for no window's end
HOUR = 60


def series(name, window, good, bad):
    """A value a minute, of 14 hours; bad ones from 3 h to 9 h."""
    name = name[:-1] + "," if name.endswith("}") else name + "{"
    total, values = 0, []
    for minute in range(14 * HOUR):
        if minute and minute % window == 0:
            total += window * (bad if 3 * HOUR < minute <= 9 * HOUR else good)
        values.append(str(total))
    return {"series": name + 'instance="a", job="tallyd"}', "values": " ".join(values)}


@pytest.mark.parametrize("window", [1, 20, 30, 60])
@pytest.mark.parametrize("name", WINDOWED)
def test_alerts_with_long_windows(name, window, tmp_path):
    """It fires, and without a break, within four hours, and not for long after; before it is quiet."""
    counter, good, bad = WINDOWED[name]
    fires = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
    tests = [{"interval": "1m", "input_series": [
        series('tallyd_requests_total{service="x", protocol="http/1.1"}', window, 1000, 1000),
        series('tallyd_bytes_total{service="x", direction="in"}', window, 10000, 10000),
        series(counter, window, good, bad)],
        "promql_expr_test": [
            {"expr": f"count_over_time({fires}[3h])", "eval_time": "3h", "exp_samples": []},
            {"expr": f"count_over_time({fires}[2h]) >= bool 120", "eval_time": "9h",
             "exp_samples": [{"labels": f'{{alertname="{name}", alertstate="firing", instance="a", '
                                        'job="tallyd", severity="warning"}', "value": 1}]},
            {"expr": fires, "eval_time": "12h10m", "exp_samples": []}]}]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m",
                                    "tests": tests}), encoding="utf-8")
    code, text = promtool("test", "rules", file)
    assert code == 0, text


def test_no_rate_is_over_less_than_two_windows():
    """An alert that waits must look at more than the longest window twice, or at what comes at once."""
    waiting = {r["alert"]: re.findall(r"\w+\([^()]*\[(\w+)\]\)", r["expr"]) for r in alerts() if "for" in r}
    short = {name for name, ranges in waiting.items() if set(ranges) - {"1h", "2h"}}
    assert short == AT_ONCE
    assert set(WINDOWED) == {name for name, ranges in waiting.items() if "2h" in ranges}


def test_a_broken_rule_is_found(tmp_path):
    """The tests of the rules can fail: without its `for`, or with another threshold, they do."""
    text = RULES.read_text(encoding="utf-8")
    (tmp_path / "tallyd.rules.test.yaml").write_bytes(
        (DEPLOY / "tallyd.rules.test.yaml").read_bytes())
    for old, new in (("> 0.01 *", "> 0.1 *"), ("tallyd_sealing_fails == 1", "tallyd_sealing_fails == 2"),
                     ("up{job=\"tallyd\"} == 0\n        for: 5m", "up{job=\"tallyd\"} == 0\n        for: 50m")):
        assert old in text
        (tmp_path / "tallyd.rules.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
        code, _ = promtool("test", "rules", tmp_path / "tallyd.rules.test.yaml")
        assert code != 0, new


def test_runbook_speaks_of_what_exists():
    """Links lead somewhere; what journalctl is told to look for is logged; no section without alert."""
    runbook = (DEPLOY / "runbook.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (\w+)$", runbook, re.M)
    assert sorted(titles) == sorted(r["alert"] for r in alerts())
    assert set(re.findall(r"\]\(#(\w+)\)", runbook)) <= {t.lower() for t in titles}
    source = "".join(p.read_text(encoding="utf-8") for p in (REPO / "user").rglob("*.c"))
    for event in re.findall(r"-g (\w+)", runbook):
        assert f'"{event}"' in source, event
    for path in re.findall(r"`((?:deploy|include)/[\w./]+)`", runbook):
        assert (REPO / path).exists(), path
    for name in re.findall(r"tallyd_\w+", runbook):
        assert name in documented(), name


def test_dashboards_are_generated(tmp_path):
    sys.path.insert(0, str(GRAFANA))
    import dashboards
    dashboards.main(tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [p.name for p in DASHBOARDS]
    for path in DASHBOARDS:
        assert path.read_text(encoding="utf-8") == (tmp_path / path.name).read_text(
            encoding="utf-8"), f"run {GRAFANA}/dashboards.py"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_dashboard(path, tmp_path):
    """Each query is PromQL, and of metrics that exist; panels do not overlap."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    wrong = {q: unknown(q) for q in queries(dashboard) if unknown(q)}
    assert not wrong
    rules = [{"record": f"q{n}", "expr": q.replace("$__rate_interval", "5m").replace("$instance", ".*")}
             for n, q in enumerate(queries(dashboard))]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}), encoding="utf-8")
    code, text = promtool("check", "rules", "--lint=none", file)
    assert code == 0, text
    taken = set()
    for p in dashboard["panels"]:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert not cells & taken and g["x"] + g["w"] <= 24, p["title"]
        taken |= cells


def test_every_loss_is_on_a_dashboard_or_in_an_alert():
    text = RULES.read_text(encoding="utf-8") + "".join(p.read_text(encoding="utf-8") for p in DASHBOARDS)
    shown = set(re.findall(r"\b(?:tallyd|process)_\w+", text))
    left = set(documented()) - shown - {
        "tallyd_build_info", "tallyd_catalog_keys", "tallyd_cgroups_attached", "tallyd_metered_hops", "tallyd_swap_seconds_max",
        "tallyd_config_reloads_total", "tallyd_config_reload_errors_total", "tallyd_attach_errors_total",
        "tallyd_config_restart_pending",
        "tallyd_window_end_timestamp_seconds", "process_open_fds", "process_max_fds",
        "process_virtual_memory_bytes"}
    assert not left
