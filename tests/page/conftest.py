# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a metered server, its agent, and a headless Chromium on its status page."""

import base64
import os
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "tests/e2e"))

from lib import api, load, servers, tallyd  # noqa: E402
from lib.fixtures import keys, sandbox  # noqa: E402,F401
from lib.sandbox import Sandbox, need_program, wait_for  # noqa: E402
from lib.scrape import Agent  # noqa: E402

PICTURES = REPO / os.environ.get("BUILD", "build") / "page"


class Browser(webdriver.Chrome):
    """Chromium without a window."""

    def __init__(self, width=1280, height=900, dark=False):
        options = Options()
        options.binary_location = need_program("chromium")
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--hide-scrollbars"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        super().__init__(service=Service(need_program("chromedriver")), options=options)
        self.dark = dark
        self.resize(width, height)

    def resize(self, width, height):
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"}]})

    def open(self, agent):
        self.get(f"http://127.0.0.1:{agent.port}/")
        self.wait("document.querySelector('#live').innerText === 'Live'", "the page to be live")
        return self

    def run(self, expression):
        return self.execute_script(f"return ({expression});")

    def wait(self, expression, what, seconds=20):
        return wait_for(lambda: self.run(expression), seconds, what)

    def text(self, name):
        return self.run(f"document.getElementById({name!r}).textContent")

    def turns(self, n):
        """Waits until the page has asked that many times more."""
        until = int(self.run("Number(document.body.dataset.turns || 0)")) + n
        self.wait(f"Number(document.body.dataset.turns) >= {until}", f"{n} turns of the page")

    def picture(self, name):
        """The whole page as build/page/NAME.png, for people to look at."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        size = self.run("[innerWidth, document.documentElement.scrollHeight]")
        self.resize(*size)
        self.turns(1)
        shot = self.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def errors(self):
        return [e["message"] for e in self.get_log("browser") if e["level"] == "SEVERE"]


def start_server(sandbox, keys):
    return servers.start("nginx", sandbox, keys, proxied=False, ports=sandbox.ports(2))


def start_agent(sandbox, keys, server, **kwargs):
    """Metering the server's ports as `shop` and `files`, windows of a second."""
    services = [tallyd.service(name, [port], sandbox.cgroup_path)
                for name, port in zip(("shop", "files"), server.ports)]
    return Agent(sandbox, keys, services, **kwargs).start()


@pytest.fixture
def server(sandbox, keys):
    return start_server(sandbox, keys)


@pytest.fixture
def agent(sandbox, keys, server):
    return lambda **kwargs: start_agent(sandbox, keys, server, **kwargs)


@pytest.fixture(scope="module")
def busy():
    """An agent that has counted 4,000 requests and knows no more of them to come; its metrics. Shared
    by tests that only look."""
    with Sandbox("busy") as sandbox:
        keys = api.Keys()
        templates = load.mix(keys, 5)
        templates.append(load.Template("GET", "/status/500", templates[0].key))
        server = start_server(sandbox, keys)
        meter = start_agent(sandbox, keys, server)
        load.Load(sandbox, keys, server.ports[0], templates, 16, 3000).result()
        load.Load(sandbox, keys, server.ports[1], templates, 4, 1000).result()
        yield meter, meter.wait_for_metrics(
            lambda m: m.sum("tallyd_requests_total") == 4000
            and m.sum("tallyd_records_acked_total") == m.sum("tallyd_records_sealed_total"))


@pytest.fixture
def browse():
    """browse(agent, width=..., dark=...): a browser on that agent's page."""
    open_ones = []

    def start(meter, **kwargs):
        open_ones.append(Browser(**kwargs))
        return open_ones[-1].open(meter)
    yield start
    for browser in open_ones:
        browser.quit()
