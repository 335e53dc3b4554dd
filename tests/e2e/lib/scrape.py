# SPDX-License-Identifier: Apache-2.0
"""An agent whose HTTP server answers, and its metrics, parsed."""

import re
import socket
import urllib.error
import urllib.request

from .sandbox import wait_for
from .tallyd import Tallyd


class Metrics:
    """One scrape. series: {(name, ((label, value), ...)): number}; help, type: {name: text}."""

    def __init__(self, text):
        self.text = text
        self.help = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.M))
        self.type = dict(re.findall(r"^# TYPE (\S+) (.*)$", text, re.M))
        self.series = {}
        for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.M):
            key = name, tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels)))
            assert key not in self.series, f"{key} stands there twice"
            self.series[key] = float(value)

    def sum(self, name, **wanted):
        found = [v for (n, labels), v in self.series.items()
                 if n == name and wanted.items() <= dict(labels).items()]
        assert found, f"no series {name} {wanted}"
        return sum(found)

    def labels(self, name):
        return {tuple(sorted(k for k, _ in labels)) for n, labels in self.series if n == name}


class Agent(Tallyd):
    """With /metrics on a free port."""

    def __init__(self, *args, **kwargs):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        agent = {"metrics": {"listen": f"127.0.0.1:{self.port}"}, **kwargs.pop("agent", {})}
        super().__init__(*args, agent=agent, **kwargs)

    def get(self, path, method="GET", headers=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method,
                                         headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=20) as r:
                return r.status, r.headers, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.headers, e.read().decode()

    def metrics(self):
        status, headers, text = self.get("/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return Metrics(text)

    def wait_for_metrics(self, condition, seconds=20, what="the metrics"):
        def attempt():
            metrics = self.metrics()
            return metrics if condition(metrics) else None
        return wait_for(attempt, seconds, what)
