# SPDX-License-Identifier: Apache-2.0
"""The package under a real systemd: Debian booted in an emulated machine, nginx metered by its unit.

    fetch-system.sh ── image ── boot 1: guest.sh install ── power off ── boot 2: guest.sh purge

Each boot is run once; tests judge what it left. Witnesses: nginx's own access log, the load
generator, and the journal.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter

import pytest

from conftest import BUILD, ROOT, run

sys.path.insert(0, str(ROOT / "tests/e2e"))
from lib import build  # noqa: E402
from lib.ledger import Ledger, read_events  # noqa: E402

pytestmark = pytest.mark.long
KERNEL = "bookworm"
BOOT_S = int(os.environ.get("TALLY_BOOT_S", "900"))    # an emulated machine shares a slow one
VM = ROOT / "tests/vm"
SYSTEM_POWER_OFF = 123      # run.sh: the guest went down before the command ended


def templates(path, requests):
    """The generator's input: requests of two keys and of nobody."""
    with open(path, "wb") as f:
        f.write(struct.pack("<I", len(requests)))
        for target, key in requests:
            header = f"X-API-Key: secret-{key}\r\n" if key else ""
            data = f"GET {target} HTTP/1.1\r\nHost: api\r\n{header}\r\n".encode()
            f.write(struct.pack("<III", 1, 0, len(data)) + data)


@pytest.fixture(scope="session")
def share(deb, tmp_path_factory):
    """What the guest is given."""
    folder = tmp_path_factory.mktemp("share")
    shutil.copy(deb, folder / "one.deb")
    version = run("dpkg-deb", "-f", deb, "Version").strip() + "+next"
    out = run(ROOT / "deploy/debian/build.sh", BUILD, version)
    shutil.move(out.strip(), folder / "next.deb")
    shutil.copy(build.load(), folder / "load")
    templates(folder / "fast", [("/v1/a", "one"), ("/v1/b", "two"), ("/v2/c", "two"),
                                ("/v1/a", None)])
    templates(folder / "slow", [("/slow", "one"), ("/slow", "two")])
    return folder


@pytest.fixture(scope="session")
def image(deb, share):
    """A copy of the installed system, with the libraries that the package asks for."""
    depends = run("dpkg-deb", "-f", deb, "Depends")
    libraries = re.findall(r"([a-z0-9][a-z0-9.+-]+)(?: \([^)]*\))?(?:, |$)", depends.strip())
    cache = run(VM / "fetch-system.sh", KERNEL, "/var/cache/tallyd/systems/package.ext4",
                "nginx-light", *libraries).strip().splitlines()[-1]
    copy = share.parent / f"{share.name}.ext4"
    run("cp", "--sparse=always", cache, copy)
    yield copy
    copy.unlink()


class Boot:
    """One run of guest.sh: its facts, its output, how it ended."""

    def __init__(self, stage, image, share):
        self.share = share
        (share / "facts").unlink(missing_ok=True)
        done = subprocess.run(
            [VM / "run.sh", KERNEL, "--timeout", str(BOOT_S), "--system", image, "--share", share,
             "--", ROOT / "tests/package/guest.sh", stage, share],
            cwd=ROOT, capture_output=True, text=True, check=False)
        self.code, self.words = done.returncode, done.stdout[-3000:] + done.stderr[-6000:]
        self.words += (share / "output").read_text(errors="replace")[-6000:]
        lines = (share / "facts").read_text().splitlines() if (share / "facts").exists() else []
        self.facts = dict((line + " ").split(" ", 1) for line in lines)
        print(f"{stage}: exit {self.code}\n" + "\n".join(lines))
        if (share / "times").exists():
            print("seconds since boot, of processor time, and what was known then:\n"
                  + (share / "times").read_text())

    def __getitem__(self, name):
        assert name in self.facts, f"{name} is not among {self.facts}\n{self.words}"
        return self.facts[name].strip()

    def ledger(self, name):
        return Ledger(read_events(self.share / f"{name}.ndjson"))

    def answers(self, name, service):
        """[(time, key, status, bytes in, bytes out)] of nginx's access log."""
        log = {"api": "nginx"}.get(service, service)
        rows = []
        for line in (self.share / f"{name}.{log}.log").read_text().splitlines():
            msec, key, _, _, status, received, sent = line.split()
            rows.append((float(msec), None if key == "-" else key.replace("secret-", "key_"),
                         int(status), int(received), int(sent)))
        return rows


@pytest.fixture(scope="session")
def first(image, share):
    return Boot("install", image, share)


@pytest.fixture(scope="session")
def second(first, image, share):
    assert first.code == SYSTEM_POWER_OFF and "shutdown" in first.facts, first.words
    return Boot("purge", image, share)


def sums_of(rows):
    requests, received, sent = Counter(), Counter(), Counter()
    for _, key, status, n_in, n_out in rows:
        requests[key, status] += 1
        received[key, status] += n_in
        sent[key, status] += n_out
    return requests, received, sent


