# SPDX-License-Identifier: Apache-2.0
"""The Debian package as a file: the same from anywhere, whole, and true to the program."""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT, run


def copy_of_the_tree(to):
    """What git would keep, with other dates."""
    names = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
            os.utime(to / name, (10 ** 9, 10 ** 9))
    return to


def test_reproducible(deb, tmp_path):
    """Built again elsewhere, at another time, by another user's habits: not one byte differs."""
    tree = tmp_path / "a folder of another name and length".replace(" ", "-")
    tree.mkdir()
    env = {**os.environ, "BUILD": "build", "TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8",
           "HOME": str(tmp_path), "USER": "somebody"}
    out = run("sh", "-c", "umask 077 && make -s -j2 deb", cwd=copy_of_the_tree(tree), env=env)
    again = tree / out.strip().splitlines()[-1]
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (deb, again)]
    print(f"{deb.name} {digests[0]}")
    assert deb.name == again.name and digests[0] == digests[1]


def test_lintian(deb):
    done = subprocess.run(["lintian", "--fail-on=error,warning", "--allow-root", deb],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_version_is_in_the_changelog(tree, deb):
    with gzip.open(tree / "usr/share/doc/tallyd/changelog.gz", "rt") as f:
        first = f.readline()
    assert f"({run('dpkg-deb', '-f', deb, 'Version').strip()})" in first


def test_configuration(deb, tree, tmp_path):
    """All of /etc is a conffile; it loads, and meters nothing."""
    etc = {f"/{p.relative_to(tree)}" for p in (tree / "etc").rglob("*") if p.is_file()}
    assert etc == set(run("dpkg-deb", "-I", deb, "conffiles").split())
    text = (tree / "etc/tallyd/tallyd.yaml").read_text()
    path = tmp_path / "tallyd.yaml"
    path.write_text(text.replace("/etc/", f"{tree}/etc/"))
    out = json.loads(run(tree / "usr/sbin/tallyd", "check-config", "-o", "json", path))
    assert out["services"] == [] and out["sinks"]


def test_the_default_file_is_rotated(tree):
    """The file of the default configuration, by renaming: the sink begins a new one."""
    text = (tree / "etc/logrotate.d/tallyd").read_text()
    path = re.search(r"^  - file: \{ path: (\S+) \}$", (tree / "etc/tallyd/tallyd.yaml").read_text(), re.M)
    assert re.search(rf"^{path.group(1)} \{{$", text, re.M)
    words = set(text[text.index("{") + 1:text.index("}")].split())
    assert {"nocopytruncate", "nocreate", "missingok"} <= words and "copytruncate" not in words


def test_nothing_starts_by_itself(deb):
    """No maintainer script starts or enables the unit on a first installation."""
    for name in ("postinst", "prerm", "postrm"):
        text = run("dpkg-deb", "-I", deb, name)
        assert not re.search(r"deb-systemd-invoke (re)?start|systemctl (re)?start", text), name
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("code", [0, 74])
def test_removal_unhooks(deb, tmp_path, code):
    """Wherever the pins are: the program is asked, whatever is below /sys/fs/bpf. Its failure is said, and
    the package can be removed all the same; an upgrade asks nothing."""
    (tmp_path / "prerm").write_text(run("dpkg-deb", "-I", deb, "prerm"))
    for name, last in (("tallyd", f"exit {code}"), ("deb-systemd-invoke", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >> {tmp_path}/calls\n{last}\n")
        (tmp_path / name).chmod(0o755)

    def prerm(*words):
        (tmp_path / "calls").write_text("")
        done = subprocess.run(["sh", tmp_path / "prerm", *words], capture_output=True, text=True, check=True,
                              env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
        return (tmp_path / "calls").read_text().splitlines(), done.stderr

    calls, said = prerm("remove")
    assert calls[-1] == "tallyd stop --detach"
    assert ("may still count" in said) == bool(code)
    assert prerm("upgrade", "9") == ([], "")


def page(tree, name):
    """A man page as text; troff has nothing to say about it."""
    done = subprocess.run(
        ["man", "--warnings", "-l", tree / f"usr/share/man/man{name[-1]}/{name}.gz"],
        capture_output=True, text=True, check=True, env={**os.environ, "MANWIDTH": "500"})
    assert not done.stderr, done.stderr
    return done.stdout


def commands_of(help_text):
    return re.findall(r"^  (\S+) {2,}\S", help_text.split("Commands:")[1], re.M)


def test_manual_has_every_command_and_option(tree, tallyd):
    text = page(tree, "tallyd.8")
    leaves = []
    for name in commands_of(run(tallyd, "--help")):
        out = run(tallyd, name, "--help")
        leaves += [[name, sub] for sub in commands_of(out)] if "Commands:" in out else [[name]]
    assert ["spool", "declare-lost"] in leaves and ["run"] in leaves
    for leaf in leaves:
        assert re.search(rf"^   {' '.join(leaf)}\b", text, re.M), leaf
        for option in re.findall(r"^ .*(--[a-z-]+)", run(tallyd, *leaf, "--help"), re.M):
            assert option in text, (leaf, option)


def names_of(schema):
    """Every key of a JSON schema's properties, at every depth."""
    for name, below in schema.get("properties", {}).items():
        yield name
        yield from names_of(below)
        yield from names_of(below.get("items", {}))


def test_manual_has_every_key(tree, tallyd):
    for option, name in (("--schema", "tallyd.yaml.5"), ("--catalog-schema", "tallyd-keys.yaml.5")):
        text = page(tree, name)
        keys = set(names_of(json.loads(run(tallyd, "check-config", option))))
        assert len(keys) > 5
        assert not [k for k in keys if not re.search(rf"^ +{k}: ", text, re.M)]


def test_chart_takes_every_section(tallyd):
    """What the chart lets stand under `config` is what the program knows."""
    values = json.loads((ROOT / "deploy/helm/tallyd/values.schema.json").read_text())
    schema = json.loads(run(tallyd, "check-config", "--schema"))
    assert set(values["properties"]["config"]["properties"]) == set(schema["properties"])


def complete(tree, *words):
    script = tree / "usr/share/bash-completion/completions/tallyd"
    out = run("bash", "-c", 'source "$1"; shift; COMP_WORDS=(tallyd "$@"); '
              'COMP_CWORD=$#; _tallyd; printf "%s\\n" "${COMPREPLY[@]}"', "bash", script, *words)
    return out.split()


def test_completion(tree):
    assert complete(tree, "sp") == ["spool"]
    assert complete(tree, "spool", "decl") == ["declare-lost"]
    assert complete(tree, "run", "--c") == ["--config"]
    assert "--state-dir" in complete(tree, "spool", "ls", "--")
    assert complete(tree, "help", "st") == ["status", "stop"]


def test_completion_of_values(tree):
    """Behind an option its words, or files, which bash offers where we offer nothing."""
    assert complete(tree, "status", "-o", "") == ["table", "json"]
    assert complete(tree, "replay", "--output", "n") == ["ndjson"]
    assert not complete(tree, "run", "-c", "")
    assert not complete(tree, "replay", "")
    assert not complete(tree, "spool", "show", "")


def test_install_under_another_prefix(tmp_path):
    """The unit starts the program that was installed; manual and completion come with it."""
    run("make", "-s", "-j2", "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/tallyd", cwd=ROOT)
    prefix = tmp_path / "opt/tallyd"
    unit = (prefix / "lib/systemd/system/tallyd.service").read_text()
    programs = re.findall(r"^Exec\w+=(\S*tallyd)\b", unit, re.M)
    assert len(programs) == 2 and all(os.access(f"{tmp_path}{p}", os.X_OK) for p in programs)
    for page in ("man8/tallyd.8", "man5/tallyd.yaml.5", "man5/tallyd-keys.yaml.5"):
        assert (prefix / "share/man" / page).read_text().startswith(".\\\" Generated by scdoc"), page
    assert "complete" in (prefix / "share/bash-completion/completions/tallyd").read_text()


# What only a package has.
OF_A_PACKAGE = {"usr/share/doc/tallyd/copyright", "usr/share/doc/tallyd/changelog.gz",
                "usr/share/lintian/overrides/tallyd"}


def modes_of(root):
    """Mode of every file, and of each folder of ours."""
    return {str(p.relative_to(root)): oct(p.stat().st_mode & 0o777) for p in root.rglob("*")
            if p.is_file() or p.name == "tallyd"}


def test_install_has_what_the_package_has(tree, tmp_path):
    """The same files with the same modes; configuration that is there stays."""
    def install():
        run("make", "-s", "-j2", "install", f"DESTDIR={tmp_path}", cwd=ROOT)
        return modes_of(tmp_path)

    package = {re.sub(r"^lib/", "usr/lib/", re.sub(r"(/man/.*)\.gz$", r"\1", name)): mode
               for name, mode in modes_of(tree).items() if name not in OF_A_PACKAGE}
    made = install()
    assert made.pop("var/lib/tallyd") == "0o750"    # of the package the unit makes it
    for name in ("LICENSE", "LICENSES/Apache-2.0.txt", "LICENSES/GPL-2.0-only.txt"):
        assert made.pop(f"usr/share/doc/tallyd/{name}")     # Debian has them in common-licenses
    assert made == package
    (tmp_path / "etc/tallyd/tallyd.yaml").write_text("# mine\n")
    install()
    assert (tmp_path / "etc/tallyd/tallyd.yaml").read_text() == "# mine\n"


@pytest.mark.parametrize("words", [(), ("BUILD={}",), ("BUILD={}-arm64",)])
def test_another_machine_has_a_folder_of_its_own(tmp_path, words):
    """Objects for arm64 never land among those of this machine, whoever set BUILD."""
    folder = tmp_path / "build"
    words = [w.format(folder) for w in words]
    env = {**os.environ, "BUILD": str(folder)}
    done = subprocess.run(["make", "-n", "ARCH=arm64", "CC=cc-of-another", *words, "all"], cwd=ROOT, env=env,
                          capture_output=True, text=True, check=True)
    made = [w for line in done.stdout.splitlines() if line.startswith("cc-of-another")
            for w in line.split() if w.startswith(str(tmp_path))]
    assert made and all(w.startswith(f"{folder}-arm64/") for w in made), made[:3]
