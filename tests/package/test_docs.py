# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there: files, folders, targets, exit codes."""

import re

import pytest

from conftest import ROOT, run

TOP = "bpf|deploy|include|scripts|tests|user"
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("deploy/**/*.md"))
SPEAKING = DOCUMENTS + sorted(ROOT.glob("tests/**/*.py"))


def named_paths(text):
    """Paths of the repository; what has a place for a name in it, or is made, is left out."""
    for path in re.findall(rf"(?<![\w/.$@{{}}-])((?:{TOP})/[\w./*-]+)(?![\w<{{$%(])", text):
        yield path.rstrip(".-")


@pytest.mark.parametrize("document", SPEAKING, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_are_there(document):
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".py":
        text = "".join(re.findall(r'"""(.*?)"""', text, re.S))
    assert not [p for p in named_paths(text) if not list(ROOT.glob(p))]


def test_map_of_the_folders():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = text[text.index("## Where to change what"):text.index("| to | change |")]
    for folder in sorted(ROOT.glob("user/*/")):
        assert f"user/{folder.name}/" in text
    for top in ("deploy", "tests"):
        words = re.search(rf"^    {top}/ +(.*)$", text, re.M).group(1)
        wanted = {p.name for p in (ROOT / top).iterdir() if p.is_dir() and run("git", "ls-files", p, cwd=ROOT)}
        assert wanted <= set(re.findall(r"\w+", words)), top


def test_exit_codes(tree):
    """Those of the program, in the README and in the manual."""
    header = (ROOT / "user/base/exit.h").read_text(encoding="utf-8")
    codes = {c for c in re.findall(r"TALLY_EXIT_\w+ = (\d+)", header) if c != "0"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = readme[readme.index("Exit codes follow sysexits"):].split("\n\n", maxsplit=1)[0]
    assert codes == set(re.findall(r"\b(\d+)\b", text))
    page = run("man", "-l", tree / "usr/share/man/man8/tallyd.8.gz", env={"PATH": "/usr/bin:/bin"})
    assert codes <= set(re.findall(r"^ +(\d+)$", page[page.index("EXIT STATUS"):], re.M))


def test_fuzz_target_of_the_help():
    target = re.search(r"make fuzz T=(\w+)", run("make", "-s", "help", cwd=ROOT)).group(1)
    assert (ROOT / f"tests/fuzz/fuzz_{target}.c").exists()


def test_budgets():
    """Minutes of the README are those of scripts/check.sh, rounded up."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(r"budgets of `check` add up to (\d+) minutes, of `check-long` to (\d+), of `check-hosts` to (\d+)",
                     readme)
    rows = re.findall(r"^\S+ +(\w+) +(\d+) s ", run(ROOT / "scripts/check.sh", "--list"), re.M)
    sums = [sum(int(s) for part, s in rows if part == name) for name in ("check", "long", "hosts")]
    assert [int(m) for m in said.groups()] == [-(-s // 60) for s in sums]
