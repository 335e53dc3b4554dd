# SPDX-License-Identifier: Apache-2.0
"""Builds the harness's own programs, once, when their source is newer."""

import os
import subprocess
from pathlib import Path

from .sandbox import HarnessError, need_program

E2E = Path(__file__).parents[1]
REPO = E2E.parents[1]
BUILD = REPO / os.environ.get("BUILD", "build")
OUT = BUILD / "e2e"


def _build(target, sources, argv, cwd=None, env=None):
    newest = max(s.stat().st_mtime for s in sources)
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    OUT.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([str(a) for a in argv], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **(env or {})}, check=False)
    if done.returncode != 0:
        raise HarnessError(f"building {target.name}:\n{done.stderr}")
    return target


def go_api():
    folder, target = E2E / "servers" / "go_api", OUT / "go_api"
    return _build(target, sorted(folder.iterdir()),
                  [need_program("go"), "build", "-o", target, "."], cwd=folder,
                  env={"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod", "GOPROXY": "off",
                       "GOTOOLCHAIN": "local"})


def _program(name):
    source, target = E2E / name / f"{name}.c", OUT / name
    return _build(target, [source],
                  [os.environ.get("CC", "cc"), "-O2", "-g", "-Wall", "-Wextra", "-Werror",
                   "-Wno-missing-field-initializers", "-D_GNU_SOURCE", "-std=gnu11", "-o", target,
                   source])


def sock_ops_flags():
    """A program of sock_ops, to be loaded by bpftool."""
    source, target = E2E / "flags" / "flags.bpf.c", OUT / "flags.bpf.o"
    return _build(target, [source],
                  [need_program("clang"), "-g", "-O2", "-target", "bpf", "-mcpu=v3",
                   f"-I/usr/include/{os.uname().machine}-linux-gnu", "-c", source, "-o", target])


def load():
    return _program("load")


def inject():
    return _program("inject")
