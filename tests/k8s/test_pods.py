# SPDX-License-Identifier: Apache-2.0
"""Pods that come, change and go: the right services attached, and nothing lost.

What was lost is asked of the servers: each counts its own answers.
"""

import json
import re
from collections import Counter

import jsonschema
import pytest
from conftest import USER
from lib.build import REPO
from lib.sandbox import wait_for
from node import METER, owner, systemd_path

GEO = {**METER, "app.kubernetes.io/name": "geo"}
KEY_NOTE = {"tallyd.io/key": "header:x-api-key"}
SHIPPED = {"tallyd.io/ports": "all", **KEY_NOTE}


def note(pod_port, **more):
    return {"tallyd.io/ports": str(pod_port), **KEY_NOTE, **more}


def counted(ledger, service=None):
    """{(key id, status): requests}, attributed or not."""
    return Counter({k: n for k, n in ledger.by_key_and_status(service).items() if n})


def answered(keys, *truths):
    """The same of the servers' own counts."""
    result = Counter()
    for truth in truths:
        for row, n in truth.items():
            key, status = row.rsplit(" ", 1)
            result[keys.id_of(key) if status == "200" else None, int(status)] += n
    return result


def test_labelled(node, agent, keys, namespace):
    """A pod that opts in is metered by its annotations; one that does not is not known."""
    ns, key = namespace(), keys.new("a")
    a = agent()
    port = node.sandbox.port()
    pod = node.run("geo-1", ns, labels=GEO, annotations=note(port), port=port)
    other = node.run("geo-2", ns, labels={"app.kubernetes.io/name": "geo"})
    a.wait_metered(pod)
    assert [len(row["hooks"]) > 0 for row in a.ask("services")["rows"]] == [True]
    assert pod.ask(key, 20) == [200] * 20
    assert pod.ask("nobody", 3) == [401] * 3
    other.ask(key, 5)
    truth = node.delete(pod)
    a.wait_states({})
    node.delete(other)
    ledger = a.stop()
    assert counted(ledger) == answered(keys, truth)
    assert {d["service"] for d in ledger.rows() if d["requests"]} == {f"{ns}/geo"}
    assert not ledger.audit()


def test_labelled_while_it_runs(node, agent, keys, namespace):
    """The label comes, goes and comes back; what was counted stays."""
    ns, key = namespace(), keys.new("a")
    a = agent()
    port = node.sandbox.port()
    pod = node.run("geo-1", ns, labels={"app.kubernetes.io/name": "geo"}, annotations=note(port),
                   port=port)
    pod.ask(key, 7)
    assert a.states() == {}
    node.patch(pod, labels=METER)
    a.wait_metered(pod)
    pod.ask(key, 20)
    node.patch(pod, labels={"tallyd.io/meter": None})
    a.wait_states({})
    pod.ask(key, 5)
    node.patch(pod, labels=METER)
    a.wait_metered(pod)
    pod.ask(key, 30)
    truth = node.delete(pod)
    ledger = a.stop()
    assert sum(truth.values()) == 62
    assert counted(ledger) == {("key_a", 200): 50}


