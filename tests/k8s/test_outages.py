# SPDX-License-Identifier: Apache-2.0
"""The API server is away, forgets, refuses; tokens run out; and there are many pods.

None of it may stop the metering of what is attached.
"""

import json
import signal
import time

from conftest import USER
from lib.sandbox import wait_for
from test_pods import GEO, KEY_NOTE, METER, answered, counted, note


def metrics(agent):
    """{name with its labels: value} of /metrics."""
    import urllib.request
    with urllib.request.urlopen(f"http://{agent.agent['metrics']['listen']}/metrics",
                                timeout=20) as page:
        lines = page.read().decode().splitlines()
    return {n: float(v) for n, v in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}


def with_metrics(node):
    from cluster import free_port
    return {"metrics": {"listen": f"127.0.0.1:{free_port()}"}}


def test_api_server_away(node, agent, keys, namespace):
    """Down for a while and back: what ran is metered on, what changed meanwhile is seen after."""
    ns, key = namespace(), keys.new("a")
    a = agent(agent=with_metrics(node))
    ports = node.sandbox.ports(3)
    stays = node.run("stays", ns, labels=GEO, annotations=note(ports[0]), port=ports[0])
    goes = node.run("goes", ns, labels=GEO, annotations=note(ports[1]), port=ports[1])
    a.wait_metered(stays, goes)
    stays.ask(key, 10)
    node.cluster.stop_api()
    try:
        stays.ask(key, 20)
        wait_for(lambda: metrics(a)['tallyd_kubernetes_errors_total{kind="connect"}'] >= 2, 30,
                 "connections to be refused")
        stays.ask(key, 30)
        goes.ask(key, 5)
        truth = goes.stop()
        assert metrics(a)["tallyd_kubernetes_watching"] == 0
    finally:
        node.cluster.start_api()
    node.cluster.call("DELETE", goes.path + "?gracePeriodSeconds=0")
    comes = node.run("comes", ns, labels=GEO, annotations=note(ports[2]), port=ports[2])
    a.wait_metered(comes, seconds=90)
    a.wait_states({"stays": "metered", "comes": "metered"})
    comes.ask(key, 7)
    assert metrics(a)["tallyd_kubernetes_watching"] == 1
    truths = truth, node.delete(stays), node.delete(comes)
    assert counted(a.stop()) == answered(keys, *truths) == {("key_a", 200): 72}


def test_started_without_api_server(node, agent, keys, namespace):
    """Killed and started again while the API server is away: the same pods are metered."""
    ns, key, port = namespace(), keys.new("a"), node.sandbox.port()
    a = agent()
    pod = node.run("geo-1", ns, labels=GEO, annotations=note(port), port=port)
    a.wait_metered(pod)
    pod.ask(key, 10)
    node.cluster.stop_api()
    try:
        a.kill()
        pod.ask(key, 20)
        a.start()
        assert a.states() == {"geo-1": "metered"}
        pod.ask(key, 30)
        a.process.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "reload services" in a.log(), 20, "the reload")
        pod.ask(key, 1)
        assert a.states() == {"geo-1": "metered"}
    finally:
        node.cluster.start_api()
    truth = node.delete(pod)
    a.wait_states({}, seconds=90)
    assert counted(a.stop()) == answered(keys, truth) == {("key_a", 200): 61}


def test_gone(node, agent, keys, namespace):
    """410: the API server no longer knows what the agent saw last. Listed again, nothing is lost."""
    ns, key = namespace(), keys.new("a")
    a = agent(agent=with_metrics(node))
    ports = node.sandbox.ports(2)
    stays = node.run("stays", ns, labels=GEO, annotations=note(ports[0]), port=ports[0])
    goes = node.run("goes", ns, labels=GEO, annotations=note(ports[1]), port=ports[1])
    a.wait_metered(stays, goes)
    goes.ask(key, 3)
    node.cluster.stop_api()
    # The world moves on: other objects change, and history is thrown away.
    revision = 0
    for n in range(200):
        revision = int(node.cluster.etcd("kv/put", {"key": "eA==", "value": "eA=="})["header"]["revision"])
    node.cluster.etcd("kv/compaction", {"revision": revision, "physical": True})
    stays.ask(key, 4)
    node.cluster.start_api()
    truth = node.delete(goes)
    wait_for(lambda: metrics(a)['tallyd_kubernetes_errors_total{kind="gone"}'] >= 1, 90, "a 410")
    a.wait_states({"stays": "metered"}, seconds=60)
    stays.ask(key, 5)
    assert node.cluster.asked_by(USER).keys() <= {("list", "pods"), ("watch", "pods")}
    truths = truth, node.delete(stays)
    assert counted(a.stop()) == answered(keys, *truths) == {("key_a", 200): 12}


def test_token(node, agent, keys, namespace):
    """A token that is refused is counted; the new one in its file is taken without a restart."""
    ns, key, port = namespace(), keys.new("a"), node.sandbox.port()
    a = agent(agent=with_metrics(node))
    pod = node.run("geo-1", ns, labels=GEO, annotations=note(port), port=port)
    a.wait_metered(pod)
    a.token_file.write_text("not a token")
    node.cluster.stop_api()     # ends the watch; the next one needs the token
    node.cluster.start_api()
    wait_for(lambda: metrics(a)['tallyd_kubernetes_errors_total{kind="denied"}'] >= 1, 60, "a 401")
    pod.ask(key, 6)
    a.token_file.unlink()
    wait_for(lambda: metrics(a)['tallyd_kubernetes_errors_total{kind="token"}'] >= 1, 60, "no file")
    a.renew_token()
    node.patch(pod, annotations={"tallyd.io/service": "after"})
    wait_for(lambda: a.pods()["geo-1"]["services"] == [f"{ns}/after"], 60, "the new service")
    pod.ask(key, 7)
    truth = node.delete(pod)
    ledger = a.stop()
    assert counted(ledger) == answered(keys, truth) == {("key_a", 200): 13}
    assert ledger.count(f"{ns}/after") == 7
    log = a.log()
    assert "not a token" not in log and "Bearer" not in log


