# SPDX-License-Identifier: Apache-2.0
"""The records of one agent, read as a consumer reads them: deduplicated, audited, summed.

    NDJSON ── dedupe by (source, id) ──┬─ usage records ──────> tally(), rows()
                                       ├─ connection records ─> connections
                                       └─ control records ────> audit()
"""

import json
import re
from collections import Counter, defaultdict

from . import api

USAGE, CONTROL = "io.tallyd.usage.v1", "io.tallyd.usage.control.v1"
CONNECTIONS = "io.tallyd.usage.connections.v1"
FIELDS = ("requests", "request_bytes", "response_bytes")
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
ATTRIBUTIONS = {"key", "anonymous", "tainted", "limit", "midstream", "overflow",
                "dictionary_full"}
REASONS = {"unattributed", "aborted", "health", "success", "auth", "rate_limited",
           "client_error", "server_error"}


def read_events(path):
    """The whole lines of an NDJSON file; a last line without its end is not there yet."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n")[:-1] if line.strip()]


def method_name(text):
    """Methods that nobody registered are one to the meter."""
    return text if text in METHODS else "OTHER"


def deep_sum(value):
    return sum(map(deep_sum, value.values())) if isinstance(value, dict) else value or 0


class Ledger:
    def __init__(self, events):
        self.problems = []
        unique = {}
        for event in events:
            identity = (event["source"], event["id"], event["type"])
            if unique.setdefault(identity, event) != event:
                self.problems.append(f"{identity} was sent twice with different contents")
        self.duplicates = len(events) - len(unique)
        self.usage = [e for e in unique.values() if e["type"] == USAGE]
        self.connections = [e for e in unique.values() if e["type"] == CONNECTIONS]
        self.control = [e for e in unique.values() if e["type"] == CONTROL]
        self.controls = [e["data"] for e in self.control]

    def rows(self, service=None, **wanted):
        """The data of usage records, those of *service* and with these field values."""
        return [e["data"] for e in self.usage
                if service in (None, e["data"]["service"])
                and all(e["data"][k] == v for k, v in wanted.items())]

    def tally(self, service=None, aborted=True, **wanted):
        """{(api key id, method, route, status): Sums}, all that is not attributed under None."""
        tally = api.new_tally()
        for d in self.rows(service, **wanted):
            if d["status"] or aborted:
                row = (d["api_key_id"], method_name(d["method"]), d["route"], d["status"])
                api.add(tally, row, api.Sums(*(d[f] for f in FIELDS)))
        return tally

    def count(self, service=None, **wanted):
        return sum(d["requests"] for d in self.rows(service, **wanted))

    def by_key_and_status(self, service=None):
        counts = Counter()
        for d in self.rows(service):
            if d["status"]:
                counts[d["api_key_id"], d["status"]] += d["requests"]
        return counts

    def unattributed(self, service=None):
        """{(attribution, detail): requests} for a message that says why."""
        counts = Counter()
        for d in self.rows(service):
            if d["attribution"] != "key" and d["requests"]:
                counts[d["attribution"], d["attribution_detail"]] += d["requests"]
        return dict(counts)

    def unparsed_bytes(self):
        return sum(deep_sum(c["kernel"]["unparsed_bytes"]) for c in self.controls)

    def gaps(self):
        counts = Counter()
        for c in self.controls:
            counts.update({k: v for k, v in c["kernel"]["gaps"].items() if deep_sum(v)})
        return dict(counts)

    # Audit: the invariants of the record's contract ------------------------------------------

    def audit(self):
        """A list of what is wrong; empty when every invariant holds."""
        problems = list(self.problems)
        for event in self.usage:
            problems += record_problems(event)
        agents = defaultdict(list)
        for event in self.usage:
            d = event["data"]
            agents[d["agent"]["id"], d["incarnation"]].append(d)
        for (agent, incarnation), records in sorted(agents.items()):
            seqs = sorted(d["seq"] for d in records)
            if seqs != list(range(1, len(seqs) + 1)):
                problems.append(f"agent {agent}/{incarnation}: seq is not contiguous from 1")
        if not self.controls:
            problems.append("there is no control record")
        for agent in {(agent_id(c), c["incarnation"]) for c in self.controls}:
            controls = [c for c in self.controls if (agent_id(c), c["incarnation"]) == agent]
            controls.sort(key=lambda c: c["epoch_first"])
            problems += self._control_problems(controls, agents[agent])
        return problems

    def _control_problems(self, controls, records):
        problems, by_seq = [], {d["seq"]: d for d in records}
        covered, held = 0, None
        for c in controls:
            where = f"epochs {c['epoch_first']}-{c['epoch_last']}"
            inside = [d for s, d in by_seq.items() if c["records"]
                      and c["seq_first"] <= s <= c["seq_last"]]
            covered += len(inside)
            problems += [f"{where}: {p}" for p in control_problems(c, inside)]
            if held is not None and c["kernel"]["held_before"] != held:
                problems.append(f"{where}: held_before {c['kernel']['held_before']}, "
                                f"held_after of the last one {held}")
            held = c["kernel"]["held_after"]
        if covered != len(records):
            problems.append(f"control records cover {covered} of {len(records)} records")
        return problems


def agent_id(control):
    agent = control["agent"]
    return agent["id"] if isinstance(agent, dict) else agent


def control_problems(c, records):
    problems, k = [], c["kernel"]
    unattributed = deep_sum(k["unattributed"])
    left = k["held_before"] + k["seen"]
    right = k["attributed"] + unattributed + k["held_after"]
    if left != right:
        problems.append(f"identity: held_before {k['held_before']} + seen {k['seen']} != "
                        f"attributed {k['attributed']} + unattributed {unattributed} + "
                        f"held_after {k['held_after']}")
    for field in FIELDS:
        total = sum(d[field] for d in records)
        if total != c["sums"][field]:
            problems.append(f"records sum to {total} {field}, control says {c['sums'][field]}")
    if c["records"] != len(records):
        problems.append(f"{len(records)} records, control says {c['records']}")
    for name, wanted in (("attributed", True), ("unattributed", False)):
        # What found no row has lost its status; aborted requests (status 0) are in neither.
        booked = sum(d["requests"] for d in records
                     if (d["status"] or d["attribution"] == "overflow")
                     and (d["attribution"] == "key") is wanted)
        counted = k["attributed"] if wanted else unattributed
        if booked != counted:
            problems.append(f"kernel counted {counted} {name}, records hold {booked}")
    return problems


def record_problems(event):
    """What one usage record promises by itself."""
    d, problems = event["data"], []
    identity = f"{d['agent']['id']}-{d['incarnation']:08x}-{d['seq']:015d}"
    checks = {
        "id": event["id"] == identity,
        "source": event["source"] == f"/agents/{d['agent']['id']}",
        "time": event["time"] == d["window_start"],
        "specversion": event["specversion"] == "1.0",
        "window": d["window_start"] < d["window_end"],
        "hour": d["window_start"][:13] == d["window_end"][:13]
        or re.search(r":00:00Z$", d["window_end"]),
        "attribution": d["attribution"] in ATTRIBUTIONS,
        "reason": d["reason"] in REASONS and d["reason"] == reason_of(d),
        "billable": d["billable"] == (d["reason"] == "success"),
        "key": (d["api_key_id"] is not None) == (d["attribution"] == "key"),
        "subject": event["subject"] == (
            d["customer_id"] or (f"key:{d['api_key_id']}" if d["api_key_id"] else "unattributed")),
        "integers": all(isinstance(d[f], int) and 0 <= d[f] < 2 ** 53
                        for f in (*FIELDS, "incomplete", "duration_us")),
        "incomplete": d["incomplete"] <= d["requests"],
        "units": all(isinstance(u, str) for u in d["units"].values()),
        "charge": d["units"].get("requests", "0") == (str(d["requests"]) if d["billable"] else "0"),
    }
    for name, holds in checks.items():
        if not holds:
            problems.append(f"record {event['id']}: {name}: {json.dumps(event)}")
    return problems


def reason_of(d):
    status = d["status"]
    if d["attribution"] != "key":
        return "unattributed"
    if status == 0:
        return "aborted"
    if status == 101 or 200 <= status < 400:
        return "success"
    if status in (401, 403, 407):
        return "auth"
    if status == 429:
        return "rate_limited"
    return "client_error" if status < 500 else "server_error"
