# SPDX-License-Identifier: Apache-2.0
"""deploy/kubernetes and deploy/helm: rendered by the real tools, taken by a real API server."""

import copy
import json
import os
import re
import shlex
import subprocess

import pytest
import yaml
from cluster import BIN, ApiError
from deploy import CHART, KUSTOMIZE, helm, kustomize, run
from lib.build import REPO
from lib.sandbox import HarnessError
from lib.tallyd import BINARY

WANTED = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet", "ResourceQuota"}


def by_kind(objects):
    return {o["kind"]: o for o in objects}


def pod_of(objects):
    return by_kind(objects)["DaemonSet"]["spec"]["template"]["spec"]


def notes_of(objects):
    return by_kind(objects)["DaemonSet"]["spec"]["template"]["metadata"]["annotations"]


UNHOOKING = {"kustomize": lambda: kustomize("overlays/unhook"), "helm": lambda: helm("--set", "unhook=true")}
RENDERED = {"kustomize": lambda: kustomize("overlays/plaintext"),
            "helm": helm}


@pytest.fixture(params=RENDERED)
def rendered(request, tools):
    return RENDERED[request.param]()


def test_accepted(cluster, rendered):
    """Server-side apply, dry, with strict validation of every field."""
    cluster.namespace("tallyd-system")
    assert {o["kind"] for o in rendered} - {"Namespace"} == WANTED
    for manifest in rendered:
        cluster.apply(manifest, dry_run=True)


def test_validation_is_strict(cluster, rendered):
    """What the test above relies on: an unknown field is refused."""
    cluster.namespace("tallyd-system")
    wrong = copy.deepcopy(by_kind(rendered)["DaemonSet"])
    wrong["spec"]["template"]["spec"]["hostPids"] = True
    with pytest.raises(ApiError, match="hostPids"):
        cluster.apply(wrong, dry_run=True)