def test_untrusted(node, agent, namespace):
    """Another server's certificate is not believed, and the token not sent to it."""
    port = node.sandbox.port()
    from cluster import _certificate, _pem, ec, serialization
    other = ec.generate_private_key(ec.SECP256R1())
    wrong = node.sandbox.dir / "wrong.crt"
    wrong.write_bytes(_certificate("test-ca", other, "test-ca", other, True)
                      .public_bytes(serialization.Encoding.PEM))
    before = sum(len(c) for c in node.cluster.asked_by(USER).values())
    a = agent(agent=with_metrics(node), kubernetes={"ca_file": str(wrong)})
    node.create("geo-1", namespace(), labels=GEO, annotations=note(port))
    wait_for(lambda: metrics(a)['tallyd_kubernetes_errors_total{kind="tls"}'] >= 1, 60, "no trust")
    assert a.states() == {}
    assert sum(len(c) for c in node.cluster.asked_by(USER).values()) == before
    assert _pem


def test_what_lasts_is_said(node, agent, keys, namespace):
    """A pod that waits for its cgroup, an API server that is away: after a minute a person is told, not before."""
    ns, port = namespace(), node.sandbox.port()
    a = agent()
    assert "asks to be metered (tallyd.io/meter=enabled)" in a.say("status")
    pod = node.run("geo-1", ns, labels=GEO, annotations=note(port), port=port)
    a.wait_metered(pod)
    node.create("geo-2", ns, labels=GEO, annotations=note(80))
    a.wait_states({"geo-1": "metered", "geo-2": "waiting"})
    said = a.say("status")
    assert "state     good" in said and "1 metered of 2 that ask for it; the API server tells of them" in said, said
    node.cluster.stop_api()
    try:
        wait_for(lambda: "has not been heard for 1 minutes (connect)" in a.say("status"), 90, lambda: a.say("status"))
        assert "1 pod asks to be metered and is not (waiting)" in a.say("status")
        assert "the API server IS NOT HEARD" in a.say("status")
    finally:
        node.cluster.start_api()
    wait_for(lambda: "not been heard" not in a.say("status"), 60, lambda: a.say("status"))
    said = a.say("services")
    assert f"  waiting: " in said and said.index("geo-2") < said.index(f"{ns}/geo-1"), said
    node.delete(pod)


def test_first_list(node, agent, namespace):
    """Asked of the API server's cache, which answers whole: etcd has nothing to do with a node that starts."""
    ns = namespace()
    for n in range(120):
        node.create(f"geo-{n}", ns, labels=GEO, annotations=note(80))
    wait_for(lambda: len(node.cluster.call("GET", f"/api/v1/namespaces/{ns}/pods?resourceVersion=0")["items"]) == 120,
             30, "the cache")
    a = agent(agent=with_metrics(node))
    a.wait_states({f"geo-{n}": "waiting" for n in range(120)})
    assert metrics(a)['tallyd_kubernetes_requests_total{verb="list"}'] == 1
    wait_for(lambda: metrics(a)["tallyd_kubernetes_watching"] == 1, 5, "a watch, before its first line")
    events = map(json.loads, node.cluster.audit.read_text().splitlines())
    asked = [e["requestURI"] for e in events if e["verb"] == "list" and f"nodeName%3D{node.name}%2C" in e["requestURI"]]
    assert ["&resourceVersion=0" in uri for uri in asked] == [True]


def test_500_pods(node, agent, keys, namespace):
    """As many as no node has; each answers, each is counted; then a tenth is replaced."""
    ns, key = namespace(), keys.new("a")
    ports = node.sandbox.ports(550)
    a = agent(agent=with_metrics(node), kubernetes={"dimensions": {}})
    began = time.monotonic()

    def start(n):
        name = {"app.kubernetes.io/name": f"app-{n % 10}"}
        return node.create(f"pod-{n}", ns, labels={**METER, **name}, port=ports[n],
                           annotations={"tallyd.io/ports": str(ports[n]), **KEY_NOTE}).run()

    pods = [start(n) for n in range(500)]
    a.wait_metered(*pods, seconds=120)
    print(f"500 pods metered {time.monotonic() - began:.1f} s after the first was made")
    assert metrics(a)['tallyd_kubernetes_pods{state="metered"}'] == 500
    for pod in pods:
        pod.ask(key, 2)
    truths = [node.delete(pod) for pod in pods[:50]]
    pods = pods[50:] + [start(n) for n in range(500, 550)]
    a.wait_metered(*pods, seconds=120)
    for pod in pods:
        pod.ask(key, 1)
    truths += [pod.stop() for pod in pods]
    ledger = a.stop()
    assert counted(ledger) == answered(keys, *truths) == {("key_a", 200): 1500}
    assert {f"{ns}/app-{n}" for n in range(10)} == {d["service"] for d in ledger.rows()
                                                    if d["requests"]}
    assert not ledger.audit()
