# SPDX-License-Identifier: Apache-2.0
"""The package as built from this tree, and unpacked."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(ROOT, os.environ.get("BUILD", "build"))


def run(*argv, **kw):
    """Output of a command that must succeed."""
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, **kw)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def deb():
    """Path of the .deb of this tree."""
    out = run("make", "-s", "-j2", "deb", cwd=ROOT)
    return ROOT / out.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def tree(deb, tmp_path_factory):
    """Its files."""
    folder = tmp_path_factory.mktemp("tree")
    run("dpkg-deb", "-x", deb, folder)
    return folder


@pytest.fixture(scope="session")
def tallyd(tree):
    return tree / "usr/sbin/tallyd"
