# SPDX-License-Identifier: Apache-2.0
"""Runs the cases against one server: every case on its own port, in every segmentation, at once.

A case has a service of its own in tallyd's config, so what is unattributed can be told apart;
a run (one case, one segmentation) has keys of its own.
"""

import contextlib
import random
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from . import cases, view
from .client import Conn
from .sandbox import HarnessError
from .tallyd import service

MODES = ("whole", "bytewise", "pair", "split-1", "split-2")
IDLE_S = 1
THREADS = 40
# What a server says to a head that it has not read to the end: the request's key may not be known.
REFUSALS = (400, 414, 431)


class Run(NamedTuple):
    mode: str
    sent: int
    acked: int
    raw: bytes
    responses: list
    rest: bytes
    owners: tuple       # key ids, per expected response; None is anonymous
    at: tuple           # where it was split, for a reader who wants to see it again


def key_texts(keys, case, mode):
    """Keys A, M and V of one run: different every time, of the same lengths."""
    names = [f"{case.row}.{mode}.{who}" for who in "amv"]
    texts = {"31c": "sk-\xe9\xff\x80-" + names[0], "33a": ("k" * 5120) + names[0]}
    return [keys.new(n, text=texts.get(case.row) if n is names[0] else None) for n in names]


def cuts(case, mode, data, m_at):
    """Where to split; by a seed that is the case's name, so a run can be repeated."""
    if mode == "bytewise":
        step = 1 if len(data) <= 1500 else 61
        return tuple(range(step, len(data), step))
    if mode == "pair":
        return (m_at,) if 0 < m_at < len(data) else ()
    if mode.startswith("split"):
        seed = random.Random(zlib.crc32(f"{case.row} {mode}".encode()))
        return tuple(sorted(seed.sample(range(1, len(data)), 1 if mode == "split-1" else 3)))
    return ()


def _send_interactive(conn, case, data):
    """Sends up to the point where the server may want to speak, waits for it, sends the rest."""
    at = data.find(case.wait_after) + len(case.wait_after)
    if not conn.send_segments([data[:at]]):
        return
    with contextlib.suppress(HarnessError):
        conn.read_until(b"\r\n\r\n", 0.5)
    conn.send_segments([data[at:]])


def _run(sandbox, port, case, mode, texts, ids):
    a, m, v = (t.encode("latin-1") for t in texts)
    data = case.build(a, m, v)
    at = cuts(case, mode, data, data.rfind(cases.last(m)))
    with Conn(sandbox, port) as c:
        if mode == "interactive":
            _send_interactive(c, case, data)
        else:
            c.send_split(data, *at)
        if case.needs == "upgrades":
            with contextlib.suppress(HarnessError):
                c.read_until(data[-20:], 2)     # the echo of the last bytes
            c.finish()
        if not c.read_to_end(4 * IDLE_S):
            c.finish()
            c.read_to_end(2 * IDLE_S)
        raw, sent = bytes(c.raw), c.sent
        acked = min(sent, max(0, c.tcp_counters()[0] - 1))      # the SYN counts there, too
    responses, rest = view.parse(raw, case.methods)
    owner = {"A": ids[0], "M": ids[1], "-": None}
    return Run(mode, sent, acked, raw, responses, rest, tuple(owner[o] for o in case.owners),
               at if len(at) < 10 else ())


def services(chosen, ports, cgroup):
    """One service per case; its name is the case's row."""
    made = []
    for case, port in zip(chosen, ports):
        entry = service("row-" + case.row, [port], cgroup)
        entry["routes"] = [{"match": r} for r in case.extra_routes] + entry["routes"]
        made.append(entry)
    return made


def run_all(sandbox, keys, chosen, ports, only_mode=None):
    """{row: [Run, ...]}"""
    jobs = []
    with ThreadPoolExecutor(THREADS) as pool:
        for case, port in zip(chosen, ports):
            modes = MODES + (("interactive",) if case.wait_after else ())
            for mode in modes:
                if only_mode in (None, mode):
                    texts = key_texts(keys, case, mode)
                    ids = [keys.id_of(t) for t in texts]
                    jobs.append((case.row, pool.submit(_run, sandbox, port, case, mode, texts,
                                                       ids)))
    runs = {}
    for row, job in jobs:
        runs.setdefault(row, []).append(job.result())
    return runs


# What tallyd must have counted -----------------------------------------------------------------

