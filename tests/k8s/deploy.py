# SPDX-License-Identifier: Apache-2.0
"""What deploy/ renders to, by the real tools."""

import subprocess

import yaml

from cluster import BIN
from lib.build import REPO
from lib.sandbox import HarnessError

KUSTOMIZE = REPO / "deploy" / "kubernetes"
CHART = REPO / "deploy" / "helm" / "tallyd"


def run(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HarnessError(f"{argv[0]}: {done.stderr}")
    return done.stdout


def objects(text):
    return [o for o in yaml.safe_load_all(text) if o]


def kustomize(folder):
    return objects(run(BIN / "kustomize", "build", KUSTOMIZE / folder))


def helm(*flags):
    return objects(run(BIN / "helm", "template", "tallyd", CHART, "--namespace", "tallyd-system",
                       "--kube-version", "1.34.0",
                       *flags))
