# SPDX-License-Identifier: Apache-2.0
"""The status page in a browser: its numbers are those of /metrics, and people can use it."""

import json
import re
import subprocess

import pytest

from lib.load import Load, Template, mix
from lib.sandbox import inside_netns, need_program, wait_for
from lib.tallyd import BINARY, service

WIDTHS = (1280, 390)
CUSTOMERS = 5


def number(words):
    return int(words.replace(",", ""))


def test_numbers_equal_metrics(busy, browse):
    meter, metrics = busy
    page = browse(meter)
    page.wait("document.getElementById('c-requests').textContent === '4,000'", "the sum")
    for name, metric, labels in (
            ("c-requests", "requests_total", {}), ("c-connections", "connections_total", {}),
            ("c-uncatalogued", "uncatalogued_requests_total", {}),
            ("c-aborted", "aborted_requests_total", {}),
            ("u-anonymous", "unattributed_requests_total", {"reason": "anonymous"}),
            ("d-sealed", "records_sealed_total", {}), ("d-acked", "records_acked_total", {}),
            ("d-waiting", "spool_records", {}), ("k-spool", "spool_records", {})):
        assert number(page.text(name)) == metrics.sum("tallyd_" + metric, **labels), name
    for name, direction in (("c-in", "in"), ("c-out", "out")):
        exact = page.run(f"document.getElementById('{name}').title").split()[0]
        assert number(exact) == metrics.sum("tallyd_bytes_total", direction=direction)
    attributed = 4000 - metrics.sum("tallyd_unattributed_requests_total")
    assert number(page.text("c-attributed")) == attributed
    assert page.text("verdict-title") == "Books balanced"
    seen, keyed, without, held = map(number, re.findall(
        r"([\d,]+) (?:answers|with a|without|open)", page.text("verdict-sum"))[:4])
    assert (seen, keyed, held) == (4000, attributed, 0) and keyed + without + held == seen
    counted = page.run("[...document.querySelectorAll('#t-services tr')].map(r => "
                       "[r.cells[0].querySelector('.name').textContent, r.cells[7].title])")
    assert counted == [["shop", "3,000"], ["files", "1,000"]]
    assert not page.errors()


def test_windows_and_classes(busy, browse):
    """The plot of answers holds exactly what was answered, by class."""
    meter, metrics = busy
    page = browse(meter)
    page.turns(1)
    for c in ("2xx", "4xx", "5xx"):
        shown = page.run(f"state.windows.reduce((a, w) => a + w.classes['{c}'], 0)")
        assert shown == metrics.sum("tallyd_responses_total", **{"class": c}), c
    seconds = page.run("state.seconds.flat().reduce((a, b) => a + b, 0)")
    # samples are of about a second, on a busy machine of more
    assert 2000 < seconds < 6000, "rates per second, summed up, are about what was counted"


