# SPDX-License-Identifier: Apache-2.0
"""Every example loads; every mistake is told with its place and what was meant."""

import subprocess
from pathlib import Path

import pytest

from lib.tallyd import BINARY

EXAMPLES = sorted((Path(__file__).parents[2] / "deploy/examples").glob("*.yaml"))
GOOD = """\
services:
  - name: geo-api
    match: { ports: [8080] }
    key: [ { header: X-API-Key } ]
    tainted: owner
    routes:
      - { match: "/v1/**" }
sinks:
  - stdout: {}
"""
# what is replaced, by what, what is said
MISTAKES = (
    ("ports:", "port:", ':3:14: services[0].match.port: unknown key; did you mean "ports"?'),
    ("8080", "80800", ":3:22: services[0].match.ports: must be a port from 1 to 65535"),
    ("header:", "headers:", ':4:14: services[0].key[0].headers: unknown key; did you mean "header"?'),
    ('"/v1/', '"v1/', ":7:9: services[0].routes[0].match: a template begins with /"),
    ("/v1/**", "/v1/**/x", ":7:9: services[0].routes[0].match: ** must be the last segment"),
    ("stdout", "sdtout", ':9:5: sinks[0].sdtout: unknown key; did you mean "stdout"?'),
    ("owner", "ownr", ":5:14: services[0].tainted: must be one of unattributed, owner"),
    ("[8080]", "all", ":3:12: services[0].match: ports: all needs"),
    ("services:", "agent: {window: 7s}\nservices:", ":1:17: agent.window: must be whole seconds"),
    ("services:", "agent: {metrics: {listen: 9464}}\nservices:", ":1:18: agent.metrics.listen: must be"),
    ("services:", "servises:", ':1:1: servises: unknown key; did you mean "services"?'),
    ("  - name", "\t- name", ":2:1: not YAML: found character that cannot start any token (a tab?"),
    ("stdout: {}", "kafka: {broker: k}", 'kafka.broker: unknown key; did you mean "brokers"?'),
)


def check(path):
    return subprocess.run([BINARY, "check-config", path], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p.name != "keys.yaml"], ids=lambda p: p.stem)
def test_example(path, tmp_path):
    """As on a host that has the files it names."""
    (tmp_path / "keys.yaml").write_bytes((path.parent / "keys.yaml").read_bytes())
    for name in ("fleet-secret", "kafka-password"):
        (tmp_path / name).write_text("a secret of the fleet\n", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    config = tmp_path / path.name
    config.write_text(path.read_text(encoding="utf-8").replace("/etc/tallyd", str(tmp_path)),
                      encoding="utf-8")
    done = check(config)
    assert done.returncode == 0 and done.stdout.endswith("good\n"), done.stderr


@pytest.mark.parametrize("old, new, said", MISTAKES, ids=[m[1].strip() for m in MISTAKES])
def test_mistake(old, new, said, tmp_path):
    config = tmp_path / "tallyd.yaml"
    config.write_text(GOOD, encoding="utf-8")
    assert check(config).returncode == 0
    assert old in GOOD
    config.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    done = check(config)
    assert done.returncode == 78
    assert said in done.stderr, done.stderr


# How many routes of a form fit: the README says so.
FORMS = {501: lambda i: f"/g{i % 9}/leaf{i}", 254: lambda i: f"/v1/name{i}/{{id}}",
         60: lambda i: f"/v1/{{id}}/x{i}" if i % 2 else f"/v1/name{i}/x"}


@pytest.mark.parametrize("fit", FORMS)
def test_routes_that_fit(fit, tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f" {fit} " in readme[readme.index("must also fit 511 states"):][:400]
    config = tmp_path / "tallyd.yaml"
    for n, code in (fit, 0), (fit + 1, 78):
        routes = "".join(f"      - {{ match: \"{FORMS[fit](i)}\" }}\n" for i in range(n))
        config.write_text(GOOD.replace('      - { match: "/v1/**" }\n', routes), encoding="utf-8")
        done = check(config)
        assert done.returncode == code, done.stderr
    assert f"services[0].routes[{fit}].match: one route too many" in done.stderr
