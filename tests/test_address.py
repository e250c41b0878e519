"""The book's address stands in one place; notebooks and site follow it."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml

from book._tools import notebooks
from book._tools.set_address import host_says, of_host, set_address

URL = "https://example.org/someone/book"


@pytest.fixture
def tree(tmp_path):
    """A small tree with one notebook that has run."""
    (tmp_path / "book").mkdir()
    shutil.copy(notebooks.ROOT / "pyproject.toml", tmp_path)
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# One"),
            nbformat.v4.new_code_cell("1 + 1", execution_count=2),
        ]
    )
    notebooks.put_setup_cell(nb, "")
    nb.cells[0].execution_count = 1
    notebooks.write(tmp_path / "book" / "01_one.ipynb", nb)
    set_address("", tmp_path)
    return tmp_path


def test_set_and_unset(tree):
    path = tree / "book" / "01_one.ipynb"
    before = path.read_bytes(), (tree / "pyproject.toml").read_bytes()
    set_address(URL, tree)
    set_address(URL, tree)  # twice is once
    cells = notebooks.read(path).cells
    assert notebooks.address(tree) == URL
    assert (
        len(cells) == 3
        and f'"{URL}"' in cells[0].source
        and cells[0].execution_count == 1
    )
    set_address("", tree)
    assert notebooks.address(tree) == "" and before == (
        path.read_bytes(),
        (tree / "pyproject.toml").read_bytes(),
    )


GITHUB = {"GITHUB_REPOSITORY": "Someone/a-book"}
WORKFLOW = notebooks.ROOT / ".github" / "workflows" / "book.yml"


def test_the_host_says_where_it_is(tree):
    path = tree / "book" / "01_one.ipynb"
    assert "stays unset" in host_says(tree, {}) and not notebooks.address(tree)
    assert host_says(tree, GITHUB) == "the address is https://github.com/Someone/a-book"
    assert '"https://github.com/Someone/a-book"' in notebooks.read(path).cells[0].source
    set_address(URL, tree)
    assert URL in host_says(tree, GITHUB) and notebooks.address(tree) == URL, (
        "one set by hand stays"
    )
    other = GITHUB | {"GITHUB_SERVER_URL": "https://git.example.org"}
    assert of_host(other) == "https://git.example.org/Someone/a-book"
    assert of_host({"CI_PROJECT_URL": URL}) == URL and of_host({}) == ""


def steps() -> list[str]:
    build = yaml.safe_load(WORKFLOW.read_text())["jobs"]["build"]
    return [step.get("run", "") for step in build["steps"]]


def test_the_workflow_sets_the_address_before_it_builds():
    order = [
        next(i for i, run in enumerate(steps()) if words in run)
        for words in ("make setup", "set_address --host", "git push", "make book")
    ]
    assert order == sorted(order)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        [
            "git",
            "-C",
            str(folder),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
            *words,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_workflow_puts_notebooks_with_their_address_on_a_branch(tree):
    """Its own lines, run on a copy with a repository beside it in the place of the host's."""
    origin, temp = tree / "origin.git", tree / "temp"
    (tree / "book" / "figures.mplstyle").write_text("figure.dpi: 100")
    temp.mkdir()
    git(tree, "init", "-q", "--bare", str(origin))
    git(tree, "init", "-q")
    git(tree, "add", "book", "pyproject.toml")
    git(tree, "commit", "-q", "-m", "one")
    git(tree, "remote", "add", "origin", str(origin))
    before = git(tree, "status", "--short", "book")
    host_says(tree, GITHUB)
    (push,) = [run for run in steps() if "git push" in run]
    for _ in range(2):  # a second push replaces the first
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", push],
            cwd=tree,
            check=True,
            env=os.environ | {"RUNNER_TEMP": str(temp), "GITHUB_SHA": "0" * 40},
        )
    files = git(origin, "ls-tree", "-r", "--name-only", "colab").split()
    assert files == ["book/01_one.ipynb", "book/figures.mplstyle"]
    published = git(origin, "show", "colab:book/01_one.ipynb")
    assert "https://github.com/Someone/a-book" in published
    assert git(origin, "rev-list", "--count", "colab").strip() == "1"
    assert before == "" and git(tree, "diff", "--cached", "--name-only") == ""


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Run the set-up cell as Colab would, with a folder of ours as its /content; what it
    gives pip is kept in `.installed`, and not installed."""
    right, installed = subprocess.run, []

    def run(command, **kwargs):
        if "pip" in command:
            installed.append(command[command.index("install") + 1 :])
            return None
        return right(command, **kwargs)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    empty = nbformat.v4.new_notebook()

    def cell(url):
        source = notebooks.setup_source(empty, url)
        exec(source.replace("/content", str(tmp_path / "content")), {})

    cell.installed = installed
    return cell


def test_on_colab_without_an_address_it_says_what_to_do(colab):
    with pytest.raises(
        AssertionError, match="does not know its address.*run this cell again"
    ):
        colab("")


def test_on_colab_it_fetches_the_book_once(colab, tmp_path):
    origin = tmp_path / "origin"
    (origin / "book").mkdir(parents=True)
    (origin / "book" / "here.txt").write_text("here")
    git = [
        "git",
        "-C",
        str(origin),
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
    ]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    colab(origin.as_uri())
    assert Path("here.txt").read_text() == "here" and sys.path[0] == str(
        tmp_path / "content" / "ddpm-book"
    )
    colab(origin.as_uri())  # a second run of the cell finds the book there
    assert Path(os.getcwd()).name == "book"
    home = str(tmp_path / "content" / "ddpm-book")  # so that ddpm is a command there
    assert colab.installed == 2 * [["--quiet", "-e", home]]


def test_elsewhere_it_does_nothing():
    before = os.getcwd(), sys.path[:]
    exec(notebooks.setup_source(nbformat.v4.new_notebook(), URL), {})
    assert before == (os.getcwd(), sys.path)


def test_a_notebook_that_wants_what_colab_has_not_installs_it_there_and_only_there(
    colab, monkeypatch, tmp_path
):
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import ddpm_core as ddpm\nfrom ddpm_core import codec"
            )
        ]
    )
    plain = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("from ddpm_core import codec"),
            nbformat.v4.new_code_cell("1"),
        ]
    )
    assert "constriction" not in notebooks.setup_source(plain, URL)
    ran = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **kwargs: ran.append(command)
    )
    source = notebooks.setup_source(nb, URL).replace("/content", str(tmp_path))
    (tmp_path / "ddpm-book" / "book").mkdir(parents=True)
    exec(source, {})
    home = str(tmp_path / "ddpm-book")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    assert ran == [[*pip, "-e", home, "constriction"]]
    monkeypatch.delitem(sys.modules, "google.colab")
    exec(source, {})
    assert len(ran) == 1
