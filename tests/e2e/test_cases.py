# SPDX-License-Identifier: Apache-2.0
"""Adversarial HTTP against each real server: tallyd counts what the server answered.

The truth is the number of final responses that an independent parser finds in what the client
received. All cases of a server run at once; each test then looks at one case. To see one again:

    TALLY_E2E_CASES=13a,14 pytest tests/e2e/test_cases.py -k nginx
"""

import os
from collections import Counter

import pytest

from conftest import ALL_SERVERS
from lib import api, case_run, cases, servers, tallyd
from lib.sandbox import HarnessError, Sandbox

PER_RUN = 48        # services of one agent: the meter takes 64
CHOSEN = [c for c in cases.ALL.values()
          if c.row in os.environ.get("TALLY_E2E_CASES", c.row).split(",")]
_outcomes = {}


class Outcome:
    """What came of one server: the runs, the ledgers, and the reason when nothing came."""

    def __init__(self, name):
        self.runs, self.ledgers, self.logs = {}, {}, {}
        self.audits, self.slack, self.error = [], [], None
        try:
            for first in range(0, len(CHOSEN), PER_RUN):
                self._batch(name, CHOSEN[first:first + PER_RUN])
        except HarnessError as error:   # every case of this server reports it
            self.error = str(error)

    def _batch(self, name, batch):
        keys = api.Keys()
        with Sandbox(f"cases-{name}", exact=True) as sandbox:
            ports = sandbox.ports(len(batch))
            server = servers.start(name, sandbox, keys, ports=ports, idle_s=case_run.IDLE_S)
            batch = [c for c in batch if not c.needs or getattr(server, c.needs)]
            for case in batch:
                for mode in (*case_run.MODES, "interactive"):
                    case_run.key_texts(keys, case, mode)
            agent = tallyd.Tallyd(sandbox, keys, case_run.services(
                batch, ports, sandbox.cgroup_path)).start()
            runs = case_run.run_all(sandbox, keys, batch, ports)
            server.stop()       # a request that nobody answers is held while its connection lives
            ledger = agent.stop()
            self.logs.update(logs(server, batch, ports))
        self.runs.update(runs)
        self.ledgers.update({c.row: ledger for c in batch})
        self.audits += ledger.audit()
        self.slack.append(bytes_problem(runs, ledger))


def logs(server, batch, ports):
    """{row: {(key id, status): requests}} as the server wrote it down."""
    row_of = {port: case.row for case, port in zip(batch, ports)}
    counts = {case.row: Counter() for case in batch}
    for e in server.entries():
        counts[row_of[e.port]][server.keys.id_of(e.key), e.status] += 1
    return counts


def bytes_problem(runs, ledger):
    """Attributed, unattributed and unparsed are all the bytes that TCP took."""
    every = [r for of_row in runs.values() for r in of_row]
    counted = sum(d["request_bytes"] + d["response_bytes"] for d in ledger.rows()) \
        + ledger.unparsed_bytes()
    least = sum(r.acked + len(r.raw) for r in every)
    most = sum(r.sent + len(r.raw) for r in every)
    return "" if least <= counted <= most else \
        f"clients know of {least} to {most} bytes, tallyd of {counted}"


def outcome(name):
    if name not in _outcomes:
        _outcomes[name] = Outcome(name)
    if _outcomes[name].error:
        raise HarnessError(f"{name}: {_outcomes[name].error}")
    return _outcomes[name]


def supported():
    """A case that needs what a server cannot do is no case of that server."""
    cannot = {"nginx": {"sends_early_hints"}}
    return [pytest.param(name, case, id=f"{name}-{case.row}") for name in ALL_SERVERS
            for case in CHOSEN if case.needs not in cannot.get(name, ())]


@pytest.mark.parametrize("name, case", supported())
def test_case(name, case):
    result = outcome(name)
    problems = case_run.judge(case, result.runs[case.row], result.logs[case.row],
                              result.ledgers[case.row])
    assert not problems, f"{name}, row {case.row}, {case.title}:\n  " + "\n  ".join(problems)


@pytest.mark.parametrize("name", ALL_SERVERS)
def test_books(name):
    """The control identity in every epoch; no byte is missing and none too many."""
    result = outcome(name)
    assert not result.audits
    assert not any(result.slack)
