# SPDX-License-Identifier: Apache-2.0
"""One node of the cluster: its pods at the API server, their cgroups and servers here.

    sandbox.cgroup/                     what tallyd is told as kubernetes.cgroup_root
      kubepods.slice/...pod<UID>.slice/cri-containerd-<ID>.scope     a pod's server runs here
"""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

from lib.sandbox import HarnessError

METER = {"tallyd.io/meter": "enabled"}
CONTAINER = "cri-containerd-" + "0123456789abcdef" * 4 + ".scope"


def systemd_path(uid, qos="burstable"):
    middle = f"kubepods-{qos}.slice/" if qos else ""
    prefix = f"kubepods-{qos}-" if qos else "kubepods-"
    return f"kubepods.slice/{middle}{prefix}pod{uid.replace('-', '_')}.slice/{CONTAINER}"


class Kubelet:
    """kubelet.py, in a network namespace of the sandbox."""

    def __init__(self, netns):
        prefix = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
        self.popen = subprocess.Popen([*prefix, sys.executable, str(Path(__file__).parent / "kubelet.py")],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lock = threading.Lock()

    def order(self, **order):
        with self.lock:
            self.popen.stdin.write(json.dumps(order) + "\n")
            self.popen.stdin.flush()
            answer = json.loads(self.popen.stdout.readline() or '{"failed": "the kubelet"}')
        if "failed" in answer:
            raise HarnessError(f"{order}: {answer}")
        return answer

    def close(self):
        self.popen.stdin.close()
        self.popen.wait(20)


class Pod:
    def __init__(self, node, name, port, uid, folder):
        self.node, self.name, self.port, self.uid, self.folder = node, name, port, uid, folder
        self.truth = None   # what its server answered, once it was stopped

    @property
    def cgroup(self):
        return self.node.sandbox.cgroup / self.folder

    def run(self, kubelet=None):
        self.cgroup.mkdir(parents=True, exist_ok=True)
        self.kubelet = kubelet or self.node.kubelet
        self.kubelet.order(start=self.name, cgroup=str(self.cgroup), port=self.port)
        return self

    def stop(self):
        """The server ends; the cgroup goes, as the kubelet does it."""
        self.truth = Counter(self.kubelet.order(stop=self.name)["counts"])
        self.cgroup.rmdir()
        self.cgroup.parent.rmdir()
        return self.truth

    def ask(self, key, requests=10, side=False):
        """That many requests over one connection; the answers' statuses."""
        head = f"GET /v1/pods HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n".encode()
        statuses = []
        with self.node.sandbox.socket(client_side=side) as s:
            s.settimeout(20)
            s.connect(("127.0.0.1", self.port))
            for _ in range(requests):
                s.sendall(head)
                data = b""
                while not data.endswith(b"\r\n\r\nabc"):
                    more = s.recv(65536)
                    if not more:
                        raise HarnessError(f"{self.name} hung up")
                    data += more
                statuses.append(int(data.split()[1]))
        return statuses


class Node:
    def __init__(self, cluster, sandbox, name):
        self.cluster, self.sandbox, self.name = cluster, sandbox, name
        self.kubelet = Kubelet(sandbox.netns)
        sandbox.undo.callback(self.kubelet.close)
        self.pods = {}

    def create(self, name, namespace, labels=None, annotations=None, owners=None, port=None,
               shape=systemd_path, node=None, **metadata):
        """A pod at the API server, bound to this node (or another). No cgroup, no server yet."""
        body = {"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": namespace, "labels": labels or {},
                             "annotations": annotations or {},
                             "ownerReferences": owners or [], **metadata},
                "spec": {"nodeName": node or self.name, "terminationGracePeriodSeconds": 0,
                         "automountServiceAccountToken": False,
                         "containers": [{"name": "server", "image": "example/server:1",
                                         "env": [{"name": "SECRET", "value": "hunter2"}]}]}}
        path = f"/api/v1/namespaces/{namespace}/pods"
        uid = self.cluster.call("POST", path, body)["metadata"]["uid"]
        pod = Pod(self, name, port or self.sandbox.port(), uid, shape(uid))
        pod.path = f"{path}/{name}"
        self.pods[name] = pod
        return pod

    def run(self, name, namespace, **more):
        pod = self.create(name, namespace, **more).run()
        self.set_phase(pod, "Running", podIP="10.0.0.1")
        return pod

    def set_phase(self, pod, phase, **more):
        self.cluster.call("PATCH", pod.path + "/status", {"status": {"phase": phase, **more}},
                          content="application/merge-patch+json")

    def patch(self, pod, **metadata):
        self.cluster.call("PATCH", pod.path, {"metadata": metadata},
                          content="application/merge-patch+json")

    def delete(self, pod):
        """As the kubelet lets a pod go: first the processes and the cgroup, then the object."""
        truth = pod.stop()
        self.cluster.call("DELETE", pod.path + "?gracePeriodSeconds=0")
        return truth


def owner(kind, name):
    return [{"apiVersion": "apps/v1" if kind != "Node" else "v1", "kind": kind, "name": name,
             "uid": str(uuid.uuid4()), "controller": True}]


def until(condition, seconds, what):
    """Returns what condition() says once it is true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise HarnessError(f"waited {seconds} s for {what() if callable(what) else what}")
        time.sleep(0.02)