def expected(runs):
    """{(key id, status): requests}, when every response belongs to its owner."""
    counts = Counter()
    for run in runs:
        for i, response in enumerate(run.responses):
            counts[run.owners[min(i, len(run.owners) - 1)], response.status] += 1
    return counts


def judge(case, runs, logged, ledger):
    """Everything that is wrong with what tallyd counted for one case; empty when nothing is.

    logged: {(key id, status): requests} of the server's own log, for that case.
    """
    name = "row-" + case.row
    counted, wanted = ledger.by_key_and_status(name), expected(runs)
    if case.row == "20":
        return judge_http09(runs, ledger, name)
    headless = sum(1 for r in runs if r.rest and not case.needs)
    verdict = cases.LOOSE if headless and case.verdict == cases.CLEAN else case.verdict
    problems = judge_totals(counted, wanted, headless)
    problems += judge_keys(verdict, counted, wanted, logged)
    if verdict == cases.CLEAN:
        problems += judge_bytes(case, runs, ledger, name)
        problems += judge_routes(case, runs, ledger, name)
    if problems:
        problems.append(f"unattributed: {ledger.unattributed(name)}; runs: " + "; ".join(
            f"{r.mode}{list(r.at) or ''} -> {[x.status for x in r.responses]}" for r in runs))
    return problems


def judge_totals(counted, wanted, headless):
    """Per status. An answer without a head (Python's to an unknown version) may count or not."""
    problems = []
    for status in sorted({s for _, s in counted} | {s for _, s in wanted}):
        a = sum(n for (_, s), n in wanted.items() if s == status)
        b = sum(n for (_, s), n in counted.items() if s == status)
        if not a <= b <= a + headless:
            problems.append(f"status {status}: answered {a}, counted {b}")
    return problems


def answered(wanted, status):
    return sum(n for (_, s), n in wanted.items() if s == status)


def judge_keys(verdict, counted, wanted, logged):
    problems = []
    for row in sorted(set(counted) | set(wanted), key=repr):
        key, a, b = row[0], wanted[row], counted[row]
        who = (key or "")[-1:]
        if row[1] in REFUSALS and who in ("a", "") and b <= answered(wanted, row[1]):
            continue
        if verdict == cases.CLEAN and a != b:
            problems.append(f"{row}: answered {a}, counted {b}")
        elif key is not None and b > max(a, logged[row]):
            problems.append(f"{row}: answered {a}, logged {logged[row]}, but {b} billed to it")
        elif verdict == cases.TAINT and who != "a" and key is not None and b:
            problems.append(f"{row}: {b} billed after an ambiguous request")
    return problems


def judge_bytes(case, runs, ledger, name):
    problems, rows = [], ledger.rows(name)
    received = sum(len(r.raw) - len(r.rest) for r in runs)
    if case.needs == "upgrades":        # bytes of a tunnel belong to its request
        received = sum(len(r.raw) for r in runs)
    counted = sum(d["response_bytes"] for d in rows)
    if counted != received:
        problems.append(f"response bytes: received {received}, counted {counted}")
    whole = all(len(r.responses) == len(r.owners) for r in runs)
    sent = sum(r.sent for r in runs)
    counted = sum(d["request_bytes"] for d in rows)
    if whole and case.request_bytes and counted != sent:
        problems.append(f"request bytes: sent {sent}, counted {counted}")
    return problems


def judge_routes(case, runs, ledger, name):
    problems = []
    for i, route in enumerate(case.routes):
        ids = {r.owners[i] for r in runs if len(r.responses) > i}
        seen = {d["route"] for d in ledger.rows(name)
                if d["requests"] and d["status"] and d["api_key_id"] in ids}
        if ids and seen != {route}:
            problems.append(f"request {i}: route {route}, counted under {sorted(seen)}")
    return problems


def judge_http09(runs, ledger, name):
    """A body without a head, until the connection ends: one request, anonymous."""
    bodies = sum(1 for r in runs if r.raw and not r.responses)
    others = sum(len(r.responses) for r in runs)
    rows = [d for d in ledger.rows(name) if d["requests"] and d["api_key_id"]]
    count = sum(d["requests"] for d in ledger.rows(name) if d["status"])
    problems = [f"a keyed row: {rows}"] if rows else []
    if count != bodies + others:
        problems.append(f"answered {bodies} bodies and {others} heads, counted {count}")
    return problems
