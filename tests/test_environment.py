"""One environment, said three times: pyproject.toml (ranges), environment.yml (the same, for conda), constraints.txt (the exact set)."""

import re
import subprocess
import sys
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from book._tools import setup_env
from book._tools.notebooks import ROOT

CONDA_NAME = {"torch": "pytorch"}  # the two names that differ
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)


def test_conda_environment_agrees():
    ranges = {
        r.name: r.specifier
        for r in map(Requirement, (d for d in CONDA if isinstance(d, str)))
    }
    assert ranges.pop("pip") == SpecifierSet() and ranges.pop("python") == SpecifierSet(
        PROJECT["requires-python"]
    )
    assert ranges == {
        CONDA_NAME.get(r.name, r.name): r.specifier
        for r in map(Requirement, PROJECT["dependencies"])
    }
    assert [d["pip"] for d in CONDA if isinstance(d, dict)] == [
        ["-e .[book,test]"]
    ]  # the rest stays in pyproject.toml alone


def test_everything_is_pinned_within_its_range():
    extras = PROJECT["optional-dependencies"]
    for r in map(
        Requirement, PROJECT["dependencies"] + extras["book"] + extras["test"]
    ):
        assert PINNED[r.name.lower()] in r.specifier, f"{r}: make lock"
    # What is committed: `make newest` writes another torch, in which the rest of the tests have to hold all the same.
    committed = subprocess.run(
        ["git", "show", "HEAD:constraints.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(setup_env.HELD) <= set(committed.splitlines()), (
        "the stored outputs were made with that torch: make lock"
    )


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    listed = re.findall(r'(?m)^  "([\w.-]+)[^"]*",(.*)$', text)
    assert len(listed) == len(PROJECT["dependencies"]) + sum(
        map(len, PROJECT["optional-dependencies"].values())
    )
    assert not [name for name, rest in listed if not re.match(r"\s+# \w", rest)]


def test_no_address_of_a_package_index():
    for name in (
        "pyproject.toml",
        "environment.yml",
        "constraints.txt",
        "Makefile",
        ".ci/run",
    ):
        assert not re.search(
            r"https?://|\bpypi\.|anaconda\.|index-url",
            (ROOT / name).read_text().replace("https://github.com/", ""),
        ), name


def test_layout_is_held_wherever_a_change_comes_from():
    """Before a commit and in CI, by the ruff that is pinned; and it finds faults."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    before = [hook["entry"] for repo in hooks for hook in repo["hooks"]]
    ci = (ROOT / ".ci" / "run").read_text()
    for verb in ("check", "format"):
        assert any(entry.startswith(f".venv/bin/ruff {verb}") for entry in before)
        assert f"\n.venv/bin/ruff {verb}" in ci
    ruff = [sys.executable, "-m", "ruff"]
    for verb, fault in (("check", "import os\n"), ("format", "x = 'a'\n")):
        looks = [*ruff, verb, *(["--check"] if verb == "format" else [])]
        assert subprocess.run([*looks, "."], cwd=ROOT).returncode == 0
        command = [*looks, "--stdin-filename", "tests/new.py", "-"]
        assert subprocess.run(command, cwd=ROOT, input=fault.encode()).returncode == 1