def test_changed(node, agent, keys, namespace):
    """Annotations change: another service, another port."""
    ns, key = namespace(), keys.new("a")
    a = agent()
    port = node.sandbox.port()
    pod = node.run("geo-1", ns, labels=GEO, annotations=note(1), port=port)
    a.wait_metered(pod)
    pod.ask(key, 4)     # on a port that is nobody's
    node.patch(pod, annotations={"tallyd.io/ports": f"{port}, 1"})
    wait_for(lambda: a.ask("services") and pod.ask(key, 1) and a.ledger().count(), 30, "a count")
    seen = a.ledger().count()
    node.patch(pod, annotations={"tallyd.io/service": "renamed"})
    wait_for(lambda: a.pods()["geo-1"]["services"] == [f"{ns}/renamed"]
             and a.states()["geo-1"] == "metered", 30, "the new name")
    pod.ask(key, 30)
    node.delete(pod)
    ledger = a.stop()
    assert ledger.count(f"{ns}/renamed") == 30
    assert ledger.count(f"{ns}/geo") >= seen
    assert ledger.count() == ledger.count(f"{ns}/renamed") + ledger.count(f"{ns}/geo")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_ended(node, agent, keys, namespace, phase):
    """A pod that ended is nobody to wait for, though its object stays; what it answered last is in the books."""
    ns, key = namespace(), keys.new("a")
    a = agent(kubernetes={"linger": "30s"})
    port = node.sandbox.port()
    pod = node.run("job-1", ns, labels=GEO, annotations=note(port), port=port)
    a.wait_metered(pod)
    pod.ask(key, 10)
    # Terminating, which is no phase: its processes have their grace, and are metered in it.
    node.cluster.call("DELETE", pod.path + "?gracePeriodSeconds=600")
    assert node.cluster.call("GET", pod.path)["metadata"]["deletionTimestamp"]
    pod.ask(key, 20)
    node.set_phase(pod, phase)
    wait_for(lambda: a.pods()["job-1"]["gone"], 30, "the pod to be gone")
    pod.ask(key, 5)     # should the phase be told before the last process ended
    truth = pod.stop()
    a.wait_states({})
    assert node.cluster.call("GET", pod.path)["status"]["phase"] == phase
    a.kill()
    a.start()
    assert a.states() == {}
    ledger = a.stop()
    assert counted(ledger) == answered(keys, truth) == {("key_a", 200): 35}
    assert not ledger.audit()


def test_ended_before(node, agent, namespace):
    """Pods that ended before the agent began are none of its."""
    ns = namespace()
    ended = node.create("job-1", ns, labels=GEO, annotations=SHIPPED)
    node.set_phase(ended, "Failed")
    node.create("geo-1", ns, labels=GEO, annotations=SHIPPED)
    a = agent()
    a.wait_states({"geo-1": "waiting"})


def test_recreated(node, agent, keys, namespace):
    """The same name again is another pod, with another cgroup."""
    ns, key = namespace(), keys.new("a")
    a = agent()
    port, truths = node.sandbox.port(), []
    for _ in range(4):
        pod = node.run("geo-1", ns, labels=GEO, annotations=note(port), port=port)
        wait_for(lambda p=pod: a.pods().get("geo-1", {}).get("uid") == p.uid
                 and a.states()["geo-1"] == "metered", 30, "the new one to be metered")
        pod.ask(key, 10)
        truths.append(node.delete(pod))
    ledger = a.stop()
    assert counted(ledger) == answered(keys, *truths) == {("key_a", 200): 40}


def test_services_of_the_config(node, agent, keys, namespace):
    """By name, by labels, only of a namespace; what the config says wins over annotations."""
    geo, other = namespace("geo"), namespace("other")
    key, ports = keys.new("a"), node.sandbox.ports(5)
    sources = [{"header": "X-API-Key"}]
    routes = [{"match": "GET /v1/pods", "credits": 10}]
    services = [
        {"name": "by-name", "match": {"pods": {"namespace": geo}}, "key": sources,
         "routes": routes},
        {"name": "by-label", "match": {"pods": {"namespace": geo, "labels": {"app": "x"}},
                                       "ports": [ports[1], ports[2]]}, "key": sources},
    ]
    a = agent(services, kubernetes={"unlisted": None} and {})
    pods = [
        node.run("named", geo, labels=METER, port=ports[0],
                 annotations=note(ports[0], **{"tallyd.io/service": "by-name"})),
        node.run("labelled", geo, labels={**METER, "app": "x"}, port=ports[1],
                 annotations={"tallyd.io/ports": "1"}),
        node.run("both", geo, port=ports[2], labels={**METER, "app": "x",
                                                     "app.kubernetes.io/name": "by-name"}),
        node.run("pretender", other, labels=METER, port=ports[3],
                 annotations=note(ports[3], **{"tallyd.io/service": "by-name"})),
        node.run("nameless", geo, labels=METER, port=ports[4], annotations=note(ports[4])),
    ]
    a.wait_states({"named": "metered", "labelled": "metered", "both": "metered",
                   "pretender": "metered", "nameless": "no_service"})
    for n, pod in enumerate(pods):
        pod.ask(key, 10 + n)
    for pod in pods:
        node.delete(pod)
    ledger = a.stop()
    assert ledger.count("by-name") == 10
    assert {d["units"]["credits"] for d in ledger.rows("by-name") if d["requests"]} <= {"100"} \
        or sum(int(d["units"]["credits"]) for d in ledger.rows("by-name")) == 100
    assert ledger.count("by-label") == 11 + 12
    assert ledger.count(f"{other}/by-name") == 13
    assert ledger.count() == 10 + 11 + 12 + 13


