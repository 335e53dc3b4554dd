#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""sudo make bench: what metering costs, as a table and as build/bench.json.

    run.py [PART...]        all parts, or these: exchange, throughput, files, load, floor,
                            rows, agent, drain;
                            other parts stay in the JSON as long as the commit is the same
    run.py --markdown       the table of build/bench.json as README.md has it; measures nothing
    run.py --readme         puts it there

Nothing here fails because a figure is bad: machines differ. It fails when a count is wrong. Where a
figure compares with and without the meter, the two take turns in the same run, and the ratio of each
pair is what is reported; `cpu` ratios (time of server and client per request) bear a busy machine
better than throughput does.
"""

import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from world import BUILD, REPO, BpfStatistics, FileServer, RunStatistics, Sandbox, World

PROGRAMS = BUILD / "test/bench"
OUT = BUILD / "bench.json"
FIGURES = ("<!-- figures: `tests/bench/run.py --readme` writes them, from build/bench.json -->",
           "<!-- end of figures -->")
RULES = Path(__file__).parent / "rules.yaml"
LAPS = 9
PAIRS = int(os.environ.get("BENCH_PAIRS", "8"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))


def say(text):
    print(text, flush=True)


def program(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{argv[0]}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def world(*server):
    with Sandbox("bench") as sandbox:
        yield World(sandbox, *server)


# ---- parts: each returns what stands under its name in the JSON -----------------------------------

def exchange():
    """One exchange by BPF_PROG_TEST_RUN; instructions of the engine by callgrind."""
    result = json.loads(program(PROGRAMS / "exchange", RULES))
    for name, v in result.items():
        v["net_ns"] = v["exchange"]["min_ns"] - v["empty"]["min_ns"]
        v["net_median_ns"] = v["exchange"]["median_ns"] - v["empty"]["median_ns"]
        say(f"  {name:<24} {v['net_ns']:5.0f} ns at best, {v['net_median_ns']:5.0f} ns median "
            f"(request {v['request']['min_ns'] - v['empty']['min_ns']:.0f}, response "
            f"{v['response']['min_ns'] - v['empty']['min_ns']:.0f}, "
            f"before the octets {v['front']['min_ns'] - v['empty']['min_ns']:.0f})")
    result["instructions"] = {
        part: instructions(f"native_{part}") for part in ("request", "response")}
    say(f"  instructions of the engine, natively: {result['instructions']}")
    return result


def instructions(function, count=1000):
    """Of one call, in the long run: two counts differ by `count` calls."""
    def counted(n):
        out = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
             f"--toggle-collect={function}", PROGRAMS / "native", RULES, str(n)],
            capture_output=True, text=True, check=True)
        return int(re.search(r"Collected : (\d+)", out.stderr)[1])
    return round((counted(2 * count) - counted(count)) / count)


SIDES = ("without", "with", "least")


def throughput():
    """nginx, keep-alive, one worker, wrk with 64 connections: without, metered, and with the least
    programs of floor.bpf.c, in turns."""
    with world() as w:
        return in_turns(w, SIDES)


def files():
    """The same of an nginx with Debian's settings, which sends a file and writes its access log."""
    with world(FileServer) as w:
        return in_turns(w, SIDES[:2])


def in_turns(w, sides):
    runs = {side: [] for side in sides}
    w.wrk(1)
    for turn in range(PAIRS):
        for side in sides if turn % 2 == 0 else reversed(sides):
            runs[side].append(one_run(w, side))
        say(f"  turn {turn + 1} of {PAIRS}: "
            + ", ".join(f"{s} {runs[s][-1]['requests_per_s']:.0f}/s, "
                        f"{runs[s][-1]['cpu_us']:.2f} us" for s in sides))
    keys = ("requests_per_s", "cpu_us", "p50_us", "p99_us")
    ratios = {side: {k: ratio(runs, side, k) for k in keys} for side in sides if side != "without"}
    return {"runs": runs, "ratios": ratios["with"], "ratios_least": ratios.get("least")}


def one_run(w, side):
    """A second for whatever begins to have begun, then the lap."""
    with contextlib.ExitStack() as stack:
        if side == "least":
            stack.enter_context(floor_programs(w, side))
        elif side == "with":
            w.meter_on()
            stack.callback(w.meter_off)
        w.wrk(1)
        return w.wrk(SECONDS)