def test_live_lists(agent, sandbox, keys, server, browse):
    """While there is traffic: rates, the busiest first, ids and never keys, shares that add up."""
    templates = mix(keys, CUSTOMERS)
    heavy = [Template("GET", "/status/200", keys.new("hot", "cus_hot"), weight=200)]
    meter = agent()
    load = Load(sandbox, keys, server.ports[0], templates + heavy, 16, seconds=20)
    page = browse(meter)
    page.wait("document.querySelectorAll('#t-customers tr').length > 5", "customers")
    first = page.run("[...document.querySelectorAll('#t-customers tr, #t-keys tr')].filter(r => "
                     "!r.previousSibling).map(r => r.querySelector('.name').textContent)")
    assert first == ["cus_hot", "key_hot"]
    rates = page.run("state.data.keys.map(k => k.requests)")
    assert rates == sorted(rates, reverse=True)
    assert page.run("state.data.customers.reduce((a, c) => a + c.requests, 0) === "
                    "state.data.rate_requests")
    page.wait("state.seconds.some(s => s[0] > 100)", "a second of traffic")
    text = page.run("document.documentElement.innerHTML") + meter.get("/live.json")[2]
    for template in templates + heavy:
        assert not template.key or template.key not in text
    load.stop().result()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_usable(busy, browse, width, dark):
    """Nothing wider than the page, nothing unreadable, everything named; a picture to look at."""
    meter, _ = busy
    page = browse(meter, width=width, dark=dark)
    page.turns(2)
    page.picture(f"page-{width}-{'dark' if dark else 'light'}")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    hidden = page.run("""[...document.querySelectorAll('td, dd, .value, h2')].filter(e => {
        const box = e.getBoundingClientRect();
        return box.width && (box.right > innerWidth + 1 || box.left < -1); }).map(e => e.outerHTML)""")
    assert not hidden
    over = page.run("""[...document.querySelectorAll('th')].filter(e => {
        const text = document.createRange();
        text.selectNodeContents(e);
        return e.getClientRects().length && text.getBoundingClientRect().width > e.clientWidth;
        }).map(e => e.outerHTML)""")
    assert not over, "heads that run into the next one"
    cut = page.run("""[...document.querySelectorAll('.kpi .sub')].filter(e =>
        e.scrollWidth > e.clientWidth).map(e => e.outerHTML)""")
    assert not cut, "a card's second line that is cut off"
    unnamed = page.run("""[...document.querySelectorAll('button, a, [role=img]')].filter(e =>
        !(e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)""")
    assert not unnamed
    assert not page.run(CONTRAST), "text with a contrast below 4.5"
    assert not page.errors()


def test_axis_names_no_two_marks_alike(busy, browse):
    """However long it has run: 144 s and 108 s are not both two minutes."""
    page = browse(busy[0])
    page.turns(2)
    for seconds in range(30, 600, 7):
        marks = page.run(f"[0, 1, 2, 3].map(k => moment(Math.round({seconds} * (4 - k) / 4)))")
        assert len(set(marks)) == 4, (seconds, marks)


# Elements that hold text themselves, and whose colour is too near to that of what they stand on.
CONTRAST = """(() => {
    const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
    const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] > .99) return c; } return [255, 255, 255]; };
    return [...document.querySelectorAll('body *')].filter((e) => e.getClientRects().length && !e.closest('svg') &&
        [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).filter((e) => {
        const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; }).map((e) => e.outerHTML); })()"""


def test_tools(busy, browse):
    """Pause, theme, range; plots by keyboard."""
    meter, _ = busy
    page = browse(meter)
    page.run("document.getElementById('pause').click()")
    assert page.text("live").strip() == "Paused"
    at = page.run("state.data.time")
    page.turns(2)
    assert page.run("state.data.time") == at
    page.run("document.getElementById('pause').click()")
    page.wait(f"state.data.time > {at}", "updates to go on")
    page.run("document.getElementById('theme').click()")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.run("document.getElementById('r-windows').click()")
    assert page.text("h-rate") == "Requests per second, by window"
    page.run("""(() => { const p = document.getElementById('p-class'); p.focus();
        p.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'})); })()""")
    assert page.run("document.querySelector('#p-class .tip').textContent.length > 5")


def test_warnings_and_an_agent_that_is_gone(agent, browse):
    meter = agent()
    page = browse(meter)
    good = meter.config_path.read_text(encoding="utf-8")
    meter.config_path.write_text(good + "\nbogus: 1\n", encoding="utf-8")
    page.wait("document.getElementById('warnings').textContent.includes('was refused')", "a warning")
    assert page.run("document.getElementById('verdict').className") == "verdict warn"
    meter.config_path.write_text(good, encoding="utf-8")
    page.wait("!document.getElementById('warnings').children.length", "the warning to go")
    meter.stop()
    page.wait("document.querySelector('#live').innerText === 'No answer'", "the page to tell")
    meter.start()
    page.wait("document.querySelector('#live').innerText === 'Live'", "the page to be back", 30)
    page.wait(f"state.pid === {meter.process.pid}", "the new agent")


