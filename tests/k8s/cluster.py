# SPDX-License-Identifier: Apache-2.0
"""A control plane of our own: a real etcd and a real kube-apiserver on loopback, built by build.sh.

    etcd  <── http ──  kube-apiserver  <── https, RBAC ──  tallyd (a service account's token)
                        │                              <── the test (system:masters)
                        └─ audit.log: who asked what

Nothing else of Kubernetes runs: pods are scheduled by writing spec.nodeName, and what the kubelet
would do is done by kubelet.py.
"""

import base64
import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import urllib.parse
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from lib.build import BUILD
from lib.sandbox import HarnessError, wait_for

BIN = BUILD / "k8s"
AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
                "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}
SLOW_S = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                             serialization.NoEncryption())


def _certificate(name, key, issuer, issuer_key, is_ca):
    now = datetime.datetime.utcnow()
    builder = (x509.CertificateBuilder()
               .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
               .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
               .public_key(key.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(now - datetime.timedelta(hours=1))
               .not_valid_after(now + datetime.timedelta(days=2))
               .add_extension(x509.BasicConstraints(is_ca, None), critical=True))
    if not is_ca:
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


class ApiError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


class Cluster:
    def __init__(self, folder):
        self.dir = Path(folder)
        self.admin = base64.b16encode(os.urandom(16)).decode()
        self.port, self.etcd_port, self.peer_port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.processes = {}
        self._write_files()

    # Files ----------------------------------------------------------------------------------

    def _write_files(self):
        self.ca, self.audit = self.dir / "ca.crt", self.dir / "audit.log"
        ca_key = ec.generate_private_key(ec.SECP256R1())
        key = ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("test-ca", ca_key, "test-ca", ca_key, True)
        server = _certificate("kube-apiserver", key, "test-ca", ca_key, False)
        for name, data in (("ca.crt", ca.public_bytes(serialization.Encoding.PEM)),
                           ("tls.crt", server.public_bytes(serialization.Encoding.PEM)),
                           ("tls.key", _pem(key)),
                           ("sa.key", _pem(rsa.generate_private_key(65537, 2048))),
                           ("tokens.csv", f"{self.admin},admin,admin,system:masters\n".encode()),
                           ("audit.yaml", json.dumps(AUDIT_POLICY).encode())):
            (self.dir / name).write_bytes(data)

    # Processes ------------------------------------------------------------------------------

    def _spawn(self, name, *flags):
        argv = [str(BIN / name), *flags]
        with open(self.dir / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log,
                                                    stderr=log, cwd=self.dir)

    def _log(self, name):
        return (self.dir / f"{name}.log").read_text(errors="replace")[-3000:]

    def _wait(self, name, ready):
        def attempt():
            if self.processes[name].poll() is not None:
                raise HarnessError(f"{name} ended: {self._log(name)}")
            with contextlib.suppress(OSError, ApiError, http.client.HTTPException):
                return ready()
            return False
        wait_for(attempt, SLOW_S, lambda: f"{name}: {self._log(name)}")

    def start(self):
        client = f"http://127.0.0.1:{self.etcd_port}"
        peer = f"http://127.0.0.1:{self.peer_port}"
        self._spawn("etcd", "--name=e", "--data-dir=etcd", f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=e={peer}",
                    "--unsafe-no-fsync", "--log-level=warn")
        self._wait("etcd", lambda: self.etcd("maintenance/status", {}))
        self.start_api()
        return self

    def start_api(self):
        self._spawn(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1", f"--secure-port={self.port}",
            "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/24", "--tls-cert-file=tls.crt",
            "--tls-private-key-file=tls.key", "--client-ca-file=ca.crt",
            "--token-auth-file=tokens.csv", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-account-key-file=sa.key", "--service-account-signing-key-file=sa.key",
            "--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
            "--audit-policy-file=audit.yaml", "--audit-log-path=audit.log",
            "--audit-log-mode=blocking")
        self._wait("kube-apiserver", lambda: self.raw("GET", "/readyz") == b"ok")

    def stop_api(self):
        self._stop("kube-apiserver")

    def _stop(self, name):
        process = self.processes.pop(name, None)
        if not process:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def close(self):
        self._stop("kube-apiserver")
        self._stop("etcd")

    # Requests -------------------------------------------------------------------------------

    def etcd(self, path, body):
        """etcd's own JSON gateway; for what only an operator of etcd does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=20)
        connection.request("POST", "/v3/" + path, json.dumps(body))
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise ApiError(response.status, data)
        return json.loads(data)

    def raw(self, method, path, body=None, content="application/json", token=None):
        context = ssl.create_default_context(cafile=str(self.ca))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context,
                                                 timeout=60)
        headers = {"Authorization": f"Bearer {token or self.admin}", "Content-Type": content}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if response.status >= 400:
            raise ApiError(response.status, data.decode(errors="replace"))
        return data

    def call(self, method, path, body=None, **more):
        return json.loads(self.raw(method, path, body, **more))

    # Objects --------------------------------------------------------------------------------

    def apply(self, manifest, dry_run=False):
        """Server-side apply of one object, with full validation of its fields."""
        query = {"fieldManager": "test", "fieldValidation": "Strict", "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        return self.call("PATCH", f"{self.path_of(manifest)}?{urllib.parse.urlencode(query)}",
                         manifest, content="application/apply-patch+yaml")

    def path_of(self, manifest):
        group, name = manifest["apiVersion"], manifest["metadata"]["name"]
        base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        resource = next(r for r in self.call("GET", base)["resources"]
                        if r["kind"] == manifest["kind"] and "/" not in r["name"])
        if resource["namespaced"]:
            base += f"/namespaces/{manifest['metadata'].get('namespace', 'default')}"
        return f"{base}/{resource['name']}/{name}"

    def namespace(self, name):
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def token(self, namespace, account, seconds=3600):
        """A token as the kubelet gets it for a pod."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "spec": {"expirationSeconds": seconds}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        return self.call("POST", path, body)["status"]["token"]

    def asked_by(self, user):
        """{(verb, resource): {status codes}} of a user, from the audit log."""
        asked = {}
        for line in self.audit.read_text().splitlines():
            event = json.loads(line)
            if event["user"].get("username") != user:
                continue
            target = event.get("objectRef", {}).get("resource", event["requestURI"])
            codes = asked.setdefault((event["verb"], target), set())
            codes.add(event.get("responseStatus", {}).get("code"))
        return asked