@pytest.mark.parametrize("annotations, state", [
    ({}, "no_ports"), ({"tallyd.io/ports": "http"}, "bad_ports"),
    ({"tallyd.io/ports": "80", "tallyd.io/key": "cookie:x"}, "bad_key"),
    ({"tallyd.io/ports": "80", "tallyd.io/key": "header:content-length"}, "bad_key"),
    ({"tallyd.io/ports": "80", "tallyd.io/service": "a/b"}, "bad_service")])
def test_what_is_wrong_is_said(node, agent, namespace, annotations, state):
    a, ns = agent(), namespace()
    node.create("wrong", ns, labels=GEO, annotations=annotations)
    a.wait_states({"wrong": state})
    said = a.say("services")
    assert re.search(rf"^{ns}/wrong +NOT METERED +-\n  {state}: ", said, re.M), said
    assert max(map(len, said.splitlines())) <= 80
    said = a.say("status")
    assert f"1 pod asks to be metered and is not ({state})" in said and f"{ns}/wrong." in said, said
    assert "No service is configured" not in said and "state     good" not in said


@pytest.mark.parametrize("wrong", ["header:content-length", "header:x-api-key;scheme=basic",
                                   "query:a,query:b,query:c,query:d,query:e"])
def test_a_key_that_does_not_fit(node, agent, keys, namespace, wrong):
    """What one pod says of itself stops no rules of others, and no start of the agent."""
    ns, key, ports = namespace(), keys.new("a"), node.sandbox.ports(2)
    a = agent()
    pod = node.run("geo-2", ns, labels=GEO, annotations=note(ports[0]), port=ports[0])
    a.wait_metered(pod)
    node.create("geo-3", ns, labels=GEO, annotations=note(ports[1], **{"tallyd.io/key": wrong}))
    wait_for(lambda: "geo-3" in a.states(), 30, "the other to be known")
    a.kill()
    a.start()
    a.wait_metered(pod)
    assert a.states()["geo-3"] == ("waiting" if "x-api-key" in wrong else "bad_key")
    pod.ask(key, 20)
    truth = node.delete(pod)
    assert counted(a.stop()) == answered(keys, truth) == {("key_a", 200): 20}


def test_not_listed(node, agent, namespace):
    """Without the section `unlisted` only services of the config are metered."""
    a = agent(kubernetes={"unlisted": None})
    pod = node.create("stranger", namespace(), labels=GEO, annotations=SHIPPED)
    a.wait_states({"stranger": "not_listed"})
    assert pod


def test_other_nodes(node, agent, namespace):
    """Pods of other nodes are not even asked for."""
    ns = namespace()
    a = agent()
    node.create("elsewhere", ns, labels=GEO, annotations=SHIPPED, node="another-node")
    node.create("here", ns, labels=GEO, annotations=SHIPPED)
    a.wait_states({"here": "waiting"})


