#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tallyd-fleet.json and tallyd-agent.json beside itself. A test says when they are not up to date.

A panel is (title, width in 24ths, kind, unit, {legend: query}, description). Rows of panels fill up to 24.
"""

import json
from pathlib import Path

HEIGHT = 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
A = '{job="tallyd"}'
RATE = "[$__rate_interval]"


def i(name, labels="", rate=False):
    """That metric of the instances chosen; labels: 'reason!="anonymous"'."""
    text = f'{name}{{job="tallyd", instance=~"$instance"{", " + labels if labels else ""}}}'
    return f"rate({text}{RATE})" if rate else text


FAILED = i("tallyd_responses_total", 'class="5xx"', True)

FLEET = [
    ("Agents up", 4, "stat", "none", {"up": f"sum(up{A})"}, "Of those Prometheus knows."),
    ("Requests per second", 4, "stat", "reqps", {"requests": f"sum(rate(tallyd_requests_total{A}{RATE}))"},
     "Booked, all agents."),
    ("Books out of balance", 4, "bad", "none", {"agents": f"count(tallyd_ledger_imbalance_records{A} > 0) or vector(0)"},
     "Agents whose control identity does not hold. Must be 0."),
    ("Not attributed", 4, "stat", "percentunit",
     {"share": f"sum(rate(tallyd_unattributed_requests_total{A}{RATE})) / sum(rate(tallyd_requests_total{A}{RATE}))"},
     "Share of the requests that no key can be charged for, those without a key included."),
    ("Oldest record waiting", 4, "stat", "s", {"age": f"max(tallyd_spool_oldest_seconds{A})"},
     "On any agent's disk."),
    ("Services not metered", 4, "bad", "none",
     {"services": f"sum(tallyd_services_configured{A}) - sum(tallyd_services_attached{A})"}, "Configured, and not attached."),
    ("Requests by service", 12, "stack", "reqps",
     {"{{service}}": f"sum by (service) (rate(tallyd_requests_total{A}{RATE}))"}, ""),
    ("Responses by class", 12, "stack", "reqps",
     {"{{class}}": f"sum by (class) (rate(tallyd_responses_total{A}{RATE}))"}, "none: no final response left the server."),
    ("Busiest agents", 12, "lines", "reqps",
     {"{{instance}}": f"topk(10, sum by (instance) (rate(tallyd_requests_total{A}{RATE})))"}, ""),
    ("Not attributed, by reason", 12, "stack", "reqps",
     {"{{reason}}": f"sum by (reason) (rate(tallyd_unattributed_requests_total{A}{RATE}))"}, ""),
    ("Records waiting", 12, "lines", "none", {"{{instance}}": f"topk(10, tallyd_spool_records{A} > 0)"},
     "On disk, not yet confirmed by every required sink."),
    ("Sinks that do not answer", 12, "lines", "none",
     {"{{instance}} {{sink}}": f"1 - tallyd_sink_connected{A} > 0"}, ""),
    ("Fullest maps", 12, "lines", "percentunit",
     {"{{instance}} {{map}}": f"topk(10, tallyd_map_entries{A} / tallyd_map_capacity{A})"}, ""),
    ("Agent CPU", 12, "lines", "percentunit",
     {"{{instance}}": f"topk(10, rate(process_cpu_seconds_total{A}{RATE}))"}, "Of one CPU."),
]

AGENT = [
    ("Requests per second", 4, "stat", "reqps", {"requests": f"sum({i('tallyd_requests_total', rate=True)})"}, "Booked."),
    ("Server errors", 4, "stat", "percentunit",
     {"5xx": f"sum({FAILED}) / sum({i('tallyd_responses_total', rate=True)})"}, ""),
    ("Difference in the books", 4, "bad", "none", {"requests": f"sum({i('tallyd_ledger_imbalance_records')})"},
     "held_before + seen - attributed - unattributed - held_after. Must be 0."),
    ("Records waiting", 4, "stat", "none", {"records": f"sum({i('tallyd_spool_records')})"}, ""),
    ("Oldest record waiting", 4, "stat", "s", {"age": f"max({i('tallyd_spool_oldest_seconds')})"}, ""),
    ("Config in force", 4, "good", "none", {"config": f"min({i('tallyd_config_last_reload_successful')})"},
     "1: the file on disk is the one in force."),
    ("Requests by service", 12, "stack", "reqps",
     {"{{service}}": f"sum by (service) ({i('tallyd_requests_total', rate=True)})"}, ""),
    ("Responses by class", 12, "stack", "reqps",
     {"{{class}}": f"sum by (class) ({i('tallyd_responses_total', rate=True)})"}, ""),
    ("Bytes", 12, "lines", "Bps",
     {"{{service}} {{direction}}": f"sum by (service, direction) ({i('tallyd_bytes_total', rate=True)})"}, ""),
    ("Mean time of an exchange", 12, "lines", "s",
     {"{{service}}": f"sum by (service) ({i('tallyd_exchange_seconds_total', rate=True)}) "
      f"/ sum by (service) ({i('tallyd_requests_total', rate=True)})"},
     "First byte of the request to last byte of the response, at the server."),
    ("Not attributed", 8, "stack", "reqps", {"{{reason}}": i("tallyd_unattributed_requests_total", rate=True),
                                           "not in catalog": i("tallyd_uncatalogued_requests_total", rate=True),
                                           "aborted": i("tallyd_aborted_requests_total", rate=True)}, ""),
    ("Bytes of no request", 8, "stack", "Bps", {"{{reason}}": i("tallyd_unparsed_bytes_total", rate=True)}, ""),
    ("Events of the stream layer", 8, "stack", "ops", {"{{reason}}": i("tallyd_resyncs_total", rate=True)}, ""),
    ("Records", 8, "lines", "ops", {"sealed": i("tallyd_records_sealed_total", rate=True),
                                  "confirmed": i("tallyd_records_acked_total", rate=True),
                                  "sealed, of connections": i("tallyd_connection_records_sealed_total", rate=True),
                                  "windows without connections": i("tallyd_connections_shed_total", rate=True)}, ""),
    ("Spool", 8, "lines", "bytes", {"used": i("tallyd_spool_bytes"), "capacity": i("tallyd_spool_capacity_bytes"),
                                  "left on disk": i("tallyd_spool_disk_free_bytes")}, "Capacity 0: the disk."),
    ("Since a sink last confirmed", 8, "lines", "s",
     {"{{sink}}": f"time() - {i('tallyd_kafka_last_ack_timestamp_seconds')} > 0"}, ""),
    ("Sinks: attempts that failed", 8, "lines", "ops",
     {"{{sink}} {{kind}}": i("tallyd_kafka_errors_total", rate=True)}, ""),
    ("Windows", 8, "lines", "none",
     {"closed, per second": i("tallyd_windows_total", rate=True), "frozen in the kernel": i("tallyd_epochs_frozen"),
      "{{step}} errors": i("tallyd_book_errors_total", rate=True)}, ""),
    ("Requests held", 8, "lines", "none", {"held": i("tallyd_held_requests"),
                                        "holes ({{cause}})": i("tallyd_holes_total")},
     "Answered, and not booked yet; and periods nobody metered."),
    ("Maps in use", 8, "lines", "percentunit",
     {"{{map}}": f"{i('tallyd_map_entries')} / {i('tallyd_map_capacity')}"}, ""),
    ("Entries that full maps refused", 8, "lines", "ops",
     {"{{map}}": i("tallyd_map_overflow_total", rate=True),
      "keys that made room": i("tallyd_keys_dropped_total", rate=True)}, ""),
    ("Pods", 8, "lines", "none", {"{{state}}": i("tallyd_kubernetes_pods")}, "That opted in, by what became of them."),
    ("Kubernetes API server", 8, "lines", "ops",
     {"{{verb}}": i("tallyd_kubernetes_requests_total", rate=True), "failed: {{kind}}": i("tallyd_kubernetes_errors_total", rate=True),
      "events": i("tallyd_kubernetes_events_total", rate=True)}, ""),
    ("Since the API server answered", 8, "lines", "s",
     {"age": f"time() - {i('tallyd_kubernetes_last_answer_timestamp_seconds')} > 0"}, ""),
    ("Rows read", 8, "lines", "ops", {"rows": i("tallyd_ledger_rows_total", rate=True),
                                    "connections": i("tallyd_connections_total", rate=True)}, ""),
    ("Time per run of a program", 8, "lines", "s",
     {"{{prog}}": f"{i('tallyd_prog_run_seconds_total', rate=True)} / {i('tallyd_prog_runs_total', rate=True)}"},
     "While kernel.bpf_stats_enabled is 1."),
    ("CPU", 8, "lines", "percentunit", {"agent": i("process_cpu_seconds_total", rate=True),
                                       "books: {{step}}": i("tallyd_book_seconds_total", rate=True)}, "Of one CPU."),
    ("Memory", 8, "lines", "bytes", {"resident": i("process_resident_memory_bytes"), "heap": i("tallyd_heap_bytes"),
                                   "maps, epochs apart": i("tallyd_map_memory_bytes")}, ""),
]

THRESHOLDS = {"bad": [("green", None), ("red", 1)], "good": [("red", None), ("green", 1)]}


def field_config(kind, unit):
    steps = [{"color": c, "value": v} for c, v in THRESHOLDS.get(kind, [("text", None)])]
    custom = {}
    if kind in ("lines", "stack"):
        custom = {"lineWidth": 1, "fillOpacity": 60 if kind == "stack" else 8, "showPoints": "never",
                  "stacking": {"mode": "normal" if kind == "stack" else "none", "group": "A"}}
    return {"defaults": {"unit": unit, "min": 0, "custom": custom,
                         "thresholds": {"mode": "absolute", "steps": steps}}, "overrides": []}


def panel(number, spec, x, y):
    title, width, kind, unit, queries, description = spec
    plot = kind in ("lines", "stack")
    options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "multi", "sort": "desc"}} if plot else \
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    return {"id": number, "title": title, "description": description,
            "type": "timeseries" if plot else "stat", "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": width, "h": HEIGHT if plot else HEIGHT // 2},
            "fieldConfig": field_config(kind, unit), "options": options,
            "targets": [{"refId": chr(65 + n), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
                        for n, (legend, expr) in enumerate(queries.items())]}


def panels(specs):
    x = y = tallest = 0
    for number, spec in enumerate(specs, 1):
        if x + spec[1] > 24:
            x, y = 0, y + tallest
        one = panel(number, spec, x, y)
        tallest = one["gridPos"]["h"]
        x += spec[1]
        yield one


def dashboard(uid, title, specs, variables):
    return {"uid": uid, "title": title, "tags": ["tallyd"], "schemaVersion": 38, "version": 1,
            "editable": True, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
            "links": [{"title": "tallyd", "type": "dashboards", "tags": ["tallyd"], "asDropdown": False,
                       "includeVars": False, "keepTime": True}],
            "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus",
                                     "label": "Data source"}, *variables]},
            "panels": list(panels(specs))}


INSTANCE = {"name": "instance", "type": "query", "label": "Agent", "datasource": DATASOURCE, "refresh": 2,
            "query": {"query": f"label_values(tallyd_build_info{A}, instance)", "refId": "instance"},
            "definition": f"label_values(tallyd_build_info{A}, instance)", "sort": 1, "multi": False,
            "includeAll": False}


def main(folder=Path(__file__).parent):
    for uid, title, specs, variables in (("tallyd-fleet", "tallyd: fleet", FLEET, []),
                                         ("tallyd-agent", "tallyd: one agent", AGENT, [INSTANCE])):
        text = json.dumps(dashboard(uid, title, specs, variables), indent=1)
        (Path(folder) / f"{uid}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