def test_nothing_from_elsewhere(busy, browse):
    """Only this origin is asked; a script that is not the page's own is not run."""
    meter, _ = busy
    page = browse(meter)
    page.turns(2)
    asked = {m["params"]["request"]["url"] for m in
             (json.loads(e["message"])["message"] for e in page.get_log("performance"))
             if m["method"] == "Network.requestWillBeSent"}
    assert asked and all(u.startswith(f"http://127.0.0.1:{meter.port}/") or u.startswith("data:")
                         for u in asked), asked
    page.execute_script("const s = document.createElement('script'); s.textContent = 'window.x = 1';"
                        "document.head.append(s)")
    assert page.run("window.x === undefined")
    status, headers, text = meter.get("/")
    assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert not re.search(r"""(?:src|href)=["'](?!/|data:)|https?://(?!www\.w3\.org)""", text)


def test_who_may_see_it(agent):
    """On this host, by address: a web page elsewhere cannot have its name point here."""
    meter = agent()
    for path in ("/", "/live.json", "/history.json"):
        assert meter.get(path)[0] == 200
        assert meter.get(path, headers={"Host": f"localhost:{meter.port}"})[0] == 200
        assert meter.get(path, headers={"Host": f"[::1]:{meter.port}"})[0] == 200
        assert meter.get(path, headers={"Host": f"evil.example:{meter.port}"})[0] == 403
    assert meter.get("/metrics", headers={"Host": "node-7"})[0] == 200
    meter.agent["metrics"]["page"] = "any"
    meter.write_config()
    wait_for(lambda: meter.get("/", headers={"Host": "node-7"})[0] == 200, 20, "the page for any")
    meter.agent["metrics"]["page"] = "off"
    meter.write_config()
    wait_for(lambda: meter.get("/")[0] == 403, 20, "no page")
    assert meter.get("/metrics")[0] == 200


def test_other_hosts_see_metrics_alone(agent, sandbox):
    """An agent that listens everywhere, asked from an address that is not the loopback's."""
    meter = agent(agent={"metrics": {"listen": "0.0.0.0:9464"}})
    meter.stop()
    subprocess.run(["ip", "-n", sandbox.netns, "addr", "add", "192.0.2.1/32", "dev", "lo"], check=True)
    process = sandbox.spawn("inside", [BINARY, "run", "--config", meter.config_path], cgroup=False)

    def status(address, path):
        with inside_netns(sandbox.netns):
            done = subprocess.run([need_program("curl"), "-s", "-o", "/dev/null", "-w", "%{http_code}",
                                   f"http://{address}:9464{path}"], capture_output=True, text=True,
                                  check=False)
        return done.stdout
    wait_for(lambda: status("127.0.0.1", "/readyz") == "200", 20, process.output)
    assert status("127.0.0.1", "/") == "200"
    assert status("192.0.2.1", "/metrics") == "200"
    assert status("192.0.2.1", "/") == "403"
    assert status("192.0.2.1", "/live.json") == "403"
    process.stop(seconds=30)


def test_many_services_and_odd_names(agent, sandbox, keys, server, browse):
    """More services than colours; ids that would be markup are text."""
    odd = keys.new("<b>x</b>", "cus_<img src=x onerror=alert(1)>")
    meter = agent()
    meter.services += [service(f"s{i:02}", [i + 1], sandbox.cgroup_path) for i in range(20)]
    meter.write_config()
    meter.wait_for_metrics(lambda m: m.sum("tallyd_services_configured") == 22)
    load = Load(sandbox, keys, server.ports[0], [Template("GET", "/status/200", odd)], 1, seconds=60)
    page = browse(meter, width=390)
    page.wait("document.getElementById('t-customers').textContent.includes('cus_<img')", "the id")
    assert page.run("!document.querySelector('#t-customers img, #t-keys b:not(.num)')")
    assert page.run("document.querySelectorAll('#l-rate li').length === 7")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert not page.errors()
    load.stop().result()
