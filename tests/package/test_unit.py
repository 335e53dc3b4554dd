# SPDX-License-Identifier: Apache-2.0
"""The systemd unit, without a running systemd. What it does is tested by test_system.py."""

import json
import re
import shutil
import subprocess

import pytest

from conftest import ROOT, run

UNIT = ROOT / "deploy/systemd/tallyd.service"
DROP_INS = sorted((ROOT / "deploy/systemd/tallyd.service.d").glob("*.conf"))
EXPOSURE_MAX = 35   # tenths, as systemd-analyze wants it


def options(path):
    """{name: [values]} of a unit file."""
    found = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.M):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path):
    """install(drop-ins...): the unit in a root of its own."""
    def install(*drop_ins):
        folder = tmp_path / "etc/systemd/system"
        (folder / "tallyd.service.d").mkdir(parents=True)
        shutil.copy(UNIT, folder)
        for path in drop_ins:
            shutil.copy(path, folder / "tallyd.service.d")
        return tmp_path
    return install


@pytest.mark.parametrize("drop_ins", [[]] + [[d] for d in DROP_INS],
                         ids=["plain"] + [d.stem for d in DROP_INS])
def test_exposure(installed, drop_ins):
    """`systemd-analyze security` finds at most 3.5, with each drop-in that is shipped, too."""
    root = installed(*drop_ins)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}",
         f"--threshold={EXPOSURE_MAX}", "--no-pager", "tallyd.service"],
        capture_output=True, text=True, check=False)
    verdict = re.search(r"Overall exposure level for tallyd.service: (\S+)", done.stdout)
    assert verdict, done.stdout + done.stderr
    print(f"exposure {verdict.group(1)}")
    assert done.returncode == 0, verdict.group(0)
    assert float(verdict.group(1)) * 10 <= EXPOSURE_MAX


def test_exposure_can_fail(installed):
    """The check above is not blind: the bare unit of a peer scores 9 and more."""
    root = installed()
    path = root / "etc/systemd/system/tallyd.service"
    path.write_text("[Service]\nExecStart=/usr/sbin/tallyd run\n")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}",
         f"--threshold={EXPOSURE_MAX}", "--no-pager", "tallyd.service"],
        capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "exposure level" in done.stdout


def test_nothing_unknown(tree):
    """Every line of the unit means something to systemd: it complains of what it does not know."""
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                           tree / "lib/systemd/system/tallyd.service"],
                          capture_output=True, text=True, check=False)
    rest = [line for line in done.stderr.splitlines()
            if "tallyd.service" in line and "is not executable" not in line]
    assert not rest


def test_capabilities_are_those_of_the_tier(tallyd):
    """What the program says it needs is what the unit leaves it, no more and no less."""
    probe = json.loads(subprocess.run([tallyd, "probe", "-o", "json"], capture_output=True,
                                      text=True, check=False).stdout)
    needed = {item["name"] for item in probe["items"]
              if item["capability"] and item["needed_for"] == "plaintext"}
    assert needed
    assert set(options(UNIT)["CapabilityBoundingSet"][0].split()) == needed


def test_reload_checks_first():
    checks, signals = options(UNIT)["ExecReload"]
    assert checks.startswith("/usr/sbin/tallyd check-config") and not checks.startswith("-")
    assert "HUP $MAINPID" in signals


def test_bpffs_stays_writable():
    assert "ProtectKernelTunables" not in options(UNIT)


def test_exit_codes_that_no_restart_helps(tree):
    """Those of the manual for usage, kernel, capability and configuration."""
    page = run("man", "-l", tree / "usr/share/man/man8/tallyd.8.gz", env={"PATH": "/usr/bin:/bin"})
    known = set(re.findall(r"^ +(\d+)$", page[page.index("EXIT STATUS"):], re.M))
    final = set(options(UNIT)["RestartPreventExitStatus"][0].split())
    assert final == {"64", "71", "77", "78"} and final <= known