def differences(boot, name, service):
    """What nginx answered and what the records say, where that is not the same."""
    log, counted = sums_of(boot.answers(name, service)), (Counter(), Counter(), Counter())
    for d in boot.ledger(name).rows(service):
        if not d["status"]:     # nobody answered: nginx was restarted
            continue
        row = (d["api_key_id"], d["status"])
        for counter, field in zip(counted, ("requests", "request_bytes", "response_bytes")):
            counter[row] += d[field]
    return [f"{row}: answered {a[row]}, counted {b[row]}"
            for a, b in zip(log, counted) for row in sorted(a | b, key=str) if a[row] != b[row]]


# The first boot ----------------------------------------------------------------------------------

def test_install_starts_nothing(first):
    assert first["install"] == "0"
    assert first["active_after_install"] == "inactive"
    assert first["enabled_after_install"] == "disabled"
    assert first["pins_after_install"] == "0"
    assert first["mode_config"] == "640"


def test_starts_and_finds_the_units(first):
    assert (first["enable"], first["active_after_start"]) == ("0", "active")
    assert first["mode_state"] == "750" and first["services_attached"] == "2"


def test_runs_with_what_the_unit_leaves(first):
    """Of the capabilities of the unit the loop keeps two; no new ones by any program."""
    assert int(first["status_CapEff"], 16) == 1 << 12 | 1 << 39    # CAP_NET_ADMIN, CAP_BPF
    unit = (ROOT / "deploy/systemd/tallyd.service").read_text()
    names = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M).group(1).split()
    assert int(first["status_CapBnd"], 16).bit_count() == len(names)
    assert int(first["status_CapAmb"], 16) == 0
    assert first["status_NoNewPrivs"] == "1" and first["status_Seccomp"] == "2"


def test_restart_reload_upgrade_kill(first):
    assert first["restart"] == "0"
    assert first["reload"] == first["reload_repaired"] == "0"
    assert first["reload_of_a_mistake"] != "0"
    assert first["pid_kept_by_reloads"] == "yes"
    assert first["upgrade"] == "0" and first["version_after_upgrade"].endswith("+next")
    assert first["active_after_upgrade"] == "active"
    assert first["pid_changed_by_upgrade"] == "yes" and first["config_kept"] == "1"
    assert first["restarts"] == "1"
    assert first["restart_nginx"] == "0"


def test_priorities_of_the_journal(first):
    """`journalctl -p err` shows what is wrong, and only that."""
    assert int(first["errors_in_journal"]) >= 1
    assert first["notices_among_errors"] == "0"


@pytest.mark.parametrize("service", ["api", "plain"])
def test_nothing_is_lost_or_doubled(first, service):
    """Through a restart, reloads, an upgrade, SIGKILL, and a restart of nginx."""
    answers = first.answers("running", service)
    print(f"{service}: {len(answers)} answers")
    assert len(answers) > 200
    assert not differences(first, "running", service)
    assert not first.ledger("running").audit()


# Shutdown, and the second boot -------------------------------------------------------------------

@pytest.mark.parametrize("service", ["nginx", "plain"])
def test_stops_after_the_services(second, service):
    """The journal of the first boot: tallyd is told to stop when they have stopped."""
    assert float(second["tallyd_stopping"]) >= float(second[f"{service}_stopped"])
    assert float(second["tallyd_stopped"]) >= float(second["tallyd_stopping"])


def test_starts_before_the_services(second):
    assert second["active_after_boot"] == "active" and second["failed_units"] == "0"
    ready = int(second["tallyd_ready_us"])
    assert 0 < ready <= int(second["nginx_begun_us"]) and ready <= int(second["plain_begun_us"])


@pytest.mark.parametrize("service", ["api", "plain"])
def test_last_answers_are_in_the_books(second, service):
    """What a unit answered after it was told to stop: in nginx's log, and in the records."""
    told = float(second["nginx_stopping" if service == "api" else "plain_stopping"])
    late = [a for a in second.answers("booted", service) if a[0] > told]
    print(f"{service}: {len(late)} answers after the order to stop")
    assert late
    assert not differences(second, "booted", service)
    assert not second.ledger("booted").audit()


def test_remove_closes_the_books(second):
    """The programs leave the kernel, what they counted is shipped, the configuration stays."""
    assert second["remove"] == "0" and second["active_after_remove"] == "inactive"
    assert second["pins_after_remove"] == "0" and second["config_after_remove"] == "1"
    assert len(second.answers("final", "api")) >= len(second.answers("booted", "api")) + 40
    assert not differences(second, "final", "api")


def test_purge_leaves_nothing(second):
    assert second["purge"] == "0"
    assert not (second.share / "left").read_text()
    assert second["unit_after_purge"] == "not-found"
    assert second["nginx_still_answers"] == "0"
    assert "complete" in second.facts and second.code == 0