def ratio(runs, side, key):
    """That side over without, turn by turn: the median and the quartiles."""
    values = [a[key] / b[key] for a, b in zip(runs[side], runs["without"])]
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": round(statistics.median(values), 4), "low": round(low, 4),
            "high": round(high, 4), "pairs": len(values)}


def under_load():
    """Nanoseconds by the kernel's run statistics, all three programs, under real load."""
    result = {}
    with world() as w:
        w.meter_on()
        w.wrk(1)
        laps, lines = [], [line_ns()]
        for _ in range(LAPS):
            with RunStatistics(w) as stats:
                requests = w.wrk(1)["requests"]
            laps.append(stats.per_exchange(requests))
        lines.append(line_ns())
        laps.sort(key=lambda x: x["ns_per_exchange"])
        result["keep_alive"] = {**laps[LAPS // 2], "laps_ns": [x["ns_per_exchange"] for x in laps],
                                "line_ns": lines}
        for name, keys, connections, n, single in (("keep_alive_10000_rows", 100, 100, 200000, False),
                                                   ("connection_each", 10, 64, 40000, True)):
            w.load(keys, connections, requests=n // 4, one_per_connection=single)
            with RunStatistics(w) as stats:
                done, _ = w.load(keys, connections, requests=n, one_per_connection=single)
            result[name] = stats.per_exchange(done)
        w.meter_off()
    for name, v in result.items():
        say(f"  {name:<24} {v['ns_per_exchange']:7.1f} ns per exchange, "
            f"{v['runs_per_exchange']:.2f} runs of {v['ns_per_run']:.1f} ns"
            + (f"; laps {v['laps_ns'][0]:.0f} .. {v['laps_ns'][-1]:.0f}; a cache line from processor to "
               f"processor {v['line_ns'][0]} ns before, {v['line_ns'][1]} after" if "laps_ns" in v else ""))
    return result


def floor():
    """The same statistics of programs that do less than a meter must, on the same load, in turns."""
    kinds = {"empty": [], "least": []}
    with world() as w, BpfStatistics():
        w.wrk(1)
        for _ in range(LAPS):
            for kind, laps in kinds.items():
                laps.append(floor_lap(w, kind))
    result = {}
    for kind, laps in kinds.items():
        laps.sort()
        result[kind] = {"ns_per_exchange": laps[LAPS // 2], "laps_ns": laps}
        say(f"  {kind:<24} {laps[LAPS // 2]:7.1f} ns per exchange; laps {laps[0]:.0f} .. {laps[-1]:.0f}")
    return result


def floor_lap(w, kind):
    """Nanoseconds per exchange of the programs of that kind, over one second of wrk."""
    with floor_programs(w, kind) as told:
        requests = w.wrk(1)["requests"]
    if told["runs"] < 2 * requests:
        sys.exit(f"floor {kind}: {told['runs']} runs for {requests} requests")
    return round(told["ns"] / requests, 1)


def line_ns():
    """How long a cache line takes from one processor to the other: an exchange is handed over in one."""
    return json.loads(program(PROGRAMS / "line"))["one_way_ns"]


@contextlib.contextmanager
def floor_programs(w, kind):
    """tests/bench/floor on the server's cgroup; what it tells stands in the dict afterwards."""
    told = {}
    with subprocess.Popen([PROGRAMS / "floor", w.sandbox.cgroup, kind], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        if p.stdout.readline() != "ready\n":
            sys.exit(f"floor {kind}: it did not attach")
        yield told
        told |= json.loads(p.communicate()[0])


def million_rows():
    """Real traffic over 1,000 keys x 1,000 connections in one window; then it is closed."""
    with world() as w:
        w.meter_on("1h", 1200000)
        filled, seconds = w.load(1000, 1000, requests=1500000)
        with RunStatistics(w) as stats:
            done, _ = w.load(1000, 1000, requests=300000, seed=2)
        result = stats.per_exchange(done)
        _, maps = w.agent_memory()
        result |= {"filled_with": filled, "requests_per_s": round(filled / seconds),
                   "maps_bytes": maps, "closing_cpu_s": round(w.meter_off(), 3)}
    say(f"  {result['ns_per_exchange']:.1f} ns per exchange, maps {maps / 1e6:.0f} MB, agent's CPU "
        f"for closing it {result['closing_cpu_s']} s")
    return result


def agent():
    """CPU and memory of the agent: idle, and at full speed with few and with many rows."""
    result = {}
    with world() as w:
        w.meter_on("2s")
        w.wrk(1)
        cases = {"idle": lambda: time.sleep(12),
                 "keep_alive_64_rows": lambda: w.wrk(12),
                 "keep_alive_many_rows": lambda: w.load(1000, 100, seconds=12),
                 "connection_each": lambda: w.load(10, 64, seconds=12, one_per_connection=True)}
        for name, run in cases.items():
            result[name] = agent_case(w, run)
            v = result[name]
            say(f"  {name:<24} {v['cpu_ms_per_s']:6.1f} ms of CPU a second, {v['rows_per_s']:8.0f} rows/s, "
                f"{v['requests_per_s']:8.0f} requests/s")
        idle = result["idle"]["cpu_ms_per_s"]
        for v in result.values():
            if v["rows_per_s"] > 1000:
                v["cpu_us_per_row"] = round((v["cpu_ms_per_s"] - idle) * 1000 / v["rows_per_s"], 2)
        resident, maps = w.agent_memory()
        result["memory"] = {"agent_resident_bytes": resident, "maps_bytes": maps}
        w.meter_off()
    say(f"  memory: agent {resident / 1e6:.1f} MB, maps {maps / 1e6:.1f} MB")
    return result


def agent_case(w, run):
    """From the end of a window to the end of one, so that rows and their cost belong together."""
    before = w.after_window()
    start = time.monotonic()
    run()
    after = w.after_window()
    seconds = time.monotonic() - start

    def grown(name):
        return sum(v - before.get(k, 0) for k, v in after.items() if k.split("{")[0] == name)
    return {"cpu_ms_per_s": round(grown("process_cpu_seconds_total") * 1000 / seconds, 2),
            "rows_per_s": round(grown("ledger_rows_total") / seconds, 1),
            "requests_per_s": round(grown("requests_total") / seconds, 1),
            "windows": int(grown("windows_total"))}


def drain():
    """Closing the books over ledgers of a known size, step by step."""
    result = {}
    for rows in (10000, 100000, 1000000):
        v = result[str(rows)] = json.loads(program(PROGRAMS / "drain", rows))
        say(f"  {rows:>9,} rows: swap {v['swap_ms']:.1f} ms, read {v['drain_ms']:.1f} ms, add up "
            f"{v['account_ms']:.1f} ms, release {v['release_ms']:.1f} ms: {v['ns_per_row']:.0f} ns a row; "
            f"{v['resident_max_bytes'] / 1e6:.0f} MB")
    return result


PARTS = {"exchange": exchange, "throughput": throughput, "files": files, "load": under_load, "floor": floor,
         "rows": million_rows, "agent": agent, "drain": drain}


# ---- the table -----------------------------------------------------------------------------------

def span(v):
    return f"{v['median']:.3f} ({v['low']:.3f} .. {v['high']:.3f})"


def table(r):
    """(what, figure) lines for a person, from whatever parts there are."""
    if "exchange" in r:
        for name in ("rows_10", "rows_10000", "rows_1000000"):
            rows = int(name.split("_")[1])
            yield f"exchange, {rows:,} rows hit at random (TEST_RUN)", \
                f"{r['exchange'][name]['net_ns']:.0f} ns; median {r['exchange'][name]['net_median_ns']:.0f}"
        i = r["exchange"]["instructions"]
        yield "engine alone, x86 instructions", f"{i['request']} request, {i['response']} response"
    if "load" in r:
        for name, text in (("keep_alive", "keep-alive"), ("keep_alive_10000_rows", "10,000 rows"),
                           ("connection_each", "a connection each")):
            v = r["load"][name]
            yield f"exchange under load, {text} (run statistics)", \
                f"{v['ns_per_exchange']:.0f} ns in {v['runs_per_exchange']:.1f} runs" \
                + (f"; best lap {v['laps_ns'][0]:.0f}" if "laps_ns" in v else "")
        yield "a cache line from one processor to the other, before that and after", \
            " and ".join(f"{n} ns" for n in r["load"]["keep_alive"]["line_ns"])
    if "floor" in r:
        for kind, text in (("empty", "programs that only return"),
                           ("least", "the least programs: socket's state, clock, octets, a row")):
            yield f"exchange under load, {text}", f"{r['floor'][kind]['ns_per_exchange']:.0f} ns"
    if "rows" in r:
        yield "exchange under load, 1,000,000 rows at random", f"{r['rows']['ns_per_exchange']:.0f} ns"
    for part, server in (("throughput", "nginx"), ("files", "nginx that sends a file and logs it:")):
        names = {"requests_per_s": "throughput", "cpu_us": "CPU per request",
                 "p50_us": "p50", "p99_us": "p99"}
        for key, v in r[part]["ratios"].items() if part in r else ():
            yield f"{server} {names[key]}, with / without", span(v)
    if "throughput" in r:
        yield "nginx throughput, with the least programs / without", \
            span(r["throughput"]["ratios_least"]["requests_per_s"])
    if "drain" in r:
        v = r["drain"]["1000000"]
        yield "drain of 1,000,000 rows", f"{v['drain_ms']:.0f} ms; {v['ns_per_row']:.0f} ns a row in all"
    if "agent" in r:
        a = r["agent"]
        yield "agent CPU, idle", f"{a['idle']['cpu_ms_per_s']:.1f} ms a second"
        for name, text in (("keep_alive_64_rows", "keep-alive, few rows"),
                           ("keep_alive_many_rows", "keep-alive, many rows"),
                           ("connection_each", "a connection each")):
            v = a[name]
            yield f"agent CPU, {text}, {v['requests_per_s']:,.0f} requests/s", \
                f"{v['cpu_ms_per_s']:.1f} ms a second" \
                + (f"; {v['cpu_us_per_row']:.2f} us a row" if "cpu_us_per_row" in v else "")
        m = a["memory"]
        yield "memory", f"agent {m['agent_resident_bytes'] / 1e6:.0f} MB, maps {m['maps_bytes'] / 1e6:.0f} MB"


def machine():
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="ascii"), re.M)
    return {"kernel": platform.release(), "cpu": model[1] if model else platform.machine(),
            "cpus": os.cpu_count(), "load_average": os.getloadavg()[0],
            "commit": program("git", "-C", REPO, "rev-parse", "--short", "HEAD").strip()}


def markdown(r):
    """The section of README.md: on which machine, by which command, and what came out."""
    m, lacking = r["machine"], [p for p in PARTS if p not in r]
    yield f"{m['cpu']}, {m['cpus']} CPUs, Linux {m['kernel']}, load average " \
        f"{m['load_average']:.1f} when it began; commit {m['commit']}; `sudo make bench`."
    if lacking:
        yield f"Not measured there: {', '.join(lacking)}."
    yield "\n| what | figure |\n|---|---|"
    for what, figure in table(r):
        yield f"| {what} | {figure} |"


def into_readme(text):
    """Between its two marks; without them README.md stays as it is."""
    path = REPO / "README.md"
    before, begin, rest = path.read_text(encoding="utf-8").partition(FIGURES[0])
    _, end, after = rest.partition(FIGURES[1])
    if not end:
        sys.exit(f"README.md lacks {' or '.join(FIGURES)}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def kept(commit):
    """What an earlier run of this commit has measured."""
    try:
        old = json.loads(OUT.read_text(encoding="utf-8"))
        same = old["machine"]["commit"] == commit
    except (OSError, ValueError, KeyError):
        return {}
    return {k: v for k, v in old.items() if same and k in PARTS}


def main():
    if sys.argv[1:] in (["--markdown"], ["--readme"]):
        if not OUT.exists():
            sys.exit(f"{OUT} is not there: sudo make bench")
        text = "\n".join(markdown(json.loads(OUT.read_text(encoding="utf-8"))))
        if sys.argv[1] == "--markdown":
            say(text)
        else:
            into_readme(text)
        return
    names = sys.argv[1:] or list(PARTS)
    unknown = [n for n in names if n not in PARTS]
    if unknown:
        sys.exit(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    program("make", "-s", "-C", REPO, f"BUILD={BUILD}", "all",
            *(PROGRAMS / p for p in ("exchange", "native", "drain", "line", "floor")))
    result = {"machine": machine()}
    result |= kept(result["machine"]["commit"])
    for name in names:
        say(f"--- {name}: {PARTS[name].__doc__.splitlines()[0]}")
        result[name] = PARTS[name]()
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = list(table(result))
    width = max(len(a) for a, _ in lines)
    say(f"\n  {result['machine']['cpu']}, {result['machine']['cpus']} CPUs, Linux "
        f"{result['machine']['kernel']}, load average {result['machine']['load_average']:.1f}\n")
    for what, figure in lines:
        say(f"  {what:<{width}}  {figure}")
    say(f"\n  all figures: {OUT}\n{len(names)} passed, 0 failed, 0 skipped")


if __name__ == "__main__":
    main()