SHAPES = {
    "burstable": systemd_path,
    "besteffort": lambda uid: systemd_path(uid, "besteffort"),
    "guaranteed": lambda uid: systemd_path(uid, None),
    "crio": lambda uid: systemd_path(uid).replace("cri-containerd", "crio"),
    "cgroupfs": lambda uid: f"kubepods/burstable/pod{uid}/" + "0123456789abcdef" * 4,
    "kind": lambda uid: "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
                        f"kubelet-kubepods-burstable-pod{uid.replace('-', '_')}.slice/init.scope",
    "mixed": lambda uid: "system.slice/containerd.service/kubepods-burstable-"
                         f"pod{uid.replace('-', '_')}.slice:cri-containerd:"
                         + "0123456789abcdef" * 4 + "/x",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_cgroups(node, agent, keys, namespace, shape):
    """Whatever the kubelet calls the folder; here it stands before the pod is known."""
    key, port = keys.new("a"), node.sandbox.port()
    a = agent()
    pod = node.run("geo-1", namespace(), labels=GEO, annotations=note(port), port=port,
                   shape=SHAPES[shape])
    a.wait_metered(pod)
    pod.ask(key, 9)
    truth = node.delete(pod)
    assert counted(a.stop()) == answered(keys, truth) == {("key_a", 200): 9}


def test_static_pod(node, agent, keys, namespace):
    """The cgroup of a static pod is named by the hash that its mirror carries."""
    key, port, digest = keys.new("a"), node.sandbox.port(), "0d3f6a526f0e4f6e9a417c1f3f0b2a11"
    a = agent()
    pod = node.run("static-n1", namespace(), labels=GEO, port=port, owners=owner("Node", node.name),
                   annotations={**note(port), "kubernetes.io/config.hash": digest},
                   shape=lambda uid: systemd_path(digest))
    a.wait_metered(pod)
    pod.ask(key, 9)
    truth = node.delete(pod)
    assert counted(a.stop()) == answered(keys, truth) == {("key_a", 200): 9}


@pytest.mark.parametrize("sandbox", ["veth"], indirect=True)
def test_same_port_in_two_namespaces(node, agent, keys, namespace):
    """Every pod has its own network: the same port in two of them is two services."""
    from node import Kubelet
    ns, key, port = namespace(), keys.new("a"), node.sandbox.port()
    side = Kubelet(node.sandbox.netns_client)
    node.sandbox.undo.callback(side.close)
    a = agent()
    one = node.run("one-1", ns, labels={**METER, "app.kubernetes.io/name": "one"},
                   annotations=note(port), port=port)
    two = node.create("two-1", ns, labels={**METER, "app.kubernetes.io/name": "two"},
                      annotations=note(port), port=port).run(side)
    a.wait_metered(one, two)
    one.ask(key, 11)
    two.ask(key, 13, side=True)
    truths = node.delete(one), node.delete(two)
    ledger = a.stop()
    assert [ledger.count(f"{ns}/one"), ledger.count(f"{ns}/two")] == [11, 13]
    assert counted(ledger) == answered(keys, *truths)


def test_rights(node, agent, keys, namespace):
    """At most the documented verbs, by the API server's own audit log."""
    port = node.sandbox.port()
    a = agent()
    pod = node.run("geo-1", namespace(), labels=GEO, annotations=note(port), port=port)
    a.wait_metered(pod)
    node.delete(pod)
    a.wait_states({})
    a.stop()
    asked = node.cluster.asked_by(USER)
    assert set(asked) == {("list", "pods"), ("watch", "pods")}
    # 403: an API server that has just been started again does not know the roles yet
    assert {code for codes in asked.values() for code in codes} <= {200, 410, 401, 403, 504, None}
    lines = node.cluster.audit.read_text()
    assert "fieldSelector=spec.nodeName" in lines and "tallyd.io%2Fmeter%3Denabled" in lines


def test_no_secrets_of_pods(node, agent, namespace):
    """Only metadata is asked for: a pod's environment never reaches the agent, nor its disk."""
    a = agent()
    pod = node.create("geo-1", namespace(), labels=GEO, annotations={**SHIPPED, "note": "hunter3"})
    a.wait_states({"geo-1": "waiting"})
    file = node.sandbox.dir / "state" / "pods.json"
    wait_for(lambda: file.exists() and pod.uid in file.read_text(), 20, "the pod to be on disk")
    state = file.read_text()
    assert "hunter" not in state + a.log()


@pytest.mark.parametrize("asked", [
    {"namespace": True, "workload": True}, {"pod": True}, {"node": True, "pod": True}, {}])
def test_dimensions(node, agent, keys, namespace, asked):
    """What of a pod its records say; and after a restart of the agent still."""
    ns, key, ports = namespace(), keys.new("a"), node.sandbox.ports(3)
    a = agent([{"name": "geo", "match": {"pods": {"labels": {"app": "geo"}}, "ports": ports},
                "key": [{"header": "X-API-Key"}]}], kubernetes={"dimensions": asked})
    owners = [owner("ReplicaSet", "geo-api-7d9c"), owner("StatefulSet", "geo-db"), []]
    labels = {**METER, "app": "geo", "pod-template-hash": "7d9c"}
    pods = [node.run(f"geo-{n}", ns, labels=labels, owners=owners[n], port=ports[n])
            for n in range(3)]
    a.wait_metered(*pods)
    wanted = Counter()
    for n, pod in enumerate(pods):
        pod.ask(key, 5 + n)
        says = {"namespace": ns, "workload": ["Deployment/geo-api", "StatefulSet/geo-db", None][n],
                "pod": pod.name, "node": node.name}
        wanted[tuple(sorted((k, says[k]) for k in asked if says[k]))] += 2 * (5 + n)
    a.kill()
    for n, pod in enumerate(pods):
        pod.ask(key, 5 + n)
    a.start()
    for pod in pods:
        node.delete(pod)
    ledger = a.stop()
    told = Counter()
    for d in ledger.rows("geo"):
        if d["requests"]:
            told[tuple(sorted(d.get("kubernetes", {}).items()))] += d["requests"]
    assert told == wanted
    assert all(("kubernetes" in d) == bool(d.get("kubernetes")) for d in ledger.rows())
    schema = json.loads((REPO / "deploy" / "schema" / "record.schema.json").read_text())
    for event in ledger.usage:
        jsonschema.validate(event, schema)
    assert not ledger.audit()


HOSTILE = {
    "long": {"owners": owner("K", "a" * 70000)},
    "control": {"owners": owner("K", "\x01" * 11000)},
    "nul": {"owners": owner("K\0", "a\0b"), "annotations": {"example.com/x": "\0"}},
    "name": {"managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                                "fieldsV1": {"f:metadata": {"f:a\0b": {}}}}]},
}


@pytest.mark.parametrize("late", [False, True], ids=["listed", "watched"])
def test_hostile_metadata(node, agent, keys, namespace, late):
    """Whatever a pod says of itself, an API server that takes it gives it to us: the others are metered, and
    all records leave."""
    ns, key = namespace(), keys.new("a")
    kubernetes = {"unlisted": {"key": [{"header": "X-API-Key"}]}, "dimensions": {"namespace": True, "workload": True}}
    a = agent(kubernetes=kubernetes) if late else None
    pods = []
    for name, words in HOSTILE.items():
        port = node.sandbox.port()
        words = {**words, "annotations": {**note(port), **words.get("annotations", {})}}
        pods.append(node.run(name, ns, labels=GEO, port=port, **words))
    port = node.sandbox.port()
    good = node.run("good", ns, labels=GEO, port=port, annotations=note(port), owners=owner("StatefulSet", "geo"))
    a = a or agent(kubernetes=kubernetes)
    a.wait_metered(good)
    for pod in [*pods, good]:
        assert pod.ask(key, 5) == [200] * 5
    wait_for(lambda: a.ledger().count() >= 10, 30, "records")
    for pod in [*pods, good]:
        node.delete(pod)
    ledger = a.stop()
    where = {(d.get("kubernetes") or {}).get("workload") for d in ledger.rows() if d["requests"]}
    assert "StatefulSet/geo" in where and where <= {None, "StatefulSet/geo"}
    assert not ledger.audit()
