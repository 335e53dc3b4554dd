# SPDX-License-Identifier: Apache-2.0
"""An nginx in a cgroup of its own, load on it, and tallyd on or off: what the figures are taken from."""

import json
import re
import resource
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from lib import api, load, servers, tallyd  # noqa: E402
from lib.build import BUILD, REPO  # noqa: E402, F401
from lib.sandbox import HarnessError, Sandbox, inside_netns, need_program, wait_for  # noqa: E402, F401

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")

# The request of libbench.c, as near as wrk can say it; the answer is as long as the one there.
NGINX = """\
daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 9000; }}
http {{
    {settings}
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    default_type application/json;
    {temp}
    server {{
        listen {port} backlog=65535;
        location / {{ {answer} }}
    }}
}}
"""
BODY = '{\\"id\\":4711,\\"pages\\":12,\\"title\\":\\"a document\\",\\"state\\":\\"extracted\\"}'
WRK = """\
wrk.headers["Host"] = "api.example.com"
wrk.headers["X-API-Key"] = "{key}"
wrk.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux) Gecko/20100101"
wrk.headers["Accept"] = "application/json, text/plain, */*"
wrk.headers["Accept-Language"] = "en-US,en;q=0.9"
wrk.headers["Accept-Encoding"] = "gzip, deflate"
wrk.headers["Cache-Control"] = "no-cache"
wrk.headers["Origin"] = "https://app.example"
wrk.headers["Referer"] = "https://app.example/console"
wrk.headers["X-Request-Id"] = "8f14e45f-ceea-467f"
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format('JSON {{"requests":%d,"seconds":%.6f,"p50_us":%d,"p99_us":%d,"errors":%d}}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class BenchServer(servers.nginx.Nginx):
    """nginx that answers from memory and logs nothing: whatever is added to it weighs most."""

    settings = "access_log off;"
    answer = f'return 200 "{BODY}";'

    def launch(self):
        temp = " ".join(f"{name}_temp_path {self.dir}/{name};" for name in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = self.write("nginx.conf", NGINX.format(
            dir=self.dir, port=self.port, workers=1, temp=temp, settings=self.settings.format(dir=self.dir),
            answer=self.answer))
        return self.sandbox.spawn(self.name, [need_program("nginx"), "-c", config, "-p", self.dir,
                                              "-e", self.dir / "error.log"], cgroup=self.cgroup)


class FileServer(BenchServer):
    """nginx with the settings that Debian ships: a file by sendfile, each request in the access log."""

    settings = "sendfile on; tcp_nopush on; gzip on; access_log {dir}/access.log;"
    answer = "try_files /answer.json =404;"

    def launch(self):
        (self.dir / "html").mkdir(exist_ok=True)
        self.write("html/answer.json", json.dumps([json.loads(BODY.replace("\\", ""))] * 16))
        return super().launch()


class World:
    """The server, one key known to the server's meter, and a meter that comes and goes."""

    def __init__(self, sandbox, server=BenchServer):
        self.sandbox, self.keys = sandbox, api.Keys()
        self.meter = self.agent = None
        self.answered = (0, 0)
        self.key = self.keys.new("bench")
        self.many = [self.keys.new(f"k{i}") for i in range(1000)]
        self.server = server(sandbox, self.keys).start()
        self.script = sandbox.dir / "wrk.lua"
        self.script.write_text(WRK.format(key=self.key), encoding="utf-8")

    # ---- the meter ----

    def meter_on(self, window="10s", connection_rows=262144):
        if not self.meter:
            self.metrics_port = free_port()
            services = [tallyd.service("bench", [self.server.port], self.sandbox.cgroup_path)]
            self.meter = tallyd.Tallyd(
                self.sandbox, self.keys, services, window,
                {"metrics": {"listen": f"127.0.0.1:{self.metrics_port}"},
                 "limits": {"connection_rows": connection_rows}})
        self.agent = self.meter.start()

    def meter_off(self):
        """Ends the agent in order; every hook and map is gone, and what it counted is compared
        with what was answered. Returns the seconds of CPU that the end took."""
        before, used = self.agent_cpu(), children_cpu()
        ledger = self.agent.stop(120)
        after = children_cpu()
        self.agent.detach()
        self.agent = None
        counted = ledger.count("bench")
        if not self.answered[0] <= counted <= self.answered[1]:
            raise HarnessError(f"{self.answered} answered, {counted} counted")
        return after - used - before

    def metrics(self):
        """{'name' or 'name{labels}': value} without the prefix."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as r:
            text = r.read().decode()
        return {m[1]: float(m[2]) for m in re.finditer(r"^(?:tallyd_)?(\w\S*) (\S+)$", text, re.M)}

    def agent_cpu(self):
        return self.metrics()["process_cpu_seconds_total"]

    def after_window(self):
        """The metrics, right after a window was closed."""
        def closed():
            now = self.metrics()
            return now if now["windows_total"] > windows else None
        windows = self.metrics()["windows_total"]
        return wait_for(closed, 60, "a window to be closed")

    def answer(self, least, most):
        """So many requests were answered to clients, at least and at most, while metered."""
        if self.agent:
            self.answered = (self.answered[0] + least, self.answered[1] + most)

    def agent_memory(self):
        """Resident bytes of the agent, and kernel bytes of all the maps it holds."""
        pid = self.agent.process.pid
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        resident = int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1]) * 1024
        maps = {}
        for fd in Path(f"/proc/{pid}/fdinfo").iterdir():
            text = fd.read_text(encoding="ascii")
            found = dict(re.findall(r"^(map_id|memlock):\s+(\d+)$", text, re.M))
            if len(found) == 2:
                maps[found["map_id"]] = int(found["memlock"])
        return resident, sum(maps.values())

    # ---- load ----

    def wrk(self, seconds, connections=64):
        """Keep-alive at full speed; the CPU that server and client took with it."""
        argv = [need_program("wrk"), "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "-s",
                str(self.script), f"http://127.0.0.1:{self.server.port}/v1/documents/4711/pages"]
        served, used = self.server_cpu_us(), children_cpu()
        with inside_netns(self.sandbox.netns):
            done = subprocess.run(argv, capture_output=True, text=True, check=True,
                                  timeout=seconds * 5 + 60)
        client = children_cpu() - used
        result = json.loads(re.search(r"^JSON (.*)$", done.stdout, re.M)[1])
        result["requests_per_s"] = result["requests"] / result["seconds"]
        result["cpu_us"] = (self.server_cpu_us() - served + client * 1e6) / result["requests"]
        if result["errors"]:
            raise HarnessError(done.stdout)
        self.answer(result["requests"], result["requests"] + connections)  # it hangs up at its end
        return result

    def server_cpu_us(self):
        text = (self.sandbox.cgroup / "cpu.stat").read_text(encoding="ascii")
        return int(re.search(r"^usage_usec (\d+)$", text, re.M)[1])

    def load(self, keys, connections, **kwargs):
        """tests/e2e/load with that many keys, each request one of them at random."""
        templates = [load.Template("GET", "/v1/documents/4711/pages", key)
                     for key in self.many[:keys]]
        run = load.Load(self.sandbox, self.keys, self.server.port, templates, connections, **kwargs)
        run.result(600)
        if run.lost:
            raise HarnessError(f"requests were lost: {run.report}")
        requests = sum(row["requests"] for row in run.report["rows"])
        self.answer(requests, requests)
        return requests, run.report["seconds"]


def children_cpu():
    """Seconds of CPU of all the processes that we waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class BpfStatistics:
    """The kernel times every run of a BPF program inside the block."""

    def __enter__(self):
        self.old = STATS.read_text(encoding="ascii")
        STATS.write_text("1", encoding="ascii")
        return self

    def __exit__(self, *exc):
        STATS.write_text(self.old, encoding="ascii")


class RunStatistics(BpfStatistics):
    """... and this says what ours took."""

    def __init__(self, world):
        self.world = world

    def __enter__(self):
        super().__enter__()
        self.before = self.world.metrics()
        return self

    def __exit__(self, *exc):
        after = self.world.metrics()
        super().__exit__(*exc)
        self.runs, self.ns, self.progs = 0, 0, {}
        for name in [n for n in after if n.startswith("prog_runs_total")]:
            seconds = name.replace("prog_runs_total", "prog_run_seconds_total")
            runs = after[name] - self.before[name]
            ns = (after[seconds] - self.before[seconds]) * 1e9
            self.progs[re.search(r'prog="(\w+)"', name)[1]] = {"runs": int(runs), "ns": round(ns)}
            self.runs, self.ns = self.runs + runs, self.ns + ns

    def per_exchange(self, exchanges):
        return {"ns_per_exchange": round(self.ns / exchanges, 1),
                "runs_per_exchange": round(self.runs / exchanges, 3),
                "ns_per_run": round(self.ns / self.runs, 1), "exchanges": exchanges,
                "programs": self.progs}