def test_rights_of_the_manifests(rendered):
    assert by_kind(rendered)["ClusterRole"]["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


def test_pod_of_the_agent(rendered):
    """What DEPLOY asks of it, whichever way it was rendered."""
    pod = pod_of(rendered)
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert pod["securityContext"] == {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    assert security["capabilities"]["drop"] == ["ALL"]
    assert set(security["capabilities"]["add"]) == {"BPF", "NET_ADMIN", "PERFMON"}
    assert not pod.get("hostPID")
    assert security["readOnlyRootFilesystem"] and not security["privileged"]
    assert not security["allowPrivilegeEscalation"] and not pod.get("hostNetwork")
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["terminationGracePeriodSeconds"] == 60
    update = by_kind(rendered)["DaemonSet"]["spec"]["updateStrategy"]["rollingUpdate"]
    assert update["maxUnavailable"] == "10%"
    paths = {v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    assert paths == {"/var/lib/tallyd", "/sys/fs/bpf", "/sys/fs/cgroup"}
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert mounts["/host/sys/fs/cgroup"]["readOnly"]


def test_apparmor_leaves_the_pins(rendered):
    """The default profile of container runtimes denies to write below /sys/fs."""
    template = by_kind(rendered)["DaemonSet"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    name = f"container.apparmor.security.beta.kubernetes.io/{container['name']}"
    assert template["metadata"]["annotations"][name] == "unconfined"


def test_apparmor_as_the_api_server_sees_it(cluster, rendered):
    """The annotation is still heard where there is a field for it."""
    template = copy.deepcopy(by_kind(rendered)["DaemonSet"]["spec"]["template"])
    cluster.namespace("tallyd-system")
    cluster.apply(by_kind(rendered)["ServiceAccount"])
    pod = cluster.apply({"apiVersion": "v1", "kind": "Pod", **template,
                         "metadata": {**template["metadata"], "name": "one", "namespace": "tallyd-system"}},
                        dry_run=True)
    assert pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}


def test_time_to_start(rendered):
    """No probe ends the agent before the time is over that the unit gives it, too."""
    unit = (REPO / "deploy/systemd/tallyd.service").read_text()
    seconds = int(re.search(r"^TimeoutStartSec=(\d+)s$", unit, re.M).group(1))
    (container,) = pod_of(rendered)["containers"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= seconds
    assert startup["httpGet"] == container["livenessProbe"]["httpGet"]


@pytest.mark.parametrize("how", UNHOOKING)
def test_unhooking(tools, how):
    """The agent's container, with the same rights, folders and config, unhooks once; then the pod waits."""
    pod, agent = pod_of(UNHOOKING[how]()), pod_of(RENDERED[how]())
    (unhook,), (waiting,) = pod["initContainers"], pod["containers"]
    assert unhook["args"] == ["stop", "--detach", *agent["containers"][0]["args"][1:]]
    same = ("image", "env", "securityContext", "volumeMounts", "resources")
    assert [unhook[k] for k in same] == [agent["containers"][0][k] for k in same]
    assert [pod[k] for k in ("volumes", "tolerations")] == [agent[k] for k in ("volumes", "tolerations")]
    assert not [k for k in unhook if k.endswith("Probe")]
    assert waiting["image"] == unhook["image"] and not waiting.keys() & {"args", "ports", "volumeMounts"}
    assert waiting["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    notes = by_kind(UNHOOKING[how]())["DaemonSet"]["spec"]["template"]["metadata"]["annotations"]
    assert notes["container.apparmor.security.beta.kubernetes.io/unhook"] == "unconfined"


GUARDED = {"kustomize": lambda: kustomize("overlays/guarded"),
           "helm": lambda: helm("--set-json", 'networkPolicy={"enabled":true,"from":[{"namespaceSelector":'
                                '{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]}')}


@pytest.mark.parametrize("how", GUARDED)
def test_network_policy(tools, how):
    """The agent's pods, and only their metrics' port, from where Prometheus runs; what they send is theirs."""
    objects = by_kind(GUARDED[how]())
    policy, template = objects["NetworkPolicy"], objects["DaemonSet"]["spec"]["template"]
    spec = policy["spec"]
    assert policy["metadata"]["namespace"] == "tallyd-system"
    assert spec["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert spec["podSelector"]["matchLabels"] and spec["policyTypes"] == ["Ingress"]
    (rule,) = spec["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": template["spec"]["containers"][0]["ports"][0]["name"]}]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_network_policy_for_nobody(tools):
    """No peers are nobody, not everybody."""
    policy = by_kind(helm("--set", "networkPolicy.enabled=true"))["NetworkPolicy"]
    assert policy["spec"]["ingress"] == []


@pytest.mark.parametrize("how", GUARDED)
def test_network_policy_is_accepted(cluster, tools, how):
    cluster.namespace("tallyd-system")
    for manifest in GUARDED[how]():
        cluster.apply(manifest, dry_run=True)


@pytest.mark.parametrize("how", UNHOOKING)
def test_unhooking_is_accepted(cluster, tools, how):
    cluster.namespace("tallyd-system")
    for manifest in UNHOOKING[how]():
        cluster.apply(manifest, dry_run=True)


def test_install_as_the_readme_says(tools):
    """One command of Helm, or two lines for kustomize: nothing else has to be known to replace what is ours."""
    text = (KUSTOMIZE / "README.md").read_text()
    command = re.search(r"^    helm install tallyd deploy/helm/tallyd ((?:.*\\\n)*.*)$", text, re.M).group(1)
    flags = shlex.split(command.replace("\\\n", ""))
    image = [f.split("=")[1] for f in flags if f.startswith("image.repository=")][0]
    rendered = helm(*flags)
    assert pod_of(rendered)["containers"][0]["image"].startswith(f"{image}:")
    config = yaml.safe_load(by_kind(rendered)["ConfigMap"]["data"]["tallyd.yaml"])
    assert config["sinks"] == [{"kafka": {"brokers": "kafka-1:9092"}}]
    assert f"-t {image}:" in text and f"docker push {image}:" in text
    lines = re.findall(r"`(newName|brokers)`\s+in\s+`deploy/kubernetes/(\S+)`", text)
    assert [name for name, _ in lines] == ["newName", "brokers"]
    for name, path in lines:
        assert len(re.findall(rf"\b{name}: .* # yours", (KUSTOMIZE / path).read_text())) == 1, path


def test_secrets_of_the_chart(tools):
    """They are files beside the config, which names them."""
    flags = "secrets[0].name=tallyd-kafka,secrets[0].items[0].key=password,secrets[0].items[0].path=kafka-password"
    (config,) = [v for v in pod_of(helm("--set", flags))["volumes"] if v["name"] == "config"]
    assert {"secret": {"name": "tallyd-kafka", "items": [{"key": "password", "path": "kafka-password"}]}} in \
        config["projected"]["sources"]
    (mount,) = [m for m in pod_of(helm())["containers"][0]["volumeMounts"] if m["name"] == "config"]
    assert mount == {"name": "config", "mountPath": "/etc/tallyd", "readOnly": True}


def test_config_of_the_manifests(rendered, tmp_path):
    """The ConfigMap's files are what check-config takes."""
    data = by_kind(rendered)["ConfigMap"]["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text.replace("/etc/tallyd/", f"{tmp_path}/"))
    (tmp_path / "fleet-secret").write_text("0123456789abcdef0123456789abcdef")
    done = subprocess.run([BINARY, "check-config", tmp_path / "tallyd.yaml"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_chart_mirrors_the_base(tools):
    """The chart and the kustomize base say the same, but for names and labels of Helm's."""
    def plain(objects):
        pod = pod_of(objects)
        return json.loads(re.sub(r"tallyd-[0-9a-z]{10}", "tallyd", json.dumps(
            [pod["containers"][0] | {"image": "", "imagePullPolicy": ""}, pod["volumes"],
             pod["securityContext"], pod["tolerations"], pod["nodeSelector"],
             {k: v for k, v in notes_of(objects).items() if k != "tallyd.io/restart-for"},
             by_kind(objects)["ResourceQuota"]["spec"]])))
    assert plain(helm()) == plain(kustomize("overlays/plaintext"))
    data = [by_kind(o)["ConfigMap"]["data"] for o in (helm(), kustomize("overlays/plaintext"))]
    assert [yaml.safe_load(d["tallyd.yaml"]) for d in data][0] == \
        yaml.safe_load(data[1]["tallyd.yaml"])


@pytest.mark.parametrize("flag, says", [
    ("tier=executable", "tier"), ("config.sinks=null", "sinks"),
    ("image.repository=", "repository"), ("unknown=1", "unknown"), ("config.agent.limts.rows=2048", "limts"),
    ("config.kubernetes.unlisted.kee=a", "kee"), ("updateStrategy.maxUnavailable=abc", "maxUnavailable"),
    ("namespace.create=true", "namespace"),
    ("catalog.keys[0].id=a", "sha256"), ("networkPolicy.from[0].pod=a", "pod"), ("secrets[0].nam=a", "nam"), ("terminationGracePeriodSeconds=soon", "want integer")])
def test_values_schema(tools, flag, says):
    with pytest.raises(HarnessError, match=says):
        helm("--set", flag)


def test_values_schema_has_the_configs(tools):
    """That of deploy/schema, word for word: replace it there, too, when a table changes."""
    config = json.loads((REPO / "deploy/schema/config.schema.json").read_text())
    values = json.loads((CHART / "values.schema.json").read_text())
    assert config.pop("$schema") == values["$schema"]
    assert values["properties"]["config"] == config


def test_what_clusters_add(tools):
    """What the README asks for where the runtime's profiles keep bpf(2) away, and what mesh and scheduler want."""
    objects = helm("--set", "podSecurityContext.seccompProfile.type=Unconfined",
                   "--set", "securityContext.seLinuxOptions.type=spc_t,podLabels.team=x,extraEnv[0].name=A,"
                   "extraEnv[0].value=b,podLabels.app\\.kubernetes\\.io/name=other",
                   "--set-json", 'affinity={"nodeAffinity":{}}')
    pod, labels = pod_of(objects), by_kind(objects)["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {"runAsUser": 0, "seccompProfile": {"type": "Unconfined"}}
    ours = pod_of(helm())["containers"][0]["securityContext"]
    assert container["securityContext"] == {**ours, "seLinuxOptions": {"type": "spc_t"}}
    assert container["env"][1:] == [{"name": "A", "value": "b"}] and container["env"][0]["name"] == "NODE_NAME"
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert labels["team"] == "x" and labels["app.kubernetes.io/name"] == "tallyd"


def test_port_of_the_config(tools):
    """The chart's port, probes and annotations are where the config listens; none where nobody else reaches it."""
    objects = helm("--set", "config.agent.metrics.listen=0.0.0.0:9999")
    (container,) = pod_of(objects)["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 9999}]
    assert container["readinessProbe"]["httpGet"]["port"] == "metrics"
    assert notes_of(objects)["prometheus.io/port"] == "9999"
    for listen in ("off", "127.0.0.1:9464", "[::1]:1", "localhost:1"):
        objects = helm("--set", f"config.agent.metrics.listen={listen}")
        (container,) = pod_of(objects)["containers"]
        assert not [k for k in container if k.endswith("Probe") or k == "ports"]
        assert not [k for k in notes_of(objects) if k.startswith("prometheus")]
    with pytest.raises(HarnessError, match="wants quotes"):
        helm("--set-json", "config.agent.metrics.listen=false")
    assert notes_of(helm("--set-string", r"podAnnotations.prometheus\.io/scrape=false"))["prometheus.io/scrape"] == "false"


def test_what_needs_a_restart_rolls(tools):
    """Of the config: limits, folders, the metrics' address. The rest is reloaded where it runs."""
    def note(*flags):
        return notes_of(helm(*flags))["tallyd.io/restart-for"]

    assert note("--set", "config.agent.window=20s") == note() == note("--set", "config.records.connections=on")
    changed = [note("--set", f"config.agent.{what}") for what in
               ("limits.rows=65536", "state_dir=/x", "pin_dir=/x", "runtime_dir=/x", "metrics.listen=0.0.0.0:1")]
    assert len({note(), *changed}) == 6


def test_no_strategy(tools):
    update = by_kind(helm("--set", "updateStrategy=null"))["DaemonSet"]["spec"]["updateStrategy"]
    assert update["rollingUpdate"]["maxUnavailable"] == "10%"


def test_quota_of_the_priority(tools):
    """It goes with the priority that needs it, and can be left out."""
    assert by_kind(helm())["ResourceQuota"]["spec"]["scopeSelector"]["matchExpressions"][0]["values"] == \
        ["system-node-critical"]
    for flag in ("priorityClassName=mine", "priorityQuota.create=false"):
        assert "ResourceQuota" not in by_kind(helm("--set", flag))


def test_prometheus_operator(tools):
    """Off by default; the rules are those of deploy/prometheus, and the job is the one they ask for. Its CRDs are not here."""
    assert not {"PodMonitor", "PrometheusRule"} & set(by_kind(helm()))
    objects = by_kind(helm("--set", "prometheusOperator.podMonitor=true,prometheusOperator.rules=true,"
                                    "prometheusOperator.labels.release=p"))
    rules = (REPO / "deploy/prometheus/tallyd.rules.yaml").read_text()
    assert (CHART / "files/tallyd.rules.yaml").read_text() == rules
    assert objects["PrometheusRule"]["spec"] == yaml.safe_load(rules)
    monitor, template = objects["PodMonitor"], objects["DaemonSet"]["spec"]["template"]
    assert monitor["metadata"]["labels"]["release"] == objects["PrometheusRule"]["metadata"]["labels"]["release"] == "p"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == template["spec"]["containers"][0]["ports"][0]["name"]
    assert {"targetLabel": "job", "replacement": "tallyd"} in endpoint["relabelings"]


def test_helm_lint(tools):
    run(BIN / "helm", "lint", "--strict", "--kube-version", "1.34.0", CHART)


def test_dockerfile_installs_what_is_linked():
    """The image's libraries are those that the binary needs, and its build packages those of
    scripts/install-deps.sh."""
    text = (REPO / "deploy" / "docker" / "Dockerfile").read_text()
    build, final = text.split("FROM debian:bookworm-slim\n")
    wanted = run(REPO / "scripts" / "install-deps.sh", "--list", "build").split()
    optional = {"libclang-rt-14-dev", "clang"}     # the fuzz targets'; clang is asked for there
    assert set(wanted) - optional <= set(re.findall(r"[\w.+-]+", build))
    needed = set()
    for line in run("ldd", BINARY).splitlines():
        name = line.split()[0]
        direct = name in run("objdump", "-p", BINARY)
        if direct and not re.match(r"(linux-vdso|/lib64/ld|libc\.|libm\.)", name):
            path = os.path.realpath(line.split()[2])
            owner = subprocess.run(["dpkg", "-S", path.replace("/usr/lib", "*/lib")],
                                   capture_output=True, text=True, check=False).stdout
            needed.add(owner.split(":")[0])
    assert needed and needed <= set(re.findall(r"[\w.+-]+", final)), needed


def test_kustomize_overlays_build(tools):
    for folder in sorted((KUSTOMIZE / "overlays").iterdir()):
        assert by_kind(kustomize(folder.relative_to(KUSTOMIZE)))["DaemonSet"]
